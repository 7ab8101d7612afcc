//! protect() and unprotect(): the checks come first, all of them, and nothing is changed before they pass.

use super::drift;
use super::facts::{
    self, Facts, OrgColumn, column_exists, current_options, facts, require_column, require_kind,
    require_owner,
};
use super::plan::{self, Before, Options, Permissions, Quoted};
use super::resource;
use super::survey::{Target, survey};
use super::{exempt, place_setup, table, tagged, tree};
use crate::access;
use crate::context::authority;
use crate::pg::json::Document;
use crate::pg::key::{KeyColumn, KeyType};
use crate::pg::query::{self, Arg, execute, run};
use crate::pg::{self, error, fail, identity};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::spi;
use std::cell::Cell;

/// The `permissions` argument, read.
pub fn given_permissions(given: Document) -> pg::Result<Permissions> {
    serde_json::from_str(&given.0).map_err(|problem| {
        fail(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "permissions is not what protect() understands",
        )
        .set_detail(format!("{problem}."))
        .set_hint(r#"Such as '{"select": "server:read", "insert": "server:create", "columns": {"firewall_rules": "server:firewall"}}'."#)
    })
}

/// Makes every row of a table belong to one organization and keeps it that way (spec 5): forced row security with
/// policies on `org_if(action)`, the organization filled from the context, never changed and never NULL, an index,
/// write guard, foreign-key guard and audit. Partitions and inheritance children come along, on every level, and so do
/// those made or attached later.
///
/// `org_column`: a column that holds the organization's id (uuid), or its external key (text, varchar, integer, bigint).
/// `permissions`: the action needed to select, insert, update and delete (defaults
/// data:read and data:write) and, under columns, to change a column. `audit`: whether writes are logged.
/// `environment_column`: a column (text, varchar or an enum) with each row's environment; `environment_from`: in its place a
/// column of a foreign key to a protected table whose rows have one, or the project column or the cluster column, whose project or
/// cluster has it; a cluster without one has its project's (spec 7).
/// `resource_type`: what a row is to resource scopes (spec 3.8), such as server; the primary key names it, without the
/// organization column. `resource_parent`: a column with a foreign key to another table of resources, whose scope reaches
/// the rows here too. `project_column`, `cluster_column`: columns (uuid) with each row's project, which is then never empty,
/// and cluster (spec 9); without a value they are filled by the ones that the session narrows itself to. For the
/// table's owner and the DBA. Protecting a table again in the same way changes nothing, but partitions that lack
/// protection get it.
/// Errors, before anything is changed: 42501 not the owner, 42809 no table that can be protected, or one below an
/// unprotected parent, 42703 no such column, 42804 of another type, 0A000 a nondeterministic collation, 22023 unknown action or key, 23502 rows without
/// organization, 23503 references that cross organizations, 42804 an environment column of another type, 55000 no such
/// parent to have the environment from, 42710 protected already in another way, 22023 no key or parent by which a scope finds a row, 23502 rows
/// without a project, 23503 with one of another organization.
#[pg_extern(sql = r#"
CREATE FUNCTION protect(
    table_name regclass, org_column text DEFAULT 'org_id', permissions jsonb DEFAULT '{}', audit boolean DEFAULT true,
    environment_column text DEFAULT NULL, environment_from text DEFAULT NULL,
    resource_type text DEFAULT NULL, resource_parent text DEFAULT NULL,
    project_column text DEFAULT NULL, cluster_column text DEFAULT NULL)
RETURNS void VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
#[allow(clippy::too_many_arguments, reason = "the arguments of a SQL function")]
fn protect(
    table_name: Option<pg_sys::Oid>,
    org_column: Option<&str>,
    permissions: Option<Document>,
    audit: Option<bool>,
    environment_column: Option<&str>,
    environment_from: Option<&str>,
    resource_type: Option<&str>,
    resource_parent: Option<&str>,
    project_column: Option<&str>,
    cluster_column: Option<&str>,
) -> pg::Result<()> {
    let relid = pg::given(table_name, "table_name")?;
    let org_column = pg::given(org_column, "org_column")?;
    let permissions = pg::given(permissions, "permissions")?;
    let audit = pg::given(audit, "audit")?;
    require_owner(&facts(relid)?)?;
    require_kind(&facts(relid)?)?;
    let mut options = Options::new(
        org_column,
        given_permissions(permissions)?,
        audit,
        Before::default(),
    );
    options.project_column = project_column.map(str::to_string);
    options.cluster_column = cluster_column.map(str::to_string);
    options.environment_column = environment_column.map(str::to_string);
    options.environment_from = environment_from.map(str::to_string);
    let tree = tree::locked(relid)?;
    options.resource = resource::resolve(&tree[0], org_column, resource_type, resource_parent)?;
    let planned = plan_tree(&tree, &options)?;
    if planned.is_empty() {
        already(&tree[0]);
        return Ok(());
    }
    survey(&tree[0], &planned)?;
    options.hold_actions()?;
    tagged::tell_of_unknown_tags(&planned);
    for table in &planned {
        apply(table);
    }
    Ok(())
}

/// A table that is about to be protected, and how.
pub struct Planned<'a> {
    pub table: &'a Facts,
    pub column: OrgColumn,
    pub options: Options,
}

impl Options {
    pub fn require_known_actions(&self) -> pg::Result<()> {
        let matrix = authority::matrix();
        for action in self.actions() {
            access::action(&matrix, action)?;
        }
        Ok(())
    }

    /// The same, and nobody drops one of them before this transaction ends.
    pub fn hold_actions(&self) -> pg::Result<()> {
        self.actions().for_each(access::hold_action);
        self.require_known_actions()
    }
}

impl Planned<'_> {
    pub fn target(&self) -> Target<'_> {
        Target {
            table: self.table,
            org: KeyColumn {
                attnum: self.column.attnum,
                kind: self.column.kind,
            },
        }
    }
}

/// What is to be done to protect a tree, from the bottom up (a partitioned table's column becomes NOT NULL after those
/// of its partitions). The tables are locked. Everything but the rows is checked.
pub fn plan_tree<'a>(tree: &'a [Facts], wanted: &Options) -> pg::Result<Vec<Planned<'a>>> {
    tree::require_protectable(tree)?;
    // What set_audit() said of columns stays: protect() says nothing about it.
    let mut wanted = wanted.clone();
    if let Some(present) = current_options(tree[0].relid) {
        wanted.audit_exclude = present.audit_exclude;
        wanted.audit_mask = present.audit_mask;
    }
    let wanted = &wanted;
    wanted.require_known_actions()?;
    let mut planned = vec![];
    for table in tree.iter().rev() {
        let column = facts::org_column(table, &wanted.org_column)?;
        check_action_columns(table, wanted)?;
        place_setup::check(table, wanted)?;
        tagged::check(table, wanted)?;
        if let Some(present) = current_options(table.relid) {
            if !present.same_protection(wanted) {
                return Err(in_another_way(table));
            }
            continue;
        }
        let mut options = Options {
            before: column.before.clone(),
            ..wanted.clone()
        };
        options.before.project = place_setup::before(table, wanted.project_column.as_ref());
        options.before.cluster = place_setup::before(table, wanted.cluster_column.as_ref());
        planned.push(Planned {
            table,
            column,
            options,
        });
    }
    // What a new partition took over from its protected parent is not what it was before.
    for one in &mut planned {
        if let Some(above) = tree::inherited_options(one.table)? {
            if !above.same_protection(wanted) {
                return Err(in_another_way(one.table));
            }
            one.options.before.not_null = above.before.not_null;
            if one.column.default_is_ours {
                one.options.before.default = above.before.default;
            }
        }
    }
    Ok(planned)
}

fn check_action_columns(table: &Facts, options: &Options) -> pg::Result<()> {
    for column in options.columns.keys() {
        require_column(table, column, "It is named under columns in permissions.")?;
    }
    Ok(())
}

fn already(table: &Facts) {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        format!(
            "table \"{}\" is protected already, nothing changed",
            table.name
        ),
        "pg_tenancy",
    )
    .report(PgLogLevel::NOTICE);
}

fn in_another_way(table: &Facts) -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
        format!("table \"{}\" is protected already, in another way", table.name),
    )
    .set_detail("tenancy.protected_tables shows how. Nothing was changed.")
    .set_hint("BEGIN; SELECT tenancy.unprotect(...); SELECT tenancy.protect(...); COMMIT changes it without a gap.")
}

thread_local! {
    // Whether the DDL that runs now is this room's own.
    static OURS: Cell<bool> = const { Cell::new(false) };
}

/// Whether the DDL that an event trigger sees is what protect() or unprotect() runs.
pub fn is_own_ddl() -> bool {
    OURS.get()
}

pub fn with_own_ddl<T>(work: impl FnOnce() -> T) -> T {
    struct Over(bool);
    impl Drop for Over {
        fn drop(&mut self) {
            OURS.set(self.0);
        }
    }
    let _over = Over(OURS.replace(true));
    work()
}

/// Runs a statement of the plan. ALTER TABLE looks through the table's own checks, evaluating functions in them, so it
/// runs as the table's owner; the others need our triggers' EXECUTE.
pub fn change(table: &Facts, statement: &str) {
    // Giving NOT NULL up evaluates nothing, and reaches partitions whose owner may be another.
    let evaluates = statement.starts_with("ALTER TABLE") && !statement.ends_with("DROP NOT NULL");
    drift::changing(table.relid, || {
        if evaluates {
            identity::as_table_owner(table.owner, || query::execute_as_is(statement));
        } else {
            execute(statement, &[]);
        }
    });
}

/// Protects one table; its rows have been looked at.
pub fn apply(planned: &Planned) {
    let (table, column) = (planned.table, &planned.column);
    let mut options = planned.options.clone();
    let name = table.quoted();
    let literal = |text: &str| spi::quote_literal(text);
    let quoted = Quoted {
        table: &name,
        org_column: &column.quoted,
        kind: column.kind,
        literal: &literal,
        partitioned: table.is_partitioned(),
        scope: options.resource.as_ref().map(resource::Resource::arguments),
        place: place_setup::quoted(&options),
    };
    with_own_ddl(|| {
        // An index on a partitioned table would take those that its partitions have into its possession, and drop them
        // with itself. Each partition has its own.
        let (indexed, columns) = match &quoted.place {
            Some(place) => (
                place_setup::is_indexed(table, column.attnum, &options),
                format!("{}, {}", column.quoted, place.project),
            ),
            None => (column.indexed, column.quoted.clone()),
        };
        if !indexed && !quoted.partitioned {
            // Made first, so that its name can be remembered for unprotect().
            execute(&format!("CREATE INDEX ON {name} ({columns})"), &[]);
            options.before.index = newest_index(table.relid);
        }
        for statement in plan::protect(&options, &quoted, false) {
            change(table, &statement);
        }
    });
    exempt::lift(table);
    // Nothing was counted while it was not protected.
    crate::usage::quota_ddl::begin_anew(table.relid);
    error::server_log(
        "table protected",
        &format!("Table {name}, organization column {}.", column.quoted),
    );
}

fn newest_index(relid: pg_sys::Oid) -> Option<String> {
    run(
        "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text
         FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid
              JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE i.indrelid OPERATOR(pg_catalog.=) $1 ORDER BY c.oid DESC LIMIT 1",
        &[Arg::Oid(relid)],
        |row| {
            let text = |n| row.get::<String>(n).unwrap_or_default();
            spi::quote_qualified_identifier(text(1), text(2))
        },
    )
    .pop()
}

/// Takes the protection of a table and of everything below it away: policies, triggers and the default go, and row
/// security, NOT NULL and the index return to what they were; the rows stay (spec 5). For the table's owner and the DBA.
/// Errors: 42501 not the owner, 42704 the table is not protected, 42809 it is below a protected table, 2BP01 another
/// table's rows have their environment from it.
#[pg_extern(sql = r#"
CREATE FUNCTION unprotect(table_name regclass)
RETURNS void VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn unprotect(table_name: Option<pg_sys::Oid>) -> pg::Result<()> {
    let relid = pg::given(table_name, "table_name")?;
    require_owner(&facts(relid)?)?;
    let tree = tree::locked(relid)?;
    if current_options(relid).is_none() {
        return Err(not_protected(&tree[0]));
    }
    require_root(&tree[0])?;
    tagged::require_no_heirs(&tree)?;
    take_away_tree(&tree);
    Ok(())
}

/// What is protected as a part of another table is changed with it.
pub fn require_root(table: &Facts) -> pg::Result<()> {
    for parent in tree::parents(table.relid) {
        if current_options(parent).is_some() {
            let parent = facts(parent)?.quoted();
            return Err(fail(
                PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
                format!(
                    "table \"{}\" is protected as a part of {parent}",
                    table.name
                ),
            )
            .set_detail("Its rows are also those of the table above it.")
            .set_hint("Name the table above, or detach this one from it first."));
        }
    }
    Ok(())
}

pub fn not_protected(table: &Facts) -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        format!("table \"{}\" is not protected", table.name),
    )
    .set_detail("It carries no trigger of pg_tenancy.")
    .set_hint("SELECT * FROM tenancy.protected_tables lists those that are.")
}

fn take_away_tree(tree: &[Facts]) {
    let records: Vec<Option<Options>> = tree
        .iter()
        .map(|table| current_options(table.relid).map(|o| as_it_stands(table, o)))
        .collect();
    with_own_ddl(|| {
        for (table, options) in tree.iter().zip(&records) {
            if let Some(options) = options {
                take_away(table, options.clone());
            }
        }
        // A partitioned table gave NOT NULL up together with its partitions.
        for (table, options) in tree.iter().zip(&records).rev() {
            match options {
                Some(o) if o.before.not_null && table.partition && !o.org_column.is_empty() => {
                    let column = spi::quote_identifier(&o.org_column);
                    let name = table.quoted();
                    change(
                        table,
                        &format!("ALTER TABLE ONLY {name} ALTER COLUMN {column} SET NOT NULL"),
                    );
                }
                _ => {}
            }
        }
    });
}

fn take_away(table: &Facts, mut options: Options) {
    // A partition's NOT NULL goes, or stays, with the partitioned table's.
    options.before.not_null |= table.partition;
    let name = table.quoted();
    let column = spi::quote_identifier(&options.org_column);
    let literal = |text: &str| spi::quote_literal(text);
    let quoted = Quoted {
        table: &name,
        org_column: &column,
        kind: KeyType::default(),
        literal: &literal,
        partitioned: table.is_partitioned(),
        scope: None,
        place: place_setup::quoted(&options),
    };
    let present = |sql: &str| {
        run(sql, &[Arg::Oid(table.relid)], |row| {
            row.get::<String>(1).unwrap_or_default()
        })
    };
    let policies: Vec<String> = present(
        "SELECT polname::pg_catalog.text FROM pg_catalog.pg_policy WHERE polrelid OPERATOR(pg_catalog.=) $1",
    )
    .into_iter()
    .filter(|p| plan::all_policy_names().any(|ours| ours == *p))
    .collect();
    let triggers: Vec<String> = present(
        "SELECT tgname::pg_catalog.text FROM pg_catalog.pg_trigger
         WHERE tgrelid OPERATOR(pg_catalog.=) $1 AND NOT tgisinternal",
    )
    .into_iter()
    .filter(|t| plan::TRIGGERS.contains(&t.as_str()))
    .collect();
    for statement in plan::unprotect(&options, &quoted, &policies, &triggers) {
        change(table, &statement);
    }
    error::server_log("table unprotected", &format!("Table {name}."));
}

/// The record of protection with what happened to the table since: a renamed or dropped column, an index that now is
/// another table's.
pub fn as_it_stands(table: &Facts, mut options: Options) -> Options {
    options.org_column = table::org_column_of(table.relid)
        .and_then(|column| {
            run(
                "SELECT attname::pg_catalog.text FROM pg_catalog.pg_attribute
                 WHERE attrelid OPERATOR(pg_catalog.=) $1 AND attnum OPERATOR(pg_catalog.=) $2::pg_catalog.int8",
                &[Arg::Oid(table.relid), Arg::Oid(pg_sys::Oid::from(column.attnum as u32))],
                |row| row.get::<String>(1),
            )
            .pop()
            .flatten()
        })
        .or_else(|| column_exists(table, &options.org_column).then(|| options.org_column.clone()))
        .unwrap_or_default();
    place_setup::as_it_stands(table, &mut options);
    options.before.index = options.before.index.filter(|index| {
        !run(
            "SELECT 1 FROM pg_catalog.pg_index WHERE indrelid OPERATOR(pg_catalog.=) $1
               AND indexrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass($2)::pg_catalog.oid",
            &[Arg::Oid(table.relid), Arg::Text(index)],
            |_| (),
        )
        .is_empty()
    });
    options
}

/// All protected tables back to plain ones, for uninstall().
pub fn unprotect_everything() -> pg::Result<()> {
    for relid in tree::roots() {
        take_away_tree(&tree::locked(relid)?);
    }
    // One that was left protected below an unprotected table.
    for relid in tree::protected() {
        take_away_tree(&tree::locked(relid)?);
    }
    Ok(())
}
