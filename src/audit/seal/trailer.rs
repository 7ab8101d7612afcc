//! What an export ends with, so that it can be checked without the database: the newest head, and the hashes that whoever
//! holds the exported lines lacks to compute its root.

use super::{api, heads, leaves};
use crate::audit::show::Chunk;
use crate::context::authority::Id;
use crate::pg;
use pg_tenancy_audit_format::{Moment, tree};
use serde_json::json;
use std::collections::HashMap;
use std::ops::Range;

/// The numbers of lines as they are exported, and which were.
pub struct Exported {
    org: Id,
    last: Option<heads::Stored>,
    /// Of the chunks looked at last: lines of several may take turns.
    known: HashMap<Moment, Option<u64>>,
    /// By their places in the tree, as few ranges as hold them.
    ranges: Vec<Range<u64>>,
}

/// So many chunks are remembered.
const REMEMBERED: usize = 1000;

impl Exported {
    /// Begins an export, under its snapshot.
    pub fn begin(org: &Id) -> pg::Result<Exported> {
        super::tables();
        Ok(Exported {
            org: *org,
            last: heads::last_head(org)?,
            known: HashMap::new(),
            ranges: vec![],
        })
    }

    /// The number of the line at which a chunk stands, from 1; None where no head of this snapshot covers it.
    pub fn number(&mut self, chunk: &Chunk) -> Option<u64> {
        let size = self.last.as_ref()?.head.size;
        let (first, place) = chunk.place();
        if self.known.len() > REMEMBERED {
            self.known.clear();
        }
        let org = &self.org;
        let before = *self
            .known
            .entry(first)
            .or_insert_with(|| leaves::number_of(org, &first));
        let index = before.map(|n| n + place).filter(|n| *n < size)?;
        match self.ranges.last_mut() {
            Some(last) if last.end == index => last.end += 1,
            _ => self.ranges.push(index..index + 1),
        }
        Some(index + 1)
    }

    /// Ascending and apart.
    fn held(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
        ranges.sort_by_key(|r| r.start);
        let mut merged: Vec<Range<u64>> = vec![];
        for range in ranges {
            match merged.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        merged
    }

    /// The last line of the export as JSON; None where nothing of the log is sealed.
    pub fn trailer(self) -> pg::Result<Option<String>> {
        let Some(last) = self.last else {
            return Ok(None);
        };
        let held = Exported::held(self.ranges);
        let lacking = tree::lacking(last.head.size, &held).unwrap_or_default();
        let proof = leaves::hashes_of(&self.org, &lacking)?;
        Ok(Some(
            json!({"head": last.signed().note(), "proof": api::hexes(&proof)}).to_string(),
        ))
    }
}
