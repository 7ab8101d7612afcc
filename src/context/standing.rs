//! The claim checked against authority: the effective organization, role and rights, or the reason there are none.
//!
//! Computed once and kept until something that it rests on changes: a setting (assign hooks), the authority (its bell), a
//! database role, and for a login whose context lasts one transaction the end of that. Login and role in force are
//! compared at each use, since SET SESSION AUTHORIZATION and definer functions pass no hook. A session-scoped login's
//! standing outlives its transactions: assessing it anew in each cost a point read a twentieth (measured).
//!
//! `VERSION` is what call sites in plans compare. It moves with all of these and with every end of a (sub)transaction,
//! because the pin, which a call site sets, goes with it.

use super::authority::{self, ApiKey, Id, Membership, Org};
use super::principal::{Principal, principal};
use super::projects::{self, Narrowed, Reach};
use super::settings::{self, ONE_ORG_PER_TRANSACTION, Setting};
use super::token::{self, Lapsed};
use super::{cursors, denial, network, seal, transaction};
use crate::access::matrix::{Action, Level, Matrix};
use crate::access::rights::Rights;
use crate::access::scopes::Scopes;
use crate::pg::key::Keys;
use crate::pg::local::Backend;
use crate::pg::{self, identity, identity::Runner};
use ipnet::IpNet;
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
    expires_at: Option<i64>,
    rights: Rc<Rights>,
    /// It rests on the address of the connection, which a parallel worker has not got.
    by_connection: bool,
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

    fn expired(&self) -> bool {
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

fn entitle(s: &mut Standing) -> Result<(), Reason> {
    s.user = claimed_user(&s.principal)?;
    s.actor_type = actor_type(&s.principal, s.user.is_some());
    if matches!(s.principal, Principal::Token { .. }) {
        s.expires_at = token::until();
    }
    let org = claimed_org(&s.principal)?;
    match (&s.user, &s.principal) {
        (Some(user), _) => {
            let membership = authority::membership(&org.id, user).ok_or(Reason::Stranger)?;
            s.expires_at = [s.expires_at, membership.expires_at]
                .into_iter()
                .flatten()
                .min();
            if s.expired() {
                return Err(Reason::Expired);
            }
            check_network(s, membership.allowed.as_deref())?;
            let role = authority::role(&org.id, &membership.role).filter(|role| role.active);
            let inactive = || Reason::InactiveRole(membership.role.clone());
            s.rights = role.ok_or_else(inactive)?.rights;
            s.role.clone_from(&membership.role);
            s.scopes.clone_from(&membership.scopes);
        }
        (None, Principal::Service { key, .. }) => {
            let key = authority::api_key(key).ok_or(Reason::NoToken(Some(Lapsed::ApiKey)))?;
            serve(s, &org, &key)?;
        }
        (None, Principal::Application { service_role, .. }) => {
            s.role.clone_from(service_role);
            s.rights = s.matrix.rights(&s.role).unwrap_or_default();
        }
        (None, Principal::Dba) => {
            s.role = "dba".into();
            s.rights = Rc::new(s.matrix.everything());
        }
        (None, Principal::Nobody { login }) => return Err(Reason::NoPrincipal(login.clone())),
        (None, Principal::Tokenless { lapsed }) => return Err(Reason::NoToken(*lapsed)),
        (None, Principal::User { .. } | Principal::Token { .. }) => {
            return Err(Reason::UnknownUser);
        }
    }
    s.org = Some(org);
    s.narrowed = projects::narrowed(s)?;
    Ok(())
}

/// What a service account's key gives: the account's role, as far as the member who answers for the account holds it
/// himself at this moment.
fn serve(s: &mut Standing, org: &Org, key: &ApiKey) -> Result<(), Reason> {
    check_network(s, key.allowed.as_deref())?;
    let sponsor = key
        .sponsor
        .and_then(|user| authority::membership(&org.id, &user))
        .ok_or(Reason::NoSponsor)?;
    if sponsor
        .expires_at
        .is_some_and(|at| at <= pg::transaction::now())
    {
        return Err(Reason::NoSponsor);
    }
    s.expires_at = [key.expires_at, sponsor.expires_at]
        .into_iter()
        .flatten()
        .min();
    let role = authority::role(&org.id, &key.role).filter(|role| role.active);
    let role = role.ok_or_else(|| Reason::InactiveRole(key.role.clone()))?;
    let held = crate::access::rights_of(&org.id, &sponsor.role);
    s.rights = Rc::new(role.rights.in_common(&held));
    // Never above whoever answers for it: what he is limited to limits it.
    s.scopes.clone_from(&sponsor.scopes);
    s.role.clone_from(&key.role);
    Ok(())
}

fn check_network(s: &mut Standing, allowed: Option<&[IpNet]>) -> Result<(), Reason> {
    let Some(allowed) = allowed else {
        return Ok(());
    };
    s.by_connection = matches!(
        network::origin(&s.principal),
        network::Origin::Connection(_)
    );
    let address = network::address_of_user(&s.principal);
    if network::admits(allowed, address) {
        return Ok(());
    }
    Err(Reason::WrongNetwork {
        address_known: address.is_some(),
    })
}

/// Whether a membership may be used from where the session's client is; true of everybody else's, of whose address nothing
/// is known.
pub fn admits_from_here(user: &Id, membership: &Membership) -> bool {
    membership.allowed.as_ref().is_none_or(|allowed| {
        let now = standing();
        now.user != Some(*user)
            || network::admits(allowed, network::address_of_user(&now.principal))
    })
}

/// The organization that the session names. A token's own needs no naming, and allows no other.
fn claimed_org(principal: &Principal) -> Result<Rc<Org>, Reason> {
    let claim = settings::claimed(Setting::Org);
    let valid = |c: &settings::Claimed| c.in_this_transaction || !principal.transaction_scoped();
    let only = match principal {
        Principal::Token { org: Some(org), .. } => Some(authority::org(org)),
        Principal::Service { org, .. } => Some(authority::org_by_id(org)),
        _ => None,
    };
    if let Some(org) = only {
        let org = org.ok_or(Reason::Stranger)?;
        return match claim.filter(valid).map(|c| authority::org(&c.text)) {
            None => Ok(org),
            Some(Some(claimed)) if claimed.id == org.id => Ok(org),
            Some(_) => Err(Reason::OtherOrg),
        };
    }
    match claim {
        None => Err(Reason::NoClaim),
        Some(c) if !valid(&c) => Err(Reason::Void),
        Some(c) => authority::org(&c.text).ok_or(Reason::Stranger),
    }
}

fn claimed_user(principal: &Principal) -> Result<Option<Id>, Reason> {
    let claim = settings::claimed(Setting::User);
    match principal {
        Principal::Nobody { .. } if identity::is_lent() => Err(Reason::Lent),
        Principal::Nobody { login } => Err(Reason::NoPrincipal(login.clone())),
        Principal::Tokenless { lapsed } => Err(Reason::NoToken(*lapsed)),
        Principal::User { user } => match claim {
            Some(c) if authority::user(&c.text) != Some(*user) => Err(Reason::OtherUser),
            _ => Ok(Some(*user)),
        },
        Principal::Token { user, .. } => match claim {
            // One that the pooler's previous client left behind says nothing.
            Some(c)
                if (c.in_this_transaction || !principal.transaction_scoped())
                    && authority::user(&c.text) != Some(*user) =>
            {
                Err(Reason::OtherUser)
            }
            _ => authority::user(&uuid::Uuid::from_bytes(*user).hyphenated().to_string())
                .filter(|known| known == user)
                .map(Some)
                .ok_or(Reason::UnknownUser),
        },
        // As for a token: what an earlier transaction left behind says nothing.
        Principal::Service { .. } => match claim {
            Some(c) if c.in_this_transaction || !principal.transaction_scoped() => {
                Err(Reason::OtherUser)
            }
            _ => Ok(None),
        },
        Principal::Application { .. } | Principal::Dba => match claim {
            None => Ok(None),
            Some(c) if principal.transaction_scoped() && !c.in_this_transaction => {
                Err(Reason::Void)
            }
            Some(c) => authority::user(&c.text)
                .map(Some)
                .ok_or(Reason::UnknownUser),
        },
    }
}

/// Whether app.current_user_id says anything at all, void or not.
pub fn names_a_user() -> bool {
    settings::claimed(Setting::User).is_some()
}

/// The login's name.
pub fn login() -> String {
    identity::role_name(identity::session_user()).unwrap_or_default()
}

/// A setting's value, where this principal's context may still rest on it: a pooler's next client inherits nothing of
/// a transaction-scoped login's.
pub fn honoured(principal: &Principal, setting: Setting) -> Option<String> {
    settings::claimed(setting)
        .filter(|c| c.in_this_transaction || !principal.transaction_scoped())
        .map(|c| c.text)
}

/// Only a trusted application (or the DBA) says whether a person, an AI or a service acts.
fn actor_type(principal: &Principal, has_user: bool) -> &'static str {
    if let Principal::Token { actor_type, .. } = principal {
        return actor_type;
    }
    if let Principal::Service { .. } = principal {
        return "service";
    }
    let named = match principal {
        Principal::Application { .. } | Principal::Dba => honoured(principal, Setting::ActorType),
        _ => None,
    };
    match named.as_deref() {
        Some("ai") => "ai",
        Some("service") => "service",
        Some("human") => "human",
        _ if has_user || *principal == Principal::Dba => "human",
        _ => "service",
    }
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
