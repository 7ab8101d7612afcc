//! Reading a whole table of somebody else's without a query. Planning one would evaluate what its owner wrote into
//! partial indexes, checks and casts, with the rights of whoever plans.

use super::trigger::RowImage;
use pgrx::prelude::*;

/// Calls `see` with every row that is committed now or this transaction's own. The caller holds a lock on the table.
pub fn for_each_row(table: pg_sys::Oid, mut see: impl FnMut(&RowImage)) {
    // SAFETY: the relation stays open and the slot's tuple valid while it is looked at; an error on the way is cleaned
    // up by the transaction's abort.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
        // A partitioned table stores nothing.
        if (*(*relation).rd_rel).relkind == pg_sys::RELKIND_PARTITIONED_TABLE as std::ffi::c_char {
            pg_sys::table_close(relation, pg_sys::NoLock as i32);
            return;
        }
        let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        let scan = pg_sys::table_beginscan(relation, snapshot, 0, std::ptr::null_mut());
        while pg_sys::table_scan_getnextslot(
            scan,
            pg_sys::ScanDirection::ForwardScanDirection,
            slot,
        ) {
            pgrx::check_for_interrupts!();
            let mut owned = false;
            let tuple = pg_sys::ExecFetchSlotHeapTuple(slot, false, &mut owned);
            see(&RowImage::new(tuple, (*relation).rd_att));
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
        let pages =
            pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM);
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

/// `for_each_row` from one page on and before another; `see` answers whether to go on.
pub fn for_rows_between(
    table: pg_sys::Oid,
    first: u32,
    end: u32,
    mut see: impl FnMut(&RowImage) -> bool,
) {
    if first >= end {
        return;
    }
    // SAFETY: as for_each_row(); no synchronised scan, so that the limits hold, and set before the first row is read.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
        let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        let scan =
            pg_sys::table_beginscan_strat(relation, snapshot, 0, std::ptr::null_mut(), true, false);
        pg_sys::heap_setscanlimits(scan, first, end - first);
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
