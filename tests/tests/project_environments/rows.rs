//! Rows, in projects that stay as they are.

use pg_tenancy_tests::refused;

use crate::stage::*;

#[test]
fn a_row_is_as_much_production_as_its_project() {
    let stage = Stage::new();
    let before = stage.hashes();
    let mut admin = stage.admin();
    let mut owner = stage.owner();
    for table in ["apps", "parts", "nodes"] {
        let delete = |id: i32| format!("DELETE FROM {table} WHERE id = {id}");
        about_production(admin.attempt(&delete(1)));
        about_production(owner.attempt(&delete(1)));
        for (who, actor) in [("acme.owner", "service"), ("acme.member", "human")] {
            about_production(stage.acting(who, actor).attempt(&delete(1)));
        }
        owner.run("BEGIN");
        owner.run(&confirm(table, "2"));
        about_production(owner.attempt_within(&delete(1)));
        owner.run(&confirm(table, "1"));
        owner.run(&delete(1));
        owner.run(&delete(2));
        owner.run("ROLLBACK");
        admin.run("BEGIN");
        admin.run(&delete(3));
        admin.run(&delete(5));
        admin.run("ROLLBACK");
    }
    assert_eq!(stage.hashes(), before);
    // Without the protection it is a tag like any other.
    stage.protect(false);
    admin.run("DELETE FROM parts WHERE id = 1; DELETE FROM nodes WHERE id = 1; DELETE FROM apps WHERE id = 1");
}

#[test]
fn a_row_leaves_a_production_project_as_it_is_deleted() {
    let stage = Stage::new();
    let before = stage.hashes();
    let (staging, plain) = (&stage.staging, &stage.plain);
    let out = [
        format!("UPDATE apps SET project_id = '{staging}' WHERE id = 1"),
        format!("UPDATE apps SET project_id = '{plain}', id = 71 WHERE id = 1"),
        format!("UPDATE nodes SET project_id = '{staging}' WHERE id = 1"),
        format!(
            "INSERT INTO apps (id, project_id) VALUES (1, '{staging}') ON CONFLICT (id) DO UPDATE SET project_id = EXCLUDED.project_id"
        ),
        format!(
            "MERGE INTO apps a USING (VALUES (1)) v (id) ON a.id = v.id WHEN MATCHED THEN UPDATE SET project_id = '{staging}'"
        ),
        "UPDATE apps SET project_id = p.id FROM tenancy.projects p WHERE p.name = 'plain' AND apps.id = 1".into(),
        "UPDATE parts SET app_id = 3 WHERE id = 1".into(),
        "UPDATE parts SET app_id = NULL WHERE id = 1".into(),
    ];
    for sql in &out {
        for (who, actor) in [
            ("acme.admin", "human"),
            ("acme.owner", "service"),
            ("acme.owner", "human"),
        ] {
            about_production(stage.acting(who, actor).attempt(sql));
        }
        let table = ["nodes", "parts"]
            .into_iter()
            .find(|table| sql.contains(table))
            .unwrap_or("apps");
        let mut owner = stage.owner();
        owner.run("BEGIN");
        owner.run(&confirm(table, "2"));
        about_production(owner.attempt_within(sql));
        owner.run(&confirm(table, "1"));
        owner.run(sql);
        owner.run("ROLLBACK");
    }
    assert_eq!(stage.hashes(), before);
    // Into production, and within it, as ever.
    let mut admin = stage.admin();
    admin.run(&format!(
        "UPDATE apps SET name = 'b' WHERE id = 1; UPDATE apps SET project_id = '{}' WHERE id = 3; INSERT INTO apps (id, project_id) VALUES (9, '{}')",
        stage.prod, stage.prod
    ));
    about_production(admin.attempt("DELETE FROM apps WHERE id = 3"));
}

#[test]
fn an_ai_actor_writes_nothing_in_a_production_project_even_with_an_approval() {
    let stage = Stage::open();
    let (prod, staging) = (&stage.prod, &stage.staging);
    let proposals = [
        "'apps', 'update', 's', key => '1', payload => '{\"name\": \"x\"}'".to_string(),
        "'apps', 'delete', 's', key => '1'".into(),
        format!("'apps', 'insert', 's', payload => '{{\"id\": 9, \"project_id\": \"{prod}\"}}'"),
        format!("'apps', 'update', 's', key => '3', payload => '{{\"project_id\": \"{prod}\"}}'"),
        format!(
            "'apps', 'update', 's', key => '1', payload => '{{\"project_id\": \"{staging}\"}}'"
        ),
        "'nodes', 'update', 's', key => '1', payload => '{\"cluster_id\": null}'".into(),
        "'parts', 'update', 's', key => '1', payload => '{\"app_id\": 3}'".into(),
    ];
    let ai = |sql: &str| {
        let mut ai = stage.acting("acme.admin", "ai");
        let value = ai.value(sql).unwrap_or_default();
        ai.run("COMMIT");
        value
    };
    let approved = |what: &str| {
        let id = ai(&format!("SELECT tenancy.propose({what})"));
        ai(&format!("SELECT tenancy.submit_proposal('{id}')"));
        stage
            .owner()
            .run(&format!("SELECT tenancy.approve_proposal('{id}')"));
        id
    };
    let of = |column: &str, id: &str| {
        stage.owner().text(&format!(
            "SELECT {column} FROM tenancy.proposals WHERE id = '{id}'"
        ))
    };
    let ids: Vec<String> = proposals.iter().map(|what| approved(what)).collect();
    for (id, what) in ids.iter().zip(&proposals) {
        assert_eq!(of("risk", id), "destructive", "{what}");
    }
    // Approved as harmless while its project was another's.
    let calm = approved("'apps', 'update', 's', key => '5', payload => '{\"name\": \"x\"}'");
    assert_eq!(of("risk", &calm), "caution");
    stage.admin().run(&retag(&stage.plain, "'production'"));
    let execute = |id: &str| ai(&format!("SELECT tenancy.execute_proposal('{id}')"));
    assert_eq!(execute(&calm), "failed");
    assert!(of("error", &calm).contains("not approved as destructive"));
    stage.protect(true);
    let before = stage.hashes();
    for (id, what) in ids.iter().zip(&proposals) {
        assert_eq!(execute(id), "failed", "{what}");
        let why = of("error", id);
        assert!(why.contains("production rows"), "{what}: {why}");
    }
    for sql in [
        "UPDATE apps SET name = 'x' WHERE id = 1",
        "DELETE FROM apps WHERE id = 1",
    ] {
        refused(stage.acting("acme.admin", "ai").attempt(sql), "42501");
    }
    assert_eq!(stage.hashes(), before);
    let fine = approved("'apps', 'update', 's', key => '3', payload => '{\"name\": \"x\"}'");
    assert_eq!(execute(&fine), "completed");
}

#[test]
fn a_cluster_has_its_own_environment_or_its_projects() {
    let stage = Stage::new();
    let mut admin = stage.admin();
    let safe = stage.cluster(&stage.prod, "safe", "'staging'");
    let none = stage.cluster(&stage.prod, "none", "NULL");
    let live = stage.cluster(&stage.staging, "live", "'production'");
    admin.run(&format!(
        "INSERT INTO nodes (id, project_id, cluster_id) VALUES
             (10, '{prod}', '{safe}'), (11, '{prod}', '{none}'), (12, '{staging}', '{live}'), (13, '{staging}', NULL)",
        prod = stage.prod,
        staging = stage.staging
    ));
    for id in [1, 11, 12] {
        about_production(admin.attempt(&format!("DELETE FROM nodes WHERE id = {id}")));
    }
    // To another cluster, to none, out of one: what counts is what it is then.
    for sql in [
        format!("UPDATE nodes SET cluster_id = '{safe}' WHERE id = 11"),
        format!("UPDATE nodes SET cluster_id = '{safe}' WHERE id = 1"),
        "UPDATE nodes SET cluster_id = NULL WHERE id = 12".into(),
    ] {
        about_production(admin.attempt(&sql));
    }
    admin.run(&format!(
        "UPDATE nodes SET cluster_id = NULL WHERE id = 11; UPDATE nodes SET cluster_id = '{live}' WHERE id = 13"
    ));
    about_production(admin.attempt("DELETE FROM nodes WHERE id = 13"));
    admin.run("DELETE FROM nodes WHERE id = 10");
    // A table that names the project alone does not look at clusters.
    stage.world.superuser().run(
        "CREATE TABLE jobs (id int PRIMARY KEY, org_id uuid, project_id uuid, cluster_id uuid);
         GRANT ALL ON jobs TO PUBLIC;
         SELECT tenancy.protect('jobs', project_column => 'project_id', cluster_column => 'cluster_id', environment_from => 'project_id')",
    );
    admin.run(&format!(
        "INSERT INTO jobs (id, project_id, cluster_id) VALUES (1, '{}', '{safe}'), (2, '{}', '{live}')",
        stage.prod, stage.staging
    ));
    about_production(admin.attempt("DELETE FROM jobs WHERE id = 1"));
    assert_eq!(admin.run("DELETE FROM jobs WHERE id = 2"), 1);
    let mut owner = stage.owner();
    owner.run("BEGIN");
    owner.run(&confirm("nodes", "12"));
    owner.run("DELETE FROM nodes WHERE id = 12; COMMIT");
    // The tag of a cluster is changed by nobody's statement.
    let mut dba = stage.world.superuser();
    let change = format!("UPDATE tenancy.clusters SET environment = NULL WHERE id = '{live}'");
    about_production(dba.attempt(&change));
    dba.run(&format!(
        "UPDATE tenancy.clusters SET environment = 'production' WHERE id = '{safe}'"
    ));
    about_production(dba.attempt(&format!(
        "UPDATE tenancy.clusters SET environment = 'staging' WHERE id = '{none}'"
    )));
    stage.world.break_glass().run(&change);
    admin.run("DELETE FROM nodes WHERE id = 13");
}

#[test]
fn a_grant_for_one_environment_counts_by_the_project() {
    let stage = Stage::open();
    let org = stage.world.acme.id;
    let mut dba = stage.world.superuser();
    dba.run(&format!(
        "SELECT tenancy.create_role('{org}', 'crew');
         SELECT tenancy.grant_permission('{org}', 'crew', 'data:read');
         SELECT tenancy.grant_permission('{org}', 'crew', 'data:write', environment => 'staging');
         SELECT tenancy.set_member_role('{org}', '{}', 'crew')",
        stage.world.user("acme.viewer")
    ));
    let mut crew = stage.world.session("acme.viewer");
    let live = stage.cluster(&stage.staging, "live", "'production'");
    stage.admin().run(&format!(
        "INSERT INTO nodes (id, project_id, cluster_id) VALUES (9, '{}', '{live}')",
        stage.staging
    ));
    let (staging, prod) = (&stage.staging, &stage.prod);
    for (sql, may) in [
        ("UPDATE apps SET name = 'x' WHERE id = 3".to_string(), true),
        (
            format!("INSERT INTO apps (id, project_id) VALUES (9, '{staging}')"),
            true,
        ),
        ("DELETE FROM apps WHERE id = 4".into(), true),
        ("DELETE FROM nodes WHERE id = 4".into(), true),
        ("UPDATE apps SET name = 'x' WHERE id = 1".into(), false),
        ("UPDATE apps SET name = 'x' WHERE id = 5".into(), false),
        ("UPDATE apps SET name = 'x'".into(), false),
        (
            format!("INSERT INTO apps (id, project_id) VALUES (9, '{prod}')"),
            false,
        ),
        (
            format!("UPDATE apps SET project_id = '{prod}' WHERE id = 3"),
            false,
        ),
        (
            format!("UPDATE apps SET project_id = '{staging}' WHERE id = 1"),
            false,
        ),
        ("DELETE FROM apps WHERE id = 1".into(), false),
        ("DELETE FROM nodes WHERE id = 9".into(), false),
        // What has its environment by a foreign key asks for what holds everywhere.
        ("DELETE FROM parts WHERE id = 3".into(), false),
    ] {
        crew.run("BEGIN");
        let said = crew.attempt_within(&sql);
        if may {
            assert_eq!(said.unwrap(), 1, "{sql}");
        } else {
            let error = refused(said, "42501");
            assert!(error.message().contains("crew"), "{sql}: {error:?}");
        }
        crew.run("ROLLBACK");
    }
    // By what the project is now.
    crew.run("BEGIN; UPDATE apps SET name = 'x' WHERE id = 3");
    crew.run("COMMIT; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM apps");
    stage.admin().run(&retag(staging, "'development'"));
    refused(
        crew.attempt_within("UPDATE apps SET name = 'y' WHERE id = 3"),
        "42501",
    );
    crew.run("ROLLBACK");
}
