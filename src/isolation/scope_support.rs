//! What share of an organization's rows a membership's scope shows, for the planner: all, or as many as rules list. Without
//! it PostgreSQL takes a third for any function, and plans for an organization that is not there (spec 14).

use super::table;
use crate::access::scopes::Scopes;
use crate::context;
use crate::pg::support::{Question, Share, question};
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
    // SAFETY: as the function's own.
    let Question::Share(asked) = (unsafe { question(fcinfo) }) else {
        return pg_sys::Datum::from(0);
    };
    if asked.is_of_join() {
        return pg_sys::Datum::from(0);
    }
    let now = context::standing();
    let share = match &now.scopes {
        None => 1.0,
        Some(_) if asked.arguments() == 0 => 0.0,
        Some(scopes) => share(scopes, &asked).unwrap_or(1.0),
    };
    asked.answer(share)
}

/// The share of the organization's rows that `in_scope()` lets through: its own part, since what the boundary before it lets
/// through is the planner's to know.
fn share(scopes: &Scopes, asked: &Share) -> Option<f64> {
    let column = (0..asked.arguments()).find_map(|n| asked.column(n))?;
    let table = table::protected(column.table)?;
    let rows = asked.rows_within_boundary(column)?;
    Some(super::scope::shown(scopes, &table) / rows.max(1.0))
}
