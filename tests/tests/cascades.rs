//! D5 in depth: what runs inside a cascade runs, for PostgreSQL, as the table's owner without row security. Here the
//! table's owner is himself a tenant who wants another org's rows.

use pg_tenancy_tests::{Session, World, fails};

/// Tables of a login that is bound to a member of acme: p, c (a child that goes with its parent), and other.
struct Attack {
    world: World,
    owner: String,
}

impl Attack {
    fn new() -> Attack {
        let world = World::people();
        let owner = world.table_owner();
        world.superuser().run(&format!(
            "CREATE TABLE p (a int PRIMARY KEY, org_id uuid);
             CREATE TABLE c (id int PRIMARY KEY, a int REFERENCES p ON DELETE CASCADE, org_id uuid);
             CREATE TABLE other (v text, org_id uuid);
             CREATE TABLE loot (t text);
             ALTER TABLE p OWNER TO {owner}; ALTER TABLE c OWNER TO {owner};
             ALTER TABLE other OWNER TO {owner}; ALTER TABLE loot OWNER TO {owner};
             GRANT ALL ON p, c, other, loot TO PUBLIC;
             INSERT INTO p VALUES (1, '{acme}'); INSERT INTO c VALUES (1, 1, '{acme}'), (2, NULL, '{acme}');
             INSERT INTO other VALUES ('bobs secret', '{globex}'), ('mine', '{acme}');
             SELECT tenancy.protect('p'); SELECT tenancy.protect('c');
             SELECT tenancy.protect('other', permissions => '{{\"insert\": \"billing:manage\", \"update\": \"billing:manage\"}}');
             GRANT CREATE ON SCHEMA public TO {owner};
             SELECT tenancy.bind_login('{owner}', '{member}')",
            acme = world.acme.id,
            globex = world.globex.id,
            member = world.user("acme.member"),
        ));
        Attack { world, owner }
    }

    fn session(&self) -> Session {
        let mut session = self.world.db.login(&self.owner);
        session.run(&format!("SET app.current_org = '{}'", self.world.acme.id));
        session
    }

    fn trigger(&self, body: &str) {
        self.session().run(&format!(
            "CREATE OR REPLACE FUNCTION tf() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN OLD; END $$;
             DROP TRIGGER IF EXISTS inside ON c;
             CREATE TRIGGER inside BEFORE DELETE ON c FOR EACH ROW EXECUTE FUNCTION tf()"
        ));
    }

    fn loot(&self) -> Vec<String> {
        self.world.superuser().column("SELECT t FROM loot")
    }
}

#[test]
fn d5_a_plan_made_inside_a_cascade_serves_nobody_outside() {
    for body in [
        "INSERT INTO public.loot SELECT v FROM public.other",
        "BEGIN INSERT INTO public.loot SELECT v FROM public.other; EXCEPTION WHEN others THEN NULL; END",
    ] {
        let attack = Attack::new();
        attack.trigger(body);
        let mut session = attack.session();
        // Inside: refused, or without effect. The same statement outside sees the caller's org only.
        let _ = session.attempt("DELETE FROM p WHERE a = 1");
        assert!(
            !attack.loot().contains(&"bobs secret".to_string()),
            "{body}"
        );
        session.run("DELETE FROM c WHERE id = 2");
        assert_eq!(attack.loot(), ["mine"], "{body}");
    }
}

#[test]
fn d5_a_statement_prepared_inside_a_cascade_sees_its_own_org_outside() {
    let attack = Attack::new();
    attack.trigger("EXECUTE 'PREPARE stolen AS SELECT v FROM public.other'");
    let mut session = attack.session();
    session.run("DELETE FROM p WHERE a = 1");
    assert_eq!(session.column("EXECUTE stolen"), ["mine"]);
}

#[test]
fn d5_a_generic_plan_with_an_inlined_function_is_not_kept_from_a_cascade() {
    let attack = Attack::new();
    attack.session().run(
        "CREATE FUNCTION looked_up() RETURNS SETOF text LANGUAGE sql STABLE BEGIN ATOMIC SELECT v FROM public.other; END",
    );
    attack.trigger(
        "DECLARE n text; BEGIN n := (SELECT string_agg(l, ',') FROM public.looked_up() l);
         INSERT INTO public.loot VALUES (n); END",
    );
    let mut session = attack.session();
    session.run("INSERT INTO c (id) SELECT generate_series(100, 110)");
    // Five plans made for their values, then PostgreSQL makes one for all; the next is made inside the cascade.
    for id in 100..105 {
        session.run(&format!("DELETE FROM c WHERE id = {id}"));
    }
    fails(session.attempt("DELETE FROM p WHERE a = 1"), "42501");
    session.run("DELETE FROM c WHERE id = 105");
    session.run("DELETE FROM c WHERE id = 106");
    assert_eq!(attack.loot(), ["mine"; 7]);
}

#[test]
fn d5_the_text_of_postgresqls_own_check_opens_nothing() {
    for (body, code) in [
        (
            r#"EXECUTE 'SELECT 1 FROM ONLY "public"."other" x WHERE "v"::"pg_catalog"."int4" OPERATOR(pg_catalog.=) 1'"#,
            "42501",
        ),
        (
            r#"EXECUTE 'SELECT 1 FROM ONLY "public"."other" x WHERE "v" OPERATOR(pg_catalog.=) $1 FOR KEY SHARE OF x' USING 'bobs secret'"#,
            "42501",
        ),
        (
            r#"EXECUTE 'UPDATE "public"."other" SET "v" = $1 WHERE "v" OPERATOR(pg_catalog.=) $2' USING 'forced', 'mine'"#,
            "42501",
        ),
    ] {
        let attack = Attack::new();
        attack.trigger(body);
        fails(attack.session().attempt("DELETE FROM p WHERE a = 1"), code);
        let kept = attack
            .world
            .superuser()
            .column("SELECT v FROM other ORDER BY 1");
        assert_eq!(kept, ["bobs secret", "mine"], "{body}");
    }
}

#[test]
fn an_honest_trigger_inside_a_cascade_writes_with_its_rights() {
    let attack = Attack::new();
    attack.world.superuser().run(
        "CREATE TABLE \"Trail (x)\" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, org_id uuid, \"p (a)\" int REFERENCES p ON DELETE CASCADE);
         SELECT tenancy.protect('\"Trail (x)\"'); GRANT ALL ON \"Trail (x)\" TO PUBLIC;
         CREATE TABLE q (id int PRIMARY KEY, org_id uuid, \"f(k)\" int REFERENCES \"Trail (x)\");
         SELECT tenancy.protect('q'); GRANT ALL ON q TO PUBLIC",
    );
    // Names with parentheses, RETURNING of what it writes, and a key that PostgreSQL checks inside.
    attack.trigger(
        "DECLARE n int; BEGIN INSERT INTO public.\"Trail (x)\" (\"p (a)\") VALUES (7) RETURNING id INTO n;
         INSERT INTO public.q VALUES (n, DEFAULT, n) ON CONFLICT (id) DO NOTHING; END",
    );
    let mut session = attack.session();
    session.run("INSERT INTO p VALUES (7)");
    session.run("DELETE FROM p WHERE a = 1");
    assert_eq!(session.count("SELECT count(*) FROM q"), 1);
    assert_eq!(session.count("SELECT count(*) FROM c WHERE a = 1"), 0);
    // A right that the role lacks, it lacks inside too.
    session.run("INSERT INTO p VALUES (8); INSERT INTO c VALUES (8, 8)");
    attack.trigger("INSERT INTO public.other (v) VALUES ('planted')");
    fails(session.attempt("DELETE FROM p WHERE a = 8"), "42501");
}

#[test]
fn d1_a_parent_protected_later_is_guarded_in_open_sessions() {
    let world = World::people();
    world.superuser().run(
        "CREATE TABLE late (a int PRIMARY KEY, org_id uuid);
         CREATE TABLE early (id int PRIMARY KEY, org_id uuid, a int REFERENCES late);
         SELECT tenancy.protect('early'); GRANT ALL ON late, early TO PUBLIC",
    );
    let mut acme = world.session("acme.admin");
    acme.run("INSERT INTO early VALUES (1, DEFAULT, NULL)");
    world.superuser().run("SELECT tenancy.protect('late')");
    world
        .session("globex.admin")
        .run("INSERT INTO late VALUES (50)");
    let other = fails(
        acme.attempt("INSERT INTO early VALUES (2, DEFAULT, 50)"),
        "23503",
    );
    let missing = fails(
        acme.attempt("INSERT INTO early VALUES (2, DEFAULT, 51)"),
        "23503",
    );
    pg_tenancy_tests::assert_same_error(&other, &missing, &[]);
    // Taken away and given again.
    world
        .superuser()
        .run("SELECT tenancy.unprotect('late'); SELECT tenancy.protect('late')");
    fails(
        acme.attempt("INSERT INTO early VALUES (2, DEFAULT, 50)"),
        "23503",
    );
}

#[test]
fn the_logs_key_is_the_key() {
    let world = World::people();
    world.superuser().run(
        "CREATE TABLE t (name text, org_id uuid, extra int, PRIMARY KEY (name) INCLUDE (extra));
         SELECT tenancy.protect('t'); GRANT ALL ON t TO PUBLIC",
    );
    let mut acme = world.session("acme.admin");
    acme.run("INSERT INTO t VALUES ('x', DEFAULT, 1); UPDATE t SET extra = 2; DELETE FROM t");
    assert_eq!(
        acme.column("SELECT key::text FROM tenancy.read_audit(object => 'public.t')"),
        [r#"{"name": "x"}"#; 3]
    );
}

#[test]
fn a_bulk_of_deferred_keys_takes_no_longer_by_the_row() {
    let world = World::people();
    world.superuser().run(
        "CREATE TABLE later (a int PRIMARY KEY, org_id uuid);
         CREATE TABLE sooner (id int PRIMARY KEY, org_id uuid, n int, a int REFERENCES later DEFERRABLE INITIALLY DEFERRED);
         CREATE INDEX ON sooner (a);
         SELECT tenancy.protect('later', audit => false), tenancy.protect('sooner', audit => false);
         GRANT ALL ON later, sooner TO PUBLIC",
    );
    let mut acme = world.session("acme.admin");
    let mut took = |rows: i32| {
        let begun = std::time::Instant::now();
        acme.run(&format!(
            "BEGIN; INSERT INTO sooner (id, n, a) SELECT i, 0, i FROM generate_series(1, {rows}) i;
             UPDATE sooner SET n = 1; INSERT INTO later SELECT i FROM generate_series(1, {rows}) i; COMMIT;
             DELETE FROM sooner; DELETE FROM later"
        ));
        begun.elapsed().as_secs_f64()
    };
    took(1_000);
    let (few, many) = (took(2_000), took(20_000));
    // Ten times the rows; a search of all that is owed for each row would take a hundred times as long.
    assert!(
        many < few * 40.0 + 0.5,
        "{few} s for 2,000 rows, {many} s for 20,000"
    );
}
