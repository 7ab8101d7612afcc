//! What the tables say of the keys that verify tokens, and of API keys, remembered as authority.rs remembers.

use super::authority::{Id, remembered};
use super::people::networks;
use super::token::{Algorithm, Key, Subject};
use crate::pg::query::{Arg, latest};
use crate::pg::transaction;
use ipnet::IpNet;
use pgrx::prelude::*;
use std::rc::Rc;

/// What the tables say of a token's key id.
#[derive(Clone)]
pub enum SigningKey {
    Unknown,
    Retired,
    Good(Rc<Key>),
}

/// A service account's key, and all that its use rests on.
#[derive(Clone, Debug)]
pub struct ApiKey {
    pub account: Id,
    pub org: Id,
    /// The account's name and role.
    pub name: String,
    pub role: String,
    /// The member who answers for the account.
    pub sponsor: Option<Id>,
    /// None once it is revoked.
    pub hash: Option<[u8; 32]>,
    pub expires_at: Option<i64>,
    pub allowed: Option<Vec<IpNet>>,
    disabled: bool,
}

impl ApiKey {
    /// Why it is no good at this moment.
    pub fn fault(&self) -> Option<&'static str> {
        if self.hash.is_none() {
            Some("it was revoked")
        } else if self.disabled {
            Some("its service account is disabled")
        } else if self.expires_at.is_some_and(|at| at <= transaction::now()) {
            Some("it has expired")
        } else {
            None
        }
    }
}

/// The key with this id. One that is unknown is not remembered: a session could make up any number.
pub fn signing_key(kid: &str) -> SigningKey {
    remembered(
        |m| m.signing_keys.get(kid).cloned(),
        || {
            latest(
                "SELECT algorithm, verifier, audience, issuer, subject FROM tenancy.signing_keys
                 WHERE kid OPERATOR(pg_catalog.=) $1",
                &[Arg::Text(kid)],
                |row| {
                    let text = |n| row.get::<String>(n);
                    let algorithm = text(1).as_deref().and_then(Algorithm::named);
                    match (algorithm, row.get::<Vec<u8>>(2), text(3)) {
                        (Some(algorithm), Some(bytes), Some(audience)) => {
                            SigningKey::Good(Rc::new(Key {
                                algorithm,
                                bytes,
                                audience,
                                issuer: text(4),
                                subject: Subject::named(&text(5).unwrap_or_default()),
                            }))
                        }
                        _ => SigningKey::Retired,
                    }
                },
            )
            .pop()
            .unwrap_or(SigningKey::Unknown)
        },
        |m, answer| {
            if !matches!(answer, SigningKey::Unknown) {
                m.signing_keys.insert(kid.to_string(), answer);
            }
        },
    )
}

/// The API key with this id. One that is unknown is not remembered: a session could make up any number.
pub fn api_key(id: &Id) -> Option<Rc<ApiKey>> {
    remembered(
        |m| m.api_keys.get(id).cloned(),
        || {
            latest(
                "SELECT a.id, a.org_id, a.name, a.role, a.sponsor_id, k.hash, k.expires_at,
                        k.allowed_networks::pg_catalog.text, a.disabled_at IS NOT NULL
                 FROM tenancy.api_keys AS k
                      JOIN tenancy.service_accounts AS a ON a.id OPERATOR(pg_catalog.=) k.service_account_id
                 WHERE k.id OPERATOR(pg_catalog.=) $1",
                &[Arg::Uuid(id)],
                |row| {
                    let text = |n| row.get::<String>(n).unwrap_or_default();
                    Some(Rc::new(ApiKey {
                        account: row.uuid(1)?,
                        org: row.uuid(2)?,
                        name: text(3),
                        role: text(4),
                        sponsor: row.uuid(5),
                        hash: row.get::<Vec<u8>>(6).and_then(|h| h.try_into().ok()),
                        expires_at: row.get::<TimestampWithTimeZone>(7).map(i64::from),
                        allowed: networks(row, 8),
                        disabled: row.get::<bool>(9).unwrap_or(true),
                    }))
                },
            )
            .pop()
            .flatten()
        },
        |m, answer| {
            if answer.is_some() {
                m.api_keys.insert(*id, answer);
            }
        },
    )
}
