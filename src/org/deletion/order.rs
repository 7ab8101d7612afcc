//! In which order tables are emptied, so that no foreign key stands in the way: plain data, no server in here.
//!
//! Whoever refers goes before whom it refers to. A cycle is taken apart where one of its keys says itself what becomes of
//! the reference (CASCADE, SET NULL), else by setting a column to NULL that may be; else its tables are emptied by one
//! statement, at whose end their keys are looked at.

/// What happens to a reference when the row goes that it leads to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OnDelete {
    Refused,
    Follows,
}

/// A foreign key between two of the tables.
#[derive(Clone, Debug)]
pub struct Edge {
    pub child: usize,
    pub parent: usize,
    pub name: String,
    pub on_delete: OnDelete,
    /// Whether a reference can be set to NULL.
    pub nullable: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Sets the references of a foreign key (its place among the edges) to NULL.
    Forget(usize),
    /// Empties a table, some rows at a time.
    Empty(usize),
    /// Empties a table that refers to itself, or tables that refer to each other, with one statement.
    EmptyTogether(Vec<usize>),
}

/// The steps in their order.
pub fn order(tables: usize, edges: &[Edge]) -> Vec<Step> {
    let mut steps = vec![];
    let mut left: Vec<usize> = (0..tables).collect();
    // Those that still say who goes first.
    let mut holding: Vec<usize> = (0..edges.len())
        .filter(|e| edges[*e].child != edges[*e].parent)
        .collect();
    while !left.is_empty() {
        let free = left
            .iter()
            .position(|table| holding.iter().all(|e| edges[*e].parent != *table));
        if let Some(at) = free {
            let table = left.remove(at);
            holding.retain(|e| edges[*e].child != table);
            empty(table, edges, &mut steps);
            continue;
        }
        let circle = circle(&left, &holding, edges);
        let inside =
            |e: &&usize| circle.contains(&edges[**e].child) && circle.contains(&edges[**e].parent);
        let keys: Vec<usize> = holding.iter().filter(inside).copied().collect();
        let find = |fits: fn(&Edge) -> bool| keys.iter().find(|e| fits(&edges[**e])).copied();
        if let Some(key) = find(|edge| edge.on_delete == OnDelete::Follows) {
            holding.retain(|e| *e != key);
        } else if let Some(key) = find(|edge| edge.nullable) {
            steps.push(Step::Forget(key));
            holding.retain(|e| *e != key);
        } else {
            left.retain(|table| !circle.contains(table));
            holding.retain(|e| !circle.contains(&edges[*e].child));
            steps.push(Step::EmptyTogether(circle));
        }
    }
    steps
}

fn empty(table: usize, edges: &[Edge], steps: &mut Vec<Step>) {
    let itself = |e: &usize| edges[*e].child == table && edges[*e].parent == table;
    let refused: Vec<usize> = (0..edges.len())
        .filter(itself)
        .filter(|e| edges[*e].on_delete == OnDelete::Refused)
        .collect();
    if refused.iter().all(|e| edges[*e].nullable) {
        steps.extend(refused.into_iter().map(Step::Forget));
        steps.push(Step::Empty(table));
    } else {
        steps.push(Step::EmptyTogether(vec![table]));
    }
}

/// Tables that refer to each other in a circle, where every table left is referred to: going backwards from any, one is
/// met again.
fn circle(left: &[usize], holding: &[usize], edges: &[Edge]) -> Vec<usize> {
    let reached = |from: usize| {
        let mut seen = vec![from];
        let mut next = 0;
        while next < seen.len() {
            for e in holding {
                if edges[*e].child == seen[next] && !seen.contains(&edges[*e].parent) {
                    seen.push(edges[*e].parent);
                }
            }
            next += 1;
        }
        seen
    };
    let mut at = left[0];
    let mut way = vec![];
    while !way.contains(&at) {
        way.push(at);
        let referring = holding.iter().find(|e| edges[**e].parent == at);
        at = referring.map_or(at, |e| edges[*e].child);
    }
    // All that it reaches and that reach it.
    let from_here = reached(at);
    let mut circle: Vec<usize> = from_here
        .into_iter()
        .filter(|table| reached(*table).contains(&at))
        .collect();
    circle.sort_unstable();
    circle
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(child: usize, parent: usize) -> Edge {
        Edge {
            child,
            parent,
            name: format!("{child}>{parent}"),
            on_delete: OnDelete::Refused,
            nullable: false,
        }
    }

    #[test]
    fn who_refers_goes_first() {
        // 0 is referred to by 1 and 2, 1 by 2.
        let edges = [key(1, 0), key(2, 1), key(2, 0)];
        assert_eq!(
            order(3, &edges),
            [Step::Empty(2), Step::Empty(1), Step::Empty(0)]
        );
    }

    #[test]
    fn a_cycle_is_taken_apart_by_what_it_allows() {
        let plain = [key(0, 1), key(1, 0), key(2, 0)];
        assert_eq!(
            order(3, &plain),
            [Step::Empty(2), Step::EmptyTogether(vec![0, 1])]
        );
        let mut follows = plain.to_vec();
        follows[1].on_delete = OnDelete::Follows;
        assert_eq!(
            order(3, &follows),
            [Step::Empty(2), Step::Empty(0), Step::Empty(1)]
        );
        let mut nullable = plain.to_vec();
        nullable[0].nullable = true;
        assert_eq!(
            order(3, &nullable),
            [
                Step::Empty(2),
                Step::Forget(0),
                Step::Empty(1),
                Step::Empty(0)
            ]
        );
    }

    #[test]
    fn what_hangs_on_a_cycle_is_no_part_of_it() {
        // 0 and 1 hold each other; 2 is referred to by them, 3 by 2.
        let edges = [key(0, 1), key(1, 0), key(0, 2), key(2, 3)];
        assert_eq!(
            order(4, &edges),
            [
                Step::EmptyTogether(vec![0, 1]),
                Step::Empty(2),
                Step::Empty(3)
            ]
        );
    }

    #[test]
    fn a_table_that_refers_to_itself() {
        let mut edges = [key(0, 0)];
        assert_eq!(order(1, &edges), [Step::EmptyTogether(vec![0])]);
        edges[0].nullable = true;
        assert_eq!(order(1, &edges), [Step::Forget(0), Step::Empty(0)]);
        edges[0].on_delete = OnDelete::Follows;
        assert_eq!(order(1, &edges), [Step::Empty(0)]);
    }

    #[test]
    fn every_table_once_whatever_the_keys() {
        let mut random = 88172645463325252_u64;
        let mut next = |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % n) as usize
        };
        for _ in 0..2_000 {
            let tables = 1 + next(6);
            let edges: Vec<Edge> = (0..next(12))
                .map(|_| Edge {
                    on_delete: if next(4) == 0 {
                        OnDelete::Follows
                    } else {
                        OnDelete::Refused
                    },
                    nullable: next(3) == 0,
                    ..key(next(tables as u64), next(tables as u64))
                })
                .collect();
            let steps = order(tables, &edges);
            let (mut gone, mut forgotten) = (vec![], vec![]);
            for step in &steps {
                let emptied = match step {
                    Step::Forget(key) => {
                        forgotten.push(*key);
                        continue;
                    }
                    Step::Empty(table) => vec![*table],
                    Step::EmptyTogether(all) => all.clone(),
                };
                // Who still refers to them does not mind.
                for (e, edge) in edges.iter().enumerate() {
                    let stands = emptied.contains(&edge.parent)
                        && !gone.contains(&edge.child)
                        && !emptied.contains(&edge.child);
                    let harmless = edge.on_delete == OnDelete::Follows || forgotten.contains(&e);
                    assert!(!stands || harmless, "{edges:?} {steps:?}");
                }
                gone.extend(emptied);
            }
            gone.sort_unstable();
            assert_eq!(gone, (0..tables).collect::<Vec<_>>(), "{edges:?} {steps:?}");
        }
    }
}
