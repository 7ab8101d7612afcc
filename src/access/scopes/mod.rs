//! Resource scopes: which resources a membership is limited to, and how far (spec 3.8).
//!
//! Rules are text in the table and compared as numbers, uuids or bytes here, in the form in which the key stands in a row,
//! so that a policy turns no key into text. A membership's rules are read once and kept until authority changes.

mod api;

#[allow(unused_imports, reason = "who_can() and what_can() ask it")]
pub use api::level_on;

use crate::context::authority::Id;
use crate::pg::query::{Arg, latest};
use rustc_hash::FxHashMap;
use std::borrow::Cow;

/// What a rule gives on a resource; each includes the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    None,
    ReadOnly,
    Full,
}

impl Access {
    pub fn name(self) -> &'static str {
        match self {
            Access::None => "none",
            Access::ReadOnly => "read_only",
            Access::Full => "full",
        }
    }

    pub fn named(name: &str) -> Option<Access> {
        match name {
            "none" => Some(Access::None),
            "read_only" => Some(Access::ReadOnly),
            "full" => Some(Access::Full),
            _ => None,
        }
    }
}

/// A resource's key, as a row has it.
#[derive(Clone, Debug, PartialEq)]
pub enum Key<'a> {
    Number(i64),
    Uuid(Id),
    Text(Cow<'a, [u8]>),
}

/// The rules for one type of resource. Each stands in every form that its text has: which one a column compares is the
/// column's own.
#[derive(Debug, Default)]
struct Rules {
    text: FxHashMap<Box<[u8]>, Access>,
    numbers: FxHashMap<i64, Access>,
    uuids: FxHashMap<Id, Access>,
}

/// A scoped membership's rules; none at all is one that sees nothing.
#[derive(Debug, Default)]
pub struct Scopes(FxHashMap<Box<str>, Rules>);

impl Scopes {
    pub fn new<'a>(rules: impl IntoIterator<Item = (&'a str, &'a str, Access)>) -> Scopes {
        let mut scopes = Scopes::default();
        for (kind, key, access) in rules {
            let rules = scopes.0.entry(kind.into()).or_default();
            rules.text.insert(key.as_bytes().into(), access);
            // Only as PostgreSQL writes it: '007' is not the number 7, nor is another spelling of a uuid that uuid.
            if let Some(n) = key.parse::<i64>().ok().filter(|n| n.to_string() == key) {
                rules.numbers.insert(n, access);
            }
            if let Some(id) = uuid::Uuid::parse_str(key).ok()
                && id.hyphenated().to_string() == key
            {
                rules.uuids.insert(*id.as_bytes(), access);
            }
        }
        scopes
    }

    /// What the rule for a resource says; None where there is no rule for it.
    #[inline]
    pub fn rule(&self, kind: &str, key: &Key) -> Option<Access> {
        let rules = self.0.get(kind)?;
        match key {
            Key::Number(n) => rules.numbers.get(n),
            Key::Uuid(id) => rules.uuids.get(id),
            Key::Text(text) => rules.text.get(&**text),
        }
        .copied()
    }

    /// The rules for a type of resource that show it.
    pub fn shown(&self, kind: &str) -> usize {
        self.0.get(kind).map_or(0, |rules| {
            rules.text.values().filter(|a| **a > Access::None).count()
        })
    }
}

/// The rules of a membership as they are now.
pub fn read(org: &Id, user: &Id) -> Scopes {
    let rules = latest(
        "SELECT resource_type, resource_id, access FROM tenancy.membership_scopes
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $2",
        &[Arg::Uuid(org), Arg::Uuid(user)],
        |row| [1, 2, 3].map(|n| row.get::<String>(n).unwrap_or_default()),
    );
    Scopes::new(rules.iter().map(|[kind, key, access]| {
        let access = Access::named(access).unwrap_or(Access::None);
        (kind.as_str(), key.as_str(), access)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_the_form_its_column_has() {
        let id = "6f1c1c6e-54d4-4f6e-9d3c-2a1f0e9b7a11";
        let scopes = Scopes::new([
            ("server", "7", Access::Full),
            ("server", "007", Access::None),
            ("server", id, Access::ReadOnly),
        ]);
        let text = |t: &'static str| Key::Text(Cow::Borrowed(t.as_bytes()));
        assert_eq!(scopes.rule("server", &Key::Number(7)), Some(Access::Full));
        assert_eq!(scopes.rule("server", &text("7")), Some(Access::Full));
        assert_eq!(scopes.rule("server", &text("007")), Some(Access::None));
        let uuid = *uuid::Uuid::parse_str(id).unwrap().as_bytes();
        assert_eq!(
            scopes.rule("server", &Key::Uuid(uuid)),
            Some(Access::ReadOnly)
        );
        assert_eq!(scopes.rule("server", &Key::Number(8)), None);
        assert_eq!(scopes.rule("site", &Key::Number(7)), None);
        assert_eq!(scopes.shown("server"), 2);
    }

    #[test]
    fn each_level_includes_the_one_before() {
        assert!(Access::Full > Access::ReadOnly && Access::ReadOnly > Access::None);
        for access in [Access::None, Access::ReadOnly, Access::Full] {
            assert_eq!(Access::named(access.name()), Some(access));
        }
        assert_eq!(Access::named("FULL"), None);
    }
}
