//! Sealing, heads and proofs as SQL functions.

use super::{fold, heads, keys, leaves};
use crate::access;
use crate::audit::read::may;
use crate::audit::store;
use crate::context::{self, authority::Id};
use crate::pg::query::latest;
use crate::pg::{self, fail};
use pg_tenancy_audit_format::Digest;
use pg_tenancy_audit_format::head::{VerifyingKey, verifier};
use pg_tenancy_audit_format::tree;
use pgrx::datum::Uuid;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;
use serde_json::json;
use std::fmt::Write as _;

/// The organization whose log the caller may look into: the one named, where he has org:audit in it or is the DBA; else
/// the current one.
pub fn audited(org: Option<Uuid>) -> pg::Result<Id> {
    match org {
        Some(org) => {
            access::require(org.as_bytes(), "org:audit", "on the audit log")?;
            Ok(*org.as_bytes())
        }
        None => may("org:audit", "look into an audit log"),
    }
}

/// Every organization there is.
pub fn orgs() -> Vec<Id> {
    latest("SELECT id FROM tenancy.orgs ORDER BY id", &[], |row| {
        row.uuid(1)
    })
    .into_iter()
    .flatten()
    .collect()
}

/// Seals what has been committed to the log since the last head: numbers the lines, folds them into the tree and signs
/// its head (spec 6.4). Waits for nobody who writes, and nobody who writes waits for it.
///
/// `org`: the organization; NULL: all of them, for the DBA, else the current one. Needs org:audit. Answers a row for each
/// organization that had new lines: how many these were and how many are sealed now. Lines of a transaction that began
/// before one that still runs (or is prepared) are left for later: audit_seal_status says how many.
/// Errors: 42501 no right, XX001 what is to be sealed was damaged.
#[pg_extern(volatile, parallel_unsafe)]
fn seal_audit(
    org: default!(Option<Uuid>, "NULL"),
) -> pg::Result<TableIterator<'static, (name!(org_id, Uuid), name!(lines, i64), name!(size, i64))>>
{
    let orgs = if org.is_none() && context::is_administrator() {
        orgs()
    } else {
        vec![audited(org)?]
    };
    super::tables();
    let shared = store::shared();
    let mut sealed = vec![];
    for org in &orgs {
        if let Some(new) = fold::seal_org(org, &shared, true)? {
            sealed.push((
                Uuid::from_bytes(*org),
                new.lines.cast_signed(),
                new.head.head.size.cast_signed(),
            ));
        }
    }
    Ok(TableIterator::new(sealed))
}

/// The newest signed head of an organization's log, a text to be kept outside of the database: from then on nothing that
/// it covers can be altered without `verify_audit(org, against => head)` telling (spec 6.4). NULL where nothing is sealed.
///
/// `org`: the organization; NULL: the current one. Needs org:audit in it. Errors: 42501.
#[pg_extern(volatile, parallel_unsafe)]
fn audit_head(org: default!(Option<Uuid>, "NULL")) -> pg::Result<Option<String>> {
    let org = audited(org)?;
    super::tables();
    Ok(heads::last_head(&org)?.map(|head| head.signed().note()))
}

/// The heads of an organization's log, oldest first (spec 6.4); tenancy.audit_heads shows the current one's.
///
/// `org`: the organization; NULL: the current one. Needs org:audit in it. Errors: 42501.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
pub fn list_audit_heads(
    org: default!(Option<Uuid>, "NULL"),
) -> pg::Result<
    TableIterator<
        'static,
        (
            name!(org_id, Uuid),
            name!(number, i64),
            name!(size, i64),
            name!(root, String),
            name!(at, TimestampWithTimeZone),
            name!(purged, i64),
            name!(key_id, String),
            name!(head, String),
        ),
    >,
> {
    let org = audited(org)?;
    super::tables();
    let mut rows = heads::open_heads(&org)?;
    let mut list = vec![];
    while let Some(row) = rows.next() {
        let Some(stored) = heads::Stored::read(&row) else {
            continue;
        };
        let at = TimestampWithTimeZone::try_from(stored.head.at);
        list.push((
            Uuid::from_bytes(org),
            stored.number,
            stored.head.size.cast_signed(),
            hex(&stored.head.root),
            at.unwrap_or_else(|_| TimestampWithTimeZone::negative_infinity()),
            stored.head.purged.cast_signed(),
            hex(&stored.key),
            stored.signed().note(),
        ));
    }
    Ok(TableIterator::new(list))
}

/// The keys that heads are or were signed with: their public halves, in the form that the standalone verifier and the
/// tools of signed notes take (spec 6.4). Keep them with the heads. Anyone may call it.
#[pg_extern(stable, parallel_unsafe)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
fn list_audit_keys() -> TableIterator<
    'static,
    (
        name!(key_id, String),
        name!(verifier, String),
        name!(created_at, Option<TimestampWithTimeZone>),
        name!(retired_at, Option<TimestampWithTimeZone>),
    ),
> {
    let rows = latest(
        "SELECT key_id, public, created_at, retired_at FROM tenancy.audit_keys ORDER BY created_at, key_id",
        &[],
        |row| {
            let key = row
                .get::<Vec<u8>>(2)
                .and_then(|b| VerifyingKey::try_from(&b[..]).ok());
            (
                hex(&row.get::<Vec<u8>>(1).unwrap_or_default()),
                key.as_ref().map(verifier).unwrap_or_default(),
                row.get::<TimestampWithTimeZone>(3),
                row.get::<TimestampWithTimeZone>(4),
            )
        },
    );
    TableIterator::new(rows)
}

/// Signs the heads from now on with a new key and forgets the secret half of the one before (spec 6.4). For the DBA.
/// Answers the new key's id. Errors: 42501.
#[pg_extern(volatile, parallel_unsafe)]
fn rotate_audit_key() -> pg::Result<String> {
    crate::org::require_administrator("rotate the audit's key")?;
    Ok(hex(&keys::rotate()?))
}

/// Proves that a line stands in an organization's log, to whoever has the head and the line (spec 6.4): the leaf hash,
/// and the hashes on the way to the root, as RFC 6962 orders them.
///
/// `org`: the organization. `number`: of the line, from 1. `size`: of the head to prove it against; NULL: the newest.
/// Needs org:audit. Errors: 42501 no right, 22023 no such line or head.
#[pg_extern(volatile, parallel_unsafe)]
fn audit_inclusion_proof(
    org: Option<Uuid>,
    number: Option<i64>,
    size: default!(Option<i64>, "NULL"),
) -> pg::Result<pgrx::JsonB> {
    let org = audited(org)?;
    let number = pg::given(number, "number")?;
    super::tables();
    let (size, head) = head_of_size(&org, size)?;
    let index = number.cast_unsigned().wrapping_sub(1);
    let mut ranges = tree::inclusion(index, size).ok_or_else(|| {
        no_such(
            "no such line is sealed",
            format!("The head covers lines 1 to {size}."),
        )
    })?;
    ranges.push(index..index + 1);
    let mut proof = leaves::hashes_of(&org, &ranges)?;
    let leaf = proof.pop().unwrap_or_default();
    Ok(pgrx::JsonB(json!({
        "number": number,
        "size": size,
        "leaf": hex(&leaf),
        "proof": hexes(&proof),
        "head": head,
    })))
}

/// Proves that an organization's log goes on from an older head of it, to whoever has both heads (spec 6.4): the hashes,
/// as RFC 6962 orders them.
///
/// `org`: the organization. `old_size`, `new_size`: sizes of the two heads; NULL for the new one: the newest. Needs
/// org:audit. Errors: 42501 no right, 22023 no such heads.
#[pg_extern(volatile, parallel_unsafe)]
fn audit_consistency_proof(
    org: Option<Uuid>,
    old_size: Option<i64>,
    new_size: default!(Option<i64>, "NULL"),
) -> pg::Result<pgrx::JsonB> {
    let org = audited(org)?;
    let old = pg::given(old_size, "old_size")?;
    super::tables();
    let (new, head) = head_of_size(&org, new_size)?;
    let ranges = tree::consistency(old.cast_unsigned(), new).ok_or_else(|| {
        no_such(
            "no such head is known",
            format!("The newer head covers {new} lines, the older one is said to cover {old}."),
        )
    })?;
    Ok(pgrx::JsonB(json!({
        "old_size": old,
        "new_size": new,
        "proof": hexes(&leaves::hashes_of(&org, &ranges)?),
        "head": head,
    })))
}

/// The newest head, or the one that covers so many lines.
fn head_of_size(org: &Id, size: Option<i64>) -> pg::Result<(u64, String)> {
    let mut found = None;
    match size {
        None => found = heads::last_head(org)?,
        Some(size) => {
            let mut rows = heads::open_heads(org)?;
            while let Some(row) = rows.next() {
                found = heads::Stored::read(&row).filter(|s| s.head.size.cast_signed() == size);
                if found.is_some() {
                    break;
                }
            }
        }
    }
    let stored = found.ok_or_else(|| {
        no_such(
            "no such head is known",
            "tenancy.audit_heads lists the heads and how many lines each covers.".into(),
        )
    })?;
    Ok((stored.head.size, stored.signed().note()))
}

fn no_such(message: &str, detail: String) -> pgrx::pg_sys::panic::ErrorReport {
    fail(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message)
        .set_detail(detail)
        .set_hint("SELECT tenancy.seal_audit(org); seals what is new.")
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("memory takes it");
        text
    })
}

pub fn hexes(hashes: &[Digest]) -> Vec<String> {
    hashes.iter().map(|h| hex(h)).collect()
}
