//! Tables whose rows have an environment (spec 7): in a column of their own, that of the row which a foreign key leads to,
//! or that of their project or cluster. The record of protection names the column, so one that it names keeps its name, its type and its key.

use super::facts::{Facts, current_options, facts, require_column};
use super::plan::Options;
use super::protect::Planned;
use super::table::{self, GuardedKey, all_keys};
use super::tree;
use crate::context::{authority, keys, projects};
use crate::environment::Tag;
use crate::pg::query::{Arg, latest};
use crate::pg::{self, fail, scan};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::collections::BTreeSet;

/// Where the environment of a table's rows stands.
#[derive(Debug)]
pub struct Source {
    pub way: Way,
    /// The columns that foreign keys of other tables lead to, with their names: by them rows that have their environment
    /// from here know the one that they had it from.
    pub led_to: Vec<Vec<(i16, String)>>,
}

#[derive(Debug)]
pub enum Way {
    Column {
        attnum: i16,
        is_enum: bool,
    },
    /// The place of the foreign key among those of the table.
    Key(usize),
    /// The row's project has it; `by_cluster`: its cluster, where that has one of its own.
    Place {
        by_cluster: bool,
    },
}

/// Where the record says that the environment stands; an error where it is not there.
pub fn source(
    relid: pg_sys::Oid,
    options: &Options,
    columns: &[(i16, String)],
    foreign_keys: &[GuardedKey],
) -> Result<Option<Source>, ()> {
    let way = match (&options.environment_column, &options.environment_from) {
        (None, None) => return Ok(None),
        (Some(name), _) => {
            let (attnum, _) = columns.iter().find(|(_, n)| n == name).ok_or(())?;
            Way::Column {
                attnum: *attnum,
                is_enum: kind_of_column(relid, *attnum).ok_or(())?,
            }
        }
        (None, Some(name)) if options.environment_from_place() => Way::Place {
            by_cluster: options.cluster_column.as_ref() == Some(name),
        },
        (None, Some(name)) => {
            let leads = |key: &GuardedKey| key.columns.iter().any(|(_, n)| n == name);
            let mut found = foreign_keys.iter().enumerate().filter(|(_, k)| leads(k));
            match (found.next(), found.next()) {
                (Some((place, _)), None) => Way::Key(place),
                _ => return Err(()),
            }
        }
    };
    Ok(Some(Source {
        way,
        led_to: led_to(relid, columns),
    }))
}

/// Whether a column is of an enum (true) or of text; None where it is of neither.
fn kind_of_column(relid: pg_sys::Oid, attnum: i16) -> Option<bool> {
    latest(
        "SELECT a.atttypid OPERATOR(pg_catalog.=) 'pg_catalog.text'::pg_catalog.regtype
                OR a.atttypid OPERATOR(pg_catalog.=) 'pg_catalog.varchar'::pg_catalog.regtype,
                t.typtype OPERATOR(pg_catalog.=) 'e'
         FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS t ON t.oid OPERATOR(pg_catalog.=) a.atttypid
         WHERE a.attrelid OPERATOR(pg_catalog.=) $1 AND a.attnum OPERATOR(pg_catalog.=) $2::pg_catalog.int8",
        &[
            Arg::Oid(relid),
            Arg::Oid(pg_sys::Oid::from(attnum as u32)),
        ],
        |row| {
            let flag = |n| row.get::<bool>(n).unwrap_or_default();
            (flag(1) || flag(2)).then_some(flag(2))
        },
    )
    .pop()
    .flatten()
}

fn led_to(relid: pg_sys::Oid, columns: &[(i16, String)]) -> Vec<Vec<(i16, String)>> {
    let sets: BTreeSet<Vec<(i16, String)>> = latest(
        "SELECT DISTINCT confkey::pg_catalog.int2[] FROM pg_catalog.pg_constraint
         WHERE confrelid OPERATOR(pg_catalog.=) $1 AND contype OPERATOR(pg_catalog.=) 'f'",
        &[Arg::Oid(relid)],
        |row| row.get::<Vec<i16>>(1).unwrap_or_default(),
    )
    .into_iter()
    .map(|set| {
        let named = columns.iter().filter(|(attnum, _)| set.contains(attnum));
        let mut named: Vec<_> = named.cloned().collect();
        named.sort_by(|(_, one), (_, other)| one.cmp(other));
        named
    })
    .collect();
    sets.into_iter().collect()
}

/// What protect() asks of the two options.
pub fn check(table: &Facts, options: &Options) -> pg::Result<()> {
    match (&options.environment_column, &options.environment_from) {
        (None, None) => Ok(()),
        (Some(_), Some(_)) => Err(fail(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "environment_column and environment_from exclude each other",
        )
        .set_detail("A row's environment stands in the row, or in the one that it refers to.")
        .set_hint("Name one of them.")),
        (Some(column), None) => check_column(table, column),
        // What the column holds, place_setup.rs asks.
        (None, Some(column)) if options.environment_from_place() => {
            require_column(table, column, "It is named as environment_from.")
        }
        (None, Some(column)) => check_from(table, column),
    }
}

fn check_column(table: &Facts, column: &str) -> pg::Result<()> {
    require_column(table, column, "It is named as environment_column.")?;
    let columns = table::columns_of(table.relid);
    let attnum = columns.iter().find(|(_, name)| name == column);
    if attnum.is_some_and(|(attnum, _)| kind_of_column(table.relid, *attnum).is_some()) {
        return Ok(());
    }
    Err(fail(
        PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
        format!(
            "column \"{column}\" of table \"{}\" holds no environment",
            table.name
        ),
    )
    .set_detail("An environment column is of type text, varchar, or an enum.")
    .set_hint("ALTER TABLE ... ALTER COLUMN ... TYPE text."))
}

fn check_from(table: &Facts, column: &str) -> pg::Result<()> {
    require_column(table, column, "It is named as environment_from.")?;
    let keys = all_keys(table.relid, &table::columns_of(table.relid));
    let leading: Vec<&GuardedKey> = keys
        .iter()
        .filter(|key| key.columns.iter().any(|(_, name)| name == column))
        .filter(|key| current_options(key.probe.parent).is_some())
        .collect();
    let refused = |detail: String, hint: &str| {
        fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!(
                "column \"{column}\" of table \"{}\" leads to no environment",
                table.name
            ),
        )
        .set_detail(detail)
        .set_hint(hint)
    };
    let [key] = leading[..] else {
        return Err(refused(
            format!(
                "{} foreign keys with this column lead to a protected table; it must be one.",
                leading.len()
            ),
            "Protect the parent first, with environment_column or environment_from.",
        ));
    };
    let parent = current_options(key.probe.parent).unwrap_or_default();
    if parent.environment_column.is_none() && parent.environment_from.is_none()
        || key.probe.parent == table.relid
        || !key.probe.is_known()
    {
        return Err(refused(
            format!(
                "The rows of {} have none of their own.",
                facts(key.probe.parent)?.quoted()
            ),
            "Protect the parent with environment_column or environment_from.",
        ));
    }
    Ok(())
}

/// The table was altered: what the record names is still there.
pub fn after(relid: pg_sys::Oid) -> pg::Result<()> {
    let Some(options) = current_options(relid) else {
        return Ok(());
    };
    if options.environment_column.is_none() && options.environment_from.is_none() {
        return Ok(());
    }
    let table = facts(relid)?;
    check(&table, &options).map_err(|problem| {
        let named = options.environment_column.or(options.environment_from);
        fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!(
                "the environment of the rows of table \"{}\" stands in column \"{}\"",
                table.name,
                named.unwrap_or_default()
            ),
        )
        .set_detail(format!("{}.", problem.message()))
        .set_hint("BEGIN; SELECT tenancy.unprotect(...); ALTER TABLE ...; SELECT tenancy.protect(...); COMMIT changes it without a gap.")
    })
}

/// Tables from whose rows others have their environment stay protected.
pub fn require_no_heirs(tree: &[Facts]) -> pg::Result<()> {
    for relid in tree::protected() {
        if tree.iter().any(|t| t.relid == relid) {
            continue;
        }
        let by_key = current_options(relid).filter(|o| !o.environment_from_place());
        let Some(name) = by_key.and_then(|o| o.environment_from) else {
            continue;
        };
        let leads_here = |key: &GuardedKey| {
            key.columns.iter().any(|(_, column)| *column == name)
                && tree.iter().any(|t| t.relid == key.probe.parent)
        };
        if all_keys(relid, &table::columns_of(relid))
            .iter()
            .any(leads_here)
        {
            let heir = facts(relid)?.quoted();
            return Err(fail(
                PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
                format!(
                    "rows of {heir} have their environment from table \"{}\"",
                    tree[0].name
                ),
            )
            .set_detail("Nobody would know any more which of them are production.")
            .set_hint(format!("SELECT tenancy.unprotect('{heir}') first.")));
        }
    }
    Ok(())
}

/// Tags that rows have already and no organization knows: such rows count as production, and somebody should know.
pub fn tell_of_unknown_tags(planned: &[Planned]) {
    for one in planned {
        let Some(name) = &one.options.environment_column else {
            continue;
        };
        let columns = table::columns_of(one.table.relid);
        let Some((attnum, _)) = columns.iter().find(|(_, n)| n == name) else {
            continue;
        };
        let is_enum = kind_of_column(one.table.relid, *attnum) == Some(true);
        let mut tags = BTreeSet::new();
        scan::for_each_row(one.table.relid, |row| {
            let org = keys::whose(one.column.kind, &row.value(one.column.attnum));
            if tags.len() < 10
                && let Some(org) = org
                && let Tag::Unknown(tag) = Tag::of(&org, row, *attnum, is_enum)
            {
                tags.insert(tag);
            }
        });
        if !tags.is_empty() {
            let tags: Vec<String> = tags.into_iter().map(|t| format!("\"{t}\"")).collect();
            ErrorReport::new(
                PgSqlErrorCode::ERRCODE_WARNING,
                format!("rows of table \"{}\" have environments that their organizations do not know: {}", one.table.name, tags.join(", ")),
                "pg_tenancy",
            )
            .set_detail("They count as production.")
            .set_hint("tenancy.create_environment() says what a tag means.")
            .report(PgLogLevel::WARNING);
        }
    }
}

/// Whether rows of an organization have this tag, in any table; its projects and clusters count, too.
pub fn is_in_use(org: &authority::Id, tag: &str) -> Option<String> {
    if let Some(place) = projects::tagged(org, tag) {
        return Some(place.to_string());
    }
    for relid in tree::protected() {
        let Some(table) = table::protected(relid) else {
            continue;
        };
        let Some(Source {
            way: Way::Column { attnum, is_enum },
            ..
        }) = &table.environment
        else {
            continue;
        };
        let mut used = false;
        scan::for_each_newest_row(relid, |row| {
            used = keys::whose(table.org_kind, &row.value(table.org_attnum)) == Some(*org)
                && Tag::text(row, *attnum, *is_enum).as_deref() == Some(tag);
            !used
        });
        if used {
            return Some(table.object.clone());
        }
    }
    None
}
