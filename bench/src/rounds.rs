//! Interleaved rounds. The sides of a comparison take turns (A B C, B C A, ...), so that whatever else the machine
//! does falls on all of them, and ratios are taken within a round before their median is taken over the rounds.

use std::time::{Duration, Instant};

use crate::Result;

/// What a batch of a quick operation should last: long against the clock's grain, short against the machine's moods.
const BATCH: Duration = Duration::from_millis(20);

/// One alternative of a comparison.
pub struct Side<'a> {
    name: String,
    rounds: usize,
    /// Operations a batch; None: as many as last so long.
    batch: Option<usize>,
    lasting: Duration,
    /// Units (rows, clients) in one operation: times are per unit.
    units: f64,
    run: Box<dyn FnMut(usize) -> Result<Duration> + 'a>,
}

impl<'a> Side<'a> {
    /// A quick operation, done many times a batch.
    pub fn quick(name: impl Into<String>, mut once: impl FnMut() -> Result<()> + 'a) -> Side<'a> {
        Side::batches(name, move |n| {
            let start = Instant::now();
            for _ in 0..n {
                once()?;
            }
            Ok(start.elapsed())
        })
    }

    /// A quick operation that times its own batches.
    pub fn batches(
        name: impl Into<String>,
        run: impl FnMut(usize) -> Result<Duration> + 'a,
    ) -> Side<'a> {
        Side {
            name: name.into(),
            rounds: usize::MAX,
            batch: None,
            lasting: BATCH,
            units: 1.0,
            run: Box::new(run),
        }
    }

    /// A long operation on `units` rows, done once a round; it returns the time that counts.
    pub fn bulk(
        name: impl Into<String>,
        units: usize,
        mut run: impl FnMut() -> Result<Duration> + 'a,
    ) -> Side<'a> {
        Side {
            name: name.into(),
            rounds: usize::MAX,
            batch: Some(1),
            lasting: BATCH,
            units: units as f64,
            run: Box::new(move |_| run()),
        }
    }

    /// Counts each operation as so many.
    pub fn of(mut self, units: usize) -> Side<'a> {
        self.units = units as f64;
        self
    }

    /// Makes its batches so many times longer: many clients take a while to get going.
    pub fn longer(mut self, times: u32) -> Side<'a> {
        self.lasting *= times;
        self
    }

    /// Takes part in the first rounds only: for alternatives that are many times slower.
    pub fn at_most(mut self, rounds: usize) -> Side<'a> {
        self.rounds = rounds;
        self
    }
}

/// Microseconds per unit: one list of samples for each side, in the order of the rounds.
pub struct Samples {
    pub sides: Vec<(String, Vec<f64>)>,
}

/// A median with its interquartile range.
#[derive(Clone, Copy)]
pub struct Stat {
    pub median: f64,
    pub q1: f64,
    pub q3: f64,
}

pub fn interleave(rounds: usize, mut sides: Vec<Side>) -> Result<Samples> {
    let mut batches = vec![1; sides.len()];
    for (side, batch) in sides.iter_mut().zip(&mut batches) {
        *batch = match side.batch {
            Some(n) => n,
            None => {
                // The first run fills caches. Those after it settle the plan of a prepared statement.
                let first = (side.run)(1)?;
                if first > side.lasting * 10 || (side.run)(1)? > side.lasting {
                    1
                } else {
                    enough(side.lasting, |n| (side.run)(n))?
                }
            }
        };
        if side.batch.is_some() {
            (side.run)(*batch)?;
        }
    }
    let mut times = vec![Vec::new(); sides.len()];
    for round in 0..rounds {
        for turn in 0..sides.len() {
            let i = (turn + round) % sides.len();
            let side = &mut sides[i];
            if round < side.rounds {
                let time = (side.run)(batches[i])?;
                times[i].push(time.as_secs_f64() * 1e6 / batches[i] as f64 / side.units);
            }
        }
    }
    Ok(Samples {
        sides: sides.into_iter().map(|s| s.name).zip(times).collect(),
    })
}

/// How many operations last as long as a batch.
fn enough(lasting: Duration, mut run: impl FnMut(usize) -> Result<Duration>) -> Result<usize> {
    let mut n = 8;
    loop {
        let time = run(n)?;
        if time > lasting / 4 {
            let share = lasting.as_secs_f64() / time.as_secs_f64();
            return Ok(((n as f64 * share) as usize).max(1));
        }
        n *= 2;
    }
}

/// Several interleavings with connections of their own: where a process lies in memory makes it some percent faster
/// or slower for as long as it lives.
pub fn sittings(count: usize, mut sitting: impl FnMut() -> Result<Samples>) -> Result<Samples> {
    let mut all = sitting()?;
    for _ in 1..count {
        for ((_, times), (_, more)) in all.sides.iter_mut().zip(sitting()?.sides) {
            times.extend(more);
        }
    }
    Ok(all)
}

impl Samples {
    fn of(&self, name: &str) -> &[f64] {
        self.sides
            .iter()
            .find(|(n, _)| n == name)
            .map_or_else(|| panic!("no side {name}"), |(_, times)| times)
    }

    pub fn time(&self, name: &str) -> Stat {
        Stat::of(self.of(name).to_vec())
    }

    pub fn ratio(&self, ours: &str, base: &str) -> Stat {
        self.derived(&[ours, base], |t| t[0] / t[1])
    }

    /// A figure made, round by round, from the times of some sides.
    pub fn derived(&self, names: &[&str], figure: impl Fn(&[f64]) -> f64) -> Stat {
        let columns: Vec<&[f64]> = names.iter().map(|n| self.of(n)).collect();
        let rounds = columns.iter().map(|c| c.len()).min().unwrap_or(0);
        Stat::of(
            (0..rounds)
                .map(|r| figure(&columns.iter().map(|c| c[r]).collect::<Vec<_>>()))
                .collect(),
        )
    }
}

impl Stat {
    pub fn of(mut values: Vec<f64>) -> Stat {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (values.len() - 1) as f64;
            let (low, high) = (
                values[place.floor() as usize],
                values[place.ceil() as usize],
            );
            low + (high - low) * place.fract()
        };
        Stat {
            median: at(0.5),
            q1: at(0.25),
            q3: at(0.75),
        }
    }

    pub fn exactly(value: f64) -> Stat {
        Stat {
            median: value,
            q1: value,
            q3: value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles() {
        let stat = Stat::of(vec![4.0, 1.0, 3.0, 2.0, 5.0]);
        assert_eq!((stat.q1, stat.median, stat.q3), (2.0, 3.0, 4.0));
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was ten times slower in the second round; the ratio does not see it.
        let samples = Samples {
            sides: vec![
                ("a".into(), vec![2.0, 20.0, 2.0]),
                ("b".into(), vec![1.0, 10.0, 1.0]),
            ],
        };
        let ratio = samples.ratio("a", "b");
        assert_eq!((ratio.q1, ratio.median, ratio.q3), (2.0, 2.0, 2.0));
    }

    #[test]
    fn the_sides_take_turns() {
        let order = std::cell::RefCell::new(String::new());
        let side = |name: &'static str| {
            let order = &order;
            Side::bulk(name, 1, move || {
                order.borrow_mut().push_str(name);
                Ok(Duration::from_millis(1))
            })
        };
        // One round more, at first, that does not count.
        interleave(3, vec![side("a"), side("b").at_most(1)]).unwrap();
        assert_eq!(*order.borrow(), "ababaa");
    }
}
