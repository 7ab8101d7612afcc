//! Reading a whole table of somebody else's without a query. Planning one would evaluate what its owner wrote into
//! partial indexes, checks and casts, with the rights of whoever plans.

use super::trigger::RowImage;
use pgrx::prelude::*;

/// Calls `see` with every row that is committed now or this transaction's own. The caller holds a lock on the table.
pub fn for_each_row(table: pg_sys::Oid, mut see: impl FnMut(&RowImage)) {
    rows(table, Seen::Newest, None, |row| {
        see(row);
        true
    });
}

/// `for_each_row` until `see` answers that it saw enough.
pub fn for_each_newest_row(table: pg_sys::Oid, see: impl FnMut(&RowImage) -> bool) {
    rows(table, Seen::Newest, None, see);
}

/// `for_each_row` of what the active snapshot sees; `see` answers whether to go on.
pub fn for_each_seen_row(table: pg_sys::Oid, see: impl FnMut(&RowImage) -> bool) {
    rows(table, Seen::Active, None, see);
}

/// `for_each_row` from one page on and before another, of a heap; `see` answers whether to go on.
pub fn for_rows_between(
    table: pg_sys::Oid,
    first: u32,
    end: u32,
    see: impl FnMut(&RowImage) -> bool,
) {
    if first < end {
        rows(table, Seen::Newest, Some((first, end - first)), see);
    }
}

/// By which snapshot rows are seen.
enum Seen {
    Newest,
    Active,
}

/// `pages`: the first one, and how many.
fn rows(
    table: pg_sys::Oid,
    seen: Seen,
    pages: Option<(u32, u32)>,
    mut see: impl FnMut(&RowImage) -> bool,
) {
    // SAFETY: the relation stays open and the slot's tuple valid while it is looked at; an error on the way is cleaned
    // up by the transaction's abort. No synchronised scan where there are limits, so that they hold; they are set before
    // the first row is read.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
        // A partitioned table stores nothing.
        if (*(*relation).rd_rel).relkind == pg_sys::RELKIND_PARTITIONED_TABLE as std::ffi::c_char {
            pg_sys::table_close(relation, pg_sys::NoLock as i32);
            return;
        }
        let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        let snapshot = pg_sys::RegisterSnapshot(match seen {
            Seen::Newest => pg_sys::GetLatestSnapshot(),
            Seen::Active => pg_sys::GetActiveSnapshot(),
        });
        let nothing = std::ptr::null_mut();
        let synchronised = pages.is_none();
        let scan =
            pg_sys::table_beginscan_strat(relation, snapshot, 0, nothing, true, synchronised);
        if let Some((first, count)) = pages {
            pg_sys::heap_setscanlimits(scan, first, count);
        }
        let mut go_on = true;
        while go_on
            && pg_sys::table_scan_getnextslot(
                scan,
                pg_sys::ScanDirection::ForwardScanDirection,
                slot,
            )
        {
            pgrx::check_for_interrupts!();
            let mut owned = false;
            let tuple = pg_sys::ExecFetchSlotHeapTuple(slot, false, &mut owned);
            go_on = see(&RowImage::new(tuple, (*relation).rd_att));
            if owned {
                pg_sys::heap_freetuple(tuple);
            }
        }
        pg_sys::table_endscan(scan);
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
    }
}

/// How many pages a table has now.
pub fn pages(table: pg_sys::Oid) -> u32 {
    // SAFETY: opened and closed here.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
        // A partitioned table has none.
        let pages = match (*(*relation).rd_rel).relkind as u8 {
            pg_sys::RELKIND_PARTITIONED_TABLE => 0,
            _ => {
                pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM)
            }
        };
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        pages
    }
}

/// Whether PostgreSQL's own storage holds the table's rows, so that it can be read page by page.
pub fn is_heap(table: pg_sys::Oid) -> bool {
    // SAFETY: opened and closed here.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
        let heap = (*(*relation).rd_rel).relam == pg_sys::HEAP_TABLE_AM_OID;
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        heap
    }
}

/// What a column of an index must be, for a scan to begin.
#[derive(Clone, Copy)]
pub struct Bound {
    pub column: i16,
    /// A btree strategy: at least, equal, less.
    strategy: u16,
    function: u32,
    value: pg_sys::Datum,
}

impl Bound {
    /// `id` must live as long as the scan.
    pub fn uuid_is(column: i16, id: &[u8; 16]) -> Bound {
        Bound {
            column,
            strategy: pg_sys::BTEqualStrategyNumber as u16,
            function: pg_sys::F_UUID_EQ,
            value: pg_sys::Datum::from(id.as_ptr()),
        }
    }

    pub fn at_least(column: i16, time: i64) -> Bound {
        Bound {
            column,
            strategy: pg_sys::BTGreaterEqualStrategyNumber as u16,
            function: pg_sys::F_TIMESTAMPTZ_GE,
            value: time.into(),
        }
    }

    pub fn xid_at_least(column: i16, xid: u64) -> Bound {
        Bound {
            column,
            strategy: pg_sys::BTGreaterEqualStrategyNumber as u16,
            function: pg_sys::F_XID8GE,
            value: xid.into(),
        }
    }

    pub fn xid_before(column: i16, xid: u64) -> Bound {
        Bound {
            column,
            strategy: pg_sys::BTLessStrategyNumber as u16,
            function: pg_sys::F_XID8LT,
            value: xid.into(),
        }
    }

    pub fn before(column: i16, time: i64) -> Bound {
        Bound {
            column,
            strategy: pg_sys::BTLessStrategyNumber as u16,
            function: pg_sys::F_TIMESTAMPTZ_LT,
            value: time.into(),
        }
    }
}

/// The rows of a table of ours in the order of one of its indexes, as the statement's snapshot sees them.
pub struct Ordered {
    relation: pg_sys::Relation,
    index: pg_sys::Relation,
    scan: pg_sys::SysScanDesc,
    snapshot: pg_sys::Snapshot,
}

impl Ordered {
    /// None where the table has no btree that begins with these columns, in their order. Its columns have these types.
    pub fn open(
        table: pg_sys::Oid,
        types: &[pg_sys::Oid],
        by: &[i16],
        bounds: &[Bound],
    ) -> Option<Ordered> {
        // SAFETY: relation and index are opened under a lock and kept open; the keys are copied by the scan, and what
        // they point to is the caller's to keep. An error on the way is cleaned up by the transaction's abort.
        unsafe {
            let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
            super::heap::check_columns((*relation).rd_att, types);
            let index = index_by(relation, by);
            if index.is_null() {
                pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
                return None;
            }
            let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetActiveSnapshot());
            let mut keys: Vec<pg_sys::ScanKeyData> = bounds
                .iter()
                .map(|bound| {
                    let mut key = std::mem::zeroed();
                    pg_sys::ScanKeyInit(
                        &mut key,
                        bound.column,
                        bound.strategy,
                        bound.function.into(),
                        bound.value,
                    );
                    key
                })
                .collect();
            let scan = pg_sys::systable_beginscan_ordered(
                relation,
                index,
                snapshot,
                keys.len() as i32,
                keys.as_mut_ptr(),
            );
            Some(Ordered {
                relation,
                index,
                scan,
                snapshot,
            })
        }
    }

    /// The next row, valid until the one after it is asked for.
    pub fn next(&mut self) -> Option<Found> {
        self.step(pg_sys::ScanDirection::ForwardScanDirection)
    }

    /// What `read` makes of the last row of all.
    pub fn last<T>(mut self, read: impl FnOnce(&Found) -> T) -> Option<T> {
        self.step(pg_sys::ScanDirection::BackwardScanDirection)
            .map(|row| read(&row))
    }

    fn step(&mut self, direction: pg_sys::ScanDirection::Type) -> Option<Found> {
        pgrx::check_for_interrupts!();
        // SAFETY: the scan is open.
        unsafe {
            let tuple = pg_sys::systable_getnext_ordered(self.scan, direction);
            (!tuple.is_null()).then(|| Found {
                tuple,
                desc: (*self.relation).rd_att,
            })
        }
    }
}

impl Drop for Ordered {
    fn drop(&mut self) {
        // An error's clean-up closes all this itself.
        if std::thread::panicking() {
            return;
        }
        // SAFETY: opened by open(), and closed once.
        unsafe {
            pg_sys::systable_endscan_ordered(self.scan);
            pg_sys::UnregisterSnapshot(self.snapshot);
            pg_sys::index_close(self.index, pg_sys::AccessShareLock as i32);
            pg_sys::table_close(self.relation, pg_sys::AccessShareLock as i32);
        }
    }
}

/// A row that a scan found.
#[derive(Clone, Copy)]
pub struct Found {
    tuple: pg_sys::HeapTuple,
    desc: pg_sys::TupleDesc,
}

impl Found {
    pub(super) fn new(tuple: pg_sys::HeapTuple, desc: pg_sys::TupleDesc) -> Found {
        Found { tuple, desc }
    }

    /// The row as it lies in its page.
    pub(super) fn tuple(&self) -> pg_sys::HeapTuple {
        self.tuple
    }

    /// Column `n`, from 1, copied. The caller knows its type.
    pub fn get<T: FromDatum>(&self, n: i32) -> Option<T> {
        // SAFETY: the columns' types were compared when the scan was opened.
        unsafe {
            let mut null = false;
            let datum = pg_sys::heap_getattr(self.tuple, n, self.desc, &mut null);
            T::from_datum(datum, null)
        }
    }

    /// Column `n`, from 1, where it lies; None is NULL.
    pub(super) fn datum(&self, n: i16) -> Option<pg_sys::Datum> {
        let mut null = false;
        // SAFETY: as above; the tuple is valid.
        let datum = unsafe { pg_sys::heap_getattr(self.tuple, n.into(), self.desc, &mut null) };
        (!null).then_some(datum)
    }

    /// The transaction that stored the row here, among those that are not frozen yet.
    pub fn stored_by(&self) -> Option<u32> {
        // SAFETY: the tuple is valid; its header is read.
        unsafe {
            let header = (*self.tuple).t_data;
            let frozen = (pg_sys::HEAP_XMIN_COMMITTED | pg_sys::HEAP_XMIN_INVALID) as u16;
            if (*header).t_infomask & frozen == frozen {
                return None;
            }
            let xmin = (*header).t_choice.t_heap.t_xmin;
            Some(xmin.into())
        }
    }
}

/// An index of the table that is a valid btree of all rows and begins with these columns, ascending; open, or NULL.
///
/// SAFETY: the relation is open.
unsafe fn index_by(relation: pg_sys::Relation, by: &[i16]) -> pg_sys::Relation {
    // SAFETY: as the function's own; the list is a copy, its indexes are opened under a lock.
    unsafe {
        let list = pg_sys::RelationGetIndexList(relation);
        let count = if list.is_null() {
            0
        } else {
            (*list).length as usize
        };
        for i in 0..count {
            let oid = (*(*list).elements.add(i)).oid_value;
            let index = pg_sys::index_open(oid, pg_sys::AccessShareLock as i32);
            let form = (*index).rd_index;
            let columns = (*form).indnkeyatts as usize;
            let ascending = |i: usize| *(*index).rd_indoption.add(i) == 0;
            if (*form).indisvalid
                && (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID
                && (*form).indkey.values.as_slice(columns).starts_with(by)
                && (0..by.len()).all(ascending)
                && super::heap::is_plain(index)
            {
                return index;
            }
            pg_sys::index_close(index, pg_sys::AccessShareLock as i32);
        }
        std::ptr::null_mut()
    }
}
