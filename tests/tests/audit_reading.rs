//! Ways to read the log: a row's past, the DBA's view, the export; and who may go them.

use pg_tenancy_tests::{Org, Session, Uuid, World, fails, refused};
use serde_json::{Value, json};

const EVERY_WAY: [&str; 9] = [
    "SELECT * FROM tenancy.audit_log",
    "SELECT count(*) FROM tenancy.audit_log",
    "SELECT * FROM tenancy.read_audit()",
    "SELECT tenancy.read_audit(max_rows => 1)",
    "SELECT * FROM tenancy.history('sites', '1')",
    "SELECT tenancy.as_of('sites', '1', now())",
    "CREATE TEMP TABLE copied AS SELECT * FROM tenancy.audit_log",
    "DO $$ BEGIN PERFORM * FROM tenancy.audit_log; END $$",
    "EXPLAIN ANALYZE SELECT * FROM tenancy.audit_log",
];

fn copy(session: &mut Session, query: &str) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    let sql =
        format!("COPY ({query}) TO STDOUT WITH (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')");
    session
        .copy_out(&sql)
        .ok()?
        .read_to_string(&mut text)
        .ok()?;
    Some(text)
}

#[test]
fn every_way_to_the_log_as_every_role() {
    let world = World::new();
    world
        .session("acme.admin")
        .run("UPDATE sites SET visits = 1");
    let store = |org: Org| format!("SELECT * FROM tenancy_audit.org_{}", org.id.simple());
    for (who, reads, exports) in [
        ("acme.owner", true, true),
        ("acme.admin", true, false),
        ("acme.member", false, false),
        ("acme.viewer", false, false),
        ("agency", true, false),
    ] {
        let mut session = world.session(who);
        for sql in EVERY_WAY {
            let result = session.attempt(sql);
            if reads {
                result.unwrap_or_else(|e| panic!("{who}: {sql}: {e:?}"));
            } else {
                let error = refused(result, "42501");
                assert!(
                    error.message().contains("org:audit"),
                    "{who}: {sql}: {error:?}"
                );
            }
        }
        assert_eq!(
            copy(&mut session, "SELECT * FROM tenancy.audit_log").is_some(),
            reads,
            "{who}"
        );
        for format in ["ndjson", "csv"] {
            let export = format!("SELECT tenancy.export_audit('{format}')");
            if exports {
                session.run(&export);
            } else {
                let error = refused(session.attempt(&export), "42501");
                assert!(error.message().contains("org:audit_export"), "{error:?}");
            }
            assert_eq!(copy(&mut session, &export).is_some(), exports, "{who}");
        }
        // The tables themselves, and the DBA's ways, are closed to all of them.
        for sql in [
            store(world.acme),
            store(world.globex),
            "SELECT * FROM tenancy_audit.layouts".into(),
            "SELECT * FROM tenancy.audit_dba".into(),
            format!(
                "SELECT * FROM tenancy.read_audit_dba(org => '{}')",
                world.acme.id
            ),
        ] {
            fails(session.attempt(&sql), "42501");
            assert_eq!(copy(&mut session, &sql), None);
        }
    }
    for mut session in [
        world.bound("acme.owner"),
        world.session("stranger"),
        world.nobody(),
        world.app(),
    ] {
        for sql in EVERY_WAY.iter().chain(&[
            "SELECT tenancy.export_audit('csv')",
            "SELECT * FROM tenancy.audit_dba",
        ]) {
            refused(session.attempt(sql), "42501");
        }
    }
    // A view, a function and a prepared statement of somebody who may read lend nothing.
    let mut owner = world.superuser();
    owner.run(
        "CREATE VIEW mine AS SELECT * FROM tenancy.audit_log; GRANT SELECT ON mine TO PUBLIC;
         CREATE FUNCTION lent() RETURNS bigint SECURITY DEFINER LANGUAGE sql AS 'SELECT count(*) FROM tenancy.audit_log';
         CREATE FUNCTION lent_dba() RETURNS bigint SECURITY DEFINER LANGUAGE sql AS 'SELECT count(*) FROM tenancy.audit_dba'",
    );
    for sql in ["SELECT * FROM mine", "SELECT lent()", "SELECT lent_dba()"] {
        refused(world.session("acme.viewer").attempt(sql), "42501");
    }
}

#[test]
fn f4_a_refused_export_leaves_a_line_in_the_servers_log() {
    let world = World::new();
    let viewer = world.db.role("acme.viewer");
    let mut session = world.session("acme.viewer");
    refused(
        session.attempt("SELECT tenancy.export_audit('csv')"),
        "42501",
    );
    refused(session.attempt("SELECT * FROM tenancy.audit_dba"), "42501");
    refused(
        session.attempt("SELECT * FROM tenancy.history('sites', '1')"),
        "42501",
    );
    let log = world.db.cluster.log();
    for words in [
        "may not org:audit_export",
        "only a DBA may read every",
        "may not org:audit ",
    ] {
        assert!(
            log.lines().any(|line| line.contains("LOG:")
                && line.contains(&viewer)
                && line.contains(words)),
            "{words}"
        );
    }
}

#[test]
fn the_dba_reads_all_logs_and_each_says_so() {
    let world = World::new();
    world
        .session("acme.admin")
        .run("UPDATE sites SET visits = 1 WHERE id = 1");
    world
        .session("globex.admin")
        .run("UPDATE servers SET cpus = 9 WHERE id = 101");
    let mut dba = world.superuser();
    let rows = dba.rows("SELECT org_id, operation, object FROM tenancy.audit_dba WHERE operation = 'UPDATE' ORDER BY object");
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0][0], Some(world.globex.id.to_string()));
    assert_eq!(rows[1][0], Some(world.acme.id.to_string()));
    // An administrator who is no superuser; with filters.
    let admin = world.db.role("nobody");
    dba.run(&format!("SELECT tenancy.grant_administration('{admin}')"));
    let mut other = world.nobody();
    assert_eq!(
        other.count(&format!(
            "SELECT count(*) FROM tenancy.read_audit_dba(org => '{}', operation => 'UPDATE', object => 'public.sites', actor => '{}')",
            world.acme.id,
            world.user("acme.admin")
        )),
        1
    );
    // Each of the organizations sees who looked.
    let told = |who: &str| {
        world.session(who).rows(
            "SELECT db_role, new ->> 'lines', new -> 'filter' ->> 'object' FROM tenancy.audit_log WHERE operation = 'read_audit_dba' ORDER BY at, n",
        )
    };
    let acme = told("acme.owner");
    assert_eq!(acme.len(), 2, "{acme:?}");
    assert_eq!(acme[0][0].as_deref(), Some("postgres"));
    assert_eq!(
        acme[1],
        [Some(admin), Some("1".into()), Some("public.sites".into())]
    );
    assert_eq!(told("globex.owner").len(), 1);
}

#[test]
fn a_rows_history_and_what_it_was_at_a_time() {
    let world = World::new();
    let mut admin = world.session("acme.admin");
    let now = |session: &mut Session| session.text("SELECT clock_timestamp()");
    let as_of = |session: &mut Session, key: &str, at: &str| -> Option<Value> {
        session
            .value(&format!("SELECT tenancy.as_of('sites', '{key}', '{at}')"))
            .map(|text| serde_json::from_str(&text).unwrap())
    };
    let row = |session: &mut Session, id: i32| {
        session
            .json(&format!("SELECT * FROM sites WHERE id = {id}"))
            .remove(0)
    };
    let mut past: Vec<(String, i32, Option<Value>)> = vec![];
    // Site 1 is older than the log; 60 is made, changed, moved to 61, deleted and made again.
    let old = row(&mut admin, 1);
    past.push((now(&mut admin), 1, Some(old)));
    past.push((now(&mut admin), 60, None));
    let acts = [
        (1, "UPDATE sites SET visits = 77 WHERE id = 1"),
        (60, "INSERT INTO sites (id, name) VALUES (60, 'acme-60')"),
        (60, "UPDATE sites SET visits = 5 WHERE id = 60"),
        (
            1,
            "UPDATE sites SET name = 'acme-renamed', visits = 78 WHERE id = 1",
        ),
        (
            61,
            "UPDATE sites SET id = 61, name = 'acme-61' WHERE id = 60",
        ),
        (61, "UPDATE sites SET visits = 6 WHERE id = 61"),
        (60, "INSERT INTO sites (id, name) VALUES (60, 'acme-again')"),
        (61, "DELETE FROM sites WHERE id = 61"),
        (1, "UPDATE sites SET visits = 0"),
        (60, "UPDATE sites SET id = 62 WHERE id = 60"),
        (62, "UPDATE sites SET visits = 9 WHERE id = 62"),
    ];
    for (_, act) in acts {
        admin.run(act);
        for id in [1, 60, 61, 62] {
            let found = admin
                .json(&format!("SELECT * FROM sites WHERE id = {id}"))
                .pop();
            past.push((now(&mut admin), id, found));
        }
    }
    for (at, id, expected) in &past {
        assert_eq!(
            &as_of(&mut admin, &id.to_string(), at),
            expected,
            "{id} at {at}"
        );
    }
    assert_eq!(as_of(&mut admin, r#"{"id": 1}"#, &past[0].0), past[0].2);
    // Another organization's row is none, and nor is one that never was.
    let last = now(&mut admin);
    assert_eq!(as_of(&mut admin, "101", &last), None);
    assert_eq!(as_of(&mut admin, "999", &last), None);
    let mut lines = |key: &str| {
        admin.column(&format!(
            "SELECT operation || ' ' || coalesce(key ->> 'id', '') || coalesce('>' || (new ->> 'id'), '') FROM tenancy.history('public.sites', {key})"
        ))
    };
    assert_eq!(
        lines("'60'"),
        [
            "INSERT 60>60",
            "UPDATE 60",
            "UPDATE 60>61",
            "INSERT 60>60",
            "UPDATE 60>62"
        ]
    );
    assert_eq!(
        lines(r#"'{"id": 61}'"#),
        ["UPDATE 60>61", "UPDATE 61", "DELETE 61"]
    );
    assert_eq!(lines("'1'"), ["UPDATE 1", "UPDATE 1", "UPDATE 1"]);
    assert_eq!(lines("'999'"), Vec::<String>::new());
    assert_eq!(lines("NULL").len(), 16);
    // Of a table that is gone.
    world.break_glass().run("DROP TABLE sites");
    assert_eq!(
        admin.count("SELECT count(*) FROM tenancy.history('public.sites', '60')"),
        5
    );
}

/// A row may change its key to and fro, within a transaction too, and be gone from the reader's sight: what it was is found
/// from its end, or else from its beginning, and never in a circle.
#[test]
fn as_of_a_row_that_changes_its_key_time_and_again() {
    let world = World::new();
    let mut admin = world.session("acme.admin");
    admin.run("INSERT INTO sites (id, name, visits) VALUES (8000, 'kept', 1)");
    let made = admin.text("SELECT clock_timestamp()");
    admin.run("BEGIN");
    for (from, to) in [(8000, 8001), (8001, 8002), (8002, 8000), (8000, 8001)] {
        admin.run(&format!(
            "UPDATE sites SET id = {to}, visits = visits + 1 WHERE id = {from}"
        ));
    }
    admin.run("COMMIT");
    let once = admin.text("SELECT clock_timestamp()");
    for _ in 0..100 {
        admin.run("UPDATE sites SET id = 8000 WHERE id = 8001; UPDATE sites SET id = 8001 WHERE id = 8000");
    }
    let mut seen = |at: &str| -> Vec<Option<String>> {
        [8000, 8001, 8002]
            .map(|id| {
                admin.value(&format!(
                    "SELECT (tenancy.as_of('sites', '{id}', '{at}')) ->> 'visits'"
                ))
            })
            .into()
    };
    let (first, fifth) = (Some("1".to_string()), Some("5".to_string()));
    let expected = [vec![first, None, None], vec![None, fifth, None]];
    assert_eq!([seen(&made), seen(&once)], expected);
    // The log knows no end of it now.
    world
        .break_glass()
        .run("ALTER TABLE sites DISABLE TRIGGER ALL; DELETE FROM sites WHERE id = 8001");
    assert_eq!([seen(&made), seen(&once)], expected);
}

/// A key is the same one in whatever form the session's settings give its values.
#[test]
fn keys_of_every_type_in_whatever_form() {
    let world = World::people();
    let mut dba = world.superuser();
    let mut admin = world.session("acme.admin");
    let kinds = [
        ("timestamptz", "'2020-01-01 00:00+02'"),
        ("interval", "'1 year 2 days 03:00'"),
        ("tstzrange", "'[2020-01-01 00:00+02, 2020-02-01 00:00+02)'"),
        ("int[]", "'{1,2}'"),
        ("timestamptz[]", "'{2020-01-01 00:00+02}'"),
        ("jsonb", r#"'["s", 1.50]'"#),
        ("bytea", r"'\x0102'"),
        ("float8", "0.1::float8 + 0.2"),
        ("date", "'2020-01-31'"),
    ];
    for (number, (kind, value)) in kinds.into_iter().enumerate() {
        dba.run(&format!(
            "CREATE TABLE k{number} (id {kind} PRIMARY KEY, org_id uuid NOT NULL, v int);
             GRANT ALL ON k{number} TO PUBLIC; SELECT tenancy.protect('k{number}')"
        ));
        admin.run(&format!(
            "INSERT INTO k{number} (id, v) VALUES ({value}, 1)"
        ));
        let made = admin.text("SELECT clock_timestamp()");
        admin.run(&format!("UPDATE k{number} SET v = 2"));
        for settings in [
            "SET timezone = 'UTC'",
            "SET timezone = 'Asia/Tokyo'; SET intervalstyle = 'iso_8601'; SET bytea_output = 'escape'; SET extra_float_digits = 0; SET datestyle = 'German'",
        ] {
            admin.run(settings);
            // With fewer digits it is another number.
            if kind == "float8" && settings.contains("float") {
                continue;
            }
            let key = format!("(SELECT to_jsonb(id) FROM k{number})");
            let lines = format!("SELECT count(*) FROM tenancy.history('k{number}', {key})");
            let past = format!("SELECT tenancy.as_of('k{number}', {key}, '{made}') ->> 'v'");
            let told = (admin.count(&lines), admin.text(&past));
            assert_eq!(told, (2, "1".to_string()), "{kind}: {settings}");
        }
        admin.run("RESET timezone; RESET intervalstyle; RESET bytea_output; RESET extra_float_digits; RESET datestyle");
    }
}

#[test]
fn as_of_with_keys_of_several_columns_numbers_and_truncate() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(
        "CREATE TABLE prices (code text, part numeric, org_id uuid, amount numeric, PRIMARY KEY (org_id, code, part));
         GRANT ALL ON prices TO PUBLIC; SELECT tenancy.protect('prices')",
    );
    let mut admin = world.session("acme.admin");
    admin.run("INSERT INTO prices VALUES ('a''b', 1.50, tenancy.current_org(), 12345678901234567890.000000001)");
    let made = admin.text("SELECT clock_timestamp()");
    admin.run("UPDATE prices SET amount = amount * 2");
    let changed = admin.text("SELECT clock_timestamp()");
    let key = format!(
        r#"{{"code": "a''b", "part": 1.5, "org_id": "{}"}}"#,
        world.acme.id
    );
    let amount = |admin: &mut Session, at: &str| {
        admin.value(&format!(
            "SELECT tenancy.as_of('prices', '{key}', '{at}') ->> 'amount'"
        ))
    };
    assert_eq!(
        amount(&mut admin, &made).as_deref(),
        Some("12345678901234567890.000000001")
    );
    assert_eq!(
        amount(&mut admin, &changed).as_deref(),
        Some("24691357802469135780.000000002")
    );
    world.break_glass().run("TRUNCATE prices");
    let after = admin.text("SELECT clock_timestamp()");
    assert_eq!(
        amount(&mut admin, &changed).as_deref(),
        Some("24691357802469135780.000000002")
    );
    assert_eq!(
        amount(&mut admin, &made).as_deref(),
        Some("12345678901234567890.000000001")
    );
    assert_eq!(amount(&mut admin, &after), None);
}

#[test]
fn an_export_is_what_the_log_shows() {
    let world = World::new();
    let mut admin = world.session("acme.admin");
    admin.run("SET app.request_id = 'line, \"quoted\"'");
    admin.run(
        r#"INSERT INTO sites (id, name) VALUES (60, E'acme "q", \\ and \n newline, tab \t and ü')"#,
    );
    let between = admin.text("SELECT clock_timestamp()");
    admin.run("UPDATE sites SET visits = 1 WHERE id <= 2; DELETE FROM sites WHERE id = 60");
    let mut owner = world.session("acme.owner");
    owner.run("SET TimeZone = 'UTC'");
    let shown = owner.json("SELECT * FROM tenancy.audit_log");
    let ndjson = owner.column("SELECT tenancy.export_audit('ndjson')");
    assert_eq!(ndjson.len(), shown.len());
    for (line, shown) in ndjson.iter().zip(&shown) {
        let line: Value = serde_json::from_str(line).unwrap();
        let mut shown = shown.clone();
        assert_eq!(
            owner.text(&format!(
                "SELECT timestamptz '{}' = '{}'",
                line["at"].as_str().unwrap(),
                shown["at"].as_str().unwrap()
            )),
            "t"
        );
        assert!(line["at"].as_str().unwrap().ends_with('Z'));
        shown["at"] = line["at"].clone();
        assert_eq!(line, shown);
    }
    // The export itself is in the log, and in the next one.
    let act = owner
        .json("SELECT * FROM tenancy.audit_log WHERE operation = 'export_audit'")
        .remove(0);
    assert_eq!(act["new"]["lines"], shown.len());
    assert_eq!(act["actor_id"], world.user("acme.owner").to_string());
    assert_eq!(
        owner.column("SELECT tenancy.export_audit('ndjson')").len(),
        shown.len() + 1
    );
    // Through COPY, byte for byte; and in part.
    let copied = copy(&mut owner, "SELECT tenancy.export_audit('ndjson')").unwrap();
    let lines: Vec<&str> = copied.lines().collect();
    assert_eq!(lines[..ndjson.len()], ndjson);
    assert_eq!(lines.len(), shown.len() + 2);
    let count = |owner: &mut Session, arguments: &str| {
        owner.count(&format!("SELECT count(*) FROM tenancy.export_audit('ndjson', {arguments}) AS line WHERE line LIKE '%public.sites%'"))
    };
    assert_eq!(count(&mut owner, &format!("since => '{between}'")), 3);
    assert_eq!(count(&mut owner, &format!("until => '{between}'")), 1);
    // CSV: read by PostgreSQL itself.
    let csv = copy(&mut owner, "SELECT tenancy.export_audit('csv')").unwrap();
    let mut dba = world.superuser();
    dba.run(
        "CREATE TABLE imported (at timestamptz, org_id uuid, actor_id uuid, actor_type text, approver_id uuid, db_role name, operation text,
             object text, key jsonb, old jsonb, new jsonb, result text, client_addr inet, request_id text, xid xid8, n int, break_glass boolean)",
    );
    {
        use std::io::Write;
        let mut sink = dba
            .copy_in("COPY imported FROM STDIN WITH (FORMAT csv, HEADER match)")
            .unwrap();
        sink.write_all(csv.as_bytes()).unwrap();
        sink.finish().unwrap();
    }
    dba.run(&format!("SET app.current_org = '{}'", world.acme.id));
    assert_eq!(
        dba.count("SELECT count(*) FROM (TABLE imported EXCEPT TABLE tenancy.audit_log) d"),
        0
    );
    assert_eq!(
        dba.count("SELECT count(*) FROM imported"),
        shown.len() as i64 + 3 + 2
    );
    for bad in ["'xml'", "NULL", "'csv', evidence => true"] {
        assert!(
            owner
                .attempt(&format!("SELECT tenancy.export_audit({bad})"))
                .is_err()
        );
    }
    refused(owner.attempt("SELECT tenancy.export_audit('xml')"), "22023");
    // One organization's only.
    assert!(!csv.contains(&world.globex.id.to_string()));
    assert!(csv.contains(&Uuid::to_string(&world.acme.id)));
}

#[test]
fn an_export_with_evidence_lets_every_leaf_be_computed() {
    use base64::Engine as _;
    use pg_tenancy_audit_format::{self as format, Author, Column, Layout, Moment};
    let world = World::new();
    let mut admin = world.session("acme.admin");
    admin.run("SET app.request_id = 'r-1'; UPDATE sites SET visits = visits + 1; INSERT INTO servers (id, name) VALUES (60, 'x')");
    world.break_glass().run("UPDATE sites SET visits = 70");
    let mut owner = world.session("acme.owner");
    let lines = owner.column("SELECT tenancy.export_audit('ndjson', evidence => true)");
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len() / 2)
            .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
            .collect()
    };
    let mut layouts = std::collections::HashMap::new();
    let mut checked = 0;
    for line in lines {
        let line: Value = serde_json::from_str(&line).unwrap();
        if let Some(columns) = line["columns"].as_array() {
            let columns = columns
                .iter()
                .zip(line["encodings"].as_array().unwrap())
                .map(|(name, encoding)| Column {
                    name: name.as_str().unwrap().into(),
                    encoding: encoding.as_str().unwrap().into(),
                    shape: format::shape(encoding.as_str().unwrap()).unwrap(),
                    is_org: line["org_column"] == *name,
                    is_key: line["key"].as_array().unwrap().contains(name),
                });
            let layout = Layout::new(line["object"].as_str().unwrap(), columns.collect());
            assert_eq!(line["layout"], Uuid::from_bytes(layout.id()).to_string());
            layouts.insert(line["layout"].as_str().unwrap().to_string(), layout);
            continue;
        }
        let uuid = |field: &Value| {
            field
                .as_str()
                .map(|t| *t.parse::<Uuid>().unwrap().as_bytes())
        };
        let text = |name: &str| line[name].as_str().map(String::from);
        let author = Author {
            actor: uuid(&line["actor_id"]),
            approver: uuid(&line["approver_id"]),
            break_glass: line["break_glass"] == true,
            actor_type: text("actor_type").unwrap(),
            db_role: text("db_role").unwrap(),
            result: text("result").unwrap(),
            client_addr: text("client_addr"),
            request_id: text("request_id"),
        };
        let evidence = &line["evidence"];
        let layout = &layouts[evidence["layout"].as_str().unwrap()];
        let context = author.context(&layout.digest, &uuid(&line["org_id"]).unwrap());
        let body = base64::engine::general_purpose::STANDARD
            .decode(evidence["body"].as_str().unwrap())
            .unwrap();
        let salt: [u8; 16] = bytes(evidence["salt"].as_str().unwrap())
            .try_into()
            .unwrap();
        let moment = Moment {
            at: evidence["at"].as_i64().unwrap(),
            xid: text("xid").unwrap().parse().unwrap(),
            n: line["n"].as_i64().unwrap() as i32,
        };
        let leaf = format::leaf(&context, moment, body[0], &format::values(&salt, &body));
        assert_eq!(
            leaf.as_slice(),
            bytes(line["leaf"].as_str().unwrap()),
            "{line}"
        );
        checked += 1;
    }
    assert!(checked >= 13, "{checked}");
    assert_eq!(json!(layouts.len()), json!(3));
}
