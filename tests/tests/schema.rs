//! protect_schema(), exempt(): every table of a schema at once, or none, and what is left and why. Section 5 of the
//! specification.

use std::time::{Duration, Instant};

use pg_tenancy_tests::{Db, Session, World, refused};

/// A shop with everything that may stand in a schema, rows of both orgs.
fn shop(world: &World) {
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE SCHEMA shop AUTHORIZATION {0}; GRANT USAGE ON SCHEMA shop TO PUBLIC; SET ROLE {0}; SET search_path = shop;
         CREATE TABLE currencies (code text PRIMARY KEY);
         CREATE TABLE customers (id int PRIMARY KEY, org_id uuid, name text);
         CREATE TABLE orders (id int PRIMARY KEY, org_id uuid, customer_id int REFERENCES customers, currency text REFERENCES currencies);
         CREATE TABLE order_lines (id int PRIMARY KEY, order_id int REFERENCES orders, what text);
         CREATE TABLE links (id int PRIMARY KEY, order_id int REFERENCES orders, customer_id int REFERENCES customers);
         CREATE TABLE events (id int, org_id uuid, day date) PARTITION BY RANGE (day);
         CREATE TABLE events_24 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
         CREATE TABLE events_rest PARTITION OF events DEFAULT;
         CREATE TABLE assets (id int, org_id uuid); CREATE TABLE cars () INHERITS (assets);
         CREATE VIEW v AS SELECT 1; CREATE TEMPORARY TABLE passing (org_id uuid);
         GRANT ALL ON ALL TABLES IN SCHEMA shop TO PUBLIC",
        world.table_owner()
    ));
    for (org, first) in [(world.acme, 0), (world.globex, 100)] {
        dba.run(&format!(
            "INSERT INTO customers SELECT {first} + i, '{0}', 'c' FROM generate_series(1, 3) i;
             INSERT INTO orders SELECT {first} + i, '{0}', {first} + i FROM generate_series(1, 3) i;
             INSERT INTO order_lines SELECT {first} + i, {first} + i FROM generate_series(1, 3) i;
             INSERT INTO events SELECT i, '{0}', '2024-12-30'::date + i FROM generate_series(1, 3) i;
             INSERT INTO cars SELECT i, '{0}' FROM generate_series(1, 3) i",
            org.id
        ));
    }
}

fn status(session: &mut Session, call: &str) -> Vec<String> {
    session.column(&format!(
        "SELECT concat_ws(' | ', table_name, status, finding, rows) FROM {call}"
    ))
}

const DRY: &str = "tenancy.protect_schema('shop', dry_run => true)";

#[test]
fn a_dry_run_says_everything_and_changes_nothing() {
    let world = World::people();
    shop(&world);
    let mut dba = world.superuser();
    dba.run(&format!(
        "SELECT tenancy.exempt('shop.currencies', 'shared');
         INSERT INTO shop.customers (id) VALUES (900), (901);
         INSERT INTO shop.events (id, day) VALUES (9, '2024-02-02'), (9, '2030-02-02'), (9, '2030-02-03');
         UPDATE shop.orders SET customer_id = 101 WHERE id IN (1, 2);
         INSERT INTO shop.assets VALUES (9, gen_random_uuid());
         CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
         CREATE FOREIGN TABLE shop.remote (org_id uuid) SERVER nowhere;
         CREATE TABLE shop.odd (org_id boolean); ALTER TABLE shop.odd OWNER TO {}",
        world.table_owner()
    ));
    let before = catalog(&mut dba);
    let expected = [
        "shop.assets | ready",
        "shop.assets | warning | rows of organizations that do not exist | 1",
        "shop.currencies | exempt | shared",
        "shop.customers | broken | rows without an organization | 2",
        "shop.events | broken | rows without an organization | 3",
        "shop.links | needs org column | no column \"org_id\", but foreign keys lead to an organization on 2 ways",
        "shop.odd | cannot | column \"org_id\" of table \"odd\" is of type boolean, which holds no organization's key",
        "shop.order_lines | needs org column | no column \"org_id\", but foreign keys lead to shop.orders",
        "shop.orders | broken | references to another organization's rows in shop.customers (foreign key \"orders_customer_id_fkey\") | 2",
        "shop.remote | cannot | \"remote\" is a foreign table",
    ];
    let mut told = status(&mut dba, DRY);
    told.sort();
    assert_eq!(told, expected);
    assert_eq!(catalog(&mut dba), before);
    // The real run says the same, as an error, and changes nothing either.
    let error = refused(
        dba.attempt("SELECT tenancy.protect_schema('shop')"),
        "55000",
    );
    for part in [
        "shop.customers: 2 rows without",
        "shop.orders: 2 references",
        "shop.odd",
        "shop.remote",
        "Nothing was changed",
    ] {
        assert!(error.detail().unwrap().contains(part), "{part}: {error:?}");
    }
    assert_eq!(catalog(&mut dba), before);
    // What remedies are named for is what helps.
    assert_eq!(
        dba.text(&format!(
            "SELECT remedy FROM {DRY} WHERE table_name = 'shop.order_lines'::regclass"
        )),
        "CALL tenancy.add_org_column('shop.order_lines')"
    );
    // Nobody is locked out meanwhile.
    let mut other = world.superuser();
    dba.run(&format!("BEGIN; SELECT * FROM {DRY}"));
    other.run("SET lock_timeout = '1s'; INSERT INTO shop.currencies VALUES ('EUR'); UPDATE shop.customers SET name = 'x'");
    dba.run("COMMIT");
}

/// What protection may have touched, of every table.
fn catalog(dba: &mut Session) -> Vec<String> {
    dba.column(
        "SELECT concat_ws(' ', c.oid::regclass, relrowsecurity, relforcerowsecurity,
             (SELECT string_agg(tgname, ',') FROM pg_trigger WHERE tgrelid = c.oid),
             (SELECT string_agg(polname, ',') FROM pg_policy WHERE polrelid = c.oid),
             (SELECT count(*) FROM pg_index WHERE indrelid = c.oid))
         FROM pg_class c WHERE relnamespace = 'shop'::regnamespace ORDER BY 1",
    )
}

#[test]
fn all_tables_or_none() {
    let world = World::people();
    shop(&world);
    // By the role that owns them all, who needs no other right.
    let mut owner = world.db.login(&world.table_owner());
    let mut told = status(&mut owner, "tenancy.protect_schema('shop')");
    told.sort();
    assert_eq!(
        told,
        [
            "shop.assets | protected",
            "shop.currencies | left | no column \"org_id\", and no foreign key leads to an organization",
            "shop.customers | protected",
            "shop.events | protected",
            "shop.links | needs org column | no column \"org_id\", but foreign keys lead to an organization on 2 ways",
            "shop.order_lines | needs org column | no column \"org_id\", but foreign keys lead to shop.orders",
            "shop.orders | protected",
        ]
    );
    let mut dba = world.superuser();
    assert_eq!(
        dba.column("SELECT table_name FROM tenancy.protected_tables ORDER BY table_name::text"),
        [
            "shop.assets",
            "shop.cars",
            "shop.customers",
            "shop.events",
            "shop.events_24",
            "shop.events_rest",
            "shop.orders"
        ]
    );
    for table in ["customers", "orders", "events", "events_24", "cars"] {
        let table = format!("shop.{table}");
        let (acme, globex) = world.seen(&mut world.session("acme.viewer"), &table);
        assert!(acme > 0 && globex == 0, "{table}");
        assert_eq!(world.seen(&mut world.nobody(), &table), (0, 0));
    }
    // Again: nothing is left to do. One that was protected in its own way stays so.
    dba.run(r#"SELECT tenancy.unprotect('shop.orders'); SELECT tenancy.protect('shop.orders', permissions => '{"delete": "server:delete"}')"#);
    let told = status(&mut dba, "tenancy.protect_schema('shop')");
    assert_eq!(
        told.iter()
            .filter(|l| l.contains("| already protected"))
            .count(),
        4
    );
    assert!(told.contains(&"shop.orders | already protected | table \"orders\" is protected already, in another way".to_string()));
    // Another column in the same schema.
    dba.run("CREATE TABLE shop.late (\"orgId\" uuid)");
    assert!(
        status(
            &mut dba,
            "tenancy.protect_schema('shop', org_column => 'orgId')"
        )
        .contains(&"shop.late | protected".to_string())
    );
    // A foreign key across two schemas is looked at like any.
    dba.run(&format!(
        "CREATE SCHEMA \"Other one\"; CREATE TABLE \"Other one\".t (org_id uuid, c int REFERENCES shop.customers);
         INSERT INTO \"Other one\".t VALUES ('{}', 101)",
        world.acme.id
    ));
    refused(
        dba.attempt("SELECT tenancy.protect_schema('Other one')"),
        "55000",
    );
}

#[test]
fn the_schema_is_for_its_owner_and_the_dba() {
    let world = World::people();
    shop(&world);
    for mut session in [world.session("acme.owner"), world.nobody(), world.app()] {
        refused(
            session.attempt("SELECT tenancy.protect_schema('shop')"),
            "55000",
        );
        refused(
            session.attempt("SELECT tenancy.exempt('shop.orders', 'mine')"),
            "42501",
        );
        refused(
            session.attempt("SELECT tenancy.unexempt('shop.orders')"),
            "42501",
        );
    }
    let mut dba = world.superuser();
    refused(
        dba.attempt("SELECT tenancy.protect_schema('nowhere')"),
        "3F000",
    );
    refused(
        dba.attempt("SELECT tenancy.protect_schema('pg_catalog')"),
        "42809",
    );
    refused(
        dba.attempt(
            "SELECT tenancy.protect_schema('shop', permissions => '{\"select\": \"server:raed\"}')",
        ),
        "22023",
    );
    refused(dba.attempt("SELECT tenancy.protect_schema(NULL)"), "22004");
    assert_eq!(
        dba.count("SELECT count(*) FROM tenancy.protected_tables"),
        0
    );
}

#[test]
fn exemptions_are_listed_follow_their_table_and_go_with_it() {
    let world = World::people();
    shop(&world);
    let mut owner = world.db.login(&world.table_owner());
    owner.run("SELECT tenancy.exempt('shop.orders', 'legacy, moved out next year'); SELECT tenancy.exempt('shop.events', 'nobody''s')");
    refused(
        owner.attempt("SELECT tenancy.exempt('shop.orders', ' ')"),
        "22023",
    );
    refused(
        owner.attempt("SELECT tenancy.exempt('shop.events_24', 'x')"),
        "42809",
    );
    refused(
        owner.attempt("SELECT tenancy.exempt('shop.v', 'x')"),
        "42809",
    );
    refused(
        owner.attempt("SELECT tenancy.unexempt('shop.customers')"),
        "42704",
    );
    owner.run("ALTER TABLE shop.orders RENAME TO old_orders");
    let list = "SELECT table_name || ': ' || reason || ' (' || exempted_by || ')' FROM tenancy.exempt_tables ORDER BY 1";
    let by = world.table_owner();
    assert_eq!(
        world.nobody().column(list),
        [
            format!("shop.events: nobody's ({by})"),
            format!("shop.old_orders: legacy, moved out next year ({by})")
        ]
    );
    let told = status(&mut owner, "tenancy.protect_schema('shop')");
    assert!(
        told.contains(&"shop.old_orders | exempt | legacy, moved out next year".to_string()),
        "{told:?}"
    );
    assert!(
        told.contains(&"shop.events | exempt | nobody's".to_string()),
        "{told:?}"
    );
    // Nobody writes there by himself.
    for sql in [
        "INSERT INTO tenancy.exemptions VALUES ('shop.customers', 'x', 'me')",
        "UPDATE tenancy.exemptions SET reason = 'x'",
        "DELETE FROM tenancy.exemptions",
        "DELETE FROM tenancy.exempt_tables",
    ] {
        assert!(owner.attempt(sql).is_err(), "{sql}");
    }
    // Exempt or protected, not both.
    refused(
        owner.attempt("SELECT tenancy.exempt('shop.customers', 'x')"),
        "55000",
    );
    owner.run("SELECT tenancy.protect('shop.events')");
    assert_eq!(world.nobody().column(list).len(), 1);
    // A dump carries it.
    let file = world.db.cluster.file(&format!("{}.dump", world.db.name));
    let path = file.to_str().unwrap();
    let cluster = world.db.cluster.clone();
    cluster.client_program(
        "pg_dump",
        &world.db.name,
        &["--format=custom", "--file", path],
    );
    let other = Db::empty(cluster.clone());
    cluster.client_program("pg_restore", &other.name, &["--exit-on-error", path]);
    assert_eq!(other.superuser().column(list), world.nobody().column(list));
    // And it goes with the table, however that goes.
    let mut dba = world.superuser();
    dba.run("DROP TABLE shop.old_orders CASCADE");
    assert_eq!(dba.count("SELECT count(*) FROM tenancy.exemptions"), 0);
    dba.run("SELECT tenancy.exempt('shop.currencies', 'x'); SELECT tenancy.unexempt('shop.currencies'); SELECT tenancy.exempt('shop.currencies', 'y')");
    dba.run("DROP SCHEMA shop CASCADE");
    assert_eq!(dba.count("SELECT count(*) FROM tenancy.exemptions"), 0);
    dba.run("SELECT tenancy.uninstall(); DROP EXTENSION pg_tenancy");
}

#[test]
fn a_hundred_and_fifty_tables_in_ten_seconds() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(
        "CREATE SCHEMA big;
         DO $$ BEGIN FOR i IN 1..150 LOOP
             EXECUTE format('CREATE TABLE big.t%s (id bigint PRIMARY KEY, org_id uuid NOT NULL, parent bigint %s, name text)',
                            i, CASE WHEN i > 1 THEN format('REFERENCES big.t%s', i / 2) END);
         END LOOP; END $$",
    );
    dba.run(&format!(
        "DO $$ BEGIN FOR i IN 1..150 LOOP
             EXECUTE format('INSERT INTO big.t%s SELECT n, %L FROM generate_series(1, 200) n', i, '{}');
         END LOOP; END $$",
        world.acme.id
    ));
    let start = Instant::now();
    assert_eq!(
        dba.count("SELECT count(*) FROM tenancy.protect_schema('big') WHERE status = 'protected'"),
        150
    );
    let took = start.elapsed();
    println!("150 tables protected in {took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// Tables with some of the columns that protect() may be told of, each with a row of acme's.
fn with_columns(world: &World) -> String {
    let mut dba = world.superuser();
    let project = dba.text(&format!(
        "SELECT tenancy.create_project('{}', 'web')",
        world.acme.id
    ));
    dba.run(&format!(
        "CREATE SCHEMA c; GRANT USAGE ON SCHEMA c TO PUBLIC; SET search_path = c;
         CREATE TABLE everything (id int PRIMARY KEY, org_id uuid, project_id uuid, cluster_id uuid, env text);
         CREATE TABLE no_project (id int PRIMARY KEY, org_id uuid, cluster_id uuid, env text);
         CREATE TABLE parts (id int, org_id uuid, project_id uuid) PARTITION BY LIST (id);
         CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1); CREATE TABLE part_2 PARTITION OF parts DEFAULT;
         CREATE TABLE plain (id int PRIMARY KEY, org_id uuid);
         INSERT INTO everything VALUES (1, '{0}', '{project}', NULL, 'production');
         INSERT INTO parts VALUES (1, '{0}', '{project}'), (2, '{0}', '{project}');
         GRANT ALL ON ALL TABLES IN SCHEMA c TO PUBLIC",
        world.acme.id
    ));
    project
}

const COLUMNS: &str =
    "environment_column => 'env', project_column => 'project_id', cluster_column => 'cluster_id'";

#[test]
fn other_columns_are_for_the_tables_that_have_them() {
    let world = World::people();
    let project = with_columns(&world);
    let mut dba = world.superuser();
    let call = |more: &str| format!("tenancy.protect_schema('c', {COLUMNS}{more})");
    let expected = |done: &str| {
        [
            format!(
                "c.everything | {done} | environment column \"env\", project column \"project_id\", cluster column \"cluster_id\""
            ),
            format!(
                "c.no_project | {done} | environment column \"env\", no project column, no cluster column"
            ),
            format!(
                "c.parts | {done} | no environment column, project column \"project_id\", no cluster column"
            ),
            format!(
                "c.plain | {done} | no environment column, no project column, no cluster column"
            ),
        ]
    };
    assert_eq!(
        status(&mut dba, &call(", dry_run => true")),
        expected("ready")
    );
    assert_eq!(status(&mut dba, &call("")), expected("protected"));
    assert_eq!(
        status(&mut dba, &call("")),
        ["everything", "no_project", "parts", "plain"]
            .map(|t| format!("c.{t} | already protected"))
    );
    // Each as protect() would have done it: a project of another organization is no row's.
    let theirs = dba.text(&format!(
        "SELECT tenancy.create_project('{}', 'web')",
        world.globex.id
    ));
    let mut owner = world.session("acme.owner");
    for table in ["everything", "parts"] {
        refused(
            owner.attempt(&format!(
                "INSERT INTO c.{table} (id, project_id) VALUES (7, '{theirs}')"
            )),
            "23503",
        );
        owner.run(&format!(
            "INSERT INTO c.{table} (id, project_id) VALUES (7, '{project}')"
        ));
    }
    owner.run("INSERT INTO c.no_project (id, cluster_id, env) VALUES (7, gen_random_uuid(), 'production')");
    owner.run("INSERT INTO c.plain VALUES (7)");
    // And production is production.
    owner.run(&format!(
        "SELECT tenancy.set_production_protection('{}', true)",
        world.acme.id
    ));
    refused(
        owner.attempt("DELETE FROM c.no_project WHERE id = 7"),
        "42501",
    );
    refused(
        owner.attempt("DELETE FROM c.everything WHERE id = 1"),
        "42501",
    );
    owner.run("DELETE FROM c.plain WHERE id = 7");
}

#[test]
fn rows_that_break_a_column_of_another_kind_stand_in_the_way() {
    let world = World::people();
    with_columns(&world);
    let mut dba = world.superuser();
    let theirs = dba.text(&format!(
        "SELECT tenancy.create_project('{}', 'web')",
        world.globex.id
    ));
    dba.run(&format!(
        "INSERT INTO c.everything (id, org_id) VALUES (2, '{0}'), (3, '{0}');
         INSERT INTO c.parts VALUES (2, '{0}', '{theirs}');
         CREATE TABLE c.odd (org_id uuid, project_id text)",
        world.acme.id
    ));
    let call = format!("tenancy.protect_schema('c', {COLUMNS}, dry_run => true)");
    let told = status(&mut dba, &call);
    let broken = |table: &str| {
        let of = format!("c.{table} | ");
        let all: Vec<&str> = told
            .iter()
            .filter_map(|line| line.strip_prefix(&of))
            .collect();
        assert_eq!(all.len(), 1, "{told:?}");
        all[0].to_string()
    };
    assert!(
        broken("everything")
            .starts_with("broken | table \"everything\" has 2 rows without a project")
    );
    assert!(
        broken("parts").starts_with(
            "broken | 1 rows of table \"part_2\" name a project of another organization"
        )
    );
    assert!(broken("odd").starts_with(
        "cannot | column \"project_id\" of table \"odd\" is no ordinary column of type uuid"
    ));
    assert!(broken("plain").starts_with("ready"));
    refused(
        dba.attempt(&format!("SELECT {}", call.replace("true", "false"))),
        "55000",
    );
    assert_eq!(
        dba.count("SELECT count(*) FROM pg_class WHERE relnamespace = 'c'::regnamespace AND relrowsecurity"),
        0
    );
    for (columns, code) in [
        ("project_column => 'projekt_id'", "42703"),
        ("environment_column => 'Env'", "42703"),
        ("cluster_column => 'cluster_id'", "22023"),
    ] {
        refused(
            dba.attempt(&format!("SELECT tenancy.protect_schema('c', {columns})")),
            code,
        );
    }
}
