//! Behind a real PgBouncer (attack A4): many clients of many organizations share few server connections, in transaction
//! mode and in session mode; the context never reaches the next client.

mod client;
mod town;

use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use std::io::Write;
use std::process::{Command, Stdio};

use client::{Client, Tally};
use pg_tenancy_tests::{Pooler, Random, Session, few_or_many};
use town::{Place, Town};

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

const COUNTS: &str = "SELECT count(*) FILTER (WHERE org_id = $1), count(*) FILTER (WHERE org_id <> $1) FROM public.notes";

/// How many notes of the place a session sees, and how many of others.
fn seen(session: &mut Session, place: &Place) -> (i64, i64) {
    let row = session
        .rows(&COUNTS.replace("$1", &format!("'{}'", place.id)))
        .remove(0);
    let number = |i: usize| row[i].as_ref().expect("a count").parse().expect("a number");
    (number(0), number(1))
}

/// An application that keeps its context for the session needs a connection of its own; session mode gives it one, and
/// server_reset_query cleans up behind it.
#[test]
fn a4_session_mode_gives_a_session_context_an_end() {
    let town = Town::new();
    let pooler = town.pooler("session", &["default_pool_size = 2"]);
    let rounds = few_or_many("connections of clients with a session context", 200, 5_000);
    thread::scope(|scope| {
        for number in 0..8 {
            let (town, pooler) = (&town, &pooler);
            scope.spawn(move || {
                let mut random = Random::new(number);
                for _ in 0..rounds / 8 {
                    let place = &town.places[random.next(town.places.len())];
                    let mut session = pooler.login(&town.session_app, &town.db.name);
                    assert_eq!(seen(&mut session, place), (0, 0));
                    assert_eq!(
                        session.rows("SELECT current_setting('app.current_org', true) WHERE current_setting('app.current_org', true) <> ''
                            UNION ALL SELECT name FROM pg_prepared_statements UNION ALL SELECT name FROM pg_cursors WHERE name = 'held'
                            UNION ALL SELECT relname FROM pg_class WHERE relname = 'mine' AND pg_table_is_visible(oid)"),
                        Vec::<Vec<Option<String>>>::new()
                    );
                    session.run(&format!(
                        "SET app.current_org = '{}'; SET app.current_user_id = '{}'",
                        place.key, place.people[random.next(3)]
                    ));
                    assert_eq!(seen(&mut session, place), (3, 0));
                    session.run("PREPARE mine AS SELECT count(*) FROM notes");
                    session.run("CREATE TEMP TABLE mine AS SELECT * FROM notes");
                    session.run("BEGIN; DECLARE held CURSOR WITH HOLD FOR SELECT * FROM notes; COMMIT");
                    assert_eq!(seen(&mut session, place), (3, 0));
                    // Gone in mid-transaction, now and then.
                    if random.percent(30) {
                        session.run("BEGIN; DELETE FROM notes");
                    }
                }
            });
        }
    });
    town.check_notes(&[(0, vec![3; town.places.len()])]);
}

/// A bound login's context may outlive its client, in a pool of its own: the next client is the same person.
#[test]
fn a4_bound_logins_reach_their_own_whoever_used_the_connection() {
    let town = Town::new();
    let pooler = town.pooler("transaction", &["default_pool_size = 2"]);
    let rounds = few_or_many(
        "transactions of bound logins through PgBouncer",
        600,
        20_000,
    );
    thread::scope(|scope| {
        for number in 0..town.places.len() * 2 {
            let (town, pooler) = (&town, &pooler);
            scope.spawn(move || {
                let mut random = Random::new(number as u64);
                let n = number % town.places.len();
                let (place, other) = (&town.places[n], &town.places[(n + 1) % town.places.len()]);
                let mut session = pooler.login(&place.login, &town.db.name);
                for _ in 0..rounds / town.places.len() / 2 {
                    match random.next(5) {
                        0 => drop(session.run(&format!("SET app.current_org = '{}'", place.id))),
                        1 => drop(session.run(&format!("SET app.current_org = '{}'", other.id))),
                        2 => session = pooler.login(&place.login, &town.db.name),
                        3 => {
                            session.run(&format!("BEGIN; SET LOCAL app.current_org = '{}'; SET LOCAL app.current_user_id = '{}'", other.id, other.people[0]));
                            assert_eq!(seen(&mut session, place), (0, 0));
                            session.run("COMMIT");
                        }
                        _ => {
                            session.run(&format!("BEGIN; SET LOCAL app.current_org = '{}'; SET LOCAL app.current_user_id = ''", place.key));
                            assert_eq!(seen(&mut session, place), (3, 0));
                            session.run("COMMIT");
                        }
                    }
                    let (own, foreign) = seen(&mut session, place);
                    assert!(foreign == 0 && (own == 0 || own == 3), "{own} {foreign}");
                }
            });
        }
    });
}

fn output(mut command: Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let out = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&out.stdout).into()
}

/// A client program of the server's own, through the pooler, as the trusted application.
fn through(town: &Town, pooler: &Pooler, program: &str) -> Command {
    let mut command = town.db.cluster.program(program);
    command
        .arg("--host")
        .arg(pooler.dir())
        .args(["--port", "5432", "--username", &town.app]);
    command
}

/// Context and query in one round trip, as the README shows it: several statements in one message, from psql and from a
/// driver; and libpq's pipeline mode, which pgbench speaks.
#[test]
fn enter_and_query_travel_together() {
    let town = Town::new();
    let pooler = town.pooler("transaction", &["default_pool_size = 2"]);
    let mut psql = through(&town, &pooler, "psql");
    psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "--dbname", &town.db.name]);
    let script: String = town
        .places
        .iter()
        .map(|place| {
            format!(
                "BEGIN\\; SET LOCAL app.current_org = '{}'\\; SET LOCAL app.current_user_id = '{}'\\;
                 SELECT DISTINCT left(body, 6) FROM notes\\; COMMIT;\nSELECT count(*) FROM notes;\n",
                place.key, place.people[0]
            )
        })
        .collect();
    let expected: Vec<String> = (0..town.places.len())
        .flat_map(|n| [format!("town-{n}"), "0".into()])
        .collect();
    assert_eq!(output(psql, &script).lines().collect::<Vec<_>>(), expected);

    let mut session = pooler.login(&town.app, &town.db.name);
    for place in &town.places {
        let rows = session.rows(&format!(
            "BEGIN; SELECT tenancy.enter('{}', '{}'); SELECT DISTINCT left(body, 6) FROM notes; COMMIT",
            place.id, place.people[1]
        ));
        assert_eq!(rows.last(), Some(&vec![Some(place.key.clone())]));
    }

    let script = town.db.cluster.file("pipeline.sql");
    std::fs::write(
        &script,
        "\\set n random(0, 7)
         \\startpipeline
         BEGIN;
         SELECT set_config('app.current_org', 'town-' || :n::int, true), set_config('app.current_user_id', '', true);
         SELECT 1 / (count(*) = 3 AND count(*) = count(*) FILTER (WHERE body LIKE 'town-' || :n::int || '%'))::int FROM notes;
         COMMIT;
         \\endpipeline\n",
    )
    .expect("a script");
    let mut pgbench = through(&town, &pooler, "pgbench");
    pgbench
        .args([
            "--no-vacuum",
            "--protocol=extended",
            "--client=6",
            "--transactions=40",
            "--file",
        ])
        .arg(&script)
        .arg(&town.db.name);
    let said = output(pgbench, "");
    assert!(said.contains("actually processed: 240/240"), "{said}");
    // It would have failed.
    std::fs::write(
        &script,
        "\\startpipeline\nBEGIN;\nSELECT 1 / (count(*) = 3)::int FROM notes;\nCOMMIT;\n\\endpipeline\n",
    )
    .expect("a script");
    let mut pgbench = through(&town, &pooler, "pgbench");
    pgbench
        .args([
            "--no-vacuum",
            "--protocol=extended",
            "--transactions=1",
            "--file",
        ])
        .arg(&script)
        .arg(&town.db.name);
    assert!(!pgbench.output().expect("it runs").status.success());
}
