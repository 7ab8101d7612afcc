//! A plan of `SELECT 1` that stands in for a query whose answer is known to be one row.

use super::local::Backend;
use pgrx::pg_sys;
use std::cell::Cell;

static PLAN: Backend<Cell<*mut pg_sys::PlannedStmt>> =
    Backend::new(Cell::new(std::ptr::null_mut()));

/// The plan, made once and kept for the backend's life. PostgreSQL's executor reads plans and never writes to them.
pub fn one_row() -> *mut pg_sys::PlannedStmt {
    if PLAN.get().is_null() {
        PLAN.set(make());
    }
    PLAN.get()
}

/// Whether this is the plan that stands in for another.
#[inline]
pub fn is_it(plan: *mut pg_sys::PlannedStmt) -> bool {
    !plan.is_null() && plan == PLAN.get()
}

fn make() -> *mut pg_sys::PlannedStmt {
    // SAFETY: zeroed nodes with their tags are what PostgreSQL's own makeNode() answers; memory of the backend's life.
    unsafe {
        let before = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let one = pg_sys::makeConst(
            pg_sys::INT4OID,
            -1,
            pg_sys::InvalidOid,
            4,
            pg_sys::Datum::from(1),
            false,
            true,
        );
        let target = pg_sys::makeTargetEntry(one.cast(), 1, std::ptr::null_mut(), false);
        let result = pg_sys::palloc0(size_of::<pg_sys::Result>()).cast::<pg_sys::Result>();
        (*result).plan.type_ = pg_sys::NodeTag::T_Result;
        (*result).plan.plan_rows = 1.0;
        (*result).plan.targetlist = pg_sys::lappend(std::ptr::null_mut(), target.cast());
        let plan = pg_sys::palloc0(size_of::<pg_sys::PlannedStmt>()).cast::<pg_sys::PlannedStmt>();
        (*plan).type_ = pg_sys::NodeTag::T_PlannedStmt;
        (*plan).commandType = pg_sys::CmdType::CMD_SELECT;
        (*plan).canSetTag = true;
        (*plan).planTree = result.cast();
        (*plan).stmt_location = -1;
        pg_sys::MemoryContextSwitchTo(before);
        plan
    }
}

/// Raises unless the present role may do with the plan's tables what the plan does.
///
/// SAFETY: a valid plan, which the present statement is about to start.
pub unsafe fn check_permissions(plan: *mut pg_sys::PlannedStmt) {
    // SAFETY: as the function's own.
    #[cfg(feature = "pg15")]
    unsafe {
        pg_sys::ExecCheckRTPerms((*plan).rtable, true);
    }
    // SAFETY: as the function's own.
    #[cfg(not(feature = "pg15"))]
    unsafe {
        pg_sys::ExecCheckPermissions((*plan).rtable, (*plan).permInfos, true);
    }
}
