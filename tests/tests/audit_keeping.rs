//! What does not stay in the log for ever: values of one person erased, old lines purged; and that both are no tampering.

use pg_tenancy_audit_format::{self as format, Author, Layout, Moment, Salts};
use pg_tenancy_tests::{Db, Org, Session, World, refused};
use postgres::Error;

/// What verify_audit() finds in acme's log.
fn findings(world: &World) -> Vec<String> {
    world.superuser().column(&format!(
        "SELECT finding || ' ' || coalesce(detail, '') FROM tenancy.verify_audit('{}')",
        world.acme.id
    ))
}

/// What is wrong with acme's log in the light of a head that was handed out.
fn against(world: &World, head: &str) -> Vec<String> {
    world.superuser().column(&format!(
        "SELECT finding FROM tenancy.verify_audit('{}', against => $head${head}$head$)",
        world.acme.id
    ))
}

fn seal(world: &World) -> String {
    let mut dba = world.superuser();
    dba.rows(&format!(
        "SELECT * FROM tenancy.seal_audit('{}')",
        world.acme.id
    ));
    dba.text(&format!("SELECT tenancy.audit_head('{}')", world.acme.id))
}

fn people(world: &World) {
    world.superuser().run(
        "CREATE TABLE people (id int PRIMARY KEY, org_id uuid, name text, email text); GRANT ALL ON people TO PUBLIC;
         SELECT tenancy.protect('people')",
    );
    let mut admin = world.session("acme.admin");
    admin.run("INSERT INTO people (id, name, email) VALUES (1, 'Ada', 'ada@secret.example'), (2, 'Bob', 'bob@secret.example'), (3, 'Eve', 'eve@secret.example')");
    admin.run("UPDATE people SET email = 'ada2@secret.example' WHERE id = 1; UPDATE people SET id = 10 WHERE id = 1; UPDATE people SET name = 'Bobby' WHERE id = 2");
}

fn shown(session: &mut Session) -> Vec<String> {
    session.column("SELECT concat_ws(' ', operation, key, old, new) FROM tenancy.audit_log WHERE object = 'public.people' AND operation <> 'erase_audit' ORDER BY at, n")
}

#[test]
fn one_persons_values_are_erased_and_every_proof_holds() {
    let world = World::people();
    people(&world);
    let head = seal(&world);
    let mut owner = world.session("acme.owner");
    let before = shown(&mut owner);
    assert_eq!(before.len(), 6);
    owner.run("DELETE FROM people WHERE id = 10");
    // Under the key that it had, and then under the one that it got.
    assert_eq!(
        owner.count("SELECT tenancy.erase_audit('people', '1', reason => 'request 17')"),
        3
    );
    assert_eq!(
        owner.count("SELECT tenancy.erase_audit('people', '{\"id\": 10}', reason => 'request 17')"),
        1
    );
    assert_eq!(
        owner.count("SELECT tenancy.erase_audit('people', '1', reason => 'request 17')"),
        0
    );
    let after = shown(&mut owner);
    assert_eq!(after.len(), 7);
    assert_eq!(
        after
            .iter()
            .filter(|line| ["INSERT", "UPDATE", "DELETE"].contains(&line.as_str()))
            .count(),
        4,
        "{after:?}"
    );
    assert!(
        after
            .iter()
            .all(|line| !line.contains("Ada") && !line.contains("ada")),
        "{after:?}"
    );
    assert!(after.contains(&before[1]) && after.contains(&before[2]) && after.contains(&before[5]));
    // Nothing of it is left in the rows, and an export does not know it either.
    let store = format!("tenancy_audit.org_{}", world.acme.id.simple());
    let mut dba = world.superuser();
    for (text, left) in [("ada@secret", 0), ("ada2@secret", 0), ("bob@secret", 1)] {
        let count = dba.count(&format!(
            "SELECT count(*) FROM {store} WHERE position('{text}'::bytea in payload) > 0"
        ));
        assert_eq!(count, left, "{text}");
    }
    let export = owner.column("SELECT tenancy.export_audit('ndjson', evidence => true)");
    // Three letters may stand in any hash.
    let of_ada = ["Ada", "ada@", "ada2@"].map(|text| format!("\"{text}"));
    assert!(
        !export
            .iter()
            .any(|line| of_ada.iter().any(|text| line.contains(text)))
    );
    assert_eq!(
        export
            .iter()
            .filter(|line| line.contains("\"erased\":true"))
            .count(),
        4
    );
    // Who did what when is still there, and the log extends what was handed out before.
    assert_eq!(
        owner.count(&format!(
            "SELECT count(*) FROM tenancy.audit_log WHERE object = 'public.people' AND operation <> 'erase_audit' AND actor_id IN ('{}', '{}')",
            world.user("acme.admin"),
            world.user("acme.owner")
        )),
        7
    );
    assert_eq!(findings(&world), Vec::<String>::new());
    assert_eq!(against(&world, &head), Vec::<String>::new());
    seal(&world);
    assert_eq!(findings(&world), Vec::<String>::new());
    // The erasures are acts themselves.
    let acts = owner
        .json("SELECT * FROM tenancy.audit_log WHERE operation = 'erase_audit' ORDER BY at, n");
    assert_eq!(acts.len(), 2);
    assert_eq!(acts[0]["object"], "public.people");
    assert_eq!(acts[0]["new"]["reason"], "request 17");
    assert_eq!(acts[0]["new"]["lines"].as_array().unwrap().len(), 3);
    // The other organization's log was not touched, and what is erased stays so when it is rolled back not.
    owner.run("BEGIN; SELECT tenancy.erase_audit('people', '2', reason => 'x'); ROLLBACK");
    assert!(shown(&mut owner).contains(&before[1]));
}

/// A key is compared as PostgreSQL has it, whatever a number of a machine's could hold.
#[test]
fn a_number_of_any_length_names_its_row() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(
        "CREATE TABLE big (id numeric PRIMARY KEY, org_id uuid, name text); GRANT ALL ON big TO PUBLIC;
         SELECT tenancy.protect('big')",
    );
    let mut owner = world.session("acme.owner");
    for id in [
        "1e400",
        "123456789012345678901234567890",
        "0.1000000000000000000000000001",
    ] {
        owner.run(&format!("INSERT INTO big (id, name) VALUES ({id}, 'Ada')"));
        owner.run(&format!("DELETE FROM big WHERE id = {id}"));
        assert_eq!(
            owner.count(&format!(
                "SELECT tenancy.erase_audit('big', '{id}', reason => 'r')"
            )),
            2,
            "{id}"
        );
    }
    let left = owner.count(
        "SELECT count(*) FROM tenancy.audit_log WHERE coalesce(old, new)::text LIKE '%Ada%'",
    );
    assert_eq!(left, 0);
}

#[test]
fn erasing_and_purging_need_the_right_and_no_legal_hold() {
    let world = World::people();
    people(&world);
    let acts = [
        "SELECT tenancy.erase_audit('people', '1', reason => 'r')",
        "SELECT tenancy.set_audit_retention(30)",
        "SELECT tenancy.set_legal_hold(true, 'r')",
        "SELECT tenancy.purge_audit()",
    ];
    for who in [
        "acme.admin",
        "acme.member",
        "acme.viewer",
        "agency",
        "globex.viewer",
    ] {
        for sql in acts {
            refused(world.session(who).attempt(sql), "42501");
        }
    }
    for mut session in [world.bound("acme.owner"), world.nobody(), world.app()] {
        for sql in acts {
            refused(session.attempt(sql), "42501");
        }
    }
    let mut owner = world.session("acme.owner");
    refused(
        owner.attempt("SELECT tenancy.erase_audit('people', '1', reason => ' ')"),
        "22023",
    );
    refused(
        owner.attempt("SELECT tenancy.set_audit_retention(0)"),
        "22023",
    );
    owner.run(
        "SELECT tenancy.set_audit_retention(30); SELECT tenancy.set_legal_hold(true, 'case 7')",
    );
    refused(owner.attempt(acts[0]), "55000");
    refused(owner.attempt(acts[3]), "55000");
    assert_eq!(
        owner.rows("SELECT keep_days, legal_hold, hold_reason FROM tenancy.audit_retention"),
        [[
            Some("30".to_string()),
            Some("t".into()),
            Some("case 7".into())
        ]]
    );
    assert_eq!(
        world
            .session("globex.owner")
            .count("SELECT count(*) FROM tenancy.audit_retention"),
        0
    );
    owner.run("SELECT tenancy.set_legal_hold(false, 'case closed')");
    assert_eq!(owner.count(acts[0]), 3);
    assert_eq!(owner.count(acts[3]), 0);
    let told = owner.column("SELECT operation FROM tenancy.audit_log WHERE operation LIKE 'set\\_%' AND object = 'tenancy.audit_retention' ORDER BY at, n");
    assert_eq!(
        told,
        ["set_audit_retention", "set_legal_hold", "set_legal_hold"]
    );
}

/// Puts a chunk of governance acts into acme's log, as if it were written so many days ago: nothing else is old enough.
fn long_ago(world: &World, xid: u64, days: i64, lines: i32) {
    let at = format!("clock_timestamp() - interval '{days} days'");
    let table = format!("org_{}", world.acme.id.simple());
    put(world, world.acme, &table, xid, &at, lines);
}

/// Puts a chunk of governance acts into a table, as of a time that is an expression of SQL.
fn put(world: &World, org: Org, table: &str, xid: u64, at: &str, lines: i32) {
    let mut dba = world.break_glass();
    let at = dba.count(&format!(
        "SELECT (extract(epoch FROM ({at}) - timestamptz '2000-01-01 00:00+00') * 1000000)::bigint"
    ));
    let layout = Layout::of_acts();
    let author = Author {
        actor_type: "human".into(),
        db_role: "r".into(),
        result: "completed".into(),
        ..Author::default()
    };
    let context = author.context(&layout.digest, org.id.as_bytes());
    let salt = [5; 16];
    let mut salts = Salts::of(salt);
    let mut payload = vec![];
    format::put_head(&mut payload, &salt, &layout.id());
    for n in 0..lines {
        let mut body = vec![];
        format::put_act(&mut body, "old_act", "tenancy.orgs", "{}", None, None);
        let values = format::values(&salts.of_next_line(), &body);
        let leaf = format::leaf(&context, Moment { at, xid, n }, body[0], &values);
        format::put_line(&mut payload, 0, 0, n as u64, &leaf, &body);
    }
    let hex: String = payload.iter().map(|b| format!("{b:02x}")).collect();
    dba.run(&format!(
        "INSERT INTO tenancy_audit.{table} VALUES (timestamptz '2000-01-01 00:00+00' + interval '1 microsecond' * {at}, '{xid}', 0, {lines}, '{}',
             NULL, NULL, false, 'human', 'r', 'completed', NULL, NULL, '\\x{hex}')",
        org.id
    ));
}

/// Two organizations that share their tables, with this and the next month's.
fn shared() -> World {
    let db = Db::fresh();
    db.superuser().run(&format!(
        "ALTER DATABASE {} SET tenancy.dedicated_audit_limit = 0",
        db.name
    ));
    World::people_in(db)
}

/// The shared table of the month of a time, made if it is not there; with a row of each organization.
fn month(world: &World, at: &str, xid: u64, lines: i32) -> String {
    let mut dba = world.break_glass();
    let name = dba.text(&format!(
        "SELECT to_char(({at}) AT TIME ZONE 'UTC', '\"shared_\"YYYY_MM')"
    ));
    dba.run(&format!(
        "DO $$ BEGIN
             IF to_regclass('tenancy_audit.{name}') IS NULL THEN
                 EXECUTE 'CREATE TABLE tenancy_audit.{name} (LIKE tenancy_audit.' || to_char(now() AT TIME ZONE 'UTC', '\"shared_\"YYYY_MM') || ' INCLUDING ALL)';
             END IF;
         END $$"
    ));
    for org in [world.acme, world.globex] {
        put(world, org, &name, xid, at, lines);
    }
    name
}

fn is_there(world: &World, table: &str) -> bool {
    world.superuser().is_true(&format!(
        "SELECT to_regclass('tenancy_audit.{table}') IS NOT NULL"
    ))
}

/// How many of the lines that month() wrote somebody has.
fn old_acts(world: &World, who: &str) -> i64 {
    world
        .session(who)
        .count("SELECT count(*) FROM tenancy.audit_log WHERE operation = 'old_act'")
}

fn keep(world: &World, who: &str, days: i64) {
    world
        .session(who)
        .run(&format!("SELECT tenancy.set_audit_retention({days})"));
}

fn assert_whole(world: &World) {
    for org in [world.acme, world.globex] {
        let sql = format!(
            "SELECT finding || detail FROM tenancy.verify_audit('{}')",
            org.id
        );
        assert_eq!(world.superuser().column(&sql), Vec::<String>::new());
    }
}

fn seal_all(world: &World) {
    world.superuser().rows("SELECT * FROM tenancy.seal_audit()");
}

#[test]
fn a_month_of_which_nothing_is_kept_is_dropped_and_no_row_of_it_deleted() {
    let world = shared();
    let gone = month(&world, "clock_timestamp() - interval '400 days'", 3, 5);
    let kept = month(&world, "clock_timestamp() - interval '100 days'", 4, 7);
    seal_all(&world);
    keep(&world, "acme.owner", 300);
    keep(&world, "globex.owner", 300);
    let mut dba = world.break_glass();
    // What is deleted is counted, also by who rolls back.
    dba.run("BEGIN; SELECT tenancy.purge_audit(); ROLLBACK");
    dba.run("SELECT pg_stat_force_next_flush()");
    let deleted = "SELECT n_tup_del FROM pg_stat_all_tables WHERE relname = ";
    assert_eq!(dba.count(&format!("{deleted}'{gone}'")), 0);
    assert_eq!(dba.count("SELECT tenancy.purge_audit()"), 10);
    assert!(!is_there(&world, &gone) && is_there(&world, &kept));
    assert_eq!(old_acts(&world, "acme.owner"), 7);
    assert_eq!(old_acts(&world, "globex.owner"), 7);
    assert_whole(&world);
    assert_eq!(dba.count("SELECT tenancy.purge_audit()"), 0);
}

#[test]
fn a_month_that_one_of_its_organizations_keeps_stays() {
    let world = shared();
    let name = month(&world, "clock_timestamp() - interval '400 days'", 3, 5);
    seal_all(&world);
    keep(&world, "acme.owner", 300);
    keep(&world, "globex.owner", 300);
    let mut owner = world.session("globex.owner");
    owner.run("SELECT tenancy.set_legal_hold(true, 'court')");
    let mut dba = world.superuser();
    assert_eq!(dba.count("SELECT tenancy.purge_audit()"), 5);
    assert!(is_there(&world, &name));
    assert_eq!(old_acts(&world, "acme.owner"), 0);
    assert_eq!(old_acts(&world, "globex.owner"), 5);
    assert_whole(&world);
    owner.run("SELECT tenancy.set_legal_hold(false, 'over')");
    // Somebody looks at it: its rows go, and the table when nobody does.
    let mut reader = world.break_glass();
    dba.run("SET lock_timeout = '10s'");
    reader.run(&format!("BEGIN; SELECT count(*) FROM tenancy_audit.{name}"));
    assert_eq!(dba.count("SELECT tenancy.purge_audit()"), 5);
    assert!(is_there(&world, &name));
    reader.run("COMMIT");
    assert_eq!(old_acts(&world, "globex.owner"), 0);
    assert_whole(&world);
}

#[test]
fn the_dba_lets_those_who_share_go_on_to_the_end_of_a_month() {
    let world = shared();
    // Half way between the month's beginning and what is kept.
    let cut = "(clock_timestamp() - interval '60 days')";
    let start = format!("date_trunc('month', {cut}, 'UTC')");
    let at = format!("{start} + ({cut} - {start}) / 2 - interval '1 minute'");
    let name = month(&world, &at, 3, 5);
    seal_all(&world);
    keep(&world, "acme.owner", 60);
    assert_eq!(world.superuser().count("SELECT tenancy.purge_audit()"), 0);
    assert_eq!(old_acts(&world, "acme.owner"), 5);
    // An owner's own run is to the day.
    assert_eq!(
        world
            .session("acme.owner")
            .count("SELECT tenancy.purge_audit()"),
        5
    );
    assert_eq!(old_acts(&world, "acme.owner"), 0);
    assert_eq!(old_acts(&world, "globex.owner"), 5);
    assert!(is_there(&world, &name));
    assert_whole(&world);
}

#[test]
fn two_purges_at_once_remove_everything_once() {
    let world = World::people();
    long_ago(&world, 3, 400, 5);
    seal(&world);
    keep(&world, "acme.owner", 300);
    let mut first = world.session("acme.owner");
    first.run("BEGIN");
    assert_eq!(first.count("SELECT tenancy.purge_audit()"), 5);
    std::thread::scope(|scope| {
        let second = scope.spawn(|| world.superuser().count("SELECT tenancy.purge_audit()"));
        // Until it waits.
        let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let mut dba = world.superuser();
        while !dba.is_true(waits) {
            assert!(!second.is_finished(), "it did not wait");
        }
        first.run("COMMIT");
        assert_eq!(second.join().expect("it does not fail"), 0);
    });
    assert_eq!(old_acts(&world, "acme.owner"), 0);
    assert_whole(&world);
    let acts = "SELECT count(*) FROM tenancy.audit_log WHERE operation = 'purge_audit'";
    assert_eq!(world.session("acme.owner").count(acts), 1);
}

/// Runs `sql` in a session that waits for another, which then commits; what it answers.
fn after_waiting(world: &World, other: &mut Session, who: &str, sql: &str) -> Result<u64, Error> {
    std::thread::scope(|scope| {
        let second = scope.spawn(|| world.session(who).attempt(sql));
        let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let mut dba = world.superuser();
        while !dba.is_true(waits) {
            assert!(!second.is_finished(), "it did not wait");
        }
        other.run("COMMIT");
        second.join().expect("no panic")
    })
}

#[test]
fn a_hold_that_comes_while_a_purge_or_an_erasing_waits_is_minded() {
    let world = World::people();
    people(&world);
    long_ago(&world, 3, 400, 5);
    seal(&world);
    keep(&world, "acme.owner", 300);
    for act in [
        "SELECT tenancy.purge_audit()",
        "SELECT tenancy.erase_audit('people', '2', reason => 'request')",
    ] {
        let mut owner = world.session("acme.owner");
        owner.run("SELECT tenancy.set_legal_hold(false, 'not yet')");
        owner.run("BEGIN; SELECT tenancy.set_legal_hold(true, 'court')");
        refused(
            after_waiting(&world, &mut owner, "acme.owner", act),
            "55000",
        );
    }
    assert_eq!(old_acts(&world, "acme.owner"), 5);
    assert_whole(&world);
}

#[test]
fn what_is_older_than_it_is_kept_is_purged_and_verifies() {
    let world = World::people();
    // Before the first pass of sealing, which takes everything.
    long_ago(&world, 3, 400, 5);
    long_ago(&world, 4, 200, 7);
    long_ago(&world, 5, 20, 2);
    let mut owner = world.session("acme.owner");
    let old = |owner: &mut Session| {
        owner.count("SELECT count(*) FROM tenancy.audit_log WHERE operation = 'old_act'")
    };
    assert_eq!(old(&mut owner), 14);
    // Without a rule, and before it is sealed, nothing goes.
    assert_eq!(owner.count("SELECT tenancy.purge_audit()"), 0);
    owner.run("SELECT tenancy.set_audit_retention(300)");
    assert_eq!(owner.count("SELECT tenancy.purge_audit()"), 0);
    let head = seal(&world);
    assert_eq!(owner.count("SELECT tenancy.purge_audit()"), 5);
    assert_eq!(old(&mut owner), 9);
    assert_eq!(findings(&world), Vec::<String>::new());
    // By the DBA, of all organizations.
    owner.run("SELECT tenancy.set_audit_retention(30)");
    let mut dba = world.superuser();
    assert_eq!(dba.count("SELECT tenancy.purge_audit()"), 7);
    assert_eq!(dba.count("SELECT tenancy.purge_audit()"), 0);
    assert_eq!(old(&mut owner), 2);
    assert_eq!(findings(&world), Vec::<String>::new());
    // The head that was handed out before still holds.
    assert_eq!(against(&world, &head), Vec::<String>::new());
    let acts = owner
        .json("SELECT * FROM tenancy.audit_log WHERE operation = 'purge_audit' ORDER BY at, n");
    assert_eq!(acts.len(), 2);
    assert_eq!(acts[0]["new"]["lines"], 5);
    assert_eq!(acts[1]["new"]["up_to_line"], 12);
    // What somebody removes besides is named.
    let store = format!("tenancy_audit.org_{}", world.acme.id.simple());
    let mut vandal = world.break_glass();
    vandal.run(&format!(
        "ALTER TABLE {store} DISABLE TRIGGER USER; DELETE FROM {store} WHERE xid = '5'"
    ));
    assert!(!findings(&world).is_empty());
}

#[test]
fn an_organization_without_a_table_gets_one() {
    let world = World::people();
    let mut glass = world.break_glass();
    // As replication brings it.
    glass.run(&format!(
        "INSERT INTO tenancy.orgs (id, name, slug, owner_id, audit_store) VALUES ('11111111-2222-3333-4444-555555555555', 'Late', 'late', '{}', 'dedicated')",
        world.user("stranger")
    ));
    glass.run(
        "CREATE TABLE notes (id int PRIMARY KEY, org_id uuid); GRANT ALL ON notes TO PUBLIC; SELECT tenancy.protect('notes')",
    );
    let mut session = world.bound("stranger");
    session.run("SET app.current_org = '11111111-2222-3333-4444-555555555555'");
    session.run("BEGIN; INSERT INTO notes VALUES (1); ROLLBACK");
    session.run("INSERT INTO notes VALUES (2)");
    assert_eq!(
        session.column("SELECT key ->> 'id' FROM tenancy.audit_log WHERE object = 'public.notes'"),
        ["2"]
    );
    assert_eq!(
        glass.count("SELECT count(*) FROM tenancy_audit.org_11111111222233334444555555555555"),
        1
    );
}
