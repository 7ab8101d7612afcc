//! The functions that stand in the boundary of a table of resources: `in_scope()` and `check_scope()`, on the C ABI. They
//! take the key in whatever type the column has, so that none is cast for each row.
//!
//! `is_unscoped()` stands before them (context/scope_entry.rs), so they run for limited memberships only. `in_scope()` raises
//! for nothing that a row holds: the planner's hook puts it before the querier's conditions.

use super::scope::{self, Cell, Form, Place};
use super::table;
use crate::access::scopes::{Access, Scopes};
use crate::context;
use crate::pg::identity::{self, Runner};
use crate::pg::key::Keys;
use crate::pg::local::Backend;
use crate::pg::lookup::When;
use crate::pg::value::Value;
use crate::pg::{call_site, transaction};
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::rc::Rc;

/// What is asked of every row, kept until something that it rests on changes.
struct Current {
    version: u64,
    runner: Runner,
    scopes: Option<Rc<Scopes>>,
    org: Option<&'static Keys>,
}

static CURRENT: Backend<RefCell<Option<Current>>> = Backend::new(RefCell::new(None));

crate::pg::finfo!(pg_finfo_tenancy_in_scope);

/// `tenancy.in_scope(table_id oid, key "any", parent "any") -> boolean` (spec 3.8): whether the membership's scope shows a row.
/// `table_id`: the table it is stored in; `key`: what names it as a resource; `parent`: the column that leads to the resource
/// above; NULL where the table has none. Stands in policies; anyone may call it.
///
/// SAFETY: called by PostgreSQL's function manager, as sql/30_functions.sql declares it.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_in_scope(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own.
    unsafe { (access(fcinfo) > Access::None).into() }
}

crate::pg::finfo!(pg_finfo_tenancy_in_full_scope);

/// `tenancy.in_full_scope(table_id oid, key "any", parent "any") -> boolean` (spec 3.8): whether the scope lets a row be written.
/// The planner's hook puts it in the place of `in_scope()` where a SELECT locks rows; anyone may call it.
///
/// SAFETY: as above.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_in_full_scope(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own.
    unsafe { (access(fcinfo) == Access::Full).into() }
}

crate::pg::finfo!(pg_finfo_tenancy_check_scope);

/// `tenancy.check_scope(table_id oid, key "any", parent "any") -> boolean` (spec 3.8): true for a row that the membership's scope
/// lets be written; anything else raises. Errors: 42501 not within the scope, or read-only there.
///
/// SAFETY: as above.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_check_scope(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own.
    let (access, table) = unsafe { (access(fcinfo), table_of(fcinfo)) };
    if access < Access::Full
        && let Some(table) = table::protected(table)
    {
        Err(scope::refused(&table, access)).unwrap_or_report()
    }
    (access == Access::Full).into()
}

/// SAFETY: the call of one of the two.
unsafe fn table_of(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Oid {
    // SAFETY: as the function's own: the first argument is an oid.
    unsafe {
        let table = *(*fcinfo).args.as_ptr();
        if table.isnull {
            return pg_sys::InvalidOid;
        }
        pg_sys::Oid::from(table.value.value() as u32)
    }
}

/// SAFETY: the call of one of the two.
unsafe fn access(fcinfo: pg_sys::FunctionCallInfo) -> Access {
    // SAFETY: as the function's own.
    let (table, forms) = unsafe { (table_of(fcinfo), forms(fcinfo)) };
    let (scopes, org) = current();
    let Some(scopes) = scopes else {
        return Access::Full;
    };
    let (Some(table), Some(org)) = (table::protected(table), org) else {
        return Access::None;
    };
    let cell = |n: usize| {
        // SAFETY: as the function's own; the form says how the value is stored.
        let argument = unsafe { *(*fcinfo).args.as_ptr().add(n) };
        Cell {
            value: stored(argument, forms[n - 1]),
            form: forms[n - 1],
        }
    };
    let place = Place {
        own: Some(cell(1)),
        parent: Some(cell(2)),
    };
    scope::reach(&scopes, &table, place, org, When::OfStatement)
}

fn stored(argument: pg_sys::NullableDatum, form: Form) -> Value {
    let (length, by_value) = match form {
        Form::Smallint | Form::Integer | Form::Bigint => (8, true),
        Form::Uuid => (16, false),
        Form::Text => (-1, false),
        Form::Other(type_id) => crate::pg::catalog::length_of(type_id),
    };
    Value {
        datum: argument.value,
        null: argument.isnull,
        length,
        by_value,
    }
}

fn current() -> (Option<Rc<Scopes>>, Option<&'static Keys>) {
    let (version, runner) = (context::version(), identity::runner());
    let known = CURRENT.with_borrow(|current| {
        current
            .as_ref()
            .filter(|c| c.version == version && c.runner == runner)
            .map(|c| (c.scopes.clone(), c.org))
    });
    known.unwrap_or_else(|| {
        let now = context::standing();
        let (scopes, org) = (now.scopes.clone(), now.keys());
        CURRENT.set(Some(Current {
            version,
            runner,
            scopes: scopes.clone(),
            org,
        }));
        (scopes, org)
    })
}

/// The types of the arguments, remembered at the call site.
///
/// SAFETY: the call of one of the two.
unsafe fn forms(fcinfo: pg_sys::FunctionCallInfo) -> [Form; 2] {
    // SAFETY: as the function's own; this frame owns nothing.
    unsafe {
        if let Some(forms) = call_site::left::<[Form; 2]>(fcinfo) {
            return *forms;
        }
        // A row that was waited for is checked again by a plan of its own, whose call sites come here.
        transaction::accept_invalidations();
        let form = |n| Form::of(pg_sys::get_fn_expr_argtype((*fcinfo).flinfo, n));
        let forms = [form(1), form(2)];
        call_site::leave(fcinfo, forms);
        forms
    }
}
