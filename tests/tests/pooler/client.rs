//! One client of the pooler: mostly a well-behaved one, now and then one that leaves its things behind or forgets to say
//! who it is. Whatever it does and whatever it finds, it must see the rows of the organization that it entered in this
//! transaction, or none.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use pg_tenancy_tests::{Error, Pooler, Random, Rows, Session};

use crate::town::{Place, Town};

/// What all clients count together.
#[derive(Default)]
pub struct Tally {
    /// Transactions that ended with every check passed.
    pub checked: AtomicUsize,
    pub forgetful: AtomicUsize,
    pub misdeeds: AtomicUsize,
    /// Refused by PostgreSQL itself since an earlier client had left its role or row_security behind.
    pub spoiled: AtomicUsize,
    /// Which organizations were read by which server connection.
    pub served: Mutex<HashMap<String, HashSet<usize>>>,
}

/// The server connection has another client's role or row_security: PostgreSQL refuses.
struct Spoiled;

pub struct Client<'a> {
    pub town: &'a Town,
    pub pooler: &'a Pooler,
    pub tally: &'a Tally,
    pub number: i32,
    pub random: Random,
    /// How many of a hundred transactions come on a new connection.
    pub restless: usize,
    session: Option<Session>,
    /// Its committed notes in each organization.
    pub written: Vec<i64>,
    pending: i64,
}

fn code(error: &Error) -> &str {
    error.as_db_error().map_or("", |e| e.code().code())
}

impl<'a> Client<'a> {
    pub fn new(town: &'a Town, pooler: &'a Pooler, tally: &'a Tally, number: i32) -> Client<'a> {
        Client {
            town,
            pooler,
            tally,
            number,
            random: Random::new(number as u64),
            restless: 3,
            session: None,
            written: vec![0; town.places.len()],
            pending: 0,
        }
    }

    pub fn run(&mut self, transactions: usize) {
        for _ in 0..transactions {
            if self.random.percent(self.restless) {
                self.session = None;
            }
            if self.session.is_none() {
                self.session = Some(self.pooler.login(&self.town.app, &self.town.db.name));
            }
            let done = match self.random.next(100) {
                0..15 => self.forget(),
                15..25 => self.misbehave(),
                _ => self.behave(),
            };
            if done.is_err() {
                self.tally.spoiled.fetch_add(1, Relaxed);
                self.pending = 0;
                // One message, so that it reaches the very server connection.
                self.send("ROLLBACK; RESET ROLE; RESET row_security")
                    .expect("what is left behind can be put right");
            } else {
                self.tally.checked.fetch_add(1, Relaxed);
            }
        }
    }

    fn send(&mut self, sql: &str) -> Result<Rows, Error> {
        self.session.as_mut().expect("connected").try_rows(sql)
    }

    /// Rows, or another client's leftovers. Everything else is a failure of the test.
    #[track_caller]
    fn ask(&mut self, sql: &str) -> Result<Rows, Spoiled> {
        match self.send(sql) {
            Ok(rows) => Ok(rows),
            Err(error) => {
                let message = error.as_db_error().map_or("", |e| e.message());
                let foreign = message.starts_with("query would be affected by row-level security")
                    || message.starts_with("permission denied for table");
                assert!(code(&error) == "42501" && foreign, "{sql}: {error:?}");
                Err(Spoiled)
            }
        }
    }

    /// The error's SQLSTATE, or the rows; the transaction goes on.
    fn attempt(&mut self, sql: &str) -> Result<Rows, String> {
        self.send("SAVEPOINT attempt").expect("a savepoint");
        let result = self.send(sql);
        let back = if result.is_ok() {
            "RELEASE attempt"
        } else {
            "ROLLBACK TO attempt; RELEASE attempt"
        };
        self.send(back).expect("back to the savepoint");
        result.map_err(|error| code(&error).to_string())
    }

    /// Begins and enters an organization, in any of the ways that an application has.
    fn enter(&mut self, place: &Place) -> Result<(), Spoiled> {
        let person = self.random.next(4);
        let (id, key) = (place.id, &place.key);
        let Some(user) = place.people.get(person) else {
            // As a service.
            return self
                .ask(&format!("BEGIN; SELECT tenancy.enter('{id}')"))
                .map(drop);
        };
        match self.random.next(4) {
            0 => {
                self.ask("BEGIN")?;
                self.ask(&format!("SELECT tenancy.enter('{id}', '{user}')"))
            }
            1 => {
                self.ask("BEGIN")?;
                self.ask(&format!("SET LOCAL app.current_org = '{key}'"))?;
                self.ask(&format!("SET LOCAL app.current_user_id = '{user}'"))
            }
            2 => self.ask(&format!(
                "BEGIN; SET LOCAL app.current_user_id = '{user}'; SET LOCAL app.current_org = '{id}'"
            )),
            _ => self.ask(&format!(
                "BEGIN; SELECT set_config('app.current_org', '{key}', true), set_config('app.current_user_id', '{user}', true)"
            )),
        }
        .map(drop)
    }

    fn behave(&mut self) -> Result<(), Spoiled> {
        let town = self.town;
        let n = self.random.next(town.places.len());
        let place = &town.places[n];
        self.enter(place)?;
        for _ in 0..=self.random.next(3) {
            self.act(n)?;
        }
        self.count(n)?;
        self.finish(n)
    }

    fn finish(&mut self, n: usize) -> Result<(), Spoiled> {
        let pending = std::mem::take(&mut self.pending);
        match self.random.next(100) {
            0..4 => self.session = None,
            4..15 => drop(self.ask("ROLLBACK")?),
            _ => {
                self.ask("COMMIT")?;
                self.written[n] += pending;
            }
        }
        Ok(())
    }

    /// Everything that is seen is of this organization, and all of one's own is seen.
    fn count(&mut self, n: usize) -> Result<(), Spoiled> {
        let place = &self.town.places[n];
        let row = self
            .ask(&format!(
                "SELECT count(*) > 0, count(*) = count(*) FILTER (WHERE org_id = '{}' AND body LIKE '{}%'),
                    count(*) FILTER (WHERE writer = {}), tenancy.current_org(), pg_backend_pid() FROM public.notes",
                place.id, place.key, self.number
            ))?
            .remove(0);
        let own = (self.written[n] + self.pending).to_string();
        let expected = ["t", "t", &own, &place.id.to_string()].map(|v| Some(v.to_string()));
        assert_eq!(
            row[..4],
            expected,
            "client {} in {}",
            self.number,
            place.key
        );
        let mut served = self.tally.served.lock().expect("no client failed");
        served
            .entry(row[4].clone().expect("a pid"))
            .or_default()
            .insert(n);
        Ok(())
    }

    /// `rows` of (org_id, body), all of this organization.
    #[track_caller]
    fn check(&self, n: usize, rows: &Rows) {
        let place = &self.town.places[n];
        let id = place.id.to_string();
        for row in rows {
            let body = row[1].as_deref().unwrap_or_default();
            assert!(
                row[0].as_deref() == Some(&id) && body.starts_with(&place.key),
                "client {} in {} was shown {row:?}",
                self.number,
                place.key
            );
        }
    }

    fn act(&mut self, n: usize) -> Result<(), Spoiled> {
        let place = &self.town.places[n];
        let number = self.number;
        let all = "SELECT org_id, body FROM public.notes";
        match self.random.next(12) {
            0 => {
                let rows = self.ask(all)?;
                assert!(rows.len() >= 3, "{rows:?}");
                self.check(n, &rows);
            }
            1 => {
                let rows = self.ask(&format!(
                    "PREPARE mine_{number} AS {all} WHERE writer >= $1; EXECUTE mine_{number}(0); DEALLOCATE mine_{number}"
                ))?;
                self.check(n, &rows);
            }
            // The plan of whoever prepared it first on this server connection.
            2 => {
                match self.attempt(&format!("PREPARE common AS {all}")) {
                    Err(code) if code == "42501" => return Err(Spoiled),
                    prepared => assert!(prepared.is_ok() || prepared == Err("42P05".into())),
                }
                let rows = self.ask("EXECUTE common")?;
                assert!(rows.len() >= 3, "{rows:?}");
                self.check(n, &rows);
            }
            3 => self.query_by_protocol(n)?,
            4 => {
                let rows = self.ask(&format!(
                    "DECLARE few CURSOR FOR {all}; FETCH 2 FROM few; FETCH ALL FROM few; CLOSE few"
                ))?;
                assert!(rows.len() >= 3, "{rows:?}");
                self.check(n, &rows);
            }
            5 => {
                if let Ok(rows) = self.attempt("FETCH ALL FROM held") {
                    self.check(n, &rows);
                }
                self.attempt(&format!("DECLARE held CURSOR WITH HOLD FOR {all}"))
                    .ok();
            }
            6 => {
                self.ask("SAVEPOINT s")?;
                assert!(self.send("SELECT 1 / 0").is_err());
                self.ask("ROLLBACK TO s")?;
                self.count(n)?;
            }
            7 => {
                self.count(n)?;
                self.cross_the_line(n);
            }
            _ => self.write(n, place)?,
        }
        Ok(())
    }

    fn query_by_protocol(&mut self, n: usize) -> Result<(), Spoiled> {
        let session = self.session.as_mut().expect("connected");
        let sql = "SELECT org_id::text, body FROM public.notes WHERE writer >= $1";
        let result = session
            .prepare(sql)
            .and_then(|statement| session.query(&statement, &[&0i32]));
        let rows: Rows = match result {
            Ok(rows) => rows.iter().map(|r| vec![r.get(0), r.get(1)]).collect(),
            Err(error) if code(&error) == "42501" => return Err(Spoiled),
            Err(error) => panic!("{sql}: {error:?}"),
        };
        assert!(rows.len() >= 3, "{rows:?}");
        self.check(n, &rows);
        Ok(())
    }

    fn write(&mut self, n: usize, place: &Place) -> Result<(), Spoiled> {
        let number = self.number;
        if self.written[n] + self.pending < 2 {
            self.ask(&format!(
                "INSERT INTO public.notes (writer, body) VALUES ({number}, '{} new')",
                place.key
            ))?;
            self.pending += 1;
        } else if self.random.percent(50) {
            self.ask(&format!(
                "UPDATE public.notes SET body = body || '.' WHERE writer = {number} AND length(body) < 20"
            ))?;
        } else {
            self.ask(&format!("DELETE FROM public.notes WHERE writer = {number}"))?;
            self.pending = -self.written[n];
        }
        Ok(())
    }

    /// What must not succeed, in an organization that one is in.
    fn cross_the_line(&mut self, n: usize) {
        let other = &self.town.places
            [(n + 1 + self.random.next(self.town.places.len() - 1)) % self.town.places.len()];
        let (id, note) = (other.id, other.note);
        let refused = |result: Result<Rows, String>, codes: &[&str]| match result {
            Err(code) if codes.contains(&code.as_str()) => {}
            other => panic!("{other:?} where {codes:?} was due"),
        };
        match self.random.next(4) {
            0 => refused(
                self.attempt(&format!(
                    "INSERT INTO public.notes (org_id, writer, body) VALUES ('{id}', 1, 'x')"
                )),
                &["42501"],
            ),
            1 => refused(
                self.attempt(&format!(
                    "INSERT INTO public.tags (note_id, tag) VALUES ('{note}', 'x')"
                )),
                &["23503", "42501"],
            ),
            // Pinned by the count before; whom the other does not know sees nothing there.
            2 => {
                let switch = format!(
                    "SAVEPOINT s; SET LOCAL app.current_org = '{id}'; SELECT count(*) FROM public.notes"
                );
                match self.send(&switch) {
                    Ok(rows) => assert_eq!(rows, [[Some("0".to_string())]]),
                    Err(error) => assert!(["25001", "42501"].contains(&code(&error)), "{error:?}"),
                }
                self.send("ROLLBACK TO s").expect("back to the savepoint");
            }
            _ => {
                let result = self.attempt(&format!(
                    "UPDATE public.notes SET body = 'x' WHERE org_id = '{id}' RETURNING 1"
                ));
                assert!(result.is_err() || result == Ok(vec![]), "{result:?}");
            }
        }
    }

    /// A transaction that says nothing of organization or user sees nothing, whoever used the connection before.
    fn forget(&mut self) -> Result<(), Spoiled> {
        self.tally.forgetful.fetch_add(1, Relaxed);
        let sees =
            "SELECT count(*) FROM public.notes UNION ALL SELECT count(tenancy.current_org())";
        let nothing = vec![vec![Some("0".to_string())]; 2];
        if self.random.percent(50) {
            // Without a transaction.
            assert_eq!(self.ask(sees)?, nothing);
            let error = self
                .send("UPDATE public.notes SET body = 'x'")
                .expect_err("no context");
            assert_eq!(code(&error), "42501");
            return Ok(());
        }
        self.ask("BEGIN")?;
        assert_eq!(self.ask(sees)?, nothing);
        for act in [
            "EXECUTE common",
            "FETCH ALL FROM held",
            "DO $$ DECLARE c refcursor := 'held'; n record; BEGIN FETCH c INTO n; IF n IS NOT NULL THEN RAISE 'read %', n; END IF; END $$",
        ] {
            match self.attempt(act) {
                Ok(rows) => assert_eq!(rows, Rows::new(), "{act}"),
                Err(code) => assert!(
                    ["26000", "34000", "42501"].contains(&code.as_str()),
                    "{act}: {code}"
                ),
            }
        }
        for act in [
            "INSERT INTO public.notes (writer, body) VALUES (1, 'x')",
            "UPDATE public.notes SET body = 'x'",
            "DELETE FROM public.notes",
        ] {
            assert_eq!(self.attempt(act), Err("42501".into()), "{act}");
        }
        self.ask("COMMIT").map(drop)
    }

    /// Leaves things behind on the server connection.
    fn misbehave(&mut self) -> Result<(), Spoiled> {
        self.tally.misdeeds.fetch_add(1, Relaxed);
        let town = self.town;
        let n = self.random.next(town.places.len());
        let place = &town.places[n];
        let (id, key, user) = (place.id, &place.key, &place.people[self.random.next(3)]);
        match self.random.next(11) {
            // A context for the session, with and without a transaction.
            0 => {
                self.ask(&format!("SET app.current_org = '{key}'"))?;
                self.ask(&format!("SET app.current_user_id = '{user}'"))?;
            }
            1 => drop(self.ask(&format!(
                "SELECT set_config('app.current_org', '{id}', false), set_config('app.current_user_id', '{user}', false)"
            ))?),
            2 => {
                self.ask(&format!(
                    "BEGIN; SET app.current_org = '{key}'; SET app.current_user_id = '{user}'"
                ))?;
                self.count(n)?;
                self.ask("COMMIT")?;
            }
            3 => {
                self.ask("BEGIN")?;
                self.ask(&format!("SELECT set_config('app.current_org', '{id}', false)"))?;
                assert!(self.send("SELECT 1 / 0").is_err());
                self.ask("COMMIT")?;
            }
            // Outside a transaction, where enter() would last for the session.
            4 => assert!(self.send(&format!("SELECT tenancy.enter('{id}', '{user}')")).is_err()),
            5 => {
                self.enter(place)?;
                self.attempt("CREATE TEMP TABLE notes AS SELECT * FROM public.notes").ok();
                self.attempt("DECLARE held CURSOR WITH HOLD FOR SELECT org_id, body FROM public.notes").ok();
                self.count(n)?;
                self.ask("COMMIT")?;
            }
            6 => drop(self.ask(&format!("SET ROLE {}", town.reader))?),
            7 => drop(self.ask("SET row_security = off")?),
            8 => drop(self.ask("SET search_path = pg_temp, public; SET plan_cache_mode = force_generic_plan")?),
            // Gone in mid-transaction, with a write, with an error.
            9 => {
                self.enter(place)?;
                self.write(n, place)?;
                self.count(n)?;
                if self.random.percent(50) {
                    assert!(self.send("SELECT 1 / 0").is_err());
                }
                self.pending = 0;
                self.session = None;
            }
            // A context by the start-up options, which the pooler leaves out.
            _ => {
                let mut config = self.pooler.config(&town.app, &town.db.name);
                config.options(&format!("-c app.current_org={key} -c app.current_user_id={user}"));
                self.session = Some(town.db.connect(&config));
                self.forget()?;
            }
        }
        Ok(())
    }
}
