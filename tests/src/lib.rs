//! Black-box tests of `pg_tenancy`: everything here talks to a real server through a real client connection.
//!
//! * [`Cluster`]: a throwaway PostgreSQL cluster, one per test binary, gone when the process is (even by `kill -9`).
//! * [`Db`]: a fresh database with the extension in it, one per test.
//! * [`World`]: two organizations with every role in each, protected tables, logins; what most tests start from.
//! * [`Session`]: a client connection with the few verbs that the tests are written in.
//! * [`Pooler`]: a real PgBouncer in front of the cluster.
//! * [`Random`], [`few_or_many`]: chance that can be repeated, and how much of it.
//! * [`roles`]: the statements that make and give an organization's own roles.
//! * [`token`]: signed tokens, as an issuer makes them.
//! * [`refused`], [`fails`]: what an error must look like.

mod chance;
mod cluster;
mod db;
mod errors;
mod matrix;
mod pooler;
pub mod roles;
mod session;
pub mod stage;
pub mod token;
mod world;

pub use chance::{Random, few_or_many};
pub use cluster::Cluster;
pub use db::Db;
pub use errors::{assert_same_error, fails, refused};
pub use matrix::{Cell, matrix};
pub use pooler::Pooler;
pub use postgres::Error;
pub use postgres::error::DbError;
pub use session::{Rows, Session, quote};
pub use uuid::Uuid;
pub use world::{Org, ROLES, World};
