//! AI write approvals (spec 8) where two checks stand one behind the other: each is seen by itself.

use std::time::Duration;

use pg_tenancy_tests::stage::{INSERT, RENAME, Stage, approve, execute};
use pg_tenancy_tests::{World, refused};

/// What is refused before the change is made leaves the proposal approved: it is executed once its approver may again.
#[test]
fn an_approver_who_is_limited_by_now_approves_what_he_may_do_and_nothing_destructive() {
    let stage = Stage::new();
    let set = |role: &str| {
        stage.world.session("acme.owner").run(&format!(
            "SELECT tenancy.set_member_role('{}', '{}', '{role}')",
            stage.world.acme.id,
            stage.world.user("acme.admin")
        ))
    };
    for (what, lacks) in [
        (format!("{RENAME}, risk => 'destructive'"), "destructive"),
        (
            "'sites', 'update', 's', key => '3', payload => '{\"certificate\": \"c\"}'".into(),
            "server:firewall",
        ),
    ] {
        let id = stage.pending("acme.owner", &what);
        stage.world.session("acme.admin").run(&approve(&id));
        set("member");
        let before = stage.rows();
        let error = refused(
            stage.acting("acme.owner", "ai").attempt(&execute(&id)),
            "42501",
        );
        assert!(error.detail().unwrap().contains(lacks), "{error:?}");
        assert_eq!(stage.state(&id), "approved", "{what}");
        assert_eq!(stage.rows(), before);
        set("admin");
        assert_eq!(stage.execute("acme.owner", &id), "completed");
    }
}

/// The table's own policies count, too: with a limited right one approves only rows that one may write.
#[test]
fn a_row_that_the_tables_own_policy_keeps_from_the_approver_is_not_his_to_approve() {
    let stage = Stage::new();
    let member = stage.world.user("acme.member");
    for command in ["UPDATE", "ALL"] {
        let mut dba = stage.world.superuser();
        dba.run(&format!(
            "DROP POLICY IF EXISTS theirs ON sites; CREATE POLICY theirs ON sites AS RESTRICTIVE FOR {command}
             USING (id <> 1 OR tenancy.current_user_id() IS DISTINCT FROM '{member}')"
        ));
        let id = stage.pending("acme.admin", RENAME);
        for how in ["", ", on_change => 'accept'"] {
            let error = refused(
                stage
                    .world
                    .session("acme.member")
                    .attempt(&format!("SELECT tenancy.approve_proposal('{id}'{how})")),
                "42501",
            );
            let detail = error.detail().unwrap();
            assert!(detail.contains("none that one sees"), "{command}: {detail}");
        }
        assert_eq!(stage.state(&id), "pending");
        // Any other row is, and this one is to who approves without limit.
        let other = stage.pending(
            "acme.admin",
            "'sites', 'update', 's', key => '3', payload => '{\"name\": \"x\"}'",
        );
        stage.world.session("acme.member").run(&approve(&other));
        stage.world.session("acme.owner").run(&approve(&id));
    }
}

/// A trigger that fires before the change reaches, by way of a table that nobody protected, another row of the same table.
#[test]
fn d3_a_cascade_that_comes_before_the_row_is_not_its_own() {
    let stage = Stage::new();
    stage.world.superuser().run(
        "CREATE TABLE kinds (code text PRIMARY KEY);
         CREATE TABLE things (id int PRIMARY KEY, org_id uuid, kind text REFERENCES kinds ON UPDATE CASCADE ON DELETE CASCADE, name text);
         INSERT INTO kinds VALUES ('a'), ('b'); GRANT ALL ON kinds, things TO PUBLIC; SELECT tenancy.protect('things')",
    );
    let mut owner = stage.world.session("acme.owner");
    owner.run("INSERT INTO things (id, kind, name) VALUES (1, 'a', 'one'), (2, 'b', 'two')");
    let before = stage.world.hash("things", stage.world.acme);
    for (event, what, sql) in [
        (
            "UPDATE",
            "'things', 'update', 's', key => '1', payload => '{\"name\": \"x\"}'",
            "UPDATE kinds SET code = 'c' WHERE code = 'b'; RETURN NEW",
        ),
        (
            "DELETE",
            "'things', 'delete', 's', key => '1'",
            "DELETE FROM kinds WHERE code = 'b'; RETURN OLD",
        ),
    ] {
        stage.world.superuser().run(&format!(
            "CREATE OR REPLACE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {sql}; END $$;
             DROP TRIGGER IF EXISTS more ON things;
             CREATE TRIGGER more BEFORE {event} ON things FOR EACH ROW WHEN (OLD.id = 1) EXECUTE FUNCTION more()"
        ));
        let id = stage.approved_whatever("acme.admin", what);
        assert_eq!(stage.execute("acme.admin", &id), "failed", "{event}");
        let why = stage.why(&id);
        assert!(
            why.starts_with("42501") && why.contains("not what was approved"),
            "{why}"
        );
        assert_eq!(stage.world.hash("things", stage.world.acme), before);
    }
    // Without the trigger it is made.
    stage.world.superuser().run("DROP TRIGGER more ON things");
    let id = stage.approved_whatever("acme.admin", "'things', 'delete', 's', key => '1'");
    assert_eq!(stage.execute("acme.admin", &id), "completed");
    assert_eq!(owner.column("SELECT id FROM things"), ["2"]);
}

#[test]
fn a_change_does_not_execute_another_proposal() {
    let stage = Stage::new();
    let other = stage.approved(
        "acme.admin",
        "'sites', 'update', 's', key => '3', payload => '{\"name\": \"x\"}'",
    );
    let before = stage.rows();
    for when in ["BEFORE", "AFTER"] {
        stage.world.superuser().run(&format!(
            "CREATE OR REPLACE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM tenancy.execute_proposal('{other}'); RETURN NEW; END $$;
             DROP TRIGGER IF EXISTS more ON sites;
             CREATE TRIGGER more {when} UPDATE ON sites FOR EACH ROW WHEN (OLD.id = 1) EXECUTE FUNCTION more()"
        ));
        let id = stage.approved("acme.admin", RENAME);
        assert_eq!(stage.execute("acme.admin", &id), "failed", "{when}");
        let why = stage.why(&id);
        assert!(
            why.starts_with("55000") && why.contains("is being executed"),
            "{why}"
        );
        assert_eq!(stage.state(&other), "approved");
        assert_eq!(stage.rows(), before);
    }
    assert_eq!(stage.execute("acme.admin", &other), "completed");
}

/// However one execution ends, the next one in the session stands for itself, and so does what a person writes.
#[test]
fn one_execution_leaves_nothing_to_the_next() {
    let stage = Stage::new();
    let [first, second, third] =
        [INSERT, INSERT, RENAME].map(|what| stage.approved("acme.admin", what));
    let mut app = stage.acting("acme.admin", "ai");
    for (id, state) in [
        (&first, "completed"),
        (&second, "failed"),
        (&third, "completed"),
    ] {
        assert_eq!(app.text(&execute(id)), state);
    }
    app.run("COMMIT");
    assert!(stage.why(&second).starts_with("23505"));
    stage.begin(&mut app, "acme.owner", "human");
    app.run("UPDATE sites SET visits = 7 WHERE id IN (1, 50); COMMIT");
    let lines = |sql: &str| {
        stage.world.session("acme.owner").count(&format!(
            "SELECT count(*) FROM tenancy.audit_log WHERE object = 'public.sites' AND {sql}"
        ))
    };
    assert_eq!(lines("approver_id IS NOT NULL"), 2);
    assert_eq!(
        lines("actor_type = 'human' AND operation = 'UPDATE' AND approver_id IS NULL"),
        2
    );
}

/// The row itself is looked at as it is written; what its triggers then wait for takes time of its own.
#[test]
fn a10_an_approver_who_goes_after_the_row_was_written_approved_nothing() {
    // What writes the log takes in the news, too: without it nothing but the execution itself does.
    for (each, audit) in [("ROW", true), ("ROW", false), ("STATEMENT", false)] {
        let stage = Stage::new();
        let mut dba = stage.world.superuser();
        // Its name comes after those of the extension's triggers.
        dba.run(&format!(
            "SELECT tenancy.unprotect('sites'); SELECT tenancy.protect('sites', audit => {audit});
             CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$;
             CREATE TRIGGER zz_linger AFTER UPDATE ON sites FOR EACH {each} EXECUTE FUNCTION linger()"
        ));
        let id = stage.pending("acme.owner", RENAME);
        stage.world.session("acme.admin").run(&approve(&id));
        let before = stage.rows();
        let mut holder = stage.world.superuser();
        holder.run("BEGIN; SELECT pg_advisory_xact_lock(1)");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| stage.execute("acme.owner", &id));
            let waits = "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
                         WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()";
            while dba.count(waits) == 0 {
                assert!(!waiting.is_finished(), "nothing waited");
                std::thread::sleep(Duration::from_millis(20));
            }
            stage.world.remove("acme.admin");
            holder.run("COMMIT");
            assert_eq!(waiting.join().unwrap(), "failed", "{each} {audit}");
        });
        assert!(stage.why(&id).contains("approver"), "{}", stage.why(&id));
        assert_eq!(stage.rows(), before);
    }
}

/// Where a key decides on the partition, what refers to a row leaves its own for another one along with it.
#[test]
fn c1_what_refers_to_a_row_moves_along_with_it() {
    let stage = Stage::new();
    stage.world.superuser().run(
        "CREATE TABLE groups (id int PRIMARY KEY, org_id uuid, code text UNIQUE);
         CREATE TABLE items (id int, org_id uuid, code text REFERENCES groups (code) ON UPDATE CASCADE ON DELETE SET NULL) PARTITION BY LIST (code);
         CREATE TABLE items_a PARTITION OF items FOR VALUES IN ('a'); CREATE TABLE items_rest PARTITION OF items DEFAULT;
         GRANT ALL ON groups, items TO PUBLIC; SELECT tenancy.protect('groups'); SELECT tenancy.protect('items')",
    );
    let mut owner = stage.world.session("acme.owner");
    owner.run("INSERT INTO groups (id, code) VALUES (1, 'a'), (2, 'b'); INSERT INTO items (id, code) VALUES (1, 'a'), (2, 'a'), (3, 'b')");
    for (what, after) in [
        (
            "'groups', 'update', 's', key => '1', payload => '{\"code\": \"c\"}'",
            ["1 c items_rest", "2 c items_rest", "3 b items_rest"],
        ),
        (
            "'groups', 'delete', 's', key => '1'",
            ["1  items_rest", "2  items_rest", "3 b items_rest"],
        ),
    ] {
        owner.run("UPDATE groups SET code = 'a' WHERE id = 1");
        let id = stage.approved("acme.admin", what);
        assert_eq!(
            stage.execute("acme.admin", &id),
            "completed",
            "{what}: {}",
            stage.why(&id)
        );
        assert_eq!(
            owner.column(
                "SELECT format('%s %s %s', id, code, tableoid::regclass) FROM items ORDER BY id"
            ),
            after
        );
    }
}

/// Who is limited to resources by now approves nothing for the organization, whatever his role.
#[test]
fn an_approver_whose_membership_is_limited_by_now_approved_nothing() {
    let world = World::unprotected();
    world.superuser().run(
        "SELECT tenancy.protect('servers', resource_type => 'server'); SELECT tenancy.protect('sites')",
    );
    let stage = Stage { world };
    let id = stage.pending("acme.owner", RENAME);
    stage.world.session("acme.admin").run(&approve(&id));
    let before = stage.rows();
    stage.world.superuser().run(&format!(
        "SELECT tenancy.set_scope('{}', '{}', 'servers', '1')",
        stage.world.acme.id,
        stage.world.user("acme.admin")
    ));
    refused(
        stage.acting("acme.owner", "ai").attempt(&execute(&id)),
        "42501",
    );
    assert_eq!(stage.state(&id), "approved");
    assert_eq!(stage.rows(), before);
}

/// DDL that commits while the execution waits for the table: another column has the name by then.
#[test]
fn a_table_that_changes_while_the_change_waits_for_it_is_another() {
    let stage = Stage::new();
    let mut dba = stage.world.superuser();
    dba.run(
        "CREATE TABLE pairs (id int PRIMARY KEY, org_id uuid, low int, high int); GRANT ALL ON pairs TO PUBLIC;
         SELECT tenancy.protect('pairs')",
    );
    let mut owner = stage.world.session("acme.owner");
    owner.run("INSERT INTO pairs (id, low, high) VALUES (1, 1, 2)");
    let what = "'pairs', 'update', 's', key => '1', payload => '{\"low\": 7}'";
    let id = stage.approved_whatever("acme.admin", what);
    let mut ai = stage.acting("acme.admin", "ai");
    let pid = ai.text("SELECT pg_backend_pid()");
    let mut altering = stage.world.superuser();
    altering
        .run("BEGIN; ALTER TABLE pairs RENAME low TO was; ALTER TABLE pairs RENAME high TO low");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            let said = ai.text(&execute(&id));
            ai.run("COMMIT");
            (said, id)
        });
        let waits = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'"
        );
        while dba.count(&waits) == 0 {
            assert!(!waiting.is_finished(), "nothing waited");
            std::thread::sleep(Duration::from_millis(20));
        }
        altering.run("COMMIT");
        let (said, id) = waiting.join().unwrap();
        assert_eq!(said, "failed");
        let why = stage.why(&id);
        assert!(why.contains("has changed since"), "{why}");
    });
    assert_eq!(
        owner.column("SELECT format('%s %s', was, low) FROM pairs"),
        ["1 2"]
    );
}
