//! history() and as_of() look through an index of the keys that sealed chunks name. It must say the same as the whole log
//! does, whatever is sealed, erased, purged or missing in it, and it must really be what is read.

use pg_tenancy_tests::{Db, Session, World, fails};

const TABLES: [&str; 4] = ["items", "pairs", "prices", "notes"];

/// Tables with keys of several kinds.
fn tables(world: &World) {
    world.superuser().run(
        "CREATE TABLE items (id int PRIMARY KEY, org_id uuid, name text);
         CREATE TABLE pairs (org_id uuid, code text, n bigint, name text, PRIMARY KEY (org_id, n, code));
         CREATE TABLE prices (price numeric PRIMARY KEY, org_id uuid, day date);
         CREATE TABLE notes (id uuid PRIMARY KEY, org_id uuid, name text);
         GRANT ALL ON items, pairs, prices, notes TO PUBLIC;
         SELECT tenancy.protect(t) FROM unnest('{items,pairs,prices,notes}'::text[]) t",
    );
}

fn seal(world: &World) {
    world.superuser().rows("SELECT * FROM tenancy.seal_audit()");
}

/// What history() says, and what the whole log says.
fn both(session: &mut Session, table: &str, key: &str) -> (Vec<String>, Vec<String>) {
    let shown = "concat_ws(' ', xid, n, operation, key, old, new)";
    let found = session.column(&format!(
        "SELECT {shown} FROM tenancy.history('{table}', '{key}') ORDER BY at, xid, n"
    ));
    let whole = session.column(&format!(
        "SELECT {shown} FROM tenancy.audit_log
         WHERE object = 'public.{table}' AND (operation = 'TRUNCATE' OR key = '{key}'
             OR operation = 'UPDATE' AND key || (SELECT coalesce(jsonb_object_agg(k, v), '{{}}')
                                                FROM jsonb_each(new) AS c (k, v) WHERE key ? k) = '{key}')
         ORDER BY at, xid, n"
    ));
    (found, whole)
}

/// Of every key that the log names.
#[track_caller]
fn assert_same(world: &World) -> usize {
    let mut owner = world.session("acme.owner");
    let mut compared = 0;
    for table in TABLES {
        let keys = owner.column(&format!(
            "SELECT DISTINCT key FROM tenancy.audit_log WHERE object = 'public.{table}' AND operation IN ('INSERT', 'UPDATE', 'DELETE') AND key IS NOT NULL
             UNION SELECT DISTINCT key || (SELECT coalesce(jsonb_object_agg(k, v), '{{}}')
                                           FROM jsonb_each(new) AS c (k, v) WHERE key ? k)
             FROM tenancy.audit_log WHERE object = 'public.{table}' AND operation = 'UPDATE' AND key IS NOT NULL"
        ));
        for key in keys {
            let (found, whole) = both(&mut owner, table, &key.replace('\'', "''"));
            assert_eq!(found, whole, "{table} {key}");
            compared += 1;
        }
    }
    compared
}

/// A mixed day: bulk and single statements, moved keys, several tables in a transaction.
fn work(world: &World, round: i32) {
    let mut admin = world.session("acme.admin");
    let base = round * 1000;
    admin.run(&format!(
        "BEGIN;
         INSERT INTO items (id, name) SELECT {base} + i, 'item ' || i FROM generate_series(1, 40) i;
         INSERT INTO pairs (code, n, name) SELECT chr(64 + i), {base} + i % 3, 'pair' FROM generate_series(1, 9) i;
         COMMIT;
         INSERT INTO prices (price, day) SELECT {base} + i * 0.10, '2026-01-01' FROM generate_series(1, 5) i;
         INSERT INTO notes (id, name) SELECT md5({base} || ' ' || i)::uuid, 'note ''' || i FROM generate_series(1, 5) i;
         UPDATE items SET name = name || '!' WHERE id % 7 = 0;
         UPDATE items SET id = id + 500 WHERE id = {base} + 3;
         UPDATE pairs SET code = code || 'x', n = n + 100 WHERE n % 3 = 1 AND n < 100000 AND code < 'D';
         UPDATE prices SET price = price + 0.001 WHERE price < {base} + 0.3;
         DELETE FROM notes WHERE name LIKE '%2';
         DELETE FROM items WHERE id = {base} + 11"
    ));
    // Of the other organization nothing is found.
    world.session("globex.admin").run(&format!(
        "INSERT INTO items (id, name) VALUES ({base} - 1, 'of globex')"
    ));
}

fn says_the_same(world: &World) {
    tables(world);
    for round in 1..=3 {
        work(world, round);
        if round < 3 {
            seal(world);
        }
        // A line each that waits for the sealer, besides what the last round left.
        world
            .session("acme.admin")
            .run("UPDATE items SET name = name || '?' WHERE id = 1001");
        assert!(assert_same(world) > 60);
    }
    // Numbers and texts as they may be written, the value alone, and one that was never there.
    let mut owner = world.session("acme.owner");
    for (table, key, lines) in [
        ("items", "1001", 7),
        ("items", "{\"id\": 1001.0}", 7),
        ("items", "{\"id\": \"1001\"}", 0),
        ("items", "{\"id\": 77}", 0),
        ("items", "{\"name\": 1001}", 0),
        ("prices", "1000.500", 2),
        ("prices", "1000.101", 2),
    ] {
        let (found, _) = both(&mut owner, table, key);
        assert_eq!(found.len(), lines, "{table} {key}: {found:?}");
    }
    let mut glass = world.break_glass();
    glass.run("TRUNCATE items");
    seal(world);
    assert_same(world);
    let history =
        "SELECT count(*) FROM tenancy.history('items', '3001') WHERE operation = 'TRUNCATE'";
    assert_eq!(owner.count(history), 1);
}

#[test]
fn histories_say_what_the_whole_log_says() {
    says_the_same(&World::people());
}

#[test]
fn histories_of_organizations_that_share_tables_say_what_the_whole_log_says() {
    let db = Db::fresh();
    db.superuser().run(&format!(
        "ALTER DATABASE {} SET tenancy.dedicated_audit_limit = 0",
        db.name
    ));
    says_the_same(&World::people_in(db));
}

fn store(world: &World) -> String {
    format!("tenancy_audit.org_{}", world.acme.id.simple())
}

/// Spoils the chunk that tells of an item, so that whoever reads it is told.
fn spoil(world: &World, id: i32) {
    world.break_glass().run(&format!(
        "SET session_replication_role = replica; ALTER TABLE {0} DISABLE TRIGGER ALL;
         UPDATE {0} SET payload = set_byte(payload, length(payload) - 3, get_byte(payload, length(payload) - 3) # 255)
         WHERE position('spoil {id}'::bytea in payload) > 0;
         ALTER TABLE {0} ENABLE ALWAYS TRIGGER tenancy_append_only",
        store(world)
    ));
}

/// Three items, each in a chunk of its own.
fn three(world: &World) {
    tables(world);
    for id in 1..=3 {
        world.session("acme.admin").run(&format!(
            "INSERT INTO items (id, name) VALUES ({id}, 'spoil {id}')"
        ));
    }
}

#[test]
fn chunks_of_other_rows_are_not_read() {
    let world = World::people();
    three(&world);
    seal(&world);
    spoil(&world, 2);
    let mut owner = world.session("acme.owner");
    for (id, reads) in [(1, true), (2, false), (3, true)] {
        let history = owner.attempt(&format!("SELECT * FROM tenancy.history('items', '{id}')"));
        let past = owner.attempt(&format!("SELECT tenancy.as_of('items', '{id}', now())"));
        match reads {
            true => {
                assert_eq!(history.unwrap(), 1, "{id}");
                past.unwrap();
            }
            false => {
                fails(history, "XX001");
                fails(past, "XX001");
            }
        }
    }
    // Where the index does not cover what is sealed, the log is read.
    let mut glass = world.break_glass();
    glass.run(
        "ALTER TABLE tenancy_audit.key_index DISABLE TRIGGER ALL; DELETE FROM tenancy_audit.key_index",
    );
    let history = owner.attempt("SELECT * FROM tenancy.history('items', '1')");
    fails(history, "XX001");
}

#[test]
fn what_is_missing_or_forged_in_the_index_is_read_in_the_log() {
    let world = World::people();
    three(&world);
    seal(&world);
    for change in [
        "UPDATE tenancy_audit.key_index SET lines = 1",
        "UPDATE tenancy_audit.key_index SET first = 1, lines = 1000",
        "UPDATE tenancy_audit.key_index SET chunks = '\\xffffffffffffffffffffffff'",
        "DELETE FROM tenancy_audit.key_index",
        "DROP TABLE tenancy_audit.key_index",
    ] {
        let mut glass = world.break_glass();
        glass.run("ALTER TABLE tenancy_audit.key_index DISABLE TRIGGER ALL");
        glass.run(change);
        for id in 1..=3 {
            let sql = format!("SELECT count(*) FROM tenancy.history('items', '{id}')");
            assert_eq!(world.session("acme.owner").count(&sql), 1, "{change}");
        }
    }
    // The sealer makes the table again, and what it seals from then on is in it; the log is still read whole.
    world
        .session("acme.admin")
        .run("UPDATE items SET name = 'other' WHERE id = 2");
    seal(&world);
    assert_same(&world);
}

fn entries(world: &World) -> (i64, i64) {
    let mut dba = world.superuser();
    let of = |what: &str| {
        format!(
            "SELECT {what} FROM tenancy_audit.key_index WHERE org_id = '{}'",
            world.acme.id
        )
    };
    let rows = dba.count(&of("count(*)"));
    (rows, dba.count(&of("coalesce(sum(length(chunks)), 0)")))
}

#[test]
fn an_erased_key_leaves_nothing_in_the_index() {
    let world = World::people();
    three(&world);
    seal(&world);
    let before = entries(&world);
    let mut owner = world.session("acme.owner");
    owner.run("DELETE FROM items WHERE id = 2");
    assert_eq!(
        owner.count("SELECT tenancy.erase_audit('items', '2', reason => 'request 18')"),
        2
    );
    // Two bytes of one chunk.
    assert_eq!(entries(&world), (before.0, before.1 - 2));
    seal(&world);
    assert_same(&world);
    let history = "SELECT count(*) FROM tenancy.history('items', '2')";
    assert_eq!(owner.count(history), 0);
    let others = "SELECT count(*) FROM tenancy.history('items', '1')";
    assert_eq!(owner.count(others), 1);
    let verify = format!(
        "SELECT count(*) FROM tenancy.verify_audit('{}')",
        world.acme.id
    );
    assert_eq!(world.superuser().count(&verify), 0);
}

#[test]
fn every_writer_finds_his_own_row_while_all_write_and_seal() {
    const WRITERS: i32 = 8;
    const TURNS: i64 = 25;
    let world = World::people();
    tables(&world);
    let done = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for id in 1..=WRITERS {
            let (world, done) = (&world, &done);
            scope.spawn(move || {
                let mut session = world.session("acme.admin");
                session.run(&format!(
                    "INSERT INTO items (id, name) VALUES ({id}, 'n 0')"
                ));
                for turn in 1..=TURNS {
                    let name = format!("n {turn}");
                    session.run(&format!("UPDATE items SET name = '{name}' WHERE id = {id}"));
                    let told = session.column(&format!(
                        "SELECT new ->> 'name' FROM tenancy.history('items', '{id}')"
                    ));
                    let all: Vec<String> = (0..=turn).map(|n| format!("n {n}")).collect();
                    assert_eq!(told, all, "writer {id}");
                }
                done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            });
        }
        for _ in 0..2 {
            let (world, done) = (&world, &done);
            scope.spawn(move || {
                while done.load(std::sync::atomic::Ordering::SeqCst) < WRITERS as usize {
                    if std::thread::panicking() {
                        return;
                    }
                    seal(world);
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            });
        }
    });
    seal(&world);
    assert_same(&world);
}
