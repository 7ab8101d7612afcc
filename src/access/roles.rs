//! An organization's own roles (spec 2): made from scratch, from another role or from a template; active or not; given to
//! members in place of a system role. Every change holds from the next statement of every session.

use super::giving::{require_may_assign, require_may_give, rights_of};
use super::matrix::nearest;
use super::rights::Rights;
use super::{action, id_text, invalid, level_named, require, unknown_role_in};
use crate::audit::{self, Act};
use crate::context::authority::{self, Id, Role};
use crate::org::lock_org;
use crate::pg::query::{Arg, execute, run};
use crate::pg::{self, fail};
use pgrx::datum::Uuid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::{Value as Json, json};

const WHERE_TO: &str = "in the organization";

/// The caller may change the organization's roles, now that nobody else does until the transaction ends: acts on members
/// and acts on roles wait for each other, since what one gives the other counts.
fn begin(org: &Id) -> pg::Result<()> {
    require(org, "team:role", WHERE_TO)?;
    lock_org(org, true)?;
    // Asked again: the wait may have been one for the caller's own demotion.
    require(org, "team:role", WHERE_TO)
}

/// One of the organization's own roles, which may be changed.
fn own_role(org: &Id, name: &str) -> pg::Result<Role> {
    let matrix = authority::matrix();
    if matrix.has_role(name) {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("permission denied: the role \"{name}\" is the system's and never changes"),
        )
        .set_detail("Every organization rests on the published matrix.")
        .set_hint(format!(
            "Make a role of your own of it: SELECT tenancy.create_role(org, '...', clone_of => '{name}')."
        )));
    }
    authority::role(org, name).ok_or_else(|| unknown_role_in(org, name))
}

fn key(org: &Id, role: &str) -> Json {
    json!({ "org_id": id_text(org), "name": role })
}

fn record(org: &Id, operation: &str, role: &str, old: Option<Json>, new: Option<Json>) {
    audit::record(&Act {
        org: *org,
        operation,
        object: "tenancy.custom_roles",
        key: key(org, role),
        old,
        new,
    });
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.chars().count() <= 63
        && name.trim() == name
        && !name.chars().any(char::is_control)
}

/// Makes a role of the organization's own (spec 2). Needs team:role there (or the DBA), and all that the role is to have.
///
/// `name`: 1 to 63 characters, unlike the system roles' and unlike any other of the organization's, letter case aside.
/// `description`: for people. `clone_of`: a system role or one of the organization's own, whose permissions it starts
/// with. `template`: the name of one of `tenancy.role_templates`, in place of `clone_of`. `active`: an inactive role gives
/// its members nothing until `activate_role()`.
/// Errors: 42501 no right, unknown organization or more than the caller holds, 22023 a name that cannot be, an unknown
/// role or template, or both of them given, 42710 the organization has such a role.
#[pg_extern(volatile, parallel_unsafe)]
fn create_role(
    org: Option<Uuid>,
    name: Option<&str>,
    description: default!(Option<&str>, "NULL"),
    clone_of: default!(Option<&str>, "NULL"),
    template: default!(Option<&str>, "NULL"),
    active: default!(Option<bool>, "true"),
) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let name = pg::given(name, "name")?;
    let active = pg::given(active, "active")?;
    let org = org.as_bytes();
    begin(org)?;
    let reserved =
        authority::matrix().has_role(&name.to_lowercase()) || name.to_lowercase() == "dba";
    if !is_name(name) || reserved {
        return Err(invalid(
            "this cannot be a role's name",
            "A name has 1 to 63 characters, no control characters and no blanks at its ends, and is not owner, admin, member, viewer or dba.",
            "Pass a name such as 'deployer'.",
        ));
    }
    let based_on = match (clone_of, template) {
        (Some(_), Some(_)) => {
            return Err(invalid(
                "a role starts as a clone or from a template",
                "Both clone_of and template are given.",
                "Pass one of them, and grant the rest with tenancy.grant_permission().",
            ));
        }
        (Some(role), None) if authority::role(org, role).is_none() => {
            return Err(unknown_role_in(org, role));
        }
        (None, Some(template)) => Some(known_template(template)?),
        (clone_of, _) => clone_of.map(str::to_string),
    };
    let made = execute(
        "INSERT INTO tenancy.custom_roles (org_id, name, description, active, based_on) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT DO NOTHING",
        &[
            Arg::Uuid(org),
            Arg::Text(name),
            Arg::OptionalText(description.map(str::trim).filter(|d| !d.is_empty())),
            Arg::Flag(active),
            Arg::OptionalText(based_on.as_deref()),
        ],
    );
    if made == 0 {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("the organization has a role \"{name}\" already"),
        )
        .set_detail("Names of roles differ in more than the case of their letters.")
        .set_hint("tenancy.grant_permission() and tenancy.revoke_permission() change the one that is there."));
    }
    if let Some(source) = &based_on {
        let copy = if template.is_some() {
            "INSERT INTO tenancy.custom_role_permissions (org_id, role, action, level)
             SELECT $1, $2, a.action, 'allow'
             FROM tenancy.role_templates AS t CROSS JOIN LATERAL pg_catalog.unnest(t.actions) AS a (action)
             WHERE t.name OPERATOR(pg_catalog.=) $3"
        } else {
            "INSERT INTO tenancy.custom_role_permissions (org_id, role, action, environment, level)
             SELECT $1, $2, action, '', level FROM tenancy.role_permissions
             WHERE role OPERATOR(pg_catalog.=) $3 AND level OPERATOR(pg_catalog.<>) 'deny'
             UNION ALL
             SELECT $1, $2, action, environment, level FROM tenancy.custom_role_permissions
             WHERE org_id OPERATOR(pg_catalog.=) $1 AND role OPERATOR(pg_catalog.=) $3"
        };
        execute(copy, &[Arg::Uuid(org), Arg::Text(name), Arg::Text(source)]);
    }
    require_may_assign(org, name, &Rights::default())?;
    record(
        org,
        "create_role",
        name,
        None,
        Some(
            json!({ "description": description, "active": active, "based_on": based_on, "permissions": permissions(org, name) }),
        ),
    );
    Ok(())
}

/// A template's name as it is written, whatever the case of the letters it was asked by.
fn known_template(name: &str) -> pg::Result<String> {
    let names = run(
        "SELECT name FROM tenancy.role_templates ORDER BY name",
        &[],
        |row| row.get::<String>(1).unwrap_or_default(),
    );
    let asked = name.to_lowercase();
    if let Some(known) = names.iter().find(|known| known.to_lowercase() == asked) {
        return Ok(known.clone());
    }
    let meant = nearest(name, names.iter().map(String::as_str)).unwrap_or_default();
    let shown: String = name.chars().take(80).collect();
    Err(invalid(
        format!("unknown template \"{shown}\""),
        "The view tenancy.role_templates lists the known ones.",
        &format!("Did you mean \"{meant}\"?"),
    ))
}

/// What a role has, as its audit line tells it: by action, or action@environment.
fn permissions(org: &Id, role: &str) -> Json {
    let rows = run(
        "SELECT action OPERATOR(pg_catalog.||)
                    CASE WHEN environment OPERATOR(pg_catalog.=) '' THEN '' ELSE '@' OPERATOR(pg_catalog.||) environment END,
                level
         FROM tenancy.custom_role_permissions
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND role OPERATOR(pg_catalog.=) $2
         ORDER BY action, environment",
        &[Arg::Uuid(org), Arg::Text(role)],
        |row| {
            let text = |n| row.get::<String>(n).unwrap_or_default();
            (text(1), Json::from(text(2)))
        },
    );
    Json::Object(rows.into_iter().collect())
}

fn environment_named(name: Option<&str>) -> pg::Result<Option<&str>> {
    match name {
        Some(name) if !is_name(name) => Err(invalid(
            "this cannot be an environment's name",
            "A name has 1 to 63 characters, no control characters and no blanks at its ends.",
            "Pass a name such as 'staging', or leave environment out for every environment.",
        )),
        name => Ok(name),
    }
}

/// The level that a grant of a role has now, where there is one.
fn granted(org: &Id, role: &str, action: &str, environment: Option<&str>) -> Option<String> {
    run(
        "SELECT level FROM tenancy.custom_role_permissions
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND role OPERATOR(pg_catalog.=) $2
           AND action OPERATOR(pg_catalog.=) $3 AND environment OPERATOR(pg_catalog.=) $4",
        &[
            Arg::Uuid(org),
            Arg::Text(role),
            Arg::Text(action),
            Arg::Text(environment.unwrap_or_default()),
        ],
        |row| row.get::<String>(1),
    )
    .pop()
    .flatten()
}

/// What a grant's audit line says of it.
fn told(action: &str, environment: Option<&str>, level: &str) -> Json {
    json!({ "action": action, "environment": environment, "level": level })
}

/// Gives one of the organization's own roles a level on an action, or another level than it has (spec 2). Needs team:role
/// there (or the DBA), and the action itself at that level. It holds from the next statement of every session.
///
/// `level`: allow, limited or deny. `environment`: only in this one; NULL in all that no other grant of the role names for
/// the action. So allow and, for production, deny is everywhere but in production; what names no environment then
/// counts as denied, since it could be production.
/// Errors: 42501 no right, unknown organization, a system role, or more than the caller holds, 22023 unknown role, action
/// or level, or no name of an environment.
#[pg_extern(volatile, parallel_unsafe)]
fn grant_permission(
    org: Option<Uuid>,
    role: Option<&str>,
    action: Option<&str>,
    level: default!(Option<&str>, "'allow'"),
    environment: default!(Option<&str>, "NULL"),
) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let role = pg::given(role, "role")?;
    let action_name = pg::given(action, "action")?;
    let level = pg::given(level, "level")?;
    let org = org.as_bytes();
    begin(org)?;
    let before = own_role(org, role)?.rights;
    let action = self::action(&authority::matrix(), action_name)?;
    let level = level_named(level)?;
    let environment = environment_named(environment)?;
    let mut after = Rights::clone(&before);
    after.put(action, environment, level);
    require_may_give(org, role, &before, &after)?;
    let old = granted(org, role, action_name, environment);
    if old.as_deref() == Some(level.name()) {
        return Ok(());
    }
    execute(
        "INSERT INTO tenancy.custom_role_permissions (org_id, role, action, environment, level) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (org_id, role, action, environment) DO UPDATE SET level = excluded.level",
        &[
            Arg::Uuid(org),
            Arg::Text(role),
            Arg::Text(action_name),
            Arg::Text(environment.unwrap_or_default()),
            Arg::Text(level.name()),
        ],
    );
    record(
        org,
        "grant_permission",
        role,
        old.map(|level| told(action_name, environment, &level)),
        Some(told(action_name, environment, level.name())),
    );
    Ok(())
}

/// Takes a grant from one of the organization's own roles (spec 2): that for the action and this environment, or where
/// `environment` is NULL the one that names none. Needs team:role there (or the DBA); where the grant that goes denied
/// something, the action itself. It holds from the next statement of every session.
/// Errors: 42501 no right, unknown organization or a system role, 22023 unknown role or action, 42704 no such grant.
#[pg_extern(volatile, parallel_unsafe)]
fn revoke_permission(
    org: Option<Uuid>,
    role: Option<&str>,
    action: Option<&str>,
    environment: default!(Option<&str>, "NULL"),
) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let role = pg::given(role, "role")?;
    let action_name = pg::given(action, "action")?;
    let org = org.as_bytes();
    begin(org)?;
    let before = own_role(org, role)?.rights;
    self::action(&authority::matrix(), action_name)?;
    let environment = environment_named(environment)?;
    let gone = run(
        "DELETE FROM tenancy.custom_role_permissions
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND role OPERATOR(pg_catalog.=) $2
           AND action OPERATOR(pg_catalog.=) $3 AND environment OPERATOR(pg_catalog.=) $4 RETURNING level",
        &[
            Arg::Uuid(org),
            Arg::Text(role),
            Arg::Text(action_name),
            Arg::Text(environment.unwrap_or_default()),
        ],
        |row| row.get::<String>(1).unwrap_or_default(),
    );
    let Some(level) = gone.into_iter().next() else {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("role \"{role}\" has no such grant of {action_name}"),
        )
        .set_detail("A grant for one environment and the grant without one are two.")
        .set_hint(
            "SELECT * FROM tenancy.custom_role_permissions shows them to those who hold team:read.",
        ));
    };
    let after = own_role(org, role)?.rights;
    require_may_give(org, role, &before, &after)?;
    record(
        org,
        "revoke_permission",
        role,
        Some(told(action_name, environment, &level)),
        None,
    );
    Ok(())
}

/// Lets one of the organization's own roles give its members what it has (spec 2). Needs team:role there (or the DBA), and
/// all that the role has. It holds from the next statement of every session.
/// Errors: 42501 no right, unknown organization, a system role, or more than the caller holds, 22023 unknown role.
#[pg_extern(volatile, parallel_unsafe)]
fn activate_role(org: Option<Uuid>, role: Option<&str>) -> pg::Result<()> {
    set_active(org, role, true)
}

/// Makes one of the organization's own roles give its members nothing (spec 2): they stay members, and the organization
/// is closed to them from the next statement on. Needs team:role there (or the DBA).
/// Errors: 42501 no right, unknown organization or a system role, 22023 unknown role.
#[pg_extern(volatile, parallel_unsafe)]
fn deactivate_role(org: Option<Uuid>, role: Option<&str>) -> pg::Result<()> {
    set_active(org, role, false)
}

fn set_active(org: Option<Uuid>, role: Option<&str>, active: bool) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let name = pg::given(role, "role")?;
    let org = org.as_bytes();
    begin(org)?;
    let role = own_role(org, name)?;
    if role.active == active {
        return Ok(());
    }
    if active {
        require_may_assign(org, name, &rights_of(org, name))?;
    }
    execute(
        "UPDATE tenancy.custom_roles SET active = $3
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND name OPERATOR(pg_catalog.=) $2",
        &[Arg::Uuid(org), Arg::Text(name), Arg::Flag(active)],
    );
    let operation = if active {
        "activate_role"
    } else {
        "deactivate_role"
    };
    let state = |active: bool| Some(json!({ "active": active }));
    record(org, operation, name, state(!active), state(active));
    Ok(())
}

/// Ends one of the organization's own roles (spec 2). Needs team:role there (or the DBA); nobody may have it any more.
/// Errors: 42501 no right, unknown organization or a system role, 22023 unknown role, 2BP01 members have it.
#[pg_extern(volatile, parallel_unsafe)]
fn drop_role(org: Option<Uuid>, role: Option<&str>) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let role = pg::given(role, "role")?;
    let org = org.as_bytes();
    begin(org)?;
    let active = own_role(org, role)?.active;
    if let Some(holders) = holders(org, role) {
        return Err(in_use(role, holders));
    }
    let had = permissions(org, role);
    execute(
        "DELETE FROM tenancy.custom_roles
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND name OPERATOR(pg_catalog.=) $2",
        &[Arg::Uuid(org), Arg::Text(role)],
    );
    let old = json!({ "active": active, "permissions": had });
    record(org, "drop_role", role, Some(old), None);
    Ok(())
}

/// Who has a role, in words; none where nobody has. What else comes to name roles is counted here, too.
fn holders(org: &Id, role: &str) -> Option<String> {
    let count = run(
        "SELECT (SELECT pg_catalog.count(*) FROM tenancy.memberships
                 WHERE org_id OPERATOR(pg_catalog.=) $1 AND custom_role OPERATOR(pg_catalog.=) $2),
                (SELECT pg_catalog.count(*) FROM tenancy.invitations
                 WHERE org_id OPERATOR(pg_catalog.=) $1 AND role OPERATOR(pg_catalog.=) $2
                   AND accepted_at IS NULL AND revoked_at IS NULL
                   AND expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()),
                (SELECT pg_catalog.count(*) FROM tenancy.service_accounts
                 WHERE org_id OPERATOR(pg_catalog.=) $1 AND custom_role OPERATOR(pg_catalog.=) $2)",
        &[Arg::Uuid(org), Arg::Text(role)],
        |row| [1, 2, 3].map(|n| row.get::<i64>(n).unwrap_or(0)),
    );
    let [members, invitations, services] = count.into_iter().next().unwrap_or_default();
    (members + invitations + services > 0).then(|| {
        format!(
            "{members} of the organization's members and {services} of its service accounts have it, {invitations} are invited to it."
        )
    })
}

fn in_use(role: &str, holders: String) -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
        format!("the role \"{role}\" is in use"),
    )
    .set_detail(holders)
    .set_hint("Give them another role first, or use tenancy.deactivate_role().")
}
