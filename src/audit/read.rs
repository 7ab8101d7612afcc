//! Who may read which log: the current organization's, with org:audit there, through one function on every path.
//!
//! A log is read from the chunks in the order of their first lines, and those whose lines overlap in time are merged, so
//! that as much is in memory as was written at one time, however long the log is. Nothing is planned or sorted: with a
//! query over the tables, 100 lines from one shared by 1,000 organizations took 2.6 times those from an own table.

use super::chunk;
use super::seal::index::Times;
use super::show::{self, Chunk};
use super::store::{self, Store};
use crate::context;
use crate::context::authority::{Id, id_text};
use crate::pg::scan::{Bound, Found, Ordered};
use crate::pg::srf::Sink;
use crate::pg::{self, fail, transaction};
use pg_tenancy_audit_format as format;
use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};
use pgrx::prelude::*;
use std::collections::BinaryHeap;
use std::rc::Rc;

crate::pg::finfo!(pg_finfo_tenancy_read_audit);

/// `tenancy.read_audit(since, until, actor, object, operation, max_rows)`: the current organization's log, oldest
/// first (spec 6.2). NULL leaves a filter out. Needs org:audit. Errors: 42501 no organization or no right; XX001 the log
/// was damaged.
///
/// SAFETY: called by PostgreSQL's function manager with the six arguments that sql/30_functions.sql declares.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_read_audit(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own; each argument is read as the type it is declared with.
    let (filter, mut sink) = unsafe {
        let args = (*fcinfo).args.as_slice(6);
        (Filter::of_arguments(args), Sink::new(fcinfo))
    };
    may("org:audit", "read an audit log")
        .and_then(|org| read(&org, &filter, |line| line.show(&mut sink)))
        .unwrap_or_report();
    pg_sys::Datum::from(0)
}

/// The organization with whose log the context may do this.
pub fn may(action: &str, doing: &str) -> pg::Result<Id> {
    let now = context::standing();
    let Some(org) = now.org_id() else {
        return Err(context::without_context(&now, doing));
    };
    if !now.may(crate::access::action(&now.matrix, action)?) {
        return Err(context::no_right(&now, action, "on the audit log"));
    }
    if !action.starts_with("org:audit") {
        context::no_ai(doing)?;
    }
    // A suspended organization's log is read and exported; how it is kept is a change.
    if now.is_suspended() && !action.starts_with("org:audit") {
        return Err(context::suspended(&org, doing));
    }
    context::pin(&now)?;
    Ok(org)
}

/// What leaves a line in the log cannot be done where nothing is written.
pub fn require_primary() -> pg::Result<()> {
    if !transaction::on_standby() {
        return Ok(());
    }
    Err(fail(
        PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
        "this leaves a line in the audit log, which a standby cannot write",
    )
    .set_detail("Whoever exports a log, or reads all of them, is written down.")
    .set_hint("Do it on the primary server; tenancy.audit_log can be read here."))
}

#[derive(Default)]
pub struct Filter {
    since: Option<i64>,
    until: Option<i64>,
    actor: Option<Id>,
    object: Option<String>,
    operation: Option<String>,
    max_rows: Option<i64>,
}

impl Filter {
    /// since, until, actor, object, operation, max_rows.
    ///
    /// SAFETY: arguments of these types.
    pub unsafe fn of_arguments(args: &[pg_sys::NullableDatum]) -> Filter {
        // SAFETY: as the function's own.
        unsafe {
            Filter {
                actor: pgrx::datum::Uuid::from_datum(args[2].value, args[2].isnull)
                    .map(|u| *u.as_bytes()),
                object: String::from_datum(args[3].value, args[3].isnull),
                operation: String::from_datum(args[4].value, args[4].isnull),
                max_rows: i64::from_datum(args[5].value, args[5].isnull),
                ..Filter::of_times(&args[0], &args[1])
            }
        }
    }

    /// SAFETY: two of type timestamptz.
    pub unsafe fn of_times(since: &pg_sys::NullableDatum, until: &pg_sys::NullableDatum) -> Filter {
        // SAFETY: as the function's own.
        let time = |arg: &pg_sys::NullableDatum| unsafe {
            TimestampWithTimeZone::from_datum(arg.value, arg.isnull).map(i64::from)
        };
        Filter {
            since: time(since),
            until: time(until),
            ..Filter::default()
        }
    }

    pub fn of_object(object: String) -> Filter {
        Filter {
            object: Some(object),
            ..Filter::default()
        }
    }

    /// What was asked for, as a line about the reading tells it.
    pub fn told(&self) -> serde_json::Value {
        let actor = self.actor.map(|id| id_text(&id));
        let mut told = serde_json::Map::new();
        let mut tell = |name: &str, value: Option<serde_json::Value>| {
            if let Some(value) = value {
                told.insert(name.into(), value);
            }
        };
        tell("since", self.since.map(|at| format::iso_time(at).into()));
        tell("until", self.until.map(|at| format::iso_time(at).into()));
        tell("actor", actor.map(Into::into));
        tell("object", self.object.clone().map(Into::into));
        tell("operation", self.operation.clone().map(Into::into));
        tell("max_rows", self.max_rows.map(Into::into));
        told.into()
    }

    pub fn at(&self, at: i64) -> bool {
        self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at < until)
    }

    /// A line by its operation and object.
    pub fn line(&self, (operation, object): (&str, &str)) -> bool {
        self.operation
            .as_deref()
            .is_none_or(|wanted| operation == wanted)
            && self.object.as_deref().is_none_or(|wanted| object == wanted)
    }

    /// A chunk by the table that a layout of it is of; a governance act's has none.
    pub fn layout(&self, object: &str) -> bool {
        let wanted = self.object.as_deref();
        wanted.is_none_or(|wanted| object.is_empty() || object == wanted)
    }

    fn chunk(&self, row: &Found) -> bool {
        self.actor.is_none() || show::actor_of(row) == self.actor
    }
}

/// Gives `see` the lines of an organization's log that the filter lets through, oldest first.
pub fn read(
    org: &Id,
    filter: &Filter,
    see: impl FnMut(&Chunk) -> pg::Result<()>,
) -> pg::Result<()> {
    super::flush();
    read_at(org, filter, None, see)
}

/// `read` of the chunks that begin at these times, ascending and apart; None: of all. What waits to be stored was stored.
pub fn read_at(
    org: &Id,
    filter: &Filter,
    times: Option<Vec<Times>>,
    mut see: impl FnMut(&Chunk) -> pg::Result<()>,
) -> pg::Result<()> {
    let times: Option<Rc<[Times]>> = times.map(Rc::from);
    let mut left = filter.max_rows.unwrap_or(i64::MAX);
    let mut sources = store::tables_of(org)
        .into_iter()
        .map(|store| Source::open(store, org, filter, times.clone()))
        .collect::<pg::Result<Vec<_>>>()?;
    let mut reading: BinaryHeap<Chunk> = BinaryHeap::new();
    while left > 0 {
        // Every chunk that may hold a line before the earliest known one is looked at first.
        while let Some(source) = sources
            .iter_mut()
            .filter(|s| s.row.is_some())
            .min_by_key(|s| s.first())
            .filter(|s| reading.peek().is_none_or(|chunk| s.first() <= chunk.at()))
        {
            let mut chunk = Chunk::load(&source.row.expect("it was asked for"))?;
            source.advance(filter)?;
            if chunk.may_hold(filter) && chunk.advance(filter)? {
                reading.push(chunk);
            }
        }
        let Some(mut chunk) = reading.pop() else {
            break;
        };
        see(&chunk)?;
        left -= 1;
        if chunk.advance(filter)? {
            reading.push(chunk);
        }
    }
    Ok(())
}

/// Gives `see` every chunk of an organization's log, with the row and the table that it lies in.
pub fn for_each_chunk(
    org: &Id,
    mut see: impl FnMut(pg_sys::Oid, &Found, &mut Chunk) -> pg::Result<()>,
) -> pg::Result<()> {
    super::flush();
    let filter = Filter::default();
    for store in store::tables_of(org) {
        let mut source = Source::open(store, org, &filter, None)?;
        while let Some(row) = source.row {
            see(store.table, &row, &mut Chunk::load(&row)?)?;
            source.advance(&filter)?;
        }
    }
    Ok(())
}

/// A table of chunks, at one of them.
struct Source<'a> {
    store: Store,
    /// The scan's bounds point to it.
    org: &'a Id,
    scan: Option<Ordered>,
    /// The times that are looked for one after the other, and which is next; None: all that the filter lets through.
    times: Option<Rc<[Times]>>,
    next: usize,
    row: Option<Found>,
}

impl<'a> Source<'a> {
    fn open(
        store: Store,
        org: &'a Id,
        filter: &Filter,
        times: Option<Rc<[Times]>>,
    ) -> pg::Result<Source<'a>> {
        let mut source = Source {
            store,
            org,
            scan: None,
            times,
            next: 0,
            row: None,
        };
        if source.times.is_none() {
            let since = filter.since.map(|s| s.saturating_sub(format::read::SPAN));
            source.scan = Some(source.between(since, filter.until)?);
        }
        source.advance(filter)?;
        Ok(source)
    }

    /// The chunks that begin from a time on and before another.
    fn between(&self, since: Option<i64>, until: Option<i64>) -> pg::Result<Ordered> {
        let (at, org_id) = (1, 5);
        let own = self.store.own;
        let bounds: Vec<Bound> = [
            (!own).then(|| Bound::uuid_is(org_id, self.org)),
            since.map(|since| Bound::at_least(at, since)),
            until.map(|until| Bound::before(at, until)),
        ]
        .into_iter()
        .flatten()
        .collect();
        let by = if own { &[at][..] } else { &[org_id, at] };
        Ordered::open(self.store.table, &chunk::TYPES, by, &bounds).ok_or_else(index_lost)
    }

    fn advance(&mut self, filter: &Filter) -> pg::Result<()> {
        loop {
            self.row = self.scan.as_mut().and_then(Ordered::next);
            match &self.row {
                Some(row) if filter.chunk(row) => return Ok(()),
                Some(_) => {}
                None => {
                    let next = self.times.as_ref().and_then(|times| times.get(self.next));
                    let Some(times) = next.cloned() else {
                        return Ok(());
                    };
                    self.next += 1;
                    // The scan of the times before is closed first: its row is not looked at any more.
                    self.scan = None;
                    let end = times.end().saturating_add(1);
                    self.scan = Some(self.between(Some(*times.start()), Some(end))?);
                }
            }
        }
    }

    fn first(&self) -> i64 {
        self.row.as_ref().map_or(i64::MAX, show::first)
    }
}

pub fn index_lost() -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "an audit table has lost its index",
    )
    .set_detail("A log is read in the order of time, which the index keeps.")
    .set_hint("CREATE INDEX ON the table in schema tenancy_audit: (at), or (org_id, at) where its name begins with shared_.")
}

/// The log is not as we wrote it.
pub fn corrupt(message: &str, detail: &str) -> ErrorReport {
    fail(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, message)
        .set_detail(detail)
        .set_hint(
            "Somebody wrote to the audit tables, or the disk did: compare them with a backup.",
        )
}
