//! What is said of a row in a project where the context may not write it: one that it reads is refused by name, of one that
//! it does not read nothing is said.

use super::asked;
use super::place::marked;
use super::table::{self, Table};
use crate::context::authority::Id;
use crate::context::places::{places, with_places};
use crate::context::{self, Standing};
use crate::pg;
use crate::pg::catalog::relation_name;
use crate::pg::placed_query::Asked;
use crate::pg::trigger::Event;
use pgrx::datum::Uuid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// The actions that a table's policies ask for a row's project; None where it has no project column.
pub fn asked_of(relid: pg_sys::Oid, event: Event) -> Option<Asked> {
    let table = table::protected(relid).filter(|table| table.placed.is_some())?;
    let writing = match event {
        Event::Insert => &table.options.insert,
        Event::Update => &table.options.update,
        Event::Delete | Event::Truncate => &table.options.delete,
    };
    Some(Asked {
        reading: reading(&table),
        writing: marked(&table, writing, true),
    })
}

fn reading(table: &Table) -> String {
    marked(table, &table.options.select, false)
}

/// Whether the context reads a row of the table that is there, from which it may have narrowed itself.
pub fn reads(now: &Standing, table: &Table, project: &Id, cluster: Option<&Id>) -> bool {
    places(now, &reading(table), true).have(project, cluster)
}

/// The role, in the organization and in the project, lacks the action.
pub fn no_right(now: &Standing, table: &Table, action: &str, project: &Id) -> ErrorReport {
    let reach = now.reach();
    let name = reach.get(project).map_or("", |p| p.name.as_str());
    let on = format!(
        "on table \"{}\" in project \"{name}\"",
        relation_name(table.relid)
    );
    context::no_right_in_project(
        now,
        asked::asked(action).name,
        &on,
        project,
        reach.role(project),
    )
}

/// Whether a row that is there may be written in its project (spec 5.4, 9): true, or the refusal of one that may be read;
/// false for one that may not, of which nothing is said. Stands in plans: for what a locking SELECT locks, and for what an
/// upsert or a MERGE meets. Errors: 42501 no right there. Anyone may call it.
#[pg_extern(volatile, parallel_safe)]
fn check_project_row(
    table_id: Option<pg_sys::Oid>,
    project: Option<Uuid>,
    cluster: Option<Uuid>,
    action: Option<&str>,
) -> pg::Result<bool> {
    let (Some(project), Some(action)) = (project, action) else {
        return Ok(false);
    };
    let (project, cluster) = (project.as_bytes(), cluster.map(|id| *id.as_bytes()));
    if with_places(action, |places| places.have(project, cluster.as_ref())) {
        return Ok(true);
    }
    let Some(table) = table_id.and_then(table::protected) else {
        return Ok(false);
    };
    let now = context::standing();
    let is_read = with_places(&reading(&table), |places| {
        places.have(project, cluster.as_ref())
    });
    if is_read {
        return Err(no_right(&now, &table, action, project));
    }
    Ok(false)
}
