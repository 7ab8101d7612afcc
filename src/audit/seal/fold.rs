//! One organization's new lines, numbered and folded into its tree.

use super::heads::{self, Stored};
use super::leaves;
use crate::audit::read::corrupt;
use crate::audit::store::{self, Store};
use crate::audit::{chunk, show};
use crate::context::authority::Id;
use crate::pg::horizon::{self, Horizon};
use crate::pg::scan::{Bound, Found, Ordered};
use crate::pg::{self, fail};
use pg_tenancy_audit_format::tree::Frontier;
use pg_tenancy_audit_format::{Digest, Moment, read as format};
use pgrx::prelude::*;

pub struct Sealed {
    pub lines: u64,
    pub head: Stored,
}

/// Seals what is finished and not sealed. None where there is nothing, or, unless we `wait`, where another session is at
/// it.
pub fn seal_org(org: &Id, wait: bool) -> pg::Result<Option<Sealed>> {
    // Most organizations have nothing new, and are not locked for that.
    if !has_news(org)? || !super::lock(org, wait) {
        return Ok(None);
    }
    horizon::with_latest_snapshot(|horizon| {
        let last = heads::last_head(org)?;
        fold(org, last.as_ref(), horizon)
    })
}

/// Whether there is something that could be sealed now.
pub fn has_news(org: &Id) -> pg::Result<bool> {
    horizon::with_latest_snapshot(|horizon| {
        let last = heads::last_head(org)?;
        let mut pass = Pass::begin(org, last.as_ref(), horizon)?;
        Ok(pass.next()?.is_some())
    })
}

fn fold(org: &Id, last: Option<&Stored>, horizon: Horizon) -> pg::Result<Option<Sealed>> {
    let mut frontier = match last {
        None => Frontier::default(),
        Some(last) => frontier_of(last)?,
    };
    let before = frontier.size();
    let mut pass = Pass::begin(org, last, horizon)?;
    let mut restored = last.is_some_and(|l| l.restored || l.cluster != horizon::cluster());
    while let Some((moment, payload, lines)) = pass.next()? {
        restored |= moment.xid >= horizon.oldest;
        let leaves = leaves_in(&payload, lines)?;
        leaves::store(org, frontier.size(), &moment, &leaves);
        for leaf in &leaves {
            frontier.push(leaf);
        }
    }
    drop(pass);
    if frontier.size() == before {
        return Ok(None);
    }
    let purged = last.map_or(0, |l| l.head.purged);
    let head = heads::store(org, last, &frontier, purged, horizon.oldest, restored)?;
    Ok(Some(Sealed {
        lines: frontier.size() - before,
        head,
    }))
}

/// What a head goes on from. Somebody who altered it would have us sign what we did not see: it must lead to the root that
/// was signed.
pub fn frontier_of(last: &Stored) -> pg::Result<Frontier> {
    last.frontier
        .clone()
        .filter(|f| f.root() == last.head.root)
        .ok_or_else(|| {
            fail(
                PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                "the newest head of an audit log was altered",
            )
            .set_detail("What it says to go on from does not lead to its root; nothing more is sealed.")
            .set_hint("SELECT * FROM tenancy.verify_audit(org); then restore tenancy_audit.heads from a backup.")
        })
}

/// The leaf hashes that the writer stored, as they are: were they computed anew, an altered line would be sealed as if it
/// had been written so.
fn leaves_in(payload: &[u8], lines: i32) -> pg::Result<Vec<Digest>> {
    format::leaves(payload, lines)
        .map_err(|what| corrupt("a chunk of the audit log cannot be sealed", what.0))
}

/// Whether the organization was sealed in this cluster before; transactions are numbered anew in another.
pub fn is_first_pass(last: Option<&Stored>) -> bool {
    last.is_none_or(|l| l.cluster != horizon::cluster())
}

/// The chunks of an organization that are finished and not sealed, by transaction and number in it.
struct Pass<'a> {
    org: &'a Id,
    sources: Vec<Source>,
    first: bool,
    /// Some in its range may be sealed already.
    mixed: bool,
    horizon: Horizon,
}

struct Source {
    scan: Ordered,
    row: Option<(Moment, Found)>,
}

impl Source {
    fn advance(&mut self) {
        self.row = self.scan.next().map(|row| (show::moment(&row), row));
    }
}

impl Pass<'_> {
    fn begin<'a>(org: &'a Id, last: Option<&Stored>, horizon: Horizon) -> pg::Result<Pass<'a>> {
        let first = is_first_pass(last);
        let range = match last {
            Some(last) if !first => Some((last.horizon, horizon.oldest)),
            _ => None,
        };
        let sources = store::tables_of(org)
            .into_iter()
            .map(|store| {
                let mut source = Source {
                    scan: open(store, org, range)?,
                    row: None,
                };
                source.advance();
                Ok(source)
            })
            .collect::<pg::Result<_>>()?;
        Ok(Pass {
            org,
            sources,
            first,
            mixed: last.is_some_and(|l| first || l.restored),
            horizon,
        })
    }

    fn next(&mut self) -> pg::Result<Option<(Moment, Vec<u8>, i32)>> {
        let key = |s: &&mut Source| s.row.map(|(m, _)| (m.xid, m.n, m.at));
        while let Some(source) = self
            .sources
            .iter_mut()
            .filter(|s| s.row.is_some())
            .min_by_key(key)
        {
            let (moment, row) = source.row.expect("only such were asked");
            let taken = (!self.first || is_finished(&moment, &row, self.horizon))
                && !(self.mixed && leaves::number_of(self.org, &moment).is_some());
            let chunk = taken.then(|| (moment, show::payload(&row), show::lines(&row)));
            source.advance();
            if chunk.is_some() {
                return Ok(chunk);
            }
        }
        Ok(None)
    }
}

/// Of the chunks that are seen: whether none can come before it any more. A chunk from another cluster has that one's
/// number; it is as finished as the transaction that brought it here, and where its number could be one of ours that
/// still runs beside others, a later pass takes it.
fn is_finished(chunk: &Moment, row: &Found, horizon: Horizon) -> bool {
    chunk.xid < horizon.oldest
        || chunk.xid >= horizon.next
        || row
            .stored_by()
            .is_none_or(|xid| horizon::widened(xid, horizon.next) < horizon.oldest)
}

/// The chunks of a table, in the order of transactions; of those in a range of them, if one is given.
pub fn open(store: Store, org: &Id, range: Option<(u64, u64)>) -> pg::Result<Ordered> {
    const XID: i16 = 2;
    const N: i16 = 3;
    const ORG: i16 = 5;
    let mut bounds = vec![];
    if !store.own {
        bounds.push(Bound::uuid_is(ORG, org));
    }
    if let Some((from, end)) = range {
        bounds.push(Bound::xid_at_least(XID, from));
        bounds.push(Bound::xid_before(XID, end));
    }
    let by = if store.own {
        &[XID, N][..]
    } else {
        &[ORG, XID, N]
    };
    Ordered::open(store.table, &chunk::TYPES, by, &bounds).ok_or_else(|| {
        fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "an audit table has lost its index",
        )
        .set_detail("A log is sealed in the order of transactions, which the index keeps.")
        .set_hint("CREATE INDEX ON the table in schema tenancy_audit: (xid, n), or (org_id, xid, n) where its name begins with shared_.")
    })
}
