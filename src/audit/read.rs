//! Who may read which log: the current organization's, with org:audit there, through one function on every path.

use super::store;
use crate::context;
use crate::pg::{self, srf};
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgrx::spi;

#[doc(hidden)]
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_tenancy_read_audit() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// `tenancy.read_audit(since, until, actor, object, operation, max_rows)`: the current organization's log, oldest
/// first (spec 6.2). NULL leaves a filter out. Needs org:audit. Errors: 42501 no organization or no right.
///
/// SAFETY: called by PostgreSQL's function manager with the six arguments that sql/30_functions.sql declares.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_read_audit(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own; each argument is read as the type it is declared with.
    unsafe {
        let args = (*fcinfo).args.as_slice(6);
        let query = query(&Filter {
            since: TimestampWithTimeZone::from_datum(args[0].value, args[0].isnull),
            until: TimestampWithTimeZone::from_datum(args[1].value, args[1].isnull),
            actor: pgrx::datum::Uuid::from_datum(args[2].value, args[2].isnull),
            object: String::from_datum(args[3].value, args[3].isnull),
            operation: String::from_datum(args[4].value, args[4].isnull),
            max_rows: i64::from_datum(args[5].value, args[5].isnull),
        })
        .unwrap_or_report();
        srf::materialize(fcinfo, &query);
    }
    pg_sys::Datum::from(0)
}

/// A line's columns as the reader sees them: where the key only names columns of the row that the line holds, it is
/// picked from there.
const COLUMNS: &str = "at, org_id, actor_id, actor_type, approver_id, db_role, operation, object, \
    CASE pg_catalog.jsonb_typeof(key) WHEN 'array' THEN \
        (SELECT pg_catalog.jsonb_object_agg(name, coalesce(new, old) OPERATOR(pg_catalog.->) name) \
         FROM pg_catalog.jsonb_array_elements_text(key) AS part (name)) \
    ELSE key END AS key, old, new, result, client_addr, request_id, xid, n, break_glass";

struct Filter {
    since: Option<TimestampWithTimeZone>,
    until: Option<TimestampWithTimeZone>,
    actor: Option<pgrx::datum::Uuid>,
    object: Option<String>,
    operation: Option<String>,
    max_rows: Option<i64>,
}

fn query(filter: &Filter) -> pg::Result<String> {
    let now = context::standing();
    let Some(org) = now.org_id() else {
        return Err(context::without_context(&now, "read an audit log"));
    };
    let audit = crate::access::action(&now.matrix, "org:audit")?;
    if !now.may(audit) {
        return Err(context::no_right(&now, "org:audit", "on the audit log"));
    }
    context::pin(&now)?;
    super::flush();
    let whose = format!(
        "org_id OPERATOR(pg_catalog.=) '{}'::pg_catalog.uuid",
        uuid::Uuid::from_bytes(org).hyphenated()
    );
    let mut conditions = vec![whose];
    // Microseconds since 2000, PostgreSQL's own count, so that no time zone or date style comes between.
    let moment = |at: TimestampWithTimeZone| {
        format!(
            "('2000-01-01 00:00:00+00'::pg_catalog.timestamptz OPERATOR(pg_catalog.+) \
             pg_catalog.make_interval(secs => {}::pg_catalog.numeric OPERATOR(pg_catalog./) 1000000))",
            i64::from(at)
        )
    };
    if let Some(since) = filter.since {
        conditions.push(format!("at OPERATOR(pg_catalog.>=) {}", moment(since)));
    }
    if let Some(until) = filter.until {
        conditions.push(format!("at OPERATOR(pg_catalog.<) {}", moment(until)));
    }
    if let Some(actor) = &filter.actor {
        conditions.push(format!(
            "actor_id OPERATOR(pg_catalog.=) '{actor}'::pg_catalog.uuid"
        ));
    }
    for (column, wanted) in [("object", &filter.object), ("operation", &filter.operation)] {
        if let Some(wanted) = wanted {
            conditions.push(format!(
                "{column} OPERATOR(pg_catalog.=) {}",
                spi::quote_literal(wanted)
            ));
        }
    }
    let tables = store::tables_of(&org);
    let parts: Vec<String> = tables
        .iter()
        .map(|table| {
            format!(
                "SELECT {COLUMNS} FROM {} WHERE {}",
                spi::quote_qualified_identifier("tenancy_audit", table),
                conditions.join(" AND ")
            )
        })
        .collect();
    let limit = filter
        .max_rows
        .map_or(String::new(), |n| format!(" LIMIT {}", n.max(0)));
    Ok(format!(
        "SELECT * FROM ({}) AS log ORDER BY at, xid::pg_catalog.text::pg_catalog.numeric, n{limit}",
        parts.join(" UNION ALL ")
    ))
}
