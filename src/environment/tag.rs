//! What a row's tag says.

use crate::context::authority::{self, Id};
use crate::pg::trigger::RowImage;
use crate::pg::value;

/// Always there, whatever an organization adds.
pub const BUILT_IN: [&str; 3] = ["development", "staging", "production"];

#[derive(Debug, PartialEq, Eq)]
pub enum Tag {
    /// The row has none: it is not production.
    None,
    Production,
    Other,
    /// Nobody said what it means: it counts as production.
    Unknown(String),
}

impl Tag {
    /// The tag as it is written; None for NULL.
    pub fn text(row: &RowImage, attnum: i16, is_enum: bool) -> Option<String> {
        let value = row.value(attnum);
        if value.null {
            return None;
        }
        Some(if is_enum {
            value::output(&value, row.type_of(attnum))
        } else {
            value.with_bytes(|bytes| String::from_utf8_lossy(bytes).into_owned())
        })
    }

    pub fn of(org: &Id, row: &RowImage, attnum: i16, is_enum: bool) -> Tag {
        Tag::text(row, attnum, is_enum).map_or(Tag::None, |tag| Tag::named(org, tag))
    }

    pub fn named(org: &Id, tag: String) -> Tag {
        match kind(org, &tag).as_deref() {
            Some("production") => Tag::Production,
            Some(_) => Tag::Other,
            None => Tag::Unknown(tag),
        }
    }

    pub fn is_production(&self) -> bool {
        matches!(self, Tag::Production | Tag::Unknown(_))
    }
}

/// Which of the three a tag is like; None where the organization does not know it.
pub fn kind(org: &Id, tag: &str) -> Option<String> {
    if let Some(built_in) = BUILT_IN.iter().find(|name| **name == tag) {
        return Some(built_in.to_string());
    }
    let own = authority::environments(org);
    own.iter()
        .find(|(name, _)| name == tag)
        .map(|(_, kind)| kind.clone())
}

/// The tags that an organization knows, for an error.
pub fn known(org: &Id) -> String {
    let own = authority::environments(org);
    BUILT_IN
        .into_iter()
        .chain(own.iter().map(|(name, _)| name.as_str()))
        .collect::<Vec<_>>()
        .join(", ")
}
