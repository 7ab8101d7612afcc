//! Chance that can be repeated, and how much of it: little in every run, much where PG_TENANCY_FULL=1 asks for it.

use std::io::Write;

/// A sequence of numbers that a seed determines.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(6364136223846793005) | 1)
    }

    /// From 0 to n - 1.
    pub fn next(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }

    pub fn percent(&mut self, n: usize) -> bool {
        self.next(100) < n
    }

    pub fn one_of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.next(all.len())]
    }
}

/// `few` of what a test counts, or `many` in the full run; says so past the harness, which hides what a passing test prints.
pub fn few_or_many(what: &str, few: usize, many: usize) -> usize {
    let full = std::env::var("PG_TENANCY_FULL").is_ok_and(|v| !v.is_empty() && v != "0");
    let (amount, note) = if full {
        (many, String::new())
    } else {
        (few, format!(" (PG_TENANCY_FULL=1: {many})"))
    };
    writeln!(std::io::stderr(), "{what}: {amount}{note}").ok();
    amount
}
