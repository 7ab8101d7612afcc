//! A logical subscriber: what is revoked on the publisher is refused there at the next statement once it is applied.
//! Attack A10, with real replication between two servers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pg_tenancy_tests::token::Issuer;
use pg_tenancy_tests::{Cluster, Db, Session, World, refused};
use serde_json::json;

const ACME: (i64, i64) = (3, 0);
const NOTHING: (i64, i64) = (0, 0);

/// Waits until a query of the subscriber's superuser answers so.
#[track_caller]
fn until(dba: &mut Session, sql: &str, answer: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while dba.value(sql).as_deref() != Some(answer) {
        assert!(Instant::now() < deadline, "never applied: {sql}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The publisher's world, and the same on a subscriber.
fn replicated() -> (World, World) {
    let publisher = World::new();
    let mut dba = publisher.superuser();
    let logins = dba.column(&format!(
        "SELECT rolname FROM pg_roles WHERE rolname LIKE '{}\\_%'",
        publisher.db.prefix
    ));
    dba.run(
        "CREATE PUBLICATION everything FOR TABLE tenancy.users, tenancy.orgs, tenancy.memberships,
             tenancy.login_bindings, tenancy.signing_keys, servers",
    );

    let db = Db::empty(Arc::new(Cluster::start()));
    let mut dba = db.superuser();
    for login in logins {
        dba.run(&format!("CREATE ROLE {login} LOGIN"));
    }
    dba.run(
        "CREATE EXTENSION pg_tenancy;
         CREATE TABLE servers (id int PRIMARY KEY, org_id uuid, name text NOT NULL, cpus int NOT NULL DEFAULT 1,
             region text, firewall_rules text NOT NULL DEFAULT 'deny all');
         GRANT ALL ON servers TO PUBLIC;
         SELECT tenancy.protect('servers')",
    );
    dba.run(&format!(
        "CREATE SUBSCRIPTION everything CONNECTION 'host={} port=5432 user=postgres dbname={}' PUBLICATION everything",
        publisher.db.cluster.dir().display(),
        publisher.db.name
    ));
    until(
        &mut dba,
        "SELECT count(*) FILTER (WHERE srsubstate = 'r') || '/' || count(*) FROM pg_subscription_rel",
        "6/6",
    );
    let subscriber = publisher.moved_to(db);
    (publisher, subscriber)
}

#[test]
fn a10_what_the_publisher_revokes_is_refused_at_the_next_statement() {
    let (publisher, subscriber) = replicated();
    let mut dba = publisher.superuser();
    let mut applied = subscriber.break_glass();
    let issuer = Issuer::new("k1", "EdDSA");
    let gate = subscriber.db.role("nobody");
    dba.run(&issuer.add());
    dba.run(&format!("SELECT tenancy.require_token('{gate}')"));
    until(
        &mut applied,
        "SELECT count(*) FROM tenancy.signing_keys",
        "1",
    );
    until(
        &mut applied,
        "SELECT count(*) FROM tenancy.login_bindings WHERE kind = 'token'",
        "1",
    );

    // Each in a transaction, one of its own isolation, through a kept plan; and one outside of any.
    let mut sessions = vec![];
    for isolation in ["", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let mut session = subscriber.session("acme.member");
        session.run("SET plan_cache_mode = force_generic_plan; PREPARE q AS SELECT count(*) FROM servers WHERE id > 0");
        if !isolation.is_empty() {
            session.run(&format!("BEGIN ISOLATION LEVEL {isolation}"));
        }
        assert_eq!(session.count("EXECUTE q"), 3);
        assert_eq!(subscriber.seen(&mut session, "servers"), ACME);
        sessions.push(session);
    }
    let mut open = subscriber.session("acme.member");
    open.run("BEGIN; DECLARE c CURSOR FOR SELECT * FROM servers; FETCH 1 FROM c");
    let member = publisher.user("acme.member");
    let acme = publisher.acme.id;
    dba.run(&format!(
        "SELECT tenancy.remove_member('{acme}', '{member}')"
    ));
    until(
        &mut applied,
        &format!("SELECT count(*) FROM tenancy.memberships WHERE user_id = '{member}'"),
        "0",
    );
    for session in &mut sessions {
        assert_eq!(session.count("EXECUTE q"), 0);
        assert_eq!(subscriber.seen(session, "servers"), NOTHING);
        refused(session.attempt("UPDATE servers SET cpus = 1"), "42501");
    }
    refused(open.attempt("FETCH 1 FROM c"), "42501");

    // A role, a binding and a signing key as well.
    let mut admin = subscriber.session("acme.admin");
    let mut viewer = subscriber.session("acme.viewer");
    let mut token = subscriber.nobody();
    admin.run("BEGIN; UPDATE servers SET cpus = 5 WHERE id = 1");
    assert_eq!(subscriber.seen(&mut viewer, "servers"), ACME);
    let claims = json!({"sub": publisher.user("acme.viewer"), "org": acme});
    token.run(&format!(
        "BEGIN; SELECT tenancy.authenticate('{}')",
        issuer.token(claims)
    ));
    assert_eq!(subscriber.seen(&mut token, "servers"), ACME);
    let user = publisher.user("acme.admin");
    let login = publisher.db.role("acme.viewer");
    dba.run(&format!(
        "SELECT tenancy.set_member_role('{acme}', '{user}', 'viewer'); SELECT tenancy.unbind_login('{login}');
         SELECT tenancy.retire_signing_key('k1')"
    ));
    until(
        &mut applied,
        "SELECT count(*) FROM tenancy.signing_keys WHERE retired_at IS NOT NULL",
        "1",
    );
    refused(
        admin.attempt("UPDATE servers SET cpus = 5 WHERE id = 1"),
        "42501",
    );
    assert_eq!(subscriber.seen(&mut viewer, "servers"), NOTHING);
    assert_eq!(subscriber.seen(&mut token, "servers"), NOTHING);
    // The rows themselves are applied, and nothing is refused to the one who applies them.
    dba.run("SET row_security = off; UPDATE servers SET cpus = 77 WHERE id = 101");
    until(
        &mut applied,
        "SELECT cpus FROM servers WHERE id = 101",
        "77",
    );
    // What is written here is logged here, though no create_org() made the organization's table.
    let mut owner = subscriber.session("acme.owner");
    owner.run("UPDATE servers SET cpus = 8 WHERE id = 1");
    assert_eq!(
        owner.column(&format!(
            "SELECT new ->> 'cpus' FROM tenancy.audit_log WHERE object = 'public.servers' AND actor_id = '{}'",
            publisher.user("acme.owner")
        )),
        ["8"]
    );
}
