//! A table as protect() finds it: the catalog's facts, and whether it is one that can be protected at all.

use super::plan::{Before, Options};
use super::table;
use crate::context;
use crate::pg::key::KeyType;
use crate::pg::query::{Arg, run};
use crate::pg::{self, catalog, fail, identity};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::spi;

/// The table as the catalog describes it.
pub struct Facts {
    pub relid: pg_sys::Oid,
    pub schema: String,
    pub name: String,
    pub kind: String,
    pub owner: pg_sys::Oid,
    pub partition: bool,
    pub persistence: String,
    pub row_security: bool,
    pub force: bool,
}

impl Facts {
    pub fn quoted(&self) -> String {
        spi::quote_qualified_identifier(&self.schema, &self.name)
    }

    pub fn is_partitioned(&self) -> bool {
        self.kind == "p"
    }
}

pub fn facts(relid: pg_sys::Oid) -> pg::Result<Facts> {
    run(
        "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, c.relkind::pg_catalog.text, c.relowner,
                c.relispartition,
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
                persistence: text(6),
                row_security: flag(7),
                force: flag(8),
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
pub fn locked(relid: pg_sys::Oid) -> pg::Result<Facts> {
    catalog::lock_exclusively(relid);
    let table = facts(relid)?;
    require_owner(&table)?;
    Ok(table)
}

/// For owners of the table and for the DBA; the extension's own and the system's tables are nobody's to change here.
pub fn require_owner(table: &Facts) -> pg::Result<()> {
    context::no_ai("change the protection of tables")?;
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
    .set_detail("Row security and triggers of pg_tenancy go on ordinary and partitioned tables.")
    .set_hint(hint)
}

/// A table that can hold organizations' rows: plain, partitioned, a partition, part of an inheritance tree.
pub fn require_kind(table: &Facts) -> pg::Result<()> {
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
        "r" if table.persistence == "t" => Err(wrong_kind(
            table,
            "a temporary table",
            "A temporary table is its session's own.",
        )),
        "r" | "p" => Ok(()),
        _ => Err(wrong_kind(
            table,
            "not a table",
            "Pass the name of a table.",
        )),
    }
}

/// The organization column as it is now.
pub struct OrgColumn {
    pub attnum: i16,
    pub kind: KeyType,
    pub quoted: String,
    pub before: Before,
    pub indexed: bool,
    /// The default is one that protection gives, such as a new partition takes over from its parent.
    pub default_is_ours: bool,
}

pub fn org_column(table: &Facts, name: &str) -> pg::Result<OrgColumn> {
    let mut found = run(
        "SELECT a.atttypid, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated::pg_catalog.text,
                pg_catalog.pg_get_expr(d.adbin, d.adrelid), a.attstattarget::pg_catalog.int4,
                EXISTS (SELECT FROM pg_catalog.pg_index AS i
                        WHERE i.indrelid OPERATOR(pg_catalog.=) a.attrelid AND i.indisvalid AND i.indpred IS NULL
                          AND i.indkey[0] OPERATOR(pg_catalog.=) a.attnum
                          AND i.indcollation[0] OPERATOR(pg_catalog.=) a.attcollation),
                a.attidentity::pg_catalog.text,
                (SELECT NOT c.collisdeterministic FROM pg_catalog.pg_collation AS c
                 WHERE c.oid OPERATOR(pg_catalog.=) a.attcollation)
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
                row.get::<String>(8).unwrap_or_default(),
                row.get::<bool>(9).unwrap_or_default(),
            )
        },
    )
    .pop();
    // A name longer than PostgreSQL keeps would match a column by its first 63 bytes.
    if !column_exists(table, name) {
        found = None;
    }
    let Some((
        type_id,
        type_name,
        not_null,
        generated,
        default,
        statistics,
        indexed,
        identity,
        lax,
    )) = found
    else {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            format!("column \"{name}\" of table \"{}\" does not exist", table.name),
        )
        .set_detail("A protected table says in a column of its own which organization each row belongs to.")
        .set_hint("Name the column with org_column => '...', or add one: CALL tenancy.add_org_column('...') where a foreign key leads to a protected table, else ALTER TABLE ... ADD COLUMN org_id uuid."));
    };
    let Some(kind) = KeyType::of(type_id) else {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
            format!(
                "column \"{name}\" of table \"{}\" is of type {type_name}, which holds no organization's key",
                table.name
            ),
        )
        .set_detail("It holds the organization's id (uuid), or its external key (text, varchar, integer or bigint).")
        .set_hint("Change the column's type to one of these."));
    };
    if !generated.is_empty() || !identity.is_empty() {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
            format!("column \"{name}\" of table \"{}\" is generated", table.name),
        )
        .set_detail("The organization of a row comes from the context.")
        .set_hint("Use an ordinary column: ALTER TABLE ... ALTER COLUMN ... DROP EXPRESSION, or DROP IDENTITY."));
    }
    if lax {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!(
                "column \"{name}\" of table \"{}\" has a nondeterministic collation",
                table.name
            ),
        )
        .set_detail(
            "Keys of two organizations that differ in letter case or accents could be equal to it.",
        )
        .set_hint("ALTER TABLE ... ALTER COLUMN ... TYPE ... COLLATE \"C\"."));
    }
    let default_is_ours = default
        .as_deref()
        .is_some_and(|d| d.starts_with("tenancy.current_org"));
    Ok(OrgColumn {
        attnum: number_of(&table::columns_of(table.relid), name),
        kind,
        quoted: spi::quote_identifier(name),
        indexed,
        default_is_ours,
        before: Before {
            row_security: table.row_security,
            force: table.force,
            not_null,
            default: default.filter(|_| !default_is_ours),
            statistics,
            index: None,
            ..Before::default()
        },
    })
}

/// The record of protection: the argument of the row trigger or, on a partitioned table, which stores no rows and has
/// none, of the statement trigger.
pub fn current_options(relid: pg_sys::Oid) -> Option<Options> {
    let house = catalog::house();
    run(
        "SELECT tgargs FROM pg_catalog.pg_trigger
         WHERE tgrelid OPERATOR(pg_catalog.=) $1 AND tgnargs OPERATOR(pg_catalog.>) 0::pg_catalog.int2
           AND (tgfoid OPERATOR(pg_catalog.=) $2 OR tgfoid OPERATOR(pg_catalog.=) $3)",
        &[
            Arg::Oid(relid),
            Arg::Oid(house.guard_row),
            Arg::Oid(house.guard_statement),
        ],
        |row| row.get::<Vec<u8>>(1).unwrap_or_default(),
    )
    .pop()
    .map(|bytes| {
        Options::parse(&String::from_utf8_lossy(
            bytes.strip_suffix(&[0]).unwrap_or(&bytes),
        ))
    })
}

pub fn column_exists(table: &Facts, column: &str) -> bool {
    table::columns_of(table.relid)
        .iter()
        .any(|(_, name)| name == column)
}

/// The error names the column; `detail` says where it stood.
pub fn require_column(table: &Facts, column: &str, detail: &str) -> pg::Result<()> {
    if column_exists(table, column) {
        return Ok(());
    }
    Err(fail(
        PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
        format!(
            "column \"{column}\" of table \"{}\" does not exist",
            table.name
        ),
    )
    .set_detail(detail)
    .set_hint("Name columns of the table only."))
}

pub fn number_of(columns: &[(i16, String)], name: &str) -> i16 {
    columns
        .iter()
        .find(|(_, n)| n == name)
        .map_or(0, |(attnum, _)| *attnum)
}
