//! Chunks of the log that somebody changed on disk, or made up: the reader says so, and neither shows what was not written
//! nor falls over it.

use pg_tenancy_audit_format::{self as format, Author, Column, Layout, Moment, Salts};
use pg_tenancy_tests::{Random, Session, World, few_or_many, refused};

/// A superuser who switched the trigger off that keeps everybody from the log, in acme.
fn burglar(world: &World, store: &str) -> Session {
    let mut session = world.superuser();
    session.run(&format!(
        "ALTER TABLE {store} DISABLE TRIGGER ALL; SET app.current_org = '{}'",
        world.acme.id
    ));
    session
}

const READ: &str = "SELECT count(*), count(key), count(old), count(new) FROM tenancy.audit_log";

#[test]
fn a_changed_byte_is_named_wherever_it_is() {
    let world = World::new();
    let store = format!("tenancy_audit.org_{}", world.acme.id.simple());
    let mut admin = world.session("acme.admin");
    admin.run("UPDATE sites SET visits = visits + 1, name = name || '!'");
    admin.run("INSERT INTO sites (id, name) SELECT i, 'acme-' || i FROM generate_series(200, 300) i; DELETE FROM sites WHERE id > 250");
    let mut burglar = burglar(&world, &store);
    let whole = burglar.rows(READ);
    let chunks: Vec<(String, usize)> = burglar
        .rows(&format!("SELECT ctid, length(payload) FROM {store}"))
        .into_iter()
        .map(|row| {
            (
                row[0].clone().unwrap(),
                row[1].as_ref().unwrap().parse().unwrap(),
            )
        })
        .collect();
    let mut random = Random::new(11);
    for _ in 0..few_or_many("bytes changed in the log", 150, 5_000) {
        let (ctid, size) = &chunks[random.next(chunks.len())];
        let (place, bits) = (random.next(*size), 1 + random.next(255));
        burglar.run("BEGIN");
        assert_eq!(
            burglar.run(&format!(
                "UPDATE {store} SET payload = set_byte(payload, {place}, get_byte(payload, {place}) # {bits}) WHERE ctid = '{ctid}'"
            )),
            1
        );
        let error = refused(burglar.attempt(READ), "XX001");
        assert!(
            error.hint().unwrap().contains("audit tables"),
            "byte {place} of {ctid} ^ {bits}: {error:?}"
        );
        burglar.run("ROLLBACK");
    }
    assert_eq!(
        burglar.rows(READ),
        whole,
        "the same connection, and nothing was damaged"
    );
}

#[test]
fn what_stands_beside_the_payload_is_covered_too() {
    let world = World::new();
    let store = format!("tenancy_audit.org_{}", world.acme.id.simple());
    world
        .session("acme.admin")
        .run("UPDATE sites SET visits = visits + 1");
    let mut burglar = burglar(&world, &store);
    burglar.run(&format!(
        "ALTER TABLE {store} DROP CONSTRAINT org_{}_org_id_check",
        world.acme.id.simple()
    ));
    let whole = burglar.rows(READ);
    for change in [
        "at = at - interval '1 microsecond'",
        "at = at - interval '1 day'",
        "xid = '1'",
        "n = n + 1",
        "lines = lines - 1",
        "lines = lines + 1",
        "lines = -1",
        "actor_id = NULL",
        "actor_id = gen_random_uuid()",
        "approver_id = gen_random_uuid()",
        "break_glass = NOT break_glass",
        "actor_type = 'ai'",
        "db_role = 'somebody'",
        "result = 'failed'",
        "client_addr = '10.0.0.1'",
        "request_id = 'another'",
        "org_id = gen_random_uuid()",
        "payload = ''",
        "payload = substr(payload, 1, length(payload) - 1)",
        "payload = payload || '\\x00'",
        "payload = payload || payload",
    ] {
        burglar.run("BEGIN");
        burglar.run(&format!(
            "UPDATE {store} SET {change} WHERE ctid = (SELECT max(ctid) FROM {store})"
        ));
        refused(burglar.attempt(READ), "XX001");
        burglar.run("ROLLBACK");
    }
    // The layouts by which the lines are read.
    burglar.run("ALTER TABLE tenancy_audit.layouts DISABLE TRIGGER ALL; CREATE TEMP TABLE kept AS TABLE tenancy_audit.layouts");
    for change in [
        "UPDATE tenancy_audit.layouts SET object = 'public.elsewhere'",
        "UPDATE tenancy_audit.layouts SET columns[1] = 'renamed'",
        "UPDATE tenancy_audit.layouts SET encodings[1] = 'text'",
        "UPDATE tenancy_audit.layouts SET encodings[1] = 'no type'",
        "UPDATE tenancy_audit.layouts SET key = '{}'",
        "UPDATE tenancy_audit.layouts SET org_column = NULL",
        "DELETE FROM tenancy_audit.layouts",
    ] {
        burglar.run(change);
        // A session that has not read them yet.
        let mut fresh = world.superuser();
        fresh.run(&format!("SET app.current_org = '{}'", world.acme.id));
        refused(fresh.attempt(READ), "XX001");
        burglar
            .run("DELETE FROM tenancy_audit.layouts; INSERT INTO tenancy_audit.layouts TABLE kept");
    }
    assert_eq!(burglar.rows(READ), whole);
}

/// Whoever knows the format can make every hash fit; the bytes still do not reach PostgreSQL's functions unless they are
/// values.
#[test]
fn forged_values_with_right_hashes_do_no_harm() {
    let world = World::people();
    let mut admin = world.session("acme.admin");
    world.superuser().run(
        "CREATE TABLE things (id int PRIMARY KEY, org_id uuid, v text); GRANT ALL ON things TO PUBLIC; SELECT tenancy.protect('things')",
    );
    admin.run("INSERT INTO things VALUES (1)");
    let store = format!("tenancy_audit.org_{}", world.acme.id.simple());
    let mut burglar = burglar(&world, &store);
    burglar.run("ALTER TABLE tenancy_audit.layouts DISABLE TRIGGER ALL");
    let column = |name: &str, encoding: &str, is_org| Column {
        name: name.into(),
        encoding: encoding.into(),
        shape: format::shape(encoding).unwrap(),
        is_org,
        is_key: false,
    };
    let word = |n: i32| n.to_le_bytes().to_vec();
    let words = |all: &[i32]| {
        all.iter()
            .flat_map(|n| n.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let forgeries: Vec<(&str, Vec<u8>)> = vec![
        ("numeric", vec![]),
        ("numeric", vec![0, 0x80, 0xff, 0xff]),
        ("numeric", vec![0, 0x80, 1]),
        ("jsonb", word(0x2fff_ffff)),
        ("jsonb", words(&[0x2000_0001, 5, 0])),
        ("jsonb", words(&[0x4000_0001, 0x5000_0400])),
        ("jsonb", words(&[0x4000_0001, 0x1000_0004, 0x0fff_fff0])),
        ("as jsonb", vec![1, 2]),
        ("text[]", words(&[1, 0, 25, 1_000_000, 1])),
        ("text[]", words(&[1, 0, 25, 1, 1, 0x0fff_fff0])),
        ("text[]", words(&[1, 0, 23, 1, 1, 7])),
        ("text[]", words(&[7, 0, 25, 1, 1, 1, 1, 1, 1, 1])),
        ("int4[]", words(&[1, -8, 23, 1, 1, 7])),
        ("int4[]", words(&[2, 0, 23, 1 << 16, 1 << 16, 1, 1])),
        ("int4[]", words(&[1, 0, 23, 2, i32::MAX, 7, 8])),
        ("inet", vec![2, 200, 1, 2, 3, 4]),
        ("inet", vec![9, 8, 1, 2, 3, 4]),
        ("varbit", words(&[1_000_000])),
        ("varbit", words(&[-1])),
        ("path", words(&[1_000_000, 0, 0])),
        ("polygon", words(&[-5])),
        ("tsvector", words(&[1_000_000])),
        ("tsvector", words(&[1, 0x7ff << 1 | 1])),
        ("text", vec![0xff, 0xfe]),
        ("text", b"nul\0".to_vec()),
        ("json", vec![0xff]),
        ("name", vec![b'x'; 300]),
        ("bool", vec![7]),
        ("timetz", vec![0xff; 12]),
        ("timestamptz", vec![1, 0, 0, 0, 0, 0, 0, 0x80]),
        ("time", vec![0xff; 8]),
        ("date", word(i32::MAX - 1)),
        ("int2", vec![0xff, 0xff, 0x7f]),
    ];
    for (encoding, value) in &forgeries {
        let layout = Layout::new(
            "public.things",
            vec![column("org_id", "uuid", true), column("v", encoding, false)],
        );
        let mut body = vec![1, 0b11];
        match format::shape(encoding).unwrap() {
            format::Shape::Bytes => format::put_bytes(&mut body, value),
            _ => body.extend_from_slice(value),
        }
        let author = Author {
            actor_type: "human".into(),
            db_role: "r".into(),
            result: "completed".into(),
            ..Author::default()
        };
        let first = Moment {
            at: 800_000_000_000_000,
            xid: 9,
            n: 0,
        };
        let salt = [3; 16];
        let mut payload = vec![];
        format::put_head(&mut payload, &salt, &layout.id());
        let values = format::values(&Salts::of(salt).of_next_line(), &body);
        let context = author.context(&layout.digest, world.acme.id.as_bytes());
        let leaf = format::leaf(&context, first, 1, &values);
        format::put_line(&mut payload, 0, 0, 0, &leaf, &body);
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        burglar.run(&format!(
            "BEGIN; INSERT INTO tenancy_audit.layouts VALUES ('{}', 'public.things', '{{org_id,v}}', '{{uuid,{encoding}}}', 'org_id', '{{}}');
             INSERT INTO {store} VALUES (timestamptz '2000-01-01 00:00+00' + interval '800000000 s', '9', 0, 1, '{}', NULL, NULL, false,
                'human', 'r', 'completed', NULL, NULL, '\\x{}')",
            hex(&layout.id()),
            world.acme.id,
            hex(&payload)
        ));
        let read = burglar.attempt("SELECT * FROM tenancy.audit_log");
        assert!(read.is_err(), "{encoding} {value:?}");
        let error = refused(read, "XX001");
        assert!(
            error.detail().unwrap().contains("none of its type"),
            "{encoding} {value:?}: {error:?}"
        );
        burglar.run("ROLLBACK");
    }
    assert!(burglar.run("SELECT * FROM tenancy.audit_log") > 0);
}
