//! The sealer that runs by itself, where shared_preload_libraries loads us. One process starts, every
//! tenancy.seal_interval, a worker in each database after the other, which seals what is new and ends: so no connection
//! stays that would keep a database from being dropped or copied. A database without the extension is looked at again
//! later, one in which nothing has happened not at all.

use super::{seal, store};
use crate::context::authority::Id;
use crate::context::settings::SEAL_INTERVAL;
use crate::pg::{catalog, horizon, process};
use pgrx::PgAtomic;
use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, SignalWakeFlags,
};
use pgrx::pg_shmem_init;
use pgrx::prelude::*;
use std::collections::HashMap;
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
    if !process::is_preloading() {
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
            process::read_configuration();
            continue;
        }
        if interval == 0 {
            continue;
        }
        let databases = process::databases();
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
    let worker = BackgroundWorkerBuilder::new("pg_tenancy sealer of a database")
        .set_type("pg_tenancy sealer of a database")
        .set_library("pg_tenancy")
        .set_function("tenancy_seal_database")
        .enable_spi_access()
        .set_argument(Some(id.into()))
        .set_notify_pid(process::id())
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

/// One pass over one database.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn tenancy_seal_database(database: pg_sys::Datum) {
    process::end_as_backends_do();
    let id = pg_sys::Oid::from(database.value() as u32);
    BackgroundWorker::connect_worker_to_spi_by_oid(Some(id), None);
    let mut found = 0;
    let mut new: Vec<Id> = vec![];
    let mut shared = vec![];
    let mut quiet = true;
    let asked = process::attempt(|| {
        if catalog::find_house().is_none() || catalog::namespace(c"tenancy_audit").is_none() {
            return Ok(());
        }
        found |= EXTENSION;
        quiet = horizon::with_latest_snapshot(|h| h.oldest == h.next);
        seal::tables();
        shared = store::shared();
        for org in seal::api::orgs() {
            // One that cannot be read is said to be so by its own attempt.
            if seal::has_news(&org, &shared).unwrap_or(true) {
                new.push(org);
            }
        }
        Ok(())
    });
    quiet &= asked && new.is_empty();
    for org in new {
        process::attempt(|| seal::seal_org(&org, &shared, false).map(|_| ()));
    }
    if quiet {
        found |= QUIET;
    }
    FOUND.get().store(found, Ordering::Relaxed);
}
