//! The matrix in memory is the matrix in the tables.

use super::Test;
use crate::context::authority;
use pgrx::prelude::*;

pub const TESTS: &[Test] = &[
    (
        "every_cell_in_memory_is_the_tables",
        every_cell_in_memory_is_the_tables,
    ),
    (
        "an_application_action_is_known_at_once",
        an_application_action_is_known_at_once,
    ),
];

fn every_cell_in_memory_is_the_tables() {
    let matrix = authority::matrix();
    let mut cells = 0;
    Spi::connect(|client| {
        let rows = client
            .select(
                "SELECT role, action, level FROM tenancy.role_permissions",
                None,
                &[],
            )
            .expect("selects");
        for row in rows {
            let text = |n| row.get::<String>(n).expect("text").expect("not null");
            let action = matrix.action(&text(2)).expect("a known action");
            let rights = matrix.rights(&text(1)).expect("a known role");
            let level = rights.level(action);
            assert_eq!(level.name(), text(3), "{} on {}", text(1), text(2));
            cells += 1;
        }
    });
    assert_eq!(cells, 48 * 4);
}

fn an_application_action_is_known_at_once() {
    assert!(authority::matrix().action("invoice:send").is_none());
    Spi::run("INSERT INTO tenancy.actions (name, category) VALUES ('invoice:send', 'invoice')")
        .expect("inserts");
    let matrix = authority::matrix();
    let action = matrix.action("invoice:send").expect("heard of");
    assert_eq!(
        matrix
            .rights("owner")
            .map(|rights| rights.level(action).name()),
        Some("deny")
    );
}
