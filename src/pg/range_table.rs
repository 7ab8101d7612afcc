//! Which tables a finished plan reads, writes and locks.

use super::plan::elements;
use pgrx::prelude::*;

/// Every table in the plan's range table, those below views included.
///
/// SAFETY: `plan` is a valid plan.
pub unsafe fn relations(plan: *mut pg_sys::PlannedStmt) -> Vec<pg_sys::Oid> {
    // SAFETY: as the function's own.
    unsafe {
        entries(plan)
            .into_iter()
            .map(|entry| (*entry).relid)
            .collect()
    }
}

/// SAFETY: `plan` is a valid plan.
unsafe fn entries(plan: *mut pg_sys::PlannedStmt) -> Vec<*mut pg_sys::RangeTblEntry> {
    // SAFETY: the list holds RangeTblEntry nodes.
    unsafe {
        elements::<pg_sys::RangeTblEntry>((*plan).rtable)
            .iter()
            .copied()
            .filter(|entry| (**entry).rtekind == pg_sys::RTEKind::RTE_RELATION)
            .collect()
    }
}

/// The tables whose rows a SELECT ... FOR UPDATE, SHARE and the like locks.
///
/// SAFETY: `plan` is a valid plan.
pub unsafe fn locked_relations(plan: *mut pg_sys::PlannedStmt) -> Vec<pg_sys::Oid> {
    // SAFETY: the lists hold PlanRowMark and RangeTblEntry nodes; marks count the range table from 1.
    unsafe {
        let tables = elements::<pg_sys::RangeTblEntry>((*plan).rtable);
        elements::<pg_sys::PlanRowMark>((*plan).rowMarks)
            .iter()
            .filter(|mark| (***mark).markType <= pg_sys::RowMarkType::ROW_MARK_KEYSHARE)
            .map(|mark| tables[(**mark).rti as usize - 1])
            .filter(|entry| (**entry).rtekind == pg_sys::RTEKind::RTE_RELATION)
            .map(|entry| (*entry).relid)
            .collect()
    }
}

/// Those of the tables whose rows are locked that the statement names; parts of another table come with that.
///
/// SAFETY: `plan` is a valid plan.
pub unsafe fn named_and_locked(plan: *mut pg_sys::PlannedStmt) -> Vec<pg_sys::Oid> {
    // SAFETY: as `locked_relations`. A parent has the strength of its parts among all of theirs.
    unsafe {
        let tables = elements::<pg_sys::RangeTblEntry>((*plan).rtable);
        let locks = (0..=pg_sys::RowMarkType::ROW_MARK_KEYSHARE).map(|kind| 1 << kind);
        let locks: i32 = locks.sum();
        elements::<pg_sys::PlanRowMark>((*plan).rowMarks)
            .iter()
            .filter(|mark| (***mark).rti == (***mark).prti && (***mark).allMarkTypes & locks != 0)
            .map(|mark| tables[(**mark).rti as usize - 1])
            .filter(|entry| (**entry).rtekind == pg_sys::RTEKind::RTE_RELATION)
            .map(|entry| (*entry).relid)
            .collect()
    }
}

/// The targets of a MERGE that reads no column of them: PostgreSQL then leaves their SELECT policies out of the plan,
/// and WHEN MATCHED fires for every organization's rows.
///
/// SAFETY: `plan` is a valid plan.
pub unsafe fn merged_unread(plan: *mut pg_sys::PlannedStmt) -> Vec<pg_sys::Oid> {
    // SAFETY: as the function's own.
    unsafe {
        let writing =
            (pg_sys::ACL_INSERT | pg_sys::ACL_UPDATE | pg_sys::ACL_DELETE) as pg_sys::AclMode;
        // Where the target has partitions or children, the plan writes to those, which need nothing themselves: what the
        // statement needs stands at the table that it names.
        let parents = entries(plan)
            .into_iter()
            .filter(|entry| (**entry).inh && required(plan, *entry) & writing != 0);
        results(plan)
            .into_iter()
            .filter(|entry| required(plan, *entry) != 0)
            .chain(parents)
            .filter(|entry| required(plan, *entry) & pg_sys::ACL_SELECT as pg_sys::AclMode == 0)
            .map(|entry| (*entry).relid)
            .collect()
    }
}

/// What the statement needs to do with a table.
///
/// SAFETY: the entry is of the plan's range table.
pub unsafe fn required(
    plan: *mut pg_sys::PlannedStmt,
    entry: *mut pg_sys::RangeTblEntry,
) -> pg_sys::AclMode {
    // SAFETY: as the function's own.
    #[cfg(feature = "pg15")]
    unsafe {
        let _ = plan;
        (*entry).requiredPerms
    }
    // SAFETY: as the function's own; children of an inheritance tree have no entry of their own.
    #[cfg(not(feature = "pg15"))]
    unsafe {
        if (*entry).perminfoindex == 0 {
            return 0;
        }
        (*pg_sys::getRTEPermissionInfo((*plan).permInfos, entry)).requiredPerms
    }
}

/// The tables that a statement reads, updates or deletes from; not one that it only inserts into, RETURNING and ON
/// CONFLICT DO NOTHING included: those show the writer what he writes.
///
/// SAFETY: `plan` is a valid plan.
pub unsafe fn read_relations(plan: *mut pg_sys::PlannedStmt) -> Vec<pg_sys::Oid> {
    let changing = (pg_sys::ACL_UPDATE | pg_sys::ACL_DELETE) as pg_sys::AclMode;
    let reading = changing | pg_sys::ACL_SELECT as pg_sys::AclMode;
    // SAFETY: as the function's own.
    unsafe {
        let inserts = (*plan).commandType == pg_sys::CmdType::CMD_INSERT;
        let targets = if inserts { results(plan) } else { vec![] };
        entries(plan)
            .into_iter()
            .filter(|entry| {
                let counts = if targets.contains(entry) {
                    changing
                } else {
                    reading
                };
                required(plan, *entry) & counts != 0
            })
            .map(|entry| (*entry).relid)
            .collect()
    }
}

/// The entries that a statement writes to.
///
/// SAFETY: `plan` is a valid plan.
unsafe fn results(plan: *mut pg_sys::PlannedStmt) -> Vec<*mut pg_sys::RangeTblEntry> {
    // SAFETY: resultRelations is a list of integers, indexes into the range table, from 1.
    unsafe {
        let list = (*plan).resultRelations;
        if list.is_null() {
            return vec![];
        }
        let tables = elements::<pg_sys::RangeTblEntry>((*plan).rtable);
        (0..(*list).length as usize)
            .map(|i| tables[(*(*list).elements.add(i)).int_value as usize - 1])
            .collect()
    }
}
