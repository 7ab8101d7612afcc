//! Tables: what protect() asks, partitions, changes of the table, dump and restore.

use pg_tenancy_tests::refused;

use crate::stage::*;

#[test]
fn what_protect_asks_of_an_environment_from_a_project() {
    let stage = Stage::open();
    let mut dba = stage.world.superuser();
    dba.run("CREATE TABLE t (id int PRIMARY KEY, org_id uuid, project_id uuid, cluster_id uuid, environment text)");
    for (options, code) in [
        ("environment_from => 'project_id'", "55000"),
        (
            "project_column => 'project_id', environment_from => 'cluster_id'",
            "55000",
        ),
        (
            "project_column => 'project_id', environment_from => 'nothing'",
            "42703",
        ),
        (
            "project_column => 'project_id', environment_from => 'project_id', environment_column => 'environment'",
            "22023",
        ),
    ] {
        refused(
            dba.attempt(&format!("SELECT tenancy.protect('t', {options})")),
            code,
        );
    }
    let both = "SELECT tenancy.protect('t', project_column => 'project_id', cluster_column => 'cluster_id', environment_from => 'project_id')";
    dba.run(both);
    dba.run(both);
    for other in [
        "project_column => 'project_id', cluster_column => 'cluster_id', environment_from => 'cluster_id'",
        "project_column => 'project_id', cluster_column => 'cluster_id'",
    ] {
        refused(
            dba.attempt(&format!("SELECT tenancy.protect('t', {other})")),
            "42710",
        );
    }
    assert_eq!(
        dba.column(
            "SELECT table_name || ' ' || environment_from FROM tenancy.protected_tables ORDER BY 1"
        ),
        [
            "apps project_id",
            "nodes cluster_id",
            "parts app_id",
            "t project_id"
        ]
    );
    // What the record names stays, and so does the table that others have it from.
    for sql in [
        "ALTER TABLE t RENAME project_id TO p",
        "ALTER TABLE t DROP COLUMN project_id CASCADE",
        "ALTER TABLE nodes RENAME cluster_id TO c",
    ] {
        assert!(dba.attempt(sql).is_err(), "{sql}");
    }
    refused(dba.attempt("SELECT tenancy.unprotect('apps')"), "2BP01");
    dba.run("SELECT tenancy.unprotect('parts'); SELECT tenancy.unprotect('apps'); SELECT tenancy.unprotect('t')");
    // Without it, the project's tag is a label again.
    dba.run("SELECT tenancy.protect('apps', project_column => 'project_id')");
    stage.protect(true);
    stage.admin().run("DELETE FROM apps WHERE id = 1");
    about_production(stage.admin().attempt("DELETE FROM nodes WHERE id = 1"));
}

#[test]
fn partitions_are_of_the_environment_of_their_rows_projects() {
    let stage = Stage::new();
    let (prod, staging) = (&stage.prod, &stage.staging);
    stage.world.superuser().run(&format!(
        "CREATE TABLE jobs (id int, org_id uuid, project_id uuid, v int DEFAULT 0, PRIMARY KEY (id, project_id)) PARTITION BY LIST (project_id);
         CREATE TABLE jobs_prod PARTITION OF jobs FOR VALUES IN ('{prod}') PARTITION BY RANGE (id);
         CREATE TABLE jobs_low PARTITION OF jobs_prod FOR VALUES FROM (0) TO (100);
         CREATE TABLE jobs_high PARTITION OF jobs_prod FOR VALUES FROM (100) TO (200);
         CREATE TABLE jobs_other PARTITION OF jobs DEFAULT;
         GRANT ALL ON jobs, jobs_prod, jobs_low, jobs_high, jobs_other TO PUBLIC;
         SELECT tenancy.protect('jobs', project_column => 'project_id', environment_from => 'project_id')"
    ));
    let mut admin = stage.admin();
    admin.run(&format!(
        "INSERT INTO jobs (id, project_id) VALUES (1, '{prod}'), (2, '{staging}')"
    ));
    let out = format!("UPDATE jobs SET project_id = '{staging}' WHERE id = 1");
    for sql in [
        out.as_str(),
        "DELETE FROM jobs",
        "DELETE FROM jobs_low WHERE id = 1",
    ] {
        about_production(admin.attempt(sql));
    }
    let mut owner = stage.owner();
    about_production(owner.attempt(&out));
    owner.run("BEGIN");
    owner.run(&format!(
        "SELECT tenancy.confirm_production_delete('jobs', k, typed => k) FROM jsonb_build_object('id', 1, 'project_id', '{prod}') j, LATERAL (SELECT j::text) t (k)"
    ));
    owner.run(&out);
    owner.run("ROLLBACK");
    // From one production partition to the other.
    admin.run("UPDATE jobs SET id = 150 WHERE id = 1");
    about_production(admin.attempt("DELETE FROM jobs WHERE id = 150"));
    // A partition that comes later.
    stage.world.superuser().run(&format!(
        "CREATE TABLE jobs_plain (id int, org_id uuid NOT NULL, project_id uuid NOT NULL, v int DEFAULT 0, PRIMARY KEY (id, project_id));
         GRANT ALL ON jobs_plain TO PUBLIC; ALTER TABLE jobs ATTACH PARTITION jobs_plain FOR VALUES IN ('{}')",
        stage.plain
    ));
    admin.run(&format!(
        "INSERT INTO jobs (id, project_id) VALUES (7, '{}')",
        stage.plain
    ));
    admin.run(&retag(&stage.plain, "'production'"));
    about_production(admin.attempt("DELETE FROM jobs_plain"));
    about_production(admin.attempt("DELETE FROM jobs WHERE id = 7"));
}

#[test]
fn a_project_goes_when_its_production_rows_have_gone() {
    let stage = Stage::new();
    let delete = format!("SELECT tenancy.delete_project('{}')", stage.prod);
    let mut owner = stage.owner();
    owner.run("BEGIN");
    refused(owner.attempt_within(&delete), "23503");
    owner.run(&confirm("tenancy.projects", &stage.prod));
    refused(owner.attempt_within(&delete), "23503");
    for table in ["parts", "apps", "nodes"] {
        for id in ["1", "2"] {
            owner.run(&confirm(table, id));
            owner.run(&format!("DELETE FROM {table} WHERE id = {id}"));
        }
    }
    owner.run(&delete);
    owner.run("COMMIT");
    // With its organization everything goes, production or not.
    owner.run(&format!(
        "SELECT tenancy.delete_org('{}', confirm => 'Acme Hosting')",
        stage.world.acme.id
    ));
    owner.run(&format!(
        "CALL tenancy.finish_deletion('{}')",
        stage.world.acme.id
    ));
    assert_eq!(
        stage
            .world
            .break_glass()
            .count("SELECT count(*) FROM apps WHERE id < 100"),
        0
    );
}
