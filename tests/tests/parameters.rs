//! The organization as a parameter of a plan (pg/bound.rs): decided before the first row, for this execution alone.

use pg_tenancy_tests::{Session, World, refused};

const SEQUENTIAL: &str = "SET enable_indexscan = off; SET enable_bitmapscan = off;";

/// Every way to scan a table asks by a parameter, and finds the same rows.
#[test]
fn every_scan_has_the_organization_as_a_parameter() {
    let world = World::new();
    world.superuser().run("ANALYZE servers");
    for (scan, settings, query) in [
        ("Seq Scan", SEQUENTIAL, "SELECT id FROM servers ORDER BY id"),
        (
            "Index Scan",
            "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off;",
            "SELECT id FROM servers WHERE id > 0 ORDER BY id",
        ),
        (
            "Bitmap Heap Scan",
            "SET enable_seqscan = off; SET enable_indexscan = off; SET enable_indexonlyscan = off;",
            "SELECT id FROM servers ORDER BY id",
        ),
        (
            "Index Only Scan",
            "SET enable_seqscan = off; SET enable_bitmapscan = off;",
            "SELECT org_id FROM servers",
        ),
    ] {
        let mut session = world.session("acme.member");
        session.run(&format!("{settings} SELECT tenancy.current_org()"));
        let plan = session.explain("COSTS OFF", query);
        assert!(plan.contains(scan), "{plan}");
        assert!(plan.contains("(org_id = $"), "{plan}");
        assert_eq!(session.column(query).len(), 3, "{plan}");
    }
    // What locks rows asks the function, again and again.
    for query in [
        "SELECT id FROM servers FOR UPDATE",
        "UPDATE servers SET cpus = 1",
        "WITH u AS (UPDATE servers SET cpus = 1 RETURNING 1) SELECT count(*) FROM servers",
    ] {
        let plan = world.session("acme.admin").explain("COSTS OFF", query);
        assert!(!plan.contains("= $"), "{plan}");
    }
}

#[test]
fn a13_parallel_workers_get_the_parameter() {
    let world = World::new();
    let mut dba = world.superuser();
    dba.run(&format!(
        "SET row_security = off;
         INSERT INTO servers (id, org_id, name) SELECT 1000 + n, CASE n % 2 WHEN 0 THEN '{}'::uuid ELSE '{}' END, 'x'
         FROM generate_series(1, 20000) n; ANALYZE servers",
        world.acme.id, world.globex.id
    ));
    let mut session = world.session("acme.member");
    session.run(
        "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
         SET parallel_leader_participation = off; SET enable_indexscan = off; SET enable_bitmapscan = off;
         SET enable_indexonlyscan = off; SELECT tenancy.current_org()",
    );
    for query in [
        "SELECT count(*) FROM servers",
        "SELECT count(*) FROM (SELECT id FROM servers ORDER BY name, id OFFSET 0) o",
        "SELECT count(*) FROM servers a JOIN servers b USING (id)",
    ] {
        let plan = session.explain("ANALYZE, COSTS OFF, TIMING OFF", query);
        assert!(
            plan.contains("Gather")
                && plan.contains("(org_id = $")
                && !plan.contains("Workers Launched: 0"),
            "{plan}"
        );
        assert_eq!(session.count(query), 10_003, "{plan}");
    }
}

#[test]
fn a10_a_cursor_that_was_opened_before_the_revocation_gives_nothing() {
    let world = World::new();
    for (settings, who) in [
        (SEQUENTIAL, "acme.member"),
        ("SET enable_seqscan = off;", "acme.viewer"),
    ] {
        let mut session = world.session(who);
        session.run(&format!(
            "{settings} BEGIN; DECLARE c CURSOR FOR SELECT id FROM servers"
        ));
        world.remove(who);
        match session.try_rows("FETCH 10 FROM c") {
            Ok(rows) => assert!(rows.is_empty(), "{rows:?}"),
            Err(error) => {
                refused(Err::<u64, _>(error), "42501");
            }
        }
        session.run("ROLLBACK");
    }
}

/// Rows of two organizations never mix in one statement, also where more than one is allowed in a transaction.
#[test]
fn a2_a_scan_goes_on_in_its_organization_or_ends() {
    let world = World::new();
    let switch = |session: &mut Session, org: &str| {
        session.run(&format!("SET app.current_org = '{org}'"));
    };
    let mut session = world.session("agency");
    world.superuser().run(&format!(
        "ALTER ROLE {} SET tenancy.one_org_per_transaction = off",
        world.db.role("agency")
    ));
    drop(session);
    session = world.session("agency");
    session.run(&format!("{SEQUENTIAL} SELECT tenancy.current_org()"));
    let names = |rows: Vec<String>, org: &str| {
        assert!(rows.iter().all(|name| name.starts_with(org)), "{rows:?}");
        rows.len()
    };
    switch(&mut session, &world.acme.id.to_string());
    session.run("BEGIN; DECLARE c CURSOR FOR SELECT name FROM servers");
    assert_eq!(names(session.column("FETCH 1 FROM c"), "acme"), 1);
    switch(&mut session, &world.globex.id.to_string());
    let rest = session.try_rows("FETCH ALL FROM c").unwrap_or_default();
    names(rest.into_iter().flatten().flatten().collect(), "acme");
    session.run("ROLLBACK");

    // Switched by the statement itself, row after row.
    switch(&mut session, &world.acme.id.to_string());
    let mixed = session
        .try_rows(&format!(
            "SELECT name, set_config('app.current_org', '{}', false) FROM servers",
            world.globex.id
        ))
        .unwrap_or_default();
    names(
        mixed.into_iter().filter_map(|row| row[0].clone()).collect(),
        "acme",
    );
}

#[test]
fn a6_one_plan_for_every_organization_of_a_session() {
    let world = World::new();
    let mut session = world.session("agency");
    session.run(&format!(
        "{SEQUENTIAL} SET plan_cache_mode = force_generic_plan; SELECT tenancy.current_org();
         PREPARE q AS SELECT min(name) FROM servers;
         CREATE FUNCTION pg_temp.first() RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT min(name) FROM servers); END';
         CREATE FUNCTION pg_temp.first_sql() RETURNS text LANGUAGE sql AS 'SELECT min(name) FROM servers'"
    ));
    for _ in 0..3 {
        for org in [world.acme, world.globex] {
            session.run(&format!("SET app.current_org = '{}'", org.id));
            let expected = format!("{}-server-1", org.slug);
            for query in [
                "EXECUTE q",
                "SELECT pg_temp.first()",
                "SELECT pg_temp.first_sql()",
            ] {
                assert_eq!(session.text(query), expected, "{query}");
            }
        }
        session.run("RESET app.current_org");
        session.run("SET app.current_org = ''");
        assert_eq!(session.value("EXECUTE q"), None);
    }
}
