//! How much is measured: quick by default, more with BENCH=full, little for a trial.

pub const PARTS: &[&str] = &[
    "reads",
    "estimates",
    "context",
    "permission",
    "fk",
    "insert",
    "audit",
    "seal",
    "quota",
    "growth",
    "leakproof",
    "scopes",
    "projects",
];

pub struct Scale {
    pub full: bool,
    pub rows: usize,
    pub orgs: usize,
    /// How often connections are made anew.
    pub sittings: usize,
    /// Rounds of quick operations in a sitting.
    pub rounds: usize,
    /// Rounds of reads of the whole table in a sitting.
    pub heavy_rounds: usize,
    /// Rounds of operations on many rows.
    pub bulk_rounds: usize,
    only: Option<Vec<String>>,
}

impl Scale {
    /// From BENCH, BENCH_ROWS and BENCH_ONLY (see bench/run).
    pub fn from_environment() -> Result<Scale, String> {
        let variable = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        let full = match variable("BENCH").as_deref() {
            None | Some("quick") => false,
            Some("full") => true,
            Some(other) => return Err(format!("BENCH={other}: quick or full")),
        };
        let rows = match variable("BENCH_ROWS") {
            None => 1_000_000,
            Some(text) => match text.parse() {
                Ok(n) if n >= 10_000 => n,
                _ => return Err(format!("BENCH_ROWS={text}: a number from 10000")),
            },
        };
        let only: Option<Vec<String>> =
            variable("BENCH_ONLY").map(|v| v.split(',').map(String::from).collect());
        if let Some(wrong) = only.iter().flatten().find(|p| !PARTS.contains(&p.as_str())) {
            return Err(format!("BENCH_ONLY={wrong}: one of {}", PARTS.join(" ")));
        }
        let trial = rows < 1_000_000;
        let (sittings, rounds, heavy_rounds, bulk_rounds) = match (full, trial) {
            (_, true) => (2, 5, 2, 3),
            (false, false) => (3, 13, 3, 5),
            (true, false) => (9, 15, 4, 21),
        };
        Ok(Scale {
            full,
            rows,
            orgs: if trial { 100 } else { 1_000 },
            sittings,
            rounds,
            heavy_rounds,
            bulk_rounds,
            only,
        })
    }

    /// Rows of a bulk insert: 100,000, or less in a trial.
    pub fn bulk(&self) -> usize {
        (self.rows / 10).min(100_000)
    }

    pub fn wants(&self, part: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| only.iter().any(|p| p == part))
    }

    /// Whether the run is of the whole table, so that it is the one to keep.
    pub fn whole(&self) -> bool {
        self.only.is_none() && self.rows >= 1_000_000
    }
}
