//! A row that refers to a missing parent: whether it is still there, and PostgreSQL's own error about it.

use pgrx::prelude::*;

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
