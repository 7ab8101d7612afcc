//! How a table is protected, as plain data: what was asked for, and what unprotect() puts back. No server in here.

use super::place_columns;
use super::resource::Resource;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The `permissions` argument of protect().
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permissions {
    pub select: Option<String>,
    pub insert: Option<String>,
    pub update: Option<String>,
    pub delete: Option<String>,
    #[serde(default)]
    pub columns: BTreeMap<String, String>,
}

/// How a table is protected; the row trigger carries it as its argument.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Options {
    pub org_column: String,
    pub select: String,
    pub insert: String,
    pub update: String,
    pub delete: String,
    #[serde(default)]
    pub columns: BTreeMap<String, String>,
    #[serde(default)]
    pub audit: bool,
    /// Columns that the log leaves out, and those whose values it hides.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub audit_exclude: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub audit_mask: BTreeSet<String>,
    /// What kind of resource a row is (spec 3.8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<Resource>,
    /// The columns that hold each row's project and cluster (spec 9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_column: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_column: Option<String>,
    /// The column that holds each row's environment, or one of a foreign key to the row that has it, or the one of those
    /// above whose project or cluster has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment_column: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment_from: Option<String>,
    #[serde(default)]
    pub before: Before,
}

/// What unprotect() puts back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Before {
    pub row_security: bool,
    pub force: bool,
    pub not_null: bool,
    pub default: Option<String>,
    pub statistics: i32,
    /// The index that protect() made, quoted and qualified; None where one was there.
    pub index: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<place_columns::Before>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<place_columns::Before>,
}

impl Options {
    /// Reads the trigger's argument. One that was tampered with protects nothing it names, but never less than the
    /// defaults: unknown actions and columns are refused where they are used.
    pub fn parse(argument: &str) -> Options {
        serde_json::from_str(argument).unwrap_or_default()
    }

    pub fn new(org_column: &str, permissions: Permissions, audit: bool, before: Before) -> Options {
        let or =
            |given: Option<String>, default: &str| given.unwrap_or_else(|| default.to_string());
        Options {
            org_column: org_column.to_string(),
            select: or(permissions.select, "data:read"),
            insert: or(permissions.insert, "data:write"),
            update: or(permissions.update, "data:write"),
            delete: or(permissions.delete, "data:write"),
            columns: permissions.columns,
            audit,
            audit_exclude: BTreeSet::new(),
            audit_mask: BTreeSet::new(),
            resource: None,
            project_column: None,
            cluster_column: None,
            environment_column: None,
            environment_from: None,
            before,
        }
    }

    /// Whether the environment of each row is that of its project, or of its cluster.
    pub fn environment_from_place(&self) -> bool {
        self.environment_from.as_ref().is_some_and(|from| {
            [&self.project_column, &self.cluster_column]
                .into_iter()
                .flatten()
                .any(|column| column == from)
        })
    }

    /// Whether the environment of each row has a name that grants for one environment are compared with.
    pub fn names_environment(&self) -> bool {
        self.environment_column.is_some() || self.environment_from_place()
    }

    /// The columns that set_audit() named.
    pub fn audit_columns(&self) -> impl Iterator<Item = &String> {
        self.audit_exclude.iter().chain(&self.audit_mask)
    }

    pub fn actions(&self) -> impl Iterator<Item = &str> {
        [&self.select, &self.insert, &self.update, &self.delete]
            .into_iter()
            .chain(self.columns.values())
            .map(String::as_str)
    }

    /// Alike but for what the table was before.
    pub fn same_protection(&self, other: &Options) -> bool {
        let plain = |o: &Options| Options {
            before: Before::default(),
            ..o.clone()
        };
        plain(self) == plain(other)
    }
}
