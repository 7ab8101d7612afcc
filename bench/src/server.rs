//! The throwaway server of a run: the black-box tests' cluster, with the settings of a benchmark and its logins.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use pg_tenancy_tests::Cluster;
use postgres::{Client, NoTls};
use serde_json::{Value, json};

use crate::{Result, pin};

/// Trusted with scope session, for what is measured over many statements.
pub const APP: &str = "app";
/// Trusted with scope transaction, as behind a pooler.
pub const POOLED: &str = "pooled";
/// Row security does not apply to it: reads the protected tables with a literal WHERE org_id = '...'.
pub const LITERAL: &str = "literal";
/// An ordinary login on tables without row security.
pub const PLAIN: &str = "plain";
/// Subject to the hand-written policies, one login for each style.
pub const HAND: [&str; 3] = ["hand_setting", "hand_subselect", "hand_plpgsql"];

const SETTINGS: &[(&str, &str)] = &[
    ("shared_buffers", "1GB"),
    ("jit", "off"),
    // Parallel plans are measured on their own: with two cores they would measure the machine's other work.
    ("max_parallel_workers_per_gather", "0"),
    ("work_mem", "64MB"),
    ("maintenance_work_mem", "256MB"),
    ("max_wal_size", "8GB"),
    ("checkpoint_timeout", "1h"),
    // A dedicated audit table per organization is made in batches of organizations.
    ("max_locks_per_transaction", "256"),
];

/// Written down with the results.
const REPORTED: &[&str] = &[
    "shared_buffers",
    "jit",
    "max_parallel_workers_per_gather",
    "work_mem",
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "autovacuum",
    "wal_level",
];

pub struct Server {
    cluster: Cluster,
}

impl Server {
    pub fn start() -> Result<Server> {
        let server = Server {
            cluster: Cluster::start(),
        };
        let mut admin = server.superuser("postgres")?;
        for (name, value) in SETTINGS {
            admin.batch_execute(&format!("ALTER SYSTEM SET {name} = '{value}'"))?;
        }
        drop(admin);
        server.restart()?;
        let mut admin = server.superuser("postgres")?;
        admin.batch_execute(&format!("CREATE ROLE {LITERAL} LOGIN BYPASSRLS"))?;
        for login in [APP, POOLED, PLAIN].iter().chain(&HAND) {
            admin.batch_execute(&format!("CREATE ROLE {login} LOGIN"))?;
        }
        // Not before the server has started: its processes inherit where they may run.
        pin::to_one_core(0);
        Ok(server)
    }

    /// As the user who owns the cluster's files, which is not root.
    fn restart(&self) -> Result<()> {
        let owner = std::fs::metadata(self.cluster.dir())?;
        let pg_config = std::env::var("PG_CONFIG").unwrap_or_else(|_| "pg_config".into());
        let bin = Command::new(pg_config).arg("--bindir").output()?.stdout;
        let mut command = Command::new(format!("{}/pg_ctl", String::from_utf8(bin)?.trim()));
        command
            .arg("-D")
            .arg(self.cluster.dir().join("data"))
            .arg("-l")
            .arg(self.cluster.dir().join("log"))
            .args(["-w", "-m", "fast", "restart"])
            .current_dir("/")
            .env_remove("RUST_BACKTRACE")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .uid(owner.uid())
            .gid(owner.gid());
        if command.status()?.success() {
            Ok(())
        } else {
            Err(format!("the server does not restart:\n{}", self.cluster.log()).into())
        }
    }

    /// What PostgreSQL said last: the log goes away with the server.
    pub fn last_of_log(&self) -> String {
        let log = self.cluster.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    pub fn superuser(&self, database: &str) -> Result<Client> {
        self.login("postgres", database)
    }

    pub fn login(&self, login: &str, database: &str) -> Result<Client> {
        let mut client = self.cluster.config(login, database).connect(NoTls)?;
        pin::to_one_core(backend(&mut client)?);
        Ok(client)
    }

    /// A login with a session's settings: schema search path and, where given, organization and user.
    pub fn session(
        &self,
        login: &str,
        database: &str,
        schema: &str,
        context: &[(&str, &str)],
    ) -> Result<Client> {
        let mut client = self.login(login, database)?;
        client.batch_execute(&format!("SET search_path = {schema}, stage"))?;
        for (name, value) in context {
            client.batch_execute(&format!("SET {name} = '{value}'"))?;
        }
        Ok(client)
    }

    /// What the results were measured with and on.
    pub fn about(&self, database: &str) -> Result<Value> {
        let mut admin = self.superuser(database)?;
        let mut text = |sql: &str| -> Result<String> { Ok(admin.query_one(sql, &[])?.get(0)) };
        let mut settings = serde_json::Map::new();
        for name in REPORTED {
            settings.insert(
                (*name).into(),
                text(&format!("SELECT current_setting('{name}')"))?.into(),
            );
        }
        Ok(json!({
            "date": text("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC'")?,
            "postgresql": text("SELECT version()")?,
            "pg_tenancy": text("SELECT extversion FROM pg_extension WHERE extname = 'pg_tenancy'")?,
            "settings": settings,
            "machine": machine(),
        }))
    }
}

/// The process that serves a connection.
pub fn backend(client: &mut Client) -> Result<i32> {
    Ok(client.query_one("SELECT pg_backend_pid()", &[])?.get(0))
}

fn machine() -> Value {
    let value_of = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|l| l.starts_with(key));
        line.and_then(|l| l.split_once(':'))
            .map(|(_, value)| value.trim().to_string())
    };
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    json!({
        "processor": value_of("/proc/cpuinfo", "model name"),
        "cores": pin::cores(),
        "memory": value_of("/proc/meminfo", "MemTotal"),
        "load_at_end": load.split(' ').next(),
    })
}
