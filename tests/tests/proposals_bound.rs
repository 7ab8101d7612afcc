//! An approval is for what was looked at (spec 8): the row as it was, the table as it was, and the proposal itself.

use std::time::Duration;

use pg_tenancy_tests::stage::{DELETE, INSERT, RENAME, Stage, approve, execute};
use pg_tenancy_tests::{fails, quote, refused};

fn accept(id: &str) -> String {
    format!("SELECT tenancy.approve_proposal('{id}', on_change => 'accept')")
}

#[test]
fn an_approval_is_for_the_row_as_it_was_proposed() {
    let stage = Stage::new();
    let mut owner = stage.world.session("acme.owner");
    let renamed = |name: &str| {
        format!("'sites', 'update', 's', key => '1', payload => '{{\"name\": \"{name}\"}}'")
    };
    // Changed before the decision, in a column that the proposal does not name.
    let id = stage.pending("acme.admin", &renamed("a"));
    owner.run("UPDATE sites SET visits = visits + 1 WHERE id = 1");
    let error = refused(owner.attempt(&approve(&id)), "55000");
    assert!(error.message().contains("has changed since"), "{error:?}");
    assert_eq!(stage.state(&id), "pending");
    refused(
        owner.attempt(&format!(
            "SELECT tenancy.approve_proposal('{id}', on_change => 'maybe')"
        )),
        "22023",
    );
    fails(
        owner.attempt(&format!(
            "SELECT tenancy.approve_proposal('{id}', on_change => NULL)"
        )),
        "22004",
    );
    owner.run(&accept(&id));
    owner.run("UPDATE sites SET visits = visits + 1 WHERE id = 1");
    assert_eq!(stage.execute("acme.admin", &id), "completed");
    assert_eq!(
        owner.text("SELECT on_change FROM tenancy.proposals"),
        "accept"
    );

    // After it: an update, another row with the key, a row whose other columns are NULL now, one that is gone.
    for (what, meanwhile, code, says) in [
        (
            RENAME,
            "UPDATE sites SET visits = visits + 1 WHERE id = 1",
            "55000",
            "has changed since",
        ),
        (
            DELETE,
            "UPDATE sites SET visits = visits + 1 WHERE id = 2",
            "55000",
            "has changed since",
        ),
        (
            DELETE,
            "UPDATE sites SET server_id = NULL WHERE id = 2",
            "55000",
            "has changed since",
        ),
        (
            DELETE,
            "DELETE FROM sites WHERE id = 2; INSERT INTO sites (id, name) VALUES (2, 'another')",
            "55000",
            "has changed since",
        ),
        (
            RENAME,
            "UPDATE sites SET id = 77 WHERE id = 1; UPDATE sites SET id = 1 WHERE id = 3",
            "55000",
            "has changed since",
        ),
        (DELETE, "DELETE FROM sites WHERE id = 2", "P0002", "0 rows"),
    ] {
        let id = stage.approved("acme.admin", what);
        owner.run(meanwhile);
        let before = stage.rows();
        assert_eq!(stage.execute("acme.admin", &id), "failed", "{meanwhile}");
        let why = stage.why(&id);
        assert!(why.starts_with(code) && why.contains(says), "{why}");
        assert_eq!(stage.rows(), before, "{meanwhile}");
        // It is written down, and over.
        let acts = owner.json(&format!(
            "SELECT new FROM tenancy.audit_log WHERE operation = 'execute_proposal' AND key->>'id' = '{id}'"
        ));
        assert_eq!(acts.len(), 1);
        assert_eq!(acts[0]["new"]["state"], "failed");
        let by = stage.world.user("acme.owner").to_string();
        assert_eq!(acts[0]["new"]["approver"], by.as_str());
        refused(
            stage.acting("acme.admin", "ai").attempt(&execute(&id)),
            "55000",
        );
    }

    // What is as it was is the row that was approved: touched, changed and changed back, made anew alike.
    for meanwhile in [
        "UPDATE sites SET visits = visits WHERE id = 4",
        "UPDATE sites SET visits = 0 WHERE id = 4; UPDATE sites SET visits = 40 WHERE id = 4",
        "CREATE TEMP TABLE kept AS SELECT * FROM sites WHERE id = 4; DELETE FROM sites WHERE id = 4; INSERT INTO sites SELECT * FROM kept",
        "SELECT 1 FROM sites WHERE id = 4 FOR UPDATE",
    ] {
        let id = stage.approved(
            "acme.admin",
            "'sites', 'update', 's', key => '4', payload => '{\"visits\": 40}'",
        );
        owner.run(meanwhile);
        assert_eq!(stage.execute("acme.admin", &id), "completed", "{meanwhile}");
    }
}

#[test]
fn a_row_that_changes_while_the_change_waits_for_it_is_another() {
    let stage = Stage::new();
    for (what, accepts) in [(RENAME, false), (DELETE, false), (RENAME, true)] {
        let id = match accepts {
            true => stage.approved_whatever("acme.admin", what),
            false => stage.approved("acme.admin", what),
        };
        let mut holder = stage.world.session("acme.owner");
        holder.run("BEGIN; UPDATE sites SET visits = visits + 1 WHERE id IN (1, 2)");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| stage.execute("acme.admin", &id));
            std::thread::sleep(Duration::from_millis(400));
            assert!(!waiting.is_finished());
            holder.run("COMMIT");
            let state = if accepts { "completed" } else { "failed" };
            assert_eq!(waiting.join().unwrap(), state);
        });
        if !accepts {
            assert!(stage.why(&id).contains("has changed since"));
        }
    }
    // Under a snapshot of before, PostgreSQL refuses by itself, and it may be tried again.
    let id = stage.approved_whatever("acme.admin", RENAME);
    let mut ai = stage.world.app();
    ai.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    ai.run(&stage.world.claim(stage.world.acme, "acme.admin"));
    ai.run("SET LOCAL app.actor_type = 'ai'; SELECT count(*) FROM sites");
    stage
        .world
        .session("acme.owner")
        .run("UPDATE sites SET visits = 7 WHERE id = 1");
    fails(ai.attempt(&execute(&id)), "40001");
    ai.run("ROLLBACK");
    assert_eq!(stage.state(&id), "approved");
    assert_eq!(stage.execute("acme.admin", &id), "completed");
}

const BOUND: &str =
    "CREATE TABLE bound (id int PRIMARY KEY, org_id uuid, low int, high int, note text, seen text);
     GRANT ALL ON bound TO PUBLIC; SELECT tenancy.protect('bound')";

/// DDL between the decision and the execution, and between the proposal and the decision.
#[test]
fn an_approval_is_for_the_table_as_it_was_proposed() {
    let changed = "has changed since the change was proposed";
    for (ddl, says) in [
        ("ALTER TABLE bound RENAME low TO lower", changed),
        // Another column takes the name over.
        (
            "ALTER TABLE bound RENAME low TO was; ALTER TABLE bound RENAME high TO low",
            changed,
        ),
        (
            "ALTER TABLE bound DROP low; ALTER TABLE bound ADD low int",
            changed,
        ),
        ("ALTER TABLE bound DROP low", changed),
        ("ALTER TABLE bound ALTER low TYPE bigint", changed),
        ("ALTER TABLE bound ALTER seen TYPE varchar(3)", changed),
        // Columns that it does not name are part of what was seen.
        ("ALTER TABLE bound RENAME note TO remark", changed),
        ("ALTER TABLE bound DROP note", changed),
        (
            "ALTER TABLE bound DROP CONSTRAINT bound_pkey; ALTER TABLE bound ADD PRIMARY KEY (id, org_id)",
            changed,
        ),
        ("ALTER TABLE bound DROP CONSTRAINT bound_pkey", changed),
        (
            "SELECT tenancy.unprotect('bound'); SELECT tenancy.protect('bound', permissions => '{\"update\": \"server:update\"}')",
            changed,
        ),
        (
            "SELECT tenancy.unprotect('bound'); SELECT tenancy.protect('bound', permissions => '{\"columns\": {\"low\": \"server:firewall\"}}')",
            changed,
        ),
        ("SELECT tenancy.unprotect('bound')", "is not protected"),
        (
            "ALTER TABLE bound RENAME TO unbound",
            "not the one that was approved",
        ),
        ("DROP TABLE bound", "no such proposal"),
        // What does not touch what was seen.
        ("ALTER TABLE bound ADD extra text DEFAULT 'x'", ""),
        (
            "ALTER TABLE bound ADD extra text DEFAULT random()::text",
            "",
        ),
        ("SELECT tenancy.protect('bound')", ""),
        (
            "SELECT tenancy.unprotect('bound'); SELECT tenancy.protect('bound', audit => false)",
            "",
        ),
        (
            "CREATE INDEX ON bound (note); ALTER TABLE bound ALTER high SET DEFAULT 5",
            "",
        ),
    ] {
        let stage = Stage {
            world: pg_tenancy_tests::World::people(),
        };
        let mut dba = stage.world.superuser();
        dba.run(BOUND);
        stage
            .world
            .session("acme.owner")
            .run("INSERT INTO bound VALUES (1, tenancy.current_org(), 1, 2, 'n', 's')");
        let what = |operation: &str| match operation {
            "update" => "'bound', 'update', 's', key => '1', payload => '{\"low\": 7}'".to_string(),
            "delete" => "'bound', 'delete', 's', key => '1'".to_string(),
            _ => "'bound', 'insert', 's', payload => '{\"id\": 9, \"low\": 7}'".to_string(),
        };
        let pending = stage.pending("acme.admin", &what("update"));
        let all = ["update", "insert", "delete"].map(|o| stage.approved("acme.admin", &what(o)));
        let rows = "SELECT string_agg(t::text, ' ') FROM bound t";
        dba.run(ddl);
        let mut glass = stage.world.break_glass();
        let before = glass.try_rows(rows).ok();
        let mut owner = stage.world.session("acme.owner");
        if says.is_empty() {
            owner.run(&approve(&pending));
        } else if !ddl.contains("RENAME TO") {
            // To whom the table's rows show no more, neither does the proposal.
            let code = if ddl.contains("DROP TABLE") || says.contains("not protected") {
                "P0002"
            } else {
                "55000"
            };
            let error = refused(owner.attempt(&approve(&pending)), code);
            assert!(
                code == "P0002" || error.message().contains(says),
                "{ddl} {error:?}"
            );
        }
        for id in &all {
            if says.is_empty() {
                // The last one deletes the row; each is for the row of before.
                let state = stage.execute("acme.admin", id);
                let expected = if *id == all[2] { "failed" } else { "completed" };
                assert_eq!(state, expected, "{ddl} {}", stage.why(id));
            } else {
                let mut ai = stage.acting("acme.admin", "ai");
                assert_eq!(ai.text(&execute(id)), "failed", "{ddl}");
                ai.run("COMMIT");
                let why = stage.world.superuser().text(&format!(
                    "SELECT error FROM tenancy.proposal_records WHERE id = '{id}'"
                ));
                let code = why.split(':').next().unwrap().to_string();
                assert!(
                    code == "55000" && (says == "no such proposal" || why.contains(says)),
                    "{ddl} {why}"
                );
            }
        }
        if !says.is_empty() {
            assert_eq!(glass.try_rows(rows).ok(), before, "{ddl}");
        }
    }
}

#[test]
fn c1_a_row_in_a_partition_with_columns_in_another_order() {
    let stage = Stage::new();
    stage.world.superuser().run(
        "CREATE TABLE parts (id int, org_id uuid, place text, v int, w int, PRIMARY KEY (place, id)) PARTITION BY LIST (place);
         CREATE TABLE parts_a (w int, dropped int, v int, place text NOT NULL, org_id uuid, id int NOT NULL);
         ALTER TABLE parts_a DROP dropped; ALTER TABLE parts ATTACH PARTITION parts_a FOR VALUES IN ('a');
         CREATE TABLE parts_b PARTITION OF parts FOR VALUES IN ('b');
         GRANT ALL ON parts, parts_a, parts_b TO PUBLIC; SELECT tenancy.protect('parts')",
    );
    let mut owner = stage.world.session("acme.owner");
    owner.run("INSERT INTO parts (id, place, v, w) VALUES (1, 'a', 10, 20), (2, 'b', 10, 20)");
    for (key, id) in [("a", 1), ("b", 2)] {
        let what = format!(
            "'parts', 'update', 's', key => '{{\"place\": \"{key}\", \"id\": {id}}}', payload => '{{\"v\": 11}}'"
        );
        let good = stage.approved("acme.admin", &what);
        assert_eq!(
            stage.execute("acme.admin", &good),
            "completed",
            "{}",
            stage.why(&good)
        );
        let stale = stage.approved("acme.admin", &what);
        owner.run(&format!("UPDATE parts SET w = 21 WHERE id = {id}"));
        assert_eq!(stage.execute("acme.admin", &stale), "failed");
        assert!(stage.why(&stale).contains("has changed since"));
    }
}

#[test]
fn what_was_approved_is_what_is_stored() {
    let stage = Stage::new();
    for tampered in [
        "payload = '{\"name\": \"other\"}'",
        "payload = '{\"visits\": 1000}'",
        "key = '{\"id\": 3}'",
        "operation = 'delete', payload = NULL",
        "table_name = 'servers'",
        "actions = '{site:read}'",
        "risk = 'safe'",
        "layout = '{}'",
        "layout = layout || '{\"key\": [\"name\"]}'",
        "seen = decode(repeat('00', 48), 'hex')",
        "on_change = 'accept'",
        "approved = NULL, state = 'executing'",
        "approved = 'x'",
    ] {
        let id = stage.approved("acme.admin", RENAME);
        let before = stage.rows();
        stage.world.superuser().run(&format!(
            "UPDATE tenancy.proposal_records SET {tampered} WHERE id = '{id}'"
        ));
        if tampered.contains("executing") {
            refused(
                stage.acting("acme.admin", "ai").attempt(&execute(&id)),
                "55000",
            );
            continue;
        }
        assert_eq!(stage.execute("acme.admin", &id), "failed", "{tampered}");
        let why = stage.why(&id);
        assert!(
            why.starts_with("55000") && why.contains("not the one that was approved"),
            "{tampered} {why}"
        );
        assert_eq!(stage.rows(), before, "{tampered}");
    }
    // Another user's: whose AI executes it is part of it.
    let id = stage.approved("acme.admin", RENAME);
    stage.world.superuser().run(&format!(
        "UPDATE tenancy.proposal_records SET created_by = '{}' WHERE id = '{id}'",
        stage.world.user("acme.owner")
    ));
    assert_eq!(stage.execute("acme.owner", &id), "failed");
    // And no approved one is without its hash.
    fails(
        stage
            .world
            .superuser()
            .attempt("UPDATE tenancy.proposal_records SET state = 'approved', approved = NULL"),
        "23514",
    );
}

#[test]
fn what_is_handed_in_is_not_decided_in_the_same_transaction() {
    let stage = Stage::new();
    let mut app = stage.acting("acme.admin", "ai");
    let id = app.text(&format!("SELECT tenancy.propose({RENAME})"));
    app.run(&format!("SELECT tenancy.submit_proposal('{id}')"));
    app.run("SET LOCAL app.actor_type = 'human'");
    refused(app.attempt_within(&approve(&id)), "55000");
    app.run("SAVEPOINT a");
    refused(app.attempt_within(&approve(&id)), "55000");
    app.run("COMMIT");
    assert_eq!(stage.state(&id), "pending");
    // In person, later, for one's own AI: somebody looked at it.
    stage.world.session("acme.admin").run(&approve(&id));
    assert_eq!(stage.execute("acme.admin", &id), "completed");
    let mut owner = stage.world.session("acme.owner");
    let line = owner.json(
        "SELECT * FROM tenancy.audit_log WHERE object = 'public.sites' AND actor_type = 'ai'",
    );
    let admin = stage.world.user("acme.admin").to_string();
    assert_eq!(
        (&line[0]["actor_id"], &line[0]["approver_id"]),
        (&admin.as_str().into(), &admin.as_str().into())
    );
}

#[test]
fn an_approver_is_shown_what_he_may_see() {
    let stage = Stage::new();
    let shown = |who: &str, id: &str| {
        stage.world.session(who).rows(&format!(
            "SELECT column_name, current, proposed, changes FROM tenancy.show_proposal('{id}')"
        ))
    };
    let row = |name: &str, is: Option<&str>, will: Option<&str>, changes: &str| {
        vec![
            Some(name.into()),
            is.map(String::from),
            will.map(String::from),
            Some(changes.into()),
        ]
    };
    let acme = stage.world.acme.id.to_string();
    let id = stage.pending(
        "acme.admin",
        "'sites', 'update', 's', key => '1', payload => '{\"name\": \"n\", \"server_id\": null}'",
    );
    assert_eq!(
        shown("acme.owner", &id),
        [
            row("id", Some("1"), Some("1"), "f"),
            row("org_id", Some(&acme), Some(&acme), "f"),
            row("server_id", Some("2"), None, "t"),
            row("name", Some("acme-site-1"), Some("n"), "t"),
            row("visits", Some("10"), Some("10"), "f"),
            row("certificate", Some("none"), Some("none"), "f"),
        ]
    );
    let delete = stage.pending("acme.admin", DELETE);
    let all = shown("acme.member", &delete);
    assert_eq!(all.len(), 6);
    assert!(
        all.iter()
            .all(|r| r[1].is_some() && r[2].is_none() && r[3].as_deref() == Some("t")),
        "{all:?}"
    );
    let insert = stage.pending("acme.admin", INSERT);
    assert_eq!(
        shown("acme.owner", &insert),
        [
            row("id", None, Some("50"), "t"),
            row("server_id", None, Some("1"), "t"),
            row("name", None, Some("new"), "t")
        ]
    );
    // As it is by now.
    stage
        .world
        .session("acme.owner")
        .run("UPDATE sites SET visits = 99 WHERE id = 1");
    assert!(shown("acme.owner", &id).contains(&row("visits", Some("99"), Some("99"), "f")));
    for who in ["acme.viewer", "globex.owner", "stranger"] {
        let mut session = stage.world.session(who);
        let code = if who == "stranger" { "42501" } else { "P0002" };
        fails(
            session.attempt(&format!("SELECT * FROM tenancy.show_proposal('{id}')")),
            code,
        );
    }
    // Columns that he may not read, and rows that another policy keeps from him.
    let member = stage.world.db.role("acme.member");
    stage.world.superuser().run(&format!(
        "REVOKE ALL ON sites FROM PUBLIC; GRANT SELECT (id, name, visits) ON sites TO {member}; GRANT ALL ON sites TO {}, {}",
        stage.world.db.role("app"),
        stage.world.db.role("acme.owner")
    ));
    let names = |rows: Vec<Vec<Option<String>>>| -> Vec<String> {
        rows.into_iter().map(|r| r[0].clone().unwrap()).collect()
    };
    assert_eq!(
        names(shown("acme.member", &id)),
        ["id", "server_id", "name", "visits"]
    );
    assert!(shown("acme.member", &id).contains(&row("server_id", None, None, "t")));
    stage
        .world
        .superuser()
        .run(&format!("REVOKE SELECT (id) ON sites FROM {member}"));
    assert_eq!(names(shown("acme.member", &id)), ["server_id", "name"]);
    // Nor does anybody read what was hashed of it.
    fails(
        stage
            .world
            .session("acme.owner")
            .attempt("SELECT seen FROM tenancy.proposal_records"),
        "42501",
    );
    assert_eq!(
        stage
            .world
            .session("acme.owner")
            .count("SELECT count(approved) FROM tenancy.proposal_records"),
        0
    );
}

#[test]
fn odd_values_are_errors_when_they_are_proposed() {
    let stage = Stage::new();
    stage.world.superuser().run(
        "CREATE TABLE odd (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, org_id uuid, n numeric, f float8, j jsonb, t text,
                           twice numeric GENERATED ALWAYS AS (n * 2) STORED, again int GENERATED BY DEFAULT AS IDENTITY);
         GRANT ALL ON odd TO PUBLIC; SELECT tenancy.protect('odd')",
    );
    let propose = |payload: &str| {
        format!(
            "SELECT tenancy.propose('odd', 'insert', 's', payload => {})",
            quote(payload)
        )
    };
    let mut ai = stage.acting("acme.admin", "ai");
    let deep = format!("{{\"j\": {}{}}}", "[".repeat(20_000), "]".repeat(20_000));
    let long = format!("{{\"t\": \"{}\"}}", "x".repeat(10_000_000));
    for (payload, code) in [
        ("{\"id\": 1}", "428C9"),
        ("{\"twice\": 1}", "428C9"),
        ("{\"f\": 1e400}", "22003"),
        ("{\"t\": \"\\u0000\"}", "22P05"),
        ("{\"n\": 1e200000}", "22003"),
        (&deep, "54001"),
        (&long, "54000"),
        ("{\"org_id\": null}", "22023"),
        ("{\"xmin\": 1}", "42703"),
        ("{\"tableoid\": 1}", "42703"),
        ("{\"\": 1}", "42703"),
    ] {
        fails(ai.attempt_within(&propose(payload)), code);
    }
    ai.run("ROLLBACK");
    // What is odd and has a value: the last of two, a number with all its digits, a default.
    let id = stage.approved(
        "acme.admin",
        "'odd', 'insert', 's', payload => '{\"t\": \"a\", \"t\": \"b\", \"n\": 1e40, \"j\": {\"x\": 1e400}, \"again\": 5}'",
    );
    assert_eq!(
        stage.execute("acme.admin", &id),
        "completed",
        "{}",
        stage.why(&id)
    );
    let mut owner = stage.world.session("acme.owner");
    assert_eq!(
        owner.text(
            "SELECT concat_ws(' ', t, n = 1e40, length(j->>'x'), twice = 2e40, again) FROM odd"
        ),
        "b t 401 t 5"
    );
    // A row with generated columns is bound like any other.
    let what = "'odd', 'update', 's', key => '1', payload => '{\"n\": 2}'";
    let id = stage.approved("acme.admin", what);
    assert_eq!(
        stage.execute("acme.admin", &id),
        "completed",
        "{}",
        stage.why(&id)
    );
    let stale = stage.approved("acme.admin", what);
    owner.run("UPDATE odd SET n = 3");
    assert_eq!(stage.execute("acme.admin", &stale), "failed");
}
