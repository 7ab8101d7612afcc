//! The permission matrix as plain data: no server in here, so that its rules are unit-tested.

use std::collections::HashMap;

/// What a role has on an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    #[default]
    Deny,
    Limited,
    Allow,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::Deny => "deny",
            Level::Limited => "limited",
            Level::Allow => "allow",
        }
    }

    fn parse(name: &str) -> Level {
        match name {
            "allow" => Level::Allow,
            "limited" => Level::Limited,
            _ => Level::Deny,
        }
    }
}

/// An action's place in the matrix that is current; not to be kept across a change of it.
pub type Action = usize;

/// Roles by actions. A cell that no row names is deny.
#[derive(Debug, Default)]
pub struct Matrix {
    actions: Vec<String>,
    by_name: HashMap<String, Action>,
    roles: HashMap<String, Vec<Level>>,
}

impl Matrix {
    pub fn new(
        roles: Vec<String>,
        actions: Vec<String>,
        cells: Vec<(String, String, String)>,
    ) -> Matrix {
        let by_name: HashMap<String, Action> = actions
            .iter()
            .enumerate()
            .map(|(i, name)| (name.clone(), i))
            .collect();
        let mut levels: HashMap<String, Vec<Level>> = roles
            .into_iter()
            .map(|role| (role, vec![Level::Deny; actions.len()]))
            .collect();
        for (role, action, level) in cells {
            if let (Some(row), Some(&i)) = (levels.get_mut(&role), by_name.get(&action)) {
                row[i] = Level::parse(&level);
            }
        }
        Matrix {
            actions,
            by_name,
            roles: levels,
        }
    }

    pub fn action(&self, name: &str) -> Option<Action> {
        self.by_name.get(name).copied()
    }

    pub fn has_role(&self, role: &str) -> bool {
        self.roles.contains_key(role)
    }

    pub fn level(&self, role: &str, action: Action) -> Option<Level> {
        self.roles.get(role)?.get(action).copied()
    }

    /// A role's levels by action; empty for a role that does not exist, which therefore may do nothing.
    pub fn levels(&self, role: &str) -> Vec<Level> {
        self.roles.get(role).cloned().unwrap_or_default()
    }

    /// Every action allowed: what a superuser, who could bypass anyway, is taken to hold.
    pub fn everything(&self) -> Vec<Level> {
        vec![Level::Allow; self.actions.len()]
    }

    pub fn nearest_action(&self, name: &str) -> Option<&str> {
        nearest(name, self.actions.iter().map(String::as_str))
    }

    pub fn nearest_role(&self, name: &str) -> Option<&str> {
        nearest(name, self.roles.keys().map(String::as_str))
    }
}

/// The known name closest to `name` (Damerau-Levenshtein), first in the alphabet where several are.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    known.min_by_key(|candidate| (strsim::damerau_levenshtein(&name, candidate), *candidate))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> Matrix {
        let strings = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        let cell = |r: &str, a: &str, l: &str| (r.to_string(), a.to_string(), l.to_string());
        Matrix::new(
            strings(&["owner", "viewer"]),
            strings(&["ai:approve", "server:delete", "server:read"]),
            vec![
                cell("owner", "server:delete", "allow"),
                cell("owner", "ai:approve", "limited"),
                cell("viewer", "server:read", "allow"),
                cell("ghost", "server:read", "allow"),
            ],
        )
    }

    #[test]
    fn unnamed_cells_and_unknown_roles_are_denied() {
        let m = matrix();
        let read = m.action("server:read").unwrap();
        assert_eq!(m.level("owner", read), Some(Level::Deny));
        assert_eq!(m.level("viewer", read), Some(Level::Allow));
        assert_eq!(m.level("ghost", read), None);
        assert!(m.levels("ghost").is_empty());
    }

    #[test]
    fn limited_is_neither_allow_nor_deny() {
        let m = matrix();
        let approve = m.action("ai:approve").unwrap();
        assert_eq!(m.level("owner", approve), Some(Level::Limited));
        assert_eq!(Level::Limited.name(), "limited");
    }

    #[test]
    fn nearest_names_forgive_a_slip() {
        let m = matrix();
        assert_eq!(m.nearest_action("server:raed"), Some("server:read"));
        assert_eq!(m.nearest_action("Server:Delete"), Some("server:delete"));
        assert_eq!(m.nearest_role("onwer"), Some("owner"));
    }
}
