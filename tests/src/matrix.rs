//! The published matrix, as data.

/// One cell: what a role has on an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    pub action: &'static str,
    pub category: &'static str,
    pub role: &'static str,
    pub level: &'static str,
}

/// All cells, action by action.
pub fn matrix() -> Vec<Cell> {
    let mut lines = include_str!("../data/permissions.csv").lines();
    let roles: Vec<&str> = lines.next().expect("a head").split(',').skip(2).collect();
    lines
        .flat_map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            let roles = roles.clone();
            (0..roles.len()).map(move |i| Cell {
                action: fields[0],
                category: fields[1],
                role: roles[i],
                level: fields[i + 2],
            })
        })
        .collect()
}
