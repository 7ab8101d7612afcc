//! Rights for one environment, on tables whose rows have theirs in a column or from their project (spec 2): a role may
//! deploy on staging and not on production.
//!
//! Writing: the policies of such a table ask whether the context has the action in any environment, and the row guard asks
//! of each row, as it was and as it will be, whether in its own. So a statement that meets a row of another environment is
//! an error that says so, as everywhere a right is lacking, and not a silent zero. Reading asks for every environment:
//! policies filter, and a row that was filtered by its environment would be missed in silence. A row without an
//! environment could be any's.

use super::asked::somewhere;
use super::place;
use super::plan::Options;
use super::table::Table;
use super::tagged::Way;
use crate::access;
use crate::access::matrix::{Action, Level};
use crate::context::{self, Standing};
use crate::environment::{self, Tag};
use crate::pg;
use crate::pg::trigger::{Event, RowImage};
use std::borrow::Cow;

/// An action as a policy for writing asks for it.
pub fn asking<'a>(options: &Options, command: &str, action: &'a str) -> Cow<'a, str> {
    if options.names_environment() && command != "select" {
        Cow::Owned(somewhere(action))
    } else {
        Cow::Borrowed(action)
    }
}

fn level(now: &Standing, index: Action, table: &Table) -> Level {
    match table.options.names_environment() {
        true => now.rights().level_somewhere(index),
        false => now.level(index),
    }
}

/// Whether a right is another one in some environment than in all of them.
pub fn differs(now: &Standing, table: &Table, action: &str) -> pg::Result<bool> {
    let index = access::action(&now.matrix, action)?;
    Ok(level(now, index, table) != now.level(index))
}

/// Whether a statement may write to the table at all.
pub fn may_somewhere(now: &Standing, action: &str, table: &Table) -> pg::Result<bool> {
    let index = access::action(&now.matrix, action)?;
    Ok(now.org.is_some() && level(now, index, table) == Level::Allow)
}

/// The environment that a row names.
pub(super) fn environment(table: &Table, row: &RowImage) -> Option<String> {
    match table.environment.as_ref()?.way {
        Way::Column { attnum, is_enum } => Tag::text(row, attnum, is_enum),
        Way::Place { .. } | Way::Key(_) => None,
    }
}

/// The environment that a row names, or its project does.
fn environment_of(now: &Standing, table: &Table, row: &RowImage) -> Option<String> {
    match table.environment.as_ref()?.way {
        Way::Place { by_cluster } => environment::of_place(&now.org_id()?, table, by_cluster, row)?
            .map(|tag| tag.to_string()),
        _ => environment(table, row),
    }
}

/// Refuses an action on rows whose environment it does not hold for.
pub fn require(
    now: &Standing,
    table: &Table,
    action: &str,
    rows: &[Option<&RowImage>],
    on: &str,
) -> pg::Result<()> {
    let index = access::action(&now.matrix, action)?;
    // Nearly always: a right that is the same everywhere, which the statement was asked for.
    if !differs(now, table, action)? {
        return Ok(());
    }
    for row in rows.iter().copied().flatten() {
        // Where it is going is another table of the tree: what holds everywhere holds there.
        let name = environment_of(now, table, row).filter(|_| !row.has_moved());
        if now.level_in(index, name.as_deref()) != Level::Allow
            && !place::gives(now, table, action, row)
        {
            let on = match &name {
                Some(name) => format!("{on} in environment \"{name}\""),
                None => format!("{on} where no environment is named"),
            };
            return Err(context::no_right(now, action, &on));
        }
    }
    Ok(())
}

/// Refuses an action that does not hold in every environment, on a row that came from another table of the tree: which one
/// it had there is not known here.
pub fn require_everywhere(
    now: &Standing,
    table: &Table,
    action: &str,
    row: &RowImage,
    on: &str,
) -> pg::Result<()> {
    let index = access::action(&now.matrix, action)?;
    if !table.options.names_environment()
        || now.level(index) == Level::Allow
        || place::gives(now, table, action, row)
    {
        return Ok(());
    }
    Err(context::no_right(now, action, on))
}

/// What the row guard asks of a row that is written.
pub fn check_row(
    now: &Standing,
    table: &Table,
    event: Event,
    rows: &[Option<&RowImage>],
    on: &str,
) -> pg::Result<()> {
    if !table.options.names_environment() {
        return Ok(());
    }
    let leaves = rows.iter().flatten().any(|row| row.has_moved());
    let action = match event {
        Event::Insert => &table.options.insert,
        Event::Update => &table.options.update,
        Event::Delete | Event::Truncate if leaves => &table.options.update,
        Event::Delete | Event::Truncate => &table.options.delete,
    };
    require(now, table, action, rows, on)
}
