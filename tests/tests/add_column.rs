//! add_org_column(): tables that reach their organization only through their parents. Section 5 of the specification.

use std::sync::mpsc;
use std::time::Duration;

use pg_tenancy_tests::{Session, World, fails, refused};

/// Customers say whose they are; orders, lines and taxes reach them over one, two and three keys. Some thousand rows.
const SHOP: &str = "
    CREATE TABLE customers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, org_id uuid, name text);
    CREATE TABLE orders (id bigint PRIMARY KEY, customer int NOT NULL REFERENCES customers, at timestamptz DEFAULT now());
    CREATE TABLE \"orderLines\" (\"orderId\" bigint NOT NULL REFERENCES orders ON DELETE CASCADE, \"lineNo\" int, price int,
        doubled int GENERATED ALWAYS AS (price * 2) STORED, touched int DEFAULT 0, PRIMARY KEY (\"orderId\", \"lineNo\"));
    CREATE TABLE taxes (id int PRIMARY KEY, \"order\" bigint, line int, FOREIGN KEY (\"order\", line) REFERENCES \"orderLines\" ON DELETE CASCADE);
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.touched := NEW.touched + 1; RETURN NEW; END $$;
    CREATE TRIGGER touch BEFORE UPDATE ON \"orderLines\" FOR EACH ROW EXECUTE FUNCTION touch();
    CREATE RULE never AS ON UPDATE TO taxes DO INSTEAD NOTHING;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;";

fn shop() -> World {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(SHOP);
    dba.run(&format!(
        "INSERT INTO customers (org_id, name) SELECT CASE WHEN i % 2 = 0 THEN '{}'::uuid ELSE '{}' END, 'c' || i FROM generate_series(1, 20) i;
         INSERT INTO orders SELECT i, 1 + i % 20 FROM generate_series(1, 1000) i;
         INSERT INTO \"orderLines\" SELECT i, n, i FROM generate_series(1, 1000) i, generate_series(1, 3) n;
         INSERT INTO taxes SELECT i * 10 + n, i, n FROM generate_series(1, 1000) i, generate_series(1, 3) n",
        world.acme.id, world.globex.id
    ));
    for table in ["customers", "orders", "\"orderLines\"", "taxes"] {
        dba.run(&format!(
            "ALTER TABLE {table} OWNER TO {}",
            world.table_owner()
        ));
    }
    dba.run(&format!(
        "GRANT ALL ON SCHEMA public TO {}",
        world.table_owner()
    ));
    world
}

/// Rows whose column is not what their parents say.
const WRONG: &str = "
    SELECT (SELECT count(*) FROM orders o JOIN customers c ON c.id = o.customer WHERE o.org_id IS DISTINCT FROM c.org_id)
         + (SELECT count(*) FROM \"orderLines\" l JOIN orders o ON o.id = \"orderId\" JOIN customers c ON c.id = customer WHERE l.org_id IS DISTINCT FROM c.org_id)
         + (SELECT count(*) FROM taxes t JOIN orders o ON o.id = \"order\" JOIN customers c ON c.id = customer WHERE t.org_id IS DISTINCT FROM c.org_id)";

#[test]
fn any_depth_by_the_owner_and_kept_afterwards() {
    let world = shop();
    let mut owner = world.db.login(&world.table_owner());
    // The deepest first: those in between come along. The parent is protected, so its owner sees none of its rows.
    owner.run("SELECT tenancy.protect('customers')");
    owner.run("CALL tenancy.add_org_column('taxes', batch_rows => 700)");
    let mut glass = world.break_glass();
    assert_eq!(glass.count(WRONG), 0);
    assert_eq!(
        glass.count("SELECT count(*) FROM taxes WHERE org_id IS NOT NULL"),
        3000
    );
    // Nobody's trigger fired, nothing else changed.
    assert_eq!(glass.count("SELECT sum(touched) FROM \"orderLines\""), 0);
    assert_eq!(
        glass.count("SELECT count(*) FROM \"orderLines\" WHERE doubled <> price * 2"),
        0
    );
    // Rows that an application without any context writes, by an INSERT that does not know the column, and moves.
    let mut nobody = world.nobody();
    nobody.run("INSERT INTO orders VALUES (2000, 2), (2001, 3); INSERT INTO \"orderLines\" VALUES (2000, 1, 5), (2001, 1, 5)");
    nobody.run("UPDATE orders SET customer = 3 WHERE id = 2000; UPDATE orders SET customer = 5 WHERE id = 2001");
    assert_eq!(glass.count("SELECT count(*) FROM orders o JOIN customers c ON c.id = o.customer WHERE o.org_id IS DISTINCT FROM c.org_id"), 0);
    assert_eq!(
        nobody.count("SELECT count(*) FROM orders WHERE org_id IS NULL"),
        0
    );
    // Then the table is one like any other.
    nobody.run("DELETE FROM orders WHERE id >= 2000");
    owner.run("SELECT * FROM tenancy.protect_schema('public')");
    assert_eq!(
        owner.count("SELECT count(*) FROM tenancy.protected_tables"),
        4
    );
    for table in ["orders", "\"orderLines\"", "taxes"] {
        let (acme, globex) = world.seen(&mut world.session("acme.viewer"), table);
        assert!(acme > 0 && globex == 0, "{table}");
        assert_eq!(world.seen(&mut world.nobody(), table), (0, 0));
    }
    let mut admin = world.session("acme.admin");
    let own = admin.text("SELECT min(id) FROM customers");
    let other = glass.text(&format!(
        "SELECT min(id) FROM customers WHERE org_id = '{}'",
        world.globex.id
    ));
    admin.run(&format!("INSERT INTO orders VALUES (3000, {own}); INSERT INTO \"orderLines\" VALUES (3000, 1, 5); INSERT INTO taxes VALUES (1, 3000, 1)"));
    // Also where the application says NULL.
    admin.run(&format!(
        "INSERT INTO orders (id, customer, org_id) VALUES (3001, {own}, NULL)"
    ));
    assert_eq!(
        admin.count("SELECT count(*) FROM orders WHERE id >= 3000"),
        2
    );
    // Another org's parent is a missing one, and tells nothing of whose it is.
    let cross = fails(
        admin.attempt(&format!("INSERT INTO orders VALUES (3002, {other})")),
        "23503",
    );
    let missing = fails(
        admin.attempt("INSERT INTO orders VALUES (3002, 999)"),
        "23503",
    );
    pg_tenancy_tests::assert_same_error(&cross, &missing, &[("999", &other)]);
    assert_eq!(glass.count(WRONG), 0);
    assert!(admin.run("DELETE FROM \"orderLines\" WHERE \"orderId\" = 3000") == 1);
    // Leaving the extension leaves the column.
    let mut dba = world.superuser();
    dba.run("SELECT tenancy.uninstall(); DROP EXTENSION pg_tenancy");
    assert_eq!(
        dba.count("SELECT count(*) FROM taxes WHERE org_id IS NULL"),
        0
    );
}

#[test]
fn several_paths_are_listed_and_one_is_named() {
    let world = shop();
    let mut owner = world.db.login(&world.table_owner());
    owner.run(
        "CREATE TABLE notes (id int, \"order\" bigint REFERENCES orders, customer int REFERENCES customers);
         INSERT INTO notes VALUES (1, 1, NULL), (2, NULL, 2), (3, 3, 4)",
    );
    let error = refused(
        owner.attempt("CALL tenancy.add_org_column('notes')"),
        "42P08",
    );
    let detail = error.detail().unwrap();
    assert!(
        detail.contains("ARRAY['notes_customer_fkey'] to public.customers"),
        "{detail}"
    );
    assert!(
        detail.contains("ARRAY['notes_order_fkey', 'orders_customer_fkey'] to public.customers"),
        "{detail}"
    );
    let error = refused(
        owner.attempt("CALL tenancy.add_org_column('notes', path => ARRAY['other'])"),
        "42704",
    );
    assert!(
        error.detail().unwrap().contains("notes_customer_fkey"),
        "{error:?}"
    );
    assert_eq!(owner.count("SELECT count(*) FROM pg_attribute WHERE attrelid = 'notes'::regclass AND attname = 'org_id'"), 0);
    owner.run("CALL tenancy.add_org_column('notes', path => ARRAY['notes_order_fkey', 'orders_customer_fkey'])");
    assert_eq!(
        owner.column("SELECT id FROM notes WHERE org_id IS NOT NULL ORDER BY 1"),
        ["1", "3"]
    );
    // Again it knows the way, and orders has its column from the same call.
    owner.run("UPDATE notes SET \"order\" = 2 WHERE id = 2; CALL tenancy.add_org_column('notes')");
    assert_eq!(owner.count("SELECT count(*) FROM notes n JOIN orders o ON o.id = n.\"order\" WHERE n.org_id = o.org_id"), 3);
}

#[test]
fn what_cannot_be_is_refused_before_anything_changes() {
    let world = shop();
    let mut owner = world.db.login(&world.table_owner());
    owner.run("CREATE TABLE lonely (id int PRIMARY KEY); CREATE TABLE friend (id int REFERENCES lonely); CREATE VIEW v AS SELECT 1; SELECT tenancy.protect('customers')");
    owner.run("CREATE TABLE p (customer int REFERENCES customers) PARTITION BY LIST (customer); CREATE TABLE part PARTITION OF p DEFAULT");
    for (sql, code) in [
        ("CALL tenancy.add_org_column('friend')", "42704"),
        ("CALL tenancy.add_org_column('customers')", "55000"),
        ("CALL tenancy.add_org_column('v')", "42809"),
        ("CALL tenancy.add_org_column('part')", "42809"),
        (
            "CALL tenancy.add_org_column('orders', batch_rows => 0)",
            "22023",
        ),
        (
            "CALL tenancy.add_org_column('orders', org_column => 'at')",
            "42804",
        ),
        ("CALL tenancy.add_org_column(NULL)", "22004"),
    ] {
        refused(owner.attempt(sql), code);
    }
    for mut session in [world.session("acme.owner"), world.nobody()] {
        refused(
            session.attempt("CALL tenancy.add_org_column('orders')"),
            "42501",
        );
    }
    // Nor by who owns the child only: the column would tell him of the parent's rows.
    let mut dba = world.superuser();
    dba.run("ALTER TABLE customers OWNER TO postgres");
    refused(
        owner.attempt("CALL tenancy.add_org_column('orders')"),
        "42501",
    );
    assert_eq!(
        dba.count("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '~tenancy%'"),
        0
    );
    // Not through a table that is nobody's.
    dba.run("SELECT tenancy.exempt('orders', 'shared')");
    refused(dba.attempt("CALL tenancy.add_org_column('taxes')"), "42704");
}

#[test]
fn b1_no_code_of_the_owner_runs_as_another() {
    let world = shop();
    let mut owner = world.db.login(&world.table_owner());
    // An index expression, a check and a generated column tell whom they run as.
    owner.run(
        "CREATE TABLE seen (who text);
         CREATE FUNCTION spy(bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
             IF current_user = 'postgres' THEN RAISE EXCEPTION 'caught %', current_user; END IF;
             RETURN $1; END $$;
         CREATE INDEX ON orders (spy(id)); CREATE INDEX ON orders (id) WHERE spy(id) > 0;
         ALTER TABLE orders ADD CHECK (spy(id) > 0);
         ALTER TABLE orders ADD g bigint GENERATED ALWAYS AS (spy(id)) STORED",
    );
    let mut dba = world.superuser();
    dba.run("CALL tenancy.add_org_column('taxes', batch_rows => 100)");
    assert_eq!(dba.count(WRONG), 0);
}

#[test]
fn partitions_children_and_rows_hidden_from_their_owner() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE TABLE p (id int PRIMARY KEY, org_id uuid) PARTITION BY RANGE (id);
         CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (50);
         CREATE TABLE p_2 (org_id uuid, id int NOT NULL); ALTER TABLE p ATTACH PARTITION p_2 FOR VALUES FROM (50) TO (1000);
         INSERT INTO p SELECT i, CASE WHEN i % 2 = 0 THEN '{}'::uuid ELSE '{}' END FROM generate_series(1, 100) i;
         CREATE TABLE c (id int, p int REFERENCES p) PARTITION BY HASH (id);
         CREATE TABLE c_0 PARTITION OF c FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE c_1 (p int, id int); ALTER TABLE c ATTACH PARTITION c_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         INSERT INTO c SELECT i, i FROM generate_series(1, 100) i;
         CREATE TABLE a (id int, p int REFERENCES p); CREATE TABLE b (more text) INHERITS (a);
         INSERT INTO a SELECT i, i FROM generate_series(1, 100) i; INSERT INTO b SELECT i, i FROM generate_series(1, 100) i;
         ALTER TABLE a ENABLE ROW LEVEL SECURITY; ALTER TABLE a FORCE ROW LEVEL SECURITY; CREATE POLICY few ON a USING (id < 5)",
        world.acme.id, world.globex.id
    ));
    for table in ["p", "p_1", "p_2", "c", "c_0", "c_1", "a", "b"] {
        dba.run(&format!(
            "ALTER TABLE {table} OWNER TO {}",
            world.table_owner()
        ));
    }
    let mut owner = world.db.login(&world.table_owner());
    owner.run("CALL tenancy.add_org_column('c', batch_rows => 7); CALL tenancy.add_org_column('a', batch_rows => 7)");
    dba.run(
        "INSERT INTO c (id, p) VALUES (200, 7), (201, 8); INSERT INTO b (id, p) VALUES (200, 7)",
    );
    dba.run("CREATE TABLE c_late (LIKE c); ALTER TABLE c DETACH PARTITION c_1; INSERT INTO c_1 (id, p) SELECT 301, 9");
    for table in ["c", "a"] {
        assert_eq!(
            dba.count(&format!("SELECT count(*) FROM {table} x JOIN p ON p.id = x.p WHERE x.org_id IS DISTINCT FROM p.org_id")),
            0,
            "{table}"
        );
    }
    assert_eq!(
        dba.count("SELECT count(*) FROM c"),
        102 - dba.count("SELECT count(*) - 1 FROM c_1")
    );
}

#[test]
fn rows_that_lead_nowhere_are_counted() {
    let world = shop();
    let mut dba = world.superuser();
    dba.run("INSERT INTO taxes VALUES (-1, NULL, NULL), (-2, 5, NULL); INSERT INTO customers (name) VALUES ('nobody''s'); INSERT INTO orders VALUES (5000, 21)");
    let (send, heard) = mpsc::channel();
    let mut config = world.db.config("postgres");
    config.notice_callback(move |notice| {
        send.send(notice.message().to_string()).ok();
    });
    world
        .db
        .connect(&config)
        .run("CALL tenancy.add_org_column('taxes')");
    let told: Vec<String> = heard.try_iter().collect();
    assert!(
        told.iter()
            .any(|t| t.contains("\"taxes\" has 2 rows that lead to no organization")),
        "{told:?}"
    );
    assert!(
        told.iter()
            .any(|t| t.contains("\"orders\" has 1 rows that lead to no organization")),
        "{told:?}"
    );
}

#[test]
fn in_a_transaction_block_it_is_all_or_nothing() {
    let world = shop();
    let mut dba = world.superuser();
    dba.run("BEGIN; CALL tenancy.add_org_column('orders', batch_rows => 10)");
    assert_eq!(
        dba.count("SELECT count(*) FROM orders WHERE org_id IS NULL"),
        0
    );
    dba.run("ROLLBACK");
    assert_eq!(dba.count("SELECT count(*) FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'org_id'"), 0);
    // A function that calls it is a transaction block, too.
    dba.run("DO $$ BEGIN CALL tenancy.add_org_column('orders'); END $$");
    assert_eq!(
        dba.count("SELECT count(*) FROM orders WHERE org_id IS NULL"),
        0
    );
}

#[test]
fn it_goes_on_after_a_crash_and_locks_nobody_out_meanwhile() {
    let world = shop();
    let mut dba = world.superuser();
    dba.run("INSERT INTO orders SELECT i, 1 + i % 20 FROM generate_series(10001, 40000) i");
    // A writer holds a row in the middle: the backfill waits there, with what it did before committed.
    let mut writer = world.superuser();
    writer.run("BEGIN; UPDATE orders SET at = now() WHERE id = 30000");
    // The column itself waits for nobody but the writer's table lock, so it is made before.
    writer.run("COMMIT");
    dba.run("ALTER TABLE orders ADD org_id uuid");
    writer.run("BEGIN; SELECT FROM orders WHERE id = 30000 FOR UPDATE");
    let mut worker = world.superuser();
    let pid = worker.text("SELECT pg_backend_pid()");
    let thread = std::thread::spawn(move || {
        worker
            .attempt("CALL tenancy.add_org_column('orders', batch_rows => 1000)")
            .map(|_| ())
    });
    wait_until(
        &mut dba,
        &format!("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid}"),
    );
    let halfway = dba.count("SELECT count(*) FROM orders WHERE org_id IS NOT NULL");
    assert!(halfway > 1000 && halfway < 31000, "{halfway}");
    // Others write, and their rows are filled.
    dba.run("SET lock_timeout = '2s'; INSERT INTO orders VALUES (50000, 3); UPDATE orders SET customer = 4 WHERE id = 1");
    assert_eq!(
        dba.count("SELECT count(*) FROM orders WHERE id IN (1, 50000) AND org_id IS NULL"),
        0
    );
    dba.run(&format!("SELECT pg_terminate_backend({pid})"));
    assert!(thread.join().unwrap().is_err());
    writer.run("ROLLBACK");
    assert!(dba.count("SELECT count(*) FROM orders WHERE org_id IS NULL") > 0);
    dba.run("CALL tenancy.add_org_column('orders', batch_rows => 1000)");
    assert_eq!(dba.count("SELECT count(*) FROM orders o JOIN customers c ON c.id = o.customer WHERE o.org_id IS DISTINCT FROM c.org_id"), 0);
}

fn wait_until(session: &mut Session, condition: &str) {
    for _ in 0..200 {
        if session.value(condition).as_deref() == Some("t") {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("never: {condition}");
}
