//! What the guards read of a table, and how they look a parent up.

use super::{Test, acme, enter};
use crate::isolation::{Table, protected};
use crate::pg::key::{KeyType, Keys};
use crate::pg::probe::{self, Parent};
use crate::pg::value::Value;
use pgrx::prelude::*;
use std::rc::Rc;

pub const TESTS: &[Test] = &[
    (
        "a_protected_table_is_read_whole",
        a_protected_table_is_read_whole,
    ),
    (
        "a_change_of_the_table_is_read_again",
        a_change_of_the_table_is_read_again,
    ),
    (
        "a_parent_is_held_foreign_or_missing",
        a_parent_is_held_foreign_or_missing,
    ),
];

fn run(sql: &str) {
    Spi::run(sql).expect("runs");
}

fn table(name: &str) -> Rc<Table> {
    let oid = Spi::get_one::<pg_sys::Oid>(&format!("SELECT '{name}'::regclass::oid"));
    protected(oid.expect("runs").expect("a table")).expect("a protected table")
}

fn two_tables() {
    run("CREATE TABLE public.\"Servers\" (id uuid PRIMARY KEY, org_id uuid, name text)");
    run(
        "CREATE TABLE public.sites (a int, b int, org_id uuid, server uuid REFERENCES public.\"Servers\", PRIMARY KEY (b, a))",
    );
    run("SELECT tenancy.protect('public.\"Servers\"'), tenancy.protect('public.sites')");
}

fn a_protected_table_is_read_whole() {
    two_tables();
    let sites = table("public.sites");
    assert_eq!(sites.object, "public.sites");
    assert_eq!(table("public.\"Servers\"").object, "public.\"Servers\"");
    assert_eq!(sites.org_attnum, 3);
    let mut key = sites.key.clone();
    key.sort();
    assert_eq!(key, [1, 2]);
    assert_eq!(sites.foreign_keys.len(), 1);
    assert_eq!(sites.foreign_keys[0].columns, [(4, "server".to_string())]);
    let org = sites.foreign_keys[0].probe.org;
    assert_eq!(org.map(|o| (o.attnum, o.kind)), Some((2, KeyType::Uuid)));
}

fn a_change_of_the_table_is_read_again() {
    two_tables();
    assert_eq!(table("public.sites").columns.len(), 4);
    run("ALTER TABLE public.sites ADD COLUMN note text");
    assert_eq!(table("public.sites").columns.len(), 5);
    run("ALTER TABLE public.sites DROP CONSTRAINT sites_server_fkey");
    assert!(table("public.sites").foreign_keys.is_empty());
}

fn a_parent_is_held_foreign_or_missing() {
    two_tables();
    let ((org, _), (other, _)) = (acme(), acme());
    enter(org);
    let [org, other] = [org, other].map(|id| Keys::new(Some(id), None));
    let parent = *uuid::Uuid::new_v4().as_bytes();
    run(&format!(
        "INSERT INTO public.\"Servers\" (id) VALUES ('{}')",
        uuid::Uuid::from_bytes(parent)
    ));
    let sites = table("public.sites");
    let probe = &sites.foreign_keys[0].probe;
    let key = |id: &[u8; 16]| {
        [Value {
            datum: pg_sys::Datum::from(id.as_ptr()),
            null: false,
            length: 16,
            by_value: false,
        }]
    };
    assert_eq!(probe::find(probe, &key(&parent), &org), Parent::Held);
    assert_eq!(probe::find(probe, &key(&parent), &other), Parent::Foreign);
    assert_eq!(probe::find(probe, &key(&[7; 16]), &org), Parent::Missing);
}
