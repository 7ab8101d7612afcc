//! Erasing what the log holds of one row, such as a person's: the values of its lines go; that there were lines, of whom
//! and when, stays, and so does every proof.

use super::capture::{Act, record};
use super::chunk;
use super::history::{About, object};
use super::read::{for_each_chunk, may, require_primary};
use super::retention::require_no_hold;
use super::seal;
use crate::pg::json::Document;
use crate::pg::{self, fail, heap, raw};
use pg_tenancy_audit_format::erase::erase;
use pg_tenancy_audit_format::{Moment, iso_time};
use pgrx::prelude::*;
use serde_json::{Value as Json, json};
use std::collections::HashSet;

/// So many lines are named by one act.
const NAMED: usize = 1000;

/// Erases the values of every line of the current organization's log about a table's row, those that other lines tell of
/// its later and earlier keys excepted (spec 6.5): key, old and new values. Actor, time, table and operation stay, and
/// every hash and proof with them. Answers how many lines were erased.
///
/// `table_name`, `key`: as for history(). `reason`: kept in the log, with the times of the lines; not the key, which may be
/// what was to be erased. The values leave the disk with the next VACUUM of the table in tenancy_audit, and backups when
/// they expire. The row itself is deleted by DELETE, first: its last line is then erased too. Needs org:delete.
/// Errors: 42501 no organization or no right, 55000 under legal hold, 25006 on a standby, 22023 no reason, XX001 the log was
/// damaged.
#[pg_extern(volatile, parallel_unsafe)]
fn erase_audit(
    table_name: Option<&str>,
    key: Option<Document>,
    reason: Option<&str>,
) -> pg::Result<i64> {
    let table = object(pg::given(table_name, "table_name")?);
    let key = pg::given(key, "key")?.0;
    let reason = pg::given(reason, "reason")?.trim();
    if reason.is_empty() {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "erasing from an audit log needs a reason",
        )
        .set_detail("Nothing was erased.")
        .set_hint("Such as reason => 'request 2026-17 of the data subject'."));
    }
    let org = may("org:delete", "erase values from an audit log")?;
    require_primary()?;
    // A hold that comes now waits, and one that came meanwhile counts.
    seal::retention::lock(&org);
    require_no_hold(&org, "erased")?;
    let mut about = About::new(Some(key));
    let mut erased: Vec<Moment> = vec![];
    let mut emptied = HashSet::new();
    for_each_chunk(&org, |table_id, row, chunk| {
        let mut here = vec![];
        while chunk.next()? {
            let line = chunk.line();
            let of_table = chunk.layout().1.format.object == table;
            if of_table
                && !chunk.is_erased()
                && !chunk.is_truncate()
                && about.concerns(chunk)?.is_some()
            {
                here.push(line.moment);
            }
        }
        if here.is_empty() {
            return Ok(());
        }
        let (first, lines) = chunk.identity();
        let payload = erase(chunk.payload(), first, lines, chunk.contexts(), |line| {
            here.contains(&line.moment)
        });
        if let Some(payload) = payload.map_err(|what| chunk.damaged(what))? {
            let mut bytes = vec![0; raw::HEADER];
            bytes.extend_from_slice(&payload);
            let value = raw::with_header(&mut bytes);
            emptied.insert(first.at);
            heap::rewrite(table_id, &chunk::TYPES, row, chunk::PAYLOAD, value);
            erased.append(&mut here);
        }
        Ok(())
    })?;
    seal::index::forget_keys(&org, &emptied);
    for some in erased.chunks(NAMED) {
        let lines: Vec<Json> = some
            .iter()
            // An id of 64 bits is a text in JSON.
            .map(|m| json!({ "at": iso_time(m.at), "xid": m.xid.to_string(), "n": m.n }))
            .collect();
        record(&Act {
            org,
            operation: "erase_audit",
            object: &table,
            key: json!({}),
            old: None,
            new: Some(json!({ "reason": reason, "lines": lines })),
        });
    }
    Ok(erased.len() as i64)
}
