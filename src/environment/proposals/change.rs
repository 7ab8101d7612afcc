//! The change that a proposal is about: what it needs, how risky it is, and the statement that makes it.

use crate::context::Standing;
use crate::context::authority::Id;
use crate::environment::row_key::{self, quoted_name};
use crate::environment::{RowKey, inherit, tag::Tag};
use crate::isolation::{self, Table, Way};
use crate::pg::query::{Arg, Row, latest, run_as_is};
use crate::pg::trigger::Event;
use crate::pg::value::Value;
use crate::pg::{self, canonical, catalog, fail, primary_key};
use pgrx::pg_sys::panic::ErrorReport;
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

pub fn invalid(message: impl Into<String>, detail: impl Into<String>, hint: &str) -> ErrorReport {
    fail(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message)
        .set_detail(detail)
        .set_hint(hint)
}

/// New values by column, as text: a number is not to lose digits on the way.
pub struct Payload {
    pub text: String,
    columns: Vec<String>,
}

impl Payload {
    /// None where the text is no JSON object.
    pub fn read(text: String) -> Option<Payload> {
        let columns = serde_json::from_str::<BTreeMap<String, &RawValue>>(&text).ok()?;
        Some(Payload {
            columns: columns.into_keys().collect(),
            text,
        })
    }
}

pub struct Change {
    pub table: Rc<Table>,
    pub event: Event,
    /// The key as a JSON object, as PostgreSQL writes it whatever the session's settings; None for a new row.
    pub key: Option<String>,
    pub payload: Option<Payload>,
    /// The table's own name, quoted.
    name: String,
    columns: Vec<primary_key::Column>,
}

/// A protected table by a name of itself or of one of its partitions.
fn whole_table(relid: pg_sys::Oid) -> pg::Result<Rc<Table>> {
    isolation::protected(relid)
        .and_then(|table| isolation::protected(table.root))
        .ok_or_else(|| {
            fail(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!(
                    "table \"{}\" is not protected",
                    catalog::relation_name(relid)
                ),
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
        change.check_payload()?;
        Ok(change)
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
        for column in &payload.columns {
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

    /// What the change is at least. Whether it really reaches production, the row guard sees as it is written.
    pub fn risk(&self, now: &Standing) -> pg::Result<Risk> {
        let deletes = |action: &String| action.ends_with(":delete");
        if self.event == Event::Delete || self.actions().iter().any(deletes) {
            return Ok(Risk::Destructive);
        }
        if let Some(org) = now.org_id()
            && self.is_production(&org)?
        {
            return Ok(Risk::Destructive);
        }
        Ok(match self.event {
            Event::Insert => Risk::Safe,
            _ => Risk::Caution,
        })
    }

    /// Whether the row is production, or will be.
    fn is_production(&self, org: &Id) -> pg::Result<bool> {
        let Some(source) = &self.table.environment else {
            return Ok(false);
        };
        let numbers: Vec<i16> = match source.way {
            Way::Column { attnum, .. } => vec![attnum],
            Way::Key(place) => {
                let key = &self.table.foreign_keys[place];
                key.columns.iter().map(|(attnum, _)| *attnum).collect()
            }
        };
        let names: Vec<String> = numbers
            .iter()
            .filter_map(|n| self.table.columns.iter().find(|(attnum, _)| attnum == n))
            .map(|(_, name)| spi::quote_identifier(name))
            .collect();
        let list = |of: &str| {
            let each = names.iter().map(|name| match source.way {
                Way::Column { .. } => format!("{of}.{name}::pg_catalog.text"),
                Way::Key(_) => format!("{of}.{name}"),
            });
            each.collect::<Vec<_>>().join(", ")
        };
        let says = |row: &Row| match source.way {
            Way::Column { .. } => Ok(row
                .get::<String>(1)
                .is_some_and(|tag| Tag::named(org, tag).is_production())),
            Way::Key(place) => {
                let values: Vec<Value> = (1..=numbers.len() as i16).map(|i| row.value(i)).collect();
                inherit::by_reference(org, &self.table.foreign_keys[place], &values, 0)
            }
        };
        let mut found = vec![];
        if let Some(key) = &self.key {
            found.extend(run_as_is(
                &format!(
                    "SELECT {} FROM {} AS t WHERE {}",
                    list("t"),
                    self.name,
                    primary_key::condition(&self.columns)
                ),
                &[Arg::Text(key)],
                says,
            ));
        }
        if let Some(payload) = &self.payload {
            let text = &payload.text;
            match &self.key {
                None => found.extend(run_as_is(
                    &format!(
                        "SELECT {} FROM pg_catalog.jsonb_populate_record(NULL::{}, $1::pg_catalog.jsonb) AS r",
                        list("r"),
                        self.name
                    ),
                    &[Arg::Text(text)],
                    says,
                )),
                Some(key) => found.extend(run_as_is(
                    &format!(
                        "SELECT {} FROM {} AS t CROSS JOIN LATERAL pg_catalog.jsonb_populate_record(t, $2::pg_catalog.jsonb) AS r
                         WHERE {}",
                        list("r"),
                        self.name,
                        primary_key::condition(&self.columns)
                    ),
                    &[Arg::Text(key), Arg::Text(text)],
                    says,
                )),
            }
        }
        found
            .into_iter()
            .try_fold(false, |production, one| Ok(production || one?))
    }

    /// The key as the row guard sees it.
    pub fn row_key(&self) -> Option<RowKey> {
        let key = self.key.as_ref()?;
        let values: Vec<String> = self
            .columns
            .iter()
            .map(|c| {
                format!(
                    "($1::pg_catalog.jsonb OPERATOR(pg_catalog.->>) {})::{}",
                    c.literal, c.type_name
                )
            })
            .collect();
        canonical::output(|| {
            run_as_is(
                &format!("SELECT {}", values.join(", ")),
                &[Arg::Text(key)],
                |row| {
                    (1..=self.columns.len() as i16)
                        .map(|i| row.value(i).bytes())
                        .collect()
                },
            )
        })
        .pop()
    }

    /// Whether the row is one that the caller may write now: a locking read answers that. A new one need not be there.
    pub fn is_writable(&self) -> bool {
        let Some(key) = &self.key else { return true };
        canonical::output(|| {
            !run_as_is(
                &format!(
                    "SELECT 1 FROM {} AS t WHERE {} FOR UPDATE",
                    self.name,
                    primary_key::condition(&self.columns)
                ),
                &[Arg::Text(key)],
                |_| (),
            )
            .is_empty()
        })
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
