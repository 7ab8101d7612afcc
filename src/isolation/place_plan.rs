//! What the planner is told of `in_projects()`: the projects' share of their organization's rows, from the table's own
//! statistics, and the part of an index on the project column.

use super::table;
use crate::context;
use crate::context::places::{Places, places, with_places};
use crate::pg::catalog;
use crate::pg::key::KeyType;
use crate::pg::support::{Question, Range, Share, question};
use pgrx::pg_guard;
use pgrx::prelude::*;

/// More projects than this are taken to have rows alike: each would be looked up among the statistics.
const LOOKED_UP: usize = 50;

/// So many projects are asked for one by one, which lets the index's later columns narrow the scan: as many as the planner
/// takes a list of unknown length to have. More are asked for by their range.
const FEW: usize = 10;

crate::pg::finfo!(pg_finfo_tenancy_in_projects_support);

/// `tenancy.in_projects_support(internal) -> internal`: for the planner alone.
///
/// SAFETY: called by PostgreSQL's planner.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_in_projects_support(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own.
    match unsafe { question(fcinfo) } {
        Question::Share(asked) => {
            let share = share(&asked).unwrap_or(1.0);
            asked.answer(share)
        }
        Question::Range(asked) => match catalog::find_house() {
            Some(house) if few(&asked) => asked.answer_any(2, house.project_ids),
            Some(house) => asked.answer(2, house.project_from, house.project_to),
            None => pg_sys::Datum::from(0),
        },
        Question::Other => pg_sys::Datum::from(0),
    }
}

/// Whether the index is asked project by project. The plan may be used again where the context may do the action in more of
/// them, or in all: then it is slower, and right.
fn few(asked: &Range) -> bool {
    let one_by_one = |places: &Places| match places {
        Places::One(..) => true,
        Places::Some(some) => some.len() <= FEW,
        Places::None | Places::All => false,
    };
    asked
        .text(2)
        .is_some_and(|action| with_places(action, one_by_one))
        && asked.keeps_order()
}

/// How many of the organization's rows are in the projects where the context may do the action. The policy's other
/// condition holds the rows to the organization, and a project's rows are all of one: so its share of the table is divided
/// by the organization's.
fn share(asked: &Share) -> Option<f64> {
    let column = asked.column(0)?;
    let action = asked.text(2)?;
    let now = context::standing();
    let wanted = places(&now, action, false);
    let of_org = || {
        let table = table::protected(column.table)?;
        let key = now.keys()?.datum(table.org_kind)?;
        let share = asked.of_rows_with(
            column,
            table.org_attnum,
            table.org_kind.type_id(),
            table.org_kind.equals(),
            key,
        );
        Some(share.max(1e-10))
    };
    let of = |column, id: &[u8; 16]| {
        asked.of_rows_with(
            column,
            asked.number(column),
            pg_sys::UUIDOID,
            KeyType::Uuid.equals(),
            pg_sys::Datum::from(id.as_ptr()),
        )
    };
    Some(match &wanted {
        Places::None => 0.0,
        Places::All => 1.0,
        Places::One(project, None) => of(column, project) / of_org()?,
        Places::One(project, Some(cluster)) => match asked.column(1) {
            Some(clusters) if asked.number(clusters) != asked.number(column) => {
                of(clusters, cluster) / of_org()?
            }
            _ => of(column, project) / of_org()?,
        },
        Places::Some(some) if some.len() <= LOOKED_UP => {
            some.iter().map(|id| of(column, id)).sum::<f64>() / of_org()?
        }
        Places::Some(some) => some.len() as f64 / now.reach().all().len() as f64,
    })
}
