//! Tests that run inside a real server, for what no client can see: how often authority is looked up, whether identity
//! is restored after an error, how values compare in memory. Built with the feature pg_test; tests/tests/in_server.rs
//! loads that build of the library into a throwaway server and calls each test in a transaction of its own.

use pgrx::prelude::*;

mod access;
mod context;
mod isolation;
mod pg;

pub type Test = (&'static str, fn());

fn all() -> impl Iterator<Item = Test> {
    [access::TESTS, context::TESTS, isolation::TESTS, pg::TESTS]
        .into_iter()
        .flatten()
        .copied()
}

/// The names of all tests.
#[pg_extern(sql = false)]
fn tenancy_in_server_tests() -> Vec<String> {
    all().map(|(name, _)| name.to_string()).collect()
}

/// Runs one test; a failed assertion is an error.
#[pg_extern(sql = false)]
fn tenancy_in_server_test(name: &str) {
    let (_, test) = all().find(|(n, _)| *n == name).expect("a known test");
    test();
}

/// An organization with an owner, made by the superuser that the tests run as; answers both ids.
fn acme() -> ([u8; 16], [u8; 16]) {
    let slug = format!("acme-{}", uuid::Uuid::new_v4().simple());
    let one = |sql: &str| {
        Spi::get_one::<pgrx::datum::Uuid>(sql)
            .expect("runs")
            .map(|u| *u.as_bytes())
            .expect("an id")
    };
    let owner = one(&format!("SELECT tenancy.create_user('{slug}@example.com')"));
    let owner_text = uuid::Uuid::from_bytes(owner);
    let org = one(&format!(
        "SELECT tenancy.create_org('Acme', '{slug}', '{owner_text}')"
    ));
    (org, owner)
}

fn enter(org: [u8; 16]) {
    let org = uuid::Uuid::from_bytes(org);
    Spi::run(&format!("SELECT tenancy.enter('{org}')")).expect("enters");
}
