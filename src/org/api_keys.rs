//! The keys of service accounts (spec 4): made and shown once, listed, revoked. What is kept of a key is a hash.

use super::limits::{checked, within_ones_own};
use super::services::{begin_at, locked, require_all_of, unknown};
use super::{id_text, invalid};
use crate::access;
use crate::audit::{self, Act};
use crate::context;
use crate::context::authority::Id;
use crate::context::token::api_key::{beginning, hash, show};
use crate::pg::cidr::Cidrs;
use crate::pg::query::{Arg, latest, run};
use crate::pg::{self};
use pgrx::datum::Uuid;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;
use serde_json::{Value, json};

fn record(org: &Id, key: &Id, operation: &str, old: Option<Value>, new: Option<Value>) {
    audit::record(&Act {
        org: *org,
        operation,
        object: "tenancy.api_keys",
        key: json!({ "id": id_text(key) }),
        old,
        new,
    });
}

/// Makes a key for a service account (spec 4) and answers it, this once: `tenancy.authenticate()` takes it. It begins with
/// `pgt_` and its id, by which `revoke_api_key()` and the server's log name it.
///
/// `expires_at`: NULL is never. `networks`: from where it may be used; NULL is from anywhere. Needs team:role in the
/// account's organization (or the DBA), all that the account's role has, and to be held to no narrower networks oneself.
/// Errors: 42501 no right, unknown account, or a role above one's own; 22023 an end in the past, an empty list of
/// networks or a NULL in it.
#[pg_extern(volatile, parallel_unsafe)]
pub fn create_api_key(
    service_account: Option<Uuid>,
    expires_at: default!(Option<TimestampWithTimeZone>, "NULL"),
    networks: default!(Option<Cidrs>, "NULL"),
) -> pg::Result<String> {
    let id = pg::given(service_account, "service_account")?;
    let account = locked(id.as_bytes())?;
    require_all_of(&account.org, &account.role)?;
    let expires = expires_at.map(i64::from);
    if expires.is_some_and(|at| at <= pg::transaction::now()) {
        return Err(invalid(
            "the key would already have expired",
            "expires_at lies in the past.",
            "Leave it out for a key without end.",
        ));
    }
    let ranges = checked(networks.as_ref())?;
    within_ones_own(&account.org, ranges.as_deref())?;
    let key = pg::random::<16>();
    let secret = pg::random::<32>();
    let networks = networks.map(|n| n.0);
    let caller = context::standing().user;
    let end = run(
        "INSERT INTO tenancy.api_keys (id, service_account_id, org_id, hash, created_by, expires_at, allowed_networks)
         VALUES ($1, $2, $3, $4, $5::pg_catalog.uuid, $6, $7::pg_catalog.cidr[])
         RETURNING pg_catalog.to_jsonb(pg_catalog.timezone('UTC', expires_at)) OPERATOR(pg_catalog.#>>) '{}'",
        &[
            Arg::Uuid(&key),
            Arg::Uuid(&account.id),
            Arg::Uuid(&account.org),
            Arg::Bytes(&hash(&secret)),
            Arg::OptionalText(caller.as_ref().map(id_text).as_deref()),
            Arg::Timestamp(expires),
            Arg::OptionalText(networks.as_deref()),
        ],
        |row| row.get::<String>(1),
    )
    .pop()
    .flatten();
    let new = json!({
        "service_account": id_text(&account.id),
        "expires_at_utc": end,
        "networks": networks,
    });
    record(&account.org, &key, "create_api_key", None, Some(new));
    Ok(show(&key, &secret))
}

/// Ends a key (spec 4): it is refused, and every session that it speaks for is nobody from its next statement on; its hash
/// is deleted. `key`: its id, the 32 digits after `pgt_`. One that is revoked already stays so. Needs team:role in the
/// organization of its account (or the DBA). Errors: 42501 no right, or unknown key.
#[pg_extern(volatile, parallel_unsafe)]
pub fn revoke_api_key(key: Option<Uuid>) -> pg::Result<()> {
    const WHAT: &str = "API key";
    let key = pg::given(key, "key")?;
    let key = key.as_bytes();
    let org = begin_at(
        WHAT,
        key,
        "SELECT org_id FROM tenancy.api_keys WHERE id OPERATOR(pg_catalog.=) $1",
    )?;
    let revoked = run(
        "UPDATE tenancy.api_keys SET hash = NULL, revoked_at = coalesce(revoked_at, pg_catalog.clock_timestamp())
         WHERE id OPERATOR(pg_catalog.=) $1 AND org_id OPERATOR(pg_catalog.=) $2
         RETURNING service_account_id",
        &[Arg::Uuid(key), Arg::Uuid(&org)],
        |row| row.uuid(1),
    )
    .pop()
    .flatten()
    .ok_or_else(|| unknown(WHAT, key))?;
    let old = json!({ "service_account": id_text(&revoked) });
    record(&org, key, "revoke_api_key", Some(old), None);
    Ok(())
}

/// The keys of an organization's service accounts (spec 4), without anything to authenticate with. `prefix`: how the key
/// begins. `state`: active, expired, revoked, or disabled with its account. Needs team:role there (or the DBA).
/// Errors: 42501 no right, or unknown organization.
#[pg_extern(stable, parallel_unsafe)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
pub fn list_api_keys(
    org: Option<Uuid>,
) -> pg::Result<
    TableIterator<
        'static,
        (
            name!(id, Uuid),
            name!(prefix, String),
            name!(service_account, Uuid),
            name!(name, String),
            name!(state, String),
            name!(networks, Option<Vec<String>>),
            name!(created_by, Option<Uuid>),
            name!(created_at, Option<TimestampWithTimeZone>),
            name!(expires_at, Option<TimestampWithTimeZone>),
            name!(revoked_at, Option<TimestampWithTimeZone>),
        ),
    >,
> {
    let org = pg::given(org, "org")?;
    let org = org.as_bytes();
    access::require(org, "team:role", "in the organization")?;
    let rows = latest(
        "SELECT k.id, a.id, a.name,
                CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked'
                     WHEN k.expires_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp() THEN 'expired'
                     WHEN a.disabled_at IS NOT NULL THEN 'disabled'
                     ELSE 'active' END,
                k.allowed_networks::pg_catalog.text[], k.created_by, k.created_at, k.expires_at, k.revoked_at
         FROM tenancy.api_keys AS k
              JOIN tenancy.service_accounts AS a ON a.id OPERATOR(pg_catalog.=) k.service_account_id
         WHERE k.org_id OPERATOR(pg_catalog.=) $1 ORDER BY a.name, k.created_at, k.id",
        &[Arg::Uuid(org)],
        |row| {
            let id = row.uuid(1).unwrap_or_default();
            (
                Uuid::from_bytes(id),
                beginning(&id),
                Uuid::from_bytes(row.uuid(2).unwrap_or_default()),
                row.get::<String>(3).unwrap_or_default(),
                row.get::<String>(4).unwrap_or_default(),
                row.get::<Vec<String>>(5),
                row.uuid(6).map(Uuid::from_bytes),
                row.get::<TimestampWithTimeZone>(7),
                row.get::<TimestampWithTimeZone>(8),
                row.get::<TimestampWithTimeZone>(9),
            )
        },
    );
    Ok(TableIterator::new(rows))
}
