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

use super::check_text::asks_for;
use super::held::{self, Name};
use super::place;
use super::route;
use super::scope;
use super::table::{self, GuardedKey, Table};
use crate::pg;
use crate::pg::key::Keys;
use crate::pg::local::Backend;
use crate::pg::open_parent;
use crate::pg::probe::Parent;
use crate::pg::reference;
use crate::pg::trigger::RowImage;
use crate::pg::value::{self, Value};
use pgrx::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;

/// Constraint or parent, and each column's bytes apart: ('ab', 'c') is not ('a', 'bc').
type Owed = (u32, Vec<Vec<u8>>);

/// A reference whose parent was not there, or not this organization's, when the row was written.
struct Pending {
    child: pg_sys::Oid,
    /// Where the row was stored, and in which file of the table: a rewrite moves it.
    place: pg_sys::ItemPointerData,
    storage: u32,
    constraint: pg_sys::Oid,
    org: &'static Keys,
    key: Vec<Value>,
    text: String,
    level: i32,
    /// Where its parent is another organization's and must not be found: the table and the key's columns there.
    hidden_in: Option<(pg_sys::Oid, Vec<String>)>,
}

static PENDING: Backend<RefCell<Vec<Pending>>> = Backend::new(RefCell::new(Vec::new()));
// Their keys, counted, so that a bulk load with deferred keys is not searched row by row.
static OWED: Backend<RefCell<BTreeMap<Owed, usize>>> = Backend::new(RefCell::new(BTreeMap::new()));
// How many of them hide a parent: what the executor hook asks before it looks closer.
static HIDDEN: Backend<Cell<usize>> = Backend::new(Cell::new(0));
// The values that they hide, by parent: most checks are for another one and need no closer look.
static HIDDEN_VALUES: Backend<RefCell<BTreeSet<Owed>>> =
    Backend::new(RefCell::new(BTreeSet::new()));

/// `org`: the row's, to which it was held before.
/// `limited`: whether the membership shows only listed resources.
pub fn check(
    table: &Table,
    org: &'static Keys,
    limited: bool,
    old: Option<&RowImage>,
    new: &RowImage,
) -> pg::Result<()> {
    held::begin_row();
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
        check_one(table, key, values, (org, limited), new);
    }
    Ok(())
}

fn check_one(
    table: &Table,
    key: &GuardedKey,
    values: Vec<Value>,
    (org, limited): (&'static Keys, bool),
    new: &RowImage,
) {
    let name = org
        .id()
        .and_then(|id| Name::new(key.constraint, &id, &values));
    let hidden = limited && scope::hides(key, &values, org)
        || key.parent_is_placed && place::hides(key, &values);
    if let Some(name) = &name
        && !hidden
        && held::contains(name)
    {
        return held::note(key, *name);
    }
    let found = if hidden {
        Parent::Foreign
    } else {
        route::find(&key.probe, key.leaves.as_ref(), &values, org)
    };
    match found {
        Parent::Held => {
            if let Some(name) = name {
                held::insert(&name);
                held::note(key, name);
            }
        }
        absent => {
            let pending = Pending {
                child: table.relid,
                place: new.place(),
                storage: reference::storage_of(table.relid),
                constraint: key.constraint,
                org,
                text: text_of(key, &values, new),
                key: values.iter().map(Value::kept_for_transaction).collect(),
                level: pg::transaction::nest_level(),
                hidden_in: (absent == Parent::Foreign).then(|| {
                    let columns = key.probe.keys.iter().map(|k| k.parent_column.clone());
                    (key.probe.parent, columns.collect())
                }),
            };
            HIDDEN.set(HIDDEN.get() + usize::from(pending.hidden_in.is_some()));
            if let Some((parent, _)) = &pending.hidden_in {
                HIDDEN_VALUES.with_borrow_mut(|h| h.insert(owed(*parent, &pending.key)));
            }
            OWED.with_borrow_mut(|o| {
                *o.entry(owed(pending.constraint, &pending.key)).or_default() += 1;
            });
            PENDING.with_borrow_mut(|p| p.push(pending));
        }
    }
}

/// Whether a key's own check, which looks for `values` in `parent` with the query `text`, is answered already: the row
/// whose triggers run refers by this key to a parent that this transaction holds.
///
/// Only where PostgreSQL would look with a snapshot as new as ours: in a transaction with one snapshot it refuses a
/// parent committed since, and so it shall.
pub fn is_held(parent: pg_sys::Oid, values: &[Value], types: &[pg_sys::Oid], text: &CStr) -> bool {
    if !pg::transaction::is_read_committed() {
        return false;
    }
    held::find(parent, values, types, |check| check.is(text))
}

fn owed(of: pg_sys::Oid, values: &[Value]) -> Owed {
    (u32::from(of), values.iter().map(Value::bytes).collect())
}

fn is_pending(key: &GuardedKey, values: &[Value]) -> bool {
    OWED.with_borrow(|o| !o.is_empty() && o.contains_key(&owed(key.constraint, values)))
}

/// Drops the references that `gone` says, and their count.
fn settle(gone: impl Fn(&Pending) -> bool) {
    PENDING.with_borrow_mut(|p| {
        for one in p.extract_if(.., |one| gone(one)) {
            OWED.with_borrow_mut(|o| {
                let key = owed(one.constraint, &one.key);
                if let Some(count) = o.get_mut(&key) {
                    *count -= 1;
                    if *count == 0 {
                        o.remove(&key);
                    }
                }
            });
        }
        HIDDEN.set(p.iter().filter(|one| one.hidden_in.is_some()).count());
    });
}

fn same_key(one: &[Value], other: &[Value]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| a.same(b))
}

/// Whether some parent is to be kept from the keys' own checks.
pub fn hides_any() -> bool {
    HIDDEN.get() > 0
}

/// Whether a key's own check, which looks for `key` in `parent` with the query `text`, is to find nothing. The columns
/// count too: the same values may stand in another unique key of the parent.
pub fn hides(parent: pg_sys::Oid, key: &[Value], text: &str) -> bool {
    if !HIDDEN_VALUES.with_borrow(|h| h.contains(&owed(parent, key))) {
        return false;
    }
    PENDING.with_borrow(|p| {
        p.iter().any(|one| {
            one.hidden_in
                .as_ref()
                .is_some_and(|(table, columns)| *table == parent && asks_for(text, columns))
                && same_key(&one.key, key)
        })
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
    open_parent::close_all();
    if PENDING.with_borrow(Vec::is_empty) {
        return;
    }
    HIDDEN.set(0);
    OWED.take();
    for pending in PENDING.take() {
        let Some(table) = table::protected(pending.child) else {
            continue;
        };
        // PostgreSQL, too, asks nothing of a row that was changed or deleted again.
        if !reference::may_be_live(pending.child, pending.storage, pending.place) {
            continue;
        }
        let Some(key) = table
            .foreign_keys
            .iter()
            .find(|k| k.constraint == pending.constraint)
        else {
            continue;
        };
        if scope::hides(key, &pending.key, pending.org)
            || key.parent_is_placed && place::hides(key, &pending.key)
            || route::find(&key.probe, key.leaves.as_ref(), &pending.key, pending.org)
                == Parent::Foreign
        {
            reference::violation_at_commit(
                pending.child,
                &key.name,
                key.probe.parent,
                &key.columns,
                &pending.text,
            );
        }
    }
    open_parent::close_all();
}

pub fn forget_all() {
    held::clear();
    open_parent::forget(0);
    // Most transactions owe nothing.
    if !PENDING.with_borrow(Vec::is_empty) || !OWED.with_borrow(BTreeMap::is_empty) {
        PENDING.take();
        OWED.take();
    }
    if !HIDDEN_VALUES.with_borrow(BTreeSet::is_empty) {
        HIDDEN_VALUES.take();
    }
    HIDDEN.set(0);
}

/// A rolled-back subtransaction gave its locks up and took its rows along.
pub fn at_subtransaction_abort(level: i32) {
    held::clear();
    open_parent::forget(level);
    settle(|one| one.level >= level);
}

/// A parent may be gone or another one now.
pub fn parents_changed() {
    held::clear();
}

/// Before a subtransaction commits: what it opened is its own to close.
pub fn before_subtransaction_commit() {
    open_parent::close_from(pg::transaction::nest_level());
}

pub fn at_subtransaction_commit(level: i32) {
    PENDING.with_borrow_mut(|p| {
        for one in p.iter_mut().filter(|one| one.level >= level) {
            one.level = level - 1;
        }
    });
}
