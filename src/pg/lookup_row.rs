//! One row of an application's table by its primary key, as the caller may see it.

use super::canonical;
use super::primary_key::{self, PrimaryKey};
use super::query::{Arg, latest, run_as_is};
use pgrx::prelude::*;

fn key_of(table: &str) -> Option<PrimaryKey> {
    latest(
        "SELECT pg_catalog.to_regclass($1)::pg_catalog.oid",
        &[Arg::Text(table)],
        |row| row.get::<pg_sys::Oid>(1),
    )
    .pop()
    .flatten()
    .and_then(primary_key::of)
}

/// The row as the text of its to_jsonb(); None where there is none, or no such table. `table` is a quoted name with its
/// schema, `key` a JSON object of the key's columns, or the value of the one column.
pub fn as_jsonb(table: &str, key: &str) -> Option<String> {
    let of = key_of(table)?;
    let (given, condition) = (of.given(), of.is_given());
    canonical::output(|| {
        run_as_is(
            &format!(
                "SELECT pg_catalog.to_jsonb(t)::pg_catalog.text FROM {given}, {table} AS t WHERE {condition}"
            ),
            &[Arg::Text(&of.in_full(key))],
            |row| row.get::<String>(1),
        )
    })
    .pop()
    .flatten()
}

/// A key as the log has it: its values read by the session's settings, and said in UTC and so on. Such as it is where the
/// table, or its key, is not there any more.
pub fn canonical_key(table: &str, key: String) -> String {
    let Some(of) = key_of(table).filter(|of| !of.is_of_one_form()) else {
        return key;
    };
    run_as_is(
        &format!("SELECT {} FROM {}", of.values(), of.given()),
        &[Arg::Text(&of.in_full(&key))],
        |row| canonical::output(|| of.as_object(row)),
    )
    .pop()
    .unwrap_or(key)
}
