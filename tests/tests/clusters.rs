//! Clusters: the third boundary, inside a project (spec 9).

use pg_tenancy_tests::{World, assert_same_error, refused};

const NOBODYS: &str = "00000000-0000-4000-8000-000000000001";

/// A world with a project in acme; the project's id.
fn with_project(access: &str) -> (World, String) {
    let world = World::people();
    let project = world.superuser().text(&format!(
        "SELECT tenancy.create_project('{}', 'web', '{access}')",
        world.acme.id
    ));
    (world, project)
}

#[test]
fn who_administers_the_project_makes_clusters_and_an_operator_does_not() {
    let (world, web) = with_project("open");
    let mut dba = world.superuser();
    for (who, role) in [
        ("acme.member", "project_operator"),
        ("acme.viewer", "project_admin"),
    ] {
        dba.run(&format!(
            "SELECT tenancy.add_project_member('{web}', '{}', '{role}')",
            world.user(who)
        ));
    }
    for (who, may) in [
        ("acme.owner", true),
        ("acme.admin", true),
        ("acme.viewer", true),
        ("acme.member", false),
    ] {
        let mut session = world.session(who);
        let act = format!("SELECT tenancy.create_cluster('{web}', '{who}', 'staging')");
        if !may {
            refused(session.attempt(&act), "42501");
            continue;
        }
        let cluster = session.text(&act);
        refused(session.attempt(&act), "23505");
        refused(session.attempt(&act.replace(who, NOBODYS)), "22023");
        let mut member = world.session("acme.member");
        assert!(member.is_true(&format!(
            "SELECT environment = 'staging' FROM tenancy.clusters WHERE id = '{cluster}'"
        )));
        for act in [
            format!("SELECT tenancy.delete_cluster('{cluster}')"),
            format!("SELECT tenancy.rename_cluster('{cluster}', 'x')"),
        ] {
            refused(member.attempt(&act), "42501");
        }
        session.run(&format!(
            "SELECT tenancy.rename_cluster('{cluster}', 'renamed')"
        ));
        session.run(&format!("SELECT tenancy.delete_cluster('{cluster}')"));
        refused(
            session.attempt(&format!("SELECT tenancy.delete_cluster('{cluster}')")),
            "42501",
        );
    }
}

#[test]
fn clusters_of_a_hidden_project_are_hidden_and_no_claim_finds_them() {
    let (world, web) = with_project("restricted");
    let mut dba = world.superuser();
    let eu = dba.text(&format!("SELECT tenancy.create_cluster('{web}', 'eu')"));
    let mut member = world.session("acme.member");
    assert_eq!(member.count("SELECT count(*) FROM tenancy.clusters"), 0);
    assert_eq!(
        world
            .session("globex.owner")
            .count("SELECT count(*) FROM tenancy.clusters"),
        0
    );
    for act in ["delete_cluster('{}')", "rename_cluster('{}', 'mine')"] {
        let act = format!("SELECT tenancy.{act}");
        let hidden = refused(member.attempt(&act.replace("{}", &eu)), "42501");
        let nothing = refused(member.attempt(&act.replace("{}", NOBODYS)), "42501");
        assert_same_error(&hidden, &nothing, &[(NOBODYS, &eu)]);
        let other = refused(
            world
                .session("globex.owner")
                .attempt(&act.replace("{}", &eu)),
            "42501",
        );
        assert_same_error(&other, &nothing, &[(NOBODYS, &eu)]);
    }
    for claim in [&eu, NOBODYS, "eu"] {
        member.run(&format!("SET app.current_cluster = '{claim}'"));
        let me = member.whoami();
        assert!(me["org_id"].is_null(), "{claim}");
        assert!(
            me["reason"]
                .as_str()
                .unwrap()
                .contains("app.current_cluster")
        );
    }
    dba.run(&format!(
        "SELECT tenancy.add_project_member('{web}', '{}')",
        world.user("acme.member")
    ));
    member.run(&format!("SET app.current_cluster = '{eu}'"));
    let me = member.whoami();
    assert_eq!(
        (&me["project_id"], &me["cluster_id"]),
        (&web.clone().into(), &eu.clone().into())
    );
    // By its name only inside a project, and never another project's.
    member.run("SET app.current_cluster = 'eu'");
    assert!(member.whoami()["org_id"].is_null());
    member.run("SET app.current_project = 'web'");
    assert_eq!(member.whoami()["cluster_id"], eu.as_str());
    let other = dba.text(&format!(
        "SELECT tenancy.create_project('{}', 'other')",
        world.acme.id
    ));
    member.run(&format!(
        "SET app.current_project = '{other}'; SET app.current_cluster = '{eu}'"
    ));
    assert!(member.whoami()["org_id"].is_null());
}

#[test]
fn a_project_with_clusters_is_not_deleted_and_one_without_is() {
    let (world, web) = with_project("open");
    let mut owner = world.session("acme.owner");
    let eu = owner.text(&format!("SELECT tenancy.create_cluster('{web}', 'eu')"));
    let delete = format!("SELECT tenancy.delete_project('{web}')");
    let error = refused(owner.attempt(&delete), "23503");
    assert!(error.message().contains("not empty"), "{error:?}");
    owner.run(&format!("SELECT tenancy.delete_cluster('{eu}')"));
    owner.run(&delete);
    refused(owner.attempt(&delete), "42501");
    assert_eq!(owner.count("SELECT count(*) FROM tenancy.projects"), 0);
}

#[test]
fn a_session_narrowed_to_a_cluster_that_is_deleted_sees_nothing_and_says_why() {
    let (world, web) = with_project("open");
    let mut owner = world.session("acme.owner");
    let eu = owner.text(&format!("SELECT tenancy.create_cluster('{web}', 'eu')"));
    let mut member = world.session("acme.member");
    member.run(&format!("SET app.current_cluster = '{eu}'"));
    assert!(!member.whoami()["org_id"].is_null());
    owner.run(&format!("SELECT tenancy.delete_cluster('{eu}')"));
    let me = member.whoami();
    assert!(me["org_id"].is_null() && me["reason"].as_str().unwrap().contains("cluster"));
    member.run("RESET app.current_cluster");
    assert!(!member.whoami()["org_id"].is_null());
}

#[test]
fn an_organization_that_goes_takes_its_projects_along() {
    let (world, web) = with_project("open");
    let mut dba = world.superuser();
    dba.run(&format!(
        "SELECT tenancy.create_cluster('{web}', 'eu');
         SELECT tenancy.add_project_member('{web}', '{}')",
        world.user("acme.member")
    ));
    dba.run(&format!(
        "DELETE FROM tenancy.orgs WHERE id = '{}'",
        world.acme.id
    ));
    for table in ["projects", "clusters", "project_members"] {
        assert_eq!(
            dba.count(&format!("SELECT count(*) FROM tenancy.{table}")),
            0,
            "{table}"
        );
    }
}

#[test]
fn an_ai_actor_makes_and_deletes_nothing_of_it() {
    let (world, web) = with_project("open");
    let mut app = world.app();
    for act in [
        format!("create_cluster('{web}', 'eu')"),
        format!("delete_project('{web}')"),
        format!("set_project_access('{web}', 'restricted')"),
        format!(
            "add_project_member('{web}', '{}')",
            world.user("acme.member")
        ),
        format!("create_project('{}', 'p')", world.acme.id),
    ] {
        world.begin(&mut app, world.acme, "acme.owner");
        app.run("SET LOCAL app.actor_type = 'ai'");
        refused(app.attempt(&format!("SELECT tenancy.{act}")), "42501");
        app.run("ROLLBACK");
        world.begin(&mut app, world.acme, "acme.owner");
        app.run(&format!("SAVEPOINT s; SELECT tenancy.{act}"));
        app.run("ROLLBACK");
    }
}
