//! Projects and clusters (spec 9): which of an organization's projects somebody sees, what he may do in each, and to which
//! one the session narrows itself. Pure answers from what the tables say, remembered until they change.

use super::authority::{self, Id};
use super::entitle::honoured;
use super::principal::Principal;
use super::settings::Setting;
use super::standing::{Reason, Standing};
use crate::access;
use crate::access::matrix::Level;
use crate::pg::query::{Arg, latest};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Whoever holds this runs the organization's projects: sees all, makes and deletes them.
pub const RUN_PROJECTS: &str = "org:update";

#[derive(Clone, Debug, PartialEq)]
pub struct Project {
    pub id: Id,
    pub name: String,
    /// Only its own members get in; else every member of the organization by his role there.
    pub restricted: bool,
    /// Its tag, which rows may inherit (spec 7).
    pub environment: Option<Rc<str>>,
}

/// An organization's projects, by id.
#[derive(Debug, Default)]
pub struct Projects {
    all: Vec<Project>,
    /// Owner and admins get into restricted projects as anybody else does.
    strict: bool,
}

impl Projects {
    pub fn new(mut all: Vec<Project>, strict: bool) -> Projects {
        all.sort_by_key(|p| p.id);
        Projects { all, strict }
    }

    pub fn get(&self, id: &Id) -> Option<&Project> {
        let found = self.all.binary_search_by(|p| p.id.cmp(id)).ok()?;
        self.all.get(found)
    }

    fn named(&self, name: &str) -> Option<&Project> {
        self.all.iter().find(|p| p.name == name)
    }
}

/// What each project role adds.
pub type ProjectMatrix = HashMap<String, HashSet<String>>;

/// A user's roles in an organization's projects.
pub type ProjectRoles = HashMap<Id, String>;

#[derive(Default)]
pub(super) struct Memory {
    projects: HashMap<Id, Rc<Projects>>,
    roles: HashMap<(Id, Id), Rc<ProjectRoles>>,
    matrix: Option<Rc<ProjectMatrix>>,
    clusters: HashMap<(Id, String), Option<(Id, Id)>>,
    /// The tags of an organization's clusters that have one of their own.
    cluster_tags: HashMap<Id, Rc<HashMap<Id, Rc<str>>>>,
}

impl Memory {
    pub(super) fn len(&self) -> usize {
        self.projects.len() + self.roles.len() + self.clusters.len() + self.cluster_tags.len()
    }
}

pub fn projects(org: &Id) -> Rc<Projects> {
    authority::remembered(
        |m| m.projects.projects.get(org).cloned(),
        || {
            let all = latest(
                "SELECT id, name, access OPERATOR(pg_catalog.=) 'restricted', environment FROM tenancy.projects
                 WHERE org_id OPERATOR(pg_catalog.=) $1",
                &[Arg::Uuid(org)],
                |row| Project {
                    id: row.uuid(1).unwrap_or_default(),
                    name: row.get::<String>(2).unwrap_or_default(),
                    restricted: row.get::<bool>(3).unwrap_or(true),
                    environment: row.get::<String>(4).map(Rc::from),
                },
            );
            let strict = latest(
                "SELECT strict_access FROM tenancy.project_settings WHERE org_id OPERATOR(pg_catalog.=) $1",
                &[Arg::Uuid(org)],
                |row| row.get::<bool>(1),
            );
            Rc::new(Projects::new(all, strict.contains(&Some(true))))
        },
        |m, answer| {
            m.projects.projects.insert(*org, answer);
        },
    )
}

pub fn project_roles(org: &Id, user: &Id) -> Rc<ProjectRoles> {
    authority::remembered(
        |m| m.projects.roles.get(&(*org, *user)).cloned(),
        || {
            let roles = latest(
                "SELECT project_id, role FROM tenancy.project_members
                 WHERE org_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $2",
                &[Arg::Uuid(org), Arg::Uuid(user)],
                |row| Some((row.uuid(1)?, row.get::<String>(2)?)),
            );
            Rc::new(roles.into_iter().flatten().collect())
        },
        |m, answer| {
            m.projects.roles.insert((*org, *user), answer);
        },
    )
}

pub fn project_matrix() -> Rc<ProjectMatrix> {
    authority::remembered(
        |m| m.projects.matrix.clone(),
        || {
            let mut matrix = ProjectMatrix::new();
            let cells = latest(
                "SELECT role, action FROM tenancy.project_role_permissions",
                &[],
                |row| Some((row.get::<String>(1)?, row.get::<String>(2)?)),
            );
            for (role, action) in cells.into_iter().flatten() {
                matrix.entry(role).or_default().insert(action);
            }
            Rc::new(matrix)
        },
        |m, answer| m.projects.matrix = Some(answer),
    )
}

/// The cluster of the organization that a claim names, by its uuid or, inside a project, by its name; with its project.
fn cluster(org: &Id, project: Option<&Id>, claim: &str) -> Option<(Id, Id)> {
    let by_id = uuid::Uuid::parse_str(claim).ok().map(|u| *u.as_bytes());
    let named = project.is_some() && by_id.is_none();
    let key = (*project.filter(|_| named).unwrap_or(org), claim.to_string());
    authority::remembered(
        |m| m.projects.clusters.get(&key).copied(),
        || {
            let pair = |row: &crate::pg::query::Row| Some((row.uuid(1)?, row.uuid(2)?));
            match (by_id, project) {
                (Some(id), _) => latest(
                    "SELECT id, project_id FROM tenancy.clusters
                     WHERE org_id OPERATOR(pg_catalog.=) $1 AND id OPERATOR(pg_catalog.=) $2",
                    &[Arg::Uuid(org), Arg::Uuid(&id)],
                    pair,
                ),
                (None, Some(project)) => latest(
                    "SELECT id, project_id FROM tenancy.clusters
                     WHERE org_id OPERATOR(pg_catalog.=) $1 AND project_id OPERATOR(pg_catalog.=) $2
                       AND name OPERATOR(pg_catalog.=) $3",
                    &[Arg::Uuid(org), Arg::Uuid(project), Arg::Text(claim)],
                    pair,
                ),
                (None, None) => vec![],
            }
            .pop()
            .flatten()
        },
        |m, answer| {
            m.projects.clusters.insert(key.clone(), answer);
        },
    )
    .filter(|(_, of)| project.is_none_or(|project| project == of))
}

/// The project of a cluster of the organization.
pub fn project_of_cluster(org: &Id, id: &Id) -> Option<Id> {
    let claim = authority::id_text(id);
    cluster(org, None, &claim).map(|(_, project)| project)
}

fn cluster_tags(org: &Id) -> Rc<HashMap<Id, Rc<str>>> {
    authority::remembered(
        |m| m.projects.cluster_tags.get(org).cloned(),
        || {
            let tags = latest(
                "SELECT id, environment FROM tenancy.clusters
                 WHERE org_id OPERATOR(pg_catalog.=) $1 AND environment IS NOT NULL",
                &[Arg::Uuid(org)],
                |row| Some((row.uuid(1)?, row.get::<String>(2).map(Rc::from)?)),
            );
            Rc::new(tags.into_iter().flatten().collect())
        },
        |m, answer| {
            m.projects.cluster_tags.insert(*org, answer);
        },
    )
}

/// The tag of a project of the organization, or where `cluster` says, of a cluster that has one of its own. The outer None:
/// there is no such project.
pub fn environment(org: &Id, project: &Id, cluster: Option<&Id>) -> Option<Option<Rc<str>>> {
    let projects = projects(org);
    let project = projects.get(project)?;
    let own = cluster.and_then(|cluster| cluster_tags(org).get(cluster).cloned());
    Some(own.or_else(|| project.environment.clone()))
}

/// Which of our tables has a project or cluster of the organization with this tag.
pub fn tagged(org: &Id, tag: &str) -> Option<&'static str> {
    let has = |sql| !latest(sql, &[Arg::Uuid(org), Arg::Text(tag)], |_| ()).is_empty();
    if has("SELECT 1 FROM tenancy.projects
            WHERE org_id OPERATOR(pg_catalog.=) $1 AND environment OPERATOR(pg_catalog.=) $2 LIMIT 1")
    {
        return Some("tenancy.projects");
    }
    has("SELECT 1 FROM tenancy.clusters
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND environment OPERATOR(pg_catalog.=) $2 LIMIT 1")
    .then_some("tenancy.clusters")
}

/// Every project with its organization, and every cluster with its project.
pub struct Everything {
    pub projects: HashMap<Id, Id>,
    pub clusters: HashMap<Id, Id>,
}

pub fn all_places() -> Everything {
    let pair = |row: &crate::pg::query::Row| Some((row.uuid(1)?, row.uuid(2)?));
    let read = |sql| latest(sql, &[], pair).into_iter().flatten().collect();
    Everything {
        projects: read("SELECT id, org_id FROM tenancy.projects"),
        clusters: read("SELECT id, project_id FROM tenancy.clusters"),
    }
}

/// What somebody has in an organization's projects.
#[derive(Debug)]
pub struct Reach {
    projects: Rc<Projects>,
    roles: Rc<ProjectRoles>,
    matrix: Rc<ProjectMatrix>,
    /// The DBA, for whom no project is restricted.
    everywhere: bool,
    runs: bool,
    /// Limited to resources, so that no project is open to him but those he has a role in (spec 3.8).
    limited: bool,
}

impl Reach {
    /// `runs`: whether he holds RUN_PROJECTS.
    pub fn new(org: &Id, user: Option<&Id>, runs: bool, everywhere: bool) -> Reach {
        Reach {
            projects: projects(org),
            roles: user.map_or_else(Rc::default, |user| project_roles(org, user)),
            matrix: project_matrix(),
            everywhere,
            runs,
            limited: user.is_some_and(|user| access::is_scoped(org, user)),
        }
    }

    /// A member's, whatever the session's context is.
    pub fn of_user(org: &Id, user: &Id) -> Reach {
        let runs = authority::matrix()
            .action(RUN_PROJECTS)
            .is_some_and(|action| access::user_may(org, user, action));
        Reach::new(org, Some(user), runs, false)
    }

    pub fn get(&self, id: &Id) -> Option<&Project> {
        self.projects.get(id)
    }

    pub fn all(&self) -> &[Project] {
        &self.projects.all
    }

    /// The project with this id, if it is one that he sees.
    pub fn seen(&self, id: &Id) -> Option<&Project> {
        self.projects.get(id).filter(|p| self.sees(p))
    }

    /// Whether he knows that there is such a project. Whoever runs the organization's projects does, also where the
    /// stricter rule keeps him from what is in it.
    pub fn sees(&self, project: &Project) -> bool {
        self.is_open(project)
            || self.everywhere
            || self.runs
            || self.roles.contains_key(&project.id)
    }

    fn is_open(&self, project: &Project) -> bool {
        !project.restricted && !self.limited
    }

    pub fn role(&self, project: &Id) -> Option<&str> {
        self.roles.get(project).map(String::as_str)
    }

    /// Whether the role in the organization counts in the project.
    fn is_open_to_org_role(&self, project: &Project) -> bool {
        self.is_open(project) || self.everywhere || self.runs && !self.projects.strict
    }

    /// Whether he may do the action in the project; `in_org`: whether his role in the organization allows it.
    pub fn may(&self, project: &Project, action: &str, in_org: bool) -> bool {
        in_org && self.is_open_to_org_role(project) || self.is_added(&project.id, action)
    }

    /// The level that he has on the action in the project; `in_org`: the one of his role in the organization, which for a
    /// membership that is limited to resources counts on those of open projects.
    pub fn level(&self, project: &Project, action: &str, in_org: Level) -> Level {
        if self.is_added(&project.id, action) {
            Level::Allow
        } else if self.is_open_to_org_role(project) || self.limited && !project.restricted {
            in_org
        } else {
            Level::Deny
        }
    }

    fn is_added(&self, project: &Id, action: &str) -> bool {
        self.role(project)
            .and_then(|role| self.matrix.get(role))
            .is_some_and(|actions| actions.contains(action))
    }

    /// The project that a claim names, by its id, else by its name; only one that he sees.
    fn claimed(&self, claim: &str) -> Option<&Project> {
        uuid::Uuid::parse_str(claim)
            .ok()
            .and_then(|id| self.projects.get(id.as_bytes()))
            .or_else(|| self.projects.named(claim))
            .filter(|p| self.sees(p))
    }
}

/// To what the session narrows itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Narrowed {
    pub project: Id,
    pub cluster: Option<Id>,
}

/// What app.current_project and app.current_cluster name, once organization and role of the standing are known. What a
/// pooler's previous client left behind says nothing.
pub(super) fn narrowed(s: &Standing) -> Result<Option<Narrowed>, Reason> {
    let project = honoured(&s.principal, Setting::Project);
    let cluster_claim = honoured(&s.principal, Setting::Cluster);
    if project.is_none() && cluster_claim.is_none() {
        return Ok(None);
    }
    let (Some(org), reach) = (s.org_id(), s.reach()) else {
        return Ok(None);
    };
    let project = match project {
        Some(claim) => Some(reach.claimed(&claim).ok_or(Reason::UnknownProject)?.id),
        None => None,
    };
    let Some(claim) = cluster_claim else {
        return Ok(project.map(|project| Narrowed {
            project,
            cluster: None,
        }));
    };
    let (cluster, project) =
        cluster(&org, project.as_ref(), &claim).ok_or(Reason::UnknownCluster)?;
    reach.seen(&project).ok_or(Reason::UnknownCluster)?;
    Ok(Some(Narrowed {
        project,
        cluster: Some(cluster),
    }))
}

/// The reach of a standing.
pub(super) fn reach_of(s: &Standing) -> Reach {
    let runs = s
        .matrix
        .action(RUN_PROJECTS)
        .is_some_and(|action| s.may(action));
    let dba = s.principal == Principal::Dba && s.user.is_none();
    match s.org_id() {
        Some(org) => Reach::new(&org, s.user.as_ref(), runs, dba),
        None => Reach {
            projects: Rc::default(),
            roles: Rc::default(),
            matrix: Rc::default(),
            everywhere: false,
            runs: false,
            limited: false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Id = [1; 16];
    const CLOSED: Id = [2; 16];

    fn reach(role: Option<(Id, &str)>, runs: bool, strict: bool) -> Reach {
        let project = |id, name: &str, restricted| Project {
            id,
            name: name.into(),
            restricted,
            environment: None,
        };
        let cell = |role: &str, actions: &[&str]| {
            let actions = actions.iter().map(|a| a.to_string()).collect();
            (role.to_string(), actions)
        };
        Reach {
            projects: Rc::new(Projects::new(
                vec![
                    project(CLOSED, "closed", true),
                    project(OPEN, "open", false),
                ],
                strict,
            )),
            roles: Rc::new(role.into_iter().map(|(p, r)| (p, r.to_string())).collect()),
            matrix: Rc::new(HashMap::from([
                cell("project_viewer", &["data:read"]),
                cell("project_operator", &["data:read", "data:write"]),
            ])),
            everywhere: false,
            runs,
            limited: false,
        }
    }

    fn may(r: &Reach, project: Id, action: &str, in_org: bool) -> bool {
        r.may(r.get(&project).unwrap(), action, in_org)
    }

    #[test]
    fn the_org_role_counts_in_open_projects_only() {
        let r = reach(None, false, false);
        assert!(may(&r, OPEN, "data:write", true));
        assert!(!may(&r, OPEN, "data:write", false));
        assert!(!may(&r, CLOSED, "data:read", true));
        assert!(r.seen(&OPEN).is_some() && r.seen(&CLOSED).is_none());
    }

    #[test]
    fn a_project_role_adds_there_and_nowhere_else() {
        let r = reach(Some((CLOSED, "project_viewer")), false, false);
        assert!(may(&r, CLOSED, "data:read", false));
        assert!(
            !may(&r, CLOSED, "data:write", true),
            "the organization's role stays outside"
        );
        assert!(!may(&r, OPEN, "data:read", false));
        assert!(r.seen(&CLOSED).is_some());
    }

    #[test]
    fn who_runs_projects_gets_into_restricted_ones_unless_the_rule_is_strict() {
        assert!(may(&reach(None, true, false), CLOSED, "data:write", true));
        let strict = reach(None, true, true);
        assert!(!may(&strict, CLOSED, "data:read", true));
        assert!(strict.seen(&CLOSED).is_some(), "but knows of it");
        assert!(may(&strict, OPEN, "data:read", true));
    }

    #[test]
    fn a_claim_finds_only_what_is_seen() {
        let r = reach(None, false, false);
        let id = uuid::Uuid::from_bytes(CLOSED).to_string();
        assert!(r.claimed("closed").is_none() && r.claimed(&id).is_none());
        assert_eq!(r.claimed("open").map(|p| p.id), Some(OPEN));
    }
}
