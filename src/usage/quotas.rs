//! Setting quotas, showing them, and counting anew.

use super::count::{Counter, MILLION, not_protected};
use super::metric_quota::{MetricQuota, PERIODS};
use super::quota::Quota;
use super::records::check_metric;
use super::{allowed, invalid};
use crate::audit::{self, Act};
use crate::context;
use crate::context::authority::Id;
use crate::isolation;
use crate::org::require_administrator;
use crate::pg::query::{Arg, execute, latest, run};
use crate::pg::{self, catalog};
use pgrx::AnyNumeric;
use pgrx::datum::Uuid;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;
use serde_json::json;

/// What a quota is on.
pub(super) enum Resource<'a> {
    Table(pg_sys::Oid),
    Metric(&'a str, &'a str),
}

impl<'a> Resource<'a> {
    fn given(
        table: Option<pg_sys::Oid>,
        metric: Option<&'a str>,
        period: Option<&'a str>,
    ) -> pg::Result<Resource<'a>> {
        match (table, metric) {
            (Some(table), None) if period.is_none() => {
                match isolation::protected(table).filter(|t| t.org_attnum > 0) {
                    Some(_) => Ok(Resource::Table(table)),
                    None => Err(not_protected(table)),
                }
            }
            (None, Some(metric)) => {
                check_metric(metric)?;
                let period = period.unwrap_or("month");
                if PERIODS.contains(&period) {
                    return Ok(Resource::Metric(metric, period));
                }
                Err(invalid(
                    "unknown period",
                    format!("A quota on a metric is by {}.", PERIODS.join(", ")),
                    "Leave period out for a month.",
                ))
            }
            _ => Err(invalid(
                "a quota is on a table, or on a metric in a period",
                "Pass table_name alone, or metric and period.",
                "set_quota(org, 'servers', 100), or set_quota(org, metric => 'requests', maximum => 1000000, period => 'month').",
            )),
        }
    }

    fn name(&self) -> serde_json::Value {
        match self {
            Resource::Table(table) => json!({ "table": catalog::relation_name(*table) }),
            Resource::Metric(metric, period) => json!({ "metric": metric, "period": period }),
        }
    }

    /// The id and the limit of the quota there is.
    fn known(&self, org: &Id) -> Option<(Id, i64)> {
        let read = |row: &pg::query::Row| Some((row.uuid(1)?, row.get::<i64>(2)?));
        match self {
            Resource::Table(table) => latest(
                "SELECT id, maximum FROM tenancy.quota_limits
                 WHERE org_id OPERATOR(pg_catalog.=) $1 AND table_name::pg_catalog.oid OPERATOR(pg_catalog.=) $2",
                &[Arg::Uuid(org), Arg::Oid(*table)],
                read,
            ),
            Resource::Metric(metric, _) => latest(
                "SELECT id, maximum FROM tenancy.quota_limits
                 WHERE org_id OPERATOR(pg_catalog.=) $1 AND metric OPERATOR(pg_catalog.=) $2",
                &[Arg::Uuid(org), Arg::Text(metric)],
                read,
            ),
        }
        .pop()
        .flatten()
    }

    /// Waits until nobody writes what is counted, and keeps it so until the transaction ends: who wrote before a quota
    /// was set did not count.
    pub(super) fn lock(&self) {
        match self {
            Resource::Table(table) => {
                if let Some(name) = qualified(*table) {
                    execute(
                        &format!("LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE"),
                        &[],
                    );
                }
            }
            Resource::Metric(..) => {
                execute(
                    "LOCK TABLE tenancy.usage_records IN SHARE ROW EXCLUSIVE MODE",
                    &[],
                );
            }
        }
        pg::transaction::accept_invalidations();
    }
}

fn qualified(relid: pg_sys::Oid) -> Option<String> {
    latest(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class AS c
              JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE c.oid OPERATOR(pg_catalog.=) $1",
        &[Arg::Oid(relid)],
        |row| row.get::<String>(1),
    )
    .pop()
    .flatten()
}

/// Says how much an organization may have (spec 10): rows in a protected table, its partitions and children included, or
/// of a metric in a period. For the DBA: nobody raises his own.
///
/// `org`: the organization. `table_name`: the table. `maximum`: the most that may be there at any commit; NULL: unlimited,
/// which is what holds without a quota. One that is lower than what is there deletes nothing: more is refused until there
/// is less. `metric`, in place of a table: of what record_usage() is told. `period`: hour, day, week, month (by default),
/// quarter, year, as they are in UTC, or total. The first quota on a table waits for transactions that write it, and they
/// for it, until it is counted. Break-glass, replication and migrations are counted and not refused.
/// Errors: 42501 not the DBA or unknown organization, 55000 the table is not protected, 22023 no such resource or limit.
#[pg_extern(sql = r#"
CREATE FUNCTION set_quota(
    org uuid, table_name regclass DEFAULT NULL, maximum bigint DEFAULT NULL, metric text DEFAULT NULL, period text DEFAULT NULL)
RETURNS void VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn set_quota(
    org: Option<Uuid>,
    table_name: Option<pg_sys::Oid>,
    maximum: Option<i64>,
    metric: Option<&str>,
    period: Option<&str>,
) -> pg::Result<()> {
    let org = *pg::given(org, "org")?.as_bytes();
    require_administrator("set a quota")?;
    context::known_org(&org)?;
    let resource = Resource::given(table_name, metric, period)?;
    if maximum.is_some_and(|maximum| maximum < 0) {
        return Err(invalid(
            "a quota is not below zero",
            "0 refuses everything.",
            "NULL takes the quota away.",
        ));
    }
    // Two who set the same one do so in turn.
    execute(
        "LOCK TABLE tenancy.quota_limits IN SHARE ROW EXCLUSIVE MODE",
        &[],
    );
    require_administrator("set a quota")?;
    let old = resource.known(&org);
    match (&old, maximum) {
        (None, None) => return Ok(()),
        (Some((id, _)), None) => {
            execute(
                "DELETE FROM tenancy.quota_limits WHERE id OPERATOR(pg_catalog.=) $1",
                &[Arg::Uuid(id)],
            );
            execute(
                "DELETE FROM tenancy.quota_counters WHERE quota_id OPERATOR(pg_catalog.=) $1",
                &[Arg::Uuid(id)],
            );
        }
        (Some((id, _)), Some(maximum)) => {
            let period = match resource {
                Resource::Metric(_, period) => Some(period),
                Resource::Table(_) => None,
            };
            execute(
                "UPDATE tenancy.quota_limits
                 SET maximum = $2, period = $3, set_at = pg_catalog.now(), set_by = SESSION_USER
                 WHERE id OPERATOR(pg_catalog.=) $1",
                &[Arg::Uuid(id), Arg::Big(maximum), Arg::OptionalText(period)],
            );
        }
        (None, Some(maximum)) => begin(&org, &resource, maximum)?,
    }
    audit::record(&Act {
        org,
        operation: "set_quota",
        object: "tenancy.quotas",
        key: resource.name(),
        old: old.map(|(_, maximum)| json!({ "maximum": maximum })),
        new: maximum.map(|maximum| json!({ "maximum": maximum })),
    });
    Ok(())
}

fn begin(org: &Id, resource: &Resource, maximum: i64) -> pg::Result<()> {
    resource.lock();
    let (table, metric, period) = match resource {
        Resource::Table(table) => (Some(*table), None, None),
        Resource::Metric(metric, period) => (None, Some(*metric), Some(*period)),
    };
    let id = run(
        "INSERT INTO tenancy.quota_limits (org_id, table_name, metric, period, maximum)
         VALUES ($1, CASE WHEN $3 IS NULL THEN $2::pg_catalog.regclass END, $3, $4, $5) RETURNING id",
        &[
            Arg::Uuid(org),
            Arg::Oid(table.unwrap_or(pg_sys::InvalidOid)),
            Arg::OptionalText(metric),
            Arg::OptionalText(period),
            Arg::Big(maximum),
        ],
        |row| row.uuid(1),
    )
    .pop()
    .flatten()
    .unwrap_or_default();
    // This transaction's own rows are there, too: the quota is gone when they are.
    if let Some(table) = table {
        let counter = Counter::of_table(org, &Quota { id, table, maximum });
        let there = counter.count()?;
        counter.begin(there);
    } else if let (Some(metric), Some(quota)) =
        (metric, metric.and_then(|m| MetricQuota::of(org, m, None)))
    {
        let counter = quota.counter(org, metric);
        let there = counter.count()?;
        counter.begin(there);
    }
    Ok(())
}

struct Limit {
    org: Id,
    id: Id,
    table: Option<pg_sys::Oid>,
    metric: Option<String>,
    period: Option<String>,
    maximum: i64,
}

impl Limit {
    /// Those of an organization, or all.
    fn all(org: Option<&Id>) -> Vec<Limit> {
        latest(
            "SELECT q.org_id, q.id, q.table_name::pg_catalog.oid, q.metric, q.period, q.maximum FROM tenancy.quota_limits AS q
             WHERE ($1 IS NULL OR q.org_id OPERATOR(pg_catalog.=) $1)
               AND (q.table_name IS NULL
                    OR EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) q.table_name::pg_catalog.oid))
             ORDER BY q.org_id, q.table_name::pg_catalog.text, q.metric",
            &[Arg::OptionalUuid(org)],
            |row| {
                Some(Limit {
                    org: row.uuid(1)?,
                    id: row.uuid(2)?,
                    table: row.get(3),
                    metric: row.get(4),
                    period: row.get(5),
                    maximum: row.get(6)?,
                })
            },
        )
        .into_iter()
        .flatten()
        .collect()
    }

    /// Its counter: a metric's of the period that is now.
    fn counter(&self) -> Option<Counter> {
        match (self.table, &self.metric) {
            (Some(table), _) => Some(Counter::of_table(
                &self.org,
                &Quota {
                    id: self.id,
                    table,
                    maximum: self.maximum,
                },
            )),
            (None, Some(metric)) => {
                MetricQuota::of(&self.org, metric, None).map(|q| q.counter(&self.org, metric))
            }
            (None, None) => None,
        }
    }

    fn units(&self, n: i64) -> AnyNumeric {
        match self.metric {
            None => AnyNumeric::from(n),
            Some(_) => {
                let text = format!(
                    "{}{}.{:06}",
                    if n < 0 { "-" } else { "" },
                    n.unsigned_abs() / MILLION as u64,
                    n.unsigned_abs() % MILLION as u64
                );
                let short = text.trim_end_matches('0').trim_end_matches('.');
                AnyNumeric::try_from(short).unwrap_or_else(|_| AnyNumeric::from(n / MILLION))
            }
        }
    }
}

/// The quotas of an organization and how far they are used (spec 10); tenancy.quotas shows them. `org`: the organization,
/// which needs org:read in it; NULL: the current one, or for the DBA without one all of them. `used` is what is there for
/// this transaction, in the metric's current period; `held` what other transactions may still add. Errors: 42501.
#[pg_extern(sql = r#"
CREATE FUNCTION list_quotas(org uuid DEFAULT NULL)
RETURNS TABLE (org_id uuid, table_name regclass, metric text, period text, maximum bigint, used numeric, held numeric, remaining numeric)
VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
fn list_quotas(
    org: Option<Uuid>,
) -> pg::Result<
    TableIterator<
        'static,
        (
            name!(org_id, Uuid),
            name!(table_name, Option<pg_sys::Oid>),
            name!(metric, Option<String>),
            name!(period, Option<String>),
            name!(maximum, i64),
            name!(used, AnyNumeric),
            name!(held, AnyNumeric),
            name!(remaining, AnyNumeric),
        ),
    >,
> {
    let all = org.is_none() && context::standing().org.is_none() && context::is_administrator();
    let org = match all {
        true => None,
        false => Some(allowed(org, "org:read", "on quotas", "list quotas")?),
    };
    super::quota::flush()?;
    let mut rows = vec![];
    for limit in Limit::all(org.as_ref()) {
        let Some(counter) = limit.counter() else {
            continue;
        };
        // Of a table that is not protected any more nothing is counted.
        if limit
            .table
            .is_some_and(|t| isolation::protected(t).is_none())
        {
            continue;
        }
        let (used, held) = counter.look()?;
        let most = match limit.metric {
            Some(_) => limit.maximum.saturating_mul(MILLION),
            None => limit.maximum,
        };
        let remaining = most.saturating_sub(used).saturating_sub(held).max(0);
        let (used, held, remaining) =
            (limit.units(used), limit.units(held), limit.units(remaining));
        rows.push((
            Uuid::from_bytes(limit.org),
            limit.table,
            limit.metric,
            limit.period,
            limit.maximum,
            used,
            held,
            remaining,
        ));
    }
    Ok(TableIterator::new(rows))
}

/// Counts anew what quotas count, where something passed the triggers that count: rows that came with a partition or
/// left with one, triggers that were disabled (spec 10). For the DBA. `org`: the organization, NULL: all. `table_name`: the
/// table, NULL: all of them, and metrics. It waits for transactions that write what is counted, and they for it. Answers a
/// row for each counter: what it said, and what is there. Errors: 42501 not the DBA or unknown organization.
#[pg_extern(sql = r#"
CREATE FUNCTION recount_quota(org uuid DEFAULT NULL, table_name regclass DEFAULT NULL)
RETURNS TABLE (org_id uuid, table_name regclass, metric text, was numeric, used numeric)
VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
fn recount_quota(
    org: Option<Uuid>,
    table_name: Option<pg_sys::Oid>,
) -> pg::Result<
    TableIterator<
        'static,
        (
            name!(org_id, Uuid),
            name!(table_name, Option<pg_sys::Oid>),
            name!(metric, Option<String>),
            name!(was, AnyNumeric),
            name!(used, AnyNumeric),
        ),
    >,
> {
    require_administrator("recount quotas")?;
    let org = org.map(|o| *o.as_bytes());
    if let Some(org) = &org {
        context::known_org(org)?;
    }
    super::quota::flush()?;
    execute(
        "LOCK TABLE tenancy.quota_limits IN SHARE ROW EXCLUSIVE MODE",
        &[],
    );
    let everything = org.is_none() && table_name.is_none();
    if everything {
        super::quota_ddl::sweep();
    }
    let mut rows = vec![];
    for limit in Limit::all(org.as_ref()) {
        if table_name.is_some() && limit.table != table_name {
            continue;
        }
        let Some(counter) = limit.counter() else {
            continue;
        };
        match (&limit.table, &limit.metric, &limit.period) {
            (Some(table), ..) => match isolation::protected(*table) {
                Some(_) => Resource::Table(*table).lock(),
                None => continue,
            },
            (None, Some(metric), Some(period)) => Resource::Metric(metric, period).lock(),
            _ => continue,
        }
        let was = counter.look()?.0;
        counter.count_anew(true)?;
        let used = counter.look()?.0;
        let (was, used) = (limit.units(was), limit.units(used));
        rows.push((
            Uuid::from_bytes(limit.org),
            limit.table,
            limit.metric,
            was,
            used,
        ));
    }
    Ok(TableIterator::new(rows))
}
