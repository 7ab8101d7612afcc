//! Which boundary to choose, and what each gives: the set-ups of `examples/strategies`, run as they stand, and what their
//! first lines claim (spec 9).

use pg_tenancy_tests::{Cluster, Db, Session, refused};

#[test]
fn a_boundary_is_recommended_with_its_reasons() {
    let db = Db::fresh();
    let mut dba = db.superuser();
    for (question, answer) in [
        ("true, true", "organization"),
        ("true, false", "organization"),
        ("false, true", "project"),
        ("false, false", "cluster"),
        ("per_environment_access => true", "project"),
        ("NULL, NULL", "cluster"),
    ] {
        let rows = dba.rows(&format!(
            "SELECT recommendation, cardinality(reasons) FROM tenancy.recommend_isolation({question})"
        ));
        assert_eq!(
            rows,
            [[Some(answer.to_string()), Some("3".to_string())]],
            "{question}"
        );
    }
}

struct Example {
    db: Db,
    login: &'static str,
}

impl Example {
    fn new(file: &str, login: &'static str) -> Example {
        let path = format!(
            "{}/../examples/strategies/{file}",
            env!("CARGO_MANIFEST_DIR")
        );
        let sql = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let db = Db::empty(Cluster::shared());
        let mut dba = db.superuser();
        // As psql does: each statement by itself.
        for statement in sql.split_inclusive(";\n") {
            dba.run(statement);
        }
        Example { db, login }
    }

    /// A transaction of the application, for somebody in an organization.
    fn of(&self, who: &str, org: &str) -> Session {
        let mut session = self.db.login(self.login);
        session.run(&format!(
            "BEGIN; SET LOCAL app.current_org = '{org}'; SET LOCAL app.current_user_id = '{who}'"
        ));
        session
    }
}

fn names(session: &mut Session, table: &str) -> Vec<String> {
    session.column(&format!("SELECT name FROM {table} ORDER BY name"))
}

#[test]
fn an_organization_for_each_environment() {
    let example = Example::new("org_per_environment.sql", "panel_of_environments");
    let mut dana = example.of("dana", "staging");
    assert_eq!(names(&mut dana, "servers"), ["web-staging"]);
    dana.run("INSERT INTO servers (id, name) VALUES (10, 'web-2')");
    dana.run("INSERT INTO sites (id, server_id, name) VALUES (1, 10, 'shop')");
    // Nothing points at another environment's row, and nothing moves there.
    let production = example
        .db
        .superuser()
        .text("SELECT id FROM tenancy.orgs WHERE slug = 'production'");
    for act in [
        "INSERT INTO sites (id, server_id, name) VALUES (2, (SELECT 2), 'shop')".to_string(),
        format!("UPDATE servers SET org_id = '{production}'"),
    ] {
        dana.attempt_within(&act).unwrap_err();
    }
    dana.run("COMMIT");
    let mut dana = example.of("dana", "production");
    assert_eq!(names(&mut dana, "servers"), ["web-production"]);
    refused(
        dana.attempt_within("INSERT INTO servers (id, name) VALUES (11, 'x')"),
        "42501",
    );
    refused(
        dana.attempt_within("UPDATE servers SET name = 'x'"),
        "42501",
    );
    // Staging's log has what was done in staging, and production's has not.
    for (org, lines) in [("staging", 1), ("production", 0)] {
        let mut olga = example.of("olga", org);
        assert_eq!(
            olga.count("SELECT count(*) FROM tenancy.audit_log WHERE object = 'public.sites'"),
            lines,
            "{org}"
        );
    }
}

#[test]
fn one_organization_with_tagged_environments() {
    let example = Example::new("tagged_environments.sql", "panel_of_projects");
    let mut dana = example.of("dana", "shop");
    assert_eq!(names(&mut dana, "servers"), ["web-staging"]);
    assert_eq!(names(&mut dana, "tenancy.projects"), ["staging"]);
    dana.run("SET LOCAL app.current_project = 'production'");
    assert!(names(&mut dana, "servers").is_empty());
    let mut omar = example.of("omar", "shop");
    omar.run("SET LOCAL app.current_project = 'production'");
    assert_eq!(names(&mut omar, "servers"), ["web-production"]);
    omar.run("INSERT INTO sites (id, server_id, name) SELECT 1, id, 'shop' FROM servers");
    for act in [
        "INSERT INTO servers (id, environment, name) VALUES (9, 'production', 'x')",
        "DELETE FROM servers",
    ] {
        refused(omar.attempt_within(act), "42501");
    }
    // Whoever deletes the server would wait for him.
    omar.run("ROLLBACK");
    let mut pim = example.of("pim", "shop");
    pim.run("SET LOCAL app.current_project = 'staging'");
    pim.run("INSERT INTO servers (id, environment, name) VALUES (9, 'staging', 'web-2')");
    assert_eq!(pim.run("DELETE FROM servers WHERE id = 9"), 1);
    refused(
        pim.attempt_within("SELECT tenancy.create_project(tenancy.current_org(), 'mine')"),
        "42501",
    );
    pim.run("ROLLBACK");
    let mut olga = example.of("olga", "shop");
    assert_eq!(
        names(&mut olga, "servers"),
        ["web-production", "web-staging"]
    );
    refused(
        olga.attempt_within("DELETE FROM servers WHERE name = 'web-production'"),
        "42501",
    );
    olga.run("SELECT tenancy.confirm_production_delete('servers', id::text, typed => id::text) FROM servers WHERE name = 'web-production'");
    assert_eq!(
        olga.run("DELETE FROM servers WHERE name = 'web-production'"),
        1
    );
}

#[test]
fn an_agency_with_client_organizations() {
    let example = Example::new("agency.sql", "panel_of_agency");
    for (org, campaign) in [
        ("bakery", "posters for the bakery"),
        ("cinema", "posters for the cinema"),
    ] {
        assert_eq!(names(&mut example.of("ada", org), "campaigns"), [campaign]);
    }
    let mut carl = example.of("carl", "bakery");
    assert_eq!(names(&mut carl, "campaigns"), ["posters for the bakery"]);
    let cinema = example.db.superuser().text(
        "SELECT p.id FROM tenancy.projects p JOIN tenancy.orgs o ON o.id = p.org_id WHERE o.slug = 'cinema'",
    );
    refused(
        carl.attempt_within(&format!(
            "INSERT INTO campaigns (id, project_id, name) VALUES (9, '{cinema}', 'x')"
        )),
        "23503",
    );
    assert!(names(&mut example.of("carl", "cinema"), "campaigns").is_empty());
    carl.run("SET LOCAL app.current_project = 'summer'");
    carl.run("INSERT INTO campaigns (id, name) VALUES (10, 'flyers'); COMMIT");
    let mut ines = example.of("ines", "bakery");
    assert_eq!(
        ines.column("SELECT DISTINCT new ->> 'name' FROM tenancy.audit_log WHERE object = 'public.campaigns' AND new ->> 'id' = '10'"),
        ["flyers"]
    );
    let mut ada = example.of("ada", "cinema");
    assert_eq!(
        ada.count("SELECT count(*) FROM tenancy.audit_log WHERE new ->> 'name' = 'flyers'"),
        0
    );
}
