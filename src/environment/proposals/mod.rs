//! AI write approvals (spec 8): an AI actor's INSERT, UPDATE or DELETE on a protected table passes only where it is the one
//! that an approved proposal says, run by `execute_proposal()`.
//!
//! The door (door.rs) is what the guards ask; it is open while that function runs the stored change, for one row. All the
//! rest is the way there: who proposes, who decides, and what is written down of it.

mod act;
mod change;
mod decide;
mod door;
mod execute;
mod layout;
pub mod propose;
mod row;
mod seen;
mod show;

pub use door::{approver, check_row, check_statement, is_destructive, note_cascade};

pub fn at_subtransaction_abort(level: i32) {
    door::at_subtransaction_abort(level);
}

pub fn at_transaction_end() {
    door::shut();
}
