//! The row that a proposal is about, as it was when it was proposed: an approval is for that, and not for whatever has its
//! key by the time. Kept is a hash of all its columns, seen by the proposer or not, with a salt that nobody reads: a hash alone
//! would tell whoever tries values out.
//!
//! Compared is what the row guard hands over, the version that the change itself found and locked: nobody comes between.

use super::layout::Layout;
use crate::pg::trigger::RowImage;
use crate::pg::{self, fail};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use sha2::{Digest as _, Sha256};

const SALT: usize = 16;

fn digest(salt: &[u8], layout: &Layout, row: &RowImage) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(salt);
    for column in &layout.columns {
        // By name: a partition has its columns in an order of its own.
        let number = row.number_of(&column.name);
        if number == 0 {
            hash.update([2]);
            continue;
        }
        let value = row.value(number);
        hash.update([u8::from(value.null)]);
        value.with_bytes(|bytes| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        });
    }
    hash.finalize().into()
}

/// What is kept of a row.
pub fn keep(layout: &Layout, row: &RowImage) -> Vec<u8> {
    let salt: [u8; SALT] = pg::random();
    let mut kept = salt.to_vec();
    kept.extend(digest(&salt, layout, row));
    kept
}

/// Whether a row is still as it was.
pub fn is_same(kept: &[u8], layout: &Layout, row: &RowImage) -> bool {
    kept.split_at_checked(SALT)
        .is_some_and(|(salt, hash)| digest(salt, layout, row) == hash)
}

/// Not 40001: who tries again meets the same.
pub fn changed(object: &str) -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("the row in table {object} has changed since the change was proposed"),
    )
    .set_detail("An approval is for the row as it was then.")
    .set_hint("Look at the row, and propose what is to be done now; or approve it with on_change => 'accept'.")
}
