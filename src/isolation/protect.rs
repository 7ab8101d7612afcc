//! protect() and unprotect(): the checks come first, all of them, and nothing is changed before they pass.

use super::plan::{self, Before, Options, Permissions, Quoted};
use super::table::{self, GuardedKey};
use crate::access;
use crate::context::{self, authority};
use crate::pg::probe;
use crate::pg::query::{self, Arg, execute, run};
use crate::pg::scan;
use crate::pg::value::Value;
use crate::pg::{self, catalog, error, fail, identity};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{JsonB, spi};
use std::collections::HashMap;

/// The table as the catalog describes it.
struct Facts {
    relid: pg_sys::Oid,
    schema: String,
    name: String,
    kind: String,
    owner: pg_sys::Oid,
    partition: bool,
    inherits: bool,
    persistence: String,
    row_security: bool,
    force: bool,
}

impl Facts {
    fn quoted(&self) -> String {
        spi::quote_qualified_identifier(&self.schema, &self.name)
    }
}

fn facts(relid: pg_sys::Oid) -> pg::Result<Facts> {
    run(
        "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, c.relkind::pg_catalog.text, c.relowner,
                c.relispartition, EXISTS (SELECT FROM pg_catalog.pg_inherits AS i
                  WHERE i.inhrelid OPERATOR(pg_catalog.=) c.oid OR i.inhparent OPERATOR(pg_catalog.=) c.oid),
                c.relpersistence::pg_catalog.text, c.relrowsecurity, c.relforcerowsecurity
         FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE c.oid OPERATOR(pg_catalog.=) $1",
        &[Arg::Oid(relid)],
        |row| {
            let text = |n| row.get::<String>(n).unwrap_or_default();
            let flag = |n| row.get::<bool>(n).unwrap_or_default();
            Facts {
                relid,
                schema: text(1),
                name: text(2),
                kind: text(3),
                owner: row.get(4).unwrap_or(pg_sys::InvalidOid),
                partition: flag(5),
                inherits: flag(6),
                persistence: text(7),
                row_security: flag(8),
                force: flag(9),
            }
        },
    )
    .pop()
    .ok_or_else(|| {
        fail(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, "there is no such table")
            .set_detail(format!("No table has the object id {}.", u32::from(relid)))
            .set_hint("Pass the table's name.")
    })
}

/// The table under ACCESS EXCLUSIVE, with the name and owner it has now; the checks are repeated, since all of that may
/// have changed while we waited.
fn locked(relid: pg_sys::Oid) -> pg::Result<Facts> {
    catalog::lock_exclusively(relid);
    let table = facts(relid)?;
    require_owner(&table)?;
    Ok(table)
}

/// For owners of the table and for the DBA; the extension's own and the system's tables are nobody's to change here.
fn require_owner(table: &Facts) -> pg::Result<()> {
    if context::is_administrator()
        || identity::both(|role| identity::has_privileges_of(role, table.owner))
    {
        return Ok(());
    }
    Err(fail(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("must be owner of table {}", table.name),
    )
    .set_detail("Protection changes the table's policies and triggers.")
    .set_hint("Ask the table's owner or a DBA."))
}

fn wrong_kind(table: &Facts, what: &str, hint: &str) -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
        format!("\"{}\" is {what}", table.name),
    )
    .set_detail("Row security and triggers of pg_tenancy go on ordinary tables.")
    .set_hint(hint)
}

fn require_plain_table(table: &Facts) -> pg::Result<()> {
    let ours = matches!(table.schema.as_str(), "tenancy" | "tenancy_audit");
    if ours
        || matches!(
            table.schema.as_str(),
            "pg_catalog" | "information_schema" | "pg_toast"
        )
    {
        return Err(wrong_kind(
            table,
            "not a table of an application",
            "Protect the tables that hold the organizations' rows.",
        ));
    }
    match table.kind.as_str() {
        "v" => Err(wrong_kind(
            table,
            "a view",
            "Protect the tables below it, and give the view security_invoker = true.",
        )),
        "m" => Err(wrong_kind(
            table,
            "a materialized view",
            "Protect the tables below it; a materialized view holds all organizations' rows.",
        )),
        "f" => Err(wrong_kind(
            table,
            "a foreign table",
            "Protect the table where it is stored.",
        )),
        "p" => Err(wrong_kind(
            table,
            "a partitioned table",
            "Partitioned tables are not supported by this version.",
        )),
        "r" if table.partition => Err(wrong_kind(
            table,
            "a partition",
            "Partitioned tables are not supported by this version.",
        )),
        "r" if table.inherits => Err(wrong_kind(
            table,
            "part of an inheritance tree",
            "Inherited tables are not supported by this version.",
        )),
        "r" if table.persistence == "t" => Err(wrong_kind(
            table,
            "a temporary table",
            "A temporary table is its session's own.",
        )),
        "r" => Ok(()),
        _ => Err(wrong_kind(
            table,
            "not a table",
            "Pass the name of a table.",
        )),
    }
}

/// The organization column as it is now.
struct OrgColumn {
    attnum: i16,
    quoted: String,
    before: Before,
    indexed: bool,
}

fn org_column(table: &Facts, name: &str) -> pg::Result<OrgColumn> {
    let mut found = run(
        "SELECT a.atttypid, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated::pg_catalog.text,
                pg_catalog.pg_get_expr(d.adbin, d.adrelid), a.attstattarget::pg_catalog.int4,
                EXISTS (SELECT FROM pg_catalog.pg_index AS i
                        WHERE i.indrelid OPERATOR(pg_catalog.=) a.attrelid AND i.indisvalid AND i.indpred IS NULL
                          AND i.indkey[0] OPERATOR(pg_catalog.=) a.attnum)
         FROM pg_catalog.pg_attribute AS a
              LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid OPERATOR(pg_catalog.=) a.attrelid
                                                  AND d.adnum OPERATOR(pg_catalog.=) a.attnum
         WHERE a.attrelid OPERATOR(pg_catalog.=) $1 AND a.attname OPERATOR(pg_catalog.=) $2::pg_catalog.name
           AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped",
        &[Arg::Oid(table.relid), Arg::Name(name)],
        |row| {
            (
                row.get::<pg_sys::Oid>(1).unwrap_or(pg_sys::InvalidOid),
                row.get::<String>(2).unwrap_or_default(),
                row.get::<bool>(3).unwrap_or_default(),
                row.get::<String>(4).unwrap_or_default(),
                row.get::<String>(5),
                row.get::<i32>(6).unwrap_or(-1),
                row.get::<bool>(7).unwrap_or_default(),
            )
        },
    )
    .pop();
    // A name longer than PostgreSQL keeps would match a column by its first 63 bytes.
    if !column_exists(table, name) {
        found = None;
    }
    let Some((type_id, type_name, not_null, generated, default, statistics, indexed)) = found
    else {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            format!("column \"{name}\" of table \"{}\" does not exist", table.name),
        )
        .set_detail("A protected table says in a column of its own which organization each row belongs to.")
        .set_hint("Name the column with org_column => '...', or add one: ALTER TABLE ... ADD COLUMN org_id uuid."));
    };
    if type_id != pg_sys::UUIDOID {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
            format!(
                "column \"{name}\" of table \"{}\" is of type {type_name}, not uuid",
                table.name
            ),
        )
        .set_detail("The column holds the organization's id.")
        .set_hint("This version protects organization columns of type uuid."));
    }
    if !generated.is_empty() {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
            format!("column \"{name}\" of table \"{}\" is generated", table.name),
        )
        .set_detail("The organization of a row comes from the context.")
        .set_hint("Use an ordinary uuid column."));
    }
    Ok(OrgColumn {
        attnum: number_of(&table::columns_of(table.relid), name),
        quoted: spi::quote_identifier(name),
        indexed,
        before: Before {
            row_security: table.row_security,
            force: table.force,
            not_null,
            default,
            statistics,
            index: None,
        },
    })
}

fn number_of(columns: &[(i16, String)], name: &str) -> i16 {
    columns
        .iter()
        .find(|(_, n)| n == name)
        .map_or(0, |(attnum, _)| *attnum)
}

/// Rows that would belong to nobody, or to an organization that does not exist.
///
/// Existing rows are read without a query, as the table's owner, restricted: planning one would evaluate what the owner
/// wrote into partial indexes and checks, with our rights.
fn check_rows(table: &Facts, org: i16) -> pg::Result<()> {
    let mut homeless = 0_u64;
    let mut rows_of: HashMap<[u8; 16], u64> = HashMap::new();
    identity::as_table_owner(table.owner, || {
        scan::for_each_row(table.relid, |row| match row.value(org).as_uuid() {
            Some(id) => *rows_of.entry(id).or_default() += 1,
            None => homeless += 1,
        });
    });
    if homeless > 0 {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_NOT_NULL_VIOLATION,
            format!("table \"{}\" has {homeless} rows without an organization", table.name),
        )
        .set_detail("Every row of a protected table belongs to exactly one organization. Nothing was changed.")
        .set_hint("Fill the organization column in these rows, or delete them, and protect the table again."));
    }
    for known in run("SELECT id FROM tenancy.orgs", &[], |row| row.uuid(1)) {
        rows_of.remove(&known.unwrap_or_default());
    }
    let unknown: u64 = rows_of.values().sum();
    if unknown > 0 {
        ErrorReport::new(
            PgSqlErrorCode::ERRCODE_WARNING,
            format!(
                "table \"{}\" has {unknown} rows of organizations that do not exist",
                table.name
            ),
            "pg_tenancy",
        )
        .set_detail("Nobody will see them until tenancy.orgs has these organizations.")
        .report(PgLogLevel::WARNING);
    }
    Ok(())
}

/// Existing references between protected tables that cross organizations, in both directions.
fn check_references(target: &Facts, org_name: &str) -> pg::Result<()> {
    let children = run(
        "SELECT DISTINCT c.conrelid FROM pg_catalog.pg_constraint AS c
              JOIN pg_catalog.pg_trigger AS t ON t.tgrelid OPERATOR(pg_catalog.=) c.conrelid
                                             AND t.tgfoid OPERATOR(pg_catalog.=) $2
         WHERE c.contype OPERATOR(pg_catalog.=) 'f' AND c.confrelid OPERATOR(pg_catalog.=) $1
           AND c.conrelid OPERATOR(pg_catalog.<>) $1",
        &[Arg::Oid(target.relid), Arg::Oid(catalog::house().guard_row)],
        |row| row.get::<pg_sys::Oid>(1),
    );
    let org_of = |relid: pg_sys::Oid| {
        if relid == target.relid {
            Some(number_of(&table::columns_of(relid), org_name))
        } else {
            current_options(relid).and(table::org_column_of(relid))
        }
    };
    for child in children.into_iter().flatten().chain([target.relid]) {
        let Some(child_org) = org_of(child) else {
            continue;
        };
        let keys: Vec<GuardedKey> = table::all_keys(child, &table::columns_of(child))
            .into_iter()
            .filter(|key| child == target.relid || key.probe.parent == target.relid)
            .filter_map(|mut key| {
                key.probe.org_attnum = org_of(key.probe.parent)?;
                Some(key)
            })
            .collect();
        check_keys(&facts(child)?, child_org, &keys)?;
    }
    Ok(())
}

fn check_keys(child: &Facts, child_org: i16, keys: &[GuardedKey]) -> pg::Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut crossing = vec![0_u64; keys.len()];
    identity::as_table_owner(child.owner, || {
        scan::for_each_row(child.relid, |row| {
            let Some(org) = row.value(child_org).as_uuid() else {
                return;
            };
            for (key, count) in keys.iter().zip(&mut crossing) {
                let values: Vec<Value> = key.columns.iter().map(|(i, _)| row.value(*i)).collect();
                if values.iter().all(|v| !v.null) && probe::is_foreign(&key.probe, &values, &org) {
                    *count += 1;
                }
            }
        });
    });
    for (key, count) in keys.iter().zip(crossing) {
        if count > 0 {
            return Err(fail(
                PgSqlErrorCode::ERRCODE_FOREIGN_KEY_VIOLATION,
                format!(
                    "{count} rows of {} refer to another organization's rows in {}",
                    child.quoted(),
                    facts(key.probe.parent)?.quoted()
                ),
            )
            .set_detail(format!(
                "Foreign key \"{}\". Nothing was changed.",
                key.name
            ))
            .set_hint("Correct these references, and protect the table again."));
        }
    }
    Ok(())
}

fn current_options(relid: pg_sys::Oid) -> Option<Options> {
    run(
        "SELECT tgargs FROM pg_catalog.pg_trigger
         WHERE tgrelid OPERATOR(pg_catalog.=) $1 AND tgfoid OPERATOR(pg_catalog.=) $2",
        &[Arg::Oid(relid), Arg::Oid(catalog::house().guard_row)],
        |row| row.get::<Vec<u8>>(1).unwrap_or_default(),
    )
    .pop()
    .map(|bytes| {
        Options::parse(&String::from_utf8_lossy(
            bytes.strip_suffix(&[0]).unwrap_or(&bytes),
        ))
    })
}

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
    let column = self::org_column(&table, org_column)?;
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
    if statement.starts_with("ALTER TABLE") {
        identity::as_table_owner(table.owner, || query::execute_as_is(statement));
    } else {
        execute(statement, &[]);
    }
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

fn column_exists(table: &Facts, column: &str) -> bool {
    table::columns_of(table.relid)
        .iter()
        .any(|(_, name)| name == column)
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
