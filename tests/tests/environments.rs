//! Environments of rows and production protection (spec 7): each rule as each role, as human, ai and service, on each path.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use pg_tenancy_tests::{Error, ROLES, Session, World, fails, refused};

/// Machines carry a tag, disks are of the environment of their machine, and notes carry a tag and go with their machine.
struct Stage {
    world: World,
}

const TABLES: &str = "
    CREATE TABLE machines (id int PRIMARY KEY, org_id uuid, name text NOT NULL DEFAULT 'm', environment text);
    CREATE TABLE disks (id int PRIMARY KEY, org_id uuid, size int DEFAULT 1,
        machine_id int REFERENCES machines ON UPDATE CASCADE ON DELETE CASCADE);
    CREATE TABLE notes (id int PRIMARY KEY, org_id uuid, tag text,
        machine_id int REFERENCES machines ON DELETE CASCADE);
    GRANT ALL ON machines, disks, notes TO PUBLIC;
    SELECT tenancy.protect('machines', environment_column => 'environment');
    SELECT tenancy.protect('disks', environment_from => 'machine_id');
    SELECT tenancy.protect('notes', environment_column => 'tag');";

impl Stage {
    fn new() -> Stage {
        let stage = Stage::open();
        stage.protect(true);
        stage
    }

    /// Nobody's production is protected.
    fn open() -> Stage {
        let world = World::people();
        world.superuser().run(TABLES);
        for (org, first) in [(world.acme, 0), (world.globex, 100)] {
            world.break_glass().run(&format!(
                "INSERT INTO machines (id, org_id, environment) VALUES
                     ({first} + 1, '{id}', 'production'), ({first} + 2, '{id}', 'staging'),
                     ({first} + 3, '{id}', 'production'), ({first} + 4, '{id}', NULL), ({first} + 5, '{id}', 'development');
                 INSERT INTO disks (id, org_id, machine_id) SELECT {first} + i, '{id}', {first} + i FROM generate_series(1, 5) i;",
                id = org.id
            ));
        }
        Stage { world }
    }

    fn protect(&self, enabled: bool) {
        let mut owner = self.world.session("acme.owner");
        owner.run(&format!(
            "SELECT tenancy.set_production_protection('{}', {enabled})",
            self.world.acme.id
        ));
    }

    fn owner(&self) -> Session {
        self.world.session("acme.owner")
    }

    fn admin(&self) -> Session {
        self.world.session("acme.admin")
    }

    /// The application in a transaction for a user, as an actor of a type.
    fn acting(&self, who: &str, actor: &str) -> Session {
        let mut app = self.world.app();
        self.world.begin(&mut app, self.world.acme, who);
        app.run(&format!("SET LOCAL app.actor_type = '{actor}'"));
        app
    }

    /// A superuser in acme, for COPY, which PostgreSQL refuses to others under row security.
    fn dba(&self, actor: &str) -> Session {
        let mut dba = self.world.superuser();
        dba.run(&format!(
            "SET app.current_org = '{}'; SET app.actor_type = '{actor}'",
            self.world.acme.id
        ));
        dba
    }

    fn machines(&self) -> String {
        self.world.hash("machines", self.world.acme)
    }
}

fn confirm(table: &str, key: &str) -> String {
    format!("SELECT tenancy.confirm_production_delete('{table}', '{key}', typed => '{key}')")
}

fn copy_in(session: &mut Session, lines: &str) -> Result<u64, Error> {
    let mut copy = session.copy_in("COPY machines (id, environment) FROM STDIN")?;
    std::io::Write::write_all(&mut copy, lines.as_bytes()).unwrap();
    copy.finish()
}

fn about_production(error: &pg_tenancy_tests::DbError) {
    assert!(error.message().contains("production row"), "{error:?}");
}

#[test]
fn an_unknown_tag_is_an_error_that_names_the_known_ones() {
    let stage = Stage::open();
    let acme = stage.world.acme.id;
    let mut admin = stage.admin();
    for sql in [
        "INSERT INTO machines (id, environment) VALUES (9, 'prodution')",
        "UPDATE machines SET environment = 'qa' WHERE id = 2",
        "UPDATE machines SET environment = 'Production' WHERE id = 2",
        "UPDATE machines SET environment = '' WHERE id = 2",
        "INSERT INTO machines (id, environment) VALUES (2, 'qa') ON CONFLICT (id) DO UPDATE SET environment = 'qa'",
        "MERGE INTO machines m USING (VALUES (2)) v (id) ON m.id = v.id WHEN MATCHED THEN UPDATE SET environment = 'qa'",
    ] {
        let error = refused(admin.attempt(sql), "22023");
        let detail = error.detail().unwrap();
        assert!(
            detail.contains("development, staging, production"),
            "{sql}: {detail}"
        );
    }
    fails(copy_in(&mut stage.dba("human"), "9\tqa\n"), "22023");
    // An organization's own tags are its own alone.
    admin.run(&format!(
        "SELECT tenancy.create_environment('{acme}', 'qa', 'staging')"
    ));
    admin.run("UPDATE machines SET environment = 'qa' WHERE id = 2");
    admin.run("UPDATE machines SET environment = NULL WHERE id = 5");
    let mut other = stage.world.session("globex.admin");
    let error = refused(
        other.attempt("UPDATE machines SET environment = 'qa' WHERE id = 102"),
        "22023",
    );
    assert!(!error.detail().unwrap().contains("qa"), "{error:?}");
    assert_eq!(
        admin.column(
            "SELECT name || ' ' || kind || ' ' || built_in FROM tenancy.environments ORDER BY 1"
        ),
        [
            "development development true",
            "production production true",
            "qa staging false",
            "staging staging true"
        ]
    );
    assert_eq!(other.count("SELECT count(*) FROM tenancy.environments"), 3);
}

#[test]
fn a_production_row_is_deleted_by_the_owner_in_person_who_confirmed_it() {
    for protected in [true, false] {
        for role in ROLES {
            for actor in ["human", "service"] {
                for confirmed in [true, false] {
                    let stage = Stage::open();
                    stage.protect(protected);
                    let before = stage.machines();
                    let mut session = stage.acting(&format!("acme.{role}"), actor);
                    let may_confirm = role == "owner" && actor == "human";
                    if confirmed {
                        let said = session.attempt_within(&confirm("machines", "1"));
                        if may_confirm {
                            said.unwrap();
                        } else {
                            refused(said, "42501");
                        }
                    }
                    let delete = session.attempt_within("DELETE FROM machines WHERE id = 1");
                    let may = role != "viewer" && (!protected || may_confirm && confirmed);
                    if may {
                        assert_eq!(delete.unwrap(), 1);
                    } else {
                        refused(delete, "42501");
                    }
                    // What is not production is anybody's who may write.
                    if role != "viewer" {
                        session.run("DELETE FROM machines WHERE id IN (2, 4, 5)");
                    }
                    session.run("COMMIT");
                    assert_eq!(
                        stage
                            .world
                            .break_glass()
                            .is_true("SELECT EXISTS (SELECT FROM machines WHERE id = 1)"),
                        !may,
                        "{role} {actor} {confirmed} {protected}"
                    );
                    if role == "viewer" {
                        assert_eq!(stage.machines(), before);
                    }
                }
            }
        }
    }
}

/// By itself; that no approval opens production is tested in proposals.rs.
#[test]
fn an_ai_actor_writes_no_production_row() {
    let stage = Stage::new();
    let before = (
        stage.machines(),
        stage.world.hash("disks", stage.world.acme),
    );
    for role in ROLES {
        for sql in [
            "INSERT INTO machines (id, environment) VALUES (9, 'production')",
            "UPDATE machines SET name = 'x' WHERE id = 1",
            "UPDATE machines SET environment = 'production' WHERE id = 2",
            "UPDATE machines SET environment = 'staging' WHERE id = 1",
            "DELETE FROM machines WHERE id = 1",
            "INSERT INTO machines (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET name = 'x'",
            "MERGE INTO machines m USING (VALUES (1)) v (id) ON m.id = v.id WHEN MATCHED THEN DELETE",
            "UPDATE disks SET size = 2 WHERE id = 1",
            "DELETE FROM disks WHERE id = 1",
            "UPDATE disks SET machine_id = 1 WHERE id = 2",
            "UPDATE disks SET machine_id = 2 WHERE id = 1",
            "INSERT INTO disks (id, machine_id) VALUES (9, 1)",
        ] {
            let mut ai = stage.acting(&format!("acme.{role}"), "ai");
            refused(ai.attempt(sql), "42501");
            ai.run("ROLLBACK");
        }
        let mut ai = stage.acting(&format!("acme.{role}"), "ai");
        refused(ai.attempt_within(&confirm("machines", "1")), "42501");
    }
    let file = stage.world.db.cluster.file("production");
    std::fs::write(&file, "9\tproduction\n").unwrap();
    let copy = format!("COPY machines (id, environment) FROM '{}'", file.display());
    refused(stage.dba("ai").attempt(&copy), "42501");
    assert_eq!(
        (
            stage.machines(),
            stage.world.hash("disks", stage.world.acme)
        ),
        before
    );
}

#[test]
fn taking_a_row_out_of_production_needs_what_its_deletion_needs() {
    let stage = Stage::new();
    let out = [
        "UPDATE machines SET environment = 'staging' WHERE id = 1",
        "UPDATE machines SET environment = NULL WHERE id = 1",
        "UPDATE machines SET environment = 'development', id = 70 WHERE id = 1",
        "UPDATE disks SET machine_id = 2 WHERE id = 1",
        "UPDATE disks SET machine_id = NULL WHERE id = 1",
        "INSERT INTO machines (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET environment = 'staging'",
        "MERGE INTO machines m USING (VALUES (1)) v (id) ON m.id = v.id WHEN MATCHED THEN UPDATE SET environment = 'staging'",
        "WITH w AS (UPDATE machines SET environment = 'staging' WHERE id = 1 RETURNING id) SELECT * FROM w",
    ];
    for sql in out {
        for (who, actor) in [
            ("acme.admin", "human"),
            ("acme.member", "human"),
            ("acme.owner", "service"),
            ("acme.owner", "human"),
        ] {
            let mut session = stage.acting(who, actor);
            about_production(&refused(session.attempt(sql), "42501"));
            session.run("ROLLBACK");
        }
        // The other table's row, or another row, does not help.
        let (right, wrong) = if sql.contains("disks") {
            ("disks", "machines")
        } else {
            ("machines", "disks")
        };
        let mut owner = stage.owner();
        owner.run("BEGIN");
        owner.run(&confirm(wrong, "1"));
        owner.run(&confirm(right, "3"));
        about_production(&refused(owner.attempt_within(sql), "42501"));
        owner.run(&confirm(right, "1"));
        owner.run(sql);
        owner.run("ROLLBACK");
    }
    // Everything else of a production row is as ever.
    let mut admin = stage.admin();
    admin.run("UPDATE machines SET name = 'renamed', environment = 'production' WHERE id = 1");
    admin.run("UPDATE machines SET environment = 'production' WHERE id = 2");
    admin.run("UPDATE machines SET id = 71 WHERE id = 1");
    admin.run("UPDATE disks SET machine_id = 3 WHERE id = 1");
    admin.run("INSERT INTO machines (id, environment) VALUES (9, 'production')");
}

#[test]
fn a_confirmation_is_for_one_row_and_one_time() {
    let stage = Stage::new();
    let mut owner = stage.owner();
    // Another row, and two rows, one confirmed.
    owner.run("BEGIN");
    owner.run(&confirm("machines", "1"));
    about_production(&refused(
        owner.attempt_within("DELETE FROM machines WHERE id = 3"),
        "42501",
    ));
    about_production(&refused(
        owner.attempt_within("DELETE FROM machines WHERE id IN (1, 3)"),
        "42501",
    ));
    // What a statement that failed used up is used up.
    about_production(&refused(
        owner.attempt_within("DELETE FROM machines WHERE id = 1"),
        "42501",
    ));
    owner.run(&confirm("machines", "1"));
    owner.run("DELETE FROM machines WHERE id = 1");
    owner.run("INSERT INTO machines (id, environment) VALUES (1, 'production')");
    about_production(&refused(
        owner.attempt_within("DELETE FROM machines WHERE id = 1"),
        "42501",
    ));
    owner.run("ROLLBACK");
    // The transaction's end, and a savepoint's.
    for end in ["COMMIT", "ROLLBACK"] {
        owner.run("BEGIN");
        owner.run(&confirm("machines", "1"));
        owner.run(end);
        about_production(&refused(
            owner.attempt("DELETE FROM machines WHERE id = 1"),
            "42501",
        ));
    }
    owner.run("BEGIN; SAVEPOINT a");
    owner.run(&confirm("machines", "1"));
    owner.run("ROLLBACK TO a");
    about_production(&refused(
        owner.attempt_within("DELETE FROM machines WHERE id = 1"),
        "42501",
    ));
    owner.run("SAVEPOINT b");
    owner.run(&confirm("machines", "1"));
    owner.run("RELEASE b; SAVEPOINT c");
    owner.run("DELETE FROM machines WHERE id = 1");
    owner.run("RELEASE c; ROLLBACK TO a");
    about_production(&refused(
        owner.attempt_within("DELETE FROM machines WHERE id = 1"),
        "42501",
    ));
    owner.run("ROLLBACK");
    owner.run(
        "BEGIN; DO $$ BEGIN PERFORM tenancy.confirm_production_delete('machines', '1', '1'); RAISE division_by_zero;
         EXCEPTION WHEN division_by_zero THEN NULL; END $$",
    );
    about_production(&refused(
        owner.attempt("DELETE FROM machines WHERE id = 1"),
        "42501",
    ));
    owner.run("ROLLBACK");
    // What it asks for itself.
    refused(owner.attempt(&confirm("machines", "1")), "25P01");
    owner.run("BEGIN");
    for (sql, code) in [
        (
            "SELECT tenancy.confirm_production_delete('machines', '1', typed => '3')".to_string(),
            "22023",
        ),
        (
            "SELECT tenancy.confirm_production_delete('machines', '1', typed => NULL)".to_string(),
            "22004",
        ),
        (confirm("machines", "99"), "P0002"),
        (confirm("machines", "101"), "P0002"),
    ] {
        refused(owner.attempt_within(&sql), code);
    }
    fails(owner.attempt_within(&confirm("machines", "one")), "22P02");
    refused(
        owner.attempt_within("SELECT tenancy.confirm_production_delete('pg_class', '1', '1')"),
        "55000",
    );
    owner.run("ROLLBACK");
    // It is written down.
    owner.run("BEGIN");
    owner.run(&confirm("machines", "3"));
    owner.run("DELETE FROM machines WHERE id = 3; COMMIT");
    assert_eq!(
        owner.column("SELECT operation || ' ' || key FROM tenancy.audit_log WHERE object = 'public.machines' AND key->>'id' = '3' AND operation <> 'INSERT' ORDER BY 1 DESC"),
        ["confirm_production_delete {\"id\": 3}", "DELETE {\"id\": 3}"]
    );
}

/// Where the DBA lets a transaction change its organization, a key that both use was confirmed for the first.
#[test]
fn a_confirmation_is_for_one_organization() {
    let stage = Stage::new();
    let world = &stage.world;
    let (globex, user) = (world.globex, world.user("acme.owner"));
    world.session("globex.owner").run(&format!(
        "SELECT tenancy.set_production_protection('{}', true)",
        globex.id
    ));
    world.superuser().run(&format!(
        "ALTER ROLE {} SET tenancy.one_org_per_transaction = off;
         SELECT tenancy.add_member('{org}', '{user}', 'admin');
         SELECT tenancy.transfer_ownership('{org}', '{user}')",
        world.db.role("app"),
        org = globex.id
    ));
    let mut app = stage.acting("acme.owner", "human");
    let (row, delete) = (
        |tag: &str| format!("INSERT INTO machines (id, environment) VALUES (50, '{tag}')"),
        "DELETE FROM machines WHERE id = 50",
    );
    app.run(&row("staging"));
    app.run(&confirm("machines", "50"));
    app.run(delete);
    app.run(&world.claim(globex, "acme.owner"));
    app.run(&row("production"));
    about_production(&refused(app.attempt_within(delete), "42501"));
    app.run(&confirm("machines", "50"));
    app.run(delete);
    app.run("ROLLBACK");
}

#[test]
fn the_confirmation_does_not_outlive_the_ownership() {
    let stage = Stage::new();
    let mut owner = stage.owner();
    owner.run("BEGIN");
    owner.run(&confirm("machines", "1"));
    stage.world.superuser().run(&format!(
        "SELECT tenancy.transfer_ownership('{}', '{}')",
        stage.world.acme.id,
        stage.world.user("acme.admin")
    ));
    about_production(&refused(
        owner.attempt("DELETE FROM machines WHERE id = 1"),
        "42501",
    ));
}

#[test]
fn d3_cascades_reach_no_production_row_that_nobody_confirmed() {
    let stage = Stage::new();
    let mut owner = stage.owner();
    owner.run("INSERT INTO notes (id, tag, machine_id) VALUES (1, 'production', 2), (2, 'staging', 2), (3, 'production', 1)");
    // A production row that goes with one that is not.
    about_production(&refused(
        stage.admin().attempt("DELETE FROM machines WHERE id = 2"),
        "42501",
    ));
    about_production(&refused(
        owner.attempt("DELETE FROM machines WHERE id = 2"),
        "42501",
    ));
    owner.run("BEGIN");
    owner.run(&confirm("notes", "1"));
    owner.run("DELETE FROM machines WHERE id = 2; COMMIT");
    // What has its environment from a row is confirmed with it; what has a tag of its own is not.
    owner.run("BEGIN");
    owner.run(&confirm("machines", "1"));
    about_production(&refused(
        owner.attempt_within("DELETE FROM machines WHERE id = 1"),
        "42501",
    ));
    owner.run(&confirm("machines", "1"));
    owner.run(&confirm("notes", "3"));
    owner.run("DELETE FROM machines WHERE id = 1; COMMIT");
    assert_eq!(
        owner.column("SELECT id FROM disks ORDER BY id"),
        ["3", "4", "5"]
    );
    // Those of a row that is not production go with it, by anybody.
    stage.admin().run("DELETE FROM machines WHERE id = 5");
    // A disk alone is production all the same.
    about_production(&refused(
        stage.admin().attempt("DELETE FROM disks WHERE id = 3"),
        "42501",
    ));
}

#[test]
fn a_row_stays_production_when_the_one_it_refers_to_changes_its_key() {
    let stage = Stage::new();
    // Without a cascade, the row is left behind for a moment.
    stage.world.superuser().run(
        "CREATE TABLE volumes (id int PRIMARY KEY, org_id uuid,
             machine_id int REFERENCES machines ON UPDATE NO ACTION DEFERRABLE INITIALLY DEFERRED);
         GRANT ALL ON volumes TO PUBLIC;
         SELECT tenancy.protect('volumes', environment_from => 'machine_id')",
    );
    let mut admin = stage.admin();
    admin.run("INSERT INTO volumes (id, machine_id) VALUES (1, 1), (2, 2)");
    admin.run("BEGIN; UPDATE machines SET id = 71 WHERE id = 1");
    for sql in [
        "UPDATE volumes SET machine_id = 2 WHERE id = 1",
        "DELETE FROM volumes WHERE id = 1",
    ] {
        about_production(&refused(admin.attempt_within(sql), "42501"));
    }
    admin.run("UPDATE volumes SET machine_id = 71 WHERE id = 1; COMMIT");
    // One of staging may go on.
    admin.run("BEGIN; UPDATE machines SET id = 72 WHERE id = 2; UPDATE volumes SET machine_id = 5 WHERE id = 2; COMMIT");
    // What a savepoint took back is not remembered.
    admin.run("BEGIN; INSERT INTO volumes (id, machine_id) VALUES (3, 5); SAVEPOINT a; DELETE FROM disks WHERE id = 5");
    admin.run("DELETE FROM machines WHERE id = 5");
    admin.run("ROLLBACK TO a; UPDATE machines SET environment = 'production' WHERE id = 5");
    about_production(&refused(
        admin.attempt_within("DELETE FROM volumes WHERE id = 3"),
        "42501",
    ));
    admin.run("ROLLBACK");
    // The disk follows its machine by itself, and is as much production as it.
    assert_eq!(
        admin.text("SELECT machine_id FROM disks WHERE id = 1"),
        "71"
    );
    about_production(&refused(
        admin.attempt("DELETE FROM disks WHERE id = 1"),
        "42501",
    ));
    // Nor is what a savepoint took back of a row that never was.
    admin.run(
        "BEGIN; SAVEPOINT a; INSERT INTO machines (id, environment) VALUES (81, 'staging'); DELETE FROM machines WHERE id = 81;
         INSERT INTO volumes (id, machine_id) VALUES (9, 81); DELETE FROM volumes WHERE id = 9",
    );
    admin.run("ROLLBACK TO a; INSERT INTO volumes (id, machine_id) VALUES (9, 81)");
    about_production(&refused(
        admin.attempt_within("DELETE FROM volumes WHERE id = 9"),
        "42501",
    ));
    admin.run("ROLLBACK");
    // A reference to nothing yet: an AI may not, since nobody knows what it will be.
    let mut owner = stage.owner();
    owner.run("BEGIN; INSERT INTO volumes (id, machine_id) VALUES (8, 80)");
    about_production(&refused(
        owner.attempt_within("DELETE FROM volumes WHERE id = 8"),
        "42501",
    ));
    owner.run("INSERT INTO machines (id, environment) VALUES (80, 'staging'); DELETE FROM volumes WHERE id = 8; COMMIT");
}

#[test]
fn retagging_a_parent_is_for_who_may_delete_it() {
    let stage = Stage::new();
    about_production(&refused(
        stage
            .admin()
            .attempt("UPDATE machines SET environment = 'staging' WHERE id = 1"),
        "42501",
    ));
    let mut owner = stage.owner();
    owner.run("BEGIN");
    owner.run(&confirm("machines", "1"));
    owner.run("UPDATE machines SET environment = 'staging' WHERE id = 1; COMMIT");
    stage.admin().run("DELETE FROM disks WHERE id = 1");
}

fn partitioned(stage: &Stage) {
    stage.world.superuser().run(
        "CREATE TABLE jobs (id int, org_id uuid, environment text, v int, PRIMARY KEY (id, environment)) PARTITION BY LIST (environment);
         CREATE TABLE jobs_production PARTITION OF jobs FOR VALUES IN ('production') PARTITION BY RANGE (id);
         CREATE TABLE jobs_production_low PARTITION OF jobs_production FOR VALUES FROM (0) TO (100);
         CREATE TABLE jobs_production_high PARTITION OF jobs_production FOR VALUES FROM (100) TO (200);
         CREATE TABLE jobs_other PARTITION OF jobs DEFAULT;
         GRANT ALL ON jobs, jobs_production, jobs_production_low, jobs_production_high, jobs_other TO PUBLIC;
         SELECT tenancy.protect('jobs', environment_column => 'environment')",
    );
    stage.admin().run("INSERT INTO jobs (id, environment) VALUES (1, 'production'), (2, 'staging'), (3, 'production')");
}

#[test]
fn c1_a_row_that_moves_to_another_partition_is_held_like_one_that_stays() {
    let stage = Stage::new();
    partitioned(&stage);
    let mut admin = stage.admin();
    let mut owner = stage.owner();
    let key = "{\"id\": 1, \"environment\": \"production\"}";
    for table in ["jobs", "jobs_production"] {
        let out = format!("UPDATE {table} SET environment = 'staging' WHERE id = 1");
        if table == "jobs" {
            about_production(&refused(admin.attempt(&out), "42501"));
            about_production(&refused(owner.attempt(&out), "42501"));
        }
        owner.run("BEGIN");
        owner.run(&confirm(table, key));
        if table == "jobs" {
            about_production(&refused(
                owner.attempt_within("UPDATE jobs SET environment = 'staging' WHERE id = 3"),
                "42501",
            ));
            owner.run(&out);
        } else {
            owner.run("DELETE FROM jobs_production_low WHERE id = 1");
        }
        owner.run("ROLLBACK");
    }
    for sql in [
        "DELETE FROM jobs_production_low WHERE id = 1",
        "DELETE FROM jobs_production WHERE id = 1",
        "DELETE FROM jobs",
    ] {
        about_production(&refused(admin.attempt(sql), "42501"));
    }
    // From one production partition to the other, and into production.
    admin.run("UPDATE jobs SET id = 150 WHERE id = 3");
    admin.run("UPDATE jobs SET environment = 'production' WHERE id = 2");
    for table in ["jobs", "jobs_production_low"] {
        let mut ai = stage.acting("acme.admin", "ai");
        refused(
            ai.attempt(&format!("UPDATE {table} SET v = 1 WHERE id = 1")),
            "42501",
        );
    }
    // A trigger that swallows what arrives.
    stage.world.superuser().run(
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER swallow BEFORE INSERT ON jobs_production_high FOR EACH ROW EXECUTE FUNCTION swallow()",
    );
    for sql in [
        "UPDATE jobs SET id = 151 WHERE id = 1",
        "BEGIN; UPDATE jobs SET id = 151 WHERE id = 1; UPDATE jobs SET v = 1; COMMIT",
    ] {
        about_production(&refused(admin.attempt(sql), "42501"));
        admin.attempt("ROLLBACK").unwrap();
    }
    assert_eq!(
        admin.column("SELECT id FROM jobs ORDER BY id"),
        ["1", "2", "150"]
    );
}

#[test]
fn the_key_of_several_columns_is_an_object() {
    let stage = Stage::new();
    partitioned(&stage);
    let mut owner = stage.owner();
    owner.run("BEGIN");
    for key in [
        "1",
        "{}",
        "{\"id\": 1}",
        "[1]",
        "{\"id\": 1, \"environment\": \"production\", \"v\": 1}",
    ] {
        refused(owner.attempt_within(&confirm("jobs", key)), "22023");
    }
    owner.run(&confirm(
        "jobs",
        "{\"environment\": \"production\", \"id\": \"1\"}",
    ));
    owner.run("DELETE FROM jobs WHERE id = 1; COMMIT");
    stage.world.superuser().run(
        "CREATE TABLE heap (v int, org_id uuid, environment text); GRANT ALL ON heap TO PUBLIC;
         SELECT tenancy.protect('heap', environment_column => 'environment')",
    );
    owner.run("INSERT INTO heap (v, environment) VALUES (1, 'production')");
    owner.run("BEGIN");
    refused(owner.attempt_within(&confirm("heap", "1")), "55000");
    about_production(&refused(owner.attempt("DELETE FROM heap"), "42501"));
}

#[test]
fn c10_no_path_of_writing_passes_by() {
    let stage = Stage::new();
    stage.world.superuser().run(
        "CREATE TABLE doors (id int PRIMARY KEY, org_id uuid); GRANT ALL ON doors TO PUBLIC; SELECT tenancy.protect('doors');
         CREATE FUNCTION sweep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM machines WHERE id = 1; RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON doors DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sweep();
         CREATE TRIGGER now AFTER INSERT ON doors FOR EACH ROW EXECUTE FUNCTION sweep();
         CREATE FUNCTION lent() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'DELETE FROM machines WHERE id = 1';
         CREATE VIEW windows WITH (security_invoker = true) AS SELECT * FROM machines; GRANT ALL ON windows TO PUBLIC",
    );
    let before = stage.machines();
    let mut admin = stage.admin();
    admin.run("BEGIN");
    admin
        .attempt_within("SELECT lent()")
        .expect_err("a definer's function");
    for sql in [
        "INSERT INTO doors VALUES (1)",
        "DELETE FROM windows WHERE id = 1",
        "DELETE FROM ONLY machines WHERE ctid IN (SELECT ctid FROM machines WHERE id = 1)",
        "DO $$ BEGIN DELETE FROM machines WHERE id = 1; END $$",
        "PREPARE p AS DELETE FROM machines WHERE id = $1; EXECUTE p(1)",
        "DECLARE c CURSOR FOR SELECT * FROM machines WHERE id = 1 FOR UPDATE; FETCH c; DELETE FROM machines WHERE CURRENT OF c",
        "MERGE INTO machines m USING (VALUES (1)) v (id) ON m.id = v.id WHEN MATCHED THEN DELETE",
    ] {
        about_production(&refused(admin.attempt_within(sql), "42501"));
    }
    admin.run("COMMIT");
    // At commit.
    stage
        .world
        .superuser()
        .run("ALTER TABLE doors DISABLE TRIGGER now");
    admin.run("INSERT INTO doors VALUES (1); BEGIN; UPDATE doors SET id = 2");
    about_production(&refused(admin.attempt("COMMIT"), "42501"));
    // In replica mode.
    let mut dba = stage.world.superuser();
    dba.run(&format!(
        "SET session_replication_role = replica; SET app.current_org = '{}'",
        stage.world.acme.id
    ));
    about_production(&refused(
        dba.attempt("DELETE FROM machines WHERE id = 1"),
        "42501",
    ));
    dba.run("SET row_security = on");
    about_production(&refused(
        dba.attempt("UPDATE machines SET environment = 'staging' WHERE id = 1"),
        "42501",
    ));
    assert_eq!(stage.machines(), before);
    // The DBA's glass is there to be broken.
    assert_eq!(
        stage
            .world
            .break_glass()
            .run("DELETE FROM machines WHERE id = 1"),
        1
    );
}

#[test]
fn c13_parallel_readers_and_cursors_do_not_carry_a_confirmation_over() {
    let stage = Stage::new();
    // A pooled connection: the next client's transaction has none of it.
    let mut app = stage.acting("acme.owner", "human");
    app.run(&confirm("machines", "1"));
    app.run("COMMIT");
    stage.world.begin(&mut app, stage.world.acme, "acme.owner");
    about_production(&refused(
        app.attempt("DELETE FROM machines WHERE id = 1"),
        "42501",
    ));
    app.run("ROLLBACK");
    // Nor has the one of another organization.
    stage
        .world
        .session("globex.owner")
        .run("DELETE FROM machines WHERE id = 101");
}

#[test]
fn the_protection_is_the_owners_to_set_and_a_persons_to_lift() {
    let stage = Stage::open();
    let set = |on: bool| {
        format!(
            "SELECT tenancy.set_production_protection('{}', {on})",
            stage.world.acme.id
        )
    };
    for role in &ROLES[1..] {
        for on in [true, false] {
            refused(
                stage
                    .world
                    .session(&format!("acme.{role}"))
                    .attempt(&set(on)),
                "42501",
            );
        }
    }
    let stranger = refused(
        stage.world.session("globex.owner").attempt(&set(false)),
        "42501",
    );
    assert!(
        stranger.message().contains("does not exist"),
        "{stranger:?}"
    );
    for (actor, on, may) in [
        ("ai", true, false),
        ("ai", false, false),
        ("service", true, true),
        ("service", false, false),
        ("human", false, true),
        ("human", true, true),
    ] {
        let mut session = stage.acting("acme.owner", actor);
        let said = session.attempt(&set(on));
        if may {
            said.unwrap();
            session.run("COMMIT");
        } else {
            refused(said, "42501");
        }
    }
    // Nobody else's.
    stage
        .world
        .session("globex.admin")
        .run("DELETE FROM machines WHERE id = 101");
    about_production(&refused(
        stage.owner().attempt("DELETE FROM machines WHERE id = 1"),
        "42501",
    ));
    // It holds from the next statement of an open session, in an open transaction.
    let mut admin = stage.admin();
    stage.protect(false);
    admin.run("BEGIN ISOLATION LEVEL REPEATABLE READ; UPDATE machines SET name = 'x' WHERE id = 1");
    stage.protect(true);
    about_production(&refused(
        admin.attempt("DELETE FROM machines WHERE id = 3"),
        "42501",
    ));
    admin.run("ROLLBACK");
    assert_eq!(
        stage.owner().column("SELECT operation || ' ' || (new->>'production_protection') FROM tenancy.audit_log WHERE operation = 'set_production_protection' ORDER BY n"),
        ["true", "false", "true", "false", "true"].map(|on| format!("set_production_protection {on}"))
    );
}

#[test]
fn an_organizations_own_tags_are_kept_by_who_may_change_it() {
    let stage = Stage::new();
    let acme = stage.world.acme.id;
    let create = |name: &str, kind: &str| {
        format!("SELECT tenancy.create_environment('{acme}', '{name}', '{kind}')")
    };
    let drop = |name: &str| format!("SELECT tenancy.drop_environment('{acme}', '{name}')");
    for role in ["member", "viewer"] {
        refused(
            stage
                .world
                .session(&format!("acme.{role}"))
                .attempt(&create("live", "production")),
            "42501",
        );
    }
    refused(
        stage
            .world
            .session("globex.owner")
            .attempt(&create("live", "production")),
        "42501",
    );
    refused(
        stage
            .acting("acme.owner", "ai")
            .attempt(&create("live", "production")),
        "42501",
    );
    let mut admin = stage.admin();
    for (name, kind) in [
        ("live", "prod"),
        ("production", "staging"),
        ("production", "production"),
        ("Production", "staging"),
        ("", "staging"),
        (" x", "staging"),
    ] {
        refused(admin.attempt(&create(name, kind)), "22023");
    }
    admin.run(&create("live", "production"));
    refused(admin.attempt(&create("live", "staging")), "23505");
    admin.run("INSERT INTO machines (id, environment) VALUES (9, 'live')");
    about_production(&refused(
        admin.attempt("DELETE FROM machines WHERE id = 9"),
        "42501",
    ));
    // A tag that rows carry stays what it is.
    refused(admin.attempt(&drop("live")), "2BP01");
    refused(admin.attempt(&drop("staging")), "P0002");
    assert_eq!(
        admin
            .attempt("UPDATE tenancy.org_environments SET kind = 'staging'")
            .unwrap_err()
            .code()
            .unwrap()
            .code(),
        "42501"
    );
    // One that nobody knows is production, and to say otherwise is the owner's.
    stage.world.break_glass().run(&format!(
        "INSERT INTO machines (id, org_id, environment) VALUES (10, '{acme}', 'strange')"
    ));
    about_production(&refused(
        admin.attempt("DELETE FROM machines WHERE id = 10"),
        "42501",
    ));
    refused(admin.attempt(&create("strange", "staging")), "42501");
    refused(
        stage
            .acting("acme.owner", "service")
            .attempt(&create("strange", "staging")),
        "42501",
    );
    stage.owner().run(&create("strange", "staging"));
    admin.run("DELETE FROM machines WHERE id = 10");
    admin.run(&drop("strange"));
    assert_eq!(
        stage
            .world
            .session("globex.admin")
            .count("SELECT count(*) FROM tenancy.org_environments"),
        0
    );
}

#[test]
fn what_protect_asks_of_an_environment() {
    let stage = Stage::open();
    let mut dba = stage.world.superuser();
    dba.run(
        "CREATE TYPE env AS ENUM ('development', 'production', 'lab');
         CREATE TABLE e (id int PRIMARY KEY, org_id uuid, n int, environment env, short varchar(20), machine_id int REFERENCES machines, other int)",
    );
    for (options, code) in [
        ("environment_column => 'nothing'", "42703"),
        ("environment_column => 'n'", "42804"),
        ("environment_from => 'other'", "55000"),
        ("environment_from => 'nothing'", "42703"),
        (
            "environment_column => 'short', environment_from => 'machine_id'",
            "22023",
        ),
    ] {
        refused(
            dba.attempt(&format!("SELECT tenancy.protect('e', {options})")),
            code,
        );
    }
    dba.run(
        "SELECT tenancy.protect('e', environment_column => 'short'); SELECT tenancy.unprotect('e')",
    );
    dba.run("SELECT tenancy.protect('e', environment_column => 'environment'); GRANT ALL ON e TO PUBLIC");
    refused(dba.attempt("SELECT tenancy.protect('e')"), "42710");
    assert_eq!(
        dba.column("SELECT concat_ws(' ', table_name, environment_column, environment_from) FROM tenancy.protected_tables ORDER BY 1"),
        ["disks machine_id", "e environment", "machines environment", "notes tag"]
    );
    stage.protect(true);
    let mut admin = stage.admin();
    admin.run("INSERT INTO e (id, environment) VALUES (1, 'production'), (2, 'development')");
    refused(
        admin.attempt("INSERT INTO e (id, environment) VALUES (3, 'lab')"),
        "22023",
    );
    about_production(&refused(
        admin.attempt("DELETE FROM e WHERE id = 1"),
        "42501",
    ));
    admin.run("DELETE FROM e WHERE id = 2");
    // What the record names stays, and so does the table that others have it from.
    for sql in [
        "ALTER TABLE machines RENAME environment TO tag",
        "ALTER TABLE machines DROP environment",
        "ALTER TABLE machines ALTER environment TYPE bytea USING environment::bytea",
        "ALTER TABLE disks RENAME machine_id TO m",
        "ALTER TABLE disks DROP CONSTRAINT disks_machine_id_fkey",
    ] {
        refused(dba.attempt(sql), "55000");
    }
    refused(dba.attempt("SELECT tenancy.unprotect('machines')"), "2BP01");
    dba.run("SELECT tenancy.unprotect('disks'); SELECT tenancy.unprotect('machines')");
}

/// Deletions race with the owner who turns the protection on: none that begins afterwards succeeds.
#[test]
fn f_many_clients_and_the_moment_of_protection() {
    const CLIENTS: usize = 16;
    let stage = Stage::open();
    stage.world.break_glass().run(&format!(
        "INSERT INTO machines (id, org_id, environment) SELECT 1000 + i, '{}', 'production' FROM generate_series(0, 7999) i",
        stage.world.acme.id
    ));
    let on = AtomicBool::new(false);
    let start = Barrier::new(CLIENTS + 1);
    let (mut early, mut late_refused) = (0, 0);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (stage, on, start) = (&stage, &on, &start);
                scope.spawn(move || {
                    let mut session = stage.admin();
                    start.wait();
                    let (mut early, mut late) = (0, 0);
                    for i in 0..500 {
                        let after = on.load(Ordering::SeqCst);
                        let id = 1000 + client * 500 + i;
                        match session.attempt(&format!("DELETE FROM machines WHERE id = {id}")) {
                            Ok(_) => {
                                assert!(!after, "deleted {id} after the protection was on");
                                early += 1;
                            }
                            Err(error) => {
                                about_production(&refused(Err::<(), _>(error), "42501"));
                                late += 1;
                                if late > 20 {
                                    break;
                                }
                            }
                        }
                    }
                    (early, late)
                })
            })
            .collect();
        start.wait();
        std::thread::sleep(std::time::Duration::from_millis(200));
        stage.protect(true);
        on.store(true, Ordering::SeqCst);
        for client in clients {
            let (e, l) = client.join().unwrap();
            early += e;
            late_refused += l;
        }
    });
    assert!(
        early > 0 && late_refused > 0,
        "{early} before, {late_refused} after"
    );
}
