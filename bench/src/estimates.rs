//! The planner's row estimate against the actual number, for every organization: large, small, and new since ANALYZE.

use postgres::Client;
use serde_json::{Value, json};

use crate::Result;
use crate::reader::explain;
use crate::report::Report;
use crate::rounds::{Samples, Stat};
use crate::server::LITERAL;
use crate::world::World;

/// Rows that the organization which is new, but not empty, has.
const NEW_ROWS: i64 = 10;

pub fn measure(world: &mut World, report: &mut Report) -> Result<()> {
    let mut admin = world.superuser()?;
    let known = world.orgs.len();
    world.add_orgs(&mut admin, 2)?;
    let (empty, new) = (world.orgs[known], world.orgs[known + 1]);
    let mut client = world.app("ours", &new)?;
    client.batch_execute(&format!(
        "INSERT INTO events (id, kind, at, title, visits, amount)
         SELECT 100000000 + n, 'visit', now(), 'event', 1, 1 FROM generate_series(1, {NEW_ROWS}) AS n"
    ))?;

    let sql = "SELECT o.id, count(e.id) FROM stage.orgs o LEFT JOIN hand.events e ON e.org_id = o.id GROUP BY o.id, o.ordinal
               ORDER BY o.ordinal";
    let counts: Vec<(pg_tenancy_tests::Uuid, i64)> = admin
        .query(sql, &[])?
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    let mut factors = Vec::new();
    for (org, actual) in &counts {
        client.batch_execute(&format!("SET app.current_org = '{org}'"))?;
        factors.push(factor(estimate(&mut client)?, *actual));
    }
    let part = "estimates";
    let bound = |report: &mut Report, name: &str, value: Stat| {
        report.absolute(part, name, "actual rows", value, "x", 2.0);
    };
    let at = |i: usize| format!("{} rows", counts[i].1);
    let last = counts.len() - 1;
    for (which, i) in [("large", 0), ("middling", last / 2), ("small", last)] {
        bound(
            report,
            &format!("{which} org, {}", at(i)),
            Stat::exactly(factors[i]),
        );
    }
    bound(
        report,
        "all orgs: the worst",
        Stat::exactly(factors.iter().copied().fold(1.0, f64::max)),
    );
    let within = factors.iter().filter(|f| **f <= 2.0).count();
    let share = within as f64 * 100.0 / factors.len() as f64;
    report.figure(
        part,
        "all orgs: within a factor of 2",
        "",
        Stat::exactly(share),
        "%",
    );

    for (name, org, actual) in [
        ("new org since ANALYZE, no rows".to_string(), empty, 0),
        (
            format!("new org since ANALYZE, {NEW_ROWS} rows"),
            new,
            NEW_ROWS,
        ),
    ] {
        client.batch_execute(&format!("SET app.current_org = '{org}'"))?;
        let guess = estimate(&mut client)?;
        bound(report, &name, Stat::exactly(factor(guess, actual)));
    }
    let mut literal = world.other(LITERAL, "ours")?;
    let sql = format!("SELECT * FROM events WHERE org_id = '{new}'");
    let guess = rows_of(&explain(&mut literal, &sql)?)?;
    let name = format!("new org since ANALYZE, {NEW_ROWS} rows: with a literal WHERE");
    let value = Stat::exactly(factor(guess, NEW_ROWS));
    report.figure(part, &name, "actual rows", value, "x");
    let samples = Samples { sides: Vec::new() };
    let extra = json!({"orgs": factors.len(), "within_2x": within});
    report.samples(part, "all orgs", &samples, extra);
    Ok(())
}

fn estimate(client: &mut Client) -> Result<i64> {
    rows_of(&explain(client, "SELECT * FROM events")?)
}

fn rows_of(plan: &Value) -> Result<i64> {
    let rows = plan["Plan Rows"].as_i64();
    rows.ok_or_else(|| "a plan without an estimate".into())
}

/// PostgreSQL never estimates less than one row.
fn factor(estimate: i64, actual: i64) -> f64 {
    let (a, b) = (estimate.max(1) as f64, actual.max(1) as f64);
    (a / b).max(b / a)
}
