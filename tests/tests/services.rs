//! Service accounts and their API keys: what a key makes of a session, what it can never make of it, and how it ends.
//! Issue 7.7; attacks A4, A8, A10, A11, A12.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use pg_tenancy_tests::token::hex;
use pg_tenancy_tests::{
    Cluster, Db, DbError, Pooler, Session, Uuid, World, assert_same_error, fails, refused,
};
use sha2::{Digest, Sha256};

const ACME: (i64, i64) = (3, 0);
const NOTHING: (i64, i64) = (0, 0);

/// The world, and logins that need a token.
struct House {
    world: World,
}

/// An account, and a key of its.
struct Bot {
    id: Uuid,
    key: String,
}

impl Bot {
    fn key_id(&self) -> Uuid {
        self.key[4..36].parse().expect("an id")
    }

    fn secret(&self) -> &str {
        &self.key[37..]
    }
}

impl House {
    fn new() -> House {
        House::of(World::new())
    }

    fn of(world: World) -> House {
        let mut dba = world.superuser();
        for (name, scope) in [("gate", "transaction"), ("session_gate", "session")] {
            let login = world.db.role(name);
            dba.run(&format!(
                "CREATE ROLE {login} LOGIN; SELECT tenancy.require_token('{login}', scope => '{scope}')"
            ));
        }
        House { world }
    }

    fn gate(&self) -> Session {
        self.world.db.login(&self.world.db.role("gate"))
    }

    fn owner(&self) -> Session {
        self.world.session("acme.owner")
    }

    fn create(&self, name: &str, role: &str) -> String {
        format!(
            "SELECT tenancy.create_service_account('{}', '{name}', '{role}')",
            self.world.acme.id
        )
    }

    /// An account of acme's owner's making.
    fn bot(&self, name: &str, role: &str) -> Bot {
        bot(&mut self.owner(), &self.create(name, role))
    }

    /// A session in an open transaction that the key speaks for.
    #[track_caller]
    fn inside(&self, bot: &Bot) -> Session {
        let mut session = self.gate();
        session.run("BEGIN");
        session.run(&authenticate(&bot.key));
        session
    }

    /// Makes acme.admin one who manages roles without being the owner, and holds nothing else but these.
    fn lead(&self, actions: &[&str]) -> Session {
        let (org, admin) = (self.world.acme.id, self.world.user("acme.admin"));
        let mut sql = format!("SELECT tenancy.create_role('{org}', 'lead');");
        for action in actions.iter().chain(&["team:role", "team:read"]) {
            sql += &format!("SELECT tenancy.grant_permission('{org}', 'lead', '{action}');");
        }
        sql += &format!("SELECT tenancy.set_member_role('{org}', '{admin}', 'lead')");
        self.owner().run(&sql);
        self.world.session("acme.admin")
    }
}

fn bot(session: &mut Session, create: &str) -> Bot {
    let id = session.text(create).parse().expect("a uuid");
    let key = session.text(&format!("SELECT tenancy.create_api_key('{id}')"));
    Bot { id, key }
}

fn authenticate(key: &str) -> String {
    format!("SELECT tenancy.authenticate('{key}')")
}

#[track_caller]
fn reason(session: &mut Session) -> String {
    let me = session.whoami();
    assert!(me["org_id"].is_null() && me["role"].is_null(), "{me}");
    me["reason"].as_str().expect("a reason").to_string()
}

// ---- What a key is, and makes of a session

#[test]
fn a_key_is_shown_once_and_kept_as_a_hash() {
    let house = House::new();
    let bot = house.bot("deploy-bot", "member");
    assert_eq!(bot.key.len(), 80);
    assert!(bot.key.starts_with("pgt_"), "{}", bot.key);
    let secret = URL_SAFE_NO_PAD.decode(bot.secret()).expect("base64url");
    assert_eq!(secret.len(), 32);
    let other = house
        .owner()
        .text(&format!("SELECT tenancy.create_api_key('{}')", bot.id));
    assert_ne!(other[37..], bot.key[37..]);

    let mut glass = house.world.break_glass();
    assert_eq!(
        glass.column(&format!(
            "SELECT hash FROM tenancy.api_keys WHERE id = '{}'",
            bot.key_id()
        )),
        [hex(&Sha256::digest(&secret))]
    );
    // Nobody of the organization reads the table, and nothing that they read has the key in it.
    for who in ["acme.owner", "acme.admin", "globex.owner"] {
        fails(
            house
                .world
                .session(who)
                .attempt("SELECT hash FROM tenancy.api_keys"),
            "42501",
        );
    }
    let mut owner = house.owner();
    let listed = owner.json(&format!(
        "SELECT * FROM tenancy.list_api_keys('{}') ORDER BY created_at, id",
        house.world.acme.id
    ));
    assert_eq!(listed.len(), 2);
    for row in &listed {
        assert_eq!(row["state"], "active", "{row}");
        assert_eq!(row["name"], "deploy-bot", "{row}");
        let prefix = row["prefix"].as_str().unwrap();
        assert!([&bot.key, &other].iter().any(|key| key.starts_with(prefix)));
        assert!(
            prefix.len() == 12 && !row.to_string().contains(bot.secret()),
            "{row}"
        );
    }
    let audit = owner.column("SELECT l::text FROM tenancy.audit_log l");
    assert!(audit.iter().any(|line| line.contains("create_api_key")));
    assert!(!audit.iter().any(|line| line.contains(bot.secret())));
    assert!(!house.world.db.cluster.log().contains(bot.secret()));
}

#[test]
fn it_makes_the_session_the_account_in_its_organization() {
    let house = House::new();
    let bot = house.bot("deploy-bot", "member");
    let mut session = house.gate();
    session.run("BEGIN");
    assert_eq!(session.text(&authenticate(&bot.key)), bot.id.to_string());
    let me = session.whoami();
    assert_eq!(me["principal"], "service", "{me}");
    assert_eq!(me["org_id"], house.world.acme.id.to_string(), "{me}");
    assert_eq!(
        (&me["role"], &me["actor_type"]),
        (&"member".into(), &"service".into()),
        "{me}"
    );
    assert_eq!(me["service_account"], "deploy-bot", "{me}");
    assert_eq!(me["scope"], "transaction", "{me}");
    assert!(me["user_id"].is_null() && me["email"].is_null(), "{me}");
    assert_eq!(session.value("SELECT tenancy.current_user_id()"), None);
    assert_eq!(house.world.seen(&mut session, "servers"), ACME);
    assert_eq!(session.run("UPDATE sites SET visits = visits + 1"), 6);
    refused(session.attempt_within("DELETE FROM servers"), "42501");
    session.run("COMMIT");
    assert_eq!(house.world.seen(&mut session, "servers"), NOTHING);
    assert_eq!(session.whoami()["principal"], "none");
    let lines = house.owner().rows(
        "SELECT DISTINCT actor_id, actor_type FROM tenancy.audit_log WHERE object LIKE '%sites'",
    );
    assert_eq!(
        lines,
        [[Some(bot.id.to_string()), Some("service".to_string())]]
    );

    // For a session, where the login may have that; and by a trusted application, which it makes no more than the account.
    let mut own = house.world.db.login(&house.world.db.role("session_gate"));
    own.run(&format!(
        "SELECT tenancy.authenticate('{}', scope => 'session')",
        bot.key
    ));
    assert_eq!(house.world.seen(&mut own, "servers"), ACME);
    own.run("SELECT tenancy.leave()");
    assert_eq!(house.world.seen(&mut own, "servers"), NOTHING);
    refused(
        house.gate().attempt(&format!(
            "SELECT tenancy.authenticate('{}', scope => 'session')",
            bot.key
        )),
        "42501",
    );
    refused(house.gate().attempt(&authenticate(&bot.key)), "25P01");
    let mut app = house.world.app();
    app.run("BEGIN");
    app.run(&authenticate(&bot.key));
    refused(app.attempt_within("DELETE FROM servers"), "42501");
    app.run(&format!(
        "SAVEPOINT s; SET LOCAL app.current_user_id = '{}'",
        house.world.user("acme.owner")
    ));
    assert_eq!(house.world.seen(&mut app, "servers"), NOTHING);
    app.run("ROLLBACK TO s; SELECT tenancy.leave()");
    app.run(&house.world.claim(house.world.acme, "acme.owner"));
    assert_eq!(house.world.seen(&mut app, "servers"), NOTHING);
    app.run("ROLLBACK");
    refused(
        house
            .world
            .session("acme.member")
            .attempt(&authenticate(&bot.key)),
        "42501",
    );
}

#[test]
fn it_gives_no_other_organization_and_nobody_elses_name() {
    let house = House::new();
    let bot = house.bot("deploy-bot", "admin");
    let world = &house.world;
    let mut session = house.inside(&bot);
    let mut errors: Vec<DbError> = vec![];
    for org in [world.globex.id, Uuid::nil()] {
        errors.push(refused(
            session.attempt_within(&format!("SELECT tenancy.enter('{org}')")),
            "42501",
        ));
        session.run(&format!("SAVEPOINT s; SET LOCAL app.current_org = '{org}'"));
        assert_eq!(world.seen(&mut session, "servers"), NOTHING);
        assert!(reason(&mut session).contains("one organization"));
        session.run("ROLLBACK TO s");
    }
    assert_same_error(&errors[0], &errors[1], &[]);
    for (claim, seen) in [
        (format!("app.current_org = '{}'", world.acme.id), ACME),
        ("app.current_org = 'customer-7'".into(), ACME),
        ("app.actor_type = 'human'".into(), ACME),
        ("app.client_addr = '10.0.0.1'".into(), ACME),
        (
            format!("app.current_user_id = '{}'", world.user("acme.owner")),
            NOTHING,
        ),
        (format!("app.current_user_id = '{}'", bot.id), NOTHING),
        ("app.current_user_id = 'x'".into(), NOTHING),
    ] {
        session.run(&format!("SAVEPOINT s; SET LOCAL {claim}"));
        assert_eq!(world.seen(&mut session, "servers"), seen, "{claim}");
        assert_eq!(session.whoami()["actor_type"], "service");
        session.run("ROLLBACK TO s");
    }
    // A SET that the pooler's last client left behind says nothing.
    session.run("COMMIT");
    session.run("SET app.current_user_id = 'x'; SET app.current_org = 'customer-8'");
    session.run("BEGIN");
    session.run(&authenticate(&bot.key));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    session.run("ROLLBACK");
}

#[test]
fn it_does_not_govern() {
    let house = House::new();
    let bot = house.bot("deploy-bot", "admin");
    let world = &house.world;
    let mut session = house.inside(&bot);
    let (acme, globex) = (world.acme.id, world.globex.id);
    let member = world.user("acme.member");
    for (act, code) in [
        ("SELECT tenancy.create_org('Own', 'own')".into(), "42501"),
        (
            format!(
                "SELECT tenancy.create_org('Own', 'own', owner => '{}')",
                bot.id
            ),
            "42501",
        ),
        ("SELECT tenancy.create_user('new@x.test')".into(), "42501"),
        (
            format!(
                "SELECT tenancy.add_member('{acme}', '{}', 'viewer')",
                world.user("stranger")
            ),
            "42501",
        ),
        (
            format!("SELECT tenancy.set_member_role('{acme}', '{member}', 'viewer')"),
            "42501",
        ),
        (
            format!("SELECT tenancy.remove_member('{acme}', '{member}')"),
            "42501",
        ),
        (
            format!("SELECT tenancy.transfer_ownership('{acme}', '{member}')"),
            "42501",
        ),
        (
            format!("SELECT tenancy.create_service_account('{acme}', 'more', 'viewer')"),
            "42501",
        ),
        (
            format!("SELECT tenancy.create_api_key('{}')", bot.id),
            "42501",
        ),
        (
            format!("SELECT tenancy.set_service_role('{}', 'admin')", bot.id),
            "42501",
        ),
        (
            format!("SELECT tenancy.adopt_service_account('{}')", bot.id),
            "42501",
        ),
        (
            format!("SELECT tenancy.revoke_api_key('{}')", bot.key_id()),
            "42501",
        ),
        (
            format!("SELECT * FROM tenancy.list_api_keys('{acme}')"),
            "42501",
        ),
        (
            format!("SELECT tenancy.create_role('{acme}', 'mine')"),
            "42501",
        ),
        (
            format!("SELECT tenancy.remove_member('{globex}', '{member}')"),
            "42501",
        ),
        ("SELECT tenancy.begin_migration('x')".into(), "42501"),
        (
            "SELECT tenancy.record_usage('cpu_seconds', 1)".into(),
            "42501",
        ),
        (
            format!(
                "ALTER ROLE {} SET app.current_org = 'x'",
                world.db.role("gate")
            ),
            "42501",
        ),
    ] {
        let error = refused(session.attempt_within(&act), code);
        if act.contains("create_service_account") {
            assert!(error.message().contains("does not govern"), "{error:?}");
        }
    }
    assert!(session.rows("SELECT * FROM tenancy.my_orgs()").is_empty());
    session.run("ROLLBACK");
    // Nor is it made somebody who does.
    let mut owner = house.owner();
    for act in [
        format!(
            "SELECT tenancy.add_member('{acme}', '{}', 'viewer')",
            bot.id
        ),
        format!("SELECT tenancy.transfer_ownership('{acme}', '{}')", bot.id),
    ] {
        refused(owner.attempt(&act), "22023");
    }
}

#[test]
fn it_asks_of_others_what_team_read_allows() {
    let house = House::new();
    let world = &house.world;
    let ask = |org: Uuid| {
        format!(
            "SELECT tenancy.has_permission('{}', '{org}', 'server:read')",
            world.user("acme.viewer")
        )
    };
    let mut member = house.inside(&house.bot("reader", "member"));
    assert!(member.is_true(&ask(world.acme.id)));
    assert!(member.is_true("SELECT tenancy.has_permission('server:read')"));
    assert_eq!(
        member.column("SELECT name FROM tenancy.service_accounts"),
        ["reader"]
    );
    assert_eq!(member.count("SELECT count(*) FROM tenancy.memberships"), 5);
    let mut viewer = house.inside(&house.bot("looker", "viewer"));
    assert!(
        viewer
            .rows("SELECT * FROM tenancy.service_accounts")
            .is_empty()
    );
    let not_mine = refused(viewer.attempt_within(&ask(world.acme.id)), "42501");
    let other = refused(viewer.attempt_within(&ask(world.globex.id)), "42501");
    let none = refused(viewer.attempt_within(&ask(Uuid::nil())), "42501");
    let (acme, globex) = (world.acme.id.to_string(), world.globex.id.to_string());
    assert_same_error(&not_mine, &other, &[(&globex, &acme)]);
    assert_same_error(&not_mine, &none, &[(&Uuid::nil().to_string(), &acme)]);
    refused(member.attempt_within(&ask(world.globex.id)), "42501");
    // Others of the organization see the accounts, of another one do not.
    assert_eq!(
        world
            .session("acme.member")
            .count("SELECT count(*) FROM tenancy.service_accounts"),
        2
    );
    for who in ["acme.viewer", "globex.owner"] {
        assert_eq!(
            world
                .session(who)
                .count("SELECT count(*) FROM tenancy.service_accounts"),
            0
        );
    }
}

// ---- Refusals

#[test]
fn a12_every_bad_key_gets_one_and_the_same_error() {
    let house = House::new();
    let world = &house.world;
    let mut owner = house.owner();
    let good = house.bot("good", "member");
    let revoked = house.bot("revoked", "member");
    let disabled = house.bot("disabled", "member");
    let dropped = house.bot("dropped", "member");
    owner.run(&format!(
        "SELECT tenancy.revoke_api_key('{}')",
        revoked.key_id()
    ));
    owner.run(&format!(
        "SELECT tenancy.disable_service_account('{}')",
        disabled.id
    ));
    owner.run(&format!(
        "SELECT tenancy.drop_service_account('{}')",
        dropped.id
    ));
    let expired = owner.text(&format!(
        "SELECT tenancy.create_api_key('{}', expires_at => clock_timestamp() + interval '200 ms')",
        good.id
    ));
    std::thread::sleep(Duration::from_millis(400));
    let wrong = format!("{}{}", &good.key[..37], revoked.secret());
    let unknown = format!("pgt_{}_{}", Uuid::new_v4().simple(), good.secret());
    let malformed = format!("{}x", good.key);
    let empty = "pgt_".to_string();
    let capital = good.key.replacen("pgt_", "pgt_A", 1);
    let mut errors = vec![];
    for key in [
        &revoked.key,
        &disabled.key,
        &dropped.key,
        &expired,
        &wrong,
        &unknown,
        &malformed,
        &empty,
        &capital,
    ] {
        let mut session = house.gate();
        session.run("BEGIN");
        errors.push(refused(session.attempt_within(&authenticate(key)), "28000"));
        // Inside a function too, whose context would show the statement.
        let inside = format!("DO $do$ BEGIN PERFORM tenancy.authenticate('{key}'); END $do$");
        refused(session.attempt_within(&inside), "28000");
        assert_eq!(world.seen(&mut session, "servers"), NOTHING);
        session.run("ROLLBACK");
    }
    for error in &errors[1..] {
        assert_same_error(&errors[0], error, &[]);
    }
    let log = world.db.cluster.log();
    for (key, why) in [
        (&revoked.key, "it was revoked"),
        (&disabled.key, "its service account is disabled"),
        (&dropped.key, "there is no such key"),
        (&expired, "it has expired"),
        (&unknown, "there is no such key"),
        (&wrong, "its secret is another one"),
    ] {
        let id: Uuid = key[4..36].parse().unwrap();
        assert!(log.contains(&format!("API key {id}: {why}.")), "{why}");
        assert!(!log.contains(&key[37..]), "a secret in the log");
    }
    // Of the good one nothing was spoilt.
    house.inside(&good);
}

#[test]
fn a12_another_organizations_account_is_none() {
    let house = House::new();
    let world = &house.world;
    let bot = house.bot("deploy-bot", "member");
    let nothing = Uuid::new_v4();
    for (function, id) in [
        ("set_service_role", bot.id),
        ("adopt_service_account", bot.id),
        ("disable_service_account", bot.id),
        ("enable_service_account", bot.id),
        ("drop_service_account", bot.id),
        ("create_api_key", bot.id),
        ("revoke_api_key", bot.key_id()),
    ] {
        let more = if function == "set_service_role" {
            ", 'viewer'"
        } else {
            ""
        };
        let call = |id: Uuid| format!("SELECT tenancy.{function}('{id}'{more})");
        for who in ["globex.owner", "stranger"] {
            let mut session = world.session(who);
            let theirs = refused(session.attempt(&call(id)), "42501");
            let none = refused(session.attempt(&call(nothing)), "42501");
            assert_same_error(&theirs, &none, &[(&nothing.to_string(), &id.to_string())]);
        }
        // Its own organization's, who may not.
        for who in ["acme.admin", "acme.member", "acme.viewer"] {
            refused(world.session(who).attempt(&call(id)), "42501");
        }
        refused(house.owner().attempt(&call(nothing)), "42501");
    }
    for list in ["list_api_keys", "list_service_accounts"] {
        let call = |org: Uuid| format!("SELECT * FROM tenancy.{list}('{org}')");
        let mut session = world.session("globex.owner");
        let theirs = refused(session.attempt(&call(world.acme.id)), "42501");
        let none = refused(session.attempt(&call(nothing)), "42501");
        assert_same_error(
            &theirs,
            &none,
            &[(&nothing.to_string(), &world.acme.id.to_string())],
        );
    }
    assert_eq!(world.seen(&mut house.inside(&bot), "servers"), ACME);
}

#[test]
fn what_cannot_be_is_refused_and_nothing_written_down() {
    let house = House::new();
    let mut owner = house.owner();
    let bot = house.bot("deploy-bot", "member");
    for (name, role, code) in [
        ("deploy-bot", "member", "42710"),
        ("Deploy-Bot", "viewer", "42710"),
        ("", "member", "22023"),
        ("  ", "member", "22023"),
        ("a\tb", "member", "22023"),
        ("other", "owner", "22023"),
        ("other", "memebr", "22023"),
    ] {
        refused(owner.attempt(&house.create(name, role)), code);
    }
    refused(
        owner.attempt(&house.create(&"x".repeat(64), "member")),
        "22023",
    );
    refused(
        owner.attempt(&format!(
            "SELECT tenancy.set_service_role('{}', 'owner')",
            bot.id
        )),
        "22023",
    );
    for arguments in [
        "expires_at => now() - interval '1 s'",
        "networks => '{}'",
        "networks => '{NULL}'",
    ] {
        refused(
            owner.attempt(&format!(
                "SELECT tenancy.create_api_key('{}', {arguments})",
                bot.id
            )),
            "22023",
        );
    }
    assert_eq!(
        owner.column(
            "SELECT operation FROM tenancy.audit_log WHERE operation ~ 'service|api_key' ORDER BY at"
        ),
        ["create_service_account", "create_api_key"]
    );
    // Nor by direct SQL.
    let mut glass = house.world.break_glass();
    for sql in [
        format!(
            "UPDATE tenancy.service_accounts SET role = 'owner' WHERE id = '{}'",
            bot.id
        ),
        "UPDATE tenancy.api_keys SET hash = '\\x00'".into(),
        "UPDATE tenancy.api_keys SET revoked_at = now()".into(),
        "UPDATE tenancy.api_keys SET allowed_networks = '{}'".into(),
    ] {
        fails(glass.attempt(&sql), "23514");
    }
    for sql in [
        "UPDATE tenancy.service_accounts SET role = 'nothing'".to_string(),
        format!(
            "UPDATE tenancy.api_keys SET org_id = '{}'",
            house.world.globex.id
        ),
    ] {
        fails(glass.attempt(&sql), "23503");
    }
}

#[test]
fn every_act_is_in_the_audit() {
    let house = House::new();
    let bot = house.bot("deploy-bot", "member");
    let mut owner = house.owner();
    for act in [
        format!("set_service_role('{}', 'viewer')", bot.id),
        format!("disable_service_account('{}')", bot.id),
        format!("disable_service_account('{}')", bot.id),
        format!("enable_service_account('{}')", bot.id),
        format!("adopt_service_account('{}')", bot.id),
        format!("revoke_api_key('{}')", bot.key_id()),
        format!("drop_service_account('{}')", bot.id),
    ] {
        owner.run(&format!("SELECT tenancy.{act}"));
    }
    assert_eq!(
        owner.rows(
            "SELECT operation, key ->> 'id' FROM tenancy.audit_log WHERE operation ~ 'service|api_key' ORDER BY at"
        ),
        [
            ("create_service_account", bot.id),
            ("create_api_key", bot.key_id()),
            ("set_service_role", bot.id),
            ("disable_service_account", bot.id),
            ("enable_service_account", bot.id),
            ("adopt_service_account", bot.id),
            ("revoke_api_key", bot.key_id()),
            ("drop_service_account", bot.id)
        ]
        .map(|(operation, id)| vec![Some(operation.to_string()), Some(id.to_string())])
    );
}

// ---- How it ends

/// In open transactions of any isolation, through prepared statements and cursors.
#[test]
fn a10_its_end_is_heard_at_the_next_statement() {
    let house = House::new();
    let world = &house.world;
    let isolations = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];
    let ends: [(&str, &str); 6] = [
        ("revoke", "SELECT tenancy.revoke_api_key('KEY')"),
        ("disable", "SELECT tenancy.disable_service_account('BOT')"),
        ("drop", "SELECT tenancy.drop_service_account('BOT')"),
        (
            "sql",
            "UPDATE tenancy.service_accounts SET disabled_at = now() WHERE id = 'BOT'",
        ),
        ("sql-key", "DELETE FROM tenancy.api_keys WHERE id = 'KEY'"),
        ("truncate", "TRUNCATE tenancy.api_keys"),
    ];
    for (name, end) in ends {
        let bot = house.bot(name, "member");
        let mut sessions: Vec<_> = isolations
            .iter()
            .map(|isolation| {
                let mut session = house.gate();
                session.run("PREPARE q AS SELECT count(*) FROM servers WHERE id > 0");
                session.run(&format!("BEGIN ISOLATION LEVEL {isolation}"));
                session.run(&authenticate(&bot.key));
                session.run("DECLARE c CURSOR FOR SELECT id FROM servers");
                assert_eq!(session.run("FETCH 1 FROM c"), 1);
                for _ in 0..7 {
                    assert_eq!(session.count("EXECUTE q"), 3);
                }
                session
            })
            .collect();
        world.break_glass().run(
            &end.replace("BOT", &bot.id.to_string())
                .replace("KEY", &bot.key_id().to_string()),
        );
        for session in &mut sessions {
            assert_eq!(
                session.attempt_within("FETCH 5 FROM c").unwrap_or(0),
                0,
                "{name}"
            );
            assert_eq!(session.count("EXECUTE q"), 0, "{name}");
            assert_eq!(world.seen(session, "servers"), NOTHING, "{name}");
            assert!(reason(session).contains("API key"), "{name}");
            let error = refused(
                session.attempt_within("UPDATE sites SET visits = 0"),
                "42501",
            );
            assert!(error.detail().unwrap().contains("API key"), "{error:?}");
            session.run("COMMIT");
            session.run("BEGIN");
            refused(session.attempt(&authenticate(&bot.key)), "28000");
            session.run("ROLLBACK");
        }
    }
}

#[test]
fn a10_a_key_expires_during_an_open_transaction() {
    let house = House::new();
    let mut owner = house.owner();
    let id = owner.text(&house.create("deploy-bot", "member"));
    let key = owner.text(&format!(
        "SELECT tenancy.create_api_key('{id}', expires_at => clock_timestamp() + interval '1.5 s')"
    ));
    let at = Instant::now() + Duration::from_millis(1700);
    let mut session = house.gate();
    session.run("PREPARE q AS SELECT count(*) FROM servers");
    session.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    session.run(&authenticate(&key));
    assert_eq!(session.count("EXECUTE q"), 3);
    assert!(Instant::now() < at, "too slow a machine");
    std::thread::sleep(at.saturating_duration_since(Instant::now()));
    assert_eq!(session.count("EXECUTE q"), 0);
    assert!(reason(&mut session).contains("API key"));
    session.run("ROLLBACK");
    let state = format!(
        "SELECT state FROM tenancy.list_api_keys('{}')",
        house.world.acme.id
    );
    assert_eq!(owner.column(&state), ["expired"]);
}

#[test]
fn a10_a_row_waited_for_is_not_written_by_a_revoked_key() {
    let house = House::new();
    let bot = house.bot("deploy-bot", "member");
    let mut holder = house.world.break_glass();
    holder.run("BEGIN; SELECT * FROM sites WHERE id = 1 FOR UPDATE");
    let mut session = house.inside(&bot);
    assert_eq!(house.world.seen(&mut session, "servers"), ACME);
    let pid = session.text("SELECT pg_backend_pid()");
    let waiting = std::thread::spawn(move || {
        session
            .attempt("UPDATE sites SET visits = 4711 WHERE id = 1")
            .unwrap_or(0)
    });
    let mut dba = house.world.superuser();
    while !dba.is_true(&format!(
        "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid}"
    )) {
        std::thread::sleep(Duration::from_millis(10));
    }
    house.owner().run(&format!(
        "SELECT tenancy.revoke_api_key('{}')",
        bot.key_id()
    ));
    holder.run("UPDATE sites SET visits = 7 WHERE id = 1; COMMIT");
    assert_eq!(waiting.join().unwrap(), 0);
    assert_eq!(holder.text("SELECT visits FROM sites WHERE id = 1"), "7");
}

#[test]
fn enabled_again_and_with_another_role() {
    let house = House::new();
    let bot = house.bot("deploy-bot", "member");
    let mut owner = house.owner();
    let mut session = house.inside(&bot);
    assert_eq!(session.run("UPDATE sites SET visits = 1"), 6);
    owner.run(&format!(
        "SELECT tenancy.set_service_role('{}', 'viewer')",
        bot.id
    ));
    refused(
        session.attempt_within("UPDATE sites SET visits = 2"),
        "42501",
    );
    assert_eq!(session.text("SELECT tenancy.current_role_name()"), "viewer");
    owner.run(&format!(
        "SELECT tenancy.set_service_role('{}', 'admin')",
        bot.id
    ));
    assert_eq!(session.run("UPDATE servers SET cpus = 4"), 3);
    owner.run(&format!(
        "SELECT tenancy.disable_service_account('{}')",
        bot.id
    ));
    assert_eq!(house.world.seen(&mut session, "servers"), NOTHING);
    owner.run(&format!(
        "SELECT tenancy.enable_service_account('{}')",
        bot.id
    ));
    assert_eq!(house.world.seen(&mut session, "servers"), ACME);
    // A role that a service account has is not dropped from under it.
    let acme = house.world.acme.id;
    owner.run(&format!(
        "SELECT tenancy.create_role('{acme}', 'bots', clone_of => 'member')"
    ));
    owner.run(&format!(
        "SELECT tenancy.set_service_role('{}', 'bots')",
        bot.id
    ));
    assert_eq!(session.text("SELECT tenancy.current_role_name()"), "bots");
    assert_eq!(session.run("UPDATE sites SET visits = 3"), 6);
    refused(
        owner.attempt(&format!("SELECT tenancy.drop_role('{acme}', 'bots')")),
        "2BP01",
    );
    owner.run(&format!("SELECT tenancy.deactivate_role('{acme}', 'bots')"));
    assert_eq!(house.world.seen(&mut session, "servers"), NOTHING);
    let list = format!("SELECT state FROM tenancy.list_service_accounts('{acme}')");
    assert_eq!(owner.column(&list), ["stopped"]);
    owner.run(&format!("SELECT tenancy.activate_role('{acme}', 'bots')"));
    assert_eq!(house.world.seen(&mut session, "servers"), ACME);
    assert_eq!(owner.column(&list), ["active"]);
}

// ---- Never above who answers for it

#[test]
fn nobody_makes_an_account_above_himself() {
    let house = House::new();
    let above = house.bot("above", "admin");
    let below = house.bot("below", "viewer");
    let mut lead = house.lead(&[
        "server:read",
        "site:read",
        "site:deploy",
        "app:read",
        "backup:read",
        "monitoring:read",
        "alert:read",
        "org:read",
        "data:read",
    ]);
    for role in ["admin", "member"] {
        refused(lead.attempt(&house.create("mine", role)), "42501");
        refused(
            lead.attempt(&format!(
                "SELECT tenancy.set_service_role('{}', '{role}')",
                below.id
            )),
            "42501",
        );
    }
    for function in [
        "create_api_key",
        "adopt_service_account",
        "enable_service_account",
    ] {
        refused(
            lead.attempt(&format!("SELECT tenancy.{function}('{}')", above.id)),
            "42501",
        );
        lead.run(&format!("SELECT tenancy.{function}('{}')", below.id));
    }
    // Not in two steps either: an account of a role that grows by somebody else's hand stays below its sponsor.
    let acme = house.world.acme.id;
    let mut owner = house.owner();
    owner.run(&format!("SELECT tenancy.create_role('{acme}', 'growing')"));
    owner.run(&format!(
        "SELECT tenancy.grant_permission('{acme}', 'growing', 'server:read')"
    ));
    let mine = bot(&mut lead, &house.create("mine", "growing"));
    let mut session = house.inside(&mine);
    assert_eq!(house.world.seen(&mut session, "servers"), ACME);
    owner.run(&format!(
        "SELECT tenancy.grant_permission('{acme}', 'growing', 'server:delete')"
    ));
    refused(
        session.attempt_within("DELETE FROM servers WHERE id = 3"),
        "42501",
    );
    assert!(!session.is_true("SELECT tenancy.has_permission('server:delete')"));
    owner.run(&format!(
        "SELECT tenancy.grant_permission('{acme}', 'lead', 'server:delete')"
    ));
    assert!(session.is_true("SELECT tenancy.has_permission('server:delete')"));
    // To take away is free.
    lead.run(&format!(
        "SELECT tenancy.disable_service_account('{}')",
        above.id
    ));
    lead.run(&format!(
        "SELECT tenancy.revoke_api_key('{}')",
        above.key_id()
    ));
    lead.run(&format!(
        "SELECT tenancy.drop_service_account('{}')",
        above.id
    ));
}

#[test]
fn it_shrinks_and_stops_with_who_answers_for_it() {
    let house = House::new();
    let world = &house.world;
    let (acme, admin) = (world.acme.id, world.user("acme.admin"));
    let mut lead = house.lead(&["server:read", "server:update", "site:read"]);
    let mut owner = house.owner();
    owner.run(&format!("SELECT tenancy.create_role('{acme}', 'bots')"));
    for action in ["server:read", "server:update", "site:read"] {
        owner.run(&format!(
            "SELECT tenancy.grant_permission('{acme}', 'bots', '{action}')"
        ));
    }
    let bot = bot(&mut lead, &house.create("deploy-bot", "bots"));
    let mut session = house.inside(&bot);
    assert_eq!(session.run("UPDATE servers SET cpus = 2"), 3);
    owner.run(&format!(
        "SELECT tenancy.set_member_role('{acme}', '{admin}', 'viewer')"
    ));
    refused(
        session.attempt_within("UPDATE servers SET cpus = 3"),
        "42501",
    );
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    // The end of the membership is the account's.
    owner.run(&format!(
        "SELECT tenancy.set_member_expiry('{acme}', '{admin}', clock_timestamp() + interval '600 ms')"
    ));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(world.seen(&mut session, "servers"), NOTHING);
    assert!(reason(&mut session).contains("answers for"));
    owner.run(&format!(
        "SELECT tenancy.set_member_expiry('{acme}', '{admin}')"
    ));
    assert_eq!(world.seen(&mut session, "servers"), ACME);
    world.remove("acme.admin");
    assert_eq!(world.seen(&mut session, "servers"), NOTHING);
    assert!(reason(&mut session).contains("answers for"));
    assert_eq!(
        owner.column(&format!(
            "SELECT state FROM tenancy.list_service_accounts('{acme}')"
        )),
        ["stopped"]
    );
    session.run("ROLLBACK; BEGIN");
    let error = refused(session.attempt(&authenticate(&bot.key)), "42501");
    assert!(
        error.hint().unwrap().contains("adopt_service_account"),
        "{error:?}"
    );
    session.run("ROLLBACK");
    // Back in the organization he answers for it again; and somebody else may take it over.
    owner.run(&format!(
        "SELECT tenancy.add_member('{acme}', '{admin}', 'viewer')"
    ));
    let mut session = house.inside(&bot);
    refused(
        session.attempt_within("UPDATE servers SET cpus = 3"),
        "42501",
    );
    owner.run(&format!(
        "SELECT tenancy.adopt_service_account('{}')",
        bot.id
    ));
    assert_eq!(session.run("UPDATE servers SET cpus = 3"), 3);
    // Even the account of a person who is gone from the database.
    session.run("COMMIT");
    owner.run(&format!(
        "SELECT tenancy.remove_member('{acme}', '{}')",
        world.user("acme.member")
    ));
    let mut glass = world.break_glass();
    glass.run(&format!(
        "UPDATE tenancy.service_accounts SET sponsor_id = '{0}' WHERE id = '{1}';
         DELETE FROM tenancy.login_bindings WHERE user_id = '{0}'; DELETE FROM tenancy.users WHERE id = '{0}'",
        world.user("acme.member"),
        bot.id
    ));
    session.run("BEGIN");
    refused(session.attempt(&authenticate(&bot.key)), "42501");
    session.run("ROLLBACK");
}

#[test]
fn it_is_limited_to_the_resources_that_its_sponsor_is() {
    let world = World::unprotected();
    world.superuser().run(
        r#"SELECT tenancy.protect('servers', permissions => '{"select": "server:read"}', resource_type => 'server');
           SELECT tenancy.protect('sites', permissions => '{"select": "site:read"}')"#,
    );
    let house = House::of(world);
    let world = &house.world;
    let mut lead = house.lead(&["server:read", "site:read"]);
    let mut owner = house.owner();
    let org = world.acme.id;
    owner.run(&format!(
        "SELECT tenancy.create_role('{org}', 'bots');
         SELECT tenancy.grant_permission('{org}', 'bots', 'server:read');
         SELECT tenancy.grant_permission('{org}', 'bots', 'site:read')"
    ));
    let bot = bot(&mut lead, &house.create("watcher", "bots"));
    let mut session = house.inside(&bot);
    let read = "SELECT id FROM servers ORDER BY id";
    assert_eq!(session.column(read), ["1", "2", "3"]);
    assert!(session.count("SELECT count(*) FROM sites") > 0);
    owner.run(&format!(
        "SELECT tenancy.set_scope('{org}', '{}', 'servers', '2')",
        world.user("acme.admin")
    ));
    assert_eq!(session.column(read), ["2"]);
    assert_eq!(session.count("SELECT count(*) FROM sites"), 0);
    session.run("ROLLBACK");
}

#[test]
fn the_dbas_accounts_are_the_owners_and_go_on_as_far_as_he_may() {
    let house = House::new();
    let world = &house.world;
    let bot = bot(&mut world.superuser(), &house.create("backup-bot", "admin"));
    let list = format!(
        "SELECT sponsor_id FROM tenancy.list_service_accounts('{}')",
        world.acme.id
    );
    assert_eq!(
        house.owner().column(&list),
        [world.user("acme.owner").to_string()]
    );
    let mut session = house.inside(&bot);
    assert_eq!(session.run("UPDATE servers SET cpus = 2"), 3);
    house.owner().run(&format!(
        "SELECT tenancy.transfer_ownership('{}', '{}')",
        world.acme.id,
        world.user("acme.member")
    ));
    // The old owner is an admin.
    assert_eq!(session.run("UPDATE servers SET cpus = 3"), 3);
    world.session("acme.member").run(&format!(
        "SELECT tenancy.set_member_role('{}', '{}', 'viewer')",
        world.acme.id,
        world.user("acme.owner")
    ));
    refused(
        session.attempt_within("UPDATE servers SET cpus = 4"),
        "42501",
    );
}

// ---- Transactions, seals, poolers, networks

#[test]
fn a2_one_transaction_has_one_account() {
    let house = House::new();
    let (one, two) = (house.bot("one", "member"), house.bot("two", "member"));
    let mut session = house.inside(&one);
    assert_eq!(house.world.seen(&mut session, "servers"), ACME);
    refused(session.attempt_within(&authenticate(&two.key)), "25001");
    session.run("UPDATE sites SET visits = 9 WHERE id = 1");
    session.run("COMMIT");
    // A savepoint takes along what was brought after it.
    let mut session = house.gate();
    session.run("BEGIN; SAVEPOINT s");
    session.run(&authenticate(&one.key));
    session.run("ROLLBACK TO s");
    assert_eq!(house.world.seen(&mut session, "servers"), NOTHING);
    session.run(&authenticate(&two.key));
    assert_eq!(house.world.seen(&mut session, "servers"), ACME);
    session.run("COMMIT");
}

#[test]
fn a11_a_sealed_account_is_not_exchanged() {
    let house = House::new();
    let (one, two) = (house.bot("one", "viewer"), house.bot("two", "member"));
    for change in [
        authenticate(&two.key),
        "SELECT tenancy.leave()".into(),
        "RESET ALL; SET LOCAL app.current_org = 'customer-8'".into(),
    ] {
        let mut session = house.inside(&one);
        session.run("SELECT tenancy.seal_context()");
        assert_eq!(house.world.seen(&mut session, "servers"), ACME);
        let changed = session.attempt(&change);
        if changed.is_ok() {
            refused(session.attempt("SELECT id FROM servers"), "42501");
        }
        session.run("ROLLBACK");
    }
    // Revoked under the seal: nothing, and no error about the seal.
    let mut session = house.inside(&one);
    session.run("SELECT tenancy.seal_context()");
    house.owner().run(&format!(
        "SELECT tenancy.revoke_api_key('{}')",
        one.key_id()
    ));
    assert_eq!(house.world.seen(&mut session, "servers"), NOTHING);
    session.run("COMMIT");
}

#[test]
fn a4_a_pooler_hands_on_no_key() {
    let house = House::new();
    let bot = house.bot("deploy-bot", "member");
    let login = house.world.db.role("gate");
    let pooler = Pooler::start(
        &house.world.db.cluster,
        "transaction",
        &["default_pool_size = 1"],
        std::slice::from_ref(&login),
    );
    let mut one = pooler.login(&login, &house.world.db.name);
    let mut two = pooler.login(&login, &house.world.db.name);
    for _ in 0..3 {
        one.run("BEGIN");
        one.run(&authenticate(&bot.key));
        assert_eq!(house.world.seen(&mut one, "servers"), ACME);
        one.run("COMMIT");
        two.run("BEGIN");
        assert_eq!(house.world.seen(&mut two, "servers"), NOTHING);
        two.run("COMMIT");
        assert_eq!(house.world.seen(&mut two, "servers"), NOTHING);
    }
}

#[test]
fn a_key_of_networks_is_good_in_them_only() {
    static TCP: OnceLock<Arc<Cluster>> = OnceLock::new();
    let cluster = TCP.get_or_init(|| Arc::new(Cluster::start_listening("127.0.0.1")));
    let db = Db::empty(cluster.clone());
    db.superuser().run("CREATE EXTENSION pg_tenancy");
    let house = House::of(World::new_in(db));
    let mut owner = house.owner();
    let id = owner.text(&house.create("deploy-bot", "member"));
    let mut key = |networks: &str| {
        owner.text(&format!(
            "SELECT tenancy.create_api_key('{id}', networks => '{networks}')"
        ))
    };
    let (here, elsewhere) = (key("{127.0.0.0/8}"), key("{10.0.0.0/8}"));
    let login = house.world.db.role("gate");
    let config = cluster.tcp_config("127.0.0.1", &login, &house.world.db.name);
    let mut tcp = house.world.db.connect(&config);
    tcp.run("BEGIN");
    tcp.run(&authenticate(&here));
    assert_eq!(house.world.seen(&mut tcp, "servers"), ACME);
    tcp.run("COMMIT; BEGIN; SET LOCAL app.client_addr = '10.0.0.1'");
    let error = refused(tcp.attempt(&authenticate(&elsewhere)), "42501");
    assert!(error.detail().unwrap().contains("networks"), "{error:?}");
    tcp.run("ROLLBACK");
    let mut socket = house.gate();
    socket.run("BEGIN");
    refused(socket.attempt(&authenticate(&here)), "42501");
    socket.run("ROLLBACK");
    let listed = format!(
        "SELECT networks::text FROM tenancy.list_api_keys('{}') ORDER BY 1",
        house.world.acme.id
    );
    assert_eq!(
        house.owner().column(&listed),
        ["{10.0.0.0/8}", "{127.0.0.0/8}"]
    );
}

// ---- Many at once

#[test]
fn sixteen_clients_of_a_key_are_out_when_it_is_revoked() {
    let house = House::new();
    for round in 0..3 {
        let bot = house.bot(&format!("bot-{round}"), "member");
        let revoked = Arc::new(AtomicBool::new(false));
        let busy = Arc::new(AtomicU64::new(0));
        let clients: Vec<_> = (0..16)
            .map(|n| {
                let mut session = house.gate();
                let (revoked, busy, key) = (revoked.clone(), busy.clone(), bot.key.clone());
                std::thread::spawn(move || {
                    // Half stay in one transaction, half begin one after the other.
                    let mut inside = false;
                    let mut after = 0;
                    while after < 5 {
                        let was_revoked = revoked.load(SeqCst);
                        if !inside {
                            session.run("ROLLBACK; BEGIN");
                            inside = session.attempt(&authenticate(&key)).is_ok();
                            if !inside {
                                session.run("ROLLBACK; BEGIN");
                            }
                        }
                        let rows = if n % 3 == 0 {
                            session
                                .attempt_within("UPDATE sites SET visits = visits WHERE id = 1")
                                .unwrap_or(0)
                        } else {
                            session.attempt("SELECT id FROM servers").unwrap()
                        };
                        if was_revoked {
                            assert_eq!(rows, 0, "client {n} after the key was revoked");
                            after += 1;
                        } else if rows > 0 {
                            busy.fetch_add(1, SeqCst);
                        }
                        if n % 2 == 0 || n % 3 == 0 {
                            session.run("COMMIT; BEGIN");
                            inside = false;
                        }
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        house.owner().run(&format!(
            "SELECT tenancy.revoke_api_key('{}')",
            bot.key_id()
        ));
        revoked.store(true, SeqCst);
        for client in clients {
            client.join().expect("no assertion failed");
        }
        assert!(busy.load(SeqCst) > 16, "nobody was at work");
    }
}

#[test]
fn of_many_creators_of_one_name_one_creates() {
    let house = House::new();
    for round in 0..4 {
        let start = Arc::new(std::sync::Barrier::new(16));
        let made: usize = (0..16)
            .map(|n| {
                let mut owner = house.owner();
                let start = start.clone();
                let name = if n % 2 == 0 {
                    format!("bot-{round}")
                } else {
                    format!("BOT-{round}")
                };
                let create = house.create(&name, "member");
                std::thread::spawn(move || {
                    start.wait();
                    match owner.attempt(&create) {
                        Ok(_) => 1,
                        Err(error) => {
                            refused::<()>(Err(error), "42710");
                            0
                        }
                    }
                })
            })
            .collect::<Vec<_>>()
            .into_iter()
            .map(|creator| creator.join().expect("no assertion failed"))
            .sum();
        assert_eq!(made, 1);
    }
    assert_eq!(
        house.owner().count(
            "SELECT count(*) FROM tenancy.audit_log WHERE operation = 'create_service_account'"
        ),
        4
    );
}

/// While the sponsor is demoted and promoted, an account of his making, and the making, stay below him.
#[test]
fn no_account_is_above_its_sponsor_however_fast_he_is_demoted() {
    let house = House::new();
    let (acme, admin) = (house.world.acme.id, house.world.user("acme.admin"));
    let mut lead = house.lead(&["server:read", "server:update"]);
    let mut owner = house.owner();
    owner.run(&format!("SELECT tenancy.create_role('{acme}', 'bots')"));
    for action in ["server:read", "server:update"] {
        owner.run(&format!(
            "SELECT tenancy.grant_permission('{acme}', 'bots', '{action}')"
        ));
    }
    let bot = bot(&mut lead, &house.create("bot", "bots"));
    let done = Arc::new(AtomicBool::new(false));
    let round = Arc::new(AtomicU64::new(0));
    let mut workers = vec![];
    for n in 0..8 {
        let (done, round, key) = (done.clone(), round.clone(), bot.key.clone());
        let mut session = house.gate();
        let mut lead = house.world.session("acme.admin");
        let create = (0..)
            .map(|i| house.create(&format!("bot-{n}-{i}"), "bots"))
            .take(100_000);
        let creates: Vec<String> = if n < 2 {
            create.take(400).collect()
        } else {
            vec![]
        };
        workers.push(std::thread::spawn(move || {
            let mut creates = creates.into_iter();
            while !done.load(SeqCst) {
                let before = round.load(SeqCst);
                // 0: in office, 2: demoted, odd: on the way.
                let (allowed, what) = match creates.next() {
                    Some(create) => (lead.attempt(&create).is_ok(), "make an account"),
                    None => {
                        session.run("BEGIN");
                        session.run(&authenticate(&key));
                        let rows =
                            session.attempt_within("UPDATE servers SET cpus = 2 WHERE id = 1");
                        session.run("COMMIT");
                        (rows.unwrap_or(0) > 0, "write")
                    }
                };
                if before % 2 == 0 && before == round.load(SeqCst) {
                    assert_eq!(
                        allowed,
                        before % 4 == 0,
                        "client {n} could {what} in round {before}"
                    );
                }
            }
        }));
    }
    for step in 0..8 {
        std::thread::sleep(Duration::from_millis(200));
        round.fetch_add(1, SeqCst);
        let role = if step % 2 == 0 { "viewer" } else { "lead" };
        owner.run(&format!(
            "SELECT tenancy.set_member_role('{acme}', '{admin}', '{role}')"
        ));
        round.fetch_add(1, SeqCst);
    }
    done.store(true, SeqCst);
    for worker in workers {
        worker.join().expect("no assertion failed");
    }
}
