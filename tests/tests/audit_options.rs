//! set_audit(): what the log leaves out and what it hides.

use pg_tenancy_tests::{Session, World, fails, refused};

fn people() -> World {
    let world = World::people();
    let owner = world.table_owner();
    world.superuser().run(&format!(
        "CREATE TABLE people (id int PRIMARY KEY, org_id uuid, name text, passport text, last_seen timestamptz, logins int);
         ALTER TABLE people OWNER TO {owner}; GRANT ALL ON people TO PUBLIC; SELECT tenancy.protect('people')"
    ));
    world
}

fn lines(session: &mut Session) -> Vec<String> {
    session.column(
        "SELECT concat_ws(' ', operation, key, old - '{org_id,id}'::text[], new - '{org_id,id}'::text[]) FROM tenancy.audit_log
         WHERE object = 'public.people' ORDER BY at, n",
    )
}

#[test]
fn excluded_columns_are_absent_and_masked_ones_say_that_they_changed() {
    let world = people();
    world.superuser().run(
        "SELECT tenancy.set_audit('people', exclude => '{last_seen,logins}', mask => '{passport}')",
    );
    let mut admin = world.session("acme.admin");
    admin.run("INSERT INTO people (id, name, passport, last_seen) VALUES (1, 'Ada', 'X-4711', now()), (2, 'Bob', NULL, NULL)");
    admin.run("UPDATE people SET last_seen = clock_timestamp(), logins = 1");
    admin.run("UPDATE people SET passport = 'X-4712', logins = 2 WHERE id = 1");
    admin.run("UPDATE people SET passport = passport, name = 'Eve' WHERE id = 1");
    admin.run("UPDATE people SET passport = 'X-1' WHERE id = 2; DELETE FROM people WHERE id = 2");
    assert_eq!(
        lines(&mut admin),
        [
            r#"INSERT {"id": 1} {"name": "Ada", "passport": "(masked)"}"#,
            r#"INSERT {"id": 2} {"name": "Bob", "passport": null}"#,
            r#"UPDATE {"id": 1} {"passport": "(masked)"} {"passport": "(masked)"}"#,
            r#"UPDATE {"id": 1} {"name": "Ada"} {"name": "Eve"}"#,
            r#"UPDATE {"id": 2} {"passport": null} {"passport": "(masked)"}"#,
            r#"DELETE {"id": 2} {"name": "Bob", "passport": "(masked)"}"#,
        ]
    );
    // Nowhere in the stored bytes, and in no export.
    let store = format!("tenancy_audit.org_{}", world.acme.id.simple());
    assert_eq!(
        world.superuser().count(&format!(
            "SELECT count(*) FROM {store} WHERE position('X-4'::bytea in payload) > 0"
        )),
        0
    );
    assert!(
        world.superuser().count(&format!(
            "SELECT count(*) FROM {store} WHERE position('Ada'::bytea in payload) > 0"
        )) > 0
    );
    let export = world
        .session("acme.owner")
        .column("SELECT tenancy.export_audit('ndjson', evidence => true)");
    assert!(!export.iter().any(|line| line.contains("X-4711")));
    // Said anew, it replaces what was said; the lines that are there stay as they are.
    world
        .superuser()
        .run("SELECT tenancy.set_audit('people', mask => '{name}')");
    admin.run("INSERT INTO people (id, name, passport, logins) VALUES (3, 'Cyd', 'Z', 7)");
    let after = lines(&mut admin);
    assert_eq!(after.len(), 7);
    assert_eq!(
        after[6],
        r#"INSERT {"id": 3} {"name": "(masked)", "logins": 7, "passport": "Z", "last_seen": null}"#
    );
    assert!(after[0].contains("Ada"));
}

#[test]
fn a_table_is_switched_off_and_on() {
    let world = people();
    let mut admin = world.session("acme.admin");
    let mut owner = world.db.login(&world.table_owner());
    owner.run("SELECT tenancy.set_audit('people', false)");
    admin.run("INSERT INTO people (id) VALUES (1)");
    assert_eq!(lines(&mut admin).len(), 0);
    owner.run("SELECT tenancy.set_audit('people')");
    admin.run("INSERT INTO people (id) VALUES (2)");
    assert_eq!(lines(&mut admin).len(), 1);
    assert_eq!(
        owner.rows("SELECT audited, audit_excluded, audit_masked FROM tenancy.protected_tables WHERE table_name = 'people'::regclass"),
        [[Some("t".to_string()), None, None]]
    );
    owner.run("SELECT tenancy.set_audit('people', exclude => '{logins}', mask => '{name}')");
    assert_eq!(
        owner.rows("SELECT audited, audit_excluded, audit_masked FROM tenancy.protected_tables WHERE table_name = 'people'::regclass"),
        [[Some("t".to_string()), Some("[\"logins\"]".into()), Some("[\"name\"]".into())]]
    );
    // protect() again keeps it, and everything else stays as it was: the triggers, in replica mode too.
    owner.run("SELECT tenancy.protect('people')");
    admin.run("INSERT INTO people (id, name) VALUES (3, 'Ada')");
    assert!(lines(&mut admin)[1].contains("(masked)"));
    let mut replica = world.superuser();
    replica.run(&format!(
        "SET app.current_org = '{}'; SET session_replication_role = replica; UPDATE people SET name = 'Bob' WHERE id = 3",
        world.acme.id
    ));
    assert_eq!(lines(&mut admin).len(), 3);
    fails(
        world.session("globex.admin").attempt(&format!(
            "INSERT INTO people (id, org_id) VALUES (9, '{}')",
            world.acme.id
        )),
        "42501",
    );
}

#[test]
fn what_set_audit_refuses() {
    let world = people();
    let mut dba = world.superuser();
    let mut attempt = |arguments: &str, code: &str| {
        refused(
            dba.attempt(&format!("SELECT tenancy.set_audit({arguments})")),
            code,
        );
    };
    attempt("'people', mask => '{nothing}'", "42703");
    attempt("'people', exclude => '{id}'", "22023");
    attempt("'people', mask => '{id}'", "22023");
    attempt("'people', mask => '{org_id}'", "22023");
    attempt("'people', mask => '{name}', exclude => '{name}'", "22023");
    attempt("'people', mask => NULL", "22004");
    attempt("'people', mask => '{NULL}'", "22004");
    attempt("NULL", "22004");
    attempt("'tenancy.orgs'", "42704");
    for mut session in [world.session("acme.owner"), world.app(), world.nobody()] {
        refused(
            session.attempt("SELECT tenancy.set_audit('people', false)"),
            "42501",
        );
    }
    // A hidden column does not change its name unnoticed.
    dba.run("SELECT tenancy.set_audit('people', mask => '{passport}', exclude => '{logins}')");
    for sql in [
        "ALTER TABLE people RENAME COLUMN passport TO document",
        "ALTER TABLE people RENAME COLUMN logins TO visits",
        "ALTER TABLE people DROP COLUMN passport",
    ] {
        refused(dba.attempt(sql), "55000");
    }
    dba.run("ALTER TABLE people RENAME COLUMN name TO full_name; ALTER TABLE people ADD COLUMN note text");
    dba.run(
        "BEGIN; SELECT tenancy.set_audit('people'); ALTER TABLE people RENAME COLUMN passport TO document;
         SELECT tenancy.set_audit('people', mask => '{document}'); COMMIT",
    );
    // And where it did all the same, all but the key is hidden.
    world
        .break_glass()
        .run("ALTER TABLE people RENAME COLUMN document TO papers");
    let mut admin = world.session("acme.admin");
    admin.run("INSERT INTO people (id, papers, full_name) VALUES (5, 'X-1', 'Ada')");
    let line = lines(&mut admin).pop().unwrap();
    assert!(line.starts_with(r#"INSERT {"id": 5}"#), "{line}");
    assert!(!line.contains("X-1") && !line.contains("Ada"), "{line}");
}

#[test]
fn partitions_follow_now_and_later() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(
        "CREATE TABLE events (id int, org_id uuid, day int, secret text, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
         CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
         GRANT ALL ON events, events_1 TO PUBLIC;
         SELECT tenancy.protect('events');
         SELECT tenancy.set_audit('events', mask => '{secret}');
         CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2); GRANT ALL ON events_2 TO PUBLIC",
    );
    refused(dba.attempt("SELECT tenancy.set_audit('events_1')"), "42809");
    let mut admin = world.session("acme.admin");
    admin.run("INSERT INTO events (id, day, secret) VALUES (1, 1, 's-1'), (2, 2, 's-2'); INSERT INTO events_2 (id, day, secret) VALUES (3, 2, 's-3')");
    admin.run("UPDATE events SET day = 2 WHERE id = 1");
    let news = admin.column("SELECT coalesce(new ->> 'secret', '') || coalesce(old ->> 'secret', '') FROM tenancy.audit_log WHERE object = 'public.events'");
    assert!(
        news.len() >= 4 && news.iter().all(|n| n.replace("(masked)", "").is_empty()),
        "{news:?}"
    );
    refused(
        dba.attempt("ALTER TABLE events RENAME COLUMN secret TO s"),
        "55000",
    );
}
