//! audit-verify: checks an exported audit log without the database that it came from.
//!
//! An export says of every line what it shows and what was hashed. Checked is that the hashed bytes say what is shown,
//! that they lead to the line's leaf hash, that the leaf hashes lead to the root of a head, that the head is signed, and
//! that it goes on from the heads that somebody kept. See docs/audit-proofs.md.

mod array;
mod dump;
mod export;
mod json;
mod jsonb;
mod line;
mod value;

use clap::{Parser, Subcommand};
use export::Export;
use pg_tenancy_audit_format::Digest;
use pg_tenancy_audit_format::head::{Signed, VerifyingKey, parse_verifier};
use pg_tenancy_audit_format::tree;
use std::path::PathBuf;
use std::process::ExitCode;

/// Checks an exported audit log of pg_tenancy against signed heads, without PostgreSQL.
///
/// Exit codes: 0 everything given was checked and is whole; 1 something is not; 2 it could not be checked (a file cannot be
/// read, is no export, or the command line is wrong).
#[derive(Parser)]
#[command(
    name = "audit-verify",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The export, as export_audit() wrote it with evidence (NDJSON); - is standard input.
    #[arg(required = true)]
    export: Option<PathBuf>,
    /// A file of heads that audit_head() handed out and that were kept elsewhere; may be given several times.
    #[arg(long = "head", value_name = "FILE")]
    heads: Vec<PathBuf>,
    /// The key that heads are signed with, as list_audit_keys() shows it; may be given several times.
    #[arg(long = "key", value_name = "VERIFIER")]
    keys: Vec<String>,
    /// A file of what audit_consistency_proof() answered, for a kept head that the export does not reach back to.
    #[arg(long = "consistency", value_name = "FILE")]
    proofs: Vec<PathBuf>,
    /// Also fail where something was left unchecked: lines that are not sealed yet, values of types that are not compared,
    /// no head or no key given.
    #[arg(long)]
    strict: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Shows the lines of audit tables that were dumped as JSON, a row a line, and compares each with its hash: for logs whose
    /// extension is gone. COPY (SELECT to_jsonb(t) FROM tenancy_audit.layouts t) TO ..., and the same of the log's table.
    Read {
        /// Dumps of tenancy_audit.layouts and of logs, in any order.
        #[arg(required = true)]
        dumps: Vec<PathBuf>,
    },
}

/// At most so many findings are printed.
const SHOWN: usize = 100;

/// Why nothing can be said.
type Unusable = String;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("audit-verify: {why}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, Unusable> {
    if let Some(Command::Read { dumps }) = &arguments.command {
        return Ok(ExitCode::from(u8::from(!dump::run(dumps)?)));
    }
    let keys = arguments
        .keys
        .iter()
        .map(|text| parse_verifier(text).ok_or_else(|| format!("{text}: this is no key")))
        .collect::<Result<Vec<_>, _>>()?;
    let held = held(&arguments.heads)?;
    let mut proofs = vec![];
    for path in &arguments.proofs {
        proofs.push(consistency(path)?);
    }
    let export = export::read(arguments.export.as_deref().ok_or("no export is given")?)?;
    let mut report = Report::default();
    for (number, why) in &export.bad {
        report.find(format!("line {number} of the export: {why}"));
    }
    check(&export, &held, &keys, &proofs, &mut report);
    report.print(&export, arguments.strict)
}

#[derive(Default)]
struct Report {
    findings: Vec<String>,
    unchecked: Vec<String>,
    said: Vec<String>,
}

impl Report {
    fn find(&mut self, what: String) {
        self.findings.push(what);
    }

    fn print(self, export: &Export, strict: bool) -> Result<ExitCode, Unusable> {
        println!(
            "{} lines of the log, {} of them sealed{}",
            export.lines,
            export.leaves.len(),
            match export.erased {
                0 => String::new(),
                n => format!(", {n} erased"),
            }
        );
        for said in self.said {
            println!("{said}");
        }
        for what in &self.unchecked {
            println!("not checked: {what}");
        }
        for what in self.findings.iter().take(SHOWN) {
            println!("FOUND: {what}");
        }
        if self.findings.len() > SHOWN {
            println!("... and {} more", self.findings.len() - SHOWN);
        }
        let whole = self.findings.is_empty() && (!strict || self.unchecked.is_empty());
        println!("{}", if whole { "whole" } else { "NOT whole" });
        Ok(ExitCode::from(u8::from(!whole)))
    }
}

fn text_of(path: &PathBuf) -> Result<String, Unusable> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn held(paths: &[PathBuf]) -> Result<Vec<Signed>, Unusable> {
    let mut held = vec![];
    for path in paths {
        let heads = Signed::parse_all(&text_of(path)?);
        held.extend(heads.map_err(|what| format!("{}: no head: {}", path.display(), what.0))?);
    }
    held.sort_by_key(|h| h.head.size);
    Ok(held)
}

struct Consistency {
    old: u64,
    new: u64,
    proof: Vec<Digest>,
}

fn consistency(path: &PathBuf) -> Result<Consistency, Unusable> {
    let text = text_of(path)?;
    let read = || {
        let json = json::parse(text.trim())?;
        Some(Consistency {
            old: json.get("old_size").ok()?.integer()?,
            new: json.get("new_size").ok()?.integer()?,
            proof: export::digests(json.get("proof").ok()?)?,
        })
    };
    read().ok_or_else(|| format!("{}: no consistency proof", path.display()))
}

fn check(
    export: &Export,
    held: &[Signed],
    keys: &[VerifyingKey],
    proofs: &[Consistency],
    report: &mut Report,
) {
    let unsealed = export.lines - export.bad.len() as u64 - export.leaves.len() as u64;
    if unsealed > 0 {
        report.unchecked.push(format!(
            "{unsealed} lines are not sealed yet, so no head covers them"
        ));
    }
    if export.uncompared > 0 {
        report.unchecked.push(format!(
            "{} values are of types whose readable form is not compared with the hashed one",
            export.uncompared
        ));
    }
    let Some((head, told)) = &export.head else {
        report.find("the export ends without a head: it was cut off, or nothing was sealed".into());
        return;
    };
    if export.orgs.iter().any(|org| *org != head.head.org) {
        report.find("the export holds lines of another organization than its head".into());
    }
    for (_, doubled) in export.doubled() {
        report.find(format!("line number {} is there twice", doubled + 1));
    }
    let ranges = export.ranges();
    let leaves = export.leaves.iter().map(|(_, leaf)| *leaf);
    let size = head.head.size;
    if tree::root_with(size, &ranges, leaves, told) != Some(head.head.root) {
        report.find(format!(
            "the lines do not lead to the root of the head of {size} lines: at least one was altered, removed, added or moved"
        ));
    }
    signatures(head, held, keys, report);
    if held.is_empty() {
        report.unchecked.push(
            "no head was given (--head): whoever made the export could have made its own head too"
                .into(),
        );
    }
    for kept in held {
        against(kept, head, export, proofs, report);
    }
    report.said.push(format!(
        "head of the export: {size} lines, {} of them purged",
        head.head.purged
    ));
}

fn signatures(head: &Signed, held: &[Signed], keys: &[VerifyingKey], report: &mut Report) {
    if keys.is_empty() {
        report
            .unchecked
            .push("no key was given (--key): signatures were not checked".into());
        return;
    }
    for signed in held.iter().chain([head]) {
        if !keys.iter().any(|key| signed.verify(key)) {
            report.find(format!(
                "the head of {} lines has no good signature of a key that was given",
                signed.head.size
            ));
        }
    }
}

/// That the export's head goes on from one that was kept.
fn against(
    kept: &Signed,
    head: &Signed,
    export: &Export,
    proofs: &[Consistency],
    report: &mut Report,
) {
    let (old, new) = (kept.head.size, head.head.size);
    if kept.head.org != head.head.org {
        report.find(format!(
            "the kept head of {old} lines is of another organization"
        ));
    } else if old > new {
        report.find(format!("the kept head covers {old} lines and the export's {new}: the end of the log was cut off, or the export is older"));
    } else if let Some(root) = export.root_of_first(old) {
        if root == kept.head.root {
            report
                .said
                .push(format!("goes on from the kept head of {old} lines"));
        } else {
            report.find(format!("lines 1 to {old} are not those of the kept head"));
        }
    } else if old == new {
        if kept.head.root == head.head.root {
            report
                .said
                .push(format!("has the root of the kept head of {old} lines"));
        } else {
            report.find(format!("the kept head of {old} lines has another root"));
        }
    } else {
        let mut given = proofs
            .iter()
            .filter(|p| p.old == old && p.new == new)
            .peekable();
        if given.peek().is_none() {
            report.unchecked.push(format!("the export holds not all of lines 1 to {old}, so the kept head of {old} lines needs --consistency with audit_consistency_proof(org, {old}, {new})"));
        } else if given.any(|p| tree::extends(old, &kept.head.root, new, &head.head.root, &p.proof))
        {
            report
                .said
                .push(format!("goes on from the kept head of {old} lines"));
        } else {
            report.find(format!(
                "the log does not go on from the kept head of {old} lines"
            ));
        }
    }
}
