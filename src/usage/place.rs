//! What usage was for: a project and cluster of the organization (spec 9), and the environment that they are in.

use super::invalid;
use crate::context::authority::Id;
use crate::context::projects::Narrowed;
use crate::context::{self, Standing};
use crate::pg;
use crate::pg::query::{Arg, latest};
use crate::projects::{unknown_cluster, unknown_project};

pub struct Place {
    pub project: Option<Id>,
    pub cluster: Option<Id>,
    pub environment: Option<String>,
}

impl Place {
    /// The project is the organization's and the cluster is the project's; what is not given is what the session narrows
    /// itself to, the cluster's project, and the environment of cluster or project.
    pub fn of(
        org: &Id,
        project: Option<Id>,
        cluster: Option<Id>,
        environment: Option<&str>,
    ) -> pg::Result<Place> {
        let now = context::standing();
        let narrowed = now.narrowed.filter(|_| now.org_id() == Some(*org));
        let (project, cluster) = match narrowed {
            Some(to) => within(&to, project, cluster)?,
            None => (project, cluster),
        };
        let (project, own) = match cluster {
            Some(cluster) => {
                let (of, own) = find_cluster(org, &cluster)
                    .filter(|(of, _)| project.is_none_or(|project| project == *of))
                    .ok_or_else(|| unknown_cluster(&cluster))?;
                (Some(of), own)
            }
            None => (project, None),
        };
        let tag = match &project {
            None => None,
            Some(project) => {
                let hidden = hides(&now, project);
                let unknown = || match &cluster {
                    Some(cluster) => unknown_cluster(cluster),
                    None => unknown_project(project),
                };
                let found = find_project(org, project).filter(|_| !hidden);
                own.or(found.ok_or_else(unknown)?)
            }
        };
        if let (Some(given), Some(tag)) = (environment, &tag)
            && given != tag
        {
            return Err(invalid(
                "usage of a project is of the environment that the project is in",
                format!("The environment that was given is not {tag}."),
                "Leave environment out: it is taken from the cluster, or from the project.",
            ));
        }
        Ok(Place {
            project,
            cluster,
            environment: tag.or(environment.map(str::to_string)),
        })
    }
}

/// In a user's name there is only what he sees.
fn hides(now: &Standing, project: &Id) -> bool {
    now.user.is_some() && !context::is_administrator() && now.reach().seen(project).is_none()
}

/// Whether the project, or the cluster's, is there, and not for the caller to know.
pub fn is_hidden(org: &Id, project: Option<Id>, cluster: Option<Id>) -> bool {
    let of_cluster = cluster.and_then(|cluster| find_cluster(org, &cluster));
    let named = project.filter(|project| find_project(org, project).is_some());
    let now = context::standing();
    [named, of_cluster.map(|(project, _)| project)]
        .iter()
        .flatten()
        .any(|project| hides(&now, project))
}

/// A session that narrows itself knows no other project and cluster.
fn within(
    to: &Narrowed,
    project: Option<Id>,
    cluster: Option<Id>,
) -> pg::Result<(Option<Id>, Option<Id>)> {
    if let Some(project) = project.filter(|project| *project != to.project) {
        return Err(unknown_project(&project));
    }
    match (to.cluster, cluster) {
        (Some(narrowed), Some(cluster)) if narrowed != cluster => Err(unknown_cluster(&cluster)),
        (narrowed, cluster) => Ok((Some(to.project), cluster.or(narrowed))),
    }
}

/// The environment of a project of the organization, if there is such a project.
fn find_project(org: &Id, project: &Id) -> Option<Option<String>> {
    latest(
        "SELECT environment FROM tenancy.projects
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND id OPERATOR(pg_catalog.=) $2",
        &[Arg::Uuid(org), Arg::Uuid(project)],
        |row| row.get::<String>(1),
    )
    .pop()
}

/// The project of a cluster of the organization, and the cluster's own environment.
fn find_cluster(org: &Id, cluster: &Id) -> Option<(Id, Option<String>)> {
    latest(
        "SELECT project_id, environment FROM tenancy.clusters
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND id OPERATOR(pg_catalog.=) $2",
        &[Arg::Uuid(org), Arg::Uuid(cluster)],
        |row| Some((row.uuid(1)?, row.get::<String>(2))),
    )
    .pop()
    .flatten()
}
