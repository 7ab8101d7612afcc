//! One row of an application's table by its primary key, as the caller may see it.

use super::query::{Arg, latest, run_as_is};
use super::{canonical, primary_key};
use pgrx::prelude::*;

/// The row as the text of its to_jsonb(); None where there is none, or no such table. `table` is a quoted name with its
/// schema, `key` a JSON object of the key's columns, or the value of the one column.
pub fn as_jsonb(table: &str, key: &str) -> Option<String> {
    let relid = latest(
        "SELECT pg_catalog.to_regclass($1)::pg_catalog.oid",
        &[Arg::Text(table)],
        |row| row.get::<pg_sys::Oid>(1),
    )
    .pop()
    .flatten()?;
    let columns = primary_key::of(relid)?.columns;
    let condition = match &columns[..] {
        [only] if !key.starts_with('{') => {
            only.is("$1::pg_catalog.jsonb OPERATOR(pg_catalog.#>>) '{}'")
        }
        several => primary_key::condition(several),
    };
    canonical::output(|| {
        run_as_is(
            &format!(
                "SELECT pg_catalog.to_jsonb(t)::pg_catalog.text FROM {table} AS t WHERE {condition}"
            ),
            &[Arg::Text(key)],
            |row| row.get::<String>(1),
        )
    })
    .pop()
    .flatten()
}
