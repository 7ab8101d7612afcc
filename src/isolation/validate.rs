//! ADD FOREIGN KEY and VALIDATE CONSTRAINT look at the rows that are there with a query of the table's owner, who sees none
//! under forced row security: any reference passes, to missing rows and to other organizations' (attack D6). So the rows
//! are looked at here, across all organizations, at the end of the command.

use super::facts::{current_options, facts};
use super::route;
use super::table::{self, GuardedKey};
use super::tree;
use super::whose::Directory;
use crate::pg::local::Backend;
use crate::pg::probe::Parent;
use crate::pg::query::{Arg, run};
use crate::pg::value::{self, Value};
use crate::pg::{self, fail, identity, reference, scan, transaction};
use pgrx::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeSet;

// Keys of this transaction that were looked at: their row in pg_constraint and where that version of it lies.
static DONE: Backend<RefCell<BTreeSet<(u32, String)>>> =
    Backend::new(RefCell::new(BTreeSet::new()));

pub fn forget() {
    if !DONE.with_borrow(BTreeSet::is_empty) {
        DONE.take();
    }
}

/// A table was created or altered: its keys that are new, or newly valid, must hold. Who writes meanwhile (VALIDATE lets
/// them) is held to the key already.
pub fn after(relid: pg_sys::Oid) -> pg::Result<()> {
    for member in tree::members(relid) {
        let new = new_keys(member);
        if !new.is_empty() && current_options(member).is_some() {
            check(member, &new)?;
        }
    }
    Ok(())
}

/// The valid foreign keys of a table whose row in the catalog this transaction wrote.
fn new_keys(relid: pg_sys::Oid) -> Vec<(pg_sys::Oid, bool)> {
    run(
        "SELECT oid, xmin::pg_catalog.text::pg_catalog.int8, ctid::pg_catalog.text, confmatchtype OPERATOR(pg_catalog.=) 'f'
         FROM pg_catalog.pg_constraint
         WHERE conrelid OPERATOR(pg_catalog.=) $1 AND contype OPERATOR(pg_catalog.=) 'f' AND convalidated",
        &[Arg::Oid(relid)],
        |row| {
            let oid: pg_sys::Oid = row.get(1).unwrap_or(pg_sys::InvalidOid);
            let writer = row.get::<i64>(2).unwrap_or_default() as u32;
            let version = row.get::<String>(3).unwrap_or_default();
            let new = transaction::is_current(writer)
                && DONE.with_borrow_mut(|done| done.insert((u32::from(oid), version)));
            new.then_some((oid, row.get(4).unwrap_or_default()))
        },
    )
    .into_iter()
    .flatten()
    .collect()
}

struct Checked {
    key: GuardedKey,
    full: bool,
    /// Whether the parent says whose its rows are.
    guarded: bool,
}

/// A reference that does not hold.
enum Broken {
    Absent(usize, String),
    HalfNull(usize),
}

fn check(child: pg_sys::Oid, new: &[(pg_sys::Oid, bool)]) -> pg::Result<()> {
    let Some(org_column) = table::org_column_of(child) else {
        return Ok(());
    };
    let keys: Vec<Checked> = table::all_keys(child, &table::columns_of(child))
        .into_iter()
        .filter_map(|mut key| {
            let (_, full) = *new.iter().find(|(oid, _)| *oid == key.constraint)?;
            let parent = key.probe.parent;
            let guarded = current_options(parent).is_some();
            key.lead_to(table::org_column_of(parent).filter(|_| guarded));
            Some(Checked { key, full, guarded })
        })
        .collect();
    let facts = facts(child)?;
    let mut all = Directory::read();
    let mut broken = None;
    identity::as_table_owner(facts.owner, || {
        scan::for_each_row(child, |row| {
            let Some(org) = all.whose(org_column.kind, &row.value(org_column.attnum)) else {
                return;
            };
            for (i, Checked { key, full, guarded }) in keys.iter().enumerate() {
                if broken.is_some() {
                    return;
                }
                let values: Vec<Value> = key.columns.iter().map(|(a, _)| row.value(*a)).collect();
                let nulls = values.iter().filter(|v| v.null).count();
                if nulls > 0 {
                    if *full && nulls < values.len() {
                        broken = Some(Broken::HalfNull(i));
                    }
                    continue;
                }
                let holds = match route::peek(&key.probe, key.leaves.as_ref(), &values, &org.keys) {
                    Parent::Held => true,
                    Parent::Foreign => !guarded,
                    Parent::Missing => false,
                };
                if !holds {
                    let text: Vec<String> = key
                        .columns
                        .iter()
                        .zip(&values)
                        .map(|((a, _), value)| value::output(value, row.type_of(*a)))
                        .collect();
                    broken = Some(Broken::Absent(i, text.join(", ")));
                }
            }
        });
    });
    match broken {
        None => Ok(()),
        Some(Broken::Absent(i, values)) => {
            let key = &keys[i].key;
            reference::violation_at_commit(
                child,
                &key.name,
                key.probe.parent,
                &key.columns,
                &values,
            )
        }
        Some(Broken::HalfNull(i)) => Err(fail(
            PgSqlErrorCode::ERRCODE_FOREIGN_KEY_VIOLATION,
            format!(
                "insert or update on table \"{}\" violates foreign key constraint \"{}\"",
                facts.name, keys[i].key.name
            ),
        )
        .set_detail("MATCH FULL does not allow mixing of null and nonnull key values.")
        .set_hint("Fill these columns, or set all of them to NULL.")),
    }
}
