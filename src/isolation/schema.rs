//! protect_schema(): every table of a schema that has the organization column, in one transaction. What it would do, what
//! it leaves and what stands in the way is worked out first, whole; then all of it is done, or nothing.

use super::exempt;
use super::facts::{self, Facts, column_exists, current_options, facts, require_owner};
use super::paths::{self, Graph};
use super::plan::{Before, Options};
use super::progress::Progress;
use super::protect::{Planned, apply, given_permissions, plan_tree};
use super::schema_columns::{self, Columns};
use super::survey::{Finding, Problem, Target, look};
use super::{tagged, tree};
use crate::pg::json::Document;
use crate::pg::query::{Arg, run};
use crate::pg::{self, fail};
use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::spi;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// One line of the answer.
struct Line {
    table: pg_sys::Oid,
    status: &'static str,
    finding: Option<String>,
    rows: Option<i64>,
    remedy: Option<String>,
}

impl Line {
    fn new(table: pg_sys::Oid, status: &'static str) -> Line {
        Line {
            table,
            status,
            finding: None,
            rows: None,
            remedy: None,
        }
    }

    fn because(mut self, finding: impl Into<String>, remedy: impl Into<String>) -> Line {
        self.finding = Some(finding.into());
        self.remedy = Some(remedy.into());
        self
    }
}

/// Protects every table of a schema that has the organization column, all of them or none, and says of each table what
/// was done or why it was left (spec 5).
///
/// `schema_name`: the schema. `org_column`, `permissions`, `audit`: as for protect(), for each of its tables; tables that
/// need others, an environment_from or a resource type are protected one by one before. `environment_column`,
/// `project_column`, `cluster_column`: as for protect(), for the tables that have such a column, which the answer tells
/// (under finding); a cluster column counts where there is a project column. `dry_run`: changes nothing, locks nobody out, and also tells what would
/// keep the real run from being done. The answer has one line per table and finding:
/// status `ready` (dry run) or `protected`; `already protected`; `exempt` (see exempt()); `left` (no organization column,
/// no way to one); `needs org column` (a foreign key leads to an organization: add_org_column()); and what makes the real
/// run an error: `broken` (rows without organization or project, references that cross organizations, with their number) and `cannot`
/// (the table cannot be protected, the finding says why). `warning`: rows of organizations that do not exist.
/// For the DBA, and for a role that owns the tables. Errors: 3F000 no such schema, 42809 the system's or ours, 55000 something is broken or cannot be
/// (nothing was changed), 22023 unknown action or key, or a cluster column alone, 42703 no table has such a column, 42501 no
/// right to the schema.
#[pg_extern(sql = r#"
CREATE FUNCTION protect_schema(
    schema_name text, org_column text DEFAULT 'org_id', permissions jsonb DEFAULT '{}', audit boolean DEFAULT true,
    dry_run boolean DEFAULT false, environment_column text DEFAULT NULL,
    project_column text DEFAULT NULL, cluster_column text DEFAULT NULL)
RETURNS TABLE (table_name regclass, status text, finding text, rows bigint, remedy text)
VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
#[allow(
    clippy::type_complexity,
    clippy::too_many_arguments,
    reason = "the arguments and columns of a SQL table function"
)]
fn protect_schema(
    schema_name: Option<&str>,
    org_column: Option<&str>,
    permissions: Option<Document>,
    audit: Option<bool>,
    dry_run: Option<bool>,
    environment_column: Option<&str>,
    project_column: Option<&str>,
    cluster_column: Option<&str>,
) -> pg::Result<
    TableIterator<
        'static,
        (
            name!(table_name, pg_sys::Oid),
            name!(status, String),
            name!(finding, Option<String>),
            name!(rows, Option<i64>),
            name!(remedy, Option<String>),
        ),
    >,
> {
    let schema = pg::given(schema_name, "schema_name")?;
    let org_column = pg::given(org_column, "org_column")?;
    let permissions = given_permissions(pg::given(permissions, "permissions")?)?;
    let audit = pg::given(audit, "audit")?;
    let dry_run = pg::given(dry_run, "dry_run")?;
    crate::context::no_ai("change the protection of tables")?;
    let options = Options::new(org_column, permissions, audit, Before::default());
    options.require_known_actions()?;
    let columns = Columns {
        environment: environment_column,
        project: project_column,
        cluster: cluster_column,
    };
    let lines = work(schema, &options, &columns, dry_run)?;
    Ok(TableIterator::new(lines.into_iter().map(|line| {
        (
            line.table,
            line.status.to_string(),
            line.finding,
            line.rows,
            line.remedy,
        )
    })))
}

fn work(
    schema: &str,
    options: &Options,
    columns: &Columns,
    dry_run: bool,
) -> pg::Result<Vec<Line>> {
    let exemptions = exempt::all();
    let mut progress = Progress::new("protect_schema");
    let mut lines = vec![];
    let mut trees: Vec<Vec<Facts>> = vec![];
    let mut without_column = vec![];
    for relid in tables(schema)? {
        let table = facts(relid)?;
        if let Some(reason) = exemptions.get(&u32::from(relid)) {
            lines.push(Line {
                finding: Some(reason.clone()),
                ..Line::new(relid, "exempt")
            });
        } else if !column_exists(&table, &options.org_column) && current_options(relid).is_none() {
            without_column.push(relid);
        } else {
            match members(&table, dry_run) {
                Ok(tree) => trees.push(tree),
                Err(problem) => lines.push(cannot(relid, &problem)),
            }
        }
    }
    columns.require(trees.iter().map(|tree| &tree[0]))?;
    let mut planned: Vec<Planned> = vec![];
    for tree in &trees {
        match plan_tree(tree, &columns.of(&tree[0], options)) {
            Ok(parts) if parts.is_empty() => {
                lines.push(Line::new(tree[0].relid, "already protected"));
            }
            Ok(parts) => planned.extend(parts),
            // It has protection of its own kind.
            Err(problem) if current_options(tree[0].relid).is_some() => {
                let line = Line::new(tree[0].relid, "already protected");
                lines.push(line.because(problem.message(), "Nothing, where it is meant so."));
            }
            Err(problem) => lines.push(cannot(tree[0].relid, &problem)),
        }
    }
    let targets: Vec<Target> = planned.iter().map(Planned::target).collect();
    let all = targets.len();
    let findings = look(&targets, || progress.step("tables looked through", all))?;
    let mut stands_in_the_way = describe(&findings, &trees, &mut lines)?;
    for (table, problem) in schema_columns::survey(&planned) {
        let root = trees.iter().find(|tree| holds(tree, table.relid));
        let root = root.map_or(table.relid, |tree| tree[0].relid);
        stands_in_the_way.insert(u32::from(root));
        let line = Line::new(root, "broken");
        lines.push(line.because(problem.message(), problem.hint().unwrap_or_default()));
    }
    explain_missing(
        &without_column,
        &planned,
        &exemptions,
        &options.org_column,
        &mut lines,
    )?;

    if !dry_run {
        options.hold_actions()?;
        let cannot: Vec<&Line> = lines
            .iter()
            .filter(|line| matches!(line.status, "broken" | "cannot"))
            .collect();
        if !cannot.is_empty() {
            return Err(refusal(schema, &cannot));
        }
        tagged::tell_of_unknown_tags(&planned);
        for one in &planned {
            apply(one);
            progress.step("tables protected", planned.len());
        }
    }
    let done = if dry_run { "ready" } else { "protected" };
    lines.extend(
        trees
            .iter()
            .map(|tree| &tree[0])
            .filter(|root| !stands_in_the_way.contains(&u32::from(root.relid)))
            .filter(|root| lines_lack(&lines, root.relid))
            .map(|root| Line {
                finding: columns.told(&columns.of(root, options)),
                ..Line::new(root.relid, done)
            })
            .collect::<Vec<_>>(),
    );
    sort(&mut lines);
    Ok(lines)
}

fn holds(tree: &[Facts], relid: pg_sys::Oid) -> bool {
    tree.iter().any(|table| table.relid == relid)
}

fn lines_lack(lines: &[Line], table: pg_sys::Oid) -> bool {
    lines
        .iter()
        .all(|line| line.table != table || line.status == "warning")
}

fn sort(lines: &mut [Line]) {
    let names: HashMap<u32, String> = lines
        .iter()
        .map(|line| (u32::from(line.table), name_of(line.table)))
        .collect();
    lines.sort_by(|a, b| names[&u32::from(a.table)].cmp(&names[&u32::from(b.table)]));
}

fn name_of(relid: pg_sys::Oid) -> String {
    facts(relid).map(|f| f.quoted()).unwrap_or_default()
}

/// The tables of a schema that stand by themselves: no partitions and children, which go with the table above, none of
/// an extension.
fn tables(schema: &str) -> pg::Result<Vec<pg_sys::Oid>> {
    if run(
        "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name
           AND pg_catalog.length($1) OPERATOR(pg_catalog.<) 64",
        &[Arg::Name(schema)],
        |_| (),
    )
    .is_empty()
    {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_INVALID_SCHEMA_NAME,
            format!("schema \"{schema}\" does not exist"),
        )
        .set_detail("The name is taken as it is, without quotes and in its own letter case.")
        .set_hint("\\dn lists the schemas."));
    }
    if matches!(
        schema,
        "tenancy" | "tenancy_audit" | "pg_catalog" | "information_schema" | "pg_toast"
    ) {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("schema \"{schema}\" holds no tables of an application"),
        )
        .set_detail("It belongs to the system or to the extension.")
        .set_hint("Name a schema of your own."));
    }
    Ok(run(
        "SELECT c.oid FROM pg_catalog.pg_class AS c
              JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name
           AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p', 'f']::pg_catalog.\"char\"[])
           AND c.relpersistence OPERATOR(pg_catalog.<>) 't'
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits AS i WHERE i.inhrelid OPERATOR(pg_catalog.=) c.oid)
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                           WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
                             AND d.objid OPERATOR(pg_catalog.=) c.oid AND d.deptype OPERATOR(pg_catalog.=) 'e')
         ORDER BY c.oid",
        &[Arg::Name(schema)],
        |row| row.get::<pg_sys::Oid>(1),
    )
    .into_iter()
    .flatten()
    .collect())
}

/// The table and what is below it; locked where it is meant.
fn members(table: &Facts, dry_run: bool) -> pg::Result<Vec<Facts>> {
    require_owner(table)?;
    facts::require_kind(table)?;
    if !dry_run {
        return tree::locked(table.relid);
    }
    tree::unlocked(table.relid)
}

fn cannot(table: pg_sys::Oid, problem: &ErrorReport) -> Line {
    Line::new(table, "cannot").because(problem.message(), problem.hint().unwrap_or_default())
}

/// The rows that break a rule, by the table that was named (a partition's are its partitioned table's); answers which
/// tables have such.
fn describe(
    findings: &[Finding],
    trees: &[Vec<Facts>],
    lines: &mut Vec<Line>,
) -> pg::Result<BTreeSet<u32>> {
    let root_of: HashMap<u32, pg_sys::Oid> = trees
        .iter()
        .flat_map(|tree| {
            let root = tree[0].relid;
            tree.iter().map(move |t| (u32::from(t.relid), root))
        })
        .collect();
    let mut sums: BTreeMap<(u32, &'static str, String, &'static str), u64> = BTreeMap::new();
    for finding in findings {
        let root = root_of
            .get(&u32::from(finding.table))
            .copied()
            .unwrap_or(finding.table);
        let (status, what, remedy) = match &finding.problem {
            Problem::Homeless => (
                "broken",
                "rows without an organization".to_string(),
                "Fill the organization column in these rows, or delete them.",
            ),
            Problem::Unknown => (
                "warning",
                "rows of organizations that do not exist".to_string(),
                "Nobody will see them until tenancy.orgs has these organizations.",
            ),
            Problem::Crossing { constraint, parent } => (
                "broken",
                format!(
                    "references to another organization's rows in {} (foreign key \"{constraint}\")",
                    name_of(*parent)
                ),
                "Correct these references.",
            ),
        };
        *sums
            .entry((u32::from(root), status, what, remedy))
            .or_default() += finding.rows;
    }
    let mut in_the_way = BTreeSet::new();
    for ((root, status, what, remedy), rows) in sums {
        if status == "broken" {
            in_the_way.insert(root);
        }
        let mut line = Line::new(pg_sys::Oid::from(root), status).because(what, remedy);
        line.rows = Some(rows as i64);
        lines.push(line);
    }
    Ok(in_the_way)
}

/// Why tables without the column are left: nothing leads from them to an organization, or something does.
fn explain_missing(
    tables: &[pg_sys::Oid],
    planned: &[Planned],
    exemptions: &BTreeMap<u32, String>,
    org_column: &str,
    lines: &mut Vec<Line>,
) -> pg::Result<()> {
    if tables.is_empty() {
        return Ok(());
    }
    let protected: BTreeSet<u32> = tree::protected()
        .into_iter()
        .chain(planned.iter().map(|p| p.table.relid))
        .map(u32::from)
        .collect();
    let graph: Graph = paths::graph();
    let arguments = |relid: pg_sys::Oid| {
        let table = spi::quote_literal(name_of(relid));
        match org_column {
            "org_id" => table,
            other => format!("{table}, org_column => {}", spi::quote_literal(other)),
        }
    };
    for relid in tables {
        let found = graph.paths(u32::from(*relid), &|t| protected.contains(&t), &|t| {
            exemptions.contains_key(&t)
        });
        lines.push(match found.as_slice() {
            [] => Line {
                finding: Some(format!(
                    "no column \"{org_column}\", and no foreign key leads to an organization"
                )),
                ..Line::new(*relid, "left")
            },
            [one] => Line::new(*relid, "needs org column").because(
                format!(
                    "no column \"{org_column}\", but foreign keys lead to {}",
                    name_of(pg_sys::Oid::from(one.last().expect("a step").parent))
                ),
                format!("CALL tenancy.add_org_column({})", arguments(*relid)),
            ),
            many => Line::new(*relid, "needs org column").because(
                format!(
                    "no column \"{org_column}\", but foreign keys lead to an organization on {} ways",
                    many.len()
                ),
                format!(
                    "CALL tenancy.add_org_column({}, path => ...)",
                    arguments(*relid)
                ),
            ),
        });
    }
    Ok(())
}

fn refusal(schema: &str, lines: &[&Line]) -> ErrorReport {
    let mut told: Vec<String> = lines
        .iter()
        .take(10)
        .map(|line| {
            let rows = line.rows.map(|n| format!("{n} ")).unwrap_or_default();
            let finding = line.finding.as_deref().unwrap_or_default();
            format!("{}: {rows}{finding}", name_of(line.table))
        })
        .collect();
    if lines.len() > told.len() {
        told.push(format!("and {} more", lines.len() - told.len()));
    }
    fail(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("schema \"{schema}\" cannot be protected as it is"),
    )
    .set_detail(format!("{}. Nothing was changed.", told.join("; ")))
    .set_hint(
        "SELECT * FROM tenancy.protect_schema(..., dry_run => true) lists everything. A table that is to stay open: tenancy.exempt(table, reason).",
    )
}
