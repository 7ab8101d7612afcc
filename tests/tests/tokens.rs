//! Signed tokens: what one proves, for how long, and what no session can make of it. Issue 4.1; attacks A1, A4, A8, A10,
//! A12, B3.

use std::time::Duration;

use pg_tenancy_tests::token::{AUDIENCE, Issuer, assemble, hex, hmac, now};
use pg_tenancy_tests::{Error, Session, World, fails, refused};
use serde_json::{Value, json};

const ACME: (i64, i64) = (3, 0);
const GLOBEX: (i64, i64) = (0, 3);
const NOTHING: (i64, i64) = (0, 0);

/// The world, an issuer whose key it knows, and a login that needs a token.
struct Gate {
    world: World,
    issuer: Issuer,
}

impl Gate {
    fn new() -> Gate {
        let world = World::new();
        let issuer = Issuer::new("k1", "EdDSA");
        let mut dba = world.superuser();
        for (name, scope) in [("gate", "transaction"), ("session_gate", "session")] {
            let login = world.db.role(name);
            dba.run(&format!(
                "CREATE ROLE {login} LOGIN; SELECT tenancy.require_token('{login}', scope => '{scope}')"
            ));
        }
        dba.run(&issuer.add());
        Gate { world, issuer }
    }

    fn login(&self, name: &str) -> Session {
        self.world.db.login(&self.world.db.role(name))
    }

    fn token(&self, who: &str) -> String {
        self.issuer.token(json!({"sub": self.world.user(who)}))
    }

    /// The token of a user that is for an organization, too.
    fn token_for(&self, who: &str, org: &str) -> String {
        self.issuer
            .token(json!({"sub": self.world.user(who), "org": org}))
    }

    fn acme(&self, who: &str) -> String {
        self.token_for(who, "customer-7")
    }
}

fn authenticate(session: &mut Session, token: &str) -> Result<u64, Error> {
    session.attempt(&format!("SELECT tenancy.authenticate('{token}')"))
}

fn for_session(token: &str) -> String {
    format!("SELECT tenancy.authenticate('{token}', scope => 'session')")
}

#[track_caller]
fn begin(session: &mut Session, token: &str) {
    session.run("BEGIN");
    authenticate(session, token).unwrap_or_else(|e| panic!("{e:?}"));
}

#[track_caller]
fn assert_nobody(world: &World, session: &mut Session, word: &str) {
    assert_eq!(world.seen(session, "servers"), NOTHING);
    let me = session.whoami();
    let reason = me["reason"].as_str().unwrap_or_default();
    assert!(reason.contains(word), "{me}");
    assert!(me["user_id"].is_null() && me["org_id"].is_null(), "{me}");
}

// ---- What a token proves

#[test]
fn a_token_of_each_algorithm_says_who() {
    let gate = Gate::new();
    let world = &gate.world;
    let mut dba = world.superuser();
    let mut session = gate.login("gate");
    for algorithm in ["HS256", "EdDSA", "ES256"] {
        let issuer = Issuer::new(&format!("key of {algorithm}"), algorithm);
        dba.run(&issuer.add());
        let user = world.user("agency");
        for (org, key, seen) in [
            (world.acme, "customer-7".to_string(), ACME),
            (world.globex, world.globex.id.to_string(), GLOBEX),
        ] {
            let token = issuer.token(json!({"sub": user, "org": key}));
            session.run("BEGIN");
            let said = session.text(&format!("SELECT tenancy.authenticate('{token}')"));
            assert_eq!(said, user.to_string());
            assert_eq!(world.seen(&mut session, "servers"), seen, "{algorithm}");
            let me = session.whoami();
            assert_eq!(me["principal"], "token");
            assert_eq!(me["scope"], "transaction");
            assert_eq!(me["user_id"], user.to_string());
            assert_eq!(me["org_id"], org.id.to_string());
            session.run("COMMIT");
        }
    }
}

#[test]
fn a_token_without_an_org_enters_one_by_any_of_the_usual_ways() {
    let gate = Gate::new();
    let world = &gate.world;
    let mut session = gate.login("gate");
    let token = gate.token("agency");
    let user = world.user("agency");
    for enter in [
        format!("SET LOCAL app.current_org = '{}'", world.acme.key),
        format!("SELECT tenancy.enter('{}')", world.acme.id),
        format!("SELECT tenancy.enter('{}', '{user}')", world.acme.id),
    ] {
        begin(&mut session, &token);
        assert_eq!(world.seen(&mut session, "servers"), NOTHING);
        assert_eq!(session.count("SELECT count(*) FROM tenancy.my_orgs()"), 2);
        session.run(&enter);
        assert_eq!(world.seen(&mut session, "servers"), ACME, "{enter}");
        session.run("UPDATE servers SET cpus = 9 WHERE id = 1; ROLLBACK");
    }
    // In one message, with the query.
    let seen = session.rows(&format!(
        "BEGIN; SELECT tenancy.authenticate('{token}'), tenancy.enter('{}'); SELECT count(*) FROM servers; COMMIT",
        world.acme.id
    ));
    assert_eq!(seen[1], [Some("3".to_string())]);
}

#[test]
fn the_subject_is_read_as_the_key_says_and_never_guessed() {
    let gate = Gate::new();
    let world = &gate.world;
    let mut dba = world.superuser();
    let provider = Issuer::new("provider", "ES256");
    let victim = world.user("acme.owner");
    dba.run(&format!(
        "SELECT tenancy.add_signing_key('provider', 'ES256', '{}', '{AUDIENCE}', issuer => 'https://sso.example',
             subject => 'sso_subject');
         SELECT tenancy.create_user('eve@example.test', 'Eve', sso_subject => '{victim}');
         SELECT tenancy.create_user('sso@example.test', 'Sso', sso_subject => 'sso|1')",
        hex(&provider.key())
    ));
    let mut session = gate.login("gate");
    let mut who = |issuer: &Issuer, sub: &str| -> Result<String, Error> {
        let token = issuer.token(json!({"sub": sub, "iss": "https://sso.example"}));
        session.run("ROLLBACK; BEGIN");
        let rows = session.try_rows(&format!(
            "SELECT u.name FROM (SELECT tenancy.authenticate('{token}') AS id OFFSET 0) a, tenancy.users u WHERE u.id = a.id"
        ));
        Ok(rows?[0][0].clone().unwrap_or_default())
    };
    // The application's own key: the uuid or the external key.
    assert_eq!(
        who(&gate.issuer, &victim.to_string()).unwrap(),
        "acme.owner"
    );
    assert_eq!(
        who(&gate.issuer, "key-of-acme.owner").unwrap(),
        "acme.owner"
    );
    refused(who(&gate.issuer, "sso|1"), "28000");
    // The provider's: the subject, though it looks like another user's id.
    assert_eq!(who(&provider, "sso|1").unwrap(), "Sso");
    assert_eq!(who(&provider, &victim.to_string()).unwrap(), "Eve");
    refused(who(&provider, "key-of-acme.owner"), "28000");
}

#[test]
fn an_issuer_is_held_to_where_the_key_names_one() {
    let gate = Gate::new();
    let issuer = Issuer::new("strict", "HS256");
    gate.world.superuser().run(&format!(
        "SELECT tenancy.add_signing_key('strict', 'HS256', '{}', '{AUDIENCE}', issuer => 'https://id.example')",
        hex(&issuer.key())
    ));
    let user = gate.world.user("acme.owner");
    let mut session = gate.login("gate");
    begin(
        &mut session,
        &issuer.token(json!({"sub": user, "iss": "https://id.example"})),
    );
    session.run("ROLLBACK");
    for claims in [
        json!({"sub": user}),
        json!({"sub": user, "iss": "https://evil.example"}),
    ] {
        session.run("BEGIN");
        refused(authenticate(&mut session, &issuer.token(claims)), "28000");
        session.run("ROLLBACK");
    }
}

#[test]
fn the_tokens_org_is_the_only_one() {
    let gate = Gate::new();
    let world = &gate.world;
    let mut session = gate.login("gate");
    let token = gate.acme("agency");
    for claim in [
        format!("SET LOCAL app.current_org = '{}'", world.globex.id),
        "SET LOCAL app.current_org = 'customer-8'".into(),
        "SET LOCAL app.current_org = 'nowhere'".into(),
    ] {
        begin(&mut session, &token);
        session.run(&claim);
        assert_eq!(world.seen(&mut session, "servers"), NOTHING, "{claim}");
        assert!(
            session.whoami()["reason"]
                .as_str()
                .unwrap()
                .contains("token")
        );
        refused(session.attempt("UPDATE servers SET cpus = 9"), "42501");
        session.run("ROLLBACK");
        // The other way round it is refused at once.
        session.run("BEGIN");
        session.run(&claim);
        refused(authenticate(&mut session, &token), "42501");
        session.run("ROLLBACK");
    }
    begin(&mut session, &token);
    refused(
        session.attempt(&format!("SELECT tenancy.enter('{}')", world.globex.id)),
        "42501",
    );
    session.run("ROLLBACK");
    // The same by another name, unset again, and what a pooler's previous client left: still the token's.
    session.run(&format!("SET app.current_org = '{}'", world.globex.id));
    begin(&mut session, &token);
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    session.run(&format!("SET LOCAL app.current_org = '{}'", world.acme.id));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    session.run("SET LOCAL app.current_org = ''");
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    session.run("ROLLBACK");
    // An organization that is not the user's is refused as one that does not exist is.
    let errors = [
        "customer-8",
        "nowhere",
        "6d0b8d6e-6ee2-4b8c-9ac1-0fd0b3b1c001",
    ]
    .map(|org| {
        session.run("BEGIN");
        let error = refused(
            authenticate(&mut session, &gate.token_for("acme.owner", org)),
            "42501",
        );
        session.run("ROLLBACK");
        (
            error.message().to_string(),
            error.detail().map(String::from),
            error.hint().map(String::from),
        )
    });
    assert!(errors.iter().all(|e| *e == errors[0]), "{errors:?}");
}

#[test]
fn user_and_actor_type_are_the_tokens() {
    let gate = Gate::new();
    let world = &gate.world;
    let mut session = gate.login("gate");
    begin(&mut session, &gate.acme("acme.viewer"));
    session.run(&format!(
        "SET LOCAL app.current_user_id = '{}'",
        world.user("acme.owner")
    ));
    assert_nobody(world, &mut session, "app.current_user_id");
    session.run("SET LOCAL app.current_user_id = 'key-of-acme.viewer'");
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    session.run("SET LOCAL app.current_user_id = 'key-of-nobody'");
    assert_eq!(world.seen(&mut session, "servers"), NOTHING);
    session.run("ROLLBACK");
    // What an earlier transaction left behind names nobody.
    session.run(&format!(
        "SET app.current_user_id = '{}'",
        world.user("acme.owner")
    ));
    begin(&mut session, &gate.acme("acme.viewer"));
    assert_eq!(
        session.whoami()["user_id"],
        world.user("acme.viewer").to_string()
    );
    refused(session.attempt("DELETE FROM servers"), "42501");
    session.run("ROLLBACK");

    let user = world.user("acme.owner");
    for (named, acts) in [
        (Value::Null, "human"),
        (json!("ai"), "ai"),
        (json!("service"), "service"),
    ] {
        let token = gate
            .issuer
            .token(json!({"sub": user, "org": "customer-7", "actor_type": named}));
        begin(&mut session, &token);
        session.run("SET LOCAL app.actor_type = 'human'");
        assert_eq!(session.whoami()["actor_type"], acts);
        let write = "UPDATE servers SET cpus = 9 WHERE id = 1";
        if acts == "ai" {
            // An AI by its token, too, writes nothing that was not approved.
            refused(session.attempt(write), "42501");
            session.run("ROLLBACK");
            continue;
        }
        session.run(write);
        let logged = session.text(
            "SELECT actor_type FROM tenancy.read_audit(operation => 'UPDATE', object => 'public.servers')",
        );
        assert_eq!(logged, acts);
        session.run("ROLLBACK");
    }
}

// ---- How long it holds

#[test]
fn a4_it_ends_with_the_transaction() {
    let gate = Gate::new();
    let world = &gate.world;
    let mut session = gate.login("gate");
    let token = gate.acme("acme.viewer");
    for end in [
        "COMMIT",
        "ROLLBACK",
        "COMMIT AND CHAIN",
        "PREPARE TRANSACTION 'tokens'",
    ] {
        begin(&mut session, &token);
        assert_eq!(world.seen(&mut session, "servers"), ACME);
        session.run(end);
        assert_nobody(world, &mut session, "signed token");
        session.attempt("COMMIT").ok();
    }
    session.run("ROLLBACK PREPARED 'tokens'");
    // Several transactions in one message are several.
    let counts = session.column(&format!(
        "BEGIN; SELECT tenancy.authenticate('{token}'); SELECT count(*) FROM servers; COMMIT;
         SELECT count(*) FROM servers; SELECT tenancy.authenticate('{token}'); SELECT count(*) FROM servers"
    ));
    assert_eq!(
        (&counts[1], &counts[2], &counts[4]),
        (&"3".into(), &"0".into(), &"3".into())
    );
    assert_nobody(world, &mut session, "signed token");
    refused(authenticate(&mut session, &token), "25P01");
    // A procedure's COMMIT ends it as well.
    world.superuser().run(
        "CREATE PROCEDURE leave_behind(token text, OUT before bigint, OUT after bigint) LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM tenancy.authenticate(token, 'session');
             before := (SELECT count(*) FROM servers);
             COMMIT;
             after := (SELECT count(*) FROM servers);
         END $$",
    );
    refused(
        session.attempt(&format!("CALL leave_behind('{token}', NULL, NULL)")),
        "42501",
    );
}

#[test]
fn a8_savepoints_exceptions_and_rollback_bring_it_back() {
    let gate = Gate::new();
    let world = &gate.world;
    let mut session = gate.login("gate");
    let (viewer, owner) = (gate.acme("acme.viewer"), gate.acme("acme.owner"));
    let who = |session: &mut Session| session.whoami()["email"].as_str().map(String::from);
    let is = |who: Option<String>, local: &str| assert_eq!(who.as_deref(), Some(local));

    session.run("BEGIN; SAVEPOINT a");
    authenticate(&mut session, &viewer).unwrap();
    session.run("SAVEPOINT b");
    authenticate(&mut session, &owner).unwrap();
    is(who(&mut session), "owner@acme.test");
    session.run("SAVEPOINT c; SELECT tenancy.leave()");
    assert_nobody(world, &mut session, "signed token");
    session.run("RELEASE c; ROLLBACK TO b");
    is(who(&mut session), "viewer@acme.test");
    session.run("RELEASE b; RELEASE a");
    is(who(&mut session), "viewer@acme.test");
    session.run("ROLLBACK; BEGIN; SAVEPOINT a");
    authenticate(&mut session, &viewer).unwrap();
    session.run("ROLLBACK TO a");
    assert_nobody(world, &mut session, "signed token");
    // An exception block, and a refused token, which takes nothing away.
    authenticate(&mut session, &viewer).unwrap();
    session.run(&format!(
        "DO $$ BEGIN PERFORM tenancy.authenticate('{owner}'); RAISE 'no'; EXCEPTION WHEN raise_exception THEN END $$"
    ));
    is(who(&mut session), "viewer@acme.test");
    session.run("SAVEPOINT d");
    fails(authenticate(&mut session, "rubbish"), "28000");
    session.run("ROLLBACK TO d");
    is(who(&mut session), "viewer@acme.test");
    session.run("COMMIT");
    assert_nobody(world, &mut session, "signed token");
}

#[test]
fn a_session_token_lasts_and_is_rolled_back_as_set_is() {
    let gate = Gate::new();
    let world = &gate.world;
    let mut session = gate.login("session_gate");
    let (viewer, owner) = (gate.acme("acme.viewer"), gate.acme("acme.owner"));
    let role = |session: &mut Session| session.value("SELECT tenancy.current_role_name()");
    session.run(&for_session(&viewer));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    assert_eq!(session.whoami()["scope"], "session");
    // A transaction's token lies over it and then gives way.
    begin(&mut session, &owner);
    assert_eq!(role(&mut session).as_deref(), Some("owner"));
    session.run("COMMIT");
    assert_eq!(role(&mut session).as_deref(), Some("viewer"));
    session.run(&format!("BEGIN; {}", for_session(&owner)));
    assert_eq!(role(&mut session).as_deref(), Some("owner"));
    session.run("ROLLBACK");
    assert_eq!(role(&mut session).as_deref(), Some("viewer"));
    session.run(&format!(
        "BEGIN; SAVEPOINT a; {}; RELEASE a; COMMIT",
        for_session(&owner)
    ));
    assert_eq!(role(&mut session).as_deref(), Some("owner"));
    // No setting, so nothing that resets settings ends it, and leave() and DISCARD ALL do.
    session.run("RESET ALL; DISCARD PLANS; DISCARD TEMP; DISCARD SEQUENCES; DEALLOCATE ALL");
    assert_eq!(role(&mut session).as_deref(), Some("owner"));
    session.run("BEGIN; SELECT tenancy.leave()");
    assert_eq!(role(&mut session), None);
    session.run("COMMIT");
    assert_eq!(role(&mut session).as_deref(), Some("owner"));
    session.run("SELECT tenancy.leave()");
    assert_nobody(world, &mut session, "signed token");
    session.run(&for_session(&owner));
    fails(session.attempt("BEGIN; DISCARD ALL"), "25001");
    session.run("ROLLBACK");
    assert_eq!(role(&mut session).as_deref(), Some("owner"));
    session.run("DISCARD ALL");
    assert_nobody(world, &mut session, "signed token");
}

#[test]
fn the_scope_is_the_logins_to_have() {
    let gate = Gate::new();
    let world = &gate.world;
    let token = gate.acme("acme.viewer");
    for name in ["gate", "app", "nobody"] {
        refused(gate.login(name).attempt(&for_session(&token)), "42501");
    }
    for name in ["session_gate", "session_app"] {
        let mut session = gate.login(name);
        session.run(&for_session(&token));
        assert_eq!(world.seen(&mut session, "servers"), ACME);
    }
    refused(
        gate.login("gate").attempt(&format!(
            "SELECT tenancy.authenticate('{token}', 'for ever')"
        )),
        "22023",
    );
    refused(
        gate.login("gate")
            .attempt("SELECT tenancy.authenticate(NULL)"),
        "22004",
    );
    // A bound login is its user already.
    let mut bound = world.session("acme.owner");
    bound.run("BEGIN");
    refused(authenticate(&mut bound, &token), "42501");
}

#[test]
fn it_expires_at_the_next_statement() {
    let gate = Gate::new();
    let world = &gate.world;
    let login = world.db.role("session_gate");
    let mut dba = world.superuser();
    dba.run(&format!("ALTER ROLE {login} SET tenancy.token_leeway = 0"));
    let (user, end) = (world.user("acme.viewer"), now() + 3);
    let token = gate
        .issuer
        .token(json!({"sub": user, "org": "customer-7", "exp": end}));
    let mut open = gate.login("session_gate");
    begin(&mut open, &token);
    open.run(
        "PREPARE q AS SELECT count(*) FROM servers; DECLARE c CURSOR FOR SELECT * FROM servers",
    );
    assert_eq!(
        (open.count("EXECUTE q"), open.run("FETCH 1 FROM c")),
        (3, 1)
    );
    let mut idle = gate.login("session_gate");
    idle.run(&for_session(&token));
    let mut outside = gate.login("session_gate");
    outside.run(&for_session(
        &gate.issuer.token(json!({"sub": user, "exp": end})),
    ));
    assert_eq!(world.seen(&mut idle, "servers"), ACME);
    assert_eq!(outside.count("SELECT count(*) FROM tenancy.my_orgs()"), 1);
    while now() <= end {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(open.count("EXECUTE q"), 0);
    refused(open.attempt("FETCH 1 FROM c"), "42501");
    open.run("ROLLBACK");
    assert_nobody(world, &mut idle, "expired");
    refused(idle.attempt("UPDATE servers SET cpus = 1"), "42501");
    assert_eq!(outside.count("SELECT count(*) FROM tenancy.my_orgs()"), 0);
    assert_eq!(outside.value("SELECT tenancy.current_user_id()"), None);
    refused(outside.attempt(&for_session(&token)), "28000");
    // With the leeway it would still be good; the session cannot give itself any.
    fails(outside.attempt("SET tenancy.token_leeway = 60"), "42501");
    dba.run(&format!("ALTER ROLE {login} SET tenancy.token_leeway = 60"));
    gate.login("session_gate").run(&for_session(&token));
}

#[test]
fn one_not_valid_yet_is_refused() {
    let gate = Gate::new();
    let mut session = gate.login("gate");
    let user = gate.world.user("acme.viewer");
    for (claims, good) in [
        (json!({"sub": user, "nbf": now() + 60}), false),
        (json!({"sub": user, "iat": now() + 60}), false),
        (
            json!({"sub": user, "nbf": now() - 60, "iat": now() - 60}),
            true,
        ),
        (json!({"sub": user, "exp": now() - 60}), false),
        (json!({"sub": user, "exp": now() - 2}), true),
    ] {
        session.run("BEGIN");
        let result = authenticate(&mut session, &gate.issuer.token(claims.clone()));
        if good {
            result.unwrap_or_else(|e| panic!("{claims}: {e:?}"));
        } else {
            refused(result, "28000");
        }
        session.run("ROLLBACK");
    }
}

#[test]
fn a_retired_key_ends_its_sessions_at_the_next_statement() {
    let gate = Gate::new();
    let world = &gate.world;
    let mut dba = world.superuser();
    let new = Issuer::new("k2", "ES256");
    dba.run(&new.add());
    let second = new.token(json!({"sub": world.user("acme.viewer"), "org": "customer-7"}));
    let first = gate.acme("acme.viewer");
    let mut idle = gate.login("session_gate");
    idle.run(&for_session(&first));
    let mut open = gate.login("session_gate");
    begin(&mut open, &first);
    open.run("PREPARE q AS SELECT count(*) FROM servers");
    let mut other = gate.login("session_gate");
    other.run(&for_session(&second));
    for session in [&mut idle, &mut open, &mut other] {
        assert_eq!(world.seen(session, "servers"), ACME);
    }
    dba.run("SELECT tenancy.retire_signing_key('k1')");
    assert_nobody(world, &mut idle, "retired");
    refused(idle.attempt("UPDATE servers SET cpus = 1"), "42501");
    assert_eq!(open.count("EXECUTE q"), 0);
    assert_nobody(world, &mut open, "retired");
    assert_eq!(world.seen(&mut other, "servers"), ACME);
    open.run("ROLLBACK");
    let error = refused(idle.attempt(&for_session(&first)), "28000");
    assert!(error.detail().unwrap().contains("retired"), "{error:?}");
    idle.run(&for_session(&second));
    assert_eq!(world.seen(&mut idle, "servers"), ACME);
    // Its id is never another key's, and it cannot be retired twice.
    refused(dba.attempt(&gate.issuer.add()), "23505");
    refused(
        dba.attempt("SELECT tenancy.retire_signing_key('k1')"),
        "42704",
    );
    refused(
        dba.attempt("SELECT tenancy.retire_signing_key('k9')"),
        "42704",
    );
    assert!(dba.is_true("SELECT verifier IS NULL FROM tenancy.signing_keys WHERE kid = 'k1'"));
    // Whatever way the key goes.
    dba.run("DELETE FROM tenancy.signing_keys WHERE kid = 'k2'");
    assert_nobody(world, &mut other, "retired");
}

// ---- What it is worth: what the user may do now

#[test]
fn a10_replayed_after_a_role_change_or_a_removal_it_gives_what_is_left() {
    let gate = Gate::new();
    let world = &gate.world;
    let mut dba = world.superuser();
    let user = world.user("acme.admin");
    let token = gate.acme("acme.admin");
    let mut session = gate.login("gate");
    begin(&mut session, &token);
    session.run("UPDATE servers SET cpus = 9 WHERE id = 1");
    dba.run(&format!(
        "SELECT tenancy.set_member_role('{}', '{user}', 'viewer')",
        world.acme.id
    ));
    refused(
        session.attempt("UPDATE servers SET cpus = 9 WHERE id = 2"),
        "42501",
    );
    session.run("ROLLBACK");
    begin(&mut session, &token);
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    refused(session.attempt("UPDATE servers SET cpus = 9"), "42501");
    session.run("ROLLBACK");
    begin(&mut session, &token);
    dba.run(&format!(
        "SELECT tenancy.remove_member('{}', '{user}')",
        world.acme.id
    ));
    assert_eq!(world.seen(&mut session, "servers"), NOTHING);
    session.run("ROLLBACK; BEGIN");
    refused(authenticate(&mut session, &token), "42501");
    session.run("ROLLBACK");
    // A user who is gone is nobody, in open sessions too.
    let gone = dba.text("SELECT tenancy.create_user('gone@example.test', 'Gone')");
    let token = gate.issuer.token(json!({"sub": gone}));
    begin(&mut session, &token);
    assert_eq!(
        session.value("SELECT tenancy.current_user_id()"),
        Some(gone.clone())
    );
    dba.run(&format!("DELETE FROM tenancy.users WHERE id = '{gone}'"));
    assert_eq!(session.value("SELECT tenancy.current_user_id()"), None);
    session.run("ROLLBACK; BEGIN");
    refused(authenticate(&mut session, &token), "28000");
}

#[test]
fn a2_a_second_user_by_token_is_refused_once_the_transaction_works_for_one() {
    let gate = Gate::new();
    let world = &gate.world;
    let mut session = gate.login("gate");
    begin(&mut session, &gate.acme("acme.viewer"));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    refused(
        authenticate(&mut session, &gate.acme("acme.owner")),
        "25001",
    );
    session.run("ROLLBACK");
    begin(&mut session, &gate.acme("agency"));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    let other = gate.token_for("agency", "customer-8");
    refused(authenticate(&mut session, &other), "25001");
    session.run("ROLLBACK");
    // A newer token of the same user and organization may take over.
    begin(&mut session, &gate.acme("agency"));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    authenticate(&mut session, &gate.acme("agency")).unwrap();
    assert_eq!(world.seen(&mut session, "servers"), ACME);
}

// ---- A login that needs one

#[test]
fn a1_a_login_that_needs_a_token_is_nobody_without() {
    let gate = Gate::new();
    let world = &gate.world;
    let mut session = gate.login("gate");
    let claim = world.claim(world.acme, "acme.owner");
    for how in [
        claim.clone(),
        format!(
            "SELECT set_config('app.current_org', '{}', true)",
            world.acme.id
        ),
        "SET LOCAL app.actor_type = 'service'; SET LOCAL app.current_org = 'customer-7'".into(),
    ] {
        session.run("BEGIN");
        session.run(&how);
        assert_nobody(world, &mut session, "token");
        refused(
            session.attempt("INSERT INTO servers (id, name) VALUES (9, 'x')"),
            "42501",
        );
        session.run("ROLLBACK; BEGIN");
        session.run(&how);
        refused(
            session.attempt(&format!("SELECT tenancy.enter('{}')", world.acme.id)),
            "42501",
        );
        session.run("ROLLBACK");
    }
    refused(
        session.attempt("SELECT tenancy.create_user('x@example.test', 'X')"),
        "42501",
    );
    refused(
        session.attempt("SELECT tenancy.create_org('X', 'x')"),
        "42501",
    );
    assert_eq!(session.count("SELECT count(*) FROM tenancy.my_orgs()"), 0);
    assert_eq!(session.count("SELECT count(*) FROM tenancy.users"), 0);
    // Nor does leave() leave more behind.
    begin(&mut session, &gate.acme("acme.viewer"));
    session.run("SELECT tenancy.leave()");
    session.run(&claim);
    assert_nobody(world, &mut session, "token");
}

#[test]
fn a_token_can_be_required_of_a_trusted_application_and_waived() {
    let gate = Gate::new();
    let world = &gate.world;
    let mut dba = world.superuser();
    let app = world.db.role("app");
    let mut session = world.app();
    let claim = world.claim(world.acme, "acme.owner");
    session.run(&format!("BEGIN; {claim}"));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    dba.run(&format!("SELECT tenancy.require_token('{app}')"));
    assert_nobody(world, &mut session, "token");
    session.run("ROLLBACK");
    begin(&mut session, &gate.acme("acme.viewer"));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    session.run("COMMIT");
    refused(
        dba.attempt(&format!("SELECT tenancy.distrust_application('{app}')")),
        "42704",
    );
    dba.run(&format!("SELECT tenancy.waive_token('{app}')"));
    session.run(&format!("BEGIN; {claim}"));
    assert_nobody(world, &mut session, "neither");
    session.run("ROLLBACK");
    refused(
        dba.attempt(&format!("SELECT tenancy.waive_token('{app}')")),
        "42704",
    );
    dba.run(&format!("SELECT tenancy.trust_application('{app}')"));
    session.run(&format!("BEGIN; {claim}"));
    assert_eq!(world.seen(&mut session, "servers"), ACME);

    for (call, code) in [
        ("tenancy.require_token('no_such_role')", "42704"),
        (
            "tenancy.require_token(current_user::text, 'for ever')",
            "22023",
        ),
        ("tenancy.require_token(NULL)", "22004"),
        ("tenancy.waive_token('no_such_role')", "42704"),
    ] {
        refused(dba.attempt(&format!("SELECT {call}")), code);
    }
    for call in ["require_token", "waive_token"] {
        for mut session in [
            world.session("acme.owner"),
            gate.login("gate"),
            world.nobody(),
        ] {
            refused(
                session.attempt(&format!("SELECT tenancy.{call}('{app}')")),
                "42501",
            );
        }
    }
}

#[test]
fn a_lapsed_token_does_not_fall_back_to_what_the_login_may() {
    let gate = Gate::new();
    let world = &gate.world;
    let mut app = world.session_app();
    app.run(&for_session(&gate.acme("acme.viewer")));
    app.run(&format!("SET app.current_org = '{}'", world.acme.id));
    assert_eq!(world.seen(&mut app, "servers"), ACME);
    world
        .superuser()
        .run("SELECT tenancy.retire_signing_key('k1')");
    // As the service it would see them.
    assert_nobody(world, &mut app, "retired");
    refused(app.attempt("UPDATE sites SET visits = 0"), "42501");
    refused(
        app.attempt("SELECT tenancy.create_user('x@example.test', 'X')"),
        "42501",
    );
    app.run("DISCARD ALL");
    app.run(&format!("SET app.current_org = '{}'", world.acme.id));
    assert_eq!(world.seen(&mut app, "servers"), ACME);
}

/// A trusted application's own rights are out of reach of what runs under a token that it brought: attack C-13.
#[test]
fn a1_a_token_that_was_left_does_not_fall_back_to_what_the_login_may() {
    let gate = Gate::new();
    let world = &gate.world;
    let mut app = world.app();
    let viewer = gate.acme("acme.viewer");
    let claim = world.claim(world.globex, "globex.owner");
    let authenticated = format!("SELECT tenancy.authenticate('{viewer}')");
    for escape in [
        "SELECT tenancy.leave()".to_string(),
        "ROLLBACK TO before".into(),
        "SELECT tenancy.leave(); SELECT tenancy.leave(); SAVEPOINT x".into(),
        "DO $$ BEGIN PERFORM tenancy.leave(); END $$".into(),
        "SAVEPOINT x; SELECT tenancy.leave(); RELEASE x".into(),
        format!(
            "ROLLBACK TO before; DO $$ BEGIN PERFORM tenancy.authenticate('{viewer}'); RAISE 'no'; EXCEPTION WHEN OTHERS THEN END $$"
        ),
    ] {
        app.run(&format!("BEGIN; SAVEPOINT before; {authenticated}"));
        assert_eq!(world.seen(&mut app, "sites"), (6, 0));
        app.run(&format!("{escape}; SAVEPOINT after"));
        for claim in [
            &claim,
            &world.claim(world.acme, "acme.owner"),
            "SET LOCAL app.current_org = 'customer-8'",
        ] {
            app.run(claim);
            assert_nobody(world, &mut app, "left");
            refused(app.attempt("UPDATE servers SET cpus = 99"), "42501");
            app.run("ROLLBACK TO after");
            refused(
                app.attempt("SELECT tenancy.create_user('x@example.test', 'X')"),
                "42501",
            );
            app.run("ROLLBACK TO after");
        }
        // Another token, of the same user.
        app.run(&authenticated);
        assert_eq!(world.seen(&mut app, "servers"), ACME, "{escape}");
        // With the transaction it is over.
        app.run(&format!("COMMIT; BEGIN; {claim}"));
        assert_eq!(world.seen(&mut app, "servers"), GLOBEX, "{escape}");
        app.run("ROLLBACK");
    }
    // Also where the token is gone with its savepoint and nobody looked in between.
    app.run(&format!(
        "BEGIN; SAVEPOINT before; {authenticated}; ROLLBACK TO before; {claim}"
    ));
    assert_nobody(world, &mut app, "left");
    app.run(&format!("ROLLBACK; BEGIN; {claim}"));
    assert_eq!(world.seen(&mut app, "servers"), GLOBEX);
    app.run("ROLLBACK");
    // Sealed as well, it cannot even be left; nor does a COMMIT in the same message help.
    for escape in ["SELECT tenancy.leave()", "ROLLBACK TO before", "COMMIT"] {
        app.run(&format!(
            "BEGIN; SAVEPOINT before; {authenticated}; SELECT tenancy.seal_context()"
        ));
        assert_eq!(world.seen(&mut app, "servers"), ACME);
        let error = fails(
            app.attempt(&format!("{escape}; {claim}; SELECT name FROM servers")),
            "42501",
        );
        assert!(error.message().contains("sealed"), "{escape}: {error:?}");
        app.run("ROLLBACK");
    }
    // A session's token: until DISCARD ALL, which no injected statement can run.
    let mut app = world.session_app();
    app.run(&for_session(&viewer));
    app.run("SELECT tenancy.leave(), set_config('app.current_org', 'customer-8', false), set_config('app.current_user_id', 'key-of-globex.owner', false)");
    assert_nobody(world, &mut app, "left");
    app.run("BEGIN; SELECT tenancy.leave(); COMMIT; RESET ALL");
    app.run("SET app.current_org = 'customer-8'");
    assert_nobody(world, &mut app, "left");
    fails(app.attempt("SELECT 1; DISCARD ALL"), "25001");
    app.run("DISCARD ALL; ");
    app.run("SET app.current_org = 'customer-8'");
    assert_eq!(world.seen(&mut app, "servers"), GLOBEX);
    // One that was never committed was never the session's.
    app.run("RESET ALL");
    app.run(&format!("BEGIN; {}; ROLLBACK", for_session(&viewer)));
    app.run("SET app.current_org = 'customer-8'");
    assert_eq!(world.seen(&mut app, "servers"), GLOBEX);
    // The DBA's own rights likewise.
    let mut dba = world.superuser();
    dba.run(&format!(
        "BEGIN; {authenticated}; SELECT tenancy.leave(); SET LOCAL app.current_org = 'customer-8'"
    ));
    assert!(dba.whoami()["reason"].as_str().unwrap().contains("left"));
    dba.run("COMMIT; SET app.current_org = 'customer-8'");
    assert_eq!(dba.whoami()["principal"], "dba");
}

#[test]
fn a_session_token_ends_with_the_logins_right_to_one() {
    let gate = Gate::new();
    let world = &gate.world;
    let mut dba = world.superuser();
    let login = world.db.role("session_gate");
    let mut session = gate.login("session_gate");
    session.run(&for_session(&gate.acme("acme.viewer")));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    for (change, back) in [
        (
            format!("SELECT tenancy.require_token('{login}')"),
            format!("SELECT tenancy.require_token('{login}', scope => 'session')"),
        ),
        (
            format!("SELECT tenancy.waive_token('{login}')"),
            format!("SELECT tenancy.require_token('{login}', scope => 'session')"),
        ),
    ] {
        dba.run(&change);
        assert_nobody(world, &mut session, "scope");
        // One for the transaction lies over it.
        begin(&mut session, &gate.acme("acme.owner"));
        assert_eq!(world.seen(&mut session, "servers"), ACME);
        session.run("COMMIT");
        assert_nobody(world, &mut session, "scope");
        dba.run(&back);
        assert_eq!(world.seen(&mut session, "servers"), ACME, "{change}");
    }
}

#[test]
fn b3_another_session_user_takes_no_token_along() {
    let gate = Gate::new();
    let world = &gate.world;
    let mut dba = world.superuser();
    dba.run("BEGIN");
    authenticate(&mut dba, &gate.acme("acme.viewer")).unwrap();
    assert_eq!(dba.whoami()["principal"], "token");
    refused(dba.attempt_within("UPDATE servers SET cpus = 1"), "42501");
    for login in ["nobody", "gate", "app"] {
        dba.run(&format!(
            "SAVEPOINT s; SET LOCAL SESSION AUTHORIZATION {}",
            world.db.role(login)
        ));
        assert_nobody(world, &mut dba, "another login");
        dba.run("ROLLBACK TO s");
    }
    // SET ROLE changes what may be touched, not who asks.
    let mut session = gate.login("gate");
    world.superuser().run(&format!(
        "GRANT {} TO {}",
        world.db.role("nobody"),
        world.db.role("gate")
    ));
    begin(&mut session, &gate.acme("acme.viewer"));
    session.run(&format!("SET LOCAL ROLE {}", world.db.role("nobody")));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
}

// ---- Tokens that prove nothing

#[test]
fn forged_and_broken_tokens_are_refused_and_change_nothing() {
    let gate = Gate::new();
    let world = &gate.world;
    let user = world.user("acme.owner");
    let good = gate.token("acme.owner");
    let parts: Vec<&str> = good.split('.').collect();
    let claims = json!({"sub": user, "aud": AUDIENCE, "exp": now() + 60}).to_string();
    let header = |alg: &str| json!({"alg": alg, "kid": "k1"});
    let public = gate.issuer.key();
    let other = Issuer::new("k1", "ES256");
    let stranger = Issuer::new("k7", "EdDSA");
    let mut tokens = vec![
        assemble(&header("none"), claims.as_bytes(), |_| vec![]),
        assemble(&header("None"), claims.as_bytes(), |_| vec![]),
        // The public key's text as the secret.
        assemble(&header("HS256"), claims.as_bytes(), |m| hmac(&public, m)),
        assemble(&header("EdDSA"), claims.as_bytes(), |m| hmac(&public, m)),
        other.token(json!({"sub": user})),
        stranger.token(json!({"sub": user})),
        gate.issuer
            .token(json!({"sub": user, "aud": "https://other.example"})),
        gate.issuer
            .token(json!({"sub": user, "more": "x".repeat(9000)})),
        gate.issuer.token(json!({"sub": user, "exp": "never"})),
        gate.issuer.token(json!({"sub": "nobody of that name"})),
        gate.issuer.token(json!({"org": "customer-7"})),
        gate.issuer.token(json!({"sub": user, "org": "a\u{0}b"})),
        assemble(&header("EdDSA"), b"\xff\xfe\xfd", |_| vec![0; 64]),
        assemble(&json!({"alg": "EdDSA"}), claims.as_bytes(), |_| vec![0; 64]),
        assemble(
            &json!({"alg": "EdDSA", "kid": "k1", "crit": ["exp"]}),
            claims.as_bytes(),
            |_| vec![0; 64],
        ),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}", parts[0], parts[1]),
        format!("Bearer {good}"),
        format!("{good} "),
        format!("{good}.{}", parts[2]),
        good.replace('.', ""),
        String::new(),
        "...".into(),
        "𝕁𝕎𝕋".into(),
        "x".repeat(1_000_000),
    ];
    for part in 0..3 {
        let mut changed: Vec<String> = parts.iter().map(|p| p.to_string()).collect();
        let flipped = if changed[part].ends_with('A') {
            "Q"
        } else {
            "A"
        };
        changed[part].truncate(parts[part].len() - 1);
        changed[part] += flipped;
        tokens.push(changed.join("."));
    }
    let mut session = gate.login("gate");
    for token in &tokens {
        let shown = &token[..token.len().min(300)];
        begin(&mut session, &gate.acme("acme.viewer"));
        session.run("SAVEPOINT s");
        let error = refused(authenticate(&mut session, token), "28000");
        let said = format!("{error:?}");
        for secret in parts
            .iter()
            .skip(1)
            .chain(token.split('.').collect::<Vec<_>>().iter())
        {
            assert!(
                secret.len() < 8 || !said.contains(secret),
                "{shown}: {said}"
            );
        }
        session.run("ROLLBACK TO s");
        assert_eq!(world.seen(&mut session, "servers"), ACME, "{shown}");
        assert_eq!(session.whoami()["role"], "viewer");
        session.run("ROLLBACK; BEGIN");
        fails(authenticate(&mut session, token), "28000");
        session.run("ROLLBACK");
        assert_nobody(world, &mut session, "token");
    }
    begin(&mut session, &good);
}

// ---- Keys and secrets

#[test]
fn keys_are_the_dbas_and_secrets_nobodys() {
    let gate = Gate::new();
    let world = &gate.world;
    let mut dba = world.superuser();
    let secret = Issuer::new("a very secret secret", "HS256");
    dba.run(&secret.add());
    let helper = world.db.role("helper");
    dba.run(&format!(
        "CREATE ROLE {helper} LOGIN; SELECT tenancy.grant_administration('{helper}');
         GRANT pg_read_all_data, pg_read_all_stats, pg_read_all_settings, pg_monitor TO {helper};
         ANALYZE tenancy.signing_keys"
    ));
    let hidden = &hex(&secret.key())[2..];
    // An administrator adds, lists and retires, and reads no secret.
    let mut session = world.db.login(&helper);
    session.run(&Issuer::new("k3", "ES256").add());
    let listed = session.json("SELECT * FROM tenancy.list_signing_keys()");
    assert_eq!(listed.len(), 3, "{listed:?}");
    let by = |kid: &str| listed.iter().find(|row| row["kid"] == kid).unwrap();
    assert!(by("a very secret secret")["public_key"].is_null());
    assert!(by("k1")["public_key"].as_str().unwrap().len() == 66);
    assert_eq!(by("k1")["audience"], AUDIENCE);
    assert!(!format!("{listed:?}").contains(hidden));
    session.run("SELECT tenancy.retire_signing_key('k3')");
    assert_eq!(
        session.count("SELECT count(*) FROM tenancy.signing_keys"),
        0
    );
    for view in ["pg_stats", "pg_stat_activity", "pg_settings"] {
        assert!(!format!("{:?}", session.rows(&format!("SELECT * FROM {view}"))).contains(hidden));
    }
    assert_eq!(
        dba.count("SELECT count(*) FROM pg_stats WHERE schemaname = 'tenancy' AND tablename = 'signing_keys' AND attname = 'verifier'"),
        0
    );
    // Nobody else does any of it.
    for mut session in [
        world.session("acme.owner"),
        world.session_app(),
        gate.login("gate"),
        world.nobody(),
    ] {
        fails(
            session.attempt("SELECT * FROM tenancy.signing_keys"),
            "42501",
        );
        fails(
            session.attempt("INSERT INTO tenancy.signing_keys (kid) VALUES ('k')"),
            "42501",
        );
        refused(
            session.attempt("SELECT * FROM tenancy.list_signing_keys()"),
            "42501",
        );
        refused(
            session.attempt("SELECT tenancy.retire_signing_key('k1')"),
            "42501",
        );
        refused(session.attempt(&Issuer::new("k4", "EdDSA").add()), "42501");
    }
}

#[test]
fn keys_that_are_not_taken() {
    let gate = Gate::new();
    let mut dba = gate.world.superuser();
    let (ed, ec) = (
        Issuer::new("x", "EdDSA").key(),
        Issuer::new("x", "ES256").key(),
    );
    let private =
        b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAcHBwcHBwcH\n-----END PRIVATE KEY-----"
            .to_vec();
    for (algorithm, key) in [
        ("HS256", b"too short".to_vec()),
        ("HS256", ed.clone()),
        ("HS256", vec![1; 5000]),
        ("EdDSA", ec.clone()),
        ("ES256", ed.clone()),
        ("EdDSA", vec![7; 32]),
        ("EdDSA", private.clone()),
        ("ES256", private),
        ("EdDSA", vec![]),
        ("RS256", ed.clone()),
        ("none", vec![]),
        ("hs256", vec![9; 32]),
    ] {
        let add = format!(
            "SELECT tenancy.add_signing_key('bad', '{algorithm}', '{}', 'aud')",
            hex(&key)
        );
        let error = refused(dba.attempt(&add), "22023");
        assert!(
            key.len() < 9 || !format!("{error:?}").contains(&hex(&key)[2..]),
            "{error:?}"
        );
    }
    let (ed, long) = (hex(&ed), "a".repeat(256));
    for (kid, aud, issuer, subject) in [
        ("", "aud", "NULL", "user"),
        (&long, "aud", "NULL", "user"),
        ("k", "", "NULL", "user"),
        ("k", &long, "NULL", "user"),
        ("k", "aud", "''", "user"),
        ("k\n", "aud", "NULL", "user"),
        ("k", "aud", "NULL", "email"),
    ] {
        let add = format!(
            "SELECT tenancy.add_signing_key('{kid}', 'EdDSA', '{ed}', '{aud}', {issuer}, '{subject}')"
        );
        refused(dba.attempt(&add), "22023");
    }
    refused(
        dba.attempt("SELECT tenancy.add_signing_key(NULL, 'EdDSA', NULL, 'aud')"),
        "22004",
    );
    refused(dba.attempt(&gate.issuer.add()), "23505");
    assert_eq!(dba.count("SELECT count(*) FROM tenancy.signing_keys"), 1);
}

#[test]
fn other_sessions_of_the_login_see_no_token_go_by() {
    let gate = Gate::new();
    let mut session = gate.login("gate");
    let token = gate.acme("acme.viewer");
    let pid = session.text("SELECT pg_backend_pid()");
    let mut other = gate.login("gate");
    session.run(&format!(
        "BEGIN; SELECT tenancy.authenticate('{token}'); SELECT 1"
    ));
    let shown = other.text(&format!(
        "SELECT query FROM pg_stat_activity WHERE pid = {pid}"
    ));
    assert!(
        shown.contains("hidden") && !shown.contains(&token[..20]),
        "{shown}"
    );
    session.run("SELECT 2 AS in_plain_sight");
    let shown = other.text(&format!(
        "SELECT query FROM pg_stat_activity WHERE pid = {pid}"
    ));
    assert!(shown.contains("in_plain_sight"), "{shown}");
}

#[test]
fn the_servers_log_keeps_no_secret_of_a_failed_call() {
    let gate = Gate::new();
    let world = &gate.world;
    let mut dba = world.superuser();
    let mark = format!("{}-hidden-secret-of-more-than-32-bytes", world.db.name);
    let add = format!("tenancy.add_signing_key('k1', 'HS256', '{mark}', 'aud')");
    refused(dba.attempt(&format!("SELECT {add}")), "23505");
    refused(
        dba.attempt(&format!("DO $$ BEGIN PERFORM {add}; END $$")),
        "23505",
    );
    let mut session = gate.login("gate");
    session.run("BEGIN");
    refused(
        session.attempt(&format!("SELECT tenancy.authenticate('{mark}')")),
        "28000",
    );
    session.run("ROLLBACK");
    refused(session.attempt(&format!("SELECT {add}")), "42501");
    // The next statement that fails is logged in full again.
    let plain = format!("{}-in-plain-sight", world.db.name);
    fails(session.attempt(&format!("SELECT '{plain}'::int")), "22P02");
    session.run(&format!(
        "DO $$ BEGIN PERFORM tenancy.authenticate('{mark}'); EXCEPTION WHEN OTHERS THEN END $$"
    ));
    fails(
        session.attempt(&format!("SELECT 1 / 0 AS \"{plain}-2\"")),
        "22012",
    );
    let log = world.db.cluster.log();
    assert!(
        !log.contains(&mark),
        "{}",
        log.lines()
            .filter(|l| l.contains(&mark))
            .collect::<String>()
    );
    assert!(log.contains("the token is refused"));
    assert!(log.contains(&format!("STATEMENT:  SELECT '{plain}'::int")));
    assert!(log.contains(&format!("{plain}-2")));
}

// ---- Plans and workers

#[test]
fn a6_c13_plans_and_parallel_queries_follow_the_token() {
    let gate = Gate::new();
    let world = &gate.world;
    let mut dba = world.break_glass();
    dba.run(&format!(
        "CREATE TABLE points (id bigint PRIMARY KEY, org_id uuid NOT NULL, v int NOT NULL);
         INSERT INTO points SELECT i, CASE WHEN i % 3 = 0 THEN '{}' ELSE '{}' END::uuid, i FROM generate_series(1, 30000) i;
         SELECT tenancy.protect('points'); GRANT ALL ON points TO PUBLIC; ANALYZE points",
        world.globex.id, world.acme.id
    ));
    let mut session = gate.login("gate");
    session.run(
        "SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
         SET min_parallel_table_scan_size = 0; SET enable_indexscan = off; SET enable_bitmapscan = off;
         SET enable_indexonlyscan = off; SET plan_cache_mode = force_generic_plan;
         PREPARE q AS SELECT count(*) FROM points; PREPARE s AS SELECT count(*) FROM servers WHERE id > 0",
    );
    for forced in ["off", "on"] {
        session.run(&format!("SET force_parallel_mode = {forced}"));
        for _ in 0..2 {
            for (org, points, servers) in
                [("customer-7", 20000, ACME), ("customer-8", 10000, GLOBEX)]
            {
                begin(&mut session, &gate.token_for("agency", org));
                assert_eq!(session.count("EXECUTE q"), points);
                assert_eq!(session.count("EXECUTE s"), 3);
                assert_eq!(world.seen(&mut session, "servers"), servers);
                assert_eq!(
                    session.count(
                        "SELECT count(*) FROM points WHERE tenancy.has_permission('data:read')"
                    ),
                    points
                );
                session.run("COMMIT");
                assert_eq!(session.count("EXECUTE q"), 0);
            }
        }
    }
}

/// Attack C-5: whoever shares the login may read the statements of its other sessions, and a token there is a token.
#[test]
fn e6_no_session_of_the_same_login_reads_a_token_off_another() {
    let gate = Gate::new();
    let (mut honest, mut thief) = (gate.login("gate"), gate.login("gate"));
    let token = gate.acme("acme.owner");
    let others = "SELECT coalesce(string_agg(query, ' / '), '') FROM pg_stat_activity
                  WHERE pid <> pg_backend_pid() AND usename = current_user";
    for sql in [
        format!("BEGIN; SELECT tenancy.authenticate('{token}')"),
        format!("DO $$ BEGIN PERFORM tenancy.authenticate('{token}'); END $$"),
        "SELECT tenancy.authenticate('not a token')".to_string(),
    ] {
        let _ = honest.attempt(&sql);
        let seen = thief.text(others);
        assert!(
            !seen.contains(&token[..20]) && !seen.contains("not a token"),
            "{seen}"
        );
        let _ = honest.attempt("ROLLBACK");
    }
}
