//! Whose the rows of a table are, for those who look through all of them: every organization is read once, and the columns
//! of two tables are compared as organizations, whatever type each of them has.

use crate::context::authority::{self, Id};
use crate::pg::key::{self, KeyType, Keys};
use crate::pg::value::Value;
use std::collections::HashMap;
use std::rc::Rc;

/// Every organization, by what a column may hold of it.
pub struct Directory {
    by_id: HashMap<Id, Rc<Keys>>,
    by_key: HashMap<String, Rc<Keys>>,
    /// Rows that lie together are mostly of one organization.
    last: Option<(KeyType, Resident)>,
}

#[derive(Clone)]
pub struct Resident {
    pub keys: Rc<Keys>,
    /// Whether there is such an organization.
    pub known: bool,
}

impl Directory {
    pub fn read() -> Directory {
        let all: Vec<Rc<Keys>> = authority::all_keys().into_iter().map(Rc::new).collect();
        let id = |keys: &Rc<Keys>| Some((keys.id()?, keys.clone()));
        let key = |keys: &Rc<Keys>| Some((keys.text()?.to_string(), keys.clone()));
        Directory {
            by_id: all.iter().filter_map(id).collect(),
            by_key: all.iter().filter_map(key).collect(),
            last: None,
        }
    }

    /// The organization that a row names; None where it names none. One that does not exist is still one: its rows may
    /// refer to one another.
    pub fn whose(&mut self, kind: KeyType, value: &Value) -> Option<Resident> {
        if value.null {
            return None;
        }
        if let Some((of, last)) = &self.last
            && *of == kind
            && last.keys.is(kind, value)
        {
            return Some(last.clone());
        }
        let found = match key::external(kind, value) {
            None => {
                let id = value.as_uuid()?;
                let known = self.by_id.get(&id);
                Resident {
                    known: known.is_some(),
                    keys: known
                        .cloned()
                        .unwrap_or_else(|| Rc::new(Keys::new(Some(id), None))),
                }
            }
            Some(key) => {
                let known = self.by_key.get(&key);
                Resident {
                    known: known.is_some(),
                    keys: known
                        .cloned()
                        .unwrap_or_else(|| Rc::new(Keys::new(None, Some(&key)))),
                }
            }
        };
        self.last = Some((kind, found.clone()));
        Some(found)
    }
}
