//! What the context sees of projects: the policies of our own tables, and a question to ask.

use crate::access;
use crate::context;
use crate::pg;
use pgrx::datum::Uuid;
use pgrx::prelude::*;

/// Whether the context sees a project (spec 9): an open one of its organization, one that its user has a role in, and with
/// org:update every one. The policy of tenancy.projects and tenancy.clusters; it answers false and never raises, so that it
/// can come before every condition of the querier's. Anyone may call it. `project`: its id.
#[pg_extern(stable, parallel_safe)]
pub fn sees_project(project: Option<Uuid>) -> bool {
    project.is_some_and(|project| {
        context::standing()
            .reach()
            .seen(project.as_bytes())
            .is_some()
    })
}

/// Whether the context sees who has a role in a project (spec 9): oneself, the project's administrator, and whoever sees
/// the project and holds team:read or org:update. The policy of tenancy.project_members; never raises. Anyone may call it.
/// `project`, `user_id`: the row's.
#[pg_extern(stable, parallel_safe)]
pub fn sees_project_member(project: Option<Uuid>, user_id: Option<Uuid>) -> bool {
    let (Some(project), Some(user)) = (project, user_id) else {
        return false;
    };
    let now = context::standing();
    let reach = now.reach();
    if reach.seen(project.as_bytes()).is_none() {
        return false;
    }
    let holds = |action| now.matrix.action(action).is_some_and(|a| now.may(a));
    now.user == Some(*user.as_bytes())
        || reach.role(project.as_bytes()) == Some("project_admin")
        || holds("team:read")
        || holds(context::projects::RUN_PROJECTS)
}

/// Whether the context may do `action` in a project of its organization (spec 9): by the role in the organization where
/// the project is open to it, or by a role in the project. False for a project that it may not see. Anyone may ask.
/// Errors: 22023 for an unknown action.
#[pg_extern(stable, parallel_safe)]
fn has_project_permission(project: Uuid, action: &str) -> pg::Result<bool> {
    let now = context::standing();
    let index = access::action(&now.matrix, action)?;
    let reach = now.reach();
    Ok(reach
        .get(project.as_bytes())
        .is_some_and(|project| reach.may(project, action, now.may(index))))
}
