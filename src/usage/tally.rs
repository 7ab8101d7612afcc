//! The count behind a quota, and the arithmetic that keeps it exact. Plain Rust; a counter is some bytes that many sessions
//! change in turn (pg/counter.rs).
//!
//! A counter holds what is settled, and for each transaction that runs what it added or took away, by the subtransactions
//! whose fates may differ. Who comes next settles what has ended: committed changes are added, others dropped. So nobody
//! waits for anybody's commit, a session that dies gives back what it held, and the sum of what is committed and what may
//! still be is known to the row at every moment: nothing is reserved that is not there, so nothing is refused for its sake.

/// As many transactions may be in a counter at once; the next one waits for one of them.
pub const ENTRIES: usize = 80;
const HEAD: usize = 16;
const ENTRY: usize = 24;
/// The bytes of a counter.
pub const SIZE: usize = HEAD + ENTRIES * ENTRY;

/// What one subtransaction changed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Entry {
    /// The transaction, with its epoch.
    pub top: u64,
    /// The subtransaction, or the transaction itself.
    pub xid: u32,
    /// How deep it is nested.
    pub level: u32,
    pub change: i64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fate {
    /// Of this transaction, and not rolled back.
    Mine,
    Running,
    Committed,
    /// Rolled back, or its session died.
    Gone,
    /// It ended so long ago that PostgreSQL does not know how.
    Forgotten,
}

/// How it is known what became of a transaction.
pub trait Fates {
    fn fate(&self, entry: &Entry) -> Fate;
    /// For an entry of this transaction: the innermost open subtransaction that its fate hangs on, as its place among the
    /// open ones.
    fn owner(&self, entry: &Entry) -> usize;
    /// This transaction, and its open subtransactions from the outermost, itself first.
    fn me(&self) -> (u64, &[u32]);
}

#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    pub settled: i64,
    pub entries: Vec<Entry>,
}

#[derive(Debug, PartialEq)]
pub enum Outcome {
    Done,
    /// There would be too much: what is there with this transaction's part, and what others hold uncommitted.
    Over {
        used: i64,
        held: i64,
    },
    /// No room for one more transaction; one to wait for, if there is one.
    Crowded(Option<u32>),
    /// What is settled cannot be told from here: count anew.
    Lost,
}

impl Tally {
    pub fn read(bytes: &[u8]) -> Tally {
        let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let half = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let count = (word(8) as usize).min(ENTRIES);
        let entry = |i: usize| {
            let at = HEAD + i * ENTRY;
            Entry {
                top: word(at),
                xid: half(at + 8),
                level: half(at + 12),
                change: word(at + 16) as i64,
            }
        };
        Tally {
            settled: word(0) as i64,
            entries: (0..count).map(entry).collect(),
        }
    }

    pub fn write(&self, bytes: &mut [u8]) {
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &self.settled.to_ne_bytes());
        put(8, &(self.entries.len() as u64).to_ne_bytes());
        for (i, entry) in self.entries.iter().enumerate() {
            let at = HEAD + i * ENTRY;
            put(at, &entry.top.to_ne_bytes());
            put(at + 8, &entry.xid.to_ne_bytes());
            put(at + 12, &entry.level.to_ne_bytes());
            put(at + 16, &entry.change.to_ne_bytes());
        }
    }

    /// Settles what has ended, and gathers this transaction's entries under its open subtransactions. False where that
    /// cannot be told; then nothing is changed.
    fn settle(&mut self, fates: &impl Fates) -> bool {
        let known: Vec<Fate> = self.entries.iter().map(|e| fates.fate(e)).collect();
        if known.contains(&Fate::Forgotten) {
            return false;
        }
        let (_, open) = fates.me();
        let mut kept: Vec<Entry> = Vec::with_capacity(self.entries.len() + 1);
        for (entry, fate) in self.entries.iter().zip(known) {
            match fate {
                Fate::Committed => self.settled = self.settled.saturating_add(entry.change),
                Fate::Running => kept.push(*entry),
                Fate::Mine => {
                    let level = fates.owner(entry);
                    let xid = open[level];
                    match kept.iter_mut().find(|e| e.top == entry.top && e.xid == xid) {
                        Some(mine) => mine.change = mine.change.saturating_add(entry.change),
                        None => kept.push(Entry {
                            xid,
                            level: level as u32,
                            ..*entry
                        }),
                    }
                }
                Fate::Gone | Fate::Forgotten => {}
            }
        }
        self.entries = kept;
        true
    }

    /// The most that other transactions may still add: of each the most that any of its savepoints could leave.
    fn held_by_others(&self, me: u64) -> i64 {
        let mut held = 0_i64;
        for (i, entry) in self.entries.iter().enumerate() {
            if entry.top == me || self.entries[..i].iter().any(|e| e.top == entry.top) {
                continue;
            }
            let mut parts: Vec<&Entry> = self.entries[i..]
                .iter()
                .filter(|e| e.top == entry.top)
                .collect();
            parts.sort_by_key(|e| e.level);
            let (mut sum, mut most) = (0_i64, 0);
            for part in parts {
                sum = sum.saturating_add(part.change);
                most = most.max(sum);
            }
            held = most.saturating_add(held);
        }
        held
    }

    fn mine(&self, me: u64) -> i64 {
        let mine = self.entries.iter().filter(|e| e.top == me);
        mine.fold(0, |sum, e| sum.saturating_add(e.change))
    }

    /// Adds a change of this transaction. `most`: how much there may be; only more is refused, never less.
    pub fn change(&mut self, by: i64, most: Option<i64>, fates: &impl Fates) -> Outcome {
        if !self.settle(fates) {
            return Outcome::Lost;
        }
        let (me, open) = fates.me();
        if let Some(most) = most.filter(|_| by > 0) {
            let (used, held) = (
                self.settled.saturating_add(self.mine(me)),
                self.held_by_others(me),
            );
            if used.saturating_add(held).saturating_add(by) > most {
                return Outcome::Over { used, held };
            }
        }
        let xid = *open.last().expect("the transaction itself");
        let mine = self
            .entries
            .iter()
            .position(|e| e.top == me && e.xid == xid);
        match mine {
            Some(i) => {
                self.entries[i].change = self.entries[i].change.saturating_add(by);
                if self.entries[i].change == 0 {
                    self.entries.remove(i);
                }
            }
            None if self.entries.len() == ENTRIES => {
                let other = self.entries.iter().find(|e| e.top != me);
                return Outcome::Crowded(other.map(|e| e.top as u32));
            }
            None => self.entries.push(Entry {
                top: me,
                xid,
                level: open.len() as u32 - 1,
                change: by,
            }),
        }
        Outcome::Done
    }

    /// How much there is for this transaction, and what others hold beside it.
    pub fn look(mut self, fates: &impl Fates) -> Option<(i64, i64)> {
        let (me, _) = fates.me();
        self.settle(fates).then(|| {
            (
                self.settled.saturating_add(self.mine(me)),
                self.held_by_others(me),
            )
        })
    }

    /// What was counted of committed rows takes the place of what was settled. `counted` says whether a transaction's
    /// rows are among them; who is not stays, this transaction included.
    pub fn recount(&mut self, settled: i64, fates: &impl Fates, counted: impl Fn(u32) -> bool) {
        self.settled = settled;
        self.entries.retain(|e| match fates.fate(e) {
            Fate::Mine => true,
            Fate::Forgotten | Fate::Gone => false,
            Fate::Running | Fate::Committed => !counted(e.top as u32),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Transaction 100 is this one; its open subtransactions are `open`; `fates` says what became of others.
    #[derive(Default)]
    struct Known {
        open: Vec<u32>,
        merged: HashMap<u32, usize>,
        fates: HashMap<u32, Fate>,
    }

    impl Known {
        fn new() -> Known {
            Known {
                open: vec![100],
                ..Known::default()
            }
        }
    }

    impl Fates for Known {
        fn fate(&self, entry: &Entry) -> Fate {
            let mine = self.open.contains(&entry.xid) || self.merged.contains_key(&entry.xid);
            match self.fates.get(&entry.xid) {
                Some(fate) => *fate,
                None if entry.top == 100 && mine => Fate::Mine,
                None if entry.top == 100 => Fate::Gone,
                None => Fate::Running,
            }
        }
        fn owner(&self, entry: &Entry) -> usize {
            let open = self.open.iter().position(|x| *x == entry.xid);
            open.unwrap_or_else(|| self.merged[&entry.xid])
        }
        fn me(&self) -> (u64, &[u32]) {
            (100, &self.open)
        }
    }

    fn empty(settled: i64) -> Tally {
        Tally {
            settled,
            entries: vec![],
        }
    }

    fn other(xid: u32, level: u32, change: i64) -> Entry {
        Entry {
            top: 7,
            xid,
            level,
            change,
        }
    }

    #[test]
    fn bytes_come_back() {
        let mut tally = empty(-3);
        tally.entries = (0..ENTRIES as u32)
            .map(|i| other(i, i % 3, i64::from(i) - 40))
            .collect();
        let mut bytes = vec![0; SIZE];
        tally.write(&mut bytes);
        assert_eq!(Tally::read(&bytes), tally);
        assert_eq!(Tally::read(&vec![0; SIZE]), empty(0));
    }

    #[test]
    fn the_last_place_is_given_once() {
        let known = Known::new();
        let mut tally = empty(9);
        assert_eq!(tally.change(1, Some(10), &known), Outcome::Done);
        assert_eq!(
            tally.change(1, Some(10), &known),
            Outcome::Over { used: 10, held: 0 }
        );
        // Its own room it may use again at once.
        assert_eq!(tally.change(-4, Some(10), &known), Outcome::Done);
        assert_eq!(tally.change(4, Some(10), &known), Outcome::Done);
        assert_eq!(tally.entries.len(), 1);
        assert_eq!(tally.look(&known), Some((10, 0)));
    }

    #[test]
    fn others_hold_what_they_may_leave() {
        let mut known = Known::new();
        let mut tally = empty(5);
        // It added 3 and then, under a savepoint, took 3 away: rolled back to that, 3 are there.
        tally.entries = vec![other(8, 1, -3), other(7, 0, 3)];
        assert_eq!(
            tally.change(3, Some(10), &known),
            Outcome::Over { used: 5, held: 3 }
        );
        // Uncommitted deletes free nothing.
        tally.entries = vec![other(7, 0, -5)];
        assert_eq!(
            tally.change(6, Some(10), &known),
            Outcome::Over { used: 5, held: 0 }
        );
        known.fates.insert(7, Fate::Committed);
        assert_eq!(tally.change(6, Some(10), &known), Outcome::Done);
        assert_eq!((tally.settled, tally.entries.len()), (0, 1));
    }

    #[test]
    fn what_is_gone_gives_back() {
        let mut known = Known::new();
        let mut tally = empty(0);
        tally.entries = vec![other(7, 0, 10)];
        assert_eq!(
            tally.change(1, Some(10), &known),
            Outcome::Over { used: 0, held: 10 }
        );
        known.fates.insert(7, Fate::Gone);
        assert_eq!(tally.change(1, Some(10), &known), Outcome::Done);
        assert_eq!(tally.look(&known), Some((1, 0)));
    }

    #[test]
    fn savepoints_of_its_own_come_and_go() {
        let mut known = Known::new();
        let mut tally = empty(0);
        tally.change(1, Some(10), &known);
        known.open.push(101);
        tally.change(2, Some(10), &known);
        assert_eq!(tally.entries.len(), 2);
        // Released: it belongs to the transaction now.
        known.open.pop();
        known.merged.insert(101, 0);
        known.open.push(102);
        tally.change(4, Some(10), &known);
        assert_eq!(
            tally
                .entries
                .iter()
                .map(|e| (e.xid, e.change))
                .collect::<Vec<_>>(),
            [(100, 3), (102, 4)]
        );
        // Rolled back.
        known.open.pop();
        assert_eq!(tally.clone().look(&known), Some((3, 0)));
        // Thousands of blocks one after the other need no room.
        for xid in 200..2_000 {
            known.open.push(xid);
            assert_eq!(tally.change(1, None, &known), Outcome::Done);
            known.open.pop();
            known.merged.insert(xid, 0);
        }
        assert!(tally.entries.len() <= 2, "{tally:?}");
        assert_eq!(tally.look(&known), Some((1_803, 0)));
    }

    #[test]
    fn lowering_takes_nothing_and_refuses_more() {
        let known = Known::new();
        let mut tally = empty(10);
        assert!(matches!(
            tally.change(1, Some(5), &known),
            Outcome::Over { .. }
        ));
        assert_eq!(tally.change(-1, Some(5), &known), Outcome::Done);
        assert_eq!(tally.change(100, None, &known), Outcome::Done);
    }

    #[test]
    fn a_full_counter_says_whom_to_wait_for() {
        let known = Known::new();
        let mut tally = empty(0);
        tally.entries = (0..ENTRIES as u32)
            .map(|i| Entry {
                top: u64::from(i) + 1_000,
                xid: i + 1_000,
                level: 0,
                change: 1,
            })
            .collect();
        assert_eq!(tally.change(1, None, &known), Outcome::Crowded(Some(1_000)));
    }

    #[test]
    fn the_forgotten_are_counted_anew() {
        let mut known = Known::new();
        known.fates.insert(7, Fate::Forgotten);
        let mut tally = empty(3);
        tally.change(1, None, &Known::new());
        tally.entries.push(other(7, 0, 5));
        tally.entries.push(Entry {
            top: 9,
            xid: 9,
            level: 0,
            change: 2,
        });
        let before = tally.clone();
        assert_eq!(tally.change(1, None, &known), Outcome::Lost);
        assert_eq!(tally, before);
        // 9 still runs by the snapshot that counted, so it stays; so does this transaction's own.
        tally.recount(8, &known, |xid| xid != 9);
        assert_eq!(tally.look(&known), Some((9, 2)));
    }

    /// Whatever order transactions run and end in: never over the limit at a commit, and a refusal only where the
    /// committed and the uncommitted leave no room.
    #[test]
    fn any_order_keeps_the_limit() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move |n: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % n
        };
        for _ in 0..300 {
            let most = 1 + random(12) as i64;
            let (mut committed, mut running) = (0_i64, HashMap::<u32, i64>::new());
            let mut fates: HashMap<u32, Fate> = HashMap::new();
            let mut tally = empty(0);
            for step in 0..60 {
                let xid = 1 + random(6) as u32 + if step > 30 { 10 } else { 0 };
                if fates.contains_key(&xid) {
                    continue;
                }
                struct As<'a>(u32, [u32; 1], &'a HashMap<u32, Fate>);
                impl Fates for As<'_> {
                    fn fate(&self, e: &Entry) -> Fate {
                        match self.2.get(&e.xid) {
                            Some(fate) => *fate,
                            None if e.xid == self.0 => Fate::Mine,
                            None => Fate::Running,
                        }
                    }
                    fn owner(&self, _: &Entry) -> usize {
                        0
                    }
                    fn me(&self) -> (u64, &[u32]) {
                        (u64::from(self.0), &self.1)
                    }
                }
                let by = random(7) as i64 - 3;
                let mine = running.get(&xid).copied().unwrap_or(0);
                // Nobody deletes what is not there.
                if committed + mine + by >= 0 && by != 0 {
                    let others: i64 = running
                        .iter()
                        .filter(|(x, _)| **x != xid)
                        .map(|(_, n)| *n.max(&0))
                        .sum();
                    let room = committed + mine + others + by <= most;
                    match tally.change(by, Some(most), &As(xid, [xid], &fates)) {
                        Outcome::Done => {
                            assert!(by < 0 || room);
                            *running.entry(xid).or_default() += by;
                        }
                        Outcome::Over { .. } => assert!(!room),
                        other => panic!("{other:?}"),
                    }
                }
                match random(4) {
                    0 => {
                        committed += running.remove(&xid).unwrap_or(0);
                        fates.insert(xid, Fate::Committed);
                        assert!(committed <= most, "{committed} of {most}");
                    }
                    1 => {
                        running.remove(&xid);
                        fates.insert(xid, Fate::Gone);
                    }
                    _ => {}
                }
            }
        }
    }
}
