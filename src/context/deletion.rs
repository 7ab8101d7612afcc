//! While an organization's rows are removed for good (spec 3.9) no claim leads to it any more, and its own triggers run: what
//! they do, they do in that organization and in no other.

use super::authority::Id;
use super::standing;
use crate::pg::local::Backend;
use crate::pg::transaction;
use std::cell::Cell;

static NOW: Backend<Cell<Option<Id>>> = Backend::new(Cell::new(None));

/// The organization whose rows are being removed by the statement that runs.
#[inline]
pub fn org() -> Option<Id> {
    NOW.get()
}

/// Over, also where an error passes.
struct Over;

impl Drop for Over {
    fn drop(&mut self) {
        NOW.set(None);
        standing::invalidate();
        // Plans that were made meanwhile are nobody else's.
        transaction::forget_plans();
    }
}

/// Runs `work` in the organization, with every right there.
pub fn within<T>(org: &Id, work: impl FnOnce() -> T) -> T {
    // A plan of the session's may ask for the organization's projects one by one; here rows outlive them.
    transaction::forget_plans();
    NOW.set(Some(*org));
    standing::invalidate();
    let _over = Over;
    work()
}
