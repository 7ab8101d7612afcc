//! The table that is written to: ten columns, rows of about 174 bytes, the primary key as its only index. The less a
//! bare table costs, the harsher it is as a base.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use postgres::{Client, Statement};

use crate::scale::Scale;
use crate::world::World;
use crate::{Result, Uuid};

const COLUMNS: &str = "id, org_id, parent_id, name, status, region, cpus, price, created_at, note";

/// Several writers may share a table: each has ids of its own, above those of the staged rows.
static FIRST_ID: AtomicI64 = AtomicI64::new(10_000_000);

/// The rows to insert, all of the large organization: `stage.rows`, with two ways to choose the parent.
pub fn stage(world: &World, scale: &Scale, parents: &str) -> Result<()> {
    let mut admin = world.superuser()?;
    Ok(admin.batch_execute(&format!(
        "SELECT setseed(0.42);
         CREATE TABLE stage.rows AS
         WITH parents AS (SELECT array_agg(id ORDER BY random()) AS ids FROM {parents} WHERE org_id = '{org}')
         SELECT n AS id, '{org}'::uuid AS org_id, ids[1 + floor(random() * cardinality(ids))::int] AS random,
                ids[1 + n % 100] AS repeated, 'server-' || n AS name, 'running' AS status, 'eu-west' AS region,
                (n % 64)::int AS cpus, (n % 1000)::numeric(10, 2) AS price, now() AS created_at,
                md5(n::text) || md5((n + 1)::text) AS note
         FROM generate_series(1, {rows}) AS n, parents;
         ALTER TABLE stage.rows ADD PRIMARY KEY (id);
         GRANT SELECT ON stage.rows TO PUBLIC;
         ANALYZE stage.rows",
        org = world.large(),
        rows = scale.bulk(),
    ))?)
}

/// `key`: a foreign key, as a table constraint with its leading comma, or nothing.
pub fn create(admin: &mut Client, table: &str, key: &str) -> Result<()> {
    Ok(admin.batch_execute(&format!(
        "CREATE TABLE {table} (
             id bigint NOT NULL, org_id uuid NOT NULL, parent_id bigint, name text NOT NULL, status text NOT NULL,
             region text NOT NULL, cpus int NOT NULL, price numeric(10, 2) NOT NULL, created_at timestamptz NOT NULL,
             note text NOT NULL, PRIMARY KEY (org_id, id){key});
         GRANT ALL ON {table} TO PUBLIC"
    ))?)
}

/// `INSERT ... SELECT` of all staged rows; `parent` is an expression of stage.rows.
pub fn insert_all(table: &str, parent: &str) -> String {
    let values = COLUMNS.replace("parent_id", parent);
    format!("INSERT INTO {table} ({COLUMNS}) SELECT {values} FROM stage.rows")
}

/// One row, with an id and a parent given.
pub fn insert_one(table: &str, org: &Uuid) -> String {
    format!(
        "INSERT INTO {table} ({COLUMNS}) VALUES ($1::bigint, '{org}', $2::bigint, 'server-12345', 'running', 'eu-west', 8,
             25.50, '2026-01-01', 'd3d9446802a44259755d38e6d163e820c4ca4238a0b923820dcc509a6f75849b')"
    )
}

pub fn timed(client: &mut Client, sql: &str) -> Result<Duration> {
    let start = Instant::now();
    client.batch_execute(sql)?;
    Ok(start.elapsed())
}

/// Empties a table past its protection.
pub fn truncate(admin: &mut Client, table: &str) -> Result<()> {
    Ok(admin.batch_execute(&format!("SET row_security = off; TRUNCATE {table}"))?)
}

/// A connection that writes one table, and the superuser's that tidies up after it.
pub struct Writer {
    pub name: &'static str,
    pub client: Client,
    pub admin: Client,
    pub table: String,
    org: Uuid,
    insert: Option<Statement>,
    last_id: i64,
}

impl Writer {
    pub fn new(world: &World, name: &'static str, table: &str, client: Client) -> Result<Writer> {
        Ok(Writer {
            name,
            client,
            admin: world.superuser()?,
            table: table.into(),
            org: world.large(),
            insert: None,
            last_id: FIRST_ID.fetch_add(10_000_000, Ordering::Relaxed),
        })
    }

    /// Inserts all staged rows into the empty table.
    pub fn bulk_insert(&mut self, parent: &str) -> Result<Duration> {
        let time = timed(&mut self.client, &insert_all(&self.table, parent))?;
        truncate(&mut self.admin, &self.table)?;
        Ok(time)
    }

    /// Inserts single rows, each a transaction of its own, with the parents in turn.
    pub fn single_inserts(&mut self, n: usize, parents: &[i64]) -> Result<Duration> {
        let statement = match self.insert.take() {
            Some(statement) => statement,
            None => self.client.prepare(&insert_one(&self.table, &self.org))?,
        };
        let start = Instant::now();
        for _ in 0..n {
            self.last_id += 1;
            let parent = parents[self.last_id as usize % parents.len()];
            self.client.execute(&statement, &[&self.last_id, &parent])?;
        }
        let time = start.elapsed();
        self.insert = Some(statement);
        Ok(time)
    }
}

/// Parents of the staged rows, in their order there.
pub fn parents(world: &World) -> Result<Vec<i64>> {
    let sql = "SELECT random FROM stage.rows ORDER BY id LIMIT 10000";
    let rows = world.superuser()?.query(sql, &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
