//! A random model test: real sessions (applications, bound logins, nobody, a superuser) grant, revoke, switch, nest
//! savepoints, read and write, and after each step the answer is the one that a small model in plain Rust gives. No row of
//! an organization outside the model's answer is ever seen or changed; at the end the whole database equals the model.

mod act;
mod govern;
mod model;
mod rules;
mod say;
mod stage;

use std::cell::{Cell, RefCell};

use act::{Act, LOGINS};
use model::{Model, Outcome};
use pg_tenancy_tests::few_or_many;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use stage::Stage;

/// Nothing is vacuumed while they play: in one database, all 12,000 plays of the full run filled 25 GB.
const PLAYS_ON_A_STAGE: u32 = 500;

/// One session does a few things, then another.
type Turns = Vec<(usize, Vec<Act>)>;

fn turns() -> impl Strategy<Value = Turns> {
    // Mostly somewhere, so that there is something to see.
    let first = prop_oneof![
        3 => act::entry().prop_map(|entry| vec![Act::Commit, Act::Begin, entry]),
        1 => act::entry().prop_map(|entry| vec![Act::Begin, entry]),
        2 => act::entry().prop_map(|entry| vec![entry]),
        1 => Just(vec![]),
    ];
    let turn = (first, prop::collection::vec(act::act(), 2..9))
        .prop_map(|(first, more)| [first, more].concat());
    let who = prop::sample::select(vec![0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 6]);
    prop::collection::vec((who, turn), 4..16)
}

fn fits(actual: &Outcome, expected: &Outcome) -> bool {
    match (actual, expected) {
        (Outcome::Refused(_), _) | (_, Outcome::Refused(_)) => actual == expected,
        (_, Outcome::Done) => true,
        (Outcome::Rows(rows), Outcome::RowsOf(all)) => rows.is_subset(all),
        _ => actual == expected,
    }
}

struct Play<'a> {
    stage: &'a mut Stage,
    model: Model,
    trail: Vec<String>,
    fresh: usize,
    /// Steps taken, steps refused, rows seen.
    counts: [usize; 3],
}

impl Play<'_> {
    fn step(&mut self, n: usize, act: &Act) -> Result<(), String> {
        let act = &self.model.well(n, act);
        if !self.model.applies(n, act) {
            return Ok(());
        }
        self.fresh += 1;
        let by_dba = act
            .by_dba()
            .is_some_and(|by_dba| by_dba || self.model.is_open(n));
        let sql = act.sql(&self.stage.ids, self.fresh, self.model.depth(n));
        let (expected, after) = self.model.expect(n, act, self.fresh);
        let who = if by_dba { "the DBA" } else { LOGINS[n] };
        self.trail.push(format!("{who:<12}{sql}"));
        let actual = self.stage.play(n, act, &sql, by_dba)?;
        self.trail.push(format!("{:<12}  -> {actual:?}", ""));
        if !expected.iter().any(|one| fits(&actual, one)) {
            return Err(format!(
                "{who} should have got {expected:?}, and got {actual:?}"
            ));
        }
        self.counts[0] += 1;
        match &actual {
            Outcome::Refused(_) => {
                self.counts[1] += 1;
                self.model.refused(n, act);
            }
            Outcome::Rows(rows) => {
                self.counts[2] += rows.len();
                self.model = after;
            }
            _ => self.model = after,
        }
        if by_dba {
            (0..LOGINS.len()).try_for_each(|n| self.ask(n))
        } else {
            self.ask(n)
        }
    }

    /// Every session's own account of itself is the model's, too.
    fn ask(&mut self, n: usize) -> Result<(), String> {
        // It would be an error, and end the transaction.
        if self.model.is_failed(n) || self.model.is_held_to_another(n) {
            return Ok(());
        }
        let expected = self.model.standing(n);
        let actual = self.stage.ask(n)?;
        self.model.asked(n);
        if actual == expected {
            Ok(())
        } else {
            Err(format!(
                "{} should be {expected:?}, and is {actual:?}",
                LOGINS[n]
            ))
        }
    }
}

fn run(stage: &mut Stage, turns: &Turns) -> Result<[usize; 3], String> {
    let model = Model::new();
    stage.reset(&model);
    let mut play = Play {
        stage,
        model,
        trail: vec![],
        fresh: 0,
        counts: [0; 3],
    };
    let mut steps = turns
        .iter()
        .flat_map(|(n, acts)| acts.iter().map(|act| (*n, act)));
    let played = steps
        .try_for_each(|(n, act)| play.step(n, act))
        .and_then(|()| play.stage.compare(&play.model));
    played.map_err(|what| format!("{what}\nafter:\n{}", play.trail.join("\n")))?;
    Ok(play.counts)
}

#[test]
fn sessions_answer_as_the_model_does() {
    let cases = few_or_many("random plays of several sessions", 120, 12_000);
    let config = Config {
        cases: cases as u32,
        failure_persistence: None,
        max_shrink_iters: 3_000,
        ..Config::default()
    };
    let seed = std::env::var("PG_TENANCY_SEED")
        .map_or(4, |seed| seed.parse().expect("PG_TENANCY_SEED is a number"));
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let stage = RefCell::new(Stage::new());
    let totals = RefCell::new([0; 3]);
    let plays = Cell::new(0_u32);
    let result = TestRunner::new_with_rng(config, rng).run(&turns(), |turns| {
        plays.set(plays.get() + 1);
        if plays.get().is_multiple_of(PLAYS_ON_A_STAGE) {
            stage.replace(Stage::new()).clear_away();
        }
        let counts = run(&mut stage.borrow_mut(), &turns).map_err(TestCaseError::fail)?;
        let mut totals = totals.borrow_mut();
        for (total, count) in totals.iter_mut().zip(counts) {
            *total += count;
        }
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, _)) => panic!("with seed {seed}, shrunk: {why}"),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
    // It was no idle play.
    let [steps, refused, seen] = totals.into_inner();
    assert!(
        steps > cases * 15 && refused > cases * 3 && seen > cases * 5,
        "{steps} {refused} {seen}"
    );
}
