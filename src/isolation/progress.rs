//! Long work says how far it is.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::time::{Duration, Instant};

/// How long nothing is said: a schema of a hundred small tables is done before.
const EVERY: Duration = Duration::from_secs(3);

pub struct Progress {
    work: &'static str,
    done: usize,
    of: &'static str,
    said: Instant,
}

impl Progress {
    pub fn new(work: &'static str) -> Progress {
        Progress {
            work,
            done: 0,
            of: "",
            said: Instant::now(),
        }
    }

    /// One more of `all` is done.
    pub fn step(&mut self, of: &'static str, all: usize) {
        if self.of != of {
            self.of = of;
            self.done = 0;
        }
        self.done += 1;
        if self.is_time() {
            self.say(&format!("{} of {all} {of}", self.done));
        }
    }

    pub fn is_time(&self) -> bool {
        self.said.elapsed() >= EVERY
    }

    pub fn say(&mut self, what: &str) {
        self.said = Instant::now();
        ErrorReport::new(
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            format!("{}: {what}", self.work),
            "pg_tenancy",
        )
        .report(PgLogLevel::NOTICE);
    }
}
