//! Rows that outlive the transaction which read them (attack A3): cursors WITH HOLD, and the loops of procedures that
//! commit. PostgreSQL gives such rows out without running a query, so every way to them is tried.

use pg_tenancy_tests::{Error, Org, Rows, Session, World, refused};

const HELD: &str = "DECLARE held CURSOR WITH HOLD FOR SELECT name FROM servers ORDER BY id";

/// A function that fetches by name, without a statement that any hook sees; NULL where there is no row.
const FETCHES: &str = "
    CREATE FUNCTION fetch_one(c refcursor) RETURNS text LANGUAGE plpgsql AS
        $$ DECLARE n text; BEGIN FETCH c INTO n; RETURN n; END $$;
    CREATE FUNCTION switch_and_fetch(c refcursor, org text) RETURNS text LANGUAGE plpgsql AS
        $$ DECLARE n text; BEGIN n := set_config('app.current_org', org, false); FETCH c INTO n; RETURN n; END $$;
    CREATE FUNCTION switch_back_and_fetch(c refcursor, org text, back text) RETURNS text LANGUAGE plpgsql AS
        $$ DECLARE n text; BEGIN
            n := set_config('app.current_org', org, false); PERFORM tenancy.current_org();
            n := set_config('app.current_org', back, false); PERFORM tenancy.current_org();
            FETCH c INTO n; RETURN n;
        END $$;
    CREATE FUNCTION fetch_elsewhere(c refcursor) RETURNS text LANGUAGE plpgsql SET app.current_org = 'customer-8' AS
        $$ DECLARE n text; BEGIN FETCH c INTO n; RETURN n; END $$;";

/// Every way to a held row.
const WAYS: [&str; 7] = [
    "SELECT fetch_one('held')",
    "DO $$ DECLARE c refcursor := 'held'; n text; BEGIN FETCH c INTO n; IF n IS NOT NULL THEN RAISE EXCEPTION 'read %', n; END IF; END $$",
    "SELECT cursor_to_xml('held', 10, false, false, '')",
    "FETCH ALL FROM held",
    "FETCH FIRST FROM held",
    "DO $$ BEGIN EXECUTE 'FETCH ALL FROM held'; END $$",
    "MOVE held",
];

fn prepared() -> World {
    let world = World::new();
    world.superuser().run(FETCHES);
    world
}

fn use_org(session: &mut Session, org: Org) {
    session.run(&format!("SET app.current_org = '{}'", org.id));
}

/// An error, and one that says the cursor may not be read here or is gone.
#[track_caller]
fn gives_nothing(act: &str, result: Result<Rows, Error>) {
    let text = format!("{result:?}");
    assert!(!text.contains("acme-"), "{act}: {text}");
    let Err(error) = result else {
        panic!("{act} says nothing of it: {text}");
    };
    let code = error.as_db_error().map_or("", |e| e.code().code());
    assert!(["42501", "34000", "55000"].contains(&code), "{act}: {text}");
}

fn application(load_first: bool) {
    let world = prepared();
    let mut app = world.app();
    if load_first {
        app.run("SELECT tenancy.current_org()");
    }
    world.begin(&mut app, world.acme, "agency");
    app.run(HELD);
    app.run("COMMIT");
    for act in WAYS {
        // In the other org, and in none.
        world.begin(&mut app, world.globex, "agency");
        gives_nothing(act, app.try_rows(act));
        app.run("ROLLBACK");
        gives_nothing(act, app.try_rows(act));
    }
}

#[test]
fn a3_a_cursor_with_hold_is_not_read_in_another_org() {
    application(true);
}

#[test]
fn a3_nor_where_it_was_the_first_statement_of_its_connection() {
    application(false);
}

#[test]
fn a3_a_cursor_with_hold_of_a_session_context_goes_on_in_it() {
    let world = prepared();
    let mut session = world.session("agency");
    session.run(&format!("BEGIN; {HELD}; COMMIT"));
    assert_eq!(session.text("FETCH 1 FROM held"), "acme-server-1");
    assert_eq!(session.text("SELECT fetch_one('held')"), "acme-server-2");
    // The same organization by its other name.
    session.run("SET app.current_org = 'customer-7'");
    assert_eq!(session.text("SELECT fetch_one('held')"), "acme-server-3");
    // What reads no protected table is nobody's business, in whatever context it was not opened.
    session.run("RESET app.current_org");
    session.run("BEGIN; DECLARE plain CURSOR WITH HOLD FOR SELECT code FROM regions; COMMIT");
    use_org(&mut session, world.globex);
    assert_eq!(session.run("FETCH ALL FROM plain"), 2);
}

#[test]
fn a3_a_switch_of_the_session_takes_the_held_rows_away() {
    let world = prepared();
    for (number, act) in WAYS.iter().enumerate() {
        let mut session = world.session("agency");
        session.run(&format!("BEGIN; {HELD}; COMMIT"));
        use_org(&mut session, world.globex);
        gives_nothing(act, session.try_rows(act));
        // For good: what another organization came between is not read on.
        use_org(&mut session, world.acme);
        gives_nothing(act, session.try_rows(act));
        // And its name is free again.
        let columns = if number % 2 == 0 { "name" } else { "id, name" };
        session.run(&format!(
            "BEGIN; DECLARE held CURSOR WITH HOLD FOR SELECT {columns} FROM sites; COMMIT"
        ));
        assert_eq!(session.run("FETCH ALL FROM held"), 6);
        session.run("CLOSE held");
        session.run(
            "BEGIN; DECLARE held CURSOR WITH HOLD FOR SELECT 1; COMMIT; FETCH held; CLOSE ALL",
        );
    }
}

#[test]
fn a3_without_a_context_they_wait_for_theirs() {
    let world = prepared();
    let mut session = world.session("agency");
    session.run(&format!("BEGIN; {HELD}; COMMIT"));
    for unset in [
        "RESET app.current_org",
        "SET app.current_org = 'customer-nobodys'",
    ] {
        session.run(unset);
        for act in WAYS {
            gives_nothing(act, session.try_rows(act));
        }
        let error = refused(session.attempt("FETCH 1 FROM held"), "42501");
        assert!(error.message().contains("another context"), "{error:?}");
    }
    use_org(&mut session, world.acme);
    assert_eq!(session.text("FETCH 1 FROM held"), "acme-server-1");
    // A context of the transaction takes its cursor along, and brings it back.
    session.run("CLOSE held; RESET app.current_org");
    session.run(&format!(
        "BEGIN; SELECT tenancy.enter('{}'); {HELD}; COMMIT",
        world.acme.id
    ));
    gives_nothing("fetch", session.try_rows("SELECT fetch_one('held')"));
    session.run("BEGIN; SET LOCAL app.current_org = 'customer-7'");
    assert_eq!(session.text("SELECT fetch_one('held')"), "acme-server-1");
    session.run("ROLLBACK");
    gives_nothing("fetch", session.try_rows("SELECT fetch_one('held')"));
}

#[test]
fn a3_a_switch_inside_of_one_statement_counts() {
    let world = prepared();
    let globex = world.globex.id;
    for act in [
        format!("SELECT switch_and_fetch('held', '{globex}')"),
        "SELECT switch_and_fetch('held', '')".into(),
        "SELECT switch_and_fetch('held', NULL)".into(),
        "SELECT switch_and_fetch('held', 'nonsense')".into(),
        format!("SELECT switch_back_and_fetch('held', '{globex}', 'customer-7')"),
        "SELECT fetch_elsewhere('held')".into(),
        format!(
            "SELECT fetch_one('held') FROM set_config('app.current_org', '{globex}', true) ORDER BY 1"
        ),
        format!("SELECT set_config('app.current_org', '{globex}', true), fetch_one('held')"),
    ] {
        let mut session = world.session("agency");
        session.run(&format!("BEGIN; {HELD}; COMMIT"));
        gives_nothing(&act, session.try_rows(&act));
    }
    // One that took it back unused changed nothing.
    let mut session = world.session("agency");
    session.run(&format!("BEGIN; {HELD}; COMMIT"));
    session.run(&format!(
        "BEGIN; SAVEPOINT s; SET app.current_org = '{globex}'; ROLLBACK TO s"
    ));
    assert_eq!(session.text("SELECT fetch_one('held')"), "acme-server-1");
    session.run("COMMIT");
}

#[test]
fn a3_held_rows_are_the_users_too() {
    let world = prepared();
    let mut app = world.session_app();
    let member = world.user("acme.member");
    app.run(&format!(
        "SET app.current_org = 'customer-7'; SET app.current_user_id = '{member}'; BEGIN; {HELD}; COMMIT"
    ));
    assert_eq!(app.text("FETCH 1 FROM held"), "acme-server-1");
    app.run(&format!(
        "SET app.current_user_id = '{}'",
        world.user("agency")
    ));
    for act in WAYS {
        gives_nothing(act, app.try_rows(act));
    }
    // Another login of the same connection.
    let mut dba = world.superuser();
    dba.run(&format!("SET app.current_org = 'customer-7'; SET app.current_user_id = '{member}'; SET SESSION AUTHORIZATION {}", world.db.role("acme.member")));
    dba.run(&format!("BEGIN; {HELD}; COMMIT"));
    dba.run("RESET SESSION AUTHORIZATION; RESET app.current_user_id");
    dba.run(&format!(
        "SET SESSION AUTHORIZATION {}",
        world.db.role("globex.viewer")
    ));
    for act in WAYS {
        gives_nothing(act, dba.try_rows(act));
    }
}

#[test]
fn a10_held_rows_are_gone_with_the_membership() {
    let world = prepared();
    let mut session = world.session("agency");
    session.run(&format!("BEGIN; {HELD}; COMMIT"));
    assert_eq!(session.text("SELECT fetch_one('held')"), "acme-server-1");
    world.superuser().run(&format!(
        "SELECT tenancy.remove_member('{}', '{}')",
        world.acme.id,
        world.user("agency")
    ));
    for act in WAYS {
        gives_nothing(act, session.try_rows(act));
    }
}

/// Runs a procedure of which `body` is the loop's body; the names that the loop went through.
fn walk(world: &World, session: &mut Session, query: &str, body: &str) -> Result<String, Error> {
    world.superuser().run(&format!(
        "CREATE TABLE IF NOT EXISTS walked (n serial, name text);
         GRANT ALL ON walked, walked_n_seq TO PUBLIC; TRUNCATE walked;
         DROP PROCEDURE IF EXISTS walk;
         CREATE PROCEDURE walk() LANGUAGE plpgsql AS $$ DECLARE r record; t text; BEGIN
             FOR r IN {query} LOOP
                 INSERT INTO public.walked (name) VALUES (r.name);
                 {body};
             END LOOP; END $$"
    ));
    let result = session.attempt("CALL walk()");
    let walked = world
        .superuser()
        .value("SELECT string_agg(name, ' ' ORDER BY n) FROM walked");
    session.attempt("ROLLBACK").ok();
    result.map(|_| walked.unwrap_or_default())
}

const SERVERS: &str = "SELECT name FROM public.servers ORDER BY id";

#[track_caller]
fn gives_nothing_after(body: &str, result: Result<String, Error>) {
    let error = result.expect_err(body);
    let code = error.as_db_error().map_or("", |e| e.code().code());
    assert!(
        ["42501", "55000", "25001"].contains(&code),
        "{body}: {error:?}"
    );
}

#[test]
fn a3_a_procedures_loop_does_not_go_on_in_another_org() {
    let world = prepared();
    let globex = world.globex.id;
    for body in [
        format!("COMMIT; PERFORM set_config('app.current_org', '{globex}', false)"),
        format!("COMMIT; t := set_config('app.current_org', '{globex}', false)"),
        format!("COMMIT; SET app.current_org = '{globex}'"),
        format!("ROLLBACK; PERFORM tenancy.enter('{globex}')"),
        format!("PERFORM set_config('app.current_org', '{globex}', false); COMMIT"),
        format!("COMMIT; COMMIT; PERFORM tenancy.enter('{globex}'); COMMIT"),
        "COMMIT; t := set_config('app.current_org', 'nonsense', false)".into(),
    ] {
        let mut session = world.session("agency");
        gives_nothing_after(&body, walk(&world, &mut session, SERVERS, &body));
        let mut app = world.session_app();
        app.run("SET app.current_org = 'customer-7'");
        gives_nothing_after(&body, walk(&world, &mut app, SERVERS, &body));
    }
}

#[test]
fn a_procedures_loop_goes_on_in_its_own() {
    let world = prepared();
    let acme = world.acme.id;
    let all = "acme-server-1 acme-server-2 acme-server-3";
    for body in [
        "COMMIT".to_string(),
        "UPDATE public.servers SET cpus = 2 WHERE name = r.name; COMMIT".into(),
        format!("PERFORM tenancy.enter('{acme}'); COMMIT"),
        format!(
            "COMMIT; PERFORM tenancy.enter('{acme}'); UPDATE public.servers SET cpus = 3 WHERE name = r.name"
        ),
    ] {
        let mut session = world.session("agency");
        assert_eq!(
            walk(&world, &mut session, SERVERS, &body).expect(&body),
            all
        );
    }
    // An application's context ends with each COMMIT; it enters again for each row.
    let body = format!(
        "PERFORM set_config('app.current_org', '{acme}', true); UPDATE public.sites SET visits = 4 WHERE id = 1; COMMIT; PERFORM code FROM public.regions"
    );
    let mut app = world.app();
    let walked = walk(
        &world,
        &mut app,
        &format!(
            "SELECT name FROM set_config('app.current_org', '{acme}', true), LATERAL (SELECT name, id FROM public.servers OFFSET 0) s ORDER BY id"
        ),
        &body,
    );
    assert_eq!(walked.unwrap(), all);
}

#[test]
fn a_procedures_loop_over_orgs_enters_each() {
    let world = prepared();
    let mut session = world.bound("agency");
    session.run("SELECT tenancy.current_org()");
    let walked = walk(
        &world,
        &mut session,
        "SELECT org_id, name FROM tenancy.my_orgs()",
        "PERFORM tenancy.enter(r.org_id); SELECT string_agg(name, ' ' ORDER BY id) INTO t FROM public.servers;
         INSERT INTO public.walked (name) VALUES (t); COMMIT; PERFORM set_config('app.current_org', '', false)",
    );
    assert_eq!(
        walked.unwrap(),
        "Acme Hosting acme-server-1 acme-server-2 acme-server-3 Globex Corporation globex-server-1 globex-server-2 globex-server-3"
    );
}
