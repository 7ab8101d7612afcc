//! The counters behind quotas: changing one, looking at one, and counting anew what one has lost.

use super::measure::Sized;
use super::quota::Quota;
use super::tally::{Outcome, SIZE, Tally};
use crate::context::authority::{self, Id};
use crate::pg::counter::{self, Me};
use crate::pg::key::{KeyType, Keys};
use crate::pg::query::{Arg, Row, committed, latest, latest_of};
use crate::pg::{self, catalog, fail, transaction};
use pgrx::prelude::*;

/// What is counted in millionths, rounded up: a metric's quantity need not be whole.
pub const MILLION: i64 = 1_000_000;

/// What a counter counts.
pub enum Of {
    Table(pg_sys::Oid),
    /// A metric between two times.
    Metric(String, i64, i64),
}

pub struct Counter {
    pub key: Id,
    quota: Id,
    org: Id,
    of: Of,
}

/// What a query needs to count: its text, and who owns the organization's keys.
enum Question {
    Rows(String, &'static Keys, KeyType),
    Usage,
    Nothing,
}

impl Counter {
    pub fn of_table(org: &Id, quota: &Quota) -> Counter {
        Counter {
            key: quota.id,
            quota: quota.id,
            org: *org,
            of: Of::Table(quota.table),
        }
    }

    /// A metric's, which has one for each period that began at `since`.
    pub fn of_metric(org: &Id, quota: &Id, metric: &str, since: i64, until: i64) -> Counter {
        let mut key = *quota;
        if since != i64::MIN {
            for (byte, mixed) in key[8..].iter_mut().zip(since.to_be_bytes()) {
                *byte ^= mixed;
            }
        }
        Counter {
            key,
            quota: *quota,
            org: *org,
            of: Of::Metric(metric.into(), since, until),
        }
    }

    fn question(&self) -> pg::Result<Question> {
        let Of::Table(relid) = self.of else {
            return Ok(Question::Usage);
        };
        let Some(org) = authority::org_by_id(&self.org) else {
            return Ok(Question::Nothing);
        };
        let table = Sized::of(relid).ok_or_else(|| not_protected(relid))?;
        if !org.keys().has(table.kind) {
            return Ok(Question::Nothing);
        }
        let sql = format!(
            "SELECT pg_catalog.count(*) FROM {} AS t WHERE {}",
            table.name,
            table.of_org()
        );
        Ok(Question::Rows(sql, org.keys(), table.kind))
    }

    /// Asks how much there is; `ask` runs the query.
    fn ask<T>(&self, ask: impl FnOnce(&str, &[Arg]) -> Vec<T>) -> pg::Result<Option<T>> {
        let answer = match (self.question()?, &self.of) {
            (Question::Rows(sql, keys, kind), _) => ask(&sql, &[Arg::Key(keys, kind)]),
            (Question::Usage, Of::Metric(metric, since, until)) => ask(
                "SELECT COALESCE(pg_catalog.sum(pg_catalog.ceil(quantity OPERATOR(pg_catalog.*) 1000000)), 0)::pg_catalog.int8
                 FROM tenancy.usage_records
                 WHERE org_id OPERATOR(pg_catalog.=) $1 AND metric OPERATOR(pg_catalog.=) $2
                   AND at OPERATOR(pg_catalog.>=) $3 AND at OPERATOR(pg_catalog.<) $4",
                &[
                    Arg::Uuid(&self.org),
                    Arg::Text(metric),
                    Arg::Timestamp(Some(*since)),
                    Arg::Timestamp(Some(*until)),
                ],
            ),
            _ => ask("SELECT 0::pg_catalog.int8", &[]),
        };
        Ok(answer.into_iter().next())
    }

    /// How much there is now, this transaction's own included.
    pub fn count(&self) -> pg::Result<i64> {
        Ok(self
            .ask(|sql, args| latest_of(sql, args, number))?
            .unwrap_or(0))
    }

    /// Begins a counter that nobody else knows yet, with what is there.
    pub fn begin(&self, there: i64) {
        let mut bytes = vec![0; SIZE];
        let tally = Tally {
            settled: there,
            entries: vec![],
        };
        tally.write(&mut bytes);
        counter::create(&self.key, &self.quota, &bytes);
    }

    /// How much there is for this transaction, and what others hold uncommitted beside it.
    pub fn look(&self) -> pg::Result<(i64, i64)> {
        let known = match transaction::on_standby() {
            true => None,
            false => {
                let me = Me::looking();
                counter::with(&self.key, SIZE, |bytes| Tally::read(bytes).look(&me)).flatten()
            }
        };
        match known {
            Some(known) => Ok(known),
            None => Ok((self.count()?, 0)),
        }
    }

    /// Counts what is committed and puts it in place of what was settled. `force`: also where nothing is lost.
    pub fn count_anew(&self, force: bool) -> pg::Result<()> {
        counter::alone(&self.key, || {
            let me = Me::writing();
            let known = || counter::with(&self.key, SIZE, |b| Tally::read(b).look(&me)).flatten();
            if !force && known().is_some() {
                return Ok(());
            }
            self.require_nothing_prepared()?;
            // Whoever commits after this snapshot was taken has to come by the counter first, and waits there.
            self.ask(|sql, args| {
                committed(sql, args, |row, runs| {
                    let there = number(row);
                    let put = counter::with(&self.key, SIZE, |bytes| {
                        let mut tally = Tally::read(bytes);
                        tally.recount(there, &me, |xid| !runs(xid));
                        tally.write(bytes);
                    });
                    if put.is_none() {
                        self.begin(there);
                    }
                })
            })
            .map(|_| ())
        })
    }

    /// A prepared transaction survives what a counter does not: what it wrote cannot be told from here.
    fn require_nothing_prepared(&self) -> pg::Result<()> {
        let table = match self.of {
            Of::Table(relid) => relid,
            Of::Metric(..) => catalog::relation_in(catalog::house().schema, c"usage_records")
                .unwrap_or(pg_sys::InvalidOid),
        };
        let prepared = latest(
            "WITH RECURSIVE members AS (
                 SELECT $1::pg_catalog.oid AS id
                 UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i
                       JOIN members AS m ON i.inhparent OPERATOR(pg_catalog.=) m.id)
             SELECT 1 FROM pg_catalog.pg_locks AS l JOIN members AS m ON m.id OPERATOR(pg_catalog.=) l.relation
             WHERE l.pid IS NULL AND l.granted
               AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database AS d
                                                       WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
               AND l.mode OPERATOR(pg_catalog.<>) ALL (ARRAY['AccessShareLock', 'RowShareLock']) LIMIT 1",
            &[Arg::Oid(table)],
            |_| (),
        );
        if prepared.is_empty() {
            return Ok(());
        }
        Err(fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "a quota cannot be counted while a prepared transaction is open",
        )
        .set_detail("The server was restarted, and a transaction that was prepared before may have written what the quota counts.")
        .set_hint("COMMIT PREPARED or ROLLBACK PREPARED it: SELECT gid FROM pg_prepared_xacts."))
    }
}

fn number(row: &Row) -> i64 {
    row.get::<i64>(1).unwrap_or(0)
}

pub fn not_protected(relid: pg_sys::Oid) -> pgrx::pg_sys::panic::ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!(
            "table \"{}\" is not protected",
            catalog::relation_name(relid)
        ),
    )
    .set_detail("Only rows of protected tables are an organization's, and counted.")
    .set_hint("tenancy.protect() first.")
}

/// Puts a change of this transaction's into a counter. Where there would be more than `most`: what is there, and what
/// others hold, and nothing is changed.
pub fn change(counter: &Counter, by: i64, most: Option<i64>) -> pg::Result<Option<(i64, i64)>> {
    let me = Me::writing();
    loop {
        let outcome = counter::with(&counter.key, SIZE, |bytes| {
            let mut tally = Tally::read(bytes);
            let outcome = tally.change(by, most, &me);
            if outcome != Outcome::Lost {
                tally.write(bytes);
            }
            outcome
        });
        match outcome {
            Some(Outcome::Done) => return Ok(None),
            Some(Outcome::Over { used, held }) => return Ok(Some((used, held))),
            None | Some(Outcome::Lost) => counter.count_anew(false)?,
            Some(Outcome::Crowded(Some(other))) => counter::wait_for(other),
            Some(Outcome::Crowded(None)) => {
                return Err(fail(
                    PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                    "too many open savepoints write to one table with a quota",
                )
                .set_detail(format!(
                    "A counter keeps {} of them apart.",
                    super::tally::ENTRIES
                ))
                .set_hint("Release savepoints that are not needed."));
            }
        }
    }
}
