//! What a role may do: actions, grant levels, roles, and questions about them (spec section 2).

mod actions;
pub mod api;
mod giving;
pub mod matrix;
pub mod published;
mod report;
pub mod rights;
mod roles;
pub mod scopes;

pub use actions::hold as hold_action;
pub use giving::may_assign;
pub use giving::{require_may_assign, rights_of};

use crate::context::authority::{self, Id, id_text};
use crate::context::{self, Standing};
use crate::pg::error::invalid;
use crate::pg::query::{Arg, latest};
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

/// A name of none of the system's roles, where only those count.
pub fn unknown_role(matrix: &Matrix, role: &str) -> ErrorReport {
    let nearest = matrix::nearest(role, matrix.role_names());
    unknown("role", role, nearest, "tenancy.roles")
}

/// A name of no role that the organization knows. Its own roles are named to those only who may read them.
pub fn unknown_role_in(org: &Id, role: &str) -> ErrorReport {
    let matrix = authority::matrix();
    if !may(org, "team:read").unwrap_or(false) {
        return unknown_role(&matrix, role);
    }
    let own = latest(
        "SELECT name FROM tenancy.custom_roles WHERE org_id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(org)],
        |row| row.get::<String>(1).unwrap_or_default(),
    );
    let names = matrix.role_names().chain(own.iter().map(String::as_str));
    let nearest = matrix::nearest(role, names).map(str::to_string);
    unknown("role", role, nearest.as_deref(), "tenancy.roles")
        .set_detail("The tables tenancy.roles and tenancy.custom_roles list the known ones.")
}

pub fn level_named(name: &str) -> pg::Result<Level> {
    Level::named(name).ok_or_else(|| {
        invalid(
            "unknown level",
            "What a role has on an action is allow, limited or deny.",
            "Leave level out for allow.",
        )
    })
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
    std::str::from_utf8(name).is_ok_and(|name| {
        let matrix = authority::matrix();
        crate::isolation::parts(name)
            .all(|part| matrix.action(crate::isolation::asked(part).name).is_some())
    })
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

/// Whether a user's role in an organization allows an action there, whatever the session's context is. A membership that
/// is limited to resources has no right in the organization as a whole (spec 3.8).
pub fn user_may(org: &Id, user: &Id, action: Action) -> bool {
    !is_scoped(org, user) && level_of(org, user, action, None) == Level::Allow
}

/// Whether a membership is limited to listed resources.
pub fn is_scoped(org: &Id, user: &Id) -> bool {
    authority::membership(org, user).is_some_and(|m| m.scopes.is_some())
}

/// What a user's role in an organization has on an action, in an environment or, without one, in all of them.
pub fn level_of(org: &Id, user: &Id, action: Action, environment: Option<&str>) -> Level {
    role_in(org, user).map_or(Level::Deny, |role| {
        rights_of(org, &role).level_in(action, environment)
    })
}

/// What the context has on an action for rows of an environment. Without one it is what holds in every environment: rows
/// that name none must not pass by a grant for one.
#[allow(dead_code, reason = "tables with an environment column ask it")]
pub fn level_in(now: &Standing, action: Action, environment: Option<&str>) -> Level {
    if now.org.is_none() {
        return Level::Deny;
    }
    now.level_in(action, environment)
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
        if now.service.is_some() && now.org_id() == Some(*org) {
            return Err(context::no_service(action_name));
        }
        return Err(context::stranger(org));
    };
    let Some(role) = role_in(org, &user) else {
        return Err(context::stranger(org));
    };
    if user_may(org, &user, action(&now.matrix, action_name)?) {
        return Ok(());
    }
    if is_scoped(org, &user) {
        return Err(context::outside_scope(&format!("{action_name} {on}")));
    }
    Err(context::refused(
        &role,
        action_name,
        on,
        &format!("\"{}\" ({})", known.name, id_text(org)),
        &format!("user {}", id_text(&user)),
    ))
}
