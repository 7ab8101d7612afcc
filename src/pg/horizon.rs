//! What is finished: the transactions below a snapshot's horizon, and the lock that keeps two sealers apart.

use pgrx::prelude::*;

/// Of a snapshot: every transaction of this database below `oldest` has ended, and what it committed is seen; those from
/// `next` on had not ended, and from `unassigned` on had no id yet. A prepared transaction has not ended.
#[derive(Clone, Copy, Debug)]
pub struct Horizon {
    pub oldest: u64,
    pub next: u64,
    pub unassigned: u64,
    /// `oldest` as if this transaction had ended.
    pub others: u64,
}

/// Runs `work` under the newest snapshot there is, in a transaction that keeps an older one too.
pub fn with_latest_snapshot<T>(work: impl FnOnce(Horizon) -> T) -> T {
    // SAFETY: popped at once; an error on the way pops it with the transaction. The snapshot is read while it is static.
    unsafe {
        let snapshot = pg_sys::GetLatestSnapshot();
        // Read afterwards, so that it is not before any of the snapshot's.
        let next = pg_sys::ReadNextFullTransactionId().value;
        let wide = |xid: pg_sys::TransactionId| widened(xid.into(), next);
        let end = wide((*snapshot).xmax);
        let running = match (*snapshot).xcnt as usize {
            0 => &[][..],
            count => std::slice::from_raw_parts((*snapshot).xip, count),
        };
        // This transaction's own id is not in the list.
        let own = pg_sys::GetTopTransactionIdIfAny();
        let own = (own != pg_sys::InvalidTransactionId).then(|| wide(own));
        // The snapshot's end is this transaction's id where none with a later one has ended.
        let after_own = end + u64::from(own == Some(end));
        let others = running
            .iter()
            .filter(|xid| !runs_elsewhere(**xid))
            .map(|xid| wide(*xid))
            .fold(after_own, u64::min);
        let horizon = Horizon {
            oldest: own.into_iter().fold(others.min(end), u64::min),
            next: end,
            unassigned: next,
            others,
        };
        pg_sys::PushActiveSnapshot(snapshot);
        let result = work(horizon);
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// Whether every transaction below `barrier` of this database has ended, other than this one. A prepared one has not.
pub fn is_past(barrier: u64) -> bool {
    // SAFETY: the snapshot is read while it is static; nothing is allocated in it.
    unsafe {
        let snapshot = pg_sys::GetLatestSnapshot();
        let next = pg_sys::ReadNextFullTransactionId().value;
        let running = match (*snapshot).xcnt as usize {
            0 => &[][..],
            count => std::slice::from_raw_parts((*snapshot).xip, count),
        };
        running
            .iter()
            .filter(|xid| !runs_elsewhere(**xid))
            .all(|xid| widened((*xid).into(), next) >= barrier)
    }
}

/// Whether a transaction of another database has this id now. Whatever is not seen to run, or is prepared, is taken for
/// one of ours: it then only holds the horizon back.
///
/// SAFETY: reads the shared array of processes without its lock. An id is never given twice, so a process that has it
/// before and after its database was read is that transaction's.
unsafe fn runs_elsewhere(xid: pg_sys::TransactionId) -> bool {
    // SAFETY: as the function's own; the array lives as long as the server.
    unsafe {
        let all = pg_sys::ProcGlobal;
        (0..(*all).allProcCount as usize).any(|i| {
            let process = (*all).allProcs.add(i);
            let id = || (&raw const (*process).xid).read_volatile();
            if id() != xid {
                return false;
            }
            let database = (&raw const (*process).databaseId).read_volatile();
            id() == xid && database != pg_sys::InvalidOid && database != pg_sys::MyDatabaseId
        })
    }
}

/// A transaction's id in full; it is at most half a circle before the next one's.
pub fn widened(xid: u32, next: u64) -> u64 {
    let wraps = u64::from(xid > next as u32);
    ((next >> 32).saturating_sub(wraps) << 32) | u64::from(xid)
}

/// What transactions are numbered in: a dump that is restored elsewhere meets other numbers.
pub fn cluster() -> i64 {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::GetSystemIdentifier() as i64 }
}

/// The id that the next transaction gets.
pub fn next_id() -> u64 {
    // SAFETY: reads shared memory under its own lock.
    unsafe { pg_sys::ReadNextFullTransactionId().value }
}

/// Takes the lock `number` of a relation of ours, until the transaction ends. No SQL command takes such a lock, so nobody
/// can keep it from us. False where another session has it and we do not `wait`.
pub fn lock(relation: pg_sys::Oid, number: u32, wait: bool) -> bool {
    let mode = pg_sys::ExclusiveLock as i32;
    // SAFETY: a lock on an object that need not exist.
    unsafe {
        if wait {
            pg_sys::LockDatabaseObject(relation, number.into(), 0, mode);
            true
        } else {
            pg_sys::ConditionalLockDatabaseObject(relation, number.into(), 0, mode)
        }
    }
}

/// Lets what comes now see the rows that were stored so far.
pub fn next_command() {
    // SAFETY: inside a transaction, not in a parallel one.
    unsafe { pg_sys::CommandCounterIncrement() }
}
