//! Predicates whose operators PostgreSQL does not call leakproof (full-text, LIKE, jsonb, numeric), with an index: as they
//! are, and vouched for.

use postgres::Client;
use serde_json::json;

use crate::reader::{Protocol, Reader};
use crate::reads::{BASE, OURS, STYLES, written};
use crate::report::Report;
use crate::rounds::{Side, interleave, sittings};
use crate::scale::Scale;
use crate::server::{HAND, LITERAL};
use crate::world::World;
use crate::{Result, world};

const PART: &str = "not leakproof, index present";

/// Name, predicate, operator.
const PREDICATES: [(&str, &str, &str); 4] = [
    (
        "full-text",
        "words @@ to_tsquery('simple', 'word' || $1::bigint)",
        "@@(tsvector, tsquery)",
    ),
    ("LIKE", "title LIKE 'document-0123-%'", "~~(text, text)"),
    (
        "jsonb",
        "detail @> jsonb_build_object('key', $1::bigint)",
        "@>(jsonb, jsonb)",
    ),
    (
        "numeric",
        "price = $1::bigint / 100::numeric",
        "=(numeric, numeric)",
    ),
];

pub fn measure(world: &World, scale: &Scale, report: &mut Report) -> Result<()> {
    let mut admin = world.superuser()?;
    let documents = scale.rows / 5;
    let sql = include_str!("../sql/leakproof.sql").replace("{documents}", &documents.to_string());
    admin.batch_execute(&sql)?;
    world::vacuum_analyze(&mut admin)?;

    // So that the first plan of a session is ours too.
    let database = &world.database;
    admin.batch_execute(&format!(
        "ALTER DATABASE {database} SET session_preload_libraries = 'pg_tenancy'"
    ))?;

    round(world, scale, report, "as PostgreSQL marks it", false)?;
    for (_, _, operator) in PREDICATES {
        admin.batch_execute(&format!("SELECT tenancy.vouch_leakproof('{operator}')"))?;
    }
    round(world, scale, report, "vouched for", true)
}

fn round(world: &World, scale: &Scale, report: &mut Report, how: &str, bound: bool) -> Result<()> {
    let org = world.large();
    let probes: Vec<i64> = (0..200).map(|i| (123 + i * 37) % 2000).collect();
    for (name, predicate, _) in PREDICATES {
        let query =
            format!("SELECT e.id, e.title FROM documents e WHERE {{e}}{predicate} ORDER BY e.id");
        let reader = |client: Client, literal: Option<&str>| {
            Reader::new(
                client,
                &written(&query, literal),
                Protocol::Prepared,
                &probes,
            )
        };
        let mut extra = json!(null);
        let samples = sittings(scale.sittings, || {
            let mut ours = reader(world.app("ours", &org)?, None)?;
            let mut base = reader(world.other(LITERAL, "ours")?, Some(&org.to_string()))?;
            let mut hand = reader(world.hand(HAND[0], "hand", &org)?, None)?;
            let answer = ours.answer()?;
            if answer.is_empty() || answer != base.answer()? || answer != hand.answer()? {
                return Err(format!("{name}: the sides answer differently").into());
            }
            extra = json!({"plan": ours.plan()?, "plan_of_base": base.plan()?});
            let sides = vec![
                Side::quick(OURS, || ours.once()),
                Side::quick(BASE, || base.once()),
                Side::quick(STYLES[0], || hand.once()),
            ];
            interleave(scale.rounds, sides)
        })?;
        let name = format!("{name}, {how}");
        report.samples(PART, &name, &samples, extra);
        let ratio = samples.ratio(OURS, BASE);
        if bound {
            report.bound(PART, &name, BASE, ratio, 1.1);
        } else {
            report.figure(PART, &name, BASE, ratio, "");
        }
        report.rival(PART, &name, STYLES[0], samples.ratio(OURS, STYLES[0]));
    }
    Ok(())
}
