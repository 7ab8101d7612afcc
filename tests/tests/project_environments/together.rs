//! A project gets another tag while others write its rows.

use std::thread::JoinHandle;
use std::time::Duration;

use pg_tenancy_tests::{Error, Session};

use crate::stage::*;

/// Runs statements in a session of its own; gives what came of it, and the session.
fn in_background(mut session: Session, sql: String) -> JoinHandle<(Result<u64, Error>, Session)> {
    std::thread::spawn(move || {
        let result = session.attempt(&sql);
        (result, session)
    })
}

/// Until a statement waits for a lock, so that what is asked next finds it waiting.
fn until_it_waits(stage: &Stage, pid: i64) {
    let mut dba = stage.world.superuser();
    for _ in 0..500 {
        if dba.is_true(&format!(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock')"
        )) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it does not wait");
}

#[test]
fn who_writes_while_a_project_becomes_production_is_held_to_what_it_becomes() {
    let stage = Stage::new();
    for (sql, may) in [
        ("DELETE FROM apps WHERE id = 3", false),
        ("UPDATE apps SET project_id = $plain WHERE id = 3", false),
        ("UPDATE apps SET name = 'x' WHERE id = 3", true),
        (
            "INSERT INTO apps (id, project_id) VALUES (9, $staging)",
            true,
        ),
    ] {
        for isolation in ["READ COMMITTED", "REPEATABLE READ"] {
            stage.world.break_glass().run(&format!(
                "UPDATE tenancy.projects SET environment = 'staging' WHERE id = '{}'",
                stage.staging
            ));
            let sql = sql
                .replace("$plain", &format!("'{}'", stage.plain))
                .replace("$staging", &format!("'{}'", stage.staging));
            let mut writer = stage.admin();
            writer.run(&format!("BEGIN ISOLATION LEVEL {isolation}"));
            writer.rows("SELECT * FROM apps");
            let pid = writer.count("SELECT pg_backend_pid()");
            let mut tagger = stage.owner();
            tagger.run("BEGIN");
            tagger.run(&retag(&stage.staging, "'production'"));
            let waiting = in_background(writer, sql.clone());
            until_it_waits(&stage, pid);
            tagger.run("COMMIT");
            let (result, mut writer) = waiting.join().unwrap();
            if may {
                result.unwrap();
            } else {
                about_production(result);
            }
            writer.run("ROLLBACK");
        }
    }
}

#[test]
fn a_retagging_waits_for_who_writes_in_the_project() {
    let stage = Stage::new();
    for sql in [
        "DELETE FROM apps WHERE id = 3".to_string(),
        "UPDATE apps SET name = 'x' WHERE id = 4".into(),
        format!(
            "INSERT INTO apps (id, project_id) VALUES (9, '{}')",
            stage.staging
        ),
    ] {
        let mut writer = stage.admin();
        writer.run("BEGIN");
        writer.run(&sql);
        let mut tagger = stage.owner();
        tagger.run("BEGIN");
        let pid = tagger.count("SELECT pg_backend_pid()");
        let waiting = in_background(tagger, retag(&stage.staging, "'production'"));
        until_it_waits(&stage, pid);
        assert!(!waiting.is_finished(), "{sql}: it did not wait");
        writer.run("COMMIT");
        let (result, mut tagger) = waiting.join().unwrap();
        result.unwrap();
        tagger.run("ROLLBACK");
    }
}
