//! What a policy asks for by the text that it hands to org_if() and its like: an action, and marks behind it.

use super::place_columns::{IN_PROJECTS, in_projects};
use super::resource::{self, within_scope};
use crate::access::matrix::{Action, Level};
use crate::context::Standing;

/// What follows an action's name where it is asked for in any environment. No action is called so.
const SOMEWHERE: &str = " somewhere";

pub fn somewhere(action: &str) -> String {
    format!("{action}{SOMEWHERE}")
}

/// What stands between two actions of which either is enough for a row. Policies ask so in plans only.
const OR: &str = " or ";

pub fn either(one: &str, other: &str) -> String {
    format!("{one}{OR}{other}")
}

/// The actions of which one is enough.
pub fn parts(action: &str) -> impl Iterator<Item = &str> {
    action.split(OR)
}

#[derive(Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// The action with its marks but for that of projects.
    pub marked: &'a str,
    pub name: &'a str,
    /// In any environment.
    pub somewhere: bool,
    /// On listed resources, too.
    pub within_scope: bool,
    /// In some project.
    pub in_projects: bool,
}

#[inline]
pub fn asked(action: &str) -> Asked<'_> {
    let (marked, in_projects) = match action.strip_suffix(IN_PROJECTS) {
        Some(marked) => (marked, true),
        None => (action, false),
    };
    let (rest, within_scope) = resource::asked(marked);
    let (name, somewhere) = match rest.strip_suffix(SOMEWHERE) {
        Some(name) => (name, true),
        None => (rest, false),
    };
    Asked {
        marked,
        name,
        somewhere,
        within_scope,
        in_projects,
    }
}

impl Asked<'_> {
    /// Whether the role in the organization allows it, on listed resources at least. `action`: the one of that name.
    pub fn by_org_role(&self, now: &Standing, action: Action) -> bool {
        if self.somewhere {
            now.org.is_some() && now.rights().level_somewhere(action) == Level::Allow
        } else {
            now.may_within_scope(action)
        }
    }
}

/// An action as policies ask for it: `marks` are (in any environment, on listed resources, in some project).
pub fn marked(action: &str, marks: (bool, bool, bool)) -> String {
    let mut text = action.to_string();
    for (is_on, mark) in [
        (marks.0, somewhere as fn(&str) -> String),
        (marks.1, within_scope),
        (marks.2, in_projects),
    ] {
        if is_on {
            text = mark(&text);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_back() {
        let name = "server:update";
        for bits in 0..8 {
            let (somewhere, within_scope, in_projects) =
                (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
            let text = marked(name, (somewhere, within_scope, in_projects));
            let inner = marked(name, (somewhere, within_scope, false));
            assert_eq!(
                asked(&text),
                Asked {
                    marked: &inner,
                    name,
                    somewhere,
                    within_scope,
                    in_projects
                }
            );
        }
    }
}
