//! Two tables with an organization column of some type, under a name that needs quotes, with rows of both organizations.

use pg_tenancy_tests::{Org, Session, Uuid, World, quote};

/// A type of organization column, with the external keys of the two organizations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kind {
    pub sql: &'static str,
    /// What fills the column.
    pub current: &'static str,
    acme: &'static str,
    globex: &'static str,
}

const fn kind(
    sql: &'static str,
    current: &'static str,
    acme: &'static str,
    globex: &'static str,
) -> Kind {
    Kind {
        sql,
        current,
        acme,
        globex,
    }
}

pub const KINDS: [Kind; 5] = [
    kind("uuid", "tenancy.current_org()", "customer-7", "customer-8"),
    kind(
        "text",
        "tenancy.current_org_key()",
        "Müller & Söhne",
        "müller & söhne",
    ),
    kind("varchar(40)", "tenancy.current_org_key()", "7", "07"),
    kind("integer", "tenancy.current_org_key_integer()", "7", "-8"),
    kind(
        "bigint",
        "tenancy.current_org_key_bigint()",
        "9000000007",
        "9000000008",
    ),
];

/// The types that hold external keys.
pub fn keyed() -> &'static [Kind] {
    &KINDS[1..]
}

pub struct Stage {
    pub world: World,
    pub kind: Kind,
    /// Literals of the column's type.
    pub acme: String,
    pub globex: String,
}

impl Stage {
    pub fn new(kind: Kind) -> Stage {
        let stage = Stage::unprotected(kind);
        stage
            .world
            .superuser()
            .run("SELECT tenancy.protect('projects', 'tenantId'); SELECT tenancy.protect('tasks', 'tenantId')");
        stage
    }

    /// Projects 1 to 3 and tasks 1 to 6 of acme, 101 to 103 and 101 to 106 of globex.
    pub fn unprotected(kind: Kind) -> Stage {
        let world = World::people();
        let mut dba = world.superuser();
        set_key(&mut dba, world.acme, kind.acme);
        set_key(&mut dba, world.globex, kind.globex);
        let literal = |id: Uuid, key: &str| match kind.sql {
            "uuid" => format!("'{id}'"),
            _ => quote(key),
        };
        let acme = literal(world.acme.id, kind.acme);
        let globex = literal(world.globex.id, kind.globex);
        dba.run(&format!(
            "CREATE TABLE projects (id int PRIMARY KEY, \"tenantId\" {0}, name text NOT NULL DEFAULT 'new');
             CREATE TABLE tasks (id int PRIMARY KEY, \"tenantId\" {0}, project int REFERENCES projects ON UPDATE CASCADE ON DELETE CASCADE,
                 title text NOT NULL DEFAULT 'new');
             GRANT ALL ON projects, tasks TO PUBLIC;
             ALTER TABLE projects OWNER TO {1}; ALTER TABLE tasks OWNER TO {1}",
            kind.sql,
            world.table_owner()
        ));
        for (org, first, slug) in [(&acme, 0, "acme"), (&globex, 100, "globex")] {
            dba.run(&format!(
                "INSERT INTO projects SELECT {first} + i, {org}, '{slug}-project-' || i FROM generate_series(1, 3) i;
                 INSERT INTO tasks SELECT {first} + i, {org}, {first} + 1 + i % 3, '{slug}-task-' || i FROM generate_series(1, 6) i"
            ));
        }
        Stage {
            world,
            kind,
            acme,
            globex,
        }
    }

    pub fn admin(&self) -> Session {
        self.world.session("acme.admin")
    }

    /// A hash of an organization's rows of both tables, read past every rule.
    #[track_caller]
    pub fn hash(&self, org: &str) -> String {
        self.world.break_glass().text(&format!(
            "SELECT md5(string_agg(t, ',' ORDER BY t)) FROM
                 (SELECT p::text FROM projects p WHERE \"tenantId\" = {org} UNION ALL SELECT t::text FROM tasks t WHERE \"tenantId\" = {org}) a (t)"
        ))
    }

    /// How many rows of each organization a session sees: (acme, globex).
    #[track_caller]
    pub fn seen(&self, session: &mut Session, table: &str) -> (i64, i64) {
        let mut count = |org: &str| {
            session.count(&format!(
                "SELECT count(*) FROM {table} WHERE \"tenantId\" = {org}"
            ))
        };
        (count(&self.acme), count(&self.globex))
    }
}

#[track_caller]
pub fn set_key(dba: &mut Session, org: Org, key: &str) {
    dba.run(&format!(
        "SELECT tenancy.set_external_key('{}', {})",
        org.id,
        quote(key)
    ));
}
