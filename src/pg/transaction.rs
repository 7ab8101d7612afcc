//! Transaction facts: block or not, nesting, ids, pending invalidations.

use pgrx::pg_sys;

/// BEGIN was given, or several statements share one message: what SET LOCAL needs to outlive its statement.
pub fn in_block() -> bool {
    // SAFETY: reads backend state.
    unsafe { pg_sys::IsTransactionBlock() }
}

pub fn nest_level() -> i32 {
    // SAFETY: reads backend state.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() }
}

/// This transaction's id, assigned if it had none.
pub fn full_id() -> u64 {
    // SAFETY: called while writing only, never in a parallel worker.
    unsafe { pg_sys::GetTopFullTransactionId().value }
}

pub fn in_parallel_worker() -> bool {
    // SAFETY: reads a backend variable.
    unsafe { pg_sys::ParallelWorkerNumber >= 0 }
}

/// Takes in what other backends committed. Cheap when there is nothing (one shared flag is read).
pub fn accept_invalidations() {
    // SAFETY: legal wherever a relation may be opened, inside a transaction.
    unsafe {
        if pg_sys::IsTransactionState() {
            pg_sys::AcceptInvalidationMessages();
        }
    }
}

/// When the transaction started.
pub fn start() -> pg_sys::TimestampTz {
    // SAFETY: reads backend state.
    unsafe { pg_sys::GetCurrentTransactionStartTimestamp() }
}

pub fn now() -> pg_sys::TimestampTz {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}
