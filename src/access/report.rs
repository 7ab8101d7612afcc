//! Who may what in an organization: everybody's effective rights, as rows and as CSV, and the two questions that read them
//! from either side (spec 2). They answer from what the checks themselves go by (`authority::role()`), not from a query of
//! their own, so that a report cannot say anything else than a statement would hear.

use super::api::require_may_ask;
use super::matrix::{Action, Level};
use super::rights::Rights;
use super::rights_of;
use super::scopes::Access;
use crate::context::authority::{self, Id};
use crate::context::{self, Standing};
use crate::isolation;
use crate::pg;
use crate::pg::query::{Arg, latest};
use pgrx::datum::Uuid;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;
use std::collections::HashMap;
use std::rc::Rc;

/// A member, and what he may now.
struct Member {
    user: Id,
    email: String,
    name: Option<String>,
    role: String,
    own_role: bool,
    status: String,
    conditions: Option<String>,
    rights: Rc<Rights>,
}

/// Every member of an organization, or the one asked for, by address.
fn members(org: &Id, only: Option<&Id>) -> Vec<Member> {
    let mut known: HashMap<String, Rc<Rights>> = HashMap::new();
    let everybody = only.is_none();
    latest(
        "SELECT m.user_id, u.email, u.name, m.role, m.custom_role IS NOT NULL, m.status, m.conditions
         FROM tenancy.member_states AS m JOIN tenancy.users AS u ON u.id OPERATOR(pg_catalog.=) m.user_id
         WHERE m.org_id OPERATOR(pg_catalog.=) $1 AND ($2 OR m.user_id OPERATOR(pg_catalog.=) $3)
         ORDER BY pg_catalog.lower(u.email)",
        &[
            Arg::Uuid(org),
            Arg::Flag(everybody),
            Arg::Uuid(only.unwrap_or(org)),
        ],
        |row| {
            let text = |n| row.get::<String>(n).unwrap_or_default();
            let (role, status) = (text(4), text(6));
            let rights = if status == "active" || status == "scoped" {
                let rights = known.entry(role.clone());
                rights.or_insert_with(|| rights_of(org, &role)).clone()
            } else {
                Rc::default()
            };
            Member {
                user: row.uuid(1).unwrap_or_default(),
                email: text(2),
                name: row.get(3),
                own_role: row.get::<bool>(5) == Some(true),
                conditions: row.get(7),
                role,
                status,
                rights,
            }
        },
    )
}

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

const COLUMNS: [&str; 10] = [
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
];

type Line = (Rc<Member>, Rc<Vec<Known>>, usize, Option<String>, Level);

/// The lines of the matrix, made as they are asked for: a large organization has a million.
fn lines(org: &Id) -> impl Iterator<Item = Line> + 'static {
    let actions = actions();
    members(org, None).into_iter().flat_map(move |member| {
        let (member, actions) = (Rc::new(member), actions.clone());
        (0..actions.len()).flat_map(move |n| {
            let (member, actions) = (member.clone(), actions.clone());
            cells(&member.rights, actions[n].action)
                .into_iter()
                .map(move |(environment, level)| {
                    (member.clone(), actions.clone(), n, environment, level)
                })
        })
    })
}

fn kind(member: &Member) -> &'static str {
    if member.own_role { "custom" } else { "system" }
}

/// What every member of an organization may, in effect and now (spec 2): a row for each action, and where a role has the
/// action in some environments only, one for each of those. Needs team:read there, or to be the DBA.
///
/// `kind`: whether the role is a system or a custom one. `status`: active, scoped (to listed resources: the level counts
/// there), expired or inactive role; the latter two have deny throughout. `conditions`: under which the membership counts.
/// `environment`: NULL is what holds in every environment, as `has_permission()` answers; `*` every one not named.
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
            name!(user_id, Uuid),
            name!(email, String),
            name!(role, String),
            name!(kind, String),
            name!(status, String),
            name!(conditions, Option<String>),
            name!(action, String),
            name!(category, String),
            name!(environment, Option<String>),
            name!(level, String),
        ),
    >,
> {
    let org = pg::given(org, "org")?;
    require_may_ask(org.as_bytes(), None)?;
    Ok(TableIterator::new(lines(org.as_bytes()).map(
        |(member, actions, n, environment, level)| {
            (
                Uuid::from_bytes(member.user),
                member.email.clone(),
                member.role.clone(),
                kind(&member).to_string(),
                member.status.clone(),
                member.conditions.clone(),
                actions[n].name.clone(),
                actions[n].category.clone(),
                environment,
                level.name().to_string(),
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
    for (member, actions, n, environment, level) in lines(org.as_bytes()) {
        let cells = [
            &super::id_text(&member.user),
            &member.email,
            &member.role,
            kind(&member),
            &member.status,
            member.conditions.as_deref().unwrap_or_default(),
            &actions[n].name,
            &actions[n].category,
            environment.as_deref().unwrap_or_default(),
            level.name(),
        ];
        write_csv(&mut writer, cells.into_iter().map(as_text))?;
    }
    let bytes = writer.into_inner().unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a user may in an organization, in effect and now (spec 2): a row for each action, and where his role has it in some
/// environments only, one for each of those, as in `access_matrix()`; no rows for who is no member. `user_id`: NULL for
/// oneself, or for the service that the session acts as. `org`: NULL for the organization in effect. For oneself, for
/// holders of team:read there, and for the DBA.
/// Errors: 42501 not yours to ask, unknown organization or none in effect.
#[pg_extern(stable, parallel_unsafe)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
fn what_can(
    user_id: default!(Option<Uuid>, "NULL"),
    org: default!(Option<Uuid>, "NULL"),
) -> pg::Result<
    TableIterator<
        'static,
        (
            name!(action, String),
            name!(category, String),
            name!(environment, Option<String>),
            name!(level, String),
        ),
    >,
> {
    let now = context::standing();
    let org = match org {
        Some(org) => *org.as_bytes(),
        None => effective(&now, "say what somebody may")?,
    };
    let user = user_id.map(|user| *user.as_bytes()).or(now.user);
    let rights = match user {
        Some(user) => {
            require_may_ask(&org, Some(&user))?;
            members(&org, Some(&user)).pop().map(|m| m.rights)
        }
        // The service, or the DBA, as which the session acts.
        None if now.org_id() == Some(org) => Some(now.rights().clone()),
        None => return Err(context::stranger(&org)),
    };
    let actions = actions();
    Ok(TableIterator::new(rights.into_iter().flat_map(
        move |rights| {
            let actions = actions.clone();
            (0..actions.len()).flat_map(move |n| {
                let actions = actions.clone();
                cells(&rights, actions[n].action)
                    .into_iter()
                    .map(move |(environment, level)| {
                        let Known { name, category, .. } = &actions[n];
                        (
                            name.clone(),
                            category.clone(),
                            environment,
                            level.name().to_string(),
                        )
                    })
            })
        },
    )))
}

/// Which members of the organization in effect may do an action (spec 2): allow, and neither limited nor deny. `action`: its
/// name. `table_name` and `key`: on one resource, a row of a protected table with a resource_type; members who are limited
/// to others are left out then, and so are those who may only read it, unless the action is the table's for reading. A
/// member who may do it in some environments only has a row for each, `*` for every other one. Needs team:read, or to be
/// the DBA.
/// Errors: 42501 not yours to ask or no organization in effect, 22023 unknown action, a table without a key or the reverse,
/// or one without resources.
#[pg_extern(sql = r#"
CREATE FUNCTION who_can(action text, table_name regclass DEFAULT NULL, key text DEFAULT NULL)
RETURNS TABLE (user_id uuid, email text, name text, role text, environment text, conditions text)
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
) -> pg::Result<
    TableIterator<
        'static,
        (
            name!(user_id, Uuid),
            name!(email, String),
            name!(name, Option<String>),
            name!(role, String),
            name!(environment, Option<String>),
            name!(conditions, Option<String>),
        ),
    >,
> {
    let action = pg::given(action, "action")?;
    let reads = action;
    let action = super::action(&authority::matrix(), action)?;
    let now = context::standing();
    let org = effective(&now, "say who may")?;
    if !now.may(super::action(&now.matrix, "team:read")?) {
        return Err(context::no_right(&now, "team:read", "in the organization"));
    }
    let mut members = members(&org, None);
    match (table_name, key) {
        (None, None) => {}
        (Some(table), Some(key)) => {
            let reading = isolation::protected(table).is_some_and(|t| t.options.select == reads);
            let mut reached = vec![];
            for member in members {
                match super::scopes::level_on(&org, &member.user, table, key)? {
                    Some(Access::Full) => reached.push(member),
                    Some(Access::ReadOnly) if reading => reached.push(member),
                    _ => {}
                }
            }
            members = reached;
        }
        _ => {
            return Err(super::invalid(
                "a resource is a row of a table",
                "table_name and key are given together, or neither.",
                "Leave both out to ask of the organization as a whole.",
            ));
        }
    }
    let members = members.into_iter().flat_map(move |member| {
        let mut cells = cells(&member.rights, action);
        // What holds in every environment needs no list of them.
        if cells[0].1 == Level::Allow {
            cells.truncate(1);
        }
        cells.retain(|(_, level)| *level == Level::Allow);
        cells.into_iter().map(move |(environment, _)| {
            (
                Uuid::from_bytes(member.user),
                member.email.clone(),
                member.name.clone(),
                member.role.clone(),
                environment,
                member.conditions.clone(),
            )
        })
    });
    Ok(TableIterator::new(members))
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
