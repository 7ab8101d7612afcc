//! Rows of a table of ours in an order that no index keeps: its pages are read, the keys sorted, and the rows fetched
//! again in their order. So a writer pays nothing for who comes seldom, and what is in memory has a bound: of a table with
//! more rows, those with the least keys come first, and the pages are read again for the next.

use super::scan::Found;
use pgrx::prelude::*;
use std::collections::BinaryHeap;

/// So many keys are sorted at once.
const AT_ONCE: usize = 500_000;

/// Page and line.
type Place = (u32, u16);

/// What is asked of a row: its key, if it is wanted.
type KeyOf<K> = Box<dyn Fn(&Found) -> Option<K>>;

pub struct Gathered<K> {
    relation: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    first_page: u32,
    key_of: KeyOf<K>,
    /// The next ones, the last of them first.
    batch: Vec<(K, Place)>,
    /// There are more than those of the batch.
    more: bool,
    tuple: Box<pg_sys::HeapTupleData>,
    buffer: pg_sys::Buffer,
    page: u32,
}

impl<K: Ord + Copy> Gathered<K> {
    /// The rows that the active snapshot sees, from a page on. The table's columns have these types.
    pub fn open(
        table: pg_sys::Oid,
        types: &[pg_sys::Oid],
        first_page: u32,
        key_of: KeyOf<K>,
    ) -> Gathered<K> {
        // SAFETY: opened under a lock and kept open; an error on the way is cleaned up by the transaction's abort.
        let (relation, snapshot) = unsafe {
            let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
            super::heap::check_columns((*relation).rd_att, types);
            let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetActiveSnapshot());
            (relation, snapshot)
        };
        let mut gathered = Gathered {
            relation,
            snapshot,
            first_page,
            key_of,
            batch: vec![],
            more: false,
            tuple: Box::default(),
            buffer: pg_sys::InvalidBuffer as pg_sys::Buffer,
            page: 0,
        };
        gathered.fill(None);
        gathered
    }

    /// Sorts the least keys behind one.
    fn fill(&mut self, after: Option<(K, Place)>) {
        let mut least: BinaryHeap<(K, Place)> = BinaryHeap::new();
        self.more = false;
        // SAFETY: the relation is open, the scan is ended here; its rows are looked at one by one, while their page is
        // pinned.
        unsafe {
            let pages = pg_sys::RelationGetNumberOfBlocksInFork(
                self.relation,
                pg_sys::ForkNumber::MAIN_FORKNUM,
            );
            if self.first_page >= pages {
                return;
            }
            let nothing = std::ptr::null_mut();
            let scan = pg_sys::table_beginscan_strat(
                self.relation,
                self.snapshot,
                0,
                nothing,
                true,
                false,
            );
            pg_sys::heap_setscanlimits(scan, self.first_page, pages - self.first_page);
            loop {
                pgrx::check_for_interrupts!();
                let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
                if tuple.is_null() {
                    break;
                }
                let row = Found::new(tuple, (*self.relation).rd_att);
                let Some(key) = (self.key_of)(&row) else {
                    continue;
                };
                let at = (*tuple).t_self;
                let page = (u32::from(at.ip_blkid.bi_hi) << 16) | u32::from(at.ip_blkid.bi_lo);
                let entry = (key, (page, at.ip_posid));
                if after.is_some_and(|after| entry <= after) {
                    continue;
                }
                least.push(entry);
                if least.len() > AT_ONCE {
                    least.pop();
                    self.more = true;
                }
            }
            pg_sys::table_endscan(scan);
        }
        self.batch = least.into_sorted_vec();
        self.batch.reverse();
    }

    /// The next row, valid until the one after it is asked for.
    pub fn next(&mut self) -> Option<Found> {
        pgrx::check_for_interrupts!();
        let (key, (page, line)) = self.batch.pop()?;
        if self.batch.is_empty() && self.more {
            self.fill(Some((key, (page, line))));
        }
        self.release();
        let place = &mut self.tuple.t_self;
        place.ip_blkid.bi_hi = (page >> 16) as u16;
        place.ip_blkid.bi_lo = page as u16;
        place.ip_posid = line;
        self.page = page;
        // SAFETY: relation and snapshot are those that found the row here; its page stays pinned until release().
        let found = unsafe {
            pg_sys::heap_fetch(
                self.relation,
                self.snapshot,
                &mut *self.tuple,
                &mut self.buffer,
                false,
            )
        };
        // SAFETY: as above.
        let desc = unsafe { (*self.relation).rd_att };
        found.then(|| Found::new(&mut *self.tuple, desc))
    }

    /// The page of the row that was given last.
    pub fn page(&self) -> u32 {
        self.page
    }

    fn release(&mut self) {
        if self.buffer != pg_sys::InvalidBuffer as pg_sys::Buffer {
            // SAFETY: pinned by next().
            unsafe { pg_sys::ReleaseBuffer(self.buffer) };
            self.buffer = pg_sys::InvalidBuffer as pg_sys::Buffer;
        }
    }
}

impl<K> Drop for Gathered<K> {
    fn drop(&mut self) {
        // An error's clean-up closes all this itself.
        if std::thread::panicking() {
            return;
        }
        // SAFETY: opened by open(), pinned by next(), and let go once.
        unsafe {
            if self.buffer != pg_sys::InvalidBuffer as pg_sys::Buffer {
                pg_sys::ReleaseBuffer(self.buffer);
            }
            pg_sys::UnregisterSnapshot(self.snapshot);
            pg_sys::table_close(self.relation, pg_sys::AccessShareLock as i32);
        }
    }
}

/// The file that a table's rows lie in, which VACUUM FULL and TRUNCATE exchange, and how many pages it has now.
pub fn extent(table: pg_sys::Oid) -> (u32, u32) {
    // SAFETY: opened and closed here.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
        #[cfg(feature = "pg15")]
        let file = (*relation).rd_node.relNode;
        #[cfg(not(feature = "pg15"))]
        let file = (*relation).rd_locator.relNumber;
        let pages =
            pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM);
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        (file.into(), pages)
    }
}
