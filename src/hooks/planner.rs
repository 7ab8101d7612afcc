//! The planner: the organization comes first in every scan of a protected table, and what a superuser vouched for may
//! use its index (spec 11.3, 14).
//!
//! Row security alone lets a condition without a column run before the policy, since it has no value of the row to leak:
//! `WHERE name = 'x' AND nextval('mine') IS NOT NULL` then counts other organizations' rows by name (reproduced). In the
//! finished plan we put the conditions that nobody can notice first. Once they are first, a condition that may raise,
//! such as LIKE or full-text search, never meets another organization's row outside of the index itself; so it may use
//! its index where the index's own functions are vetted, without being called leakproof anywhere else.
//!
//! Both need the library before planning begins, which is what preloading gives a session's first statement.

use super::migration;
use crate::context;
use crate::isolation::{self, leakproof};
use crate::pg::bound::Binder;
use crate::pg::key::KeyType;
use crate::pg::local::Backend;
use crate::pg::plan::Ours;
use crate::pg::{
    catalog, identity, modify, paths, placed_plan, placed_query, plan, range_table, rewrite,
};
use pgrx::prelude::*;
use std::cell::Cell;
use std::ffi::{c_char, c_int};

// Without pgrx's guard, for the reason that statement.rs gives.
unsafe extern "C-unwind" {
    fn standard_planner(
        query: *mut pg_sys::Query,
        text: *const c_char,
        options: c_int,
        params: pg_sys::ParamListInfo,
    ) -> *mut pg_sys::PlannedStmt;
}

static mut PLANNER: pg_sys::planner_hook_type = None;
static mut PATHS: pg_sys::set_rel_pathlist_hook_type = None;

// The query whose plan passes through our hook. Only then are indexes offered: the library may be loaded while a
// query is being planned, whose plan nobody would put in order. An error leaves it behind; then all queries pass.
static PLANNED: Backend<Cell<*mut pg_sys::Query>> = Backend::new(Cell::new(std::ptr::null_mut()));

/// SAFETY: called by PostgreSQL with a query to plan; chains to the previous hook.
unsafe extern "C-unwind" fn planner(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    params: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    let outer = PLANNED.replace(query);
    // SAFETY: as the function's own.
    let lifted = unsafe {
        let lifted = context::migration::is_on() && migration::lift(query);
        if !(*query).withCheckOptions.is_null() {
            check_once(query);
        }
        if placed_query::may_concern(query) {
            refuse_by_row(query);
            check_locks(query);
        }
        lifted
    };
    // SAFETY: either the hook that was there before, or PostgreSQL's own function.
    unsafe {
        let plan = match PLANNER {
            Some(previous) => previous(query, text, options, params),
            None => standard_planner(query, text, options, params),
        };
        PLANNED.set(outer);
        if lifted && (*plan).dependsOnRole {
            migration::refuse_inlined();
        }
        if !identity::row_security() {
            note_break_glass(plan);
        }
        // The plan and not the query: the body of a SQL function may have come in meanwhile (attack C-2).
        if (*query).hasRowSecurity || (*plan).dependsOnRole {
            put_in_order(plan);
        }
        plan
    }
}

/// SAFETY: a plan just made, where row_security is off.
#[pg_guard]
unsafe extern "C-unwind" fn note_break_glass(plan: *mut pg_sys::PlannedStmt) {
    // SAFETY: as the function's own.
    let tables = unsafe { range_table::relations(plan) };
    // The catalog's own tables are none: looking one up plans a query, too.
    if identity::break_glass()
        && catalog::find_house().is_some()
        && tables.into_iter().any(isolation::is_protected)
    {
        context::note_break_glass();
    }
}

/// SAFETY: a query that is about to be planned.
#[pg_guard]
unsafe extern "C-unwind" fn check_once(query: *mut pg_sys::Query) {
    if let Some(house) = catalog::find_house() {
        // SAFETY: as the function's own.
        unsafe { modify::check_once(query, house.check_row) }
    }
}

/// SAFETY: a query that is about to be planned.
#[pg_guard]
unsafe extern "C-unwind" fn check_locks(query: *mut pg_sys::Query) {
    if let Some(house) = catalog::find_house().filter(|h| h.check_lock != pg_sys::InvalidOid) {
        // SAFETY: as the function's own.
        unsafe { rewrite::check_locks(query, house.check_lock, &isolation::asks_each_row) }
    }
}

/// SAFETY: a query that is about to be planned.
#[pg_guard]
unsafe extern "C-unwind" fn refuse_by_row(query: *mut pg_sys::Query) {
    if let Some(house) = catalog::find_house() {
        let rules = placed_query::Rules {
            in_projects: house.in_projects,
            check: house.check_project_row,
            asked: &isolation::asked_of,
        };
        // SAFETY: as the function's own.
        unsafe { placed_query::refuse_by_row(query, &rules) }
    }
}

/// SAFETY: a plan just made, for a query with row security in it.
#[pg_guard]
unsafe extern "C-unwind" fn put_in_order(statement: *mut pg_sys::PlannedStmt) {
    let (Some(ours), Some(house)) = (ours(), catalog::find_house()) else {
        return;
    };
    let number = |call: *mut pg_sys::FuncExpr| {
        // SAFETY: a call in the plan.
        unsafe {
            if (*call).funcid == house.is_unscoped {
                return Some(context::UNSCOPED);
            }
            if [house.project_from, house.project_to].contains(&(*call).funcid) {
                let upper = (*call).funcid == house.project_to;
                return plan::action_of(call)
                    .and_then(|action| context::places::number_of_bound(action, upper));
            }
            if (*call).funcid == house.project_ids {
                return plan::action_of(call).and_then(context::places::number_of_ids);
            }
            let kind = house.org_if.kind_of((*call).funcid)?;
            plan::action_of(call).and_then(|action| context::number_of(action, kind))
        }
    };
    let placed = placed_plan::Functions {
        in_projects: house.in_projects,
        from: house.project_from,
        to: house.project_to,
        ids: house.project_ids,
    };
    // SAFETY: as the function's own; nobody uses the plan yet.
    unsafe {
        let mut binder = Binder::of(statement);
        plan::for_each_node(statement, &mut |node| {
            let Some(table) = plan::scanned(statement, node) else {
                return;
            };
            if (*node).type_ == pg_sys::NodeTag::T_BitmapIndexScan {
                if let Some(check) = leakproof::room_check() {
                    plan::check_room(node.cast(), check);
                }
            } else if plan::is_mixed(node, ours) && is_secured(table, ours) {
                plan::silent_first(node, ours);
            }
            if let Some(binder) = &mut binder {
                let in_projects = |call: *mut pg_sys::FuncExpr| {
                    let action = placed_plan::action_of(call, placed)?;
                    // Before the range is bound.
                    let in_range = placed_plan::is_ranged(node, call, placed);
                    context::places::number_of_every(action, in_range)
                };
                binder.spare(node, &in_projects);
                binder.bind(node, &number);
            }
            // What is read-only is not held against others, either.
            if plan::locks(statement, node) {
                plan::replace_alternative(node, house.in_scope, house.in_full_scope);
            }
        });
        if let Some(binder) = binder {
            binder.finish();
        }
    }
}

/// SAFETY: called by PostgreSQL when it has found the ways to scan a table; chains to the previous hook.
unsafe extern "C-unwind" fn set_rel_pathlist(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    number: pg_sys::Index,
    entry: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: the hook that was there before.
    unsafe {
        if let Some(previous) = PATHS {
            previous(root, rel, number, entry);
        }
        if paths::outermost(root) == PLANNED.get() {
            offer(root, rel);
        }
    }
}

/// SAFETY: the planner's state and one of its relations.
#[pg_guard]
unsafe extern "C-unwind" fn offer(root: *mut pg_sys::PlannerInfo, rel: *mut pg_sys::RelOptInfo) {
    let Some(ours) = ours() else { return };
    // SAFETY: as the function's own.
    unsafe {
        let Some(table) = paths::withheld(root, rel, ours) else {
            return;
        };
        let vouched = leakproof::vouched();
        if !vouched.is_empty() && isolation::is_protected(table) {
            paths::offer(root, rel, &vouched);
        }
    }
}

/// Whether the table's policies are ours: a protected one, or one of the extension itself.
fn is_secured(table: pg_sys::Oid, ours: Ours) -> bool {
    // SAFETY: a syscache look-up.
    isolation::is_protected(table) || unsafe { pg_sys::get_rel_namespace(table) } == ours.schema
}

/// What is ours, where the extension is installed.
fn ours() -> Option<Ours> {
    let house = catalog::find_house()?;
    Some(Ours {
        schema: house.schema,
        org_if: house.org_if,
        knows: |action| context::number_of(action, KeyType::Uuid).is_some(),
    })
}

pub fn init() {
    // SAFETY: one thread; hooks are chained as PostgreSQL's own modules do it.
    unsafe {
        PLANNER = pg_sys::planner_hook;
        pg_sys::planner_hook = Some(planner);
        PATHS = pg_sys::set_rel_pathlist_hook;
        pg_sys::set_rel_pathlist_hook = Some(set_rel_pathlist);
    }
}
