//! What a call of a function remembers at its place in a plan, for the functions that run per row: without pgrx's guard, by
//! frames that own nothing, so an error may jump over them.

use pgrx::prelude::*;

unsafe extern "C-unwind" {
    // Without the guard: one reads the call's expression, the other allocates.
    fn get_fn_expr_arg_stable(flinfo: *mut pg_sys::FmgrInfo, argument: i32) -> bool;
    fn MemoryContextAlloc(context: pg_sys::MemoryContext, size: usize) -> *mut std::ffi::c_void;
}

/// What was left there. Looked at before anything else is left.
///
/// SAFETY: `fcinfo` is valid for the call that is being answered; whatever the function leaves is a `T`.
#[inline(always)]
pub unsafe fn left<'a, T: Copy>(fcinfo: pg_sys::FunctionCallInfo) -> Option<&'a T> {
    // SAFETY: as the function's own: fn_extra is NULL or a `T` in memory that lives with flinfo.
    unsafe { (*(*fcinfo).flinfo).fn_extra.cast::<T>().as_ref() }
}

/// Leaves it for the next call, in the place of what was left before.
///
/// SAFETY: as `left`. May jump.
#[inline]
pub unsafe fn leave<T: Copy>(fcinfo: pg_sys::FunctionCallInfo, what: T) {
    // SAFETY: as the function's own; flinfo lives as long as its plan, and so does what is allocated beside it.
    unsafe {
        let flinfo = (*fcinfo).flinfo;
        let mut site = (*flinfo).fn_extra.cast::<T>();
        if site.is_null() {
            site = MemoryContextAlloc((*flinfo).fn_mcxt, size_of::<T>()).cast();
            (*flinfo).fn_extra = site.cast();
        }
        *site = what;
    }
}

/// Whether an argument, counted from 0, is the same in every call of a statement.
///
/// SAFETY: as `left`. May jump.
#[inline]
pub unsafe fn is_stable(fcinfo: pg_sys::FunctionCallInfo, argument: i32) -> bool {
    // SAFETY: as the function's own.
    unsafe { get_fn_expr_arg_stable((*fcinfo).flinfo, argument) }
}
