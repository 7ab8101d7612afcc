//! Ways past a sealed or shared context that compare nothing at a statement's start: through a failed transaction's last
//! message, through a role that changes while one statement runs, through what the login's next session starts with, and
//! through a cursor that outlasts a savepoint. Attacks A2, A11, B7, E4.

use pg_tenancy_tests::token::Issuer;
use pg_tenancy_tests::{Error, Session, World, fails, refused};
use serde_json::json;

const ACME: (i64, i64) = (3, 0);
const GLOBEX: (i64, i64) = (0, 3);

/// The trusted application, which may become a role that passes row security.
fn strong_application(world: &World) -> (Session, String) {
    let (app, bypass) = (world.db.role("app"), world.db.role("bypass"));
    world.superuser().run(&format!(
        "CREATE ROLE {bypass} BYPASSRLS; GRANT {bypass} TO {app}; GRANT ALL ON servers, sites TO {bypass}; ANALYZE servers"
    ));
    (world.app(), bypass)
}

fn sealed(world: &World) -> String {
    format!(
        "BEGIN; SELECT tenancy.enter('{}', '{}', seal => true)",
        world.acme.id,
        world.user("agency")
    )
}

#[track_caller]
fn stopped<T: std::fmt::Debug>(result: Result<T, Error>, what: &str) {
    let error = fails(result, "42501");
    assert!(error.message().contains("sealed"), "{what}: {error:?}");
}

#[test]
fn a11_h1_the_message_that_leaves_a_failed_transaction_gains_nothing() {
    let world = World::new();
    let (mut app, bypass) = strong_application(&world);
    let globex = world.claim(world.globex, "globex.owner");
    let read = "SELECT 'secret ' || name FROM servers";
    for (fail, code) in [
        ("SELECT 1 / 0", "22012"),
        ("nonsense", "42601"),
        ("SELECT * FROM nowhere", "42P01"),
        ("SET LOCAL ROLE nobody_at_all", "22023"),
    ] {
        for end in [
            "ROLLBACK",
            "COMMIT",
            "END",
            "ROLLBACK AND CHAIN",
            "COMMIT AND CHAIN",
            "ABORT; BEGIN; COMMIT",
        ] {
            for inject in [
                format!("BEGIN; {globex}; {read}"),
                format!("SET app.current_org = '{}'; {read}", world.globex.id),
                format!("SET ROLE {bypass}; {read}"),
                format!("SET ROLE {bypass}"),
                format!("DO $$ BEGIN SET ROLE {bypass}; END $$"),
                "SET app.current_user_id = 'key-of-globex.owner'".into(),
                format!(
                    "SELECT tenancy.enter('{}', '{}')",
                    world.globex.id,
                    world.user("globex.owner")
                ),
                read.into(),
            ] {
                let what = format!("{fail} | {end}; {inject}");
                app.run(&sealed(&world));
                fails(app.attempt(fail), code);
                let done = app.try_rows(&format!("{end}; {inject}"));
                stopped(done.and_then(|_| app.try_rows("SELECT 1")), &what);
                app.attempt("ROLLBACK").ok();
                assert!(app.is_true("SELECT current_user = session_user"), "{what}");
                assert_eq!(app.text("SHOW app.current_org"), "", "{what}");
            }
        }
    }
    // Left open for the next message, after several failures too.
    for leave in [
        format!("BEGIN; {globex}"),
        format!("BEGIN; SET LOCAL ROLE {bypass}"),
    ] {
        app.run(&sealed(&world));
        fails(app.attempt("SELECT 1 / 0"), "22012");
        fails(app.attempt("SELECT 1"), "25P02");
        let left = app.attempt(&format!("ROLLBACK; {leave}"));
        stopped(left.and_then(|_| app.attempt("SELECT 1")), &leave);
        app.attempt("ROLLBACK").ok();
    }
    // What comes after that message is free, and a savepoint is a way back as ever.
    app.run(&sealed(&world));
    fails(app.attempt("SELECT 1 / 0"), "22012");
    app.run("ROLLBACK; RESET ALL; SELECT 1");
    app.run(&format!("BEGIN; {globex}"));
    assert_eq!(world.seen(&mut app, "servers"), GLOBEX);
    app.run("COMMIT");
    app.run(&format!("{}; SAVEPOINT s", sealed(&world)));
    fails(app.attempt("SELECT 1 / 0"), "22012");
    app.run("ROLLBACK TO s");
    assert_eq!(world.seen(&mut app, "servers"), ACME);
    assert_eq!(app.whoami()["sealed"], true);
    app.run("COMMIT");
    // A failure later on, in a transaction that was never sealed, holds nobody.
    app.run(&format!("{}; COMMIT", sealed(&world)));
    app.run("BEGIN");
    fails(app.attempt("nonsense"), "42601");
    app.run(&format!("ROLLBACK; BEGIN; {globex}; SELECT 1"));
    assert_eq!(world.seen(&mut app, "servers"), GLOBEX);
}

#[test]
fn e4_h2_a_role_taken_for_a_moment_shows_no_statistics() {
    let world = World::new();
    let (mut app, bypass) = strong_application(&world);
    world.superuser().run(
        "CREATE STATISTICS joint (mcv) ON name, region FROM servers; ANALYZE servers;
         CREATE FUNCTION there(text) RETURNS text LANGUAGE plpgsql AS $$ DECLARE t text; BEGIN t := set_config('role', $1, true);
             SELECT string_agg(histogram_bounds::text, ' ') INTO t FROM pg_stats WHERE tablename = 'servers'; RETURN t; END $$",
    );
    let spied = |columns: &str, view: &str| {
        format!(
            "SELECT v.t, set_config('role', 'none', true)
             FROM (SELECT set_config('role', '{bypass}', true) AS r OFFSET 0) s,
                  LATERAL (SELECT {columns}::text AS t FROM {view} WHERE tablename = 'servers' AND s.r IS NOT NULL OFFSET 0) v"
        )
    };
    let ways = [
        spied("histogram_bounds", "pg_stats"),
        spied("most_common_vals", "pg_catalog.pg_stats"),
        spied("most_common_vals", "pg_stats_ext"),
        format!(
            "EXPLAIN ANALYZE {}",
            spied("most_common_vals", "pg_stats_ext")
        ),
        "DECLARE c CURSOR FOR SELECT * FROM pg_stats".into(),
        format!(
            "CREATE TEMP TABLE loot AS {}",
            spied("histogram_bounds", "pg_stats")
        ),
        format!("COPY ({}) TO STDOUT", spied("histogram_bounds", "pg_stats")),
        format!("SELECT there('{bypass}')"),
    ];
    // It is what such a role would see.
    app.run("BEGIN");
    let told = app.rows(&ways[0]);
    assert!(format!("{told:?}").contains("globex-server"), "{told:?}");
    app.run("ROLLBACK");
    for way in ways {
        app.run(&sealed(&world));
        stopped(app.attempt(&way), &way);
        app.run("ROLLBACK");
        // In what follows the transaction in its message, as well.
        stopped(
            app.attempt(&format!("{}; COMMIT; {way}", sealed(&world))),
            &way,
        );
        app.attempt("ROLLBACK").ok();
    }
    app.run(&format!(
        "{}; ANALYZE servers; SELECT * FROM servers; COMMIT",
        sealed(&world)
    ));
    app.run("SELECT * FROM pg_stats");
}

#[test]
fn b7_h4_a_sealed_or_a_tokens_session_leaves_nothing_to_the_logins_next() {
    let world = World::new();
    let (mut app, bypass) = strong_application(&world);
    let issuer = Issuer::new("k1", "EdDSA");
    let gate = world.db.role("gate");
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE ROLE {gate} LOGIN; SELECT tenancy.require_token('{gate}', scope => 'session')"
    ));
    dba.run(&issuer.add());
    let token = issuer.token(json!({"sub": world.user("acme.viewer"), "org": "customer-7"}));
    let authenticated = format!("SELECT tenancy.authenticate('{token}', scope => 'session')");
    let mut shared = world.db.login(&gate);
    let login = world.db.role("app");
    for change in [
        format!("ALTER ROLE CURRENT_USER SET role = '{bypass}'"),
        "ALTER ROLE CURRENT_USER SET app.current_org = 'customer-8'".into(),
        "ALTER USER CURRENT_USER SET search_path = pg_temp, public".into(),
        "ALTER ROLE CURRENT_USER RESET ALL".into(),
        "ALTER ROLE CURRENT_USER PASSWORD 'mine'".into(),
        format!("ALTER DATABASE {} SET search_path = public", world.db.name),
        "CREATE ROLE backdoor LOGIN".into(),
        format!("GRANT {bypass} TO CURRENT_USER"),
        "DO $$ BEGIN ALTER ROLE CURRENT_USER SET app.current_org = 'customer-8'; END $$".into(),
    ] {
        app.run(&sealed(&world));
        let error = refused(app.attempt(&change), "42501");
        assert!(error.message().contains("sealed"), "{change}: {error:?}");
        app.run("ROLLBACK");
        stopped(
            app.attempt(&format!("{}; COMMIT; {change}", sealed(&world))),
            &change,
        );
        // With a token, and where a token is needed.
        for open in ["SELECT tenancy.whoami()", &authenticated] {
            shared.run(open);
            let error = refused(shared.attempt(&change), "42501");
            assert!(error.message().contains("token"), "{change}: {error:?}");
        }
        shared.run("DISCARD ALL");
    }
    assert_eq!(
        dba.count("SELECT count(*) FROM pg_db_role_setting"),
        0,
        "{:?}",
        dba.rows("TABLE pg_db_role_setting")
    );
    let mut next = world.app();
    assert!(next.is_true("SELECT current_user = session_user"));
    // Unsealed, and for the DBA, it is PostgreSQL's to say.
    app.run("ALTER ROLE CURRENT_USER SET statement_timeout = '1min'; ALTER ROLE CURRENT_USER RESET statement_timeout");
    dba.run(&format!(
        "ALTER ROLE {login} SET app.request_id = 'x'; ALTER ROLE {login} RESET ALL"
    ));
    world
        .session("acme.viewer")
        .run("SELECT tenancy.whoami(); ALTER ROLE CURRENT_USER SET app.current_org = 'customer-7'");
}

/// Opens a cursor by a plan that is kept, which makes no estimate that would pin the transaction.
fn opened(world: &World) -> Session {
    let mut agency = world.bound("agency");
    agency.run(
        "CREATE FUNCTION pg_temp.opened(c refcursor) RETURNS refcursor LANGUAGE plpgsql AS $$
         BEGIN OPEN c FOR SELECT name FROM public.servers; RETURN c; END $$;
         SET plan_cache_mode = force_generic_plan",
    );
    for _ in 0..2 {
        agency.run(&format!(
            "BEGIN; SET LOCAL app.current_org = '{}'; SELECT pg_temp.opened('c'); ROLLBACK",
            world.acme.id
        ));
    }
    agency
}

#[test]
fn a2_h3_a_cursor_that_outlasts_a_savepoint_keeps_its_organization() {
    let world = World::new();
    let mut agency = opened(&world);
    let globex = format!("SET LOCAL app.current_org = '{}'", world.globex.id);
    for read in [
        "SAVEPOINT s; FETCH 1 FROM c; ROLLBACK TO s",
        "SAVEPOINT s; SELECT count(*) FROM sites; FETCH 1 FROM c; ROLLBACK TO s",
        "SAVEPOINT s; SAVEPOINT t; FETCH 1 FROM c; RELEASE t; ROLLBACK TO s",
        "DO $$ DECLARE c refcursor := 'c'; t text; BEGIN FETCH c INTO t; RAISE 'no'; EXCEPTION WHEN raise_exception THEN END $$",
    ] {
        agency.run(&format!(
            "BEGIN; SET LOCAL app.current_org = '{}'; SELECT pg_temp.opened('c')",
            world.acme.id
        ));
        agency.run(&format!("{read}; {globex}; SAVEPOINT after"));
        refused(agency.attempt("SELECT * FROM servers"), "25001");
        agency.run("ROLLBACK TO after");
        agency.run(&format!("SET LOCAL app.current_org = '{}'", world.acme.id));
        assert_eq!(agency.rows("FETCH 1 FROM c").len(), 1, "{read}");
        agency.run(&globex);
        refused(agency.attempt("FETCH ALL FROM c"), "25001");
        agency.run("ROLLBACK");
    }
    // What is closed with its savepoint is gone, and the transaction may work for another.
    agency.run(&format!(
        "BEGIN; SET LOCAL app.current_org = '{}'; SAVEPOINT s; SELECT pg_temp.opened('c')",
        world.acme.id
    ));
    agency.run(&format!("FETCH 1 FROM c; ROLLBACK TO s; {globex}"));
    assert_eq!(world.seen(&mut agency, "servers"), GLOBEX);
    agency.run("ROLLBACK");
}
