//! What a limited membership may do.

use crate::stage::{Scoped, ids, world};
use pg_tenancy_tests::{assert_same_error, fails, refused};
use std::time::Duration;

#[test]
fn read_only_is_seen_and_not_written() {
    let world = world();
    world.scope("acme.member", "servers", "1", "read_only");
    world.scope("acme.member", "sites", "1", "full");
    let mut session = world.session("acme.member");
    assert_eq!(ids(&mut session, "sites"), [1, 3, 6]);
    for write in [
        "UPDATE sites SET visits = 1 WHERE id = 3",
        "UPDATE sites SET visits = 1",
        "UPDATE sites SET visits = visits WHERE id = 6 RETURNING id",
        "DELETE FROM sites WHERE id = 3",
        "WITH d AS (DELETE FROM sites WHERE id = 3 RETURNING id) SELECT id FROM d",
        "INSERT INTO sites (id, server_id, name) VALUES (99, 1, 'x')",
        "INSERT INTO sites (id, server_id, name) VALUES (3, 1, 'x') ON CONFLICT (id) DO UPDATE SET visits = 1",
        "MERGE INTO sites s USING (VALUES (3)) v (id) ON s.id = v.id WHEN MATCHED THEN UPDATE SET visits = 1",
        "MERGE INTO sites s USING (VALUES (3)) v (id) ON s.id = v.id WHEN MATCHED THEN DELETE",
        "MERGE INTO sites s USING (VALUES (99)) v (id) ON s.id = v.id
             WHEN NOT MATCHED THEN INSERT (id, server_id, name) VALUES (99, 1, 'x')",
        "DO $$ BEGIN UPDATE sites SET visits = 1 WHERE id = 3; END $$",
    ] {
        let error = refused(session.attempt(write), "42501");
        assert!(
            error.message().contains("scope"),
            "{write}: {}",
            error.message()
        );
    }
    // Its own rule is nearer than that of its server.
    assert_eq!(session.run("UPDATE sites SET visits = 1 WHERE id = 1"), 1);
    assert_eq!(session.run("DELETE FROM sites WHERE id = 1"), 1);
}

#[test]
fn what_is_hidden_is_as_if_it_were_not() {
    let world = world();
    world.scope("acme.member", "servers", "1", "full");
    let before = world.hash("sites", world.acme);
    let mut session = world.session("acme.member");
    for write in [
        "UPDATE sites SET visits = 7 WHERE id = 1",
        "DELETE FROM sites WHERE id = 1",
        "MERGE INTO sites s USING (VALUES (1)) v (id) ON s.id = v.id WHEN MATCHED THEN UPDATE SET visits = 7",
        "UPDATE sites SET visits = 7 FROM servers WHERE servers.id = sites.server_id AND servers.id = 2",
    ] {
        assert_eq!(session.run(write), 0, "{write}");
    }
    assert_eq!(world.hash("sites", world.acme), before);
    assert_eq!(
        session.run("UPDATE sites SET visits = 7"),
        2,
        "those of server 1"
    );
    assert_eq!(session.run("DELETE FROM logs WHERE id = 31"), 1);
}

#[test]
fn a_scope_raises_no_role() {
    let world = world();
    for who in ["acme.viewer", "acme.member"] {
        world.scope(who, "servers", "1", "full");
        world.scope(who, "sites", "3", "full");
    }
    let mut viewer = world.session("acme.viewer");
    assert_eq!(ids(&mut viewer, "sites"), [3, 6]);
    refused(
        viewer.attempt("UPDATE sites SET visits = 1 WHERE id = 3"),
        "42501",
    );
    let mut member = world.session("acme.member");
    assert_eq!(member.run("UPDATE servers SET cpus = 9 WHERE id = 1"), 1);
    let error = refused(
        member.attempt("UPDATE servers SET firewall_rules = 'open' WHERE id = 1"),
        "42501",
    );
    assert!(error.message().contains("server:firewall"));
    refused(member.attempt("DELETE FROM servers WHERE id = 1"), "42501");
}

/// A new row is not listed; one below a listed resource is.
#[test]
fn new_resources_are_made_below_listed_ones_only() {
    let world = world();
    world.scope("acme.member", "servers", "1", "full");
    let mut session = world.session("acme.member");
    let error = refused(
        session.attempt("INSERT INTO servers (id, name) VALUES (9, 'new')"),
        "42501",
    );
    // Whether the key is taken by a hidden one is not told.
    let taken = refused(
        session.attempt("INSERT INTO servers (id, name) VALUES (2, 'new')"),
        "42501",
    );
    assert_same_error(&error, &taken, &[]);
    for write in [
        "INSERT INTO servers (id, name) VALUES (2, 'x') ON CONFLICT DO NOTHING",
        "INSERT INTO servers (id, name) VALUES (2, 'x') ON CONFLICT (id) DO UPDATE SET cpus = 1",
        "INSERT INTO servers (id, name) SELECT 9, 'x'",
        "INSERT INTO sites (id, name) VALUES (9, 'on no server')",
        "INSERT INTO notes (id) VALUES (9)",
    ] {
        refused(session.attempt(write), "42501");
    }
    assert_eq!(
        session.run("INSERT INTO sites (id, server_id, name) VALUES (9, 1, 'x')"),
        1
    );
    assert_eq!(
        session.run("INSERT INTO logs (id, site_id) VALUES (91, 9)"),
        1
    );
    assert_eq!(ids(&mut session, "sites"), [3, 6, 9]);
    assert_eq!(ids(&mut session, "logs"), [31, 32, 61, 62, 91]);
}

/// To the membership a hidden row is not there: a reference to it fails as one to a missing row.
#[test]
fn d2_a_reference_to_a_hidden_row_fails_like_one_to_a_missing_row() {
    let world = world();
    let mut dba = world.superuser();
    dba.run(
        "CREATE TABLE pairs (id int PRIMARY KEY, org_id uuid, site_id int REFERENCES sites,
                             other_id int REFERENCES sites DEFERRABLE INITIALLY DEFERRED);
         GRANT ALL ON pairs TO PUBLIC;
         SELECT tenancy.protect('pairs', resource_parent => 'site_id')",
    );
    world.scope("acme.member", "servers", "1", "full");
    let mut session = world.session("acme.member");
    let missing = fails(
        session.attempt("INSERT INTO pairs (id, site_id, other_id) VALUES (1, 3, 9999)"),
        "23503",
    );
    for hidden in [1, 2, 4, 101] {
        let error = fails(
            session.attempt(&format!(
                "INSERT INTO pairs (id, site_id, other_id) VALUES (1, 3, {hidden})"
            )),
            "23503",
        );
        assert_same_error(&missing, &error, &[]);
    }
    session.run("INSERT INTO pairs (id, site_id, other_id) VALUES (1, 3, 6)");
    let missing = fails(session.attempt("UPDATE pairs SET other_id = 9999"), "23503");
    let hidden = fails(session.attempt("UPDATE pairs SET other_id = 1"), "23503");
    assert_same_error(&missing, &hidden, &[]);
    // Within an open transaction, at its end.
    session.run("BEGIN; UPDATE pairs SET other_id = 1");
    fails(session.attempt("COMMIT"), "23503");
    session.run("BEGIN; UPDATE pairs SET other_id = 1; UPDATE pairs SET other_id = 3; COMMIT");
    // A member who is not limited refers to any.
    world
        .session("acme.admin")
        .run("UPDATE pairs SET other_id = 1");
}

/// A unique key knows hidden rows as well, and tells no more than that the value is taken.
#[test]
fn a_key_that_a_hidden_row_has_is_taken_and_that_is_all() {
    let world = world();
    world
        .break_glass()
        .run("ALTER TABLE sites ADD COLUMN domain text; UPDATE sites SET domain = 'd' || id; CREATE UNIQUE INDEX ON sites (org_id, domain)");
    world.scope("acme.member", "servers", "1", "full");
    let before = world.hash("sites", world.acme);
    let mut session = world.session("acme.member");
    let new = |id, domain| {
        format!("INSERT INTO sites (id, server_id, name, domain) VALUES ({id}, 1, 'x', '{domain}')")
    };
    for (id, domain) in [(1, "free"), (101, "free"), (70, "d1")] {
        let error = fails(session.attempt(&new(id, domain)), "23505");
        assert_eq!(error.detail(), None, "{error:?}");
        let skip = new(id, domain) + " ON CONFLICT DO NOTHING";
        assert_eq!(session.run(&skip), 0);
    }
    let onto = |target| format!(" ON CONFLICT ({target}) DO UPDATE SET name = 'mine'");
    for sql in [
        new(1, "free") + &onto("id"),
        new(101, "free") + &onto("id"),
        new(70, "d1") + &onto("org_id, domain"),
    ] {
        let error = fails(session.attempt(&sql), "42501");
        assert_eq!(error.detail(), None, "{error:?}");
    }
    fails(
        session.attempt("UPDATE sites SET domain = 'd1' WHERE id = 3"),
        "23505",
    );
    assert_eq!(world.hash("sites", world.acme), before);
    // Another organization's value is free where the key has the organization in it.
    session.run(&new(70, "d101"));
}

#[test]
fn a_resource_does_not_leave_the_scope() {
    let world = world();
    let who = "acme.member";
    world.scope(who, "servers", "1", "full");
    world.scope(who, "servers", "3", "read_only");
    let mut session = world.session(who);
    for write in [
        "UPDATE sites SET server_id = 3 WHERE id = 3",
        "UPDATE sites SET server_id = NULL WHERE id = 3",
        "UPDATE sites SET server_id = 2 WHERE id = 3",
        "UPDATE servers SET id = 77 WHERE id = 1",
    ] {
        refused(session.attempt(write), "42501");
    }
    world.scope(who, "servers", "2", "full");
    session.run("DELETE FROM logs WHERE site_id = 6");
    assert_eq!(
        session.run("UPDATE sites SET server_id = 2 WHERE id = 3"),
        1
    );
    assert_eq!(session.run("UPDATE sites SET id = 33 WHERE id = 6"), 1);
    world.scope(who, "sites", "33", "none");
    assert_eq!(ids(&mut session, "sites"), [1, 2, 3, 4, 5]);
}

/// Row security or not: the row triggers hold what is stored.
#[test]
fn b2_a_bypassing_role_in_a_limited_context_writes_no_hidden_row() {
    let world = world();
    world.scope("acme.member", "servers", "1", "full");
    let mut dba = world.superuser();
    dba.run(&format!(
        "SET app.current_org = '{}'; SET app.current_user_id = '{}'",
        world.acme.id,
        world.user("acme.member")
    ));
    let before = world.hash("sites", world.acme);
    for write in [
        "UPDATE sites SET visits = 8 WHERE id = 1",
        "DELETE FROM sites WHERE id = 1",
        "INSERT INTO sites (id, server_id, name) VALUES (9, 2, 'x')",
        "INSERT INTO servers (id, name) VALUES (9, 'x')",
        "INSERT INTO notes (id) VALUES (9)",
        "UPDATE notes SET body = 'x'",
    ] {
        let result = dba.attempt(write);
        assert!(
            ["42501", "23503"].contains(&result.as_ref().unwrap_err().code().unwrap().code()),
            "{write}: {result:?}"
        );
    }
    let error = std::io::Write::write_all(
        &mut dba
            .copy_in("COPY sites (id, server_id, name) FROM STDIN")
            .unwrap(),
        b"90\t2\tx\n",
    );
    drop(error);
    let mut copy = dba.copy_in("COPY servers (id, name) FROM STDIN").unwrap();
    std::io::Write::write_all(&mut copy, b"90\tx\n").unwrap();
    fails(copy.finish(), "42501");
    assert_eq!(world.hash("sites", world.acme), before);
    dba.run("INSERT INTO sites (id, server_id, name) VALUES (9, 1, 'x')");
}

/// A trigger of the application's writes with the caller's scope.
#[test]
fn a_trigger_writes_within_the_scope_too() {
    let world = world();
    world.superuser().run(
        "CREATE FUNCTION elsewhere() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
         BEGIN UPDATE sites SET visits = 66 WHERE server_id <> NEW.id; RETURN NEW; END $$;
         CREATE TRIGGER elsewhere BEFORE UPDATE ON servers FOR EACH ROW EXECUTE FUNCTION elsewhere();
         CREATE FUNCTION swap() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN NEW.server_id := 2; RETURN NEW; END $$;
         CREATE TRIGGER swap BEFORE INSERT ON sites FOR EACH ROW EXECUTE FUNCTION swap();",
    );
    world.scope("acme.member", "servers", "1", "full");
    let before = world.hash("sites", world.acme);
    let mut session = world.session("acme.member");
    // The definer is no principal of ours, so his function sees nothing; what it is run for is refused or finds nothing.
    let _ = session.attempt("UPDATE servers SET cpus = 5 WHERE id = 1");
    refused(
        session.attempt("INSERT INTO sites (id, server_id, name) VALUES (9, 1, 'x')"),
        "42501",
    );
    assert_eq!(world.hash("sites", world.acme), before);
}

/// A cascade needs the parent's right only, also where it reaches what is hidden (spec 5.3).
#[test]
fn d3_a_cascade_takes_what_belongs_to_the_resource() {
    let world = world();
    world.scope("acme.admin", "servers", "1", "full");
    world.scope("acme.admin", "sites", "3", "none");
    world.scope("acme.admin", "sites", "6", "read_only");
    let mut session = world.session("acme.admin");
    assert_eq!(ids(&mut session, "sites"), [6]);
    session.run("BEGIN");
    assert_eq!(session.run("DELETE FROM servers WHERE id = 1"), 1);
    session.run("COMMIT");
    let mut dba = world.break_glass();
    assert_eq!(
        dba.count("SELECT count(*) FROM sites WHERE id IN (3, 6)"),
        0
    );
    assert_eq!(
        dba.count("SELECT count(*) FROM logs WHERE site_id IN (3, 6)"),
        0
    );
    // The same transaction's own writes are held as ever.
    world.scope("acme.admin", "servers", "2", "full");
    world.scope("acme.admin", "sites", "1", "read_only");
    session.run("BEGIN");
    session.run("DELETE FROM servers WHERE id = 2");
    world.scope("acme.admin", "servers", "3", "read_only");
    refused(session.attempt("DELETE FROM sites WHERE id = 2"), "42501");
    session.run("ROLLBACK");
}

#[test]
fn d3_a_key_that_changes_is_followed_into_what_is_hidden() {
    let world = world();
    world.scope("acme.member", "servers", "1", "full");
    world.scope("acme.member", "servers", "51", "full");
    world.scope("acme.member", "sites", "3", "none");
    let mut session = world.session("acme.member");
    assert_eq!(session.run("UPDATE servers SET id = 51 WHERE id = 1"), 1);
    assert_eq!(ids(&mut session, "sites"), [6]);
    assert_eq!(
        world
            .break_glass()
            .column("SELECT id FROM sites WHERE server_id = 51 ORDER BY id"),
        ["3", "6"]
    );
}

/// The rule goes while a session waits for a row's lock.
#[test]
fn a10_who_waited_for_a_lock_finds_the_rule_gone() {
    let world = world();
    let who = "acme.member";
    for (changes, write) in [
        (true, "UPDATE servers SET cpus = cpus + 100 WHERE id = 1"),
        (false, "UPDATE servers SET cpus = cpus + 100 WHERE id = 1"),
        (true, "DELETE FROM sites WHERE id = 3"),
        (false, "DELETE FROM sites WHERE id = 3"),
    ] {
        world.scope(who, "servers", "1", "full");
        let mut holder = world.session("acme.admin");
        holder.run("BEGIN");
        holder.rows("SELECT 1 FROM servers WHERE id = 1 FOR UPDATE");
        holder.rows("SELECT 1 FROM sites WHERE id = 3 FOR UPDATE");
        if changes {
            holder.run("UPDATE servers SET cpus = 2 WHERE id = 1");
            holder.run("UPDATE sites SET visits = 2 WHERE id = 3");
        }
        let mut session = world.session(who);
        let waiting = std::thread::spawn(move || session.attempt(write));
        std::thread::sleep(Duration::from_millis(300));
        world.remove_scope(who, "servers", "1");
        holder.run("COMMIT");
        match waiting.join().unwrap() {
            Ok(rows) => assert_eq!(rows, 0, "{write}"),
            Err(error) => {
                refused::<u64>(Err(error), "42501");
            }
        }
        let mut dba = world.break_glass();
        assert!(dba.count("SELECT cpus FROM servers WHERE id = 1") < 100);
        assert_eq!(dba.count("SELECT count(*) FROM sites WHERE id = 3"), 1);
    }
}

/// A member is limited while an insert of his waits.
#[test]
fn a10_who_was_limited_while_an_insert_waited_is_refused() {
    let world = world();
    world.superuser().run(
        "CREATE TABLE boxes (id int PRIMARY KEY, org_id uuid); GRANT ALL ON boxes TO PUBLIC;
         SELECT tenancy.protect('boxes', audit => false, resource_type => 'box')",
    );
    let who = "acme.member";
    let mut holder = world.session("acme.owner");
    holder.run("BEGIN; INSERT INTO boxes (id) VALUES (1)");
    let mut session = world.session(who);
    let waiting = std::thread::spawn(move || session.attempt("INSERT INTO boxes (id) VALUES (1)"));
    std::thread::sleep(Duration::from_millis(300));
    world.scope(who, "servers", "1", "full");
    holder.run("ROLLBACK");
    refused(waiting.join().unwrap(), "42501");
}

/// A row that is read-only is not held against others, either.
#[test]
fn a_locking_read_takes_what_may_be_written() {
    let world = world();
    world.scope("acme.member", "servers", "1", "read_only");
    world.scope("acme.member", "servers", "2", "full");
    let mut session = world.session("acme.member");
    assert_eq!(ids(&mut session, "servers"), [1, 2]);
    for lock in [
        "FOR UPDATE",
        "FOR NO KEY UPDATE",
        "FOR SHARE",
        "FOR KEY SHARE",
    ] {
        assert_eq!(
            session.column(&format!("SELECT id FROM servers ORDER BY id {lock}")),
            ["2"],
            "{lock}"
        );
        assert!(
            session
                .column(&format!("SELECT id FROM sites WHERE server_id = 1 {lock}"))
                .is_empty()
        );
    }
    let mut admin = world.session("acme.admin");
    assert_eq!(admin.column("SELECT id FROM servers FOR UPDATE").len(), 3);
}

/// Many sessions while the rules change all the time: nobody sees or writes what was never listed.
#[test]
fn the_scope_holds_while_rules_come_and_go() {
    let world = world();
    let who = "acme.member";
    world.scope(who, "sites", "1", "full");
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|n| {
            let mut session = world.session(who);
            let over = over.clone();
            std::thread::spawn(move || {
                let mut rounds = 0;
                while !over.load(std::sync::atomic::Ordering::Relaxed) || rounds < 20 {
                    rounds += 1;
                    for id in session.column("SELECT id FROM sites") {
                        assert!(["1", "3", "6"].contains(&id.as_str()), "saw site {id}");
                    }
                    for id in session.column("SELECT site_id FROM logs") {
                        assert!(
                            ["1", "3", "6"].contains(&id.as_str()),
                            "saw a line of site {id}"
                        );
                    }
                    if n % 2 == 0 {
                        let _ = session
                            .attempt("UPDATE sites SET visits = visits + 1 WHERE id IN (2, 3)");
                        let _ =
                            session.attempt("UPDATE sites SET visits = -1 WHERE id IN (2, 4, 5)");
                        let _ = session.attempt("DELETE FROM logs WHERE site_id IN (2, 4, 5)");
                    }
                }
            })
        })
        .collect();
    for round in 0..40 {
        let access = ["full", "read_only", "none"][round % 3];
        world.scope(who, "servers", "1", access);
        world.scope(who, "sites", "6", ["none", "full"][round % 2]);
        if round % 4 == 3 {
            world.remove_scope(who, "servers", "1");
        }
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    for client in clients {
        client.join().expect("what it saw was listed");
    }
    let mut dba = world.break_glass();
    assert_eq!(
        dba.column("SELECT visits FROM sites WHERE id IN (2, 4, 5) ORDER BY id"),
        ["20", "40", "50"]
    );
    assert_eq!(
        dba.count("SELECT count(*) FROM logs WHERE site_id IN (2, 4, 5)"),
        6
    );
}
