//! Quotas on the rows of protected tables (spec 10): how many rows an organization may have there, exact at every commit.
//!
//! What the row triggers count, or the executor where they are left out, is added up per statement and put into the
//! organization's counter at its end (tally.rs): the limit is kept by one rewrite of a few bytes, nobody waits for another's
//! commit, and a long statement notices every `STEP` rows. Nothing is reserved ahead: measured, a counter costs a
//! single-row transaction a few hundredths, so leases would save little, and every one of them would be room that is
//! refused to others, or that a dead session keeps.

use super::count::{self, Counter};
use crate::context::authority::{self, Id};
use crate::context::{self, keys};
use crate::isolation::Table;
use crate::pg::query::{Arg, latest};
use crate::pg::trigger::RowImage;
use crate::pg::value::Value;
use crate::pg::{self, catalog, counter, fail, scan, transaction};
use pgrx::prelude::*;
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// A statement's rows are put into the counter at its end, and after so many.
const STEP: i64 = 4_096;

/// A quota of one organization on one table.
#[derive(Debug)]
pub struct Quota {
    pub id: Id,
    pub table: pg_sys::Oid,
    pub maximum: i64,
}

/// Rows of one organization in one table with quotas, written at one nesting level and not in the counter yet.
struct Pending {
    org: Id,
    table: u32,
    level: i32,
    /// Break-glass, replication, a migration: counted, not refused.
    free: bool,
    rows: i64,
}

#[derive(Default)]
struct Memory {
    /// Tables that some organization has a quota on.
    tables: Vec<u32>,
    /// For a table, those of them that its rows count for: itself, and what it is a part of.
    under: FxHashMap<u32, Rc<[u32]>>,
    quotas: FxHashMap<(Id, u32), Option<Rc<Quota>>>,
}

thread_local! {
    static PENDING: RefCell<Vec<Pending>> = const { RefCell::new(Vec::new()) };
    static MEMORY: RefCell<Memory> = RefCell::default();
    // Which bell the memory is of; none at first.
    static READ_AT: Cell<u64> = const { Cell::new(u64::MAX) };
    static ANY: Cell<bool> = const { Cell::new(false) };
    static MOVED: Cell<bool> = const { Cell::new(false) };
    static LAST: RefCell<Option<(u32, Rc<[u32]>)>> = const { RefCell::new(None) };
}

/// From the invalidation callback: a table's place in its tree may have changed. No catalog access, no waiting.
pub fn on_invalidation(relid: pg_sys::Oid) {
    if ANY.get() {
        let known = MEMORY.try_with(|m| {
            m.try_borrow()
                .map_or(true, |m| m.under.contains_key(&u32::from(relid)))
        });
        if relid == pg_sys::InvalidOid || known.unwrap_or(true) {
            MOVED.set(true);
        }
    }
}

/// Whether any organization has a quota on any table.
#[inline]
pub fn any() -> bool {
    if READ_AT.get() != authority::heard() {
        read();
    }
    ANY.get()
}

fn read() {
    let at = authority::heard();
    let tables: Vec<u32> = latest(
        "SELECT DISTINCT table_name::pg_catalog.oid FROM tenancy.quota_limits WHERE table_name IS NOT NULL",
        &[],
        |row| row.get::<pg_sys::Oid>(1),
    )
    .into_iter()
    .flatten()
    .map(u32::from)
    .collect();
    ANY.set(!tables.is_empty());
    MEMORY.set(Memory {
        tables,
        ..Memory::default()
    });
    LAST.set(None);
    counter::forget_places();
    READ_AT.set(at);
}

/// The tables with quotas that a table's rows count for.
fn under(relid: pg_sys::Oid) -> Rc<[u32]> {
    let number = u32::from(relid);
    if MOVED.replace(false) {
        MEMORY.with_borrow_mut(|m| m.under.clear());
        LAST.set(None);
    }
    if let Some(known) =
        LAST.with_borrow(|l| l.as_ref().filter(|l| l.0 == number).map(|l| l.1.clone()))
    {
        return known;
    }
    let known = MEMORY.with_borrow(|m| m.under.get(&number).cloned());
    let found = known.unwrap_or_else(|| {
        let above: Vec<u32> = latest(
            "WITH RECURSIVE above AS (
                 SELECT $1::pg_catalog.oid AS id
                 UNION SELECT i.inhparent FROM pg_catalog.pg_inherits AS i
                       JOIN above AS a ON i.inhrelid OPERATOR(pg_catalog.=) a.id)
             SELECT id FROM above",
            &[Arg::Oid(relid)],
            |row| row.get::<pg_sys::Oid>(1),
        )
        .into_iter()
        .flatten()
        .map(u32::from)
        .collect();
        MEMORY.with_borrow_mut(|m| {
            let mut found = above;
            found.retain(|id| m.tables.contains(id));
            let found: Rc<[u32]> = found.into();
            m.under.insert(number, found.clone());
            found
        })
    });
    LAST.set(Some((number, found.clone())));
    found
}

/// Whether rows of a table are counted for a quota of somebody's.
pub fn is_under(relid: pg_sys::Oid) -> bool {
    any() && !under(relid).is_empty()
}

/// An organization's quota on a table.
fn quota(org: &Id, table: u32) -> Option<Rc<Quota>> {
    if let Some(known) = MEMORY.with_borrow(|m| m.quotas.get(&(*org, table)).cloned()) {
        return known;
    }
    let found = latest(
        "SELECT id, maximum FROM tenancy.quota_limits
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND table_name::pg_catalog.oid OPERATOR(pg_catalog.=) $2",
        &[Arg::Uuid(org), Arg::Oid(table.into())],
        |row| {
            Some(Rc::new(Quota {
                id: row.uuid(1)?,
                table: table.into(),
                maximum: row.get::<i64>(2)?,
            }))
        },
    )
    .pop()
    .flatten();
    MEMORY.with_borrow_mut(|m| m.quotas.insert((*org, table), found.clone()));
    found
}

/// A row that was written. `free`: counted and not refused.
#[inline]
pub fn count(
    table: &Table,
    old: Option<&RowImage>,
    new: Option<&RowImage>,
    free: bool,
) -> pg::Result<()> {
    if !any() {
        return Ok(());
    }
    count_row(table, old, new, free)
}

fn count_row(
    table: &Table,
    old: Option<&RowImage>,
    new: Option<&RowImage>,
    free: bool,
) -> pg::Result<()> {
    let tables = under(table.relid);
    if tables.is_empty() {
        return Ok(());
    }
    let of = |row: &RowImage| row.value(table.org_attnum);
    let add = |value: &Value, rows: i64| match keys::whose(table.org_kind, value) {
        Some(org) => add(&tables, &org, rows, free),
        None => Ok(()),
    };
    match (old.map(of), new.map(of)) {
        (None, Some(new)) => add(&new, 1),
        (Some(old), None) => add(&old, -1),
        // Only break-glass moves a row to another organization.
        (Some(old), Some(new)) if free && !old.same(&new) => {
            add(&old, -1)?;
            add(&new, 1)
        }
        _ => Ok(()),
    }
}

/// Rows that a plain INSERT stored for the organization in effect, where no trigger counted them.
pub fn count_inserted(relid: pg_sys::Oid, rows: u64) -> pg::Result<()> {
    if rows == 0 || !is_under(relid) {
        return Ok(());
    }
    match context::standing().org_id() {
        Some(org) => add(&under(relid), &org, rows as i64, false),
        None => Ok(()),
    }
}

/// A TRUNCATE under break-glass, before it happens.
pub fn count_truncated(table: &Table) -> pg::Result<()> {
    if !is_under(table.relid) {
        return Ok(());
    }
    let mut result = Ok(());
    scan::for_each_row(table.relid, |row| {
        if result.is_ok() {
            result = count_row(table, Some(row), None, true);
        }
    });
    result?;
    flush()
}

fn add(tables: &[u32], org: &Id, rows: i64, free: bool) -> pg::Result<()> {
    let level = transaction::nest_level();
    let mut full = false;
    PENDING.with_borrow_mut(|pending| {
        for table in tables {
            let same = |p: &&mut Pending| {
                p.table == *table && p.level == level && p.free == free && p.org == *org
            };
            let known = pending.iter_mut().rev().find(same);
            let waiting = match known {
                Some(known) => {
                    known.rows += rows;
                    known.rows
                }
                None => {
                    pending.push(Pending {
                        org: *org,
                        table: *table,
                        level,
                        free,
                        rows,
                    });
                    rows
                }
            };
            full |= waiting.abs() >= STEP;
        }
    });
    if full { flush() } else { Ok(()) }
}

/// Puts what was counted at this nesting level into the counters: at the end of each statement, and before commit.
/// Raises where there would be too many rows.
#[inline]
pub fn flush() -> pg::Result<()> {
    if PENDING.with_borrow(Vec::is_empty) {
        return Ok(());
    }
    let level = transaction::nest_level();
    loop {
        let next = PENDING.with_borrow_mut(|pending| {
            let place = pending.iter().position(|p| p.level >= level)?;
            Some(pending.remove(place))
        });
        let Some(pending) = next else { return Ok(()) };
        if pending.rows != 0 {
            settle(&pending)?;
        }
    }
}

fn settle(pending: &Pending) -> pg::Result<()> {
    // The bell of a quota that was set since the rows were counted.
    if !any() {
        return Ok(());
    }
    let Some(quota) = quota(&pending.org, pending.table) else {
        return Ok(());
    };
    let counter = Counter::of_table(&pending.org, &quota);
    let most = (!pending.free).then_some(quota.maximum);
    match count::change(&counter, pending.rows, most)? {
        None => Ok(()),
        Some((used, held)) => Err(fail(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!(
                "quota exceeded: the organization may have at most {} rows in table \"{}\"",
                quota.maximum,
                catalog::relation_name(quota.table)
            ),
        )
        .set_detail(over(used, held, pending.rows))
        .set_hint(
            "Delete rows that are not needed, or have a DBA raise the quota: tenancy.set_quota().",
        )),
    }
}

pub fn over(used: impl std::fmt::Display, held: i64, by: impl std::fmt::Display) -> String {
    if held == 0 {
        format!("It has {used}, and this adds {by}.")
    } else {
        format!(
            "It has {used}, transactions that have not ended hold {held} more, and this adds {by}."
        )
    }
}

pub fn at_subtransaction_abort(level: i32) {
    PENDING.with_borrow_mut(|pending| pending.retain(|p| p.level < level));
}

pub fn at_transaction_end() {
    PENDING.with_borrow_mut(Vec::clear);
}
