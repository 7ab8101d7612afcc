//! What a role has: a level on each action, and other ones in some environments. Plain data, unit-tested.
//!
//! The most specific grant counts: in an environment the one that names it, else the one that names none. The level
//! without an environment is what holds in every environment, so it is the lowest of all: a table whose rows name no
//! environment, and a question that names none, must not answer yes where one of them says no.

use super::matrix::{Action, Level};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

thread_local! {
    /// Actions that were ever heard of, with their numbers.
    static NUMBERS: RefCell<HashMap<Rc<str>, Action>> = RefCell::default();
}

/// The number of an action's name in this backend.
pub fn number_of(action: &str) -> Action {
    NUMBERS.with_borrow_mut(|numbers| {
        numbers.get(action).copied().unwrap_or_else(|| {
            let number = numbers.len();
            numbers.insert(Rc::from(action), number);
            number
        })
    })
}

/// A grant for one environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    pub action: Action,
    pub environment: Rc<str>,
    pub level: Level,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// By action: what the grants without an environment say.
    elsewhere: Vec<Level>,
    /// By action: the lowest of all its grants.
    everywhere: Vec<Level>,
    exceptions: Vec<Exception>,
}

/// What somebody would give and does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    pub action: Action,
    pub environment: Option<Rc<str>>,
    pub wanted: Level,
    pub held: Level,
}

fn at(levels: &[Level], action: Action) -> Level {
    levels.get(action).copied().unwrap_or_default()
}

impl Rights {
    /// Adds a grant, or puts it in place of the one for the same action and environment.
    pub fn put(&mut self, action: Action, environment: Option<&str>, level: Level) {
        if self.elsewhere.len() <= action {
            self.elsewhere.resize(action + 1, Level::Deny);
            self.everywhere.resize(action + 1, Level::Deny);
        }
        match environment {
            None => self.elsewhere[action] = level,
            Some(name) => {
                self.exceptions
                    .retain(|e| e.action != action || *e.environment != *name);
                self.exceptions.push(Exception {
                    action,
                    environment: name.into(),
                    level,
                });
            }
        }
        let exceptions = self.exceptions.iter().filter(|e| e.action == action);
        self.everywhere[action] = exceptions
            .map(|e| e.level)
            .min()
            .map_or(self.elsewhere[action], |l| l.min(self.elsewhere[action]));
    }

    /// What holds in every environment.
    pub fn level(&self, action: Action) -> Level {
        at(&self.everywhere, action)
    }

    /// What holds in an environment; without one, in all of them.
    pub fn level_in(&self, action: Action, environment: Option<&str>) -> Level {
        let Some(name) = environment else {
            return self.level(action);
        };
        self.exceptions
            .iter()
            .find(|e| e.action == action && *e.environment == *name)
            .map_or_else(|| at(&self.elsewhere, action), |e| e.level)
    }

    /// What holds in the environments that no grant names.
    pub fn level_elsewhere(&self, action: Action) -> Level {
        at(&self.elsewhere, action)
    }

    /// The grants that name an environment.
    pub fn exceptions(&self) -> &[Exception] {
        &self.exceptions
    }

    /// The highest level that the action has in any environment.
    pub fn level_somewhere(&self, action: Action) -> Level {
        self.exceptions
            .iter()
            .filter(|e| e.action == action)
            .map(|e| e.level)
            .fold(at(&self.elsewhere, action), Level::max)
    }

    fn actions(&self) -> usize {
        self.elsewhere.len()
    }

    /// The first thing that these rights have above `before`, and `giver` has not: nobody gives what he does not hold.
    pub fn lack(&self, before: &Rights, giver: &Rights) -> Option<Lack> {
        let named = [self, before, giver]
            .into_iter()
            .flat_map(|r| &r.exceptions);
        let in_environments = named.map(|e| (e.action, Some(&e.environment)));
        let actions = (0..self.actions()).map(|action| (action, None));
        actions.chain(in_environments).find_map(|(action, name)| {
            let level = |rights: &Rights| match name {
                None => rights.level_elsewhere(action),
                Some(name) => rights.level_in(action, Some(name)),
            };
            let (wanted, held) = (level(self), level(giver));
            (wanted > level(before) && wanted > held).then(|| Lack {
                action,
                environment: name.cloned(),
                wanted,
                held,
            })
        })
    }

    /// What both have: the lower level of each action in each environment.
    pub fn in_common(&self, other: &Rights) -> Rights {
        let mut common = Rights::default();
        for action in 0..self.actions().min(other.actions()) {
            let level = self
                .level_elsewhere(action)
                .min(other.level_elsewhere(action));
            common.put(action, None, level);
        }
        for e in self.exceptions.iter().chain(&other.exceptions) {
            let name = Some(&*e.environment);
            let level = self
                .level_in(e.action, name)
                .min(other.level_in(e.action, name));
            common.put(e.action, name, level);
        }
        common
    }
}

#[cfg(test)]
mod tests {
    use super::Level::{Allow, Deny, Limited};
    use super::*;

    fn rights(grants: &[(Action, Option<&str>, Level)]) -> Rights {
        let mut rights = Rights::default();
        for (action, environment, level) in grants {
            rights.put(*action, *environment, *level);
        }
        rights
    }

    #[test]
    fn a_number_is_kept() {
        let first = number_of("deploy:one");
        assert_ne!(first, number_of("deploy:two"));
        assert_eq!(first, number_of("deploy:one"));
    }

    #[test]
    fn without_an_environment_the_lowest_counts() {
        let r = rights(&[
            (0, Some("staging"), Allow),
            (1, None, Allow),
            (1, Some("production"), Deny),
        ]);
        assert_eq!(r.level(0), Deny);
        assert_eq!(r.level_in(0, Some("staging")), Allow);
        assert_eq!(r.level_in(0, Some("production")), Deny);
        assert_eq!(r.level_in(0, None), Deny);
        assert_eq!(r.level_somewhere(0), Allow);
        assert_eq!(r.level(1), Deny);
        assert_eq!(r.level_in(1, Some("staging")), Allow);
        assert_eq!(r.level_in(1, Some("production")), Deny);
        assert_eq!(r.level(7), Deny);
    }

    #[test]
    fn the_last_grant_for_an_environment_counts_in_any_order() {
        let mut r = rights(&[(0, Some("staging"), Allow), (0, None, Allow)]);
        assert_eq!(r.level(0), Allow);
        r.put(0, Some("staging"), Limited);
        assert_eq!(r.level(0), Limited);
        assert_eq!(r.exceptions().len(), 1);
    }

    #[test]
    fn nobody_gives_what_he_does_not_hold() {
        let none = Rights::default();
        let giver = rights(&[
            (0, None, Allow),
            (1, Some("staging"), Allow),
            (2, None, Limited),
        ]);
        assert_eq!(rights(&[(0, None, Allow)]).lack(&none, &giver), None);
        assert_eq!(
            rights(&[(0, Some("production"), Allow)]).lack(&none, &giver),
            None
        );
        assert_eq!(
            rights(&[(1, Some("staging"), Allow)]).lack(&none, &giver),
            None
        );
        let lack = rights(&[(1, None, Allow)]).lack(&none, &giver).unwrap();
        assert_eq!((lack.action, lack.environment, lack.held), (1, None, Deny));
        let lack = rights(&[(2, None, Allow)]).lack(&none, &giver).unwrap();
        assert_eq!((lack.wanted, lack.held), (Allow, Limited));
        assert_eq!(rights(&[(2, Some("x"), Limited)]).lack(&none, &giver), None);
    }

    #[test]
    fn taking_an_exception_away_gives_too() {
        let before = rights(&[(0, None, Allow), (0, Some("production"), Deny)]);
        let after = rights(&[(0, None, Allow)]);
        let lack = after.lack(&before, &before).unwrap();
        assert_eq!(lack.environment.as_deref(), Some("production"));
        assert_eq!(before.lack(&after, &Rights::default()), None);
    }

    #[test]
    fn what_is_there_already_is_not_given() {
        let before = rights(&[(0, None, Allow), (1, None, Allow)]);
        assert_eq!(
            rights(&[(1, None, Allow)]).lack(&before, &Rights::default()),
            None
        );
    }

    #[test]
    fn in_common_is_the_lower_of_both_everywhere() {
        let a = rights(&[
            (0, None, Allow),
            (0, Some("production"), Deny),
            (1, None, Allow),
        ]);
        let b = rights(&[(0, None, Limited), (0, Some("staging"), Allow)]);
        let c = a.in_common(&b);
        assert_eq!(c.level_in(0, Some("production")), Deny);
        assert_eq!(c.level_in(0, Some("staging")), Allow);
        assert_eq!(c.level_in(0, Some("development")), Limited);
        assert_eq!(c.level(1), Deny);
    }
}
