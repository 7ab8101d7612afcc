//! Triggers of ours that have nothing left to do in a statement do not fire (hooks/writes.rs); what they would refuse is
//! refused, and everybody else's fire as ever.

use std::time::Duration;

use pg_tenancy_tests::{World, fails, refused};

/// A protected table without audit and foreign keys: row security holds each row, and the row trigger adds nothing.
fn plain(world: &World) {
    world.superuser().run(
        "CREATE TABLE notes (id int PRIMARY KEY, org_id uuid, body text);
         GRANT ALL ON notes TO PUBLIC;
         SELECT tenancy.protect('notes', audit => false)",
    );
}

#[test]
fn a10_an_insert_that_waited_notices_the_revocation() {
    let world = World::new();
    plain(&world);
    let mut holder = world.session("acme.owner");
    holder.run("BEGIN; INSERT INTO notes (id) VALUES (1)");
    let mut session = world.session("acme.member");
    session.run("INSERT INTO notes (id) VALUES (2)");
    let waiting = std::thread::spawn(move || session.attempt("INSERT INTO notes (id) VALUES (1)"));
    std::thread::sleep(Duration::from_millis(400));
    world.remove("acme.member");
    // The key is free, the right is gone.
    holder.run("ROLLBACK");
    refused(waiting.join().unwrap(), "42501");
}

#[test]
fn everybody_elses_triggers_fire() {
    let world = World::new();
    plain(&world);
    world.superuser().run(
        "CREATE TABLE fired (what text); GRANT ALL ON fired TO PUBLIC;
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             INSERT INTO fired VALUES (concat_ws(' ', TG_WHEN, TG_LEVEL, TG_OP));
             RETURN CASE WHEN TG_LEVEL = 'ROW' THEN NEW END;
         END $$;
         CREATE TRIGGER a BEFORE INSERT OR UPDATE ON notes EXECUTE FUNCTION note();
         CREATE TRIGGER b AFTER INSERT ON notes FOR EACH ROW EXECUTE FUNCTION note();
         CREATE TRIGGER c AFTER INSERT ON notes EXECUTE FUNCTION note();
         CREATE TRIGGER d BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION note()",
    );
    let mut session = world.session("acme.member");
    for _ in 0..2 {
        session.run("INSERT INTO notes (id) VALUES (1)");
        session.run("UPDATE notes SET body = 'x'");
        assert_eq!(
            session.column("DELETE FROM fired RETURNING what"),
            [
                "BEFORE STATEMENT INSERT",
                "BEFORE ROW INSERT",
                "AFTER ROW INSERT",
                "AFTER STATEMENT INSERT",
                "BEFORE STATEMENT UPDATE"
            ]
        );
        session.run("DELETE FROM notes");
    }
}

/// What row security sees is the row as it is stored: after the BEFORE triggers.
#[test]
fn c8_a_trigger_that_sends_a_row_elsewhere_is_refused() {
    let world = World::new();
    plain(&world);
    world.superuser().run(&format!(
        "CREATE FUNCTION elsewhere() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN NEW.org_id := '{}'; RETURN NEW; END $$;
         CREATE TRIGGER z BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION elsewhere()",
        world.globex.id
    ));
    let mut session = world.session("acme.member");
    for _ in 0..3 {
        refused(
            session.attempt("INSERT INTO notes (id) VALUES (1)"),
            "42501",
        );
    }
    assert_eq!(world.superuser().count("SELECT count(*) FROM notes"), 0);
}

/// Who is past row security is held by the row trigger.
#[test]
fn b2_a_bypassing_role_writes_no_other_organizations_row() {
    let world = World::new();
    plain(&world);
    let mut dba = world.superuser();
    dba.run(&format!("SET app.current_org = '{}'", world.acme.id));
    for _ in 0..3 {
        refused(
            dba.attempt(&format!(
                "INSERT INTO notes (id, org_id) VALUES (1, '{}')",
                world.globex.id
            )),
            "42501",
        );
    }
    dba.run("INSERT INTO notes (id) VALUES (1)");
}

#[test]
fn without_the_right_a_statement_without_rows_is_refused_too() {
    let world = World::new();
    plain(&world);
    let mut viewer = world.session("acme.viewer");
    viewer.run("SELECT tenancy.current_org()");
    for statement in [
        "INSERT INTO notes SELECT 1, NULL::uuid WHERE false",
        "UPDATE notes SET body = 'x' WHERE false",
        "DELETE FROM notes WHERE false",
        "INSERT INTO notes SELECT 1 ON CONFLICT DO NOTHING",
        "INSERT INTO notes SELECT 1 ON CONFLICT (id) DO UPDATE SET body = 'x'",
    ] {
        // Asking for a plan writes nothing and is nobody's business.
        viewer.run(&format!("EXPLAIN {statement}"));
        refused(viewer.attempt(statement), "42501");
        refused(
            viewer.attempt(&format!("EXPLAIN ANALYZE {statement}")),
            "42501",
        );
    }
    // A member may write, and in no context nobody may.
    let mut member = world.session("acme.member");
    member.run("INSERT INTO notes SELECT 1 ON CONFLICT DO NOTHING");
    member.run("INSERT INTO notes SELECT 1 ON CONFLICT (id) DO UPDATE SET body = 'x'");
    let mut stranger = world.session("stranger");
    refused(stranger.attempt("DELETE FROM notes WHERE false"), "42501");
}

/// The twins of a policy ask each row once; another policy's check is asked as well.
#[test]
fn c7_other_checks_are_asked_besides() {
    let world = World::new();
    plain(&world);
    world.superuser().run(
        "SET row_security = off;
         CREATE POLICY short ON notes AS RESTRICTIVE FOR INSERT WITH CHECK (length(body) < 10);
         CREATE POLICY any_org ON notes FOR INSERT WITH CHECK (true)",
    );
    let mut session = world.session("acme.member");
    session.run("INSERT INTO notes (id, body) VALUES (1, 'short')");
    // PostgreSQL's own words, since the policy is somebody else's.
    let long = session.attempt("INSERT INTO notes (id, body) VALUES (2, 'long enough')");
    fails(long, "42501");
    refused(
        session.attempt(&format!(
            "INSERT INTO notes (id, org_id, body) VALUES (3, '{}', 'short')",
            world.globex.id
        )),
        "42501",
    );
}
