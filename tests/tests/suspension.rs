//! A suspended organization is read and not written, by any path, from the next statement on. Section 3.9 of the
//! specification. And how many organizations one person may own, under concurrency.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use pg_tenancy_tests::{Error, Session, World, refused};

const REASON: &str = "invoice 2026-17 is unpaid";

fn suspend(world: &World) {
    world.superuser().run(&format!(
        "SELECT tenancy.suspend_org('{}', '{REASON}')",
        world.acme.id
    ));
}

fn resume(world: &World) {
    world
        .superuser()
        .run(&format!("SELECT tenancy.resume_org('{}')", world.acme.id));
}

#[track_caller]
fn asleep<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = refused(result, "42501");
    assert!(error.message().contains("suspended"), "{error:?}");
    assert!(error.detail().unwrap().contains(REASON), "{error:?}");
}

const WRITES: &[&str] = &[
    "INSERT INTO servers (id, name) VALUES (50, 'x')",
    "INSERT INTO servers (id, name) SELECT 50 + i, 'x' FROM generate_series(1, 3) i",
    "UPDATE servers SET cpus = cpus + 1",
    "UPDATE servers SET cpus = 9 WHERE false",
    "DELETE FROM sites WHERE id = 1",
    // Reaches sites by a cascade.
    "DELETE FROM servers WHERE id = 1",
    "UPDATE servers SET id = 77 WHERE id = 1",
    "INSERT INTO servers (id, name) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET name = 'y'",
    "INSERT INTO servers (id, name) VALUES (1, 'x') ON CONFLICT DO NOTHING",
    "MERGE INTO servers s USING (VALUES (1), (51)) v (id) ON s.id = v.id
         WHEN MATCHED THEN UPDATE SET name = 'y' WHEN NOT MATCHED THEN INSERT (id, name) VALUES (v.id, 'x')",
    "WITH gone AS (DELETE FROM sites RETURNING id) SELECT count(*) FROM gone",
    "DO $$ BEGIN INSERT INTO servers (id, name) VALUES (50, 'x'); END $$",
    "PREPARE w AS UPDATE sites SET visits = 0; EXECUTE w",
];

#[test]
fn every_write_is_refused_and_every_read_goes_on() {
    let world = World::new();
    let before = [
        world.hash("servers", world.acme),
        world.hash("sites", world.acme),
    ];
    let mut owner = world.session("acme.owner");
    // Prepared and planned before.
    owner.run("PREPARE earlier AS UPDATE servers SET cpus = 3 WHERE id = 1; BEGIN; EXECUTE earlier; ROLLBACK");
    suspend(&world);
    asleep(owner.attempt("EXECUTE earlier"));
    let fresh = world.session("acme.owner");
    for mut session in [owner, fresh, world.session("acme.admin")] {
        for write in WRITES {
            asleep(session.attempt(write));
            session.run("DEALLOCATE ALL");
        }
        assert_eq!(world.seen(&mut session, "servers"), (3, 0));
        assert_eq!(world.seen(&mut session, "sites"), (6, 0));
        session.run("SELECT * FROM servers JOIN sites ON server_id = servers.id; EXPLAIN UPDATE servers SET cpus = 1");
        assert_eq!(
            session.text("SELECT suspended_reason FROM tenancy.orgs"),
            REASON
        );
    }
    // The application, as a user and as a service; a superuser who is in the organization.
    let mut app = world.app();
    for claim in [
        world.claim(world.acme, "acme.owner"),
        format!("SET LOCAL app.current_org = '{}'", world.acme.id),
    ] {
        app.run(&format!("BEGIN; {claim}"));
        asleep(app.attempt("INSERT INTO sites (id, name) VALUES (60, 'x')"));
        app.run("ROLLBACK");
    }
    let mut dba = world.superuser();
    dba.run(&format!("SET app.current_org = '{}'", world.acme.id));
    asleep(dba.attempt("DELETE FROM sites"));
    // COPY is a bypassing role's, where there is row security.
    let file = world.db.cluster.file("suspended_sites");
    std::fs::write(&file, "60\tx\n").expect("a file for COPY");
    asleep(dba.attempt(&format!("COPY sites (id, name) FROM '{}'", file.display())));
    assert_eq!(
        [
            world.hash("servers", world.acme),
            world.hash("sites", world.acme)
        ],
        before
    );
    // Nobody else's business.
    world
        .session("globex.admin")
        .run("UPDATE servers SET cpus = cpus + 1");
    // Break-glass means it.
    world
        .break_glass()
        .run("UPDATE servers SET cpus = 7 WHERE id = 1");

    resume(&world);
    let mut owner = world.session("acme.owner");
    for write in WRITES
        .iter()
        .filter(|w| !w.contains("id = 77") && !w.contains("DELETE"))
    {
        owner.run(&format!("BEGIN; {write}"));
        owner.run("ROLLBACK; DEALLOCATE ALL");
    }
}

#[test]
fn a10_it_holds_for_the_next_statement_of_an_open_transaction() {
    for isolation in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let world = World::new();
        let mut session = world.session("acme.owner");
        session.run(&format!(
            "BEGIN ISOLATION LEVEL {isolation}; INSERT INTO sites (id, name) VALUES (60, 'x')"
        ));
        suspend(&world);
        asleep(session.attempt_within("INSERT INTO sites (id, name) VALUES (61, 'x')"));
        assert_eq!(session.count("SELECT count(*) FROM sites"), 7);
        session.run("COMMIT");
        resume(&world);
        session.run("INSERT INTO sites (id, name) VALUES (61, 'x')");
    }
}

#[test]
fn what_was_put_off_until_commit_is_refused_there() {
    let world = World::new();
    let owner = world.table_owner();
    world.superuser().run(&format!(
        "CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO sites (id, name) VALUES (900 + NEW.id, 'later'); RETURN NULL; END $$;
         ALTER FUNCTION later() OWNER TO {owner};
         CREATE CONSTRAINT TRIGGER later AFTER INSERT ON servers DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION later()"
    ));
    let mut session = world.session("acme.owner");
    session.run("INSERT INTO servers (id, name) VALUES (50, 'x')");
    assert_eq!(
        session.count("SELECT count(*) FROM sites WHERE id = 950"),
        1
    );
    session.run("BEGIN; INSERT INTO servers (id, name) VALUES (51, 'x')");
    suspend(&world);
    asleep(session.attempt("COMMIT"));
    assert_eq!(
        session.count("SELECT count(*) FROM servers WHERE id = 51"),
        0
    );
}

#[test]
fn a_statement_that_runs_meanwhile_ends_refused() {
    // Plain rows, rows whose triggers are left out, and COPY.
    let world = World::new();
    world.superuser().run(
        "CREATE TABLE notes (id int, org_id uuid); GRANT ALL ON notes TO PUBLIC; SELECT tenancy.protect('notes', audit => false)",
    );
    for write in [
        "INSERT INTO sites (id, name) SELECT 60 + i, pg_sleep(0.4) || 'x' FROM generate_series(1, 3) i",
        "INSERT INTO notes (id) SELECT 60 + length(pg_sleep(0.4)::text) FROM generate_series(1, 3) i",
    ] {
        let mut session = world.session("acme.owner");
        let waiting = std::thread::spawn(move || session.attempt(write));
        std::thread::sleep(Duration::from_millis(500));
        suspend(&world);
        asleep(waiting.join().unwrap());
        resume(&world);
    }
    assert_eq!(
        world
            .break_glass()
            .count("SELECT count(*) FROM sites WHERE id > 50 AND id < 100"),
        0
    );
    assert_eq!(world.break_glass().count("SELECT count(*) FROM notes"), 0);
}

#[test]
fn acts_on_the_organization_are_the_dbas_meanwhile() {
    let world = World::people();
    let acme = world.acme.id;
    let (stranger, viewer) = (world.user("stranger"), world.user("acme.viewer"));
    let mut owner = world.session("acme.owner");
    let invited = owner.rows(&format!("SELECT invitation, token FROM tenancy.invite('{acme}', 'example@stranger.test', 'viewer')")).remove(0);
    let (invitation, token) = (invited[0].clone().unwrap(), invited[1].clone().unwrap());
    suspend(&world);
    let acts = [
        format!("SELECT tenancy.add_member('{acme}', '{stranger}', 'viewer')"),
        format!("SELECT tenancy.set_member_role('{acme}', '{viewer}', 'member')"),
        format!("SELECT tenancy.remove_member('{acme}', '{viewer}')"),
        format!(
            "SELECT tenancy.transfer_ownership('{acme}', '{}')",
            world.user("acme.admin")
        ),
        format!("SELECT tenancy.invite('{acme}', 'a@x.test', 'viewer')"),
        format!("SELECT tenancy.revoke_invitation('{invitation}')"),
    ];
    let of_context = [
        "SELECT tenancy.set_audit_retention(7)",
        "SELECT tenancy.set_legal_hold(true, 'x')",
        "SELECT tenancy.purge_audit()",
        "SELECT tenancy.erase_audit('tenancy.orgs', '{\"id\": 1}', 'x')",
    ];
    for act in acts.iter().map(String::as_str).chain(of_context) {
        asleep(owner.attempt(act));
    }
    // Leaving is an act, too.
    asleep(world.session("acme.viewer").attempt(&format!(
        "SELECT tenancy.remove_member('{acme}', '{viewer}')"
    )));
    // An invited person hears nothing of the reason, and the invitation stays.
    let accept = format!("SELECT tenancy.accept_invitation('{token}')");
    let error = refused(world.bound("stranger").attempt(&accept), "42501");
    assert!(
        !format!("{error:?}").contains("invoice") && !format!("{error:?}").contains("Acme"),
        "{error:?}"
    );
    // The log is read and exported, and what is sealed is sealed.
    owner.run("SELECT * FROM tenancy.audit_log; SELECT * FROM tenancy.export_audit('csv'); SELECT tenancy.seal_audit()");
    owner.run(&format!("SELECT * FROM tenancy.list_invitations('{acme}')"));
    assert_eq!(
        owner.rows("SELECT operation, new ->> 'reason' FROM tenancy.read_audit() WHERE operation LIKE '%suspend%'"),
        [[Some("suspend_org".to_string()), Some(REASON.to_string())]]
    );
    // The DBA's acts pass.
    let mut dba = world.superuser();
    dba.run(&acts[1]);
    dba.run(&acts[2]);
    resume(&world);
    world.bound("stranger").run(&accept);
    owner.run(&acts[4]);
    assert_eq!(
        owner.count("SELECT count(*) FROM tenancy.read_audit(operation => 'resume_org')"),
        1
    );
}

#[test]
fn only_a_dba_suspends_and_resumes() {
    let world = World::people();
    let acme = world.acme.id;
    let suspend_sql = format!("SELECT tenancy.suspend_org('{acme}', 'x')");
    let resume_sql = format!("SELECT tenancy.resume_org('{acme}')");
    let mut others = [
        world.session("acme.owner"),
        world.session("globex.owner"),
        world.nobody(),
        world.app(),
    ];
    for session in &mut others {
        refused(session.attempt(&suspend_sql), "42501");
    }
    let ops = world.db.role("ops");
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE ROLE {ops} LOGIN; SELECT tenancy.grant_administration('{ops}')"
    ));
    let mut ops = world.db.login(&ops);
    ops.run(&suspend_sql);
    for session in &mut others {
        refused(session.attempt(&resume_sql), "42501");
    }
    for reason in ["''", "'  '", "E'a\\nb'", "repeat('x', 501)"] {
        refused(
            ops.attempt(&format!("SELECT tenancy.suspend_org('{acme}', {reason})")),
            "22023",
        );
    }
    refused(
        ops.attempt("SELECT tenancy.suspend_org(gen_random_uuid(), 'x')"),
        "42501",
    );
    // Another reason; the time stays. Resuming twice is no error.
    let since = "SELECT suspended_at FROM tenancy.orgs WHERE slug = 'acme'";
    let first = dba.text(since);
    ops.run(&format!("SELECT tenancy.suspend_org('{acme}', 'y')"));
    assert_eq!(dba.text(since), first);
    ops.run(&resume_sql);
    ops.run(&resume_sql);
    assert_eq!(dba.value(since), None);
}

const CLIENTS: usize = 32;

#[test]
fn thirty_two_clients_own_no_more_than_is_allowed() {
    let world = World::people();
    let mut dba = world.superuser();
    let (acme, stranger) = (world.acme.id, world.user("stranger"));
    dba.run(&format!(
        "ALTER SYSTEM SET tenancy.max_owned_orgs = 3; SELECT tenancy.add_member('{acme}', '{stranger}', 'admin')"
    ).replace("ALTER SYSTEM", &format!("ALTER DATABASE {}", world.db.name)));
    // Some make organizations for the stranger, some hand theirs on to him.
    let own: Vec<String> = (0..8)
        .map(|i| {
            let owner = dba.text(&format!("SELECT tenancy.create_user('o{i}@x.test')"));
            let org = dba.text(&format!(
                "SELECT tenancy.create_org('O', 'o{i}', owner => '{owner}')"
            ));
            dba.run(&format!(
                "SELECT tenancy.add_member('{org}', '{stranger}', 'admin')"
            ));
            org
        })
        .collect();
    let barrier = Arc::new(Barrier::new(CLIENTS));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|i| {
            let mut session: Session = if i % 2 == 0 {
                world.bound("stranger")
            } else {
                world.superuser()
            };
            let barrier = barrier.clone();
            let act = match i % 4 {
                1 => format!(
                    "SELECT tenancy.transfer_ownership('{}', '{stranger}')",
                    own[i / 4]
                ),
                3 => format!("SELECT tenancy.create_org('D', 'd{i}', owner => '{stranger}')"),
                _ => format!("SELECT tenancy.create_org('S', 's{i}')"),
            };
            std::thread::spawn(move || {
                barrier.wait();
                session.attempt(&act).map_err(|e| {
                    e.as_db_error()
                        .map_or("gone".into(), |e| e.code().code().to_string())
                })
            })
        })
        .collect();
    let got: Vec<Result<u64, String>> = clients.into_iter().map(|c| c.join().unwrap()).collect();
    let count = format!("SELECT count(*) FROM tenancy.orgs WHERE owner_id = '{stranger}'");
    assert_eq!(dba.count(&count), 3, "{got:?}");
    assert_eq!(got.iter().filter(|r| r.is_ok()).count(), 3, "{got:?}");
    assert!(
        got.iter()
            .flat_map(|r| r.as_ref().err())
            .all(|c| c == "54000"),
        "{got:?}"
    );
}
