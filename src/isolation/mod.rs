//! protect(): reads a table into a plan, turns the plan into SQL, and guards every write from then on (spec 5).

mod adopt;
mod event;
mod facts;
mod foreign_key;
mod guard;
mod moved;
mod plan;
mod protect;
mod route;
mod survey;
mod table;
mod tree;
mod uninstall;

pub use foreign_key::{
    at_subtransaction_abort, at_subtransaction_commit, before_commit, hides, hides_any,
};
pub use guard::{
    check_inside_cascade, check_locking_read, check_reading, check_unread_merge, pin_for,
};
#[cfg(feature = "pg_test")]
pub use table::protected;
pub use table::{Table, on_invalidation};

pub fn at_transaction_end() {
    foreign_key::forget_all();
    moved::forget();
}
