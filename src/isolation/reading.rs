//! What reads of protected tables are held to beyond their policies: a locking read without the right, a cursor after a
//! revocation, a MERGE that reads no column, a trigger inside a cascade. hooks/statement.rs asks here.

use super::guard::denied;
use super::right::{require, require_to_write};
use super::table;
use crate::context;
use crate::pg::{self, identity};
use pgrx::prelude::*;

/// A locking SELECT by a role that may not update: an error, as UPDATE gives, instead of no rows (spec 5.4).
pub fn check_locking_read(relid: pg_sys::Oid) -> pg::Result<()> {
    if context::migration::is_in_force() {
        return Ok(());
    }
    let Some(table) = table::protected(relid) else {
        return Ok(());
    };
    let now = context::standing();
    if now.org.is_none() {
        return Ok(());
    }
    let name = pg::catalog::relation_name(relid);
    require_to_write(
        &now,
        &table,
        &table.options.update,
        &format!("(row lock) on table \"{name}\""),
    )
}

/// A MERGE into a protected table that reads none of its columns: PostgreSQL would match every organization's rows.
pub fn check_unread_merge(relid: pg_sys::Oid) -> pg::Result<()> {
    if identity::break_glass()
        || context::migration::is_in_force()
        || table::protected(relid).is_none()
    {
        return Ok(());
    }
    Err(denied(
        "permission denied: MERGE must read a column of a protected table",
        "Without one PostgreSQL applies no SELECT policy, and the rows of every organization match.",
        "Name a column of the target in the ON clause.",
    ))
}

pub fn any_protected(relations: &[pg_sys::Oid]) -> bool {
    relations.iter().any(|r| table::protected(*r).is_some())
}

/// Pins the transaction to its organization where one of these tables is protected.
pub fn pin_for(relations: &[pg_sys::Oid]) -> pg::Result<()> {
    let now = context::standing();
    if now.org.is_some() && any_protected(relations) {
        context::pin(&now)?;
    }
    Ok(())
}

/// Whether what a cursor reads may still be read: the next FETCH after a revocation is refused (spec 3.6).
pub fn check_reading(relations: &[pg_sys::Oid]) -> pg::Result<()> {
    for relation in relations {
        let Some(table) = table::protected(*relation) else {
            continue;
        };
        let now = context::standing();
        let on = format!("on table {}", table.object);
        if now.org.is_none() {
            return Err(context::without_context(&now, &format!("read {on}")));
        }
        require(&now, &table, &table.options.select, &on)?;
        context::pin(&now)?;
    }
    Ok(())
}

/// A statement of a trigger that a cascade fired, reading protected tables without row security (attack D5).
pub fn check_inside_cascade(relations: &[pg_sys::Oid]) -> pg::Result<()> {
    if identity::break_glass() {
        return Ok(());
    }
    for relation in relations {
        if let Some(table) = table::protected(*relation) {
            return Err(denied(
                format!(
                    "permission denied: a trigger fired by a cascade may not read table {}",
                    table.object
                ),
                "PostgreSQL runs a BEFORE trigger inside a cascade as the table's owner without row security.",
                "Make it an AFTER trigger: that one runs with the caller's rights and sees his organization only.",
            ));
        }
    }
    Ok(())
}
