//! Rewritten queries that write or lock rows of tables with a project column: a row that may be read and not written is to
//! be an error and not a silent zero (spec 5.4), and row security can only filter.
//!
//! So what the policy of UPDATE or DELETE asks of a row's project leaves the query again, and the row trigger, which asks the
//! same of every row, refuses it. A row that may not be read stays hidden, by the policy of SELECT, which then is the only
//! call for each row; where the statement reads nothing and has none, the one for writing asks for either right. A SELECT
//! that locks has no trigger: its rows are asked for in a column that nobody sees, which PostgreSQL computes after every
//! condition, join and sort, and anew for a row that changed while its lock was waited for.
//!
//! Where the library was not there when the query was planned, the policy for writing stands, and filters.

use super::plan::{elements, list_of};
use super::trigger::Event;
use super::value;
use pgrx::prelude::*;
use std::ffi::c_void;

/// The actions that a table's policies ask for a row's project, as they spell them.
pub struct Asked {
    pub reading: String,
    pub writing: String,
}

pub struct Rules<'a> {
    pub in_projects: pg_sys::Oid,
    /// It refuses a row that may be read and not written.
    pub check: pg_sys::Oid,
    /// Of a table, for UPDATE or DELETE; None where its rows belong to no projects.
    pub asked: &'a dyn Fn(pg_sys::Oid, Event) -> Option<Asked>,
}

/// Whether there can be something to do; for most queries it is said by their kind.
///
/// SAFETY: a rewritten query.
#[inline]
pub unsafe fn may_concern(query: *mut pg_sys::Query) -> bool {
    // SAFETY: as the function's own.
    unsafe {
        (*query).hasRowSecurity
            && ((*query).hasSubLinks
                || !(*query).rowMarks.is_null()
                || !(*query).cteList.is_null()
                || !(*query).onConflict.is_null()
                || !matches!(
                    (*query).commandType,
                    pg_sys::CmdType::CMD_SELECT | pg_sys::CmdType::CMD_INSERT
                )
                || elements::<pg_sys::RangeTblEntry>((*query).rtable)
                    .iter()
                    .any(|entry| (**entry).rtekind == pg_sys::RTEKind::RTE_SUBQUERY))
    }
}

/// Does it for a query and all queries in it.
///
/// SAFETY: a rewritten query that nobody else uses.
pub unsafe fn refuse_by_row(query: *mut pg_sys::Query, rules: &Rules) {
    // SAFETY: as the function's own; the rules outlive the walk.
    unsafe { see(query.cast(), std::ptr::from_ref(rules).cast_mut().cast()) };
}

/// SAFETY: a node or NULL, and the `Rules`.
#[pg_guard]
unsafe extern "C-unwind" fn see(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: the node's tag says what it is.
    unsafe {
        if (*node).type_ == pg_sys::NodeTag::T_Query {
            let query = node.cast::<pg_sys::Query>();
            in_query(query, &*context.cast::<Rules>());
            return pg_sys::query_tree_walker(query, Some(see), context, 0);
        }
        pg_sys::expression_tree_walker(node, Some(see), context)
    }
}

/// SAFETY: a rewritten query.
unsafe fn in_query(query: *mut pg_sys::Query, rules: &Rules) {
    // SAFETY: the lists hold what they are called; tables are counted from 1.
    unsafe {
        let target = (*query).resultRelation;
        match (*query).commandType {
            pg_sys::CmdType::CMD_UPDATE => drop(admit(query, target, Event::Update, rules)),
            pg_sys::CmdType::CMD_DELETE => drop(admit(query, target, Event::Delete, rules)),
            pg_sys::CmdType::CMD_INSERT | pg_sys::CmdType::CMD_MERGE => {
                raise_in_checks(query, rules)
            }
            _ => {}
        }
        for mark in elements::<pg_sys::RowMarkClause>((*query).rowMarks) {
            let number = (**mark).rti as i32;
            if (**mark).strength != pg_sys::LockClauseStrength::LCS_NONE
                && let Some(call) = admit(query, number, Event::Update, rules)
            {
                let check = checking(call, number, rules.check);
                let place = elements::<pg_sys::TargetEntry>((*query).targetList).len() + 1;
                let entry =
                    pg_sys::makeTargetEntry(check.cast(), place as i16, std::ptr::null_mut(), true);
                (*query).targetList = pg_sys::lappend((*query).targetList, entry.cast());
            }
        }
    }
}

/// The entry of a query's table.
///
/// SAFETY: a query.
unsafe fn entry(query: *mut pg_sys::Query, number: i32) -> Option<*mut pg_sys::RangeTblEntry> {
    // SAFETY: as the function's own.
    unsafe {
        let all = elements::<pg_sys::RangeTblEntry>((*query).rtable);
        let entry = *all.get(usize::try_from(number - 1).ok()?)?;
        ((*entry).rtekind == pg_sys::RTEKind::RTE_RELATION).then_some(entry)
    }
}

/// Lets every row through that may be read; answers the call that let through those that may be written.
///
/// SAFETY: a rewritten query.
unsafe fn admit(
    query: *mut pg_sys::Query,
    number: i32,
    event: Event,
    rules: &Rules,
) -> Option<*mut pg_sys::FuncExpr> {
    // SAFETY: as the function's own; conditions are expressions.
    unsafe {
        let entry = entry(query, number)?;
        let conditions = elements::<pg_sys::Node>((*entry).securityQuals);
        if !conditions
            .iter()
            .any(|c| call_of(*c, rules.in_projects).is_some())
        {
            return None;
        }
        let asked = (rules.asked)((*entry).relid, event)?;
        let asks = |action: &str| {
            conditions
                .iter()
                .copied()
                .find(|c| is_asking(*c, rules, action))
        };
        let writing = asks(&asked.writing)?;
        let call = writing.cast::<pg_sys::FuncExpr>();
        if asked.reading == asked.writing {
            return Some(call);
        }
        if asks(&asked.reading).is_some_and(|reading| of_same_place(reading.cast(), call)) {
            let kept: Vec<_> = conditions
                .iter()
                .copied()
                .filter(|c| *c != writing)
                .collect();
            (*entry).securityQuals = list_of(&kept);
            return Some(call);
        }
        let either: *mut pg_sys::FuncExpr = pg_sys::copyObjectImpl(call.cast()).cast();
        name_action(
            either,
            &crate::isolation::either(&asked.writing, &asked.reading),
        );
        let changed: Vec<_> = conditions
            .iter()
            .map(|c| if *c == writing { either.cast() } else { *c })
            .collect();
        (*entry).securityQuals = list_of(&changed);
        Some(call)
    }
}

/// The condition as a call of a function.
///
/// SAFETY: an expression, or NULL.
unsafe fn call_of(node: *mut pg_sys::Node, function: pg_sys::Oid) -> Option<*mut pg_sys::FuncExpr> {
    // SAFETY: the node's tag says what it is.
    unsafe {
        let call = node.cast::<pg_sys::FuncExpr>();
        (!node.is_null()
            && (*node).type_ == pg_sys::NodeTag::T_FuncExpr
            && (*call).funcid == function)
            .then_some(call)
    }
}

/// Whether a condition asks for this action in a row's project.
///
/// SAFETY: an expression, or NULL.
unsafe fn is_asking(node: *mut pg_sys::Node, rules: &Rules, action: &str) -> bool {
    // SAFETY: as the function's own; the third argument is text.
    unsafe {
        call_of(node, rules.in_projects).is_some_and(|call| {
            matches!(*elements::<pg_sys::Node>((*call).args), [_, _, text]
                if (*text).type_ == pg_sys::NodeTag::T_Const
                    && !(*text.cast::<pg_sys::Const>()).constisnull
                    && value::plain_bytes((*text.cast::<pg_sys::Const>()).constvalue.cast_mut_ptr())
                        == action.as_bytes())
        })
    }
}

/// Whether two calls are of the same columns.
///
/// SAFETY: calls of in_projects().
unsafe fn of_same_place(a: *mut pg_sys::FuncExpr, b: *mut pg_sys::FuncExpr) -> bool {
    // SAFETY: as the function's own.
    unsafe {
        let (a, b) = (
            elements::<pg_sys::Node>((*a).args),
            elements::<pg_sys::Node>((*b).args),
        );
        a.len() == 3 && b.len() == 3 && (0..2).all(|i| pg_sys::equal(a[i].cast(), b[i].cast()))
    }
}

/// SAFETY: a call of in_projects() that asks for a constant.
unsafe fn name_action(call: *mut pg_sys::FuncExpr, action: &str) {
    // SAFETY: as the function's own; the text is a copy in the memory where queries are planned.
    unsafe {
        let text = elements::<pg_sys::Const>((*call).args)[2];
        let copy = pg_sys::cstring_to_text_with_len(action.as_ptr().cast(), action.len() as i32);
        (*text).constvalue = pg_sys::Datum::from(copy);
    }
}

/// `check(tableoid, project, cluster, action)` of the table with this number.
///
/// SAFETY: a call of in_projects().
unsafe fn checking(
    call: *mut pg_sys::FuncExpr,
    number: i32,
    check: pg_sys::Oid,
) -> *mut pg_sys::FuncExpr {
    // SAFETY: as the function's own; what is made is made of copies.
    unsafe {
        let checking: *mut pg_sys::FuncExpr = pg_sys::copyObjectImpl(call.cast()).cast();
        (*checking).funcid = check;
        let table = pg_sys::makeVar(
            number,
            pg_sys::TableOidAttributeNumber as i16,
            pg_sys::OIDOID,
            -1,
            pg_sys::InvalidOid,
            0,
        );
        (*checking).args = pg_sys::lcons(table.cast(), (*checking).args);
        checking
    }
}

/// The row that an upsert or a MERGE met: PostgreSQL refuses it by itself, in a bare sentence. Ours comes before it.
///
/// SAFETY: a rewritten query.
unsafe fn raise_in_checks(query: *mut pg_sys::Query, rules: &Rules) {
    // SAFETY: the list holds row checks, whose conditions are expressions.
    unsafe {
        let Some(entry) = entry(query, (*query).resultRelation) else {
            return;
        };
        for option in elements::<pg_sys::WithCheckOption>((*query).withCheckOptions) {
            let event = match (**option).kind {
                pg_sys::WCOKind::WCO_RLS_CONFLICT_CHECK
                | pg_sys::WCOKind::WCO_RLS_MERGE_UPDATE_CHECK => Event::Update,
                pg_sys::WCOKind::WCO_RLS_MERGE_DELETE_CHECK => Event::Delete,
                _ => continue,
            };
            let node = (**option).qual;
            if let Some(call) = call_of(node, rules.in_projects)
                && let Some(asked) = (rules.asked)((*entry).relid, event)
                && is_asking(node, rules, &asked.writing)
            {
                let check = checking(call, (*query).resultRelation, rules.check);
                (**option).qual = check.cast();
            }
        }
    }
}
