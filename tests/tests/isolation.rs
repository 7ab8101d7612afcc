//! The one property: whatever a statement says, it reads and changes the context's org only. Attacks A3, A6, A12, C13, E1, E2.
//!
//! The oracle: the same statement on copies of the tables that hold nothing but the org's own rows.

use std::sync::{Arc, Mutex};

use pg_tenancy_tests::{Org, Rows, Session, World, fails, refused};

/// Statements that name no org. Sorted results are compared, so no ORDER BY is needed.
const READS: &[&str] = &[
    "SELECT * FROM servers",
    "TABLE sites",
    "SELECT name FROM servers WHERE true OR org_id IS NULL",
    "SELECT name FROM servers WHERE id = 101",
    "SELECT name FROM servers WHERE id = ANY ('{1,2,101,102}')",
    "SELECT name FROM servers WHERE name LIKE '%server%'",
    "SELECT count(*), sum(cpus), min(name), max(name), array_agg(id ORDER BY id) FROM servers",
    "SELECT region, count(*) FROM servers GROUP BY ROLLUP (region)",
    "SELECT v.name, s.name FROM servers v JOIN sites s ON s.server_id = v.id",
    "SELECT v.name, s.name FROM servers v CROSS JOIN sites s",
    "SELECT v.name, s.name FROM servers v LEFT JOIN sites s ON s.id = v.id + 100",
    "SELECT r.code, v.name FROM regions r FULL JOIN servers v ON v.region = r.code",
    "SELECT * FROM sites NATURAL JOIN (SELECT id AS server_id, cpus FROM servers) v",
    "SELECT v.name, l.name FROM servers v, LATERAL (SELECT name FROM sites WHERE server_id = v.id LIMIT 1000) l",
    "SELECT name, (SELECT count(*) FROM sites) FROM servers",
    "SELECT name FROM servers WHERE EXISTS (SELECT FROM sites WHERE server_id <> servers.id)",
    "SELECT name FROM servers WHERE id NOT IN (SELECT server_id FROM sites WHERE visits > 1000)",
    "WITH a AS MATERIALIZED (SELECT * FROM servers) SELECT a.name, b.name FROM a JOIN a b USING (region)",
    "WITH RECURSIVE r(id, name) AS (SELECT id, name FROM servers UNION SELECT s.id, s.name FROM sites s, r) SELECT * FROM r",
    "SELECT name FROM servers UNION ALL SELECT name FROM sites",
    "SELECT name FROM servers EXCEPT SELECT name FROM sites",
    "SELECT name, rank() OVER (ORDER BY cpus), lead(name) OVER (ORDER BY id) FROM servers",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY visits) FROM sites",
    "SELECT DISTINCT org_id FROM servers",
    "SELECT count(*) FROM servers TABLESAMPLE BERNOULLI (100)",
    "SELECT name FROM sites TABLESAMPLE SYSTEM (100)",
    "SELECT xmin IS NOT NULL, tableoid::regclass::text <> '' FROM servers",
    "SELECT to_jsonb(v) FROM servers v",
    "SELECT v FROM servers v",
    "SELECT string_agg(name, ',' ORDER BY id) FROM ONLY servers",
    "SELECT count(*) FROM servers WHERE name IN (SELECT name FROM servers OFFSET 0)",
    "SELECT query_to_xml('SELECT name FROM servers ORDER BY id', true, false, '')::text",
    "SELECT CASE WHEN EXISTS (SELECT FROM servers WHERE id = 101) THEN 'there' ELSE 'not' END",
    "SELECT name FROM sites ORDER BY visits DESC, id FETCH FIRST 4 ROWS WITH TIES",
    "SELECT every(visits >= 0), bool_or(id > 100) FROM sites",
];

/// Statements that change or lock rows.
const WRITES: &[&str] = &[
    "UPDATE sites SET visits = visits + 1",
    "UPDATE sites SET visits = 1 WHERE id > 3 OR true RETURNING id, name",
    "UPDATE sites SET name = 'acme-' || sites.id FROM servers v WHERE v.id = sites.server_id RETURNING *",
    "UPDATE sites SET visits = (SELECT sum(cpus) FROM servers)",
    "UPDATE servers SET cpus = 7 WHERE id IN (SELECT server_id FROM sites)",
    "UPDATE servers SET id = id + 1000",
    "DELETE FROM sites",
    "DELETE FROM sites USING servers v WHERE v.id <> server_id RETURNING sites.name",
    "DELETE FROM servers WHERE id >= 2",
    "DELETE FROM servers RETURNING name",
    "WITH d AS (DELETE FROM sites RETURNING *) SELECT count(*), min(name) FROM d",
    "WITH u AS (UPDATE servers SET cpus = 5 RETURNING id) DELETE FROM sites USING u WHERE server_id = u.id",
    "INSERT INTO sites (id, name) SELECT id + 5000, name FROM sites RETURNING name",
    "INSERT INTO sites (id, name) SELECT id, 'acme-' || id FROM sites ON CONFLICT (id) DO UPDATE SET name = excluded.name || sites.name RETURNING name",
    "MERGE INTO sites t USING servers v ON t.server_id = v.id WHEN MATCHED AND t.id % 2 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET visits = v.cpus",
    "MERGE INTO sites t USING (SELECT generate_series(1, 9) AS id) n ON t.id = n.id WHEN MATCHED THEN UPDATE SET visits = 0 WHEN NOT MATCHED THEN INSERT (id, name) VALUES (n.id, 'acme-new')",
    "SELECT name FROM sites FOR UPDATE",
    "SELECT name FROM sites FOR NO KEY UPDATE SKIP LOCKED",
];

const STATE: &str = "SELECT 'server', v.id, v.name, v.cpus::text FROM servers v UNION ALL
    SELECT 'site', s.id, s.name, s.visits::text FROM sites s";

fn sorted(mut rows: Rows) -> Rows {
    rows.sort();
    rows
}

/// Copies with the rows of one org, or of none, where the superuser runs the same statements.
fn make_copies(world: &World) {
    let mut dba = world.break_glass();
    for (schema, condition) in [
        ("only_acme", format!("org_id = '{}'", world.acme.id)),
        ("only_none", "false".to_string()),
    ] {
        dba.run(&format!(
            "CREATE SCHEMA {schema};
             CREATE TABLE {schema}.regions (LIKE regions INCLUDING ALL); INSERT INTO {schema}.regions TABLE regions;
             CREATE TABLE {schema}.servers (LIKE servers INCLUDING INDEXES);
             INSERT INTO {schema}.servers SELECT * FROM servers WHERE {condition};
             CREATE TABLE {schema}.sites (LIKE sites INCLUDING INDEXES,
                 FOREIGN KEY (server_id) REFERENCES {schema}.servers ON UPDATE CASCADE ON DELETE CASCADE);
             INSERT INTO {schema}.sites SELECT * FROM sites WHERE {condition};
             ALTER TABLE {schema}.servers ALTER org_id DROP NOT NULL, ALTER cpus SET DEFAULT 1, ALTER firewall_rules SET DEFAULT '';
             ALTER TABLE {schema}.sites ALTER org_id SET DEFAULT '{}', ALTER visits SET DEFAULT 0, ALTER certificate SET DEFAULT '';",
            world.acme.id
        ));
    }
}

/// The same as a superuser on the copies, rolled back.
fn expected(world: &World, schema: &str, sql: &str) -> (Rows, Rows) {
    let mut dba = world.superuser();
    dba.run(&format!("SET search_path = {schema}; BEGIN"));
    let rows = sorted(dba.rows(sql));
    let state = sorted(dba.rows(STATE));
    dba.run("ROLLBACK");
    (rows, state)
}

/// Rows of globex, all of them.
fn others(world: &World) -> (String, String) {
    (
        world.hash("servers", world.globex),
        world.hash("sites", world.globex),
    )
}

#[test]
fn every_read_sees_the_contexts_org_only() {
    let world = World::new();
    make_copies(&world);
    let mut app = world.app();
    let mut bound = world.session("acme.viewer");
    for sql in READS {
        let (rows, _) = expected(&world, "only_acme", sql);
        world.begin(&mut app, world.acme, "acme.viewer");
        assert_eq!(sorted(app.rows(sql)), rows, "{sql}");
        app.run("COMMIT");
        assert_eq!(sorted(bound.rows(sql)), rows, "{sql}");
        // As a prepared statement of the driver, which has another protocol.
        if !sql.contains("SELECT v FROM") {
            world.begin(&mut app, world.acme, "acme.viewer");
            assert_eq!(app.query(*sql, &[]).unwrap().len(), rows.len(), "{sql}");
            app.run("COMMIT");
        }
    }
}

#[test]
fn without_a_context_or_with_a_strangers_claim_there_is_nothing() {
    let world = World::new();
    make_copies(&world);
    let mut member_of_another = world.bound("globex.owner");
    member_of_another.run(&format!("SET app.current_org = '{}'", world.acme.id));
    let mut app_for_another = world.session_app();
    app_for_another.run(&format!(
        "SET app.current_org = '{}'; SET app.current_user_id = '{}'",
        world.acme.id,
        world.user("globex.owner")
    ));
    let mut sessions = [
        world.bound("acme.owner"),
        world.app(),
        world.nobody(),
        world.session("stranger"),
        member_of_another,
        app_for_another,
    ];
    let before = (
        others(&world),
        world.hash("servers", world.acme),
        world.hash("sites", world.acme),
    );
    for sql in READS {
        let (rows, _) = expected(&world, "only_none", sql);
        for session in &mut sessions {
            assert_eq!(sorted(session.rows(sql)), rows, "{sql}");
        }
    }
    for sql in WRITES {
        for session in &mut sessions {
            match session.attempt(sql) {
                // A locking read is a read: it may find nothing instead.
                Ok(0) if sql.starts_with("SELECT") => {}
                result => {
                    refused(result, "42501");
                }
            }
        }
    }
    assert_eq!(
        (
            others(&world),
            world.hash("servers", world.acme),
            world.hash("sites", world.acme)
        ),
        before
    );
}

#[test]
fn every_write_changes_the_contexts_org_only() {
    let world = World::new();
    make_copies(&world);
    let before = others(&world);
    let mut app = world.app();
    for sql in WRITES {
        let (rows, state) = expected(&world, "only_acme", sql);
        world.begin(&mut app, world.acme, "acme.owner");
        let result = app.try_rows(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        // What RETURNING shows, what is there afterwards, and what is there of the other org, as anybody sees it.
        if !sql.contains("RETURNING *") {
            assert_eq!(sorted(result), rows, "{sql}");
        }
        assert_eq!(sorted(app.rows(STATE)), state, "{sql}");
        app.run("ROLLBACK");
        // The same for good, to look at the other org's rows from outside.
        world.begin(&mut app, world.acme, "acme.owner");
        app.run(sql);
        app.run("COMMIT");
        assert_eq!(others(&world), before, "{sql}");
        restore(&world);
    }
}

/// Brings acme's rows back to what the copies hold.
fn restore(world: &World) {
    world.break_glass().run(&format!(
        "BEGIN; DELETE FROM sites WHERE org_id = '{0}'; DELETE FROM servers WHERE org_id = '{0}';
         INSERT INTO servers TABLE only_acme.servers; INSERT INTO sites TABLE only_acme.sites; COMMIT",
        world.acme.id
    ));
}

#[test]
fn c13_cursors_and_row_addresses() {
    let world = World::new();
    let mut dba = world.superuser();
    let foreign = dba.text("SELECT ctid FROM servers WHERE id = 101");
    let own = dba.text("SELECT ctid FROM servers WHERE id = 1");
    let mut session = world.session("acme.admin");
    assert_eq!(
        session.run(&format!("SELECT * FROM servers WHERE ctid = '{foreign}'")),
        0
    );
    assert_eq!(
        session.run(&format!("SELECT * FROM servers WHERE ctid = '{own}'")),
        1
    );
    assert_eq!(
        session.run("SELECT * FROM servers WHERE ctid >= '(0,0)'"),
        3
    );
    assert_eq!(
        session.run(&format!(
            "UPDATE servers SET cpus = 99 WHERE ctid = '{foreign}'"
        )),
        0
    );
    assert_eq!(
        session.run(&format!("DELETE FROM servers WHERE ctid = '{foreign}'")),
        0
    );

    let mut app = world.app();
    world.begin(&mut app, world.acme, "acme.admin");
    app.run("DECLARE c SCROLL CURSOR FOR SELECT name FROM servers ORDER BY id");
    assert_eq!(
        app.column("FETCH ALL FROM c"),
        ["acme-server-1", "acme-server-2", "acme-server-3"]
    );
    assert_eq!(app.text("FETCH FIRST FROM c"), "acme-server-1");
    app.run("DECLARE d CURSOR FOR SELECT * FROM sites ORDER BY id FOR UPDATE");
    app.run("FETCH 1 FROM d");
    assert_eq!(
        app.run("UPDATE sites SET visits = 99 WHERE CURRENT OF d"),
        1
    );
    app.run("COMMIT");
    // A cursor of a function, in a context that came before it.
    session.run("BEGIN");
    session.run(
        "DO $$ DECLARE c refcursor := 'named'; BEGIN OPEN c FOR SELECT name FROM public.sites; END $$",
    );
    assert_eq!(session.run("FETCH ALL FROM named"), 6);
    session.run("COMMIT");
}

#[test]
fn a6_a_plan_made_in_one_org_serves_the_other() {
    let world = World::new();
    for mode in ["force_generic_plan", "force_custom_plan", "auto"] {
        let mut app = world.app();
        app.run(&format!("SET plan_cache_mode = {mode}"));
        app.run("PREPARE names AS SELECT string_agg(name, ',' ORDER BY id) FROM servers");
        app.run("PREPARE one(int) AS SELECT count(*) FROM servers WHERE id = $1");
        app.run("PREPARE touch AS UPDATE sites SET visits = visits + 1");
        for _ in 0..7 {
            for (org, own, foreign) in [(world.acme, 1, 101), (world.globex, 101, 1)] {
                world.begin(&mut app, org, &format!("{}.admin", org.slug));
                let names = app.text("EXECUTE names");
                assert!(
                    names.split(',').all(|name| name.starts_with(org.slug)),
                    "{mode}: {names}"
                );
                assert_eq!(names.split(',').count(), 3);
                assert_eq!(app.count(&format!("EXECUTE one({own})")), 1);
                assert_eq!(app.count(&format!("EXECUTE one({foreign})")), 0);
                assert_eq!(app.run("EXECUTE touch"), 6);
                app.run("COMMIT");
            }
            // And without any.
            app.run("BEGIN");
            assert_eq!(app.value("EXECUTE names"), None);
            refused(app.attempt("EXECUTE touch"), "42501");
            app.run("ROLLBACK");
        }
    }
}

#[test]
fn a6_functions_keep_their_plans_and_not_their_org() {
    let world = World::new();
    world.superuser().run(
        "CREATE FUNCTION total() RETURNS bigint LANGUAGE plpgsql AS
             $$ BEGIN RETURN (SELECT sum(id) FROM public.servers); END $$;
         CREATE FUNCTION total_sql() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT sum(id) FROM public.servers'",
    );
    let mut app = world.app();
    for _ in 0..7 {
        for (org, sum) in [(world.acme, 6), (world.globex, 306)] {
            world.begin(&mut app, org, &format!("{}.viewer", org.slug));
            assert_eq!(app.count("SELECT total()"), sum);
            assert_eq!(app.count("SELECT total_sql()"), sum);
            app.run("COMMIT");
        }
    }
}

#[test]
fn a6_the_drivers_prepared_statements_across_orgs() {
    let world = World::new();
    let mut app = world.app();
    let statement = app
        .prepare("SELECT name FROM servers WHERE id > $1")
        .unwrap();
    for _ in 0..7 {
        for org in [world.acme, world.globex] {
            world.begin(&mut app, org, &format!("{}.viewer", org.slug));
            let names: Vec<String> = app
                .query(&statement, &[&0])
                .unwrap()
                .iter()
                .map(|row| row.get(0))
                .collect();
            assert_eq!(names.len(), 3);
            assert!(
                names.iter().all(|name| name.starts_with(org.slug)),
                "{names:?}"
            );
            app.run("COMMIT");
        }
    }
}

#[test]
fn a_cheap_function_in_where_sees_no_other_orgs_row() {
    let world = World::new();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ear = heard.clone();
    let mut config = world.db.config(&world.db.role("acme.viewer"));
    config.notice_callback(move |notice| ear.lock().unwrap().push(notice.message().to_string()));
    let mut session = world.db.connect(&config);
    session.run(&format!("SET app.current_org = '{}'", world.acme.id));
    session.run(
        "CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
             $$ BEGIN RAISE NOTICE 'leak %', $1; RETURN true; END $$",
    );
    for sql in [
        "SELECT * FROM servers WHERE pg_temp.leak(name)",
        "SELECT * FROM sites s JOIN servers v ON v.id = s.server_id AND pg_temp.leak(v.name) WHERE pg_temp.leak(s.name)",
        "SELECT * FROM (SELECT name FROM servers OFFSET 0) q WHERE pg_temp.leak(name)",
    ] {
        session.run(sql);
    }
    let heard = heard.lock().unwrap();
    assert!(heard.iter().any(|m| m.contains("acme-")), "{heard:?}");
    assert!(!heard.iter().any(|m| m.contains("globex-")), "{heard:?}");
}

#[test]
fn e2_an_error_shows_no_other_orgs_values() {
    let world = World::new();
    let mut admin = world.session("acme.admin");
    for sql in [
        "INSERT INTO servers (id, name) VALUES (101, 'x')",
        "UPDATE servers SET id = 101 WHERE id = 1",
        "SELECT 1 / (id - 101) FROM servers",
        "SELECT name::int FROM servers",
        "UPDATE sites SET visits = 1 WHERE id = 101 AND 1 / 0 = 1",
    ] {
        if let Err(error) = admin.attempt(sql) {
            assert!(!format!("{error:?}").contains("globex"), "{sql}: {error:?}");
        }
    }
    assert!(admin.attempt("SELECT 1 / (id - 101) FROM servers").is_ok());
}

#[test]
fn e4_column_statistics_are_hidden() {
    let world = World::new();
    world.superuser().run("ANALYZE servers; ANALYZE sites");
    for mut session in [world.session("acme.viewer"), world.app(), world.nobody()] {
        assert_eq!(
            session.count("SELECT count(*) FROM pg_stats WHERE tablename IN ('servers', 'sites')"),
            0
        );
    }
}

#[test]
fn a12_our_own_tables_tell_of_ones_own_orgs_only() {
    let world = World::new();
    let see = |session: &mut Session| {
        let slugs = session.column("SELECT slug FROM tenancy.orgs ORDER BY slug");
        let members = session.column("SELECT DISTINCT org_id FROM tenancy.memberships ORDER BY 1");
        let emails = session.column("SELECT email FROM tenancy.users ORDER BY email");
        (slugs, members, emails)
    };
    // A member: his org, its members, their names.
    let (slugs, members, emails) = see(&mut world.session("acme.member"));
    assert_eq!(slugs, ["acme"]);
    assert_eq!(members, [world.acme.id.to_string()]);
    assert!(
        emails.contains(&"owner@acme.test".to_string()),
        "{emails:?}"
    );
    assert!(!emails.iter().any(|e| e.contains("globex")), "{emails:?}");
    assert!(
        !emails.contains(&"example@stranger.test".to_string()),
        "{emails:?}"
    );
    // A stranger: himself at most.
    for context in [true, false] {
        let mut stranger = if context {
            world.session("stranger")
        } else {
            world.bound("stranger")
        };
        let (slugs, members, emails) = see(&mut stranger);
        assert!(
            slugs.is_empty() && members.is_empty(),
            "{slugs:?} {members:?}"
        );
        assert!(emails.iter().all(|e| e.contains("stranger")), "{emails:?}");
    }
    // Nobody: nothing; the application without a context: nothing.
    for mut session in [world.nobody(), world.app()] {
        let (slugs, members, emails) = see(&mut session);
        assert!(slugs.is_empty() && members.is_empty() && emails.is_empty());
    }
    // In a claim that is not backed: nothing of that org.
    let mut session = world.bound("acme.owner");
    session.run(&format!("SET app.current_org = '{}'", world.globex.id));
    let (slugs, members, emails) = see(&mut session);
    assert!(!slugs.contains(&"globex".to_string()));
    assert!(!members.contains(&world.globex.id.to_string()));
    assert!(!emails.iter().any(|e| e.contains("globex")), "{emails:?}");
    // Without team:read one sees oneself and no other member.
    let (_, _, emails) = see(&mut world.session("acme.viewer"));
    assert!(
        !emails.contains(&"admin@acme.test".to_string()),
        "{emails:?}"
    );
    // What is protected is no secret's hiding place: it names tables, not orgs.
    fails(
        world
            .nobody()
            .attempt("SELECT * FROM tenancy.login_bindings"),
        "42501",
    );
}

#[test]
fn a12_no_function_tells_another_orgs_name() {
    let world = World::new();
    let mut stranger = world.bound("stranger");
    for org in [world.acme, world.globex] {
        for value in [org.id.to_string(), org.key.to_string()] {
            stranger.run(&format!("SET app.current_org = '{value}'"));
            let me = stranger.whoami().to_string();
            assert!(!me.contains(org.name), "{me}");
            assert!(
                !(value == org.key && me.contains(&org.id.to_string())),
                "{me}"
            );
            let error = refused(stranger.attempt("DELETE FROM sites"), "42501");
            assert!(!format!("{error:?}").contains(org.name), "{error:?}");
        }
    }
}

#[test]
fn two_sessions_at_once_do_not_mix() {
    let world = Arc::new(World::new());
    let threads: Vec<_> = [world.acme, world.globex, world.acme, world.globex]
        .into_iter()
        .map(|org: Org| {
            let world = world.clone();
            std::thread::spawn(move || {
                let mut app = world.app();
                for _ in 0..50 {
                    world.begin(&mut app, org, &format!("{}.member", org.slug));
                    let names = app.column("SELECT name FROM sites");
                    assert!(
                        names.iter().all(|name| name.starts_with(org.slug)),
                        "{names:?}"
                    );
                    app.run("UPDATE sites SET visits = visits + 1 WHERE id % 100 = 1");
                    app.run("COMMIT");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(
        world
            .superuser()
            .column("SELECT visits FROM sites WHERE id IN (1, 101) ORDER BY id"),
        ["110", "110"]
    );
}

#[test]
fn c8_a_merge_that_reads_no_column_is_refused() {
    // PostgreSQL puts no SELECT policy on a MERGE whose target is not read, so that every org's rows match.
    let world = World::new();
    let before = others(&world);
    let mut admin = world.session("acme.admin");
    admin.run("SELECT tenancy.current_org()");
    for act in ["DELETE", "UPDATE SET visits = 0"] {
        refused(
            admin.attempt(&format!(
                "MERGE INTO sites t USING (SELECT 1) n ON true WHEN MATCHED THEN {act}"
            )),
            "42501",
        );
    }
    assert_eq!(
        admin.run("MERGE INTO sites t USING (SELECT 1) n ON t.id > 0 WHEN MATCHED THEN DELETE"),
        6
    );
    assert_eq!(others(&world), before);
}
