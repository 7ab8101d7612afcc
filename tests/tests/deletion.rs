//! The end of an organization: every row goes, nothing else does, and a tombstone remains. Section 3.9 of the specification.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pg_tenancy_tests::{
    Cluster, Db, Error, Org, Session, Uuid, World, assert_same_error, fails, few_or_many, refused,
};

fn delete(org: Org) -> String {
    format!(
        "SELECT tenancy.delete_org('{}', confirm => '{}')",
        org.id, org.name
    )
}

fn finish(org: Uuid) -> String {
    format!("CALL tenancy.finish_deletion('{org}')")
}

fn step(org: Uuid) -> String {
    format!("SELECT finished FROM tenancy.continue_deletion('{org}')")
}

/// Tables of every kind, rows of both orgs in each. The keys of the orgs are numbers.
const EVERY_KIND: &str = r#"
    CREATE TABLE by_text (id int PRIMARY KEY, org text, note text);
    CREATE TABLE by_varchar (id int PRIMARY KEY, org varchar(20), parent int REFERENCES by_text);
    CREATE TABLE by_integer (id int PRIMARY KEY, org int);
    CREATE TABLE by_bigint (id int PRIMARY KEY, org bigint, other int REFERENCES by_integer ON DELETE SET NULL);
    CREATE TABLE "Odd ""Name" (id int PRIMARY KEY, "Org Id" uuid);
    CREATE TABLE events (id int, org_id uuid, day date, about int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE events_24 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    CREATE TABLE events_rest PARTITION OF events DEFAULT PARTITION BY RANGE (id);
    CREATE TABLE events_rest_1 PARTITION OF events_rest FOR VALUES FROM (0) TO (40);
    CREATE TABLE events_rest_n PARTITION OF events_rest DEFAULT;
    CREATE TABLE remarks (id int PRIMARY KEY, org_id uuid, event int, day date, FOREIGN KEY (event, day) REFERENCES events);
    CREATE TABLE assets (id int, org_id uuid);
    CREATE TABLE cars (wheels int) INHERITS (assets);
    CREATE TABLE folders (id int PRIMARY KEY, org_id uuid, parent int REFERENCES folders);
    CREATE TABLE chains (id int PRIMARY KEY, org_id uuid, next int NOT NULL REFERENCES chains);
    CREATE TABLE rings (id int PRIMARY KEY, org_id uuid, next int NOT NULL REFERENCES rings DEFERRABLE);
    CREATE TABLE teams (id int PRIMARY KEY, org_id uuid, lead int);
    CREATE TABLE people (id int PRIMARY KEY, org_id uuid, team int NOT NULL REFERENCES teams);
    ALTER TABLE teams ADD FOREIGN KEY (lead) REFERENCES people;
    CREATE TABLE eggs (id int PRIMARY KEY, org_id uuid, hen int NOT NULL);
    CREATE TABLE hens (id int PRIMARY KEY, org_id uuid, egg int NOT NULL REFERENCES eggs DEFERRABLE INITIALLY DEFERRED);
    ALTER TABLE eggs ADD FOREIGN KEY (hen) REFERENCES hens DEFERRABLE INITIALLY DEFERRED;
    CREATE TABLE orders (id int PRIMARY KEY, org_id uuid);
    CREATE TABLE lines (id int PRIMARY KEY, org_id uuid, "order" int REFERENCES orders ON DELETE CASCADE);
    CREATE TABLE outside (id int PRIMARY KEY, line int REFERENCES lines ON DELETE SET NULL);
    CREATE TABLE hangers (id int PRIMARY KEY, "order" int REFERENCES orders ON DELETE CASCADE);"#;

const PROTECT_ALL: &str = r#"
    SELECT tenancy.protect(t, org_column => 'org') FROM unnest('{by_text,by_varchar,by_integer,by_bigint}'::regclass[]) t;
    SELECT tenancy.protect('"Odd ""Name"', org_column => 'Org Id', audit => false);
    SELECT tenancy.protect(t) FROM unnest('{events,remarks,assets,folders,chains,rings,teams,people,eggs,hens,orders,lines}'::regclass[]) t;"#;

fn fill(dba: &mut Session, org: Org, first: i32, key: i32) {
    dba.run(&format!(
        r#"BEGIN;
        INSERT INTO by_text SELECT {first} + i, '{key}', 'n' FROM generate_series(1, 50) i;
        INSERT INTO by_varchar SELECT {first} + i, '{key}', {first} + i FROM generate_series(1, 50) i;
        INSERT INTO by_integer SELECT {first} + i, {key} FROM generate_series(1, 50) i;
        INSERT INTO by_bigint SELECT {first} + i, {key}, {first} + i FROM generate_series(1, 50) i;
        INSERT INTO "Odd ""Name" SELECT {first} + i, '{id}' FROM generate_series(1, 50) i;
        INSERT INTO events SELECT {first} + i, '{id}', '2024-12-01'::date + i, i % 3 FROM generate_series(1, 60) i;
        INSERT INTO remarks SELECT {first} + i, '{id}', {first} + i, '2024-12-01'::date + i FROM generate_series(1, 60) i;
        INSERT INTO assets SELECT {first} + i, '{id}' FROM generate_series(1, 5) i;
        INSERT INTO cars SELECT {first} + i, '{id}', 4 FROM generate_series(1, 5) i;
        INSERT INTO folders SELECT {first} + i, '{id}', CASE WHEN i > 1 THEN {first} + i / 2 END FROM generate_series(1, 200) i;
        INSERT INTO chains SELECT {first} + i, '{id}', {first} + greatest(i - 1, 1) FROM generate_series(1, 200) i;
        SET CONSTRAINTS ALL DEFERRED;
        INSERT INTO rings SELECT {first} + i, '{id}', {first} + 1 + i % 200 FROM generate_series(1, 200) i;
        INSERT INTO teams SELECT {first} + i, '{id}' FROM generate_series(1, 20) i;
        INSERT INTO people SELECT {first} + i, '{id}', {first} + i FROM generate_series(1, 20) i;
        UPDATE teams SET lead = id WHERE org_id = '{id}';
        INSERT INTO eggs SELECT {first} + i, '{id}', {first} + i FROM generate_series(1, 20) i;
        INSERT INTO hens SELECT {first} + i, '{id}', {first} + i FROM generate_series(1, 20) i;
        INSERT INTO orders SELECT {first} + i, '{id}' FROM generate_series(1, 20) i;
        INSERT INTO lines SELECT {first} + i, '{id}', {first} + 1 + i / 3 FROM generate_series(1, 50) i;
        INSERT INTO outside SELECT {first} + i, {first} + i FROM generate_series(1, 50) i;
        INSERT INTO hangers SELECT {first} + i, {first} + i FROM generate_series(1, 20) i;
        COMMIT"#,
        id = org.id
    ));
}

/// Rows of an org by table and a hash of all rows of the others, past every rule.
fn rows(world: &World, org: Uuid, key: i32) -> (Vec<String>, Vec<String>) {
    let mut dba = world.break_glass();
    let tables = dba.rows(
        "SELECT quote_ident(table_name::text), table_name::text, quote_ident(org_column) FROM
             (SELECT table_name, org_column FROM tenancy.protected_tables) t ORDER BY 2",
    );
    let (mut mine, mut others) = (vec![], vec![]);
    for table in tables {
        let (name, column) = (table[1].clone().unwrap(), table[2].clone().unwrap());
        let row = dba
            .rows(&format!(
                "SELECT count(*) FILTER (WHERE {column}::text IN ('{org}', '{key}')),
                        md5(string_agg(t::text, ',' ORDER BY t::text) FILTER (WHERE {column}::text NOT IN ('{org}', '{key}')))
                 FROM ONLY {name} t"
            ))
            .remove(0);
        if row[0].as_deref() != Some("0") {
            mine.push(format!("{name} {}", row[0].clone().unwrap()));
        }
        others.push(format!("{name} {}", row[1].clone().unwrap_or_default()));
    }
    (mine, others)
}

/// The world with tables of every kind; acme's key is 7, globex's 8.
fn every_kind() -> World {
    let world = World::new();
    let mut dba = world.superuser();
    dba.run(&format!(
        "SELECT tenancy.set_external_key('{}', '7'); SELECT tenancy.set_external_key('{}', '8')",
        world.acme.id, world.globex.id
    ));
    dba.run(EVERY_KIND);
    fill(&mut dba, world.acme, 0, 7);
    fill(&mut dba, world.globex, 1000, 8);
    dba.run(PROTECT_ALL);
    let owner = world.table_owner();
    // Half of the tables are a plain role's, held by forced row security; half a superuser's.
    for table in [
        "by_text",
        "by_varchar",
        "events",
        "events_24",
        "folders",
        "chains",
        "rings",
        "eggs",
        "hens",
        "orders",
        "lines",
    ] {
        dba.run(&format!("ALTER TABLE {table} OWNER TO {owner}"));
    }
    world
}

#[test]
fn every_row_of_the_organization_goes_and_no_other() {
    let world = every_kind();
    let acme = world.acme;
    let mut dba = world.superuser();
    let mut owner = world.session("acme.owner");
    owner.run(&format!(
        "SELECT tenancy.invite('{0}', 'a@x.test', 'viewer'); SELECT tenancy.set_audit_retention(100)",
        acme.id
    ));
    let (mine, others) = rows(&world, acme.id, 7);
    assert_eq!(mine.len(), 22, "{mine:?}");
    let unprotected = "SELECT count(*) || ' ' || count(line) FROM outside UNION ALL SELECT count(*)::text FROM hangers";
    assert_eq!(dba.column(unprotected), ["100 100", "40"]);

    owner.run(&delete(acme));
    owner.run(&finish(acme.id));

    let (left, untouched) = rows(&world, acme.id, 7);
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(untouched, others);
    // What hung on the rows followed as its keys say.
    assert_eq!(dba.column(unprotected), ["100 50", "20"]);
    for (table, column) in [
        ("orgs", "id"),
        ("memberships", "org_id"),
        ("invitations", "org_id"),
        ("audit_retention", "org_id"),
    ] {
        let sql = format!(
            "SELECT count(*) FROM tenancy.{table} WHERE {column} = '{}'",
            acme.id
        );
        assert_eq!(dba.count(&sql), 0, "{table}");
    }
    assert_eq!(dba.count("SELECT count(*) FROM tenancy.memberships"), 5);
    let tombstone = dba
        .json("SELECT * FROM tenancy.list_tombstones()")
        .remove(0);
    assert_eq!(tombstone["org_id"], acme.id.to_string());
    assert_eq!(tombstone["slug"], "acme");
    assert_eq!(
        tombstone["deleted_by"],
        world.user("acme.owner").to_string()
    );
    assert_eq!(tombstone["removed"]["public.rings"], 200);
    assert_eq!(tombstone["removed"]["public.events"], 60);
    assert!(
        !tombstone["finished_at"].is_null() && !tombstone["audit_head"].is_null(),
        "{tombstone}"
    );
    assert!(
        !tombstone.to_string().contains("Acme Hosting"),
        "{tombstone}"
    );
    // Once more is no harm.
    owner.run(&finish(acme.id));
    assert_eq!(owner.text(&step(acme.id)), "t");
}

#[test]
fn from_the_mark_on_it_is_as_if_it_had_never_been() {
    let world = World::new();
    let (acme, none) = (world.acme, Uuid::from_u128(7));
    let mut open = world.session("acme.admin");
    open.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(world.seen(&mut open, "servers"), (3, 0));
    let mut prepared = world.session("acme.viewer");
    prepared.run("PREPARE q AS SELECT count(*) FROM servers; EXECUTE q");
    world.session("acme.owner").run(&delete(acme));

    assert_eq!(world.seen(&mut open, "servers"), (0, 0));
    refused(
        open.attempt_within("INSERT INTO sites (id, name) VALUES (60, 'x')"),
        "42501",
    );
    open.run("ROLLBACK");
    assert_eq!(prepared.count("EXECUTE q"), 0);
    let words = [(&*none.to_string(), &*acme.id.to_string())];
    for who in ["acme.owner", "acme.admin", "agency", "globex.owner"] {
        let mut session = world.session(who);
        session.run(&format!("SET app.current_org = '{}'", acme.id));
        assert_eq!(world.seen(&mut session, "servers"), (0, 0));
        assert_eq!(session.count("SELECT count(*) FROM tenancy.orgs"), 0);
        assert!(
            !session
                .column("SELECT slug FROM tenancy.my_orgs()")
                .contains(&"acme".to_string())
        );
        let mut same = |act: fn(Uuid, Uuid) -> String| {
            let stranger = world.user("stranger");
            let gone = refused(session.attempt(&act(acme.id, stranger)), "42501");
            assert_same_error(
                &gone,
                &refused(session.attempt(&act(none, stranger)), "42501"),
                &words,
            );
        };
        same(|org, _| format!("SELECT tenancy.enter('{org}')"));
        same(|org, user| format!("SELECT tenancy.add_member('{org}', '{user}', 'viewer')"));
        same(|org, user| format!("SELECT tenancy.remove_member('{org}', '{user}')"));
        same(|org, user| format!("SELECT tenancy.transfer_ownership('{org}', '{user}')"));
        same(|org, _| format!("SELECT tenancy.invite('{org}', 'a@x.test', 'viewer')"));
        same(|org, user| {
            format!("SELECT tenancy.has_permission('{user}', '{org}', 'server:read')")
        });
        same(|org, _| format!("SELECT tenancy.delete_org('{org}', 'Acme Hosting')"));
        same(|org, _| format!("SELECT * FROM tenancy.list_invitations('{org}')"));
    }
    let mut app = world.app();
    world.begin(&mut app, acme, "acme.owner");
    assert_eq!(world.seen(&mut app, "sites"), (0, 0));
    refused(app.attempt("DELETE FROM sites"), "42501");
    app.run("ROLLBACK");
    // By its external key, too.
    app.run("BEGIN; SET LOCAL app.current_org = 'customer-7'");
    assert_eq!(world.seen(&mut app, "sites"), (0, 0));
    app.run("ROLLBACK");
    let mut dba = world.superuser();
    dba.run(&format!("SET app.current_org = '{}'", acme.id));
    assert_eq!(dba.value("SELECT tenancy.current_org()"), None);
    // The rows are there yet; break-glass sees them.
    assert_eq!(world.seen(&mut world.break_glass(), "servers"), (3, 3));
}

#[test]
fn the_owner_deletes_by_typing_the_name_and_nobody_else() {
    let world = World::new();
    let acme = world.acme;
    for who in ["acme.admin", "acme.member", "acme.viewer", "agency"] {
        refused(world.session(who).attempt(&delete(acme)), "42501");
    }
    let unknown = Org {
        id: Uuid::from_u128(7),
        ..acme
    };
    let words = [(&*unknown.id.to_string(), &*acme.id.to_string())];
    for mut session in [
        world.session("globex.owner"),
        world.bound("stranger"),
        world.nobody(),
        world.app(),
    ] {
        let theirs = refused(session.attempt(&delete(acme)), "42501");
        assert_same_error(
            &theirs,
            &refused(session.attempt(&delete(unknown)), "42501"),
            &words,
        );
    }
    let mut owner = world.session("acme.owner");
    for name in ["acme", "acme hosting", "Acme Hosting ", "", "%"] {
        let sql = format!("SELECT tenancy.delete_org('{}', '{name}')", acme.id);
        refused(owner.attempt(&sql), "22023");
    }
    // Under legal hold, or suspended, it stays.
    owner.run("SELECT tenancy.set_legal_hold(true, 'trial')");
    refused(owner.attempt(&delete(acme)), "55000");
    owner.run("SELECT tenancy.set_legal_hold(false, 'over')");
    let mut dba = world.superuser();
    dba.run(&format!("SELECT tenancy.suspend_org('{}', 'x')", acme.id));
    refused(owner.attempt(&delete(acme)), "42501");
    assert_eq!(
        dba.count("SELECT count(*) FROM tenancy.list_tombstones()"),
        0
    );
    // The DBA may, and a suspension does not keep the rows.
    dba.run(&delete(acme));
    dba.run("CALL tenancy.finish_deletion()");
    assert_eq!(world.seen(&mut world.break_glass(), "sites"), (0, 6));
}

#[test]
fn who_may_carry_it_out() {
    let world = World::new();
    let acme = world.acme;
    let mut owner = world.session("acme.owner");
    // Not begun: like an organization that does not exist.
    let none = Uuid::from_u128(7);
    for mut session in [world.superuser(), world.session("acme.owner")] {
        let not_begun = refused(session.attempt(&step(acme.id)), "42501");
        let words = [(&*none.to_string(), &*acme.id.to_string())];
        assert_same_error(
            &not_begun,
            &refused(session.attempt(&step(none)), "42501"),
            &words,
        );
    }
    owner.run(&format!("BEGIN; {}", delete(acme)));
    // Before the commit others may be writing.
    refused(owner.attempt_within(&step(acme.id)), "25001");
    refused(owner.attempt_within(&finish(acme.id)), "25001");
    owner.run("COMMIT");
    for mut session in [
        world.session("acme.admin"),
        world.session("globex.owner"),
        world.nobody(),
    ] {
        refused(session.attempt(&step(acme.id)), "42501");
        refused(session.attempt(&finish(acme.id)), "42501");
        // Nothing of theirs waits.
        session.run("CALL tenancy.finish_deletion()");
        refused(
            session.attempt("SELECT * FROM tenancy.list_tombstones()"),
            "42501",
        );
    }
    for isolation in ["REPEATABLE READ", "SERIALIZABLE"] {
        owner.run(&format!("BEGIN ISOLATION LEVEL {isolation}"));
        refused(owner.attempt(&step(acme.id)), "25001");
        owner.run("ROLLBACK");
    }
    for rows in ["0", "-1"] {
        refused(
            owner.attempt(&format!(
                "SELECT tenancy.continue_deletion('{}', {rows})",
                acme.id
            )),
            "22023",
        );
    }
    assert_eq!(world.seen(&mut world.break_glass(), "sites"), (6, 6));
    // A job of the application's, which has no user; in a block as well.
    let mut app = world.app();
    app.run("BEGIN");
    app.run(&format!("{}; {}", step(acme.id), step(acme.id)));
    app.run("COMMIT");
    app.run("CALL tenancy.finish_deletion()");
    assert_eq!(world.seen(&mut world.break_glass(), "sites"), (0, 6));
}

#[test]
fn what_cannot_be_emptied_is_said_before_anything_goes() {
    let world = World::new();
    let acme = world.acme;
    let mut owner = world.session("acme.owner");
    let mut dba = world.superuser();
    dba.run(
        "CREATE TABLE a (id int PRIMARY KEY, org_id uuid, b int NOT NULL);
         CREATE TABLE b (id int PRIMARY KEY, org_id uuid, a int NOT NULL REFERENCES a);
         ALTER TABLE a ADD CONSTRAINT a_to_b FOREIGN KEY (b) REFERENCES b;
         SELECT tenancy.protect('a'); SELECT tenancy.protect('b')",
    );
    // Tables of two owners, which no one statement can empty.
    dba.run(&format!("ALTER TABLE b OWNER TO {}", world.table_owner()));
    let error = refused(owner.attempt(&delete(acme)), "55000");
    for word in ["a_to_b", "b_a_fkey"] {
        assert!(error.detail().unwrap().contains(word), "{error:?}");
    }
    dba.run("ALTER TABLE a DROP CONSTRAINT a_to_b");
    // A table that is not protected and refers to a row; one that refers to another organization's row does no harm.
    dba.run(&format!(
        "CREATE TABLE logs (id int, server int CONSTRAINT logs_of REFERENCES servers); ALTER TABLE logs OWNER TO {};
         INSERT INTO logs VALUES (1, 101)",
        world.table_owner()
    ));
    let mut begun = world.session("acme.owner");
    begun.run("BEGIN");
    begun.run(&delete(acme));
    begun.run("ROLLBACK");
    dba.run("INSERT INTO logs VALUES (2, 2)");
    let error = refused(owner.attempt(&delete(acme)), "23503");
    assert!(
        error.message().contains("logs") && error.detail().unwrap().contains("logs_of"),
        "{error:?}"
    );
    assert_eq!(world.seen(&mut owner, "servers"), (3, 0));
    dba.run("DELETE FROM logs WHERE id = 2");
    owner.run(&delete(acme));
    // One that comes in between is refused by PostgreSQL, and nothing is lost of what is done.
    dba.run("INSERT INTO logs VALUES (3, 3)");
    fails(owner.attempt(&finish(acme.id)), "23503");
    dba.run("DELETE FROM logs WHERE id = 3");
    owner.run(&finish(acme.id));
    assert_eq!(world.seen(&mut world.break_glass(), "servers"), (0, 3));
}

#[test]
fn who_wrote_before_the_mark_is_waited_for() {
    let world = World::new();
    let acme = world.acme;
    let mut writer = world.session("acme.admin");
    writer.run("BEGIN; INSERT INTO sites (id, name) VALUES (60, 'x')");
    // One that has passed its first check and has not written yet.
    let mut slow = world.session("acme.member");
    let slow = std::thread::spawn(move || {
        slow.attempt("INSERT INTO sites (id, name) SELECT 70 + i, pg_sleep(0.5) || 'x' FROM generate_series(1, 3) i")
    });
    let mut prepared = world.session("acme.owner");
    prepared
        .run("BEGIN; INSERT INTO sites (id, name) VALUES (61, 'x'); PREPARE TRANSACTION 'life'");
    std::thread::sleep(Duration::from_millis(300));
    world.session("acme.owner").run(&delete(acme));

    let mut owner = world.session("acme.owner");
    for _ in 0..5 {
        assert_eq!(owner.text(&step(acme.id)), "f");
    }
    assert!(
        owner
            .value(&format!(
                "SELECT waiting_for FROM tenancy.continue_deletion('{}')",
                acme.id
            ))
            .is_some()
    );
    refused(slow.join().unwrap(), "42501");
    writer.run("COMMIT");
    assert_eq!(owner.text(&step(acme.id)), "f");
    let waiting = std::thread::spawn(move || {
        owner.run(&finish(acme.id));
        owner
    });
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        !waiting.is_finished(),
        "it did not wait for the prepared transaction"
    );
    world.superuser().run("COMMIT PREPARED 'life'");
    waiting.join().unwrap();
    assert_eq!(world.seen(&mut world.break_glass(), "sites"), (0, 6));
}

#[test]
fn thirty_two_writers_leave_no_row_behind() {
    const WRITERS: u32 = 32;
    for round in 0..few_or_many("rounds of writers at a deletion", 2, 20) {
        let world = Arc::new(World::new());
        world.superuser().run(
            "CREATE TABLE notes (id int, org_id uuid); GRANT ALL ON notes TO PUBLIC; SELECT tenancy.protect('notes', audit => false)",
        );
        let acme = world.acme;
        let (stop, written) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU32::new(0)),
        );
        let writers: Vec<_> = (0..WRITERS)
            .map(|n| {
                let (world, stop, written) = (world.clone(), stop.clone(), written.clone());
                std::thread::spawn(move || {
                    let who = if n % 4 == 3 { "globex.admin" } else { "acme.admin" };
                    let mut session = world.session(who);
                    let mut codes = vec![];
                    for i in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let id = 1000 + i64::from(n) * 100_000 + i;
                        let sql = match i % 3 {
                            0 => format!("INSERT INTO notes (id) VALUES ({id})"),
                            1 => format!("INSERT INTO servers (id, name) VALUES ({id}, 'x')"),
                            _ => format!("BEGIN; INSERT INTO notes (id) SELECT {id} FROM generate_series(1, 20); INSERT INTO sites (id, name) VALUES ({id}, 'x'); COMMIT"),
                        };
                        match session.attempt(&sql) {
                            Ok(_) => {
                                written.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => {
                                session.attempt("ROLLBACK").ok();
                                codes.push(code(&error));
                            }
                        }
                    }
                    (who, codes)
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(100 + 50 * round as u64 % 400));
        let mut owner = world.session("acme.owner");
        owner.run(&delete(acme));
        owner.run(&finish(acme.id));
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            let (who, mut codes) = writer.join().expect("a writer");
            codes.dedup();
            let expected: &[&str] = if who == "acme.admin" { &["42501"] } else { &[] };
            assert_eq!(codes, expected, "{who}");
        }
        assert!(written.load(Ordering::Relaxed) > 50, "{written:?}");
        for table in ["notes", "servers", "sites"] {
            let (mine, _) = world.seen(&mut world.break_glass(), table);
            assert_eq!(mine, 0, "{table}");
        }
        assert!(world.seen(&mut world.break_glass(), "notes").1 > 0);
    }
}

fn code(error: &Error) -> String {
    error
        .as_db_error()
        .map_or("gone".into(), |e| e.code().code().into())
}

#[test]
fn two_hundred_thousand_rows_go_under_a_statement_timeout_of_a_second() {
    let world = World::new();
    let acme = world.acme;
    let mut dba = world.superuser();
    let rows = few_or_many("rows of a deleted organization", 200_000, 2_000_000);
    dba.run(&format!(
        "CREATE TABLE measures (id bigint PRIMARY KEY, org_id uuid, server int REFERENCES servers, note text, before bigint REFERENCES measures);
         CREATE INDEX ON measures (before);
         INSERT INTO measures SELECT i, CASE WHEN i % 3 = 0 THEN '{1}' ELSE '{0}' END::uuid, CASE WHEN i % 3 = 0 THEN 101 ELSE 1 END, 'x', CASE WHEN i > 3 THEN i - 3 END
             FROM generate_series(1, {rows} * 3 / 2) i;
         SELECT tenancy.protect('measures'); ANALYZE",
        acme.id, world.globex.id
    ));
    let before = world.hash("measures", world.globex);
    let mut owner = world.session("acme.owner");
    owner.run("SET statement_timeout = '1s'");
    owner.run(&delete(acme));
    let (mut steps, mut longest) = (0, Duration::ZERO);
    loop {
        let began = Instant::now();
        let finished = owner.text(&step(acme.id));
        longest = longest.max(began.elapsed());
        steps += 1;
        if finished == "t" {
            break;
        }
        assert!(steps < 10_000);
    }
    println!("{rows} rows in {steps} steps, the longest {longest:?}");
    assert!(steps > 3, "{steps}");
    assert_eq!(dba.count(&format!("SELECT (removed ->> 'public.measures')::bigint FROM tenancy.list_tombstones() WHERE org_id = '{}'", acme.id)), rows as i64);
    assert_eq!(world.seen(&mut world.break_glass(), "measures").0, 0);
    assert_eq!(world.hash("measures", world.globex), before);
}

#[test]
fn a_crash_in_the_middle_costs_one_transaction() {
    let cluster = Arc::new(Cluster::start());
    let db = Db::empty(cluster.clone());
    db.superuser().run("CREATE EXTENSION pg_tenancy");
    let world = World::people_in(db);
    let acme = world.acme;
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE TABLE kinds (id int PRIMARY KEY, org_id uuid); INSERT INTO kinds VALUES (1, '{0}'); SELECT tenancy.protect('kinds');
         CREATE TABLE measures (id int PRIMARY KEY, org_id uuid, kind int REFERENCES kinds);
         INSERT INTO measures SELECT i, '{0}', 1 FROM generate_series(1, 100000) i;
         INSERT INTO measures SELECT i, '{1}' FROM generate_series(100001, 100100) i;
         SELECT tenancy.protect('measures')",
        acme.id, world.globex.id
    ));
    let count = "SELECT count(*) FROM measures";
    let mut owner = world.session("acme.owner");
    owner.run(&delete(acme));
    let mut left = 100_100;
    for _ in 0..4 {
        let mut owner = world.session("acme.owner");
        let pid = owner.text("SELECT pg_backend_pid()");
        let call = std::thread::spawn(move || {
            owner.attempt(&format!("CALL tenancy.finish_deletion('{}', 100)", acme.id))
        });
        let mut watch = world.break_glass();
        let began = Instant::now();
        while watch.count(count) == left {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "nothing was done"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(
            std::process::Command::new("kill")
                .args(["-9", &pid])
                .status()
                .expect("kill")
                .success()
        );
        call.join().unwrap().unwrap_err();
        // The postmaster has noticed by then.
        std::thread::sleep(Duration::from_millis(500));
        // The server comes back.
        let began = Instant::now();
        while cluster
            .config("postgres", &world.db.name)
            .connect(postgres::NoTls)
            .is_err()
        {
            assert!(began.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(100));
        }
        let now = world.break_glass().count(count);
        assert!(now < left, "nothing was kept of what was done");
        left = now;
    }
    world.session("acme.owner").run(&finish(acme.id));
    assert_eq!(world.break_glass().count(count), 100);
    assert_eq!(
        world.superuser().count("SELECT count(*) FROM tenancy.orgs"),
        1
    );
}

#[test]
fn the_log_outlives_the_organization() {
    for limit in [1000, 0] {
        let db = Db::fresh();
        db.superuser().run(&format!(
            "ALTER DATABASE {} SET tenancy.dedicated_audit_limit = {limit}",
            db.name
        ));
        let world = World::people_in(db);
        let acme = world.acme;
        let mut dba = world.superuser();
        dba.run(
            "CREATE TABLE notes (id int PRIMARY KEY, org_id uuid, note text); GRANT ALL ON notes TO PUBLIC; SELECT tenancy.protect('notes')"
        );
        let mut owner = world.session("acme.owner");
        owner.run("INSERT INTO notes (id, note) SELECT i, 'secret' FROM generate_series(1, 100) i");
        owner.run("SELECT tenancy.seal_audit()");
        let head = owner.text("SELECT tenancy.audit_head()");
        owner.run(&delete(acme));
        owner.run(&finish(acme.id));
        let last = dba.text("SELECT audit_head FROM tenancy.list_tombstones()");
        // The number of rows, not their values: what is there of these stood in the log before.
        let lines = dba.rows(&format!(
            "SELECT operation, count(*), max(new #>> '{{removed,public.notes}}'), max(actor_id::text) FROM tenancy.read_audit_dba(org => '{}')
             WHERE operation IN ('DELETE', 'delete_org', 'finish_deletion') GROUP BY operation ORDER BY operation",
            acme.id
        ));
        let who = Some(world.user("acme.owner").to_string());
        assert_eq!(
            lines,
            [
                vec![
                    Some("delete_org".to_string()),
                    Some("1".into()),
                    None,
                    who.clone()
                ],
                vec![
                    Some("finish_deletion".to_string()),
                    Some("1".into()),
                    Some("100".into()),
                    who
                ],
            ]
        );
        // It goes on from what was handed out, and the last seal covers all of it.
        let quoted = |head: &str| {
            format!(
                "E'{}'",
                head.replace('\\', "\\\\")
                    .replace('\'', "''")
                    .replace('\n', "\\n")
            )
        };
        for against in [&head, &last] {
            assert_eq!(
                dba.rows(&format!(
                    "SELECT * FROM tenancy.verify_audit('{}', {})",
                    acme.id,
                    quoted(against)
                )),
                Vec::<Vec<Option<String>>>::new()
            );
        }
        // Nobody else reads it.
        refused(
            world.session("acme.owner").attempt(&format!(
                "SELECT * FROM tenancy.verify_audit('{}')",
                acme.id
            )),
            "42501",
        );
        refused(
            world
                .session("globex.owner")
                .attempt(&format!("SELECT tenancy.audit_head('{}')", acme.id)),
            "42501",
        );
    }
}

#[test]
fn neither_slug_nor_key_is_ever_anothers() {
    let world = World::people();
    let acme = world.acme;
    let mut dba = world.superuser();
    let stranger = world.user("stranger");
    let again = |slug: &str, key: &str| {
        format!(
            "SELECT tenancy.create_org('A', '{slug}', owner => '{stranger}', external_key => '{key}')"
        )
    };
    dba.run(&format!(
        "ALTER DATABASE {} SET tenancy.max_owned_orgs = 1",
        world.db.name
    ));
    let mut dba = world.superuser();
    for part in [delete(acme), finish(acme.id)] {
        dba.run(&part);
        refused(dba.attempt(&again("acme", "k1")), "23505");
        refused(dba.attempt(&again("acme-2", "customer-7")), "23505");
        refused(
            dba.attempt(&format!(
                "SELECT tenancy.set_external_key('{}', 'customer-7')",
                world.globex.id
            )),
            "23505",
        );
    }
    // Who has given his one away may have another, from the mark on.
    let owner = world.user("acme.owner");
    dba.run(&format!(
        "SELECT tenancy.create_org('B', 'b', owner => '{owner}')"
    ));
    // His account is free to go when that one is gone, too.
    refused(
        dba.attempt(&format!("SELECT tenancy.delete_user('{owner}')")),
        "23514",
    );
}

#[test]
fn triggers_run_in_the_organization_and_in_no_other() {
    let world = World::new();
    let acme = world.acme;
    let mut dba = world.superuser();
    let owner = world.table_owner();
    dba.run(&format!(
        "CREATE TABLE outbox (id serial, org_id uuid, what text, seen int); CREATE TABLE watched (who text, org uuid, seen int, role text);
         GRANT ALL ON outbox, watched TO PUBLIC; GRANT USAGE ON SEQUENCE outbox_id_seq TO PUBLIC;
         ALTER TABLE outbox OWNER TO {owner}; SELECT tenancy.protect('outbox');
         CREATE FUNCTION gone() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO public.outbox (what, seen) SELECT OLD.name, count(*) FROM public.sites;
             INSERT INTO public.watched SELECT current_user, tenancy.current_org(), count(*), tenancy.current_role_name() FROM public.servers;
             RETURN NULL; END $$;
         CREATE TRIGGER gone AFTER DELETE ON servers FOR EACH ROW EXECUTE FUNCTION gone()"
    ));
    let mut session = world.session("acme.owner");
    session.run(&delete(acme));
    session.run(&finish(acme.id));
    // As the table's owner, who sees the rows of this organization only.
    let seen = dba.rows("SELECT DISTINCT who, org, seen <= 3, role FROM watched");
    assert_eq!(
        seen,
        [[
            Some(owner.clone()),
            Some(acme.id.to_string()),
            Some("t".into()),
            Some("deletion".into())
        ]]
    );
    for table in ["outbox", "servers", "sites"] {
        assert_eq!(world.seen(&mut world.break_glass(), table).0, 0, "{table}");
    }
    // Nothing of it stays in the session.
    assert_eq!(session.value("SELECT tenancy.current_org()"), None);
    assert_eq!(world.seen(&mut session, "servers"), (0, 0));
    let mut tables = world.db.login(&owner);
    assert_eq!(world.seen(&mut tables, "servers"), (0, 0));

    // A trigger that reaches for another organization fails, and so does the step.
    dba.run(&format!(
        "CREATE FUNCTION reach() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO public.outbox (org_id, what) VALUES ('{}', 'x'); RETURN NULL; END $$;
         CREATE OR REPLACE TRIGGER gone AFTER DELETE ON servers FOR EACH ROW EXECUTE FUNCTION reach()",
        Uuid::from_u128(9)
    ));
    let mut globex = world.session("globex.owner");
    globex.run(&delete(world.globex));
    refused(globex.attempt(&finish(world.globex.id)), "42501");
    // One that keeps rows is named.
    dba.run(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         DROP TRIGGER gone ON servers; CREATE TRIGGER keep BEFORE DELETE ON sites FOR EACH ROW EXECUTE FUNCTION keep();
         ALTER TABLE sites DROP CONSTRAINT sites_server_id_fkey",
    );
    let error = refused(globex.attempt(&finish(world.globex.id)), "55000");
    assert!(error.message().contains("sites"), "{error:?}");
    dba.run("ALTER TABLE sites DISABLE TRIGGER keep");
    globex.run(&finish(world.globex.id));
    assert_eq!(world.seen(&mut world.break_glass(), "sites"), (0, 0));
}

/// Whatever keeps a member from rows, or from removing them, keeps no deletion from them.
#[test]
fn rows_of_projects_resources_and_production_go_too() {
    for acme_has_projects in [true, false] {
        let world = World::people();
        let mut dba = world.superuser();
        dba.run(
            "CREATE TABLE racks (id int PRIMARY KEY, org_id uuid);
             CREATE TABLE jobs (id int PRIMARY KEY, org_id uuid, project_id uuid, rack int REFERENCES racks);
             CREATE TABLE machines (id int PRIMARY KEY, org_id uuid, environment text DEFAULT 'production');
             GRANT ALL ON racks, jobs, machines TO PUBLIC;
             SELECT tenancy.protect('racks', resource_type => 'rack');
             SELECT tenancy.protect('jobs', project_column => 'project_id');
             SELECT tenancy.protect('machines', environment_column => 'environment')",
        );
        for (org, first) in [(world.acme, 0), (world.globex, 100)] {
            let id = org.id;
            let mut sql = format!(
                "INSERT INTO racks VALUES ({first}, '{id}'); INSERT INTO machines VALUES ({first}, '{id}');
                 SELECT tenancy.set_production_protection('{id}', true);
                 SELECT tenancy.set_quota('{id}', 'racks', 1), tenancy.set_quota('{id}', 'jobs', 9);
                 SELECT tenancy.set_scope('{id}', '{}', 'racks', '{first}', 'none');",
                world.user(&format!("{}.member", org.slug))
            );
            for (i, access) in ["open", "restricted"].iter().enumerate() {
                if acme_has_projects || org.slug != "acme" {
                    sql += &format!(
                        "SELECT tenancy.create_project('{id}', '{access}', '{access}');
                         INSERT INTO jobs SELECT {first} + {i}, '{id}', id, {first} FROM tenancy.projects WHERE org_id = '{id}' AND name = '{access}';"
                    );
                }
            }
            sql += &format!("SELECT tenancy.set_strict_project_access('{id}', true)");
            dba.run(&format!(
                "BEGIN; SET LOCAL app.current_org = '{id}'; {sql}; COMMIT"
            ));
        }
        let mut owner = world.session("acme.owner");
        owner.run(&delete(world.acme));
        owner.run(&finish(world.acme.id));
        let mut glass = world.break_glass();
        for (table, theirs) in [("racks", 1), ("jobs", 2), ("machines", 1)] {
            let left = glass.column(&format!("SELECT DISTINCT org_id FROM {table}"));
            assert_eq!(left, [world.globex.id.to_string()], "{table}");
            assert_eq!(
                glass.count(&format!("SELECT count(*) FROM {table}")),
                theirs
            );
        }
        for table in ["projects", "quota_limits", "membership_scopes"] {
            let left = glass.column(&format!("SELECT DISTINCT org_id FROM tenancy.{table}"));
            assert_eq!(left, [world.globex.id.to_string()], "{table}");
        }
    }
}

#[test]
fn an_applications_own_policy_hides_no_row() {
    let world = World::new();
    let acme = world.acme;
    world.superuser().run(
        "ALTER TABLE sites ADD archived boolean DEFAULT false;
         CREATE POLICY live ON sites AS RESTRICTIVE USING (NOT archived)",
    );
    let mut owner = world.session("acme.owner");
    assert_eq!(world.seen(&mut owner, "sites"), (6, 0));
    world
        .break_glass()
        .run("UPDATE sites SET archived = id % 2 = 0");
    assert_eq!(world.seen(&mut owner, "sites"), (3, 0));
    owner.run(&delete(acme));
    owner.run(&finish(acme.id));
    assert_eq!(world.seen(&mut world.break_glass(), "sites"), (0, 6));
}

#[test]
fn two_finish_one_deletion_together() {
    let world = every_kind();
    let acme = world.acme;
    let mut owner = world.session("acme.owner");
    owner.run(&delete(acme));
    let finishers: Vec<_> = (0..4)
        .map(|n| {
            let mut session = if n % 2 == 0 {
                world.session("acme.owner")
            } else {
                world.superuser()
            };
            std::thread::spawn(move || {
                session
                    .attempt(&format!("CALL tenancy.finish_deletion('{}', 20)", acme.id))
                    .map_err(|e| code(&e))
            })
        })
        .collect();
    for finisher in finishers {
        finisher.join().unwrap().unwrap();
    }
    assert_eq!(rows(&world, acme.id, 7).0, Vec::<String>::new());
    let mut dba = world.superuser();
    assert_eq!(
        dba.count(&format!("SELECT count(*) FROM tenancy.read_audit_dba(operation => 'finish_deletion', org => '{}')", acme.id)),
        1
    );
    assert_eq!(
        dba.count("SELECT (removed ->> 'public.rings')::int FROM tenancy.list_tombstones()"),
        200
    );
}

#[test]
fn an_account_goes_with_its_memberships() {
    let world = World::new();
    let mut dba = world.superuser();
    let agency = world.user("agency");
    let delete_user = |who: &str| format!("SELECT tenancy.delete_user('{}')", world.user(who));
    for mut session in [
        world.session("acme.owner"),
        world.bound("agency"),
        world.nobody(),
        world.app(),
    ] {
        refused(session.attempt(&delete_user("agency")), "42501");
    }
    refused(dba.attempt(&delete_user("acme.owner")), "23514");
    refused(
        dba.attempt("SELECT tenancy.delete_user(gen_random_uuid())"),
        "22023",
    );
    let mut session = world.session("agency");
    session.run("INSERT INTO servers (id, name) VALUES (50, 'made by the agency')");
    dba.run(&delete_user("agency"));
    assert_eq!(session.value("SELECT tenancy.current_org()"), None);
    assert_eq!(
        dba.count(&format!(
            "SELECT count(*) FROM tenancy.memberships WHERE user_id = '{agency}'"
        )),
        0
    );
    assert_eq!(
        dba.count(&format!(
            "SELECT count(*) FROM tenancy.login_bindings WHERE user_id = '{agency}'"
        )),
        0
    );
    // The row and the log stay, in each organization.
    assert_eq!(
        world.seen(&mut world.session("acme.viewer"), "servers"),
        (4, 0)
    );
    for who in ["acme.owner", "globex.owner"] {
        let lines = world.session(who).column(
            "SELECT key ->> 'user_id' FROM tenancy.read_audit(operation => 'remove_member')",
        );
        assert_eq!(lines, [agency.to_string()]);
    }
    let log = world
        .session("acme.owner")
        .column("SELECT actor_id FROM tenancy.read_audit(object => 'public.servers')");
    assert_eq!(log, [agency.to_string()]);
}
