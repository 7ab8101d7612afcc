//! How long an organization's log is kept, and what removes the lines that are older: whole chunks from the log's beginning,
//! after a signed head said up to where. A legal hold stops that, and erasing too.

use super::capture::{Act, record};
use super::chunk;
use super::read::{may, require_primary};
use super::seal;
use super::store::{self, Store};
use crate::context;
use crate::context::authority::Id;
use crate::pg::query::{Arg, execute, run};
use crate::pg::scan::{Bound, Ordered};
use crate::pg::{self, fail, heap, transaction};
use pg_tenancy_audit_format::{Moment, iso_time};
use pgrx::prelude::*;
use serde_json::json;
use std::collections::BTreeSet;

/// Says for how many days the current organization's log is kept; NULL: for ever, as without it (spec 6.5). What is older
/// goes when purge_audit() runs. Needs org:delete. Errors: 42501 no organization or no right, 22023 less than a day.
#[pg_extern(sql = r#"
CREATE FUNCTION set_audit_retention(keep_days integer)
RETURNS void VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn set_audit_retention(keep_days: Option<i32>) -> pg::Result<()> {
    let org = may("org:delete", "say how long an audit log is kept")?;
    if keep_days.is_some_and(|days| days < 1) {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "an audit log is kept for a day at least",
        )
        .set_detail("Nothing was changed.")
        .set_hint("NULL keeps it for ever."));
    }
    let before = rules(&org);
    let days = keep_days.map(|days| days.to_string());
    execute(
        "INSERT INTO tenancy.audit_retention (org_id, keep_days) VALUES ($1, $2::pg_catalog.int4)
         ON CONFLICT (org_id) DO UPDATE SET keep_days = EXCLUDED.keep_days",
        &[Arg::Uuid(&org), Arg::OptionalText(days.as_deref())],
    );
    record(&Act {
        org,
        operation: "set_audit_retention",
        object: "tenancy.audit_retention",
        key: json!({}),
        old: Some(json!({ "keep_days": before.keep_days })),
        new: Some(json!({ "keep_days": keep_days })),
    });
    Ok(())
}

/// Puts the current organization's log under legal hold, or ends it: as long as it is on, nothing is purged or erased (spec
/// 6.5). `reason`: why, kept in the log. Needs org:delete. Errors: 42501 no organization or no right, 22004 no reason.
#[pg_extern(sql = r#"
CREATE FUNCTION set_legal_hold(hold boolean, reason text)
RETURNS void VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn set_legal_hold(hold: Option<bool>, reason: Option<&str>) -> pg::Result<()> {
    let hold = pg::given(hold, "hold")?;
    let reason = pg::given(reason, "reason")?;
    let org = may("org:delete", "put an audit log under legal hold")?;
    let before = rules(&org);
    execute(
        "INSERT INTO tenancy.audit_retention (org_id, legal_hold, hold_reason) VALUES ($1, $2, $3)
         ON CONFLICT (org_id) DO UPDATE SET legal_hold = EXCLUDED.legal_hold, hold_reason = EXCLUDED.hold_reason",
        &[Arg::Uuid(&org), Arg::Flag(hold), Arg::OptionalText(hold.then_some(reason))],
    );
    record(&Act {
        org,
        operation: "set_legal_hold",
        object: "tenancy.audit_retention",
        key: json!({}),
        old: Some(json!({ "legal_hold": before.hold })),
        new: Some(json!({ "legal_hold": hold, "reason": reason })),
    });
    Ok(())
}

#[derive(Default)]
struct Rules {
    keep_days: Option<i32>,
    hold: bool,
}

fn rules(org: &Id) -> Rules {
    run(
        "SELECT keep_days, legal_hold FROM tenancy.audit_retention WHERE org_id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(org)],
        |row| Rules {
            keep_days: row.get(1),
            hold: row.get(2).unwrap_or(false),
        },
    )
    .pop()
    .unwrap_or_default()
}

pub fn require_no_hold(org: &Id, what: &str) -> pg::Result<()> {
    if !rules(org).hold {
        return Ok(());
    }
    Err(fail(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("nothing is {what} from an audit log that is under legal hold"),
    )
    .set_detail("SELECT * FROM tenancy.audit_retention shows the reason.")
    .set_hint("SELECT tenancy.set_legal_hold(false, '<reason>'), when the hold has ended."))
}

/// Removes the lines that are older than set_audit_retention() says, of the current organization's log, or of all for the
/// DBA without an organization; answers how many (spec 6.5). Only sealed lines go, from the log's beginning and by whole
/// chunks, so one that is older may stay for a while. Each log receives a signed head that says up to where it was purged,
/// and a line. A table that holds nothing else is dropped. Under legal hold nothing goes. Needs org:delete, or to be the DBA.
/// Errors: 42501 no organization or no right, 55000 under legal hold, 25006 on a standby.
#[pg_extern(volatile, parallel_unsafe)]
fn purge_audit() -> pg::Result<i64> {
    require_primary()?;
    if context::standing().org_id().is_none() && context::is_administrator() {
        let orgs = run(
            "SELECT org_id FROM tenancy.audit_retention WHERE keep_days IS NOT NULL AND NOT legal_hold ORDER BY org_id",
            &[],
            |row| row.uuid(1),
        );
        let mut purged = 0;
        for org in orgs.into_iter().flatten() {
            purged += purge(&org)?;
        }
        return Ok(purged as i64);
    }
    let org = may("org:delete", "purge an audit log")?;
    require_no_hold(&org, "purged")?;
    Ok(purge(&org)? as i64)
}

fn purge(org: &Id) -> pg::Result<u64> {
    const DAY: i64 = 86_400_000_000;
    let Some(days) = rules(org).keep_days else {
        return Ok(0);
    };
    let until = transaction::now() - i64::from(days) * DAY;
    let k = seal::retention::prefix_before(org, until)?;
    let mut doomed: BTreeSet<Moment> = BTreeSet::new();
    seal::retention::chunks_before(org, k, |moment| {
        doomed.insert(moment);
    })?;
    if doomed.is_empty() {
        return Ok(0);
    }
    seal::retention::checkpoint(org, k)?;
    let mut lines = 0;
    for store in store::tables_of(org) {
        lines += remove(org, store, until, &doomed)?;
    }
    record(&Act {
        org: *org,
        operation: "purge_audit",
        object: "tenancy.audit_log",
        key: json!({}),
        old: None,
        new: Some(json!({ "until": iso_time(until), "up_to_line": k, "lines": lines })),
    });
    Ok(lines)
}

/// Removes an organization's chunks from one table; how many lines they had.
fn remove(org: &Id, store: Store, until: i64, doomed: &BTreeSet<Moment>) -> pg::Result<u64> {
    let (at, org_id) = (1, 5);
    let mut bounds = vec![Bound::before(at, until)];
    if !store.own {
        bounds.push(Bound::uuid_is(org_id, org));
    }
    let by = if store.own { &[at][..] } else { &[org_id, at] };
    let Some(mut scan) = Ordered::open(store.table, &chunk::TYPES, by, &bounds) else {
        return Ok(0);
    };
    let mut lines = 0;
    while let Some(row) = scan.next() {
        let moment = Moment {
            at: super::show::first(&row),
            xid: row.get::<i64>(2).unwrap_or_default() as u64,
            n: row.get(3).unwrap_or_default(),
        };
        if doomed.contains(&moment) {
            lines += row.get::<i32>(4).unwrap_or_default() as u64;
            heap::delete(store.table, &row);
        }
    }
    drop(scan);
    // A past month's table that nobody has lines in any more is dropped, with what VACUUM would have to do.
    if !store.own && lines > 0 {
        store::drop_if_empty(store.table);
    }
    Ok(lines)
}
