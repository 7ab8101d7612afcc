//! Cursors of the session.

use super::query::latest;
use pgrx::prelude::*;
use std::ffi::CString;

/// The names of the cursors WITH HOLD that there are. Asked before commit, where no statement's snapshot is left.
pub fn held() -> Vec<String> {
    latest(
        "SELECT name FROM pg_catalog.pg_cursor() WHERE is_holdable",
        &[],
        |row| row.get::<String>(1),
    )
    .into_iter()
    .flatten()
    .collect()
}

/// Closes a cursor, if it is there and nothing is using it.
pub fn close(name: &str) {
    let Ok(name) = CString::new(name) else { return };
    // SAFETY: the portal is looked up now; a pinned one is in use by a procedure and is left to it.
    unsafe {
        let portal = pg_sys::SPI_cursor_find(name.as_ptr());
        if !portal.is_null() && !(*portal).portalPinned {
            pg_sys::SPI_cursor_close(portal);
        }
    }
}
