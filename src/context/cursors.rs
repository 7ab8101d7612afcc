//! Rows that outlive the transaction which read them (attack A3): a cursor WITH HOLD, and the loop of a procedure that
//! commits. They belong to the organization and user they were read for. Where the context ends with the transaction a
//! cursor is closed with it; elsewhere it is shut while no context is in effect, and loses its rows as soon as another
//! one is.

use super::authority::Id;
use super::standing::{self, Reason, Standing};
use super::transaction::{self, Pin};
use crate::pg::cursor::{self, Held};
use crate::pg::local::Backend;
use crate::pg::{self, error::server_log, fail};
use pgrx::prelude::*;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString};

struct Kept {
    cursor: Held,
    org: Id,
    actor: Option<Id>,
    /// Ends with its CALL, which may enter its organization anew after each COMMIT: it goes on where no context is yet.
    in_loop: bool,
    /// By us; one that PostgreSQL itself gave up stays so.
    shut: bool,
    lost: bool,
}

impl Kept {
    fn shut(&mut self) {
        self.shut |= self.cursor.shut();
    }
}

/// Declared WITH HOLD in this transaction.
static DECLARED: Backend<RefCell<Vec<CString>>> = Backend::new(RefCell::new(Vec::new()));
/// Opened in this transaction by a procedure that may commit, over a protected table.
static LOOPS: Backend<RefCell<Vec<CString>>> = Backend::new(RefCell::new(Vec::new()));
static KEPT: Backend<RefCell<Vec<Kept>>> = Backend::new(RefCell::new(Vec::new()));
static ASKING: Backend<Cell<bool>> = Backend::new(Cell::new(false));

/// Whether the session holds any such rows.
#[inline]
pub fn any() -> bool {
    KEPT.with_borrow(|kept| !kept.is_empty())
}

/// A cursor of this name is declared, WITH HOLD or without.
pub fn declared(name: &CStr, hold: bool) {
    let lost = KEPT.with_borrow(|kept| {
        let mut lost = kept.iter().filter(|k| k.lost && k.cursor.is_named(name));
        lost.next().map(|k| k.cursor.clone())
    });
    if let Some(cursor) = lost {
        cursor.close();
    }
    closed(name);
    if hold {
        DECLARED.with_borrow_mut(|d| d.push(name.into()));
    }
}

pub fn closed(name: &CStr) {
    KEPT.with_borrow_mut(|kept| kept.retain(|k| !k.cursor.is_named(name)));
    DECLARED.with_borrow_mut(|d| d.retain(|one| one.as_c_str() != name));
}

/// A procedure that may commit opens a cursor over protected tables.
pub fn opened_in_procedure(name: CString) {
    LOOPS.with_borrow_mut(|loops| loops.push(name));
}

/// Before commit: what was declared outlives the transaction, and so does whose rows it holds; but where the context
/// ends with the transaction, so does the cursor.
pub fn before_commit() {
    let lost: Vec<_> =
        KEPT.with_borrow_mut(|kept| kept.extract_if(.., |k| k.lost && !k.in_loop).collect());
    lost.iter().for_each(|k| k.cursor.close());
    let mut names = DECLARED.take();
    let Some(pin) = transaction::pinned() else {
        return;
    };
    // The DECLARE that loaded the library passed no hook of ours.
    if transaction::loaded_here() {
        names = cursor::holdable();
    }
    let has_loops = LOOPS.with_borrow(|loops| !loops.is_empty());
    if names.is_empty() && !has_loops {
        return;
    }
    let now = standing::standing();
    if now.principal.transaction_scoped() {
        names.drain(..).for_each(|name| cursor::close(&name));
    }
    keep(&names, pin, false);
    keep_loops(pin);
    settle(&now);
}

fn keep(names: &[CString], pin: Pin, in_loop: bool) {
    KEPT.with_borrow_mut(|kept| {
        for cursor in names.iter().filter_map(|name| Held::find(name)) {
            kept.push(Kept {
                cursor,
                org: pin.org,
                actor: pin.actor,
                in_loop,
                shut: false,
                lost: false,
            });
        }
    });
}

/// COMMIT and ROLLBACK in a procedure have the rows of its loops held before they end the transaction.
fn keep_loops(pin: Pin) {
    keep(&LOOPS.take(), pin, true);
}

pub fn at_transaction_end() {
    if let Some(pin) = transaction::pinned() {
        keep_loops(pin);
    }
    DECLARED.take();
    LOOPS.take();
}

/// A setting of the context gets another value: nothing is read until it is known whose context that is. From an assign
/// hook, so no catalog access and no error.
pub fn on_change(unset: bool) {
    if let Ok(mut kept) = KEPT.try_borrow_mut() {
        let touched = kept.iter_mut().filter(|k| !(unset && k.in_loop));
        touched.for_each(Kept::shut);
    }
}

/// At the start of a statement.
pub fn at_statement() {
    if !any() {
        return;
    }
    let any = KEPT.with_borrow_mut(|kept| {
        kept.retain(|k| k.cursor.is_there());
        !kept.is_empty()
    });
    // Finding out whose context this is runs statements too.
    if any && !ASKING.replace(true) {
        let _asked = Asked;
        standing::standing();
    }
}

struct Asked;

impl Drop for Asked {
    fn drop(&mut self) {
        ASKING.set(false);
    }
}

/// Opens the cursors of this context and takes the rows away from those of another.
pub fn settle(now: &Standing) {
    // A definer function's moment of weakness is no other context.
    if now.reason == Some(Reason::Lent) {
        return;
    }
    KEPT.with_borrow_mut(|kept| {
        for k in kept.iter_mut().filter(|k| !k.lost) {
            match now.org_id() {
                Some(org) if org == k.org && now.actor() == k.actor => {
                    if std::mem::take(&mut k.shut) {
                        k.cursor.open();
                    }
                }
                Some(_) => {
                    k.shut();
                    k.cursor.empty();
                    k.lost = true;
                }
                None if k.in_loop => {}
                None => k.shut(),
            }
        }
    });
}

/// Says why a FETCH or MOVE gets nothing in another context than the cursor was read in.
pub fn check(name: &CStr) -> pg::Result<()> {
    standing::standing();
    if !KEPT.with_borrow(|kept| kept.iter().any(|k| k.shut && k.cursor.is_named(name))) {
        return Ok(());
    }
    let message = "permission denied: the cursor was opened in another context";
    server_log(
        message,
        "A cursor WITH HOLD was fetched from by another organization or user, or without one.",
    );
    Err(
        fail(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
            .set_detail(
                "A cursor WITH HOLD keeps the rows of the organization and user it was opened for.",
            )
            .set_hint("CLOSE the cursor, and open it again in this context."),
    )
}
