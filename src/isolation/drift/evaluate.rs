//! DDL that evaluates an expression on the rows that are there evaluates it on those of every organization. A table's
//! owner who is held to one organization would read the others' by it: with a function of his own, or with a cast that
//! says in its error what it could not make a number of (attack B1).

use super::{Drift, judge};
use crate::context;
use crate::isolation::facts::facts;
use crate::isolation::newcomer::holds_others_rows;
use crate::isolation::{table, tree};
use crate::pg::evaluated::Evaluated;
use crate::pg::{self, identity, scan};
use pgrx::pg_sys;

/// Whether the command is an administrator's, or of who sees every row anyway.
fn passes() -> bool {
    context::is_administrator() || identity::may_bypass_row_security() && !identity::break_glass()
}

/// Before a command: refused where a table holds rows of others, unless it is an administrator's.
pub fn check(evaluated: Vec<Evaluated>) -> pg::Result<()> {
    if evaluated.is_empty() || passes() {
        return Ok(());
    }
    for Evaluated { table, what } in evaluated {
        for member in tree::members(table) {
            if table::protected(member).is_none() {
                continue;
            }
            let facts = facts(member)?;
            if holds_others_rows(&facts) {
                judge(Drift {
                    message: format!(
                        "{what} would be evaluated on rows of other organizations in protected table {}",
                        facts.quoted()
                    ),
                    detail: "A function, or a cast that fails, says what is in them.".into(),
                    hint: "Let a role run it that was given tenancy.grant_administration().".into(),
                    mend: None,
                })?;
                break;
            }
        }
    }
    Ok(())
}

/// Before a command that makes other values of a column by an expression: no trigger fires for that, so the log would not
/// tell (attack F3).
pub fn check_rewritten(rewritten: Option<pg_sys::Oid>) -> pg::Result<()> {
    let Some(rewritten) = rewritten.filter(|_| !passes()) else {
        return Ok(());
    };
    for member in tree::members(rewritten) {
        let audited = table::protected(member).is_some_and(|table| table.options.audit);
        if audited && scan::pages(member) > 0 {
            judge(Drift {
                message: format!(
                    "ALTER TYPE ... USING would change rows of protected table {} past the audit log",
                    facts(member)?.quoted()
                ),
                detail: "It computes new values for every row, and no trigger fires.".into(),
                hint: "UPDATE the rows, which is logged, and change the type without USING; or let a role run it that was given tenancy.grant_administration().".into(),
                mend: None,
            })?;
            break;
        }
    }
    Ok(())
}
