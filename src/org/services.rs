//! Service accounts (spec 4): an organization's programs, each with a role of its own.
//!
//! An account is never above the member who answers for it: its rights are what its role and that member's have in common,
//! at every statement. So nobody gets more by making an account than he has, and nobody's account outlives his own rights:
//! where he is demoted it shrinks, where he goes it stops until somebody else with the right adopts it.

use super::{id_text, invalid, lock_org, members};
use crate::access;
use crate::access::rights::Rights;
use crate::audit::{self, Act};
use crate::context;
use crate::context::authority::{self, Id};
use crate::pg::query::{Arg, execute, latest, run};
use crate::pg::{self, error, fail};
use pgrx::datum::Uuid;
use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::{Value, json};

/// An account as it is, its organization locked.
pub(super) struct Account {
    pub id: Id,
    pub org: Id,
    pub role: String,
    name: String,
    sponsor: Option<Id>,
    disabled: bool,
}

/// One answer for an account, or a key, that does not exist and for another organization's.
pub(super) fn unknown(what: &str, id: &Id) -> ErrorReport {
    let id = id_text(id);
    error::server_log(
        &format!("permission denied: {what} not found"),
        &format!(
            "{id} was asked for by a session that does not belong to its organization, if there is one."
        ),
    );
    fail(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("{what} \"{id}\" does not exist or is not your organization's"),
    )
    .set_detail("Both cases answer alike.")
    .set_hint("tenancy.list_service_accounts() and tenancy.list_api_keys() show what there is.")
}

/// Whether the session's user belongs to the organization, or is the DBA; a service account to its own.
fn belongs(org: &Id) -> bool {
    let now = context::standing();
    context::is_administrator()
        || now
            .user
            .is_some_and(|user| access::role_in(org, &user).is_some())
        || (now.service.is_some() && now.org_id() == Some(*org))
}

/// The caller may manage the organization's accounts and keys, now that nobody else does until the transaction ends.
pub(super) fn begin(org: &Id) -> pg::Result<()> {
    access::require(org, "team:role", "in the organization")?;
    lock_org(org, true)?;
    // Asked again: the wait may have been one for the caller's own demotion.
    access::require(org, "team:role", "in the organization")
}

/// `begin`, for the organization of something that is named by its own id; `sql` finds the organization.
pub(super) fn begin_at(what: &str, id: &Id, sql: &'static str) -> pg::Result<Id> {
    let org = latest(sql, &[Arg::Uuid(id)], |row| row.uuid(1))
        .pop()
        .flatten()
        .filter(belongs)
        .ok_or_else(|| unknown(what, id))?;
    begin(&org)?;
    Ok(org)
}

pub(super) fn locked(id: &Id) -> pg::Result<Account> {
    const WHAT: &str = "service account";
    let org = begin_at(
        WHAT,
        id,
        "SELECT org_id FROM tenancy.service_accounts WHERE id OPERATOR(pg_catalog.=) $1",
    )?;
    run(
        "SELECT role, name, sponsor_id, disabled_at IS NOT NULL FROM tenancy.service_accounts
         WHERE id OPERATOR(pg_catalog.=) $1 AND org_id OPERATOR(pg_catalog.=) $2 FOR UPDATE",
        &[Arg::Uuid(id), Arg::Uuid(&org)],
        |row| Account {
            id: *id,
            org,
            role: row.get::<String>(1).unwrap_or_default(),
            name: row.get::<String>(2).unwrap_or_default(),
            sponsor: row.uuid(3),
            disabled: row.get::<bool>(4).unwrap_or(true),
        },
    )
    .pop()
    .ok_or_else(|| unknown(WHAT, id))
}

/// Nobody sets free, by an account, what he does not hold himself.
pub(super) fn require_all_of(org: &Id, role: &str) -> pg::Result<()> {
    access::require_may_assign(org, role, &Rights::default())
}

/// A role for an account: one of the organization's, not owner, and nothing in it that the caller has not.
fn suitable(org: &Id, role: &str) -> pg::Result<()> {
    if role == "owner" {
        return Err(invalid(
            "a service cannot act as owner",
            "Members, billing and the organization's existence are decided by a person.",
            "Use role => 'admin', or a role of the organization's own.",
        ));
    }
    members::assignable(org, role)?;
    require_all_of(org, role)
}

/// Who answers for an account that the caller makes or adopts: himself, or the owner where a DBA does it who is no member.
fn sponsor(org: &Id) -> Option<Id> {
    let caller = context::standing().user;
    caller
        .filter(|user| access::role_in(org, user).is_some())
        .or_else(|| {
            run(
                "SELECT owner_id FROM tenancy.orgs WHERE id OPERATOR(pg_catalog.=) $1",
                &[Arg::Uuid(org)],
                |row| row.uuid(1),
            )
            .pop()
            .flatten()
        })
}

fn record(org: &Id, id: &Id, operation: &str, old: Option<Value>, new: Option<Value>) {
    audit::record(&Act {
        org: *org,
        operation,
        object: "tenancy.service_accounts",
        key: json!({ "id": id_text(id) }),
        old,
        new,
    });
}

/// Makes an account for a program (spec 4). It authenticates with keys that `create_api_key()` makes, and has what `role`
/// and the caller, who answers for it, have in common at every statement. Returns its id, by which the audit names it.
///
/// `name`: 1 to 63 characters, unlike the organization's other accounts', letter case aside. `role`: any but owner, with
/// nothing in it that the caller does not hold. `description`: for people. Needs team:role there (or the DBA, for whose
/// accounts the owner answers).
/// Errors: 42501 no right, unknown organization, a role above one's own, or a service account as the caller; 22023 a name
/// that cannot be, an unknown role, or owner; 42710 the organization has such an account.
#[pg_extern(volatile, parallel_unsafe)]
pub fn create_service_account(
    org: Option<Uuid>,
    name: Option<&str>,
    role: Option<&str>,
    description: default!(Option<&str>, "NULL"),
) -> pg::Result<Uuid> {
    let org = pg::given(org, "org")?;
    let name = pg::given(name, "name")?.trim();
    let role = pg::given(role, "role")?;
    let org = org.as_bytes();
    begin(org)?;
    if !(1..=63).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        return Err(invalid(
            "this cannot be a service account's name",
            "A name has 1 to 63 characters and no control characters.",
            "Pass a name such as 'deploy-bot'.",
        ));
    }
    suitable(org, role)?;
    let id = run(
        "INSERT INTO tenancy.service_accounts (org_id, name, role, description, sponsor_id) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT DO NOTHING RETURNING id",
        &[
            Arg::Uuid(org),
            Arg::Text(name),
            Arg::Text(role),
            Arg::OptionalText(description),
            Arg::Uuid(&sponsor(org).unwrap_or_default()),
        ],
        |row| row.uuid(1),
    )
    .pop()
    .flatten()
    .ok_or_else(|| {
        fail(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("the organization has a service account \"{name}\""),
        )
        .set_detail("Two that differ in letter case only would be mistaken for each other.")
        .set_hint("SELECT * FROM tenancy.list_service_accounts(org) shows them.")
    })?;
    let new = json!({ "name": name, "role": role });
    record(org, &id, "create_service_account", None, Some(new));
    Ok(Uuid::from_bytes(id))
}

/// Gives a service account another role (spec 4), from the next statement of its open sessions on. Needs team:role in its
/// organization (or the DBA), and all that the role has.
/// Errors: 42501 no right, unknown account, or a role above one's own; 22023 an unknown role, or owner.
#[pg_extern(volatile, parallel_unsafe)]
pub fn set_service_role(service_account: Option<Uuid>, role: Option<&str>) -> pg::Result<()> {
    let id = pg::given(service_account, "service_account")?;
    let role = pg::given(role, "role")?;
    let account = locked(id.as_bytes())?;
    suitable(&account.org, role)?;
    execute(
        "UPDATE tenancy.service_accounts SET role = $2 WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(&account.id), Arg::Text(role)],
    );
    let old = json!({ "role": account.role });
    let new = json!({ "role": role });
    record(
        &account.org,
        &account.id,
        "set_service_role",
        Some(old),
        Some(new),
    );
    Ok(())
}

/// Makes the caller answer for a service account (spec 4): one whose sponsor left goes on. Needs team:role in its
/// organization (or the DBA: then the owner answers), and all that the account's role has.
/// Errors: 42501 no right, unknown account, or a role above one's own.
#[pg_extern(volatile, parallel_unsafe)]
pub fn adopt_service_account(service_account: Option<Uuid>) -> pg::Result<()> {
    let id = pg::given(service_account, "service_account")?;
    let account = locked(id.as_bytes())?;
    require_all_of(&account.org, &account.role)?;
    let sponsor = sponsor(&account.org).unwrap_or_default();
    execute(
        "UPDATE tenancy.service_accounts SET sponsor_id = $2 WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(&account.id), Arg::Uuid(&sponsor)],
    );
    let said = |sponsor: Option<&Id>| json!({ "sponsor_id": sponsor.map(id_text) });
    record(
        &account.org,
        &account.id,
        "adopt_service_account",
        Some(said(account.sponsor.as_ref())),
        Some(said(Some(&sponsor))),
    );
    Ok(())
}

fn switch(service_account: Option<Uuid>, disable: bool) -> pg::Result<()> {
    let id = pg::given(service_account, "service_account")?;
    let account = locked(id.as_bytes())?;
    if !disable {
        require_all_of(&account.org, &account.role)?;
    }
    if account.disabled == disable {
        return Ok(());
    }
    execute(
        "UPDATE tenancy.service_accounts SET disabled_at = CASE WHEN $2 THEN pg_catalog.now() END
         WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(&account.id), Arg::Flag(disable)],
    );
    let operation = if disable {
        "disable_service_account"
    } else {
        "enable_service_account"
    };
    record(&account.org, &account.id, operation, None, None);
    Ok(())
}

/// Stops a service account (spec 4): its keys are refused, and its open sessions are nobody from their next statement on.
/// Needs team:role in its organization (or the DBA). Errors: 42501 no right, or unknown account.
#[pg_extern(volatile, parallel_unsafe)]
pub fn disable_service_account(service_account: Option<Uuid>) -> pg::Result<()> {
    switch(service_account, true)
}

/// Undoes `disable_service_account()` (spec 4): the keys that were not revoked are good again. Needs team:role in its
/// organization (or the DBA), and all that the account's role has.
/// Errors: 42501 no right, unknown account, or a role above one's own.
#[pg_extern(volatile, parallel_unsafe)]
pub fn enable_service_account(service_account: Option<Uuid>) -> pg::Result<()> {
    switch(service_account, false)
}

/// Removes a service account with its keys (spec 4): its open sessions are nobody from their next statement on. The rows
/// that it made stay, and so does the audit, which names it by its id. Needs team:role in its organization (or the DBA).
/// Errors: 42501 no right, or unknown account.
#[pg_extern(volatile, parallel_unsafe)]
pub fn drop_service_account(service_account: Option<Uuid>) -> pg::Result<()> {
    let id = pg::given(service_account, "service_account")?;
    let account = locked(id.as_bytes())?;
    execute(
        "DELETE FROM tenancy.service_accounts WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(&account.id)],
    );
    let old = json!({ "name": account.name, "role": account.role });
    record(
        &account.org,
        &account.id,
        "drop_service_account",
        Some(old),
        None,
    );
    Ok(())
}

/// The service accounts of an organization (spec 4). `state`: active; disabled; or stopped, where nobody who belongs to the
/// organization answers for it, or its role is not active. `keys`: how many are good. Needs team:read there (or the DBA).
/// Errors: 42501 no right, or unknown organization.
#[pg_extern(stable, parallel_unsafe)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
pub fn list_service_accounts(
    org: Option<Uuid>,
) -> pg::Result<
    TableIterator<
        'static,
        (
            name!(id, Uuid),
            name!(name, String),
            name!(role, String),
            name!(description, Option<String>),
            name!(sponsor_id, Option<Uuid>),
            name!(state, String),
            name!(keys, i64),
            name!(created_at, Option<TimestampWithTimeZone>),
        ),
    >,
> {
    let org = pg::given(org, "org")?;
    let org = org.as_bytes();
    access::require(org, "team:read", "in the organization")?;
    let rows = latest(
        "SELECT a.id, a.name, a.role, a.description, a.sponsor_id, a.disabled_at IS NOT NULL,
                (SELECT pg_catalog.count(*) FROM tenancy.api_keys AS k
                 WHERE k.service_account_id OPERATOR(pg_catalog.=) a.id AND k.hash IS NOT NULL
                   AND (k.expires_at IS NULL OR k.expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp())),
                a.created_at
         FROM tenancy.service_accounts AS a WHERE a.org_id OPERATOR(pg_catalog.=) $1 ORDER BY a.name, a.id",
        &[Arg::Uuid(org)],
        |row| {
            let text = |n| row.get::<String>(n).unwrap_or_default();
            (
                Uuid::from_bytes(row.uuid(1).unwrap_or_default()),
                text(2),
                text(3),
                row.get::<String>(4),
                row.uuid(5).map(Uuid::from_bytes),
                if row.get::<bool>(6).unwrap_or(true) {
                    "disabled"
                } else {
                    "active"
                }
                .to_string(),
                row.get::<i64>(7).unwrap_or(0),
                row.get::<TimestampWithTimeZone>(8),
            )
        },
    );
    // Looked up apart: a query of ours within one of ours would be one too many.
    let rows: Vec<_> = rows
        .into_iter()
        .map(|mut row| {
            let sponsor = row.4.map(|user| *user.as_bytes());
            if row.5 == "active" && !is_carried(org, sponsor.as_ref(), &row.2) {
                row.5 = "stopped".into();
            }
            row
        })
        .collect();
    Ok(TableIterator::new(rows))
}

/// Whether somebody answers for an account of this role.
pub fn is_carried(org: &Id, sponsor: Option<&Id>, role: &str) -> bool {
    let sponsor = sponsor.and_then(|user| authority::membership(org, user));
    sponsor.is_some_and(|m| m.expires_at.is_none_or(|at| at > pg::transaction::now()))
        && authority::role(org, role).is_some_and(|role| role.active)
}
