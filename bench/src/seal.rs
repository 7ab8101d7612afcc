//! Sealing: what it costs the writers of one busy organization where commits are slow (spec 6.4: nothing may wait for the
//! chain), and how fast it goes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postgres::Client;
use serde_json::Value;

use crate::crowd::{CROWD, crowd, together};
use crate::report::Report;
use crate::rounds::{Side, Stat, interleave};
use crate::scale::Scale;
use crate::world::World;
use crate::{Result, items};

const PART: &str = "seal";
const OFF: &str = "protected, no audit";
const OURS: &str = "pg_tenancy, sealed meanwhile";
/// How long each side writes in a round.
const ROUND: Duration = Duration::from_millis(1500);

pub fn measure(world: &World, scale: &Scale, report: &mut Report) -> Result<()> {
    let mut admin = world.superuser()?;
    admin.batch_execute("CREATE SCHEMA z; GRANT USAGE ON SCHEMA z TO PUBLIC")?;
    for table in ["z.off", "z.ours", "z.bulk"] {
        items::create(&mut admin, table, "")?;
    }
    admin.batch_execute(
        "SELECT tenancy.protect('z.off', audit => false); SELECT tenancy.protect('z.ours'); SELECT tenancy.protect('z.bulk')",
    )?;
    throughput(world, scale, report)?;
    rate(world, scale, report)
}

/// 16 writers on one organization, each commit waiting 3 ms for its flush.
fn throughput(world: &World, scale: &Scale, report: &mut Report) -> Result<()> {
    let slow = |on: bool| -> Result<()> {
        let mut admin = world.superuser()?;
        for (name, value) in [
            ("fsync", if on { "on" } else { "off" }),
            ("commit_delay", if on { "3000" } else { "0" }),
            ("commit_siblings", if on { "0" } else { "5" }),
        ] {
            admin.batch_execute(&format!("ALTER SYSTEM SET {name} = {value}"))?;
        }
        admin.batch_execute("SELECT pg_reload_conf()")?;
        std::thread::sleep(Duration::from_millis(300));
        Ok(())
    };
    slow(true)?;
    let mut off = crowd(world, "z", "z.off")?;
    let mut ours = crowd(world, "z", "z.ours")?;
    let mut sealer = world.superuser()?;
    let samples = interleave(
        scale.bulk_rounds.max(9),
        vec![
            Side::bulk(OFF, 1, || together(&mut off, ROUND)),
            Side::bulk(OURS, 1, || {
                let done = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    let sealing = scope.spawn(|| seal_until(&mut sealer, &done));
                    let time = together(&mut ours, ROUND);
                    done.store(true, Ordering::Relaxed);
                    sealing.thread().unpark();
                    sealing.join().expect("it does not panic")?;
                    time
                })
            }),
        ],
    )?;
    slow(false)?;
    let name = format!("{CROWD} writers on one organization, commits of 3 ms");
    report.samples(PART, &name, &samples, Value::Null);
    // 95 percent of the throughput.
    report.bound(PART, &name, OFF, samples.ratio(OURS, OFF), 1.0 / 0.95);
    Ok(())
}

/// Once a second: ten times as often as the sealer does by itself. A pass looks into the log of every organization.
fn seal_until(sealer: &mut Client, done: &AtomicBool) -> Result<()> {
    while !done.load(Ordering::Relaxed) {
        sealer.batch_execute("SELECT * FROM tenancy.seal_audit()")?;
        std::thread::park_timeout(Duration::from_secs(1));
    }
    Ok(())
}

/// Lines a second, of a bulk statement's.
fn rate(world: &World, scale: &Scale, report: &mut Report) -> Result<()> {
    let mut client = world.app("z", &world.large())?;
    let mut admin = world.superuser()?;
    let org = world.large();
    let (mut sealing, mut verifying, mut share) = (vec![], vec![], vec![]);
    admin.batch_execute("SELECT * FROM tenancy.seal_audit()")?;
    for _ in 0..scale.bulk_rounds.min(5) {
        let unaudited = items::timed(&mut client, &items::insert_all("z.off", "random"))?;
        items::truncate(&mut admin, "z.off")?;
        admin.batch_execute("RESET row_security")?;
        client.batch_execute(&items::insert_all("z.bulk", "random"))?;
        let lines = scale.bulk() as f64;
        let time = items::timed(
            &mut admin,
            &format!("SELECT * FROM tenancy.seal_audit('{org}')"),
        )?;
        sealing.push(lines / time.as_secs_f64());
        share.push(time.as_secs_f64() / unaudited.as_secs_f64());
        let sealed: i64 = admin
            .query_one(
                &format!("SELECT sealed_lines FROM tenancy.list_seal_status('{org}')"),
                &[],
            )?
            .get(0);
        let time = items::timed(
            &mut admin,
            &format!("SELECT * FROM tenancy.verify_audit('{org}')"),
        )?;
        verifying.push(sealed as f64 / time.as_secs_f64());
        items::truncate(&mut admin, "z.bulk")?;
        admin.batch_execute("RESET row_security")?;
    }
    let against = "inserting the rows, no audit";
    report.rival(
        PART,
        "seal_audit() of a bulk insert's lines",
        against,
        Stat::of(share),
    );
    for (measure, rates) in [("seal_audit()", sealing), ("verify_audit()", verifying)] {
        report.figure(PART, measure, "", Stat::of(rates), "lines/s");
    }
    Ok(())
}
