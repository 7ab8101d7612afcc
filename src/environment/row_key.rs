//! A row named by a text: its primary key as the row guard sees it.

use super::RowKey;
use crate::isolation::{self, Table};
use crate::pg::query::{Arg, latest, run_as_is};
use crate::pg::{self, canonical, catalog, fail, primary_key};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

pub struct Found {
    /// The table that the row's own table is a part of.
    pub root: pg_sys::Oid,
    pub key: RowKey,
    /// A JSON object, as PostgreSQL writes it whatever the session's settings.
    pub json: String,
}

fn unfit(table: &Table, detail: String) -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("this is no key of table {}", table.object),
    )
    .set_detail(detail)
    .set_hint("Pass the primary key as text; one of several columns as a JSON object, such as '{\"region\": \"eu\", \"id\": 7}'.")
}

/// The key as the text of a JSON object of its columns. Numbers stay as they are written.
fn as_json(table: &Table, columns: &[primary_key::Column], key: &str) -> pg::Result<String> {
    match columns {
        [] => Err(fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table {} has no primary key", table.object),
        )
        .set_detail("Its rows cannot be named one by one.")
        .set_hint("ALTER TABLE ... ADD PRIMARY KEY.")),
        [only] => Ok(json!({ only.name.as_str(): key }).to_string()),
        _ => {
            let Ok(given) = serde_json::from_str::<BTreeMap<String, &RawValue>>(key) else {
                return Err(unfit(
                    table,
                    "The key has several columns, and this is no JSON object.".into(),
                ));
            };
            if given.len() != columns.len() || columns.iter().any(|c| !given.contains_key(&c.name))
            {
                let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
                return Err(unfit(
                    table,
                    format!("Its columns are {}.", names.join(", ")),
                ));
            }
            Ok(key.to_string())
        }
    }
}

pub fn quoted_name(relid: pg_sys::Oid) -> String {
    latest(
        "SELECT pg_catalog.quote_ident(n.nspname) OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) pg_catalog.quote_ident(c.relname)
         FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE c.oid OPERATOR(pg_catalog.=) $1",
        &[Arg::Oid(relid)],
        |row| row.get::<String>(1),
    )
    .pop()
    .flatten()
    .unwrap_or_default()
}

/// The row with this key, as the caller may see it.
pub fn find(table: &Table, key: &str) -> pg::Result<Found> {
    let columns = primary_key::columns(table.relid);
    let text = as_json(table, &columns, key)?;
    let list: Vec<String> = columns.iter().map(|c| format!("t.{}", c.quoted)).collect();
    let named: Vec<String> = columns
        .iter()
        .map(|c| format!("{}, t.{}", c.literal, c.quoted))
        .collect();
    let sql = format!(
        "SELECT pg_catalog.jsonb_build_object({})::pg_catalog.text, t.tableoid, {} FROM {} AS t WHERE {}",
        named.join(", "),
        list.join(", "),
        quoted_name(table.relid),
        primary_key::condition(&columns)
    );
    // Read and written in the same way in every session: what is stored of a key names the same row later.
    let found = canonical::output(|| {
        run_as_is(&sql, &[Arg::Text(&text)], |row| {
            let json = row.get::<String>(1).unwrap_or_default();
            let relid = row.get::<pg_sys::Oid>(2).unwrap_or(pg_sys::InvalidOid);
            let values = (0..columns.len() as i16).map(|i| row.value(i + 3).bytes());
            (json, relid, values.collect::<RowKey>())
        })
    });
    let (json, relid, key) = found.into_iter().next().ok_or_else(|| {
        fail(
            PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            format!("no such row in table {}", table.object),
        )
        .set_detail("There is none with this key that the current context sees.")
        .set_hint("Look the key up with SELECT.")
    })?;
    let own = isolation::protected(relid).ok_or_else(|| {
        fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!(
                "table \"{}\" is not protected",
                catalog::relation_name(relid)
            ),
        )
        .set_detail("Rows are named in protected tables.")
        .set_hint("SELECT * FROM tenancy.protected_tables lists those that are.")
    })?;
    Ok(Found {
        root: own.root,
        key,
        json,
    })
}
