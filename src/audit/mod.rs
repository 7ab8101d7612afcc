//! The log of each organization: where it is stored, what goes in, who may read it (spec 6).

mod author;
mod capture;
mod chunk;
mod complete;
mod dba;
mod encode;
mod erase;
mod export;
mod history;
mod layouts;
mod purge;
mod read;
mod retention;
pub mod seal;
mod show;
mod store;
mod verify;
pub mod worker;

pub use capture::{Act, capture, record, record_truncate};
pub use chunk::flush;
pub use layouts::Captured;
pub use retention::require_no_hold;
pub use store::{has_room_for_dedicated, make_store, on_invalidation, release_stores};

/// A table made in a subtransaction went with it.
pub fn at_subtransaction_abort(level: i32) {
    chunk::at_subtransaction_abort(level);
    layouts::at_subtransaction_abort(level);
    store::forget();
}

pub fn at_subtransaction_commit(level: i32) {
    layouts::at_subtransaction_commit(level);
}

pub fn at_transaction_end() {
    chunk::at_transaction_end();
    layouts::at_transaction_end();
    store::at_transaction_end();
}
