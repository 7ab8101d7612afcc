//! Cursors WITH HOLD keep the rows they read when their transaction ends (attack A3). Each remembers the organization
//! and user it was read for, and gives its rows to no other context.

use super::authority::Id;
use super::{standing, transaction};
use crate::pg::{self, error::server_log, fail};
use pgrx::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;

thread_local! {
    // Declared WITH HOLD in this transaction.
    static DECLARED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static HELD: RefCell<HashMap<String, (Id, Option<Id>)>> = RefCell::default();
}

/// A cursor of this name is declared, WITH HOLD or without.
pub fn declared(name: &str, hold: bool) {
    closed(name);
    if hold {
        DECLARED.with_borrow_mut(|d| d.push(name.to_string()));
    }
}

pub fn closed(name: &str) {
    HELD.with_borrow_mut(|h| h.remove(name));
    DECLARED.with_borrow_mut(|d| d.retain(|one| one != name));
}

/// Before commit: what was declared outlives the transaction, and so does whose rows it holds.
pub fn before_commit() {
    let names = DECLARED.take();
    if let Some(pin) = transaction::pinned() {
        HELD.with_borrow_mut(|h| {
            h.extend(names.into_iter().map(|name| (name, (pin.org, pin.user))))
        });
    }
}

pub fn at_transaction_end() {
    DECLARED.take();
}

/// Refuses a FETCH or MOVE in another context than the cursor was read in.
pub fn check(name: &str) -> pg::Result<()> {
    let Some((org, user)) = HELD.with_borrow(|h| h.get(name).copied()) else {
        return Ok(());
    };
    let now = standing::standing();
    if now.org_id() == Some(org) && now.user == user {
        return Ok(());
    }
    let message = "permission denied: the cursor was opened in another context";
    server_log(
        message,
        "A cursor WITH HOLD was fetched from by another organization or user, or without one.",
    );
    Err(
        fail(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
            .set_detail(
                "A cursor WITH HOLD keeps the rows of the organization and user it was opened for.",
            )
            .set_hint("Enter that organization again, or CLOSE the cursor."),
    )
}
