//! Keeps an organization column that add_org_column() made: a trigger fills it in each written row, from the row's parent
//! as long as the table is not protected, from the context (and nothing else: a parent would tell whose it is) once it is.
//! The foreign-key guard then holds the row to its parent's organization.

use super::facts::facts;
use super::table::{self, GuardedKey};
use super::tree;
use crate::context;
use crate::pg::key::KeyType;
use crate::pg::probe::Probe;
use crate::pg::query::{execute, run};
use crate::pg::trigger::{self, Event, RowImage};
use crate::pg::value::Value;
use crate::pg::{self, lookup, partition};
use pgrx::prelude::*;
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// Fires after the application's own BEFORE triggers (by name), which may set the reference.
pub const TRIGGER: &str = "~tenancy_fill_org";

/// The trigger's argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub org_column: String,
    /// The foreign key to the parent, and the parent's column, by name: they outlive a dump.
    pub foreign_key: String,
    pub parent_column: String,
}

crate::pg::finfo!(pg_finfo_tenancy_fill_org);

/// The row trigger of tables whose organization column add_org_column() made.
///
/// SAFETY: called by PostgreSQL's function manager.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_fill_org(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own; a BEFORE ROW trigger answers the row to be stored.
    unsafe {
        match trigger::call(fcinfo) {
            Some(call) if call.before && call.for_row && call.event != Event::Delete => fill(&call),
            _ => {
                trigger::not_a_trigger("fill_org").report(PgLogLevel::ERROR);
                pg_sys::Datum::from(0)
            }
        }
    }
}

fn fill(call: &trigger::Call) -> pg_sys::Datum {
    let relid = call.relid();
    let new = call.new_row().expect("a row is written");
    let unchanged = new.datum();
    let Ok(source) = serde_json::from_str::<Source>(&call.argument(0)) else {
        return unchanged;
    };
    let org = partition::column_number(relid, &source.org_column);
    if org < 1 {
        return unchanged;
    }
    let value = new.value(org);
    if table::protected(relid).is_some() {
        let mine = context::standing()
            .keys()
            .zip(KeyType::of(new.type_of(org)))
            .and_then(|(keys, kind)| keys.datum(kind));
        if value.null
            && let Some(mine) = mine
        {
            return new.with(org, mine);
        }
        return unchanged;
    }
    let Some(key) = known_key(relid, &source.foreign_key) else {
        return unchanged;
    };
    if let Some(old) = call.old_row()
        && !value.null
        && old.value(org).same(&value)
        && same_reference(&key, &old, &new)
    {
        return unchanged;
    }
    match parents_value(&key, &source.parent_column, &new) {
        Some(found) if !found.same(&value) => new.with(org, found.datum),
        _ => unchanged,
    }
}

fn same_reference(key: &GuardedKey, old: &RowImage, new: &RowImage) -> bool {
    key.columns
        .iter()
        .all(|(attnum, _)| old.value(*attnum).same(&new.value(*attnum)))
}

thread_local! {
    // The keys by which rows of this transaction's tables are filled, until any table changes.
    static KEYS: RefCell<HashMap<u32, Option<Rc<GuardedKey>>>> = RefCell::default();
    static STALE: Cell<bool> = const { Cell::new(false) };
}

/// From the invalidation callback: no catalog access, no waiting.
pub fn on_invalidation() {
    STALE.set(true);
}

/// `key_of`, remembered: reading it for each row of a bulk insert would cost ten times the insert.
fn known_key(relid: pg_sys::Oid, name: &str) -> Option<Rc<GuardedKey>> {
    if STALE.replace(false) {
        KEYS.take();
    }
    let number = u32::from(relid);
    if let Some(known) = KEYS.with_borrow(|keys| keys.get(&number).cloned()) {
        return known;
    }
    let key = key_of(relid, name).map(Rc::new);
    KEYS.with_borrow_mut(|keys| keys.insert(number, key.clone()));
    key
}

/// The foreign key of this name, as rows of this table have it: partitions and children go by the key of the table above,
/// with columns of the same names.
pub fn key_of(relid: pg_sys::Oid, name: &str) -> Option<GuardedKey> {
    let mut at = relid;
    loop {
        let own = table::all_keys(at, &table::columns_of(at));
        if let Some(mut key) = own.into_iter().find(|key| key.name == name) {
            for (attnum, column) in &mut key.columns {
                *attnum = partition::column_number(relid, column);
            }
            key.lead_to(None);
            return key.columns.iter().all(|(n, _)| *n > 0).then_some(key);
        }
        at = *tree::parents(at).first()?;
    }
}

/// The named column of the row that this one refers to by the key, in memory of the transaction; None where it refers to
/// nothing, or that column is NULL.
pub fn parents_value(key: &GuardedKey, column: &str, row: &RowImage) -> Option<Value> {
    let values: Vec<Value> = key.columns.iter().map(|(i, _)| row.value(*i)).collect();
    if values.iter().any(|v| v.null) {
        return None;
    }
    let read = |probe: &Probe| {
        let attnum = partition::column_number(probe.parent, column);
        lookup::parent(probe, &values, |row| {
            (attnum > 0).then(|| row.value(attnum).kept_for_transaction())
        })
    };
    let found = match &key.leaves {
        Some(leaves) => leaves
            .probes(&key.probe, &values)
            .iter()
            .find_map(|leaf| read(leaf)),
        None => read(&key.probe),
    };
    found.flatten().filter(|value| !value.null)
}

/// For uninstall(): the columns stay, and are the application's to keep.
pub fn drop_triggers() -> pg::Result<()> {
    let tables = run(
        "SELECT tgrelid FROM pg_catalog.pg_trigger WHERE tgparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid
           AND tgfoid OPERATOR(pg_catalog.=) 'tenancy.fill_org'::pg_catalog.regproc",
        &[],
        |row| row.get::<pg_sys::Oid>(1),
    );
    for relid in tables.into_iter().flatten() {
        let table = facts(relid)?.quoted();
        execute(&format!("DROP TRIGGER \"{TRIGGER}\" ON {table}"), &[]);
    }
    Ok(())
}
