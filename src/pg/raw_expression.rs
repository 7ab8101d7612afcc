//! Expressions as the parser left them: whether evaluating one on a row could say what is in it.

use super::identity;
use super::plan::elements;
use pgrx::prelude::*;
use std::ffi::{CStr, c_void};

/// PostgreSQL's own functions that raise for no argument, or say nothing of it when they do.
const QUIET: [&str; 32] = [
    "abs",
    "array_length",
    "ascii",
    "bit_length",
    "btrim",
    "cardinality",
    "ceil",
    "char_length",
    "character_length",
    "coalesce",
    "concat",
    "floor",
    "initcap",
    "json_typeof",
    "jsonb_typeof",
    "left",
    "length",
    "lower",
    "ltrim",
    "md5",
    "num_nonnulls",
    "num_nulls",
    "octet_length",
    "position",
    "replace",
    "reverse",
    "right",
    "round",
    "rtrim",
    "starts_with",
    "strpos",
    "upper",
];

#[derive(Default)]
struct Look {
    found: Option<String>,
}

/// The first thing in an expression that may be somebody's own code, or raise with the value it was given: a function that
/// is not on the list, an operator that is not the system's, a cast of a column.
///
/// SAFETY: an expression as the parser leaves it, or NULL.
pub unsafe fn telling(node: *mut pg_sys::Node) -> Option<String> {
    let mut look = Look::default();
    // SAFETY: as the function's own; `look` outlives the walk.
    unsafe { see(node, (&raw mut look).cast()) };
    look.found
}

/// Whether a column stands in an expression.
///
/// SAFETY: as `telling`.
unsafe fn has_column(node: *mut pg_sys::Node) -> bool {
    // SAFETY: as the function's own.
    unsafe { find_column(node, std::ptr::null_mut()) }
}

/// SAFETY: as `telling`.
#[pg_guard]
unsafe extern "C-unwind" fn find_column(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: the node's tag says what it is.
    unsafe {
        !node.is_null()
            && ((*node).type_ == pg_sys::NodeTag::T_ColumnRef
                || pg_sys::raw_expression_tree_walker(node, Some(find_column), context))
    }
}

/// SAFETY: as `telling`, with a `Look`.
#[pg_guard]
unsafe extern "C-unwind" fn see(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: the node's tag says what it is.
    unsafe {
        use pg_sys::NodeTag::*;
        let found = match (*node).type_ {
            T_ColumnRef | T_A_Const | T_SQLValueFunction | T_ParamRef => return false,
            T_FuncCall => telling_function((*node.cast::<pg_sys::FuncCall>()).funcname),
            T_A_Expr => telling_operator(node.cast()),
            T_TypeCast => has_column((*node.cast::<pg_sys::TypeCast>()).arg)
                .then(|| "a cast of a column".to_string()),
            T_BoolExpr | T_NullTest | T_BooleanTest | T_CaseExpr | T_CaseWhen | T_CoalesceExpr
            | T_MinMaxExpr | T_A_ArrayExpr | T_List | T_RowExpr | T_CollateClause => None,
            _ => Some("an expression of another kind".to_string()),
        };
        if found.is_some() {
            (*context.cast::<Look>()).found = found;
            return true;
        }
        if (*node).type_ == T_TypeCast {
            return false;
        }
        pg_sys::raw_expression_tree_walker(node, Some(see), context)
    }
}

/// SAFETY: a list of String nodes.
unsafe fn last_name(names: *mut pg_sys::List) -> String {
    // SAFETY: as the function's own.
    unsafe {
        elements::<pg_sys::String>(names)
            .last()
            .map(|name| CStr::from_ptr((**name).sval).to_string_lossy().into_owned())
            .unwrap_or_default()
    }
}

/// SAFETY: a list of candidates, or NULL.
unsafe fn candidates(mut list: *mut pg_sys::_FuncCandidateList) -> Vec<pg_sys::Oid> {
    let mut found = vec![];
    // SAFETY: as the function's own.
    unsafe {
        while !list.is_null() {
            found.push((*list).oid);
            list = (*list).next;
        }
    }
    found
}

fn is_builtin(id: pg_sys::Oid) -> bool {
    u32::from(id) < pg_sys::FirstNormalObjectId
}

/// SAFETY: the name of a function.
unsafe fn telling_function(names: *mut pg_sys::List) -> Option<String> {
    // SAFETY: as the function's own.
    unsafe {
        let name = last_name(names);
        let all = candidates(pg_sys::FuncnameGetCandidates(
            names,
            -1,
            std::ptr::null_mut(),
            false,
            false,
            false,
            true,
        ));
        (!QUIET.contains(&name.as_str()) || !all.into_iter().all(is_builtin))
            .then(|| format!("function {name}()"))
    }
}

/// Operators belong to the system, or to an extension that a superuser made.
///
/// SAFETY: an expression of an operator.
unsafe fn telling_operator(expression: *mut pg_sys::A_Expr) -> Option<String> {
    // SAFETY: as the function's own; the lists made here are of String nodes.
    unsafe {
        let names = match (*expression).kind {
            pg_sys::A_Expr_Kind::AEXPR_BETWEEN
            | pg_sys::A_Expr_Kind::AEXPR_NOT_BETWEEN
            | pg_sys::A_Expr_Kind::AEXPR_BETWEEN_SYM
            | pg_sys::A_Expr_Kind::AEXPR_NOT_BETWEEN_SYM => [c">=", c"<="]
                .map(|name| {
                    let node = pg_sys::makeString(pg_sys::pstrdup(name.as_ptr()));
                    pg_sys::lappend(std::ptr::null_mut(), node.cast())
                })
                .to_vec(),
            _ => vec![(*expression).name],
        };
        for names in names {
            let ours = candidates(pg_sys::OpernameGetCandidates(names, 0, true))
                .into_iter()
                .all(|operator| {
                    is_builtin(operator) || is_superusers(pg_sys::get_opcode(operator))
                });
            if !ours {
                return Some(format!("operator {}", last_name(names)));
            }
        }
        None
    }
}

/// SAFETY: none; a function that is gone is nobody's.
unsafe fn is_superusers(function: pg_sys::Oid) -> bool {
    // SAFETY: the tuple is checked for NULL and released.
    unsafe {
        let tuple =
            pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::PROCOID as i32, function.into());
        if tuple.is_null() {
            return false;
        }
        let owner = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>()).proowner;
        pg_sys::ReleaseSysCache(tuple);
        identity::is_superuser(owner)
    }
}

/// The type that a column is to have, where it is not the system's.
///
/// SAFETY: a name of a type.
pub unsafe fn own_type(name: *mut pg_sys::TypeName) -> Option<pg_sys::Oid> {
    // SAFETY: as the function's own; raises as the command itself would where there is no such type.
    unsafe {
        let id = pg_sys::typenameTypeId(std::ptr::null_mut(), name);
        (!is_builtin(id)).then_some(id)
    }
}
