//! What goes into the log: every written row of an audited table, and every governance act, appended to the table of
//! the organization that the row itself names.

use super::store;
use crate::context;
use crate::context::authority::Id;
use crate::context::settings::Setting;
use crate::isolation::Table;
use crate::pg::scan;
use crate::pg::trigger::{Event, RowImage};
use crate::pg::{heap, identity, transaction, value};
use pgrx::JsonB;
use pgrx::datum::{Inet, Uuid};
use pgrx::prelude::*;
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

/// A governance act: who may do what changed.
pub struct Act<'a> {
    pub org: Id,
    pub operation: &'a str,
    pub object: &'a str,
    pub key: Value,
    pub old: Option<Value>,
    pub new: Option<Value>,
}

thread_local! {
    // Numbers the rows of one transaction, across organizations.
    static NEXT: Cell<i32> = const { Cell::new(0) };
}

pub fn at_transaction_end() {
    NEXT.set(0);
    // Their memory was the transaction's.
    AUTHOR.set(None);
    STORE.set(None);
    heap::forget();
}

/// Stores the lines that wait: at the end of each statement, before a read of the log, before commit.
pub fn flush() {
    heap::store_waiting();
}

pub fn at_subtransaction_abort(level: i32) {
    heap::drop_waiting(level);
    STORE.set(None);
}

pub fn record(act: &Act) {
    append(Line {
        org: act.org,
        operation: act.operation,
        object: act.object,
        key: JsonB(act.key.clone()).into_datum(),
        old: act.old.clone().and_then(|v| JsonB(v).into_datum()),
        new: act.new.clone().and_then(|v| JsonB(v).into_datum()),
        break_glass: false,
    });
}

/// One written row: INSERT keeps the new row, DELETE the old one, UPDATE the changed columns of both. An UPDATE that
/// changed nothing leaves nothing.
pub fn capture(
    table: &Table,
    event: Event,
    old: Option<&RowImage>,
    new: Option<&RowImage>,
    break_glass: bool,
) {
    let Some(org) = old
        .or(new)
        .and_then(|row| row.value(table.org_attnum).as_uuid())
    else {
        return;
    };
    let written: Vec<i16> = table
        .columns
        .iter()
        .map(|(attnum, _)| *attnum)
        .filter(|attnum| match (old, new) {
            (Some(old), Some(new)) => !old.value(*attnum).same(&new.value(*attnum)),
            _ => true,
        })
        .collect();
    if written.is_empty() && event == Event::Update {
        return;
    }
    // INSERT and DELETE hold the whole row, and the key with it: the line only names the key's columns, and the reader
    // picks them (converting a key of its own took a tenth of a bulk insert, measured). An UPDATE holds what changed;
    // a changed primary key is found under what it was.
    let key = match (old, new) {
        (Some(old), Some(_)) if !table.key.is_empty() => Some(table.to_jsonb(old, &table.key)),
        _ => table.key_names(),
    };
    append(Line {
        org,
        operation: event.name(),
        object: &table.object,
        key,
        old: old.map(|row| table.to_jsonb(row, &written)),
        new: new.map(|row| table.to_jsonb(row, &written)),
        break_glass,
    });
}

/// A TRUNCATE under break-glass: a line in the log of every organization that loses rows by it.
pub fn record_truncate(table: &Table) {
    let mut losers = BTreeSet::new();
    scan::for_each_row(table.relid, |row| {
        losers.extend(row.value(table.org_attnum).as_uuid());
    });
    for org in losers {
        append(Line {
            org,
            operation: Event::Truncate.name(),
            object: &table.object,
            key: None,
            old: None,
            new: None,
            break_glass: true,
        });
    }
}

struct Line<'a> {
    org: Id,
    operation: &'a str,
    object: &'a str,
    key: Option<pg_sys::Datum>,
    old: Option<pg_sys::Datum>,
    new: Option<pg_sys::Datum>,
    break_glass: bool,
}

/// What all lines of a context have in common, as datums that live as long as this is kept.
struct Author {
    version: u64,
    runner: identity::Runner,
    actor_id: Option<pg_sys::Datum>,
    actor_type: Option<pg_sys::Datum>,
    db_role: pg_sys::Datum,
    client_addr: Option<pg_sys::Datum>,
    request_id: Option<pg_sys::Datum>,
}

thread_local! {
    static AUTHOR: RefCell<Option<Author>> = const { RefCell::new(None) };
    static STORE: Cell<Option<(u64, Id, pg_sys::Oid)>> = const { Cell::new(None) };
}

/// The author as of now; made anew when the context, a setting, the login or the transaction changed.
fn with_author<T>(use_it: impl FnOnce(&Author) -> T) -> T {
    let runner = identity::runner();
    let known = AUTHOR.with_borrow(|a| {
        a.as_ref()
            .is_some_and(|a| a.version == context::version() && a.runner == runner)
    });
    if !known {
        let now = context::standing();
        let version = context::version();
        let name = context::login();
        let address = client_addr(&now.principal);
        let request = context::honoured(&now.principal, Setting::RequestId);
        let author = transaction::in_transaction_memory(|| Author {
            version,
            runner,
            actor_id: now.user.and_then(|u| Uuid::from_bytes(u).into_datum()),
            actor_type: now.actor_type.into_datum(),
            db_role: value::name_datum(&name),
            client_addr: address.and_then(|a| Inet(a).into_datum()),
            request_id: request.and_then(|r| r.into_datum()),
        });
        AUTHOR.set(Some(author));
    }
    AUTHOR.with_borrow(|author| use_it(author.as_ref().expect("just made")))
}

fn store_for(org: &Id) -> pg_sys::Oid {
    match STORE.get() {
        Some((version, known, table)) if version == context::version() && known == *org => table,
        _ => {
            let table = store::table_for(org);
            STORE.set(Some((context::version(), *org, table)));
            table
        }
    }
}

fn append(line: Line) {
    let n = NEXT.get();
    NEXT.set(n + 1);
    let text = |t: &str| t.into_datum();
    let table = store_for(&line.org);
    with_author(|author| {
        heap::append(
            table,
            &[
                Some(transaction::now().into()),
                Uuid::from_bytes(line.org).into_datum(),
                author.actor_id,
                author.actor_type,
                None,
                Some(author.db_role),
                text(line.operation),
                text(line.object),
                line.key,
                line.old,
                line.new,
                text("completed"),
                author.client_addr,
                author.request_id,
                Some(pg_sys::Datum::from(transaction::full_id())),
                n.into_datum(),
                line.break_glass.into_datum(),
            ],
        );
    });
}

/// The connection's address, or the one that a trusted application names for its user. NULL on a unix socket.
fn client_addr(principal: &context::Principal) -> Option<String> {
    if matches!(
        principal,
        context::Principal::Application { .. } | context::Principal::Dba
    ) && let Some(named) = context::honoured(principal, Setting::ClientAddr)
    {
        return named
            .parse::<std::net::IpAddr>()
            .ok()
            .map(|a| a.to_string());
    }
    identity::client_address()
}
