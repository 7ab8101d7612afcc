//! Tamper evidence without a waiting writer (spec 6.4). Writers store lines with leaf hashes and know nothing of this
//! room; the sealer comes afterwards, numbers the lines of every organization without gaps, folds them into its Merkle
//! tree and signs the tree's head.
//!
//! Sealed are the chunks of transactions below a snapshot's horizon: they have all ended, so nothing can come in between
//! later, and a chunk that turns up below a head's horizon without having been sealed was not written by us. Their order
//! is that of their transactions' ids, so it depends on no clock, and two sealers make the same tree of the same lines. A
//! chain head locked in the writing transaction cost 93% of one busy organization's throughput (measured).
//!
//! The leaf hashes are kept once more, beside the chunks, since a root alone would say that something is wrong, not what.

pub mod api;
mod fingerprint;
mod fold;
mod heads;
pub mod index;
mod keys;
mod leaves;
pub mod retention;
pub mod status;
pub mod trailer;

pub use fold::{Chunks, has_news, is_first_pass, seal_org};
pub use heads::{Stored, open_heads};
pub use keys::verifying_key;
pub use leaves::{ChunkSeal, open_by_identity, open_by_number};

use super::store;
use crate::context::authority::Id;
use crate::pg::horizon;
use crate::pg::query::execute;
use pgrx::prelude::*;

/// Makes the tables where they are not there yet, beside those of the lines and as plain as they.
pub fn tables() {
    for (name, columns, indexes, comment) in [
        (
            heads::NAME,
            heads::COLUMNS,
            &[("UNIQUE", "(org_id, number)")][..],
            "What was sealed of each organization''s log, signed; read through tenancy.audit_heads",
        ),
        (
            leaves::NAME,
            leaves::COLUMNS,
            &[("UNIQUE", "(org_id, first)"), ("", "(org_id, xid, n)")],
            "Which chunk has which numbers in its organization''s log, and its lines'' leaf hashes",
        ),
        (
            index::NAME,
            index::COLUMNS,
            // What somebody left there when he cut the log hinders no sealing.
            &[("", "(org_id, first)")],
            "Which chunks of an organization''s log tell of which rows, by short fingerprints of their keys; read by history() and as_of()",
        ),
    ] {
        store::ensure(name, |name| {
            let table = format!("tenancy_audit.{name}");
            let row = crate::pg::heap::LARGEST_ROW;
            let create =
                format!("CREATE TABLE {table} ({columns}) WITH (toast_tuple_target = {row})");
            execute(&create, &[]);
            // Hashes do not compress.
            for column in ["leaves", "peaks", "chunks"] {
                if columns.contains(column) {
                    execute(
                        &format!("ALTER TABLE {table} ALTER {column} SET STORAGE EXTERNAL"),
                        &[],
                    );
                }
            }
            for (unique, by) in indexes {
                execute(&format!("CREATE {unique} INDEX ON {table} {by}"), &[]);
            }
            execute(&format!("COMMENT ON TABLE {table} IS '{comment}'"), &[]);
            store::close(&table);
        });
    }
}

/// Seals what is finished of an organization's log; its newest head where nothing is left unsealed.
pub fn seal_wholly(org: &Id) -> crate::pg::Result<Option<String>> {
    tables();
    let shared = store::shared();
    seal_org(org, &shared, true)?;
    horizon::with_latest_snapshot(|_| {
        let last = heads::last_head(org)?;
        let left = status::unsealed(org, &shared, last.as_ref())?;
        Ok(last
            .filter(|_| left.lines == 0)
            .map(|head| head.signed().note()))
    })
}

/// All chunks of a table, in the order of transactions.
pub fn open_chunks(store: store::Store, org: &Id) -> crate::pg::Result<Chunks> {
    fold::open(store, org, None, None)
}

/// Where heads are kept.
fn heads_table() -> pg_sys::Oid {
    store::find(heads::NAME).unwrap_or_else(|| store::missing(heads::NAME))
}

fn leaves_table() -> pg_sys::Oid {
    store::find(leaves::NAME).unwrap_or_else(|| store::missing(leaves::NAME))
}

/// One sealer at a time for an organization. So many locks there are at most, for thousands of organizations in one
/// transaction: two that share one wait for each other.
fn lock(org: &Id, wait: bool) -> bool {
    const LOCKS: u32 = 1024;
    let [a, b, c, d, ..] = *org;
    let number = 1 + u32::from_be_bytes([a, b, c, d]) % LOCKS;
    horizon::lock(heads_table(), number, wait)
}
