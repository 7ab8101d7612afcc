//! What each organization's rows take: counted by the organization's index, not kept.

use super::allowed;
use crate::context;
use crate::context::authority::{self, Id};
use crate::isolation;
use crate::pg::key::KeyType;
use crate::pg::query::{Arg, latest, latest_of};
use crate::pg::{self};
use pgrx::datum::Uuid;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;

/// Of so many rows the width is measured where it is not to be exact.
const SAMPLE: i32 = 1_000;
/// What a row takes beside its values: header and line pointer.
const HEADER: i32 = 28;

/// The protected tables that are no part of another protected one: their rows are counted with the whole's.
fn tables() -> Vec<pg_sys::Oid> {
    latest(
        "SELECT p.table_name::pg_catalog.oid FROM tenancy.protected_tables AS p
         WHERE NOT EXISTS
            (SELECT FROM pg_catalog.pg_inherits AS i
             JOIN tenancy.protected_tables AS above ON above.table_name::pg_catalog.oid OPERATOR(pg_catalog.=) i.inhparent
             WHERE i.inhrelid OPERATOR(pg_catalog.=) p.table_name::pg_catalog.oid)
         ORDER BY p.table_name::pg_catalog.text",
        &[],
        |row| row.get::<pg_sys::Oid>(1),
    )
    .into_iter()
    .flatten()
    .collect()
}

/// A table's name, its organization column and what a row of it takes, as PostgreSQL quotes them.
pub struct Sized {
    pub name: String,
    pub column: String,
    pub kind: KeyType,
    width: String,
}

impl Sized {
    /// None where the table is not protected, or is gone.
    pub fn of(relid: pg_sys::Oid) -> Option<Sized> {
        let table = isolation::protected(relid).filter(|t| t.org_attnum > 0)?;
        let (name, column, width) = latest(
            "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname),
                    (SELECT pg_catalog.quote_ident(a.attname) FROM pg_catalog.pg_attribute AS a
                     WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attnum OPERATOR(pg_catalog.=) $2::pg_catalog.int2),
                    (SELECT pg_catalog.string_agg(pg_catalog.format('COALESCE(pg_catalog.pg_column_size(t.%I), 0)', a.attname), ' OPERATOR(pg_catalog.+) ')
                     FROM pg_catalog.pg_attribute AS a
                     WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2 AND NOT a.attisdropped)
             FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
             WHERE c.oid OPERATOR(pg_catalog.=) $1",
            &[Arg::Oid(relid), Arg::Int(table.org_attnum.into())],
            |row| Some((row.get::<String>(1)?, row.get::<String>(2)?, row.get::<String>(3)?)),
        )
        .pop()
        .flatten()?;
        Some(Sized {
            name,
            column,
            kind: table.org_kind,
            width: format!("({width} OPERATOR(pg_catalog.+) {HEADER})::pg_catalog.int8"),
        })
    }

    /// `organization column = $1`, by the index that protect() saw to.
    pub fn of_org(&self) -> String {
        format!("t.{} OPERATOR(pg_catalog.=) $1", self.column)
    }
}

fn of_one(table: &Sized, org: &authority::Org, exact: bool) -> Option<(i64, i64)> {
    let keys = org.keys();
    if !keys.has(table.kind) {
        return Some((0, 0));
    }
    let (name, width, mine) = (&table.name, &table.width, table.of_org());
    let sql = if exact {
        format!(
            "SELECT pg_catalog.count(*), COALESCE(pg_catalog.sum({width}), 0)::pg_catalog.int8 FROM {name} AS t WHERE {mine}"
        )
    } else {
        // Numbers are measured apart, so that counting may read the index alone.
        format!(
            "SELECT n, (n OPERATOR(pg_catalog.*) w)::pg_catalog.int8
             FROM (SELECT pg_catalog.count(*) AS n FROM {name} AS t WHERE {mine}) AS counted,
                  (SELECT COALESCE(pg_catalog.avg(w), 0) AS w
                   FROM (SELECT {width} AS w FROM {name} AS t WHERE {mine} LIMIT {SAMPLE}) AS sample) AS measured"
        )
    };
    latest_of(&sql, &[Arg::Key(keys, table.kind)], |row| {
        Some((row.get::<i64>(1)?, row.get::<i64>(2)?))
    })
    .pop()
    .flatten()
}

/// Every organization's at once, in one pass over the table.
fn of_all(table: &Sized) -> Vec<(Id, i64, i64)> {
    let (name, column, width) = (&table.name, &table.column, &table.width);
    // A number is an organization's key where it is written as PostgreSQL writes it, which a cast does.
    let join = match table.kind {
        KeyType::Uuid => format!("o.id OPERATOR(pg_catalog.=) t.{column}"),
        _ => format!("o.external_key OPERATOR(pg_catalog.=) t.{column}::pg_catalog.text"),
    };
    latest_of(
        &format!(
            "SELECT o.id, pg_catalog.count(*), pg_catalog.sum({width})::pg_catalog.int8
             FROM {name} AS t JOIN tenancy.orgs AS o ON {join} GROUP BY o.id"
        ),
        &[],
        |row| Some((row.uuid(1)?, row.get::<i64>(2)?, row.get::<i64>(3)?)),
    )
    .into_iter()
    .flatten()
    .collect()
}

/// How many rows an organization has in each protected table, and how many bytes they take there (spec 10): values as they
/// are stored, compressed or moved out of line included, with row headers; without indexes and free space.
///
/// `org`: the organization, which needs billing:read in it; NULL: the current one, or for the DBA without one all of them
/// (tables without rows of an organization are left out then). `exact` => false: rows are counted, bytes are reckoned from
/// 1,000 of them. Partitions and children count with their table. Errors: 42501.
#[pg_extern(sql = r#"
CREATE FUNCTION measure_usage(org uuid DEFAULT NULL, exact boolean DEFAULT true)
RETURNS TABLE (org_id uuid, table_name regclass, rows bigint, bytes bigint)
VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
fn measure_usage(
    org: Option<Uuid>,
    exact: Option<bool>,
) -> pg::Result<
    TableIterator<
        'static,
        (
            name!(org_id, Uuid),
            name!(table_name, pg_sys::Oid),
            name!(rows, i64),
            name!(bytes, i64),
        ),
    >,
> {
    let exact = pg::given(exact, "exact")?;
    let all = org.is_none() && context::standing().org.is_none() && context::is_administrator();
    let tables = tables()
        .into_iter()
        .filter_map(|relid| Some((relid, Sized::of(relid)?)));
    let mut measured: Vec<(Id, pg_sys::Oid, i64, i64)> = vec![];
    if all {
        for (relid, table) in tables {
            let found = of_all(&table);
            measured.extend(
                found
                    .into_iter()
                    .map(|(org, rows, bytes)| (org, relid, rows, bytes)),
            );
        }
        measured.sort_by_key(|(org, ..)| *org);
    } else {
        let org = allowed(org, "billing:read", "on usage", "measure usage")?;
        let org = context::known_org(&org)?;
        for (relid, table) in tables {
            if let Some((rows, bytes)) = of_one(&table, &org, exact) {
                measured.push((org.id, relid, rows, bytes));
            }
        }
    }
    Ok(TableIterator::new(measured.into_iter().map(
        |(org, table, rows, bytes)| (Uuid::from_bytes(org), table, rows, bytes),
    )))
}
