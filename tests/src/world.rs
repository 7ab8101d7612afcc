//! What most tests start from: two organizations, every role in each, protected tables with rows of both.
//!
//! | name | who |
//! |---|---|
//! | `acme.owner` ... `acme.viewer`, `globex.owner` ... `globex.viewer` | members of one org; each has a bound login |
//! | `agency` | admin in acme, viewer in globex; bound login |
//! | `stranger` | a user without any org; bound login |
//!
//! Rows of acme have ids from 1 and names that begin with `acme`, those of globex ids from 101 and names with `globex`.

use std::collections::BTreeMap;

use crate::{Db, Session, Uuid, quote};

pub const ROLES: [&str; 4] = ["owner", "admin", "member", "viewer"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Org {
    pub id: Uuid,
    pub name: &'static str,
    pub slug: &'static str,
    pub key: &'static str,
}

pub struct World {
    pub db: Db,
    pub acme: Org,
    pub globex: Org,
    users: BTreeMap<String, Uuid>,
}

const TABLES: &str = "
    CREATE TABLE regions (code text PRIMARY KEY, title text NOT NULL);
    INSERT INTO regions VALUES ('eu', 'Europe'), ('us', 'America');
    CREATE TABLE servers (
        id int PRIMARY KEY,
        org_id uuid,
        name text NOT NULL,
        cpus int NOT NULL DEFAULT 1,
        region text REFERENCES regions,
        firewall_rules text NOT NULL DEFAULT 'deny all');
    CREATE TABLE sites (
        id int PRIMARY KEY,
        org_id uuid,
        server_id int REFERENCES servers ON UPDATE CASCADE ON DELETE CASCADE,
        name text NOT NULL,
        visits int NOT NULL DEFAULT 0,
        certificate text NOT NULL DEFAULT 'none');
    CREATE INDEX ON sites (server_id);
    GRANT ALL ON regions, servers, sites TO PUBLIC;";

const PROTECT: &str = r#"
    SELECT tenancy.protect('servers', permissions => '{"select": "server:read", "insert": "server:create",
        "update": "server:update", "delete": "server:delete", "columns": {"firewall_rules": "server:firewall"}}');
    SELECT tenancy.protect('sites', permissions => '{"select": "site:read", "insert": "site:deploy",
        "update": "site:manage", "delete": "site:delete", "columns": {"certificate": "server:firewall"}}');"#;

impl World {
    /// Everything, the tables protected.
    pub fn new() -> World {
        World::new_in(Db::fresh())
    }

    /// The same in a database that has the extension.
    pub fn new_in(db: Db) -> World {
        let world = World::unprotected_in(db);
        world.superuser().run(PROTECT);
        world
    }

    /// Everything, but the tables are not protected yet.
    pub fn unprotected() -> World {
        World::unprotected_in(Db::fresh())
    }

    fn unprotected_in(db: Db) -> World {
        let world = World::people_in(db);
        let mut dba = world.superuser();
        dba.run(TABLES);
        for (org, first) in [(world.acme, 0), (world.globex, 100)] {
            dba.run(&format!(
                "INSERT INTO servers (id, org_id, name, cpus, region)
                     SELECT {first} + i, '{id}', '{slug}-server-' || i, i, 'eu' FROM generate_series(1, 3) i;
                 INSERT INTO sites (id, org_id, server_id, name, visits)
                     SELECT {first} + i, '{id}', {first} + 1 + i % 3, '{slug}-site-' || i, i * 10
                     FROM generate_series(1, 6) i",
                id = org.id,
                slug = org.slug,
            ));
        }
        let owner = world.table_owner();
        for table in ["regions", "servers", "sites"] {
            dba.run(&format!("ALTER TABLE {table} OWNER TO {owner}"));
        }
        world
    }

    /// Orgs, users and logins only.
    pub fn people() -> World {
        World::people_in(Db::fresh())
    }

    /// The same in a database that has the extension.
    pub fn people_in(db: Db) -> World {
        let mut dba = db.superuser();
        let mut users = BTreeMap::new();
        let org = |name, slug, key| Org {
            id: Uuid::nil(),
            name,
            slug,
            key,
        };
        let mut orgs = [
            org("Acme Hosting", "acme", "customer-7"),
            org("Globex Corporation", "globex", "customer-8"),
        ];
        let mut setup = String::new();
        for org in &mut orgs {
            for role in ROLES {
                let who = format!("{}.{role}", org.slug);
                users.insert(who.clone(), create_user(&mut dba, &who));
            }
            org.id = dba
                .text(&format!(
                    "SELECT tenancy.create_org({}, {}, owner => '{}', external_key => {})",
                    quote(org.name),
                    quote(org.slug),
                    users[&format!("{}.owner", org.slug)],
                    quote(org.key)
                ))
                .parse()
                .expect("a uuid");
            for role in &ROLES[1..] {
                setup += &format!(
                    "SELECT tenancy.add_member('{}', '{}', '{role}');",
                    org.id,
                    users[&format!("{}.{role}", org.slug)]
                );
            }
        }
        for who in ["agency", "stranger"] {
            users.insert(who.into(), create_user(&mut dba, who));
        }
        for (org, role) in orgs.iter().zip(["admin", "viewer"]) {
            setup += &format!(
                "SELECT tenancy.add_member('{}', '{}', '{role}');",
                org.id, users["agency"]
            );
        }
        for (who, user) in &users {
            let login = db.role(who);
            setup += &format!(
                "CREATE ROLE {login} LOGIN; SELECT tenancy.bind_login('{login}', '{user}');"
            );
        }
        for login in ["app", "session_app", "nobody", "tables"].map(|name| db.role(name)) {
            setup += &format!("CREATE ROLE {login} LOGIN;");
        }
        setup += &format!(
            "SELECT tenancy.trust_application('{}');
             SELECT tenancy.trust_application('{}', scope => 'session');",
            db.role("app"),
            db.role("session_app")
        );
        dba.run(&setup);
        let [acme, globex] = orgs;
        World {
            db,
            acme,
            globex,
            users,
        }
    }

    /// The same world in another database, such as one restored from a dump.
    pub fn moved_to(&self, mut db: Db) -> World {
        db.prefix.clone_from(&self.db.prefix);
        World {
            db,
            acme: self.acme,
            globex: self.globex,
            users: self.users.clone(),
        }
    }

    #[track_caller]
    pub fn user(&self, who: &str) -> Uuid {
        *self
            .users
            .get(who)
            .unwrap_or_else(|| panic!("no user {who}"))
    }

    /// Takes somebody's membership in acme away, in a session of the DBA's.
    #[track_caller]
    pub fn remove(&self, who: &str) {
        self.superuser().run(&format!(
            "SELECT tenancy.remove_member('{}', '{}')",
            self.acme.id,
            self.user(who)
        ));
    }

    pub fn users(&self) -> impl Iterator<Item = (&str, Uuid)> {
        self.users.iter().map(|(who, id)| (who.as_str(), *id))
    }

    pub fn superuser(&self) -> Session {
        self.db.superuser()
    }

    pub fn break_glass(&self) -> Session {
        self.db.break_glass()
    }

    /// The tables' owner: neither superuser nor BYPASSRLS, and nobody's principal.
    pub fn table_owner(&self) -> String {
        self.db.role("tables")
    }

    /// The login bound to a user, without a context.
    #[track_caller]
    pub fn bound(&self, who: &str) -> Session {
        self.user(who);
        self.db.login(&self.db.role(who))
    }

    /// The login bound to a user, in that user's own org (agency: acme), for the whole session.
    #[track_caller]
    pub fn session(&self, who: &str) -> Session {
        let org = if who.starts_with("globex") {
            self.globex
        } else {
            self.acme
        };
        let mut session = self.bound(who);
        session.run(&format!("SET app.current_org = '{}'", org.id));
        session
    }

    /// The trusted application, scope transaction.
    pub fn app(&self) -> Session {
        self.db.login(&self.db.role("app"))
    }

    /// The trusted application with connections of its own, scope session.
    pub fn session_app(&self) -> Session {
        self.db.login(&self.db.role("session_app"))
    }

    /// A login that nobody vouched for.
    pub fn nobody(&self) -> Session {
        self.db.login(&self.db.role("nobody"))
    }

    /// What the application says at the start of a transaction.
    pub fn claim(&self, org: Org, who: &str) -> String {
        format!(
            "SET LOCAL app.current_org = '{}'; SET LOCAL app.current_user_id = '{}'",
            org.id,
            self.user(who)
        )
    }

    /// Begins a transaction of the application in an org, for a user.
    #[track_caller]
    pub fn begin(&self, app: &mut Session, org: Org, who: &str) {
        app.run("BEGIN");
        app.run(&self.claim(org, who));
    }

    /// A hash of an org's rows of a table, read past every rule.
    #[track_caller]
    pub fn hash(&self, table: &str, org: Org) -> String {
        self.break_glass().text(&format!(
            "SELECT count(*) || ' rows ' || coalesce(md5(string_agg(t::text, E'\\n' ORDER BY t::text)), '')
             FROM {table} t WHERE org_id = '{}'",
            org.id
        ))
    }

    /// How many rows each of the two orgs has that this session sees: (acme, globex).
    #[track_caller]
    pub fn seen(&self, session: &mut Session, table: &str) -> (i64, i64) {
        let row = session
            .rows(&format!(
                "SELECT count(*) FILTER (WHERE org_id = '{}'), count(*) FILTER (WHERE org_id = '{}') FROM {table}",
                self.acme.id, self.globex.id
            ))
            .remove(0);
        let number = |i: usize| row[i].as_ref().expect("a count").parse().expect("a number");
        (number(0), number(1))
    }
}

impl Default for World {
    fn default() -> World {
        World::new()
    }
}

fn create_user(dba: &mut Session, who: &str) -> Uuid {
    let (name, org) = who.split_once('.').unwrap_or((who, "example"));
    dba.text(&format!(
        "SELECT tenancy.create_user({}, {}, external_key => {})",
        quote(&format!("{org}@{name}.test")),
        quote(who),
        quote(&format!("key-of-{who}"))
    ))
    .parse()
    .expect("a uuid")
}
