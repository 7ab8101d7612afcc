//! Who makes roles, how they are named and dropped, and what is written down of it.

use super::everything;
use pg_tenancy_tests::roles::{assign, call, role};
use pg_tenancy_tests::{Db, Uuid, World, assert_same_error, fails, refused};

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
