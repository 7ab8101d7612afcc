//! The log of each organization: where it is stored, what goes in, who may read it (spec 6).

mod capture;
mod read;
mod store;

pub use capture::{Act, capture, flush, record, record_truncate};
pub use store::{has_room_for_dedicated, make_store, release_stores};

/// A table made in a subtransaction went with it.
pub fn at_subtransaction_abort(level: i32) {
    capture::at_subtransaction_abort(level);
    store::forget();
}

pub fn at_transaction_end() {
    capture::at_transaction_end();
    store::forget();
}
