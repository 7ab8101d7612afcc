//! Removes an organization's rows, some at a time: statements that take a fraction of a second each, however many rows
//! there are and however dear each is.

use super::order::Step;
use super::tables::{Leaf, Node, Plan};
use crate::pg::key::Keys;
use crate::pg::query::{execute_as_is, run, unhidden, unhidden_counts};
use crate::pg::{self, fail};
use pgrx::prelude::*;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A sweep ends here, and the next one goes on.
const SWEEP: Duration = Duration::from_millis(400);
/// What one statement is to take.
const STATEMENT: Duration = Duration::from_millis(150);
/// Nobody knows yet what a row costs: a key without an index may read a whole table for each.
const FIRST: u64 = 50;

/// How many rows went, by table.
pub type Removed = BTreeMap<String, u64>;

pub struct Sweep<'a> {
    keys: &'a Keys,
    plan: &'a Plan,
    began: Instant,
    most: u64,
    removed: Removed,
    /// Whether anything was changed at all.
    pub found: bool,
}

impl<'a> Sweep<'a> {
    pub fn new(keys: &'a Keys, plan: &'a Plan, most: u64) -> Sweep<'a> {
        Sweep {
            keys,
            plan,
            began: Instant::now(),
            most,
            removed: Removed::new(),
            found: false,
        }
    }

    /// Whether it came to the end of the tables in its time.
    pub fn run(mut self) -> (bool, bool, Removed) {
        // What runs restricted may put nothing off until commit.
        execute_as_is("SET CONSTRAINTS ALL IMMEDIATE");
        let ended = self.plan.steps.iter().all(|step| self.step(step));
        (ended, self.found, self.removed)
    }

    fn step(&mut self, step: &Step) -> bool {
        let plan = self.plan;
        match step {
            Step::Forget(key) => {
                let node = &plan.nodes[plan.edges[*key].child];
                plan.keys[*key]
                    .forget
                    .iter()
                    .all(|column| node.leaves.iter().all(|leaf| self.forget(leaf, column)))
            }
            Step::Empty(node) => self.empty(&plan.nodes[*node]),
            Step::EmptyTogether(nodes) => {
                self.empty_together(nodes);
                true
            }
        }
    }

    fn forget(&mut self, leaf: &Leaf, column: &str) -> bool {
        let Some(mine) = leaf.of(self.keys) else {
            return true;
        };
        let condition = format!("{mine} AND {column} IS NOT NULL");
        let act = format!("UPDATE ONLY {} SET {column} = NULL", leaf.name);
        let (done, _) = self.drain(leaf, &act, &condition);
        done
    }

    fn empty(&mut self, node: &Node) -> bool {
        node.leaves.iter().all(|leaf| {
            let Some(mine) = leaf.of(self.keys) else {
                return true;
            };
            let act = format!("DELETE FROM ONLY {}", leaf.name);
            let (done, rows) = self.drain(leaf, &act, &mine);
            self.count(node, rows);
            done
        })
    }

    /// Their rows hold each other, and let go together: of one statement, however many there are.
    fn empty_together(&mut self, nodes: &[usize]) {
        let plan = self.plan;
        let mut parts: Vec<(usize, String)> = vec![];
        for i in nodes {
            let node = &plan.nodes[*i];
            if let Some(mine) = node.leaves.first().and_then(|leaf| leaf.of(self.keys)) {
                parts.push((*i, format!("DELETE FROM {} WHERE {mine}", node.whole)));
            }
        }
        let Some((first, _)) = parts.first() else {
            return;
        };
        let owner = plan.nodes[*first].owner;
        let gone: Vec<String> = parts
            .iter()
            .map(|(i, delete)| format!("gone_{i} AS ({delete} RETURNING 1)"))
            .collect();
        let counts: Vec<String> = parts
            .iter()
            .map(|(i, _)| format!("(SELECT pg_catalog.count(*) FROM gone_{i})"))
            .collect();
        let counts = unhidden_counts(
            owner,
            &format!(
                "WITH {} SELECT ARRAY[{}]",
                gone.join(", "),
                counts.join(", ")
            ),
        );
        for ((i, _), rows) in parts.iter().zip(counts) {
            self.count(&plan.nodes[*i], rows.unsigned_abs());
        }
    }

    fn count(&mut self, node: &Node, rows: u64) {
        if rows > 0 {
            self.found = true;
            *self.removed.entry(node.object.clone()).or_default() += rows;
        }
    }

    /// Does something to the rows that fit the condition, until there are none or the time is up; whether there are none,
    /// and to how many it was done.
    fn drain(&mut self, leaf: &Leaf, act: &str, condition: &str) -> (bool, u64) {
        let (mut rows, mut at_once) = (0, FIRST.min(self.most));
        loop {
            let began = Instant::now();
            let touched = unhidden(
                leaf.owner,
                &format!(
                    "{act} WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT ctid FROM ONLY {} WHERE {condition} LIMIT {at_once}))",
                    leaf.name
                ),
            );
            pgrx::check_for_interrupts!();
            rows += touched;
            self.found |= touched > 0;
            if touched < at_once {
                return (true, rows);
            }
            if self.began.elapsed() >= SWEEP {
                return (false, rows);
            }
            let took = began.elapsed();
            at_once = match took {
                _ if took > STATEMENT => (at_once / 2).max(1),
                _ if took < STATEMENT / 8 => at_once * 4,
                _ if took < STATEMENT / 2 => at_once * 2,
                _ => at_once,
            }
            .min(self.most);
        }
    }
}

/// No row of the organization is left, whoever may have hidden one from its table's owner. Looked at as the extension's
/// owner: comparing keys runs nobody's code.
pub fn require_none_left(keys: &Keys, plan: &Plan) -> pg::Result<()> {
    for leaf in plan.nodes.iter().flat_map(|node| &node.leaves) {
        let Some(mine) = leaf.of(keys) else { continue };
        let sql = format!("SELECT 1 FROM ONLY {} WHERE {mine} LIMIT 1", leaf.name);
        if !run(&sql, &[], |_| ()).is_empty() {
            return Err(fail(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("rows of the organization stay in table {}", leaf.name),
            )
            .set_detail("DELETE leaves them where they are: a trigger or rule of the table keeps them.")
            .set_hint("ALTER TABLE ... DISABLE TRIGGER for the while, and call it again. What is gone is gone."));
        }
    }
    Ok(())
}
