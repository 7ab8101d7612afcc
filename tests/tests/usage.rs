//! Usage records and reports, and measured usage (spec 10).

use std::sync::Barrier;

use pg_tenancy_tests::{Session, Uuid, World, assert_same_error, fails, refused};

const PROJECT: &str = "11111111-1111-1111-1111-111111111111";
const CLUSTER: &str = "22222222-2222-2222-2222-222222222222";

/// The application acts as a service in acme.
fn serve(world: &World) -> Session {
    let mut app = world.session_app();
    app.run(&format!("SET app.current_org = '{}'", world.acme.id));
    app
}

fn report(session: &mut Session, arguments: &str) -> Vec<String> {
    session.column(&format!(
        "SELECT concat_ws(' ', metric, left(project_id::text, 1), left(cluster_id::text, 1), environment, quantity, records)
         FROM tenancy.usage_report({arguments})"
    ))
}

/// Projects and clusters with ids of the test's own choice.
fn place(world: &World, org: Uuid, project: &str, access: &str, clusters: &[&str]) {
    let mut dba = world.break_glass();
    dba.run(&format!(
        "INSERT INTO tenancy.projects (id, org_id, name, access) VALUES ('{project}', '{org}', '{project}-', '{access}')"
    ));
    for cluster in clusters {
        dba.run(&format!(
            "INSERT INTO tenancy.clusters (id, org_id, project_id, name) VALUES ('{cluster}', '{org}', '{project}', '{cluster}-')"
        ));
    }
}

#[test]
fn services_record_and_payers_read() {
    let world = World::people();
    let mut app = serve(&world);
    assert!(app.is_true("SELECT tenancy.record_usage('cpu_seconds', 1.5)"));
    // For the user it names, too: it is still the application that counts.
    world.begin(&mut app, world.acme, "acme.viewer");
    assert!(app.is_true("SELECT tenancy.record_usage('cpu_seconds', 2)"));
    refused(
        app.attempt_within("SELECT tenancy.record_usage('cpu_seconds', -2)"),
        "42501",
    );
    app.run("COMMIT");
    // But for no other organization than the one it acts in.
    refused(
        app.attempt(&format!(
            "SELECT tenancy.record_usage('cpu_seconds', 1, org => '{}')",
            world.globex.id
        )),
        "42501",
    );
    for who in ["acme.owner", "acme.member", "globex.owner"] {
        refused(
            world
                .session(who)
                .attempt("SELECT tenancy.record_usage('cpu_seconds', 1)"),
            "42501",
        );
    }
    refused(
        world
            .nobody()
            .attempt("SELECT tenancy.record_usage('cpu_seconds', 1)"),
        "42501",
    );
    world.superuser().run(&format!(
        "SELECT tenancy.record_usage('cpu_seconds', 10, org => '{}')",
        world.globex.id
    ));

    let all = "NULL, '2000-01-01', '2100-01-01'";
    assert_eq!(
        report(&mut world.session("acme.owner"), all),
        ["cpu_seconds 3.5 2"]
    );
    assert_eq!(
        report(&mut world.session("globex.owner"), all),
        ["cpu_seconds 10 1"]
    );
    for who in ["acme.admin", "acme.member", "acme.viewer"] {
        let mut session = world.session(who);
        refused(
            session.attempt(&format!("SELECT tenancy.usage_report({all})")),
            "42501",
        );
        assert_eq!(
            session.count("SELECT count(*) FROM tenancy.usage_records"),
            0
        );
    }
    let mut owner = world.session("acme.owner");
    assert_eq!(owner.count("SELECT count(*) FROM tenancy.usage_records"), 2);
    refused(
        owner.attempt(&format!(
            "SELECT tenancy.usage_report('{}', '2000-01-01', '2100-01-01')",
            world.globex.id
        )),
        "42501",
    );
    // The DBA, of anyone.
    assert_eq!(
        report(
            &mut world.superuser(),
            &format!("'{}', '2000-01-01', '2100-01-01'", world.globex.id)
        ),
        ["cpu_seconds 10 1"]
    );
}

#[test]
fn a_record_is_never_changed_and_a_key_counts_once() {
    let world = World::people();
    let mut app = serve(&world);
    let record = "SELECT tenancy.record_usage('calls', 3, environment => 'production', idempotency_key => 'r-1')";
    assert!(app.is_true(record));
    assert!(!app.is_true(record));
    refused(app.attempt(&record.replace("3,", "4,")), "23505");
    refused(
        app.attempt(&record.replace("production", "staging")),
        "23505",
    );
    // Another organization's keys are its own.
    assert!(
        world
            .superuser()
            .is_true(&record.replace(")", &format!(", org => '{}')", world.globex.id)))
    );
    // As the service itself a mistake is taken back.
    assert!(app.is_true("SELECT tenancy.record_usage('calls', -1)"));
    let mut owner = world.session("acme.owner");
    assert_eq!(
        report(&mut owner, "NULL, '2000-01-01', '2100-01-01'"),
        ["calls -1 1", "calls production 3 1"]
    );
    for sql in [
        "UPDATE tenancy.usage_records SET quantity = 0",
        "DELETE FROM tenancy.usage_records",
        "TRUNCATE tenancy.usage_records",
    ] {
        refused(world.break_glass().attempt(sql), "42501");
        fails(owner.attempt(sql), "42501");
    }
    fails(
        app.attempt("INSERT INTO tenancy.usage_records (org_id, metric, quantity) VALUES (gen_random_uuid(), 'x', 1)"),
        "42501",
    );
    for arguments in [
        "'Calls', 1",
        "'', 1",
        "'calls', 'NaN'",
        "'calls', 'Infinity'",
        "'calls', 1e40",
        "'calls', -9.9e131071",
        "'calls', 1e-21",
        "'calls', 1, environment => ''",
        "'calls', 1, idempotency_key => repeat('x', 256)",
        "'calls', 1, at => 'infinity'",
    ] {
        refused(
            app.attempt(&format!("SELECT tenancy.record_usage({arguments})")),
            "22023",
        );
    }
    refused(app.attempt("SELECT tenancy.record_usage(NULL, 1)"), "22004");
    // What is taken can be added up.
    for quantity in [
        "9999999999999999999999999999999999999999",
        "0.00000000000000000001",
    ] {
        for _ in 0..2 {
            app.run(&format!("SELECT tenancy.record_usage('most', {quantity})"));
        }
    }
    assert_eq!(
        owner.text("SELECT quantity FROM tenancy.usage_report(NULL, '2000-01-01', '2100-01-01') WHERE metric = 'most'"),
        "19999999999999999999999999999999999999998.00000000000000000002"
    );
}

#[test]
fn a_report_adds_up_by_everything_and_period() {
    let world = World::people();
    place(&world, world.acme.id, PROJECT, "restricted", &[CLUSTER]);
    let mut app = serve(&world);
    for (quantity, place, at) in [
        (
            "1",
            "NULL, NULL, 'staging'".to_string(),
            "2026-10-31 23:59:59.999999Z",
        ),
        (
            "2",
            "NULL, NULL, 'staging'".to_string(),
            "2026-11-01 00:00Z",
        ),
        (
            "4",
            format!("'{PROJECT}', NULL, 'production'"),
            "2026-11-10 12:00Z",
        ),
        (
            "8",
            format!("'{PROJECT}', '{CLUSTER}', 'production'"),
            "2026-11-30 23:00Z",
        ),
        (
            "16.25",
            format!("'{PROJECT}', '{CLUSTER}', 'production'"),
            "2026-11-10 12:00Z",
        ),
        ("32", "NULL, NULL, NULL".to_string(), "2026-12-01 00:00Z"),
    ] {
        app.run(&format!(
            "SELECT tenancy.record_usage('gb', {quantity}, {place}, '{at}')"
        ));
    }
    app.run(&format!(
        "SELECT tenancy.record_usage('calls', 7, '{PROJECT}', at => '2026-11-02 00:00Z')"
    ));
    let mut owner = world.session("acme.owner");
    // Half-open: the first instant counts and the last does not.
    assert_eq!(
        report(&mut owner, "NULL, '2026-11-01 00:00Z', '2026-12-01 00:00Z'"),
        [
            "calls 1 7 1",
            "gb staging 2 1",
            "gb 1 production 4 1",
            "gb 1 2 production 24.25 2"
        ]
    );
    // Of what is not told apart, the sums.
    for (by, expected) in [
        ("'{}'", vec!["calls 7 1", "gb 30.25 4"]),
        (
            "'{environment}'",
            vec!["calls 7 1", "gb production 28.25 3", "gb staging 2 1"],
        ),
        ("'{project}'", vec!["calls 1 7 1", "gb 2 1", "gb 1 28.25 3"]),
        (
            "'{cluster,cluster}'",
            vec!["calls 7 1", "gb 6 2", "gb 2 24.25 2"],
        ),
    ] {
        let arguments = format!("NULL, '2026-11-01 00:00Z', '2026-12-01 00:00Z', by => {by}");
        assert_eq!(report(&mut owner, &arguments), expected, "{by}");
    }
    // The whole organization's, wherever the session is.
    owner.run(&format!("SET app.current_project = '{PROJECT}'"));
    assert_eq!(
        report(
            &mut owner,
            "NULL, '2026-11-01 00:00Z', '2026-12-01 00:00Z', by => '{}'"
        ),
        ["calls 7 1", "gb 30.25 4"]
    );
    owner.run("RESET app.current_project");
    // Months are those of UTC, whatever the session's zone.
    for zone in ["UTC", "America/Los_Angeles", "Asia/Tokyo"] {
        owner.run(&format!("SET TimeZone = '{zone}'"));
        assert_eq!(
            owner.column(
                "SELECT to_char(period_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') || ' ' || sum(quantity)
                 FROM tenancy.usage_report(NULL, '2026-10-01 00:00Z', '2027-01-01 00:00Z', every => 'month')
                 WHERE metric = 'gb' GROUP BY period_start ORDER BY 1"
            ),
            ["2026-10-01 00:00 1", "2026-11-01 00:00 30.25", "2026-12-01 00:00 32"],
            "{zone}"
        );
    }
    for arguments in [
        "NULL, '2026-11-01', '2026-11-01'",
        "NULL, '2026-11-02', '2026-11-01'",
        "NULL, '-infinity', '2026-11-01'",
        "NULL, '2026-11-01', '2026-12-01', 'decade'",
        "NULL, '2026-11-01', '2026-12-01', by => '{metric}'",
        "NULL, '2026-11-01', '2026-12-01', by => ARRAY[NULL]",
    ] {
        refused(
            owner.attempt(&format!("SELECT tenancy.usage_report({arguments})")),
            "22023",
        );
    }
}

/// Where usage was, as the table has it.
fn places(world: &World) -> Vec<String> {
    world.break_glass().column(
        "SELECT concat_ws(' ', metric, left(project_id::text, 1), left(cluster_id::text, 1), environment)
         FROM tenancy.usage_records ORDER BY metric",
    )
}

const CLOSED: &str = "33333333-3333-3333-3333-333333333333";
const THEIRS: &str = "44444444-4444-4444-4444-444444444444";
const THEIR_CLUSTER: &str = "55555555-5555-5555-5555-555555555555";
const CLOSED_CLUSTER: &str = "66666666-6666-6666-6666-666666666666";
const NOBODYS: &str = "77777777-7777-7777-7777-777777777777";

fn with_places() -> World {
    let world = World::people();
    place(&world, world.acme.id, PROJECT, "open", &[CLUSTER]);
    place(
        &world,
        world.acme.id,
        CLOSED,
        "restricted",
        &[CLOSED_CLUSTER],
    );
    place(&world, world.globex.id, THEIRS, "open", &[THEIR_CLUSTER]);
    world
}

#[test]
fn usage_is_of_the_organizations_own_projects_and_clusters() {
    let world = with_places();
    let mut app = serve(&world);
    let record = |arguments: &str| format!("SELECT tenancy.record_usage('m', 1, {arguments})");
    // Another organization's are as good as none.
    for (theirs, argument) in [(THEIRS, "project"), (THEIR_CLUSTER, "cluster")] {
        let none = refused(
            app.attempt(&record(&format!("{argument} => '{NOBODYS}'"))),
            "42501",
        );
        let other = refused(
            app.attempt(&record(&format!("{argument} => '{theirs}'"))),
            "42501",
        );
        assert_same_error(&none, &other, &[(theirs, NOBODYS)]);
        let mut dba = world.superuser();
        let told = refused(
            dba.attempt(&record(&format!(
                "{argument} => '{theirs}', org => '{}'",
                world.acme.id
            ))),
            "42501",
        );
        assert_same_error(&none, &told, &[(theirs, NOBODYS)]);
    }
    // Nor is a cluster another project's.
    for project in [CLOSED, THEIRS] {
        refused(
            app.attempt(&record(&format!(
                "project => '{project}', cluster => '{CLUSTER}'"
            ))),
            "42501",
        );
    }
    app.run(
        &record(&format!("project => '{PROJECT}', cluster => '{CLUSTER}'")).replace("'m'", "'a'"),
    );
    // A cluster has its project.
    app.run(&record(&format!("cluster => '{CLUSTER}'")).replace("'m'", "'b'"));
    // What the application counts need not be seen by anybody.
    app.run(&record(&format!("project => '{CLOSED}'")).replace("'m'", "'c'"));
    let keyed = |project: &str| {
        record(&format!("project => '{project}', idempotency_key => 'k'")).replace("'m'", "'h'")
    };
    app.run(&keyed(CLOSED));
    // In a user's name it is, or is as good as none; knowing what was recorded does not help.
    world.begin(&mut app, world.acme, "acme.member");
    let told = refused(app.attempt_within(&keyed(CLOSED)), "42501");
    let none = refused(app.attempt_within(&keyed(NOBODYS)), "42501");
    assert_same_error(&none, &told, &[(CLOSED, NOBODYS)]);
    app.run("ROLLBACK");
    for (who, may) in [
        ("acme.owner", true),
        ("acme.admin", true),
        ("acme.member", false),
    ] {
        for (closed, argument) in [(CLOSED, "project"), (CLOSED_CLUSTER, "cluster")] {
            world.begin(&mut app, world.acme, who);
            let result = app.attempt_within(&record(&format!("{argument} => '{closed}'")));
            if may {
                result.expect("it is seen");
            } else {
                let told = refused(result, "42501");
                let none = refused(
                    app.attempt_within(&record(&format!("{argument} => '{NOBODYS}'"))),
                    "42501",
                );
                assert_same_error(&none, &told, &[(closed, NOBODYS)]);
            }
            app.run("ROLLBACK");
        }
    }
    // What the session narrows itself to is the default, and all it knows.
    app.run(&format!("SET app.current_cluster = '{CLUSTER}'"));
    app.run("SELECT tenancy.record_usage('d', 1)");
    for other in [
        format!("project => '{CLOSED}'"),
        format!("cluster => '{CLOSED_CLUSTER}'"),
    ] {
        refused(app.attempt(&record(&other)), "42501");
    }
    app.run(&format!(
        "RESET app.current_cluster; SET app.current_project = '{PROJECT}'; SELECT tenancy.record_usage('e', 1);
         SELECT tenancy.record_usage('f', 1, cluster => '{CLUSTER}')"
    ));
    // Another organization's usage is not what this one's session is narrowed to.
    let mut dba = world.superuser();
    dba.run(&format!(
        "SET app.current_org = '{}'; SET app.current_project = '{PROJECT}';
         SELECT tenancy.record_usage('g', 1, org => '{}')",
        world.acme.id, world.globex.id
    ));
    assert_eq!(
        places(&world),
        ["a 1 2", "b 1 2", "c 3", "d 1 2", "e 1", "f 1 2", "g", "h 3"]
    );
}

#[test]
fn usage_of_a_project_is_of_its_environment() {
    let world = with_places();
    let mut dba = world.break_glass();
    dba.run(&format!(
        "UPDATE tenancy.projects SET environment = 'production' WHERE id = '{PROJECT}';
         UPDATE tenancy.clusters SET environment = 'staging' WHERE id = '{CLOSED_CLUSTER}'"
    ));
    let mut app = serve(&world);
    for arguments in [
        format!("'a', 1, '{PROJECT}'"),
        format!("'b', 1, '{PROJECT}', environment => 'production'"),
        format!("'c', 1, cluster => '{CLUSTER}'"),
        format!("'d', 1, cluster => '{CLOSED_CLUSTER}'"),
        format!("'e', 1, '{CLOSED}'"),
        format!("'f', 1, '{CLOSED}', environment => 'qa'"),
        "'g', 1, environment => 'qa'".into(),
    ] {
        app.run(&format!("SELECT tenancy.record_usage({arguments})"));
    }
    assert_eq!(
        places(&world),
        [
            "a 1 production",
            "b 1 production",
            "c 1 2 production",
            "d 3 6 staging",
            "e 3",
            "f 3 qa",
            "g qa"
        ]
    );
    for arguments in [
        format!("'x', 1, '{PROJECT}', environment => 'staging'"),
        format!("'x', 1, cluster => '{CLOSED_CLUSTER}', environment => 'production'"),
    ] {
        refused(
            app.attempt(&format!("SELECT tenancy.record_usage({arguments})")),
            "22023",
        );
    }
}

/// What was recorded once is not again, whatever became of its place meanwhile.
#[test]
fn a_repeated_call_is_known_when_its_project_is_gone() {
    let world = with_places();
    let mut dba = world.break_glass();
    dba.run(&format!(
        "UPDATE tenancy.projects SET environment = 'production' WHERE id = '{PROJECT}'"
    ));
    let mut app = serve(&world);
    let calls = [
        format!("'m', 1, '{PROJECT}', idempotency_key => 'k1'"),
        format!("'m', 1, cluster => '{CLUSTER}', idempotency_key => 'k2'"),
        format!("'m', 1, '{PROJECT}', environment => 'production', idempotency_key => 'k3'"),
    ]
    .map(|arguments| format!("SELECT tenancy.record_usage({arguments})"));
    for call in &calls {
        assert!(app.is_true(call));
    }
    dba.run(&format!(
        "UPDATE tenancy.projects SET environment = 'staging' WHERE id = '{PROJECT}'"
    ));
    for call in &calls[..2] {
        assert!(!app.is_true(call), "{call}");
    }
    dba.run(&format!(
        "DELETE FROM tenancy.clusters WHERE id = '{CLUSTER}'; DELETE FROM tenancy.projects WHERE id = '{PROJECT}'"
    ));
    for call in &calls {
        assert!(!app.is_true(call), "{call}");
        refused(app.attempt(&call.replace("1,", "2,")), "42501");
        refused(app.attempt(&call.replace("'k", "'n")), "42501");
    }
    assert_eq!(places(&world).len(), 3);
    // A place makes it other usage.
    assert!(app.is_true(
        "SELECT tenancy.record_usage('m', 1, environment => 'qa', idempotency_key => 'k4')"
    ));
    for other in [
        "",
        &format!("project => '{CLOSED}',"),
        "environment => 'qb',",
    ] {
        refused(
            app.attempt(&format!(
                "SELECT tenancy.record_usage('m', 1, {other} idempotency_key => 'k4')"
            )),
            "23505",
        );
    }
}

#[test]
fn an_ai_records_no_usage() {
    let world = with_places();
    let mut app = serve(&world);
    app.run("SET app.actor_type = 'ai'");
    refused(app.attempt("SELECT tenancy.record_usage('m', 1)"), "42501");
    app.run("SET app.actor_type = 'service'");
    app.run("SELECT tenancy.record_usage('m', 1)");
    let mut app = world.app();
    world.begin(&mut app, world.acme, "acme.owner");
    app.run("SET LOCAL app.actor_type = 'ai'");
    refused(app.attempt("SELECT tenancy.record_usage('m', 1)"), "42501");
    app.run("ROLLBACK");
    assert_eq!(places(&world), ["m"]);
}

#[test]
fn one_key_from_many_clients_is_one_record() {
    let world = World::people();
    let clients = 32;
    let start = Barrier::new(clients);
    let recorded: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|_| {
                let mut app = serve(&world);
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    (0..10)
                        .filter(|i| {
                            app.is_true(&format!(
                                "SELECT tenancy.record_usage('calls', 1, idempotency_key => 'k-{i}')"
                            ))
                        })
                        .count()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().expect("a client"))
            .sum()
    });
    assert_eq!(recorded, 10);
    assert_eq!(
        report(
            &mut world.session("acme.owner"),
            "NULL, '2000-01-01', '2100-01-01'"
        ),
        ["calls 10 10"]
    );
}

/// Every kind of organization column, partitions, dropped columns, values out of line.
#[test]
fn measured_usage_is_what_is_there() {
    let world = World::new();
    let mut dba = world.superuser();
    let (acme, globex) = (world.acme, world.globex);
    dba.run(&format!(
        "SELECT tenancy.set_external_key('{}', '7'); SELECT tenancy.set_external_key('{}', '8');
         CREATE TABLE by_text (org_id text, junk int, note text);
         ALTER TABLE by_text DROP COLUMN junk;
         CREATE TABLE by_int (org_id int, note text) PARTITION BY LIST (org_id);
         CREATE TABLE by_int_7 PARTITION OF by_int FOR VALUES IN (7);
         CREATE TABLE by_int_8 PARTITION OF by_int DEFAULT;
         CREATE TABLE by_big (org_id bigint, note text);
         CREATE TABLE \"Odd \"\"name\" (\"or'g\" uuid, \"te xt\" text);",
        acme.id, globex.id
    ));
    for table in ["by_text", "by_int", "by_big"] {
        dba.run(&format!(
            "INSERT INTO {table} SELECT 7, 'note ' || i FROM generate_series(1, 50) i;
             INSERT INTO {table} SELECT 8, NULL FROM generate_series(1, 5);
             SELECT tenancy.protect('{table}')"
        ));
    }
    dba.run(&format!(
        "INSERT INTO \"Odd \"\"name\" SELECT '{}', string_agg(md5(i::text), '') FROM generate_series(1, 1000) i;
         SELECT tenancy.protect('\"Odd \"\"name\"', org_column => 'or''g')",
        acme.id
    ));
    let measured = |session: &mut Session, from: &str| {
        session.column(&format!(
            "SELECT concat_ws(' ', table_name, rows) FROM {from} ORDER BY 1"
        ))
    };
    let mut owner = world.session("acme.owner");
    let mine = [
        "\"Odd \"\"name\" 1",
        "by_big 50",
        "by_int 50",
        "by_text 50",
        "servers 3",
        "sites 6",
    ];
    assert_eq!(measured(&mut owner, "tenancy.measured_usage"), mine);
    assert_eq!(
        measured(&mut owner, "tenancy.measure_usage(exact => false)"),
        mine
    );
    // Bytes are those of the values as stored, and 28 for each row.
    let expected = dba.text(
        "SET row_security = off; SELECT sum(28 + pg_column_size(org_id) + coalesce(pg_column_size(note), 0)) FROM by_text WHERE org_id = '7'",
    );
    let bytes = |session: &mut Session, table: &str, exact: bool| {
        session.count(&format!(
            "SELECT bytes FROM tenancy.measure_usage(exact => {exact}) WHERE table_name = '{table}'::regclass"
        ))
    };
    assert_eq!(bytes(&mut owner, "by_text", true).to_string(), expected);
    let sampled = bytes(&mut owner, "by_text", false);
    assert!(
        (sampled - expected.parse::<i64>().unwrap()).abs() <= 1,
        "{sampled} {expected}"
    );
    let long = bytes(&mut owner, "\"Odd \"\"name\"", true);
    assert!((25_000..=33_000).contains(&long), "{long}");

    // Who may ask: billing:read, in one's own organization. The DBA: everybody's.
    for who in ["acme.admin", "acme.viewer"] {
        refused(
            world.session(who).attempt("SELECT tenancy.measure_usage()"),
            "42501",
        );
    }
    refused(
        owner.attempt(&format!("SELECT tenancy.measure_usage('{}')", globex.id)),
        "42501",
    );
    let mut everybody = world.superuser();
    let all = everybody.column(
        "SELECT concat_ws(' ', o.slug, m.table_name, m.rows) FROM tenancy.measured_usage m
         JOIN tenancy.orgs o ON o.id = m.org_id ORDER BY 1",
    );
    assert_eq!(
        all,
        [
            "acme \"Odd \"\"name\" 1",
            "acme by_big 50",
            "acme by_int 50",
            "acme by_text 50",
            "acme servers 3",
            "acme sites 6",
            "globex by_big 5",
            "globex by_int 5",
            "globex by_text 5",
            "globex servers 3",
            "globex sites 6"
        ]
    );
}

#[test]
fn a_dump_carries_accounts_and_records() {
    let world = World::people();
    world
        .session("acme.owner")
        .run("SELECT tenancy.create_billing_account('Acme', 'pm_1')");
    serve(&world).run("SELECT tenancy.record_usage('calls', 2)");
    let dump = world
        .db
        .cluster
        .client_program("pg_dump", &world.db.name, &["--data-only"]);
    for part in [
        "pm_1",
        "COPY tenancy.billed_orgs",
        "COPY tenancy.usage_records",
    ] {
        assert!(dump.contains(part), "{part}");
    }
}
