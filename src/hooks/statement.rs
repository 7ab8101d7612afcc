//! What runs when a statement starts, runs and finishes: revocations are taken in once per statement, a foreign key's
//! check that is answered already is answered, a void context is kept out of parallel workers, a locking SELECT by a role
//! that may not update is refused, plans get their organization, and the audit's lines are stored.

use super::{cascade, writes};
use crate::pg::range_table::{
    locked_relations, merged_unread, named_and_locked, read_relations, relations,
};
use crate::pg::{bound, catalog, cursor, identity, stand_in, transaction, value};
use crate::usage::quota;
use crate::{audit, context, isolation};
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;

// PostgreSQL's own functions, declared without pgrx's guard: it would turn an error that passes through a hook into one
// of its own and lose the fields (constraint, table, column) that clients live on. The hooks below are frames that own
// nothing, so PostgreSQL's jump may pass them; what is ours runs in guarded functions that they call before or after.
unsafe extern "C-unwind" {
    fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: i32);
    fn standard_ExecutorFinish(query: *mut pg_sys::QueryDesc);
    #[cfg(not(feature = "pg18"))]
    fn standard_ExecutorRun(
        query: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
        once: bool,
    );
    #[cfg(feature = "pg18")]
    fn standard_ExecutorRun(
        query: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
    );
}

static mut PREVIOUS: pg_sys::ExecutorStart_hook_type = None;

/// SAFETY: called by PostgreSQL with a query descriptor; chains to the previous hook. Owns nothing, so that an error may
/// jump over it.
unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: i32) {
    // SAFETY: either the hook that was there before, or PostgreSQL's own function.
    unsafe {
        if !transaction::in_parallel_worker() {
            transaction::accept_invalidations_unguarded();
            context::watch_the_clock();
            if context::may_be_sealed() {
                check_seal(query);
            }
            let inside = identity::in_referential_action();
            if inside && isolation::holds_any() && is_answered(query) {
                (*query).plannedstmt = stand_in::one_row();
            } else if inside || deserves_a_look((*query).plannedstmt) {
                look_at(query, inside);
            }
        }
        match PREVIOUS {
            Some(previous) => previous(query, flags),
            None => standard_ExecutorStart(query, flags),
        }
        if bound::is_in((*query).plannedstmt) {
            bound::withhold(query);
        }
    }
}

/// Where the values of the statistics views come from. They ask which role is in force while they run, and the statement
/// that reads them can change it for a moment, between two comparisons with the seal (attack H-2).
const STATISTICS: [pg_sys::Oid; 2] = [
    pg_sys::StatisticRelationId,
    // pg_statistic_ext_data
    pg_sys::Oid::from_u32(3429),
];

/// SAFETY: `query` is the descriptor of a statement about to start.
#[pg_guard]
unsafe extern "C-unwind" fn check_seal(query: *mut pg_sys::QueryDesc) {
    context::check_seal();
    // SAFETY: as the function's own.
    let tables = unsafe { relations((*query).plannedstmt) };
    if context::may_be_sealed() && tables.iter().any(|table| STATISTICS.contains(table)) {
        Err(context::sealed_statistics()).unwrap_or_report()
    }
}

/// Whether this is a foreign key's own check, `SELECT 1 FROM parent WHERE key = $1 FOR KEY SHARE`, of a parent that the
/// guard found and locked just before. PostgreSQL then counts the one row of a plan that reads no table, in place of
/// looking up and locking the same row again: a check costs less than half (measured).
///
/// SAFETY: `query` is the descriptor of a statement about to start.
#[pg_guard]
unsafe extern "C-unwind" fn is_answered(query: *mut pg_sys::QueryDesc) -> bool {
    // SAFETY: as the function's own; a referential check has its key as parameters.
    unsafe {
        let plan = (*query).plannedstmt;
        if (*plan).commandType != pg_sys::CmdType::CMD_SELECT
            || (*plan).rowMarks.is_null()
            || (*query).params.is_null()
            || (*query).sourceText.is_null()
            || !cascade::is_of_postgres(query)
        {
            return false;
        }
        let [parent] = locked_relations(plan)[..] else {
            return false;
        };
        let values = value::parameters((*query).params);
        let text = std::ffi::CStr::from_ptr((*query).sourceText);
        let types = value::parameter_types((*query).params);
        let held = isolation::is_held(parent, &values, &types, text);
        if held {
            stand_in::check_permissions(plan);
        }
        held
    }
}

/// Whether a plan has what `look_at` looks for; most have not.
///
/// SAFETY: `plan` is a valid plan.
#[inline]
unsafe fn deserves_a_look(plan: *mut pg_sys::PlannedStmt) -> bool {
    // SAFETY: as the function's own.
    unsafe {
        (*plan).parallelModeNeeded
            || !(*plan).rowMarks.is_null()
            || (*plan).commandType == pg_sys::CmdType::CMD_MERGE
            || isolation::drift::is_noting()
            || context::cursors::any()
            || cursor::is_unnamed_starting()
    }
}

/// SAFETY: `query` is the descriptor of a statement about to start; the plan is read, and one flag of it cleared.
#[pg_guard]
unsafe extern "C-unwind" fn look_at(query: *mut pg_sys::QueryDesc, inside: bool) {
    if catalog::find_house().is_none() {
        return;
    }
    // SAFETY: as the function's own.
    unsafe {
        let plan = (*query).plannedstmt;
        isolation::drift::note_reading(|| relations(plan));
        context::cursors::at_statement();
        if let Some(name) = cursor::starting_in_procedure(query)
            && isolation::any_protected(&relations(plan))
        {
            context::cursors::opened_in_procedure(name);
        }
        // A worker sets the copied settings in a transaction of its own and cannot tell an old context from a new one, nor
        // does it know of a token; without workers the leader scans alone and tells.
        if (*plan).parallelModeNeeded && context::stays_here() {
            (*plan).parallelModeNeeded = false;
        }
        // Where only workers evaluate the policies, this process would not know which organization was read.
        if (*plan).parallelModeNeeded {
            isolation::pin_for(&relations(plan)).unwrap_or_report();
        }
        // Planned as the table's owner without row security, and not PostgreSQL's own: it may not look.
        if inside && !cascade::is_of_postgres(query) {
            isolation::check_inside_cascade(&read_relations(plan)).unwrap_or_report();
        }
        if (*plan).commandType == pg_sys::CmdType::CMD_MERGE {
            for relid in merged_unread(plan) {
                isolation::check_unread_merge(relid).unwrap_or_report();
            }
        }
        if !(*plan).rowMarks.is_null() && !inside && !identity::break_glass() {
            for relid in locked_relations(plan) {
                isolation::check_locking_read(relid).unwrap_or_report();
            }
            check_row_locks(plan);
        }
    }
}

/// SAFETY: a plan about to start.
unsafe fn check_row_locks(plan: *mut pg_sys::PlannedStmt) {
    // SAFETY: as the function's own.
    unsafe {
        let locked = named_and_locked(plan);
        if !locked.iter().any(|table| isolation::asks_each_row(*table)) {
            return;
        }
        let check = catalog::house().check_lock;
        let asked = crate::pg::plan::tables_asked_for(plan, check);
        isolation::check_unasked(&locked, &asked).unwrap_or_report();
    }
}

static mut PREVIOUS_RUN: pg_sys::ExecutorRun_hook_type = None;

/// Whether the query runs inside a referential action, and where it moves.
///
/// SAFETY: a started query. Owns nothing, so that an error may jump over it.
#[inline]
unsafe fn before_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
) -> (bool, pg_sys::ScanDirection::Type) {
    // SAFETY: as the function's own.
    unsafe {
        let inside = identity::in_referential_action() && !stand_in::is_it((*query).plannedstmt);
        let direction = if (*query).already_executed || inside && isolation::hides_any() {
            direction_for(query, direction)
        } else {
            direction
        };
        if bound::is_in((*query).plannedstmt) {
            give_organization(query);
        }
        if writes(query) && !inside && !(*query).already_executed {
            writes::begin(query);
        }
        if inside {
            note_run(query);
        }
        (inside, direction)
    }
}

/// ExecutorRun: the query by which a foreign key looks for its parent finds nothing where that parent is another
/// organization's (isolation/foreign_key.rs). It runs without moving, so that PostgreSQL reports a missing parent.
///
/// SAFETY: called by PostgreSQL with a started query descriptor; chains to the previous hook.
#[cfg(not(feature = "pg18"))]
unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    once: bool,
) {
    // SAFETY: as the function's own.
    unsafe {
        let (inside, direction) = before_run(query, direction);
        match PREVIOUS_RUN {
            Some(previous) => previous(query, direction, count, once),
            None => standard_ExecutorRun(query, direction, count, once),
        }
        if inside {
            cascade::leave();
        }
    }
}

/// SAFETY: as above.
#[cfg(feature = "pg18")]
unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
) {
    // SAFETY: as the function's own.
    unsafe {
        let (inside, direction) = before_run(query, direction);
        match PREVIOUS_RUN {
            Some(previous) => previous(query, direction, count),
            None => standard_ExecutorRun(query, direction, count),
        }
        if inside {
            cascade::leave();
        }
    }
}

/// Gives the plan's parameters the organization (pg/bound.rs), as it is before the first row. A cursor goes on with that
/// one, or with none where it is not the same any more: rows of two never mix.
///
/// SAFETY: `query` is a started query whose plan has such parameters.
#[pg_guard]
unsafe extern "C-unwind" fn give_organization(query: *mut pg_sys::QueryDesc) {
    // SAFETY: as the function's own; what is given is kept as long as the backend lives, or the statement.
    unsafe {
        let first = !(*query).already_executed;
        transaction::accept_invalidations_unguarded();
        bound::give(query, |number, before| {
            let now = context::form_for_number(number);
            if !first && context::is_same_list(number, before, now) {
                return before;
            }
            let same = !before.isnull && now.value.value() == before.value.value();
            pg_sys::NullableDatum {
                isnull: now.isnull || !first && !same,
                ..now
            }
        });
    }
}

/// Notes a statement that runs inside a referential action, until `cascade::leave()`.
///
/// SAFETY: `query` is a started query.
#[pg_guard]
unsafe extern "C-unwind" fn note_run(query: *mut pg_sys::QueryDesc) {
    // SAFETY: as the function's own.
    let own = unsafe { cascade::is_of_postgres(query) };
    // SAFETY: as the function's own.
    if own && unsafe { writes(query) } {
        // SAFETY: as the function's own: a started query has its state.
        isolation::note_cascade(unsafe { (*(*query).estate).es_output_cid });
    }
    cascade::enter(if own {
        cascade::Phase::Own
    } else {
        cascade::Phase::Foreign
    });
}

/// SAFETY: `query` is a started query.
#[pg_guard]
unsafe extern "C-unwind" fn direction_for(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
) -> pg_sys::ScanDirection::Type {
    // A cursor that is fetched from again: an index scan took its key at the first fetch and would not notice that the
    // right is gone.
    // SAFETY: as the function's own.
    unsafe {
        if (*query).already_executed && context::may_be_sealed() {
            context::check_seal();
        }
        if (*query).already_executed
            && !transaction::in_parallel_worker()
            && context::is_pinned()
            && !identity::break_glass()
        {
            context::refresh();
            isolation::check_reading(&relations((*query).plannedstmt)).unwrap_or_report();
        }
    }
    if !isolation::hides_any() || !identity::in_referential_action() {
        return direction;
    }
    // SAFETY: as the function's own; a referential check has its key as parameters.
    unsafe {
        let plan = (*query).plannedstmt;
        if (*plan).rowMarks.is_null() || (*query).params.is_null() {
            return direction;
        }
        let key = value::parameters((*query).params);
        let text = std::ffi::CStr::from_ptr((*query).sourceText).to_string_lossy();
        if locked_relations(plan)
            .iter()
            .any(|parent| isolation::hides(*parent, &key, &text))
        {
            pg_sys::ScanDirection::NoMovementScanDirection
        } else {
            direction
        }
    }
}

static mut PREVIOUS_FINISH: pg_sys::ExecutorFinish_hook_type = None;

/// ExecutorFinish: the row triggers have fired; what they wrote down for the audit is stored.
///
/// SAFETY: called by PostgreSQL with a query that ran; chains to the previous hook.
unsafe extern "C-unwind" fn executor_finish(query: *mut pg_sys::QueryDesc) {
    // SAFETY: as the function's own; the statement's own AFTER triggers fire inside.
    unsafe {
        if stand_in::is_it((*query).plannedstmt) {
            return standard_ExecutorFinish(query);
        }
    }
    let inside = identity::in_referential_action();
    if inside {
        cascade::enter(cascade::Phase::Finishing);
    }
    // SAFETY: as the function's own.
    unsafe {
        match PREVIOUS_FINISH {
            Some(previous) => previous(query),
            None => standard_ExecutorFinish(query),
        }
    }
    if inside {
        cascade::leave();
    }
    // SAFETY: as the function's own.
    unsafe {
        if (*(*query).plannedstmt).commandType == pg_sys::CmdType::CMD_INSERT && !inside {
            writes::end(query);
        }
    }
    after_finish();
}

/// Whether a statement may write a table of ours.
///
/// SAFETY: a valid query.
#[inline]
unsafe fn writes(query: *mut pg_sys::QueryDesc) -> bool {
    // SAFETY: as the function's own.
    unsafe {
        matches!(
            (*(*query).plannedstmt).commandType,
            pg_sys::CmdType::CMD_INSERT | pg_sys::CmdType::CMD_UPDATE | pg_sys::CmdType::CMD_DELETE
        )
    }
}

#[pg_guard]
extern "C-unwind" fn after_finish() {
    isolation::close_parents();
    quota::flush().unwrap_or_report();
    audit::flush();
}

pub fn init() {
    // SAFETY: one thread; hooks are chained as PostgreSQL's own modules do it.
    unsafe {
        PREVIOUS = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(executor_start);
        PREVIOUS_FINISH = pg_sys::ExecutorFinish_hook;
        pg_sys::ExecutorFinish_hook = Some(executor_finish);
        PREVIOUS_RUN = pg_sys::ExecutorRun_hook;
        pg_sys::ExecutorRun_hook = Some(executor_run);
    }
}
