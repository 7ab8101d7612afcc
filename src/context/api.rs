//! The context as SQL: entering, leaving, and asking who one is.

use super::authority::{self, Id, id_text};
use super::denial;
use super::network;
use super::principal::principal;
use super::seal;
use super::settings::{self, Setting};
use super::standing::{hold_to_pin, standing};
use super::token;
use crate::pg::query::{Arg, latest};
use crate::pg::{self, fail, identity, setting, transaction};
use pgrx::datum::Uuid;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;

/// Sets the context and validates it at once (spec 4). Inside a transaction block it lasts until the block ends;
/// outside one it lasts for the session, where the login's scope allows that.
///
/// `org`: the organization. `user_id`: whom a trusted application acts for; NULL keeps the user set in this
/// transaction, or acts as the service. `seal`: also does what `seal_context()` does. `project`, `cluster`: to which of the
/// organization's the session narrows itself (spec 9); NULL for none. Anyone may call it; what it answers depends on
/// membership.
/// Errors: 42501 not a member, unknown organization, expired, or not one's own user; 25P01 outside a transaction
/// block for a login trusted with scope transaction; 25001 when the transaction already works for another organization.
#[pg_extern(volatile, parallel_unsafe)]
fn enter(
    org: Option<Uuid>,
    user_id: default!(Option<Uuid>, "NULL"),
    seal: default!(Option<bool>, "false"),
    project: default!(Option<Uuid>, "NULL"),
    cluster: default!(Option<Uuid>, "NULL"),
) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let local = transaction::in_block();
    if !local && principal().transaction_scoped() {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_NO_ACTIVE_SQL_TRANSACTION,
            "tenancy.enter() needs a transaction block for this login",
        )
        .set_detail("The login is trusted with scope transaction: a pooler must not hand its context to the next client.")
        .set_hint("BEGIN; SELECT tenancy.enter(...); ...; COMMIT. Or trust the login with scope => 'session'."));
    }
    if let Some(user) = user_id {
        setting::set(c"app.current_user_id", &id_text(user.as_bytes()), local);
    } else if principal().transaction_scoped()
        && settings::claimed(Setting::User).is_some_and(|c| !c.in_this_transaction)
    {
        setting::set(c"app.current_user_id", "", local);
    }
    for (place, setting, name) in [
        (project, Setting::Project, c"app.current_project"),
        (cluster, Setting::Cluster, c"app.current_cluster"),
    ] {
        match place {
            Some(id) => setting::set(name, &id_text(id.as_bytes()), local),
            // What narrowed another organization's context does not narrow this one's.
            None if settings::claimed(setting).is_some() => setting::set(name, "", local),
            None => {}
        }
    }
    setting::set(c"app.current_org", &id_text(org.as_bytes()), local);
    let now = standing();
    match &now.reason {
        // One that the transaction's pin will not allow is refused here and not at the next statement.
        None if seal == Some(true) => seal::seal(),
        None => hold_to_pin(&now),
        Some(super::standing::Reason::Stranger) => Err(denial::stranger(org.as_bytes())),
        Some(_) => Err(denial::without_context(&now, "enter")),
    }
}

/// Freezes the context until the transaction ends (spec 4): organization, user, actor type, login, database role and
/// row_security. From then on a statement that starts under others raises, however they were changed, and so does a
/// policy, a guard and COMMIT; after the transaction, until the client's message ends, only the same context goes on.
/// Anyone may call it. Savepoints do not lift it. Errors: 42501 no organization in effect, or another one than was
/// sealed; 25P01 outside a transaction block.
#[pg_extern(volatile, parallel_unsafe)]
fn seal_context() -> pg::Result<()> {
    seal::seal()
}

/// Unsets the context: organization, user, project, cluster and token (spec 4). Anyone may call it. After it no protected row is visible.
/// A login that could do more without the token (a trusted application's) does not get that back by it: it is nobody
/// until the transaction ends, or after a token of scope session until DISCARD ALL or another token. Errors: 42501 under a seal.
#[pg_extern(volatile, parallel_unsafe)]
fn leave() {
    let local = transaction::in_block();
    setting::set(c"app.current_org", "", local);
    setting::set(c"app.current_user_id", "", local);
    for (setting, name) in [
        (Setting::Project, c"app.current_project"),
        (Setting::Cluster, c"app.current_cluster"),
    ] {
        if settings::claimed(setting).is_some() {
            setting::set(name, "", local);
        }
    }
    token::put(None, !local);
    seal::check();
}

/// The user the session acts as, NULL for a service or where nobody is known (spec 4). Anyone may call it.
#[pg_extern(stable, parallel_safe)]
fn current_user_id() -> Option<Uuid> {
    standing().user.map(Uuid::from_bytes)
}

/// The role in the effective organization, NULL where none is in effect (spec 4). Anyone may call it.
#[pg_extern(stable, parallel_safe)]
fn current_role_name() -> Option<String> {
    let now = standing();
    now.org.as_ref().map(|_| now.role.clone())
}

/// Who the session acts as, for which organization and with which role; where there is none, the reason (spec 4, 11.4).
/// Anyone may call it.
#[pg_extern(stable, parallel_safe)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
fn whoami() -> TableIterator<
    'static,
    (
        name!(login, String),
        name!(principal, String),
        name!(user_id, Option<Uuid>),
        name!(email, Option<String>),
        name!(claimed_org, Option<String>),
        name!(org_id, Option<Uuid>),
        name!(org_name, Option<String>),
        name!(role, Option<String>),
        name!(actor_type, String),
        name!(scope, Option<String>),
        name!(reason, Option<String>),
        name!(sealed, bool),
        name!(project_id, Option<Uuid>),
        name!(project, Option<String>),
        name!(cluster_id, Option<Uuid>),
        name!(service_account, Option<String>),
    ),
> {
    let now = standing();
    let email = now.user.and_then(|user| {
        latest(
            "SELECT email FROM tenancy.users WHERE id OPERATOR(pg_catalog.=) $1",
            &[Arg::Uuid(&user)],
            |row| row.get::<String>(1),
        )
        .pop()
        .flatten()
    });
    TableIterator::once((
        identity::role_name(identity::session_user()).unwrap_or_default(),
        now.principal.kind().to_string(),
        now.user.map(Uuid::from_bytes),
        email,
        settings::text(Setting::Org),
        now.org_id().map(Uuid::from_bytes),
        now.org.as_ref().map(|o| o.name.clone()),
        now.org.as_ref().map(|_| now.role.clone()),
        now.actor_type.to_string(),
        now.principal.scope().map(str::to_string),
        now.reason.as_ref().map(|r| r.detail()),
        seal::is_sealed(),
        now.narrowed.map(|n| Uuid::from_bytes(n.project)),
        now.narrowed
            .and_then(|n| Some(now.reach().get(&n.project)?.name.clone())),
        now.narrowed.and_then(|n| n.cluster).map(Uuid::from_bytes),
        token::service_name(),
    ))
}

/// The organizations the session's user may enter, with the role there (spec 3.10). Anyone may call it; it needs a
/// user, not an organization.
#[pg_extern(stable, parallel_safe)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
fn my_orgs() -> TableIterator<
    'static,
    (
        name!(org_id, Uuid),
        name!(name, String),
        name!(slug, String),
        name!(role, String),
        name!(expires_at, Option<TimestampWithTimeZone>),
    ),
> {
    let now = standing();
    let from = network::address_of_user(&now.principal);
    let rows = now.user.map_or_else(Vec::new, |user| {
        latest(
            "SELECT o.id, o.name, o.slug, m.role, m.expires_at,
                    CASE WHEN o.owner_id OPERATOR(pg_catalog.<>) $1 THEN m.allowed_networks::pg_catalog.text END
             FROM tenancy.memberships AS m JOIN tenancy.orgs AS o ON o.id OPERATOR(pg_catalog.=) m.org_id
             WHERE m.user_id OPERATOR(pg_catalog.=) $1 AND o.deleting_at IS NULL
               AND NOT EXISTS (SELECT FROM tenancy.custom_roles AS r
                               WHERE r.org_id OPERATOR(pg_catalog.=) m.org_id
                                 AND r.name OPERATOR(pg_catalog.=) m.role AND NOT r.active)
               AND (m.expires_at IS NULL OR m.expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp())
             ORDER BY o.name, o.slug",
            &[Arg::Uuid(&user)],
            |row| {
                let text = |n| row.get::<String>(n).unwrap_or_default();
                let reachable =
                    super::people::networks(row, 6).is_none_or(|n| network::admits(&n, from));
                reachable.then(|| {
                    (
                    Uuid::from_bytes(row.uuid(1).unwrap_or_default()),
                    text(2),
                    text(3),
                    text(4),
                    row.get::<TimestampWithTimeZone>(5),
                )
                })
            },
        )
    });
    TableIterator::new(rows.into_iter().flatten().collect::<Vec<_>>())
}

/// The organization with this id, where the caller belongs to it (or is the DBA): what a function that takes an
/// organization asks first.
pub fn known_org(org: &Id) -> pg::Result<std::rc::Rc<authority::Org>> {
    authority::org_by_id(org).ok_or_else(|| denial::stranger(org))
}
