//! The lines against the leaf hashes that were sealed of them.

use super::erasures::Erasures;
use super::{Place, Report};
use crate::audit::seal::{self, ChunkSeal, Stored};
use crate::audit::show::{self, Chunk};
use crate::audit::store;
use crate::context::authority::Id;
use crate::pg;
use crate::pg::scan::{Found, Ordered};
use pg_tenancy_audit_format::{Digest, Moment};
use std::collections::HashMap;

/// Transaction and number in it: what both sides are ordered by. Time tells two apart that have the same.
type Key = (u64, i32);

/// The lines against the sealed leaf hashes.
pub fn compare(org: &Id, last: Option<&Stored>, report: &mut Report) -> pg::Result<()> {
    let mut seals = Seals {
        rows: seal::open_by_identity(org)?,
        next: None,
    };
    seals.advance();
    let mut chunks = store::tables_of(org)
        .into_iter()
        .map(|store| {
            let mut chunks = Chunks {
                rows: seal::open_chunks(store, org)?,
                next: None,
            };
            chunks.advance();
            Ok(chunks)
        })
        .collect::<pg::Result<Vec<_>>>()?;
    let mut strays = Strays::default();
    let mut erasures = Erasures::default();
    loop {
        let of_chunks = chunks.iter().filter_map(|c| c.key()).min();
        let Some(key) = [of_chunks, seals.key()].into_iter().flatten().min() else {
            break;
        };
        let mut sealed = vec![];
        while let Some(seal) = seals.next.take_if(|s| (s.moment.xid, s.moment.n) == key) {
            sealed.push(seal);
            seals.advance();
        }
        for source in &mut chunks {
            while let Some((moment, row)) = source.next.take_if(|(m, _)| (m.xid, m.n) == key) {
                let seal = sealed.iter().position(|s| s.moment.at == moment.at);
                match seal.map(|i| sealed.swap_remove(i)) {
                    Some(seal) => chunk(&row, &seal, &mut erasures, report)?,
                    None => unsealed(&row, moment, last, &mut strays, &mut erasures, report)?,
                }
                source.advance();
            }
        }
        for seal in sealed {
            // What retention removed is gone with everybody's knowledge: the signed head says up to where.
            let purged = last.map_or(0, |l| l.head.purged);
            if seal.first + seal.leaves.len() as u64 > purged {
                strays.missing(seal, report)?;
            }
        }
    }
    strays.report(report)?;
    erasures.report(report)
}

struct Seals {
    rows: Ordered,
    next: Option<ChunkSeal>,
}

impl Seals {
    fn advance(&mut self) {
        // One that cannot be read was reported with the heads.
        self.next = None;
        while let Some(row) = self.rows.next() {
            self.next = ChunkSeal::read(&row);
            if self.next.is_some() {
                return;
            }
        }
    }

    fn key(&self) -> Option<Key> {
        self.next.as_ref().map(|s| (s.moment.xid, s.moment.n))
    }
}

struct Chunks {
    rows: seal::Chunks,
    next: Option<(Moment, Found)>,
}

impl Chunks {
    fn advance(&mut self) {
        self.next = self.rows.next().map(|row| (show::moment(&row), row));
    }

    fn key(&self) -> Option<Key> {
        self.next.as_ref().map(|(m, _)| (m.xid, m.n))
    }
}

/// A chunk with what was sealed of it.
fn chunk(
    row: &Found,
    seal: &ChunkSeal,
    erasures: &mut Erasures,
    report: &mut Report,
) -> pg::Result<()> {
    let place = |i: usize, moment| Place {
        number: Some(seal.first + i as u64 + 1),
        moment: Some(moment),
    };
    let mut seen = 0;
    let mut fault = None;
    match Chunk::load(row) {
        Err(error) => fault = Some(error.message().to_string()),
        Ok(mut chunk) => loop {
            match chunk.compare() {
                Ok(None) => break,
                Err(what) => {
                    fault = Some(what.0.to_string());
                    break;
                }
                Ok(Some((line, matches))) => {
                    let sealed = seal.leaves.get(seen);
                    let at = place(seen, line.moment);
                    match sealed {
                        None => report.put(
                            "added",
                            Place { number: None, ..at },
                            "The line was put into a chunk after it was sealed.",
                        )?,
                        Some(sealed) if *sealed == line.leaf && matches => {}
                        Some(sealed) if *sealed == line.leaf => {
                            report.put(
                                "altered",
                                at,
                                "The line is not what was hashed when it was written.",
                            )?;
                        }
                        Some(_) => match seal.leaves.iter().position(|l| *l == line.leaf) {
                            Some(other) => report.put(
                                "reordered",
                                at,
                                &format!(
                                    "Here stands what was sealed as line {}.",
                                    seal.first + other as u64 + 1
                                ),
                            )?,
                            None => report.put(
                                "altered",
                                at,
                                "The line and its hash are not those that were sealed.",
                            )?,
                        },
                    }
                    erasures.see(&chunk, at.number);
                    seen += 1;
                }
            }
        },
    }
    for i in seen..seal.leaves.len() {
        let (finding, detail) = match &fault {
            Some(fault) => (
                "altered",
                format!("The chunk that holds the line cannot be read from here on: {fault}."),
            ),
            None => ("missing", "The line was taken out of its chunk.".into()),
        };
        report.put(finding, place(i, seal.moment), &detail)?;
    }
    Ok(())
}

/// A chunk that was not sealed: new, or none of ours. Its own hashes must be right in any case.
fn unsealed(
    row: &Found,
    moment: Moment,
    last: Option<&Stored>,
    strays: &mut Strays,
    erasures: &mut Erasures,
    report: &mut Report,
) -> pg::Result<()> {
    let late = last.is_some_and(|l| !seal::is_first_pass(Some(l)) && moment.xid < l.horizon);
    let place = |moment| Place {
        number: None,
        moment: Some(moment),
    };
    let unreadable = |report: &mut Report, what: &str| {
        let detail = format!("A chunk cannot be read from here on: {what}.");
        report.put(
            if late { "added" } else { "altered" },
            place(moment),
            &detail,
        )
    };
    let mut chunk = match Chunk::load(row) {
        Ok(chunk) => chunk,
        Err(error) => return unreadable(report, error.message()),
    };
    let mut found = vec![];
    loop {
        match chunk.compare() {
            Ok(None) => break,
            Err(what) => return unreadable(report, what.0),
            Ok(Some((line, _))) if late => found.push((line.moment, line.leaf)),
            Ok(Some((_, true))) => erasures.see(&chunk, None),
            Ok(Some((line, false))) => {
                report.put(
                    "altered",
                    place(line.moment),
                    "The line is not sealed yet and does not match its hash.",
                )?;
            }
        }
    }
    if late {
        strays.added(found, report)?;
    }
    Ok(())
}

/// Lines without their seal and seals without their lines: where both have the same hash, the line was moved.
#[derive(Default)]
struct Strays {
    missing: HashMap<Digest, (u64, Moment)>,
    added: Vec<(Moment, Digest)>,
}

/// So many are remembered to be matched; who removed more did not move them.
const REMEMBERED: usize = 100_000;

impl Strays {
    fn missing(&mut self, seal: ChunkSeal, report: &mut Report) -> pg::Result<()> {
        for (number, leaf) in (seal.first + 1..).zip(&seal.leaves) {
            if self.missing.len() < REMEMBERED {
                self.missing.insert(*leaf, (number, seal.moment));
            } else {
                self.gone(number, seal.moment, report)?;
            }
        }
        Ok(())
    }

    fn added(&mut self, lines: Vec<(Moment, Digest)>, report: &mut Report) -> pg::Result<()> {
        for (moment, leaf) in lines {
            if self.added.len() < REMEMBERED {
                self.added.push((moment, leaf));
            } else {
                self.appeared(moment, report)?;
            }
        }
        Ok(())
    }

    fn gone(&self, number: u64, moment: Moment, report: &mut Report) -> pg::Result<()> {
        let place = Place {
            number: Some(number),
            moment: Some(moment),
        };
        report.put("missing", place, "The line was sealed and is gone; time and transaction are those of its chunk's first line.")
    }

    fn appeared(&self, moment: Moment, report: &mut Report) -> pg::Result<()> {
        let place = Place {
            number: None,
            moment: Some(moment),
        };
        report.put(
            "added",
            place,
            "The line was not there when the lines of its time were sealed.",
        )
    }

    fn report(mut self, report: &mut Report) -> pg::Result<()> {
        for (moment, leaf) in std::mem::take(&mut self.added) {
            match self.missing.remove(&leaf) {
                Some((number, was)) => {
                    let place = Place {
                        number: Some(number),
                        moment: Some(moment),
                    };
                    let detail = format!(
                        "The line was sealed in transaction {} of another time or number than those under which it stands now.",
                        was.xid
                    );
                    report.put("reordered", place, &detail)?;
                }
                None => self.appeared(moment, report)?,
            }
        }
        let mut missing: Vec<_> = std::mem::take(&mut self.missing).into_values().collect();
        missing.sort_by_key(|(number, _)| *number);
        for (number, moment) in missing {
            self.gone(number, moment, report)?;
        }
        Ok(())
    }
}
