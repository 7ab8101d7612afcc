//! A protected table stays protected through migrations: refused, mended or warned of, as tenancy.on_drift says. Section
//! 5.7 of the specification; attacks B1, C2, C3, C7, C11.

use pg_tenancy_tests::{Session, World, refused};

/// The tables' owner, who runs the migrations: neither superuser nor BYPASSRLS.
fn owner(world: &World) -> Session {
    let mut dba = world.superuser();
    dba.run(&format!(
        "GRANT CREATE ON SCHEMA public TO {}",
        world.table_owner()
    ));
    world.db.login(&world.table_owner())
}

fn on_drift(world: &World, mode: &str) {
    world.superuser().run(&format!(
        "ALTER DATABASE {} SET tenancy.on_drift = {mode}",
        world.db.name
    ));
}

/// What weakens a protected table, and whether it can be mended.
const WEAKENING: &[(&str, bool)] = &[
    ("ALTER TABLE servers DISABLE ROW LEVEL SECURITY", true),
    ("ALTER TABLE servers NO FORCE ROW LEVEL SECURITY", true),
    ("ALTER TABLE servers DISABLE TRIGGER USER", true),
    (
        "ALTER TABLE servers DISABLE TRIGGER \"0_tenancy_row\"",
        true,
    ),
    (
        "ALTER TABLE servers ENABLE TRIGGER \"0_tenancy_statement\"",
        true,
    ),
    (
        "ALTER TABLE servers ENABLE REPLICA TRIGGER \"0_tenancy_truncate\"",
        true,
    ),
    ("ALTER TABLE servers ALTER org_id DROP NOT NULL", true),
    ("ALTER TABLE servers ALTER org_id DROP DEFAULT", true),
    ("DROP TRIGGER \"0_tenancy_row\" ON servers", false),
    ("DROP TRIGGER \"0_tenancy_statement\" ON servers", false),
    ("DROP TRIGGER \"0_tenancy_truncate\" ON servers", false),
    (
        "ALTER TRIGGER \"0_tenancy_row\" ON servers RENAME TO z",
        false,
    ),
    ("DROP POLICY tenancy_select_boundary ON servers", false),
    ("DROP POLICY tenancy_delete ON servers", false),
    ("ALTER POLICY tenancy_select ON servers USING (true)", false),
    (
        "ALTER POLICY tenancy_select_boundary ON servers TO postgres",
        false,
    ),
    (
        "ALTER POLICY tenancy_update_boundary ON servers RENAME TO mine",
        false,
    ),
    ("ALTER TABLE servers DROP COLUMN org_id CASCADE", false),
    (
        "CREATE RULE copy AS ON INSERT TO servers DO ALSO INSERT INTO regions VALUES (new.name, new.name)",
        false,
    ),
    (
        "CREATE RULE look AS ON INSERT TO regions DO ALSO DELETE FROM servers",
        false,
    ),
    (
        "CREATE MATERIALIZED VIEW all_servers AS SELECT * FROM servers",
        false,
    ),
    (
        "CREATE MATERIALIZED VIEW all_servers AS SELECT * FROM good_view WITH NO DATA",
        false,
    ),
    ("CREATE VIEW all_servers AS SELECT * FROM servers", true),
    (
        "CREATE OR REPLACE VIEW good_view AS SELECT * FROM servers",
        true,
    ),
    ("ALTER VIEW good_view RESET (security_invoker)", true),
    ("ALTER VIEW good_view SET (security_invoker = off)", true),
    ("ALTER TABLE good_view SET (security_invoker = false)", true),
    ("CREATE VIEW on_a_view AS SELECT * FROM good_view", true),
    (
        "CREATE SCHEMA AUTHORIZATION CURRENT_USER CREATE VIEW all_servers AS SELECT * FROM public.servers",
        true,
    ),
    ("CREATE TABLE copy AS SELECT * FROM servers", true),
    ("CREATE TABLE copy AS SELECT name FROM good_view", false),
    ("SELECT name INTO copy FROM servers", false),
    (
        "DO $$ BEGIN CREATE TABLE copy AS SELECT name FROM servers; END $$",
        false,
    ),
];

/// Everything that protection consists of, in every schema.
const STATE: &str = "
    SELECT c.oid::regclass::text, c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.reloptions,
           (SELECT array_agg(polname || pg_get_expr(polqual, polrelid) || polroles::text ORDER BY polname) FROM pg_policy WHERE polrelid = c.oid),
           (SELECT array_agg(format('%s %s', tgname, tgenabled) ORDER BY tgname) FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal),
           (SELECT array_agg(format('%s %s %s', attname, attnotnull, atthasdef) ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0),
           (SELECT array_agg(rulename ORDER BY rulename) FROM pg_rewrite WHERE ev_class = c.oid)
    FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v', 'm') ORDER BY 1";

fn world() -> World {
    let world = World::new();
    owner(&world)
        .run("CREATE VIEW good_view WITH (security_invoker = true) AS SELECT * FROM servers");
    world.superuser().run(&format!(
        "GRANT CREATE ON DATABASE {} TO {}",
        world.db.name,
        world.table_owner()
    ));
    world
}

#[test]
fn b1_what_weakens_a_table_is_refused() {
    let world = world();
    let before = world.superuser().rows(STATE);
    for (sql, _) in WEAKENING {
        for (who, mut session) in [
            ("the owner", owner(&world)),
            ("a superuser", world.superuser()),
        ] {
            let error = session
                .attempt(sql)
                .err()
                .unwrap_or_else(|| panic!("{who} was let: {sql}"));
            let error = error.as_db_error().unwrap();
            assert_eq!(error.code().code(), "42501", "{who}: {sql}: {error:?}");
            assert!(
                error.hint().is_some() && error.detail().is_some(),
                "{sql}: {error:?}"
            );
        }
        assert_eq!(world.superuser().rows(STATE), before, "{sql}");
    }
}

#[test]
fn b1_what_weakens_a_table_is_mended_or_refused() {
    for (sql, mendable) in WEAKENING {
        // Each from the same start, in a transaction that is undone.
        thread_local! { static WORLD: World = { let w = world(); on_drift(&w, "mend"); w } }
        WORLD.with(|world| {
            let before = world.superuser().rows(STATE);
            for mut session in [owner(world), world.superuser()] {
                session.run("BEGIN");
                let result = session.attempt(sql);
                assert_eq!(result.is_ok(), *mendable, "{sql}: {result:?}");
                if result.is_ok() {
                    let after = session.rows(STATE);
                    // What was there is as before, apart from a view's place on the list; what is new is safe.
                    for line in &before {
                        assert!(after.contains(line), "{sql}: {line:?} is now {after:?}");
                    }
                    for line in after.iter().filter(|line| !before.contains(line)) {
                        let text = format!("{line:?}");
                        assert!(
                            text.contains("security_invoker=true")
                                || text.contains("tenancy_select_boundary"),
                            "{sql}: {text}"
                        );
                    }
                }
                session.run("ROLLBACK");
            }
        });
    }
}

#[test]
fn warned_of_and_written_down() {
    let world = world();
    on_drift(&world, "warn");
    for (sql, _) in WEAKENING {
        let mut session = owner(&world);
        session.run("BEGIN");
        session.run(sql);
        session.run("ROLLBACK");
    }
    let log = world.db.cluster.log();
    for line in [
        "row security is off on protected table public.servers",
        "view public.all_servers reads protected table",
        "materialized view public.all_servers would hold",
        "policy \"tenancy_delete\" of protected table public.servers is missing",
    ] {
        assert!(log.contains(line), "{line}");
    }
}

#[test]
fn break_glass_passes_and_is_written_down() {
    let world = world();
    let mut session = world.break_glass();
    for (sql, _) in WEAKENING {
        session.run("BEGIN");
        session.run(sql);
        session.run("ROLLBACK");
    }
    assert!(
        world
            .db
            .cluster
            .log()
            .contains("break-glass: row security is off on protected table public.servers")
    );
    // Nobody but who may bypass row security: for the others the setting means nothing.
    let mut session = owner(&world);
    session.run("SET row_security = off");
    refused(
        session.attempt("ALTER TABLE servers NO FORCE ROW LEVEL SECURITY"),
        "42501",
    );
}

#[test]
fn the_setting_is_the_superusers() {
    let world = world();
    let mut session = owner(&world);
    // Said before the library is there, it is forgotten when it comes.
    session.run("SET tenancy.on_drift = warn");
    refused(
        session.attempt("ALTER TABLE servers NO FORCE ROW LEVEL SECURITY"),
        "42501",
    );
    for sql in [
        "SET tenancy.on_drift = warn",
        "SELECT set_config('tenancy.on_drift', 'warn', false)",
    ] {
        let error = session.attempt(sql).expect_err(sql);
        assert_eq!(error.code().unwrap().code(), "42501");
    }
}

#[test]
fn everyday_migrations_go_through() {
    let world = world();
    for mode in ["refuse", "mend"] {
        on_drift(&world, mode);
        let mut session = owner(&world);
        for sql in [
            "ALTER TABLE servers ADD COLUMN memory int DEFAULT 1",
            "ALTER TABLE servers ALTER memory TYPE bigint",
            "ALTER TABLE servers RENAME memory TO ram",
            "ALTER TABLE servers DROP COLUMN ram",
            "CREATE INDEX ON servers (name)",
            "ALTER TABLE servers ADD CONSTRAINT positive CHECK (cpus > 0)",
            "ALTER TABLE servers DROP CONSTRAINT positive",
            "ALTER TABLE servers RENAME org_id TO tenant; ALTER TABLE servers RENAME tenant TO org_id",
            "ALTER TABLE servers RENAME TO machines; ALTER TABLE machines RENAME TO servers",
            "CREATE TABLE plain (id int, org_id uuid); ALTER TABLE plain ADD COLUMN x int; DROP TABLE plain",
            "CREATE TABLE plain AS SELECT * FROM regions; DROP TABLE plain",
            "CREATE TABLE plain (LIKE regions); DROP TABLE plain",
            "CREATE VIEW v AS SELECT * FROM regions; CREATE MATERIALIZED VIEW m AS SELECT * FROM v; DROP VIEW v CASCADE",
            "CREATE VIEW v WITH (security_invoker) AS SELECT * FROM servers; DROP VIEW v",
            "CREATE VIEW v WITH (security_invoker = on) AS SELECT * FROM good_view; DROP VIEW v",
            "CREATE TEMP TABLE mine AS SELECT * FROM servers; CREATE TEMP VIEW my_view AS SELECT * FROM servers; DROP TABLE mine; DROP VIEW my_view",
            "CREATE POLICY mine ON servers AS RESTRICTIVE USING (id > 0); DROP POLICY mine ON servers",
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
             CREATE TRIGGER mine BEFORE INSERT ON servers FOR EACH ROW EXECUTE FUNCTION f();
             ALTER TABLE servers DISABLE TRIGGER mine; DROP TRIGGER mine ON servers; DROP FUNCTION f()",
            "SELECT tenancy.unprotect('sites'); SELECT tenancy.protect('sites')",
            "BEGIN; CREATE TABLE later (id int, org_id uuid); SELECT tenancy.protect('later'); DROP TABLE later; COMMIT",
            "CREATE SCHEMA s; ALTER TABLE sites SET SCHEMA s; ALTER TABLE s.sites SET SCHEMA public; DROP SCHEMA s",
        ] {
            session.run(sql);
        }
        assert_eq!(
            world.seen(&mut world.session("acme.viewer"), "servers"),
            (3, 0)
        );
    }
    world
        .superuser()
        .run("ALTER TABLE servers OWNER TO postgres; DROP TABLE sites; DROP TABLE servers CASCADE");
}

#[test]
fn c7_a_permissive_policy_widens_nothing_and_is_nobodys_business() {
    let world = world();
    owner(&world).run("CREATE POLICY all_of_it ON servers USING (true) WITH CHECK (true)");
    let mut viewer = world.session("acme.viewer");
    assert_eq!(world.seen(&mut viewer, "servers"), (3, 0));
    refused(viewer.attempt("DELETE FROM servers"), "42501");
}

#[test]
fn what_runs_inside_our_own_ddl_gains_nothing() {
    // protect() runs ALTER TABLE, which evaluates the owner's functions: they are no part of protect().
    let world = world();
    let mut session = owner(&world);
    session.run(
        "CREATE FUNCTION sly(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
         BEGIN
             ALTER TABLE servers NO FORCE ROW LEVEL SECURITY;
             RETURN i;
         END $$;
         CREATE TABLE bait (id int, org_id uuid);
         CREATE INDEX ON bait (sly(id)) WHERE id > 0;
         ALTER TABLE bait ADD CHECK (sly(id) > 0) NOT VALID",
    );
    world.break_glass().run(
        &format!(
            "ALTER TABLE bait DISABLE TRIGGER USER; INSERT INTO bait SELECT -1, '{}'",
            world.acme.id
        )
        .replace(
            "INSERT",
            "ALTER TABLE bait DROP CONSTRAINT bait_id_check; INSERT",
        ),
    );
    let _ = session.attempt("SELECT tenancy.protect('bait')");
    assert!(
        world
            .superuser()
            .is_true("SELECT relforcerowsecurity FROM pg_class WHERE oid = 'servers'::regclass")
    );
}

#[test]
fn c3_a_new_table_in_a_watched_schema_is_protected_or_refused() {
    let world = world();
    let mut dba = world.superuser();
    let mut session = owner(&world);
    refused(
        session.attempt("SELECT tenancy.watch_schema('public')"),
        "42501",
    );
    refused(
        dba.attempt("SELECT tenancy.watch_schema('nowhere')"),
        "3F000",
    );
    refused(
        dba.attempt("SELECT tenancy.unwatch_schema('public')"),
        "42704",
    );
    dba.run("SELECT tenancy.watch_schema('public')");
    // Refused where it is left unprotected, when the transaction ends.
    for sql in [
        "CREATE TABLE forgotten (id int, org_id uuid)",
        "CREATE TABLE forgotten (id int); ALTER TABLE forgotten ADD COLUMN org_id uuid",
        "DO $$ BEGIN CREATE TABLE forgotten (id int, org_id uuid); END $$",
        "BEGIN; SAVEPOINT a; CREATE TABLE forgotten (id int, org_id uuid); RELEASE a; COMMIT",
        "CREATE TABLE forgotten (org_id uuid) PARTITION BY HASH (org_id)",
        "BEGIN; CREATE TABLE forgotten (id int, org_id uuid); PREPARE TRANSACTION 'forgotten'",
    ] {
        for mut session in [owner(&world), world.superuser()] {
            let error = refused(session.attempt(sql), "42501");
            assert!(
                error.hint().unwrap().contains("tenancy.protect"),
                "{error:?}"
            );
            session.attempt("ROLLBACK").ok();
        }
    }
    assert!(dba.is_true("SELECT to_regclass('forgotten') IS NULL"));
    // Not where it is protected in time, or is none of the kind, or gone again.
    for sql in [
        "BEGIN; CREATE TABLE good (id int, org_id uuid); SELECT tenancy.protect('good'); COMMIT",
        "BEGIN; CREATE TABLE open (id int, org_id uuid); SELECT tenancy.exempt('open', 'a list of all'); COMMIT",
        "ALTER TABLE open ADD COLUMN x int",
        "BEGIN; CREATE TABLE gone (id int, org_id uuid); DROP TABLE gone; COMMIT",
        "BEGIN; SAVEPOINT a; CREATE TABLE undone (id int, org_id uuid); ROLLBACK TO a; COMMIT",
        "CREATE TABLE plain (id int)",
        "CREATE TEMP TABLE mine (id int, org_id uuid)",
        "ALTER TABLE servers ADD COLUMN x int",
    ] {
        session.run(sql);
    }
    // Break-glass may; then it is as it was made.
    world
        .break_glass()
        .run("CREATE TABLE by_hand (id int, org_id uuid); DROP TABLE by_hand");
    on_drift(&world, "mend");
    let mut session = owner(&world);
    session.run("CREATE TABLE caught (id int, org_id uuid); CREATE TABLE like_it (LIKE caught INCLUDING ALL)");
    for table in ["caught", "like_it"] {
        assert_eq!(
            dba.count(&format!(
                "SELECT count(*) FROM tenancy.protected_tables WHERE table_name = '{table}'::regclass"
            )),
            1,
            "{table}"
        );
    }
    on_drift(&world, "warn");
    owner(&world).run("CREATE TABLE left_alone (id int, org_id uuid)");
    dba.run("SELECT tenancy.unwatch_schema('public')");
    on_drift(&world, "refuse");
    owner(&world).run("CREATE TABLE unwatched (id int, org_id uuid)");
}

#[test]
fn c3_a_table_like_a_protected_one_is_warned_of_or_protected() {
    // It holds no row yet, and is how a partition is prepared.
    let world = world();
    let warnings = || {
        world
            .db
            .cluster
            .log()
            .matches("table public.likeness is not protected")
            .count()
    };
    let before = warnings();
    owner(&world).run("CREATE TABLE likeness (LIKE servers)");
    assert_eq!(warnings(), before + 1);
    owner(&world).run("DROP TABLE likeness");
    on_drift(&world, "mend");
    owner(&world).run("CREATE TABLE likeness (LIKE servers)");
    assert!(world.superuser().is_true(
        "SELECT EXISTS (SELECT FROM tenancy.protected_tables WHERE table_name = 'likeness'::regclass)"
    ));
}

#[test]
fn c11_publications_without_a_filter_are_warned_of() {
    let world = world();
    let mut dba = world.superuser();
    dba.run("CREATE PUBLICATION harmless FOR TABLE regions");
    let count = |w: &World| {
        w.db.cluster
            .log()
            .matches("all organizations' rows of")
            .count()
    };
    dba.run("SET log_min_messages = warning");
    let before = count(&world);
    for (sql, warns) in [
        ("CREATE PUBLICATION p1 FOR TABLE servers", true),
        ("CREATE PUBLICATION p2 FOR ALL TABLES", true),
        ("CREATE PUBLICATION p3 FOR TABLES IN SCHEMA public", true),
        ("ALTER PUBLICATION harmless ADD TABLE sites", true),
        (
            "CREATE PUBLICATION p4 FOR TABLE servers WHERE (org_id = '00000000-0000-0000-0000-000000000001')",
            false,
        ),
    ] {
        let before = count(&world);
        dba.run(sql);
        assert_eq!(count(&world) > before, warns, "{sql}");
    }
    assert!(count(&world) >= before + 4);
}

#[test]
fn leaving_is_not_drift() {
    let world = world();
    let mut dba = world.superuser();
    dba.run("SELECT tenancy.watch_schema('public'); SELECT tenancy.uninstall(); DROP EXTENSION pg_tenancy");
    dba.run("CREATE TABLE t (id int, org_id uuid); CREATE VIEW v AS SELECT * FROM servers; ALTER TABLE servers ENABLE ROW LEVEL SECURITY");
}

/// Evaluated on every organization's rows: what the owner's own functions, and casts that fail, would tell of them.
const TELLING: &[&str] = &[
    "ALTER TABLE servers ADD CHECK (lk(name) IS NOT NULL)",
    "ALTER TABLE servers ADD CHECK (lk(name) IS NOT NULL) NOT VALID",
    "ALTER TABLE servers ADD CHECK (name::int > 0)",
    "ALTER TABLE servers ADD CHECK (CAST(name AS date) > now() AND cpus > 0)",
    "ALTER TABLE servers ADD CHECK (name <<< 'x')",
    "ALTER TABLE servers ADD CHECK (cpus > 0 AND (CASE WHEN name > 'b' THEN lk(name) END) IS NULL)",
    "ALTER TABLE servers ADD CHECK (set_config('my.loot', name, false) <> '')",
    "ALTER TABLE servers ADD COLUMN seen text GENERATED ALWAYS AS (lk(name)) STORED",
    "ALTER TABLE servers ADD COLUMN seen int CHECK (lk(name) IS NOT NULL)",
    "ALTER TABLE servers ALTER name TYPE text USING lk(name)",
    "ALTER TABLE servers ALTER name TYPE int USING name::int",
    "ALTER TABLE servers ALTER name TYPE mine USING name",
    "ALTER TABLE servers ADD EXCLUDE USING btree (lk(name) WITH =)",
    "ALTER TABLE servers ADD EXCLUDE USING btree (id WITH =) WHERE (lk(name) <> '')",
    "CREATE INDEX ON servers (lk(name))",
    "CREATE INDEX ON servers (id) WHERE lk(name) <> ''",
    "CREATE INDEX ON servers (lower(name), pg_temp.lower(name))",
    "CREATE STATISTICS s ON (lk(name)), id FROM servers",
    "DO $$ BEGIN CREATE INDEX ON servers (lk(name)); END $$",
];

#[test]
fn b1_an_owners_ddl_does_not_read_other_organizations_rows() {
    let world = world();
    let mut session = owner(&world);
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE TABLE loot (value text); GRANT ALL ON loot TO PUBLIC; GRANT TEMP ON DATABASE {} TO PUBLIC",
        world.db.name
    ));
    session.run(
        "CREATE FUNCTION lk(v text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE '%', v; RETURN v; END$$;
         CREATE FUNCTION lko(a text, b text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT lk(a) IS NOT NULL';
         CREATE OPERATOR <<< (FUNCTION = lko, LEFTARG = text, RIGHTARG = text);
         CREATE DOMAIN mine AS text CHECK (lk(VALUE) IS NOT NULL);
         CREATE FUNCTION pg_temp.lower(v text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT v'",
    );
    for sql in TELLING {
        let error = refused(session.attempt(sql), "42501");
        assert!(
            error.message().contains("other organizations"),
            "{sql}: {error:?}"
        );
    }
    // What tells nothing of a row goes through.
    for sql in [
        "ALTER TABLE servers ADD CONSTRAINT c CHECK (cpus > 0 AND length(name) BETWEEN 1 AND 50 AND region IN ('eu', 'us')); ALTER TABLE servers DROP CONSTRAINT c",
        "ALTER TABLE servers ADD CONSTRAINT c CHECK (coalesce(lower(name), '') <> '' OR region IS NULL) NOT VALID; ALTER TABLE servers VALIDATE CONSTRAINT c",
        "CREATE INDEX ON servers (lower(name)) WHERE cpus > 0",
        "ALTER TABLE servers ADD COLUMN doubled int GENERATED ALWAYS AS (cpus * 2) STORED",
        "ALTER TABLE servers ADD COLUMN since date DEFAULT '2024-01-01'::date CHECK (since > '2000-01-01'::date)",
        "ALTER TABLE sites ALTER name TYPE varchar(100)",
        "ALTER TABLE regions ADD CHECK (lk(title) IS NOT NULL)",
    ] {
        session.run(sql);
    }
    // Nor where all rows are one's own, or nobody's yet.
    session.run(
        "CREATE TABLE fresh (id int, org_id uuid, v text); SELECT tenancy.protect('fresh'); CREATE INDEX ON fresh (lk(v))",
    );
    // An administrator sees them all anyway.
    dba.run(&format!(
        "SELECT tenancy.grant_administration('{}')",
        world.table_owner()
    ));
    session.run(
        "ALTER TABLE servers ADD CHECK (lk(name) IS NOT NULL); CREATE INDEX ON servers (lk(name))",
    );
    dba.run("ALTER TABLE servers ADD CHECK (lk(name) <> '')");
}

#[test]
fn an_index_on_the_organization_that_goes_is_warned_of() {
    let world = world();
    let warned = || {
        world
            .db
            .cluster
            .log()
            .matches("protected table public.servers has no index on its organization column")
            .count()
    };
    let mut session = owner(&world);
    let index = session.text("SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'servers'::regclass AND NOT indisprimary");
    let before = warned();
    session.run("CREATE INDEX other ON servers (name); DROP INDEX other; ALTER TABLE servers ADD UNIQUE (name); ALTER TABLE servers DROP CONSTRAINT servers_name_key");
    assert_eq!(warned(), before);
    session.run(&format!("DROP INDEX {index}"));
    assert_eq!(warned(), before + 1);
    session.run("ALTER TABLE servers ADD CONSTRAINT pair UNIQUE (org_id, name)");
    session.run("ALTER TABLE servers DROP CONSTRAINT pair");
    assert_eq!(warned(), before + 2);
}

#[test]
fn what_postgresql_refuses_itself_stays_refused() {
    let world = world();
    for mut session in [owner(&world), world.superuser()] {
        for (sql, code) in [
            ("ALTER TABLE servers ALTER org_id TYPE text", "0A000"),
            ("ALTER TABLE servers DROP COLUMN org_id", "2BP01"),
            ("DROP FUNCTION tenancy.org_if(text)", "2BP01"),
        ] {
            let error = session.attempt(sql).expect_err(sql);
            let found = error.code().map_or("", |c| c.code()).to_string();
            assert!(found == code || found == "42501", "{sql}: {error:?}");
        }
    }
}

#[test]
fn c3_a_table_like_a_protected_one_in_a_new_schema_is_warned_of() {
    let world = world();
    owner(&world).run("CREATE SCHEMA other CREATE TABLE likeness (LIKE public.servers)");
    assert!(
        world
            .db
            .cluster
            .log()
            .contains("table other.likeness is not protected")
    );
}
