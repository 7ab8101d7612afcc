//! verify_completeness(): rows that were changed behind the audit's back are named by their keys.

use pg_tenancy_tests::{Session, World, refused};

/// What is found of a table in acme's log: finding and key.
fn findings(world: &World, table: &str) -> Vec<String> {
    world.superuser().column(&format!(
        "SELECT finding || ' ' || key FROM tenancy.verify_completeness('{table}', '{}') ORDER BY 1",
        world.acme.id
    ))
}

/// A superuser who switches the audit of a table off while he works.
fn behind_its_back(world: &World, table: &str, sql: &str) {
    let mut vandal: Session = world.break_glass();
    vandal.run(&format!("ALTER TABLE {table} DISABLE TRIGGER USER"));
    vandal.run(sql);
    vandal.run(&vandal_undo(&mut world.superuser(), table));
}

/// As protect() left the triggers.
fn vandal_undo(dba: &mut Session, table: &str) -> String {
    dba.column(&format!(
        "SELECT format('ALTER TABLE {table} ENABLE ALWAYS TRIGGER %I', tgname) FROM pg_trigger
         WHERE tgrelid = '{table}'::regclass AND NOT tgisinternal"
    ))
    .join(";")
}

/// A table that was audited from its first row on.
fn things(world: &World) -> Session {
    world.superuser().run(
        "CREATE TABLE things (id int, part text, org_id uuid, v int, t text, j jsonb, n numeric, big text, PRIMARY KEY (id, part));
         SELECT tenancy.protect('things'); GRANT ALL ON things TO PUBLIC",
    );
    let mut admin = world.session("acme.admin");
    admin.run(
        r#"INSERT INTO things (id, part, v, t, j, n, big)
           SELECT i, 'p' || i, i, 'text ' || i, '{"a": 1}', i / 3.0, repeat('long ', 3000) FROM generate_series(1, 20) i;
           UPDATE things SET v = v + 1 WHERE id % 2 = 0;
           UPDATE things SET t = NULL, big = big || '!' WHERE id = 3;
           DELETE FROM things WHERE id IN (5, 6);
           UPDATE things SET id = 100, part = 'moved' WHERE id = 7;
           UPDATE things SET n = 7 WHERE id = 100;
           INSERT INTO things (id, part) VALUES (7, 'p7'), (5, 'p5')"#,
    );
    let mut globex = world.session("globex.admin");
    globex.run("INSERT INTO things (id, part, v) VALUES (1000, 'globex', 1)");
    admin
}

#[test]
fn what_went_through_the_audit_is_complete() {
    let world = World::people();
    let mut admin = things(&world);
    assert_eq!(findings(&world, "things"), Vec::<String>::new());
    admin.run("BEGIN; DELETE FROM things WHERE id < 10; ROLLBACK");
    admin.run("BEGIN; UPDATE things SET v = 0; SAVEPOINT s; DELETE FROM things; ROLLBACK TO s");
    // In the open transaction as it sees itself, for others as they see it.
    assert!(
        admin
            .rows("SELECT * FROM tenancy.verify_completeness('things')")
            .is_empty()
    );
    assert_eq!(findings(&world, "things"), Vec::<String>::new());
    admin.run("COMMIT");
    assert_eq!(findings(&world, "things"), Vec::<String>::new());
    // Columns that come, go and change say nothing; what is logged of them later does.
    world.superuser().run(
        "ALTER TABLE things ADD COLUMN later int DEFAULT 5; ALTER TABLE things DROP COLUMN j; ALTER TABLE things RENAME t TO title;
         ALTER TABLE things ALTER v TYPE bigint",
    );
    assert_eq!(findings(&world, "things"), Vec::<String>::new());
    admin.run("UPDATE things SET later = 6, title = 'x' WHERE id = 1");
    assert_eq!(findings(&world, "things"), Vec::<String>::new());
    behind_its_back(&world, "things", "UPDATE things SET later = 7 WHERE id = 1");
    assert_eq!(
        findings(&world, "things"),
        [r#"altered {"id": 1, "part": "p1"}"#]
    );
}

#[test]
fn f3_changes_behind_the_audits_back_are_named_by_key() {
    let world = World::people();
    things(&world);
    let org = world.acme.id;
    behind_its_back(
        &world,
        "things",
        &format!(
            "UPDATE things SET v = 999 WHERE id = 2; DELETE FROM things WHERE id = 4;
             INSERT INTO things (id, part, org_id) VALUES (50, 'p50', '{org}');
             UPDATE things SET id = 51 WHERE id = 8;
             UPDATE things SET v = 3 WHERE id = 1000"
        ),
    );
    assert_eq!(
        findings(&world, "things"),
        [
            r#"altered {"id": 2, "part": "p2"}"#,
            r#"unlogged {"id": 50, "part": "p50"}"#,
            r#"unlogged {"id": 51, "part": "p8"}"#,
            r#"vanished {"id": 4, "part": "p4"}"#,
            r#"vanished {"id": 8, "part": "p8"}"#,
        ]
    );
    let detail = world.superuser().text(&format!(
        "SELECT detail FROM tenancy.verify_completeness('things', '{org}') WHERE finding = 'altered'"
    ));
    assert!(detail.contains(": v."), "{detail}");
    // Another organization's differences are its own to know.
    assert_eq!(
        world.superuser().column(&format!(
            "SELECT finding || ' ' || key FROM tenancy.verify_completeness('things', '{}')",
            world.globex.id
        )),
        [r#"altered {"id": 1000, "part": "globex"}"#]
    );
}

#[test]
fn partitions_count_as_their_table() {
    let world = World::people();
    world.superuser().run(
        "CREATE TABLE events (id int, org_id uuid, v int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
         CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (100);
         CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (100) TO (200);
         SELECT tenancy.protect('events'); GRANT ALL ON events, events_1, events_2 TO PUBLIC",
    );
    let mut admin = world.session("acme.admin");
    admin.run("INSERT INTO events (id, v) VALUES (1, 1), (101, 1); UPDATE events SET id = 150 WHERE id = 1");
    admin.run("INSERT INTO events_1 (id, v) VALUES (2, 2)");
    assert_eq!(findings(&world, "events"), Vec::<String>::new());
    behind_its_back(
        &world,
        "events_2",
        "UPDATE events_2 SET v = 5 WHERE id = 101",
    );
    assert_eq!(findings(&world, "events"), [r#"altered {"id": 101}"#]);
}

/// More than is folded at once, in rounds.
#[test]
fn a_large_table_is_compared_in_rounds() {
    let world = World::people();
    world.superuser().run(
        "CREATE TABLE wide (id int PRIMARY KEY, org_id uuid, v text); ALTER TABLE wide ALTER v SET STORAGE PLAIN;
         SELECT tenancy.protect('wide'); GRANT ALL ON wide TO PUBLIC",
    );
    let mut admin = world.session("acme.admin");
    // 200 MB: three rows a page.
    admin.run(
        "INSERT INTO wide (id, v) SELECT i, repeat('x', 2600) FROM generate_series(1, 75000) i",
    );
    assert_eq!(findings(&world, "wide"), Vec::<String>::new());
    behind_its_back(
        &world,
        "wide",
        "DELETE FROM wide WHERE id % 25000 = 1; UPDATE wide SET v = 'y' WHERE id % 25000 = 2",
    );
    let mut found = findings(&world, "wide");
    // Each round has an order of its own.
    found.sort();
    assert_eq!(
        found,
        [
            r#"altered {"id": 25002}"#,
            r#"altered {"id": 2}"#,
            r#"altered {"id": 50002}"#,
            r#"vanished {"id": 1}"#,
            r#"vanished {"id": 25001}"#,
            r#"vanished {"id": 50001}"#,
        ]
    );
}

#[test]
fn comparing_needs_the_right_and_a_table_that_can_be() {
    let world = World::people();
    things(&world);
    let org = world.acme.id;
    for who in ["acme.member", "acme.viewer", "globex.owner", "stranger"] {
        let mut session = world.bound(who);
        refused(
            session.attempt(&format!(
                "SELECT * FROM tenancy.verify_completeness('things', '{org}')"
            )),
            "42501",
        );
    }
    for who in ["acme.owner", "acme.admin"] {
        assert!(
            world
                .session(who)
                .rows("SELECT * FROM tenancy.verify_completeness('things')")
                .is_empty()
        );
    }
    let mut dba = world.superuser();
    dba.run(
        "CREATE TABLE keyless (id int, org_id uuid); SELECT tenancy.protect('keyless');
         CREATE TABLE unaudited (id int PRIMARY KEY, org_id uuid); SELECT tenancy.protect('unaudited', audit => false);
         CREATE TABLE open (id int PRIMARY KEY)",
    );
    for table in ["keyless", "unaudited", "open"] {
        refused(
            dba.attempt(&format!(
                "SELECT * FROM tenancy.verify_completeness('{table}', '{org}')"
            )),
            "55000",
        );
    }
}
