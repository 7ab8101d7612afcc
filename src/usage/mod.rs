//! What an organization uses and who pays for it (spec 10): billing accounts, usage records, measured rows and bytes,
//! quotas. None of it is a right to data.

pub mod billing;
mod count;
mod measure;
mod metric_quota;
mod place;
pub mod quota;
pub mod quota_ddl;
pub mod quotas;
pub mod records;
mod reference;
mod report;
pub mod tally;

use crate::access;
use crate::context;
use crate::context::authority::Id;
use crate::pg;
use crate::pg::error::invalid;
use pgrx::datum::Uuid;

/// Whether the session may do an action in an organization, whatever its context is; a service only in the one in effect.
fn may_in(org: &Id, action: &str) -> bool {
    if context::is_administrator() {
        return true;
    }
    let now = context::standing();
    let Some(action) = now.matrix.action(action) else {
        return false;
    };
    match now.user {
        Some(user) => access::user_may(org, &user, action),
        None => now.org_id() == Some(*org) && now.may(action),
    }
}

/// The organization that an argument names, or the one in effect, where the session may do the action there.
fn allowed(org: Option<Uuid>, action: &str, on: &str, doing: &str) -> pg::Result<Id> {
    let now = context::standing();
    let id = match (org, now.org_id()) {
        (Some(org), _) => *org.as_bytes(),
        (None, Some(id)) => id,
        (None, None) => return Err(context::without_context(&now, doing)),
    };
    if now.org_id() == Some(id) {
        if now.may(access::action(&now.matrix, action)?) {
            return Ok(id);
        }
        return Err(context::no_right(&now, action, on));
    }
    access::require(&id, action, on)?;
    Ok(id)
}
