//! A database of its own for every test.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use postgres::{Config, NoTls};

use crate::{Cluster, Session};

const TEMPLATE: &str = "with_extension";

pub struct Db {
    pub cluster: Arc<Cluster>,
    pub name: String,
    /// What the names of its roles begin with.
    pub prefix: String,
}

impl Db {
    /// A database with the extension, copied from a template.
    pub fn fresh() -> Db {
        Db::create(Cluster::shared(), Some(TEMPLATE))
    }

    /// A database without the extension.
    pub fn empty(cluster: Arc<Cluster>) -> Db {
        Db::create(cluster, None)
    }

    fn create(cluster: Arc<Cluster>, template: Option<&str>) -> Db {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        static ONE_AT_A_TIME: Mutex<bool> = Mutex::new(false);
        let name = format!("t{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut template_made = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
        let mut client = cluster.superuser("postgres");
        if template.is_some() && !*template_made {
            client
                .batch_execute(&format!("CREATE DATABASE {TEMPLATE}"))
                .unwrap();
            cluster
                .superuser(TEMPLATE)
                .batch_execute("CREATE EXTENSION pg_tenancy")
                .unwrap_or_else(|e| panic!("CREATE EXTENSION pg_tenancy: {e:?}"));
            *template_made = true;
        }
        let from = template.unwrap_or("template1");
        // The connection that made the template may still be on its way out.
        for attempt in 0.. {
            match client.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {from}")) {
                Ok(()) => break,
                Err(_) if attempt < 50 => std::thread::sleep(std::time::Duration::from_millis(20)),
                Err(e) => panic!("CREATE DATABASE: {e:?}"),
            }
        }
        Db {
            cluster,
            prefix: name.clone(),
            name,
        }
    }

    /// A role name that no other test uses: roles belong to the cluster, not to the database.
    pub fn role(&self, name: &str) -> String {
        format!("{}_{}", self.prefix, name.replace('.', "_"))
    }

    pub fn superuser(&self) -> Session {
        self.login("postgres")
    }

    /// A superuser who has said that he passes the rules on purpose.
    pub fn break_glass(&self) -> Session {
        let mut session = self.superuser();
        session.run("SET row_security = off");
        session
    }

    /// Connects as a login role, named in full.
    pub fn login(&self, role: &str) -> Session {
        self.connect(&self.config(role))
    }

    /// Connects with start-up options, as PGOPTIONS gives them.
    pub fn login_with(&self, role: &str, options: &str) -> Session {
        self.connect(self.config(role).options(options))
    }

    pub fn config(&self, role: &str) -> Config {
        self.cluster.config(role, &self.name)
    }

    pub fn connect(&self, config: &Config) -> Session {
        Session::new(
            config
                .connect(NoTls)
                .unwrap_or_else(|e| panic!("{}: {e:?}", config.get_user().unwrap_or("?"))),
        )
    }
}
