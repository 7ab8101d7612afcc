//! Environments of rows, and what production protection asks of whoever writes them (spec 7); and what an AI actor may
//! write at all (spec 8).
//!
//! The checks stand in the row guard, which no path of writing passes by: a table without the option pays nothing, an
//! organization without protection a comparison.

mod confirm;
mod inherit;
mod production;
pub mod proposals;
pub mod retag;
mod row_key;
mod settings;
mod tag;

pub use inherit::of_place;
pub use production::{check_arrival, check_row, vanished};
pub use proposals::{
    approver, check_row as check_ai_row, check_statement as check_ai_statement, note_cascade,
};
pub use tag::Tag;

/// A row's primary key as it is stored, column by column, in the key's order; empty where the table has none.
pub type RowKey = Vec<Vec<u8>>;

pub fn at_subtransaction_abort(level: i32) {
    confirm::at_subtransaction_abort(level);
    inherit::at_subtransaction_abort(level);
    proposals::at_subtransaction_abort(level);
}

pub fn at_subtransaction_commit(level: i32) {
    confirm::at_subtransaction_commit(level);
    inherit::at_subtransaction_commit(level);
}

pub fn at_transaction_end() {
    confirm::forget();
    inherit::forget();
    proposals::at_transaction_end();
}
