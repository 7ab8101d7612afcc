//! Approving and rejecting. Who may is asked when it is decided, again after the wait for the proposal's row, and again
//! when it is executed: an approval is worth what its approver is.

use super::act::{Proposal, locked, standing};
use super::change::Risk;
use crate::access::matrix::Level;
use crate::access::{self, level_of};
use crate::context::authority::{self, Id};
use crate::context::{self, Standing};
use crate::isolation::{self, denied};
use crate::org::id_text;
use crate::pg;
use crate::pg::query::{Arg, execute};
use pgrx::datum::Uuid;
use pgrx::prelude::*;
use serde_json::json;

/// Approves a proposal (spec 8), which may be executed once from then on, until it expires. `reason`: for the log. Needs
/// ai:approve, as a person; where one has it limited, also what the change itself needs, on a row that one may write and that belongs to no project, and it must
/// not be destructive. Errors: 42501 no right, or no person, P0002 no such proposal, 55000 it is not pending, or has expired.
#[pg_extern(volatile, parallel_unsafe)]
fn approve_proposal(id: Option<Uuid>, reason: default!(Option<&str>, "NULL")) -> pg::Result<()> {
    let id = pg::given(id, "id")?;
    let doing = "approve a proposal";
    let now = in_person(doing)?;
    let org = now.org_id().unwrap_or_default();
    let proposal = locked(&org, id.as_bytes())?;
    let now = in_person(doing)?;
    let user = now.user.unwrap_or_default();
    proposal.require("pending", doing)?;
    may_approve(&org, &user, &proposal).map_err(|lack| lack.refusal(&now, &proposal))?;
    if level(&org, &user, "ai:approve")? == Level::Limited && !proposal.change()?.is_writable() {
        return Err(Lack::Row.refusal(&now, &proposal));
    }
    decide(&org, proposal, user, "approved", reason, "approve_proposal");
    Ok(())
}

/// Rejects a proposal (spec 8). Needs ai:approve, limited or not, as a person. `reason`: for the log and the proposer. Errors:
/// 42501 no right, or no person, P0002 no such proposal, 55000 it is not pending, or has expired.
#[pg_extern(volatile, parallel_unsafe)]
fn reject_proposal(id: Option<Uuid>, reason: default!(Option<&str>, "NULL")) -> pg::Result<()> {
    let id = pg::given(id, "id")?;
    let doing = "reject a proposal";
    let now = in_person(doing)?;
    let org = now.org_id().unwrap_or_default();
    let proposal = locked(&org, id.as_bytes())?;
    let now = in_person(doing)?;
    proposal.require("pending", doing)?;
    decide(
        &org,
        proposal,
        now.user.unwrap_or_default(),
        "rejected",
        reason,
        "reject_proposal",
    );
    Ok(())
}

fn decide(
    org: &Id,
    mut proposal: Proposal,
    user: Id,
    state: &str,
    reason: Option<&str>,
    operation: &str,
) {
    execute(
        "UPDATE tenancy.proposal_records
         SET state = $2, approver = $3, decided_at = pg_catalog.clock_timestamp(), reason = $4
         WHERE id OPERATOR(pg_catalog.=) $1",
        &[
            Arg::Uuid(&proposal.id),
            Arg::Text(state),
            Arg::Uuid(&user),
            Arg::OptionalText(reason),
        ],
    );
    proposal.approver = Some(user);
    proposal.record(org, operation, state, json!({ "reason": reason }));
}

/// A person who holds ai:approve at least in part. An AI actor does not approve what AI actors do, and a service is nobody
/// who could be asked about it.
fn in_person(doing: &str) -> pg::Result<std::rc::Rc<Standing>> {
    let now = standing(doing)?;
    context::pin(&now)?;
    context::no_ai(doing)?;
    if now.actor_type != "human" || now.user.is_none() {
        return Err(denied(
            format!(
                "permission denied: actor type {} may not {doing}",
                now.actor_type
            ),
            "What an AI actor may write is decided by a person.",
            "Decide in the session of a user, with actor type human.",
        ));
    }
    let approve = access::action(&now.matrix, "ai:approve")?;
    // A membership that is limited to resources decides nothing for the organization.
    if now.scopes.is_some() || now.level(approve) == Level::Deny {
        return Err(context::no_right(&now, "ai:approve", "in the organization"));
    }
    Ok(now)
}

/// What keeps somebody from approving.
pub enum Lack {
    /// ai:approve itself.
    Approve,
    Destructive,
    Action(String),
    Row,
    Project,
}

impl Lack {
    pub fn detail(&self) -> String {
        match self {
            Lack::Approve => "The approver does not hold ai:approve there (any more).".into(),
            Lack::Destructive => "With ai:approve limited one approves nothing destructive.".into(),
            Lack::Action(action) => format!(
                "With ai:approve limited one approves only what one may do, and {action} is not."
            ),
            Lack::Project => "With ai:approve limited one approves nothing in tables whose rows belong to projects: rights differ from one to the other.".into(),
            Lack::Row => "With ai:approve limited one approves only what one may do, and the row is none that one sees.".into(),
        }
    }

    fn refusal(&self, now: &Standing, proposal: &Proposal) -> pgrx::pg_sys::panic::ErrorReport {
        denied(
            format!(
                "permission denied: role \"{}\" may not approve this proposal",
                now.role
            ),
            self.detail(),
            &format!(
                "Somebody with ai:approve approves proposal {}.",
                id_text(&proposal.id)
            ),
        )
    }
}

fn level(org: &Id, user: &Id, action: &str) -> pg::Result<Level> {
    let action = access::action(&authority::matrix(), action)?;
    if access::is_scoped(org, user) {
        return Ok(Level::Deny);
    }
    Ok(level_of(org, user, action, None))
}

/// Whether a user's rights, as they are now, are enough to approve: whatever session asks.
pub fn may_approve(org: &Id, user: &Id, proposal: &Proposal) -> Result<(), Lack> {
    match level(org, user, "ai:approve").unwrap_or_default() {
        Level::Allow => return Ok(()),
        Level::Deny => return Err(Lack::Approve),
        Level::Limited => {}
    }
    if proposal.risk == Risk::Destructive {
        return Err(Lack::Destructive);
    }
    if isolation::protected(proposal.table).is_none_or(|table| table.placed.is_some()) {
        return Err(Lack::Project);
    }
    let lacking = proposal
        .actions
        .iter()
        .find(|action| level(org, user, action).unwrap_or_default() != Level::Allow);
    lacking.map_or(Ok(()), |action| Err(Lack::Action(action.clone())))
}
