//! A fuzzer of statements: whatever a session says, in whatever form, the effective organization is one that its principal
//! is entitled to, and under a seal the sealed one. Results, notices and errors of every statement are searched for rows
//! of other organizations, and after every message the session is asked where it is and what it sees.

mod grammar;
mod range;

use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use grammar::Grammar;
use pg_tenancy_tests::{Random, Session, few_or_many};
use postgres::SimpleQueryMessage;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use range::{Kind, Range};

/// What a session answered, as text to be searched; and the SQLSTATE where it failed.
struct Answer {
    cells: Vec<Option<String>>,
    text: String,
    code: Option<String>,
}

struct Shooter<'a> {
    range: &'a Range,
    session: Session,
    notices: Arc<Mutex<String>>,
    trail: Vec<String>,
    /// The transaction failed, and its block is still open.
    failed: bool,
    /// Messages sent, messages that succeeded, checks that saw rows.
    counts: [usize; 3],
}

/// Asked after each message, immune to what it may have done to the search path.
const WHERE: &str = "SELECT tenancy.current_org(), tenancy.current_user_id(),
    (SELECT pg_catalog.string_agg(name, ',') FROM public.servers), (SELECT sealed::pg_catalog.text FROM tenancy.whoami())";

/// What some of the statements use; a DISCARD may take it away.
const TOOLS: &str = "CREATE FUNCTION pg_temp.mine() RETURNS text LANGUAGE sql AS 'SELECT max(name) FROM public.servers';
    CREATE TEMP TABLE loot (name text, id int); PREPARE p1 AS SELECT name FROM servers; PREPARE p2 AS TABLE sites";

impl<'a> Shooter<'a> {
    fn new(range: &'a Range, options: &str) -> Shooter<'a> {
        let notices: Arc<Mutex<String>> = Arc::default();
        let mut config = range.world.db.config(&range.login);
        let heard = notices.clone();
        config
            .options(&format!("-c statement_timeout=20s {options}"))
            .notice_callback(move |notice| {
                *heard.lock().expect("one thread") += &format!("{notice:?}\n");
            });
        Shooter {
            session: range.world.db.connect(&config),
            range,
            notices,
            trail: vec![],
            failed: false,
            counts: [0; 3],
        }
    }

    /// Sends a message; what comes back holds nothing of another organization.
    fn send(&mut self, sql: &str) -> Result<Answer, String> {
        let mut answer = Answer {
            cells: vec![],
            text: String::new(),
            code: None,
        };
        match self.session.simple_query(sql) {
            Ok(messages) => {
                for message in &messages {
                    if let SimpleQueryMessage::Row(row) = message {
                        answer
                            .cells
                            .extend((0..row.len()).map(|i| row.get(i).map(String::from)));
                    }
                }
                answer.text = format!("{:?}", answer.cells);
            }
            Err(error) => {
                let db = error
                    .as_db_error()
                    .ok_or(format!("the connection broke: {error:?}"))?;
                answer.text = format!("{db:?}");
                answer.code = Some(db.code().code().into());
            }
        }
        answer.text += &std::mem::take(&mut *self.notices.lock().expect("one thread"));
        let said: String = answer.text.chars().take(300).collect();
        self.trail.push(format!("{sql}\n    -> {said}"));
        if let Some(word) = self
            .range
            .forbidden
            .iter()
            .find(|word| answer.text.contains(word.as_str()))
        {
            return Err(format!("an answer holds {word:?}: {}", answer.text));
        }
        match &answer.code {
            Some(code) if code.starts_with("XX") => {
                Err(format!("an internal error: {}", answer.text))
            }
            _ => Ok(answer),
        }
    }

    /// Asks where the session is. None where it may not ask.
    fn look(&mut self) -> Result<Option<Answer>, String> {
        let answer = self.send(WHERE)?;
        self.failed = answer.code.as_deref() == Some("25P02");
        if let Some(code) = &answer.code {
            // A failed transaction, a second organization in it, a broken seal, a role without rights.
            return if ["25P02", "25001", "42501"].contains(&code.as_str()) {
                Ok(None)
            } else {
                Err(format!("no refusal that is known: {}", answer.text))
            };
        }
        let text = |n: usize| answer.cells[n].as_deref().unwrap_or_default();
        let (org, user, rows) = (text(0), text(1), text(2));
        let place = self.range.allowed.iter().find(|(id, _)| id == org);
        if !org.is_empty() && place.is_none() {
            return Err(format!("the effective organization is {org}"));
        }
        if ![self.range.me(), ""].contains(&user) {
            return Err(format!("the effective user is {user}"));
        }
        let own = |name: &str| place.is_some_and(|(_, prefix)| name.starts_with(prefix));
        if !rows.split(',').all(|name| name.is_empty() || own(name)) {
            return Err(format!("in {org:?} it sees {rows}"));
        }
        self.counts[2] += usize::from(!rows.is_empty());
        Ok(Some(answer))
    }

    /// Begins a transaction with a sealed context; what an attacker left behind may hinder that, not more.
    fn seal(&mut self, random: &mut Random) -> Result<(), String> {
        let range = self.range;
        let (org, me) = (&range.allowed[0].0, range.me());
        // Without a savepoint an error ends the transaction as a whole.
        let savepoint = random.one_of(&["; SAVEPOINT s", ""]);
        let begin =
            format!("BEGIN; SELECT tenancy.enter('{org}', '{me}', seal => true){savepoint}");
        self.send("ROLLBACK")?;
        if self.send(&begin)?.code.is_some() {
            self.send("ROLLBACK")?;
            self.send("DISCARD ALL")?;
            let again = self.send(&begin)?;
            if again.code.is_some() {
                return Err(format!("no way to begin: {}", again.text));
            }
        }
        Ok(())
    }

    /// One message, and what may be asked after it.
    fn shoot(&mut self, message: &str, random: &mut Random) -> Result<(), String> {
        let sealed = self.range.kind == Kind::Sealed;
        let answer = if std::mem::take(&mut self.failed) {
            let end = random.one_of(&["ROLLBACK", "COMMIT", "ROLLBACK AND CHAIN", "ABORT; BEGIN"]);
            self.send(&format!("{end}; {message}"))?
        } else {
            self.send(message)?
        };
        self.counts[0] += 1;
        self.counts[1] += usize::from(answer.code.is_none());
        let mut seen = self.look()?;
        if sealed {
            if seen.is_none() && random.percent(30) && self.send("ROLLBACK TO s")?.code.is_none() {
                seen = self.look()?;
            }
            let still = seen
                .as_ref()
                .is_some_and(|a| a.cells[3].as_deref() == Some("true"));
            // Else it ended with its transaction, or it is broken. The message that leaves a failed one is held, too.
            self.failed = self.failed && random.percent(50);
            return if still || self.failed {
                Ok(())
            } else {
                self.seal(random)
            };
        }
        if seen.is_none() && random.percent(70) {
            self.send("ROLLBACK")?;
        }
        if random.percent(3) {
            self.send("ROLLBACK")?;
            self.send("DISCARD ALL")?;
            self.prove()?;
        }
        Ok(())
    }

    /// A token is for the session, until it is discarded.
    fn prove(&mut self) -> Result<(), String> {
        if self.range.needs_token() {
            let token = &self.range.token;
            self.send(&format!(
                "SELECT tenancy.authenticate('{token}', scope => 'session')"
            ))?;
        }
        Ok(())
    }
}

fn play(range: &Range, seeds: &[u64]) -> Result<[usize; 3], String> {
    let mut random = Random::new(seeds.first().copied().unwrap_or_default());
    let org = random.one_of(&["customer-7", "customer-8", "customer-9", "rubbish", ""]);
    let options = [
        format!("-c app.current_org={org}"),
        format!(
            "-c app.current_org={org} -c app.current_user_id=key-of-globex.owner -c row_security=off"
        ),
        "-c search_path=pg_temp,public,pg_catalog -c role=postgres".into(),
        String::new(),
    ];
    // Of the start-up options too, some let nobody in.
    let options = match random.next(8) {
        n @ 0..2 => &options[n],
        _ => &options[3],
    };
    let mut shooter = Shooter::new(range, options);
    shooter.session.attempt(TOOLS).ok();
    let mut done = if range.kind == Kind::Sealed {
        shooter.seal(&mut random)
    } else {
        shooter.prove()
    };
    for (serial, seed) in seeds.iter().enumerate() {
        let mut random = Random::new(*seed);
        let message = Grammar {
            random: Random::new(seed.rotate_left(20)),
            words: &range.words,
            serial: serial * 100,
        }
        .message();
        done = done.and_then(|()| shooter.shoot(&message, &mut random));
    }
    done.map_err(|what| format!("{what}\nafter:\n{}", shooter.trail.join("\n")))?;
    Ok(shooter.counts)
}

/// `share`: of how many hundred checks at least one saw rows.
fn fuzz(kind: Kind, what: &str, share: usize) {
    let messages = few_or_many(&format!("messages of the fuzzer as {what}"), 500, 100_000);
    let range = Range::new(kind);
    let before = range.contents();
    let config = Config {
        cases: (messages / 20) as u32,
        failure_persistence: None,
        max_shrink_iters: 400,
        ..Config::default()
    };
    let seed = std::env::var("PG_TENANCY_SEED").map_or(4, |seed| {
        seed.parse::<u8>().expect("PG_TENANCY_SEED is a number")
    });
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed ^ (kind as u8) << 4; 32]);
    let totals = RefCell::new([0; 3]);
    let seeds = prop::collection::vec(any::<u64>().no_shrink(), 1..40);
    let result = TestRunner::new_with_rng(config, rng).run(&seeds, |seeds| {
        let counts = play(&range, &seeds).map_err(TestCaseError::fail)?;
        let mut totals = totals.borrow_mut();
        for (total, count) in totals.iter_mut().zip(counts) {
            *total += count;
        }
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, _)) => panic!("as {what}, with seed {seed}, shrunk: {why}"),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
    assert_eq!(
        before,
        range.contents(),
        "rows of other organizations changed"
    );
    // It was not all refused.
    let [sent, succeeded, saw] = totals.into_inner();
    assert!(succeeded > sent / 3, "{succeeded} of {sent}");
    assert!(saw * 100 >= sent * share, "{saw} of {sent} checks saw rows");
}

#[test]
fn a_bound_login_stays_among_its_organizations() {
    fuzz(Kind::Agency, "a bound login of two organizations", 10);
}

#[test]
fn a_bound_login_stays_in_its_organization() {
    fuzz(Kind::Member, "a bound login of one organization", 10);
}

#[test]
fn a_login_that_nobody_knows_sees_nothing() {
    fuzz(Kind::Nobody, "an unbound login", 0);
}

#[test]
fn a_token_session_stays_among_its_users_organizations() {
    fuzz(Kind::Token, "a token session", 10);
}

#[test]
fn a_token_session_stays_in_its_tokens_organization() {
    fuzz(
        Kind::TokenForOrg,
        "a session with a token for one organization",
        10,
    );
}

#[test]
fn a11_a_sealed_session_stays_where_it_is() {
    fuzz(Kind::Sealed, "a sealed session", 10);
}
