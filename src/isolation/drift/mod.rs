//! Drift (spec 5.7): a migration, a tool or a hurried colleague changes a protected table, or reads it in a way that row
//! security does not follow. Event triggers look at what a command left behind, rather than at how it was written, and
//! `tenancy.on_drift` says what follows: it is refused, mended, or warned of.
//!
//! Break-glass passes, since a restore builds tables step by step, and is written to the server's log.

mod evaluate;
mod readers;
mod state;
mod watch;

use super::plan;
use crate::context;
use crate::context::settings::{ON_DRIFT, OnDrift};
use crate::pg::event;
use crate::pg::local::Backend;
use crate::pg::query::{Arg, run};
use crate::pg::{self, catalog, error, fail, identity};
use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};
use pgrx::prelude::*;
use std::cell::{Cell, RefCell};

pub use evaluate::{check as check_evaluated, check_rewritten};
pub use readers::{is_noting, note_reading};
pub use watch::{at_subtransaction_abort, at_subtransaction_commit, before_commit, forget};

/// The table that protect() or unprotect() is changing with a statement of its own. A table and no mere flag: what runs
/// inside such a statement (functions in the table's own indexes and checks) is free to change no other.
static CHANGING: Backend<Cell<pg_sys::Oid>> = Backend::new(Cell::new(pg_sys::InvalidOid));

/// The tables whose indexes the running DROP INDEX names: once they are dropped nobody can say whose they were.
static LOSING: Backend<RefCell<Vec<pg_sys::Oid>>> = Backend::new(RefCell::new(vec![]));

/// Runs a statement of ours that changes the protection of a table.
pub fn changing<T>(table: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    struct Before(pg_sys::Oid);
    impl Drop for Before {
        fn drop(&mut self) {
            Cell::set(&CHANGING, self.0);
        }
    }
    let _before = Before(CHANGING.replace(table));
    work()
}

/// What is wrong, and how it is put right where that can be done without asking.
struct Drift<'a> {
    message: String,
    detail: String,
    hint: String,
    mend: Option<Box<dyn FnOnce() -> pg::Result<()> + 'a>>,
}

impl Drift<'_> {
    fn report(&self, code: PgSqlErrorCode) -> ErrorReport {
        fail(code, self.message.clone())
            .set_detail(self.detail.clone())
            .set_hint(self.hint.clone())
    }
}

/// Does what the setting says.
fn judge(drift: Drift) -> pg::Result<()> {
    if identity::break_glass() {
        error::server_log(&format!("break-glass: {}", drift.message), &drift.detail);
        return Ok(());
    }
    // A migration may do on the way what must not stay.
    let mode = match ON_DRIFT.get() {
        OnDrift::Refuse if context::migration::is_in_force() => OnDrift::Mend,
        mode => mode,
    };
    match (mode, drift.mend.is_some()) {
        (OnDrift::Warn, _) => {
            error::server_log(&drift.message, &drift.detail);
            drift
                .report(PgSqlErrorCode::ERRCODE_WARNING)
                .report(PgLogLevel::WARNING);
            Ok(())
        }
        (OnDrift::Mend, true) => {
            let notice = drift
                .report(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION)
                .set_hint("It was mended, as tenancy.on_drift says, or as a migration is.");
            if let Some(mend) = drift.mend {
                mend()?;
            }
            notice.report(PgLogLevel::NOTICE);
            Ok(())
        }
        _ => Err(drift.report(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE)),
    }
}

/// schema.name of a relation, quoted where needed; None where it is gone.
fn name_of(relid: pg_sys::Oid) -> Option<String> {
    run(
        "SELECT pg_catalog.quote_ident(n.nspname) OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) pg_catalog.quote_ident(c.relname)
         FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE c.oid OPERATOR(pg_catalog.=) $1",
        &[Arg::Oid(relid)],
        |row| row.get::<String>(1).unwrap_or_default(),
    )
    .pop()
}

crate::pg::finfo!(pg_finfo_tenancy_drift_begins);

crate::pg::finfo!(pg_finfo_tenancy_drift_ends);

crate::pg::finfo!(pg_finfo_tenancy_drift_dropped);

/// The event trigger at the start of what makes tables: CREATE TABLE still says what it is LIKE, which it has resolved by
/// its end; what CREATE TABLE AS and SELECT INTO read is noted from here on.
///
/// SAFETY: called by PostgreSQL's function manager.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_drift_begins(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own.
    unsafe {
        event::require(fcinfo, "drift_begins");
        if event::fills_a_table(fcinfo) {
            readers::start_noting();
        } else {
            LOSING.set(event::losing_an_index(fcinfo));
            watch::created_like(event::like(fcinfo));
        }
    }
    pg_sys::Datum::from(0)
}

/// The event trigger at the end of whatever may weaken a table or read it past its policies.
///
/// SAFETY: called by PostgreSQL's function manager.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_drift_ends(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own.
    unsafe {
        event::require(fcinfo, "drift_ends");
        let model = watch::models();
        let read = if event::fills_a_table(fcinfo) {
            readers::stop_noting()
        } else {
            vec![]
        };
        after(model, &read).unwrap_or_report();
    }
    pg_sys::Datum::from(0)
}

/// The event trigger after anything was dropped.
///
/// SAFETY: called by PostgreSQL's function manager.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_drift_dropped(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own.
    unsafe { event::require(fcinfo, "drift_dropped") };
    dropped().unwrap_or_report();
    pg_sys::Datum::from(0)
}

/// An object that a command made or changed.
struct Touched {
    class: String,
    id: pg_sys::Oid,
    tag: String,
}

fn after(model: Vec<pg_sys::Oid>, read: &[pg_sys::Oid]) -> pg::Result<()> {
    let touched = run(
        "SELECT classid::pg_catalog.regclass::pg_catalog.text, objid, command_tag
         FROM pg_catalog.pg_event_trigger_ddl_commands() WHERE NOT in_extension",
        &[],
        |row| Touched {
            class: row.get(1).unwrap_or_default(),
            id: row.get(2).unwrap_or(pg_sys::InvalidOid),
            tag: row.get(3).unwrap_or_default(),
        },
    );
    for object in &touched {
        match object.class.as_str() {
            "pg_class" if object.id != CHANGING.get() => {
                state::check(object.id)?;
                readers::check_relation(object.id)?;
                watch::check(object.id, &model, read)?;
            }
            "pg_trigger" | "pg_policy" => {
                if let Some((table, name)) = owner_of(object)
                    && table != CHANGING.get()
                {
                    state::check(table)?;
                    if object.tag == "ALTER POLICY" && plan::all_policy_names().any(|p| p == name) {
                        state::policy_altered(table, &name)?;
                    }
                }
            }
            "pg_rewrite" => readers::check_rule(object.id)?,
            "pg_publication" | "pg_publication_rel" | "pg_publication_namespace" => {
                readers::warn_of_publication(&object.class, object.id);
            }
            _ => {}
        }
    }
    Ok(())
}

/// The table of a trigger or policy, and its name.
fn owner_of(object: &Touched) -> Option<(pg_sys::Oid, String)> {
    let sql = if object.class == "pg_trigger" {
        "SELECT tgrelid, tgname::pg_catalog.text FROM pg_catalog.pg_trigger WHERE oid OPERATOR(pg_catalog.=) $1"
    } else {
        "SELECT polrelid, polname::pg_catalog.text FROM pg_catalog.pg_policy WHERE oid OPERATOR(pg_catalog.=) $1"
    };
    run(sql, &[Arg::Oid(object.id)], |row| {
        Some((row.get(1)?, row.get(2)?))
    })
    .pop()
    .flatten()
}

/// Triggers and policies of ours that went while their table stays.
fn dropped() -> pg::Result<()> {
    let tables = run(
        "SELECT DISTINCT pg_catalog.to_regclass(pg_catalog.quote_ident(address_names[1]) OPERATOR(pg_catalog.||) '.'
                               OPERATOR(pg_catalog.||) pg_catalog.quote_ident(address_names[2]))::pg_catalog.oid
         FROM pg_catalog.pg_event_trigger_dropped_objects()
         WHERE object_type OPERATOR(pg_catalog.=) ANY (ARRAY['trigger', 'policy', 'default value', 'table constraint'])",
        &[],
        |row| row.get::<pg_sys::Oid>(1),
    );
    for table in tables.into_iter().flatten().chain(LOSING.take()) {
        if table != CHANGING.get() {
            state::check(table)?;
            state::warn_of_index(table);
        }
    }
    Ok(())
}

/// Whether a table carries a trigger of ours; the guards' own record may be older than the command that is looked at.
fn is_marked(relid: pg_sys::Oid) -> bool {
    !run(
        "SELECT 1 FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid
         WHERE t.tgrelid OPERATOR(pg_catalog.=) $1 AND p.pronamespace OPERATOR(pg_catalog.=) $2
           AND p.proname OPERATOR(pg_catalog.=) ANY (ARRAY['guard_row', 'guard_statement'])",
        &[Arg::Oid(relid), Arg::Oid(house())],
        |_| (),
    )
    .is_empty()
}

fn house() -> pg_sys::Oid {
    catalog::namespace(c"tenancy").unwrap_or(pg_sys::InvalidOid)
}
