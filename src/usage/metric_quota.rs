//! Quotas on metrics: how much of one an organization may use in a period, kept where usage is recorded.

use super::count::{self, Counter, MILLION};
use super::invalid;
use super::quota::over;
use super::records::Record;
use crate::context::authority::{self, Id};
use crate::pg::query::{Arg, Row, latest};
use crate::pg::{self, fail};
use pgrx::prelude::*;
use std::cell::Cell;

/// Periods begin in UTC. `total` is one without end.
pub const PERIODS: [&str; 7] = ["hour", "day", "week", "month", "quarter", "year", "total"];

thread_local! {
    static READ_AT: Cell<u64> = const { Cell::new(u64::MAX) };
    static ANY: Cell<bool> = const { Cell::new(false) };
}

fn any() -> bool {
    if READ_AT.get() != authority::heard() {
        let at = authority::heard();
        let found = latest(
            "SELECT 1 FROM tenancy.quota_limits WHERE metric IS NOT NULL LIMIT 1",
            &[],
            |_| (),
        );
        ANY.set(!found.is_empty());
        READ_AT.set(at);
    }
    ANY.get()
}

/// A quota on a metric, and the period of it that a time falls in.
pub struct MetricQuota {
    pub id: Id,
    pub maximum: i64,
    pub period: String,
    pub since: i64,
    pub until: i64,
}

impl MetricQuota {
    fn read(row: &Row) -> Option<MetricQuota> {
        let time = |n| row.get::<TimestampWithTimeZone>(n).map(i64::from);
        Some(MetricQuota {
            id: row.uuid(1)?,
            maximum: row.get::<i64>(2)?,
            period: row.get::<String>(3)?,
            since: time(4).unwrap_or(i64::MIN),
            until: time(5).unwrap_or(i64::MAX),
        })
    }

    /// An organization's on a metric, at a time; None: now.
    pub fn of(org: &Id, metric: &str, at: Option<i64>) -> Option<MetricQuota> {
        latest(
            "SELECT q.id, q.maximum, q.period,
                    p.since AT TIME ZONE 'UTC',
                    (p.since OPERATOR(pg_catalog.+)
                     CASE q.period WHEN 'quarter' THEN '3 months' WHEN 'total' THEN NULL
                                   ELSE '1 ' OPERATOR(pg_catalog.||) q.period END::pg_catalog.interval) AT TIME ZONE 'UTC'
             FROM tenancy.quota_limits AS q
                  CROSS JOIN LATERAL
                      (SELECT CASE WHEN q.period OPERATOR(pg_catalog.<>) 'total'
                              THEN pg_catalog.date_trunc(q.period, COALESCE($3, pg_catalog.now()) AT TIME ZONE 'UTC') END) AS p (since)
             WHERE q.org_id OPERATOR(pg_catalog.=) $1 AND q.metric OPERATOR(pg_catalog.=) $2",
            &[Arg::Uuid(org), Arg::Text(metric), Arg::Timestamp(at)],
            MetricQuota::read,
        )
        .pop()
        .flatten()
    }

    pub fn counter(&self, org: &Id, metric: &str) -> Counter {
        Counter::of_metric(org, &self.id, metric, self.since, self.until)
    }
}

/// Counts a record that was just stored, or refuses it.
pub fn count(record: &Record) -> pg::Result<()> {
    if !any() {
        return Ok(());
    }
    let Some(quota) = MetricQuota::of(&record.org, record.metric, record.at) else {
        return Ok(());
    };
    let by = latest(
        "SELECT CASE WHEN pg_catalog.abs(n) OPERATOR(pg_catalog.<) 1e18 THEN n::pg_catalog.int8 END
         FROM pg_catalog.ceil($1::pg_catalog.numeric OPERATOR(pg_catalog.*) 1000000) AS n",
        &[Arg::Text(&record.quantity)],
        |row| row.get::<i64>(1),
    )
    .pop()
    .flatten()
    .ok_or_else(|| {
        invalid(
            "this quantity is too large to be counted for a quota",
            "A quota counts millionths, and up to a million million units at once.",
            "Record it in a larger unit.",
        )
    })?;
    let most = quota.maximum.saturating_mul(MILLION);
    let counter = quota.counter(&record.org, record.metric);
    match count::change(&counter, by, Some(most))? {
        None => Ok(()),
        Some((used, held)) => {
            let units = |n: i64| n as f64 / MILLION as f64;
            let when = match quota.period.as_str() {
                "total" => String::new(),
                period => format!(" a {period}"),
            };
            Err(fail(
                PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                format!(
                    "quota exceeded: the organization may use at most {} of {}{when}",
                    quota.maximum, record.metric
                ),
            )
            .set_detail(match held {
                0 => over(units(used), 0, &record.quantity),
                _ => over(units(used), held / MILLION, &record.quantity),
            })
            .set_hint(
                "Wait for the next period, or have a DBA raise the quota: tenancy.set_quota().",
            ))
        }
    }
}
