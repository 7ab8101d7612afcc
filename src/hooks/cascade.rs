//! PostgreSQL runs the statements of foreign keys (checks, cascades) as the table's owner without row security, and a
//! BEFORE trigger of the application's that fires inside runs so too. This keeps the two apart: PostgreSQL's own
//! statement needs the right on the parent only; any other is held to the rules as if nobody had lent it anything.
//!
//! A statement that was analysed in there carries no row security, and PostgreSQL would take the cached result for good
//! in the same role's ordinary statements (attack A-28). So when something else than PostgreSQL's own was analysed
//! inside, every cached plan of the session is made anew afterwards.

use crate::pg::{identity, transaction};
use pgrx::prelude::*;
use std::cell::{Cell, RefCell};
use std::ffi::CStr;

struct Running {
    level: i32,
    of_postgres: bool,
}

thread_local! {
    // The statements running inside referential actions, outermost first.
    static RUNNING: RefCell<Vec<Running>> = const { RefCell::new(Vec::new()) };
    // Whether something else than PostgreSQL's own was analysed inside.
    static TAINTED: Cell<bool> = const { Cell::new(false) };
}

static mut PREVIOUS: pg_sys::post_parse_analyze_hook_type = None;

/// SAFETY: called by PostgreSQL with the statement it has just analysed; chains to the previous hook.
unsafe extern "C-unwind" fn analysed(
    state: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumble: *mut pg_sys::JumbleState,
) {
    // SAFETY: the hook that was there before; then a text that lives as long as the state.
    unsafe {
        if let Some(previous) = PREVIOUS {
            previous(state, query, jumble);
        }
        if identity::in_referential_action() {
            note_analysis((*state).p_sourcetext);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn note_analysis(text: *const std::ffi::c_char) {
    // SAFETY: NULL or a NUL-terminated text.
    let own =
        unsafe { !text.is_null() && has_form_of_check(&CStr::from_ptr(text).to_string_lossy()) };
    if !own {
        TAINTED.set(true);
    }
}

/// Outside again: what was analysed inside serves nobody any more.
fn cleanse() {
    if RUNNING.with_borrow(Vec::is_empty) && TAINTED.replace(false) {
        // SAFETY: marks the session's cached plans as to be made anew; looks nothing up.
        unsafe { pg_sys::ResetPlanCache() }
    }
}

pub fn init() {
    // SAFETY: one thread; hooks are chained as PostgreSQL's own modules do it.
    unsafe {
        PREVIOUS = pg_sys::post_parse_analyze_hook;
        pg_sys::post_parse_analyze_hook = Some(analysed);
    }
}

/// A statement of a referential action begins to run.
pub fn enter(of_postgres: bool) {
    RUNNING.with_borrow_mut(|r| {
        r.push(Running {
            level: transaction::nest_level(),
            of_postgres,
        });
    });
}

pub fn leave() {
    RUNNING.with_borrow_mut(|r| {
        r.pop();
    });
    cleanse();
}

/// An error took them along: those of this nesting level and deeper.
pub fn abandon(level: i32) {
    RUNNING.with_borrow_mut(|r| r.retain(|one| one.level < level));
    cleanse();
}

/// Whether the statement that fires a trigger now is PostgreSQL's own for a foreign key.
pub fn is_own_statement() -> bool {
    identity::in_referential_action()
        && RUNNING.with_borrow(|r| r.last().is_some_and(|one| one.of_postgres))
}

/// Whether a statement that starts inside a referential action is PostgreSQL's own: one table, no subquery, nothing
/// returned, and a text of the form that ri_triggers.c builds, in which no function is called.
///
/// SAFETY: `query` is a query descriptor.
pub unsafe fn is_of_postgres(query: *mut pg_sys::QueryDesc) -> bool {
    // SAFETY: as the function's own; sourceText may be NULL.
    unsafe {
        let plan = (*query).plannedstmt;
        let one_table = !(*plan).rtable.is_null()
            && (*(*plan).rtable).length == 1
            && (*plan).subplans.is_null()
            && !(*plan).hasReturning;
        one_table
            && !(*query).sourceText.is_null()
            && has_form_of_check(&CStr::from_ptr((*query).sourceText).to_string_lossy())
    }
}

fn has_form_of_check(text: &str) -> bool {
    let starts = [
        "SELECT 1 FROM ONLY \"",
        "SELECT 1 FROM \"",
        "DELETE FROM ONLY \"",
        "DELETE FROM \"",
        "UPDATE ONLY \"",
        "UPDATE \"",
    ];
    starts.iter().any(|start| text.starts_with(start))
        && text.matches('(').count() == text.matches(" OPERATOR(").count()
}

#[cfg(test)]
mod tests {
    use super::has_form_of_check;

    #[test]
    fn checks_and_cascades_are_known_by_their_form() {
        for own in [
            r#"SELECT 1 FROM ONLY "public"."p" x WHERE "id" OPERATOR(pg_catalog.=) $1 FOR KEY SHARE OF x"#,
            r#"DELETE FROM ONLY "public"."c" WHERE $1 OPERATOR(pg_catalog.=) "p""#,
            r#"UPDATE ONLY "public"."c" SET "p" = NULL WHERE $1 OPERATOR(pg_catalog.=) "p""#,
        ] {
            assert!(has_form_of_check(own), "{own}");
        }
        for other in [
            "SELECT * FROM other",
            "INSERT INTO loot SELECT 1",
            r#"SELECT 1 FROM ONLY "public"."p" x WHERE leak("name")"#,
            r#"UPDATE ONLY "public"."c" SET "p" = f("name")"#,
        ] {
            assert!(!has_form_of_check(other), "{other}");
        }
    }
}
