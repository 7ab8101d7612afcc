//! vouch_leakproof(): which indexes row security need not make idle (spec 14).
//!
//! Nothing in PostgreSQL's catalog is marked: a vouch is a row of ours, so it is dumped and restored, holds for protected
//! tables and nothing else, and is gone when the row is. hooks/planner.rs acts on it; vetted.rs says why it may.

mod api;
mod vetted;

use crate::pg::catalog;
use crate::pg::local::Backend;
use crate::pg::paths::Vouched;
use crate::pg::query::{execute, latest};
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

static VOUCHED: Backend<RefCell<Option<Rc<Vouched>>>> = Backend::new(RefCell::new(None));
// The bell that rings when vouches change, as it was when they were read; 0 where they are not.
static BELL: Backend<Cell<pg_sys::Oid>> = Backend::new(Cell::new(pg_sys::InvalidOid));
static STALE: Backend<Cell<bool>> = Backend::new(Cell::new(false));

/// From the invalidation callback: no catalog access, no waiting.
pub fn on_invalidation(relid: pg_sys::Oid) {
    if relid == BELL.get() || relid == pg_sys::InvalidOid {
        STALE.set(true);
    }
}

/// What is vouched for now.
pub fn vouched() -> Rc<Vouched> {
    if STALE.replace(false) {
        VOUCHED.set(None);
    }
    if let Some(known) = VOUCHED.with_borrow(Clone::clone) {
        return known;
    }
    BELL.set(catalog::house().bell);
    let now = Rc::new(read());
    // A change heard while reading leaves STALE set: what was read serves this once and is read again.
    VOUCHED.set(Some(now.clone()));
    now
}

/// A vouch whose operator, function or family is not there (an extension that was dropped) is not in force.
fn read() -> Vouched {
    let mut vouched = Vouched::default();
    let rows = latest(
        "SELECT o.oid, o.oprcom, f.oid, o.oprcode::pg_catalog.oid FROM tenancy.leakproof_vouched AS v
              JOIN pg_catalog.pg_operator AS o
                ON o.oprname OPERATOR(pg_catalog.=) v.name AND o.oid::pg_catalog.regoperator::pg_catalog.text OPERATOR(pg_catalog.=) v.object
              LEFT JOIN pg_catalog.pg_am AS m ON m.amname OPERATOR(pg_catalog.=) v.access_method
              LEFT JOIN pg_catalog.pg_opfamily AS f
                ON f.opfmethod OPERATOR(pg_catalog.=) m.oid AND f.opfname OPERATOR(pg_catalog.=) v.family
               AND (f.opfnamespace OPERATOR(pg_catalog.=) 'pg_catalog'::pg_catalog.regnamespace
                    OR EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                                    JOIN pg_catalog.pg_extension AS e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
                               WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_opfamily'::pg_catalog.regclass
                                 AND d.objid OPERATOR(pg_catalog.=) f.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'
                                 AND e.extname OPERATOR(pg_catalog.=) 'pg_trgm'))
         UNION ALL
         SELECT NULL, NULL, NULL, p.oid FROM tenancy.leakproof_vouched AS v
              JOIN pg_catalog.pg_proc AS p
                ON p.proname OPERATOR(pg_catalog.=) v.name AND p.oid::pg_catalog.regprocedure::pg_catalog.text OPERATOR(pg_catalog.=) v.object
         WHERE p.provolatile OPERATOR(pg_catalog.=) 'i'",
        &[],
        |row| [1, 2, 3, 4].map(|n| row.get::<pg_sys::Oid>(n)),
    );
    for [operator, commutator, family, function] in rows {
        match (operator, family, function) {
            (Some(operator), Some(family), _) => {
                vouched.pairs.insert((operator, family));
                if let Some(commutator) = commutator.filter(|c| *c != pg_sys::InvalidOid) {
                    vouched.pairs.insert((commutator, family));
                }
            }
            // An operator without a family stands in expressions, as a function does.
            (_, None, Some(function)) => {
                vouched.functions.insert(function);
            }
            _ => {}
        }
    }
    vouched
}

/// The function that makes sure of a full-text query's room on the stack.
pub fn room_check() -> Option<pg_sys::Oid> {
    catalog::function_of(c"tenancy", c"with_room", &[pg_sys::TSQUERYOID])
}

/// Takes every vouch back, for uninstall().
pub fn withdraw_all() {
    if execute("DELETE FROM tenancy.leakproof_vouched", &[]) > 0 {
        api::changed();
    }
}
