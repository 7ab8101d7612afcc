//! What is the owner's alone (or the DBA's), and no right that a role could hold.

use super::{id_text, lock_org};
use crate::access;
use crate::context::authority::Id;
use crate::context::{self, Standing};
use crate::pg;

/// The caller's role; to who has none the organization is one that does not exist.
fn require_belonging(org: &Id, now: &Standing) -> pg::Result<String> {
    match now.user.and_then(|user| access::role_in(org, &user)) {
        Some(role) => Ok(role),
        None if context::is_administrator() => Ok("none".into()),
        None => Err(context::stranger(org)),
    }
}

/// `owner`: who it is, under the lock.
pub fn require_owner(org: &Id, owner: &Id, doing: &str) -> pg::Result<()> {
    let known = context::known_org(org)?;
    let now = context::standing();
    let role = require_belonging(org, &now)?;
    if context::is_administrator() || now.user == Some(*owner) {
        return Ok(());
    }
    Err(context::owner_only(
        &role,
        doing,
        &format!("\"{}\" ({})", known.name, id_text(org)),
        &now.user
            .map_or("no user".into(), |u| format!("user {}", id_text(&u))),
    ))
}

/// Locks the organization for its owner; answers who that is. Of two owners in turn the second finds that it is no longer
/// his to do; who does not belong hears nothing of the organization's state.
pub fn lock_as_owner(org: &Id, doing: &str) -> pg::Result<Id> {
    require_belonging(org, &context::standing())?;
    let owner = lock_org(org, true)?;
    require_owner(org, &owner, doing)?;
    Ok(owner)
}
