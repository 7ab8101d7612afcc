//! The sealer that runs by itself, where shared_preload_libraries loads us. One process starts, every
//! tenancy.seal_interval, a worker in each database after the other, which seals what is new and ends: so no connection
//! stays that would keep a database from being dropped or copied. A database without the extension is looked at again
//! later, one in which nothing has happened not at all.

use super::seal;
use crate::context::authority::Id;
use crate::context::settings::SEAL_INTERVAL;
use crate::pg::{self, catalog, horizon};
use pgrx::PgAtomic;
use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, SignalWakeFlags,
};
use pgrx::pg_shmem_init;
use pgrx::prelude::*;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What the last worker found: workers run one at a time.
// SAFETY: the name is this library's own.
static FOUND: PgAtomic<AtomicU32> = unsafe { PgAtomic::new(c"pg_tenancy sealer") };
const EXTENSION: u32 = 1;
/// Nothing was left to seal and nothing ran that could leave something.
const QUIET: u32 = 2;

/// A database without the extension is asked again after so many intervals, but within these times.
const ABSENT: u32 = 20;
const ABSENT_WITHIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

#[allow(
    unexpected_cfgs,
    reason = "pgrx's macro asks for versions that we do not build for"
)]
pub fn init() {
    // SAFETY: reads a variable of the postmaster's start.
    if !unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        return;
    }
    pg_shmem_init!(FOUND);
    BackgroundWorkerBuilder::new("pg_tenancy sealer")
        .set_type("pg_tenancy sealer")
        .set_library("pg_tenancy")
        .set_function("tenancy_sealer")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(10)))
        .load();
}

unsafe extern "C-unwind" {
    // A signal's handler, so it is handed on as it is.
    fn die(signal: i32);
}

#[derive(Default)]
struct Database {
    absent_since: Option<Instant>,
    /// The next transaction's id when all was quiet.
    quiet_at: Option<u64>,
}

/// The process that starts the others. It is connected to no database, and sees the list of them.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn tenancy_sealer(_arg: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    BackgroundWorker::connect_worker_to_spi(None, None);
    let mut known: HashMap<pg_sys::Oid, Database> = HashMap::new();
    loop {
        let interval = SEAL_INTERVAL.get();
        let wait = if interval > 0 { interval } else { 60_000 };
        if !BackgroundWorker::wait_latch(Some(Duration::from_millis(wait as u64))) {
            return;
        }
        if BackgroundWorker::sighup_received() {
            // SAFETY: what every process does that hears of a new configuration.
            unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) }
            continue;
        }
        if interval == 0 {
            continue;
        }
        let databases = databases();
        known.retain(|id, _| databases.contains(id));
        for id in databases {
            visit(id, known.entry(id).or_default(), interval);
        }
    }
}

fn visit(id: pg_sys::Oid, database: &mut Database, interval: i32) {
    let next = horizon::next_id();
    let absent =
        (Duration::from_millis(interval as u64) * ABSENT).clamp(ABSENT_WITHIN.0, ABSENT_WITHIN.1);
    if database.quiet_at == Some(next)
        || database
            .absent_since
            .is_some_and(|at| at.elapsed() < absent)
    {
        return;
    }
    FOUND.get().store(0, Ordering::Relaxed);
    // SAFETY: reads this process's id.
    let me = unsafe { pg_sys::MyProcPid };
    let worker = BackgroundWorkerBuilder::new("pg_tenancy sealer of a database")
        .set_type("pg_tenancy sealer of a database")
        .set_library("pg_tenancy")
        .set_function("tenancy_seal_database")
        .enable_spi_access()
        .set_argument(Some(id.into()))
        .set_notify_pid(me)
        .set_restart_time(None)
        .load_dynamic();
    // Without a free slot there is the next time.
    let Ok(worker) = worker else { return };
    if worker.wait_for_shutdown().is_err() {
        return;
    }
    let found = FOUND.get().load(Ordering::Relaxed);
    database.absent_since = (found & EXTENSION == 0).then(Instant::now);
    database.quiet_at = (found & QUIET != 0).then_some(next);
}

/// The databases that one can connect to.
fn databases() -> Vec<pg_sys::Oid> {
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

/// One pass over one database.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn tenancy_seal_database(database: pg_sys::Datum) {
    // SAFETY: what a backend does with SIGTERM: it ends at the next point where it may.
    unsafe {
        pg_sys::pqsignal(pg_sys::SIGTERM as i32, Some(die));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
    let id = pg_sys::Oid::from(database.value() as u32);
    BackgroundWorker::connect_worker_to_spi_by_oid(Some(id), None);
    let mut found = 0;
    let mut new: Vec<Id> = vec![];
    let mut quiet = true;
    let asked = attempt(|| {
        if catalog::find_house().is_none() || catalog::namespace(c"tenancy_audit").is_none() {
            return Ok(());
        }
        found |= EXTENSION;
        quiet = horizon::with_latest_snapshot(|h| h.oldest == h.next);
        seal::tables();
        for org in seal::api::orgs() {
            // One that cannot be read is said to be so by its own attempt.
            if seal::has_news(&org).unwrap_or(true) {
                new.push(org);
            }
        }
        Ok(())
    });
    quiet &= asked && new.is_empty();
    for org in new {
        attempt(|| seal::seal_org(&org, false).map(|_| ()));
    }
    if quiet {
        found |= QUIET;
    }
    FOUND.get().store(found, Ordering::Relaxed);
}

/// Runs `work` in a transaction of its own; an error goes to the server's log and keeps no other work from its turn.
fn attempt(work: impl FnOnce() -> pg::Result<()>) -> bool {
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
        pg::error::log(report.message(), report.detail().unwrap_or_default());
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
