//! Writing: every path, every type; and what the audit says of it.

use std::io::Write;

use super::stage::{KINDS, Stage};
use pg_tenancy_tests::{Session, fails, refused};

fn copy_in(session: &mut Session, sql: &str, data: &str) -> Result<u64, pg_tenancy_tests::Error> {
    let mut writer = session.copy_in(sql)?;
    writer.write_all(data.as_bytes()).unwrap();
    writer.finish()
}

/// A value of the column as COPY reads it.
fn bare(literal: &str) -> &str {
    literal.trim_matches('\'')
}

#[test]
fn own_rows_are_written_and_others_never() {
    for kind in KINDS {
        let stage = Stage::new(kind);
        let Stage { acme, globex, .. } = &stage;
        let theirs = stage.hash(globex);
        let mut admin = stage.admin();
        // The default fills it; naming one's own is as good.
        admin.run("INSERT INTO projects (id) VALUES (10)");
        admin.run(&format!(
            "INSERT INTO projects (id, \"tenantId\") VALUES (11, {acme}), (12, DEFAULT)"
        ));
        assert_eq!(stage.seen(&mut admin, "projects"), (6, 0), "{kind:?}");
        assert_eq!(
            admin.column("INSERT INTO tasks (id, project) SELECT 20 + id, id FROM projects RETURNING \"tenantId\"").len(),
            6
        );
        assert_eq!(
            admin.run("UPDATE tasks SET title = 'changed', \"tenantId\" = \"tenantId\""),
            12
        );
        assert_eq!(admin.run("DELETE FROM tasks WHERE id >= 20"), 6);
        // Upsert and MERGE.
        admin.run("INSERT INTO tasks (id, title) VALUES (1, 'up'), (30, 'new') ON CONFLICT (id) DO UPDATE SET title = excluded.title");
        admin.run(
            "MERGE INTO tasks t USING (VALUES (2, 'merged'), (31, 'made')) v (id, title) ON t.id = v.id
             WHEN MATCHED THEN UPDATE SET title = v.title WHEN NOT MATCHED THEN INSERT (id, title) VALUES (v.id, v.title)",
        );
        assert_eq!(
            admin.column("SELECT title FROM tasks WHERE id IN (1, 2, 30, 31) ORDER BY id"),
            ["up", "merged", "new", "made"]
        );

        for (attack, code) in [
            (format!("INSERT INTO projects (id, \"tenantId\") VALUES (50, {globex})"), "42501"),
            ("INSERT INTO projects (id, \"tenantId\") VALUES (50, NULL)".into(), "42501"),
            (format!("UPDATE projects SET \"tenantId\" = {globex}"), "42501"),
            ("UPDATE projects SET \"tenantId\" = NULL".into(), "42501"),
            (format!("INSERT INTO tasks (id, title) VALUES (101, 'x') ON CONFLICT (id) DO UPDATE SET \"tenantId\" = {globex}"), "42501"),
            ("INSERT INTO tasks (id, title) VALUES (101, 'x') ON CONFLICT (id) DO UPDATE SET title = 'x'".into(), "42501"),
            (format!("MERGE INTO tasks t USING (VALUES (1)) v (id) ON t.id = v.id WHEN MATCHED THEN UPDATE SET \"tenantId\" = {globex}"), "42501"),
            (format!("MERGE INTO tasks t USING (VALUES (77)) v (id) ON t.id = v.id WHEN NOT MATCHED THEN INSERT (id, \"tenantId\") VALUES (v.id, {globex})"), "42501"),
            ("TRUNCATE tasks".into(), "42501"),
        ] {
            fails(admin.attempt(&attack), code);
        }
        assert_eq!(admin.run("UPDATE tasks SET title = 'x' WHERE id > 100"), 0);
        assert_eq!(admin.run("DELETE FROM projects WHERE id > 100"), 0);
        assert_eq!(
            admin.run("MERGE INTO tasks t USING (VALUES (101)) v (id) ON t.id = v.id WHEN MATCHED THEN DELETE"),
            0
        );
        // A role that may not write at all hears so.
        let mut viewer = stage.world.session("acme.viewer");
        refused(
            viewer.attempt("INSERT INTO projects (id) VALUES (60)"),
            "42501",
        );
        assert_eq!(stage.hash(globex), theirs, "{kind:?}");
    }
}

#[test]
fn whoever_passes_row_security_is_held_by_the_guard() {
    for kind in KINDS {
        let stage = Stage::new(kind);
        let Stage { acme, globex, .. } = &stage;
        let theirs = stage.hash(globex);
        let mut dba = stage.world.superuser();
        dba.run(&format!("SET app.current_org = '{}'", stage.world.acme.id));
        for attack in [
            format!("INSERT INTO projects (id, \"tenantId\") VALUES (50, {globex})"),
            format!("UPDATE projects SET \"tenantId\" = {globex} WHERE id = 1"),
            "UPDATE projects SET name = 'x' WHERE id = 101".into(),
            "DELETE FROM tasks WHERE id = 101".into(),
        ] {
            refused(dba.attempt(&attack), "42501");
        }
        let error = refused(
            copy_in(
                &mut dba,
                "COPY projects FROM STDIN",
                &format!("50\t{}\tx\n", bare(globex)),
            ),
            "42501",
        );
        assert!(error.detail().unwrap().contains(kind.current), "{error:?}");
        assert_eq!(
            copy_in(
                &mut dba,
                "COPY projects FROM STDIN",
                &format!("50\t{}\tx\n51\t{}\ty\n", bare(acme), bare(acme))
            )
            .unwrap(),
            2
        );
        assert_eq!(
            copy_in(&mut dba, "COPY projects (id) FROM STDIN", "52\n53\n").unwrap(),
            2
        );
        // A trigger of the application's that changes the column on the way.
        dba.run(&format!(
            "CREATE FUNCTION move() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.\"tenantId\" := {globex}; RETURN NEW; END $$;
             CREATE TRIGGER move BEFORE INSERT OR UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION move()"
        ));
        let mut admin = stage.admin();
        fails(admin.attempt("INSERT INTO tasks (id) VALUES (70)"), "42501");
        fails(admin.attempt("UPDATE tasks SET title = 'x'"), "42501");
        // D5: also inside a cascade, which runs without row security.
        fails(
            admin.attempt("UPDATE projects SET id = 99 WHERE id = 1"),
            "42501",
        );
        fails(dba.attempt("INSERT INTO tasks (id) VALUES (70)"), "42501");
        assert_eq!(stage.hash(globex), theirs, "{kind:?}");
        // Break-glass passes.
        let mut glass = stage.world.break_glass();
        assert_eq!(
            glass.run("UPDATE projects SET name = 'x' WHERE id = 101"),
            1
        );
    }
}

#[test]
fn a10_a_right_that_is_taken_holds_no_statement_longer() {
    for kind in KINDS {
        let stage = Stage::new(kind);
        let mut dba = stage.world.superuser();
        let mut member = stage.world.session("acme.member");
        member.run(
            "PREPARE p AS SELECT count(*) FROM tasks; PREPARE w AS UPDATE tasks SET title = title",
        );
        member.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
        assert_eq!(member.count("EXECUTE p"), 6);
        assert_eq!(member.run("EXECUTE w"), 6);
        dba.run(&format!(
            "SELECT tenancy.remove_member('{}', '{}')",
            stage.world.acme.id,
            stage.world.user("acme.member")
        ));
        assert_eq!(member.count("EXECUTE p"), 0, "{kind:?}");
        fails(member.attempt("EXECUTE w"), "42501");
    }
}

#[test]
fn the_audit_is_that_of_the_rows_organization_and_shows_the_key() {
    for kind in KINDS {
        let stage = Stage::new(kind);
        let mut admin = stage.admin();
        admin.run("INSERT INTO projects (id) VALUES (10); UPDATE projects SET name = 'n' WHERE id = 10; DELETE FROM projects WHERE id = 10");
        // Past every rule, under both organizations in one statement.
        let mut glass = stage.world.break_glass();
        glass.run("UPDATE tasks SET title = 'glass' WHERE id IN (1, 101, 102)");
        let key = |org: &str| {
            stage
                .world
                .superuser()
                .text(&format!("SELECT to_jsonb({org}::{})", kind.sql))
        };
        let lines = |who: &str, filter: &str| {
            let mut session = stage.world.session(who);
            session.rows(&format!("SELECT operation, coalesce(new, old)->'tenantId', key->>'id' FROM tenancy.audit_log WHERE {filter} ORDER BY at, n"))
        };
        let row = |operation: &str, key: Option<String>, id: &str| {
            vec![Some(operation.to_string()), key, Some(id.to_string())]
        };
        let (acme, globex) = (key(&stage.acme), key(&stage.globex));
        assert_eq!(
            lines("acme.owner", "object = 'public.projects'"),
            [
                row("INSERT", Some(acme.clone()), "10"),
                row("UPDATE", None, "10"),
                row("DELETE", Some(acme), "10")
            ],
            "{kind:?}"
        );
        assert_eq!(
            lines("acme.owner", "object = 'public.tasks'"),
            [row("UPDATE", None, "1")],
            "{kind:?}"
        );
        assert_eq!(
            lines("globex.owner", "object = 'public.tasks'"),
            [row("UPDATE", None, "101"), row("UPDATE", None, "102")],
            "{kind:?}"
        );
        // A column that moves between organizations, which only break-glass does, stands in the log of the one that lost it.
        glass.run(&format!(
            "UPDATE projects SET \"tenantId\" = {} WHERE id = 1",
            stage.globex
        ));
        assert_eq!(
            lines("acme.owner", "operation = 'UPDATE' AND new ? 'tenantId'"),
            [row("UPDATE", Some(globex), "1")]
        );
        glass.run("TRUNCATE tasks");
        for who in ["acme.owner", "globex.owner"] {
            assert_eq!(
                lines(who, "operation = 'TRUNCATE'").len(),
                1,
                "{kind:?} {who}"
            );
        }
        // Rows of no organization have no log, and are no error.
        let nobody = match kind.sql {
            "uuid" => "gen_random_uuid()".to_string(),
            text if text.starts_with("text") || text.starts_with("var") => "'no such key'".into(),
            _ => "123456".into(),
        };
        glass.run(&format!("INSERT INTO projects (id, \"tenantId\") SELECT 500 + i, {nobody} FROM generate_series(1, 3) i"));
        if kind.sql != "uuid" {
            let log = stage.world.db.cluster.log();
            assert!(log.contains("audit: a row was written that is no organization's"));
        }
    }
}

#[test]
fn a_hundred_thousand_rows_ask_nobody_whose_they_are() {
    // Each look-up would be a query; the whole takes a second or two in a debug build, and minutes with them.
    for kind in KINDS {
        let stage = Stage::new(kind);
        let mut admin = stage.admin();
        admin.run("SELECT pg_stat_clear_snapshot()");
        let scans = |stage: &Stage| {
            stage.world.superuser().count(
                "SELECT coalesce(sum(idx_scan + seq_scan), 0)::bigint FROM pg_stat_all_tables WHERE relid = 'tenancy.orgs'::regclass",
            )
        };
        admin.run("INSERT INTO projects (id) SELECT i FROM generate_series(1000, 1001) i");
        admin.run("SELECT pg_stat_force_next_flush()");
        let before = scans(&stage);
        admin.run("INSERT INTO projects (id) SELECT i FROM generate_series(2000, 21999) i");
        admin.run("SELECT pg_stat_force_next_flush()");
        assert!(
            scans(&stage) - before < 20,
            "{kind:?}: {} look-ups",
            scans(&stage) - before
        );
    }
}

#[test]
fn the_log_is_complete_and_tells_of_what_was_done_behind_its_back() {
    for kind in KINDS {
        let stage = Stage::new(kind);
        let mut dba = stage.world.superuser();
        dba.run(&format!(
            "CREATE TABLE things (id int PRIMARY KEY, \"tenantId\" {}, v int); GRANT ALL ON things TO PUBLIC;
             SELECT tenancy.protect('things', 'tenantId')",
            kind.sql
        ));
        for (who, first) in [("acme.admin", 0), ("globex.admin", 10)] {
            stage.world.session(who).run(&format!(
                "INSERT INTO things (id, v) SELECT {first} + i, i FROM generate_series(1, 5) i; UPDATE things SET v = 7 WHERE id = {first} + 1;
                 DELETE FROM things WHERE id = {first} + 2"
            ));
        }
        let mut findings = |id| {
            dba.column(&format!(
                "SELECT finding || ' ' || key FROM tenancy.verify_completeness('things', '{id}') ORDER BY 1"
            ))
        };
        assert_eq!(
            findings(stage.world.acme.id),
            Vec::<String>::new(),
            "{kind:?}"
        );
        assert_eq!(
            findings(stage.world.globex.id),
            Vec::<String>::new(),
            "{kind:?}"
        );
        stage.world.break_glass().run(
            "SET session_replication_role = replica; ALTER TABLE things DISABLE TRIGGER USER; UPDATE things SET v = 99 WHERE id = 3;
             DELETE FROM things WHERE id = 14; ALTER TABLE things ENABLE ALWAYS TRIGGER \"0_tenancy_row\"",
        );
        assert_eq!(
            findings(stage.world.acme.id),
            ["altered {\"id\": 3}"],
            "{kind:?}"
        );
        assert_eq!(
            findings(stage.world.globex.id),
            ["vanished {\"id\": 14}"],
            "{kind:?}"
        );
        let mut owner = stage.world.session("acme.owner");
        assert_eq!(
            owner.count("SELECT count(*) FROM tenancy.history('things', '{\"id\": 1}')"),
            2
        );
    }
}

#[test]
fn a_migration_works_on_all_rows_and_moves_none() {
    for kind in KINDS {
        let stage = Stage::new(kind);
        let owner = stage.world.table_owner();
        stage
            .world
            .superuser()
            .run(&format!("SELECT tenancy.grant_administration('{owner}')"));
        let mut maker = stage.world.db.login(&owner);
        maker.run("BEGIN; SELECT tenancy.begin_migration('titles')");
        assert_eq!(maker.run("UPDATE tasks SET title = upper(title)"), 12);
        maker.run(&format!(
            "INSERT INTO tasks (id, \"tenantId\", project) VALUES (50, {}, 1), (150, {}, 101)",
            stage.acme, stage.globex
        ));
        maker.run("SAVEPOINT s");
        fails(
            maker.attempt(&format!(
                "INSERT INTO tasks (id, \"tenantId\", project) VALUES (51, {}, 101)",
                stage.acme
            )),
            "23503",
        );
        maker.run("ROLLBACK TO s");
        fails(
            maker.attempt(&format!(
                "UPDATE tasks SET \"tenantId\" = {} WHERE id = 1",
                stage.globex
            )),
            "42501",
        );
        maker.run("ROLLBACK TO s; COMMIT");
        assert_eq!(stage.seen(&mut stage.admin(), "tasks"), (7, 0), "{kind:?}");
        let mut owner = stage.world.session("globex.owner");
        assert_eq!(
            owner.count("SELECT count(*) FROM tenancy.audit_log WHERE object = 'public.tasks'"),
            7,
            "{kind:?}"
        );
    }
}
