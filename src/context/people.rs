//! What the tables say of users and of their place in an organization, remembered as authority.rs remembers.

use super::authority::{Id, parsed, remembered};
use crate::access::scopes::{self, Scopes};
use crate::pg::query::{Arg, Row, latest};
use ipnet::IpNet;
use pgrx::prelude::*;
use std::rc::Rc;

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
