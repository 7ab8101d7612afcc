//! Who the session acts as. The login decides, or the token it brought: SET ROLE changes what a role may touch, never who
//! is asking.

use super::authority::{self, Binding, Id};
use super::token::{self, Lapsed};
use crate::pg::identity;

#[derive(Clone, Debug, PartialEq)]
pub enum Principal {
    /// A login that is neither bound nor trusted: no rows.
    Nobody { login: String },
    /// A login that is nobody without a token, or a session whose token has lapsed.
    Tokenless { lapsed: Option<Lapsed> },
    /// A person with a login of their own.
    User { user: Id },
    /// Whom a signed token names, within the organization it names if it does.
    Token {
        user: Id,
        org: Option<String>,
        actor_type: &'static str,
        session_scope: bool,
    },
    /// A service account, by an API key of its organization's.
    Service {
        account: Id,
        org: Id,
        key: Id,
        session_scope: bool,
    },
    /// An application that names its users itself.
    Application {
        session_scope: bool,
        service_role: String,
    },
    /// A superuser's login: it could bypass anyway, and is held to one organization against mistakes (spec 11.1).
    Dba,
}

impl Principal {
    pub fn kind(&self) -> &'static str {
        match self {
            Principal::Nobody { .. } | Principal::Tokenless { .. } => "none",
            Principal::User { .. } => "user",
            Principal::Token { .. } => "token",
            Principal::Service { .. } => "service",
            Principal::Application { .. } => "application",
            Principal::Dba => "dba",
        }
    }

    /// How long a context of this principal may last.
    pub fn scope(&self) -> Option<&'static str> {
        match self {
            Principal::Nobody { .. } | Principal::Tokenless { .. } => None,
            Principal::Application {
                session_scope: false,
                ..
            }
            | Principal::Token {
                session_scope: false,
                ..
            }
            | Principal::Service {
                session_scope: false,
                ..
            } => Some("transaction"),
            _ => Some("session"),
        }
    }

    pub fn transaction_scoped(&self) -> bool {
        self.scope() == Some("transaction")
    }
}

pub fn principal() -> Principal {
    let session = identity::session_user();
    let login = identity::role_name(session).unwrap_or_default();
    // Index functions and the like, run by ANALYZE or autovacuum as the table's owner: nobody's principal is theirs.
    if identity::is_restricted() {
        return Principal::Nobody { login };
    }
    let binding = authority::binding(&login);
    if let Some(Binding::User { user }) = binding {
        return Principal::User { user };
    }
    if let Some(principal) = token::principal() {
        return principal;
    }
    let left = Principal::Tokenless {
        lapsed: Some(Lapsed::Left),
    };
    match binding {
        Some(Binding::User { user }) => Principal::User { user },
        Some(Binding::Token { .. }) => Principal::Tokenless { lapsed: None },
        Some(Binding::Application { .. }) if token::was_brought() => left,
        Some(Binding::Application {
            session_scope,
            service_role,
        }) => Principal::Application {
            session_scope,
            service_role,
        },
        // A weaker role's definer function that a superuser calls does not become the DBA by it.
        None if identity::is_superuser(session) && !identity::is_lent() => {
            if token::was_brought() {
                left
            } else {
                Principal::Dba
            }
        }
        None => Principal::Nobody { login },
    }
}

/// Whether the caller is a superuser in his own right: no definer function's strength, and none lent to its owner.
pub fn is_superuser() -> bool {
    identity::both(identity::is_superuser)
}

/// Whether the caller may run the DBA's functions: a superuser, or a member of a role that
/// `grant_administration()` named. SECURITY DEFINER functions lend this to nobody.
pub fn is_administrator() -> bool {
    is_superuser() || {
        let administrators = administrators();
        identity::both(|caller| belongs(caller, &administrators))
    }
}

/// Whether a database role, by its name, is one that may run the DBA's functions now.
pub fn is_administrators(role: &str) -> bool {
    identity::role_id(role)
        .is_some_and(|role| identity::is_superuser(role) || belongs(role, &administrators()))
}

fn administrators() -> Vec<pgrx::pg_sys::Oid> {
    authority::administrators()
        .iter()
        .filter_map(|name| identity::role_id(name))
        .collect()
}

fn belongs(role: pgrx::pg_sys::Oid, administrators: &[pgrx::pg_sys::Oid]) -> bool {
    administrators
        .iter()
        .any(|administrator| identity::has_privileges_of(role, *administrator))
}
