//! Servers, their sites, and the sites' logs, which have no type of their own; and notes, which are no resources.
//!
//! Acme's sites and the servers they are on: 3 and 6 on server 1, 1 and 4 on 2, 2 and 5 on 3. Two log lines for each site.

use pg_tenancy_tests::{Session, World};

pub const PROTECT: &str = r#"
    SELECT tenancy.protect('servers', permissions => '{"select": "server:read", "insert": "site:deploy",
        "update": "site:manage", "delete": "server:delete", "columns": {"firewall_rules": "server:firewall"}}',
        resource_type => 'server');
    SELECT tenancy.protect('sites', permissions => '{"select": "site:read", "insert": "site:deploy",
        "update": "site:manage", "delete": "site:manage"}', resource_type => 'site', resource_parent => 'server_id');
    SELECT tenancy.protect('logs', resource_parent => 'site_id');
    SELECT tenancy.protect('notes');"#;

pub fn world() -> World {
    let world = World::unprotected();
    let mut dba = world.superuser();
    dba.run(
        "CREATE TABLE logs (id int PRIMARY KEY, org_id uuid, site_id int REFERENCES sites ON DELETE CASCADE, line text);
         CREATE TABLE notes (id int PRIMARY KEY, org_id uuid, body text);
         GRANT ALL ON logs, notes TO PUBLIC;
         INSERT INTO logs SELECT s.id * 10 + i, s.org_id, s.id, 'line ' || i FROM sites s, generate_series(1, 2) i;",
    );
    for (org, id) in [(world.acme, 1), (world.globex, 101)] {
        dba.run(&format!(
            "INSERT INTO notes VALUES ({id}, '{}', 'n')",
            org.id
        ));
    }
    dba.run(PROTECT);
    world
}

pub trait Scoped {
    /// The DBA sets a rule of somebody's membership in acme.
    fn scope(&self, who: &str, table: &str, key: &str, access: &str);
    fn unscope(&self, who: &str);
    fn remove_scope(&self, who: &str, table: &str, key: &str);
}

impl Scoped for World {
    #[track_caller]
    fn scope(&self, who: &str, table: &str, key: &str, access: &str) {
        self.superuser().run(&format!(
            "SELECT tenancy.set_scope('{}', '{}', '{table}', '{key}', '{access}')",
            self.acme.id,
            self.user(who)
        ));
    }

    #[track_caller]
    fn unscope(&self, who: &str) {
        self.superuser().run(&format!(
            "SELECT tenancy.unscope_member('{}', '{}')",
            self.acme.id,
            self.user(who)
        ));
    }

    #[track_caller]
    fn remove_scope(&self, who: &str, table: &str, key: &str) {
        self.superuser().run(&format!(
            "SELECT tenancy.remove_scope('{}', '{}', '{table}', '{key}')",
            self.acme.id,
            self.user(who)
        ));
    }
}

/// The ids that a session sees of a table, in order.
#[track_caller]
pub fn ids(session: &mut Session, table: &str) -> Vec<i64> {
    session
        .column(&format!("SELECT id FROM {table} ORDER BY id"))
        .iter()
        .map(|id| id.parse().expect("a number"))
        .collect()
}
