//! One organization's new lines, numbered and folded into its tree.

use super::heads::{self, Place, Stored};
use super::{index, leaves};
use crate::audit::read::corrupt;
use crate::audit::store::{self, Store};
use crate::audit::{chunk, show};
use crate::context::authority::Id;
use crate::pg::gather::{self, Gathered};
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
pub fn seal_org(org: &Id, shared: &[Store], wait: bool) -> pg::Result<Option<Sealed>> {
    // Most organizations have nothing new, and are not locked for that.
    if !has_news(org, shared)? || !super::lock(org, wait) {
        return Ok(None);
    }
    horizon::with_latest_snapshot(|horizon| {
        let last = heads::last_head(org)?;
        fold(org, shared, last.as_ref(), horizon)
    })
}

/// Whether there is something that could be sealed now.
pub fn has_news(org: &Id, shared: &[Store]) -> pg::Result<bool> {
    horizon::with_latest_snapshot(|horizon| {
        let last = heads::last_head(org)?;
        let mut pass = Pass::begin(org, shared, last.as_ref(), horizon)?;
        Ok(pass.next(|_| Ok(()))?.is_some())
    })
}

fn fold(
    org: &Id,
    shared: &[Store],
    last: Option<&Stored>,
    horizon: Horizon,
) -> pg::Result<Option<Sealed>> {
    let mut frontier = match last {
        None => Frontier::default(),
        Some(last) => frontier_of(last)?,
    };
    let before = frontier.size();
    let mut pass = Pass::begin(org, shared, last, horizon)?;
    let mut restored = last.is_some_and(|l| l.restored || l.cluster != horizon::cluster());
    let mut index = index::Builder::new(org, before);
    while let Some((moment, leaves)) = pass.next(|row| {
        let leaves = leaves_in(&show::payload(row), show::lines(row))?;
        index.add(row, leaves.len() as u64);
        Ok(leaves)
    })? {
        restored |= moment.xid >= horizon.oldest;
        leaves::store(org, frontier.size(), &moment, &leaves);
        for leaf in &leaves {
            frontier.push(leaf);
        }
    }
    index.store();
    let place = pass
        .place
        .map(|place| place.after(pass.pages, horizon, chunk::has_written()));
    drop(pass);
    if frontier.size() == before {
        return Ok(None);
    }
    let purged = last.map_or(0, |l| l.head.purged);
    let head = heads::store(
        org,
        last,
        &frontier,
        purged,
        horizon.oldest,
        restored,
        place,
    )?;
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
    /// In the organization's own table: where it began, and as many pages as hold chunks that are known.
    place: Option<Place>,
    pages: u32,
}

struct Source {
    scan: Chunks,
    row: Option<(Moment, Found)>,
}

impl Source {
    fn advance(&mut self) {
        self.row = self.scan.next().map(|row| (show::moment(&row), row));
    }
}

impl Pass<'_> {
    fn begin<'a>(
        org: &'a Id,
        shared: &[Store],
        last: Option<&Stored>,
        horizon: Horizon,
    ) -> pg::Result<Pass<'a>> {
        let first = is_first_pass(last);
        let range = match last {
            Some(last) if !first => Some((last.horizon, horizon.oldest)),
            _ => None,
        };
        let stores = store::tables_beside(org, shared);
        let place = stores.iter().find(|s| s.own).map(|s| place(*s, last));
        let sources = stores
            .into_iter()
            .map(|store| {
                let mut source = Source {
                    scan: open(store, org, last, range)?,
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
            place,
            pages: place.map_or(0, |p| p.pages),
        })
    }

    /// What `take` makes of the next one.
    fn next<T>(
        &mut self,
        take: impl FnOnce(&Found) -> pg::Result<T>,
    ) -> pg::Result<Option<(Moment, T)>> {
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
            self.pages = self.pages.max(source.scan.pages());
            if taken {
                let made = take(&row)?;
                source.advance();
                return Ok(Some((moment, made)));
            }
            source.advance();
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

/// Chunks of a table in the order of transactions.
pub enum Chunks {
    Indexed(Ordered),
    Gathered(Gathered<Key>),
}

/// Transaction, number in it, time.
type Key = (u64, i32, i64);

impl Chunks {
    pub fn next(&mut self) -> Option<Found> {
        match self {
            Chunks::Indexed(rows) => rows.next(),
            Chunks::Gathered(rows) => rows.next(),
        }
    }

    /// As many pages as hold the rows that were given so far.
    fn pages(&self) -> u32 {
        match self {
            Chunks::Indexed(_) => 0,
            Chunks::Gathered(rows) => rows.page() + 1,
        }
    }
}

/// Where in an organization's own table its last pass left off.
fn place(store: Store, last: Option<&Stored>) -> Place {
    let (file, pages) = gather::extent(store.table);
    last.filter(|last| !is_first_pass(Some(last)))
        .and_then(|last| last.place)
        // Fewer pages than it had: somebody had a VACUUM cut its end off.
        .filter(|place| place.file == file && place.pages <= pages)
        .unwrap_or(Place {
            file,
            ..Place::default()
        })
}

const XID: i16 = 2;
const N: i16 = 3;
const ORG: i16 = 5;

/// The chunks of a table, in the order of transactions; of those in a range of them that begins with the last head's
/// horizon, if one is given.
pub fn open(
    store: Store,
    org: &Id,
    last: Option<&Stored>,
    range: Option<(u64, u64)>,
) -> pg::Result<Chunks> {
    if store.own {
        let from = range.map_or(0, |_| place(store, last).from);
        // Of most rows nothing but the transaction is looked at.
        let key_of = move |row: &Found| {
            let xid = show::xid(row);
            let wanted = range.is_none_or(|(from, end)| (from..end).contains(&xid));
            wanted.then(|| (xid, show::n(row), show::first(row)))
        };
        let rows = Gathered::open(store.table, &chunk::TYPES, from, Box::new(key_of));
        return Ok(Chunks::Gathered(rows));
    }
    let mut bounds = vec![Bound::uuid_is(ORG, org)];
    if let Some((from, end)) = range {
        bounds.push(Bound::xid_at_least(XID, from));
        bounds.push(Bound::xid_before(XID, end));
    }
    let rows = Ordered::open(store.table, &chunk::TYPES, &[ORG, XID, N], &bounds);
    rows.map(Chunks::Indexed).ok_or_else(|| {
        fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "an audit table has lost its index",
        )
        .set_detail("A log in a shared table is sealed in the order of transactions, which the index keeps.")
        .set_hint("CREATE INDEX ON the table in schema tenancy_audit whose name begins with shared_: (org_id, xid, n).")
    })
}
