//! Expressions and finished plans: which conditions tell nothing by being evaluated, and putting those first.

use super::key::ByKind;
use pgrx::prelude::*;

/// The elements of a list of pointers, or nothing.
///
/// SAFETY: a list of nodes of type `T`, or NULL, which nobody changes while the answer is used.
pub unsafe fn elements<'a, T>(list: *mut pg_sys::List) -> &'a [*mut T] {
    if list.is_null() {
        return &[];
    }
    // SAFETY: as the function's own; a cell of such a list is a pointer and nothing else.
    unsafe {
        std::slice::from_raw_parts((*list).elements.cast::<*mut T>(), (*list).length as usize)
    }
}

/// A list of these nodes.
///
/// SAFETY: nodes that outlive the list.
pub unsafe fn list_of<T>(nodes: &[*mut T]) -> *mut pg_sys::List {
    // SAFETY: lappend() copies the pointer.
    unsafe {
        nodes.iter().fold(std::ptr::null_mut(), |list, node| {
            pg_sys::lappend(list, node.cast())
        })
    }
}

/// A function of PostgreSQL itself that is marked leakproof: it raises for no argument and does nothing else.
fn is_pure(function: pg_sys::Oid) -> bool {
    // SAFETY: a syscache look-up.
    u32::from(function) < pg_sys::FirstNormalObjectId
        && unsafe { pg_sys::get_func_leakproof(function) }
}

/// What of ours may stand in a condition that comes first.
#[derive(Clone, Copy)]
pub struct Ours {
    /// Our schema, in which nobody else makes functions.
    pub schema: pg_sys::Oid,
    /// `org_if()` and its like, by the type that they answer.
    pub org_if: ByKind,
    /// Whether an action is known: `org_if()` raises for another, and what raises is not silent.
    pub knows: fn(&[u8]) -> bool,
}

/// The functions that policies of ours are made of: `org_if('...')` and `current_org()` with those of other key types,
/// `current_user_id()`, `sees_user(column)` and `sees_project(column)`. None raises for what a row holds, and none is called leakproof: `org_if(column)` would be run on
/// other organizations' rows and say their values in its error (attack C-1).
///
/// SAFETY: a FuncExpr.
unsafe fn is_ours(call: *mut pg_sys::FuncExpr, ours: Ours) -> bool {
    // SAFETY: as the function's own; the arguments are nodes.
    unsafe {
        if ours.org_if.kind_of((*call).funcid).is_some() {
            return action_of(call).is_some_and(ours.knows);
        }
        if pg_sys::get_func_namespace((*call).funcid) != ours.schema {
            return false;
        }
        let name = std::ffi::CStr::from_ptr(pg_sys::get_func_name((*call).funcid));
        match (name.to_bytes(), elements::<pg_sys::Node>((*call).args)) {
            (
                b"current_org"
                | b"current_org_key"
                | b"current_org_key_integer"
                | b"current_org_key_bigint"
                | b"current_user_id"
                | b"sees_bypasses",
                [],
            ) => true,
            (b"is_unscoped", []) => true,
            (b"project_from" | b"project_to" | b"project_ids", [_]) => action_of(call).is_some(),
            (b"in_scope" | b"in_full_scope" | b"in_projects", arguments) => {
                arguments.iter().all(|a| is_column_or_constant(*a))
            }
            (b"sees_user" | b"sees_project", [column]) => {
                (**column).type_ == pg_sys::NodeTag::T_Var
            }
            (b"sees_project_member", columns @ [_, _]) => columns
                .iter()
                .all(|column| (**column).type_ == pg_sys::NodeTag::T_Var),
            _ => false,
        }
    }
}

/// SAFETY: an expression.
unsafe fn is_column_or_constant(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the node's tag says what it is.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_Var | pg_sys::NodeTag::T_Const => true,
            pg_sys::NodeTag::T_RelabelType => {
                is_column_or_constant((*node.cast::<pg_sys::RelabelType>()).arg.cast())
            }
            _ => false,
        }
    }
}

/// The action that a call of `org_if()` names, where it is a constant.
///
/// SAFETY: a call of org_if(), which outlives the answer.
pub unsafe fn action_of<'a>(call: *mut pg_sys::FuncExpr) -> Option<&'a [u8]> {
    // SAFETY: as the function's own; its one argument is text, and a constant's is in memory that lives with the plan.
    unsafe {
        let [action] = elements::<pg_sys::Node>((*call).args) else {
            return None;
        };
        let action = (*action).cast::<pg_sys::Const>();
        if (*action).xpr.type_ != pg_sys::NodeTag::T_Const || (*action).constisnull {
            return None;
        }
        Some(super::value::plain_bytes(
            (*action).constvalue.cast_mut_ptr(),
        ))
    }
}

/// A column, a value that is there before the statement starts, or the organization.
///
/// SAFETY: an expression, or NULL.
unsafe fn is_operand(node: *mut pg_sys::Node, ours: Ours) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: the node's tag says what it is.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_Var | pg_sys::NodeTag::T_Const => true,
            // Any other kind may be the result of a sub-select that runs when it is first asked for.
            pg_sys::NodeTag::T_Param => {
                (*node.cast::<pg_sys::Param>()).paramkind == pg_sys::ParamKind::PARAM_EXTERN
            }
            pg_sys::NodeTag::T_RelabelType => {
                is_operand((*node.cast::<pg_sys::RelabelType>()).arg.cast(), ours)
            }
            pg_sys::NodeTag::T_FuncExpr => is_ours(node.cast(), ours),
            _ => false,
        }
    }
}

/// Whether evaluating a condition tells nothing, not even that it was evaluated: comparisons of columns and values by
/// PostgreSQL's own leakproof functions. What has a function of the querier's in it, or one that raises, does: which rows
/// came that far would show (attack E1: `... AND nextval('mine') IS NOT NULL`).
///
/// SAFETY: an expression, or NULL.
pub unsafe fn is_silent(node: *mut pg_sys::Node, ours: Ours) -> bool {
    if node.is_null() {
        return false;
    }
    let all = |list, test: unsafe fn(*mut pg_sys::Node, Ours) -> bool| {
        // SAFETY: arguments of an expression are expressions.
        unsafe { elements(list) }
            .iter()
            .all(|argument| unsafe { test(*argument, ours) })
    };
    // SAFETY: the node's tag says what it is.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_OpExpr => {
                let expression = node.cast::<pg_sys::OpExpr>();
                is_pure((*expression).opfuncid) && all((*expression).args, is_operand)
            }
            pg_sys::NodeTag::T_ScalarArrayOpExpr => {
                let expression = node.cast::<pg_sys::ScalarArrayOpExpr>();
                is_pure((*expression).opfuncid) && all((*expression).args, is_operand)
            }
            pg_sys::NodeTag::T_BoolExpr => all((*node.cast::<pg_sys::BoolExpr>()).args, is_silent),
            pg_sys::NodeTag::T_NullTest => {
                is_operand((*node.cast::<pg_sys::NullTest>()).arg.cast(), ours)
            }
            pg_sys::NodeTag::T_BooleanTest => {
                is_operand((*node.cast::<pg_sys::BooleanTest>()).arg.cast(), ours)
            }
            _ => is_operand(node, ours),
        }
    }
}

/// Whether an expression of a condition calls only what is leakproof or `allowed` on the way to a column.
///
/// SAFETY: an expression, or NULL.
pub unsafe fn leaks_no_column(
    node: *mut pg_sys::Node,
    allowed: &dyn Fn(pg_sys::Oid) -> bool,
) -> bool {
    // SAFETY: the node's tag says what it is; arguments are expressions.
    unsafe {
        if node.is_null() || !pg_sys::contain_var_clause(node) {
            return true;
        }
        let call = |function, arguments| {
            (allowed(function) || pg_sys::get_func_leakproof(function))
                && elements(arguments)
                    .iter()
                    .all(|argument| leaks_no_column(*argument, allowed))
        };
        match (*node).type_ {
            pg_sys::NodeTag::T_Var => true,
            pg_sys::NodeTag::T_RelabelType => {
                leaks_no_column((*node.cast::<pg_sys::RelabelType>()).arg.cast(), allowed)
            }
            pg_sys::NodeTag::T_FuncExpr => {
                let expression = node.cast::<pg_sys::FuncExpr>();
                call((*expression).funcid, (*expression).args)
            }
            pg_sys::NodeTag::T_OpExpr => {
                let expression = node.cast::<pg_sys::OpExpr>();
                call((*expression).opfuncid, (*expression).args)
            }
            pg_sys::NodeTag::T_ScalarArrayOpExpr => {
                let expression = node.cast::<pg_sys::ScalarArrayOpExpr>();
                call((*expression).opfuncid, (*expression).args)
            }
            _ => false,
        }
    }
}

/// Calls `see` with every node of a finished plan.
///
/// SAFETY: a finished plan.
pub unsafe fn for_each_node(
    plan: *mut pg_sys::PlannedStmt,
    see: &mut dyn FnMut(*mut pg_sys::Plan),
) {
    // SAFETY: the list holds plans; a sub-select that was optimized away leaves a NULL.
    unsafe {
        walk((*plan).planTree, see);
        for subplan in elements((*plan).subplans) {
            walk(*subplan, see);
        }
    }
}

/// SAFETY: a plan node, or NULL.
unsafe fn walk(plan: *mut pg_sys::Plan, see: &mut dyn FnMut(*mut pg_sys::Plan)) {
    if plan.is_null() {
        return;
    }
    // SAFETY: the node's tag says which children it has besides the two that all have.
    unsafe {
        pg_sys::check_stack_depth();
        see(plan);
        walk((*plan).lefttree, see);
        walk((*plan).righttree, see);
        let more = match (*plan).type_ {
            pg_sys::NodeTag::T_Append => (*plan.cast::<pg_sys::Append>()).appendplans,
            pg_sys::NodeTag::T_MergeAppend => (*plan.cast::<pg_sys::MergeAppend>()).mergeplans,
            pg_sys::NodeTag::T_BitmapAnd => (*plan.cast::<pg_sys::BitmapAnd>()).bitmapplans,
            pg_sys::NodeTag::T_BitmapOr => (*plan.cast::<pg_sys::BitmapOr>()).bitmapplans,
            pg_sys::NodeTag::T_CustomScan => (*plan.cast::<pg_sys::CustomScan>()).custom_plans,
            pg_sys::NodeTag::T_SubqueryScan => {
                return walk((*plan.cast::<pg_sys::SubqueryScan>()).subplan, see);
            }
            _ => return,
        };
        for child in elements(more) {
            walk(*child, see);
        }
    }
}

/// The tables, each as often as it stands there, that a plan's columns hand to a function as its first argument.
///
/// SAFETY: a finished plan.
pub unsafe fn tables_asked_for(
    plan: *mut pg_sys::PlannedStmt,
    function: pg_sys::Oid,
) -> Vec<pg_sys::Oid> {
    let mut found = vec![];
    // SAFETY: the lists hold what they are called; the nodes' tags say what they are.
    unsafe {
        for_each_node(plan, &mut |node| {
            for column in elements::<pg_sys::TargetEntry>((*node).targetlist) {
                let call = (**column).expr.cast::<pg_sys::FuncExpr>();
                if call.is_null()
                    || (*call).xpr.type_ != pg_sys::NodeTag::T_FuncExpr
                    || (*call).funcid != function
                {
                    continue;
                }
                if let [table, _] = elements::<pg_sys::Node>((*call).args)
                    && (**table).type_ == pg_sys::NodeTag::T_Const
                {
                    let value = (*table.cast::<pg_sys::Const>()).constvalue;
                    found.push(pg_sys::Oid::from(value.value() as u32));
                }
            }
        });
    }
    found
}

/// The table that a node scans, if it scans one.
///
/// SAFETY: a node of the plan.
pub unsafe fn scanned(
    statement: *mut pg_sys::PlannedStmt,
    plan: *mut pg_sys::Plan,
) -> Option<pg_sys::Oid> {
    // SAFETY: these nodes begin with a Scan, whose number counts the range table from 1; a custom scan of a join has 0.
    unsafe {
        if !matches!(
            (*plan).type_,
            pg_sys::NodeTag::T_SeqScan
                | pg_sys::NodeTag::T_SampleScan
                | pg_sys::NodeTag::T_IndexScan
                | pg_sys::NodeTag::T_IndexOnlyScan
                | pg_sys::NodeTag::T_BitmapIndexScan
                | pg_sys::NodeTag::T_BitmapHeapScan
                | pg_sys::NodeTag::T_TidScan
                | pg_sys::NodeTag::T_TidRangeScan
                | pg_sys::NodeTag::T_CustomScan
        ) {
            return None;
        }
        let number = (*plan.cast::<pg_sys::Scan>()).scanrelid;
        let entries = elements::<pg_sys::RangeTblEntry>((*statement).rtable);
        let entry = *entries.get((number as usize).checked_sub(1)?)?;
        ((*entry).rtekind == pg_sys::RTEKind::RTE_RELATION).then_some((*entry).relid)
    }
}

/// Whether the rows of a scan are locked for a SELECT.
///
/// SAFETY: a scan of the plan.
pub unsafe fn locks(statement: *mut pg_sys::PlannedStmt, scan: *mut pg_sys::Plan) -> bool {
    // SAFETY: the list holds PlanRowMark nodes; the marks that lock nothing come after those that do.
    unsafe {
        let number = (*scan.cast::<pg_sys::Scan>()).scanrelid;
        elements::<pg_sys::PlanRowMark>((*statement).rowMarks)
            .iter()
            .any(|mark| {
                (**mark).rti == number
                    && (**mark).markType <= pg_sys::RowMarkType::ROW_MARK_KEYSHARE
            })
    }
}

/// Calls `to` where a condition of a scan is `... OR from(..)`; both take and answer the same.
///
/// SAFETY: a scan of a plan that is not used yet.
pub unsafe fn replace_alternative(scan: *mut pg_sys::Plan, from: pg_sys::Oid, to: pg_sys::Oid) {
    // SAFETY: as the function's own; the nodes' tags say what they are.
    unsafe {
        for condition in elements::<pg_sys::Node>((*scan).qual).iter().copied() {
            if (*condition).type_ != pg_sys::NodeTag::T_BoolExpr {
                continue;
            }
            for part in elements::<pg_sys::Node>((*condition.cast::<pg_sys::BoolExpr>()).args) {
                let call = part.cast::<pg_sys::FuncExpr>();
                if (**part).type_ == pg_sys::NodeTag::T_FuncExpr && (*call).funcid == from {
                    (*call).funcid = to;
                }
            }
        }
    }
}

/// Whether the order in which a scan looks at its conditions could matter.
///
/// SAFETY: a scan.
pub unsafe fn is_mixed(plan: *mut pg_sys::Plan, ours: Ours) -> bool {
    // SAFETY: the lists hold expressions.
    unsafe {
        let conditions = elements::<pg_sys::Node>((*plan).qual);
        let again = recheck(plan).map_or(&[][..], |list| elements::<pg_sys::Node>(*list));
        conditions
            .iter()
            .chain(again)
            .any(|condition| !is_silent(*condition, ours))
    }
}

/// What the scan looks at again where the index gave more than it was asked for. A B-tree never does, and EXPLAIN shows
/// its list as the index condition.
///
/// SAFETY: a scan.
unsafe fn recheck<'a>(plan: *mut pg_sys::Plan) -> Option<&'a mut *mut pg_sys::List> {
    // SAFETY: the node's tag says what it is.
    unsafe {
        match (*plan).type_ {
            pg_sys::NodeTag::T_BitmapHeapScan => {
                Some(&mut (*plan.cast::<pg_sys::BitmapHeapScan>()).bitmapqualorig)
            }
            pg_sys::NodeTag::T_IndexScan
                if !is_btree((*plan.cast::<pg_sys::IndexScan>()).indexid) =>
            {
                Some(&mut (*plan.cast::<pg_sys::IndexScan>()).indexqualorig)
            }
            pg_sys::NodeTag::T_IndexOnlyScan
                if !is_btree((*plan.cast::<pg_sys::IndexOnlyScan>()).indexid) =>
            {
                Some(&mut (*plan.cast::<pg_sys::IndexOnlyScan>()).recheckqual)
            }
            _ => None,
        }
    }
}

fn is_btree(index: pg_sys::Oid) -> bool {
    // SAFETY: a syscache look-up; the planner holds a lock on the index.
    unsafe { access_method(index) == pg_sys::BTREE_AM_OID }
}

/// SAFETY: an index.
pub unsafe fn access_method(index: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: the tuple is checked for NULL and released.
    unsafe {
        let tuple =
            pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as i32, index.into());
        if tuple.is_null() {
            return pg_sys::InvalidOid;
        }
        let method = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>()).relam;
        pg_sys::ReleaseSysCache(tuple);
        method
    }
}

/// Puts a scan's silent conditions, the organization's among them, before all others. The order within each part stays.
///
/// SAFETY: a scan of a plan that is not used yet.
pub unsafe fn silent_first(plan: *mut pg_sys::Plan, ours: Ours) {
    // SAFETY: the lists hold expressions; new lists are made where plans are.
    unsafe {
        let (silent, mut rest): (Vec<*mut pg_sys::Node>, Vec<_>) =
            elements::<pg_sys::Node>((*plan).qual)
                .iter()
                .partition(|condition| is_silent(**condition, ours));
        if let Some(list) = recheck(plan) {
            let (mut first, again): (Vec<*mut pg_sys::Node>, Vec<_>) =
                elements::<pg_sys::Node>(*list)
                    .iter()
                    .partition(|condition| is_silent(**condition, ours));
            if !again.is_empty() {
                for condition in &silent {
                    if !first
                        .iter()
                        .any(|f| pg_sys::equal(f.cast(), condition.cast()))
                    {
                        first.push(*condition);
                    }
                }
                first.extend(again);
                *list = list_of(&first);
            }
        }
        let mut ordered = silent;
        ordered.append(&mut rest);
        (*plan).qual = list_of(&ordered);
    }
}

/// Makes a full-text scan of a GIN index ask `check` (a function of the query, answering the query) before it begins. The
/// index looks at the query's tree for every row that it considers, and raises where the stack ends: once it has begun,
/// that would tell that there was a row to consider.
///
/// SAFETY: a scan of a plan that is not used yet; `check` takes and answers a tsquery.
pub unsafe fn check_room(scan: *mut pg_sys::BitmapIndexScan, check: pg_sys::Oid) {
    // SAFETY: as the function's own; index conditions are what the tags say.
    unsafe {
        if access_method((*scan).indexid) != pg_sys::GIN_AM_OID {
            return;
        }
        for condition in elements::<pg_sys::Node>((*scan).indexqual).iter().copied() {
            if (*condition).type_ != pg_sys::NodeTag::T_OpExpr {
                continue;
            }
            let arguments = (*condition.cast::<pg_sys::OpExpr>()).args;
            let [_, query] = *elements::<pg_sys::Node>(arguments) else {
                continue;
            };
            if pg_sys::exprType(query) != pg_sys::TSQUERYOID {
                continue;
            }
            let call = pg_sys::makeFuncExpr(
                check,
                pg_sys::TSQUERYOID,
                list_of(&[query]),
                pg_sys::InvalidOid,
                pg_sys::InvalidOid,
                pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
            );
            (*(*arguments).elements.add(1)).ptr_value = call.cast();
        }
    }
}

/// How many bytes of stack are left until PostgreSQL refuses to go deeper.
pub fn stack_left() -> usize {
    let here = 0_u8;
    // SAFETY: the base is put back at once; nothing looks at it in between.
    unsafe {
        let base = pg_sys::set_stack_base();
        pg_sys::restore_stack_base(base);
        let used = (base as usize).abs_diff(std::ptr::from_ref(&here) as usize);
        (pg_sys::max_stack_depth as usize * 1024).saturating_sub(used)
    }
}
