//! What the guards know of a protected table: read from the catalog once per backend, forgotten when it changes.
//!
//! The arguments of the row trigger are the record of protection: they travel with the table through pg_dump, rename
//! and DROP, and need no table of ours to be kept in step.

use super::plan::Options;
use crate::audit::Captured;
use crate::pg::catalog;
use crate::pg::probe::{self, Probe, ProbeKey};
use crate::pg::query::{Arg, latest};
use pgrx::pg_sys;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// A foreign key to another protected table.
#[derive(Debug)]
pub struct GuardedKey {
    pub constraint: pg_sys::Oid,
    pub name: String,
    /// The child's columns, with their names for the error.
    pub columns: Vec<(i16, String)>,
    pub probe: Probe,
}

#[derive(Debug)]
pub struct Table {
    pub relid: pg_sys::Oid,
    /// schema.table, quoted where needed.
    pub object: String,
    pub org_attnum: i16,
    pub options: Options,
    /// Columns with an action of their own.
    pub column_actions: Vec<(i16, String, String)>,
    /// Live columns, in order.
    pub columns: Vec<(i16, String)>,
    /// Those of the primary key; empty where there is none.
    pub key: Vec<i16>,
    pub foreign_keys: Vec<GuardedKey>,
    /// Every table that a key leads to, protected or not: one of them may become so.
    parents: Vec<pg_sys::Oid>,
    /// How its rows stand in the log, once one was written.
    pub layout: OnceCell<Rc<Captured>>,
}

thread_local! {
    static TABLES: RefCell<HashMap<pg_sys::Oid, Option<Rc<Table>>>> = RefCell::default();
    // Tables whose change makes what is remembered wrong: the protected ones and their parents.
    static WATCHED: RefCell<HashSet<pg_sys::Oid>> = RefCell::default();
    static STALE: Cell<bool> = const { Cell::new(false) };
    static LAST: RefCell<Option<Rc<Table>>> = const { RefCell::new(None) };
}

/// From the invalidation callback: no catalog access, no waiting.
pub fn on_invalidation(relid: pg_sys::Oid) {
    let concerns = relid == pg_sys::InvalidOid
        || WATCHED.with(|w| w.try_borrow().map_or(true, |w| w.contains(&relid)));
    if concerns {
        STALE.set(true);
    }
}

/// The table, if it is protected.
pub fn protected(relid: pg_sys::Oid) -> Option<Rc<Table>> {
    if STALE.replace(false) {
        TABLES.take();
        WATCHED.take();
        LAST.take();
    }
    // The rows of one statement ask for one table, again and again.
    if let Some(last) = LAST.with_borrow(|l| l.clone().filter(|t| t.relid == relid)) {
        return Some(last);
    }
    if let Some(known) = TABLES.with_borrow(|t| t.get(&relid).cloned()) {
        LAST.set(known.clone());
        return known;
    }
    WATCHED.with_borrow_mut(|w| w.insert(relid));
    let table = read(relid).map(Rc::new);
    if let Some(table) = &table {
        WATCHED.with_borrow_mut(|w| w.extend(&table.parents));
    }
    // A change heard while reading leaves STALE set: what was read serves this once and is read again.
    TABLES.with_borrow_mut(|t| t.insert(relid, table.clone()));
    table
}

fn read(relid: pg_sys::Oid) -> Option<Table> {
    let guard = catalog::house().guard_row;
    let (object, arguments) = latest(
        "SELECT pg_catalog.quote_ident(n.nspname) OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) pg_catalog.quote_ident(c.relname),
                pg_catalog.convert_from(pg_catalog.substring(t.tgargs, 1, pg_catalog.length(t.tgargs) OPERATOR(pg_catalog.-) 1),
                                        pg_catalog.getdatabaseencoding())
         FROM pg_catalog.pg_trigger AS t
              JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid
              JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE t.tgrelid OPERATOR(pg_catalog.=) $1 AND t.tgfoid OPERATOR(pg_catalog.=) $2",
        &[Arg::Oid(relid), Arg::Oid(guard)],
        |row| {
            (
                row.get::<String>(1).unwrap_or_default(),
                row.get::<String>(2).unwrap_or_default(),
            )
        },
    )
    .pop()?;
    let options = Options::parse(&arguments);
    let columns = columns_of(relid);
    let key = latest(
        "SELECT k.attnum FROM pg_catalog.pg_index AS i,
              pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS k (attnum, n)
         WHERE i.indrelid OPERATOR(pg_catalog.=) $1 AND i.indisprimary
           AND k.n OPERATOR(pg_catalog.<=) i.indnkeyatts ORDER BY k.n",
        &[Arg::Oid(relid)],
        |row| row.get::<i16>(1).unwrap_or_default(),
    );
    let number = |name: &str| columns.iter().find(|(_, n)| n == name).map(|(i, _)| *i);
    let column_actions: Vec<_> = options
        .columns
        .iter()
        .filter_map(|(column, action)| Some((number(column)?, column.clone(), action.clone())))
        .collect();
    // A column with an action of its own that is not found is no reason to let it be written freely.
    let whole = column_actions.len() == options.columns.len();
    let org_attnum = org_column_of(relid).filter(|_| whole).unwrap_or(0);
    let (foreign_keys, parents) = foreign_keys(relid, guard, &columns);
    Some(Table {
        relid,
        object,
        org_attnum,
        column_actions,
        key,
        foreign_keys,
        parents,
        columns,
        options,
        layout: OnceCell::new(),
    })
}

/// The column that our policies compare, by their recorded dependency: right also after it was renamed. None where it
/// is not one uuid column: what the guards then read would not be an id.
pub fn org_column_of(relid: pg_sys::Oid) -> Option<i16> {
    let columns = latest(
        "SELECT DISTINCT d.refobjsubid::pg_catalog.int2
         FROM pg_catalog.pg_policy AS p
              JOIN pg_catalog.pg_depend AS d ON d.objid OPERATOR(pg_catalog.=) p.oid
              JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) p.polrelid
                                               AND a.attnum OPERATOR(pg_catalog.=) d.refobjsubid
                                               AND a.atttypid OPERATOR(pg_catalog.=) 'pg_catalog.uuid'::pg_catalog.regtype
         WHERE p.polrelid OPERATOR(pg_catalog.=) $1 AND p.polname OPERATOR(pg_catalog.=) 'tenancy_select_boundary'
           AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_policy'::pg_catalog.regclass
           AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
           AND d.refobjid OPERATOR(pg_catalog.=) $1 AND d.refobjsubid OPERATOR(pg_catalog.>) 0",
        &[Arg::Oid(relid)],
        |row| row.get::<i16>(1),
    );
    match columns.as_slice() {
        [one] => *one,
        _ => None,
    }
}

/// The foreign keys of a table that lead to protected ones, and every table that any of its keys leads to.
fn foreign_keys(
    relid: pg_sys::Oid,
    guard: pg_sys::Oid,
    columns: &[(i16, String)],
) -> (Vec<GuardedKey>, Vec<pg_sys::Oid>) {
    let mut keys = all_keys(relid, columns);
    let parents = keys.iter().map(|key| key.probe.parent).collect();
    let protected: HashSet<pg_sys::Oid> = latest(
        "SELECT t.tgrelid FROM pg_catalog.pg_trigger AS t
              JOIN pg_catalog.pg_constraint AS c ON c.confrelid OPERATOR(pg_catalog.=) t.tgrelid
         WHERE t.tgfoid OPERATOR(pg_catalog.=) $1 AND c.conrelid OPERATOR(pg_catalog.=) $2",
        &[Arg::Oid(guard), Arg::Oid(relid)],
        |row| row.get::<pg_sys::Oid>(1),
    )
    .into_iter()
    .flatten()
    .collect();
    keys.retain(|key| protected.contains(&key.probe.parent));
    for key in &mut keys {
        key.probe.org_attnum = org_column_of(key.probe.parent).unwrap_or(0);
    }
    (keys, parents)
}

/// Every foreign key of a table; which column of the parent holds the organization is the caller's to say.
pub fn all_keys(relid: pg_sys::Oid, columns: &[(i16, String)]) -> Vec<GuardedKey> {
    latest(
        "SELECT c.oid, c.conname::pg_catalog.text, c.confrelid, c.conindid, c.conkey::pg_catalog.int2[],
                c.confkey::pg_catalog.int2[], c.conpfeqop::pg_catalog.oid[], i.indkey::pg_catalog.int2[],
                (SELECT pg_catalog.array_agg(a.atttypid ORDER BY k.n)
                 FROM ROWS FROM (pg_catalog.unnest(c.conkey)) WITH ORDINALITY AS k (attnum, n)
                      JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) c.conrelid
                                                       AND a.attnum OPERATOR(pg_catalog.=) k.attnum),
                (SELECT pg_catalog.array_agg(a.attname::pg_catalog.text ORDER BY k.n)
                 FROM ROWS FROM (pg_catalog.unnest(c.confkey)) WITH ORDINALITY AS k (attnum, n)
                      JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) c.confrelid
                                                       AND a.attnum OPERATOR(pg_catalog.=) k.attnum)
         FROM pg_catalog.pg_constraint AS c
              JOIN pg_catalog.pg_index AS i ON i.indexrelid OPERATOR(pg_catalog.=) c.conindid
         WHERE c.conrelid OPERATOR(pg_catalog.=) $1 AND c.contype OPERATOR(pg_catalog.=) 'f'
         ORDER BY c.conname",
        &[Arg::Oid(relid)],
        |row| {
            let numbers = |n| row.get::<Vec<i16>>(n).unwrap_or_default();
            let ids = |n| row.get::<Vec<pg_sys::Oid>>(n).unwrap_or_default();
            let (child, parent, index) = (numbers(5), numbers(6), numbers(8));
            let (operators, types) = (ids(7), ids(9));
            let names = row.get::<Vec<String>>(10).unwrap_or_default();
            GuardedKey {
                constraint: row.get(1).unwrap_or(pg_sys::InvalidOid),
                name: row.get(2).unwrap_or_default(),
                columns: child
                    .iter()
                    .map(|attnum| {
                        let name = columns.iter().find(|(i, _)| i == attnum).map(|(_, n)| n.clone());
                        (*attnum, name.unwrap_or_default())
                    })
                    .collect(),
                probe: Probe {
                    parent: row.get(3).unwrap_or(pg_sys::InvalidOid),
                    index: row.get(4).unwrap_or(pg_sys::InvalidOid),
                    org_attnum: 0,
                    keys: (0..parent.len())
                        .map(|i| ProbeKey {
                            index_column: index.iter().position(|k| *k == parent[i]).unwrap_or(0) as i16 + 1,
                            operator: operators[i],
                            parent_column: names[i].clone(),
                            cast: probe::cast_for(types[i], operators[i]),
                        })
                        .collect(),
                },
            }
        },
    )
}

/// The live columns of a table, in order.
pub fn columns_of(relid: pg_sys::Oid) -> Vec<(i16, String)> {
    latest(
        "SELECT attnum, attname::pg_catalog.text FROM pg_catalog.pg_attribute
         WHERE attrelid OPERATOR(pg_catalog.=) $1 AND attnum OPERATOR(pg_catalog.>) 0 AND NOT attisdropped ORDER BY attnum",
        &[Arg::Oid(relid)],
        |row| {
            (
                row.get::<i16>(1).unwrap_or_default(),
                row.get::<String>(2).unwrap_or_default(),
            )
        },
    )
}
