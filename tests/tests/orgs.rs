//! An org's life: who may create it, who joins and leaves, who has a say.

use pg_tenancy_tests::{Session, Uuid, World, assert_same_error, fails, refused};

fn add(org: Uuid, user: Uuid, role: &str) -> String {
    format!("SELECT tenancy.add_member('{org}', '{user}', '{role}')")
}
fn set_role(org: Uuid, user: Uuid, role: &str) -> String {
    format!("SELECT tenancy.set_member_role('{org}', '{user}', '{role}')")
}
fn remove(org: Uuid, user: Uuid) -> String {
    format!("SELECT tenancy.remove_member('{org}', '{user}')")
}
fn transfer(org: Uuid, user: Uuid) -> String {
    format!("SELECT tenancy.transfer_ownership('{org}', '{user}')")
}
fn role_of(world: &World, org: Uuid, user: Uuid) -> Option<String> {
    world
        .superuser()
        .column(&format!(
            "SELECT role FROM tenancy.memberships WHERE org_id = '{org}' AND user_id = '{user}'"
        ))
        .pop()
}
fn my_orgs(session: &mut Session) -> Vec<String> {
    session.column("SELECT slug || ' ' || role FROM tenancy.my_orgs() ORDER BY slug")
}

#[test]
fn the_creator_becomes_the_owner() {
    let world = World::people();
    let stranger = world.user("stranger");

    // A person with a login of his own.
    let mut session = world.bound("stranger");
    let org: Uuid = session
        .text("SELECT tenancy.create_org('Initech', 'initech')")
        .parse()
        .unwrap();
    assert_eq!(role_of(&world, org, stranger).as_deref(), Some("owner"));
    assert_eq!(my_orgs(&mut session), ["initech owner"]);

    // The application, for the user it names.
    let mut app = world.app();
    app.run("BEGIN");
    app.run(&format!("SET LOCAL app.current_user_id = '{stranger}'"));
    let second: Uuid = app
        .text("SELECT tenancy.create_org('Second', 'second')")
        .parse()
        .unwrap();
    app.run("COMMIT");
    assert_eq!(role_of(&world, second, stranger).as_deref(), Some("owner"));

    // The application as a service, naming the owner.
    let third: Uuid = app
        .text(&format!(
            "SELECT tenancy.create_org('Third', 'third', owner => '{stranger}', external_key => 'k3')"
        ))
        .parse()
        .unwrap();
    assert_eq!(role_of(&world, third, stranger).as_deref(), Some("owner"));
    assert_eq!(
        my_orgs(&mut session),
        ["initech owner", "second owner", "third owner"]
    );
    assert_eq!(
        world.superuser().text(&format!(
            "SELECT name || ',' || slug || ',' || external_key || ',' || owner_id FROM tenancy.orgs WHERE id = '{third}'"
        )),
        format!("Third,third,k3,{stranger}")
    );
}

#[test]
fn nobody_makes_an_org_for_somebody_else() {
    let world = World::people();
    let victim = world.user("acme.member");
    let sql = format!("SELECT tenancy.create_org('X', 'x', owner => '{victim}')");
    refused(world.bound("acme.owner").attempt(&sql), "42501");
    refused(world.nobody().attempt(&sql), "42501");
    refused(
        world
            .nobody()
            .attempt("SELECT tenancy.create_org('X', 'x')"),
        "42501",
    );
    // An application that acts as a user has that user's rights, not its own.
    let mut app = world.app();
    app.run("BEGIN");
    app.run(&format!(
        "SET LOCAL app.current_user_id = '{}'",
        world.user("acme.owner")
    ));
    refused(app.attempt(&sql), "42501");
}

#[test]
fn users_are_made_by_the_dba_or_the_application() {
    let world = World::people();
    let id: Uuid = world
        .app()
        .text("SELECT tenancy.create_user('new@example.test', 'New', external_key => 'u1', sso_subject => 'sso|1')")
        .parse()
        .unwrap();
    assert_eq!(
        world.superuser().rows(&format!(
            "SELECT email, name, external_key, sso_subject FROM tenancy.users WHERE id = '{id}'"
        )),
        [[
            Some("new@example.test".to_string()),
            Some("New".to_string()),
            Some("u1".to_string()),
            Some("sso|1".to_string())
        ]]
    );
    for mut session in [world.bound("acme.owner"), world.nobody()] {
        refused(
            session.attempt("SELECT tenancy.create_user('other@example.test')"),
            "42501",
        );
    }
}

#[test]
fn a_slug_an_email_and_a_key_are_given_once() {
    let world = World::people();
    let mut dba = world.superuser();
    let owner = world.user("stranger");
    fails(
        dba.attempt(&format!(
            "SELECT tenancy.create_org('A', 'acme', owner => '{owner}')"
        )),
        "23505",
    );
    fails(
        dba.attempt(&format!(
            "SELECT tenancy.create_org('A', 'acme2', owner => '{owner}', external_key => 'customer-7')"
        )),
        "23505",
    );
    fails(
        dba.attempt("SELECT tenancy.create_user('owner@acme.test')"),
        "23505",
    );
    // An email is the same however it is written.
    fails(
        dba.attempt("SELECT tenancy.create_user('OWNER@Acme.test')"),
        "23505",
    );
    fails(
        dba.attempt(
            "SELECT tenancy.create_user('n@example.test', external_key => 'key-of-agency')",
        ),
        "23505",
    );
    // Nothing was left behind by the refusals.
    assert_eq!(dba.count("SELECT count(*) FROM tenancy.orgs"), 2);
    assert_eq!(dba.count("SELECT count(*) FROM tenancy.users"), 10);
}

#[test]
fn a12_who_may_not_create_users_learns_nothing_of_emails() {
    let world = World::people();
    let mut session = world.bound("stranger");
    let taken = refused(
        session.attempt("SELECT tenancy.create_user('owner@acme.test')"),
        "42501",
    );
    let free = refused(
        session.attempt("SELECT tenancy.create_user('free@acme.test')"),
        "42501",
    );
    assert_same_error(&taken, &free, &[("free@acme.test", "owner@acme.test")]);
}

#[test]
fn the_owner_has_the_say_and_nobody_else() {
    let world = World::people();
    let acme = world.acme.id;
    let (stranger, viewer) = (world.user("stranger"), world.user("acme.viewer"));
    let acts = [
        add(acme, stranger, "viewer"),
        set_role(acme, viewer, "member"),
        remove(acme, viewer),
        transfer(acme, world.user("acme.admin")),
    ];
    for who in ["acme.admin", "acme.member", "agency"] {
        for context in [true, false] {
            let mut session = if context {
                world.session(who)
            } else {
                world.bound(who)
            };
            for act in &acts {
                refused(session.attempt(act), "42501");
            }
        }
    }
    // Without the right to remove, a viewer still leaves; all else is refused.
    for act in [
        &acts[0],
        &acts[1],
        &acts[3],
        &remove(acme, world.user("acme.member")),
    ] {
        refused(world.session("acme.viewer").attempt(act), "42501");
    }
    // The owner of another org is a stranger here.
    for act in &acts {
        refused(world.session("globex.owner").attempt(act), "42501");
    }
    for mut nobody in [world.nobody(), world.bound("stranger")] {
        for act in &acts {
            refused(nobody.attempt(act), "42501");
        }
    }
    assert_eq!(role_of(&world, acme, stranger), None);
    assert_eq!(role_of(&world, acme, viewer).as_deref(), Some("viewer"));

    let mut owner = world.session("acme.owner");
    for act in &acts {
        owner.run(act);
    }
    assert_eq!(role_of(&world, acme, stranger).as_deref(), Some("viewer"));
    assert_eq!(role_of(&world, acme, viewer), None);
    assert_eq!(
        role_of(&world, acme, world.user("acme.owner")).as_deref(),
        Some("admin")
    );
}

#[test]
fn the_application_acts_with_the_users_rights() {
    let world = World::people();
    let (acme, stranger) = (world.acme, world.user("stranger"));
    let mut app = world.app();
    world.begin(&mut app, acme, "acme.admin");
    refused(app.attempt(&add(acme.id, stranger, "viewer")), "42501");
    app.run("ROLLBACK");
    world.begin(&mut app, acme, "acme.owner");
    app.run(&add(acme.id, stranger, "viewer"));
    app.run("COMMIT");
    assert_eq!(
        role_of(&world, acme.id, stranger).as_deref(),
        Some("viewer")
    );
}

#[test]
fn a12_an_org_one_is_not_in_looks_like_no_org() {
    let world = World::people();
    let (globex, unknown) = (world.globex.id, Uuid::new_v4());
    let (own, other) = (world.user("acme.owner"), world.user("globex.viewer"));
    let acts: [fn(Uuid, Uuid, Uuid) -> String; 7] = [
        |org, own, _| add(org, own, "admin"),
        |org, _, other| add(org, other, "admin"),
        |org, _, other| set_role(org, other, "admin"),
        |org, _, other| remove(org, other),
        |org, own, _| remove(org, own),
        |org, own, _| transfer(org, own),
        |org, _, _| format!("SELECT tenancy.enter('{org}')"),
    ];
    let mut session = world.session("acme.owner");
    for act in acts {
        let existing = refused(session.attempt(&act(globex, own, other)), "42501");
        let nothing = refused(session.attempt(&act(unknown, own, other)), "42501");
        assert_same_error(
            &existing,
            &nothing,
            &[(&unknown.to_string(), &globex.to_string())],
        );
        assert!(
            existing
                .message()
                .contains("does not exist or you do not belong to it"),
            "{}",
            existing.message()
        );
    }
}

#[test]
fn nobody_promotes_himself() {
    let world = World::people();
    let acme = world.acme.id;
    for who in ["acme.admin", "acme.member", "acme.viewer"] {
        let me = world.user(who);
        let mut session = world.session(who);
        for role in ["admin", "member"] {
            refused(session.attempt(&set_role(acme, me, role)), "42501");
        }
        session.attempt(&set_role(acme, me, "owner")).unwrap_err();
        refused(session.attempt(&transfer(acme, me)), "42501");
        assert_eq!(
            role_of(&world, acme, me).as_deref(),
            who.split('.').next_back()
        );
    }
}

#[test]
fn ownership_is_transferred_and_never_granted() {
    let world = World::people();
    let (acme, stranger, member) = (
        world.acme.id,
        world.user("stranger"),
        world.user("acme.member"),
    );
    for mut session in [world.session("acme.owner"), world.superuser()] {
        refused(session.attempt(&add(acme, stranger, "owner")), "23514");
        refused(session.attempt(&set_role(acme, member, "owner")), "23514");
    }
    let error = fails(
        world
            .session("acme.owner")
            .attempt(&add(acme, stranger, "membr")),
        "22023",
    );
    assert!(error.hint().unwrap().contains("\"member\""));
    assert_eq!(role_of(&world, acme, stranger), None);
}

#[test]
fn the_owner_stays_until_he_hands_over() {
    let world = World::people();
    let (acme, owner) = (world.acme.id, world.user("acme.owner"));
    for mut session in [world.session("acme.owner"), world.superuser()] {
        refused(session.attempt(&remove(acme, owner)), "23514");
        refused(session.attempt(&set_role(acme, owner, "admin")), "23514");
    }
    assert_eq!(role_of(&world, acme, owner).as_deref(), Some("owner"));
}

#[test]
fn anybody_else_may_leave() {
    let world = World::people();
    for who in ["acme.admin", "acme.member", "acme.viewer"] {
        let me = world.user(who);
        let mut session = world.session(who);
        assert_eq!(my_orgs(&mut session).len(), 1);
        session.run(&remove(world.acme.id, me));
        assert_eq!(my_orgs(&mut session).len(), 0);
        assert_eq!(session.value("SELECT tenancy.current_org()"), None);
    }
    // Leaving one org is not leaving another.
    let mut agency = world.bound("agency");
    agency.run(&remove(world.globex.id, world.user("agency")));
    assert_eq!(my_orgs(&mut agency), ["acme admin"]);
}

#[test]
fn a_transfer_swaps_both_rows_at_once() {
    let world = World::people();
    let (acme, old, new) = (
        world.acme.id,
        world.user("acme.owner"),
        world.user("acme.viewer"),
    );
    world.session("acme.owner").run(&transfer(acme, new));
    assert_eq!(role_of(&world, acme, old).as_deref(), Some("admin"));
    assert_eq!(role_of(&world, acme, new).as_deref(), Some("owner"));
    assert_eq!(
        world.superuser().text(&format!(
            "SELECT owner_id FROM tenancy.orgs WHERE id = '{acme}'"
        )),
        new.to_string()
    );
    // The old owner has lost the right, the new one has it.
    refused(
        world.session("acme.owner").attempt(&transfer(acme, old)),
        "42501",
    );
    world.session("acme.viewer").run(&transfer(acme, old));
    assert_eq!(role_of(&world, acme, old).as_deref(), Some("owner"));
    // The DBA may, too.
    world.superuser().run(&transfer(acme, new));
    assert_eq!(role_of(&world, acme, new).as_deref(), Some("owner"));
    assert_eq!(role_of(&world, acme, old).as_deref(), Some("admin"));
}

#[test]
fn ownership_goes_to_active_members_only() {
    let world = World::people();
    let acme = world.acme.id;
    let mut dba = world.superuser();
    dba.run(&format!(
        "SELECT tenancy.add_member('{acme}', '{}', 'admin', expires_at => clock_timestamp() + interval '300 ms')",
        world.user("stranger")
    ));
    std::thread::sleep(std::time::Duration::from_millis(400));
    let mut owner = world.session("acme.owner");
    for target in [
        world.user("stranger"),
        world.user("globex.admin"),
        Uuid::new_v4(),
    ] {
        for session in [&mut owner, &mut dba] {
            let error = session.attempt(&transfer(acme, target)).unwrap_err();
            let error = error.as_db_error().expect("an error of the server");
            assert!(
                ["42501", "22023"].contains(&error.code().code()),
                "{error:?}"
            );
            assert!(
                error.detail().is_some() && error.hint().is_some(),
                "{error:?}"
            );
        }
    }
    assert_eq!(
        role_of(&world, acme, world.user("acme.owner")).as_deref(),
        Some("owner")
    );
}

#[test]
fn members_are_told_where_they_may_go() {
    let world = World::people();
    assert_eq!(
        my_orgs(&mut world.bound("agency")),
        ["acme admin", "globex viewer"]
    );
    assert!(my_orgs(&mut world.bound("stranger")).is_empty());
    assert!(my_orgs(&mut world.nobody()).is_empty());
    let mut app = world.app();
    app.run("BEGIN");
    app.run(&format!(
        "SET LOCAL app.current_user_id = '{}'",
        world.user("globex.member")
    ));
    assert_eq!(my_orgs(&mut app), ["globex member"]);
    app.run("ROLLBACK");
    let row = world
        .bound("acme.owner")
        .json("SELECT * FROM tenancy.my_orgs()")
        .remove(0);
    assert_eq!(row["org_id"], world.acme.id.to_string());
    assert_eq!(row["name"], world.acme.name);
    assert!(row["expires_at"].is_null());
}

#[test]
fn a_member_is_added_once_and_must_exist() {
    let world = World::people();
    let acme = world.acme.id;
    let mut owner = world.session("acme.owner");
    fails(
        owner.attempt(&add(acme, world.user("acme.viewer"), "admin")),
        "23505",
    );
    assert_eq!(
        role_of(&world, acme, world.user("acme.viewer")).as_deref(),
        Some("viewer")
    );
    owner
        .attempt(&add(acme, Uuid::new_v4(), "viewer"))
        .unwrap_err();
    owner
        .attempt(&set_role(acme, world.user("stranger"), "viewer"))
        .unwrap_err();
    owner
        .attempt(&remove(acme, world.user("stranger")))
        .unwrap_err();
}

#[test]
fn a_limit_on_owned_orgs_holds_for_making_and_taking_over() {
    let world = World::people();
    let db = &world.db.name;
    world.superuser().run(&format!(
        "ALTER DATABASE {db} SET tenancy.max_owned_orgs = 1"
    ));
    let mut stranger = world.bound("stranger");
    stranger.run("SELECT tenancy.create_org('One', 'one')");
    let error = stranger
        .attempt("SELECT tenancy.create_org('Two', 'two')")
        .unwrap_err();
    let error = error.as_db_error().unwrap();
    assert!(
        error.detail().is_some() && error.hint().is_some(),
        "{error:?}"
    );
    // Not by way of another's org either.
    let mut owner = world.session("acme.owner");
    owner.run(&add(world.acme.id, world.user("stranger"), "admin"));
    owner
        .attempt(&transfer(world.acme.id, world.user("stranger")))
        .unwrap_err();
    // Nor at the same time.
    let mut second = world.bound("acme.member");
    let mut first = world.bound("acme.member");
    first.run("BEGIN; SELECT tenancy.create_org('Mine', 'mine')");
    let waiting = std::thread::spawn(move || {
        second
            .attempt("SELECT tenancy.create_org('Mine too', 'mine-too')")
            .is_err()
    });
    std::thread::sleep(std::time::Duration::from_millis(300));
    first.run("COMMIT");
    assert!(
        waiting.join().unwrap(),
        "two orgs at once passed a limit of one"
    );
    // The limit is not the user's to lift.
    fails(stranger.attempt("SET tenancy.max_owned_orgs = 0"), "42501");
}

#[test]
fn governance_stands_in_the_orgs_audit() {
    let world = World::people();
    let acme = world.acme.id;
    let stranger = world.user("stranger");
    let mut owner = world.session("acme.owner");
    owner.run(&add(acme, stranger, "viewer"));
    owner.run(&set_role(acme, stranger, "member"));
    owner.run(&remove(acme, stranger));
    owner.run(&transfer(acme, world.user("acme.admin")));
    let mut reader = world.session("acme.admin");
    let acts = reader.rows(&format!(
        "SELECT operation, object, actor_id FROM tenancy.audit_log
         WHERE db_role = '{}' ORDER BY at",
        world.db.role("acme.owner")
    ));
    let names: Vec<&str> = acts.iter().map(|r| r[0].as_deref().unwrap()).collect();
    assert_eq!(
        names,
        [
            "add_member",
            "set_member_role",
            "remove_member",
            "transfer_ownership"
        ]
    );
    let me = world.user("acme.owner").to_string();
    assert!(
        acts.iter().all(|r| r[2].as_deref() == Some(&me)),
        "{acts:?}"
    );
    assert!(
        acts[..3]
            .iter()
            .all(|r| r[1].as_deref() == Some("tenancy.memberships")),
        "{acts:?}"
    );
    // What happened stands in the values.
    let rows = reader.json(
        "SELECT old, new FROM tenancy.audit_log WHERE operation = 'set_member_role' ORDER BY at",
    );
    assert_eq!(rows[0]["old"]["role"], "viewer");
    assert_eq!(rows[0]["new"]["role"], "member");
    // The founding is there, too; and nothing of it in the other org.
    assert_eq!(
        reader.count("SELECT count(*) FROM tenancy.audit_log WHERE operation = 'create_org'"),
        1
    );
    let mut other = world.session("globex.owner");
    assert_eq!(
        other
            .count("SELECT count(*) FROM tenancy.audit_log WHERE operation = 'transfer_ownership'"),
        0
    );
}

#[test]
fn a_refused_act_changes_and_records_nothing() {
    let world = World::people();
    let acme = world.acme.id;
    let mut reader = world.session("acme.owner");
    let before = reader.count("SELECT count(*) FROM tenancy.audit_log");
    refused(
        world
            .session("acme.member")
            .attempt(&remove(acme, world.user("acme.viewer"))),
        "42501",
    );
    let mut owner = world.session("acme.owner");
    owner.run("BEGIN");
    owner.run(&remove(acme, world.user("acme.viewer")));
    owner.run("ROLLBACK");
    assert_eq!(
        reader.count("SELECT count(*) FROM tenancy.audit_log"),
        before
    );
    assert_eq!(
        role_of(&world, acme, world.user("acme.viewer")).as_deref(),
        Some("viewer")
    );
    assert!(world.db.cluster.log().contains("team:remove"));
}

#[test]
fn the_tables_change_through_the_functions_only() {
    let world = World::people();
    let mut owner = world.session("acme.owner");
    for sql in [
        "UPDATE tenancy.orgs SET slug = 'other'",
        "UPDATE tenancy.memberships SET role = 'admin'",
        "INSERT INTO tenancy.users (email) VALUES ('x@example.test')",
        "DELETE FROM tenancy.memberships",
        "DELETE FROM tenancy.orgs",
        "TRUNCATE tenancy.memberships",
        "INSERT INTO tenancy.login_bindings (login, kind) VALUES ('postgres', 'user')",
        "INSERT INTO tenancy.administrators VALUES (current_user)",
        "SELECT * FROM tenancy.login_bindings",
        "SELECT * FROM tenancy.administrators",
        "SELECT * FROM tenancy.orgs FOR UPDATE",
    ] {
        fails(owner.attempt(sql), "42501");
    }
    // A slug is for good, even for those who may write the table.
    refused(
        world.superuser().attempt(&format!(
            "UPDATE tenancy.orgs SET slug = 'other' WHERE id = '{}'",
            world.acme.id
        )),
        "23514",
    );
}

#[test]
fn administrators_run_the_dbas_functions() {
    let world = World::people();
    let (db, stranger) = (&world.db, world.user("stranger"));
    let (ops, login) = (db.role("ops"), db.role("late"));
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE ROLE {ops} LOGIN; CREATE ROLE {login} LOGIN"
    ));
    let acts = [
        format!("SELECT tenancy.bind_login('{login}', '{stranger}')"),
        format!("SELECT tenancy.unbind_login('{login}')"),
        format!("SELECT tenancy.trust_application('{login}')"),
        format!("SELECT tenancy.distrust_application('{login}')"),
        "SELECT tenancy.create_user('ops@example.test')".to_string(),
    ];
    let mut session = db.login(&ops);
    for act in &acts {
        refused(session.attempt(act), "42501");
    }
    // Only a superuser appoints administrators.
    let appoint = format!("SELECT tenancy.grant_administration('{ops}')");
    fails(session.attempt(&appoint), "42501");
    fails(world.session("acme.owner").attempt(&appoint), "42501");
    dba.run(&appoint);
    for act in &acts {
        session.run(act);
    }
    // He may not appoint others, nor may he uninstall.
    fails(
        session.attempt(&format!("SELECT tenancy.grant_administration('{login}')")),
        "42501",
    );
    fails(session.attempt("SELECT tenancy.uninstall()"), "42501");
    dba.run(&format!("SELECT tenancy.revoke_administration('{ops}')"));
    for act in &acts {
        refused(session.attempt(act), "42501");
    }
}

#[test]
fn an_administrator_binds_no_superuser() {
    // Else he would become whoever that superuser's sessions claim to be, or lock the DBA out.
    let world = World::people();
    let ops = world.db.role("ops");
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE ROLE {ops} LOGIN; SELECT tenancy.grant_administration('{ops}')"
    ));
    let mut session = world.db.login(&ops);
    session
        .attempt(&format!(
            "SELECT tenancy.bind_login('postgres', '{}')",
            world.user("stranger")
        ))
        .unwrap_err();
    fails(
        session.attempt("SELECT tenancy.bind_login('no_such_login', gen_random_uuid())"),
        "42704",
    );
}

#[test]
fn c4_an_error_inside_our_functions_leaves_no_rights_behind() {
    let world = World::people();
    let mut session = world.session("acme.owner");
    let me = session.text("SELECT current_user || ' ' || current_setting('search_path')");
    for act in [
        "PERFORM tenancy.create_org('x', 'acme')".to_string(),
        format!(
            "PERFORM tenancy.add_member('{}', gen_random_uuid(), 'viewer')",
            world.acme.id
        ),
        format!(
            "PERFORM tenancy.remove_member('{}', '{}')",
            world.acme.id,
            world.user("acme.owner")
        ),
        "PERFORM tenancy.protect('tenancy.orgs')".to_string(),
        "PERFORM tenancy.org_if('no:action')".to_string(),
    ] {
        session.run(&format!(
            "DO $$ BEGIN {act}; RAISE EXCEPTION 'it passed' USING ERRCODE = 'XX001';
             EXCEPTION WHEN insufficient_privilege OR integrity_constraint_violation OR invalid_parameter_value
                 OR wrong_object_type OR no_data_found OR data_exception THEN NULL; END $$"
        ));
        assert_eq!(
            session.text("SELECT current_user || ' ' || current_setting('search_path')"),
            me,
            "{act}"
        );
        fails(
            session.attempt("SELECT * FROM tenancy.login_bindings"),
            "42501",
        );
    }
}

#[test]
fn an_external_key_is_the_applications_to_give() {
    // Else anybody takes the key of a customer who is not registered yet, and the application writes into his org.
    let world = World::people();
    refused(
        world
            .bound("stranger")
            .attempt("SELECT tenancy.create_org('Evil', 'evil', external_key => 'customer-9')"),
        "42501",
    );
    let mut app = world.app();
    app.run("BEGIN");
    app.run(&format!(
        "SET LOCAL app.current_user_id = '{}'",
        world.user("stranger")
    ));
    app.run("SELECT tenancy.create_org('Honest', 'honest', external_key => 'customer-9')");
    app.run("COMMIT");
}
