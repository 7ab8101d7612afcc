//! Executing an approved proposal: the stored change is made, under every rule that holds for the AI actor's user, while
//! the door is open for it. What fails leaves the proposal failed, and the row as it was.

use super::act::{Proposal, locked, standing};
use super::change::Risk;
use super::decide::{Lack, may_approve, may_approve_row};
use super::door::{self, Door};
use super::propose::{others, require};
use super::seen;
use crate::context;
use crate::context::authority::Id;
use crate::isolation::{Table, Whereabouts, denied};
use crate::pg::catalog::lock_for_writing;
use crate::pg::query::{Arg, execute};
use crate::pg::trigger::RowImage;
use crate::pg::{self, attempt, fail};
use pgrx::datum::Uuid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::json;
use std::rc::Rc;

/// Makes the change of an approved proposal, once (spec 8); answers the state that it is in then: completed, or failed,
/// with the error kept in the proposal and the row as it was: so where the row is not the one that was approved, or the table.
/// Its approver must still be who may approve it. For an AI actor
/// that acts for the user who made the proposal, with ai:use and what the change itself needs; production protection holds.
/// Errors: 42501 no right, another's proposal, no AI actor, or an approver who may not approve it any more, P0002 no such
/// proposal, 55000 it is not approved, or has expired.
#[pg_extern(volatile, parallel_unsafe)]
fn execute_proposal(id: Option<Uuid>) -> pg::Result<&'static str> {
    let id = pg::given(id, "id")?;
    let doing = "execute a proposal";
    let now = standing(doing)?;
    context::pin(&now)?;
    let org = now.org_id().unwrap_or_default();
    require(&now, "ai:use", "in the organization")?;
    if door::is_open() {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "a proposal is being executed",
        )
        .set_detail("A trigger of its change executes another one.")
        .set_hint("Execute them one after the other."));
    }
    let mut proposal = locked(&org, id.as_bytes())?;
    let now = standing(doing)?;
    require(&now, "ai:use", "in the organization")?;
    if now.actor_type != "ai" {
        return Err(denied(
            format!(
                "permission denied: actor type {} may not {doing}",
                now.actor_type
            ),
            "What was approved is that an AI actor does it.",
            "A person writes the row, without a proposal.",
        ));
    }
    if proposal.created_by != now.actor() {
        return Err(others(&now));
    }
    proposal.require("approved", doing)?;
    require_approver(&org, &proposal)?;
    set_state(&proposal, "executing", None);
    proposal.state = "executing".into();
    let proposal = Rc::new(proposal);
    match attempt::in_subtransaction(|| make(&org, &proposal)) {
        Ok(()) => {
            set_state(&proposal, "completed", None);
            proposal.record(&org, "execute_proposal", "completed", json!({}));
            Ok("completed")
        }
        Err(failure) => {
            let error = format!("{}: {}", failure.code, failure.message);
            let error: String = error.chars().take(1000).collect();
            set_state(&proposal, "failed", Some(&error));
            proposal.record(
                &org,
                "execute_proposal",
                "failed",
                json!({ "error": error }),
            );
            Ok("failed")
        }
    }
}

/// An approval is worth what its approver is, now.
fn require_approver(org: &Id, proposal: &Proposal) -> pg::Result<()> {
    let approver = proposal.approver.unwrap_or_default();
    may_approve(org, &approver, proposal).map_err(|lack| no_more(&lack))
}

fn no_more(lack: &Lack) -> ErrorReport {
    denied(
        "permission denied: the proposal's approver may not approve it any more",
        lack.detail(),
        "Propose it again, for somebody else to approve.",
    )
}

fn set_state(proposal: &Proposal, state: &str, error: Option<&str>) {
    execute(
        "UPDATE tenancy.proposal_records
         SET state = $2, error = $3,
             executed_at = CASE WHEN $2 OPERATOR(pg_catalog.=) 'executing' THEN pg_catalog.clock_timestamp() ELSE executed_at END
         WHERE id OPERATOR(pg_catalog.=) $1",
        &[
            Arg::Uuid(&proposal.id),
            Arg::Text(state),
            Arg::OptionalText(error),
        ],
    );
}

fn make(org: &Id, proposal: &Rc<Proposal>) -> pg::Result<()> {
    // Nobody alters the table between the look at it and the change.
    lock_for_writing(proposal.table);
    let change = proposal.change()?;
    proposal.require_untouched()?;
    let layout = proposal.require_layout(&change)?;
    let mut door = Door::new(*org, change.table.root, change.event, change.row_key());
    let (org, approved) = (*org, proposal.clone());
    door.check = Some(Rc::new(
        move |table: &Table, old: Option<&RowImage>, new: Option<&RowImage>| {
            if let (Some(kept), Some(old), false) = (&approved.seen, old, approved.accepts_change)
                && !seen::is_same(kept, &layout, old)
            {
                return Err(seen::changed(&table.object));
            }
            let rows = [old, new].into_iter().flatten();
            let places: Vec<Whereabouts> = rows.map(|row| Whereabouts::of(table, row)).collect();
            may_approve_row(&org, &approved, table, &places).map_err(|lack| no_more(&lack))
        },
    ));
    door.destructive = proposal.risk == Risk::Destructive;
    door.approver = proposal.approver.unwrap_or_default();
    let (rows, passed) = door::while_open(door, || change.make());
    if rows != 1 || !passed {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            format!(
                "the change was made to {rows} rows of table {}",
                change.table.object
            ),
        )
        .set_detail("A proposal is about one row, which the actor sees and may change.")
        .set_hint("Look at the row, and propose what is to be done now."));
    }
    // While it was made, it may have waited for others: what they revoked counts, and so does the clock.
    context::refresh();
    require_approver(&org, proposal)?;
    if proposal.has_expired() {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the proposal is expired",
        )
        .set_detail("It expired while it was executed.")
        .set_hint("Propose it again."));
    }
    Ok(())
}
