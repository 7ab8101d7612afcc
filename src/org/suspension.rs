//! Suspension (spec 3.9): an organization whose rows go on being read and are not written, until the DBA says otherwise.
//!
//! It is the operator's measure, for an unpaid bill as for an incident, so neither the owner nor anybody else in the
//! organization begins or ends it. The guards of protected tables refuse the rows (isolation/guard.rs), and lock_org()
//! every act on the organization.

use super::logins::require_administrator;
use super::{id_text, lock_org};
use crate::audit::{self, Act};
use crate::context::authority::{self, Id};
use crate::pg::query::{Arg, execute};
use crate::pg::{self, error, fail};
use pgrx::datum::Uuid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::json;

/// Suspends an organization (spec 3.9): from the next statement of every open session its rows, members, roles and
/// settings are read and not changed; whoever tries hears why. Its audit is read and exported as before.
///
/// `org`: the organization. `reason`: why, one line of at most 500 characters, which its members can read. Suspending
/// again gives another reason. For the DBA. Errors: 42501 not the DBA or unknown organization, 22023 no reason.
#[pg_extern(volatile, parallel_unsafe)]
fn suspend_org(org: Option<Uuid>, reason: Option<&str>) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let reason = pg::given(reason, "reason")?.trim();
    require_administrator("suspend an organization")?;
    if reason.is_empty() || reason.chars().count() > 500 || reason.chars().any(char::is_control) {
        return Err(super::invalid(
            "a suspension needs a reason",
            "One line of at most 500 characters, which the organization's members can read.",
            "SELECT tenancy.suspend_org(org, 'invoice 2026-17 is unpaid');",
        ));
    }
    let org = org.as_bytes();
    lock_org(org, true)?;
    let before = authority::suspension(org);
    execute(
        "UPDATE tenancy.orgs
         SET suspended_at = COALESCE(suspended_at, pg_catalog.clock_timestamp()), suspended_reason = $2
         WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(org), Arg::Text(reason)],
    );
    record(org, "suspend_org", before, Some(reason));
    Ok(())
}

/// Ends an organization's suspension (spec 3.9), from the next statement on. `org`: the organization; where it is not
/// suspended nothing changes, and a notice says so. For the DBA. Errors: 42501 not the DBA or unknown organization.
#[pg_extern(volatile, parallel_unsafe)]
fn resume_org(org: Option<Uuid>) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    require_administrator("end an organization's suspension")?;
    let org = org.as_bytes();
    lock_org(org, true)?;
    let before = authority::suspension(org);
    let resumed = execute(
        "UPDATE tenancy.orgs SET suspended_at = NULL, suspended_reason = NULL
         WHERE id OPERATOR(pg_catalog.=) $1 AND suspended_at IS NOT NULL",
        &[Arg::Uuid(org)],
    );
    if resumed == 0 {
        ErrorReport::new(
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            "the organization is not suspended, nothing changed",
            "pg_tenancy",
        )
        .report(PgLogLevel::NOTICE);
        return Ok(());
    }
    record(org, "resume_org", before, None);
    Ok(())
}

fn record(org: &Id, operation: &str, before: Option<String>, reason: Option<&str>) {
    let told = |reason: &str| json!({ "reason": reason });
    audit::record(&Act {
        org: *org,
        operation,
        object: "tenancy.orgs",
        key: json!({ "id": id_text(org) }),
        old: before.as_deref().map(told),
        new: reason.map(told),
    });
}

/// To an invited person, who is not in the organization yet.
pub fn takes_nobody() -> ErrorReport {
    error::server_log(
        "permission denied: invitation not accepted",
        "The organization is suspended.",
    );
    fail(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "the organization takes no members in at present",
    )
    .set_detail("The invitation stays as it is.")
    .set_hint("Try again later.")
}
