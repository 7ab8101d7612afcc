//! A parent's table and index, held open from one row of a statement to the next.

use super::local::Backend;
use super::probe::{Probe, ProbeKey};
use pgrx::prelude::*;
use std::cell::RefCell;

// Without pgrx's guard, as in probe.rs: opening and closing stand under one guard as a whole.
unsafe extern "C-unwind" {
    fn GetLatestSnapshot() -> pg_sys::Snapshot;
    fn RegisterSnapshot(snapshot: pg_sys::Snapshot) -> pg_sys::Snapshot;
    fn UnregisterSnapshot(snapshot: pg_sys::Snapshot);
    fn table_open(table: pg_sys::Oid, lock: i32) -> pg_sys::Relation;
    fn table_close(table: pg_sys::Relation, lock: i32);
    fn index_open(index: pg_sys::Oid, lock: i32) -> pg_sys::Relation;
    fn index_close(index: pg_sys::Relation, lock: i32);
    fn index_endscan(scan: pg_sys::IndexScanDesc);
    fn table_slot_create(
        table: pg_sys::Relation,
        register: *mut *mut pg_sys::List,
    ) -> *mut pg_sys::TupleTableSlot;
    fn ExecDropSingleTupleTableSlot(slot: *mut pg_sys::TupleTableSlot);
    #[cfg(not(feature = "pg18"))]
    fn index_beginscan(
        table: pg_sys::Relation,
        index: pg_sys::Relation,
        snapshot: pg_sys::Snapshot,
        nkeys: i32,
        norderbys: i32,
    ) -> pg_sys::IndexScanDesc;
    #[cfg(feature = "pg18")]
    fn index_beginscan(
        table: pg_sys::Relation,
        index: pg_sys::Relation,
        snapshot: pg_sys::Snapshot,
        instrument: *mut pg_sys::IndexScanInstrumentation,
        nkeys: i32,
        norderbys: i32,
    ) -> pg_sys::IndexScanDesc;
}

/// A parent's table and index, open for looking up one key after the other: opening them for each row of a bulk insert
/// cost as much as the look-up itself (measured).
pub(super) struct Open {
    pub(super) constraint: pg_sys::Oid,
    pub(super) parent: pg_sys::Oid,
    pub(super) index_id: pg_sys::Oid,
    /// The transaction's nesting when it was opened: an inner one must not use what goes with its abort.
    pub(super) level: i32,
    pub(super) owner: pg_sys::ResourceOwner,
    pub(super) relation: pg_sys::Relation,
    pub(super) index: pg_sys::Relation,
    pub(super) slot: *mut pg_sys::TupleTableSlot,
    pub(super) snapshot: pg_sys::Snapshot,
    pub(super) scan: pg_sys::IndexScanDesc,
    pub(super) keys: Vec<pg_sys::ScanKeyData>,
}

static OPEN: Backend<RefCell<Vec<Open>>> = Backend::new(RefCell::new(Vec::new()));

/// Keys of one statement whose scans are kept open; a table with more opens the others anew for each row.
const KEPT: usize = 8;

pub(super) fn take_open(probe: &Probe) -> Option<Open> {
    let level = super::transaction::nest_level();
    OPEN.with_borrow_mut(|all| {
        let found = all.iter().position(|o| {
            o.constraint == probe.constraint
                && o.index_id == probe.index
                && o.parent == probe.parent
                && o.level == level
        })?;
        Some(all.swap_remove(found))
    })
}

/// Until the statement ends, where there is room.
pub(super) fn keep(open: Open) {
    let room = OPEN.with_borrow(|all| all.len() < KEPT);
    if room {
        OPEN.with_borrow_mut(|all| all.push(open));
    } else {
        // SAFETY: nobody else has it.
        unsafe { close(open) };
    }
}

/// At the end of a statement, and before one that may change tables: PostgreSQL alters none that is open, at whatever
/// nesting level it was opened.
#[inline]
pub fn close_all() {
    close_from(0);
}

/// Those of this nesting level and deeper.
pub fn close_from(level: i32) {
    if OPEN.with_borrow(|all| all.is_empty()) {
        return;
    }
    let mine: Vec<Open> =
        OPEN.with_borrow_mut(|all| all.extract_if(.., |o| o.level >= level).collect());
    for open in mine {
        // SAFETY: taken out, so nobody else has it.
        unsafe { close(open) };
    }
}

/// An aborted (sub)transaction closed them itself.
pub fn forget(level: i32) {
    if !OPEN.with_borrow(|all| all.is_empty()) {
        OPEN.with_borrow_mut(|all| all.retain(|o| o.level < level));
    }
}

/// SAFETY: inside a transaction. What is opened belongs to the (sub)transaction and not to the portal that happens to
/// run, which may end earlier (COPY).
pub(super) unsafe fn open_for(probe: &Probe) -> Open {
    // SAFETY: relation and index are opened with the lock that PostgreSQL's own check takes; the scan keys are built
    // from the index's own operator family; the slot belongs to the relation. An error is cleaned up by the abort.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            let (owner, memory) = (pg_sys::CurrentResourceOwner, pg_sys::CurrentMemoryContext);
            pg_sys::CurrentResourceOwner = pg_sys::CurTransactionResourceOwner;
            pg_sys::CurrentMemoryContext = pg_sys::CurTransactionContext;
            let relation = table_open(probe.parent, pg_sys::RowShareLock as i32);
            let index = index_open(probe.index, pg_sys::RowShareLock as i32);
            let slot = table_slot_create(relation, std::ptr::null_mut());
            let snapshot = newest();
            let scan = begin(relation, index, snapshot, probe.keys.len() as i32);
            pg_sys::CurrentResourceOwner = owner;
            pg_sys::CurrentMemoryContext = memory;
            Open {
                constraint: probe.constraint,
                parent: probe.parent,
                index_id: probe.index,
                level: super::transaction::nest_level(),
                owner: pg_sys::CurTransactionResourceOwner,
                relation,
                index,
                slot,
                snapshot,
                scan,
                keys: Vec::new(),
            }
        })
    }
    .with_keys(probe)
}

impl Open {
    fn with_keys(mut self, probe: &Probe) -> Open {
        // The operators' functions may keep something beside them, for as long as the scan is open.
        self.keys = super::transaction::in_subtransaction_memory(|| {
            // SAFETY: the index is open.
            let of = |k| unsafe { scan_key(self.index, k) };
            probe.keys.iter().map(of).collect()
        });
        self.keys.sort_by_key(|k| k.sk_attno);
        self
    }
}

/// SAFETY: as `Open` is given out by `take_open` or `open_for`.
unsafe fn close(open: Open) {
    // SAFETY: each was opened under this owner, and is closed once.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            let owner = pg_sys::CurrentResourceOwner;
            pg_sys::CurrentResourceOwner = open.owner;
            index_endscan(open.scan);
            UnregisterSnapshot(open.snapshot);
            ExecDropSingleTupleTableSlot(open.slot);
            index_close(open.index, pg_sys::NoLock as i32);
            table_close(open.relation, pg_sys::NoLock as i32);
            pg_sys::CurrentResourceOwner = owner;
        });
    }
}

/// SAFETY: under a guard, in frames that own nothing.
unsafe fn newest() -> pg_sys::Snapshot {
    // SAFETY: as the function's own. Every row of this transaction counts, those of the running command too.
    unsafe {
        let snapshot = RegisterSnapshot(GetLatestSnapshot());
        (*snapshot).curcid = pg_sys::InvalidCommandId - 1;
        snapshot
    }
}

/// Puts the newest snapshot in the place of the kept one.
///
/// SAFETY: under a guard, in frames that own nothing.
pub(super) unsafe fn renew(open: &mut Open) {
    // SAFETY: as the function's own; the scan is set back before its next use.
    unsafe {
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::CurrentResourceOwner = open.owner;
        let snapshot = newest();
        (*open.scan).xs_snapshot = snapshot;
        UnregisterSnapshot(open.snapshot);
        open.snapshot = snapshot;
        pg_sys::CurrentResourceOwner = owner;
    }
}

/// SAFETY: under a guard; relation and index are open.
pub(super) unsafe fn begin(
    relation: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    keys: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: as the function's own.
    #[cfg(not(feature = "pg18"))]
    unsafe {
        index_beginscan(relation, index, snapshot, keys, 0)
    }
    // SAFETY: as the function's own; no instrumentation wanted.
    #[cfg(feature = "pg18")]
    unsafe {
        index_beginscan(relation, index, snapshot, std::ptr::null_mut(), keys, 0)
    }
}

/// SAFETY: the index is open; the operator belongs to the family of the column.
pub(super) unsafe fn scan_key(index: pg_sys::Relation, key: &ProbeKey) -> pg_sys::ScanKeyData {
    // SAFETY: as the function's own; the entry is initialised before use.
    unsafe {
        let column = key.index_column as usize - 1;
        let family = *(*index).rd_opfamily.add(column);
        let (operator, strategy) = key.resolved.get().unwrap_or_else(|| {
            let mut types = (pg_sys::InvalidOid, pg_sys::InvalidOid);
            pg_sys::op_input_types(key.operator, &mut types.0, &mut types.1);
            let strategy = pg_sys::get_op_opfamily_strategy(key.operator, family);
            let resolved = ((types.1, pg_sys::get_opcode(key.operator)), strategy);
            key.resolved.set(Some(resolved));
            resolved
        });
        let mut entry = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyEntryInitialize(
            &mut entry,
            0,
            key.index_column,
            strategy as pg_sys::StrategyNumber,
            operator.0,
            *(*index).rd_indcollation.add(column),
            operator.1,
            pg_sys::Datum::from(0),
        );
        entry
    }
}
