//! Lifts the row security of protected tables from a migration's statements (context/migration.rs): the conditions that
//! our policies added to a query are taken out before it is planned.

use crate::context::migration;
use crate::isolation;
use crate::pg::{self, catalog, fail, identity, rewrite};
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;

/// Takes the conditions out of a query that is about to be planned; whether the plan must then depend on no policy.
///
/// SAFETY: a rewritten query that nobody else uses.
#[pg_guard]
pub unsafe extern "C-unwind" fn lift(query: *mut pg_sys::Query) -> bool {
    let (true, Some(schema)) = (migration::is_in_force(), catalog::namespace(c"tenancy")) else {
        return false;
    };
    // SAFETY: as the function's own.
    unsafe { rewrite::lift(query, schema, &may_lift) }
}

/// From a table of the migration's own role. One of another's keeps its row security, under which a migration, which is in
/// no organization, would find no row and think that there is none: so it is refused.
fn may_lift(table: pg_sys::Oid, owner: pg_sys::Oid) -> bool {
    if !isolation::is_protected(table) {
        return false;
    }
    require_owner(table, owner).unwrap_or_report();
    true
}

fn require_owner(table: pg_sys::Oid, owner: pg_sys::Oid) -> pg::Result<()> {
    if identity::both(|role| identity::has_privileges_of(role, owner)) {
        return Ok(());
    }
    Err(fail(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("must be owner of table {}", catalog::relation_name(table)),
    )
    .set_detail("A migration works on the protected tables of its own role.")
    .set_hint("Run it as their owner, who needs tenancy.grant_administration()."))
}

/// The body of a SQL function came into the plan after the query was looked at, with the policies of the tables it reads.
#[pg_guard]
pub extern "C-unwind" fn refuse_inlined() {
    fail(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "a SQL function in this statement reads a protected table under row security",
    )
    .set_detail("PostgreSQL takes the function's body into the statement, where a migration cannot lift its policies.")
    .set_hint("Write the function LANGUAGE plpgsql, or VOLATILE.")
    .report(PgLogLevel::ERROR);
}
