//! A stored line as the reader sees it.

use super::layouts::{self, Known};
use super::read::{Filter, corrupt};
use crate::context::authority::Id;
use crate::pg::raw::Target;
use crate::pg::scan::Found;
use crate::pg::srf::{self, Sink};
use crate::pg::{self, json};
use pg_tenancy_audit_format::read::{self as format, Body, Corrupt, Field, Fields, Head};
use pg_tenancy_audit_format::{Author, Moment, Operation};
use pgrx::datum::{Inet, Uuid};
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
    /// Where the line after this one begins.
    next: usize,
    line: Line,
}

/// The line that a chunk stands at.
#[derive(Default)]
struct Line {
    at: i64,
    n: i32,
    layout: usize,
    /// Its body, in the payload.
    body: std::ops::Range<usize>,
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
        let Head { layouts, size, .. } = format::head(&payload).map_err(damaged)?;
        Ok(Chunk {
            first: Moment {
                at: first(row),
                xid: row.get::<i64>(2).unwrap_or_default() as u64,
                n: row.get(3).unwrap_or_default(),
            },
            org: uuid(5).unwrap_or_default(),
            author: Author {
                actor: uuid(6),
                approver: uuid(7),
                break_glass: row.get(8).unwrap_or_default(),
                actor_type: text(9).unwrap_or_default(),
                db_role: text(10).unwrap_or_default(),
                result: text(11).unwrap_or_default(),
                client_addr: text(12),
                request_id: text(13),
            },
            layouts: layouts
                .iter()
                .map(layouts::known)
                .collect::<pg::Result<_>>()?,
            payload,
            next: size,
            line: Line::default(),
        })
    }

    /// Moves to the next line that the filter lets through; false after the last.
    pub fn advance(&mut self, filter: &Filter) -> pg::Result<bool> {
        while let Some(line) = format::line(&self.payload, &mut self.next).map_err(damaged)? {
            let end = self.next;
            let start = end - line.body.len();
            let far = damaged(Corrupt("a line's time or number is out of range"));
            let (Some(at), Some(n)) = (
                self.first.at.checked_add(line.since),
                self.first.n.checked_add(line.after),
            ) else {
                return Err(far);
            };
            let layout = self
                .layouts
                .get(line.layout)
                .ok_or_else(|| damaged(Corrupt("a line names a layout that its chunk does not")))?;
            if filter.at(at) && filter.line(layout, line.body).map_err(damaged)? {
                self.line = Line {
                    at,
                    n,
                    layout: line.layout,
                    body: start..end,
                };
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn moment(&self) -> Moment {
        Moment {
            at: self.line.at,
            n: self.line.n,
            xid: self.first.xid,
        }
    }

    /// When the line is of.
    pub fn at(&self) -> i64 {
        self.line.at
    }

    /// Hands the line out, a tenancy.audit_entry.
    pub fn show(&self, sink: &mut Sink) -> pg::Result<()> {
        let known = &*self.layouts[self.line.layout];
        let body =
            format::body(&known.format, &self.payload[self.line.body.clone()]).map_err(damaged)?;
        let uuid = |id: &Option<Id>| id.and_then(|id| Uuid::from_bytes(id).into_datum());
        let text = |t: &Option<String>| t.as_deref().and_then(|t| t.into_datum());
        let author = &self.author;
        sink.put(|| {
            let (operation, object, key, old, new) = self.what(known, &body);
            [
                Some(self.line.at.into()),
                uuid(&Some(self.org)),
                uuid(&author.actor),
                author.actor_type.as_str().into_datum(),
                uuid(&author.approver),
                srf::name(&author.db_role),
                operation.into_datum(),
                object.into_datum(),
                key,
                old,
                new,
                author.result.as_str().into_datum(),
                author
                    .client_addr
                    .clone()
                    .and_then(|a| Inet(a).into_datum()),
                text(&author.request_id),
                Some(self.first.xid.into()),
                self.line.n.into_datum(),
                author.break_glass.into_datum(),
            ]
        });
        Ok(())
    }

    /// Operation, object, key, old and new.
    #[allow(clippy::type_complexity, reason = "five columns of a line, in order")]
    fn what<'a>(
        &self,
        known: &'a Known,
        body: &Body<'a>,
    ) -> (
        &'a str,
        &'a str,
        Option<pg_sys::Datum>,
        Option<pg_sys::Datum>,
        Option<pg_sys::Datum>,
    ) {
        let table = known.format.object.as_str();
        let row = |fields: &Fields| object(known, fields, &self.org);
        match body {
            Body::Row {
                operation,
                key,
                old,
                new,
            } => (
                operation.name().unwrap_or_default(),
                table,
                (!key.is_empty()).then(|| row(key)),
                old.as_ref().map(row),
                new.as_ref().map(row),
            ),
            Body::Truncate => ("TRUNCATE", table, None, None, None),
            Body::Act {
                operation,
                object,
                key,
                old,
                new,
            } => (
                operation,
                object,
                Some(json::parsed(key)),
                old.map(json::parsed),
                new.map(json::parsed),
            ),
        }
    }
}

/// When the first line of a row's chunk is of.
pub fn first(row: &Found) -> i64 {
    row.get::<TimestampWithTimeZone>(1)
        .map(i64::from)
        .unwrap_or_default()
}

fn damaged(what: Corrupt) -> pgrx::pg_sys::panic::ErrorReport {
    corrupt("a chunk of the audit log cannot be read", what.0)
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
        other.moment().cmp(&self.moment())
    }
}

/// Whether an operation's name is the filter's.
pub fn is_operation(body: &[u8], wanted: &str) -> Result<bool, Corrupt> {
    let operation = format::operation(body)?;
    match operation {
        Operation::Act => Ok(format::act_names(body)?.0 == wanted),
        _ => Ok(operation.name() == Some(wanted)),
    }
}

/// Whether an object's name is the filter's.
pub fn is_object(known: &Known, body: &[u8], wanted: &str) -> Result<bool, Corrupt> {
    match format::operation(body)? {
        Operation::Act => Ok(format::act_names(body)?.1 == wanted),
        _ => Ok(known.format.object == wanted),
    }
}

/// The identity of a chunk: its first line's.
pub fn moment(row: &Found) -> Moment {
    Moment {
        at: first(row),
        xid: row.get::<i64>(2).unwrap_or_default().cast_unsigned(),
        n: row.get(3).unwrap_or_default(),
    }
}

pub fn payload(row: &Found) -> Vec<u8> {
    row.get(14).unwrap_or_default()
}
