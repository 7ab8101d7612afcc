//! AI write approvals (spec 8): an AI actor writes what was proposed and approved, once, and nothing else.

use std::sync::Barrier;

use pg_tenancy_tests::stage::{DELETE, INSERT, RENAME, Stage, approve, execute, reject};
use pg_tenancy_tests::{ROLES, World, fails, quote, refused};

#[test]
fn an_ai_actor_writes_nothing_by_itself() {
    let stage = Stage::new();
    let before = stage.rows();
    // With a proposal that waits, and one that is approved and for another row: no difference.
    stage.pending("acme.admin", RENAME);
    stage.approved("acme.admin", RENAME);
    stage.world.superuser().run("CREATE TABLE plain (id int PRIMARY KEY, org_id uuid); GRANT ALL ON plain TO PUBLIC; SELECT tenancy.protect('plain', audit => false)");
    for role in ROLES {
        for sql in [
            "INSERT INTO sites (id, name) VALUES (50, 'x')",
            "INSERT INTO plain (id) VALUES (1)",
            "UPDATE sites SET name = 'renamed' WHERE id = 1",
            "UPDATE sites SET name = 'renamed' WHERE false",
            "DELETE FROM sites WHERE id = 1",
            "DELETE FROM servers WHERE id = 1",
            "UPDATE servers SET id = 90 WHERE id = 1",
            "INSERT INTO sites (id, name) VALUES (1, 'x') ON CONFLICT (id) DO NOTHING",
            "INSERT INTO sites (id, name) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET name = 'x'",
            "MERGE INTO sites s USING (VALUES (1)) v (id) ON s.id = v.id WHEN MATCHED THEN DELETE",
            "WITH w AS (DELETE FROM sites RETURNING 1) SELECT count(*) FROM w",
            "DO $$ BEGIN UPDATE sites SET name = 'x'; EXCEPTION WHEN division_by_zero THEN NULL; END $$",
            "PREPARE p AS UPDATE sites SET name = 'x'; EXECUTE p",
        ] {
            let mut ai = stage.acting(&format!("acme.{role}"), "ai");
            refused(ai.attempt(sql), "42501");
        }
    }
    // A superuser's COPY, and replica mode.
    let mut dba = stage.world.superuser();
    dba.run(&format!("SET app.current_org = '{}'; SET app.actor_type = 'ai'; SET session_replication_role = replica", stage.world.acme.id));
    let file = stage.world.db.cluster.file("rows");
    std::fs::write(&file, "1\n").unwrap();
    refused(
        dba.attempt(&format!("COPY plain (id) FROM '{}'", file.display())),
        "42501",
    );
    refused(dba.attempt("DELETE FROM sites"), "42501");
    assert_eq!(stage.rows(), before);
    // Reading is another thing.
    assert_eq!(
        stage
            .acting("acme.admin", "ai")
            .count("SELECT count(*) FROM sites"),
        6
    );
}

#[test]
fn an_approved_change_is_made_once() {
    let stage = Stage::new();
    let [rename, delete, insert] =
        [RENAME, DELETE, INSERT].map(|what| stage.approved("acme.admin", what));
    for (id, sql, after) in [
        (
            &rename,
            "SELECT name FROM sites WHERE id = 1",
            Some("renamed"),
        ),
        (&delete, "SELECT name FROM sites WHERE id = 2", None),
        (&insert, "SELECT name FROM sites WHERE id = 50", Some("new")),
    ] {
        assert_eq!(stage.execute("acme.admin", id), "completed");
        assert_eq!(stage.state(id), "completed");
        let mut owner = stage.world.session("acme.owner");
        assert_eq!(owner.column(sql).first().map(String::as_str), after);
        let again = refused(
            stage.acting("acme.admin", "ai").attempt(&execute(id)),
            "55000",
        );
        assert!(again.message().contains("completed"), "{again:?}");
    }
    // The log names initiator and approver.
    let mut owner = stage.world.session("acme.owner");
    let log = owner.json(
        "SELECT * FROM tenancy.audit_log WHERE object = 'public.sites' AND actor_type = 'ai'",
    );
    assert_eq!(log.len(), 3);
    for line in &log {
        assert_eq!(line["actor_id"], stage.world.user("acme.admin").to_string());
        assert_eq!(
            line["approver_id"],
            stage.world.user("acme.owner").to_string()
        );
    }
    let acts = owner.json(&format!("SELECT * FROM tenancy.audit_log WHERE object = 'tenancy.proposals' AND key->>'id' = '{rename}'"));
    let mut steps: Vec<(String, String)> = acts
        .iter()
        .map(|act| {
            (
                act["operation"].as_str().unwrap().into(),
                act["new"]["state"].as_str().unwrap().into(),
            )
        })
        .collect();
    steps.sort();
    assert_eq!(
        steps,
        [
            ("approve_proposal", "approved"),
            ("execute_proposal", "completed"),
            ("propose", "draft"),
            ("submit_proposal", "pending")
        ]
        .map(|(a, b)| (a.to_string(), b.to_string()))
    );
    for act in &acts {
        assert_eq!(
            act["new"]["initiator"],
            stage.world.user("acme.admin").to_string()
        );
    }
    // What is written without a proposal afterwards has no approver.
    owner.run("UPDATE sites SET visits = 5 WHERE id = 3");
    assert_eq!(owner.count("SELECT count(*) FROM tenancy.audit_log WHERE object = 'public.sites' AND key->>'id' = '3' AND approver_id IS NOT NULL"), 0);
}

#[test]
fn nothing_else_passes_while_a_change_is_made() {
    let stage = Stage::new();
    // Triggers on the table that the proposal is about: each tries something that was not approved.
    for (body, sql) in [
        ("BEFORE UPDATE", "UPDATE servers SET cpus = 9 WHERE id = 1"),
        (
            "BEFORE UPDATE",
            "UPDATE sites SET name = 'other' WHERE id = 3",
        ),
        ("BEFORE UPDATE", "DELETE FROM sites WHERE id = 3"),
        (
            "BEFORE UPDATE",
            "INSERT INTO sites (id, name) VALUES (60, 'x')",
        ),
        ("AFTER UPDATE", "UPDATE sites SET visits = 999 WHERE id = 1"),
        ("AFTER UPDATE", "DELETE FROM servers WHERE id = 2"),
    ] {
        stage.world.superuser().run(&format!(
            "CREATE OR REPLACE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF pg_trigger_depth() < 2 THEN {sql}; END IF; RETURN NEW; END $$;
             DROP TRIGGER IF EXISTS more ON sites; CREATE TRIGGER more {body} ON sites FOR EACH ROW EXECUTE FUNCTION more()"
        ));
        let before = stage.rows();
        let id = stage.approved("acme.admin", RENAME);
        assert_eq!(stage.execute("acme.admin", &id), "failed", "{sql}");
        assert!(stage.why(&id).starts_with("42501"), "{}", stage.why(&id));
        assert_eq!(stage.rows(), before, "{sql}");
    }
    // A function that a value's default calls, after which the door is shut again.
    stage.world.superuser().run("DROP TRIGGER more ON sites");
    let id = stage.approved("acme.admin", RENAME);
    let mut ai = stage.acting("acme.admin", "ai");
    assert_eq!(ai.text(&execute(&id)), "completed");
    refused(
        ai.attempt("UPDATE sites SET name = 'again' WHERE id = 1"),
        "42501",
    );
    // Nor does a rolled-back execution leave it open.
    let id = stage.approved("acme.admin", RENAME);
    let mut ai = stage.acting("acme.admin", "ai");
    ai.run("SAVEPOINT a");
    ai.text(&execute(&id));
    ai.run("ROLLBACK TO a");
    refused(
        ai.attempt_within("UPDATE sites SET name = 'again' WHERE id = 1"),
        "42501",
    );
    assert_eq!(ai.text(&execute(&id)), "completed");
    ai.run("ROLLBACK");
    assert_eq!(stage.state(&id), "approved");
}

#[test]
fn d3_what_refers_to_a_deleted_row_goes_with_it() {
    let stage = Stage::new();
    let id = stage.approved("acme.admin", "'servers', 'delete', 'retired', key => '1'");
    assert_eq!(stage.execute("acme.admin", &id), "completed");
    let mut owner = stage.world.session("acme.owner");
    assert_eq!(
        owner.count("SELECT count(*) FROM sites WHERE server_id = 1"),
        0
    );
    assert_eq!(owner.count("SELECT count(*) FROM sites"), 4);
}

/// A tree in one table: what a foreign key deletes of it goes along, what a trigger deletes beside it does not.
#[test]
fn d3_a_trigger_does_not_pass_for_a_cascade() {
    let stage = Stage::new();
    stage.world.superuser().run(
        "CREATE TABLE nodes (id int PRIMARY KEY, org_id uuid, parent int REFERENCES nodes ON DELETE CASCADE);
         GRANT ALL ON nodes TO PUBLIC; SELECT tenancy.protect('nodes')",
    );
    let mut owner = stage.world.session("acme.owner");
    owner.run(
        "INSERT INTO nodes (id, parent) VALUES (1, NULL), (2, 1), (3, 2), (4, NULL), (5, NULL)",
    );
    let id = stage.approved("acme.admin", "'nodes', 'delete', 's', key => '1'");
    assert_eq!(stage.execute("acme.admin", &id), "completed");
    assert_eq!(owner.column("SELECT id FROM nodes ORDER BY id"), ["4", "5"]);
    owner.run("INSERT INTO nodes (id, parent) VALUES (6, 5)");
    for when in ["BEFORE", "AFTER"] {
        stage.world.superuser().run(&format!(
            "CREATE OR REPLACE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM nodes WHERE id = 4; RETURN OLD; END $$;
             DROP TRIGGER IF EXISTS more ON nodes; CREATE TRIGGER more {when} DELETE ON nodes FOR EACH ROW WHEN (OLD.id IN (5, 6)) EXECUTE FUNCTION more()"
        ));
        let id = stage.approved("acme.admin", "'nodes', 'delete', 's', key => '5'");
        assert_eq!(stage.execute("acme.admin", &id), "failed", "{when}");
        assert_eq!(
            owner.column("SELECT id FROM nodes ORDER BY id"),
            ["4", "5", "6"]
        );
    }
}

#[test]
fn a_failed_change_leaves_the_proposal_failed_and_the_row_alone() {
    let stage = Stage::new();
    for (what, break_it, code) in [
        // The row is gone, another has the key, a value breaks a rule.
        (RENAME, "DELETE FROM sites WHERE id = 1", "P0002"),
        (
            INSERT,
            "INSERT INTO sites (id, name) VALUES (50, 'first')",
            "23505",
        ),
        (
            "'sites', 'update', 'x', key => '3', payload => '{\"server_id\": 77}'",
            "SELECT 1",
            "23503",
        ),
    ] {
        let id = stage.approved("acme.admin", what);
        stage.world.session("acme.owner").run(break_it);
        let before = stage.rows();
        assert_eq!(stage.execute("acme.admin", &id), "failed");
        assert_eq!(stage.state(&id), "failed");
        assert!(stage.why(&id).starts_with(code), "{}", stage.why(&id));
        assert_eq!(stage.rows(), before);
        let error = refused(
            stage.acting("acme.admin", "ai").attempt(&execute(&id)),
            "55000",
        );
        assert!(error.message().contains("failed"), "{error:?}");
    }
}

#[test]
fn who_approves() {
    let stage = Stage::new();
    let app = |who: &str, actor: &str, id: &str| {
        let mut session = stage.acting(who, actor);
        let said = session.attempt(&approve(id));
        if said.is_ok() {
            session.run("COMMIT");
        }
        said
    };
    // (table and change, who proposes, allowed approvers among the roles)
    for (what, may) in [
        (RENAME, &["owner", "admin", "member"][..]),
        (INSERT, &["owner", "admin", "member"]),
        // Limited: nothing destructive, and what one does not hold oneself.
        (DELETE, &["owner", "admin"]),
        (
            "'sites', 'update', 'x', key => '1', payload => '{\"certificate\": \"c\"}'",
            &["owner", "admin"],
        ),
        (
            "'servers', 'update', 'x', key => '1', payload => '{\"cpus\": 2}'",
            &["owner", "admin"],
        ),
        (
            "'sites', 'update', 'x', key => '1', payload => '{\"visits\": 2}', risk => 'destructive'",
            &["owner", "admin"],
        ),
    ] {
        for role in ROLES {
            let id = stage.pending("acme.admin", what);
            for actor in ["ai", "service"] {
                refused(app(&format!("acme.{role}"), actor, &id), "42501");
            }
            let said = app(&format!("acme.{role}"), "human", &id);
            if may.contains(&role) {
                said.unwrap();
                assert_eq!(stage.state(&id), "approved");
            } else {
                refused(said, "42501");
                assert_eq!(stage.state(&id), "pending");
            }
        }
        let id = stage.pending("acme.admin", what);
        refused(
            stage.world.session("globex.owner").attempt(&approve(&id)),
            "P0002",
        );
        refused(
            stage.world.session("globex.owner").attempt(&reject(&id)),
            "P0002",
        );
        refused(
            stage.world.session("acme.viewer").attempt(&reject(&id)),
            "42501",
        );
        refused(
            stage.acting("acme.owner", "ai").attempt(&reject(&id)),
            "42501",
        );
        stage.world.session("acme.member").run(&reject(&id));
        assert_eq!(stage.state(&id), "rejected");
        refused(
            stage.acting("acme.admin", "ai").attempt(&execute(&id)),
            "55000",
        );
        refused(
            stage.world.session("acme.owner").attempt(&approve(&id)),
            "55000",
        );
    }
}

#[test]
fn who_proposes_and_who_executes() {
    let stage = Stage::new();
    refused(
        stage
            .acting("acme.viewer", "ai")
            .attempt(&format!("SELECT tenancy.propose({RENAME})")),
        "42501",
    );
    // What the user may not do, his AI does not propose.
    for what in [
        DELETE,
        "'servers', 'update', 'x', key => '1', payload => '{\"cpus\": 2}'",
        "'sites', 'update', 'x', key => '1', payload => '{\"certificate\": \"c\"}'",
    ] {
        refused(
            stage
                .acting("acme.member", "ai")
                .attempt(&format!("SELECT tenancy.propose({what})")),
            "42501",
        );
    }
    let id = stage
        .ai("acme.admin", &format!("SELECT tenancy.propose({RENAME})"))
        .unwrap();
    refused(
        stage
            .acting("acme.owner", "ai")
            .attempt(&format!("SELECT tenancy.submit_proposal('{id}')")),
        "42501",
    );
    for sql in [approve(&id), reject(&id)] {
        let error = refused(stage.world.session("acme.owner").attempt(&sql), "55000");
        assert!(
            error.message().contains("draft") && error.detail().unwrap().contains("pending"),
            "{error:?}"
        );
    }
    stage.ai(
        "acme.admin",
        &format!("SELECT tenancy.submit_proposal('{id}')"),
    );
    let error = refused(
        stage.acting("acme.admin", "ai").attempt(&execute(&id)),
        "55000",
    );
    assert!(
        error.message().contains("pending") && error.detail().unwrap().contains("approved"),
        "{error:?}"
    );
    stage.world.session("acme.owner").run(&approve(&id));
    refused(
        stage
            .acting("acme.admin", "ai")
            .attempt(&format!("SELECT tenancy.submit_proposal('{id}')")),
        "55000",
    );
    // The AI of another user, a person, a service, another organization.
    refused(
        stage.acting("acme.owner", "ai").attempt(&execute(&id)),
        "42501",
    );
    refused(
        stage.acting("acme.admin", "human").attempt(&execute(&id)),
        "42501",
    );
    refused(
        stage.acting("acme.admin", "service").attempt(&execute(&id)),
        "42501",
    );
    refused(
        stage.acting("globex.admin", "ai").attempt(&execute(&id)),
        "P0002",
    );
    refused(stage.world.nobody().attempt(&execute(&id)), "42501");
    assert_eq!(stage.execute("acme.admin", &id), "completed");
}

#[test]
fn a12_proposals_are_seen_in_their_organization_by_who_works_with_the_ai() {
    let stage = Stage::new();
    let id = stage.pending("acme.admin", RENAME);
    for (who, seen) in [
        ("acme.owner", 1),
        ("acme.admin", 1),
        ("acme.member", 1),
        ("acme.viewer", 0),
        ("globex.owner", 0),
    ] {
        let mut session = stage.world.session(who);
        assert_eq!(
            session.count("SELECT count(*) FROM tenancy.proposals"),
            seen,
            "{who}"
        );
        assert_eq!(
            session.count("SELECT count(*) FROM tenancy.proposal_records"),
            seen,
            "{who}"
        );
        for sql in [
            "UPDATE tenancy.proposal_records SET state = 'approved'",
            "DELETE FROM tenancy.proposal_records",
            "UPDATE tenancy.proposals SET risk = 'safe'",
        ] {
            fails(session.attempt(sql), "42501");
        }
    }
    // One of another organization answers like none.
    let mut other = stage.world.session("globex.owner");
    let there = refused(other.attempt(&approve(&id)), "P0002");
    let none = refused(
        other.attempt(&approve("00000000-0000-0000-0000-000000000001")),
        "P0002",
    );
    pg_tenancy_tests::assert_same_error(
        &none,
        &there,
        &[(&id, "00000000-0000-0000-0000-000000000001")],
    );
}

#[test]
fn what_is_proposed_is_looked_at() {
    let stage = Stage::new();
    let mut ai = stage.acting("acme.admin", "ai");
    for (what, code) in [
        ("'sites', 'upsert', 's'", "22023"),
        ("'sites', 'delete', 's'", "22004"),
        (
            "'sites', 'delete', 's', key => '1', payload => '{}'",
            "22023",
        ),
        ("'sites', 'delete', ' ', key => '1'", "22023"),
        ("'sites', 'delete', 's', key => '99'", "P0002"),
        ("'sites', 'delete', 's', key => '101'", "P0002"),
        (
            "'sites', 'delete', 's', key => '1', risk => 'none'",
            "22023",
        ),
        (
            "'sites', 'delete', 's', key => '1', action => 'site:read'",
            "22023",
        ),
        (
            "'sites', 'delete', 's', key => '1', action => 'site:raed'",
            "22023",
        ),
        (
            "'sites', 'delete', 's', key => '1', expires_in => '0'",
            "22023",
        ),
        (
            "'sites', 'delete', 's', key => '1', expires_in => '32 days'",
            "22023",
        ),
        (
            "'sites', 'insert', 's', key => '1', payload => '{}'",
            "22023",
        ),
        ("'sites', 'insert', 's', payload => '[]'", "22023"),
        ("'sites', 'insert', 's'", "22023"),
        (
            "'sites', 'update', 's', key => '1', payload => '{}'",
            "22023",
        ),
        (
            "'sites', 'update', 's', key => '1', payload => '{\"id\": 2}'",
            "22023",
        ),
        (
            "'sites', 'update', 's', key => '1', payload => '{\"org_id\": null}'",
            "22023",
        ),
        (
            "'sites', 'update', 's', key => '1', payload => '{\"nam\": 1}'",
            "42703",
        ),
        ("'regions', 'delete', 's', key => 'eu'", "55000"),
        ("NULL, 'delete', 's', key => 'eu'", "22004"),
    ] {
        refused(
            ai.attempt_within(&format!("SELECT tenancy.propose({what})")),
            code,
        );
    }
    fails(ai.attempt_within("SELECT tenancy.propose('sites', 'update', 's', key => '1', payload => '{\"visits\": \"many\"}')"), "22P02");
    fails(
        ai.attempt_within("SELECT tenancy.propose('sites', 'delete', 's', key => 'one')"),
        "22P02",
    );
    // The risk is what the change is, and may be raised.
    for (what, risk) in [
        (INSERT.to_string(), "safe"),
        (RENAME.to_string(), "caution"),
        (format!("{RENAME}, risk => 'safe'"), "caution"),
        (format!("{RENAME}, risk => 'destructive'"), "destructive"),
        (DELETE.to_string(), "destructive"),
        (format!("{DELETE}, risk => 'caution'"), "destructive"),
    ] {
        let id = ai.text(&format!("SELECT tenancy.propose({what})"));
        assert_eq!(
            ai.text(&format!(
                "SELECT risk FROM tenancy.proposals WHERE id = '{id}'"
            )),
            risk,
            "{what}"
        );
    }
    let id = ai.text("SELECT tenancy.propose('sites', 'update', 's', key => '1', payload => '{\"certificate\": \"c\"}', action => 'server:firewall')");
    assert_eq!(ai.text(&format!("SELECT action || ' ' || (key::text) || ' ' || (payload::text) FROM tenancy.proposals WHERE id = '{id}'")), "server:firewall {\"id\": 1} {\"certificate\": \"c\"}");
}

#[test]
fn values_and_keys_of_any_type_come_through() {
    let stage = Stage::new();
    stage.world.superuser().run(
        "CREATE TABLE things (at timestamptz, org_id uuid, n numeric, \"odd \"\" name\" text[], j jsonb, d date DEFAULT '2020-02-01',
             PRIMARY KEY (org_id, at, n)) PARTITION BY RANGE (n);
         CREATE TABLE things_low PARTITION OF things FOR VALUES FROM (0) TO (10);
         CREATE TABLE things_high PARTITION OF things DEFAULT;
         GRANT ALL ON things TO PUBLIC; SELECT tenancy.protect('things')",
    );
    let mut owner = stage.world.session("acme.owner");
    owner.run("INSERT INTO things (at, n) VALUES ('2020-02-01 10:00+00', 12345678901234567890.123456789), ('2020-02-01 10:00+00', 2)");
    let key = |n: &str| {
        format!(
            "{{\"org_id\": \"{}\", \"at\": \"2020-02-01 10:00+00\", \"n\": {n}}}",
            stage.world.acme.id
        )
    };
    let what = format!(
        "'things', 'update', 's', key => {}, payload => {}",
        quote(&key("12345678901234567890.123456789")),
        quote(
            "{\"odd \\\" name\": [\"a\", \"b,c\"], \"j\": {\"deep\": [1, 12345678901234567890.123456789]}, \"d\": \"2021-03-04\"}"
        )
    );
    let id = stage.approved("acme.member", &what);
    // Whatever the session's settings are by then.
    let mut ai = stage.acting("acme.member", "ai");
    ai.run("SET LOCAL datestyle = 'SQL, DMY'; SET LOCAL timezone = 'Asia/Tokyo'");
    assert_eq!(ai.text(&execute(&id)), "completed");
    ai.run("COMMIT");
    assert_eq!(
        owner.column("SELECT concat_ws(' ', \"odd \"\" name\", j, d) FROM things ORDER BY n"),
        [
            "2020-02-01",
            "{a,\"b,c\"} {\"deep\": [1, 12345678901234567890.123456789]} 2021-03-04"
        ]
    );
    // A row without values of its own, and one that a partition holds.
    let id = stage.approved(
        "acme.member",
        "'things', 'insert', 's', payload => '{\"at\": \"2020-02-01\", \"n\": 3.50}'",
    );
    assert_eq!(stage.execute("acme.member", &id), "completed");
    let id = stage.approved(
        "acme.member",
        &format!("'things', 'delete', 's', key => {}", quote(&key("2"))),
    );
    assert_eq!(stage.execute("acme.member", &id), "completed");
    assert_eq!(
        owner.column("SELECT n FROM things ORDER BY n"),
        ["3.50", "12345678901234567890.123456789"]
    );
}

#[test]
fn c1_a_row_that_moves_between_partitions_is_one_change() {
    let stage = Stage::new();
    stage.world.superuser().run(
        "CREATE TABLE parts (id int, org_id uuid, place text, UNIQUE (id, place), PRIMARY KEY (place, id)) PARTITION BY LIST (place);
         CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN ('a'); CREATE TABLE parts_b PARTITION OF parts FOR VALUES IN ('b');
         CREATE TABLE inherited (id int PRIMARY KEY, org_id uuid, v int);
         GRANT ALL ON parts, parts_a, parts_b, inherited TO PUBLIC; SELECT tenancy.protect('parts'); SELECT tenancy.protect('inherited')",
    );
    let mut owner = stage.world.session("acme.owner");
    owner.run("INSERT INTO parts (id, place) VALUES (1, 'a'), (2, 'b')");
    // The key is part of the place: such a change is not proposed.
    refused(stage.acting("acme.admin", "ai").attempt("SELECT tenancy.propose('parts', 'update', 's', key => '{\"place\": \"a\", \"id\": 1}', payload => '{\"place\": \"b\"}')"), "22023");
    // By a partition's name it is the same table's row.
    let id = stage.approved(
        "acme.admin",
        "'parts_a', 'delete', 's', key => '{\"id\": 1, \"place\": \"a\"}'",
    );
    assert_eq!(stage.execute("acme.admin", &id), "completed");
    assert_eq!(owner.column("SELECT place FROM parts"), ["b"]);
}

#[test]
fn an_approval_is_worth_what_its_approver_is() {
    let stage = Stage::new();
    let set = |role: &str| {
        stage.world.session("acme.owner").run(&format!(
            "SELECT tenancy.set_member_role('{}', '{}', '{role}')",
            stage.world.acme.id,
            stage.world.user("acme.admin")
        ))
    };
    // Demoted to where it is limited, to where it is not, and gone.
    let by_admin = |what: &str| {
        let id = stage.pending("acme.owner", what);
        stage.world.session("acme.admin").run(&approve(&id));
        id
    };
    let [rename, delete, insert] = [RENAME, DELETE, INSERT].map(by_admin);
    set("member");
    refused(
        stage.acting("acme.owner", "ai").attempt(&execute(&delete)),
        "42501",
    );
    assert_eq!(stage.state(&delete), "approved");
    assert_eq!(stage.execute("acme.owner", &rename), "completed");
    set("viewer");
    refused(
        stage.acting("acme.owner", "ai").attempt(&execute(&insert)),
        "42501",
    );
    stage.world.remove("acme.admin");
    refused(
        stage.acting("acme.owner", "ai").attempt(&execute(&insert)),
        "42501",
    );
    // And the change is worth what the proposer's user is.
    let id = stage.approved("acme.member", RENAME);
    stage.world.session("acme.owner").run(&format!(
        "SELECT tenancy.set_member_role('{}', '{}', 'viewer')",
        stage.world.acme.id,
        stage.world.user("acme.member")
    ));
    refused(
        stage.acting("acme.member", "ai").attempt(&execute(&id)),
        "42501",
    );
    stage.world.remove("acme.member");
    refused(
        stage.acting("acme.member", "ai").attempt(&execute(&id)),
        "42501",
    );
}

#[test]
fn a10_an_approver_who_goes_while_the_change_waits_approved_nothing() {
    let stage = Stage::new();
    let id = stage.pending("acme.owner", RENAME);
    stage.world.session("acme.admin").run(&approve(&id));
    let before = stage.rows();
    let mut holder = stage.world.session("acme.owner");
    holder.run("BEGIN; SELECT 1 FROM sites WHERE id = 1 FOR UPDATE");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| stage.execute("acme.owner", &id));
        std::thread::sleep(std::time::Duration::from_millis(500));
        stage.world.remove("acme.admin");
        holder.run("COMMIT");
        assert_eq!(waiting.join().unwrap(), "failed");
    });
    assert!(stage.why(&id).contains("approver"), "{}", stage.why(&id));
    assert_eq!(stage.rows(), before);
    // And a decision that waited for another one of somebody who is gone.
    let id = stage.pending("acme.owner", RENAME);
    let mut holder = stage.world.superuser();
    holder.run(&format!(
        "BEGIN; SELECT 1 FROM tenancy.proposal_records WHERE id = '{id}' FOR UPDATE"
    ));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| stage.world.session("acme.member").attempt(&approve(&id)));
        std::thread::sleep(std::time::Duration::from_millis(500));
        stage.world.remove("acme.member");
        holder.run("COMMIT");
        refused(waiting.join().unwrap(), "42501");
    });
    assert_eq!(stage.state(&id), "pending");
}

#[test]
fn a_proposal_expires_at_every_step() {
    let stage = Stage::new();
    let propose = format!("SELECT tenancy.propose({RENAME}, expires_in => '1 hour')");
    let [draft, pending, approved] = [(); 3].map(|()| stage.ai("acme.admin", &propose).unwrap());
    for id in [&pending, &approved] {
        stage.ai(
            "acme.admin",
            &format!("SELECT tenancy.submit_proposal('{id}')"),
        );
    }
    // The clock is ours, whatever the machine does.
    let lasts = "SELECT bool_and(expires_at - created_at BETWEEN '59 minutes' AND '1 hour') FROM tenancy.proposals";
    assert!(stage.world.session("acme.owner").is_true(lasts));
    stage.world.session("acme.owner").run(&approve(&approved));
    stage
        .world
        .superuser()
        .run("UPDATE tenancy.proposal_records SET expires_at = now()");
    for id in [&draft, &pending, &approved] {
        assert_eq!(stage.state(id), "expired");
    }
    for (id, who, actor, sql) in [
        (
            &draft,
            "acme.admin",
            "ai",
            format!("SELECT tenancy.submit_proposal('{draft}')"),
        ),
        (&pending, "acme.owner", "human", approve(&pending)),
        (&pending, "acme.owner", "human", reject(&pending)),
        (&approved, "acme.admin", "ai", execute(&approved)),
    ] {
        let error = refused(stage.acting(who, actor).attempt(&sql), "55000");
        assert!(error.message().contains("expired"), "{id} {error:?}");
    }
    // While it waits, too.
    let id = stage.approved("acme.admin", RENAME);
    let before = stage.rows();
    let mut holder = stage.world.session("acme.owner");
    holder.run("BEGIN; SELECT 1 FROM sites WHERE id = 1 FOR UPDATE");
    stage.world.superuser().run(&format!("UPDATE tenancy.proposal_records SET expires_at = clock_timestamp() + interval '900 milliseconds' WHERE id = '{id}'"));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| stage.execute("acme.admin", &id));
        std::thread::sleep(std::time::Duration::from_millis(1500));
        holder.run("COMMIT");
        assert_eq!(waiting.join().unwrap(), "failed");
    });
    assert!(stage.why(&id).contains("expired"), "{}", stage.why(&id));
    assert_eq!(stage.rows(), before);
}

#[test]
fn production_is_closed_to_proposals_where_it_is_protected_and_destructive_where_not() {
    let stage = Stage::new();
    stage.world.superuser().run(
        "CREATE TABLE machines (id int PRIMARY KEY, org_id uuid, name text, environment text DEFAULT 'production');
         CREATE TABLE disks (id int PRIMARY KEY, org_id uuid, machine_id int REFERENCES machines ON DELETE CASCADE);
         GRANT ALL ON machines, disks TO PUBLIC;
         SELECT tenancy.protect('machines', environment_column => 'environment'); SELECT tenancy.protect('disks', environment_from => 'machine_id')",
    );
    let mut owner = stage.world.session("acme.owner");
    owner.run("INSERT INTO machines (id, environment) VALUES (1, 'production'), (2, 'staging'), (3, 'staging'); INSERT INTO disks (id, machine_id) VALUES (1, 1), (2, 2)");
    let risk = |id: &str| {
        stage.world.session("acme.owner").text(&format!(
            "SELECT risk FROM tenancy.proposals WHERE id = '{id}'"
        ))
    };
    let touch = |id: i32| {
        format!("'machines', 'update', 's', key => '{id}', payload => '{{\"name\": \"x\"}}'")
    };
    let destructive = [
        touch(1),
        "'machines', 'update', 's', key => '2', payload => '{\"environment\": \"production\"}'"
            .into(),
        "'machines', 'insert', 's', payload => '{\"id\": 9, \"environment\": \"production\"}'"
            .into(),
        "'disks', 'insert', 's', payload => '{\"id\": 9, \"machine_id\": 1}'".into(),
        "'disks', 'update', 's', key => '2', payload => '{\"machine_id\": 1}'".into(),
        "'disks', 'update', 's', key => '1', payload => '{\"machine_id\": 2}'".into(),
    ];
    let ids: Vec<String> = destructive
        .iter()
        .map(|what| stage.approved_whatever("acme.admin", what))
        .collect();
    for id in &ids {
        assert_eq!(risk(id), "destructive");
    }
    // Approved as harmless, and production by now, or by its default.
    let calm = stage.approved_whatever("acme.admin", &touch(2));
    let by_default = stage.approved(
        "acme.admin",
        "'machines', 'insert', 's', payload => '{\"id\": 8}'",
    );
    assert_eq!(
        (risk(&calm), risk(&by_default)),
        ("caution".into(), "safe".into())
    );
    let late = stage.approved("acme.admin", &touch(3));
    owner.run("UPDATE machines SET environment = 'production' WHERE id = 2");
    for id in [&calm, &by_default] {
        assert_eq!(stage.execute("acme.admin", id), "failed");
        assert!(stage.why(id).starts_with("42501"), "{}", stage.why(id));
    }
    assert_eq!(stage.execute("acme.admin", &ids[0]), "completed");
    owner.run(&format!(
        "SELECT tenancy.set_production_protection('{}', true)",
        stage.world.acme.id
    ));
    let hash = |table: &str| stage.world.hash(table, stage.world.acme);
    let before = [hash("machines"), hash("disks")];
    for id in &ids[1..] {
        assert_eq!(stage.execute("acme.admin", id), "failed");
        assert!(
            stage.why(id).contains("production rows"),
            "{}",
            stage.why(id)
        );
    }
    let gone = stage.approved("acme.admin", "'machines', 'delete', 's', key => '1'");
    assert_eq!(stage.execute("acme.admin", &gone), "failed");
    assert_eq!([hash("machines"), hash("disks")], before);
    assert_eq!(stage.execute("acme.admin", &late), "completed");
    // A cascade that reaches production is production's.
    owner.run("INSERT INTO machines (id, environment) VALUES (10, 'staging')");
    stage.world.superuser().run("CREATE TABLE notes (id int PRIMARY KEY, org_id uuid, tag text, machine_id int REFERENCES machines ON DELETE CASCADE); GRANT ALL ON notes TO PUBLIC; SELECT tenancy.protect('notes', environment_column => 'tag')");
    owner.run("INSERT INTO notes (id, tag, machine_id) VALUES (1, 'production', 10)");
    let id = stage.approved("acme.admin", "'machines', 'delete', 's', key => '10'");
    assert_eq!(stage.execute("acme.admin", &id), "failed");
    assert!(
        stage.why(&id).contains("production rows"),
        "{}",
        stage.why(&id)
    );
}

#[test]
fn an_ai_actor_governs_nothing() {
    let stage = Stage::new();
    let (org, user, other) = (
        stage.world.acme.id,
        stage.world.user("acme.member"),
        stage.world.user("stranger"),
    );
    for sql in [
        format!("SELECT tenancy.add_member('{org}', '{other}', 'viewer')"),
        format!("SELECT tenancy.set_member_role('{org}', '{user}', 'admin')"),
        format!("SELECT tenancy.remove_member('{org}', '{user}')"),
        format!("SELECT tenancy.transfer_ownership('{org}', '{user}')"),
        format!("SELECT tenancy.invite('{org}', 'a@b.test', 'viewer')"),
        format!("SELECT tenancy.set_production_protection('{org}', true)"),
        "SELECT tenancy.create_org('More', 'more')".into(),
        "SELECT tenancy.accept_invitation('x')".into(),
    ] {
        let error = refused(stage.acting("acme.owner", "ai").attempt(&sql), "42501");
        assert!(error.message().contains("AI actor"), "{sql}: {error:?}");
    }
    let mut dba = stage.world.superuser();
    dba.run("SET app.actor_type = 'ai'");
    refused(dba.attempt("SELECT tenancy.begin_migration('x')"), "42501");
    refused(
        dba.attempt(&format!("SELECT tenancy.bind_login('postgres', '{user}')")),
        "42501",
    );
}

/// Many at once, on many proposals: each is decided once, executed at most once, and never when it was rejected.
#[test]
fn f_many_approvers_rejecters_and_executors_at_once() {
    const PROPOSALS: usize = 24;
    let stage = Stage::new();
    stage.world.session("acme.owner").run("INSERT INTO sites (id, name, visits) SELECT 1000 + i, 'counted', 0 FROM generate_series(0, 23) i");
    // Each counts its row up by one where it is executed: twice would show.
    stage.world.superuser().run(
        "CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.visits := OLD.visits + 1; RETURN NEW; END $$;
         CREATE TRIGGER count_up BEFORE UPDATE ON sites FOR EACH ROW WHEN (OLD.id >= 1000) EXECUTE FUNCTION count_up()",
    );
    let ids: Vec<String> = (0..PROPOSALS)
        .map(|i| {
            stage.pending(
                "acme.admin",
                &format!(
                    "'sites', 'update', 's', key => '{}', payload => '{{\"name\": \"counted\"}}'",
                    1000 + i
                ),
            )
        })
        .collect();
    let start = Barrier::new(32);
    let counts: Vec<[Vec<&str>; 3]> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..32)
            .map(|client| {
                let (stage, ids, start) = (&stage, &ids, &start);
                scope.spawn(move || {
                    let mut session = match client % 4 {
                        0 => stage.world.session("acme.owner"),
                        1 => stage.world.session("acme.member"),
                        _ => stage.world.app(),
                    };
                    let (mut approved, mut rejected, mut executed) = (vec![], vec![], vec![]);
                    start.wait();
                    for round in 0..3 {
                        for n in 0..ids.len() {
                            let id = ids[(n + client * 7) % ids.len()].as_str();
                            if client % 4 < 2 {
                                let rejects = (client / 4 + n + round) % 2 == 0;
                                let sql = if rejects { reject(id) } else { approve(id) };
                                match session.attempt(&sql) {
                                    Ok(_) if rejects => rejected.push(id),
                                    Ok(_) => approved.push(id),
                                    Err(error) => {
                                        let error = refused(Err::<(), _>(error), "55000");
                                        assert!(
                                            ["approved", "rejected", "completed"]
                                                .iter()
                                                .any(|s| error.message().contains(s)),
                                            "{error:?}"
                                        );
                                    }
                                }
                            } else {
                                stage.begin(&mut session, "acme.admin", "ai");
                                match session.try_rows(&execute(id)) {
                                    Ok(rows) => {
                                        assert_eq!(rows[0][0].as_deref(), Some("completed"));
                                        executed.push(id);
                                        session.run("COMMIT");
                                    }
                                    Err(error) => {
                                        refused(Err::<(), _>(error), "55000");
                                        session.run("ROLLBACK");
                                    }
                                }
                            }
                        }
                    }
                    [approved, rejected, executed]
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let mut some = (0, 0);
    for (i, id) in ids.iter().enumerate() {
        let count = |which: usize| -> usize {
            counts
                .iter()
                .map(|done| {
                    done[which]
                        .iter()
                        .filter(|one| **one == id.as_str())
                        .count()
                })
                .sum()
        };
        let (approved, rejected, executed) = (count(0), count(1), count(2));
        assert_eq!(approved + rejected, 1, "{id}");
        assert!(executed <= approved, "{id}");
        some.0 += executed;
        some.1 += rejected;
        let visits = stage
            .world
            .session("acme.owner")
            .count(&format!("SELECT visits FROM sites WHERE id = {}", 1000 + i));
        assert_eq!(visits as usize, executed, "{id}");
        let state = stage.state(id);
        let expected = match (approved, executed) {
            (0, _) => "rejected",
            (_, 1) => "completed",
            _ => "approved",
        };
        assert_eq!(state, expected, "{id}");
    }
    assert!(some.0 > 0 && some.1 > 0, "{some:?}");
}

/// A membership that is limited to resources decides nothing for the organization, and sees none of its proposals.
#[test]
fn a_limited_membership_sees_and_approves_none() {
    let world = World::unprotected();
    world.superuser().run(
        "SELECT tenancy.protect('servers', resource_type => 'server'); SELECT tenancy.protect('sites')",
    );
    let stage = Stage { world };
    let id = stage.pending("acme.owner", RENAME);
    stage.world.superuser().run(&format!(
        "SELECT tenancy.set_scope('{}', '{}', 'servers', '1')",
        stage.world.acme.id,
        stage.world.user("acme.admin")
    ));
    let mut admin = stage.world.session("acme.admin");
    assert_eq!(admin.count("SELECT count(*) FROM tenancy.proposals"), 0);
    refused(admin.attempt(&approve(&id)), "42501");
    assert_eq!(stage.state(&id), "pending");
}

/// Rows of a restricted project are no more in a proposal than in their table, and its approval is not the org role's to give.
#[test]
fn proposals_about_a_hidden_projects_rows_are_hidden() {
    let stage = Stage::new();
    let org = stage.world.acme.id;
    let mut dba = stage.world.superuser();
    let project = dba.text(&format!(
        "SELECT tenancy.create_project('{org}', 'closed', 'restricted')"
    ));
    dba.run(
        "CREATE TABLE jobs (id int PRIMARY KEY, org_id uuid, project_id uuid, title text); GRANT ALL ON jobs TO PUBLIC;
         SELECT tenancy.protect('jobs', project_column => 'project_id')",
    );
    let id = stage.pending(
        "acme.admin",
        &format!("'jobs', 'insert', 'new', payload => '{{\"id\": 70, \"project_id\": \"{project}\", \"title\": \"secret\"}}'"),
    );
    let seen = "SELECT count(*) FROM tenancy.proposals";
    assert_eq!(stage.world.session("acme.admin").count(seen), 1);
    let mut member = stage.world.session("acme.member");
    assert_eq!(member.count(seen), 0);
    fails(member.attempt(&approve(&id)), "P0002");
    // In the project he sees nothing of the others, and approves by a limited right nothing whose rows have projects.
    dba.run(&format!(
        "SELECT tenancy.add_project_member('{project}', '{}', 'project_viewer')",
        stage.world.user("acme.member")
    ));
    assert_eq!(member.count(seen), 1);
    refused(member.attempt(&approve(&id)), "42501");
    assert_eq!(stage.state(&id), "pending");
}
