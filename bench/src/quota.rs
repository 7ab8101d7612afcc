//! What a quota that is far away costs those who write under it (spec 10), against the same table without one: one writer
//! in bulk and row by row, and 16 at once, whom a counter must not make wait for each other's commits.

use std::time::Duration;

use serde_json::Value;

use crate::Result;
use crate::crowd::{CROWD, crowd, together};
use crate::items::{self, Writer};
use crate::report::Report;
use crate::rounds::{Side, interleave, sittings};
use crate::scale::Scale;
use crate::world::World;

const PART: &str = "quota";
const FREE: &str = "protected, no quota";
const OURS: &str = "pg_tenancy, quota far away";
/// How long each side of many writers writes in a round.
const ROUND: Duration = Duration::from_millis(500);

pub fn measure(world: &World, scale: &Scale, report: &mut Report) -> Result<()> {
    let mut admin = world.superuser()?;
    admin.batch_execute("CREATE SCHEMA q; GRANT USAGE ON SCHEMA q TO PUBLIC")?;
    for table in ["q.free", "q.ours"] {
        items::create(&mut admin, table, "")?;
        admin.batch_execute(&format!(
            "SELECT tenancy.protect('{table}', audit => false)"
        ))?;
    }
    admin.batch_execute(&format!(
        "SELECT tenancy.set_quota('{}', 'q.ours', 1000000000)",
        world.large()
    ))?;
    let both = || -> Result<Vec<Writer>> {
        [(FREE, "q.free"), (OURS, "q.ours")]
            .into_iter()
            .map(|(name, table)| Writer::new(world, name, table, world.app("q", &world.large())?))
            .collect()
    };

    let rows = scale.bulk();
    let mut writers = both()?;
    let samples = interleave(
        scale.bulk_rounds,
        writers
            .iter_mut()
            .map(|w| Side::bulk(w.name, rows, || w.bulk_insert("random")))
            .collect(),
    )?;
    let name = format!("insert {rows} rows");
    report.samples(PART, &name, &samples, Value::Null);
    report.bound(PART, &name, FREE, samples.ratio(OURS, FREE), 1.05);

    let parents = items::parents(world)?;
    let samples = sittings(scale.sittings, || {
        let mut writers = both()?;
        let sides = writers
            .iter_mut()
            .map(|w| Side::batches(w.name, |n| w.single_inserts(n, &parents)))
            .collect();
        interleave(scale.rounds, sides)
    })?;
    report.samples(PART, "insert a single row", &samples, Value::Null);
    let ratio = samples.ratio(OURS, FREE);
    report.bound(PART, "insert a single row", FREE, ratio, 1.10);
    many(world, scale, report)
}

/// 16 writers on one organization.
fn many(world: &World, scale: &Scale, report: &mut Report) -> Result<()> {
    let (mut free, mut ours) = (crowd(world, "q", "q.free")?, crowd(world, "q", "q.ours")?);
    let samples = interleave(
        scale.bulk_rounds.max(5),
        vec![
            Side::bulk(FREE, 1, || together(&mut free, ROUND)),
            Side::bulk(OURS, 1, || together(&mut ours, ROUND)),
        ],
    )?;
    let name = format!("{CROWD} writers on one organization");
    report.samples(PART, &name, &samples, Value::Null);
    report.bound(PART, &name, FREE, samples.ratio(OURS, FREE), 1.10);
    Ok(())
}
