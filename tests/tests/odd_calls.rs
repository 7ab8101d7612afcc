//! Every function of the schema, as the catalog lists them, called with NULLs and with values that nobody means: each
//! answers, or refuses with an error of PostgreSQL's or ours. None ends in an internal error, in a panic's text, or with
//! the connection.

use std::collections::BTreeSet;
use std::fmt::Write;

use pg_tenancy_tests::{Error, Random, Session, World, few_or_many, quote, refused};

/// Tables of every kind, beside the world's own.
const OBJECTS: &str = "
    CREATE TABLE plain (id int PRIMARY KEY, org_id uuid, note text);
    CREATE TABLE keyless (org_id uuid);
    CREATE TABLE parts (org_id uuid, at date) PARTITION BY RANGE (at);
    CREATE TABLE part PARTITION OF parts DEFAULT;
    CREATE INDEX plain_idx ON plain (note);
    CREATE VIEW seen AS SELECT * FROM plain;
    CREATE MATERIALIZED VIEW kept AS SELECT * FROM plain;
    CREATE SEQUENCE numbers;
    CREATE TYPE pair AS (a int, b int);
    CREATE SCHEMA empty;
    GRANT ALL ON plain, keyless, parts, part, seen, kept TO PUBLIC;
    GRANT USAGE ON SCHEMA empty TO PUBLIC;";

struct Function {
    name: String,
    /// The types of its arguments.
    types: Vec<String>,
    kind: String,
    result: String,
}

impl Function {
    fn call(&self, arguments: &[String]) -> String {
        let verb = if self.kind == "p" { "CALL" } else { "SELECT" };
        format!("{verb} tenancy.{}({})", self.name, arguments.join(", "))
    }
}

fn functions(session: &mut Session) -> Vec<Function> {
    session
        .rows(
            "SELECT quote_ident(p.proname), p.prokind::text, p.prorettype::regtype::text,
                    coalesce((SELECT string_agg(t::regtype::text, '|' ORDER BY n)
                              FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a (t, n)), '')
             FROM pg_proc AS p WHERE p.pronamespace = 'tenancy'::regnamespace ORDER BY p.oid::regprocedure::text",
        )
        .into_iter()
        .map(|row| {
            let mut row = row.into_iter().map(Option::unwrap_or_default);
            let mut next = || row.next().unwrap_or_default();
            let (name, kind, result, types) = (next(), next(), next(), next());
            Function {
                name,
                kind,
                result,
                types: types.split('|').filter(|t| !t.is_empty()).map(String::from).collect(),
            }
        })
        .collect()
}

/// Values of a type, as expressions: what is meant first, then what is not.
fn values(world: &World, of: &str) -> Vec<String> {
    let typed = |values: &[&str]| -> Vec<String> {
        values
            .iter()
            .map(|v| format!("{}::{of}", quote(v)))
            .collect()
    };
    let long = "é".repeat(40_000);
    let deep = format!("{}{}", "[".repeat(3_000), "]".repeat(3_000));
    let mut all = match of {
        "uuid" => vec![
            format!("'{}'::uuid", world.acme.id),
            format!("'{}'::uuid", world.globex.id),
            format!("'{}'::uuid", world.user("acme.member")),
            "'00000000-0000-0000-0000-000000000000'::uuid".into(),
            "gen_random_uuid()".into(),
        ],
        "text" | "name" | "character varying" => typed(&[
            "servers",
            "member",
            "server:read",
            "production",
            "a@b.test",
            "postgres",
            "public",
            "pg_catalog",
            "no_such_thing",
            "",
            " ",
            "%s%n",
            "1e400",
            "-1",
            "'\"\\",
            "line\nbreak\u{1}\u{7f}",
            "a.b.c",
            "{\"a\": 1e400}",
            &long,
        ]),
        "jsonb" | "json" => {
            let mut some = typed(&[
                "{}",
                r#"{"id": 1}"#,
                r#"{"select": "server:read"}"#,
                "[]",
                "null",
                "1e400",
                "-1e-400",
                "1e100000",
                r#""text""#,
                r#"{"id": 1e400}"#,
                r#"{"id": [1e400, -1e400]}"#,
                r#"{"id": 123456789012345678901234567890.5}"#,
                r#"{"select": 1e400}"#,
                r#"{"columns": {"note": 1e400}}"#,
                r#"{"columns": []}"#,
                r#"{"": "", "org_id": null}"#,
                &deep,
            ]);
            some.push(format!("to_jsonb({}::text)", quote(&long)));
            some
        }
        "regclass" | "oid" => [
            "'public.plain'::regclass",
            "'public.servers'::regclass",
            "'public.parts'::regclass",
            "'public.part'::regclass",
            "'public.keyless'::regclass",
            "'public.plain_idx'::regclass",
            "'public.seen'::regclass",
            "'public.kept'::regclass",
            "'public.numbers'::regclass",
            "'public.pair'::regclass",
            "'pg_catalog.pg_class'::regclass",
            "'tenancy.orgs'::regclass",
            "0::oid",
            "4294967295::oid",
        ]
        .map(|v| format!("{v}::{of}"))
        .to_vec(),
        "integer" => typed(&["1", "0", "-1", "2147483647", "-2147483648"]),
        "smallint" => typed(&["1", "0", "-1", "32767", "-32768"]),
        "bigint" => typed(&[
            "1",
            "0",
            "-1",
            "9223372036854775807",
            "-9223372036854775808",
        ]),
        "numeric" => typed(&[
            "1",
            "0",
            "-1.5",
            "NaN",
            "Infinity",
            "-Infinity",
            "1e131000",
            "1e-16000",
        ]),
        "boolean" => typed(&["true", "false"]),
        "bytea" => {
            let mut some = typed(&["\\x00", "", "\\xdeadbeef", "abc"]);
            some.push("convert_to(repeat('x', 100000), 'UTF8')".into());
            some
        }
        "timestamp with time zone" | "timestamp without time zone" | "date" => typed(&[
            "2026-11-01",
            "infinity",
            "-infinity",
            "4713-01-02 BC",
            if of == "date" {
                "5874897-12-31"
            } else {
                "294276-12-31"
            },
        ]),
        "interval" => typed(&[
            "1 hour",
            "0",
            "-1 hour",
            "178000000 years",
            "-178000000 years",
            "2147483647 days",
            "1 month -31 days",
        ]),
        "inet" | "cidr" => typed(&["127.0.0.1", "::1", "0.0.0.0"]),
        "regoperator" => ["'=(uuid,uuid)'", "'~~(text,text)'", "0", "4294967295"]
            .map(|v| format!("{v}::{of}"))
            .to_vec(),
        "regprocedure" | "regproc" => ["0", "4294967295"].map(|v| format!("{v}::{of}")).to_vec(),
        _ => match of.strip_suffix("[]") {
            Some(element) => {
                let some = values(world, element);
                let first = some.first().cloned().unwrap_or("NULL".into());
                let last = some
                    .get(some.len().saturating_sub(2))
                    .cloned()
                    .unwrap_or("NULL".into());
                vec![
                    format!("ARRAY[{first}]::{of}"),
                    format!("ARRAY[{first}, {last}, {first}]::{of}"),
                    format!("'{{}}'::{of}"),
                    format!("ARRAY[NULL]::{of}"),
                    format!("ARRAY[[{first}], [{first}]]::{of}"),
                    format!("array_fill({first}, ARRAY[2], ARRAY[-5])::{of}"),
                ]
            }
            None => vec![],
        },
    };
    all.push(format!("NULL::{of}"));
    all
}

/// What must not be, if the call ended so.
fn fault(result: &Result<u64, Error>) -> Option<String> {
    let error = result.as_ref().err()?;
    let Some(db) = error.as_db_error() else {
        return Some(format!("the connection failed: {error}"));
    };
    let told = format!(
        "{} {} {} {}",
        db.code().code(),
        db.message(),
        db.detail().unwrap_or(""),
        db.hint().unwrap_or("")
    );
    let panicked = [
        "panick",
        "unwrap()",
        "RefCell",
        "index out of bounds",
        "overflow with",
        ".rs:",
    ];
    (told.starts_with("XX") || panicked.iter().any(|text| told.contains(text))).then_some(told)
}

struct Caller {
    who: &'static str,
    session: Session,
    /// What each of its transactions begins with.
    begin: String,
    /// Tries each value of each argument; others what chance picks.
    thorough: bool,
}

fn callers(world: &World) -> Vec<Caller> {
    let caller = |who, session, begin: String| Caller {
        thorough: matches!(who, "the DBA" | "an owner"),
        who,
        session,
        begin: format!("BEGIN; SET LOCAL statement_timeout = '20s'; {begin}"),
    };
    let org = format!("SET LOCAL app.current_org = '{}'", world.acme.id);
    vec![
        caller("the DBA", world.superuser(), String::new()),
        caller("the DBA in an organization", world.superuser(), org.clone()),
        caller("an owner", world.bound("acme.owner"), org),
        caller(
            "the application",
            world.app(),
            world.claim(world.acme, "acme.admin"),
        ),
        caller("nobody", world.nobody(), String::new()),
    ]
}

impl Caller {
    /// Runs a call and takes it back.
    fn fault(&mut self, sql: &str) -> Option<String> {
        let result = self.session.attempt(&format!("{}; {sql}", self.begin));
        let fault = fault(&result);
        match self.session.attempt("ROLLBACK") {
            Err(gone) => Some(format!("{}; then {gone}", fault.unwrap_or_default())),
            Ok(_) => fault,
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(300).collect()
}

struct Told(BTreeSet<String>);

impl Told {
    fn add(&mut self, who: &str, sql: &str, fault: String) {
        self.0.insert(format!(
            "{who}: {}\n    {}",
            shortened(sql),
            shortened(&fault)
        ));
    }

    #[track_caller]
    fn none(self) {
        let mut all = String::new();
        for line in &self.0 {
            writeln!(all, "{line}").ok();
        }
        assert!(self.0.is_empty(), "{} faults:\n{all}", self.0.len());
    }
}

fn world() -> World {
    let world = World::new();
    let mut dba = world.superuser();
    dba.run(OBJECTS);
    dba.run(&format!(
        "SELECT tenancy.create_project('{}', 'web'); SELECT tenancy.set_quota('{}', 'servers', 100)",
        world.acme.id, world.acme.id
    ));
    world
}

#[test]
fn odd_arguments_end_in_an_answer_or_a_refusal() {
    let world = world();
    let functions = functions(&mut world.superuser());
    assert!(functions.len() > 150, "{}", functions.len());
    let chance = few_or_many(
        "odd calls by chance, of each function by each caller",
        6,
        60,
    );
    let mut told = Told(BTreeSet::new());
    for mut caller in callers(&world) {
        let mut random = Random::new(15);
        for function in &functions {
            if matches!(function.result.as_str(), "trigger" | "event_trigger") {
                continue;
            }
            let known: Vec<Vec<String>> =
                function.types.iter().map(|of| values(&world, of)).collect();
            let meant: Vec<String> = known.iter().map(|v| v[0].clone()).collect();
            let mut calls = vec![meant.clone()];
            calls.push(known.iter().map(|v| v[v.len() - 1].clone()).collect());
            for (i, values) in known.iter().enumerate().filter(|_| caller.thorough) {
                for value in &values[1..] {
                    let mut call = meant.clone();
                    call[i] = value.clone();
                    calls.push(call);
                }
            }
            if known.len() > 1 {
                for _ in 0..chance {
                    calls.push(
                        known
                            .iter()
                            .map(|v| v[random.next(v.len())].clone())
                            .collect(),
                    );
                }
            }
            for call in calls {
                let sql = function.call(&call);
                if let Some(fault) = caller.fault(&sql) {
                    told.add(caller.who, &sql, fault);
                    if caller.session.is_closed() {
                        told.none();
                        unreachable!("the connection is gone");
                    }
                }
            }
        }
    }
    told.none();
}

/// What takes time or memory by the length of a text does not by that of a name.
#[test]
fn a_name_without_end_is_refused_at_once() {
    let world = world();
    let mut session = world.session("acme.owner");
    session.run("SET statement_timeout = '5s'");
    for call in [
        "has_permission(repeat('x', 3000000))",
        "permission_level(repeat('x', 3000000), 'server:read')",
        "permission_level('owner', repeat('x', 3000000))",
    ] {
        refused(session.attempt(&format!("SELECT tenancy.{call}")), "22023");
    }
}

/// Called as what they are not, and by triggers of another kind than ours.
#[test]
fn trigger_functions_say_what_they_are() {
    let world = world();
    let mut dba = world.superuser();
    let mut told = Told(BTreeSet::new());
    let functions: Vec<Function> = functions(&mut dba)
        .into_iter()
        .filter(|f| matches!(f.result.as_str(), "trigger" | "event_trigger"))
        .collect();
    assert!(functions.len() > 15, "{}", functions.len());
    for function in &functions {
        let call = function.call(&[]);
        let expected = match function.result.as_str() {
            "trigger" => "39P01",
            _ => "39P03",
        };
        let error = dba.attempt(&call).expect_err(&call);
        let code = error
            .as_db_error()
            .map_or("the connection failed", |e| e.code().code());
        if code != expected {
            told.add("called", &call, format!("{error:?}"));
        }
    }
    for function in functions.iter().filter(|f| f.result == "trigger") {
        for (table, times) in [
            ("plain", ["BEFORE", "AFTER"].as_slice()),
            ("seen", ["INSTEAD OF"].as_slice()),
            ("keyless", ["BEFORE", "AFTER"].as_slice()),
        ] {
            for (time, each) in times.iter().flat_map(|t| [(t, "ROW"), (t, "STATEMENT")]) {
                if table == "seen" && each == "STATEMENT" {
                    continue;
                }
                for (event, statement) in [
                    ("INSERT", "INSERT INTO TABLE_ (org_id) VALUES (NULL)"),
                    ("UPDATE", "UPDATE TABLE_ SET org_id = gen_random_uuid()"),
                    ("DELETE", "DELETE FROM TABLE_"),
                    ("TRUNCATE", "TRUNCATE TABLE_"),
                ] {
                    if event == "TRUNCATE" && (each == "ROW" || table == "seen") {
                        continue;
                    }
                    for arguments in ["", "'x'", "'{\"org_column\": \"org_id\"}', '1e400'"] {
                        let sql = format!(
                            "BEGIN; ALTER TABLE plain ALTER id SET DEFAULT 8; INSERT INTO plain VALUES (7); INSERT INTO keyless VALUES (NULL);
                             CREATE TRIGGER odd {time} {event} ON {table} FOR EACH {each} EXECUTE FUNCTION tenancy.{}({arguments});
                             {}; COMMIT",
                            function.name,
                            statement.replace("TABLE_", table)
                        );
                        let result =
                            dba.attempt(&sql.replace("COMMIT", "SET CONSTRAINTS ALL IMMEDIATE"));
                        if let Some(fault) = fault(&result) {
                            told.add("in a trigger", &sql, fault);
                        }
                        dba.run("ROLLBACK");
                    }
                }
            }
        }
    }
    for function in functions.iter().filter(|f| f.result == "event_trigger") {
        for event in [
            "ddl_command_start",
            "ddl_command_end",
            "sql_drop",
            "table_rewrite",
        ] {
            let created = dba.attempt(&format!(
                "BEGIN; CREATE EVENT TRIGGER odd ON {event} EXECUTE FUNCTION tenancy.{}();
                 CREATE TABLE new (org_id int, note text); ALTER TABLE new ALTER org_id TYPE bigint; DROP TABLE new",
                function.name
            ));
            if let Some(fault) = fault(&created) {
                told.add(
                    "in an event trigger",
                    &format!("{event} {}", function.name),
                    fault,
                );
            }
            dba.run("ROLLBACK");
        }
    }
    told.none();
}
