//! Which foreign keys add_org_column() follows: the one path from a table to one that says whose its rows are, or the
//! one that was named.

use super::facts::{current_options, facts, require_kind, require_owner};
use super::fill::Source;
use super::paths::{self, Step};
use super::{exempt, tree};
use crate::pg::query::{Arg, run};
use crate::pg::{self, fail, partition};
use pgrx::prelude::*;
use pgrx::spi;

/// The keys from the table to one that says whose its rows are.
pub fn choose_path(
    relid: pg_sys::Oid,
    org_column: &str,
    named: Option<&[String]>,
) -> pg::Result<Vec<Step>> {
    let table = facts(relid)?;
    require_owner(&table)?;
    require_kind(&table)?;
    let exemptions = exempt::all();
    if current_options(relid).is_some() || exemptions.contains_key(&u32::from(relid)) {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table \"{}\" is protected or exempt", table.name),
        )
        .set_detail("A protected table has its organization column, an exempt one needs none.")
        .set_hint("tenancy.protected_tables and tenancy.exempt_tables list them."));
    }
    if !tree::parents(relid).is_empty() {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("\"{}\" is a partition or an inheritance child", table.name),
        )
        .set_detail("Its columns are those of the table above it.")
        .set_hint("Name that table; its partitions and children come along."));
    }
    let arrives = |t: u32| says_whose(pg_sys::Oid::from(t), org_column);
    let mut all =
        paths::graph().paths(u32::from(relid), &arrives, &|t| exemptions.contains_key(&t));
    // Where a column was made before, the key that it is kept by is the way on.
    all.retain(|path| {
        path.iter().all(|step| {
            source_of(step.child.into()).is_none_or(|source| source.foreign_key == step.name)
        })
    });
    let mut found = all.clone();
    if let Some(named) = named {
        found.retain(|path| path.iter().map(|step| &step.name).eq(named));
    }
    let list = |paths: &[Vec<Step>]| -> String {
        let lines: Vec<String> = paths.iter().map(|path| described(path)).collect();
        lines.join("; ")
    };
    match found.len() {
        1 => {}
        0 => {
            return Err(fail(
                PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                format!(
                    "no foreign keys lead from table \"{}\" to an organization",
                    table.name
                ),
            )
            .set_detail(if all.is_empty() {
                format!(
                    "No table that is protected, or has a column \"{org_column}\", can be reached."
                )
            } else {
                format!("None that path names. These do: {}.", list(&all))
            })
            .set_hint("Protect the parent first, or add the column by hand."));
        }
        _ => {
            return Err(fail(
                PgSqlErrorCode::ERRCODE_AMBIGUOUS_PARAMETER,
                format!(
                    "several paths lead from table \"{}\" to an organization",
                    table.name
                ),
            )
            .set_detail(format!("{}.", list(&found)))
            .set_hint("Name one: path => ARRAY['first_key', 'second_key']. It should lead through references that are never NULL."));
        }
    }
    let path = found.swap_remove(0);
    for step in &path {
        require_owner(&facts(step.parent.into())?)?;
    }
    Ok(path)
}

fn says_whose(relid: pg_sys::Oid, org_column: &str) -> bool {
    // One whose column this very procedure made, and did not finish, is on the way, not at the end.
    current_options(relid).is_some()
        || (partition::column_number(relid, org_column) > 0 && source_of(relid).is_none())
}

pub fn described(path: &[Step]) -> String {
    let names: Vec<String> = path.iter().map(|s| spi::quote_literal(&s.name)).collect();
    let end = path.last().map(|s| facts(s.parent.into()));
    let end = end.and_then(Result::ok).map(|f| f.quoted());
    format!("ARRAY[{}] to {}", names.join(", "), end.unwrap_or_default())
}

/// What the trigger that keeps a table's column says, where there is one.
pub fn source_of(relid: pg_sys::Oid) -> Option<Source> {
    run(
        "SELECT tgargs FROM pg_catalog.pg_trigger
         WHERE tgrelid OPERATOR(pg_catalog.=) $1 AND tgfoid OPERATOR(pg_catalog.=) 'tenancy.fill_org'::pg_catalog.regproc",
        &[Arg::Oid(relid)],
        |row| row.get::<Vec<u8>>(1).unwrap_or_default(),
    )
    .pop()
    .and_then(|bytes| serde_json::from_slice(bytes.strip_suffix(&[0]).unwrap_or(&bytes)).ok())
}
