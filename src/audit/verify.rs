//! verify_audit(): an organization's log against what was sealed of it, and that against the signed heads, those in the
//! database and those that somebody kept elsewhere (spec 6.4).
//!
//! Three things are compared, and each is somebody's to forge who may write to the tables: the lines with the leaf hashes
//! that were sealed apart from them (which names the line), the leaf hashes with the roots in the heads, and the heads
//! with their signatures. Against a head that was handed out none of it helps him.

use super::seal::{self, ChunkSeal, Stored};
use super::show::{self, Chunk};
use super::store;
use crate::context::authority::Id;
use crate::pg::horizon;
use crate::pg::scan::{Found, Ordered};
use crate::pg::srf::Sink;
use crate::pg::{self, fail};
use pg_tenancy_audit_format::head::Signed;
use pg_tenancy_audit_format::tree::Frontier;
use pg_tenancy_audit_format::{Digest, Moment};
use pgrx::datum::Uuid;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use std::collections::HashMap;

#[doc(hidden)]
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_tenancy_verify_audit() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// `tenancy.verify_audit(org, against)`: a row for everything that is wrong with an organization's log (spec 6.4), none
/// where it is whole. `org`: NULL: the current one. `against`: heads that audit_head() handed out, one or several after
/// each other; NULL: only what the database holds itself, which whoever may write to its files can make agree. Needs
/// org:audit. Errors: 42501 no right, 22023 `against` is no head of this organization.
///
/// SAFETY: called by PostgreSQL's function manager with the two arguments that sql/60_audit_seal.sql declares.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_verify_audit(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as the function's own; each argument is read as the type it is declared with.
    let (org, against, mut sink) = unsafe {
        let args = (*fcinfo).args.as_slice(2);
        (
            Uuid::from_datum(args[0].value, args[0].isnull),
            String::from_datum(args[1].value, args[1].isnull),
            Sink::new(fcinfo),
        )
    };
    let run = |sink: &mut Sink| {
        let org = seal::api::audited(org)?;
        let held = against.map_or(Ok(vec![]), |text| held(&org, &text))?;
        seal::tables();
        super::flush();
        let mut report = Report { sink };
        horizon::with_latest_snapshot(|_| verify(&org, held, &mut report))
    };
    run(&mut sink).unwrap_or_report();
    pg_sys::Datum::from(0)
}

/// The heads that the caller holds, the smallest first.
fn held(org: &Id, text: &str) -> pg::Result<Vec<Signed>> {
    let invalid = |detail: String| {
        fail(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "what the log is to be verified against is no head of it",
        )
        .set_detail(detail)
        .set_hint(
            "Pass the text that tenancy.audit_head() handed out for this organization, unchanged.",
        )
    };
    let mut heads = Signed::parse_all(text).map_err(|what| invalid(what.0.into()))?;
    if heads.iter().any(|h| h.head.org != *org) {
        return Err(invalid("It is of another organization.".into()));
    }
    heads.sort_by_key(|h| h.head.size);
    Ok(heads)
}

/// Where findings go.
struct Report<'a> {
    sink: &'a mut Sink,
}

/// Which line a finding is about, as far as it is known.
#[derive(Clone, Copy, Default)]
struct Place {
    /// From 1.
    number: Option<u64>,
    moment: Option<Moment>,
}

impl Report<'_> {
    fn put(&mut self, finding: &str, place: Place, detail: &str) -> pg::Result<()> {
        pgrx::check_for_interrupts!();
        let moment = place.moment;
        self.sink.put(|| {
            Ok([
                finding.into_datum(),
                place.number.map(|n| n.into()),
                moment.map(|m| m.at.into()),
                moment.map(|m| m.xid.into()),
                moment.map(|m| m.n.into()),
                detail.into_datum(),
            ])
        })
    }
}

fn verify(org: &Id, held: Vec<Signed>, report: &mut Report) -> pg::Result<()> {
    let last = heads(org, held, report)?;
    lines(org, last.as_ref(), report)
}

/// The sealed leaf hashes against all heads; answers the newest of the database's.
fn heads(org: &Id, held: Vec<Signed>, report: &mut Report) -> pg::Result<Option<Stored>> {
    let mut stored = StoredHeads::open(org)?;
    let mut held = held.into_iter().peekable();
    let mut tree = Frontier::default();
    // The largest head held outside to which the log led.
    let mut proved = 0;
    let mut seals = seal::open_by_number(org)?;
    let mut whole = true;
    loop {
        stored.compare(&tree, report)?;
        while let Some(head) = held.next_if(|h| h.head.size <= tree.size()) {
            // One of a size that was passed over was not sealed by us at all.
            if head.head.size == tree.size() {
                against(&head, &tree, &mut proved, report)?;
            } else {
                unknown(&head, report)?;
            }
        }
        let Some(row) = seals.next() else { break };
        let Some(seal) = ChunkSeal::read(&row).filter(|s| s.first >= tree.size()) else {
            let place = Place {
                number: row.get::<i64>(2).map(|n| n.cast_unsigned().wrapping_add(1)),
                moment: None,
            };
            report.put(
                "seal altered",
                place,
                "What was sealed of a chunk cannot be read, or covers lines that another covers.",
            )?;
            whole = false;
            continue;
        };
        if seal.first > tree.size() && whole {
            let place = Place {
                number: Some(tree.size() + 1),
                moment: None,
            };
            let missing = seal.first - tree.size();
            report.put("seal missing", place, &format!("The leaf hashes of {missing} lines from here on are gone from tenancy_audit.sealed."))?;
            whole = false;
        }
        for leaf in &seal.leaves {
            tree.push(leaf);
            // Heads held outside are compared at their own size, which is on a border of chunks only where it is true.
            while let Some(head) = held.next_if(|h| h.head.size == tree.size()) {
                against(&head, &tree, &mut proved, report)?;
            }
        }
    }
    for head in held {
        let place = Place {
            number: Some(tree.size() + 1),
            moment: None,
        };
        signature(&head, report)?;
        report.put("cut", place, &format!("The head that you hold covers {} lines, and {} are sealed: the end of the log was cut off, or an older copy was put in its place.", head.head.size, tree.size()))?;
    }
    stored.finish(&tree, report)
}

fn against(
    head: &Signed,
    tree: &Frontier,
    proved: &mut u64,
    report: &mut Report,
) -> pg::Result<()> {
    signature(head, report)?;
    if head.head.root == tree.root() {
        *proved = head.head.size;
        return Ok(());
    }
    let place = Place {
        number: Some(*proved + 1),
        moment: None,
    };
    report.put("rewritten", place, &format!("Lines {} to {} are not those of the head that you hold: at least one was altered, removed, added or moved, and what was sealed with it.", *proved + 1, head.head.size))
}

fn unknown(head: &Signed, report: &mut Report) -> pg::Result<()> {
    let place = Place {
        number: Some(head.head.size),
        moment: None,
    };
    report.put(
        "rewritten",
        place,
        "The head that you hold covers a number of lines at which nothing was sealed.",
    )
}

/// Whether one of our keys signed a head that came from outside.
fn signature(head: &Signed, report: &mut Report) -> pg::Result<()> {
    let good = seal::verifying_key(&head.key).map(|key| head.verify(&key));
    let detail = match good {
        Some(true) => return Ok(()),
        Some(false) => {
            "The signature of the head that you hold is not good: it was altered, or is not ours."
        }
        None => {
            "The head that you hold was signed with a key that is not known here: the key was exchanged, or the head is not ours."
        }
    };
    let place = Place {
        number: Some(head.head.size),
        moment: None,
    };
    report.put("head forged", place, detail)
}

/// The heads in the database, in their order.
struct StoredHeads {
    rows: Ordered,
    next: Option<Stored>,
    last: Option<Stored>,
    unreadable: Vec<Option<i64>>,
    /// A root was wrong: those after it are so with it.
    broken: bool,
}

impl StoredHeads {
    fn open(org: &Id) -> pg::Result<StoredHeads> {
        let mut heads = StoredHeads {
            rows: seal::open_heads(org)?,
            next: None,
            last: None,
            unreadable: vec![],
            broken: false,
        };
        heads.advance();
        Ok(heads)
    }

    fn advance(&mut self) {
        self.next = None;
        while let Some(row) = self.rows.next() {
            self.next = Stored::read(&row);
            if self.next.is_some() {
                return;
            }
            self.unreadable.push(row.get::<i64>(2));
        }
    }

    /// Compares those that the tree has reached.
    fn compare(&mut self, tree: &Frontier, report: &mut Report) -> pg::Result<()> {
        while let Some(head) = self.next.take_if(|h| h.head.size <= tree.size()) {
            self.check(&head, Some(tree), report)?;
            self.last = Some(head);
            self.advance();
        }
        Ok(())
    }

    fn check(
        &mut self,
        head: &Stored,
        tree: Option<&Frontier>,
        report: &mut Report,
    ) -> pg::Result<()> {
        let place = Place {
            number: Some(head.head.size),
            moment: None,
        };
        let which = format!("Head {} of {} lines ", head.number, head.head.size);
        let good = seal::verifying_key(&head.key).is_some_and(|key| head.signed().verify(&key));
        if !good {
            report.put(
                "head forged",
                place,
                &(which.clone() + "has no good signature."),
            )?;
        }
        let (number, previous) = match &self.last {
            Some(last) => (last.number + 1, Some(last.head.digest())),
            None => (1, None),
        };
        if head.number != number {
            report.put(
                "head missing",
                place,
                &format!("Head {number} does not stand before it."),
            )?;
        } else if head.head.previous != previous {
            report.put(
                "head forged",
                place,
                &(which.clone() + "names another one before it than the one that stands there."),
            )?;
        }
        if let Some(last) = &self.last
            && (head.head.size < last.head.size || head.head.purged < last.head.purged)
        {
            report.put(
                "head forged",
                place,
                &(which.clone() + "covers less than the one before it."),
            )?;
        }
        if !self.broken
            && tree.is_none_or(|t| t.size() != head.head.size || t.root() != head.head.root)
        {
            self.broken = true;
            report.put(
                "seal altered",
                place,
                &(which + "has a root to which the sealed leaf hashes do not lead."),
            )?;
        }
        Ok(())
    }

    fn finish(mut self, tree: &Frontier, report: &mut Report) -> pg::Result<Option<Stored>> {
        while let Some(head) = self.next.take() {
            self.check(&head, None, report)?;
            self.last = Some(head);
            self.advance();
        }
        let last = self.last.as_ref().map_or(0, |l| l.head.size);
        if tree.size() > last {
            let place = Place {
                number: Some(last + 1),
                moment: None,
            };
            report.put(
                "head missing",
                place,
                &format!(
                    "{} lines were sealed, and no head covers those from here on.",
                    tree.size()
                ),
            )?;
        }
        for number in &self.unreadable {
            let detail = format!("Head {} cannot be read.", number.unwrap_or_default());
            report.put("head forged", Place::default(), &detail)?;
        }
        Ok(self.last)
    }
}

/// Transaction and number in it: what both sides are ordered by. Time tells two apart that have the same.
type Key = (u64, i32);

/// The lines against the sealed leaf hashes.
fn lines(org: &Id, last: Option<&Stored>, report: &mut Report) -> pg::Result<()> {
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
                    Some(seal) => compare(&row, &seal, report)?,
                    None => unsealed(&row, moment, last, &mut strays, report)?,
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
    strays.report(report)
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
    rows: Ordered,
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
fn compare(row: &Found, seal: &ChunkSeal, report: &mut Report) -> pg::Result<()> {
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
            Ok(Some((line, matches))) if late => found.push((line.moment, line.leaf, matches)),
            Ok(Some((_, true))) => {}
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

    fn added(&mut self, lines: Vec<(Moment, Digest, bool)>, report: &mut Report) -> pg::Result<()> {
        for (moment, leaf, _) in lines {
            if self.added.len() < REMEMBERED {
                self.added.push((moment, leaf));
            } else {
                self.new(moment, report)?;
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

    fn new(&self, moment: Moment, report: &mut Report) -> pg::Result<()> {
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
                None => self.new(moment, report)?,
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
