//! Output functions that say the same whoever asks: a value's text depends on the session's TimeZone, DateStyle,
//! IntervalStyle, extra_float_digits and bytea_output, and what is logged must not.

use pgrx::prelude::*;
use std::cell::Cell;
use std::ffi::c_int;

unsafe extern "C" {
    // Of utils/bytea.h, which the bindings leave out.
    static mut bytea_output: c_int;
}

const HEX: c_int = 1;
const SHORTEST: c_int = 1;

/// The variables behind these settings.
struct Style {
    zone: *mut pg_sys::pg_tz,
    date_style: c_int,
    date_order: c_int,
    interval_style: c_int,
    float_digits: c_int,
    bytea: c_int,
}

impl Style {
    fn now() -> Style {
        // SAFETY: variables of this backend, which has one thread.
        unsafe {
            Style {
                zone: pg_sys::session_timezone,
                date_style: pg_sys::DateStyle,
                date_order: pg_sys::DateOrder,
                interval_style: pg_sys::IntervalStyle,
                float_digits: pg_sys::extra_float_digits,
                bytea: bytea_output,
            }
        }
    }

    fn put(&self) {
        // SAFETY: as above; each is a value that its setting may have.
        unsafe {
            pg_sys::session_timezone = self.zone;
            pg_sys::DateStyle = self.date_style;
            pg_sys::DateOrder = self.date_order;
            pg_sys::IntervalStyle = self.interval_style;
            pg_sys::extra_float_digits = self.float_digits;
            bytea_output = self.bytea;
        }
    }
}

impl Drop for Style {
    fn drop(&mut self) {
        self.put();
    }
}

/// Runs `work` in UTC, with ISO dates, PostgreSQL's intervals, floats in their shortest exact form, bytea in hex; an error
/// leaves the session's own settings behind too.
pub fn output<T>(work: impl FnOnce() -> T) -> T {
    thread_local! {
        static UTC: Cell<*mut pg_sys::pg_tz> = const { Cell::new(std::ptr::null_mut()) };
    }
    if UTC.get().is_null() {
        // SAFETY: a zone that every PostgreSQL knows, kept for the backend's life.
        UTC.set(unsafe { pg_sys::pg_tzset(c"UTC".as_ptr()) });
    }
    let _before = Style::now();
    let style = std::mem::ManuallyDrop::new(Style {
        zone: UTC.get(),
        date_style: pg_sys::USE_ISO_DATES as c_int,
        date_order: pg_sys::DATEORDER_YMD as c_int,
        interval_style: pg_sys::INTSTYLE_POSTGRES as c_int,
        float_digits: SHORTEST,
        bytea: HEX,
    });
    style.put();
    work()
}
