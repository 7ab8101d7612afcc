//! The permission matrix as plain data: no server in here, so that its rules are unit-tested.

use super::rights::{Rights, number_of};
use std::collections::HashMap;
use std::rc::Rc;

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

    pub fn named(name: &str) -> Option<Level> {
        match name {
            "allow" => Some(Level::Allow),
            "limited" => Some(Level::Limited),
            "deny" => Some(Level::Deny),
            _ => None,
        }
    }
}

/// An action's number in this backend: the same one for as long as the backend lives, whatever happens to the matrix, so
/// that rights which were read before a change cannot be mistaken for other ones after it.
pub type Action = usize;

/// Roles by actions. A cell that no row names is deny.
#[derive(Debug, Default)]
pub struct Matrix {
    /// In the order of their names.
    actions: Vec<(Rc<str>, Action)>,
    by_name: HashMap<Rc<str>, Action>,
    roles: HashMap<String, Rc<Rights>>,
}

impl Matrix {
    pub fn new(
        roles: Vec<String>,
        actions: Vec<String>,
        cells: Vec<(String, String, String)>,
    ) -> Matrix {
        let actions: Vec<(Rc<str>, Action)> = actions
            .iter()
            .map(|name| (Rc::from(name.as_str()), number_of(name)))
            .collect();
        let by_name: HashMap<Rc<str>, Action> = actions.iter().cloned().collect();
        let mut levels: HashMap<String, Rights> = roles
            .into_iter()
            .map(|role| (role, Rights::default()))
            .collect();
        for (role, action, level) in cells {
            if let (Some(rights), Some(&i)) = (levels.get_mut(&role), by_name.get(action.as_str()))
            {
                rights.put(i, None, Level::named(&level).unwrap_or_default());
            }
        }
        Matrix {
            actions,
            by_name,
            roles: levels.into_iter().map(|(n, r)| (n, Rc::new(r))).collect(),
        }
    }

    pub fn action(&self, name: &str) -> Option<Action> {
        self.by_name.get(name).copied()
    }

    /// Every action, by name.
    pub fn actions(&self) -> impl Iterator<Item = (&Rc<str>, Action)> {
        self.actions.iter().map(|(name, action)| (name, *action))
    }

    /// Whether it is one of the system's roles.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.contains_key(role)
    }

    pub fn role_names(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// What one of the system's roles has.
    pub fn rights(&self, role: &str) -> Option<Rc<Rights>> {
        self.roles.get(role).cloned()
    }

    /// Every action allowed: what a superuser, who could bypass anyway, is taken to hold.
    pub fn everything(&self) -> Rights {
        let mut rights = Rights::default();
        for (_, action) in &self.actions {
            rights.put(*action, None, Level::Allow);
        }
        rights
    }

    pub fn nearest_action(&self, name: &str) -> Option<&str> {
        nearest(name, self.actions.iter().map(|(name, _)| name.as_ref()))
    }
}

/// A longer name is no slip, and comparing takes time and memory of both lengths multiplied.
const COMPARED: usize = 64;

/// The known name closest to `name` (Damerau-Levenshtein), first in the alphabet where several are.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name: String = name.chars().take(COMPARED).collect();
    let name = name.to_lowercase();
    known.min_by_key(|candidate| {
        (
            strsim::damerau_levenshtein(&name, &candidate.to_lowercase()),
            *candidate,
        )
    })
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
        let level = |role: &str| m.rights(role).map(|rights| rights.level(read));
        assert_eq!(level("owner"), Some(Level::Deny));
        assert_eq!(level("viewer"), Some(Level::Allow));
        assert_eq!(level("ghost"), None);
    }

    #[test]
    fn limited_is_neither_allow_nor_deny() {
        let m = matrix();
        let approve = m.action("ai:approve").unwrap();
        assert_eq!(m.rights("owner").unwrap().level(approve), Level::Limited);
        assert_eq!(Level::Limited.name(), "limited");
    }

    #[test]
    fn nearest_names_forgive_a_slip() {
        let m = matrix();
        assert_eq!(m.nearest_action("server:raed"), Some("server:read"));
        assert_eq!(m.nearest_action("Server:Delete"), Some("server:delete"));
        assert_eq!(nearest("onwer", m.role_names()), Some("owner"));
    }
}
