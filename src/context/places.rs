//! The functions that stand in the policies and defaults of tables with a project column, on the C ABI as `org_if()` is
//! (entry.rs): in which projects may the context do an action?
//!
//! `in_projects(project, cluster, action)` is the one condition; a table without clusters passes its project twice. Planned, it is a range of the index as well (pg/support.rs):
//! from `project_from(action)` to `project_to(action)`, which is everything where the context may do the action in all. Where
//! it may in few, as in the one that the session narrows itself to, the index is asked for `ANY (project_ids(action))`. So an ordinary member pays one call and one comparison per row, and a project's rows are
//! read by its part of the index.

use super::authority::Id;
use super::entry::{answer, nullable};
use super::projects::Project;
use super::remembered::{remember, remembered};
use super::standing::{self, Standing};
use crate::pg::identity::{self, Runner};
use crate::pg::local::Backend;
use crate::pg::{call_site, transaction, value};
use pgrx::pg_guard;
use pgrx::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};
use std::cell::RefCell;

/// In which of the organization's projects the context may do an action.
#[derive(Debug)]
pub enum Places {
    None,
    /// In every one.
    All,
    /// In the one that the session narrows itself to, and perhaps in one cluster of it.
    One(Id, Option<Id>),
    Some(FxHashSet<Id>),
}

impl Places {
    #[inline]
    pub fn have(&self, project: &Id, cluster: Option<&Id>) -> bool {
        match self {
            Places::None => false,
            Places::All => true,
            Places::One(one, None) => one == project,
            // A table without clusters passes its project in the place of one.
            Places::One(one, within) => {
                one == project && (within.as_ref() == cluster || cluster == Some(project))
            }
            Places::Some(all) => all.contains(project),
        }
    }

    /// The first and the last project, in the order of an index.
    fn bounds(&self) -> Option<(Id, Id)> {
        match self {
            Places::None => None,
            Places::All => Some(([0; 16], [0xff; 16])),
            Places::One(one, _) => Some((*one, *one)),
            Places::Some(all) => Some((*all.iter().min()?, *all.iter().max()?)),
        }
    }

    /// Where one of two is enough; both are of one standing, so one project is the same in both.
    fn or(self, other: Places) -> Places {
        match (self, other) {
            (Places::None, other) => other,
            (this, Places::None) => this,
            (Places::Some(mut all), Places::Some(more)) => {
                all.extend(more);
                Places::Some(all)
            }
            (one @ Places::One(..), _) | (_, one @ Places::One(..)) => one,
            (Places::All, _) | (_, Places::All) => Places::All,
        }
    }

    pub fn is_none(&self) -> bool {
        matches!(self, Places::None)
    }
}

/// Where the standing may do the action, or one of several. What narrows the session is left out where `anywhere` says so.
pub fn places(now: &Standing, action: &str, anywhere: bool) -> Places {
    crate::isolation::parts(action)
        .map(|part| places_of(now, part, anywhere))
        .reduce(Places::or)
        .unwrap_or(Places::None)
}

fn places_of(now: &Standing, action: &str, anywhere: bool) -> Places {
    // What removes the organization removes the rows of every project, also where none is left to ask about.
    if super::deletion::org().is_some() {
        return Places::All;
    }
    let asked = crate::isolation::asked(action);
    let action = asked.name;
    let Some(index) = now.matrix.action(action).filter(|_| now.org.is_some()) else {
        return Places::None;
    };
    // A membership that is limited to resources has them only where the table is one of resources, and there its policies
    // hold each row to the scope besides.
    if now.scopes.is_some() && !asked.within_scope {
        return Places::None;
    }
    let (reach, in_org) = (now.reach(), asked.by_org_role(now, index));
    let may = |project: &Project| {
        let shown = asked.within_scope && in_org && !project.restricted;
        shown || reach.may(project, action, in_org)
    };
    if let Some(narrowed) = now.narrowed.filter(|_| !anywhere) {
        return match reach.get(&narrowed.project) {
            Some(project) if may(project) => Places::One(narrowed.project, narrowed.cluster),
            _ => Places::None,
        };
    }
    let (mut all, mut some) = (true, FxHashSet::default());
    for project in reach.all() {
        if may(project) {
            some.insert(project.id);
        } else {
            all = false;
        }
    }
    match (all, some.is_empty()) {
        (_, true) => Places::None,
        (true, _) => Places::All,
        _ => Places::Some(some),
    }
}

struct Kept {
    version: u64,
    runner: Runner,
    action: Box<[u8]>,
    places: Box<Places>,
}

/// Answers for the present version. Call sites point into them; they are dropped only when the version has moved, and a
/// call site looks at the version before it looks there.
static KEPT: Backend<RefCell<Vec<Kept>>> = Backend::new(RefCell::new(Vec::new()));

/// An action may be computed per row; a policy's is not.
const ANSWERS: usize = 64;

/// Where the context may do the action, to be used while `standing::version()` stays what it is now.
fn kept(action: &[u8]) -> *const Places {
    let (version, runner) = (standing::version(), identity::runner());
    let known = KEPT.with_borrow(|kept| {
        kept.iter()
            .find(|k| k.version == version && k.runner == runner && *k.action == *action)
            .map(|k| std::ptr::from_ref(&*k.places))
    });
    known.unwrap_or_else(|| {
        let now = standing::standing();
        let version = standing::version();
        let name = String::from_utf8_lossy(action);
        let places = Box::new(places(&now, &name, false));
        let pointer = std::ptr::from_ref(&*places);
        KEPT.with_borrow_mut(|kept| {
            kept.retain(|k| k.version == version);
            kept.push(Kept {
                version,
                runner,
                action: action.into(),
                places,
            });
        });
        pointer
    })
}

/// Uses what `kept` answers.
pub fn with_places<T>(action: &str, use_them: impl FnOnce(&Places) -> T) -> T {
    // SAFETY: nothing that `use_them` does takes entries of the present version out.
    use_them(unsafe { &*kept(action.as_bytes()) })
}

crate::pg::finfo!(pg_finfo_tenancy_in_projects);

/// `tenancy.in_projects(project uuid, cluster uuid, action text) -> boolean` (spec 9): whether the context may do the action
/// in a row's project, and the row is of the project and cluster that the session narrows itself to. Stands in the policies
/// of tables with a project column. Never raises for what a row holds; false for an unknown action. Anyone may call it.
///
/// SAFETY: called by PostgreSQL's function manager, as sql/75_projects.sql declares it. Owns nothing, so an error may jump
/// over it.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn tenancy_in_projects(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own; the three arguments' types are declared.
    unsafe {
        let [project, cluster, action] = [0, 1, 2].map(|i| *(*fcinfo).args.as_ptr().add(i));
        if project.isnull || action.isnull {
            return pg_sys::Datum::from(false);
        }
        let places = match remembered::<*const Places>(fcinfo) {
            Some(places) => places,
            None => {
                transaction::accept_invalidations_unguarded();
                let places: *const Places = places_for(action);
                if call_site::is_stable(fcinfo, 2) {
                    remember(fcinfo, standing::version(), identity::runner(), places);
                }
                places
            }
        };
        let cluster = (!cluster.isnull).then(|| &*cluster.value.cast_mut_ptr::<Id>());
        let project = &*project.value.cast_mut_ptr::<Id>();
        pg_sys::Datum::from((*places).have(project, cluster))
    }
}

/// SAFETY: a text datum.
#[pg_guard]
unsafe extern "C-unwind" fn places_for(action: pg_sys::NullableDatum) -> *const Places {
    // SAFETY: as the function's own.
    let action = unsafe { value::plain_bytes(action.value.cast_mut_ptr()) };
    // A session that makes actions up. Those of policies may be pointed to, so the version moves before they go.
    if KEPT.with_borrow(|kept| kept.len() >= ANSWERS) {
        standing::invalidate();
    }
    kept(action)
}

static INTERNED: Backend<RefCell<FxHashMapOfIds>> = Backend::new(RefCell::new(None));
type FxHashMapOfIds = Option<FxHashMap<Id, &'static Id>>;

/// The one copy of a project's id that lives as long as the backend: functions in plans answer pointers to it.
fn intern(id: Id) -> pg_sys::Datum {
    let known = INTERNED.with_borrow_mut(|all| {
        *all.get_or_insert_default()
            .entry(id)
            .or_insert_with(|| Box::leak(Box::new(id)))
    });
    pg_sys::Datum::from(known.as_ptr())
}

fn interned(id: Option<Id>) -> pg_sys::NullableDatum {
    nullable(id.map(intern))
}

/// What project_from() and project_to() answer now.
fn bound(action: &[u8], upper: bool) -> pg_sys::NullableDatum {
    // SAFETY: looked at before anything else happens.
    let bounds = unsafe { &*kept(action) }.bounds();
    interned(bounds.map(|(from, to)| if upper { to } else { from }))
}

/// By these numbers plans name a bound (pg/bound.rs): apart from those of org_if().
pub(super) const NUMBERS: u16 = 0x8000;
const MOST: usize = 0x3000;
static NUMBERED: Backend<RefCell<Vec<Box<[u8]>>>> = Backend::new(RefCell::new(Vec::new()));

/// The number of project_from(action) or project_to(action), as a parameter of plans.
pub fn number_of_bound(action: &[u8], upper: bool) -> Option<u16> {
    let known = |all: &Vec<Box<[u8]>>| all.iter().position(|a| **a == *action);
    let index = NUMBERED.with_borrow(known).or_else(|| {
        let room = NUMBERED.with_borrow(Vec::len) < MOST;
        (room && crate::access::action_is_known(action)).then(|| {
            NUMBERED.with_borrow_mut(|all| {
                all.push(action.into());
                all.len() - 1
            })
        })
    })?;
    Some(NUMBERS | (index as u16) << 1 | u16::from(upper))
}

/// By these numbers plans name whether in_projects(.., action) is true of every row that a scan puts to it.
const EVERY: u16 = 0xe000;

/// The number of it. `in_range`: the scan's index range is from project_from(action) to project_to(action).
pub fn number_of_every(action: &[u8], in_range: bool) -> Option<u16> {
    let index = (number_of_bound(action, false)? ^ NUMBERS) >> 1;
    (index < 0x7f0).then_some(EVERY | index << 1 | u16::from(in_range))
}

/// By these numbers plans name the projects in which the context may do an action.
const IDS: u16 = 0xf000;

/// The number of project_ids(action), as a parameter of plans.
pub fn number_of_ids(action: &[u8]) -> Option<u16> {
    let index = (number_of_bound(action, false)? ^ NUMBERS) >> 1;
    (index < 0x7f0).then_some(IDS | index)
}

/// Whether two values of a number are lists of the same projects.
pub fn is_same_list(number: u16, one: pg_sys::NullableDatum, other: pg_sys::NullableDatum) -> bool {
    let is_list = number >= IDS && number != super::UNSCOPED && !one.isnull && !other.isnull;
    // SAFETY: values of project_ids().
    is_list
        && unsafe {
            value::plain_bytes(one.value.cast_mut_ptr())
                == value::plain_bytes(other.value.cast_mut_ptr())
        }
}

/// What project_ids() answers now, in the present memory context.
fn ids(action: &[u8]) -> pg_sys::NullableDatum {
    // SAFETY: looked at before anything else happens; to look the standing up again changes nothing.
    let mut ids: Vec<Id> = match unsafe { &*kept(action) } {
        Places::None => vec![],
        Places::All => standing::standing()
            .reach()
            .all()
            .iter()
            .map(|project| project.id)
            .collect(),
        Places::One(one, _) => vec![*one],
        Places::Some(some) => some.iter().copied().collect(),
    };
    ids.sort_unstable();
    nullable((!ids.is_empty()).then(|| value::uuid_array(&ids)))
}

/// Whether the rows of every project pass, or those that a range of one project leaves.
fn every(action: &[u8], in_range: bool) -> pg_sys::NullableDatum {
    // SAFETY: looked at before anything else happens.
    let places = unsafe { &*kept(action) };
    let every = match places {
        Places::All => true,
        Places::One(_, None) => in_range,
        _ => false,
    };
    pg_sys::NullableDatum {
        value: pg_sys::Datum::from(every),
        isnull: false,
    }
}

/// The value of a bound's number, or of the question whether every row passes; None for a number of something else.
pub fn bound_for_number(number: u16) -> Option<pg_sys::NullableDatum> {
    if number >= IDS {
        let action = NUMBERED.with_borrow(|all| all.get(usize::from(number ^ IDS)).cloned())?;
        return Some(ids(&action));
    }
    let asks_every = number >= EVERY;
    let index = usize::from((number ^ if asks_every { EVERY } else { NUMBERS }) >> 1);
    if number & NUMBERS == 0 || index >= MOST {
        return None;
    }
    let action = NUMBERED.with_borrow(|all| all[index].clone());
    let flag = number & 1 == 1;
    Some(if asks_every {
        every(&action, flag)
    } else {
        bound(&action, flag)
    })
}

/// SAFETY: the call of project_from() or project_to().
#[pg_guard]
unsafe extern "C-unwind" fn bound_guarded(
    fcinfo: pg_sys::FunctionCallInfo,
    upper: bool,
) -> pg_sys::NullableDatum {
    transaction::accept_invalidations();
    // SAFETY: STRICT, with one text argument.
    let action = unsafe { value::plain_bytes((*fcinfo).args.as_slice(1)[0].value.cast_mut_ptr()) };
    bound(action, upper)
}

/// SAFETY: the call of project_ids().
#[pg_guard]
unsafe extern "C-unwind" fn ids_guarded(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::NullableDatum {
    transaction::accept_invalidations();
    // SAFETY: STRICT, with one text argument.
    ids(unsafe { value::plain_bytes((*fcinfo).args.as_slice(1)[0].value.cast_mut_ptr()) })
}

#[pg_guard]
extern "C-unwind" fn narrowed_guarded(cluster: bool) -> pg_sys::NullableDatum {
    let narrowed = standing::standing().narrowed;
    interned(narrowed.and_then(|n| if cluster { n.cluster } else { Some(n.project) }))
}

macro_rules! entry {
    ($(#[$doc:meta])* $finfo:ident, $name:ident, |$fcinfo:ident| $answer:expr) => {
        crate::pg::finfo!($finfo);

        $(#[$doc])*
        ///
        /// SAFETY: called by PostgreSQL's function manager, as sql/75_projects.sql declares it.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name($fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
            // SAFETY: as the function's own.
            unsafe { answer($fcinfo, $answer) }
        }
    };
}

entry!(
    /// `tenancy.project_from(action text) -> uuid` (spec 9): the first of the projects in which the context may do the action,
    /// in the order of an index; NULL where there is none. Stands in plans. Anyone may call it.
    pg_finfo_tenancy_project_from,
    tenancy_project_from,
    |fcinfo| bound_guarded(fcinfo, false)
);
entry!(
    /// `tenancy.project_to(action text) -> uuid` (spec 9): the last of them.
    pg_finfo_tenancy_project_to,
    tenancy_project_to,
    |fcinfo| bound_guarded(fcinfo, true)
);
entry!(
    /// `tenancy.project_ids(action text) -> uuid[]` (spec 9): the projects in which the context may do the action, NULL where
    /// there is none. Stands in plans. Anyone may call it.
    pg_finfo_tenancy_project_ids,
    tenancy_project_ids,
    |fcinfo| ids_guarded(fcinfo)
);
entry!(
    /// `tenancy.current_project() -> uuid` (spec 9): the project that the session narrows itself to, NULL where it does not.
    /// The default of project columns. Anyone may call it.
    pg_finfo_tenancy_current_project,
    tenancy_current_project,
    |fcinfo| narrowed_guarded(false)
);
entry!(
    /// `tenancy.current_cluster() -> uuid` (spec 9): the cluster that the session narrows itself to, NULL where it does not.
    /// The default of cluster columns. Anyone may call it.
    pg_finfo_tenancy_current_cluster,
    tenancy_current_cluster,
    |fcinfo| narrowed_guarded(true)
);

#[cfg(test)]
mod tests {
    use super::Places;

    #[test]
    fn bounds_hold_every_project_and_one_where_it_is_one() {
        let (a, b, c) = ([1; 16], [2; 16], [3; 16]);
        assert_eq!(Places::One(b, None).bounds(), Some((b, b)));
        assert_eq!(
            Places::Some([c, a].into_iter().collect()).bounds(),
            Some((a, c))
        );
        assert_eq!(Places::None.bounds(), None);
        let (from, to) = Places::All.bounds().unwrap();
        assert!(from <= a && to >= c);
    }

    #[test]
    fn a_cluster_narrows_within_its_project() {
        let (p, c) = ([1; 16], [9; 16]);
        assert!(Places::One(p, None).have(&p, None) && Places::One(p, None).have(&p, Some(&c)));
        let narrow = Places::One(p, Some(c));
        assert!(narrow.have(&p, Some(&c)) && !narrow.have(&p, None) && !narrow.have(&c, Some(&c)));
        assert!(narrow.have(&p, Some(&p)), "a table without clusters");
    }
}
