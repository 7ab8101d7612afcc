//! The second and third boundary in data (spec 9): a row's project is of its organization, its cluster of its project, on
//! every way that a row is written, and who writes it may do so in that project.
//!
//! A project that is another organization's, one that is hidden and one that does not exist answer alike. One that is there is
//! held FOR KEY SHARE until the transaction ends, as a foreign key would hold it: whoever deletes a project waits for its
//! writers and sees their rows.

use super::asked;
use super::guard::denied;
use super::held::{self, Name};
use super::place_refusal;
use super::plan::Options;
use super::table::{self, GuardedKey, Table};
use super::{moved, scope, tree};
use crate::context::authority::Id;
use crate::context::places::{Places, places, with_places};
use crate::context::projects;
use crate::context::{self, Standing};
use crate::hooks::cascade;
use crate::org::id_text;
use crate::pg::catalog::relation_name;
use crate::pg::key::{KeyColumn, KeyType, Keys};
use crate::pg::lookup::When;
use crate::pg::probe::{self, Parent, Probe, ProbeKey};
use crate::pg::query::{Arg, latest, latest_of};
use crate::pg::trigger::{Call, Event, RowImage};
use crate::pg::value::Value;
use crate::pg::{self, fail, transaction};
use pgrx::datum::Uuid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::spi;
use std::cell::Cell;

/// The table's project and cluster columns, and how what they name is looked up.
#[derive(Debug)]
pub struct Placed {
    pub project: i16,
    pub cluster: Option<i16>,
    projects: Probe,
    clusters: Probe,
}

impl Placed {
    /// None where the table has no project column; an error (the protection is damaged) where it is not found.
    pub fn of(relid: pg_sys::Oid, options: &Options) -> Result<Option<Placed>, ()> {
        if options.project_column.is_none() {
            return Ok(None);
        }
        let (project, cluster) = columns_of(relid).ok_or(())?;
        if cluster.is_some() != options.cluster_column.is_some() {
            return Err(());
        }
        Ok(Some(Placed {
            project,
            cluster,
            projects: probe_of("projects").ok_or(())?,
            clusters: probe_of("clusters").ok_or(())?,
        }))
    }
}

/// The columns that our policies compare, by their recorded dependencies: right also after they were renamed.
pub(super) fn columns_of(relid: pg_sys::Oid) -> Option<(i16, Option<i16>)> {
    let columns = |policy: &str| -> Vec<i16> {
        latest(
            "SELECT DISTINCT d.refobjsubid::pg_catalog.int2 FROM pg_catalog.pg_policy AS p
                  JOIN pg_catalog.pg_depend AS d ON d.objid OPERATOR(pg_catalog.=) p.oid
             WHERE p.polrelid OPERATOR(pg_catalog.=) $1 AND p.polname OPERATOR(pg_catalog.=) $2::pg_catalog.name
               AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_policy'::pg_catalog.regclass
               AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
               AND d.refobjid OPERATOR(pg_catalog.=) $1 AND d.refobjsubid OPERATOR(pg_catalog.>) 0",
            &[Arg::Oid(relid), Arg::Name(policy)],
            |row| row.get::<i16>(1),
        )
        .into_iter()
        .flatten()
        .collect()
    };
    // The one for INSERT names the project column alone.
    let [project] = columns("tenancy_insert_project")[..] else {
        return None;
    };
    let mut all = columns("tenancy_select_project");
    all.retain(|column| *column != project);
    match all[..] {
        [] => Some((project, None)),
        [cluster] => Some((project, Some(cluster))),
        _ => None,
    }
}

/// Whether a table's rows belong to projects.
pub fn is_placed(relid: pg_sys::Oid) -> bool {
    columns_of(relid).is_some()
}

/// How a project or a cluster is looked up by its id.
fn probe_of(name: &str) -> Option<Probe> {
    latest(
        "SELECT k.oid, k.conrelid, k.conindid, a.attnum
         FROM pg_catalog.pg_constraint AS k
              JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) k.conrelid
              JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
              JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) c.oid
                                               AND a.attname OPERATOR(pg_catalog.=) 'org_id'
         WHERE n.nspname OPERATOR(pg_catalog.=) 'tenancy' AND c.relname OPERATOR(pg_catalog.=) $1::pg_catalog.name
           AND k.contype OPERATOR(pg_catalog.=) 'p'",
        &[Arg::Name(name)],
        |row| {
            let operator = KeyType::Uuid.equals();
            Some(Probe {
                constraint: row.get(1)?,
                parent: row.get(2)?,
                index: row.get(3)?,
                org: Some(KeyColumn {
                    attnum: row.get(4)?,
                    kind: KeyType::Uuid,
                }),
                keys: vec![ProbeKey {
                    index_column: 1,
                    operator,
                    parent_column: "id".into(),
                    cast: probe::cast_for(pg_sys::UUIDOID, operator),
                    resolved: Cell::new(None),
                }],
            })
        },
    )
    .pop()
    .flatten()
}

/// Where a row is; None where its project column is empty, which a plain INSERT is refused for before.
fn place_of(placed: &Placed, row: &RowImage) -> (Option<Id>, Option<Id>) {
    let project = row.value(placed.project).as_uuid();
    let cluster = match placed.cluster {
        Some(cluster) => row.value(cluster).as_uuid(),
        // As its policies have it.
        None => project,
    };
    (project, cluster)
}

/// Holds a written row to its place. `org`: the row's. `free`: a migration needs no right. Nor does a cascade, but on the
/// parent, unless it gives the row another project or cluster. What a row names must be there all the same.
pub fn hold(
    call: &Call,
    table: &Table,
    now: &Standing,
    org: &'static Keys,
    free: bool,
    old: Option<&RowImage>,
    new: Option<&RowImage>,
) -> pg::Result<()> {
    let Some(placed) = &table.placed else {
        return Ok(());
    };
    let before = old.map(|row| place_of(placed, row));
    let after = new.map(|row| place_of(placed, row));
    // A row of before the table was protected may name no project, and goes all the same.
    let free = free || context::deletion::org().is_some();
    let spared = || match (before, after) {
        // It would be a way to move rows out of a project that one does not see.
        (Some(before), Some(after)) if before != after => false,
        _ => cascade::is_own_statement() || scope::is_of_cascade(old, new),
    };
    if !free && !spared() {
        let action = &marked(table, action_for(call.event, table, old), true);
        let allowed = with_places(action, |places| {
            [before, after]
                .into_iter()
                .flatten()
                .all(|(project, cluster)| {
                    project.is_some_and(|project| places.have(&project, cluster.as_ref()))
                })
        });
        if !allowed {
            if let Some((project, cluster)) = before {
                require_there(table, now, action, project, cluster)?;
            }
            if let Some((project, cluster)) = after {
                require(table, now, action, project, cluster)?;
            }
        }
    }
    if let Some((Some(project), _)) = before
        && table.options.environment_from_place()
    {
        // Its tag says what may be done to the row. Held, it does not change before this transaction ends.
        is_held(&placed.projects, org, &project);
    }
    match after {
        Some(place) if before != Some(place) => hold_place(table, placed, org, place),
        _ => Ok(()),
    }
}

/// A row that an UPDATE moves to another partition is a DELETE there and an INSERT here.
fn action_for<'a>(event: Event, table: &'a Table, old: Option<&RowImage>) -> &'a str {
    let options = &table.options;
    match event {
        Event::Insert if !moved::is_under_way(table) => &options.insert,
        Event::Delete | Event::Truncate if !old.is_some_and(RowImage::has_moved) => &options.delete,
        _ => &options.update,
    }
}

/// Whether a row that is written may be in its project (spec 9): true, or the refusal. Stands in the policies of tables with
/// a project column, so that PostgreSQL's bare sentence does not come first; the row trigger asks again. Errors: 42501 no right
/// there, 23503 no such project, hidden ones alike, 23502 none. Anyone may call it.
#[pg_extern(stable, parallel_safe)]
fn check_project(
    table_id: Option<pg_sys::Oid>,
    project: Option<Uuid>,
    cluster: Option<Uuid>,
    action: Option<&str>,
) -> pg::Result<bool> {
    let (project, cluster) = (
        project.map(|id| *id.as_bytes()),
        cluster.map(|id| *id.as_bytes()),
    );
    let action = action.unwrap_or_default();
    let may = project.is_some_and(|project| {
        with_places(action, |places| places.have(&project, cluster.as_ref()))
    });
    if may {
        return Ok(true);
    }
    let table = table_id.and_then(table::protected);
    let Some(table) = table.filter(|table| table.placed.is_some()) else {
        return Ok(false);
    };
    require(&table, &context::standing(), action, project, cluster)?;
    Ok(true)
}

/// The refusal of a row as it was before it was written: one that may be read. Of another one nothing is said.
fn require_there(
    table: &Table,
    now: &Standing,
    action: &str,
    project: Option<Id>,
    cluster: Option<Id>,
) -> pg::Result<()> {
    let may = |project: &Id| with_places(action, |places| places.have(project, cluster.as_ref()));
    match project {
        Some(project) if may(&project) => Ok(()),
        Some(project) if place_refusal::reads(now, table, &project, cluster.as_ref()) => {
            require(table, now, action, Some(project), cluster)
        }
        _ => Err(denied(
            format!(
                "permission denied: the row in table \"{}\" is of no project that you may see",
                relation_name(table.relid)
            ),
            "Something reached it without row security: a function or trigger of another role.",
            "SELECT * FROM tenancy.projects lists the projects that you may see.",
        )),
    }
}

/// The refusal of a row in a project where the context may not write it, if it is one.
fn require(
    table: &Table,
    now: &Standing,
    action: &str,
    project: Option<Id>,
    cluster: Option<Id>,
) -> pg::Result<()> {
    let seen = project.filter(|id| {
        now.reach().seen(id).is_some() || place_refusal::reads(now, table, id, cluster.as_ref())
    });
    let Some(project) = seen else {
        return Err(missing(table, Column::Project, project));
    };
    if places(now, action, true).have(&project, cluster.as_ref()) {
        if with_places(action, |places| places.have(&project, cluster.as_ref())) {
            return Ok(());
        }
        return Err(denied(
            format!(
                "permission denied: the row in table \"{}\" is not of the project and cluster in effect",
                relation_name(table.relid)
            ),
            "The session narrowed itself by app.current_project or app.current_cluster.",
            "Leave the columns out: their defaults fill them. Or RESET app.current_project and app.current_cluster.",
        ));
    }
    Err(place_refusal::no_right(now, table, action, &project))
}

#[derive(Clone, Copy)]
enum Column {
    Project,
    Cluster,
}

/// One error for what does not exist, what is another organization's and what may not be seen.
fn missing(table: &Table, column: Column, id: Option<Id>) -> ErrorReport {
    if id.is_none() {
        return fail(
            PgSqlErrorCode::ERRCODE_NOT_NULL_VIOLATION,
            format!(
                "the row in table \"{}\" names no project",
                relation_name(table.relid)
            ),
        )
        .set_detail("Every row of the table belongs to one.")
        .set_hint("Name one, or narrow the session: SET LOCAL app.current_project = '...'; the column's default is that one.");
    }
    let (what, attnum) = match column {
        Column::Project => ("project", table.placed.as_ref().map(|p| p.project)),
        Column::Cluster => ("cluster", table.placed.as_ref().and_then(|p| p.cluster)),
    };
    let name = table
        .columns
        .iter()
        .find(|(number, _)| Some(*number) == attnum)
        .map_or(what, |(_, name)| name.as_str());
    let within = match column {
        Column::Project => "organization",
        Column::Cluster => "project",
    };
    fail(
        PgSqlErrorCode::ERRCODE_FOREIGN_KEY_VIOLATION,
        format!(
            "the row in table \"{}\" names a {what} that is not there",
            relation_name(table.relid)
        ),
    )
    .set_detail(format!(
        "Column \"{name}\" holds {}, which is no {what} of the row's {within} that you may see.",
        id.map_or("nothing".into(), |id| id_text(&id))
    ))
    .set_hint(format!(
        "SELECT * FROM tenancy.{what}s lists those you may see."
    ))
}

fn hold_place(
    table: &Table,
    placed: &Placed,
    org: &'static Keys,
    (project, cluster): (Option<Id>, Option<Id>),
) -> pg::Result<()> {
    let is_held = |probe: &Probe, id: &Id| is_held(probe, org, id);
    let Some(id) = project.filter(|id| is_held(&placed.projects, id)) else {
        return Err(missing(table, Column::Project, project));
    };
    let Some(cluster) = cluster.filter(|_| placed.cluster.is_some()) else {
        return Ok(());
    };
    let of = org
        .id()
        .and_then(|org| projects::project_of_cluster(&org, &cluster));
    if of == Some(id) && is_held(&placed.clusters, &cluster) {
        return Ok(());
    }
    Err(missing(table, Column::Cluster, Some(cluster)))
}

/// Whether the organization has it; then it is held. The rows of one statement mostly name one project.
fn is_held(probe: &Probe, org: &'static Keys, id: &Id) -> bool {
    let value = Value::uuid(pg_sys::Datum::from(id.as_ptr()));
    let name = org
        .id()
        .and_then(|org| Name::new(probe.constraint, &org, &[value]));
    if name.as_ref().is_some_and(held::contains) {
        return true;
    }
    let found = probe::find(probe, &[value], org) == Parent::Held;
    // Whoever held it may have changed it while we waited.
    transaction::accept_invalidations();
    if let Some(name) = name.filter(|_| found) {
        held::insert(&name);
    }
    found
}

/// The action as the table's policies ask for it.
pub(super) fn marked(table: &Table, action: &str, to_write: bool) -> String {
    let anywhere = to_write && table.options.names_environment();
    asked::marked(action, (anywhere, table.scoped.is_some(), false))
}

/// Whether the context may do the action on rows of the table in some project.
pub fn may_somewhere(table: &Table, action: &str, to_write: bool) -> bool {
    let action = marked(table, action, to_write);
    with_places(&action, |places| !places.is_none())
}

/// Whether the context reads the table's rows in every project, or they belong to none.
pub fn reads_every_project(relid: pg_sys::Oid) -> bool {
    table::protected(relid).is_some_and(|table| {
        let reading =
            |now: &Standing| places(now, &marked(&table, &table.options.select, false), true);
        table.placed.is_none() || matches!(reading(&context::standing()), Places::All)
    })
}

/// Whether it reads the table's rows in each of these projects, or they belong to none.
pub fn reads_projects(relid: pg_sys::Oid, projects: &[Id]) -> bool {
    table::protected(relid).is_some_and(|table| {
        let now = context::standing();
        let where_it_reads = || places(&now, &marked(&table, &table.options.select, false), true);
        table.placed.is_none() || {
            let places = where_it_reads();
            projects.iter().all(|id| places.have(id, Some(id)))
        }
    })
}

/// The project that a row names.
pub(super) fn project_of(placed: &Placed, row: &RowImage) -> Option<Id> {
    place_of(placed, row).0
}

/// Whether it may write so in a row's project.
pub fn may_in_project_of(table: &Table, placed: &Placed, action: &str, row: &RowImage) -> bool {
    let (project, cluster) = place_of(placed, row);
    with_places(&marked(table, action, true), |places| {
        project.is_some_and(|project| places.have(&project, cluster.as_ref()))
    })
}

/// Whether the role in a row's project adds the action, whatever the one in the organization says.
pub fn gives(now: &Standing, table: &Table, action: &str, row: &RowImage) -> bool {
    let project = table.placed.as_ref().and_then(|p| place_of(p, row).0);
    let reach = now.reach();
    project
        .and_then(|id| reach.get(&id))
        .is_some_and(|project| reach.may(project, action, false))
}

/// Whether the row that a key refers to is in a project that the context does not see: to it there is none (spec 5.5).
pub fn hides(key: &GuardedKey, values: &[Value]) -> bool {
    let reach = context::standing().reach();
    if reach.all().iter().all(|project| reach.sees(project)) {
        return false;
    }
    let Some(parent) = table::protected(key.probe.parent) else {
        return false;
    };
    let Some(placed) = &parent.placed else {
        return false;
    };
    let name = |attnum: i16| {
        let column = parent.columns.iter().find(|(number, _)| *number == attnum);
        column.map(|(_, name)| name.as_str())
    };
    let project = name(placed.project);
    let seen = |row: &RowImage| {
        let attnum = project.map_or(0, |name| row.number_of(name));
        let id = (attnum > 0).then(|| row.value(attnum).as_uuid()).flatten();
        id.is_some_and(|id| reach.seen(&id).is_some())
    };
    scope::read_parent(key, values, When::Newest, seen) == Some(false)
}

/// A protected table with a row in the project, or cluster, with this id, as the newest snapshot shows it.
pub fn holding(place: &Id, is_cluster: bool) -> Option<String> {
    tree::roots().into_iter().find_map(|relid| {
        let table = table::protected(relid)?;
        let placed = table.placed.as_ref()?;
        let column = if is_cluster {
            placed.cluster?
        } else {
            placed.project
        };
        let (_, name) = table.columns.iter().find(|(number, _)| *number == column)?;
        let found = latest_of(
            &format!(
                "SELECT 1 FROM {} WHERE {} OPERATOR(pg_catalog.=) $1 LIMIT 1",
                table.object,
                spi::quote_identifier(name)
            ),
            &[Arg::Uuid(place)],
            |_| (),
        );
        (!found.is_empty()).then(|| table.object.clone())
    })
}

// ---- protect()
