//! The cross-org foreign-key guard (spec 5.5): a reference to another organization's row fails with exactly the error
//! of a missing row, at once, without waiting for that row's lock.
//!
//! Exactly means that PostgreSQL raises it: another organization's parent is hidden from the query that the key's own
//! trigger runs, so that text, fields, source line and moment (at the statement's end, or at commit where the key is
//! deferred) are those of a missing parent because it is one, to that query.
//!
//! A parent of the same organization is held FOR KEY SHARE and remembered for the transaction. A parent that is not
//! there is PostgreSQL's to refuse; but since the key may be deferred, or the parent may appear between our look and
//! PostgreSQL's, or the key's own trigger may be off, every such reference is looked up again before commit.

use super::table::{self, GuardedKey, Table};
use crate::pg;
use crate::pg::probe::{self, Parent};
use crate::pg::trigger::RowImage;
use crate::pg::value::{self, Value};
use pgrx::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;

/// Parents remembered at most; past that the memory starts anew.
const REMEMBERED: usize = 200_000;

type Held = (pg_sys::Oid, [u8; 16], Vec<u8>);

/// A reference whose parent was not there, or not this organization's, when the row was written.
struct Pending {
    child: pg_sys::Oid,
    place: pg_sys::ItemPointerData,
    constraint: pg_sys::Oid,
    org: [u8; 16],
    key: Vec<Value>,
    text: String,
    level: i32,
    /// The parent table, where its row is another organization's and must not be found.
    hidden_in: Option<pg_sys::Oid>,
}

thread_local! {
    static HELD: RefCell<HashSet<Held>> = RefCell::default();
    static PENDING: RefCell<Vec<Pending>> = const { RefCell::new(Vec::new()) };
    // How many of them hide a parent: what the executor hook asks before it looks closer.
    static HIDDEN: Cell<usize> = const { Cell::new(0) };
}

pub fn check(table: &Table, old: Option<&RowImage>, new: &RowImage) -> pg::Result<()> {
    for key in &table.foreign_keys {
        let values: Vec<Value> = key.columns.iter().map(|(i, _)| new.value(*i)).collect();
        // A key with a NULL in it references nothing (MATCH SIMPLE); MATCH FULL refuses partial ones itself.
        if values.iter().any(|v| v.null) {
            continue;
        }
        let unchanged = old.is_some_and(|old| {
            key.columns
                .iter()
                .zip(&values)
                .all(|((i, _), v)| old.value(*i).same(v))
        });
        // A new version of a row whose parent is still owed takes that debt over.
        if unchanged && !is_pending(key, &values) {
            continue;
        }
        if let Some(org) = new.value(table.org_attnum).as_uuid() {
            check_one(table, key, values, org, new);
        }
    }
    Ok(())
}

fn check_one(table: &Table, key: &GuardedKey, values: Vec<Value>, org: [u8; 16], new: &RowImage) {
    let held: Held = (
        key.constraint,
        org,
        values.iter().flat_map(Value::bytes).collect(),
    );
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
        absent => {
            let pending = Pending {
                child: table.relid,
                place: new.place(),
                constraint: key.constraint,
                org,
                text: text_of(key, &values, new),
                key: values.iter().map(Value::kept_for_transaction).collect(),
                level: pg::transaction::nest_level(),
                hidden_in: (absent == Parent::Foreign).then_some(key.probe.parent),
            };
            HIDDEN.set(HIDDEN.get() + usize::from(pending.hidden_in.is_some()));
            PENDING.with_borrow_mut(|p| p.push(pending));
        }
    }
}

fn is_pending(key: &GuardedKey, values: &[Value]) -> bool {
    PENDING.with_borrow(|p| {
        p.iter()
            .any(|one| one.constraint == key.constraint && same_key(&one.key, values))
    })
}

fn same_key(one: &[Value], other: &[Value]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| a.same(b))
}

/// Whether some parent is to be kept from the keys' own checks.
pub fn hides_any() -> bool {
    HIDDEN.get() > 0
}

/// Whether the check that looks for `key` in `parent` is to find nothing.
pub fn hides(parent: pg_sys::Oid, key: &[Value]) -> bool {
    PENDING.with_borrow(|p| {
        p.iter()
            .any(|one| one.hidden_in == Some(parent) && same_key(&one.key, key))
    })
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
    HIDDEN.set(0);
    for pending in PENDING.take() {
        // PostgreSQL, too, asks nothing of a row that was changed or deleted again.
        if !probe::is_live(pending.child, pending.place) {
            continue;
        }
        let Some(table) = table::protected(pending.child) else {
            continue;
        };
        let Some(key) = table
            .foreign_keys
            .iter()
            .find(|k| k.constraint == pending.constraint)
        else {
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
    HIDDEN.set(0);
}

/// A rolled-back subtransaction gave its locks up and took its rows along.
pub fn at_subtransaction_abort(level: i32) {
    HELD.take();
    PENDING.with_borrow_mut(|p| {
        p.retain(|one| one.level < level);
        HIDDEN.set(p.iter().filter(|one| one.hidden_in.is_some()).count());
    });
}

pub fn at_subtransaction_commit(level: i32) {
    PENDING.with_borrow_mut(|p| {
        for one in p.iter_mut().filter(|one| one.level >= level) {
            one.level = level - 1;
        }
    });
}
