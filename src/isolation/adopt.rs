//! Partitions and inheritance children that are made or attached later. One that is not protected could be read past its
//! protected parent, so the command that makes it protects it too, or is refused; and a protected table does not come
//! under an unprotected one (attack C1).

use super::facts::{Facts, current_options, facts};
use super::plan::Options;
use super::protect::{apply, as_it_stands, plan_tree};
use super::survey::survey;
use super::tree;
use crate::pg::{self, catalog, fail};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// A table was created or altered: its place among parents and children must leave no hole.
pub fn after(relid: pg_sys::Oid) -> pg::Result<()> {
    match current_options(relid) {
        Some(options) => {
            let table = facts(relid)?;
            let options = as_it_stands(&table, options);
            for parent in tree::parents(relid) {
                match current_options(parent) {
                    None => return Err(tree::open_above(&table, &facts(parent)?)),
                    Some(above) => {
                        if !as_it_stands(&facts(parent)?, above).same_protection(&options) {
                            return Err(differs(&table, &facts(parent)?));
                        }
                    }
                }
            }
            adopt_children(&table, &options)
        }
        None => {
            let Ok(table) = facts(relid) else {
                return Ok(());
            };
            if let Some(options) = tree::inherited_options(&table)? {
                return adopt(&table, &options);
            }
            for member in tree::members(relid).into_iter().skip(1) {
                if current_options(member).is_some() {
                    return Err(tree::open_above(&facts(member)?, &table));
                }
            }
            Ok(())
        }
    }
}

fn adopt_children(parent: &Facts, options: &Options) -> pg::Result<()> {
    for child in tree::children(parent.relid) {
        let table = facts(child)?;
        match current_options(child) {
            None => adopt(&table, options)?,
            Some(present) => {
                if !as_it_stands(&table, present).same_protection(options) {
                    return Err(differs(&table, parent));
                }
            }
        }
    }
    Ok(())
}

/// Protects a table, and what is below it, like the table above it. Whoever could make it a part of that table owns
/// both; his rights have been checked by the command.
fn adopt(table: &Facts, options: &Options) -> pg::Result<()> {
    if table.kind == "f" {
        return Err(cannot_belong(table, "a foreign table"));
    }
    if table.persistence == "t" {
        return Err(cannot_belong(table, "a temporary table"));
    }
    let mut members = vec![];
    for member in tree::members(table.relid) {
        catalog::lock_exclusively(member);
        members.push(facts(member)?);
    }
    let planned = plan_tree(&members, options)?;
    survey(table, &planned)?;
    for one in &planned {
        apply(one);
    }
    Ok(())
}

fn cannot_belong(table: &Facts, what: &str) -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
        format!(
            "\"{}\" is {what} and cannot belong to a protected table",
            table.name
        ),
    )
    .set_detail("Row security would not hold on it, and its rows are those of the protected table.")
    .set_hint("Use an ordinary table.")
}

fn differs(table: &Facts, parent: &Facts) -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
        format!(
            "table \"{}\" is protected in another way than {}",
            table.name,
            parent.quoted()
        ),
    )
    .set_detail("Partitions and children are protected like their parent; tenancy.protected_tables shows how.")
    .set_hint("In one transaction: unprotect the table, attach it, and it is protected like its parent.")
}
