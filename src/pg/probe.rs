//! Looking a foreign key's parent up directly in its unique index, and holding it.

use super::key::{KeyColumn, Keys};
use super::open_parent::{Open, keep, open_for, renew, take_open};
use super::partition::Leaf;
use super::value::Value;
use pgrx::prelude::*;
use std::cell::Cell;

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
}

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
