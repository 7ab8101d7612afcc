//! What goes into the log: every written row of an audited table, and every governance act, appended to the log of the
//! organization that the row itself names.

use super::author::author;
use super::layouts::Captured;
use super::{chunk, encode};
use crate::context::authority::Id;
use crate::context::keys;
use crate::isolation::Table;
use crate::pg::error;
use crate::pg::key;
use crate::pg::scan;
use crate::pg::trigger::{Event, RowImage};
use crate::pg::value::{Deformed, Value};
use pg_tenancy_audit_format as format;
use serde_json::Value as Json;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// A governance act: who may do what changed.
pub struct Act<'a> {
    pub org: Id,
    pub operation: &'a str,
    pub object: &'a str,
    pub key: Json,
    pub old: Option<Json>,
    pub new: Option<Json>,
}

/// What each row needs room for; taken while it is used, since a value's output may run somebody's function, which may
/// write audited rows itself.
#[derive(Default)]
struct Workplace {
    old: Deformed,
    new: Deformed,
    body: Vec<u8>,
}

thread_local! {
    static WORKPLACE: RefCell<Workplace> = RefCell::default();
    static ACTS: Rc<Captured> = Rc::new(Captured::of_acts());
}

/// A body that was larger than this is not kept for the next row.
const KEPT: usize = 1 << 20;

fn with_workplace(work: impl FnOnce(&mut Workplace)) {
    let mut place = WORKPLACE.take();
    place.body.clear();
    work(&mut place);
    place.body.shrink_to(KEPT);
    WORKPLACE.set(place);
}

pub fn record(act: &Act) {
    let layout = ACTS.with(Rc::clone);
    let text = |value: &Option<Json>| value.as_ref().map(Json::to_string);
    with_workplace(|place| {
        format::put_act(
            &mut place.body,
            act.operation,
            act.object,
            &act.key.to_string(),
            text(&act.old).as_deref(),
            text(&act.new).as_deref(),
        );
        chunk::append(&act.org, &layout, &author(false), &place.body);
    });
}

/// One written row. An UPDATE that changed nothing leaves nothing.
pub fn capture(
    table: &Table,
    event: Event,
    old: Option<&RowImage>,
    new: Option<&RowImage>,
    break_glass: bool,
) {
    let Some(row) = old.or(new) else { return };
    let layout = layout(table, row);
    with_workplace(|place| {
        if let Some(old) = old {
            old.take_apart(&mut place.old);
        }
        if let Some(new) = new {
            new.take_apart(&mut place.new);
        }
        let whose = if old.is_some() {
            &place.old
        } else {
            &place.new
        };
        let (datum, null) = whose.column(table.org_attnum);
        let value = table.org_kind.value(datum, null);
        let Some(org) = keys::whose(table.org_kind, &value) else {
            return of_nobody(table, &value);
        };
        if encode::row(&layout, event, &place.old, &place.new, &mut place.body) {
            chunk::append(&org, &layout, &author(break_glass), &place.body);
        }
    });
}

/// A row written under break-glass whose key is no organization's: no log is its own. The server's log keeps a line for
/// each run of such rows.
fn of_nobody(table: &Table, value: &Value) {
    thread_local! {
        static LAST: RefCell<Option<(String, String)>> = const { RefCell::new(None) };
    }
    let Some(key) = key::external(table.org_kind, value) else {
        return;
    };
    let said = Some((table.object.clone(), key));
    if LAST.with_borrow(|last| *last == said) {
        return;
    }
    if let Some((object, key)) = &said {
        error::server_log(
            "audit: a row was written that is no organization's",
            &format!("Table {object}, key \"{key}\"."),
        );
    }
    LAST.set(said);
}

fn layout(table: &Table, row: &RowImage) -> Rc<Captured> {
    let make = || Rc::new(Captured::of(table, row));
    table.layout.get_or_init(make).clone()
}

/// A TRUNCATE under break-glass: a line in the log of every organization that loses rows by it.
pub fn record_truncate(table: &Table) {
    let mut losers = BTreeSet::new();
    let mut of = None;
    scan::for_each_row(table.relid, |row| {
        losers.extend(keys::whose(table.org_kind, &row.value(table.org_attnum)));
        of.get_or_insert_with(|| layout(table, row));
    });
    let Some(layout) = of else { return };
    for org in losers {
        with_workplace(|place| {
            encode::row(
                &layout,
                Event::Truncate,
                &place.old,
                &place.new,
                &mut place.body,
            );
            chunk::append(&org, &layout, &author(true), &place.body);
        });
    }
}
