//! Schemas shaped like what teams bring: each is protected whole, then every table of it is read, written and attacked in
//! a round that is generated from the catalog. Section 5 of the specification; attacks C1, C6, C8, D1.

use std::fmt::Write;
use std::time::Instant;

use pg_tenancy_tests::{Session, World, fails, refused};

/// A column of a table, as the round needs it.
struct Column {
    name: String,
    /// Filled by itself: a default, an identity, an expression.
    filled: bool,
    /// In the primary key, or in a unique one.
    unique: bool,
}

struct Table {
    name: String,
    org: String,
    columns: Vec<Column>,
    /// Foreign keys to protected tables: the column, the parent, its column.
    parents: Vec<(String, String, String)>,
}

/// Every protected table, by the catalog alone.
fn tables(dba: &mut Session) -> Vec<Table> {
    let names = dba.rows(
        "SELECT table_name::text, quote_ident(org_column) FROM tenancy.protected_tables ORDER BY table_name::text",
    );
    names
        .into_iter()
        .map(|row| {
            let (name, org) = (row[0].clone().unwrap(), row[1].clone().unwrap());
            let columns = dba
                .rows(&format!(
                    "SELECT quote_ident(attname), atthasdef OR attidentity <> '' OR attgenerated <> '',
                         EXISTS (SELECT FROM pg_index WHERE indrelid = attrelid AND indisunique AND attnum = ANY (indkey))
                     FROM pg_attribute WHERE attrelid = '{name}'::regclass AND attnum > 0 AND NOT attisdropped"
                ))
                .into_iter()
                .map(|c| Column {
                    name: c[0].clone().unwrap(),
                    filled: c[1].as_deref() == Some("t"),
                    unique: c[2].as_deref() == Some("t"),
                })
                .collect();
            let parents = dba
                .rows(&format!(
                    "SELECT quote_ident(a.attname), confrelid::regclass, quote_ident(p.attname) FROM pg_constraint
                         JOIN pg_attribute a ON a.attrelid = conrelid AND a.attnum = conkey[1]
                         JOIN pg_attribute p ON p.attrelid = confrelid AND p.attnum = confkey[1]
                         JOIN tenancy.protected_tables ON table_name = confrelid
                     WHERE contype = 'f' AND conrelid = '{name}'::regclass AND array_length(conkey, 1) = 1
                       AND (conparentid = 0 OR EXISTS (SELECT FROM pg_constraint t WHERE t.oid = pg_constraint.conparentid AND t.confrelid = pg_constraint.confrelid))"
                ))
                .into_iter()
                .map(|p| {
                    let text = |i: usize| p[i].clone().unwrap();
                    (text(0), text(1), text(2))
                })
                .collect();
            Table {
                name,
                org,
                columns,
                parents,
            }
        })
        .collect()
}

/// Reads, writes and attacks every table of both organizations from the other one.
fn round(world: &World) {
    let mut dba = world.superuser();
    let tables = tables(&mut dba);
    let mut glass = world.break_glass();
    let mut admin = world.session("acme.admin");
    let mut nobody = world.nobody();
    let mut attacks = 0;
    for table in &tables {
        let Table { name, org, .. } = table;
        let of = |id| format!("SELECT count(*) FROM {name} WHERE {org} = '{id}'");
        let all = |glass: &mut Session| {
            glass.text(&format!(
                "SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {name} t WHERE {org} = '{}'",
                world.globex.id
            ))
        };
        let (acme, globex) = (
            glass.count(&of(world.acme.id)),
            glass.count(&of(world.globex.id)),
        );
        assert!(acme > 0 && globex > 0, "{name} holds rows of both");
        let before = all(&mut glass);

        // Reading.
        assert_eq!(
            admin.count(&format!("SELECT count(*) FROM {name}")),
            acme,
            "{name}"
        );
        assert_eq!(admin.count(&of(world.globex.id)), 0, "{name}");
        assert_eq!(
            nobody.count(&format!("SELECT count(*) FROM {name}")),
            0,
            "{name}"
        );

        // Writing: all of one's own, and nothing else.
        admin.run("BEGIN");
        assert_eq!(
            admin.run(&format!("UPDATE {name} SET {org} = {org}")) as i64,
            acme,
            "{name}"
        );
        let copied: Vec<&str> = table
            .columns
            .iter()
            .filter(|c| !c.filled && !c.unique && c.name != *org)
            .map(|c| c.name.as_str())
            .collect();
        let fillable = table
            .columns
            .iter()
            .all(|c| c.filled || !c.unique || c.name == *org);
        if fillable && !copied.is_empty() {
            let list = copied.join(", ");
            admin.run(&format!(
                "INSERT INTO {name} ({list}) SELECT {list} FROM {name} LIMIT 1"
            ));
            assert_eq!(admin.count(&of(world.acme.id)), acme + 1, "{name}");
        }
        admin.run("ROLLBACK");

        // Attacks.
        let mut refuse = |sql: String, code: &str| {
            fails(admin.attempt(&sql), code);
            attacks += 1;
        };
        refuse(
            format!("UPDATE {name} SET {org} = '{}'", world.globex.id),
            "42501",
        );
        refuse(
            format!("INSERT INTO {name} ({org}) VALUES ('{}')", world.globex.id),
            "42501",
        );
        refuse(format!("TRUNCATE {name}"), "42501");
        refuse(
            format!("MERGE INTO {name} USING (VALUES (1)) v ON true WHEN MATCHED THEN DELETE"),
            "42501",
        );
        for (column, parent, key) in &table.parents {
            let theirs = glass.rows(&format!(
                "SELECT quote_literal({key}) FROM {parent} p WHERE p.{key} IN (SELECT {column} FROM {name} WHERE {org} = '{}') LIMIT 1",
                world.globex.id
            ));
            let Some(Some(theirs)) = theirs.first().map(|row| row[0].clone()) else {
                continue;
            };
            refuse(format!("UPDATE {name} SET {column} = {theirs}"), "23503");
        }
        assert_eq!(
            admin.run(&format!(
                "DELETE FROM {name} WHERE {org} = '{}'",
                world.globex.id
            )),
            0
        );
        refused(nobody.attempt(&format!("DELETE FROM {name}")), "42501");
        refused(
            world
                .session("acme.viewer")
                .attempt(&format!("UPDATE {name} SET {org} = {org}")),
            "42501",
        );
        assert_eq!(all(&mut glass), before, "{name}");
    }
    println!("{} tables, {attacks} attacks", tables.len());
}

/// A hundred and twelve tables of a software service: customers' projects, each with things in them that refer to one
/// another, a partitioned log, lookup tables that all share, a view for every tenth table.
fn saas(world: &World) -> String {
    let mut sql = String::from(
        "CREATE SCHEMA saas; SET search_path = saas;
         CREATE TABLE countries (code text PRIMARY KEY); INSERT INTO countries VALUES ('de'), ('fr');
         CREATE TABLE plans (name text PRIMARY KEY, price numeric); INSERT INTO plans VALUES ('free', 0);
         CREATE TABLE projects (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id uuid NOT NULL, name text, country text REFERENCES countries);
         CREATE TABLE log (id bigint GENERATED ALWAYS AS IDENTITY, tenant_id uuid NOT NULL, at date NOT NULL DEFAULT '2024-05-05', line text) PARTITION BY RANGE (at);
         CREATE TABLE log_24 PARTITION OF log FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
         CREATE TABLE log_25 PARTITION OF log FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');",
    );
    for i in 1..=107 {
        // A tree of references, and some across it.
        let parent = if i < 4 {
            "projects".to_string()
        } else {
            format!("things_{}", i / 2)
        };
        write!(
            sql,
            "CREATE TABLE things_{i} (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id uuid NOT NULL, project_id uuid NOT NULL REFERENCES projects,
                 parent_id uuid REFERENCES {parent}, self_id uuid REFERENCES things_{i}, plan text REFERENCES plans, title text, doubled int GENERATED ALWAYS AS (length(title) * 2) STORED);"
        )
        .unwrap();
        if i % 10 == 0 {
            write!(sql, "CREATE VIEW view_{i} WITH (security_invoker = true) AS SELECT t.id, t.tenant_id, p.name FROM things_{i} t JOIN projects p ON p.id = project_id;").unwrap();
        }
    }
    for org in [world.acme, world.globex] {
        write!(
            sql,
            "INSERT INTO projects (tenant_id, name, country) SELECT '{0}', 'p' || i, 'de' FROM generate_series(1, 3) i;
             INSERT INTO log (tenant_id, at, line) SELECT '{0}', '2024-12-30'::date + i, 'x' FROM generate_series(1, 4) i;",
            org.id
        )
        .unwrap();
        for i in 1..=107 {
            let parent = if i < 4 {
                "projects".to_string()
            } else {
                format!("things_{}", i / 2)
            };
            write!(
                sql,
                "INSERT INTO things_{i} (tenant_id, project_id, parent_id, plan, title)
                     SELECT '{0}', (SELECT id FROM projects WHERE tenant_id = '{0}' LIMIT 1), (SELECT id FROM {parent} WHERE tenant_id = '{0}' LIMIT 1), 'free', 't'
                     FROM generate_series(1, 2);
                 UPDATE things_{i} t SET self_id = t.id WHERE tenant_id = '{0}';",
                org.id
            )
            .unwrap();
        }
    }
    sql + "GRANT USAGE ON SCHEMA saas TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA saas TO PUBLIC; GRANT ALL ON ALL SEQUENCES IN SCHEMA saas TO PUBLIC;"
}

#[test]
fn a_software_service_with_a_hundred_tables_and_views() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(&saas(&world));
    dba.run("RESET search_path");
    let start = Instant::now();
    assert_eq!(
        dba.count("SELECT count(*) FROM tenancy.protect_schema('saas', org_column => 'tenant_id') WHERE status = 'protected'"),
        109
    );
    println!("protected in {:?}", start.elapsed());
    round(&world);
    // The views show what their tables do.
    for i in (10..=100).step_by(10) {
        let view = format!("saas.view_{i}");
        let count = format!("SELECT count(*) FROM {view}");
        assert_eq!(world.session("acme.viewer").count(&count), 2, "{view}");
        assert_eq!(world.nobody().count(&count), 0, "{view}");
    }
}

/// Names in camelCase, numbers as keys, and the organization on the top table only: children reach it over two and three
/// parents.
const CAMEL: &str = "
    CREATE TABLE \"Workspaces\" (\"workspaceId\" int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, \"organizationId\" uuid NOT NULL, \"displayName\" text);
    CREATE TABLE \"Boards\" (\"boardId\" int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, \"workspaceId\" int NOT NULL REFERENCES \"Workspaces\", \"displayName\" text);
    CREATE TABLE \"Cards\" (\"cardId\" int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, \"boardId\" int NOT NULL REFERENCES \"Boards\" ON DELETE CASCADE, title text);
    CREATE TABLE \"cardComments\" (\"commentId\" int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, \"cardId\" int NOT NULL REFERENCES \"Cards\" ON DELETE CASCADE, body text);
    CREATE TABLE \"cardLabels\" (\"cardId\" int NOT NULL REFERENCES \"Cards\" ON DELETE CASCADE, label text NOT NULL, PRIMARY KEY (\"cardId\", label));
    CREATE TABLE \"Labels\" (label text PRIMARY KEY);
    GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC;";

#[test]
fn camel_case_whose_children_reach_the_organization_over_their_parents() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(CAMEL);
    for (org, first) in [(world.acme, 0), (world.globex, 100)] {
        dba.run(&format!(
            "INSERT INTO \"Workspaces\" SELECT {first} + i, '{}', 'w' FROM generate_series(1, 2) i;
             INSERT INTO \"Boards\" SELECT {first} + i, {first} + 1 + i % 2, 'b' FROM generate_series(1, 4) i;
             INSERT INTO \"Cards\" SELECT {first} + i, {first} + 1 + i % 4, 'c' FROM generate_series(1, 8) i;
             INSERT INTO \"cardComments\" SELECT {first} + i, {first} + 1 + i % 8, 'x' FROM generate_series(1, 16) i;
             INSERT INTO \"cardLabels\" SELECT {first} + i, 'l' FROM generate_series(1, 8) i",
            org.id
        ));
    }
    dba.run("SELECT setval(pg_get_serial_sequence('\"' || t || '\"', k), 1000) FROM (VALUES ('Workspaces', 'workspaceId'), ('Boards', 'boardId'), ('Cards', 'cardId'), ('cardComments', 'commentId')) v (t, k)");
    let needs = dba.column(
        "SELECT remedy FROM tenancy.protect_schema('public', org_column => 'organizationId', dry_run => true) WHERE status = 'needs org column' ORDER BY 1",
    );
    assert_eq!(needs.len(), 4, "{needs:?}");
    // What the dry run names does it.
    for remedy in needs {
        dba.run(&remedy);
    }
    assert_eq!(
        dba.count("SELECT count(*) FROM tenancy.protect_schema('public', org_column => 'organizationId') WHERE status = 'protected'"),
        5
    );
    round(&world);
    // The application goes on as it was: it knows nothing of the column.
    let mut member = world.session("acme.member");
    member.run(
        "INSERT INTO \"Cards\" (\"boardId\", title) VALUES (1, 'new');
         INSERT INTO \"cardComments\" (\"cardId\", body) SELECT \"cardId\", 'first' FROM \"Cards\" WHERE title = 'new';
         DELETE FROM \"Cards\" WHERE title = 'new'",
    );
    assert_eq!(member.count("SELECT count(*) FROM \"cardComments\""), 16);
}
