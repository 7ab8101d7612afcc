//! The reference model's answer to each statement, in a transaction that is open or its own.

use crate::act::{Act, Claim, DBA, How, Look, ORGS, Table, Unset, What};
use crate::model::{
    Answer, Held, Key, Member, Model, NO_RIGHT, Names, Outcome, Principal, Row, SECOND_ORG, Said,
    UNSAID,
};

const NO_PARENT: &str = "23503";
const DUPLICATE: &str = "23505";
const OWNER_RULE: &str = "23514";
const INVALID: &str = "22023";

struct Actions {
    insert: &'static str,
    update: &'static str,
    delete: &'static str,
}

fn actions(table: Table) -> Actions {
    let (insert, update, delete) = match table {
        Table::Servers => ("server:create", "server:update", "server:delete"),
        Table::Sites => ("site:deploy", "site:manage", "site:delete"),
    };
    Actions {
        insert,
        update,
        delete,
    }
}

impl Model {
    pub fn perform(&mut self, n: usize, act: &Act, fresh: usize) -> Vec<Outcome> {
        let answer = match act {
            Act::FetchHeld { .. } => return self.fetch_held(n),
            Act::Savepoint | Act::Release(_) | Act::RollbackTo(_) => self.savepoints(n, act),
            Act::Error => Err("22012"),
            Act::Say(..) | Act::Unsay(..) => self.settings(n, act),
            Act::Enter { org, user } => self.enter(n, *org, *user),
            Act::SayAndLook(claim, table) => {
                self.say(n, What::Org, self.said(n, *claim), false);
                self.look(n, *table)
            }
            Act::Look(how, table) => self.look_by(n, *how, *table),
            Act::Hold(table) => self.hold(n, *table),
            _ => self.write(n, act, fresh),
        };
        // A statement that reads finds out about the second organization while it is planned, or the right is asked first:
        // which of two refusals comes first is nobody's concern.
        let reads = matches!(
            act,
            Act::Rename { .. }
                | Act::Delete { .. }
                | Act::MoveOrg { .. }
                | Act::MoveSite { .. }
                | Act::Look(..)
        );
        let mut outcomes = vec![answer.clone().unwrap_or_else(Outcome::Refused)];
        if reads
            && (answer == Err(SECOND_ORG) || answer == Err(NO_RIGHT) && self.is_held_to_another(n))
        {
            outcomes = [SECOND_ORG, NO_RIGHT].map(Outcome::Refused).into();
        }
        // A superuser's statement reaches rows that a policy would hide, unless they are hidden from him too.
        if n == DBA && answer == Err(NO_RIGHT) {
            outcomes.extend([Outcome::Count(0), Outcome::Refused(DUPLICATE)]);
        }
        outcomes
    }

    fn savepoints(&mut self, n: usize, act: &Act) -> Answer {
        if let Act::Savepoint = act {
            self.begin(n);
        }
        let session = &mut self.sessions[n];
        match act {
            Act::Release(i) => session.saved.truncate(i + 1),
            Act::RollbackTo(i) => {
                session.saved.truncate(i + 2);
                session.state = session.saved[i + 1].clone();
                session.failed = false;
                session.told = false;
            }
            _ => {}
        }
        Ok(Outcome::Done)
    }

    fn said(&self, n: usize, claim: Claim) -> Said {
        Said {
            claim,
            tx: self.sessions[n].tx,
            initial: false,
        }
    }

    fn settings(&mut self, n: usize, act: &Act) -> Answer {
        let from_start = self.sessions[n].from_start;
        match act {
            Act::Say(How::InDoUndone, ..) => {}
            Act::Say(how, what, claim) => {
                let local = matches!(how, How::SetLocal | How::SetConfigLocal);
                self.say(n, *what, self.said(n, *claim), local);
            }
            Act::Unsay(Unset::All, _) => {
                // PostgreSQL passes over what is at its initial value, even if it is so for this transaction only.
                for (what, initial) in [(What::Org, from_start), (What::User, UNSAID)] {
                    if !self.setting(n, what).now.initial {
                        self.say(n, what, initial, false);
                    }
                }
            }
            Act::Unsay(Unset::Leave, _) => {
                let local = !self.sessions[n].alone;
                for what in [What::Org, What::User] {
                    self.say(n, what, self.said(n, Claim::Unset), local);
                }
            }
            Act::Unsay(how, what) => {
                let local = matches!(how, Unset::SetLocalDefault | Unset::SetConfigNullLocal);
                let initial = if *what == What::Org {
                    from_start
                } else {
                    UNSAID
                };
                self.say(n, *what, initial, local);
            }
            _ => unreachable!("no setting"),
        }
        Ok(Outcome::Done)
    }

    fn enter(&mut self, n: usize, org: Option<usize>, user: Option<usize>) -> Answer {
        let scoped = self.principals[n]
            == Principal::Application {
                session_scope: false,
            };
        let (alone, tx) = (self.sessions[n].alone, self.sessions[n].tx);
        if alone && scoped {
            return Err("25P01");
        }
        let known = |number| Claim::Known {
            number,
            by_key: false,
        };
        if let Some(user) = user {
            self.say(n, What::User, self.said(n, known(user)), !alone);
        } else if scoped && self.sessions[n].state.user.now.tx != tx {
            self.say(n, What::User, self.said(n, Claim::Unset), !alone);
        }
        let claim = org.map_or(Claim::Unknown { uuid: true }, known);
        self.say(n, What::Org, self.said(n, claim), !alone);
        if self.standing(n).place.is_none() {
            return Err(NO_RIGHT);
        }
        if self.is_held_to_another(n) {
            return Err(SECOND_ORG);
        }
        Ok(Outcome::Done)
    }

    /// The names of the rows that are seen. Every role may read.
    fn look(&mut self, n: usize, table: Table) -> Answer {
        self.pin(n)?;
        let view = self.view(n);
        let names: Names = self
            .visible(n, table)
            .iter()
            .map(|id| view[&(table, *id)].name.clone())
            .collect();
        Ok(Outcome::Rows(names))
    }

    fn look_by(&mut self, n: usize, how: Look, table: Table) -> Answer {
        match how {
            Look::Function(org) => {
                let before = self.sessions[n].state.org;
                let claim = Claim::Known {
                    number: org,
                    by_key: true,
                };
                self.say(n, What::Org, self.said(n, claim), true);
                let seen = self.look(n, table);
                self.sessions[n].state.org = before;
                seen
            }
            Look::Locking => {
                let seen = self.look(n, table)?;
                match self.standing(n).place {
                    Some((_, role)) if !self.may(role, actions(table).update) => Err(NO_RIGHT),
                    _ => Ok(seen),
                }
            }
            // Fetched from twice: in a transaction that worked for an organization, none in effect is one that was left.
            Look::Cursor
                if self.standing(n).place.is_none() && self.sessions[n].state.pin.is_some() =>
            {
                Err(NO_RIGHT)
            }
            _ => self.look(n, table),
        }
    }

    fn hold(&mut self, n: usize, table: Table) -> Answer {
        let Outcome::Rows(names) = self.look(n, table)? else {
            unreachable!("a look answers with rows")
        };
        let now = self.standing(n);
        let place = now.place.map(|(org, _)| (org, now.user));
        self.sessions[n].held = Some(Held { place, names });
        Ok(Outcome::Done)
    }

    /// Whether the cursor is still open is not told, nor how far it was read; only whose rows it may give.
    fn fetch_held(&self, n: usize) -> Vec<Outcome> {
        let gone = ["34000", "42501", "55000"].map(Outcome::Refused);
        let now = self.standing(n);
        match &self.sessions[n].held {
            None => gone[..1].into(),
            Some(held) if held.place.is_none() => vec![Outcome::Rows(Names::new())],
            Some(held) if held.place == now.place.map(|(org, _)| (org, now.user)) => {
                let rows = Outcome::RowsOf(held.names.clone());
                gone.into_iter().chain([rows]).collect()
            }
            Some(_) => gone.into(),
        }
    }

    /// The organization that may be written to: in effect, with the right, and the transaction's own.
    fn require(&mut self, n: usize, rights: &[&str]) -> Result<usize, &'static str> {
        let (org, role) = self.standing(n).place.ok_or(NO_RIGHT)?;
        if !rights.iter().all(|right| self.may(role, right)) {
            return Err(NO_RIGHT);
        }
        self.pin(n)?;
        Ok(org)
    }

    fn change(&mut self, n: usize, key: Key, row: Option<Row>) {
        self.sessions[n].state.changes.insert(key, row);
    }

    /// Which of a table's rows a statement reaches; the DBA's passes the policies, and is refused another's row.
    fn reach(
        &self,
        n: usize,
        table: Table,
        id: Option<i32>,
        org: usize,
    ) -> Result<Vec<i32>, &'static str> {
        let all = self.view(n);
        let mut reached = all
            .iter()
            .filter(|((t, i), _)| *t == table && id.is_none_or(|id| id == *i));
        if n == DBA && reached.clone().any(|(_, row)| row.org != org) {
            return Err(NO_RIGHT);
        }
        Ok(reached
            .by_ref()
            .filter(|(_, row)| row.org == org)
            .map(|((_, id), _)| *id)
            .collect())
    }

    fn write(&mut self, n: usize, act: &Act, fresh: usize) -> Answer {
        let count = |ids: &[i32]| Ok(Outcome::Count(ids.len() as u64));
        match act {
            Act::Insert {
                table,
                id,
                org,
                server,
                on_conflict_nothing,
            } => {
                let own = self.require(n, &[actions(*table).insert])?;
                let view = self.view(n);
                let org = org.unwrap_or(own);
                let taken = view.contains_key(&(*table, *id));
                if org != own && !(taken && n == DBA) {
                    return Err(NO_RIGHT);
                }
                if taken {
                    return if *on_conflict_nothing {
                        count(&[])
                    } else {
                        Err(DUPLICATE)
                    };
                }
                let server = (*table == Table::Sites).then_some(*server);
                self.check_parent(&view, own, server)?;
                let name = format!("{}-{fresh}", ORGS[own]);
                self.change(n, (*table, *id), Some(Row { org, name, server }));
                count(&[*id])
            }
            Act::Upsert { id } => {
                let rights = actions(Table::Servers);
                let own = self.require(n, &[rights.insert, rights.update])?;
                let key = (Table::Servers, *id);
                if self.view(n).get(&key).is_some_and(|row| row.org != own) {
                    return Err(NO_RIGHT);
                }
                let name = format!("{}-{fresh}", ORGS[own]);
                self.change(
                    n,
                    key,
                    Some(Row {
                        org: own,
                        name,
                        server: None,
                    }),
                );
                count(&[*id])
            }
            Act::Rename { table, id } => {
                let own = self.require(n, &[actions(*table).update])?;
                let ids = self.reach(n, *table, *id, own)?;
                let view = self.view(n);
                for id in &ids {
                    let name = format!("{}-{fresh}.{id}", ORGS[own]);
                    let row = Row {
                        name,
                        ..view[&(*table, *id)].clone()
                    };
                    self.change(n, (*table, *id), Some(row));
                }
                count(&ids)
            }
            Act::MoveOrg { table, id, org } => {
                let own = self.require(n, &[actions(*table).update])?;
                let ids = self.reach(n, *table, Some(*id), own)?;
                if !ids.is_empty() && *org != own {
                    Err(NO_RIGHT)
                } else {
                    count(&ids)
                }
            }
            Act::MoveSite { id, server } => {
                let own = self.require(n, &[actions(Table::Sites).update])?;
                let ids = self.reach(n, Table::Sites, Some(*id), own)?;
                let view = self.view(n);
                for id in &ids {
                    self.check_parent(&view, own, Some(*server))?;
                    let row = Row {
                        server: Some(*server),
                        ..view[&(Table::Sites, *id)].clone()
                    };
                    self.change(n, (Table::Sites, *id), Some(row));
                }
                count(&ids)
            }
            Act::Delete { table, id } => {
                let own = self.require(n, &[actions(*table).delete])?;
                let ids = self.reach(n, *table, *id, own)?;
                let view = self.view(n);
                for id in &ids {
                    self.change(n, (*table, *id), None);
                    let children = view
                        .iter()
                        .filter(|(_, row)| *table == Table::Servers && row.server == Some(*id));
                    children.for_each(|(key, _)| self.change(n, *key, None));
                }
                count(&ids)
            }
            _ => unreachable!("no write: {act:?}"),
        }
    }

    fn check_parent(
        &self,
        view: &std::collections::BTreeMap<Key, Row>,
        own: usize,
        server: Option<i32>,
    ) -> Result<(), &'static str> {
        let Some(server) = server else { return Ok(()) };
        match view.get(&(Table::Servers, server)) {
            Some(row) if row.org == own => Ok(()),
            _ => Err(NO_PARENT),
        }
    }

    /// An act on members, owners or logins, by the session or by the DBA beside it.
    pub fn govern(&mut self, n: usize, act: &Act, by_dba: bool) -> Answer {
        let dba = by_dba || n == DBA && self.principals[n] == Principal::Dba;
        let caller = self.standing(n).user;
        let may = |model: &Model, org: usize, right: &str| {
            let role = caller.and_then(|user| model.role_in(org, user));
            if dba || role.is_some_and(|role| model.may(role, right)) {
                Ok(())
            } else {
                Err(NO_RIGHT)
            }
        };
        let assignable = |role: &str| {
            if role == "owner" {
                Err(OWNER_RULE)
            } else {
                Ok(())
            }
        };
        match *act {
            Act::Add {
                org, user, role, ..
            } => {
                may(self, org, "team:invite")?;
                assignable(role)?;
                if self.owners[org] == user {
                    return Err(OWNER_RULE);
                }
                if self.members.contains_key(&(org, user)) {
                    return Err(DUPLICATE);
                }
                self.members.insert(
                    (org, user),
                    Member {
                        role,
                        expired: false,
                    },
                );
            }
            Act::SetRole {
                org, user, role, ..
            } => {
                may(self, org, "team:role")?;
                assignable(role)?;
                if self.owners[org] == user {
                    return Err(OWNER_RULE);
                }
                self.members.get_mut(&(org, user)).ok_or("P0002")?.role = role;
            }
            Act::Remove { org, user, .. } => {
                let leaves = !by_dba && caller == Some(user) && self.role_in(org, user).is_some();
                if !leaves {
                    may(self, org, "team:remove")?;
                }
                if self.owners[org] == user {
                    return Err(OWNER_RULE);
                }
                self.members.remove(&(org, user)).ok_or("P0002")?;
            }
            Act::Transfer { org, user, .. } => {
                if !dba && caller != Some(self.owners[org]) {
                    return Err(NO_RIGHT);
                }
                let old = self.owners[org];
                if old == user || self.members.get(&(org, user)).is_none_or(|m| m.expired) {
                    return Err(INVALID);
                }
                self.owners[org] = user;
                self.members.remove(&(org, user));
                self.members.insert(
                    (org, old),
                    Member {
                        role: "admin",
                        expired: false,
                    },
                );
            }
            Act::Expire { org, user, expired } => {
                if self.owners[org] == user {
                    return if expired {
                        Err(OWNER_RULE)
                    } else {
                        Ok(Outcome::Count(1))
                    };
                }
                let member = self.members.get_mut(&(org, user));
                let found = member.map(|member| member.expired = expired);
                return Ok(Outcome::Count(found.is_some().into()));
            }
            Act::Bind { login, user } => self.principals[login] = Principal::User(user),
            Act::Trust {
                login,
                session_scope,
            } => {
                self.principals[login] = Principal::Application { session_scope };
            }
            Act::Forget { login } => self.principals[login] = Principal::Nobody,
            _ => unreachable!("no act of government: {act:?}"),
        }
        Ok(Outcome::Done)
    }
}
