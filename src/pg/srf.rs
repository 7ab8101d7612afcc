//! Functions that return the rows of a query, streamed into a tuple store that spills to disk.

use super::identity::as_owner;
use pgrx::prelude::*;
use std::ffi::CString;

/// Rows fetched at a time: enough to amortise the call, little memory.
const BATCH: std::ffi::c_long = 1000;

/// Opens `sql` as the extension's owner and stores what it returns as the function's result.
///
/// SAFETY: `fcinfo` is that of a set-returning function whose columns are the query's.
pub unsafe fn materialize(fcinfo: pg_sys::FunctionCallInfo, sql: &str) {
    let text = CString::new(sql).expect("query text has no NUL");
    as_owner(|| {
        // SAFETY: the function manager's protocol for materialize mode, then SPI's; tuples are copied by the store.
        unsafe {
            pg_sys::InitMaterializedSRF(fcinfo, 0);
            let result = (*fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            pg_sys::SPI_connect();
            let portal = pg_sys::SPI_cursor_open_with_args(
                std::ptr::null(),
                text.as_ptr(),
                0,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null(),
                true,
                0,
            );
            loop {
                pg_sys::SPI_cursor_fetch(portal, true, BATCH);
                let table = pg_sys::SPI_tuptable;
                let rows = pg_sys::SPI_processed as usize;
                for i in 0..rows {
                    pg_sys::tuplestore_puttuple((*result).setResult, *(*table).vals.add(i));
                }
                pg_sys::SPI_freetuptable(table);
                if rows == 0 {
                    break;
                }
            }
            pg_sys::SPI_cursor_close(portal);
            pg_sys::SPI_finish();
        }
    });
}
