//! One row's past: its lines, and what it was at some time.

use super::chunk::flush;
use super::layouts::Known;
use super::read::{Filter, may, read_at};
use super::seal::index;
use super::show::Chunk;
use crate::context::authority::Id;
use crate::pg::query::{Arg, run_as_is};
use crate::pg::srf::Sink;
use crate::pg::{self, canonical, json, lookup_row};
use pg_tenancy_audit_format::Moment;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

crate::pg::finfo!(pg_finfo_tenancy_history);

/// `tenancy.history(table_name, key)`: the lines of the current organization's log about a table's row, oldest first (spec
/// 6.2): those of this primary key, and an UPDATE that gave the row this key. `table_name`: as the log calls it, or as the
/// search path finds it. `key`: an object of the key's columns, or the value where it has one column; NULL: the whole
/// table. Needs org:audit. Errors: 42501 no organization or no right, XX001 the log was damaged.
///
/// SAFETY: called by PostgreSQL's function manager with the two arguments that sql/50_audit.sql declares.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_history(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as the function's own; each argument is read as the type it is declared with.
    let (table, key, mut sink) = unsafe {
        let args = (*fcinfo).args.as_slice(2);
        (
            String::from_datum(args[0].value, args[0].isnull),
            (!args[1].isnull).then(|| json::text(args[1].value)),
            Sink::new(fcinfo),
        )
    };
    history(table, key, &mut sink).unwrap_or_report();
    pg_sys::Datum::from(0)
}

fn history(table: Option<String>, key: Option<String>, sink: &mut Sink) -> pg::Result<()> {
    let table = pg::given(table, "table_name")?;
    let org = may("org:audit", "read an audit log")?;
    let object = object(&table);
    let mut about = About::new(key.map(|key| lookup_row::canonical_key(&object, key)));
    read_about(&org, object, &mut about, |line, _| line.show(sink))
}

/// Gives `see` the lines about a table's row, oldest first.
fn read_about(
    org: &Id,
    object: String,
    about: &mut About,
    mut see: impl FnMut(&Chunk, Concern) -> pg::Result<()>,
) -> pg::Result<()> {
    flush();
    let times = match about.key {
        Some(_) => index::times(org, about, &object)?,
        None => None,
    };
    read_at(org, &Filter::of_object(object), times, |line| {
        match about.concerns(line)? {
            None => Ok(()),
            Some(concern) => see(line, concern),
        }
    })
}

/// What the log calls a table: the partitioned table for a partition.
pub fn object(name: &str) -> String {
    run_as_is(
        "SELECT pg_catalog.quote_ident(n.nspname) OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) pg_catalog.quote_ident(c.relname)
         FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE c.oid OPERATOR(pg_catalog.=) COALESCE(
             pg_catalog.pg_partition_root(pg_catalog.to_regclass($1))::pg_catalog.oid, pg_catalog.to_regclass($1)::pg_catalog.oid)",
        &[Arg::Text(name)],
        |row| row.get::<String>(1),
    )
    .pop()
    .flatten()
    .unwrap_or_else(|| name.to_string())
}

/// A row, by its key.
pub struct About {
    key: Option<String>,
    /// The key as lines of a layout have it, by the layout's address.
    wanted: HashMap<*const Known, String>,
}

/// A key as lines of a layout have it: where that is of one column, the value alone may be given.
fn in_full(key: &str, known: &Known) -> String {
    let mut names = known.format.columns.iter().filter(|c| c.is_key);
    match (names.next(), names.next()) {
        (Some(one), None) if !key.starts_with('{') => {
            format!("{{{}: {key}}}", serde_json::Value::from(one.name.as_str()))
        }
        _ => key.to_string(),
    }
}

/// How a line concerns a row: under which key it found it, and under which it left it.
pub struct Concern {
    found: bool,
    left: bool,
    left_as: Option<String>,
    found_as: Option<String>,
}

impl About {
    pub fn new(key: Option<String>) -> About {
        About {
            key,
            wanted: HashMap::new(),
        }
    }

    /// The key as lines of a layout have it; None where it is of no row in particular.
    pub fn wanted_of(&self, known: &Known) -> Option<String> {
        self.key.as_deref().map(|key| in_full(key, known))
    }

    pub fn concerns(&mut self, line: &Chunk) -> pg::Result<Option<Concern>> {
        let Some(key) = &self.key else {
            return Ok(Some(Concern {
                found: true,
                left: true,
                left_as: None,
                found_as: None,
            }));
        };
        // A TRUNCATE takes every row.
        if line.is_truncate() {
            return Ok(Some(Concern {
                found: true,
                left: false,
                left_as: None,
                found_as: None,
            }));
        }
        let (_, known) = line.layout();
        let wanted = self
            .wanted
            .entry(known)
            .or_insert_with(|| in_full(key, known));
        let Some((before, after)) = canonical::output(|| line.keys())? else {
            return Ok(None);
        };
        let found = json::same(&before, wanted);
        let left = match &after {
            Some(after) => json::same(after, wanted),
            None => found,
        };
        Ok((found || left).then_some(Concern {
            found,
            left,
            left_as: after,
            found_as: Some(before),
        }))
    }
}

crate::pg::finfo!(pg_finfo_tenancy_as_of);

/// `tenancy.as_of(table_name, key, at)`: what a row of the current organization was at a time, as jsonb (spec 6.2); NULL where
/// there was none. It is the row as it is now, or was when it was deleted, with what happened since undone: so it
/// has the columns of now, and is right also for rows that are older than the log. Lines whose values were erased tell
/// nothing: before such a line a row has the values that it had after it, and one whose lines were all erased is NULL once
/// it was deleted. Needs org:audit, and SELECT on the table where the row is still there. Errors: 42501 no organization or no right, XX001 the log was damaged.
///
/// SAFETY: called by PostgreSQL's function manager with the three arguments that sql/50_audit.sql declares.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_as_of(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as the function's own; each argument is read as the type it is declared with.
    let (table, key, at) = unsafe {
        let args = (*fcinfo).args.as_slice(3);
        (
            String::from_datum(args[0].value, args[0].isnull),
            (!args[1].isnull).then(|| json::text(args[1].value)),
            TimestampWithTimeZone::from_datum(args[2].value, args[2].isnull).map(i64::from),
        )
    };
    match as_of(table, key, at).unwrap_or_report() {
        Some(row) => json::parsed(&row),
        // SAFETY: as the function's own.
        None => unsafe {
            (*fcinfo).isnull = true;
            pg_sys::Datum::from(0)
        },
    }
}

fn as_of(
    table: Option<String>,
    key: Option<String>,
    at: Option<i64>,
) -> pg::Result<Option<String>> {
    let table = object(&pg::given(table, "table_name")?);
    let key = pg::given(key, "key")?;
    let at = pg::given(at, "at")?;
    may("org:audit", "read an audit log")?;
    let key = lookup_row::canonical_key(&table, key);
    let found = state(&table, &key, at)?;
    Ok(found.map(|row| serde_json::to_string(&row).unwrap_or_default()))
}

/// A row's columns; values as they stand, to the digit.
type Row = BTreeMap<String, Box<RawValue>>;

/// A line about the row.
struct Step {
    moment: Moment,
    operation: &'static str,
    concern: Concern,
    old: Option<Row>,
    new: Option<Row>,
}

impl Step {
    /// Whether the row has the key after it.
    fn leaves(&self) -> bool {
        self.concern.left && self.operation != "DELETE"
    }
}

fn row_of(text: Option<String>) -> Option<Row> {
    text.and_then(|text| serde_json::from_str(&text).ok())
}

fn steps(table: &str, key: &str) -> pg::Result<Vec<Step>> {
    let org = may("org:audit", "read an audit log")?;
    let mut about = About::new(Some(key.to_string()));
    let mut steps = vec![];
    read_about(&org, table.to_string(), &mut about, |line, concern| {
        let entry = canonical::output(|| line.entry())?;
        steps.push(Step {
            moment: line.moment(),
            operation: line.operation(),
            old: row_of(entry.old),
            new: row_of(entry.new),
            concern,
        });
        Ok(())
    })?;
    Ok(steps)
}

/// The lines about the rows of a table, each key's read once: a row may go to and fro between two.
struct Past<'a> {
    table: &'a str,
    read: HashMap<String, Rc<Vec<Step>>>,
}

/// A place between two lines of the log.
#[derive(Clone, Copy)]
enum Cut {
    /// The lines of that time lie before it.
    At(i64),
    Before(Moment),
    After(Moment),
}

impl Cut {
    fn is_after(self, line: &Moment) -> bool {
        match self {
            Cut::At(at) => line.at <= at,
            Cut::Before(moment) => *line < moment,
            Cut::After(moment) => *line <= moment,
        }
    }
}

impl Past<'_> {
    fn steps(&mut self, key: &str) -> pg::Result<Rc<Vec<Step>>> {
        pgrx::check_for_interrupts!();
        if let Some(known) = self.read.get(key) {
            return Ok(known.clone());
        }
        let read = Rc::new(steps(self.table, key)?);
        self.read.insert(key.to_string(), read.clone());
        Ok(read)
    }

    /// From what the row was at its end, or is now, back to the cut. Where the row went on under another key, so does this,
    /// and only ever to later lines.
    fn ending(&mut self, key: &str, cut: Cut) -> pg::Result<Option<Row>> {
        let (mut key, mut cut) = (key.to_string(), cut);
        let mut undone = vec![];
        let end = 'end: loop {
            let steps = self.steps(&key)?;
            let after = steps.partition_point(|step| cut.is_after(&step.moment));
            for step in &steps[after..] {
                match step.operation {
                    "DELETE" => break 'end step.old.clone(),
                    "UPDATE" => undone.extend(step.old.clone()),
                    // Truncated, or made anew without a line about its end.
                    _ => break 'end None,
                }
                if !step.leaves() {
                    let Some(next) = &step.concern.left_as else {
                        break 'end None;
                    };
                    (key, cut) = (next.clone(), Cut::After(step.moment));
                    continue 'end;
                }
            }
            break row_of(lookup_row::as_jsonb(self.table, &key));
        };
        Ok(end.map(|mut row| {
            undone.into_iter().rev().for_each(|old| row.extend(old));
            row
        }))
    }

    /// From what the row was made as, on to the cut; the same on the way back, and only ever to earlier lines.
    fn beginning(&mut self, key: &str, cut: Cut) -> pg::Result<Option<Row>> {
        let (mut key, mut cut) = (key.to_string(), cut);
        let mut redone: Vec<Row> = vec![];
        'made: loop {
            let steps = self.steps(&key)?;
            let before = steps.partition_point(|step| cut.is_after(&step.moment));
            for step in steps[..before].iter().rev() {
                match (step.operation, &step.new) {
                    ("INSERT", Some(new)) => {
                        let mut row = new.clone();
                        redone.into_iter().rev().for_each(|new| row.extend(new));
                        return Ok(Some(row));
                    }
                    ("UPDATE", Some(new)) if step.leaves() => redone.push(new.clone()),
                    _ => return Ok(None),
                }
                if !step.concern.found
                    && let Some(from) = &step.concern.found_as
                {
                    (key, cut) = (from.clone(), Cut::Before(step.moment));
                    continue 'made;
                }
            }
            return Ok(None);
        }
    }
}

/// The row that had the key at a time, the lines of that time included.
fn state(table: &str, key: &str, at: i64) -> pg::Result<Option<Row>> {
    let mut past = Past {
        table,
        read: HashMap::new(),
    };
    let cut = Cut::At(at);
    let steps = past.steps(key)?;
    let (before, after) = steps.split_at(steps.partition_point(|s| cut.is_after(&s.moment)));
    let existed = match (before.last(), after.first()) {
        (Some(last), _) => last.leaves(),
        (None, Some(first)) => first.operation != "INSERT" && first.concern.found,
        (None, None) => true,
    };
    if !existed {
        return Ok(None);
    }
    match past.ending(key, cut)? {
        Some(row) => Ok(Some(row)),
        None => past.beginning(key, cut),
    }
}
