//! A project's tag is that of its rows where these have their environment from it. So to take a project out of production is
//! to take out every row in it, and is held like that: the owner, in person, who confirmed it for this project in the same
//! transaction. Rows hold their project while they are written (isolation/place.rs), so a retagging waits for its writers and
//! they for it: nobody writes by a tag that is not the project's any more.

use super::{confirm, row_key, tag};
use crate::access;
use crate::context::authority::{self, Id};
use crate::context::{self, Standing};
use crate::isolation::denied;
use crate::org::id_text;
use crate::pg::local::Backend;
use crate::pg::query::{Arg, latest, run};
use crate::pg::{self, fail, identity};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::json;
use std::cell::Cell;

pub const PROJECTS: &str = "tenancy.projects";

/// The project whose tag our own function changes now, which asked for the right to.
static CHANGING: Backend<Cell<Option<Id>>> = Backend::new(Cell::new(None));

fn projects_table() -> Option<pg_sys::Oid> {
    latest(
        "SELECT 'tenancy.projects'::pg_catalog.regclass::pg_catalog.oid",
        &[],
        |row| row.get::<pg_sys::Oid>(1),
    )
    .pop()
    .flatten()
}

/// The project that a confirmation is for; None where the table is another one.
pub fn named(relid: pg_sys::Oid, now: &Standing, key: &str) -> pg::Result<Option<row_key::Found>> {
    if projects_table() != Some(relid) {
        return Ok(None);
    }
    let id = uuid::Uuid::parse_str(key).ok().map(|id| *id.as_bytes());
    let Some(id) = id.filter(|id| now.reach().seen(id).is_some()) else {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            "no such project in the current organization",
        )
        .set_detail("There is none with this id that the current context sees.")
        .set_hint("SELECT id, name FROM tenancy.projects lists them."));
    };
    Ok(Some(row_key::Found {
        root: relid,
        key: vec![id.to_vec()],
        json: json!({ "id": id_text(&id) }).to_string(),
    }))
}

fn takes_out(org: &Id, old: Option<&str>, new: Option<&str>) -> bool {
    let is_production = |tag: Option<&str>| {
        tag.is_some_and(|tag| tag::Tag::named(org, tag.to_string()).is_production())
    };
    authority::org_by_id(org).is_some_and(|org| org.production_protection)
        && is_production(old)
        && !is_production(new)
}

fn refused(who: &str, name: &str, hint: &str) -> ErrorReport {
    denied(
        format!("permission denied: {who} may not take project \"{name}\" out of production"),
        "Its organization protects its production rows, and those of the project have their environment from it.",
        hint,
    )
}

/// Refuses to take a project out of production to anybody but its organization's owner, in person, who confirmed it. The
/// organization is locked.
pub fn require(
    org: &Id,
    project: &Id,
    name: &str,
    old: Option<&str>,
    new: Option<&str>,
) -> pg::Result<()> {
    if !takes_out(org, old, new) || identity::break_glass() {
        return Ok(());
    }
    let now = context::standing();
    let role = now.user.and_then(|user| access::role_in(org, &user));
    if now.actor_type != "human" {
        let who = format!("actor type {}", now.actor_type);
        return Err(refused(
            &who,
            name,
            "The organization's owner does it, in person.",
        ));
    }
    if role.as_deref() != Some("owner") {
        let who = format!("role \"{}\"", role.as_deref().unwrap_or("none"));
        return Err(refused(
            &who,
            name,
            "The organization's owner does it, after tenancy.confirm_production_delete(). A superuser who means it says SET row_security = off first.",
        ));
    }
    let key = vec![project.to_vec()];
    let confirmed =
        projects_table().is_some_and(|table| confirm::use_up(org, now.user, table, &key));
    if confirmed {
        return Ok(());
    }
    let id = id_text(project);
    Err(denied(
        format!(
            "permission denied: to take project \"{name}\" out of production needs a confirmation"
        ),
        "Its organization protects its production rows, and those of the project have their environment from it.",
        &format!(
            "In the same transaction: SELECT tenancy.confirm_production_delete('{PROJECTS}', '{id}', typed => '{id}')."
        ),
    ))
}

/// Changes the tag of a project for which `require()` was asked.
pub fn change(project: &Id, work: impl FnOnce()) {
    struct Over;
    impl Drop for Over {
        fn drop(&mut self) {
            CHANGING.set(None);
        }
    }
    let _over = Over;
    CHANGING.set(Some(*project));
    work();
}

/// A project or cluster whose tag is about to change, whoever writes our tables.
pub struct Place {
    pub org: Id,
    pub id: Id,
    pub name: String,
    /// That of a cluster.
    pub project: Option<Id>,
}

/// Waits for the writers of its rows, and holds whoever goes around our function to the same rule: nobody confirms a
/// statement on our tables.
pub fn before_change(place: &Place, old: Option<&str>, new: Option<&str>) -> pg::Result<()> {
    let lock = match place.project {
        None => "SELECT 1 FROM tenancy.projects WHERE id OPERATOR(pg_catalog.=) $1 FOR UPDATE",
        Some(_) => "SELECT 1 FROM tenancy.clusters WHERE id OPERATOR(pg_catalog.=) $1 FOR UPDATE",
    };
    run(lock, &[Arg::Uuid(&place.id)], |_| ());
    if identity::break_glass() || CHANGING.get() == Some(place.id) {
        return Ok(());
    }
    // A cluster without a tag has its project's.
    let above = place
        .project
        .and_then(|project| crate::context::projects::environment(&place.org, &project, None))
        .flatten();
    if !takes_out(
        &place.org,
        old.or(above.as_deref()),
        new.or(above.as_deref()),
    ) {
        return Ok(());
    }
    let message = format!(
        "permission denied: \"{}\" is not taken out of production by a statement on its table",
        place.name
    );
    Err(denied(
        message,
        "Its organization protects its production rows, and those in it have their environment from it.",
        "The owner calls tenancy.set_project_environment(). A superuser who means it says SET row_security = off first.",
    ))
}

/// A tag that the organization does not know makes production of what carries it, and somebody should know.
pub fn tell_of_unknown(org: &Id, tag: Option<&str>) {
    let Some(tag) = tag.filter(|tag| tag::kind(org, tag).is_none()) else {
        return;
    };
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_WARNING,
        format!("the organization does not know the environment \"{tag}\""),
        "pg_tenancy",
    )
    .set_detail(format!(
        "Rows that have it from here count as production. The organization knows {}.",
        tag::known(org)
    ))
    .set_hint("SELECT tenancy.create_environment(org, name, kind) says what it means.")
    .report(PgLogLevel::WARNING);
}
