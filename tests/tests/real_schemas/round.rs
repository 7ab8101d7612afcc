//! The round: what every table of a schema goes through, made from the catalog alone.

use std::io::Read;

use pg_tenancy_tests::{Org, Session, World, refused};

/// A column of a table, as the round needs it.
struct Column {
    name: String,
    /// Computed from others.
    computed: bool,
    /// Computed, counted up, or with a default.
    filled: bool,
    /// In the primary key, or in a unique one.
    unique: bool,
}

struct Table {
    name: String,
    partitioned: bool,
    org: String,
    columns: Vec<Column>,
    /// The column of a primary key of one.
    key: Option<String>,
    /// Foreign keys to protected tables: the column, the parent, its column.
    parents: Vec<(String, String, String)>,
}

/// Every protected table, by the catalog alone.
fn tables(dba: &mut Session) -> Vec<Table> {
    let names = dba.rows(
        "SELECT table_name::text, quote_ident(org_column), relkind = 'p',
             (SELECT quote_ident(attname) FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
              WHERE indrelid = table_name AND indisprimary AND indnatts = 1)
         FROM tenancy.protected_tables JOIN pg_class ON pg_class.oid = table_name ORDER BY 1",
    );
    names
        .into_iter()
        .map(|row| {
            let (name, org) = (row[0].clone().unwrap(), row[1].clone().unwrap());
            let columns = dba
                .rows(&format!(
                    "SELECT quote_ident(attname), attgenerated <> '', atthasdef OR attidentity <> '',
                         EXISTS (SELECT FROM pg_index WHERE indrelid = attrelid AND indisunique AND attnum = ANY (indkey))
                     FROM pg_attribute WHERE attrelid = '{name}'::regclass AND attnum > 0 AND NOT attisdropped"
                ))
                .into_iter()
                .map(|c| Column {
                    name: c[0].clone().unwrap(),
                    computed: c[1].as_deref() == Some("t"),
                    filled: c[2].as_deref() == Some("t"),
                    unique: c[3].as_deref() == Some("t"),
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
                partitioned: row[2].as_deref() == Some("t"),
                org,
                columns,
                key: row[3].clone(),
                parents,
            }
        })
        .collect()
}

/// What the organization column holds for each.
struct Orgs {
    acme: String,
    globex: String,
}

/// The connections of a round: making them anew for each table would take longer than the round.
struct Sessions {
    /// Owner, admin, member, viewer of acme.
    members: Vec<(&'static str, Session)>,
    rival: Session,
    /// Bound to a member, who has not said for which organization he comes.
    without: Session,
    nobody: Session,
    glass: Session,
}

impl Sessions {
    fn member(&mut self, role: &str) -> &mut Session {
        let found = self.members.iter_mut().find(|(name, _)| *name == role);
        &mut found.expect("a role").1
    }
}

/// Reads, writes and attacks every table of both organizations from the other one.
pub fn round(world: &World, whose: fn(&Org) -> String) {
    let (acme, globex) = (whose(&world.acme), whose(&world.globex));
    let orgs = Orgs { acme, globex };
    let tables = tables(&mut world.superuser());
    let mut sessions = Sessions {
        members: ["owner", "admin", "member", "viewer"]
            .map(|role| (role, world.session(&format!("acme.{role}"))))
            .into(),
        rival: world.session("globex.owner"),
        without: world.bound("acme.admin"),
        nobody: world.nobody(),
        glass: world.break_glass(),
    };
    let mut attacks = 0;
    for table in &tables {
        let all = format!(
            "SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {} t",
            table.name
        );
        let before = sessions.glass.value(&all);
        table.read(&orgs, &mut sessions);
        table.write(&orgs, &mut sessions);
        attacks += table.attack(world, &orgs, &mut sessions);
        assert_eq!(sessions.glass.value(&all), before, "{}", table.name);
    }
    println!("{} tables, {attacks} attacks", tables.len());
}

impl Table {
    fn of(&self, org: &str) -> String {
        format!(
            "SELECT count(*) FROM {} WHERE {} = '{org}'",
            self.name, self.org
        )
    }

    /// Every way to read shows an organization its own rows, all of them, and no other.
    fn read(&self, orgs: &Orgs, s: &mut Sessions) {
        let Table { name, org, .. } = self;
        let (acme, globex) = (
            s.glass.count(&self.of(&orgs.acme)),
            s.glass.count(&self.of(&orgs.globex)),
        );
        assert!(acme > 0 && globex > 0, "{name} holds rows of both");
        let count = format!("SELECT count(*) FROM {name}");
        for (role, member) in &mut s.members {
            assert_eq!(member.count(&count), acme, "{role} {name}");
            assert_eq!(member.count(&self.of(&orgs.globex)), 0, "{role} {name}");
        }
        assert_eq!(s.rival.count(&count), globex, "{name}");
        assert_eq!(s.without.count(&count), 0, "{name}");
        assert_eq!(s.nobody.count(&count), 0, "{name}");

        let admin = s.member("admin");
        if !self.partitioned {
            let sample = format!("SELECT count(*) FROM {name} TABLESAMPLE BERNOULLI (100)");
            assert_eq!(admin.count(&sample), acme, "{name}");
        }
        let source = if self.partitioned {
            format!("(SELECT * FROM {name})")
        } else {
            name.clone()
        };
        let mut copied = String::new();
        admin
            .copy_out(&format!("COPY {source} TO STDOUT"))
            .unwrap()
            .read_to_string(&mut copied)
            .unwrap();
        assert_eq!(copied.lines().count() as i64, acme, "{name}");
        admin.run(&format!(
            "BEGIN; DECLARE walk CURSOR FOR SELECT {org} FROM {name}"
        ));
        assert_eq!(admin.column("FETCH ALL FROM walk").len() as i64, acme);
        admin.run("COMMIT");
        let locked = format!("SELECT {org} FROM {name} FOR UPDATE");
        assert_eq!(admin.column(&locked).len() as i64, acme, "{name}");
        refused(s.member("viewer").attempt(&locked), "42501");
    }

    /// Whoever holds the right writes all of his own, and nothing else.
    fn write(&self, orgs: &Orgs, s: &mut Sessions) {
        let Table { name, org, .. } = self;
        let acme = s.glass.count(&self.of(&orgs.acme));
        let copied: Vec<&str> = self
            .columns
            .iter()
            .filter(|c| !c.computed && !c.unique && c.name != *org)
            .map(|c| c.name.as_str())
            .collect();
        let fillable = self
            .columns
            .iter()
            .all(|c| c.filled || !c.unique || c.name == *org);
        let update = format!("UPDATE {name} SET {org} = {org}");
        let delete = format!("DELETE FROM {name}");
        for role in ["owner", "admin", "member"] {
            let member = s.member(role);
            member.run("BEGIN");
            assert_eq!(member.run(&update) as i64, acme, "{role} {name}");
            let returned = member.column(&format!("{update} RETURNING {org}"));
            assert!(
                returned.len() as i64 == acme && returned.iter().all(|o| *o == orgs.acme),
                "{role} {name}"
            );
            let merge = format!(
                "MERGE INTO {name} t USING (SELECT 1) v ON t.{org} IS NOT NULL WHEN MATCHED THEN UPDATE SET {org} = t.{org}"
            );
            assert_eq!(member.run(&merge) as i64, acme, "{role} {name}");
            if fillable && !copied.is_empty() {
                let list = copied.join(", ");
                member.run(&format!(
                    "INSERT INTO {name} ({list}) OVERRIDING SYSTEM VALUE SELECT {list} FROM {name} LIMIT 1"
                ));
                assert_eq!(member.count(&self.of(&orgs.acme)), acme + 1, "{name}");
            }
            member.run("ROLLBACK");
        }
        let writes_nothing = |session: &mut Session| {
            refused(session.attempt(&update), "42501");
            refused(session.attempt(&delete), "42501");
        };
        writes_nothing(s.member("viewer"));
        writes_nothing(&mut s.without);
        writes_nothing(&mut s.nobody);
    }

    /// Every way to reach the other organization's rows: refused, or nothing is found. Answers how many were tried.
    fn attack(&self, world: &World, orgs: &Orgs, s: &mut Sessions) -> usize {
        let Table { name, org, .. } = self;
        let globex = &orgs.globex;
        let theirs = format!("FROM {name} WHERE {org} = '{globex}'");
        let place = s.glass.text(&format!("SELECT min(ctid) {theirs}"));
        let mut tried = 0;

        // Refused.
        let mut ways: Vec<(String, &[&str])> = vec![
            (format!("UPDATE {name} SET {org} = '{globex}'"), &["42501"]),
            (
                format!("INSERT INTO {name} ({org}) VALUES ('{globex}')"),
                &["42501"],
            ),
            (
                format!("INSERT INTO {name} ({org}) VALUES ('{globex}') RETURNING *"),
                &["42501"],
            ),
            (format!("TRUNCATE {name} CASCADE"), &["42501"]),
            // PostgreSQL's own refusal comes first where a key leads to the table.
            (format!("TRUNCATE {name}"), &["42501", "0A000"]),
            (
                format!("MERGE INTO {name} USING (VALUES (1)) v ON true WHEN MATCHED THEN DELETE"),
                &["42501"],
            ),
            (
                format!(
                    "MERGE INTO {name} t USING (VALUES (1)) v ON t.{org} = '{globex}' WHEN NOT MATCHED THEN INSERT ({org}) VALUES ('{globex}')"
                ),
                &["42501"],
            ),
        ];
        for (column, parent, key) in &self.parents {
            let found = s.glass.rows(&format!(
                "SELECT quote_literal({key}) FROM {parent} p WHERE p.{key} IN (SELECT {column} {theirs}) LIMIT 1"
            ));
            let Some(Some(found)) = found.first().map(|row| row[0].clone()) else {
                continue;
            };
            ways.push((
                format!("UPDATE {name} SET {column} = {found} WHERE ctid = (SELECT min(ctid) FROM {name})"),
                &["23503"],
            ));
        }
        if let Some(key) = &self.key {
            // With the key of one of theirs.
            let id = s
                .glass
                .text(&format!("SELECT quote_literal(min({key}::text)) {theirs}"));
            let columns: Vec<&str> = self
                .columns
                .iter()
                .filter(|c| !c.computed)
                .map(|c| c.name.as_str())
                .collect();
            let values: Vec<&str> = columns
                .iter()
                .map(|c| if c == key { id.as_str() } else { c })
                .collect();
            ways.push((
                format!(
                    "INSERT INTO {name} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {name} LIMIT 1
                     ON CONFLICT ({key}) DO UPDATE SET {org} = excluded.{org}",
                    columns.join(", "),
                    values.join(", ")
                ),
                &["42501"],
            ));
        }
        for role in ["owner", "admin", "member"] {
            let member = s.member(role);
            for (sql, codes) in &ways {
                let error = member.attempt(sql).expect_err(sql);
                let found = error.code().map_or("", |c| c.code()).to_string();
                assert!(codes.contains(&found.as_str()), "{sql}: {error:?}");
                tried += 1;
            }
        }
        // COPY FROM is refused, or holds each row to the organization. The client is of no use after that error.
        let row = format!("COPY {name} ({org}) FROM STDIN");
        let copied = world
            .session("acme.admin")
            .copy_in(&row)
            .and_then(|mut writer| {
                std::io::Write::write_all(&mut writer, format!("{globex}\n").as_bytes()).ok();
                writer.finish()
            });
        assert!(copied.is_err(), "{row}");
        tried += 1;

        // Nothing is found, and so nothing changed.
        let admin = s.member("admin");
        for sql in [
            format!("DELETE {theirs}"),
            format!("UPDATE {name} SET {org} = {org} WHERE {org} = '{globex}'"),
            format!("UPDATE {name} SET {org} = {org} WHERE ctid = '{place}'"),
            format!("DELETE FROM {name} WHERE ctid = '{place}' RETURNING *"),
            format!("SELECT * FROM {name} WHERE ctid = '{place}' AND {org} = '{globex}'"),
            format!("SELECT * {theirs} FOR SHARE"),
            format!(
                "SELECT * FROM (SELECT * FROM {name} ORDER BY ctid) t WHERE {org} = '{globex}'"
            ),
            format!(
                "MERGE INTO {name} t USING (VALUES (1)) v ON t.{org} = '{globex}' WHEN MATCHED THEN DELETE"
            ),
            format!("WITH gone AS (DELETE {theirs} RETURNING *) SELECT * FROM gone"),
        ] {
            admin.run("BEGIN");
            let touched = admin.run(&sql);
            admin.run("ROLLBACK");
            // Partitions have places of the same number.
            assert!(
                touched == 0 || self.partitioned && sql.contains("ctid ="),
                "{sql}"
            );
            tried += 1;
        }
        tried
    }
}
