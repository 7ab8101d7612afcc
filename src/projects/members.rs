//! Who is in a project, and as what. Nobody gives a role that adds more than he has.

use super::{Place, Power, invalid, lock};
use crate::access;
use crate::audit::{self, Act};
use crate::context::authority::Id;
use crate::context::projects::project_matrix;
use crate::context::{self, authority};
use crate::org::id_text;
use crate::pg::error::server_log;
use crate::pg::query::{Arg, execute, run};
use crate::pg::{self, fail};
use pgrx::datum::Uuid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::{Value, json};

const OBJECT: &str = "tenancy.project_members";
const ROLES: [&str; 3] = ["project_admin", "project_operator", "project_viewer"];

fn known(role: &str) -> pg::Result<&str> {
    if ROLES.contains(&role) {
        return Ok(role);
    }
    Err(invalid(
        "unknown project role",
        "The roles are project_admin, project_operator and project_viewer.",
        "SELECT * FROM tenancy.project_role_permissions shows what each adds.",
    ))
}

fn key(place: &Place, user: &Id) -> Value {
    json!({ "project_id": id_text(&place.id), "user_id": id_text(user), "org_id": id_text(&place.org) })
}

fn not_a_member(of: &str) -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
        format!("this user is not a member of the {of}"),
    )
    .set_detail("There is no such membership.")
    .set_hint(match of {
        "project" => "SELECT * FROM tenancy.project_members shows the members of projects you may see.",
        _ => "A project's members come from its organization: tenancy.add_member() makes somebody one.",
    })
}

/// Refuses a role that the caller may not give, or take away. The owner's to give are all; of others nobody gives what he
/// does not hold: who runs the organization's projects, those that add nothing to his own role there; a project's
/// administrator, those below his own.
fn require_may_give(place: &Place, power: Power, role: &str) -> pg::Result<()> {
    let enough = match power {
        Power::Gives => true,
        Power::Runs => context::standing().user.is_some_and(|user| {
            let matrix = authority::matrix();
            let holds = |action: &String| {
                matrix
                    .action(action)
                    .is_some_and(|a| access::user_may(&place.org, &user, a))
            };
            project_matrix()
                .get(role)
                .is_none_or(|added| added.iter().all(holds))
        }),
        Power::Admin => role != "project_admin",
        Power::Sees => false,
    };
    if enough {
        return Ok(());
    }
    let message = format!(
        "permission denied: you may not give or take role \"{role}\" in project \"{}\"",
        place.name
    );
    let detail = "Nobody gives, or takes away, a role that adds what he does not hold himself.";
    server_log(&message, detail);
    Err(
        fail(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
            .set_detail(detail)
            .set_hint("Ask the organization's owner."),
    )
}

/// A member's role, his row locked.
fn role_of(place: &Place, user: &Id) -> pg::Result<String> {
    run(
        "SELECT role FROM tenancy.project_members
         WHERE project_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $2 FOR UPDATE",
        &[Arg::Uuid(&place.id), Arg::Uuid(user)],
        |row| row.get::<String>(1),
    )
    .pop()
    .flatten()
    .ok_or_else(|| not_a_member("project"))
}

/// Gives a member of the organization a role in one of its projects (spec 9): it adds rights inside that project only,
/// and lets him into it where it is restricted. `role`: project_admin, project_operator or project_viewer. Needs team:role
/// in the organization, or the DBA; with org:update there one gives the roles that add nothing to one's own; the project's
/// project_admin gives the two below his own. Errors: 42501 no right or unknown project, 22023 unknown role, P0002 not a
/// member of the organization, 23505 already a member of the project.
#[pg_extern(volatile, parallel_unsafe)]
fn add_project_member(
    project: Option<Uuid>,
    user_id: Option<Uuid>,
    role: default!(Option<&str>, "'project_viewer'"),
) -> pg::Result<()> {
    let project = pg::given(project, "project")?;
    let user_id = pg::given(user_id, "user_id")?;
    let role = known(pg::given(role, "role")?)?;
    let user = user_id.as_bytes();
    let (place, power) = lock(project.as_bytes(), Power::Admin, "add members to", false)?;
    require_may_give(&place, power, role)?;
    let giver = context::standing().user.map(|id| id_text(&id));
    let added = run(
        "WITH member AS (SELECT 1 FROM tenancy.memberships
                         WHERE org_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $3 FOR KEY SHARE),
              added AS (INSERT INTO tenancy.project_members (org_id, project_id, user_id, role, granted_by)
                        SELECT $1, $2, $3, $4, $5::pg_catalog.uuid FROM member ON CONFLICT DO NOTHING RETURNING 1)
         SELECT EXISTS (SELECT FROM member), EXISTS (SELECT FROM added)",
        &[
            Arg::Uuid(&place.org),
            Arg::Uuid(&place.id),
            Arg::Uuid(user),
            Arg::Text(role),
            Arg::OptionalText(giver.as_deref()),
        ],
        |row| (row.get::<bool>(1), row.get::<bool>(2)),
    )
    .pop();
    match added {
        Some((Some(true), Some(true))) => {}
        Some((Some(true), _)) => {
            return Err(fail(
                PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
                "this user is already a member of the project",
            )
            .set_detail("A user has one role in a project.")
            .set_hint("tenancy.set_project_role() changes the role."));
        }
        _ => return Err(not_a_member("organization")),
    }
    record(&place, "add_project_member", user, None, Some(role));
    Ok(())
}

/// Gives a member of a project another role there (spec 9). Needs what it takes to give both roles, see
/// `add_project_member()`. It holds from the next statement of every open session of that member. Errors: 42501 no right
/// or unknown project, 22023 unknown role, P0002 not a member of the project.
#[pg_extern(volatile, parallel_unsafe)]
fn set_project_role(
    project: Option<Uuid>,
    user_id: Option<Uuid>,
    role: Option<&str>,
) -> pg::Result<()> {
    let project = pg::given(project, "project")?;
    let user_id = pg::given(user_id, "user_id")?;
    let role = known(pg::given(role, "role")?)?;
    let user = user_id.as_bytes();
    let (place, power) = lock(project.as_bytes(), Power::Admin, "change roles in", false)?;
    require_may_give(&place, power, role)?;
    let old = role_of(&place, user)?;
    require_may_give(&place, power, &old)?;
    execute(
        "UPDATE tenancy.project_members SET role = $3
         WHERE project_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $2",
        &[Arg::Uuid(&place.id), Arg::Uuid(user), Arg::Text(role)],
    );
    record(&place, "set_project_role", user, Some(&old), Some(role));
    Ok(())
}

/// Ends somebody's role in a project (spec 9): it holds from the next statement of every open session. Needs what it takes
/// to give that role, see `add_project_member()`; anyone may leave. Errors: 42501 no right or unknown project, P0002 not a
/// member of the project.
#[pg_extern(volatile, parallel_unsafe)]
fn remove_project_member(project: Option<Uuid>, user_id: Option<Uuid>) -> pg::Result<()> {
    let project = pg::given(project, "project")?;
    let user_id = pg::given(user_id, "user_id")?;
    let user = user_id.as_bytes();
    let leaving = context::standing().user == Some(*user);
    let least = if leaving { Power::Sees } else { Power::Admin };
    let (place, power) = lock(project.as_bytes(), least, "remove members of", false)?;
    let old = role_of(&place, user)?;
    if !leaving {
        require_may_give(&place, power, &old)?;
    }
    execute(
        "DELETE FROM tenancy.project_members
         WHERE project_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $2",
        &[Arg::Uuid(&place.id), Arg::Uuid(user)],
    );
    record(&place, "remove_project_member", user, Some(&old), None);
    Ok(())
}

fn record(place: &Place, operation: &str, user: &Id, old: Option<&str>, new: Option<&str>) {
    let role = |role: &str| json!({ "role": role });
    audit::record(&Act {
        org: place.org,
        operation,
        object: OBJECT,
        key: key(place, user),
        old: old.map(role),
        new: new.map(role),
    });
}
