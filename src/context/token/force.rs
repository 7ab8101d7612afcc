//! The token in force. It is state of our own and no setting: SET, RESET and set_config() do not reach it. It lasts as
//! SET LOCAL or SET would: a transaction's ends with the transaction, a session's is rolled back with the transaction
//! that brought it, and both with the savepoint they were made in.

use super::verify::Key;
use crate::context::authority::{self, ApiKey, Id, SigningKey};
use crate::context::standing;
use crate::pg::local::Backend;
use crate::pg::{identity, transaction};
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

pub struct Token {
    pub bearer: Bearer,
    pub session_scope: bool,
    /// The login that authenticated: SET SESSION AUTHORIZATION takes no token along.
    login: pg_sys::Oid,
}

/// Whom it speaks for, and what that rests on.
pub enum Bearer {
    User {
        user: Id,
        /// The organization that the token is limited to, as the issuer named it.
        org: Option<String>,
        actor_type: &'static str,
        /// Microseconds since 2000.
        until: i64,
        kid: String,
        key: Rc<Key>,
    },
    /// By an API key.
    Service { key: Id, as_it_was: Rc<ApiKey> },
}

/// Why the token that a session brought says nothing any more. It does not fall back to what the login is without one:
/// that could be more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lapsed {
    Expired,
    KeyRetired,
    OtherLogin,
    /// It was for the session, which the login has no right to any more.
    Scope,
    /// The API key was revoked or has expired, or its service account was disabled or dropped.
    ApiKey,
    /// By leave(), or by going back before the savepoint it was brought after.
    Left,
}

impl Token {
    pub fn new(bearer: Bearer, session_scope: bool) -> Token {
        Token {
            bearer,
            session_scope,
            login: identity::session_user(),
        }
    }

    /// Compared with the clock and with the keys as they are now.
    pub fn lapsed(&self) -> Option<Lapsed> {
        if self.login != identity::session_user() {
            return Some(Lapsed::OtherLogin);
        }
        if self.session_scope && !super::session_allowed(&super::super::login()) {
            return Some(Lapsed::Scope);
        }
        match &self.bearer {
            Bearer::User { until, .. } if *until <= transaction::now() => Some(Lapsed::Expired),
            Bearer::User { kid, key, .. } => match authority::signing_key(kid) {
                SigningKey::Good(now) if now == *key => None,
                _ => Some(Lapsed::KeyRetired),
            },
            Bearer::Service { key, as_it_was } => {
                let good = authority::api_key(key)
                    .is_some_and(|now| now.fault().is_none() && now.hash == as_it_was.hash);
                (!good).then_some(Lapsed::ApiKey)
            }
        }
    }
}

/// One authenticate() or leave() of this transaction.
struct Layer {
    level: i32,
    session_scope: bool,
    token: Option<Rc<Token>>,
}

static OF_SESSION: Backend<RefCell<Option<Rc<Token>>>> = Backend::new(RefCell::new(None));
static OF_TRANSACTION: Backend<RefCell<Vec<Layer>>> = Backend::new(RefCell::new(Vec::new()));
/// Whether a token was brought in this transaction, whatever became of it.
static BROUGHT: Backend<Cell<bool>> = Backend::new(Cell::new(false));
/// Whether the session had a token of its own since it began, or since DISCARD ALL.
static SPOKEN_FOR: Backend<Cell<bool>> = Backend::new(Cell::new(false));

/// Whether code runs that is not to be more than a token made of the session, though none is in force now (attack C-13).
pub fn was_brought() -> bool {
    BROUGHT.get() || SPOKEN_FOR.get()
}

/// The token that the session last brought, lapsed or not.
pub fn in_force() -> Option<Rc<Token>> {
    OF_TRANSACTION
        .with_borrow(|layers| layers.last().map(|layer| layer.token.clone()))
        .unwrap_or_else(|| OF_SESSION.with_borrow(Option::clone))
}

/// Puts a token in force, or with None takes away what is.
pub fn put(token: Option<Rc<Token>>, session_scope: bool) {
    let level = transaction::nest_level();
    BROUGHT.set(BROUGHT.get() || token.is_some());
    OF_TRANSACTION.with_borrow_mut(|layers| {
        // One of this level that the new one outlasts: a loop of authenticate() grows nothing.
        layers.retain(|l| l.level != level || (l.session_scope && !session_scope));
        layers.push(Layer {
            level,
            session_scope,
            token,
        });
    });
    standing::invalidate();
}

/// DISCARD ALL: the pooler's next client starts as nobody.
pub fn discard() {
    OF_TRANSACTION.set(vec![]);
    OF_SESSION.set(None);
    BROUGHT.set(false);
    SPOKEN_FOR.set(false);
    standing::invalidate();
}

/// Takes the layers that end away, and gives them back.
fn end(ends: impl Fn(&Layer) -> bool) -> Vec<Layer> {
    let gone: Vec<Layer> =
        OF_TRANSACTION.with_borrow_mut(|layers| layers.extract_if(.., |l| ends(l)).collect());
    if !gone.is_empty() {
        standing::invalidate();
    }
    gone
}

pub fn at_transaction_end(committed: bool) {
    if BROUGHT.replace(false) {
        standing::invalidate();
    }
    if OF_TRANSACTION.with_borrow(Vec::is_empty) {
        return;
    }
    let kept = end(|_| true).into_iter().rfind(|layer| layer.session_scope);
    if let Some(layer) = kept.filter(|_| committed) {
        SPOKEN_FOR.set(SPOKEN_FOR.get() || layer.token.is_some());
        OF_SESSION.set(layer.token);
    }
}

pub fn at_subtransaction_abort(level: i32) {
    end(|layer| layer.level >= level);
}

pub fn at_subtransaction_commit(level: i32) {
    OF_TRANSACTION.with_borrow_mut(|layers| {
        for layer in layers.iter_mut().filter(|layer| layer.level >= level) {
            layer.level = level - 1;
        }
    });
}
