//! Looking a foreign key's parent up directly in its unique index, and holding it.

use super::partition::Leaf;
use super::value::Value;
use pgrx::prelude::*;

/// How to find the parent row of a key, and which column says whose it is.
#[derive(Clone, Debug)]
pub struct Probe {
    pub parent: pg_sys::Oid,
    pub index: pg_sys::Oid,
    pub org_attnum: i16,
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
}

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
pub fn find(probe: &Probe, key: &[Value], org: &[u8; 16]) -> Parent {
    for _ in 0..ATTEMPTS {
        if let Some(parent) = attempt(probe, key, org, true) {
            return parent;
        }
    }
    Parent::Missing
}

/// `find()` without the lock: what stands at the other end of an existing reference.
pub fn look(probe: &Probe, key: &[Value], org: &[u8; 16]) -> Parent {
    attempt(probe, key, org, false).unwrap_or(Parent::Missing)
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
    pub fn for_partition(&self, leaf: Leaf, org_attnum: i16) -> Probe {
        Probe {
            parent: leaf.table,
            index: leaf.index,
            org_attnum,
            keys: self.keys.clone(),
        }
    }
}

fn attempt(probe: &Probe, key: &[Value], org: &[u8; 16], lock: bool) -> Option<Parent> {
    // A key that we cannot look up is not vouched for: PostgreSQL's check will find no parent either.
    if probe.keys.iter().any(|k| k.cast == Cast::Unknown) {
        return Some(Parent::Foreign);
    }
    // SAFETY: relation and index are opened with the lock that PostgreSQL's own check takes, and closed; the scan keys
    // are built from the index's own operator family; the slot belongs to the relation. An error in between is
    // cleaned up by the transaction's abort.
    unsafe {
        let relation = pg_sys::table_open(probe.parent, pg_sys::RowShareLock as i32);
        let index = pg_sys::index_open(probe.index, pg_sys::RowShareLock as i32);
        let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        let command = pg_sys::GetCurrentCommandId(false) + 1;
        (*snapshot).curcid = command;
        let mut keys: Vec<pg_sys::ScanKeyData> = probe
            .keys
            .iter()
            .zip(key)
            .map(|(k, value)| scan_key(index, k, value))
            .collect();
        keys.sort_by_key(|k| k.sk_attno);
        let scan = begin(relation, index, snapshot, keys.len() as i32);
        pg_sys::index_rescan(
            scan,
            keys.as_mut_ptr(),
            keys.len() as i32,
            std::ptr::null_mut(),
            0,
        );
        let found =
            pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot);
        let answer = if found {
            let mut null = true;
            let datum = match probe.org_attnum {
                1.. => pg_sys::slot_getattr(slot, probe.org_attnum as i32, &mut null),
                // The parent's protection is damaged: nobody knows whose the row is.
                _ => pg_sys::Datum::from(0),
            };
            if null || *datum.cast_mut_ptr::<[u8; 16]>() != *org {
                Some(Parent::Foreign)
            } else {
                (!lock || hold(relation, slot, snapshot, command)).then_some(Parent::Held)
            }
        } else {
            Some(Parent::Missing)
        };
        pg_sys::index_endscan(scan);
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::index_close(index, pg_sys::NoLock as i32);
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        answer
    }
}

/// The file that a table is stored in now.
pub fn storage_of(table: pg_sys::Oid) -> u32 {
    // SAFETY: a table that this transaction wrote to; closed at once.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
        let storage = file_of(relation);
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        storage
    }
}

/// SAFETY: the relation is open.
unsafe fn file_of(relation: pg_sys::Relation) -> u32 {
    // SAFETY: as the function's own.
    #[cfg(feature = "pg15")]
    unsafe {
        u32::from((*relation).rd_node.relNode)
    }
    // SAFETY: as the function's own.
    #[cfg(not(feature = "pg15"))]
    unsafe {
        u32::from((*relation).rd_locator.relNumber)
    }
}

/// Whether the version of a row at this place may still be the live one: the question PostgreSQL asks before it checks
/// a key late. A table that was rewritten since keeps its rows elsewhere; then nobody can tell.
pub fn may_be_live(table: pg_sys::Oid, storage: u32, place: pg_sys::ItemPointerData) -> bool {
    // SAFETY: the table is one that this transaction wrote to; everything opened is closed.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
        let live = file_of(relation) != storage || {
            let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
            let mut place = place;
            let live = pg_sys::table_tuple_fetch_row_version(
                relation,
                &mut place,
                &raw mut pg_sys::SnapshotSelfData,
                slot,
            );
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            live
        };
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        live
    }
}

/// SAFETY: relation and index are open.
unsafe fn begin(
    relation: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    keys: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: as the function's own.
    #[cfg(not(feature = "pg18"))]
    unsafe {
        pg_sys::index_beginscan(relation, index, snapshot, keys, 0)
    }
    // SAFETY: as the function's own; no instrumentation wanted.
    #[cfg(feature = "pg18")]
    unsafe {
        pg_sys::index_beginscan(relation, index, snapshot, std::ptr::null_mut(), keys, 0)
    }
}

/// SAFETY: the index is open; the operator belongs to the family of the column.
unsafe fn scan_key(index: pg_sys::Relation, key: &ProbeKey, value: &Value) -> pg_sys::ScanKeyData {
    // SAFETY: as the function's own; the entry is initialised before use.
    unsafe {
        let column = key.index_column as usize - 1;
        let (mut left, mut right) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        pg_sys::op_input_types(key.operator, &mut left, &mut right);
        let strategy =
            pg_sys::get_op_opfamily_strategy(key.operator, *(*index).rd_opfamily.add(column));
        let mut entry = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyEntryInitialize(
            &mut entry,
            0,
            key.index_column,
            strategy as pg_sys::StrategyNumber,
            right,
            *(*index).rd_indcollation.add(column),
            pg_sys::get_opcode(key.operator),
            converted(key.cast, value.datum),
        );
        entry
    }
}

/// SAFETY: the datum is of the type that the cast was chosen for.
unsafe fn converted(cast: Cast, datum: pg_sys::Datum) -> pg_sys::Datum {
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

/// Locks the row in `slot` FOR KEY SHARE; false where it changed under us.
///
/// SAFETY: the slot holds a row of the open relation.
unsafe fn hold(
    relation: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    snapshot: pg_sys::Snapshot,
    command: pg_sys::CommandId,
) -> bool {
    // SAFETY: as the function's own; the lock needs a slot of its own to answer in.
    unsafe {
        let mut row = (*slot).tts_tid;
        let answer = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        let mut failure = pg_sys::TM_FailureData::default();
        let result = pg_sys::table_tuple_lock(
            relation,
            &mut row,
            snapshot,
            answer,
            command,
            pg_sys::LockTupleMode::LockTupleKeyShare,
            pg_sys::LockWaitPolicy::LockWaitBlock,
            0,
            &mut failure,
        );
        pg_sys::ExecDropSingleTupleTableSlot(answer);
        result == pg_sys::TM_Result::TM_Ok
    }
}

/// The error of a missing parent, with the key's values for those whom `ri_ReportViolation()` would tell them.
#[allow(
    clippy::useless_conversion,
    reason = "an AclMode is wider from PostgreSQL 16 on"
)]
pub fn violation(
    child: pg_sys::Relation,
    child_name: &str,
    constraint: &str,
    parent: pg_sys::Oid,
    columns: &[(i16, String)],
    values: &str,
) -> ! {
    // SAFETY: the relation is open; the rest are catalog look-ups by id.
    let (told, parent_name) = unsafe {
        let relid = (*child).rd_id;
        let user = pg_sys::GetUserId();
        let row_security = pg_sys::check_enable_rls(relid, pg_sys::InvalidOid, true)
            == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32;
        let may_read = |attnum: i16| {
            pg_sys::pg_attribute_aclcheck(relid, attnum, user, pg_sys::ACL_SELECT.into())
                == pg_sys::AclResult::ACLCHECK_OK
        };
        let told = !row_security
            && (pg_sys::pg_class_aclcheck(relid, user, pg_sys::ACL_SELECT.into())
                == pg_sys::AclResult::ACLCHECK_OK
                || columns.iter().all(|(attnum, _)| may_read(*attnum)));
        let name = pg_sys::get_rel_name(parent);
        (
            told,
            std::ffi::CStr::from_ptr(name)
                .to_string_lossy()
                .into_owned(),
        )
    };
    let names: Vec<&str> = columns.iter().map(|(_, name)| name.as_str()).collect();
    let names = names.join(", ");
    super::error::foreign_key_violation(
        child,
        child_name,
        constraint,
        &parent_name,
        told.then_some((names.as_str(), values)),
    )
}

/// `violation()` for a check that runs at commit, when no trigger holds the table open.
pub fn violation_at_commit(
    child: pg_sys::Oid,
    constraint: &str,
    parent: pg_sys::Oid,
    columns: &[(i16, String)],
    values: &str,
) -> ! {
    // SAFETY: opened with the lock that the write already holds; the error closes it.
    let (relation, name) = unsafe {
        let relation = pg_sys::table_open(child, pg_sys::RowExclusiveLock as i32);
        (
            relation,
            super::trigger::name(&(*(*relation).rd_rel).relname),
        )
    };
    violation(relation, &name, constraint, parent, columns, values)
}
