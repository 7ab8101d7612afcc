//! Clusters of a project.

use super::{Place, Power, checked_environment, checked_name, lock, taken, unknown_project};
use crate::audit::{self, Act};
use crate::context::authority::Id;
use crate::environment::retag;
use crate::org::id_text;
use crate::pg::query::{Arg, execute, latest, run};
use crate::pg::{self, fail};
use pgrx::datum::Uuid;
use pgrx::prelude::*;
use serde_json::{Value, json};

const OBJECT: &str = "tenancy.clusters";

fn key(place: &Place, cluster: &Id) -> Value {
    json!({ "id": id_text(cluster), "project_id": id_text(&place.id), "org_id": id_text(&place.org) })
}

/// Makes a cluster in a project (spec 9). `name`: 1 to 255 characters, unique in the project, no uuid. `environment`: its
/// own tag, where it is not the project's. Needs the project's own project_admin, org:update in its organization, or the
/// DBA; an operator may not. Returns the cluster's id. Errors: 42501 no right or unknown project, 22023 bad name or
/// environment, 23505 name taken.
#[pg_extern(volatile, parallel_unsafe)]
fn create_cluster(
    project: Option<Uuid>,
    name: Option<&str>,
    environment: default!(Option<&str>, "NULL"),
) -> pg::Result<Uuid> {
    let project = pg::given(project, "project")?;
    let name = checked_name(pg::given(name, "name")?, "cluster")?;
    let environment = checked_environment(environment)?;
    let (place, _) = lock(
        project.as_bytes(),
        Power::Admin,
        "create clusters in",
        false,
    )?;
    let id = run(
        "INSERT INTO tenancy.clusters (org_id, project_id, name, environment) VALUES ($1, $2, $3, $4)
         ON CONFLICT DO NOTHING RETURNING id",
        &[
            Arg::Uuid(&place.org),
            Arg::Uuid(&place.id),
            Arg::Text(name),
            Arg::OptionalText(environment),
        ],
        |row| row.uuid(1),
    )
    .pop()
    .flatten()
    .ok_or_else(|| taken("cluster", "project"))?;
    retag::tell_of_unknown(&place.org, environment);
    audit::record(&Act {
        org: place.org,
        operation: "create_cluster",
        object: OBJECT,
        key: key(&place, &id),
        old: None,
        new: Some(json!({ "name": name, "environment": environment })),
    });
    Ok(Uuid::from_bytes(id))
}

/// The project of a cluster. A cluster that the caller may not see answers as one that does not exist.
fn project_of(cluster: &Id) -> pg::Result<Id> {
    latest(
        "SELECT project_id FROM tenancy.clusters WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(cluster)],
        |row| row.uuid(1),
    )
    .pop()
    .flatten()
    .ok_or_else(|| unknown_cluster(cluster))
}

pub fn unknown_cluster(cluster: &Id) -> pgrx::pg_sys::panic::ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("cluster \"{}\" does not exist or you may not see it", id_text(cluster)),
    )
    .set_detail("Both cases answer alike.")
    .set_hint("SELECT * FROM tenancy.clusters lists the current organization's clusters that you may see.")
}

/// `lock()` for the project of a cluster; of one that the caller does not see, the error is the cluster's.
fn lock_for(cluster: &Id, doing: &str) -> pg::Result<Place> {
    let project = project_of(cluster)?;
    let seen = super::find(&project).and_then(|place| super::power(&place));
    if seen.is_err() {
        return Err(unknown_cluster(cluster));
    }
    let (place, _) = lock(&project, Power::Admin, doing, false)?;
    Ok(place)
}

/// Gives a cluster another name (spec 9). Needs what `create_cluster()` needs. Errors: 42501 no right or unknown cluster,
/// 22023 bad name, 23505 name taken.
#[pg_extern(volatile, parallel_unsafe)]
fn rename_cluster(cluster: Option<Uuid>, name: Option<&str>) -> pg::Result<()> {
    let cluster = pg::given(cluster, "cluster")?;
    let cluster = cluster.as_bytes();
    let name = checked_name(pg::given(name, "name")?, "cluster")?;
    let place = lock_for(cluster, "rename clusters of")?;
    let others = run(
        "SELECT id FROM tenancy.clusters WHERE project_id OPERATOR(pg_catalog.=) $1 AND name OPERATOR(pg_catalog.=) $2",
        &[Arg::Uuid(&place.id), Arg::Text(name)],
        |row| row.uuid(1),
    );
    match others.first() {
        Some(Some(same)) if same == cluster => return Ok(()),
        Some(_) => return Err(taken("cluster", "project")),
        None => {}
    }
    let old = run(
        "SELECT name FROM tenancy.clusters WHERE id OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE",
        &[Arg::Uuid(cluster)],
        |row| row.get::<String>(1),
    )
    .pop()
    .flatten()
    .ok_or_else(|| unknown_cluster(cluster))?;
    execute(
        "UPDATE tenancy.clusters SET name = $2 WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(cluster), Arg::Text(name)],
    );
    audit::record(&Act {
        org: place.org,
        operation: "rename_cluster",
        object: OBJECT,
        key: key(&place, cluster),
        old: Some(json!({ "name": old })),
        new: Some(json!({ "name": name })),
    });
    Ok(())
}

/// Deletes an empty cluster (spec 9). Waits for transactions that write rows in it, and is refused where one of its rows,
/// in any protected table, is left. Needs the project's own project_admin, org:update in its organization, or the DBA; an
/// operator may not. Errors: 42501 no right or unknown cluster, 23503 not empty.
#[pg_extern(volatile, parallel_unsafe)]
fn delete_cluster(cluster: Option<Uuid>) -> pg::Result<()> {
    let cluster = pg::given(cluster, "cluster")?;
    let cluster = cluster.as_bytes();
    let place = lock_for(cluster, "delete clusters of")?;
    let name = run(
        "SELECT name FROM tenancy.clusters WHERE id OPERATOR(pg_catalog.=) $1 FOR UPDATE",
        &[Arg::Uuid(cluster)],
        |row| row.get::<String>(1),
    )
    .pop()
    .flatten()
    .ok_or_else(|| unknown_project(&place.id))?;
    // Its trigger looks whether it is empty (check.rs).
    execute(
        "DELETE FROM tenancy.clusters WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(cluster)],
    );
    audit::record(&Act {
        org: place.org,
        operation: "delete_cluster",
        object: OBJECT,
        key: key(&place, cluster),
        old: Some(json!({ "name": name })),
        new: None,
    });
    Ok(())
}
