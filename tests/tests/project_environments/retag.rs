//! Projects that get another tag, by whom and how.

use pg_tenancy_tests::{ROLES, fails, refused};

use crate::stage::*;

#[test]
fn taking_a_project_out_of_production_needs_what_the_deletion_of_its_rows_needs() {
    for protected in [true, false] {
        let stage = Stage::open();
        stage.protect(protected);
        for to in ["'staging'", "NULL", "'development'"] {
            for role in ROLES {
                for actor in ["human", "service", "ai"] {
                    for confirmed in [true, false] {
                        let mut session = stage.acting(&format!("acme.{role}"), actor);
                        let owner = role == "owner" && actor == "human";
                        if confirmed {
                            let said =
                                session.attempt_within(&confirm("tenancy.projects", &stage.prod));
                            if owner {
                                said.unwrap();
                            } else {
                                refused(said, "42501");
                            }
                        }
                        let runs = ["owner", "admin"].contains(&role) && actor != "ai";
                        let may = runs && (!protected || owner && confirmed);
                        let said = session.attempt_within(&retag(&stage.prod, to));
                        if may {
                            said.unwrap();
                            session.run(
                                "DELETE FROM parts WHERE id = 1; DELETE FROM apps WHERE id = 2",
                            );
                        } else {
                            refused(said, "42501");
                        }
                        // Once.
                        if may && protected {
                            session.run(&retag(&stage.prod, "'production'"));
                            about_production(session.attempt_within(&retag(&stage.prod, to)));
                        }
                        session.run("ROLLBACK");
                        assert_eq!(
                            stage.tag(&stage.prod),
                            "production",
                            "{role} {actor} {confirmed} {protected}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_project_that_is_not_production_is_retagged_without_its_owner() {
    let stage = Stage::new();
    let mut admin = stage.admin();
    for to in ["'development'", "NULL", "'staging'"] {
        for project in [&stage.staging, &stage.plain] {
            admin.run(&retag(project, to));
            assert_eq!(
                format!("'{}'", stage.tag(project)),
                to.replace("NULL", "''")
            );
        }
    }
    admin.run(&retag(&stage.plain, "'production'"));
    about_production(admin.attempt(&retag(&stage.plain, "'staging'")));
}

#[test]
fn the_confirmation_is_for_one_project_in_one_transaction() {
    let stage = Stage::new();
    let mut owner = stage.owner();
    let out = retag(&stage.prod, "'staging'");
    let confirmed = confirm("tenancy.projects", &stage.prod);
    // Another project's, and rows', are no help.
    owner.run("BEGIN");
    owner.run(&confirm("tenancy.projects", &stage.staging));
    owner.run(&confirm("apps", "1"));
    about_production(owner.attempt_within(&out));
    // Nor is the project's for a row of it.
    owner.run(&confirmed);
    about_production(owner.attempt_within("DELETE FROM nodes WHERE id = 1"));
    owner.run("ROLLBACK");
    for end in ["COMMIT", "ROLLBACK"] {
        owner.run("BEGIN");
        owner.run(&confirmed);
        owner.run(end);
        about_production(owner.attempt(&out));
    }
    owner.run("BEGIN; SAVEPOINT a");
    owner.run(&confirmed);
    owner.run("ROLLBACK TO a");
    about_production(owner.attempt_within(&out));
    // What a savepoint takes back is as it was, for the rows, too.
    owner.run(&confirmed);
    owner.run("SAVEPOINT b");
    owner.run(&out);
    owner.run("DELETE FROM nodes WHERE id = 1");
    owner.run("ROLLBACK TO b");
    about_production(owner.attempt_within("DELETE FROM nodes WHERE id = 1"));
    owner.run("ROLLBACK");
    // What is asked of it.
    refused(owner.attempt(&confirmed), "25P01");
    owner.run("BEGIN");
    for key in [stage.theirs.as_str(), NOBODYS, "prod", ""] {
        let error = refused(
            owner.attempt_within(&confirm("tenancy.projects", key)),
            "P0002",
        );
        assert!(!error.detail().unwrap().contains("globex"), "{error:?}");
    }
    refused(
        owner.attempt_within(&format!(
            "SELECT tenancy.confirm_production_delete('tenancy.projects', '{}', typed => 'prod')",
            stage.prod
        )),
        "22023",
    );
    refused(
        owner.attempt_within(&confirm("tenancy.clusters", NOBODYS)),
        "55000",
    );
    owner.run("ROLLBACK; BEGIN");
    owner.run(&confirmed);
    owner.run(&out);
    owner.run("COMMIT");
    stage.admin().run("DELETE FROM nodes WHERE id = 1");
    assert_eq!(
        owner.column(&format!(
            "SELECT DISTINCT operation FROM tenancy.audit_log
             WHERE object = 'tenancy.projects' AND key->>'id' = '{}' AND operation <> 'create_project' ORDER BY 1",
            stage.prod
        )),
        ["confirm_production_delete", "set_project_environment"]
    );
}

#[test]
fn no_way_around_the_function_takes_a_project_out_of_production() {
    let stage = Stage::new();
    let update = |to: &str| {
        format!(
            "UPDATE tenancy.projects SET environment = {to} WHERE id = '{}'",
            stage.prod
        )
    };
    fails(stage.owner().attempt(&update("'staging'")), "42501");
    let mut dba = stage.world.superuser();
    for to in ["'staging'", "NULL"] {
        about_production(dba.attempt(&update(to)));
        dba.run("SET session_replication_role = replica");
        about_production(dba.attempt(&update(to)));
        dba.run("RESET session_replication_role");
    }
    // Another organization's is another matter, and so is what stays production.
    dba.run(&format!(
        "UPDATE tenancy.projects SET environment = 'staging' WHERE id = '{}'",
        stage.theirs
    ));
    dba.run(&update("'strange'"));
    // A tag that nobody knows is production, and to say otherwise is the owner's.
    about_production(stage.admin().attempt("DELETE FROM nodes WHERE id = 1"));
    let say = format!(
        "SELECT tenancy.create_environment('{}', 'strange', 'staging')",
        stage.world.acme.id
    );
    refused(stage.admin().attempt(&say), "42501");
    stage.owner().run(&say);
    stage.admin().run("DELETE FROM nodes WHERE id = 1");
    refused(
        stage.admin().attempt(&format!(
            "SELECT tenancy.drop_environment('{}', 'strange')",
            stage.world.acme.id
        )),
        "2BP01",
    );
    // The function warns of a tag that nobody knows, and the glass is there to be broken.
    stage.admin().run(&retag(&stage.staging, "'stagng'"));
    about_production(stage.admin().attempt("DELETE FROM nodes WHERE id = 3"));
    stage.world.break_glass().run(&format!(
        "UPDATE tenancy.projects SET environment = NULL WHERE id = '{}'",
        stage.staging
    ));
    stage.admin().run("DELETE FROM nodes WHERE id = 3");
}

#[test]
fn a_confirmation_is_worth_nothing_to_another_actor_or_after_the_ownership() {
    let stage = Stage::new();
    let (delete, out) = (
        "DELETE FROM nodes WHERE id = 1",
        retag(&stage.prod, "'staging'"),
    );
    let mut session = stage.acting("acme.owner", "human");
    session.run(&confirm("nodes", "1"));
    session.run(&confirm("tenancy.projects", &stage.prod));
    session.run("SET LOCAL app.actor_type = 'service'");
    about_production(session.attempt_within(delete));
    about_production(session.attempt_within(&out));
    session.run("SET LOCAL app.actor_type = 'human'");
    session.run(delete);
    session.run(&out);
    session.run("ROLLBACK");
    let mut owner = stage.owner();
    owner.run("BEGIN");
    owner.run(&confirm("nodes", "1"));
    owner.run(&confirm("tenancy.projects", &stage.prod));
    stage.world.superuser().run(&format!(
        "SELECT tenancy.transfer_ownership('{}', '{}')",
        stage.world.acme.id,
        stage.world.user("acme.admin")
    ));
    about_production(owner.attempt_within(delete));
    about_production(owner.attempt_within(&out));
    owner.run("ROLLBACK");
}

/// Where the DBA lets a transaction change its user, what the one before confirmed is still only his.
#[test]
fn a_confirmation_is_its_givers_alone() {
    let stage = Stage::new();
    stage.world.superuser().run(&format!(
        "ALTER ROLE {} SET tenancy.one_org_per_transaction = off",
        stage.world.db.role("app")
    ));
    let mut app = stage.acting("acme.owner", "human");
    app.run(&confirm("nodes", "1"));
    stage.world.superuser().run(&format!(
        "SELECT tenancy.transfer_ownership('{}', '{}')",
        stage.world.acme.id,
        stage.world.user("acme.admin")
    ));
    app.run(&stage.world.claim(stage.world.acme, "acme.admin"));
    assert_eq!(app.text("SELECT tenancy.current_role_name()"), "owner");
    about_production(app.attempt_within("DELETE FROM nodes WHERE id = 1"));
    app.run(&confirm("nodes", "1"));
    app.run("DELETE FROM nodes WHERE id = 1; ROLLBACK");
}
