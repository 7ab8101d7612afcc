//! The only place for glue to PostgreSQL's C API: identity, catalog look-ups, snapshots, tuples, raw errors.
//! Rooms call these functions and stay free of `unsafe`.

pub mod catalog;
pub mod cursor;
pub mod error;
pub mod event;
pub mod heap;
pub mod identity;
pub mod local;
pub mod lookup;
pub mod partition;
pub mod paths;
pub mod plan;
pub mod probe;
pub mod procedure;
pub mod query;
pub mod reference;
pub mod scan;
pub mod setting;
pub mod srf;
pub mod stand_in;
pub mod transaction;
pub mod trigger;
pub mod value;

pub use error::{Result, fail, given};
