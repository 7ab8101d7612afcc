//! Projects and clusters (spec 9): an optional second and third boundary inside an organization. Here they are made,
//! changed and taken away; who sees and may do what in them is the hall's to say (context/projects.rs).

pub mod check;
mod clusters;
mod lifecycle;
mod members;
mod recommend;
pub mod see;
mod settings;

pub use clusters::unknown_cluster;

use crate::access;
use crate::context::authority::Id;
use crate::context::projects::{RUN_PROJECTS, Reach};
use crate::context::{self, authority};
use crate::org::{id_text, lock_org};
use crate::pg::error::{invalid, server_log};
use crate::pg::query::{Arg, latest, run};
use crate::pg::{self, fail};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::{Value, json};

/// A project that a function was called for.
struct Place {
    id: Id,
    org: Id,
    name: String,
}

/// What the caller is to a project.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Power {
    /// He sees it.
    Sees,
    /// Its project_admin.
    Admin,
    /// He runs the organization's projects.
    Runs,
    /// He owns the organization, or is the DBA: what he gives he holds.
    Gives,
}

/// One answer for a project that does not exist, for another organization's, and for one that the caller may not see.
pub fn unknown_project(project: &Id) -> ErrorReport {
    let project = id_text(project);
    server_log(
        "permission denied: project not seen",
        &format!("Project {project} was asked for by a session that may not see it."),
    );
    fail(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("project \"{project}\" does not exist or you may not see it"),
    )
    .set_detail("Both cases answer alike.")
    .set_hint("SELECT * FROM tenancy.projects lists the current organization's projects that you may see.")
}

fn find(project: &Id) -> pg::Result<Place> {
    latest(
        "SELECT org_id, name FROM tenancy.projects WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(project)],
        |row| {
            Some(Place {
                id: *project,
                org: row.uuid(1)?,
                name: row.get::<String>(2)?,
            })
        },
    )
    .pop()
    .flatten()
    .ok_or_else(|| unknown_project(project))
}

impl Place {
    fn key(&self) -> Value {
        json!({ "id": id_text(&self.id), "org_id": id_text(&self.org) })
    }
}

/// What the caller is to a project now, whatever organization the context is for; an error where he does not see it.
fn power(place: &Place) -> pg::Result<Power> {
    if context::is_administrator() {
        return Ok(Power::Gives);
    }
    let now = context::standing();
    let user = now.user.ok_or_else(|| unknown_project(&place.id))?;
    if access::role_in(&place.org, &user).is_none() {
        return Err(unknown_project(&place.id));
    }
    let matrix = authority::matrix();
    let holds = |action| {
        Ok(access::user_may(
            &place.org,
            &user,
            access::action(&matrix, action)?,
        ))
    };
    if access::role_in(&place.org, &user).as_deref() == Some("owner") {
        return Ok(Power::Gives);
    }
    if holds("team:role")? || holds(RUN_PROJECTS)? {
        return Ok(Power::Runs);
    }
    let reach = Reach::of_user(&place.org, &user);
    if reach.role(&place.id) == Some("project_admin") {
        return Ok(Power::Admin);
    }
    match reach.seen(&place.id) {
        Some(_) => Ok(Power::Sees),
        None => Err(unknown_project(&place.id)),
    }
}

/// Refuses what takes more than the caller is to the project.
fn require(place: &Place, least: Power, doing: &str) -> pg::Result<Power> {
    let mine = power(place)?;
    if mine >= least {
        return Ok(mine);
    }
    let needed = match least {
        Power::Runs => format!("a role that holds {RUN_PROJECTS} in the organization"),
        _ => format!(
            "the role project_admin in it, or one that holds {RUN_PROJECTS} in the organization"
        ),
    };
    let message = format!(
        "permission denied: you may not {doing} project \"{}\"",
        place.name
    );
    let detail = format!("It takes {needed}.");
    server_log(&message, &detail);
    Err(
        fail(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
            .set_detail(detail)
            .set_hint(
                "Ask an owner or admin of the organization, or an administrator of the project.",
            ),
    )
}

/// Finds a project for an act on it: its row locked until the transaction ends, and the caller asked before the wait and
/// after it. `going`: the project is about to go; waits for the writers of its rows, and keeps new ones waiting.
fn lock(project: &Id, least: Power, doing: &str, going: bool) -> pg::Result<(Place, Power)> {
    let place = find(project)?;
    require(&place, least, doing)?;
    context::no_ai(&format!("{doing} a project"))?;
    // Every act on an organization takes its lock first, also against one that is suspended meanwhile.
    lock_org(&place.org, false)?;
    let sql = if going {
        "SELECT 1 FROM tenancy.projects WHERE id OPERATOR(pg_catalog.=) $1 FOR UPDATE"
    } else {
        "SELECT 1 FROM tenancy.projects WHERE id OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE"
    };
    let there = run(sql, &[Arg::Uuid(project)], |_| ());
    pg::transaction::accept_invalidations();
    if there.is_empty() {
        return Err(unknown_project(project));
    }
    let place = find(project)?;
    let power = require(&place, least, doing)?;
    Ok((place, power))
}

/// What projects and clusters may be called.
fn checked_name<'a>(name: &'a str, of: &str) -> pg::Result<&'a str> {
    let name = name.trim();
    let fits = (1..=255).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    // By a uuid the settings name an id.
    if fits && uuid::Uuid::parse_str(name).is_err() {
        return Ok(name);
    }
    Err(invalid(
        format!("this cannot be a {of}'s name"),
        "A name has 1 to 255 characters, no control characters, and is no uuid.",
        "Pass the name people know it by.",
    ))
}

fn checked_environment(environment: Option<&str>) -> pg::Result<Option<&str>> {
    let Some(tag) = environment.map(str::trim).filter(|e| !e.is_empty()) else {
        return Ok(None);
    };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = tag.len() <= 63
        && tag.starts_with(plain)
        && tag.ends_with(plain)
        && tag.chars().all(|c| plain(c) || c == '-' || c == '_');
    if fits {
        return Ok(Some(tag));
    }
    Err(invalid(
        "this cannot be an environment",
        "A tag has 1 to 63 lower-case letters, digits, hyphens and underscores, with a letter or digit at either end.",
        "Pass a tag such as 'production'.",
    ))
}

fn taken(what: &str, within: &str) -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
        format!("there is a {what} of this name already"),
    )
    .set_detail(format!("Names are unique within the {within}."))
    .set_hint("Choose another name.")
}
