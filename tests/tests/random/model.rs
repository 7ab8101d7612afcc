//! The reference: what PostgreSQL with the extension must answer, in plain Rust. Authority, the two settings with their
//! transactions and savepoints, the pin, and the rows; nothing of how the extension does it.

use std::collections::{BTreeMap, BTreeSet};

use pg_tenancy_tests::{Cell, matrix};

use crate::act::{Act, Claim, DBA, LOGINS, Look, ORGS, Table, What};

pub type Key = (Table, i32);
pub type Names = BTreeSet<String>;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Principal {
    Nobody,
    User(usize),
    Application { session_scope: bool },
    Dba,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Member {
    pub role: &'static str,
    pub expired: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub org: usize,
    pub name: String,
    pub server: Option<i32>,
}

/// A value of a setting, and the transaction that set it; 0 is none of them.
#[derive(Clone, Copy, Debug)]
pub struct Said {
    pub claim: Claim,
    pub tx: u64,
    /// Nobody said it.
    pub initial: bool,
}

pub const UNSAID: Said = Said {
    claim: Claim::Unset,
    tx: 0,
    initial: true,
};

/// A setting: as it is, and as it will be after COMMIT.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub now: Said,
    pub kept: Said,
}

/// What a savepoint brings back.
#[derive(Clone, Debug)]
pub struct State {
    pub org: Setting,
    pub user: Setting,
    pub pin: Option<(usize, Option<usize>)>,
    pub changes: BTreeMap<Key, Option<Row>>,
}

#[derive(Clone, Debug)]
pub struct Held {
    pub place: Option<(usize, Option<usize>)>,
    pub names: Names,
}

#[derive(Clone, Debug)]
pub struct Session {
    pub tx: u64,
    pub failed: bool,
    /// That it has failed.
    pub told: bool,
    pub state: State,
    /// As it was at BEGIN, and at each savepoint; empty outside a transaction.
    pub saved: Vec<State>,
    /// The transaction is one statement's own.
    pub alone: bool,
    /// The organization of the start-up options.
    pub from_start: Said,
    touched: BTreeSet<Key>,
    pub held: Option<Held>,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub owners: Vec<usize>,
    pub members: BTreeMap<(usize, usize), Member>,
    pub principals: Vec<Principal>,
    pub rows: BTreeMap<Key, Row>,
    pub sessions: Vec<Session>,
    cells: Vec<Cell>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It succeeds, whatever it returns.
    Done,
    Count(u64),
    Rows(Names),
    /// Some of these, or none.
    RowsOf(Names),
    Refused(&'static str),
}

pub type Answer = Result<Outcome, &'static str>;

/// Who a session is, and where with which role.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub user: Option<usize>,
    pub place: Option<(usize, &'static str)>,
}

pub const NO_RIGHT: &str = "42501";
pub const SECOND_ORG: &str = "25001";

impl Model {
    pub fn new() -> Model {
        let member = |org, user, role| {
            (
                (org, user),
                Member {
                    role,
                    expired: false,
                },
            )
        };
        let session = Session {
            tx: 1,
            failed: false,
            told: false,
            state: State {
                org: Setting {
                    now: UNSAID,
                    kept: UNSAID,
                },
                user: Setting {
                    now: UNSAID,
                    kept: UNSAID,
                },
                pin: None,
                changes: BTreeMap::new(),
            },
            saved: vec![],
            alone: false,
            from_start: UNSAID,
            touched: BTreeSet::new(),
            held: None,
        };
        let mut rows = BTreeMap::new();
        for (org, slug) in ORGS.iter().enumerate() {
            for i in 0..2 {
                let id = (org * 2 + i + 1) as i32;
                let row = |server| Row {
                    org,
                    name: format!("{slug}-0.{id}"),
                    server,
                };
                rows.insert((Table::Servers, id), row(None));
                rows.insert((Table::Sites, id), row(Some(id)));
            }
        }
        Model {
            owners: vec![0, 1, 2],
            members: [
                member(0, 3, "member"),
                member(1, 3, "viewer"),
                member(0, 4, "admin"),
                member(1, 4, "admin"),
                member(0, 2, "viewer"),
            ]
            .into(),
            principals: vec![
                Principal::Application {
                    session_scope: false,
                },
                Principal::Application {
                    session_scope: true,
                },
                Principal::User(0),
                Principal::User(3),
                Principal::User(4),
                Principal::Nobody,
                Principal::Dba,
            ],
            rows,
            sessions: vec![session; LOGINS.len()],
            cells: matrix(),
        }
    }

    pub fn is_open(&self, n: usize) -> bool {
        !self.sessions[n].saved.is_empty()
    }

    pub fn is_failed(&self, n: usize) -> bool {
        self.sessions[n].failed
    }

    pub fn depth(&self, n: usize) -> usize {
        self.sessions[n].saved.len().saturating_sub(1)
    }

    pub fn role_in(&self, org: usize, user: usize) -> Option<&'static str> {
        if self.owners[org] == user {
            return Some("owner");
        }
        self.members
            .get(&(org, user))
            .filter(|m| !m.expired)
            .map(|m| m.role)
    }

    pub fn may(&self, role: &str, action: &str) -> bool {
        role == "dba"
            || self
                .cells
                .iter()
                .any(|c| c.role == role && c.action == action && c.level == "allow")
    }

    /// Where a session may go, for one that only says which of those places it means.
    pub fn well(&self, n: usize, act: &Act) -> Act {
        let &Act::EnterWell { which, user } = act else {
            return act.clone();
        };
        let may = |org: usize, user: usize| self.role_in(org, user).is_some();
        let (orgs, user): (Vec<usize>, _) = match self.principals[n] {
            Principal::User(me) => ((0..ORGS.len()).filter(|org| may(*org, me)).collect(), None),
            _ => {
                let all = 0..ORGS.len();
                let theirs = all.filter(|org| user.is_none_or(|user| may(*org, user)));
                (theirs.collect(), user)
            }
        };
        let org = orgs.get(which % orgs.len().max(1)).copied();
        Act::Enter { org, user }
    }

    /// Whose claims count, and which.
    pub fn standing(&self, n: usize) -> Standing {
        let session = &self.sessions[n];
        let principal = self.principals[n];
        let scoped = principal
            == Principal::Application {
                session_scope: false,
            };
        let nobody = Standing {
            user: None,
            place: None,
        };
        // '' is unset, however old.
        let void = |said: Said| scoped && said.claim != Claim::Unset && said.tx != session.tx;
        let (org, said_user) = (session.state.org.now, session.state.user.now);
        let named = match said_user.claim {
            Claim::Known { number, .. } => Some(number),
            _ => None,
        };
        let user = match principal {
            Principal::Nobody => return nobody,
            Principal::User(me) => {
                if said_user.claim != Claim::Unset && named != Some(me) {
                    return nobody;
                }
                Some(me)
            }
            Principal::Application { .. } | Principal::Dba => {
                if void(said_user) || (said_user.claim != Claim::Unset && named.is_none()) {
                    return nobody;
                }
                named
            }
        };
        let place = match org.claim {
            Claim::Known { number, .. } if !void(org) => match (user, principal) {
                (Some(user), _) => self.role_in(number, user),
                (None, Principal::Dba) => Some("dba"),
                (None, _) => Some("member"),
            }
            .map(|role| (number, role)),
            _ => None,
        };
        Standing { user, place }
    }

    /// Whether asking for the current organization is an error in this transaction.
    pub fn is_held_to_another(&self, n: usize) -> bool {
        let now = self.standing(n);
        let pin = self.sessions[n].state.pin;
        now.place
            .is_some_and(|(org, _)| pin.is_some_and(|p| p != (org, now.user)))
    }

    /// Holds the transaction to what it is now.
    pub fn pin(&mut self, n: usize) -> Result<(), &'static str> {
        if self.is_held_to_another(n) {
            return Err(SECOND_ORG);
        }
        let now = self.standing(n);
        if let Some((org, _)) = now.place {
            self.sessions[n].state.pin.get_or_insert((org, now.user));
        }
        Ok(())
    }

    /// The rows as this session's statements find them, whoever they belong to.
    pub fn view(&self, n: usize) -> BTreeMap<Key, Row> {
        let mut view = self.rows.clone();
        for (key, row) in &self.sessions[n].state.changes {
            match row {
                Some(row) => view.insert(*key, row.clone()),
                None => view.remove(key),
            };
        }
        view
    }

    /// The ids that this session may see of a table.
    pub fn visible(&self, n: usize, table: Table) -> Vec<i32> {
        let place = self.standing(n).place;
        self.view(n)
            .iter()
            .filter(|((t, _), row)| *t == table && place.is_some_and(|(org, _)| org == row.org))
            .map(|((_, id), _)| *id)
            .collect()
    }

    /// Rows that an act may lock or write; too many rather than too few.
    fn touches(&self, n: usize, act: &Act) -> BTreeSet<Key> {
        let view = self.view(n);
        let reached = |table: Table, id: Option<i32>| {
            view.keys()
                .filter(|(t, i)| *t == table && id.is_none_or(|id| id == *i))
                .copied()
                .collect::<BTreeSet<Key>>()
        };
        match act {
            Act::Insert {
                table, id, server, ..
            } => {
                let parent = (*table == Table::Sites).then_some((Table::Servers, *server));
                [(*table, *id)].into_iter().chain(parent).collect()
            }
            Act::Upsert { id } => [(Table::Servers, *id)].into(),
            Act::Rename { table, id } => reached(*table, *id),
            Act::MoveOrg { table, id, .. } => reached(*table, Some(*id)),
            Act::MoveSite { id, server } => [(Table::Sites, *id), (Table::Servers, *server)].into(),
            Act::Delete { table, id } => {
                let mut all = reached(*table, *id);
                if *table == Table::Servers {
                    let parents: Vec<i32> = all.iter().map(|(_, id)| *id).collect();
                    let children = view
                        .iter()
                        .filter(|(_, row)| row.server.is_some_and(|s| parents.contains(&s)));
                    all.extend(children.map(|(key, _)| *key).collect::<Vec<_>>());
                }
                all
            }
            Act::Look(Look::Locking, table) => reached(*table, None),
            _ => BTreeSet::new(),
        }
    }

    /// Whether it makes sense here; what would wait for another session's transaction does not.
    pub fn applies(&self, n: usize, act: &Act) -> bool {
        let open = self.is_open(n);
        let touches = self.touches(n, act);
        let waits = self
            .sessions
            .iter()
            .enumerate()
            .any(|(other, s)| other != n && !s.touched.is_disjoint(&touches));
        match act {
            Act::Savepoint | Act::Look(Look::Cursor, _) if !open => false,
            Act::Release(i) | Act::RollbackTo(i) => *i < self.depth(n),
            // One statement finds that the transaction has failed; more of them find out nothing more.
            Act::Commit | Act::Rollback | Act::Reconnect(_) => true,
            _ if self.sessions[n].told
                && act.by_dba().is_none()
                && !matches!(act, Act::RollbackTo(_)) =>
            {
                false
            }
            // A superuser reads everything in this version.
            Act::Look(..) | Act::SayAndLook(..) | Act::Hold(_) | Act::FetchHeld { .. }
                if n == DBA =>
            {
                false
            }
            Act::Begin | Act::Hold(_) => !open,
            _ => !waits,
        }
    }

    /// What must come of an act, and the world after it if it succeeds.
    pub fn expect(&self, n: usize, act: &Act, fresh: usize) -> (Vec<Outcome>, Model) {
        let mut after = self.clone();
        if let Some(by_dba) = act.by_dba() {
            let outcome = after.govern(n, act, by_dba || self.is_open(n));
            return (vec![outcome.unwrap_or_else(Outcome::Refused)], after);
        }
        let touches = self.touches(n, act);
        let ends = matches!(
            act,
            Act::Commit | Act::Rollback | Act::Begin | Act::Reconnect(_)
        );
        if ends {
            after.end(n, act);
            return (vec![Outcome::Done], after);
        }
        if self.is_failed(n) && !matches!(act, Act::RollbackTo(_)) {
            return (vec![Outcome::Refused("25P02")], after);
        }
        let alone = !self.is_open(n);
        after.sessions[n].alone = alone;
        if alone {
            after.begin(n);
        }
        let outcomes = after.perform(n, act, fresh);
        if alone {
            after.commit(n);
        } else {
            after.sessions[n].touched.extend(touches);
        }
        (outcomes, after)
    }

    /// The act was refused.
    pub fn refused(&mut self, n: usize, act: &Act) {
        if act.by_dba().is_some() {
            return;
        }
        let touches = self.touches(n, act);
        let open = self.is_open(n);
        let session = &mut self.sessions[n];
        if open {
            session.told = session.failed;
            session.failed = true;
            session.touched.extend(touches);
        } else {
            session.tx += 1;
        }
    }

    /// Another statement of the test's own passed.
    pub fn asked(&mut self, n: usize) {
        if !self.is_open(n) {
            self.sessions[n].tx += 1;
        }
    }

    pub fn begin(&mut self, n: usize) {
        let session = &mut self.sessions[n];
        session.saved.push(session.state.clone());
    }

    fn commit(&mut self, n: usize) {
        let session = &mut self.sessions[n];
        for setting in [&mut session.state.org, &mut session.state.user] {
            setting.now = setting.kept;
        }
        session.state.pin = None;
        for (key, row) in std::mem::take(&mut session.state.changes) {
            match row {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
        let session = &mut self.sessions[n];
        session.saved.clear();
        session.touched.clear();
        session.tx += 1;
    }

    fn end(&mut self, n: usize, act: &Act) {
        let (open, failed) = (self.is_open(n), self.is_failed(n));
        let roll_back = |session: &mut Session| {
            if let Some(first) = session.saved.first() {
                session.state = first.clone();
            }
            session.saved.clear();
            session.touched.clear();
            session.failed = false;
            session.told = false;
            session.tx += 1;
        };
        match act {
            Act::Begin => self.begin(n),
            Act::Commit if open && !failed => self.commit(n),
            Act::Reconnect(claim) => {
                let session = &mut self.sessions[n];
                roll_back(session);
                session.from_start = Said {
                    claim: *claim,
                    tx: 0,
                    initial: false,
                };
                session.state.org = Setting {
                    now: session.from_start,
                    kept: session.from_start,
                };
                session.state.user = Setting {
                    now: UNSAID,
                    kept: UNSAID,
                };
                session.held = None;
            }
            _ => roll_back(&mut self.sessions[n]),
        }
    }

    pub fn setting(&mut self, n: usize, what: What) -> &mut Setting {
        let state = &mut self.sessions[n].state;
        match what {
            What::Org => &mut state.org,
            What::User => &mut state.user,
        }
    }

    pub fn say(&mut self, n: usize, what: What, said: Said, local: bool) {
        let setting = self.setting(n, what);
        setting.now = said;
        if !local {
            setting.kept = said;
        }
    }
}
