//! DDL that evaluates an expression on the rows that are there evaluates it on those of every organization. A table's
//! owner who is held to one organization would read the others' by it: with a function of his own, or with a cast that
//! says in its error what it could not make a number of (attack B1).

use super::{Drift, judge};
use crate::context;
use crate::isolation::facts::facts;
use crate::isolation::newcomer::holds_others_rows;
use crate::isolation::{table, tree};
use crate::pg::evaluated::Evaluated;
use crate::pg::{self, identity};

/// Before a command: refused where a table holds rows of others, unless it is an administrator's.
pub fn check(evaluated: Vec<Evaluated>) -> pg::Result<()> {
    if evaluated.is_empty()
        || context::is_administrator()
        || identity::may_bypass_row_security() && !identity::break_glass()
    {
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
