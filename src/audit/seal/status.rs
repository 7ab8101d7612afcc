//! How far sealing is behind, and whom it waits for.

use super::{api, fold, heads};
use crate::audit::show;
use crate::audit::store::{self, Store};
use crate::context;
use crate::context::authority::Id;
use crate::pg::horizon::{self, Horizon};
use crate::pg::query::{Arg, latest};
use crate::pg::{self};
use pgrx::datum::Uuid;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;

/// How much of each log is sealed and how much is not yet (spec 6.4); tenancy.audit_seal_status shows it.
///
/// `org`: the organization, which needs org:audit in it; NULL: all of them, for the DBA, else the current one.
/// unsealed_lines and oldest_unsealed are what the next pass will take, or what waits: waiting_for then names the oldest
/// transaction that has not ended (for the DBA). Errors: 42501.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
pub fn list_seal_status(
    org: default!(Option<Uuid>, "NULL"),
) -> pg::Result<
    TableIterator<
        'static,
        (
            name!(org_id, Uuid),
            name!(sealed_lines, i64),
            name!(sealed_at, Option<TimestampWithTimeZone>),
            name!(purged_lines, i64),
            name!(unsealed_lines, i64),
            name!(oldest_unsealed, Option<TimestampWithTimeZone>),
            name!(waiting_for, Option<String>),
        ),
    >,
> {
    let dba = context::is_administrator();
    let orgs = if org.is_none() && dba {
        api::orgs()
    } else {
        vec![api::audited(org)?]
    };
    super::tables();
    crate::audit::flush();
    let shared = store::shared();
    let time = |at: i64| TimestampWithTimeZone::try_from(at).ok();
    let rows = horizon::with_latest_snapshot(|horizon| {
        orgs.iter()
            .map(|org| {
                let last = heads::last_head(org)?;
                let left = unsealed(org, &shared, last.as_ref())?;
                let head = last.as_ref().map(|l| &l.head);
                let waits = dba && left.last_xid.is_some_and(|xid| xid >= horizon.oldest);
                Ok((
                    Uuid::from_bytes(*org),
                    head.map_or(0, |h| h.size.cast_signed()),
                    head.and_then(|h| time(h.at)),
                    head.map_or(0, |h| h.purged.cast_signed()),
                    left.lines,
                    left.oldest.and_then(time),
                    waits.then(|| oldest_running(horizon)),
                ))
            })
            .collect::<pg::Result<Vec<_>>>()
    })?;
    Ok(TableIterator::new(rows))
}

#[derive(Default)]
struct Left {
    lines: i64,
    oldest: Option<i64>,
    last_xid: Option<u64>,
}

fn unsealed(org: &Id, shared: &[Store], last: Option<&heads::Stored>) -> pg::Result<Left> {
    let mut left = Left::default();
    let first = fold::is_first_pass(last);
    let mixed = last.is_some_and(|l| first || l.restored);
    let range = last.filter(|_| !first).map(|l| (l.horizon, u64::MAX));
    for store in store::tables_beside(org, shared) {
        let mut rows = fold::open(store, org, last, range)?;
        while let Some(row) = rows.next() {
            let moment = show::moment(&row);
            if mixed && super::leaves::number_of(org, &moment).is_some() {
                continue;
            }
            left.lines += i64::from(row.get::<i32>(4).unwrap_or_default());
            left.oldest = Some(left.oldest.map_or(moment.at, |at| at.min(moment.at)));
            left.last_xid = left.last_xid.max(Some(moment.xid));
        }
    }
    Ok(left)
}

/// The transaction that holds the horizon back.
fn oldest_running(horizon: Horizon) -> String {
    let xid = format!("{}", horizon.oldest as u32);
    latest(
        "SELECT pg_catalog.format('prepared transaction %L, prepared at %s', gid, prepared)
         FROM pg_catalog.pg_prepared_xacts WHERE transaction OPERATOR(pg_catalog.=) $1::pg_catalog.xid
         UNION ALL
         SELECT pg_catalog.format('process %s, transaction began at %s', pid, xact_start)
         FROM pg_catalog.pg_stat_activity WHERE backend_xid OPERATOR(pg_catalog.=) $1::pg_catalog.xid",
        &[Arg::Text(&xid)],
        |row| row.get::<String>(1),
    )
    .pop()
    .flatten()
    .unwrap_or_else(|| format!("transaction {xid}"))
}
