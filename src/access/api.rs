//! The matrix as SQL functions.

use super::matrix::Level;
use super::rights::Rights;
use super::{level_of, rights_of, unknown_role, unknown_role_in};
use crate::context;
use crate::context::authority::{self, Id};
use crate::pg;
use pgrx::datum::Uuid;
use pgrx::prelude::*;
use std::rc::Rc;

/// What a role gives: one of the system's, or in the current organization one of its own, which its members know who
/// have it or team:read; to anyone else it is unknown.
fn known_role(role: &str) -> pg::Result<Rc<Rights>> {
    let matrix = authority::matrix();
    if let Some(rights) = matrix.rights(role) {
        return Ok(rights);
    }
    let now = context::standing();
    let Some(org) = now.org_id() else {
        return Err(unknown_role(&matrix, role));
    };
    let may_read = now.matrix.action("team:read").is_some_and(|a| now.may(a));
    if (now.role == role || may_read) && authority::role(&org, role).is_some() {
        return Ok(rights_of(&org, role));
    }
    Err(unknown_role_in(&org, role))
}

fn level(role: &str, action: &str, environment: Option<&str>) -> pg::Result<Level> {
    let action = super::action(&authority::matrix(), action)?;
    Ok(known_role(role)?.level_in(action, environment))
}

/// Whether `role` holds `action`: true for allow, false for limited and deny (spec 2). `role`: a system role, or one of
/// the current organization's own (an inactive one holds nothing). Anyone may ask of the former and of his own role; of
/// the latter who has team:read. What a role holds in some environments only is false: see `has_permission_in()`.
/// Errors: 22023 for an unknown role or action, with the nearest known name as hint.
#[pg_extern(stable, parallel_safe, name = "has_permission")]
fn role_has_permission(role: &str, action: &str) -> pg::Result<bool> {
    Ok(level(role, action, None)? == Level::Allow)
}

/// What `role` has on `action`: allow, limited or deny (spec 2). `environment`: there; NULL for what it has in every
/// environment. Anyone may ask, as `has_permission(role, action)` says.
/// Errors: 22023 for an unknown role or action, with the nearest known name as hint.
#[pg_extern(stable, parallel_safe)]
fn permission_level(
    role: Option<&str>,
    action: Option<&str>,
    environment: default!(Option<&str>, "NULL"),
) -> pg::Result<Option<String>> {
    let (Some(role), Some(action)) = (role, action) else {
        return Ok(None);
    };
    Ok(Some(level(role, action, environment)?.name().to_string()))
}

/// Whether the current context may do `action` in the effective organization (spec 2, 4), whatever the environment; false
/// where no organization is in effect. Anyone may ask. Errors: 22023 for an unknown action.
#[pg_extern(stable, parallel_safe, name = "has_permission")]
fn context_has_permission(action: &str) -> pg::Result<bool> {
    let now = context::standing();
    let action = super::action(&now.matrix, action)?;
    Ok(now.may(action))
}

/// Whether the current context may do `action` on what belongs to `environment` (spec 2): a role may have an action in
/// some environments only. Anyone may ask. Errors: 22023 for an unknown action.
#[pg_extern(stable, parallel_safe)]
fn has_permission_in(environment: &str, action: &str) -> pg::Result<bool> {
    let now = context::standing();
    let action = super::action(&now.matrix, action)?;
    // A membership that is limited to resources has no right in the organization as a whole.
    let whole = now.scopes.is_none();
    Ok(whole && super::level_in(&now, action, Some(environment)) == Level::Allow)
}

/// Refuses questions about a user's rights in an organization, but for oneself, holders of team:read there, and the DBA;
/// anyone else hears that the organization does not exist.
pub fn require_may_ask(org: &Id, about: Option<&Id>) -> pg::Result<()> {
    context::known_org(org)?;
    if context::is_administrator() {
        return Ok(());
    }
    let now = context::standing();
    let asker = now.user;
    if now.service.is_some()
        && now.org_id() == Some(*org)
        && now.matrix.action("team:read").is_some_and(|a| now.may(a))
    {
        return Ok(());
    }
    let is_member = asker.is_some_and(|asker| super::role_in(org, &asker).is_some());
    if is_member && (asker.as_ref() == about || super::may(org, "team:read")?) {
        return Ok(());
    }
    Err(context::stranger(org))
}

/// Whether a user may do `action` in an organization (spec 2). `environment`: on what belongs to it; NULL for every one.
/// For oneself, for holders of team:read there, and for the DBA; anyone else hears that the organization does not exist.
/// Errors: 42501 not yours to ask, 22023 for an unknown action.
#[pg_extern(stable, parallel_safe, name = "has_permission")]
fn user_has_permission(
    user_id: Option<Uuid>,
    org: Option<Uuid>,
    action: Option<&str>,
    environment: default!(Option<&str>, "NULL"),
) -> pg::Result<Option<bool>> {
    let (Some(user), Some(org), Some(action)) = (user_id, org, action) else {
        return Ok(None);
    };
    let index = super::action(&authority::matrix(), action)?;
    let (user, org) = (user.as_bytes(), org.as_bytes());
    require_may_ask(org, Some(user))?;
    Ok(Some(
        !super::is_scoped(org, user) && level_of(org, user, index, environment) == Level::Allow,
    ))
}

/// Whether the row of a user in `tenancy.users` is one that the context may see: one's own, and with `team:read` those of
/// the organization's members (spec 2). The policy of that table; it answers false and never raises, so that it can come
/// before every condition of the querier's. Anyone may call it. `user_id`: the user.
#[pg_extern(stable, parallel_safe)]
fn sees_user(user_id: Option<Uuid>) -> bool {
    let now = context::standing();
    let Some(user) = user_id else { return false };
    if now.user == Some(*user.as_bytes()) {
        return true;
    }
    let Some(org) = now.org_id() else {
        return false;
    };
    now.matrix.action("team:read").is_some_and(|a| now.may(a))
        && authority::membership(&org, user.as_bytes()).is_some()
}
