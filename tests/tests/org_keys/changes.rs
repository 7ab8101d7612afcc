//! External keys given, changed and taken away.

use super::stage::{Stage, keyed, set_key};
use pg_tenancy_tests::{World, fails, quote, refused};

#[test]
fn a_dba_gives_them_and_the_organizations_log_says_so() {
    let world = World::people();
    let mut dba = world.superuser();
    let set = |key: &str| {
        format!(
            "SELECT tenancy.set_external_key('{}', {key})",
            world.acme.id
        )
    };
    set_key(&mut dba, world.acme, "new key");
    assert_eq!(
        dba.text(&format!(
            "SELECT external_key FROM tenancy.orgs WHERE id = '{}'",
            world.acme.id
        )),
        "new key"
    );
    dba.run(&set("'new key'"));
    dba.run(&set("NULL"));
    let lines = world.session("acme.owner").rows(
        "SELECT old->>'external_key', new->>'external_key' FROM tenancy.audit_log WHERE operation = 'set_external_key' ORDER BY at, n",
    );
    let text = |t: &str| Some(t.to_string());
    assert_eq!(
        lines,
        [
            vec![text("customer-7"), text("new key")],
            vec![text("new key"), None]
        ]
    );
    for bad in [
        "''",
        "E'a\\nb'",
        "E'\\x01'",
        &quote(&"x".repeat(256)),
        "repeat('ü', 128)",
    ] {
        refused(dba.attempt(&set(bad)), "22023");
        refused(
            dba.attempt(&format!(
                "SELECT tenancy.create_org('B', 'b', owner => '{}', external_key => {})",
                world.user("stranger"),
                bad.replace("''", "repeat('x', 300)")
            )),
            "22023",
        );
    }
    refused(dba.attempt(&set("'customer-8'")), "23505");
    refused(
        dba.attempt("SELECT tenancy.set_external_key(gen_random_uuid(), 'x')"),
        "42501",
    );
    refused(
        dba.attempt("SELECT tenancy.set_external_key(NULL, 'x')"),
        "22004",
    );
    // Nobody else, not even the organization's owner or the application that may name keys of new ones.
    refused(world.session("acme.owner").attempt(&set("'mine'")), "42501");
    refused(world.app().attempt(&set("'mine'")), "42501");
    let ops = world.db.role("ops");
    dba.run(&format!(
        "CREATE ROLE {ops} LOGIN; SELECT tenancy.grant_administration('{ops}')"
    ));
    world.db.login(&ops).run(&set("'by ops'"));
}

#[test]
fn a_key_by_which_rows_go_is_changed_in_break_glass_only() {
    for kind in keyed() {
        let stage = Stage::new(*kind);
        let mut dba = stage.world.superuser();
        let (acme, id) = (&stage.acme, stage.world.acme.id);
        for change in [
            format!("SELECT tenancy.set_external_key('{id}', '77')"),
            format!("SELECT tenancy.set_external_key('{id}', NULL)"),
            format!("UPDATE tenancy.orgs SET external_key = '77' WHERE id = '{id}'"),
        ] {
            let error = refused(dba.attempt(&change), "55006");
            assert!(error.detail().unwrap().contains("projects"), "{error:?}");
        }
        // The first key of an organization takes nobody's rows away.
        let org = dba.text(&format!(
            "SELECT tenancy.create_org('New', 'new', owner => '{}')",
            stage.world.user("stranger")
        ));
        dba.run(&format!("SELECT tenancy.set_external_key('{org}', '1000')"));

        // The key and its rows at once. Open sessions follow at their next statement, prepared plans too.
        let mut admin = stage.admin();
        admin.run("PREPARE p AS SELECT count(*) FROM projects; PREPARE w AS INSERT INTO projects (id) VALUES ($1)");
        for _ in 0..6 {
            assert_eq!(admin.count("EXECUTE p"), 3);
        }
        let mut open = stage.admin();
        open.run("BEGIN");
        assert_eq!(open.count("SELECT count(*) FROM projects"), 3);
        dba.run(&format!(
            "BEGIN; SET LOCAL row_security = off; SELECT tenancy.set_external_key('{id}', '77');
             UPDATE tasks SET \"tenantId\" = '77' WHERE \"tenantId\" = {acme}; COMMIT"
        ));
        // projects were forgotten: they are nobody's.
        assert_eq!(admin.count("EXECUTE p"), 0, "{kind:?}");
        assert_eq!(admin.count("SELECT count(*) FROM tasks"), 6, "{kind:?}");
        assert_eq!(open.count("SELECT count(*) FROM projects"), 0, "{kind:?}");
        open.run("INSERT INTO projects (id) VALUES (50); COMMIT");
        admin.run("EXECUTE w (51)");
        assert_eq!(
            stage
                .world
                .break_glass()
                .column("SELECT \"tenantId\"::text FROM projects WHERE id IN (50, 51)"),
            ["77", "77"]
        );
        fails(
            admin.attempt(&format!(
                "INSERT INTO projects (id, \"tenantId\") VALUES (52, {acme})"
            )),
            "42501",
        );
        // With the tables unprotected the keys are free again.
        dba.run("RESET row_security; SELECT tenancy.unprotect('projects'); SELECT tenancy.unprotect('tasks')");
        dba.run(&format!("SELECT tenancy.set_external_key('{id}', '78')"));
    }
}

#[test]
fn tables_by_uuid_hold_no_external_key() {
    let world = World::new();
    set_key(&mut world.superuser(), world.acme, "changed");
    assert_eq!(
        world
            .session("acme.admin")
            .count("SELECT count(*) FROM servers"),
        3
    );
}

#[test]
fn a_transaction_keeps_to_the_key_it_wrote_with() {
    // Deferred keys are looked up again at commit: as the organization that it was, under the key that it had.
    let stage = Stage::new(keyed()[0]);
    let mut dba = stage.world.superuser();
    dba.run("ALTER TABLE tasks ALTER CONSTRAINT tasks_project_fkey DEFERRABLE INITIALLY DEFERRED");
    let mut admin = stage.admin();
    admin.run("BEGIN; INSERT INTO tasks (id, project) VALUES (10, 60)");
    dba.run(&format!(
        "SET row_security = off; SELECT tenancy.set_external_key('{}', 'renamed'); INSERT INTO projects (id, \"tenantId\") VALUES (60, {})",
        stage.world.acme.id, stage.globex
    ));
    fails(admin.attempt("COMMIT"), "23503");
}
