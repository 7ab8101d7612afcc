//! What retention needs to know of what is sealed, and what it leaves behind: a head that says up to where the lines may
//! be gone. So a log that was shortened by the rules and one that was cut differ.
//!
//! The sealed leaf hashes of removed lines stay: 32 bytes a line, which say nothing of what it was, and by which every head
//! ever handed out can still be proved.

use super::{fold, heads, index, leaves};
use crate::context::authority::Id;
use crate::pg::{self, horizon};
use pg_tenancy_audit_format::Moment;
use pg_tenancy_audit_format::read::SPAN;
use std::collections::HashSet;

/// Lines that a signed head says were removed, and the chunks that hold them.
pub struct Purged {
    before: u64,
    /// The last one's number.
    pub up_to: u64,
    chunks: Chunks,
}

enum Chunks {
    /// Up to the one of this transaction and number in it: the log's order.
    UpTo(u64, i32),
    /// In a log that was restored there is more than one order.
    These(HashSet<Moment>),
}

impl Purged {
    pub fn lines(&self) -> u64 {
        self.up_to - self.before
    }

    /// Whether it is one of these chunks.
    pub fn holds(&self, chunk: &Moment) -> bool {
        match &self.chunks {
            Chunks::UpTo(xid, n) => (chunk.xid, chunk.n) <= (*xid, *n),
            Chunks::These(these) => these.contains(chunk),
        }
    }
}

/// Keeps sealers and other purges of the organization off until the transaction ends.
pub fn lock(org: &Id) {
    super::tables();
    super::lock(org, true);
}

/// Signs a head that says that the lines older than `time` (microseconds since 2000) were removed by retention, as far as
/// there are no others before them: sealed lines only, and whole chunks. None where there are none that were not said to be
/// removed before. The caller holds the lock, and removes them in the same transaction.
pub fn checkpoint(org: &Id, time: i64) -> pg::Result<Option<Purged>> {
    horizon::with_latest_snapshot(|_| {
        let Some(last) = heads::last_head(org)? else {
            return Ok(None);
        };
        let mixed = last.restored || fold::is_first_pass(Some(&last));
        let before = last.head.purged;
        let mut purged = Purged {
            before,
            up_to: before,
            chunks: match mixed {
                true => Chunks::These(HashSet::new()),
                false => Chunks::UpTo(0, 0),
            },
        };
        leaves::for_each_chunk(org, |seal| {
            let end = seal.first + seal.leaves.len() as u64;
            if end <= before {
                return true;
            }
            let older = seal.moment.at.saturating_add(SPAN) < time && end <= last.head.size;
            if older {
                purged.up_to = end;
                match &mut purged.chunks {
                    Chunks::UpTo(xid, n) => (*xid, *n) = (seal.moment.xid, seal.moment.n),
                    Chunks::These(these) => {
                        these.insert(seal.moment);
                    }
                }
            }
            older
        })?;
        if purged.up_to == before {
            return Ok(None);
        }
        let frontier = fold::frontier_of(&last)?;
        heads::store(
            org,
            Some(&last),
            &frontier,
            purged.up_to,
            last.horizon,
            last.restored,
            None,
        )?;
        index::purge(org, purged.up_to);
        Ok(Some(purged))
    })
}
