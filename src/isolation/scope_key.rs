//! A resource named by its table and its key as text, as rules name it.

use super::route::Leaves;
use super::scope::{self, Cell, Form};
use super::table::{self, Table};
use crate::access::scopes::{Access, Scopes};
use crate::context::authority::{self, Id};
use crate::pg::key::Keys;
use crate::pg::lookup::When;
use crate::pg::probe::{Cast, Probe, ProbeKey};
use crate::pg::query::{Arg, latest};
use crate::pg::trigger::RowImage;
use crate::pg::value::{self, Value};
use crate::pg::{self, canonical, catalog, fail, primary_key};
use pgrx::prelude::*;
use std::cell::Cell as Slot;
use std::rc::Rc;

/// The table, and the type of resource that its rows are.
fn of_resources(relid: pg_sys::Oid) -> pg::Result<(Rc<Table>, String)> {
    let table = table::protected(relid);
    let kind = table
        .as_ref()
        .and_then(|t| t.scoped.as_ref()?.kind().map(str::to_string));
    match (table, kind) {
        (Some(table), Some(kind)) => Ok((table, kind)),
        _ => Err(fail(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!(
                "table \"{}\" has no resources",
                catalog::relation_name(relid)
            ),
        )
        .set_detail("A scope names rows of protected tables that have a resource_type.")
        .set_hint("SELECT table_name, resource_type FROM tenancy.protected_tables shows them.")),
    }
}

/// The type of resource that a table's rows are. Errors: 22023.
pub fn resource_type(relid: pg_sys::Oid) -> pg::Result<String> {
    of_resources(relid).map(|(_, kind)| kind)
}

/// The column's number, its type and the modifier of that.
fn column_of(table: &Table) -> (i16, pg_sys::Oid, i32) {
    let key = table.scoped.as_ref().and_then(|s| s.key());
    let Some((attnum, name)) = key else {
        return (0, pg_sys::TEXTOID, -1);
    };
    latest(
        "SELECT atttypid, atttypmod FROM pg_catalog.pg_attribute
         WHERE attrelid OPERATOR(pg_catalog.=) $1 AND attname OPERATOR(pg_catalog.=) $2::pg_catalog.name",
        &[Arg::Oid(table.relid), Arg::Name(name)],
        |row| {
            (
                *attnum,
                row.get::<pg_sys::Oid>(1).unwrap_or(pg_sys::TEXTOID),
                row.get::<i32>(2).unwrap_or(-1),
            )
        },
    )
    .pop()
    .unwrap_or((0, pg_sys::TEXTOID, -1))
}

/// A key as the column would show it: '007' of a number is '7'. Errors: 22023 no table of resources, and what the type's own
/// input says of other text.
pub fn resource_key(relid: pg_sys::Oid, key: &str) -> pg::Result<String> {
    let (table, _) = of_resources(relid)?;
    let (_, type_id, modifier) = column_of(&table);
    let value = value::input(key, type_id, modifier);
    Ok(canonical::output(|| value::output(&value, type_id)))
}

/// How far rules reach the resource with this key; without rules all of the organization is reached. None where there are
/// rules, none of them for this one, and no such row of the organization that would lead to another.
pub fn reach_by_key(
    org: &Id,
    scopes: Option<&Scopes>,
    relid: pg_sys::Oid,
    key: &str,
) -> pg::Result<Option<Access>> {
    let (table, kind) = of_resources(relid)?;
    let Some(scopes) = scopes else {
        return Ok(Some(Access::Full));
    };
    let (attnum, type_id, modifier) = column_of(&table);
    let value = value::input(key, type_id, modifier);
    let cell = Cell {
        value,
        form: Form::of(type_id),
    };
    if let Some(access) = cell.key().and_then(|key| scopes.rule(&kind, &key)) {
        return Ok(Some(access));
    }
    let Some(org) = authority::org_by_id(org) else {
        return Ok(None);
    };
    let org = org.keys();
    Ok(find(&table, attnum, &value, org, |table, row| {
        scope::reach_of(scopes, table, row, org, When::OfStatement)
    }))
}

/// What `read` makes of the organization's row with this key.
fn find<T>(
    table: &Table,
    attnum: i16,
    key: &Value,
    org: &Keys,
    read: impl Fn(&Table, &RowImage) -> T,
) -> Option<T> {
    let (probe, columns) = probe_of(table)?;
    let mut values = vec![];
    for column in &columns {
        values.push(if *column == attnum {
            *key
        } else {
            let datum = org.datum(table.org_kind)?;
            table.org_kind.value(datum, false)
        });
    }
    let leaves = Leaves::of(&probe);
    let when = When::OfStatement;
    scope::read_row(&probe, leaves.as_ref(), &values, org, when, read)
}

/// What `read` makes of the organization's row with this primary key, whose values are of the columns' own types, as the
/// newest snapshot has it: whoever asks, and whatever he sees.
pub fn read_by_key<T>(
    table: &Table,
    key: &[Value],
    org: &Keys,
    read: impl Fn(&Table, &RowImage) -> T,
) -> Option<T> {
    let (probe, columns) = probe_of(table)?;
    if columns.len() != key.len() || key.iter().any(|value| value.null) {
        return None;
    }
    let leaves = Leaves::of(&probe);
    scope::read_row(&probe, leaves.as_ref(), key, org, When::Newest, read)
}

/// How a row is looked up by the primary key, and the key's columns.
fn probe_of(table: &Table) -> Option<(Probe, Vec<i16>)> {
    let primary = primary_key::of(table.relid)?;
    let columns = primary.columns.iter().map(|column| column.attnum).collect();
    let keys = (1..)
        .zip(primary.columns)
        .map(|(index_column, column)| ProbeKey {
            index_column,
            operator: column.equals,
            parent_column: column.name,
            cast: Cast::None,
            resolved: Slot::new(None),
        });
    let probe = Probe {
        constraint: pg_sys::InvalidOid,
        parent: table.relid,
        index: primary.index,
        org: table::org_column_of(table.relid),
        keys: keys.collect(),
    };
    Some((probe, columns))
}
