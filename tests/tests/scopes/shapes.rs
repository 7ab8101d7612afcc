//! Which tables can hold resources, and by which keys.

use crate::stage::{Scoped, ids, world};
use pg_tenancy_tests::{World, fails, refused};

/// Keys of every kind, and the text that a rule has for each.
#[test]
fn a_key_may_be_of_any_type() {
    let world = World::people();
    let mut dba = world.superuser();
    for (n, (key_type, key, other)) in [
        (
            "uuid",
            "6F1C1C6E-54D4-4F6E-9D3C-2A1F0E9B7A11",
            "6f1c1c6e-54d4-4f6e-9d3c-2a1f0e9b7a12",
        ),
        ("smallint", "7", "8"),
        ("integer", "-7", "7"),
        ("bigint", "5000000000", "5000000001"),
        ("text", "a b'c", "a b"),
        ("varchar(20)", "Ä", "ä"),
        ("char(4)", "ab", "a"),
        ("date", "2026-11-21", "2026-11-22"),
        ("timestamptz", "2026-11-21 10:00+02", "2026-11-21 11:00+02"),
        ("numeric", "1.5", "1.6"),
        ("inet", "10.0.0.1", "10.0.0.2"),
        ("bytea", "\\xff00", "\\xff01"),
        ("double precision", "0.1", "0.2"),
    ]
    .into_iter()
    .enumerate()
    {
        let (key, other) = (key.replace('\'', "''"), other.replace('\'', "''"));
        dba.run(&format!(
            "CREATE TABLE things{n} (id {key_type} PRIMARY KEY, org_id uuid, what int);
             GRANT ALL ON things{n} TO PUBLIC;
             INSERT INTO things{n} VALUES ('{key}', '{org}', 1), ('{other}', '{org}', 2);
             SELECT tenancy.protect('things{n}', resource_type => 'thing{n}');
             SELECT tenancy.set_scope('{org}', '{member}', 'things{n}', '{key}')",
            org = world.acme.id,
            member = world.user("acme.member")
        ));
        let mut session = world.session("acme.member");
        for style in ["ISO", "German"] {
            session.run(&format!("SET datestyle = '{style}'; SET timezone = 'Asia/Tokyo'; SET bytea_output = escape; SET extra_float_digits = -5"));
            assert_eq!(
                session.column(&format!("SELECT what FROM things{n}")),
                ["1"],
                "{key_type} {style}"
            );
            assert_eq!(
                session.run(&format!("UPDATE things{n} SET what = 1")),
                1,
                "{key_type}"
            );
            assert_eq!(
                session.column(&format!("SELECT tenancy.scope_of('things{n}', k) FROM unnest(ARRAY['{key}', '{other}']) k")),
                ["full", "none"],
                "{key_type}"
            );
        }
    }
}

#[test]
fn a_domain_is_what_is_below_it() {
    let world = World::people();
    world.superuser().run(&format!(
        "CREATE DOMAIN number AS int CHECK (value > 0);
         CREATE TABLE things (id number PRIMARY KEY, org_id uuid);
         GRANT ALL ON things TO PUBLIC;
         INSERT INTO things SELECT i, '{org}' FROM generate_series(1, 3) i;
         SELECT tenancy.protect('things', resource_type => 'thing')",
        org = world.acme.id
    ));
    world.scope("acme.member", "things", "2", "full");
    assert_eq!(ids(&mut world.session("acme.member"), "things"), [2]);
    fails(
        world.superuser().attempt(&format!(
            "SELECT tenancy.set_scope('{}', '{}', 'things', '-2')",
            world.acme.id,
            world.user("acme.member")
        )),
        "23514",
    );
}

#[test]
fn the_organization_column_may_be_of_the_key_and_of_the_reference() {
    let world = World::people();
    world.superuser().run(&format!(
        "CREATE TABLE zones (org_id uuid, id int, PRIMARY KEY (org_id, id));
         CREATE TABLE hosts (org_id uuid, id int, zone_id int, PRIMARY KEY (id, org_id),
                             FOREIGN KEY (org_id, zone_id) REFERENCES zones (org_id, id));
         CREATE TABLE parts (org_id uuid, id int PRIMARY KEY, host_id int,
                             FOREIGN KEY (host_id, org_id) REFERENCES hosts (id, org_id));
         GRANT ALL ON zones, hosts, parts TO PUBLIC;
         INSERT INTO zones SELECT o, i FROM unnest(ARRAY['{acme}', '{globex}']::uuid[]) o, generate_series(1, 2) i;
         INSERT INTO hosts SELECT o, i, 1 + i % 2 FROM unnest(ARRAY['{acme}', '{globex}']::uuid[]) o, generate_series(1, 4) i;
         INSERT INTO parts SELECT '{acme}', i, i FROM generate_series(1, 4) i;
         SELECT tenancy.protect('zones', resource_type => 'zone');
         SELECT tenancy.protect('hosts', resource_type => 'host', resource_parent => 'zone_id');
         SELECT tenancy.protect('parts', resource_type => 'part', resource_parent => 'host_id')",
        acme = world.acme.id,
        globex = world.globex.id
    ));
    world.scope("acme.member", "zones", "1", "full");
    world.scope("acme.member", "hosts", "4", "none");
    world.scope("acme.member", "parts", "3", "read_only");
    let mut session = world.session("acme.member");
    assert_eq!(ids(&mut session, "zones"), [1]);
    assert_eq!(ids(&mut session, "hosts"), [2]);
    assert_eq!(
        ids(&mut session, "parts"),
        [2, 3],
        "by its host's zone, and its own rule"
    );
    refused(
        session.attempt("UPDATE parts SET host_id = 2 WHERE id = 3"),
        "42501",
    );
    assert_eq!(
        session.column("SELECT tenancy.scope_of('parts', i::text) FROM generate_series(1, 4) i"),
        ["none", "full", "read_only", "none"]
    );
    assert_eq!(
        session.text("SELECT tenancy.scope_of('hosts', '2')"),
        "full"
    );
}

#[test]
fn partitions_and_children_are_held_too() {
    let world = World::people();
    world.superuser().run(&format!(
        "CREATE TABLE events (id int PRIMARY KEY, org_id uuid, body text) PARTITION BY HASH (id);
         CREATE TABLE events0 PARTITION OF events FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE events1 PARTITION OF events FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         CREATE TABLE notes (id int PRIMARY KEY, org_id uuid, event_id int REFERENCES events);
         CREATE TABLE links (id int PRIMARY KEY, org_id uuid, note_id int REFERENCES notes);
         CREATE TABLE base (id int PRIMARY KEY, org_id uuid);
         CREATE TABLE derived (extra int) INHERITS (base);
         GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
         INSERT INTO events SELECT i, '{org}' FROM generate_series(1, 10) i;
         INSERT INTO notes SELECT i, '{org}', i FROM generate_series(1, 10) i;
         INSERT INTO links SELECT i, '{org}', i FROM generate_series(1, 10) i;
         INSERT INTO base SELECT i, '{org}' FROM generate_series(1, 3) i;
         INSERT INTO derived SELECT i, '{org}' FROM generate_series(4, 6) i;
         SELECT tenancy.protect('events', resource_type => 'event');
         SELECT tenancy.protect('notes', resource_parent => 'event_id');
         SELECT tenancy.protect('links', resource_parent => 'note_id');
         SELECT tenancy.protect('base', resource_type => 'base')",
        org = world.acme.id
    ));
    let who = "acme.member";
    for key in ["2", "3", "5"] {
        world.scope(who, "events", key, "full");
    }
    world.scope(who, "events", "3", "read_only");
    world.scope(who, "base", "2", "full");
    world.scope(who, "derived", "5", "full");
    let mut session = world.session(who);
    assert_eq!(ids(&mut session, "events"), [2, 3, 5]);
    let parts = [ids(&mut session, "events0"), ids(&mut session, "events1")].concat();
    assert_eq!(parts.len(), 3, "each partition by itself, too");
    assert_eq!(ids(&mut session, "notes"), [2, 3, 5]);
    assert_eq!(ids(&mut session, "links"), [2, 3, 5]);
    assert_eq!(ids(&mut session, "base"), [2, 5]);
    assert_eq!(ids(&mut session, "derived"), [5]);
    refused(
        session.attempt("UPDATE events SET body = 'x' WHERE id = 3"),
        "42501",
    );
    refused(
        session.attempt("UPDATE links SET note_id = 3 WHERE id = 2"),
        "42501",
    );
    assert_eq!(session.run("UPDATE events SET body = 'x' WHERE id = 2"), 1);
    assert_eq!(session.run("UPDATE derived SET extra = 1"), 1);
    let missing = fails(
        session.attempt("UPDATE links SET note_id = 999 WHERE id = 2"),
        "42501",
    );
    let hidden = fails(
        session.attempt("UPDATE links SET note_id = 7 WHERE id = 2"),
        "42501",
    );
    assert_eq!(missing.message(), hidden.message());
    // One that is made later is held like the others.
    world
        .superuser()
        .run("CREATE TABLE more () INHERITS (base); GRANT ALL ON more TO PUBLIC");
    refused(session.attempt("INSERT INTO more (id) VALUES (9)"), "42501");
}

#[test]
fn what_names_no_resource_is_refused() {
    let world = World::unprotected();
    let mut dba = world.superuser();
    dba.run(
        "CREATE TABLE keyless (org_id uuid, x int);
         CREATE TABLE two (org_id uuid, a int, b int, PRIMARY KEY (a, b));
         CREATE COLLATION lax (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE TABLE laxly (id text COLLATE lax PRIMARY KEY, org_id uuid);
         CREATE TABLE tree (id int PRIMARY KEY, org_id uuid, up int REFERENCES tree);
         CREATE TABLE left_one (id int PRIMARY KEY, org_id uuid, other int);
         CREATE TABLE right_one (id int PRIMARY KEY, org_id uuid, other int REFERENCES left_one);
         ALTER TABLE left_one ADD FOREIGN KEY (other) REFERENCES right_one;",
    );
    for (call, code) in [
        ("'keyless', resource_type => 'x'", "22023"),
        ("'two', resource_type => 'x'", "22023"),
        ("'laxly', resource_type => 'x'", "0A000"),
        ("'servers', resource_type => 'Server'", "22023"),
        ("'servers', resource_type => ''", "22023"),
        ("'servers', resource_type => 'a-b'", "22023"),
        (
            "'sites', resource_type => 'site', resource_parent => 'nowhere'",
            "42703",
        ),
        (
            "'sites', resource_type => 'site', resource_parent => 'visits'",
            "22023",
        ),
        // Its parent is not protected yet.
        (
            "'sites', resource_type => 'site', resource_parent => 'server_id'",
            "22023",
        ),
        (
            "'tree', resource_type => 'node', resource_parent => 'up'",
            "22023",
        ),
    ] {
        refused(
            dba.attempt(&format!("SELECT tenancy.protect({call})")),
            code,
        );
    }
    // Around in a circle, made in two steps.
    dba.run(
        "SELECT tenancy.protect('left_one', resource_type => 'l');
         SELECT tenancy.protect('right_one', resource_type => 'r', resource_parent => 'other');
         SELECT tenancy.unprotect('left_one')",
    );
    refused(
        dba.attempt(
            "SELECT tenancy.protect('left_one', resource_type => 'l', resource_parent => 'other')",
        ),
        "22023",
    );
    // As plain tables all of them can be protected.
    dba.run(
        "SELECT tenancy.protect('two'); SELECT tenancy.protect('tree', resource_type => 'node')",
    );
}

#[test]
fn protect_says_how_and_the_record_tells() {
    let world = world();
    let mut dba = world.superuser();
    assert_eq!(
        dba.rows("SELECT table_name::text, resource_type, resource_parent FROM tenancy.protected_tables ORDER BY 1"),
        [
            ["logs", "", "site_id"],
            ["notes", "", ""],
            ["servers", "server", ""],
            ["sites", "site", "server_id"],
        ]
        .map(|row| row.map(|cell| (!cell.is_empty()).then(|| cell.to_string())).to_vec())
    );
    // In the same way again it changes nothing; in another it is refused.
    dba.run("SELECT tenancy.protect('logs', resource_parent => 'site_id')");
    refused(dba.attempt("SELECT tenancy.protect('logs')"), "42710");
    refused(
        dba.attempt("SELECT tenancy.protect('notes', resource_type => 'note')"),
        "42710",
    );
    // set_audit() keeps it.
    world.scope("acme.member", "servers", "1", "full");
    dba.run("SELECT tenancy.set_audit('logs', false)");
    let mut session = world.session("acme.member");
    assert_eq!(ids(&mut session, "logs"), [31, 32, 61, 62]);
    refused(
        session.attempt("INSERT INTO logs (id, site_id) VALUES (1, 1)"),
        "42501",
    );
    dba.run("SELECT tenancy.unprotect('logs')");
    assert_eq!(
        dba.count("SELECT count(*) FROM pg_policies WHERE tablename = 'logs'"),
        0
    );
}

/// The boundary goes only with the whole protection.
#[test]
fn c7_the_boundary_is_not_dropped_or_widened() {
    let world = world();
    let mut owner = world.db.superuser();
    refused(
        owner.attempt("DROP POLICY tenancy_within_scope ON sites"),
        "42501",
    );
    refused(
        owner.attempt("ALTER POLICY tenancy_within_scope ON sites USING (true)"),
        "42501",
    );
    // A policy of the application's own widens nothing.
    owner.run("CREATE POLICY open ON sites USING (true) WITH CHECK (true)");
    world.scope("acme.member", "servers", "1", "read_only");
    let mut session = world.session("acme.member");
    assert_eq!(ids(&mut session, "sites"), [3, 6]);
    refused(session.attempt("UPDATE sites SET visits = 0"), "42501");
}

/// What the record names and the table has no more is no reason to show everything.
#[test]
fn a_table_whose_key_was_renamed_shows_a_limited_membership_nothing() {
    let world = world();
    world.scope("acme.member", "servers", "1", "full");
    // Not even what a rule of its own shows: another rule, above, could not be asked.
    world.scope("acme.member", "sites", "4", "full");
    let mut session = world.session("acme.member");
    assert_eq!(ids(&mut session, "sites"), [3, 4, 6]);
    world
        .superuser()
        .run("ALTER TABLE sites RENAME COLUMN server_id TO host");
    assert!(ids(&mut session, "sites").is_empty());
    assert_eq!(ids(&mut world.session("acme.admin"), "sites").len(), 6);
    world
        .superuser()
        .run("ALTER TABLE sites RENAME COLUMN host TO server_id");
    assert_eq!(ids(&mut session, "sites"), [3, 4, 6]);
    for (from, to, lines) in [("id", "number", 0), ("number", "id", 6)] {
        world
            .superuser()
            .run(&format!("ALTER TABLE sites RENAME COLUMN {from} TO {to}"));
        let count = session.count("SELECT count(*) FROM sites");
        assert_eq!(count, lines / 2, "its key is {to}");
        let below = session.count("SELECT count(*) FROM logs");
        assert_eq!(below, lines, "below, its key is {to}");
    }
    world
        .superuser()
        .run("ALTER TABLE sites DROP CONSTRAINT sites_server_id_fkey");
    assert!(
        ids(&mut session, "sites").is_empty(),
        "no key leads to the server"
    );
}

/// A partition may have its columns in another order than the table that it is a part of.
#[test]
fn a_partition_with_other_places_for_its_columns_is_read_right() {
    let world = World::people();
    world.superuser().run(&format!(
        "CREATE TABLE halls (id int PRIMARY KEY, org_id uuid);
         CREATE TABLE events (id int PRIMARY KEY, org_id uuid, hall_id int REFERENCES halls) PARTITION BY HASH (id);
         CREATE TABLE odd (gone text, hall_id int, x int, id int NOT NULL, org_id uuid);
         ALTER TABLE odd DROP COLUMN gone, DROP COLUMN x;
         ALTER TABLE events ATTACH PARTITION odd FOR VALUES WITH (MODULUS 1, REMAINDER 0);
         CREATE TABLE notes (id int PRIMARY KEY, org_id uuid, event_id int REFERENCES events);
         GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
         INSERT INTO halls SELECT i, '{org}' FROM generate_series(1, 2) i;
         INSERT INTO events SELECT i, '{org}', 1 + i % 2 FROM generate_series(1, 4) i;
         INSERT INTO notes SELECT i, '{org}', i FROM generate_series(1, 4) i;
         SELECT tenancy.protect('halls', resource_type => 'hall');
         SELECT tenancy.protect('events', resource_type => 'event', resource_parent => 'hall_id');
         SELECT tenancy.protect('notes', resource_parent => 'event_id')",
        org = world.acme.id
    ));
    world.scope("acme.member", "halls", "1", "full");
    let mut session = world.session("acme.member");
    assert_eq!(ids(&mut session, "events"), [2, 4]);
    assert_eq!(ids(&mut session, "notes"), [2, 4]);
    assert_eq!(
        session.column("SELECT tenancy.scope_of('events', i::text) FROM generate_series(1, 4) i"),
        ["none", "full", "none", "full"]
    );
    assert_eq!(session.run("UPDATE events SET hall_id = 1"), 2);
    assert_eq!(session.run("UPDATE notes SET event_id = 4 WHERE id = 2"), 1);
    let mut refer = |event: i32| {
        refused(
            session.attempt(&format!("UPDATE notes SET event_id = {event} WHERE id = 2")),
            "42501",
        )
    };
    assert_eq!(refer(3).message(), refer(9).message());
}

/// Whoever calls in_scope() himself hears nothing of another organization's rows, whatever rules he has; and a value of any
/// type is no more than a wrong one.
#[test]
fn a12_in_scope_is_no_oracle() {
    let world = world();
    world.scope("acme.member", "servers", "101", "full");
    world.scope("acme.member", "servers", "1", "full");
    let mut session = world.session("acme.member");
    let mut ask = |site: &str| {
        session.text(&format!(
            "SELECT tenancy.in_scope('logs'::regclass::oid, NULL::text, {site})"
        ))
    };
    assert_eq!(ask("3"), "t", "of a listed server");
    // Globex's sites 103 and 106 are on its server 101.
    for site in ["103", "106", "1", "9999"] {
        assert_eq!(ask(site), "f", "site {site}");
    }
    for odd in [
        "'3'::text",
        "3::bigint",
        "gen_random_uuid()",
        "'3'::bytea",
        "now()",
        "NULL::int",
    ] {
        assert_eq!(ask(odd), "f", "{odd}");
    }
}
