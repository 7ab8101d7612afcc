//! A connection and the few verbs that the tests are written in. Everything is text, as psql would show it.

use std::ops::{Deref, DerefMut};

use postgres::{Client, Error, SimpleQueryMessage};
use serde_json::Value;

pub type Rows = Vec<Vec<Option<String>>>;

pub struct Session(Client);

impl Session {
    pub fn new(client: Client) -> Session {
        Session(client)
    }

    /// Runs one statement, or several, and gives the rows of all of them.
    pub fn try_rows(&mut self, sql: &str) -> Result<Rows, Error> {
        let messages = self.0.simple_query(sql)?;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(
                    (0..row.len())
                        .map(|i| row.get(i).map(String::from))
                        .collect(),
                ),
                _ => None,
            })
            .collect())
    }

    /// Runs one statement; how many rows it returned or changed.
    pub fn attempt(&mut self, sql: &str) -> Result<u64, Error> {
        let messages = self.0.simple_query(sql)?;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::CommandComplete(n) => Some(*n),
                _ => None,
            })
            .next_back()
            .unwrap_or(0))
    }

    /// Like [`Session::attempt`] inside an open transaction, which goes on after an error.
    pub fn attempt_within(&mut self, sql: &str) -> Result<u64, Error> {
        self.run("SAVEPOINT attempt");
        let result = self.attempt(sql);
        self.run(match result {
            Ok(_) => "RELEASE attempt",
            Err(_) => "ROLLBACK TO attempt; RELEASE attempt",
        });
        result
    }

    #[track_caller]
    pub fn rows(&mut self, sql: &str) -> Rows {
        self.try_rows(sql)
            .unwrap_or_else(|e| panic!("{sql}: {e:?}"))
    }

    /// Runs statements that must succeed.
    #[track_caller]
    pub fn run(&mut self, sql: &str) -> u64 {
        self.attempt(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"))
    }

    /// The single value of a single row; NULL is None.
    #[track_caller]
    pub fn value(&mut self, sql: &str) -> Option<String> {
        let rows = self.rows(sql);
        assert!(
            rows.len() == 1 && rows[0].len() == 1,
            "{sql}: one value expected, got {rows:?}"
        );
        rows.into_iter().flatten().next().flatten()
    }

    #[track_caller]
    pub fn text(&mut self, sql: &str) -> String {
        self.value(sql).unwrap_or_else(|| panic!("{sql}: NULL"))
    }

    #[track_caller]
    pub fn count(&mut self, sql: &str) -> i64 {
        self.text(sql).parse().expect("a number")
    }

    #[track_caller]
    pub fn is_true(&mut self, sql: &str) -> bool {
        self.value(sql).as_deref() == Some("t")
    }

    /// The first column of every row; NULL is the empty string.
    #[track_caller]
    pub fn column(&mut self, sql: &str) -> Vec<String> {
        self.rows(sql)
            .into_iter()
            .map(|row| row.into_iter().next().flatten().unwrap_or_default())
            .collect()
    }

    /// Every row of a query as JSON objects.
    #[track_caller]
    pub fn json(&mut self, query: &str) -> Vec<Value> {
        self.column(&format!("SELECT to_jsonb(q) FROM ({query}) q"))
            .iter()
            .map(|text| serde_json::from_str(text).expect("JSON"))
            .collect()
    }

    #[track_caller]
    pub fn whoami(&mut self) -> Value {
        let mut rows = self.json("SELECT * FROM tenancy.whoami()");
        assert_eq!(rows.len(), 1, "whoami() answers with one row");
        rows.remove(0)
    }

    /// The lines of a query plan.
    #[track_caller]
    pub fn explain(&mut self, options: &str, sql: &str) -> String {
        self.column(&format!("EXPLAIN ({options}) {sql}"))
            .join("\n")
    }

    /// `(estimated, actual)` rows of a query's top node.
    #[track_caller]
    pub fn estimate(&mut self, sql: &str) -> (f64, f64) {
        let text = self.explain("ANALYZE, TIMING OFF, FORMAT JSON", sql);
        let plan: Value = serde_json::from_str(&text).expect("JSON");
        let top = &plan[0]["Plan"];
        (
            top["Plan Rows"].as_f64().expect("Plan Rows"),
            top["Actual Rows"].as_f64().expect("Actual Rows"),
        )
    }
}

impl Deref for Session {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.0
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.0
    }
}

/// A literal.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
