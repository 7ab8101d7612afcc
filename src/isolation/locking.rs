//! SELECT ... FOR UPDATE and its like on tables whose rows name their environment (spec 5.4): who may update some of them only
//! is refused the lock of any other. The right is asked once for the statement (reading.rs); of which environment a row is
//! shows when it has been found. So the planner's hook has each row that is about to be locked pass `check_lock()`: behind
//! every condition, join, sort and limit of the statement, so that no row is refused that nobody would have locked.
//!
//! A plan that did not pass the hook (made before the library was loaded, or with the body of a SQL function in it) has no
//! such call; it takes what holds in every environment.

use super::by_environment;
use super::table;
use crate::access;
use crate::access::matrix::Level;
use crate::context;
use crate::pg::composite;
use crate::pg::{self, identity};
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;

/// Whether the rows of a table are asked for one by one.
pub fn asks_each_row(relid: pg_sys::Oid) -> bool {
    table::protected(relid).is_some_and(|table| table.options.names_environment())
}

fn on(relid: pg_sys::Oid) -> String {
    format!(
        "(row lock) on table \"{}\"",
        pg::catalog::relation_name(relid)
    )
}

/// Refuses a plan that locks rows of such tables more often than it asks for them, where the right differs between
/// environments. `locked`: the tables, as often as the statement locks rows of them; `asked`: those of `check_lock()` calls.
pub fn check_unasked(locked: &[pg_sys::Oid], asked: &[pg_sys::Oid]) -> pg::Result<()> {
    let count = |all: &[pg_sys::Oid], one| all.iter().filter(|other| **other == one).count();
    for relid in locked.iter().copied() {
        if !asks_each_row(relid) || count(asked, relid) >= count(locked, relid) {
            continue;
        }
        let Some(table) = table::protected(relid) else {
            continue;
        };
        let now = context::standing();
        let action = &table.options.update;
        if now.org.is_some()
            && by_environment::differs(&now, &table, action)?
            && now.level(access::action(&now.matrix, action)?) != Level::Allow
        {
            return Err(context::no_right(&now, action, &on(relid)));
        }
    }
    Ok(())
}

crate::pg::finfo!(pg_finfo_tenancy_check_lock);

/// `tenancy.check_lock(table_id oid, row_of_table record) -> boolean` (spec 5.4): true for a row that the context may lock, in
/// its environment; else the refusal. The planner's hook puts it where a SELECT locks rows; anyone may call it. False for
/// a row that is none of the table's. Errors: 42501 no right in the row's environment.
///
/// SAFETY: called by PostgreSQL's function manager, as sql/65_environments.sql declares it.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_check_lock(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own; the arguments' types are declared.
    let [table, row] = unsafe { [0, 1].map(|i| *(*fcinfo).args.as_ptr().add(i)) };
    // No row where an outer join found none.
    if table.isnull || row.isnull || identity::break_glass() || context::migration::is_in_force() {
        return true.into();
    }
    let relid = pg_sys::Oid::from(table.value.value() as u32);
    let Some(table) = table::protected(relid).filter(|t| t.options.names_environment()) else {
        return true.into();
    };
    let (now, action) = (context::standing(), &table.options.update);
    if now.org.is_none() || !by_environment::differs(&now, &table, action).unwrap_or_report() {
        return true.into();
    }
    // SAFETY: a value of type record.
    let said = unsafe {
        composite::with_row(row.value, relid, |row| {
            by_environment::require(&now, &table, action, &[Some(row)], &on(relid))
        })
    };
    match said {
        Some(said) => {
            said.unwrap_or_report();
            true.into()
        }
        None => false.into(),
    }
}
