//! Errors with SQLSTATE, message, detail and hint, raised as PostgreSQL raises its own.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::cell::Cell;
use std::ffi::{CString, c_char, c_int};

pub type Result<T> = std::result::Result<T, ErrorReport>;

/// Keeps Rust backtraces out of errors, whatever the environment the server was started in says: they are sent to the
/// client as DETAIL, and make each error cost 190 us (measured).
pub fn without_backtraces() {
    // SAFETY: at load a backend has one thread, and nothing has asked for a backtrace yet.
    unsafe {
        std::env::set_var("RUST_BACKTRACE", "0");
        std::env::set_var("RUST_LIB_BACKTRACE", "0");
    }
}

/// A report of `code` saying `message`; add detail and hint with `set_detail`, `set_hint`.
pub fn fail(code: PgSqlErrorCode, message: impl Into<String>) -> ErrorReport {
    ErrorReport::new(code, message.into(), "pg_tenancy")
}

/// The report of an argument that is not what it should be.
pub fn invalid(message: impl Into<String>, detail: impl Into<String>, hint: &str) -> ErrorReport {
    fail(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message)
        .set_detail(detail)
        .set_hint(hint)
}

/// An argument that may not be NULL.
pub fn given<T>(value: Option<T>, name: &str) -> Result<T> {
    value.ok_or_else(|| {
        fail(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            format!("argument {name} must not be NULL"),
        )
        .set_detail("Nothing was changed.")
        .set_hint("Pass a value for it.")
    })
}

/// A line that only the server's log receives, whatever `client_min_messages` says.
pub fn server_log(message: &str, detail: &str) {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        message.to_string(),
        "pg_tenancy",
    )
    .set_detail(detail)
    .report(PgLogLevel::LOG_SERVER_ONLY);
}

/// What a process without a client tells the server's log.
pub fn log(message: &str, detail: &str) {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_WARNING,
        message.to_string(),
        "pg_tenancy",
    )
    .set_detail(detail)
    .report(PgLogLevel::LOG);
}

thread_local! {
    // Whether an error that is reported now may be about a statement with a secret in its text.
    static DISCREET: Cell<bool> = const { Cell::new(false) };
}

/// Runs what was handed a secret. Where it fails, the server's log keeps the error and not the statement's text, and
/// pg_stat_activity stops showing that text to the login's other sessions. An error is reported after it has left us and
/// before its (sub)transaction ends, so that end is where this ends too.
pub fn discreetly<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    DISCREET.set(true);
    hide_activity();
    // A subtransaction of the work's own may have ended it.
    let done = work().inspect_err(|_| DISCREET.set(true))?;
    DISCREET.set(false);
    Ok(done)
}

fn hide_activity() {
    // SAFETY: copies a NUL-terminated text into this backend's own slot.
    unsafe {
        if pg_sys::ParallelWorkerNumber < 0 {
            pg_sys::pgstat_report_activity(
                pg_sys::BackendState::STATE_RUNNING,
                c"<hidden by pg_tenancy: may hold a secret>".as_ptr(),
            );
        }
    }
}

pub fn discreet_no_more() {
    DISCREET.set(false);
}

pub fn is_discreet() -> bool {
    DISCREET.get()
}

unsafe extern "C-unwind" {
    fn errstart(elevel: c_int, domain: *const c_char) -> bool;
    fn errcode(sqlerrcode: c_int) -> c_int;
    fn errmsg(fmt: *const c_char, ...) -> c_int;
    fn errdetail(fmt: *const c_char, ...) -> c_int;
    fn errfinish(filename: *const c_char, lineno: c_int, funcname: *const c_char);
}

fn c(text: &str) -> CString {
    CString::new(text.replace('\0', "")).unwrap_or_default()
}

/// The error of a missing parent, built from PostgreSQL's own format strings (so that it is translated alike) with
/// the same schema, table and constraint fields. `key` is the parenthesised "(columns)=(values)" pair that a role
/// with the right to see it is told, as `ri_ReportViolation()` decides.
pub fn foreign_key_violation(
    child: pg_sys::Relation,
    child_name: &str,
    constraint: &str,
    parent_name: &str,
    key: Option<(&str, &str)>,
) -> ! {
    let (table, constraint, parent) = (c(child_name), c(constraint), c(parent_name));
    let key = key.map(|(columns, values)| (c(columns), c(values)));
    // SAFETY: the calls follow ereport()'s protocol; every format string matches its arguments. The guard turns
    // errfinish()'s jump into an unwind, which pgrx re-throws with the error data, its fields included, as they are.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            if errstart(PgLogLevel::ERROR as c_int, std::ptr::null()) {
                errcode(PgSqlErrorCode::ERRCODE_FOREIGN_KEY_VIOLATION as c_int);
                errmsg(
                    c"insert or update on table \"%s\" violates foreign key constraint \"%s\""
                        .as_ptr(),
                    table.as_ptr(),
                    constraint.as_ptr(),
                );
                match &key {
                    Some((columns, values)) => errdetail(
                        c"Key (%s)=(%s) is not present in table \"%s\".".as_ptr(),
                        columns.as_ptr(),
                        values.as_ptr(),
                        parent.as_ptr(),
                    ),
                    None => errdetail(
                        c"Key is not present in table \"%s\".".as_ptr(),
                        parent.as_ptr(),
                    ),
                };
                pg_sys::errtableconstraint(child, constraint.as_ptr());
                errfinish(
                    c"error.rs".as_ptr(),
                    line!() as c_int,
                    c"foreign_key_violation".as_ptr(),
                );
            }
        });
    }
    unreachable!("errfinish(ERROR) does not return")
}
