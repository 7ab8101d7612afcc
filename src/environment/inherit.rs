//! Rows that have their environment from the row that they refer to, or from their project (environment_from of protect()).
//! A row is looked up by the foreign key, without a query and without a lock; a project's tag is remembered with the rest of
//! what the hall knows of projects, and the project is held by then (isolation/place.rs).
//!
//! Where it is gone by the time, because this transaction deleted it or gave it another key (a cascade reaches the rows
//! that refer to it afterwards), what it was is remembered here. A row that refers to nothing that can be found and that
//! nobody remembers counts as production.

use super::Tag;
use crate::context::authority::Id;
use crate::context::projects;
use crate::isolation::{self, GuardedKey, Source, Table, Way};
use crate::pg::local::Backend;
use crate::pg::lookup;
use crate::pg::probe::Cast;
use crate::pg::transaction;
use crate::pg::trigger::RowImage;
use crate::pg::value::Value;
use crate::pg::{self, fail};
use pgrx::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// The columns that were referred to, by name, with what stood in them.
type Reference = (u32, Vec<(String, Vec<u8>)>);

/// What was remembered at each nesting level, the last one last: whether rows that refer to it are production.
type Memory = HashMap<Reference, Vec<(i32, bool)>>;

static GONE: Backend<RefCell<Option<Memory>>> = Backend::new(RefCell::new(None));

/// Parents of parents at most: protect() makes no circle, but unprotect() and protect() again might.
const DEEPEST: usize = 16;

/// Whether a row is production to its organization.
pub fn is_production(org: &Id, table: &Table, source: &Source, row: &RowImage) -> pg::Result<bool> {
    at_depth(org, table, source, row, 0)
}

fn at_depth(
    org: &Id,
    table: &Table,
    source: &Source,
    row: &RowImage,
    depth: usize,
) -> pg::Result<bool> {
    let place = match source.way {
        Way::Column { attnum, is_enum } => {
            return Ok(Tag::of(org, row, attnum, is_enum).is_production());
        }
        Way::Place { by_cluster } => {
            return Ok(is_production_place(
                org,
                of_place(org, table, by_cluster, row),
            ));
        }
        Way::Key(place) => place,
    };
    let key = &table.foreign_keys[place];
    let values: Vec<Value> = key.columns.iter().map(|(i, _)| row.value(*i)).collect();
    by_reference(org, key, &values, depth)
}

/// The tag of a row's project, or of its cluster where `by_cluster` says so and that has one; the outer None where the
/// organization has no such project.
pub fn of_place(
    org: &Id,
    table: &Table,
    by_cluster: bool,
    row: &RowImage,
) -> Option<Option<Rc<str>>> {
    let placed = table.placed.as_ref()?;
    let cluster = placed.cluster.filter(|_| by_cluster);
    let cluster = cluster.and_then(|attnum| row.value(attnum).as_uuid());
    let project = row.value(placed.project).as_uuid()?;
    projects::environment(org, &project, cluster.as_ref())
}

/// Whether a place with this tag is production; one that is not there is.
pub fn is_production_place(org: &Id, tag: Option<Option<Rc<str>>>) -> bool {
    tag.is_none_or(|tag| tag.is_some_and(|tag| Tag::named(org, tag.to_string()).is_production()))
}

/// Whether a row that refers to another by these values is production by it.
pub fn by_reference(
    org: &Id,
    key: &GuardedKey,
    values: &[Value],
    depth: usize,
) -> pg::Result<bool> {
    // It refers to nothing, so it has no environment.
    if values.iter().any(|v| v.null) {
        return Ok(false);
    }
    if depth == DEEPEST {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the environment of the row comes from itself",
        )
        .set_detail("Tables that have it from one another form a circle.")
        .set_hint("unprotect() one of them and protect() it with environment_column."));
    }
    match look(org, key, values, depth) {
        Some(found) => found,
        None => Ok(remembered(key, values).unwrap_or(true)),
    }
}

/// What the row that a key leads to says; None where there is none.
fn look(org: &Id, key: &GuardedKey, values: &[Value], depth: usize) -> Option<pg::Result<bool>> {
    let read = |relid: pg_sys::Oid, row: &RowImage| {
        let Some(parent) = isolation::protected(relid) else {
            return Ok(true);
        };
        match &parent.environment {
            Some(source) => at_depth(org, &parent, source, row, depth + 1),
            // Its protection lost the option: nobody knows.
            None => Ok(true),
        }
    };
    match &key.leaves {
        None => lookup::parent(&key.probe, values, |row| read(key.probe.parent, row)),
        Some(leaves) => leaves
            .probes(&key.probe, values)
            .iter()
            .find_map(|leaf| lookup::parent(leaf, values, |row| read(leaf.parent, row))),
    }
}

fn remembered(key: &GuardedKey, values: &[Value]) -> Option<bool> {
    // A value of another type than the parent's is not compared here.
    if key.probe.keys.iter().any(|k| k.cast != Cast::None) {
        return None;
    }
    let root = isolation::protected(key.probe.parent)?.root;
    let mut named: Vec<(String, Vec<u8>)> = key
        .probe
        .keys
        .iter()
        .zip(values)
        .map(|(k, value)| (k.parent_column.clone(), value.bytes()))
        .collect();
    named.sort();
    let reference = (u32::from(root), named);
    GONE.with_borrow(|gone| {
        let known = gone.as_ref()?.get(&reference)?;
        known.last().map(|(_, production)| *production)
    })
}

/// A row that others may refer to was deleted, or is now called something else. `production`: whether rows that still
/// refer to it by what it was called are held as production.
pub fn is_gone(
    table: &Table,
    source: &Source,
    old: &RowImage,
    new: Option<&RowImage>,
    production: bool,
) {
    for columns in &source.led_to {
        let changed = |new: &RowImage| {
            columns
                .iter()
                .any(|(i, _)| !old.value(*i).same(&new.value(*i)))
        };
        if !new.is_none_or(changed) {
            continue;
        }
        let named = columns
            .iter()
            .map(|(i, name)| (name.clone(), old.value(*i).bytes()))
            .collect();
        let level = transaction::nest_level();
        GONE.with_borrow_mut(|gone| {
            let known = gone
                .get_or_insert_default()
                .entry((u32::from(table.root), named))
                .or_default();
            known.retain(|(at, _)| *at < level);
            known.push((level, production));
        });
    }
}

pub fn at_subtransaction_abort(level: i32) {
    change(|known| known.retain(|(at, _)| *at < level));
}

pub fn at_subtransaction_commit(level: i32) {
    change(|known| {
        if let Some(last) = known.pop_if(|(at, _)| *at >= level) {
            known.retain(|(at, _)| *at < level - 1);
            known.push((level - 1, last.1));
        }
    });
}

fn change(what: impl Fn(&mut Vec<(i32, bool)>)) {
    GONE.with_borrow_mut(|gone| {
        if let Some(all) = gone {
            all.values_mut().for_each(what);
            all.retain(|_, known| !known.is_empty());
        }
    });
}

pub fn forget() {
    if GONE.with_borrow(Option::is_some) {
        GONE.set(None);
    }
}
