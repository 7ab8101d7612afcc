//! Writes an export of so many lines, made up, with its head at the end, for measuring audit-verify:
//! `cargo run --release --example make_export 1000000 export.ndjson`; prints the key, and writes the head to export.ndjson.head.

#[path = "../tests/made_up/mod.rs"]
mod made_up;

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let lines = arguments
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1000);
    let path = arguments.next().unwrap_or("export.ndjson".into());
    let log = made_up::Log::new(lines);
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path)?);
    for line in log.export() {
        writeln!(file, "{line}")?;
    }
    file.flush()?;
    std::fs::write(format!("{path}.head"), log.head(lines as usize).note())?;
    println!("{}", made_up::verifier());
    Ok(())
}
