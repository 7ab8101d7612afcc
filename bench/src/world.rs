//! The organizations of a run, and their shares of the data: one has 40 percent, the others a long tail.

use pg_tenancy_tests::Uuid;
use postgres::Client;

use crate::Result;
use crate::server::{APP, POOLED, Server};

/// A database with the extension and so many organizations, all owned by one user.
pub struct World<'a> {
    pub server: &'a Server,
    pub database: String,
    pub orgs: Vec<Uuid>,
    pub user: Uuid,
}

/// Where the audit of the organizations goes.
#[derive(Clone, Copy, PartialEq)]
pub enum Store {
    Dedicated,
    Shared,
}

impl<'a> World<'a> {
    pub fn create(
        server: &'a Server,
        database: &str,
        orgs: usize,
        store: Store,
    ) -> Result<World<'a>> {
        server
            .superuser("postgres")?
            .batch_execute(&format!("CREATE DATABASE {database}"))?;
        let mut admin = server.superuser(database)?;
        admin.batch_execute(&format!(
            "CREATE EXTENSION pg_tenancy;
             CREATE SCHEMA stage;
             GRANT USAGE ON SCHEMA stage TO PUBLIC;
             ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
             ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO PUBLIC;
             SELECT tenancy.trust_application('{APP}', scope => 'session');
             SELECT tenancy.trust_application('{POOLED}');"
        ))?;
        let user: Uuid = admin
            .query_one("SELECT tenancy.create_user('owner@bench.test')", &[])?
            .get(0);
        let limit = if store == Store::Dedicated { orgs } else { 0 };
        admin.batch_execute(&format!("SET tenancy.dedicated_audit_limit = {limit}"))?;
        let mut world = World {
            server,
            database: database.into(),
            orgs: Vec::new(),
            user,
        };
        while world.orgs.len() < orgs {
            world.add_orgs(&mut admin, 100.min(orgs - world.orgs.len()))?;
        }
        admin.batch_execute("CREATE TABLE stage.orgs (ordinal int, id uuid)")?;
        for (i, org) in world.orgs.iter().enumerate() {
            admin.execute(
                "INSERT INTO stage.orgs VALUES ($1, $2)",
                &[&(i as i32 + 1), org],
            )?;
        }
        Ok(world)
    }

    /// Makes some organizations more; those after the first fill are not in the planner's statistics.
    pub fn add_orgs(&mut self, admin: &mut Client, count: usize) -> Result<()> {
        let first = self.orgs.len() as i64 + 1;
        let last = first + count as i64 - 1;
        let rows = admin.query(
            "SELECT tenancy.create_org('Organization ' || n, 'org-' || n, owner => $1)
             FROM generate_series($2::bigint, $3) AS n",
            &[&self.user, &first, &last],
        )?;
        self.orgs
            .extend(rows.iter().map(|row| row.get::<_, Uuid>(0)));
        Ok(())
    }

    /// The organization with 40 percent of the rows.
    pub fn large(&self) -> Uuid {
        self.orgs[0]
    }

    pub fn superuser(&self) -> Result<Client> {
        self.server.superuser(&self.database)
    }

    /// The trusted application, acting for the user in an organization for the whole session.
    pub fn app(&self, schema: &str, org: &Uuid) -> Result<Client> {
        self.server.session(
            APP,
            &self.database,
            schema,
            &[
                ("app.current_org", &org.to_string()),
                ("app.current_user_id", &self.user.to_string()),
            ],
        )
    }

    /// Another login, with the setting that hand-written policies read.
    pub fn hand(&self, login: &str, schema: &str, org: &Uuid) -> Result<Client> {
        let org = org.to_string();
        let context = [("app.current_org", org.as_str())];
        self.server.session(login, &self.database, schema, &context)
    }

    /// A login whose queries name the organization themselves.
    pub fn other(&self, login: &str, schema: &str) -> Result<Client> {
        self.server.session(login, &self.database, schema, &[])
    }
}

pub fn vacuum_analyze(admin: &mut Client) -> Result<()> {
    admin.batch_execute("VACUUM ANALYZE")?;
    Ok(admin.batch_execute("CHECKPOINT")?)
}
