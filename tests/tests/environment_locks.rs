//! SELECT ... FOR UPDATE and its like by a role that may update the rows of one environment only (spec 5.4): the lock of any
//! other row is an error, and nothing else is.

use pg_tenancy_tests::{Session, World, refused};

/// Machines 1 to 4 are of production, staging, development and none; jobs the same, in partitions; apps 1 and 2 of a
/// production and a staging project. The crew, who is acme's viewer, reads everything and writes in staging.
fn world() -> World {
    let world = World::people();
    let org = world.acme.id;
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE TABLE machines (id int PRIMARY KEY, org_id uuid, environment text, name text);
         CREATE TABLE jobs (id int, org_id uuid, environment text, PRIMARY KEY (id, environment)) PARTITION BY LIST (environment);
         CREATE TABLE jobs_production PARTITION OF jobs FOR VALUES IN ('production');
         CREATE TABLE jobs_other PARTITION OF jobs DEFAULT;
         CREATE TABLE apps (id int PRIMARY KEY, org_id uuid, project_id uuid);
         CREATE TABLE picks (id int PRIMARY KEY, org_id uuid, machine int);
         CREATE VIEW seen WITH (security_invoker = true) AS SELECT * FROM machines;
         GRANT ALL ON machines, jobs, jobs_production, jobs_other, apps, picks, seen TO PUBLIC;
         SELECT tenancy.protect('machines', environment_column => 'environment');
         SELECT tenancy.protect('jobs', environment_column => 'environment');
         SELECT tenancy.protect('apps', project_column => 'project_id', environment_from => 'project_id');
         SELECT tenancy.protect('picks');
         SELECT tenancy.create_role('{org}', 'crew');
         SELECT tenancy.grant_permission('{org}', 'crew', 'data:read');
         SELECT tenancy.grant_permission('{org}', 'crew', 'data:write', environment => 'staging');
         SELECT tenancy.set_member_role('{org}', '{crew}', 'crew');
         SELECT tenancy.create_project('{org}', 'p' || i, environment => (ARRAY['production', 'staging'])[i]) FROM generate_series(1, 2) i",
        crew = world.user("acme.viewer")
    ));
    world.break_glass().run(&format!(
        "INSERT INTO machines (id, org_id, environment) SELECT i, '{org}', (ARRAY['production', 'staging', 'development', NULL])[i] FROM generate_series(1, 4) i;
         INSERT INTO jobs (id, org_id, environment) SELECT i, '{org}', (ARRAY['production', 'staging', 'development'])[i] FROM generate_series(1, 3) i;
         INSERT INTO picks (id, org_id, machine) VALUES (1, '{org}', 2);
         INSERT INTO apps (id, org_id, project_id) SELECT i, '{org}', p.id FROM generate_series(1, 2) i JOIN tenancy.projects p ON p.name = 'p' || i"
    ));
    world
}

#[track_caller]
fn may_lock(session: &mut Session, sql: &str, rows: u64) {
    session.run("BEGIN");
    assert_eq!(session.run(sql), rows, "{sql}");
    session.run("ROLLBACK");
}

#[track_caller]
fn may_not_lock(session: &mut Session, sql: &str) {
    session.run("BEGIN");
    let error = refused(session.attempt(sql), "42501");
    assert!(error.message().contains("crew"), "{sql}: {error:?}");
    assert!(error.message().contains("row lock"), "{sql}: {error:?}");
    session.run("ROLLBACK");
}

#[test]
fn who_may_update_one_environment_locks_no_row_of_another() {
    let world = world();
    let mut crew = world.session("acme.viewer");
    assert_eq!(crew.count("SELECT count(*) FROM machines"), 4);
    for strength in ["UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"] {
        for id in [1, 3, 4] {
            may_not_lock(
                &mut crew,
                &format!("SELECT * FROM machines WHERE id = {id} FOR {strength}"),
            );
        }
        may_not_lock(
            &mut crew,
            &format!("SELECT id FROM machines FOR {strength}"),
        );
        may_lock(
            &mut crew,
            &format!("SELECT name FROM machines WHERE id = 2 FOR {strength}"),
            1,
        );
    }
    for sql in [
        "SELECT * FROM jobs FOR UPDATE",
        "SELECT * FROM jobs WHERE id = 1 FOR UPDATE",
        "SELECT * FROM jobs_production FOR UPDATE",
        "SELECT * FROM jobs_other WHERE id = 3 FOR UPDATE",
        "SELECT * FROM apps WHERE id = 1 FOR UPDATE",
        "SELECT * FROM apps FOR UPDATE",
        "SELECT * FROM seen WHERE id = 1 FOR UPDATE",
        "SELECT * FROM machines WHERE id = 1 FOR UPDATE SKIP LOCKED",
        "SELECT * FROM machines WHERE id = 1 FOR UPDATE NOWAIT",
        "SELECT count(*) FROM (SELECT * FROM machines WHERE id = 1 FOR UPDATE) s",
        "WITH w AS (SELECT * FROM machines WHERE id = 1 FOR UPDATE) SELECT * FROM w",
        "SELECT EXISTS (SELECT FROM machines WHERE id = 1 FOR UPDATE)",
        "SELECT 1 WHERE 1 IN (SELECT id FROM machines WHERE id = 1 FOR UPDATE)",
        "SELECT (SELECT id FROM machines WHERE id = 1 FOR UPDATE)",
        "INSERT INTO jobs (id, environment) SELECT 9, 'staging' FROM (SELECT * FROM machines WHERE id = 1 FOR UPDATE) s",
        "DO $$ BEGIN PERFORM * FROM machines WHERE id = 1 FOR UPDATE; END $$",
        "DECLARE c CURSOR FOR SELECT * FROM machines ORDER BY id FOR UPDATE; FETCH c",
        "PREPARE p AS SELECT * FROM machines WHERE id = $1 FOR UPDATE; EXECUTE p(1)",
        "SELECT * FROM machines a JOIN machines b USING (id) WHERE a.id = 1 FOR UPDATE OF b",
        "SELECT * FROM machines ORDER BY id LIMIT 1 FOR UPDATE",
    ] {
        may_not_lock(&mut crew, sql);
    }
    crew.attempt("DEALLOCATE ALL").unwrap();
    for (sql, rows) in [
        ("SELECT * FROM jobs WHERE id = 2 FOR UPDATE", 1),
        ("SELECT * FROM jobs_other WHERE id = 2 FOR UPDATE", 1),
        ("SELECT * FROM apps WHERE id = 2 FOR UPDATE", 1),
        (
            "SELECT * FROM seen WHERE environment = 'staging' FOR UPDATE",
            1,
        ),
        // What nobody would have locked is not asked for.
        (
            "SELECT * FROM machines WHERE environment = 'staging' FOR UPDATE",
            1,
        ),
        (
            "SELECT * FROM machines ORDER BY environment DESC NULLS LAST LIMIT 1 FOR UPDATE",
            1,
        ),
        (
            "SELECT m.* FROM machines m JOIN picks p ON p.machine = m.id FOR UPDATE OF m",
            1,
        ),
        (
            "SELECT * FROM machines m JOIN machines n USING (id) WHERE m.environment = 'staging' FOR UPDATE OF n",
            1,
        ),
        (
            "SELECT 1 FROM machines WHERE id IN (SELECT id FROM machines WHERE environment = 'staging' FOR UPDATE)",
            1,
        ),
        (
            "SELECT * FROM machines WHERE lower(environment) = 'staging' FOR UPDATE",
            1,
        ),
        (
            "WITH w AS (SELECT * FROM machines WHERE id = 2 FOR UPDATE) SELECT * FROM w",
            1,
        ),
        ("SELECT * FROM machines WHERE id = 99 FOR UPDATE", 0),
        ("SELECT * FROM machines WHERE false FOR UPDATE", 0),
    ] {
        may_lock(&mut crew, sql, rows);
    }
    // Who may everywhere is asked for nothing, and so is a superuser who broke the glass.
    let mut admin = world.session("acme.admin");
    for (sql, rows) in [
        ("SELECT * FROM machines FOR UPDATE", 4),
        ("SELECT * FROM jobs ORDER BY id LIMIT 2 FOR SHARE", 2),
        ("SELECT * FROM apps FOR UPDATE", 2),
    ] {
        may_lock(&mut admin, sql, rows);
        may_lock(&mut world.break_glass(), sql, rows);
    }
    // Also where he says for whom: he is held to nothing that those are.
    let mut glass = world.break_glass();
    glass.run("BEGIN");
    glass.run(&world.claim(world.acme, "acme.viewer"));
    assert_eq!(glass.run("SELECT * FROM machines FOR UPDATE"), 4);
    glass.run("ROLLBACK");
}

#[test]
fn a_row_lock_is_asked_for_by_what_the_role_is_now() {
    let world = world();
    let org = world.acme.id;
    let mut crew = world.session("acme.viewer");
    let mut dba = world.superuser();
    let everywhere = |level: &str| {
        format!("SELECT tenancy.grant_permission('{org}', 'crew', 'data:write', '{level}')")
    };
    dba.run(&everywhere("allow"));
    crew.run("PREPARE one AS SELECT * FROM machines WHERE id = 1 FOR UPDATE");
    for _ in 0..7 {
        assert_eq!(crew.run("EXECUTE one"), 1);
    }
    dba.run(&everywhere("deny"));
    refused(crew.attempt("EXECUTE one"), "42501");
    // While it waits for the lock, the row becomes production's.
    let mut admin = world.session("acme.admin");
    admin.run("BEGIN; UPDATE machines SET environment = 'production' WHERE id = 2");
    let pid = crew.count("SELECT pg_backend_pid()");
    let waiting = std::thread::spawn(move || {
        let said = crew.attempt("SELECT * FROM machines WHERE id = 2 FOR UPDATE");
        (said, crew)
    });
    while !dba.is_true(&format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock')"
    )) {
        assert!(!waiting.is_finished(), "it did not wait");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    admin.run("COMMIT");
    let (said, mut crew) = waiting.join().unwrap();
    refused(said, "42501");
    // A function's body comes into the statement when its planning has begun.
    dba.run(
        "CREATE FUNCTION locked() RETURNS SETOF machines LANGUAGE sql STABLE AS 'SELECT * FROM machines WHERE id = 1 FOR UPDATE'",
    );
    crew.attempt("SELECT * FROM locked()")
        .expect_err("a lock by an inlined function");
    // Nor does one lock that is asked for cover another of the same table.
    may_not_lock(
        &mut crew,
        "SELECT m.id FROM machines m, locked() l WHERE m.id = 2 FOR UPDATE OF m",
    );
    // Asked by hand it tells nothing and breaks nothing.
    for (sql, answer) in [
        (
            "SELECT tenancy.check_lock('machines'::regclass, m) FROM machines m WHERE id = 2",
            None,
        ),
        (
            "SELECT tenancy.check_lock('machines'::regclass, ROW(1, 2))",
            Some("f"),
        ),
        (
            "SELECT tenancy.check_lock('machines'::regclass, a) FROM apps a WHERE id = 1",
            Some("f"),
        ),
        (
            "SELECT tenancy.check_lock('picks'::regclass, ROW(1))",
            Some("t"),
        ),
        ("SELECT tenancy.check_lock(1, ROW(1))", Some("t")),
        ("SELECT tenancy.check_lock(NULL, NULL)", Some("t")),
    ] {
        match answer {
            Some(answer) => assert_eq!(crew.text(sql), answer, "{sql}"),
            None => drop(refused(crew.attempt(sql), "42501")),
        }
    }
}
