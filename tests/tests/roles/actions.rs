//! Actions of an application.

use pg_tenancy_tests::roles::{call, role};
use pg_tenancy_tests::{World, fails, refused};

#[test]
fn actions_of_an_application() {
    let world = World::new();
    let mut dba = world.superuser();
    let mut member = world.session("acme.member");
    refused(
        member.attempt("SELECT tenancy.has_permission('invoice:send')"),
        "22023",
    );
    dba.run("SELECT tenancy.define_action('invoice:send', 'billing', 'Sends invoices', admin => 'allow', member => 'limited')");
    for (role, level) in [
        ("owner", "allow"),
        ("admin", "allow"),
        ("member", "limited"),
        ("viewer", "deny"),
    ] {
        assert_eq!(
            member.text(&format!(
                "SELECT tenancy.permission_level('{role}', 'invoice:send')"
            )),
            level
        );
    }
    // Idempotent; and what was defined may be changed, at the next statement.
    assert!(!member.is_true("SELECT tenancy.has_permission('invoice:send')"));
    for level in ["allow", "allow"] {
        dba.run(&format!(
            "SELECT tenancy.define_action('invoice:send', 'billing', 'Sends', 'allow', '{level}')"
        ));
        assert!(member.is_true("SELECT tenancy.has_permission('invoice:send')"));
    }
    assert_eq!(
        dba.text("SELECT concat_ws(' ', category, description, is_system) FROM tenancy.actions WHERE name = 'invoice:send'"),
        "billing Sends f"
    );
    dba.run("SELECT tenancy.define_action('report:print')");
    assert_eq!(
        dba.text("SELECT category FROM tenancy.actions WHERE name = 'report:print'"),
        "report"
    );
    assert!(!member.is_true("SELECT tenancy.has_permission('admin', 'report:print')"));
    assert!(member.is_true("SELECT tenancy.has_permission('owner', 'report:print')"));
    // An index among the actions that moves is nobody's right: what was known before is what it was.
    for (action, expected) in [
        ("server:read", true),
        ("server:delete", false),
        ("data:write", true),
        ("org:delete", false),
    ] {
        assert_eq!(
            member.is_true(&format!("SELECT tenancy.has_permission('{action}')")),
            expected,
            "{action}"
        );
    }
    // It protects a table, and custom roles have it.
    dba.run(
        r#"CREATE TABLE invoices (id int PRIMARY KEY, org_id uuid); GRANT ALL ON invoices TO PUBLIC;
           SELECT tenancy.protect('invoices', permissions => '{"insert": "invoice:send", "columns": {"id": "report:print"}}')"#,
    );
    assert_eq!(member.run("INSERT INTO invoices VALUES (1)"), 1);
    refused(
        world
            .session("acme.viewer")
            .attempt("INSERT INTO invoices VALUES (2)"),
        "42501",
    );
    role(&world, "printer", &["report:print"]);
    for (name, wanted) in [("invoice:send", "invoices"), ("report:print", "invoices")] {
        let error = refused(
            dba.attempt(&format!("SELECT tenancy.drop_action('{name}')")),
            "2BP01",
        );
        assert!(error.detail().unwrap().contains(wanted), "{error:?}");
    }
    dba.run("SELECT tenancy.unprotect('invoices'); SELECT tenancy.drop_action('invoice:send')");
    refused(
        member.attempt("SELECT tenancy.has_permission('invoice:send')"),
        "22023",
    );
    let error = refused(
        dba.attempt("SELECT tenancy.drop_action('report:print')"),
        "2BP01",
    );
    assert!(
        error.detail().unwrap().contains("1 of the organizations"),
        "{error:?}"
    );
    dba.run(&call(
        &world,
        "revoke_permission",
        "'printer', 'report:print'",
    ));
    dba.run("SELECT tenancy.drop_action('report:print')");
    assert_eq!(dba.count("SELECT count(*) FROM tenancy.actions"), 48);
    assert_eq!(
        dba.count("SELECT count(*) FROM tenancy.role_permissions"),
        192
    );
    // For the DBA only, and never the published ones.
    for mut session in [world.session("acme.owner"), world.app(), world.nobody()] {
        refused(
            session.attempt("SELECT tenancy.define_action('a:b')"),
            "42501",
        );
        refused(
            session.attempt("SELECT tenancy.drop_action('a:b')"),
            "42501",
        );
    }
    for name in ["server:delete", "data:read"] {
        refused(
            dba.attempt(&format!(
                "SELECT tenancy.define_action('{name}', viewer => 'allow')"
            )),
            "42501",
        );
        refused(
            dba.attempt(&format!("SELECT tenancy.drop_action('{name}')")),
            "42501",
        );
    }
    for bad in [
        "'x'",
        "'X:y'",
        "'x:'",
        "'x:y:z'",
        "'x y:z'",
        "repeat('x', 64) || ':y'",
    ] {
        refused(
            dba.attempt(&format!("SELECT tenancy.define_action({bad})")),
            "22023",
        );
    }
    refused(
        dba.attempt("SELECT tenancy.define_action('x:y', 'No!')"),
        "22023",
    );
    refused(
        dba.attempt("SELECT tenancy.define_action('x:y', viewer => 'yes')"),
        "22023",
    );
    refused(
        dba.attempt("SELECT tenancy.define_action('x:y', viewer => NULL)"),
        "22004",
    );
    let error = refused(
        dba.attempt("SELECT tenancy.drop_action('server:rea')"),
        "22023",
    );
    assert!(error.hint().unwrap().contains("server:read"));
    assert_eq!(dba.count("SELECT count(*) FROM tenancy.actions"), 48);
}

#[test]
fn an_action_is_not_dropped_under_a_table_that_is_being_protected() {
    let world = World::new();
    let mut dba = world.superuser();
    let mut other = world.superuser();
    dba.run("SELECT tenancy.define_action('invoice:send'); CREATE TABLE invoices (id int PRIMARY KEY, org_id uuid)");
    dba.run(
        r#"BEGIN; SELECT tenancy.protect('invoices', permissions => '{"insert": "invoice:send"}')"#,
    );
    other.run("SET lock_timeout = '300ms'");
    fails(
        other.attempt("SELECT tenancy.drop_action('invoice:send')"),
        "55P03",
    );
    dba.run("COMMIT");
    refused(
        other.attempt("SELECT tenancy.drop_action('invoice:send')"),
        "2BP01",
    );
}
