//! Billing accounts: who pays for which organizations. An account may pay for several (an agency for its clients); an
//! organization has at most one. Nobody bills another: an organization is put on an account by who manages billing in
//! both.

use super::{allowed, invalid, may_in, reference};
use crate::access;
use crate::audit::{self, Act};
use crate::context;
use crate::context::authority::Id;
use crate::org::{id_text, require_administrator};
use crate::pg::attempt::{self, Failure};
use crate::pg::query::{Arg, execute, latest, run};
use crate::pg::{self, error, fail, transaction};
use pgrx::datum::Uuid;
use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::json;

const MANAGE: &str = "billing:manage";
const READ: &str = "billing:read";

/// The same for an account that does not exist and for somebody else's.
fn no_such_account(account: &Id) -> ErrorReport {
    let message = "permission denied: no such billing account";
    let detail = format!(
        "Billing account {} does not exist, or pays for no organization in which you hold {MANAGE}.",
        id_text(account)
    );
    error::server_log(message, &detail);
    fail(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
        .set_detail(detail)
        .set_hint("SELECT * FROM tenancy.billing_accounts shows the account of the current organization to those who hold billing:read.")
}

fn paid_by(account: &Id) -> Vec<Id> {
    latest(
        "SELECT org_id FROM tenancy.billed_orgs WHERE account_id OPERATOR(pg_catalog.=) $1 ORDER BY org_id",
        &[Arg::Uuid(account)],
        |row| row.uuid(1),
    )
    .into_iter()
    .flatten()
    .collect()
}

fn payer_of(org: &Id) -> Option<Id> {
    latest(
        "SELECT account_id FROM tenancy.billed_orgs WHERE org_id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(org)],
        |row| row.uuid(1),
    )
    .pop()
    .flatten()
}

/// Refuses unless the session manages billing in an organization that the account pays for, or is the DBA.
fn require_manager(account: &Id) -> pg::Result<()> {
    if paid_by(account).iter().any(|org| may_in(org, MANAGE)) {
        return Ok(());
    }
    if context::is_administrator() && exists(account) {
        return Ok(());
    }
    Err(no_such_account(account))
}

fn exists(account: &Id) -> bool {
    !latest(
        "SELECT 1 FROM tenancy.billing_accounts WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(account)],
        |_| (),
    )
    .is_empty()
}

/// Locks an account against other changes of it and of what it pays for, and asks again: a wait may have been one for a
/// change of who may.
fn lock_account(account: &Id) -> pg::Result<()> {
    context::no_ai("change a billing account")?;
    require_manager(account)?;
    run(
        "SELECT 1 FROM tenancy.billing_accounts WHERE id OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE",
        &[Arg::Uuid(account)],
        |_| (),
    );
    transaction::accept_invalidations();
    require_manager(account)
}

fn check_name(name: &str) -> pg::Result<()> {
    if (1..=255).contains(&name.chars().count()) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(invalid(
        "this is no name for a billing account",
        "A name has from 1 to 255 characters, and no control characters.",
        "Choose another.",
    ))
}

fn check_reference(reference: Option<&str>) -> pg::Result<()> {
    match reference.and_then(reference::fault) {
        None => Ok(()),
        // The refused text stands in no error, and its statement in no log.
        Some(why) => Err(invalid(
            "this is no payment method reference",
            why,
            "Store the opaque reference that the payment provider gives for the method.",
        )),
    }
}

fn reference_taken() -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
        "this payment method reference is in use",
    )
    .set_detail("A payment method belongs to one billing account.")
    .set_hint("One account may pay for several organizations: tenancy.set_billing_account().")
}

fn not_stored(failure: Failure) -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "the payment method could not be stored",
    )
    .set_detail(format!("{}: {}.", failure.code, failure.message))
    .set_hint("Nothing was changed.")
}

/// In the log of every organization that the account pays for: it is their account that changed. The reference itself
/// stands in none: who reads the log need not hold billing:read.
fn record(operation: &str, account: &Id, old: serde_json::Value, new: serde_json::Value) {
    for org in paid_by(account) {
        audit::record(&Act {
            org,
            operation,
            object: "tenancy.billing_accounts",
            key: json!({ "id": id_text(account) }),
            old: Some(old.clone()),
            new: Some(new.clone()),
        });
    }
}

/// Makes a billing account and has it pay for an organization (spec 10). `name`: what it is called. `payment_method`: the
/// payment provider's opaque reference, which no other account has; NULL for none yet. `org`: the organization, by default
/// the current one; the account that paid for it before does not any more. Needs billing:manage there; a DBA without an
/// organization makes an account that pays for none yet. Answers the account's id. The server's log keeps no text of a
/// call that is refused.
/// Errors: 42501 no right or unknown organization, 22023 no name or no reference (a card number is none), 23505 the
/// reference is in use.
#[pg_extern(volatile, parallel_unsafe)]
fn create_billing_account(
    name: Option<&str>,
    payment_method: default!(Option<&str>, "NULL"),
    org: default!(Option<Uuid>, "NULL"),
) -> pg::Result<Uuid> {
    error::discreetly(|| create(name, payment_method, org))
}

fn create(name: Option<&str>, payment_method: Option<&str>, org: Option<Uuid>) -> pg::Result<Uuid> {
    let name = pg::given(name, "name")?;
    context::no_ai("create a billing account")?;
    let for_nobody =
        org.is_none() && context::standing().org.is_none() && context::is_administrator();
    let org = match for_nobody {
        true => None,
        false => Some(allowed(
            org,
            MANAGE,
            "on billing",
            "create a billing account",
        )?),
    };
    check_name(name)?;
    check_reference(payment_method)?;
    let account = run(
        "INSERT INTO tenancy.billing_accounts (name, payment_method) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING id",
        &[Arg::Text(name), Arg::OptionalText(payment_method)],
        |row| row.uuid(1),
    )
    .pop()
    .flatten()
    .ok_or_else(reference_taken)?;
    if let Some(org) = org {
        crate::org::lock_org(&org, false)?;
        access_again(&org)?;
        link(&org, Some(&account), Some(name));
    }
    Ok(Uuid::from_bytes(account))
}

/// The right to an organization's billing, after a wait for its lock.
fn access_again(org: &Id) -> pg::Result<()> {
    match may_in(org, MANAGE) {
        true => Ok(()),
        false => access::require(org, MANAGE, "on billing"),
    }
}

/// Has an account pay for an organization, whose row is locked.
fn link(org: &Id, account: Option<&Id>, name: Option<&str>) {
    let old = payer_of(org);
    if old.as_ref() == account {
        return;
    }
    match account {
        Some(account) => execute(
            "INSERT INTO tenancy.billed_orgs (org_id, account_id) VALUES ($1, $2)
             ON CONFLICT (org_id) DO UPDATE SET account_id = excluded.account_id, since = excluded.since",
            &[Arg::Uuid(org), Arg::Uuid(account)],
        ),
        None => execute(
            "DELETE FROM tenancy.billed_orgs WHERE org_id OPERATOR(pg_catalog.=) $1",
            &[Arg::Uuid(org)],
        ),
    };
    let said = |account: &Id| json!({ "billing_account": id_text(account) });
    let mut new = account.map(said);
    if let (Some(new), Some(name)) = (&mut new, name) {
        new["name"] = name.into();
    }
    audit::record(&Act {
        org: *org,
        operation: "set_billing_account",
        object: "tenancy.billed_orgs",
        key: json!({ "org_id": id_text(org) }),
        old: old.as_ref().map(said),
        new,
    });
}

/// Has a billing account pay for an organization (spec 10). `org`: the organization. `account`: the account, which may pay
/// for others too; NULL: none does any more. Needs billing:manage in that organization and in one that the account pays
/// for already, so that nobody bills another; or the DBA.
/// Errors: 42501 no right, unknown organization or account.
#[pg_extern(volatile, parallel_unsafe)]
fn set_billing_account(org: Option<Uuid>, account: Option<Uuid>) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    context::no_ai("set a billing account")?;
    let org = allowed(Some(org), MANAGE, "on billing", "set a billing account")?;
    let account = account.map(|a| *a.as_bytes());
    // The account first, as everywhere: two of these wait for each other in one order.
    if let Some(account) = &account {
        lock_account(account)?;
    }
    crate::org::lock_org(&org, false)?;
    access_again(&org)?;
    if let Some(account) = &account {
        require_manager(account)?;
    }
    link(&org, account.as_ref(), None);
    Ok(())
}

/// Says how a billing account pays (spec 10). `account`: the account. `reference`: the payment provider's opaque reference,
/// which no other account has; NULL: none. Needs billing:manage in an organization that the account pays for, or the DBA.
/// Errors: 42501 no right or unknown account, 22023 no reference (a card number is none), 23505 it is in use.
#[pg_extern(volatile, parallel_unsafe)]
fn set_payment_method(account: Option<Uuid>, reference: Option<&str>) -> pg::Result<()> {
    error::discreetly(|| set_reference(account, reference))
}

fn set_reference(account: Option<Uuid>, reference: Option<&str>) -> pg::Result<()> {
    let account = *pg::given(account, "account")?.as_bytes();
    lock_account(&account)?;
    check_reference(reference)?;
    let mut had = false;
    // PostgreSQL's own error would show the reference, in the server's log too.
    attempt::in_subtransaction(|| {
        let before = run(
            "UPDATE tenancy.billing_accounts AS a SET payment_method = $2
             FROM (SELECT payment_method FROM tenancy.billing_accounts WHERE id OPERATOR(pg_catalog.=) $1) AS old
             WHERE a.id OPERATOR(pg_catalog.=) $1 RETURNING old.payment_method IS NOT NULL",
            &[Arg::Uuid(&account), Arg::OptionalText(reference)],
            |row| row.get::<bool>(1),
        );
        had = before.contains(&Some(true));
        Ok(())
    })
    .map_err(|failure| match failure.code.as_str() {
        "23505" => reference_taken(),
        _ => not_stored(failure),
    })?;
    let said = |there: bool| json!({ "has_payment_method": there });
    record(
        "set_payment_method",
        &account,
        said(had),
        said(reference.is_some()),
    );
    Ok(())
}

/// Gives a billing account another name (spec 10). Needs billing:manage in an organization that the account pays for, or
/// the DBA. Errors: 42501 no right or unknown account, 22023 no name.
#[pg_extern(volatile, parallel_unsafe)]
fn rename_billing_account(account: Option<Uuid>, name: Option<&str>) -> pg::Result<()> {
    let account = *pg::given(account, "account")?.as_bytes();
    let name = pg::given(name, "name")?;
    lock_account(&account)?;
    check_name(name)?;
    let old = run(
        "UPDATE tenancy.billing_accounts AS a SET name = $2
         FROM (SELECT name FROM tenancy.billing_accounts WHERE id OPERATOR(pg_catalog.=) $1) AS old
         WHERE a.id OPERATOR(pg_catalog.=) $1 RETURNING old.name",
        &[Arg::Uuid(&account), Arg::Text(name)],
        |row| row.get::<String>(1),
    )
    .pop()
    .flatten();
    record(
        "rename_billing_account",
        &account,
        json!({ "name": old }),
        json!({ "name": name }),
    );
    Ok(())
}

/// Removes a billing account that pays for no organization (spec 10). For the DBA.
/// Errors: 42501 not the DBA or unknown account, 23503 it pays for an organization.
#[pg_extern(volatile, parallel_unsafe)]
fn drop_billing_account(account: Option<Uuid>) -> pg::Result<()> {
    let account = *pg::given(account, "account")?.as_bytes();
    require_administrator("drop a billing account")?;
    lock_account(&account)?;
    let gone = execute(
        "DELETE FROM tenancy.billing_accounts AS a WHERE id OPERATOR(pg_catalog.=) $1
         AND NOT EXISTS (SELECT FROM tenancy.billed_orgs AS o WHERE o.account_id OPERATOR(pg_catalog.=) a.id)",
        &[Arg::Uuid(&account)],
    );
    if gone == 0 {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_FOREIGN_KEY_VIOLATION,
            "this billing account pays for an organization",
        )
        .set_detail("Who pays for an organization is not left open.")
        .set_hint(
            "SELECT tenancy.set_billing_account(org, NULL) first, or with another account.",
        ));
    }
    Ok(())
}

/// Whether the context may see a billing account: it pays for the organization in effect, and the context holds
/// billing:read there; or the DBA (spec 10). The policy of tenancy.billing_accounts: answers false and never raises.
/// Anyone may call it. `account`: the account.
#[pg_extern(stable, parallel_safe)]
pub fn sees_billing_account(account: Option<Uuid>) -> bool {
    let now = context::standing();
    let Some(account) = account else { return false };
    if context::is_administrator() {
        return true;
    }
    let Some(org) = now.org_id() else {
        return false;
    };
    now.matrix.action(READ).is_some_and(|a| now.may(a))
        && payer_of(&org) == Some(*account.as_bytes())
}

/// The organizations that a billing account pays for, as far as the session may know them: those in which its user holds
/// billing:read (spec 10); all of them for the DBA. `account`: the account; NULL: the one that pays for the current
/// organization. Errors: 42501 no right or unknown account.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
fn list_billed_orgs(
    account: default!(Option<Uuid>, "NULL"),
) -> pg::Result<
    TableIterator<
        'static,
        (
            name!(account_id, Uuid),
            name!(org_id, Uuid),
            name!(name, String),
            name!(since, Option<TimestampWithTimeZone>),
        ),
    >,
> {
    let account = match account {
        Some(account) => *account.as_bytes(),
        None => {
            let org = allowed(None, READ, "on billing", "list billed organizations")?;
            match payer_of(&org) {
                Some(account) => account,
                None => return Ok(TableIterator::empty()),
            }
        }
    };
    let rows = latest(
        "SELECT o.id, o.name, b.since FROM tenancy.billed_orgs AS b
              JOIN tenancy.orgs AS o ON o.id OPERATOR(pg_catalog.=) b.org_id
         WHERE b.account_id OPERATOR(pg_catalog.=) $1 ORDER BY o.name, o.id",
        &[Arg::Uuid(&account)],
        |row| {
            (
                row.uuid(1).unwrap_or_default(),
                row.get::<String>(2).unwrap_or_default(),
                row.get::<TimestampWithTimeZone>(3),
            )
        },
    );
    let seen: Vec<_> = rows
        .into_iter()
        .filter(|(org, ..)| may_in(org, READ))
        .map(|(org, name, since)| {
            (
                Uuid::from_bytes(account),
                Uuid::from_bytes(org),
                name,
                since,
            )
        })
        .collect();
    if seen.is_empty() && !context::is_administrator() {
        return Err(no_such_account(&account));
    }
    Ok(TableIterator::new(seen))
}
