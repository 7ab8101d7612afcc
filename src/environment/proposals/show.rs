//! What an approver looks at.

use super::act::find;
use super::change::Change;
use crate::context;
use crate::pg::query::{Arg, run_as_is};
use crate::pg::trigger::Event;
use crate::pg::{self, canonical, primary_key};
use pgrx::datum::Uuid;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;
use std::collections::BTreeMap;

type Texts = BTreeMap<String, Option<String>>;

/// What a proposal would change of its row (spec 8), a row for each column in the table's order: what it holds now, what it
/// would hold, and whether the proposal says so. As the caller may see it: of a row that he does not see, and of columns
/// that he may not read, there is only what the proposal itself says. For whom the proposal shows. Errors: P0002 no such
/// proposal, 55000 its table is not protected any more, 42501 no organization in effect.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity, reason = "pgrx reads the columns here")]
fn show_proposal(
    id: Option<Uuid>,
) -> pg::Result<
    TableIterator<
        'static,
        (
            name!(column_name, String),
            name!(current, Option<String>),
            name!(proposed, Option<String>),
            name!(changes, bool),
        ),
    >,
> {
    let id = pg::given(id, "id")?;
    let now = context::standing();
    let Some(org) = now.org_id() else {
        return Err(context::without_context(&now, "look at a proposal"));
    };
    context::pin(&now)?;
    let change = find(&org, id.as_bytes(), false)?.change()?;
    let (current, proposed) = (current(&change), proposed(&change));
    let deletes = change.event == Event::Delete;
    let lines: Vec<_> = change
        .table
        .columns
        .iter()
        .filter_map(|(_, name)| {
            let (is, will) = (current.get(name), proposed.get(name));
            if is.is_none() && will.is_none() {
                return None;
            }
            let changes = deletes || will.is_some();
            let value = |of: Option<&Option<String>>| of.cloned().flatten();
            let will = if changes { value(will) } else { value(is) };
            Some((name.clone(), value(is), will, changes))
        })
        .collect();
    Ok(TableIterator::new(lines))
}

/// The columns of the row that the caller sees.
fn current(change: &Change) -> Texts {
    let Some(key) = &change.key else {
        return Texts::new();
    };
    let readable: Vec<String> = run_as_is(
        "SELECT pg_catalog.quote_ident(a.attname) FROM pg_catalog.pg_attribute AS a
         WHERE a.attrelid OPERATOR(pg_catalog.=) $1 AND a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2
           AND NOT a.attisdropped AND pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'SELECT')
         ORDER BY a.attnum",
        &[Arg::Oid(change.table.relid)],
        |row| row.get::<String>(1),
    )
    .into_iter()
    .flatten()
    .collect();
    // Nor is a row looked up by what he may not read.
    if readable.is_empty() || change.columns.iter().any(|c| !readable.contains(&c.quoted)) {
        return Texts::new();
    }
    let readable: Vec<String> = readable.iter().map(|name| format!("t.{name}")).collect();
    let row = format!(
        "SELECT {} FROM {} AS t WHERE {}",
        readable.join(", "),
        change.name,
        primary_key::condition(&change.columns)
    );
    texts(&row, key)
}

/// The columns that the proposal names.
fn proposed(change: &Change) -> Texts {
    let Some(payload) = &change.payload else {
        return Texts::new();
    };
    let row = format!(
        "SELECT r.* FROM pg_catalog.jsonb_populate_record(NULL::{}, $1::pg_catalog.jsonb) AS r",
        change.name
    );
    let mut all = texts(&row, &payload.text);
    all.retain(|name, _| payload.columns.contains(name));
    all
}

/// The columns of the one row of a query, as text.
fn texts(row: &str, argument: &str) -> Texts {
    let sql = format!(
        "SELECT e.key, e.value FROM ({row}) AS s CROSS JOIN LATERAL pg_catalog.jsonb_each_text(pg_catalog.to_jsonb(s)) AS e"
    );
    canonical::output(|| {
        run_as_is(&sql, &[Arg::Text(argument)], |row| {
            Some((row.get::<String>(1)?, row.get::<String>(2)))
        })
    })
    .into_iter()
    .flatten()
    .collect()
}
