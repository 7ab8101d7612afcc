//! Quotas follow their tables: one that is dropped, renamed, or whose rows came or went as a whole.

use crate::pg::query::{Arg, execute, latest, run};
use pgrx::prelude::*;

/// Removes counters of quotas that were never committed, and those of metrics' past periods. Nobody writes to either
/// while the locks are held.
pub(super) fn sweep() {
    execute(
        "LOCK TABLE tenancy.usage_records IN SHARE ROW EXCLUSIVE MODE",
        &[],
    );
    execute(
        "DELETE FROM tenancy.quota_counters AS c
         WHERE NOT EXISTS (SELECT FROM tenancy.quota_limits AS q
                           WHERE q.id OPERATOR(pg_catalog.=) c.quota_id AND q.table_name IS NOT NULL)",
        &[],
    );
}

/// The table is gone: its quotas go with it.
pub fn after_drop() {
    let gone = latest(
        "SELECT 1 FROM tenancy.quota_limits AS q
         WHERE q.table_name IS NOT NULL
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) q.table_name::pg_catalog.oid)
         LIMIT 1",
        &[],
        |_| (),
    );
    if !gone.is_empty() {
        execute(
            "DELETE FROM tenancy.quota_limits AS q
             WHERE q.table_name IS NOT NULL
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) q.table_name::pg_catalog.oid)",
            &[],
        );
    }
}

/// After ALTER TABLE: a partition or child was attached or detached, perhaps.
pub fn after_ddl() {
    if !super::quota::any() {
        return;
    }
    let touched = run(
        "SELECT DISTINCT c.objid FROM pg_catalog.pg_event_trigger_ddl_commands() AS c
              JOIN pg_catalog.pg_inherits AS i
                ON i.inhparent OPERATOR(pg_catalog.=) c.objid OR i.inhrelid OPERATOR(pg_catalog.=) c.objid
         WHERE c.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
           AND c.command_tag OPERATOR(pg_catalog.=) 'ALTER TABLE'",
        &[],
        |row| row.get::<pg_sys::Oid>(1),
    );
    touched.into_iter().flatten().for_each(after_moving);
}

/// Rows came to a table, or left it, past the triggers: the counters of its quotas, and of what it is a part of, are
/// begun anew by whoever writes next. Its writers are kept out until the transaction ends.
pub fn after_moving(relid: pg_sys::Oid) {
    if !super::quota::is_under(relid) {
        return;
    }
    let quotas = latest(
        "WITH RECURSIVE above AS (
             SELECT $1::pg_catalog.oid AS id
             UNION SELECT i.inhparent FROM pg_catalog.pg_inherits AS i
                   JOIN above AS a ON i.inhrelid OPERATOR(pg_catalog.=) a.id)
         SELECT DISTINCT q.table_name::pg_catalog.oid FROM tenancy.quota_limits AS q
              JOIN above AS a ON a.id OPERATOR(pg_catalog.=) q.table_name::pg_catalog.oid",
        &[Arg::Oid(relid)],
        |row| row.get::<pg_sys::Oid>(1),
    );
    quotas.into_iter().flatten().for_each(begin_anew);
}

/// Has the counters of a table's quotas begun anew, where it has some: by the next writer. The old ones stay for who rolls
/// this back.
pub fn begin_anew(table: pg_sys::Oid) {
    if !super::quota::is_under(table) {
        return;
    }
    super::quotas::Resource::Table(table).lock();
    execute(
        "UPDATE tenancy.quota_limits SET id = pg_catalog.gen_random_uuid()
         WHERE table_name::pg_catalog.oid OPERATOR(pg_catalog.=) $1",
        &[Arg::Oid(table)],
    );
}
