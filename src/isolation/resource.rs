//! What protect() is told of resources: the type of a table's rows, the column that names each, and the column that leads
//! to the resource above it (spec 3.8).

use super::facts::{Facts, current_options, require_column};
use super::plan::Options;
use super::table;
use super::tree;
use crate::pg::error::invalid;
use crate::pg::{self, fail, primary_key};
use pgrx::prelude::*;
use pgrx::spi;
use serde::{Deserialize, Serialize};

/// The boundary of its own that a table of resources has. PostgreSQL puts a table's boundaries to each row by their names,
/// and this one comes after the organization's: no other organization's row is looked at.
pub const POLICY: &str = "tenancy_within_scope";

/// What an action's name ends in where it is asked for on listed resources, too. No action is called so.
pub const WITHIN_SCOPE: &str = " within scope";

/// A table's rows as resources; it has a type, or a parent, or both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The column that names the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The column that refers to the resource above, whose scope reaches this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

impl Resource {
    /// The arguments of in_scope() for a row.
    pub fn arguments(&self) -> String {
        let column = |name: &Option<String>| match name {
            Some(name) => spi::quote_identifier(name),
            None => "NULL::pg_catalog.text".into(),
        };
        format!("tableoid, {}, {}", column(&self.key), column(&self.parent))
    }
}

pub fn within_scope(action: &str) -> String {
    format!("{action}{WITHIN_SCOPE}")
}

/// The action that a policy names, and whether it is asked for on listed resources, too.
#[inline]
pub fn asked(action: &str) -> (&str, bool) {
    match action.strip_suffix(WITHIN_SCOPE) {
        Some(action) => (action, true),
        None => (action, false),
    }
}

/// The boundary. A membership that reaches the whole organization is let through before anything of the row is looked at.
pub fn policy(table: &str, scope: &str) -> String {
    format!(
        "CREATE POLICY {POLICY} ON {table} AS RESTRICTIVE FOR ALL TO PUBLIC \
         USING (tenancy.is_unscoped() OR tenancy.in_scope({scope})) \
         WITH CHECK (tenancy.is_unscoped() OR tenancy.check_scope({scope}))"
    )
}

/// What protect() was told, held against the table.
pub fn resolve(
    table: &Facts,
    org_column: &str,
    kind: Option<&str>,
    parent: Option<&str>,
) -> pg::Result<Option<Resource>> {
    if kind.is_none() && parent.is_none() {
        return Ok(None);
    }
    if let Some(kind) = kind {
        require_name(kind)?;
    }
    let resource = Resource {
        kind: kind.map(str::to_string),
        key: match kind {
            Some(_) => Some(key_column(table, org_column)?),
            None => None,
        },
        parent: parent.map(str::to_string),
    };
    if let Some(column) = parent {
        require_column(table, column, "It is named by resource_parent.")?;
        require_parent(table, org_column, column)?;
    }
    Ok(Some(resource))
}

fn require_name(kind: &str) -> pg::Result<()> {
    let mut letters = kind.chars();
    let starts = letters.next().is_some_and(|c| c.is_ascii_lowercase());
    if starts
        && kind.len() <= 63
        && letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    {
        return Ok(());
    }
    let shown: String = kind.chars().take(80).collect();
    Err(invalid(
        format!("\"{shown}\" is no name for a type of resource"),
        "It has small letters, digits and underscores, begins with a letter, and is 63 characters long at most.",
        "Such as resource_type => 'server'.",
    ))
}

/// The column of the primary key that names a row within its organization.
fn key_column(table: &Facts, org_column: &str) -> pg::Result<String> {
    let columns = primary_key::columns(table.relid).into_iter();
    let mut rest = columns
        .filter(|c| c.name != org_column)
        .map(|c| (c.name, c.deterministic));
    match (rest.next(), rest.next()) {
        (Some((name, true)), None) => Ok(name),
        (Some((name, false)), None) => Err(fail(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!(
                "column \"{name}\" of table \"{}\" has a nondeterministic collation",
                table.name
            ),
        )
        .set_detail("Two spellings could be the same resource to PostgreSQL, and two to a scope.")
        .set_hint("ALTER TABLE ... ALTER COLUMN ... TYPE ... COLLATE \"C\".")),
        (None, _) => Err(invalid(
            format!("no column names a resource of table \"{}\"", table.name),
            "A resource is named by the primary key, and the table has none besides the organization column.",
            "ALTER TABLE ... ADD PRIMARY KEY; or leave resource_type out.",
        )),
        (Some(_), Some(_)) => Err(invalid(
            format!(
                "several columns name a resource of table \"{}\"",
                table.name
            ),
            "A resource is named by one column: the primary key, without the organization column.",
            "Leave resource_type out, and name a column with resource_parent that refers to the resource that the rows belong to.",
        )),
    }
}

/// The column refers to a table of resources, by a key of its own or together with the organization column, and no way
/// from there leads back.
fn require_parent(table: &Facts, org_column: &str, column: &str) -> pg::Result<()> {
    let of_resources = |relid: pg_sys::Oid| {
        current_options(relid).is_some_and(|options| options.resource.is_some())
    };
    let Some(mut next) = parent_of(table.relid, org_column, column, &of_resources) else {
        return Err(invalid(
            format!(
                "column \"{column}\" of table \"{}\" leads to no table of resources",
                table.name
            ),
            "A foreign key on it must refer to a protected table that has a resource_type, or a resource_parent itself.",
            "Protect that table first: SELECT tenancy.protect('...', resource_type => '...').",
        ));
    };
    let mut seen = tree::members(table.relid);
    loop {
        if seen.contains(&next) {
            return Err(invalid(
                format!(
                    "the resources of table \"{}\" would be above themselves",
                    table.name
                ),
                "From a row its parent leads up to another table, and so on to one without a parent.",
                "Leave resource_parent out here, or where the circle is to end.",
            ));
        }
        seen.extend(tree::members(next));
        let up = current_options(next).and_then(|options: Options| {
            let column = options.resource?.parent?;
            // The table itself is not protected yet, or not anew.
            let on_the_way = |relid| relid == table.relid || of_resources(relid);
            parent_of(next, &options.org_column, &column, &on_the_way)
        });
        match up {
            Some(up) => next = up,
            None => return Ok(()),
        }
    }
}

/// The table that a foreign key on the column leads to, among those that count.
fn parent_of(
    relid: pg_sys::Oid,
    org_column: &str,
    column: &str,
    counts: &dyn Fn(pg_sys::Oid) -> bool,
) -> Option<pg_sys::Oid> {
    let columns = table::columns_of(relid);
    table::all_keys(relid, &columns)
        .into_iter()
        .filter(|key| {
            key.columns
                .iter()
                .all(|(_, name)| name == column || name == org_column)
                && key.columns.iter().any(|(_, name)| name == column)
        })
        .map(|key| key.probe.parent)
        .find(|parent| counts(*parent))
}
