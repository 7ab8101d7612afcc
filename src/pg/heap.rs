//! Appending rows to tables of ours without a query: no privileges, triggers or plans are involved.
//!
//! Rows are formed at once and stored in batches: opening the indexes of a table for one row costs more than storing it
//! (100k audited inserts: 3.2 times the unaudited statement row by row, measured; see bench/ for what it is now).

use pgrx::prelude::*;
use std::cell::{Cell, RefCell};

/// A formed row waits for this many others, or for the end of its statement.
const BATCH: usize = 1000;
/// Or for this many bytes, so that wide rows do not pile up.
const BATCH_BYTES: usize = 4 << 20;

struct Waiting {
    table: pg_sys::Oid,
    tuple: pg_sys::HeapTuple,
    /// The transaction's nesting when the row was made: it is stored at that level, or goes with it.
    level: i32,
}

thread_local! {
    static WAITING: RefCell<Vec<Waiting>> = const { RefCell::new(Vec::new()) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
    // A copy of the layout that all these tables have, for the backend's life.
    static LAYOUT: Cell<pg_sys::TupleDesc> = const { Cell::new(std::ptr::null_mut()) };
    // Where waiting rows live; a child of the transaction's own memory, NULL when there is none.
    static MEMORY: Cell<pg_sys::MemoryContext> = const { Cell::new(std::ptr::null_mut()) };
}

/// Puts one row in line for `table`. `values` has one entry per column, None for NULL.
pub fn append(table: pg_sys::Oid, values: &[Option<pg_sys::Datum>]) {
    let mut nulls = [false; 32];
    let mut datums = [pg_sys::Datum::from(0); 32];
    for (i, value) in values.iter().enumerate() {
        nulls[i] = value.is_none();
        datums[i] = value.unwrap_or(pg_sys::Datum::from(0));
    }
    // SAFETY: the layout's columns are counted against the values; the tuple is made in memory that lasts until the
    // batch is stored.
    let size = unsafe {
        let layout = layout_of(table, values.len());
        let before = pg_sys::MemoryContextSwitchTo(memory());
        let tuple = pg_sys::heap_form_tuple(layout, datums.as_mut_ptr(), nulls.as_mut_ptr());
        pg_sys::MemoryContextSwitchTo(before);
        WAITING.with_borrow_mut(|w| {
            w.push(Waiting {
                table,
                tuple,
                level: super::transaction::nest_level(),
            });
        });
        (*tuple).t_len as usize
    };
    BYTES.set(BYTES.get() + size);
    if WAITING.with_borrow(|w| w.len() >= BATCH) || BYTES.get() >= BATCH_BYTES {
        store_waiting();
    }
}

/// Stores the rows of this nesting level that wait. Rows of an outer level, made before a subtransaction began in the
/// middle of their statement, wait on: stored now they would be lost if it rolled back.
pub fn store_waiting() {
    if WAITING.with_borrow(|w| w.is_empty()) {
        return;
    }
    let level = super::transaction::nest_level();
    let mut mine = WAITING.take();
    let others: Vec<Waiting> = mine.extract_if(.., |w| w.level < level).collect();
    let all = others.is_empty();
    WAITING.set(others);
    // One group per table, in the order in which the rows were made.
    mine.sort_by_key(|w| u32::from(w.table));
    for group in mine.chunk_by(|a, b| a.table == b.table) {
        store(group[0].table, group);
    }
    if all {
        BYTES.set(0);
        // SAFETY: no waiting row lives there any more.
        unsafe { pg_sys::MemoryContextReset(memory()) };
    }
}

/// A subtransaction that ends takes its rows along, or hands them to its parent.
pub fn drop_waiting(level: i32) {
    WAITING.with_borrow_mut(|w| w.retain(|one| one.level < level));
}

/// The transaction ended, and with it the memory that waiting rows were in.
pub fn forget() {
    WAITING.take();
    BYTES.set(0);
    MEMORY.set(std::ptr::null_mut());
}

fn memory() -> pg_sys::MemoryContext {
    if MEMORY.get().is_null() {
        // SAFETY: a child of the transaction's memory, deleted with it; forget() is called by then.
        MEMORY.set(unsafe {
            pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopTransactionContext,
                c"pg_tenancy rows".as_ptr(),
                0,
                8 << 10,
                1 << 20,
            )
        });
    }
    MEMORY.get()
}

/// SAFETY: `table` exists.
unsafe fn layout_of(table: pg_sys::Oid, columns: usize) -> pg_sys::TupleDesc {
    if LAYOUT.get().is_null() {
        // SAFETY: the copy is made in memory that lives as long as the backend.
        unsafe {
            let relation = pg_sys::table_open(table, pg_sys::RowExclusiveLock as i32);
            check_columns(relation, columns);
            let before = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            let layout = pg_sys::CreateTupleDescCopy((*relation).rd_att);
            // Nobody's row type in particular: the table that it was copied from may be rolled back.
            (*layout).tdtypeid = pg_sys::RECORDOID;
            (*layout).tdtypmod = -1;
            LAYOUT.set(layout);
            pg_sys::MemoryContextSwitchTo(before);
            pg_sys::table_close(relation, pg_sys::NoLock as i32);
        }
    }
    LAYOUT.get()
}

/// SAFETY: the relation is open.
unsafe fn check_columns(relation: pg_sys::Relation, columns: usize) {
    // SAFETY: as the function's own.
    let found = unsafe { (*(*relation).rd_att).natts } as usize;
    if found != columns {
        super::fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "an audit table does not have the columns it was made with",
        )
        .set_detail("Somebody altered it.")
        .set_hint("Undo the ALTER TABLE; nothing can be written for the organization until then.")
        .report(PgLogLevel::ERROR);
    }
}

fn store(table: pg_sys::Oid, rows: &[Waiting]) {
    // SAFETY: the table is opened for writing and has the layout the rows were formed with. The catalog functions store
    // heap tuples and their index entries in any table without expression indexes; ours have none. Slots hold tuples
    // that they do not own.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::RowExclusiveLock as i32);
        check_columns(relation, (*LAYOUT.get()).natts as usize);
        let indexes = pg_sys::CatalogOpenIndexes(relation);
        let mut slots: Vec<*mut pg_sys::TupleTableSlot> = rows
            .iter()
            .map(|row| {
                // The copy: a relation's own descriptor is counted, and a thousand slots that count it cost a seventh
                // of the statement (measured).
                let slot = pg_sys::MakeSingleTupleTableSlot(
                    LAYOUT.get(),
                    &raw const pg_sys::TTSOpsHeapTuple,
                );
                pg_sys::ExecStoreHeapTuple(row.tuple, slot, false)
            })
            .collect();
        pg_sys::CatalogTuplesMultiInsertWithInfo(
            relation,
            slots.as_mut_ptr(),
            slots.len() as i32,
            indexes,
        );
        for slot in slots {
            pg_sys::ExecDropSingleTupleTableSlot(slot);
        }
        pg_sys::CatalogCloseIndexes(indexes);
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
    }
}
