//! Whether owner and admins get into restricted projects.

use crate::access;
use crate::audit::{self, Act};
use crate::org::{id_text, lock_org};
use crate::pg;
use crate::pg::query::{Arg, execute, run};
use pgrx::datum::Uuid;
use pgrx::prelude::*;
use serde_json::json;

/// Says whether an organization's owner and admins have no implicit access to what is in its restricted projects (spec 9):
/// they still see that a project is there, delete it and manage its members, themselves among them, which the log tells.
/// Needs team:role there (or the DBA). It holds from the next statement of every open session. Errors: 42501 no right or
/// unknown organization.
#[pg_extern(volatile, parallel_unsafe)]
fn set_strict_project_access(org: Option<Uuid>, strict: Option<bool>) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let org = org.as_bytes();
    let strict = pg::given(strict, "strict")?;
    access::require(org, "team:role", "in the organization")?;
    lock_org(org, true)?;
    access::require(org, "team:role", "in the organization")?;
    let old = run(
        "SELECT strict_access FROM tenancy.project_settings WHERE org_id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(org)],
        |row| row.get::<bool>(1),
    );
    execute(
        "INSERT INTO tenancy.project_settings AS s (org_id, strict_access) VALUES ($1, $2)
         ON CONFLICT (org_id) DO UPDATE SET strict_access = EXCLUDED.strict_access",
        &[Arg::Uuid(org), Arg::Flag(strict)],
    );
    audit::record(&Act {
        org: *org,
        operation: "set_strict_project_access",
        object: "tenancy.project_settings",
        key: json!({ "org_id": id_text(org) }),
        old: Some(json!({ "strict_access": old.contains(&Some(true)) })),
        new: Some(json!({ "strict_access": strict })),
    });
    Ok(())
}
