//! An export with evidence, checked by audit-verify where there is no database.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use pg_tenancy_tests::World;

/// The program, built when the first test asks for it.
fn program() -> &'static PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "pg_tenancy_audit_verify"])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .status()
            .expect("cargo runs");
        assert!(built.success());
        // target/debug/deps/this_test
        let mut path = std::env::current_exe().expect("a path");
        path.pop();
        path.pop();
        path.join("audit-verify")
    })
}

struct Outside {
    folder: PathBuf,
    key: String,
}

impl Outside {
    fn new(world: &World) -> Outside {
        let folder = world.db.cluster.file(&format!("{}_export", world.db.name));
        std::fs::create_dir_all(&folder).expect("a folder");
        let key = world
            .superuser()
            .text("SELECT verifier FROM tenancy.list_audit_keys() WHERE retired_at IS NULL");
        Outside { folder, key }
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::write(&path, content).expect("written");
        path
    }

    /// Exit code and what was said.
    fn verify(&self, export: &str, head: &str, more: &[&str]) -> (i32, String) {
        let out = Command::new(program())
            .arg(self.file("export.ndjson", export))
            .arg("--head")
            .arg(self.file("head", head))
            .args(["--key", &self.key])
            .args(more)
            .output()
            .expect("it runs");
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        (out.status.code().expect("an exit code"), said)
    }
}

fn export(world: &World, arguments: &str) -> String {
    world
        .session("acme.owner")
        .column(&format!(
            "SELECT * FROM tenancy.export_audit('ndjson', evidence => true{arguments})"
        ))
        .join("\n")
}

#[test]
fn an_export_is_proved_offline_for_every_type_of_value() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(
        r#"CREATE TYPE mood AS ENUM ('good', 'bad');
           CREATE TYPE pair AS (a int, b text);
           CREATE TABLE things (id uuid, part int, org_id uuid, t text, n numeric, f float8, f4 float4, b bool, j jsonb, js json,
               ta text[], ia int[], ts timestamptz, tn timestamp, d date, h time, by bytea, m mood, p pair, r int4range, i inet,
               c cidr, s smallint, l bigint, v varchar(20), x char(5), na numeric[], ja jsonb[], PRIMARY KEY (id, part));
           SELECT tenancy.protect('things'); GRANT ALL ON things TO PUBLIC"#,
    );
    let mut admin = world.session("acme.admin");
    admin.run(
        r#"SET app.request_id = 'req "1" ü';
           INSERT INTO things SELECT gen_random_uuid(), i, tenancy.current_org(), E'quote " and \\ and ü\n' || i,
               i * 12345678901.123 - 50, i / 3.0, i * 1.1, i % 2 = 0,
               jsonb_build_object('a', jsonb_build_array(1, NULL, i / 7.0, -0.0001, true), 'name', repeat('x', i), 'o', '{}'::jsonb),
               '{"z":1, "a":[2, {"b": null}]}', ARRAY['x', NULL, 'y z'], ARRAY[[1, 2], [3, i]], now() + i * interval '1.5 hours',
               '1970-02-03 04:05:06.789', '2024-02-29', '23:59:59.5', '\xdeadbeef', 'bad', ROW(i, 'b')::pair, '[1,5)', '10.0.0.1',
               '10.0.0.0/8', -i, i * 10000000000, 'v' || i, 'x', ARRAY[1.5, 1e50, NULL], ARRAY['{"k": [1]}'::jsonb, 'null'::jsonb]
           FROM generate_series(1, 30) i;
           UPDATE things SET n = 'NaN', f = 'Infinity', j = '"only text"', ta = '{}', t = NULL WHERE part = 3;
           UPDATE things SET n = 1e-20, f4 = '-Infinity', j = '12345678901234567890.1230', js = '[]' WHERE part = 4;
           UPDATE things SET n = 1e200, f = 1e300, l = -9223372036854775808, i = '::1/64' WHERE part = 5;
           DELETE FROM things WHERE part > 25"#,
    );
    dba.run("SELECT * FROM tenancy.seal_audit()");
    let head = dba.text(&format!("SELECT tenancy.audit_head('{}')", world.acme.id));
    let outside = Outside::new(&world);
    let text = export(&world, "");
    let (code, said) = outside.verify(&text, &head, &["--strict"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("goes on from the kept head"), "{said}");
    // Each line that somebody changes, in what is shown or in what is hashed.
    for (from, to) in [
        ("\"bad\"", "\"good\""),
        ("y z", "y y"),
        ("12345678901234567890.1230", "12345678901234567890.1231"),
        ("23:59:59.5", "23:59:58.5"),
        ("10.0.0.0/8", "10.0.0.0/9"),
        ("deadbeef", "deadbeee"),
        ("req \\\"1\\\"", "req \\\"2\\\""),
        ("\"operation\":\"DELETE\"", "\"operation\":\"INSERT\""),
        ("\"number\":3,", "\"number\":2,"),
    ] {
        assert!(text.contains(from), "{from}");
        let (code, said) = outside.verify(&text.replacen(from, to, 1), &head, &[]);
        assert_eq!(code, 1, "{from}: {said}");
    }
}

#[test]
fn a_part_of_a_log_and_lines_that_are_not_sealed() {
    let world = World::new();
    let mut admin = world.session("acme.admin");
    for i in 0..20 {
        admin.run(&format!("UPDATE sites SET visits = {i} + 100 * id"));
    }
    let mut dba = world.superuser();
    dba.run("SELECT * FROM tenancy.seal_audit()");
    let early = dba.text(&format!("SELECT tenancy.audit_head('{}')", world.acme.id));
    let middle = dba.text("SELECT clock_timestamp()");
    for i in 0..20 {
        admin.run(&format!("UPDATE sites SET visits = {i} + 200 * id"));
    }
    dba.run("SELECT * FROM tenancy.seal_audit()");
    let late = dba.text(&format!("SELECT tenancy.audit_head('{}')", world.acme.id));
    admin.run("UPDATE sites SET visits = 0");
    let outside = Outside::new(&world);
    let (code, said) = outside.verify(&export(&world, ""), &format!("{early}{late}"), &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("6 lines are not sealed yet"), "{said}");
    let part = export(&world, &format!(", since => '{middle}'"));
    let (code, said) = outside.verify(&part, &late, &[]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = outside.verify(&part, &early, &["--strict"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("needs --consistency"), "{said}");
    let size = |note: &str| note.lines().nth(1).unwrap().to_string();
    let proof = dba.text(&format!(
        "SELECT tenancy.audit_consistency_proof('{}', {}, {})",
        world.acme.id,
        size(&early),
        size(&late)
    ));
    let proof = outside.file("proof", &proof);
    let (code, said) = outside.verify(&part, &early, &["--consistency", proof.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    // Nothing at all in it: the hashes of everything.
    let none = export(&world, ", until => '2000-01-01'");
    let (code, said) = outside.verify(&none, &late, &[]);
    assert_eq!(code, 0, "{said}");
}
