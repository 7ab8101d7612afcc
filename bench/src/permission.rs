//! has_permission() over 100,000 rows, in each of its forms, with a different question on every row.

use serde_json::Value;

use crate::Result;
use crate::items;
use crate::report::Report;
use crate::rounds::{Side, Stat, interleave};
use crate::scale::Scale;
use crate::world::World;

const PART: &str = "permission";
const ROWS: usize = 100_000;
const FORMS: [(&str, &str); 3] = [
    ("has_permission(action)", "action"),
    ("has_permission(role, action)", "role, action"),
    (
        "has_permission(user, org, action)",
        "user_id, org_id, action",
    ),
];

pub fn measure(world: &World, scale: &Scale, report: &mut Report) -> Result<()> {
    let mut admin = world.superuser()?;
    admin.batch_execute(&format!(
        "CREATE TABLE stage.asks AS
         SELECT (SELECT array_agg(name ORDER BY name) FROM tenancy.roles)[1 + n % 4] AS role,
                (SELECT array_agg(name ORDER BY name) FROM tenancy.actions)[1 + n % 48] AS action,
                '{user}'::uuid AS user_id,
                (SELECT array_agg(id) FROM (SELECT id FROM stage.orgs ORDER BY ordinal LIMIT 100) AS o)[1 + n % 100] AS org_id
         FROM generate_series(1, {ROWS}) AS n;
         GRANT SELECT ON stage.asks TO PUBLIC;
         ANALYZE stage.asks",
        user = world.user,
    ))?;
    let mut clients = Vec::new();
    for (name, arguments) in FORMS {
        let sql = format!(
            "SELECT count(*) FILTER (WHERE tenancy.has_permission({arguments})) FROM stage.asks"
        );
        clients.push((name, world.app("stage", &world.large())?, sql));
    }
    let sides = clients
        .iter_mut()
        .map(|(name, client, sql)| Side::bulk(*name, ROWS, || items::timed(client, sql)))
        .collect();
    let samples = interleave(scale.rounds, sides)?;
    report.samples(PART, "has_permission", &samples, Value::Null);
    for (name, _) in FORMS {
        let per_row = samples.time(name);
        let whole = |microseconds: f64| microseconds * ROWS as f64 / 1000.0;
        let stat = Stat {
            median: whole(per_row.median),
            q1: whole(per_row.q1),
            q3: whole(per_row.q3),
        };
        report.absolute(PART, name, "100,000 rows", stat, "ms", 50.0);
    }
    Ok(())
}
