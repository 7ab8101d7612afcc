//! A proposal as it is stored, and what is written down when it moves on.

use super::change::{Change, Payload, Risk, event_named, object};
use super::propose::sees;
use crate::audit::{self, Act};
use crate::context::authority::Id;
use crate::context::{self, Standing};
use crate::org::id_text;
use crate::pg::query::{Arg, run};
use crate::pg::{self, fail, transaction};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::{Value as Json, json};

pub struct Proposal {
    pub id: Id,
    pub state: String,
    pub actions: Vec<String>,
    pub table: pg_sys::Oid,
    operation: String,
    key: Option<String>,
    payload: Option<String>,
    pub risk: Risk,
    pub created_by: Option<Id>,
    pub approver: Option<Id>,
    expires_at: i64,
}

/// The context, where an organization is in effect that is no AI actor's to leave.
pub fn standing(doing: &str) -> pg::Result<std::rc::Rc<Standing>> {
    context::refresh();
    let now = context::standing();
    if now.org.is_none() {
        return Err(context::without_context(&now, doing));
    }
    if now.is_suspended() {
        return Err(context::suspended(&now.org_id().unwrap_or_default(), doing));
    }
    Ok(now)
}

pub fn no_such(id: &Id) -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
        "there is no such proposal",
    )
    .set_detail(format!(
        "The organization in effect has none with the id {}.",
        id_text(id)
    ))
    .set_hint("SELECT * FROM tenancy.proposals lists them.")
}

/// The proposal, locked until the transaction ends; what others decided while we waited is in it.
pub fn locked(org: &Id, id: &Id) -> pg::Result<Proposal> {
    let found = run(
        "SELECT state, actions, table_name::pg_catalog.oid, operation, key::pg_catalog.text, payload::pg_catalog.text, risk,
                created_by, approver, expires_at
         FROM tenancy.proposal_records
         WHERE id OPERATOR(pg_catalog.=) $1 AND org_id OPERATOR(pg_catalog.=) $2 FOR UPDATE",
        &[Arg::Uuid(id), Arg::Uuid(org)],
        |row| {
            let text = |n| row.get::<String>(n);
            Proposal {
                id: *id,
                state: text(1).unwrap_or_default(),
                actions: row.get::<Vec<String>>(2).unwrap_or_default(),
                table: row.get(3).unwrap_or(pg_sys::InvalidOid),
                operation: text(4).unwrap_or_default(),
                key: text(5),
                payload: text(6),
                risk: text(7)
                    .and_then(|name| Risk::named(&name))
                    .unwrap_or(Risk::Destructive),
                created_by: row.uuid(8),
                approver: row.uuid(9),
                expires_at: row
                    .get::<TimestampWithTimeZone>(10)
                    .map(i64::from)
                    .unwrap_or_default(),
            }
        },
    );
    // A wait for a row takes no news in by itself.
    context::refresh();
    found
        .into_iter()
        .next()
        .filter(|proposal| sees(proposal.table, proposal.created_by.as_ref()))
        .ok_or_else(|| no_such(id))
}

impl Proposal {
    /// Refuses any other state than the one that the step starts from, by name.
    pub fn require(&self, state: &str, doing: &str) -> pg::Result<()> {
        let refused = |is: &str, hint: &str| {
            Err(fail(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("the proposal is {is}"),
            )
            .set_detail(format!("To {doing} takes one that is {state}."))
            .set_hint(hint))
        };
        if self.state != state {
            return refused(
                &self.state,
                "A proposal goes from draft to pending, is approved or rejected, and an approved one is executed once.",
            );
        }
        self.require_time().or_else(|_| {
            refused(
                "expired",
                "Propose it again; expires_in says how long it holds.",
            )
        })
    }

    fn require_time(&self) -> Result<(), ()> {
        if self.expires_at > transaction::now() {
            Ok(())
        } else {
            Err(())
        }
    }

    pub fn has_expired(&self) -> bool {
        self.require_time().is_err()
    }

    pub fn change(&self) -> pg::Result<Change> {
        let event = event_named(&self.operation).unwrap_or(crate::pg::trigger::Event::Truncate);
        Change::new(
            self.table,
            event,
            self.key.clone(),
            self.payload.clone().and_then(Payload::read),
        )
    }

    /// Writes down that the proposal moved on; `new`: what is to be said of it.
    pub fn record(&self, org: &Id, operation: &str, state: &str, mut new: Json) {
        new["state"] = state.into();
        new["action"] = self.actions.first().cloned().unwrap_or_default().into();
        new["table"] = object(self.table).into();
        new["initiator"] = self.created_by.as_ref().map(id_text).into();
        new["approver"] = self.approver.as_ref().map(id_text).into();
        audit::record(&Act {
            org: *org,
            operation,
            object: "tenancy.proposals",
            key: json!({ "id": id_text(&self.id) }),
            old: Some(json!({ "state": self.state })),
            new: Some(new),
        });
    }
}
