//! emit_log: the log line of an error leaves the statement's text out where a secret may stand in it. What the log says
//! before a statement runs (log_statement) is out of reach; README says how to pass secrets then.

use crate::pg::error;
use pgrx::prelude::*;

static mut PREVIOUS: pg_sys::emit_log_hook_type = None;

/// SAFETY: called by PostgreSQL with the error it is about to log; chains to the previous hook.
unsafe extern "C-unwind" fn emit_log(report: *mut pg_sys::ErrorData) {
    // SAFETY: as the function's own.
    unsafe {
        if error::is_discreet() {
            (*report).hide_stmt = true;
            (*report).hide_ctx = true;
        }
        if let Some(previous) = PREVIOUS {
            previous(report);
        }
    }
}

pub fn init() {
    // SAFETY: one thread; hooks are chained as PostgreSQL's own modules do it.
    unsafe {
        PREVIOUS = pg_sys::emit_log_hook;
        pg_sys::emit_log_hook = Some(emit_log);
    }
}
