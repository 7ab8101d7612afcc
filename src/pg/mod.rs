//! The only place for glue to PostgreSQL's C API: identity, catalog look-ups, snapshots, tuples, raw errors.
//! Rooms call these functions and stay free of `unsafe`.

pub mod attempt;
pub mod bound;
pub mod call_site;
pub mod canonical;
pub mod catalog;
pub mod cidr;
pub mod counter;
pub mod cursor;
pub mod error;
pub mod evaluated;
pub mod event;
pub mod gather;
pub mod heap;
pub mod horizon;
pub mod identity;
pub mod json;
pub mod key;
pub mod local;
pub mod lookup;
pub mod lookup_row;
pub mod modify;
pub mod open_parent;
pub mod partition;
pub mod paths;
pub mod placed_plan;
pub mod placed_query;
pub mod plan;
pub mod primary_key;
pub mod probe;
pub mod procedure;
pub mod process;
pub mod query;
pub mod range_table;
pub mod raw;
mod raw_expression;
pub mod reference;
pub mod rewrite;
pub mod scan;
pub mod setting;
pub mod srf;
pub mod stand_in;
pub mod support;
pub mod transaction;
pub mod trigger;
pub mod value;

pub use error::{Result, fail, given};

/// The record by which PostgreSQL knows how to call a C function of ours: `pg_finfo_` and the function's name.
macro_rules! finfo {
    ($name:ident) => {
        #[doc(hidden)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $name() -> &'static pgrx::pg_sys::Pg_finfo_record {
            const V1: pgrx::pg_sys::Pg_finfo_record =
                pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }
    };
}
pub(crate) use finfo;

/// Bytes that nobody can guess.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // SAFETY: so much room there is.
    if !unsafe { pgrx::pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), N) } {
        fail(
            pgrx::PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            "no random numbers are to be had",
        )
        .set_detail("The audit's hashes need some.")
        .set_hint("Look at what the operating system's source of them says.")
        .report(pgrx::PgLogLevel::ERROR);
    }
    bytes
}
