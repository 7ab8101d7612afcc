//! What an export ends with, so that it can be checked without the database: the newest head, and the hashes that whoever
//! holds the exported lines lacks to compute its root.

#![allow(
    dead_code,
    reason = "called by retention and export, which come from another branch"
)]

use super::{api, heads, leaves};
use crate::context::authority::Id;
use crate::pg;
use pg_tenancy_audit_format::tree;
use serde_json::json;
use std::ops::Range;

/// Lines by their places in the tree, as few ranges as hold them.
#[derive(Default)]
pub struct Exported(Vec<Range<u64>>);

impl Exported {
    pub fn add(&mut self, index: u64) {
        match self.0.last_mut() {
            Some(last) if last.end == index => last.end += 1,
            _ => self.0.push(index..index + 1),
        }
    }

    /// Ascending and apart.
    fn ranges(mut self) -> Vec<Range<u64>> {
        self.0.sort_by_key(|r| r.start);
        let mut merged: Vec<Range<u64>> = vec![];
        for range in self.0 {
            match merged.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        merged
    }
}

/// The last line of an export as JSON; None where nothing of the log is sealed. Under the snapshot of the export.
pub fn trailer(org: &Id, exported: Exported) -> pg::Result<Option<String>> {
    let Some(last) = heads::last_head(org)? else {
        return Ok(None);
    };
    let held = exported.ranges();
    let lacking = tree::lacking(last.head.size, &held).unwrap_or_default();
    let proof = leaves::hashes_of(org, &lacking)?;
    Ok(Some(
        json!({"head": last.signed().note(), "proof": api::hexes(&proof)}).to_string(),
    ))
}
