//! Rewritten queries: taking out what our policies put in, and putting in what is asked of each row that is locked.

use super::plan::{elements, list_of};
use pgrx::prelude::*;
use std::ffi::c_void;

struct Lifting<'a> {
    /// Our schema: a condition of a policy that calls a function in it is ours.
    schema: pg_sys::Oid,
    /// Asked with a table and its owner.
    may: &'a dyn Fn(pg_sys::Oid, pg_sys::Oid) -> bool,
    /// Policies of others are left.
    left: bool,
}

/// Takes our policies' conditions out of a query and of all queries in it; answers whether no policy is left anywhere.
/// `may` says from which tables.
///
/// SAFETY: a rewritten query that nobody else uses.
pub unsafe fn lift(
    query: *mut pg_sys::Query,
    schema: pg_sys::Oid,
    may: &dyn Fn(pg_sys::Oid, pg_sys::Oid) -> bool,
) -> bool {
    let mut lifting = Lifting {
        schema,
        may,
        left: false,
    };
    // SAFETY: as the function's own; `lifting` outlives the walk.
    unsafe { see(query.cast(), (&raw mut lifting).cast()) };
    !lifting.left
}

/// SAFETY: a node or NULL, and the `Lifting`.
#[pg_guard]
unsafe extern "C-unwind" fn see(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: the node's tag says what it is.
    unsafe {
        if (*node).type_ == pg_sys::NodeTag::T_Query {
            let query = node.cast::<pg_sys::Query>();
            from_query(query, &mut *context.cast::<Lifting>());
            return pg_sys::query_tree_walker(query, Some(see), context, 0);
        }
        pg_sys::expression_tree_walker(node, Some(see), context)
    }
}

/// SAFETY: a rewritten query.
unsafe fn from_query(query: *mut pg_sys::Query, lifting: &mut Lifting) {
    // SAFETY: the lists hold what they are called; resultRelation counts from 1.
    unsafe {
        let mut writes_lifted = false;
        for (i, entry) in elements::<pg_sys::RangeTblEntry>((*query).rtable)
            .iter()
            .copied()
            .enumerate()
        {
            if (*entry).rtekind != pg_sys::RTEKind::RTE_RELATION {
                continue;
            }
            let is_result = (*query).resultRelation == i as i32 + 1;
            let checked = is_result && !(*query).withCheckOptions.is_null();
            if (*entry).securityQuals.is_null() && !checked {
                continue;
            }
            if !runs_as_caller(query, entry) {
                lifting.left |= !(*entry).securityQuals.is_null();
                continue;
            }
            let table = (*entry).relid;
            if !(lifting.may)(table, owner(table)) {
                lifting.left |= !(*entry).securityQuals.is_null();
                continue;
            }
            writes_lifted |= is_result;
            let kept: Vec<*mut pg_sys::Node> = elements((*entry).securityQuals)
                .iter()
                .copied()
                .filter(|condition| !is_ours(*condition, lifting.schema))
                .collect();
            // Of views with security_barrier, and restrictive policies of others.
            lifting.left |= !kept.is_empty();
            (*entry).securityQuals = list_of(&kept);
        }
        if writes_lifted {
            let kept: Vec<*mut pg_sys::WithCheckOption> = elements((*query).withCheckOptions)
                .iter()
                .copied()
                .filter(|option: &*mut pg_sys::WithCheckOption| {
                    (**option).kind == pg_sys::WCOKind::WCO_VIEW_CHECK
                        || !is_ours((**option).qual, lifting.schema)
                })
                .collect();
            (*query).withCheckOptions = list_of(&kept);
        }
    }
}

/// Whether a table is reached with the rights of who runs the statement, and not with those of a view's owner.
///
/// SAFETY: an entry of the query.
unsafe fn runs_as_caller(query: *mut pg_sys::Query, entry: *mut pg_sys::RangeTblEntry) -> bool {
    // SAFETY: as the function's own.
    unsafe {
        #[cfg(feature = "pg15")]
        let (_, role) = (query, (*entry).checkAsUser);
        #[cfg(not(feature = "pg15"))]
        let role = if (*entry).perminfoindex == 0 {
            pg_sys::InvalidOid
        } else {
            (*pg_sys::getRTEPermissionInfo((*query).rteperminfos, entry)).checkAsUser
        };
        role == pg_sys::InvalidOid || role == pg_sys::GetUserId()
    }
}

/// SAFETY: none; a table that is gone has no owner.
unsafe fn owner(table: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: the tuple is checked for NULL and released.
    unsafe {
        let tuple =
            pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as i32, table.into());
        if tuple.is_null() {
            return pg_sys::InvalidOid;
        }
        let owner = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>()).relowner;
        pg_sys::ReleaseSysCache(tuple);
        owner
    }
}

/// Whether a condition is one of our policies, or lets through whatever ours lets through (permissive policies are joined
/// by OR, and in a migration ours lets everything through).
///
/// SAFETY: an expression, or NULL.
unsafe fn is_ours(node: *mut pg_sys::Node, schema: pg_sys::Oid) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: the node's tag says what it is; arguments are expressions.
    unsafe {
        let calls_us = |node: *mut pg_sys::Node| {
            (*node).type_ == pg_sys::NodeTag::T_FuncExpr
                && pg_sys::get_func_namespace((*node.cast::<pg_sys::FuncExpr>()).funcid) == schema
        };
        match (*node).type_ {
            pg_sys::NodeTag::T_OpExpr => {
                elements::<pg_sys::Node>((*node.cast::<pg_sys::OpExpr>()).args)
                    .iter()
                    .copied()
                    .any(calls_us)
            }
            pg_sys::NodeTag::T_BoolExpr => {
                let expression = node.cast::<pg_sys::BoolExpr>();
                (*expression).boolop == pg_sys::BoolExprType::OR_EXPR
                    && elements::<pg_sys::Node>((*expression).args)
                        .iter()
                        .copied()
                        .any(|arm| is_ours(arm, schema))
            }
            _ => calls_us(node),
        }
    }
}

struct Locking<'a> {
    /// A function (table oid, row record) that answers a boolean.
    check: pg_sys::Oid,
    asks: &'a dyn Fn(pg_sys::Oid) -> bool,
}

/// Makes a query, and all queries in it, call a function for each row that it is about to lock, of the tables that `asks`
/// names: as a column that nobody sees, which is evaluated after all conditions and before the lock.
///
/// SAFETY: a rewritten query that nobody else uses.
pub unsafe fn check_locks(
    query: *mut pg_sys::Query,
    check: pg_sys::Oid,
    asks: &dyn Fn(pg_sys::Oid) -> bool,
) {
    let locking = Locking { check, asks };
    // SAFETY: as the function's own.
    unsafe { locks_in(query, &locking) }
}

/// SAFETY: a rewritten query. Most have nothing below, and are not walked.
unsafe fn locks_in(query: *mut pg_sys::Query, locking: &Locking) {
    // SAFETY: the lists hold what they are called.
    unsafe {
        pg_sys::check_stack_depth();
        if !(*query).rowMarks.is_null() {
            check_locked(query, locking);
        }
        for entry in elements::<pg_sys::RangeTblEntry>((*query).rtable) {
            if !(**entry).subquery.is_null() {
                locks_in((**entry).subquery, locking);
            }
        }
        for cte in elements::<pg_sys::CommonTableExpr>((*query).cteList) {
            if (*(**cte).ctequery).type_ == pg_sys::NodeTag::T_Query {
                locks_in((**cte).ctequery.cast(), locking);
            }
        }
        if (*query).hasSubLinks {
            let flags = pg_sys::QTW_IGNORE_RT_SUBQUERIES | pg_sys::QTW_IGNORE_CTE_SUBQUERIES;
            let context = std::ptr::from_ref(locking).cast_mut().cast();
            pg_sys::query_tree_walker(query, Some(see_locks), context, flags as i32);
        }
    }
}

/// SAFETY: a node or NULL, and the `Locking`.
#[pg_guard]
unsafe extern "C-unwind" fn see_locks(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: the node's tag says what it is.
    unsafe {
        if (*node).type_ == pg_sys::NodeTag::T_Query {
            locks_in(node.cast(), &*context.cast::<Locking>());
            return false;
        }
        pg_sys::expression_tree_walker(node, Some(see_locks), context)
    }
}

/// SAFETY: a rewritten query.
unsafe fn check_locked(query: *mut pg_sys::Query, locking: &Locking) {
    // SAFETY: the lists hold what they are called; marks count the range table from 1. What is made lives with the query.
    unsafe {
        for mark in elements::<pg_sys::RowMarkClause>((*query).rowMarks) {
            let number = (**mark).rti;
            let entry = elements::<pg_sys::RangeTblEntry>((*query).rtable)[number as usize - 1];
            if (*entry).rtekind != pg_sys::RTEKind::RTE_RELATION || !(locking.asks)((*entry).relid)
            {
                continue;
            }
            let none = pg_sys::InvalidOid;
            let table = (*entry).relid.into();
            let table = pg_sys::makeConst(pg_sys::OIDOID, -1, none, 4, table, false, true);
            let row = pg_sys::makeWholeRowVar(entry, number as i32, 0, false);
            let call = pg_sys::makeFuncExpr(
                locking.check,
                pg_sys::BOOLOID,
                list_of::<pg_sys::Node>(&[table.cast(), row.cast()]),
                none,
                none,
                pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
            );
            let list = (*query).targetList;
            let place = elements::<pg_sys::TargetEntry>(list).len() + 1;
            let name = pg_sys::pstrdup(c"tenancy_lock".as_ptr());
            let column = pg_sys::makeTargetEntry(call.cast(), place as i16, name, true);
            (*query).targetList = pg_sys::lappend(list, column.cast());
        }
    }
}
