//! What a role may do: actions, grant levels, roles, and questions about them (spec section 2).

pub mod api;
pub mod matrix;

use crate::context;
use crate::context::authority::{self, Id};
use crate::pg::{self, fail};
use matrix::{Action, Level, Matrix};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

const UNKNOWN: PgSqlErrorCode = PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE;

/// An unknown action is an error that names the nearest known one, never a silent false.
pub fn unknown_action(matrix: &Matrix, action: &str) -> ErrorReport {
    unknown(
        "action",
        action,
        matrix.nearest_action(action),
        "tenancy.actions",
    )
}

pub fn unknown_role(matrix: &Matrix, role: &str) -> ErrorReport {
    unknown("role", role, matrix.nearest_role(role), "tenancy.roles")
}

fn unknown(what: &str, name: &str, nearest: Option<&str>, table: &str) -> ErrorReport {
    let shown: String = name.chars().take(80).collect();
    fail(UNKNOWN, format!("unknown {what} \"{shown}\""))
        .set_detail(format!("The table {table} lists the known ones."))
        .set_hint(match nearest {
            Some(nearest) => format!("Did you mean \"{nearest}\"?"),
            None => format!("{table} is empty."),
        })
}

pub fn action_is_known(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok_and(|name| authority::matrix().action(name).is_some())
}

pub fn action(matrix: &Matrix, name: &str) -> pg::Result<Action> {
    matrix
        .action(name)
        .ok_or_else(|| unknown_action(matrix, name))
}

/// The role a user has in an organization now: none for strangers and expired members, nor for oneself from a network
/// that the membership is not for.
pub fn role_in(org: &Id, user: &Id) -> Option<String> {
    authority::membership(org, user)
        .filter(|m| m.expires_at.is_none_or(|at| at > pg::transaction::now()))
        .filter(|m| context::admits_from_here(user, m))
        .map(|m| m.role.clone())
}

/// Whether a user's role in an organization allows an action there, whatever the session's context is.
pub fn user_may(org: &Id, user: &Id, action: Action) -> bool {
    role_in(org, user)
        .and_then(|role| authority::matrix().level(&role, action))
        .is_some_and(|level| level == Level::Allow)
}

/// What a user has on an action in an organization, whatever the session's context is.
pub fn level_of(org: &Id, user: &Id, action: Action, _environment: Option<&str>) -> Level {
    role_in(org, user)
        .and_then(|role| authority::matrix().level(&role, action))
        .unwrap_or_default()
}

/// Whether an action says who may do what, or what becomes of the organization.
fn governs(action: &str) -> bool {
    let (what, verb) = action.split_once(':').unwrap_or((action, ""));
    match what {
        "team" | "billing" | "finops" => verb != "read",
        "org" => matches!(verb, "update" | "delete"),
        "ai" => matches!(verb, "approve" | "controls" | "provider"),
        _ => false,
    }
}

/// Whether the caller may do an action in an organization: as the DBA, or as the user that the session acts for.
pub fn may(org: &Id, action_name: &str) -> pg::Result<bool> {
    let now = context::standing();
    let action = action(&now.matrix, action_name)?;
    Ok(context::is_administrator() || now.user.is_some_and(|user| user_may(org, &user, action)))
}

/// Refuses a governance act in `org` unless the session's user may do `action` there, or the caller is the DBA.
/// A stranger hears the same as for an organization that does not exist.
pub fn require(org: &Id, action_name: &str, on: &str) -> pg::Result<()> {
    let known = context::known_org(org)?;
    if governs(action_name) {
        context::no_ai(&format!("{action_name} {on}"))?;
    }
    if context::is_administrator() {
        return Ok(());
    }
    let now = context::standing();
    let Some(user) = now.user else {
        return Err(context::stranger(org));
    };
    let Some(role) = role_in(org, &user) else {
        return Err(context::stranger(org));
    };
    if user_may(org, &user, action(&now.matrix, action_name)?) {
        return Ok(());
    }
    let id = |id: &Id| uuid::Uuid::from_bytes(*id).hyphenated().to_string();
    Err(context::refused(
        &role,
        action_name,
        on,
        &format!("\"{}\" ({})", known.name, id(org)),
        &format!("user {}", id(&user)),
    ))
}
