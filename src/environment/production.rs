//! The rules for rows of production, in organizations that have their protection on (spec 7): an AI actor writes none of
//! them, and one is deleted, or taken out of production, by the owner in person, who confirmed it in the same transaction.

use super::inherit::{is_gone, is_production};
use super::{RowKey, confirm, proposals, tag};
use crate::context::Standing;
use crate::context::authority::Id;
use crate::isolation::{self, Source, Table, Way, denied};
use crate::pg::trigger::RowImage;
use crate::pg::{self, catalog, fail};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// What the row guard asks for a row of the effective organization, on a table with environments. Answers the key of a
/// production row that leaves for another partition: what becomes of it shows where it arrives.
pub fn check_row(
    now: &Standing,
    table: &Table,
    source: &Source,
    old: Option<&RowImage>,
    new: Option<&RowImage>,
) -> pg::Result<Option<RowKey>> {
    let Some(org) = &now.org else {
        return Ok(None);
    };
    if let Some(new) = new {
        require_known(&org.id, table, source, old, new)?;
    }
    let by_ai = now.actor_type == "ai";
    if !org.production_protection && !by_ai {
        return Ok(None);
    }
    let of = |row: Option<&RowImage>| {
        row.map_or(Ok(false), |row| is_production(&org.id, table, source, row))
    };
    let (was, will) = (of(old)?, of(new)?);
    if by_ai && (was || will) {
        if org.production_protection {
            return Err(not_for_ai(now, table));
        }
        if !proposals::is_destructive() {
            return Err(riskier(table));
        }
    }
    if !org.production_protection {
        return Ok(None);
    }
    let Some(old) = old else { return Ok(None) };
    let moves = new.is_none() && old.has_moved();
    if was && !will && !moves {
        let doing = if new.is_some() {
            "take out of production"
        } else {
            "delete"
        };
        require_confirmed(now, table, &key_of(table, old), doing)?;
    }
    if table.is_parent {
        // What was confirmed of this row was confirmed of everything that is production by it.
        let still = was && (will || moves);
        is_gone(table, source, old, new, still);
    }
    Ok((was && moves).then(|| key_of(table, old)))
}

/// A production row has moved to another partition; `key`: what it was before.
pub fn check_arrival(
    now: &Standing,
    table: &Table,
    new: &RowImage,
    key: &RowKey,
) -> pg::Result<()> {
    let still = match (&now.org, &table.environment) {
        (Some(org), Some(source)) => is_production(&org.id, table, source, new)?,
        _ => false,
    };
    if still {
        return Ok(());
    }
    require_confirmed(now, table, key, "take out of production")
}

/// A production row left its partition and arrived in none: a trigger swallowed it.
pub fn vanished(root: pg_sys::Oid) -> ErrorReport {
    denied(
        format!(
            "permission denied: a production row of table \"{}\" was moved to no partition",
            catalog::relation_name(root)
        ),
        "A trigger kept the row from arriving, which deletes it.",
        "DELETE it, after tenancy.confirm_production_delete().",
    )
}

pub fn key_of(table: &Table, row: &RowImage) -> RowKey {
    table.key.iter().map(|i| row.value(*i).bytes()).collect()
}

/// A tag that is new to the row is one that the organization knows: a slip of the pen would be an environment of its own.
fn require_known(
    org: &Id,
    table: &Table,
    source: &Source,
    old: Option<&RowImage>,
    new: &RowImage,
) -> pg::Result<()> {
    let Way::Column { attnum, is_enum } = source.way else {
        return Ok(());
    };
    if old.is_some_and(|old| old.value(attnum).same(&new.value(attnum))) {
        return Ok(());
    }
    let Some(written) = tag::Tag::text(new, attnum, is_enum) else {
        return Ok(());
    };
    if tag::kind(org, &written).is_some() {
        return Ok(());
    }
    let shown: String = written.chars().take(80).collect();
    Err(fail(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("unknown environment \"{shown}\""),
    )
    .set_detail(format!(
        "Table {}: the organization knows {}.",
        table.object,
        tag::known(org)
    ))
    .set_hint(
        "SELECT tenancy.create_environment(org, name, kind) adds one; for holders of org:update.",
    ))
}

fn org_named(now: &Standing) -> String {
    now.org
        .as_ref()
        .map(|org| {
            format!(
                "Organization \"{}\" protects its production rows.",
                org.name
            )
        })
        .unwrap_or_default()
}

fn not_for_ai(now: &Standing, table: &Table) -> ErrorReport {
    denied(
        format!(
            "permission denied: an AI actor may not write production rows of table {}",
            table.object
        ),
        org_named(now),
        "A person does it; an approved proposal does not open production.",
    )
}

/// The row is production, which was not so, or not to be seen, when the change was proposed: others approve that.
fn riskier(table: &Table) -> ErrorReport {
    denied(
        format!(
            "permission denied: the row in table {} is production, and the change was not approved as destructive",
            table.object
        ),
        "A change of production is destructive.",
        "Propose it again, with risk => 'destructive'.",
    )
}

/// The owner, in person, with a confirmation of this transaction for this row.
fn require_confirmed(now: &Standing, table: &Table, key: &RowKey, doing: &str) -> pg::Result<()> {
    let object = &table.object;
    let refused = |who: String, hint: &str| {
        Err(denied(
            format!("permission denied: {who} may not {doing} a production row of table {object}"),
            org_named(now),
            hint,
        ))
    };
    if now.actor_type != "human" {
        return refused(
            format!("actor type {}", now.actor_type),
            "The organization's owner does it, in person.",
        );
    }
    if now.role != "owner" {
        return refused(
            format!("role \"{}\"", now.role),
            "The organization's owner does it, after tenancy.confirm_production_delete(). A superuser who means it says SET row_security = off first.",
        );
    }
    let org = now.org_id().unwrap_or_default();
    if confirm::use_up(&org, now.user, table.root, key) {
        return Ok(());
    }
    Err(denied(
        format!(
            "permission denied: to {doing} a production row of table {object} needs a confirmation"
        ),
        org_named(now),
        &format!(
            "In the same transaction: SELECT tenancy.confirm_production_delete({}, '<key>', typed => '<key>').",
            pgrx::spi::quote_literal(object)
        ),
    ))
}

/// The protected table with environments that a confirmation is for.
pub fn table_with_environments(relid: pg_sys::Oid) -> pg::Result<std::rc::Rc<Table>> {
    isolation::protected(relid)
        .filter(|table| table.environment.is_some())
        .ok_or_else(|| {
            fail(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!(
                    "table \"{}\" has no environments",
                    catalog::relation_name(relid)
                ),
            )
            .set_detail("It is not protected with environment_column or environment_from.")
            .set_hint("SELECT * FROM tenancy.protected_tables shows which tables are.")
        })
}
