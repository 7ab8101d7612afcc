//! Transaction facts: block or not, nesting, ids, pending invalidations.

use pgrx::pg_sys;

unsafe extern "C-unwind" {
    // Declared here without pgrx's guard: they read variables and the clock, never raise, and stand on the per-row path.
    fn GetCurrentTransactionNestLevel() -> i32;
    fn GetTopFullTransactionIdIfAny() -> pg_sys::FullTransactionId;
    fn GetCurrentTimestamp() -> pg_sys::TimestampTz;
    fn GetCurrentTransactionStartTimestamp() -> pg_sys::TimestampTz;
}

/// BEGIN was given, or several statements share one message: what SET LOCAL needs to outlive its statement.
pub fn in_block() -> bool {
    // SAFETY: reads backend state.
    unsafe { pg_sys::IsTransactionBlock() }
}

pub fn nest_level() -> i32 {
    // SAFETY: reads backend state.
    unsafe { GetCurrentTransactionNestLevel() }
}

/// This transaction's id, assigned if it had none.
pub fn full_id() -> u64 {
    // SAFETY: called while writing only, never in a parallel worker.
    unsafe {
        match GetTopFullTransactionIdIfAny().value {
            0 => pg_sys::GetTopFullTransactionId().value,
            known => known,
        }
    }
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
    unsafe { GetCurrentTransactionStartTimestamp() }
}

pub fn now() -> pg_sys::TimestampTz {
    // SAFETY: reads the clock.
    unsafe { GetCurrentTimestamp() }
}
