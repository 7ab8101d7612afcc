//! Rewritten queries: taking out what our policies put in.

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
            if (*entry).securityQuals.is_null()
                && (!is_result || (*query).withCheckOptions.is_null())
            {
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
