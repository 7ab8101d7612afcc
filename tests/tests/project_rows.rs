//! Rows of projects and clusters: the second and third boundary in data, on every way that a row is read or written (spec 9).

use std::sync::{Arc, Barrier};

use pg_tenancy_tests::{Session, World, assert_same_error, fails, refused};

const NOBODYS: &str = "00000000-0000-4000-8000-000000000001";

/// Servers with a project and a cluster column, and disks that refer to them. Acme has the projects `open` and `closed`, each
/// with a cluster and three servers of ids from 1 and 11; globex has `theirs` with servers from 101.
struct Rows {
    world: World,
    open: String,
    closed: String,
    theirs: String,
    eu: String,
    inner: String,
    foreign: String,
}

const TABLES: &str = r#"
    CREATE TABLE servers (
        id int PRIMARY KEY, org_id uuid, project_id uuid, cluster_id uuid, name text NOT NULL, cpus int NOT NULL DEFAULT 1,
        firewall_rules text NOT NULL DEFAULT 'deny all');
    CREATE TABLE disks (
        id int PRIMARY KEY, org_id uuid, project_id uuid,
        server_id int REFERENCES servers ON UPDATE CASCADE ON DELETE CASCADE);
    CREATE INDEX ON disks (server_id);
    GRANT ALL ON servers, disks TO PUBLIC;"#;
const PROTECT: &str = r#"
    SELECT tenancy.protect('servers', project_column => 'project_id', cluster_column => 'cluster_id',
        permissions => '{"select": "server:read", "insert": "server:create", "update": "server:update",
                         "delete": "server:delete", "columns": {"firewall_rules": "server:firewall"}}');
    SELECT tenancy.protect('disks', project_column => 'project_id');"#;

fn rows() -> Rows {
    let world = World::people();
    let mut dba = world.superuser();
    let mut project = |org: pg_tenancy_tests::Org, name: &str, access: &str| {
        let project = dba.text(&format!(
            "SELECT tenancy.create_project('{}', '{name}', '{access}')",
            org.id
        ));
        let cluster = dba.text(&format!(
            "SELECT tenancy.create_cluster('{project}', 'of {name}')"
        ));
        (project, cluster)
    };
    let (open, eu) = project(world.acme, "open", "open");
    let (closed, inner) = project(world.acme, "closed", "restricted");
    let (theirs, foreign) = project(world.globex, "theirs", "open");
    dba.run(TABLES);
    for (org, project, cluster, first) in [
        (world.acme, &open, &eu, 0),
        (world.acme, &closed, &inner, 10),
        (world.globex, &theirs, &foreign, 100),
    ] {
        dba.run(&format!(
            "INSERT INTO servers (id, org_id, project_id, cluster_id, name)
                 SELECT {first} + i, '{id}', '{project}', CASE WHEN i = 3 THEN NULL ELSE '{cluster}' END::uuid, 's' || i
                 FROM generate_series(1, 3) i;
             INSERT INTO disks (id, org_id, project_id, server_id)
                 SELECT {first} + i, '{id}', '{project}', {first} + i FROM generate_series(1, 3) i",
            id = org.id
        ));
    }
    let owner = world.table_owner();
    dba.run(&format!(
        "ALTER TABLE servers OWNER TO {owner}; ALTER TABLE disks OWNER TO {owner}"
    ));
    dba.run(PROTECT);
    Rows {
        world,
        open,
        closed,
        theirs,
        eu,
        inner,
        foreign,
    }
}

impl Rows {
    fn add(&self, project: &str, who: &str, role: &str) {
        self.world.superuser().run(&format!(
            "SELECT tenancy.add_project_member('{project}', '{}', '{role}')",
            self.world.user(who)
        ));
    }

    fn session(&self, who: &str) -> Session {
        self.world.session(who)
    }
}

fn ids(session: &mut Session) -> Vec<String> {
    session.column("SELECT id FROM servers ORDER BY id")
}

const OPEN: [&str; 3] = ["1", "2", "3"];
const CLOSED: [&str; 3] = ["11", "12", "13"];

#[test]
fn rows_of_a_restricted_project_are_its_members_alone() {
    let r = rows();
    for who in ["acme.owner", "acme.admin"] {
        assert_eq!(ids(&mut r.session(who)), [OPEN, CLOSED].concat(), "{who}");
    }
    for who in ["acme.member", "acme.viewer"] {
        let mut session = r.session(who);
        assert_eq!(ids(&mut session), OPEN, "{who}");
        // No condition of his own comes first (attack E1).
        session.run("CREATE TEMPORARY SEQUENCE peeks");
        session.rows("SELECT * FROM servers WHERE nextval('peeks') > 0");
        assert_eq!(session.count("SELECT last_value FROM peeks"), 3, "{who}");
        assert_eq!(session.count("SELECT count(*) FROM disks"), 3);
    }
    assert_eq!(ids(&mut r.session("globex.owner")), ["101", "102", "103"]);
    assert!(ids(&mut r.session("stranger")).is_empty());
    // In, and out again, at the next statement, through a prepared one too.
    let mut member = r.session("acme.member");
    let statement = |session: &mut Session| session.column("EXECUTE reading");
    member.run("PREPARE reading AS SELECT id FROM servers ORDER BY id");
    member.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    for _ in 0..7 {
        assert_eq!(statement(&mut member), OPEN);
    }
    r.add(&r.closed, "acme.member", "project_viewer");
    assert_eq!(statement(&mut member), [OPEN, CLOSED].concat());
    r.world.superuser().run(&format!(
        "SELECT tenancy.remove_project_member('{}', '{}')",
        r.closed,
        r.world.user("acme.member")
    ));
    assert_eq!(statement(&mut member), OPEN);
    r.world.superuser().run(&format!(
        "SELECT tenancy.set_project_access('{}', 'restricted')",
        r.open
    ));
    assert!(statement(&mut member).is_empty());
    member.run("COMMIT");
}

#[test]
fn the_strict_rule_hides_rows_from_owner_and_admins() {
    let r = rows();
    let acme = r.world.acme.id;
    let mut owner = r.session("acme.owner");
    // Sessions that know the rule as it was.
    let mut admin = r.session("acme.admin");
    for session in [&mut owner, &mut admin] {
        assert_eq!(ids(session), [OPEN, CLOSED].concat());
    }
    owner.run(&format!(
        "SELECT tenancy.set_strict_project_access('{acme}', true)"
    ));
    assert_eq!(ids(&mut owner), OPEN);
    assert_eq!(ids(&mut admin), OPEN);
    refused(
        owner.attempt(&format!(
            "INSERT INTO servers (id, project_id, name) VALUES (20, '{}', 'x')",
            r.closed
        )),
        "42501",
    );
    r.add(&r.closed, "acme.owner", "project_viewer");
    assert_eq!(ids(&mut owner), [OPEN, CLOSED].concat());
    assert_eq!(owner.run("UPDATE servers SET cpus = 2 WHERE id < 10"), 3);
    let error = refused(
        owner.attempt("UPDATE servers SET cpus = 2 WHERE id > 10"),
        "42501",
    );
    assert!(
        error.message().contains("in project \"closed\""),
        "{error:?}"
    );
}

#[test]
fn a_project_role_adds_rights_in_its_project_and_nowhere_else() {
    let r = rows();
    let insert = |id: i32, project: &str| {
        format!("INSERT INTO servers (id, project_id, name) VALUES ({id}, '{project}', 'new')")
    };
    let mut member = r.session("acme.member");
    // A member may not create servers; without any project where he may, the statement says so at once.
    refused(member.attempt(&insert(20, &r.open)), "42501");
    r.add(&r.closed, "acme.member", "project_admin");
    assert_eq!(member.run(&insert(20, &r.closed)), 1);
    let error = refused(member.attempt(&insert(21, &r.open)), "42501");
    assert!(error.message().contains("in project \"open\""), "{error:?}");
    let of_closed = format!("WHERE project_id = '{}'", r.closed);
    assert_eq!(
        member.run(&format!("UPDATE servers SET cpus = 7 {of_closed}")),
        4
    );
    assert_eq!(
        member.run(&format!(
            "UPDATE servers SET firewall_rules = 'mine' {of_closed}"
        )),
        4
    );
    refused(member.attempt("UPDATE servers SET cpus = 7"), "42501");
    assert_eq!(member.run("DELETE FROM servers WHERE name = 'new'"), 1);
    // An operator reads and writes data, and has no server's firewall; a viewer reads.
    r.add(&r.open, "acme.viewer", "project_operator");
    let mut operator = r.session("acme.viewer");
    let disk = |id: i32, project: &str, server: i32| {
        format!(
            "INSERT INTO disks (id, project_id, server_id) VALUES ({id}, '{project}', {server})"
        )
    };
    assert_eq!(operator.run(&disk(20, &r.open, 1)), 1);
    refused(
        operator.attempt("UPDATE servers SET firewall_rules = 'x'"),
        "42501",
    );
    refused(operator.attempt(&insert(30, &r.open)), "42501");
    // COPY and MERGE ask the same.
    r.add(&r.closed, "acme.viewer", "project_viewer");
    for act in [
        disk(21, &r.closed, 11),
        format!(
            "MERGE INTO disks d USING (VALUES (50)) v (id) ON d.id = v.id
             WHEN NOT MATCHED THEN INSERT (id, project_id) VALUES (v.id, '{}')",
            r.closed
        ),
        format!("UPDATE disks SET project_id = '{}' WHERE id = 1", r.closed),
    ] {
        let error = refused(operator.attempt(&act), "42501");
        assert!(error.message().contains("closed"), "{act}: {error:?}");
    }
    assert_eq!(
        operator.run("UPDATE disks SET server_id = 2 WHERE id = 1"),
        1
    );
    refused(
        operator.attempt("UPDATE disks SET server_id = 12 WHERE id = 11"),
        "42501",
    );
}

#[test]
fn a_rows_project_is_of_its_organization_and_its_cluster_of_its_project_on_every_way() {
    let r = rows();
    let mut admin = r.session("acme.admin");
    let insert = |project: &str, cluster: &str| {
        format!(
            "INSERT INTO servers (id, project_id, cluster_id, name) VALUES (50, '{project}', '{cluster}', 'x')"
        )
    };
    // Another organization's project, and a missing one: the same.
    let theirs = refused(admin.attempt(&insert(&r.theirs, &r.foreign)), "23503");
    let none = refused(admin.attempt(&insert(NOBODYS, &r.foreign)), "23503");
    assert_same_error(&theirs, &none, &[(NOBODYS, &r.theirs)]);
    // And a hidden one, to who may create servers somewhere.
    r.add(&r.open, "acme.member", "project_admin");
    let mut member = r.session("acme.member");
    let hidden = refused(member.attempt(&insert(&r.closed, &r.inner)), "23503");
    let none = refused(member.attempt(&insert(NOBODYS, &r.inner)), "23503");
    assert_same_error(&hidden, &none, &[(NOBODYS, &r.closed)]);
    // Clusters likewise: another project's, another organization's, none.
    let other = refused(admin.attempt(&insert(&r.open, &r.inner)), "23503");
    let none = refused(admin.attempt(&insert(&r.open, NOBODYS)), "23503");
    assert_same_error(&other, &none, &[(NOBODYS, &r.inner)]);
    let theirs = refused(admin.attempt(&insert(&r.open, &r.foreign)), "23503");
    assert_same_error(&theirs, &none, &[(NOBODYS, &r.foreign)]);
    for act in [
        format!(
            "UPDATE servers SET project_id = '{}' WHERE id = 3",
            r.theirs
        ),
        format!("UPDATE servers SET project_id = '{NOBODYS}' WHERE id = 3"),
        format!("UPDATE servers SET cluster_id = '{}' WHERE id = 1", r.inner),
        // Its cluster stays behind.
        format!(
            "UPDATE servers SET project_id = '{}' WHERE id = 1",
            r.closed
        ),
        format!(
            "INSERT INTO servers (id, project_id, name) VALUES (1, '{}', 'x')
             ON CONFLICT (id) DO UPDATE SET project_id = EXCLUDED.project_id, cluster_id = NULL",
            r.theirs
        ),
        format!(
            "MERGE INTO servers s USING (VALUES (1)) v (id) ON s.id = v.id
             WHEN MATCHED THEN UPDATE SET project_id = '{}', cluster_id = NULL",
            r.theirs
        ),
    ] {
        refused(admin.attempt(&act), "23503");
    }
    for act in [
        "UPDATE servers SET project_id = NULL WHERE id = 1",
        "INSERT INTO servers (id, name) VALUES (51, 'nowhere')",
    ] {
        refused(admin.attempt(act), "23502");
    }
    // Between projects of the organization a row may move, by who may write in both.
    assert_eq!(
        admin.run(&format!(
            "UPDATE servers SET project_id = '{}', cluster_id = '{}' WHERE id = 1",
            r.closed, r.inner
        )),
        1
    );
    // A superuser who is in no break-glass, and replica mode, pass no more than others do.
    let mut dba = r.world.superuser();
    dba.run(&format!("SET app.current_org = '{}'", r.world.acme.id));
    refused(dba.attempt(&insert(&r.theirs, &r.foreign)), "23503");
    // COPY, which PostgreSQL refuses to those who may not bypass row security.
    use std::io::Write;
    let mut copy = |project: &str| {
        let mut writer = dba
            .copy_in("COPY servers (id, project_id, name) FROM STDIN")
            .unwrap();
        writer
            .write_all(format!("60\t{project}\tcopied\n").as_bytes())
            .unwrap();
        writer.finish()
    };
    fails(copy(&r.theirs), "23503");
    assert_eq!(copy(&r.open).unwrap(), 1);
    dba.run("SET session_replication_role = replica");
    refused(dba.attempt(&insert(&r.theirs, &r.foreign)), "23503");
    dba.run("SET session_replication_role = origin; SET row_security = off");
    dba.run(&format!(
        "INSERT INTO servers (id, org_id, project_id, name) VALUES (70, '{}', '{}', 'glass')",
        r.world.acme.id, r.theirs
    ));
}

#[test]
fn d5_a_trigger_fired_by_a_cascade_writes_no_row_into_another_organizations_project() {
    let r = rows();
    let mut dba = r.world.superuser();
    let owner = r.world.table_owner();
    dba.run(&format!(
        "GRANT CREATE ON SCHEMA public TO {owner}; SET ROLE {owner};
         CREATE FUNCTION stray() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO disks (id, org_id, project_id) VALUES (900, OLD.org_id, '{}'); RETURN OLD; END $$;
         CREATE TRIGGER stray BEFORE DELETE ON disks FOR EACH ROW EXECUTE FUNCTION stray(); RESET ROLE",
        r.theirs
    ));
    let mut admin = r.session("acme.admin");
    refused(admin.attempt("DELETE FROM servers WHERE id = 1"), "23503");
    dba.run("DROP TRIGGER stray ON disks");
    assert_eq!(admin.run("DELETE FROM servers WHERE id = 1"), 1);
    assert_eq!(admin.count("SELECT count(*) FROM disks WHERE id = 1"), 0);
}

#[test]
fn a_cascade_needs_the_right_on_the_parent_only() {
    let r = rows();
    // A disk of the closed project at a server of the open one.
    r.session("acme.admin").run(&format!(
        "INSERT INTO disks (id, project_id, server_id) VALUES (80, '{}', 1)",
        r.closed
    ));
    r.add(&r.open, "acme.member", "project_admin");
    let mut member = r.session("acme.member");
    assert_eq!(member.run("UPDATE servers SET id = 6 WHERE id = 1"), 1);
    assert_eq!(member.run("DELETE FROM servers WHERE id = 6"), 1);
    assert_eq!(
        r.session("acme.admin")
            .count("SELECT count(*) FROM disks WHERE id = 80"),
        0
    );
}

#[test]
fn d3_a_cascade_moves_no_row_between_projects_without_the_right_in_both() {
    let r = rows();
    let mut dba = r.world.superuser();
    let acme = r.world.acme.id;
    let (open, closed) = (&r.open, &r.closed);
    dba.run(&format!(
        "CREATE TABLE labels (id uuid PRIMARY KEY, org_id uuid);
         CREATE TABLE notes (id int PRIMARY KEY, org_id uuid, project uuid REFERENCES labels ON UPDATE CASCADE);
         GRANT ALL ON labels, notes TO PUBLIC;
         INSERT INTO labels VALUES ('{closed}', '{acme}'); INSERT INTO notes VALUES (1, '{acme}', '{closed}');
         SELECT tenancy.protect('labels'); SELECT tenancy.protect('notes', project_column => 'project')"
    ));
    let mut member = r.session("acme.member");
    let rename =
        |from: &str, to: &str| format!("UPDATE labels SET id = '{to}' WHERE id = '{from}'");
    let notes = "SELECT count(*) FROM notes";
    assert_eq!(member.count(notes), 0);
    // Out of one that he does not see.
    refused(member.attempt(&rename(closed, open)), "42501");
    // Into it, which is no more than into one that is not there.
    let mut admin = r.session("acme.admin");
    assert_eq!(admin.run(&rename(closed, open)), 1);
    assert_eq!(member.count(notes), 1);
    let hidden = fails(member.attempt(&rename(open, closed)), "23503");
    let none = fails(member.attempt(&rename(open, NOBODYS)), "23503");
    assert_same_error(&hidden, &none, &[(NOBODYS, closed)]);
    assert_eq!(admin.run(&rename(open, closed)), 1);
    assert_eq!(member.count(notes), 0);
}

#[test]
fn d2_a_reference_to_a_row_of_a_hidden_project_fails_like_one_to_nothing() {
    let r = rows();
    r.add(&r.open, "acme.viewer", "project_operator");
    let mut viewer = r.session("acme.viewer");
    let refer = |server: i32| {
        format!(
            "INSERT INTO disks (id, project_id, server_id) VALUES (90, '{}', {server})",
            r.open
        )
    };
    let hidden = fails(viewer.attempt(&refer(11)), "23503");
    let theirs = fails(viewer.attempt(&refer(101)), "23503");
    let none = fails(viewer.attempt(&refer(999)), "23503");
    assert_same_error(&theirs, &none, &[("999", "101")]);
    assert_same_error(&hidden, &none, &[("999", "11")]);
    let hidden = fails(
        viewer.attempt("UPDATE disks SET server_id = 11 WHERE id = 1"),
        "23503",
    );
    let none = fails(
        viewer.attempt("UPDATE disks SET server_id = 999 WHERE id = 1"),
        "23503",
    );
    assert_same_error(&hidden, &none, &[("999", "11")]);
    // Who sees the other project may.
    assert_eq!(r.session("acme.admin").run(&refer(11)), 1);
}

#[test]
fn a_session_narrows_itself_to_a_project_and_a_cluster() {
    let r = rows();
    let mut admin = r.session("acme.admin");
    admin.run("SET app.current_project = 'closed'");
    assert_eq!(ids(&mut admin), CLOSED);
    assert_eq!(admin.count("SELECT count(*) FROM disks"), 3);
    // The columns fill themselves.
    admin.run("INSERT INTO servers (id, name) VALUES (30, 'x')");
    assert!(admin.is_true(&format!(
        "SELECT project_id = '{}' AND cluster_id IS NULL FROM servers WHERE id = 30",
        r.closed
    )));
    let other = format!(
        "INSERT INTO servers (id, project_id, name) VALUES (31, '{}', 'x')",
        r.open
    );
    let error = refused(admin.attempt(&other), "42501");
    assert!(error.message().contains("in effect"), "{error:?}");
    assert_eq!(admin.run("UPDATE servers SET cpus = 3"), 4);
    admin.run("SET app.current_cluster = 'of closed'");
    assert_eq!(ids(&mut admin), ["11", "12"]);
    admin.run("INSERT INTO servers (id, name) VALUES (32, 'x')");
    assert!(admin.is_true(&format!(
        "SELECT cluster_id = '{}' FROM servers WHERE id = 32",
        r.inner
    )));
    // A table without clusters shows the project's rows.
    assert_eq!(admin.count("SELECT count(*) FROM disks"), 3);
    admin.run("RESET app.current_cluster; SET app.current_project = 'theirs'");
    assert!(ids(&mut admin).is_empty());
    let theirs = refused(admin.attempt(&other), "42501");
    admin.run("SET app.current_project = 'no such'");
    let none = refused(admin.attempt(&other), "42501");
    assert_same_error(&theirs, &none, &[]);
    admin.run("RESET app.current_project");
    assert_eq!(admin.count("SELECT count(*) FROM servers"), 8);
    // Half way through, in one transaction and with a plan that is kept.
    admin.run("PREPARE counting AS SELECT count(*) FROM servers");
    admin.run("BEGIN");
    for _ in 0..4 {
        assert_eq!(admin.count("EXECUTE counting"), 8);
        admin.run("SET LOCAL app.current_project = 'open'");
        assert_eq!(admin.count("EXECUTE counting"), 3);
        admin.run("SET LOCAL app.current_project = ''");
    }
    admin.run("COMMIT");
}

#[test]
fn a_cursor_goes_on_only_in_the_project_that_it_began_in() {
    let r = rows();
    let mut admin = r.session("acme.admin");
    admin.run("BEGIN; SET LOCAL app.current_project = 'open'; DECLARE c CURSOR FOR SELECT id FROM servers ORDER BY id");
    assert_eq!(admin.column("FETCH 1 FROM c"), ["1"]);
    admin.run("SET LOCAL app.current_project = 'closed'");
    let rest = admin.column("FETCH ALL FROM c");
    assert!(
        rest.iter().all(|id| !CLOSED.contains(&id.as_str())),
        "{rest:?}"
    );
    admin.run("ROLLBACK");
}

#[test]
fn who_deletes_a_project_waits_for_its_writers_and_they_for_him() {
    let r = rows();
    let mut owner = r.session("acme.owner");
    let empty = owner.text(&format!(
        "SELECT tenancy.create_project('{}', 'empty')",
        r.world.acme.id
    ));
    for table in ["servers", "disks"] {
        for (project, code) in [(&r.open, "23503"), (&r.closed, "23503")] {
            let delete = format!("SELECT tenancy.delete_project('{project}')");
            let error = refused(owner.attempt(&delete), code);
            assert!(error.message().contains("not empty"), "{table}: {error:?}");
        }
    }
    refused(
        owner.attempt(&format!("SELECT tenancy.delete_cluster('{}')", r.eu)),
        "23503",
    );
    // The writer comes first.
    let insert = format!("INSERT INTO disks (id, project_id) VALUES (200, '{empty}')");
    let delete = format!("SELECT tenancy.delete_project('{empty}')");
    let mut writer = r.session("acme.admin");
    writer.run("BEGIN");
    writer.run(&insert);
    let (act, mut session) = (delete.clone(), r.session("acme.owner"));
    let waiting = std::thread::spawn(move || {
        session
            .attempt(&act)
            .map_err(|e| e.as_db_error().map(|e| e.code().code().to_string()))
    });
    std::thread::sleep(std::time::Duration::from_millis(300));
    writer.run("COMMIT");
    assert_eq!(waiting.join().unwrap(), Err(Some("23503".into())));
    // The deletion comes first.
    writer.run("DELETE FROM disks WHERE id = 200");
    owner.run("BEGIN");
    owner.run(&delete);
    let mut session = r.session("acme.admin");
    let waiting = std::thread::spawn(move || {
        session
            .attempt(&insert)
            .map_err(|e| e.as_db_error().map(|e| e.code().code().to_string()))
    });
    std::thread::sleep(std::time::Duration::from_millis(300));
    owner.run("COMMIT");
    assert_eq!(waiting.join().unwrap(), Err(Some("23503".into())));
}

#[test]
fn thirty_two_clients_leave_no_row_in_a_project_that_is_gone() {
    const CLIENTS: usize = 32;
    let r = Arc::new(rows());
    let barrier = Arc::new(Barrier::new(CLIENTS));
    let acme = r.world.acme.id;
    let names: Vec<String> = (0..6)
        .map(|i| {
            r.world
                .superuser()
                .text(&format!("SELECT tenancy.create_project('{acme}', 'p{i}')"))
        })
        .collect();
    let names = Arc::new(names);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (r, barrier, names) = (r.clone(), barrier.clone(), names.clone());
            std::thread::spawn(move || {
                let mut session = r.session("acme.admin");
                if client % 2 == 1 {
                    session.run("SET default_transaction_isolation = 'repeatable read'");
                }
                let mut trouble = vec![];
                for (round, project) in names.iter().enumerate() {
                    barrier.wait();
                    let act = if client % 4 == 0 {
                        format!("SELECT tenancy.delete_project('{project}')")
                    } else {
                        let id = 1000 + round * 100 + client;
                        format!("INSERT INTO disks (id, project_id) VALUES ({id}, '{project}')")
                    };
                    if let Err(e) = session.attempt(&act) {
                        let code = e.as_db_error().map(|e| e.code().code().to_string());
                        // Not empty or gone; hidden since it is gone; a serializable snapshot overtaken.
                        if !["23503", "42501", "40001"].contains(&code.as_deref().unwrap_or("gone"))
                        {
                            trouble.push(format!("{act}: {e:?}"));
                        }
                    }
                }
                trouble
            })
        })
        .collect();
    let trouble: Vec<String> = clients
        .into_iter()
        .flat_map(|c| c.join().expect("a client"))
        .collect();
    assert_eq!(trouble, Vec::<String>::new());
    let mut glass = r.world.break_glass();
    let stray = "SELECT count(*) FROM disks d WHERE NOT EXISTS (SELECT FROM tenancy.projects p
        WHERE p.id = d.project_id AND p.org_id = d.org_id)";
    assert_eq!(glass.count(stray), 0);
}

#[test]
fn estimates_stay_near_and_an_index_answers() {
    let r = rows();
    let mut dba = r.world.superuser();
    let acme = r.world.acme.id;
    // A skewed table: twenty projects of acme, one with half of its rows; and as many of globex.
    dba.run("CREATE TABLE events (id bigserial PRIMARY KEY, org_id uuid, project_id uuid, n int); GRANT ALL ON events TO PUBLIC");
    for (i, org) in [acme, r.world.globex.id].into_iter().enumerate() {
        dba.run(&format!(
            "SELECT tenancy.create_project('{org}', 'e' || k, CASE WHEN k % 5 = 1 THEN 'restricted' ELSE 'open' END)
             FROM generate_series(1, 20) k;
             INSERT INTO events (org_id, project_id, n)
             SELECT '{org}', p.id, g FROM tenancy.projects p, generate_series(1, CASE p.name WHEN 'e1' THEN 6000 WHEN 'e2' THEN 6000 ELSE {} END) g
             WHERE p.org_id = '{org}' AND p.name LIKE 'e%'",
            300 + 100 * i
        ));
    }
    dba.run("SELECT tenancy.protect('events', project_column => 'project_id'); ANALYZE events");
    let near = |session: &mut Session, sql: &str| {
        let (estimated, actual) = session.estimate(sql);
        assert!(
            actual > 0.0 && estimated <= actual * 2.0 && estimated >= actual / 2.0,
            "{sql}: {estimated} for {actual}"
        );
    };
    for who in ["acme.owner", "acme.member", "globex.owner", "globex.viewer"] {
        let mut session = r.session(who);
        near(&mut session, "SELECT * FROM events");
        for name in ["e2", "e3"] {
            session.run(&format!("SET app.current_project = '{name}'"));
            near(&mut session, "SELECT * FROM events");
            let plan = session.explain("COSTS OFF", "SELECT * FROM events");
            assert!(name == "e2" || plan.contains("project_id = ANY"), "{plan}");
        }
    }
    // What is read of one project does not grow with the table.
    let mut member = r.session("acme.member");
    member.run("SET app.current_project = 'e3'; SET enable_seqscan = off");
    let plan = member.explain(
        "ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF",
        "SELECT count(n) FROM events",
    );
    assert!(
        plan.contains("Index Cond") && !plan.contains("Rows Removed"),
        "{plan}"
    );
}

#[test]
fn protect_looks_at_the_rows_that_are_there() {
    let world = World::people();
    let mut dba = world.superuser();
    let (acme, globex) = (world.acme.id, world.globex.id);
    let project =
        |dba: &mut Session, org| dba.text(&format!("SELECT tenancy.create_project('{org}', 'p')"));
    let (ours, theirs) = (project(&mut dba, acme), project(&mut dba, globex));
    let other = dba.text(&format!("SELECT tenancy.create_project('{acme}', 'q')"));
    let cluster = dba.text(&format!("SELECT tenancy.create_cluster('{other}', 'c')"));
    dba.run("CREATE TABLE t (id int PRIMARY KEY, org_id uuid, project_id uuid, cluster_id uuid DEFAULT NULL, label text)");
    let protect = "SELECT tenancy.protect('t', project_column => 'project_id', cluster_column => 'cluster_id')";
    for (row, code) in [
        (format!("(1, '{acme}', NULL, NULL)"), "23502"),
        (format!("(1, '{acme}', '{theirs}', NULL)"), "23503"),
        (format!("(1, '{acme}', '{NOBODYS}', NULL)"), "23503"),
        (format!("(1, '{acme}', '{ours}', '{cluster}')"), "23503"),
    ] {
        dba.run(&format!("INSERT INTO t VALUES {row}"));
        refused(dba.attempt(protect), code);
        dba.run("DELETE FROM t");
    }
    for (options, code) in [
        ("project_column => 'label'", "42804"),
        ("project_column => 'nothing'", "42703"),
        ("cluster_column => 'cluster_id'", "22023"),
        (
            "project_column => 'project_id', cluster_column => 'label'",
            "42804",
        ),
    ] {
        refused(
            dba.attempt(&format!("SELECT tenancy.protect('t', {options})")),
            code,
        );
    }
    dba.run(&format!(
        "INSERT INTO t VALUES (1, '{acme}', '{other}', '{cluster}')"
    ));
    let shape = "SELECT string_agg(concat_ws(' ', attname, attnotnull, attstattarget, pg_get_expr(adbin, adrelid)), ', ' ORDER BY attnum)
        || (SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass) || (SELECT count(*) FROM pg_policies WHERE tablename = 't')
        FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE attrelid = 't'::regclass AND attnum > 0";
    let before = dba.text(shape);
    dba.run(protect);
    // Again, alike and in another way.
    dba.run(protect);
    refused(
        dba.attempt("SELECT tenancy.protect('t', project_column => 'project_id')"),
        "42710",
    );
    refused(dba.attempt("SELECT tenancy.protect('t')"), "42710");
    assert_eq!(
        dba.rows("SELECT project_column, cluster_column FROM tenancy.protected_tables"),
        [[
            Some("project_id".to_string()),
            Some("cluster_id".to_string())
        ]]
    );
    dba.run("SELECT tenancy.unprotect('t')");
    assert_eq!(dba.text(shape), before);
    // The columns are known by what they are, whatever they are called.
    dba.run(protect);
    dba.run("ALTER TABLE t RENAME project_id TO project; ALTER TABLE t RENAME cluster_id TO cluster; GRANT ALL ON t TO PUBLIC");
    let mut admin = world.session("acme.admin");
    refused(
        admin.attempt(&format!(
            "INSERT INTO t (id, project) VALUES (2, '{theirs}')"
        )),
        "23503",
    );
    assert_eq!(
        admin.run(&format!("INSERT INTO t (id, project) VALUES (2, '{ours}')")),
        1
    );
    refused(
        admin.attempt(&format!("SELECT tenancy.delete_project('{ours}')")),
        "23503",
    );
    // A policy that is taken away is refused.
    fails(
        dba.attempt("DROP POLICY tenancy_select_project ON t"),
        "42501",
    );
    dba.run("SELECT tenancy.unprotect('t')");
    assert_eq!(
        dba.text(shape),
        before
            .replace("project_id", "project")
            .replace("cluster_id", "cluster")
    );
}

#[test]
fn partitions_and_external_keys_have_projects_too() {
    let world = World::people();
    let mut dba = world.superuser();
    let (acme, key) = (world.acme.id, world.acme.key);
    let p = dba.text(&format!(
        "SELECT tenancy.create_project('{acme}', 'p', 'restricted')"
    ));
    let q = dba.text(&format!("SELECT tenancy.create_project('{acme}', 'q')"));
    dba.run(
        "CREATE TABLE m (id int, tenant text, project_id uuid, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
         CREATE TABLE m1 PARTITION OF m FOR VALUES FROM (0) TO (10);
         SELECT tenancy.protect('m', 'tenant', project_column => 'project_id');
         CREATE TABLE m2 PARTITION OF m FOR VALUES FROM (10) TO (20);
         GRANT ALL ON m, m1, m2 TO PUBLIC",
    );
    let mut admin = world.session("acme.admin");
    admin.run(&format!(
        "INSERT INTO m (id, project_id, at) VALUES (1, '{p}', 1), (2, '{q}', 2), (3, '{p}', 11), (4, '{q}', 12)"
    ));
    assert_eq!(admin.text("SELECT DISTINCT tenant FROM m"), key);
    let mut member = world.session("acme.member");
    for (table, seen) in [("m", vec!["2", "4"]), ("m1", vec!["2"]), ("m2", vec!["4"])] {
        assert_eq!(
            member.column(&format!("SELECT id FROM {table} ORDER BY id")),
            seen,
            "{table}"
        );
    }
    // A row moves to another partition by an UPDATE, and needs that right.
    assert_eq!(member.run("UPDATE m SET at = 15 WHERE id = 2"), 1);
    refused(
        member.attempt(&format!(
            "INSERT INTO m (id, project_id, at) VALUES (5, '{p}', 1)"
        )),
        "23503",
    );
    refused(
        member.attempt(&format!(
            "UPDATE m SET project_id = '{p}', at = 3 WHERE id = 4"
        )),
        "23503",
    );
    member.run("SET app.current_project = 'q'");
    assert_eq!(member.count("SELECT count(*) FROM m"), 2);
    admin.run("SET app.current_project = 'p'");
    assert_eq!(admin.column("SELECT id FROM m ORDER BY id"), ["1", "3"]);
}

#[test]
fn tables_without_a_project_column_go_by_the_role_in_the_organization() {
    let world = World::new();
    let mut dba = world.superuser();
    let project = dba.text(&format!(
        "SELECT tenancy.create_project('{}', 'p', 'restricted')",
        world.acme.id
    ));
    dba.run(&format!(
        "SELECT tenancy.add_project_member('{project}', '{}', 'project_admin')",
        world.user("acme.viewer")
    ));
    let mut viewer = world.session("acme.viewer");
    refused(
        viewer.attempt("INSERT INTO servers (id, name) VALUES (50, 'x')"),
        "42501",
    );
    viewer.run("SET app.current_project = 'p'");
    assert_eq!(world.seen(&mut viewer, "servers"), (3, 0));
    refused(
        viewer.attempt("INSERT INTO servers (id, name) VALUES (50, 'x')"),
        "42501",
    );
    refused(viewer.attempt("UPDATE servers SET cpus = 2"), "42501");
}

/// Who may deploy on staging in the organization, and on everything in one project.
#[test]
fn a_grant_for_one_environment_and_a_role_in_a_project_add_up() {
    let r = rows();
    let world = &r.world;
    let (org, member) = (world.acme.id, world.user("acme.member"));
    let mut dba = world.superuser();
    dba.run(&format!(
        r#"CREATE TABLE apps (id int PRIMARY KEY, org_id uuid, project_id uuid, environment text, release int DEFAULT 0,
               channel text DEFAULT 'stable');
           GRANT ALL ON apps TO PUBLIC;
           INSERT INTO apps VALUES (1, '{org}', '{open}', 'staging'), (2, '{org}', '{open}', 'production'),
               (11, '{org}', '{closed}', 'staging'), (12, '{org}', '{closed}', 'production');
           SELECT tenancy.protect('apps', environment_column => 'environment', project_column => 'project_id',
               permissions => '{{"select": "app:read", "insert": "app:deploy", "update": "app:deploy",
                                 "columns": {{"channel": "app:manage"}}}}');
           SELECT tenancy.create_role('{org}', 'deployer');
           SELECT tenancy.grant_permission('{org}', 'deployer', 'app:read');
           SELECT tenancy.grant_permission('{org}', 'deployer', 'app:deploy', environment => 'staging');
           SELECT tenancy.grant_permission('{org}', 'deployer', 'app:manage', environment => 'staging');
           SELECT tenancy.set_member_role('{org}', '{member}', 'deployer');
           SELECT tenancy.add_project_member('{closed}', '{member}', 'project_operator')"#,
        open = r.open,
        closed = r.closed,
    ));
    let mut session = r.session("acme.member");
    let deploy = |id: i32| format!("UPDATE apps SET release = release + 1 WHERE id = {id}");
    // A project where he may not write at all has no rows for him to write; an environment has, and refuses them.
    let mut may = |id: i32| match session.attempt(&deploy(id)) {
        Ok(0) => false,
        Ok(_) => {
            let channel = format!("UPDATE apps SET channel = 'beta' || release WHERE id = {id}");
            assert_eq!(session.run(&channel), 1, "{id}");
            true
        }
        refusal => {
            refused(refusal, "42501");
            false
        }
    };
    assert_eq!([1, 2, 11, 12].map(&mut may), [true, false, true, true]);
    // In a restricted project the organization's role does not count, on staging neither.
    dba.run(&format!(
        "SELECT tenancy.set_project_role('{}', '{member}', 'project_viewer')",
        r.closed
    ));
    assert_eq!([1, 2, 11, 12].map(&mut may), [true, false, false, false]);
    assert_eq!(session.count("SELECT count(*) FROM apps"), 4);
    refused(
        session.attempt(&format!(
            "INSERT INTO apps (id, project_id, environment) VALUES (3, '{}', 'production')",
            r.open
        )),
        "42501",
    );
    session.run(&format!(
        "INSERT INTO apps (id, project_id, environment) VALUES (3, '{}', 'staging')",
        r.open
    ));
    refused(
        session.attempt("UPDATE apps SET environment = 'production' WHERE id = 3"),
        "42501",
    );
}
