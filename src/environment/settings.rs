//! What an organization says of its environments: its own tags, and whether production is protected.

use super::tag;
use crate::access;
use crate::audit::{self, Act};
use crate::context;
use crate::context::authority;
use crate::isolation;
use crate::org::owner_alone::{lock_as_owner, require_owner};
use crate::org::{id_text, lock_org};
use crate::pg::error::invalid;
use crate::pg::query::{Arg, execute, run};
use crate::pg::{self, fail};
use pgrx::datum::Uuid;
use pgrx::prelude::*;
use serde_json::json;

/// What lessens the protection of production is for the owner in person, as taking a row out of production is.
fn require_in_person(doing: &str) -> pg::Result<()> {
    let now = context::standing();
    if now.actor_type != "human" {
        return Err(isolation::denied(
            format!(
                "permission denied: actor type {} may not {doing}",
                now.actor_type
            ),
            "It lessens the protection of production.",
            "The organization's owner does it, in person.",
        ));
    }
    Ok(())
}

/// Adds an environment tag of an organization's own (spec 7): rows may carry it from then on. `name`: as it stands in the
/// rows, at most 63 characters, none of the three that are always there. `kind`: which of these it is like: development,
/// staging or production. Needs org:update there (or the DBA); where rows carry the tag already, which makes them
/// production, and it is to be another kind, under production protection the owner in person.
/// Errors: 42501 no right, unknown organization, an AI actor, 22023 no such kind or no such name, 23505 the tag is there.
#[pg_extern(volatile, parallel_unsafe)]
fn create_environment(org: Option<Uuid>, name: Option<&str>, kind: Option<&str>) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let org = org.as_bytes();
    let (name, kind) = (pg::given(name, "name")?, pg::given(kind, "kind")?);
    access::require(org, "org:update", "in the organization")?;
    check_kind(kind)?;
    let fits = (1..=63).contains(&name.chars().count())
        && name.trim() == name
        && !name.chars().any(char::is_control);
    let like = tag::BUILT_IN
        .iter()
        .find(|built_in| built_in.eq_ignore_ascii_case(name));
    if !fits || like.is_some_and(|like| *like == name || *like != kind) {
        return Err(invalid(
            "this cannot be an environment's name",
            "A name has 1 to 63 characters, no blanks at its ends, and is none of development, staging and production, which are always there.",
            "Pass the tag as it stands in the rows, such as 'qa'.",
        ));
    }
    let owner = lock_org(org, true)?;
    access::require(org, "org:update", "in the organization")?;
    let known = context::known_org(org)?;
    if kind != "production"
        && known.production_protection
        && isolation::is_tag_in_use(org, name).is_some()
    {
        let doing = "take rows out of production";
        require_owner(org, &owner, doing)?;
        require_in_person(doing)?;
    }
    let added = execute(
        "INSERT INTO tenancy.org_environments (org_id, name, kind) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        &[Arg::Uuid(org), Arg::Text(name), Arg::Text(kind)],
    );
    if added == 0 {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
            format!("environment \"{name}\" is there already"),
        )
        .set_detail("A tag means one thing.")
        .set_hint("tenancy.drop_environment() takes away one that no row carries."));
    }
    audit::record(&Act {
        org: *org,
        operation: "create_environment",
        object: "tenancy.org_environments",
        key: json!({ "org_id": id_text(org), "name": name }),
        old: None,
        new: Some(json!({ "kind": kind })),
    });
    Ok(())
}

fn check_kind(kind: &str) -> pg::Result<()> {
    if tag::BUILT_IN.contains(&kind) {
        return Ok(());
    }
    let shown: String = kind.chars().take(80).collect();
    Err(invalid(
        "this is no kind of environment",
        format!("\"{shown}\" is none of development, staging and production."),
        "Say which of the three the environment is like.",
    ))
}

/// Takes an environment tag of an organization's own away (spec 7); no row may carry it any more. Needs org:update there
/// (or the DBA). Errors: 42501 no right, unknown organization, an AI actor, 2BP01 rows carry it, P0002 no such tag.
#[pg_extern(volatile, parallel_unsafe)]
fn drop_environment(org: Option<Uuid>, name: Option<&str>) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let org = org.as_bytes();
    let name = pg::given(name, "name")?;
    access::require(org, "org:update", "in the organization")?;
    lock_org(org, true)?;
    access::require(org, "org:update", "in the organization")?;
    let old = run(
        "DELETE FROM tenancy.org_environments
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND name OPERATOR(pg_catalog.=) $2 RETURNING kind",
        &[Arg::Uuid(org), Arg::Text(name)],
        |row| row.get::<String>(1),
    )
    .pop()
    .flatten();
    let Some(kind) = old else {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            "there is no such environment",
        )
        .set_detail(format!("The organization knows {}.", tag::known(org)))
        .set_hint("The three that are always there stay."));
    };
    // A row that is tagged so at this very moment becomes one of an unknown environment, which counts as production.
    if let Some(table) = isolation::is_tag_in_use(org, name) {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
            "rows carry this environment",
        )
        .set_detail(format!("There are some in table {table}."))
        .set_hint("Give them another environment first."));
    }
    audit::record(&Act {
        org: *org,
        operation: "drop_environment",
        object: "tenancy.org_environments",
        key: json!({ "org_id": id_text(org), "name": name }),
        old: Some(json!({ "kind": kind })),
        new: None,
    });
    Ok(())
}

/// Turns the protection of an organization's production rows on or off (spec 7): while it is on, an AI actor writes none of
/// them, and each deletion takes the owner, in person, and confirm_production_delete(). For the owner (or the DBA); to turn
/// it off, in person: actor type human. It holds from the next statement of every session. Errors: 42501 not the owner,
/// unknown organization, not a person.
#[pg_extern(volatile, parallel_unsafe)]
fn set_production_protection(org: Option<Uuid>, enabled: Option<bool>) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let org = org.as_bytes();
    let enabled = pg::given(enabled, "enabled")?;
    context::known_org(org)?;
    context::no_ai("set production protection")?;
    let doing = if enabled {
        "turn production protection on"
    } else {
        "turn production protection off"
    };
    lock_as_owner(org, doing)?;
    if !enabled {
        require_in_person(doing)?;
    }
    let before = authority::org_by_id(org).is_some_and(|o| o.production_protection);
    execute(
        "UPDATE tenancy.orgs SET production_protection = $2 WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(org), Arg::Flag(enabled)],
    );
    audit::record(&Act {
        org: *org,
        operation: "set_production_protection",
        object: "tenancy.orgs",
        key: json!({ "id": id_text(org) }),
        old: Some(json!({ "production_protection": before })),
        new: Some(json!({ "production_protection": enabled })),
    });
    Ok(())
}
