//! Rows that a project's member reads and may not write: an error that says so on every way of writing and locking, and of
//! rows that he does not see nothing is said (spec 5.4, 9).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use pg_tenancy_tests::{Session, World, fails, refused};

/// Acme's viewer is operator of `mine`, reads `open` by his role in the organization and `closed` by one in the project, and
/// does not see `hidden`; he is operator of `spare`, which is empty. The others have three tasks, of ids from 1, 11, 21 and 31; globex has one of id 101.
struct Tasks {
    world: World,
    projects: Vec<String>,
}

const PROJECTS: [(&str, &str); 5] = [
    ("mine", "restricted"),
    ("open", "open"),
    ("closed", "restricted"),
    ("hidden", "restricted"),
    ("spare", "restricted"),
];

const TABLE: &str = "
    CREATE TABLE tasks (id int PRIMARY KEY, org_id uuid, project_id uuid, n int NOT NULL DEFAULT 0, note text);
    CREATE VIEW listed WITH (security_invoker = true) AS SELECT * FROM tasks;
    GRANT ALL ON tasks, listed TO PUBLIC;";

fn tasks() -> Tasks {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(TABLE);
    let mut projects = vec![];
    for (i, (name, access)) in PROJECTS.into_iter().enumerate() {
        let project = dba.text(&format!(
            "SELECT tenancy.create_project('{}', '{name}', '{access}')",
            world.acme.id
        ));
        dba.run(&format!(
            "INSERT INTO tasks SELECT {i} * 10 + k, '{}', '{project}', 0, 'of {name}' FROM generate_series(1, {}) k",
            world.acme.id,
            if name == "spare" { 0 } else { 3 }
        ));
        projects.push(project);
    }
    let theirs = dba.text(&format!(
        "SELECT tenancy.create_project('{}', 'theirs')",
        world.globex.id
    ));
    dba.run(&format!(
        "INSERT INTO tasks VALUES (101, '{}', '{theirs}', 0, 'of theirs');
         ALTER TABLE tasks OWNER TO {};
         SELECT tenancy.protect('tasks', project_column => 'project_id')",
        world.globex.id,
        world.table_owner()
    ));
    let tasks = Tasks { world, projects };
    tasks.join(0, "project_operator");
    tasks.join(2, "project_viewer");
    tasks.join(4, "project_operator");
    tasks
}

impl Tasks {
    fn join(&self, project: usize, role: &str) {
        self.world.superuser().run(&format!(
            "SELECT tenancy.add_project_member('{}', '{}', '{role}')",
            self.projects[project],
            self.world.user("acme.viewer")
        ));
    }

    fn become_role(&self, project: usize, role: &str) {
        self.world.superuser().run(&format!(
            "SELECT tenancy.set_project_role('{}', '{}', '{role}')",
            self.projects[project],
            self.world.user("acme.viewer")
        ));
    }

    fn viewer(&self) -> Session {
        let mut viewer = self.world.session("acme.viewer");
        // Loads the library, as enter() does: what plans before it is there filters in silence.
        viewer.run("SELECT tenancy.current_org()");
        viewer
    }

    fn written(&self) -> Vec<String> {
        self.world
            .break_glass()
            .column("SELECT id FROM tasks WHERE n <> 0 ORDER BY id")
    }
}

/// Every way to write or lock the task # that tells how many rows it met.
const WAYS: [&str; 17] = [
    "UPDATE tasks SET n = 1 WHERE id = #",
    "UPDATE listed SET n = n + 1 WHERE id = # RETURNING note",
    "UPDATE tasks t SET n = v.n FROM (VALUES (#, 5)) v (id, n) WHERE t.id = v.id",
    "DELETE FROM tasks WHERE id = #",
    "DELETE FROM tasks t USING (VALUES (#)) v (id) WHERE t.id = v.id RETURNING t.id",
    "SELECT id FROM tasks WHERE id = # FOR UPDATE",
    "SELECT id FROM tasks WHERE id = # FOR NO KEY UPDATE NOWAIT",
    "SELECT id FROM tasks WHERE id = # FOR SHARE",
    "SELECT id FROM listed WHERE id = # FOR KEY SHARE SKIP LOCKED",
    "SELECT * FROM (SELECT id FROM tasks WHERE id = # ORDER BY note LIMIT 1 FOR UPDATE) s",
    "WITH x AS (SELECT * FROM tasks WHERE id = # FOR UPDATE) SELECT id FROM x",
    "WITH x AS (UPDATE tasks SET n = 1 WHERE id = # RETURNING id) SELECT id FROM x",
    "WITH x AS MATERIALIZED (DELETE FROM tasks WHERE id = # RETURNING id) SELECT id FROM x",
    "SELECT 1 FROM (VALUES (#)) v (id) WHERE v.id IN (SELECT id FROM tasks WHERE id = # FOR SHARE)",
    "SELECT 1 WHERE EXISTS (SELECT FROM tasks WHERE id = # FOR UPDATE)",
    "MERGE INTO tasks t USING (VALUES (#)) v (id) ON t.id = v.id WHEN MATCHED THEN UPDATE SET n = 1",
    "MERGE INTO tasks t USING (VALUES (#)) v (id) ON t.id = v.id WHEN MATCHED THEN DELETE",
];

#[test]
fn c8_what_is_read_and_not_written_is_refused_and_what_is_hidden_is_nothing() {
    let t = tasks();
    let mut viewer = t.viewer();
    viewer.run("BEGIN");
    for way in WAYS {
        let on = |id: i32| way.replace('#', &id.to_string());
        viewer.run("SAVEPOINT mine");
        assert_eq!(viewer.run(&on(1)), 1, "{way}");
        viewer.run("ROLLBACK TO mine");
        for (id, project, role) in [
            (11, "open", "no role in the project"),
            (21, "closed", "Role \"project_viewer\""),
        ] {
            let error = refused(viewer.attempt_within(&on(id)), "42501");
            assert!(
                error.message().contains("data:write")
                    && error.message().contains("\"viewer\"")
                    && error
                        .message()
                        .contains(&format!("in project \"{project}\"")),
                "{way}: {error:?}"
            );
            assert!(error.detail().unwrap().contains(role), "{way}: {error:?}");
        }
        // A hidden project's, another organization's, none.
        for id in [31, 101, 999] {
            assert_eq!(viewer.run(&on(id)), 0, "{way} {id}");
        }
    }
    viewer.run("COMMIT");
    // An upsert meets a row by its key; one that is hidden is refused as PostgreSQL does it, and nothing of it is said.
    let upsert = |id: i32| {
        format!(
            "INSERT INTO tasks (id, project_id) VALUES ({id}, '{}') ON CONFLICT (id) DO UPDATE SET n = 1",
            t.projects[0]
        )
    };
    assert_eq!(viewer.run(&upsert(1)), 1);
    for (id, project) in [(11, "open"), (21, "closed")] {
        let error = refused(viewer.attempt(&upsert(id)), "42501");
        assert!(error.message().contains(project), "{error:?}");
    }
    let hidden = fails(viewer.attempt(&upsert(31)), "42501");
    let said = format!("{hidden:?}");
    assert!(
        !said.contains(&t.projects[3])
            && !said.contains("\"hidden\"")
            && !said.contains("in project"),
        "{said}"
    );
    assert_eq!(t.written(), ["1"]);
    // The role in the project is enough for all of it.
    t.become_role(2, "project_operator");
    for way in WAYS {
        viewer.run("BEGIN");
        assert_eq!(viewer.run(&way.replace('#', "21")), 1, "{way}");
        viewer.run("ROLLBACK");
    }
}

#[test]
fn rows_that_a_statement_does_not_mean_are_in_nobodys_way() {
    let t = tasks();
    let mut viewer = t.viewer();
    assert_eq!(
        viewer.run("UPDATE tasks SET n = 1 WHERE note = 'of mine'"),
        3
    );
    // Conditions that are no index's, joins and sorts come before a row is asked for.
    viewer
        .run("SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_nestloop = off");
    for join in ["on", "off"] {
        viewer.run(&format!("SET enable_hashjoin = {join}"));
        assert_eq!(
            viewer.column(
                "SELECT t.id FROM tasks t JOIN (VALUES (1), (31), (2)) v (id) ON v.id = t.id ORDER BY 1 FOR UPDATE OF t"
            ),
            ["1", "2"]
        );
    }
    let first =
        |order: &str| format!("SELECT id FROM tasks ORDER BY id {order} LIMIT 1 FOR UPDATE");
    assert_eq!(viewer.column(&first("ASC")), ["1"]);
    refused(viewer.attempt(&first("DESC")), "42501");
    // The other side of a join is read, and not locked.
    assert_eq!(
        viewer.run(
            "SELECT 1 FROM tasks a JOIN tasks b ON b.id = a.id + 20 WHERE a.id = 1 FOR UPDATE OF a"
        ),
        1
    );
    refused(
        viewer.attempt(
            "SELECT 1 FROM tasks a JOIN tasks b ON b.id = a.id + 20 WHERE a.id = 1 FOR UPDATE",
        ),
        "42501",
    );
    // An UPDATE may read what it does not write.
    assert_eq!(
        viewer.run("UPDATE tasks a SET n = b.n FROM tasks b WHERE b.id = a.id + 20 AND a.id = 1"),
        1
    );
    // What an UPDATE reads for itself is filtered before the session's own functions see it.
    viewer.run("CREATE TEMPORARY SEQUENCE peeks");
    viewer.run("UPDATE tasks SET n = 1 WHERE nextval('peeks') > 0 AND id < 10");
    assert!(viewer.count("SELECT last_value FROM peeks") <= 9);
}

#[test]
fn a_statement_that_reads_nothing_meets_what_is_read_or_written() {
    let t = tasks();
    let mut viewer = t.viewer();
    for all in ["UPDATE tasks SET n = 7", "DELETE FROM tasks"] {
        refused(viewer.attempt(all), "42501");
        viewer.run("BEGIN; SET LOCAL app.current_project = 'mine'");
        assert_eq!(viewer.run(all), 3);
        viewer.run("ROLLBACK");
    }
    // Where nothing is read that is not written, it writes that, and no hidden row.
    let mut dba = t.world.superuser();
    dba.run(&format!(
        "SELECT tenancy.set_project_access('{}', 'restricted');
         SELECT tenancy.remove_project_member('{}', '{}')",
        t.projects[1],
        t.projects[2],
        t.world.user("acme.viewer")
    ));
    assert_eq!(viewer.run("UPDATE tasks SET n = 7"), 3);
    assert_eq!(t.written(), ["1", "2", "3"]);
    // A role may write what it does not read.
    let acme = t.world.acme.id;
    dba.run(&format!(
        "SELECT tenancy.set_project_access('{}', 'open');
         SELECT tenancy.create_role('{acme}', 'blind');
         SELECT tenancy.grant_permission('{acme}', 'blind', 'data:write');
         SELECT tenancy.set_member_role('{acme}', '{}', 'blind')",
        t.projects[1],
        t.world.user("acme.viewer")
    ));
    assert_eq!(viewer.run("UPDATE tasks SET n = 8"), 6);
    assert_eq!(viewer.run("UPDATE tasks SET n = 9 WHERE id = 11"), 0);
    assert_eq!(t.written(), ["1", "2", "3", "11", "12", "13"]);
}

#[test]
fn partitions_refuse_alike() {
    let t = tasks();
    let mut dba = t.world.superuser();
    dba.run(
        "CREATE TABLE parts (id int, org_id uuid, project_id uuid, n int, more int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
         CREATE TABLE low (more int, project_id uuid, id int NOT NULL, n int, org_id uuid);
         ALTER TABLE parts ATTACH PARTITION low FOR VALUES FROM (0) TO (20);
         CREATE TABLE high PARTITION OF parts FOR VALUES FROM (20) TO (99);
         GRANT ALL ON parts, low, high TO PUBLIC;
         SET row_security = off; INSERT INTO parts SELECT id, org_id, project_id, n FROM tasks WHERE id < 99; RESET row_security;
         SELECT tenancy.protect('parts', project_column => 'project_id')",
    );
    let mut viewer = t.viewer();
    for (table, id, met) in [
        ("parts", 1, Some(1)),
        ("low", 1, Some(1)),
        ("parts", 11, None),
        ("low", 11, None),
        ("parts", 21, None),
        ("high", 21, None),
        ("parts", 31, Some(0)),
        ("high", 31, Some(0)),
    ] {
        for way in [
            format!("UPDATE {table} SET n = 1 WHERE id = {id}"),
            format!("SELECT n FROM {table} WHERE id = {id} FOR UPDATE"),
            format!("DELETE FROM {table} WHERE id = {id}"),
            format!(
                "MERGE INTO {table} t USING (VALUES ({id})) v (id) ON t.id = v.id WHEN MATCHED THEN UPDATE SET n = 1"
            ),
        ] {
            viewer.run("BEGIN");
            match met {
                Some(rows) => assert_eq!(viewer.run(&way), rows, "{way}"),
                None => {
                    let error = refused(viewer.attempt(&way), "42501");
                    assert!(error.message().contains("in project"), "{way}: {error:?}");
                }
            }
            viewer.run("ROLLBACK");
        }
    }
}

/// Runs a statement of the viewer's while another session holds task 1, and lets go after `change`.
fn while_held(
    t: &Tasks,
    statement: &'static str,
    change: impl Fn(&mut Session),
) -> Result<u64, postgres::Error> {
    let mut admin = t.world.session("acme.admin");
    admin.run("BEGIN; SELECT FROM tasks WHERE id = 1 FOR UPDATE");
    let mut viewer = t.viewer();
    let pid = viewer.text("SELECT pg_backend_pid()");
    let waiting = thread::spawn(move || viewer.attempt(statement));
    let mut dba = t.world.superuser();
    while !dba.is_true(&format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock')"
    )) {
        thread::sleep(Duration::from_millis(5));
    }
    change(&mut admin);
    admin.run("COMMIT");
    waiting.join().unwrap()
}

#[test]
fn a10_what_became_of_row_and_role_during_a_wait_counts() {
    for statement in [
        "UPDATE tasks SET n = 1 WHERE id = 1",
        "DELETE FROM tasks WHERE id = 1",
        "SELECT id FROM tasks WHERE id = 1 FOR UPDATE",
        "MERGE INTO tasks t USING (VALUES (1)) v (id) ON t.id = v.id WHEN MATCHED THEN UPDATE SET n = 1",
    ] {
        let t = tasks();
        let to = |project: usize| {
            let sql = format!(
                "UPDATE tasks SET project_id = '{}' WHERE id = 1",
                t.projects[project]
            );
            move |admin: &mut Session| {
                admin.run(&sql);
            }
        };
        let error = refused(while_held(&t, statement, to(2)), "42501");
        assert!(
            error.message().contains("in project \"closed\""),
            "{statement}: {error:?}"
        );
        t.world.session("acme.admin").run(&format!(
            "UPDATE tasks SET project_id = '{}' WHERE id = 1",
            t.projects[0]
        ));
        match while_held(&t, statement, to(3)) {
            Ok(rows) => assert_eq!(rows, 0, "{statement}"),
            // MERGE does not look at the policies of a row again that changed while it waited; what it says must tell nothing.
            Err(error) => {
                let said = format!("{:?}", error.as_db_error().unwrap());
                assert!(
                    statement.starts_with("MERGE")
                        && !said.contains("\"hidden\"")
                        && !said.contains(&t.projects[3]),
                    "{statement}: {said}"
                );
            }
        }
        t.world.session("acme.admin").run(&format!(
            "UPDATE tasks SET project_id = '{}' WHERE id = 1",
            t.projects[0]
        ));
        let revoked = while_held(&t, statement, |_| t.become_role(0, "project_viewer"));
        // A row that is only locked, and did not change, was looked at before the wait.
        if !statement.starts_with("SELECT") {
            refused(revoked, "42501");
        }
        assert!(t.written().is_empty(), "{statement}");
    }
}

#[test]
fn sixteen_clients_write_or_are_refused_and_never_pass_in_silence() {
    let t = Arc::new(tasks());
    let done = Arc::new(AtomicU64::new(0));
    let refusals = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..16)
        .map(|client| {
            let (t, done, refusals) = (t.clone(), done.clone(), refusals.clone());
            thread::spawn(move || {
                let mut viewer = t.viewer();
                for _ in 0..30 {
                    let id = 1 + client % 3;
                    match viewer.attempt(&format!("UPDATE tasks SET n = n + 1 WHERE id = {id}")) {
                        Ok(rows) => {
                            assert_eq!(rows, 1, "a silent zero");
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        error => {
                            refused(error, "42501");
                            refusals.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            })
        })
        .collect();
    let mut turn = 0;
    while !clients.iter().all(|client| client.is_finished()) {
        t.become_role(0, ["project_viewer", "project_operator"][turn % 2]);
        turn += 1;
        thread::sleep(Duration::from_millis(10));
    }
    for client in clients {
        client.join().unwrap();
    }
    let sum = t.world.break_glass().count("SELECT sum(n) FROM tasks");
    assert_eq!(sum as u64, done.load(Ordering::Relaxed));
    assert!(sum > 0 && refusals.load(Ordering::Relaxed) > 0, "{sum}");
}
