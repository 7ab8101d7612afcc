//! Where an organization's log lives: a table of its own up to tenancy.dedicated_audit_limit, else one table a month
//! shared with the others.
//!
//! A plain table without a partitioned parent: with 5,000 partitions a read took 160 ms and 10,003 locks (measured).
//! Plain also means that the tables are no members of the extension: pg_dump carries them and DROP EXTENSION leaves them.

use crate::context::authority::{self, Id};
use crate::context::settings::DEDICATED_AUDIT_LIMIT;
use crate::pg::query::{Arg, execute, latest, run};
use crate::pg::{catalog, fail, identity, transaction};
use pgrx::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;

/// Columns of every audit table, in the order in which `capture` fills them.
pub const COLUMNS: &str = "at timestamptz NOT NULL, org_id uuid NOT NULL, actor_id uuid, actor_type text NOT NULL, \
    approver_id uuid, db_role name NOT NULL, operation text NOT NULL, object text NOT NULL, key jsonb, old jsonb, \
    new jsonb, result text NOT NULL, client_addr inet, request_id text, xid xid8 NOT NULL, n integer NOT NULL, \
    break_glass boolean NOT NULL";

thread_local! {
    // Object ids found in this transaction.
    static FOUND: RefCell<HashMap<String, pg_sys::Oid>> = RefCell::default();
}

pub fn forget() {
    FOUND.take();
}

/// The name of an organization's own table.
pub fn dedicated_name(org: &Id) -> String {
    format!("org_{}", uuid::Uuid::from_bytes(*org).simple())
}

/// The name of the shared table of a month (UTC).
fn shared_name(offset: i32) -> String {
    run(
        "SELECT 'shared_' OPERATOR(pg_catalog.||) pg_catalog.to_char(
                    pg_catalog.timezone('UTC', pg_catalog.now()) OPERATOR(pg_catalog.+)
                    pg_catalog.make_interval(months => CASE WHEN $1 THEN 1 ELSE 0 END), 'YYYY_MM')",
        &[Arg::Flag(offset > 0)],
        |row| row.get::<String>(1),
    )
    .pop()
    .flatten()
    .unwrap_or_default()
}

/// Whether one more organization gets a table of its own.
pub fn has_room_for_dedicated() -> bool {
    let limit = i64::from(DEDICATED_AUDIT_LIMIT.get());
    let dedicated = run(
        "SELECT pg_catalog.count(*) FROM tenancy.orgs WHERE audit_store OPERATOR(pg_catalog.=) 'dedicated'",
        &[],
        |row| row.get::<i64>(1),
    );
    dedicated.first().copied().flatten().unwrap_or(0) < limit
}

/// The schema, made when the first organization needs it and not by CREATE EXTENSION, so that it is no member.
fn ensure_schema() {
    let owner = catalog::house().owner;
    match run(
        "SELECT nspowner FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.=) 'tenancy_audit'",
        &[],
        |row| row.get::<pg_sys::Oid>(1),
    )
    .pop()
    .flatten()
    {
        Some(found) if found == owner || identity::is_superuser(found) => {}
        Some(_) => {
            fail(
                PgSqlErrorCode::ERRCODE_DUPLICATE_SCHEMA,
                "schema tenancy_audit exists and belongs to somebody else",
            )
            .set_detail("The audit logs of the organizations are kept there, out of everybody's reach.")
            .set_hint("Rename or drop that schema.")
            .report(PgLogLevel::ERROR);
        }
        None => {
            execute("CREATE SCHEMA IF NOT EXISTS tenancy_audit", &[]);
            execute(
                "COMMENT ON SCHEMA tenancy_audit IS 'Audit logs of pg_tenancy, a table per organization; read through tenancy.audit_log'",
                &[],
            );
        }
    }
}

fn create(name: &str, org: Option<&Id>) {
    let table = pgrx::spi::quote_qualified_identifier("tenancy_audit", name);
    let whose = match org {
        Some(org) => format!(
            ", CHECK (org_id = '{}')",
            uuid::Uuid::from_bytes(*org).hyphenated()
        ),
        None => String::new(),
    };
    // Rows arrive in the order of time, so an index of block ranges finds them and costs the writer nothing; a btree
    // took a tenth of an audited bulk insert (measured).
    let index = if org.is_some() {
        "USING brin (at) WITH (autosummarize = on)"
    } else {
        "(org_id, at)"
    };
    for statement in [
        format!("CREATE TABLE {table} ({COLUMNS}{whose})"),
        format!("CREATE INDEX ON {table} {index}"),
        // A role that may read all data (pg_read_all_data) reads no audit: no policy lets it.
        format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"),
        format!(
            "CREATE TRIGGER tenancy_append_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table} \
             FOR EACH STATEMENT EXECUTE FUNCTION tenancy.guard_audit()"
        ),
        format!("ALTER TABLE {table} ENABLE ALWAYS TRIGGER tenancy_append_only"),
    ] {
        execute(&statement, &[]);
    }
}

/// Makes the table a new organization's log goes to.
pub fn make_store(org: &Id, dedicated: bool) {
    ensure_schema();
    if dedicated {
        create(&dedicated_name(org), Some(org));
    } else {
        for offset in [0, 1] {
            ensure_shared(&shared_name(offset));
        }
    }
}

/// Makes a month's table if it is not there; one session makes it, others wait for the lock and find it.
fn ensure_shared(name: &str) {
    if find(name).is_some() {
        return;
    }
    // An arbitrary number of ours: "tenaudit" in ASCII.
    execute(
        "SELECT pg_catalog.pg_advisory_xact_lock(8386668350871300468)",
        &[],
    );
    let there = latest(
        "SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname OPERATOR(pg_catalog.=) 'tenancy_audit'
           AND tablename OPERATOR(pg_catalog.=) $1::pg_catalog.name",
        &[Arg::Name(name)],
        |_| (),
    );
    if there.is_empty() {
        create(name, None);
    }
}

fn find(name: &str) -> Option<pg_sys::Oid> {
    if let Some(oid) = FOUND.with_borrow(|f| f.get(name).copied()) {
        return Some(oid);
    }
    let schema = catalog::namespace(c"tenancy_audit")?;
    let oid = catalog::relation_in(schema, &CString::new(name).ok()?)?;
    FOUND.with_borrow_mut(|f| f.insert(name.to_string(), oid));
    Some(oid)
}

/// The table that an organization's next row goes to.
pub fn table_for(org: &Id) -> pg_sys::Oid {
    let dedicated = authority::org_by_id(org).is_some_and(|o| o.dedicated_audit);
    let name = if dedicated {
        dedicated_name(org)
    } else {
        current_shared()
    };
    find(&name).unwrap_or_else(|| {
        fail(
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            format!("audit table tenancy_audit.{name} is missing"),
        )
        .set_detail("Nothing is written for the organization without its log.")
        .set_hint("Restore the table from a backup, or ask who dropped it.")
        .report(PgLogLevel::ERROR);
        unreachable!()
    })
}

fn current_shared() -> String {
    thread_local! {
        static MONTH: RefCell<Option<(i64, String)>> = const { RefCell::new(None) };
    }
    // The name is computed anew when the transaction's day changes; a day is 86,400,000,000 microseconds.
    let day = transaction::start().div_euclid(86_400_000_000);
    if let Some(name) = MONTH.with_borrow(|m| {
        m.as_ref()
            .filter(|(d, _)| *d == day)
            .map(|(_, n)| n.clone())
    }) {
        if find(&name).is_none() {
            ensure_schema();
            ensure_shared(&name);
        }
        return name;
    }
    let name = shared_name(0);
    ensure_schema();
    ensure_shared(&name);
    MONTH.set(Some((day, name.clone())));
    name
}

/// Every table that may hold rows of an organization, oldest month first.
pub fn tables_of(org: &Id) -> Vec<String> {
    run(
        "SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_class AS c
              JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE n.nspname OPERATOR(pg_catalog.=) 'tenancy_audit' AND c.relkind OPERATOR(pg_catalog.=) 'r'
           AND (c.relname OPERATOR(pg_catalog.=) $1::pg_catalog.name OR c.relname OPERATOR(pg_catalog.~~) 'shared\\_%')
         ORDER BY c.relname",
        &[Arg::Name(&dedicated_name(org))],
        |row| row.get::<String>(1),
    )
    .into_iter()
    .flatten()
    .collect()
}

/// Lets the tables stand without the extension: their trigger goes, their rows stay.
pub fn release_stores() {
    let tables = run(
        "SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_trigger AS t
              JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid
              JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE n.nspname OPERATOR(pg_catalog.=) 'tenancy_audit' AND t.tgname OPERATOR(pg_catalog.=) 'tenancy_append_only'",
        &[],
        |row| row.get::<String>(1),
    );
    for name in tables.into_iter().flatten() {
        let table = pgrx::spi::quote_qualified_identifier("tenancy_audit", name.as_str());
        execute(&format!("DROP TRIGGER tenancy_append_only ON {table}"), &[]);
    }
}
