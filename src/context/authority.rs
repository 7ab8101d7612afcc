//! What the tables say about principals, organizations and memberships, remembered until they change.
//!
//! Read under the newest snapshot and kept only if no invalidation came in while reading: under a statement's own
//! snapshot a stale "yes" would be kept for good. Changes ring a bell (pg::catalog::ring_bell) that every backend hears.

use super::keys;
use super::token::{Algorithm, Key, Subject};
use crate::access::matrix::{Level, Matrix};
use crate::access::rights::{Rights, number_of};
use crate::access::scopes::{self, Scopes};
use crate::pg::key::Keys;
use crate::pg::query::{Arg, Row, latest};
use crate::pg::{catalog, transaction};
use ipnet::IpNet;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

pub type Id = [u8; 16];

/// How a database login speaks.
#[derive(Clone, Debug, PartialEq)]
pub enum Binding {
    User {
        user: Id,
    },
    Application {
        session_scope: bool,
        service_role: String,
    },
    /// Nobody without a token.
    Token {
        session_scope: bool,
    },
}

/// A user's place in an organization.
#[derive(Clone, Debug)]
pub struct Membership {
    pub role: String,
    /// Microseconds since 2000, as PostgreSQL counts.
    pub expires_at: Option<i64>,
    /// The resources that it is limited to; None: the whole organization.
    pub scopes: Option<Rc<Scopes>>,
    /// From where it may be used; None is from anywhere.
    pub allowed: Option<Vec<IpNet>>,
}

/// A role in an organization: one of the system's, or its own.
#[derive(Clone, Debug)]
pub struct Role {
    /// An inactive one gives no rights.
    pub active: bool,
    pub rights: Rc<Rights>,
}

/// An organization, as the session may know it once it is entitled.
#[derive(Clone, Debug)]
pub struct Org {
    pub id: Id,
    pub name: String,
    pub external_key: Option<String>,
    pub dedicated_audit: bool,
    /// Whether rows of the environment production are held to spec 7.
    pub production_protection: bool,
    pub suspended: bool,
    /// Its interned keys, once somebody needed them.
    keys: OnceCell<&'static Keys>,
}

impl Org {
    /// The organization in every form that a table's column may name it by.
    #[inline]
    pub fn keys(&self) -> &'static Keys {
        self.keys
            .get_or_init(|| keys::intern(self.id, self.external_key.as_deref()))
    }
}

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

/// More than this many remembered claims is a session that probes; it may look each one up.
const REMEMBERED: usize = 10_000;

#[derive(Default)]
pub(super) struct Memory {
    bindings: HashMap<String, Option<Binding>>,
    orgs: HashMap<String, Option<Rc<Org>>>,
    /// By their external keys alone.
    keys: HashMap<String, Option<Id>>,
    users: HashMap<String, Option<Id>>,
    memberships: HashMap<(Id, Id), Option<Rc<Membership>>>,
    environments: HashMap<Id, Rc<Vec<(String, String)>>>,
    matrix: Option<Rc<Matrix>>,
    /// The organizations' own roles.
    custom_roles: HashMap<(Id, String), Option<Role>>,
    administrators: Option<Rc<Vec<String>>>,
    signing_keys: HashMap<String, SigningKey>,
    api_keys: HashMap<Id, Option<Rc<ApiKey>>>,
    pub(super) projects: super::projects::Memory,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
    /// Counts the bells heard.
    static HEARD: Cell<u64> = const { Cell::new(0) };
    static REMEMBERED_AT: Cell<u64> = const { Cell::new(0) };
}

#[cfg(feature = "pg_test")]
thread_local! {
    static LOOKUPS: Cell<u64> = const { Cell::new(0) };
}

/// How often the tables were read, for the test that a steady-state check does not.
#[cfg(feature = "pg_test")]
pub fn lookups() -> u64 {
    LOOKUPS.get()
}

/// SAFETY: called by PostgreSQL for every relation cache invalidation; must not touch catalogs, and does not.
#[pg_guard]
unsafe extern "C-unwind" fn on_invalidation(_arg: pg_sys::Datum, relid: pg_sys::Oid) {
    if catalog::forget(relid) {
        HEARD.set(HEARD.get() + 1);
        super::standing::invalidate();
    }
    crate::isolation::on_invalidation(relid);
    crate::audit::on_invalidation(relid);
    crate::usage::quota::on_invalidation(relid);
}

/// A database role was renamed, dropped, made superuser or no longer one.
///
/// SAFETY: called by PostgreSQL; touches memory of ours only.
#[pg_guard]
unsafe extern "C-unwind" fn on_role_change(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    super::standing::invalidate();
}

pub fn init() {
    // SAFETY: the callbacks live as long as the library.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(on_invalidation), pg_sys::Datum::from(0));
        pg_sys::CacheRegisterSyscacheCallback(
            pg_sys::SysCacheIdentifier::AUTHOID as i32,
            Some(on_role_change),
            pg_sys::Datum::from(0),
        );
    }
}

/// Counts the changes of authority: while it stands, so does what was answered.
pub fn heard() -> u64 {
    HEARD.get()
}

/// Answers from memory, or reads and remembers unless a bell rang meanwhile.
pub(super) fn remembered<T: Clone>(
    recall: impl Fn(&Memory) -> Option<T>,
    read: impl FnOnce() -> T,
    keep: impl FnOnce(&mut Memory, T),
) -> T {
    if REMEMBERED_AT.get() != HEARD.get() {
        MEMORY.take();
        REMEMBERED_AT.set(HEARD.get());
    }
    if let Some(answer) = MEMORY.with_borrow(|m| recall(m)) {
        return answer;
    }
    transaction::accept_invalidations();
    #[cfg(feature = "pg_test")]
    LOOKUPS.set(LOOKUPS.get() + 1);
    let before = HEARD.get();
    let answer = read();
    if HEARD.get() == before {
        if REMEMBERED_AT.get() != before {
            MEMORY.take();
            REMEMBERED_AT.set(before);
        }
        MEMORY.with_borrow_mut(|m| {
            let known = m.orgs.len() + m.keys.len() + m.users.len() + m.memberships.len();
            if known + m.custom_roles.len() + m.projects.len() > REMEMBERED {
                *m = Memory::default();
            }
            keep(m, answer.clone());
        });
    }
    answer
}

pub fn binding(login: &str) -> Option<Binding> {
    remembered(
        |m| m.bindings.get(login).cloned(),
        || {
            latest(
                "SELECT user_id, scope, service_role FROM tenancy.login_bindings
                 WHERE login OPERATOR(pg_catalog.=) $1::pg_catalog.name",
                &[Arg::Name(login)],
                |row| {
                    let session_scope = row.get::<String>(2).as_deref() == Some("session");
                    match (row.uuid(1), row.get::<String>(3)) {
                        (Some(user), _) => Binding::User { user },
                        (None, Some(service_role)) => Binding::Application {
                            session_scope,
                            service_role,
                        },
                        (None, None) => Binding::Token { session_scope },
                    }
                },
            )
            .pop()
        },
        |m, answer| {
            m.bindings.insert(login.to_string(), answer);
        },
    )
}

fn parsed(claim: &str) -> Option<Id> {
    uuid::Uuid::parse_str(claim).ok().map(|u| *u.as_bytes())
}

/// The organization that a claim names: by uuid, else by the application's own key.
pub fn org(claim: &str) -> Option<Rc<Org>> {
    remembered(
        |m| m.orgs.get(claim).cloned(),
        || {
            parsed(claim)
                .and_then(|id| {
                    latest(
                        "SELECT id, name, audit_store OPERATOR(pg_catalog.=) 'dedicated', external_key,
                                suspended_at IS NOT NULL, production_protection
                         FROM tenancy.orgs WHERE id OPERATOR(pg_catalog.=) $1 AND deleting_at IS NULL",
                        &[Arg::Uuid(&id)],
                        to_org,
                    )
                    .pop()
                })
                .or_else(|| read_org_by_key(claim))
        },
        |m, answer| {
            m.orgs.insert(claim.to_string(), answer);
        },
    )
}

fn to_org(row: &Row) -> Rc<Org> {
    Rc::new(Org {
        id: row.uuid(1).unwrap_or_default(),
        name: row.get::<String>(2).unwrap_or_default(),
        dedicated_audit: row.get::<bool>(3).unwrap_or(false),
        external_key: row.get::<String>(4),
        suspended: row.get::<bool>(5).unwrap_or(false),
        production_protection: row.get::<bool>(6).unwrap_or(true),
        keys: OnceCell::new(),
    })
}

fn read_org_by_key(key: &str) -> Option<Rc<Org>> {
    latest(
        "SELECT id, name, audit_store OPERATOR(pg_catalog.=) 'dedicated', external_key, suspended_at IS NOT NULL, production_protection
         FROM tenancy.orgs WHERE external_key OPERATOR(pg_catalog.=) $1 AND deleting_at IS NULL",
        &[Arg::Text(key)],
        to_org,
    )
    .pop()
}

/// Why an organization is suspended, if it is.
pub fn suspension(org: &Id) -> Option<String> {
    latest(
        "SELECT suspended_reason FROM tenancy.orgs WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(org)],
        |row| row.get::<String>(1),
    )
    .pop()
    .flatten()
}

/// The organization with this external key, and none whose id it may look like.
pub fn org_by_key(key: &str) -> Option<Id> {
    remembered(
        |m| m.keys.get(key).copied(),
        || read_org_by_key(key).map(|org| org.id),
        |m, answer| {
            m.keys.insert(key.to_string(), answer);
        },
    )
}

/// Every organization, as columns name it.
pub fn all_keys() -> Vec<Keys> {
    latest("SELECT id, external_key FROM tenancy.orgs", &[], |row| {
        Keys::new(row.uuid(1), row.get::<String>(2).as_deref())
    })
}

/// The organization with this id.
pub fn org_by_id(id: &Id) -> Option<Rc<Org>> {
    org(&uuid::Uuid::from_bytes(*id).hyphenated().to_string()).filter(|o| o.id == *id)
}

/// The user that a claim names: by uuid, else by the application's own key.
pub fn user(claim: &str) -> Option<Id> {
    remembered(
        |m| m.users.get(claim).cloned(),
        || {
            parsed(claim)
                .and_then(|id| {
                    latest(
                        "SELECT id FROM tenancy.users WHERE id OPERATOR(pg_catalog.=) $1",
                        &[Arg::Uuid(&id)],
                        |row| row.uuid(1).unwrap_or_default(),
                    )
                    .pop()
                })
                .or_else(|| {
                    latest(
                        "SELECT id FROM tenancy.users WHERE external_key OPERATOR(pg_catalog.=) $1",
                        &[Arg::Text(claim)],
                        |row| row.uuid(1).unwrap_or_default(),
                    )
                    .pop()
                })
        },
        |m, answer| {
            m.users.insert(claim.to_string(), answer);
        },
    )
}

/// A column of type cidr[], cast to text. A list that cannot be read admits nobody.
pub fn networks(row: &Row, column: i32) -> Option<Vec<IpNet>> {
    row.get::<String>(column)
        .map(|text| super::network::parse(&text).unwrap_or_default())
}

/// A user's membership, expired or not. orgs.owner_id alone says who is owner, whatever a membership row may claim.
pub fn membership(org: &Id, user: &Id) -> Option<Rc<Membership>> {
    remembered(
        |m| m.memberships.get(&(*org, *user)).cloned(),
        || {
            let (mut found, scoped) = latest(
                "SELECT CASE WHEN o.owner_id OPERATOR(pg_catalog.=) $2 THEN 'owner' ELSE m.role END,
                        CASE WHEN o.owner_id OPERATOR(pg_catalog.=) $2 THEN NULL ELSE m.expires_at END,
                        o.owner_id OPERATOR(pg_catalog.<>) $2
                        AND (m.scoped OR EXISTS (SELECT FROM tenancy.membership_scopes AS s
                                                 WHERE s.org_id OPERATOR(pg_catalog.=) m.org_id
                                                   AND s.user_id OPERATOR(pg_catalog.=) m.user_id)),
                        CASE WHEN o.owner_id OPERATOR(pg_catalog.=) $2 THEN NULL
                             ELSE m.allowed_networks::pg_catalog.text END
                 FROM tenancy.orgs AS o
                      LEFT JOIN tenancy.memberships AS m
                             ON m.org_id OPERATOR(pg_catalog.=) o.id AND m.user_id OPERATOR(pg_catalog.=) $2
                 WHERE o.id OPERATOR(pg_catalog.=) $1 AND o.deleting_at IS NULL
                   AND (o.owner_id OPERATOR(pg_catalog.=) $2 OR m.role OPERATOR(pg_catalog.<>) 'owner')",
                &[Arg::Uuid(org), Arg::Uuid(user)],
                |row| {
                    let membership = Membership {
                        role: row.get::<String>(1).unwrap_or_default(),
                        expires_at: row.get::<TimestampWithTimeZone>(2).map(i64::from),
                        allowed: networks(row, 4),
                        scopes: None,
                    };
                    (membership, row.get::<bool>(3).unwrap_or(true))
                },
            )
            .pop()?;
            found.scopes = scoped.then(|| Rc::new(scopes::read(org, user)));
            Some(Rc::new(found))
        },
        |m, answer| {
            m.memberships.insert((*org, *user), answer);
        },
    )
}

/// The environment tags that an organization has of its own, each with the one of the three that it is like.
pub fn environments(org: &Id) -> Rc<Vec<(String, String)>> {
    remembered(
        |m| m.environments.get(org).cloned(),
        || {
            Rc::new(latest(
                "SELECT name, kind FROM tenancy.org_environments WHERE org_id OPERATOR(pg_catalog.=) $1 ORDER BY name",
                &[Arg::Uuid(org)],
                |row| {
                    let text = |n| row.get::<String>(n).unwrap_or_default();
                    (text(1), text(2))
                },
            ))
        },
        |m, answer| {
            if m.environments.len() >= REMEMBERED {
                m.environments.clear();
            }
            m.environments.insert(*org, answer);
        },
    )
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

/// The user whom an identity provider knows by this subject.
pub fn user_by_sso_subject(subject: &str) -> Option<Id> {
    latest(
        "SELECT id FROM tenancy.users WHERE sso_subject OPERATOR(pg_catalog.=) $1",
        &[Arg::Text(subject)],
        |row| row.uuid(1),
    )
    .pop()
    .flatten()
}

/// The roles that grant_administration() named.
pub fn administrators() -> Rc<Vec<String>> {
    remembered(
        |m| m.administrators.clone(),
        || {
            let names = latest(
                "SELECT role::pg_catalog.text FROM tenancy.administrators",
                &[],
                |row| row.get::<String>(1),
            );
            Rc::new(names.into_iter().flatten().collect())
        },
        |m, answer| m.administrators = Some(answer),
    )
}

/// The role of this name in an organization.
pub fn role(org: &Id, name: &str) -> Option<Role> {
    let system = matrix().rights(name);
    if let Some(rights) = system {
        let active = true;
        return Some(Role { active, rights });
    }
    remembered(
        |m| m.custom_roles.get(&(*org, name.to_string())).cloned(),
        || {
            let (mut active, mut rights) = (None, Rights::default());
            latest(
                "SELECT r.active, p.action, p.environment, p.level
                 FROM tenancy.custom_roles AS r
                      LEFT JOIN tenancy.custom_role_permissions AS p
                             ON p.org_id OPERATOR(pg_catalog.=) r.org_id AND p.role OPERATOR(pg_catalog.=) r.name
                 WHERE r.org_id OPERATOR(pg_catalog.=) $1 AND r.name OPERATOR(pg_catalog.=) $2",
                &[Arg::Uuid(org), Arg::Text(name)],
                |row| {
                    active = row.get::<bool>(1);
                    if let (Some(action), Some(level)) =
                        (row.get::<String>(2), row.get::<String>(4))
                    {
                        let environment = row.get::<String>(3).filter(|e| !e.is_empty());
                        let level = Level::named(&level).unwrap_or_default();
                        rights.put(number_of(&action), environment.as_deref(), level);
                    }
                },
            );
            let rights = Rc::new(rights);
            active.map(|active| Role { active, rights })
        },
        |m, answer| {
            m.custom_roles.insert((*org, name.to_string()), answer);
        },
    )
}

/// Every system role's level on every action.
pub fn matrix() -> Rc<Matrix> {
    remembered(
        |m| m.matrix.clone(),
        || {
            let roles = latest("SELECT name FROM tenancy.roles ORDER BY name", &[], |row| {
                row.get::<String>(1).unwrap_or_default()
            });
            let actions = latest(
                "SELECT name FROM tenancy.actions ORDER BY name",
                &[],
                |row| row.get::<String>(1).unwrap_or_default(),
            );
            let cells = latest(
                "SELECT role, action, level FROM tenancy.role_permissions",
                &[],
                |row| {
                    let text = |n| row.get::<String>(n).unwrap_or_default();
                    (text(1), text(2), text(3))
                },
            );
            Rc::new(Matrix::new(roles, actions, cells))
        },
        |m, answer| m.matrix = Some(answer),
    )
}
