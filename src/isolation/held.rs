//! Parents that this transaction holds FOR KEY SHARE: the memo by which a bulk insert looks each up once, and by which
//! PostgreSQL's own check of the same key is answered without looking again.
//!
//! A parent that is held can only go away by this transaction's own doing: a DELETE or UPDATE of the parent, whose row
//! trigger clears the memo before PostgreSQL's check of its children runs, or a rollback, which clears it too. A child
//! that was written before is seen by that check. So an entry is as good as a look.

use super::check_text::CheckText;
use super::table::GuardedKey;
use crate::pg::local::Backend;
use crate::pg::value::Value;
use pgrx::pg_sys;
use rustc_hash::FxHasher;
use std::cell::{Cell, RefCell};
use std::hash::Hasher;
use std::rc::Rc;

/// A power of two. Each entry is 80 bytes, so 80 kB for a backend that writes keys; a parent whose place another took is
/// looked up again.
const PLACES: usize = 1024;
/// Constraint, organization, and each column with its length; a longer key is looked up each time.
const LONGEST: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    length: usize,
    bytes: [u8; LONGEST],
}

struct Place {
    generation: u64,
    entry: Entry,
}

/// A key of the row whose triggers run now, whose parent is held.
struct JustHeld {
    constraint: pg_sys::Oid,
    parent: pg_sys::Oid,
    types: Vec<pg_sys::Oid>,
    check: Rc<CheckText>,
    entry: Entry,
}

static PLACES_OF: Backend<RefCell<Vec<Place>>> = Backend::new(RefCell::new(Vec::new()));
static GENERATION: Backend<Cell<u64>> = Backend::new(Cell::new(1));
static ROW: Backend<RefCell<Vec<JustHeld>>> = Backend::new(RefCell::new(Vec::new()));

/// What identifies a key's value under an organization; None where it is too long to be remembered.
#[derive(Clone, Copy)]
pub struct Name(Entry);

impl Name {
    pub fn new(constraint: pg_sys::Oid, org: &[u8; 16], values: &[Value]) -> Option<Name> {
        let mut entry = Entry {
            length: 20,
            bytes: [0; LONGEST],
        };
        entry.bytes[..4].copy_from_slice(&u32::from(constraint).to_ne_bytes());
        entry.bytes[4..20].copy_from_slice(org);
        for value in values {
            value.with_bytes(|bytes| {
                // Its length first: ('ab', 'c') is not ('a', 'bc').
                let end = entry.length + 1 + bytes.len();
                if end > LONGEST {
                    entry.length = LONGEST + 1;
                    return;
                }
                entry.bytes[entry.length] = bytes.len() as u8;
                entry.bytes[entry.length + 1..end].copy_from_slice(bytes);
                entry.length = end;
            });
            if entry.length > LONGEST {
                return None;
            }
        }
        Some(Name(entry))
    }

    fn place(&self) -> usize {
        let mut hasher = FxHasher::default();
        hasher.write(&self.0.bytes[..self.0.length]);
        let hash = hasher.finish();
        (hash ^ (hash >> 32)) as usize % PLACES
    }
}

/// The triggers of the next row begin.
#[inline]
pub fn begin_row() {
    ROW.with_borrow_mut(Vec::clear);
}

pub fn contains(name: &Name) -> bool {
    PLACES_OF.with_borrow(|places| {
        places
            .get(name.place())
            .is_some_and(|place| place.generation == GENERATION.get() && place.entry == name.0)
    })
}

pub fn insert(name: &Name) {
    PLACES_OF.with_borrow_mut(|places| {
        if places.is_empty() {
            places.resize_with(PLACES, || Place {
                generation: 0,
                entry: Entry {
                    length: 0,
                    bytes: [0; LONGEST],
                },
            });
        }
        places[name.place()] = Place {
            generation: GENERATION.get(),
            entry: name.0,
        };
    });
}

/// The row that is being written refers to a parent that is held.
pub fn note(key: &GuardedKey, name: Name) {
    if !key.unmistakable {
        return;
    }
    ROW.with_borrow_mut(|row| {
        row.push(JustHeld {
            constraint: key.constraint,
            parent: key.probe.parent,
            types: key.types.clone(),
            check: key.check.clone(),
            entry: name.0,
        });
    });
}

/// Whether the present row refers by a key with this check to a parent of these values that is held.
pub fn find(
    parent: pg_sys::Oid,
    values: &[Value],
    types: &[pg_sys::Oid],
    is_it: impl Fn(&CheckText) -> bool,
) -> bool {
    ROW.with_borrow(|row| {
        row.iter().any(|held| {
            held.parent == parent
                && held.types == types
                && held.is_for(values)
                && is_it(&held.check)
        })
    })
}

impl JustHeld {
    fn is_for(&self, values: &[Value]) -> bool {
        let org: &[u8; 16] = self.entry.bytes[4..20].try_into().expect("16 bytes");
        Name::new(self.constraint, org, values).is_some_and(|name| name.0 == self.entry)
    }
}

/// Whether anything is held for the present row.
#[inline]
pub fn any() -> bool {
    ROW.with_borrow(|row| !row.is_empty())
}

/// Nothing remembered holds any more.
#[inline]
pub fn clear() {
    GENERATION.set(GENERATION.get() + 1);
    ROW.with_borrow_mut(Vec::clear);
}
