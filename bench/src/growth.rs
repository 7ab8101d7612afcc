//! The same reads and the same audited writes at few and at many organizations: cost per row should stay flat.

use std::time::Duration;

use postgres::{Client, Statement};
use serde_json::Value;

use crate::reader::{Protocol, Reader};
use crate::reads::{BASE, written};
use crate::report::Report;
use crate::rounds::{Samples, Side, interleave, sittings};
use crate::scale::Scale;
use crate::server::{LITERAL, POOLED, Server};
use crate::world::{self, Store, World};
use crate::{Result, Uuid};

const PART: &str = "growth";
const ROWS: usize = 200_000;

/// How many organizations, and where their audit goes.
const FEW: (usize, Store) = (10, Store::Dedicated);

pub fn measure(server: &Server, scale: &Scale, report: &mut Report) -> Result<()> {
    let mut sizes = vec![
        FEW,
        (scale.orgs, Store::Dedicated),
        (scale.orgs, Store::Shared),
    ];
    if scale.full {
        sizes.extend([
            (5_000, Store::Dedicated),
            (5_000, Store::Shared),
            (10_000, Store::Shared),
        ]);
    }
    let mut worlds = Vec::new();
    for (orgs, store) in sizes {
        let place = match store {
            Store::Dedicated => "own",
            Store::Shared => "shared",
        };
        let world = World::create(server, &format!("growth_{orgs}_{place}"), orgs, store)?;
        let sql = include_str!("../sql/growth.sql")
            .replace("{rows}", &ROWS.to_string())
            .replace("{orgs}", &orgs.to_string());
        let mut admin = world.superuser()?;
        admin.batch_execute(&sql)?;
        world::vacuum_analyze(&mut admin)?;
        worlds.push((world, orgs, store));
    }
    let all: Vec<(&World, usize, Store)> = worlds.iter().map(|(w, n, s)| (w, *n, *s)).collect();
    // Reads do not ask where the audit is: one database for each number of organizations.
    let mut once: Vec<(&World, usize)> = Vec::new();
    for (world, orgs, _) in &all {
        if once.iter().all(|(_, n)| n != orgs) {
            once.push((world, *orgs));
        }
    }
    reads(&once, scale, report)?;
    writes(&all, scale, report)?;
    audit_reads(&all, scale, report)
}

fn reads(worlds: &[(&World, usize)], scale: &Scale, report: &mut Report) -> Result<()> {
    let queries = [
        (
            "point read",
            "SELECT * FROM items e WHERE {e}e.id = $1::bigint",
        ),
        (
            "range read, 100 rows",
            "SELECT * FROM items e WHERE {e}e.at >= to_timestamp(1735689600 + $1::bigint * 15) ORDER BY e.at LIMIT 100",
        ),
        (
            "aggregate over the org's 2,000 rows",
            "SELECT count(*), sum(visits) FROM items e WHERE {e}true",
        ),
    ];
    let every = (ROWS / 2000) as i64;
    let probes: Vec<i64> = (1..2000).map(|i| i * every).collect();
    for (name, sql) in queries {
        let samples = sittings(scale.sittings, || {
            let mut readers = Vec::new();
            for (world, orgs) in worlds {
                let org = world.orgs[0];
                let ours = world.app("g", &org)?;
                let base = world.other(LITERAL, "g")?;
                let literal = written(sql, Some(&org.to_string()));
                let new = |client, sql: &str| Reader::new(client, sql, Protocol::Prepared, &probes);
                readers.push((format!("{orgs} orgs"), new(ours, &written(sql, None))?));
                readers.push((format!("{orgs} orgs, literal"), new(base, &literal)?));
            }
            for (side, reader) in &mut readers {
                if reader.answer()?.is_empty() {
                    return Err(format!("{name}, {side}: no rows").into());
                }
            }
            let sides = readers
                .iter_mut()
                .map(|(side, reader)| Side::quick(side.as_str(), || reader.once()))
                .collect();
            interleave(scale.rounds, sides)
        })?;
        report.samples(PART, name, &samples, Value::Null);
        for (_, orgs) in worlds {
            let (ours, base) = (format!("{orgs} orgs"), format!("{orgs} orgs, literal"));
            let ratio = samples.ratio(&ours, &base);
            report.bound(PART, &format!("{name}, {orgs} orgs"), BASE, ratio, 1.05);
        }
        for (_, orgs) in &worlds[1..] {
            let (many, few) = (format!("{orgs} orgs"), format!("{} orgs", FEW.0));
            let ratio = samples.ratio(&many, &few);
            report.rival(PART, &format!("{name}, {many}"), &few, ratio);
        }
    }
    Ok(())
}

/// Every row goes through an own transaction and context, in turn over the organizations, as a server's requests do.
struct InTurn<'a> {
    world: &'a World<'a>,
    client: Client,
    enter: Statement,
    insert: Statement,
    turn: usize,
}

impl<'a> InTurn<'a> {
    fn new(world: &'a World, table: &str) -> Result<InTurn<'a>> {
        let mut client = world.other(POOLED, "g")?;
        Ok(InTurn {
            enter: client.prepare("SELECT tenancy.enter($1, $2)")?,
            insert: client.prepare(&insert(table, 1))?,
            client,
            world,
            turn: 0,
        })
    }

    fn once(&mut self) -> Result<()> {
        self.turn += 1;
        // The first two organizations are left to the other measures.
        let org: Uuid = self.world.orgs[2 + self.turn % (self.world.orgs.len() - 2)];
        self.client.batch_execute("BEGIN")?;
        self.client.query(&self.enter, &[&org, &self.world.user])?;
        self.client.execute(&self.insert, &[])?;
        Ok(self.client.batch_execute("COMMIT")?)
    }

    /// Every organization once, so that what a connection keeps of each is there before the clock runs.
    fn warmed(mut self) -> Result<InTurn<'a>> {
        for _ in 0..self.world.orgs.len() {
            self.once()?;
        }
        Ok(self)
    }
}

fn insert(table: &str, rows: usize) -> String {
    format!(
        "INSERT INTO {table} (id, title, visits) SELECT nextval('g.ids'), 'item d3d9446802a44259755d38e6d163e820', n
         FROM generate_series(1, {rows}) AS n"
    )
}

fn label(orgs: usize, store: Store) -> String {
    let own = match store {
        Store::Dedicated => "own audit tables",
        Store::Shared => "shared audit table",
    };
    format!("{orgs} orgs, {own}")
}

fn writes(all: &[(&World, usize, Store)], scale: &Scale, report: &mut Report) -> Result<()> {
    let mut writers = Vec::new();
    for (world, orgs, store) in all {
        let name = label(*orgs, *store);
        let audited = InTurn::new(world, "g.audited")?.warmed()?;
        let unaudited = InTurn::new(world, "g.unaudited")?.warmed()?;
        writers.push((name.clone(), audited));
        writers.push((format!("{name}, audit off"), unaudited));
    }
    let sides = writers
        .iter_mut()
        .map(|(name, w)| Side::quick(name.as_str(), || w.once()))
        .collect();
    let samples = interleave(scale.rounds * scale.sittings, sides)?;
    flat(all, report, "audited insert, orgs in turn", &samples);

    let mut clients = Vec::new();
    for (world, orgs, store) in all {
        let client = world.app("g", &world.orgs[1])?;
        clients.push((label(*orgs, *store), client));
    }
    let sql = insert("g.audited", 1000);
    let sides = clients
        .iter_mut()
        .map(|(name, client)| {
            let run = || -> Result<Duration> { crate::items::timed(client, &sql) };
            Side::bulk(name.as_str(), 1000, run)
        })
        .collect();
    let samples = interleave(scale.rounds, sides)?;
    flat(all, report, "audited insert of 1,000 rows", &samples);
    Ok(())
}

fn audit_reads(all: &[(&World, usize, Store)], scale: &Scale, report: &mut Report) -> Result<()> {
    for (name, sql, lines) in [
        (
            "read 100 audit lines",
            "SELECT * FROM tenancy.read_audit(max_rows => 100)",
            100,
        ),
        (
            "read an org's audit, 1,000 lines",
            "SELECT * FROM tenancy.audit_log",
            1000,
        ),
    ] {
        let mut readers = Vec::new();
        for (world, orgs, store) in all {
            let mut client = world.app("g", &world.orgs[0])?;
            let found = client.query(sql, &[])?.len();
            if !(lines..lines + 10).contains(&found) {
                return Err(format!("{name}: {found} lines").into());
            }
            let reader = Reader::new(client, sql, Protocol::Prepared, &[])?;
            readers.push((label(*orgs, *store), reader));
        }
        let sides = readers
            .iter_mut()
            .map(|(name, reader)| Side::quick(name.as_str(), || reader.once()).of(lines))
            .collect();
        let samples = interleave(scale.rounds * scale.sittings, sides)?;
        flat(all, report, name, &samples);
    }
    Ok(())
}

/// The time per row at many organizations against that at few, and of the shared table against an own one.
fn flat(all: &[(&World, usize, Store)], report: &mut Report, name: &str, samples: &Samples) {
    report.samples(PART, name, samples, Value::Null);
    let few = label(FEW.0, FEW.1);
    for (_, orgs, store) in &all[1..] {
        let many = label(*orgs, *store);
        report.rival(
            PART,
            &format!("{name}, {many}"),
            &few,
            samples.ratio(&many, &few),
        );
    }
    for (_, orgs, store) in all {
        let (own, shared) = (label(*orgs, Store::Dedicated), label(*orgs, Store::Shared));
        let both = all
            .iter()
            .any(|(_, n, s)| n == orgs && *s == Store::Dedicated);
        if *store == Store::Shared && both {
            report.rival(
                PART,
                &format!("{name}, {shared}"),
                &own,
                samples.ratio(&shared, &own),
            );
        }
    }
}
