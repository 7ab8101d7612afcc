//! Nobody gives what he does not hold (spec 2): neither by assigning a role nor by editing, cloning or activating one,
//! nor by several such steps, since every single step is held to it. Taking away gives nothing, and is free.

use super::matrix::Level;
use super::rights::{Lack, Rights};
use super::{id_text, role_in};
use crate::context;
use crate::context::authority::{self, Id};
use crate::pg::{self, error, fail};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::rc::Rc;

/// Who gives.
enum Giver {
    /// The DBA, or the organization's owner.
    Anything,
    Member {
        role: String,
        rights: Rc<Rights>,
    },
}

impl Giver {
    /// A user, by what he holds in the organization at this moment; nothing where he is no member.
    fn of(org: &Id, user: &Id) -> Giver {
        let role = role_in(org, user).unwrap_or_default();
        if role == "owner" {
            return Giver::Anything;
        }
        let rights = rights_of(org, &role);
        Giver::Member { role, rights }
    }

    /// The session's.
    fn calling(org: &Id) -> Giver {
        match context::standing().user {
            _ if context::is_administrator() => Giver::Anything,
            Some(user) => Giver::of(org, &user),
            None => Giver::Member {
                role: String::new(),
                rights: Rc::default(),
            },
        }
    }

    fn lack(&self, before: &Rights, after: &Rights) -> Option<Lack> {
        match self {
            Giver::Anything => None,
            Giver::Member { rights, .. } => after.lack(before, rights),
        }
    }
}

/// What a role gives in an organization now; an inactive one nothing.
pub fn rights_of(org: &Id, role: &str) -> Rc<Rights> {
    authority::role(org, role)
        .filter(|role| role.active)
        .map(|role| role.rights)
        .unwrap_or_default()
}

/// Whether a user may give somebody a role of an organization, or invite to it: he holds, at this moment, all that the role
/// gives or would give once it is active. False for a role that does not exist and for owner. That he has team:invite or
/// team:role is asked apart.
pub fn may_assign(org: &Id, granter: &Id, role: &str) -> bool {
    let Some(given) = authority::role(org, role).filter(|_| role != "owner") else {
        return false;
    };
    Giver::of(org, granter)
        .lack(&Rights::default(), &given.rights)
        .is_none()
}

/// Refuses a role that the caller could not hold himself. `instead_of`: what the receiver has already.
pub fn require_may_assign(org: &Id, role: &str, instead_of: &Rights) -> pg::Result<()> {
    let given = authority::role(org, role)
        .map(|role| role.rights)
        .unwrap_or_default();
    require_may_give(org, role, instead_of, &given)
}

/// Refuses a change of what a role gives, where the caller himself does not hold what it would give more.
pub fn require_may_give(org: &Id, role: &str, before: &Rights, after: &Rights) -> pg::Result<()> {
    let giver = Giver::calling(org);
    match (giver.lack(before, after), giver) {
        (Some(lack), Giver::Member { role: own, .. }) => Err(not_held(org, role, &own, &lack)),
        _ => Ok(()),
    }
}

fn not_held(org: &Id, role: &str, own: &str, lack: &Lack) -> ErrorReport {
    let matrix = authority::matrix();
    let action = matrix
        .actions()
        .find(|(_, number)| *number == lack.action)
        .map_or("?", |(name, _)| name);
    let place = lack
        .environment
        .as_ref()
        .map_or(String::new(), |name| format!(" in environment \"{name}\""));
    let message = format!("permission denied: nobody gives what he does not hold ({action})");
    let held = match lack.held {
        Level::Deny => "does not have it".to_string(),
        level => format!("has it as {}", level.name()),
    };
    let detail = format!(
        "Role \"{role}\" would give {action} ({}){place}, and your role \"{own}\" {held} there.",
        lack.wanted.name()
    );
    error::server_log(
        &message,
        &format!("{detail} Organization {}.", id_text(org)),
    );
    fail(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
        .set_detail(detail)
        .set_hint("Ask the organization's owner, or somebody who holds it.")
}
