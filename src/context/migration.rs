//! A migration (spec 5.7): a transaction in which an administrator who owns the tables works on the rows of every
//! organization, without BYPASSRLS. It belongs to the transaction, to the role that began it and to its own statements:
//! not to definer functions, not to a role that it turns into, not to a later transaction of a pooled connection.
//!
//! Row security is lifted where a statement is planned (hooks/migration.rs); the policies know nothing of it, so that the
//! path that every other session takes stays as it is. The guards of keys and of the organization column stay in force.

use super::principal::{Principal, is_administrator};
use super::{ledger, seal, standing, transaction as hall};
use crate::pg::identity::{self, Roles, Runner};
use crate::pg::local::Backend;
use crate::pg::{self, fail, transaction};
use pgrx::prelude::*;
use std::cell::Cell;

#[derive(Clone, Copy)]
struct Migration {
    runner: Runner,
    roles: Roles,
    level: i32,
}

static NOW: Backend<Cell<Option<Migration>>> = Backend::new(Cell::new(None));

/// Whether the transaction is a migration; what runs in it may still be somebody else's.
#[inline]
pub fn is_on() -> bool {
    NOW.get().is_some()
}

/// Whether the statement that runs is one of the role that began it, in its own right.
#[inline]
pub fn is_in_force() -> bool {
    NOW.get()
        .is_some_and(|migration| migration.runner == identity::runner())
}

/// Whether a referential action that runs now was set off by the migration: the login and the role are the same, and
/// PostgreSQL has turned into the table's owner.
pub fn set_off_action() -> bool {
    NOW.get()
        .is_some_and(|migration| migration.roles == identity::roles())
}

fn refuse(code: PgSqlErrorCode, why: &str, hint: &str) -> pg::Result<()> {
    Err(fail(code, "cannot begin a migration here")
        .set_detail(why)
        .set_hint(hint))
}

/// Begins a migration that lasts until the transaction ends (spec 5.7). In it the statements of the role that called it
/// see and write the rows of all organizations in the protected tables that it owns; foreign keys still stay within an
/// organization, a row still belongs to one organization for good, TRUNCATE is still refused, and DDL that weakens a
/// protected table is mended at once where that is possible. Rows that it writes stand in the organizations' logs.
///
/// `reason`: why; kept in tenancy.bypass_ledger and in the server's log. For superusers and administrators
/// (grant_administration()) with a login of their own. Errors: 42501 no administrator, a definer function, a sealed
/// context, a token or an application's login; 25P01 outside a transaction block; 25001 the transaction works for an
/// organization already; 22023 no reason, or one that is longer than 500 characters.
#[pg_extern(volatile, parallel_unsafe)]
fn begin_migration(reason: Option<&str>) -> pg::Result<()> {
    let reason = pg::given(reason, "reason")?.trim();
    require_right()?;
    if reason.is_empty() || reason.chars().count() > 500 || reason.chars().any(char::is_control) {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "a migration needs a reason",
        )
        .set_detail("One line of at most 500 characters, which the organizations can read.")
        .set_hint("SELECT tenancy.begin_migration('split names into first and last');"));
    }
    if is_on() {
        return refuse(
            PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            "This transaction is a migration already.",
            "Go on; it lasts until COMMIT or ROLLBACK.",
        );
    }
    ledger::write("migration", reason);
    NOW.set(Some(Migration {
        runner: identity::runner(),
        roles: identity::roles(),
        level: transaction::nest_level(),
    }));
    transaction::forget_plans();
    Ok(())
}

fn require_right() -> pg::Result<()> {
    const NO_RIGHT: PgSqlErrorCode = PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE;
    super::no_ai("begin a migration")?;
    if !is_administrator() {
        return Err(fail(
            NO_RIGHT,
            "permission denied: a migration is an administrator's",
        )
        .set_detail("It works on the rows of all organizations.")
        .set_hint(
            "A superuser calls tenancy.grant_administration() for the role that runs migrations.",
        ));
    }
    if identity::is_lent() || identity::is_restricted() || identity::in_referential_action() {
        return refuse(
            NO_RIGHT,
            "A function of another role is in force.",
            "Call it at the top of the transaction.",
        );
    }
    if seal::is_on() {
        return refuse(
            NO_RIGHT,
            "The context is sealed.",
            "Migrate in a message and a transaction of its own.",
        );
    }
    if !matches!(
        standing::standing().principal,
        Principal::Nobody { .. } | Principal::User { .. } | Principal::Dba
    ) {
        return refuse(
            NO_RIGHT,
            "This login speaks for its users, by name or by token.",
            "Give migrations a login of their own.",
        );
    }
    if !transaction::in_block() {
        return refuse(
            PgSqlErrorCode::ERRCODE_NO_ACTIVE_SQL_TRANSACTION,
            "It would end with this statement.",
            "BEGIN; SELECT tenancy.begin_migration('...'); ...; COMMIT.",
        );
    }
    if hall::pinned().is_some() {
        return refuse(
            PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            "This transaction works for an organization already.",
            "COMMIT or ROLLBACK first.",
        );
    }
    Ok(())
}

/// Plans made with row security serve no migration, and a migration's serve nobody else.
fn end() {
    if NOW.take().is_some() {
        transaction::forget_plans();
    }
}

pub fn at_transaction_end() {
    end();
}

pub fn at_subtransaction_abort(level: i32) {
    if NOW.get().is_some_and(|migration| migration.level >= level) {
        end();
    }
}

pub fn at_subtransaction_commit(level: i32) {
    if let Some(migration) = NOW.get().filter(|m| m.level >= level) {
        NOW.set(Some(Migration {
            level: level - 1,
            ..migration
        }));
    }
}

/// In a migration nobody else's authority is taken up.
pub fn forbid(what: &str) -> pg::Result<()> {
    if is_on() {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            format!("cannot {what} in a migration"),
        )
        .set_detail("The transaction works on the rows of all organizations.")
        .set_hint("COMMIT or ROLLBACK first."));
    }
    Ok(())
}
