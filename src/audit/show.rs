//! A stored line as the reader sees it.

use super::layouts::{self, Known};
use super::read::{Filter, corrupt};
use crate::context::authority::{Id, id_text};
use crate::pg::raw::Target;
use crate::pg::scan::Found;
use crate::pg::srf::{self, Sink};
use crate::pg::{self, canonical, json};
use pg_tenancy_audit_format::read::{
    self as format, Body, Content, Corrupt, Field, Fields, Line, Reader,
};
use pg_tenancy_audit_format::{Author, Digest, LayoutId, Moment, Operation, iso_time};
use pgrx::datum::{Inet, Uuid};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::cmp::Ordering;
use std::rc::Rc;

/// An object of this size may be more than jsonb holds: a bytea's text is twice as long, a short integer's eight times.
const LARGE: usize = 8 << 20;
/// Where it is, what is larger than this is left out of it.
const SHOWN: usize = 64 << 10;

/// A chunk that is being read, at one of its lines.
pub struct Chunk {
    first: Moment,
    lines: i32,
    org: Id,
    author: Author,
    payload: Vec<u8>,
    layouts: Vec<Rc<Known>>,
    contexts: Vec<Digest>,
    reader: Reader,
    line: Option<Line>,
    /// How many lines were read.
    read: u64,
}

/// Whose author a row of an audit table names, without a look at its lines.
pub fn actor_of(row: &Found) -> Option<Id> {
    row.get::<Uuid>(6).map(|u| *u.as_bytes())
}

impl Chunk {
    /// The chunk in a row of an audit table, before its first line.
    pub fn load(row: &Found) -> pg::Result<Chunk> {
        let uuid = |n| row.get::<Uuid>(n).map(|u| *u.as_bytes());
        let text = |n| row.get::<String>(n);
        let payload = row.get::<Vec<u8>>(14).unwrap_or_default();
        let first = Moment {
            at: first(row),
            xid: xid(row),
            n: n(row),
        };
        let lines = row.get(4).unwrap_or_default();
        let reader = Reader::new(&payload, first, lines).map_err(|what| damaged(first, what))?;
        let org = uuid(5).unwrap_or_default();
        let author = Author {
            actor: uuid(6),
            approver: uuid(7),
            break_glass: row.get(8).unwrap_or_default(),
            actor_type: text(9).unwrap_or_default(),
            db_role: text(10).unwrap_or_default(),
            result: text(11).unwrap_or_default(),
            client_addr: text(12),
            request_id: text(13),
        };
        let layouts = reader.layouts.iter().map(layouts::known);
        let layouts = layouts.collect::<pg::Result<Vec<_>>>()?;
        Ok(Chunk {
            contexts: layouts
                .iter()
                .map(|known| author.context(&known.format.digest, &org))
                .collect(),
            first,
            lines,
            org,
            author,
            layouts,
            payload,
            reader,
            line: None,
            read: 0,
        })
    }

    /// Whether one of its lines may be what the filter lets through: of a chunk without the table no line is looked at.
    pub fn may_hold(&self, filter: &Filter) -> bool {
        let mut layouts = self.layouts.iter();
        layouts.any(|known| filter.layout(&known.format.object))
    }

    /// Moves to the next line that the filter lets through; false after the last.
    pub fn advance(&mut self, filter: &Filter) -> pg::Result<bool> {
        while self.next()? {
            if self.is_wanted(filter)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Moves to the next line, which is compared with its hash; false after the last.
    pub fn next(&mut self) -> pg::Result<bool> {
        let line = self.reader.next(&self.payload, &self.contexts);
        self.line = line.map_err(|what| self.damaged(what))?;
        self.read += u64::from(self.line.is_some());
        Ok(self.line.is_some())
    }

    /// Moves to the next line, and answers whether it matches its hash; None after the last.
    pub fn compare(&mut self) -> Result<Option<(&Line, bool)>, Corrupt> {
        let found = self.reader.compare(&self.payload, &self.contexts)?;
        let matches = found.as_ref().is_some_and(|(_, matches)| *matches);
        self.line = found.map(|(line, _)| line);
        Ok(self.line.as_ref().map(|line| (line, matches)))
    }

    fn is_wanted(&self, filter: &Filter) -> pg::Result<bool> {
        let line = self.line();
        if !filter.at(line.moment.at) {
            return Ok(false);
        }
        let object = self.layouts[line.layout].format.object.as_str();
        let names = match Operation::of(line.operation) {
            Some(Operation::Act) => match self.body() {
                Some(body) => format::act_names(body).map_err(|what| self.damaged(what))?,
                None => ("", ""),
            },
            operation => (operation.and_then(Operation::name).unwrap_or(""), object),
        };
        Ok(filter.line(names))
    }

    /// The line that it stands at.
    pub fn line(&self) -> &Line {
        self.line.as_ref().expect("it was moved to one")
    }

    /// The chunk's identity, and how many of its lines come before the one that it stands at.
    pub fn place(&self) -> (Moment, u64) {
        (self.first, self.reader.seen().saturating_sub(1))
    }

    /// The layout of the line that it stands at.
    pub fn layout(&self) -> (LayoutId, &Known) {
        let place = self.line().layout;
        (self.reader.layouts[place], &self.layouts[place])
    }

    pub fn org(&self) -> &Id {
        &self.org
    }

    pub fn is_erased(&self) -> bool {
        self.line().content == Content::Erased
    }

    pub fn is_truncate(&self) -> bool {
        self.line().operation == Operation::Truncate as u8
    }

    /// What happened to the row; empty for a governance act.
    pub fn operation(&self) -> &'static str {
        let operation = Operation::of(self.line().operation);
        operation.and_then(Operation::name).unwrap_or_default()
    }

    /// The line's body; None where it was erased.
    pub fn body(&self) -> Option<&[u8]> {
        match &self.line().content {
            Content::Body { body, .. } => Some(&self.payload[body.clone()]),
            Content::Erased => None,
        }
    }

    /// Its first line, and how many lines it says that it has.
    pub fn identity(&self) -> (Moment, i32) {
        (self.first, self.lines)
    }

    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    pub fn contexts(&self) -> &[Digest] {
        &self.contexts
    }

    pub fn damaged(&self, what: Corrupt) -> ErrorReport {
        damaged(self.first, what)
    }

    /// When the line is of.
    pub fn at(&self) -> i64 {
        self.line().moment.at
    }

    /// The same to the line: no other has it.
    pub fn moment(&self) -> Moment {
        self.line().moment
    }

    /// Hands the line out, a tenancy.audit_entry.
    pub fn show(&self, sink: &mut Sink) -> pg::Result<()> {
        let uuid = |id: &Option<Id>| id.and_then(|id| Uuid::from_bytes(id).into_datum());
        let text = |t: &Option<String>| t.as_deref().and_then(|t| t.into_datum());
        let author = &self.author;
        sink.put(|| {
            let shown = self.shown()?;
            let client_addr = author.client_addr.clone();
            Ok([
                Some(self.line().moment.at.into()),
                uuid(&Some(self.org)),
                uuid(&author.actor),
                author.actor_type.as_str().into_datum(),
                uuid(&author.approver),
                srf::name(&author.db_role),
                shown.operation.into_datum(),
                shown.object.into_datum(),
                shown.key,
                shown.old,
                shown.new,
                author.result.as_str().into_datum(),
                client_addr.and_then(|a| Inet(a).into_datum()),
                text(&author.request_id),
                Some(self.first.xid.into()),
                self.line().moment.n.into_datum(),
                author.break_glass.into_datum(),
            ])
        })
    }

    /// The line's body, taken apart; None where it was erased.
    fn parsed(&self) -> pg::Result<Option<Body<'_>>> {
        let (_, known) = self.layout();
        let body = self.body().map(|body| format::body(&known.format, body));
        body.transpose().map_err(|what| self.damaged(what))
    }

    /// The line as text.
    pub fn entry(&self) -> pg::Result<Entry<'_>> {
        let shown = self.shown()?;
        let at = self.line().moment.at;
        let uuid = |id: &Id| uuid::Uuid::from_bytes(*id).hyphenated().to_string();
        let json = |value: Option<pg_sys::Datum>| value.map(json::text);
        Ok(Entry {
            at: iso_time(at),
            microseconds: at,
            org: uuid(&self.org),
            actor: self.author.actor.as_ref().map(uuid),
            approver: self.author.approver.as_ref().map(uuid),
            author: &self.author,
            operation: shown.operation,
            object: shown.object,
            key: json(shown.key),
            old: json(shown.old),
            new: json(shown.new),
            xid: self.first.xid,
            n: self.line().moment.n,
        })
    }

    /// The key that the row had before the line, and the one that it has after it where that is another; None where the
    /// line names no row.
    pub fn keys(&self) -> pg::Result<Option<(String, Option<String>)>> {
        let keys = self.key_fields()?;
        Ok(keys.map(|(before, after)| {
            let after = after.map(|key| self.key_text(&key));
            (self.key_text(&before), after)
        }))
    }

    /// A key of the line's layout as JSON.
    pub fn key_text(&self, key: &Fields) -> String {
        json::text(object(self.layout().1, key, &self.org))
    }

    /// `keys` as they are stored.
    pub fn key_fields(&self) -> pg::Result<Option<(Fields<'_>, Option<Fields<'_>>)>> {
        let Some(Body::Row { key, new, .. }) = self.parsed()? else {
            return Ok(None);
        };
        if key.is_empty() {
            return Ok(None);
        }
        let changed = |i: usize| new.iter().flatten().find(|(n, _)| *n == i);
        let mut after = key.clone();
        let mut moved = false;
        if self.line().operation == Operation::Update as u8 {
            for (i, value) in &mut after {
                if let Some((_, new)) = changed(*i) {
                    *value = *new;
                    moved = true;
                }
            }
        }
        Ok(Some((key, moved.then_some(after))))
    }

    fn shown(&self) -> pg::Result<Shown<'_>> {
        let (_, known) = self.layout();
        let row = |fields: &Fields| canonical::output(|| object(known, fields, &self.org));
        let json = |text: &str| {
            json::attempt(|| json::parsed(text))
                .ok_or_else(|| self.damaged(Corrupt("what an act says is no JSON")))
        };
        let mut shown = Shown {
            operation: self.operation(),
            object: known.format.object.as_str(),
            ..Shown::default()
        };
        match &self.parsed()? {
            None | Some(Body::Truncate) => {}
            Some(Body::Row { key, old, new, .. }) => {
                shown.key = (!key.is_empty()).then(|| row(key));
                shown.old = old.as_ref().map(row);
                shown.new = new.as_ref().map(row);
            }
            Some(Body::Act {
                operation,
                object,
                key,
                old,
                new,
            }) => {
                shown.operation = operation;
                shown.object = object;
                shown.key = Some(json(key)?);
                shown.old = old.map(json).transpose()?;
                shown.new = new.map(json).transpose()?;
            }
        }
        Ok(shown)
    }
}

/// A line as text: what is JSON as JSON.
pub struct Entry<'a> {
    pub at: String,
    pub microseconds: i64,
    pub org: String,
    pub actor: Option<String>,
    pub approver: Option<String>,
    pub author: &'a Author,
    pub operation: &'a str,
    pub object: &'a str,
    pub key: Option<String>,
    pub old: Option<String>,
    pub new: Option<String>,
    pub xid: u64,
    pub n: i32,
}

/// What a line says happened.
#[derive(Default)]
struct Shown<'a> {
    operation: &'a str,
    object: &'a str,
    key: Option<pg_sys::Datum>,
    old: Option<pg_sys::Datum>,
    new: Option<pg_sys::Datum>,
}

/// When the first line of a row's chunk is of.
pub fn first(row: &Found) -> i64 {
    row.get::<TimestampWithTimeZone>(1)
        .map(i64::from)
        .unwrap_or_default()
}

fn damaged(first: Moment, what: Corrupt) -> ErrorReport {
    corrupt(
        "a chunk of the audit log cannot be read",
        &format!(
            "In the chunk that begins with line {} of transaction {}: {}.",
            first.n, first.xid, what.0
        ),
    )
}

/// Columns and their values as to_jsonb() of the row gave them.
fn object(known: &Known, fields: &Fields, org: &Id) -> pg_sys::Datum {
    let size: usize = fields
        .iter()
        .map(|(_, field)| match field {
            Field::Bytes(bytes) => bytes.len(),
            _ => 16,
        })
        .sum();
    if size < LARGE {
        return build(known, fields, org, LARGE);
    }
    json::attempt(|| build(known, fields, org, usize::MAX))
        .unwrap_or_else(|| build(known, fields, org, SHOWN))
}

/// Values larger than `shown` bytes are only named.
fn build(known: &Known, fields: &Fields, org: &Id, shown: usize) -> pg_sys::Datum {
    // What the object refers to until it is finished.
    let org_text = id_text(org);
    let notes: Vec<String> = fields
        .iter()
        .filter_map(|(_, field)| match field {
            Field::Bytes(bytes) if bytes.len() > shown => {
                Some(format!("({} bytes: more than jsonb holds)", bytes.len()))
            }
            _ => None,
        })
        .collect();
    let mut notes = notes.iter();
    let mut object = json::Object::new();
    for (i, field) in fields {
        object.key(&known.format.columns[*i].name);
        let target = &known.targets[*i];
        match field {
            Field::Null => object.null(),
            Field::Org => object.text(org_text.as_bytes()),
            Field::Integer(n) => object.jsonb(&target.jsonb_of_integer(*n)),
            Field::Bytes(bytes) if bytes.len() > shown => {
                object.text(notes.next().map_or(&b""[..], |n| n.as_bytes()));
            }
            Field::Bytes(bytes) => put(&mut object, target, bytes),
        }
    }
    object.finish()
}

/// What stands in place of a value that set_audit() masks.
const MASKED: &[u8] = b"(masked)";

fn put(object: &mut json::Object, target: &Target, bytes: &[u8]) {
    if target.is_masked {
        object.text(MASKED);
    } else if target.is_text() && json::holds(bytes.len()) {
        object.text(bytes);
    } else if target.is_json() {
        // The one type whose values jsonb may refuse, whatever their size: they are shown as the text that they are.
        match json::attempt(|| target.jsonb(bytes)) {
            Some(jsonb) => object.jsonb(&jsonb),
            None => object.text(bytes),
        }
    } else {
        object.jsonb(&target.jsonb(bytes));
    }
}

impl PartialEq for Chunk {
    fn eq(&self, other: &Chunk) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Chunk {}

impl PartialOrd for Chunk {
    fn partial_cmp(&self, other: &Chunk) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// By the line that they stand at, the earliest greatest: what a heap gives first.
impl Ord for Chunk {
    fn cmp(&self, other: &Chunk) -> Ordering {
        other.line().moment.cmp(&self.line().moment)
    }
}

/// The identity of a chunk: its first line's.
pub fn moment(row: &Found) -> Moment {
    Moment {
        at: first(row),
        xid: xid(row),
        n: n(row),
    }
}

pub fn xid(row: &Found) -> u64 {
    row.get::<i64>(2).unwrap_or_default().cast_unsigned()
}

pub fn n(row: &Found) -> i32 {
    row.get(3).unwrap_or_default()
}

pub fn payload(row: &Found) -> Vec<u8> {
    row.get(14).unwrap_or_default()
}

pub fn lines(row: &Found) -> i32 {
    row.get(4).unwrap_or_default()
}
