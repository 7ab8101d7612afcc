//! Reading: rows, plans, estimates, and the functions that policies and defaults are made of.

use super::stage::{KINDS, Stage, keyed, set_key};
use pg_tenancy_tests::{fails, quote, refused};

#[test]
fn each_organization_sees_its_own_rows() {
    for kind in KINDS {
        let stage = Stage::new(kind);
        for table in ["projects", "tasks"] {
            let all = if table == "projects" { 3 } else { 6 };
            assert_eq!(stage.seen(&mut stage.admin(), table), (all, 0), "{kind:?}");
            let mut globex = stage.world.session("globex.viewer");
            assert_eq!(stage.seen(&mut globex, table), (0, all), "{kind:?}");
            assert_eq!(globex.count(&format!("SELECT count(*) FROM {table}")), all);
            // The owner, a session without a context, one in an organization that is not its own.
            let mut owner = stage.world.db.login(&stage.world.table_owner());
            assert_eq!(stage.seen(&mut owner, table), (0, 0), "{kind:?}");
            let mut stranger = stage.world.session("stranger");
            assert_eq!(stage.seen(&mut stranger, table), (0, 0), "{kind:?}");
        }
        let mut admin = stage.admin();
        assert!(admin.is_true(&format!("SELECT {} = {}", kind.current, stage.acme)));
        admin.run("RESET app.current_org");
        assert_eq!(admin.value(&format!("SELECT {}", kind.current)), None);
    }
}

#[test]
fn a6_a_prepared_plan_follows_the_context() {
    for kind in KINDS {
        let stage = Stage::new(kind);
        let mut agency = stage.world.session("agency");
        for mode in ["force_custom_plan", "force_generic_plan"] {
            agency.run(&format!("SET plan_cache_mode = {mode}"));
            agency.run("PREPARE p AS SELECT count(*) FILTER (WHERE id < 100) - count(*) FILTER (WHERE id > 100) FROM tasks");
            for (org, expected) in [
                (stage.world.acme, 6),
                (stage.world.globex, -6),
                (stage.world.acme, 6),
            ] {
                agency.run(&format!("SET app.current_org = '{}'", org.id));
                assert_eq!(agency.count("EXECUTE p"), expected, "{kind:?}");
            }
            agency.run("DEALLOCATE p");
        }
        // Both values at once in one row: what was handed out is never overwritten.
        agency.run("SET app.current_org = ''");
        let row = agency.rows(&format!(
            "SELECT set_config('app.current_org', '{}', false) <> '', {f}::text, set_config('app.current_org', '{}', false) <> '', {f}::text",
            stage.world.acme.id,
            stage.world.globex.id,
            f = kind.current
        ));
        let shown = |org: &str| agency_text(&stage, org);
        assert_eq!(row[0][1], Some(shown(&stage.acme)), "{kind:?}");
        assert_eq!(row[0][3], Some(shown(&stage.globex)), "{kind:?}");
    }
}

fn agency_text(stage: &Stage, literal: &str) -> String {
    let mut dba = stage.world.superuser();
    dba.text(&format!("SELECT ({literal}::{})::text", stage.kind.sql))
}

#[test]
fn the_predicate_is_an_index_condition_and_the_estimate_the_organizations_share() {
    for kind in KINDS {
        let stage = Stage::unprotected(kind);
        let mut dba = stage.world.superuser();
        // One in fifty is acme's, the rest globex's and nobody's.
        let nobody = match kind.sql {
            "uuid" => "gen_random_uuid()".to_string(),
            text if text.starts_with("text") || text.starts_with("varchar") => {
                "'x' || i % 97".into()
            }
            _ => "1000 + i % 97".into(),
        };
        dba.run(&format!(
            "CREATE TABLE big (id int, \"tenantId\" {0}, n int);
             INSERT INTO big SELECT i, CASE i % 50 WHEN 0 THEN {1}::{0} WHEN 1 THEN {nobody} ELSE {2}::{0} END, i FROM generate_series(1, 20000) i;
             GRANT SELECT ON big TO PUBLIC;
             SELECT tenancy.protect('big', 'tenantId');
             ANALYZE big",
            kind.sql, stage.acme, stage.globex
        ));
        let mut admin = stage.admin();
        let plan = admin.explain("COSTS OFF", "SELECT * FROM big");
        assert!(plan.contains("Index Cond:"), "{kind:?}: {plan}");
        assert!(!plan.contains("Filter:"), "{kind:?}: {plan}");
        assert_eq!(
            plan.matches("tenantId").count() + plan.matches("_if(").count(),
            3 + usize::from(plan.contains("Recheck")),
            "{kind:?}: {plan}"
        );
        // A range within the organization needs one index of both columns.
        dba.run("CREATE INDEX ON big (\"tenantId\", n); ANALYZE big");
        let plan = admin.explain("COSTS OFF", "SELECT * FROM big WHERE n BETWEEN 50 AND 100");
        assert!(
            plan.contains("_if('data:read'::text)) AND (n >= 50)"),
            "{kind:?}: {plan}"
        );
        for (who, actual) in [("acme.admin", 400.0), ("globex.admin", 19200.0)] {
            let (estimate, rows) = stage.world.session(who).estimate("SELECT * FROM big");
            assert_eq!(rows, actual, "{kind:?} {who}");
            assert!(
                estimate > actual / 2.0 && estimate < actual * 2.0,
                "{kind:?} {who}: {estimate} for {actual}"
            );
        }
    }
}

#[test]
fn c13_workers_see_the_same_organization() {
    for kind in KINDS {
        let stage = Stage::new(kind);
        let mut app = stage.world.session_app();
        app.run(&format!(
            "SET app.current_org = '{}'; SET force_parallel_mode = on; SET parallel_setup_cost = 0;
             SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET enable_indexscan = off; SET enable_bitmapscan = off",
            stage.world.acme.id
        ));
        let plan = app.explain("COSTS OFF", "SELECT count(*) FROM tasks");
        assert!(plan.contains("Gather"), "{plan}");
        assert_eq!(app.count("SELECT count(*) FROM tasks"), 6, "{kind:?}");
        assert_eq!(
            app.count(&format!(
                "SELECT count(*) FROM tasks WHERE \"tenantId\" = {}",
                kind.current
            )),
            6,
            "{kind:?}"
        );
    }
}

#[test]
fn e1_the_organization_comes_before_a_condition_that_counts() {
    for kind in KINDS {
        let stage = Stage::new(kind);
        let mut dba = stage.world.superuser();
        dba.run(
            "CREATE SEQUENCE looks; GRANT ALL ON looks TO PUBLIC; CREATE INDEX ON tasks (title)",
        );
        let mut admin = stage.admin();
        admin.run("SELECT tenancy.current_org(); SET enable_seqscan = off");
        for title in ["globex-task-1", "nothing"] {
            assert_eq!(
                admin.count(&format!(
                    "SELECT count(*) FROM tasks WHERE title = '{title}' AND nextval('looks') IS NOT NULL"
                )),
                0
            );
        }
        assert_eq!(admin.count("SELECT nextval('looks')"), 1, "{kind:?}");
    }
}

#[test]
fn without_a_fitting_key_nothing_is_visible_and_a_write_says_so() {
    let cases = [
        ("text", None, "has no external key"),
        ("integer", None, "has no external key"),
        ("integer", Some("acme"), "is no such value"),
        ("integer", Some("007"), "is no such value"),
        ("integer", Some("+7"), "is no such value"),
        ("integer", Some("7 "), "is no such value"),
        ("integer", Some("2147483648"), "is no such value"),
        ("bigint", Some("9223372036854775808"), "is no such value"),
        ("bigint", Some("1e3"), "is no such value"),
    ];
    for (sql, key, why) in cases {
        let kind = *keyed().iter().find(|k| k.sql == sql).unwrap();
        let stage = Stage::unprotected(kind);
        let mut dba = stage.world.superuser();
        let key = key.map_or("NULL".into(), quote);
        dba.run(&format!(
            "SELECT tenancy.set_external_key('{}', {key});
             SELECT tenancy.protect('projects', 'tenantId'); SELECT tenancy.protect('tasks', 'tenantId')",
            stage.world.acme.id
        ));
        // acme's rows are nobody's now; those with the number 7 in them are not those of '007'.
        let before = stage.hash(&stage.acme);
        let mut admin = stage.admin();
        assert_eq!(admin.count("SELECT count(*) FROM tasks"), 0, "{sql} {key}");
        for write in [
            "INSERT INTO tasks (id) VALUES (7)".to_string(),
            format!(
                "INSERT INTO tasks (id, \"tenantId\") VALUES (7, {})",
                stage.acme
            ),
            "UPDATE tasks SET title = 'x'".into(),
            "DELETE FROM tasks".into(),
            "INSERT INTO tasks (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET title = 'x'".into(),
        ] {
            let error = refused(admin.attempt(&write), "42501");
            assert!(
                error
                    .message()
                    .contains("has no key to write to table \"tasks\""),
                "{error:?}"
            );
            assert!(error.detail().unwrap().contains(why), "{error:?}");
            assert!(
                error.hint().unwrap().contains("set_external_key"),
                "{error:?}"
            );
        }
        // A superuser, whom no policy holds, either.
        dba.run(&format!("SET app.current_org = '{}'", stage.world.acme.id));
        refused(
            dba.attempt(&format!(
                "INSERT INTO tasks (id, \"tenantId\") VALUES (7, {})",
                stage.acme
            )),
            "42501",
        );
        assert_eq!(stage.hash(&stage.acme), before);
        // Where an empty answer is not wanted it is an error.
        admin.run("SELECT 1");
        let mut strict = stage.world.db.login_with(
            "postgres",
            &format!(
                "-c tenancy.missing_context=error -c app.current_org={}",
                stage.world.acme.id
            ),
        );
        strict.run(&format!("SET ROLE {}", stage.world.table_owner()));
        let error = refused(strict.attempt("SELECT * FROM tasks"), "42501");
        assert!(error.message().contains("has no key to read"), "{error:?}");
        // globex is not concerned.
        assert_eq!(
            stage
                .world
                .session("globex.viewer")
                .count("SELECT count(*) FROM tasks"),
            6
        );
    }
}

#[test]
fn any_text_may_be_a_key() {
    let stage = Stage::unprotected(keyed()[0]);
    let mut dba = stage.world.superuser();
    dba.run("TRUNCATE projects, tasks");
    let keys = [
        "'",
        "''",
        "\"",
        "\\",
        "$1",
        "%s",
        " ",
        "  ",
        "acme ",
        " acme",
        "ACME",
        "acme",
        "Acme",
        "ä",
        "a\u{308}",
        "ﬀ",
        "ff",
        "NULL",
        "null",
        "0",
        "00",
        "-0",
        "1e0",
        "1",
        "{}",
        "[]",
        "; DROP TABLE tasks",
        "00000000-0000-0000-0000-000000000000",
        "💥",
        "\u{200b}",
        "x\u{200b}",
    ];
    let owner = stage.world.user("agency");
    for (i, key) in keys.iter().enumerate() {
        // create_org() trims what it is given; set_external_key() takes it as it is.
        let org = dba.text(&format!(
            "SELECT tenancy.create_org('o', 'o{i}', owner => '{owner}')"
        ));
        dba.run(&format!(
            "SELECT tenancy.set_external_key('{org}', {})",
            quote(key)
        ));
        dba.run(&format!(
            "INSERT INTO projects VALUES ({i}, {}, 'of {i}')",
            quote(key)
        ));
    }
    // As long as a key may be, longer than a short header holds.
    let long = "k".repeat(255);
    set_key(&mut dba, stage.world.acme, &long);
    dba.run(&format!(
        "INSERT INTO projects VALUES (1000, '{long}', 'long')"
    ));
    dba.run("SELECT tenancy.protect('projects', 'tenantId')");
    let mut agency = stage.world.bound("agency");
    for (i, key) in keys.iter().enumerate() {
        let org = dba.text(&format!("SELECT id FROM tenancy.orgs WHERE slug = 'o{i}'"));
        agency.run(&format!("SET app.current_org = '{org}'"));
        assert_eq!(
            agency.column("SELECT name FROM projects"),
            [format!("of {i}")],
            "{key:?}"
        );
        agency.run(&format!("INSERT INTO projects (id) VALUES ({})", 100 + i));
        assert_eq!(
            agency.column("SELECT DISTINCT \"tenantId\" FROM projects"),
            [*key]
        );
        assert_eq!(agency.run("UPDATE projects SET name = name"), 2);
        // Somebody else's, however alike.
        for (j, other) in keys.iter().enumerate().filter(|(j, _)| *j != i) {
            fails(
                agency.attempt(&format!(
                    "INSERT INTO projects VALUES ({}, {})",
                    200 + j,
                    quote(other)
                )),
                "42501",
            );
        }
    }
    let mut admin = stage.admin();
    assert_eq!(admin.column("SELECT name FROM projects"), ["long"]);
    admin.run("INSERT INTO projects (id) VALUES (1001)");
    assert_eq!(admin.count("SELECT count(*) FROM projects"), 2);
}
