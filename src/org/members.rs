//! Who is in an organization, and as what.

use super::{id_text, invalid, lock_org, owner_rule};
use crate::access;
use crate::audit::{self, Act};
use crate::context;
use crate::context::authority::{self, Id};
use crate::pg::query::{Arg, execute, run};
use crate::pg::{self, fail};
use pgrx::datum::Uuid;
use pgrx::prelude::*;
use serde_json::{Value, json};

/// A role that a member may be given: one of the system's or the organization's own, and never owner.
pub fn assignable(org: &Id, role: &str) -> pg::Result<()> {
    if authority::role(org, role).is_none() {
        return Err(access::unknown_role_in(org, role));
    }
    if role == "owner" {
        return Err(owner_rule(
            "an organization has exactly one owner",
            "The role owner is not given by adding or changing a member.",
        ));
    }
    Ok(())
}

pub fn not_a_member() -> pgrx::pg_sys::panic::ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
        "this user is not a member of the organization",
    )
    .set_detail("There is no such membership.")
    .set_hint("SELECT * FROM tenancy.memberships shows the members to those who hold team:read.")
}

pub fn already_a_member() -> pgrx::pg_sys::panic::ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
        "this user is already a member of the organization",
    )
    .set_detail("A user has one membership, and so one role, in an organization.")
    .set_hint("tenancy.set_member_role() changes the role.")
}

/// Makes a membership; false where the user has one, as the owner always does. What is left of an expired one goes first, with all that hung on it.
pub fn add(org: &[u8; 16], user: &[u8; 16], role: &str, expires: Option<i64>) -> bool {
    execute(
        "DELETE FROM tenancy.memberships
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $2
           AND expires_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()",
        &[Arg::Uuid(org), Arg::Uuid(user)],
    );
    execute(
        "INSERT INTO tenancy.memberships (org_id, user_id, role, expires_at)
         SELECT $1, $2, $3, $4
         WHERE NOT EXISTS (SELECT FROM tenancy.orgs WHERE id OPERATOR(pg_catalog.=) $1 AND owner_id OPERATOR(pg_catalog.=) $2)
         ON CONFLICT DO NOTHING",
        &[
            Arg::Uuid(org),
            Arg::Uuid(user),
            Arg::Text(role),
            Arg::Timestamp(expires),
        ],
    ) == 1
}

pub(super) fn member_key(org: &[u8; 16], user: &[u8; 16]) -> Value {
    json!({ "org_id": id_text(org), "user_id": id_text(user) })
}

/// Adds a user to an organization (spec 3). `role`: a system role but owner, or one of the organization's own.
/// `expires_at`: when the membership ends by itself; NULL is never. Needs team:invite there (or the DBA), and all that the
/// role has.
/// Errors: 42501 no right, unknown organization or more than the caller holds, 22023 unknown role or user or an expiry in
/// the past, 23505 already a member, 23514 for the role owner.
#[pg_extern(volatile, parallel_unsafe)]
fn add_member(
    org: Option<Uuid>,
    user_id: Option<Uuid>,
    role: Option<&str>,
    expires_at: default!(Option<TimestampWithTimeZone>, "NULL"),
) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let user_id = pg::given(user_id, "user_id")?;
    let role = pg::given(role, "role")?;
    let (org, user) = (org.as_bytes(), user_id.as_bytes());
    access::require(org, "team:invite", "in the organization")?;
    assignable(org, role)?;
    let expires = expires_at.map(i64::from);
    if expires.is_some_and(|at| at <= pg::transaction::now()) {
        return Err(invalid(
            "the membership would already have expired",
            "expires_at lies in the past.",
            "Leave it out for a membership without end.",
        ));
    }
    lock_org(org, false)?;
    // Asked again: the wait for the lock may have been one for a transfer of ownership.
    access::require(org, "team:invite", "in the organization")?;
    assignable(org, role)?;
    access::require_may_assign(org, role, &Default::default())?;
    if authority::user(&id_text(user)) != Some(*user) {
        return Err(invalid(
            "this is no registered user",
            format!("There is no user {user_id}."),
            "tenancy.create_user() registers one.",
        ));
    }
    if !add(org, user, role, expires) {
        return Err(already_a_member());
    }
    audit::record(&Act {
        org: *org,
        operation: "add_member",
        object: "tenancy.memberships",
        key: member_key(org, user),
        old: None,
        new: Some(json!({ "role": role })),
    });
    Ok(())
}

/// Gives a member another role (spec 3). Needs team:role there (or the DBA), and what the role has more than the member's
/// old one. It holds from the next statement of every open session of that member.
/// Errors: 42501 no right, unknown organization or more than the caller holds, 22023 unknown role, P0002 not a
/// member, 23514 for the role owner or the owner himself.
#[pg_extern(volatile, parallel_unsafe)]
fn set_member_role(org: Option<Uuid>, user_id: Option<Uuid>, role: Option<&str>) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let user_id = pg::given(user_id, "user_id")?;
    let role = pg::given(role, "role")?;
    let (org, user) = (org.as_bytes(), user_id.as_bytes());
    access::require(org, "team:role", "in the organization")?;
    assignable(org, role)?;
    let owner = lock_org(org, false)?;
    access::require(org, "team:role", "in the organization")?;
    if owner == *user {
        return Err(owner_rule(
            "an organization has exactly one owner",
            "The owner cannot be given another role while owning it.",
        ));
    }
    let old = run(
        "SELECT role, expires_at IS NULL OR expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()
         FROM tenancy.memberships
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $2 FOR NO KEY UPDATE",
        &[Arg::Uuid(org), Arg::Uuid(user)],
        |row| (row.get::<String>(1).unwrap_or_default(), row.get::<bool>(2)),
    )
    .pop();
    let (old, runs) = old.ok_or_else(not_a_member)?;
    // And again: the member's row may have been waited for, too.
    pg::transaction::accept_invalidations();
    access::require(org, "team:role", "in the organization")?;
    assignable(org, role)?;
    // What the member loses needs no right of the caller's to it; what comes to it does.
    let held = access::rights_of(org, if runs == Some(true) { &old } else { "" });
    access::require_may_assign(org, role, &held)?;
    execute(
        "UPDATE tenancy.memberships SET role = $3
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $2",
        &[Arg::Uuid(org), Arg::Uuid(user), Arg::Text(role)],
    );
    audit::record(&Act {
        org: *org,
        operation: "set_member_role",
        object: "tenancy.memberships",
        key: member_key(org, user),
        old: Some(json!({ "role": old })),
        new: Some(json!({ "role": role })),
    });
    Ok(())
}

/// Ends a membership (spec 3.6): it holds from the next statement of every open session; the rows the member made and
/// the audit stay. Needs team:remove there (or the DBA); anyone but the owner may leave.
/// Errors: 42501 no right or unknown organization, P0002 not a member, 23514 for the owner.
#[pg_extern(volatile, parallel_unsafe)]
fn remove_member(org: Option<Uuid>, user_id: Option<Uuid>) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let user_id = pg::given(user_id, "user_id")?;
    let (org, user) = (org.as_bytes(), user_id.as_bytes());
    context::no_ai("remove members")?;
    let leaving = context::standing().user == Some(*user) && access::role_in(org, user).is_some();
    if !leaving {
        access::require(org, "team:remove", "in the organization")?;
    }
    let owner = lock_org(org, false)?;
    if !leaving {
        access::require(org, "team:remove", "in the organization")?;
    }
    if owner == *user {
        return Err(owner_rule(
            "the owner cannot be removed from the organization",
            "An organization has exactly one owner, always.",
        ));
    }
    let old = run(
        "DELETE FROM tenancy.memberships
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $2 RETURNING role",
        &[Arg::Uuid(org), Arg::Uuid(user)],
        |row| row.get::<String>(1),
    )
    .pop()
    .flatten()
    .ok_or_else(not_a_member)?;
    audit::record(&Act {
        org: *org,
        operation: "remove_member",
        object: "tenancy.memberships",
        key: member_key(org, user),
        old: Some(json!({ "role": old })),
        new: None,
    });
    Ok(())
}
