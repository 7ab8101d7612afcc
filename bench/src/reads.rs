//! Reads of protected tables, against a literal WHERE without row security and against policies written by hand.

use serde_json::json;

use crate::scale::Scale;
use crate::reader::{Protocol, Reader, together};
use crate::report::Report;
use crate::rounds::{Side, interleave};
use crate::server::{HAND, LITERAL};
use crate::world::World;
use crate::{Result, world};

pub const OURS: &str = "pg_tenancy";
pub const BASE: &str = "(a) literal WHERE, no row security";
pub const STYLES: [&str; 3] = [
    "(b) policy on current_setting()",
    "(c) policy on (SELECT current_setting())",
    "(d) policy on a plpgsql helper",
];

/// `{e}`, `{t}`, `{s}` stand where the literal side names the organization.
struct Query {
    name: &'static str,
    sql: &'static str,
    heavy: bool,
}

const QUERIES: &[Query] = &[
    Query {
        name: "point read",
        sql: "SELECT e.id, e.at, e.kind, e.title, e.visits, e.amount FROM events e WHERE {e}e.id = $1::bigint",
        heavy: false,
    },
    Query {
        name: "range read, 100 rows",
        sql: "SELECT e.id, e.at, e.kind, e.title FROM events e
              WHERE {e}e.at >= to_timestamp(1735689600 + $1::bigint * 30) ORDER BY e.at LIMIT 100",
        heavy: false,
    },
    Query {
        name: "3-table join",
        sql: "SELECT s.name, count(*), max(e.at) FROM servers s JOIN sites t ON t.server_id = s.id
              JOIN events e ON e.site_id = t.id
              WHERE {s}{t}{e}s.id = (SELECT server_id FROM sites t JOIN events e ON e.site_id = t.id WHERE {t}{e}e.id = $1::bigint)
              GROUP BY s.name",
        heavy: false,
    },
    Query {
        name: "aggregate over the table",
        sql: "SELECT count(*), sum(e.visits), max(e.at) FROM events e WHERE {e}true",
        heavy: true,
    },
];

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
                if query.heavy && clients > 1 && protocol == Protocol::Simple {
                    // Seconds a query: the protocol is nothing beside them.
                    continue;
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
    let mut readers = Vec::new();
    for style in 0..2 + HAND.len() {
        let crowd: Result<Vec<Reader>> = (0..clients)
            .map(|i| {
                let org = world.large();
                let (client, literal) = match style {
                    0 => (world.app("ours", &org)?, false),
                    1 => (world.other(LITERAL, "ours")?, true),
                    n => (world.hand(HAND[n - 2], "hand", &org)?, false),
                };
                let sql = written(query.sql, literal.then(|| org.to_string()).as_deref());
                Ok(Reader::new(client, &sql, protocol, probes)?.starting_at(i * 97))
            })
            .collect();
        readers.push(crowd?);
    }
    let answers: Result<Vec<_>> = readers.iter_mut().map(|c| c[0].answer()).collect();
    let answers = answers?;
    if answers.iter().any(|a| *a != answers[0] || a.is_empty()) {
        return Err(format!("{}: the sides answer differently", query.name).into());
    }
    let plans: Result<Vec<_>> = readers.iter_mut().map(|c| c[0].plan()).collect();
    let plans = plans?;

    let names = [OURS, BASE].into_iter().chain(STYLES);
    let sides = names
        .zip(&mut readers)
        .map(|(name, crowd)| {
            let side = Side::batches(name, |n| together(crowd, n)).of(clients);
            // Seconds each; ours and the literal are what the bound compares.
            match (query.heavy, name) {
                (true, n) if n == STYLES[2] => side.at_most(1),
                (true, n) if n == STYLES[0] => side.at_most(3),
                _ => side,
            }
        })
        .collect();
    let rounds = if query.heavy && clients > 1 {
        scale.rounds / 2
    } else {
        scale.rounds
    };
    let samples = interleave(rounds, sides)?;

    let how = match protocol {
        Protocol::Prepared => "prepared",
        Protocol::Simple => "simple",
    };
    let people = if clients == 1 { "client" } else { "clients" };
    let name = format!("{}, {how}, {clients} {people}", query.name);
    let same_plan = plans[0] == plans[1];
    let extra = json!({"plan": plans[0], "plan_of_base": plans[1], "same_plan": same_plan});
    report.samples("reads", &name, &samples, extra);
    report.bound("reads", &name, BASE, samples.ratio(OURS, BASE), 1.05);
    for style in STYLES {
        report.rival("reads", &name, style, samples.ratio(OURS, style));
    }
    Ok(())
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
        let sql = written(QUERIES[3].sql, literal.then(|| org.to_string()).as_deref());
        Reader::new(client, &sql, Protocol::Prepared, &[])
    };
    let (mut ours, mut base) = (reader(false)?, reader(true)?);
    let extra = json!({"plan": ours.plan()?, "plan_of_base": base.plan()?});
    let samples = interleave(
        scale.rounds,
        vec![
            Side::quick(OURS, || ours.once()),
            Side::quick(BASE, || base.once()),
        ],
    )?;
    let name = "aggregate over the table, parallel";
    report.samples("reads", name, &samples, extra);
    report.bound("reads", name, BASE, samples.ratio(OURS, BASE), 1.05);
    Ok(())
}
