//! Once the extension is gone its audit tables are still there, and audit-verify reads them from a dump.

use std::path::PathBuf;
use std::process::Command;

use pg_tenancy_tests::{World, fails};
use serde_json::{Value, json};

/// Runs the program, which is built first.
fn audit_verify(arguments: &[&PathBuf]) -> (i32, Vec<Value>, String) {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", "pg_tenancy_audit_verify"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status()
        .expect("cargo runs");
    assert!(built.success());
    // target/debug/deps/this_test
    let mut program = std::env::current_exe().expect("a path");
    program.pop();
    program.pop();
    let out = Command::new(program.join("audit-verify"))
        .arg("read")
        .args(arguments)
        .output()
        .expect("it runs");
    let lines = String::from_utf8(out.stdout).expect("UTF-8");
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")))
        .collect();
    (
        out.status.code().expect("an exit code"),
        lines,
        String::from_utf8_lossy(&out.stderr).into_owned(),
    )
}

/// What both ways to read a line show of it, sorted.
fn told(lines: Vec<Value>) -> Vec<String> {
    let mut told: Vec<String> = lines
        .into_iter()
        .map(|line| {
            let of = |name: &str| line[name].clone();
            let client = of("client_addr").as_str().map(|a| a.replace("/32", ""));
            json!([
                of("xid").to_string().replace('"', ""),
                of("n"),
                of("org_id"),
                of("actor_id"),
                of("actor_type"),
                of("db_role"),
                of("operation"),
                of("object"),
                of("key"),
                of("old"),
                of("new"),
                of("result"),
                client,
                of("request_id"),
                of("break_glass"),
            ])
            .to_string()
        })
        .collect();
    told.sort();
    told
}

#[test]
fn a_log_is_read_without_the_extension() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(
        r#"CREATE TABLE things (id int, code text, org_id uuid, t text, n numeric, b bool, u uuid, j jsonb, d date, f float8,
               by bytea, i inet, l bigint, s smallint, secret text, PRIMARY KEY (id, code));
           SELECT tenancy.protect('things'); SELECT tenancy.set_audit('things', mask => '{secret}'); GRANT ALL ON things TO PUBLIC"#,
    );
    let mut admin = world.session("acme.admin");
    admin.run(
        r#"SET app.request_id = 'req "1" ü';
           INSERT INTO things SELECT i, 'c' || i, tenancy.current_org(), E'quote " and \\ and ü\n\t' || i, i + 0.125, i % 2 = 0,
               md5(i::text)::uuid, '{"a": [1, null, {"b": "x\\y"}]}', '2024-02-29', i / 4.0, '\xdead', '10.0.0.1', i * 10000000000,
               -i, 'hidden' FROM generate_series(1, 200) i;
           UPDATE things SET n = 'NaN', t = NULL, f = 'Infinity' WHERE id = 3;
           UPDATE things SET n = -0.001, id = 1004 WHERE id = 4;
           DELETE FROM things WHERE id > 190"#,
    );
    let mut owner = world.session("acme.owner");
    owner.run("SELECT tenancy.erase_audit('things', '{\"id\": 200, \"code\": \"c200\"}', reason => 'request 19')");
    dba.rows("SELECT * FROM tenancy.seal_audit()");
    let shown = told(owner.json("SELECT * FROM tenancy.audit_log"));
    assert!(shown.len() > 210);
    dba.run("SELECT tenancy.uninstall(); DROP EXTENSION pg_tenancy");
    fails(dba.attempt("SELECT * FROM tenancy.audit_log"), "42P01");

    let mut dump = |name: &str, table: &str| {
        let rows = dba.column(&format!("SELECT to_jsonb(t) FROM tenancy_audit.{table} t"));
        let path = world.db.cluster.file(&format!("{}_{name}", world.db.name));
        std::fs::write(&path, rows.join("\n")).expect("written");
        path
    };
    let layouts = dump("layouts", "layouts");
    let log = dump("log", &format!("org_{}", world.acme.id.simple()));
    let (code, lines, said) = audit_verify(&[&layouts, &log]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("2 erased, each matches its hash"), "{said}");
    assert!(lines.iter().all(|line| line["matches"] == true));
    let read = told(lines);
    for (read, shown) in read.iter().zip(&shown) {
        assert_eq!(read, shown);
    }
    assert_eq!(read.len(), shown.len());

    // A byte that somebody changed is named, the other lines are still read.
    let text = std::fs::read_to_string(&log).expect("read");
    let place = text.find("633137").expect("the code of a row in hex");
    let mut altered = text.clone().into_bytes();
    altered[place + 1] = if altered[place + 1] == b'3' {
        b'4'
    } else {
        b'3'
    };
    let other = world.db.cluster.file(&format!("{}_altered", world.db.name));
    std::fs::write(&other, altered).expect("written");
    let (code, lines, said) = audit_verify(&[&layouts, &other]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("does not match its hash"), "{said}");
    assert_eq!(lines.len(), shown.len());
    assert!(lines.iter().any(|line| line["matches"] == false));
    // Without the layouts nothing of the tables' rows is read, and what is no dump is said to be none.
    let (code, lines, said) = audit_verify(&[&log]);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("its layout is in none of the files"),
        "{said}"
    );
    assert!(lines.len() < shown.len());
    let none = world.db.cluster.file(&format!("{}_none", world.db.name));
    std::fs::write(&none, "at,xid\n").expect("written");
    assert_eq!(audit_verify(&[&none]).0, 2);
}
