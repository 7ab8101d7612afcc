//! The end of a person's account.

use super::logins::require_administrator;
use super::{id_text, invalid, lock_org, owner_rule};
use crate::audit::{self, Act};
use crate::context::authority::Id;
use crate::pg::query::{Arg, execute, run};
use crate::pg::{self, fail};
use pgrx::datum::Uuid;
use pgrx::prelude::*;
use serde_json::json;

/// Deletes a person's account (spec 3.2): memberships, login bindings and pending invitations that he sent go with it, from
/// the next statement of every open session on. The rows that he made stay, and the logs, which name him by his id.
/// `user_id`: the user. For the DBA. Errors: 42501 not the DBA, 22023 no such user, 23514 he owns an organization.
#[pg_extern(volatile, parallel_unsafe)]
fn delete_user(user_id: Option<Uuid>) -> pg::Result<()> {
    let user_id = pg::given(user_id, "user_id")?;
    require_administrator("delete a user")?;
    let user = user_id.as_bytes();
    // Organizations before people, as every act on members does it.
    let before = orgs_of(user);
    for org in before.iter().map(|(org, _)| org) {
        // One that is being deleted has no members any more that anybody could see.
        lock_org(org, false).ok();
    }
    let known = run(
        "SELECT 1 FROM tenancy.users WHERE id OPERATOR(pg_catalog.=) $1 FOR UPDATE",
        &[Arg::Uuid(user)],
        |_| (),
    );
    if known.is_empty() {
        return Err(invalid(
            "this is no registered user",
            format!("There is no user {user_id}."),
            "SELECT id, email FROM tenancy.users.",
        ));
    }
    let owned = run(
        "SELECT 1 FROM tenancy.orgs WHERE owner_id OPERATOR(pg_catalog.=) $1 LIMIT 1",
        &[Arg::Uuid(user)],
        |_| (),
    );
    if !owned.is_empty() {
        return Err(owner_rule(
            "this user owns an organization",
            "An organization has exactly one owner, always.",
        ));
    }
    let memberships = orgs_of(user);
    if memberships.iter().any(|m| !before.contains(m)) {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            "the user's memberships changed meanwhile",
        )
        .set_detail("Nothing was changed.")
        .set_hint("Try again."));
    }
    execute(
        "DELETE FROM tenancy.users WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(user)],
    );
    for (org, role) in memberships {
        audit::record(&Act {
            org,
            operation: "remove_member",
            object: "tenancy.memberships",
            key: json!({ "org_id": id_text(&org), "user_id": id_text(user) }),
            old: Some(json!({ "role": role })),
            new: Some(json!({ "reason": "the account was deleted" })),
        });
    }
    Ok(())
}

fn orgs_of(user: &Id) -> Vec<(Id, String)> {
    run(
        "SELECT org_id, role FROM tenancy.memberships WHERE user_id OPERATOR(pg_catalog.=) $1 ORDER BY org_id",
        &[Arg::Uuid(user)],
        |row| Some((row.uuid(1)?, row.get::<String>(2)?)),
    )
    .into_iter()
    .flatten()
    .collect()
}
