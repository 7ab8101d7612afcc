//! `is_unscoped()`, which stands before every look at a row's scope: true for the memberships that are not limited to
//! resources, which are most. In a finished plan it is a parameter (pg/bound.rs), so that such a membership pays two steps
//! of the expression per row and no call.

use super::entry::answer;
use super::remembered::{remember, remembered};
use super::standing;
use crate::pg::{identity, transaction};
use pgrx::prelude::*;

/// The number by which plans name it, among those of actions.
pub const UNSCOPED: u16 = u16::MAX;

crate::pg::finfo!(pg_finfo_tenancy_is_unscoped);

/// `tenancy.is_unscoped() -> boolean` (spec 3.8): whether the context's membership reaches the whole organization; false for
/// one that is limited to resources. Stands in the policies of tables with a resource type. Anyone may call it.
///
/// SAFETY: called by PostgreSQL's function manager without arguments. Owns nothing, so an error may jump over it.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn tenancy_is_unscoped(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own.
    unsafe {
        if let Some(form) = remembered::<pg_sys::NullableDatum>(fcinfo) {
            return answer(fcinfo, form);
        }
        // A row that was waited for is checked again by call sites that come here: what was taken away meanwhile counts.
        transaction::accept_invalidations_unguarded();
        let (version, runner) = (standing::version(), identity::runner());
        let form = guarded();
        remember(fcinfo, version, runner, form);
        answer(fcinfo, form)
    }
}

#[pg_guard]
extern "C-unwind" fn guarded() -> pg_sys::NullableDatum {
    unscoped_now()
}

/// What `is_unscoped()` answers now.
pub fn unscoped_now() -> pg_sys::NullableDatum {
    pg_sys::NullableDatum {
        value: pg_sys::Datum::from(standing::standing().scopes.is_none()),
        isnull: false,
    }
}
