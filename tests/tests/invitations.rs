//! Invitations: a token, an address, once; and nothing to be learned by trying. Sections 3.5 of the specification.

use std::sync::{Arc, Barrier};

use pg_tenancy_tests::token::Issuer;
use pg_tenancy_tests::{DbError, Error, Session, Uuid, World, assert_same_error, fails, refused};
use serde_json::json;

/// What a user of the world is registered under.
fn address(who: &str) -> String {
    let (name, org) = who.split_once('.').unwrap_or((who, "example"));
    format!("{org}@{name}.test")
}

fn sql(org: Uuid, email: &str, role: &str) -> String {
    format!("SELECT invitation, token FROM tenancy.invite('{org}', '{email}', '{role}')")
}

/// Its id and its token.
#[track_caller]
fn invite(session: &mut Session, org: Uuid, email: &str, role: &str) -> (String, String) {
    let row = session.rows(&sql(org, email, role)).remove(0);
    (row[0].clone().unwrap(), row[1].clone().unwrap())
}

fn accept(token: &str) -> String {
    format!("SELECT tenancy.accept_invitation('{token}')")
}

fn code(error: &Error) -> String {
    error
        .as_db_error()
        .map_or("gone".into(), |e| e.code().code().into())
}

fn role_of(world: &World, who: &str) -> Option<String> {
    world
        .superuser()
        .column(&format!(
            "SELECT role || coalesce(' until ' || date_part('year', expires_at), '') FROM tenancy.memberships
             WHERE org_id = '{}' AND user_id = '{}'",
            world.acme.id,
            world.user(who)
        ))
        .pop()
}

#[test]
fn an_invited_person_accepts_and_is_a_member_from_the_next_statement_on() {
    let world = World::new();
    let acme = world.acme.id;
    let mut owner = world.session("acme.owner");
    // However the address is written, and a membership with an end.
    let row = owner
        .rows(&format!(
            "SELECT invitation, token FROM tenancy.invite('{acme}', '  Example@STRANGER.test ', 'member', expires_in => '1 hour',
                 membership_expires_at => '2100-06-01')"
        ))
        .remove(0);
    let token = row[1].clone().unwrap();
    assert_eq!(token.len(), 43, "256 bits: {token}");
    assert_eq!(role_of(&world, "stranger"), None);

    // Already on the way there, in a transaction that has an old snapshot.
    let mut invited = world.bound("stranger");
    invited.run(&format!("SET app.current_org = '{acme}'"));
    assert_eq!(world.seen(&mut invited, "servers"), (0, 0));
    assert_eq!(invited.text(&accept(&token)), acme.to_string());
    assert_eq!(world.seen(&mut invited, "servers"), (3, 0));
    assert_eq!(
        role_of(&world, "stranger").as_deref(),
        Some("member until 2100")
    );
    assert_eq!(
        owner.rows(&format!(
            "SELECT email, role, status, invited_by = tenancy.current_user_id(), accepted_by FROM tenancy.list_invitations('{acme}')"
        )),
        [[
            Some("example@stranger.test".to_string()),
            Some("member".into()),
            Some("accepted".into()),
            Some("t".into()),
            Some(world.user("stranger").to_string()),
        ]]
    );
    // Both acts are in the log, with who did them.
    let log = owner.rows(
        "SELECT operation, actor_id, key ->> 'id', new ->> 'role' FROM tenancy.read_audit(object => 'tenancy.invitations')",
    );
    let line = |operation: &str, who: &str| {
        vec![
            Some(operation.to_string()),
            Some(world.user(who).to_string()),
            row[0].clone(),
            Some("member".into()),
        ]
    };
    assert_eq!(
        log,
        [
            line("invite", "acme.owner"),
            line("accept_invitation", "stranger")
        ]
    );
}

#[test]
fn the_application_and_a_token_speak_for_the_invited_as_well() {
    let world = World::people();
    let acme = world.acme.id;
    let stranger = world.user("stranger");
    let mut owner = world.session("acme.owner");
    let mut app = world.app();

    let (_, token) = invite(&mut owner, acme, &address("stranger"), "viewer");
    app.run("BEGIN");
    // As a service it is nobody's address.
    refused(app.attempt_within(&accept(&token)), "42501");
    app.run(&format!("SET LOCAL app.current_user_id = '{stranger}'"));
    app.run(&accept(&token));
    app.run("COMMIT");
    assert_eq!(role_of(&world, "stranger").as_deref(), Some("viewer"));
    // What the pooler's last client said is void.
    world.remove("stranger");
    let (_, token) = invite(&mut owner, acme, &address("stranger"), "viewer");
    app.run(&format!("SET app.current_user_id = '{stranger}'"));
    refused(app.attempt(&accept(&token)), "42501");
    refused(world.nobody().attempt(&accept(&token)), "42501");

    // By a signed token; one that is for another organization does not reach here.
    let issuer = Issuer::new("k1", "HS256");
    world.superuser().run(&issuer.add());
    let viewer = world.user("globex.viewer");
    let (_, token) = invite(&mut owner, acme, &address("globex.viewer"), "viewer");
    let mut bearer = world.nobody();
    for (claims, reaches) in [
        (json!({"sub": viewer, "org": world.globex.key}), false),
        (json!({"sub": viewer}), true),
    ] {
        bearer.run("BEGIN");
        bearer.run(&format!(
            "SELECT tenancy.authenticate('{}')",
            issuer.token(claims)
        ));
        if reaches {
            bearer.run(&accept(&token));
        } else {
            refused(bearer.attempt_within(&accept(&token)), "42501");
        }
        bearer.run("COMMIT");
    }
    assert_eq!(role_of(&world, "globex.viewer").as_deref(), Some("viewer"));
}

#[test]
fn a12_every_token_that_cannot_be_used_answers_alike() {
    let world = World::people();
    let acme = world.acme.id;
    let mut owner = world.session("acme.owner");
    let mut dba = world.superuser();
    let mut stranger = world.bound("stranger");
    let mut attempt =
        |token: &str| -> DbError { refused(stranger.attempt(&accept(token)), "42501") };

    let never = attempt("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    let mut all = vec![attempt(""), attempt("x"), attempt(&"x".repeat(10_000))];
    // Another's, and one for an address that nobody is registered under.
    all.push(attempt(
        &invite(&mut owner, acme, &address("globex.owner"), "viewer").1,
    ));
    all.push(attempt(
        &invite(&mut owner, acme, "nobody@nowhere.test", "viewer").1,
    ));
    // Past its time; the membership's time past.
    for change in ["expires_at = now()", "membership_expires_at = now()"] {
        let (id, token) = invite(&mut owner, acme, &address("stranger"), "viewer");
        dba.run(&format!(
            "UPDATE tenancy.invitations SET {change} WHERE id = '{id}'"
        ));
        all.push(attempt(&token));
    }
    // Replaced by a newer one; taken back.
    let (_, old) = invite(&mut owner, acme, &address("stranger"), "viewer");
    let (id, new) = invite(&mut owner, acme, &address("stranger"), "viewer");
    all.push(attempt(&old));
    owner.run(&format!("SELECT tenancy.revoke_invitation('{id}')"));
    all.push(attempt(&new));
    // Used, and its user removed again.
    let (_, token) = invite(&mut owner, acme, &address("stranger"), "viewer");
    world.bound("stranger").run(&accept(&token));
    world.remove("stranger");
    all.push(attempt(&token));
    // Its hash is not it.
    let hash = dba.text("SELECT encode(token_hash, 'hex') FROM tenancy.invitations LIMIT 1");
    all.push(attempt(&hash));
    // Another's to an organization that takes nobody at present, as its own invited would be told.
    let (_, token) = invite(&mut owner, acme, &address("globex.owner"), "viewer");
    dba.run(&format!("SELECT tenancy.suspend_org('{acme}', 'unpaid')"));
    all.push(attempt(&token));
    for error in &all {
        assert_same_error(&never, error, &[]);
    }
    assert_eq!(role_of(&world, "stranger"), None);
}

#[test]
fn a12_inviting_tells_nothing_of_an_address() {
    let world = World::people();
    let acme = world.acme.id;
    let mut owner = world.session("acme.owner");
    // A member elsewhere, a user without any organization, nobody: all answer with a token, and the list is the same.
    for email in [
        address("globex.owner"),
        address("stranger"),
        "free@x.test".into(),
    ] {
        let (_, token) = invite(&mut owner, acme, &email, "viewer");
        assert_eq!(token.len(), 43);
    }
    let shapes = owner.rows(&format!(
        "SELECT DISTINCT status, accepted_by FROM tenancy.list_invitations('{acme}')"
    ));
    assert_eq!(shapes, [[Some("pending".to_string()), None]]);
    // One's own members one sees anyway, where one sees them.
    fails(
        owner.attempt(&sql(acme, &address("acme.viewer"), "viewer")),
        "23505",
    );
    let mut dba = world.superuser();
    dba.run(&format!(
        "INSERT INTO tenancy.custom_roles (org_id, name) VALUES ('{acme}', 'blind inviter');
         INSERT INTO tenancy.custom_role_permissions (org_id, role, action, level) SELECT '{acme}', 'blind inviter', name, 'allow' FROM tenancy.actions WHERE name <> 'team:read';
         SELECT tenancy.set_member_role('{acme}', '{}', 'blind inviter')",
        world.user("acme.admin")
    ));
    let mut blind = world.session("acme.admin");
    let (_, token) = invite(&mut blind, acme, &address("acme.viewer"), "viewer");
    // The member himself is told.
    fails(world.bound("acme.viewer").attempt(&accept(&token)), "23505");
    assert_eq!(role_of(&world, "acme.viewer").as_deref(), Some("viewer"));
}

#[test]
fn only_who_may_invite_invites_and_sees_invitations() {
    let world = World::people();
    let acme = world.acme.id;
    let mut owner = world.session("acme.owner");
    let (id, _) = invite(&mut owner, acme, "a@x.test", "viewer");
    let acts = |org: Uuid| {
        [
            sql(org, "b@x.test", "viewer"),
            format!("SELECT * FROM tenancy.list_invitations('{org}')"),
        ]
    };
    for who in ["acme.admin", "acme.member", "acme.viewer"] {
        let mut session = world.session(who);
        for act in acts(acme) {
            refused(session.attempt(&act), "42501");
        }
        refused(
            session.attempt(&format!("SELECT tenancy.revoke_invitation('{id}')")),
            "42501",
        );
    }
    // Not of there: like an organization, and an invitation, that does not exist.
    let none = Uuid::from_u128(7);
    let words = [(&*none.to_string(), &*acme.to_string())];
    for mut session in [
        world.session("globex.owner"),
        world.bound("stranger"),
        world.nobody(),
        world.app(),
    ] {
        for (act, same) in acts(acme).into_iter().zip(acts(none)) {
            let theirs = refused(session.attempt(&act), "42501");
            assert_same_error(&theirs, &refused(session.attempt(&same), "42501"), &words);
        }
        let theirs = refused(
            session.attempt(&format!("SELECT tenancy.revoke_invitation('{id}')")),
            "P0002",
        );
        let unknown = refused(
            session.attempt(&format!("SELECT tenancy.revoke_invitation('{none}')")),
            "P0002",
        );
        assert_same_error(&theirs, &unknown, &[]);
        fails(
            session.attempt("SELECT * FROM tenancy.invitations"),
            "42501",
        );
    }
    // Who may, takes it back once.
    let revoke = format!("SELECT tenancy.revoke_invitation('{id}')");
    owner.run(&revoke);
    refused(owner.attempt(&revoke), "P0002");
    // What cannot be an invitation.
    refused(owner.attempt(&sql(acme, "c@x.test", "owner")), "23514");
    refused(owner.attempt(&sql(acme, "c@x.test", "Viewer")), "22023");
    for email in ["", "x", "a b@x.test", "@x", "a@@x"] {
        refused(owner.attempt(&sql(acme, email, "viewer")), "22023");
    }
    for times in [
        "expires_in => '0'",
        "expires_in => '-1 day'",
        "membership_expires_at => now()",
    ] {
        let sql = format!("SELECT tenancy.invite('{acme}', 'c@x.test', 'viewer', {times})");
        refused(owner.attempt(&sql), "22023");
    }
    assert_eq!(
        owner.count(&format!(
            "SELECT count(*) FROM tenancy.list_invitations('{acme}')"
        )),
        1
    );
}

#[test]
fn nobody_invites_above_himself() {
    let world = World::people();
    let acme = world.acme.id;
    world.superuser().run(&format!(
        "INSERT INTO tenancy.custom_roles (org_id, name) VALUES ('{acme}', 'recruiter');
         INSERT INTO tenancy.custom_role_permissions (org_id, role, action, level)
             SELECT '{acme}'::uuid, 'recruiter', action, level FROM tenancy.role_permissions WHERE role = 'viewer' AND action <> 'team:invite'
             UNION ALL SELECT '{acme}', 'recruiter', 'team:invite', 'allow';
         SELECT tenancy.set_member_role('{acme}', '{}', 'recruiter')",
        world.user("acme.member")
    ));
    let mut recruiter = world.session("acme.member");
    for role in ["admin", "member"] {
        refused(recruiter.attempt(&sql(acme, "a@x.test", role)), "42501");
    }
    for role in ["viewer", "recruiter"] {
        invite(&mut recruiter, acme, "a@x.test", role);
    }
}

/// How a pending invitation of acme's owner loses what it rests on.
fn undone(world: &World, how: &str) -> String {
    let (acme, owner) = (world.acme.id, world.user("acme.owner"));
    let transfer = format!(
        "SELECT tenancy.transfer_ownership('{acme}', '{}')",
        world.user("acme.admin")
    );
    match how {
        "demoted" => transfer,
        "removed" => format!("{transfer}; SELECT tenancy.remove_member('{acme}', '{owner}')"),
        "expired" => format!(
            "{transfer}; UPDATE tenancy.memberships SET expires_at = clock_timestamp() WHERE org_id = '{acme}' AND user_id = '{owner}'"
        ),
        _ => format!("{transfer}; DELETE FROM tenancy.users WHERE id = '{owner}'"),
    }
}

#[test]
fn the_inviters_authority_is_asked_again_at_acceptance() {
    for how in ["demoted", "removed", "expired", "deleted"] {
        let world = World::people();
        let acme = world.acme.id;
        let (_, token) = invite(
            &mut world.session("acme.owner"),
            acme,
            &address("stranger"),
            "viewer",
        );
        world.superuser().run(&undone(&world, how));
        let error = refused(world.bound("stranger").attempt(&accept(&token)), "42501");
        for word in ["acme", "Acme", &acme.to_string(), "owner@", "admin"] {
            assert!(
                !format!("{error:?}").contains(word),
                "{how}: {word}: {error:?}"
            );
        }
        assert_eq!(role_of(&world, "stranger"), None, "{how}");
        // With the right back it is good again, unless the sender is gone for good.
        if how == "demoted" {
            world.superuser().run(&format!(
                "SELECT tenancy.transfer_ownership('{acme}', '{}')",
                world.user("acme.owner")
            ));
            world.bound("stranger").run(&accept(&token));
        }
    }
}

#[test]
fn a_demotion_under_way_is_waited_for() {
    for ends in ["COMMIT", "ROLLBACK"] {
        let world = World::people();
        let acme = world.acme.id;
        let mut dba = world.superuser();
        dba.run(&format!(
            "INSERT INTO tenancy.custom_roles (org_id, name) VALUES ('{acme}', 'recruiter');
             INSERT INTO tenancy.custom_role_permissions (org_id, role, action, level) SELECT '{acme}', 'recruiter', name, 'allow' FROM tenancy.actions;
             SELECT tenancy.set_member_role('{acme}', '{}', 'recruiter')",
            world.user("acme.admin")
        ));
        let (_, token) = invite(
            &mut world.session("acme.admin"),
            acme,
            &address("stranger"),
            "viewer",
        );
        dba.run(&format!(
            "BEGIN; SELECT tenancy.set_member_role('{acme}', '{}', 'viewer')",
            world.user("acme.admin")
        ));
        let mut invited = world.bound("stranger");
        let waiting =
            std::thread::spawn(move || invited.attempt(&accept(&token)).map_err(|e| code(&e)));
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(!waiting.is_finished(), "it did not wait");
        dba.run(ends);
        let accepted = waiting.join().unwrap();
        if ends == "COMMIT" {
            assert_eq!(accepted, Err("42501".into()));
        } else {
            accepted.unwrap();
        }
    }
}

#[test]
fn a_dbas_invitation_rests_on_his_role() {
    let world = World::people();
    let acme = world.acme.id;
    let ops = world.db.role("ops");
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE ROLE {ops} LOGIN; SELECT tenancy.grant_administration('{ops}')"
    ));
    let mut session = world.db.login(&ops);
    let (_, token) = invite(&mut session, acme, &address("stranger"), "admin");
    dba.run(&format!("SELECT tenancy.revoke_administration('{ops}')"));
    refused(world.bound("stranger").attempt(&accept(&token)), "42501");
    dba.run(&format!("SELECT tenancy.grant_administration('{ops}')"));
    world.bound("stranger").run(&accept(&token));
    assert_eq!(role_of(&world, "stranger").as_deref(), Some("admin"));
}

#[test]
fn who_was_removed_or_has_expired_comes_back_as_a_new_member() {
    let world = World::people();
    let acme = world.acme.id;
    let mut owner = world.session("acme.owner");
    let mut dba = world.superuser();
    let (_, token) = invite(&mut owner, acme, &address("stranger"), "admin");
    world.bound("stranger").run(&accept(&token));
    dba.run(&format!(
        "UPDATE tenancy.memberships SET expires_at = '2100-01-01' WHERE user_id = '{}'",
        world.user("stranger")
    ));
    for gone in ["removed", "expired"] {
        if gone == "removed" {
            world.remove("stranger");
        } else {
            dba.run(&format!(
                "UPDATE tenancy.memberships SET expires_at = clock_timestamp() WHERE user_id = '{}'",
                world.user("stranger")
            ));
        }
        // The used token opens nothing again.
        refused(world.bound("stranger").attempt(&accept(&token)), "42501");
        let (_, token) = invite(&mut owner, acme, &address("stranger"), "viewer");
        world.bound("stranger").run(&accept(&token));
        assert_eq!(
            role_of(&world, "stranger").as_deref(),
            Some("viewer"),
            "{gone}"
        );
    }
    // By hand as well.
    dba.run(&format!(
        "UPDATE tenancy.memberships SET expires_at = clock_timestamp() WHERE user_id = '{0}';
         SELECT tenancy.add_member('{acme}', '{0}', 'member')",
        world.user("stranger")
    ));
    assert_eq!(role_of(&world, "stranger").as_deref(), Some("member"));
}

#[test]
fn a_token_lies_nowhere() {
    let world = World::people();
    let acme = world.acme.id;
    let mut owner = world.session("acme.owner");
    let (_, token) = invite(&mut owner, acme, &address("stranger"), "viewer");
    let mut dba = world.superuser();
    assert_eq!(
        dba.count(&format!(
            "SELECT count(*) FROM tenancy.invitations i WHERE i::text LIKE '%{token}%'
                OR token_hash <> sha256('{token}')"
        )),
        0
    );
    assert_eq!(
        owner.count(&format!(
            "SELECT count(*) FROM tenancy.read_audit() a WHERE a::text LIKE '%{token}%'"
        )),
        0
    );
    // A refused statement is logged without its text.
    refused(world.bound("agency").attempt(&accept(&token)), "42501");
    assert!(!world.db.cluster.log().contains(&token));
}

const CLIENTS: usize = 32;

/// What each of 32 clients got when all began at once.
fn at_once(make: impl Fn(usize) -> (Session, String)) -> Vec<Result<u64, String>> {
    let barrier = Arc::new(Barrier::new(CLIENTS));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let (mut session, sql) = make(n);
            let barrier = barrier.clone();
            std::thread::spawn(move || {
                barrier.wait();
                session.attempt(&sql).map_err(|e| code(&e))
            })
        })
        .collect();
    clients
        .into_iter()
        .map(|c| c.join().expect("a client"))
        .collect()
}

#[test]
fn of_thirty_two_with_one_token_one_gets_in() {
    let world = World::people();
    let acme = world.acme.id;
    let mut owner = world.session("acme.owner");
    for _ in 0..3 {
        let (_, token) = invite(&mut owner, acme, &address("stranger"), "viewer");
        let got = at_once(|n| {
            // Half of them cannot have it at all.
            let session = world.bound(if n % 2 == 0 { "stranger" } else { "agency" });
            (session, accept(&token))
        });
        let won = got.iter().filter(|r| r.is_ok()).count();
        assert_eq!(won, 1, "{got:?}");
        assert!(
            got.iter()
                .flat_map(|r| r.as_ref().err())
                .all(|c| c == "42501"),
            "{got:?}"
        );
        assert_eq!(role_of(&world, "stranger").as_deref(), Some("viewer"));
        assert_eq!(role_of(&world, "agency").as_deref(), Some("admin"));
        world.remove("stranger");
    }
    assert_eq!(
        owner.count("SELECT count(*) FROM tenancy.read_audit(operation => 'accept_invitation')"),
        3
    );
}

#[test]
fn of_thirty_two_invitations_of_one_address_one_waits() {
    let world = World::people();
    let acme = world.acme.id;
    let got = at_once(|_| (world.session("acme.owner"), sql(acme, "a@x.test", "viewer")));
    assert!(got.iter().all(|r| r.is_ok()), "{got:?}");
    let mut owner = world.session("acme.owner");
    assert_eq!(
        owner.column(&format!(
            "SELECT count(*) FROM tenancy.list_invitations('{acme}') GROUP BY status ORDER BY status"
        )),
        ["1", "31"]
    );
    assert_eq!(
        owner.count("SELECT count(*) FROM tenancy.read_audit(operation => 'invite')"),
        32
    );
}
