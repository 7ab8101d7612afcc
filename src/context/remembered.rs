//! What the functions of policies and defaults remember at a call site, as long as nothing that it rests on changed.

use super::standing;
use crate::pg::call_site;
use crate::pg::identity::{self, Runner};
use pgrx::prelude::*;

#[repr(C)]
#[derive(Clone, Copy)]
struct Remembered<T> {
    version: u64,
    runner: Runner,
    what: T,
}

/// SAFETY: `fcinfo` is valid for the call that is being answered; whatever its function remembers is a `T`.
#[inline(always)]
pub unsafe fn remembered<T: Copy>(fcinfo: pg_sys::FunctionCallInfo) -> Option<T> {
    // SAFETY: as the function's own.
    let site = unsafe { call_site::left::<Remembered<T>>(fcinfo)? };
    (site.version == standing::version() && site.runner == identity::runner()).then_some(site.what)
}

/// `version` and `runner`: those under which it was found.
///
/// SAFETY: as `remembered`. May jump.
#[inline]
pub unsafe fn remember<T: Copy>(
    fcinfo: pg_sys::FunctionCallInfo,
    version: u64,
    runner: Runner,
    what: T,
) {
    // SAFETY: as the function's own.
    unsafe {
        call_site::leave(
            fcinfo,
            Remembered {
                version,
                runner,
                what,
            },
        );
    }
}
