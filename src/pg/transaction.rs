//! Transaction facts: block or not, nesting, ids, pending invalidations.

use pgrx::pg_sys;

unsafe extern "C-unwind" {
    // Declared here without pgrx's guard: they read a variable and never raise.
    fn GetCurrentTransactionNestLevel() -> i32;
    fn IsTransactionState() -> bool;
    // May raise, so it is called without a guard by `accept_invalidations_unguarded` only.
    fn AcceptInvalidationMessages();
    fn GetTopFullTransactionIdIfAny() -> pg_sys::FullTransactionId;
    fn GetCurrentTimestamp() -> pg_sys::TimestampTz;
    fn GetCurrentTransactionStartTimestamp() -> pg_sys::TimestampTz;
}

/// BEGIN was given, or several statements share one message: what SET LOCAL needs to outlive its statement.
pub fn in_block() -> bool {
    // SAFETY: reads backend state.
    unsafe { pg_sys::IsTransactionBlock() }
}

/// Whether the transaction failed as a whole, and its block is still to be left.
pub fn is_failed_block() -> bool {
    // SAFETY: reads backend state.
    nest_level() == 1 && unsafe { pg_sys::IsAbortedTransactionBlockState() }
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

pub fn on_standby() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Whether a parallel query runs, here or in the process that started this one.
pub fn in_parallel_mode() -> bool {
    // SAFETY: reads backend state.
    in_parallel_worker() || unsafe { pg_sys::IsInParallelMode() }
}

pub fn in_parallel_worker() -> bool {
    // SAFETY: reads a backend variable.
    unsafe { pg_sys::ParallelWorkerNumber >= 0 }
}

/// Takes in what other backends committed. Cheap when there is nothing (one shared flag is read).
pub fn accept_invalidations() {
    // SAFETY: legal wherever a relation may be opened, inside a transaction.
    unsafe {
        if IsTransactionState() {
            pg_sys::AcceptInvalidationMessages();
        }
    }
}

/// `accept_invalidations` without a guard, for entry points that PostgreSQL calls.
///
/// SAFETY: an error jumps over the caller's frames, so none of them may own anything.
#[inline]
pub unsafe fn accept_invalidations_unguarded() {
    // SAFETY: as above.
    unsafe {
        if IsTransactionState() {
            AcceptInvalidationMessages();
        }
    }
}

/// Has every plan that the session keeps made anew.
pub fn forget_plans() {
    // SAFETY: marks them; looks nothing up, so it may be called as a transaction ends.
    unsafe { pg_sys::ResetPlanCache() }
}

/// When the client's present message arrived: PostgreSQL sets it once for each, whatever transactions end in between.
pub fn message() -> pg_sys::TimestampTz {
    // SAFETY: reads backend state.
    unsafe { pg_sys::GetCurrentStatementStartTimestamp() }
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

/// Runs `work` with allocations that last until the innermost subtransaction ends.
pub fn in_subtransaction_memory<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the context lives as long as the subtransaction.
    unsafe { in_memory(pg_sys::CurTransactionContext, work) }
}

/// SAFETY: the context is alive.
unsafe fn in_memory<T>(context: pg_sys::MemoryContext, work: impl FnOnce() -> T) -> T {
    // SAFETY: switched back at once; an error on the way resets the context by itself.
    unsafe {
        let before = pg_sys::MemoryContextSwitchTo(context);
        let result = work();
        pg_sys::MemoryContextSwitchTo(before);
        result
    }
}

/// Whether each statement sees what was committed before it: no snapshot lasts for the whole transaction.
pub fn is_read_committed() -> bool {
    // SAFETY: reads a backend variable.
    unsafe { pg_sys::XactIsoLevel <= pg_sys::XACT_READ_COMMITTED as i32 }
}

/// Runs `work` with a snapshot of its own: before commit there is no statement's left.
pub fn with_snapshot<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: popped at once; an error on the way pops it with the transaction.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = work();
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// Whether this transaction, or a part of it that is not rolled back, has this id.
pub fn is_current(id: u32) -> bool {
    // SAFETY: reads backend state.
    unsafe { pg_sys::TransactionIdIsCurrentTransactionId(id.into()) }
}
