//! A stored line as the reader sees it.

use super::layouts::{self, Known};
use super::read::{Filter, corrupt};
use crate::context::authority::Id;
use crate::pg::raw::Target;
use crate::pg::scan::Found;
use crate::pg::srf::{self, Sink};
use crate::pg::{self, canonical, json};
use pg_tenancy_audit_format::read::{
    self as format, Body, Content, Corrupt, Field, Fields, Line, Reader,
};
use pg_tenancy_audit_format::{Author, Digest, Moment, Operation};
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
    org: Id,
    author: Author,
    payload: Vec<u8>,
    layouts: Vec<Rc<Known>>,
    contexts: Vec<Digest>,
    reader: Reader,
    line: Option<Line>,
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
            xid: row.get::<i64>(2).unwrap_or_default() as u64,
            n: row.get(3).unwrap_or_default(),
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
            org,
            author,
            layouts,
            payload,
            reader,
            line: None,
        })
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
        Ok(self.line.is_some())
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

    /// The line's body; None where it was erased.
    fn body(&self) -> Option<&[u8]> {
        match &self.line().content {
            Content::Body { body, .. } => Some(&self.payload[body.clone()]),
            Content::Erased => None,
        }
    }

    fn damaged(&self, what: Corrupt) -> ErrorReport {
        damaged(self.first, what)
    }

    /// When the line is of.
    pub fn at(&self) -> i64 {
        self.line().moment.at
    }

    /// Hands the line out, a tenancy.audit_entry.
    pub fn show(&self, sink: &mut Sink) -> pg::Result<()> {
        let known = &*self.layouts[self.line().layout];
        let body = self.body().map(|body| format::body(&known.format, body));
        let body = body.transpose().map_err(|what| self.damaged(what))?;
        let uuid = |id: &Option<Id>| id.and_then(|id| Uuid::from_bytes(id).into_datum());
        let text = |t: &Option<String>| t.as_deref().and_then(|t| t.into_datum());
        let author = &self.author;
        sink.put(|| {
            let shown = self.what(known, body.as_ref())?;
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

    fn what<'a>(&self, known: &'a Known, body: Option<&Body<'a>>) -> pg::Result<Shown<'a>> {
        let row = |fields: &Fields| canonical::output(|| object(known, fields, &self.org));
        let json = |text: &str| {
            json::attempt(|| json::parsed(text))
                .ok_or_else(|| self.damaged(Corrupt("what an act says is no JSON")))
        };
        let mut shown = Shown {
            operation: Operation::of(self.line().operation)
                .and_then(Operation::name)
                .unwrap_or_default(),
            object: known.format.object.as_str(),
            ..Shown::default()
        };
        match body {
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
    let org_text = uuid::Uuid::from_bytes(*org).hyphenated().to_string();
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

fn put(object: &mut json::Object, target: &Target, bytes: &[u8]) {
    if target.is_text() && json::holds(bytes.len()) {
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
