//! protect(): reads a table into a plan, turns the plan into SQL, and guards every write from then on (spec 5).

mod add_column;
mod adopt;
mod asked;
mod audited;
mod by_environment;
mod check_text;
pub mod drift;
mod event;
mod exempt;
mod facts;
mod fill;
mod foreign_key;
mod guard;
mod held;
pub mod leakproof;
mod member;
mod moved;
mod newcomer;
mod options;
mod paths;
mod place;
mod place_columns;
mod place_plan;
mod place_refusal;
mod place_setup;
mod plan;
mod progress;
mod protect;
mod reading;
mod resource;
mod right;
mod route;
mod schema;
mod schema_columns;
mod scope;
mod scope_entry;
mod scope_key;
mod scope_support;
mod survey;
mod table;
mod tagged;
mod tree;
mod uninstall;
mod validate;
mod way;
mod whose;

use pgrx::pg_sys::panic::ErrorReportable;

pub use asked::{asked, either, parts};
pub use foreign_key::{before_subtransaction_commit, hides, hides_any, is_held};
pub use guard::{denied, refused_row};
pub use held::any as holds_any;
pub use member::{Whereabouts, member_may};
pub use options::Options;
pub use place::{holding, reads_every_project, reads_projects};
pub use place_refusal::asked_of;
pub use reading::{
    any_protected, check_inside_cascade, check_locking_read, check_reading, check_unread_merge,
    pin_for,
};
pub use right::{guard_write, guard_written, is_held_by_policy};
pub use scope::note_cascade;
pub use scope_key::{reach_by_key, read_by_key, resource_key, resource_type};
pub use table::{GuardedKey, Table, keyed_by_external_keys, protected};
pub use tagged::{Source, Way, is_in_use as is_tag_in_use};
pub use tree::{members, roots};

/// From the invalidation callback: no catalog access, no waiting.
pub fn on_invalidation(relid: pgrx::pg_sys::Oid) {
    table::on_invalidation(relid);
    leakproof::on_invalidation(relid);
    fill::on_invalidation();
}

/// Whether a table carries our protection; PostgreSQL's own never do.
pub fn is_protected(relid: pgrx::pg_sys::Oid) -> bool {
    u32::from(relid) >= pgrx::pg_sys::FirstNormalObjectId && table::protected(relid).is_some()
}

/// The end of a statement, or the start of one that may change tables: no parent stays open.
pub use crate::pg::open_parent::close_all as close_parents;

pub fn before_commit() {
    moved::before_commit().unwrap_or_report();
    foreign_key::before_commit();
    drift::before_commit().unwrap_or_report();
}

pub fn at_subtransaction_abort(level: i32) {
    foreign_key::at_subtransaction_abort(level);
    drift::at_subtransaction_abort(level);
}

pub fn at_subtransaction_commit(level: i32) {
    foreign_key::at_subtransaction_commit(level);
    drift::at_subtransaction_commit(level);
}

pub fn at_transaction_end() {
    foreign_key::forget_all();
    drift::forget();
    moved::forget();
    validate::forget();
    newcomer::forget();
    scope::forget();
}
