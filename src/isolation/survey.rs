//! What stands in tables before they are protected: rows of nobody, and references that cross organizations. Read without
//! a query and as the table's owner, restricted: planning one would evaluate what the owner wrote into partial indexes,
//! checks and casts, with our rights (attack A-1).

use super::facts::{Facts, current_options, facts};
use super::place_setup;
use super::protect::Planned;
use super::route;
use super::table::{self, GuardedKey};
use super::whose::Directory;
use crate::pg::key::KeyColumn;
use crate::pg::probe::Parent;
use crate::pg::query::{Arg, run};
use crate::pg::value::Value;
use crate::pg::{self, catalog, fail, identity, scan};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::collections::{HashMap, HashSet};

/// Rows that break a rule, of one table.
pub struct Finding {
    pub table: pg_sys::Oid,
    pub problem: Problem,
    pub rows: u64,
}

pub enum Problem {
    /// Without an organization.
    Homeless,
    /// Of an organization that does not exist, or with a key that is nobody's external key: nobody will see them, and
    /// nothing else is wrong with them.
    Unknown,
    /// A foreign key's references to another organization's rows.
    Crossing {
        constraint: String,
        parent: pg_sys::Oid,
    },
}

/// A table with the column that says whose each row is.
pub struct Target<'a> {
    pub table: &'a Facts,
    pub org: KeyColumn,
}

/// Looks through the tables that are about to be protected, each read once, and through those already protected that
/// refer to them. `seen` hears of each table that is done.
pub fn look(targets: &[Target], mut seen: impl FnMut()) -> pg::Result<Vec<Finding>> {
    let planned: HashMap<pg_sys::Oid, KeyColumn> =
        targets.iter().map(|t| (t.table.relid, t.org)).collect();
    let org_of = |relid: pg_sys::Oid| match planned.get(&relid) {
        Some(org) => Some(*org),
        None => current_options(relid).and(table::org_column_of(relid)),
    };
    let mut all = Directory::read();
    let mut findings = vec![];
    for target in targets {
        if !target.table.is_partitioned() {
            let keys = guarded_keys(target.table.relid, org_of, |_| true);
            findings.extend(look_at(target, &keys, &mut all, true));
        }
        seen();
    }
    for child in referring(&planned) {
        let child = facts(child)?;
        let Some(org) = org_of(child.relid) else {
            continue;
        };
        let keys = guarded_keys(child.relid, org_of, |parent| planned.contains_key(&parent));
        let target = Target { table: &child, org };
        findings.extend(look_at(&target, &keys, &mut all, false));
    }
    Ok(findings)
}

/// The protected tables with rows of their own that refer to one of these and are none of them.
fn referring(planned: &HashMap<pg_sys::Oid, KeyColumn>) -> Vec<pg_sys::Oid> {
    let mut children = HashSet::new();
    for parent in planned.keys() {
        children.extend(
            run(
                "SELECT DISTINCT c.conrelid FROM pg_catalog.pg_constraint AS c
                      JOIN pg_catalog.pg_trigger AS t ON t.tgrelid OPERATOR(pg_catalog.=) c.conrelid
                                                     AND t.tgfoid OPERATOR(pg_catalog.=) $2
                 WHERE c.contype OPERATOR(pg_catalog.=) 'f' AND c.confrelid OPERATOR(pg_catalog.=) $1",
                &[Arg::Oid(*parent), Arg::Oid(catalog::house().guard_row)],
                |row| row.get::<pg_sys::Oid>(1),
            )
            .into_iter()
            .flatten()
            .filter(|child| !planned.contains_key(child)),
        );
    }
    let mut children: Vec<_> = children.into_iter().collect();
    children.sort_unstable_by_key(|oid| u32::from(*oid));
    children
}

/// The foreign keys of a table to parents that say whose their rows are.
fn guarded_keys(
    child: pg_sys::Oid,
    org_of: impl Fn(pg_sys::Oid) -> Option<KeyColumn>,
    concerns: impl Fn(pg_sys::Oid) -> bool,
) -> Vec<GuardedKey> {
    table::all_keys(child, &table::columns_of(child))
        .into_iter()
        .filter(|key| concerns(key.probe.parent))
        .filter_map(|mut key| {
            key.lead_to(Some(org_of(key.probe.parent)?));
            Some(key)
        })
        .collect()
}

/// One pass over a table's rows; `of_rows`: what they themselves lack counts too.
fn look_at(
    target: &Target,
    keys: &[GuardedKey],
    all: &mut Directory,
    of_rows: bool,
) -> Vec<Finding> {
    let (mut homeless, mut unknown) = (0_u64, 0_u64);
    let mut crossing = vec![0_u64; keys.len()];
    identity::as_table_owner(target.table.owner, || {
        scan::for_each_row(target.table.relid, |row| {
            let Some(org) = all.whose(target.org.kind, &row.value(target.org.attnum)) else {
                homeless += 1;
                return;
            };
            unknown += u64::from(!org.known);
            for (key, count) in keys.iter().zip(&mut crossing) {
                let values: Vec<Value> = key.columns.iter().map(|(i, _)| row.value(*i)).collect();
                if values.iter().all(|v| !v.null)
                    && route::peek(&key.probe, key.leaves.as_ref(), &values, &org.keys)
                        == Parent::Foreign
                {
                    *count += 1;
                }
            }
        });
    });
    let mut found = vec![];
    if of_rows {
        found.extend([(Problem::Homeless, homeless), (Problem::Unknown, unknown)]);
    }
    found.extend(keys.iter().zip(crossing).map(|(key, rows)| {
        let problem = Problem::Crossing {
            constraint: key.name.clone(),
            parent: key.probe.parent,
        };
        (problem, rows)
    }));
    found
        .into_iter()
        .filter(|(_, rows)| *rows > 0)
        .map(|(problem, rows)| Finding {
            table: target.table.relid,
            problem,
            rows,
        })
        .collect()
}

/// The survey of one tree: the first rule that its rows break is an error. `root` is the table that was named.
pub fn survey(root: &Facts, planned: &[Planned]) -> pg::Result<()> {
    for one in planned {
        place_setup::survey(one.table, one.target().org, &one.options)?;
    }
    let targets: Vec<Target> = planned.iter().map(Planned::target).collect();
    let findings = look(&targets, || {})?;
    let total = |wanted: fn(&Problem) -> bool| -> u64 {
        let counted = findings.iter().filter(|f| wanted(&f.problem));
        counted.map(|f| f.rows).sum()
    };
    let homeless = total(|p| matches!(p, Problem::Homeless));
    if homeless > 0 {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_NOT_NULL_VIOLATION,
            format!("table \"{}\" has {homeless} rows without an organization", root.name),
        )
        .set_detail("Every row of a protected table belongs to exactly one organization. Nothing was changed.")
        .set_hint("Fill the organization column in these rows, or delete them, and protect the table again."));
    }
    let unknown = total(|p| matches!(p, Problem::Unknown));
    if unknown > 0 {
        warn_of_unknown(&root.name, unknown);
    }
    for finding in &findings {
        if let Problem::Crossing { constraint, parent } = &finding.problem {
            return Err(crossing(finding, constraint, *parent)?);
        }
    }
    Ok(())
}

pub fn warn_of_unknown(table: &str, rows: u64) {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_WARNING,
        format!("table \"{table}\" has {rows} rows of organizations that do not exist"),
        "pg_tenancy",
    )
    .set_detail("Nobody will see them until tenancy.orgs has these organizations.")
    .report(PgLogLevel::WARNING);
}

fn crossing(finding: &Finding, constraint: &str, parent: pg_sys::Oid) -> pg::Result<ErrorReport> {
    Ok(fail(
        PgSqlErrorCode::ERRCODE_FOREIGN_KEY_VIOLATION,
        format!(
            "{} rows of {} refer to another organization's rows in {}",
            finding.rows,
            facts(finding.table)?.quoted(),
            facts(parent)?.quoted()
        ),
    )
    .set_detail(format!(
        "Foreign key \"{constraint}\". Nothing was changed."
    ))
    .set_hint("Correct these references, and protect the table again."))
}
