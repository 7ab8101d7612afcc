//! Inserting a row into a table of ours without a query: no privileges, triggers or plans are involved.

use pgrx::prelude::*;
use std::cell::Cell;

/// The largest row that a page holds: PostgreSQL's MaxHeapTupleSize.
pub const LARGEST_ROW: usize = pg_sys::BLCKSZ as usize - 32;

/// Stores one row in `table`, whose columns have these types, and its index entries. None is NULL.
pub fn insert(table: pg_sys::Oid, types: &[pg_sys::Oid], values: &[Option<pg_sys::Datum>]) {
    let mut datums = [pg_sys::Datum::from(0); 16];
    let mut nulls = [true; 16];
    for (i, value) in values.iter().enumerate() {
        nulls[i] = value.is_none();
        datums[i] = value.unwrap_or(pg_sys::Datum::from(0));
    }
    // SAFETY: the table is opened for writing and its columns are compared with what the values are. The catalog
    // function stores a tuple and its index entries in any table whose indexes have no expressions; ours have none.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::RowExclusiveLock as i32);
        check_columns((*relation).rd_att, types);
        let tuple =
            pg_sys::heap_form_tuple((*relation).rd_att, datums.as_mut_ptr(), nulls.as_mut_ptr());
        pg_sys::CatalogTupleInsert(relation, tuple);
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
    }
}

/// SAFETY: the descriptor is an open relation's.
pub(super) unsafe fn check_columns(desc: pg_sys::TupleDesc, types: &[pg_sys::Oid]) {
    // SAFETY: as the function's own.
    let alike = unsafe {
        (*desc).natts as usize == types.len()
            && (1..).zip(types).all(|(attnum, expected)| {
                let column = super::trigger::attribute(desc, attnum);
                (*column).atttypid == *expected && !(*column).attisdropped
            })
    };
    if !alike {
        super::fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "an audit table does not have the columns it was made with",
        )
        .set_detail("Somebody altered it.")
        .set_hint("Undo the ALTER TABLE; nothing can be written for the organization until then.")
        .report(PgLogLevel::ERROR);
    }
}

thread_local! {
    // What rows are formed in, for the backend's life.
    static MEMORY: Cell<pg_sys::MemoryContext> = const { Cell::new(std::ptr::null_mut()) };
}

/// Runs `work` with allocations that are given back at its end: a statement that writes for hours forms many rows.
pub fn in_rows_memory(work: impl FnOnce()) {
    // SAFETY: the context lives as long as the backend and is emptied before each use, so that what an error left
    // behind goes too; switched back after, or by the error's clean-up.
    unsafe {
        if MEMORY.get().is_null() {
            MEMORY.set(pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopMemoryContext,
                c"pg_tenancy rows".as_ptr(),
                0,
                32 << 10,
                1 << 20,
            ));
        }
        pg_sys::MemoryContextReset(MEMORY.get());
        let before = pg_sys::MemoryContextSwitchTo(MEMORY.get());
        work();
        pg_sys::MemoryContextSwitchTo(before);
        pg_sys::MemoryContextReset(MEMORY.get());
    }
}
