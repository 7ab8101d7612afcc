//! The committed changes, each once, whatever SQL makes them: a second, hostile reading of the capture. What the log says
//! is folded and compared with the rows that are there (verify_completeness), and its lines are counted.

use pg_tenancy_tests::{Session, World, fails};

/// Items with a child table, no lines yet.
fn world() -> World {
    let world = World::people();
    world.superuser().run(&format!(
        "CREATE TABLE items (id int PRIMARY KEY, org_id uuid, v text, w int DEFAULT 0);
         CREATE TABLE notes (id serial PRIMARY KEY, org_id uuid, item_id int, v text);
         GRANT ALL ON items, notes, notes_id_seq TO PUBLIC;
         ALTER TABLE items OWNER TO {0}; ALTER TABLE notes OWNER TO {0};
         SELECT tenancy.protect('items'), tenancy.protect('notes')",
        world.table_owner()
    ));
    world
}

/// The lines of both tables, shortly: operation, key, and what is new or was old.
fn lines(world: &World) -> Vec<String> {
    world.session("acme.owner").column(
        "SELECT concat_ws(' ', operation, key ->> 'id', coalesce(new, old) ->> 'v') FROM tenancy.audit_log
         WHERE object IN ('public.items', 'public.notes') ORDER BY at, n",
    )
}

#[track_caller]
fn assert_lines(world: &World, wanted: &[&str]) {
    assert_eq!(lines(world), wanted);
    assert_complete(world);
}

#[track_caller]
fn assert_complete(world: &World) {
    let mut dba = world.superuser();
    for table in ["items", "notes"] {
        let sql = format!(
            "SELECT concat_ws(' ', finding, key, detail) FROM tenancy.verify_completeness('{table}', '{}')",
            world.acme.id
        );
        assert_eq!(dba.column(&sql), Vec::<String>::new(), "{table}");
    }
}

fn admin(world: &World) -> Session {
    world.session("acme.admin")
}

#[test]
fn rows_of_a_statement_that_fails_half_way_leave_nothing() {
    let world = world();
    world.superuser().run(
        "CREATE FUNCTION zz() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF new.v = 'bad' THEN RAISE 'no' USING ERRCODE = 'P0042'; END IF; RETURN NULL; END $$;
         CREATE TRIGGER zz AFTER INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION zz()",
    );
    let mut admin = admin(&world);
    // Our trigger has seen two rows, and the third one's error ends the subtransaction.
    let bad = "INSERT INTO items (id, v) VALUES (1, 'a'), (2, 'b'), (3, 'bad')";
    admin.run(&format!(
        "DO $$ BEGIN
             INSERT INTO items (id, v) VALUES (10, 'before');
             BEGIN {bad}; EXCEPTION WHEN SQLSTATE 'P0042' THEN NULL; END;
             INSERT INTO items (id, v) VALUES (11, 'after');
         END $$"
    ));
    admin.run("BEGIN; SAVEPOINT s");
    fails(admin.attempt(bad), "P0042");
    admin.run("ROLLBACK TO s; UPDATE items SET v = 'again' WHERE id = 10; COMMIT");
    // The session's next transaction does not find what the failed one left.
    fails(admin.attempt(bad), "P0042");
    admin.run("UPDATE items SET v = 'next' WHERE id = 10");
    assert_lines(
        &world,
        &[
            "INSERT 10 before",
            "INSERT 11 after",
            "UPDATE 10 again",
            "UPDATE 10 next",
        ],
    );
}

#[test]
fn a_prepared_transaction_is_in_the_log_when_it_is_committed() {
    let world = world();
    let gid = |name: &str| format!("'{}_{name}'", world.db.name);
    let mut admin = admin(&world);
    for (name, id) in [("stays", 1), ("goes", 2)] {
        admin.run(&format!(
            "BEGIN; INSERT INTO items (id, v) VALUES ({id}, '{name}'); SAVEPOINT s; INSERT INTO items (id, v) VALUES (100, 'x');
             ROLLBACK TO s; UPDATE items SET v = v || '!' WHERE id = {id}; PREPARE TRANSACTION {}",
            gid(name)
        ));
        // The session goes on meanwhile, with lines of its own.
        admin.run(&format!(
            "INSERT INTO notes (id, v) VALUES ({id}, 'meanwhile')"
        ));
    }
    assert_eq!(lines(&world).len(), 2);
    // Sealing passes by, and comes back.
    let seal = format!("SELECT * FROM tenancy.seal_audit('{}')", world.acme.id);
    world.superuser().rows(&seal);
    let mut dba = world.superuser();
    dba.run(&format!("COMMIT PREPARED {}", gid("stays")));
    dba.run(&format!("ROLLBACK PREPARED {}", gid("goes")));
    dba.rows(&seal);
    assert_lines(
        &world,
        &[
            "INSERT 1 stays",
            "UPDATE 1 stays!",
            "INSERT 1 meanwhile",
            "INSERT 2 meanwhile",
        ],
    );
    let verify = format!(
        "SELECT count(*) FROM tenancy.verify_audit('{}')",
        world.acme.id
    );
    assert_eq!(dba.count(&verify), 0);
    let status = format!(
        "SELECT unsealed_lines FROM tenancy.list_seal_status('{}')",
        world.acme.id
    );
    assert_eq!(dba.count(&status), 0);
}

#[test]
fn what_deferred_triggers_write_at_commit_is_there() {
    let world = world();
    world.superuser().run(
        "CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO notes (item_id, v) VALUES (new.id, 'for ' || new.v);
             IF new.w > 0 THEN UPDATE items SET w = new.w - 1 WHERE id = new.id; END IF;
             RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER a_later AFTER INSERT OR UPDATE ON items DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION later()",
    );
    let mut admin = admin(&world);
    // A chain: each deferred trigger queues another at commit.
    admin.run("INSERT INTO items (id, v, w) VALUES (1, 'one', 2)");
    assert_eq!(lines(&world).len(), 6);
    // Fired in the middle, and rolled back with a savepoint.
    admin.run(
        "BEGIN; INSERT INTO items (id, v) VALUES (2, 'two'); SAVEPOINT s; SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK TO s;
         SET CONSTRAINTS ALL IMMEDIATE; UPDATE items SET v = 'second' WHERE id = 2; COMMIT",
    );
    assert_eq!(
        lines(&world)[6..],
        [
            "INSERT 2 two",
            "INSERT 5 for two",
            "UPDATE 2 second",
            "INSERT 6 for second"
        ]
        .map(String::from)
    );
    admin.run("BEGIN; INSERT INTO items (id, v) VALUES (3, 'three'); ROLLBACK");
    assert_eq!(lines(&world).len(), 10);
    assert_complete(&world);
}

#[test]
fn triggers_that_change_swallow_and_repeat_rows() {
    let world = world();
    world.superuser().run(
        "CREATE FUNCTION before() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF new.v = 'swallow' THEN RETURN NULL; END IF;
             IF new.v = 'as it was' AND TG_OP = 'UPDATE' THEN RETURN old; END IF;
             new.v := upper(new.v); RETURN new; END $$;
         CREATE FUNCTION after() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF new.w = 5 THEN UPDATE items SET w = 6 WHERE id = new.id; END IF; RETURN NULL; END $$;
         CREATE TRIGGER \"!first\" BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION before();
         CREATE TRIGGER \"!after\" AFTER INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION after();
         CREATE TRIGGER zz_last BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION before()",
    );
    let mut admin = admin(&world);
    admin.run(
        "INSERT INTO items (id, v) VALUES (1, 'a'), (2, 'swallow'), (3, 'c');
         UPDATE items SET v = 'swallow'; UPDATE items SET v = 'as it was'; UPDATE items SET v = v;
         UPDATE items SET v = 'b', w = 5 WHERE id = 1",
    );
    let mut wanted = vec!["INSERT 1 A", "INSERT 3 C"];
    // A trigger of the owner's that comes before ours writes first; the two lines are of the two changes.
    let found = lines(&world);
    assert_eq!(found.len(), 4, "{found:?}");
    wanted.extend(["UPDATE 1 B", "UPDATE 1"]);
    let mut sorted = found.clone();
    sorted.sort();
    wanted.sort_unstable();
    assert_eq!(sorted, wanted);
}

#[test]
fn every_statement_that_writes() {
    let world = world();
    let mut admin = admin(&world);
    admin.run("INSERT INTO items (id, v) VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')");
    admin.run(
        "INSERT INTO items (id, v) VALUES (1, 'x'), (5, 'e') ON CONFLICT DO NOTHING;
         INSERT INTO items AS i (id, v) VALUES (2, 'B'), (6, 'f') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
         INSERT INTO items AS i (id, v) VALUES (2, 'B') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
         INSERT INTO items AS i (id, v) VALUES (2, 'no') ON CONFLICT (id) DO UPDATE SET v = excluded.v WHERE false",
    );
    admin.run(
        "MERGE INTO items AS i USING (VALUES (3, 'C'), (4, NULL), (7, 'g')) AS n (id, v) ON i.id = n.id
             WHEN MATCHED AND n.v IS NULL THEN DELETE
             WHEN MATCHED THEN UPDATE SET v = n.v
             WHEN NOT MATCHED THEN INSERT (id, v) VALUES (n.id, n.v)",
    );
    admin.run(
        "BEGIN; DECLARE c CURSOR FOR SELECT * FROM items WHERE id IN (5, 6) ORDER BY id FOR UPDATE; MOVE c; FETCH c;
         UPDATE items SET v = 'F' WHERE CURRENT OF c; DELETE FROM items WHERE CURRENT OF c; COMMIT",
    );
    admin.run(
        "WITH gone AS (DELETE FROM items WHERE id = 7 RETURNING *), made AS (INSERT INTO notes (item_id, v) SELECT id, v FROM gone RETURNING *)
         UPDATE items SET v = 'z' FROM made WHERE items.id = 1",
    );
    admin.run(
        "CREATE FUNCTION pg_temp.twice(i int) RETURNS void LANGUAGE sql AS
             $$ UPDATE items SET w = w + 1 WHERE id = i; UPDATE items SET w = w + 1 WHERE id = i $$;
         SELECT pg_temp.twice(1), pg_temp.twice(1)",
    );
    let mut found = lines(&world);
    found.sort();
    let mut wanted = [
        "INSERT 1 a",
        "INSERT 2 b",
        "INSERT 3 c",
        "INSERT 4 d",
        "INSERT 5 e",
        "UPDATE 2 B",
        "INSERT 6 f",
        "UPDATE 3 C",
        "DELETE 4 d",
        "INSERT 7 g",
        "UPDATE 6 F",
        "DELETE 6 F",
        "DELETE 7 g",
        "INSERT 1 g",
        "UPDATE 1 z",
        "UPDATE 1",
        "UPDATE 1",
        "UPDATE 1",
        "UPDATE 1",
    ];
    wanted.sort_unstable();
    // An update of a row that was deleted through the same cursor position is none.
    assert_eq!(found, wanted);
    assert_complete(&world);
}

#[test]
fn f3_no_owner_changes_rows_past_the_log() {
    let world = world();
    let mut admin = admin(&world);
    admin.run("INSERT INTO items (id, v) VALUES (1, 'a'), (2, 'b')");
    let mut owner = world.db.login(&world.table_owner());
    for sql in [
        "ALTER TABLE items DISABLE TRIGGER ALL",
        "ALTER TABLE items DISABLE TRIGGER USER",
        "ALTER TABLE items DISABLE TRIGGER \"0_tenancy_row\"",
        "ALTER TABLE items ENABLE REPLICA TRIGGER \"0_tenancy_row\"",
        "ALTER TABLE items ENABLE TRIGGER \"0_tenancy_row\"",
        "DROP TRIGGER \"0_tenancy_row\" ON items",
        "ALTER TRIGGER \"0_tenancy_row\" ON items RENAME TO x",
        "CREATE RULE r AS ON UPDATE TO items DO INSTEAD NOTHING",
        "CREATE RULE r AS ON DELETE TO items DO ALSO INSERT INTO notes (v) VALUES ('x')",
        "TRUNCATE items",
        "SET session_replication_role = replica",
    ] {
        assert!(owner.attempt(sql).is_err(), "{sql}");
    }
    // An expression that looks at no row may make them all alike.
    for sql in [
        "ALTER TABLE items ALTER v TYPE text USING 'forged'",
        "ALTER TABLE items ALTER w TYPE bigint, ALTER v TYPE text USING lower(v)",
        "ALTER TABLE items ALTER w TYPE bigint USING 77",
    ] {
        let error = fails(owner.attempt(sql), "42501");
        assert!(error.message().contains("past the audit log"), "{error:?}");
    }
    // What rewrites the table otherwise changes no row.
    for sql in [
        "ALTER TABLE items ALTER v TYPE varchar(1)",
        "ALTER TABLE items ALTER w TYPE bigint",
        "ALTER TABLE items ADD COLUMN copied text GENERATED ALWAYS AS (upper(v)) STORED",
        "ALTER TABLE items ADD COLUMN plain int DEFAULT 3",
        "ALTER TABLE items DROP COLUMN w",
    ] {
        let result = owner.attempt(sql);
        let values = admin.column("SELECT v FROM items ORDER BY id");
        assert_eq!(values, ["a", "b"], "{sql}: {result:?}");
    }
    let mut glass = world.break_glass();
    glass.run("SET session_replication_role = replica; UPDATE items SET v = 's' WHERE id = 2");
    assert_eq!(lines(&world)[2..], ["UPDATE 2 s"]);
    let by = "SELECT count(*) FROM tenancy.audit_log WHERE break_glass AND operation = 'UPDATE'";
    assert_eq!(world.session("acme.owner").count(by), 1);
    // What a TRUNCATE took is gone for the log too.
    glass.run("SET session_replication_role = origin; TRUNCATE items");
    admin.run("INSERT INTO items (id, v) VALUES (2, 'n')");
    assert_complete(&world);
}

#[test]
fn copies_and_savepoints_by_the_hundred() {
    use std::io::Write;
    let world = world();
    let mut admin = admin(&world);
    // PostgreSQL refuses COPY FROM to whom row security applies.
    let mut dba = world.superuser();
    dba.run(&format!("SET app.current_org = '{}'", world.acme.id));
    let mut copy = dba.copy_in("COPY items (id, v) FROM STDIN").unwrap();
    for id in 1..=3000 {
        writeln!(copy, "{id}\tcopied").unwrap();
    }
    copy.finish().unwrap();
    assert_eq!(lines(&world).len(), 3000);
    // One that fails at its end leaves nothing.
    let mut copy = dba.copy_in("COPY items (id, v) FROM STDIN").unwrap();
    for id in 3001..=6000 {
        writeln!(copy, "{id}\tcopied").unwrap();
    }
    writeln!(copy, "1\tthere already").unwrap();
    assert!(copy.finish().is_err());
    // Of every third savepoint the work is taken back, of every fifth with those in it.
    let mut wanted = 3000;
    admin.run("BEGIN");
    for n in 0..300 {
        admin.run(&format!(
            "SAVEPOINT s; UPDATE items SET v = 'n {n}' WHERE id = {n} + 1; SAVEPOINT t; UPDATE items SET w = {n} + 1 WHERE id = {n} + 1"
        ));
        wanted += match (n % 3, n % 5) {
            (_, 0) => {
                admin.run("ROLLBACK TO s");
                0
            }
            (0, _) => {
                admin.run("ROLLBACK TO t");
                1
            }
            _ => {
                admin.run("RELEASE t");
                2
            }
        };
    }
    admin.run("COMMIT");
    assert_eq!(lines(&world).len(), wanted);
    assert_complete(&world);
}
