//! What the triggers of a protected table would find out for a plain INSERT, UPDATE or DELETE is found out here where the
//! executor begins to run it, and the triggers that are left with nothing to do do not fire. Without the library loaded
//! before the statement, in COPY, in cascades, upserts and MERGE, in partitions, they do: they are what holds everywhere.
//!
//! A trigger call that only agrees costs 1,500 instructions for a statement and 4,500 for a row, of the 66,000 of a
//! single-row INSERT under a policy written by hand (callgrind).

use crate::isolation;
use crate::pg::modify::Write;
use crate::pg::{catalog, identity};
use crate::usage::quota;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;

/// Before the first row.
///
/// SAFETY: a started query that has not run.
#[pg_guard]
pub unsafe extern "C-unwind" fn begin(query: *mut pg_sys::QueryDesc) {
    // SAFETY: as the function's own.
    let Some(write) = (unsafe { Write::of(query) }) else {
        return;
    };
    let Some(house) = catalog::find_house() else {
        return;
    };
    if !write.fires(house.guard_statement) {
        return;
    }
    isolation::guard_write(write.relid, write.event).unwrap_or_report();
    write.leave_out(house.guard_statement);
    if write.fires(house.guard_row)
        && !identity::break_glass()
        && isolation::is_held_by_policy(&write, house.check_row)
        && (write.counts() || !quota::is_under(write.relid))
    {
        write.leave_out(house.guard_row);
    }
}

/// After the last row, where the row triggers would have fired: a revocation that was committed while the statement
/// waited counts.
///
/// SAFETY: a query that ran.
#[pg_guard]
pub unsafe extern "C-unwind" fn end(query: *mut pg_sys::QueryDesc) {
    // SAFETY: as the function's own.
    let Some(write) = (unsafe { Write::of(query) }) else {
        return;
    };
    if let Some(house) = catalog::find_house()
        && write.left_out(house.guard_row)
    {
        isolation::guard_written(write.relid).unwrap_or_report();
        if write.counts() {
            // SAFETY: as the function's own.
            let rows = unsafe { (*(*query).estate).es_processed };
            quota::count_inserted(write.relid, rows).unwrap_or_report();
        }
    }
}
