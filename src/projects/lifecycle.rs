//! Projects are made, renamed, opened, closed and deleted.

use super::{Power, checked_environment, checked_name, invalid, lock, taken};
use crate::access;
use crate::audit::{self, Act};
use crate::context;
use crate::context::projects::RUN_PROJECTS;
use crate::environment::retag;
use crate::org::{id_text, lock_org};
use crate::pg;
use crate::pg::query::{Arg, execute, run};
use pgrx::datum::Uuid;
use pgrx::prelude::*;
use serde_json::json;

const OBJECT: &str = "tenancy.projects";

fn checked_access(access: &str) -> pg::Result<&str> {
    match access {
        "open" | "restricted" => Ok(access),
        _ => Err(invalid(
            "unknown access",
            "A project is open (to the organization's members, each by his role) or restricted (to its own members).",
            "Pass 'open' or 'restricted'.",
        )),
    }
}

/// Makes a project in an organization (spec 9). `name`: 1 to 255 characters, unique there, no uuid. `access`: open lets
/// the organization's members in by their roles there; restricted only the project's own members, the owner and admins.
/// `environment`: a tag that its rows may inherit, such as production. Needs org:update there (or the DBA). Returns the
/// project's id. Errors: 42501 no right or unknown organization, 22023 bad name, access or environment, 23505 name taken.
#[pg_extern(volatile, parallel_unsafe)]
fn create_project(
    org: Option<Uuid>,
    name: Option<&str>,
    access: default!(Option<&str>, "'open'"),
    environment: default!(Option<&str>, "NULL"),
) -> pg::Result<Uuid> {
    let org = pg::given(org, "org")?;
    let org = org.as_bytes();
    let name = checked_name(pg::given(name, "name")?, "project")?;
    let access = checked_access(pg::given(access, "access")?)?;
    let environment = checked_environment(environment)?;
    access::require(org, RUN_PROJECTS, "in the organization")?;
    lock_org(org, false)?;
    access::require(org, RUN_PROJECTS, "in the organization")?;
    let id = run(
        "INSERT INTO tenancy.projects (org_id, name, access, environment) VALUES ($1, $2, $3, $4)
         ON CONFLICT DO NOTHING RETURNING id",
        &[
            Arg::Uuid(org),
            Arg::Text(name),
            Arg::Text(access),
            Arg::OptionalText(environment),
        ],
        |row| row.uuid(1),
    )
    .pop()
    .flatten()
    .ok_or_else(|| taken("project", "organization"))?;
    retag::tell_of_unknown(org, environment);
    audit::record(&Act {
        org: *org,
        operation: "create_project",
        object: OBJECT,
        key: json!({ "id": id_text(&id), "org_id": id_text(org) }),
        old: None,
        new: Some(json!({ "name": name, "access": access, "environment": environment })),
    });
    Ok(Uuid::from_bytes(id))
}

/// Gives a project another name (spec 9). Needs org:update in its organization (or the DBA): whoever runs one project
/// alone could learn the names of those he may not see. Errors: 42501 no right or unknown project, 22023 bad name,
/// 23505 name taken.
#[pg_extern(volatile, parallel_unsafe)]
fn rename_project(project: Option<Uuid>, name: Option<&str>) -> pg::Result<()> {
    let project = pg::given(project, "project")?;
    let name = checked_name(pg::given(name, "name")?, "project")?;
    let (place, _) = lock(project.as_bytes(), Power::Runs, "rename", false)?;
    if name == place.name {
        return Ok(());
    }
    let others = run(
        "SELECT 1 FROM tenancy.projects WHERE org_id OPERATOR(pg_catalog.=) $1 AND name OPERATOR(pg_catalog.=) $2",
        &[Arg::Uuid(&place.org), Arg::Text(name)],
        |_| (),
    );
    if !others.is_empty() {
        return Err(taken("project", "organization"));
    }
    execute(
        "UPDATE tenancy.projects SET name = $2 WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(&place.id), Arg::Text(name)],
    );
    audit::record(&Act {
        org: place.org,
        operation: "rename_project",
        object: OBJECT,
        key: place.key(),
        old: Some(json!({ "name": place.name })),
        new: Some(json!({ "name": name })),
    });
    Ok(())
}

/// Opens a project to the organization's members, or restricts it to its own (spec 9). `access`: open or restricted. It
/// holds from the next statement of every open session. Needs org:update in its organization, the project's own
/// project_admin, or the DBA. Errors: 42501 no right or unknown project, 22023 unknown access.
#[pg_extern(volatile, parallel_unsafe)]
fn set_project_access(project: Option<Uuid>, access: Option<&str>) -> pg::Result<()> {
    let project = pg::given(project, "project")?;
    let access = checked_access(pg::given(access, "access")?)?;
    let (place, _) = lock(project.as_bytes(), Power::Admin, "open or restrict", false)?;
    set(&place, "set_project_access", "access", Some(access));
    Ok(())
}

/// Tags a project with an environment (spec 7, 9): also the rows that have theirs from it. Waits for transactions that write
/// such rows. `environment`: such as production; NULL for none. Needs org:update in its organization (or the DBA). Under
/// production protection a project leaves production by the organization's owner, in person, after
/// confirm_production_delete('tenancy.projects', ...). Errors: 42501 no right or unknown project, or not confirmed, 22023 bad
/// environment.
#[pg_extern(volatile, parallel_unsafe)]
fn set_project_environment(project: Option<Uuid>, environment: Option<&str>) -> pg::Result<()> {
    let project = pg::given(project, "project")?;
    let environment = checked_environment(environment)?;
    let (place, _) = lock(project.as_bytes(), Power::Runs, "retag", false)?;
    let old = context::projects::environment(&place.org, &place.id, None).flatten();
    retag::require(
        &place.org,
        &place.id,
        &place.name,
        old.as_deref(),
        environment,
    )?;
    retag::tell_of_unknown(&place.org, environment);
    retag::change(&place.id, || {
        set(
            &place,
            "set_project_environment",
            "environment",
            environment,
        );
    });
    Ok(())
}

/// Changes one column of a locked project, and records it.
fn set(place: &super::Place, operation: &str, column: &str, value: Option<&str>) {
    let (read, write) = match column {
        "access" => (
            "SELECT access FROM tenancy.projects WHERE id OPERATOR(pg_catalog.=) $1",
            "UPDATE tenancy.projects SET access = $2 WHERE id OPERATOR(pg_catalog.=) $1",
        ),
        _ => (
            "SELECT environment FROM tenancy.projects WHERE id OPERATOR(pg_catalog.=) $1",
            "UPDATE tenancy.projects SET environment = $2 WHERE id OPERATOR(pg_catalog.=) $1",
        ),
    };
    let old = run(read, &[Arg::Uuid(&place.id)], |row| row.get::<String>(1));
    execute(write, &[Arg::Uuid(&place.id), Arg::OptionalText(value)]);
    audit::record(&Act {
        org: place.org,
        operation,
        object: OBJECT,
        key: place.key(),
        old: Some(json!({ column: old.into_iter().next().flatten() })),
        new: Some(json!({ column: value })),
    });
}

/// Deletes an empty project with its memberships (spec 9). Waits for transactions that write rows in it, and is refused
/// where one of its rows, in any protected table, or a cluster is left. Needs org:update in its organization, the
/// project's own project_admin, or the DBA. Errors: 42501 no right or unknown project, 23503 not empty.
#[pg_extern(volatile, parallel_unsafe)]
fn delete_project(project: Option<Uuid>) -> pg::Result<()> {
    let project = pg::given(project, "project")?;
    let (place, _) = lock(project.as_bytes(), Power::Admin, "delete", true)?;
    // Its trigger looks whether it is empty (check.rs).
    execute(
        "DELETE FROM tenancy.projects WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(&place.id)],
    );
    audit::record(&Act {
        org: place.org,
        operation: "delete_project",
        object: OBJECT,
        key: place.key(),
        old: Some(json!({ "name": place.name })),
        new: None,
    });
    Ok(())
}
