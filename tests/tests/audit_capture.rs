//! The committed changes, each once, whatever happens around them; and in how much memory.

use pg_tenancy_tests::{Session, World, fails, few_or_many};
use std::sync::{Arc, Barrier};

fn captured(session: &mut Session, table: &str) -> i64 {
    session.count(&format!(
        "SELECT count(*) FROM tenancy.audit_log WHERE object = 'public.{table}'"
    ))
}

#[test]
fn a_statement_that_times_out_or_is_cancelled_leaves_nothing() {
    let world = World::new();
    let mut admin = world.session("acme.admin");
    admin.run("SET statement_timeout = '150ms'");
    let slow = "INSERT INTO sites (id, name) SELECT i, 'acme' || CASE WHEN i = 1800 THEN pg_sleep(5)::text ELSE '' END FROM generate_series(1001, 2000) i";
    fails(admin.attempt(slow), "57014");
    admin.run("BEGIN; UPDATE sites SET visits = 1 WHERE id = 1; SAVEPOINT s");
    fails(admin.attempt(slow), "57014");
    admin.run("ROLLBACK TO s; UPDATE sites SET visits = 2 WHERE id = 2; COMMIT");
    assert_eq!(captured(&mut admin, "sites"), 2);
    // A session that ends in the middle of its transaction.
    let mut other = world.session("acme.admin");
    other.run("BEGIN; UPDATE sites SET visits = 3");
    let pid = other.text("SELECT pg_backend_pid()");
    world
        .superuser()
        .run(&format!("SELECT pg_terminate_backend({pid})"));
    assert!(other.attempt("COMMIT").is_err());
    assert_eq!(captured(&mut admin, "sites"), 2);
}

#[test]
fn a_late_failure_takes_the_lines_with_it() {
    let world = World::new();
    world.superuser().run(
        "ALTER TABLE sites ADD CONSTRAINT late UNIQUE (name) DEFERRABLE INITIALLY DEFERRED;
         ALTER TABLE sites ADD CONSTRAINT fk_late FOREIGN KEY (server_id) REFERENCES servers DEFERRABLE INITIALLY DEFERRED",
    );
    let mut admin = world.session("acme.admin");
    admin.run("BEGIN; INSERT INTO sites (id, name) VALUES (60, 'same'), (61, 'same')");
    fails(admin.attempt("COMMIT"), "23505");
    assert_eq!(captured(&mut admin, "sites"), 0);
    admin.run("BEGIN; INSERT INTO sites (id, name) VALUES (60, 'same'), (61, 'same'); UPDATE sites SET name = 'other' WHERE id = 61; COMMIT");
    assert_eq!(captured(&mut admin, "sites"), 3);
}

/// Layouts are recorded by whoever writes first, while others alter the table, and some of them roll back.
#[test]
fn writers_race_with_changes_of_the_table() {
    let world = Arc::new(World::people());
    world.superuser().run(
        "CREATE TABLE things (id serial PRIMARY KEY, org_id uuid, v text); GRANT ALL ON things, things_id_seq TO PUBLIC;
         SELECT tenancy.protect('things')",
    );
    let rounds = few_or_many("rounds of writers racing with ALTER TABLE", 25, 300);
    let start = Arc::new(Barrier::new(7));
    let writers: Vec<_> = (0..6)
        .map(|i| {
            let (world, start) = (world.clone(), start.clone());
            std::thread::spawn(move || {
                let mut session = world.session(["acme.admin", "globex.admin"][i % 2]);
                let mut committed = 0;
                start.wait();
                for round in 0..rounds {
                    let rolls_back = (i + round) % 3 == 0;
                    session.run(
                        "BEGIN; SAVEPOINT a; INSERT INTO things (v) VALUES ('gone'); ROLLBACK TO a",
                    );
                    session.run("SAVEPOINT b; INSERT INTO things (v) VALUES ('kept'); RELEASE b");
                    session.run(if rolls_back { "ROLLBACK" } else { "COMMIT" });
                    committed += i64::from(!rolls_back);
                }
                (i, committed)
            })
        })
        .collect();
    let alterer = {
        let (world, start) = (world.clone(), start.clone());
        std::thread::spawn(move || {
            let mut dba = world.superuser();
            start.wait();
            for round in 0..rounds {
                dba.run(&format!(
                    "BEGIN; ALTER TABLE things ADD COLUMN c{round} int DEFAULT {round}"
                ));
                dba.run(if round % 4 == 0 { "ROLLBACK" } else { "COMMIT" });
                if round % 5 == 1 {
                    dba.run(&format!(
                        "ALTER TABLE things DROP COLUMN IF EXISTS c{round}"
                    ));
                }
            }
        })
    };
    let mut expected = [0, 0];
    for writer in writers {
        let (i, committed) = writer.join().unwrap();
        expected[i % 2] += committed;
    }
    alterer.join().unwrap();
    for (who, expected) in ["acme.owner", "globex.owner"].into_iter().zip(expected) {
        let mut session = world.session(who);
        assert_eq!(captured(&mut session, "things"), expected);
        // Every line is readable, with the columns that its row had.
        assert_eq!(
            session.count(
                "SELECT count(*) FROM tenancy.audit_log a JOIN things t ON (a.key ->> 'id')::int = t.id
                 WHERE a.object = 'public.things' AND a.new ->> 'v' = 'kept' AND to_jsonb(t) @> (a.new - ARRAY(SELECT 'c' || i FROM generate_series(0, 400) i))"
            ),
            expected
        );
    }
}

#[test]
fn deep_subtransactions_keep_what_they_commit() {
    let world = World::new();
    let mut admin = world.session("acme.admin");
    let depth = few_or_many("nested savepoints", 200, 3_000);
    admin.run("BEGIN");
    for i in 0..depth {
        admin.run(&format!(
            "SAVEPOINT s{i}; INSERT INTO sites (id, name) VALUES ({}, 'acme')",
            10_000 + i
        ));
    }
    // Half of them go.
    admin.run(&format!("ROLLBACK TO s{}", depth / 2));
    admin.run("INSERT INTO sites (id, name) VALUES (90000, 'acme'); COMMIT");
    assert_eq!(captured(&mut admin, "sites"), depth as i64 / 2 + 1);
    assert_eq!(
        admin.count("SELECT count(*) FROM sites WHERE id >= 10000"),
        depth as i64 / 2 + 1
    );
}

/// The most memory, in kB, that a backend of its own takes for a statement.
fn peak(world: &World, prepare: &str, statement: &str) -> i64 {
    let mut session = world.superuser();
    session.run(prepare);
    let pid = session.text("SELECT pg_backend_pid()");
    session.run(statement);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("Linux's /proc");
    let line = |name: &str| -> i64 {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    // Shared buffers count in the peak as they are touched; they are no memory of the backend's own.
    line("VmHWM:") - line("RssShmem:") - line("RssFile:")
}

#[test]
fn a_large_statement_stays_within_its_memory() {
    let world = World::people();
    world.superuser().run(
        "CREATE TABLE loud (id int PRIMARY KEY, org_id uuid, v text); CREATE TABLE quiet (id int PRIMARY KEY, org_id uuid, v text);
         SELECT tenancy.protect('loud'); SELECT tenancy.protect('quiet', audit => false);
         INSERT INTO tenancy.orgs (id, name, slug, owner_id) SELECT gen_random_uuid(), 'o' || i, 'many-' || i, (SELECT id FROM tenancy.users LIMIT 1)
             FROM generate_series(1, 3000) i",
    );
    let rows = few_or_many("rows of a large statement", 150_000, 10_000_000);
    let into_one = |table: &str| {
        format!(
            "INSERT INTO {table} (id, v) SELECT i, repeat('x', 40) FROM generate_series(1, {rows}) i"
        )
    };
    let in_acme = format!("SET app.current_org = '{}'", world.acme.id);
    let audited = peak(&world, &in_acme, &into_one("loud"));
    let plain = peak(&world, &in_acme, &into_one("quiet"));
    eprintln!("one organization, {rows} rows: {audited} kB audited, {plain} kB not");
    // Not more than a chunk and what the hashing takes, however many rows.
    assert!(audited - plain < 12_000, "{audited} kB against {plain} kB");
    // Rows of 3,000 organizations in turn: their chunks wait side by side, up to 16 MB.
    let into_many = |table: &str| {
        format!(
            "INSERT INTO {table} (id, org_id, v) SELECT 100000000 + i, o.all_of[1 + i % 3000], repeat('x', 400)
             FROM generate_series(1, {}) i, (SELECT array_agg(id) AS all_of FROM tenancy.orgs) o",
            rows / 2
        )
    };
    let glass = "SET row_security = off";
    let audited = peak(&world, glass, &into_many("loud"));
    let plain = peak(&world, glass, &into_many("quiet"));
    eprintln!(
        "3,000 organizations, {} rows: {audited} kB audited, {plain} kB not",
        rows / 2
    );
    assert!(audited - plain < 48_000, "{audited} kB against {plain} kB");
    let mut acme = world.session("acme.owner");
    assert!(captured(&mut acme, "loud") >= rows as i64);
    assert_eq!(
        world
            .superuser()
            .count("SELECT count(*) FROM tenancy.read_audit_dba(object => 'public.loud')"),
        rows as i64 + rows as i64 / 2
    );
}
