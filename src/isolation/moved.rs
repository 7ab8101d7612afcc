//! A row that an UPDATE moves to another partition is a DELETE here and an INSERT there to row triggers. Columns with an
//! action of their own are compared all the same: the two halves follow one another.

use super::table::Table;
use crate::environment::{self, RowKey};
use crate::pg;
use crate::pg::local::Backend;
use crate::pg::trigger::{self, RowImage};
use pgrx::pg_sys;
use std::cell::RefCell;

/// A row that has left its partition and not arrived yet.
struct Left {
    depth: i32,
    root: pg_sys::Oid,
    /// The columns with an action, by name: the partitions' numbers may differ.
    values: Vec<(String, Option<Vec<u8>>)>,
    /// The key of a row that production protection held when it left.
    production: Option<RowKey>,
}

/// What a row that arrives brings along.
pub struct Arrived<'a> {
    /// The columns with an action that changed on the way.
    pub columns: Vec<&'a (i16, String, String)>,
    pub production: Option<RowKey>,
}

// Outermost first: a trigger that fires between the halves may move rows of its own.
static LEFT: Backend<RefCell<Vec<Left>>> = Backend::new(RefCell::new(Vec::new()));

/// `production`: the row's key, where production protection holds it.
pub fn left(table: &Table, old: &RowImage, production: Option<RowKey>) {
    let nothing = table.column_actions.is_empty() && production.is_none();
    if nothing && table.placed.is_none() || !old.has_moved() {
        return;
    }
    let columns = table.column_actions.iter();
    remember(
        table,
        columns
            .map(|(attnum, name, _)| (name.clone(), contents(old, *attnum)))
            .collect(),
        production,
    );
}

/// A migration is held to no organization: whether the row is still of its own when it arrives is looked at there.
pub fn left_in_migration(table: &Table, old: &RowImage) {
    if old.has_moved() {
        remember(
            table,
            vec![(String::new(), contents(old, table.org_attnum))],
            None,
        );
    }
}

fn remember(table: &Table, values: Vec<(String, Option<Vec<u8>>)>, production: Option<RowKey>) {
    let depth = trigger::depth();
    LEFT.with_borrow_mut(|all| {
        all.retain(|one| one.depth < depth);
        all.push(Left {
            depth,
            root: table.root,
            values,
            production,
        });
    });
}

/// Whether a row that a migration moves between partitions is another organization's now.
pub fn has_changed_org(table: &Table, new: &RowImage) -> bool {
    arrival(table).is_some_and(|left| {
        let before = left.values.iter().find(|(name, _)| name.is_empty());
        before.is_some_and(|(_, org)| *org != contents(new, table.org_attnum))
    })
}

/// Whether a row that is inserted now is one that an UPDATE brings from another partition.
pub fn is_under_way(table: &Table) -> bool {
    let depth = trigger::depth();
    LEFT.with_borrow(|all| {
        all.last()
            .is_some_and(|one| one.depth == depth && one.root == table.root)
    })
}

/// What left for the row that arrives now, if it does not just come in.
fn arrival(table: &Table) -> Option<Left> {
    if LEFT.with_borrow(Vec::is_empty) {
        return None;
    }
    let depth = trigger::depth();
    LEFT.with_borrow_mut(|all| all.pop_if(|one| one.depth == depth && one.root == table.root))
}

/// What came with the row that arrives, if it left another partition.
pub fn arrived<'a>(table: &'a Table, new: &RowImage) -> Arrived<'a> {
    let Some(left) = arrival(table) else {
        return Arrived {
            columns: vec![],
            production: None,
        };
    };
    let changed = table.column_actions.iter().filter(|(attnum, name, _)| {
        let before = left.values.iter().find(|(n, _)| n == name);
        before.is_none_or(|(_, value)| *value != contents(new, *attnum))
    });
    Arrived {
        columns: changed.collect(),
        production: left.production,
    }
}

fn contents(row: &RowImage, attnum: i16) -> Option<Vec<u8>> {
    let value = row.value(attnum);
    (!value.null).then(|| value.bytes())
}

/// A statement begins: what left in an earlier one of this depth does not arrive any more (a trigger kept it from it).
/// A production row that went away like this was deleted in all but name.
pub fn begin() -> pg::Result<()> {
    if LEFT.with_borrow(Vec::is_empty) {
        return Ok(());
    }
    let depth = trigger::depth();
    stay_away(|one| one.depth >= depth)
}

/// Nothing arrives after the last statement.
pub fn before_commit() -> pg::Result<()> {
    if LEFT.with_borrow(Vec::is_empty) {
        return Ok(());
    }
    stay_away(|_| true)
}

fn stay_away(gone: impl Fn(&Left) -> bool) -> pg::Result<()> {
    let lost = LEFT.with_borrow_mut(|all| {
        let mut gone = all.extract_if(.., |one| gone(one));
        let lost = gone.by_ref().find(|one| one.production.is_some());
        gone.for_each(drop);
        lost
    });
    match lost {
        Some(lost) => Err(environment::vanished(lost.root)),
        None => Ok(()),
    }
}

pub fn forget() {
    if !LEFT.with_borrow(Vec::is_empty) {
        LEFT.take();
    }
}
