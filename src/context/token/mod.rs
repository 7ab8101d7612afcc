//! Signed tokens (spec 4): who a connection speaks for, proved by the application's signature and not by the login, so
//! that whoever else sends SQL through the same connection is nobody.
//!
//! A token says only who. What that user may do is looked up live, as for everybody: a token outlives no removal.

pub mod api_key;
pub mod crypto;
mod force;
mod refusal;
mod verify;

use super::authority::{self, Binding, Id, SigningKey};
use super::principal::Principal;
use super::settings::TOKEN_LEEWAY;
use super::standing::{self, Reason};
use super::{denial, migration};
use crate::pg::{self, error, fail, identity, transaction};
pub use force::{
    Bearer, Lapsed, Token, at_subtransaction_abort, at_subtransaction_commit, at_transaction_end,
    discard, in_force, put, was_brought,
};
use pgrx::datum::Uuid;
use pgrx::prelude::*;
use std::rc::Rc;
pub use verify::{Algorithm, Key, Subject, is_name};

/// Proves by a signed token (JWT) which user the session acts for, or by an API key which service account (spec 4);
/// answers with that one's id.
///
/// `token`: an API key of `create_api_key()`, which enters its organization at once; or a JWT, signed with HS256, EdDSA or ES256 by a key of `add_signing_key()`, which its `kid` names; at most 8192 bytes.
/// Claims: `exp` (required) and `nbf`, `iat`, in seconds since 1970, compared with a leeway of `tenancy.token_leeway`;
/// `aud`, and `iss` where the key has an issuer; `sub`, the user; `org`, optional: the one organization that the token is
/// good for, by uuid or external key, entered at once; `actor_type`, optional: human, ai or service.
/// `scope`: transaction (the default) or session, where the login's scope allows that.
/// Anyone may call it but a login that is bound to a user. Expiry, and the retirement of the key, take effect at the
/// next statement.
/// Errors: 28000 the token is refused; 42501 a bound login, a scope the login has not got, or an organization the user
/// does not belong to; 25P01 scope transaction outside a transaction block; 22023 unknown scope.
#[pg_extern(volatile, parallel_unsafe)]
fn authenticate(
    token: Option<&str>,
    scope: default!(Option<&str>, "'transaction'"),
) -> pg::Result<Uuid> {
    error::discreetly(|| {
        let text = pg::given(token, "token")?;
        let session_scope = match pg::given(scope, "scope")? {
            "transaction" => false,
            "session" => true,
            _ => return Err(unknown_scope()),
        };
        may_authenticate(session_scope)?;
        let bearer = if text.starts_with(api_key::PREFIX) {
            read_api_key(text)?
        } else {
            read(text)?
        };
        let actor = match &bearer {
            Bearer::User { user, .. } => *user,
            Bearer::Service { as_it_was, .. } => as_it_was.account,
        };
        let token = Rc::new(Token::new(bearer, session_scope));
        put(Some(token), session_scope);
        // A token that names an organization is held to it at once, with a clear error, as enter() would.
        let now = standing::standing();
        match &now.reason {
            None => standing::hold_to_pin(&now)?,
            Some(Reason::NoClaim | Reason::Void) => {}
            Some(_) => return Err(denial::without_context(&now, "enter")),
        }
        Ok(Uuid::from_bytes(actor))
    })
}

fn unknown_scope() -> pgrx::pg_sys::panic::ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        "unknown scope",
    )
    .set_detail("A token holds for the transaction or for the session.")
    .set_hint("Use scope => 'transaction' behind a pooler.")
}

/// Whether a token of this login may last for the session.
fn session_allowed(login: &str) -> bool {
    match authority::binding(login) {
        Some(Binding::Application { session_scope, .. } | Binding::Token { session_scope }) => {
            session_scope
        }
        Some(Binding::User { .. }) => false,
        None => identity::is_superuser(identity::session_user()),
    }
}

fn may_authenticate(session_scope: bool) -> pg::Result<()> {
    migration::forbid("authenticate")?;
    if transaction::in_parallel_mode() {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_INVALID_TRANSACTION_STATE,
            "cannot authenticate during a parallel operation",
        )
        .set_detail("The workers would not know of it.")
        .set_hint("Call tenancy.authenticate() in a statement of its own."));
    }
    let login = super::login();
    if let Some(Binding::User { .. }) = authority::binding(&login) {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied: this login is bound to a user and takes no token",
        )
        .set_detail("Whoever logs in with it is that user.")
        .set_hint("Use another login for connections that speak for several users."));
    }
    if session_scope && !session_allowed(&login) {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied: this login authenticates for a transaction only",
        )
        .set_detail(
            "Its scope is transaction: a pooler must not hand its context to the next client.",
        )
        .set_hint("A DBA may allow it: tenancy.require_token(login, scope => 'session')."));
    }
    if !session_scope && !transaction::in_block() {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_NO_ACTIVE_SQL_TRANSACTION,
            "tenancy.authenticate() needs a transaction block",
        )
        .set_detail("A token of scope transaction would end with this statement.")
        .set_hint("BEGIN; SELECT tenancy.authenticate(...); ...; COMMIT."));
    }
    Ok(())
}

fn read(jwt: &str) -> pg::Result<Bearer> {
    let kid = verify::key_id(jwt).map_err(verify::Fault::report)?;
    let key = match authority::signing_key(&kid) {
        SigningKey::Good(key) => key,
        SigningKey::Retired => return Err(refusal::retired_key()),
        SigningKey::Unknown => return Err(refusal::unknown_key()),
    };
    let leeway = i64::from(TOKEN_LEEWAY.get()) * 1_000_000;
    let said =
        verify::verify(jwt, &key, transaction::now(), leeway).map_err(verify::Fault::report)?;
    let user = match key.subject {
        Subject::User => authority::user(&said.subject),
        Subject::Sso => authority::user_by_sso_subject(&said.subject),
    };
    let user = user.ok_or_else(refusal::unknown_user)?;
    Ok(Bearer::User {
        user,
        org: said.org,
        actor_type: said.actor_type,
        until: said.until,
        kid,
        key,
    })
}

/// One look-up and one comparison, whatever is wrong with the key; and one error, so that nothing can be probed. The
/// server's log says what it was.
fn read_api_key(text: &str) -> pg::Result<Bearer> {
    let given = api_key::parse(text);
    let (key, secret): (Id, api_key::Secret) = given.unwrap_or_default();
    let found = authority::api_key(&key);
    let hash = found.as_ref().and_then(|k| k.hash).unwrap_or_default();
    let is_his = api_key::is_of(&hash, &secret);
    let fault = match &found {
        _ if given.is_none() => Some("it has not the form of a key"),
        None => Some("there is no such key"),
        Some(found) => found
            .fault()
            .or((!is_his).then_some("its secret is another one")),
    };
    match (found, fault) {
        (Some(as_it_was), None) => Ok(Bearer::Service { key, as_it_was }),
        (_, fault) => Err(refusal::api_key(
            given.map(|(id, _)| id),
            fault.unwrap_or_default(),
        )),
    }
}

/// The principal that the token in force makes of the session, if one was brought.
pub fn principal() -> Option<Principal> {
    let token = in_force()?;
    Some(match token.lapsed() {
        Some(why) => Principal::Tokenless { lapsed: Some(why) },
        None => match &token.bearer {
            Bearer::User {
                user,
                org,
                actor_type,
                ..
            } => Principal::Token {
                user: *user,
                org: org.clone(),
                actor_type,
                session_scope: token.session_scope,
            },
            Bearer::Service { key, as_it_was } => Principal::Service {
                account: as_it_was.account,
                org: as_it_was.org,
                key: *key,
                session_scope: token.session_scope,
            },
        },
    })
}

/// When the token in force ends, in microseconds since 2000.
pub fn until() -> Option<i64> {
    in_force().and_then(|token| match &token.bearer {
        Bearer::User { until, .. } => Some(*until),
        Bearer::Service { as_it_was, .. } => as_it_was.expires_at,
    })
}

/// The name of the service account that the API key in force speaks for.
pub fn service_name() -> Option<String> {
    in_force().and_then(|token| match &token.bearer {
        Bearer::Service { key, .. } if token.lapsed().is_none() => {
            authority::api_key(key).map(|key| key.name.clone())
        }
        _ => None,
    })
}
