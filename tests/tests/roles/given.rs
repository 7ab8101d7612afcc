//! That nobody gives what he does not hold.

use super::{captain, everything};
use pg_tenancy_tests::roles::{assign, call, role};
use pg_tenancy_tests::{World, fails, refused};

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
