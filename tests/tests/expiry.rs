//! Memberships that end by themselves, at every statement of an open session. Issue 7.3; spec 3.7.

use std::time::{Duration, Instant};

use pg_tenancy_tests::{Session, World, refused};

const ACME: (i64, i64) = (3, 0);
const NOTHING: (i64, i64) = (0, 0);

/// The statement by which a member's end is set; `end` is an expression.
fn end(world: &World, who: &str, end: &str) -> String {
    format!(
        "SELECT tenancy.set_member_expiry('{}', '{}', {end})",
        world.acme.id,
        world.user(who)
    )
}

/// Lets a membership end soon; answers when it has.
fn soon(world: &World, who: &str) -> Instant {
    let at = Instant::now() + Duration::from_millis(1600);
    world
        .session("acme.owner")
        .run(&end(world, who, "clock_timestamp() + interval '1.5 s'"));
    at
}

fn wait_for(at: Instant) {
    std::thread::sleep(at.saturating_duration_since(Instant::now()) + Duration::from_millis(200));
}

#[track_caller]
fn assert_expired(session: &mut Session) {
    let me = session.whoami();
    assert!(me["org_id"].is_null(), "{me}");
    assert!(
        me["reason"].as_str().is_some_and(|r| r.contains("expired")),
        "{me}"
    );
}

#[test]
fn it_passes_inside_open_transactions() {
    let world = World::new();
    let isolations = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];
    let at = soon(&world, "acme.member");
    let mut sessions: Vec<_> = isolations
        .iter()
        .map(|isolation| {
            let mut session = world.session("acme.member");
            session.run("PREPARE q AS SELECT count(*) FROM servers WHERE id > 0");
            session.run(&format!("BEGIN ISOLATION LEVEL {isolation}"));
            session.run("DECLARE c CURSOR FOR SELECT id FROM servers");
            assert_eq!(session.run("FETCH 1 FROM c"), 1);
            for _ in 0..7 {
                assert_eq!(session.count("EXECUTE q"), 3);
            }
            session
        })
        .collect();
    assert!(Instant::now() < at, "too slow a machine");
    wait_for(at);
    for session in &mut sessions {
        assert_eq!(session.attempt_within("FETCH 5 FROM c").unwrap_or(0), 0);
        assert_eq!(session.count("EXECUTE q"), 0);
        assert_eq!(world.seen(session, "servers"), NOTHING);
        assert_expired(session);
        let error = refused(
            session.attempt_within("UPDATE sites SET visits = 0"),
            "42501",
        );
        assert!(error.detail().unwrap().contains("expired"), "{error:?}");
        refused(
            session
                .attempt_within("INSERT INTO sites (id, server_id, name) VALUES (900, 1, 'late')"),
            "42501",
        );
    }
    // It comes back with another end, at the next statement.
    let mut owner = world.session("acme.owner");
    owner.run(&end(&world, "acme.member", "now() + interval '1 day'"));
    for session in &mut sessions {
        assert_eq!(session.count("EXECUTE q"), 3);
        session.run("COMMIT");
    }
    owner.run(&end(&world, "acme.member", "NULL"));
    assert_eq!(world.seen(&mut sessions[0], "servers"), ACME);
}

#[test]
fn it_passes_while_waiting_for_a_lock() {
    let world = World::new();
    let mut holder = world.break_glass();
    holder.run("BEGIN; SELECT * FROM sites WHERE id = 1 FOR UPDATE");
    let at = soon(&world, "acme.member");
    let mut session = world.session("acme.member");
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    let pid = session.text("SELECT pg_backend_pid()");
    let waiting = std::thread::spawn(move || {
        session
            .attempt("UPDATE sites SET visits = 4711 WHERE id = 1")
            .unwrap_or(0)
    });
    let mut dba = world.superuser();
    while !dba.is_true(&format!(
        "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid}"
    )) {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(Instant::now() < at, "too slow a machine");
    wait_for(at);
    // A row that changed is looked at anew, by whoever waited for it.
    holder.run("UPDATE sites SET visits = 7 WHERE id = 1; COMMIT");
    assert_eq!(
        waiting.join().unwrap(),
        0,
        "a row was changed after the end"
    );
    assert_eq!(holder.text("SELECT visits FROM sites WHERE id = 1"), "7");
}

#[test]
fn a11_it_passes_under_a_seal() {
    let world = World::new();
    let at = soon(&world, "acme.member");
    let mut app = world.app();
    world.begin(&mut app, world.acme, "acme.member");
    app.run("SELECT tenancy.seal_context()");
    assert_eq!(world.seen(&mut app, "servers"), ACME);
    assert!(Instant::now() < at, "too slow a machine");
    wait_for(at);
    assert_eq!(app.attempt_within("SELECT id FROM servers").unwrap_or(0), 0);
    refused(app.attempt_within("UPDATE sites SET visits = 0"), "42501");
    app.run("ROLLBACK");
}

#[test]
fn only_who_manages_roles_sets_it_and_never_the_owners() {
    let world = World::new();
    let later = "now() + interval '1 day'";
    for who in ["acme.admin", "acme.member", "globex.owner", "stranger"] {
        refused(
            world
                .session(who)
                .attempt(&end(&world, "acme.viewer", later)),
            "42501",
        );
    }
    let mut owner = world.session("acme.owner");
    refused(
        owner.attempt(&end(&world, "acme.viewer", "now() - interval '1 s'")),
        "22023",
    );
    refused(owner.attempt(&end(&world, "stranger", later)), "P0002");
    for session in [&mut owner, &mut world.superuser()] {
        for end_of in [later, "NULL"] {
            refused(session.attempt(&end(&world, "acme.owner", end_of)), "23514");
        }
    }
    assert_eq!(
        world
            .break_glass()
            .count("SELECT count(*) FROM tenancy.memberships WHERE expires_at IS NOT NULL"),
        0
    );
}

#[test]
fn every_change_is_in_the_audit_whatever_the_settings() {
    let world = World::new();
    let mut owner = world.session("acme.owner");
    owner.run("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'SQL, DMY'");
    owner.run(&end(&world, "acme.viewer", "'2199-05-04 12:00:00+00'"));
    owner.run(&end(&world, "acme.viewer", "NULL"));
    refused(owner.attempt(&end(&world, "acme.owner", "NULL")), "23514");
    assert_eq!(
        owner.rows(
            "SELECT old ->> 'expires_at_utc', new ->> 'expires_at_utc' FROM tenancy.audit_log
             WHERE operation = 'set_member_expiry' ORDER BY at"
        ),
        [
            [None, Some("2199-05-04T12:00:00".to_string())],
            [Some("2199-05-04T12:00:00".to_string()), None]
        ]
    );
}

#[test]
fn nobody_gives_a_later_end_than_his_own() {
    let world = World::new();
    world.superuser().run(&format!(
        "SET row_security = off;
         INSERT INTO tenancy.custom_roles (org_id, name) VALUES ('{1}', 'lead');
         INSERT INTO tenancy.custom_role_permissions (org_id, role, action, level) VALUES ('{1}', 'lead', 'team:role', 'allow');
         UPDATE tenancy.memberships SET role = 'lead' WHERE user_id = '{0}' AND org_id = '{1}'",
        world.user("acme.admin"),
        world.acme.id
    ));
    let mut lead = world.session("acme.admin");
    let (tomorrow, never, soon) = ("'2199-01-02'", "NULL", "'2198-01-01'");
    lead.run(&end(&world, "acme.viewer", never));
    world
        .session("acme.owner")
        .run(&end(&world, "acme.admin", "'2199-01-01'"));
    for who in ["acme.admin", "acme.viewer"] {
        for later in [tomorrow, never] {
            refused(lead.attempt(&end(&world, who, later)), "42501");
        }
    }
    lead.run(&end(&world, "acme.viewer", soon));
    lead.run(&end(&world, "acme.admin", soon));
    refused(
        lead.attempt(&end(&world, "acme.admin", "'2199-01-01'")),
        "42501",
    );
}

#[test]
fn nobody_lets_a_member_back_in_with_rights_that_he_does_not_hold() {
    let world = World::new();
    let (org, admin) = (world.acme.id, world.user("acme.admin"));
    let mut owner = world.session("acme.owner");
    owner.run(&format!(
        "SELECT tenancy.create_role('{org}', 'people');
         SELECT tenancy.grant_permission('{org}', 'people', 'team:role');
         SELECT tenancy.set_member_role('{org}', '{}', 'people');
         SELECT tenancy.set_member_expiry('{org}', '{admin}', now() + interval '1 hour');
         SELECT tenancy.set_member_networks('{org}', '{admin}', '{{10.0.0.0/8}}')",
        world.user("acme.member")
    ));
    let mut people = world.session("acme.member");
    for loosen in [
        format!("SELECT tenancy.set_member_expiry('{org}', '{admin}')"),
        format!("SELECT tenancy.set_member_expiry('{org}', '{admin}', now() + interval '1 day')"),
        format!("SELECT tenancy.set_member_networks('{org}', '{admin}')"),
        format!("SELECT tenancy.set_member_networks('{org}', '{admin}', '{{0.0.0.0/0}}')"),
    ] {
        refused(people.attempt(&loosen), "42501");
    }
    // To hold somebody in gives him nothing.
    people.run(&format!(
        "SELECT tenancy.set_member_expiry('{org}', '{admin}', now() + interval '10 minutes');
         SELECT tenancy.set_member_networks('{org}', '{admin}', '{{10.1.0.0/16}}')"
    ));
    owner.run(&format!(
        "SELECT tenancy.set_member_expiry('{org}', '{admin}')"
    ));
}
