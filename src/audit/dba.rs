//! The DBA's way to every organization's log at once, which each of them is told of.

use super::capture::{Act, record};
use super::read::{Filter, read, require_primary};
use crate::context::{self, authority::Id};
use crate::pg::error::server_log;
use crate::pg::query::latest;
use crate::pg::srf::Sink;
use crate::pg::{self, fail};
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use serde_json::json;

crate::pg::finfo!(pg_finfo_tenancy_read_audit_dba);

/// `tenancy.read_audit_dba(since, until, actor, object, operation, max_rows, org)`: the logs of all organizations, or of
/// one, each oldest first (spec 6.3). NULL leaves a filter out; max_rows is for each log. For the DBA; needs no context.
/// Every log that is read receives a line that says so, and the server's log another. Errors: 42501 not the DBA, 25006 on
/// a standby, XX001 a log was damaged.
///
/// SAFETY: called by PostgreSQL's function manager with the seven arguments that sql/50_audit.sql declares.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_read_audit_dba(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own; each argument is read as the type it is declared with.
    let (filter, org, mut sink) = unsafe {
        let args = (*fcinfo).args.as_slice(7);
        let org = pgrx::datum::Uuid::from_datum(args[6].value, args[6].isnull);
        (
            Filter::of_arguments(args),
            org.map(|u| *u.as_bytes()),
            Sink::new(fcinfo),
        )
    };
    read_all(&filter, org, &mut sink).unwrap_or_report();
    pg_sys::Datum::from(0)
}

fn read_all(filter: &Filter, only: Option<Id>, sink: &mut Sink) -> pg::Result<()> {
    if !context::is_administrator() {
        let login = context::login();
        server_log(
            "permission denied: only a DBA may read every organization's audit log",
            &format!("Login \"{login}\" tried."),
        );
        return Err(fail(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied: only a DBA may read every organization's audit log",
        )
        .set_detail("tenancy.audit_dba is not bound to one organization.")
        .set_hint("tenancy.audit_log shows the log of the organization that you are in."));
    }
    require_primary()?;
    let orgs = latest(
        "SELECT id FROM (SELECT id, created_at FROM tenancy.orgs
                         UNION SELECT org_id, created_at FROM tenancy.tombstones) AS every ORDER BY created_at, id",
        &[],
        |row| row.uuid(1),
    );
    server_log(
        "audit logs read by a DBA",
        &match only {
            Some(org) => format!(
                "Of organization {}.",
                uuid::Uuid::from_bytes(org).hyphenated()
            ),
            None => format!("Of {} organizations.", orgs.len()),
        },
    );
    for org in orgs.into_iter().flatten() {
        if only.is_some_and(|only| only != org) {
            continue;
        }
        let mut lines = 0_u64;
        read(&org, filter, |line| {
            lines += 1;
            line.show(sink)
        })?;
        record(&Act {
            org,
            operation: "read_audit_dba",
            object: "tenancy.audit_dba",
            key: json!({}),
            old: None,
            new: Some(json!({ "lines": lines, "filter": filter.told() })),
        });
    }
    Ok(())
}
