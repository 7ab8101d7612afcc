//! New tables that ought to be protected: those with an organization column in a watched schema, and copies of a protected
//! table. A table cannot be protected by the command that makes it, so it has until the end of the transaction; with
//! `tenancy.on_drift = mend` it is protected at once.

use super::readers::protected_among;
use super::{Drift, is_marked, judge, name_of};
use crate::context;
use crate::isolation::facts::{Facts, column_exists, current_options, facts};
use crate::isolation::{exempt, protect};
use crate::pg::local::Backend;
use crate::pg::query::{Arg, execute, run};
use crate::pg::{self, error, fail, identity, transaction};
use pgrx::prelude::*;
use std::cell::RefCell;

/// A table that is to be protected before its transaction commits.
struct Due {
    table: pg_sys::Oid,
    why: String,
    level: i32,
}

static DUE: Backend<RefCell<Vec<Due>>> = Backend::new(RefCell::new(vec![]));

/// What the running CREATE TABLE is to be like.
static MODELS: Backend<RefCell<Vec<pg_sys::Oid>>> = Backend::new(RefCell::new(vec![]));

pub fn created_like(models: Vec<pg_sys::Oid>) {
    MODELS.set(models);
}

pub fn models() -> Vec<pg_sys::Oid> {
    MODELS.take()
}

/// The organization column that tables of a schema are expected to have, if the schema is watched.
fn watched(schema: &str) -> Option<String> {
    run(
        "SELECT org_column::pg_catalog.text FROM tenancy.watched_schemas WHERE schema OPERATOR(pg_catalog.=) $1::pg_catalog.name",
        &[Arg::Name(schema)],
        |row| row.get::<String>(1).unwrap_or_default(),
    )
    .pop()
}

/// The organization column of the first of these that is protected.
fn org_column_of_model(relid: pg_sys::Oid) -> Option<String> {
    current_options(relid).map(|o| o.org_column)
}

/// A table was made or changed: by CREATE TABLE (LIKE model), by CREATE TABLE AS reading `read`, or otherwise.
pub fn check(relid: pg_sys::Oid, model: &[pg_sys::Oid], read: &[pg_sys::Oid]) -> pg::Result<()> {
    let Ok(table) = facts(relid) else {
        return Ok(());
    };
    if !matches!(table.kind.as_str(), "r" | "p")
        || table.persistence == "t"
        || table.partition
        || is_marked(relid)
        || exempt::all().contains_key(&u32::from(relid))
        // add_org_column() prepares a table in steps.
        || protect::is_own_ddl()
    {
        return Ok(());
    }
    if let Some(source) = protected_among(read) {
        return copied(&table, source);
    }
    let like = protected_among(model).and_then(|m| Some((m, org_column_of_model(m)?)));
    let expected = watched(&table.schema);
    let is_expected = expected.is_some();
    let (column, why) = match (like, expected) {
        (_, Some(column)) => {
            let why = format!(
                "It has the organization column \"{column}\", and schema \"{}\" is watched.",
                table.schema
            );
            (column, why)
        }
        (Some((model, column)), None) => {
            let model = name_of(model).unwrap_or_default();
            (column, format!("It is like protected table {model}."))
        }
        _ => return Ok(()),
    };
    if !column_exists(&table, &column) {
        return Ok(());
    }
    if identity::break_glass() {
        error::server_log(
            "break-glass: a table is left unprotected",
            &format!("{}. {why}", table.quoted()),
        );
        return Ok(());
    }
    if context::settings::ON_DRIFT.get() == context::settings::OnDrift::Mend {
        return judge(unprotected(&table, &why, Some(column)));
    }
    // It holds no row yet, and is how a partition is prepared that ATTACH will protect.
    if !is_expected {
        unprotected(&table, &why, None)
            .report(PgSqlErrorCode::ERRCODE_WARNING)
            .report(PgLogLevel::WARNING);
        return Ok(());
    }
    DUE.with_borrow_mut(|due| {
        if due.iter().all(|d| d.table != relid) {
            due.push(Due {
                table: relid,
                why,
                level: transaction::nest_level(),
            });
        }
    });
    Ok(())
}

fn unprotected<'a>(table: &Facts, why: &str, column: Option<String>) -> Drift<'a> {
    let (name, relid) = (table.quoted(), table.relid);
    Drift {
        message: format!("table {name} is not protected"),
        detail: why.to_string(),
        hint: format!(
            "In the transaction that creates it: SELECT tenancy.protect('{}'); or set tenancy.on_drift = mend, which does so.",
            name.replace('\'', "''")
        ),
        mend: column.map(|column| -> Box<dyn FnOnce() -> pg::Result<()>> {
            Box::new(move || {
                run(
                    "SELECT tenancy.protect($1::pg_catalog.regclass, $2)",
                    &[Arg::Oid(relid), Arg::Text(&column)],
                    |_| (),
                );
                Ok(())
            })
        }),
    }
}

/// CREATE TABLE AS and SELECT INTO: the rows are there already, so there is no waiting for the end.
fn copied(table: &Facts, source: pg_sys::Oid) -> pg::Result<()> {
    let column = org_column_of_model(source).filter(|column| column_exists(table, column));
    let mut drift = unprotected(
        table,
        &format!(
            "It holds rows that were read from protected table {}.",
            name_of(source).unwrap_or_default()
        ),
        column,
    );
    drift.hint =
        "Create and protect the table first, then INSERT ... SELECT; or use a temporary table."
            .into();
    judge(drift)
}

/// At the end of a transaction: what was due and is not done.
pub fn before_commit() -> pg::Result<()> {
    let due = DUE.take();
    if due.is_empty() {
        return Ok(());
    }
    transaction::with_snapshot(|| {
        for due in due {
            if is_marked(due.table) || exempt::all().contains_key(&u32::from(due.table)) {
                continue;
            }
            if let Ok(table) = facts(due.table) {
                judge(unprotected(&table, &due.why, None))?;
            }
        }
        Ok(())
    })
}

pub fn forget() {
    DUE.take();
    super::readers::abandon(0);
}

pub fn at_subtransaction_abort(level: i32) {
    DUE.with_borrow_mut(|due| due.retain(|d| d.level < level));
    super::readers::abandon(level);
}

pub fn at_subtransaction_commit(level: i32) {
    DUE.with_borrow_mut(|due| {
        for d in due {
            d.level = d.level.min(level - 1);
        }
    });
}

fn require_right(schema: &str) -> pg::Result<()> {
    context::no_ai("say which schemas are watched")?;
    let owner = run(
        "SELECT nspowner FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name
           AND nspname::pg_catalog.text OPERATOR(pg_catalog.=) $1",
        &[Arg::Name(schema)],
        |row| row.get::<pg_sys::Oid>(1),
    )
    .pop()
    .flatten();
    let Some(owner) = owner else {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_INVALID_SCHEMA_NAME,
            format!("schema \"{schema}\" does not exist"),
        )
        .set_detail("Tables are watched by the schema they are in.")
        .set_hint("Name a schema of your tables."));
    };
    if context::is_administrator()
        || identity::both(|role| identity::has_privileges_of(role, owner))
    {
        return Ok(());
    }
    Err(fail(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("must be owner of schema {schema}"),
    )
    .set_detail("Watching a schema decides which tables can be made in it.")
    .set_hint("Ask the schema's owner or a DBA."))
}

/// Watches a schema (spec 5.7): a table made or changed there that has the organization column must be protected before
/// its transaction commits, or is protected at once where tenancy.on_drift is mend. Tables that are there already are
/// left as they are. For the schema's owner and the DBA. Errors: 3F000 no such schema, 42501 not its owner.
#[pg_extern(sql = r#"
CREATE FUNCTION watch_schema(schema_name text, org_column text DEFAULT 'org_id')
RETURNS void VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn watch_schema(schema_name: Option<&str>, org_column: Option<&str>) -> pg::Result<()> {
    let schema = pg::given(schema_name, "schema_name")?;
    let org_column = pg::given(org_column, "org_column")?;
    require_right(schema)?;
    execute(
        "INSERT INTO tenancy.watched_schemas AS w (schema, org_column) VALUES ($1, $2)
         ON CONFLICT (schema) DO UPDATE SET org_column = excluded.org_column",
        &[Arg::Name(schema), Arg::Name(org_column)],
    );
    error::server_log(
        "schema watched",
        &format!("Schema \"{schema}\", organization column \"{org_column}\"."),
    );
    Ok(())
}

/// Undoes watch_schema() (spec 5.7). For the schema's owner and the DBA. Errors: 3F000 no such schema, 42501 not its
/// owner, 42704 not watched.
#[pg_extern(volatile, parallel_unsafe)]
fn unwatch_schema(schema_name: Option<&str>) -> pg::Result<()> {
    let schema = pg::given(schema_name, "schema_name")?;
    require_right(schema)?;
    let gone = execute(
        "DELETE FROM tenancy.watched_schemas WHERE schema OPERATOR(pg_catalog.=) $1::pg_catalog.name",
        &[Arg::Name(schema)],
    );
    if gone == 0 {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("schema \"{schema}\" is not watched"),
        )
        .set_detail("Nothing was changed.")
        .set_hint("SELECT * FROM tenancy.watched_schemas lists those that are."));
    }
    error::server_log("schema no longer watched", &format!("Schema \"{schema}\"."));
    Ok(())
}
