//! Approving and rejecting. Who may is asked when it is decided, again after the wait for the proposal's row, and again
//! when it is executed: an approval is worth what its approver is.

use super::act::{Proposal, locked, standing};
use super::change::{Change, Risk, invalid};
use super::seen;
use crate::access::matrix::Level;
use crate::access::{self, level_of};
use crate::context::authority::{self, Id};
use crate::context::{self, Standing};
use crate::isolation::{self, Table, Whereabouts, denied, member_may};
use crate::org::id_text;
use crate::pg::query::{Arg, execute};
use crate::pg::{self, fail};
use pgrx::datum::Uuid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::json;

/// Approves a proposal (spec 8), which may be executed once from then on, until it expires. `reason`: for the log.
/// `on_change`: refuse, so that it is for the row as it was when the change was proposed (and this fails where it is not so
/// any more), or accept, so that it is for whatever row has the key. Needs ai:approve, as a person; where one has it limited,
/// also what the change itself needs, in the row's project and environment, on a row that one sees, and it must not be
/// destructive. Errors: 42501 no right, or no person, P0002 no such proposal, 22023 no such on_change, 55000 it is not
/// pending, has expired, was handed in by this very transaction, or row or table have changed.
#[pg_extern(volatile, parallel_unsafe)]
fn approve_proposal(
    id: Option<Uuid>,
    reason: default!(Option<&str>, "NULL"),
    on_change: default!(Option<&str>, "'refuse'"),
) -> pg::Result<()> {
    let id = pg::given(id, "id")?;
    let accepts_change = match pg::given(on_change, "on_change")? {
        "refuse" => false,
        "accept" => true,
        _ => {
            return Err(invalid(
                "on_change is refuse or accept",
                "It says whether the approval holds for a row that has changed since it was proposed.",
                "Leave it out: an approval is for what was looked at.",
            ));
        }
    };
    let doing = "approve a proposal";
    let now = in_person(doing)?;
    let org = now.org_id().unwrap_or_default();
    let mut proposal = locked(&org, id.as_bytes())?;
    let now = in_person(doing)?;
    let user = now.user.unwrap_or_default();
    proposal.require("pending", doing)?;
    if proposal.is_from_here {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the proposal was handed in by this very transaction",
        )
        .set_detail("Nobody can have looked at it yet.")
        .set_hint("COMMIT; it is decided in a transaction of its own."));
    }
    may_approve(&org, &user, &proposal).map_err(|lack| lack.refusal(&now, &proposal))?;
    let change = proposal.change()?;
    if level(&org, &user, "ai:approve")? == Level::Limited {
        may_make(&org, &user, &now, &proposal, &change)?
            .map_err(|lack| lack.refusal(&now, &proposal))?;
    }
    let layout = proposal.require_layout(&change)?;
    proposal.accepts_change = accepts_change;
    if let (Some(kept), false, Some(org)) = (&proposal.seen, accepts_change, now.keys()) {
        let is_same = |row: &_| seen::is_same(kept, &layout, row);
        if change.stored(org, is_same) != Some(true) {
            return Err(seen::changed(&change.table.object));
        }
    }
    decide(&org, proposal, user, "approved", reason, "approve_proposal");
    Ok(())
}

/// Whether somebody with ai:approve limited may himself do what is proposed: he sees the row and may write it, where it is
/// and where it will be, and it is not destructive by now.
fn may_make(
    org: &Id,
    user: &Id,
    now: &Standing,
    proposal: &Proposal,
    change: &Change,
) -> pg::Result<Result<(), Lack>> {
    if change.risk(now)? == Risk::Destructive {
        return Ok(Err(Lack::Destructive));
    }
    let places = change.whereabouts();
    if places.is_empty() || !change.is_writable() {
        return Ok(Err(Lack::Row));
    }
    Ok(may_there(org, user, proposal, &change.table, &places))
}

/// Whether he may do all that is proposed in each of these places.
fn may_there(
    org: &Id,
    user: &Id,
    proposal: &Proposal,
    table: &Table,
    places: &[Whereabouts],
) -> Result<(), Lack> {
    let may = |action: &String| {
        places
            .iter()
            .all(|at| member_may(org, user, table, action, at))
    };
    match proposal.actions.iter().find(|action| !may(action)) {
        None => Ok(()),
        Some(action) => Err(Lack::Action(action.clone())),
    }
}

/// Whether a row that is written now is one that the proposal's approver may have written: where his right to approve is
/// limited he must hold what is done where the row is.
pub fn may_approve_row(
    org: &Id,
    proposal: &Proposal,
    table: &Table,
    rows: &[Whereabouts],
) -> Result<(), Lack> {
    let user = proposal.approver.unwrap_or_default();
    match level(org, &user, "ai:approve").unwrap_or_default() {
        Level::Allow => Ok(()),
        Level::Deny => Err(Lack::Approve),
        Level::Limited => may_there(org, &user, proposal, table, rows),
    }
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
    let accepts = if proposal.accepts_change {
        "accept"
    } else {
        "refuse"
    };
    execute(
        "UPDATE tenancy.proposal_records
         SET state = $2, approver = $3, decided_at = pg_catalog.clock_timestamp(), reason = $4, on_change = $5,
             approved = CASE WHEN $2 OPERATOR(pg_catalog.=) 'approved' THEN $6 END
         WHERE id OPERATOR(pg_catalog.=) $1",
        &[
            Arg::Uuid(&proposal.id),
            Arg::Text(state),
            Arg::Uuid(&user),
            Arg::OptionalText(reason),
            Arg::Text(accepts),
            Arg::Bytes(&proposal.digest()),
        ],
    );
    proposal.approver = Some(user);
    let said = json!({ "reason": reason, "on_change": accepts });
    proposal.record(org, operation, state, said);
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
}

impl Lack {
    pub fn detail(&self) -> String {
        match self {
            Lack::Approve => "The approver does not hold ai:approve there (any more).".into(),
            Lack::Destructive => "With ai:approve limited one approves nothing destructive.".into(),
            Lack::Action(action) => format!(
                "With ai:approve limited one approves only what one may do oneself on that row, and {action} is not."
            ),
            Lack::Row => "With ai:approve limited one approves only what one may do, and the row is none that one sees.".into(),
        }
    }

    fn refusal(&self, now: &Standing, proposal: &Proposal) -> ErrorReport {
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

/// Whether a user's rights, as they are now, are enough to approve, whatever session asks. Where they differ from row to row
/// it is asked of the row, too: may_make() and may_approve_row().
pub fn may_approve(org: &Id, user: &Id, proposal: &Proposal) -> Result<(), Lack> {
    match level(org, user, "ai:approve").unwrap_or_default() {
        Level::Allow => return Ok(()),
        Level::Deny => return Err(Lack::Approve),
        Level::Limited => {}
    }
    if proposal.risk == Risk::Destructive {
        return Err(Lack::Destructive);
    }
    let differ =
        |table: &Table| table.placed.is_some() || table.options.environment_column.is_some();
    if isolation::protected(proposal.table).is_some_and(|table| differ(&table)) {
        return Ok(());
    }
    let lacking = proposal
        .actions
        .iter()
        .find(|action| level(org, user, action).unwrap_or_default() != Level::Allow);
    lacking.map_or(Ok(()), |action| Err(Lack::Action(action.clone())))
}
