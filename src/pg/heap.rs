//! Inserting a row into a table of ours without a query: no privileges, triggers or plans are involved.

use super::scan::Found;
use pgrx::prelude::*;
use std::cell::Cell;

/// The largest row that a page holds: PostgreSQL's MaxHeapTupleSize.
pub const LARGEST_ROW: usize = pg_sys::BLCKSZ as usize - 32;

/// As many columns has no table of ours.
const COLUMNS: usize = 20;

thread_local! {
    // What a row is formed in, emptied after each: a statement that writes for hours forms many.
    static MEMORY: Cell<pg_sys::MemoryContext> = const { Cell::new(std::ptr::null_mut()) };
}

// PostgreSQL's own functions, declared without pgrx's guard: `insert` calls them inside of one for all. A guard for each
// was an eighth of storing a row.
unsafe extern "C-unwind" {
    fn table_open(table: pg_sys::Oid, lock: i32) -> pg_sys::Relation;
    fn table_close(relation: pg_sys::Relation, lock: i32);
    fn index_open(index: pg_sys::Oid, lock: i32) -> pg_sys::Relation;
    fn index_close(index: pg_sys::Relation, lock: i32);
    fn heap_form_tuple(
        desc: pg_sys::TupleDesc,
        values: *mut pg_sys::Datum,
        nulls: *mut bool,
    ) -> pg_sys::HeapTuple;
    fn heap_insert(
        relation: pg_sys::Relation,
        tuple: pg_sys::HeapTuple,
        command: pg_sys::CommandId,
        options: i32,
        bulk: pg_sys::BulkInsertState,
    );
    fn GetCurrentCommandId(used: bool) -> pg_sys::CommandId;
    fn RelationGetNumberOfBlocksInFork(
        relation: pg_sys::Relation,
        fork: pg_sys::ForkNumber::Type,
    ) -> pg_sys::BlockNumber;
    fn RelationGetIndexList(relation: pg_sys::Relation) -> *mut pg_sys::List;
    fn BuildIndexInfo(index: pg_sys::Relation) -> *mut pg_sys::IndexInfo;
    fn index_insert(
        index: pg_sys::Relation,
        values: *mut pg_sys::Datum,
        nulls: *mut bool,
        place: pg_sys::ItemPointer,
        relation: pg_sys::Relation,
        unique: pg_sys::IndexUniqueCheck::Type,
        unchanged: bool,
        info: *mut pg_sys::IndexInfo,
    ) -> bool;
    fn MemoryContextReset(context: pg_sys::MemoryContext);
    // It looks at the row's null bits and never raises.
    fn heap_attisnull(tuple: pg_sys::HeapTuple, attnum: i32, desc: pg_sys::TupleDesc) -> bool;
}

/// Stores one row in `table`, whose columns have these types, and its index entries. None is NULL.
pub fn insert<const N: usize>(
    table: pg_sys::Oid,
    types: &[pg_sys::Oid; N],
    row: &[Option<pg_sys::Datum>; N],
) {
    put(table, types, row, Where::Anywhere);
}

/// `insert` of a row that is there whatever becomes of this transaction, and at once for everybody.
pub fn insert_for_good<const N: usize>(
    table: pg_sys::Oid,
    types: &[pg_sys::Oid; N],
    row: &[Option<pg_sys::Datum>; N],
) {
    put(table, types, row, Where::ForGood);
}

#[derive(Clone, Copy)]
enum Where {
    Anywhere,
    AtEnd,
    ForGood,
}

/// How many pages from its end on take what is appended to a table.
pub const WINDOW: u32 = 16;

/// `insert` into one of the last WINDOW pages that the table has when this is called, or into a new one: never into what
/// space became free before, so that the pages in front of these get nothing new.
pub fn append<const N: usize>(
    table: pg_sys::Oid,
    types: &[pg_sys::Oid; N],
    row: &[Option<pg_sys::Datum>; N],
) {
    put(table, types, row, Where::AtEnd);
}

fn put<const N: usize>(
    table: pg_sys::Oid,
    types: &[pg_sys::Oid; N],
    row: &[Option<pg_sys::Datum>; N],
    how: Where,
) {
    const { assert!(N <= COLUMNS) };
    let mut values = [pg_sys::Datum::from(0); COLUMNS];
    let mut nulls = [true; COLUMNS];
    for (i, value) in row.iter().enumerate() {
        nulls[i] = value.is_none();
        values[i] = value.unwrap_or(pg_sys::Datum::from(0));
    }
    let memory = memory();
    let nothing = std::ptr::null_mut();
    // SAFETY: the table is opened for writing and its columns are compared with what the values are; its indexes get
    // the same values. The guard turns PostgreSQL's jumps into panics; nothing inside of it needs to be dropped. It puts
    // the memory in force back, and what an error leaves in ours the next row's end clears away.
    let ours = unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            let relation = table_open(table, pg_sys::RowExclusiveLock as i32);
            let ours = has_columns((*relation).rd_att, types);
            let mut plain = true;
            if ours {
                let before = pg_sys::CurrentMemoryContext;
                pg_sys::CurrentMemoryContext = memory;
                let tuple =
                    heap_form_tuple((*relation).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
                let options = match how {
                    Where::AtEnd => {
                        stay_at_end(relation);
                        pg_sys::HEAP_INSERT_SKIP_FSM as i32
                    }
                    Where::ForGood => pg_sys::HEAP_INSERT_FROZEN as i32,
                    Where::Anywhere => 0,
                };
                heap_insert(relation, tuple, GetCurrentCommandId(true), options, nothing);
                plain = insert_into_indexes(relation, &mut (*tuple).t_self, &values, &nulls);
                pg_sys::CurrentMemoryContext = before;
                MemoryContextReset(memory);
            }
            table_close(relation, pg_sys::NoLock as i32);
            (ours, plain)
        })
    };
    match ours {
        (true, true) => {}
        (false, _) => altered("does not have the columns that it was made with"),
        (_, false) => altered("has an index with an expression or a condition"),
    }
}

/// A session goes on filling the page that it put its last row into, whenever that was: not any more where the table has
/// grown past it. The page that it then asks for is the last one.
///
/// SAFETY: an open relation. May raise, so it is called inside of a guard.
unsafe fn stay_at_end(relation: pg_sys::Relation) {
    // SAFETY: as the function's own; the storage manager's entry is NULL where there is none yet.
    unsafe {
        let storage = (*relation).rd_smgr;
        if storage.is_null() || (*storage).smgr_targblock == pg_sys::InvalidBlockNumber {
            return;
        }
        let pages = RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM);
        // Asked for the number of pages, it may have been opened anew.
        let storage = (*relation).rd_smgr;
        if (*storage).smgr_targblock.saturating_add(WINDOW) < pages {
            (*storage).smgr_targblock = pg_sys::InvalidBlockNumber;
        }
    }
}

/// Puts another value into one column of a row that a scan found: it goes, and comes back at the table's end.
pub fn rewrite<const N: usize>(
    table: pg_sys::Oid,
    types: &[pg_sys::Oid; N],
    row: &Found,
    column: i16,
    value: pg_sys::Datum,
) {
    let mut values = [None; N];
    for (n, into) in (1..).zip(&mut values) {
        *into = if n == column {
            Some(value)
        } else {
            row.datum(n)
        };
    }
    delete(table, row);
    append(table, types, &values);
}

/// Deletes a row that a scan found.
pub fn delete(table: pg_sys::Oid, row: &Found) {
    // SAFETY: the row is one of the table's.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::RowExclusiveLock as i32);
        pg_sys::simple_heap_delete(relation, &mut (*row.tuple()).t_self);
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
    }
}

fn memory() -> pg_sys::MemoryContext {
    if MEMORY.get().is_null() {
        // SAFETY: it lives as long as the backend.
        MEMORY.set(unsafe {
            pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopMemoryContext,
                c"pg_tenancy rows".as_ptr(),
                0,
                32 << 10,
                1 << 20,
            )
        });
    }
    MEMORY.get()
}

/// What the executor does for a table of any shape takes a quarter of storing a row; here all indexes are of plain
/// columns, and the values are at hand. False where one is not.
///
/// SAFETY: the relation is open and locked for writing; the row was just stored in it at `place`, of these values.
unsafe fn insert_into_indexes(
    relation: pg_sys::Relation,
    place: pg_sys::ItemPointer,
    values: &[pg_sys::Datum; COLUMNS],
    nulls: &[bool; COLUMNS],
) -> bool {
    // SAFETY: as the function's own. The lock on the table keeps its indexes: whoever drops one waits for it.
    unsafe {
        let list = RelationGetIndexList(relation);
        let count = if list.is_null() { 0 } else { (*list).length };
        for i in 0..count as usize {
            let oid = (*(*list).elements.add(i)).oid_value;
            let index = index_open(oid, pg_sys::NoLock as i32);
            let form = (*index).rd_index;
            if !is_plain(index) {
                return false;
            }
            if (*form).indisready {
                let columns = (*form).indkey.values.as_slice((*form).indnatts as usize);
                let mut keys = [pg_sys::Datum::from(0); pg_sys::INDEX_MAX_KEYS as usize];
                let mut absent = [true; pg_sys::INDEX_MAX_KEYS as usize];
                for (i, attnum) in columns.iter().enumerate() {
                    keys[i] = values[*attnum as usize - 1];
                    absent[i] = nulls[*attnum as usize - 1];
                }
                let unique = match (*form).indisunique {
                    true => pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES,
                    false => pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO,
                };
                let info = match (*(*index).rd_rel).relam {
                    // A btree does not look at it.
                    pg_sys::BTREE_AM_OID => std::ptr::null_mut(),
                    _ => BuildIndexInfo(index),
                };
                index_insert(
                    index,
                    keys.as_mut_ptr(),
                    absent.as_mut_ptr(),
                    place,
                    relation,
                    unique,
                    false,
                    info,
                );
            }
            index_close(index, pg_sys::NoLock as i32);
        }
        true
    }
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

/// SAFETY: the descriptor is an open relation's.
unsafe fn has_columns(desc: pg_sys::TupleDesc, types: &[pg_sys::Oid]) -> bool {
    // SAFETY: as the function's own.
    unsafe {
        (*desc).natts as usize == types.len()
            && (1..).zip(types).all(|(attnum, expected)| {
                let column = super::trigger::attribute(desc, attnum);
                (*column).atttypid == *expected && !(*column).attisdropped
            })
    }
}

/// Raises unless an open relation has columns of these types.
///
/// SAFETY: the descriptor is an open relation's.
pub(super) unsafe fn check_columns(desc: pg_sys::TupleDesc, types: &[pg_sys::Oid]) {
    // SAFETY: as the function's own.
    if !unsafe { has_columns(desc, types) } {
        altered("does not have the columns that it was made with");
    }
}

fn altered(how: &str) {
    super::fail(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("an audit table {how}"),
    )
    .set_detail("Somebody altered it. Writing to the log evaluates nothing that somebody added to it.")
    .set_hint("Undo the change in schema tenancy_audit; nothing can be written for the organization until then.")
    .report(PgLogLevel::ERROR);
}
