//! The native triggers on a protected table. They hold for every path that writes rows: plain statements, COPY,
//! cascades (which PostgreSQL runs as the table's owner without row security), triggers, bypassing roles.
//!
//! `guard_statement` asks for the right once per statement, so that a refusal is a clear error and not zero rows;
//! `guard_row` holds each written row, as it is finally stored, to the organization, checks column actions and foreign
//! keys, and writes the audit. Break-glass passes both checks and is still audited.

use super::by_environment;
use super::foreign_key;
use super::moved;
use super::place;
use super::plan;
use super::right::{guard_statement, mine, refuse_suspended, require_to_write};
use super::scope;
use super::table::{self, Table};
use crate::audit;
use crate::context::{self, Standing};
use crate::environment;
use crate::hooks::cascade;
use crate::pg::key::{KeyType, Keys};
use crate::pg::trigger::{self, Call, Event, RowImage};
use crate::pg::{self, fail, identity, transaction};
use crate::usage::quota;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;

macro_rules! trigger_function {
    ($finfo:ident, $name:ident, $guarded:ident, $body:ident) => {
        crate::pg::finfo!($finfo);

        /// SAFETY: called by PostgreSQL's function manager.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
            // A row may be reached after a long wait for its lock: a revocation committed meanwhile counts.
            // SAFETY: as the function's own; this frame owns nothing.
            unsafe {
                transaction::accept_invalidations_unguarded();
                $guarded(fcinfo);
            }
            pg_sys::Datum::from(0)
        }

        /// SAFETY: as the function above.
        #[pg_guard]
        unsafe extern "C-unwind" fn $guarded(fcinfo: pg_sys::FunctionCallInfo) {
            // SAFETY: as the function's own.
            match unsafe { trigger::call(fcinfo) } {
                Some(call) => $body(&call).unwrap_or_report(),
                None => trigger::not_a_trigger(stringify!($body)).report(PgLogLevel::ERROR),
            }
        }
    };
}
trigger_function!(
    pg_finfo_tenancy_guard_row,
    tenancy_guard_row,
    row_guarded,
    guard_row
);
trigger_function!(
    pg_finfo_tenancy_guard_statement,
    tenancy_guard_statement,
    statement_guarded,
    guard_statement
);
trigger_function!(
    pg_finfo_tenancy_guard_truncate,
    tenancy_guard_truncate,
    truncate_guarded,
    guard_truncate
);
trigger_function!(
    pg_finfo_tenancy_guard_audit,
    tenancy_guard_audit,
    audit_guarded,
    guard_audit
);

pub fn denied(message: impl Into<String>, detail: impl Into<String>, hint: &str) -> ErrorReport {
    let (message, detail) = (message.into(), detail.into());
    pg::error::server_log(&message, &detail);
    fail(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
        .set_detail(detail)
        .set_hint(hint)
}

pub(super) fn table_of(relid: pg_sys::Oid) -> pg::Result<std::rc::Rc<Table>> {
    let table = table::protected(relid).filter(|t| t.org_attnum > 0);
    table.ok_or_else(|| {
        fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("the protection of {} is damaged", named(relid)),
        )
        .set_detail("A trigger of pg_tenancy is on the table, but its organization column is not where protect() found it.")
        .set_hint("Call tenancy.unprotect() and tenancy.protect() again, naming the column.")
    })
}

pub(super) fn named(relid: pg_sys::Oid) -> String {
    format!("table \"{}\"", pg::catalog::relation_name(relid))
}

fn guard_row(call: &Call) -> pg::Result<()> {
    if call.before || !call.for_row || call.event == Event::Truncate {
        return Err(trigger::not_a_trigger("guard_row"));
    }
    let (old, new) = (call.old_row(), call.new_row());
    // The publisher checked and logged it.
    if identity::is_logical_worker() {
        return match quota::is_under(call.relid()) {
            true => quota::count(&*table_of(call.relid())?, old.as_ref(), new.as_ref(), true),
            false => Ok(()),
        };
    }
    let table = table_of(call.relid())?;
    let broken_glass = identity::break_glass();
    let migrating = !broken_glass && is_of_migration();
    if migrating {
        keep_org(call, &table, old.as_ref(), new.as_ref())?;
        if let Some(new) = &new {
            let org = org_named_by(&table, new)?;
            place::hold(
                call,
                &table,
                &context::standing(),
                org,
                true,
                old.as_ref(),
                Some(new),
            )?;
            foreign_key::check(&table, org, false, old.as_ref(), new)?;
        }
    } else if !broken_glass {
        let now = context::standing();
        let org = hold_to_org(call, &table, &now, old.as_ref(), new.as_ref())?;
        scope::hold(&table, &now, org, old.as_ref(), new.as_ref())?;
        // With its organization production goes, and every project, too: its owner typed the name.
        let deleting = context::deletion::org().is_some();
        if !deleting {
            place::hold(call, &table, &now, org, false, old.as_ref(), new.as_ref())?;
            if now.actor_type == "ai" {
                environment::check_ai_row(&now, &table, call.event, old.as_ref(), new.as_ref())?;
            }
        }
        let tagged = table.environment.as_ref();
        let leaving = match tagged.filter(|_| !deleting) {
            Some(source) => {
                let on = format!("on {}", named(table.root));
                // As with the statement's right: a cascade needs that on the parent only.
                if !cascade::is_own_statement() {
                    let rows = [old.as_ref(), new.as_ref()];
                    by_environment::check_row(&now, &table, call.event, &rows, &on)?;
                }
                environment::check_row(&now, &table, source, old.as_ref(), new.as_ref())?
            }
            None => None,
        };
        match (&old, &new) {
            (Some(old), Some(new)) => check_columns(call, &table, &now, old, new)?,
            // Half of an UPDATE that moves the row to another partition.
            (Some(old), None) => moved::left(&table, old, leaving),
            (None, Some(new)) => {
                let arrived = moved::arrived(&table, new);
                for column in arrived.columns {
                    require_for_column(call, &table, &now, column, new)?;
                    let (_, name, action) = column;
                    let on = on_column(call, name);
                    by_environment::require_everywhere(&now, &table, action, new, &on)?;
                }
                if let Some(key) = arrived.production {
                    environment::check_arrival(&now, &table, new, &key)?;
                }
            }
            (None, None) => {}
        }
        if let Some(new) = &new {
            let limited = now.scopes.is_some();
            foreign_key::check(&table, org, limited, old.as_ref(), new)?;
        }
    }
    quota::count(
        &table,
        old.as_ref(),
        new.as_ref(),
        broken_glass || migrating,
    )?;
    // Before PostgreSQL's own checks of this row: the trigger's name sorts first.
    if table.is_parent && old.is_some() {
        foreign_key::parents_changed();
    }
    // Of rows that go with their organization the log keeps the number, not the values.
    if table.options.audit && context::deletion::org().is_none() {
        let bypassed = broken_glass || migrating;
        audit::capture(&table, call.event, old.as_ref(), new.as_ref(), bypassed);
    }
    Ok(())
}

/// Whether a row is written by a migration's own statement, or by a referential action that one set off.
fn is_of_migration() -> bool {
    context::migration::is_on()
        && (context::migration::is_in_force()
            || cascade::is_own_statement() && context::migration::set_off_action())
}

/// In a migration rows of any organization are written; none moves to another.
fn keep_org(
    call: &Call,
    table: &Table,
    old: Option<&RowImage>,
    new: Option<&RowImage>,
) -> pg::Result<()> {
    let org_of = |row: &RowImage| row.value(table.org_attnum);
    let moved = match (old, new) {
        (Some(old), Some(new)) => !org_of(old).same(&org_of(new)),
        (Some(old), None) => {
            moved::left_in_migration(table, old);
            false
        }
        (None, Some(new)) => moved::has_changed_org(table, new),
        (None, None) => false,
    };
    if moved {
        return Err(org_changes(call, table));
    }
    Ok(())
}

/// The organization of a row that is held to none.
fn org_named_by(table: &Table, row: &RowImage) -> pg::Result<&'static Keys> {
    let id = context::keys::whose(table.org_kind, &row.value(table.org_attnum));
    let known = id.and_then(|id| context::authority::org_by_id(&id));
    match (known, id) {
        (Some(org), _) => Ok(org.keys()),
        (None, Some(id)) => Ok(context::keys::intern(id, None)),
        (None, None) => Err(denied(
            format!(
                "permission denied: the row in {} is of no organization",
                named(table.relid)
            ),
            format!(
                "Column \"{}\" holds the external key of none.",
                table.options.org_column
            ),
            "Create the organization first.",
        )),
    }
}

fn org_changes(call: &Call, table: &Table) -> ErrorReport {
    denied(
        format!(
            "permission denied: column \"{}\" of table \"{}\" never changes",
            table.options.org_column,
            call.relation_name()
        ),
        "A row belongs to one organization for good.",
        "Insert the row under the other organization, in a context of its own.",
    )
}

pub(super) fn hold_to_org(
    call: &Call,
    table: &Table,
    now: &Standing,
    old: Option<&RowImage>,
    new: Option<&RowImage>,
) -> pg::Result<&'static Keys> {
    let key_of = |row: &RowImage| row.value(table.org_attnum);
    if let (Some(old), Some(new)) = (old, new)
        && !key_of(old).same(&key_of(new))
    {
        return Err(org_changes(call, table));
    }
    let org = match now.keys() {
        Some(keys) if keys.has(table.org_kind) => keys,
        _ => mine(now, table.org_kind, table.relid)?,
    };
    refuse_suspended(now, table.relid)?;
    for row in [old, new].into_iter().flatten() {
        if !org.is(table.org_kind, &key_of(row)) {
            return Err(denied(
                format!(
                    "permission denied: the row in table \"{}\" is not of the current organization",
                    call.relation_name()
                ),
                format!(
                    "Column \"{}\" must hold {}.",
                    table.options.org_column,
                    plan::current(table.org_kind)
                ),
                "Leave the column out: its default fills it. A superuser who means it says SET row_security = off first.",
            ));
        }
    }
    Ok(org)
}

/// Columns with an action of their own compare old and new, so that saving a whole row with them unchanged passes.
fn check_columns(
    call: &Call,
    table: &Table,
    now: &Standing,
    old: &RowImage,
    new: &RowImage,
) -> pg::Result<()> {
    for column in &table.column_actions {
        if !old.value(column.0).same(&new.value(column.0)) {
            require_for_column(call, table, now, column, new)?;
            let (_, name, action) = column;
            let rows = [Some(old), Some(new)];
            by_environment::require(now, table, action, &rows, &on_column(call, name))?;
        }
    }
    Ok(())
}

fn on_column(call: &Call, column: &str) -> String {
    format!(
        "on column \"{column}\" of table \"{}\"",
        call.relation_name()
    )
}

fn require_for_column(
    call: &Call,
    table: &Table,
    now: &Standing,
    (_, column, action): &(i16, String, String),
    row: &RowImage,
) -> pg::Result<()> {
    let on = on_column(call, column);
    match &table.placed {
        Some(placed) if !place::may_in_project_of(table, placed, action, row) => {
            Err(context::no_right(now, action, &on))
        }
        Some(_) => Ok(()),
        None => require_to_write(now, table, action, &on),
    }
}

fn guard_truncate(call: &Call) -> pg::Result<()> {
    foreign_key::parents_changed();
    if identity::is_logical_worker() {
        return Ok(());
    }
    if identity::break_glass() {
        if let Some(table) = table::protected(call.relid()) {
            if table.options.audit {
                audit::record_truncate(&table);
            }
            quota::count_truncated(&table)?;
        }
        return Ok(());
    }
    Err(denied(
        format!(
            "permission denied: TRUNCATE of protected table \"{}\"",
            call.relation_name()
        ),
        "TRUNCATE empties the table for every organization at once.",
        "DELETE removes the current organization's rows. A superuser who means all of them says SET row_security = off first.",
    ))
}

/// On the audit tables: nobody updates or deletes, and rows come from the extension alone, except that a restore
/// (break-glass) brings rows back.
fn guard_audit(call: &Call) -> pg::Result<()> {
    if call.event == Event::Insert && (identity::break_glass() || identity::is_logical_worker()) {
        return Ok(());
    }
    Err(denied(
        format!(
            "permission denied: {} on audit table \"{}\"",
            call.event.name(),
            call.relation_name()
        ),
        "An audit log is appended to by the extension and changed by nobody, not even a superuser.",
        "Read it through tenancy.audit_log.",
    ))
}

/// What a WITH CHECK refuses: no organization, no right, or a row of another organization (spec 5.4).
pub fn refused_row(relid: pg_sys::Oid, kind: KeyType, action: &str) -> ErrorReport {
    let now = context::standing();
    let on = format!("table \"{}\"", pg::catalog::relation_name(relid));
    if now.org.is_none() {
        return context::without_context(&now, &format!("write to {on}"));
    }
    if let Err(asleep) = refuse_suspended(&now, relid) {
        return asleep;
    }
    if let Some(table) = table::protected(relid)
        && let Err(lacking) = require_to_write(&now, &table, action, &format!("on {on}"))
    {
        return lacking;
    }
    if let Err(lacking) = mine(&now, kind, relid) {
        return lacking;
    }
    denied(
        format!("permission denied: the new row in {on} is not of the current organization"),
        format!("Its organization column must hold {}.", plan::current(kind)),
        "Leave the column out: its default fills it.",
    )
}
