//! Reading an export: as much at once as all processors have work with, whatever its length. Kept of a line are its number
//! and its leaf hash.

use crate::json::{self, Json};
use crate::line::{self, Checked, Layouts, hex};
use pg_tenancy_audit_format::Digest;
use pg_tenancy_audit_format::head::Signed;
use pg_tenancy_audit_format::tree::Frontier;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::Path;

#[derive(Default)]
pub struct Export {
    /// Of the log.
    pub lines: u64,
    /// By number, from 0.
    pub leaves: Vec<(u64, Digest)>,
    /// Line of the file, and what is wrong with it.
    pub bad: Vec<(u64, String)>,
    pub orgs: BTreeSet<[u8; 16]>,
    pub erased: u64,
    pub uncompared: u64,
    pub head: Option<(Signed, Vec<Digest>)>,
}

impl Export {
    /// The places that two lines claim.
    pub fn doubled(&self) -> impl Iterator<Item = (u64, u64)> {
        let pairs = self.leaves.windows(2);
        pairs.filter(|w| w[0].0 == w[1].0).map(|w| (w[0].0, w[1].0))
    }

    pub fn ranges(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = vec![];
        for (index, _) in &self.leaves {
            match ranges.last_mut() {
                Some(last) if last.end == *index => last.end += 1,
                Some(last) if last.end > *index => {}
                _ => ranges.push(*index..index + 1),
            }
        }
        ranges
    }

    /// The root of the log's first lines, where the export holds them all.
    pub fn root_of_first(&self, size: u64) -> Option<Digest> {
        let mut tree = Frontier::default();
        for (index, leaf) in &self.leaves {
            if tree.size() == size {
                break;
            }
            if *index != tree.size() {
                return None;
            }
            tree.push(leaf);
        }
        (tree.size() == size).then(|| tree.root())
    }

    fn take(&mut self, number: u64, found: Found) {
        match found {
            Found::Layout => {}
            Found::Line(Ok(checked)) => {
                self.lines += 1;
                self.orgs.insert(checked.org);
                self.erased += u64::from(checked.erased);
                self.uncompared += checked.uncompared;
                self.leaves.extend(checked.index.map(|i| (i, checked.leaf)));
            }
            Found::Line(Err(why)) => {
                self.lines += 1;
                self.bad.push((number, why));
            }
            Found::Head(head) => self.head = Some(*head),
        }
    }
}

enum Found {
    Layout,
    Line(line::Result<Checked>),
    Head(Box<(Signed, Vec<Digest>)>),
}

/// So many bytes of lines are read before they are checked, by all processors.
const BATCH: usize = 16 << 20;

pub fn read(path: &Path) -> Result<Export, String> {
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut input: Box<dyn BufRead> = if path.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(BufReader::with_capacity(
            1 << 20,
            File::open(path).map_err(failed)?,
        ))
    };
    let mut export = Export::default();
    let mut layouts = Layouts::new();
    let mut number = 0;
    loop {
        let mut batch = vec![];
        let mut bytes = 0;
        while bytes < BATCH {
            let mut line = String::new();
            if input.read_line(&mut line).map_err(failed)? == 0 {
                break;
            }
            bytes += line.len();
            batch.push(line);
        }
        if batch.is_empty() {
            break;
        }
        // Layouts stand in front of the lines that need them; these begin with their time.
        for (n, line) in (number + 1..).zip(&batch) {
            let told = (!line.starts_with("{\"at\""))
                .then(|| json::parse(line.trim_end()))
                .flatten();
            if let Some(json) = told
                && json.get("columns")? != &Json::Null
            {
                let layout = line::layout(&json);
                let (id, layout) =
                    layout.map_err(|why| format!("{}: line {n}: {why}", path.display()))?;
                layouts.insert(id, layout);
            }
        }
        let first = number + 1;
        number += batch.len() as u64;
        for (n, found) in (first..).zip(checked(&batch, &layouts)) {
            if export.head.is_some() {
                return Err(format!("{}: something follows the head", path.display()));
            }
            export.take(
                n,
                found.map_err(|why| format!("{}: line {n}: {why}", path.display()))?,
            );
        }
    }
    if number == 0 {
        return Err(format!("{}: it is empty", path.display()));
    }
    export.leaves.sort_unstable();
    Ok(export)
}

fn checked(batch: &[String], layouts: &Layouts) -> Vec<Result<Found, String>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = batch.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let parts: Vec<_> = batch
            .chunks(share)
            .map(|part| {
                scope.spawn(move || part.iter().map(|l| check(l, layouts)).collect::<Vec<_>>())
            })
            .collect();
        parts
            .into_iter()
            .flat_map(|part| part.join().expect("it does not panic"))
            .collect()
    })
}

fn check(line: &str, layouts: &Layouts) -> Result<Found, String> {
    let json = json::parse(line.trim_end()).ok_or("it is no JSON")?;
    if *json.get("head")? != Json::Null {
        let head = json.get("head")?.text().ok_or("its head is no text")?;
        let head = Signed::parse(head).map_err(|what| format!("no head: {}", what.0))?;
        let proof = digests(json.get("proof")?).ok_or("its proof is not one")?;
        return Ok(Found::Head(Box::new((head, proof))));
    }
    if *json.get("columns")? != Json::Null {
        return Ok(Found::Layout);
    }
    if *json.get("evidence")? == Json::Null {
        return Err("it has no evidence: export with evidence => true".into());
    }
    Ok(Found::Line(line::check(&json, layouts)))
}

pub fn digests(json: &Json) -> Option<Vec<Digest>> {
    match json {
        Json::List(list) => list.iter().map(|h| hex(h.text()?)).collect(),
        Json::Null => Some(vec![]),
        _ => None,
    }
}
