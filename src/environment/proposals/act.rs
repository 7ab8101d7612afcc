//! A proposal as it is stored, and what is written down when it moves on.

use super::change::{Change, Payload, Risk, event_named, object};
use super::layout::Layout;
use super::propose::sees;
use crate::audit::{self, Act};
use crate::context::authority::Id;
use crate::context::{self, Standing};
use crate::org::id_text;
use crate::pg::query::{Arg, run};
use crate::pg::{self, fail, transaction};
use pgrx::datum::Uuid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};

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
    /// Those that its row belongs to, before and after.
    projects: Option<Vec<Id>>,
    /// The row as it was; None for a new one.
    pub seen: Option<Vec<u8>>,
    layout: Option<String>,
    /// Whether the approval holds whatever the row has become.
    pub accepts_change: bool,
    /// The hash of all that was approved.
    approved: Option<Vec<u8>>,
    /// It was handed in by this very transaction.
    pub is_from_here: bool,
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
    find(org, id, true)
}

/// The proposal, if it shows.
pub fn find(org: &Id, id: &Id, lock: bool) -> pg::Result<Proposal> {
    let found = run(
        &format!(
            "SELECT state, actions, table_name::pg_catalog.oid, operation, key::pg_catalog.text, payload::pg_catalog.text, risk,
                created_by, approver, expires_at, seen, layout::pg_catalog.text, on_change OPERATOR(pg_catalog.=) 'accept', approved,
                COALESCE(submitted_in OPERATOR(pg_catalog.=) pg_catalog.pg_current_xact_id_if_assigned(), false), projects
             FROM tenancy.proposal_records
             WHERE id OPERATOR(pg_catalog.=) $1 AND org_id OPERATOR(pg_catalog.=) $2{}",
            if lock { " FOR UPDATE" } else { "" }
        ),
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
                seen: row.get(11),
                layout: text(12),
                accepts_change: row.get(13).unwrap_or(false),
                approved: row.get(14),
                is_from_here: row.get(15).unwrap_or(true),
                projects: row
                    .get::<Vec<Uuid>>(16)
                    .map(|ids| ids.iter().map(|id| *id.as_bytes()).collect()),
            }
        },
    );
    // A wait for a row takes no news in by itself.
    if lock {
        standing("go on with a proposal")?;
    }
    found
        .into_iter()
        .next()
        .filter(|p| sees(p.table, p.created_by.as_ref(), p.projects.as_deref()))
        .ok_or_else(|| no_such(id))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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

    /// The hash of what one approves: who touches the stored proposal afterwards has no approval.
    pub fn digest(&self) -> Vec<u8> {
        let accepts = if self.accepts_change {
            "accept"
        } else {
            "refuse"
        };
        let created_by = self.created_by.as_ref().map(id_text);
        let table = object(self.table);
        let mut parts: Vec<Option<&[u8]>> = [
            Some(table.as_str()),
            Some(&self.operation),
            self.key.as_deref(),
            self.payload.as_deref(),
            Some(self.risk.name()),
            self.layout.as_deref(),
            Some(accepts),
            created_by.as_deref(),
        ]
        .map(|text| text.map(str::as_bytes))
        .to_vec();
        parts.push(self.seen.as_deref());
        parts.extend(self.actions.iter().map(|action| Some(action.as_bytes())));
        let mut hash = Sha256::new();
        for part in parts {
            hash.update([u8::from(part.is_some())]);
            hash.update((part.map_or(0, <[u8]>::len) as u64).to_le_bytes());
            hash.update(part.unwrap_or_default());
        }
        hash.finalize().to_vec()
    }

    pub fn require_untouched(&self) -> pg::Result<()> {
        if self.approved.as_ref() == Some(&self.digest()) {
            return Ok(());
        }
        Err(fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the proposal is not the one that was approved",
        )
        .set_detail(
            "What is stored of it, or the name of its table, was changed after the decision.",
        )
        .set_hint("Propose it again."))
    }

    /// How the table was; an error where it is no more so, or the change needs other rights by now.
    pub fn require_layout(&self, change: &Change) -> pg::Result<Layout> {
        let was = self.layout.as_deref().and_then(Layout::read);
        let difference = match &was {
            None => Some("How it was then is not known.".to_string()),
            Some(was) => was.difference(&Layout::of(&change.table)),
        };
        match (was, difference) {
            (Some(was), None) => Ok(was),
            (_, difference) => Err(fail(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!(
                    "table {} has changed since the change was proposed",
                    change.table.object
                ),
            )
            .set_detail(difference.unwrap_or_default())
            .set_hint("Propose what is to be done now.")),
        }
    }

    /// Writes down that the proposal moved on; `new`: what is to be said of it.
    pub fn record(&self, org: &Id, operation: &str, state: &str, mut new: Json) {
        new["state"] = state.into();
        new["action"] = self.actions.first().cloned().unwrap_or_default().into();
        new["table"] = object(self.table).into();
        new["initiator"] = self.created_by.as_ref().map(id_text).into();
        new["approver"] = self.approver.as_ref().map(id_text).into();
        new["digest"] = hex(&self.digest()).into();
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
