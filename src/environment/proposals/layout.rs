//! The table as it was when a change was proposed: its columns, its key, its protection. A payload names columns, and what a
//! name means is the table owner's to change: whoever approved `{"limit": 5}` approved it for the column that was called so.
//!
//! Columns added since are no change of what was looked at; one that was renamed, dropped or given another type is, whether
//! the proposal names it or not: the row that the approver saw had it.

use crate::isolation::Options;
use crate::isolation::Table;
use crate::pg::query::{Arg, latest};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    number: i16,
    #[serde(rename = "type")]
    type_name: String,
    /// A person cannot give it a value: it is generated, or always an identity.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub made: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    pub columns: Vec<Column>,
    /// The columns of the primary key, in its order.
    key: Vec<String>,
    protection: Options,
}

impl Layout {
    /// As it is now.
    pub fn of(table: &Table) -> Layout {
        let columns = latest(
            "SELECT a.attname::pg_catalog.text, a.attnum,
                    pg_catalog.format_type(a.atttypid, a.atttypmod) OPERATOR(pg_catalog.||)
                        COALESCE(' ' OPERATOR(pg_catalog.||) NULLIF(a.attcollation, 0::pg_catalog.oid)::pg_catalog.regcollation::pg_catalog.text, ''),
                    a.attgenerated OPERATOR(pg_catalog.<>) ''::pg_catalog.\"char\"
                        OR a.attidentity OPERATOR(pg_catalog.=) 'a'::pg_catalog.\"char\"
             FROM pg_catalog.pg_attribute AS a
             WHERE a.attrelid OPERATOR(pg_catalog.=) $1 AND a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2
               AND NOT a.attisdropped
             ORDER BY a.attnum",
            &[Arg::Oid(table.relid)],
            |row| Column {
                name: row.get(1).unwrap_or_default(),
                number: row.get(2).unwrap_or_default(),
                type_name: row.get(3).unwrap_or_default(),
                made: row.get(4).unwrap_or(true),
            },
        );
        let name = |number: &i16| {
            let column = table.columns.iter().find(|(n, _)| n == number);
            column.map_or_else(String::new, |(_, name)| name.clone())
        };
        let mut protection = table.options.clone();
        protection.before = Default::default();
        // How it is logged is no concern of who approves.
        protection.audit = false;
        protection.audit_exclude.clear();
        protection.audit_mask.clear();
        Layout {
            columns,
            key: table.key.iter().map(name).collect(),
            protection,
        }
    }

    pub fn read(text: &str) -> Option<Layout> {
        serde_json::from_str(text).ok()
    }

    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// In what the table differs from this by now, if it does in anything that counts.
    pub fn difference(&self, now: &Layout) -> Option<String> {
        let gone = self.columns.iter().find(|c| !now.columns.contains(c));
        if let Some(column) = gone {
            return Some(format!(
                "Column \"{}\" was renamed, dropped or given another type.",
                column.name
            ));
        }
        if self.key != now.key {
            return Some("Its primary key is another one.".into());
        }
        if self.protection != now.protection {
            return Some("It was protected anew, with other options.".into());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(columns: &[(&str, i16, &str)], key: &str) -> Layout {
        let column = |(name, number, type_name): &(&str, i16, &str)| Column {
            name: name.to_string(),
            number: *number,
            type_name: type_name.to_string(),
            made: false,
        };
        Layout {
            columns: columns.iter().map(column).collect(),
            key: vec![key.into()],
            protection: Options::default(),
        }
    }

    #[test]
    fn what_counts_is_what_was_there() {
        let before = layout(&[("id", 1, "integer"), ("name", 2, "text")], "id");
        let is_same = |now: &Layout| before.difference(now).is_none();
        assert!(is_same(&Layout::read(&before.text()).unwrap()));
        let added = [("id", 1, "integer"), ("name", 2, "text"), ("b", 3, "text")];
        assert!(is_same(&layout(&added, "id")));
        // Renamed, another that took the name over, another type, dropped.
        for now in [
            &[("id", 1, "integer"), ("title", 2, "text")][..],
            &[
                ("id", 1, "integer"),
                ("title", 2, "text"),
                ("name", 3, "text"),
            ],
            &[("id", 1, "integer"), ("name", 2, "character varying(3)")],
            &[("id", 1, "integer")],
        ] {
            assert!(!is_same(&layout(now, "id")), "{now:?}");
        }
        assert!(!is_same(&layout(
            &[("id", 1, "integer"), ("name", 2, "text")],
            "name"
        )));
        let mut anew = before.clone();
        anew.protection.update = "server:update".into();
        assert!(!is_same(&anew));
    }
}
