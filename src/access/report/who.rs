//! Of whom the reports tell: members and service accounts, with what they have in the organization and, where a role in a
//! project makes a difference, in that project.

use super::super::matrix::Level;
use super::super::rights::Rights;
use super::super::rights_of;
use crate::context::authority::{self, Id};
use crate::context::projects::{Project, RUN_PROJECTS, Reach};
use crate::context::{self, Standing};
use crate::org::services::is_carried;
use crate::pg::query::{Arg, latest};
use std::collections::HashMap;
use std::rc::Rc;

/// A member or a service account, and what it may now.
pub struct Principal {
    /// A member's; a service account has none.
    pub user: Option<Id>,
    pub service: Option<Id>,
    /// Whose membership says what it is limited to: the member's own, or that of who answers for the account.
    pub answers: Option<Id>,
    pub email: Option<String>,
    pub name: Option<String>,
    pub role: String,
    pub own_role: bool,
    pub status: String,
    pub conditions: Option<String>,
    pub rights: Rc<Rights>,
    /// The projects in which it has a role, and its reach into them.
    pub places: Vec<Rc<Place>>,
}

/// A project as somebody has it.
pub struct Place {
    pub project: Project,
    pub role: Option<String>,
    reach: Rc<Reach>,
    counts: bool,
}

impl Place {
    /// What somebody has on an action here; `in_org`: what his role in the organization has.
    pub fn level(&self, action: &str, in_org: Level) -> Level {
        match self.counts {
            true => self.reach.level(&self.project, action, in_org),
            false => Level::Deny,
        }
    }
}

impl Principal {
    /// What the session acts as that is no user: a service, or the DBA.
    pub fn of_session(now: &Standing) -> Principal {
        Principal {
            user: None,
            service: now.service,
            answers: None,
            email: None,
            name: None,
            role: now.role.clone(),
            own_role: false,
            status: "active".into(),
            conditions: None,
            rights: now.rights().clone(),
            places: vec![],
        }
    }

    pub fn principal(&self) -> &'static str {
        match self.user {
            Some(_) => "user",
            None => "service account",
        }
    }

    pub fn kind(&self) -> &'static str {
        if self.own_role { "custom" } else { "system" }
    }

    pub fn counts(&self) -> bool {
        self.status == "active" || self.status == "scoped"
    }

    /// Its place in one project of the organization, whether it has a role there or not.
    pub fn place_in(&self, org: &Id, project: &Id) -> Option<Rc<Place>> {
        let reach = Rc::new(self.reach(org));
        self.place(&reach, project)
    }

    fn place(&self, reach: &Rc<Reach>, project: &Id) -> Option<Rc<Place>> {
        Some(Rc::new(Place {
            project: reach.get(project)?.clone(),
            role: reach.role(project).map(str::to_string),
            reach: reach.clone(),
            counts: self.counts(),
        }))
    }

    fn reach(&self, org: &Id) -> Reach {
        match &self.user {
            Some(user) => Reach::of_user(org, user),
            None => {
                let runs = authority::matrix().action(RUN_PROJECTS);
                let runs = runs.is_some_and(|action| {
                    self.status == "active" && self.rights.level(action) == Level::Allow
                });
                Reach::new(org, None, runs, self.role == "dba")
            }
        }
    }
}

/// Whether the caller sees a project: of a hidden one nothing is told.
pub struct Sight {
    reach: Option<Reach>,
}

impl Sight {
    /// The caller's in an organization.
    pub fn of_caller(org: &Id) -> Sight {
        let now = context::standing();
        let reach = match now.user {
            _ if context::is_administrator() => None,
            Some(user) => Some(Reach::of_user(org, &user)),
            None => {
                let runs = now.org_id() == Some(*org) && runs(&now);
                Some(Reach::new(org, None, runs, false))
            }
        };
        Sight { reach }
    }

    pub fn shows(&self, project: &Id) -> bool {
        self.reach
            .as_ref()
            .is_none_or(|reach| reach.seen(project).is_some())
    }
}

fn runs(now: &Standing) -> bool {
    let action = now.matrix.action(RUN_PROJECTS);
    action.is_some_and(|action| now.may(action))
}

/// Every member of an organization, or the one asked for, by address.
pub fn members(org: &Id, only: Option<&Id>) -> Vec<Principal> {
    let mut known: HashMap<String, Rc<Rights>> = HashMap::new();
    let mut members = latest(
        "SELECT m.user_id, u.email, u.name, m.role, m.custom_role IS NOT NULL, m.status, m.conditions
         FROM tenancy.member_states AS m JOIN tenancy.users AS u ON u.id OPERATOR(pg_catalog.=) m.user_id
         WHERE m.org_id OPERATOR(pg_catalog.=) $1 AND ($2 OR m.user_id OPERATOR(pg_catalog.=) $3)
         ORDER BY pg_catalog.lower(u.email)",
        &[
            Arg::Uuid(org),
            Arg::Flag(only.is_none()),
            Arg::Uuid(only.unwrap_or(org)),
        ],
        |row| Principal {
            user: row.uuid(1),
            service: None,
            answers: row.uuid(1),
            email: row.get(2),
            name: row.get(3),
            role: row.get::<String>(4).unwrap_or_default(),
            own_role: row.get::<bool>(5) == Some(true),
            status: row.get::<String>(6).unwrap_or_default(),
            conditions: row.get(7),
            rights: Rc::default(),
            places: vec![],
        },
    );
    let mut roles = project_roles(org, only);
    for member in &mut members {
        if !member.counts() {
            continue;
        }
        let rights = known.entry(member.role.clone());
        member.rights = rights
            .or_insert_with(|| rights_of(org, &member.role))
            .clone();
        let Some(mine) = member.user.and_then(|user| roles.remove(&user)) else {
            continue;
        };
        let reach = Rc::new(member.reach(org));
        member.places = mine
            .iter()
            .filter_map(|project| member.place(&reach, project))
            .collect();
        member
            .places
            .sort_by(|a, b| a.project.name.cmp(&b.project.name));
    }
    members
}

/// The projects in which members have a role, of those that the caller sees.
fn project_roles(org: &Id, only: Option<&Id>) -> HashMap<Id, Vec<Id>> {
    let rows = latest(
        "SELECT user_id, project_id FROM tenancy.project_members
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND ($2 OR user_id OPERATOR(pg_catalog.=) $3)",
        &[
            Arg::Uuid(org),
            Arg::Flag(only.is_none()),
            Arg::Uuid(only.unwrap_or(org)),
        ],
        |row| Some((row.uuid(1)?, row.uuid(2)?)),
    );
    let mut roles: HashMap<Id, Vec<Id>> = HashMap::new();
    if rows.is_empty() {
        return roles;
    }
    let sight = Sight::of_caller(org);
    for (user, project) in rows.into_iter().flatten() {
        if sight.shows(&project) {
            roles.entry(user).or_default().push(project);
        }
    }
    roles
}

/// Every service account of an organization, by name: its role's rights, as far as the member who answers for it has them.
pub fn services(org: &Id) -> Vec<Principal> {
    let rows = latest(
        "SELECT id, name, role, custom_role IS NOT NULL, sponsor_id, disabled_at IS NOT NULL
         FROM tenancy.service_accounts WHERE org_id OPERATOR(pg_catalog.=) $1 ORDER BY name, id",
        &[Arg::Uuid(org)],
        |row| {
            let account = Principal {
                user: None,
                service: row.uuid(1),
                answers: row.uuid(5),
                email: None,
                name: row.get(2),
                role: row.get::<String>(3).unwrap_or_default(),
                own_role: row.get::<bool>(4) == Some(true),
                status: "disabled".into(),
                conditions: None,
                rights: Rc::default(),
                places: vec![],
            };
            (account, row.get::<bool>(6) == Some(true))
        },
    );
    rows.into_iter()
        .map(|(mut account, disabled)| {
            if !disabled {
                (account.status, account.rights) =
                    carried(org, &account.role, account.answers.as_ref());
            }
            account
        })
        .collect()
}

/// The state of an account that is not disabled, and its rights.
fn carried(org: &Id, role: &str, sponsor: Option<&Id>) -> (String, Rc<Rights>) {
    let membership = sponsor.and_then(|user| authority::membership(org, user));
    match membership.filter(|_| is_carried(org, sponsor, role)) {
        Some(sponsor) => {
            let held = rights_of(org, &sponsor.role);
            let rights = Rc::new(rights_of(org, role).in_common(&held));
            let status = match sponsor.scopes {
                Some(_) => "scoped",
                None => "active",
            };
            (status.into(), rights)
        }
        None => ("stopped".into(), Rc::default()),
    }
}
