//! The project and cluster columns of a table, as the statements of protect() name them. No server in here.

use super::plan::Options;
use serde::{Deserialize, Serialize};

/// What an action's name ends in where it is enough to hold it in some project. No action is called so.
pub const IN_PROJECTS: &str = " in projects";

pub fn in_projects(action: &str) -> String {
    format!("{action}{IN_PROJECTS}")
}

/// A column as it was before protect().
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Before {
    pub not_null: bool,
    pub default: Option<String>,
    pub statistics: i32,
}

/// Quoted names.
#[derive(Clone, Debug)]
pub struct PlaceColumns {
    pub project: String,
    pub cluster: Option<String>,
}

pub fn policy_names() -> impl Iterator<Item = String> {
    ["select", "insert", "update", "delete"]
        .into_iter()
        .map(|command| format!("tenancy_{command}_project"))
}

impl PlaceColumns {
    /// The boundary for one command. `action`: a literal. What is written is held to its project by the row trigger, too. The
    /// policy for INSERT names the project column alone: it tells the guards which one that is.
    pub fn policy(&self, table: &str, command: &str, action: &str) -> String {
        let project = &self.project;
        // Where a table has no clusters, its project stands in their place.
        let cluster = self.cluster.as_ref().unwrap_or(project);
        let verb = command.to_uppercase();
        let clauses = match command {
            "insert" => format!(
                "WITH CHECK (tenancy.check_project(tableoid, {project}, {project}, {action}))"
            ),
            _ => format!("USING (tenancy.in_projects({project}, {cluster}, {action}))"),
        };
        let more = match command {
            "update" => format!(
                " WITH CHECK (tenancy.check_project(tableoid, {project}, {cluster}, {action}))"
            ),
            _ => String::new(),
        };
        format!(
            "CREATE POLICY tenancy_{command}_project ON {table} AS RESTRICTIVE FOR {verb} TO PUBLIC {clauses}{more}"
        )
    }

    /// The columns are filled from the context.
    pub fn fill(&self, table: &str) -> String {
        let project = &self.project;
        let mut changes = format!(
            "ALTER COLUMN {project} SET DEFAULT tenancy.current_project(), \
             ALTER COLUMN {project} SET NOT NULL, ALTER COLUMN {project} SET STATISTICS 1000"
        );
        if let Some(cluster) = &self.cluster {
            changes.push_str(&format!(
                ", ALTER COLUMN {cluster} SET DEFAULT tenancy.current_cluster()"
            ));
        }
        format!("ALTER TABLE ONLY {table} {changes}")
    }

    /// Defaults and statistics as they were.
    pub fn restore(&self, o: &Options) -> Vec<String> {
        let columns = [
            (Some(&self.project), &o.before.project),
            (self.cluster.as_ref(), &o.before.cluster),
        ];
        let mut changes = vec![];
        for (column, before) in columns {
            let (Some(column), Some(before)) = (column, before) else {
                continue;
            };
            changes.push(match &before.default {
                Some(expression) => format!("ALTER COLUMN {column} SET DEFAULT {expression}"),
                None => format!("ALTER COLUMN {column} DROP DEFAULT"),
            });
            changes.push(format!(
                "ALTER COLUMN {column} SET STATISTICS {}",
                before.statistics
            ));
        }
        changes
    }

    /// A partitioned table gives NOT NULL up together with its partitions.
    pub fn give_not_null_up(&self, table: &str, partitioned: bool) -> String {
        let only = if partitioned { "" } else { "ONLY " };
        format!(
            "ALTER TABLE {only}{table} ALTER COLUMN {} DROP NOT NULL",
            self.project
        )
    }
}
