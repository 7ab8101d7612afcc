//! The change that a proposal is about: what it needs, how risky it is, and the statement that makes it.

use super::layout::Layout;
use crate::context::Standing;
use crate::environment::row_key::{self, quoted_name};
use crate::isolation::{self, Table};
pub use crate::pg::error::invalid;
use crate::pg::query::{Arg, latest, run_as_is};
use crate::pg::trigger::Event;
use crate::pg::{self, canonical, catalog, fail, primary_key};
use pgrx::prelude::*;
use pgrx::spi;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::rc::Rc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Risk {
    Safe,
    Caution,
    Destructive,
}

impl Risk {
    pub fn name(self) -> &'static str {
        match self {
            Risk::Safe => "safe",
            Risk::Caution => "caution",
            Risk::Destructive => "destructive",
        }
    }

    pub fn named(name: &str) -> Option<Risk> {
        [Risk::Safe, Risk::Caution, Risk::Destructive]
            .into_iter()
            .find(|risk| risk.name() == name)
    }
}

pub fn event_named(operation: &str) -> Option<Event> {
    match operation {
        "insert" => Some(Event::Insert),
        "update" => Some(Event::Update),
        "delete" => Some(Event::Delete),
        _ => None,
    }
}

/// New values by column, as text: a number is not to lose digits on the way.
pub struct Payload {
    pub text: String,
    pub(super) columns: Vec<String>,
}

/// A row is not longer: what is proposed is for people to read.
const LONGEST: usize = 1 << 20;

impl Payload {
    /// None where the text is no JSON object.
    pub fn read(text: String) -> Option<Payload> {
        let columns = serde_json::from_str::<BTreeMap<String, &RawValue>>(&text).ok()?;
        Some(Payload {
            columns: columns.into_keys().collect(),
            text,
        })
    }

    /// Adds a column with a text, where it is not named.
    fn add(&mut self, column: &str, value: &str) {
        let Ok(mut all) = serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(&self.text)
        else {
            return;
        };
        if let Ok(value) = serde_json::value::to_raw_value(value) {
            all.entry(column.to_string()).or_insert(value);
        }
        if let Ok(text) = serde_json::to_string(&all) {
            self.columns = all.into_keys().collect();
            self.text = text;
        }
    }
}

pub struct Change {
    pub table: Rc<Table>,
    pub event: Event,
    /// The key as a JSON object, as PostgreSQL writes it whatever the session's settings; None for a new row.
    pub key: Option<String>,
    pub payload: Option<Payload>,
    /// The table's own name, quoted.
    pub(super) name: String,
    /// Those of the primary key.
    pub(super) columns: Vec<primary_key::Column>,
}

/// A protected table by a name of itself or of one of its partitions.
fn whole_table(relid: pg_sys::Oid) -> pg::Result<Rc<Table>> {
    isolation::protected(relid)
        .and_then(|table| isolation::protected(table.root))
        .ok_or_else(|| {
            let name = catalog::relation_name(relid);
            let message = match name.as_str() {
                "" => "the table of the proposal is gone".into(),
                name => format!("table \"{name}\" is not protected"),
            };
            fail(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                message,
            )
            .set_detail("Proposals are about rows of protected tables.")
            .set_hint("SELECT * FROM tenancy.protected_tables lists those that are.")
        })
}

impl Change {
    pub fn new(
        relid: pg_sys::Oid,
        event: Event,
        key: Option<String>,
        payload: Option<Payload>,
    ) -> pg::Result<Change> {
        let table = whole_table(relid)?;
        Ok(Change {
            name: quoted_name(table.relid),
            columns: primary_key::columns(table.relid),
            table,
            event,
            key,
            payload,
        })
    }

    /// The change as it is proposed: everything about it is looked at. `key`: as text, see row_key.
    pub fn proposed(
        now: &Standing,
        relid: pg_sys::Oid,
        event: Event,
        key: Option<&str>,
        payload: Option<String>,
    ) -> pg::Result<Change> {
        let given = payload.is_some();
        let payload = match (event, payload.and_then(Payload::read)) {
            (Event::Delete, None) if !given => None,
            (Event::Insert | Event::Update, Some(payload)) => Some(payload),
            (Event::Delete, _) => {
                return Err(invalid(
                    "a deletion has no payload",
                    "It names the row by its key.",
                    "Leave payload out.",
                ));
            }
            _ => {
                return Err(invalid(
                    "the payload must be a JSON object",
                    "It holds the new values, by column.",
                    "Such as payload => '{\"name\": \"web-2\"}'.",
                ));
            }
        };
        if payload.as_ref().is_some_and(|p| p.text.len() > LONGEST) {
            return Err(fail(
                PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                "the payload is too long",
            )
            .set_detail("It may have 1 MB.")
            .set_hint("Propose what somebody can read before he approves it."));
        }
        // What is looked at from here on stays as it is until the proposal is stored.
        catalog::lock_for_writing(relid);
        let mut change = Change::new(relid, event, None, payload)?;
        match (event, key) {
            (Event::Insert, None) => {}
            (Event::Insert, Some(_)) => {
                return Err(invalid(
                    "a new row has no key yet",
                    "Its key stands in the payload, or is filled by a default.",
                    "Leave key out.",
                ));
            }
            (_, key) => {
                let key = pg::given(key, "key")?;
                change.key = Some(row_key::find(&change.table, key)?.json);
            }
        }
        change.name_place(now)?;
        change.check_payload()?;
        Ok(change)
    }

    /// A new row's project is said in the proposal, and not by where the session that executes it has narrowed itself to.
    fn name_place(&mut self, now: &Standing) -> pg::Result<()> {
        let (Event::Insert, Some(placed)) = (self.event, &self.table.placed) else {
            return Ok(());
        };
        let name = |number: i16| {
            let column = self.table.columns.iter().find(|(n, _)| *n == number);
            column.map_or_else(String::new, |(_, name)| name.clone())
        };
        let (project, cluster) = (name(placed.project), placed.cluster.map(name));
        let Some(payload) = &mut self.payload else {
            return Ok(());
        };
        if payload.columns.contains(&project) {
            return Ok(());
        }
        let Some(narrowed) = now.narrowed else {
            return Err(fail(
                PgSqlErrorCode::ERRCODE_NOT_NULL_VIOLATION,
                format!("the proposed row of table {} names no project", self.table.object),
            )
            .set_detail("Every row of the table belongs to one, and who approves it looks at which.")
            .set_hint("Name it in the payload, or narrow the session: SET LOCAL app.current_project = '...'."));
        };
        payload.add(&project, &crate::org::id_text(&narrowed.project));
        if let (Some(column), Some(cluster)) = (cluster, narrowed.cluster) {
            payload.add(&column, &crate::org::id_text(&cluster));
        }
        Ok(())
    }

    fn check_payload(&self) -> pg::Result<()> {
        let Some(payload) = &self.payload else {
            return Ok(());
        };
        if self.event == Event::Update && payload.columns.is_empty() {
            return Err(invalid(
                "the payload changes nothing",
                "It names no column.",
                "Name what the update is to change.",
            ));
        }
        let layout = Layout::of(&self.table);
        for column in &payload.columns {
            if layout.columns.iter().any(|c| c.made && c.name == *column) {
                return Err(fail(
                    PgSqlErrorCode::ERRCODE_GENERATED_ALWAYS,
                    format!(
                        "column \"{column}\" of table {} is made by PostgreSQL",
                        self.table.object
                    ),
                )
                .set_detail("It is generated, or always an identity.")
                .set_hint("Leave the column out of the payload."));
            }
            let known = self.table.columns.iter().find(|(_, name)| name == column);
            let Some((attnum, _)) = known else {
                return Err(fail(
                    PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                    format!(
                        "column \"{column}\" of table {} does not exist",
                        self.table.object
                    ),
                )
                .set_detail("The payload names it.")
                .set_hint("Name columns of the table only."));
            };
            let of_key = self.columns.iter().any(|c| c.name == *column);
            if *attnum == self.table.org_attnum || self.event == Event::Update && of_key {
                return Err(invalid(
                    format!("a proposal does not say column \"{column}\""),
                    "The organization comes from the context, and a row keeps its key.",
                    "Leave the column out of the payload.",
                ));
            }
        }
        // Values that are none of their column's type are an error now, and not after the approval.
        run_as_is(
            &format!(
                "SELECT 1 FROM pg_catalog.jsonb_populate_record(NULL::{}, $1::pg_catalog.jsonb) AS r",
                self.name
            ),
            &[Arg::Text(&payload.text)],
            |_| (),
        );
        Ok(())
    }

    /// The actions that the change needs, that of the command first.
    pub fn actions(&self) -> Vec<String> {
        let options = &self.table.options;
        let mut actions = vec![
            match self.event {
                Event::Insert => &options.insert,
                Event::Update => &options.update,
                _ => &options.delete,
            }
            .clone(),
        ];
        if let (Event::Update, Some(payload)) = (self.event, &self.payload) {
            for (_, column, action) in &self.table.column_actions {
                if payload.columns.contains(column) && !actions.contains(action) {
                    actions.push(action.clone());
                }
            }
        }
        actions
    }

    /// Makes the change, as whoever calls, under every rule; answers how many rows that were.
    pub fn make(&self) -> u64 {
        let key = self.key.as_deref().unwrap_or("{}");
        let payload = self.payload.as_ref().map_or("{}", |p| p.text.as_str());
        let columns: Vec<String> = self
            .payload
            .iter()
            .flat_map(|p| &p.columns)
            .map(spi::quote_identifier)
            .collect();
        let of = |columns: &[String], from: &str| -> String {
            let each = columns.iter().map(|c| format!("{from}{c}"));
            each.collect::<Vec<_>>().join(", ")
        };
        let name = &self.name;
        let record =
            format!("pg_catalog.jsonb_populate_record(NULL::{name}, $2::pg_catalog.jsonb) AS r");
        let condition = primary_key::condition(&self.columns);
        let sql = match self.event {
            Event::Insert if columns.is_empty() => format!("INSERT INTO {name} DEFAULT VALUES"),
            Event::Insert => format!(
                "INSERT INTO {name} ({}) SELECT {} FROM {record}",
                of(&columns, ""),
                of(&columns, "r.")
            ),
            Event::Update => {
                let each = columns.iter().map(|c| format!("{c} = r.{c}"));
                format!(
                    "UPDATE {name} AS t SET {} FROM {record} WHERE {condition}",
                    each.collect::<Vec<_>>().join(", ")
                )
            }
            _ => format!("DELETE FROM {name} AS t WHERE {condition}"),
        };
        canonical::output(|| pg::query::touch_as_is(&sql, &[Arg::Text(key), Arg::Text(payload)]))
    }
}

/// The name of a table for the log; the number of one that is gone.
pub fn object(relid: pg_sys::Oid) -> String {
    latest(
        "SELECT $1::pg_catalog.regclass::pg_catalog.text",
        &[Arg::Oid(relid)],
        |row| row.get::<String>(1),
    )
    .pop()
    .flatten()
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::Risk;

    #[test]
    fn risks_are_in_order() {
        assert!(Risk::Safe < Risk::Caution && Risk::Caution < Risk::Destructive);
        for risk in [Risk::Safe, Risk::Caution, Risk::Destructive] {
            assert_eq!(Risk::named(risk.name()), Some(risk));
        }
        assert_eq!(Risk::named("Safe"), None);
    }
}
