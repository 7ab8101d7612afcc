//! What protect() installs, refuses and takes away again; what a protected table does. Attacks C5 to C8, B1, D5.

use pg_tenancy_tests::{Rows, Session, World, fails, refused};

/// Everything about a table that protect() may touch.
fn snapshot(dba: &mut Session, table: &str) -> Rows {
    let mut all = Rows::new();
    for sql in [
        format!(
            "SELECT policyname, permissive, roles::text, cmd, qual, with_check FROM pg_policies
             WHERE (schemaname || '.' || tablename)::regclass = '{table}'::regclass ORDER BY 1"
        ),
        format!(
            "SELECT tgname, tgenabled, pg_get_triggerdef(oid) FROM pg_trigger
             WHERE tgrelid = '{table}'::regclass AND NOT tgisinternal ORDER BY 1"
        ),
        format!("SELECT relrowsecurity, relforcerowsecurity, relkind FROM pg_class WHERE oid = '{table}'::regclass"),
        format!(
            "SELECT attname, attnotnull, attstattarget, pg_get_expr(adbin, adrelid) FROM pg_attribute
             LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
             WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        ),
        format!(
            "SELECT indexrelid::regclass, pg_get_indexdef(indexrelid) FROM pg_index
             WHERE indrelid = '{table}'::regclass ORDER BY 1"
        ),
        format!("SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = '{table}'::regclass ORDER BY 1"),
        format!("SELECT count(*) FROM tenancy.protected_tables WHERE table_name = '{table}'::regclass"),
    ] {
        all.extend(dba.rows(&sql));
    }
    all
}

const MATRIX: &str = r#"{"select": "site:read", "insert": "site:deploy", "update": "site:manage", "delete": "site:delete"}"#;

// ---- What it installs

#[test]
fn protect_installs_what_the_contract_says() {
    let world = World::new();
    let mut dba = world.superuser();
    for table in ["servers", "sites"] {
        assert_eq!(
            dba.rows(&format!(
                "SELECT policyname, permissive, roles::text, cmd FROM pg_policies
                 WHERE tablename = '{table}' ORDER BY policyname"
            )),
            [
                ["tenancy_delete", "PERMISSIVE", "{public}", "DELETE"],
                [
                    "tenancy_delete_boundary",
                    "RESTRICTIVE",
                    "{public}",
                    "DELETE"
                ],
                ["tenancy_insert", "PERMISSIVE", "{public}", "INSERT"],
                [
                    "tenancy_insert_boundary",
                    "RESTRICTIVE",
                    "{public}",
                    "INSERT"
                ],
                ["tenancy_select", "PERMISSIVE", "{public}", "SELECT"],
                [
                    "tenancy_select_boundary",
                    "RESTRICTIVE",
                    "{public}",
                    "SELECT"
                ],
                ["tenancy_update", "PERMISSIVE", "{public}", "UPDATE"],
                [
                    "tenancy_update_boundary",
                    "RESTRICTIVE",
                    "{public}",
                    "UPDATE"
                ],
            ]
            .map(|row| row.map(|v| Some(v.to_string())))
        );
        assert_eq!(
            dba.rows(&format!(
                "SELECT tgname, tgenabled FROM pg_trigger
                 WHERE tgrelid = '{table}'::regclass AND tgname LIKE '0\\_tenancy%'
                   AND tgname IN ('0_tenancy_statement', '0_tenancy_row', '0_tenancy_truncate') ORDER BY 1"
            )),
            ["0_tenancy_row", "0_tenancy_statement", "0_tenancy_truncate"]
                .map(|name| [Some(name.to_string()), Some("A".to_string())])
        );
        // Every trigger of ours fires whatever session_replication_role says.
        assert_eq!(
            dba.count(&format!(
                "SELECT count(*) FROM pg_trigger JOIN pg_proc p ON p.oid = tgfoid
                 WHERE tgrelid = '{table}'::regclass AND pronamespace = 'tenancy'::regnamespace AND tgenabled <> 'A'"
            )),
            0
        );
        assert_eq!(
            dba.rows(&format!(
                "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = '{table}'::regclass"
            )),
            [[Some("t".to_string()), Some("t".to_string())]]
        );
        assert_eq!(
            dba.rows(&format!(
                "SELECT attnotnull, atthasdef FROM pg_attribute
                 WHERE attrelid = '{table}'::regclass AND attname = 'org_id'"
            )),
            [[Some("t".to_string()), Some("t".to_string())]]
        );
        assert_eq!(
            dba.count(&format!(
                "SELECT count(*) FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                 WHERE i.indrelid = '{table}'::regclass AND a.attname = 'org_id' AND i.indisvalid AND i.indpred IS NULL"
            )),
            1
        );
    }
    // Whatever the command, the predicate names the action it needs.
    let reads = |action| format!("org_id = tenancy.org_if('{action}'::text)");
    let writes = |action| format!("tenancy.check_row(tableoid, org_id, '{action}'::text)");
    for (policy, predicate) in [
        ("tenancy_select", reads("server:read")),
        ("tenancy_insert", writes("server:create")),
        ("tenancy_insert_boundary", writes("server:create")),
        ("tenancy_update_boundary", reads("server:update")),
        ("tenancy_update_boundary", writes("server:update")),
        ("tenancy_delete_boundary", reads("server:delete")),
    ] {
        let text = dba.text(&format!(
            "SELECT concat(qual, with_check) FROM pg_policies WHERE tablename = 'servers' AND policyname = '{policy}'"
        ));
        assert!(text.contains(&predicate), "{policy}: {text}");
    }
}

#[test]
fn the_view_lists_what_is_protected_and_how() {
    let world = World::new();
    let mut dba = world.superuser();
    dba.run("CREATE TABLE plain (id int, tenant uuid)");
    dba.run("SELECT tenancy.protect('plain', org_column => 'tenant', audit => false)");
    let rows = dba.json("SELECT * FROM tenancy.protected_tables ORDER BY table_name::text");
    assert_eq!(rows.len(), 3, "{rows:?}");
    let plain = &rows[0];
    assert_eq!(plain["table_name"], "plain");
    assert_eq!(plain["org_column"], "tenant");
    assert_eq!(plain["select_action"], "data:read");
    assert_eq!(plain["insert_action"], "data:write");
    assert_eq!(plain["update_action"], "data:write");
    assert_eq!(plain["delete_action"], "data:write");
    assert_eq!(plain["audited"], false);
    let servers = &rows[1];
    assert_eq!(servers["table_name"], "servers");
    assert_eq!(servers["insert_action"], "server:create");
    assert_eq!(
        servers["column_actions"]["firewall_rules"],
        "server:firewall"
    );
    assert_eq!(servers["audited"], true);
    dba.run("DROP TABLE plain");
    assert_eq!(
        dba.count("SELECT count(*) FROM tenancy.protected_tables"),
        2
    );
}

#[test]
fn protecting_twice_is_protecting_once() {
    let world = World::new();
    let mut dba = world.superuser();
    let sites = snapshot(&mut dba, "sites");
    let again = format!(
        "SELECT tenancy.protect('sites', permissions => '{}')",
        MATRIX.replace('}', r#", "columns": {"certificate": "server:firewall"}}"#)
    );
    dba.run(&again);
    dba.run(&again);
    assert_eq!(snapshot(&mut dba, "sites"), sites);
    assert_eq!(
        dba.count("SELECT count(*) FROM tenancy.protected_tables"),
        2
    );
    // In another way it is no repetition: refused, and nothing changed; undone and done anew it is a change.
    let otherwise = format!(
        "SELECT tenancy.protect('sites', permissions => '{}')",
        MATRIX.replace("site:manage", "site:delete")
    );
    refused(dba.attempt(&otherwise), "42710");
    assert_eq!(snapshot(&mut dba, "sites"), sites);
    dba.run(&format!(
        "BEGIN; SELECT tenancy.unprotect('sites'); {otherwise}; COMMIT"
    ));
    let mut member = world.session("acme.member");
    refused(member.attempt("UPDATE sites SET visits = 0"), "42501");
    assert_eq!(
        dba.text("SELECT update_action FROM tenancy.protected_tables WHERE table_name = 'sites'::regclass"),
        "site:delete"
    );
    assert!(!dba.is_true(
        "SELECT coalesce(column_actions ? 'certificate', false) FROM tenancy.protected_tables
         WHERE table_name = 'sites'::regclass"
    ));
}

#[test]
fn an_index_that_serves_is_not_made_twice() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(
        "CREATE TABLE a (id int PRIMARY KEY, org_id uuid, at timestamptz);
         CREATE INDEX a_org_at ON a (org_id, at);
         CREATE TABLE b (org_id uuid, id int, PRIMARY KEY (org_id, id));
         CREATE TABLE c (id int PRIMARY KEY, org_id uuid, at timestamptz);
         CREATE INDEX c_partial ON c (org_id) WHERE at IS NULL;
         CREATE INDEX c_second ON c (at, org_id);
         SELECT tenancy.protect('a'); SELECT tenancy.protect('b'); SELECT tenancy.protect('c')",
    );
    let indexes = |dba: &mut Session, table: &str| {
        dba.count(&format!(
            "SELECT count(*) FROM pg_index WHERE indrelid = '{table}'::regclass"
        ))
    };
    assert_eq!(indexes(&mut dba, "a"), 2);
    assert_eq!(indexes(&mut dba, "b"), 1);
    // A partial index, or one that begins with another column, does not serve.
    assert_eq!(indexes(&mut dba, "c"), 4);
}

#[test]
fn odd_names_are_quoted() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(&format!(
        r#"CREATE SCHEMA "Odd ""Schema";
           CREATE TABLE "Odd ""Schema"."select; --" ("Key" int PRIMARY KEY, "Org's id" uuid, "we""ird" text);
           SELECT tenancy.protect('"Odd ""Schema"."select; --"', org_column => 'Org''s id',
               permissions => '{{"columns": {{"we\"ird": "server:firewall"}}}}');
           GRANT USAGE ON SCHEMA "Odd ""Schema" TO PUBLIC; GRANT ALL ON "Odd ""Schema"."select; --" TO PUBLIC;
           SET app.current_org = '{}';
           INSERT INTO "Odd ""Schema"."select; --" ("Key") VALUES (1), (2)"#,
        world.acme.id
    ));
    let mut member = world.session("acme.member");
    let table = r#""Odd ""Schema"."select; --""#;
    assert_eq!(member.count(&format!("SELECT count(*) FROM {table}")), 2);
    member.run(&format!(r#"UPDATE {table} SET "Key" = 3 WHERE "Key" = 2"#));
    refused(
        member.attempt(&format!(r#"UPDATE {table} SET "we""ird" = 'x'"#)),
        "42501",
    );
    let mut other = world.session("globex.member");
    assert_eq!(other.count(&format!("SELECT count(*) FROM {table}")), 0);
    dba.run(&format!("SELECT tenancy.unprotect('{table}')"));
}

// ---- What it refuses

#[test]
fn protect_refuses_and_leaves_everything_as_it_was() {
    let world = World::unprotected();
    let mut dba = world.superuser();
    dba.run(
        "CREATE VIEW a_view AS SELECT * FROM servers;
         CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM servers;
         CREATE TABLE no_org (id int);
         CREATE TABLE wrong_type (id int, org_id boolean);
         CREATE INDEX an_index ON no_org (id);
         CREATE SEQUENCE a_sequence",
    );
    let before = snapshot(&mut dba, "servers");
    for (sql, codes) in [
        ("SELECT tenancy.protect('a_view')", &["42809"][..]),
        ("SELECT tenancy.protect('a_matview')", &["42809"]),
        ("SELECT tenancy.protect('an_index')", &["42809"]),
        ("SELECT tenancy.protect('a_sequence')", &["42809"]),
        ("SELECT tenancy.protect('pg_class')", &["42501", "42809"]),
        (
            "SELECT tenancy.protect('information_schema.sql_features')",
            &["42501", "42809"],
        ),
        (
            "SELECT tenancy.protect('tenancy.orgs', org_column => 'id')",
            &["42501", "42809"],
        ),
        (
            "SELECT tenancy.protect('tenancy.memberships')",
            &["42501", "42809"],
        ),
        ("SELECT tenancy.protect('no_org')", &["42703"]),
        (
            "SELECT tenancy.protect('servers', org_column => 'organization')",
            &["42703"],
        ),
        (
            "SELECT tenancy.protect('servers', org_column => 'ctid')",
            &["42703", "42804"],
        ),
        ("SELECT tenancy.protect('wrong_type')", &["42804"]),
        (
            r#"SELECT tenancy.protect('servers', permissions => '{"select": "server:raed"}')"#,
            &["22023"],
        ),
        (
            r#"SELECT tenancy.protect('servers', permissions => '{"selct": "server:read"}')"#,
            &["22023"],
        ),
        (
            r#"SELECT tenancy.protect('servers', permissions => '{"select": 1}')"#,
            &["22023"],
        ),
        (
            r#"SELECT tenancy.protect('servers', permissions => '[]')"#,
            &["22023"],
        ),
        (
            r#"SELECT tenancy.protect('servers', permissions => '{"columns": {"cpus": "server:fly"}}')"#,
            &["22023"],
        ),
        (
            r#"SELECT tenancy.protect('servers', permissions => '{"columns": {"cups": "server:firewall"}}')"#,
            &["42703"],
        ),
    ] {
        let error = dba.attempt(sql).expect_err(sql);
        let error = error.as_db_error().expect("an error of the server");
        assert!(codes.contains(&error.code().code()), "{sql}: {error:?}");
        assert!(error.detail().is_some(), "{sql}: no detail: {error:?}");
        assert!(error.hint().is_some(), "{sql}: no hint: {error:?}");
        if sql.contains("server:raed") {
            assert!(
                error.hint().unwrap().contains("\"server:read\""),
                "{error:?}"
            );
        }
        if sql.contains("cups") {
            assert!(
                format!("{} {:?}", error.message(), error.detail()).contains("cups"),
                "{error:?}"
            );
        }
    }
    assert_eq!(snapshot(&mut dba, "servers"), before);
    assert_eq!(
        dba.count("SELECT count(*) FROM tenancy.protected_tables"),
        0
    );
    fails(
        dba.attempt("SELECT tenancy.protect('no_such_table')"),
        "42P01",
    );
}

#[test]
fn protect_reports_rows_without_org_before_it_changes_anything() {
    let world = World::unprotected();
    let mut dba = world.superuser();
    dba.run("INSERT INTO servers (id, name) SELECT i, 'lost' FROM generate_series(201, 207) i");
    let before = snapshot(&mut dba, "servers");
    let error = refused(dba.attempt("SELECT tenancy.protect('servers')"), "23502");
    assert!(
        format!("{} {:?}", error.message(), error.detail()).contains('7'),
        "{error:?}"
    );
    assert_eq!(snapshot(&mut dba, "servers"), before);
    // Also in a transaction that goes on.
    dba.run("BEGIN");
    refused(
        dba.attempt_within("SELECT tenancy.protect('servers')"),
        "23502",
    );
    dba.run("COMMIT");
    assert_eq!(snapshot(&mut dba, "servers"), before);
    dba.run("DELETE FROM servers WHERE name = 'lost'");
    dba.run("SELECT tenancy.protect('servers')");
}

#[test]
fn protect_reports_references_across_orgs_before_it_changes_anything() {
    for order in [["servers", "sites"], ["sites", "servers"]] {
        let world = World::unprotected();
        let mut dba = world.superuser();
        dba.run("UPDATE sites SET server_id = 101 WHERE id IN (2, 3)");
        dba.run(&format!("SELECT tenancy.protect('{}')", order[0]));
        let before = snapshot(&mut dba, order[1]);
        let error = refused(
            dba.attempt(&format!("SELECT tenancy.protect('{}')", order[1])),
            "23503",
        );
        assert!(
            format!("{} {:?}", error.message(), error.detail()).contains('2'),
            "{error:?}"
        );
        assert_eq!(snapshot(&mut dba, order[1]), before);
        dba.break_glass_fix();
        dba.run(&format!("SELECT tenancy.protect('{}')", order[1]));
    }
}

trait Fix {
    fn break_glass_fix(&mut self);
}
impl Fix for Session {
    fn break_glass_fix(&mut self) {
        self.run("SET row_security = off; UPDATE sites SET server_id = NULL WHERE id IN (2, 3); SET row_security = on");
    }
}

#[test]
fn protecting_is_for_the_tables_owner_or_the_dba() {
    let world = World::unprotected();
    for mut session in [world.session("acme.owner"), world.app(), world.nobody()] {
        for act in ["protect", "unprotect"] {
            refused(
                session.attempt(&format!("SELECT tenancy.{act}('servers')")),
                "42501",
            );
        }
    }
    let mut owner = world.db.login(&world.table_owner());
    owner.run("SELECT tenancy.protect('servers')");
    for mut session in [world.session("acme.owner"), world.nobody()] {
        refused(
            session.attempt("SELECT tenancy.unprotect('servers')"),
            "42501",
        );
    }
    assert_eq!(
        world.seen(&mut world.session("acme.viewer"), "servers"),
        (3, 0)
    );
    owner.run("SELECT tenancy.unprotect('servers')");
}

// ---- What it takes away

#[test]
fn unprotect_leaves_the_table_as_it_was() {
    let world = World::unprotected();
    let mut dba = world.superuser();
    // One bare, one with row security, an index, NOT NULL and a default of its own.
    dba.run(
        "ALTER TABLE sites ALTER org_id SET NOT NULL, ALTER org_id SET DEFAULT '00000000-0000-0000-0000-000000000000';
         CREATE INDEX sites_org ON sites (org_id, id);
         ALTER TABLE sites ENABLE ROW LEVEL SECURITY;
         CREATE POLICY mine ON sites USING (visits >= 0)",
    );
    for table in ["servers", "sites"] {
        let before = snapshot(&mut dba, table);
        let hashes = (
            world.hash(table, world.acme),
            world.hash(table, world.globex),
        );
        dba.run(&format!("SELECT tenancy.protect('{table}')"));
        assert_ne!(snapshot(&mut dba, table), before);
        dba.run(&format!("SELECT tenancy.unprotect('{table}')"));
        assert_eq!(snapshot(&mut dba, table), before, "{table}");
        assert_eq!(
            (
                world.hash(table, world.acme),
                world.hash(table, world.globex)
            ),
            hashes
        );
    }
    assert_eq!(
        dba.count("SELECT count(*) FROM tenancy.protected_tables"),
        0
    );
    // An unprotected table is refused politely, or nothing happens; it is not an internal error.
    if let Err(error) = dba.attempt("SELECT tenancy.unprotect('servers')") {
        assert_ne!(error.as_db_error().unwrap().code().code(), "XX000");
    }
    // Everything works again without a context.
    let mut session = world.nobody();
    assert_eq!(world.seen(&mut session, "servers"), (3, 3));
    session.run("UPDATE servers SET cpus = 9");
}

#[test]
fn unprotect_takes_the_guards_of_foreign_keys_along() {
    let world = World::new();
    let mut dba = world.superuser();
    dba.run("SELECT tenancy.unprotect('servers')");
    assert_eq!(
        dba.count(
            "SELECT count(*) FROM pg_trigger JOIN pg_proc p ON p.oid = tgfoid
             WHERE tgrelid = 'servers'::regclass AND pronamespace = 'tenancy'::regnamespace"
        ),
        0
    );
    // A reference to a table that is no longer protected is a plain reference.
    let mut admin = world.session("acme.admin");
    admin.run("INSERT INTO sites (id, name, server_id) VALUES (50, 'acme-x', 101)");
}

// ---- How a protected table behaves

#[test]
fn everyone_sees_his_orgs_rows_only() {
    let world = World::new();
    for who in ["acme.owner", "acme.admin", "acme.member", "acme.viewer"] {
        assert_eq!(
            world.seen(&mut world.session(who), "servers"),
            (3, 0),
            "{who}"
        );
        assert_eq!(
            world.seen(&mut world.session(who), "sites"),
            (6, 0),
            "{who}"
        );
    }
    assert_eq!(
        world.seen(&mut world.session("globex.viewer"), "sites"),
        (0, 6)
    );
    assert_eq!(world.seen(&mut world.nobody(), "sites"), (0, 0));
}

#[test]
fn b1_the_tables_owner_is_no_exception() {
    let world = World::new();
    let owner = world.table_owner();
    let mut session = world.db.login(&owner);
    assert_eq!(world.seen(&mut session, "servers"), (0, 0));
    refused(session.attempt("DELETE FROM servers"), "42501");
    world.superuser().run(&format!(
        "SELECT tenancy.bind_login('{owner}', '{}')",
        world.user("acme.viewer")
    ));
    session.run(&format!("SET app.current_org = '{}'", world.acme.id));
    assert_eq!(world.seen(&mut session, "servers"), (3, 0));
    refused(session.attempt("DELETE FROM servers"), "42501");
}

#[test]
fn the_default_fills_in_the_org() {
    let world = World::new();
    let mut admin = world.session("acme.admin");
    admin.run("INSERT INTO servers (id, name) VALUES (50, 'acme-50')");
    admin.run("INSERT INTO sites (id, name, org_id) VALUES (50, 'acme-50', DEFAULT)");
    for table in ["servers", "sites"] {
        assert_eq!(
            admin.text(&format!("SELECT org_id FROM {table} WHERE id = 50")),
            world.acme.id.to_string()
        );
    }
    admin
        .attempt("INSERT INTO sites (id, name, org_id) VALUES (51, 'x', NULL)")
        .unwrap_err();
}

#[test]
fn another_orgs_id_is_refused() {
    let world = World::new();
    let (acme, globex) = (world.acme.id, world.globex.id);
    let before = world.hash("servers", world.globex);
    for who in ["acme.admin", "agency"] {
        let mut session = world.session(who);
        for sql in [
            format!("INSERT INTO servers (id, name, org_id) VALUES (60, 'x', '{globex}')"),
            format!("INSERT INTO servers (id, name, org_id) SELECT 60, 'x', '{globex}'"),
            format!("UPDATE servers SET org_id = '{globex}'"),
            format!("UPDATE servers SET org_id = '{globex}' WHERE id = 1"),
            "UPDATE servers SET org_id = gen_random_uuid() WHERE id = 1".to_string(),
        ] {
            refused(session.attempt(&sql), "42501");
        }
        session
            .attempt("UPDATE servers SET org_id = NULL WHERE id = 1")
            .unwrap_err();
        // Saying one's own org is no change.
        session.run(&format!(
            "UPDATE servers SET org_id = '{acme}' WHERE id = 1"
        ));
        session.run(&format!(
            "INSERT INTO servers (id, name, org_id) VALUES (70, 'acme-70', '{acme}'); DELETE FROM servers WHERE id = 70"
        ));
    }
    assert_eq!(world.hash("servers", world.globex), before);
    // The DBA in a context is held to it, too.
    let mut dba = world.superuser();
    dba.run(&format!("SET app.current_org = '{acme}'"));
    for sql in [
        format!("INSERT INTO servers (id, name, org_id) VALUES (60, 'x', '{globex}')"),
        "UPDATE servers SET name = 'x' WHERE id = 101".to_string(),
        "DELETE FROM servers WHERE id = 101".to_string(),
        format!("UPDATE servers SET org_id = '{globex}' WHERE id = 1"),
    ] {
        refused(dba.attempt(&sql), "42501");
    }
    assert_eq!(world.hash("servers", world.globex), before);
}

#[test]
fn a_statement_without_a_context_is_refused_even_if_it_touches_nothing() {
    let world = World::new();
    for mut session in [
        world.bound("acme.owner"),
        world.bound("stranger"),
        world.app(),
        world.nobody(),
        world.superuser(),
    ] {
        for sql in [
            "UPDATE servers SET cpus = 1 WHERE false",
            "DELETE FROM servers WHERE id = -1",
            "INSERT INTO servers (id, name) SELECT 1, 'x' WHERE false",
            "INSERT INTO servers (id, name) VALUES (60, 'x')",
            "UPDATE servers SET cpus = 1",
            "DELETE FROM sites",
            "INSERT INTO servers (id, name) VALUES (60, 'x') ON CONFLICT DO NOTHING",
        ] {
            refused(session.attempt(sql), "42501");
        }
    }
}

#[test]
fn a_role_without_the_action_is_refused_in_words() {
    let world = World::new();
    for (who, sql, action, table) in [
        (
            "acme.viewer",
            "INSERT INTO servers (id, name) VALUES (60, 'x')",
            "server:create",
            "servers",
        ),
        (
            "acme.viewer",
            "UPDATE servers SET cpus = 2",
            "server:update",
            "servers",
        ),
        (
            "acme.viewer",
            "DELETE FROM servers WHERE id = 1",
            "server:delete",
            "servers",
        ),
        (
            "acme.viewer",
            "DELETE FROM servers WHERE false",
            "server:delete",
            "servers",
        ),
        (
            "acme.viewer",
            "UPDATE sites SET visits = 1 WHERE false",
            "site:manage",
            "sites",
        ),
        (
            "acme.member",
            "INSERT INTO servers (id, name) VALUES (60, 'x')",
            "server:create",
            "servers",
        ),
        ("acme.member", "DELETE FROM sites", "site:delete", "sites"),
        (
            "globex.viewer",
            "INSERT INTO sites (id, name) VALUES (160, 'x')",
            "site:deploy",
            "sites",
        ),
    ] {
        let error = refused(world.session(who).attempt(sql), "42501");
        let (slug, role) = who.split_once('.').unwrap();
        assert_eq!(
            error.message(),
            format!("permission denied: role \"{role}\" may not {action} on table \"{table}\"")
        );
        let org = if slug == "acme" {
            world.acme
        } else {
            world.globex
        };
        let detail = error.detail().unwrap();
        assert!(
            detail.contains(org.name)
                || detail.contains(&org.id.to_string())
                || detail.contains(org.slug),
            "{detail}"
        );
    }
}

#[test]
fn each_role_may_what_the_matrix_says() {
    let world = World::new();
    let acts = [
        (
            "INSERT INTO servers (id, name) VALUES (60, 'acme-x')",
            [true, true, false, false],
        ),
        (
            "UPDATE servers SET cpus = 8 WHERE id = 1",
            [true, true, false, false],
        ),
        (
            "DELETE FROM servers WHERE id = 1",
            [true, true, false, false],
        ),
        (
            "INSERT INTO sites (id, name) VALUES (60, 'acme-x')",
            [true, true, true, false],
        ),
        (
            "UPDATE sites SET visits = 8 WHERE id = 1",
            [true, true, true, false],
        ),
        ("DELETE FROM sites WHERE id = 1", [true, true, false, false]),
        (
            "UPDATE sites SET certificate = 'x' WHERE id = 1",
            [true, true, false, false],
        ),
        (
            "UPDATE servers SET firewall_rules = 'x' WHERE id = 1",
            [true, true, false, false],
        ),
    ];
    for (i, role) in pg_tenancy_tests::ROLES.iter().enumerate() {
        let mut session = world.session(&format!("acme.{role}"));
        for (sql, allowed) in &acts {
            session.run("BEGIN");
            let result = session.attempt(sql);
            if allowed[i] {
                assert_eq!(result.unwrap_or_else(|e| panic!("{role}: {sql}: {e:?}")), 1);
            } else {
                refused(result, "42501");
            }
            session.run("ROLLBACK");
        }
    }
}

#[test]
fn a_column_with_an_action_of_its_own() {
    let world = World::new();
    let mut member = world.session("acme.member");
    let error = refused(
        member.attempt("UPDATE sites SET certificate = 'mine' WHERE id = 1"),
        "42501",
    );
    assert!(error.message().contains("server:firewall"), "{error:?}");
    assert!(
        format!("{} {:?}", error.message(), error.detail()).contains("certificate"),
        "{error:?}"
    );
    // A full-row save of unchanged values passes, as an ORM does it.
    assert_eq!(
        member.run(
            "UPDATE sites SET (org_id, server_id, name, visits, certificate)
                 = (SELECT org_id, server_id, 'acme-renamed', visits + 1, certificate FROM sites WHERE id = 1) WHERE id = 1"
        ),
        1
    );
    assert_eq!(member.run("UPDATE sites SET certificate = certificate"), 6);
    assert_eq!(
        member.run("UPDATE sites SET certificate = 'none', visits = 7"),
        6
    );
    // One changed row among many is enough.
    refused(
        member
            .attempt("UPDATE sites SET certificate = CASE id WHEN 6 THEN 'x' ELSE certificate END"),
        "42501",
    );
    refused(
        member.attempt(
            "INSERT INTO sites (id, name) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET certificate = 'x'",
        ),
        "42501",
    );
    refused(
        member.attempt(
            "MERGE INTO sites USING (SELECT 1 AS id) n ON sites.id = n.id WHEN MATCHED THEN UPDATE SET certificate = 'x'",
        ),
        "42501",
    );
    assert_eq!(
        world
            .superuser()
            .count("SELECT count(*) FROM sites WHERE certificate <> 'none'"),
        0
    );
}

#[test]
fn a_column_changed_by_a_trigger_is_changed() {
    let world = World::new();
    world.superuser().run(
        "CREATE FUNCTION sneak() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN NEW.certificate := 'sneaked'; RETURN NEW; END $$;
         CREATE TRIGGER zz_sneak BEFORE UPDATE ON sites FOR EACH ROW EXECUTE FUNCTION sneak()",
    );
    let mut member = world.session("acme.member");
    refused(
        member.attempt("UPDATE sites SET visits = 1 WHERE id = 1"),
        "42501",
    );
    assert_eq!(
        world
            .session("acme.admin")
            .run("UPDATE sites SET visits = 1 WHERE id = 1"),
        1
    );
}

#[test]
fn d4_a_later_trigger_cannot_move_a_row_to_another_org() {
    let world = World::new();
    world.superuser().run(&format!(
        "CREATE FUNCTION sneak() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN NEW.org_id := '{}'; RETURN NEW; END $$;
         CREATE TRIGGER zz_sneak BEFORE INSERT OR UPDATE ON sites FOR EACH ROW EXECUTE FUNCTION sneak()",
        world.globex.id
    ));
    let before = world.hash("sites", world.globex);
    let mut admin = world.session("acme.admin");
    fails(
        admin.attempt("INSERT INTO sites (id, name) VALUES (60, 'x')"),
        "42501",
    );
    fails(
        admin.attempt("UPDATE sites SET visits = 1 WHERE id = 1"),
        "42501",
    );
    // Neither where row security does not look: the DBA in a context.
    let mut dba = world.superuser();
    dba.run(&format!("SET app.current_org = '{}'", world.acme.id));
    refused(
        dba.attempt("INSERT INTO sites (id, name) VALUES (60, 'x')"),
        "42501",
    );
    refused(
        dba.attempt("UPDATE sites SET visits = 1 WHERE id = 1"),
        "42501",
    );
    assert_eq!(world.hash("sites", world.globex), before);
}

#[test]
fn locking_rows_needs_the_right_to_update() {
    let world = World::new();
    for strength in ["UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"] {
        let sql = format!("SELECT * FROM servers FOR {strength}");
        refused(world.session("acme.viewer").attempt(&sql), "42501");
        refused(world.session("acme.member").attempt(&sql), "42501");
        assert_eq!(world.session("acme.admin").run(&sql), 3);
    }
    assert_eq!(
        world
            .session("acme.member")
            .run("SELECT * FROM sites FOR UPDATE"),
        6
    );
    refused(
        world.session("acme.viewer").attempt(
            "SELECT s.name FROM sites s JOIN servers v ON v.id = s.server_id FOR UPDATE OF s",
        ),
        "42501",
    );
    // Reading beside it stays free.
    assert_eq!(world.session("acme.viewer").run("SELECT * FROM servers"), 3);
}

#[test]
fn c8_an_upsert_needs_both_rights_and_touches_its_own_org_only() {
    let world = World::new();
    let globex = world.hash("sites", world.globex);
    let upsert = |id: i32| {
        format!(
            "INSERT INTO sites (id, name) VALUES ({id}, 'acme-upserted')
             ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING name"
        )
    };
    let mut member = world.session("acme.member");
    assert_eq!(member.text(&upsert(1)), "acme-upserted");
    assert_eq!(member.text(&upsert(60)), "acme-upserted");
    refused(world.session("acme.viewer").attempt(&upsert(1)), "42501");
    // A key of the other org: an error, and nothing changed or shown.
    let error = member.attempt(&upsert(101)).unwrap_err();
    let error = error.as_db_error().unwrap();
    assert!(!format!("{error:?}").contains("globex"), "{error:?}");
    assert_eq!(
        member.run("INSERT INTO sites (id, name) VALUES (101, 'x') ON CONFLICT DO NOTHING"),
        0
    );
    assert_eq!(world.hash("sites", world.globex), globex);

    // The insert's right alone is not enough where a row is there.
    world.superuser().run(
        r#"BEGIN; SELECT tenancy.unprotect('sites');
           SELECT tenancy.protect('sites', permissions => '{"select": "site:read", "insert": "site:deploy",
            "update": "site:delete", "delete": "site:delete"}'); COMMIT"#,
    );
    refused(member.attempt(&upsert(2)), "42501");
    member.run("INSERT INTO sites (id, name) VALUES (61, 'acme-61') ON CONFLICT DO NOTHING");
    // Nor is the update's.
    world.superuser().run(
        r#"BEGIN; SELECT tenancy.unprotect('sites');
           SELECT tenancy.protect('sites', permissions => '{"select": "site:read", "insert": "site:delete",
            "update": "site:manage", "delete": "site:delete"}'); COMMIT"#,
    );
    refused(member.attempt(&upsert(2)), "42501");
    member.run("UPDATE sites SET name = 'acme-updated' WHERE id = 2");
}

#[test]
fn c8_merge_needs_the_rights_of_its_branches_and_touches_its_own_org_only() {
    let world = World::new();
    let globex = world.hash("sites", world.globex);
    let merge = "MERGE INTO sites t USING (VALUES (1, 'acme-one'), (60, 'acme-sixty')) n(id, name) ON t.id = n.id
                 WHEN MATCHED THEN UPDATE SET name = n.name
                 WHEN NOT MATCHED THEN INSERT (id, name) VALUES (n.id, n.name)";
    assert_eq!(world.session("acme.member").run(merge), 2);
    refused(world.session("acme.viewer").attempt(merge), "42501");
    let wipe =
        "MERGE INTO sites t USING (SELECT 0 AS id) n ON t.id > n.id WHEN MATCHED THEN DELETE";
    refused(world.session("acme.member").attempt(wipe), "42501");
    assert_eq!(world.session("acme.admin").run(wipe), 7);
    assert_eq!(world.hash("sites", world.globex), globex);
}

#[test]
fn returning_and_forgotten_wheres_stay_in_the_org() {
    let world = World::new();
    let globex = (
        world.hash("servers", world.globex),
        world.hash("sites", world.globex),
    );
    let mut admin = world.session("acme.admin");
    let names = admin.column("UPDATE sites SET visits = 0 RETURNING name");
    assert_eq!(names.len(), 6);
    assert!(
        names.iter().all(|name| name.starts_with("acme-")),
        "{names:?}"
    );
    assert_eq!(
        admin.run("UPDATE sites SET visits = s.cpus FROM servers s WHERE s.id > 100"),
        0
    );
    assert_eq!(
        admin.run("DELETE FROM sites USING servers WHERE servers.id <> sites.id"),
        6
    );
    assert_eq!(admin.column("DELETE FROM servers RETURNING name").len(), 3);
    assert_eq!(
        (
            world.hash("servers", world.globex),
            world.hash("sites", world.globex)
        ),
        globex
    );
    assert_eq!(world.seen(&mut world.superuser(), "servers"), (0, 3));
}

#[test]
fn c6_truncate_is_refused() {
    let world = World::new();
    let owner = world.table_owner();
    let mut sessions = vec![
        world.session("acme.owner"),
        world.nobody(),
        world.db.login(&owner),
        world.superuser(),
    ];
    let mut dba = world.superuser();
    dba.run(&format!("SET app.current_org = '{}'", world.acme.id));
    sessions.push(dba);
    for session in &mut sessions {
        for sql in [
            "TRUNCATE sites",
            "TRUNCATE servers CASCADE",
            "TRUNCATE regions CASCADE",
            "TRUNCATE ONLY sites RESTART IDENTITY",
        ] {
            refused(session.attempt(sql), "42501");
        }
    }
    assert_eq!(world.seen(&mut world.superuser(), "sites"), (6, 6));
    // Break-glass is explicit.
    let mut glass = world.break_glass();
    glass.run("BEGIN; TRUNCATE sites; ROLLBACK");
}

#[test]
fn c7_a_policy_of_the_applications_own_does_not_widen() {
    let world = World::new();
    let mut dba = world.superuser();
    for (i, policy) in [
        "FOR ALL TO PUBLIC USING (true) WITH CHECK (true)",
        "FOR SELECT USING (true)",
        "FOR INSERT WITH CHECK (true)",
        "FOR UPDATE USING (true) WITH CHECK (true)",
        "FOR DELETE USING (true)",
    ]
    .iter()
    .enumerate()
    {
        dba.run(&format!(
            "CREATE POLICY wide{i} ON servers {policy}; CREATE POLICY wide{i} ON sites {policy}"
        ));
    }
    let globex = (
        world.hash("servers", world.globex),
        world.hash("sites", world.globex),
    );
    let mut admin = world.session("acme.admin");
    assert_eq!(world.seen(&mut admin, "servers"), (3, 0));
    assert_eq!(world.seen(&mut world.nobody(), "servers"), (0, 0));
    fails(
        admin.attempt(&format!(
            "INSERT INTO servers (id, name, org_id) VALUES (60, 'x', '{}')",
            world.globex.id
        )),
        "42501",
    );
    assert_eq!(admin.run("UPDATE servers SET cpus = 9"), 3);
    assert_eq!(admin.run("DELETE FROM sites"), 6);
    refused(
        world.session("acme.viewer").attempt("DELETE FROM servers"),
        "42501",
    );
    refused(
        world
            .session("acme.viewer")
            .attempt("SELECT * FROM servers FOR UPDATE"),
        "42501",
    );
    refused(
        world.nobody().attempt("UPDATE servers SET cpus = 9"),
        "42501",
    );
    assert_eq!(
        (
            world.hash("servers", world.globex),
            world.hash("sites", world.globex)
        ),
        globex
    );
    // One that narrows does narrow.
    dba.run("CREATE POLICY narrow ON servers AS RESTRICTIVE FOR SELECT USING (id = 1)");
    assert_eq!(world.seen(&mut admin, "servers"), (1, 0));
}

#[test]
fn c5_copy_to_is_filtered() {
    let world = World::new();
    use std::io::Read;
    for (who, rows) in [("acme.viewer", 3), ("globex.viewer", 3), ("stranger", 0)] {
        let mut session = world.session(who);
        for sql in [
            "COPY servers TO STDOUT",
            "COPY (SELECT * FROM servers) TO STDOUT",
        ] {
            let mut text = String::new();
            session
                .copy_out(sql)
                .unwrap()
                .read_to_string(&mut text)
                .unwrap();
            assert_eq!(text.lines().count(), rows, "{who}: {text}");
            let org = who.split('.').next().unwrap();
            assert!(
                text.lines()
                    .all(|line| line.contains(&format!("{org}-server"))),
                "{who}: {text}"
            );
        }
    }
}

#[test]
fn c10_the_replica_role_skips_no_guard() {
    let world = World::new();
    let mut dba = world.superuser();
    dba.run(&format!(
        "SET app.current_org = '{}'; SET session_replication_role = replica",
        world.acme.id
    ));
    refused(
        dba.attempt(&format!(
            "INSERT INTO servers (id, name, org_id) VALUES (60, 'x', '{}')",
            world.globex.id
        )),
        "42501",
    );
    refused(dba.attempt("DELETE FROM servers WHERE id = 101"), "42501");
    refused(dba.attempt("TRUNCATE sites"), "42501");
}

#[test]
fn break_glass_is_the_superusers_and_passes() {
    let world = World::new();
    let mut glass = world.break_glass();
    glass.run(&format!(
        "INSERT INTO servers (id, name, org_id) VALUES (60, 'acme-60', '{}'), (160, 'globex-160', '{}');
         UPDATE servers SET cpus = 3; DELETE FROM servers WHERE id = 160",
        world.acme.id, world.globex.id
    ));
    assert_eq!(world.seen(&mut glass, "servers"), (4, 3));
    // Anybody else who switches row security off gets PostgreSQL's own error, or is refused.
    for who in ["acme.owner", "stranger"] {
        let mut session = world.session(who);
        session.run("SET row_security = off");
        fails(session.attempt("SELECT * FROM servers"), "42501");
        fails(
            session.attempt("INSERT INTO servers (id, name) VALUES (61, 'x')"),
            "42501",
        );
        fails(session.attempt("DELETE FROM servers"), "42501");
        fails(session.attempt("TRUNCATE sites"), "42501");
    }
    let owner = world.table_owner();
    let mut session = world.db.login(&owner);
    session.run("SET row_security = off");
    fails(session.attempt("DELETE FROM servers"), "42501");
    fails(session.attempt("TRUNCATE sites"), "42501");
}

#[test]
fn a_table_made_later_by_a_tenant_is_his_and_nobody_elses_business() {
    // Defaults: data:read and data:write.
    let world = World::people();
    let mut dba = world.superuser();
    dba.run("CREATE TABLE notes (id int PRIMARY KEY, org_id uuid, body text); GRANT ALL ON notes TO PUBLIC");
    dba.run("SELECT tenancy.protect('notes')");
    let mut member = world.session("acme.member");
    member.run("INSERT INTO notes (id, body) VALUES (1, 'acme')");
    refused(
        world
            .session("acme.viewer")
            .attempt("INSERT INTO notes (id) VALUES (2)"),
        "42501",
    );
    assert_eq!(
        world
            .session("acme.viewer")
            .count("SELECT count(*) FROM notes"),
        1
    );
    assert_eq!(
        world
            .session("globex.owner")
            .count("SELECT count(*) FROM notes"),
        0
    );
}

// ---- Speed of reading

#[test]
fn the_predicate_is_an_index_condition_and_the_estimate_is_true() {
    let world = World::people();
    let mut dba = world.break_glass();
    dba.run(&format!(
        "CREATE TABLE events (id bigint PRIMARY KEY, org_id uuid, kind int NOT NULL);
         INSERT INTO events SELECT i, CASE WHEN i <= 800 THEN '{}'::uuid WHEN i <= 20000 THEN '{}'::uuid
             ELSE md5((i % 50)::text)::uuid END, i % 10 FROM generate_series(1, 40000) i;
         CREATE TABLE kinds (kind int PRIMARY KEY, title text);
         INSERT INTO kinds SELECT i, 'k' || i FROM generate_series(0, 9) i;
         SELECT tenancy.protect('events'); GRANT ALL ON events, kinds TO PUBLIC; ANALYZE events; ANALYZE kinds",
        world.globex.id, world.acme.id
    ));
    let mut small = world.session("globex.viewer");
    let plan = small.explain("COSTS OFF", "SELECT * FROM events");
    assert!(
        plan.contains("Index Cond: (org_id = tenancy.org_if('data:read'::text))"),
        "{plan}"
    );
    // A point read uses its own index and filters, or the other way round; never a scan of the table.
    let plan = small.explain("COSTS OFF", "SELECT * FROM events WHERE id = 17");
    assert!(plan.contains("Index Cond"), "{plan}");
    for (who, share) in [("globex.viewer", 800.0), ("acme.viewer", 19200.0)] {
        let mut session = world.session(who);
        for (sql, expected) in [
            ("SELECT * FROM events", share),
            ("SELECT * FROM events WHERE kind = 3", share / 10.0),
            ("SELECT * FROM events JOIN kinds USING (kind)", share),
        ] {
            let (estimated, actual) = session.estimate(sql);
            assert_eq!(actual, expected, "{who}: {sql}");
            assert!(
                estimated <= actual * 2.0 && estimated >= actual / 2.0,
                "{who}: {sql}: estimated {estimated}, actual {actual}"
            );
        }
        // Through the application, too, whose plan is made in the transaction of its context.
        let mut app = world.app();
        let org = if who.starts_with("acme") {
            world.acme
        } else {
            world.globex
        };
        world.begin(&mut app, org, who);
        let (estimated, actual) = app.estimate("SELECT * FROM events");
        assert!(
            estimated <= actual * 2.0 && estimated >= actual / 2.0,
            "app: {estimated} {actual}"
        );
        app.run("COMMIT");
    }
}

// ---- Definer functions, renames

#[test]
fn c4_a_definer_function_writes_no_other_orgs_row() {
    let world = World::new();
    let owner = world.table_owner();
    let before = world.hash("sites", world.globex);
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE FUNCTION by_superuser() RETURNS void LANGUAGE sql SECURITY DEFINER AS
             $$ UPDATE public.sites SET name = 'hacked' WHERE id = 101 $$;
         CREATE FUNCTION by_superuser_in_break_glass() RETURNS void LANGUAGE sql SECURITY DEFINER SET row_security = off AS
             $$ UPDATE public.sites SET name = 'hacked' WHERE id = 101 $$;
         CREATE FUNCTION by_owner() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS
             $$ WITH u AS (UPDATE public.sites SET visits = 0 RETURNING 1) SELECT count(*) FROM u $$;
         CREATE FUNCTION owners_count() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS
             $$ SELECT count(*) FROM public.sites $$;
         CREATE FUNCTION truncating() RETURNS void LANGUAGE sql SECURITY DEFINER SET row_security = off AS
             $$ TRUNCATE public.sites $$;
         ALTER FUNCTION by_owner() OWNER TO {owner}; ALTER FUNCTION owners_count() OWNER TO {owner}"
    ));
    for who in ["acme.owner", "stranger"] {
        let mut session = world.session(who);
        for row_security in ["on", "off"] {
            session.run(&format!("SET row_security = {row_security}"));
            for function in ["by_superuser", "by_superuser_in_break_glass", "truncating"] {
                fails(session.attempt(&format!("SELECT {function}()")), "42501");
            }
        }
    }
    let mut member = world.session("acme.member");
    assert_eq!(member.count("SELECT owners_count()"), 6);
    assert_eq!(member.count("SELECT by_owner()"), 6);
    fails(
        world.session("acme.viewer").attempt("SELECT by_owner()"),
        "42501",
    );
    assert_eq!(world.nobody().count("SELECT owners_count()"), 0);
    assert_eq!(world.hash("sites", world.globex), before);
}

#[test]
fn renamed_tables_and_columns_stay_protected_and_can_be_unprotected() {
    let world = World::new();
    let mut dba = world.superuser();
    dba.run(
        "CREATE SCHEMA other; GRANT USAGE ON SCHEMA other TO PUBLIC;
         ALTER TABLE sites RENAME TO pages; ALTER TABLE pages SET SCHEMA other; ALTER TABLE other.pages RENAME id TO number",
    );
    let mut member = world.session("acme.member");
    assert_eq!(member.count("SELECT count(*) FROM other.pages"), 6);
    assert_eq!(
        member.run("UPDATE other.pages SET number = number + 1000"),
        6
    );
    fails(
        member.attempt("UPDATE other.pages SET server_id = 101"),
        "23503",
    );
    refused(
        member.attempt("UPDATE other.pages SET certificate = 'x'"),
        "42501",
    );
    // Whatever becomes of the organization's column or of one with an action, it never opens.
    dba.run(
        "ALTER TABLE other.pages RENAME certificate TO cert; ALTER TABLE other.pages RENAME org_id TO tenant;
         ALTER INDEX other.sites_org_id_idx RENAME TO renamed",
    );
    assert_eq!(member.count("SELECT count(*) FROM other.pages"), 6);
    member
        .attempt("UPDATE other.pages SET cert = 'x'")
        .unwrap_err();
    member
        .attempt(&format!(
            "INSERT INTO other.pages (number, name, tenant) VALUES (1, 'x', '{}')",
            world.globex.id
        ))
        .unwrap_err();
    dba.run("SELECT tenancy.unprotect('other.pages')");
    assert_eq!(
        dba.rows("SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = 'other.pages'::regclass"),
        [[Some("f".to_string()), Some("f".to_string())]]
    );
    assert_eq!(world.nobody().count("SELECT count(*) FROM other.pages"), 12);
}

#[test]
fn unprotect_drops_its_own_index_and_nobody_elses() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(
        "CREATE TABLE r (id int, org_id uuid); SELECT tenancy.protect('r');
         ALTER INDEX r_org_id_idx RENAME TO other_name;
         CREATE TABLE bystander (x int); CREATE INDEX r_org_id_idx ON bystander (x);
         SELECT tenancy.unprotect('r')",
    );
    assert_eq!(
        dba.column(
            "SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'bystander'::regclass"
        ),
        ["r_org_id_idx"]
    );
    // One that is gone already is no obstacle.
    dba.run("CREATE TABLE s (id int, org_id uuid); SELECT tenancy.protect('s'); DROP INDEX s_org_id_idx; SELECT tenancy.unprotect('s')");
}

#[test]
fn references_across_orgs_are_found_whatever_the_types() {
    for (parent, child) in [
        ("bigint", "int"),
        ("text", "varchar(20)"),
        ("numeric", "numeric"),
        ("int", "bigint"),
    ] {
        let world = World::people();
        let mut dba = world.superuser();
        dba.run(&format!(
            "CREATE TABLE up (k {parent} PRIMARY KEY, org_id uuid); CREATE TABLE down (id int, k {child} REFERENCES up, org_id uuid);
             INSERT INTO up VALUES ('1', '{0}'), ('2', '{1}'); INSERT INTO down VALUES (1, '1', '{0}'), (2, '2', '{1}');
             SELECT tenancy.protect('up')",
            world.acme.id, world.globex.id
        ));
        dba.run("BEGIN; SELECT tenancy.protect('down'); ROLLBACK");
        dba.run("UPDATE down SET k = '1' WHERE id = 2");
        refused(dba.attempt("SELECT tenancy.protect('down')"), "23503");
    }
}

#[test]
fn b4_roles_that_read_and_write_all_data_are_held_to_the_same_rules() {
    let world = World::new();
    let (bi, bypass) = (world.db.role("bi"), world.db.role("bypass"));
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE ROLE {bi} LOGIN; GRANT pg_read_all_data, pg_write_all_data TO {bi}; CREATE ROLE {bypass} LOGIN BYPASSRLS"
    ));
    world
        .session("acme.admin")
        .run("UPDATE sites SET visits = 1");
    let audit = format!("tenancy_audit.org_{}", world.acme.id.simple());
    let mut session = world.db.login(&bi);
    assert_eq!(world.seen(&mut session, "sites"), (0, 0));
    for table in [
        "tenancy.orgs",
        "tenancy.users",
        "tenancy.memberships",
        "tenancy.login_bindings",
        &audit,
    ] {
        assert_eq!(
            session.count(&format!("SELECT count(*) FROM {table}")),
            0,
            "{table}"
        );
    }
    refused(session.attempt("UPDATE sites SET visits = 0"), "42501");
    for sql in [
        format!("INSERT INTO tenancy.login_bindings (login, kind, user_id, scope) VALUES ('{bi}', 'user', '{}', 'session')", world.user("acme.owner")),
        format!("INSERT INTO tenancy.administrators (role) VALUES ('{bi}')"),
        format!("INSERT INTO tenancy.memberships (org_id, user_id, role) VALUES ('{}', '{}', 'admin')", world.acme.id, world.user("stranger")),
        "INSERT INTO tenancy.role_permissions (role, action, level) VALUES ('viewer', 'x:y', 'allow')".to_string(),
        format!("INSERT INTO {audit} SELECT * FROM {audit}"),
        format!("DELETE FROM {audit}"),
    ] {
        fails(session.attempt(&sql), "42501");
    }
    for sql in [
        "UPDATE tenancy.memberships SET role = 'admin'",
        "DELETE FROM tenancy.memberships",
        "UPDATE tenancy.role_permissions SET level = 'allow'",
        "DELETE FROM tenancy.login_bindings",
    ] {
        assert_eq!(session.attempt(sql).unwrap_or(0), 0, "{sql}");
    }
    // BYPASSRLS reads everything (PostgreSQL's own rule), and writes only where it says that it means to.
    let mut session = world.db.login(&bypass);
    assert_eq!(world.seen(&mut session, "sites"), (6, 6));
    refused(session.attempt("UPDATE sites SET visits = 0"), "42501");
    refused(session.attempt("TRUNCATE sites"), "42501");
    session.run("SET row_security = off; BEGIN; UPDATE sites SET visits = 0; ROLLBACK");
}

#[test]
fn protecting_reaches_statements_prepared_before() {
    let world = World::unprotected();
    let mut dba = world.superuser();
    let mut session = world.session("acme.member");
    let mut idle = world.session("globex.viewer");
    for s in [&mut session, &mut idle] {
        s.run("SET plan_cache_mode = force_generic_plan");
        s.run("PREPARE q AS SELECT count(*) FROM servers; PREPARE w AS UPDATE servers SET cpus = cpus");
        assert_eq!(s.count("EXECUTE q"), 6);
    }
    session.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
    dba.run("BEGIN; SELECT tenancy.protect('servers'); ROLLBACK");
    assert_eq!(idle.run("EXECUTE w"), 6);
    dba.run("SELECT tenancy.protect('servers')");
    assert_eq!(session.count("EXECUTE q"), 3);
    session.run("COMMIT");
    assert_eq!(idle.count("EXECUTE q"), 3);
    refused(idle.attempt("EXECUTE w"), "42501");
    dba.run("SELECT tenancy.unprotect('servers')");
    assert_eq!(idle.count("EXECUTE q"), 6);
    assert_eq!(idle.run("EXECUTE w"), 6);
}

#[test]
fn identities_and_generated_columns() {
    let world = World::people();
    world.superuser().run(
        "CREATE TABLE g (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED, org_id uuid);
         SELECT tenancy.protect('g'); GRANT ALL ON g TO PUBLIC",
    );
    let mut member = world.session("acme.member");
    member.run("INSERT INTO g (a) VALUES (1), (2); UPDATE g SET a = 5 WHERE a = 1");
    let rows = world
        .session("acme.admin")
        .json("SELECT operation, new FROM tenancy.audit_log WHERE object LIKE '%g' ORDER BY at, n");
    assert_eq!(rows[0]["new"]["b"], 2);
    assert_eq!(rows[2]["new"], serde_json::json!({"a": 5, "b": 10}));
}

#[test]
fn what_is_no_table_of_its_own_is_refused() {
    // A partition could be read through the table above it (C1); tests/partitions.rs has the whole trees.
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(
        "CREATE TABLE parent (id int, org_id uuid); CREATE TABLE child () INHERITS (parent);
         CREATE TABLE parted (id int, org_id uuid) PARTITION BY LIST (id); CREATE TABLE part PARTITION OF parted DEFAULT;
         CREATE TEMPORARY TABLE passing (id int, org_id uuid)",
    );
    for table in ["child", "part", "passing"] {
        refused(
            dba.attempt(&format!("SELECT tenancy.protect('{table}')")),
            "42809",
        );
    }
}

// ---- Nobody's code runs with another's rights (C4, B1)

/// A role that owns a schema of its own, where its traps lie. `trap(int)` runs `catch()` where somebody else executes it.
fn trapper(world: &World) -> (String, Session) {
    let role = world.db.role("trapper");
    world.superuser().run(&format!(
        "CREATE ROLE {role} LOGIN; CREATE SCHEMA traps AUTHORIZATION {role};
         SELECT tenancy.bind_login('{role}', '{}')",
        world.user("stranger")
    ));
    let mut session = world.db.login(&role);
    session.run(&format!(
        "CREATE TABLE traps.loot (who text, what text); GRANT ALL ON traps.loot TO PUBLIC; GRANT USAGE ON SCHEMA traps TO PUBLIC;
         CREATE FUNCTION traps.catch() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO traps.loot VALUES (current_user, session_user);
             ALTER ROLE {role} SUPERUSER;
             RETURN 1;
         EXCEPTION WHEN OTHERS THEN RETURN 0; END $$;
         CREATE FUNCTION traps.trap(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
             IF current_user <> '{role}' THEN PERFORM traps.catch(); END IF; RETURN $1; END $$"
    ));
    (role, session)
}

#[track_caller]
fn assert_not_risen(world: &World, role: &str, what: &str) {
    let mut dba = world.superuser();
    assert!(
        !dba.is_true(&format!(
            "SELECT rolsuper FROM pg_roles WHERE rolname = '{role}'"
        )),
        "{what}: {role} is superuser"
    );
    assert_eq!(
        dba.column("SELECT DISTINCT who FROM traps.loot"),
        Vec::<String>::new(),
        "{what}: code of {role} ran as somebody else"
    );
}

#[test]
fn b1_protect_runs_no_code_of_the_tables_owner_as_another() {
    let world = World::people();
    let (role, mut session) = trapper(&world);
    let org = world.acme.id;
    session.run(&format!(
        "CREATE TYPE traps.e AS ENUM ('one', 'two');
         CREATE FUNCTION traps.e2i(traps.e) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT traps.trap(1)';
         CREATE CAST (traps.e AS int) WITH FUNCTION traps.e2i(traps.e) AS IMPLICIT;
         CREATE TABLE traps.partial (id int PRIMARY KEY, org_id uuid, x int);
         CREATE INDEX ON traps.partial (x) WHERE traps.trap(1) = 1;
         CREATE TABLE traps.checked (id int PRIMARY KEY, org_id uuid, x int CHECK (traps.trap(x) = x));
         CREATE TABLE traps.enumerated (id int PRIMARY KEY, org_id uuid, p traps.e REFERENCES traps.enumerated);
         CREATE TABLE traps.indexed (id int, org_id uuid); CREATE INDEX ON traps.indexed ((traps.trap(id)));
         CREATE TABLE traps.generated (id int, org_id uuid, g int GENERATED ALWAYS AS (traps.trap(id)) STORED);
         CREATE TABLE traps.ruled (id int, org_id uuid);
         CREATE RULE r AS ON DELETE TO traps.ruled DO ALSO SELECT traps.trap(1);
         CREATE TABLE traps.policed (id int, org_id uuid); ALTER TABLE traps.policed ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON traps.policed USING (traps.trap(id) = id);
         INSERT INTO traps.partial VALUES (1, '{org}', 1); INSERT INTO traps.checked VALUES (1, '{org}', 1);
         INSERT INTO traps.enumerated VALUES (1, '{org}', 'one'); INSERT INTO traps.indexed VALUES (1, '{org}');
         INSERT INTO traps.generated VALUES (1, '{org}'); INSERT INTO traps.policed VALUES (1, '{org}')"
    ));
    let tables = [
        "partial",
        "checked",
        "enumerated",
        "indexed",
        "generated",
        "ruled",
        "policed",
    ];
    // Protected and unprotected by the owner, as himself.
    for table in tables {
        for constraint_exclusion in ["partition", "on"] {
            session.run(&format!(
                "SET constraint_exclusion = {constraint_exclusion}"
            ));
            session
                .attempt(&format!("SELECT tenancy.protect('traps.{table}')"))
                .ok();
            session
                .attempt(&format!("SELECT tenancy.protect('traps.{table}')"))
                .ok();
            assert_not_risen(&world, &role, table);
            session
                .attempt(&format!("SELECT tenancy.unprotect('traps.{table}')"))
                .ok();
            assert_not_risen(&world, &role, table);
        }
    }
    // By the DBA, who trusts the owner no further.
    let mut dba = world.superuser();
    for table in tables {
        dba.attempt(&format!("SELECT tenancy.protect('traps.{table}')"))
            .ok();
        assert_not_risen(&world, &role, &format!("{table}, by the DBA"));
    }
    assert!(dba.count("SELECT count(*) FROM tenancy.protected_tables") >= 5);
    // Written to by others, read by them, truncated, and the extension taken away.
    dba.run("GRANT ALL ON ALL TABLES IN SCHEMA traps TO PUBLIC");
    dba.attempt("SET row_security = off; TRUNCATE traps.partial")
        .ok();
    assert_not_risen(&world, &role, "TRUNCATE in break-glass");
    dba.run("SELECT tenancy.uninstall()");
    assert_not_risen(&world, &role, "uninstall");
}

#[test]
fn b1_maintenance_by_a_superuser_lends_nobody_his_authority() {
    // PostgreSQL runs an index's functions as the table's owner; whoever asks us meanwhile is that owner, not the superuser.
    let world = World::new();
    let (role, mut session) = trapper(&world);
    session.run(&format!(
        "CREATE FUNCTION traps.spring() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
             BEGIN PERFORM set_config('app.current_org', '{globex}', true);
                 INSERT INTO traps.loot SELECT 'read', v.name FROM public.servers v; EXCEPTION WHEN OTHERS THEN NULL; END;
             BEGIN UPDATE public.servers SET name = 'hacked'; EXCEPTION WHEN OTHERS THEN NULL; END;
             BEGIN PERFORM set_config('row_security', 'off', true); UPDATE public.servers SET name = 'hacked';
                 EXCEPTION WHEN OTHERS THEN NULL; END;
             BEGIN PERFORM tenancy.grant_administration('{role}'); EXCEPTION WHEN OTHERS THEN NULL; END;
             BEGIN PERFORM tenancy.bind_login('{role}', '{victim}'); EXCEPTION WHEN OTHERS THEN NULL; END;
             BEGIN PERFORM tenancy.trust_application('{role}'); EXCEPTION WHEN OTHERS THEN NULL; END;
             BEGIN PERFORM tenancy.unprotect('public.servers'); EXCEPTION WHEN OTHERS THEN NULL; END;
             BEGIN PERFORM tenancy.transfer_ownership('{globex}', '{victim}'); EXCEPTION WHEN OTHERS THEN NULL; END;
             RETURN 1;
         END $$;
         CREATE FUNCTION traps.lure(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
             IF session_user <> '{role}' THEN PERFORM traps.spring(); END IF; RETURN $1; END $$;
         CREATE TABLE traps.bait (id int, x int); INSERT INTO traps.bait SELECT i, i FROM generate_series(1, 200) i;
         CREATE INDEX bait_x ON traps.bait ((traps.lure(x)));
         CREATE MATERIALIZED VIEW traps.view AS SELECT traps.lure(1)",
        globex = world.globex.id,
        victim = world.user("globex.admin"),
    ));
    let before = world.hash("servers", world.globex);
    let mut dba = world.superuser();
    for act in [
        "ANALYZE traps.bait",
        "REINDEX TABLE traps.bait",
        "REFRESH MATERIALIZED VIEW traps.view",
        "VACUUM ANALYZE traps.bait",
    ] {
        dba.attempt(act).ok();
    }
    assert_eq!(
        dba.column("SELECT DISTINCT what FROM traps.loot"),
        Vec::<String>::new()
    );
    assert_eq!(dba.count("SELECT count(*) FROM tenancy.administrators"), 0);
    assert_eq!(
        dba.count("SELECT count(*) FROM tenancy.protected_tables"),
        2
    );
    assert_eq!(
        dba.text(&format!(
            "SELECT kind || ' ' || user_id FROM tenancy.login_bindings WHERE login = '{role}'"
        )),
        format!("user {}", world.user("stranger"))
    );
    assert_eq!(world.hash("servers", world.globex), before);
    assert_eq!(
        dba.text(&format!(
            "SELECT owner_id FROM tenancy.orgs WHERE id = '{}'",
            world.globex.id
        )),
        world.user("globex.owner").to_string()
    );
}

#[test]
fn c4_a_definer_function_of_a_weaker_role_gets_nothing_from_a_superuser_who_calls_it() {
    let world = World::new();
    let (role, mut session) = trapper(&world);
    session.run(&format!(
        "CREATE FUNCTION traps.helpful() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
             BEGIN PERFORM tenancy.grant_administration('{role}'); EXCEPTION WHEN OTHERS THEN NULL; END;
             BEGIN PERFORM tenancy.trust_application('{role}'); EXCEPTION WHEN OTHERS THEN NULL; END;
             BEGIN PERFORM tenancy.unprotect('public.sites'); EXCEPTION WHEN OTHERS THEN NULL; END;
             RETURN 'done';
         END $$; GRANT EXECUTE ON FUNCTION traps.helpful() TO PUBLIC"
    ));
    let mut dba = world.superuser();
    dba.run("SELECT traps.helpful()");
    assert_eq!(dba.count("SELECT count(*) FROM tenancy.administrators"), 0);
    assert_eq!(
        dba.count("SELECT count(*) FROM tenancy.protected_tables"),
        2
    );
    assert_eq!(
        dba.text(&format!(
            "SELECT kind FROM tenancy.login_bindings WHERE login = '{role}'"
        )),
        "user"
    );
}

#[test]
fn protect_looks_at_the_rows_as_they_are_now() {
    // Not as an old snapshot has them.
    let world = World::unprotected();
    let mut dba = world.superuser();
    dba.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM servers");
    world
        .superuser()
        .run("UPDATE sites SET server_id = 101 WHERE id = 1; INSERT INTO servers (id, name) VALUES (300, 'lost')");
    for table in ["servers", "sites"] {
        dba.attempt_within(&format!("SELECT tenancy.protect('{table}')"))
            .ok();
    }
    dba.run("COMMIT");
    let protected = dba.column("SELECT table_name FROM tenancy.protected_tables");
    assert!(
        !protected.contains(&"servers".to_string()),
        "a row without org was overlooked"
    );
    dba.run("DELETE FROM servers WHERE id = 300");
    dba.attempt("SELECT tenancy.protect('servers')").ok();
    let result = dba.attempt("SELECT tenancy.protect('sites')");
    if !protected.contains(&"sites".to_string()) {
        refused(result, "23503");
    }
}

#[test]
fn b1_a_name_that_changes_hands_while_protect_waits() {
    let world = World::people();
    let (role, mut session) = trapper(&world);
    for act in ["protect", "unprotect"] {
        for drop in ["VIEW traps.t", "TABLE traps.t", "TABLE traps.t_old"] {
            session.attempt(&format!("DROP {drop}")).ok();
        }
        session.run("CREATE TABLE traps.t (id int, org_id uuid)");
        if act == "unprotect" {
            session.run("SELECT tenancy.protect('traps.t')");
        }
        session.run("BEGIN; LOCK TABLE traps.t IN ACCESS SHARE MODE");
        let mut second = world.db.login(&role);
        let waiting = std::thread::spawn(move || {
            second
                .attempt(&format!("SELECT tenancy.{act}('traps.t')"))
                .is_ok()
        });
        std::thread::sleep(std::time::Duration::from_millis(300));
        session
            .attempt("ALTER TABLE traps.t RENAME TO t_old; CREATE VIEW traps.t AS SELECT traps.trap(1) AS id, NULL::uuid AS org_id")
            .ok();
        session.attempt("COMMIT").ok();
        waiting.join().unwrap();
        assert_not_risen(&world, &role, act);
    }
}

#[test]
fn a_name_longer_than_a_name_is_refused_or_means_the_same() {
    let world = World::people();
    let long = "c".repeat(70);
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE TABLE named (id int PRIMARY KEY, {long} uuid); GRANT ALL ON named TO PUBLIC"
    ));
    if dba
        .attempt(&format!(
            "SELECT tenancy.protect('named', org_column => '{long}')"
        ))
        .is_ok()
    {
        let mut member = world.session("acme.member");
        member.run("INSERT INTO named (id) VALUES (1)");
        assert_eq!(member.count("SELECT count(*) FROM named"), 1);
    }
}

#[test]
fn b1_protect_shows_the_tables_owner_nothing_through_code_of_his_own() {
    let world = World::new();
    let owner = world.table_owner();
    world
        .superuser()
        .run(&format!("CREATE SCHEMA traps AUTHORIZATION {owner}"));
    let mut session = world.db.login(&owner);
    session.run(&format!(
        "CREATE TABLE traps.loot (what text);
         CREATE TYPE traps.e AS ENUM ('one');
         CREATE FUNCTION traps.e2i(traps.e) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM traps.take(); RETURN 1; END $$;
         CREATE FUNCTION traps.take() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO traps.loot SELECT name FROM public.servers; EXCEPTION WHEN OTHERS THEN NULL; END $$;
         CREATE FUNCTION traps.check_it(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM traps.take(); RETURN true; END $$;
         CREATE CAST (traps.e AS int) WITH FUNCTION traps.e2i(traps.e) AS IMPLICIT;
         CREATE TABLE traps.t (id int PRIMARY KEY CHECK (traps.check_it(id)), org_id uuid, p traps.e REFERENCES traps.t);
         INSERT INTO traps.t VALUES (1, '{0}', 'one');
         CREATE INDEX ON traps.t (id) WHERE traps.check_it(1)",
        world.acme.id
    ));
    for act in ["protect", "protect", "unprotect", "protect"] {
        session
            .attempt(&format!("SELECT tenancy.{act}('traps.t')"))
            .ok();
    }
    world
        .superuser()
        .attempt("SELECT tenancy.unprotect('traps.t')")
        .ok();
    world
        .superuser()
        .attempt("SELECT tenancy.protect('traps.t')")
        .ok();
    assert_eq!(
        world
            .superuser()
            .column("SELECT DISTINCT what FROM traps.loot"),
        Vec::<String>::new()
    );
}
