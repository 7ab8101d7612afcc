//! The seal (spec 4): freezes whose rows a transaction sees, against SQL that is injected into it later.
//!
//! Settings, roles and row_security stay as changeable as PostgreSQL makes them: some ways to change them pass no hook
//! (RESET, set_config(.., NULL), set_config('role', ..)). So nothing is intercepted. What is in force is compared with
//! what was sealed whenever a statement starts, whenever a policy or a guard asks, and before commit, and a difference
//! raises, however it was made.
//!
//! Only the end of the transaction lifts it, no savepoint does. And a COMMIT stacked into the client's message gains
//! nothing: until that message ends, no other context can be made, nor be left behind for the next.

use super::network::{Origin, origin};
use super::principal::Principal;
use super::settings::{self, Setting};
use super::standing::{self, Reason, Standing};
use super::token::Lapsed;
use super::{authority::Id, denial, migration};
use crate::pg::local::Backend;
use crate::pg::{self, fail, identity, transaction};
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use std::cell::{Cell, RefCell};

struct Seal {
    org: Id,
    user: Option<Id>,
    principal: Principal,
    actor_type: &'static str,
    /// The network that a membership is held to, and what the audit says of the client, are decided by it.
    origin: Origin,
    claims: Claims,
    roles: identity::Roles,
    row_security: bool,
    /// The message in which its transaction ended.
    ended_in: Option<i64>,
    /// Whether a statement started since: transaction control alone need not be compared.
    went_on: bool,
}

/// The organization and user that the session names.
type Claims = [Option<String>; 2];

fn claims() -> Claims {
    [Setting::Org, Setting::User].map(settings::text)
}

static SEAL: Backend<RefCell<Option<Seal>>> = Backend::new(RefCell::new(None));
static ON: Backend<Cell<bool>> = Backend::new(Cell::new(false));

/// What differs from what was sealed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Broken {
    Org,
    User,
    ActorType,
    ClientAddr,
    Role,
    RowSecurity,
}

/// Whether there may be something to compare; cheap.
#[inline]
pub fn is_on() -> bool {
    ON.get()
}

/// At the start of a statement and before commit: compares what is in force with the seal, and raises where it differs.
pub fn check() {
    if is_on() && !standing::is_assessing() {
        hold(&standing::unsealed(), false);
    }
}

/// `check` for a standing that somebody `asks` for.
pub fn hold(now: &Standing, asks: bool) {
    let ended = SEAL.with_borrow(|seal| seal.as_ref().and_then(|s| s.ended_in));
    let after = ended.is_some_and(|message| message != transaction::message());
    // What a message that is over began and left open is looked at once more.
    if after && ended != Some(transaction::start()) {
        return lift();
    }
    let broken = SEAL.with_borrow_mut(|seal| {
        let seal = seal.as_mut()?;
        seal.went_on |= ended.is_some();
        differs(seal, now, ended.is_some() && !asks)
    });
    match broken {
        Some(broken) => Err(denial::seal_broken(broken, ended.is_some())).unwrap_or_report(),
        None if after => lift(),
        None => {}
    }
}

fn lift() {
    SEAL.set(None);
    ON.set(false);
}

/// `or_none`: having no context will do as well, where that shows nothing. After the transaction, statements that ask for
/// none may follow in the message: drivers clean up so (`ROLLBACK; RESET ALL`).
fn differs(seal: &Seal, now: &Standing, or_none: bool) -> Option<Broken> {
    if seal.roles != identity::roles() {
        return Some(Broken::Role);
    }
    if seal.row_security != identity::row_security() {
        return Some(Broken::RowSecurity);
    }
    let same_user = now.user == seal.user && now.principal == seal.principal;
    match now.org_id() {
        // Code of another role, or that PostgreSQL runs restricted, may have no context at all. That shows nothing.
        None if identity::is_lent() || identity::is_restricted() => None,
        // Nor has one whom the organization shut out meanwhile, and who still names it.
        None if (or_none || was_shut_out(seal, now))
            && (same_user || now.user.is_none())
            && !identity::outer_bypasses() =>
        {
            None
        }
        Some(org) if org == seal.org && !same_user => Some(Broken::User),
        Some(org) if org == seal.org && now.actor_type != seal.actor_type => {
            Some(Broken::ActorType)
        }
        Some(org) if org == seal.org => {
            (origin(&now.principal) != seal.origin).then_some(Broken::ClientAddr)
        }
        _ => Some(Broken::Org),
    }
}

/// Whether the authority changed and not the session: it says what it said, and brought the token it had.
fn was_shut_out(seal: &Seal, now: &Standing) -> bool {
    let by_itself = matches!(
        now.reason,
        Some(Reason::NoClaim | Reason::NoToken(None | Some(Lapsed::Left)))
    );
    !by_itself && claims() == seal.claims
}

/// Seals the context that is in force.
pub fn seal() -> pg::Result<()> {
    migration::forbid("seal a context")?;
    if transaction::in_parallel_mode() {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_INVALID_TRANSACTION_STATE,
            "cannot seal a context during a parallel operation",
        )
        .set_detail("The workers would not know of it.")
        .set_hint("Call tenancy.seal_context() in a statement of its own."));
    }
    if !transaction::in_block() {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_NO_ACTIVE_SQL_TRANSACTION,
            "sealing a context needs a transaction block",
        )
        .set_detail("The seal would end with this statement.")
        .set_hint("BEGIN; SELECT tenancy.enter('<organization>', seal => true); ...; COMMIT."));
    }
    let now = standing::standing();
    let Some(org) = now.org_id() else {
        return Err(denial::without_context(&now, "seal"));
    };
    standing::pin(&now)?;
    // One that holds already holds for the same, as standing() has seen. It is renewed: it may be that of a transaction
    // before this one in the message, which ends with the message.
    SEAL.set(Some(Seal {
        org,
        user: now.user,
        principal: now.principal.clone(),
        actor_type: now.actor_type,
        origin: origin(&now.principal),
        claims: claims(),
        roles: identity::roles(),
        row_security: identity::row_security(),
        ended_in: None,
        went_on: false,
    }));
    ON.set(true);
    Ok(())
}

/// Whether this transaction's context is sealed.
pub fn is_sealed() -> bool {
    SEAL.with_borrow(|seal| seal.as_ref().is_some_and(|s| s.ended_in.is_none()))
}

/// Before BEGIN, COMMIT, ROLLBACK and the like. An error ends a transaction at once, for us, and its block only when it is
/// left: the message that leaves it is held as the one that ends a transaction (attack H-1).
pub fn before_transaction_control() {
    if is_on() && transaction::is_failed_block() {
        SEAL.with_borrow_mut(|seal| {
            if let Some(seal) = seal.as_mut().filter(|s| s.ended_in.is_some()) {
                seal.ended_in = Some(transaction::message());
            }
        });
    }
}

/// What would outlast the transaction (SET ROLE, SET SESSION AUTHORIZATION) is not committed.
pub fn before_commit() {
    if is_on()
        && SEAL.with_borrow(|s| {
            s.as_ref()
                .is_some_and(|s| s.ended_in.is_none() || s.went_on)
        })
    {
        check();
    }
}

pub fn at_transaction_end() {
    if !is_on() {
        return;
    }
    let (message, start) = (transaction::message(), transaction::start());
    let over = SEAL.with_borrow_mut(|seal| {
        seal.as_mut().is_none_or(|seal| {
            let before = seal.ended_in.replace(message);
            before.is_some_and(|before| before != message && before != start)
        })
    });
    if over {
        lift();
    }
}
