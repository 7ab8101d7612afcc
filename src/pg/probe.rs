//! Looking a foreign key's parent up directly in its unique index, and holding it.

use super::key::{KeyColumn, Keys};
use super::local::Backend;
use super::partition::Leaf;
use super::value::Value;
use pgrx::prelude::*;
use std::cell::{Cell, RefCell};

/// How to find the parent row of a key, and which column says whose it is.
#[derive(Debug)]
pub struct Probe {
    /// The foreign key itself: another one on the same columns may compare them with other operators.
    pub constraint: pg_sys::Oid,
    pub parent: pg_sys::Oid,
    pub index: pg_sys::Oid,
    pub org: Option<KeyColumn>,
    /// For each column of the key: its place in the index, and the operator that compares parent and child.
    pub keys: Vec<ProbeKey>,
}

#[derive(Clone, Debug)]
pub struct ProbeKey {
    pub index_column: i16,
    pub operator: pg_sys::Oid,
    /// The parent's column, as its name stands in PostgreSQL's own query for the key.
    pub parent_column: String,
    pub cast: Cast,
    /// The operator's right type, its function, and its strategy in the index, once they were looked up.
    pub resolved: Cell<Option<Resolved>>,
}

type Resolved = ((pg_sys::Oid, pg_sys::Oid), i32);

/// What makes the child's value one that the operator understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// The same type, or one stored alike.
    None,
    Function(pg_sys::Oid),
    /// PostgreSQL converts by way of text or element by element; we do not.
    Unknown,
}

/// The cast that a foreign key's check applies to the child's value, by the rule of `ri_HashCompareOp()`.
pub fn cast_for(child_type: pg_sys::Oid, operator: pg_sys::Oid) -> Cast {
    // SAFETY: catalog look-ups by id.
    unsafe {
        let (mut left, mut right) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        pg_sys::op_input_types(operator, &mut left, &mut right);
        if child_type == right || pg_sys::IsBinaryCoercible(child_type, right) {
            return Cast::None;
        }
        let mut function = pg_sys::InvalidOid;
        match pg_sys::find_coercion_pathway(
            right,
            pg_sys::getBaseType(child_type),
            pg_sys::CoercionContext::COERCION_IMPLICIT,
            &mut function,
        ) {
            pg_sys::CoercionPathType::COERCION_PATH_FUNC => Cast::Function(function),
            pg_sys::CoercionPathType::COERCION_PATH_RELABELTYPE => Cast::None,
            _ => Cast::Unknown,
        }
    }
}

/// What stands at the other end of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parent {
    Missing,
    /// Of the expected organization, and locked against deletion until the transaction ends.
    Held,
    Foreign,
}

/// A parent that is updated or deleted under us is looked up again this often before it counts as missing.
const ATTEMPTS: usize = 100;
/// Keys of one statement whose scans are kept open; a table with more opens the others anew for each row.
const KEPT: usize = 8;

// PostgreSQL's own functions without pgrx's guard, which costs some 70 instructions a call: a look-up needs a dozen of them
// and stands under one guard as a whole, in a frame that owns nothing.
unsafe extern "C-unwind" {
    fn index_rescan(
        scan: pg_sys::IndexScanDesc,
        keys: pg_sys::ScanKey,
        nkeys: i32,
        orderbys: pg_sys::ScanKey,
        norderbys: i32,
    );
    fn index_getnext_slot(
        scan: pg_sys::IndexScanDesc,
        direction: pg_sys::ScanDirection::Type,
        slot: *mut pg_sys::TupleTableSlot,
    ) -> bool;
    fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, attnum: i32);
    fn GetCurrentCommandId(used: bool) -> pg_sys::CommandId;
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
struct Open {
    constraint: pg_sys::Oid,
    parent: pg_sys::Oid,
    index_id: pg_sys::Oid,
    /// The transaction's nesting when it was opened: an inner one must not use what goes with its abort.
    level: i32,
    owner: pg_sys::ResourceOwner,
    relation: pg_sys::Relation,
    index: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    snapshot: pg_sys::Snapshot,
    scan: pg_sys::IndexScanDesc,
    keys: Vec<pg_sys::ScanKeyData>,
}

static OPEN: Backend<RefCell<Vec<Open>>> = Backend::new(RefCell::new(Vec::new()));

/// Looks the parent up under the newest snapshot (it sees this command's own rows too: self-references, parents
/// written by the same statement). Another organization's parent is told at once, without waiting for its lock, which
/// would be an answer. Our own is locked FOR KEY SHARE, so that nobody replaces it under another organization.
///
/// A snapshot kept from an earlier row of the statement is good enough to find a parent, since the lock says whether it
/// still lives; before a parent counts as missing or foreign the newest one is asked.
pub fn find(probe: &Probe, key: &[Value], org: &Keys) -> Parent {
    look_up(probe, key, org, true)
}

/// `find()` without the lock: what stands at the other end of an existing reference.
pub fn peek(probe: &Probe, key: &[Value], org: &Keys) -> Parent {
    look_up(probe, key, org, false)
}

/// The value as the key's operator compares it with the parent's, and its type then.
pub fn as_compared(key: &ProbeKey, value: &Value) -> (pg_sys::Datum, pg_sys::Oid) {
    // SAFETY: a catalog look-up by id; the datum is of the type that the cast was chosen for.
    unsafe {
        let (mut left, mut right) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        pg_sys::op_input_types(key.operator, &mut left, &mut right);
        (converted(key.cast, value.datum), right)
    }
}

impl Probe {
    /// Whether we know how to look the key up.
    pub fn is_known(&self) -> bool {
        self.keys.iter().all(|k| k.cast != Cast::Unknown)
    }

    /// The same key in one partition of its parent.
    pub fn for_partition(&self, leaf: Leaf, org: Option<KeyColumn>) -> Probe {
        Probe {
            constraint: self.constraint,
            parent: leaf.table,
            index: leaf.index,
            org,
            keys: self.keys.clone(),
        }
    }
}

fn look_up(probe: &Probe, key: &[Value], org: &Keys, lock: bool) -> Parent {
    // A key that we cannot look up is not vouched for: PostgreSQL's check will find no parent either.
    if probe.keys.iter().any(|k| k.cast == Cast::Unknown) {
        return Parent::Foreign;
    }
    let (mut open, mut fresh) = match take_open(probe) {
        Some(open) => (open, false),
        // SAFETY: inside a transaction, by a trigger or a check of a table that is locked.
        None => (unsafe { open_for(probe) }, true),
    };
    for entry in &mut open.keys {
        let (i, k) = probe
            .keys
            .iter()
            .enumerate()
            .find(|(_, k)| k.index_column == entry.sk_attno)
            .expect("a scan key for each column");
        // SAFETY: the datum is of the type that the cast was chosen for.
        entry.sk_argument = unsafe { converted(k.cast, key[i].datum) };
    }
    let mut answer = Parent::Missing;
    for _ in 0..ATTEMPTS {
        // SAFETY: what is open belongs to the transaction; the closure owns nothing.
        let told =
            unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| look(&mut open, probe.org, org, lock)) };
        match told {
            Some(Parent::Held) => {
                answer = Parent::Held;
                break;
            }
            Some(other) if fresh => {
                answer = other;
                break;
            }
            // Gone or changed under us, or perhaps committed since.
            // SAFETY: as above.
            _ => unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| renew(&mut open)) },
        }
        fresh = true;
    }
    keep(open);
    answer
}

fn take_open(probe: &Probe) -> Option<Open> {
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
fn keep(open: Open) {
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
unsafe fn open_for(probe: &Probe) -> Open {
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
unsafe fn renew(open: &mut Open) {
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

/// One look; None where the row changed under us.
///
/// SAFETY: under a guard, in frames that own nothing; what is open is open.
unsafe fn look(
    open: &mut Open,
    column: Option<KeyColumn>,
    org: &Keys,
    lock: bool,
) -> Option<Parent> {
    // SAFETY: as the function's own. The scan's own memory and pins are the transaction's.
    unsafe {
        let (owner, memory) = (pg_sys::CurrentResourceOwner, pg_sys::CurrentMemoryContext);
        pg_sys::CurrentResourceOwner = open.owner;
        pg_sys::CurrentMemoryContext = pg_sys::CurTransactionContext;
        index_rescan(
            open.scan,
            open.keys.as_mut_ptr(),
            open.keys.len() as i32,
            std::ptr::null_mut(),
            0,
        );
        let answer = if !index_getnext_slot(
            open.scan,
            pg_sys::ScanDirection::ForwardScanDirection,
            open.slot,
        ) {
            Some(Parent::Missing)
        } else if !is_of(open.slot, column, org) {
            Some(Parent::Foreign)
        } else if !lock || hold(open) {
            Some(Parent::Held)
        } else {
            None
        };
        // No page of the parent stays pinned between rows.
        if let Some(clear) = (*(*open.slot).tts_ops).clear {
            clear(open.slot);
        }
        if let Some(reset) = (*(*open.relation).rd_tableam).index_fetch_reset {
            reset((*open.scan).xs_heapfetch);
        }
        pg_sys::CurrentResourceOwner = owner;
        pg_sys::CurrentMemoryContext = memory;
        answer
    }
}

/// Whether the row in the slot is of the organization; not where the parent's protection is damaged (no column): nobody
/// knows then whose the row is.
///
/// SAFETY: under a guard; the slot holds a row.
unsafe fn is_of(slot: *mut pg_sys::TupleTableSlot, column: Option<KeyColumn>, org: &Keys) -> bool {
    let Some(KeyColumn { attnum, kind }) = column else {
        return false;
    };
    // SAFETY: as the function's own; the column is of the kind.
    unsafe {
        if (*slot).tts_nvalid < attnum {
            slot_getsomeattrs_int(slot, i32::from(attnum));
        }
        let at = attnum as usize - 1;
        !*(*slot).tts_isnull.add(at) && org.is_datum(kind, *(*slot).tts_values.add(at))
    }
}

/// Locks the row in the slot FOR KEY SHARE; false where it changed under us.
///
/// SAFETY: under a guard; the slot holds a row of the open relation.
unsafe fn hold(open: &mut Open) -> bool {
    // SAFETY: as the function's own.
    unsafe {
        let mut row = (*open.slot).tts_tid;
        let mut failure = pg_sys::TM_FailureData::default();
        let Some(tuple_lock) = (*(*open.relation).rd_tableam).tuple_lock else {
            return false;
        };
        tuple_lock(
            open.relation,
            &mut row,
            open.snapshot,
            open.slot,
            GetCurrentCommandId(false) + 1,
            pg_sys::LockTupleMode::LockTupleKeyShare,
            pg_sys::LockWaitPolicy::LockWaitBlock,
            0,
            &mut failure,
        ) == pg_sys::TM_Result::TM_Ok
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

/// SAFETY: the datum is of the type that the cast was chosen for.
pub(super) unsafe fn converted(cast: Cast, datum: pg_sys::Datum) -> pg_sys::Datum {
    match cast {
        // SAFETY: as the function's own; a cast function takes the value, a type modifier and whether it is explicit,
        // and ignores what it does not declare.
        Cast::Function(function) => unsafe {
            pg_sys::OidFunctionCall3Coll(
                function,
                pg_sys::DEFAULT_COLLATION_OID,
                datum,
                pg_sys::Datum::from(-1_i32),
                pg_sys::Datum::from(false),
            )
        },
        _ => datum,
    }
}
