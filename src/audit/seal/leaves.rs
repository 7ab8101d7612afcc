//! The sealed chunks: which numbers each has, and its lines' leaf hashes.

use super::leaves_table;
use crate::context::authority::Id;
use crate::pg::query::{Arg, latest};
use crate::pg::scan::{Bound, Found, Ordered};
use crate::pg::{self, fail, heap, raw};
use pg_tenancy_audit_format::tree::Ranges;
use pg_tenancy_audit_format::{Digest, Moment};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::ops::Range;

pub const NAME: &str = "sealed";
pub const COLUMNS: &str = "org_id uuid NOT NULL, first bigint NOT NULL, lines integer NOT NULL, n integer NOT NULL, \
    at timestamptz NOT NULL, xid xid8 NOT NULL, leaves bytea NOT NULL";
const TYPES: [pg_sys::Oid; 7] = [
    pg_sys::UUIDOID,
    pg_sys::INT8OID,
    pg_sys::INT4OID,
    pg_sys::INT4OID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::XID8OID,
    pg_sys::BYTEAOID,
];

/// A chunk as it was sealed.
pub struct ChunkSeal {
    /// Lines of the organization before its first one.
    pub first: u64,
    /// Its first line's.
    pub moment: Moment,
    pub leaves: Vec<Digest>,
}

impl ChunkSeal {
    /// None where it was tampered with so that it says nothing.
    pub fn read(row: &Found) -> Option<ChunkSeal> {
        let leaves = row.get::<Vec<u8>>(7)?;
        let (leaves, rest) = leaves.as_chunks::<32>();
        let lines = row.get::<i32>(3)?;
        (rest.is_empty() && usize::try_from(lines) == Ok(leaves.len())).then_some(ChunkSeal {
            first: row.get::<i64>(2)?.cast_unsigned(),
            moment: Moment {
                at: row.get::<TimestampWithTimeZone>(5).map(i64::from)?,
                xid: row.get::<i64>(6)?.cast_unsigned(),
                n: row.get(4)?,
            },
            leaves: leaves.to_vec(),
        })
    }
}

pub fn store(org: &Id, first: u64, moment: &Moment, leaves: &[Digest]) {
    let mut bytes = super::heads::bytes(leaves.as_flattened());
    let row = [
        Some(pg_sys::Datum::from(org.as_ptr())),
        Some(first.into()),
        Some((leaves.len() as i32).into()),
        Some(moment.n.into()),
        Some(moment.at.into()),
        Some(moment.xid.into()),
        Some(raw::with_header(&mut bytes)),
    ];
    heap::insert(leaves_table(), &TYPES, &row);
}

/// An organization's, in the order of their numbers.
pub fn open_by_number(org: &Id) -> pg::Result<Ordered> {
    Ordered::open(leaves_table(), &TYPES, &[1, 2], &[Bound::uuid_is(1, org)])
        .ok_or_else(|| index_lost(NAME, "(org_id, first)"))
}

/// An organization's, in the order of transaction and number in it.
pub fn open_by_identity(org: &Id) -> pg::Result<Ordered> {
    Ordered::open(
        leaves_table(),
        &TYPES,
        &[1, 6, 4],
        &[Bound::uuid_is(1, org)],
    )
    .ok_or_else(|| index_lost(NAME, "(org_id, xid, n)"))
}

/// How many lines come before the first one of a chunk; None where the chunk is not sealed.
pub fn number_of(org: &Id, chunk: &Moment) -> Option<u64> {
    latest(
        "SELECT first FROM tenancy_audit.sealed WHERE org_id OPERATOR(pg_catalog.=) $1
           AND xid OPERATOR(pg_catalog.=) $2 AND n OPERATOR(pg_catalog.=) $3 AND at OPERATOR(pg_catalog.=) $4",
        &[
            Arg::Uuid(org),
            Arg::Xid(chunk.xid),
            Arg::Int(chunk.n),
            Arg::Timestamp(Some(chunk.at)),
        ],
        |row| row.get::<i64>(1),
    )
    .pop()
    .flatten()
    .map(i64::cast_unsigned)
}

/// Gives `see` an organization's sealed chunks, in the order of their numbers, until it answers false.
pub fn for_each_chunk(org: &Id, mut see: impl FnMut(&ChunkSeal) -> bool) -> pg::Result<()> {
    let mut rows = open_by_number(org)?;
    let mut next = 0;
    while let Some(row) = rows.next() {
        let seal = ChunkSeal::read(&row).filter(|s| s.first == next);
        let Some(seal) = seal else {
            return Err(crate::audit::read::corrupt(
                "the sealed lines of an audit log are not whole",
                &format!(
                    "After line {next} of the organization comes none in tenancy_audit.sealed."
                ),
            ));
        };
        next += seal.leaves.len() as u64;
        if !see(&seal) {
            return Ok(());
        }
    }
    Ok(())
}

/// The hashes of subtrees, in the order in which they are given.
pub fn hashes_of(org: &Id, ranges: &[Range<u64>]) -> pg::Result<Vec<Digest>> {
    let mut hashes = Ranges::of(ranges);
    let mut left = ranges.iter().map(|r| r.end).max().unwrap_or(0);
    if left > 0 {
        for_each_chunk(org, |seal| {
            for leaf in &seal.leaves {
                hashes.push(leaf);
            }
            left = left.saturating_sub(seal.leaves.len() as u64);
            left > 0
        })?;
    }
    hashes.finish().ok_or_else(|| {
        crate::audit::read::corrupt(
            "the sealed lines of an audit log are not whole",
            "There are fewer in tenancy_audit.sealed than its head says.",
        )
    })
}

pub fn index_lost(table: &str, columns: &str) -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("audit table tenancy_audit.{table} has lost an index"),
    )
    .set_detail("What is sealed is looked up by it.")
    .set_hint(format!("CREATE INDEX ON tenancy_audit.{table} {columns}."))
}
