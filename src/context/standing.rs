//! The claim checked against authority: the effective organization, role and rights, or the reason there are none.
//!
//! Computed once and kept until something that it rests on changes: a setting (assign hooks), the authority (its bell), a
//! database role, and for a login whose context lasts one transaction the end of that. Login and role in force are
//! compared at each use, since SET SESSION AUTHORIZATION and definer functions pass no hook. A session-scoped login's
//! standing outlives its transactions: assessing it anew in each cost a point read a twentieth (measured).
//!
//! `VERSION` is what call sites in plans compare. It moves with all of these and with every end of a (sub)transaction,
//! because the pin, which a call site sets, goes with it.

use super::authority::{self, Id, Org};
use super::entitle::entitle;
use super::principal::{Principal, principal};
use super::projects::{self, Narrowed, Reach};
use super::settings::ONE_ORG_PER_TRANSACTION;
use super::token::{self, Lapsed};
use super::{cursors, deletion, denial, seal, transaction};
use crate::access::matrix::{Action, Level, Matrix};
use crate::access::rights::Rights;
use crate::access::scopes::Scopes;
use crate::pg::key::Keys;
use crate::pg::local::Backend;
use crate::pg::{self, identity, identity::Runner};
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static VERSION: AtomicU64 = AtomicU64::new(1);
/// What the kept standing was made of.
static BASIS: AtomicU64 = AtomicU64::new(1);

fn basis() -> u64 {
    BASIS.load(Relaxed)
}

/// What `standing()` rests on changed.
pub fn invalidate() {
    VERSION.fetch_add(1, Relaxed);
    BASIS.fetch_add(1, Relaxed);
}

/// A transaction or subtransaction ended: what belonged to it is gone.
pub fn transaction_ended(whole: bool) {
    VERSION.fetch_add(1, Relaxed);
    let passing = || {
        KEPT.with_borrow(|kept| {
            kept.as_ref()
                .is_some_and(|k| k.standing.principal.transaction_scoped())
        })
    };
    if whole && passing() {
        BASIS.fetch_add(1, Relaxed);
    }
}

#[inline]
pub fn version() -> u64 {
    VERSION.load(Relaxed)
}

/// Why there is no effective organization.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// The login is neither bound nor trusted.
    NoPrincipal(String),
    /// A function of another role is in force, and does not act for the superuser that called it.
    Lent,
    /// Nothing was claimed.
    NoClaim,
    /// The claim is from another transaction than this one.
    Void,
    /// The organization is unknown or the user is not in it: never said which.
    Stranger,
    /// The claimed user is unknown.
    UnknownUser,
    /// The login needs a token, or the token it brought has lapsed.
    NoToken(Option<Lapsed>),
    /// A bound login, or one that a token speaks for, named somebody else.
    OtherUser,
    /// The token is for another organization than the claimed one.
    OtherOrg,
    Expired,
    /// Nobody who belongs to the organization answers for the service account.
    NoSponsor,
    /// The member's role is the organization's own, and not active.
    InactiveRole(String),
    /// The project is unknown in the organization or not one that the user sees: never said which.
    UnknownProject,
    UnknownCluster,
    /// The membership may be used from certain networks only: the client's address is not one of theirs, or is unknown.
    WrongNetwork {
        address_known: bool,
    },
}

/// An action, and the organization's interned keys where it may be done there.
type Answer = (Box<[u8]>, Option<&'static Keys>);

/// Answers remembered at most: an action may be computed per row.
const ANSWERS: usize = 64;

pub struct Standing {
    pub principal: Principal,
    /// The user, known even where no organization is in effect.
    pub user: Option<Id>,
    /// The service account, in place of a user.
    pub service: Option<Id>,
    pub org: Option<Rc<Org>>,
    pub role: String,
    pub reason: Option<Reason>,
    pub actor_type: &'static str,
    /// The resources that the membership is limited to.
    pub scopes: Option<Rc<Scopes>>,
    pub(super) expires_at: Option<i64>,
    pub(super) rights: Rc<Rights>,
    /// It rests on the address of the connection, which a parallel worker has not got.
    pub(super) by_connection: bool,
    /// The project that the session narrows itself to.
    pub narrowed: Option<Narrowed>,
    reach: OnceCell<Rc<Reach>>,
    /// What `org_if` answered for these actions: a handful, so a list is searched faster than a map.
    answers: RefCell<Vec<Answer>>,
    pub matrix: Rc<Matrix>,
}

impl Standing {
    pub fn org_id(&self) -> Option<Id> {
        self.org.as_ref().map(|o| o.id)
    }

    /// Who acts, in the audit's eyes: the user or the service account.
    #[inline]
    pub fn actor(&self) -> Option<Id> {
        self.user.or(self.service)
    }

    pub fn level(&self, action: Action) -> Level {
        self.rights.level(action)
    }

    /// The level in an environment; without one, what holds in all of them.
    pub fn level_in(&self, action: Action, environment: Option<&str>) -> Level {
        self.rights.level_in(action, environment)
    }

    pub fn rights(&self) -> &Rc<Rights> {
        &self.rights
    }

    /// Whether the context may do the action in the organization as a whole: a membership that is limited to resources
    /// may do nothing there (spec 3.8).
    pub fn may(&self, action: Action) -> bool {
        self.scopes.is_none() && self.may_within_scope(action)
    }

    /// Whether the context may do the action on the resources that its membership shows, all of them or those listed.
    pub fn may_within_scope(&self, action: Action) -> bool {
        self.org.is_some() && self.level(action) == Level::Allow
    }

    /// Whether the organization has projects at all.
    pub fn has_projects(&self) -> bool {
        self.org.is_some() && !self.reach().all().is_empty()
    }

    /// What the context has in the organization's projects.
    pub fn reach(&self) -> Rc<Reach> {
        let reach = || Rc::new(projects::reach_of(self));
        self.reach.get_or_init(reach).clone()
    }

    /// Whether the organization's rows are read and not written.
    #[inline]
    pub fn is_suspended(&self) -> bool {
        self.org.as_ref().is_some_and(|o| o.suspended)
    }

    /// The organization in every form that a table's column may name it by.
    #[inline]
    pub fn keys(&self) -> Option<&'static Keys> {
        self.org.as_ref().map(|o| o.keys())
    }

    /// The organization's interned keys if the context may do the action there; the slow way is asked once for each.
    pub fn answer(
        &self,
        action: &[u8],
        slowly: impl FnOnce() -> Option<&'static Keys>,
    ) -> Option<&'static Keys> {
        let known = self
            .answers
            .borrow()
            .iter()
            .find(|(a, _)| **a == *action)
            .map(|(_, org)| *org);
        known.unwrap_or_else(|| {
            let org = slowly();
            let mut answers = self.answers.borrow_mut();
            if answers.len() < ANSWERS {
                answers.push((action.into(), org));
            }
            org
        })
    }

    /// Whether an action that was answered before is one that the context may do; false also where nobody asked yet.
    pub fn may_do(&self, action: &str) -> bool {
        let answers = self.answers.borrow();
        answers
            .iter()
            .any(|(known, org)| org.is_some() && **known == *action.as_bytes())
    }

    pub(super) fn expired(&self) -> bool {
        self.expires_at
            .is_some_and(|at| at <= pg::transaction::now())
    }
}

struct Kept {
    basis: u64,
    runner: Runner,
    standing: Rc<Standing>,
}

static ASSESSING: Backend<Cell<u32>> = Backend::new(Cell::new(0));

/// While a standing is made, our own look-ups are statements that start, too.
struct Assessing;

impl Assessing {
    fn begin() -> Assessing {
        ASSESSING.set(ASSESSING.get() + 1);
        Assessing
    }
}

impl Drop for Assessing {
    fn drop(&mut self) {
        ASSESSING.set(ASSESSING.get() - 1);
    }
}

pub fn is_assessing() -> bool {
    ASSESSING.get() > 0
}

static KEPT: Backend<RefCell<Option<Kept>>> = Backend::new(RefCell::new(None));

/// Who the session acts as, where and with which rights, now. Raises where that is not what was sealed.
pub fn standing() -> Rc<Standing> {
    let now = unsealed();
    if seal::is_on() {
        seal::hold(&now, true);
    }
    now
}

/// `standing` for the comparison with the seal.
pub(super) fn unsealed() -> Rc<Standing> {
    let runner = identity::runner();
    let kept = KEPT.with_borrow(|kept| {
        kept.as_ref()
            .filter(|k| k.basis == basis() && k.runner == runner)
            .map(|k| k.standing.clone())
    });
    if let Some(standing) = kept.filter(|s| !s.expired()) {
        return standing;
    }
    pg::transaction::accept_invalidations();
    let basis = basis();
    let assessing = Assessing::begin();
    let standing = Rc::new(assess());
    drop(assessing);
    KEPT.set(Some(Kept {
        basis,
        runner,
        standing: standing.clone(),
    }));
    cursors::settle(&standing);
    standing
}

/// At the start of each statement, after the news of other backends was taken in: what the clock did.
#[inline]
pub fn watch_the_clock() {
    let expired = KEPT.with_borrow(|kept| kept.as_ref().is_some_and(|k| k.standing.expired()));
    if expired {
        invalidate();
    }
}

/// What other backends revoked, and what the clock did.
pub fn refresh() {
    pg::transaction::accept_invalidations();
    watch_the_clock();
}

/// Whether only this process knows what the context rests on: no parallel worker is started then.
pub fn stays_here() -> bool {
    token::in_force().is_some() || seal::is_on() || is_void() || standing().by_connection
}

/// Whether the context is one that this transaction may not use.
fn is_void() -> bool {
    KEPT.with_borrow(|kept| {
        kept.as_ref()
            .is_none_or(|k| k.basis != basis() || k.standing.reason == Some(Reason::Void))
    }) && standing().reason == Some(Reason::Void)
}

fn assess() -> Standing {
    let principal = principal();
    let matrix = authority::matrix();
    let service = match principal {
        Principal::Service { account, .. } => Some(account),
        _ => None,
    };
    let mut standing = Standing {
        user: None,
        service,
        org: None,
        role: String::new(),
        reason: None,
        actor_type: if service.is_some() {
            "service"
        } else {
            "human"
        },
        scopes: None,
        expires_at: None,
        rights: Rc::default(),
        by_connection: false,
        narrowed: None,
        reach: OnceCell::new(),
        answers: RefCell::default(),
        matrix,
        principal,
    };
    if let Some(org) = deletion::org() {
        // What removes an organization acts there, and nowhere else (context/deletion.rs).
        standing.role = "deletion".into();
        standing.rights = Rc::new(standing.matrix.everything());
        standing.org = authority::org_in_any_state(&org);
        return standing;
    }
    if let Err(reason) = entitle(&mut standing) {
        standing.org = None;
        standing.role.clear();
        standing.rights = Rc::default();
        standing.scopes = None;
        standing.reach.take();
        standing.reason = Some(reason);
    }
    standing
}

/// Holds the transaction to its first organization and user (spec 4): deferred triggers, open cursors and audit rows
/// would otherwise see another one than the statement that made them.
pub fn pin(standing: &Standing) -> pg::Result<()> {
    if let Some(org) = standing.org_id() {
        transaction::pin(org, standing.actor());
    }
    hold_to_pin(standing)
}

/// Refuses another organization or user than the pinned one, without pinning.
pub fn hold_to_pin(standing: &Standing) -> pg::Result<()> {
    let Some(org) = standing.org_id() else {
        return Ok(());
    };
    match transaction::pinned() {
        None => {}
        Some(pin) if pin.org == org && pin.actor == standing.actor() => {}
        Some(_) if !ONE_ORG_PER_TRANSACTION.get() => {}
        Some(_) => return Err(denial::second_org()),
    }
    Ok(())
}
