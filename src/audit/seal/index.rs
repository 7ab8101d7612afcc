//! Where the lines about a row are: of every sealed chunk the fingerprints of the keys that it names, some hundred chunks
//! in a row of a table beside the logs. history() and as_of() look through these instead of through the log. The sealer
//! makes them, so that no writer pays: two or three bytes a line.
//!
//! It is a finding aid and no evidence: what is read by it is compared with its hashes as ever, and what somebody takes
//! out of it is still in the log, which tenancy.audit_log reads whole. Where it does not cover all that is sealed, the log
//! is read whole here, too.

use super::fingerprint::{self, Entries, Entry, Fingerprint, Value};
use super::{fold, heads};
use crate::audit::history::About;
use crate::audit::layouts;
use crate::audit::show::{self, Chunk};
use crate::audit::store;
use crate::context::authority::Id;
use crate::pg::query::{Arg, latest};
use crate::pg::scan::{Bound, Found, Ordered};
use crate::pg::{self, canonical, heap, horizon, raw};
use pg_tenancy_audit_format::head::Head;
use pg_tenancy_audit_format::read::{Field, Fields};
use pgrx::PgMemoryContexts;
use pgrx::prelude::*;
use std::collections::HashSet;
use std::ops::RangeInclusive;

pub const NAME: &str = "key_index";
pub const COLUMNS: &str =
    "org_id uuid NOT NULL, first bigint NOT NULL, lines bigint NOT NULL, chunks bytea NOT NULL";
const TYPES: [pg_sys::Oid; 4] = [
    pg_sys::UUIDOID,
    pg_sys::INT8OID,
    pg_sys::INT8OID,
    pg_sys::BYTEAOID,
];

/// A row that has reached this many bytes is stored: it stays in its page.
const FULL: usize = 7000;

fn table() -> pg_sys::Oid {
    store::find(NAME).unwrap_or_else(|| store::missing(NAME))
}

/// What a sealing pass adds.
pub struct Builder<'a> {
    org: &'a Id,
    first: u64,
    lines: u64,
    entries: Entries,
    /// What a chunk's keys are made in.
    memory: PgMemoryContexts,
}

impl Builder<'_> {
    pub fn new(org: &Id, first: u64) -> Builder<'_> {
        Builder {
            org,
            first,
            lines: 0,
            entries: Entries::default(),
            memory: PgMemoryContexts::new("pg_tenancy keys"),
        }
    }

    /// The next chunk in the order of numbers.
    pub fn add(&mut self, row: &Found, lines: u64) {
        // SAFETY: what is made in there is a list of numbers on Rust's own heap; the rest is let go.
        let fingerprints = unsafe {
            let made = self.memory.switch_to(|_| fingerprints(row));
            self.memory.reset();
            made
        };
        // One that cannot be read is sealed as it is, and read by whoever looks for anything: he is told.
        self.entries.add(show::first(row), fingerprints.as_deref());
        self.lines += lines;
        if self.entries.bytes.len() >= FULL {
            self.store();
        }
    }

    pub fn store(&mut self) {
        if self.lines > 0 {
            insert(self.org, self.first, self.lines, &self.entries);
        }
        self.first += self.lines;
        self.lines = 0;
        self.entries = Entries::default();
    }
}

fn insert(org: &Id, first: u64, lines: u64, entries: &Entries) {
    let mut bytes = heads::bytes(&entries.bytes);
    let row = [
        Some(pg_sys::Datum::from(org.as_ptr())),
        Some(first.into()),
        Some(lines.into()),
        Some(raw::with_header(&mut bytes)),
    ];
    heap::insert(table(), &TYPES, &row);
}

/// Of the lines of a chunk, each once; None where it cannot be read.
fn fingerprints(row: &Found) -> Option<Vec<Fingerprint>> {
    let mut chunk = Chunk::load(row).ok()?;
    let mut all = vec![];
    while chunk.next().ok()? {
        let object = &chunk.layout().1.format.object;
        if chunk.is_truncate() {
            all.push(fingerprint::of_all(object));
        } else if let Some((before, after)) = chunk.key_fields().ok()? {
            for key in [Some(before), after].into_iter().flatten() {
                all.extend(of_fields(&chunk, &key).or_else(|| {
                    let text = canonical::output(|| chunk.key_text(&key));
                    fingerprint::of_json(object, &text)
                }));
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    Some(all)
}

/// Where no value needs PostgreSQL to be written: numbers, texts and uuids.
fn of_fields(chunk: &Chunk, key: &Fields) -> Option<Fingerprint> {
    let known = chunk.layout().1;
    let uuid = |id: &Id| Value::Text(uuid_text(id).into_bytes().into());
    let mut values = vec![];
    for (i, field) in key {
        let column = &known.format.columns[*i];
        let value = match (field, column.encoding.as_str()) {
            (Field::Integer(n), "int2" | "int4" | "int8") => Value::Integer(*n),
            (Field::Bytes(bytes), "text" | "varchar") => Value::Text((*bytes).into()),
            (Field::Bytes(bytes), "uuid") => uuid(&(*bytes).try_into().ok()?),
            (Field::Org, _) => uuid(chunk.org()),
            _ => return None,
        };
        values.push((column.name.as_str(), value));
    }
    values.sort_unstable_by_key(|(name, _)| *name);
    Some(fingerprint::of_values(&known.format.object, values))
}

fn uuid_text(id: &Id) -> String {
    uuid::Uuid::from_bytes(*id).hyphenated().to_string()
}

/// The times, of chunks' first lines, at which all chunks are that may tell of a row, ascending and apart; None where the
/// log has to be read whole. Under the active snapshot.
pub fn times(org: &Id, about: &About, object: &str) -> pg::Result<Option<Vec<Times>>> {
    if store::find(NAME).is_none() {
        return Ok(None);
    }
    let Some(last) = heads::last_head(org)? else {
        return Ok(None);
    };
    // The lines of a log that was restored are in more than one order, so that it is not known which are not sealed.
    if last.restored || fold::is_first_pass(Some(&last)) {
        return Ok(None);
    }
    let Some(mut times) = sealed(org, &last.head, &wanted(about, object)?) else {
        return Ok(None);
    };
    let mut unsealed: Option<Times> = None;
    for store in store::tables_of(org) {
        let mut rows = fold::open(store, org, Some(&last), Some((last.horizon, u64::MAX)))?;
        while let Some(row) = rows.next() {
            let at = show::first(&row);
            unsealed = Some(match unsealed {
                None => at..=at,
                Some(some) => at.min(*some.start())..=at.max(*some.end()),
            });
        }
    }
    times.extend(unsealed);
    times.sort_unstable_by_key(|t| *t.start());
    times.dedup_by(|next, before| {
        let joins = next.start() <= before.end();
        if joins {
            *before = *before.start()..=*before.end().max(next.end());
        }
        joins
    });
    Ok(Some(times))
}

pub type Times = RangeInclusive<i64>;

/// The fingerprints of a key, which a layout's columns may be needed for, and of what takes every row.
fn wanted(about: &About, object: &str) -> pg::Result<HashSet<Fingerprint>> {
    let layouts = latest(
        "SELECT DISTINCT id FROM tenancy_audit.layouts WHERE object OPERATOR(pg_catalog.=) $1",
        &[Arg::Text(object)],
        |row| row.uuid(1),
    );
    let mut wanted = HashSet::from([fingerprint::of_all(object)]);
    for id in layouts.into_iter().flatten() {
        let known = layouts::known(&id)?;
        let key = about.wanted_of(&known);
        wanted.extend(key.and_then(|key| fingerprint::of_json(object, &key)));
    }
    Ok(wanted)
}

/// Of the chunks that the index tells of; None where these are not all that are sealed.
fn sealed(org: &Id, head: &Head, wanted: &HashSet<Fingerprint>) -> Option<Vec<Times>> {
    let mut times = vec![];
    let mut covered = head.purged;
    let mut rows = open(org)?;
    while let Some(row) = rows.next() {
        let (first, lines, entries) = read(&row)?;
        if first > covered {
            return None;
        }
        covered = covered.max(first + lines);
        for (at, fingerprints) in entries {
            if fingerprints.is_none_or(|all| all.iter().any(|one| wanted.contains(one))) {
                times.push(at..=at);
            }
        }
    }
    (covered >= head.size).then_some(times)
}

fn open(org: &Id) -> Option<Ordered> {
    Ordered::open(table(), &TYPES, &[1, 2], &[Bound::uuid_is(1, org)])
}

/// None where it is none of ours any more.
fn read(row: &Found) -> Option<(u64, u64, Vec<Entry>)> {
    let number = |n| row.get::<i64>(n).and_then(|n| u64::try_from(n).ok());
    let entries = fingerprint::read(&row.get::<Vec<u8>>(4)?)?;
    Some((number(2)?, number(3)?, entries))
}

/// Forgets which keys chunks hold, by the times of their first lines: their values were erased. The caller keeps the
/// sealer off.
pub fn forget_keys(org: &Id, chunks: &HashSet<i64>) {
    change(org, |first, lines, entries| {
        if !entries.iter().any(|(at, _)| chunks.contains(at)) {
            return Change::Keep;
        }
        let mut less = Entries::default();
        for (at, fingerprints) in entries {
            less.add(
                *at,
                fingerprints.as_deref().filter(|_| !chunks.contains(at)),
            );
        }
        Change::Replace(first, lines, less)
    });
}

/// Takes out what tells of purged chunks only. The caller keeps the sealer off.
pub fn purge(org: &Id, up_to: u64) {
    change(org, |first, lines, _| match first + lines <= up_to {
        true => Change::Remove,
        false => Change::Keep,
    });
}

enum Change {
    Keep,
    Remove,
    Replace(u64, u64, Entries),
}

fn change(org: &Id, decide: impl Fn(u64, u64, &[Entry]) -> Change) {
    if store::find(NAME).is_none() {
        return;
    }
    horizon::with_latest_snapshot(|_| {
        // What was changed by hand beyond reading stays: it is not read by either.
        let Some(mut rows) = open(org) else { return };
        while let Some(row) = rows.next() {
            let Some((first, lines, entries)) = read(&row) else {
                continue;
            };
            match decide(first, lines, &entries) {
                Change::Keep => {}
                Change::Remove => heap::delete(table(), &row),
                Change::Replace(first, lines, entries) => {
                    heap::delete(table(), &row);
                    insert(org, first, lines, &entries);
                }
            }
        }
    });
}
