//! What retention needs to know of what is sealed, and what it leaves behind: a head that says up to where the lines may
//! be gone. So a log that was shortened by the rules and one that was cut differ.
//!
//! The sealed leaf hashes of removed lines stay: 32 bytes a line, which say nothing of what it was, and by which every head
//! ever handed out can still be proved.

use super::heads::{self, Stored};
use super::{fold, leaves};
use crate::context::authority::Id;
use crate::pg::{self, fail, horizon};
use pg_tenancy_audit_format::Moment;
use pg_tenancy_audit_format::read::SPAN;
use pgrx::prelude::*;

/// The largest number k such that every one of the lines 1 to k is older than `time` (microseconds since 2000); sealed
/// lines only, and whole chunks.
pub fn prefix_before(org: &Id, time: i64) -> pg::Result<u64> {
    let mut prefix = 0;
    leaves::for_each_chunk(org, |seal| {
        let older = seal.moment.at.saturating_add(SPAN) < time;
        if older {
            prefix = seal.first + seal.leaves.len() as u64;
        }
        older
    })?;
    Ok(prefix)
}

/// Hands out the chunks that hold the lines after the purged ones and up to line `k`.
pub fn chunks_before(org: &Id, k: u64, mut see: impl FnMut(Moment)) -> pg::Result<()> {
    let purged =
        horizon::with_latest_snapshot(|_| heads::last_head(org))?.map_or(0, |l| l.head.purged);
    leaves::for_each_chunk(org, |seal| {
        let end = seal.first + seal.leaves.len() as u64;
        if end <= k && end > purged {
            see(seal.moment);
        }
        end < k
    })
}

/// Signs a head that says that the first `k` lines were removed by retention. The lines are removed in the same
/// transaction.
pub fn checkpoint(org: &Id, k: u64) -> pg::Result<Stored> {
    super::tables();
    super::lock(org, true);
    horizon::with_latest_snapshot(|_| {
        let last = heads::last_head(org)?.filter(|l| l.head.size >= k && l.head.purged <= k);
        let Some(last) = last else {
            return Err(fail(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "lines that are not sealed cannot be removed from an audit log",
            )
            .set_detail(format!("The first {k} lines were to be removed."))
            .set_hint("SELECT tenancy.seal_audit(org); first."));
        };
        let frontier = fold::frontier_of(&last)?;
        heads::store(
            org,
            Some(&last),
            &frontier,
            k,
            last.horizon,
            last.restored,
            None,
        )
    })
}
