//! Grants for one environment.

use pg_tenancy_tests::roles::{assign, call, role};
use pg_tenancy_tests::{Session, World, refused};

#[test]
fn a_grant_for_one_environment_counts_there_only() {
    let world = World::new();
    role(&world, "shipper", &["site:read"]);
    let mut owner = world.session("acme.owner");
    owner.run(&call(
        &world,
        "grant_permission",
        "'shipper', 'site:manage', environment => 'staging'",
    ));
    owner.run(&assign(&world, "acme.viewer", "shipper"));
    let mut shipper = world.session("acme.viewer");
    let level = |s: &mut Session, environment: &str| {
        s.text(&format!(
            "SELECT tenancy.permission_level('shipper', 'site:manage', {environment})"
        ))
    };
    assert_eq!(level(&mut shipper, "'staging'"), "allow");
    assert_eq!(level(&mut shipper, "'production'"), "deny");
    assert_eq!(level(&mut shipper, "NULL"), "deny");
    assert!(shipper.is_true("SELECT tenancy.has_permission_in('staging', 'site:manage')"));
    assert!(!shipper.is_true("SELECT tenancy.has_permission_in('production', 'site:manage')"));
    assert!(!shipper.is_true("SELECT tenancy.has_permission('site:manage')"));
    let of_user = |environment: &str| {
        format!(
            "SELECT tenancy.has_permission('{}'::uuid, '{}'::uuid, 'site:manage'{environment})",
            world.user("acme.viewer"),
            world.acme.id
        )
    };
    assert!(!shipper.is_true(&of_user("")));
    assert!(shipper.is_true(&of_user(", 'staging'")));
    assert!(!shipper.is_true(&of_user(", environment => 'production'")));
    // A table that names no environment could hold production rows.
    refused(shipper.attempt("UPDATE sites SET visits = 0"), "42501");
    assert_eq!(shipper.value("SELECT tenancy.org_if('site:manage')"), None);
    // Allow everywhere but in production.
    owner.run(&call(
        &world,
        "grant_permission",
        "'shipper', 'site:manage'",
    ));
    assert_eq!(shipper.run("UPDATE sites SET visits = 1"), 6);
    owner.run(&call(
        &world,
        "grant_permission",
        "'shipper', 'site:manage', 'deny', 'production'",
    ));
    assert_eq!(level(&mut shipper, "'production'"), "deny");
    assert_eq!(level(&mut shipper, "'development'"), "allow");
    assert_eq!(level(&mut shipper, "NULL"), "deny");
    refused(shipper.attempt("UPDATE sites SET visits = 2"), "42501");
    // Each grant is revoked by its own name.
    owner.run(&call(
        &world,
        "revoke_permission",
        "'shipper', 'site:manage', 'production'",
    ));
    assert_eq!(shipper.run("UPDATE sites SET visits = 2"), 6);
    let error = refused(
        owner.attempt(&call(
            &world,
            "revoke_permission",
            "'shipper', 'site:manage', 'production'",
        )),
        "42704",
    );
    assert!(error.message().contains("site:manage"));
    for bad in ["''", "' x'", "E'a\\nb'", "repeat('x', 64)"] {
        refused(
            owner.attempt(&call(
                &world,
                "grant_permission",
                &format!("'shipper', 'site:read', environment => {bad}"),
            )),
            "22023",
        );
    }
}

/// "app:deploy on staging, not on production", at a table whose rows have an environment.
#[test]
fn a_grant_for_one_environment_writes_its_rows_and_no_others() {
    let world = World::people();
    let mut dba = world.superuser();
    let acme = world.acme.id;
    dba.run(&format!(
        r#"CREATE TABLE apps (id int PRIMARY KEY, org_id uuid, environment text, version int NOT NULL DEFAULT 1, replicas int NOT NULL DEFAULT 1);
           CREATE TABLE parts (id int PRIMARY KEY, org_id uuid, app_id int REFERENCES apps ON UPDATE CASCADE ON DELETE CASCADE);
           GRANT ALL ON apps, parts TO PUBLIC;
           INSERT INTO apps SELECT i, '{acme}', (ARRAY['staging', 'production', 'development', NULL])[i] FROM generate_series(1, 4) i;
           INSERT INTO parts SELECT i, '{acme}', i FROM generate_series(1, 4) i;
           SELECT tenancy.protect('apps', environment_column => 'environment', permissions =>
               '{{"select": "app:read", "insert": "app:manage", "update": "app:deploy", "delete": "app:delete", "columns": {{"replicas": "app:manage"}}}}');
           SELECT tenancy.protect('parts', permissions => '{{"select": "app:read", "update": "org:delete", "delete": "org:delete"}}')"#
    ));
    role(&world, "shipper", &["app:read"]);
    for action in ["app:deploy", "app:manage", "app:delete"] {
        dba.run(&call(
            &world,
            "grant_permission",
            &format!("'shipper', '{action}', environment => 'staging'"),
        ));
    }
    dba.run(&assign(&world, "acme.viewer", "shipper"));
    let mut shipper = world.session("acme.viewer");
    // Reads are of every environment.
    assert_eq!(shipper.count("SELECT count(*) FROM apps"), 4);
    assert_eq!(
        shipper.run("UPDATE apps SET version = 2 WHERE environment = 'staging'"),
        1
    );
    assert_eq!(shipper.run("UPDATE apps SET replicas = 2 WHERE id = 1"), 1);
    assert_eq!(
        shipper.run("INSERT INTO apps (id, environment) VALUES (5, 'staging')"),
        1
    );
    assert_eq!(shipper.run("INSERT INTO apps (id, environment) VALUES (5, 'staging') ON CONFLICT (id) DO UPDATE SET version = 3"), 1);
    assert_eq!(shipper.run("SELECT * FROM apps WHERE id = 1 FOR UPDATE"), 1);
    let before = world.hash("apps", world.acme);
    for sql in [
        "UPDATE apps SET version = 2 WHERE id = 2",
        "UPDATE apps SET version = 2 WHERE id = 3",
        // Whose environment nobody named.
        "UPDATE apps SET version = 2 WHERE id = 4",
        "UPDATE apps SET version = 2",
        // Into production, and out of it.
        "UPDATE apps SET environment = 'production' WHERE id = 1",
        "UPDATE apps SET environment = NULL WHERE id = 1",
        "UPDATE apps SET environment = 'staging' WHERE id = 2",
        "UPDATE apps SET replicas = 3 WHERE id = 2",
        "INSERT INTO apps (id, environment) VALUES (6, 'production')",
        "INSERT INTO apps (id) VALUES (6)",
        "INSERT INTO apps (id, environment) VALUES (2, 'staging') ON CONFLICT (id) DO UPDATE SET version = 3",
        "MERGE INTO apps USING (VALUES (2)) v(i) ON id = i WHEN MATCHED THEN UPDATE SET version = 9",
        "MERGE INTO apps USING (VALUES (2)) v(i) ON id = i WHEN MATCHED THEN DELETE",
        "DELETE FROM apps WHERE id = 2",
        "DELETE FROM apps",
    ] {
        let error = refused(shipper.attempt(sql), "42501");
        assert!(error.message().contains("shipper"), "{sql}: {error:?}");
        assert!(error.message().contains("environment"), "{sql}: {error:?}");
        assert_eq!(world.hash("apps", world.acme), before, "{sql}");
    }
    // Another organization's row is what it always is.
    let error = refused(
        shipper.attempt(&format!(
            "INSERT INTO apps (id, org_id, environment) VALUES (7, '{}', 'staging')",
            world.globex.id
        )),
        "42501",
    );
    assert!(
        error.message().contains("not of the current organization"),
        "{error:?}"
    );
    // What follows from a row that he may delete follows.
    assert_eq!(shipper.run("DELETE FROM apps WHERE id = 1"), 1);
    assert_eq!(shipper.count("SELECT count(*) FROM parts"), 3);
    // Allowed everywhere but in production.
    dba.run(&call(&world, "grant_permission", "'shipper', 'app:deploy'"));
    dba.run(&call(
        &world,
        "grant_permission",
        "'shipper', 'app:deploy', 'deny', 'production'",
    ));
    assert_eq!(
        shipper.run("UPDATE apps SET version = 4 WHERE id IN (3, 5)"),
        2
    );
    for id in [2, 4] {
        refused(
            shipper.attempt(&format!("UPDATE apps SET version = 4 WHERE id = {id}")),
            "42501",
        );
    }
    // The next statement of an open transaction, also of a prepared one.
    shipper.run(
        "PREPARE ship AS UPDATE apps SET version = version + 1 WHERE id = 5; BEGIN; EXECUTE ship",
    );
    dba.run(&call(
        &world,
        "grant_permission",
        "'shipper', 'app:deploy', 'deny', 'staging'",
    ));
    refused(shipper.attempt_within("EXECUTE ship"), "42501");
    shipper.run("COMMIT");
    // Who has it everywhere is asked for no environment.
    let mut owner = world.session("acme.owner");
    assert_eq!(owner.run("UPDATE apps SET version = 7, replicas = 7"), 4);
    // A read right for one environment reads nothing: rows would be missed in silence.
    dba.run(&call(
        &world,
        "grant_permission",
        "'shipper', 'app:read', 'deny', 'production'",
    ));
    assert_eq!(shipper.count("SELECT count(*) FROM apps"), 0);
}

#[test]
fn a_grant_for_one_environment_moves_no_row_to_another_partition() {
    let world = World::people();
    let mut dba = world.superuser();
    let acme = world.acme.id;
    dba.run(&format!(
        r#"CREATE TABLE apps (id int, org_id uuid, environment text, version int NOT NULL DEFAULT 1, PRIMARY KEY (id, environment)) PARTITION BY LIST (environment);
           CREATE TABLE apps_staging PARTITION OF apps FOR VALUES IN ('staging');
           CREATE TABLE apps_rest PARTITION OF apps DEFAULT;
           GRANT ALL ON apps, apps_staging, apps_rest TO PUBLIC;
           INSERT INTO apps SELECT i, '{acme}', (ARRAY['staging', 'production', 'development'])[i] FROM generate_series(1, 3) i;
           SELECT tenancy.protect('apps', environment_column => 'environment', permissions => '{{"select": "app:read", "insert": "server:create", "update": "app:deploy"}}')"#
    ));
    role(&world, "shipper", &["app:read"]);
    for environment in ["staging", "development"] {
        dba.run(&call(
            &world,
            "grant_permission",
            &format!("'shipper', 'app:deploy', environment => '{environment}'"),
        ));
    }
    dba.run(&assign(&world, "acme.viewer", "shipper"));
    let mut shipper = world.session("acme.viewer");
    for table in ["apps", "apps_staging"] {
        assert_eq!(
            shipper.run(&format!(
                "UPDATE {table} SET version = 2 WHERE environment = 'staging'"
            )),
            1
        );
    }
    assert_eq!(
        shipper.run("UPDATE apps SET version = 2 WHERE environment = 'development'"),
        1
    );
    for sql in [
        "UPDATE apps SET version = 2",
        "UPDATE apps_rest SET version = 2",
        "UPDATE apps SET environment = 'production' WHERE id = 1",
        "UPDATE apps SET environment = 'staging' WHERE id = 2",
    ] {
        let error = refused(shipper.attempt(sql), "42501");
        assert!(error.message().contains("environment"), "{sql}: {error:?}");
    }
    // Who may update everywhere moves rows as before, whether or not he may insert.
    assert_eq!(
        world
            .session("acme.member")
            .run("UPDATE apps SET environment = 'development' WHERE id = 1"),
        1
    );
}
