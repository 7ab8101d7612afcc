//! What stands in a table before it is protected: rows of nobody, and references that cross organizations. Read without
//! a query and as the table's owner, restricted: planning one would evaluate what the owner wrote into partial indexes,
//! checks and casts, with our rights (attack A-1).

use super::facts::{Facts, current_options, facts, number_of};
use super::table::{self, GuardedKey};
use crate::pg::query::{Arg, run};
use crate::pg::value::Value;
use crate::pg::{self, catalog, fail, identity, probe, scan};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::collections::HashMap;

/// Rows that would belong to nobody, or to an organization that does not exist.
pub fn check_rows(table: &Facts, org: i16) -> pg::Result<()> {
    let mut homeless = 0_u64;
    let mut rows_of: HashMap<[u8; 16], u64> = HashMap::new();
    identity::as_table_owner(table.owner, || {
        scan::for_each_row(table.relid, |row| match row.value(org).as_uuid() {
            Some(id) => *rows_of.entry(id).or_default() += 1,
            None => homeless += 1,
        });
    });
    if homeless > 0 {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_NOT_NULL_VIOLATION,
            format!("table \"{}\" has {homeless} rows without an organization", table.name),
        )
        .set_detail("Every row of a protected table belongs to exactly one organization. Nothing was changed.")
        .set_hint("Fill the organization column in these rows, or delete them, and protect the table again."));
    }
    for known in run("SELECT id FROM tenancy.orgs", &[], |row| row.uuid(1)) {
        rows_of.remove(&known.unwrap_or_default());
    }
    let unknown: u64 = rows_of.values().sum();
    if unknown > 0 {
        ErrorReport::new(
            PgSqlErrorCode::ERRCODE_WARNING,
            format!(
                "table \"{}\" has {unknown} rows of organizations that do not exist",
                table.name
            ),
            "pg_tenancy",
        )
        .set_detail("Nobody will see them until tenancy.orgs has these organizations.")
        .report(PgLogLevel::WARNING);
    }
    Ok(())
}

/// Existing references between protected tables that cross organizations, in both directions.
pub fn check_references(target: &Facts, org_name: &str) -> pg::Result<()> {
    let children = run(
        "SELECT DISTINCT c.conrelid FROM pg_catalog.pg_constraint AS c
              JOIN pg_catalog.pg_trigger AS t ON t.tgrelid OPERATOR(pg_catalog.=) c.conrelid
                                             AND t.tgfoid OPERATOR(pg_catalog.=) $2
         WHERE c.contype OPERATOR(pg_catalog.=) 'f' AND c.confrelid OPERATOR(pg_catalog.=) $1
           AND c.conrelid OPERATOR(pg_catalog.<>) $1",
        &[Arg::Oid(target.relid), Arg::Oid(catalog::house().guard_row)],
        |row| row.get::<pg_sys::Oid>(1),
    );
    let org_of = |relid: pg_sys::Oid| {
        if relid == target.relid {
            Some(number_of(&table::columns_of(relid), org_name))
        } else {
            current_options(relid).and(table::org_column_of(relid))
        }
    };
    for child in children.into_iter().flatten().chain([target.relid]) {
        let Some(child_org) = org_of(child) else {
            continue;
        };
        let keys: Vec<GuardedKey> = table::all_keys(child, &table::columns_of(child))
            .into_iter()
            .filter(|key| child == target.relid || key.probe.parent == target.relid)
            .filter_map(|mut key| {
                key.probe.org_attnum = org_of(key.probe.parent)?;
                Some(key)
            })
            .collect();
        check_keys(&facts(child)?, child_org, &keys)?;
    }
    Ok(())
}

fn check_keys(child: &Facts, child_org: i16, keys: &[GuardedKey]) -> pg::Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut crossing = vec![0_u64; keys.len()];
    identity::as_table_owner(child.owner, || {
        scan::for_each_row(child.relid, |row| {
            let Some(org) = row.value(child_org).as_uuid() else {
                return;
            };
            for (key, count) in keys.iter().zip(&mut crossing) {
                let values: Vec<Value> = key.columns.iter().map(|(i, _)| row.value(*i)).collect();
                if values.iter().all(|v| !v.null) && probe::is_foreign(&key.probe, &values, &org) {
                    *count += 1;
                }
            }
        });
    });
    for (key, count) in keys.iter().zip(crossing) {
        if count > 0 {
            return Err(fail(
                PgSqlErrorCode::ERRCODE_FOREIGN_KEY_VIOLATION,
                format!(
                    "{count} rows of {} refer to another organization's rows in {}",
                    child.quoted(),
                    facts(key.probe.parent)?.quoted()
                ),
            )
            .set_detail(format!(
                "Foreign key \"{}\". Nothing was changed.",
                key.name
            ))
            .set_hint("Correct these references, and protect the table again."));
        }
    }
    Ok(())
}
