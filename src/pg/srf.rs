//! Functions that return many rows, one by one into a tuple store that spills to disk.

use pgrx::PgMemoryContexts;
use pgrx::prelude::*;

/// Where a function's rows go.
pub struct Sink {
    store: *mut pg_sys::Tuplestorestate,
    desc: pg_sys::TupleDesc,
    /// What one row is made in.
    memory: PgMemoryContexts,
}

impl Sink {
    /// SAFETY: `fcinfo` is that of a set-returning function.
    pub unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Sink {
        // SAFETY: as the function's own.
        unsafe { Sink::with(fcinfo, 0) }
    }

    /// Of rows of one value, which is of a type that is no row.
    ///
    /// SAFETY: as above.
    pub unsafe fn of_values(fcinfo: pg_sys::FunctionCallInfo) -> Sink {
        // SAFETY: as the function's own.
        unsafe { Sink::with(fcinfo, pg_sys::MAT_SRF_USE_EXPECTED_DESC) }
    }

    /// SAFETY: as above.
    unsafe fn with(fcinfo: pg_sys::FunctionCallInfo, flags: u32) -> Sink {
        // SAFETY: the function manager's protocol for materialize mode.
        unsafe {
            pg_sys::InitMaterializedSRF(fcinfo, flags);
            let result = (*fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            Sink {
                store: (*result).setResult,
                desc: (*result).setDesc,
                memory: PgMemoryContexts::new("pg_tenancy row"),
            }
        }
    }

    /// Stores the row that `make` makes, whose columns are the function's; None is NULL.
    pub fn put<const N: usize>(
        &mut self,
        make: impl FnOnce() -> super::Result<[Option<pg_sys::Datum>; N]>,
    ) -> super::Result<()> {
        let (store, desc) = (self.store, self.desc);
        // SAFETY: the store copies the row; its columns are counted against the values.
        unsafe {
            let put = self.memory.switch_to(|_| {
                let row = make()?;
                assert_eq!((*desc).natts as usize, N);
                let mut values = row.map(|v| v.unwrap_or(pg_sys::Datum::from(0)));
                let mut nulls = row.map(|v| v.is_none());
                pg_sys::tuplestore_putvalues(store, desc, values.as_mut_ptr(), nulls.as_mut_ptr());
                Ok(())
            });
            self.memory.reset();
            put
        }
    }
}

/// A `name`, truncated as PostgreSQL truncates names.
pub fn name(text: &str) -> Option<pg_sys::Datum> {
    let text = std::ffi::CString::new(text).unwrap_or_default();
    // SAFETY: namein() takes a C string and answers a palloc'd name.
    unsafe {
        pgrx::direct_function_call_as_datum(
            pg_sys::namein,
            &[Some(pg_sys::Datum::from(text.as_ptr()))],
        )
    }
}
