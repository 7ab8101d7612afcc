//! The column layouts that lines are read by: recorded once, by the transaction that first writes a line of the layout,
//! in a table beside the logs. It holds names of tables and columns, and nothing of any organization.
//!
//! A layout is named by its own digest, so that whoever records it names it alike, here and in a copy of the database.
//! Nothing keeps two sessions from recording the same one at once: neither waits for the other, the second row is the
//! first one's twin, and a reader takes any. What this backend takes for recorded it has seen committed, or written
//! itself in this transaction, at this level or one above.

use super::store;
use crate::isolation::Table;
use crate::pg::heap;
use crate::pg::key::KeyType;
use crate::pg::query::{Arg, latest};
use crate::pg::raw::{Source, Target};
use crate::pg::trigger::RowImage;
use crate::pg::{self, fail, transaction};
use pg_tenancy_audit_format::{Column, Layout, LayoutId, shape};
use pgrx::datum::Uuid;
use pgrx::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

pub const COLUMNS: &str = "id uuid NOT NULL, object text NOT NULL, columns text[] NOT NULL, encodings text[] NOT NULL, \
    org_column text, key text[] NOT NULL";
const TYPES: [pg_sys::Oid; 6] = [
    pg_sys::UUIDOID,
    pg_sys::TEXTOID,
    pg_sys::TEXTARRAYOID,
    pg_sys::TEXTARRAYOID,
    pg_sys::TEXTOID,
    pg_sys::TEXTARRAYOID,
];

/// A table's layout now, and where the values come from.
#[derive(Debug)]
pub struct Captured {
    pub format: Layout,
    pub id: LayoutId,
    pub sources: Vec<ColumnSource>,
    /// A bit for each column of the primary key.
    pub keys: Vec<u8>,
    /// The table in which it was seen committed.
    committed_in: Cell<u32>,
}

/// A column as the writer needs it, close together.
#[derive(Debug)]
pub struct ColumnSource {
    source: Source,
    pub is_org: bool,
}

impl std::ops::Deref for ColumnSource {
    type Target = Source;

    fn deref(&self) -> &Source {
        &self.source
    }
}

impl Captured {
    /// `row` is any of the table's, for its columns' types.
    pub fn of(table: &Table, row: &RowImage) -> Captured {
        let options = &table.options;
        let is_org = |attnum: i16| attnum == table.org_attnum;
        let there = |name: &String| table.columns.iter().any(|(_, n)| n == name);
        // A column that is to be hidden and is not found has another name: until set_audit() says which, none is shown.
        let lost = !options.audit_columns().all(there);
        let hides = |attnum: i16, name: &String| {
            !is_org(attnum)
                && (options.audit_mask.contains(name) || (lost && !table.key.contains(&attnum)))
        };
        let (columns, sources) = table
            .columns
            .iter()
            .filter(|(attnum, name)| is_org(*attnum) || !options.audit_exclude.contains(name))
            .map(|(attnum, name)| {
                let (encoding, source) = Source::new(
                    *attnum,
                    row.type_of(*attnum),
                    &row.value(*attnum),
                    hides(*attnum, name),
                );
                // An external key is kept in each line as any value: the chunk names the organization by its id.
                let is_org = is_org(*attnum) && table.org_kind == KeyType::Uuid;
                let is_key = table.key.contains(attnum);
                let column = Column {
                    name: name.clone(),
                    shape: shape(&encoding).expect("made from the list"),
                    encoding,
                    is_org,
                    is_key,
                };
                let source = ColumnSource { source, is_org };
                (column, source)
            })
            .unzip();
        let format = Layout::new(&table.object, columns);
        let eight = |columns: &[Column]| {
            let bits = columns.iter().enumerate();
            bits.fold(0, |byte, (i, column)| byte | u8::from(column.is_key) << i)
        };
        Captured {
            id: format.id(),
            keys: format.columns.chunks(8).map(eight).collect(),
            format,
            sources,
            committed_in: Cell::new(0),
        }
    }

    pub fn of_acts() -> Captured {
        let format = Layout::of_acts();
        Captured {
            id: format.id(),
            format,
            sources: vec![],
            keys: vec![],
            committed_in: Cell::new(0),
        }
    }
}

#[derive(Default)]
struct Memory {
    /// The table that they were found in.
    table: u32,
    committed: HashSet<LayoutId>,
    /// Recorded by this transaction, at this nesting level.
    mine: Vec<(LayoutId, i32)>,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
    static READ: RefCell<HashMap<LayoutId, Rc<Known>>> = RefCell::default();
}

/// So many layouts are remembered for reading; past that the memory starts anew.
const REMEMBERED: usize = 1000;

/// Sees to it that the layout of a line that is made at this nesting level is recorded.
pub fn record(layout: &Captured) {
    let table = store::layouts();
    if layout.committed_in.get() == u32::from(table) || layout.format.object.is_empty() {
        return;
    }
    let (committed, mine) = MEMORY.with_borrow_mut(|m| {
        if m.table != u32::from(table) {
            *m = Memory {
                table: u32::from(table),
                ..Memory::default()
            };
        }
        let mine = m.mine.iter().any(|(id, _)| *id == layout.id);
        (m.committed.contains(&layout.id), mine)
    });
    if committed {
        layout.committed_in.set(u32::from(table));
    } else if !mine {
        record_in(table, layout);
    }
}

fn record_in(table: pg_sys::Oid, layout: &Captured) {
    if !read(&layout.id).is_empty() {
        MEMORY.with_borrow_mut(|m| m.committed.insert(layout.id));
        return;
    }
    let columns = &layout.format.columns;
    let key: Vec<String> = columns
        .iter()
        .filter(|c| c.is_key)
        .map(|c| c.name.clone())
        .collect();
    heap::insert(
        table,
        &TYPES,
        &[
            Uuid::from_bytes(layout.id).into_datum(),
            layout.format.object.as_str().into_datum(),
            columns
                .iter()
                .map(|c| c.name.clone())
                .collect::<Vec<_>>()
                .into_datum(),
            columns
                .iter()
                .map(|c| c.encoding.clone())
                .collect::<Vec<_>>()
                .into_datum(),
            columns
                .iter()
                .find(|c| c.is_org)
                .and_then(|c| c.name.as_str().into_datum()),
            key.into_datum(),
        ],
    );
    let level = transaction::nest_level();
    MEMORY.with_borrow_mut(|m| m.mine.push((layout.id, level)));
}

/// What a subtransaction recorded is its parent's.
pub fn at_subtransaction_commit(level: i32) {
    MEMORY.with_borrow_mut(|m| {
        for (_, at) in m.mine.iter_mut().filter(|(_, at)| *at >= level) {
            *at = level - 1;
        }
    });
}

pub fn at_subtransaction_abort(level: i32) {
    MEMORY.with_borrow_mut(|m| m.mine.retain(|(_, at)| *at < level));
}

/// Whether it was committed is seen when it is needed next: a prepared transaction may still be rolled back.
pub fn at_transaction_end() {
    MEMORY.with_borrow_mut(|m| m.mine.clear());
}

/// A recorded layout, and what its values become.
pub struct Known {
    pub format: Layout,
    pub targets: Vec<Target>,
}

/// The layout that a chunk names.
pub fn known(id: &LayoutId) -> pg::Result<Rc<Known>> {
    if let Some(known) = READ.with_borrow(|r| r.get(id).cloned()) {
        return Ok(known);
    }
    let acts = Layout::of_acts();
    let format = if acts.id() == *id {
        acts
    } else {
        read(id).into_iter().flatten().next().ok_or_else(|| {
            super::read::corrupt(
                "a layout that a line is read by is missing or altered",
                &format!(
                    "It has the id {} in tenancy_audit.layouts.",
                    uuid::Uuid::from_bytes(*id).hyphenated()
                ),
            )
        })?
    };
    let targets = format
        .columns
        .iter()
        .map(|c| Target::new(&c.encoding))
        .collect::<Option<_>>()
        .ok_or_else(|| {
            fail(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                "the audit log holds values of a type that this server does not have",
            )
            .set_detail(format!("They are of table {}.", format.object))
            .set_hint("Read it on a server of the version that wrote it, or a later one.")
        })?;
    let known = Rc::new(Known { format, targets });
    READ.with_borrow_mut(|r| {
        if r.len() >= REMEMBERED {
            r.clear();
        }
        r.insert(*id, known.clone());
    });
    Ok(known)
}

/// The rows of this id; None for one that is not what its id says.
fn read(id: &LayoutId) -> Vec<Option<Layout>> {
    latest(
        "SELECT object, columns, encodings, org_column, key FROM tenancy_audit.layouts
         WHERE id OPERATOR(pg_catalog.=) $1 LIMIT 1",
        &[Arg::Uuid(id)],
        |row| {
            let names = row.get::<Vec<String>>(2)?;
            let encodings = row.get::<Vec<String>>(3)?;
            let org = row.get::<String>(4);
            let key = row.get::<Vec<String>>(5)?;
            let columns = names
                .into_iter()
                .zip(encodings)
                .map(|(name, encoding)| {
                    Some(Column {
                        shape: shape(&encoding)?,
                        encoding,
                        is_org: org.as_ref() == Some(&name),
                        is_key: key.contains(&name),
                        name,
                    })
                })
                .collect::<Option<_>>()?;
            let layout = Layout::new(&row.get::<String>(1)?, columns);
            (layout.id() == *id).then_some(layout)
        },
    )
}
