//! The right to write a table, asked once per statement, so that a refusal is a clear error and not zero rows (spec 5.4).

use super::by_environment;
use super::guard::{named, table_of};
use super::moved;
use super::place;
use super::table::{self, Table};
use crate::context::{self, Standing};
use crate::environment;
use crate::hooks::cascade;
use crate::pg::key::{ByKind, KeyType, Keys};
use crate::pg::modify::Write;
use crate::pg::trigger::{Call, Event};
use crate::pg::{self, identity, transaction};
use pgrx::prelude::*;

pub(super) fn guard_statement(call: &Call) -> pg::Result<()> {
    moved::begin()?;
    // A cascade needs the right on the parent only; the rows it reaches are still held to the organization.
    if cascade::is_own_statement() {
        let root = || table::protected(call.relid()).map(|table| table.root);
        environment::note_cascade(root, call.event);
        return Ok(());
    }
    if needs_no_right() {
        return Ok(());
    }
    let table = table_of(call.relid())?;
    ask_for_right(&table, call.event)
}

/// Whether a statement is none of an organization's: replication, a migration, break-glass.
fn needs_no_right() -> bool {
    if identity::is_logical_worker() || context::migration::is_in_force() {
        return true;
    }
    let broken_glass = identity::break_glass();
    if broken_glass {
        context::note_break_glass();
    }
    broken_glass
}

/// What `guard_statement` asks, of a statement that no trigger was called for yet.
pub fn guard_write(relid: pg_sys::Oid, event: Event) -> pg::Result<()> {
    moved::begin()?;
    if needs_no_right() {
        return Ok(());
    }
    let table = table_of(relid)?;
    ask_for_right(&table, event)
}

fn ask_for_right(table: &Table, event: Event) -> pg::Result<()> {
    let now = context::standing();
    if now.org.is_none() {
        return Err(context::without_context(
            &now,
            &format!("write to {}", named(table.relid)),
        ));
    }
    let action = match event {
        Event::Insert => &table.options.insert,
        Event::Update => &table.options.update,
        Event::Delete | Event::Truncate => &table.options.delete,
    };
    refuse_suspended(&now, table.relid)?;
    if table.placed.is_some() || !now.may_do(action) {
        require_to_write(&now, table, action, &format!("on {}", named(table.relid)))?;
    }
    if now.actor_type == "ai" {
        environment::check_ai_statement(&now, table, event)?;
    }
    mine(&now, table.org_kind, table.relid)?;
    context::pin(&now)
}

/// Writes to a suspended organization's rows.
pub(super) fn refuse_suspended(now: &Standing, relid: pg_sys::Oid) -> pg::Result<()> {
    match now.org_id().filter(|_| now.is_suspended()) {
        Some(org) => Err(context::suspended(
            &org,
            &format!("write to {}", named(relid)),
        )),
        None => Ok(()),
    }
}

/// Whether `guard_row` has nothing to add to what row security asks of each new row, as it is stored: the table has no
/// foreign keys to guard, and no audit.
pub fn is_held_by_policy(write: &Write, check_row: ByKind) -> bool {
    write.event == Event::Insert
        && table_of(write.relid).is_ok_and(|table| {
            !table.options.audit
                && (table.scoped.is_none() || context::standing().scopes.is_none())
                && table.placed.is_none()
                && table.environment.is_none()
                && table.foreign_keys.is_empty()
                && write.is_checked_by(check_row.of(table.org_kind), table.org_attnum)
                && context::standing().actor_type != "ai"
        })
}

/// In place of `guard_row` for such rows, after the last one.
pub fn guard_written(relid: pg_sys::Oid) -> pg::Result<()> {
    transaction::accept_invalidations();
    if identity::break_glass() {
        return Ok(());
    }
    let now = context::standing();
    if now.org.is_none() {
        return Err(context::without_context(
            &now,
            &format!("write to {}", named(relid)),
        ));
    }
    // Limited meanwhile: its rows were not held to a scope, since there was none.
    if now.scopes.is_some() {
        return Err(context::outside_scope(&format!(
            "write to {}",
            named(relid)
        )));
    }
    refuse_suspended(&now, relid)?;
    context::pin(&now)
}

/// The organization in effect, which has a key of the table's kind.
pub(super) fn mine(now: &Standing, kind: KeyType, relid: pg_sys::Oid) -> pg::Result<&'static Keys> {
    let doing = || format!("write to {}", named(relid));
    let keys = now
        .keys()
        .ok_or_else(|| context::without_context(now, &doing()))?;
    if keys.has(kind) {
        Ok(keys)
    } else {
        Err(context::without_key(now, kind, &doing()))
    }
}

/// The right to an action on rows of the table: on all of them, or on those within the membership's scope where the table
/// is one of resources.
pub(super) fn require(now: &Standing, table: &Table, action: &str, on: &str) -> pg::Result<()> {
    let index = crate::access::action(&now.matrix, action)?;
    // Where a row has a project, that one counts, which the row trigger looks at.
    let may = match table.placed {
        Some(_) => place::may_somewhere(table, action, false),
        None => now.may_within_scope(index),
    };
    hold_to_right(now, table, may, action, on)
}

/// The right to write rows of the table: of one environment at least, which the row guard asks each row for, as it does
/// where a row has a project.
pub(super) fn require_to_write(
    now: &Standing,
    table: &Table,
    action: &str,
    on: &str,
) -> pg::Result<()> {
    let may = match table.placed {
        Some(_) => place::may_somewhere(table, action, true),
        None => by_environment::may_somewhere(now, action, table)?,
    };
    hold_to_right(now, table, may, action, on)
}

fn hold_to_right(
    now: &Standing,
    table: &Table,
    may: bool,
    action: &str,
    on: &str,
) -> pg::Result<()> {
    if !may {
        Err(context::no_right(now, action, on))
    } else if now.scopes.is_some() && table.scoped.is_none() {
        Err(context::outside_scope(&format!("{action} {on}")))
    } else {
        Ok(())
    }
}
