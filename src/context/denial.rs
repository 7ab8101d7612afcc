//! The refusals that the hall gives, worded so that a tenant learns what to do and nothing about another organization.

use super::authority::{self, Id, id_text};
use super::seal::Broken;
use super::standing::{Reason, Standing};
use super::token::Lapsed;
use crate::pg::error::server_log;
use crate::pg::fail;
use crate::pg::key::KeyType;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

const NO_RIGHT: PgSqlErrorCode = PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE;

impl Reason {
    pub fn detail(&self) -> String {
        match self {
            Reason::NoPrincipal(login) => format!(
                "Login \"{login}\" is neither bound to a user nor trusted as an application."
            ),
            Reason::Lent => "A function of another role is in force, and does not act for the login that called it.".into(),
            Reason::NoClaim => "No organization is set (app.current_org is empty).".into(),
            Reason::Void => "The context was not set in this transaction, and this login's context lasts for one transaction only.".into(),
            Reason::Stranger => "The organization that app.current_org names does not exist, or the user does not belong to it.".into(),
            Reason::UnknownUser => "app.current_user_id names no user.".into(),
            Reason::NoToken(None) => "This login has no authority without a signed token, and none is in force in this transaction.".into(),
            Reason::NoToken(Some(Lapsed::Expired)) => "The token that this session brought has expired.".into(),
            Reason::NoToken(Some(Lapsed::KeyRetired)) => "The key that signed this session's token has been retired.".into(),
            Reason::NoToken(Some(Lapsed::OtherLogin)) => "The token was brought by another login than the one in force now.".into(),
            Reason::NoToken(Some(Lapsed::Scope)) => "This session's token was for the session, and the login's scope is transaction now.".into(),
            Reason::NoToken(Some(Lapsed::Left)) => "The token that this session brought was left, and the login is nobody in its place.".into(),
            Reason::OtherUser => "The login, token or API key says who this is, and app.current_user_id names another.".into(),
            Reason::OtherOrg => "The token or API key is for one organization, and app.current_org names another.".into(),
            Reason::NoToken(Some(Lapsed::ApiKey)) => "The API key that this session brought was revoked or has expired, or its service account is disabled.".into(),
            Reason::NoSponsor => "Nobody who belongs to the organization answers for this service account.".into(),
            Reason::Expired => "The membership has expired.".into(),
            Reason::InactiveRole(role) => format!("The member's role \"{role}\" is not active."),
            Reason::UnknownProject => "The project that app.current_project names does not exist in the organization, or the user may not see it.".into(),
            Reason::UnknownCluster => "The cluster that app.current_cluster names does not exist in the project, or the user may not see it.".into(),
            Reason::WrongNetwork { address_known: true } => "The membership or API key may be used from certain networks only, and the client's address is in none of them.".into(),
            Reason::WrongNetwork { address_known: false } => "The membership or API key may be used from certain networks only, and the client's address is not known.".into(),
        }
    }

    pub fn hint(&self) -> &'static str {
        match self {
            Reason::NoPrincipal(_) => {
                "A DBA calls tenancy.bind_login() for a person's login or tenancy.trust_application() for an application's."
            }
            Reason::Lent => {
                "Call it as a bound login or a trusted application, or make it SECURITY INVOKER."
            }
            Reason::NoClaim => {
                "Call SELECT tenancy.enter('<organization>') first, or SET LOCAL app.current_org inside the transaction."
            }
            Reason::Void => {
                "Set app.current_org with SET LOCAL, or call tenancy.enter(), after BEGIN in the same transaction."
            }
            Reason::Stranger => {
                "SELECT * FROM tenancy.my_orgs() lists where you may go. An organization is named by its id or its external key, not by its slug."
            }
            Reason::UnknownUser => {
                "Set app.current_user_id to the id or external key of a user that tenancy.create_user() made."
            }
            Reason::NoToken(None) => {
                "SELECT tenancy.authenticate('<token>') first, after BEGIN in the same transaction."
            }
            Reason::NoToken(Some(Lapsed::Left)) => {
                "End the transaction, or DISCARD ALL after a token of scope session; or bring another token."
            }
            Reason::NoToken(Some(_)) => {
                "SELECT tenancy.authenticate() with a new token, or DISCARD ALL."
            }
            Reason::OtherUser => "Leave app.current_user_id unset.",
            Reason::OtherOrg => {
                "Leave app.current_org unset, or bring a token or key for that organization."
            }
            Reason::NoSponsor => {
                "Somebody with team:role takes it over with tenancy.adopt_service_account()."
            }
            Reason::InactiveRole(_) => {
                "Somebody with team:role can activate it with tenancy.activate_role(), or give the member another one."
            }
            Reason::UnknownProject => {
                "RESET app.current_project; then SELECT * FROM tenancy.projects lists those you may see."
            }
            Reason::UnknownCluster => {
                "RESET app.current_cluster; then SELECT * FROM tenancy.clusters lists those you may see."
            }
            Reason::Expired => {
                "The organization's owner can set another end: tenancy.set_member_expiry()."
            }
            Reason::WrongNetwork {
                address_known: true,
            } => {
                "Connect from one of them, or ask the organization's owner to allow this one: tenancy.set_member_networks()."
            }
            Reason::WrongNetwork {
                address_known: false,
            } => {
                "Connect by TCP/IP; a trusted application names its user's address in app.client_addr, in the same transaction."
            }
        }
    }
}

/// A write, or a call, that needs an organization where none is in effect.
pub fn without_context(standing: &Standing, doing: &str) -> ErrorReport {
    let reason = standing.reason.clone().unwrap_or(Reason::NoClaim);
    let message = format!("permission denied: no organization in effect to {doing}");
    server_log(&message, &reason.detail());
    fail(NO_RIGHT, message)
        .set_detail(reason.detail())
        .set_hint(reason.hint())
}

/// A table whose organization column holds external keys, and an organization that has none such.
pub fn without_key(standing: &Standing, kind: KeyType, doing: &str) -> ErrorReport {
    let (name, id, key) = standing
        .org
        .as_ref()
        .map(|o| (o.name.as_str(), id_text(&o.id), o.external_key.as_deref()))
        .unwrap_or_default();
    let message = format!("permission denied: organization \"{name}\" has no key to {doing}");
    let detail = match key {
        None => format!(
            "The organization column is of type {}, and organization \"{name}\" has no external key.",
            kind.name()
        ),
        Some(key) => format!(
            "The organization column is of type {}, and the external key \"{key}\" of organization \"{name}\" is no such value.",
            kind.name()
        ),
    };
    server_log(&message, &detail);
    fail(NO_RIGHT, message).set_detail(detail).set_hint(format!(
        "A DBA gives the organization one: SELECT tenancy.set_external_key('{id}', '...')."
    ))
}

/// The role lacks the action. The server's log keeps a line, since the transaction will not.
pub fn no_right(standing: &Standing, action: &str, on: &str) -> ErrorReport {
    let org = standing
        .org
        .as_ref()
        .map(|o| format!("\"{}\" ({})", o.name, id_text(&o.id)))
        .unwrap_or_default();
    let user = match (standing.user, standing.service) {
        (Some(user), _) => format!("user {}", id_text(&user)),
        (None, Some(service)) => format!("service account {}", id_text(&service)),
        (None, None) => "no user".to_string(),
    };
    refused(&standing.role, action, on, &org, &user)
}

/// The same of a project, where the role that somebody has in it could have added the action.
pub fn no_right_in_project(
    standing: &Standing,
    action: &str,
    on: &str,
    project: &Id,
    role: Option<&str>,
) -> ErrorReport {
    let role = match role {
        Some(role) => format!("Role \"{role}\" in the project does not add it."),
        None => "There is no role in the project that would add it.".to_string(),
    };
    let refusal = no_right(standing, action, on);
    let detail = refusal.detail().unwrap_or_default().to_string();
    refusal.set_detail(format!("{detail} {role}")).set_hint(format!(
        "Ask an administrator of the project, or an owner of the organization, for a role that holds {action} there; \
         SELECT tenancy.has_project_permission('{}', '{action}') says what you have.",
        id_text(project)
    ))
}

/// A service account takes part in the organization's work and not in its government: an action that it holds gives it no
/// say over people, roles and keys.
pub fn no_service(action: &str) -> ErrorReport {
    let message = "permission denied: a service account does not govern";
    let detail = format!("People, roles and keys are managed by people who hold {action}.");
    server_log(message, &detail);
    fail(NO_RIGHT, message)
        .set_detail(detail)
        .set_hint("Act as a user: authenticate with that user's token, or by a login of his.")
}

/// What a membership that is limited to resources may not do, though its role may.
pub fn outside_scope(what: &str) -> ErrorReport {
    let message = format!("permission denied: the membership's scope does not reach {what}");
    let detail = "The membership is limited to listed resources, and this is not within them.";
    server_log(&message, detail);
    fail(NO_RIGHT, message).set_detail(detail).set_hint(
        "SELECT * FROM tenancy.list_scopes() shows the resources; whoever holds team:role changes them with tenancy.set_scope().",
    )
}

/// What no administrator may do, and why.
pub fn require_superuser(doing: &str, why: &str) -> crate::pg::Result<()> {
    no_ai(doing)?;
    if super::is_superuser() {
        return Ok(());
    }
    Err(fail(
        NO_RIGHT,
        format!("permission denied: only a superuser may {doing}"),
    )
    .set_detail(why)
    .set_hint("Ask a superuser."))
}

/// What is the owner's alone and no grantable right.
pub fn owner_only(role: &str, what: &str, org: &str, user: &str) -> ErrorReport {
    refused(role, what, "of the organization", org, user)
        .set_hint("Only the owner may: SELECT owner_id FROM tenancy.orgs says who that is.")
}

pub fn refused(role: &str, action: &str, on: &str, org: &str, user: &str) -> ErrorReport {
    let message = format!("permission denied: role \"{role}\" may not {action} {on}");
    let detail = format!("Organization {org}, {user}.");
    server_log(&message, &detail);
    fail(NO_RIGHT, message).set_detail(detail).set_hint(format!(
        "Ask an owner of the organization for a role that holds {action}; SELECT tenancy.permission_level('{}', '{action}') shows what this one has.",
        role.replace('\'', "''")
    ))
}

/// Who may do what is said by people: an AI actor neither governs an organization nor runs the DBA's functions (spec 8).
pub fn no_ai(doing: &str) -> crate::pg::Result<()> {
    if super::standing().actor_type != "ai" {
        return Ok(());
    }
    let message = format!("permission denied: an AI actor may not {doing}");
    let detail = "Whom an organization trusts with what is decided by a person.";
    server_log(&message, detail);
    Err(fail(NO_RIGHT, message)
        .set_detail(detail)
        .set_hint("A person does it, in a session of actor type human."))
}

/// One answer for an organization that does not exist and for one that is not the caller's.
pub fn stranger(org: &Id) -> ErrorReport {
    let org = id_text(org);
    server_log(
        "permission denied: organization not entered",
        &format!("Organization {org} was asked for by a session that does not belong to it."),
    );
    fail(
        NO_RIGHT,
        format!("organization \"{org}\" does not exist or you do not belong to it"),
    )
    .set_detail("Both cases answer alike.")
    .set_hint(Reason::Stranger.hint())
}

/// The organization is suspended (spec 3.9).
pub fn suspended(org: &Id, doing: &str) -> ErrorReport {
    let name = authority::org_by_id(org).map_or(String::new(), |o| o.name.clone());
    let message =
        format!("permission denied: organization \"{name}\" is suspended, cannot {doing}");
    let detail = format!(
        "What is there can be read. The reason: {}",
        authority::suspension(org).unwrap_or_default()
    );
    server_log(&message, &detail);
    fail(NO_RIGHT, message)
        .set_detail(detail)
        .set_hint("Only a DBA ends a suspension, with tenancy.resume_org().")
}

pub fn second_org() -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
        "this transaction already works for another organization or user",
    )
    .set_detail("The first protected statement of a transaction fixes its organization and user until the end.")
    .set_hint("COMMIT or ROLLBACK, then enter the other organization in a new transaction.")
}

/// Under a seal: PostgreSQL's statistics, which hold values of rows.
pub fn sealed_statistics() -> ErrorReport {
    let message = "permission denied: statistics are not read in a sealed transaction";
    let detail = "They hold values of every organization, and show them by the role in force, which a statement may change as it runs.";
    server_log(message, detail);
    fail(NO_RIGHT, message)
        .set_detail(detail)
        .set_hint("Read pg_stats in a transaction of its own, without the seal.")
}

/// Under a seal or a token: a role or a default setting is altered.
pub fn lasting_change() -> ErrorReport {
    let message = "permission denied: roles and their settings are not altered in a sealed transaction or one of a token";
    let detail = "The change would outlast the context, and meet the login's other sessions.";
    server_log(message, detail);
    fail(NO_RIGHT, message)
        .set_detail(detail)
        .set_hint("A DBA alters roles, in a session of his own.")
}

/// The context is not the sealed one any more; `ended`: because its transaction is over.
pub fn seal_broken(broken: Broken, ended: bool) -> ErrorReport {
    let message = "permission denied: the sealed context was changed";
    let detail = match (ended, broken) {
        (true, _) => {
            "Its transaction has ended, and the client's message goes on without that context."
        }
        (_, Broken::Org) => {
            "The organization sealed for this transaction is not the one in effect now."
        }
        (_, Broken::User) => "The user sealed for this transaction is not the one in effect now.",
        (_, Broken::ClientAddr) => {
            "The client's address is not the one in effect when the context was sealed."
        }
        (_, Broken::ActorType) => {
            "The actor type is not the one in effect when the context was sealed."
        }
        (_, Broken::Role) => {
            "The login or database role is not the one in force when the context was sealed."
        }
        (_, Broken::RowSecurity) => {
            "The setting row_security is not what it was when the context was sealed."
        }
    };
    server_log(message, detail);
    fail(NO_RIGHT, message).set_detail(detail).set_hint(
        "A sealed context holds until its transaction and the client's message have ended: ROLLBACK, and send what needs another one as a message of its own.",
    )
}
