//! A table with its partitions and inheritance children. PostgreSQL applies row security and statement triggers of the
//! table that a statement names, and no other: so every table of a tree, on every level, is protected as itself.

use super::facts::{self, Facts, current_options, facts, require_kind, require_owner};
use super::plan::Options;
use super::protect::as_it_stands;
use crate::pg::query::{Arg, run};
use crate::pg::{self, catalog, fail};
use pgrx::prelude::*;

/// The tables that this one is a partition or an inheritance child of.
pub fn parents(relid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    run(
        "SELECT inhparent FROM pg_catalog.pg_inherits WHERE inhrelid OPERATOR(pg_catalog.=) $1 ORDER BY inhseqno",
        &[Arg::Oid(relid)],
        |row| row.get(1),
    )
    .into_iter()
    .flatten()
    .collect()
}

/// Its partitions, or inheritance children. One that is being detached counts as long as it is there.
pub fn children(relid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    run(
        "SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent OPERATOR(pg_catalog.=) $1 ORDER BY inhrelid",
        &[Arg::Oid(relid)],
        |row| row.get(1),
    )
    .into_iter()
    .flatten()
    .collect()
}

/// The ids of a table and everything below it, from the top down, each once.
pub fn members(relid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let mut all = vec![relid];
    let mut next = 0;
    while next < all.len() {
        for child in children(all[next]) {
            // One that is reached on two ways comes after both.
            all.retain(|known| *known != child);
            all.push(child);
        }
        next += 1;
    }
    all
}

/// `members` under ACCESS EXCLUSIVE, with what they are once the lock is held.
pub fn locked(relid: pg_sys::Oid) -> pg::Result<Vec<Facts>> {
    let mut locked = vec![facts::locked(relid)?];
    for member in members(relid).into_iter().skip(1) {
        locked.push(facts::locked(member)?);
    }
    Ok(locked)
}

/// `members` as they are now, each checked to be the caller's.
pub fn unlocked(relid: pg_sys::Oid) -> pg::Result<Vec<Facts>> {
    let mut all = vec![];
    for member in members(relid) {
        let member = facts(member)?;
        require_owner(&member)?;
        all.push(member);
    }
    Ok(all)
}

/// Whether the tree can be protected as a whole: every table in it is one that holds rows of organizations, and none
/// can be read through a parent that stays open.
pub fn require_protectable(tree: &[Facts]) -> pg::Result<()> {
    for table in tree {
        require_kind(table)?;
        for parent in parents(table.relid) {
            if tree.iter().all(|t| t.relid != parent) && current_options(parent).is_none() {
                return Err(open_above(table, &facts(parent)?));
            }
        }
    }
    Ok(())
}

/// The refusal of a protected table below an unprotected one.
pub fn open_above(table: &Facts, parent: &Facts) -> pgrx::pg_sys::panic::ErrorReport {
    let (what, hint) = if table.partition {
        (
            "a partition",
            "Protect the partitioned table; its partitions come along.",
        )
    } else {
        (
            "an inheritance child",
            "Protect that table, its children come along; or take this one out: ALTER TABLE ... NO INHERIT.",
        )
    };
    fail(
        PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
        format!(
            "\"{}\" is {what} of {}, which is not protected",
            table.name,
            parent.quoted()
        ),
    )
    .set_detail("A protected table's rows would be read through the unprotected table above it.")
    .set_hint(hint)
}

/// How the table above says that this one is to be protected; None where no table above is protected. Errors: 42809
/// where another table above is not, 42710 where two differ.
pub fn inherited_options(table: &Facts) -> pg::Result<Option<Options>> {
    let parents = parents(table.relid);
    let mut given: Option<Options> = None;
    for parent in &parents {
        let Some(options) = current_options(*parent) else {
            continue;
        };
        let options = as_it_stands(&facts(*parent)?, options);
        match &given {
            Some(first) if !first.same_protection(&options) => {
                return Err(fail(
                    PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
                    format!(
                        "the parents of table \"{}\" are protected in different ways",
                        table.name
                    ),
                )
                .set_detail("A child is protected like its parent.")
                .set_hint(
                    "Protect the parents in the same way, or let the child have one parent only.",
                ));
            }
            Some(_) => {}
            None => given = Some(options),
        }
    }
    if given.is_some() {
        for parent in parents {
            if current_options(parent).is_none() {
                return Err(open_above(table, &facts(parent)?));
            }
        }
    }
    Ok(given)
}

/// The protected tables of this database that are below no protected one.
pub fn roots() -> Vec<pg_sys::Oid> {
    let house = catalog::house();
    run(
        "SELECT DISTINCT t.tgrelid FROM pg_catalog.pg_trigger AS t
         WHERE t.tgnargs OPERATOR(pg_catalog.>) 0::pg_catalog.int2
           AND (t.tgfoid OPERATOR(pg_catalog.=) $1 OR t.tgfoid OPERATOR(pg_catalog.=) $2)
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits AS i WHERE i.inhrelid OPERATOR(pg_catalog.=) t.tgrelid)",
        &[Arg::Oid(house.guard_row), Arg::Oid(house.guard_statement)],
        |row| row.get(1),
    )
    .into_iter()
    .flatten()
    .collect()
}

/// Every protected table, whatever is above it.
pub fn protected() -> Vec<pg_sys::Oid> {
    let house = catalog::house();
    run(
        "SELECT DISTINCT t.tgrelid FROM pg_catalog.pg_trigger AS t
         WHERE t.tgnargs OPERATOR(pg_catalog.>) 0::pg_catalog.int2
           AND (t.tgfoid OPERATOR(pg_catalog.=) $1 OR t.tgfoid OPERATOR(pg_catalog.=) $2)",
        &[Arg::Oid(house.guard_row), Arg::Oid(house.guard_statement)],
        |row| row.get(1),
    )
    .into_iter()
    .flatten()
    .collect()
}
