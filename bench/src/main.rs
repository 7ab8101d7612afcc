//! The speed of pg_tenancy as ratios: every measure of the specification's speed table that exists so far, against
//! alternatives built here, in interleaved rounds on a throwaway server. See bench/run for how to run it.

mod audit;
mod context;
mod crowd;
mod estimates;
mod growth;
mod guards;
mod items;
mod leakproof;
mod permission;
mod pin;
mod plot;
mod projects;
mod quota;
mod reader;
mod reads;
mod report;
mod rounds;
mod scale;
mod scopes;
mod seal;
mod server;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;

pub use pg_tenancy_tests::Uuid;
use report::Report;
use scale::Scale;
use server::Server;
use world::{Store, World};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            // What PostgreSQL says is in the source of its error.
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("  {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let scale = Scale::from_environment()?;
    let start = Instant::now();
    let say = |what: &str| eprintln!("==> {:>4} s  {what}", start.elapsed().as_secs());

    say("starting a throwaway server");
    let server = Server::start()?;
    let mut report = Report::new();
    let database = "bench";
    if let Err(error) = measure(&server, database, &scale, &mut report, say) {
        eprintln!("The server's log ends:\n{}", server.last_of_log());
        return Err(error);
    }

    let mut about = server.about(database)?;
    about["scale"] = json!({"rows": scale.rows, "orgs": scale.orgs, "rows_of_a_bulk_write": scale.bulk(),
                            "sittings": scale.sittings, "rounds": scale.rounds, "bulk_rounds": scale.bulk_rounds,
                            "mode": if scale.full { "full" } else { "quick" }});
    about["seconds"] = json!(start.elapsed().as_secs());
    let results = report.json(about);
    let folder = results_folder(&scale);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(
        folder.join("last.json"),
        format!("{}\n", serde_json::to_string_pretty(&results)?),
    )?;
    std::fs::write(folder.join("last.svg"), plot::svg(&results)?)?;
    std::fs::write(folder.join("last.txt"), report.table())?;

    let count = |verdict: &str| report.count(verdict);
    print!(
        "\n{}\n{} within their bounds, {} short, {} not yet. Ratios are medians over interleaved rounds, with quartiles.\n\
         Against alternatives without a bound: ahead of {}, level with {}, behind {}:\n{}",
        report.bounds(),
        count("pass"),
        count("short"),
        count("not yet"),
        count("ahead"),
        count("level"),
        count("behind"),
        report.behind(),
    );
    let shown = folder
        .strip_prefix(std::env::current_dir()?)
        .unwrap_or(&folder);
    println!(
        "\nAll of it: {0}/last.txt, as data {0}/last.json, as a picture {0}/last.svg ({1} s)",
        shown.display(),
        start.elapsed().as_secs()
    );
    Ok(())
}

fn measure(
    server: &Server,
    database: &str,
    scale: &Scale,
    report: &mut Report,
    say: impl Fn(&str),
) -> Result<()> {
    say("creating organizations");
    let mut world = World::create(server, database, scale.orgs, Store::Dedicated)?;
    say(&format!("loading {} rows twice", scale.rows));
    reads::load(&world, scale)?;
    if scale.wants("fk")
        || scale.wants("insert")
        || scale.wants("audit")
        || scale.wants("seal")
        || scale.wants("quota")
    {
        guards::load(&world, scale)?;
    }

    for part in scale::PARTS {
        if !scale.wants(part) {
            continue;
        }
        say(part);
        match *part {
            "reads" => reads::measure(&world, scale, report)?,
            "estimates" => estimates::measure(&mut world, report)?,
            "context" => context::measure(&world, scale, report)?,
            "permission" => permission::measure(&world, scale, report)?,
            "fk" => guards::foreign_keys(&world, scale, report)?,
            "insert" => guards::inserts(&world, scale, report)?,
            "audit" => {
                audit::load(&world)?;
                audit::measure(&world, scale, report)?;
            }
            "scopes" => scopes::measure(&world, scale, report)?,
            "projects" => projects::measure(&world, scale, report)?,
            "seal" => seal::measure(&world, scale, report)?,
            "quota" => quota::measure(&world, scale, report)?,
            "growth" => growth::measure(server, scale, report)?,
            _ => leakproof::measure(&world, scale, report)?,
        }
    }
    Ok(())
}

/// Only a whole run is kept in the repository.
fn results_folder(scale: &Scale) -> PathBuf {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
    if scale.whole() {
        bench.join("results")
    } else {
        bench
            .parent()
            .expect("the root of the workspace")
            .join("target/bench")
    }
}
