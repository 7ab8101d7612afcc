//! The row that a change is about: where it is, what it is called, what it is now and will be.

use super::change::{Change, Risk};
use crate::context::Standing;
use crate::context::authority::Id;
use crate::context::projects;
use crate::environment::{RowKey, inherit, tag::Tag};
use crate::isolation::{self, Way, Whereabouts};
use crate::pg::key::Keys;
use crate::pg::query::{Arg, Row, latest, run_as_is};
use crate::pg::trigger::{Event, RowImage};
use crate::pg::value::Value;
use crate::pg::{self, canonical, primary_key};
use pgrx::spi;

impl Change {
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
        if self.carries_others() {
            return Ok(Risk::Destructive);
        }
        Ok(match self.event {
            Event::Insert => Risk::Safe,
            _ => Risk::Caution,
        })
    }

    /// Whether rows that refer to this one are changed along with it: a foreign key sees to that.
    fn carries_others(&self) -> bool {
        let (Event::Update, Some(payload)) = (self.event, &self.payload) else {
            return false;
        };
        let led_to = latest(
            "SELECT a.attname::pg_catalog.text
             FROM pg_catalog.pg_constraint AS c
                  JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) c.confrelid
                                                   AND a.attnum OPERATOR(pg_catalog.=) ANY (c.confkey)
             WHERE c.confrelid OPERATOR(pg_catalog.=) $1 AND c.contype OPERATOR(pg_catalog.=) 'f'::pg_catalog.\"char\"
               AND c.confupdtype OPERATOR(pg_catalog.=) ANY ('{c,n,d}'::pg_catalog.\"char\"[])",
            &[Arg::Oid(self.table.relid)],
            |row| row.get::<String>(1),
        );
        led_to
            .iter()
            .flatten()
            .any(|column| payload.columns.contains(column))
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
            Way::Place { by_cluster } => {
                let placed = self.table.placed.as_ref();
                let cluster = placed.and_then(|p| p.cluster).filter(|_| by_cluster);
                let project = placed.map(|p| p.project);
                project.into_iter().chain(cluster).collect()
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
                Way::Key(_) | Way::Place { .. } => format!("{of}.{name}"),
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
            Way::Place { .. } => {
                let cluster = (numbers.len() > 1).then(|| row.uuid(2)).flatten();
                let tag = row
                    .uuid(1)
                    .and_then(|project| projects::environment(org, &project, cluster.as_ref()));
                Ok(inherit::is_production_place(org, tag))
            }
        };
        self.before_and_after(list, says)
            .into_iter()
            .try_fold(false, |production, one| Ok(production || one?))
    }

    /// What `read` makes of `list`, columns of the row as the caller sees it now, and of the row as it will be.
    fn before_and_after<T>(
        &self,
        list: impl Fn(&str) -> String,
        read: impl Fn(&Row) -> T,
    ) -> Vec<T> {
        let mut found = vec![];
        let condition = || primary_key::condition(&self.columns);
        let name = &self.name;
        canonical::output(|| {
            if let Some(key) = &self.key {
                let sql = format!(
                    "SELECT {} FROM {name} AS t WHERE {}",
                    list("t"),
                    condition()
                );
                found.extend(run_as_is(&sql, &[Arg::Text(key)], &read));
            }
            let Some(payload) = &self.payload else { return };
            let text = Arg::Text(&payload.text);
            match &self.key {
                None => {
                    let sql = format!(
                        "SELECT {} FROM pg_catalog.jsonb_populate_record(NULL::{name}, $1::pg_catalog.jsonb) AS r",
                        list("r")
                    );
                    found.extend(run_as_is(&sql, &[text], &read));
                }
                Some(key) => {
                    let sql = format!(
                        "SELECT {} FROM {name} AS t CROSS JOIN LATERAL pg_catalog.jsonb_populate_record(t, $2::pg_catalog.jsonb) AS r
                         WHERE {}",
                        list("r"),
                        condition()
                    );
                    found.extend(run_as_is(&sql, &[Arg::Text(key), text], &read));
                }
            }
        });
        found
    }

    /// Where the row is as the caller sees it, and where it will be.
    pub fn whereabouts(&self) -> Vec<Whereabouts> {
        let (project, tag) = Whereabouts::columns(&self.table);
        let list = |of: &str| {
            let column = |name: Option<&str>, type_name: &str| match name {
                Some(name) => format!(
                    "{of}.{}::pg_catalog.{type_name}",
                    spi::quote_identifier(name)
                ),
                None => format!("NULL::pg_catalog.{type_name}"),
            };
            format!("{}, {}", column(project, "uuid"), column(tag, "text"))
        };
        self.before_and_after(list, |row| Whereabouts {
            project: row.uuid(1),
            environment: row.get::<String>(2),
        })
    }

    /// What `read` makes of the row as it is stored, whoever asks.
    pub fn stored<T>(&self, org: &Keys, read: impl Fn(&RowImage) -> T) -> Option<T> {
        let key = self.key.as_ref()?;
        canonical::output(|| {
            run_as_is(&self.key_values(), &[Arg::Text(key)], |row| {
                let values: Vec<Value> = (1..=self.columns.len() as i16)
                    .map(|i| row.value(i))
                    .collect();
                isolation::read_by_key(&self.table, &values, org, |_, row| read(row))
            })
        })
        .pop()
        .flatten()
    }

    /// The query for the key's values, in the columns' own types.
    fn key_values(&self) -> String {
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
        format!("SELECT {}", values.join(", "))
    }

    /// The key as the row guard sees it.
    pub fn row_key(&self) -> Option<RowKey> {
        let key = self.key.as_ref()?;
        canonical::output(|| {
            run_as_is(&self.key_values(), &[Arg::Text(key)], |row| {
                (1..=self.columns.len() as i16)
                    .map(|i| row.value(i).bytes())
                    .collect()
            })
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
}
