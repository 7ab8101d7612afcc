//! `org_if('...')` in a finished plan becomes a parameter that is given its value when the statement runs.
//!
//! A function in a plan is looked up, checked for EXECUTE and prepared for each execution, and called for each row that
//! a scan puts to it; a parameter is there already. Of what a point read paid above a literal, that was half, and of a
//! sequential scan all (measured). It is the value that an index scan has always used: decided once, before the first row.
//!
//! Only in plans of a SELECT that locks nothing: where PostgreSQL waits for a row and looks at it again, it must ask
//! again, since the right may have been taken away meanwhile (attack A10).

use super::plan::elements;
use pgrx::prelude::*;
use std::ffi::c_int;

/// The plan says by entries among the objects whose change invalidates it which parameters are ours: the entries are
/// copied with the plan, and the number is none of a catalog cache, so PostgreSQL never finds them changed.
const MARK: c_int = -1_784_020_115;
const ID_BITS: u32 = 16;

/// Puts parameters into a plan.
pub struct Binder {
    statement: *mut pg_sys::PlannedStmt,
    made: Vec<(u16, u16)>,
}

impl Binder {
    /// For a plan in which values may be bound, if it is one.
    ///
    /// SAFETY: a finished plan that is not used yet and outlives the binder.
    pub unsafe fn of(statement: *mut pg_sys::PlannedStmt) -> Option<Binder> {
        // SAFETY: as the function's own.
        let may = unsafe {
            (*statement).commandType == pg_sys::CmdType::CMD_SELECT
                && !(*statement).hasModifyingCTE
                && (*statement).rowMarks.is_null()
                && (*statement).utilityStmt.is_null()
        };
        may.then(|| Binder {
            statement,
            made: vec![],
        })
    }

    /// Replaces calls that `number` knows in the conditions of a scan.
    ///
    /// SAFETY: a scan of the plan; calls that get the same number answer the same.
    pub unsafe fn bind(
        &mut self,
        scan: *mut pg_sys::Plan,
        number: &dyn Fn(*mut pg_sys::FuncExpr) -> Option<u16>,
    ) {
        // SAFETY: the node's tag says which lists of expressions it has.
        unsafe {
            let more = match (*scan).type_ {
                pg_sys::NodeTag::T_IndexScan => {
                    let scan = scan.cast::<pg_sys::IndexScan>();
                    [(*scan).indexqual, (*scan).indexqualorig]
                }
                pg_sys::NodeTag::T_IndexOnlyScan => {
                    let scan = scan.cast::<pg_sys::IndexOnlyScan>();
                    [(*scan).indexqual, (*scan).recheckqual]
                }
                pg_sys::NodeTag::T_BitmapIndexScan => {
                    let scan = scan.cast::<pg_sys::BitmapIndexScan>();
                    [(*scan).indexqual, std::ptr::null_mut()]
                }
                pg_sys::NodeTag::T_BitmapHeapScan => {
                    let scan = scan.cast::<pg_sys::BitmapHeapScan>();
                    [(*scan).bitmapqualorig, std::ptr::null_mut()]
                }
                _ => [std::ptr::null_mut(); 2],
            };
            for list in [(*scan).qual].into_iter().chain(more) {
                self.bind_in(list, number);
            }
        }
    }

    /// SAFETY: as `bind`; a list of conditions.
    unsafe fn bind_in(
        &mut self,
        conditions: *mut pg_sys::List,
        number: &dyn Fn(*mut pg_sys::FuncExpr) -> Option<u16>,
    ) {
        // SAFETY: as the function's own; the nodes' tags say what they are.
        unsafe {
            for condition in elements::<pg_sys::Node>(conditions).iter().copied() {
                let arguments = match (*condition).type_ {
                    pg_sys::NodeTag::T_OpExpr => (*condition.cast::<pg_sys::OpExpr>()).args,
                    pg_sys::NodeTag::T_ScalarArrayOpExpr => {
                        (*condition.cast::<pg_sys::ScalarArrayOpExpr>()).args
                    }
                    // `is_unscoped() OR ...`
                    pg_sys::NodeTag::T_BoolExpr => (*condition.cast::<pg_sys::BoolExpr>()).args,
                    _ => continue,
                };
                for i in 0..elements::<pg_sys::Node>(arguments).len() {
                    let argument = elements::<pg_sys::Node>(arguments)[i];
                    if (*argument).type_ != pg_sys::NodeTag::T_FuncExpr {
                        continue;
                    }
                    let call = argument.cast::<pg_sys::FuncExpr>();
                    if let Some(param) = number(call).and_then(|n| self.param(n, call)) {
                        (*(*arguments).elements.add(i)).ptr_value = param.cast();
                    }
                }
            }
        }
    }

    /// Puts `parameter OR condition` in the place of each condition of a scan that is a call which `number` knows: where the
    /// parameter is true of all rows, they are not put to the call.
    ///
    /// SAFETY: as `bind`; where the value of the number is true, so is the call for every row of the scan.
    pub unsafe fn spare(
        &mut self,
        scan: *mut pg_sys::Plan,
        number: &dyn Fn(*mut pg_sys::FuncExpr) -> Option<u16>,
    ) {
        // SAFETY: as the function's own; the node's tag says what it is.
        unsafe {
            let conditions = (*scan).qual;
            for i in 0..elements::<pg_sys::Node>(conditions).len() {
                let condition = elements::<pg_sys::Node>(conditions)[i];
                if (*condition).type_ != pg_sys::NodeTag::T_FuncExpr {
                    continue;
                }
                let call = condition.cast::<pg_sys::FuncExpr>();
                let Some(param) = number(call).and_then(|number| self.param(number, call)) else {
                    continue;
                };
                let either = super::plan::list_of(&[param.cast::<pg_sys::Node>(), condition]);
                let either = pg_sys::makeBoolExpr(pg_sys::BoolExprType::OR_EXPR, either, -1);
                (*(*conditions).elements.add(i)).ptr_value = either.cast();
            }
        }
    }

    /// The parameter in place of a call, or before it.
    ///
    /// SAFETY: as `bind`.
    unsafe fn param(
        &mut self,
        number: u16,
        call: *mut pg_sys::FuncExpr,
    ) -> Option<*mut pg_sys::Param> {
        // SAFETY: as the function's own; a zeroed node with its tag is what PostgreSQL's makeNode() answers.
        unsafe {
            let id = match self.made.iter().find(|(n, _)| *n == number) {
                Some((_, id)) => *id,
                None => {
                    let types = (*self.statement).paramExecTypes;
                    let id = if types.is_null() { 0 } else { (*types).length };
                    let id = u16::try_from(id).ok()?;
                    (*self.statement).paramExecTypes =
                        pg_sys::lappend_oid(types, (*call).funcresulttype);
                    self.made.push((number, id));
                    id
                }
            };
            let param = pg_sys::palloc0(size_of::<pg_sys::Param>()).cast::<pg_sys::Param>();
            (*param).xpr.type_ = pg_sys::NodeTag::T_Param;
            (*param).paramkind = pg_sys::ParamKind::PARAM_EXEC;
            (*param).paramid = i32::from(id);
            (*param).paramtype = (*call).funcresulttype;
            (*param).paramtypmod = -1;
            (*param).paramcollid = (*call).funccollid;
            (*param).location = -1;
            Some(param)
        }
    }

    /// Notes in the plan what was bound, and has its value handed to parallel workers.
    ///
    /// SAFETY: as `of`.
    pub unsafe fn finish(self) {
        if self.made.is_empty() {
            return;
        }
        // SAFETY: as the function's own; the node's tag says what it is.
        unsafe {
            for (number, id) in &self.made {
                let item = pg_sys::palloc0(size_of::<pg_sys::PlanInvalItem>())
                    .cast::<pg_sys::PlanInvalItem>();
                (*item).type_ = pg_sys::NodeTag::T_PlanInvalItem;
                (*item).cacheId = MARK;
                (*item).hashValue = u32::from(*number) << ID_BITS | u32::from(*id);
                (*self.statement).invalItems =
                    pg_sys::lcons(item.cast(), (*self.statement).invalItems);
            }
            if !(*self.statement).parallelModeNeeded {
                return;
            }
            super::plan::for_each_node(self.statement, &mut |node| {
                let handed = match (*node).type_ {
                    pg_sys::NodeTag::T_Gather => &mut (*node.cast::<pg_sys::Gather>()).initParam,
                    pg_sys::NodeTag::T_GatherMerge => {
                        &mut (*node.cast::<pg_sys::GatherMerge>()).initParam
                    }
                    _ => return,
                };
                for (_, id) in &self.made {
                    *handed = pg_sys::bms_add_member(*handed, i32::from(*id));
                }
            });
        }
    }
}

/// Whether a plan has parameters of ours.
///
/// SAFETY: a valid plan.
#[inline]
pub unsafe fn is_in(plan: *mut pg_sys::PlannedStmt) -> bool {
    // SAFETY: the list holds PlanInvalItem nodes; ours stand first.
    unsafe {
        let items = (*plan).invalItems;
        !items.is_null()
            && (*(*(*items).elements)
                .ptr_value
                .cast::<pg_sys::PlanInvalItem>())
            .cacheId
                == MARK
    }
}

/// Makes a statement's parameters NULL until they are given a value.
///
/// SAFETY: a started query whose plan has parameters of ours. Owns nothing.
pub unsafe fn withhold(query: *mut pg_sys::QueryDesc) {
    // SAFETY: as the function's own.
    unsafe {
        give(query, |_, _| pg_sys::NullableDatum {
            value: pg_sys::Datum::from(0),
            isnull: true,
        })
    }
}

/// Gives each of a statement's parameters what `value` says: NULL, a number, or a pointer that outlives the statement, in
/// whose memory it runs. It gets the number and the present value.
///
/// SAFETY: a started query whose plan has parameters of ours.
pub unsafe fn give(
    query: *mut pg_sys::QueryDesc,
    mut value: impl FnMut(u16, pg_sys::NullableDatum) -> pg_sys::NullableDatum,
) {
    // SAFETY: as the function's own; the executor made room for as many values as the plan has parameters.
    unsafe {
        let values = (*(*query).estate).es_param_exec_vals;
        let outer = pg_sys::MemoryContextSwitchTo((*(*query).estate).es_query_cxt);
        let items = (*(*query).plannedstmt).invalItems;
        for i in 0..(*items).length as usize {
            let item = (*(*items).elements.add(i))
                .ptr_value
                .cast::<pg_sys::PlanInvalItem>();
            if (*item).cacheId != MARK {
                break;
            }
            let mark = (*item).hashValue;
            let place = values.add((mark & ((1 << ID_BITS) - 1)) as usize);
            let now = pg_sys::NullableDatum {
                value: (*place).value,
                isnull: (*place).isnull,
            };
            let new = value((mark >> ID_BITS) as u16, now);
            (*place).value = new.value;
            (*place).isnull = new.isnull;
        }
        pg_sys::MemoryContextSwitchTo(outer);
    }
}
