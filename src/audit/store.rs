//! Where an organization's log lives: a table of its own up to tenancy.dedicated_audit_limit, else one table a month
//! shared with the others.
//!
//! A plain table without a partitioned parent: with 5,000 partitions a read took 160 ms and 10,003 locks (measured).
//! Plain also means that the tables are no members of the extension: pg_dump carries them and DROP EXTENSION leaves them.

use super::{chunk, layouts, seal};
use crate::context::authority::{self, Id};
use crate::context::settings::DEDICATED_AUDIT_LIMIT;
use crate::pg::error::server_log;
use crate::pg::query::{Arg, execute, latest, run};
use crate::pg::{catalog, fail, gather, heap, identity, transaction};
use pgrx::prelude::*;
use pgrx::spi::quote_qualified_identifier;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ffi::CString;

#[derive(Default)]
struct Found {
    tables: HashMap<String, pg_sys::Oid>,
    /// The one that the last line went to.
    last: Option<Last>,
    layouts: Option<pg_sys::Oid>,
    /// Their ids: what an invalidation is compared with.
    watched: HashSet<pg_sys::Oid>,
    /// Some were made in this transaction, which may yet be rolled back.
    fresh: bool,
}

/// An organization's table, as long as authority stands and the day is the same.
#[derive(Clone, Copy)]
struct Last {
    heard: u64,
    day: i64,
    org: Id,
    table: pg_sys::Oid,
}

thread_local! {
    static FOUND: RefCell<Found> = RefCell::default();
    static STALE: Cell<bool> = const { Cell::new(false) };
}

/// From the invalidation callback: no catalog access, no waiting.
pub fn on_invalidation(relid: pg_sys::Oid) {
    let concerns = relid == pg_sys::InvalidOid
        || FOUND.with(|f| f.try_borrow().map_or(true, |f| f.watched.contains(&relid)));
    if concerns {
        STALE.set(true);
    }
}

pub fn forget() {
    FOUND.with_borrow_mut(|f| {
        *f = Found {
            fresh: f.fresh,
            ..Found::default()
        };
    });
}

pub fn at_transaction_end() {
    if FOUND.with_borrow(|f| f.fresh) {
        FOUND.take();
    }
}

fn with_found<T>(use_it: impl FnOnce(&mut Found) -> T) -> T {
    if STALE.replace(false) {
        forget();
    }
    FOUND.with_borrow_mut(use_it)
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
            lock();
            execute("CREATE SCHEMA IF NOT EXISTS tenancy_audit", &[]);
            execute(
                "COMMENT ON SCHEMA tenancy_audit IS 'Audit logs of pg_tenancy, a table per organization; read through tenancy.audit_log'",
                &[],
            );
        }
    }
}

fn create(name: &str, org: Option<&Id>) {
    let table = quote_qualified_identifier("tenancy_audit", name);
    let columns = chunk::COLUMNS;
    let whose = match org {
        Some(org) => format!(
            ", CHECK (org_id = '{}')",
            uuid::Uuid::from_bytes(*org).hyphenated()
        ),
        None => String::new(),
    };
    // A chunk fills its page as it is. What is larger is one line's, and stored apart, without the work of compressing.
    execute(
        &format!(
            "CREATE TABLE {table} ({columns}{whose}) WITH (toast_tuple_target = {}, vacuum_truncate = off)",
            heap::LARGEST_ROW
        ),
        &[],
    );
    execute(
        &format!("ALTER TABLE {table} ALTER payload SET STORAGE EXTERNAL"),
        &[],
    );
    // What a reader follows: an organization's chunks in the order of time.
    let index = if org.is_some() {
        "(at)"
    } else {
        "(org_id, at)"
    };
    // Times hardly repeat: looking for those that do was a tenth of an entry's cost.
    execute(
        &format!("CREATE INDEX ON {table} {index} WITH (deduplicate_items = off)"),
        &[],
    );
    // What the sealer follows where many share the table. Of an organization's own it reads the pages that are new since
    // it was there last: one more index cost every write a sixth of what its audit does.
    if org.is_none() {
        execute(&format!("CREATE INDEX ON {table} (org_id, xid, n)"), &[]);
    }
    close(&table);
}

/// Nobody but us adds to a table of ours, and nobody changes it.
pub fn close(table: &str) {
    for statement in [
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
    FOUND.with_borrow_mut(|f| f.fresh = true);
}

fn create_layouts() {
    let table = "tenancy_audit.layouts";
    execute(&format!("CREATE TABLE {table} ({})", layouts::COLUMNS), &[]);
    execute(&format!("CREATE INDEX ON {table} (id)"), &[]);
    execute(
        &format!(
            "COMMENT ON TABLE {table} IS 'Columns of audited tables, by which the lines of the logs are read; never shorten it'"
        ),
        &[],
    );
    close(table);
}

/// Makes the table a new organization's log goes to.
pub fn make_store(org: &Id, dedicated: bool) {
    ensure_schema();
    layouts();
    seal::tables();
    if dedicated {
        create(&dedicated_name(org), Some(org));
    } else {
        for offset in [0, 1] {
            ensure(&shared_name(offset), |name| create(name, None));
        }
    }
}

/// The table of column layouts.
pub fn layouts() -> pg_sys::Oid {
    if let Some(known) = with_found(|f| f.layouts) {
        return known;
    }
    ensure("layouts", |_| create_layouts());
    let found = find("layouts").unwrap_or_else(|| missing("layouts"));
    with_found(|f| f.layouts = Some(found));
    found
}

/// Held by the session that makes a table that others may want to make too.
fn lock() {
    // An arbitrary number of ours: "tenaudit" in ASCII.
    execute(
        "SELECT pg_catalog.pg_advisory_xact_lock(8386668350871300468)",
        &[],
    );
}

/// Makes a table if it is not there; one session makes it, others wait for the lock and find it.
pub fn ensure(name: &str, make: impl FnOnce(&str)) {
    if find(name).is_some() {
        return;
    }
    ensure_schema();
    lock();
    let there = latest(
        "SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname OPERATOR(pg_catalog.=) 'tenancy_audit'
           AND tablename OPERATOR(pg_catalog.=) $1::pg_catalog.name",
        &[Arg::Name(name)],
        |_| (),
    );
    if there.is_empty() {
        make(name);
    }
}

pub fn find(name: &str) -> Option<pg_sys::Oid> {
    if let Some(oid) = with_found(|f| f.tables.get(name).copied()) {
        return Some(oid);
    }
    let schema = catalog::namespace(c"tenancy_audit")?;
    let oid = catalog::relation_in(schema, &CString::new(name).ok()?)?;
    with_found(|f| {
        f.tables.insert(name.to_string(), oid);
        f.watched.insert(oid);
    });
    Some(oid)
}

pub fn missing(name: &str) -> ! {
    fail(
        PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
        format!("audit table tenancy_audit.{name} is missing"),
    )
    .set_detail("Nothing is written for the organization without its log.")
    .set_hint("Restore the table from a backup, or ask who dropped it.")
    .report(PgLogLevel::ERROR);
    unreachable!()
}

/// The table that an organization's next chunk goes to.
pub fn table_for(org: &Id) -> pg_sys::Oid {
    let (heard, day) = (authority::heard(), today());
    let last = with_found(|f| f.last);
    if let Some(last) = last.filter(|l| l.heard == heard && l.day == day && l.org == *org) {
        return last.table;
    }
    let dedicated = authority::org_by_id(org).is_some_and(|o| o.dedicated_audit);
    let name = if dedicated {
        dedicated_name(org)
    } else {
        let name = current_shared(day);
        ensure(&name, |name| create(name, None));
        name
    };
    if dedicated {
        // One that came by replication, or by a superuser's hand, has no table yet.
        ensure(&name, |name| {
            create(name, Some(org));
            server_log(
                "audit table made",
                &format!("Organization's table tenancy_audit.{name} was not there."),
            );
        });
    }
    let table = find(&name).unwrap_or_else(|| missing(&name));
    with_found(|f| {
        f.last = Some(Last {
            heard,
            day,
            org: *org,
            table,
        });
    });
    table
}

/// The day on which the transaction began, which has 86,400,000,000 microseconds.
fn today() -> i64 {
    transaction::start().div_euclid(86_400_000_000)
}

/// The name of this month's table; computed anew when the day changes.
fn current_shared(day: i64) -> String {
    thread_local! {
        static MONTH: RefCell<Option<(i64, String)>> = const { RefCell::new(None) };
    }
    let known = MONTH.with_borrow(|m| m.clone().filter(|(d, _)| *d == day));
    let (_, name) = known.unwrap_or_else(|| (day, shared_name(0)));
    MONTH.set(Some((day, name.clone())));
    name
}

/// Every table that may hold chunks of an organization: its own, and each month's.
pub fn tables_of(org: &Id) -> Vec<Store> {
    tables_beside(org, &shared())
}

/// `tables_of` where the shared ones are known.
pub fn tables_beside(org: &Id, shared: &[Store]) -> Vec<Store> {
    let own = find(&dedicated_name(org)).map(|table| Store { table, own: true });
    own.into_iter().chain(shared.iter().copied()).collect()
}

/// The shared tables that hold something.
pub fn shared() -> Vec<Store> {
    latest(
        // The two bounds are what an index on the name finds: there may be ten thousand tables in the schema.
        "SELECT c.oid FROM pg_catalog.pg_class AS c
         WHERE c.relname OPERATOR(pg_catalog.>=) 'shared_'::pg_catalog.name
           AND c.relname OPERATOR(pg_catalog.<) 'shared`'::pg_catalog.name
           AND c.relnamespace OPERATOR(pg_catalog.=)
               (SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname OPERATOR(pg_catalog.=) 'tenancy_audit')
           AND c.relkind OPERATOR(pg_catalog.=) 'r'",
        &[],
        |row| row.get::<pg_sys::Oid>(1),
    )
    .into_iter()
    .flatten()
    .filter(|table| gather::extent(*table).1 > 0)
    .map(|table| Store { table, own: false })
    .collect()
}

/// Drops the shared table of a past month that holds nothing any more, unless somebody uses it now.
pub fn drop_if_empty(table: pg_sys::Oid) {
    let name = run(
        "SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) $1",
        &[Arg::Oid(table)],
        |row| row.get::<String>(1),
    );
    let Some(name) = name.into_iter().flatten().next() else {
        return;
    };
    if name >= current_shared(today()) {
        return;
    }
    let quoted = quote_qualified_identifier("tenancy_audit", name.as_str());
    // A writer of a transaction that began last month may be about to add to it.
    execute(
        &format!("LOCK TABLE {quoted} IN ACCESS EXCLUSIVE MODE"),
        &[],
    );
    if run(&format!("SELECT 1 FROM {quoted} LIMIT 1"), &[], |_| ()).is_empty() {
        execute(&format!("DROP TABLE {quoted}"), &[]);
    }
}

/// A table of chunks: one organization's, or one that it shares.
#[derive(Clone, Copy)]
pub struct Store {
    pub table: pg_sys::Oid,
    pub own: bool,
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
        let table = quote_qualified_identifier("tenancy_audit", name.as_str());
        execute(&format!("DROP TRIGGER tenancy_append_only ON {table}"), &[]);
    }
}
