//! What a process of our own does that PostgreSQL's backends do for themselves: transactions, signals, the configuration.

use pgrx::prelude::*;
use std::panic::AssertUnwindSafe;

unsafe extern "C-unwind" {
    // A signal's handler, so it is handed on as it is.
    fn die(signal: i32);
}

/// Whether shared_preload_libraries is being loaded, which is when processes can be asked for.
pub fn is_preloading() -> bool {
    // SAFETY: reads a variable of the postmaster's start.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

pub fn id() -> i32 {
    // SAFETY: reads this process's id.
    unsafe { pg_sys::MyProcPid }
}

/// Waits for a while; an interrupt ends it, and the statement.
pub fn pause(milliseconds: i64) {
    // SAFETY: this process's own latch; what wakes it up early is looked at next.
    unsafe {
        let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            events as i32,
            milliseconds,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    pgrx::check_for_interrupts!();
}

/// After SIGHUP.
pub fn read_configuration() {
    // SAFETY: what every process does that hears of a new configuration.
    unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) }
}

/// From now on SIGTERM ends this process as it does a backend: at the next point where it may.
pub fn end_as_backends_do() {
    // SAFETY: the handler is PostgreSQL's own.
    unsafe {
        pg_sys::pqsignal(pg_sys::SIGTERM as i32, Some(die));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// The databases that one can connect to.
pub fn databases() -> Vec<pg_sys::Oid> {
    let mut list = vec![];
    // SAFETY: reads a shared catalog in a transaction of its own, as PostgreSQL's own launcher does.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::GetTransactionSnapshot();
        let relation =
            pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            if (*form).datallowconn && !(*form).datistemplate {
                list.push((*form).oid);
            }
        }
        pg_sys::table_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
        pg_sys::CommitTransactionCommand();
    }
    list
}

/// Runs `work` in a transaction of its own; an error goes to the server's log and keeps no other work from its turn.
pub fn attempt(work: impl FnOnce() -> super::Result<()>) -> bool {
    // SAFETY: a transaction as a worker begins and ends one; an error leaves it to be aborted.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
    }
    let work = AssertUnwindSafe(work);
    let failed = PgTryBuilder::new(AssertUnwindSafe(|| {
        let result = { work }.0();
        if let Err(error) = result {
            error.report(PgLogLevel::ERROR);
        }
        false
    }))
    .catch_others(|error| {
        use pg_sys::panic::CaughtError::{ErrorReport, PostgresError, RustPanic};
        let (PostgresError(report)
        | ErrorReport(report)
        | RustPanic {
            ereport: report, ..
        }) = &error;
        super::error::log(report.message(), report.detail().unwrap_or_default());
        true
    })
    .execute();
    // SAFETY: as above.
    unsafe {
        if failed {
            pg_sys::AbortCurrentTransaction();
        } else {
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
        }
    }
    !failed
}
