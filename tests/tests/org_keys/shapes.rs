//! Partitions, inheritance, columns along foreign keys, dumps.

use super::stage::{KINDS, Stage};
use pg_tenancy_tests::{Db, fails, refused};

#[test]
fn partitions_on_every_level() {
    for kind in KINDS {
        let stage = Stage::new(kind);
        let (acme, globex) = (&stage.acme, &stage.globex);
        let mut dba = stage.world.superuser();
        let owner = stage.world.table_owner();
        dba.run(&format!(
            "CREATE TABLE events (id int, \"tenantId\" {0}, n int, project int REFERENCES projects, PRIMARY KEY (\"tenantId\", id, n)) PARTITION BY LIST (\"tenantId\");
             CREATE TABLE events_acme PARTITION OF events FOR VALUES IN ({acme}) PARTITION BY RANGE (n);
             CREATE TABLE events_acme_1 PARTITION OF events_acme FOR VALUES FROM (0) TO (100);
             CREATE TABLE events_rest PARTITION OF events DEFAULT;
             INSERT INTO events SELECT i, {acme}, i, 1 FROM generate_series(1, 5) i;
             INSERT INTO events SELECT i, {globex}, i, 101 FROM generate_series(1, 7) i;
             CREATE TABLE notes (id int PRIMARY KEY, \"tenantId\" {0}, event int, n int, whose {0},
                 FOREIGN KEY (whose, event, n) REFERENCES events ON DELETE CASCADE);
             GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC",
            kind.sql
        ));
        for table in [
            "events",
            "events_acme",
            "events_acme_1",
            "events_rest",
            "notes",
        ] {
            dba.run(&format!("ALTER TABLE {table} OWNER TO {owner}"));
        }
        dba.run("SELECT tenancy.protect('events', 'tenantId'); SELECT tenancy.protect('notes', 'tenantId')");
        let mut admin = stage.admin();
        for (table, rows) in [
            ("events", 5),
            ("events_acme", 5),
            ("events_acme_1", 5),
            ("events_rest", 0),
        ] {
            assert_eq!(
                admin.count(&format!("SELECT count(*) FROM {table}")),
                rows,
                "{kind:?} {table}"
            );
        }
        let plan = admin.explain("COSTS OFF", "SELECT * FROM events WHERE id = 1 AND n = 1");
        assert!(plan.contains("Index Cond"), "{kind:?} {plan}");
        admin.run("INSERT INTO events (id, n, project) VALUES (10, 10, 2); UPDATE events SET n = n + 1 WHERE id = 10");
        fails(
            admin.attempt("INSERT INTO events (id, n, project) VALUES (11, 10, 102)"),
            "23503",
        );
        fails(
            admin.attempt(&format!(
                "INSERT INTO events_rest (id, n, \"tenantId\") VALUES (11, 10, {globex})"
            )),
            "42501",
        );
        // A key into the partitioned table.
        admin.run(&format!(
            "INSERT INTO notes (id, whose, event, n) VALUES (1, {acme}, 1, 1)"
        ));
        fails(
            admin.attempt(&format!(
                "INSERT INTO notes (id, whose, event, n) VALUES (2, {globex}, 1, 1)"
            )),
            "23503",
        );
        // Partitions that come later.
        let mut maker = stage.world.db.login(&owner);
        dba.run(&format!("GRANT ALL ON SCHEMA public TO {owner}"));
        maker.run("CREATE TABLE events_acme_2 PARTITION OF events_acme FOR VALUES FROM (100) TO (200); GRANT ALL ON events_acme_2 TO PUBLIC");
        admin.run("INSERT INTO events (id, n) VALUES (12, 150)");
        assert_eq!(
            stage
                .world
                .session("globex.admin")
                .count("SELECT count(*) FROM events_acme_2"),
            0
        );
        assert_eq!(
            admin.count("SELECT count(*) FROM events_acme_2"),
            1,
            "{kind:?}"
        );
        // One that brings rows along: only those of the organization of whoever attaches it (attack C1).
        let bring = |org: &str| {
            format!(
            "DROP TABLE IF EXISTS events_acme_3; CREATE TABLE events_acme_3 (id int NOT NULL, \"tenantId\" {0} NOT NULL, n int NOT NULL, project int);
             INSERT INTO events_acme_3 VALUES (1, {org}, 250)", kind.sql)
        };
        maker.run(&bring(acme));
        let attach =
            "ALTER TABLE events_acme ATTACH PARTITION events_acme_3 FOR VALUES FROM (200) TO (300)";
        refused(maker.attempt(attach), "42501");
        dba.run(attach);
        dba.run("GRANT ALL ON events_acme_3 TO PUBLIC");
        assert_eq!(
            admin.count("SELECT count(*) FROM events_acme_3"),
            1,
            "{kind:?}"
        );
        assert_eq!(admin.run("DELETE FROM events"), 8);
        assert_eq!(
            stage
                .world
                .break_glass()
                .count("SELECT count(*) FROM notes"),
            0
        );
        assert_eq!(
            stage
                .world
                .break_glass()
                .count("SELECT count(*) FROM events"),
            7
        );
        dba.run("SELECT tenancy.unprotect('events')");
    }
}

#[test]
fn inheritance_children_and_whoever_joins_them() {
    for kind in KINDS {
        let stage = Stage::new(kind);
        let mut dba = stage.world.superuser();
        let owner = stage.world.table_owner();
        dba.run(&format!(
            "GRANT ALL ON SCHEMA public TO {owner}; SET ROLE {owner};
             CREATE TABLE special () INHERITS (projects);
             CREATE TABLE late (id int NOT NULL, \"tenantId\" {} NOT NULL, name text NOT NULL);
             INSERT INTO late VALUES (30, {}, 'mine');
             RESET ROLE; GRANT ALL ON special, late TO PUBLIC",
            kind.sql, stage.acme
        ));
        let mut admin = stage.admin();
        admin.run("INSERT INTO special (id) VALUES (20)");
        assert_eq!(admin.count("SELECT count(*) FROM projects"), 4, "{kind:?}");
        fails(
            admin.attempt(&format!(
                "INSERT INTO special (id, \"tenantId\") VALUES (21, {})",
                stage.globex
            )),
            "42501",
        );
        let mut maker = stage.world.db.login(&owner);
        let inherit = "ALTER TABLE late INHERIT projects";
        refused(maker.attempt(inherit), "42501");
        // As a trusted application's owner would: in the context of the organization whose rows they are.
        dba.run(&format!(
            "SELECT tenancy.trust_application('{owner}', scope => 'session')"
        ));
        maker.run(&format!(
            "SET app.current_org = '{}'",
            stage.world.globex.id
        ));
        refused(maker.attempt(inherit), "42501");
        maker.run(&format!("SET app.current_org = '{}'", stage.world.acme.id));
        maker.run(inherit);
        assert_eq!(admin.count("SELECT count(*) FROM projects"), 5, "{kind:?}");
    }
}

#[test]
fn a_column_along_a_foreign_key_is_of_the_parents_type() {
    for kind in KINDS {
        for parent_first in [true, false] {
            let stage = Stage::unprotected(kind);
            let mut dba = stage.world.superuser();
            dba.run(
                "CREATE TABLE lines (id int PRIMARY KEY, task int REFERENCES tasks ON DELETE CASCADE);
                 INSERT INTO lines SELECT i, i FROM generate_series(1, 6) i UNION ALL SELECT i, i FROM generate_series(101, 106) i;
                 GRANT ALL ON lines TO PUBLIC",
            );
            if parent_first {
                dba.run("SELECT tenancy.protect('tasks', 'tenantId')");
            }
            dba.run("CALL tenancy.add_org_column('lines', 'tenantId', batch_rows => 2)");
            assert_eq!(
                dba.text("SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'lines'::regclass AND attname = 'tenantId'"),
                kind.sql.replace("varchar", "character varying")
            );
            // Kept before it is protected, from the parent; and after, from the context.
            dba.run("SET row_security = off; INSERT INTO lines VALUES (10, 1), (110, 101)");
            dba.run("RESET row_security; SELECT tenancy.protect_schema('public', 'tenantId')");
            let mut admin = stage.admin();
            admin.run("INSERT INTO lines VALUES (11, 2)");
            assert_eq!(stage.seen(&mut admin, "lines"), (8, 0), "{kind:?}");
            fails(admin.attempt("INSERT INTO lines VALUES (12, 101)"), "23503");
            let mut globex = stage.world.session("globex.admin");
            assert_eq!(stage.seen(&mut globex, "lines"), (0, 7), "{kind:?}");
        }
    }
}

#[test]
fn a_dump_carries_it_all() {
    for kind in KINDS {
        let stage = Stage::new(kind);
        let file = stage
            .world
            .db
            .cluster
            .file(&format!("keys-{}", stage.world.db.name));
        let file = file.to_str().unwrap();
        stage.world.db.cluster.client_program(
            "pg_dump",
            &stage.world.db.name,
            &["--format=custom", "--file", file],
        );
        let db = Db::empty(stage.world.db.cluster.clone());
        db.cluster
            .client_program("pg_restore", &db.name, &["--exit-on-error", file]);
        let shape = "SELECT string_agg(p::text, ',' ORDER BY p::text) FROM pg_policies p WHERE schemaname = 'public'";
        assert_eq!(
            stage.world.superuser().text(shape),
            db.superuser().text(shape),
            "{kind:?}"
        );
        let world = stage.world.moved_to(db);
        let mut admin = world.session("acme.admin");
        assert_eq!(stage.seen(&mut admin, "tasks"), (6, 0), "{kind:?}");
        admin.run("INSERT INTO tasks (id, project) VALUES (10, 1)");
        fails(
            admin.attempt("INSERT INTO tasks (id, project) VALUES (11, 101)"),
            "23503",
        );
        fails(
            admin.attempt(&format!(
                "INSERT INTO tasks (id, \"tenantId\") VALUES (11, {})",
                stage.globex
            )),
            "42501",
        );
    }
}

#[test]
fn unprotecting_leaves_the_table_as_it_was() {
    for kind in KINDS {
        let stage = Stage::unprotected(kind);
        let mut dba = stage.world.superuser();
        let shape = "SELECT concat_ws(',', attnotnull, atthasdef, attstattarget, format_type(atttypid, atttypmod), relrowsecurity, relforcerowsecurity,
                (SELECT count(*) FROM pg_index WHERE indrelid = c.oid), (SELECT count(*) FROM pg_trigger WHERE tgrelid = c.oid), (SELECT count(*) FROM pg_policy WHERE polrelid = c.oid))
             FROM pg_class c JOIN pg_attribute ON attrelid = c.oid WHERE relname = 'projects' AND attname = 'tenantId'";
        let before = dba.text(shape);
        dba.run("SELECT tenancy.protect('projects', 'tenantId')");
        assert_ne!(dba.text(shape), before);
        // Again in the same way: nothing.
        dba.run("SELECT tenancy.protect('projects', 'tenantId')");
        dba.run("SELECT tenancy.unprotect('projects')");
        assert_eq!(dba.text(shape), before, "{kind:?}");
    }
}
