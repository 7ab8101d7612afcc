//! A planner support function: how large a share of the rows a condition lets through, and which part of an index answers
//! it.

use super::plan::{elements, list_of};
use pgrx::prelude::*;

/// What the planner asks.
pub enum Question {
    Share(Share),
    Range(Range),
    Other,
}

/// How large a share of the rows a call lets through.
pub struct Share(*mut pg_sys::SupportRequestSelectivity);

/// By which part of an index a call is answered.
pub struct Range(*mut pg_sys::SupportRequestIndexCondition);

/// The question, of a support function's one argument.
///
/// SAFETY: `fcinfo` is of a call by the planner; what is asked is used while that call is answered.
pub unsafe fn question(fcinfo: pg_sys::FunctionCallInfo) -> Question {
    // SAFETY: as the function's own; the node's tag says what it is.
    unsafe {
        let request = (*fcinfo).args.as_slice(1)[0]
            .value
            .cast_mut_ptr::<pg_sys::Node>();
        if request.is_null() {
            return Question::Other;
        }
        match (*request).type_ {
            pg_sys::NodeTag::T_SupportRequestSelectivity => Question::Share(Share(request.cast())),
            pg_sys::NodeTag::T_SupportRequestIndexCondition => {
                Question::Range(Range(request.cast()))
            }
            _ => Question::Other,
        }
    }
}

/// A constant text among the arguments of a call.
///
/// SAFETY: expressions that outlive the answer.
unsafe fn text_of<'a>(node: *mut pg_sys::Node) -> Option<&'a str> {
    // SAFETY: as the function's own; the tag says what it is.
    unsafe {
        let constant = node.cast::<pg_sys::Const>();
        if (*node).type_ != pg_sys::NodeTag::T_Const
            || (*constant).constisnull
            || (*constant).consttype != pg_sys::TEXTOID
        {
            return None;
        }
        let bytes = super::value::plain_bytes((*constant).constvalue.cast_mut_ptr());
        std::str::from_utf8(bytes).ok()
    }
}

/// A column of a table of the query.
#[derive(Clone, Copy)]
pub struct Column {
    pub table: pg_sys::Oid,
    node: *mut pg_sys::Var,
}

impl Share {
    /// Whether it is asked of the pairs of rows of two tables.
    pub fn is_of_join(&self) -> bool {
        // SAFETY: the request is being answered.
        unsafe { (*self.0).is_join }
    }

    /// How many arguments the call has.
    pub fn arguments(&self) -> usize {
        // SAFETY: the request is being answered.
        unsafe { elements::<pg_sys::Node>((*self.0).args).len() }
    }

    /// How many rows of the column's table pass the conditions that come before all others: the boundary of row security.
    pub fn rows_within_boundary(&self, column: Column) -> Option<f64> {
        // SAFETY: the request is being answered; the column was found among the query's tables.
        unsafe {
            let root = (*self.0).root;
            let rel = *(*root).simple_rel_array.add((*column.node).varno as usize);
            if rel.is_null() {
                return None;
            }
            let first = (*rel).baserestrict_min_security;
            let share: f64 = elements::<pg_sys::RestrictInfo>((*rel).baserestrictinfo)
                .iter()
                .filter(|condition| (***condition).security_level == first)
                .map(|condition| {
                    let inner = pg_sys::JoinType::JOIN_INNER;
                    let nothing = std::ptr::null_mut();
                    pg_sys::clause_selectivity(root, condition.cast(), 0, inner, nothing)
                })
                .product();
            Some((*rel).tuples * share)
        }
    }

    /// The text that is the n-th argument, from 0, where it is a constant.
    pub fn text(&self, n: usize) -> Option<&str> {
        // SAFETY: the request is being answered.
        unsafe {
            elements::<pg_sys::Node>((*self.0).args)
                .get(n)
                .and_then(|node| text_of(*node))
        }
    }

    /// The column that is the n-th argument, from 0.
    pub fn column(&self, n: usize) -> Option<Column> {
        // SAFETY: the request is being answered; a Var of this level counts the query's tables from 1.
        unsafe {
            let node = *elements::<pg_sys::Node>((*self.0).args).get(n)?;
            let var = node.cast::<pg_sys::Var>();
            if (*node).type_ != pg_sys::NodeTag::T_Var || (*var).varlevelsup != 0 {
                return None;
            }
            let root = (*self.0).root;
            let number = (*var).varno;
            if root.is_null() || number < 1 || number >= (*root).simple_rel_array_size {
                return None;
            }
            let entry = *(*root).simple_rte_array.add(number as usize);
            if entry.is_null() || (*entry).rtekind != pg_sys::RTEKind::RTE_RELATION {
                return None;
            }
            Some(Column {
                table: (*entry).relid,
                node: var,
            })
        }
    }

    /// The share of rows in which a column of the same table, by its number, holds a value. `equals`: the operator.
    pub fn of_rows_with(
        &self,
        beside: Column,
        attnum: i16,
        type_id: pg_sys::Oid,
        equals: pg_sys::Oid,
        value: pg_sys::Datum,
    ) -> f64 {
        // SAFETY: the request is being answered; the value is of the type and outlives the question.
        unsafe {
            let (mut length, mut by_value) = (0, false);
            pg_sys::get_typlenbyval(type_id, &mut length, &mut by_value);
            let collation = pg_sys::get_typcollation(type_id);
            let column =
                pg_sys::makeVar((*beside.node).varno as _, attnum, type_id, -1, collation, 0);
            let constant = pg_sys::makeConst(
                type_id,
                -1,
                collation,
                i32::from(length),
                value,
                false,
                by_value,
            );
            let arguments = list_of(&[
                column.cast::<pg_sys::Node>(),
                constant.cast::<pg_sys::Node>(),
            ]);
            pg_sys::restriction_selectivity(
                (*self.0).root,
                equals,
                arguments,
                collation,
                (*self.0).varRelid,
            )
        }
    }

    /// The number of the n-th argument's column.
    pub fn number(&self, column: Column) -> i16 {
        // SAFETY: the request is being answered.
        unsafe { (*column.node).varattno }
    }

    /// Answers.
    pub fn answer(self, share: f64) -> pg_sys::Datum {
        // SAFETY: the request is being answered.
        unsafe { (*self.0).selectivity = share.clamp(0.0, 1.0) };
        pg_sys::Datum::from(self.0)
    }
}

const AT_LEAST: i16 = pg_sys::BTGreaterEqualStrategyNumber as i16;
const AT_MOST: i16 = pg_sys::BTLessEqualStrategyNumber as i16;

impl Range {
    /// The index's column as at least `from(text)` and at most `to(text)`, functions of ours of the constant text that is the
    /// n-th argument of the call; NULL where the index is of a kind that knows no order, or another argument is its column.
    pub fn answer(self, n: usize, from: pg_sys::Oid, to: pg_sys::Oid) -> pg_sys::Datum {
        let none = pg_sys::Datum::from(0);
        // SAFETY: the request is being answered; the call is a FuncExpr where its tag says so.
        unsafe {
            let request = self.0;
            let call = (*request).node.cast::<pg_sys::FuncExpr>();
            if (*request).indexarg != 0 || (*call).xpr.type_ != pg_sys::NodeTag::T_FuncExpr {
                return none;
            }
            let [column, action] = [0, n].map(|i| elements::<pg_sys::Node>((*call).args)[i]);
            let operators = [AT_LEAST, AT_MOST].map(|strategy| {
                pg_sys::get_opfamily_member(
                    (*request).opfamily,
                    pg_sys::UUIDOID,
                    pg_sys::UUIDOID,
                    strategy,
                )
            });
            if text_of(action).is_none() || operators.contains(&pg_sys::InvalidOid) {
                return none;
            }
            let mut conditions = vec![];
            for (operator, function) in operators.into_iter().zip([from, to]) {
                let value = pg_sys::makeFuncExpr(
                    function,
                    pg_sys::UUIDOID,
                    list_of(&[pg_sys::copyObjectImpl(action.cast()).cast::<pg_sys::Node>()]),
                    pg_sys::InvalidOid,
                    pg_sys::DEFAULT_COLLATION_OID,
                    pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
                );
                let condition = pg_sys::make_opclause(
                    operator,
                    pg_sys::BOOLOID,
                    false,
                    pg_sys::copyObjectImpl(column.cast()).cast(),
                    value.cast(),
                    pg_sys::InvalidOid,
                    pg_sys::InvalidOid,
                );
                conditions.push(condition.cast::<pg_sys::Node>());
            }
            // Between the two may be projects that are not among those asked for.
            (*request).lossy = true;
            pg_sys::Datum::from(list_of(&conditions))
        }
    }

    /// The n-th argument, from 0, where it is a constant text.
    pub fn text(&self, n: usize) -> Option<&str> {
        // SAFETY: the request is being answered; the call is a FuncExpr where its tag says so.
        unsafe {
            let call = (*self.0).node.cast::<pg_sys::FuncExpr>();
            if (*call).xpr.type_ != pg_sys::NodeTag::T_FuncExpr {
                return None;
            }
            elements::<pg_sys::Node>((*call).args)
                .get(n)
                .and_then(|node| text_of(*node))
        }
    }

    /// Whether a list of values of this column leaves the rows in the index's order: it is a B-tree, and each column before
    /// holds one value. The planner sees to that only where the condition itself has a list in it; ours is a call.
    pub fn keeps_order(&self) -> bool {
        // SAFETY: the request is being answered.
        unsafe {
            let index = (*self.0).index;
            (*index).relam == pg_sys::BTREE_AM_OID
                && (0..(*self.0).indexcol as usize).all(|column| holds_one_value(index, column))
        }
    }

    /// The index's column as one of those that `ids(text)`, a function of ours that answers an array, has of the constant
    /// text that is the n-th argument of the call; NULL as above.
    pub fn answer_any(self, n: usize, ids: pg_sys::Oid) -> pg_sys::Datum {
        let none = pg_sys::Datum::from(0);
        // SAFETY: the request is being answered; the call is a FuncExpr where its tag says so.
        unsafe {
            let request = self.0;
            let call = (*request).node.cast::<pg_sys::FuncExpr>();
            if (*request).indexarg != 0 || (*call).xpr.type_ != pg_sys::NodeTag::T_FuncExpr {
                return none;
            }
            let [column, action] = [0, n].map(|i| elements::<pg_sys::Node>((*call).args)[i]);
            let uuid = pg_sys::UUIDOID;
            let operator = pg_sys::get_opfamily_member((*request).opfamily, uuid, uuid, EQUAL);
            if text_of(action).is_none() || operator == pg_sys::InvalidOid {
                return none;
            }
            let list = pg_sys::makeFuncExpr(
                ids,
                pg_sys::UUIDARRAYOID,
                list_of(&[pg_sys::copyObjectImpl(action.cast()).cast::<pg_sys::Node>()]),
                pg_sys::InvalidOid,
                pg_sys::DEFAULT_COLLATION_OID,
                pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
            );
            // A zeroed node with its tag is what PostgreSQL's makeNode() answers.
            let any = pg_sys::palloc0(size_of::<pg_sys::ScalarArrayOpExpr>())
                .cast::<pg_sys::ScalarArrayOpExpr>();
            (*any).xpr.type_ = pg_sys::NodeTag::T_ScalarArrayOpExpr;
            (*any).opno = operator;
            (*any).opfuncid = pg_sys::get_opcode(operator);
            (*any).useOr = true;
            (*any).args = list_of(&[
                pg_sys::copyObjectImpl(column.cast()).cast::<pg_sys::Node>(),
                list.cast(),
            ]);
            (*any).location = -1;
            // The cluster is asked for by the call alone.
            (*request).lossy = true;
            pg_sys::Datum::from(list_of(&[any]))
        }
    }
}

const EQUAL: i16 = pg_sys::BTEqualStrategyNumber as i16;

/// Whether a scan of the index is always told one value of a column, by its place in the index.
///
/// SAFETY: an index of a table of the query.
unsafe fn holds_one_value(index: *mut pg_sys::IndexOptInfo, column: usize) -> bool {
    // SAFETY: as the function's own; the nodes' tags say what they are.
    unsafe {
        let rel = (*index).rel;
        let attribute = *(*index).indexkeys.add(column);
        let collation = *(*index).indexcollations.add(column);
        elements::<pg_sys::RestrictInfo>((*index).indrestrictinfo)
            .iter()
            .any(|condition| {
                let equals = (**condition).clause.cast::<pg_sys::OpExpr>();
                if (*equals).xpr.type_ != pg_sys::NodeTag::T_OpExpr {
                    return false;
                }
                let [variable, value] = *elements::<pg_sys::Node>((*equals).args) else {
                    return false;
                };
                let var = variable.cast::<pg_sys::Var>();
                let safe = (**condition).leakproof
                    || (**condition).security_level <= (*rel).baserestrict_min_security;
                safe && attribute != 0
                    && (*variable).type_ == pg_sys::NodeTag::T_Var
                    && (*var).varno as pg_sys::Index == (*rel).relid
                    && i32::from((*var).varattno) == attribute
                    && !pg_sys::contain_var_clause(value)
                    && !pg_sys::contain_volatile_functions(value)
                    && [pg_sys::InvalidOid, (*equals).inputcollid].contains(&collation)
                    && pg_sys::get_op_opfamily_strategy(
                        (*equals).opno,
                        *(*index).opfamily.add(column),
                    ) == i32::from(EQUAL)
            })
    }
}
