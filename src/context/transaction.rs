//! What belongs to a transaction and not to a setting: its number, and the pin. A check hook could not keep the pin:
//! RESET, RESET ALL and set_config(.., NULL) restore the old value without calling it.

use super::{standing, token};
use crate::pg::local::Backend;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use std::cell::Cell;

/// The organization and user (or service account) that the first protected statement of the transaction had, and at which nesting level.
#[derive(Clone, Copy)]
pub struct Pin {
    pub org: [u8; 16],
    /// A user, or a service account.
    pub actor: Option<[u8; 16]>,
    level: i32,
}

static SERIAL: Backend<Cell<u64>> = Backend::new(Cell::new(1));
static PIN: Backend<Cell<Option<Pin>>> = Backend::new(Cell::new(None));

/// Whether the library was loaded in this very transaction, so that its first statement passed no hook.
pub fn loaded_here() -> bool {
    SERIAL.get() == 1
}

/// The number of the transaction in this backend, from 1; 0 is never one.
pub fn serial() -> u64 {
    SERIAL.get()
}

pub fn pinned() -> Option<Pin> {
    PIN.get()
}

/// Pins the transaction, or makes the same pin outlast more savepoints. What a cursor reads lasts as long as the cursor,
/// which ROLLBACK TO a savepoint after it leaves open (attack H-3).
#[inline]
pub fn pin(org: [u8; 16], actor: Option<[u8; 16]>) {
    let pin = PIN.get();
    if pin.is_some_and(|p| p.level <= 1 || (p.org, p.actor) != (org, actor)) {
        return;
    }
    let now = crate::pg::transaction::nest_level();
    let level = crate::pg::cursor::level_of_running().map_or(now, |opened| opened.min(now));
    if pin.is_none_or(|p| level < p.level) {
        PIN.set(Some(Pin { org, actor, level }));
    }
}

/// SAFETY: called by PostgreSQL at transaction ends; touches memory of ours only, except before commit, where raising
/// an error is allowed.
#[pg_guard]
unsafe extern "C-unwind" fn at_end(event: pg_sys::XactEvent::Type, _arg: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::*;
    match event {
        XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE => {
            super::seal::before_commit();
            super::cursors::before_commit();
            crate::isolation::before_commit();
            crate::usage::quota::flush().unwrap_or_report();
            crate::audit::flush();
        }
        XACT_EVENT_COMMIT
        | XACT_EVENT_ABORT
        | XACT_EVENT_PREPARE
        | XACT_EVENT_PARALLEL_COMMIT
        | XACT_EVENT_PARALLEL_ABORT => {
            super::cursors::at_transaction_end();
            SERIAL.set(SERIAL.get() + 1);
            PIN.set(None);
            super::seal::at_transaction_end();
            super::migration::at_transaction_end();
            token::at_transaction_end(matches!(event, XACT_EVENT_COMMIT | XACT_EVENT_PREPARE));
            crate::pg::error::discreet_no_more();
            standing::transaction_ended(true);
            crate::hooks::cascade::abandon(0);
            crate::isolation::at_transaction_end();
            crate::environment::at_transaction_end();
            crate::audit::at_transaction_end();
            crate::usage::quota::at_transaction_end();
        }
        _ => {}
    }
}

/// SAFETY: as `at_end`.
#[pg_guard]
unsafe extern "C-unwind" fn at_subtransaction_end(
    event: pg_sys::SubXactEvent::Type,
    _mine: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut std::ffi::c_void,
) {
    use pg_sys::SubXactEvent::*;
    let level = crate::pg::transaction::nest_level();
    match event {
        SUBXACT_EVENT_ABORT_SUB => {
            if PIN.get().is_some_and(|p| p.level >= level) {
                PIN.set(None);
            }
            token::at_subtransaction_abort(level);
            super::migration::at_subtransaction_abort(level);
            crate::pg::error::discreet_no_more();
            standing::transaction_ended(false);
            crate::hooks::cascade::abandon(level);
            crate::isolation::at_subtransaction_abort(level);
            crate::environment::at_subtransaction_abort(level);
            crate::audit::at_subtransaction_abort(level);
            crate::usage::quota::at_subtransaction_abort(level);
        }
        // Before the subtransaction's own id is gone.
        SUBXACT_EVENT_PRE_COMMIT_SUB => {
            crate::isolation::before_subtransaction_commit();
            crate::usage::quota::flush().unwrap_or_report();
            crate::audit::flush();
        }
        SUBXACT_EVENT_COMMIT_SUB => {
            if let Some(pin) = PIN.get().filter(|p| p.level >= level) {
                PIN.set(Some(Pin {
                    level: level - 1,
                    ..pin
                }));
            }
            token::at_subtransaction_commit(level);
            super::migration::at_subtransaction_commit(level);
            crate::isolation::at_subtransaction_commit(level);
            crate::environment::at_subtransaction_commit(level);
            crate::audit::at_subtransaction_commit(level);
        }
        _ => {}
    }
}

pub fn init() {
    // SAFETY: the callbacks live as long as the library, which PostgreSQL never unloads.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_subtransaction_end), std::ptr::null_mut());
    }
}
