//! Reading the row that a foreign key leads to, without a query: planning one on somebody else's table evaluates what its
//! owner wrote.

use super::open_parent;
use super::probe::{self, Probe};
use super::trigger::RowImage;
use super::value::Value;
use pgrx::prelude::*;

/// As which snapshot has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The newest there is, with the rows of the running command.
    Newest,
    /// The statement's own; a parallel worker has no other.
    OfStatement,
}

/// What `read` makes of the parent's row, as the newest snapshot has it; None where there is none. The row is gone
/// afterwards, so what is kept of it must be copied.
pub fn parent<T>(probe: &Probe, key: &[Value], read: impl FnOnce(&RowImage) -> T) -> Option<T> {
    row(probe, key, When::Newest, read)
}

/// `parent()` as of another moment.
pub fn row<T>(
    probe: &Probe,
    key: &[Value],
    when: When,
    read: impl FnOnce(&RowImage) -> T,
) -> Option<T> {
    if !probe.is_known() {
        return None;
    }
    // SAFETY: inside a transaction, on a table that a key of a locked one leads to; everything opened is closed, and an
    // error on the way closes it with the transaction. The slot belongs to the relation.
    unsafe {
        let relation = pg_sys::table_open(probe.parent, pg_sys::AccessShareLock as i32);
        let index = pg_sys::index_open(probe.index, pg_sys::AccessShareLock as i32);
        let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        let snapshot = match when {
            When::OfStatement => pg_sys::RegisterSnapshot(pg_sys::GetActiveSnapshot()),
            When::Newest => {
                let newest = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
                // Rows of the running command count, too.
                (*newest).curcid = pg_sys::InvalidCommandId - 1;
                newest
            }
        };
        let mut keys: Vec<pg_sys::ScanKeyData> = probe
            .keys
            .iter()
            .zip(key)
            .map(|(k, value)| {
                let mut entry = open_parent::scan_key(index, k);
                entry.sk_argument = probe::converted(k.cast, value.datum);
                entry
            })
            .collect();
        keys.sort_by_key(|k| k.sk_attno);
        let scan = pg_sys::ffi::pg_guard_ffi_boundary(|| {
            open_parent::begin(relation, index, snapshot, keys.len() as i32)
        });
        pg_sys::index_rescan(
            scan,
            keys.as_mut_ptr(),
            keys.len() as i32,
            std::ptr::null_mut(),
            0,
        );
        let found =
            pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot);
        let answer = found.then(|| {
            let mut owned = false;
            let tuple = pg_sys::ExecFetchSlotHeapTuple(slot, false, &mut owned);
            let answer = read(&RowImage::new(tuple, (*relation).rd_att));
            if owned {
                pg_sys::heap_freetuple(tuple);
            }
            answer
        });
        pg_sys::index_endscan(scan);
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::index_close(index, pg_sys::NoLock as i32);
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        answer
    }
}
