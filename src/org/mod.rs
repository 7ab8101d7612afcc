//! An organization's life: people, organizations, members, ownership, and the logins that speak for them (spec 3, 4).

pub mod accounts;
pub mod api_keys;
mod create;
pub mod deletion;
mod external_key;
pub mod invariants;
pub mod invitations;
mod limits;
mod logins;
mod members;
pub mod owner_alone;
mod ownership;
pub mod services;
mod signing_keys;
pub mod suspension;

pub use crate::context::authority::id_text;
pub use crate::pg::error::invalid;
pub use logins::require_administrator;
pub use members::not_a_member;

use crate::context::authority::Id;
use crate::pg::{self, fail};
use pgrx::prelude::*;

/// Breaks of "exactly one owner" (spec 3.2) are check violations: nobody's rights could allow them.
pub fn owner_rule(message: impl Into<String>, detail: &str) -> pgrx::pg_sys::panic::ErrorReport {
    fail(PgSqlErrorCode::ERRCODE_CHECK_VIOLATION, message)
        .set_detail(detail)
        .set_hint(
            "The owner hands the organization on with tenancy.transfer_ownership(org, new_owner).",
        )
}

/// Locks the organization's row against a change of owner until the transaction ends; answers its owner now.
/// Every act on members takes this lock first, so that all of them order themselves alike. Where the organization is
/// suspended, only the DBA acts on it.
pub fn lock_org(org: &Id, for_change: bool) -> pg::Result<Id> {
    let sql = if for_change {
        "SELECT owner_id, suspended_at IS NOT NULL FROM tenancy.orgs
         WHERE id OPERATOR(pg_catalog.=) $1 AND deleting_at IS NULL FOR NO KEY UPDATE"
    } else {
        "SELECT owner_id, suspended_at IS NOT NULL FROM tenancy.orgs
         WHERE id OPERATOR(pg_catalog.=) $1 AND deleting_at IS NULL FOR SHARE"
    };
    let found = pg::query::run(sql, &[pg::query::Arg::Uuid(org)], |row| {
        (row.uuid(1), row.get::<bool>(2) == Some(true))
    });
    // What was committed while we waited for the lock counts from here on: a wait for a row takes no news in by itself.
    pg::transaction::accept_invalidations();
    match found.into_iter().next() {
        Some((Some(owner), suspended)) => {
            if suspended && !crate::context::is_administrator() {
                return Err(crate::context::suspended(org, "change the organization"));
            }
            Ok(owner)
        }
        _ => Err(crate::context::stranger(org)),
    }
}
