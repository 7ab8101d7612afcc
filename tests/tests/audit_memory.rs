//! A statement of any size is audited in memory that does not grow with its lines: they are stored as their chunks fill.
//! What does grow is PostgreSQL's own queue of row triggers, 12 bytes for an inserted row and 16 to 20 for an updated one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use pg_tenancy_tests::{Session, World};

/// What a row may cost: less than a third of the shortest line.
const BYTES_A_ROW: u64 = 24;
/// What may differ from one run to the next.
const SLACK: u64 = 4 << 20;

/// The private memory of a process, in bytes.
fn private_memory(pid: i64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|l| l.starts_with("RssAnon:"));
    let kilobytes = line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok());
    kilobytes.expect("kilobytes") << 10
}

/// By how much the backend's memory grows while it runs a statement, at its peak.
fn growth(session: &mut Session, sql: &str) -> u64 {
    let pid = session.count("SELECT pg_backend_pid()::bigint");
    let before = private_memory(pid);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = before;
            while !done.load(Ordering::Relaxed) {
                peak = peak.max(private_memory(pid));
                thread::sleep(Duration::from_millis(2));
            }
            peak
        });
        session.run(sql);
        done.store(true, Ordering::Relaxed);
        watch.join().expect("it does not panic") - before
    })
}

fn table(world: &World, name: &str) {
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE TABLE {name} (id bigint PRIMARY KEY, org_id uuid, a text, b text); GRANT ALL ON {name} TO PUBLIC;
         SELECT tenancy.protect('{name}')"
    ));
}

fn insert(name: &str, rows: u64) -> String {
    format!(
        "INSERT INTO {name} (id, a, b) SELECT n, repeat('a', 60), md5(n::text) FROM generate_series(1, {rows}) n"
    )
}

/// Of a table with few rows and one with many: how much more memory the many may have taken.
fn assert_bounded(few: u64, many: u64, more_rows: u64) {
    let allowed = few + more_rows * BYTES_A_ROW + SLACK;
    assert!(
        many <= allowed,
        "few rows took {few} bytes, {more_rows} more took {many}: {allowed} are allowed"
    );
}

#[test]
fn a_large_insert_is_audited_in_bounded_memory() {
    let world = World::new();
    let tables = [("few", 20_000), ("many", 300_000)];
    let [few, many] = tables.map(|(name, rows)| {
        table(&world, name);
        let mut session = world.session("acme.owner");
        // Plans, caches, the first chunk.
        session.run(&format!("INSERT INTO {name} (id) VALUES (0)"));
        let grown = growth(&mut session, &insert(name, rows));
        let lines = format!("SELECT count(*) FROM tenancy.read_audit(object => 'public.{name}')");
        assert_eq!(session.count(&lines).cast_unsigned(), rows + 1);
        grown
    });
    assert_bounded(few, many, tables[1].1 - tables[0].1);
}

#[test]
fn a_large_update_of_many_organizations_is_audited_in_bounded_memory() {
    let world = World::new();
    let owner = world.user("acme.owner");
    world.superuser().run(&format!(
        "SELECT tenancy.create_org('O ' || n, 'o-' || n, owner => '{owner}') FROM generate_series(1, 20) n"
    ));
    let tables = [("few", 20_000), ("many", 200_000)];
    let [few, many] = tables.map(|(name, rows)| {
        table(&world, name);
        world.break_glass().run(&format!(
            "INSERT INTO {name} SELECT n, o.ids[1 + n % cardinality(o.ids)], repeat('a', 60), md5(n::text)
             FROM generate_series(1, {rows}) n, (SELECT array_agg(id) AS ids FROM tenancy.orgs) o"
        ));
        let mut session = world.break_glass();
        session.run(&format!("UPDATE {name} SET a = 'w' WHERE id = 1"));
        growth(
            &mut session,
            &format!("UPDATE {name} SET a = repeat('c', 50), b = b || '!'"),
        )
    });
    assert_bounded(few, many, tables[1].1 - tables[0].1);
}
