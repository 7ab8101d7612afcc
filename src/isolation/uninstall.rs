//! Leaving: DROP EXTENSION alone would take the policies' functions and leave tables whose rows nobody sees.

use super::fill;
use super::protect::unprotect_everything;
use crate::audit;
use crate::pg::event::{self, Dropped};
use crate::pg::query::{Arg, run};
use crate::pg::{self, catalog, fail, identity};
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;

/// Unprotects every table and lets the audit tables stand by themselves, so that DROP EXTENSION pg_tenancy can follow;
/// user tables, their rows and the schema tenancy_audit stay (spec 13). For superusers. Errors: 42501.
#[pg_extern(volatile, parallel_unsafe)]
fn uninstall() -> pg::Result<()> {
    crate::context::require_superuser(
        "uninstall pg_tenancy",
        "Every protected table loses its protection.",
    )?;
    unprotect_everything()?;
    fill::drop_triggers()?;
    super::leakproof::withdraw_all();
    audit::release_stores();
    Ok(())
}

crate::pg::finfo!(pg_finfo_tenancy_guard_drop);

/// The event trigger on DROP EXTENSION, DROP SCHEMA and DROP OWNED: what would take the extension along is refused
/// while a table is protected, with CASCADE too.
///
/// SAFETY: called by PostgreSQL's function manager.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_guard_drop(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own.
    let dropped = unsafe {
        event::require(fcinfo, "guard_drop");
        event::dropped(fcinfo)
    };
    let ours = match dropped {
        Dropped::Extensions(names) => names.iter().any(|n| n == "pg_tenancy"),
        Dropped::Schemas(names) => names.iter().any(|n| n == "tenancy"),
        Dropped::OwnedBy(roles) => {
            let owner = catalog::find_house().and_then(|h| identity::role_name(h.owner));
            roles.iter().any(|r| Some(r) == owner.as_ref())
        }
        Dropped::Other => false,
    };
    if ours {
        refuse_while_protected().unwrap_or_report();
    }
    pg_sys::Datum::from(0)
}

fn refuse_while_protected() -> pg::Result<()> {
    let protected = run(
        "SELECT pg_catalog.count(DISTINCT tgrelid) FROM pg_catalog.pg_trigger
         WHERE tgfoid OPERATOR(pg_catalog.=) $1 OR tgfoid OPERATOR(pg_catalog.=) $2",
        &[
            Arg::Oid(catalog::house().guard_row),
            Arg::Oid(catalog::house().guard_statement),
        ],
        |row| row.get::<i64>(1),
    )
    .pop()
    .flatten()
    .unwrap_or(0);
    if protected == 0 {
        return Ok(());
    }
    Err(fail(
        PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
        "cannot drop extension pg_tenancy while tables are protected",
    )
    .set_detail(format!("Without the extension nobody would see the rows of {protected} tables."))
    .set_hint("SELECT tenancy.uninstall(); first: it unprotects them and leaves rows and audit tables in place."))
}
