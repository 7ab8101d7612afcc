//! How roles are made, and what they give.

use pg_tenancy_tests::roles::{assign, call};
use pg_tenancy_tests::{Session, World, refused};

#[test]
fn a_role_from_scratch_gives_what_it_was_given_and_no_more() {
    let world = World::new();
    let mut owner = world.session("acme.owner");
    let mut viewer = world.session("acme.viewer");
    owner.run(&call(
        &world,
        "create_role",
        "'server updater', description => 'Updates'",
    ));
    owner.run(&assign(&world, "acme.viewer", "server updater"));
    assert_eq!(
        viewer.text("SELECT tenancy.current_role_name()"),
        "server updater"
    );
    // Nothing yet, not even what a viewer has.
    assert_eq!(viewer.count("SELECT count(*) FROM servers"), 0);
    owner.run(&call(
        &world,
        "grant_permission",
        "'server updater', 'server:read'",
    ));
    assert_eq!(viewer.count("SELECT count(*) FROM servers"), 3);
    let error = refused(viewer.attempt("UPDATE servers SET cpus = 7"), "42501");
    assert!(error.message().contains("server updater"), "{error:?}");
    owner.run(&call(
        &world,
        "grant_permission",
        "'server updater', 'server:update'",
    ));
    assert_eq!(viewer.run("UPDATE servers SET cpus = 7"), 3);
    refused(
        viewer.attempt("UPDATE servers SET firewall_rules = 'allow all'"),
        "42501",
    );
    assert_eq!(viewer.count("SELECT count(*) FROM sites"), 0);
    owner.run(&call(
        &world,
        "revoke_permission",
        "'server updater', 'server:update'",
    ));
    refused(viewer.attempt("UPDATE servers SET cpus = 8"), "42501");
    // Limited and deny are no allow.
    for level in ["limited", "deny"] {
        owner.run(&call(
            &world,
            "grant_permission",
            &format!("'server updater', 'server:update', '{level}'"),
        ));
        refused(viewer.attempt("UPDATE servers SET cpus = 8"), "42501");
        assert_eq!(
            viewer.text("SELECT tenancy.permission_level('server updater', 'server:update')"),
            level
        );
        assert!(
            !viewer.is_true("SELECT tenancy.has_permission('server updater', 'server:update')")
        );
    }
    assert_eq!(
        world
            .break_glass()
            .count("SELECT count(*) FROM servers WHERE cpus = 7"),
        3
    );
}

#[test]
fn a_clone_has_what_its_source_had_and_lives_on_its_own() {
    let world = World::new();
    let mut owner = world.session("acme.owner");
    owner.run(&call(
        &world,
        "create_role",
        "'operator', clone_of => 'admin'",
    ));
    let cells = "SELECT action || ' ' || tenancy.permission_level('admin', action) FROM tenancy.role_permissions WHERE role = 'owner' ORDER BY 1";
    let admin = owner.column(cells);
    assert_eq!(owner.column(&cells.replace("'admin'", "'operator'")), admin);
    owner.run(&call(
        &world,
        "create_role",
        "'second', clone_of => 'operator'",
    ));
    owner.run(&call(
        &world,
        "revoke_permission",
        "'operator', 'server:delete'",
    ));
    assert!(!owner.is_true("SELECT tenancy.has_permission('operator', 'server:delete')"));
    assert!(owner.is_true("SELECT tenancy.has_permission('second', 'server:delete')"));
    assert_eq!(owner.column(cells), admin);
    // A clone takes the grants of one environment along.
    owner.run(&call(
        &world,
        "grant_permission",
        "'operator', 'app:delete', 'deny', 'production'",
    ));
    owner.run(&call(
        &world,
        "create_role",
        "'third', clone_of => 'operator'",
    ));
    assert_eq!(
        owner.text("SELECT tenancy.permission_level('third', 'app:delete', 'production')"),
        "deny"
    );
    assert_eq!(
        owner.text("SELECT tenancy.permission_level('third', 'app:delete', 'staging')"),
        "allow"
    );
}

#[test]
fn the_five_templates() {
    let world = World::new();
    let mut owner = world.session("acme.owner");
    let templates = owner.column("SELECT name FROM tenancy.role_templates ORDER BY name");
    assert_eq!(
        templates,
        [
            "Billing Manager",
            "Client Viewer",
            "Deployment Manager",
            "Monitoring Observer",
            "Security Auditor"
        ]
    );
    for name in &templates {
        owner.run(&call(
            &world,
            "create_role",
            &format!("'{name}', template => '{}'", name.to_uppercase()),
        ));
        let has = owner.column(&format!(
            "SELECT action FROM tenancy.role_permissions WHERE role = 'owner' AND tenancy.has_permission('{name}', action) ORDER BY 1"
        ));
        let told = owner.column(&format!(
            "SELECT unnest(actions) FROM tenancy.role_templates WHERE name = '{name}' ORDER BY 1"
        ));
        assert!(!has.is_empty());
        assert_eq!(has, told, "{name}");
    }
    // What each is for, and what it must not have.
    let may = |owner: &mut Session, role: &str, action: &str| {
        owner.is_true(&format!(
            "SELECT tenancy.has_permission('{role}', '{action}')"
        ))
    };
    for (role, action, expected) in [
        ("Deployment Manager", "app:deploy", true),
        ("Deployment Manager", "server:create", false),
        ("Deployment Manager", "team:role", false),
        ("Monitoring Observer", "monitoring:read", true),
        ("Monitoring Observer", "alert:manage", false),
        ("Client Viewer", "site:read", true),
        ("Client Viewer", "server:read", false),
        ("Billing Manager", "billing:manage", true),
        ("Billing Manager", "server:read", false),
        ("Security Auditor", "org:audit", true),
        ("Security Auditor", "team:read", true),
        ("Security Auditor", "billing:read", false),
    ] {
        assert_eq!(may(&mut owner, role, action), expected, "{role} {action}");
    }
    // Those that only look hold nothing that changes anything.
    for role in ["Monitoring Observer", "Client Viewer", "Security Auditor"] {
        assert_eq!(
            owner.column(&format!(
                "SELECT unnest(actions) FROM tenancy.role_templates WHERE name = '{role}'
                 EXCEPT SELECT name FROM tenancy.actions WHERE name ~ '(:read|:audit|:audit_export)$'"
            )),
            Vec::<String>::new()
        );
    }
    let error = refused(
        owner.attempt(&call(
            &world,
            "create_role",
            "'x', template => 'Client Wiewer'",
        )),
        "22023",
    );
    assert!(error.hint().unwrap().contains("\"Client Viewer\""));
    refused(
        owner.attempt(&call(
            &world,
            "create_role",
            "'x', clone_of => 'admin', template => 'Client Viewer'",
        )),
        "22023",
    );
}

#[test]
fn an_inactive_role_closes_the_organization_and_says_so() {
    let world = World::new();
    let mut owner = world.session("acme.owner");
    let mut member = world.session("acme.member");
    owner.run(&call(&world, "create_role", "'crew', clone_of => 'member'"));
    owner.run(&assign(&world, "acme.member", "crew"));
    member.run("PREPARE seen AS SELECT count(*) FROM servers");
    assert_eq!(member.count("EXECUTE seen"), 3);
    member.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(member.count("EXECUTE seen"), 3);
    owner.run(&call(&world, "deactivate_role", "'crew'"));
    // The next statement, in an open transaction, of a prepared statement.
    assert_eq!(member.count("EXECUTE seen"), 0);
    let error = refused(
        member.attempt_within("UPDATE sites SET visits = 0"),
        "42501",
    );
    assert!(
        error
            .detail()
            .unwrap()
            .contains("role \"crew\" is not active"),
        "{error:?}"
    );
    member.run("COMMIT");
    let who = member.whoami();
    assert_eq!(who["org_id"], serde_json::Value::Null);
    assert!(
        who["reason"].as_str().unwrap().contains("not active"),
        "{who}"
    );
    assert_eq!(member.count("SELECT count(*) FROM tenancy.my_orgs()"), 0);
    assert!(!member.is_true("SELECT tenancy.has_permission('site:read')"));
    let entering = format!("SELECT tenancy.enter('{}')", world.acme.id);
    refused(member.attempt(&entering), "42501");
    assert!(!owner.is_true("SELECT tenancy.has_permission('crew', 'site:read')"));
    assert!(!owner.is_true(&format!(
        "SELECT tenancy.has_permission('{}'::uuid, '{}'::uuid, 'site:read')",
        world.user("acme.member"),
        world.acme.id
    )));
    // Ownership is not handed to somebody who is shut out.
    refused(
        owner.attempt(&format!(
            "SELECT tenancy.transfer_ownership('{}', '{}')",
            world.acme.id,
            world.user("acme.member")
        )),
        "22023",
    );
    owner.run(&call(&world, "activate_role", "'crew'"));
    assert_eq!(member.count("EXECUTE seen"), 3);
    assert_eq!(member.count("SELECT count(*) FROM tenancy.my_orgs()"), 1);
    // And he may leave meanwhile.
    owner.run(&call(&world, "deactivate_role", "'crew'"));
    member.run(&call(
        &world,
        "remove_member",
        &format!("'{}'", world.user("acme.member")),
    ));
}

#[test]
fn a_role_made_inactive_gives_nothing_until_it_is_activated() {
    let world = World::new();
    let mut owner = world.session("acme.owner");
    owner.run(&call(
        &world,
        "create_role",
        "'later', clone_of => 'admin', active => false",
    ));
    owner.run(&assign(&world, "acme.viewer", "later"));
    let mut viewer = world.session("acme.viewer");
    assert_eq!(viewer.count("SELECT count(*) FROM servers"), 0);
    owner.run(&call(&world, "activate_role", "'later'"));
    assert_eq!(viewer.run("UPDATE servers SET cpus = 2"), 3);
}
