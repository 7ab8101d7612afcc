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

use super::route;
use super::table::{self, GuardedKey, Table};
use crate::pg;
use crate::pg::probe::{self, Parent};
use crate::pg::trigger::RowImage;
use crate::pg::value::{self, Value};
use pgrx::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

/// Parents remembered at most; past that the memory starts anew.
const REMEMBERED: usize = 200_000;

/// Constraint, organization, and each column's bytes apart: ('ab', 'c') is not ('a', 'bc').
type Held = (pg_sys::Oid, [u8; 16], Vec<Vec<u8>>);
type Owed = (pg_sys::Oid, Vec<Vec<u8>>);

/// A reference whose parent was not there, or not this organization's, when the row was written.
struct Pending {
    child: pg_sys::Oid,
    /// Where the row was stored, and in which file of the table: a rewrite moves it.
    place: pg_sys::ItemPointerData,
    storage: u32,
    constraint: pg_sys::Oid,
    org: [u8; 16],
    key: Vec<Value>,
    text: String,
    level: i32,
    /// Where its parent is another organization's and must not be found: the table and the key's columns there.
    hidden_in: Option<(pg_sys::Oid, Vec<String>)>,
}

thread_local! {
    static HELD: RefCell<HashSet<Held>> = RefCell::default();
    static PENDING: RefCell<Vec<Pending>> = const { RefCell::new(Vec::new()) };
    // Their keys, counted, so that a bulk load with deferred keys is not searched row by row.
    static OWED: RefCell<HashMap<Owed, usize>> = RefCell::default();
    // How many of them hide a parent: what the executor hook asks before it looks closer.
    static HIDDEN: Cell<usize> = const { Cell::new(0) };
    // The values that they hide, by parent: most checks are for another one and need no closer look.
    static HIDDEN_VALUES: RefCell<HashSet<Owed>> = RefCell::default();
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
        values.iter().map(Value::bytes).collect(),
    );
    if HELD.with_borrow(|h| h.contains(&held)) {
        return;
    }
    match route::find(&key.probe, key.leaves.as_ref(), &values, &org) {
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
                storage: probe::storage_of(table.relid),
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

fn owed(constraint: pg_sys::Oid, values: &[Value]) -> Owed {
    (constraint, values.iter().map(Value::bytes).collect())
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

/// Whether PostgreSQL's query for a key, `SELECT 1 FROM ONLY t x WHERE "a" = $1 AND "b" = $2 ...` with qualified
/// operators, compares these columns in this order.
fn asks_for(text: &str, columns: &[String]) -> bool {
    let Some(condition) = condition_of(text) else {
        return false;
    };
    let mut rest = condition;
    for (i, column) in columns.iter().enumerate() {
        let quoted = format!("\"{}\"", column.replace('"', "\"\""));
        let wanted = if i == 0 {
            quoted
        } else {
            format!(" AND {quoted}")
        };
        let found = if i == 0 {
            rest.starts_with(&wanted).then_some(0)
        } else {
            rest.find(&wanted)
        };
        match found {
            Some(at) => rest = &rest[at + wanted.len()..],
            None => return false,
        }
    }
    !rest.contains(" AND \"")
}

/// What follows WHERE, the table's quoted name read as such whatever stands in it.
fn condition_of(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("SELECT 1 FROM ")?;
    let rest = rest.strip_prefix("ONLY ").unwrap_or(rest);
    let rest = after_identifier(rest)?.strip_prefix('.')?;
    after_identifier(rest)?.strip_prefix(" x WHERE ")
}

fn after_identifier(text: &str) -> Option<&str> {
    let mut rest = text.strip_prefix('"')?;
    loop {
        let end = rest.find('"')?;
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(doubled) => rest = doubled,
            None => return Some(rest),
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
    HIDDEN.set(0);
    OWED.take();
    for pending in PENDING.take() {
        let Some(table) = table::protected(pending.child) else {
            continue;
        };
        // PostgreSQL, too, asks nothing of a row that was changed or deleted again.
        if !probe::may_be_live(pending.child, pending.storage, pending.place) {
            continue;
        }
        let Some(key) = table
            .foreign_keys
            .iter()
            .find(|k| k.constraint == pending.constraint)
        else {
            continue;
        };
        if route::find(&key.probe, key.leaves.as_ref(), &pending.key, &pending.org)
            == Parent::Foreign
        {
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
    OWED.take();
    HIDDEN.set(0);
    HIDDEN_VALUES.take();
}

/// A rolled-back subtransaction gave its locks up and took its rows along.
pub fn at_subtransaction_abort(level: i32) {
    HELD.take();
    settle(|one| one.level >= level);
}

pub fn at_subtransaction_commit(level: i32) {
    PENDING.with_borrow_mut(|p| {
        for one in p.iter_mut().filter(|one| one.level >= level) {
            one.level = level - 1;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::asks_for;

    fn columns(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| n.to_string()).collect()
    }

    #[test]
    fn a_check_is_known_by_its_columns() {
        let one = r#"SELECT 1 FROM ONLY "public"."p" x WHERE "a" OPERATOR(pg_catalog.=) $1 FOR KEY SHARE OF x"#;
        assert!(asks_for(one, &columns(&["a"])));
        assert!(!asks_for(one, &columns(&["b"])));
        assert!(!asks_for(one, &columns(&["a", "b"])));
        let two = r#"SELECT 1 FROM ONLY "public"."p" x WHERE "a" OPERATOR(pg_catalog.=) $1 AND "b""x"::text OPERATOR(pg_catalog.=) $2 FOR KEY SHARE OF x"#;
        assert!(asks_for(two, &columns(&["a", "b\"x"])));
        assert!(!asks_for(two, &columns(&["b\"x", "a"])));
        assert!(!asks_for(two, &columns(&["a"])));
        assert!(!asks_for("SELECT 1", &columns(&["a"])));
        let odd = r#"SELECT 1 FROM ONLY "public"."p"" x WHERE ""b"" = " x WHERE "a" OPERATOR(pg_catalog.=) $1 FOR KEY SHARE OF x"#;
        assert!(asks_for(odd, &columns(&["a"])));
    }
}
