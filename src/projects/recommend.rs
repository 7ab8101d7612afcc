//! Which boundary suits whom (spec 9).

use pgrx::iter::TableIterator;
use pgrx::prelude::*;

/// The answer, with its reasons: what one must have, and then what is simplest.
fn recommended(
    separate_billing: bool,
    per_environment_access: bool,
) -> (&'static str, Vec<&'static str>) {
    match (separate_billing, per_environment_access) {
        (true, _) => (
            "organization",
            vec![
                "A bill, a payment method and quotas belong to an organization: what is paid for apart is an organization of its own.",
                "Members, roles, audit log and deletion are apart too: nothing carries from one organization to another, and nothing moves between them.",
                if per_environment_access {
                    "Give each environment an organization: whoever may enter one of them may not enter the others by that."
                } else {
                    "Within each, tag rows or projects with their environment; production protection follows the tags."
                },
            ],
        ),
        (false, true) => (
            "project",
            vec![
                "Access differs by environment, so each environment is a project, restricted where not everybody may enter: roles are given project by project.",
                "The bill is one, so one organization holds the projects; usage_report tells them apart.",
                "Members, the audit log and the owner stay one; the owner and admins see every project unless strict_access is set.",
            ],
        ),
        (false, false) => (
            "cluster",
            vec![
                "Everybody in a project works in all its environments, so nobody has to be kept out: a cluster for each, in one project, keeps their rows apart.",
                "app.current_cluster narrows a session to one of them, and rows cannot point across clusters' projects by mistake.",
                "When access is to differ later, make projects of them; when bills are, organizations.",
            ],
        ),
    }
}

/// Which boundary to put between environments, products or clients: organization, project or cluster, with the reasons
/// (spec 9). `separate_billing`: they are paid for apart. `per_environment_access`: not everybody who works in one may
/// enter the others. NULL counts as false. Anyone may ask. README, "Choosing organization, project or cluster", has an
/// example of each.
#[pg_extern(immutable, parallel_safe)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
fn recommend_isolation(
    separate_billing: default!(Option<bool>, "false"),
    per_environment_access: default!(Option<bool>, "false"),
) -> TableIterator<'static, (name!(recommendation, String), name!(reasons, Vec<String>))> {
    let (boundary, reasons) = recommended(
        separate_billing.unwrap_or(false),
        per_environment_access.unwrap_or(false),
    );
    let reasons = reasons.into_iter().map(String::from).collect();
    TableIterator::once((boundary.to_string(), reasons))
}

#[cfg(test)]
mod tests {
    use super::recommended;

    #[test]
    fn money_first_then_access() {
        for (billing, access, answer) in [
            (true, true, "organization"),
            (true, false, "organization"),
            (false, true, "project"),
            (false, false, "cluster"),
        ] {
            let (given, reasons) = recommended(billing, access);
            assert_eq!(given, answer);
            assert_eq!(reasons.len(), 3);
        }
        assert_ne!(recommended(true, true).1, recommended(true, false).1);
    }
}
