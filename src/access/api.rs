//! The matrix as SQL functions.

use super::matrix::Level;
use super::{action, unknown_role};
use crate::context::{self, authority};
use crate::pg;
use pgrx::datum::Uuid;
use pgrx::prelude::*;

fn level(role: &str, action_name: &str) -> pg::Result<Level> {
    let matrix = authority::matrix();
    let action = action(&matrix, action_name)?;
    matrix
        .level(role, action)
        .ok_or_else(|| unknown_role(&matrix, role))
}

/// Whether `role` holds `action`: true for allow, false for limited and deny (spec 2). Anyone may ask.
/// Errors: 22023 for an unknown role or action, with the nearest known name as hint.
#[pg_extern(stable, parallel_safe, name = "has_permission")]
fn role_has_permission(role: &str, action: &str) -> pg::Result<bool> {
    Ok(level(role, action)? == Level::Allow)
}

/// What `role` has on `action`: allow, limited or deny (spec 2). Anyone may ask.
/// Errors: 22023 for an unknown role or action, with the nearest known name as hint.
#[pg_extern(stable, parallel_safe)]
fn permission_level(role: &str, action: &str) -> pg::Result<&'static str> {
    Ok(level(role, action)?.name())
}

/// Whether the current context may do `action` in the effective organization (spec 2, 4); false where none is in
/// effect. Anyone may ask. Errors: 22023 for an unknown action.
#[pg_extern(stable, parallel_safe, name = "has_permission")]
fn context_has_permission(action: &str) -> pg::Result<bool> {
    let now = context::standing();
    let action = super::action(&now.matrix, action)?;
    Ok(now.may(action))
}

/// Whether a user may do `action` in an organization (spec 2). For oneself, for holders of team:read there, and for
/// the DBA; anyone else hears that the organization does not exist.
/// Errors: 42501 not yours to ask, 22023 for an unknown action.
#[pg_extern(stable, parallel_safe, name = "has_permission")]
fn user_has_permission(user_id: Uuid, org: Uuid, action: &str) -> pg::Result<bool> {
    let matrix = authority::matrix();
    let index = super::action(&matrix, action)?;
    let (user, org) = (user_id.as_bytes(), org.as_bytes());
    context::known_org(org)?;
    if !context::is_administrator() {
        let asker = context::standing()
            .user
            .ok_or_else(|| context::stranger(org))?;
        let team_read = super::action(&matrix, "team:read")?;
        if super::role_in(org, &asker).is_none()
            || (asker != *user && !super::user_may(org, &asker, team_read))
        {
            return Err(context::stranger(org));
        }
    }
    Ok(super::user_may(org, user, index))
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
