//! protect() and unprotect(): the checks come first, all of them, and nothing is changed before they pass.

use super::drift;
use super::facts::{
    self, Facts, OrgColumn, column_exists, current_options, facts, locked, require_owner,
    require_plain_table,
};
use super::plan::{self, Options, Permissions, Quoted};
use super::survey::{check_references, check_rows};
use super::table;
use crate::access;
use crate::context::authority;
use crate::pg::query::{self, Arg, execute, run};
use crate::pg::{self, catalog, error, fail, identity};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{JsonB, spi};

fn permissions(given: JsonB) -> pg::Result<Permissions> {
    serde_json::from_value(given.0).map_err(|problem| {
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
/// write guard, foreign-key guard and audit.
///
/// `org_column`: a uuid column. `permissions`: the action needed to select, insert, update and delete (defaults
/// data:read and data:write) and, under columns, to change a column. `audit`: whether writes are logged. For the
/// table's owner and the DBA. Protecting a table again in the same way changes nothing.
/// Errors, before anything is changed: 42501 not the owner, 42809 not a plain table, 42703 no such column, 42804 not
/// uuid, 22023 unknown action or key, 23502 rows without organization, 23503 references that cross organizations,
/// 42710 protected already in another way.
#[pg_extern(sql = r#"
CREATE FUNCTION protect(
    table_name regclass, org_column text DEFAULT 'org_id', permissions jsonb DEFAULT '{}', audit boolean DEFAULT true)
RETURNS void VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn protect(
    table_name: Option<pg_sys::Oid>,
    org_column: Option<&str>,
    permissions: Option<JsonB>,
    audit: Option<bool>,
) -> pg::Result<()> {
    let relid = pg::given(table_name, "table_name")?;
    let org_column = pg::given(org_column, "org_column")?;
    let permissions = pg::given(permissions, "permissions")?;
    let audit = pg::given(audit, "audit")?;
    require_owner(&facts(relid)?)?;
    require_plain_table(&facts(relid)?)?;
    let permissions = self::permissions(permissions)?;
    let table = locked(relid)?;
    let column = facts::org_column(&table, org_column)?;
    let mut options = Options::new(org_column, permissions, audit, column.before.clone());
    let matrix = authority::matrix();
    for action in options.actions() {
        access::action(&matrix, action)?;
    }
    check_action_columns(&table, &options)?;
    if let Some(present) = current_options(relid) {
        return protected_already(&table, &present, &options);
    }
    check_rows(&table, column.attnum)?;
    check_references(&table, org_column)?;
    apply(&table, &column, &mut options);
    Ok(())
}

fn check_action_columns(table: &Facts, options: &Options) -> pg::Result<()> {
    for column in options.columns.keys() {
        if !column_exists(table, column) {
            return Err(fail(
                PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                format!(
                    "column \"{column}\" of table \"{}\" does not exist",
                    table.name
                ),
            )
            .set_detail("It is named under columns in permissions.")
            .set_hint("Name columns of the table only."));
        }
    }
    Ok(())
}

fn protected_already(table: &Facts, present: &Options, wanted: &Options) -> pg::Result<()> {
    if present.same_protection(wanted) {
        ErrorReport::new(
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            format!(
                "table \"{}\" is protected already, nothing changed",
                table.name
            ),
            "pg_tenancy",
        )
        .report(PgLogLevel::NOTICE);
        return Ok(());
    }
    Err(fail(
        PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
        format!("table \"{}\" is protected already, in another way", table.name),
    )
    .set_detail("tenancy.protected_tables shows how. Nothing was changed.")
    .set_hint("BEGIN; SELECT tenancy.unprotect(...); SELECT tenancy.protect(...); COMMIT changes it without a gap."))
}

/// Runs a statement of the plan. ALTER TABLE looks through the table's own checks, evaluating functions in them, so it
/// runs as the table's owner; the others need our triggers' EXECUTE.
fn change(table: &Facts, statement: &str) {
    drift::changing(table.relid, || {
        if statement.starts_with("ALTER TABLE") {
            identity::as_table_owner(table.owner, || query::execute_as_is(statement));
        } else {
            execute(statement, &[]);
        }
    });
}

fn apply(table: &Facts, column: &OrgColumn, options: &mut Options) {
    let name = table.quoted();
    let literal = |text: &str| spi::quote_literal(text);
    let quoted = Quoted {
        table: &name,
        org_column: &column.quoted,
        literal: &literal,
    };
    if !column.indexed {
        // Made first, so that its name can be remembered for unprotect().
        execute(&format!("CREATE INDEX ON {name} ({})", column.quoted), &[]);
        options.before.index = run(
            "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text
             FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid
                  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
             WHERE i.indrelid OPERATOR(pg_catalog.=) $1 ORDER BY c.oid DESC LIMIT 1",
            &[Arg::Oid(table.relid)],
            |row| {
                let text = |n| row.get::<String>(n).unwrap_or_default();
                spi::quote_qualified_identifier(text(1), text(2))
            },
        )
        .pop();
    }
    for statement in plan::protect(options, &quoted, false) {
        change(table, &statement);
    }
    error::server_log(
        "table protected",
        &format!("Table {name}, organization column {}.", column.quoted),
    );
}

/// Takes the protection of a table away: policies, triggers and the default go, and row security, NOT NULL and the
/// index return to what they were; the rows stay (spec 5). For the table's owner and the DBA.
/// Errors: 42501 not the owner, 42704 the table is not protected.
#[pg_extern(sql = r#"
CREATE FUNCTION unprotect(table_name regclass)
RETURNS void VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn unprotect(table_name: Option<pg_sys::Oid>) -> pg::Result<()> {
    let relid = pg::given(table_name, "table_name")?;
    require_owner(&facts(relid)?)?;
    let table = locked(relid)?;
    take_away(&table)
}

fn take_away(table: &Facts) -> pg::Result<()> {
    let Some(options) = current_options(table.relid) else {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("table \"{}\" is not protected", table.name),
        )
        .set_detail("It carries no trigger of pg_tenancy.")
        .set_hint("SELECT * FROM tenancy.protected_tables lists those that are."));
    };
    let name = table.quoted();
    let options = as_it_stands(table, options);
    let column = spi::quote_identifier(&options.org_column);
    let literal = |text: &str| spi::quote_literal(text);
    let quoted = Quoted {
        table: &name,
        org_column: &column,
        literal: &literal,
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
    .filter(|p| plan::policy_names().any(|ours| ours == *p))
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
    Ok(())
}

/// The record of protection with what happened to the table since: a renamed or dropped column, an index that now is
/// another table's.
fn as_it_stands(table: &Facts, mut options: Options) -> Options {
    options.org_column = table::org_column_of(table.relid)
        .and_then(|attnum| {
            run(
                "SELECT attname::pg_catalog.text FROM pg_catalog.pg_attribute
                 WHERE attrelid OPERATOR(pg_catalog.=) $1 AND attnum OPERATOR(pg_catalog.=) $2::pg_catalog.int8",
                &[Arg::Oid(table.relid), Arg::Oid(pg_sys::Oid::from(attnum as u32))],
                |row| row.get::<String>(1),
            )
            .pop()
            .flatten()
        })
        .or_else(|| column_exists(table, &options.org_column).then(|| options.org_column.clone()))
        .unwrap_or_default();
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
    let tables = run(
        "SELECT DISTINCT tgrelid FROM pg_catalog.pg_trigger WHERE tgfoid OPERATOR(pg_catalog.=) $1",
        &[Arg::Oid(catalog::house().guard_row)],
        |row| row.get::<pg_sys::Oid>(1),
    );
    for relid in tables.into_iter().flatten() {
        take_away(&locked(relid)?)?;
    }
    Ok(())
}
