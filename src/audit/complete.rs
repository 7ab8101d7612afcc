//! verify_completeness(): what the log says a table's rows are, against the rows (spec 6.4). A change that was made behind
//! the audit's back (a trigger switched off by a superuser, a heap edited) is in one and not in the other.
//!
//! The log is folded by the rows' keys. Where that would take more memory than is reasonable, the keys are taken in
//! several rounds, each by a part of their hashes: the log and the table are read once for each.

use super::encode;
use super::layouts::{Captured, Known};
use super::read::{Filter, read};
use super::show::Chunk;
use crate::context::authority::Id;
use crate::context::keys;
use crate::isolation::{self, Table};
use crate::pg::srf::Sink;
use crate::pg::trigger::{Event, RowImage};
use crate::pg::value::Deformed;
use crate::pg::{self, fail, horizon, scan};
use pg_tenancy_audit_format::read::{self as format, Body, Field, Fields};
use pg_tenancy_audit_format::{Layout, Operation, put_bytes, put_text};
use pgrx::datum::Uuid;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use rustc_hash::FxHasher;
use serde_json::{Map, Value as Json};
use std::collections::HashMap;
use std::hash::Hasher as _;
use std::rc::Rc;

crate::pg::finfo!(pg_finfo_tenancy_verify_completeness);

/// `tenancy.verify_completeness(table_name, org)`: a row for everything in which an organization's rows of a protected table
/// and its log differ (spec 6.4). `org`: NULL: the current one. Needs org:audit. unlogged: a row of which the log knows
/// nothing (also one that was there before the audit began); altered: a row with another value than the last one logged;
/// vanished: a row that is gone without a DELETE in the log. Errors: 42501 no right, 55000 the table is not protected and
/// audited, or has no primary key.
///
/// SAFETY: called by PostgreSQL's function manager with the two arguments that sql/60_audit_seal.sql declares.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_verify_completeness(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own; each argument is read as the type it is declared with.
    let (table, org, mut sink) = unsafe {
        let args = (*fcinfo).args.as_slice(2);
        (
            pg_sys::Oid::from_datum(args[0].value, args[0].isnull),
            Uuid::from_datum(args[1].value, args[1].isnull),
            Sink::new(fcinfo),
        )
    };
    let run = |sink: &mut Sink| {
        let org = super::seal::api::audited(org)?;
        let tables = tables(pg::given(table, "table_name")?)?;
        super::flush();
        horizon::with_latest_snapshot(|_| compare(&org, &tables, sink))
    };
    run(&mut sink).unwrap_or_report();
    pg_sys::Datum::from(0)
}

/// The table and its partitions, which the log calls by one name.
fn tables(relid: pg_sys::Oid) -> pg::Result<Vec<Rc<Table>>> {
    let unfit = |detail: &str| {
        fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the table's rows cannot be compared with the audit log",
        )
        .set_detail(detail)
        .set_hint("SELECT * FROM tenancy.protected_tables; shows which tables are audited.")
    };
    let table = isolation::protected(relid)
        .filter(|t| t.options.audit)
        .ok_or_else(|| unfit("It is not a protected table that is audited."))?;
    if table.key.is_empty() {
        return Err(unfit(
            "It has no primary key, by which a row and its lines would be told from others.",
        ));
    }
    Ok(isolation::members(relid)
        .into_iter()
        .filter_map(isolation::protected)
        .filter(|member| member.object == table.object)
        .collect())
}

/// So many bytes of rows are folded at once, about.
const AT_ONCE: u64 = 64 << 20;

fn compare(org: &Id, tables: &[Rc<Table>], sink: &mut Sink) -> pg::Result<()> {
    let pages: u64 = tables.iter().map(|t| u64::from(scan::pages(t.relid))).sum();
    let rounds = (pages * u64::from(pg_sys::BLCKSZ)).div_ceil(AT_ONCE).max(1);
    for round in 0..rounds {
        let mine = |key: &[u8]| {
            let mut hasher = FxHasher::default();
            hasher.write(key);
            // The low bits of this hash are its weak ones.
            (hasher.finish() >> 32) % rounds == round
        };
        let mut rows = Rows::default();
        let filter = Filter::of_object(tables[0].object.clone());
        read(org, &filter, |line| rows.fold(line, &mine))?;
        for table in tables {
            live(org, table, &mut rows, &mine, sink)?;
        }
        for row in rows.0.into_values() {
            put(
                sink,
                "vanished",
                &row.key,
                "The row is gone, and the log holds no DELETE of it.",
            )?;
        }
    }
    Ok(())
}

/// A value as the log keeps it, and how.
#[derive(Clone, PartialEq)]
struct Kept {
    encoding: String,
    /// None is NULL.
    value: Option<Vec<u8>>,
}

/// A row as the log left it.
struct Folded {
    key: Json,
    /// By column; those of which the log does not tell are not here.
    columns: HashMap<String, Kept>,
    /// A line about it was erased: what it is now the log does not tell.
    erased: bool,
}

#[derive(Default)]
struct Rows(HashMap<Vec<u8>, Folded>);

impl Rows {
    fn fold(&mut self, line: &Chunk, mine: &impl Fn(&[u8]) -> bool) -> pg::Result<()> {
        let (_, known) = line.layout();
        let Known { format: layout, .. } = known;
        let Some(body) = line.body() else {
            // Nobody can say any more whose it was.
            self.0.values_mut().for_each(|row| row.erased = true);
            return Ok(());
        };
        let body = format::body(layout, body).map_err(|what| {
            super::read::corrupt("a chunk of the audit log cannot be read", what.0)
        })?;
        match body {
            Body::Row {
                operation,
                key,
                new,
                ..
            } => self.row(layout, operation, &key, new.as_ref(), mine),
            Body::Truncate => self.0.clear(),
            Body::Act { .. } => {}
        }
        Ok(())
    }

    fn row(
        &mut self,
        layout: &Layout,
        operation: Operation,
        key: &Fields,
        new: Option<&Fields>,
        mine: &impl Fn(&[u8]) -> bool,
    ) {
        let was = bytes_of(layout, key);
        let before = match operation {
            Operation::Insert => None,
            _ => self.0.remove(&was),
        };
        let (Some(new), true) = (new, operation != Operation::Delete) else {
            return;
        };
        let mut columns = before.map(|row| row.columns).unwrap_or_default();
        for (i, field) in key.iter().chain(new) {
            let column = &layout.columns[*i];
            columns.insert(
                column.name.clone(),
                Kept {
                    encoding: column.encoding.clone(),
                    value: value_of(field),
                },
            );
        }
        // The key may have changed.
        let now: Fields = key
            .iter()
            .map(|(i, field)| {
                let changed = new.iter().find(|(n, _)| n == i);
                (*i, changed.map_or(*field, |(_, field)| *field))
            })
            .collect();
        let bytes = bytes_of(layout, &now);
        if mine(&bytes) {
            let row = Folded {
                key: shown(layout, &now),
                columns,
                erased: false,
            };
            self.0.insert(bytes, row);
        }
    }
}

/// The rows as they are now.
fn live(
    org: &Id,
    table: &Rc<Table>,
    rows: &mut Rows,
    mine: &impl Fn(&[u8]) -> bool,
    sink: &mut Sink,
) -> pg::Result<()> {
    let mut layout = None;
    let (mut place, mut body) = (Deformed::default(), vec![]);
    let mut done = Ok(());
    scan::for_each_seen_row(table.relid, |row| {
        if keys::whose(table.org_kind, &row.value(table.org_attnum)) != Some(*org) {
            return true;
        }
        let layout: &Captured = layout.get_or_insert_with(|| Captured::of(table, row));
        done = one(layout, row, &mut place, &mut body, rows, mine, sink);
        done.is_ok()
    });
    done
}

fn one(
    layout: &Captured,
    row: &RowImage,
    place: &mut Deformed,
    body: &mut Vec<u8>,
    rows: &mut Rows,
    mine: &impl Fn(&[u8]) -> bool,
    sink: &mut Sink,
) -> pg::Result<()> {
    row.take_apart(place);
    body.clear();
    let empty = Deformed::default();
    encode::row(layout, Event::Insert, &empty, place, body);
    let format = &layout.format;
    let Ok(Body::Row {
        key,
        new: Some(now),
        ..
    }) = format::body(format, body)
    else {
        return Ok(());
    };
    let bytes = bytes_of(format, &key);
    if !mine(&bytes) {
        return Ok(());
    }
    let Some(logged) = rows.0.remove(&bytes) else {
        return put(
            sink,
            "unlogged",
            &shown(format, &key),
            "The log knows nothing of the row: it was written behind the audit's back, or before the audit began.",
        );
    };
    if logged.erased {
        return Ok(());
    }
    let differs: Vec<&str> = now
        .iter()
        .filter_map(|(i, field)| {
            let column = &format.columns[*i];
            // A column that was added, renamed or given another type since says nothing.
            let known = logged.columns.get(&column.name)?;
            (known.encoding == column.encoding && known.value != value_of(field))
                .then_some(column.name.as_str())
        })
        .collect();
    if differs.is_empty() {
        return Ok(());
    }
    let detail = format!("Not what the log says last of it: {}.", differs.join(", "));
    put(sink, "altered", &logged.key, &detail)
}

fn put(sink: &mut Sink, finding: &str, key: &Json, detail: &str) -> pg::Result<()> {
    sink.put(|| {
        Ok([
            finding.into_datum(),
            pgrx::JsonB(key.clone()).into_datum(),
            detail.into_datum(),
        ])
    })
}

fn value_of(field: &Field) -> Option<Vec<u8>> {
    match field {
        Field::Null => None,
        // The organization whose log it is: alike on both sides.
        Field::Org => Some(vec![]),
        Field::Integer(n) => Some(n.to_le_bytes().to_vec()),
        Field::Bytes(bytes) => Some(bytes.to_vec()),
    }
}

/// A key as bytes that are alike for alike keys, whatever else the table has had for columns.
fn bytes_of(layout: &Layout, key: &Fields) -> Vec<u8> {
    let mut parts: Vec<_> = key
        .iter()
        .map(|(i, field)| (&layout.columns[*i], value_of(field)))
        .collect();
    parts.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    let mut bytes = vec![];
    for (column, value) in parts {
        put_text(&mut bytes, &column.name);
        put_bytes(&mut bytes, &value.unwrap_or_default());
    }
    bytes
}

/// A key for people: numbers and texts as they are, what else there is in hexadecimal digits.
fn shown(layout: &Layout, key: &Fields) -> Json {
    let mut object = Map::new();
    for (i, field) in key {
        let column = &layout.columns[*i];
        let value = match field {
            Field::Null => Json::Null,
            Field::Org => "(the organization)".into(),
            Field::Integer(n) => (*n).into(),
            Field::Bytes(bytes) => match column.encoding.as_str() {
                "uuid" => uuid::Uuid::from_slice(bytes)
                    .map(|u| u.hyphenated().to_string())
                    .unwrap_or_default()
                    .into(),
                "text" | "varchar" | "bpchar" | "name" | "as text" => {
                    String::from_utf8_lossy(bytes).into()
                }
                _ => super::seal::api::hex(bytes).into(),
            },
        };
        object.insert(column.name.clone(), value);
    }
    Json::Object(object)
}
