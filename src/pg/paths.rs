//! Index paths that the planner withholds under row security: made for conditions that we take for leakproof, while
//! PostgreSQL keeps its own opinion of them for everything else.

use super::plan::{Ours, elements, is_silent, leaks_no_column, list_of};
use pgrx::prelude::*;
use std::collections::HashSet;

/// What is vouched for, as object ids.
#[derive(Debug, Default)]
pub struct Vouched {
    /// An operator, and a family of an index that may answer it.
    pub pairs: HashSet<(pg_sys::Oid, pg_sys::Oid)>,
    /// Functions that may stand in an index's expression.
    pub functions: HashSet<pg_sys::Oid>,
}

impl Vouched {
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.functions.is_empty()
    }

    fn has_operator(&self, operator: pg_sys::Oid) -> bool {
        self.pairs.iter().any(|(op, _)| *op == operator)
    }
}

/// The query that planning began with: that of the outermost level.
///
/// SAFETY: the planner's state.
pub unsafe fn outermost(mut root: *mut pg_sys::PlannerInfo) -> *mut pg_sys::Query {
    // SAFETY: as the function's own; each level points to the one around it.
    unsafe {
        while !(*root).parent_root.is_null() {
            root = (*root).parent_root;
        }
        (*root).parse
    }
}

/// The table, where the planner withheld indexes for the sake of row security.
///
/// Only where every condition that is to come first is silent (the organization's is): those are put first in the
/// finished plan, so what is withheld is nothing but the index. A table with policies of its own makes is left alone.
///
/// SAFETY: the planner's state and one of its relations.
pub unsafe fn withheld(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    ours: Ours,
) -> Option<pg_sys::Oid> {
    // SAFETY: as the function's own; the relation's number is that of its range table entry.
    unsafe {
        if !matches!(
            (*rel).reloptkind,
            pg_sys::RelOptKind::RELOPT_BASEREL | pg_sys::RelOptKind::RELOPT_OTHER_MEMBER_REL
        ) || (*rel).rtekind != pg_sys::RTEKind::RTE_RELATION
            || (*rel).indexlist.is_null()
        {
            return None;
        }
        let conditions = elements::<pg_sys::RestrictInfo>((*rel).baserestrictinfo);
        let last = conditions.iter().map(|c| (**c).security_level).max()?;
        let first = (*rel).baserestrict_min_security;
        let waits = conditions
            .iter()
            .any(|c| (**c).security_level > first && !(**c).leakproof);
        let silent = conditions
            .iter()
            .filter(|c| (***c).security_level < last)
            .all(|c| is_silent((**c).clause.cast(), ours));
        if !waits || !silent {
            return None;
        }
        let entry = *(*root).simple_rte_array.add((*rel).relid as usize);
        Some((*entry).relid)
    }
}

/// Offers the planner the index paths of the conditions that are vouched for.
///
/// SAFETY: as `withheld`, which named this relation.
pub unsafe fn offer(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    vouched: &Vouched,
) {
    // SAFETY: as the function's own. What is changed is put back, but for the paths that were added; an error on the way
    // ends the planning that the relation belongs to.
    unsafe {
        let mut conditions = vec![];
        let mut operators = vec![];
        for condition in elements::<pg_sys::RestrictInfo>((*rel).baserestrictinfo)
            .iter()
            .copied()
        {
            collect(condition, vouched, &mut conditions, &mut operators);
        }
        if conditions.is_empty() {
            return;
        }
        let indexes = (*rel).indexlist;
        let fit: Vec<*mut pg_sys::IndexOptInfo> = elements(indexes)
            .iter()
            .copied()
            .filter(|index| fits(rel, root, *index, &operators, vouched))
            .collect();
        (*rel).indexlist = list_of(&fit);
        let guesses: Vec<f64> = conditions.iter().map(|c| (**c).norm_selec).collect();
        for condition in &conditions {
            (**condition).leakproof = true;
            if is_guessed(*condition) {
                (**condition).norm_selec = (**condition).norm_selec.min(SEARCH);
            }
        }
        pg_sys::create_index_paths(root, rel);
        for (condition, guess) in conditions.iter().zip(guesses) {
            (**condition).leakproof = false;
            (**condition).norm_selec = guess;
        }
        (*rel).indexlist = indexes;
    }
}

/// The share of a table's rows that a search of documents is taken to find. Row security withholds the column's statistics
/// (an estimate would tell of other organizations' values), and PostgreSQL's guess of a hundredth makes it read the
/// organization's whole index besides (bench: 4.1 times the literal, which has the statistics).
const SEARCH: f64 = 0.001;

/// Whether PostgreSQL has nothing but that guess: containment and its like.
///
/// SAFETY: a condition that `collect` chose.
unsafe fn is_guessed(condition: *mut pg_sys::RestrictInfo) -> bool {
    // SAFETY: as the function's own; the node's tag says what it is.
    unsafe {
        let clause = (*condition).clause.cast::<pg_sys::Node>();
        (*clause).type_ == pg_sys::NodeTag::T_OpExpr
            && u32::from(pg_sys::get_oprrest((*clause.cast::<pg_sys::OpExpr>()).opno))
                == pg_sys::F_MATCHINGSEL
    }
}

/// The conditions, arms of an OR among them, that only need a vouched operator or function to be leakproof.
///
/// SAFETY: a condition.
unsafe fn collect(
    condition: *mut pg_sys::RestrictInfo,
    vouched: &Vouched,
    conditions: &mut Vec<*mut pg_sys::RestrictInfo>,
    operators: &mut Vec<pg_sys::Oid>,
) {
    // SAFETY: as the function's own; the nodes' tags say what they are.
    unsafe {
        if (*condition).leakproof {
            return;
        }
        if !(*condition).orclause.is_null() {
            return arms((*condition).orclause.cast(), vouched, conditions, operators);
        }
        let clause = (*condition).clause.cast::<pg_sys::Node>();
        let (operator, function, arguments) = match (*clause).type_ {
            pg_sys::NodeTag::T_OpExpr => {
                let expression = clause.cast::<pg_sys::OpExpr>();
                (
                    (*expression).opno,
                    (*expression).opfuncid,
                    (*expression).args,
                )
            }
            pg_sys::NodeTag::T_ScalarArrayOpExpr => {
                let expression = clause.cast::<pg_sys::ScalarArrayOpExpr>();
                (
                    (*expression).opno,
                    (*expression).opfuncid,
                    (*expression).args,
                )
            }
            _ => return,
        };
        let sound = (vouched.has_operator(operator) || pg_sys::get_func_leakproof(function))
            && elements(arguments)
                .iter()
                .all(|argument| leaks_no_column(*argument, &|f| vouched.functions.contains(&f)));
        if sound {
            conditions.push(condition);
            operators.push(operator);
            operators.push(pg_sys::get_commutator(operator));
        }
    }
}

/// SAFETY: the expression of an OR, whose leaves are conditions.
unsafe fn arms(
    node: *mut pg_sys::Node,
    vouched: &Vouched,
    conditions: &mut Vec<*mut pg_sys::RestrictInfo>,
    operators: &mut Vec<pg_sys::Oid>,
) {
    // SAFETY: as the function's own.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_RestrictInfo => {
                collect(node.cast(), vouched, conditions, operators);
            }
            pg_sys::NodeTag::T_BoolExpr => {
                for arm in elements((*node.cast::<pg_sys::BoolExpr>()).args) {
                    arms(*arm, vouched, conditions, operators);
                }
            }
            _ => {}
        }
    }
}

/// Whether all that an index would answer of these operators is vouched for.
///
/// SAFETY: an index of the relation.
unsafe fn fits(
    rel: *mut pg_sys::RelOptInfo,
    root: *mut pg_sys::PlannerInfo,
    index: *mut pg_sys::IndexOptInfo,
    operators: &[pg_sys::Oid],
    vouched: &Vouched,
) -> bool {
    // SAFETY: as the function's own; the arrays have as many entries as the index has key columns.
    unsafe {
        if !matches!((*index).relam, pg_sys::BTREE_AM_OID | pg_sys::GIN_AM_OID) {
            return false;
        }
        (0..(*index).nkeycolumns as usize).all(|i| {
            let family = *(*index).opfamily.add(i);
            operators.iter().all(|operator| {
                if *operator == pg_sys::InvalidOid || !pg_sys::op_in_opfamily(*operator, family) {
                    return true;
                }
                let known = vouched.pairs.contains(&(*operator, family))
                    || pg_sys::get_func_leakproof(pg_sys::get_opcode(*operator));
                known
                    && (*(*index).opcintype.add(i) != pg_sys::ANYARRAYOID
                        || has_plain_elements(rel, root, *(*index).indexkeys.add(i)))
            })
        })
    }
}

/// Whether the elements of an array column are compared by a leakproof function: an index on arrays uses that of
/// whatever type they have.
///
/// SAFETY: a relation of the planner, and a column of it; 0 for an expression.
unsafe fn has_plain_elements(
    rel: *mut pg_sys::RelOptInfo,
    root: *mut pg_sys::PlannerInfo,
    column: i32,
) -> bool {
    // SAFETY: as the function's own; the type cache's entry lives as long as the backend.
    unsafe {
        if column <= 0 {
            return false;
        }
        let table = (**(*root).simple_rte_array.add((*rel).relid as usize)).relid;
        let element = pg_sys::get_element_type(pg_sys::get_atttype(table, column as i16));
        if element == pg_sys::InvalidOid {
            return false;
        }
        let known = pg_sys::lookup_type_cache(element, pg_sys::TYPECACHE_CMP_PROC as i32);
        (*known).cmp_proc != pg_sys::InvalidOid && pg_sys::get_func_leakproof((*known).cmp_proc)
    }
}
