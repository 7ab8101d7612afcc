//! The sealer that runs by itself, and kill -9 of every kind of process while organizations write, are sealed and hand
//! heads out: no committed line is lost, none is there twice, and every head that was ever handed out still holds.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use pg_tenancy_tests::{Cluster, Random, Session, few_or_many, quote};
use postgres::NoTls;

const DATABASE: &str = "crash";

/// A cluster of its own in which the sealer runs.
struct Town {
    cluster: Cluster,
    orgs: Vec<String>,
}

impl Town {
    fn new(interval: &str) -> Town {
        let cluster = Cluster::start();
        let town = Town {
            cluster,
            orgs: vec![],
        };
        let mut admin = Session::new(town.cluster.superuser("postgres"));
        for setting in [
            "shared_preload_libraries = 'pg_tenancy'".to_string(),
            format!("tenancy.seal_interval = '{interval}'"),
        ] {
            // The setting is known after the restart only, and then from the file.
            let line = format!("{setting}\n");
            let path = admin.text("SHOW config_file");
            let mut conf = std::fs::read_to_string(&path).expect("the configuration");
            conf.push_str(&line);
            std::fs::write(&path, conf).expect("the configuration");
        }
        drop(admin);
        town.pg_ctl("restart");
        town.with_orgs()
    }

    fn with_orgs(mut self) -> Town {
        Session::new(self.cluster.superuser("postgres"))
            .run(&format!("CREATE DATABASE {DATABASE}"));
        let mut dba = self.dba();
        dba.run(
            "CREATE EXTENSION pg_tenancy;
             CREATE TABLE items (id bigint PRIMARY KEY, org_id uuid, v int DEFAULT 0);
             SELECT tenancy.protect('items');
             CREATE ROLE app LOGIN; GRANT ALL ON items TO app; SELECT tenancy.trust_application('app', scope => 'session')",
        );
        let owner = dba.text("SELECT tenancy.create_user('o@example.test', 'O')");
        for i in 0..3 {
            // The last one shares its tables.
            if i == 2 {
                dba.run("SET tenancy.dedicated_audit_limit = 2");
            }
            self.orgs.push(dba.text(&format!(
                "SELECT tenancy.create_org('Org {i}', 'org-{i}', owner => '{owner}')"
            )));
        }
        dba.run(&format!(
            "ALTER ROLE app SET app.current_user_id = '{owner}'"
        ));
        self
    }

    fn pg_ctl(&self, what: &str) -> bool {
        self.cluster
            .program("pg_ctl")
            .arg("-D")
            .arg(self.cluster.dir().join("data"))
            .arg("-l")
            .arg(self.cluster.dir().join("log"))
            .args(["-w", "-t", "60", "-m", "fast", what])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    }

    fn try_login(&self, role: &str) -> Option<Session> {
        let config = self.cluster.config(role, DATABASE);
        config.connect(NoTls).ok().map(Session::new)
    }

    /// A connection, as soon as the server takes one.
    fn login(&self, role: &str) -> Session {
        let start = Instant::now();
        loop {
            match self.try_login(role) {
                Some(session) => return session,
                None if start.elapsed() < Duration::from_secs(60) => {
                    sleep(Duration::from_millis(20));
                }
                None => panic!("the server does not come back: {}", self.cluster.log()),
            }
        }
    }

    fn dba(&self) -> Session {
        self.login("postgres")
    }

    fn postmaster(&self) -> String {
        let file = self.cluster.dir().join("data/postmaster.pid");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().next().unwrap_or_default().to_string()
    }
}

fn kill(pid: &str) {
    assert!(pid.parse::<u32>().is_ok_and(|p| p > 1), "{pid:?}");
    Command::new("kill").args(["-9", pid]).status().ok();
}

fn within(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > limit {
            return false;
        }
        sleep(Duration::from_millis(20));
    }
    true
}

#[test]
fn the_sealer_finds_the_databases_and_seals_by_itself() {
    let town = Town::new("100ms");
    let mut dba = town.dba();
    let all_sealed = |dba: &mut Session| {
        dba.is_true("SELECT sum(unsealed_lines) = 0 AND min(sealed_lines) > 0 FROM tenancy.audit_seal_status")
    };
    assert!(
        within(Duration::from_secs(90), || all_sealed(&mut dba)),
        "{:?}\n{}",
        dba.rows("SELECT * FROM tenancy.audit_seal_status"),
        town.cluster.log()
    );
    let mut app = town.login("app");
    for org in &town.orgs {
        app.run(&format!("SET app.current_org = '{org}'"));
        app.run(&format!("INSERT INTO items SELECT i, '{org}' FROM generate_series(1, 500) i ON CONFLICT DO NOTHING"));
    }
    assert!(
        within(Duration::from_secs(90), || all_sealed(&mut dba)),
        "{:?}\n{}",
        dba.rows("SELECT * FROM tenancy.audit_seal_status"),
        town.cluster.log()
    );
    // A log that cannot be sealed keeps no other from its turn, and the server's log says so.
    dba.run(
        "SET row_security = off;
         ALTER TABLE tenancy_audit.heads DISABLE TRIGGER USER;
         CREATE TABLE kept AS SELECT * FROM tenancy_audit.heads",
    );
    let broken = town.orgs.iter().min().unwrap().clone();
    dba.run(&format!(
        "UPDATE tenancy_audit.heads SET peaks = sha256('x') WHERE org_id = '{broken}'"
    ));
    dba.run("RESET row_security");
    for (i, org) in town.orgs.iter().enumerate() {
        app.run(&format!("SET app.current_org = '{org}'"));
        app.run(&format!("INSERT INTO items VALUES ({}, '{org}')", 1000 + i));
    }
    assert!(
        within(Duration::from_secs(90), || {
            dba.is_true(&format!(
                "SELECT bool_and(unsealed_lines = 0) FROM tenancy.audit_seal_status WHERE org_id <> '{broken}'"
            ))
        }),
        "{}",
        town.cluster.log()
    );
    assert!(within(Duration::from_secs(60), || {
        town.cluster
            .log()
            .contains("the newest head of an audit log was altered")
    }));
    // A database is free to be dropped: the sealer comes and goes.
    let mut admin = Session::new(town.cluster.superuser("postgres"));
    admin.run("CREATE DATABASE other");
    assert!(within(Duration::from_secs(60), || {
        admin.attempt("DROP DATABASE other").is_ok()
    }));
    // Switched off, it seals no more: as soon as it has heard so, and a pass that was under way has ended.
    admin.run("ALTER SYSTEM SET tenancy.seal_interval = 0");
    admin.run("SELECT pg_reload_conf()");
    let fine = town.orgs.iter().max().unwrap();
    app.run(&format!("SET app.current_org = '{fine}'"));
    let mut id = 2000;
    assert!(within(Duration::from_secs(90), || {
        id += 1;
        app.run(&format!("INSERT INTO items VALUES ({id}, '{fine}')"));
        sleep(Duration::from_secs(2));
        dba.count(&format!(
            "SELECT unsealed_lines FROM tenancy.list_seal_status('{fine}')"
        )) > 0
    }));
    // Ten and more of its intervals later it is still there.
    sleep(Duration::from_secs(2));
    let unsealed = format!("SELECT unsealed_lines FROM tenancy.list_seal_status('{fine}')");
    assert!(dba.count(&unsealed) > 0);
}

/// One writer: rows in transactions of some, whose ids are remembered once the server has said that they are committed.
fn writes(
    town: &Town,
    done: &AtomicBool,
    next: &AtomicUsize,
    committed: &Mutex<Vec<usize>>,
    seed: u64,
) {
    let mut random = Random::new(seed);
    while !done.load(Ordering::Relaxed) {
        let mut app = town.login("app");
        let mut attempt = || -> Result<(), pg_tenancy_tests::Error> {
            for _ in 0..50 {
                let org = &town.orgs[random.next(town.orgs.len())];
                let ids: Vec<usize> = (0..1 + random.next(4))
                    .map(|_| next.fetch_add(1, Ordering::Relaxed))
                    .collect();
                app.attempt(&format!("SET app.current_org = '{org}'"))?;
                app.attempt("BEGIN")?;
                for id in &ids {
                    app.attempt(&format!(
                        "INSERT INTO items (id, org_id) VALUES ({id}, '{org}')"
                    ))?;
                    app.attempt("SAVEPOINT s")?;
                    app.attempt(&format!("UPDATE items SET v = 1 WHERE id = {id}"))?;
                    app.attempt(if id % 2 == 0 {
                        "RELEASE s"
                    } else {
                        "ROLLBACK TO s"
                    })?;
                }
                if random.percent(10) {
                    app.attempt("ROLLBACK")?;
                    continue;
                }
                app.attempt("COMMIT")?;
                committed.lock().unwrap().extend(ids);
            }
            Ok(())
        };
        // Whoever was killed comes again.
        attempt().ok();
    }
}

fn hands_out(town: &Town, done: &AtomicBool, heads: &Mutex<Vec<(usize, String)>>, seal: bool) {
    while !done.load(Ordering::Relaxed) {
        let mut dba = town.dba();
        let mut attempt = || -> Result<(), pg_tenancy_tests::Error> {
            for _ in 0..50 {
                if seal {
                    dba.try_rows("SELECT * FROM tenancy.seal_audit()")?;
                }
                for (i, org) in town.orgs.iter().enumerate() {
                    let rows = dba.try_rows(&format!("SELECT tenancy.audit_head('{org}')"))?;
                    let head = rows.into_iter().flatten().flatten().next();
                    heads.lock().unwrap().extend(head.map(|h| (i, h)));
                }
                sleep(Duration::from_millis(10));
            }
            Ok(())
        };
        attempt().ok();
    }
}

#[test]
fn kill_9_of_anything_leaves_no_hole_and_no_double() {
    let town = Arc::new(Town::new("50ms"));
    let done = Arc::new(AtomicBool::new(false));
    let next = Arc::new(AtomicUsize::new(1));
    let committed: Arc<Mutex<Vec<usize>>> = Arc::default();
    let heads: Arc<Mutex<Vec<(usize, String)>>> = Arc::default();
    let mut threads = vec![];
    for seed in 0..4 {
        let (town, done) = (town.clone(), done.clone());
        let (next, committed) = (next.clone(), committed.clone());
        threads.push(thread::spawn(move || {
            writes(&town, &done, &next, &committed, seed)
        }));
    }
    for seal in [true, false] {
        let (town, done, heads) = (town.clone(), done.clone(), heads.clone());
        threads.push(thread::spawn(move || hands_out(&town, &done, &heads, seal)));
    }
    let rounds = few_or_many("kills of each kind", 2, 20);
    let kinds = [
        // A writer, who sealing asks for by hand, the sealer's two processes, one of PostgreSQL's own.
        "query LIKE '%items%' AND backend_type = 'client backend'",
        "query LIKE '%seal_audit%' AND backend_type = 'client backend'",
        "backend_type = 'pg_tenancy sealer of a database'",
        "backend_type = 'pg_tenancy sealer'",
        "backend_type = 'checkpointer'",
    ];
    let mut killed = vec![0; kinds.len() + 1];
    for round in 0..rounds * (kinds.len() + 1) {
        sleep(Duration::from_millis(150));
        let kind = round % (kinds.len() + 1);
        if kind == kinds.len() {
            // With its children, as a machine that goes down: one that waits for a lock of one that was killed just before waits
            // for ever, and keeps the memory that a new server needs.
            let children = town.dba().try_rows("SELECT pid FROM pg_stat_activity");
            kill(&town.postmaster());
            for pid in children.into_iter().flatten().flatten().flatten() {
                kill(&pid);
            }
            assert!(
                within(Duration::from_secs(60), || town.pg_ctl("start")),
                "{}",
                town.cluster.log()
            );
            killed[kind] += 1;
            continue;
        }
        let sql = format!(
            "SELECT pid FROM pg_stat_activity WHERE {} AND pid <> pg_backend_pid() LIMIT 1",
            kinds[kind]
        );
        // A sealer of a database lives for some milliseconds: it is looked for until one is there.
        let mut dba = town.dba();
        let found = within(Duration::from_secs(15), || match dba.try_rows(&sql) {
            Ok(rows) => match rows.into_iter().flatten().flatten().next() {
                Some(pid) => {
                    kill(&pid);
                    true
                }
                None => false,
            },
            Err(_) => {
                dba = town.dba();
                false
            }
        });
        killed[kind] += i32::from(found);
    }
    done.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("no thread panics");
    }
    assert!(killed.iter().all(|n| *n > 0), "{killed:?}");

    let mut dba = town.dba();
    dba.run("SELECT * FROM tenancy.seal_audit()");
    let committed = committed.lock().unwrap();
    assert!(committed.len() > 50, "{}", committed.len());
    let heads = heads.lock().unwrap();
    dba.run("SET row_security = off");
    let rows: Vec<usize> = dba
        .column("SELECT id FROM items ORDER BY id")
        .iter()
        .map(|id| id.parse().unwrap())
        .collect();
    for id in committed.iter() {
        assert!(
            rows.binary_search(id).is_ok(),
            "row {id} was committed and is gone"
        );
    }
    dba.run("RESET row_security");
    let mut logged = vec![];
    for (i, org) in town.orgs.iter().enumerate() {
        // Heads handed out at any time, by any process that was killed since.
        let mut held: Vec<&str> = heads
            .iter()
            .filter(|(o, _)| *o == i)
            .map(|(_, h)| h.as_str())
            .collect();
        held.sort();
        held.dedup();
        assert!(held.len() > 2, "{}", held.len());
        assert_eq!(
            dba.rows(&format!(
                "SELECT * FROM tenancy.verify_audit('{org}', {})",
                quote(&held.join("\n"))
            )),
            Vec::<Vec<Option<String>>>::new()
        );
        let mut app = town.login("app");
        app.run(&format!("SET app.current_org = '{org}'"));
        logged.extend(app.rows(
            "SELECT key->>'id', operation FROM tenancy.audit_log WHERE object LIKE '%items' ORDER BY 1",
        ));
        let lines = app.count("SELECT count(*) FROM tenancy.audit_log");
        assert_eq!(
            dba.count(&format!(
                "SELECT sealed_lines FROM tenancy.list_seal_status('{org}')"
            )),
            lines
        );
    }
    let mut expected: Vec<Vec<Option<String>>> = vec![];
    for id in &rows {
        expected.push(vec![Some(id.to_string()), Some("INSERT".into())]);
        if id % 2 == 0 {
            expected.push(vec![Some(id.to_string()), Some("UPDATE".into())]);
        }
    }
    expected.sort();
    logged.sort();
    assert_eq!(logged, expected);
}
