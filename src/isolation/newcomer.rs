//! What comes under a protected table by ATTACH or INHERIT brings its rows along, and what leaves it by DETACH takes rows
//! away that others may refer to. PostgreSQL asks only who owns the tables; here it counts whose the rows are.

use super::facts::{Facts, current_options, facts};
use super::{table, tree};
use crate::context;
use crate::pg::event::Detached;
use crate::pg::query::{Arg, run};
use crate::pg::{self, fail, identity, scan, transaction};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::collections::HashSet;

thread_local! {
    // Newcomers of this transaction that were looked at: the table, and its row in pg_inherits.
    static DONE: RefCell<HashSet<(u32, String)>> = RefCell::default();
}

pub fn forget() {
    DONE.take();
}

/// Tables that this transaction put under a protected one hold rows of the current organization only, unless a DBA did it:
/// otherwise a table's owner writes into any organization by filling a table of his own first (attack C1).
pub fn after(relid: pg_sys::Oid) -> pg::Result<()> {
    if context::is_administrator() {
        return Ok(());
    }
    for (child, parent) in newcomers(relid) {
        if current_options(parent).is_none() {
            continue;
        }
        for member in tree::members(child) {
            let member = facts(member)?;
            if holds_others_rows(&member) {
                return Err(smuggled(&member, &facts(parent)?));
            }
        }
    }
    Ok(())
}

/// Whether a protected table holds rows that are not of the current organization.
pub fn holds_others_rows(table: &Facts) -> bool {
    let Some(org) = table::org_column_of(table.relid) else {
        return false;
    };
    let now = context::standing();
    let own = now.keys();
    let mut strange = false;
    identity::as_table_owner(table.owner, || {
        scan::for_each_row(table.relid, |row| {
            strange |= !own.is_some_and(|own| own.is(org.kind, &row.value(org.attnum)));
        });
    });
    strange
}

/// Child and parent of each place in a tree that this transaction made, this table being one of them.
fn newcomers(relid: pg_sys::Oid) -> Vec<(pg_sys::Oid, pg_sys::Oid)> {
    run(
        "SELECT inhrelid, inhparent, xmin::pg_catalog.text::pg_catalog.int8, ctid::pg_catalog.text
         FROM pg_catalog.pg_inherits
         WHERE inhrelid OPERATOR(pg_catalog.=) $1 OR inhparent OPERATOR(pg_catalog.=) $1",
        &[Arg::Oid(relid)],
        |row| {
            let child: pg_sys::Oid = row.get(1).unwrap_or(pg_sys::InvalidOid);
            let parent: pg_sys::Oid = row.get(2).unwrap_or(pg_sys::InvalidOid);
            let writer = row.get::<i64>(3).unwrap_or_default() as u32;
            let version = row.get::<String>(4).unwrap_or_default();
            let new = transaction::is_current(writer)
                && DONE.with_borrow_mut(|done| done.insert((u32::from(child), version)));
            new.then_some((child, parent))
        },
    )
    .into_iter()
    .flatten()
    .collect()
}

fn smuggled(table: &Facts, parent: &Facts) -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!(
            "permission denied: table \"{}\" holds rows that are not of the current organization",
            table.name
        ),
    )
    .set_detail(format!(
        "They would be rows of {} then, which nobody of their organization wrote.",
        parent.quoted()
    ))
    .set_hint("Let a DBA attach it (a superuser, or a role given tenancy.grant_administration()); or attach it empty and insert the rows.")
}

/// A partition that foreign keys lead to leaves: PostgreSQL looks for references to its rows under row security, and who
/// is held to one organization would leave the others' references dangling (attack D3).
pub fn check_detached(parent: pg_sys::Oid, detached: &Detached) -> pg::Result<()> {
    // A migration's role sees the rows of all, or PostgreSQL's look at the referring table is refused.
    if identity::may_bypass_row_security()
        || context::migration::is_in_force()
        || current_options(parent).is_none()
    {
        return Ok(());
    }
    let mut at = Some(parent);
    let mut referenced = false;
    while let Some(table) = at {
        referenced |= !run(
            "SELECT 1 FROM pg_catalog.pg_constraint
             WHERE confrelid OPERATOR(pg_catalog.=) $1 AND contype OPERATOR(pg_catalog.=) 'f' LIMIT 1",
            &[Arg::Oid(table)],
            |_| (),
        )
        .is_empty();
        at = tree::parents(table).first().copied();
    }
    if !referenced || is_empty(detached.partition) {
        return Ok(());
    }
    Err(fail(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!(
            "permission denied: foreign keys lead to the rows that leave {}",
            facts(parent)?.quoted()
        ),
    )
    .set_detail("PostgreSQL looks for references to them under row security, and sees those of one organization at most.")
    .set_hint("Let a role detach it that may bypass row security: PostgreSQL then sees them all. Or delete the rows first."))
}

/// Whether nothing is stored in a table and below it; one that cannot be found is not empty.
fn is_empty(relid: pg_sys::Oid) -> bool {
    relid != pg_sys::InvalidOid
        && tree::members(relid).into_iter().all(|member| {
            let mut rows = false;
            scan::for_each_row(member, |_| rows = true);
            !rows
        })
}
