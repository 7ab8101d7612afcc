//! What a context costs a transaction: enter() against a bare set_config(), as a pooled application does it for
//! another organization each time.

use postgres::{Client, Statement};
use serde_json::Value;

use crate::reads::{OURS, STYLES, probes, written};
use crate::report::Report;
use crate::rounds::{Samples, Side, interleave, sittings};
use crate::scale::Scale;
use crate::server::{HAND, PLAIN, POOLED};
use crate::world::World;
use crate::{Result, Uuid};

const PART: &str = "context";
const ENTER_ORG: &str = "enter(org)";
const ENTER_BOTH: &str = "enter(org, user)";
const SEALED: &str = "enter(org, user, seal => true)";
const SET_ORG: &str = "set_config(org, true)";
const SET_BOTH: &str = "set_config(org), set_config(user)";

pub fn measure(world: &World, scale: &Scale, report: &mut Report) -> Result<()> {
    three_messages(world, scale, report)?;
    one_message(world, scale, report)?;
    with_a_read(world, scale, report)?;
    Ok(())
}

fn compare(report: &mut Report, how: &str, samples: &Samples) {
    report.samples(
        PART,
        &format!("BEGIN; context; COMMIT {how}"),
        samples,
        Value::Null,
    );
    for (ours, base) in [
        (ENTER_ORG, SET_ORG),
        (ENTER_BOTH, SET_BOTH),
        (SEALED, SET_BOTH),
    ] {
        let name = format!("BEGIN; {ours}; COMMIT {how}");
        report.bound(PART, &name, base, samples.ratio(ours, base), 1.3);
    }
}

/// A transaction of a pooled connection: BEGIN, one prepared statement with organization and user, COMMIT.
struct Transaction {
    client: Client,
    statement: Statement,
    both: bool,
    text: bool,
    turn: usize,
}

impl Transaction {
    fn new(world: &World, login: &str, sql: &str) -> Result<Transaction> {
        let mut client = world.server.login(login, &world.database)?;
        let statement = client.prepare(sql)?;
        Ok(Transaction {
            client,
            statement,
            both: sql.contains("$2"),
            text: sql.contains("set_config"),
            turn: 0,
        })
    }

    fn once(&mut self, world: &World) -> Result<()> {
        self.turn += 1;
        let org: Uuid = world.orgs[self.turn % world.orgs.len().min(100)];
        self.client.batch_execute("BEGIN")?;
        if self.text {
            let (org, user) = (org.to_string(), world.user.to_string());
            if self.both {
                self.client.query(&self.statement, &[&org, &user])?;
            } else {
                self.client.query(&self.statement, &[&org])?;
            }
        } else if self.both {
            self.client.query(&self.statement, &[&org, &world.user])?;
        } else {
            self.client.query(&self.statement, &[&org])?;
        }
        Ok(self.client.batch_execute("COMMIT")?)
    }
}

fn three_messages(world: &World, scale: &Scale, report: &mut Report) -> Result<()> {
    let both = "SELECT set_config('app.current_org', $1, true), set_config('app.current_user_id', $2, true)";
    let one = "SELECT set_config('app.current_org', $1, true)";
    let samples = sittings(scale.sittings, || {
        let mut a = Transaction::new(world, POOLED, "SELECT tenancy.enter($1)")?;
        let mut b = Transaction::new(world, PLAIN, one)?;
        let mut c = Transaction::new(world, POOLED, "SELECT tenancy.enter($1, $2)")?;
        let mut d = Transaction::new(world, PLAIN, both)?;
        let sealed = "SELECT tenancy.enter($1, $2, seal => true)";
        let mut e = Transaction::new(world, POOLED, sealed)?;
        let sides = vec![
            Side::quick(ENTER_ORG, || a.once(world)),
            Side::quick(SET_ORG, || b.once(world)),
            Side::quick(ENTER_BOTH, || c.once(world)),
            Side::quick(SET_BOTH, || d.once(world)),
            Side::quick(SEALED, || e.once(world)),
        ];
        interleave(scale.rounds, sides)
    })?;
    compare(report, "(3 messages)", &samples);
    Ok(())
}

/// All in one message of the simple protocol: without the waiting between messages, the harshest comparison.
fn one_message(world: &World, scale: &Scale, report: &mut Report) -> Result<()> {
    let user = world.user;
    let write: [fn(Uuid, Uuid) -> String; 5] = [
        |org, _| format!("tenancy.enter('{org}')"),
        |org, _| format!("set_config('app.current_org', '{org}', true)"),
        |org, user| format!("tenancy.enter('{org}', '{user}')"),
        |org, user| {
            format!(
                "set_config('app.current_org', '{org}', true), set_config('app.current_user_id', '{user}', true)"
            )
        },
        |org, user| format!("tenancy.enter('{org}', '{user}', seal => true)"),
    ];
    let names = [ENTER_ORG, SET_ORG, ENTER_BOTH, SET_BOTH, SEALED];
    let samples = sittings(scale.sittings, || {
        let mut clients: Vec<Client> = [POOLED, PLAIN, POOLED, PLAIN, POOLED]
            .iter()
            .map(|login| world.server.login(login, &world.database))
            .collect::<Result<_>>()?;
        let sides = names.into_iter().zip(&mut clients).zip(write);
        let sides = sides.map(|((name, client), write)| {
            let mut turn = 0;
            Side::quick(name, move || {
                turn += 1;
                let org = world.orgs[turn % world.orgs.len().min(100)];
                client.simple_query(&format!("BEGIN; SELECT {}; COMMIT", write(org, user)))?;
                Ok(())
            })
        });
        interleave(scale.rounds, sides.collect())
    })?;
    compare(report, "(1 message)", &samples);
    Ok(())
}

/// The transaction that an application runs most: context, one read by primary key.
fn with_a_read(world: &World, scale: &Scale, report: &mut Report) -> Result<()> {
    let probes = probes(world)?;
    let (org, user) = (world.large(), world.user);
    let sql = written(
        "SELECT e.id, e.at, e.kind, e.title FROM events e WHERE {e}e.id = $1::bigint",
        None,
    );
    let text = org.to_string();
    let samples = sittings(scale.sittings, || {
        let mut ours = world.other(POOLED, "ours")?;
        let enter = ours.prepare("SELECT tenancy.enter($1, $2)")?;
        let read = ours.prepare(&sql)?;
        let mut hand = world.other(HAND[0], "hand")?;
        let set = hand.prepare("SELECT set_config('app.current_org', $1, true)")?;
        let hand_read = hand.prepare(&sql)?;
        let (mut i, mut j) = (0, 0);
        let sides = vec![
            Side::quick(OURS, || {
                i += 1;
                ours.batch_execute("BEGIN")?;
                ours.query(&enter, &[&org, &user])?;
                ours.query_one(&read, &[&probes[i % probes.len()]])?;
                Ok(ours.batch_execute("COMMIT")?)
            }),
            Side::quick(STYLES[0], || {
                j += 1;
                hand.batch_execute("BEGIN")?;
                hand.query(&set, &[&text])?;
                hand.query_one(&hand_read, &[&probes[j % probes.len()]])?;
                Ok(hand.batch_execute("COMMIT")?)
            }),
        ];
        interleave(scale.rounds, sides)
    })?;
    let name = "BEGIN; context; point read; COMMIT";
    report.samples(PART, name, &samples, Value::Null);
    report.rival(PART, name, STYLES[0], samples.ratio(OURS, STYLES[0]));
    Ok(())
}
