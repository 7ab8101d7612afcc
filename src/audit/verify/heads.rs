//! The sealed leaf hashes against the heads: those in the database, and those that somebody kept elsewhere.

use super::{Place, Report};
use crate::audit::seal::{self, ChunkSeal, Stored};
use crate::context::authority::Id;
use crate::pg;
use crate::pg::scan::Ordered;
use pg_tenancy_audit_format::head::Signed;
use pg_tenancy_audit_format::tree::Frontier;

/// The sealed leaf hashes against all heads; answers the newest of the database's.
pub fn compare(org: &Id, held: Vec<Signed>, report: &mut Report) -> pg::Result<Option<Stored>> {
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
