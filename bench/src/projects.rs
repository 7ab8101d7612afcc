//! A table of projects: what its boundary costs a session that narrows itself to one project, one that reads all of three or
//! of a thousand projects, and a member who may see half of them, against literals on the same table without row security.

use serde_json::json;

use crate::reader::{Protocol, Reader, together};
use crate::report::Report;
use crate::rounds::{Side, interleave, sittings};
use crate::scale::Scale;
use crate::server::{APP, LITERAL};
use crate::world::{self, World};
use crate::{Result, Uuid};

const PART: &str = "projects";
const ROWS: i64 = 100_000;
const OURS: &str = "pg_tenancy";
const BASE: &str = "literal WHERE";

/// What is measured for whom, against which condition.
struct Reading {
    name: &'static str,
    org: Uuid,
    user: Uuid,
    /// The project that the session narrows itself to.
    project: Option<&'static str>,
    literal: String,
    bound: Option<f64>,
}

/// The large organization has a thousand projects, every other one restricted, the first with a third of its rows; the second
/// has three.
fn load(world: &World) -> Result<Vec<Reading>> {
    let mut admin = world.superuser()?;
    let (many, few) = (world.orgs[0], world.orgs[1]);
    admin.batch_execute(&format!(
        "CREATE SCHEMA placed;
         CREATE TABLE placed.items (id bigint, org_id uuid NOT NULL, project_id uuid NOT NULL, kind text NOT NULL,
                                    at timestamptz NOT NULL, visits int NOT NULL);
         SELECT tenancy.create_project('{many}', 'p' || n, CASE WHEN n % 2 = 0 THEN 'restricted' ELSE 'open' END)
         FROM generate_series(1, 1000) AS n;
         SELECT tenancy.create_project('{few}', 'p' || n) FROM generate_series(1, 3) AS n;
         INSERT INTO placed.items
         SELECT n, p.org_id, p.id, 'kind ' || n % 7, to_timestamp(1735689600 + n * 30), n % 1000
         FROM generate_series(1, {ROWS} * 2) AS n
              JOIN tenancy.projects AS p
                ON p.org_id = CASE WHEN n <= {ROWS} THEN '{many}'::uuid ELSE '{few}' END
               AND p.name = 'p' || CASE WHEN n > {ROWS} THEN 1 + n % 3 WHEN n % 3 = 0 THEN 1 ELSE 1 + n % 1000 END
         ORDER BY md5(n::text);
         ALTER TABLE placed.items ADD PRIMARY KEY (id);
         CREATE INDEX ON placed.items (org_id, project_id, at);
         SELECT tenancy.protect('placed.items', audit => false, project_column => 'project_id')"
    ))?;
    let member: Uuid = admin
        .query_one("SELECT tenancy.create_user('half@bench.test')", &[])?
        .get(0);
    admin.batch_execute(&format!(
        "SELECT tenancy.add_member('{many}', '{member}', 'member')"
    ))?;
    let mut ids = |condition: &str| -> Result<Vec<String>> {
        let rows = admin.query(
            &format!(
                "SELECT id::text FROM tenancy.projects WHERE org_id = '{many}' AND {condition}"
            ),
            &[],
        )?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    };
    let (first, last) = (
        ids("name = 'p1'")?.remove(0),
        ids("name = 'p501'")?.remove(0),
    );
    let open = ids("access = 'open'")?.join(",");
    world::vacuum_analyze(&mut admin)?;
    let reading = |name, org, user, project, literal, bound| Reading {
        name,
        org,
        user,
        project,
        literal,
        bound,
    };
    let of = |org: Uuid, rest: &str| format!("org_id = '{org}'{rest}");
    let one = |id: &str| of(many, &format!(" AND project_id = '{id}'"));
    Ok(vec![
        reading(
            "narrowed to a project with a third of the rows",
            many,
            world.user,
            Some("p1"),
            one(&first),
            Some(1.10),
        ),
        reading(
            "narrowed to a project with a thousandth of the rows",
            many,
            world.user,
            Some("p501"),
            one(&last),
            Some(1.10),
        ),
        reading(
            "all of 3 projects",
            few,
            world.user,
            None,
            of(few, ""),
            None,
        ),
        reading(
            "all of 1,000 projects",
            many,
            world.user,
            None,
            of(many, ""),
            None,
        ),
        reading(
            "500 of 1,000 projects",
            many,
            member,
            None,
            of(
                many,
                &format!(" AND project_id = ANY ('{{{open}}}'::uuid[])"),
            ),
            None,
        ),
    ])
}

const QUERIES: [(&str, &str); 2] = [
    (
        "rows of a day",
        "SELECT id, kind FROM placed.items WHERE {l}at >= to_timestamp(1735689600 + $1::bigint * 30)
           AND at < to_timestamp(1735689600 + ($1::bigint + 2880) * 30)",
    ),
    (
        "aggregate over what is visible",
        "SELECT count(*), sum(visits) FROM placed.items WHERE {l}visits >= 0",
    ),
];

pub fn measure(world: &World, scale: &Scale, report: &mut Report) -> Result<()> {
    for reading in load(world)? {
        let first = if reading.org == world.orgs[0] {
            0
        } else {
            ROWS
        };
        let probes: Vec<i64> = (0..50).map(|n| first + n * 1900).collect();
        for (name, sql) in QUERIES {
            let mut plans = json!(null);
            let samples = sittings(scale.sittings, || {
                let (org, user) = (reading.org.to_string(), reading.user.to_string());
                let mut context = vec![
                    ("app.current_org", org.as_str()),
                    ("app.current_user_id", user.as_str()),
                ];
                context.extend(reading.project.map(|p| ("app.current_project", p)));
                let session = world
                    .server
                    .session(APP, &world.database, "placed", &context)?;
                let mut ours = [Reader::new(
                    session,
                    &sql.replace("{l}", ""),
                    Protocol::Prepared,
                    &probes,
                )?];
                let mut base = [Reader::new(
                    world.other(LITERAL, "placed")?,
                    &sql.replace("{l}", &format!("{} AND ", reading.literal)),
                    Protocol::Prepared,
                    &probes,
                )?];
                let (mine, theirs) = (ours[0].answer()?, base[0].answer()?);
                if mine.len() != theirs.len() || mine.is_empty() {
                    return Err(format!("{}: the sides answer differently", reading.name).into());
                }
                plans = json!({"plan": ours[0].plan()?, "plan_of_base": base[0].plan()?});
                interleave(
                    scale.rounds,
                    vec![
                        Side::batches(OURS, |n| together(&mut ours, n)),
                        Side::batches(BASE, |n| together(&mut base, n)),
                    ],
                )
            })?;
            let measure = format!("{name}, {}", reading.name);
            report.samples(PART, &measure, &samples, plans);
            let ratio = samples.ratio(OURS, BASE);
            match reading.bound {
                Some(bound) => report.bound(PART, &measure, BASE, ratio, bound),
                None => report.figure(PART, &measure, BASE, ratio, ""),
            }
        }
    }
    Ok(())
}
