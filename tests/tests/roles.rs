//! Roles of an organization's own (issue 7.1, section 2 of the specification): who makes and gives them, what they give,
//! and that nobody gets by them what nobody gave who held it.

use pg_tenancy_tests::{Db, Session, Uuid, World, assert_same_error, fails, refused};

/// A statement about acme's roles: `call(&world, "grant_permission", "'deployer', 'site:deploy'")`.
fn call(world: &World, function: &str, arguments: &str) -> String {
    format!(
        "SELECT tenancy.{function}('{}', {arguments})",
        world.acme.id
    )
}

fn assign(world: &World, who: &str, role: &str) -> String {
    call(
        world,
        "set_member_role",
        &format!("'{}', '{role}'", world.user(who)),
    )
}

/// A role of acme's with these permissions, made by the DBA.
#[track_caller]
fn role(world: &World, name: &str, actions: &[&str]) {
    let mut dba = world.superuser();
    dba.run(&call(world, "create_role", &format!("'{name}'")));
    for action in actions {
        dba.run(&call(
            world,
            "grant_permission",
            &format!("'{name}', '{action}'"),
        ));
    }
}

/// acme.admin becomes a captain: may manage the team, and holds little else.
fn captain(world: &World) -> Session {
    role(
        world,
        "captain",
        &[
            "team:read",
            "team:invite",
            "team:role",
            "team:remove",
            "server:read",
            "site:read",
            "site:manage",
        ],
    );
    world
        .superuser()
        .run(&assign(world, "acme.admin", "captain"));
    world.session("acme.admin")
}

/// Everything that acme's roles and members are, as the tables hold it.
fn everything(world: &World) -> Vec<String> {
    world.superuser().column(
        "SELECT concat_ws(' ', 'role', org_id, name, active) FROM tenancy.custom_roles
         UNION ALL SELECT concat_ws(' ', 'grant', org_id, role, action, environment, level) FROM tenancy.custom_role_permissions
         UNION ALL SELECT concat_ws(' ', 'member', org_id, user_id, role) FROM tenancy.memberships ORDER BY 1",
    )
}

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

#[test]
fn a12_the_names_of_roles_are_the_organizations_own() {
    let world = World::new();
    let mut acme = world.session("acme.owner");
    let mut globex = world.session("globex.owner");
    for (session, org, action) in [
        (&mut acme, world.acme, "server:delete"),
        (&mut globex, world.globex, "billing:read"),
    ] {
        session.run(&format!(
            "SELECT tenancy.create_role('{0}', 'deployer'); SELECT tenancy.grant_permission('{0}', 'deployer', '{action}')",
            org.id
        ));
    }
    // One name, two roles.
    assert!(acme.is_true("SELECT tenancy.has_permission('deployer', 'server:delete')"));
    assert!(!globex.is_true("SELECT tenancy.has_permission('deployer', 'server:delete')"));
    assert!(globex.is_true("SELECT tenancy.has_permission('deployer', 'billing:read')"));
    for session in [&mut acme, &mut globex] {
        assert_eq!(
            session.count("SELECT count(*) FROM tenancy.custom_roles"),
            1
        );
        assert_eq!(
            session.count("SELECT count(*) FROM tenancy.custom_role_permissions"),
            1
        );
    }
    // One that only acme has is to globex like one that nobody has.
    acme.run(&call(&world, "create_role", "'welder'"));
    let user = world.user("globex.viewer");
    let org = world.globex.id;
    for ask in [
        "SELECT tenancy.permission_level('ROLE', 'server:read')".to_string(),
        "SELECT tenancy.has_permission('ROLE', 'server:read')".to_string(),
        format!("SELECT tenancy.set_member_role('{org}', '{user}', 'ROLE')"),
        format!(
            "SELECT tenancy.add_member('{org}', '{}', 'ROLE')",
            world.user("stranger")
        ),
        format!("SELECT tenancy.grant_permission('{org}', 'ROLE', 'server:read')"),
        format!("SELECT tenancy.revoke_permission('{org}', 'ROLE', 'server:read')"),
        format!("SELECT tenancy.activate_role('{org}', 'ROLE')"),
        format!("SELECT tenancy.deactivate_role('{org}', 'ROLE')"),
        format!("SELECT tenancy.drop_role('{org}', 'ROLE')"),
        format!("SELECT tenancy.create_role('{org}', 'x', clone_of => 'ROLE')"),
    ] {
        let theirs = refused(globex.attempt(&ask.replace("ROLE", "welder")), "22023");
        let nobodys = refused(globex.attempt(&ask.replace("ROLE", "welter")), "22023");
        assert_same_error(&theirs, &nobodys, &[("welter", "welder")]);
        assert!(!theirs.hint().unwrap().contains("welder"));
    }
    // Nor does a member without team:read learn of the roles of his own organization, but for his own.
    let mut viewer = world.session("acme.viewer");
    assert_eq!(viewer.count("SELECT count(*) FROM tenancy.custom_roles"), 0);
    let theirs = refused(
        viewer.attempt("SELECT tenancy.permission_level('welder', 'server:read')"),
        "22023",
    );
    let nobodys = refused(
        viewer.attempt("SELECT tenancy.permission_level('welter', 'server:read')"),
        "22023",
    );
    assert_same_error(&theirs, &nobodys, &[("welter", "welder")]);
    acme.run(&assign(&world, "acme.viewer", "welder"));
    assert_eq!(
        viewer.column("SELECT name FROM tenancy.custom_roles"),
        ["welder"]
    );
    assert_eq!(
        viewer.text("SELECT tenancy.permission_level('welder', 'server:read')"),
        "deny"
    );
    // And a role of acme's cannot be a membership's in globex, whoever writes it.
    fails(
        world.break_glass().attempt(&format!(
            "UPDATE tenancy.memberships SET role = 'welder' WHERE org_id = '{org}' AND user_id = '{user}'"
        )),
        "23503",
    );
    // Acts on another organization's roles say what they say of no organization at all.
    let nowhere = Uuid::new_v4();
    for act in [
        "create_role('ORG', 'x')",
        "grant_permission('ORG', 'welder', 'server:read')",
        "revoke_permission('ORG', 'welder', 'server:read')",
        "activate_role('ORG', 'welder')",
        "deactivate_role('ORG', 'welder')",
        "drop_role('ORG', 'welder')",
    ] {
        let ask = |org: Uuid| format!("SELECT tenancy.{}", act.replace("ORG", &org.to_string()));
        let theirs = refused(globex.attempt(&ask(world.acme.id)), "42501");
        let none = refused(globex.attempt(&ask(nowhere)), "42501");
        assert_same_error(
            &theirs,
            &none,
            &[(&nowhere.to_string(), &world.acme.id.to_string())],
        );
    }
}

#[test]
fn making_roles_is_for_team_role_and_names_are_held_to_be_clear() {
    let world = World::new();
    role(&world, "crew", &[]);
    let before = everything(&world);
    for who in ["acme.admin", "acme.member", "acme.viewer"] {
        let mut session = world.session(who);
        for (function, arguments) in [
            ("create_role", "'x'"),
            ("grant_permission", "'crew', 'server:read'"),
            ("revoke_permission", "'crew', 'server:read'"),
            ("activate_role", "'crew'"),
            ("deactivate_role", "'crew'"),
            ("drop_role", "'crew'"),
        ] {
            let error = refused(session.attempt(&call(&world, function, arguments)), "42501");
            assert!(error.message().contains("team:role"), "{error:?}");
        }
        for sql in [
            "INSERT INTO tenancy.custom_roles (org_id, name) VALUES (tenancy.current_org(), 'x')",
            "UPDATE tenancy.custom_roles SET active = true",
            "DELETE FROM tenancy.custom_roles",
            "INSERT INTO tenancy.custom_role_permissions VALUES (tenancy.current_org(), 'crew', 'server:read', '', 'allow')",
            "UPDATE tenancy.custom_role_permissions SET level = 'allow'",
            "TRUNCATE tenancy.custom_role_permissions",
        ] {
            fails(session.attempt(sql), "42501");
        }
    }
    let mut owner = world.session("acme.owner");
    for bad in [
        "''",
        "' x'",
        "'x '",
        "E'a\\nb'",
        "repeat('x', 64)",
        "'owner'",
        "'Owner'",
        "'ADMIN'",
        "'member'",
        "'viewer'",
        "'dba'",
    ] {
        refused(owner.attempt(&call(&world, "create_role", bad)), "22023");
    }
    for taken in ["'crew'", "'CREW'"] {
        refused(owner.attempt(&call(&world, "create_role", taken)), "42710");
    }
    refused(owner.attempt(&call(&world, "create_role", "NULL")), "22004");
    for (action, code) in [("'server:raed'", "22023"), ("NULL", "22004")] {
        refused(
            owner.attempt(&call(
                &world,
                "grant_permission",
                &format!("'crew', {action}"),
            )),
            code,
        );
    }
    let error = refused(
        owner.attempt(&call(&world, "grant_permission", "'crwe', 'server:read'")),
        "22023",
    );
    assert!(error.hint().unwrap().contains("\"crew\""));
    refused(
        owner.attempt(&call(
            &world,
            "grant_permission",
            "'crew', 'server:read', 'alow'",
        )),
        "22023",
    );
    assert_eq!(everything(&world), before);
    // A name that would end a literal goes wherever names go.
    owner.run(&call(&world, "create_role", "'O''Neill \"the\" é'"));
    owner.run(&assign(&world, "acme.viewer", "O''Neill \"the\" é"));
    let error = refused(
        world
            .session("acme.viewer")
            .attempt("INSERT INTO servers (id, name) VALUES (50, 'x')"),
        "42501",
    );
    let hint = error.hint().unwrap();
    let query = hint
        .split("; ")
        .nth(1)
        .unwrap()
        .split(" shows")
        .next()
        .unwrap();
    assert_eq!(world.session("acme.viewer").text(query), "deny");
}

#[test]
fn what_is_the_systems_never_changes() {
    let world = World::new();
    let mut owner = world.session("acme.owner");
    for role in ["owner", "admin", "member", "viewer"] {
        for (function, arguments) in [
            ("grant_permission", format!("'{role}', 'org:delete'")),
            ("revoke_permission", format!("'{role}', 'server:read'")),
            ("deactivate_role", format!("'{role}'")),
            ("activate_role", format!("'{role}'")),
            ("drop_role", format!("'{role}'")),
        ] {
            refused(owner.attempt(&call(&world, function, &arguments)), "42501");
            refused(
                world
                    .superuser()
                    .attempt(&call(&world, function, &arguments)),
                "42501",
            );
        }
    }
    let mut dba = world.superuser();
    let cells = "SELECT md5(string_agg(p::text, ' ' ORDER BY role, action)) FROM tenancy.role_permissions p";
    let before = dba.text(cells);
    for replica in ["", "SET session_replication_role = replica"] {
        dba.run(replica);
        for sql in [
            "UPDATE tenancy.role_permissions SET level = 'allow' WHERE role = 'viewer'",
            "UPDATE tenancy.role_permissions SET is_system = false",
            "DELETE FROM tenancy.role_permissions WHERE role = 'viewer' AND action = 'server:read'",
            "INSERT INTO tenancy.actions VALUES ('x:y', 'x', NULL, true)",
            "INSERT INTO tenancy.roles (name) VALUES ('king')",
            "UPDATE tenancy.roles SET name = 'king' WHERE name = 'admin'",
            "DELETE FROM tenancy.roles WHERE name = 'viewer'",
            "UPDATE tenancy.actions SET category = 'x' WHERE name = 'server:read'",
            "DELETE FROM tenancy.actions WHERE name = 'server:read'",
            "TRUNCATE tenancy.role_permissions",
            "TRUNCATE tenancy.roles CASCADE",
        ] {
            fails(dba.attempt(sql), "42501");
        }
    }
    assert_eq!(dba.text(cells), before);
}

#[test]
fn nobody_gives_what_he_does_not_hold() {
    let world = World::new();
    let mut captain = captain(&world);
    role(&world, "pawn", &["server:read"]);
    role(&world, "strong", &["server:read", "server:delete"]);
    let mut dba = world.superuser();
    dba.run(&call(
        &world,
        "create_role",
        "'asleep', clone_of => 'admin', active => false",
    ));
    dba.run(&assign(&world, "acme.viewer", "pawn"));
    dba.run(&call(
        &world,
        "grant_permission",
        "'pawn', 'site:delete', 'deny', 'production'",
    ));
    dba.run(&call(&world, "create_role", "'fenced', clone_of => 'pawn'"));
    for grant in [
        "'fenced', 'site:manage', 'deny', 'production'",
        "'fenced', 'app:delete'",
    ] {
        dba.run(&call(&world, "grant_permission", grant));
    }
    dba.run(&call(
        &world,
        "grant_permission",
        "'fenced', 'app:delete', 'deny', 'production'",
    ));
    let before = everything(&world);
    let me = world.user("acme.admin");
    let stranger = world.user("stranger");
    for (function, arguments) in [
        // His own role wider, or another's that somebody has.
        ("grant_permission", "'captain', 'server:delete'".to_string()),
        ("grant_permission", "'pawn', 'server:delete'".into()),
        (
            "grant_permission",
            "'pawn', 'server:delete', 'limited'".into(),
        ),
        (
            "grant_permission",
            "'pawn', 'server:delete', 'allow', 'staging'".into(),
        ),
        // By taking away what fences it.
        (
            "revoke_permission",
            "'fenced', 'app:delete', 'production'".into(),
        ),
        (
            "grant_permission",
            "'fenced', 'app:delete', 'allow', 'production'".into(),
        ),
        // By copies.
        ("create_role", "'mine', clone_of => 'admin'".into()),
        (
            "create_role",
            "'mine', clone_of => 'owner', active => false".into(),
        ),
        ("create_role", "'mine', clone_of => 'strong'".into()),
        (
            "create_role",
            "'mine', template => 'Deployment Manager'".into(),
        ),
        ("activate_role", "'asleep'".into()),
        // By assigning, to himself, to another, to somebody new.
        ("set_member_role", format!("'{me}', 'admin'")),
        ("set_member_role", format!("'{me}', 'strong'")),
        ("set_member_role", format!("'{me}', 'asleep'")),
        (
            "set_member_role",
            format!("'{}', 'strong'", world.user("acme.viewer")),
        ),
        (
            "set_member_role",
            format!("'{}', 'member'", world.user("acme.viewer")),
        ),
        ("add_member", format!("'{stranger}', 'admin'")),
        ("add_member", format!("'{stranger}', 'viewer'")),
        ("add_member", format!("'{stranger}', 'asleep'")),
    ] {
        let sql = call(&world, function, &arguments);
        let error = refused(captain.attempt(&sql), "42501");
        assert!(
            error
                .message()
                .contains("nobody gives what he does not hold"),
            "{sql}: {error:?}"
        );
        assert!(error.detail().unwrap().contains("\"captain\""), "{error:?}");
        assert_eq!(everything(&world), before, "{sql}");
    }
    for role in ["owner", "Owner"] {
        assert!(
            captain
                .attempt(&assign(&world, "acme.admin", role))
                .is_err()
        );
        assert!(
            captain
                .attempt(&call(
                    &world,
                    "add_member",
                    &format!("'{stranger}', '{role}'")
                ))
                .is_err()
        );
    }
    assert_eq!(everything(&world), before);
    // What he holds he gives; what he does not he may still take.
    for (function, arguments) in [
        ("grant_permission", "'pawn', 'site:manage'".to_string()),
        (
            "grant_permission",
            "'pawn', 'site:manage', 'allow', 'staging'".into(),
        ),
        ("revoke_permission", "'strong', 'server:delete'".into()),
        (
            "revoke_permission",
            "'fenced', 'site:manage', 'production'".into(),
        ),
        ("grant_permission", "'fenced', 'app:delete', 'deny'".into()),
        ("create_role", "'mine', clone_of => 'captain'".into()),
        ("add_member", format!("'{stranger}', 'mine'")),
        ("deactivate_role", "'fenced'".into()),
        ("drop_role", "'fenced'".into()),
        // A demotion: acme.member loses much and gains nothing he had not.
        (
            "set_member_role",
            format!("'{}', 'viewer'", world.user("acme.member")),
        ),
    ] {
        captain.run(&call(&world, function, &arguments));
    }
    // But not the owner.
    fails(
        captain.attempt(&assign(&world, "acme.owner", "pawn")),
        "23514",
    );
    // The owner and the DBA give anything.
    let mut owner = world.session("acme.owner");
    owner.run(&call(
        &world,
        "grant_permission",
        "'captain', 'server:delete'",
    ));
    captain.run(&call(&world, "grant_permission", "'pawn', 'server:delete'"));
}

#[test]
fn a_giver_who_holds_an_action_in_one_environment_gives_it_there() {
    let world = World::new();
    let mut captain = captain(&world);
    role(&world, "pawn", &[]);
    let mut owner = world.session("acme.owner");
    for grant in [
        "'captain', 'app:deploy', 'allow', 'staging'",
        "'captain', 'app:delete'",
        "'captain', 'app:delete', 'deny', 'production'",
        "'captain', 'ai:approve', 'limited'",
    ] {
        owner.run(&call(&world, "grant_permission", grant));
    }
    for refusal in [
        "'pawn', 'app:deploy'",
        "'pawn', 'app:deploy', 'allow', 'production'",
        "'pawn', 'app:delete'",
        "'pawn', 'app:delete', 'allow', 'production'",
        "'pawn', 'ai:approve'",
        "'pawn', 'ai:approve', 'allow', 'staging'",
    ] {
        let error = refused(
            captain.attempt(&call(&world, "grant_permission", refusal)),
            "42501",
        );
        assert!(error.message().contains("does not hold"), "{error:?}");
    }
    for grant in [
        "'pawn', 'app:deploy', 'allow', 'staging'",
        "'pawn', 'app:delete', 'allow', 'staging'",
        "'pawn', 'app:delete', 'deny', 'production'",
        "'pawn', 'ai:approve', 'limited'",
        "'pawn', 'ai:approve', 'limited', 'production'",
    ] {
        captain.run(&call(&world, "grant_permission", grant));
    }
    // With the fence up, what is left is his to give.
    captain.run(&call(&world, "grant_permission", "'pawn', 'app:delete'"));
}

#[test]
fn a_role_that_somebody_has_is_not_dropped() {
    let world = World::new();
    role(&world, "crew", &["server:read"]);
    let mut owner = world.session("acme.owner");
    owner.run(&assign(&world, "acme.viewer", "crew"));
    let error = refused(owner.attempt(&call(&world, "drop_role", "'crew'")), "2BP01");
    assert!(error.detail().unwrap().contains('1'), "{error:?}");
    // Nor by a superuser's own hand.
    fails(
        world
            .superuser()
            .attempt("DELETE FROM tenancy.custom_roles"),
        "23503",
    );
    owner.run(&assign(&world, "acme.viewer", "viewer"));
    owner.run(&call(&world, "drop_role", "'crew'"));
    assert_eq!(
        world.superuser().count(
            "SELECT count(*) FROM (SELECT 1 FROM tenancy.custom_roles UNION ALL SELECT 1 FROM tenancy.custom_role_permissions) x"
        ),
        0
    );
    refused(
        owner.attempt(&assign(&world, "acme.viewer", "crew")),
        "22023",
    );
    // The name is free again, and nothing of the old one comes back.
    owner.run(&call(&world, "create_role", "'crew'"));
    assert!(!owner.is_true("SELECT tenancy.has_permission('crew', 'server:read')"));
}

#[test]
fn every_act_is_in_the_organizations_log() {
    let world = World::new();
    let mut owner = world.session("acme.owner");
    for (function, arguments) in [
        ("create_role", "'crew', clone_of => 'viewer'"),
        (
            "grant_permission",
            "'crew', 'site:deploy', environment => 'staging'",
        ),
        (
            "grant_permission",
            "'crew', 'site:deploy', 'limited', 'staging'",
        ),
        // Twice is once.
        (
            "grant_permission",
            "'crew', 'site:deploy', 'limited', 'staging'",
        ),
        ("revoke_permission", "'crew', 'site:deploy', 'staging'"),
        ("deactivate_role", "'crew'"),
        ("deactivate_role", "'crew'"),
        ("activate_role", "'crew'"),
        ("drop_role", "'crew'"),
    ] {
        owner.run(&call(&world, function, arguments));
    }
    let lines = owner.rows(
        "SELECT operation, key ->> 'name', actor_id, old ->> 'level', new ->> 'level', new ->> 'environment', new -> 'permissions' ->> 'server:read'
         FROM tenancy.audit_log WHERE object = 'tenancy.custom_roles' ORDER BY at, n",
    );
    let me = world.user("acme.owner").to_string();
    let operations: Vec<&str> = lines.iter().map(|l| l[0].as_deref().unwrap()).collect();
    assert_eq!(
        operations,
        [
            "create_role",
            "grant_permission",
            "grant_permission",
            "revoke_permission",
            "deactivate_role",
            "activate_role",
            "drop_role"
        ]
    );
    for line in &lines {
        assert_eq!(line[1].as_deref(), Some("crew"));
        assert_eq!(line[2].as_deref(), Some(me.as_str()));
    }
    let cell = |line: usize, column: usize| lines[line][column].as_deref();
    assert_eq!(cell(0, 6), Some("allow"));
    assert_eq!(
        (cell(1, 3), cell(1, 4), cell(1, 5)),
        (None, Some("allow"), Some("staging"))
    );
    assert_eq!((cell(2, 3), cell(2, 4)), (Some("allow"), Some("limited")));
    assert_eq!((cell(3, 3), cell(3, 4)), (Some("limited"), None));
    // The other organization's log is empty of it.
    assert_eq!(
        world
            .session("globex.owner")
            .count("SELECT count(*) FROM tenancy.audit_log WHERE object = 'tenancy.custom_roles'"),
        0
    );
}

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

#[test]
fn a_dump_carries_roles_grants_and_actions() {
    let world = World::new();
    let mut dba = world.superuser();
    dba.run("SELECT tenancy.define_action('invoice:send', 'billing', member => 'allow')");
    role(&world, "crew", &["server:read", "invoice:send"]);
    dba.run(&call(
        &world,
        "grant_permission",
        "'crew', 'site:deploy', 'allow', 'staging'",
    ));
    dba.run(&call(
        &world,
        "create_role",
        "'asleep', clone_of => 'admin', active => false",
    ));
    dba.run(&assign(&world, "acme.viewer", "crew"));
    dba.run(&assign(&world, "acme.member", "asleep"));
    let cluster = world.db.cluster.clone();
    let file = cluster.file(&format!("{}.dump", world.db.name));
    let path = file.to_str().unwrap();
    cluster.client_program(
        "pg_dump",
        &world.db.name,
        &["--format=custom", "--file", path],
    );
    let other = Db::empty(cluster.clone());
    cluster.client_program("pg_restore", &other.name, &["--exit-on-error", path]);
    let restored = world.moved_to(other);
    assert_eq!(everything(&restored), everything(&world));
    let mut viewer = restored.session("acme.viewer");
    assert_eq!(viewer.count("SELECT count(*) FROM servers"), 3);
    assert!(viewer.is_true("SELECT tenancy.has_permission('invoice:send')"));
    assert!(viewer.is_true("SELECT tenancy.has_permission_in('staging', 'site:deploy')"));
    assert_eq!(
        restored
            .session("acme.member")
            .count("SELECT count(*) FROM servers"),
        0
    );
    assert!(
        restored
            .superuser()
            .is_true("SELECT tenancy.has_permission('member', 'invoice:send')")
    );
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
