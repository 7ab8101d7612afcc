//! What the tables say of organizations, remembered as authority.rs remembers.

use super::authority::{Id, parsed, remembered};
use super::keys;
use crate::pg::key::Keys;
use crate::pg::query::{Arg, Row, latest};
use std::cell::OnceCell;
use std::rc::Rc;

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

/// The organization with this id, also where nobody enters it any more; awake, whatever state it is in.
pub fn org_in_any_state(id: &Id) -> Option<Rc<Org>> {
    latest(
        "SELECT id, name, audit_store OPERATOR(pg_catalog.=) 'dedicated', external_key, false
         FROM tenancy.orgs WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(id)],
        to_org,
    )
    .pop()
}

/// Whether an organization's audit log has a table of its own, also after the organization.
pub fn has_own_audit(id: &Id) -> bool {
    if let Some(org) = org_by_id(id) {
        return org.dedicated_audit;
    }
    latest(
        "SELECT audit_store OPERATOR(pg_catalog.=) 'dedicated' FROM tenancy.orgs WHERE id OPERATOR(pg_catalog.=) $1
         UNION ALL
         SELECT audit_store OPERATOR(pg_catalog.=) 'dedicated' FROM tenancy.tombstones
         WHERE org_id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(id)],
        |row| row.get::<bool>(1) == Some(true),
    )
    .into_iter()
    .any(|own| own)
}

/// Whether an organization was deleted, or is being.
pub fn is_deleted(id: &Id) -> bool {
    !latest(
        "SELECT 1 FROM tenancy.tombstones WHERE org_id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(id)],
        |_| (),
    )
    .is_empty()
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
