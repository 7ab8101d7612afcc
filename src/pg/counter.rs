//! Counters that many sessions change in turn, outside of their transactions: the rows of an unlogged table, rewritten in
//! place under the lock of their page. What a transaction changed and how it ended is the content's own business
//! (usage/tally.rs).
//!
//! An ordinary UPDATE would have every writer of an organization wait for the one before to commit, and leave a dead row
//! behind each, which everybody else walks past for as long as some long report holds them: rewritten in place, a
//! counter costs a page look-up and leaves nothing. Unlogged, since it can be counted anew: it is gone after a crash, on a
//! standby and in a restored database, and the next writer counts.

use super::{catalog, heap, raw};
use crate::usage::tally::{Entry, Fate, Fates};
use pgrx::prelude::*;
use rustc_hash::FxHashMap;
use std::cell::RefCell;

pub type Key = [u8; 16];

/// Columns: key, the quota that it is for, the counter.
const TYPES: [pg_sys::Oid; 3] = [pg_sys::UUIDOID, pg_sys::UUIDOID, pg_sys::BYTEAOID];
/// Where the counter's bytes begin, behind the row's header: two uuids and the length of a bytea.
const BEFORE: usize = 16 + 16 + 4;

thread_local! {
    // Where each counter was found: it stays there.
    static PLACES: RefCell<FxHashMap<Key, (u32, u16)>> = RefCell::default();
}

fn table() -> pg_sys::Oid {
    catalog::house().counters
}

fn index() -> pg_sys::Oid {
    catalog::relation_in(catalog::house().schema, c"quota_counters_pkey")
        .unwrap_or(pg_sys::InvalidOid)
}

/// Quotas changed: a counter may be gone.
pub fn forget_places() {
    PLACES.take();
}

/// Runs `work` on a counter's bytes while nobody else sees or changes them; None where there is no such counter. `work`
/// answers quickly, opens no relation and waits for nobody.
pub fn with<R>(key: &Key, size: usize, work: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
    let mut work = Some(work);
    // SAFETY: the relation is open, the buffer pinned and locked while the row is looked at; an error on the way has the
    // abort release all of them. The page is written to within the row's bounds only, which are compared.
    unsafe {
        let relation = pg_sys::table_open(table(), pg_sys::RowExclusiveLock as i32);
        let known = PLACES.with_borrow(|p| p.get(key).copied());
        let mut result = None;
        for place in [known, None] {
            let Some((block, line)) = place.or_else(|| find(relation, key)) else {
                break;
            };
            let buffer = pg_sys::ReadBuffer(relation, block);
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as i32);
            if let Some(bytes) = row(buffer, line, key, size) {
                result = work.take().map(|work| work(bytes));
                pg_sys::MarkBufferDirty(buffer);
            }
            pg_sys::UnlockReleaseBuffer(buffer);
            if result.is_some() {
                if known != Some((block, line)) {
                    PLACES.with_borrow_mut(|p| p.insert(*key, (block, line)));
                }
                break;
            }
        }
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        result
    }
}

/// The bytes of a counter in its page.
///
/// SAFETY: a buffer pinned and locked.
unsafe fn row<'a>(
    buffer: pg_sys::Buffer,
    line: u16,
    key: &Key,
    size: usize,
) -> Option<&'a mut [u8]> {
    // SAFETY: as the function's own; line and length are compared with what the page has.
    unsafe {
        let page = pg_sys::BufferGetPage(buffer);
        if line == 0 || line > pg_sys::PageGetMaxOffsetNumber(page.cast()) {
            return None;
        }
        let item = pg_sys::PageGetItemId(page, line);
        if (*item).lp_flags() != pg_sys::LP_NORMAL {
            return None;
        }
        let tuple = pg_sys::PageGetItem(page.cast(), item).cast::<u8>();
        let header = (*tuple.cast::<pg_sys::HeapTupleHeaderData>()).t_hoff as usize;
        if (*item).lp_len() as usize != header + BEFORE + size {
            return None;
        }
        let stored = std::slice::from_raw_parts(tuple.add(header), 16);
        (stored == key).then(|| std::slice::from_raw_parts_mut(tuple.add(header + BEFORE), size))
    }
}

/// Where a counter is stored, by its index. It was stored for good, so every snapshot sees it.
///
/// SAFETY: the counters' table, open.
unsafe fn find(table: pg_sys::Relation, key: &Key) -> Option<(u32, u16)> {
    // SAFETY: as the function's own; the scan is closed at once.
    unsafe {
        let mut scan_key = std::mem::zeroed();
        pg_sys::ScanKeyInit(
            &mut scan_key,
            1,
            pg_sys::BTEqualStrategyNumber as u16,
            pg_sys::F_UUID_EQ.into(),
            pg_sys::Datum::from(key.as_ptr()),
        );
        let scan = pg_sys::systable_beginscan(
            table,
            index(),
            true,
            std::ptr::null_mut(),
            1,
            &mut scan_key,
        );
        let tuple = pg_sys::systable_getnext(scan);
        let place = (!tuple.is_null()).then(|| {
            let place = (*tuple).t_self;
            let block = (u32::from(place.ip_blkid.bi_hi) << 16) | u32::from(place.ip_blkid.bi_lo);
            (block, place.ip_posid)
        });
        pg_sys::systable_endscan(scan);
        place
    }
}

/// Stores a counter for good, whether this transaction commits or not. Nobody else does meanwhile: the caller holds
/// `alone`.
pub fn create(key: &Key, quota: &Key, content: &[u8]) {
    let mut bytes = vec![0; raw::HEADER];
    bytes.extend_from_slice(content);
    let uuid = |id: &Key| Some(pg_sys::Datum::from(id.as_ptr()));
    heap::insert_for_good(
        table(),
        &TYPES,
        &[uuid(key), uuid(quota), Some(raw::with_header(&mut bytes))],
    );
}

/// Runs `work` while no other session does for this counter; not until the transaction's end.
pub fn alone<R>(key: &Key, work: impl FnOnce() -> R) -> R {
    let half = |at: usize| u32::from_ne_bytes(key[at..at + 4].try_into().expect("4 bytes"));
    // SAFETY: the tag is one that no function of PostgreSQL's makes; the lock goes with the transaction where `work` fails.
    unsafe {
        let tag = pg_sys::LOCKTAG {
            locktag_field1: pg_sys::MyDatabaseId.into(),
            locktag_field2: half(0),
            locktag_field3: half(4),
            locktag_field4: 0x7174,
            locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
            locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
        };
        pg_sys::LockAcquire(&tag, pg_sys::ExclusiveLock as i32, false, false);
        let result = work();
        pg_sys::LockRelease(&tag, pg_sys::ExclusiveLock as i32, false);
        result
    }
}

/// Waits until a transaction has ended.
pub fn wait_for(xid: u32) {
    // SAFETY: as PostgreSQL waits for the writer of a row.
    unsafe {
        pg_sys::XactLockTableWait(
            xid.into(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            pg_sys::XLTW_Oper::XLTW_None,
        );
    }
}

/// This transaction, as the counters know it.
pub struct Me {
    top: u64,
    open: Vec<u32>,
}

impl Me {
    /// Of a transaction that writes: it gets its number if it had none.
    pub fn writing() -> Me {
        // SAFETY: called outside of parallel queries.
        unsafe {
            let top = pg_sys::GetTopFullTransactionId().value;
            let mut open = vec![u32::from(pg_sys::GetCurrentTransactionId())];
            while *open.last().expect("not empty") != top as u32 {
                let inner = *open.last().expect("not empty");
                open.push(pg_sys::SubTransGetParent(inner.into()).into());
            }
            open.reverse();
            Me { top, open }
        }
    }

    /// Of one that may only look.
    pub fn looking() -> Me {
        // SAFETY: reads backend state.
        match unsafe { pg_sys::GetTopFullTransactionIdIfAny().value } {
            0 => Me {
                top: 0,
                open: vec![0],
            },
            _ => Me::writing(),
        }
    }
}

impl Fates for Me {
    fn fate(&self, entry: &Entry) -> Fate {
        let top = pg_sys::TransactionId::from(entry.top as u32);
        let xid = pg_sys::TransactionId::from(entry.xid);
        // SAFETY: look-ups in shared memory and, for numbers that it still holds, in the commit log.
        unsafe {
            if entry.top == self.top {
                return match pg_sys::TransactionIdIsCurrentTransactionId(xid) {
                    true => Fate::Mine,
                    false => Fate::Gone,
                };
            }
            // One before this transaction was given a number, and not long ago.
            let recent = self
                .top
                .checked_sub(entry.top)
                .is_some_and(|age| age < 1 << 31);
            if !recent {
                let next = pg_sys::ReadNextFullTransactionId().value;
                if entry.top >= next || next - entry.top > 1 << 31 {
                    return Fate::Forgotten;
                }
            }
            if pg_sys::TransactionIdIsInProgress(top) {
                // In this order: one that ends meanwhile still counts as running.
                return match xid != top && pg_sys::TransactionIdDidAbort(xid) {
                    true => Fate::Gone,
                    false => Fate::Running,
                };
            }
            if precedes(top, oldest_known()) {
                return Fate::Forgotten;
            }
            match pg_sys::TransactionIdDidCommit(xid) {
                true => Fate::Committed,
                false => Fate::Gone,
            }
        }
    }

    fn owner(&self, entry: &Entry) -> usize {
        let mut xid = entry.xid;
        loop {
            if let Some(place) = self.open.iter().rposition(|open| *open == xid) {
                return place;
            }
            // SAFETY: one of this transaction's, whose parents are on record.
            xid = unsafe { pg_sys::SubTransGetParent(xid.into()) }.into();
            if xid == 0 {
                return 0;
            }
        }
    }

    fn me(&self) -> (u64, &[u32]) {
        (self.top, &self.open)
    }
}

/// As PostgreSQL compares the numbers of ordinary transactions.
fn precedes(one: pg_sys::TransactionId, other: pg_sys::TransactionId) -> bool {
    (u32::from(one).wrapping_sub(u32::from(other)) as i32) < 0
}

/// The oldest transaction whose end the commit log still tells.
fn oldest_known() -> pg_sys::TransactionId {
    // SAFETY: a number in shared memory, which is read whole.
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    unsafe {
        (*pg_sys::ShmemVariableCache).oldestClogXid
    }
    // SAFETY: as above.
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    unsafe {
        (*pg_sys::TransamVariables).oldestClogXid
    }
}
