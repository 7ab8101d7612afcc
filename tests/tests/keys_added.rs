//! Foreign keys that are added or validated when rows are there: checked across all organizations, since forced row
//! security lets PostgreSQL's own check see none. Attack D6; section 5.5 of the specification.

use pg_tenancy_tests::{Session, World, assert_same_error, fails};

/// Servers and sites as they are in the world, the key between them dropped, owned by a role without any bypass.
fn world() -> (World, Session) {
    let world = World::new();
    world.superuser().run(&format!(
        "ALTER TABLE sites DROP CONSTRAINT sites_server_id_fkey;
         ALTER TABLE servers OWNER TO {0}; ALTER TABLE sites OWNER TO {0}; ALTER TABLE regions OWNER TO {0}",
        world.table_owner()
    ));
    let owner = world.db.login(&world.table_owner());
    (world, owner)
}

const ADD: &str = "ALTER TABLE sites ADD CONSTRAINT k FOREIGN KEY (server_id) REFERENCES servers";

fn break_rows(world: &World, sql: &str) {
    world.break_glass().run(sql);
}

#[test]
fn d6_a_key_is_not_added_over_references_that_cross() {
    let (world, mut owner) = world();
    break_rows(&world, "UPDATE sites SET server_id = 101 WHERE id = 2");
    let other = fails(owner.attempt(ADD), "23503");
    break_rows(&world, "UPDATE sites SET server_id = 999 WHERE id = 2");
    let missing = fails(owner.attempt(ADD), "23503");
    assert_same_error(&other, &missing, &[("999", "101")]);
    assert!(
        other
            .message()
            .contains("insert or update on table \"sites\" violates foreign key constraint \"k\""),
        "{other:?}"
    );
    // Nobody is told the other org's key.
    assert!(!format!("{other:?}").contains("101"), "{other:?}");
    let mut dba = world.superuser();
    assert_eq!(
        dba.count("SELECT count(*) FROM pg_constraint WHERE conname = 'k'"),
        0
    );
    // The same for a superuser, whose own check finds the missing row and not the crossing one.
    break_rows(&world, "UPDATE sites SET server_id = 101 WHERE id = 2");
    fails(dba.attempt(ADD), "23503");
    break_rows(&world, "UPDATE sites SET server_id = NULL WHERE id = 2");
    owner.run(ADD);
    assert_eq!(
        dba.count("SELECT count(*) FROM pg_constraint WHERE conname = 'k' AND convalidated"),
        1
    );
    // And the guard is there with the key.
    let mut admin = world.session("acme.admin");
    let other = fails(
        admin.attempt("UPDATE sites SET server_id = 101 WHERE id = 3"),
        "23503",
    );
    let missing = fails(
        admin.attempt("UPDATE sites SET server_id = 999 WHERE id = 3"),
        "23503",
    );
    assert_same_error(&other, &missing, &[("999", "101")]);
}

#[test]
fn d6_not_valid_then_validate() {
    let (world, mut owner) = world();
    break_rows(
        &world,
        "UPDATE sites SET server_id = 101 WHERE id = 2; UPDATE sites SET server_id = 999 WHERE id = 4",
    );
    owner.run(&format!("{ADD} NOT VALID"));
    // New rows are held to it, the old ones are not looked at yet.
    let mut admin = world.session("acme.admin");
    fails(
        admin.attempt("UPDATE sites SET server_id = 102 WHERE id = 3"),
        "23503",
    );
    owner.run("ALTER TABLE sites ADD COLUMN note text");
    fails(
        owner.attempt("ALTER TABLE sites VALIDATE CONSTRAINT k"),
        "23503",
    );
    admin.run("UPDATE sites SET server_id = 1 WHERE id = 2");
    fails(
        owner.attempt("ALTER TABLE sites VALIDATE CONSTRAINT k"),
        "23503",
    );
    admin.run("UPDATE sites SET server_id = 1 WHERE id = 4");
    owner.run("ALTER TABLE sites VALIDATE CONSTRAINT k");
    assert_eq!(
        world
            .superuser()
            .count("SELECT count(*) FROM pg_constraint WHERE conname = 'k' AND convalidated"),
        1
    );
}

#[test]
fn d6_in_a_column_of_its_own_in_a_transaction_and_to_lookup_tables() {
    let (world, mut owner) = world();
    let mut admin = world.session("acme.admin");
    // A savepoint's work counts, and is looked at once.
    owner.run("BEGIN; SAVEPOINT a");
    owner.run(ADD);
    owner.run("RELEASE a; ALTER TABLE sites ADD COLUMN x int; ALTER TABLE sites ADD COLUMN other int REFERENCES servers; COMMIT");
    fails(
        admin.attempt("UPDATE sites SET other = 101 WHERE id = 1"),
        "23503",
    );
    admin.run("UPDATE sites SET other = 2 WHERE id = 1");
    // A key to a table that is nobody's: PostgreSQL's check of the owner's sees no site either.
    break_rows(
        &world,
        "ALTER TABLE servers DROP CONSTRAINT servers_region_fkey; UPDATE servers SET region = 'xx' WHERE id = 101",
    );
    let add = "ALTER TABLE servers ADD CONSTRAINT r FOREIGN KEY (region) REFERENCES regions";
    fails(owner.attempt(add), "23503");
    break_rows(&world, "UPDATE servers SET region = NULL WHERE id = 101");
    owner.run(add);
}

#[test]
fn d6_full_matches_composite_keys_and_self_references() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE TABLE p (a int, b int, org_id uuid, up_a int, up_b int, PRIMARY KEY (a, b));
         INSERT INTO p VALUES (1, 1, '{0}', NULL, NULL), (2, 2, '{1}', NULL, NULL), (3, 3, '{0}', 1, 1);
         SELECT tenancy.protect('p'); ALTER TABLE p OWNER TO {2}",
        world.acme.id,
        world.globex.id,
        world.table_owner()
    ));
    let mut owner = world.db.login(&world.table_owner());
    let add = "ALTER TABLE p ADD CONSTRAINT up FOREIGN KEY (up_a, up_b) REFERENCES p MATCH FULL";
    for (values, refuse) in [
        ("2, 2", true),
        ("1, NULL", true),
        ("9, 9", true),
        ("3, 3", false),
    ] {
        break_rows(
            &world,
            &format!("UPDATE p SET (up_a, up_b) = ({values}) WHERE a = 3"),
        );
        if refuse {
            fails(owner.attempt(add), "23503");
        } else {
            owner.run(add);
        }
    }
}

#[test]
fn d6_between_partitioned_tables() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE TABLE p (id int PRIMARY KEY, org_id uuid) PARTITION BY RANGE (id);
         CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (1) TO (100);
         CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (100) TO (200);
         CREATE TABLE c (id int PRIMARY KEY, p int, org_id uuid) PARTITION BY HASH (id);
         CREATE TABLE c_0 PARTITION OF c FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE c_1 PARTITION OF c FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         INSERT INTO p VALUES (1, '{0}'), (101, '{1}'), (2, '{1}'); INSERT INTO c SELECT i, 1, '{0}' FROM generate_series(1, 6) i;
         SELECT tenancy.protect('p'); SELECT tenancy.protect('c')",
        world.acme.id, world.globex.id
    ));
    for table in ["p", "p_1", "p_2", "c", "c_0", "c_1"] {
        dba.run(&format!(
            "ALTER TABLE {table} OWNER TO {}",
            world.table_owner()
        ));
    }
    let mut owner = world.db.login(&world.table_owner());
    let add = "ALTER TABLE c ADD CONSTRAINT k FOREIGN KEY (p) REFERENCES p";
    for wrong in [2, 101, 99] {
        break_rows(&world, &format!("UPDATE c SET p = {wrong} WHERE id = 5"));
        fails(owner.attempt(add), "23503");
    }
    break_rows(&world, "UPDATE c SET p = 1 WHERE id = 5");
    owner.run(add);
    // A partition that brings rows of its own, protected before it came.
    dba.run(&format!(
        "ALTER TABLE c DETACH PARTITION c_1; ALTER TABLE c_1 DROP CONSTRAINT k;
         SET row_security = off; UPDATE c_1 SET p = 101 WHERE id = (SELECT min(id) FROM c_1); SET row_security = on;
         ALTER TABLE c_1 OWNER TO {0}; SELECT tenancy.bind_login('{0}', '{1}')",
        world.table_owner(),
        world.user("acme.admin")
    ));
    // Whose the rows are is not what refuses it.
    owner.run(&format!("SET app.current_org = '{}'", world.acme.id));
    let attach = "ALTER TABLE c ATTACH PARTITION c_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1)";
    fails(owner.attempt(attach), "23503");
    break_rows(&world, "UPDATE c_1 SET p = 1");
    owner.run(attach);
}

#[test]
fn a_key_added_in_break_glass_is_not_looked_at() {
    let (world, _) = world();
    let mut glass = world.break_glass();
    glass.run("UPDATE sites SET server_id = 101 WHERE id = 2");
    glass.run(ADD);
    assert_eq!(
        glass.count("SELECT count(*) FROM pg_constraint WHERE conname = 'k' AND convalidated"),
        1
    );
}
