//! References between protected tables: to another org's row they fail as to no row. Attacks D1 to D7.

use std::io::Write;
use std::time::{Duration, Instant};

use pg_tenancy_tests::{DbError, Error, Session, World, assert_same_error, fails, refused};

/// A reference to the other org's server 101 and one to server 999, which nobody has, fail alike in every respect.
#[track_caller]
fn assert_alike(mut attempt: impl FnMut(&str) -> Result<u64, Error>) -> DbError {
    let other = fails(attempt("101"), "23503");
    let missing = fails(attempt("999"), "23503");
    assert_same_error(&other, &missing, &[("999", "101")]);
    other
}

fn copy_in(session: &mut Session, sql: &str, data: &str) -> Result<u64, Error> {
    let mut writer = session.copy_in(sql)?;
    writer
        .write_all(data.as_bytes())
        .expect("a write into the client's own buffer");
    writer.finish()
}

#[test]
fn d1_d2_a_reference_to_another_orgs_row_fails_as_one_to_no_row() {
    let world = World::new();
    for who in ["acme.owner", "acme.admin", "agency"] {
        let mut session = world.session(who);
        let statements: [fn(&str) -> String; 9] = [
            |id| format!("INSERT INTO sites (id, name, server_id) VALUES (60, 'x', {id})"),
            |id| format!("INSERT INTO sites (id, name, server_id) SELECT 60, 'x', {id}"),
            |id| {
                format!(
                    "INSERT INTO sites (id, name, server_id) VALUES (60, 'x', 1), (61, 'x', {id})"
                )
            },
            |id| format!("UPDATE sites SET server_id = {id} WHERE id = 1"),
            |id| format!("UPDATE sites SET server_id = {id}"),
            |id| {
                format!(
                    "INSERT INTO sites (id, name, server_id) VALUES (1, 'x', 1) ON CONFLICT (id) DO UPDATE SET server_id = {id}"
                )
            },
            |id| {
                format!(
                    "INSERT INTO sites (id, name, server_id) VALUES (60, 'x', {id}) ON CONFLICT DO NOTHING"
                )
            },
            |id| {
                format!(
                    "MERGE INTO sites t USING (SELECT 60 AS id) n ON t.id = n.id
                     WHEN NOT MATCHED THEN INSERT (id, name, server_id) VALUES (60, 'x', {id})"
                )
            },
            |id| {
                format!(
                    "WITH w AS (UPDATE sites SET server_id = {id} WHERE id = 2 RETURNING 1) SELECT count(*) FROM w"
                )
            },
        ];
        for statement in statements {
            let error = assert_alike(|id| session.attempt(&statement(id)));
            assert_eq!(
                error.message(),
                "insert or update on table \"sites\" violates foreign key constraint \"sites_server_id_fkey\""
            );
            assert_eq!(error.constraint(), Some("sites_server_id_fkey"));
            assert_eq!(error.table(), Some("sites"));
            assert_eq!(error.schema(), Some("public"));
            assert_eq!(error.hint(), None);
        }
    }
}

#[test]
fn d2_the_error_is_the_one_postgresql_gives() {
    // The same two tables without protection, as the same user, is what a missing parent looks like.
    let world = World::new();
    world.superuser().run(
        "CREATE SCHEMA plain; GRANT USAGE ON SCHEMA plain TO PUBLIC;
         CREATE TABLE plain.servers (id int PRIMARY KEY, org_id uuid, name text);
         CREATE TABLE plain.sites (id int PRIMARY KEY, org_id uuid, server_id int REFERENCES plain.servers, name text);
         GRANT ALL ON plain.servers, plain.sites TO PUBLIC;
         ALTER TABLE plain.servers ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON plain.servers USING (true);
         ALTER TABLE plain.sites ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON plain.sites USING (true)",
    );
    let mut sessions = [world.session("acme.admin"), world.superuser()];
    sessions[1].run(&format!("SET app.current_org = '{}'", world.acme.id));
    for session in &mut sessions {
        let theirs = fails(
            session.attempt("INSERT INTO plain.sites (id, name, server_id) VALUES (60, 'x', 101)"),
            "23503",
        );
        let ours = fails(
            session.attempt("INSERT INTO sites (id, name, server_id) VALUES (60, 'x', 101)"),
            "23503",
        );
        assert_eq!(ours.message(), theirs.message());
        assert_eq!(ours.detail(), theirs.detail());
        assert_eq!(ours.hint(), theirs.hint());
        assert_eq!(ours.constraint(), theirs.constraint());
        assert_eq!(ours.table(), theirs.table());
        assert_eq!(ours.column(), theirs.column());
        assert_eq!(ours.severity(), theirs.severity());
        assert_eq!(ours.where_(), theirs.where_());
    }
}

#[test]
fn d1_for_the_dba_in_a_context_too() {
    let world = World::new();
    let mut dba = world.superuser();
    dba.run(&format!("SET app.current_org = '{}'", world.acme.id));
    assert_alike(|id| {
        dba.attempt(&format!(
            "INSERT INTO sites (id, name, server_id) VALUES (60, 'x', {id})"
        ))
    });
    assert_alike(|id| dba.attempt(&format!("UPDATE sites SET server_id = {id} WHERE id = 1")));
    assert_alike(|id| {
        copy_in(
            &mut dba,
            "COPY sites (id, name, server_id) FROM STDIN",
            &format!("60\tacme-60\t1\n61\tacme-61\t{id}\n"),
        )
    });
    // The good rows of a COPY do go in.
    assert_eq!(
        copy_in(
            &mut dba,
            "COPY sites (id, name, server_id) FROM STDIN",
            "60\tacme-60\t1\n61\tacme-61\t\\N\n62\tacme-62\t3\n"
        )
        .unwrap(),
        3
    );
    // Another org's rows do not, whatever they refer to.
    refused(
        copy_in(
            &mut dba,
            "COPY sites (id, org_id, name, server_id) FROM STDIN",
            &format!("63\t{}\tglobex-63\t101\n", world.globex.id),
        ),
        "42501",
    );
    dba.run("RESET app.current_org");
    refused(
        copy_in(
            &mut dba,
            "COPY sites (id, org_id, name) FROM STDIN",
            &format!("63\t{}\tglobex-63\n", world.globex.id),
        ),
        "42501",
    );
}

#[test]
fn references_within_the_org_are_free() {
    let world = World::new();
    let mut admin = world.session("acme.admin");
    admin.run("INSERT INTO sites (id, name, server_id) VALUES (60, 'acme-60', 2)");
    admin.run("INSERT INTO sites (id, name, server_id) VALUES (61, 'acme-61', NULL)");
    admin.run("UPDATE sites SET server_id = 3 WHERE id = 60");
    admin.run("UPDATE sites SET server_id = NULL WHERE id = 60");
    // A table that is not protected is everybody's.
    admin.run("INSERT INTO servers (id, name, region) VALUES (60, 'acme-60', 'us')");
    let error = fails(
        admin.attempt("INSERT INTO servers (id, name, region) VALUES (61, 'acme-61', 'mars')"),
        "23503",
    );
    assert_eq!(error.constraint(), Some("servers_region_fkey"));
    // Right or not to write the parent: a reference needs the child's right only.
    let mut member = world.session("acme.member");
    member.run("INSERT INTO sites (id, name, server_id) VALUES (62, 'acme-62', 1)");
}

#[test]
fn a_parent_may_come_in_the_same_statement_or_transaction() {
    let world = World::new();
    let mut admin = world.session("acme.admin");
    admin.run(
        "WITH s AS (INSERT INTO servers (id, name) VALUES (60, 'acme-60') RETURNING id)
         INSERT INTO sites (id, name, server_id) SELECT 60, 'acme-60', id FROM s",
    );
    admin.run("BEGIN");
    admin.run("INSERT INTO servers (id, name) VALUES (61, 'acme-61')");
    admin.run("INSERT INTO sites (id, name, server_id) VALUES (61, 'acme-61', 61)");
    admin.run("SAVEPOINT s");
    admin.run("INSERT INTO servers (id, name) VALUES (62, 'acme-62')");
    admin.run("INSERT INTO sites (id, name, server_id) VALUES (62, 'acme-62', 62)");
    admin.run("ROLLBACK TO s");
    fails(
        admin.attempt_within("INSERT INTO sites (id, name, server_id) VALUES (62, 'acme-62', 62)"),
        "23503",
    );
    admin.run("COMMIT");
    assert_eq!(admin.count("SELECT count(*) FROM sites WHERE id >= 60"), 2);
    // One statement that inserts and one that removes the parent again: the key holds.
    fails(admin.attempt("DELETE FROM servers WHERE id = 1; INSERT INTO sites (id, name, server_id) VALUES (63, 'x', 1)"), "23503");
}

#[test]
fn a_parent_of_a_transaction_that_is_not_yet_committed_is_not_there() {
    let world = World::new();
    let mut other = world.session("globex.admin");
    other.run("BEGIN; INSERT INTO servers (id, name) VALUES (160, 'globex-160')");
    let mut admin = world.session("acme.admin");
    admin.run("SET lock_timeout = '2s'");
    fails(
        admin.attempt("INSERT INTO sites (id, name, server_id) VALUES (60, 'x', 160)"),
        "23503",
    );
    other.run("COMMIT");
    fails(
        admin.attempt("INSERT INTO sites (id, name, server_id) VALUES (60, 'x', 160)"),
        "23503",
    );
}

#[test]
fn d7_a_refusal_waits_for_nobodys_lock() {
    let world = World::new();
    for lock in [
        "SELECT * FROM servers WHERE id = 101 FOR UPDATE",
        "UPDATE servers SET id = 190 WHERE id = 101",
        "DELETE FROM servers WHERE id = 101",
    ] {
        let mut holder = world.session("globex.admin");
        holder.run("BEGIN");
        holder.run(lock);
        let mut admin = world.session("acme.admin");
        admin.run("SET lock_timeout = '5s'");
        let start = Instant::now();
        assert_alike(|id| {
            admin.attempt(&format!(
                "INSERT INTO sites (id, name, server_id) VALUES (60, 'x', {id})"
            ))
        });
        assert_alike(|id| {
            admin.attempt(&format!("UPDATE sites SET server_id = {id} WHERE id = 1"))
        });
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{lock}: {:?}",
            start.elapsed()
        );
        holder.run("ROLLBACK");
    }
}

#[test]
fn a_parent_of_ones_own_is_locked_against_removal() {
    let world = World::new();
    let mut child = world.session("acme.admin");
    child.run("BEGIN; DELETE FROM sites; INSERT INTO sites (id, name, server_id) VALUES (60, 'acme-60', 2)");
    let mut remover = world.session("acme.owner");
    remover.run("SET lock_timeout = '300ms'");
    fails(remover.attempt("DELETE FROM servers WHERE id = 2"), "55P03");
    child.run("COMMIT");
    // And the other way round: the child waits for its own org's parent, and finds it gone.
    remover.run("RESET lock_timeout; BEGIN; DELETE FROM servers WHERE id = 3");
    let waiting = std::thread::spawn(move || {
        child
            .attempt("INSERT INTO sites (id, name, server_id) VALUES (61, 'acme-61', 3)")
            .map_err(|e| e.as_db_error().map(|e| e.code().code().to_string()))
    });
    std::thread::sleep(Duration::from_millis(300));
    remover.run("COMMIT");
    assert_eq!(waiting.join().unwrap(), Err(Some("23503".into())));
    assert_eq!(
        world
            .superuser()
            .count("SELECT count(*) FROM sites s WHERE server_id IS NOT NULL AND NOT EXISTS (SELECT FROM servers v WHERE v.id = s.server_id)"),
        0
    );
}

#[test]
fn a_key_added_later_is_guarded() {
    let world = World::new();
    let owner = world.table_owner();
    let mut ddl = world.db.login(&owner);
    ddl.run("ALTER TABLE sites ADD COLUMN backup_id int REFERENCES servers");
    let mut admin = world.session("acme.admin");
    let error = assert_alike(|id| {
        admin.attempt(&format!("UPDATE sites SET backup_id = {id} WHERE id = 1"))
    });
    assert_eq!(error.constraint(), Some("sites_backup_id_fkey"));
    assert_alike(|id| {
        admin.attempt(&format!(
            "INSERT INTO sites (id, name, backup_id) VALUES (60, 'x', {id})"
        ))
    });
    admin.run("UPDATE sites SET backup_id = 3 WHERE id = 1");
    // In a session that had used the table before, and under another name.
    ddl.run("ALTER TABLE sites RENAME CONSTRAINT sites_backup_id_fkey TO renamed");
    let error = assert_alike(|id| {
        admin.attempt(&format!("UPDATE sites SET backup_id = {id} WHERE id = 1"))
    });
    assert_eq!(error.constraint(), Some("renamed"));
    // Taken away, it is free.
    ddl.run("ALTER TABLE sites DROP CONSTRAINT renamed");
    admin.run("UPDATE sites SET backup_id = 999 WHERE id = 1");
    // A table made and protected later, too.
    ddl.run("RESET ALL");
    world.superuser().run(
        "CREATE TABLE jobs (id int PRIMARY KEY, org_id uuid, site_id int);
         SELECT tenancy.protect('jobs'); GRANT ALL ON jobs TO PUBLIC;
         ALTER TABLE jobs ADD CONSTRAINT to_site FOREIGN KEY (site_id) REFERENCES sites",
    );
    assert_alike(|id| admin.attempt(&format!("INSERT INTO jobs (id, site_id) VALUES (1, {id})")));
    admin.run("INSERT INTO jobs (id, site_id) VALUES (1, 1)");
}

#[test]
fn d4_deferred_keys_hold_at_commit() {
    let world = World::new();
    world.superuser().run(
        "ALTER TABLE sites ALTER CONSTRAINT sites_server_id_fkey DEFERRABLE INITIALLY DEFERRED",
    );
    let mut admin = world.session("acme.admin");
    // The child first, its parent later.
    admin.run("BEGIN; INSERT INTO sites (id, name, server_id) VALUES (60, 'acme-60', 60)");
    admin.run("INSERT INTO servers (id, name) VALUES (60, 'acme-60'); COMMIT");
    // Another org's, and none: at the latest at COMMIT.
    for attempt in ["COMMIT", "SET CONSTRAINTS ALL IMMEDIATE"] {
        assert_alike(|id| {
            admin.run("BEGIN");
            let result = admin
                .attempt(&format!(
                    "INSERT INTO sites (id, name, server_id) VALUES (61, 'x', {id})"
                ))
                .and_then(|_| admin.attempt(attempt));
            admin.run("ROLLBACK");
            result
        });
    }
    // The parent comes later, but from the other org.
    let mut app = world.app();
    app.run("BEGIN");
    app.run(&world.claim(world.acme, "agency"));
    app.run("INSERT INTO sites (id, name, server_id) VALUES (62, 'acme-62', 162)");
    let mut other = world.session("globex.admin");
    other.run("INSERT INTO servers (id, name) VALUES (162, 'globex-162')");
    fails(app.attempt("COMMIT"), "23503");
    assert_eq!(
        world
            .superuser()
            .count("SELECT count(*) FROM sites WHERE id IN (61, 62)"),
        0
    );
    // A child that is gone again before the end has no quarrel with anybody.
    admin.run("BEGIN; INSERT INTO sites (id, name, server_id) VALUES (63, 'acme-63', 63); DELETE FROM sites WHERE id = 63; COMMIT");
    admin.run("BEGIN; INSERT INTO sites (id, name, server_id) VALUES (64, 'acme-64', 64); UPDATE sites SET server_id = 1 WHERE id = 64; COMMIT");
    admin.run("BEGIN; SAVEPOINT s; INSERT INTO sites (id, name, server_id) VALUES (65, 'acme-65', 65); ROLLBACK TO s; COMMIT");
}

#[test]
fn d2_a_child_that_is_gone_before_the_end_tells_nothing() {
    // PostgreSQL does not look for the parent of a row that is no longer there; so a refusal would tell of one.
    let world = World::new();
    world.superuser().run(
        "ALTER TABLE sites ALTER CONSTRAINT sites_server_id_fkey DEFERRABLE INITIALLY DEFERRED",
    );
    let mut admin = world.session("acme.admin");
    for id in [101, 999] {
        for after in [
            "DELETE FROM sites WHERE id = 60",
            "UPDATE sites SET server_id = 1 WHERE id = 60",
            "UPDATE sites SET server_id = NULL WHERE id = 60",
            "DELETE FROM sites",
            "UPDATE sites SET server_id = 1, visits = visits + 1",
        ] {
            admin.run(&format!(
                "BEGIN; INSERT INTO sites (id, name, server_id) VALUES (60, 'acme-60', {id}); {after};
                 UPDATE sites SET visits = visits; COMMIT"
            ));
            admin.run("DELETE FROM sites WHERE id = 60");
            admin.run(&format!(
                "BEGIN; INSERT INTO sites (id, name, server_id) VALUES (60, 'acme-60', 1); SAVEPOINT s;
                 UPDATE sites SET server_id = {id} WHERE id = 60; ROLLBACK TO s; COMMIT; DELETE FROM sites WHERE id = 60"
            ));
        }
        // There again, or moved without the key: the reference stands.
        for after in [
            "UPDATE sites SET visits = 1 WHERE id = 60",
            "UPDATE sites SET id = 61 WHERE id = 60",
        ] {
            admin.run(&format!(
                "BEGIN; INSERT INTO sites (id, name, server_id) VALUES (60, 'acme-60', {id}); {after}"
            ));
            fails(admin.attempt("COMMIT"), "23503");
        }
    }
}

#[test]
fn d4_set_constraints_defers_no_guard() {
    let world = World::new();
    world.superuser().run(
        "ALTER TABLE sites ALTER CONSTRAINT sites_server_id_fkey DEFERRABLE INITIALLY IMMEDIATE",
    );
    let mut admin = world.session("acme.admin");
    assert_alike(|id| admin.attempt(&format!("UPDATE sites SET server_id = {id} WHERE id = 1")));
    for names in ["ALL", "sites_server_id_fkey"] {
        assert_alike(|id| {
            admin.run(&format!("BEGIN; SET CONSTRAINTS {names} DEFERRED"));
            let result = admin
                .attempt(&format!("UPDATE sites SET server_id = {id} WHERE id = 1"))
                .and_then(|_| admin.attempt("COMMIT"));
            admin.run("ROLLBACK");
            result
        });
        admin.run(&format!(
            "BEGIN; SET CONSTRAINTS {names} DEFERRED; INSERT INTO sites (id, name, server_id) VALUES (60, 'acme-60', 60);
             INSERT INTO servers (id, name) VALUES (60, 'acme-60'); ROLLBACK"
        ));
    }
}

#[test]
fn d4_two_phase_commit_waits_for_no_parent() {
    let world = World::new();
    world.superuser().run(
        "ALTER TABLE sites ALTER CONSTRAINT sites_server_id_fkey DEFERRABLE INITIALLY DEFERRED",
    );
    let mut admin = world.session("acme.admin");
    let gid = format!("{}_x", world.db.name);
    for id in [101, 999] {
        admin.run(&format!(
            "BEGIN; INSERT INTO sites (id, name, server_id) VALUES (61, 'x', {id})"
        ));
        fails(
            admin.attempt(&format!("PREPARE TRANSACTION '{gid}'")),
            "23503",
        );
        admin.run("ROLLBACK");
    }
    admin.run(&format!(
        "BEGIN; INSERT INTO sites (id, name, server_id) VALUES (61, 'acme-61', 1); PREPARE TRANSACTION '{gid}'"
    ));
    admin.run(&format!("COMMIT PREPARED '{gid}'"));
    assert_eq!(admin.count("SELECT count(*) FROM sites WHERE id = 61"), 1);
}

#[test]
fn d3_a_cascade_needs_the_parents_right_only_and_stays_in_the_org() {
    let world = World::new();
    world.superuser().run(
        r#"CREATE TABLE folders (id int PRIMARY KEY, org_id uuid);
           CREATE TABLE files (id int PRIMARY KEY, org_id uuid,
               folder_id int REFERENCES folders ON DELETE CASCADE ON UPDATE CASCADE,
               second_id int REFERENCES folders ON DELETE SET NULL ON UPDATE CASCADE);
           SELECT tenancy.protect('folders', permissions => '{"insert": "site:deploy", "update": "site:manage", "delete": "site:manage"}');
           SELECT tenancy.protect('files', permissions => '{"insert": "site:delete", "update": "site:delete", "delete": "site:delete"}');
           GRANT ALL ON folders, files TO PUBLIC"#,
    );
    for (who, base) in [("acme.admin", 0), ("globex.admin", 100)] {
        world.session(who).run(&format!(
            "INSERT INTO folders SELECT {base} + i FROM generate_series(1, 3) i;
             INSERT INTO files (id, folder_id, second_id) SELECT {base} + i, {base} + i, {base} + 1 FROM generate_series(1, 3) i"
        ));
    }
    let globex = (
        world.hash("folders", world.globex),
        world.hash("files", world.globex),
    );
    let mut member = world.session("acme.member");
    refused(member.attempt("DELETE FROM files"), "42501");
    assert_eq!(member.run("UPDATE folders SET id = 20 WHERE id = 2"), 1);
    assert_eq!(
        member.text("SELECT folder_id FROM files WHERE id = 2"),
        "20"
    );
    assert_eq!(member.run("DELETE FROM folders WHERE id = 1"), 1);
    assert_eq!(
        member.rows("SELECT id, second_id FROM files ORDER BY id"),
        [[Some("2".to_string()), None], [Some("3".to_string()), None]]
    );
    assert_eq!(member.run("DELETE FROM folders"), 2);
    assert_eq!(member.count("SELECT count(*) FROM files"), 0);
    assert_eq!(
        (
            world.hash("folders", world.globex),
            world.hash("files", world.globex)
        ),
        globex
    );
}

#[test]
fn d3_a_cascade_does_not_reach_another_orgs_row() {
    let world = World::new();
    // Only break-glass can make such a reference; a row of the other org must still not go by a tenant's hand.
    world
        .break_glass()
        .run("UPDATE sites SET server_id = 1 WHERE id = 105");
    let globex = world.hash("sites", world.globex);
    for sql in [
        "DELETE FROM servers WHERE id = 1",
        "UPDATE servers SET id = 70 WHERE id = 1",
    ] {
        let _ = world.session("acme.owner").attempt(sql);
        assert_eq!(world.hash("sites", world.globex), globex, "{sql}");
    }
}

#[test]
fn d5_a_trigger_fired_by_a_cascade_writes_no_other_orgs_row() {
    let world = World::new();
    let mut dba = world.superuser();
    let globex = world.globex.id;
    dba.run("CREATE TABLE trail (id int PRIMARY KEY, org_id uuid); SELECT tenancy.protect('trail'); GRANT ALL ON trail TO PUBLIC");
    for (i, act) in [
        "UPDATE sites SET name = 'hacked' WHERE id = 101".to_string(),
        "DELETE FROM sites WHERE id = 102".to_string(),
        format!(
            "INSERT INTO sites (id, org_id, name) VALUES (700 + OLD.id, '{globex}', 'planted')"
        ),
        format!("INSERT INTO trail (id, org_id) VALUES (OLD.id, '{globex}')"),
        "UPDATE servers SET name = 'hacked' WHERE id = 101".to_string(),
    ]
    .iter()
    .enumerate()
    {
        for time in ["BEFORE", "AFTER"] {
            dba.run(&format!(
                "CREATE OR REPLACE FUNCTION bad{i}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {act}; RETURN OLD; END $$;
                 CREATE TRIGGER bad {time} DELETE ON sites FOR EACH ROW WHEN (OLD.org_id <> '{globex}')
                     EXECUTE FUNCTION bad{i}()"
            ));
            let before = (
                world.hash("sites", world.globex),
                world.hash("servers", world.globex),
                world.hash("trail", world.globex),
            );
            let mut owner = world.session("acme.owner");
            owner.run("BEGIN");
            // Refused, or it touched nothing: the cascade runs as the tables' owner without row security.
            if let Err(error) = owner.attempt("DELETE FROM servers WHERE id = 1") {
                let error = error.as_db_error().unwrap();
                assert_eq!(error.code().code(), "42501", "{error:?}");
                owner.run("ROLLBACK");
            } else {
                owner.run("COMMIT");
            }
            assert_eq!(
                (
                    world.hash("sites", world.globex),
                    world.hash("servers", world.globex),
                    world.hash("trail", world.globex)
                ),
                before,
                "{time}: {act}"
            );
            dba.run("DROP TRIGGER bad ON sites");
            // Whatever went is brought back for the next round.
            world.break_glass().run(&format!(
                "INSERT INTO servers (id, org_id, name) VALUES (1, '{0}', 'acme-server-1') ON CONFLICT DO NOTHING;
                 INSERT INTO sites (id, org_id, server_id, name) VALUES (3, '{0}', 1, 'acme-site-3'), (6, '{0}', 1, 'acme-site-6')
                     ON CONFLICT DO NOTHING",
                world.acme.id
            ));
        }
    }
}

#[test]
fn keys_of_several_columns_and_of_ones_own_table() {
    let world = World::new();
    world.superuser().run(
        "CREATE TABLE racks (site text, number int, org_id uuid, PRIMARY KEY (site, number));
         CREATE TABLE slots (id int PRIMARY KEY, org_id uuid, site text, number int, parent_id int REFERENCES slots,
             FOREIGN KEY (site, number) REFERENCES racks ON UPDATE CASCADE);
         SELECT tenancy.protect('racks'); SELECT tenancy.protect('slots'); GRANT ALL ON racks, slots TO PUBLIC",
    );
    let mut acme = world.session("acme.admin");
    let mut globex = world.session("globex.admin");
    acme.run("INSERT INTO racks VALUES ('a', 1); INSERT INTO slots (id, site, number) VALUES (1, 'a', 1)");
    globex.run("INSERT INTO racks VALUES ('g', 101); INSERT INTO slots (id, site, number) VALUES (101, 'g', 101)");
    assert_alike(|id| {
        acme.attempt(&format!(
            "INSERT INTO slots (id, site, number) VALUES (2, 'g', {id})"
        ))
    });
    // MATCH SIMPLE: one NULL and the reference is none.
    acme.run("INSERT INTO slots (id, site, number) VALUES (3, 'g', NULL)");
    assert_alike(|id| {
        acme.attempt(&format!(
            "INSERT INTO slots (id, parent_id) VALUES (4, {id})"
        ))
    });
    acme.run("INSERT INTO slots (id, parent_id) VALUES (5, 1), (6, 5), (7, 7)");
    acme.run("UPDATE racks SET number = 2 WHERE number = 1");
    assert_eq!(acme.text("SELECT number FROM slots WHERE id = 1"), "2");
    // The org as part of the key, as careful schemas have it.
    world.superuser().run(
        "CREATE TABLE parts (org_id uuid, id int, PRIMARY KEY (org_id, id));
         CREATE TABLE uses (org_id uuid, id int, part int, PRIMARY KEY (org_id, id), FOREIGN KEY (org_id, part) REFERENCES parts);
         SELECT tenancy.protect('parts'); SELECT tenancy.protect('uses'); GRANT ALL ON parts, uses TO PUBLIC",
    );
    globex.run("INSERT INTO parts (id) VALUES (101)");
    acme.run("INSERT INTO parts (id) VALUES (1); INSERT INTO uses (id, part) VALUES (1, 1)");
    assert_alike(|id| acme.attempt(&format!("INSERT INTO uses (id, part) VALUES (2, {id})")));
}

#[test]
fn keys_of_other_types() {
    let world = World::people();
    world.superuser().run(
        "CREATE TABLE up (id uuid PRIMARY KEY, code text UNIQUE, n numeric UNIQUE, big bigint UNIQUE, org_id uuid);
         CREATE TABLE down (id int PRIMARY KEY, org_id uuid, up_id uuid REFERENCES up, code varchar(20) REFERENCES up (code),
             n numeric REFERENCES up (n), small int REFERENCES up (big));
         SELECT tenancy.protect('up'); SELECT tenancy.protect('down'); GRANT ALL ON up, down TO PUBLIC",
    );
    let mut globex = world.session("globex.admin");
    globex.run(
        "INSERT INTO up VALUES ('11111111-1111-1111-1111-111111111101', 'code101', 101.50, 101)",
    );
    let mut acme = world.session("acme.admin");
    acme.run("INSERT INTO up VALUES ('22222222-2222-2222-2222-222222222222', 'mine', 2.0, 2)");
    acme.run("INSERT INTO down (id, up_id, code, n, small) VALUES (1, '22222222-2222-2222-2222-222222222222', 'mine', 2.000, 2)");
    assert_alike(|id| {
        acme.attempt(&format!(
            "INSERT INTO down (id, up_id) VALUES (2, '11111111-1111-1111-1111-111111111{id}')"
        ))
    });
    assert_alike(|id| {
        acme.attempt(&format!(
            "INSERT INTO down (id, code) VALUES (2, 'code{id}')"
        ))
    });
    assert_alike(|id| acme.attempt(&format!("INSERT INTO down (id, n) VALUES (2, {id}.5)")));
    assert_alike(|id| acme.attempt(&format!("INSERT INTO down (id, small) VALUES (2, {id})")));
    // A long key, which is stored compressed.
    globex.run("INSERT INTO up (id, code) VALUES (gen_random_uuid(), repeat('x', 3000) || '101')");
    world
        .superuser()
        .run("ALTER TABLE down ALTER code TYPE text");
    assert_alike(|id| {
        acme.attempt(&format!(
            "INSERT INTO down (id, code) VALUES (2, repeat('x', 3000) || '{id}')"
        ))
    });
}

#[test]
fn many_rows_in_one_statement() {
    let world = World::new();
    let mut admin = world.session("acme.admin");
    assert_eq!(
        admin.run("INSERT INTO sites (id, name, server_id) SELECT i, 'acme-' || i, 1 + i % 3 FROM generate_series(1001, 4000) i"),
        3000
    );
    // One bad row among them, anywhere.
    for bad in [5001, 5700, 8000] {
        assert_alike(|id| {
            admin.attempt(&format!(
                "INSERT INTO sites (id, name, server_id)
                 SELECT i, 'acme-' || i, CASE i WHEN {bad} THEN {id} ELSE 1 + i % 3 END FROM generate_series(5001, 8000) i"
            ))
        });
    }
    assert_eq!(admin.count("SELECT count(*) FROM sites"), 3006);
}

#[test]
fn a_parent_remembered_in_one_org_is_not_known_in_the_next() {
    let world = World::new();
    let mut app = world.app();
    let insert = |id: i32, server: i32| {
        format!("INSERT INTO sites (id, name, server_id) VALUES ({id}, 'x', {server})")
    };
    for round in 0..3 {
        world.begin(&mut app, world.acme, "agency");
        app.run(&insert(1000 + round, 1));
        app.run("COMMIT");
        world.begin(&mut app, world.globex, "globex.admin");
        app.run(&insert(2000 + round, 101));
        fails(app.attempt_within(&insert(3000 + round, 1)), "23503");
        app.run("COMMIT");
    }
    // Nor after it was removed.
    world
        .session("acme.admin")
        .run("DELETE FROM servers WHERE id = 1");
    world.begin(&mut app, world.acme, "agency");
    fails(app.attempt(&insert(4000, 1)), "23503");
    app.run("ROLLBACK");
}

#[test]
fn a_reference_needs_no_right_to_read_the_parent() {
    // As in PostgreSQL: the key is checked with the owner's eyes; here within the org.
    let world = World::new();
    let mut dba = world.superuser();
    dba.run("REVOKE ALL ON servers FROM PUBLIC");
    let mut member = world.session("acme.member");
    member.run("INSERT INTO sites (id, name, server_id) VALUES (60, 'acme-60', 1)");
    assert_alike(|id| {
        member.attempt(&format!(
            "INSERT INTO sites (id, name, server_id) VALUES (61, 'x', {id})"
        ))
    });
}

#[test]
fn d4_a_crowd_of_writers_makes_no_reference_across_orgs() {
    // Ids are taken by either org, given up and taken again, while children of both refer to them.
    for deferrable in ["NOT DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED"] {
        let world = std::sync::Arc::new(World::people());
        world.superuser().run(&format!(
            "CREATE TABLE nodes (id int PRIMARY KEY, org_id uuid);
             CREATE TABLE links (id bigserial PRIMARY KEY, org_id uuid, node int REFERENCES nodes {deferrable});
             SELECT tenancy.protect('nodes', audit => false); SELECT tenancy.protect('links', audit => false);
             GRANT ALL ON nodes, links, links_id_seq TO PUBLIC"
        ));
        let threads: Vec<_> = (0..8u64)
            .map(|thread| {
                let world = world.clone();
                std::thread::spawn(move || {
                    let (org, who) = if thread % 2 == 0 {
                        (world.acme, "acme.admin")
                    } else {
                        (world.globex, "globex.admin")
                    };
                    let mut app = world.app();
                    let mut random = thread * 7919 + 88172645463325252;
                    let mut done = 0;
                    for _ in 0..150 {
                        let mut next = |n: u64| {
                            random ^= random << 13;
                            random ^= random >> 7;
                            random ^= random << 17;
                            random % n
                        };
                        world.begin(&mut app, org, who);
                        app.run("SET LOCAL lock_timeout = '2s'");
                        let mut whole = true;
                        for _ in 0..=next(3) {
                            let id = next(12);
                            let sql = match next(7) {
                                0 | 1 => format!("INSERT INTO nodes VALUES ({id}) ON CONFLICT DO NOTHING"),
                                2 => format!("DELETE FROM nodes WHERE id = {id} AND NOT EXISTS (SELECT FROM links WHERE node = {id})"),
                                3 => format!("DELETE FROM links WHERE node = {id}"),
                                4 => format!("UPDATE links SET node = {id} WHERE node % 3 = 0"),
                                _ => format!("INSERT INTO links (node) VALUES ({id})"),
                            };
                            match app.attempt_within(&sql) {
                                Ok(_) => {}
                                Err(error) => {
                                    let code = error.as_db_error().map(|e| e.code().code().to_string());
                                    assert!(
                                        ["23503", "40P01", "55P03", "23505"].contains(&code.as_deref().unwrap_or("gone")),
                                        "{sql}: {error:?}"
                                    );
                                    whole = code.as_deref() == Some("23503");
                                    if !whole {
                                        break;
                                    }
                                }
                            }
                        }
                        match app.attempt("COMMIT") {
                            Ok(_) => done += u32::from(whole),
                            Err(error) => {
                                fails::<()>(Err(error), "23503");
                                app.run("ROLLBACK");
                            }
                        }
                    }
                    done
                })
            })
            .collect();
        let done: u32 = threads
            .into_iter()
            .map(|t| t.join().expect("a writer"))
            .sum();
        assert!(done > 100, "{done}");
        let mut dba = world.superuser();
        assert_eq!(
            dba.rows(
                "SELECT l.id, l.node FROM links l LEFT JOIN nodes n ON n.id = l.node
                 WHERE l.node IS NOT NULL AND n.org_id IS DISTINCT FROM l.org_id"
            ),
            Vec::<Vec<Option<String>>>::new(),
            "{deferrable}"
        );
        assert!(dba.count("SELECT count(*) FROM links") > 0);
    }
}

#[test]
fn d1_columns_of_a_key_are_told_apart() {
    // ('ab', 'c') and ('a', 'bc') are two keys, also in the memory of what was found.
    let world = World::people();
    world.superuser().run(
        "CREATE TABLE p (a text, b text, org_id uuid, PRIMARY KEY (a, b));
         CREATE TABLE c (id int, a text, b text, org_id uuid, FOREIGN KEY (a, b) REFERENCES p);
         SELECT tenancy.protect('p'); SELECT tenancy.protect('c'); GRANT ALL ON p, c TO PUBLIC",
    );
    world
        .session("globex.admin")
        .run("INSERT INTO p VALUES ('a', 'bc')");
    let mut acme = world.session("acme.admin");
    acme.run("INSERT INTO p VALUES ('ab', 'c')");
    fails(
        acme.attempt("INSERT INTO c (id, a, b) VALUES (1, 'ab', 'c'), (2, 'a', 'bc')"),
        "23503",
    );
    acme.run("BEGIN; INSERT INTO c (id, a, b) VALUES (1, 'ab', 'c')");
    fails(
        acme.attempt("INSERT INTO c (id, a, b) VALUES (2, 'a', 'bc')"),
        "23503",
    );
}

#[test]
fn d1_whatever_the_types_of_parent_and_child() {
    // Each pair that PostgreSQL lets a foreign key have: a parent of one's own is found, another's is missing, nothing crashes.
    let world = World::people();
    for (i, (parent, child)) in [
        ("int", "bigint"),
        ("bigint", "int"),
        ("bigint", "smallint"),
        ("smallint", "bigint"),
        ("numeric", "int"),
        ("numeric", "bigint"),
        ("numeric", "numeric(10,2)"),
        ("float8", "int"),
        ("float4", "int"),
        ("float8", "numeric"),
        ("float8", "float4"),
        ("text", "varchar(20)"),
        ("text", "char(3)"),
        ("text", "\"char\""),
        ("text", "name"),
        ("varchar(20)", "text"),
        ("char(5)", "char(3)"),
        ("name", "text"),
        ("oid", "int"),
        ("inet", "cidr"),
        ("uuid", "uuid"),
        ("date", "date"),
        ("timestamptz", "date"),
        ("timestamp", "date"),
    ]
    .iter()
    .enumerate()
    {
        let mut dba = world.superuser();
        let made = dba.attempt(&format!(
            "CREATE TABLE p{i} (k {parent} PRIMARY KEY, org_id uuid);
             CREATE TABLE c{i} (id int, k {child} REFERENCES p{i}, org_id uuid);
             SELECT tenancy.protect('p{i}'); SELECT tenancy.protect('c{i}'); GRANT ALL ON p{i}, c{i} TO PUBLIC"
        ));
        if let Err(error) = made {
            // Refused by PostgreSQL (no such key), or by us in words.
            assert!(error.as_db_error().is_some(), "{parent} {child}: {error:?}");
            continue;
        }
        let value = |n: u8| match *parent {
            "uuid" => format!("'00000000-0000-0000-0000-00000000000{n}'"),
            "inet" => format!("'10.0.0.{n}'"),
            "date" | "timestamptz" | "timestamp" => format!("'2024-01-0{n}'"),
            _ => format!("'{n}'"),
        };
        let mut acme = world.session("acme.admin");
        let mut globex = world.session("globex.admin");
        acme.run(&format!("INSERT INTO p{i} VALUES ({})", value(1)));
        globex.run(&format!("INSERT INTO p{i} VALUES ({})", value(2)));
        let insert = |n: u8| format!("INSERT INTO c{i} (id, k) VALUES ({n}, {})", value(n));
        acme.attempt(&insert(1))
            .unwrap_or_else(|e| panic!("{parent} {child}: own parent: {e:?}"));
        let other = fails(acme.attempt(&insert(2)), "23503");
        let missing = fails(acme.attempt(&insert(3)), "23503");
        assert_same_error(&other, &missing, &[]);
        // The same under a deferred key, and by another's hand.
        globex
            .attempt(&insert(2))
            .unwrap_or_else(|e| panic!("{parent} {child}: own parent of globex: {e:?}"));
        fails(globex.attempt(&insert(1)), "23503");
        assert_eq!(
            dba.count(&format!(
                "SELECT count(*) FROM c{i} WHERE org_id <> CASE id WHEN 1 THEN '{}' ELSE '{}' END::uuid",
                world.acme.id, world.globex.id
            )),
            0,
            "{parent} {child}"
        );
    }
}

#[test]
fn d2_a_parent_hidden_from_one_key_is_not_hidden_from_another() {
    let world = World::people();
    world.superuser().run(
        "CREATE TABLE p (a int UNIQUE, b int UNIQUE, org_id uuid);
         CREATE TABLE c (a int REFERENCES p (a) DEFERRABLE INITIALLY DEFERRED, org_id uuid);
         CREATE TABLE d (b int REFERENCES p (b), org_id uuid);
         CREATE TABLE e (a int REFERENCES p (a), org_id uuid);
         SELECT tenancy.protect('p'); SELECT tenancy.protect('c'); SELECT tenancy.protect('d'); SELECT tenancy.protect('e');
         GRANT ALL ON p, c, d, e TO PUBLIC",
    );
    world
        .session("globex.admin")
        .run("INSERT INTO p (a) VALUES (100)");
    let mut acme = world.session("acme.admin");
    acme.run("INSERT INTO p (b) VALUES (100), (101)");
    for id in [100, 101] {
        acme.run(&format!("BEGIN; INSERT INTO c (a) VALUES ({id})"));
        acme.run(&format!("INSERT INTO d (b) VALUES ({id})"));
        fails(
            acme.attempt_within(&format!("INSERT INTO e (a) VALUES ({id})")),
            "23503",
        );
        fails(acme.attempt("COMMIT"), "23503");
    }
}

#[test]
fn d5_a_trigger_inside_a_cascade_reads_and_writes_as_outside_of_it() {
    // PostgreSQL runs it as the tables' owner and without row security; it may be the application's own, and honest.
    let world = World::new();
    world.superuser().run(
        r#"CREATE TABLE folders (id int PRIMARY KEY, org_id uuid);
           CREATE TABLE files (id int PRIMARY KEY, org_id uuid, folder_id int REFERENCES folders ON DELETE CASCADE ON UPDATE CASCADE);
           CREATE TABLE bills (id serial PRIMARY KEY, org_id uuid, note text);
           CREATE TABLE loot (what text);
           INSERT INTO bills (org_id, note) SELECT org_id, name FROM servers;
           SELECT tenancy.protect('folders'); SELECT tenancy.protect('files');
           SELECT tenancy.protect('bills', permissions => '{"insert": "billing:manage", "update": "billing:manage", "delete": "billing:manage"}');
           GRANT ALL ON folders, files, bills, loot, bills_id_seq TO PUBLIC;
           CREATE FUNCTION reading() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               INSERT INTO public.loot SELECT note FROM public.bills; RETURN COALESCE(NEW, OLD); END $$;
           CREATE FUNCTION writing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               INSERT INTO public.bills (note) VALUES ('by a cascade'); RETURN COALESCE(NEW, OLD); END $$"#,
    );
    let owner = world.table_owner();
    world.superuser().run(&format!(
        "ALTER TABLE folders OWNER TO {owner}; ALTER TABLE files OWNER TO {owner}; ALTER TABLE bills OWNER TO {owner};
         ALTER TABLE loot OWNER TO {owner}"
    ));
    let mut admin = world.session("acme.admin");
    let bills = (
        world.hash("bills", world.acme),
        world.hash("bills", world.globex),
    );
    for (i, time) in ["BEFORE", "AFTER"].iter().enumerate() {
        for function in ["reading", "writing"] {
            world.superuser().run(&format!(
                "CREATE TRIGGER honest {time} UPDATE OR DELETE ON files FOR EACH ROW EXECUTE FUNCTION {function}()"
            ));
            let id = 10 * i + 1;
            admin.run(&format!(
                "INSERT INTO folders VALUES ({id}); INSERT INTO files (id, folder_id) VALUES ({id}, {id})"
            ));
            for act in [
                format!("UPDATE folders SET id = id + 5 WHERE id = {id}"),
                format!("DELETE FROM folders WHERE id IN ({id}, {id} + 5)"),
            ] {
                // A member may change folders, and has no business with bills.
                let result = world.session("acme.member").attempt(&act);
                if function == "writing" {
                    fails(result, "42501");
                }
                let loot = world
                    .superuser()
                    .column("SELECT what FROM loot WHERE what LIKE 'globex%'");
                assert_eq!(loot, Vec::<String>::new(), "{time} {function}: {act}");
                assert_eq!(
                    (
                        world.hash("bills", world.acme),
                        world.hash("bills", world.globex)
                    ),
                    bills,
                    "{time} {function}: {act}"
                );
            }
            world.superuser().run("DROP TRIGGER honest ON files");
            world
                .break_glass()
                .run("DELETE FROM files; DELETE FROM folders");
        }
    }
}

#[test]
fn d4_a_deferred_key_of_a_table_rewritten_meanwhile_holds() {
    let world = World::people();
    let owner = world.db.role("acme.owner");
    let mut dba = world.superuser();
    for (i, rewrite) in [
        "CLUSTER cc USING cc_pkey",
        "ALTER TABLE cc ALTER v TYPE bigint",
        "UPDATE cc SET v = v + 1",
        "DROP TABLE cc",
        "ALTER TABLE cc DROP CONSTRAINT cc_a_fkey",
    ]
    .iter()
    .enumerate()
    {
        dba.run(&format!(
            "DROP TABLE IF EXISTS cc; DROP TABLE IF EXISTS pp;
             CREATE TABLE pp (id int PRIMARY KEY, org_id uuid);
             CREATE TABLE cc (id int PRIMARY KEY, org_id uuid, a int REFERENCES pp DEFERRABLE INITIALLY DEFERRED, v int DEFAULT 0);
             SELECT tenancy.protect('pp'); SELECT tenancy.protect('cc'); GRANT ALL ON pp, cc TO PUBLIC; ALTER TABLE cc OWNER TO {owner};
             GRANT CREATE ON SCHEMA public TO {owner}"
        ));
        let mut acme = world.session("acme.owner");
        acme.run(&format!("BEGIN; INSERT INTO cc (id, a) VALUES (2, {i}11)"));
        world
            .session("globex.admin")
            .run(&format!("INSERT INTO pp VALUES ({i}11)"));
        let result = acme
            .attempt("SET CONSTRAINTS ALL IMMEDIATE")
            .and_then(|_| acme.attempt(rewrite))
            .and_then(|_| acme.attempt("COMMIT"));
        if let Err(error) = result {
            let code = error
                .as_db_error()
                .expect("an error of the server")
                .code()
                .code()
                .to_string();
            assert!(!code.starts_with("XX"), "{rewrite}: {error:?}");
            acme.attempt("ROLLBACK").ok();
        }
        if dba.is_true("SELECT to_regclass('cc') IS NOT NULL")
            && !rewrite.contains("DROP CONSTRAINT")
        {
            assert_eq!(
                dba.count("SELECT count(*) FROM cc LEFT JOIN pp ON pp.id = cc.a WHERE pp.org_id IS DISTINCT FROM cc.org_id"),
                0,
                "{rewrite}"
            );
        }
    }
}
