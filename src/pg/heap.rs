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
    // SAFETY: the table is opened for writing and its columns are compared with what the values are; its indexes get
    // the same values.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::RowExclusiveLock as i32);
        check_columns((*relation).rd_att, types);
        let tuple =
            pg_sys::heap_form_tuple((*relation).rd_att, datums.as_mut_ptr(), nulls.as_mut_ptr());
        pg_sys::simple_heap_insert(relation, tuple);
        insert_into_indexes(relation, &mut (*tuple).t_self, &datums, &nulls);
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
    }
}

/// What the executor does for a table of any shape takes a quarter of storing a row; here all indexes are of plain
/// columns, and the values are at hand.
///
/// SAFETY: the relation is open and locked for writing; the row was just stored in it at `place`, of these values.
unsafe fn insert_into_indexes(
    relation: pg_sys::Relation,
    place: pg_sys::ItemPointer,
    datums: &[pg_sys::Datum; 16],
    nulls: &[bool; 16],
) {
    // SAFETY: as the function's own. The lock on the table keeps its indexes: whoever drops one waits for it.
    unsafe {
        let list = pg_sys::RelationGetIndexList(relation);
        if list.is_null() {
            return;
        }
        for i in 0..(*list).length as usize {
            let oid = (*(*list).elements.add(i)).oid_value;
            let index = pg_sys::index_open(oid, pg_sys::NoLock as i32);
            let form = (*index).rd_index;
            if !is_plain(index) {
                foreign_index();
            }
            if (*form).indisready {
                let columns = (*form).indkey.values.as_slice((*form).indnatts as usize);
                let mut values = [pg_sys::Datum::from(0); 16];
                let mut absent = [true; 16];
                for (i, attnum) in columns.iter().enumerate() {
                    values[i] = datums[*attnum as usize - 1];
                    absent[i] = nulls[*attnum as usize - 1];
                }
                let unique = match (*form).indisunique {
                    true => pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES,
                    false => pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO,
                };
                let info = match (*(*index).rd_rel).relam {
                    // A btree does not look at it.
                    pg_sys::BTREE_AM_OID => std::ptr::null_mut(),
                    _ => pg_sys::BuildIndexInfo(index),
                };
                pg_sys::index_insert(
                    index,
                    values.as_mut_ptr(),
                    absent.as_mut_ptr(),
                    place,
                    relation,
                    unique,
                    false,
                    info,
                );
            }
            pg_sys::index_close(index, pg_sys::NoLock as i32);
        }
        pg_sys::list_free(list);
    }
}

unsafe extern "C-unwind" {
    // Declared here without pgrx's guard: it looks at the row's null bits and never raises.
    fn heap_attisnull(tuple: pg_sys::HeapTuple, attnum: i32, desc: pg_sys::TupleDesc) -> bool;
}

/// Of plain columns, and of every row.
///
/// SAFETY: an open index.
pub(super) unsafe fn is_plain(index: pg_sys::Relation) -> bool {
    // SAFETY: as the function's own; these columns of pg_index may be NULL, which the row itself says.
    unsafe {
        let row = (*index).rd_indextuple;
        let none = |attnum: u32| heap_attisnull(row, attnum as i32, std::ptr::null_mut());
        none(pg_sys::Anum_pg_index_indexprs) && none(pg_sys::Anum_pg_index_indpred)
    }
}

fn foreign_index() {
    super::fail(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "an audit table has an index with an expression or a condition",
    )
    .set_detail("Writing to the log evaluates nothing that somebody added to it.")
    .set_hint("Drop that index in schema tenancy_audit; one of plain columns may stand there.")
    .report(PgLogLevel::ERROR);
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
