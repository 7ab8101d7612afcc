//! Setting a configuration parameter as SET or SET LOCAL would.

use pgrx::pg_sys;
use std::ffi::{CStr, CString};

pub fn set(name: &CStr, value: &str, local: bool) {
    let value = CString::new(value).expect("no NUL in a setting of ours");
    let action = if local {
        pg_sys::GucAction::GUC_ACTION_LOCAL
    } else {
        pg_sys::GucAction::GUC_ACTION_SET
    };
    // SAFETY: both strings live through the call; the value is copied. It raises where SET would.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            action,
            true,
            0,
            false,
        );
    }
}
