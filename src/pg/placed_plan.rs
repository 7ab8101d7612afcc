//! Finished plans that scan tables with a project column: which rows the part of an index leaves to `in_projects()`.

use super::plan::elements;
use super::value;
use pgrx::prelude::*;

/// PostgreSQL's own `uuid >= uuid` and `uuid <= uuid`.
const AT_LEAST: u32 = 2977;
const AT_MOST: u32 = 2976;
/// And `uuid = uuid`.
const EQUAL: u32 = 2972;

/// `in_projects()` and the functions that stand for its part of an index.
#[derive(Clone, Copy)]
pub struct Functions {
    pub in_projects: pg_sys::Oid,
    pub from: pg_sys::Oid,
    pub to: pg_sys::Oid,
    pub ids: pg_sys::Oid,
}

/// The action that a call of `in_projects()` asks for, where it is a constant.
///
/// SAFETY: a call, which outlives the answer.
pub unsafe fn action_of<'a>(call: *mut pg_sys::FuncExpr, of: Functions) -> Option<&'a [u8]> {
    // SAFETY: as the function's own; the third argument is text.
    unsafe {
        let [_, _, action] = *elements::<pg_sys::Node>((*call).args) else {
            return None;
        };
        ((*call).funcid == of.in_projects)
            .then(|| text(action))
            .flatten()
    }
}

/// SAFETY: an expression of type text, which outlives the answer.
unsafe fn text<'a>(node: *mut pg_sys::Node) -> Option<&'a [u8]> {
    // SAFETY: the node's tag says what it is.
    unsafe {
        let constant = node.cast::<pg_sys::Const>();
        ((*node).type_ == pg_sys::NodeTag::T_Const && !(*constant).constisnull)
            .then(|| value::plain_bytes((*constant).constvalue.cast_mut_ptr()))
    }
}

/// Whether a scan is by an index, in which its part on the project column is that of the call's action.
///
/// SAFETY: a scan of a plan in which nothing was bound yet, and a call of `in_projects()` among its conditions.
pub unsafe fn is_ranged(
    scan: *mut pg_sys::Plan,
    call: *mut pg_sys::FuncExpr,
    of: Functions,
) -> bool {
    // SAFETY: as the function's own; the node's tag says what it is.
    unsafe {
        let Some(action) = action_of(call, of) else {
            return false;
        };
        let project = elements::<pg_sys::Node>((*call).args)[0];
        let ranges = match (*scan).type_ {
            pg_sys::NodeTag::T_IndexScan => (*scan.cast::<pg_sys::IndexScan>()).indexqualorig,
            pg_sys::NodeTag::T_BitmapHeapScan => {
                (*scan.cast::<pg_sys::BitmapHeapScan>()).bitmapqualorig
            }
            _ => return false,
        };
        let asks = |operation: pg_sys::Oid, operator: u32, arguments, function| {
            let [column, value] = *elements::<pg_sys::Node>(arguments) else {
                return false;
            };
            let value = value.cast::<pg_sys::FuncExpr>();
            u32::from(operation) == operator
                && pg_sys::equal(column.cast(), project.cast())
                && (*value).xpr.type_ == pg_sys::NodeTag::T_FuncExpr
                && (*value).funcid == function
                && matches!(*elements::<pg_sys::Node>((*value).args), [asked]
                    if text(asked) == Some(action))
        };
        let has = |operator: u32, function: pg_sys::Oid| {
            let conditions = elements::<pg_sys::Node>(ranges);
            conditions
                .iter()
                .any(|condition| match (**condition).type_ {
                    pg_sys::NodeTag::T_OpExpr => {
                        let range = condition.cast::<pg_sys::OpExpr>();
                        asks((*range).opno, operator, (*range).args, function)
                    }
                    pg_sys::NodeTag::T_ScalarArrayOpExpr => {
                        let any = condition.cast::<pg_sys::ScalarArrayOpExpr>();
                        (*any).useOr && asks((*any).opno, operator, (*any).args, function)
                    }
                    _ => false,
                })
        };
        has(EQUAL, of.ids) || has(AT_LEAST, of.from) && has(AT_MOST, of.to)
    }
}
