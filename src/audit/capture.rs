//! What goes into the log: every written row of an audited table, and every governance act, appended to the table of
//! the organization that the row itself names.

use super::store;
use crate::context;
use crate::context::authority::Id;
use crate::context::settings::{self, Setting};
use crate::isolation::Table;
use crate::pg::query::run;
use crate::pg::trigger::{Event, RowImage};
use crate::pg::{heap, identity, transaction, value};
use pgrx::JsonB;
use pgrx::datum::{Inet, Uuid};
use pgrx::prelude::*;
use serde_json::Value;
use std::cell::Cell;

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
    let unchanged: Vec<&str> = match (old, new) {
        (Some(old), Some(new)) => table
            .columns
            .iter()
            .filter(|(attnum, _)| old.value(*attnum).same(&new.value(*attnum)))
            .map(|(_, name)| name.as_str())
            .collect(),
        _ => vec![],
    };
    if event == Event::Update && unchanged.len() == table.columns.len() {
        return;
    }
    let beside_key: Vec<&str> = table
        .columns
        .iter()
        .filter(|(attnum, _)| !table.key.contains(attnum))
        .map(|(_, name)| name.as_str())
        .collect();
    let old_json = old.map(|row| row.to_jsonb());
    let new_json = new.map(|row| row.to_jsonb());
    // A changed primary key is found under what it was; old and new say what it became.
    let key = (!table.key.is_empty())
        .then(|| old_json.or(new_json))
        .flatten()
        .map(|row| value::jsonb_without(row, &beside_key));
    append(Line {
        org,
        operation: event.name(),
        object: &table.object,
        key,
        old: old_json.map(|row| value::jsonb_without(row, &unchanged)),
        new: new_json.map(|row| value::jsonb_without(row, &unchanged)),
        break_glass,
    });
}

/// A TRUNCATE under break-glass: a line in the log of every organization that loses rows by it.
pub fn record_truncate(table: &Table) {
    let losers = run(
        &format!(
            "SELECT DISTINCT t.{} FROM {} AS t JOIN tenancy.orgs AS o ON o.id OPERATOR(pg_catalog.=) t.{}",
            pgrx::spi::quote_identifier(&table.options.org_column),
            table.object,
            pgrx::spi::quote_identifier(&table.options.org_column),
        ),
        &[],
        |row| row.uuid(1),
    );
    for org in losers.into_iter().flatten() {
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

fn append(line: Line) {
    let now = context::standing();
    let n = NEXT.get();
    NEXT.set(n + 1);
    let db_role = identity::role_name(identity::session_user()).unwrap_or_default();
    let text = |t: &str| t.into_datum();
    let table = store::table_for(&line.org);
    heap::append(
        table,
        &[
            Some(transaction::now().into()),
            Uuid::from_bytes(line.org).into_datum(),
            now.user.and_then(|u| Uuid::from_bytes(u).into_datum()),
            text(now.actor_type),
            None,
            Some(value::name_datum(&db_role)),
            text(line.operation),
            text(line.object),
            line.key,
            line.old,
            line.new,
            text("completed"),
            client_addr(&now.principal).and_then(|a| Inet(a).into_datum()),
            settings::text(Setting::RequestId).and_then(|r| r.into_datum()),
            Some(pg_sys::Datum::from(transaction::full_id())),
            n.into_datum(),
            line.break_glass.into_datum(),
        ],
    );
}

/// The connection's address, or the one that a trusted application names for its user. NULL on a unix socket.
fn client_addr(principal: &context::Principal) -> Option<String> {
    if matches!(
        principal,
        context::Principal::Application { .. } | context::Principal::Dba
    ) && let Some(named) = settings::text(Setting::ClientAddr)
    {
        return named
            .parse::<std::net::IpAddr>()
            .ok()
            .map(|a| a.to_string());
    }
    identity::client_address()
}
