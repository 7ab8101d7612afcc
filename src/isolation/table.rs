//! What the guards know of a protected table: read from the catalog once per backend, forgotten when it changes.
//!
//! The arguments of the row trigger are the record of protection: they travel with the table through pg_dump, rename
//! and DROP, and need no table of ours to be kept in step.

use super::check_text::CheckText;
use super::place::{self, Placed};
use super::plan::Options;
use super::route::Leaves;
use super::scope::Scoped;
use super::tagged::{self, Source};
use crate::audit::Captured;
use crate::pg::key::{KeyColumn, KeyType};
use crate::pg::local::Backend;
use crate::pg::probe::{self, Cast, Probe, ProbeKey};
use crate::pg::query::{Arg, latest};
use crate::pg::{catalog, primary_key};
use pgrx::pg_sys;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;

/// A foreign key to another protected table.
#[derive(Debug)]
pub struct GuardedKey {
    pub constraint: pg_sys::Oid,
    pub name: String,
    /// The child's columns, with their names for the error.
    pub columns: Vec<(i16, String)>,
    /// Their types, in which PostgreSQL's own query for the key has its parameters.
    pub types: Vec<pg_sys::Oid>,
    /// Whether no other key of the table compares the same columns of the same parent in another way: PostgreSQL's query
    /// for the one could be taken for that of the other (attack C-4).
    pub unmistakable: bool,
    /// Whether the parent's rows belong to projects, which may be hidden.
    pub parent_is_placed: bool,
    pub probe: Probe,
    /// Where the parent is partitioned.
    pub leaves: Option<Leaves>,
    /// PostgreSQL's own query for it.
    pub check: Rc<CheckText>,
}

impl GuardedKey {
    /// Whether the other leads to the same columns of the same parent and is not the same check.
    fn looks_like(&self, other: &GuardedKey) -> bool {
        let columns = |key: &GuardedKey| -> Vec<String> {
            let names = key.probe.keys.iter().map(|k| k.parent_column.clone());
            names.collect()
        };
        let checks = |key: &GuardedKey| -> Vec<(pg_sys::Oid, Cast)> {
            key.probe
                .keys
                .iter()
                .map(|k| (k.operator, k.cast))
                .collect()
        };
        self.probe.parent == other.probe.parent
            && columns(self) == columns(other)
            && (self.types != other.types || checks(self) != checks(other))
    }

    /// Says which column of the parent holds the organization.
    pub fn lead_to(&mut self, org: Option<KeyColumn>) {
        self.probe.org = org;
        self.leaves = Leaves::of(&self.probe);
    }
}

#[derive(Debug)]
pub struct Table {
    pub relid: pg_sys::Oid,
    /// The partitioned table that this one is a part of, else the table itself.
    pub root: pg_sys::Oid,
    /// schema.table of the root, quoted where needed: what it is called in the log.
    pub object: String,
    /// The organization column; 0 where it is not what protect() made of it.
    pub org_attnum: i16,
    pub org_kind: KeyType,
    pub options: Options,
    /// Where its rows are resources, or belong to some.
    pub scoped: Option<Scoped>,
    /// Where its rows belong to projects.
    pub placed: Option<Placed>,
    /// Columns with an action of their own.
    pub column_actions: Vec<(i16, String, String)>,
    /// Where the environment of its rows stands, if they have one.
    pub environment: Option<Source>,
    /// Live columns, in order.
    pub columns: Vec<(i16, String)>,
    /// Those of the primary key; empty where there is none.
    pub key: Vec<i16>,
    pub foreign_keys: Vec<GuardedKey>,
    /// Whether a foreign key leads here.
    pub is_parent: bool,
    /// Every table that a key leads to, protected or not (one of them may become so), and the partitioned table that
    /// this is a part of, whose name it goes by.
    parents: Vec<pg_sys::Oid>,
    /// How its rows stand in the log, once one was written.
    pub layout: OnceCell<Rc<Captured>>,
}

static TABLES: Backend<RefCell<BTreeMap<u32, Option<Rc<Table>>>>> =
    Backend::new(RefCell::new(BTreeMap::new()));
// Tables whose change makes what is remembered wrong: the protected ones and their parents.
static WATCHED: Backend<RefCell<BTreeSet<u32>>> = Backend::new(RefCell::new(BTreeSet::new()));
static STALE: Backend<Cell<bool>> = Backend::new(Cell::new(false));
static LAST: Backend<RefCell<Option<Rc<Table>>>> = Backend::new(RefCell::new(None));

/// From the invalidation callback: no catalog access, no waiting.
pub fn on_invalidation(relid: pg_sys::Oid) {
    let concerns = relid == pg_sys::InvalidOid
        || WATCHED
            .try_borrow()
            .map_or(true, |w| w.contains(&u32::from(relid)));
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
        super::foreign_key::parents_changed();
    }
    // The rows of one statement ask for one table, again and again.
    if let Some(last) = LAST.with_borrow(|l| l.clone().filter(|t| t.relid == relid)) {
        return Some(last);
    }
    let number = u32::from(relid);
    if let Some(known) = TABLES.with_borrow(|t| t.get(&number).cloned()) {
        if known.is_some() {
            LAST.set(known.clone());
        }
        return known;
    }
    WATCHED.with_borrow_mut(|w| w.insert(number));
    let table = read(relid).map(Rc::new);
    if let Some(table) = &table {
        WATCHED.with_borrow_mut(|w| w.extend(table.parents.iter().map(|p| u32::from(*p))));
    }
    // A change heard while reading leaves STALE set: what was read serves this once and is read again.
    TABLES.with_borrow_mut(|t| t.insert(number, table.clone()));
    table
}

fn read(relid: pg_sys::Oid) -> Option<Table> {
    let house = catalog::house();
    // A partition is known by the table that it is a part of: history does not depend on where a row lies.
    let (object, arguments, root) = latest(
        "SELECT pg_catalog.quote_ident(n.nspname) OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) pg_catalog.quote_ident(c.relname),
                pg_catalog.convert_from(pg_catalog.substring(t.tgargs, 1, pg_catalog.length(t.tgargs) OPERATOR(pg_catalog.-) 1),
                                        pg_catalog.getdatabaseencoding()), c.oid
         FROM pg_catalog.pg_trigger AS t
              JOIN pg_catalog.pg_class AS c
                ON c.oid OPERATOR(pg_catalog.=) COALESCE(pg_catalog.pg_partition_root(t.tgrelid)::pg_catalog.oid, t.tgrelid)
              JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE t.tgrelid OPERATOR(pg_catalog.=) $1 AND t.tgnargs OPERATOR(pg_catalog.>) 0::pg_catalog.int2
           AND (t.tgfoid OPERATOR(pg_catalog.=) $2 OR t.tgfoid OPERATOR(pg_catalog.=) $3)",
        &[
            Arg::Oid(relid),
            Arg::Oid(house.guard_row),
            Arg::Oid(house.guard_statement),
        ],
        |row| {
            (
                row.get::<String>(1).unwrap_or_default(),
                row.get::<String>(2).unwrap_or_default(),
                row.get::<pg_sys::Oid>(3).unwrap_or(relid),
            )
        },
    )
    .pop()?;
    let options = Options::parse(&arguments);
    let columns = columns_of(relid);
    let key = primary_key::columns(relid);
    let key = key.iter().map(|column| column.attnum).collect();
    let number = |name: &str| columns.iter().find(|(_, n)| n == name).map(|(i, _)| *i);
    let column_actions: Vec<_> = options
        .columns
        .iter()
        .filter_map(|(column, action)| Some((number(column)?, column.clone(), action.clone())))
        .collect();
    // A column with an action of its own that is not found is no reason to let it be written freely.
    let whole = column_actions.len() == options.columns.len();
    let placed = Placed::of(relid, &options);
    let (foreign_keys, mut parents) = foreign_keys(relid, &columns);
    let environment = tagged::source(relid, &options, &columns, &foreign_keys);
    // Nor is an environment that is not found one that is not production.
    let whole = whole && environment.is_ok();
    let org = org_column_of(relid).filter(|_| whole && placed.is_ok());
    parents.push(root);
    let org_attnum = org.map_or(0, |o| o.attnum);
    let scoped = Scoped::of(&options, &columns, org_attnum, &foreign_keys);
    Some(Table {
        relid,
        root,
        object,
        org_attnum,
        org_kind: org.map_or(KeyType::Uuid, |o| o.kind),
        scoped,
        placed: placed.unwrap_or_default(),
        column_actions,
        environment: environment.unwrap_or_default(),
        key,
        foreign_keys,
        is_parent: is_parent(relid),
        parents,
        columns,
        options,
        layout: OnceCell::new(),
    })
}

/// The column that our policies compare, by their recorded dependency: right also after it was renamed. None where it
/// is not one column of a type that holds keys: what the guards then read would not be a key.
pub fn org_column_of(relid: pg_sys::Oid) -> Option<KeyColumn> {
    let columns = latest(
        "SELECT DISTINCT d.refobjsubid::pg_catalog.int2, a.atttypid
         FROM pg_catalog.pg_policy AS p
              JOIN pg_catalog.pg_depend AS d ON d.objid OPERATOR(pg_catalog.=) p.oid
              JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) p.polrelid
                                               AND a.attnum OPERATOR(pg_catalog.=) d.refobjsubid
         WHERE p.polrelid OPERATOR(pg_catalog.=) $1 AND p.polname OPERATOR(pg_catalog.=) 'tenancy_select_boundary'
           AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_policy'::pg_catalog.regclass
           AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
           AND d.refobjid OPERATOR(pg_catalog.=) $1 AND d.refobjsubid OPERATOR(pg_catalog.>) 0",
        &[Arg::Oid(relid)],
        |row| {
            Some(KeyColumn {
                attnum: row.get(1)?,
                kind: KeyType::of(row.get(2)?)?,
            })
        },
    );
    match columns.as_slice() {
        [one] => *one,
        _ => None,
    }
}

/// A protected table whose column holds external keys, if there is one.
pub fn keyed_by_external_keys() -> Option<String> {
    latest(
        "SELECT c.oid::pg_catalog.regclass::pg_catalog.text
         FROM pg_catalog.pg_policy AS p
              JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) p.polrelid
              JOIN pg_catalog.pg_depend AS d ON d.objid OPERATOR(pg_catalog.=) p.oid
                                            AND d.refobjid OPERATOR(pg_catalog.=) p.polrelid
              JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) p.polrelid
                                               AND a.attnum OPERATOR(pg_catalog.=) d.refobjsubid
         WHERE p.polname OPERATOR(pg_catalog.=) 'tenancy_select_boundary'
           AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_policy'::pg_catalog.regclass
           AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
           AND d.refobjsubid OPERATOR(pg_catalog.>) 0
           AND a.atttypid OPERATOR(pg_catalog.<>) 'pg_catalog.uuid'::pg_catalog.regtype
         ORDER BY c.oid LIMIT 1",
        &[],
        |row| row.get::<String>(1),
    )
    .pop()
    .flatten()
}

/// The foreign keys of a table that lead to protected ones, and every table that any of its keys leads to.
fn foreign_keys(
    relid: pg_sys::Oid,
    columns: &[(i16, String)],
) -> (Vec<GuardedKey>, Vec<pg_sys::Oid>) {
    let mut keys = all_keys(relid, columns);
    let parents = keys.iter().map(|key| key.probe.parent).collect();
    let house = catalog::house();
    let protected: HashSet<pg_sys::Oid> = latest(
        "SELECT t.tgrelid FROM pg_catalog.pg_trigger AS t
              JOIN pg_catalog.pg_constraint AS c ON c.confrelid OPERATOR(pg_catalog.=) t.tgrelid
         WHERE (t.tgfoid OPERATOR(pg_catalog.=) $1 OR t.tgfoid OPERATOR(pg_catalog.=) $2)
           AND t.tgnargs OPERATOR(pg_catalog.>) 0::pg_catalog.int2 AND c.conrelid OPERATOR(pg_catalog.=) $3",
        &[
            Arg::Oid(house.guard_row),
            Arg::Oid(house.guard_statement),
            Arg::Oid(relid),
        ],
        |row| row.get::<pg_sys::Oid>(1),
    )
    .into_iter()
    .flatten()
    .collect();
    keys.retain(|key| protected.contains(&key.probe.parent));
    for key in &mut keys {
        key.lead_to(org_column_of(key.probe.parent));
        key.parent_is_placed = place::is_placed(key.probe.parent);
    }
    let unmistakable: Vec<bool> = keys
        .iter()
        .map(|key| !keys.iter().any(|other| key.looks_like(other)))
        .collect();
    for (key, unmistakable) in keys.iter_mut().zip(unmistakable) {
        key.unmistakable = unmistakable;
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
           -- For each partition of a parent PostgreSQL keeps a row too, which says nothing that the key itself does not.
           AND (c.conparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid
                OR EXISTS (SELECT FROM pg_catalog.pg_constraint AS above
                           WHERE above.oid OPERATOR(pg_catalog.=) c.conparentid
                             AND above.confrelid OPERATOR(pg_catalog.=) c.confrelid))
         ORDER BY c.conname",
        &[Arg::Oid(relid)],
        |row| {
            let numbers = |n| row.get::<Vec<i16>>(n).unwrap_or_default();
            let ids = |n| row.get::<Vec<pg_sys::Oid>>(n).unwrap_or_default();
            let (child, parent, index) = (numbers(5), numbers(6), numbers(8));
            let (operators, types) = (ids(7), ids(9));
            let names = row.get::<Vec<String>>(10).unwrap_or_default();
            GuardedKey {
                leaves: None,
                parent_is_placed: false,
                types: types.clone(),
                unmistakable: true,
                constraint: row.get(1).unwrap_or(pg_sys::InvalidOid),
                name: row.get(2).unwrap_or_default(),
                columns: child
                    .iter()
                    .map(|attnum| {
                        let name = columns.iter().find(|(i, _)| i == attnum).map(|(_, n)| n.clone());
                        (*attnum, name.unwrap_or_default())
                    })
                    .collect(),
                check: Rc::new(CheckText::new(names.clone())),
                probe: Probe {
                    constraint: row.get(1).unwrap_or(pg_sys::InvalidOid),
                    parent: row.get(3).unwrap_or(pg_sys::InvalidOid),
                    index: row.get(4).unwrap_or(pg_sys::InvalidOid),
                    org: None,
                    keys: (0..parent.len())
                        .map(|i| ProbeKey {
                            index_column: index.iter().position(|k| *k == parent[i]).unwrap_or(0) as i16 + 1,
                            operator: operators[i],
                            parent_column: names[i].clone(),
                            cast: probe::cast_for(types[i], operators[i]),
                            resolved: Cell::new(None),
                        })
                        .collect(),
                },
            }
        },
    )
}

fn is_parent(relid: pg_sys::Oid) -> bool {
    !latest(
        "SELECT 1 FROM pg_catalog.pg_constraint
         WHERE confrelid OPERATOR(pg_catalog.=) $1 AND contype OPERATOR(pg_catalog.=) 'f' LIMIT 1",
        &[Arg::Oid(relid)],
        |_| (),
    )
    .is_empty()
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
