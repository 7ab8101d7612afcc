//! Memberships that may be used from certain networks only, at every statement of an open session. Issue 7.3; spec 3.7.
//!
//! The clients are real ones: by TCP/IP from two loopback addresses, and by the unix socket, which has no address.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pg_tenancy_tests::token::Issuer;
use pg_tenancy_tests::{Cluster, Db, Pooler, Session, World, assert_same_error, fails, refused};
use serde_json::json;

const ACME: (i64, i64) = (3, 0);
const NOTHING: (i64, i64) = (0, 0);
const HERE: &str = "{127.0.0.1/32}";
const ELSEWHERE: &str = "{10.0.0.0/8,2001:db8::/32}";

fn has_ipv6() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| std::net::TcpListener::bind("[::1]:0").is_ok())
}

fn cluster() -> Arc<Cluster> {
    static SHARED: OnceLock<Arc<Cluster>> = OnceLock::new();
    let addresses = if has_ipv6() {
        "127.0.0.1,::1"
    } else {
        "127.0.0.1"
    };
    SHARED
        .get_or_init(|| Arc::new(Cluster::start_listening(addresses)))
        .clone()
}

fn world() -> World {
    let db = Db::empty(cluster());
    db.superuser().run("CREATE EXTENSION pg_tenancy");
    World::new_in(db)
}

/// A member's login, by TCP/IP, in acme.
fn at(world: &World, address: &str, who: &str) -> Session {
    let login = world.db.role(who);
    let config = cluster().tcp_config(address, &login, &world.db.name);
    let mut session = world.db.connect(&config);
    session.run(&format!("SET app.current_org = '{}'", world.acme.id));
    session
}

fn here(world: &World, who: &str) -> Session {
    at(world, "127.0.0.1", who)
}

/// The statement by which acme's owner holds somebody to networks.
fn networks(world: &World, who: &str, list: &str) -> String {
    let list = if list == "NULL" {
        list.into()
    } else {
        format!("'{list}'")
    };
    format!(
        "SELECT tenancy.set_member_networks('{}', '{}', {list})",
        world.acme.id,
        world.user(who)
    )
}

fn hold(world: &World, who: &str, list: &str) {
    world.session("acme.owner").run(&networks(world, who, list));
}

#[track_caller]
fn assert_reason(session: &mut Session, words: &str) {
    let me = session.whoami();
    assert!(me["org_id"].is_null() && me["role"].is_null(), "{me}");
    assert!(
        me["reason"].as_str().is_some_and(|r| r.contains(words)),
        "{me}"
    );
}

const IN_NONE: &str = "in none of them";
const NOT_KNOWN: &str = "address is not known";

#[test]
fn the_list_decides_from_the_next_statement_on() {
    let world = world();
    let mut tcp = here(&world, "acme.member");
    let mut socket = world.session("acme.member");
    assert_eq!(world.seen(&mut tcp, "servers"), ACME);
    assert_eq!(world.seen(&mut socket, "servers"), ACME);

    hold(&world, "acme.member", HERE);
    assert_eq!(world.seen(&mut tcp, "servers"), ACME);
    assert_eq!(tcp.run("UPDATE sites SET visits = visits + 1"), 6);
    assert_eq!(world.seen(&mut socket, "servers"), NOTHING);
    assert_reason(&mut socket, NOT_KNOWN);

    for list in [ELSEWHERE, "{127.0.0.2/32}", "{::/0}"] {
        hold(&world, "acme.member", list);
        assert_eq!(world.seen(&mut tcp, "servers"), NOTHING, "{list}");
        assert_reason(&mut tcp, IN_NONE);
        let error = refused(tcp.attempt("UPDATE sites SET visits = 0"), "42501");
        assert!(error.detail().unwrap().contains(IN_NONE), "{error:?}");
        for own in ["10.0", "127.0", "2001"] {
            let said = format!(
                "{:?} {:?} {:?}",
                error.message(),
                error.detail(),
                error.hint()
            );
            assert!(!said.contains(own), "{said} tells of the list");
        }
        refused(
            tcp.attempt(&format!("SELECT tenancy.enter('{}')", world.acme.id)),
            "42501",
        );
        assert!(tcp.rows("SELECT * FROM tenancy.my_orgs()").is_empty());
        assert_eq!(tcp.value("SELECT tenancy.current_org()"), None);
        assert!(!tcp.is_true("SELECT tenancy.has_permission('server:read')"));
        assert!(tcp.rows("SELECT * FROM tenancy.memberships").is_empty());
    }
    // Somebody else's session from the same address is not concerned.
    assert_eq!(
        world.seen(&mut here(&world, "acme.viewer"), "servers"),
        ACME
    );

    for (list, by_tcp, by_socket) in [
        ("{10.0.0.0/8,127.0.0.0/8}", ACME, NOTHING),
        ("{0.0.0.0/0}", ACME, NOTHING),
        ("{::ffff:127.0.0.0/104}", ACME, NOTHING),
        ("NULL", ACME, ACME),
    ] {
        hold(&world, "acme.member", list);
        assert_eq!(world.seen(&mut tcp, "servers"), by_tcp, "{list}");
        assert_eq!(world.seen(&mut socket, "servers"), by_socket, "{list}");
    }
    assert_eq!(tcp.rows("SELECT * FROM tenancy.my_orgs()").len(), 1);
}

#[test]
fn one_may_go_only_where_one_may_come_from_here() {
    let world = world();
    hold(&world, "agency", ELSEWHERE);
    let mut agency = here(&world, "agency");
    assert_eq!(world.seen(&mut agency, "servers"), NOTHING);
    // The other organization does not mind.
    assert_eq!(
        agency.column("SELECT slug FROM tenancy.my_orgs()"),
        ["globex"]
    );
    agency.run(&format!("SET app.current_org = '{}'", world.globex.id));
    assert_eq!(world.seen(&mut agency, "servers"), (0, 3));
}

#[test]
fn of_two_clients_of_one_user_the_address_decides() {
    if !has_ipv6() {
        println!("not tried: this machine has no IPv6 loopback, so all clients have one address");
        return;
    }
    let world = world();
    let mut four = here(&world, "acme.admin");
    let mut six = at(&world, "::1", "acme.admin");
    for (list, by_four, by_six) in [
        (HERE, ACME, NOTHING),
        ("{::1/128}", NOTHING, ACME),
        ("{127.0.0.0/8,::1/128}", ACME, ACME),
        ("{::/0}", NOTHING, ACME),
    ] {
        hold(&world, "acme.admin", list);
        assert_eq!(world.seen(&mut four, "servers"), by_four, "{list}");
        assert_eq!(world.seen(&mut six, "servers"), by_six, "{list}");
    }
}

#[test]
fn a10_also_inside_an_open_transaction_of_any_isolation() {
    let world = world();
    for isolation in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        hold(&world, "acme.member", HERE);
        let mut session = here(&world, "acme.member");
        session.run("PREPARE q AS SELECT count(*) FROM servers WHERE id > 0");
        session.run(&format!("BEGIN ISOLATION LEVEL {isolation}"));
        session.run("DECLARE c CURSOR FOR SELECT id FROM servers");
        for _ in 0..7 {
            assert_eq!(session.count("EXECUTE q"), 3);
        }
        assert_eq!(session.run("FETCH 1 FROM c"), 1);
        hold(&world, "acme.member", ELSEWHERE);
        assert_eq!(session.count("EXECUTE q"), 0, "{isolation}");
        assert_eq!(world.seen(&mut session, "servers"), NOTHING, "{isolation}");
        assert_eq!(session.attempt_within("FETCH 5 FROM c").unwrap_or(0), 0);
        refused(
            session.attempt_within("UPDATE sites SET visits = 0"),
            "42501",
        );
        hold(&world, "acme.member", HERE);
        assert_eq!(session.count("EXECUTE q"), 3, "{isolation}");
        session.run("ROLLBACK");
    }
}

#[test]
fn a10_also_after_waiting_for_a_lock() {
    let world = world();
    let mut holder = world.break_glass();
    hold(&world, "acme.member", HERE);
    holder.run("BEGIN; SELECT * FROM sites WHERE id = 1 FOR UPDATE");
    let mut session = here(&world, "acme.member");
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
    hold(&world, "acme.member", ELSEWHERE);
    holder.run("COMMIT");
    assert_eq!(
        waiting.join().unwrap(),
        0,
        "a row was changed after the wait"
    );
    assert_eq!(
        holder.count("SELECT count(*) FROM sites WHERE visits = 4711"),
        0
    );
}

#[test]
fn an_application_names_its_users_address() {
    let world = world();
    hold(&world, "acme.member", ELSEWHERE);
    let login = world.db.role("app");
    let tcp = world
        .db
        .connect(&cluster().tcp_config("127.0.0.1", &login, &world.db.name));
    for mut app in [world.app(), tcp] {
        world.begin(&mut app, world.acme, "acme.member");
        // The application's own address is not its user's.
        assert_eq!(world.seen(&mut app, "servers"), NOTHING);
        assert_reason(&mut app, NOT_KNOWN);
        for (address, seen) in [
            ("10.1.2.3", ACME),
            ("11.1.2.3", NOTHING),
            ("::ffff:10.1.2.3", ACME),
            ("::ffff:11.1.2.3", NOTHING),
            ("2001:db8::7", ACME),
            ("2001:db9::7", NOTHING),
            ("127.0.0.1", NOTHING),
            ("10.1.2.3, 11.1.2.3", NOTHING),
            ("10.1.2.3/8", NOTHING),
            ("010.1.2.3", NOTHING),
            ("office", NOTHING),
            ("", NOTHING),
        ] {
            app.run(&format!("SET LOCAL app.client_addr = '{address}'"));
            assert_eq!(world.seen(&mut app, "servers"), seen, "{address:?}");
        }
        app.run("SET LOCAL app.client_addr = '10.1.2.3'");
        assert_eq!(app.run("UPDATE sites SET visits = visits + 1"), 6);
        app.run("SAVEPOINT s; SET LOCAL app.client_addr = 'office'");
        let error = refused(app.attempt("UPDATE sites SET visits = 0"), "42501");
        assert!(error.detail().unwrap().contains(NOT_KNOWN), "{error:?}");
        app.run("ROLLBACK TO s");
        assert_eq!(world.seen(&mut app, "servers"), ACME);
        app.run("COMMIT");
        // One that was set for the session, or before, is void like everything else of it.
        app.run("SET app.client_addr = '10.1.2.3'");
        world.begin(&mut app, world.acme, "acme.member");
        assert_eq!(world.seen(&mut app, "servers"), NOTHING);
        assert_reason(&mut app, NOT_KNOWN);
        app.run("ROLLBACK; RESET app.client_addr");
        // The application as a service is no member, and held to nothing.
        app.run(&format!(
            "BEGIN; SET LOCAL app.current_org = '{}'",
            world.acme.id
        ));
        assert_eq!(world.seen(&mut app, "servers"), ACME);
        app.run("ROLLBACK");
    }
    // With connections of its own it may say it once.
    let mut own = world.session_app();
    own.run(&format!(
        "SET app.current_org = '{}'; SET app.current_user_id = '{}'; SET app.client_addr = '10.0.0.9'",
        world.acme.id,
        world.user("acme.member")
    ));
    assert_eq!(world.seen(&mut own, "servers"), ACME);
    own.run("RESET app.client_addr");
    assert_eq!(world.seen(&mut own, "servers"), NOTHING);
}

#[test]
fn nobody_else_names_an_address() {
    let world = world();
    hold(&world, "acme.member", ELSEWHERE);
    for mut session in [here(&world, "acme.member"), world.session("acme.member")] {
        session.run("SET app.client_addr = '10.1.2.3'");
        assert_eq!(world.seen(&mut session, "servers"), NOTHING);
        session.run("BEGIN; SET LOCAL app.client_addr = '10.1.2.3'");
        assert_eq!(world.seen(&mut session, "servers"), NOTHING);
        session.run("ROLLBACK");
    }
    // Nor a login that brings a token, though a trusted one.
    let issuer = Issuer::new("k1", "EdDSA");
    world.superuser().run(&issuer.add());
    let token = issuer.token(json!({"sub": world.user("acme.member"), "org": "customer-7"}));
    let mut app = world.app();
    app.run("BEGIN; SET LOCAL app.client_addr = '10.1.2.3'");
    let error = refused(
        app.attempt(&format!("SELECT tenancy.authenticate('{token}')")),
        "42501",
    );
    assert!(error.detail().unwrap().contains(NOT_KNOWN), "{error:?}");
    app.run("ROLLBACK");
    let login = world.db.role("app");
    let mut app = world
        .db
        .connect(&cluster().tcp_config("127.0.0.1", &login, &world.db.name));
    hold(&world, "acme.member", HERE);
    app.run("BEGIN; SET LOCAL app.client_addr = '10.1.2.3'");
    app.run(&format!("SELECT tenancy.authenticate('{token}')"));
    assert_eq!(world.seen(&mut app, "servers"), ACME);
    app.run("ROLLBACK");
}

#[test]
fn a4_a_pooler_hands_on_no_address() {
    let world = World::new();
    hold(&world, "acme.member", ELSEWHERE);
    let login = world.db.role("app");
    let pooler = Pooler::start(
        &world.db.cluster,
        "transaction",
        &["default_pool_size = 1"],
        std::slice::from_ref(&login),
    );
    let mut one = pooler.login(&login, &world.db.name);
    let mut two = pooler.login(&login, &world.db.name);
    one.run("SET app.client_addr = '10.1.2.3'");
    world.begin(&mut one, world.acme, "acme.member");
    one.run("SET LOCAL app.client_addr = '10.1.2.3'");
    assert_eq!(world.seen(&mut one, "servers"), ACME);
    one.run("COMMIT");
    world.begin(&mut two, world.acme, "acme.member");
    assert_eq!(two.text("SHOW app.client_addr"), "10.1.2.3");
    assert_eq!(world.seen(&mut two, "servers"), NOTHING);
    two.run("COMMIT");
}

#[test]
fn a11_a_sealed_context_has_its_address_too() {
    let world = world();
    hold(&world, "acme.member", ELSEWHERE);
    let mut app = world.app();
    for change in [
        "SET LOCAL app.client_addr = '10.9.9.9'",
        "SET LOCAL app.client_addr = ''",
        "RESET app.client_addr",
        "SELECT set_config('app.client_addr', NULL, true)",
    ] {
        world.begin(&mut app, world.acme, "acme.member");
        app.run("SET LOCAL app.client_addr = '10.1.2.3'; SELECT tenancy.seal_context()");
        assert_eq!(world.seen(&mut app, "servers"), ACME);
        app.attempt(change).ok();
        let seen = app.try_rows("SELECT id FROM servers");
        if change.contains("9.9") {
            let error = refused(seen, "42501");
            assert!(error.detail().unwrap().contains("address"), "{error:?}");
        } else {
            assert!(seen.map_or(0, |rows| rows.len()) == 0, "{change}");
        }
        app.run("ROLLBACK");
    }
    // Shut out by the organization meanwhile: nothing, and no way back by another address.
    world.begin(&mut app, world.acme, "acme.member");
    app.run("SET LOCAL app.client_addr = '10.1.2.3'; SELECT tenancy.seal_context()");
    hold(&world, "acme.member", "{192.0.2.0/24}");
    assert_eq!(app.attempt_within("SELECT id FROM servers").unwrap_or(0), 0);
    app.run("SAVEPOINT s; SET LOCAL app.client_addr = '192.0.2.1'");
    refused(app.attempt("SELECT id FROM servers"), "42501");
    app.run("ROLLBACK");
}

#[test]
fn c13_parallel_plans_see_the_same() {
    let world = world();
    world.break_glass().run(&format!(
        "CREATE TABLE points (id bigint PRIMARY KEY, org_id uuid NOT NULL, v int NOT NULL);
         INSERT INTO points SELECT i, CASE WHEN i % 3 = 0 THEN '{}' ELSE '{}' END::uuid, i FROM generate_series(1, 30000) i;
         SELECT tenancy.protect('points'); GRANT ALL ON points TO PUBLIC; ANALYZE points",
        world.globex.id, world.acme.id
    ));
    hold(&world, "acme.member", HERE);
    let parallel = "SET LOCAL max_parallel_workers_per_gather = 2; SET LOCAL parallel_setup_cost = 0;
        SET LOCAL parallel_tuple_cost = 0; SET LOCAL min_parallel_table_scan_size = 0;
        SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_indexonlyscan = off";
    let mut bound = here(&world, "acme.member");
    let mut app = world.app();
    for forced in ["off", "on"] {
        for (session, context) in [
            (
                &mut app,
                format!(
                    "{}; SET LOCAL app.client_addr = '127.0.0.1'",
                    world.claim(world.acme, "acme.member")
                ),
            ),
            (&mut bound, "SELECT 1".into()),
        ] {
            session.run("BEGIN");
            session.run(&context);
            session.run(parallel);
            session.run(&format!("SET LOCAL force_parallel_mode = {forced}"));
            for sql in [
                "SELECT count(*), sum(v) FROM points",
                "SELECT count(*), sum(v) FROM points WHERE org_id = tenancy.current_org()",
                "SELECT count(*), sum(v) FROM points WHERE tenancy.has_permission('data:read')",
            ] {
                assert_eq!(
                    session.rows(sql),
                    [[Some("20000".to_string()), Some("300000000".to_string())]],
                    "{sql}"
                );
            }
            session.run("COMMIT");
        }
    }
    // An address that is a setting goes along; that of a connection stays, and so does the work.
    for (session, context, workers) in [
        (
            &mut app,
            format!(
                "{}; SET LOCAL app.client_addr = '127.0.0.1'",
                world.claim(world.acme, "acme.member")
            ),
            true,
        ),
        (&mut bound, "SELECT 1".into(), false),
    ] {
        session.run("BEGIN");
        session.run(&context);
        session.run(parallel);
        let plan = session.explain(
            "ANALYZE, COSTS OFF, TIMING OFF",
            "SELECT count(*), sum(v) FROM points",
        );
        let launched = plan
            .lines()
            .find_map(|line| line.trim().strip_prefix("Workers Launched: "));
        assert_eq!(launched.is_some_and(|n| n != "0"), workers, "{plan}");
        session.run("COMMIT");
    }
}

#[test]
fn governing_from_elsewhere_is_not_governing() {
    let world = world();
    // Nobody but the owner governs by his role, who is held to no network: somebody with a role of the DBA's making.
    world.superuser().run(&lead(&world));
    let mut lead = here(&world, "acme.admin");
    let add = format!(
        "SELECT tenancy.add_member('{}', '{}', 'viewer')",
        world.acme.id,
        world.user("stranger")
    );
    let ask = format!(
        "SELECT tenancy.has_permission('{}', '{}', 'server:read')",
        world.user("acme.admin"),
        world.acme.id
    );
    assert!(lead.is_true(&ask));
    hold(&world, "acme.admin", ELSEWHERE);
    refused(lead.attempt(&add), "42501");
    refused(lead.attempt(&ask), "42501");
    hold(&world, "acme.admin", HERE);
    assert!(lead.is_true(&ask));
    // What another's membership allows is not asked of one's own address.
    hold(&world, "acme.viewer", ELSEWHERE);
    assert!(world.session("acme.owner").is_true(&format!(
        "SELECT tenancy.has_permission('{}', '{}', 'server:read')",
        world.user("acme.viewer"),
        world.acme.id
    )));
    lead.run(&add);
}

/// Makes acme.admin one who manages the team without being its owner.
fn lead(world: &World) -> String {
    format!(
        "SET row_security = off;
         INSERT INTO tenancy.custom_roles (org_id, name) VALUES ('{1}', 'lead');
         INSERT INTO tenancy.custom_role_permissions (org_id, role, action, level)
             SELECT '{1}'::uuid, 'lead', action, level FROM tenancy.role_permissions WHERE role = 'admin' AND action NOT LIKE 'team:%'
             UNION ALL SELECT '{1}', 'lead', 'team:' || verb, 'allow' FROM unnest(ARRAY['read', 'invite', 'role', 'remove']) verb;
         UPDATE tenancy.memberships SET role = 'lead' WHERE user_id = '{0}' AND org_id = '{1}';
         RESET row_security",
        world.user("acme.admin"),
        world.acme.id
    )
}

#[test]
fn nobody_gives_wider_networks_than_his_own() {
    let world = world();
    world.superuser().run(&lead(&world));
    hold(&world, "acme.admin", "{127.0.0.0/8}");
    let mut lead = here(&world, "acme.admin");
    for who in ["acme.admin", "acme.viewer"] {
        for wider in [
            "NULL",
            "{0.0.0.0/0}",
            "{127.0.0.0/8,10.0.0.0/8}",
            "{::1/128}",
        ] {
            let error = refused(lead.attempt(&networks(&world, who, wider)), "42501");
            assert!(!format!("{error:?}").contains("127."), "{error:?}");
        }
        lead.run(&networks(&world, who, "{127.0.0.0/16}"));
    }
}

#[test]
fn what_is_no_list_or_not_ones_to_set_is_refused() {
    let world = world();
    let mut owner = world.session("acme.owner");
    for list in ["{}", "{NULL}", "{10.0.0.0/8,NULL}"] {
        refused(
            owner.attempt(&networks(&world, "acme.member", list)),
            "22023",
        );
    }
    for list in ["{10.0.0.1/8}", "{office}", "10.0.0.0/8"] {
        fails(
            owner.attempt(&networks(&world, "acme.member", list)),
            "22P02",
        );
    }
    refused(owner.attempt(&networks(&world, "stranger", HERE)), "P0002");
    for who in ["acme.admin", "acme.member", "acme.viewer"] {
        refused(
            world.session(who).attempt(&networks(&world, who, HERE)),
            "42501",
        );
    }
    // Another organization's, and none: one and the same.
    let unknown = "00000000-0000-4000-8000-000000000000";
    let mut stranger = world.session("globex.owner");
    let other = refused(
        stranger.attempt(&networks(&world, "acme.member", HERE)),
        "42501",
    );
    let none = refused(
        stranger.attempt(
            &networks(&world, "acme.member", HERE).replace(&world.acme.id.to_string(), unknown),
        ),
        "42501",
    );
    assert_same_error(&other, &none, &[(unknown, &world.acme.id.to_string())]);
    assert_eq!(
        world
            .break_glass()
            .count("SELECT count(*) FROM tenancy.memberships WHERE allowed_networks IS NOT NULL"),
        0
    );
}

#[test]
fn the_owner_is_held_to_no_network() {
    let world = world();
    let mut owner = world.session("acme.owner");
    refused(
        owner.attempt(&networks(&world, "acme.owner", HERE)),
        "23514",
    );
    refused(
        world
            .superuser()
            .attempt(&networks(&world, "acme.owner", HERE)),
        "23514",
    );
    let mut glass = world.break_glass();
    for list in ["'{10.0.0.0/8}'", "'{}'"] {
        fails(
            glass.attempt(&format!(
                "UPDATE tenancy.memberships SET allowed_networks = {list} WHERE role = 'owner'"
            )),
            "23514",
        );
    }
    fails(
        glass.attempt(
            "UPDATE tenancy.memberships SET allowed_networks = '{}' WHERE role = 'member'",
        ),
        "23514",
    );
    // Who becomes owner is held to none any more, and it is written down.
    hold(&world, "acme.member", ELSEWHERE);
    owner.run(&format!(
        "SELECT tenancy.transfer_ownership('{}', '{}')",
        world.acme.id,
        world.user("acme.member")
    ));
    let mut new_owner = world.session("acme.member");
    assert_eq!(world.seen(&mut new_owner, "servers"), ACME);
    assert_eq!(
        new_owner.column(
            "SELECT allowed_networks IS NULL FROM tenancy.memberships WHERE role = 'owner'"
        ),
        ["t"]
    );
    assert_eq!(
        new_owner.text(
            "SELECT old ->> 'networks_of_new_owner' FROM tenancy.audit_log WHERE operation = 'transfer_ownership'"
        ),
        ELSEWHERE
    );
}

#[test]
fn every_change_is_in_the_audit_and_a_new_membership_has_none() {
    let world = world();
    hold(&world, "acme.member", HERE);
    hold(&world, "acme.member", ELSEWHERE);
    let mut owner = world.session("acme.owner");
    refused(
        owner.attempt(&networks(&world, "acme.member", "{}")),
        "22023",
    );
    let lines = owner.json(
        "SELECT key ->> 'user_id' AS who, old -> 'networks' AS old, new -> 'networks' AS new
         FROM tenancy.audit_log WHERE operation = 'set_member_networks' ORDER BY at",
    );
    let who = world.user("acme.member");
    assert_eq!(
        lines,
        [
            json!({"who": who, "old": null, "new": HERE}),
            json!({"who": who, "old": HERE, "new": ELSEWHERE})
        ]
    );
    world.remove("acme.member");
    owner.run(&format!(
        "SELECT tenancy.add_member('{}', '{who}', 'member')",
        world.acme.id
    ));
    assert_eq!(
        world.seen(&mut here(&world, "acme.member"), "servers"),
        ACME
    );
}

/// Many clients of one member read and write all the time; once the change has returned, none of them does.
#[test]
fn sixteen_busy_clients_are_out_when_the_change_has_returned() {
    let world = world();
    hold(&world, "acme.member", HERE);
    let round = Arc::new(AtomicU64::new(0));
    let open = Arc::new(AtomicBool::new(true));
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..16)
        .map(|n| {
            let mut session = here(&world, "acme.member");
            let (round, open, done) = (round.clone(), open.clone(), done.clone());
            std::thread::spawn(move || {
                let (mut seen, mut shut) = (0_u64, 0_u64);
                while !done.load(SeqCst) {
                    // What was true before the statement and after it was true during it.
                    let before = (round.load(SeqCst), open.load(SeqCst));
                    let rows = if n % 2 == 0 {
                        session.attempt("SELECT id FROM servers").unwrap()
                    } else {
                        session
                            .attempt("UPDATE sites SET visits = visits WHERE id = 1")
                            .unwrap_or(0)
                    };
                    if before.0 % 2 == 1 || before != (round.load(SeqCst), open.load(SeqCst)) {
                        continue;
                    }
                    assert_eq!(rows > 0, before.1, "client {n} in round {}", before.0);
                    if before.1 { seen += 1 } else { shut += 1 }
                }
                (seen, shut)
            })
        })
        .collect();
    let mut owner = world.session("acme.owner");
    for n in 1..=12 {
        std::thread::sleep(Duration::from_millis(150));
        // Neither open nor shut while it changes: the round is odd then.
        round.fetch_add(1, SeqCst);
        let shut = n % 2 == 1;
        owner.run(&networks(
            &world,
            "acme.member",
            if shut { ELSEWHERE } else { HERE },
        ));
        open.store(!shut, SeqCst);
        round.fetch_add(1, SeqCst);
    }
    std::thread::sleep(Duration::from_millis(150));
    done.store(true, SeqCst);
    for client in clients {
        let (seen, shut) = client.join().expect("no assertion failed");
        assert!(seen > 0 && shut > 0, "{seen} {shut}");
    }
}
