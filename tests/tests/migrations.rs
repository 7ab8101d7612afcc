//! begin_migration(): an owner without BYPASSRLS works on the rows of every organization, in one recorded transaction and
//! in nothing else. Section 5.7 of the specification; attacks A4, A6, B1, B3, C4, D1, D5.

use pg_tenancy_tests::{Session, World, fails, refused};

const BEGIN: &str = "BEGIN; SELECT tenancy.begin_migration('split the names')";

/// The tables' owner, given administration: who runs the migrations.
fn migrator(world: &World) -> Session {
    let mut dba = world.superuser();
    let owner = world.table_owner();
    dba.run(&format!(
        "GRANT CREATE ON SCHEMA public TO {owner}; SELECT tenancy.grant_administration('{owner}')"
    ));
    world.db.login(&owner)
}

fn sees_all(world: &World, session: &mut Session) {
    assert_eq!(world.seen(session, "servers"), (3, 3));
    assert_eq!(world.seen(session, "sites"), (6, 6));
}

#[test]
fn it_opens_the_rows_of_all_for_one_transaction() {
    let world = World::new();
    let mut m = migrator(&world);
    assert_eq!(world.seen(&mut m, "servers"), (0, 0));
    m.run(BEGIN);
    sees_all(&world, &mut m);
    assert_eq!(m.run("UPDATE servers SET name = upper(name)"), 6);
    assert_eq!(
        m.run("UPDATE sites s SET visits = visits + cpus FROM servers v WHERE v.id = server_id"),
        12
    );
    assert_eq!(
        m.run(&format!(
            "INSERT INTO servers (id, org_id, name) VALUES (7, '{}', 'a'), (107, '{}', 'g')",
            world.acme.id, world.globex.id
        )),
        2
    );
    assert_eq!(
        m.rows("MERGE INTO servers t USING (VALUES (7), (107)) v(id) ON t.id = v.id WHEN MATCHED THEN UPDATE SET cpus = 9").len(),
        0
    );
    assert_eq!(m.count("SELECT count(*) FROM servers WHERE cpus = 9"), 2);
    assert_eq!(
        m.run("DELETE FROM servers WHERE id IN (7, 107) RETURNING id"),
        2
    );
    assert_eq!(
        m.column("SELECT id FROM servers ORDER BY id FOR UPDATE")
            .len(),
        6
    );
    assert_eq!(
        m.run("MERGE INTO servers USING (VALUES (1)) v ON true WHEN MATCHED THEN DO NOTHING"),
        0
    );
    m.run("COMMIT");
    assert_eq!(world.seen(&mut m, "servers"), (0, 0));
    refused(m.attempt("UPDATE servers SET name = 'x'"), "42501");
    let mut glass = world.break_glass();
    assert_eq!(
        glass.count("SELECT count(*) FROM servers WHERE name = upper(name)"),
        6
    );
    // And everybody else is where he was.
    assert_eq!(
        world.seen(&mut world.session("acme.viewer"), "servers"),
        (3, 0)
    );
}

#[test]
fn a3_c5_c13_every_way_to_read_shows_all_and_none_outlives_it() {
    let world = World::new();
    let mut m = migrator(&world);
    m.run("CREATE TABLE many (id int PRIMARY KEY, org_id uuid NOT NULL, n int)");
    m.run(&format!(
        "INSERT INTO many SELECT i, CASE i % 2 WHEN 0 THEN '{}' ELSE '{}' END::uuid, i FROM generate_series(1, 3000) i; ANALYZE many",
        world.acme.id, world.globex.id
    ));
    m.run("SELECT tenancy.protect('many'); SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0");
    m.run(BEGIN);
    let plan = m.explain(
        "ANALYZE, COSTS OFF, TIMING OFF",
        "SELECT count(n) FROM many",
    );
    assert!(
        plan.contains("Workers Launched: 2") && !plan.contains("org_if"),
        "{plan}"
    );
    assert_eq!(m.count("SELECT count(n) FROM many"), 3000);
    let mut copied = String::new();
    std::io::Read::read_to_string(
        &mut m.copy_out("COPY servers TO STDOUT").unwrap(),
        &mut copied,
    )
    .unwrap();
    assert_eq!(copied.lines().count(), 6);
    m.run("DECLARE walk CURSOR FOR SELECT id FROM servers ORDER BY id FOR UPDATE");
    assert_eq!(m.column("FETCH ALL FROM walk").len(), 6);
    assert_eq!(
        m.count("SELECT count(*) FROM servers TABLESAMPLE BERNOULLI (100)"),
        6
    );
    refused(
        m.attempt_within("DECLARE held CURSOR WITH HOLD FOR SELECT * FROM servers"),
        "25001",
    );
    m.run("COMMIT");
    fails(m.attempt("FETCH 1 FROM walk"), "34000");
    // Statements of two kinds in one message: what was planned before is not open, what comes after the end is not.
    assert_eq!(
        m.column("BEGIN; SELECT count(*) FROM servers; SELECT tenancy.begin_migration('x'); SELECT count(*) FROM servers; COMMIT; SELECT count(*) FROM servers"),
        ["0", "", "6", "0"]
    );
    assert_eq!(
        m.column("BEGIN; SELECT tenancy.begin_migration('x') IS NULL, count(*) FROM servers; ROLLBACK; BEGIN; SELECT count(*) FROM servers; COMMIT").last().unwrap(),
        "0"
    );
}

#[test]
fn ddl_sees_and_checks_every_row() {
    let world = World::new();
    let mut m = migrator(&world);
    m.run(BEGIN);
    m.run(
        "CREATE FUNCTION doubled(int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN $1 * 2; END';
         ALTER TABLE servers ADD COLUMN label text;
         UPDATE servers SET label = name || '!';
         ALTER TABLE servers ALTER label SET NOT NULL, ADD CHECK (doubled(id) >= cpus);
         ALTER TABLE servers ALTER cpus TYPE bigint USING doubled(cpus);
         CREATE INDEX ON servers (lower(label));
         CREATE TABLE notes (id int PRIMARY KEY, org_id uuid NOT NULL, server_id int);
         SELECT tenancy.protect('notes');
         INSERT INTO notes SELECT id, org_id, id FROM servers;
         ALTER TABLE notes ADD FOREIGN KEY (server_id) REFERENCES servers",
    );
    m.run("COMMIT");
    assert_eq!(
        world.break_glass().count("SELECT sum(cpus) FROM servers"),
        24
    );
    // A key that some organization's row breaks is refused, whoever looks.
    m.run(BEGIN);
    m.run("ALTER TABLE notes DROP CONSTRAINT notes_server_id_fkey; UPDATE notes SET server_id = 999 WHERE id = 101");
    fails(
        m.attempt("ALTER TABLE notes ADD FOREIGN KEY (server_id) REFERENCES servers"),
        "23503",
    );
    m.run("ROLLBACK");
}

#[test]
fn d1_keys_and_organizations_are_still_kept() {
    let world = World::new();
    let mut m = migrator(&world);
    let (acme, globex) = (world.acme.id, world.globex.id);
    for (sql, code) in [
        (
            "UPDATE sites SET server_id = 101 WHERE id = 1".into(),
            "23503",
        ),
        (
            format!(
                "INSERT INTO sites (id, org_id, server_id, name) VALUES (7, '{acme}', 101, 'x')"
            ),
            "23503",
        ),
        (
            format!("UPDATE servers SET org_id = '{globex}' WHERE id = 1"),
            "42501",
        ),
        (
            "INSERT INTO servers (id, name) VALUES (9, 'whose?')".into(),
            "23502",
        ),
        ("TRUNCATE servers CASCADE".into(), "42501"),
        ("TRUNCATE sites".into(), "42501"),
    ] {
        m.run(BEGIN);
        fails(m.attempt(&sql), code);
        m.run("ROLLBACK");
    }
    // Cascades reach the rows of the organization whose parent went.
    m.run(BEGIN);
    m.run("UPDATE servers SET id = id + 1000");
    assert_eq!(
        m.count("SELECT count(*) FROM sites WHERE server_id > 1000"),
        12
    );
    assert_eq!(m.run("DELETE FROM servers WHERE id = 1101"), 1);
    assert_eq!(world.seen(&mut m, "sites"), (6, 4));
    m.run("ROLLBACK");
}

#[test]
fn a_row_moved_between_partitions_stays_its_organizations() {
    let world = World::people();
    let mut m = migrator(&world);
    m.run(&format!(
        "CREATE TABLE log (org_id uuid, at int) PARTITION BY RANGE (at);
         CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (0) TO (10);
         CREATE TABLE log_2 PARTITION OF log FOR VALUES FROM (10) TO (20);
         INSERT INTO log VALUES ('{}', 1), ('{}', 2);
         SELECT tenancy.protect('log');",
        world.acme.id, world.globex.id
    ));
    m.run(BEGIN);
    assert_eq!(m.run("UPDATE log SET at = at + 10"), 2);
    assert_eq!(m.count("SELECT count(*) FROM log_2"), 2);
    refused(
        m.attempt(&format!(
            "UPDATE log SET at = at - 10, org_id = '{}'",
            world.acme.id
        )),
        "42501",
    );
    m.run("ROLLBACK");
}

#[test]
fn it_is_recorded() {
    let world = World::new();
    let mut m = migrator(&world);
    m.run(BEGIN);
    m.run("UPDATE servers SET cpus = 8; COMMIT");
    let told = "SELECT kind || ': ' || reason || ' (' || login || ')' FROM tenancy.bypass_ledger";
    let expected = format!("migration: split the names ({})", world.table_owner());
    for who in ["acme.owner", "acme.admin", "globex.owner"] {
        assert_eq!(
            world.session(who).column(told),
            std::slice::from_ref(&expected),
            "{who}"
        );
    }
    assert_eq!(m.column(told), [expected]);
    for mut session in [
        world.session("acme.member"),
        world.bound("acme.owner"),
        world.nobody(),
    ] {
        assert!(session.column(told).is_empty());
    }
    // In each organization's own log, as written past the rules.
    let mut owner = world.session("globex.owner");
    assert_eq!(
        owner.count(
            "SELECT count(*) FROM tenancy.audit_log WHERE operation = 'UPDATE' AND break_glass"
        ),
        3
    );
    // One that was rolled back leaves its line in the server's log.
    m.run("BEGIN; SELECT tenancy.begin_migration('just looking'); SELECT * FROM servers; ROLLBACK");
    assert!(world.db.cluster.log().contains("Reason: just looking"));
    // Nobody rewrites it.
    for sql in [
        "DELETE FROM tenancy.bypass_ledger",
        "UPDATE tenancy.bypass_ledger SET reason = 'nothing'",
        "TRUNCATE tenancy.bypass_ledger",
    ] {
        fails(m.attempt(sql), "42501");
        fails(world.superuser().attempt(sql), "42501");
    }
    fails(m.attempt("INSERT INTO tenancy.bypass_ledger (kind, login, db_role, reason) VALUES ('x', 'x', 'x', 'x')"), "42501");
}

#[test]
fn who_may_not() {
    let world = World::new();
    let mut m = migrator(&world);
    let mut dba = world.superuser();
    // No administrator.
    for mut session in [
        world.session("acme.owner"),
        world.nobody(),
        world.app(),
        world.session_app(),
    ] {
        session.run("BEGIN");
        refused(
            session.attempt("SELECT tenancy.begin_migration('x')"),
            "42501",
        );
    }
    // An application's login, whatever else it was given.
    dba.run(&format!(
        "SELECT tenancy.grant_administration('{}')",
        world.db.role("app")
    ));
    let mut app = world.app();
    app.run("BEGIN");
    refused(app.attempt("SELECT tenancy.begin_migration('x')"), "42501");
    // No reason, no transaction, twice, or in the middle of an organization's work.
    refused(m.attempt("SELECT tenancy.begin_migration('x')"), "25P01");
    for (sql, code) in [
        ("SELECT tenancy.begin_migration('  ')", "22023"),
        ("SELECT tenancy.begin_migration(E'two\\nlines')", "22023"),
        ("SELECT tenancy.begin_migration(NULL)", "22004"),
        (
            "SELECT tenancy.begin_migration('x'); SELECT tenancy.begin_migration('y')",
            "25001",
        ),
    ] {
        m.run("BEGIN");
        refused(m.attempt(sql), code);
        m.run("ROLLBACK");
    }
    dba.run(&format!("SET app.current_org = '{}'", world.acme.id));
    dba.run("BEGIN; UPDATE servers SET cpus = 1 WHERE id = 1");
    refused(dba.attempt("SELECT tenancy.begin_migration('x')"), "25001");
    dba.run("ROLLBACK");
    // A sealed one, and the other way about.
    dba.run("BEGIN; SELECT tenancy.seal_context()");
    refused(dba.attempt("SELECT tenancy.begin_migration('x')"), "42501");
    dba.run("ROLLBACK");
    dba.run(BEGIN);
    refused(dba.attempt("SELECT tenancy.seal_context()"), "25001");
    dba.run("ROLLBACK");
    dba.run(BEGIN);
    refused(dba.attempt("SELECT tenancy.authenticate('x')"), "25001");
}

#[test]
fn c4_definer_functions_neither_begin_nor_use_it() {
    let world = World::new();
    let mut m = migrator(&world);
    let mut dba = world.superuser();
    let nobody = world.db.role("nobody");
    // One of the administrator's begins none for its caller, and none of another's is open in it.
    m.run(
        "CREATE FUNCTION begins() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS
             $$BEGIN PERFORM tenancy.begin_migration('x'); END$$",
    );
    let mut someone = world.nobody();
    someone.run("BEGIN");
    refused(someone.attempt("SELECT begins()"), "42501");
    dba.run("BEGIN");
    refused(dba.attempt("SELECT begins()"), "42501");
    dba.run("ROLLBACK");
    dba.run(&format!(
        "CREATE FUNCTION looks() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS $$BEGIN RETURN (SELECT count(*) FROM servers); END$$;
         CREATE FUNCTION writes() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$BEGIN UPDATE servers SET cpus = 77; END$$;
         ALTER FUNCTION looks() OWNER TO {nobody}; ALTER FUNCTION writes() OWNER TO {nobody}"
    ));
    m.run(BEGIN);
    assert_eq!(m.count("SELECT looks()"), 0);
    sees_all(&world, &mut m);
    assert_eq!(m.count("SELECT looks()"), 0);
    refused(m.attempt_within("SELECT writes()"), "42501");
    // Nor in a role that it turns into.
    dba.run(&format!("GRANT {nobody} TO {}", world.table_owner()));
    m.run(&format!("SET ROLE {nobody}"));
    assert_eq!(m.count("SELECT count(*) FROM servers"), 0);
    refused(m.attempt_within("UPDATE servers SET cpus = 77"), "42501");
    m.run("RESET ROLE");
    sees_all(&world, &mut m);
}

#[test]
fn a6_plans_of_one_serve_nobody_else() {
    let world = World::new();
    let mut m = migrator(&world);
    m.run(
        "CREATE FUNCTION in_plpgsql() RETURNS bigint LANGUAGE plpgsql AS $$BEGIN RETURN (SELECT count(*) FROM servers); END$$;
         CREATE FUNCTION in_sql() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM servers';
         PREPARE counted AS SELECT count(*) FROM servers;
         SET plan_cache_mode = force_generic_plan",
    );
    let ways = ["EXECUTE counted", "SELECT in_plpgsql()", "SELECT in_sql()"];
    for _ in 0..2 {
        for way in ways {
            assert_eq!(m.count(way), 0, "{way}");
        }
        m.run(BEGIN);
        for way in ways {
            assert_eq!(m.count(way), 6, "{way}");
        }
        m.run("COMMIT");
    }
    // A savepoint takes it back.
    m.run("BEGIN; SAVEPOINT a");
    m.run("SELECT tenancy.begin_migration('x')");
    assert_eq!(m.count("EXECUTE counted"), 6);
    m.run("ROLLBACK TO a");
    for way in ways {
        assert_eq!(m.count(way), 0, "{way}");
    }
    assert_eq!(m.count("SELECT count(*) FROM tenancy.bypass_ledger"), 2);
    m.run("SAVEPOINT b; SELECT tenancy.begin_migration('x'); RELEASE b");
    assert_eq!(m.count("EXECUTE counted"), 6);
    // An error, and PREPARE TRANSACTION, end it like COMMIT.
    m.run("PREPARE TRANSACTION 'm'");
    assert_eq!(m.count("EXECUTE counted"), 0);
    m.run("ROLLBACK PREPARED 'm'");
    m.run(BEGIN);
    m.attempt("SELECT 1 / 0").unwrap_err();
    m.run("ROLLBACK");
    assert_eq!(m.count("EXECUTE counted"), 0);
}

#[test]
fn a_function_that_was_taken_in_is_refused_and_not_empty() {
    let world = World::new();
    let mut m = migrator(&world);
    m.run("CREATE FUNCTION all_servers() RETURNS SETOF servers LANGUAGE sql STABLE AS 'SELECT * FROM public.servers'");
    m.run(BEGIN);
    refused(
        m.attempt_within("SELECT count(*) FROM all_servers()"),
        "0A000",
    );
    assert_eq!(m.count("SELECT count(*) FROM (SELECT all_servers()) s"), 6);
}

#[test]
fn only_the_roles_own_tables() {
    let world = World::new();
    let mut m = migrator(&world);
    world.superuser().run(
        "ALTER TABLE sites OWNER TO postgres; ALTER TABLE sites DROP CONSTRAINT sites_server_id_fkey;
         CREATE VIEW mine WITH (security_invoker = true) AS SELECT * FROM servers; GRANT SELECT ON mine TO PUBLIC",
    );
    m.run(BEGIN);
    assert_eq!(m.count("SELECT count(*) FROM mine"), 6);
    refused(m.attempt_within("SELECT count(*) FROM sites"), "42501");
    refused(
        m.attempt_within("SELECT count(*) FROM servers WHERE id IN (SELECT server_id FROM sites)"),
        "42501",
    );
    assert_eq!(m.count("WITH s AS (SELECT * FROM servers) SELECT count(*) FROM s WHERE EXISTS (SELECT FROM servers x WHERE x.id = s.id)"), 6);
    m.run("ROLLBACK");
}

#[test]
fn views_and_policies_of_the_applications_go_on() {
    let world = World::new();
    let mut m = migrator(&world);
    m.run(
        "CREATE VIEW small WITH (security_invoker, security_barrier) AS SELECT * FROM servers WHERE cpus < 3 WITH CHECK OPTION",
    );
    m.run(BEGIN);
    // What a view leaves out stays out.
    assert_eq!(m.count("SELECT count(*) FROM small"), 4);
    assert_eq!(m.run("UPDATE small SET name = 'small'"), 4);
    assert_eq!(
        m.count("SELECT count(*) FROM servers WHERE name = 'small'"),
        4
    );
    fails(m.attempt_within("UPDATE small SET cpus = 9"), "44000");
    // A restrictive policy of the application holds, a permissive one takes nothing away.
    m.run("CREATE POLICY wide ON servers USING (id > 0); CREATE POLICY narrow ON servers AS RESTRICTIVE USING (id < 103)");
    assert_eq!(m.count("SELECT count(*) FROM servers"), 5);
    m.run("ROLLBACK");
}

#[test]
fn d5_triggers_that_a_cascade_fires_gain_nothing() {
    let world = World::new();
    let mut m = migrator(&world);
    m.run(&format!(
        "CREATE FUNCTION sly() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
             INSERT INTO servers (id, org_id, name) VALUES (900, '{}', 'forced'); RETURN old; END$$;
         CREATE TRIGGER sly BEFORE DELETE ON sites FOR EACH ROW EXECUTE FUNCTION sly()",
        world.globex.id
    ));
    m.run(BEGIN);
    refused(
        m.attempt_within("DELETE FROM servers WHERE id = 1"),
        "42501",
    );
}

#[test]
fn drift_is_mended_on_the_way() {
    let world = World::new();
    let mut m = migrator(&world);
    m.run(BEGIN);
    // As frameworks do it around a load.
    m.run("ALTER TABLE servers DISABLE TRIGGER USER; UPDATE servers SET cpus = 5; ALTER TABLE servers ENABLE TRIGGER USER");
    fails(
        m.attempt_within("UPDATE sites SET server_id = 101 WHERE id = 1"),
        "23503",
    );
    m.run("ALTER TABLE servers DISABLE ROW LEVEL SECURITY; ALTER TABLE servers NO FORCE ROW LEVEL SECURITY");
    refused(
        m.attempt_within("DROP POLICY tenancy_select ON servers"),
        "42501",
    );
    m.run("COMMIT");
    assert!(world.superuser().is_true(
        "SELECT relrowsecurity AND relforcerowsecurity AND NOT EXISTS (
             SELECT FROM pg_trigger WHERE tgrelid = 'servers'::regclass AND tgname LIKE '0_tenancy%' AND tgenabled <> 'A')
         FROM pg_class WHERE oid = 'servers'::regclass"
    ));
}

#[test]
fn break_glass_leaves_a_line_in_the_servers_log() {
    let world = World::new();
    let line = "break-glass: rows of all organizations are open to role \"postgres\"";
    let lines = || world.db.cluster.log().matches(line).count();
    let before = lines();
    let mut glass = world.break_glass();
    glass.run("SELECT tenancy.whoami()");
    assert_eq!(lines(), before);
    glass.run("SELECT * FROM servers; SELECT * FROM servers; UPDATE servers SET cpus = 1");
    assert_eq!(lines(), before + 1);
    // COPY of a whole table is not planned; the library sees it where it is preloaded.
    world.superuser().run(&format!(
        "ALTER DATABASE {} SET session_preload_libraries = 'pg_tenancy'",
        world.db.name
    ));
    let mut glass = world.break_glass();
    glass.run("BEGIN READ ONLY");
    let mut copied = String::new();
    std::io::Read::read_to_string(
        &mut glass.copy_out("COPY servers TO STDOUT").unwrap(),
        &mut copied,
    )
    .unwrap();
    assert_eq!(lines(), before + 2);
}
