//! What the tables say about principals, organizations and memberships, remembered until they change.
//!
//! Read under the newest snapshot and kept only if no invalidation came in while reading: under a statement's own
//! snapshot a stale "yes" would be kept for good. Changes ring a bell (pg::catalog::ring_bell) that every backend hears.

use crate::access::matrix::{Level, Matrix};
use crate::access::rights::{Rights, number_of};
use crate::pg::query::{Arg, latest};
use crate::pg::{catalog, transaction};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

pub use super::credentials::{ApiKey, SigningKey, api_key, signing_key};
pub use super::orgs::{
    Org, all_keys, has_own_audit, is_deleted, org, org_by_id, org_by_key, org_in_any_state,
    suspension,
};
pub use super::people::{Membership, membership, user, user_by_sso_subject};

pub type Id = [u8; 16];

/// As PostgreSQL writes it.
pub fn id_text(id: &Id) -> String {
    uuid::Uuid::from_bytes(*id).hyphenated().to_string()
}

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

/// A role in an organization: one of the system's, or its own.
#[derive(Clone, Debug)]
pub struct Role {
    /// An inactive one gives no rights.
    pub active: bool,
    pub rights: Rc<Rights>,
}

/// More than this many remembered claims is a session that probes; it may look each one up. A pooled connection that serves
/// 10,000 organizations in turn remembers two for each: with half as many it looked all of them up again (1.4 times the
/// time of a write, measured). Some hundred bytes each.
const REMEMBERED: usize = 50_000;

#[derive(Default)]
pub(super) struct Memory {
    pub(super) bindings: HashMap<String, Option<Binding>>,
    pub(super) orgs: HashMap<String, Option<Rc<Org>>>,
    /// By their external keys alone.
    pub(super) keys: HashMap<String, Option<Id>>,
    pub(super) users: HashMap<String, Option<Id>>,
    pub(super) memberships: HashMap<(Id, Id), Option<Rc<Membership>>>,
    pub(super) environments: HashMap<Id, Rc<Vec<(String, String)>>>,
    pub(super) matrix: Option<Rc<Matrix>>,
    /// The organizations' own roles.
    pub(super) custom_roles: HashMap<(Id, String), Option<Role>>,
    pub(super) administrators: Option<Rc<Vec<String>>>,
    pub(super) signing_keys: HashMap<String, SigningKey>,
    pub(super) api_keys: HashMap<Id, Option<Rc<ApiKey>>>,
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

pub(super) fn parsed(claim: &str) -> Option<Id> {
    uuid::Uuid::parse_str(claim).ok().map(|u| *u.as_bytes())
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
