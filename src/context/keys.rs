//! Whose a row is, by what its organization column holds.

use super::authority::{self, Id};
use super::standing::standing;
use crate::pg::key::{self, KeyType, Keys};
use crate::pg::value::Value;
use std::cell::RefCell;
use std::collections::HashMap;

thread_local! {
    // An organization has several where its external key was changed.
    static INTERNED: RefCell<HashMap<Id, Vec<&'static Keys>>> = RefCell::default();
}

/// The one copy of an organization's keys that lives as long as the backend: some 100 bytes for each that it ever acted
/// for. Functions in plans answer pointers into it, so it is never changed.
pub fn intern(id: Id, external_key: Option<&str>) -> &'static Keys {
    INTERNED.with_borrow_mut(|all| {
        let of_org = all.entry(id).or_default();
        let known = of_org.iter().find(|k| k.text() == external_key);
        known.copied().unwrap_or_else(|| {
            let keys = Box::leak(Box::new(Keys::new(Some(id), external_key)));
            of_org.push(keys);
            keys
        })
    })
}

/// The organization of a row by its column; None where no organization has that key. Rows are mostly of the organization
/// in effect, whose keys are at hand: only others are looked up, and remembered.
pub fn whose(kind: KeyType, value: &Value) -> Option<Id> {
    if kind == KeyType::Uuid {
        return value.as_uuid();
    }
    let now = standing();
    if let Some(mine) = now.keys().filter(|mine| mine.is(kind, value)) {
        return mine.id();
    }
    authority::org_by_key(&key::external(kind, value)?)
}
