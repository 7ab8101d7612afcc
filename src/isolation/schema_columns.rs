//! What protect_schema() looks for in each table beside the organization column: project, cluster and environment, in
//! the tables that have such a column. What leads to one table's own parent is protect()'s to be told.

use super::facts::{Facts, column_exists};
use super::place_setup;
use super::plan::Options;
use super::protect::Planned;
use crate::pg::{self, fail};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

pub struct Columns<'a> {
    pub environment: Option<&'a str>,
    pub project: Option<&'a str>,
    pub cluster: Option<&'a str>,
}

impl Columns<'_> {
    fn all(&self) -> [(&'static str, Option<&str>); 3] {
        [
            ("environment", self.environment),
            ("project", self.project),
            ("cluster", self.cluster),
        ]
    }

    /// A name that no table has is a slip.
    pub fn require<'t>(&self, tables: impl Iterator<Item = &'t Facts> + Clone) -> pg::Result<()> {
        if self.cluster.is_some() && self.project.is_none() {
            return Err(place_setup::no_project_column());
        }
        for column in self.all().into_iter().filter_map(|(_, column)| column) {
            let mut tables = tables.clone().peekable();
            if tables.peek().is_some() && !tables.any(|table| column_exists(table, column)) {
                return Err(fail(
                    PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                    format!("no table of the schema that has the organization column has a column \"{column}\""),
                )
                .set_detail("Nothing was changed.")
                .set_hint("Names are taken as they are, without quotes and in their own letter case."));
            }
        }
        Ok(())
    }

    /// How this table is to be protected.
    pub fn of(&self, table: &Facts, options: &Options) -> Options {
        let there = |column: Option<&str>| {
            let column = column.filter(|column| column_exists(table, column));
            column.map(str::to_string)
        };
        let project = there(self.project);
        Options {
            environment_column: there(self.environment),
            cluster_column: project.as_ref().and(there(self.cluster)),
            project_column: project,
            ..options.clone()
        }
    }

    /// Which of them the table has, and which it lacks, in words.
    pub fn told(&self, options: &Options) -> Option<String> {
        let found = [
            &options.environment_column,
            &options.project_column,
            &options.cluster_column,
        ];
        let asked = self.all().into_iter().zip(found);
        let told: Vec<String> = asked
            .filter_map(|((what, asked), found)| {
                asked.map(|column| match found {
                    Some(_) => format!("{what} column \"{column}\""),
                    None => format!("no {what} column"),
                })
            })
            .collect();
        (!told.is_empty()).then(|| told.join(", "))
    }
}

/// Rows that break the boundary of projects and clusters, in the tables that get one: the first problem of each table.
pub fn survey<'p>(planned: &'p [Planned]) -> Vec<(&'p Facts, ErrorReport)> {
    planned
        .iter()
        .filter_map(|one| {
            let found = place_setup::survey(one.table, one.target().org, &one.options);
            found.err().map(|problem| (one.table, problem))
        })
        .collect()
}
