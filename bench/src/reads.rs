//! Reads of protected tables, against (a) a literal WHERE without row security and against policies written by hand:
//! `org_id =` (b) current_setting(..)::uuid, (c) the same in a sub-select, (d) a plpgsql function that returns it.

use serde_json::json;

use crate::reader::{Protocol, Reader, together};
use crate::report::Report;
use crate::rounds::{Samples, Side, interleave, sittings};
use crate::scale::Scale;
use crate::server::{HAND, LITERAL};
use crate::world::World;
use crate::{Result, world};

pub const OURS: &str = "pg_tenancy";
pub const BASE: &str = "(a) literal WHERE";
pub const STYLES: [&str; 3] = [
    "(b) current_setting() policy",
    "(c) (SELECT ..) policy",
    "(d) plpgsql policy",
];

/// `{e}`, `{t}`, `{s}` stand where the literal side names the organization.
struct Query {
    name: &'static str,
    sql: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Quick,
    /// Reads a good part of the table.
    Heavy,
    /// The same, and every row of the table is put to the predicate.
    Scan,
}

const QUERIES: &[Query] = &[
    Query {
        name: "point read",
        sql: "SELECT e.id, e.at, e.kind, e.title, e.visits, e.amount FROM events e WHERE {e}e.id = $1::bigint",
        kind: Kind::Quick,
    },
    Query {
        name: "range read, 100 rows",
        sql: "SELECT e.id, e.at, e.kind, e.title FROM events e
              WHERE {e}e.at >= to_timestamp(1735689600 + $1::bigint * 30) ORDER BY e.at LIMIT 100",
        kind: Kind::Quick,
    },
    Query {
        name: "3-table join",
        sql: "SELECT s.name, count(*), max(e.at) FROM servers s JOIN sites t ON t.server_id = s.id
              JOIN events e ON e.site_id = t.id
              WHERE {s}{t}{e}s.id = (SELECT server_id FROM sites t JOIN events e ON e.site_id = t.id WHERE {t}{e}e.id = $1::bigint)
              GROUP BY s.name",
        kind: Kind::Quick,
    },
    Query {
        name: "aggregate over the table",
        sql: AGGREGATE,
        kind: Kind::Heavy,
    },
    Query {
        name: "aggregate, sequential scan",
        sql: AGGREGATE,
        kind: Kind::Scan,
    },
];

const AGGREGATE: &str = "SELECT count(*), sum(e.visits), max(e.at) FROM events e WHERE {e}true";

pub fn load(world: &World, scale: &Scale) -> Result<()> {
    let mut admin = world.superuser()?;
    let sql = include_str!("../sql/reads.sql").replace("{events}", &scale.rows.to_string());
    admin.batch_execute(&sql)?;
    world::vacuum_analyze(&mut admin)
}

pub fn measure(world: &World, scale: &Scale, report: &mut Report) -> Result<()> {
    let probes = probes(world)?;
    for query in QUERIES {
        for clients in [1, 8] {
            for protocol in [Protocol::Prepared, Protocol::Simple] {
                // The protocol is nothing beside a second, nor do clients side by side say more about a scan.
                let plain = clients == 1 && protocol == Protocol::Prepared;
                match query.kind {
                    Kind::Heavy if clients > 1 && protocol == Protocol::Simple => continue,
                    Kind::Scan if !plain => continue,
                    _ => {}
                }
                compare(world, scale, report, query, protocol, clients, &probes)?;
            }
        }
    }
    parallel_aggregate(world, scale, report)
}

/// Ids of events of the large organization.
pub fn probes(world: &World) -> Result<Vec<i64>> {
    let rows = world.superuser()?.query(
        "SELECT id FROM hand.events WHERE org_id = $1 ORDER BY md5(id::text) LIMIT 2000",
        &[&world.large()],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn compare(
    world: &World,
    scale: &Scale,
    report: &mut Report,
    query: &Query,
    protocol: Protocol,
    clients: usize,
    probes: &[i64],
) -> Result<()> {
    let mut plans = Vec::new();
    let samples = sittings(scale.sittings, || {
        let mut crowds = Vec::new();
        for style in 0..2 + HAND.len() {
            crowds.push(crowd(world, query, protocol, clients, probes, style)?);
        }
        let answers: Result<Vec<_>> = crowds.iter_mut().map(|c| c[0].answer()).collect();
        let answers = answers?;
        if answers.iter().any(|a| *a != answers[0] || a.is_empty()) {
            return Err(format!("{}: the sides answer differently", query.name).into());
        }
        plans = vec![crowds[0][0].plan()?, crowds[1][0].plan()?];
        sitting(scale, query, clients, &mut crowds)
    })?;

    let how = match protocol {
        Protocol::Prepared => "prepared",
        Protocol::Simple => "simple",
    };
    let people = if clients == 1 { "client" } else { "clients" };
    let name = format!("{}, {how}, {clients} {people}", query.name);
    let extra = json!({"plan": plans[0], "plan_of_base": plans[1]});
    report.samples("reads", &name, &samples, extra);
    report.bound("reads", &name, BASE, samples.ratio(OURS, BASE), 1.05);
    for style in STYLES {
        report.rival("reads", &name, style, samples.ratio(OURS, style));
    }
    Ok(())
}

/// The clients of one side: ours, the literal, then the hand-written policies.
fn crowd(
    world: &World,
    query: &Query,
    protocol: Protocol,
    clients: usize,
    probes: &[i64],
    style: usize,
) -> Result<Vec<Reader>> {
    let org = world.large();
    let named = (style == 1).then(|| org.to_string());
    let sql = written(query.sql, named.as_deref());
    (0..clients)
        .map(|i| {
            let mut client = match style {
                0 => world.app("ours", &org)?,
                1 => world.other(LITERAL, "ours")?,
                n => world.hand(HAND[n - 2], "hand", &org)?,
            };
            if query.kind == Kind::Scan {
                client.batch_execute("SET enable_indexscan = off; SET enable_bitmapscan = off")?;
            }
            let reader = Reader::new(client, &sql, protocol, probes)?.starting_at(i * 97);
            if clients > 1 {
                reader.unpinned()
            } else {
                Ok(reader)
            }
        })
        .collect()
}

fn sitting(
    scale: &Scale,
    query: &Query,
    clients: usize,
    crowds: &mut [Vec<Reader>],
) -> Result<Samples> {
    let names = [OURS, BASE].into_iter().chain(STYLES);
    let sides = names
        .zip(crowds)
        .map(|(name, crowd)| {
            let side = Side::batches(name, |n| together(crowd, n)).of(clients);
            let side = if clients > 1 { side.longer(4) } else { side };
            // These take seconds; ours and the literal are what the bound compares.
            if query.kind != Kind::Quick && (name == STYLES[0] || name == STYLES[2]) {
                side.at_most(1)
            } else {
                side
            }
        })
        .collect();
    let rounds = match (query.kind != Kind::Quick, clients) {
        (false, 1) => scale.rounds,
        (false, _) => scale.rounds.div_ceil(2),
        (true, 1) => scale.heavy_rounds,
        (true, _) => scale.heavy_rounds.div_ceil(2),
    };
    interleave(rounds, sides)
}

pub fn written(sql: &str, literal_org: Option<&str>) -> String {
    ["e", "t", "s"]
        .iter()
        .fold(sql.to_string(), |sql, table| match literal_org {
            Some(org) => sql.replace(
                &format!("{{{table}}}"),
                &format!("{table}.org_id = '{org}' AND "),
            ),
            None => sql.replace(&format!("{{{table}}}"), ""),
        })
}

/// With PostgreSQL's own two workers, as on a server that is not busy.
fn parallel_aggregate(world: &World, scale: &Scale, report: &mut Report) -> Result<()> {
    let org = world.large();
    let reader = |literal: bool| -> Result<Reader> {
        let mut client = if literal {
            world.other(LITERAL, "ours")?
        } else {
            world.app("ours", &org)?
        };
        client.batch_execute("SET max_parallel_workers_per_gather = 2")?;
        let sql = written(AGGREGATE, literal.then(|| org.to_string()).as_deref());
        Reader::new(client, &sql, Protocol::Prepared, &[])
    };
    let mut extra = json!(null);
    let samples = sittings(scale.sittings, || {
        let (mut ours, mut base) = (reader(false)?, reader(true)?);
        extra = json!({"plan": ours.plan()?, "plan_of_base": base.plan()?});
        let sides = vec![
            Side::quick(OURS, || ours.once()),
            Side::quick(BASE, || base.once()),
        ];
        interleave(scale.heavy_rounds, sides)
    })?;
    let name = "aggregate over the table, parallel";
    report.samples("reads", name, &samples, extra);
    report.bound("reads", name, BASE, samples.ratio(OURS, BASE), 1.05);
    Ok(())
}
