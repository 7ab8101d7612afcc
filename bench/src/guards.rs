//! Writing to protected tables, audit off: what the foreign-key guard costs against the plain key and its
//! alternatives, and what a protected insert costs against a policy written by hand.

use serde_json::Value;

use crate::Result;
use crate::items::{self, Writer};
use crate::reads::STYLES;
use crate::report::Report;
use crate::rounds::{Samples, Side, interleave, sittings};
use crate::scale::Scale;
use crate::server::{HAND, PLAIN};
use crate::world::World;

const NO_KEY: &str = "no key";
const KEY: &str = "plain key";
const COMPOSITE: &str = "composite key";
const PLPGSQL: &str = "plain key, plpgsql row guard";
const OURS_NO_KEY: &str = "pg_tenancy, no key";
const OURS: &str = "pg_tenancy, key guarded";
const HAND_KEY: &str = "(b) current_setting() policy, plain key";

pub fn load(world: &World, scale: &Scale) -> Result<()> {
    let mut admin = world.superuser()?;
    admin.batch_execute(include_str!("../sql/guards.sql"))?;
    items::stage(world, scale, "w.sites")?;
    let simple = |parents: &str| format!(", FOREIGN KEY (parent_id) REFERENCES {parents} (id)");
    for (table, key) in [
        ("no_key", String::new()),
        ("key", simple("w.sites")),
        (
            "composite",
            ", FOREIGN KEY (org_id, parent_id) REFERENCES w.sites (org_id, id)".into(),
        ),
        ("plpgsql", simple("w.sites")),
        ("ours_no_key", String::new()),
        ("ours", simple("ours.sites")),
        ("hand", String::new()),
        ("hand_key", simple("hand.sites")),
    ] {
        items::create(&mut admin, &format!("w.{table}"), &key)?;
    }
    admin.batch_execute(
        "CREATE TRIGGER same_org BEFORE INSERT OR UPDATE ON w.plpgsql FOR EACH ROW EXECUTE FUNCTION w.same_org();
         SELECT tenancy.protect('w.ours_no_key', audit => false);
         SELECT tenancy.protect('w.ours', audit => false);",
    )?;
    for table in ["hand", "hand_key"] {
        admin.batch_execute(&format!(
            "ALTER TABLE w.{table} ENABLE ROW LEVEL SECURITY;
             CREATE POLICY a ON w.{table} TO hand_setting
                 USING (org_id = current_setting('app.current_org')::uuid);
             CREATE POLICY b ON w.{table} TO hand_subselect
                 USING (org_id = (SELECT current_setting('app.current_org')::uuid));
             CREATE POLICY c ON w.{table} TO hand_plpgsql USING (org_id = hand.current_org())"
        ))?;
    }
    Ok(())
}

fn plain(world: &World, name: &'static str, table: &str) -> Result<Writer> {
    Writer::new(world, name, table, world.other(PLAIN, "w")?)
}

fn ours(world: &World, name: &'static str, table: &str) -> Result<Writer> {
    Writer::new(world, name, table, world.app("w", &world.large())?)
}

fn by_hand(world: &World, name: &'static str, table: &str, style: usize) -> Result<Writer> {
    let client = world.hand(HAND[style], "w", &world.large())?;
    Writer::new(world, name, table, client)
}

fn bulk(
    writers: &mut [Writer],
    scale: &Scale,
    parent: &'static str,
    slow: &[&str],
) -> Result<Samples> {
    let sides = writers
        .iter_mut()
        .map(|w| {
            let name = w.name;
            let side = Side::bulk(name, scale.bulk(), || w.bulk_insert(parent));
            if slow.contains(&name) {
                side.at_most(3)
            } else {
                side
            }
        })
        .collect();
    interleave(scale.bulk_rounds, sides)
}

fn singles(
    scale: &Scale,
    parents: &[i64],
    writers: impl Fn() -> Result<Vec<Writer>>,
) -> Result<Samples> {
    sittings(scale.sittings, || {
        let mut writers = writers()?;
        let sides = writers
            .iter_mut()
            .map(|w| Side::batches(w.name, |n| w.single_inserts(n, parents)))
            .collect();
        interleave(scale.rounds, sides)
    })
}

pub fn foreign_keys(world: &World, scale: &Scale, report: &mut Report) -> Result<()> {
    let writers = || {
        Ok(vec![
            plain(world, KEY, "w.key")?,
            ours(world, OURS, "w.ours")?,
            plain(world, NO_KEY, "w.no_key")?,
            ours(world, OURS_NO_KEY, "w.ours_no_key")?,
            plain(world, COMPOSITE, "w.composite")?,
            plain(world, PLPGSQL, "w.plpgsql")?,
        ])
    };
    let parents = items::parents(world)?;
    let rows = scale.bulk();
    for (name, parent, bound) in [
        (
            format!("insert {rows} rows, 100 parents"),
            Some("repeated"),
            1.10,
        ),
        (
            format!("insert {rows} rows, random parents"),
            Some("random"),
            1.30,
        ),
        ("insert a single row".to_string(), None, 1.10),
    ] {
        let samples = match parent {
            Some(parent) => bulk(&mut writers()?, scale, parent, &[])?,
            None => singles(scale, &parents, writers)?,
        };
        let part = "foreign-key guard";
        report.samples(part, &name, &samples, Value::Null);
        report.bound(part, &name, KEY, samples.ratio(OURS, KEY), bound);
        // What the guard adds to a protected table, on top of the plain key's time: the guard alone.
        let alone = samples.derived(&[OURS, OURS_NO_KEY, KEY, NO_KEY], |t| {
            (t[0] - t[1] + t[3]) / t[2]
        });
        report.bound(part, &name, "plain key: the guard alone", alone, bound);
        report.figure(
            part,
            &name,
            "pg_tenancy, no key",
            samples.ratio(OURS, OURS_NO_KEY),
            "",
        );
        for other in [COMPOSITE, PLPGSQL] {
            report.rival(part, &name, other, samples.ratio(OURS, other));
        }
    }
    Ok(())
}

pub fn inserts(world: &World, scale: &Scale, report: &mut Report) -> Result<()> {
    const BARE: &str = "pg_tenancy";
    let part = "protected insert";
    let bare = || {
        Ok(vec![
            ours(world, BARE, "w.ours_no_key")?,
            by_hand(world, STYLES[0], "w.hand", 0)?,
            by_hand(world, STYLES[1], "w.hand", 1)?,
            by_hand(world, STYLES[2], "w.hand", 2)?,
        ])
    };
    let keyed = || {
        Ok(vec![
            ours(world, OURS, "w.ours")?,
            by_hand(world, HAND_KEY, "w.hand_key", 0)?,
        ])
    };
    let parents = items::parents(world)?;
    let rows = scale.bulk();

    let all = bulk(&mut bare()?, scale, "random", &[STYLES[2]])?;
    let one = singles(scale, &parents, bare)?;
    for (name, samples) in [
        (format!("insert {rows} rows, no key"), all),
        ("insert a single row, no key".to_string(), one),
    ] {
        report.samples(part, &name, &samples, Value::Null);
        let ratio = samples.ratio(BARE, STYLES[0]);
        report.bound(part, &name, STYLES[0], ratio, 1.0);
        for style in &STYLES[1..] {
            report.rival(part, &name, style, samples.ratio(BARE, style));
        }
    }
    let all = bulk(&mut keyed()?, scale, "random", &[])?;
    let one = singles(scale, &parents, keyed)?;
    for (name, samples) in [
        (
            format!("insert {rows} rows, key guarded, random parents"),
            all,
        ),
        ("insert a single row, key guarded".to_string(), one),
    ] {
        report.samples(part, &name, &samples, Value::Null);
        let ratio = samples.ratio(OURS, HAND_KEY);
        report.bound(part, &name, HAND_KEY, ratio, 1.0);
    }
    report.not_yet(
        part,
        "COPY FROM, rows a second: raw / ours",
        "raw COPY into the same table",
        1.11,
    );
    Ok(())
}
