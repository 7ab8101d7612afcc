//! What protect() asks of a table's project and cluster columns, and what it notes of them.

use super::facts::{Facts, number_of};
use super::place::columns_of;
use super::place_columns::{self, PlaceColumns};
use super::plan::Options;
use super::table;
use crate::context::projects;
use crate::pg::key::KeyColumn;
use crate::pg::query::{Arg, latest, run};
use crate::pg::{self, fail};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::spi;

/// What protect() was told of project and cluster, held against the table.
pub fn check(table: &Facts, options: &Options) -> pg::Result<()> {
    let given = [&options.project_column, &options.cluster_column];
    if options.cluster_column.is_some() && options.project_column.is_none() {
        return Err(no_project_column());
    }
    for column in given.into_iter().flatten() {
        super::facts::require_column(table, column, "It is to hold the row's project or cluster.")?;
        let attnum = number_of(&table::columns_of(table.relid), column);
        let (type_id, generated) = latest(
            "SELECT atttypid, attgenerated OPERATOR(pg_catalog.<>) '' OR attidentity OPERATOR(pg_catalog.<>) ''
             FROM pg_catalog.pg_attribute
             WHERE attrelid OPERATOR(pg_catalog.=) $1 AND attnum OPERATOR(pg_catalog.=) $2::pg_catalog.int4",
            &[Arg::Oid(table.relid), Arg::Int(i32::from(attnum))],
            |row| (row.get::<pg_sys::Oid>(1), row.get::<bool>(2)),
        )
        .pop()
        .unwrap_or((None, None));
        if type_id != Some(pg_sys::UUIDOID) || generated == Some(true) {
            return Err(fail(
                PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
                format!(
                    "column \"{column}\" of table \"{}\" is no ordinary column of type uuid",
                    table.name
                ),
            )
            .set_detail("It holds the id of the row's project or cluster.")
            .set_hint("Change the column's type to uuid."));
        }
    }
    Ok(())
}

pub fn no_project_column() -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        "a cluster column needs a project column",
    )
    .set_detail("A cluster belongs to a project.")
    .set_hint("Name both: project_column => '...', cluster_column => '...'.")
}

/// The columns of a table that is about to be protected, as statements name them.
pub fn quoted(options: &Options) -> Option<PlaceColumns> {
    Some(PlaceColumns {
        project: spi::quote_identifier(options.project_column.as_ref()?),
        cluster: options.cluster_column.as_ref().map(spi::quote_identifier),
    })
}

/// What unprotect() is to put back.
pub fn before(table: &Facts, column: Option<&String>) -> Option<place_columns::Before> {
    run(
        "SELECT a.attnotnull, pg_catalog.pg_get_expr(d.adbin, d.adrelid), a.attstattarget::pg_catalog.int4
         FROM pg_catalog.pg_attribute AS a
              LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid OPERATOR(pg_catalog.=) a.attrelid
                                                  AND d.adnum OPERATOR(pg_catalog.=) a.attnum
         WHERE a.attrelid OPERATOR(pg_catalog.=) $1 AND a.attname OPERATOR(pg_catalog.=) $2::pg_catalog.name",
        &[Arg::Oid(table.relid), Arg::Name(column?)],
        |row| place_columns::Before {
            // A partition's goes, or stays, with the partitioned table's.
            not_null: row.get::<bool>(1).unwrap_or(false) || table.partition,
            // What a new partition took over from its parent is not what it was before.
            default: row
                .get::<String>(2)
                .filter(|d| !d.starts_with("tenancy.current_")),
            statistics: row.get::<i32>(3).unwrap_or(-1),
        },
    )
    .pop()
}

/// Whether an index has the organization first and the project second; it then serves both.
pub fn is_indexed(table: &Facts, org: i16, options: &Options) -> bool {
    let columns = table::columns_of(table.relid);
    let project = options
        .project_column
        .as_ref()
        .map_or(0, |c| number_of(&columns, c));
    !run(
        "SELECT 1 FROM pg_catalog.pg_index
         WHERE indrelid OPERATOR(pg_catalog.=) $1 AND indisvalid AND indpred IS NULL
           AND indkey[0] OPERATOR(pg_catalog.=) $2::pg_catalog.int4 AND indkey[1] OPERATOR(pg_catalog.=) $3::pg_catalog.int4",
        &[
            Arg::Oid(table.relid),
            Arg::Int(i32::from(org)),
            Arg::Int(i32::from(project)),
        ],
        |_| (),
    )
    .is_empty()
}

/// The columns' names now: they may have been renamed.
pub fn as_it_stands(table: &Facts, options: &mut Options) {
    if options.project_column.is_none() {
        return;
    }
    let columns = table::columns_of(table.relid);
    let name = |attnum: i16| {
        let column = columns.iter().find(|(number, _)| *number == attnum);
        column.map(|(_, name)| name.clone())
    };
    if let Some((project, cluster)) = columns_of(table.relid) {
        options.project_column = name(project);
        options.cluster_column = cluster.and_then(name);
    } else {
        // Somebody dropped one.
        let there = |column: &String| columns.iter().any(|(_, name)| name == column);
        options.project_column = options.project_column.take().filter(there);
        options.cluster_column = options.cluster_column.take().filter(there);
    }
}

/// Rows that break the new boundary: without a project, or with one of another organization, or a cluster of another project.
pub fn survey(table: &Facts, org: KeyColumn, options: &Options) -> pg::Result<()> {
    let (Some(project), false) = (&options.project_column, table.is_partitioned()) else {
        return Ok(());
    };
    let columns = table::columns_of(table.relid);
    let project = number_of(&columns, project);
    let cluster = options
        .cluster_column
        .as_ref()
        .map(|c| number_of(&columns, c));
    let all = projects::all_places();
    let (mut homeless, mut crossing) = (0_u64, 0_u64);
    let mut directory = super::whose::Directory::read();
    pg::identity::as_table_owner(table.owner, || {
        pg::scan::for_each_row(table.relid, |row| {
            let Some(id) = row.value(project).as_uuid() else {
                homeless += 1;
                return;
            };
            let org = directory
                .whose(org.kind, &row.value(org.attnum))
                .and_then(|o| o.keys.id());
            let of_org = org.is_some() && all.projects.get(&id).copied() == org;
            let of_project = cluster
                .and_then(|c| row.value(c).as_uuid())
                .is_none_or(|cluster| all.clusters.get(&cluster) == Some(&id));
            crossing += u64::from(!of_org || !of_project);
        });
    });
    let refusal = |code, message: String, detail: &str| {
        fail(code, message)
            .set_detail(format!("{detail} Nothing was changed."))
            .set_hint("Correct these rows, and protect the table again.")
    };
    if homeless > 0 {
        return Err(refusal(
            PgSqlErrorCode::ERRCODE_NOT_NULL_VIOLATION,
            format!(
                "table \"{}\" has {homeless} rows without a project",
                table.name
            ),
            "Every row of a table with a project column belongs to a project.",
        ));
    }
    if crossing > 0 {
        return Err(refusal(
            PgSqlErrorCode::ERRCODE_FOREIGN_KEY_VIOLATION,
            format!(
                "{crossing} rows of table \"{}\" name a project of another organization or a cluster of another project",
                table.name
            ),
            "A row's project belongs to its organization, and its cluster to its project.",
        ));
    }
    Ok(())
}
