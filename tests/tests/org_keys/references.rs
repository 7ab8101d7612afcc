//! Foreign keys between tables whose organization columns are of the same type, or of different ones.

use super::stage::{KINDS, Stage};
use pg_tenancy_tests::{World, assert_same_error, fails};

#[test]
fn d1_d2_another_organizations_row_is_a_missing_one() {
    for kind in KINDS {
        let stage = Stage::new(kind);
        let mut admin = stage.admin();
        admin.run("INSERT INTO tasks (id, project) VALUES (10, 2), (11, NULL)");
        let foreign = fails(
            admin.attempt("INSERT INTO tasks (id, project) VALUES (12, 101)"),
            "23503",
        );
        let missing = fails(
            admin.attempt("INSERT INTO tasks (id, project) VALUES (12, 999)"),
            "23503",
        );
        assert_same_error(&foreign, &missing, &[("999", "101")]);
        let foreign = fails(
            admin.attempt("UPDATE tasks SET project = 102 WHERE id = 1"),
            "23503",
        );
        let missing = fails(
            admin.attempt("UPDATE tasks SET project = 998 WHERE id = 1"),
            "23503",
        );
        assert_same_error(&foreign, &missing, &[("998", "102")]);
        // Many at once, the same parents again and again.
        assert_eq!(admin.run("INSERT INTO tasks (id, project) SELECT 1000 + i, 1 + i % 3 FROM generate_series(1, 500) i"), 500);
        fails(admin.attempt("INSERT INTO tasks (id, project) SELECT 2000 + i, CASE i WHEN 499 THEN 103 ELSE 1 END FROM generate_series(1, 500) i"), "23503");
        // D3: cascades stay within.
        let theirs = stage.hash(&stage.globex);
        assert_eq!(admin.run("UPDATE projects SET id = 40 WHERE id = 1"), 1);
        assert_eq!(admin.run("DELETE FROM projects"), 3);
        assert_eq!(admin.count("SELECT count(*) FROM tasks"), 1);
        assert_eq!(stage.hash(&stage.globex), theirs);
    }
}

#[test]
fn d4_deferred_keys_and_d7_locked_parents() {
    for kind in KINDS {
        let stage = Stage::new(kind);
        let mut dba = stage.world.superuser();
        dba.run(
            "ALTER TABLE tasks ALTER CONSTRAINT tasks_project_fkey DEFERRABLE INITIALLY DEFERRED",
        );
        let mut admin = stage.admin();
        admin.run("BEGIN; INSERT INTO tasks (id, project) VALUES (10, 60); INSERT INTO projects (id) VALUES (60); COMMIT");
        admin.run("BEGIN");
        admin.run("INSERT INTO tasks (id, project) VALUES (11, 101)");
        let foreign = fails(admin.attempt("COMMIT"), "23503");
        admin.run("BEGIN");
        admin.run("INSERT INTO tasks (id, project) VALUES (11, 999)");
        let missing = fails(admin.attempt("COMMIT"), "23503");
        assert_same_error(&foreign, &missing, &[("999", "101")]);
        // A parent that turns up under another organization before commit.
        admin.run("BEGIN; INSERT INTO tasks (id, project) VALUES (11, 777)");
        let mut globex = stage.world.session("globex.admin");
        globex.run("INSERT INTO projects (id) VALUES (777)");
        fails(admin.attempt("COMMIT"), "23503");
        // Another organization's locked parent is refused at once.
        dba.run("ALTER TABLE tasks ALTER CONSTRAINT tasks_project_fkey NOT DEFERRABLE");
        globex.run("BEGIN; UPDATE projects SET id = 105 WHERE id = 101");
        admin.run("SET lock_timeout = '2s'");
        fails(
            admin.attempt("INSERT INTO tasks (id, project) VALUES (12, 101)"),
            "23503",
        );
        globex.run("ROLLBACK");
    }
}

/// Tables p_0 to p_4 and c_0 to c_4, one of each type; each child has a key to every parent.
fn every_pair() -> (World, Vec<[String; 2]>) {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(&format!(
        "SELECT tenancy.set_external_key('{}', '7'); SELECT tenancy.set_external_key('{}', '8')",
        world.acme.id, world.globex.id
    ));
    let mut keys = vec![];
    for (i, kind) in KINDS.iter().enumerate() {
        let of = |id: pg_tenancy_tests::Uuid, key: &str| match kind.sql {
            "uuid" => format!("'{id}'"),
            _ => format!("'{key}'"),
        };
        let [acme, globex] = [of(world.acme.id, "7"), of(world.globex.id, "8")];
        dba.run(&format!(
            "CREATE TABLE p_{i} (id int PRIMARY KEY, org {0}); INSERT INTO p_{i} VALUES (1, {acme}), (2, {globex})",
            kind.sql
        ));
        keys.push([acme, globex]);
    }
    for (i, kind) in KINDS.iter().enumerate() {
        let columns: Vec<String> = (0..5)
            .map(|p| format!("p_{p} int REFERENCES p_{p} ON DELETE CASCADE"))
            .collect();
        dba.run(&format!(
            "CREATE TABLE c_{i} (id int PRIMARY KEY, org {}, {})",
            kind.sql,
            columns.join(", ")
        ));
    }
    dba.run("GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC");
    (world, keys)
}

#[test]
fn columns_of_different_types_are_compared_as_organizations() {
    let (world, _) = every_pair();
    let mut dba = world.superuser();
    dba.run("SELECT tenancy.protect_schema('public', 'org')");
    let mut admin = world.session("acme.admin");
    for c in 0..5 {
        for p in 0..5 {
            let insert =
                |parent: i32| format!("INSERT INTO c_{c} (id, p_{p}) VALUES ({p}, {parent})");
            admin.run(&insert(1));
            admin.run(&format!("DELETE FROM c_{c}"));
            let foreign = fails(admin.attempt(&insert(2)), "23503");
            let missing = fails(admin.attempt(&insert(9)), "23503");
            assert_same_error(&foreign, &missing, &[("9", "2")]);
        }
        admin.run(&format!(
            "INSERT INTO c_{c} (id, p_0, p_1, p_2, p_3, p_4) VALUES (1, 1, 1, 1, 1, 1)"
        ));
    }
    // An organization that has no key in the parent's type has no rows there, and refers to none.
    let mut bare = world.bound("stranger");
    let org = dba.text(&format!(
        "SELECT tenancy.create_org('Bare', 'bare', owner => '{}')",
        world.user("stranger")
    ));
    bare.run(&format!("SET app.current_org = '{org}'"));
    for p in 1..5 {
        let foreign = fails(
            bare.attempt(&format!("INSERT INTO c_0 (id, p_{p}) VALUES (50, 1)")),
            "23503",
        );
        let missing = fails(
            bare.attempt(&format!("INSERT INTO c_0 (id, p_{p}) VALUES (50, 9)")),
            "23503",
        );
        assert_same_error(&foreign, &missing, &[("9", "1")]);
    }
    // Cascades go on across types.
    assert_eq!(admin.run("DELETE FROM p_3"), 1);
    for c in 0..5 {
        assert_eq!(
            world
                .break_glass()
                .count(&format!("SELECT count(*) FROM c_{c}")),
            0
        );
    }
}

#[test]
fn references_that_cross_are_found_before_anything_is_changed() {
    let (world, keys) = every_pair();
    let mut dba = world.superuser();
    for (c, [acme, globex]) in keys.iter().enumerate() {
        for p in 0..5 {
            dba.run(&format!("DELETE FROM c_{c}; INSERT INTO c_{c} (id, org, p_{p}) VALUES (1, {acme}, 1), (2, {globex}, 2)"));
            dba.run("BEGIN");
            dba.run(&format!(
                "SELECT tenancy.protect('p_{p}', 'org'); SELECT tenancy.protect('c_{c}', 'org')"
            ));
            dba.run("ROLLBACK");
            dba.run(&format!(
                "INSERT INTO c_{c} (id, org, p_{p}) VALUES (3, {acme}, 2)"
            ));
            // Whichever of the two comes last finds it.
            for (first, last) in [("c", "p"), ("p", "c")] {
                let name = |which: &str| {
                    if which == "c" {
                        format!("c_{c}")
                    } else {
                        format!("p_{p}")
                    }
                };
                dba.run("BEGIN");
                dba.run(&format!("SELECT tenancy.protect('{}', 'org')", name(first)));
                let error = fails(
                    dba.attempt(&format!("SELECT tenancy.protect('{}', 'org')", name(last))),
                    "23503",
                );
                assert!(error.message().contains("1 rows of"), "{error:?}");
                dba.run("ROLLBACK");
            }
            dba.run(&format!("DELETE FROM c_{c}"));
        }
    }
}

#[test]
fn d6_a_key_that_is_added_is_checked_across_types() {
    let (world, keys) = every_pair();
    let mut dba = world.superuser();
    for (c, [acme, globex]) in keys.iter().enumerate() {
        dba.run(&format!(
            "INSERT INTO c_{c} (id, org) VALUES (1, {acme}), (2, {globex})"
        ));
    }
    dba.run("SELECT tenancy.protect_schema('public', 'org')");
    for c in 0..5 {
        for p in 0..5 {
            dba.run(&format!(
                "ALTER TABLE c_{c} DROP CONSTRAINT c_{c}_p_{p}_fkey"
            ));
            let mut glass = world.break_glass();
            glass.run(&format!("UPDATE c_{c} SET p_{p} = id"));
            let add =
                format!("ALTER TABLE c_{c} ADD CONSTRAINT k FOREIGN KEY (p_{p}) REFERENCES p_{p}");
            dba.run(&format!("{add}; ALTER TABLE c_{c} DROP CONSTRAINT k"));
            glass.run(&format!("UPDATE c_{c} SET p_{p} = 1"));
            fails(dba.attempt(&add), "23503");
        }
    }
}
