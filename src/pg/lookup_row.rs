//! One row of an application's table by its primary key, as the caller may see it.

use super::canonical;
use super::query::{Arg, latest, run_as_is};

/// The row as the text of its to_jsonb(); None where there is none, or no such table. `table` is a quoted name with its
/// schema, `key` a JSON object of the key's columns, or the value of the one column.
pub fn as_jsonb(table: &str, key: &str) -> Option<String> {
    let columns = latest(
        "SELECT pg_catalog.quote_ident(a.attname), pg_catalog.quote_literal(a.attname),
                pg_catalog.quote_ident(ns.nspname) OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) o.oprname,
                pg_catalog.format_type(a.atttypid, a.atttypmod)
         FROM pg_catalog.pg_index AS i,
              ROWS FROM (pg_catalog.unnest(i.indkey::pg_catalog.int2[]), pg_catalog.unnest(i.indclass::pg_catalog.oid[]))
                  AS k (attnum, class)
              JOIN pg_catalog.pg_opclass AS c ON c.oid OPERATOR(pg_catalog.=) k.class
              JOIN pg_catalog.pg_amop AS m ON m.amopfamily OPERATOR(pg_catalog.=) c.opcfamily
                   AND m.amopstrategy OPERATOR(pg_catalog.=) 3::pg_catalog.int2
                   AND m.amoplefttype OPERATOR(pg_catalog.=) c.opcintype AND m.amoprighttype OPERATOR(pg_catalog.=) c.opcintype
              JOIN pg_catalog.pg_operator AS o ON o.oid OPERATOR(pg_catalog.=) m.amopopr
              JOIN pg_catalog.pg_namespace AS ns ON ns.oid OPERATOR(pg_catalog.=) o.oprnamespace,
              pg_catalog.pg_attribute AS a
         WHERE i.indrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass($1)::pg_catalog.oid AND i.indisprimary
           AND a.attrelid OPERATOR(pg_catalog.=) i.indrelid AND a.attnum OPERATOR(pg_catalog.=) k.attnum",
        &[Arg::Text(table)],
        |row| [1, 2, 3, 4].map(|n| row.get::<String>(n).unwrap_or_default()),
    );
    if columns.is_empty() {
        return None;
    }
    let scalar = columns.len() == 1 && !key.starts_with('{');
    let conditions: Vec<String> = columns
        .iter()
        .map(|[name, literal, operator, type_name]| {
            let value = if scalar {
                "($1::pg_catalog.jsonb OPERATOR(pg_catalog.#>>) '{}')".to_string()
            } else {
                format!("($1::pg_catalog.jsonb OPERATOR(pg_catalog.->>) {literal})")
            };
            format!("t.{name} OPERATOR({operator}) {value}::{type_name}")
        })
        .collect();
    canonical::output(|| {
        run_as_is(
            &format!(
                "SELECT pg_catalog.to_jsonb(t)::pg_catalog.text FROM {table} AS t WHERE {}",
                conditions.join(" AND ")
            ),
            &[Arg::Text(key)],
            |row| row.get::<String>(1),
        )
    })
    .pop()
    .flatten()
}
