//! Cursors of the session that outlive their transaction: PostgreSQL keeps the rows and gives them out without running
//! any query, so that no hook sees it. What stops every way to them (FETCH, plpgsql, cursor_to_xml, the protocol's
//! Execute, a procedure's loop) is the cursor's own status.

use super::query::latest;
use pgrx::prelude::*;
use std::ffi::{CStr, CString};

/// The creator of what is held over from an earlier transaction.
const NO_SUBTRANSACTION: pg_sys::SubTransactionId = 0;

/// A cursor that is held over: found again by its name, and told by its time of birth from a later one of that name.
#[derive(Clone)]
pub struct Held {
    name: CString,
    born: pg_sys::TimestampTz,
}

impl Held {
    /// The cursor of this name, if it is held over from the transaction that opened it.
    pub fn find(name: &CStr) -> Option<Held> {
        // SAFETY: the portal is looked up now and read at once.
        unsafe {
            let portal = pg_sys::GetPortalByName(name.as_ptr());
            let held = !portal.is_null()
                && !(*portal).holdStore.is_null()
                && (*portal).createSubid == NO_SUBTRANSACTION;
            held.then(|| Held {
                name: name.into(),
                born: (*portal).creation_time,
            })
        }
    }

    pub fn is_named(&self, name: &CStr) -> bool {
        self.name.as_c_str() == name
    }

    fn portal(&self) -> Option<pg_sys::Portal> {
        Held::find(&self.name).filter(|found| found.born == self.born)?;
        // SAFETY: it was found a moment ago.
        Some(unsafe { pg_sys::GetPortalByName(self.name.as_ptr()) })
    }

    pub fn is_there(&self) -> bool {
        self.portal().is_some()
    }

    /// No more rows until it is opened again; true where it could be fetched from before. Allocates nothing that can
    /// fail, since it is called while a setting is assigned.
    pub fn shut(&self) -> bool {
        self.turn(
            pg_sys::PortalStatus::PORTAL_READY,
            pg_sys::PortalStatus::PORTAL_FAILED,
        )
    }

    pub fn open(&self) {
        self.turn(
            pg_sys::PortalStatus::PORTAL_FAILED,
            pg_sys::PortalStatus::PORTAL_READY,
        );
    }

    fn turn(&self, from: pg_sys::PortalStatus::Type, to: pg_sys::PortalStatus::Type) -> bool {
        // SAFETY: the portal was looked up now; it has no executor and no resources any more that its status tells of.
        self.portal().is_some_and(|portal| unsafe {
            let turns = (*portal).status == from;
            if turns {
                (*portal).status = to;
            }
            turns
        })
    }

    /// Throws its rows away.
    pub fn empty(&self) {
        if let Some(portal) = self.portal() {
            // SAFETY: a held portal has a store, and nobody is reading it while other code runs.
            unsafe { pg_sys::tuplestore_clear((*portal).holdStore) }
        }
    }

    pub fn close(&self) {
        if self.is_there() {
            close(&self.name);
        }
    }
}

/// The names of the cursors WITH HOLD that there are. Asked before commit, where no statement's snapshot is left.
pub fn holdable() -> Vec<CString> {
    latest(
        "SELECT name FROM pg_catalog.pg_cursor() WHERE is_holdable",
        &[],
        |row| row.get::<String>(1),
    )
    .into_iter()
    .flatten()
    .filter_map(|name| CString::new(name).ok())
    .collect()
}

/// Closes a cursor, if it is there and nothing is using it; a procedure's loop is left to the procedure.
pub fn close(name: &CStr) {
    // SAFETY: the portal is looked up now.
    unsafe {
        let portal = pg_sys::SPI_cursor_find(name.as_ptr());
        if !portal.is_null()
            && !(*portal).portalPinned
            && (*portal).status != pg_sys::PortalStatus::PORTAL_ACTIVE
        {
            pg_sys::SPI_cursor_close(portal);
        }
    }
}

/// The nesting level at which the cursor that is running was opened; None where no cursor is.
pub fn level_of_running() -> Option<i32> {
    // SAFETY: the active portal is valid while it runs; its name is NUL-terminated, and empty for an ordinary statement.
    unsafe {
        let portal = pg_sys::ActivePortal;
        (!portal.is_null() && *(*portal).name != 0).then(|| (*portal).createLevel)
    }
}

/// Whether a cursor of PostgreSQL's own naming is starting, as a procedural language opens them for a loop.
///
/// SAFETY: in ExecutorStart.
#[inline]
pub unsafe fn is_unnamed_starting() -> bool {
    // SAFETY: the active portal is valid while it starts.
    unsafe {
        let portal = pg_sys::ActivePortal;
        !portal.is_null() && (*(*portal).name) as u8 == b'<' && (*portal).queryDesc.is_null()
    }
}

/// The name of the cursor for which this query is starting, where a procedure that may commit opens it: a loop that
/// goes on after COMMIT has its rows held.
///
/// SAFETY: `query` is about to start.
pub unsafe fn starting_in_procedure(query: *const pg_sys::QueryDesc) -> Option<CString> {
    // SAFETY: the active portal is valid while it starts, its list of statements too.
    unsafe {
        if !is_unnamed_starting() {
            return None;
        }
        let portal = pg_sys::ActivePortal;
        let statements = (*portal).stmts;
        let its_own = !statements.is_null()
            && (*statements).length == 1
            && (*(*statements).elements).ptr_value == (*query).plannedstmt.cast();
        (its_own && pg_sys::SPI_inside_nonatomic_context())
            .then(|| CStr::from_ptr((*portal).name).into())
    }
}
