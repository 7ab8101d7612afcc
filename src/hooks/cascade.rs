//! PostgreSQL runs the statements of foreign keys (checks, cascades) as the table's owner without row security, and a
//! BEFORE trigger of the application's that fires inside runs so too. This keeps the two apart: PostgreSQL's own
//! statement needs the right on the parent only; any other is held to the rules as if nobody had lent it anything.
//!
//! A statement that was analysed in there carries no row security, and PostgreSQL would take the cached result for good
//! in the same role's ordinary statements (attack A-28). So when something else than PostgreSQL's own was analysed
//! inside, every cached plan of the session is made anew afterwards.
//!
//! The form of a text alone proves nothing, since a trigger can write the same (attack B-2): where the statement starts
//! counts too.

use crate::pg::local::Backend;
use crate::pg::{identity, range_table, transaction};
use pgrx::prelude::*;
use std::cell::{Cell, RefCell};
use std::ffi::CStr;

/// What goes on inside a referential action.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// PostgreSQL's own statement runs.
    Own,
    /// Another's statement runs, or one is being planned (which evaluates functions).
    Foreign,
    /// A statement is over and its AFTER triggers fire, those of foreign keys among them.
    Finishing,
}

// The phases inside referential actions, outermost first, each with the transaction's nesting level.
static PHASES: Backend<RefCell<Vec<(i32, Phase)>>> = Backend::new(RefCell::new(Vec::new()));
// Whether something else than PostgreSQL's own was analysed inside.
static TAINTED: Backend<Cell<bool>> = Backend::new(Cell::new(false));

fn innermost() -> Option<Phase> {
    PHASES.with_borrow(|p| p.last().map(|(_, phase)| *phase))
}

/// PostgreSQL's own statements start where a trigger of a foreign key runs: at the outermost of the referential action,
/// or among the AFTER triggers of a statement inside it; never in the middle of another statement.
fn may_start_here() -> bool {
    matches!(innermost(), None | Some(Phase::Finishing))
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

/// SAFETY: NULL or a NUL-terminated text.
#[pg_guard]
unsafe extern "C-unwind" fn note_analysis(text: *const std::ffi::c_char) {
    // SAFETY: NULL or a NUL-terminated text.
    let own = may_start_here()
        && unsafe { !text.is_null() && has_form_of_check(&CStr::from_ptr(text).to_string_lossy()) };
    if !own {
        TAINTED.set(true);
    }
}

static mut PREVIOUS_PLANNER: pg_sys::planner_hook_type = None;

// Without pgrx's guard, for the reason that statement.rs gives.
unsafe extern "C-unwind" {
    fn standard_planner(
        parse: *mut pg_sys::Query,
        text: *const std::ffi::c_char,
        options: i32,
        params: pg_sys::ParamListInfo,
    ) -> *mut pg_sys::PlannedStmt;
}

/// SAFETY: NULL or a NUL-terminated text.
#[pg_guard]
unsafe extern "C-unwind" fn before_planning(text: *const std::ffi::c_char) {
    // SAFETY: NULL or a NUL-terminated text.
    let own = may_start_here() && unsafe { !text.is_null() && is_check(CStr::from_ptr(text)) };
    // A plan takes the bodies of SQL functions in without their being analysed anew (attack B-11).
    if !own {
        TAINTED.set(true);
    }
    enter(Phase::Foreign);
}

/// Planning evaluates functions; what they run is not PostgreSQL's own.
///
/// SAFETY: called by PostgreSQL; chains to the previous hook.
unsafe extern "C-unwind" fn planner(
    parse: *mut pg_sys::Query,
    text: *const std::ffi::c_char,
    options: i32,
    params: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    let inside = identity::in_referential_action();
    if inside {
        // SAFETY: the text PostgreSQL plans from.
        unsafe { before_planning(text) };
    }
    // SAFETY: either the hook that was there before, or PostgreSQL's own function.
    let plan = unsafe {
        match PREVIOUS_PLANNER {
            Some(previous) => previous(parse, text, options, params),
            None => standard_planner(parse, text, options, params),
        }
    };
    if inside {
        PHASES.with_borrow_mut(|p| {
            p.pop();
        });
    }
    plan
}

/// Outside again: what was analysed inside serves nobody any more.
fn cleanse() {
    if PHASES.with_borrow(Vec::is_empty) && TAINTED.replace(false) {
        transaction::forget_plans();
    }
}

pub fn init() {
    // SAFETY: one thread; hooks are chained as PostgreSQL's own modules do it.
    unsafe {
        PREVIOUS = pg_sys::post_parse_analyze_hook;
        pg_sys::post_parse_analyze_hook = Some(analysed);
        PREVIOUS_PLANNER = pg_sys::planner_hook;
        pg_sys::planner_hook = Some(planner);
    }
}

/// A phase inside a referential action begins.
pub fn enter(phase: Phase) {
    PHASES.with_borrow_mut(|p| p.push((transaction::nest_level(), phase)));
}

pub fn leave() {
    PHASES.with_borrow_mut(|p| {
        p.pop();
    });
    cleanse();
}

/// An error took them along: those of this nesting level and deeper.
pub fn abandon(level: i32) {
    if PHASES.with_borrow(Vec::is_empty) && !TAINTED.get() {
        return;
    }
    PHASES.with_borrow_mut(|p| p.retain(|(at, _)| *at < level));
    cleanse();
}

/// Whether the statement that fires a trigger now is PostgreSQL's own for a foreign key.
pub fn is_own_statement() -> bool {
    identity::in_referential_action() && innermost() == Some(Phase::Own)
}

/// Whether a statement that starts inside a referential action is PostgreSQL's own: one table, no subquery, nothing
/// returned, and a text of the form that ri_triggers.c builds, in which no function is called.
///
/// SAFETY: `query` is a query descriptor.
pub unsafe fn is_of_postgres(query: *mut pg_sys::QueryDesc) -> bool {
    // SAFETY: as the function's own; sourceText may be NULL.
    unsafe {
        let plan = (*query).plannedstmt;
        let one_table =
            names_one_table(plan) && (*plan).subplans.is_null() && !(*plan).hasReturning;
        one_table
            && may_start_here()
            && !(*query).sourceText.is_null()
            && is_check(CStr::from_ptr((*query).sourceText))
    }
}

/// Whether one table is all that the statement names; its partitions or children, which the planner adds, need no right.
///
/// SAFETY: `plan` is a valid plan.
unsafe fn names_one_table(plan: *mut pg_sys::PlannedStmt) -> bool {
    // SAFETY: as the function's own; the list holds RangeTblEntry nodes.
    unsafe {
        let list = (*plan).rtable;
        if list.is_null() {
            return false;
        }
        let entry = |i: usize| {
            (*(*list).elements.add(i))
                .ptr_value
                .cast::<pg_sys::RangeTblEntry>()
        };
        (0..(*list).length as usize).all(|i| {
            (*entry(i)).rtekind == pg_sys::RTEKind::RTE_RELATION
                && (i == 0 || range_table::required(plan, entry(i)) == 0)
        })
    }
}

/// `has_form_of_check`, remembering the last text that has: a bulk insert brings the same one for each row, and reading
/// it anew cost it a twentieth (measured).
fn is_check(text: &CStr) -> bool {
    static LAST: Backend<RefCell<Vec<u8>>> = Backend::new(RefCell::new(Vec::new()));
    let bytes = text.to_bytes();
    if LAST.with_borrow(|last| last == bytes) {
        return true;
    }
    let has = has_form_of_check(&text.to_string_lossy());
    if has {
        LAST.set(bytes.to_vec());
    }
    has
}

fn has_form_of_check(text: &str) -> bool {
    let bare = without_identifiers(text);
    let starts = [
        "SELECT 1 FROM ONLY \"",
        "SELECT 1 FROM \"",
        "DELETE FROM ONLY \"",
        "DELETE FROM \"",
        "UPDATE ONLY \"",
        "UPDATE \"",
    ];
    starts.iter().any(|start| text.starts_with(start))
        && bare.matches('(').count() == bare.matches(" OPERATOR(").count()
        && casts_are_harmless(&bare)
        && !bare.contains('\'')
        && !bare.contains("RETURNING")
}

/// A parameter may be cast to anything; a column only to what cannot fail, or its value would stand in the error.
fn casts_are_harmless(bare: &str) -> bool {
    let harmless = ["text", "bpchar", "varchar", "inet", "any", "record"];
    let parts: Vec<&str> = bare.split("::").collect();
    parts.windows(2).all(|pair| {
        let of_parameter = pair[0]
            .trim_end_matches(|c: char| c.is_ascii_digit())
            .ends_with('$');
        let target = pair[1].strip_prefix("pg_catalog.").unwrap_or_default();
        of_parameter || harmless.iter().any(|name| target.starts_with(name))
    })
}

/// The text with each quoted identifier made `""`, whatever stands in it.
fn without_identifiers(text: &str) -> String {
    // A doubled quote inside an identifier ends one and begins the next, which comes to the same.
    text.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
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
            r#"SELECT 1 FROM ONLY "public"."p" x WHERE "k" OPERATOR(pg_catalog.=) $1::pg_catalog."numeric" FOR KEY SHARE OF x"#,
            r#"SELECT 1 FROM ONLY "odd ' (name"."p""q" x WHERE "id"::pg_catalog.text OPERATOR(pg_catalog.=) $1 FOR KEY SHARE OF x"#,
        ] {
            assert!(has_form_of_check(own), "{own}");
        }
        for other in [
            "SELECT * FROM other",
            "INSERT INTO loot SELECT 1",
            r#"SELECT 1 FROM ONLY "public"."p" x WHERE leak("name")"#,
            r#"UPDATE ONLY "public"."c" SET "p" = f("name")"#,
            r#"UPDATE ONLY "public"."c" SET "p" = 'forced' WHERE $1 OPERATOR(pg_catalog.=) "p""#,
            r#"SELECT 1 FROM ONLY "public"."p" x WHERE "v"::"pg_catalog"."int4" OPERATOR(pg_catalog.=) 1"#,
        ] {
            assert!(!has_form_of_check(other), "{other}");
        }
    }
}
