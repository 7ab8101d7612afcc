//! New users and organizations.

use super::{deletion, external_key, id_text, invalid};
use crate::audit::{self, Act};
use crate::context::{self, Principal, settings};
use crate::pg::query::{Arg, run};
use crate::pg::{self, fail};
use pgrx::datum::Uuid;
use pgrx::prelude::*;
use serde_json::json;

fn trimmed(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|t| !t.is_empty())
}

/// Registers a person: an identity shared by all organizations, without rights of its own (spec 1, 3).
///
/// `email`: unique without regard to case. `external_key`: the application's own key for the user, accepted wherever
/// a user is named by a setting. `sso_subject`: the identity provider's subject. Returns the user's id.
/// For the DBA and for trusted applications. Errors: 42501 not allowed, 22023 not an address, 23505 already registered.
#[pg_extern(volatile, parallel_unsafe)]
fn create_user(
    email: Option<&str>,
    name: default!(Option<&str>, "NULL"),
    external_key: default!(Option<&str>, "NULL"),
    sso_subject: default!(Option<&str>, "NULL"),
) -> pg::Result<Uuid> {
    let email = pg::given(email, "email")?;
    context::no_ai("register users")?;
    if !may_name_keys() {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied: only a DBA or a trusted application may register users",
        )
        .set_detail("A user is an identity shared by all organizations.")
        .set_hint("A DBA calls tenancy.trust_application() for the login of the application that signs people up."));
    }
    let email = email.trim();
    if !is_address(email) {
        return Err(invalid(
            "this is not an email address",
            "An address has one @, something on both sides of it, no blanks, and 320 characters at most.",
            "Pass an address such as ada@example.com.",
        ));
    }
    let id = run(
        "INSERT INTO tenancy.users (email, name, external_key, sso_subject)
         VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING id",
        &[
            Arg::Text(email),
            Arg::OptionalText(trimmed(name)),
            Arg::OptionalText(trimmed(external_key)),
            Arg::OptionalText(trimmed(sso_subject)),
        ],
        |row| row.uuid(1),
    )
    .pop()
    .flatten();
    id.map(Uuid::from_bytes).ok_or_else(|| {
        fail(
            PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
            "this user is already registered",
        )
        .set_detail("The email address, the external key or the SSO subject is taken.")
        .set_hint(
            "A person has one user row for all organizations: look it up and add a membership.",
        )
    })
}

/// Whether a trimmed text is what the table of users takes for an address.
pub fn is_address(email: &str) -> bool {
    let shape = email.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty() && !domain.is_empty() && !domain.contains('@')
    });
    shape && email.len() <= 320 && !email.chars().any(|c| c.is_control() || c.is_whitespace())
}

/// The DBA and trusted applications say which of an application's keys is whose.
fn may_name_keys() -> bool {
    matches!(context::principal(), Principal::Application { .. }) || context::is_administrator()
}

/// Makes an organization with its one owner and its audit log (spec 3.1, 6.2).
///
/// `slug`: lower-case letters, digits and hyphens, at most 63, unique, never changed. `owner`: NULL for the calling
/// user; somebody else only by the DBA or by a trusted application that acts for no user. `external_key`: the
/// application's own key, accepted wherever an organization is named by a setting. Returns the organization's id.
/// Only the DBA and trusted applications give
/// external keys. Errors: 42501 no user or not allowed, 22023 bad name, slug or owner, 23505 slug or key taken, 54000 too many owned.
#[pg_extern(volatile, parallel_unsafe)]
fn create_org(
    name: Option<&str>,
    slug: Option<&str>,
    owner: default!(Option<Uuid>, "NULL"),
    external_key: default!(Option<&str>, "NULL"),
) -> pg::Result<Uuid> {
    let name = pg::given(name, "name")?;
    let slug = pg::given(slug, "slug")?;
    context::no_ai("create organizations")?;
    let owner = owner_of_new_org(owner)?;
    let name = name.trim();
    if name.is_empty() || name.chars().count() > 255 || name.chars().any(char::is_control) {
        return Err(invalid(
            "this cannot be an organization's name",
            "A name has 1 to 255 characters and no control characters.",
            "Pass the name people know the organization by.",
        ));
    }
    if !is_slug(slug) {
        return Err(invalid(
            "this cannot be a slug",
            "A slug has 1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end.",
            "Pass a slug such as 'acme-berlin'.",
        ));
    }
    if trimmed(external_key).is_some() && !may_name_keys() {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied: only a DBA or a trusted application may give an external key",
        )
        .set_detail("An application enters organizations by its own keys; whoever takes a key first receives its rows.")
        .set_hint("Leave external_key out."));
    }
    trimmed(external_key).map_or(Ok(()), external_key::check)?;
    check_owned(owner.as_bytes())?;
    let dedicated = audit::has_room_for_dedicated();
    let id = run(
        "INSERT INTO tenancy.orgs (name, slug, owner_id, external_key, audit_store)
         VALUES ($1, $2, $3, $4, CASE WHEN $5 THEN 'dedicated' ELSE 'shared' END)
         ON CONFLICT DO NOTHING RETURNING id",
        &[
            Arg::Text(name),
            Arg::Text(slug),
            Arg::Uuid(owner.as_bytes()),
            Arg::OptionalText(trimmed(external_key)),
            Arg::Flag(dedicated),
        ],
        |row| row.uuid(1),
    )
    .pop()
    .flatten()
    .filter(|_| !deletion::was_anothers(Some(slug), trimmed(external_key)))
    .ok_or_else(|| {
        fail(
            PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
            "this slug or external key is taken",
        )
        .set_detail("Slugs and external keys are unique among all organizations, also those that were deleted.")
        .set_hint("Choose another slug.")
    })?;
    audit::make_store(&id, dedicated);
    audit::record(&Act {
        org: id,
        operation: "create_org",
        object: "tenancy.orgs",
        key: json!({ "id": id_text(&id) }),
        old: None,
        new: Some(json!({ "name": name, "slug": slug, "owner_id": id_text(owner.as_bytes()) })),
    });
    Ok(Uuid::from_bytes(id))
}

fn is_slug(slug: &str) -> bool {
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&slug.len())
        && slug.bytes().all(fits)
        && !slug.starts_with('-')
        && !slug.ends_with('-')
}

fn owner_of_new_org(named: Option<Uuid>) -> pg::Result<Uuid> {
    let now = context::standing();
    let may_name = context::is_administrator()
        || (matches!(now.principal, Principal::Application { .. })
            && now.user.is_none()
            && !context::names_a_user());
    let caller = now.user.map(Uuid::from_bytes);
    let owner = match (named, caller) {
        (None, Some(caller)) => caller,
        (Some(named), _) if Some(named) == caller || may_name => named,
        (Some(_), _) => {
            return Err(fail(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                "permission denied: you may create an organization for yourself only",
            )
            .set_detail("Another owner is named by the DBA, or by a trusted application that acts for no user.")
            .set_hint("Leave owner out, and hand the organization on with tenancy.transfer_ownership()."));
        }
        (None, None) => {
            return Err(fail(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                "permission denied: an organization needs an owner",
            )
            .set_detail("The session acts for no user.")
            .set_hint("Pass owner => <user id>, or set app.current_user_id first."));
        }
    };
    let known = crate::context::authority::user(&id_text(owner.as_bytes()))
        .is_some_and(|id| id == *owner.as_bytes());
    if known {
        Ok(owner)
    } else {
        Err(invalid(
            "the owner is no registered user",
            format!("There is no user {owner}."),
            "tenancy.create_user() registers one.",
        ))
    }
}

/// Holds the owner to `tenancy.max_owned_orgs`, under a lock on his user row so that two creations count each other.
pub fn check_owned(owner: &[u8; 16]) -> pg::Result<()> {
    let limit = settings::MAX_OWNED_ORGS.get();
    if limit == 0 {
        return Ok(());
    }
    run(
        "SELECT id FROM tenancy.users WHERE id OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE",
        &[Arg::Uuid(owner)],
        |_| (),
    );
    let owned = run(
        "SELECT pg_catalog.count(*) FROM tenancy.orgs
         WHERE owner_id OPERATOR(pg_catalog.=) $1 AND deleting_at IS NULL",
        &[Arg::Uuid(owner)],
        |row| row.get::<i64>(1),
    )
    .pop()
    .flatten()
    .unwrap_or(0);
    if owned < i64::from(limit) {
        return Ok(());
    }
    Err(fail(
        PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        "this user owns as many organizations as are allowed",
    )
    .set_detail(format!("tenancy.max_owned_orgs is {limit}."))
    .set_hint("Hand one on with tenancy.transfer_ownership(), or ask the DBA for a higher limit."))
}

#[cfg(test)]
mod tests {
    use super::is_slug;

    #[test]
    fn slugs() {
        for good in ["a", "acme", "acme-2", "0", &"x".repeat(63)] {
            assert!(is_slug(good), "{good}");
        }
        for bad in ["", "-a", "a-", "Acme", "a b", "ä", "a_b", &"x".repeat(64)] {
            assert!(!is_slug(bad), "{bad}");
        }
    }
}
