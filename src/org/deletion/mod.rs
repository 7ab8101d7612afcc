//! The end of an organization (spec 3.9). delete_org() marks it: from then on nobody enters it, as if it had never been. The
//! rows go afterwards, some in each transaction, by whoever calls finish_deletion() or continue_deletion(); what is left to
//! do stands in the tables, so a crash costs no more than the transaction that it met. A tombstone remains, and the log.

mod order;
mod sweep;
mod tables;

use super::owner_alone::lock_as_owner;
use super::{id_text, invalid};
use crate::audit::{self, Act};
use crate::context::authority::{self, Id};
use crate::context::{self, Principal, deletion};
use crate::pg::query::{Arg, execute, latest, run};
use crate::pg::{self, fail, horizon, procedure, process, transaction};
use pgrx::datum::Uuid;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;
use serde_json::json;
use sweep::{Removed, Sweep};

/// Deletes an organization (spec 3.9): from the commit on no session is in it or enters it, and the answer is that of an
/// organization that does not exist. Its rows in all protected tables, its members and whatever hangs on them are removed
/// by finish_deletion() or continue_deletion(), which cannot be undone.
///
/// `org`: the organization. `confirm`: its name, typed as it is. For its owner alone (or the DBA); it is no grantable right.
/// Errors, before anything is changed: 42501 not the owner, unknown organization, or suspended; 22023 another name; 55000
/// the audit log is under legal hold, or foreign keys of several owners' tables hold each other; 23503 a table that is not protected refers to rows.
#[pg_extern(volatile, parallel_unsafe)]
fn delete_org(org: Option<Uuid>, confirm: Option<&str>) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let confirm = pg::given(confirm, "confirm")?;
    let org = org.as_bytes();
    let known = context::known_org(org)?;
    context::no_ai("delete an organization")?;
    lock_as_owner(org, "delete the organization")?;
    let now = context::standing();
    if confirm != known.name {
        return Err(invalid(
            "the organization's name is not what was typed",
            "Deletion cannot be undone, so confirm must be the organization's name, letter by letter.",
            "SELECT name FROM tenancy.orgs shows it. Nothing was changed.",
        ));
    }
    audit::require_no_hold(org, "lost")?;
    let plan = tables::plan()?;
    tables::require_no_outsider(known.keys())?;
    execute(
        "UPDATE tenancy.orgs SET deleting_at = pg_catalog.clock_timestamp() WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(org)],
    );
    execute(
        "INSERT INTO tenancy.tombstones (org_id, slug, external_key, audit_store, created_at, deleted_at, deleted_by, deleted_login)
         SELECT id, slug, external_key, audit_store, created_at, deleting_at, $2::pg_catalog.uuid, $3::pg_catalog.name
         FROM tenancy.orgs WHERE id OPERATOR(pg_catalog.=) $1",
        &[
            Arg::Uuid(org),
            Arg::OptionalText(now.user.map(|user| id_text(&user)).as_deref()),
            Arg::Name(&context::login()),
        ],
    );
    record(org, "delete_org", json!({ "tables": plan.nodes.len() }));
    Ok(())
}

fn record(org: &Id, operation: &str, new: serde_json::Value) {
    audit::record(&Act {
        org: *org,
        operation,
        object: "tenancy.orgs",
        key: json!({ "id": id_text(org) }),
        old: None,
        new: Some(new),
    });
}

/// What is known of a deletion that was begun.
struct Tombstone {
    barrier: Option<u64>,
    cluster: Option<i64>,
    finished: bool,
    sealed: bool,
    deleted_by: Option<Id>,
    removed: Removed,
}

/// The tombstone, locked: of two that work on one deletion the second waits for the first one's transaction.
fn tombstone(org: &Id) -> pg::Result<Tombstone> {
    run(
        "SELECT barrier::pg_catalog.text, cluster, finished_at IS NOT NULL, audit_head IS NOT NULL, deleted_by,
                removed::pg_catalog.text
         FROM tenancy.tombstones WHERE org_id OPERATOR(pg_catalog.=) $1 FOR UPDATE",
        &[Arg::Uuid(org)],
        |row| Tombstone {
            barrier: row.get::<String>(1).and_then(|xid| xid.parse().ok()),
            cluster: row.get(2),
            finished: row.get(3).unwrap_or_default(),
            sealed: row.get(4).unwrap_or_default(),
            deleted_by: row.uuid(5),
            removed: serde_json::from_str(&row.get::<String>(6).unwrap_or_default()).unwrap_or_default(),
        },
    )
    .pop()
    .filter(|tombstone| may_finish(tombstone.deleted_by))
    .ok_or_else(|| context::stranger(org))
}

/// What was decided is carried out by the DBA, by who decided it, and by the application's jobs.
fn may_finish(deleted_by: Option<Id>) -> bool {
    let now = context::standing();
    context::is_administrator()
        || (deleted_by.is_some() && deleted_by == now.user)
        || matches!(now.principal, Principal::Application { .. })
}

/// How far a step came.
struct Progress {
    finished: bool,
    sealed: bool,
    removed: u64,
    /// Nothing is left to remove, and somebody may yet add something.
    waiting: bool,
}

/// One step of a deletion: half a second's work at most, where keys do not force more, in the caller's transaction.
fn step(org: &Id, most: u64) -> pg::Result<Progress> {
    if !transaction::is_read_committed() {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            "an organization's rows are removed under READ COMMITTED",
        )
        .set_detail("Under an older snapshot rows that others committed last would be missed.")
        .set_hint("Call it outside of a transaction block, or SET TRANSACTION ISOLATION LEVEL READ COMMITTED first."));
    }
    let mut tombstone = tombstone(org)?;
    if tombstone.finished {
        return seal(org, &tombstone);
    }
    require_marked_before(org)?;
    let doomed = authority::org_in_any_state(org).ok_or_else(|| context::stranger(org))?;
    let settled = is_settled(org, &tombstone);
    let plan = tables::plan()?;
    let keys = doomed.keys();
    let (ended, found, removed) = deletion::within(org, || Sweep::new(keys, &plan, most).run());
    let rows = removed.values().sum();
    for (table, rows) in removed {
        *tombstone.removed.entry(table).or_default() += rows;
    }
    let counts = json!(tombstone.removed);
    execute(
        "UPDATE tenancy.tombstones SET removed = $2::pg_catalog.jsonb WHERE org_id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(org), Arg::Text(&counts.to_string())],
    );
    let nothing_left = ended && !found && remove_own(org, most);
    let finished = nothing_left && settled;
    if finished {
        sweep::require_none_left(keys, &plan)?;
        record(org, "finish_deletion", json!({ "removed": counts }));
        // Takes along whatever of ours hangs on it.
        execute(
            "DELETE FROM tenancy.orgs WHERE id OPERATOR(pg_catalog.=) $1",
            &[Arg::Uuid(org)],
        );
        execute(
            "UPDATE tenancy.tombstones SET finished_at = pg_catalog.clock_timestamp()
             WHERE org_id OPERATOR(pg_catalog.=) $1",
            &[Arg::Uuid(org)],
        );
    }
    Ok(Progress {
        finished,
        sealed: false,
        removed: rows,
        waiting: nothing_left && !settled,
    })
}

/// Until the mark is committed others go on writing.
fn require_marked_before(org: &Id) -> pg::Result<()> {
    let writer = latest(
        "SELECT xmin::pg_catalog.text::pg_catalog.int8 FROM tenancy.orgs WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(org)],
        |row| row.get::<i64>(1),
    );
    let mine = run(
        "SELECT xmin::pg_catalog.text::pg_catalog.int8 FROM tenancy.orgs WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(org)],
        |row| row.get::<i64>(1),
    );
    let by_us = |xid: &Option<i64>| xid.is_some_and(|xid| transaction::is_current(xid as u32));
    if writer.iter().chain(&mine).any(by_us) {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            "the deletion of this organization was begun in this transaction",
        )
        .set_detail("The others do not know of it before the commit, and may be writing rows.")
        .set_hint("COMMIT first."));
    }
    Ok(())
}

/// Whether everybody who may have written a row before he heard of the deletion is done. A row counts only once its
/// statement's last check has passed, and its transaction had a number by then: so the ones below the number that was next
/// when everybody could hear are waited for, as the sealer of the audit does.
fn is_settled(org: &Id, tombstone: &Tombstone) -> bool {
    let here = tombstone.cluster == Some(horizon::cluster());
    let barrier = tombstone.barrier.filter(|_| here).unwrap_or_else(|| {
        let next = horizon::next_id();
        execute(
            "UPDATE tenancy.tombstones SET barrier = $2, cluster = $3::pg_catalog.int8
             WHERE org_id OPERATOR(pg_catalog.=) $1",
            &[
                Arg::Uuid(org),
                Arg::Xid(next),
                Arg::Text(&horizon::cluster().to_string()),
            ],
        );
        next
    });
    horizon::is_past(barrier)
}

/// Members, invitations and whatever else of ours is the organization's, some rows of each table; whether none was left.
/// The owner's membership goes with the organization.
fn remove_own(org: &Id, most: u64) -> bool {
    let most = i32::try_from(most.min(2_000)).unwrap_or(2_000);
    let mut removed = 0;
    for (table, column) in tables::own() {
        let but = match table.as_str() {
            "tenancy.memberships" => "AND role OPERATOR(pg_catalog.<>) 'owner'",
            _ => "",
        };
        removed += execute(
            &format!(
                "DELETE FROM {table} WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY(
                     SELECT ctid FROM {table} WHERE {column} OPERATOR(pg_catalog.=) $1 {but} LIMIT $2))"
            ),
            &[Arg::Uuid(org), Arg::Int(most)],
        );
    }
    removed == 0
}

/// Seals the log of an organization that is gone, and keeps its last head, once all of it is sealed.
fn seal(org: &Id, tombstone: &Tombstone) -> pg::Result<Progress> {
    let mut sealed = tombstone.sealed;
    if !sealed && let Some(head) = audit::seal::seal_wholly(org)? {
        execute(
            "UPDATE tenancy.tombstones SET audit_head = $2 WHERE org_id OPERATOR(pg_catalog.=) $1",
            &[Arg::Uuid(org), Arg::Text(&head)],
        );
        sealed = true;
    }
    Ok(Progress {
        finished: true,
        sealed,
        removed: 0,
        waiting: false,
    })
}

fn batch(rows: Option<i32>) -> pg::Result<u64> {
    let rows = pg::given(rows, "batch_rows")?;
    u64::try_from(rows).ok().filter(|n| *n > 0).ok_or_else(|| {
        invalid(
            format!("batch_rows is {rows}"),
            "So many rows are removed by one statement at most.",
            "Some thousand are a good number.",
        )
    })
}

/// Goes on with the deletion of an organization for less than a second (spec 3.9), in the caller's transaction. Call it,
/// each time in a transaction of its own, until it answers finished: a job that may not run long does so.
///
/// `org`: the organization that delete_org() was called for. `batch_rows`: so many rows are removed by one statement at
/// most. Answers whether the organization is gone, how many rows were removed now, and what is waited for if nothing is left
/// to remove: transactions that were writing when the deletion was begun. Tables are emptied in the order of their foreign
/// keys; the tables' triggers run, in that organization. For the DBA, trusted applications, and whoever called delete_org().
/// Errors: 42501 no such deletion, 25001 begun in this transaction, or not READ COMMITTED; 55000 rows that a trigger keeps;
/// 23503 references of tables that are not protected.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
fn continue_deletion(
    org: Option<Uuid>,
    batch_rows: default!(Option<i32>, "10000"),
) -> pg::Result<
    TableIterator<
        'static,
        (
            name!(finished, bool),
            name!(removed, i64),
            name!(waiting_for, Option<String>),
        ),
    >,
> {
    let org = pg::given(org, "org")?;
    context::no_ai("carry out a deletion")?;
    let step = step(org.as_bytes(), batch(batch_rows)?)?;
    let waiting = step
        .waiting
        .then(|| "transactions that were writing when the deletion was begun".to_string());
    Ok(TableIterator::once((
        step.finished,
        step.removed.cast_signed(),
        waiting,
    )))
}

/// Carries the deletion of an organization out (spec 3.9): removes its rows in all protected tables, then the organization,
/// and seals its log. Called outside of a transaction block it commits after every half second's work and goes on where it
/// was when it is called again, after a crash too; inside of one it does everything in that transaction. It waits for
/// transactions that were writing when the deletion was begun.
///
/// `org`: the organization that delete_org() was called for; NULL: all that wait. `batch_rows`: so many rows are removed by
/// one statement at most. For whom and with which errors: as continue_deletion().
#[pg_extern(sql = r#"
CREATE PROCEDURE finish_deletion(org uuid DEFAULT NULL, batch_rows integer DEFAULT 10000)
LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn finish_deletion(
    org: Option<Uuid>,
    batch_rows: Option<i32>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg::Result<()> {
    let most = batch(batch_rows)?;
    context::no_ai("carry out a deletion")?;
    let orgs = match org {
        Some(org) => vec![*org.as_bytes()],
        None => waiting(),
    };
    // SAFETY: the call that is being answered.
    let mut commits = unsafe { procedure::begin(fcinfo) };
    for org in orgs {
        // The log's last lines can be sealed when older transactions have ended; the sealer does it later otherwise.
        let mut patience = 20;
        loop {
            let step = step(&org, most)?;
            commits.commit();
            if step.sealed || (step.finished && patience == 0) {
                break;
            }
            if step.finished {
                patience -= 1;
            }
            if step.waiting || step.finished {
                process::pause(20);
            }
        }
    }
    commits.end();
    Ok(())
}

/// The deletions that are not carried out yet and that the caller may carry out.
fn waiting() -> Vec<Id> {
    latest(
        "SELECT org_id, deleted_by FROM tenancy.tombstones WHERE audit_head IS NULL ORDER BY deleted_at",
        &[],
        |row| (row.uuid(1), row.uuid(2)),
    )
    .into_iter()
    .filter(|(_, deleted_by)| may_finish(*deleted_by))
    .filter_map(|(org, _)| org)
    .collect()
}

/// Whether a slug or an external key was a deleted organization's: neither is ever another's, so that no link and no claim
/// that somebody kept leads into it.
pub fn was_anothers(slug: Option<&str>, external_key: Option<&str>) -> bool {
    !latest(
        "SELECT 1 FROM tenancy.tombstones
         WHERE slug OPERATOR(pg_catalog.=) $1 OR external_key OPERATOR(pg_catalog.=) $2 LIMIT 1",
        &[Arg::OptionalText(slug), Arg::OptionalText(external_key)],
        |_| (),
    )
    .is_empty()
}

/// What remains of deleted organizations (spec 3.9), also of those that are being deleted, newest first. `removed`: how many
/// rows went, by table. `audit_head`: the last seal of its log, which stays and is read by read_audit_dba() and
/// verify_audit(). For the DBA. Errors: 42501 not the DBA.
#[pg_extern(stable, parallel_unsafe)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
fn list_tombstones() -> pg::Result<
    TableIterator<
        'static,
        (
            name!(org_id, Uuid),
            name!(slug, String),
            name!(external_key, Option<String>),
            name!(created_at, Option<TimestampWithTimeZone>),
            name!(deleted_at, Option<TimestampWithTimeZone>),
            name!(deleted_by, Option<Uuid>),
            name!(removed, pgrx::JsonB),
            name!(finished_at, Option<TimestampWithTimeZone>),
            name!(audit_head, Option<String>),
        ),
    >,
> {
    super::require_administrator("list deleted organizations")?;
    let rows = latest(
        "SELECT org_id, slug, external_key, created_at, deleted_at, deleted_by, removed, finished_at, audit_head
         FROM tenancy.tombstones ORDER BY deleted_at DESC, org_id",
        &[],
        |row| {
            let time = |n| row.get::<TimestampWithTimeZone>(n);
            (
                Uuid::from_bytes(row.uuid(1).unwrap_or_default()),
                row.get::<String>(2).unwrap_or_default(),
                row.get::<String>(3),
                time(4),
                time(5),
                row.uuid(6).map(Uuid::from_bytes),
                row.get::<pgrx::JsonB>(7).unwrap_or(pgrx::JsonB(json!({}))),
                time(8),
                row.get::<String>(9),
            )
        },
    );
    Ok(TableIterator::new(rows))
}
