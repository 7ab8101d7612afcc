//! The cross-org foreign-key guard (spec 5.5): a reference to another organization's row fails with exactly the error
//! of a missing row, at once, without waiting for that row's lock.
//!
//! A parent of the same organization is held FOR KEY SHARE and remembered for the transaction. A parent that is not
//! there is PostgreSQL's to refuse; but since the key may be deferred, or the parent may appear between our look and
//! PostgreSQL's, it is looked up again before commit.

use super::table::{self, GuardedKey, Table};
use crate::pg;
use crate::pg::probe::{self, Parent};
use crate::pg::trigger::{Call, RowImage};
use crate::pg::value::{self, Value};
use pgrx::prelude::*;
use std::cell::RefCell;
use std::collections::HashSet;

/// Parents remembered at most; past that the memory starts anew.
const REMEMBERED: usize = 200_000;

type Held = (pg_sys::Oid, [u8; 16], Vec<u8>);

/// A reference whose parent was not there when the row was written.
struct Pending {
    child: pg_sys::Oid,
    constraint: pg_sys::Oid,
    org: [u8; 16],
    key: Vec<Value>,
    text: String,
    level: i32,
}

thread_local! {
    static HELD: RefCell<HashSet<Held>> = RefCell::default();
    static PENDING: RefCell<Vec<Pending>> = const { RefCell::new(Vec::new()) };
}

pub fn check(call: &Call, table: &Table, old: Option<&RowImage>, new: &RowImage) -> pg::Result<()> {
    for key in &table.foreign_keys {
        let values: Vec<Value> = key.columns.iter().map(|(i, _)| new.value(*i)).collect();
        // A key with a NULL in it references nothing (MATCH SIMPLE); MATCH FULL refuses partial ones itself.
        if values.iter().any(|v| v.null) {
            continue;
        }
        if let Some(old) = old
            && key.columns.iter().zip(&values).all(|((i, _), v)| old.value(*i).same(v))
        {
            continue;
        }
        if let Some(org) = new.value(table.org_attnum).as_uuid() {
            check_one(call, table, key, values, org, new);
        }
    }
    Ok(())
}

fn check_one(call: &Call, table: &Table, key: &GuardedKey, values: Vec<Value>, org: [u8; 16], new: &RowImage) {
    let held: Held = (key.constraint, org, values.iter().flat_map(Value::bytes).collect());
    if HELD.with_borrow(|h| h.contains(&held)) {
        return;
    }
    match probe::find(&key.probe, &values, &org) {
        Parent::Held => HELD.with_borrow_mut(|h| {
            if h.len() >= REMEMBERED {
                h.clear();
            }
            h.insert(held);
        }),
        Parent::Foreign => probe::violation(
            call.relation(),
            &call.relation_name(),
            &key.name,
            key.probe.parent,
            &key.columns,
            &text_of(key, &values, new),
        ),
        Parent::Missing => {
            let pending = Pending {
                child: table.relid,
                constraint: key.constraint,
                org,
                text: text_of(key, &values, new),
                key: values.iter().map(Value::kept_for_transaction).collect(),
                level: pg::transaction::nest_level(),
            };
            PENDING.with_borrow_mut(|p| p.push(pending));
        }
    }
}

fn text_of(key: &GuardedKey, values: &[Value], row: &RowImage) -> String {
    let parts: Vec<String> = key
        .columns
        .iter()
        .zip(values)
        .map(|((attnum, _), value)| value::output(value, row.type_of(*attnum)))
        .collect();
    parts.join(", ")
}

/// Before commit and PREPARE: whoever turned up as parent since must be of the row's organization.
pub fn before_commit() {
    for pending in PENDING.take() {
        let Some(table) = table::protected(pending.child) else {
            continue;
        };
        let Some(key) = table.foreign_keys.iter().find(|k| k.constraint == pending.constraint) else {
            continue;
        };
        if probe::find(&key.probe, &pending.key, &pending.org) == Parent::Foreign {
            probe::violation_at_commit(
                pending.child,
                &key.name,
                key.probe.parent,
                &key.columns,
                &pending.text,
            );
        }
    }
}

pub fn forget_all() {
    HELD.take();
    PENDING.take();
}

/// A rolled-back subtransaction gave its locks up and took its rows along.
pub fn at_subtransaction_abort(level: i32) {
    HELD.take();
    PENDING.with_borrow_mut(|p| p.retain(|one| one.level < level));
}

pub fn at_subtransaction_commit(level: i32) {
    PENDING.with_borrow_mut(|p| {
        for one in p.iter_mut().filter(|one| one.level >= level) {
            one.level = level - 1;
        }
    });
}
