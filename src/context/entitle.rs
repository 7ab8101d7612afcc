//! From claim to right: what the session says, held against who its principal is and what that one has in the organization.

use super::authority::{self, ApiKey, Id, Membership, Org};
use super::network;
use super::principal::Principal;
use super::projects;
use super::settings::{self, Setting};
use super::standing::{Reason, Standing, standing};
use super::token::{self, Lapsed};
use crate::pg::{self, identity};
use ipnet::IpNet;
use std::rc::Rc;

pub(super) fn entitle(s: &mut Standing) -> Result<(), Reason> {
    s.user = claimed_user(&s.principal)?;
    s.actor_type = actor_type(&s.principal, s.user.is_some());
    if matches!(s.principal, Principal::Token { .. }) {
        s.expires_at = token::until();
    }
    let org = claimed_org(&s.principal)?;
    match (&s.user, &s.principal) {
        (Some(user), _) => {
            let membership = authority::membership(&org.id, user).ok_or(Reason::Stranger)?;
            s.expires_at = [s.expires_at, membership.expires_at]
                .into_iter()
                .flatten()
                .min();
            if s.expired() {
                return Err(Reason::Expired);
            }
            check_network(s, membership.allowed.as_deref())?;
            let role = authority::role(&org.id, &membership.role).filter(|role| role.active);
            let inactive = || Reason::InactiveRole(membership.role.clone());
            s.rights = role.ok_or_else(inactive)?.rights;
            s.role.clone_from(&membership.role);
            s.scopes.clone_from(&membership.scopes);
        }
        (None, Principal::Service { key, .. }) => {
            let key = authority::api_key(key).ok_or(Reason::NoToken(Some(Lapsed::ApiKey)))?;
            serve(s, &org, &key)?;
        }
        (None, Principal::Application { service_role, .. }) => {
            s.role.clone_from(service_role);
            s.rights = s.matrix.rights(&s.role).unwrap_or_default();
        }
        (None, Principal::Dba) => {
            s.role = "dba".into();
            s.rights = Rc::new(s.matrix.everything());
        }
        (None, Principal::Nobody { login }) => return Err(Reason::NoPrincipal(login.clone())),
        (None, Principal::Tokenless { lapsed }) => return Err(Reason::NoToken(*lapsed)),
        (None, Principal::User { .. } | Principal::Token { .. }) => {
            return Err(Reason::UnknownUser);
        }
    }
    s.org = Some(org);
    s.narrowed = projects::narrowed(s)?;
    Ok(())
}

/// What a service account's key gives: the account's role, as far as the member who answers for the account holds it
/// himself at this moment.
fn serve(s: &mut Standing, org: &Org, key: &ApiKey) -> Result<(), Reason> {
    check_network(s, key.allowed.as_deref())?;
    let sponsor = key
        .sponsor
        .and_then(|user| authority::membership(&org.id, &user))
        .ok_or(Reason::NoSponsor)?;
    if sponsor
        .expires_at
        .is_some_and(|at| at <= pg::transaction::now())
    {
        return Err(Reason::NoSponsor);
    }
    s.expires_at = [key.expires_at, sponsor.expires_at]
        .into_iter()
        .flatten()
        .min();
    let role = authority::role(&org.id, &key.role).filter(|role| role.active);
    let role = role.ok_or_else(|| Reason::InactiveRole(key.role.clone()))?;
    let held = crate::access::rights_of(&org.id, &sponsor.role);
    s.rights = Rc::new(role.rights.in_common(&held));
    // Never above whoever answers for it: what he is limited to limits it.
    s.scopes.clone_from(&sponsor.scopes);
    s.role.clone_from(&key.role);
    Ok(())
}

fn check_network(s: &mut Standing, allowed: Option<&[IpNet]>) -> Result<(), Reason> {
    let Some(allowed) = allowed else {
        return Ok(());
    };
    s.by_connection = matches!(
        network::origin(&s.principal),
        network::Origin::Connection(_)
    );
    let address = network::address_of_user(&s.principal);
    if network::admits(allowed, address) {
        return Ok(());
    }
    Err(Reason::WrongNetwork {
        address_known: address.is_some(),
    })
}

/// Whether a membership may be used from where the session's client is; true of everybody else's, of whose address nothing
/// is known.
pub fn admits_from_here(user: &Id, membership: &Membership) -> bool {
    membership.allowed.as_ref().is_none_or(|allowed| {
        let now = standing();
        now.user != Some(*user)
            || network::admits(allowed, network::address_of_user(&now.principal))
    })
}

/// The organization that the session names. A token's own needs no naming, and allows no other.
fn claimed_org(principal: &Principal) -> Result<Rc<Org>, Reason> {
    let claim = settings::claimed(Setting::Org);
    let valid = |c: &settings::Claimed| c.in_this_transaction || !principal.transaction_scoped();
    let only = match principal {
        Principal::Token { org: Some(org), .. } => Some(authority::org(org)),
        Principal::Service { org, .. } => Some(authority::org_by_id(org)),
        _ => None,
    };
    if let Some(org) = only {
        let org = org.ok_or(Reason::Stranger)?;
        return match claim.filter(valid).map(|c| authority::org(&c.text)) {
            None => Ok(org),
            Some(Some(claimed)) if claimed.id == org.id => Ok(org),
            Some(_) => Err(Reason::OtherOrg),
        };
    }
    match claim {
        None => Err(Reason::NoClaim),
        Some(c) if !valid(&c) => Err(Reason::Void),
        Some(c) => authority::org(&c.text).ok_or(Reason::Stranger),
    }
}

fn claimed_user(principal: &Principal) -> Result<Option<Id>, Reason> {
    let claim = settings::claimed(Setting::User);
    match principal {
        Principal::Nobody { .. } if identity::is_lent() => Err(Reason::Lent),
        Principal::Nobody { login } => Err(Reason::NoPrincipal(login.clone())),
        Principal::Tokenless { lapsed } => Err(Reason::NoToken(*lapsed)),
        Principal::User { user } => match claim {
            Some(c) if authority::user(&c.text) != Some(*user) => Err(Reason::OtherUser),
            _ => Ok(Some(*user)),
        },
        Principal::Token { user, .. } => match claim {
            // One that the pooler's previous client left behind says nothing.
            Some(c)
                if (c.in_this_transaction || !principal.transaction_scoped())
                    && authority::user(&c.text) != Some(*user) =>
            {
                Err(Reason::OtherUser)
            }
            _ => authority::user(&authority::id_text(user))
                .filter(|known| known == user)
                .map(Some)
                .ok_or(Reason::UnknownUser),
        },
        // As for a token: what an earlier transaction left behind says nothing.
        Principal::Service { .. } => match claim {
            Some(c) if c.in_this_transaction || !principal.transaction_scoped() => {
                Err(Reason::OtherUser)
            }
            _ => Ok(None),
        },
        Principal::Application { .. } | Principal::Dba => match claim {
            None => Ok(None),
            Some(c) if principal.transaction_scoped() && !c.in_this_transaction => {
                Err(Reason::Void)
            }
            Some(c) => authority::user(&c.text)
                .map(Some)
                .ok_or(Reason::UnknownUser),
        },
    }
}

/// Whether app.current_user_id says anything at all, void or not.
pub fn names_a_user() -> bool {
    settings::claimed(Setting::User).is_some()
}

/// The login's name.
pub fn login() -> String {
    identity::role_name(identity::session_user()).unwrap_or_default()
}

/// Whether that is its name now.
pub fn is_login(name: &str) -> bool {
    identity::is_named(identity::session_user(), name)
}

/// A setting's value, where this principal's context may still rest on it: a pooler's next client inherits nothing of
/// a transaction-scoped login's.
pub fn honoured(principal: &Principal, setting: Setting) -> Option<String> {
    settings::claimed(setting)
        .filter(|c| c.in_this_transaction || !principal.transaction_scoped())
        .map(|c| c.text)
}

/// Only a trusted application (or the DBA) says whether a person, an AI or a service acts.
fn actor_type(principal: &Principal, has_user: bool) -> &'static str {
    if let Principal::Token { actor_type, .. } = principal {
        return actor_type;
    }
    if let Principal::Service { .. } = principal {
        return "service";
    }
    let named = match principal {
        Principal::Application { .. } | Principal::Dba => honoured(principal, Setting::ActorType),
        _ => None,
    };
    match named.as_deref() {
        Some("ai") => "ai",
        Some("service") => "service",
        Some("human") => "human",
        _ if has_user || *principal == Principal::Dba => "human",
        _ => "service",
    }
}
