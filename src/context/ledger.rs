//! Who passed the rules on purpose (spec 5.7, 11.1): a line in the server's log always, and a row in a ledger that the
//! organizations can read.

use super::principal::is_administrator;
use super::standing;
use crate::pg::identity::{self, Runner};
use crate::pg::local::Backend;
use crate::pg::query::{Arg, execute};
use crate::pg::{self, error};
use pgrx::prelude::*;
use std::cell::Cell;

fn who() -> (String, String) {
    let name = |role| identity::role_name(role).unwrap_or_default();
    (name(identity::session_user()), name(identity::outer_user()))
}

/// A row of the ledger, which goes with the transaction, and a line of the log, which stays.
pub fn write(kind: &str, reason: &str) {
    let (login, role) = who();
    error::server_log(
        &format!("{kind}: rows of all organizations are open to role \"{role}\""),
        &format!("Login \"{login}\". Reason: {reason}"),
    );
    execute(
        "INSERT INTO tenancy.bypass_ledger (kind, login, db_role, reason, client_addr)
         VALUES ($1, $2, $3, $4, $5::pg_catalog.inet)",
        &[
            Arg::Text(kind),
            Arg::Name(&login),
            Arg::Name(&role),
            Arg::Text(reason),
            Arg::OptionalText(identity::client_address().as_deref()),
        ],
    );
}

// Whose break-glass the log already tells of.
static NOTED: Backend<Cell<Option<Runner>>> = Backend::new(Cell::new(None));

/// A session in break-glass reads or writes a protected table: a line in the server's log, once.
pub fn note_break_glass() {
    let runner = identity::runner();
    if NOTED.replace(Some(runner)) == Some(runner) {
        return;
    }
    let (login, role) = who();
    error::server_log(
        &format!("break-glass: rows of all organizations are open to role \"{role}\""),
        &format!("Login \"{login}\" set row_security = off."),
    );
}

/// Whether the context may read tenancy.bypass_ledger: holders of org:audit in their organization, and administrators
/// (spec 5.7). Anyone may call it.
#[pg_extern(stable, parallel_restricted)]
fn sees_bypasses() -> pg::Result<bool> {
    let now = standing::standing();
    Ok(is_administrator() || now.may(crate::access::action(&now.matrix, "org:audit")?))
}
