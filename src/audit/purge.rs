//! What removes the lines that are older than their organization keeps them: whole chunks from the log's beginning, after
//! a signed head said up to where.
//!
//! A shared table of a month is dropped as soon as nothing in it is to be kept: the DBA's run lets organizations that
//! share go on to the end of a month, so that, where all of them keep their logs for as long, no row is ever deleted there.
//! From an organization's own table chunks are deleted, a page of lines at a time.

use super::capture::{Act, record};
use super::read::{index_lost, may, require_primary};
use super::retention::{require_no_hold, rules};
use super::seal::retention::{self as sealed, Purged};
use super::store::{self, Store};
use super::{chunk, show};
use crate::context;
use crate::context::authority::{self, Id};
use crate::pg::query::{Arg, run};
use crate::pg::scan::{Bound, Ordered};
use crate::pg::{self, gather, heap, horizon, transaction};
use pg_tenancy_audit_format::iso_time;
use pgrx::datum::Uuid;
use pgrx::prelude::*;
use serde_json::json;
use std::collections::HashMap;

const DAY: i64 = 86_400_000_000;

/// Removes the lines that are older than set_audit_retention() says, of the current organization's log, or of all for the
/// DBA without an organization; answers how many (spec 6.5). Only sealed lines go, from the log's beginning and by whole
/// chunks, so one that is older may stay for a while; in the DBA's run up to the end of its month, where the organization
/// shares its table: a month's table of which nothing is kept is dropped, and no row of it deleted. Each log receives a
/// signed head that says up to where it was purged, and a line. Under legal hold nothing goes. Needs org:delete, or to be
/// the DBA. Errors: 42501 no organization or no right, 55000 under legal hold, 25006 on a standby.
#[pg_extern(volatile, parallel_unsafe)]
fn purge_audit() -> pg::Result<i64> {
    require_primary()?;
    let all = context::standing().org_id().is_none() && context::is_administrator();
    let orgs = if all {
        run(
            "SELECT org_id FROM tenancy.audit_retention WHERE keep_days IS NOT NULL AND NOT legal_hold ORDER BY org_id",
            &[],
            |row| row.uuid(1),
        )
        .into_iter()
        .flatten()
        .collect()
    } else {
        let org = may("org:delete", "purge an audit log")?;
        require_no_hold(&org, "purged")?;
        vec![org]
    };
    let mut purges = HashMap::new();
    for org in orgs {
        if let Some(purge) = begin(&org, all)? {
            purges.insert(org, purge);
        }
    }
    if purges.is_empty() {
        return Ok(0);
    }
    if all {
        store::drop_past_months(|table| holds_nothing_else(table, &purges));
    }
    let mut lines = 0;
    for (org, purge) in &purges {
        for store in store::tables_of(org) {
            horizon::with_latest_snapshot(|_| remove(org, store, purge))?;
        }
        lines += purge.purged.lines();
        record(&Act {
            org: *org,
            operation: "purge_audit",
            object: "tenancy.audit_log",
            key: json!({}),
            old: None,
            new: Some(json!({
                "until": iso_time(purge.until),
                "up_to_line": purge.purged.up_to,
                "lines": purge.purged.lines(),
            })),
        });
    }
    Ok(lines.cast_signed())
}

struct Purge {
    until: i64,
    purged: Purged,
}

/// Signs the head; what it says is removed afterwards, in the same transaction. None where nothing is old enough.
fn begin(org: &Id, all: bool) -> pg::Result<Option<Purge>> {
    // Before anything is looked at: another purge may be at it, and what one waits for may change meanwhile.
    sealed::lock(org);
    let rules = rules(org);
    let Some(days) = rules.keep_days.filter(|_| !rules.hold) else {
        return match all {
            true => Ok(None),
            false => require_no_hold(org, "purged").map(|()| None),
        };
    };
    let mut until = transaction::now() - i64::from(days) * DAY;
    let shares = || authority::org_by_id(org).is_some_and(|o| !o.dedicated_audit);
    if all && shares() {
        until = month_of(until);
    }
    let purged = sealed::checkpoint(org, until)?;
    Ok(purged.map(|purged| Purge { until, purged }))
}

/// When the month of a time began (UTC).
fn month_of(time: i64) -> i64 {
    run(
        "SELECT pg_catalog.date_trunc('month', $1, 'UTC')",
        &[Arg::Timestamp(Some(time))],
        |row| row.get::<TimestampWithTimeZone>(1).map(i64::from),
    )
    .pop()
    .flatten()
    .unwrap_or(time)
}

/// Whether every chunk in a table is one that is to go.
fn holds_nothing_else(table: pg_sys::Oid, purges: &HashMap<Id, Purge>) -> bool {
    let mut all = true;
    horizon::with_latest_snapshot(|_| {
        gather::each(table, &chunk::TYPES, 0, |row| {
            let org = row.get::<Uuid>(5).map(|u| *u.as_bytes());
            let purge = org.and_then(|org| purges.get(&org));
            all = purge.is_some_and(|purge| purge.purged.holds(&show::moment(row)));
            all
        });
    });
    all
}

/// Removes an organization's chunks from one table.
fn remove(org: &Id, store: Store, purge: &Purge) -> pg::Result<()> {
    let (at, org_id) = (1, 5);
    // In the order of the index's columns.
    let mut bounds = vec![];
    if !store.own {
        bounds.push(Bound::uuid_is(org_id, org));
    }
    bounds.push(Bound::before(at, purge.until));
    let by = if store.own { &[at][..] } else { &[org_id, at] };
    let scan = Ordered::open(store.table, &chunk::TYPES, by, &bounds);
    let mut scan = scan.ok_or_else(index_lost)?;
    let mut any = false;
    while let Some(row) = scan.next() {
        if purge.purged.holds(&show::moment(&row)) {
            heap::delete(store.table, &row);
            any = true;
        }
    }
    drop(scan);
    if any && !store.own {
        horizon::next_command();
        store::drop_past_month(store.table, |table| {
            let mut empty = true;
            horizon::with_latest_snapshot(|_| {
                gather::each(table, &chunk::TYPES, 0, |_| {
                    empty = false;
                    false
                });
            });
            empty
        });
    }
    Ok(())
}
