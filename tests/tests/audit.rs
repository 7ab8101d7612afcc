//! Every org's log of its own: what is recorded, who reads it, and that nobody edits it. Attacks F1 to F4.

use pg_tenancy_tests::{Org, Session, Uuid, World, fails, refused};
use serde_json::{Value, json};

/// The current org's log of one table, oldest first.
fn log(session: &mut Session, table: &str) -> Vec<Value> {
    session.json(&format!(
        "SELECT * FROM tenancy.audit_log WHERE object IN ('{table}', 'public.{table}') ORDER BY at, n"
    ))
}

fn operations(rows: &[Value]) -> Vec<&str> {
    rows.iter()
        .map(|r| r["operation"].as_str().unwrap())
        .collect()
}

/// Where an org's log is kept.
fn store(org: Org) -> String {
    format!("tenancy_audit.org_{}", org.id.simple())
}

#[test]
fn insert_update_and_delete_leave_their_rows() {
    let world = World::new();
    let mut admin = world.session("acme.admin");
    admin.run("SET app.request_id = 'req-1'");
    admin.run("INSERT INTO sites (id, name, server_id) VALUES (60, 'acme-60', 1)");
    let inserted = admin.json("SELECT * FROM sites WHERE id = 60").remove(0);
    admin.run("UPDATE sites SET visits = 5, name = name WHERE id = 60");
    let updated = admin.json("SELECT * FROM sites WHERE id = 60").remove(0);
    admin.run("DELETE FROM sites WHERE id = 60");
    let rows = log(&mut admin, "sites");
    assert_eq!(operations(&rows), ["INSERT", "UPDATE", "DELETE"]);
    for row in &rows {
        assert_eq!(row["org_id"], world.acme.id.to_string());
        assert_eq!(row["actor_id"], world.user("acme.admin").to_string());
        assert_eq!(row["actor_type"], "human");
        assert_eq!(row["db_role"], world.db.role("acme.admin"));
        assert_eq!(row["key"], json!({"id": 60}));
        assert_eq!(row["result"], "completed");
        assert_eq!(row["request_id"], "req-1");
        assert!(row["approver_id"].is_null());
        assert!(row["xid"].is_string() || row["xid"].is_number(), "{row}");
    }
    assert!(rows[0]["old"].is_null());
    assert_eq!(rows[0]["new"], inserted);
    assert_eq!(rows[1]["old"], json!({"visits": 0}));
    assert_eq!(rows[1]["new"], json!({"visits": 5}));
    assert_eq!(rows[2]["old"], updated);
    assert!(rows[2]["new"].is_null());
    // Within a second of now, and in the order they happened.
    assert!(admin.is_true(
        "SELECT bool_and(at BETWEEN clock_timestamp() - interval '1 minute' AND clock_timestamp()) FROM tenancy.audit_log"
    ));
}

#[test]
fn the_transaction_is_named() {
    let world = World::new();
    let mut admin = world.session("acme.admin");
    admin.run(
        "BEGIN; UPDATE sites SET visits = 1 WHERE id = 1; UPDATE sites SET visits = 2 WHERE id = 2",
    );
    let xid = admin.text("SELECT pg_current_xact_id()");
    admin.run("COMMIT");
    assert_eq!(
        admin.column("SELECT DISTINCT xid::text FROM tenancy.audit_log WHERE object LIKE '%sites'"),
        [xid]
    );
}

#[test]
fn one_row_for_every_row_of_a_bulk() {
    let world = World::new();
    let mut admin = world.session("acme.admin");
    admin.run(
        "INSERT INTO sites (id, name) SELECT i, 'acme-' || i FROM generate_series(1001, 4000) i",
    );
    admin.run("UPDATE sites SET visits = id WHERE id BETWEEN 1001 AND 2000");
    admin.run("DELETE FROM sites WHERE id > 3500");
    let count = |admin: &mut Session, operation: &str| {
        admin.count(&format!(
            "SELECT count(DISTINCT key) FROM tenancy.audit_log WHERE object LIKE '%sites' AND operation = '{operation}'"
        ))
    };
    assert_eq!(count(&mut admin, "INSERT"), 3000);
    assert_eq!(count(&mut admin, "UPDATE"), 1000);
    assert_eq!(count(&mut admin, "DELETE"), 500);
    assert_eq!(
        admin.count(
            "SELECT count(*) FROM tenancy.audit_log WHERE operation = 'UPDATE' AND object LIKE '%sites'
             AND new = jsonb_build_object('visits', (key->>'id')::int)"
        ),
        1000
    );
}

#[test]
fn every_type_of_value_is_kept() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(
        r#"CREATE TYPE mood AS ENUM ('good', 'bad');
           CREATE TYPE pair AS (a int, b text);
           CREATE TABLE things (id uuid, part int, org_id uuid, t text, n numeric, f float8, b bool, j jsonb, js json,
               ta text[], ts timestamptz, d date, by bytea, m mood, p pair, r int4range, i inet, gone text, PRIMARY KEY (id, part));
           SELECT tenancy.protect('things'); GRANT ALL ON things TO PUBLIC;
           ALTER TABLE things DROP COLUMN gone; ALTER TABLE things ADD COLUMN later text DEFAULT 'L'"#,
    );
    let mut admin = world.session("acme.admin");
    admin.run(
        r#"INSERT INTO things (id, part, t, n, f, b, j, js, ta, ts, d, by, m, p, r, i) VALUES
           ('11111111-1111-1111-1111-111111111111', 2, E'quote " and \\ and ü\n', 12345678901234567890.123, 1.5, true,
            '{"a": [1, null]}', '{"z":1, "a":2}', '{x,NULL,"y z"}', '2024-02-29 12:00+00', '2024-02-29', '\xdeadbeef', 'bad',
            ROW(1, 'b'), '[1,5)', '10.0.0.1'),
           ('22222222-2222-2222-2222-222222222222', 3, repeat('long ', 20000), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
            NULL, NULL, NULL, NULL, NULL)"#,
    );
    // A large value that an update does not touch stays out of the log and in the table.
    admin.run("UPDATE things SET b = false WHERE part = 3");
    admin.run("UPDATE things SET t = t || '!', n = NULL WHERE part = 2");
    let expected = admin.json("SELECT * FROM things WHERE part = 3").remove(0);
    admin.run("DELETE FROM things WHERE part = 3");
    let rows = log(&mut admin, "things");
    assert_eq!(
        operations(&rows),
        ["INSERT", "INSERT", "UPDATE", "UPDATE", "DELETE"]
    );
    assert_eq!(
        rows[0]["key"],
        json!({"id": "11111111-1111-1111-1111-111111111111", "part": 2})
    );
    let new = &rows[0]["new"];
    assert_eq!(new["t"], "quote \" and \\ and ü\n");
    assert_eq!(
        new["n"].to_string(),
        "12345678901234567890.123"
            .parse::<Value>()
            .unwrap()
            .to_string()
    );
    assert_eq!(new["j"], json!({"a": [1, null]}));
    assert_eq!(new["ta"], json!(["x", null, "y z"]));
    assert_eq!(new["by"], "\\xdeadbeef");
    assert_eq!(new["p"], json!({"a": 1, "b": "b"}));
    assert_eq!(new["m"], "bad");
    assert_eq!(new["later"], "L");
    assert!(new.get("gone").is_none());
    assert_eq!(rows[2]["new"], json!({"b": false}));
    assert_eq!(rows[2]["old"], json!({"b": null}));
    let mut changed: Vec<&String> = rows[3]["new"].as_object().unwrap().keys().collect();
    changed.sort();
    assert_eq!(changed, ["n", "t"]);
    assert!(rows[3]["new"]["n"].is_null());
    assert_eq!(rows[4]["old"], expected);

    // The table may change and go; what was written stays readable.
    dba.run("ALTER TABLE things RENAME COLUMN t TO title; ALTER TABLE things DROP COLUMN j");
    assert_eq!(log(&mut admin, "things")[0]["new"]["t"], new["t"]);
    dba.run("DROP TABLE things");
    assert_eq!(
        admin.count(
            "SELECT count(*) FROM tenancy.audit_log WHERE object LIKE '%things' AND new IS NOT NULL"
        ),
        4
    );
}

#[test]
fn what_changes_nothing_leaves_nothing() {
    let world = World::new();
    let mut admin = world.session("acme.admin");
    admin.run("UPDATE sites SET visits = visits");
    admin.run("UPDATE sites SET visits = 1 WHERE false");
    admin.run("DELETE FROM sites WHERE id = -1");
    admin.run("INSERT INTO sites (id, name) VALUES (1, 'x') ON CONFLICT DO NOTHING");
    assert_eq!(log(&mut admin, "sites"), Vec::<Value>::new());
}

#[test]
fn f4_what_is_rolled_back_leaves_nothing() {
    let world = World::new();
    let mut admin = world.session("acme.admin");
    admin.run("BEGIN; UPDATE sites SET visits = 1 WHERE id = 1; ROLLBACK");
    admin.run("BEGIN; UPDATE sites SET visits = 2 WHERE id = 2");
    admin.run("SAVEPOINT s; UPDATE sites SET visits = 3 WHERE id = 3; ROLLBACK TO s");
    admin.run("SAVEPOINT t; UPDATE sites SET visits = 4 WHERE id = 4; RELEASE t");
    fails(
        admin.attempt_within("INSERT INTO sites (id, name, server_id) VALUES (60, 'x', 999)"),
        "23503",
    );
    admin.run("COMMIT");
    admin.run(
        "DO $$ BEGIN UPDATE sites SET visits = 5 WHERE id = 5; RAISE EXCEPTION 'no';
         EXCEPTION WHEN raise_exception THEN UPDATE sites SET visits = 6 WHERE id = 6; END $$",
    );
    let keys: Vec<i64> = log(&mut admin, "sites")
        .iter()
        .map(|r| r["key"]["id"].as_i64().unwrap())
        .collect();
    assert_eq!(keys, [2, 4, 6]);
    // In the open transaction its own rows are there.
    admin.run("BEGIN; UPDATE sites SET visits = 7 WHERE id = 1");
    assert_eq!(log(&mut admin, "sites").len(), 4);
    admin.run("ROLLBACK");
    assert_eq!(log(&mut admin, "sites").len(), 3);
}

#[test]
fn upserts_merges_and_cascades_are_recorded_as_what_they_did() {
    let world = World::new();
    let mut admin = world.session("acme.admin");
    admin.run(
        "INSERT INTO sites (id, name) VALUES (1, 'acme-a'), (60, 'acme-b') ON CONFLICT (id) DO UPDATE SET name = excluded.name",
    );
    admin.run(
        "MERGE INTO sites t USING (VALUES (2), (61)) n(id) ON t.id = n.id WHEN MATCHED THEN DELETE
         WHEN NOT MATCHED THEN INSERT (id, name) VALUES (n.id, 'acme-c')",
    );
    let mut found: Vec<String> = log(&mut admin, "sites")
        .iter()
        .map(|r| format!("{} {}", r["operation"].as_str().unwrap(), r["key"]["id"]))
        .collect();
    found.sort();
    assert_eq!(found, ["DELETE 2", "INSERT 60", "INSERT 61", "UPDATE 1"]);
    // sites 3 and 6 hang on server 1.
    admin.run("DELETE FROM servers WHERE id = 1");
    let cascaded: Vec<Value> = log(&mut admin, "sites")
        .into_iter()
        .filter(|r| r["operation"] == "DELETE" && r["key"]["id"] != 2)
        .collect();
    assert_eq!(cascaded.len(), 2, "{cascaded:?}");
    assert!(
        cascaded
            .iter()
            .all(|r| r["actor_id"] == world.user("acme.admin").to_string()),
        "{cascaded:?}"
    );
    // A changed key: found by what it was, with both values.
    admin.run("UPDATE sites SET id = 70 WHERE id = 60");
    let last = log(&mut admin, "sites").pop().unwrap();
    assert_eq!(last["key"], json!({"id": 60}));
    assert_eq!(last["new"]["id"], 70);
}

#[test]
fn the_application_names_actor_request_and_address() {
    let world = World::new();
    let mut app = world.app();
    world.begin(&mut app, world.acme, "acme.member");
    app.run("SET LOCAL app.actor_type = 'service'; SET LOCAL app.request_id = 'r-7'; SET LOCAL app.client_addr = '203.0.113.7'");
    app.run("UPDATE sites SET visits = 1 WHERE id = 1");
    app.run("COMMIT");
    // As a service: no actor.
    app.run(&format!(
        "BEGIN; SET LOCAL app.current_org = '{}'",
        world.acme.id
    ));
    app.run("UPDATE sites SET visits = 2 WHERE id = 1");
    app.run("COMMIT");
    let rows = log(&mut world.session("acme.admin"), "sites");
    assert_eq!(rows[0]["actor_id"], world.user("acme.member").to_string());
    assert_eq!(rows[0]["actor_type"], "service");
    assert_eq!(rows[0]["request_id"], "r-7");
    assert_eq!(rows[0]["client_addr"], "203.0.113.7");
    assert_eq!(rows[0]["db_role"], world.db.role("app"));
    assert!(rows[1]["actor_id"].is_null());
    assert_eq!(rows[1]["actor_type"], "service");
    assert!(rows[1]["request_id"].is_null());
    assert!(rows[1]["client_addr"].is_null());
}

/// The author of the last line is compared with, not made anew: what changes about it is seen from the next line on.
#[test]
fn a_login_that_gets_another_name_is_named_by_it() {
    let world = World::new();
    let mut app = world.app();
    let old = world.db.role("app");
    // Roles are the whole server's: one of no other test's.
    let aside = format!("{old}_aside");
    let mut write = |visits: i32| {
        world.begin(&mut app, world.acme, "acme.member");
        app.run(&format!(
            "UPDATE sites SET visits = {visits} WHERE id = 1; COMMIT"
        ));
    };
    write(1);
    let mut dba = world.superuser();
    dba.run(&format!(
        "ALTER ROLE {old} RENAME TO {aside}; SELECT tenancy.trust_application('{aside}')"
    ));
    write(2);
    dba.run(&format!("ALTER ROLE {aside} RENAME TO {old}"));
    write(3);
    let rows = log(&mut world.session("acme.admin"), "sites");
    let named: Vec<_> = rows.iter().map(|r| r["db_role"].as_str()).collect();
    assert_eq!(named, [Some(&*old), Some(&*aside), Some(&*old)]);
}

#[test]
fn f1_a_person_does_not_choose_whom_the_log_names() {
    let world = World::new();
    let mut member = world.session("acme.member");
    member.run(&format!(
        "SET app.actor_type = 'service'; SET app.client_addr = '203.0.113.7'; SET app.current_user_id = '{}'",
        world.user("acme.member")
    ));
    member.run("UPDATE sites SET visits = 1 WHERE id = 1");
    let row = log(&mut world.session("acme.admin"), "sites").remove(0);
    assert_eq!(row["actor_id"], world.user("acme.member").to_string());
    assert_eq!(row["actor_type"], "human");
    assert!(row["client_addr"].is_null(), "{row}");
    // Nor under which role of the database, even inside another role.
    let other = world.db.role("nobody");
    world.superuser().run(&format!(
        "GRANT {other} TO {}",
        world.db.role("acme.member")
    ));
    member.run(&format!("SET ROLE {other}"));
    member.run("UPDATE sites SET visits = 2 WHERE id = 1");
    let row = log(&mut world.session("acme.admin"), "sites")
        .pop()
        .unwrap();
    assert_eq!(row["actor_id"], world.user("acme.member").to_string());
}

#[test]
fn f2_every_org_reads_its_own() {
    let world = World::new();
    world
        .session("acme.admin")
        .run("UPDATE sites SET visits = 1");
    world
        .session("globex.admin")
        .run("UPDATE servers SET cpus = 9");
    let mut acme = world.session("acme.owner");
    let mut globex = world.session("globex.owner");
    assert_eq!(log(&mut acme, "sites").len(), 6);
    assert_eq!(log(&mut acme, "servers").len(), 0);
    assert_eq!(log(&mut globex, "sites").len(), 0);
    assert_eq!(log(&mut globex, "servers").len(), 3);
    for (session, org) in [(&mut acme, world.acme), (&mut globex, world.globex)] {
        for source in ["tenancy.audit_log", "tenancy.read_audit()"] {
            assert_eq!(
                session.column(&format!("SELECT DISTINCT org_id FROM {source}")),
                [org.id.to_string()]
            );
            assert_eq!(
                session.count(&format!(
                    "SELECT count(*) FROM {source} WHERE org_id <> '{}'",
                    org.id
                )),
                0
            );
        }
    }
    // Written by whomever: the row's org decides, in break-glass too.
    world
        .break_glass()
        .run("UPDATE sites SET visits = 77 WHERE id IN (1, 101)");
    assert_eq!(log(&mut acme, "sites").len(), 7);
    assert_eq!(log(&mut globex, "sites").len(), 1);
    assert_eq!(log(&mut globex, "sites")[0]["db_role"], "postgres");
}

#[test]
fn reading_needs_the_right() {
    let world = World::new();
    world
        .session("acme.admin")
        .run("UPDATE sites SET visits = 1");
    let sources = [
        "SELECT * FROM tenancy.audit_log",
        "SELECT count(*) FROM tenancy.audit_log",
        "SELECT * FROM tenancy.read_audit()",
    ];
    for who in ["acme.owner", "acme.admin"] {
        for sql in sources {
            assert!(world.session(who).run(sql) > 0);
        }
    }
    for who in ["acme.member", "acme.viewer", "globex.viewer"] {
        for sql in sources {
            let error = refused(world.session(who).attempt(sql), "42501");
            assert!(error.message().contains("org:audit"), "{error:?}");
        }
    }
    // Without a context: refused or empty, never a row.
    for mut session in [
        world.bound("acme.owner"),
        world.session("stranger"),
        world.nobody(),
        world.app(),
    ] {
        for sql in [sources[0], sources[2]] {
            if let Ok(rows) = session.try_rows(sql) {
                assert!(rows.is_empty());
            }
        }
    }
    // The right is the context's, also for the application.
    let mut app = world.app();
    world.begin(&mut app, world.acme, "acme.member");
    refused(app.attempt(sources[0]), "42501");
    app.run("ROLLBACK");
    world.begin(&mut app, world.acme, "acme.admin");
    assert!(app.run(sources[0]) > 0);
    app.run("ROLLBACK");
}

#[test]
fn the_store_is_closed_to_tenants() {
    let world = World::new();
    world
        .session("acme.admin")
        .run("UPDATE sites SET visits = 1");
    let store = store(world.acme);
    for mut session in [
        world.session("acme.owner"),
        world.app(),
        world.nobody(),
        world.db.login(&world.table_owner()),
    ] {
        for sql in [
            format!("SELECT * FROM {store}"),
            format!("INSERT INTO {store} SELECT * FROM {store}"),
            format!("UPDATE {store} SET org_id = org_id"),
            format!("DELETE FROM {store}"),
            format!("TRUNCATE {store}"),
            format!("DO $$ BEGIN LOCK TABLE {store}; END $$"),
            format!("DROP TABLE {store}"),
            "CREATE TABLE tenancy_audit.mine (id int)".to_string(),
        ] {
            fails(session.attempt(&sql), "42501");
        }
        for sql in [
            "INSERT INTO tenancy.audit_log (operation) VALUES ('forged')",
            "UPDATE tenancy.audit_log SET operation = 'forged'",
            "DELETE FROM tenancy.audit_log",
        ] {
            session.attempt(sql).unwrap_err();
        }
    }
    assert_eq!(
        world.superuser().count(
            "SELECT count(*) FROM pg_class c, aclexplode(c.relacl) a
             WHERE c.relnamespace = 'tenancy_audit'::regnamespace AND a.grantee <> c.relowner"
        ),
        0
    );
}

#[test]
fn f1_nobody_edits_the_log_not_even_a_superuser() {
    let world = World::new();
    world
        .session("acme.admin")
        .run("UPDATE sites SET visits = 1");
    let store = store(world.acme);
    let before = world.superuser().text(&format!(
        "SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {store} t"
    ));
    let mut plain = world.superuser();
    let mut inside = world.superuser();
    inside.run(&format!("SET app.current_org = '{}'", world.acme.id));
    let mut glass = world.break_glass();
    let mut replica = world.superuser();
    replica.run("SET session_replication_role = replica");
    for session in [&mut plain, &mut inside, &mut glass, &mut replica] {
        for sql in [
            format!("UPDATE {store} SET org_id = gen_random_uuid()"),
            format!("DELETE FROM {store}"),
            format!("TRUNCATE {store}"),
        ] {
            refused(session.attempt(&sql), "42501");
        }
    }
    // What a restore must be able to do (COPY into the table by break-glass) is closed otherwise.
    for session in [&mut plain, &mut inside] {
        refused(
            session.attempt(&format!(
                "INSERT INTO {store} SELECT * FROM {store} LIMIT 1"
            )),
            "42501",
        );
    }
    assert_eq!(
        world.superuser().text(&format!(
            "SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {store} t"
        )),
        before
    );
}

#[test]
fn f4_a_denied_act_leaves_a_line_in_the_servers_log() {
    let world = World::new();
    let viewer = world.db.role("acme.viewer");
    let mut session = world.session("acme.viewer");
    let lines = |world: &World, words: &[&str]| {
        world
            .db
            .cluster
            .log()
            .lines()
            .filter(|line| line.contains(&viewer) && words.iter().all(|word| line.contains(word)))
            .count()
    };
    assert_eq!(lines(&world, &["server:create"]), 0);
    refused(
        session.attempt("INSERT INTO servers (id, name) VALUES (60, 'x')"),
        "42501",
    );
    assert!(lines(&world, &["server:create", "viewer"]) >= 1);
    refused(
        session.attempt(&format!(
            "INSERT INTO sites (id, name, org_id) VALUES (60, 'x', '{}')",
            world.globex.id
        )),
        "42501",
    );
    assert!(lines(&world, &["site"]) >= 1);
    // Swallowed by the client's own handler it is there all the same.
    session.run(
        "DO $$ BEGIN DELETE FROM servers; EXCEPTION WHEN insufficient_privilege THEN NULL; END $$",
    );
    assert!(
        lines(&world, &["server:delete"]) >= 1,
        "a denied act caught by an EXCEPTION block left no durable line"
    );
}

#[test]
fn read_audit_filters() {
    let world = World::new();
    let mut admin = world.session("acme.admin");
    let mut member = world.session("acme.member");
    admin.run("UPDATE servers SET cpus = 9 WHERE id = 1");
    admin.run("INSERT INTO sites (id, name) VALUES (60, 'acme-60'), (61, 'acme-61')");
    let between = admin.text("SELECT clock_timestamp()");
    member.run("UPDATE sites SET visits = 3 WHERE id IN (60, 61, 1)");
    admin.run("DELETE FROM sites WHERE id = 61");
    let mut count = |arguments: &str| {
        admin.count(&format!(
            "SELECT count(*) FROM tenancy.read_audit({arguments}) WHERE object LIKE '%sites' OR object LIKE '%servers'"
        ))
    };
    assert_eq!(count(""), 7);
    assert_eq!(count("operation => 'INSERT'"), 2);
    assert_eq!(count("operation => 'UPDATE'"), 4);
    assert_eq!(
        count(&format!("actor => '{}'", world.user("acme.member"))),
        3
    );
    assert_eq!(count(&format!("actor => '{}'", Uuid::new_v4())), 0);
    assert_eq!(count(&format!("since => '{between}'")), 4);
    assert_eq!(count(&format!("until => '{between}'")), 3);
    assert_eq!(
        count(&format!("since => '{between}', until => '{between}'")),
        0
    );
    assert_eq!(
        count(&format!(
            "since => '{between}', actor => '{}', operation => 'DELETE'",
            world.user("acme.admin")
        )),
        1
    );
    assert_eq!(count("max_rows => 2, operation => 'UPDATE'"), 2);
    assert_eq!(count("max_rows => 3, operation => 'INSERT'"), 2);
    assert_eq!(count("max_rows => 0"), 0);
    let object = admin.text("SELECT object FROM tenancy.audit_log WHERE object LIKE '%servers'");
    assert_eq!(
        admin.count(&format!(
            "SELECT count(*) FROM tenancy.read_audit(object => '{object}')"
        )),
        1
    );
    assert_eq!(
        admin.count("SELECT count(*) FROM tenancy.read_audit(object => 'nothing')"),
        0
    );
    // The same columns as the view.
    let columns = |session: &mut Session, source: &str| {
        session
            .json(&format!("SELECT * FROM {source} LIMIT 1"))
            .remove(0)
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    let mut expected: Vec<String> = [
        "at",
        "org_id",
        "actor_id",
        "actor_type",
        "approver_id",
        "db_role",
        "operation",
        "object",
        "key",
        "old",
        "new",
        "result",
        "client_addr",
        "request_id",
        "xid",
        "n",
        "break_glass",
    ]
    .map(String::from)
    .into();
    expected.sort();
    for source in ["tenancy.audit_log", "tenancy.read_audit()"] {
        let mut found = columns(&mut admin, source);
        found.sort();
        assert_eq!(found, expected, "{source}");
    }
}

#[test]
fn a_table_may_go_unaudited() {
    let world = World::people();
    world.superuser().run(
        "CREATE TABLE quiet (id int PRIMARY KEY, org_id uuid); GRANT ALL ON quiet TO PUBLIC;
         SELECT tenancy.protect('quiet', audit => false)",
    );
    let mut admin = world.session("acme.admin");
    admin.run("INSERT INTO quiet VALUES (1); UPDATE quiet SET id = 2; DELETE FROM quiet");
    assert_eq!(log(&mut admin, "quiet"), Vec::<Value>::new());
    // Another way of protecting is a change: said twice, refused; said as a change, made.
    let mut dba = world.superuser();
    refused(
        dba.attempt("SELECT tenancy.protect('quiet', audit => true)"),
        "42710",
    );
    let change = |audit: bool| {
        format!(
            "BEGIN; SELECT tenancy.unprotect('quiet'); SELECT tenancy.protect('quiet', audit => {audit}); COMMIT"
        )
    };
    dba.run(&change(true));
    admin.run("INSERT INTO quiet VALUES (1)");
    assert_eq!(log(&mut admin, "quiet").len(), 1);
    dba.run(&change(false));
    admin.run("INSERT INTO quiet VALUES (2)");
    assert_eq!(log(&mut admin, "quiet").len(), 1);
}

#[test]
fn a_table_without_a_key_is_audited() {
    let world = World::people();
    world.superuser().run(
        "CREATE TABLE keyless (a int, org_id uuid); GRANT ALL ON keyless TO PUBLIC; SELECT tenancy.protect('keyless')",
    );
    let mut admin = world.session("acme.admin");
    admin.run("INSERT INTO keyless VALUES (1), (1); UPDATE keyless SET a = 2; DELETE FROM keyless");
    let rows = log(&mut admin, "keyless");
    assert_eq!(
        operations(&rows),
        ["INSERT", "INSERT", "UPDATE", "UPDATE", "DELETE", "DELETE"]
    );
    assert_eq!(rows[5]["old"]["a"], 2);
}

#[test]
fn f3_direct_paths_are_recorded() {
    let world = World::new();
    let mut dba = world.superuser();
    dba.run(&format!("SET app.current_org = '{}'", world.acme.id));
    // COPY.
    {
        use std::io::Write;
        let mut copy = dba.copy_in("COPY sites (id, name) FROM STDIN").unwrap();
        copy.write_all(b"60\tacme-60\n61\tacme-61\n").unwrap();
        copy.finish().unwrap();
    }
    // The replica role.
    dba.run("SET session_replication_role = replica; UPDATE sites SET visits = 1 WHERE id = 60");
    dba.run("SET session_replication_role = origin");
    let mut admin = world.session("acme.admin");
    assert_eq!(
        operations(&log(&mut admin, "sites")),
        ["INSERT", "INSERT", "UPDATE"]
    );
    // TRUNCATE, which only break-glass may.
    world.break_glass().run("TRUNCATE sites");
    assert!(
        log(&mut admin, "sites")
            .iter()
            .any(|r| r["operation"] == "TRUNCATE"),
        "a TRUNCATE in break-glass left nothing in the org's log"
    );
}

#[test]
fn later_orgs_share_tables_by_month() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(&format!(
        "ALTER DATABASE {} SET tenancy.dedicated_audit_limit = 3",
        world.db.name
    ));
    let mut dba = world.superuser();
    dba.run(
        "CREATE TABLE notes (id int PRIMARY KEY, org_id uuid); GRANT ALL ON notes TO PUBLIC; SELECT tenancy.protect('notes')",
    );
    let mut orgs = Vec::new();
    for slug in ["third", "fourth", "fifth"] {
        orgs.push(dba.text(&format!(
            "SELECT tenancy.create_org('{slug}', '{slug}', owner => '{}')",
            world.user("stranger")
        )));
    }
    let mut session = world.bound("stranger");
    for (i, org) in orgs.iter().enumerate() {
        session.run(&format!(
            "SET app.current_org = '{org}'; INSERT INTO notes VALUES ({i})"
        ));
    }
    for (i, org) in orgs.iter().enumerate() {
        session.run(&format!("SET app.current_org = '{org}'"));
        let rows = log(&mut session, "notes");
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!(rows[0]["key"], json!({"id": i}));
        assert_eq!(rows[0]["org_id"], org.as_str());
        assert_eq!(
            session.column("SELECT DISTINCT org_id FROM tenancy.read_audit()"),
            [org.as_str()]
        );
    }
    let tables = dba.column(
        "SELECT relname FROM pg_class WHERE relnamespace = 'tenancy_audit'::regnamespace AND relkind = 'r' ORDER BY 1",
    );
    let own = |org: &str| format!("org_{}", org.replace('-', ""));
    assert!(tables.contains(&own(&orgs[0])), "{tables:?}");
    assert!(!tables.contains(&own(&orgs[1])), "{tables:?}");
    let month =
        dba.text("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', '\"shared_\"YYYY_MM')");
    assert!(tables.contains(&month), "{tables:?}");
    refused(
        dba.attempt(&format!("DELETE FROM tenancy_audit.{month}")),
        "42501",
    );
    fails(
        session.attempt("SET tenancy.dedicated_audit_limit = 9"),
        "42501",
    );
    fails(
        session.attempt(&format!("SELECT * FROM tenancy_audit.{month}")),
        "42501",
    );
}

#[test]
fn many_writers_at_once_lose_nothing() {
    let world = std::sync::Arc::new(World::new());
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let world = world.clone();
            std::thread::spawn(move || {
                let mut session = world.session(if thread % 2 == 0 {
                    "acme.admin"
                } else {
                    "globex.admin"
                });
                for i in 0..25 {
                    session.run(&format!(
                        "INSERT INTO servers (id, name) VALUES ({}, 'x')",
                        1000 + thread * 100 + i
                    ));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    for who in ["acme.owner", "globex.owner"] {
        assert_eq!(log(&mut world.session(who), "servers").len(), 100);
    }
}

#[test]
fn the_dbas_act_in_an_org_stands_in_its_log() {
    let world = World::new();
    let mut dba = world.superuser();
    dba.run(&format!("SET app.current_org = '{}'", world.acme.id));
    let count = dba.count("SELECT count(*) FROM tenancy.audit_log");
    dba.run("SELECT tenancy.set_member_role(tenancy.current_org(), (SELECT id FROM tenancy.users WHERE email = 'viewer@acme.test'), 'member')");
    assert_eq!(
        dba.count("SELECT count(*) FROM tenancy.audit_log"),
        count + 1
    );
    let row = dba
        .json("SELECT * FROM tenancy.audit_log WHERE operation = 'set_member_role'")
        .remove(0);
    assert_eq!(row["db_role"], "postgres");
    assert_eq!(row["result"], "completed");
}

/// As at the start of a month: the shared table of this one is not there yet.
fn first_of_the_month(world: &World) {
    let mut glass = world.break_glass();
    glass.run("UPDATE tenancy.orgs SET audit_store = 'shared'");
    for table in glass.column(
        "SELECT oid::regclass FROM pg_class WHERE relnamespace = 'tenancy_audit'::regnamespace
           AND relname LIKE 'shared%' AND relkind = 'r'",
    ) {
        glass.run(&format!("DROP TABLE {table}"));
    }
}

#[test]
fn the_first_write_of_a_month_makes_the_table_and_may_be_rolled_back() {
    let world = World::new();
    first_of_the_month(&world);
    let mut admin = world.session("acme.admin");
    admin.run("BEGIN; UPDATE sites SET visits = 1 WHERE id = 1; ROLLBACK");
    admin.run("BEGIN; SAVEPOINT s; UPDATE sites SET visits = 1 WHERE id = 1; ROLLBACK TO s");
    admin.run("UPDATE sites SET visits = 2 WHERE id = 1; COMMIT");
    admin.run("UPDATE sites SET visits = 3 WHERE id = 1");
    let rows = log(&mut admin, "sites");
    assert_eq!(rows.len(), 2, "{rows:?}");
    fails(
        admin.attempt(
            "DO $$ DECLARE t text; BEGIN
                 SELECT 'tenancy_audit.shared_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM') INTO t;
                 EXECUTE 'SELECT * FROM ' || t; END $$",
        ),
        "42501",
    );
}

#[test]
fn the_first_writers_of_a_month_do_not_collide() {
    let world = std::sync::Arc::new(World::new());
    first_of_the_month(&world);
    let start = std::sync::Arc::new(std::sync::Barrier::new(8));
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let (world, start) = (world.clone(), start.clone());
            std::thread::spawn(move || {
                let who = if thread % 2 == 0 {
                    "acme.admin"
                } else {
                    "globex.admin"
                };
                let mut session = world.session(who);
                session.run("SELECT count(*) FROM sites");
                start.wait();
                session.run(&format!(
                    "INSERT INTO servers (id, name) VALUES ({}, 'x')",
                    1000 + thread
                ));
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    for who in ["acme.owner", "globex.owner"] {
        assert_eq!(log(&mut world.session(who), "servers").len(), 4);
    }
}

/// A trigger of the application's own that writes down the same rows, as the measure of what the log must hold.
const SHADOW: &str = "
    CREATE TABLE shadow (entry text);
    GRANT ALL ON shadow TO PUBLIC;
    CREATE FUNCTION shadow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO public.shadow VALUES (TG_OP || ' ' || TG_TABLE_NAME || ' ' || CASE TG_OP WHEN 'INSERT' THEN NEW.id ELSE OLD.id END);
        RETURN NULL;
    END $$;
    CREATE TRIGGER shadow_id AFTER INSERT OR DELETE ON sites FOR EACH ROW EXECUTE FUNCTION shadow();
    CREATE TRIGGER shadow_u AFTER UPDATE ON sites FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION shadow();
    CREATE TRIGGER shadow_id AFTER INSERT OR DELETE ON servers FOR EACH ROW EXECUTE FUNCTION shadow();
    CREATE TRIGGER shadow_u AFTER UPDATE ON servers FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION shadow();";

#[track_caller]
fn assert_log_is_whole(world: &World, what: &str) {
    let mut written = world.superuser().column("SELECT entry FROM shadow");
    let mut logged = Vec::new();
    for org in [world.acme, world.globex] {
        let mut dba = world.superuser();
        dba.run(&format!("SET app.current_org = '{}'", org.id));
        logged.extend(dba.column(
            "SELECT operation || ' ' || replace(object, 'public.', '') || ' ' || (key ->> 'id') FROM tenancy.audit_log
             WHERE object IN ('public.sites', 'public.servers')",
        ));
    }
    written.sort();
    logged.sort();
    assert_eq!(logged, written, "{what}");
}

#[test]
fn whatever_writes_the_log_holds_just_that() {
    let world = World::new();
    let mut dba = world.superuser();
    dba.run(SHADOW);
    dba.run(
        "CREATE FUNCTION write(i int) RETURNS int LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.sites (id, name) VALUES (i, 'acme-' || i); RETURN i; END $$;
         CREATE FUNCTION risky(i int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO public.sites (id, name) VALUES (i, 'acme-' || i), (i + 500, 'acme');
             IF i % 2 = 0 THEN RAISE division_by_zero; END IF;
             UPDATE public.sites SET name = 'kept' WHERE id = i;
             RETURN i;
         EXCEPTION WHEN division_by_zero THEN
             UPDATE public.servers SET cpus = cpus + 1 WHERE id = 2; RETURN -i; END $$;
         CREATE PROCEDURE in_steps() LANGUAGE plpgsql AS $$ BEGIN
             FOR i IN 1..6 LOOP
                 INSERT INTO public.sites (id, name) VALUES (6000 + i, 'acme-step');
                 IF i % 2 = 0 THEN ROLLBACK; ELSE COMMIT; END IF;
             END LOOP; END $$;
         CREATE TABLE plain (id int); INSERT INTO plain VALUES (7001), (7002); GRANT ALL ON plain TO PUBLIC;
         CREATE FUNCTION nested() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             UPDATE public.servers SET cpus = cpus + 1 WHERE id = 2; RETURN NULL; END $$;
         CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             UPDATE public.servers SET cpus = cpus + 10 WHERE id = 3; RETURN NULL; END $$;
         CREATE TRIGGER nested AFTER UPDATE OF visits ON sites FOR EACH ROW EXECUTE FUNCTION nested();
         CREATE CONSTRAINT TRIGGER late AFTER UPDATE OF certificate ON sites DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION late()",
    );
    let gid = format!("{}_audit", world.db.name);
    let acts = [
        "INSERT INTO sites (id, name) SELECT i, 'acme-' || i FROM generate_series(1001, 1500) i".to_string(),
        "UPDATE sites SET visits = 5 WHERE id <= 3".to_string(),
        "UPDATE sites SET certificate = 'new' WHERE id <= 2".to_string(),
        "BEGIN; UPDATE sites SET certificate = 'newer' WHERE id <= 2; SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK".to_string(),
        "BEGIN; UPDATE sites SET certificate = 'newer' WHERE id <= 2; COMMIT".to_string(),
        "SELECT write(i) FROM generate_series(2001, 2010) i".to_string(),
        "BEGIN; DECLARE c CURSOR FOR SELECT write(i) FROM generate_series(2101, 2110) i; FETCH 3 FROM c; CLOSE c; COMMIT".to_string(),
        "BEGIN; DECLARE c CURSOR FOR SELECT write(i) FROM generate_series(2201, 2210) i; FETCH 3 FROM c; COMMIT".to_string(),
        "BEGIN; DECLARE c CURSOR FOR SELECT write(i) FROM generate_series(2301, 2310) i; FETCH 3 FROM c; SAVEPOINT s; FETCH 2 FROM c; ROLLBACK TO s; COMMIT".to_string(),
        "DO $$ BEGIN FOR i IN 3001..3040 LOOP BEGIN
             INSERT INTO sites (id, name) VALUES (i, 'acme-' || i);
             IF i % 3 = 0 THEN RAISE division_by_zero; END IF;
             UPDATE sites SET name = 'again' WHERE id = i;
         EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$".to_string(),
        "SELECT risky(i) FROM generate_series(4001, 4020) i".to_string(),
        "UPDATE sites SET visits = visits + 1 WHERE id = CASE WHEN risky(4100) < 0 THEN 1 ELSE 2 END".to_string(),
        "CALL in_steps()".to_string(),
        "CREATE TEMP TABLE made AS SELECT write(i) FROM generate_series(6101, 6103) i".to_string(),
        "EXPLAIN ANALYZE INSERT INTO sites (id, name) VALUES (6201, 'explained')".to_string(),
        "PREPARE p AS INSERT INTO sites (id, name) VALUES (6202, 'prepared'); EXECUTE p; DEALLOCATE p".to_string(),
        "CREATE TEMP TABLE altered (id int); INSERT INTO altered VALUES (1), (2); ALTER TABLE altered ADD COLUMN w int DEFAULT write((random() * 1000000)::int + 100000)".to_string(),
        "BEGIN; SAVEPOINT a; UPDATE sites SET name = 'a' WHERE id = 1; SAVEPOINT b; UPDATE sites SET name = 'b' WHERE id = 2;
         ROLLBACK TO a; UPDATE sites SET name = 'c' WHERE id = 3; RELEASE a; COMMIT".to_string(),
        "WITH d AS (DELETE FROM sites WHERE id > 3030 RETURNING *), i AS (INSERT INTO sites (id, name) SELECT id + 5000, name FROM d RETURNING id)
         UPDATE servers SET cpus = (SELECT count(*) FROM i) WHERE id = 1".to_string(),
        "INSERT INTO sites (id, name) SELECT id, 'acme-x' FROM generate_series(1400, 1600) id ON CONFLICT (id) DO UPDATE SET name = excluded.name".to_string(),
        "MERGE INTO sites t USING generate_series(1300, 1700) n ON t.id = n WHEN MATCHED AND n % 2 = 0 THEN DELETE
             WHEN MATCHED THEN UPDATE SET name = 'merged' WHEN NOT MATCHED THEN INSERT (id, name) VALUES (n, 'merged')".to_string(),
        "UPDATE servers SET id = id + 10 WHERE id = 1".to_string(),
        "DELETE FROM servers WHERE id = 11".to_string(),
        format!("BEGIN; UPDATE sites SET name = 'prepared' WHERE id = 1; PREPARE TRANSACTION '{gid}'; COMMIT PREPARED '{gid}'"),
        format!("BEGIN; UPDATE sites SET name = 'unprepared' WHERE id = 1; PREPARE TRANSACTION '{gid}'; ROLLBACK PREPARED '{gid}'"),
        "UPDATE sites SET visits = visits + 1 WHERE id = 2; UPDATE sites SET visits = visits + 1 WHERE id = 4".to_string(),
    ];
    let mut admin = world.session("acme.admin");
    for act in &acts {
        // Statement by statement, since some may not stand in one message with others.
        if act.contains("PREPARED") || act.contains("CALL") {
            act.split("; ").for_each(|sql| {
                admin.run(sql);
            });
        } else {
            admin.run(act);
        }
        assert_log_is_whole(&world, act);
    }
    {
        use std::io::Read;
        let mut text = String::new();
        admin
            .copy_out("COPY (INSERT INTO sites (id, name) SELECT id, 'copied' FROM plain RETURNING id) TO STDOUT")
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "7001\n7002\n");
        assert_log_is_whole(&world, "COPY of a RETURNING");
        // The driver's portal, which gives the rows of an INSERT in portions.
        let mut transaction = admin.transaction().unwrap();
        let portal = transaction
            .bind("INSERT INTO sites (id, name) SELECT i, 'portal' FROM generate_series(7101, 7110) i RETURNING id", &[])
            .unwrap();
        assert_eq!(transaction.query_portal(&portal, 3).unwrap().len(), 3);
        transaction.commit().unwrap();
        assert_log_is_whole(&world, "a portal read in part");
    }
    // Failures leave nothing, wherever they come in the statement.
    for act in [
        "INSERT INTO sites (id, name) SELECT i, CASE i WHEN 9050 THEN NULL ELSE 'x' END FROM generate_series(9001, 9060) i",
        "UPDATE sites SET visits = 10 / (id - 4) WHERE id < 10",
        "INSERT INTO sites (id, name, server_id) SELECT i, 'x', CASE i WHEN 9050 THEN 101 END FROM generate_series(9001, 9060) i",
        "BEGIN; UPDATE sites SET name = 'x' WHERE id = 1; SELECT 1 / 0",
    ] {
        admin.attempt(act).unwrap_err();
        admin.attempt("ROLLBACK").ok();
        assert_log_is_whole(&world, act);
    }
    // After an error the next statement of the same transaction and session writes its own rows and no more.
    admin.run("BEGIN; SAVEPOINT s");
    admin
        .attempt("UPDATE sites SET visits = 10 / (id - 4) WHERE id < 10")
        .unwrap_err();
    admin.run("ROLLBACK TO s; UPDATE sites SET name = 'last' WHERE id = 4; COMMIT");
    assert_log_is_whole(&world, "after an error");
    world
        .break_glass()
        .run("UPDATE sites SET visits = 70; DELETE FROM servers WHERE id = 101");
    assert_log_is_whole(&world, "break-glass across orgs");
    // The log tells the order within a transaction, and what the values were.
    let last = admin.json(
        "SELECT * FROM tenancy.audit_log WHERE object = 'public.sites' AND new->>'name' = 'last'",
    );
    assert_eq!(last.len(), 1);
    assert_eq!(last[0]["key"], json!({"id": 4}));
}

#[test]
fn the_log_is_readable_within_its_own_transaction_and_by_its_own_triggers() {
    let world = World::new();
    world.superuser().run(
        "CREATE TABLE counted (n bigint); GRANT ALL ON counted TO PUBLIC;
         CREATE FUNCTION count_log() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO public.counted SELECT count(*) FROM tenancy.audit_log WHERE object = 'public.sites'; RETURN NULL; END $$;
         CREATE TRIGGER zz AFTER UPDATE ON sites FOR EACH STATEMENT EXECUTE FUNCTION count_log()",
    );
    let mut admin = world.session("acme.admin");
    admin.run("BEGIN; UPDATE sites SET visits = 1");
    assert_eq!(log(&mut admin, "sites").len(), 6);
    admin.run("UPDATE sites SET visits = 2 WHERE id = 1; COMMIT");
    let rows = log(&mut admin, "sites");
    assert_eq!(rows.len(), 7);
    assert_eq!(rows[6]["old"], json!({"visits": 1}));
    assert_eq!(rows[6]["new"], json!({"visits": 2}));
    // No statement saw more than there was.
    assert!(admin.is_true("SELECT bool_and(n <= 7) FROM counted"));
}
