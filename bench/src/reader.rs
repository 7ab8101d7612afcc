//! A client, or a crowd of them, that repeats one query: prepared or by the simple protocol.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use postgres::{Client, SimpleQueryMessage, Statement};
use serde_json::Value;

use crate::server::backend;
use crate::{Result, pin};

#[derive(Clone, Copy, PartialEq)]
pub enum Protocol {
    Prepared,
    Simple,
}

pub struct Reader {
    client: Client,
    sql: String,
    statement: Option<Statement>,
    /// Values of `$1`, in turn.
    probes: Vec<i64>,
    next: usize,
}

impl Reader {
    /// `sql` has one parameter at most, `$1::bigint`, whose values are `probes`.
    pub fn new(
        mut client: Client,
        sql: &str,
        protocol: Protocol,
        probes: &[i64],
    ) -> Result<Reader> {
        let statement = match protocol {
            Protocol::Prepared => Some(client.prepare(sql)?),
            Protocol::Simple => None,
        };
        Ok(Reader {
            client,
            sql: sql.into(),
            statement,
            probes: if sql.contains("$1") {
                probes.into()
            } else {
                Vec::new()
            },
            next: 0,
        })
    }

    /// Lets the backend run on any core, for clients side by side.
    pub fn unpinned(mut self) -> Result<Reader> {
        pin::release(backend(&mut self.client)?);
        Ok(self)
    }

    /// Another place to begin among the probes, so that clients side by side read different rows.
    pub fn starting_at(mut self, place: usize) -> Reader {
        self.next = place;
        self
    }

    pub fn once(&mut self) -> Result<()> {
        let probe = self.probe();
        match (&self.statement, probe) {
            (Some(statement), Some(probe)) => drop(self.client.query(statement, &[&probe])?),
            (Some(statement), None) => drop(self.client.query(statement, &[])?),
            (None, Some(probe)) => drop(self.client.simple_query(&with(&self.sql, probe))?),
            (None, None) => drop(self.client.simple_query(&self.sql)?),
        }
        Ok(())
    }

    fn probe(&mut self) -> Option<i64> {
        if self.probes.is_empty() {
            return None;
        }
        self.next += 1;
        Some(self.probes[self.next % self.probes.len()])
    }

    /// The plan for the first probe, as the types of its nodes, outermost first.
    pub fn plan(&mut self) -> Result<String> {
        let sql = self.first();
        let mut nodes = Vec::new();
        node_types(&explain(&mut self.client, &sql)?, &mut nodes);
        Ok(nodes.join(" > "))
    }

    /// What the query answers for the first probe: every side of a comparison must answer the same.
    pub fn answer(&mut self) -> Result<Vec<String>> {
        let sql = self.first();
        rows(&mut self.client, &sql)
    }

    fn first(&self) -> String {
        match self.probes.first() {
            Some(probe) => with(&self.sql, *probe),
            None => self.sql.clone(),
        }
    }
}

/// The topmost node of a query's plan.
pub fn explain(client: &mut Client, sql: &str) -> Result<Value> {
    let text = rows(client, &format!("EXPLAIN (FORMAT JSON) {sql}"))?.concat();
    let mut plan: Value = serde_json::from_str(&text)?;
    Ok(plan[0]["Plan"].take())
}

/// The rows of a query as text, columns joined by a bar.
fn rows(client: &mut Client, sql: &str) -> Result<Vec<String>> {
    let mut rows = Vec::new();
    for message in client.simple_query(sql)? {
        if let SimpleQueryMessage::Row(row) = message {
            let columns = (0..row.len()).map(|i| row.get(i).unwrap_or("NULL"));
            rows.push(columns.collect::<Vec<_>>().join("|"));
        }
    }
    Ok(rows)
}

fn with(sql: &str, probe: i64) -> String {
    sql.replace("$1", &probe.to_string())
}

fn node_types(plan: &Value, nodes: &mut Vec<String>) {
    let text = |key: &str| plan[key].as_str().unwrap_or_default();
    let index = text("Index Name");
    nodes.push(match (text("Node Type"), index) {
        (kind, "") => kind.to_string(),
        (kind, index) => format!("{kind} {index}"),
    });
    for child in plan["Plans"].as_array().into_iter().flatten() {
        node_types(child, nodes);
    }
}

/// Clients side by side, each with its own thread and connection: `n` operations each, from a common start.
pub fn together(readers: &mut [Reader], n: usize) -> Result<Duration> {
    if let [alone] = readers {
        let start = Instant::now();
        for _ in 0..n {
            alone.once()?;
        }
        return Ok(start.elapsed());
    }
    let ready = Barrier::new(readers.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = readers
            .iter_mut()
            .map(|reader| {
                let ready = &ready;
                scope.spawn(move || -> Result<(Instant, Instant)> {
                    pin::release(0);
                    ready.wait();
                    let start = Instant::now();
                    for _ in 0..n {
                        reader.once()?;
                    }
                    Ok((start, Instant::now()))
                })
            })
            .collect();
        let mut times = Vec::new();
        for thread in threads {
            times.push(thread.join().expect("no panic")?);
        }
        let first = times.iter().map(|t| t.0).min().expect("a client");
        let last = times.iter().map(|t| t.1).max().expect("a client");
        Ok(last - first)
    })
}
