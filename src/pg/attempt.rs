//! Work that may fail, in a subtransaction of its own: what it did is undone, and the error told instead of raised.

use pgrx::PgTryBuilder;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use std::panic::AssertUnwindSafe;

pub struct Failure {
    /// The SQLSTATE.
    pub code: String,
    pub message: String,
}

/// SQLSTATE in the five characters that it is known by.
fn code_text(code: PgSqlErrorCode) -> String {
    let code = code as i32;
    let character = |i: i32| char::from((((code >> (6 * i)) & 0x3f) as u8) + b'0');
    (0..5).map(character).collect()
}

/// Whether an error is not about the work, but about the session or the moment: it is raised all the same, and whoever asked
/// tries again.
fn is_about_the_moment(code: PgSqlErrorCode) -> bool {
    use PgSqlErrorCode::*;
    matches!(
        code,
        ERRCODE_QUERY_CANCELED
            | ERRCODE_ADMIN_SHUTDOWN
            | ERRCODE_CRASH_SHUTDOWN
            | ERRCODE_DATABASE_DROPPED
            | ERRCODE_T_R_SERIALIZATION_FAILURE
            | ERRCODE_T_R_DEADLOCK_DETECTED
            | ERRCODE_OUT_OF_MEMORY
            | ERRCODE_DISK_FULL
            | ERRCODE_LOCK_NOT_AVAILABLE
    )
}

/// Runs `work`; where it fails, by an error of its own or of PostgreSQL's, everything since is undone.
pub fn in_subtransaction(work: impl FnOnce() -> super::Result<()>) -> Result<(), Failure> {
    // SAFETY: as PL/pgSQL's EXCEPTION does: memory and resource owner are put back after either end.
    let (memory, owner) = unsafe {
        let before = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(before.0);
        before
    };
    let back = move || {
        // SAFETY: both outlive the subtransaction.
        unsafe {
            pg_sys::MemoryContextSwitchTo(memory);
            pg_sys::CurrentResourceOwner = owner;
        }
    };
    let work = AssertUnwindSafe(work);
    PgTryBuilder::new(AssertUnwindSafe(|| {
        if let Err(error) = { work }.0() {
            error.report(PgLogLevel::ERROR);
        }
        // SAFETY: the subtransaction begun above.
        unsafe { pg_sys::ReleaseCurrentSubTransaction() };
        back();
        Ok(())
    }))
    .catch_others(|error| {
        let (CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)) = &error else {
            error.rethrow()
        };
        if is_about_the_moment(report.sql_error_code()) {
            error.rethrow();
        }
        let failure = Failure {
            code: code_text(report.sql_error_code()),
            message: report.message().to_string(),
        };
        // SAFETY: the subtransaction begun above, which the error left open.
        unsafe { pg_sys::RollbackAndReleaseCurrentSubTransaction() };
        back();
        Err(failure)
    })
    .execute()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_written_as_they_are_known() {
        assert_eq!(
            code_text(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE),
            "42501"
        );
        assert_eq!(code_text(PgSqlErrorCode::ERRCODE_NO_DATA_FOUND), "P0002");
    }
}
