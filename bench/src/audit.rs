//! What the audit costs a write: none, ours, and the triggers that applications write themselves (sql/audit.sql): by
//! row with to_jsonb, by statement with transition tables, and in the style of the record-version extensions.

use std::time::Duration;

use postgres::Client;
use serde_json::Value;

use crate::Result;
use crate::items::{self, Writer};
use crate::report::Report;
use crate::rounds::{Samples, Side, Stat, interleave, sittings};
use crate::scale::Scale;
use crate::server::PLAIN;
use crate::world::World;

const PART: &str = "audit";
const BARE: &str = "bare table, no audit";
const OFF: &str = "protected, no audit";
const OURS: &str = "pg_tenancy";
const ROW: &str = "plpgsql row trigger";
const STATEMENT: &str = "plpgsql statement trigger";
const VERSION: &str = "record-version style";

/// Side, table, and the log that it fills.
const SIDES: [(&str, &str, Option<&str>); 6] = [
    (BARE, "a.bare", None),
    (OFF, "a.off", None),
    (OURS, "a.ours", None),
    (ROW, "a.by_row", Some("a.row_log")),
    (STATEMENT, "a.by_statement", Some("a.statement_log")),
    (VERSION, "a.by_version", Some("a.record_version")),
];

pub fn load(world: &World) -> Result<()> {
    let mut admin = world.superuser()?;
    admin.batch_execute(include_str!("../sql/audit.sql"))?;
    for (_, table, _) in SIDES {
        items::create(&mut admin, table, "")?;
    }
    Ok(admin.batch_execute(
        "SELECT tenancy.protect('a.off', audit => false);
         SELECT tenancy.protect('a.ours');
         CREATE TRIGGER log AFTER INSERT OR UPDATE ON a.by_row FOR EACH ROW EXECUTE FUNCTION a.log_row();
         CREATE TRIGGER log_insert AFTER INSERT ON a.by_statement REFERENCING NEW TABLE AS n
             FOR EACH STATEMENT EXECUTE FUNCTION a.log_insert();
         CREATE TRIGGER log_update AFTER UPDATE ON a.by_statement REFERENCING OLD TABLE AS o NEW TABLE AS n
             FOR EACH STATEMENT EXECUTE FUNCTION a.log_update();
         CREATE TRIGGER log AFTER INSERT OR UPDATE ON a.by_version FOR EACH ROW EXECUTE FUNCTION a.log_version()",
    )?)
}

struct Audited {
    writer: Writer,
    log: Option<&'static str>,
}

impl Audited {
    /// Empties the log between rounds, so that each starts alike.
    fn tidy(&mut self) -> Result<()> {
        match self.log {
            Some(log) => items::truncate(&mut self.writer.admin, log),
            None if self.writer.name == OURS => empty_our_log(&mut self.writer.admin),
            None => Ok(()),
        }
    }

    fn insert(&mut self) -> Result<Duration> {
        let time = self.writer.bulk_insert("random")?;
        self.tidy()?;
        Ok(time)
    }

    fn update(&mut self) -> Result<Duration> {
        let sql = format!(
            "UPDATE {} SET cpus = cpus + 1, status = 'changed'",
            self.writer.table
        );
        let time = items::timed(&mut self.writer.client, &sql)?;
        self.writer
            .admin
            .batch_execute(&format!("VACUUM {}", self.writer.table))?;
        self.tidy()?;
        Ok(time)
    }
}

/// Nobody may empty an audit table, so its triggers are off while a superuser does. All that lies beside an
/// organization's lines (heads, chunks) goes with them.
fn empty_our_log(admin: &mut Client) -> Result<()> {
    Ok(admin.batch_execute(
        "SET row_security = off;
         DO $$
         DECLARE t text; tables text[];
         BEGIN
             SELECT array_agg(c.oid::regclass::text) INTO tables FROM pg_class c
             WHERE c.relnamespace = 'tenancy_audit'::regnamespace AND c.relkind = 'r' AND pg_relation_size(c.oid) > 1000000;
             IF tables IS NULL THEN RETURN; END IF;
             FOREACH t IN ARRAY tables LOOP EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER', t); END LOOP;
             EXECUTE 'TRUNCATE ' || array_to_string(tables, ', ');
             FOREACH t IN ARRAY tables LOOP
                 EXECUTE (SELECT string_agg(format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', t, tgname), ';')
                          FROM pg_trigger WHERE tgrelid = t::regclass AND NOT tgisinternal);
             END LOOP;
         END $$",
    )?)
}

pub fn measure(world: &World, scale: &Scale, report: &mut Report) -> Result<()> {
    let mut sides = sides(world)?;
    let rows = scale.bulk();

    let inserts = interleave(scale.bulk_rounds, bulk(&mut sides, rows, Audited::insert))?;
    compare(report, &format!("insert {rows} rows"), &inserts, 2.0);

    for side in &mut sides {
        let sql = items::insert_all(&side.writer.table, "random");
        side.writer.client.batch_execute(&sql)?;
        side.tidy()?;
        let sql = format!("VACUUM ANALYZE {}", side.writer.table);
        side.writer.admin.batch_execute(&sql)?;
    }
    sizes(world, &mut sides, rows, report)?;
    let updates = interleave(scale.bulk_rounds, bulk(&mut sides, rows, Audited::update))?;
    compare(report, &format!("update {rows} rows"), &updates, 2.0);

    let single = sittings(scale.sittings, || single_updates(world, scale))?;
    compare(report, "update a single row", &single, 1.35);
    Ok(())
}

/// What a line takes on disk, indexes included: as many single-row transactions as there are, and a bulk statement's.
fn sizes(world: &World, sides: &mut [Audited], rows: usize, report: &mut Report) -> Result<()> {
    let ours = format!("tenancy_audit.org_{}", world.large().simple());
    let mut figures = vec![];
    for side in sides
        .iter_mut()
        .filter(|s| ![BARE, OFF].contains(&s.writer.name))
    {
        let log = side.log.unwrap_or(ours.as_str()).to_string();
        let table = side.writer.table.clone();
        let org = world.large();
        let one = format!(
            "UPDATE {table} SET cpus = cpus + 1, status = 'again' WHERE org_id = '{org}' AND id = $1"
        );
        let statement = side.writer.client.prepare(&one)?;
        let singles = 2_000.min(rows);
        let size = |side: &mut Audited| -> Result<i64> {
            let sql = format!("SELECT pg_total_relation_size('{log}')");
            Ok(side.writer.admin.query_one(&sql, &[])?.get(0))
        };
        let start = size(side)?;
        for id in 1..=singles as i64 {
            side.writer.client.execute(&statement, &[&id])?;
        }
        let between = size(side)?;
        let bulk = format!("UPDATE {table} SET cpus = cpus + 1, status = 'changed'");
        side.writer.client.batch_execute(&bulk)?;
        let end = size(side)?;
        side.tidy()?;
        figures.push((
            side.writer.name,
            (between - start) as f64 / singles as f64,
            (end - between) as f64 / rows as f64,
        ));
    }
    let Some((_, our_single, our_bulk)) = figures.iter().find(|f| f.0 == OURS).copied() else {
        return Ok(());
    };
    for (measure, ours, theirs) in [
        (
            "bytes of a line, update a single row",
            our_single,
            figures.iter().map(|f| (f.0, f.1)).collect::<Vec<_>>(),
        ),
        (
            "bytes of a line, bulk update",
            our_bulk,
            figures.iter().map(|f| (f.0, f.2)).collect(),
        ),
    ] {
        report.figure(PART, measure, "", Stat::of(vec![ours]), "bytes");
        for (name, size) in theirs.into_iter().filter(|(name, _)| *name != OURS) {
            report.rival(PART, measure, name, Stat::of(vec![ours / size]));
        }
    }
    Ok(())
}

fn sides(world: &World) -> Result<Vec<Audited>> {
    SIDES
        .iter()
        .map(|(name, table, log)| {
            let client = match *name {
                OFF | OURS => world.app("a", &world.large())?,
                _ => world.other(PLAIN, "a")?,
            };
            let writer = Writer::new(world, name, table, client)?;
            Ok(Audited { writer, log: *log })
        })
        .collect()
}

fn bulk<'a>(
    sides: &'a mut [Audited],
    rows: usize,
    run: fn(&mut Audited) -> Result<Duration>,
) -> Vec<Side<'a>> {
    sides
        .iter_mut()
        .map(|side| {
            let name = side.writer.name;
            let bulk = Side::bulk(name, rows, move || run(side));
            if name == VERSION {
                bulk.at_most(2)
            } else {
                bulk
            }
        })
        .collect()
}

fn single_updates(world: &World, scale: &Scale) -> Result<Samples> {
    let (org, rows) = (world.large(), scale.bulk() as i64);
    let mut audited = sides(world)?;
    let sides = audited
        .iter_mut()
        .map(|side| {
            let writer = &mut side.writer;
            let sql = format!(
                "UPDATE {} SET cpus = cpus + 1, status = 'changed again' WHERE org_id = '{org}' AND id = $1::bigint",
                writer.table
            );
            let statement = writer.client.prepare(&sql)?;
            let mut id = 0;
            Ok(Side::quick(writer.name, move || {
                id = (id + 7919) % rows;
                writer.client.execute(&statement, &[&(id + 1)])?;
                Ok(())
            }))
        })
        .collect::<Result<Vec<_>>>()?;
    interleave(scale.rounds, sides)
}

fn compare(report: &mut Report, name: &str, samples: &Samples, bound: f64) {
    report.samples(PART, name, samples, Value::Null);
    for base in [OFF, BARE] {
        report.bound(PART, name, base, samples.ratio(OURS, base), bound);
    }
    // What the audit adds to the write: ours against theirs.
    let added = |theirs: &str| {
        samples.derived(&[OURS, OFF, theirs, BARE], |t| {
            (t[0] - t[1]) / (t[2] - t[3])
        })
    };
    let cheaper = [(ROW, 0.25), (VERSION, 1.0 / 15.0)];
    for (theirs, bound) in cheaper {
        let against = format!("{theirs}: time added");
        report.bound(PART, name, &against, added(theirs), bound);
    }
    let against = format!("{STATEMENT}: time added");
    report.rival(PART, name, &against, added(STATEMENT));
    for theirs in [ROW, STATEMENT, VERSION] {
        let against = format!("{theirs}: the whole write");
        report.rival(PART, name, &against, samples.ratio(OURS, theirs));
    }
}
