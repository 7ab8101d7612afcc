//! Partitioned and inherited tables: every table of a tree is protected as itself, and so is what is made or attached
//! later. Section 5 of the specification; attacks B1, C1, C6, C7, D1, D6.

use pg_tenancy_tests::{Rows, Session, World, assert_same_error, fails, refused};

/// Events of both orgs in a tree of two levels: a range by day, one of its partitions split again, a default one.
/// Leaves are made with columns in another order and with a dropped one, so that nothing may rest on numbers.
const EVENTS: &str = "
    CREATE TABLE events (
        id int, day date, org_id uuid, note text, secret text NOT NULL DEFAULT 'none', PRIMARY KEY (id, day)
    ) PARTITION BY RANGE (day);
    CREATE TABLE events_24 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    CREATE TABLE events_25 (gone int, secret text NOT NULL DEFAULT 'none', org_id uuid, note text, day date NOT NULL, id int NOT NULL)
        PARTITION BY LIST (id);
    ALTER TABLE events_25 DROP gone;
    ALTER TABLE events ATTACH PARTITION events_25 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    CREATE TABLE events_25_odd PARTITION OF events_25 FOR VALUES IN (1, 3, 5, 101, 103, 105);
    CREATE TABLE events_25_rest PARTITION OF events_25 DEFAULT;
    CREATE TABLE events_rest PARTITION OF events DEFAULT;
    GRANT ALL ON events, events_24, events_25, events_25_odd, events_25_rest, events_rest TO PUBLIC;";

const TREE: [&str; 6] = [
    "events",
    "events_24",
    "events_25",
    "events_25_odd",
    "events_25_rest",
    "events_rest",
];

const ACTIONS: &str = r#"{"select": "server:read", "insert": "server:create", "update": "server:update",
    "delete": "server:delete", "columns": {"secret": "server:firewall"}}"#;

/// Three rows of each org in 2024, 2025 and 2030: ids from 1 and from 101.
fn events(world: &World) {
    let mut dba = world.superuser();
    dba.run(EVENTS);
    for (org, first) in [(world.acme, 0), (world.globex, 100)] {
        dba.run(&format!(
            "INSERT INTO events (id, day, org_id, note)
             SELECT {first} + i, d::date, '{}', '{}-' || i
             FROM unnest(ARRAY['2024-05-05', '2025-05-05', '2030-05-05']) d, generate_series(1, 3) i",
            org.id, org.slug
        ));
    }
    for table in TREE {
        dba.run(&format!(
            "ALTER TABLE {table} OWNER TO {}",
            world.table_owner()
        ));
    }
    dba.run(&format!(
        "GRANT ALL ON SCHEMA public TO {}",
        world.table_owner()
    ));
}

fn protected_events() -> World {
    let world = World::people();
    events(&world);
    world.superuser().run(&format!(
        "SELECT tenancy.protect('events', permissions => '{ACTIONS}')"
    ));
    world
}

/// Everything that protection may touch, of each table of a tree.
fn snapshot(dba: &mut Session, tables: &[&str]) -> Rows {
    let mut all = Rows::new();
    for table in tables {
        for sql in [
            format!("SELECT polname, pg_get_expr(polqual, polrelid) FROM pg_policy WHERE polrelid = '{table}'::regclass ORDER BY 1"),
            format!("SELECT tgname, tgenabled, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = '{table}'::regclass AND NOT tgisinternal ORDER BY 1"),
            format!("SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = '{table}'::regclass"),
            format!(
                "SELECT attname, attnotnull, attstattarget, pg_get_expr(adbin, adrelid) FROM pg_attribute
                 LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
                 WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
            ),
            format!("SELECT indexrelid::regclass, indisvalid FROM pg_index WHERE indrelid = '{table}'::regclass ORDER BY 1::text"),
        ] {
            all.extend(dba.rows(&sql));
        }
    }
    all
}

/// What a table must have to be closed by itself.
#[track_caller]
fn assert_closed(dba: &mut Session, table: &str) {
    assert_eq!(
        dba.text(&format!(
            "SELECT concat_ws(' ', c.relrowsecurity, c.relforcerowsecurity,
                 (SELECT count(*) FROM pg_policy WHERE polrelid = c.oid AND polname LIKE 'tenancy\\_%'),
                 (SELECT count(*) FROM pg_trigger WHERE tgrelid = c.oid AND tgname LIKE '0\\_tenancy%' AND tgenabled = 'A')
                     + (c.relkind = 'p')::int,
                 (SELECT attnotnull FROM pg_attribute WHERE attrelid = c.oid AND attname = 'org_id'),
                 (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_attribute a ON a.attrelid = adrelid AND a.attnum = adnum
                  WHERE adrelid = c.oid AND attname = 'org_id'),
                 (SELECT count(*) FROM tenancy.protected_tables WHERE table_name = c.oid))
             FROM pg_class c WHERE c.oid = '{table}'::regclass"
        )),
        "t t 8 3 t tenancy.current_org() 1",
        "{table}"
    );
}

// ---- Reading and writing

#[test]
fn c1_every_level_shows_one_orgs_rows_only() {
    let world = protected_events();
    let mut dba = world.superuser();
    for (table, rows) in TREE.into_iter().zip([9, 3, 3, 2, 1, 3]) {
        assert_closed(&mut dba, table);
        for (who, expected) in [
            ("acme.viewer", (rows, 0)),
            ("globex.owner", (0, rows)),
            ("stranger", (0, 0)),
        ] {
            let mut session = world.session(who);
            assert_eq!(world.seen(&mut session, table), expected, "{who} {table}");
        }
        // The owner of the table is no exception (B1), nor is a role that reads all data (B4).
        let mut owner = world.db.login(&world.table_owner());
        assert_eq!(world.seen(&mut owner, table), (0, 0), "{table}");
        assert_eq!(world.seen(&mut world.nobody(), table), (0, 0), "{table}");
    }
}

#[test]
fn writes_are_held_to_the_org_on_every_level() {
    let world = protected_events();
    for table in TREE {
        let mut admin = world.session("acme.admin");
        let day = match table {
            "events_24" => "2024-06-06",
            "events_rest" => "2031-06-06",
            _ => "2025-06-06",
        };
        let id = if table == "events_25_odd" { 5 } else { 6 };
        // The default fills the org in, whichever table is named.
        admin.run(&format!(
            "INSERT INTO {table} (id, day) VALUES ({id}, '{day}')"
        ));
        assert_eq!(
            admin.text(&format!(
                "SELECT org_id FROM events WHERE id = {id} AND day = '{day}'"
            )),
            world.acme.id.to_string()
        );
        admin.run(&format!(
            "DELETE FROM {table} WHERE id = {id} AND day = '{day}'"
        ));
        // Another org's row is neither made, nor moved, nor found.
        refused(
            admin.attempt(&format!(
                "INSERT INTO {table} (id, day, org_id) VALUES ({id}, '{day}', '{}')",
                world.globex.id
            )),
            "42501",
        );
        refused(
            admin.attempt(&format!(
                "UPDATE {table} SET org_id = '{}'",
                world.globex.id
            )),
            "42501",
        );
        assert_eq!(admin.run(&format!("DELETE FROM {table} WHERE id > 100")), 0);
        refused(admin.attempt(&format!("TRUNCATE {table}")), "42501");
        // Roles.
        for sql in [
            "INSERT INTO {} (id, day) VALUES (7, '2025-07-07')",
            "UPDATE {} SET note = 'x'",
            "DELETE FROM {}",
        ] {
            let sql = sql.replace("{}", table);
            let error = refused(world.session("acme.viewer").attempt(&sql), "42501");
            assert!(error.message().contains("server:"), "{error:?}");
            refused(world.nobody().attempt(&sql), "42501");
        }
    }
    let rows = world.hash("events", world.globex);
    let mut owner = world.session("acme.owner");
    assert_eq!(owner.run("UPDATE events SET note = 'y'"), 9);
    assert_eq!(owner.run("DELETE FROM events"), 9);
    assert_eq!(world.hash("events", world.globex), rows);
}

#[test]
fn c8_merge_upsert_returning_and_copy_through_the_partitioned_table() {
    let world = protected_events();
    let mut admin = world.session("acme.admin");
    let before = world.hash("events", world.globex);
    admin.run(
        "MERGE INTO events e USING (VALUES (1, date '2024-05-05'), (101, '2024-05-05'), (50, '2025-05-05')) v (i, d)
         ON e.id = v.i AND e.day = v.d WHEN MATCHED THEN UPDATE SET note = 'merged'
         WHEN NOT MATCHED AND i < 100 THEN INSERT (id, day) VALUES (v.i, v.d)",
    );
    assert_eq!(
        admin.column("SELECT id FROM events WHERE note = 'merged'"),
        ["1"]
    );
    assert_eq!(admin.count("SELECT count(*) FROM events WHERE id = 50"), 1);
    // A MERGE that reads no column would match every org's rows.
    for table in ["events", "events_25", "events_24"] {
        refused(
            admin.attempt(&format!(
                "MERGE INTO {table} USING (VALUES (1)) v (i) ON true WHEN MATCHED THEN DELETE"
            )),
            "42501",
        );
    }
    admin.run(
        "INSERT INTO events (id, day, note) VALUES (1, '2025-05-05', 'upsert') ON CONFLICT (id, day) DO UPDATE SET note = 'upserted'",
    );
    assert_eq!(
        admin.column("WITH u AS (UPDATE events SET note = 'r' WHERE day < '2025-01-01' RETURNING id) SELECT id FROM u ORDER BY id"),
        ["1", "2", "3"]
    );
    let copied =
        admin.column("SELECT count(*) FROM (SELECT * FROM events TABLESAMPLE BERNOULLI (100)) t");
    assert_eq!(copied, ["10"]);
    assert_eq!(world.hash("events", world.globex), before);
}

#[test]
fn predicates_are_index_conditions_in_every_partition() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(
        "CREATE TABLE wide (id int, org_id uuid) PARTITION BY HASH (id);
         CREATE TABLE wide_0 PARTITION OF wide FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE wide_1 PARTITION OF wide FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         CREATE INDEX mine ON wide_0 (org_id, id); GRANT ALL ON wide TO PUBLIC",
    );
    dba.run(&format!(
        "INSERT INTO wide SELECT i, CASE WHEN i % 100 = 0 THEN '{}'::uuid ELSE '{}' END FROM generate_series(1, 40000) i",
        world.acme.id, world.globex.id
    ));
    dba.run("SELECT tenancy.protect('wide'); ANALYZE wide");
    // One that serves is used, one is made where there is none, and none on the partitioned table itself.
    assert_eq!(
        dba.column("SELECT indexrelid::regclass FROM pg_index WHERE indrelid::regclass::text LIKE 'wide%' ORDER BY 1::text"),
        ["mine", "wide_1_org_id_idx"]
    );
    let mut viewer = world.session("acme.viewer");
    let plan = viewer.explain("COSTS OFF", "SELECT * FROM wide");
    assert_eq!(
        plan.matches("Index Cond: (org_id = tenancy.org_if('data:read'::text))")
            .count(),
        2,
        "{plan}"
    );
    let (estimated, actual) = viewer.estimate("SELECT * FROM wide");
    assert!(
        estimated < actual * 2.0 && actual < estimated * 2.0,
        "{estimated} for {actual}"
    );
}

// ---- The audit

#[test]
fn the_log_names_the_partitioned_table_wherever_the_row_lies() {
    let world = protected_events();
    let mut admin = world.session("acme.admin");
    admin.run(
        "INSERT INTO events (id, day, note) VALUES (5, '2024-06-06', 'a');
         UPDATE events_24 SET note = 'b' WHERE id = 5;
         DELETE FROM events WHERE id = 5",
    );
    let lines = |admin: &mut Session| {
        admin.rows(
            "SELECT operation, object, key ->> 'id', old ->> 'note', new ->> 'note' FROM tenancy.audit_log
             WHERE object LIKE 'public.%' ORDER BY at, n",
        )
    };
    let text = |v: &[&str]| -> Vec<Option<String>> {
        v.iter()
            .map(|t| (!t.is_empty()).then(|| t.to_string()))
            .collect()
    };
    assert_eq!(
        lines(&mut admin),
        [
            text(&["INSERT", "public.events", "5", "", "a"]),
            text(&["UPDATE", "public.events", "5", "a", "b"]),
            text(&["DELETE", "public.events", "5", "b", ""]),
        ]
    );
    // Also after it was renamed.
    world
        .superuser()
        .run("ALTER TABLE events RENAME TO happenings");
    admin.run("UPDATE events_24 SET note = 'c' WHERE id = 1");
    assert_eq!(
        lines(&mut admin)[3][1].as_deref(),
        Some("public.happenings")
    );
}

#[test]
fn a_row_that_moves_to_another_partition_is_deleted_and_inserted() {
    let world = protected_events();
    let mut admin = world.session("acme.admin");
    let hash = world.hash("events", world.globex);
    assert_eq!(
        admin.column("UPDATE events SET day = day + 366, note = 'moved' WHERE id = 1 AND day < '2026-01-01' RETURNING tableoid::regclass"),
        ["events_25_odd", "events_rest"]
    );
    assert_eq!(admin.run("UPDATE events_25 SET id = 4 WHERE id = 3"), 1);
    let lines = admin.rows(
        "SELECT operation, object, coalesce(key ->> 'id', new ->> 'id') FROM tenancy.audit_log
         WHERE object LIKE 'public.%' ORDER BY at, n",
    );
    let operations: Vec<_> = lines.iter().map(|l| l[0].clone().unwrap()).collect();
    assert_eq!(
        operations,
        ["DELETE", "INSERT", "DELETE", "INSERT", "DELETE", "INSERT"]
    );
    assert!(
        lines
            .iter()
            .all(|l| l[1].as_deref() == Some("public.events"))
    );
    // A role that may update but not delete may move rows: it is an UPDATE.
    world.superuser().run(
        r#"SELECT tenancy.unprotect('events');
           SELECT tenancy.protect('events', permissions => '{"update": "site:deploy", "delete": "server:delete", "insert": "server:create"}')"#,
    );
    assert_eq!(
        world
            .session("acme.member")
            .run("UPDATE events SET day = day + 366 WHERE id = 2 AND day = '2024-05-05'"),
        1
    );
    // Moving a row to another org is refused, whatever else moves.
    refused(
        admin.attempt(&format!(
            "UPDATE events SET day = day + 366, org_id = '{}' WHERE id = 3",
            world.globex.id
        )),
        "42501",
    );
    assert_eq!(world.hash("events", world.globex), hash);
}

#[test]
fn a_column_with_an_action_of_its_own_is_compared_when_the_row_moves() {
    let world = protected_events();
    let mut dba = world.superuser();
    // The member may update, but not what needs server:firewall.
    dba.run(
        r#"SELECT tenancy.unprotect('events');
           SELECT tenancy.protect('events', permissions => '{"columns": {"secret": "server:firewall"}}')"#,
    );
    let mut member = world.session("acme.member");
    let secrets = "SELECT string_agg(secret, ',') FROM events WHERE org_id IS NOT NULL";
    let before = member.text(secrets);
    for sql in [
        "UPDATE events SET secret = 'told' WHERE id = 1",
        "UPDATE events SET secret = 'told', day = day + 366 WHERE id = 1 AND day = '2024-05-05'",
        "UPDATE events SET secret = CASE WHEN id = 2 THEN 'told' ELSE secret END, day = day + 366 WHERE day = '2024-05-05'",
        "UPDATE events_25 SET secret = 'told', id = 8 WHERE id = 1",
    ] {
        let error = refused(member.attempt(sql), "42501");
        assert!(error.message().contains("server:firewall"), "{error:?}");
    }
    assert_eq!(member.text(secrets), before);
    // Saved unchanged it passes, also where triggers run statements between the two halves.
    dba.run(
        "CREATE FUNCTION busy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF pg_trigger_depth() < 2 THEN INSERT INTO events (id, day, secret) VALUES (OLD.id + 1000, '2030-01-01', 'fresh'); END IF;
             RETURN NULL; END $$;
         CREATE TRIGGER zz_busy AFTER DELETE ON events_24 FOR EACH ROW EXECUTE FUNCTION busy()",
    );
    assert_eq!(
        member.run("UPDATE events SET secret = 'none', day = day + 366 WHERE day = '2024-05-05'"),
        3
    );
    // And who holds the action may.
    assert_eq!(
        world
            .session("acme.admin")
            .run("UPDATE events SET secret = 'told', day = '2024-02-02' WHERE id = 1 AND day = '2025-05-06'"),
        1
    );
}

// ---- Partitions made later

#[test]
fn c1_a_new_partition_is_protected_at_once() {
    let world = protected_events();
    let mut owner = world.db.login(&world.table_owner());
    owner.run("CREATE TABLE events_26 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')");
    owner.run("CREATE TABLE events_27 PARTITION OF events FOR VALUES FROM ('2027-01-01') TO ('2028-01-01') PARTITION BY LIST (id)");
    owner.run("CREATE TABLE events_27_rest PARTITION OF events_27 DEFAULT");
    // A table of its own, with rows, that is attached; and a whole tree.
    owner.run(&format!(
        "CREATE TABLE events_28 (id int NOT NULL, day date NOT NULL, org_id uuid, note text, secret text NOT NULL DEFAULT 'none'); ALTER TABLE events_28 ADD PRIMARY KEY (id, day);
         ALTER TABLE events_28 ALTER org_id DROP NOT NULL;
         INSERT INTO events_28 VALUES (28, '2028-02-02', '{}', 'acme'), (128, '2028-02-02', '{}', 'globex')",
        world.acme.id, world.globex.id
    ));
    owner.run("ALTER TABLE events_28 ALTER org_id SET NOT NULL; ALTER TABLE events ATTACH PARTITION events_28 FOR VALUES FROM ('2028-01-01') TO ('2029-01-01')");
    owner.run(
        "CREATE TABLE events_29 (id int NOT NULL, day date NOT NULL, org_id uuid NOT NULL, note text, secret text NOT NULL)
             PARTITION BY LIST (id); CREATE TABLE events_29_rest PARTITION OF events_29 DEFAULT;
         ALTER TABLE events ATTACH PARTITION events_29 FOR VALUES FROM ('2029-01-01') TO ('2030-01-01')",
    );
    // Inside other commands, by a function that runs with its owner's rights, and in replica mode.
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE FUNCTION make_partition() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
             EXECUTE 'CREATE TABLE public.events_23 PARTITION OF public.events FOR VALUES FROM (''2023-01-01'') TO (''2024-01-01'')'; END $$;
         ALTER FUNCTION make_partition() OWNER TO {}",
        world.table_owner()
    ));
    world.nobody().run("SELECT make_partition()");
    dba.run("CREATE SCHEMA more CREATE TABLE events_22 PARTITION OF public.events FOR VALUES FROM ('2022-01-01') TO ('2023-01-01')");
    dba.run("SET session_replication_role = replica; CREATE TABLE events_21 PARTITION OF events FOR VALUES FROM ('2021-01-01') TO ('2022-01-01')");
    dba.run("SET session_replication_role = origin");
    for table in [
        "events_26",
        "events_27",
        "events_27_rest",
        "events_28",
        "events_29",
        "events_29_rest",
        "events_23",
        "more.events_22",
        "events_21",
    ] {
        assert_closed(&mut dba, table);
        dba.run(&format!("GRANT ALL ON {table} TO PUBLIC"));
    }
    assert_eq!(
        world.seen(&mut world.session("acme.viewer"), "events_28"),
        (1, 0)
    );
    let mut admin = world.session("acme.admin");
    admin.run("INSERT INTO events_26 (id, day) VALUES (6, '2026-06-06'); INSERT INTO events (id, day) VALUES (7, '2027-07-07')");
    assert_eq!(
        world.seen(&mut world.session("globex.viewer"), "events_27_rest"),
        (0, 0)
    );
    assert_eq!(
        admin.count("SELECT count(*) FROM tenancy.audit_log WHERE operation = 'INSERT' AND object = 'public.events'"),
        2
    );
    // The whole tree goes back to what it was.
    dba.run("SELECT tenancy.unprotect('events')");
    assert_eq!(
        dba.count("SELECT count(*) FROM tenancy.protected_tables"),
        0
    );
    assert_eq!(
        dba.count(
            "SELECT count(*) FROM pg_attrdef JOIN pg_attribute a ON a.attrelid = adrelid AND a.attnum = adnum WHERE attname = 'org_id'"
        ),
        0
    );
    dba.run("SELECT tenancy.uninstall(); DROP EXTENSION pg_tenancy");
}

#[test]
fn what_breaks_a_rule_is_not_attached() {
    let world = protected_events();
    let mut dba = world.superuser();
    dba.run(
        "CREATE TABLE homeless (id int NOT NULL, day date NOT NULL, org_id uuid, note text, secret text NOT NULL);
         INSERT INTO homeless (id, day, secret) VALUES (1, '2026-01-01', 'none')",
    );
    // PostgreSQL wants the parent's NOT NULL first, and that is where the rows show.
    fails(
        dba.attempt("ALTER TABLE events ATTACH PARTITION homeless FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')"),
        "42804",
    );
    // A foreign table has no row security. (Below a unique index PostgreSQL refuses it itself.)
    dba.run(
        "CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
         CREATE TABLE keyless (id int, org_id uuid) PARTITION BY LIST (id); SELECT tenancy.protect('keyless');
         CREATE TABLE plain (id int, org_id uuid); SELECT tenancy.protect('plain');
         CREATE FOREIGN TABLE remote (id int, org_id uuid NOT NULL) SERVER nowhere",
    );
    for sql in [
        "CREATE FOREIGN TABLE far PARTITION OF keyless DEFAULT SERVER nowhere",
        "CREATE FOREIGN TABLE far () INHERITS (plain) SERVER nowhere",
        "ALTER TABLE keyless ATTACH PARTITION remote DEFAULT",
        "ALTER FOREIGN TABLE remote INHERIT plain",
    ] {
        refused(dba.attempt(sql), "42809");
    }
    // References into another org do not come in by ATTACH.
    dba.run(&format!(
        "CREATE TABLE owners (id int PRIMARY KEY, org_id uuid); INSERT INTO owners VALUES (1, '{}'), (2, '{}');
         SELECT tenancy.protect('owners');
         CREATE TABLE parts (id int, org_id uuid, owner int REFERENCES owners) PARTITION BY LIST (id); SELECT tenancy.protect('parts');
         CREATE TABLE part_1 (id int, org_id uuid NOT NULL, owner int); INSERT INTO part_1 VALUES (1, '{}', 2)",
        world.acme.id, world.globex.id, world.acme.id
    ));
    fails(
        dba.attempt("ALTER TABLE parts ATTACH PARTITION part_1 FOR VALUES IN (1)"),
        "23503",
    );
    assert_eq!(
        dba.count("SELECT count(*) FROM pg_inherits WHERE inhrelid = 'part_1'::regclass"),
        0
    );
    dba.run(
        "UPDATE part_1 SET owner = 1; ALTER TABLE parts ATTACH PARTITION part_1 FOR VALUES IN (1)",
    );
    assert_closed(&mut dba, "part_1");
}

#[test]
fn c1_a_detached_partition_stays_protected_and_comes_back() {
    let world = protected_events();
    let mut dba = world.superuser();
    dba.run("ALTER TABLE events DETACH PARTITION events_24");
    assert_closed(&mut dba, "events_24");
    assert_eq!(
        world.seen(&mut world.session("acme.viewer"), "events_24"),
        (3, 0)
    );
    let mut admin = world.session("acme.admin");
    admin.run("UPDATE events_24 SET note = 'alone' WHERE id = 1");
    assert_eq!(
        admin.text("SELECT object FROM tenancy.audit_log ORDER BY at DESC, n DESC LIMIT 1"),
        "public.events_24"
    );
    dba.run("ALTER TABLE events ATTACH PARTITION events_24 FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')");
    assert_closed(&mut dba, "events_24");
    admin.run("UPDATE events_24 SET note = 'home' WHERE id = 1");
    assert_eq!(
        admin.text("SELECT object FROM tenancy.audit_log ORDER BY at DESC, n DESC LIMIT 1"),
        "public.events"
    );
    dba.run("DROP TABLE events_rest");
    dba.run("ALTER TABLE events DETACH PARTITION events_24 CONCURRENTLY");
    assert_closed(&mut dba, "events_24");
    // Protected in another way it cannot come back; unprotected it is adopted.
    dba.run("SELECT tenancy.unprotect('events_24'); SELECT tenancy.protect('events_24')");
    let attach = "ALTER TABLE events ATTACH PARTITION events_24 FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')";
    refused(dba.attempt(attach), "42710");
    dba.run(
        "SELECT tenancy.unprotect('events_24'); ALTER TABLE events_24 ALTER org_id SET NOT NULL",
    );
    dba.run(attach);
    assert_closed(&mut dba, "events_24");
}

#[test]
fn c1_a_protected_table_does_not_come_under_an_unprotected_one() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(
        "CREATE TABLE open_parent (id int, org_id uuid) PARTITION BY LIST (id);
         CREATE TABLE closed (id int, org_id uuid); SELECT tenancy.protect('closed');
         CREATE TABLE plain_parent (id int, org_id uuid)",
    );
    for sql in [
        "ALTER TABLE open_parent ATTACH PARTITION closed FOR VALUES IN (1)",
        "ALTER TABLE closed INHERIT plain_parent",
        "CREATE TABLE both_of () INHERITS (closed, plain_parent)",
    ] {
        let error = refused(dba.attempt(sql), "42809");
        assert!(error.message().contains("not protected"), "{error:?}");
    }
    // Nor is a partition or child protected by itself.
    dba.run("CREATE TABLE leaf PARTITION OF open_parent DEFAULT; CREATE TABLE child () INHERITS (plain_parent)");
    for table in ["leaf", "child"] {
        refused(
            dba.attempt(&format!("SELECT tenancy.protect('{table}')")),
            "42809",
        );
    }
    // With the parent they all are.
    dba.run("SELECT tenancy.protect('open_parent'); SELECT tenancy.protect('plain_parent')");
    for table in ["open_parent", "leaf", "plain_parent", "child"] {
        assert_closed(&mut dba, table);
    }
    dba.run("ALTER TABLE closed INHERIT plain_parent");
    // And they are let go with it only.
    for table in ["leaf", "child", "closed"] {
        refused(
            dba.attempt(&format!("SELECT tenancy.unprotect('{table}')")),
            "42809",
        );
    }
}

#[test]
fn a_restore_is_not_adopted_and_protecting_again_completes_a_tree() {
    let world = protected_events();
    let mut glass = world.break_glass();
    glass.run("CREATE TABLE events_26 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')");
    let mut dba = world.superuser();
    assert_eq!(
        dba.count(
            "SELECT count(*) FROM tenancy.protected_tables WHERE table_name = 'events_26'::regclass"
        ),
        0
    );
    dba.run(&format!(
        "SELECT tenancy.protect('events', permissions => '{ACTIONS}')"
    ));
    assert_closed(&mut dba, "events_26");
}

// ---- What protect() leaves and takes away

#[test]
fn unprotect_leaves_a_tree_as_it_was() {
    let world = World::people();
    events(&world);
    let mut dba = world.superuser();
    // Leaves that differ: one has NOT NULL, one a default, one an index and a policy of its own.
    dba.run(
        "ALTER TABLE events_24 ALTER org_id SET NOT NULL;
         ALTER TABLE events_25 ALTER org_id SET NOT NULL;
         ALTER TABLE events_25_rest ALTER org_id SET DEFAULT '00000000-0000-0000-0000-000000000000';
         CREATE INDEX own ON events_rest (org_id); ALTER TABLE events_rest ENABLE ROW LEVEL SECURITY;
         CREATE POLICY mine ON events_rest USING (id > 0)",
    );
    let before = snapshot(&mut dba, &TREE);
    dba.run("SELECT tenancy.protect('events')");
    assert_ne!(snapshot(&mut dba, &TREE), before);
    dba.run("SELECT tenancy.unprotect('events')");
    assert_eq!(snapshot(&mut dba, &TREE), before);
    // By its owner too, who needs no other right.
    let mut owner = world.db.login(&world.table_owner());
    owner.run("SELECT tenancy.protect('events'); SELECT tenancy.unprotect('events')");
    assert_eq!(snapshot(&mut dba, &TREE), before);
    // Who owns a part only is not asked to speak for the whole.
    dba.run("ALTER TABLE events_rest OWNER TO postgres");
    refused(owner.attempt("SELECT tenancy.protect('events')"), "42501");
    assert_eq!(snapshot(&mut dba, &TREE), before);
}

#[test]
fn rows_that_break_a_rule_are_counted_over_the_whole_tree() {
    let world = World::people();
    events(&world);
    let mut dba = world.superuser();
    dba.run(
        "INSERT INTO events (id, day) SELECT 500 + i, d::date FROM unnest(ARRAY['2024-01-01', '2025-01-01', '2031-01-01']) d, generate_series(1, 2) i",
    );
    let before = snapshot(&mut dba, &TREE);
    let error = refused(dba.attempt("SELECT tenancy.protect('events')"), "23502");
    assert!(
        error.message().contains("\"events\" has 6 rows"),
        "{error:?}"
    );
    assert_eq!(snapshot(&mut dba, &TREE), before);
}

// ---- Inheritance

const ANIMALS: &str = "
    CREATE TABLE assets (id int, org_id uuid, name text);
    CREATE TABLE cars (wheels int) INHERITS (assets);
    CREATE TABLE electric_cars (range int) INHERITS (cars);
    GRANT ALL ON assets, cars, electric_cars TO PUBLIC;";

fn assets(world: &World) {
    let mut dba = world.superuser();
    dba.run(ANIMALS);
    for (org, first) in [(world.acme, 0), (world.globex, 100)] {
        for table in ["assets", "cars", "electric_cars"] {
            dba.run(&format!(
                "INSERT INTO {table} (id, org_id, name) VALUES ({first} + 1, '{}', '{}')",
                org.id, org.slug
            ));
        }
    }
}

#[test]
fn c1_inheritance_children_come_along() {
    let world = World::people();
    assets(&world);
    let mut dba = world.superuser();
    let tables = ["assets", "cars", "electric_cars"];
    let before = snapshot(&mut dba, &tables);
    dba.run("SELECT tenancy.protect('assets')");
    dba.run("CREATE TABLE bikes (gears int) INHERITS (assets); GRANT ALL ON bikes TO PUBLIC");
    dba.run("CREATE TABLE boats (sails int, id int, org_id uuid, name text); ALTER TABLE boats ALTER org_id SET NOT NULL, INHERIT assets; GRANT ALL ON boats TO PUBLIC");
    for (table, rows) in [
        ("assets", 3),
        ("cars", 2),
        ("electric_cars", 1),
        ("bikes", 0),
        ("boats", 0),
    ] {
        assert_closed(&mut dba, table);
        assert_eq!(
            world.seen(&mut world.session("acme.viewer"), table),
            (rows, 0),
            "{table}"
        );
        assert_eq!(
            world.seen(&mut world.session("globex.admin"), table),
            (0, rows),
            "{table}"
        );
        assert_eq!(world.seen(&mut world.nobody(), table), (0, 0), "{table}");
        let mut admin = world.session("acme.admin");
        refused(
            admin.attempt(&format!(
                "INSERT INTO {table} (id, org_id) VALUES (9, '{}')",
                world.globex.id
            )),
            "42501",
        );
        refused(admin.attempt(&format!("TRUNCATE {table}")), "42501");
        refused(
            world
                .session("acme.viewer")
                .attempt(&format!("DELETE FROM {table}")),
            "42501",
        );
    }
    // A child is a table of its own to the auditor: it has columns of its own.
    let mut admin = world.session("acme.admin");
    admin.run(
        "UPDATE assets SET name = 'new' WHERE id = 1; INSERT INTO boats (id, sails) VALUES (7, 3)",
    );
    assert_eq!(
        admin.column(
            "SELECT object FROM tenancy.audit_log WHERE object LIKE 'public.%' ORDER BY object"
        ),
        [
            "public.assets",
            "public.boats",
            "public.cars",
            "public.electric_cars"
        ]
    );
    // Through ONLY, too, and no longer a child is no longer unprotected.
    assert_eq!(admin.count("SELECT count(*) FROM ONLY assets"), 1);
    dba.run("ALTER TABLE boats NO INHERIT assets");
    assert_closed(&mut dba, "boats");
    refused(
        dba.attempt("CREATE TEMPORARY TABLE passing () INHERITS (assets)"),
        "42809",
    );
    dba.run("DROP TABLE bikes; SELECT tenancy.unprotect('assets')");
    assert_eq!(snapshot(&mut dba, &tables), before);
}

#[test]
fn c1_a_child_of_two_parents_needs_both_protected() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(
        "CREATE TABLE a (id int, org_id uuid); CREATE TABLE b (id int, org_id uuid); CREATE TABLE c () INHERITS (a, b)",
    );
    refused(dba.attempt("SELECT tenancy.protect('a')"), "42809");
    dba.run("ALTER TABLE c NO INHERIT b; SELECT tenancy.protect('a'); SELECT tenancy.protect('b'); ALTER TABLE c INHERIT b");
    dba.run("CREATE TABLE d () INHERITS (a, b)");
    for table in ["a", "b", "c", "d"] {
        assert_closed(&mut dba, table);
    }
    // In different ways is no way.
    dba.run(r#"CREATE TABLE e (id int, org_id uuid); SELECT tenancy.protect('e', permissions => '{"delete": "server:delete"}')"#);
    refused(dba.attempt("CREATE TABLE f () INHERITS (a, e)"), "42710");
    refused(dba.attempt("ALTER TABLE d INHERIT e"), "42710");
}

// ---- Every shape of key, and what stands beside

#[test]
fn tables_with_composite_or_no_key_and_what_stands_beside_them() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(
        "CREATE SCHEMA \"Odd Schema\"; GRANT ALL ON SCHEMA \"Odd Schema\" TO PUBLIC;
         CREATE TABLE \"Odd Schema\".\"Many Keys\" (a int, b text, org_id uuid, n int GENERATED BY DEFAULT AS IDENTITY, twice int GENERATED ALWAYS AS (a * 2) STORED,
             PRIMARY KEY (b, a, org_id));
         CREATE TABLE keyless (org_id uuid, v int);
         CREATE TABLE log (line text); GRANT ALL ON log TO PUBLIC;
         CREATE RULE keep AS ON DELETE TO keyless WHERE OLD.v < 0 DO INSTEAD NOTHING;
         CREATE RULE note AS ON INSERT TO keyless DO ALSO INSERT INTO log VALUES ('inserted');
         ALTER TABLE keyless ENABLE ROW LEVEL SECURITY;
         CREATE POLICY everything ON keyless USING (true) WITH CHECK (true);
         CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := coalesce(NEW.v, 7); RETURN NEW; END $$;
         CREATE TRIGGER touch BEFORE INSERT ON keyless FOR EACH ROW EXECUTE FUNCTION touch();
         CREATE VIEW shown WITH (security_invoker = true) AS SELECT v FROM keyless;
         GRANT ALL ON \"Odd Schema\".\"Many Keys\", keyless, shown TO PUBLIC;
         SELECT tenancy.protect('\"Odd Schema\".\"Many Keys\"'); SELECT tenancy.protect('keyless')",
    );
    for (who, v) in [("acme.admin", 1), ("globex.admin", 2)] {
        let mut session = world.session(who);
        session.run(&format!(
            "INSERT INTO \"Odd Schema\".\"Many Keys\" (a, b) VALUES (1, 'x'), (2, 'x'); INSERT INTO keyless (v) VALUES ({v}), (-{v}), (NULL)"
        ));
        assert_eq!(session.count("SELECT count(*) FROM shown"), 3);
        assert_eq!(session.run("UPDATE keyless SET v = v + 10 WHERE v > 0"), 2);
        assert_eq!(session.run("DELETE FROM keyless"), 2);
        assert_eq!(
            session.run("UPDATE \"Odd Schema\".\"Many Keys\" SET a = a + 10"),
            2
        );
        assert_eq!(
            session.text("SELECT string_agg(a || '/' || twice, ' ' ORDER BY a) FROM \"Odd Schema\".\"Many Keys\""),
            "11/22 12/24"
        );
        assert_eq!(
            session.text(
                "SELECT string_agg(DISTINCT object || ' ' || operation, ', ' ORDER BY object || ' ' || operation) FROM tenancy.audit_log WHERE object NOT LIKE 'tenancy.%'"
            ),
            "\"Odd Schema\".\"Many Keys\" INSERT, \"Odd Schema\".\"Many Keys\" UPDATE, public.keyless DELETE, public.keyless INSERT, public.keyless UPDATE"
        );
    }
    assert_eq!(dba.count("SELECT count(*) FROM log"), 6);
}

// ---- Dumps

#[test]
fn a_dump_brings_the_tree_back() {
    let world = protected_events();
    world.superuser().run("CREATE TABLE assets (id int, org_id uuid); CREATE TABLE cars (wheels int) INHERITS (assets); SELECT tenancy.protect('assets')");
    let file = world.db.cluster.file(&format!("{}.dump", world.db.name));
    let path = file.to_str().unwrap();
    world.db.cluster.client_program(
        "pg_dump",
        &world.db.name,
        &["--format=custom", "--file", path],
    );
    let other = pg_tenancy_tests::Db::empty(world.db.cluster.clone());
    world
        .db
        .cluster
        .client_program("pg_restore", &other.name, &["--exit-on-error", path]);
    let tables = [&TREE[..], &["assets", "cars"]].concat();
    assert_eq!(
        snapshot(&mut other.superuser(), &tables),
        snapshot(&mut world.superuser(), &tables)
    );
    let restored = world.moved_to(other);
    for table in tables {
        assert_closed(&mut restored.superuser(), table);
    }
    assert_eq!(
        restored.seen(&mut restored.session("acme.viewer"), "events"),
        (9, 0)
    );
    assert_eq!(
        restored.seen(&mut restored.session("acme.viewer"), "events_25_odd"),
        (2, 0)
    );
    restored
        .db
        .login(&restored.table_owner())
        .run("CREATE TABLE events_26 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')");
    assert_closed(&mut restored.superuser(), "events_26");
}

// ---- Foreign keys

/// Orders in partitions by year, lines that refer to them, in partitions by hash.
const ORDERS: &str = "
    CREATE TABLE orders (id int, year int, org_id uuid, PRIMARY KEY (id, year)) PARTITION BY RANGE (year);
    CREATE TABLE orders_24 PARTITION OF orders FOR VALUES FROM (2024) TO (2025);
    CREATE TABLE orders_25 (org_id uuid, year int NOT NULL, id int NOT NULL) PARTITION BY LIST (id);
    ALTER TABLE orders ATTACH PARTITION orders_25 FOR VALUES FROM (2025) TO (2026);
    CREATE TABLE orders_25_rest PARTITION OF orders_25 DEFAULT;
    CREATE TABLE orders_rest PARTITION OF orders DEFAULT;
    CREATE TABLE lines (id int PRIMARY KEY, order_id int, order_year bigint, org_id uuid,
        FOREIGN KEY (order_id, order_year) REFERENCES orders ON UPDATE CASCADE ON DELETE CASCADE) PARTITION BY HASH (id);
    CREATE TABLE lines_0 PARTITION OF lines FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE lines_1 PARTITION OF lines FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;";

fn orders(protect: bool) -> World {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(ORDERS);
    for (org, first) in [(world.acme, 0), (world.globex, 100)] {
        dba.run(&format!(
            "INSERT INTO orders (id, year, org_id) SELECT {first} + i, y, '{0}' FROM generate_series(1, 3) i, generate_series(2024, 2026) y;
             INSERT INTO lines (id, order_id, order_year, org_id) SELECT {first} + i * 10 + y - 2024, {first} + i, y, '{0}'
             FROM generate_series(1, 3) i, generate_series(2024, 2026) y",
            org.id
        ));
    }
    if protect {
        dba.run("SELECT tenancy.protect('orders'); SELECT tenancy.protect('lines')");
    }
    world
}

#[test]
fn d1_references_between_partitioned_tables_stay_inside_the_org() {
    let world = orders(true);
    let mut admin = world.session("acme.admin");
    for year in [2024, 2025, 2026] {
        let other = fails(
            admin.attempt(&format!(
                "INSERT INTO lines (id, order_id, order_year) VALUES (900, 101, {year})"
            )),
            "23503",
        );
        let missing = fails(
            admin.attempt(&format!(
                "INSERT INTO lines (id, order_id, order_year) VALUES (900, 999, {year})"
            )),
            "23503",
        );
        assert_same_error(&other, &missing, &[("999", "101")]);
        admin.run(&format!(
            "INSERT INTO lines (id, order_id, order_year) VALUES (90{0}, 1, {year})",
            year % 10
        ));
        fails(
            admin.attempt(&format!(
                "UPDATE lines SET order_id = 101 WHERE id = 90{}",
                year % 10
            )),
            "23503",
        );
    }
    // Straight into a leaf, too.
    let leaf = admin.text("SELECT tableoid::regclass FROM lines WHERE id = 904");
    fails(
        admin.attempt(&format!("UPDATE {leaf} SET order_id = 102 WHERE id = 904")),
        "23503",
    );
    assert_eq!(world.seen(&mut admin, "lines"), (12, 0));
}

#[test]
fn d3_cascades_between_partitioned_tables_stay_inside_the_org() {
    let world = orders(true);
    let before = world.hash("lines", world.globex);
    let mut admin = world.session("acme.admin");
    assert_eq!(admin.run("UPDATE orders SET id = 11 WHERE id = 1"), 3);
    assert_eq!(
        admin.count("SELECT count(*) FROM lines WHERE order_id = 11"),
        3
    );
    assert_eq!(
        admin.run("DELETE FROM orders WHERE id = 2 AND year = 2025"),
        1
    );
    assert_eq!(
        admin.count("SELECT count(*) FROM lines WHERE order_id = 2"),
        2
    );
    // A row that moves takes its children along: PostgreSQL makes an update of it.
    assert_eq!(
        admin.run("UPDATE orders SET year = 2030 WHERE id = 3 AND year = 2024"),
        1
    );
    assert_eq!(
        admin.count("SELECT count(*) FROM lines WHERE order_id = 3 AND order_year = 2030"),
        1
    );
    assert_eq!(world.hash("lines", world.globex), before);
    assert_eq!(
        admin.count("SELECT count(*) FROM tenancy.audit_log WHERE object = 'public.lines' AND operation = 'DELETE'"),
        1
    );
}

#[test]
fn references_that_cross_are_found_before_partitioned_tables_are_protected() {
    for order in [["orders", "lines"], ["lines", "orders"]] {
        let world = orders(false);
        let mut dba = world.superuser();
        dba.run("UPDATE lines SET order_id = 101 WHERE id IN (10, 11, 12)");
        dba.run(&format!("SELECT tenancy.protect('{}')", order[0]));
        let error = refused(
            dba.attempt(&format!("SELECT tenancy.protect('{}')", order[1])),
            "23503",
        );
        assert!(
            error
                .message()
                .contains("refer to another organization's rows in public.orders"),
            "{error:?}"
        );
        dba.run("SET row_security = off; UPDATE lines SET order_id = 1 WHERE id < 100; SET row_security = on");
        dba.run(&format!("SELECT tenancy.protect('{}')", order[1]));
    }
}

#[test]
fn d4_parents_are_found_whatever_their_partitions_are_made_of() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(
        "CREATE TABLE p_hash (id int PRIMARY KEY, org_id uuid) PARTITION BY HASH (id);
         CREATE TABLE p_hash_0 PARTITION OF p_hash FOR VALUES WITH (MODULUS 4, REMAINDER 0);
         CREATE TABLE p_hash_1 PARTITION OF p_hash FOR VALUES WITH (MODULUS 4, REMAINDER 1);
         CREATE TABLE p_hash_2 PARTITION OF p_hash FOR VALUES WITH (MODULUS 4, REMAINDER 2) PARTITION BY RANGE (id);
         CREATE TABLE p_hash_2_low PARTITION OF p_hash_2 FOR VALUES FROM (MINVALUE) TO (20);
         CREATE TABLE p_hash_2_high PARTITION OF p_hash_2 FOR VALUES FROM (20) TO (MAXVALUE);
         CREATE TABLE p_hash_3 PARTITION OF p_hash FOR VALUES WITH (MODULUS 4, REMAINDER 3);
         CREATE TABLE p_list (id text PRIMARY KEY, org_id uuid) PARTITION BY LIST (id);
         CREATE TABLE p_list_some PARTITION OF p_list FOR VALUES IN ('k1', 'k2', 'k3', 'k7', 'k8');
         CREATE TABLE p_list_other PARTITION OF p_list FOR VALUES IN ('k4', 'k5');
         CREATE TABLE p_list_rest PARTITION OF p_list DEFAULT;
         CREATE TABLE p_range (a int, b text, org_id uuid, PRIMARY KEY (b, a)) PARTITION BY RANGE (a, b);
         CREATE TABLE p_range_1 PARTITION OF p_range FOR VALUES FROM (MINVALUE, MINVALUE) TO (10, 'k5');
         CREATE TABLE p_range_2 PARTITION OF p_range FOR VALUES FROM (10, 'k5') TO (30, 'k0');
         CREATE TABLE p_range_3 PARTITION OF p_range DEFAULT;
         CREATE TABLE c (id int PRIMARY KEY, org_id uuid,
             h bigint REFERENCES p_hash DEFERRABLE, h4 int REFERENCES p_hash,
             l varchar REFERENCES p_list,
             ra int, rb text, FOREIGN KEY (ra, rb) REFERENCES p_range (a, b) MATCH FULL);",
    );
    for (org, rest) in [(world.acme, 0), (world.globex, 1)] {
        dba.run(&format!(
            "INSERT INTO p_hash SELECT i, '{0}' FROM generate_series(1, 40) i WHERE i % 2 = {rest};
             INSERT INTO p_list SELECT 'k' || i, '{0}' FROM generate_series(1, 40) i WHERE i % 2 = {rest};
             INSERT INTO p_range SELECT i, 'k' || i, '{0}' FROM generate_series(1, 40) i WHERE i % 2 = {rest}",
            org.id
        ));
    }
    dba.run(
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
         SELECT tenancy.protect(t::regclass) FROM unnest(ARRAY['p_hash', 'p_list', 'p_range', 'c']) t",
    );
    let mut admin = world.session("acme.admin");
    for column in ["h", "h4"] {
        assert_eq!(
            admin.run(&format!(
                "INSERT INTO c (id, {column}) SELECT i, i FROM generate_series(2, 40, 2) i"
            )),
            20
        );
        admin.run("DELETE FROM c");
    }
    assert_eq!(
        admin.run("INSERT INTO c (id, l) SELECT i, 'k' || i FROM generate_series(2, 40, 2) i"),
        20
    );
    assert_eq!(admin.run("UPDATE c SET ra = id, rb = 'k' || id"), 20);
    for i in (1..40).step_by(2) {
        for (set, values) in [
            ("h", format!("{i}")),
            ("h4", format!("{i}")),
            ("l", format!("'k{i}'")),
            ("(ra, rb)", format!("({i}, 'k{i}')")),
        ] {
            fails(
                admin.attempt(&format!("UPDATE c SET {set} = {values} WHERE id = 2")),
                "23503",
            );
        }
    }
    // Deferred: what is there at commit counts, and whose it is.
    admin.run("BEGIN; SET CONSTRAINTS ALL DEFERRED; INSERT INTO c (id, h) VALUES (900, 900); INSERT INTO p_hash (id) VALUES (900); COMMIT");
    admin.run("BEGIN; SET CONSTRAINTS ALL DEFERRED; INSERT INTO c (id, h) VALUES (901, 1)");
    fails(admin.attempt("COMMIT"), "23503");
    // Also after a partition's index was made anew under another id.
    dba.run("REINDEX TABLE CONCURRENTLY p_hash_1");
    admin.run("UPDATE c SET h4 = id WHERE id <= 40");
}
