//! What share of an organization's rows a membership's scope shows, for the planner: all, or as many as rules list. Without
//! it PostgreSQL takes a third for any function, and plans for an organization that is not there (spec 14).

use super::table;
use crate::access::scopes::Scopes;
use crate::context;
use crate::pg::plan::elements;
use pgrx::prelude::*;

crate::pg::finfo!(pg_finfo_tenancy_scope_support);

/// `tenancy.scope_support(internal) -> internal`: PostgreSQL's support function of `is_unscoped()` and `in_scope()`; nobody
/// else can call it.
///
/// SAFETY: called by the planner with a request, whose tag says what it is.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_scope_support(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own; STRICT, so the argument is there.
    unsafe {
        let request = (*(*fcinfo).args.as_ptr())
            .value
            .cast_mut_ptr::<pg_sys::SupportRequestSelectivity>();
        if (*request).type_ != pg_sys::NodeTag::T_SupportRequestSelectivity || (*request).is_join {
            return pg_sys::Datum::from(0);
        }
        let now = context::standing();
        (*request).selectivity = match (&now.scopes, (*request).args.is_null()) {
            (None, _) => 1.0,
            (Some(_), true) => 0.0,
            (Some(scopes), false) => share(scopes, request).clamp(0.0, 1.0),
        };
        pg_sys::Datum::from(request)
    }
}

/// SAFETY: a request for `in_scope()`.
unsafe fn share(scopes: &Scopes, request: *mut pg_sys::SupportRequestSelectivity) -> f64 {
    // SAFETY: as the function's own. A number of a column's table counts the planner's relations.
    unsafe {
        let column = elements::<pg_sys::Node>((*request).args)
            .iter()
            .copied()
            .find(|argument| (**argument).type_ == pg_sys::NodeTag::T_Var);
        let Some(column) = column.map(|c| c.cast::<pg_sys::Var>()) else {
            return 1.0;
        };
        let (root, number) = ((*request).root, (*column).varno);
        if root.is_null() || number <= 0 || number >= (*root).simple_rel_array_size {
            return 1.0;
        }
        let rel = *(*root).simple_rel_array.add(number as usize);
        let entry = *(*root).simple_rte_array.add(number as usize);
        if rel.is_null() || entry.is_null() {
            return 1.0;
        }
        let Some(table) = table::protected((*entry).relid) else {
            return 1.0;
        };
        // The organization's boundary comes first, and its share is the planner's to know.
        let first: f64 = elements::<pg_sys::RestrictInfo>((*rel).baserestrictinfo)
            .iter()
            .filter(|condition| (***condition).security_level == (*rel).baserestrict_min_security)
            .map(|condition| {
                pg_sys::clause_selectivity(
                    root,
                    condition.cast(),
                    0,
                    pg_sys::JoinType::JOIN_INNER,
                    std::ptr::null_mut(),
                )
            })
            .product();
        let rows = (*rel).tuples * first;
        super::scope::shown(scopes, &table) / rows.max(1.0)
    }
}
