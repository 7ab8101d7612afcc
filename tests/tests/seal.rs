//! The seal: whose rows a transaction sees cannot be changed by SQL that is injected into it. Issue 4.2; attacks A1, A8,
//! A11, B3.

use pg_tenancy_tests::token::Issuer;
use pg_tenancy_tests::{Session, World, fails, refused};
use serde_json::json;

const ACME: (i64, i64) = (3, 0);
const GLOBEX: (i64, i64) = (0, 3);
const NOTHING: (i64, i64) = (0, 0);

/// Begins a sealed transaction of the agency's user in acme; globex is his as well, as a viewer.
#[track_caller]
fn begin_sealed(world: &World, session: &mut Session) {
    session.run("ROLLBACK");
    session.run(&format!(
        "BEGIN; {}; SELECT tenancy.seal_context()",
        world.claim(world.acme, "agency")
    ));
    assert_eq!(world.seen(session, "servers"), ACME);
    assert_eq!(session.whoami()["sealed"], true);
}

#[track_caller]
fn sealed_error(result: Result<u64, pg_tenancy_tests::Error>) {
    let error = fails(result, "42501");
    // PostgreSQL is first where row_security is off for who may not bypass it: it plans before the statement starts.
    if !error.message().contains("affected by row-level security") {
        assert!(error.message().contains("sealed"), "{error:?}");
        assert!(
            error.detail().is_some() && error.hint().is_some(),
            "{error:?}"
        );
    }
}

/// The refusal of a seal, or of PostgreSQL itself, which runs no procedure's COMMIT within a message of several statements.
#[track_caller]
fn stopped<T: std::fmt::Debug>(result: Result<T, pg_tenancy_tests::Error>, message: &str) {
    let error = result.expect_err(message);
    let error = error.as_db_error().expect("an error of the server's");
    let known = [
        "sealed",
        "affected by row-level security",
        "invalid transaction termination",
    ];
    assert!(
        known.iter().any(|words| error.message().contains(words)),
        "{message}: {error:?}"
    );
}

/// The trusted application's login, made strong: it may become these, too.
fn strengthen(world: &World, login: &str) {
    let db = &world.db;
    let (app, other, bypass) = (db.role(login), db.role("other"), db.role("bypass"));
    world.superuser().run(&format!(
        "CREATE ROLE {other}; CREATE ROLE {bypass} BYPASSRLS; GRANT {other}, {bypass} TO {app};
         GRANT ALL ON servers, sites TO {bypass}"
    ));
}

/// Every way to say that another context is meant, each a statement.
fn changes(world: &World) -> Vec<String> {
    let (globex, key) = (world.globex.id, world.globex.key);
    let (owner, agency) = (world.user("acme.owner"), world.user("agency"));
    let other = world.db.role("other");
    let bypass = world.db.role("bypass");
    let mut ways = vec![
        format!("SET app.current_org = '{globex}'"),
        format!("SET LOCAL app.current_org = '{globex}'"),
        format!("SET SESSION \"APP\".\"Current_Org\" TO '{key}'"),
        format!("SELECT set_config('app.current_org', '{key}', true)"),
        format!("SELECT set_config('app.current_org', '{globex}', false)"),
        "SELECT set_config('app.current_org', NULL, false)".into(),
        "SELECT set_config('app.current_org', NULL, true)".into(),
        "SELECT set_config('app.current_org', '', true)".into(),
        "SET LOCAL app.current_org = ''".into(),
        "SET LOCAL app.current_org = 'rubbish'".into(),
        "SET LOCAL app.current_org TO DEFAULT".into(),
        "RESET app.current_org".into(),
        "RESET ALL".into(),
        format!("SET app.current_user_id = '{owner}'"),
        format!("SET LOCAL app.current_user_id = '{owner}'"),
        "SET LOCAL app.current_user_id = ''".into(),
        "SELECT set_config('app.current_user_id', NULL, true)".into(),
        "RESET app.current_user_id".into(),
        "SET LOCAL app.actor_type = 'ai'".into(),
        format!("SET ROLE {other}"),
        format!("SET LOCAL ROLE {bypass}"),
        format!("SELECT set_config('role', '{bypass}', true)"),
        format!("SELECT set_config('role', '{other}', false)"),
        format!("SET LOCAL \"role\" = '{bypass}'"),
        "SET row_security = off".into(),
        "SET LOCAL row_security = off".into(),
        "SELECT set_config('row_security', 'off', true)".into(),
        format!("DO $$ BEGIN PERFORM set_config('app.current_org', '{globex}', true); END $$"),
        format!(
            "DO $$ DECLARE t text; BEGIN t := set_config('app.current_org', '{globex}', true); END $$"
        ),
        format!("DO $$ DECLARE t text; BEGIN t := set_config('role', '{bypass}', true); END $$"),
        format!("DO $$ BEGIN EXECUTE 'SET app.current_org = ''{globex}'''; END $$"),
        format!("DO $$ BEGIN SET LOCAL ROLE {bypass}; END $$"),
        format!(
            "PREPARE way AS SELECT set_config('app.current_org', $1, true); EXECUTE way('{globex}')"
        ),
        format!(
            "WITH w AS (SELECT set_config('app.current_org', '{key}', true) s) SELECT s FROM w"
        ),
    ];
    ways.extend([agency, owner].map(|user| {
        format!("SET LOCAL app.current_org = '{globex}'; SET LOCAL app.current_user_id = '{user}'")
    }));
    ways
}

#[test]
fn a11_no_change_is_survived_by_a_statement_after_it() {
    let world = World::new();
    strengthen(&world, "app");
    let mut app = world.app();
    let (acme, globex) = (
        world.hash("servers", world.acme),
        world.hash("servers", world.globex),
    );
    for way in changes(&world) {
        for after in [
            "SELECT * FROM servers",
            "SELECT 1",
            "SELECT tenancy.current_org()",
            "SELECT tenancy.has_permission('data:read')",
            "UPDATE servers SET cpus = 99",
            "DELETE FROM sites",
            "INSERT INTO servers (id, name) VALUES (999, 'x')",
            "COPY servers TO STDOUT",
            "COPY (SELECT * FROM servers) TO STDOUT",
            "EXPLAIN SELECT * FROM servers",
            "DECLARE c CURSOR FOR SELECT * FROM servers",
            "CREATE TEMP TABLE loot AS SELECT * FROM servers",
            "DO $$ BEGIN PERFORM * FROM servers; END $$",
            "TRUNCATE sites",
            "LOCK TABLE servers",
            "SHOW app.current_org",
            "COMMIT",
            "PREPARE TRANSACTION 'seal'",
        ] {
            begin_sealed(&world, &mut app);
            // The way there may be refused already, or what comes after it.
            sealed_error(app.attempt(&way).and_then(|_| app.attempt(after)));
            app.run("ROLLBACK; DEALLOCATE ALL");
        }
        // In one message.
        begin_sealed(&world, &mut app);
        fails(
            app.attempt(&format!("{way}; SELECT * FROM servers")),
            "42501",
        );
        app.run("ROLLBACK");
        // Nothing of it stays behind.
        assert!(!app.whoami()["reason"].is_null());
        assert_eq!(world.seen(&mut app, "servers"), NOTHING, "{way}");
        assert!(app.is_true("SELECT current_user = session_user"), "{way}");
        assert_eq!(app.text("SHOW row_security"), "on", "{way}");
    }
    assert_eq!(
        (acme, globex),
        (
            world.hash("servers", world.acme),
            world.hash("servers", world.globex)
        )
    );
}

#[test]
fn a11_a_way_that_fails_by_itself_or_says_the_same_changes_nothing() {
    let world = World::new();
    let mut app = world.app();
    begin_sealed(&world, &mut app);
    let nobody = world.db.role("nobody");
    for way in [
        format!("SET ROLE {nobody}"),
        format!("SET SESSION AUTHORIZATION {nobody}"),
    ] {
        fails(app.attempt_within(&way), "42501");
    }
    for same in [
        format!("SET LOCAL app.current_org = '{}'", world.acme.key),
        format!("SET LOCAL app.current_user_id = '{}'", world.user("agency")),
        "SET LOCAL app.current_user_id = 'key-of-agency'".into(),
        format!("SELECT tenancy.enter('{}')", world.acme.id),
        format!("SELECT tenancy.enter('{}', '{}', seal => true)", world.acme.id, world.user("agency")),
        "SELECT tenancy.seal_context()".into(),
        "SET LOCAL app.request_id = 'r1'; SET LOCAL search_path = public; SET LOCAL work_mem = '1MB'".into(),
        "SAVEPOINT a; RELEASE a; SAVEPOINT b; ROLLBACK TO b".into(),
        "SET ROLE NONE; RESET ROLE".into(),
    ] {
        app.run(&same);
        assert_eq!(world.seen(&mut app, "servers"), ACME, "{same}");
    }
    app.run("UPDATE servers SET cpus = 8 WHERE id = 1; COMMIT");
    assert_eq!(app.whoami()["sealed"], false);
}

#[test]
fn a11_a_change_that_is_taken_back_before_the_next_statement_did_nothing() {
    let world = World::new();
    let mut app = world.app();
    begin_sealed(&world, &mut app);
    app.run("SAVEPOINT a");
    app.run(&format!(
        "SET LOCAL app.current_org = '{}'",
        world.globex.id
    ));
    sealed_error(app.attempt("SELECT * FROM servers"));
    app.run("ROLLBACK TO a");
    assert_eq!(world.seen(&mut app, "servers"), ACME);
    app.run("COMMIT");
}

#[test]
fn a11_within_one_statement() {
    let world = World::new();
    strengthen(&world, "app");
    let (globex, bypass) = (world.globex.id, world.db.role("bypass"));
    world.superuser().run(&format!(
        "CREATE FUNCTION by_clause() RETURNS SETOF text LANGUAGE sql SET app.current_org = '{globex}' AS 'SELECT name FROM servers';
         CREATE FUNCTION by_clause_plpgsql() RETURNS SETOF text LANGUAGE plpgsql SET app.current_org = '{globex}'
             AS 'BEGIN RETURN QUERY SELECT name FROM servers; END';
         CREATE FUNCTION by_role() RETURNS SETOF text LANGUAGE plpgsql SET role = '{bypass}'
             AS 'BEGIN RETURN QUERY SELECT name FROM servers; END';
         CREATE FUNCTION by_rls() RETURNS SETOF text LANGUAGE plpgsql SET row_security = off
             AS 'BEGIN RETURN QUERY SELECT name FROM servers; END';
         CREATE FUNCTION by_body() RETURNS SETOF text LANGUAGE plpgsql AS $$
             DECLARE t text; BEGIN t := set_config('app.current_org', '{globex}', true);
             RETURN QUERY SELECT name FROM servers; END $$;
         CREATE FUNCTION by_body_and_back() RETURNS SETOF text LANGUAGE plpgsql AS $$
             DECLARE t text; BEGIN t := set_config('role', '{bypass}', true);
             RETURN QUERY SELECT name FROM servers; t := set_config('role', 'none', true); END $$;
         CREATE FUNCTION by_key() RETURNS uuid LANGUAGE plpgsql SET app.current_org = 'customer-8' AS 'BEGIN RETURN tenancy.current_org(); END';
         CREATE FUNCTION by_handler() RETURNS SETOF text LANGUAGE plpgsql AS $$
             DECLARE t text; BEGIN t := set_config('app.current_org', '{globex}', true);
             BEGIN PERFORM 1; EXCEPTION WHEN OTHERS THEN END;
             RETURN QUERY SELECT name FROM servers; END $$;"
    ));
    let mut app = world.app();
    for call in [
        "by_clause()",
        "by_clause_plpgsql()",
        "by_role()",
        "by_rls()",
        "by_body()",
        "by_body_and_back()",
        "by_key()",
        "by_handler()",
    ] {
        begin_sealed(&world, &mut app);
        sealed_error(app.attempt(&format!("SELECT * FROM {call}")));
        begin_sealed(&world, &mut app);
        sealed_error(app.attempt(&format!("SELECT name, {call} FROM servers")));
        app.run("ROLLBACK");
    }
    for query in [
        format!("SELECT set_config('app.current_org', '{globex}', true), tenancy.current_org()"),
        format!(
            "SELECT set_config('app.current_org', '{globex}', true), (SELECT max(name) FROM servers s WHERE s.id >= x.id) FROM servers x"
        ),
        format!(
            "SELECT (SELECT count(*) FROM servers WHERE id > length(set_config('app.current_org', '{globex}', true))), count(*) FROM servers"
        ),
        format!(
            "SELECT name FROM servers, (SELECT set_config('app.current_org', '{globex}', true) OFFSET 0) s"
        ),
        format!(
            "SELECT name FROM (SELECT set_config('app.current_org', '{globex}', true) OFFSET 0) s, LATERAL (SELECT * FROM servers OFFSET 0) t"
        ),
        format!(
            "SELECT set_config('app.current_org', '{globex}', true) UNION ALL SELECT name FROM servers"
        ),
    ] {
        begin_sealed(&world, &mut app);
        if let Ok(rows) = app.try_rows(&query) {
            assert!(
                !format!("{rows:?}").contains("globex-server"),
                "{query}: {rows:?}"
            );
            assert!(
                !format!("{rows:?}").contains(&format!("{:?}", [&globex.to_string()])),
                "{query}"
            );
            sealed_error(app.attempt("SELECT 1"));
        }
    }
}

#[test]
fn a11_an_open_cursor_and_a_prepared_statement() {
    let world = World::new();
    strengthen(&world, "app");
    let mut app = world.app();
    app.run("PREPARE q AS SELECT * FROM servers; SET plan_cache_mode = force_generic_plan");
    for way in changes(&world) {
        begin_sealed(&world, &mut app);
        app.run("DECLARE c CURSOR FOR SELECT * FROM servers; FETCH 1 FROM c; EXECUTE q");
        sealed_error(
            app.attempt(&way)
                .and_then(|_| app.attempt("FETCH ALL FROM c")),
        );
        app.run("ROLLBACK; DEALLOCATE ALL; PREPARE q AS SELECT * FROM servers");
        begin_sealed(&world, &mut app);
        sealed_error(app.attempt(&way).and_then(|_| app.attempt("EXECUTE q")));
        app.run("ROLLBACK; DEALLOCATE ALL; PREPARE q AS SELECT * FROM servers");
    }
}

#[test]
fn a11_a_commit_stacked_into_the_message_gains_nothing() {
    let world = World::new();
    strengthen(&world, "app");
    let mut app = world.app();
    let open = format!(
        "BEGIN; {}; SELECT tenancy.seal_context()",
        world.claim(world.acme, "agency")
    );
    let globex = world.claim(world.globex, "globex.owner");
    let claim = |text: &str| format!("{text} SELECT 'secret ' || name FROM servers");
    let bypass = world.db.role("bypass");
    for end in [
        "COMMIT",
        "ROLLBACK",
        "END; ABORT",
        "COMMIT AND CHAIN",
        "ROLLBACK AND CHAIN",
        "COMMIT; BEGIN; COMMIT",
    ] {
        for inject in [
            claim(&format!("BEGIN; {globex};")),
            claim(&format!("{globex};")),
            claim(&format!("SET app.current_org = '{}';", world.globex.id)),
            claim(&format!(
                "BEGIN; SELECT tenancy.enter('{}', '{}');",
                world.globex.id,
                world.user("globex.owner")
            )),
            claim(&format!("BEGIN; {globex}; SELECT tenancy.seal_context();")),
            claim(&format!("SET ROLE {bypass};")),
            claim("SET row_security = off;"),
            format!("DO $$ BEGIN SET LOCAL ROLE {bypass}; END $$"),
            "SELECT tenancy.create_user('evil@example.test', 'Evil')".into(),
            format!("SET ROLE {bypass}"),
            "SET app.current_org = 'customer-8'".into(),
            format!("DO $$ DECLARE t text; BEGIN t := set_config('role', '{bypass}', false); END $$"),
            format!("DO $$ DECLARE t text; BEGIN ROLLBACK; t := set_config('role', '{bypass}', false); END $$"),
            format!("DO $$ DECLARE t text; BEGIN COMMIT; t := set_config('role', '{bypass}', false); END $$"),
            "DO $$ DECLARE t text; BEGIN t := set_config('app.current_org', 'customer-8', false); END $$".into(),
            "SELECT name FROM servers".into(),
            "SELECT tenancy.my_orgs()".into(),
            "SET app.current_user_id = 'key-of-globex.owner'".into(),
        ] {
            app.attempt("ROLLBACK").ok();
            let message = format!("{open}; SELECT count(*) FROM servers; {end}; {inject}");
            let done = app.try_rows(&message);
            stopped(done.and_then(|_| app.try_rows("SELECT 1")), &message);
            app.attempt("ROLLBACK").ok();
            // Also when the message only ends the transaction that others opened.
            app.run(&open);
            assert_eq!(world.seen(&mut app, "servers"), ACME);
            let done = app.try_rows(&format!("{end}; {inject}"));
            stopped(done.and_then(|_| app.try_rows("SELECT 1")), &message);
            app.attempt("ROLLBACK").ok();
            assert!(
                app.is_true("SELECT current_user = session_user"),
                "{end}; {inject}"
            );
            assert_eq!(app.text("SHOW app.current_org"), "", "{end}; {inject}");
        }
    }
    assert_eq!(
        world
            .superuser()
            .count("SELECT count(*) FROM tenancy.users WHERE name = 'Evil'"),
        0
    );
    // Nor is one left behind for the next message.
    for leave in [
        format!("BEGIN; {globex}"),
        "BEGIN; SET LOCAL app.current_org = 'customer-8'".into(),
        format!("BEGIN; SET LOCAL ROLE {bypass}"),
        format!("BEGIN; SET ROLE {bypass}"),
        "BEGIN; SET LOCAL row_security = off".into(),
        "BEGIN; DO $$ DECLARE t text; BEGIN t := set_config('app.current_org', 'customer-8', true); END $$".into(),
    ] {
        for next in ["SELECT 'secret ' || name FROM servers", "SELECT 1", "SHOW app.current_org", "COMMIT"] {
            for end in ["COMMIT", "ROLLBACK"] {
                app.run(&open);
                let left = app.attempt(&format!("{end}; {leave}"));
                stopped(left.and_then(|_| app.attempt(next)), &format!("{end}; {leave} | {next}"));
                app.attempt("ROLLBACK").ok();
                app.run(&open);
                let left = app.attempt(&format!("{end} AND CHAIN; {}", &leave[7..]));
                stopped(left.and_then(|_| app.attempt(next)), &format!("{end} AND CHAIN; {leave} | {next}"));
                app.attempt("ROLLBACK").ok();
                assert!(app.is_true("SELECT current_user = session_user"), "{leave} | {next}");
            }
        }
    }
    // The next message is free, and transaction control alone was always.
    app.run(&format!("{open}; COMMIT; BEGIN; ROLLBACK"));
    app.run(&format!("{open}; COMMIT AND CHAIN"));
    app.run(&globex);
    assert_eq!(world.seen(&mut app, "servers"), GLOBEX);
    app.run(&format!("COMMIT; {open}; COMMIT; BEGIN"));
    app.run("SAVEPOINT a");
    app.run(&format!("{globex}; ROLLBACK TO a; COMMIT"));
    app.run(&format!("{open}; COMMIT; SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL; DEALLOCATE ALL"));
    app.run(&format!(
        "{open}; ROLLBACK; SELECT 1; BEGIN; SELECT 1; COMMIT"
    ));
    app.run(&format!("{open}; COMMIT"));
    app.run("SELECT 1");
    app.run(&format!("BEGIN; {globex}"));
    assert_eq!(world.seen(&mut app, "servers"), GLOBEX);
    app.run("COMMIT");
}

#[test]
fn the_same_context_may_go_on_in_the_message() {
    let world = World::new();
    let mut bound = world.session("acme.viewer");
    let rows = bound.rows(
        "BEGIN; SELECT tenancy.seal_context(); COMMIT; SELECT count(*) FROM servers; SELECT count(*) FROM sites",
    );
    assert_eq!(
        rows[1..],
        [[Some("3".to_string())], [Some("6".to_string())]]
    );
    // And is held to what it was, to the end of each transaction.
    let other = world.db.role("nobody");
    world.superuser().run(&format!(
        "GRANT {other} TO {}",
        world.db.role("acme.viewer")
    ));
    for way in [
        format!("DO $$ DECLARE t text; BEGIN t := set_config('role', '{other}', false); END $$"),
        format!("SELECT set_config('role', '{other}', false)"),
        format!("SET ROLE {other}"),
    ] {
        let result = bound.attempt(&format!(
            "BEGIN; SELECT tenancy.seal_context(); COMMIT; {way}"
        ));
        fails(result, "42501");
        assert!(bound.is_true("SELECT current_user = session_user"), "{way}");
    }
}

#[test]
fn a11_the_extended_protocol_is_a_message_each() {
    let world = World::new();
    let mut app = world.app();
    begin_sealed(&world, &mut app);
    let seen: i64 = app
        .query_one("SELECT count(*) FROM servers", &[])
        .unwrap()
        .get(0);
    assert_eq!(seen, 3);
    let globex = world.globex.key;
    app.execute("SELECT set_config('app.current_org', $1, true)", &[&globex])
        .ok();
    sealed_error(app.execute("SELECT 1", &[]));
    app.run("ROLLBACK");
    app.execute("BEGIN", &[]).unwrap();
    app.run(&format!(
        "{}; SELECT tenancy.seal_context()",
        world.claim(world.acme, "agency")
    ));
    app.execute("COMMIT", &[]).unwrap();
    app.execute(
        "SELECT set_config('app.current_org', $1, false)",
        &[&globex],
    )
    .unwrap();
}

#[test]
fn a_procedure_cannot_end_a_sealed_transaction() {
    let world = World::new();
    world.superuser().run(&format!(
        "CREATE PROCEDURE stack(how text) LANGUAGE plpgsql AS $$
         DECLARE t text; BEGIN
             IF how = 'commit' THEN COMMIT; ELSE ROLLBACK; END IF;
             t := set_config('app.current_org', '{0}', false);
             PERFORM * FROM servers;
         END $$;
         CREATE PROCEDURE seal_and_commit() LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM tenancy.enter('{1}'); PERFORM tenancy.seal_context(); COMMIT;
         END $$;",
        world.globex.id, world.acme.id
    ));
    let mut app = world.app();
    for how in ["commit", "rollback"] {
        begin_sealed(&world, &mut app);
        fails(app.attempt(&format!("CALL stack('{how}')")), "2D000");
        app.run("ROLLBACK");
        let open = format!(
            "BEGIN; {}; SELECT tenancy.seal_context()",
            world.claim(world.acme, "agency")
        );
        stopped(
            app.attempt(&format!("{open}; COMMIT; CALL stack('{how}')")),
            how,
        );
        app.attempt("ROLLBACK").ok();
    }
    // Nor can it seal one that it may end.
    let mut bound = world.bound("agency");
    refused(bound.attempt("CALL seal_and_commit()"), "25P01");
}

#[test]
fn a8_savepoints_neither_lift_nor_move_it() {
    let world = World::new();
    let mut app = world.app();
    let claim = world.claim(world.acme, "agency");
    app.run(&format!(
        "BEGIN; {claim}; SAVEPOINT a; SELECT tenancy.seal_context(); ROLLBACK TO a"
    ));
    assert_eq!(world.seen(&mut app, "servers"), ACME);
    app.run(&format!(
        "SET LOCAL app.current_org = '{}'",
        world.globex.id
    ));
    sealed_error(app.attempt("SELECT 1"));
    app.run("ROLLBACK");
    // A context that goes with the savepoint takes nothing along: the transaction is over.
    app.run(&format!(
        "BEGIN; SAVEPOINT a; {claim}; SELECT tenancy.seal_context(); ROLLBACK TO a"
    ));
    sealed_error(app.attempt("SELECT 1"));
    app.run("ROLLBACK TO a");
    fails(app.attempt(&world.claim(world.globex, "agency")), "42501");
    app.run("ROLLBACK");
    app.run(&format!(
        "BEGIN; {claim}; SAVEPOINT a; SELECT tenancy.seal_context(); RELEASE a"
    ));
    app.run(&format!(
        "SET LOCAL app.current_org = '{}'",
        world.globex.id
    ));
    sealed_error(app.attempt("SELECT 1"));
    app.run("ROLLBACK");
    // In an exception block.
    begin_sealed(&world, &mut app);
    app.run(&format!(
        "DO $$ BEGIN PERFORM set_config('app.current_org', '{}', true); PERFORM * FROM servers;
         EXCEPTION WHEN insufficient_privilege THEN END $$",
        world.globex.id
    ));
    assert_eq!(world.seen(&mut app, "servers"), ACME);
    app.run("COMMIT");
}

#[test]
fn it_ends_with_the_transaction() {
    let world = World::new();
    let mut app = world.app();
    for end in [
        "COMMIT",
        "ROLLBACK",
        "COMMIT AND CHAIN",
        "PREPARE TRANSACTION 'sealed'",
    ] {
        begin_sealed(&world, &mut app);
        app.run(end);
        assert_eq!(app.whoami()["sealed"], false);
        assert_eq!(world.seen(&mut app, "servers"), NOTHING);
        app.attempt("COMMIT").ok();
        world.begin(&mut app, world.globex, "globex.viewer");
        assert_eq!(world.seen(&mut app, "servers"), GLOBEX, "{end}");
        app.run("COMMIT");
    }
    world.superuser().run("ROLLBACK PREPARED 'sealed'");
    // After an error as well.
    begin_sealed(&world, &mut app);
    fails(app.attempt("SELECT 1 / 0"), "22012");
    app.run("ROLLBACK");
    world.begin(&mut app, world.globex, "globex.viewer");
    assert_eq!(world.seen(&mut app, "servers"), GLOBEX);
}

#[test]
fn it_needs_a_transaction_block_and_a_context() {
    let world = World::new();
    let mut bound = world.session("acme.viewer");
    refused(bound.attempt("SELECT tenancy.seal_context()"), "25P01");
    refused(
        bound.attempt(&format!(
            "SELECT tenancy.enter('{}', seal => true)",
            world.acme.id
        )),
        "25P01",
    );
    assert_eq!(bound.whoami()["sealed"], false);
    // A message of several statements is a block.
    bound.run("SELECT tenancy.seal_context(); SELECT * FROM servers");
    let mut stranger = world.bound("stranger");
    stranger.run("BEGIN");
    refused(stranger.attempt("SELECT tenancy.seal_context()"), "42501");
    stranger.run("ROLLBACK");
    let mut app = world.app();
    app.run("BEGIN");
    refused(app.attempt("SELECT tenancy.seal_context()"), "42501");
    app.run("ROLLBACK");
    app.run(&format!(
        "BEGIN; SELECT tenancy.enter('{}', '{}', seal => true)",
        world.acme.id,
        world.user("acme.viewer")
    ));
    assert_eq!(world.seen(&mut app, "servers"), ACME);
    sealed_error(app.attempt(&format!("SELECT tenancy.enter('{}')", world.globex.id)));
    app.run("ROLLBACK");
    begin_sealed(&world, &mut app);
    sealed_error(app.attempt("SELECT tenancy.leave()"));
}

#[test]
fn b3_a_stronger_login_stays_what_it_became() {
    let world = World::new();
    let app = world.db.role("app");
    // A superuser's connection that became the application before it sealed.
    for back in [
        "RESET ROLE",
        "SET ROLE NONE",
        "RESET SESSION AUTHORIZATION",
        "SET SESSION AUTHORIZATION DEFAULT",
        "RESET ALL",
    ] {
        let mut dba = world.superuser();
        dba.run(&format!("SET SESSION AUTHORIZATION {app}"));
        begin_sealed(&world, &mut dba);
        sealed_error(
            dba.attempt(back)
                .and_then(|_| dba.attempt("SELECT * FROM servers"))
                .and_then(|_| {
                    // RESET ALL leaves the role alone, and SET ROLE NONE changes nothing here.
                    dba.attempt("RESET app.current_org")
                        .and_then(|_| dba.attempt("SELECT * FROM servers"))
                }),
        );
    }
    let nobody = world.db.role("nobody");
    for end in ["", "COMMIT;", "ROLLBACK;"] {
        let mut dba = world.superuser();
        dba.run(&format!(
            "BEGIN; SET LOCAL ROLE {nobody}; {}; SELECT tenancy.seal_context()",
            world.claim(world.acme, "agency")
        ));
        for back in [
            "RESET ROLE;",
            "SET ROLE postgres;",
            "SET SESSION AUTHORIZATION DEFAULT;",
            "SELECT set_config('role', 'none', true);",
        ] {
            let result = dba.attempt(&format!("SAVEPOINT s; {end} {back} SELECT * FROM servers"));
            fails(result, "42501");
            dba.attempt("ROLLBACK TO s").ok();
            if !end.is_empty() {
                break;
            }
        }
    }
    // Superusers in their own right can seal as well; then break-glass is shut.
    let mut dba = world.superuser();
    dba.run(&format!(
        "BEGIN; SET LOCAL app.current_org = '{}'; SELECT tenancy.seal_context()",
        world.acme.id
    ));
    dba.run("SET LOCAL row_security = off");
    sealed_error(dba.attempt("SELECT * FROM servers"));
}

#[test]
fn definer_functions_views_triggers_and_cascades_go_on_under_it() {
    let world = World::new();
    let owner = world.table_owner();
    world.superuser().run(&format!(
        "GRANT CREATE ON SCHEMA public TO {owner};
         SET tenancy.on_drift = warn;
         SET ROLE {owner};
         CREATE FUNCTION lent() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM servers';
         CREATE VIEW seen AS SELECT * FROM servers;
         GRANT SELECT ON seen TO PUBLIC;
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM count(*) FROM servers; RETURN NULL; END';
         CREATE TRIGGER note AFTER UPDATE ON sites FOR EACH ROW EXECUTE FUNCTION note();
         CREATE CONSTRAINT TRIGGER later AFTER UPDATE ON sites DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION note();
         CREATE FUNCTION whose(int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN coalesce(tenancy.current_org()::text, ''none''); END';
         RESET ROLE"
    ));
    let mut app = world.app();
    begin_sealed(&world, &mut app);
    assert_eq!(app.count("SELECT lent()"), 3);
    assert_eq!(app.count("SELECT count(*) FROM seen"), 3);
    app.run("UPDATE sites SET visits = visits + 1; UPDATE servers SET id = 11 WHERE id = 1; DELETE FROM servers WHERE id = 2");
    app.run("CREATE TEMP TABLE t (a int); INSERT INTO t VALUES (1); CREATE INDEX ON t (whose(a)); ANALYZE t; DROP TABLE t");
    app.run("COMMIT");
    assert_eq!(
        world
            .break_glass()
            .count("SELECT count(*) FROM servers WHERE id IN (2, 11)"),
        1
    );
    // A superuser has none in code of a weaker role, sealed or not.
    let mut dba = world.superuser();
    dba.run(&format!(
        "BEGIN; SET LOCAL app.current_org = '{}'; SELECT tenancy.seal_context()",
        world.acme.id
    ));
    assert_eq!(dba.count("SELECT lent()"), 0);
    dba.run("COMMIT");
}

#[test]
fn governance_and_revocation_under_it() {
    let world = World::new();
    let mut owner = world.session("acme.owner");
    owner.run("BEGIN; SELECT tenancy.seal_context()");
    let stranger = world.user("stranger");
    owner.run(&format!(
        "SELECT tenancy.add_member('{}', '{stranger}', 'viewer')",
        world.acme.id
    ));
    owner.run("UPDATE servers SET cpus = 2; SELECT * FROM tenancy.read_audit(); SELECT * FROM tenancy.my_orgs(); COMMIT");
    // Who loses the organization meanwhile sees nothing more of it, and what he did may be kept.
    let mut app = world.app();
    begin_sealed(&world, &mut app);
    app.run("UPDATE servers SET cpus = 7 WHERE id = 3; SAVEPOINT a");
    let agency = world.user("agency");
    let acme = world.acme.id;
    world.superuser().run(&format!(
        "SELECT tenancy.remove_member('{acme}', '{agency}')"
    ));
    assert_eq!(world.seen(&mut app, "servers"), NOTHING);
    refused(app.attempt("UPDATE servers SET cpus = 8"), "42501");
    app.run("ROLLBACK TO a");
    app.run(&format!(
        "SET LOCAL app.current_org = '{}'",
        world.globex.id
    ));
    sealed_error(app.attempt("SELECT * FROM servers"));
    app.run("ROLLBACK TO a; COMMIT");
    assert_eq!(
        world
            .break_glass()
            .text("SELECT cpus FROM servers WHERE id = 3"),
        "7"
    );
    // One may also leave the organization by oneself.
    let mut member = world.session("acme.member");
    let user = world.user("acme.member");
    member.run("BEGIN; SELECT tenancy.seal_context()");
    member.run(&format!("SELECT tenancy.remove_member('{acme}', '{user}')"));
    member.run("COMMIT");
    assert_eq!(world.seen(&mut member, "servers"), NOTHING);
}

#[test]
fn a_token_is_sealed_in_too() {
    let world = World::new();
    let issuer = Issuer::new("k1", "ES256");
    let gate = world.db.role("gate");
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE ROLE {gate} LOGIN; SELECT tenancy.require_token('{gate}')"
    ));
    dba.run(&issuer.add());
    let token = |who: &str, org: &str| issuer.token(json!({"sub": world.user(who), "org": org}));
    let mut session = world.db.login(&gate);
    let open = format!(
        "BEGIN; SELECT tenancy.authenticate('{}'); SELECT tenancy.seal_context()",
        token("agency", "customer-7")
    );
    for (change, code) in [
        (
            format!(
                "SELECT tenancy.authenticate('{}')",
                token("acme.owner", "customer-7")
            ),
            "42501",
        ),
        (
            format!(
                "SELECT tenancy.authenticate('{}')",
                token("agency", "customer-8")
            ),
            "42501",
        ),
        ("SELECT tenancy.leave()".into(), "42501"),
        (
            format!(
                "SET LOCAL app.current_org = '{}'; SELECT 1",
                world.globex.id
            ),
            "42501",
        ),
        (
            format!(
                "COMMIT; BEGIN; SELECT tenancy.authenticate('{}')",
                token("agency", "customer-8")
            ),
            "42501",
        ),
    ] {
        session.run(&open);
        assert_eq!(world.seen(&mut session, "servers"), ACME);
        let error = fails(session.attempt(&change), code);
        assert!(error.message().contains("sealed"), "{change}: {error:?}");
        session.attempt("ROLLBACK").ok();
    }
    // A newer token of the same user and organization changes nothing.
    session.run(&open);
    session.run(&format!(
        "SELECT tenancy.authenticate('{}')",
        token("agency", "customer-7")
    ));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    session.run("COMMIT");
}

#[test]
fn c13_workers_do_not_slip_out_of_it() {
    let world = World::new();
    strengthen(&world, "app");
    world.break_glass().run(&format!(
        "CREATE TABLE points (id bigint PRIMARY KEY, org_id uuid NOT NULL, v int NOT NULL);
         INSERT INTO points SELECT i, CASE WHEN i % 3 = 0 THEN '{0}' ELSE '{1}' END::uuid, i FROM generate_series(1, 30000) i;
         SELECT tenancy.protect('points'); GRANT ALL ON points TO PUBLIC; ANALYZE points;
         CREATE FUNCTION sneak() RETURNS uuid LANGUAGE plpgsql PARALLEL SAFE SET app.current_org = '{0}'
             AS 'BEGIN RETURN tenancy.current_org(); END';
         CREATE FUNCTION sneak_role() RETURNS bigint LANGUAGE plpgsql PARALLEL SAFE SET role = '{2}'
             AS 'BEGIN RETURN (SELECT count(*) FROM points); END'",
        world.globex.id,
        world.acme.id,
        world.db.role("bypass")
    ));
    let mut app = world.app();
    app.run(
        "SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
         SET min_parallel_table_scan_size = 0; SET enable_indexscan = off; SET enable_bitmapscan = off;
         SET enable_indexonlyscan = off; SET parallel_leader_participation = off; SET force_parallel_mode = on",
    );
    begin_sealed(&world, &mut app);
    assert_eq!(app.count("SELECT count(*) FROM points"), 20000);
    for call in ["sneak()", "sneak_role()"] {
        sealed_error(
            app.attempt_within(&format!("SELECT {call}, count(*) FROM points GROUP BY 1")),
        );
    }
}
