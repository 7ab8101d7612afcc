//! Who may what in an organization: everybody's effective rights, as rows and as CSV, and the two questions that read them
//! from either side (spec 2). They answer from what the checks themselves go by (`authority::role()`), not from a query of
//! their own, so that a report cannot say anything else than a statement would hear.

mod who;

use super::api::require_may_ask;
use super::matrix::{Action, Level};
use super::rights::Rights;
use super::scopes::Access;
use crate::context::authority::{self, Id};
use crate::context::{self, Standing, projects};
use crate::isolation;
use crate::pg;
use crate::pg::query::latest;
use crate::projects::unknown_project;
use pgrx::datum::Uuid;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;
use std::rc::Rc;
use who::{Place, Principal, Sight, members, services};

fn effective(now: &Standing, doing: &str) -> pg::Result<Id> {
    now.org_id()
        .ok_or_else(|| context::without_context(now, doing))
}

struct Known {
    name: String,
    category: String,
    action: Action,
}

/// Every action, by category and name.
fn actions() -> Rc<Vec<Known>> {
    let matrix = authority::matrix();
    let rows = latest(
        "SELECT name, category FROM tenancy.actions ORDER BY category, name",
        &[],
        |row| {
            let text = |n| row.get::<String>(n).unwrap_or_default();
            (text(1), text(2))
        },
    );
    let known = rows.into_iter().filter_map(|(name, category)| {
        let action = matrix.action(&name)?;
        Some(Known {
            name,
            category,
            action,
        })
    });
    Rc::new(known.collect())
}

/// Every environment that is not named by itself.
const OTHERS: &str = "*";

/// What rights have on an action: first what holds in every environment; where that is not the same in all, each named one
/// and the others.
fn cells(rights: &Rights, action: Action) -> Vec<(Option<String>, Level)> {
    let mut cells = vec![(None, rights.level(action))];
    let named = rights.exceptions().iter().filter(|e| e.action == action);
    let mut named: Vec<_> = named
        .map(|e| (Some(e.environment.to_string()), e.level))
        .collect();
    if !named.is_empty() {
        named.sort();
        cells.extend(named);
        cells.push((Some(OTHERS.into()), rights.level_elsewhere(action)));
    }
    cells
}

/// What somebody has on an action, where.
struct Cell {
    /// None: in the organization, and in the projects where the role there counts.
    place: Option<Rc<Place>>,
    environment: Option<String>,
    level: Level,
}

/// `cells` of one project.
fn cells_in(place: &Rc<Place>, rights: &Rights, action: &Known) -> Vec<Cell> {
    let cells = cells(rights, action.action)
        .into_iter()
        .map(|(environment, level)| Cell {
            place: Some(place.clone()),
            environment,
            level: place.level(&action.name, level),
        });
    let mut cells: Vec<Cell> = cells.collect();
    // The same in all environments.
    if cells.iter().all(|cell| cell.level == cells[0].level) {
        cells.truncate(1);
    }
    cells
}

/// What somebody has on an action in the organization, and then in each project where a role of his makes a difference.
fn all_cells(principal: &Principal, action: &Known) -> Vec<Cell> {
    let in_org = cells(&principal.rights, action.action);
    let mut all = vec![];
    for place in &principal.places {
        let differs =
            |(_, level): &(Option<String>, Level)| place.level(&action.name, *level) != *level;
        if in_org.iter().any(differs) {
            all.extend(cells_in(place, &principal.rights, action));
        }
    }
    let in_org = in_org.into_iter().map(|(environment, level)| Cell {
        place: None,
        environment,
        level,
    });
    in_org.chain(all).collect()
}

const COLUMNS: [&str; 16] = [
    "user_id",
    "email",
    "role",
    "kind",
    "status",
    "conditions",
    "action",
    "category",
    "environment",
    "level",
    "principal",
    "name",
    "service_account_id",
    "project_id",
    "project_name",
    "project_role",
];

type Line = (Rc<Principal>, Rc<Vec<Known>>, usize, Cell);

/// The lines of the matrix, made as they are asked for: a large organization has a million.
fn lines(org: &Id) -> impl Iterator<Item = Line> + 'static {
    let actions = actions();
    let all = members(org, None).into_iter().chain(services(org));
    all.flat_map(move |principal| {
        let (principal, actions) = (Rc::new(principal), actions.clone());
        (0..actions.len()).flat_map(move |n| {
            let (principal, actions) = (principal.clone(), actions.clone());
            all_cells(&principal, &actions[n])
                .into_iter()
                .map(move |cell| (principal.clone(), actions.clone(), n, cell))
        })
    })
}

fn uuid(id: &Option<Id>) -> Option<Uuid> {
    id.map(Uuid::from_bytes)
}

/// A project and somebody's role in it, as columns.
fn columns_of(place: &Option<Rc<Place>>) -> (Option<Uuid>, Option<String>, Option<String>) {
    match place {
        Some(place) => (
            Some(Uuid::from_bytes(place.project.id)),
            Some(place.project.name.clone()),
            place.role.clone(),
        ),
        None => (None, None, None),
    }
}

/// What every member and every service account of an organization may, in effect and now (spec 2): a row for each action, and
/// where a role has the action in some environments only, one for each of those. Where a member's role in a project makes a
/// difference there, rows of that project follow, for the projects that the caller sees. Needs team:read there, or to be
/// the DBA.
///
/// `kind`: whether the role is a system or a custom one. `status`: active, scoped (to listed resources: the level counts
/// there), expired, inactive role, or of a service account disabled or stopped (nobody answers for it); those have deny
/// throughout. `conditions`: under which the membership counts. `environment`: NULL is what holds in every environment, as
/// `has_permission()` answers; `*` every one not named. `project_id`, `project_name`, `project_role`: NULL for what holds in the
/// organization, and by the role there in its open projects; in a restricted one it counts for its members, as their rows
/// say, and for who runs the organization's projects. `principal`: user, or service account, which has
/// `service_account_id` in the place of `user_id`.
/// Errors: 42501 not yours to ask or unknown organization.
#[pg_extern(stable, parallel_unsafe)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
fn access_matrix(
    org: Option<Uuid>,
) -> pg::Result<
    TableIterator<
        'static,
        (
            name!(user_id, Option<Uuid>),
            name!(email, Option<String>),
            name!(role, String),
            name!(kind, String),
            name!(status, String),
            name!(conditions, Option<String>),
            name!(action, String),
            name!(category, String),
            name!(environment, Option<String>),
            name!(level, String),
            name!(principal, String),
            name!(name, Option<String>),
            name!(service_account_id, Option<Uuid>),
            name!(project_id, Option<Uuid>),
            name!(project_name, Option<String>),
            name!(project_role, Option<String>),
        ),
    >,
> {
    let org = pg::given(org, "org")?;
    require_may_ask(org.as_bytes(), None)?;
    Ok(TableIterator::new(lines(org.as_bytes()).map(
        |(who, actions, n, cell)| {
            let (project_id, project, project_role) = columns_of(&cell.place);
            (
                uuid(&who.user),
                who.email.clone(),
                who.role.clone(),
                who.kind().to_string(),
                who.status.clone(),
                who.conditions.clone(),
                actions[n].name.clone(),
                actions[n].category.clone(),
                cell.environment,
                cell.level.name().to_string(),
                who.principal().to_string(),
                who.name.clone(),
                uuid(&who.service),
                project_id,
                project,
                project_role,
            )
        },
    )))
}

/// A cell that a spreadsheet takes for text: one that could be a formula gets an apostrophe before it, since addresses and
/// the names of roles are what members made them.
fn as_text(cell: &str) -> String {
    let formula = |c: char| "=+-@\t\r\n＝＋－＠|%".contains(c);
    if cell.trim_start().starts_with(formula) || cell.starts_with(['\t', '\r', '\n']) {
        return format!("'{cell}");
    }
    cell.to_string()
}

fn write_csv(
    writer: &mut csv::Writer<Vec<u8>>,
    cells: impl Iterator<Item = String>,
) -> pg::Result<()> {
    writer.write_record(cells).map_err(|e| {
        pg::fail(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, e.to_string())
            .set_detail("The matrix could not be written as CSV.")
            .set_hint("SELECT * FROM tenancy.access_matrix() has the same rows.")
    })
}

/// `access_matrix()` as CSV (RFC 4180), the names of its columns first (spec 2); a cell that a spreadsheet would take for a
/// formula begins with an apostrophe. Needs team:read there, or to be the DBA.
/// Errors: 42501 not yours to ask or unknown organization.
#[pg_extern(stable, parallel_unsafe)]
fn access_matrix_csv(org: Option<Uuid>) -> pg::Result<String> {
    let org = pg::given(org, "org")?;
    require_may_ask(org.as_bytes(), None)?;
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(vec![]);
    write_csv(&mut writer, COLUMNS.iter().map(|name| name.to_string()))?;
    for (who, actions, n, cell) in lines(org.as_bytes()) {
        let id = |id: &Option<Id>| id.as_ref().map(super::id_text).unwrap_or_default();
        let place = cell.place.as_ref();
        let (user, service) = (id(&who.user), id(&who.service));
        let project = id(&place.map(|p| p.project.id));
        let cells = [
            user.as_str(),
            who.email.as_deref().unwrap_or_default(),
            &who.role,
            who.kind(),
            &who.status,
            who.conditions.as_deref().unwrap_or_default(),
            &actions[n].name,
            &actions[n].category,
            cell.environment.as_deref().unwrap_or_default(),
            cell.level.name(),
            who.principal(),
            who.name.as_deref().unwrap_or_default(),
            &service,
            &project,
            place.map_or("", |p| &p.project.name),
            place.and_then(|p| p.role.as_deref()).unwrap_or_default(),
        ];
        write_csv(&mut writer, cells.into_iter().map(as_text))?;
    }
    let bytes = writer.into_inner().unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The project that a question names: one of the organization's that the caller sees.
fn known_project(org: &Id, project: Option<Uuid>) -> pg::Result<Option<Id>> {
    let Some(project) = project.map(|id| *id.as_bytes()) else {
        return Ok(None);
    };
    if projects::projects(org).get(&project).is_none() || !Sight::of_caller(org).shows(&project) {
        return Err(unknown_project(&project));
    }
    Ok(Some(project))
}

/// What somebody has on an action where it was asked for.
fn asked_cells(principal: &Principal, place: &Option<Rc<Place>>, action: &Known) -> Vec<Cell> {
    match place {
        Some(place) => cells_in(place, &principal.rights, action),
        None => all_cells(principal, action),
    }
}

/// What a user may in an organization, in effect and now (spec 2): a row for each action, and where his role has it in some
/// environments only, one for each of those, and rows of projects where a role of his makes a difference there, as in
/// `access_matrix()`; no rows for who is no member. `user_id`: NULL for oneself, or for the service that the session acts
/// as. `org`: NULL for the organization in effect. `project`: what he may there, and nothing else. For oneself, for
/// holders of team:read there, and for the DBA.
/// Errors: 42501 not yours to ask, unknown organization or project, or none in effect.
#[pg_extern(stable, parallel_unsafe)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
fn what_can(
    user_id: default!(Option<Uuid>, "NULL"),
    org: default!(Option<Uuid>, "NULL"),
    project: default!(Option<Uuid>, "NULL"),
) -> pg::Result<
    TableIterator<
        'static,
        (
            name!(action, String),
            name!(category, String),
            name!(environment, Option<String>),
            name!(level, String),
            name!(project_id, Option<Uuid>),
            name!(project_name, Option<String>),
            name!(project_role, Option<String>),
        ),
    >,
> {
    let now = context::standing();
    let org = match org {
        Some(org) => *org.as_bytes(),
        None => effective(&now, "say what somebody may")?,
    };
    let user = user_id.map(|user| *user.as_bytes()).or(now.user);
    let principal = match user {
        Some(user) => {
            require_may_ask(&org, Some(&user))?;
            members(&org, Some(&user)).pop()
        }
        // The service, or the DBA, as which the session acts.
        None if now.org_id() == Some(org) => Some(Principal::of_session(&now)),
        None => return Err(context::stranger(&org)),
    };
    let project = known_project(&org, project)?;
    let actions = actions();
    let principal = principal.map(|principal| {
        let place = project.and_then(|project| principal.place_in(&org, &project));
        Rc::new((principal, place))
    });
    Ok(TableIterator::new(principal.into_iter().flat_map(
        move |asked| {
            let actions = actions.clone();
            (0..actions.len()).flat_map(move |n| {
                let actions = actions.clone();
                asked_cells(&asked.0, &asked.1, &actions[n])
                    .into_iter()
                    .map(move |cell| {
                        let (project_id, project, project_role) = columns_of(&cell.place);
                        let Known { name, category, .. } = &actions[n];
                        (
                            name.clone(),
                            category.clone(),
                            cell.environment,
                            cell.level.name().to_string(),
                            project_id,
                            project,
                            project_role,
                        )
                    })
            })
        },
    )))
}

/// Of these cells those that allow, and of one place and all environments one.
fn allowed(cells: Vec<Cell>) -> Vec<Cell> {
    let is_of = |cell: &Cell, place: Option<Id>| cell.place.as_ref().map(|p| p.project.id) == place;
    let everywhere: Vec<Option<Id>> = cells
        .iter()
        .filter(|cell| cell.environment.is_none() && cell.level == Level::Allow)
        .map(|cell| cell.place.as_ref().map(|p| p.project.id))
        .collect();
    cells
        .into_iter()
        .filter(|cell| cell.level == Level::Allow)
        .filter(|cell| {
            // What holds in every environment needs no list of them.
            cell.environment.is_none() || !everywhere.iter().any(|place| is_of(cell, *place))
        })
        .collect()
}

/// Which members and service accounts of the organization in effect may do an action (spec 2): allow, and neither limited nor
/// deny. `action`: its name. `table_name` and `key`: on one resource, a row of a protected table with a resource_type;
/// members who are limited to others are left out then, and so are those who may only read it, unless the action is the
/// table's for reading. `project`: in that project; without it the role in the organization is asked, and a member who may
/// do it by a role in a project only has a row for each such project that the caller sees. One who may do it in some
/// environments only has a row for each, `*` for every other one. Needs team:read, or to be the DBA.
/// Errors: 42501 not yours to ask, unknown project or no organization in effect, 22023 unknown action, a table without a key
/// or the reverse, or one without resources.
#[pg_extern(sql = r#"
CREATE FUNCTION who_can(action text, table_name regclass DEFAULT NULL, key text DEFAULT NULL, project uuid DEFAULT NULL)
RETURNS TABLE (user_id uuid, email text, name text, role text, environment text, conditions text,
               principal text, service_account_id uuid, project_id uuid, project_name text, project_role text)
STABLE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
fn who_can(
    action: Option<&str>,
    table_name: Option<pg_sys::Oid>,
    key: Option<&str>,
    project: Option<Uuid>,
) -> pg::Result<
    TableIterator<
        'static,
        (
            name!(user_id, Option<Uuid>),
            name!(email, Option<String>),
            name!(name, Option<String>),
            name!(role, String),
            name!(environment, Option<String>),
            name!(conditions, Option<String>),
            name!(principal, String),
            name!(service_account_id, Option<Uuid>),
            name!(project_id, Option<Uuid>),
            name!(project_name, Option<String>),
            name!(project_role, Option<String>),
        ),
    >,
> {
    let action = pg::given(action, "action")?;
    let known = Known {
        name: action.to_string(),
        category: String::new(),
        action: super::action(&authority::matrix(), action)?,
    };
    let now = context::standing();
    let org = effective(&now, "say who may")?;
    if !now.may(super::action(&now.matrix, "team:read")?) {
        return Err(context::no_right(&now, "team:read", "in the organization"));
    }
    let project = known_project(&org, project)?;
    let mut all = members(&org, None);
    all.extend(services(&org));
    match (table_name, key) {
        (None, None) => {}
        (Some(table), Some(key)) => {
            let reading = isolation::protected(table).is_some_and(|t| t.options.select == action);
            let mut reached = vec![];
            for principal in all {
                let Some(answers) = &principal.answers else {
                    continue;
                };
                match super::scopes::level_on(&org, answers, table, key)? {
                    Some(Access::Full) => reached.push(principal),
                    Some(Access::ReadOnly) if reading => reached.push(principal),
                    _ => {}
                }
            }
            all = reached;
        }
        _ => {
            return Err(super::invalid(
                "a resource is a row of a table",
                "table_name and key are given together, or neither.",
                "Leave both out to ask of the organization as a whole.",
            ));
        }
    }
    let rows = all.into_iter().flat_map(move |who| {
        let place = project.and_then(|project| who.place_in(&org, &project));
        let mut cells = allowed(asked_cells(&who, &place, &known));
        // Who may by the role in the organization is not listed again for its projects.
        if cells
            .first()
            .is_some_and(|c| c.place.is_none() && c.environment.is_none())
        {
            cells.truncate(1);
        }
        cells.into_iter().map(move |cell| {
            let (project_id, project, project_role) = columns_of(&cell.place);
            (
                uuid(&who.user),
                who.email.clone(),
                who.name.clone(),
                who.role.clone(),
                cell.environment,
                who.conditions.clone(),
                who.principal().to_string(),
                uuid(&who.service),
                project_id,
                project,
                project_role,
            )
        })
    });
    Ok(TableIterator::new(rows))
}

#[cfg(test)]
mod tests {
    use super::as_text;

    #[test]
    fn no_cell_is_a_formula() {
        for cell in [
            "=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\r=1", "＝1", "|cmd", "%0",
        ] {
            assert_eq!(as_text(cell), format!("'{cell}"));
        }
        for cell in ["", "ada@example.com", "server:read", "it's -1"] {
            assert_eq!(as_text(cell), cell);
        }
    }
}
