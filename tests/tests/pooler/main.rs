//! Behind a real PgBouncer (attack A4): many clients of many organizations share few server connections, in transaction
//! mode and in session mode; the context never reaches the next client.

mod client;
mod town;

use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use client::{Client, Tally};
use pg_tenancy_tests::{Pooler, few_or_many};
use town::Town;

const CLIENTS: usize = 24;

/// `restless`: how many of a hundred transactions come on a new connection.
fn crowd(town: &Town, pooler: &Pooler, transactions: usize, restless: usize) {
    let tally = Tally::default();
    let written: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (1..=CLIENTS as i32)
            .map(|number| {
                let mut client = Client::new(town, pooler, &tally, number);
                client.restless = restless;
                scope.spawn(move || {
                    client.run(transactions.div_ceil(CLIENTS));
                    (number, client.written)
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|c| c.join().expect("no client failed"))
            .collect()
    });
    town.check_notes(&written);
    let counted = [
        &tally.checked,
        &tally.forgetful,
        &tally.misdeeds,
        &tally.spoiled,
    ];
    let [checked, forgetful, misdeeds, spoiled] = counted.map(|n| n.load(Relaxed));
    assert!(
        checked > transactions * 3 / 4,
        "{checked} of {transactions}, {spoiled} spoiled"
    );
    assert!(forgetful > transactions / 20 && misdeeds > transactions / 20);
    // They did share: the connections that lived long served all.
    let served = tally.served.into_inner().expect("no client failed");
    let shared = served.values().filter(|orgs| orgs.len() > 4).count();
    assert!(shared > 0, "{served:?}");
}

#[test]
fn a4_transaction_mode_hands_on_no_context() {
    let town = Town::new();
    let pooler = town.pooler(
        "transaction",
        &[
            "default_pool_size = 3",
            "ignore_startup_parameters = extra_float_digits, options",
        ],
    );
    let transactions = few_or_many(
        "transactions through PgBouncer in transaction mode",
        2_400,
        100_000,
    );
    crowd(&town, &pooler, transactions, 3);
}

#[test]
fn a4_session_mode_hands_on_no_context() {
    let town = Town::new();
    let pooler = town.pooler(
        "session",
        &[
            "default_pool_size = 4",
            "ignore_startup_parameters = extra_float_digits, options",
        ],
    );
    let transactions = few_or_many(
        "transactions through PgBouncer in session mode",
        1_200,
        100_000,
    );
    crowd(&town, &pooler, transactions, 30);
}
