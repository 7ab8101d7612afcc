//! Heads as they are kept: what was signed, and what the sealer goes on from.

use super::{heads_table, keys};
use crate::context::authority::Id;
use crate::pg::horizon::Horizon;
use crate::pg::scan::{Bound, Found, Ordered};
use crate::pg::{self, heap, horizon, raw, transaction};
use pg_tenancy_audit_format::Digest;
use pg_tenancy_audit_format::head::{Head, KeyId, Signed};
use pg_tenancy_audit_format::tree::Frontier;
use pgrx::datum::Uuid;
use pgrx::prelude::*;

pub const NAME: &str = "heads";
pub const COLUMNS: &str = "org_id uuid NOT NULL, number bigint NOT NULL, size bigint NOT NULL, at timestamptz NOT NULL, \
    purged bigint NOT NULL, horizon xid8 NOT NULL, cluster bigint NOT NULL, restored boolean NOT NULL, root bytea NOT NULL, \
    previous bytea, key_id bytea NOT NULL, signature bytea NOT NULL, peaks bytea NOT NULL, file bigint, from_page bigint, pages bigint, \
    before_xid xid8";
const TYPES: [pg_sys::Oid; 17] = [
    pg_sys::UUIDOID,
    pg_sys::INT8OID,
    pg_sys::INT8OID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::INT8OID,
    pg_sys::XID8OID,
    pg_sys::INT8OID,
    pg_sys::BOOLOID,
    pg_sys::BYTEAOID,
    pg_sys::BYTEAOID,
    pg_sys::BYTEAOID,
    pg_sys::BYTEAOID,
    pg_sys::BYTEAOID,
    pg_sys::INT8OID,
    pg_sys::INT8OID,
    pg_sys::INT8OID,
    pg_sys::XID8OID,
];

/// Where in the organization's own table the chunks are that come after a head's horizon. Chunks are appended, and no
/// transaction puts one more than heap::WINDOW pages before the end that the table had when the transaction got its id.
/// So there are none of the transactions from `before_xid` on in front of the last pages of the `pages` that the table
/// had before any of them had its id.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Place {
    /// The file: pages of another are counted anew.
    pub file: u32,
    /// The first page that may hold one.
    pub from: u32,
    /// What the next head will say, as soon as it is past `before_xid`.
    pub pages: u32,
    pub before_xid: u64,
}

impl Place {
    fn read(row: &Found) -> Option<Place> {
        let page = |n| row.get::<i64>(n).and_then(|n| u32::try_from(n).ok());
        Some(Place {
            file: page(14)?,
            from: page(15)?,
            pages: page(16)?,
            before_xid: row.get::<i64>(17)?.cast_unsigned(),
        })
    }

    /// After a pass that knows of chunks in the table's first `pages` pages: of chunks, since after a crash the pages
    /// are there again that something was logged in, and no others need be.
    /// This transaction counts as one that runs where it `wrote` to a log: one that seals many logs has had its id since the
    /// first of them.
    pub fn after(self, pages: u32, horizon: Horizon, wrote: bool) -> Place {
        let end = |pages: u32| pages.saturating_sub(heap::WINDOW);
        let next = |from: u32| Place {
            file: self.file,
            from,
            pages,
            before_xid: horizon.unassigned,
        };
        let running = if wrote {
            horizon.oldest
        } else {
            horizon.others
        };
        if running >= horizon.unassigned {
            next(end(pages))
        } else if horizon.oldest >= self.before_xid {
            next(end(self.pages).max(self.from))
        } else {
            self
        }
    }
}

/// A head with what lies beside it.
#[derive(Clone)]
pub struct Stored {
    pub head: Head,
    /// Of the organization's heads, from 1.
    pub number: i64,
    pub key: KeyId,
    pub signature: [u8; 64],
    /// Every chunk of a transaction before this one, of this cluster, is sealed.
    pub horizon: u64,
    pub cluster: i64,
    /// Chunks of another cluster are in the log, whose transactions are numbered in another way.
    pub restored: bool,
    /// To go on from.
    pub frontier: Option<Frontier>,
    /// None where all pages are to be read: lines were removed since.
    pub place: Option<Place>,
}

impl Stored {
    /// None where it is none of ours any more.
    pub fn read(row: &Found) -> Option<Stored> {
        let long = |n| row.get::<i64>(n);
        let bytes = |n| row.get::<Vec<u8>>(n);
        let digest = |n| bytes(n).and_then(|b| Digest::try_from(b).ok());
        let size = long(3)?.cast_unsigned();
        let peaks = bytes(13)?;
        let (peaks, rest) = peaks.as_chunks::<32>();
        Some(Stored {
            head: Head {
                org: *row.get::<Uuid>(1)?.as_bytes(),
                size,
                root: digest(9)?,
                at: row.get::<TimestampWithTimeZone>(4).map(i64::from)?,
                purged: long(5)?.cast_unsigned(),
                previous: match bytes(10) {
                    Some(previous) => Some(Digest::try_from(previous).ok()?),
                    None => None,
                },
            },
            number: long(2)?,
            key: bytes(11)?.try_into().ok()?,
            signature: bytes(12)?.try_into().ok()?,
            horizon: long(6)?.cast_unsigned(),
            cluster: long(7)?,
            restored: row.get(8)?,
            frontier: Some(peaks.to_vec())
                .filter(|_| rest.is_empty())
                .and_then(|peaks| Frontier::new(size, peaks)),
            place: Place::read(row),
        })
    }

    pub fn signed(&self) -> Signed {
        Signed {
            head: self.head.clone(),
            key: self.key,
            signature: self.signature,
        }
    }
}

/// The organization's heads, oldest first, under the active snapshot.
pub fn open_heads(org: &Id) -> pg::Result<Ordered> {
    Ordered::open(heads_table(), &TYPES, &[1, 2], &[Bound::uuid_is(1, org)])
        .ok_or_else(|| super::leaves::index_lost(NAME, "(org_id, number)"))
}

/// The newest head, under the active snapshot; an error where it cannot be read.
pub fn last_head(org: &Id) -> pg::Result<Option<Stored>> {
    match open_heads(org)?.last(Stored::read) {
        Some(None) => Err(crate::audit::read::corrupt(
            "the newest head of an audit log cannot be read",
            "It stands in tenancy_audit.heads.",
        )),
        found => Ok(found.flatten()),
    }
}

/// Signs and stores what follows `last`: a tree that has grown to `frontier`, or more of it purged.
pub fn store(
    org: &Id,
    last: Option<&Stored>,
    frontier: &Frontier,
    purged: u64,
    horizon: u64,
    restored: bool,
    place: Option<Place>,
) -> pg::Result<Stored> {
    let (key_id, key) = keys::signing_key()?;
    let head = Head {
        org: *org,
        size: frontier.size(),
        root: frontier.root(),
        at: transaction::now(),
        purged,
        previous: last.map(|l| l.head.digest()),
    };
    let stored = Stored {
        number: last.map_or(1, |l| l.number + 1),
        key: key_id,
        signature: head.sign(&key).signature,
        horizon,
        cluster: horizon::cluster(),
        restored,
        frontier: Some(frontier.clone()),
        place,
        head,
    };
    let mut peaks = bytes(frontier.peaks().as_flattened());
    let mut root = bytes(&stored.head.root);
    let mut previous = stored.head.previous.map(|p| bytes(&p));
    let mut key = bytes(&stored.key);
    let mut signature = bytes(&stored.signature);
    let row = [
        Some(pg_sys::Datum::from(org.as_ptr())),
        Some(stored.number.into()),
        Some(stored.head.size.into()),
        Some(stored.head.at.into()),
        Some(purged.into()),
        Some(horizon.into()),
        Some(stored.cluster.into()),
        Some(restored.into()),
        Some(raw::with_header(&mut root)),
        previous.as_mut().map(raw::with_header),
        Some(raw::with_header(&mut key)),
        Some(raw::with_header(&mut signature)),
        Some(raw::with_header(&mut peaks)),
        place.map(|p| i64::from(p.file).into()),
        place.map(|p| i64::from(p.from).into()),
        place.map(|p| i64::from(p.pages).into()),
        place.map(|p| p.before_xid.into()),
    ];
    heap::insert(heads_table(), &TYPES, &row);
    horizon::next_command();
    Ok(stored)
}

/// With room for the header of a value.
pub fn bytes(content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; raw::HEADER];
    bytes.extend_from_slice(content);
    bytes
}
