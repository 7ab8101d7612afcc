//! The published roles, actions and levels are every organization's, so nobody changes them, superusers included: what an
//! application adds comes through `define_action()`.

use crate::pg::{fail, identity, trigger};
use pgrx::heap_tuple::PgHeapTuple;
use pgrx::prelude::*;
use pgrx::{AllocatedByPostgres, WhoAllocated};

trigger::entry!(
    pg_finfo_tenancy_keep_published,
    tenancy_keep_published,
    keep_published,
    keep_published_wrapper
);

fn is_system<A: WhoAllocated>(row: &PgHeapTuple<'_, A>) -> bool {
    row.get_by_name::<bool>("is_system")
        .ok()
        .flatten()
        .unwrap_or(true)
}

/// Refuses changes of the rows that came with the extension, and roles beside the four. What a restore brings in
/// break-glass, a publisher sent, or an upgrade of the extension does, passes.
#[pg_trigger(sql = r#"
CREATE FUNCTION tenancy.keep_published() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_keep_published';
"#)]
fn keep_published<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, AllocatedByPostgres>>, PgTriggerError> {
    let rows = [trigger.old(), trigger.new()];
    let is_roles = trigger.table_name().is_ok_and(|name| name == "roles");
    // A TRUNCATE has no rows.
    let published = rows.iter().all(Option::is_none) || rows.iter().flatten().any(is_system);
    let passes =
        identity::break_glass() || identity::is_logical_worker() || identity::makes_extension();
    if (published || is_roles) && !passes {
        fail(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied: the system's roles, actions and levels never change",
        )
        .set_detail("Every organization rests on them.")
        .set_hint("tenancy.define_action() adds an action, tenancy.create_role() a role of an organization's own.")
        .report(PgLogLevel::ERROR);
    }
    Ok(trigger.new().or(trigger.old()))
}
