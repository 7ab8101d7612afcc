//! What follows CREATE TABLE and ALTER TABLE, at the end of the command and within it: new partitions and children are
//! protected like their parent, and foreign keys that are new or newly valid are checked across all organizations.

use super::{adopt, audited, drift, newcomer, protect, tagged, validate};
use crate::pg::evaluated;
use crate::pg::event::{self, Detached};
use crate::pg::query::run;
use crate::pg::{self, identity};
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;

crate::pg::finfo!(pg_finfo_tenancy_after_table_ddl);

/// The event trigger at the end of CREATE TABLE, ALTER TABLE and what contains them.
///
/// SAFETY: called by PostgreSQL's function manager.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_after_table_ddl(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own.
    unsafe {
        event::require(fcinfo, "after_table_ddl");
        if !protect::is_own_ddl() {
            after(event::detached(fcinfo)).unwrap_or_report();
            crate::usage::quota_ddl::after_ddl();
        }
    }
    pg_sys::Datum::from(0)
}

crate::pg::finfo!(pg_finfo_tenancy_before_table_ddl);

/// The event trigger before ALTER TABLE and what evaluates expressions on the rows that are there. A partition that is
/// detached concurrently is gone by the end of the command, in a transaction of its own.
///
/// SAFETY: called by PostgreSQL's function manager.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_before_table_ddl(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own.
    let (detached, evaluated, rewritten) = unsafe {
        event::require(fcinfo, "before_table_ddl");
        if protect::is_own_ddl() {
            return pg_sys::Datum::from(0);
        }
        (
            event::detached(fcinfo),
            evaluated::evaluated(fcinfo),
            evaluated::rewritten(fcinfo),
        )
    };
    drift::check_evaluated(evaluated).unwrap_or_report();
    drift::check_rewritten(rewritten).unwrap_or_report();
    if let Some(detached) = detached.filter(|d| d.concurrently)
        && !identity::break_glass()
    {
        newcomer::check_detached(detached.table, &detached).unwrap_or_report();
    }
    pg_sys::Datum::from(0)
}

fn after(detached: Option<Detached>) -> pg::Result<()> {
    // A restore brings each table's own policies and triggers later.
    if identity::break_glass() {
        return Ok(());
    }
    let touched: Vec<pg_sys::Oid> = run(
        "SELECT DISTINCT objid FROM pg_catalog.pg_event_trigger_ddl_commands()
         WHERE classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
           AND object_type OPERATOR(pg_catalog.=) ANY (ARRAY['table', 'foreign table'])",
        &[],
        |row| row.get(1),
    )
    .into_iter()
    .flatten()
    .collect();
    for relid in touched {
        adopt::after(relid)?;
        newcomer::after(relid)?;
        if let Some(detached) = &detached {
            newcomer::check_detached(relid, detached)?;
        }
        validate::after(relid)?;
        audited::after(relid)?;
        tagged::after(relid)?;
    }
    let renamed: Vec<pg_sys::Oid> = run(
        "SELECT DISTINCT objid FROM pg_catalog.pg_event_trigger_ddl_commands()
         WHERE classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
           AND object_type OPERATOR(pg_catalog.=) 'table column'",
        &[],
        |row| row.get(1),
    )
    .into_iter()
    .flatten()
    .collect();
    for relid in renamed {
        audited::after(relid)?;
        tagged::after(relid)?;
    }
    Ok(())
}
