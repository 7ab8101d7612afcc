//! The functions that stand in policies and defaults, written on the C ABI without a guard on the path that runs per row:
//! `org_if(action)`, `check_row(..)` and `current_org()`.
//!
//! They return a pointer to an interned value, not a palloc'd copy: a scan of a million rows then costs what it costs
//! with a literal (1.2 to 1.35 times that with the copy, measured). What was handed out is never overwritten, since one
//! statement may hold the values of two organizations at once.

use super::authority::Id;
use super::settings::{MISSING_CONTEXT, MissingContext};
use super::{denial, standing};
use crate::pg::identity::{self, Runner};
use crate::pg::local::Backend;
use crate::pg::{transaction, value};
use pgrx::pg_guard;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;

thread_local! {
    static INTERNED: RefCell<HashMap<Id, &'static Id>> = RefCell::default();
}

/// The one copy of an organization's id that lives as long as the backend: 16 bytes for each it ever entered.
fn intern(id: Id) -> *const Id {
    INTERNED.with_borrow_mut(|ids| *ids.entry(id).or_insert_with(|| Box::leak(Box::new(id))))
}

/// What a call site in a plan remembers between rows.
#[repr(C)]
struct CallSite {
    version: u64,
    runner: Runner,
    org: *const Id,
}

/// SAFETY: `fcinfo` is valid for the call that is being answered.
#[inline(always)]
unsafe fn answer(fcinfo: pg_sys::FunctionCallInfo, org: *const Id) -> pg_sys::Datum {
    if org.is_null() {
        // SAFETY: fcinfo is valid for the call.
        unsafe { (*fcinfo).isnull = true };
    }
    pg_sys::Datum::from(org as usize)
}

macro_rules! finfo {
    ($name:ident) => {
        #[doc(hidden)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $name() -> &'static pg_sys::Pg_finfo_record {
            const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }
    };
}
finfo!(pg_finfo_tenancy_org_if);
finfo!(pg_finfo_tenancy_current_org);
finfo!(pg_finfo_tenancy_check_row);

/// `tenancy.org_if(action text) -> uuid` (spec 5.1.1): the effective organization if the context may do the action
/// there, else NULL. The predicate of every policy. Errors: 22023 for an unknown action, 25001 for a second
/// organization in one transaction, 42501 without an organization where tenancy.missing_context says error.
///
/// SAFETY: called by PostgreSQL's function manager with one text argument, STRICT.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn tenancy_org_if(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: fn_extra is NULL or the call site that `remember` left there, in memory that lives with flinfo. This frame
    // owns nothing, so an error may jump over it.
    unsafe {
        let site = (*(*fcinfo).flinfo).fn_extra.cast::<CallSite>();
        if !site.is_null()
            && (*site).version == standing::version()
            && (*site).runner == identity::runner()
        {
            return answer(fcinfo, (*site).org);
        }
        // A row that was waited for is checked again by a plan of its own, whose call sites come here: what was revoked
        // meanwhile must be heard.
        transaction::accept_invalidations_unguarded();
        let (version, runner) = (standing::version(), identity::runner());
        let org = org_for(fcinfo);
        // An action that varies from row to row is not remembered.
        if get_fn_expr_arg_stable((*fcinfo).flinfo, 0) {
            remember(fcinfo, version, runner, org);
        }
        answer(fcinfo, org)
    }
}

unsafe extern "C-unwind" {
    // Without pgrx's guard: it reads the call's expression; and an allocation, by frames that own nothing.
    fn get_fn_expr_arg_stable(flinfo: *mut pg_sys::FmgrInfo, argument: i32) -> bool;
    fn MemoryContextAlloc(context: pg_sys::MemoryContext, size: usize) -> *mut std::ffi::c_void;
}

/// SAFETY: flinfo lives as long as its plan; the call site is allocated beside it. May jump.
#[inline]
unsafe fn remember(fcinfo: pg_sys::FunctionCallInfo, version: u64, runner: Runner, org: *const Id) {
    // SAFETY: as the function's own.
    unsafe {
        let flinfo = (*fcinfo).flinfo;
        let mut site = (*flinfo).fn_extra.cast::<CallSite>();
        if site.is_null() {
            site = MemoryContextAlloc((*flinfo).fn_mcxt, size_of::<CallSite>()).cast();
            (*flinfo).fn_extra = site.cast();
        }
        *site = CallSite {
            version,
            runner,
            org,
        };
    }
}

/// The organization for the call's action; pins the transaction to it.
///
/// SAFETY: as `tenancy_org_if`.
#[pg_guard]
unsafe extern "C-unwind" fn org_for(fcinfo: pg_sys::FunctionCallInfo) -> *const Id {
    // SAFETY: STRICT, so the argument is there; a text datum, which is plain where it is a constant of a policy.
    let action = unsafe { value::plain_bytes((*fcinfo).args.as_slice(1)[0].value.cast_mut_ptr()) };
    org_or_error(action)
}

/// What `org_if()` answers.
fn org_or_error(action: &[u8]) -> *const Id {
    let org = org_may(action);
    if org.is_null() && MISSING_CONTEXT.get() == MissingContext::Error {
        let now = standing::standing();
        if now.org.is_none() {
            Err(denial::without_context(&now, "read")).unwrap_or_report()
        }
    }
    org
}

/// The effective organization if the context may do the action there, else NULL; pins the transaction to it.
fn org_may(action: &[u8]) -> *const Id {
    let now = standing::standing();
    let org = now.answer(action, || {
        let action = String::from_utf8_lossy(action);
        let Some(index) = now.matrix.action(&action) else {
            crate::access::unknown_action(&now.matrix, &action).report(PgLogLevel::ERROR);
            unreachable!()
        };
        match now.org_id() {
            Some(org) if now.may(index) => intern(org),
            _ => std::ptr::null(),
        }
    });
    if !org.is_null() {
        standing::pin(&now).unwrap_or_report();
    }
    org
}

/// Actions that plans name by number (pg/bound.rs), the first is 0: no more of them than policies name.
static NUMBERED: Backend<RefCell<Vec<Box<[u8]>>>> = Backend::new(RefCell::new(Vec::new()));

/// The number of a known action in this backend; none for one that `org_if()` would refuse.
pub fn number_of(action: &[u8]) -> Option<u16> {
    let position = |known: &Vec<Box<[u8]>>| known.iter().position(|a| **a == *action);
    let found = NUMBERED.with_borrow(position).or_else(|| {
        crate::access::action_is_known(action).then(|| {
            NUMBERED.with_borrow_mut(|known| {
                known.push(action.into());
                known.len() - 1
            })
        })
    });
    found.and_then(|number| u16::try_from(number).ok())
}

/// What `org_if()` answers now, for the action of this number.
pub fn org_for_number(number: u16) -> *const Id {
    let action = NUMBERED.with_borrow(|known| known[usize::from(number)].clone());
    org_or_error(&action)
}

/// `tenancy.check_row(table_id oid, org uuid, action text) -> boolean` (spec 5.1, 5.4): true for a row of the effective
/// organization that the context may write there; anything else raises. The WITH CHECK of every policy. Errors: 42501 no
/// organization, no right, or a row of another one; 22023 for an unknown action, 25001 for a second organization.
///
/// SAFETY: called by PostgreSQL's function manager with an oid, a uuid and a text argument.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn tenancy_check_row(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as tenancy_org_if; the arguments' types are declared in sql/30_functions.sql.
    unsafe {
        let [table, org, action] = [0, 1, 2].map(|i| *(*fcinfo).args.as_ptr().add(i));
        let site = (*(*fcinfo).flinfo).fn_extra.cast::<CallSite>();
        if !org.isnull
            && !site.is_null()
            && (*site).version == standing::version()
            && (*site).runner == identity::runner()
            && !(*site).org.is_null()
            && *(*site).org == *org.value.cast_mut_ptr::<Id>()
        {
            return pg_sys::Datum::from(true);
        }
        // No news is taken in here: the statement did when it started, and the row trigger does after each row.
        let (version, runner) = (standing::version(), identity::runner());
        let mine = checked_org(table, org, action);
        if get_fn_expr_arg_stable((*fcinfo).flinfo, 2) {
            remember(fcinfo, version, runner, mine);
        }
        pg_sys::Datum::from(true)
    }
}

/// The effective organization, which is the row's; raises where it is not.
///
/// SAFETY: the arguments of `tenancy_check_row`.
#[pg_guard]
unsafe extern "C-unwind" fn checked_org(
    table: pg_sys::NullableDatum,
    org: pg_sys::NullableDatum,
    action: pg_sys::NullableDatum,
) -> *const Id {
    // SAFETY: as the function's own. A missing action is one that nobody holds.
    unsafe {
        let action = if action.isnull {
            &[]
        } else {
            value::plain_bytes(action.value.cast_mut_ptr())
        };
        let mine = org_may(action);
        if mine.is_null() || org.isnull || *mine != *org.value.cast_mut_ptr::<Id>() {
            let relid = if table.isnull {
                pg_sys::InvalidOid
            } else {
                pg_sys::Oid::from(table.value.value() as u32)
            };
            crate::isolation::refused_row(relid, &String::from_utf8_lossy(action))
                .report(PgLogLevel::ERROR);
        }
        mine
    }
}

/// `tenancy.current_org() -> uuid` (spec 4): the effective organization, NULL where the claim is not backed by a
/// membership now. Anyone may call it.
///
/// SAFETY: called by PostgreSQL's function manager without arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn tenancy_current_org(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as tenancy_org_if.
    unsafe {
        let site = (*(*fcinfo).flinfo).fn_extra.cast::<CallSite>();
        if !site.is_null()
            && (*site).version == standing::version()
            && (*site).runner == identity::runner()
        {
            return answer(fcinfo, (*site).org);
        }
        let (version, runner) = (standing::version(), identity::runner());
        let org = org_in_effect();
        remember(fcinfo, version, runner, org);
        answer(fcinfo, org)
    }
}

#[pg_guard]
extern "C-unwind" fn org_in_effect() -> *const Id {
    let now = standing::standing();
    // A deferred trigger that asks after a switch must not act for the other organization.
    standing::hold_to_pin(&now).unwrap_or_report();
    now.org_id().map_or(std::ptr::null(), intern)
}
