//! What holds for projects and clusters whoever writes our tables: they stay in their organization, go only when they are
//! empty, and leave production only as their rows would (spec 7).

use crate::environment::retag;
use crate::org::id_text;
use crate::pg::query::{Arg, run};
use crate::pg::{fail, identity, trigger};
use pgrx::datum::Uuid;
use pgrx::heap_tuple::PgHeapTuple;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use pgrx::{AllocatedByPostgres, WhoAllocated};

trigger::entry!(
    pg_finfo_tenancy_check_place,
    tenancy_check_place,
    check_place,
    check_place_wrapper
);

fn id<A: WhoAllocated>(row: &PgHeapTuple<'_, A>, column: &str) -> Option<[u8; 16]> {
    let id = row.get_by_name::<Uuid>(column).ok().flatten();
    id.map(|id| *id.as_bytes())
}

fn text<A: WhoAllocated>(row: &PgHeapTuple<'_, A>, column: &str) -> Option<String> {
    row.get_by_name::<String>(column).ok().flatten()
}

/// Refuses to let a project or cluster go while something is in it. One that goes with its organization, or is taken away
/// in break-glass, is not asked for.
fn require_empty(row: &PgHeapTuple<'_, AllocatedByPostgres>) {
    if identity::break_glass() || identity::in_referential_action() {
        return;
    }
    let Some(place) = id(row, "id") else { return };
    let is_cluster = id(row, "project_id").is_some();
    let clusters = run(
        "SELECT 1 FROM tenancy.clusters WHERE project_id OPERATOR(pg_catalog.=) $1 LIMIT 1",
        &[Arg::Uuid(&place)],
        |_| (),
    );
    let left = if clusters.is_empty() {
        crate::isolation::holding(&place, is_cluster)
            .map(|table| format!("Table {table} has rows in it."))
    } else {
        Some("It has clusters.".to_string())
    };
    if let Some(left) = left {
        let what = if is_cluster { "cluster" } else { "project" };
        let name = row.get_by_name::<String>("name").ok().flatten();
        fail(
            PgSqlErrorCode::ERRCODE_FOREIGN_KEY_VIOLATION,
            format!("{what} \"{}\" is not empty", name.unwrap_or_default()),
        )
        .set_detail(left)
        .set_hint("Delete what is in it first, or move its rows to another project.")
        .report(PgLogLevel::ERROR);
    }
}

/// Keeps a project in its organization and a cluster in its project, and either one while it is not empty (spec 9).
#[pg_trigger(sql = r#"
CREATE FUNCTION tenancy.check_place() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_check_place';
"#)]
pub fn check_place<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, AllocatedByPostgres>>, PgTriggerError> {
    let (Some(old), new) = (trigger.old(), trigger.new()) else {
        return Ok(trigger.new());
    };
    let Some(new) = new else {
        require_empty(&old);
        return Ok(trigger.old());
    };
    let moved = ["id", "org_id", "project_id"]
        .into_iter()
        .any(|column| id(&old, column) != id(&new, column));
    if moved && !identity::break_glass() {
        fail(
            PgSqlErrorCode::ERRCODE_CHECK_VIOLATION,
            "a project never changes its organization, nor a cluster its project",
        )
        .set_detail(format!(
            "Rows name {} by its id.",
            id(&old, "id").map(|id| id_text(&id)).unwrap_or_default()
        ))
        .set_hint("Create another one there.")
        .report(PgLogLevel::ERROR);
    }
    let (before, after) = (text(&old, "environment"), text(&new, "environment"));
    // The publisher checked it.
    if before != after && !identity::is_logical_worker() {
        let place = retag::Place {
            org: id(&old, "org_id").unwrap_or_default(),
            id: id(&old, "id").unwrap_or_default(),
            name: text(&old, "name").unwrap_or_default(),
            project: id(&old, "project_id"),
        };
        retag::before_change(&place, before.as_deref(), after.as_deref()).unwrap_or_report();
    }
    Ok(trigger.new())
}
