//! Proposals under concurrency and accidents (spec 8): each is decided once, executed at most once, and none stays halfway.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use pg_tenancy_tests::stage::{DELETE, RENAME, Stage, approve, execute, reject};
use pg_tenancy_tests::{Cluster, Db, Session, World, assert_same_error, fails, refused};

#[test]
fn nothing_moves_on_in_a_suspended_organization() {
    let stage = Stage::new();
    let draft = stage
        .ai("acme.admin", &format!("SELECT tenancy.propose({DELETE})"))
        .unwrap();
    let pending = stage.pending("acme.admin", RENAME);
    let approved = stage.approved("acme.admin", RENAME);
    let before = stage.rows();
    let org = stage.world.acme.id;
    stage
        .world
        .superuser()
        .run(&format!("SELECT tenancy.suspend_org('{org}', 'unpaid')"));
    for (actor, who, sql) in [
        (
            "ai",
            "acme.admin",
            format!("SELECT tenancy.propose({DELETE})"),
        ),
        (
            "ai",
            "acme.admin",
            format!("SELECT tenancy.submit_proposal('{draft}')"),
        ),
        ("human", "acme.owner", approve(&pending)),
        ("human", "acme.owner", reject(&pending)),
        ("ai", "acme.admin", execute(&approved)),
    ] {
        let error = refused(stage.acting(who, actor).attempt(&sql), "42501");
        assert!(error.message().contains("suspended"), "{sql} {error:?}");
    }
    assert_eq!(
        [&draft, &pending, &approved].map(|id| stage.state(id)),
        ["draft", "pending", "approved"]
    );
    assert_eq!(stage.rows(), before);
    // Looking is free, and afterwards it goes on.
    assert_eq!(
        stage
            .world
            .session("acme.owner")
            .rows(&format!("SELECT * FROM tenancy.show_proposal('{pending}')"))
            .len(),
        6
    );
    stage
        .world
        .superuser()
        .run(&format!("SELECT tenancy.resume_org('{org}')"));
    assert_eq!(stage.execute("acme.admin", &approved), "completed");
}

/// Suspended while the change waits for its row: it is not made.
#[test]
fn a10_a_suspension_reaches_a_change_that_waits() {
    let stage = Stage::new();
    let id = stage.approved("acme.admin", RENAME);
    let before = stage.rows();
    let mut holder = stage.world.session("acme.owner");
    holder.run("BEGIN; SELECT 1 FROM sites WHERE id = 1 FOR UPDATE");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| stage.acting("acme.admin", "ai").attempt(&execute(&id)));
        std::thread::sleep(Duration::from_millis(400));
        let org = stage.world.acme.id;
        stage
            .world
            .superuser()
            .run(&format!("SELECT tenancy.suspend_org('{org}', 'unpaid')"));
        holder.run("ROLLBACK");
        drop(waiting.join().unwrap());
    });
    assert_eq!(stage.rows(), before);
    assert_ne!(stage.state(&id), "completed");
}

/// Waits until a session waits for a lock.
fn waits(dba: &mut Session, pid: &str) {
    for _ in 0..200 {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'"
        );
        if dba.count(&sql) == 1 {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{pid} does not wait");
}

#[test]
fn two_executors_of_one_proposal_make_it_once() {
    let stage = Stage::new();
    stage.world.superuser().run(
        "CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.visits := OLD.visits + 1; RETURN NEW; END $$;
         CREATE TRIGGER count_up BEFORE UPDATE OF name ON sites FOR EACH ROW EXECUTE FUNCTION count_up()",
    );
    for commits in [true, false] {
        let id = stage.approved("acme.admin", RENAME);
        let mut owner = stage.world.session("acme.owner");
        let visits = owner.count("SELECT visits FROM sites WHERE id = 1");
        let mut first = stage.acting("acme.admin", "ai");
        assert_eq!(first.text(&execute(&id)), "completed");
        let mut second = stage.acting("acme.admin", "ai");
        let pid = second.text("SELECT pg_backend_pid()");
        std::thread::scope(|scope| {
            let (sql, second) = (execute(&id), &mut second);
            let waiting = scope.spawn(move || {
                let said = second.try_rows(&sql);
                second.run(if said.is_ok() { "COMMIT" } else { "ROLLBACK" });
                said
            });
            waits(&mut stage.world.superuser(), &pid);
            first.run(if commits { "COMMIT" } else { "ROLLBACK" });
            let said = waiting.join().unwrap();
            if commits {
                let error = refused(said, "55000");
                assert!(error.message().contains("completed"), "{error:?}");
            } else {
                assert_eq!(said.unwrap()[0][0].as_deref(), Some("completed"));
            }
        });
        assert_eq!(
            owner.count("SELECT visits FROM sites WHERE id = 1"),
            visits + 1
        );
        assert_eq!(stage.state(&id), "completed");
    }
}

/// Ends its connection, cancels it, or lets it run out of time while the change waits for its row: as if it had not been tried.
#[test]
fn an_execution_that_is_ended_halfway_leaves_the_proposal_approved() {
    let stage = Stage::new();
    let before = stage.rows();
    let id = stage.approved("acme.admin", RENAME);
    for (how, code) in [
        ("SELECT pg_terminate_backend", "57P01"),
        ("SELECT pg_cancel_backend", "57014"),
        ("", "57014"),
        ("", "55P03"),
    ] {
        let mut holder = stage.world.session("acme.owner");
        holder.run("BEGIN; SELECT 1 FROM sites WHERE id = 1 FOR UPDATE");
        let mut ai = stage.acting("acme.admin", "ai");
        match (how, code) {
            ("", "57014") => drop(ai.run("SET LOCAL statement_timeout = 300")),
            ("", _) => drop(ai.run("SET LOCAL lock_timeout = 300")),
            _ => {}
        }
        let pid = ai.text("SELECT pg_backend_pid()");
        std::thread::scope(|scope| {
            let (sql, ai) = (execute(&id), &mut ai);
            let waiting = scope.spawn(move || ai.attempt(&sql));
            if !how.is_empty() {
                let mut dba = stage.world.superuser();
                waits(&mut dba, &pid);
                // Nobody sees it halfway.
                assert_eq!(stage.state(&id), "approved");
                dba.run(&format!("{how}({pid})"));
            }
            fails(waiting.join().unwrap(), code);
        });
        holder.run("ROLLBACK");
        assert_eq!(stage.state(&id), "approved", "{how}");
        assert_eq!(stage.rows(), before);
    }
    // Savepoints inside: what is rolled back was not executed, what is kept was.
    let mut ai = stage.acting("acme.admin", "ai");
    ai.run("SAVEPOINT a; SAVEPOINT b");
    assert_eq!(ai.text(&execute(&id)), "completed");
    ai.run("RELEASE b; ROLLBACK TO a");
    assert_eq!(
        ai.text(&format!(
            "SELECT state FROM tenancy.proposals WHERE id = '{id}'"
        )),
        "approved"
    );
    ai.run("SAVEPOINT c");
    assert_eq!(ai.text(&execute(&id)), "completed");
    ai.run("RELEASE c");
    refused(ai.attempt_within(&execute(&id)), "55000");
    ai.run("COMMIT");
    assert_eq!(stage.state(&id), "completed");
}

/// The server dies with the execution.
#[test]
fn f_a_crash_in_the_middle_leaves_the_proposal_approved() {
    let db = Db::empty(Arc::new(Cluster::start()));
    db.superuser().run("CREATE EXTENSION pg_tenancy");
    let stage = Stage {
        world: World::new_in(db),
    };
    let id = stage.approved("acme.admin", RENAME);
    let before = stage.rows();
    let mut ai = stage.acting("acme.admin", "ai");
    assert_eq!(ai.text(&execute(&id)), "completed");
    let pid = ai.text("SELECT pg_backend_pid()");
    let mut bystander = stage.world.superuser();
    Command::new("kill")
        .args(["-9", &pid])
        .status()
        .expect("kill");
    // PostgreSQL ends every session, and recovers.
    while bystander.attempt("SELECT 1").is_ok() {
        std::thread::sleep(Duration::from_millis(20));
    }
    while stage
        .world
        .db
        .config("postgres")
        .connect(postgres::NoTls)
        .is_err()
    {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(stage.state(&id), "approved");
    assert_eq!(stage.rows(), before);
    assert_eq!(stage.execute("acme.admin", &id), "completed");
}

/// Approved, rejected, expired and cancelled at the same moment by many: one of them it is, or none.
#[test]
fn f_deciders_expiry_and_cancels_at_once() {
    const PROPOSALS: usize = 12;
    let stage = Stage::new();
    let ids: Vec<String> = (0..PROPOSALS)
        .map(|_| stage.pending("acme.admin", RENAME))
        .collect();
    let (start, over) = (Barrier::new(18), AtomicBool::new(false));
    let decided: Vec<Vec<(String, &str)>> = std::thread::scope(|scope| {
        let deciders: Vec<_> = (0..16)
            .map(|client: usize| {
                let (stage, ids, start) = (&stage, &ids, &start);
                scope.spawn(move || {
                    let who = ["acme.owner", "acme.admin", "acme.member", "agency"][client % 4];
                    let mut session = stage.world.session(who);
                    let mut mine = vec![];
                    start.wait();
                    for n in 0..PROPOSALS {
                        let id = &ids[(n + client) % PROPOSALS];
                        let approves = (client / 4 + n).is_multiple_of(2);
                        let sql = if approves { approve(id) } else { reject(id) };
                        match session.attempt(&sql) {
                            Ok(_) => mine
                                .push((id.clone(), if approves { "approved" } else { "rejected" })),
                            Err(error) => {
                                let code = error.code().expect("an answer").code().to_string();
                                assert!(code == "55000" || code == "57014", "{error:?}");
                            }
                        }
                    }
                    mine
                })
            })
            .collect();
        // One lets every third expire, one cancels whatever runs.
        scope.spawn(|| {
            let mut dba = stage.world.superuser();
            start.wait();
            for id in ids.iter().step_by(3) {
                dba.run(&format!("UPDATE tenancy.proposal_records SET expires_at = clock_timestamp() WHERE id = '{id}'"));
            }
        });
        scope.spawn(|| {
            let mut dba = stage.world.superuser();
            start.wait();
            while !over.load(Ordering::Relaxed) {
                dba.rows("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%_proposal(''%' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1");
            }
        });
        let decided = deciders.into_iter().map(|d| d.join().unwrap()).collect();
        over.store(true, Ordering::Relaxed);
        decided
    });
    let decided: Vec<(String, &str)> = decided.into_iter().flatten().collect();
    let mut dba = stage.world.superuser();
    for id in &ids {
        let of_it: Vec<&str> = decided
            .iter()
            .filter(|(one, _)| one == id)
            .map(|(_, what)| *what)
            .collect();
        assert!(of_it.len() <= 1, "{id} {of_it:?}");
        let state = dba.text(&format!(
            "SELECT state FROM tenancy.proposal_records WHERE id = '{id}'"
        ));
        // A cancel that comes after the commit is told as an error, too.
        assert!(
            of_it.first().is_none_or(|what| *what == state),
            "{of_it:?} {state}"
        );
        let acts = dba.count(&format!("SELECT count(*) FROM tenancy.audit_dba WHERE operation IN ('approve_proposal', 'reject_proposal') AND key->>'id' = '{id}'"));
        assert_eq!(acts, i64::from(state != "pending"), "{state}");
    }
    assert!(!decided.is_empty());
}

#[test]
fn every_line_names_who_began_it_and_who_approved() {
    let stage = Stage::new();
    let (admin, owner_id) = (
        stage.world.user("acme.admin").to_string(),
        stage.world.user("acme.owner").to_string(),
    );
    let id = stage.approved("acme.admin", "'servers', 'delete', 's', key => '1'");
    assert_eq!(stage.execute("acme.admin", &id), "completed");
    let gone = stage.approved("acme.admin", RENAME);
    stage
        .world
        .session("acme.owner")
        .run("UPDATE sites SET visits = 9999 WHERE id = 1");
    assert_eq!(stage.execute("acme.admin", &gone), "failed");
    let mut owner = stage.world.session("acme.owner");
    // The row, and those that a foreign key took along.
    let rows = owner.json("SELECT * FROM tenancy.audit_log WHERE operation = 'DELETE'");
    assert_eq!(rows.len(), 3, "{rows:?}");
    for line in &rows {
        assert_eq!(
            (&line["actor_id"], &line["approver_id"], &line["actor_type"]),
            (
                &admin.as_str().into(),
                &owner_id.as_str().into(),
                &"ai".into()
            )
        );
    }
    for id in [&id, &gone] {
        let acts = owner.json(&format!("SELECT * FROM tenancy.audit_log WHERE object = 'tenancy.proposals' AND key->>'id' = '{id}'"));
        assert_eq!(acts.len(), 4);
        for act in &acts {
            assert_eq!(act["new"]["initiator"], admin.as_str());
            let decided = matches!(
                act["operation"].as_str().unwrap(),
                "approve_proposal" | "execute_proposal"
            );
            assert_eq!(
                act["new"]["approver"],
                if decided {
                    owner_id.as_str().into()
                } else {
                    serde_json::Value::Null
                }
            );
        }
        // What was approved is what was executed.
        let digest = |operation: &str| {
            acts.iter().find(|a| a["operation"] == operation).unwrap()["new"]["digest"].clone()
        };
        assert_eq!(digest("approve_proposal"), digest("execute_proposal"));
        assert_eq!(digest("approve_proposal").as_str().unwrap().len(), 64);
    }
}

/// What the table itself does besides: functions in defaults and checks (rules are refused on protected tables).
#[test]
fn nothing_else_is_written_by_a_default_or_a_check() {
    let stage = Stage::new();
    stage.world.superuser().run(
        "CREATE FUNCTION sneak() RETURNS text LANGUAGE plpgsql AS $$ BEGIN UPDATE servers SET cpus = 99 WHERE id = 1; RETURN 'x'; END $$;
         CREATE TABLE made (id int PRIMARY KEY, org_id uuid, note text DEFAULT sneak(), other text);
         CREATE TABLE asked (id int PRIMARY KEY, org_id uuid, note text CHECK (sneak() = note));
         GRANT ALL ON made, asked TO PUBLIC; SELECT tenancy.protect('made'); SELECT tenancy.protect('asked')",
    );
    let before = stage.rows();
    for table in ["made", "asked"] {
        let id = stage.approved(
            "acme.admin",
            &format!("'{table}', 'insert', 's', payload => '{{\"id\": 1}}'"),
        );
        assert_eq!(stage.execute("acme.admin", &id), "failed", "{table}");
        assert_eq!(stage.rows(), before, "{table}");
        assert_eq!(
            stage
                .world
                .session("acme.owner")
                .count(&format!("SELECT count(*) FROM {table}")),
            0
        );
    }
}

/// Another organization's row, or one that is not there: nothing tells them apart.
#[test]
fn a12_a_proposal_is_no_window_on_other_rows() {
    let stage = Stage::new();
    let mut ai = stage.acting("acme.admin", "ai");
    for what in [
        "'sites', 'delete', 's', key => '{}'",
        "'sites', 'update', 's', key => '{}', payload => '{\"name\": \"x\"}'",
    ] {
        let propose = |id: &str| format!("SELECT tenancy.propose({})", what.replacen("{}", id, 1));
        let none = fails(ai.attempt_within(&propose("999")), "P0002");
        let theirs = fails(ai.attempt_within(&propose("101")), "P0002");
        assert_same_error(&none, &theirs, &[("101", "999")]);
    }
    ai.run("ROLLBACK");
    // Nor does what became of it.
    let [none, theirs] = [999, 101].map(|server| {
        let id = stage.approved(
            "acme.admin",
            &format!(
                "'sites', 'update', 's', key => '3', payload => '{{\"server_id\": {server}}}'"
            ),
        );
        assert_eq!(stage.execute("acme.admin", &id), "failed");
        stage.why(&id)
    });
    assert_eq!(none, theirs);
}
