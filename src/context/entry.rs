//! The functions that stand in policies and defaults, written on the C ABI without a guard on the path that runs per row:
//! `org_if(action)`, `check_row(..)` and `current_org()`, each for every type that an organization column may have.
//!
//! They return a pointer to an interned value (numbers are values themselves), not a palloc'd copy: a scan of a million rows then costs what it costs
//! with a literal (1.2 to 1.35 times that with the copy, measured). What was handed out is never overwritten, since one
//! statement may hold the values of two organizations at once.

use super::authority::Id;
use super::remembered::{remember, remembered};
use super::settings::{MISSING_CONTEXT, MissingContext};
use super::{denial, scope_entry, standing};
use crate::pg::identity;
use crate::pg::key::{KeyType, Keys};
use crate::pg::local::Backend;
use crate::pg::{call_site, transaction, value};
use pgrx::pg_guard;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use std::cell::RefCell;

/// NULL where the organization has no such key, or there is none.
pub(super) fn nullable(form: Option<pg_sys::Datum>) -> pg_sys::NullableDatum {
    pg_sys::NullableDatum {
        value: form.unwrap_or(pg_sys::Datum::from(0)),
        isnull: form.is_none(),
    }
}

/// SAFETY: `fcinfo` is valid for the call that is being answered.
#[inline(always)]
pub(super) unsafe fn answer(
    fcinfo: pg_sys::FunctionCallInfo,
    form: pg_sys::NullableDatum,
) -> pg_sys::Datum {
    if form.isnull {
        // SAFETY: fcinfo is valid for the call.
        unsafe { (*fcinfo).isnull = true };
    }
    form.value
}

/// SAFETY: called by PostgreSQL's function manager with one text argument, STRICT.
#[inline(always)]
unsafe fn org_if(fcinfo: pg_sys::FunctionCallInfo, kind: KeyType) -> pg_sys::Datum {
    // SAFETY: as the function's own. This frame owns nothing, so an error may jump over it.
    unsafe {
        if let Some(form) = remembered::<pg_sys::NullableDatum>(fcinfo) {
            return answer(fcinfo, form);
        }
        // A row that was waited for is checked again by a plan of its own, whose call sites come here: what was revoked
        // meanwhile must be heard.
        transaction::accept_invalidations_unguarded();
        let (version, runner) = (standing::version(), identity::runner());
        let form = form_for(fcinfo, kind);
        // An action that varies from row to row is not remembered.
        if call_site::is_stable(fcinfo, 0) {
            remember(fcinfo, version, runner, form);
        }
        answer(fcinfo, form)
    }
}

/// The organization for the call's action; pins the transaction to it.
///
/// SAFETY: as `org_if`.
#[pg_guard]
unsafe extern "C-unwind" fn form_for(
    fcinfo: pg_sys::FunctionCallInfo,
    kind: KeyType,
) -> pg_sys::NullableDatum {
    // SAFETY: STRICT, so the argument is there; a text datum, which is plain where it is a constant of a policy.
    let action = unsafe { value::plain_bytes((*fcinfo).args.as_slice(1)[0].value.cast_mut_ptr()) };
    form_or_error(action, kind)
}

/// What `org_if()` and its like answer.
fn form_or_error(action: &[u8], kind: KeyType) -> pg_sys::NullableDatum {
    let org = org_may(action);
    let form = org.and_then(|keys| keys.datum(kind));
    if form.is_none() && MISSING_CONTEXT.get() == MissingContext::Error {
        let now = standing::standing();
        if now.org.is_none() {
            Err(denial::without_context(&now, "read")).unwrap_or_report()
        }
        if org.is_some() {
            Err(denial::without_key(&now, kind, "read")).unwrap_or_report()
        }
    }
    nullable(form)
}

/// The effective organization if the context may do the action there; pins the transaction to it.
fn org_may(action: &[u8]) -> Option<&'static Keys> {
    let now = standing::standing();
    let org = now.answer(action, || {
        let action = String::from_utf8_lossy(action);
        let asked = crate::isolation::asked(&action);
        let Some(index) = now.matrix.action(asked.name) else {
            crate::access::unknown_action(&now.matrix, asked.name).report(PgLogLevel::ERROR);
            unreachable!()
        };
        now.keys().filter(|_| {
            if asked.in_projects {
                !super::places::places(&now, asked.marked, false).is_none()
            } else {
                let reaches = asked.within_scope || now.scopes.is_none();
                reaches && asked.by_org_role(&now, index)
            }
        })
    });
    if org.is_some() {
        standing::pin(&now).unwrap_or_report();
    }
    org
}

type NamedAction = (KeyType, Box<[u8]>);

/// Actions that plans name by number (pg/bound.rs), each for a type of organization column; the first is 0: no more of them
/// than policies name.
static NUMBERED: Backend<RefCell<Vec<NamedAction>>> = Backend::new(RefCell::new(Vec::new()));

/// The number of a known action in this backend; none for one that `org_if()` would refuse.
pub fn number_of(action: &[u8], kind: KeyType) -> Option<u16> {
    let position =
        |known: &Vec<NamedAction>| known.iter().position(|(k, a)| *k == kind && **a == *action);
    let found = NUMBERED.with_borrow(position).or_else(|| {
        let name = std::str::from_utf8(action).map_or("", |a| crate::isolation::asked(a).name);
        crate::access::action_is_known(name.as_bytes()).then(|| {
            NUMBERED.with_borrow_mut(|known| {
                known.push((kind, action.into()));
                known.len() - 1
            })
        })
    });
    found
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number < super::places::NUMBERS)
}

/// What `org_if()`, or its like for another type, answers now, for the action of this number.
pub fn form_for_number(number: u16) -> pg_sys::NullableDatum {
    if number == scope_entry::UNSCOPED {
        return scope_entry::unscoped_now();
    }
    if let Some(bound) = super::places::bound_for_number(number) {
        return bound;
    }
    let (kind, action) = NUMBERED.with_borrow(|known| known[usize::from(number)].clone());
    form_or_error(&action, kind)
}

/// SAFETY: called by PostgreSQL's function manager with an oid, a value of the kind and a text argument.
#[inline(always)]
unsafe fn check_row(fcinfo: pg_sys::FunctionCallInfo, kind: KeyType) -> pg_sys::Datum {
    // SAFETY: as `org_if`; the arguments' types are declared in sql/30_functions.sql.
    unsafe {
        let [table, org, action] = [0, 1, 2].map(|i| *(*fcinfo).args.as_ptr().add(i));
        if !org.isnull
            && let Some(form) = remembered::<pg_sys::NullableDatum>(fcinfo)
            && !form.isnull
            && is_the_same(kind, form.value, org.value)
        {
            return pg_sys::Datum::from(true);
        }
        // No news is taken in here: the statement did when it started, and the row trigger does after each row.
        let (version, runner) = (standing::version(), identity::runner());
        let mine = checked_org(table, org, action, kind);
        if call_site::is_stable(fcinfo, 2) {
            remember(fcinfo, version, runner, mine);
        }
        pg_sys::Datum::from(true)
    }
}

/// Whether two values of the kind are the same; false also where that cannot be told without detoasting.
///
/// SAFETY: values of the kind, the first one interned.
#[inline(always)]
unsafe fn is_the_same(kind: KeyType, mine: pg_sys::Datum, theirs: pg_sys::Datum) -> bool {
    // SAFETY: as the function's own.
    unsafe {
        match kind {
            KeyType::Uuid => *mine.cast_mut_ptr::<Id>() == *theirs.cast_mut_ptr::<Id>(),
            KeyType::Text => value::bytes_if_plain(theirs.cast_mut_ptr())
                .is_some_and(|theirs| value::bytes_if_plain(mine.cast_mut_ptr()) == Some(theirs)),
            KeyType::Integer => mine.value() as i32 == theirs.value() as i32,
            KeyType::Bigint => mine.value() == theirs.value(),
        }
    }
}

/// The effective organization, which is the row's; raises where it is not.
///
/// SAFETY: the arguments of `check_row`.
#[pg_guard]
unsafe extern "C-unwind" fn checked_org(
    table: pg_sys::NullableDatum,
    org: pg_sys::NullableDatum,
    action: pg_sys::NullableDatum,
    kind: KeyType,
) -> pg_sys::NullableDatum {
    // SAFETY: as the function's own. A missing action is one that nobody holds.
    let action = unsafe {
        if action.isnull {
            &[]
        } else {
            value::plain_bytes(action.value.cast_mut_ptr())
        }
    };
    let mine = org_may(action).filter(|_| !standing::standing().is_suspended());
    let theirs = kind.value(org.value, org.isnull);
    if !mine.is_some_and(|mine| mine.is(kind, &theirs)) {
        let relid = if table.isnull {
            pg_sys::InvalidOid
        } else {
            pg_sys::Oid::from(table.value.value() as u32)
        };
        let action = String::from_utf8_lossy(action);
        crate::isolation::refused_row(relid, kind, crate::isolation::asked(&action).name)
            .report(PgLogLevel::ERROR);
    }
    nullable(mine.and_then(|mine| mine.datum(kind)))
}

/// SAFETY: called by PostgreSQL's function manager without arguments.
#[inline(always)]
unsafe fn current_org(fcinfo: pg_sys::FunctionCallInfo, kind: KeyType) -> pg_sys::Datum {
    // SAFETY: as `org_if`.
    unsafe {
        if let Some(form) = remembered::<pg_sys::NullableDatum>(fcinfo) {
            return answer(fcinfo, form);
        }
        let (version, runner) = (standing::version(), identity::runner());
        let form = form_in_effect(kind);
        remember(fcinfo, version, runner, form);
        answer(fcinfo, form)
    }
}

#[pg_guard]
extern "C-unwind" fn form_in_effect(kind: KeyType) -> pg_sys::NullableDatum {
    let now = standing::standing();
    // A deferred trigger that asks after a switch must not act for the other organization.
    standing::hold_to_pin(&now).unwrap_or_report();
    nullable(now.keys().and_then(|keys| keys.datum(kind)))
}

macro_rules! entry {
    ($(#[$doc:meta])* $finfo:ident, $name:ident, $answer:ident, $kind:ident) => {
        crate::pg::finfo!($finfo);

        $(#[$doc])*
        ///
        /// SAFETY: called by PostgreSQL's function manager, as sql/30_functions.sql declares it.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
            // SAFETY: as the function's own.
            unsafe { $answer(fcinfo, KeyType::$kind) }
        }
    };
}

entry!(
    /// `tenancy.org_if(action text) -> uuid` (spec 5.1.1): the effective organization if the context may do the action
    /// there, else NULL. The predicate of every policy. Errors: 22023 for an unknown action, 25001 for a second
    /// organization in one transaction, 42501 without an organization where tenancy.missing_context says error.
    pg_finfo_tenancy_org_if,
    tenancy_org_if,
    org_if,
    Uuid
);
entry!(
    /// `tenancy.org_key_if(action text) -> text` (spec 5): `org_if()` for a column of type text or varchar: the effective
    /// organization's external key; NULL where it has none, and 42501 then where tenancy.missing_context says error.
    pg_finfo_tenancy_org_key_if,
    tenancy_org_key_if,
    org_if,
    Text
);
entry!(
    /// `tenancy.org_key_integer_if(action text) -> integer` (spec 5): `org_key_if()` for a column of type integer; NULL where
    /// the external key is no such number.
    pg_finfo_tenancy_org_key_integer_if,
    tenancy_org_key_integer_if,
    org_if,
    Integer
);
entry!(
    /// `tenancy.org_key_bigint_if(action text) -> bigint` (spec 5): `org_key_if()` for a column of type bigint.
    pg_finfo_tenancy_org_key_bigint_if,
    tenancy_org_key_bigint_if,
    org_if,
    Bigint
);
entry!(
    /// `tenancy.check_row(table_id oid, org uuid, action text) -> boolean` (spec 5.1, 5.4): true for a row of the effective
    /// organization that the context may write there; anything else raises. The WITH CHECK of every policy. Errors: 42501
    /// no organization, no right, or a row of another one; 22023 for an unknown action, 25001 for a second organization.
    pg_finfo_tenancy_check_row,
    tenancy_check_row,
    check_row,
    Uuid
);
entry!(
    /// `tenancy.check_row(table_id oid, org text, action text) -> boolean` (spec 5): `check_row()` for a column of type text
    /// or varchar; 42501 also where the organization has no external key.
    pg_finfo_tenancy_check_row_text,
    tenancy_check_row_text,
    check_row,
    Text
);
entry!(
    /// `tenancy.check_row(table_id oid, org integer, action text) -> boolean` (spec 5): `check_row()` for a column of type
    /// integer.
    pg_finfo_tenancy_check_row_integer,
    tenancy_check_row_integer,
    check_row,
    Integer
);
entry!(
    /// `tenancy.check_row(table_id oid, org bigint, action text) -> boolean` (spec 5): `check_row()` for a column of type
    /// bigint.
    pg_finfo_tenancy_check_row_bigint,
    tenancy_check_row_bigint,
    check_row,
    Bigint
);
entry!(
    /// `tenancy.current_org() -> uuid` (spec 4): the effective organization, NULL where the claim is not backed by a
    /// membership now. Anyone may call it.
    pg_finfo_tenancy_current_org,
    tenancy_current_org,
    current_org,
    Uuid
);
entry!(
    /// `tenancy.current_org_key() -> text` (spec 5): the effective organization's external key, NULL where it has none.
    /// Anyone may call it.
    pg_finfo_tenancy_current_org_key,
    tenancy_current_org_key,
    current_org,
    Text
);
entry!(
    /// `tenancy.current_org_key_integer() -> integer` (spec 5): the external key as a number, NULL where it is none. Anyone
    /// may call it.
    pg_finfo_tenancy_current_org_key_integer,
    tenancy_current_org_key_integer,
    current_org,
    Integer
);
entry!(
    /// `tenancy.current_org_key_bigint() -> bigint` (spec 5): `current_org_key_integer()` for larger numbers.
    pg_finfo_tenancy_current_org_key_bigint,
    tenancy_current_org_key_bigint,
    current_org,
    Bigint
);
