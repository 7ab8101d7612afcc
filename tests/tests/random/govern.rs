//! The reference model's answer to acts of government, and who a session is by them.

use crate::act::{Act, Claim, DBA, ORGS};
use crate::model::{Answer, Member, Model, NO_RIGHT, Outcome, Principal, Said};

const DUPLICATE: &str = "23505";
const OWNER_RULE: &str = "23514";
const INVALID: &str = "22023";

/// Who a session is, and where with which role.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub user: Option<usize>,
    pub place: Option<(usize, &'static str)>,
}

impl Model {
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
                if self.owners[org] == user || self.members.contains_key(&(org, user)) {
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
