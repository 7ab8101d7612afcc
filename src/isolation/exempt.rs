//! Tables that protect_schema() leaves alone because somebody said so, and why.

use super::facts::{Facts, current_options, facts, require_owner};
use super::tree;
use crate::context;
use crate::pg::event;
use crate::pg::query::{Arg, execute, run};
use crate::pg::{self, catalog, error, fail};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::collections::BTreeMap;

/// Says that a table is not to be protected, and why: lookup tables with an organization column, queues, archives. It
/// stands in `tenancy.exempt_tables`, is carried by dumps, follows the table when it is renamed and goes with it (spec
/// 5). Again for the same table: another reason. For the table's owner and the DBA.
/// Errors: 42501 not the owner, 22023 no reason, 42809 no table of its own, 55000 the table is protected.
#[pg_extern(sql = r#"
CREATE FUNCTION exempt(table_name regclass, reason text)
RETURNS void VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn exempt(table_name: Option<pg_sys::Oid>, reason: Option<&str>) -> pg::Result<()> {
    let relid = pg::given(table_name, "table_name")?;
    let reason = pg::given(reason, "reason")?.trim();
    let table = facts(relid)?;
    require_owner(&table)?;
    if reason.is_empty() {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "an exemption needs a reason",
        )
        .set_detail("Whoever reads tenancy.exempt_tables later must be able to judge it.")
        .set_hint("Such as reason => 'shared price list, no organization''s data'."));
    }
    if !matches!(table.kind.as_str(), "r" | "p" | "f") || !tree::parents(relid).is_empty() {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("\"{}\" is no table that stands by itself", table.name),
        )
        .set_detail("Views are as open as the tables below them; partitions and children go with the table above.")
        .set_hint("Name that table."));
    }
    if current_options(relid).is_some() {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table \"{}\" is protected", table.name),
        )
        .set_detail("A table is protected or exempt, not both.")
        .set_hint("SELECT tenancy.unprotect(...); first, if its rows are nobody's."));
    }
    execute(
        "INSERT INTO tenancy.exemptions (table_name, reason, exempted_by) VALUES ($1::pg_catalog.regclass, $2, $3)
         ON CONFLICT (table_name) DO UPDATE SET reason = EXCLUDED.reason, exempted_by = EXCLUDED.exempted_by,
             exempted_at = pg_catalog.now()",
        &[Arg::Oid(relid), Arg::Text(reason), Arg::Name(&context::login())],
    );
    error::server_log(
        "table exempted",
        &format!("Table {}: {reason}", table.quoted()),
    );
    Ok(())
}

/// Takes an exemption back (spec 5); the table is an unprotected one like any other then. For the table's owner and the DBA.
/// Errors: 42501 not the owner, 42704 not exempt.
#[pg_extern(sql = r#"
CREATE FUNCTION unexempt(table_name regclass)
RETURNS void VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn unexempt(table_name: Option<pg_sys::Oid>) -> pg::Result<()> {
    let relid = pg::given(table_name, "table_name")?;
    let table = facts(relid)?;
    require_owner(&table)?;
    if forget(relid) {
        error::server_log(
            "exemption taken back",
            &format!("Table {}.", table.quoted()),
        );
        return Ok(());
    }
    Err(fail(
        PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        format!("table \"{}\" is not exempt", table.name),
    )
    .set_detail("Nothing was changed.")
    .set_hint("SELECT * FROM tenancy.exempt_tables lists those that are."))
}

fn forget(relid: pg_sys::Oid) -> bool {
    execute(
        "DELETE FROM tenancy.exemptions WHERE table_name OPERATOR(pg_catalog.=) $1::pg_catalog.regclass",
        &[Arg::Oid(relid)],
    ) > 0
}

/// A table that is protected after all is exempt no more.
pub fn lift(table: &Facts) {
    if forget(table.relid) {
        ErrorReport::new(
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            format!("table \"{}\" was exempt and is protected now", table.name),
            "pg_tenancy",
        )
        .report(PgLogLevel::NOTICE);
    }
}

/// The exempt tables with their reasons.
pub fn all() -> BTreeMap<u32, String> {
    run(
        "SELECT table_name::pg_catalog.oid, reason FROM tenancy.exemptions",
        &[],
        |row| {
            let oid = row.get::<pg_sys::Oid>(1).map_or(0, u32::from);
            (oid, row.get(2).unwrap_or_default())
        },
    )
    .into_iter()
    .collect()
}

crate::pg::finfo!(pg_finfo_tenancy_after_drop);

/// The event trigger on dropped tables: their exemptions go too, or a later table could come by one with its number.
///
/// SAFETY: called by PostgreSQL's function manager.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_after_drop(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own.
    unsafe { event::require(fcinfo, "after_drop") };
    if catalog::find_house().is_some() {
        execute(
            "DELETE FROM tenancy.exemptions AS e USING pg_catalog.pg_event_trigger_dropped_objects() AS d
             WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
               AND d.objsubid OPERATOR(pg_catalog.=) 0 AND d.objid OPERATOR(pg_catalog.=) e.table_name::pg_catalog.oid",
            &[],
        );
        crate::usage::quota_ddl::after_drop();
    }
    pg_sys::Datum::from(0)
}
