//! How far the scope of a membership reaches a row: by the rule for the row itself, else by the one for the resource above
//! it, and so on up (spec 3.8). The nearest rule says it, also where it says none.
//!
//! What a table's policies and guards ask here is asked for memberships that are limited to resources only.

use super::guard::denied;
use super::plan::Options;
use super::route::Leaves;
use super::table::{self, GuardedKey, Table};
use crate::access::scopes::{Access, Key, Scopes};
use crate::context::{self, Standing};
use crate::pg::key::Keys;
use crate::pg::local::Backend;
use crate::pg::lookup::{self, When};
use crate::pg::probe::Probe;
use crate::pg::trigger::RowImage;
use crate::pg::value::Value;
use crate::pg::{self, canonical, value};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::borrow::Cow;
use std::cell::RefCell;

/// A chain of parents ends; this is for one that was made to run in a circle past protect().
const HIGHEST: usize = 16;

/// A table of resources as the catalog has it.
#[derive(Debug)]
pub struct Scoped {
    kind: Option<String>,
    key: Option<(i16, String)>,
    parent: Option<Link>,
    /// What the record of protection names is not there: then nobody knows what a rule is about, and nothing is shown.
    damaged: bool,
}

/// The way to the resource above.
#[derive(Debug)]
struct Link {
    column: i16,
    /// The foreign key among the table's own, and the column's place in it.
    key: usize,
    at: usize,
}

impl Scoped {
    pub fn of(
        options: &Options,
        columns: &[(i16, String)],
        org: i16,
        keys: &[GuardedKey],
    ) -> Option<Scoped> {
        let resource = options.resource.as_ref()?;
        let find = |name: &Option<String>| {
            let name = name.as_ref()?;
            columns.iter().find(|(_, n)| n == name).cloned()
        };
        let (key, parent) = (find(&resource.key), find(&resource.parent));
        let parent = parent.and_then(|(column, _)| {
            keys.iter().enumerate().find_map(|(n, key)| {
                let at = key.columns.iter().position(|(c, _)| *c == column)?;
                let alone = key.columns.iter().all(|(c, _)| *c == column || *c == org);
                alone.then_some(Link { column, key: n, at })
            })
        });
        Some(Scoped {
            damaged: key.is_none() != resource.key.is_none()
                || parent.is_none() != resource.parent.is_none()
                || resource.kind.is_none() != resource.key.is_none(),
            kind: resource.kind.clone(),
            key,
            parent,
        })
    }

    pub fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    /// The column that names a row as a resource.
    pub fn key(&self) -> Option<&(i16, String)> {
        self.key.as_ref()
    }
}

/// How a column's type is compared with a rule's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    Smallint,
    Integer,
    Bigint,
    Uuid,
    Text,
    /// By its text, which is the same whatever the session's settings are.
    Other(pg_sys::Oid),
}

impl Form {
    pub fn of(type_id: pg_sys::Oid) -> Form {
        match pg::catalog::base_type(type_id) {
            pg_sys::INT2OID => Form::Smallint,
            pg_sys::INT4OID => Form::Integer,
            pg_sys::INT8OID => Form::Bigint,
            pg_sys::UUIDOID => Form::Uuid,
            pg_sys::TEXTOID | pg_sys::VARCHAROID => Form::Text,
            other => Form::Other(other),
        }
    }
}

/// A column's value in a row.
#[derive(Clone, Copy)]
pub struct Cell {
    pub value: Value,
    pub form: Form,
}

impl Cell {
    fn of(row: &RowImage, attnum: i16) -> Cell {
        Cell {
            value: row.value(attnum),
            form: Form::of(row.type_of(attnum)),
        }
    }

    /// None for NULL, which names nothing.
    pub fn key(&self) -> Option<Key<'_>> {
        if self.value.null {
            return None;
        }
        let word = self.value.datum.value();
        Some(match self.form {
            Form::Smallint => Key::Number((word as i16).into()),
            Form::Integer => Key::Number((word as i32).into()),
            Form::Bigint => Key::Number(word as i64),
            Form::Uuid => Key::Uuid(self.value.as_uuid()?),
            Form::Text => Key::Text(self.value.content()),
            Form::Other(type_id) => {
                let text = canonical::output(|| value::output(&self.value, type_id));
                Key::Text(Cow::Owned(text.into_bytes()))
            }
        })
    }
}

/// A row as far as scopes are concerned with it.
#[derive(Clone, Copy, Default)]
pub struct Place {
    pub own: Option<Cell>,
    pub parent: Option<Cell>,
}

impl Place {
    fn of(scoped: &Scoped, row: &RowImage) -> Place {
        Place {
            own: scoped
                .key
                .as_ref()
                .map(|(attnum, _)| Cell::of(row, *attnum)),
            parent: scoped
                .parent
                .as_ref()
                .map(|link| Cell::of(row, link.column)),
        }
    }
}

/// How far `scopes` reach a row of the table, which is of the organization.
pub fn reach(scopes: &Scopes, table: &Table, place: Place, org: &Keys, when: When) -> Access {
    climb(scopes, table, place, org, when, 0).unwrap_or(Access::None)
}

/// What the nearest rule says; None where there is none on the way up.
fn climb(
    scopes: &Scopes,
    table: &Table,
    place: Place,
    org: &Keys,
    when: When,
    height: usize,
) -> Option<Access> {
    let scoped = table.scoped.as_ref().filter(|s| !s.damaged)?;
    if height > HIGHEST {
        return None;
    }
    if let (Some(kind), Some(own)) = (&scoped.kind, &place.own)
        && let Some(access) = own.key().and_then(|key| scopes.rule(kind, &key))
    {
        return Some(access);
    }
    let (link, up) = (scoped.parent.as_ref()?, place.parent?);
    let key = &table.foreign_keys[link.key];
    let above = table::protected(key.probe.parent)?;
    let there = above.scoped.as_ref().filter(|s| !s.damaged)?;
    let by_its_key = there
        .key
        .as_ref()
        .is_some_and(|(_, name)| *name == key.probe.keys[link.at].parent_column);
    if by_its_key {
        let kind = there.kind.as_ref()?;
        if let Some(access) = scopes.rule(kind, &up.key()?) {
            return Some(access);
        }
        // Its row says no more than its key did.
        there.parent.as_ref()?;
    }
    // Whoever calls in_scope() chooses the type, too; the key's own operators take the column's.
    if up.value.null || up.form != Form::of(key.types[link.at]) {
        return None;
    }
    let values: Option<Vec<Value>> = (0..key.columns.len())
        .map(|i| {
            if i == link.at {
                return Some(up.value);
            }
            let datum = org.datum(table.org_kind)?;
            Some(table.org_kind.value(datum, false))
        })
        .collect();
    let read = |above: &Table, row: &RowImage| {
        let there = above.scoped.as_ref()?;
        let place = Place::of(there, row);
        climb(scopes, above, place, org, when, height + 1)
    };
    let leaves = key.leaves.as_ref();
    read_row(&key.probe, leaves, &values?, org, when, read).flatten()
}

/// What `read` makes of the organization's row that a key leads to, and of the table where it is stored: a partition has its
/// columns in an order of its own. Another organization's row is none: who calls in_scope() chooses the key.
pub fn read_row<T>(
    probe: &Probe,
    leaves: Option<&Leaves>,
    values: &[Value],
    org: &Keys,
    when: When,
    read: impl Fn(&Table, &RowImage) -> T,
) -> Option<T> {
    let of_org = |stored: pg_sys::Oid, row: &RowImage| {
        let table = table::protected(stored).filter(|t| t.org_attnum > 0)?;
        let mine = org.is(table.org_kind, &row.value(table.org_attnum));
        mine.then(|| read(&table, row))
    };
    stored(probe, leaves, values, when, of_org).flatten()
}

/// What `read` makes of the row that a foreign key leads to, wherever it is stored and whosever it is.
pub(super) fn read_parent<T>(
    key: &GuardedKey,
    values: &[Value],
    when: When,
    read: impl Fn(&RowImage) -> T,
) -> Option<T> {
    let leaves = key.leaves.as_ref();
    stored(&key.probe, leaves, values, when, |_, row| read(row))
}

fn stored<T>(
    probe: &Probe,
    leaves: Option<&Leaves>,
    values: &[Value],
    when: When,
    read: impl Fn(pg_sys::Oid, &RowImage) -> T,
) -> Option<T> {
    let read_in = |probe: &Probe| lookup::row(probe, values, when, |row| read(probe.parent, row));
    match leaves.filter(|_| probe.is_known()) {
        None => read_in(probe),
        Some(leaves) => leaves
            .probes(probe, values)
            .iter()
            .find_map(|leaf| read_in(leaf)),
    }
}

/// How far the scope reaches a row of a table.
pub fn reach_of(scopes: &Scopes, table: &Table, row: &RowImage, org: &Keys, when: When) -> Access {
    let Some(scoped) = &table.scoped else {
        return Access::None;
    };
    reach(scopes, table, Place::of(scoped, row), org, when)
}

/// How many rows of a table the rules may show: those listed, and those below a listed one, of which each is taken to have as
/// many as another.
pub fn shown(scopes: &Scopes, table: &Table) -> f64 {
    let Some(scoped) = &table.scoped else {
        return 0.0;
    };
    let own = scoped.kind.as_ref().map_or(0, |kind| scopes.shown(kind)) as f64;
    let below = scoped.parent.as_ref().and_then(|link| {
        let parent = table.foreign_keys[link.key].probe.parent;
        let above = table::protected(parent)?;
        let (mine, theirs) = (
            pg::catalog::rows_of(table.relid),
            pg::catalog::rows_of(parent),
        );
        // A table that leads back to itself was made past protect().
        (above.relid != table.relid).then(|| {
            let listed = above
                .scoped
                .as_ref()?
                .kind
                .as_ref()
                .map_or(0, |k| scopes.shown(k));
            Some(listed as f64 * mine / theirs.max(1.0))
        })?
    });
    own + below.unwrap_or(0.0)
}

/// Holds a written row to the membership's scope, before and after. What a cascade writes needs the parent's right only.
pub fn hold(
    table: &Table,
    now: &Standing,
    org: &Keys,
    old: Option<&RowImage>,
    new: Option<&RowImage>,
) -> pg::Result<()> {
    let Some(scopes) = &now.scopes else {
        return Ok(());
    };
    if is_of_cascade(old, new) {
        return Ok(());
    }
    for row in [old, new].into_iter().flatten() {
        let access = reach_of(scopes, table, row, org, When::Newest);
        if access < Access::Full {
            return Err(refused(table, access));
        }
    }
    Ok(())
}

/// The refusal of a write: nothing is said of what the membership does not show.
pub fn refused(table: &Table, access: Access) -> ErrorReport {
    let hint = "SELECT * FROM tenancy.list_scopes() shows the resources; whoever holds team:role changes them with tenancy.set_scope().";
    if access == Access::None {
        return denied(
            format!(
                "permission denied: the row in table {} is not within the membership's scope",
                table.object
            ),
            "The membership is limited to listed resources; a new one is not listed.",
            hint,
        );
    }
    denied(
        format!(
            "permission denied: the row in table {} is read-only within the membership's scope",
            table.object
        ),
        "The rule for this resource, or for the one it belongs to, says read_only.",
        hint,
    )
}

/// Whether the row that a key refers to is one that the membership does not show: to it there is none (spec 5.5).
pub fn hides(key: &GuardedKey, values: &[Value], org: &Keys) -> bool {
    let now = context::standing();
    let Some(scopes) = &now.scopes else {
        return false;
    };
    let reached = |table: &Table, row: &RowImage| reach_of(scopes, table, row, org, When::Newest);
    let leaves = key.leaves.as_ref();
    read_row(&key.probe, leaves, values, org, When::Newest, reached) == Some(Access::None)
}

// The commands of this transaction that were PostgreSQL's own for a foreign key: the row triggers of what they wrote fire
// later, when nobody runs any more.
static CASCADES: Backend<RefCell<Vec<u32>>> = Backend::new(RefCell::new(Vec::new()));

/// PostgreSQL's own statement for a foreign key writes under this command id.
pub fn note_cascade(command: u32) {
    // In a database without the extension there are cascades, too.
    if pg::catalog::find_house().is_none() {
        return;
    }
    let now = context::standing();
    if now.scopes.is_some() || now.has_projects() {
        CASCADES.with_borrow_mut(|all| {
            if all.last() != Some(&command) {
                all.push(command);
            }
        });
    }
}

pub(super) fn is_of_cascade(old: Option<&RowImage>, new: Option<&RowImage>) -> bool {
    CASCADES.with_borrow(|all| {
        if all.is_empty() {
            return false;
        }
        let command = match (old, new) {
            (Some(old), _) => old.ended_by(),
            (None, Some(new)) => new.made_by(),
            (None, None) => return false,
        };
        all.contains(&command)
    })
}

pub fn forget() {
    if !CASCADES.with_borrow(Vec::is_empty) {
        CASCADES.take();
    }
}
