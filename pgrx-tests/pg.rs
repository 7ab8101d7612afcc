//! The glue: identity comes back whatever happens, values compare by content, rows become the jsonb PostgreSQL makes.

use super::Test;
use crate::pg::identity::as_owner;
use crate::pg::query::{Arg, latest, run};
use crate::pg::value::Value;
use pgrx::prelude::*;

pub const TESTS: &[Test] = &[
    (
        "identity_and_search_path_come_back",
        identity_and_search_path_come_back,
    ),
    (
        "identity_comes_back_after_an_error",
        identity_comes_back_after_an_error,
    ),
    ("values_compare_by_content", values_compare_by_content),
    (
        "latest_sees_what_this_transaction_wrote",
        latest_sees_what_this_transaction_wrote,
    ),
];

fn who() -> (String, String) {
    let text = |sql| Spi::get_one::<String>(sql).expect("runs").expect("text");
    (
        text("SELECT current_user::text"),
        text("SELECT current_setting('search_path')"),
    )
}

fn weaker() {
    Spi::run("CREATE ROLE in_server_weak; GRANT in_server_weak TO CURRENT_USER; SET LOCAL ROLE in_server_weak").expect("runs");
}

fn identity_and_search_path_come_back() {
    weaker();
    let before = who();
    assert_eq!(before.0, "in_server_weak");
    let inside = as_owner(who);
    assert_ne!(inside.0, before.0);
    assert_eq!(inside.1, "pg_catalog, pg_temp");
    assert_eq!(who(), before);
}

fn identity_comes_back_after_an_error() {
    weaker();
    let before = who();
    Spi::run(
        "DO $$ BEGIN PERFORM tenancy.protect('pg_class'); EXCEPTION WHEN others THEN NULL; END $$",
    )
    .expect("runs");
    assert_eq!(who(), before);
}

fn text_value(text: &str) -> Value {
    Value {
        datum: text.into_datum().expect("text"),
        null: false,
        length: -1,
        by_value: false,
    }
}

fn values_compare_by_content() {
    let long = "x".repeat(100_000);
    assert!(text_value("same").same(&text_value("same")));
    assert!(!text_value("same").same(&text_value("sane")));
    // One compressed and stored out of line, one plain.
    Spi::run("CREATE TEMP TABLE wide (t text); INSERT INTO wide VALUES (repeat('x', 100000))")
        .expect("runs");
    Spi::connect(|client| {
        let rows = client
            .select("SELECT t FROM pg_temp.wide", None, &[])
            .expect("selects");
        let datum = rows
            .first()
            .get_datum_by_ordinal(1)
            .expect("a column")
            .expect("a value");
        let stored = Value {
            datum,
            ..text_value("")
        };
        assert!(stored.same(&text_value(&long)));
        assert!(!stored.same(&text_value("x")));
    });
    let null = Value {
        null: true,
        ..text_value("")
    };
    assert!(null.same(&null) && !null.same(&text_value("")));
}

fn latest_sees_what_this_transaction_wrote() {
    let found = |email: &str| {
        latest(
            "SELECT id FROM tenancy.users WHERE email = $1",
            &[Arg::Text(email)],
            |row| row.uuid(1),
        )
        .len()
    };
    assert_eq!(found("new@in-server.example"), 0);
    run(
        "INSERT INTO tenancy.users (email) VALUES ('new@in-server.example')",
        &[],
        |_| (),
    );
    assert_eq!(found("new@in-server.example"), 1);
}
