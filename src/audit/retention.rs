//! How long an organization's log is kept. A legal hold keeps it as it is: nothing is purged then, and nothing erased.

use super::capture::{Act, record};
use super::read::may;
use super::seal;
use crate::context::authority::Id;
use crate::pg::query::{Arg, execute, latest};
use crate::pg::{self, fail};
use pgrx::prelude::*;
use serde_json::json;

/// Says for how many days the current organization's log is kept; NULL: for ever, as without it (spec 6.5). What is older
/// goes when purge_audit() runs. Needs org:delete. Errors: 42501 no organization or no right, 22023 less than a day.
#[pg_extern(sql = r#"
CREATE FUNCTION set_audit_retention(keep_days integer)
RETURNS void VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn set_audit_retention(keep_days: Option<i32>) -> pg::Result<()> {
    let org = may("org:delete", "say how long an audit log is kept")?;
    if keep_days.is_some_and(|days| days < 1) {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "an audit log is kept for a day at least",
        )
        .set_detail("Nothing was changed.")
        .set_hint("NULL keeps it for ever."));
    }
    let before = rules(&org);
    let days = keep_days.map(|days| days.to_string());
    execute(
        "INSERT INTO tenancy.audit_retention (org_id, keep_days) VALUES ($1, $2::pg_catalog.int4)
         ON CONFLICT (org_id) DO UPDATE SET keep_days = EXCLUDED.keep_days",
        &[Arg::Uuid(&org), Arg::OptionalText(days.as_deref())],
    );
    record(&Act {
        org,
        operation: "set_audit_retention",
        object: "tenancy.audit_retention",
        key: json!({}),
        old: Some(json!({ "keep_days": before.keep_days })),
        new: Some(json!({ "keep_days": keep_days })),
    });
    Ok(())
}

/// Puts the current organization's log under legal hold, or ends it: as long as it is on, nothing is purged or erased (spec
/// 6.5). `reason`: why, kept in the log. Needs org:delete. Errors: 42501 no organization or no right, 22004 no reason.
#[pg_extern(sql = r#"
CREATE FUNCTION set_legal_hold(hold boolean, reason text)
RETURNS void VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn set_legal_hold(hold: Option<bool>, reason: Option<&str>) -> pg::Result<()> {
    let hold = pg::given(hold, "hold")?;
    let reason = pg::given(reason, "reason")?;
    let org = may("org:delete", "put an audit log under legal hold")?;
    // Whoever purges or erases now ends first: once this is committed nothing goes any more.
    seal::retention::lock(&org);
    let before = rules(&org);
    execute(
        "INSERT INTO tenancy.audit_retention (org_id, legal_hold, hold_reason) VALUES ($1, $2, $3)
         ON CONFLICT (org_id) DO UPDATE SET legal_hold = EXCLUDED.legal_hold, hold_reason = EXCLUDED.hold_reason",
        &[Arg::Uuid(&org), Arg::Flag(hold), Arg::OptionalText(hold.then_some(reason))],
    );
    record(&Act {
        org,
        operation: "set_legal_hold",
        object: "tenancy.audit_retention",
        key: json!({}),
        old: Some(json!({ "legal_hold": before.hold })),
        new: Some(json!({ "legal_hold": hold, "reason": reason })),
    });
    Ok(())
}

#[derive(Default)]
pub struct Rules {
    pub keep_days: Option<i32>,
    pub hold: bool,
}

/// As of now: a hold that was set while one waited counts.
pub fn rules(org: &Id) -> Rules {
    latest(
        "SELECT keep_days, legal_hold FROM tenancy.audit_retention WHERE org_id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(org)],
        |row| Rules {
            keep_days: row.get(1),
            hold: row.get(2).unwrap_or(false),
        },
    )
    .pop()
    .unwrap_or_default()
}

pub fn require_no_hold(org: &Id, what: &str) -> pg::Result<()> {
    if !rules(org).hold {
        return Ok(());
    }
    Err(fail(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("nothing is {what} from an audit log that is under legal hold"),
    )
    .set_detail("SELECT * FROM tenancy.audit_retention shows the reason.")
    .set_hint("SELECT tenancy.set_legal_hold(false, '<reason>'), when the hold has ended."))
}
