//! Who asks, and for which org: every way to say it, and what a claim is worth. Attacks A1, A2, A4, A7 to A10, B3.

use std::time::{Duration, Instant};

use pg_tenancy_tests::{Org, Session, Uuid, World, assert_same_error, fails, refused};

const ACME: (i64, i64) = (3, 0);
const GLOBEX: (i64, i64) = (0, 3);
const NOTHING: (i64, i64) = (0, 0);

fn set(org: Org) -> String {
    format!("SET app.current_org = '{}'", org.id)
}
fn set_local(org: Org) -> String {
    format!("SET LOCAL app.current_org = '{}'", org.id)
}

/// There is no context, and whoami() says why in words that contain one of these.
#[track_caller]
fn assert_reason(session: &mut Session, words: &[&str]) {
    let me = session.whoami();
    assert!(me["org_id"].is_null(), "{me}");
    let reason = me["reason"]
        .as_str()
        .unwrap_or_else(|| panic!("no reason: {me}"));
    assert!(
        words.iter().any(|word| reason.contains(word)),
        "{reason:?} has none of {words:?}"
    );
}

// ---- The ways to set it

#[test]
fn a_bound_login_sets_it_for_the_session() {
    let world = World::new();
    let mut session = world.bound("acme.viewer");
    assert_eq!(world.seen(&mut session, "servers"), NOTHING);
    session.run(&set(world.acme));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    session.run("BEGIN");
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    session.run("COMMIT");
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    session.run("RESET app.current_org");
    assert_eq!(world.seen(&mut session, "servers"), NOTHING);
    session.run(&set(world.acme));
    session.run("DISCARD ALL");
    assert_eq!(world.seen(&mut session, "servers"), NOTHING);
}

#[test]
fn set_local_ends_with_the_transaction() {
    let world = World::new();
    for end in ["COMMIT", "ROLLBACK"] {
        let mut session = world.bound("acme.viewer");
        session.run("BEGIN");
        session.run(&set_local(world.acme));
        assert_eq!(world.seen(&mut session, "servers"), ACME);
        session.run(end);
        assert_eq!(world.seen(&mut session, "servers"), NOTHING);
    }
    // A session value shines through again.
    let mut agency = world.session("agency");
    agency.run("BEGIN");
    agency.run(&set_local(world.globex));
    assert_eq!(world.seen(&mut agency, "servers"), GLOBEX);
    agency.run("COMMIT");
    assert_eq!(world.seen(&mut agency, "servers"), ACME);
}

#[test]
fn set_config_does_the_same() {
    let world = World::new();
    let mut session = world.bound("acme.viewer");
    session.run(&format!(
        "SELECT set_config('app.current_org', '{}', false)",
        world.acme.id
    ));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    for empty in ["NULL", "''"] {
        session.run(&set(world.acme));
        session.run(&format!(
            "SELECT set_config('app.current_org', {empty}, false)"
        ));
        assert_eq!(world.seen(&mut session, "servers"), NOTHING);
        assert_eq!(session.value("SELECT tenancy.current_org()"), None);
    }
    session.run("BEGIN");
    session.run(&format!(
        "SELECT set_config('app.current_org', '{}', true)",
        world.acme.id
    ));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    session.run("COMMIT");
    assert_eq!(world.seen(&mut session, "servers"), NOTHING);
}

#[test]
fn the_empty_string_is_unset() {
    let world = World::new();
    let mut session = world.session("acme.viewer");
    session.run("SET app.current_org = ''");
    assert_eq!(world.seen(&mut session, "servers"), NOTHING);
    assert!(!session.whoami()["reason"].is_null());
    refused(session.attempt("UPDATE sites SET name = name"), "42501");
}

#[test]
fn a8_savepoints_bring_it_back() {
    let world = World::new();
    let mut session = world.bound("agency");
    session.run("BEGIN");
    session.run(&set_local(world.acme));
    session.run("SAVEPOINT a");
    session.run(&set_local(world.globex));
    session.run("SAVEPOINT b");
    session.run("SET LOCAL app.current_org = ''");
    session.run("ROLLBACK TO b");
    session.run("ROLLBACK TO a");
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    session.run("SAVEPOINT c");
    session.run("SET LOCAL app.current_org = ''");
    session.run("ROLLBACK TO c");
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    session.run("RELEASE c");
    session.run("COMMIT");
    assert_eq!(world.seen(&mut session, "servers"), NOTHING);

    // A released savepoint keeps what was said in it.
    session.run("BEGIN; SAVEPOINT a");
    session.run(&set_local(world.globex));
    session.run("RELEASE a");
    assert_eq!(world.seen(&mut session, "servers"), GLOBEX);
    session.run("COMMIT");
}

#[test]
fn a8_savepoints_bring_back_the_applications_context_too() {
    let world = World::new();
    let mut app = world.app();
    world.begin(&mut app, world.acme, "acme.member");
    app.run("SAVEPOINT a");
    app.run(&world.claim(world.globex, "globex.member"));
    app.run("ROLLBACK TO a");
    assert_eq!(world.seen(&mut app, "servers"), ACME);
    assert_eq!(
        app.text("SELECT tenancy.current_user_id()"),
        world.user("acme.member").to_string()
    );
    app.run("ROLLBACK");
    // Set in a savepoint that was undone is not set in this transaction.
    app.run(&format!(
        "BEGIN; SAVEPOINT a; {}",
        world.claim(world.acme, "acme.member")
    ));
    app.run("ROLLBACK TO a");
    assert_eq!(world.seen(&mut app, "servers"), NOTHING);
    app.run("COMMIT");
}

#[test]
fn a8_an_exception_block_brings_it_back() {
    let world = World::new();
    let mut session = world.session("agency");
    session.run("BEGIN");
    session.run(&format!(
        "DO $$ BEGIN
             PERFORM set_config('app.current_org', '{}', true);
             RAISE EXCEPTION 'no';
         EXCEPTION WHEN raise_exception THEN NULL;
         END $$",
        world.globex.id
    ));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    session.run("COMMIT");
    assert_eq!(world.seen(&mut session, "servers"), ACME);
}

#[test]
fn a8_a_rollback_brings_it_back() {
    let world = World::new();
    let mut session = world.bound("agency");
    session.run("BEGIN");
    session.run(&set(world.acme));
    session.run("ROLLBACK");
    assert_eq!(world.seen(&mut session, "servers"), NOTHING);
    session.run(&set(world.acme));
    session.run("BEGIN");
    session.run(&set(world.globex));
    session.run("ROLLBACK");
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    // After an error, likewise.
    session.run("BEGIN");
    session.run(&set(world.globex));
    session.attempt("SELECT 1/0").unwrap_err();
    session.run("ROLLBACK");
    assert_eq!(world.seen(&mut session, "servers"), ACME);
}

#[test]
fn a9_set_local_outside_a_transaction_sets_nothing_and_whoami_says_so() {
    let world = World::new();
    let mut app = world.app();
    app.run("SELECT tenancy.current_org()");
    app.run(&set_local(world.acme));
    app.run(&format!(
        "SET LOCAL app.current_user_id = '{}'",
        world.user("acme.member")
    ));
    assert_eq!(world.seen(&mut app, "servers"), NOTHING);
    assert!(!app.whoami()["reason"].is_null());
}

#[test]
fn role_and_database_settings_and_start_up_options_are_claims_like_any() {
    let world = World::new();
    let org = world.acme.id;
    let member = world.db.role("acme.member");
    let options = format!("-c app.current_org={org}");
    let mut dba = world.superuser();

    let mut session = world.db.login_with(&member, &options);
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    // Also for a login that does something else first.
    let mut session = world.db.login_with(&member, &options);
    session.run("SELECT 1");
    assert_eq!(
        session.text("SELECT tenancy.current_org()"),
        org.to_string()
    );
    session.run("RESET ALL");
    assert_eq!(world.seen(&mut session, "servers"), ACME);

    dba.run(&format!(
        "ALTER ROLE {member} SET app.current_org = '{org}'"
    ));
    assert_eq!(world.seen(&mut world.bound("acme.member"), "servers"), ACME);
    dba.run(&format!("ALTER ROLE {member} RESET ALL"));

    let database = &world.db.name;
    dba.run(&format!(
        "ALTER DATABASE {database} SET app.current_org = '{org}'"
    ));
    assert_eq!(world.seen(&mut world.bound("acme.member"), "servers"), ACME);
    // The same default gives a stranger nothing, nor the application whose context must be of the transaction.
    for mut other in [
        world.bound("stranger"),
        world.bound("globex.owner"),
        world.nobody(),
        world.app(),
    ] {
        assert_eq!(world.seen(&mut other, "servers"), NOTHING);
    }
}

#[test]
fn a1_a_claim_without_membership_shows_nothing_however_it_is_made() {
    let world = World::new();
    let org = world.acme.id;
    let globex_member = world.db.role("globex.member");
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE FUNCTION claiming() RETURNS bigint LANGUAGE sql SET app.current_org = '{org}'
             AS 'SELECT count(*) FROM public.servers';
         CREATE FUNCTION claiming_inside() RETURNS bigint LANGUAGE plpgsql AS $$
             BEGIN
                 PERFORM set_config('app.current_org', '{org}', true);
                 RETURN (SELECT count(*) FROM public.servers);
             END $$;
         GRANT CREATE ON SCHEMA public TO {globex_member}"
    ));
    for who in ["globex.member", "globex.owner", "stranger"] {
        for claim in [
            format!("SET app.current_org = '{org}'"),
            format!("set \"app.current_org\" to '{org}'"),
            format!("SET APP.CURRENT_ORG = '{}'", org.to_string().to_uppercase()),
            format!("SET SESSION app.Current_Org = '{}'", org.simple()),
            format!("SELECT set_config('app.current_org', '{org}', false)"),
            format!("DO $$ BEGIN PERFORM set_config('app.current_org', '{org}', false); END $$"),
            format!("SET app.current_org = '{}'", world.acme.key),
            format!(
                "SET app.current_org = '{org}'; SET app.current_user_id = '{}'",
                world.user("acme.owner")
            ),
        ] {
            let mut session = world.bound(who);
            session.run(&claim);
            assert_eq!(
                world.seen(&mut session, "servers"),
                NOTHING,
                "{who}: {claim}"
            );
            refused(session.attempt("DELETE FROM servers"), "42501");
            assert!(!session.whoami()["reason"].is_null());
        }
        // Within the very statement that reads.
        for reading in [
            format!("SELECT count(*) FROM servers WHERE set_config('app.current_org', '{org}', false) IS NOT NULL"),
            format!(
                "WITH c AS MATERIALIZED (SELECT set_config('app.current_org', '{org}', false) v)
                 SELECT count(s.id) FROM c, servers s WHERE c.v <> ''"
            ),
            format!(
                "SELECT sum(n) FROM (SELECT length(set_config('app.current_org', '{org}', false)) * 0 AS n
                 UNION ALL SELECT count(*) FROM servers) u"
            ),
            "SELECT claiming()".to_string(),
            "SELECT claiming_inside()".to_string(),
        ] {
            let mut session = world.bound(who);
            if let Ok(rows) = session.try_rows(&reading) {
                assert_eq!(rows, [[Some("0".to_string())]], "{who}: {reading}");
            }
        }
    }
    // In the login's own settings, and in its start-up options.
    let mut session = world.bound("globex.member");
    session.run("SELECT tenancy.current_org()");
    session.run(&format!(
        "ALTER ROLE CURRENT_USER SET app.current_org = '{org}'"
    ));
    assert_eq!(
        world.seen(&mut world.bound("globex.member"), "servers"),
        NOTHING
    );
    session.run("ALTER ROLE CURRENT_USER RESET ALL");
    let mut session = world
        .db
        .login_with(&globex_member, &format!("-c app.current_org={org}"));
    assert_eq!(world.seen(&mut session, "servers"), NOTHING);
}

#[test]
fn a1_a_member_reads_his_own_org_through_a_function_that_says_so() {
    let world = World::new();
    world.superuser().run(&format!(
        "CREATE FUNCTION acme_servers() RETURNS bigint LANGUAGE sql SET app.current_org = '{}'
             AS 'SELECT count(*) FROM public.servers'",
        world.acme.id
    ));
    let mut session = world.bound("acme.viewer");
    assert_eq!(session.count("SELECT acme_servers()"), 3);
    assert_eq!(session.value("SELECT tenancy.current_org()"), None);
}

// ---- Set before the library is loaded

#[test]
fn what_was_set_before_the_library_was_loaded_counts_in_the_same_transaction() {
    let world = World::new();
    // The first statements of a fresh connection: nothing of ours has been called yet.
    let mut app = world.app();
    world.begin(&mut app, world.acme, "acme.member");
    assert_eq!(world.seen(&mut app, "servers"), ACME);
    app.run("COMMIT");
    assert_eq!(world.seen(&mut app, "servers"), NOTHING);

    // In one message, and with a write as the first use.
    let mut app = world.app();
    app.run(&format!(
        "BEGIN; {}; UPDATE sites SET visits = visits + 1 WHERE id = 1; COMMIT",
        world.claim(world.acme, "acme.member")
    ));
    assert_eq!(
        world
            .superuser()
            .count("SELECT visits FROM sites WHERE id = 1"),
        11
    );

    // In a savepoint that is released.
    let mut app = world.app();
    app.run("BEGIN; SAVEPOINT s");
    app.run(&world.claim(world.acme, "acme.member"));
    app.run("RELEASE s");
    assert_eq!(world.seen(&mut app, "servers"), ACME);
    app.run("COMMIT");
}

#[test]
fn a4_a_session_context_of_a_transaction_application_is_void() {
    let world = World::new();
    let session_wide = format!(
        "SET app.current_org = '{}'; SET app.current_user_id = '{}'",
        world.acme.id,
        world.user("acme.member")
    );
    for load_first in [false, true] {
        let mut app = world.app();
        if load_first {
            app.run("SELECT tenancy.current_org()");
        }
        app.run(&session_wide);
        assert_eq!(
            world.seen(&mut app, "servers"),
            NOTHING,
            "load_first {load_first}"
        );
        assert_reason(&mut app, &["transaction"]);
        let error = refused(app.attempt("UPDATE sites SET name = name"), "42501");
        assert!(error.detail().unwrap().contains("transaction"), "{error:?}");
        // Nor inside a later transaction that does not say it again.
        app.run("BEGIN");
        assert_eq!(world.seen(&mut app, "servers"), NOTHING);
        assert_reason(&mut app, &["transaction"]);
        app.run("COMMIT");
        // Saying it again makes it good for this transaction.
        world.begin(&mut app, world.acme, "acme.member");
        assert_eq!(world.seen(&mut app, "servers"), ACME);
        app.run("COMMIT");
        assert_eq!(world.seen(&mut app, "servers"), NOTHING);
    }
}

#[test]
fn a4_a_pooled_connection_hands_on_no_context() {
    let world = World::new();
    let mut pooled = world.app();
    for end in ["COMMIT", "ROLLBACK"] {
        // One client of the pool, careless: session-wide, inside his transaction.
        pooled.run(&format!(
            "BEGIN; SET app.current_org = '{}'; SET app.current_user_id = '{}'",
            world.acme.id,
            world.user("acme.owner")
        ));
        assert_eq!(world.seen(&mut pooled, "servers"), ACME);
        pooled.run(end);
        // The next one.
        pooled.run("BEGIN");
        assert_eq!(world.seen(&mut pooled, "servers"), NOTHING);
        refused(pooled.attempt("DELETE FROM servers"), "42501");
        pooled.run("ROLLBACK");
        // Who only says his user does not get the other's org.
        pooled.run(&format!(
            "BEGIN; SET LOCAL app.current_user_id = '{}'",
            world.user("acme.viewer")
        ));
        assert_eq!(world.seen(&mut pooled, "servers"), NOTHING);
        pooled.run("COMMIT");
        // Nor does who only says his org act as the other's user.
        pooled.run(&format!("BEGIN; {}", set_local(world.acme)));
        assert_ne!(
            pooled.value("SELECT tenancy.current_user_id()"),
            Some(world.user("acme.owner").to_string())
        );
        assert_ne!(
            pooled
                .value("SELECT tenancy.current_role_name()")
                .as_deref(),
            Some("owner")
        );
        pooled.run("COMMIT");
    }
}

#[test]
fn an_application_with_connections_of_its_own_keeps_it_for_the_session() {
    let world = World::new();
    let mut app = world.session_app();
    app.run(&format!(
        "SET app.current_org = '{}'; SET app.current_user_id = '{}'",
        world.acme.id,
        world.user("acme.member")
    ));
    assert_eq!(world.seen(&mut app, "servers"), ACME);
    app.run("BEGIN; SELECT 1; COMMIT");
    assert_eq!(world.seen(&mut app, "servers"), ACME);
    let me = app.whoami();
    assert_eq!(me["scope"], "session");
    assert_eq!(me["role"], "member");
    assert!(me["reason"].is_null());
}

// ---- Values

#[test]
fn a_value_that_can_be_no_key_is_an_error_when_set() {
    let world = World::new();
    let mut session = world.session("acme.viewer");
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    let long = "x".repeat(256);
    for name in ["app.current_org", "app.current_user_id"] {
        for value in [
            "E'a\\nb'",
            "E'\\x01'",
            "E'tab\\there'",
            "E'\\x7f'",
            &format!("'{long}'"),
        ] {
            fails(session.attempt(&format!("SET {name} = {value}")), "22023");
            fails(
                session.attempt(&format!("SELECT set_config('{name}', {value}, false)")),
                "22023",
            );
        }
    }
    // The context stands as it was.
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    // 255 bytes may be somebody's key.
    session.run(&format!("SET app.current_org = '{}'", "x".repeat(255)));
    assert_eq!(world.seen(&mut session, "servers"), NOTHING);
}

#[test]
fn a_bad_value_from_before_the_library_is_no_context_and_no_crash() {
    let world = World::new();
    let login = world.db.role("acme.viewer");
    for value in ["x".repeat(300), "a\\\tb".to_string()] {
        let mut session = world
            .db
            .login_with(&login, &format!("-c app.current_org={value}"));
        match session.try_rows("SELECT * FROM servers") {
            Ok(rows) => assert!(rows.is_empty()),
            Err(error) => {
                fails::<()>(Err(error), "22023");
            }
        }
        // The connection is good for a true claim.
        session.run(&set(world.acme));
        assert_eq!(world.seen(&mut session, "servers"), ACME);
    }
}

#[test]
fn a7_garbage_claim_shows_nothing() {
    let world = World::new();
    for garbage in [
        "garbage",
        "00000000-0000-0000-0000-000000000000",
        "not-a-uuid-but-36-characters-long---",
        "' OR true --",
        "NULL",
        "0",
        "*",
        "äöü",
        " ",
    ] {
        for mut session in [world.bound("acme.owner"), world.session_app()] {
            session.run(&format!(
                "SELECT set_config('app.current_org', {}, false)",
                pg_tenancy_tests::quote(garbage)
            ));
            assert_eq!(world.seen(&mut session, "servers"), NOTHING, "{garbage:?}");
            refused(
                session.attempt("INSERT INTO servers (id, name) VALUES (9, 'x')"),
                "42501",
            );
            assert!(!session.whoami()["reason"].is_null());
        }
        let mut app = world.app();
        app.run(&format!("BEGIN; {}", set_local(world.acme)));
        app.run(&format!(
            "SELECT set_config('app.current_user_id', {}, true)",
            pg_tenancy_tests::quote(garbage)
        ));
        assert_eq!(world.seen(&mut app, "servers"), NOTHING, "user {garbage:?}");
        app.run("ROLLBACK");
    }
}

#[test]
fn the_applications_own_keys_name_org_and_user() {
    let world = World::new();
    let mut app = world.app();
    app.run(&format!(
        "BEGIN; SET LOCAL app.current_org = '{}'; SET LOCAL app.current_user_id = 'key-of-acme.member'",
        world.acme.key
    ));
    assert_eq!(world.seen(&mut app, "servers"), ACME);
    let me = app.whoami();
    assert_eq!(me["org_id"], world.acme.id.to_string());
    assert_eq!(me["user_id"], world.user("acme.member").to_string());
    app.run("COMMIT");
    let mut session = world.bound("acme.viewer");
    session.run(&format!("SET app.current_org = '{}'", world.acme.key));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    // A key is taken as it is written.
    session.run(&format!(
        "SET app.current_org = '{}'",
        world.acme.key.to_uppercase()
    ));
    assert_eq!(world.seen(&mut session, "servers"), NOTHING);
    // A uuid in any spelling PostgreSQL reads.
    for spelling in [
        world.acme.id.to_string().to_uppercase(),
        world.acme.id.simple().to_string(),
        world.acme.id.braced().to_string(),
    ] {
        session.run(&format!("SET app.current_org = '{spelling}'"));
        assert_eq!(world.seen(&mut session, "servers"), ACME, "{spelling}");
    }
}

#[test]
fn a_key_that_looks_like_anothers_uuid_is_not_that_org() {
    let world = World::new();
    // Whoever chooses his external key freely must not be taken for the org with that id, nor stand in its way.
    let _ = world.superuser().attempt(&format!(
        "SELECT tenancy.create_org('Twin', 'twin', owner => '{}', external_key => '{}')",
        world.user("stranger"),
        world.acme.id
    ));
    let mut stranger = world.bound("stranger");
    stranger.run(&set(world.acme));
    assert_eq!(world.seen(&mut stranger, "servers"), NOTHING);
    let mut viewer = world.session("acme.viewer");
    assert_eq!(world.seen(&mut viewer, "servers"), ACME);
}

// ---- enter, leave, whoami

#[test]
fn enter_and_leave_for_a_bound_login() {
    let world = World::new();
    let mut session = world.bound("acme.member");
    session.run(&format!("SELECT tenancy.enter('{}')", world.acme.id));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    session.run("SELECT tenancy.leave()");
    assert_eq!(world.seen(&mut session, "servers"), NOTHING);
    session.run("BEGIN");
    session.run(&format!("SELECT tenancy.enter('{}')", world.acme.id));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    session.run("COMMIT");
    assert_eq!(world.seen(&mut session, "servers"), NOTHING);
    // Naming himself is fine, naming another is not.
    session.run(&format!(
        "SELECT tenancy.enter('{}', '{}')",
        world.acme.id,
        world.user("acme.member")
    ));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    refused(
        session.attempt(&format!(
            "SELECT tenancy.enter('{}', '{}')",
            world.acme.id,
            world.user("acme.owner")
        )),
        "42501",
    );
}

#[test]
fn enter_for_the_application_needs_a_transaction() {
    let world = World::new();
    let enter = format!(
        "SELECT tenancy.enter('{}', '{}')",
        world.acme.id,
        world.user("acme.member")
    );
    let mut app = world.app();
    refused(app.attempt(&enter), "25P01");
    assert_eq!(world.seen(&mut app, "servers"), NOTHING);
    app.run("BEGIN");
    app.run(&enter);
    assert_eq!(world.seen(&mut app, "servers"), ACME);
    assert_eq!(app.text("SELECT tenancy.current_role_name()"), "member");
    app.run("SELECT tenancy.leave()");
    assert_eq!(app.value("SELECT tenancy.current_org()"), None);
    assert_eq!(app.value("SELECT tenancy.current_user_id()"), None);
    app.run("COMMIT");
    assert_eq!(world.seen(&mut app, "servers"), NOTHING);
    // For a whole session, where the application has its connections to itself.
    let mut own = world.session_app();
    own.run(&enter);
    assert_eq!(world.seen(&mut own, "servers"), ACME);
}

#[test]
fn a12_enter_says_the_same_of_an_unknown_org_and_of_anothers() {
    let world = World::new();
    let unknown = Uuid::new_v4();
    let mut app = world.app();
    for who in ["acme.owner", "stranger"] {
        app.run("BEGIN");
        let mut enter = |org: Uuid| {
            refused(
                app.attempt_within(&format!(
                    "SELECT tenancy.enter('{org}', '{}')",
                    world.user(who)
                )),
                "42501",
            )
        };
        let (existing, nothing) = (enter(world.globex.id), enter(unknown));
        let text = unknown.to_string();
        assert_same_error(
            &existing,
            &nothing,
            &[(&text, &world.globex.id.to_string())],
        );
        app.run("ROLLBACK");
    }
    // A refused enter() leaves no context behind.
    let mut session = world.session("acme.owner");
    refused(
        session.attempt(&format!("SELECT tenancy.enter('{}')", world.globex.id)),
        "42501",
    );
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    // Nor do the write errors and whoami() tell the two apart.
    let mut messages = Vec::new();
    for org in [world.globex.id, unknown] {
        session.run(&format!("SET app.current_org = '{org}'"));
        let error = refused(session.attempt("DELETE FROM servers"), "42501");
        let reason = session.whoami()["reason"].as_str().unwrap().to_string();
        messages.push(
            [
                error.message(),
                error.detail().unwrap(),
                error.hint().unwrap(),
                &reason,
            ]
            .join("|")
            .replace(&org.to_string(), "ORG"),
        );
    }
    assert_eq!(messages[0], messages[1]);
}

#[test]
fn whoami_tells_who_and_why_not() {
    let world = World::new();
    let me = world.session("acme.admin").whoami();
    assert_eq!(me["login"], world.db.role("acme.admin"));
    assert_eq!(me["principal"], "user");
    assert_eq!(me["user_id"], world.user("acme.admin").to_string());
    assert_eq!(me["email"], "admin@acme.test");
    assert_eq!(me["claimed_org"], world.acme.id.to_string());
    assert_eq!(me["org_id"], world.acme.id.to_string());
    assert_eq!(me["org_name"], world.acme.name);
    assert_eq!(me["role"], "admin");
    assert_eq!(me["actor_type"], "human");
    assert!(me["reason"].is_null());

    let mut app = world.app();
    let me = app.whoami();
    assert_eq!(me["principal"], "application");
    assert_eq!(me["scope"], "transaction");
    assert!(!me["reason"].is_null());

    let me = world.nobody().whoami();
    assert_eq!(me["principal"], "none");
    assert!(me["user_id"].is_null());
    assert!(!me["reason"].is_null());

    let mut dba = world.superuser();
    assert_eq!(dba.whoami()["principal"], "dba");
    dba.run(&set(world.globex));
    let me = dba.whoami();
    assert_eq!(me["org_id"], world.globex.id.to_string());
    assert!(me["reason"].is_null());

    // Each cause has its own words.
    let mut reasons = Vec::new();
    let mut nobody = world.nobody();
    nobody.run(&set(world.acme));
    reasons.push(nobody.whoami()["reason"].clone());
    let mut bound = world.bound("acme.admin");
    reasons.push(bound.whoami()["reason"].clone());
    bound.run(&set(world.globex));
    reasons.push(bound.whoami()["reason"].clone());
    app.run(&set(world.acme));
    reasons.push(app.whoami()["reason"].clone());
    for (i, reason) in reasons.iter().enumerate() {
        assert!(reason.is_string(), "{reasons:?}");
        assert!(!reasons[..i].contains(reason), "{reasons:?}");
    }
}

#[test]
fn the_actor_type_is_the_applications_to_name_and_not_a_persons() {
    let world = World::new();
    let mut session = world.session("acme.member");
    session.run("SET app.actor_type = 'ai'");
    assert_eq!(session.whoami()["actor_type"], "human");
    let mut app = world.app();
    world.begin(&mut app, world.acme, "acme.member");
    app.run("SET LOCAL app.actor_type = 'ai'");
    assert_eq!(app.whoami()["actor_type"], "ai");
    app.run("COMMIT");
    // A service by default where the application names nobody.
    app.run(&format!("BEGIN; {}", set_local(world.acme)));
    assert_eq!(app.whoami()["actor_type"], "service");
    app.run("COMMIT");
}

#[test]
fn an_application_that_names_nobody_acts_with_its_service_role() {
    let world = World::new();
    let mut app = world.app();
    app.run(&format!("BEGIN; {}", set_local(world.acme)));
    assert_eq!(world.seen(&mut app, "servers"), ACME);
    assert_eq!(app.text("SELECT tenancy.current_role_name()"), "member");
    assert_eq!(app.value("SELECT tenancy.current_user_id()"), None);
    app.run("UPDATE sites SET visits = 0");
    refused(app.attempt("DELETE FROM sites"), "42501");
    app.run("ROLLBACK");
    // An org that is not there is not served either.
    app.run("BEGIN; SET LOCAL app.current_org = '8f14e45f-ceea-467f-9c3f-000000000000'");
    assert_eq!(app.value("SELECT tenancy.current_org()"), None);
    app.run("ROLLBACK");
    // Another service role.
    let reader = world.db.role("reader");
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE ROLE {reader} LOGIN;
         SELECT tenancy.trust_application('{reader}', scope => 'session', service_role => 'viewer')"
    ));
    let mut session = world.db.login(&reader);
    session.run(&set(world.globex));
    assert_eq!(world.seen(&mut session, "servers"), GLOBEX);
    refused(session.attempt("UPDATE sites SET visits = 0"), "42501");
    for bad in [
        "service_role => 'owner'",
        "service_role => 'viewr'",
        "scope => 'forever'",
    ] {
        fails(
            dba.attempt(&format!(
                "SELECT tenancy.trust_application('{reader}', {bad})"
            )),
            "22023",
        );
    }
}

#[test]
fn a_bound_login_cannot_name_another_user() {
    let world = World::new();
    let mut viewer = world.session("acme.viewer");
    viewer.run(&format!(
        "SET app.current_user_id = '{}'",
        world.user("acme.owner")
    ));
    let owner = Some(world.user("acme.owner").to_string());
    assert_ne!(viewer.value("SELECT tenancy.current_user_id()"), owner);
    assert_ne!(
        viewer
            .value("SELECT tenancy.current_role_name()")
            .as_deref(),
        Some("owner")
    );
    refused(
        viewer.attempt("INSERT INTO servers (id, name) VALUES (9, 'x')"),
        "42501",
    );
    refused(
        viewer.attempt(&format!(
            "SELECT tenancy.set_member_role('{}', '{}', 'admin')",
            world.acme.id,
            world.user("acme.viewer")
        )),
        "42501",
    );
}

#[test]
fn the_dba_may_act_as_a_user() {
    let world = World::new();
    let mut dba = world.superuser();
    dba.run(&set(world.acme));
    dba.run(&format!(
        "SET app.current_user_id = '{}'",
        world.user("acme.viewer")
    ));
    assert_eq!(dba.text("SELECT tenancy.current_role_name()"), "viewer");
    refused(
        dba.attempt(
            "INSERT INTO servers (id, org_id, name) VALUES (9, tenancy.current_org(), 'x')",
        ),
        "42501",
    );
    dba.run(&set(world.globex));
    assert_eq!(dba.value("SELECT tenancy.current_org()"), None);
    dba.run("RESET app.current_user_id");
    dba.run("INSERT INTO servers (id, name) VALUES (109, 'globex-by-dba')");
    assert_eq!(
        dba.text("SELECT org_id FROM servers WHERE id = 109"),
        world.globex.id.to_string()
    );
}

#[test]
fn b3_set_role_changes_no_principal() {
    let world = World::new();
    let (stranger, owner) = (world.db.role("stranger"), world.db.role("acme.owner"));
    world
        .superuser()
        .run(&format!("GRANT {owner} TO {stranger}"));
    let mut session = world.bound("stranger");
    session.run(&format!("SET ROLE {owner}"));
    session.run(&set(world.acme));
    assert_eq!(world.seen(&mut session, "servers"), NOTHING);
    assert_eq!(session.whoami()["login"], stranger);
    // A bound login inside another role is still itself.
    world
        .superuser()
        .run(&format!("GRANT {} TO {owner}", world.db.role("nobody")));
    let mut session = world.session("acme.owner");
    session.run(&format!("SET ROLE {}", world.db.role("nobody")));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
}

// ---- One transaction, one org

#[test]
fn a2_one_transaction_has_one_org() {
    let world = World::new();
    world.superuser().run(&format!(
        "SELECT tenancy.set_member_role('{}', '{}', 'member')",
        world.globex.id,
        world.user("agency")
    ));
    let org = |org: Org, who: &str| world.claim(org, who);
    let switches = [
        (org(world.acme, "agency"), org(world.globex, "agency")),
        // Another user of the same org is another context.
        (
            org(world.acme, "acme.member"),
            org(world.acme, "acme.owner"),
        ),
    ];
    for (first, second) in &switches {
        for statement in [
            "SELECT count(*) FROM servers",
            "INSERT INTO sites (id, name) VALUES (50, 'x')",
            "SELECT * FROM sites LIMIT 0",
        ] {
            let mut app = world.app();
            app.run("BEGIN");
            app.run(first);
            app.run("SELECT count(*) FROM servers");
            app.run("SAVEPOINT s");
            let result = app.attempt(second).and_then(|_| app.attempt(statement));
            refused(result, "25001");
            // The transaction goes on in the first org.
            app.run("ROLLBACK TO s");
            assert_eq!(world.seen(&mut app, "servers"), ACME);
            app.run("COMMIT");
        }
    }
    // A write pins as a read does.
    let mut app = world.app();
    world.begin(&mut app, world.acme, "agency");
    app.run("UPDATE sites SET visits = visits WHERE false");
    let result = app
        .attempt(&org(world.globex, "agency"))
        .and_then(|_| app.attempt("SELECT count(*) FROM servers"));
    refused(result, "25001");
    app.run("ROLLBACK");
    // The next transaction is free.
    world.begin(&mut app, world.globex, "agency");
    assert_eq!(world.seen(&mut app, "servers"), GLOBEX);
    app.run("COMMIT");
}

#[test]
fn a2_no_statement_mixes_orgs() {
    let world = World::new();
    let mut session = world.session("agency");
    // Switched in the middle of a statement: an error or one org's rows, never both.
    for sql in [
        format!(
            "SELECT name FROM servers UNION ALL SELECT set_config('app.current_org', '{0}', false)
             UNION ALL SELECT name FROM servers",
            world.globex.id
        ),
        format!(
            "SELECT name || left(set_config('app.current_org', '{}', false), 0) FROM servers",
            world.globex.id
        ),
        format!(
            "SELECT s.name, (SELECT string_agg(name, ',') FROM sites
                             WHERE set_config('app.current_org', '{}', false) IS NOT NULL AND sites.id > s.id - s.id)
             FROM servers s",
            world.globex.id
        ),
    ] {
        session.run(&set(world.acme));
        if let Ok(rows) = session.try_rows(&sql) {
            let text = format!("{rows:?}");
            assert!(
                !(text.contains("acme-") && text.contains("globex-")),
                "{sql}: {text}"
            );
        }
    }
    // An open cursor is not carried into another org.
    let mut app = world.app();
    world.begin(&mut app, world.acme, "agency");
    app.run("DECLARE c CURSOR FOR SELECT name FROM servers ORDER BY id");
    assert_eq!(app.text("FETCH 1 FROM c"), "acme-server-1");
    let result = app
        .attempt(&world.claim(world.globex, "agency"))
        .and_then(|_| app.try_rows("FETCH 1 FROM c"));
    if let Ok(rows) = result {
        assert!(!format!("{rows:?}").contains("globex"), "{rows:?}");
    }
    app.run("ROLLBACK");
}

#[test]
fn a2_a_deferred_trigger_sees_the_org_of_its_statement() {
    let world = World::new();
    world.superuser().run(
        "CREATE FUNCTION whisper() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'the trigger saw %', tenancy.current_org(); END $$;
         CREATE CONSTRAINT TRIGGER whisper AFTER UPDATE ON sites DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION whisper()",
    );
    let mut app = world.app();
    world.begin(&mut app, world.acme, "agency");
    app.run("UPDATE sites SET visits = 1 WHERE id = 1");
    let error = app
        .attempt(&world.claim(world.globex, "agency"))
        .and_then(|_| app.attempt("COMMIT"))
        .unwrap_err();
    let error = error.as_db_error().unwrap();
    assert!(
        error.code().code() == "25001" || error.message().contains(&world.acme.id.to_string()),
        "{error:?}"
    );
}

#[test]
fn a_read_without_a_context_pins_nothing() {
    let world = World::new();
    let mut app = world.app();
    app.run("BEGIN");
    assert_eq!(world.seen(&mut app, "servers"), NOTHING);
    app.run(&world.claim(world.acme, "acme.member"));
    assert_eq!(world.seen(&mut app, "servers"), ACME);
    // Giving the context up shows nothing more, or is refused; it never shows another's.
    app.run("SAVEPOINT s");
    let result = app
        .attempt("SELECT tenancy.leave()")
        .and_then(|_| app.try_rows("SELECT * FROM servers"));
    if let Ok(rows) = result {
        assert!(rows.is_empty());
    }
    app.run("ROLLBACK TO s; COMMIT");
}

#[test]
fn setting_a_context_before_any_statement_pins_nothing() {
    let world = World::new();
    let mut app = world.app();
    world.begin(&mut app, world.acme, "agency");
    app.run(&world.claim(world.globex, "agency"));
    assert_eq!(world.seen(&mut app, "servers"), GLOBEX);
    app.run("COMMIT");
}

#[test]
fn only_a_superuser_lifts_one_org_per_transaction() {
    let world = World::new();
    // Refused; before the library is there to refuse, void.
    let lift = "SET tenancy.one_org_per_transaction = off";
    let mut session = world.session("agency");
    session.run("SELECT tenancy.current_org()");
    fails(session.attempt(lift), "42501");
    for mut session in [
        {
            let mut early = world.bound("agency");
            early.run(lift);
            early
        },
        world.db.login_with(
            &world.db.role("agency"),
            "-c tenancy.one_org_per_transaction=off",
        ),
    ] {
        session.run("BEGIN");
        session.run(&set_local(world.acme));
        assert_eq!(world.seen(&mut session, "servers"), ACME);
        let result = session
            .attempt(&set_local(world.globex))
            .and_then(|_| session.attempt("SELECT * FROM servers"));
        refused(result, "25001");
    }
    world.superuser().run(&format!(
        "ALTER DATABASE {} SET tenancy.one_org_per_transaction = off",
        world.db.name
    ));
    let mut app = world.app();
    world.begin(&mut app, world.acme, "agency");
    assert_eq!(world.seen(&mut app, "servers"), ACME);
    app.run(&world.claim(world.globex, "agency"));
    assert_eq!(world.seen(&mut app, "servers"), GLOBEX);
    app.run("COMMIT");
}

#[test]
fn a_read_without_a_context_is_empty_or_an_error_as_the_dba_says() {
    let world = World::new();
    let error = |who: &str| {
        format!(
            "ALTER ROLE {} SET tenancy.missing_context = error",
            world.db.role(who)
        )
    };
    let mut dba = world.superuser();
    let mut early = world.bound("acme.viewer");
    for who in ["app", "acme.viewer", "nobody", "stranger"] {
        dba.run(&error(who));
    }
    // Sessions that are there already keep what they have.
    assert_eq!(world.seen(&mut early, "servers"), NOTHING);
    assert_eq!(early.text("SHOW tenancy.missing_context"), "empty");
    for mut session in [
        world.app(),
        world.bound("acme.viewer"),
        world.nobody(),
        world.bound("stranger"),
    ] {
        for read in [
            "SELECT * FROM servers",
            "SELECT count(*) FROM servers WHERE id = 1",
            "SELECT 1 WHERE EXISTS (SELECT FROM sites)",
            "COPY servers TO STDOUT",
            "EXPLAIN SELECT * FROM servers",
            "SELECT * FROM servers FOR UPDATE",
            "UPDATE servers SET cpus = 1",
        ] {
            let error = refused(session.attempt(read), "42501");
            assert!(
                error.message().contains("no organization in effect"),
                "{read}: {error:?}"
            );
        }
        // What asks for nobody's rows is answered.
        session.run("SELECT * FROM tenancy.whoami(); SELECT * FROM tenancy.my_orgs(); SELECT tenancy.current_org()");
        session.run("SELECT * FROM regions; SELECT * FROM tenancy.roles");
        // Only a superuser turns it off.
        fails(
            session.attempt("SET tenancy.missing_context = empty"),
            "42501",
        );
        fails(
            session.attempt("SELECT set_config('tenancy.missing_context', 'empty', true)"),
            "42501",
        );
        let login = session.text("SELECT quote_ident(session_user)");
        fails(
            session.attempt(&format!(
                "ALTER ROLE {login} SET tenancy.missing_context = empty"
            )),
            "42501",
        );
        session.run("RESET ALL");
        assert_eq!(session.text("SHOW tenancy.missing_context"), "error");
    }
    // PostgreSQL forgets a role's setting where the client named another before the library was there; no row comes of it.
    let mut options = world
        .db
        .login_with(&world.db.role("nobody"), "-c tenancy.missing_context=empty");
    assert!(
        options
            .try_rows("SELECT * FROM servers")
            .unwrap_or_default()
            .is_empty()
    );
    // With one, all is as ever, what the role may not read included.
    let mut app = world.app();
    world.begin(&mut app, world.acme, "acme.viewer");
    assert_eq!(world.seen(&mut app, "servers"), ACME);
    assert_eq!(
        app.count("SELECT count(*) FROM servers WHERE org_id = tenancy.org_if('billing:read')"),
        0
    );
    app.run("COMMIT");
    refused(app.attempt("SELECT * FROM servers"), "42501");
    let mut member = world.session("acme.viewer");
    assert_eq!(world.seen(&mut member, "servers"), ACME);
    dba.run(&format!(
        "SELECT tenancy.remove_member('{}', '{}')",
        world.acme.id,
        world.user("acme.viewer")
    ));
    refused(member.attempt("SELECT * FROM servers"), "42501");
    fails(dba.attempt("SET tenancy.missing_context = never"), "22023");
}

// ---- Parallel workers

#[test]
fn c13_parallel_workers_see_the_same_context() {
    let world = World::new();
    let mut dba = world.break_glass();
    dba.run(&format!(
        "CREATE TABLE points (id bigint PRIMARY KEY, org_id uuid NOT NULL, v int NOT NULL);
         INSERT INTO points SELECT i, CASE WHEN i % 3 = 0 THEN '{}' ELSE '{}' END::uuid, i FROM generate_series(1, 30000) i;
         SELECT tenancy.protect('points'); GRANT ALL ON points TO PUBLIC; ANALYZE points",
        world.globex.id, world.acme.id
    ));
    let parallel = "SET LOCAL max_parallel_workers_per_gather = 2; SET LOCAL parallel_setup_cost = 0;
        SET LOCAL parallel_tuple_cost = 0; SET LOCAL min_parallel_table_scan_size = 0;
        SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_indexonlyscan = off";
    let mut app = world.app();
    let mut bound = world.bound("acme.viewer");
    for forced in ["off", "on"] {
        for (session, context) in [
            (&mut app, world.claim(world.acme, "acme.viewer")),
            (&mut bound, set(world.acme)),
        ] {
            session.run("BEGIN");
            session.run(&context);
            session.run(parallel);
            session.run(&format!("SET LOCAL force_parallel_mode = {forced}"));
            for sql in [
                "SELECT count(*), sum(v) FROM points",
                "SELECT count(*), sum(v) FROM points WHERE org_id = tenancy.current_org()",
                "SELECT count(*), sum(v) FROM points WHERE tenancy.has_permission('data:read')",
            ] {
                let plan = session.explain("ANALYZE, COSTS OFF, TIMING OFF", sql);
                let launched = plan
                    .lines()
                    .find_map(|line| line.trim().strip_prefix("Workers Launched: "));
                assert!(launched.is_some_and(|n| n != "0"), "{plan}");
                assert_eq!(
                    session.rows(sql),
                    [[Some("20000".to_string()), Some("300000000".to_string())]],
                    "{sql}"
                );
            }
            session.run("COMMIT");
        }
        // Without a context the workers have none either.
        bound.run("RESET app.current_org; BEGIN");
        bound.run(parallel);
        bound.run(&format!("SET LOCAL force_parallel_mode = {forced}"));
        assert_eq!(bound.count("SELECT count(*) FROM points"), 0);
        bound.run("COMMIT");
    }
}

// ---- Revocation

#[test]
fn a10_a_revoked_member_is_out_at_the_next_statement() {
    let world = World::new();
    let mut session = world.session("acme.member");
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    world.remove("acme.member");
    assert_eq!(world.seen(&mut session, "servers"), NOTHING);
    refused(session.attempt("UPDATE sites SET visits = 0"), "42501");
    assert!(!session.whoami()["reason"].is_null());
}

#[test]
fn a10_also_inside_an_open_transaction_of_any_isolation() {
    let world = World::new();
    for (isolation, who) in [
        ("READ COMMITTED", "acme.viewer"),
        ("REPEATABLE READ", "acme.member"),
        ("SERIALIZABLE", "acme.admin"),
    ] {
        let mut session = world.session(who);
        session.run(&format!("BEGIN ISOLATION LEVEL {isolation}"));
        assert_eq!(world.seen(&mut session, "servers"), ACME);
        world.remove(who);
        assert_eq!(world.seen(&mut session, "servers"), NOTHING, "{isolation}");
        refused(session.attempt("UPDATE sites SET visits = 0"), "42501");
        session.run("ROLLBACK");
    }
    let mut app = world.app();
    app.run(&format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ; {}",
        world.claim(world.acme, "agency")
    ));
    assert_eq!(world.seen(&mut app, "servers"), ACME);
    world.remove("agency");
    assert_eq!(world.seen(&mut app, "servers"), NOTHING);
    app.run("ROLLBACK");
}

#[test]
fn a10_also_through_a_prepared_statement() {
    let world = World::new();
    for mode in ["force_generic_plan", "force_custom_plan", "auto"] {
        let who = match mode {
            "auto" => "acme.viewer",
            "force_custom_plan" => "acme.admin",
            _ => "acme.member",
        };
        let mut session = world.session(who);
        session.run(&format!("SET plan_cache_mode = {mode}"));
        session.run("PREPARE q AS SELECT count(*) FROM servers WHERE id > 0");
        session.run("BEGIN");
        for _ in 0..7 {
            assert_eq!(session.count("EXECUTE q"), 3);
        }
        world.remove(who);
        assert_eq!(session.count("EXECUTE q"), 0, "{mode}");
        session.run("COMMIT");
        assert_eq!(session.count("EXECUTE q"), 0, "{mode}");
    }
    // The driver's own prepared statements.
    let mut session = world.session("agency");
    let statement = session
        .prepare("SELECT count(*) FROM servers WHERE id > $1")
        .unwrap();
    let mut transaction = session.transaction().unwrap();
    let mut ask = || -> i64 { transaction.query_one(&statement, &[&0]).unwrap().get(0) };
    assert_eq!(ask(), 3);
    world.remove("agency");
    assert_eq!(ask(), 0);
}

#[test]
fn a10_also_after_waiting_for_a_lock() {
    let world = World::new();
    let mut holder = world.break_glass();
    for (isolation, who) in [
        ("READ COMMITTED", "acme.member"),
        ("REPEATABLE READ", "acme.admin"),
    ] {
        holder.run(
            "BEGIN; SELECT pg_advisory_xact_lock(7); SELECT * FROM sites WHERE id = 1 FOR UPDATE",
        );
        let mut session = world.session(who);
        session.run(&format!("BEGIN ISOLATION LEVEL {isolation}"));
        assert_eq!(world.seen(&mut session, "servers"), ACME);
        let waiting = std::thread::spawn(move || {
            let waited = session
                .attempt("UPDATE sites SET visits = 0 WHERE id = 1")
                .is_ok();
            (waited, session)
        });
        std::thread::sleep(Duration::from_millis(300));
        world.remove(who);
        holder.run("COMMIT");
        let (passed, mut session) = waiting.join().unwrap();
        if !passed {
            session.run("ROLLBACK; BEGIN");
        }
        // What was cached while waiting is not used.
        assert_eq!(world.seen(&mut session, "servers"), NOTHING);
        refused(session.attempt("UPDATE sites SET visits = 0"), "42501");
        session.run("ROLLBACK");
    }
}

#[test]
fn a10_a_look_up_while_the_revocation_commits_caches_no_yes() {
    let world = World::new();
    let mut session = world.session("acme.member");
    let mut dba = world.superuser();
    // Seen uncommitted: still in. Committed: out. Again and again, so that a race would show.
    for _ in 0..10 {
        dba.run(&format!(
            "BEGIN; SELECT tenancy.remove_member('{}', '{}')",
            world.acme.id,
            world.user("acme.member")
        ));
        assert_eq!(world.seen(&mut session, "servers"), ACME);
        dba.run("ROLLBACK");
        assert_eq!(world.seen(&mut session, "servers"), ACME);
        world.remove("acme.member");
        assert_eq!(world.seen(&mut session, "servers"), NOTHING);
        dba.run(&format!(
            "SELECT tenancy.add_member('{}', '{}', 'member')",
            world.acme.id,
            world.user("acme.member")
        ));
        assert_eq!(world.seen(&mut session, "servers"), ACME);
    }
}

#[test]
fn a10_a_busy_reader_never_sees_a_row_after_the_revocation_returned() {
    let world = World::new();
    for _ in 0..5 {
        let mut reader = world.session("agency");
        let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = done.clone();
        let thread = std::thread::spawn(move || {
            let mut last = 0;
            for _ in 0..100_000 {
                // Read before the statement starts: if the revocation had returned by then, it must hold.
                let revoked = seen.load(std::sync::atomic::Ordering::SeqCst);
                let count = reader.count("SELECT count(*) FROM servers");
                if revoked {
                    return count;
                }
                last = count;
            }
            last
        });
        std::thread::sleep(Duration::from_millis(50));
        world.remove("agency");
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(thread.join().unwrap(), 0);
        world.superuser().run(&format!(
            "SELECT tenancy.add_member('{}', '{}', 'admin')",
            world.acme.id,
            world.user("agency")
        ));
    }
}

#[test]
fn a10_by_direct_sql_and_by_truncation_too() {
    let world = World::new();
    let mut session = world.session("acme.member");
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    let mut dba = world.superuser();
    dba.run(&format!(
        "DELETE FROM tenancy.memberships WHERE user_id = '{}'",
        world.user("acme.member")
    ));
    assert_eq!(world.seen(&mut session, "servers"), NOTHING);
    // As a subscriber's apply worker would write it.
    dba.run("SET session_replication_role = replica");
    dba.run(&format!(
        "INSERT INTO tenancy.memberships (org_id, user_id, role) VALUES ('{}', '{}', 'viewer')",
        world.acme.id,
        world.user("acme.member")
    ));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    dba.run(&format!(
        "DELETE FROM tenancy.memberships WHERE user_id = '{}'",
        world.user("acme.member")
    ));
    assert_eq!(world.seen(&mut session, "servers"), NOTHING);
}

#[test]
fn a_role_change_takes_effect_at_the_next_statement() {
    let world = World::new();
    let role = |role: &str| {
        world.superuser().run(&format!(
            "SELECT tenancy.set_member_role('{}', '{}', '{role}')",
            world.acme.id,
            world.user("acme.member")
        ));
    };
    let insert = |id: i32| format!("INSERT INTO sites (id, name) VALUES ({id}, 'acme-new')");
    let mut session = world.session("acme.member");
    session.run("BEGIN");
    session.run(&insert(50));
    role("viewer");
    refused(session.attempt_within(&insert(51)), "42501");
    role("admin");
    session.run(&insert(52));
    session.run("DELETE FROM sites WHERE id = 52");
    session.run("COMMIT");
    assert_eq!(session.count("SELECT count(*) FROM sites"), 7);
}

#[test]
fn unbinding_and_distrusting_take_effect_in_open_sessions() {
    let world = World::new();
    let mut dba = world.superuser();
    let mut session = world.session("acme.member");
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    let login = world.db.role("acme.member");
    dba.run(&format!("SELECT tenancy.unbind_login('{login}')"));
    assert_eq!(world.seen(&mut session, "servers"), NOTHING);
    assert_eq!(session.whoami()["principal"], "none");
    // Bound to somebody else: he, at once.
    dba.run(&format!(
        "SELECT tenancy.bind_login('{login}', '{}')",
        world.user("acme.viewer")
    ));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    assert_eq!(session.text("SELECT tenancy.current_role_name()"), "viewer");

    let mut app = world.app();
    world.begin(&mut app, world.acme, "acme.member");
    assert_eq!(world.seen(&mut app, "servers"), ACME);
    dba.run(&format!(
        "SELECT tenancy.distrust_application('{}')",
        world.db.role("app")
    ));
    assert_eq!(world.seen(&mut app, "servers"), NOTHING);
    refused(app.attempt("UPDATE sites SET visits = 0"), "42501");
    app.run("ROLLBACK");
}

#[test]
fn a_membership_expires_during_an_open_session() {
    let world = World::new();
    let mut dba = world.superuser();
    dba.run(&format!(
        "SELECT tenancy.add_member('{}', '{}', 'member', expires_at => clock_timestamp() + interval '3 s')",
        world.acme.id,
        world.user("stranger")
    ));
    let start = Instant::now();
    let mut idle = world.session("stranger");
    let mut open = world.session("stranger");
    open.run("BEGIN");
    open.run("PREPARE q AS SELECT count(*) FROM servers");
    assert_eq!(open.count("EXECUTE q"), 3);
    assert_eq!(world.seen(&mut idle, "servers"), ACME);
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "too slow a machine"
    );
    std::thread::sleep(Duration::from_millis(3100).saturating_sub(start.elapsed()));
    assert_eq!(world.seen(&mut idle, "servers"), NOTHING);
    assert_reason(&mut idle, &["expire"]);
    assert_eq!(open.count("EXECUTE q"), 0);
    let error = refused(open.attempt("UPDATE sites SET visits = 0"), "42501");
    assert!(error.detail().unwrap().contains("expire"), "{error:?}");
    open.run("ROLLBACK");
    // Not listed as a place to go, nor let in again; renewed by a new membership only.
    assert!(idle.rows("SELECT * FROM tenancy.my_orgs()").is_empty());
    refused(
        idle.attempt(&format!("SELECT tenancy.enter('{}')", world.acme.id)),
        "42501",
    );
}

#[test]
fn a_context_set_in_another_session_is_not_ours() {
    let world = World::new();
    let mut one = world.session("agency");
    let mut two = world.bound("agency");
    two.run(&set(world.globex));
    assert_eq!(world.seen(&mut one, "servers"), ACME);
    assert_eq!(world.seen(&mut two, "servers"), GLOBEX);
}

#[test]
fn the_value_given_out_is_not_overwritten_by_the_next() {
    let world = World::new();
    let mut session = world.session("agency");
    let globex = world.globex.id;
    let result = session.try_rows(&format!(
        "SELECT tenancy.current_org(), set_config('app.current_org', '{globex}', false), tenancy.current_org()"
    ));
    if let Ok(rows) = result {
        assert_eq!(rows[0][0], Some(world.acme.id.to_string()));
    }
}

#[test]
fn a_procedure_that_commits_leaves_its_context_behind() {
    let world = World::new();
    world.superuser().run(&format!(
        "CREATE TABLE told (at text, n bigint); GRANT ALL ON told TO PUBLIC;
         CREATE PROCEDURE work() LANGUAGE plpgsql AS $$ BEGIN
             PERFORM set_config('app.current_org', '{}', true);
             INSERT INTO public.told SELECT 'before', count(*) FROM public.servers;
             COMMIT;
             INSERT INTO public.told SELECT 'after', count(*) FROM public.servers;
             PERFORM set_config('app.current_org', '{}', true);
             INSERT INTO public.told SELECT 'again', sum(id) FROM public.servers;
         END $$",
        world.acme.id, world.globex.id
    ));
    let mut app = world.app();
    app.run("CALL work()");
    assert_eq!(
        app.column("SELECT at || ' ' || n FROM told ORDER BY n"),
        ["after 0", "before 3", "again 306"]
    );
    assert_eq!(world.seen(&mut app, "servers"), NOTHING);
}

#[test]
fn several_transactions_in_one_message_are_several() {
    let world = World::new();
    let mut app = world.app();
    let rows = app.rows(&format!(
        "BEGIN; {}; SELECT count(*) FROM servers; COMMIT; SELECT count(*) FROM servers;
         BEGIN; {}; SELECT min(id) FROM servers; COMMIT",
        world.claim(world.acme, "agency"),
        world.claim(world.globex, "agency")
    ));
    let values: Vec<&str> = rows.iter().map(|row| row[0].as_deref().unwrap()).collect();
    assert_eq!(values, ["3", "0", "101"]);
}

#[test]
fn b3_session_authorization_is_another_login() {
    let world = World::new();
    let mut dba = world.superuser();
    dba.run(&set(world.acme));
    assert_eq!(dba.text("SELECT tenancy.current_role_name()"), "dba");
    dba.run(&format!(
        "SET SESSION AUTHORIZATION {}",
        world.db.role("acme.viewer")
    ));
    assert_eq!(dba.text("SELECT tenancy.current_role_name()"), "viewer");
    assert_eq!(world.seen(&mut dba, "servers"), ACME);
    refused(dba.attempt("DELETE FROM servers"), "42501");
    dba.run("RESET SESSION AUTHORIZATION");
    dba.run(&format!(
        "SET SESSION AUTHORIZATION {}",
        world.db.role("globex.owner")
    ));
    assert_eq!(world.seen(&mut dba, "servers"), NOTHING);
    dba.run("RESET SESSION AUTHORIZATION");
    assert_eq!(dba.text("SELECT tenancy.current_role_name()"), "dba");
}

#[test]
fn read_only_transactions_read() {
    let world = World::new();
    let mut app = world.app();
    for mode in [
        "READ ONLY",
        "ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE",
    ] {
        app.run(&format!("BEGIN {mode}"));
        app.run(&world.claim(world.acme, "acme.admin"));
        assert_eq!(world.seen(&mut app, "servers"), ACME);
        assert_eq!(app.whoami()["role"], "admin");
        assert_eq!(app.count("SELECT count(*) FROM tenancy.my_orgs()"), 1);
        assert!(app.count("SELECT count(*) FROM tenancy.audit_log") > 0);
        app.run("COMMIT");
    }
}

/// A table of many rows, of which each of the two orgs has half.
fn many_rows(world: &World) {
    world.break_glass().run(&format!(
        "CREATE TABLE big (id int PRIMARY KEY, org_id uuid NOT NULL);
         INSERT INTO big SELECT i, CASE WHEN i % 2 = 0 THEN '{}' ELSE '{}' END::uuid FROM generate_series(1, 20000) i;
         SELECT tenancy.protect('big'); GRANT ALL ON big TO PUBLIC; ANALYZE big",
        world.acme.id, world.globex.id
    ));
}

#[test]
fn a2_c13_a_plan_that_only_workers_run_pins_too() {
    let world = World::new();
    many_rows(&world);
    let mut session = world.session("agency");
    session.run(
        "SET parallel_leader_participation = off; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
         SET min_parallel_table_scan_size = 0; SET enable_indexscan = off; SET enable_bitmapscan = off;
         SET enable_indexonlyscan = off; SET plan_cache_mode = force_generic_plan",
    );
    session.run("PREPARE q AS SELECT count(*) FROM big");
    assert_eq!(session.count("EXECUTE q"), 10000);
    session.run("BEGIN");
    assert_eq!(session.count("EXECUTE q"), 10000);
    let result = session
        .attempt(&set_local(world.globex))
        .and_then(|_| session.attempt("EXECUTE q"));
    refused(result, "25001");
}

#[test]
fn a10_an_open_cursor_gives_no_more_rows_after_the_revocation() {
    let world = World::new();
    many_rows(&world);
    for (who, scan) in [
        ("agency", "enable_seqscan"),
        ("acme.member", "enable_indexscan"),
    ] {
        let mut session = world.session(who);
        session.run(&format!("SET {scan} = off; BEGIN"));
        session.run("DECLARE c CURSOR FOR SELECT id FROM big");
        assert_eq!(session.run("FETCH 2 FROM c"), 2);
        world.remove(who);
        match session.attempt("FETCH 100 FROM c") {
            Ok(n) => assert_eq!(n, 0, "{scan} off"),
            Err(error) => {
                refused::<()>(Err(error), "42501");
            }
        }
    }
}

#[test]
fn a4_actor_request_and_address_are_void_with_the_rest() {
    let world = World::new();
    for load_first in [false, true] {
        let mut pooled = world.app();
        if load_first {
            pooled.run("SELECT tenancy.current_org()");
        }
        pooled.run("SET app.actor_type = 'ai'; SET app.request_id = 'forged'; SET app.client_addr = '6.6.6.6'");
        world.begin(&mut pooled, world.acme, "acme.member");
        assert_eq!(pooled.whoami()["actor_type"], "human");
        pooled.run("UPDATE sites SET visits = visits + 1 WHERE id = 1");
        pooled.run("COMMIT");
        let rows = world.session("acme.admin").json(
            "SELECT actor_type, request_id, client_addr FROM tenancy.audit_log WHERE object LIKE '%sites'",
        );
        let last = rows.last().unwrap();
        assert_eq!(last["actor_type"], "human", "{load_first}");
        assert!(last["request_id"].is_null(), "{last}");
        assert!(last["client_addr"].is_null(), "{last}");
    }
}

#[test]
fn a4_a_void_context_is_not_revived_by_loading_the_library() {
    let world = World::new();
    let mut pooled = world.app();
    // One client, before anything of ours is loaded.
    pooled.run(&format!(
        "SET app.current_org = '{}'; SET app.current_user_id = '{}'",
        world.acme.id,
        world.user("acme.member")
    ));
    // The next one, whose own context is given up again.
    pooled.run("BEGIN; SAVEPOINT s");
    pooled.run(&world.claim(world.globex, "globex.member"));
    assert_eq!(
        pooled.text("SELECT tenancy.current_org()"),
        world.globex.id.to_string()
    );
    pooled.run("ROLLBACK TO s");
    assert_eq!(world.seen(&mut pooled, "servers"), NOTHING);
    assert_eq!(pooled.value("SELECT tenancy.current_org()"), None);
    pooled.run("COMMIT");
    assert_eq!(world.seen(&mut pooled, "servers"), NOTHING);
}

#[test]
fn a10_a_row_waited_for_is_not_handed_to_who_was_removed_meanwhile() {
    let world = World::new();
    for (sql, who) in [
        (
            "SELECT name FROM sites WHERE id = 1 FOR UPDATE",
            "acme.member",
        ),
        (
            "SELECT name FROM sites WHERE id = 1 FOR NO KEY UPDATE",
            "agency",
        ),
        (
            "UPDATE sites SET visits = 0 WHERE id = 1 RETURNING name",
            "acme.admin",
        ),
    ] {
        let mut holder = world.session("acme.owner");
        holder.run("BEGIN; UPDATE sites SET name = 'acme-secret' WHERE id = 1");
        let mut session = world.session(who);
        assert_eq!(world.seen(&mut session, "sites"), (6, 0));
        let waiting = std::thread::spawn(move || session.try_rows(sql).map_err(|e| e.to_string()));
        std::thread::sleep(Duration::from_millis(300));
        world.remove(who);
        holder.run("COMMIT");
        if let Ok(rows) = waiting.join().unwrap() {
            assert!(rows.is_empty(), "{sql}: {rows:?}");
        }
        holder.run("UPDATE sites SET name = 'acme-site-1' WHERE id = 1");
    }
}

#[test]
fn errors_are_the_same_with_the_library_loaded() {
    // Its hooks stand around every statement; what they pass on is whole, down to the fields that drivers read.
    let world = World::people();
    let mut session = world.bound("acme.member");
    session.run(
        "CREATE DOMAIN pg_temp.small AS int CHECK (VALUE < 10);
         CREATE TEMP TABLE q (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, s pg_temp.small, CHECK (n < 100));
         CREATE TEMP TABLE r (id int REFERENCES q, d int REFERENCES q DEFERRABLE INITIALLY DEFERRED);
         INSERT INTO q VALUES (1);
         CREATE FUNCTION pg_temp.deep(int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
             RETURN 1 / $1;
         END $$",
    );
    let statements = [
        "INSERT INTO q VALUES (1)",
        "INSERT INTO q VALUES (2, NULL)",
        "INSERT INTO q VALUES (2, 100)",
        "INSERT INTO q (id, s) VALUES (2, 11)",
        "INSERT INTO r VALUES (7)",
        "INSERT INTO r (d) VALUES (7)",
        "DELETE FROM q WHERE id = 1; INSERT INTO r VALUES (1)",
        "SELECT pg_temp.deep(0)",
        "SELECT 1 / n FROM q",
        "SELEC 1",
        "SELECT no_such_column FROM q",
        "SELECT 'x'::int",
        "DO $$ BEGIN RAISE EXCEPTION 'm' USING DETAIL = 'd', HINT = 'h', ERRCODE = 'ZZ001', COLUMN = 'c', CONSTRAINT = 'k',
             DATATYPE = 'y', TABLE = 't', SCHEMA = 's'; END $$",
        "SELECT * FROM generate_series(1, 3) i, LATERAL (SELECT 1 / (2 - i)) q",
    ];
    let all = |session: &mut Session| {
        statements.map(|sql| {
            let error = session.attempt(sql).expect_err(sql);
            error.as_db_error().expect("an error of the server").clone()
        })
    };
    let before = all(&mut session);
    session.run("SELECT tenancy.current_org()");
    let after = all(&mut session);
    for (before, after) in before.iter().zip(&after) {
        assert_same_error(after, before, &[]);
    }
}
