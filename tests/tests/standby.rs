//! A physical standby that applies what the primary changes: contexts hold there as on the primary, and what is revoked is
//! refused at the next statement. Spec 4; attack A10.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pg_tenancy_tests::token::Issuer;
use pg_tenancy_tests::{Cluster, Db, Session, World, fails, refused};
use serde_json::json;

const PORT: u16 = 5433;

struct Standby {
    world: World,
    data: String,
}

fn quiet(command: &mut Command) -> &mut Command {
    // The server would inherit them.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
}

impl Standby {
    /// Copies the primary's files and follows it, in the primary's own directory, which goes away with the test.
    fn of(world: World) -> Standby {
        let cluster = &world.db.cluster;
        let data = cluster.file("standby").display().to_string();
        let dir = cluster.dir().display().to_string();
        let run = |command: &mut Command| {
            let done = quiet(command).status().expect("it starts");
            assert!(done.success(), "{command:?}");
        };
        run(cluster
            .program("pg_basebackup")
            .args(["-h", &dir, "-p", "5432", "-U", "postgres", "-D", &data])
            .args(["-R", "-X", "stream", "-c", "fast", "--no-sync"]));
        let log = format!("{data}.log");
        run(cluster
            .program("pg_ctl")
            .args(["-D", &data, "-l", &log, "-w"])
            .args(["-o", &format!("-p {PORT}"), "start"]));
        Standby { world, data }
    }

    fn login(&self, role: &str) -> Session {
        let mut config = postgres::Config::new();
        config
            .host_path(self.world.db.cluster.dir())
            .port(PORT)
            .user(role)
            .dbname(&self.world.db.name);
        self.world.db.connect(&config)
    }

    /// Waits until it has applied all that the primary wrote so far.
    fn catch_up(&self) {
        let written = self.world.superuser().text("SELECT pg_current_wal_lsn()");
        let mut session = self.login("postgres");
        let since = Instant::now();
        while !session.is_true(&format!("SELECT pg_last_wal_replay_lsn() >= '{written}'")) {
            assert!(since.elapsed() < Duration::from_secs(30), "it is behind");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let mut stop = self.world.db.cluster.program("pg_ctl");
        stop.args(["-D", &self.data, "-m", "immediate", "-w", "stop"]);
        quiet(&mut stop).status().ok();
    }
}

fn primary() -> World {
    let db = Db::empty(Arc::new(Cluster::start()));
    db.superuser().run("CREATE EXTENSION pg_tenancy");
    let world = World::people_in(db);
    world.break_glass().run(&format!(
        "CREATE TABLE servers (id int PRIMARY KEY, org_id uuid, name text NOT NULL);
         INSERT INTO servers SELECT i, '{}', 'acme-' || i FROM generate_series(1, 3) i;
         INSERT INTO servers SELECT i, '{}', 'globex-' || i FROM generate_series(4, 6) i;
         GRANT ALL ON servers TO PUBLIC; SELECT tenancy.protect('servers')",
        world.acme.id, world.globex.id
    ));
    world
}

#[test]
fn a10_what_the_primary_revokes_is_refused_on_the_standby_at_the_next_statement() {
    let world = primary();
    let issuer = Issuer::new("k1", "ES256");
    let gate = world.db.role("gate");
    world.superuser().run(&format!(
        "CREATE ROLE {gate} LOGIN; SELECT tenancy.require_token('{gate}'); {}",
        issuer.add()
    ));
    let user = world.user("acme.member");
    let token = issuer.token(json!({"sub": user, "org": "customer-7"}));
    let standby = Standby::of(world);
    let world = &standby.world;
    standby.catch_up();

    let mut bound = standby.login(&world.db.role("acme.member"));
    bound.run(&format!("SET app.current_org = '{}'", world.acme.id));
    let mut sealed = standby.login(&world.db.role("app"));
    let mut shared = standby.login(&gate);
    bound.run(
        "BEGIN ISOLATION LEVEL REPEATABLE READ; PREPARE q AS SELECT count(*) FROM servers;
         DECLARE c CURSOR FOR SELECT * FROM servers",
    );
    sealed.run(&format!(
        "BEGIN; SELECT tenancy.enter('{}', '{user}', seal => true)",
        world.acme.id
    ));
    shared.run(&format!("BEGIN; SELECT tenancy.authenticate('{token}')"));
    for session in [&mut bound, &mut sealed, &mut shared] {
        assert_eq!(world.seen(session, "servers"), (3, 0));
    }
    assert_eq!(
        (bound.count("EXECUTE q"), bound.run("FETCH 1 FROM c")),
        (3, 1)
    );
    // The seal is one there, too.
    sealed.run("SAVEPOINT s");
    sealed.run("SET LOCAL app.current_org = 'customer-8'");
    fails(sealed.attempt("SELECT * FROM servers"), "42501");
    sealed.run("ROLLBACK TO s");

    world.superuser().run(&format!(
        "SELECT tenancy.remove_member('{}', '{user}')",
        world.acme.id
    ));
    standby.catch_up();
    for session in [&mut bound, &mut sealed, &mut shared] {
        assert_eq!(world.seen(session, "servers"), (0, 0));
    }
    assert_eq!(bound.count("EXECUTE q"), 0);
    refused(bound.attempt("FETCH 1 FROM c"), "42501");
}
