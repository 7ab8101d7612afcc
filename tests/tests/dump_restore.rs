//! A dump carries everything; leaving the extension leaves the data. Sections 13 of the specification, restore and uninstall.

use std::sync::Arc;

use pg_tenancy_tests::{Cluster, Db, Session, World, assert_same_error, fails, refused};

/// What must be the same before and after, by name.
const FACTS: &[(&str, &str)] = &[
    ("orgs", "SELECT o::text FROM tenancy.orgs o ORDER BY 1"),
    ("users", "SELECT u::text FROM tenancy.users u ORDER BY 1"),
    ("proposals", "SELECT p::text FROM tenancy.proposal_records p ORDER BY 1"),
    ("environments", "SELECT e::text FROM tenancy.org_environments e ORDER BY 1"),
    ("memberships", "SELECT m::text FROM tenancy.memberships m ORDER BY 1"),
    ("scopes", "SELECT s::text FROM tenancy.membership_scopes s ORDER BY 1"),
    ("invitations", "SELECT i::text FROM tenancy.invitations i ORDER BY 1"),
    ("service accounts", "SELECT a::text FROM tenancy.service_accounts a ORDER BY 1"),
    ("API keys", "SELECT k::text FROM tenancy.api_keys k ORDER BY 1"),
    ("bindings", "SELECT b::text FROM tenancy.login_bindings b ORDER BY 1"),
    ("signing keys", "SELECT k::text FROM tenancy.signing_keys k ORDER BY 1"),
    ("administrators", "SELECT a::text FROM tenancy.administrators a ORDER BY 1"),
    ("roles", "SELECT r::text FROM tenancy.roles r ORDER BY 1"),
    ("actions", "SELECT a::text FROM tenancy.actions a ORDER BY 1"),
    ("projects", "SELECT p::text FROM tenancy.projects p ORDER BY 1"),
    ("clusters", "SELECT c::text FROM tenancy.clusters c ORDER BY 1"),
    ("project members", "SELECT m::text FROM tenancy.project_members m ORDER BY 1"),
    ("project roles", "SELECT p::text FROM tenancy.project_role_permissions p ORDER BY 1"),
    ("project settings", "SELECT s::text FROM tenancy.project_settings s ORDER BY 1"),
    ("matrix", "SELECT p::text FROM tenancy.role_permissions p ORDER BY 1"),
    ("protected", "SELECT p::text FROM tenancy.protected_tables p ORDER BY 1"),
    ("servers", "SELECT s::text FROM servers s ORDER BY 1"),
    ("sites", "SELECT s::text FROM sites s ORDER BY 1"),
    ("apps", "SELECT a::text FROM apps a ORDER BY 1"),
    ("nodes", "SELECT n::text FROM nodes n ORDER BY 1"),
    ("policies", "SELECT p::text FROM pg_policies p ORDER BY 1"),
    (
        "triggers",
        "SELECT tgrelid::regclass || ' ' || tgenabled::text || ' ' || pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1",
    ),
    (
        "columns",
        "SELECT concat_ws(' ', attrelid::regclass, attname, attnotnull, attstattarget, pg_get_expr(adbin, adrelid)) FROM pg_attribute
         LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
         WHERE attrelid IN ('servers'::regclass, 'sites'::regclass) AND attnum > 0 ORDER BY 1",
    ),
    (
        "row security",
        "SELECT oid::regclass || ' ' || relrowsecurity || ' ' || relforcerowsecurity FROM pg_class
         WHERE relnamespace IN ('public'::regnamespace, 'tenancy'::regnamespace, 'tenancy_audit'::regnamespace) AND relkind = 'r' ORDER BY 1",
    ),
    (
        "audit tables' grants",
        "SELECT relname || coalesce(relacl::text, '-') FROM pg_class WHERE relnamespace = 'tenancy_audit'::regnamespace ORDER BY 1",
    ),
];

const AUDIT: &str = "SELECT to_jsonb(a) - 'xid' FROM tenancy.audit_log a ORDER BY at, object, key::text, operation, n";

fn facts(session: &mut Session) -> Vec<(&'static str, Vec<String>)> {
    FACTS
        .iter()
        .map(|(name, sql)| (*name, session.column(sql)))
        .collect()
}

/// A world with a past: memberships changed, audited writes, a limit on dedicated audit tables passed.
fn world_with_a_past() -> World {
    let world = World::new();
    let ops = world.db.role("ops");
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE ROLE {ops} LOGIN; SELECT tenancy.grant_administration('{ops}');
         SELECT tenancy.require_token('{ops}');
         SELECT tenancy.add_signing_key('old', 'HS256', 'a secret that nobody will ever guess', 'aud');
         SELECT tenancy.add_signing_key('new', 'HS256', 'a secret that nobody else can ever guess', 'aud', 'iss', 'sso_subject');
         SELECT tenancy.retire_signing_key('old');
         SELECT tenancy.add_member('{}', '{}', 'viewer', expires_at => now() + interval '1 year');
         SELECT tenancy.set_member_networks('{}', '{}', '{{10.0.0.0/8}}');
         SELECT tenancy.create_api_key(tenancy.create_service_account('{}', 'bot', 'member'), networks => '{{10.0.0.0/8}}');
         SELECT tenancy.transfer_ownership('{}', '{}');
         SELECT tenancy.remove_member('{}', '{}');
         SELECT tenancy.invite(id, 'new@example.test', 'viewer') FROM tenancy.orgs",
        world.acme.id,
        world.user("stranger"),
        world.acme.id,
        world.user("stranger"),
        world.acme.id,
        world.globex.id,
        world.user("globex.admin"),
        world.globex.id,
        world.user("globex.viewer"),
    ));
    dba.run(&format!(
        "SELECT tenancy.create_cluster(p, 'eu'), tenancy.add_project_member(p, '{}', 'project_operator')
         FROM tenancy.create_project('{}', 'web', 'restricted', 'production') AS p;
         SELECT tenancy.set_strict_project_access('{}', true);
         INSERT INTO tenancy.project_role_permissions VALUES ('project_viewer', 'ai:use')",
        world.user("acme.member"),
        world.acme.id,
        world.acme.id
    ));
    dba.run(&format!(
        "CREATE TABLE racks (id int PRIMARY KEY, org_id uuid);
         CREATE TABLE trays (id int PRIMARY KEY, org_id uuid, rack_id int REFERENCES racks, label text);
         GRANT ALL ON racks, trays TO PUBLIC;
         INSERT INTO racks SELECT i, '{acme}' FROM generate_series(1, 3) i;
         INSERT INTO trays SELECT i * 10 + j, '{acme}', i, 't' FROM generate_series(1, 3) i, generate_series(0, 1) j;
         SELECT tenancy.protect('racks', resource_type => 'rack');
         SELECT tenancy.protect('trays', resource_type => 'tray', resource_parent => 'rack_id');
         SELECT tenancy.set_scope('{acme}', '{limited}', 'racks', '1'),
                tenancy.set_scope('{acme}', '{limited}', 'racks', '2', 'read_only'),
                tenancy.set_scope('{acme}', '{limited}', 'trays', '11', 'none');
         SELECT tenancy.set_scope('{globex}', '{limited}', 'racks', '4');
         SELECT tenancy.remove_scope('{globex}', '{limited}', 'racks', '4')",
        acme = world.acme.id,
        globex = world.globex.id,
        limited = world.user("agency"),
    ));
    with_environments_of_projects(&world);
    let mut admin = world.session("acme.admin");
    admin.run("INSERT INTO servers (id, name) VALUES (10, 'acme-server-10'); UPDATE sites SET visits = visits + 1; DELETE FROM sites WHERE id = 6");
    world
        .session("globex.admin")
        .run("UPDATE servers SET cpus = cpus + 1");
    dba.run("SET tenancy.dedicated_audit_limit = 2");
    dba.run(&format!(
        "SELECT tenancy.create_org('Late', 'late', owner => '{}')",
        world.user("agency")
    ));
    world
}

/// Apps have the environment of their project, nodes that of their cluster: 1 is production's, 2 staging's.
fn with_environments_of_projects(world: &World) {
    let acme = world.acme.id;
    let mut dba = world.superuser();
    dba.run(&format!(
        "SELECT tenancy.create_project('{acme}', 'shop', environment => 'production');
         SELECT tenancy.create_cluster(p, 'edge', 'production') FROM tenancy.create_project('{acme}', 'trial', environment => 'staging') AS p;
         CREATE TABLE apps (id int PRIMARY KEY, org_id uuid, project_id uuid);
         CREATE TABLE nodes (id int PRIMARY KEY, org_id uuid, project_id uuid, cluster_id uuid);
         GRANT ALL ON apps, nodes TO PUBLIC;
         SELECT tenancy.protect('apps', project_column => 'project_id', environment_from => 'project_id'),
                tenancy.protect('nodes', project_column => 'project_id', cluster_column => 'cluster_id', environment_from => 'cluster_id')",
    ));
    let mut glass = world.break_glass();
    glass.run(
        "INSERT INTO apps SELECT CASE name WHEN 'shop' THEN 1 ELSE 2 END, org_id, id FROM tenancy.projects WHERE name IN ('shop', 'trial');
         INSERT INTO nodes SELECT 1, p.org_id, p.id, c.id FROM tenancy.projects p JOIN tenancy.clusters c ON c.project_id = p.id WHERE c.name = 'edge';
         INSERT INTO nodes SELECT 2, org_id, id FROM tenancy.projects WHERE name = 'trial'",
    );
    let mut owner = world.session("acme.owner");
    owner.run(&format!(
        "SELECT tenancy.set_production_protection('{acme}', true)"
    ));
}

/// A row is as much production as its project, or its cluster, and is not any more when the owner retags that.
fn holds_production(world: &World) {
    let mut owner = world.session("acme.owner");
    for table in ["apps", "nodes"] {
        let delete = |id: i32| format!("DELETE FROM {table} WHERE id = {id}");
        let error = refused(owner.attempt(&delete(1)), "42501");
        assert!(error.message().contains("production"), "{error:?}");
        owner.run("BEGIN");
        assert_eq!(owner.run(&delete(2)), 1, "{table}");
        owner.run("ROLLBACK");
    }
    let shop = owner.text("SELECT id FROM tenancy.projects WHERE name = 'shop'");
    owner.run("BEGIN");
    owner.run(&format!(
        "SELECT tenancy.confirm_production_delete('tenancy.projects', '{shop}', typed => '{shop}'),
                tenancy.set_project_environment('{shop}', 'staging')"
    ));
    assert_eq!(owner.run("DELETE FROM apps WHERE id = 1"), 1);
    owner.run("ROLLBACK");
}

/// Everything that matters, done again.
fn behaves(world: &World) {
    // Reads.
    assert_eq!(
        world.seen(&mut world.session("acme.viewer"), "servers"),
        (4, 0)
    );
    assert_eq!(
        world.seen(&mut world.session("globex.member"), "sites"),
        (0, 6)
    );
    assert_eq!(world.seen(&mut world.nobody(), "servers"), (0, 0));
    assert_eq!(
        world.seen(&mut world.session("globex.viewer"), "sites"),
        (0, 0)
    );
    let mut app = world.app();
    world.begin(&mut app, world.acme, "acme.member");
    assert_eq!(world.seen(&mut app, "servers"), (4, 0));
    app.run("COMMIT");
    assert_eq!(world.seen(&mut app, "servers"), (0, 0));
    // Rights.
    let error = refused(
        world
            .session("acme.viewer")
            .attempt("INSERT INTO sites (id, name) VALUES (70, 'x')"),
        "42501",
    );
    assert!(error.message().contains("site:deploy"), "{error:?}");
    refused(
        world
            .session("acme.member")
            .attempt("UPDATE sites SET certificate = 'x'"),
        "42501",
    );
    let mut admin = world.session("acme.admin");
    fails(
        admin.attempt(&format!(
            "INSERT INTO sites (id, name, org_id) VALUES (70, 'x', '{}')",
            world.globex.id
        )),
        "42501",
    );
    refused(admin.attempt("TRUNCATE sites"), "42501");
    // Guards of foreign keys.
    let other = fails(
        admin.attempt("INSERT INTO sites (id, name, server_id) VALUES (70, 'x', 101)"),
        "23503",
    );
    let missing = fails(
        admin.attempt("INSERT INTO sites (id, name, server_id) VALUES (70, 'x', 999)"),
        "23503",
    );
    assert_same_error(&other, &missing, &[("999", "101")]);
    // Defaults, audit of new rows beside the old ones.
    let before = admin.count("SELECT count(*) FROM tenancy.audit_log");
    admin.run("INSERT INTO sites (id, name, server_id) VALUES (70, 'acme-70', 10)");
    assert_eq!(
        admin.text("SELECT org_id FROM sites WHERE id = 70"),
        world.acme.id.to_string()
    );
    assert_eq!(
        admin.count("SELECT count(*) FROM tenancy.audit_log"),
        before + 1
    );
    assert_eq!(
        world
            .session("globex.admin")
            .count("SELECT count(*) FROM tenancy.audit_log WHERE object LIKE '%servers'"),
        3
    );
    refused(
        world.superuser().attempt(&format!(
            "DELETE FROM tenancy_audit.org_{}",
            world.acme.id.simple()
        )),
        "42501",
    );
    fails(
        world.session("acme.owner").attempt(&format!(
            "SELECT * FROM tenancy_audit.org_{}",
            world.acme.id.simple()
        )),
        "42501",
    );
    is_limited(world);
    holds_production(world);
    // Owners.
    let mut dba = world.superuser();
    refused(
        dba.attempt(&format!(
            "DELETE FROM tenancy.memberships WHERE org_id = '{}'",
            world.globex.id
        )),
        "23514",
    );
    world.session("globex.admin").run(&format!(
        "SELECT tenancy.transfer_ownership('{}', '{}')",
        world.globex.id,
        world.user("globex.owner")
    ));
    // A revocation still reaches open sessions.
    let mut member = world.session("acme.member");
    assert_eq!(world.seen(&mut member, "servers"), (4, 0));
    dba.run(&format!(
        "SELECT tenancy.remove_member('{}', '{}')",
        world.acme.id,
        world.user("acme.member")
    ));
    assert_eq!(world.seen(&mut member, "servers"), (0, 0));
    // New orgs, new tables, and going again.
    dba.run(&format!(
        "SELECT tenancy.create_org('After', 'after', owner => '{}');
         CREATE TABLE later (id int, org_id uuid); SELECT tenancy.protect('later'); SELECT tenancy.unprotect('sites')",
        world.user("stranger")
    ));
}

/// The rules of who is limited to resources, and that who has none left sees nothing.
fn is_limited(world: &World) {
    let (racks, trays) = (
        "SELECT id FROM racks ORDER BY 1",
        "SELECT id FROM trays ORDER BY 1",
    );
    let mut without_rules = world.bound("agency");
    without_rules.run(&format!("SET app.current_org = '{}'", world.globex.id));
    assert_eq!(world.seen(&mut without_rules, "sites"), (0, 0));
    let mut limited = world.session("agency");
    assert_eq!(limited.column(racks), ["1", "2"]);
    assert_eq!(limited.column(trays), ["10", "20", "21"]);
    assert_eq!(world.seen(&mut limited, "servers"), (0, 0));
    assert_eq!(
        limited.run("UPDATE trays SET label = 'x' WHERE id IN (10, 11)"),
        1
    );
    refused(
        limited.attempt("UPDATE trays SET label = 'x' WHERE id = 20"),
        "42501",
    );
    let new = |rack: &str| format!("INSERT INTO trays (id, rack_id) VALUES (99, {rack})");
    let hidden = refused(limited.attempt(&new("3")), "42501");
    let missing = refused(limited.attempt(&new("999")), "42501");
    assert_same_error(&hidden, &missing, &[("999", "3")]);
    world.superuser().run(&format!(
        "SELECT tenancy.unscope_member('{}', '{}')",
        world.acme.id,
        world.user("agency")
    ));
    assert_eq!(limited.column(racks), ["1", "2", "3"], "the open session");
    assert_eq!(world.seen(&mut without_rules, "sites"), (0, 0));
}

#[test]
fn a_dump_restored_on_another_server_is_the_same_world() {
    let world = world_with_a_past();
    let mut source = world.superuser();
    let before = facts(&mut source);
    let logs = [
        world.session("acme.owner").column(AUDIT),
        world.session("globex.admin").column(AUDIT),
    ];
    assert!(logs[0].len() > 10 && logs[1].len() > 3);
    let roles = source.column(&format!(
        "SELECT format('CREATE ROLE %I LOGIN', rolname) FROM pg_roles WHERE rolname LIKE '{}\\_%'",
        world.db.prefix
    ));

    let server = Arc::new(Cluster::start());
    server
        .superuser("postgres")
        .batch_execute(&roles.join(";"))
        .unwrap();
    for format in ["custom", "directory", "plain"] {
        let file = world.db.cluster.file(format);
        let file = file.to_str().expect("a path in UTF-8");
        world.db.cluster.client_program(
            "pg_dump",
            &world.db.name,
            &["--format", format, "--file", file],
        );
        let copy = world.moved_to(Db::empty(server.clone()));
        match format {
            "plain" => server.client_program(
                "psql",
                &copy.db.name,
                &[
                    "--no-psqlrc",
                    "--quiet",
                    "--set",
                    "ON_ERROR_STOP=1",
                    "--file",
                    file,
                ],
            ),
            _ => server.client_program("pg_restore", &copy.db.name, &["--exit-on-error", file]),
        };
        for ((name, old), (_, new)) in before.iter().zip(facts(&mut copy.superuser())) {
            assert_eq!(old, &new, "{format}: {name}");
        }
        assert_eq!(
            copy.session("acme.owner").column(AUDIT),
            logs[0],
            "{format}"
        );
        assert_eq!(
            copy.session("globex.admin").column(AUDIT),
            logs[1],
            "{format}"
        );
        behaves(&copy);
    }
    // With several jobs the extension's own tables come in no order: their foreign keys must not ask.
    for _ in 0..3 {
        let file = world.db.cluster.file("directory");
        let copy = world.moved_to(Db::empty(server.clone()));
        let database = format!(
            "dbname={} options='-c session_replication_role=replica'",
            copy.db.name
        );
        let jobs = ["--jobs", "4", "--exit-on-error", file.to_str().unwrap()];
        server.client_program("pg_restore", &database, &jobs);
        for ((name, old), (_, new)) in before.iter().zip(facts(&mut copy.superuser())) {
            assert_eq!(old, &new, "with four jobs: {name}");
        }
        behaves(&copy);
    }
    // Over what is there: everything is dropped and made anew.
    let file = world.db.cluster.file("custom");
    let clean = [
        "--clean",
        "--if-exists",
        "--exit-on-error",
        file.to_str().unwrap(),
    ];
    let copy = world.moved_to(Db::empty(server.clone()));
    server.client_program("pg_restore", &copy.db.name, &clean[2..]);
    copy.session("acme.admin").run("DELETE FROM sites");
    server.client_program("pg_restore", &copy.db.name, &clean);
    for ((name, old), (_, new)) in before.iter().zip(facts(&mut copy.superuser())) {
        assert_eq!(old, &new, "over what was there: {name}");
    }
    behaves(&copy);
    // The source has not been touched by being dumped.
    assert_eq!(facts(&mut source), before);
    assert_eq!(world.session("acme.owner").column(AUDIT), logs[0]);
    behaves(&world);
}

#[test]
fn data_alone_can_be_restored_into_the_same_schema() {
    // As a migration of one table goes: its rows out, gone, and in again, by break-glass as pg_restore does it.
    let world = World::new();
    let file = world.db.cluster.file(&format!("{}.data", world.db.name));
    let file = file.to_str().expect("a path in UTF-8");
    world.db.cluster.client_program(
        "pg_dump",
        &world.db.name,
        &[
            "--format",
            "custom",
            "--data-only",
            "--table",
            "sites",
            "--file",
            file,
        ],
    );
    let hashes = (
        world.hash("sites", world.acme),
        world.hash("sites", world.globex),
    );
    world.break_glass().run("DELETE FROM sites");
    world
        .db
        .cluster
        .client_program("pg_restore", &world.db.name, &["--exit-on-error", file]);
    assert_eq!(
        (
            world.hash("sites", world.acme),
            world.hash("sites", world.globex)
        ),
        hashes
    );
}

#[test]
fn the_extension_does_not_go_while_tables_depend_on_it() {
    let world = World::new();
    let mut dba = world.superuser();
    for sql in [
        "DROP EXTENSION pg_tenancy",
        "DROP EXTENSION pg_tenancy CASCADE",
        "DROP SCHEMA tenancy CASCADE",
    ] {
        let error = dba.attempt(sql).expect_err(sql);
        let error = error.as_db_error().unwrap();
        assert!(error.hint().is_some(), "{sql}: {error:?}");
    }
    assert_eq!(
        world.seen(&mut world.session("acme.viewer"), "servers"),
        (3, 0)
    );
    assert_eq!(
        dba.count("SELECT count(*) FROM tenancy.protected_tables"),
        2
    );
}

#[test]
fn uninstall_leaves_tables_rows_and_audit() {
    let world = World::unprotected();
    let mut dba = world.superuser();
    let before = (
        world.hash("servers", world.acme),
        world.hash("sites", world.globex),
    );
    dba.run("SELECT tenancy.protect('servers'); SELECT tenancy.protect('sites')");
    world
        .session("acme.admin")
        .run("UPDATE sites SET visits = visits + 1");
    let audit = format!(
        "SELECT count(*) FROM tenancy_audit.org_{}",
        world.acme.id.simple()
    );
    let written = dba.count(&audit);
    assert!(written > 2);
    for mut session in [
        world.session("acme.owner"),
        world.app(),
        world.nobody(),
        world.db.login(&world.table_owner()),
    ] {
        fails(session.attempt("SELECT tenancy.uninstall()"), "42501");
    }
    dba.run("SELECT tenancy.uninstall()");
    dba.run("DROP EXTENSION pg_tenancy");
    assert_eq!(
        dba.count(
            "SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'tenancy'::regnamespace)
                  + (SELECT count(*) FROM pg_proc WHERE pronamespace = 'tenancy'::regnamespace)"
        ),
        0
    );
    assert_eq!(world.hash("servers", world.acme), before.0);
    assert_eq!(world.hash("sites", world.globex), before.1);
    assert_eq!(dba.count(&audit), written);
    assert_eq!(
        dba.count(
            "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgrelid IN ('servers'::regclass, 'sites'::regclass)"
        ),
        0
    );
    assert_eq!(dba.count("SELECT count(*) FROM pg_policies"), 0);
    // Plain tables again, for everybody.
    let mut anybody = world.nobody();
    assert_eq!(world.seen(&mut anybody, "servers"), (3, 3));
    anybody.run(&format!(
        "INSERT INTO servers (id, org_id, name) VALUES (80, '{}', 'x'); UPDATE sites SET visits = 0; DELETE FROM sites",
        world.acme.id
    ));
    // The log is still nobody's but the DBA's.
    fails(
        anybody.attempt(&format!(
            "SELECT * FROM tenancy_audit.org_{}",
            world.acme.id.simple()
        )),
        "42501",
    );
    // And one may come back.
    dba.run("CREATE EXTENSION pg_tenancy");
    assert_eq!(dba.count("SELECT count(*) FROM tenancy.orgs"), 0);
}

#[test]
fn the_extension_is_the_superusers_to_create() {
    let db = Db::empty(Cluster::shared());
    let login = db.role("creator");
    db.superuser().run(&format!(
        "CREATE ROLE {login} LOGIN CREATEDB; ALTER DATABASE {} OWNER TO {login}",
        db.name
    ));
    fails(
        db.login(&login).attempt("CREATE EXTENSION pg_tenancy"),
        "42501",
    );
    let mut dba = db.superuser();
    dba.run("CREATE EXTENSION pg_tenancy");
    fails(
        dba.attempt("ALTER EXTENSION pg_tenancy SET SCHEMA public"),
        "0A000",
    );
    // An extension nobody used goes without more ado, or after uninstall().
    if dba.attempt("DROP EXTENSION pg_tenancy").is_err() {
        dba.run("SELECT tenancy.uninstall(); DROP EXTENSION pg_tenancy");
    }
}

#[test]
fn a_schema_of_somebody_elses_is_not_moved_into() {
    // Its owner could drop what is in it, or put functions beside ours.
    for schema in ["tenancy", "tenancy_audit"] {
        let db = Db::empty(Cluster::shared());
        let squatter = db.role("squatter");
        let mut dba = db.superuser();
        dba.run(&format!(
            "CREATE ROLE {squatter} LOGIN; GRANT CREATE ON DATABASE {} TO {squatter}",
            db.name
        ));
        db.login(&squatter).run(&format!("CREATE SCHEMA {schema}"));
        let result = dba.attempt("CREATE EXTENSION pg_tenancy").and_then(|_| {
            let user = dba.text("SELECT tenancy.create_user('a@example.test')");
            dba.attempt(&format!(
                "SELECT tenancy.create_org('A', 'a', owner => '{user}')"
            ))
        });
        result.expect_err(schema);
    }
}
