//! A table of resources: what its boundary costs a member who reaches the whole organization, and one who is limited to a
//! thousand of its hundred thousand rows, against literals on the same table without row security.

use serde_json::json;

use crate::reader::{Protocol, Reader, together};
use crate::report::Report;
use crate::rounds::{Side, interleave, sittings};
use crate::scale::Scale;
use crate::server::{APP, LITERAL};
use crate::world::{self, World};
use crate::{Result, Uuid};

const PART: &str = "scopes";
const ROWS: i64 = 100_000;
const RULES: i64 = 1_000;
const LIMITED: &str = "limited to 1,000";
const WHOLE: &str = "whole organization";
const BASE: &str = "literal WHERE";

/// Columns of every 100th row: those that the rules list.
const STEP: i64 = ROWS / RULES;

fn load(world: &World) -> Result<Uuid> {
    let mut admin = world.superuser()?;
    let org = world.large();
    admin.batch_execute(&format!(
        "CREATE SCHEMA scoped;
         CREATE TABLE scoped.items (id bigint, org_id uuid NOT NULL, kind text NOT NULL, at timestamptz NOT NULL, visits int NOT NULL);
         INSERT INTO scoped.items
         SELECT n, CASE WHEN n <= {ROWS} THEN '{org}'::uuid ELSE o.id END, 'kind ' || n % 7,
                to_timestamp(1735689600 + n * 30), n % 1000
         FROM generate_series(1, {ROWS} * 2) AS n JOIN stage.orgs o ON o.ordinal = 2 + n % 50
         ORDER BY md5(n::text);
         ALTER TABLE scoped.items ADD PRIMARY KEY (id);
         CREATE INDEX ON scoped.items (org_id, at);
         SELECT tenancy.protect('scoped.items', audit => false, resource_type => 'item')"
    ))?;
    let user: Uuid = admin
        .query_one("SELECT tenancy.create_user('limited@bench.test')", &[])?
        .get(0);
    admin.batch_execute(&format!(
        "SELECT tenancy.add_member('{org}', '{user}', 'member');
         SELECT tenancy.set_scopes('{org}', '{user}', 'scoped.items',
                ARRAY(SELECT (n * {STEP})::text FROM generate_series(1, {RULES}) AS n))"
    ))?;
    world::vacuum_analyze(&mut admin)?;
    Ok(user)
}

/// A query of a member, and what a query that names the organization and the resources itself says.
struct Query {
    name: &'static str,
    sql: &'static str,
    /// `{o}` names the organization, `{l}` the listed resources.
    limited: &'static str,
    whole: &'static str,
}

const QUERIES: &[Query] = &[
    Query {
        name: "point read of a listed row",
        sql: "SELECT id, kind, at, visits FROM scoped.items WHERE id = $1::bigint",
        limited: "SELECT id, kind, at, visits FROM scoped.items WHERE {o} AND id = $1::bigint",
        whole: "SELECT id, kind, at, visits FROM scoped.items WHERE {o} AND id = $1::bigint",
    },
    Query {
        name: "range read over 1,000 rows",
        sql: "SELECT id, kind FROM scoped.items WHERE at >= to_timestamp(1735689600 + $1::bigint * 30)
                AND at < to_timestamp(1735689600 + ($1::bigint + 1000) * 30)",
        limited: "SELECT id, kind FROM scoped.items WHERE {o} AND at >= to_timestamp(1735689600 + $1::bigint * 30)
                AND at < to_timestamp(1735689600 + ($1::bigint + 1000) * 30) AND {l}",
        whole: "SELECT id, kind FROM scoped.items WHERE {o} AND at >= to_timestamp(1735689600 + $1::bigint * 30)
                AND at < to_timestamp(1735689600 + ($1::bigint + 1000) * 30)",
    },
    Query {
        name: "aggregate over what is visible",
        sql: "SELECT count(*), sum(visits) FROM scoped.items",
        limited: "SELECT count(*), sum(visits) FROM scoped.items WHERE {o} AND {l}",
        whole: "SELECT count(*), sum(visits) FROM scoped.items WHERE {o}",
    },
];

pub fn measure(world: &World, scale: &Scale, report: &mut Report) -> Result<()> {
    let user = load(world)?;
    let org = world.large();
    let listed: Vec<i64> = (1..=RULES).map(|n| n * STEP).collect();
    let list = listed
        .iter()
        .map(i64::to_string)
        .collect::<Vec<_>>()
        .join(",");
    let literal = |sql: &str| {
        sql.replace("{o}", &format!("org_id = '{org}'"))
            .replace("{l}", &format!("id = ANY ('{{{list}}}'::bigint[])"))
    };
    // Most of a range's rows are there, wherever it begins.
    let probes: Vec<i64> = listed[..listed.len() - 20].to_vec();
    for query in QUERIES {
        for (name, who, base) in [
            (LIMITED, user, query.limited),
            (WHOLE, world.user, query.whole),
        ] {
            let mut plans = json!(null);
            let samples = sittings(scale.sittings, || {
                let member = world.server.session(
                    APP,
                    &world.database,
                    "scoped",
                    &[
                        ("app.current_org", &org.to_string()),
                        ("app.current_user_id", &who.to_string()),
                    ],
                )?;
                let mut ours = [Reader::new(member, query.sql, Protocol::Prepared, &probes)?];
                let base = Reader::new(
                    world.other(LITERAL, "scoped")?,
                    &literal(base),
                    Protocol::Prepared,
                    &probes,
                )?;
                let mut base = [base];
                let (mine, theirs) = (ours[0].answer()?, base[0].answer()?);
                if mine.len() != theirs.len() || mine.is_empty() {
                    return Err(format!("{}: the sides answer differently", query.name).into());
                }
                plans = json!({"plan": ours[0].plan()?, "plan_of_base": base[0].plan()?});
                interleave(
                    scale.rounds,
                    vec![
                        Side::batches(name, |n| together(&mut ours, n)),
                        Side::batches(BASE, |n| together(&mut base, n)),
                    ],
                )
            })?;
            let measure = format!("{}, {name}", query.name);
            report.samples(PART, &measure, &samples, plans);
            if name == WHOLE {
                report.bound(PART, &measure, BASE, samples.ratio(name, BASE), 1.05);
            } else {
                report.figure(PART, &measure, BASE, samples.ratio(name, BASE), "");
            }
        }
    }
    Ok(())
}
