//! What a DDL command is about to evaluate on the rows that are there, as it was written.

use super::event::{find, nodes};
use super::raw_expression::{own_type, telling};
use pgrx::prelude::*;

/// A table, and what in the command could say what is in its rows.
pub struct Evaluated {
    pub table: pg_sys::Oid,
    pub what: String,
}

/// Tables whose rows the command makes others of, by an expression for a column's new type.
///
/// SAFETY: the call of an event trigger.
pub unsafe fn rewritten(fcinfo: pg_sys::FunctionCallInfo) -> Option<pg_sys::Oid> {
    // SAFETY: node tags say what the pointers point to.
    unsafe {
        let tree = (*(*fcinfo).context.cast::<pg_sys::EventTriggerData>()).parsetree;
        if tree.is_null() || (*tree).type_ != pg_sys::NodeTag::T_AlterTableStmt {
            return None;
        }
        let statement = tree.cast::<pg_sys::AlterTableStmt>();
        let by_expression = |command: &*mut pg_sys::Node| {
            let command = command.cast::<pg_sys::AlterTableCmd>();
            let column = (*command).def.cast::<pg_sys::ColumnDef>();
            (*command).subtype == pg_sys::AlterTableType::AT_AlterColumnType
                && !(*column).raw_default.is_null()
        };
        nodes((*statement).cmds)
            .iter()
            .any(by_expression)
            .then(|| find((*statement).relation))
    }
}

/// What the command that fired an event trigger evaluates.
///
/// SAFETY: the call of an event trigger.
pub unsafe fn evaluated(fcinfo: pg_sys::FunctionCallInfo) -> Vec<Evaluated> {
    // SAFETY: node tags say what the pointers point to.
    unsafe {
        let tree = (*(*fcinfo).context.cast::<pg_sys::EventTriggerData>()).parsetree;
        if tree.is_null() {
            return vec![];
        }
        let of = |relation, found: Option<String>| -> Vec<Evaluated> {
            let found = found.into_iter();
            found
                .map(|what| Evaluated {
                    table: find(relation),
                    what,
                })
                .collect()
        };
        match (*tree).type_ {
            pg_sys::NodeTag::T_AlterTableStmt => {
                let statement = tree.cast::<pg_sys::AlterTableStmt>();
                let found = nodes((*statement).cmds)
                    .into_iter()
                    .find_map(|command| altered(command.cast()));
                of((*statement).relation, found)
            }
            pg_sys::NodeTag::T_IndexStmt => {
                let statement = tree.cast::<pg_sys::IndexStmt>();
                let found = elements_of(nodes((*statement).indexParams))
                    .or_else(|| telling((*statement).whereClause));
                of((*statement).relation, found)
            }
            pg_sys::NodeTag::T_CreateStatsStmt => {
                let statement = tree.cast::<pg_sys::CreateStatsStmt>();
                let found = nodes((*statement).exprs)
                    .into_iter()
                    .find_map(|element| telling((*element.cast::<pg_sys::StatsElem>()).expr));
                nodes((*statement).relations)
                    .into_iter()
                    .filter(|relation| (**relation).type_ == pg_sys::NodeTag::T_RangeVar)
                    .flat_map(|relation| of(relation.cast(), found.clone()))
                    .collect()
            }
            _ => vec![],
        }
    }
}

/// SAFETY: IndexElem nodes.
unsafe fn elements_of(elements: Vec<*mut pg_sys::Node>) -> Option<String> {
    // SAFETY: as the function's own.
    elements
        .into_iter()
        .find_map(|element| unsafe { telling((*element.cast::<pg_sys::IndexElem>()).expr) })
}

/// SAFETY: a part of an ALTER TABLE.
unsafe fn altered(command: *mut pg_sys::AlterTableCmd) -> Option<String> {
    use pg_sys::AlterTableType as Kind;
    // SAFETY: the subtype says what the definition is.
    unsafe {
        match (*command).subtype {
            Kind::AT_AddConstraint => constraint((*command).def.cast()),
            Kind::AT_AddColumn => {
                let column = (*command).def.cast::<pg_sys::ColumnDef>();
                nodes((*column).constraints)
                    .into_iter()
                    .find_map(|one| constraint(one.cast()))
            }
            Kind::AT_AlterColumnType => {
                let column = (*command).def.cast::<pg_sys::ColumnDef>();
                telling((*column).raw_default)
                    .or_else(|| own_type((*column).typeName).map(|_| "a type of its own".into()))
            }
            _ => None,
        }
    }
}

/// SAFETY: a constraint of a table or column.
unsafe fn constraint(constraint: *mut pg_sys::Constraint) -> Option<String> {
    // SAFETY: the kind says which fields are set; exclusions are pairs of an element and an operator's name.
    unsafe {
        match (*constraint).contype {
            // One that is NOT VALID too: it may be validated by who did not write it.
            pg_sys::ConstrType::CONSTR_CHECK | pg_sys::ConstrType::CONSTR_GENERATED => {
                telling((*constraint).raw_expr)
            }
            pg_sys::ConstrType::CONSTR_EXCLUSION => {
                let pairs = nodes((*constraint).exclusions);
                let elements = pairs
                    .into_iter()
                    .filter_map(|pair| nodes(pair.cast()).first().copied());
                elements_of(elements.collect()).or_else(|| telling((*constraint).where_clause))
            }
            _ => None,
        }
    }
}
