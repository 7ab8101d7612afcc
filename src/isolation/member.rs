//! Whether a member may do an action to a row, whatever session asks: an approval is worth what its approver himself may
//! do, and he is not there when the change is made.

use super::table::Table;
use super::{by_environment, place};
use crate::access::matrix::Level;
use crate::access::{self, level_of};
use crate::context::authority::{self, Id};
use crate::context::projects::{self, Reach};
use crate::isolation::Way;
use crate::pg::trigger::RowImage;

/// Where a row is, as far as rights go by it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Whereabouts {
    pub project: Option<Id>,
    pub environment: Option<String>,
}

impl Whereabouts {
    pub fn of(table: &Table, row: &RowImage) -> Whereabouts {
        let placed = table.placed.as_ref();
        Whereabouts {
            project: placed.and_then(|placed| place::project_of(placed, row)),
            environment: by_environment::environment(table, row),
        }
    }

    /// The columns that say it: the project's and the environment's.
    pub fn columns(table: &Table) -> (Option<&str>, Option<&str>) {
        let name = |number: i16| {
            let column = table.columns.iter().find(|(n, _)| *n == number);
            column.map(|(_, name)| name.as_str())
        };
        let tag = match table.environment.as_ref().map(|source| &source.way) {
            Some(Way::Column { attnum, .. }) => name(*attnum),
            _ => None,
        };
        (table.placed.as_ref().and_then(|p| name(p.project)), tag)
    }
}

/// Whether a member of the organization who is not limited to resources may do the action to a row that is there.
pub fn member_may(org: &Id, user: &Id, table: &Table, action: &str, at: &Whereabouts) -> bool {
    let Ok(index) = access::action(&authority::matrix(), action) else {
        return false;
    };
    // A right for one environment counts where the rows name theirs, or their projects do.
    let of_project = match table.environment.as_ref().map(|source| &source.way) {
        Some(Way::Place { by_cluster: false }) => at
            .project
            .and_then(|project| projects::environment(org, &project, None))
            .flatten(),
        _ => None,
    };
    let named = at.environment.as_deref();
    let named = named.filter(|_| table.options.environment_column.is_some());
    let in_org = level_of(org, user, index, named.or(of_project.as_deref())) == Level::Allow;
    if table.placed.is_none() {
        return in_org;
    }
    let reach = Reach::of_user(org, user);
    at.project
        .and_then(|id| reach.get(&id))
        .is_some_and(|project| reach.may(project, action, in_org))
}
