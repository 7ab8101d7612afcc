//! Usage, consolidated.

use super::{allowed, invalid};
use crate::pg::query::{Arg, run};
use crate::pg::{self};
use pgrx::AnyNumeric;
use pgrx::datum::Uuid;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;

const PARTS: [&str; 3] = ["project", "cluster", "environment"];
const PERIODS: [&str; 6] = ["hour", "day", "week", "month", "quarter", "year"];

/// The usage of an organization, added up by metric, and by project, cluster and environment (spec 10). It is the whole
/// organization's, whatever the session narrows itself to, restricted projects included: billing:read is org-wide.
///
/// `org`: the organization, NULL: the current one. `since`, `until`: what happened at `since` counts, what happened at
/// `until` does not. `every`: also by hour, day, week, month, quarter or year, as they are in UTC, whatever the session's
/// time zone; NULL: the whole time as one. `by`: which of project, cluster and environment to tell apart; of the others the
/// columns are NULL. Needs billing:read there. period_start is where a period begins, `since` for
/// the whole. Errors: 42501 no right or unknown organization, 22023 an empty or endless time, no such period or part.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
fn usage_report(
    org: Option<Uuid>,
    since: Option<TimestampWithTimeZone>,
    until: Option<TimestampWithTimeZone>,
    every: default!(Option<&str>, "NULL"),
    by: default!(
        Option<Vec<Option<String>>>,
        "ARRAY['project', 'cluster', 'environment']"
    ),
) -> pg::Result<
    TableIterator<
        'static,
        (
            name!(period_start, TimestampWithTimeZone),
            name!(metric, String),
            name!(project_id, Option<Uuid>),
            name!(cluster_id, Option<Uuid>),
            name!(environment, Option<String>),
            name!(quantity, AnyNumeric),
            name!(records, i64),
        ),
    >,
> {
    let since = i64::from(pg::given(since, "since")?);
    let until = i64::from(pg::given(until, "until")?);
    let org = allowed(org, "billing:read", "on usage", "report usage")?;
    if since >= until || since == i64::MIN || until == i64::MAX {
        return Err(invalid(
            "a report is of a time with a beginning and an end after it",
            "What happened at since counts, what happened at until does not.",
            "For November: since => '2026-11-01 00:00Z', until => '2026-12-01 00:00Z'.",
        ));
    }
    if every.is_some_and(|every| !PERIODS.contains(&every)) {
        return Err(invalid(
            "unknown period",
            format!("Usage is added up by {}.", PERIODS.join(", ")),
            "Leave every out for the whole time as one.",
        ));
    }
    let by = parts(pg::given(by, "by")?)?;
    let rows = run(
        "SELECT CASE WHEN $4 IS NULL THEN $2 ELSE pg_catalog.date_trunc($4, at, 'UTC') END,
                metric, CASE WHEN $5 THEN project_id END, CASE WHEN $6 THEN cluster_id END,
                CASE WHEN $7 THEN environment END, pg_catalog.sum(quantity), pg_catalog.count(*)
         FROM tenancy.usage_records
         WHERE org_id OPERATOR(pg_catalog.=) $1
           AND at OPERATOR(pg_catalog.>=) $2 AND at OPERATOR(pg_catalog.<) $3
         GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3 NULLS FIRST, 4 NULLS FIRST, 5 NULLS FIRST",
        &[
            Arg::Uuid(&org),
            Arg::Timestamp(Some(since)),
            Arg::Timestamp(Some(until)),
            Arg::OptionalText(every),
            Arg::Flag(by[0]),
            Arg::Flag(by[1]),
            Arg::Flag(by[2]),
        ],
        |row| {
            Some((
                row.get::<TimestampWithTimeZone>(1)?,
                row.get::<String>(2)?,
                row.get::<Uuid>(3),
                row.get::<Uuid>(4),
                row.get::<String>(5),
                row.get::<AnyNumeric>(6)?,
                row.get::<i64>(7)?,
            ))
        },
    );
    Ok(TableIterator::new(rows.into_iter().flatten()))
}

/// Which of the parts are named.
fn parts(by: Vec<Option<String>>) -> pg::Result<[bool; 3]> {
    let is_part = |name: &Option<String>| name.as_deref().is_some_and(|n| PARTS.contains(&n));
    if !by.iter().all(is_part) {
        return Err(invalid(
            "unknown part of a report",
            format!("Usage is told apart by {}.", PARTS.join(", ")),
            "For the sums of each environment: by => ARRAY['environment'].",
        ));
    }
    Ok(PARTS.map(|part| by.iter().flatten().any(|name| name == part)))
}
