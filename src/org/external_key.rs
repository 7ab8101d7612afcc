//! The application's own key of an organization, by which tables with their own tenant ids are protected as they are.

use super::{deletion, id_text, invalid, lock_org};
use crate::audit::{self, Act};
use crate::context;
use crate::isolation;
use crate::pg::query::{Arg, execute, run};
use crate::pg::{self, fail, identity};
use pgrx::datum::Uuid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::json;

/// Gives an organization its external key, changes it, or takes it away with NULL (spec 1, 5).
///
/// `external_key`: 1 to 255 bytes without control characters, unique among all organizations, taken as it is. Columns of
/// type text and varchar hold it itself, those of type integer and bigint the number that it is, written as PostgreSQL
/// writes numbers. It holds from the next statement of every session. While a table is protected by external keys, the
/// key that an organization has is changed in break-glass only, where its rows can be changed with it. For the DBA.
/// Errors: 42501 not the DBA or unknown organization, 22023 no such key can be, 23505 it is another organization's,
/// 55006 tables are protected by it.
#[pg_extern(volatile, parallel_unsafe)]
fn set_external_key(org: Option<Uuid>, external_key: Option<&str>) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let org = org.as_bytes();
    context::no_ai("change an organization's external key")?;
    if !context::is_administrator() {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied: only a DBA may change an organization's external key",
        )
        .set_detail("It says which rows are the organization's.")
        .set_hint("Ask a DBA (a superuser, or a role given tenancy.grant_administration())."));
    }
    if let Some(key) = external_key {
        check(key)?;
    }
    lock_org(org, true)?;
    let old = run(
        "SELECT external_key FROM tenancy.orgs WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(org)],
        |row| row.get::<String>(1),
    )
    .pop()
    .flatten();
    if old.as_deref() == external_key {
        return Ok(());
    }
    let taken = external_key.is_some_and(|key| {
        !run(
            "SELECT 1 FROM tenancy.orgs WHERE external_key OPERATOR(pg_catalog.=) $1",
            &[Arg::Text(key)],
            |_| (),
        )
        .is_empty()
    });
    if taken || deletion::was_anothers(None, external_key) {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
            "this external key is taken",
        )
        .set_detail("External keys are unique among all organizations.")
        .set_hint("SELECT id, name FROM tenancy.orgs shows a superuser whose it is."));
    }
    execute(
        "UPDATE tenancy.orgs SET external_key = $2 WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(org), Arg::OptionalText(external_key)],
    );
    audit::record(&Act {
        org: *org,
        operation: "set_external_key",
        object: "tenancy.orgs",
        key: json!({ "id": id_text(org) }),
        old: Some(json!({ "external_key": old })),
        new: Some(json!({ "external_key": external_key })),
    });
    Ok(())
}

/// Raises for what cannot be a key.
pub fn check(key: &str) -> pg::Result<()> {
    if !key.is_empty() && key.len() <= 255 && !key.chars().any(char::is_control) {
        return Ok(());
    }
    Err(invalid(
        "this cannot be an external key",
        "A key has 1 to 255 bytes and no control characters.",
        "Pass the key by which the application knows the organization.",
    ))
}

/// What keeps a key from being changed, if anything does: under the old one are rows that would be nobody's then, or under
/// the new one some that would be this organization's.
pub fn held(old: Option<&str>, new: Option<&str>) -> Option<ErrorReport> {
    if old.is_none() || old == new || identity::break_glass() || identity::is_logical_worker() {
        return None;
    }
    let table = isolation::keyed_by_external_keys()?;
    Some(
        fail(
            PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            "an external key never changes while tables are protected by it",
        )
        .set_detail(format!(
            "Table {table} names its rows' organizations by their external keys: the organization would lose its rows."
        ))
        .set_hint("In one transaction, as a superuser: SET LOCAL row_security = off, change the key, and the key in the organization's rows."),
    )
}
