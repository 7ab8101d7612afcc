//! What an AI actor may write now: the row of the proposal that is being executed, and nothing else.

use crate::context::Standing;
use crate::context::authority::Id;
use crate::environment::RowKey;
use crate::environment::production::key_of;
use crate::isolation::{Table, denied};
use crate::pg::local::Backend;
use crate::pg::trigger::{Event, RowImage};
use crate::pg::{self, transaction};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use std::cell::RefCell;
use std::rc::Rc;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Passed {
    Nothing,
    /// The row left its partition and has not arrived.
    Leaving,
    Row,
}

/// What is asked of the row itself: its table, the row before and after.
pub type Check = Rc<dyn Fn(&Table, Option<&RowImage>, Option<&RowImage>) -> pg::Result<()>>;

/// The change that an approved proposal allows.
pub struct Door {
    pub org: Id,
    /// The table, or the one that it is a part of.
    pub root: pg_sys::Oid,
    pub event: Event,
    /// None for a new row.
    pub key: Option<RowKey>,
    pub destructive: bool,
    pub approver: Id,
    pub check: Option<Check>,
    level: i32,
    /// The change's own statement has begun.
    begun: bool,
    passed: Passed,
    /// What foreign keys do by themselves to other rows of these tables. Their row triggers fire when the change's own do,
    /// and show no more whose statement it was.
    cascades: Vec<(pg_sys::Oid, Event)>,
    /// The tables of such rows that left their partition and have not arrived.
    moving: Vec<pg_sys::Oid>,
}

static OPEN: Backend<RefCell<Option<Door>>> = Backend::new(RefCell::new(None));

impl Door {
    pub fn new(org: Id, root: pg_sys::Oid, event: Event, key: Option<RowKey>) -> Door {
        Door {
            org,
            root,
            event,
            key,
            destructive: false,
            approver: Id::default(),
            check: None,
            level: transaction::nest_level(),
            begun: false,
            passed: Passed::Nothing,
            cascades: vec![],
            moving: vec![],
        }
    }

    /// Whether a row is one that a foreign key changes along with the proposed one. Of a row that goes to another partition
    /// the triggers say that it is deleted and then inserted.
    fn carries(
        &mut self,
        root: pg_sys::Oid,
        event: Event,
        old: Option<&RowImage>,
        new: Option<&RowImage>,
    ) -> bool {
        match (old, new) {
            (Some(old), None) if old.has_moved() => {
                let carries = self.cascades.contains(&(root, Event::Update));
                if carries {
                    self.moving.push(root);
                }
                carries
            }
            (None, Some(_)) => {
                let arrives = self.moving.iter().position(|table| *table == root);
                arrives.is_some_and(|i| self.moving.swap_remove(i) == root)
            }
            _ => self.cascades.contains(&(root, event)),
        }
    }
}

/// Opens the door for what `work` does. Answers whether the row passed, too.
pub fn while_open<T>(door: Door, work: impl FnOnce() -> T) -> (T, bool) {
    OPEN.set(Some(door));
    let done = work();
    let passed =
        OPEN.with_borrow(|open| open.as_ref().is_some_and(|door| door.passed == Passed::Row));
    shut();
    (done, passed)
}

pub fn is_open() -> bool {
    OPEN.with_borrow(Option::is_some)
}

pub fn shut() {
    if is_open() {
        OPEN.set(None);
    }
}

pub fn at_subtransaction_abort(level: i32) {
    if OPEN.with_borrow(|open| open.as_ref().is_some_and(|door| door.level >= level)) {
        OPEN.set(None);
    }
}

/// Who approved what is written now.
pub fn approver() -> Option<Id> {
    OPEN.with_borrow(|open| open.as_ref().map(|door| door.approver))
}

/// Whether what is written now was approved as destructive.
pub fn is_destructive() -> bool {
    OPEN.with_borrow(|open| open.as_ref().is_some_and(|door| door.destructive))
}

/// A statement of an AI actor begins: the change's own is the first one.
pub fn check_statement(now: &Standing, table: &Table, event: Event) -> pg::Result<()> {
    let opens = OPEN.with_borrow_mut(|open| {
        open.as_mut().is_some_and(|door| {
            Some(door.org) == now.org_id()
                && door.root == table.root
                && door.event == event
                && !std::mem::replace(&mut door.begun, true)
        })
    });
    if opens {
        Ok(())
    } else {
        Err(refused(table, event))
    }
}

/// A foreign key's own statement begins.
pub fn note_cascade(root: impl FnOnce() -> Option<pg_sys::Oid>, event: Event) {
    if !is_open() {
        return;
    }
    if let Some(root) = root() {
        OPEN.with_borrow_mut(|open| {
            if let Some(door) = open.as_mut() {
                door.cascades.push((root, event));
            }
        });
    }
}

/// An AI actor writes a row. What a foreign key does by itself to other rows, once the proposed one has passed, is a part
/// of it: an approver of a deletion approves that what refers to the row goes with it.
pub fn check_row(
    now: &Standing,
    table: &Table,
    event: Event,
    old: Option<&RowImage>,
    new: Option<&RowImage>,
) -> pg::Result<()> {
    let passes = OPEN.with_borrow_mut(|open| {
        let door = open.as_mut().filter(|d| Some(d.org) == now.org_id())?;
        if door.passed == Passed::Row && door.carries(table.root, event, old, new) {
            return Some(None);
        }
        if door.root != table.root {
            return None;
        }
        let is_it = |row: &RowImage| {
            door.key
                .as_ref()
                .is_some_and(|key| !key.is_empty() && *key == key_of(table, row))
        };
        let next = match (door.event, door.passed, old, new) {
            (Event::Insert, Passed::Nothing, None, Some(_)) => Passed::Row,
            (Event::Update, Passed::Nothing, Some(old), Some(_)) if is_it(old) => Passed::Row,
            (Event::Update, Passed::Nothing, Some(old), None) if old.has_moved() && is_it(old) => {
                Passed::Leaving
            }
            (Event::Update, Passed::Leaving, None, Some(_)) => Passed::Row,
            (Event::Delete, Passed::Nothing, Some(old), None) if !old.has_moved() && is_it(old) => {
                Passed::Row
            }
            _ => return None,
        };
        door.passed = next;
        Some(door.check.clone())
    });
    match passes {
        Some(Some(check)) => check(table, old, new),
        Some(None) => Ok(()),
        None => Err(refused(table, event)),
    }
}

fn refused(table: &Table, event: Event) -> ErrorReport {
    let verb = event.name();
    if is_open() {
        return denied(
            format!(
                "permission denied: {verb} on table {} is not what was approved",
                table.object
            ),
            "A proposal covers one action on one row; triggers that write others are not covered by it.",
            "Propose that change by itself.",
        );
    }
    denied(
        format!(
            "permission denied: an AI actor may not {verb} on table {}",
            table.object
        ),
        "An AI actor writes only what was proposed and approved.",
        "SELECT tenancy.propose(...), tenancy.submit_proposal(), and after the approval tenancy.execute_proposal().",
    )
}
