//! ProcessUtility: keeps cursors WITH HOLD to the context they were opened in, and discards the token with the rest.

use crate::context::{self, check_seal, cursors, migration, token};
use crate::isolation;
use crate::pg::{catalog, event, identity};
use crate::usage::quota;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use std::ffi::{CStr, c_char};

// Without pgrx's guard, for the reason that statement.rs gives.
unsafe extern "C-unwind" {
    fn standard_ProcessUtility(
        statement: *mut pg_sys::PlannedStmt,
        text: *const c_char,
        read_only: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        params: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        destination: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

static mut PREVIOUS: pg_sys::ProcessUtility_hook_type = None;

/// SAFETY: called by PostgreSQL with a utility statement; chains to the previous hook.
#[allow(clippy::too_many_arguments, reason = "PostgreSQL's signature")]
unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    text: *const c_char,
    read_only: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: either the hook that was there before, or PostgreSQL's own function.
    unsafe {
        let node = (*statement).utilityStmt;
        before(node);
        let discards = is_discard_all(node);
        match PREVIOUS {
            Some(previous) => previous(
                statement,
                text,
                read_only,
                context,
                params,
                environment,
                destination,
                completion,
            ),
            None => standard_ProcessUtility(
                statement,
                text,
                read_only,
                context,
                params,
                environment,
                destination,
                completion,
            ),
        }
        after();
        if discards {
            token::discard();
        }
    }
}

/// SAFETY: a utility statement's node, or NULL.
unsafe fn is_discard_all(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the node's tag says what it is.
    unsafe {
        !node.is_null()
            && (*node).type_ == pg_sys::NodeTag::T_DiscardStmt
            && (*node.cast::<pg_sys::DiscardStmt>()).target == pg_sys::DiscardMode::DISCARD_ALL
    }
}

/// COPY fires row triggers and no ExecutorFinish.
#[pg_guard]
extern "C-unwind" fn after() {
    isolation::close_parents();
    quota::flush().unwrap_or_report();
}

/// SAFETY: a utility statement's node, or NULL.
#[pg_guard]
unsafe extern "C-unwind" fn before(node: *mut pg_sys::Node) {
    // SAFETY: the node's tag says what it is.
    unsafe {
        if node.is_null() {
            return;
        }
        // Ending the transaction is the way out of a broken seal.
        if (*node).type_ == pg_sys::NodeTag::T_TransactionStmt {
            context::before_transaction_control();
        } else {
            check_seal();
        }
        // A table that is open cannot be altered.
        isolation::close_parents();
        match (*node).type_ {
            pg_sys::NodeTag::T_DeclareCursorStmt => {
                let declare = node.cast::<pg_sys::DeclareCursorStmt>();
                let hold = (*declare).options & pg_sys::CURSOR_OPT_HOLD as i32 != 0;
                // Its rows would outlive the migration.
                if hold {
                    migration::forbid("declare a cursor WITH HOLD").unwrap_or_report();
                }
                cursors::declared(CStr::from_ptr((*declare).portalname), hold);
            }
            // CLOSE ALL has no name; what it closes is missed at the next statement.
            pg_sys::NodeTag::T_ClosePortalStmt => {
                let name = (*node.cast::<pg_sys::ClosePortalStmt>()).portalname;
                if !name.is_null() {
                    cursors::closed(CStr::from_ptr(name));
                }
            }
            pg_sys::NodeTag::T_FetchStmt if catalog::find_house().is_some() => {
                let name = (*node.cast::<pg_sys::FetchStmt>()).portalname;
                cursors::at_statement();
                cursors::check(CStr::from_ptr(name)).unwrap_or_report();
            }
            // Which is not planned where row security leaves the table alone.
            pg_sys::NodeTag::T_CopyStmt if !identity::row_security() => {
                note_break_glass((*node.cast::<pg_sys::CopyStmt>()).relation);
            }
            // SET ROLE would be compared; what the login's next session starts with is out of sight by then (attack H-4).
            pg_sys::NodeTag::T_AlterRoleStmt
            | pg_sys::NodeTag::T_AlterRoleSetStmt
            | pg_sys::NodeTag::T_AlterDatabaseSetStmt
            | pg_sys::NodeTag::T_CreateRoleStmt
            | pg_sys::NodeTag::T_GrantRoleStmt
                if catalog::find_house().is_some() && context::is_shared() =>
            {
                Err(context::lasting_change()).unwrap_or_report()
            }
            // Their code may fetch without a statement of its own.
            pg_sys::NodeTag::T_DoStmt | pg_sys::NodeTag::T_CallStmt
                if catalog::find_house().is_some() =>
            {
                cursors::at_statement();
            }
            _ => {}
        }
    }
}

/// SAFETY: the table that a COPY names, or NULL where it has a query.
unsafe fn note_break_glass(relation: *mut pg_sys::RangeVar) {
    if relation.is_null() || !identity::break_glass() || catalog::find_house().is_none() {
        return;
    }
    // SAFETY: as the function's own; a name that is gone answers InvalidOid.
    let table = unsafe { event::find(relation) };
    if isolation::is_protected(table) {
        context::note_break_glass();
    }
}

pub fn init() {
    // SAFETY: one thread; hooks are chained as PostgreSQL's own modules do it.
    unsafe {
        PREVIOUS = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
}
