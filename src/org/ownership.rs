//! Handing an organization on.

use super::create::check_owned;
use super::owner_alone::lock_as_owner;
use super::{id_text, invalid};
use crate::audit::{self, Act};
use crate::context;
use crate::pg::query::{Arg, execute, run};
use crate::pg::{self, fail};
use pgrx::datum::Uuid;
use pgrx::prelude::*;
use serde_json::json;

/// Makes an active, unexpired, unscoped member the organization's owner, who is then held to no networks; the old owner becomes
/// admin, in one step (spec 3.3).
/// For the owner alone (or the DBA); it is no grantable right.
/// Errors: 42501 not the owner or unknown organization, 22023 the target is no active member, 54000 the target owns
/// as many organizations as allowed.
#[pg_extern(volatile, parallel_unsafe)]
fn transfer_ownership(org: Option<Uuid>, new_owner: Option<Uuid>) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let new_owner = pg::given(new_owner, "new_owner")?;
    let (org, target) = (org.as_bytes(), new_owner.as_bytes());
    let known = context::known_org(org)?;
    context::no_ai("transfer ownership")?;
    // Of two transfers at once the second finds that it is no longer its to give.
    let owner = lock_as_owner(org, "transfer ownership")?;
    if owner == *target {
        return Err(invalid(
            "this user already owns the organization",
            "There is nothing to transfer.",
            "Name another member as new_owner.",
        ));
    }
    let eligible = run(
        "SELECT m.allowed_networks::pg_catalog.text FROM tenancy.memberships AS m
         WHERE m.org_id OPERATOR(pg_catalog.=) $1 AND m.user_id OPERATOR(pg_catalog.=) $2 AND m.expires_at IS NULL
           AND NOT m.scoped
           AND NOT EXISTS (SELECT FROM tenancy.custom_roles AS r
                           WHERE r.org_id OPERATOR(pg_catalog.=) m.org_id
                             AND r.name OPERATOR(pg_catalog.=) m.role AND NOT r.active)
         FOR NO KEY UPDATE OF m",
        &[Arg::Uuid(org), Arg::Uuid(target)],
        |row| row.get::<String>(1),
    );
    let Some(networks) = eligible.into_iter().next() else {
        return Err(invalid(
            "the new owner must be an active member without expiry or scope",
            format!(
                "User {new_owner} is not, in organization \"{}\".",
                known.name
            ),
            "Add the user with tenancy.add_member() first; a stranger is invited, not made owner. tenancy.unscope_member() takes a scope away.",
        ));
    };
    check_owned(target)?;
    // The mirror trigger on orgs changes both membership rows with it.
    let moved = execute(
        "UPDATE tenancy.orgs SET owner_id = $2 WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(org), Arg::Uuid(target)],
    );
    if moved != 1 {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            "the organization went away meanwhile",
        ));
    }
    audit::record(&Act {
        org: *org,
        operation: "transfer_ownership",
        object: "tenancy.orgs",
        key: json!({ "id": id_text(org) }),
        old: Some(said(&owner, networks)),
        new: Some(said(target, None)),
    });
    Ok(())
}

/// The owner, and the networks that the coming one was held to.
fn said(owner: &[u8; 16], networks: Option<String>) -> serde_json::Value {
    let mut said = json!({ "owner_id": id_text(owner) });
    if let Some(networks) = networks {
        said["networks_of_new_owner"] = networks.into();
    }
    said
}
