//! Cursors WITH HOLD keep the rows they read when their transaction ends (attack A3). Where the context ends with the
//! transaction they are closed; elsewhere each remembers the organization and user it was read for, and FETCH gives its
//! rows to no other context.

use super::authority::Id;
use super::{standing, transaction};
use crate::pg::{self, cursor, error::server_log, fail};
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

/// Before commit: what was declared outlives the transaction, and so does whose rows it holds; but where the context
/// ends with the transaction, so does the cursor.
pub fn before_commit() {
    let mut names = DECLARED.take();
    let Some(pin) = transaction::pinned() else {
        return;
    };
    // The DECLARE that loaded the library passed no hook of ours.
    if transaction::loaded_here() {
        names = cursor::held();
    }
    if names.is_empty() {
        return;
    }
    if standing::standing().principal.transaction_scoped() {
        for name in names {
            cursor::close(&name);
        }
        return;
    }
    HELD.with_borrow_mut(|h| h.extend(names.into_iter().map(|name| (name, (pin.org, pin.user)))));
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
