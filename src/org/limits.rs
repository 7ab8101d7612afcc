//! What holds a membership in: its end, and the networks it may be used from (spec 3.7). Both are compared at every
//! statement, by the hall; here they are only set.

use super::members::{member_key, not_a_member};
use super::{invalid, lock_org, owner_rule};
use crate::access;
use crate::access::rights::Rights;
use crate::audit::{self, Act};
use crate::context::authority::{self, Id, Membership};
use crate::context::{self, network};
use crate::pg::cidr::Cidrs;
use crate::pg::query::{Arg, execute, run};
use crate::pg::{self, fail};
use pgrx::datum::Uuid;
use pgrx::prelude::*;
use serde_json::json;
use std::rc::Rc;

/// Checks the caller, before and after the wait for the organization's lock.
fn govern(org: &Id, user: &Id, what: &str) -> pg::Result<()> {
    access::require(org, "team:role", "in the organization")?;
    let owner = lock_org(org, false)?;
    access::require(org, "team:role", "in the organization")?;
    if owner == *user {
        return Err(owner_rule(
            format!("the owner's membership has no {what}"),
            "An organization has exactly one owner, always, and never one who is shut out.",
        ));
    }
    Ok(())
}

/// The caller's own membership, where he acts by it: nobody gives a later end or a wider network than he has himself, or a
/// member could lift his own limits.
fn ones_own(org: &Id) -> Option<Rc<Membership>> {
    let caller = context::standing().user;
    caller
        .filter(|_| !context::is_administrator())
        .and_then(|caller| authority::membership(org, &caller))
}

/// Refuses networks, or none where every one is meant, that are wider than the caller's own.
pub(super) fn within_ones_own(org: &Id, ranges: Option<&[ipnet::IpNet]>) -> pg::Result<()> {
    if let Some(own) = ones_own(org).as_ref().and_then(|m| m.allowed.as_ref())
        && ranges.is_none_or(|ranges| !network::is_within(ranges, own))
    {
        return Err(beyond_ones_own(
            "Your own membership is held to networks that do not contain all of these.",
        ));
    }
    Ok(())
}

fn beyond_ones_own(detail: &str) -> pgrx::pg_sys::panic::ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "permission denied: nobody gives more than he has",
    )
    .set_detail(detail)
    .set_hint("Ask the organization's owner.")
}

/// Refuses to loosen what a membership is held to, for whoever could not give its role: a member that is shut out would come
/// back with rights that nobody here holds.
fn require_may_loosen(org: &Id, user: &Id) -> pg::Result<()> {
    let role = authority::membership(org, user).map(|m| m.role.clone());
    access::require_may_assign(org, &role.unwrap_or_default(), &Rights::default())
}

/// The membership's present value of a column, as text, its row locked.
fn present(org: &Id, user: &Id, sql: &str) -> pg::Result<Option<String>> {
    run(sql, &[Arg::Uuid(org), Arg::Uuid(user)], |row| {
        row.get::<String>(1)
    })
    .pop()
    .ok_or_else(not_a_member)
}

/// Says when a membership ends by itself (spec 3.7). `expires_at`: NULL is never. It holds from the next statement of
/// every open session of that member; one that has ended comes back with a later end. Needs team:role there (or the
/// DBA), and to have no earlier end oneself; for a later end than there is, all that the member's role gives.
/// Errors: 42501 no right, or unknown organization; 22023 an end in the past; P0002 not a member; 23514 the owner.
#[pg_extern(volatile, parallel_unsafe)]
fn set_member_expiry(
    org: Option<Uuid>,
    user_id: Option<Uuid>,
    expires_at: default!(Option<TimestampWithTimeZone>, "NULL"),
) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let user_id = pg::given(user_id, "user_id")?;
    let (org, user) = (org.as_bytes(), user_id.as_bytes());
    govern(org, user, "end")?;
    let expires = expires_at.map(i64::from);
    if expires.is_some_and(|at| at <= pg::transaction::now()) {
        return Err(invalid(
            "the membership would already have expired",
            "expires_at lies in the past.",
            "tenancy.remove_member() ends it now.",
        ));
    }
    if let Some(end) = ones_own(org).and_then(|m| m.expires_at)
        && expires.is_none_or(|at| at > end)
    {
        return Err(beyond_ones_own("Your own membership ends before that."));
    }
    let old = present(
        org,
        user,
        "SELECT pg_catalog.to_jsonb(pg_catalog.timezone('UTC', expires_at)) OPERATOR(pg_catalog.#>>) '{}'
         FROM tenancy.memberships
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $2 FOR NO KEY UPDATE",
    )?;
    let loosened = authority::membership(org, user)
        .and_then(|m| m.expires_at)
        .is_some_and(|end| expires.is_none_or(|at| at > end));
    if loosened {
        require_may_loosen(org, user)?;
    }
    let new = run(
        "UPDATE tenancy.memberships SET expires_at = $3
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $2
         RETURNING pg_catalog.to_jsonb(pg_catalog.timezone('UTC', expires_at)) OPERATOR(pg_catalog.#>>) '{}'",
        &[Arg::Uuid(org), Arg::Uuid(user), Arg::Timestamp(expires)],
        |row| row.get::<String>(1),
    )
    .pop()
    .flatten();
    audit::record(&Act {
        org: *org,
        operation: "set_member_expiry",
        object: "tenancy.memberships",
        key: member_key(org, user),
        old: Some(json!({ "expires_at_utc": old })),
        new: Some(json!({ "expires_at_utc": new })),
    });
    Ok(())
}

/// Says from which networks a membership may be used (spec 3.7). `networks`: NULL is from anywhere; IPv4 written as IPv6
/// counts as IPv4. It holds from the next statement of every open session of that member. Where the client's address is
/// not known, a membership with networks is of no use: on a unix socket, or by a trusted application that does not name
/// the address in app.client_addr. Needs team:role there (or the DBA), and to be held to no narrower networks oneself; for wider ones than there are, all that the member's role gives.
/// Errors: 42501 no right, or unknown organization; 22023 an empty list or a NULL in it; P0002 not a member; 23514 the
/// owner.
#[pg_extern(volatile, parallel_unsafe)]
fn set_member_networks(
    org: Option<Uuid>,
    user_id: Option<Uuid>,
    networks: default!(Option<Cidrs>, "NULL"),
) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let user_id = pg::given(user_id, "user_id")?;
    let (org, user) = (org.as_bytes(), user_id.as_bytes());
    govern(org, user, "networks")?;
    let ranges = checked(networks.as_ref())?;
    within_ones_own(org, ranges.as_deref())?;
    let old = present(
        org,
        user,
        "SELECT allowed_networks::pg_catalog.text FROM tenancy.memberships
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $2 FOR NO KEY UPDATE",
    )?;
    let before = authority::membership(org, user).and_then(|m| m.allowed.clone());
    let within =
        |wide: &Vec<ipnet::IpNet>| ranges.as_ref().is_some_and(|r| network::is_within(r, wide));
    if before.is_some_and(|wide| !within(&wide)) {
        require_may_loosen(org, user)?;
    }
    let new = networks.map(|n| n.0);
    execute(
        "UPDATE tenancy.memberships SET allowed_networks = $3::pg_catalog.cidr[]
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $2",
        &[
            Arg::Uuid(org),
            Arg::Uuid(user),
            Arg::OptionalText(new.as_deref()),
        ],
    );
    audit::record(&Act {
        org: *org,
        operation: "set_member_networks",
        object: "tenancy.memberships",
        key: member_key(org, user),
        old: Some(json!({ "networks": old })),
        new: Some(json!({ "networks": new })),
    });
    Ok(())
}

/// The ranges of a list that was given.
pub(super) fn checked(networks: Option<&Cidrs>) -> pg::Result<Option<Vec<ipnet::IpNet>>> {
    let Some(Cidrs(text)) = networks else {
        return Ok(None);
    };
    network::parse(text)
        .filter(|ranges| !ranges.is_empty())
        .map(Some)
        .ok_or_else(|| {
            invalid(
                "a list of networks must name some",
                "It is empty, or one of them is NULL.",
                "NULL in place of the list allows every network.",
            )
        })
}
