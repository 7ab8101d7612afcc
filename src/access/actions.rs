//! Actions that applications add to the published ones (spec 2).

use super::matrix::Level;
use super::{invalid, unknown_action};
use crate::context::authority;
use crate::org::require_administrator;
use crate::pg::query::{Arg, execute, run};
use crate::pg::{self, fail};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

fn is_word(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_')
}

fn is_action(name: &str) -> bool {
    name.split_once(':')
        .is_some_and(|(resource, verb)| is_word(resource) && is_word(verb))
}

fn published(name: &str) -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("permission denied: the action \"{name}\" is the system's and never changes"),
    )
    .set_detail("Every organization rests on the published matrix.")
    .set_hint("Define an action of another name.")
}

/// Whether there is such an action, and whether it is the system's. Held until the transaction ends.
fn existing(name: &str) -> Option<bool> {
    let found = run(
        "SELECT is_system FROM tenancy.actions WHERE name OPERATOR(pg_catalog.=) $1 FOR UPDATE",
        &[Arg::Text(name)],
        |row| row.get::<bool>(1).unwrap_or(true),
    );
    pg::transaction::accept_invalidations();
    found.into_iter().next()
}

/// Adds an action for an application's own resources, with the level that each system role has on it; or changes those of
/// one that was added before (spec 2). Custom roles get it by `grant_permission()`. For the DBA: it holds in every
/// organization, from the next statement of every session.
///
/// `name`: resource:verb, lower-case letters, digits and underscores. `category`: one such word; NULL is the resource.
/// `description`: what it means, for people. `admin`, `member`, `viewer`: allow, limited or deny; the owner has everything.
/// Errors: 42501 not the DBA or one of the system's own actions, 22023 a name, category or level that cannot be.
#[pg_extern(volatile, parallel_unsafe)]
fn define_action(
    name: Option<&str>,
    category: default!(Option<&str>, "NULL"),
    description: default!(Option<&str>, "NULL"),
    admin: default!(Option<&str>, "'deny'"),
    member: default!(Option<&str>, "'deny'"),
    viewer: default!(Option<&str>, "'deny'"),
) -> pg::Result<()> {
    let name = pg::given(name, "name")?;
    require_administrator("define an action")?;
    if !is_action(name) {
        return Err(invalid(
            "this cannot be an action's name",
            "An action is resource:verb: two words of lower-case letters, digits and underscores, each 63 bytes at most.",
            "Pass a name such as 'invoice:send'.",
        ));
    }
    let category = category.unwrap_or_else(|| name.split(':').next().unwrap_or_default());
    if !is_word(category) {
        return Err(invalid(
            "this cannot be an action's category",
            "A category is one word of lower-case letters, digits and underscores, 63 bytes at most.",
            "Leave it out: the resource is the category then.",
        ));
    }
    let mut cells = vec![("owner", Level::Allow)];
    for (role, level) in [("admin", admin), ("member", member), ("viewer", viewer)] {
        let level = pg::given(level, role)?;
        cells.push((role, super::level_named(level)?));
    }
    if existing(name) == Some(true) {
        return Err(published(name));
    }
    execute(
        "INSERT INTO tenancy.actions AS a (name, category, description) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO UPDATE SET category = excluded.category, description = excluded.description
         WHERE (a.category, a.description) IS DISTINCT FROM (excluded.category, excluded.description)",
        &[Arg::Text(name), Arg::Text(category), Arg::OptionalText(description)],
    );
    for (role, level) in cells {
        execute(
            "INSERT INTO tenancy.role_permissions AS p (role, action, level) VALUES ($1, $2, $3)
             ON CONFLICT (role, action) DO UPDATE SET level = excluded.level
             WHERE p.level OPERATOR(pg_catalog.<>) excluded.level",
            &[Arg::Text(role), Arg::Text(name), Arg::Text(level.name())],
        );
    }
    Ok(())
}

/// Takes an action away that `define_action()` added (spec 2). For the DBA.
/// Errors: 42501 not the DBA or one of the system's own actions, 22023 unknown action, 2BP01 a protected table or an
/// organization's own role names it.
#[pg_extern(volatile, parallel_unsafe)]
fn drop_action(name: Option<&str>) -> pg::Result<()> {
    let name = pg::given(name, "name")?;
    require_administrator("drop an action")?;
    match existing(name) {
        None => return Err(unknown_action(&authority::matrix(), name)),
        Some(true) => return Err(published(name)),
        Some(false) => {}
    }
    let tables = run(
        "SELECT table_name::pg_catalog.text FROM tenancy.protected_tables
         WHERE part_of IS NULL
           AND ($1 OPERATOR(pg_catalog.=) ANY (ARRAY[select_action, insert_action, update_action, delete_action])
                OR EXISTS (SELECT FROM pg_catalog.jsonb_each_text(column_actions) AS c
                           WHERE c.value OPERATOR(pg_catalog.=) $1))
         ORDER BY 1 LIMIT 3",
        &[Arg::Text(name)],
        |row| row.get::<String>(1).unwrap_or_default(),
    );
    if !tables.is_empty() {
        return Err(in_use(
            name,
            format!("Protected tables name it: {}.", tables.join(", ")),
            "Protect them with another action first: unprotect(), then protect().",
        ));
    }
    let roles = run(
        "SELECT pg_catalog.count(*) FROM
             (SELECT DISTINCT org_id, role FROM tenancy.custom_role_permissions WHERE action OPERATOR(pg_catalog.=) $1) AS r",
        &[Arg::Text(name)],
        |row| row.get::<i64>(1).unwrap_or(0),
    );
    if let Some(count) = roles.into_iter().find(|count| *count > 0) {
        return Err(in_use(
            name,
            format!("{count} of the organizations' own roles name it."),
            "tenancy.revoke_permission() takes it from each; tenancy.custom_role_permissions shows a superuser which they are.",
        ));
    }
    for sql in [
        "DELETE FROM tenancy.role_permissions WHERE action OPERATOR(pg_catalog.=) $1",
        "DELETE FROM tenancy.actions WHERE name OPERATOR(pg_catalog.=) $1",
    ] {
        execute(sql, &[Arg::Text(name)]);
    }
    Ok(())
}

fn in_use(name: &str, detail: String, hint: &str) -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
        format!("the action \"{name}\" is in use"),
    )
    .set_detail(detail)
    .set_hint(hint)
}

/// Keeps an action from being dropped until the transaction ends, for what is about to name it.
pub fn hold(name: &str) {
    run(
        "SELECT 1 FROM tenancy.actions WHERE name OPERATOR(pg_catalog.=) $1 FOR KEY SHARE",
        &[Arg::Text(name)],
        |_| (),
    );
    pg::transaction::accept_invalidations();
}

#[cfg(test)]
mod tests {
    use super::is_action;

    #[test]
    fn names_of_actions() {
        for good in ["invoice:send", "a:b", "a_1:b_2"] {
            assert!(is_action(good), "{good}");
        }
        for bad in [
            "", "invoice", ":", "a:", ":b", "A:b", "a:b:c", "1a:b", "a b:c", "ä:b", "_a:b",
        ] {
            assert!(!is_action(bad), "{bad}");
        }
    }
}
