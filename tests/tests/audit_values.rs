//! What the log holds of a value: of every type, in the form that to_jsonb() gives it, whoever wrote and whoever reads.

use pg_tenancy_tests::{Session, World, few_or_many, quote};
use serde_json::json;

/// What a session may have set, and what no line of the log may depend on.
const ODD: &str =
    "SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'iso_8601';
    SET bytea_output = 'escape'; SET extra_float_digits = -9";
const PLAIN: &str = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres';
    SET bytea_output = 'hex'; SET extra_float_digits = 1";

const TYPES: &[(&str, &[&str])] = &[
    ("bool", &["true", "false"]),
    ("\"char\"", &["x"]),
    ("int2", &["-32768", "0", "32767"]),
    ("int4", &["-2147483648", "-1", "2147483647"]),
    (
        "int8",
        &["-9223372036854775808", "63", "64", "9223372036854775807"],
    ),
    (
        "float4",
        &["0.1", "-0", "NaN", "Infinity", "-Infinity", "1e-37"],
    ),
    (
        "float8",
        &["0.1", "-0", "NaN", "Infinity", "-Infinity", "1e300"],
    ),
    (
        "numeric",
        &[
            "0",
            "NaN",
            "Infinity",
            "-Infinity",
            "-0.000000000000000000000000000001",
            "12345678901234567890123456789.5",
            "1e300",
            "-1.50",
        ],
    ),
    ("numeric(6,2)", &["1234.50", "-0.10", "0.00"]),
    ("money", &["12.34"]),
    ("text", &["", "Käse \" \\ \n \t", "🐘"]),
    ("varchar(40)", &["varchar"]),
    ("char(8)", &["pad"]),
    ("name", &["a_name"]),
    ("bytea", &["", "\\x00ff10", "plain"]),
    (
        "json",
        &[
            "{\"b\": 1, \"a\": [1, 2.50, null, \"x\"]}",
            "1",
            "\"s\"",
            "null",
        ],
    ),
    (
        "jsonb",
        &[
            "{\"b\": 1, \"a\": [1, 2.50, null, \"x\", {\"deep\": [[[true]]]}]}",
            "1.5",
            "\"s\"",
            "null",
            "[]",
            "{}",
        ],
    ),
    ("xml", &["<a b=\"c\">d</a>"]),
    ("jsonpath", &["$.a[*] ? (@ > 1)"]),
    (
        "date",
        &[
            "2024-02-29",
            "infinity",
            "-infinity",
            "4714-11-24 BC",
            "5874897-12-31",
        ],
    ),
    ("time", &["00:00", "24:00", "12:34:56.789012"]),
    ("timetz", &["12:34:56.789+05:45", "00:00-15:59"]),
    (
        "timestamp",
        &[
            "2024-02-29 12:34:56.789",
            "infinity",
            "-infinity",
            "4714-11-24 00:00:00 BC",
            "294276-12-31 23:59:59.999999",
        ],
    ),
    (
        "timestamptz",
        &[
            "2024-02-29 12:34:56.789+02",
            "infinity",
            "-infinity",
            "4714-11-24 00:00:00+00 BC",
            "294276-12-31 23:59:59.999999+00",
        ],
    ),
    (
        "interval",
        &["1 year 2 mons -3 days 04:05:06.7", "0", "-178000000 years"],
    ),
    ("uuid", &["11111111-2222-3333-4444-555555555555"]),
    ("inet", &["10.0.0.1", "10.0.0.1/8", "2001:db8::1/64"]),
    ("cidr", &["10.0.0.0/8", "2001:db8::/32"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    ("bit(9)", &["101010101", "000000000"]),
    ("varbit", &["", "1", "10101010"]),
    ("oid", &["4294967295"]),
    ("xid", &["7"]),
    ("xid8", &["18446744073709551615"]),
    ("cid", &["3"]),
    ("tid", &["(7,8)"]),
    ("pg_lsn", &["16/B374D848"]),
    ("pg_snapshot", &["10:20:10,14,15"]),
    ("regclass", &["pg_class"]),
    ("regtype", &["integer"]),
    ("point", &["(0.1,-2)"]),
    ("line", &["{1,2,3}"]),
    ("lseg", &["[(1,2),(3,4)]"]),
    ("box", &["(3,4),(1,2)"]),
    ("path", &["[(1,2),(3,4),(5,6)]", "((1,2),(3,4))"]),
    ("polygon", &["((1,2),(3,4),(5,6))"]),
    ("circle", &["<(1,2),3>"]),
    ("tsvector", &["", "a:1A fat:2B,4C cat", "'it''s' '🐘':3"]),
    ("tsquery", &["fat & (cat | !rat:A)"]),
    ("int2vector", &["1 2 3"]),
    ("oidvector", &["1 2 3"]),
    ("int4range", &["[1,5)", "empty", "(,)"]),
    ("numrange", &["[1.50,2]"]),
    ("tstzrange", &["[2024-01-01 00:00+00,2024-02-01 00:00+00)"]),
    ("daterange", &["[2024-01-01,2024-02-01)"]),
    ("int4multirange", &["{[1,3),[5,7)}", "{}"]),
    (
        "tstzmultirange",
        &["{[2024-01-01 00:00+00,2024-02-01 00:00+00)}"],
    ),
    (
        "int4[]",
        &["{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[5:6]={1,2}"],
    ),
    ("int2[]", &["{1,2,3}"]),
    ("int8[]", &["{1,NULL}"]),
    ("bool[]", &["{t,f,NULL}"]),
    ("\"char\"[]", &["{a,b}"]),
    ("name[]", &["{a,bc}"]),
    (
        "text[]",
        &["{}", "{\"\",NULL,\"a \\\" b\",🐘}", "{{a,bc},{def,g}}"],
    ),
    ("varchar[]", &["{a,bc}"]),
    ("bytea[]", &["{\"\\\\x00ff\",\"\\\\x\"}"]),
    ("numeric[]", &["{NaN,Infinity,1.50,NULL,-1e30}"]),
    ("float8[]", &["{0.1,NaN,Infinity}"]),
    ("timestamptz[]", &["{\"2024-02-29 12:34:56+00\",infinity}"]),
    ("timetz[]", &["{12:00+01}"]),
    ("interval[]", &["{1 day,2 mons}"]),
    ("date[]", &["{2024-02-29,infinity}"]),
    ("uuid[]", &["{11111111-2222-3333-4444-555555555555,NULL}"]),
    ("jsonb[]", &["{\"{\\\"a\\\": 1}\",NULL,\"[1]\"}"]),
    ("json[]", &["{\"{\\\"a\\\": 1}\",NULL,\"[1]\"}"]),
    ("inet[]", &["{10.0.0.1,2001:db8::1}"]),
    ("macaddr[]", &["{08:00:2b:01:02:03,08:00:2b:01:02:04}"]),
    ("varbit[]", &["{101,1}"]),
    ("tsvector[]", &["{\"a:1 b\",c}"]),
    ("path[]", &["{\"[(1,2),(3,4)]\"}"]),
    ("polygon[]", &["{\"((1,2),(3,4))\"}"]),
    ("box[]", &["{(3,4),(1,2)}"]),
    ("point[]", &["{\"(1,2)\",\"(3,4)\"}"]),
    ("int4range[]", &["{\"[1,5)\",empty}"]),
    ("tstzrange[]", &["{\"[2024-01-01 00:00+00,infinity)\"}"]),
    ("mood", &["good", "quite \"bad\""]),
    ("mood[]", &["{good,NULL}"]),
    ("pair", &["(1,\"a, b\")", "(,)"]),
    ("pair[]", &["{\"(1,a)\",\"(2,b)\"}"]),
    (
        "nested",
        &["(\"(1,x)\",good,\"2024-02-29 12:34:56+00\",\"{1,2}\")"],
    ),
    ("positive", &["7"]),
    ("positive[]", &["{7,8}"]),
    ("label", &["domain over varchar"]),
    ("citext", &["MiXeD"]),
    ("citext[]", &["{MiXeD,x}"]),
    ("hstore", &["a=>1, b=>NULL"]),
    ("ltree", &["Top.Science"]),
    ("cube", &["(1,2),(3,4)"]),
];

const MADE: &str = r#"
    CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE EXTENSION ltree; CREATE EXTENSION cube;
    CREATE TYPE mood AS ENUM ('good', 'quite "bad"');
    CREATE TYPE pair AS (a int, b text);
    CREATE TYPE nested AS (p pair, m mood, t timestamptz, i int[]);
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE DOMAIN label AS varchar(40);"#;

/// A protected table with a column of every type, one row for each of their values.
fn with_every_type(world: &World) -> usize {
    let mut dba = world.superuser();
    let columns: Vec<String> = TYPES
        .iter()
        .enumerate()
        .map(|(i, (name, _))| format!("c{i} {name}"))
        .collect();
    dba.run(MADE);
    dba.run(&format!(
        "CREATE TABLE things (id int PRIMARY KEY, org_id uuid, {}); GRANT ALL ON things TO PUBLIC;
         SELECT tenancy.protect('things')",
        columns.join(", ")
    ));
    TYPES.iter().map(|(_, values)| values.len()).max().unwrap()
}

fn insert(row: usize) -> String {
    let values: Vec<String> = TYPES
        .iter()
        .map(|(_, values)| quote(values[row % values.len()]))
        .collect();
    // As the literals are meant, whatever the session has set.
    format!(
        "INSERT INTO things SELECT {row}, tenancy.current_org(), {}",
        values.join(", ")
    )
}

/// The columns in which two jsonb objects of the same row differ, and how.
fn differences(dba: &mut Session, expected: &str, found: &str) -> Vec<String> {
    dba.column(&format!(
        "SELECT e.key || ': ' || e.value::text || ' became ' || coalesce(f.value::text, 'nothing')
         FROM jsonb_each({}::jsonb) e LEFT JOIN jsonb_each({}::jsonb) f USING (key)
         WHERE e.value::text IS DISTINCT FROM f.value::text",
        quote(expected),
        quote(found)
    ))
}

#[test]
fn every_type_as_to_jsonb_shows_it_whoever_writes_and_reads() {
    let world = World::people();
    let rows = with_every_type(&world);
    let mut writer = world.session("acme.admin");
    for row in 0..rows {
        writer.run(&insert(row));
    }
    writer.run("INSERT INTO things (id) VALUES (1000)");
    let mut dba = world.superuser();
    dba.run(&format!(
        "{PLAIN}; SET app.current_org = '{}'",
        world.acme.id
    ));
    let expected = dba.column("SELECT to_jsonb(t) FROM things t ORDER BY id");
    // Every column changes, and the session that writes has other settings.
    writer.run(ODD);
    writer.run("DELETE FROM things WHERE id < 1000");
    let deleted = "SELECT old FROM tenancy.audit_log WHERE object = 'public.things' AND operation = 'DELETE' ORDER BY at, n";
    let inserted = "SELECT new FROM tenancy.audit_log WHERE object = 'public.things' AND operation = 'INSERT' ORDER BY at, n";
    let mut odd = world.session("acme.owner");
    let mut odder = world.session("acme.admin");
    odd.run(ODD);
    odder.run(ODD);
    for (reader, query, count) in [
        (&mut dba, inserted, rows + 1),
        (&mut odd, inserted, rows + 1),
        (&mut odder, deleted, rows),
    ] {
        let found = reader.column(query);
        assert_eq!(found.len(), count);
        let mut plain = world.superuser();
        for (expected, found) in expected.iter().zip(&found) {
            let wrong = differences(&mut plain, expected, found);
            assert_eq!(wrong, Vec::<String>::new(), "{query}");
        }
    }
    // The reader's own settings are as they were.
    assert_eq!(odd.text("SHOW TimeZone"), "Asia/Kathmandu");
    assert!(
        odd.text("SELECT timestamptz '2024-02-29 12:00+00'")
            .starts_with("29/02/2024 17:45")
    );
}

#[test]
fn an_update_of_every_type_holds_old_and_new() {
    let world = World::people();
    let rows = with_every_type(&world);
    let mut writer = world.session("acme.admin");
    writer.run(&insert(0));
    for row in 1..rows {
        let set: Vec<String> = TYPES
            .iter()
            .enumerate()
            .map(|(i, (_, values))| format!("c{i} = {}", quote(values[row % values.len()])))
            .collect();
        writer.run(&format!("UPDATE things SET {}", set.join(", ")));
    }
    let mut dba = world.superuser();
    dba.run(&format!(
        "{PLAIN}; SET app.current_org = '{}'",
        world.acme.id
    ));
    // Folded from the first to the last, the log makes the row; unfolded from the last, the first.
    let lines = dba.json(
        "SELECT operation, old, new FROM tenancy.audit_log WHERE object = 'public.things' ORDER BY at, n",
    );
    assert_eq!(lines.len(), rows);
    let mut folded = lines[0]["new"].clone();
    for line in &lines[1..] {
        for (column, value) in line["old"].as_object().unwrap() {
            assert_eq!(&folded[column], value, "{column}");
        }
        for (column, value) in line["new"].as_object().unwrap() {
            assert_ne!(&folded[column], value, "{column} did not change");
            folded[column] = value.clone();
        }
    }
    let now = dba.json("SELECT * FROM things").remove(0);
    assert_eq!(folded, now);
}

/// Columns are kept eight to a byte: each of them alone, and a key that lies in other bytes than the first.
#[test]
fn an_update_of_one_column_names_it_and_the_key_wherever_they_stand() {
    let world = World::people();
    let mut dba = world.superuser();
    let columns: Vec<String> = (0..20).map(|i| format!("c{i} int")).collect();
    dba.run(&format!(
        "CREATE TABLE things ({}, org_id uuid, PRIMARY KEY (c9, c17)); GRANT ALL ON things TO PUBLIC;
         SELECT tenancy.protect('things')",
        columns.join(", ")
    ));
    let mut writer = world.session("acme.admin");
    let (names, values): (Vec<_>, Vec<_>) =
        (0..20).map(|i| (format!("c{i}"), i.to_string())).unzip();
    writer.run(&format!(
        "INSERT INTO things ({}) VALUES ({})",
        names.join(", "),
        values.join(", ")
    ));
    for name in &names {
        writer.run(&format!("UPDATE things SET {name} = {name} + 100"));
        writer.run(&format!(
            "UPDATE things SET {name} = NULLIF({name} - 100, 3)"
        ));
    }
    let mut owner = world.session("acme.owner");
    let lines = owner.json(
        "SELECT key, old, new FROM tenancy.audit_log WHERE object = 'public.things' AND operation = 'UPDATE' ORDER BY at, n",
    );
    assert_eq!(lines.len(), 40);
    for (i, pair) in lines.chunks(2).enumerate() {
        let name = &names[i];
        for (line, (old, new)) in pair.iter().zip([(i, i + 100), (i + 100, i)]) {
            let (old, new) = (json!(old), if new == 3 { json!(null) } else { json!(new) });
            assert_eq!(line["old"], json!({ name: old }), "{line}");
            assert_eq!(line["new"], json!({ name: new }), "{line}");
            let mut expected = json!({"c9": 9, "c17": 17});
            if [9, 17].contains(&i) {
                expected[name] = old;
            }
            assert_eq!(line["key"], expected);
        }
    }
}

#[test]
fn what_happens_to_a_type_or_column_later_changes_no_line() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(
        "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE TYPE pair AS (a int, b text); CREATE DOMAIN label AS text;
         CREATE EXTENSION citext;
         CREATE TABLE things (id int PRIMARY KEY, org_id uuid, m mood, p pair, l label, c citext, n int, t text);
         GRANT ALL ON things TO PUBLIC; SELECT tenancy.protect('things')",
    );
    let mut admin = world.session("acme.admin");
    admin.run(
        "INSERT INTO things (id, m, p, l, c, n, t) VALUES (1, 'good', '(1,x)', 'l', 'C', 5, 'T')",
    );
    let read = |admin: &mut Session| {
        admin.column(
            "SELECT new FROM tenancy.audit_log WHERE object = 'public.things' ORDER BY at, n",
        )
    };
    let first = read(&mut admin).remove(0);
    for change in [
        "ALTER TYPE mood RENAME VALUE 'good' TO 'fine'",
        "ALTER TYPE pair RENAME ATTRIBUTE a TO z",
        "ALTER TYPE pair ADD ATTRIBUTE more int",
        "ALTER TABLE things ADD COLUMN added int DEFAULT 9",
        "ALTER TABLE things RENAME COLUMN t TO title",
        "ALTER TABLE things ALTER COLUMN n TYPE text USING 'n' || n",
        "ALTER TABLE things DROP COLUMN p; DROP TYPE pair",
        "ALTER TABLE things DROP COLUMN m; DROP TYPE mood",
        "ALTER TABLE things DROP COLUMN l; DROP DOMAIN label",
        "ALTER TABLE things DROP COLUMN c; DROP EXTENSION citext",
        "ALTER TABLE things DROP CONSTRAINT things_pkey; ALTER TABLE things ADD PRIMARY KEY (title, id)",
    ] {
        if change.contains("title, id") {
            dba.run("BEGIN; SET LOCAL row_security = off; UPDATE things SET title = 'x' WHERE title IS NULL; COMMIT");
        }
        let before = read(&mut admin);
        dba.run(change);
        assert_eq!(read(&mut admin), before, "{change}");
        write(&mut admin, before.len() + 100, change.contains("title, id"));
        assert_eq!(read(&mut admin)[..before.len()], before, "{change}");
    }
    write(&mut admin, 900, true);
    assert_eq!(read(&mut admin)[0], first);
    // A line is of the columns that there were when it was written.
    let last = admin
        .json("SELECT key, new FROM tenancy.audit_log WHERE object = 'public.things' AND operation = 'INSERT' ORDER BY at DESC, n DESC LIMIT 1")
        .remove(0);
    assert_eq!(last["key"]["id"], 900);
    assert_eq!(last["new"]["added"], 9);
    assert!(last["new"].get("p").is_none());

    fn write(admin: &mut Session, id: usize, titled: bool) {
        let (column, value) = if titled {
            (", title", ", 'x'")
        } else {
            ("", "")
        };
        admin.run(&format!(
            "INSERT INTO things (id{column}) VALUES ({id}{value})"
        ));
    }
}

#[test]
fn a_row_of_many_megabytes_is_kept_whole() {
    let world = World::people();
    let megabytes = few_or_many("a huge row: megabytes", 24, 200);
    world.superuser().run(
        "CREATE TABLE large (id int PRIMARY KEY, org_id uuid, body text, other bytea, n int); GRANT ALL ON large TO PUBLIC;
         SELECT tenancy.protect('large')",
    );
    let mut admin = world.session("acme.admin");
    let value = format!("repeat('0123456789abcdef', {})", megabytes << 16);
    admin.run(&format!("INSERT INTO large (id, body) VALUES (1, {value})"));
    let log = "FROM tenancy.audit_log WHERE object = 'public.large'";
    if megabytes < 256 {
        assert!(admin.is_true(&format!("SELECT new ->> 'body' = {value} {log}")));
    }
    // What an update leaves alone is not written again.
    admin.run("UPDATE large SET n = 1");
    let size = |admin: &mut Session| {
        admin.count(&format!(
            "SELECT pg_column_size(new) {log} AND operation = 'UPDATE'"
        ))
    };
    assert!(size(&mut admin) < 100);
    // Random bytes, which nothing compresses, and text of the same row.
    admin.run("UPDATE large SET other = (SELECT string_agg(sha512(i::text::bytea), '') FROM generate_series(1, 20000) i), body = 'short'");
    assert!(admin.is_true(&format!(
        "SELECT bool_and(new ->> 'other' = l.other::text AND new ->> 'body' = 'short' AND length(old ->> 'body') = {})
         FROM large l, tenancy.audit_log a WHERE a.object = 'public.large' AND a.operation = 'UPDATE' AND a.new ? 'other'",
        megabytes << 20
    )));
    admin.run("DELETE FROM large");
    assert_eq!(admin.count(&format!("SELECT count(*) {log}")), 4);
}

#[test]
fn a_json_that_jsonb_refuses_is_shown_as_its_text() {
    let world = World::people();
    world.superuser().run(
        "CREATE TABLE docs (id int PRIMARY KEY, org_id uuid, j json); GRANT ALL ON docs TO PUBLIC; SELECT tenancy.protect('docs')",
    );
    let mut admin = world.session("acme.admin");
    for (id, text) in [
        r#"{"a": "\u0000"}"#,
        r#"{"a": 1e1000000}"#,
        r#"{"a": "\ud800"}"#,
    ]
    .iter()
    .enumerate()
    {
        admin.run(&format!(
            "INSERT INTO docs (id, j) VALUES ({id}, {})",
            quote(text)
        ));
        assert_eq!(
            admin.text(&format!(
                "SELECT new ->> 'j' FROM tenancy.audit_log WHERE object = 'public.docs' AND key = '{{\"id\": {id}}}'"
            )),
            *text
        );
    }
}
