//! Paths along foreign keys, from a table without an organization column to one that has it. Plain data: the graph of
//! keys is read once, the search knows no server.

use crate::pg::query::run;
use pgrx::pg_sys;
use std::collections::{BTreeMap, BTreeSet};

/// Longer paths are nobody's data model.
const LONGEST: usize = 12;
/// A search that finds so many has an answer: name one.
pub const MOST: usize = 20;

/// A foreign key between two tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub constraint: u32,
    pub name: String,
    pub child: u32,
    pub parent: u32,
}

/// The keys of each table, by name.
#[derive(Default)]
pub struct Graph(BTreeMap<u32, Vec<Step>>);

/// Every foreign key of this database, a partitioned table's once.
pub fn graph() -> Graph {
    let mut graph = Graph::default();
    for step in run(
        "SELECT oid, conname::pg_catalog.text, conrelid, confrelid FROM pg_catalog.pg_constraint
         WHERE contype OPERATOR(pg_catalog.=) 'f' AND conparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid
           AND conrelid OPERATOR(pg_catalog.<>) confrelid
         ORDER BY conrelid, conname",
        &[],
        |row| {
            let number = |n| row.get::<pg_sys::Oid>(n).map_or(0, u32::from);
            Step {
                constraint: number(1),
                name: row.get(2).unwrap_or_default(),
                child: number(3),
                parent: number(4),
            }
        },
    ) {
        graph.0.entry(step.child).or_default().push(step);
    }
    graph
}

impl Graph {
    /// The paths from a table to the first table on the way that `arrives`, shorter ones first; none leads through a
    /// table that is `closed`, or through one twice.
    pub fn paths(
        &self,
        from: u32,
        arrives: &dyn Fn(u32) -> bool,
        closed: &dyn Fn(u32) -> bool,
    ) -> Vec<Vec<Step>> {
        let mut found = vec![];
        let mut open: Vec<Vec<Step>> = vec![vec![]];
        for _ in 0..LONGEST {
            let mut next = vec![];
            for path in open {
                let at = path.last().map_or(from, |step| step.parent);
                let passed: BTreeSet<u32> = path.iter().map(|step| step.child).collect();
                for step in self.0.get(&at).into_iter().flatten() {
                    if step.parent == from || passed.contains(&step.parent) {
                        continue;
                    }
                    let mut longer = path.clone();
                    longer.push(step.clone());
                    if arrives(step.parent) {
                        found.push(longer);
                        if found.len() >= MOST {
                            return found;
                        }
                    } else if !closed(step.parent) {
                        next.push(longer);
                    }
                }
            }
            // A schema where everything refers to everything has more paths than anybody wants to read.
            next.truncate(1000);
            open = next;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(keys: &[(&str, u32, u32)]) -> Graph {
        let mut graph = Graph::default();
        for (i, (name, child, parent)) in keys.iter().enumerate() {
            graph.0.entry(*child).or_default().push(Step {
                constraint: i as u32,
                name: name.to_string(),
                child: *child,
                parent: *parent,
            });
        }
        graph
    }

    fn names(paths: &[Vec<Step>]) -> Vec<Vec<&str>> {
        paths
            .iter()
            .map(|path| path.iter().map(|step| step.name.as_str()).collect())
            .collect()
    }

    #[test]
    fn the_shortest_comes_first_and_a_path_ends_where_the_column_is() {
        let g = graph(&[
            ("ab", 1, 2),
            ("ac", 1, 3),
            ("bc", 2, 3),
            ("cd", 3, 4),
            ("cx", 3, 9),
        ]);
        let paths = g.paths(1, &|t| t == 3 || t == 4, &|_| false);
        assert_eq!(names(&paths), [vec!["ac"], vec!["ab", "bc"]]);
        assert_eq!(names(&g.paths(1, &|t| t == 4, &|t| t == 2)), [["ac", "cd"]]);
        assert!(g.paths(4, &|t| t == 1, &|_| false).is_empty());
    }

    #[test]
    fn cycles_end() {
        let g = graph(&[
            ("ab", 1, 2),
            ("ba", 2, 1),
            ("bc", 2, 3),
            ("cb", 3, 2),
            ("cd", 3, 4),
        ]);
        assert_eq!(
            names(&g.paths(1, &|t| t == 4, &|_| false)),
            [["ab", "bc", "cd"]]
        );
    }
}
