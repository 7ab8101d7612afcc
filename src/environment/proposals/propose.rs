//! Making a proposal and handing it in.

use super::act::{hex, locked, standing};
use super::change::{Change, Risk, event_named, invalid, object};
use super::layout::Layout;
use super::seen;
use crate::access;
use crate::audit::{self, Act};
use crate::context::authority::Id;
use crate::context::{self, Standing};
use crate::isolation;
use crate::org::id_text;
use crate::pg::query::{Arg, execute, run};
use crate::pg::value::{self, Value};
use crate::pg::{self, fail, transaction};
use pgrx::datum::Uuid;
use pgrx::pg_sys::panic::ErrorReportable;
use pgrx::prelude::*;
use serde_json::{Value as Json, json};

/// A month, in microseconds: a decision about a row that was looked at long ago is none.
const LONGEST: i64 = 31 * 24 * 3600 * 1_000_000;

struct Given {
    action: Option<String>,
    table: pg_sys::Oid,
    operation: String,
    summary: String,
    key: Option<String>,
    payload: Option<String>,
    risk: Option<String>,
    lasts: i64,
}

crate::pg::finfo!(pg_finfo_tenancy_propose);

/// `tenancy.propose(table_name, operation, summary, key, payload, action, risk, expires_in) -> uuid` (spec 8): stores a
/// change of one row as a draft, for a person to approve. `operation`: insert, update or delete. `key`: the row's primary
/// key as text, or where it has several columns as a JSON object; for update and delete. `payload`: the new values by
/// column, for insert and update. `summary`: what the approver reads. `action`: the action that it needs, where one is to be
/// named (it must be among those that it needs). `risk`: safe, caution or destructive; never less than what the change
/// itself is: a deletion and a change of production are destructive, an update caution. `expires_in`: a month at most.
/// Needs ai:use, and what the change itself needs. Errors: 42501 no right, 22023 what makes no sense, 42703 no such column,
/// 55000 the table is not protected, P0002 no such row.
///
/// SAFETY: called by PostgreSQL's function manager with the arguments that sql/66_proposals.sql declares.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_propose(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as the function's own; each argument is read as the type that it is declared with.
    let read = || unsafe {
        let args = (*fcinfo).args.as_slice(8);
        let text = |i: usize| String::from_datum(args[i].value, args[i].isnull);
        let oid = pg_sys::Oid::from_datum(args[0].value, args[0].isnull);
        let lasts = pgrx::datum::Interval::from_datum(args[7].value, args[7].isnull);
        Ok(Given {
            table: pg::given(oid, "table_name")?,
            operation: pg::given(text(1), "operation")?,
            summary: pg::given(text(2), "summary")?,
            key: text(3),
            // As text, since its numbers are to keep their digits.
            payload: (!args[4].isnull)
                .then(|| value::output(&Value::varlena(args[4].value), pg_sys::JSONBOID)),
            action: text(5),
            risk: text(6),
            lasts: pg::given(lasts, "expires_in")?.as_micros() as i64,
        })
    };
    let id = read().and_then(|given| propose(&given)).unwrap_or_report();
    id.into_datum().expect("never NULL")
}

fn propose(given: &Given) -> pg::Result<Uuid> {
    let now = standing("propose a change")?;
    let Some(org) = now.org_id() else {
        return Err(context::without_context(&now, "propose a change"));
    };
    context::pin(&now)?;
    require(&now, "ai:use", "in the organization")?;
    let summary = given.summary.trim();
    if summary.is_empty() || summary.chars().count() > 2000 {
        return Err(invalid(
            "a proposal has a summary",
            "It has 1 to 2000 characters, and is what the approver reads.",
            "Say what is to be done and why.",
        ));
    }
    if !(1..=LONGEST).contains(&given.lasts) {
        return Err(invalid(
            "a proposal does not last as long",
            "expires_in is more than nothing and at most 31 days.",
            "Such as expires_in => '1 day'.",
        ));
    }
    let Some(event) = event_named(&given.operation) else {
        return Err(invalid(
            "this is no operation",
            "It is insert, update or delete.",
            "A proposal is about one row.",
        ));
    };
    let named = given.risk.as_deref().map(|name| {
        Risk::named(name).ok_or_else(|| {
            invalid(
                "this is no risk",
                "It is safe, caution or destructive.",
                "Leave it out: the change says itself what it is at least.",
            )
        })
    });
    let named = named.transpose()?.unwrap_or(Risk::Safe);
    let change = Change::proposed(
        &now,
        given.table,
        event,
        given.key.as_deref(),
        given.payload.clone(),
    )?;
    let mut actions = change.actions();
    for action in &actions {
        require(&now, action, &format!("on table {}", change.table.object))?;
    }
    if let Some(action) = &given.action {
        access::action(&now.matrix, action)?;
        let Some(place) = actions.iter().position(|needed| needed == action) else {
            return Err(invalid(
                format!("the change does not need {action}"),
                format!("It needs {}.", actions.join(", ")),
                "Leave action out.",
            ));
        };
        actions.swap(0, place);
    }
    let risk = change.risk(&now)?.max(named);
    let layout = Layout::of(&change.table);
    let keys = now.keys().filter(|_| change.key.is_some());
    let seen = keys.map(|org| change.stored(org, |row| seen::keep(&layout, row)));
    if let Some(None) = seen {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            format!("no such row in table {}", change.table.object),
        )
        .set_detail("It was deleted meanwhile.")
        .set_hint("Look the key up with SELECT."));
    }
    let seen = seen.flatten();
    let projects = projects_of(&change);
    let expires = transaction::now() + given.lasts;
    let all = format!("{{{}}}", actions.join(","));
    let id = run(
        "INSERT INTO tenancy.proposal_records
             (org_id, state, action, actions, table_name, operation, key, payload, summary, risk, created_by, actor_type, expires_at,
              layout, seen, projects)
         VALUES ($1, 'draft', $2, $3::pg_catalog.text[], $4::pg_catalog.regclass, $5, $6::pg_catalog.jsonb, $7::pg_catalog.jsonb,
                 $8, $9, $10::pg_catalog.uuid, $11, $12, $13::pg_catalog.jsonb, pg_catalog.decode($14, 'hex'), $15::pg_catalog.uuid[])
         RETURNING id",
        &[
            Arg::Uuid(&org),
            Arg::Text(&actions[0]),
            Arg::Text(&all),
            Arg::Oid(change.table.relid),
            Arg::Text(&given.operation),
            Arg::OptionalText(change.key.as_deref()),
            Arg::OptionalText(change.payload.as_ref().map(|p| p.text.as_str())),
            Arg::Text(summary),
            Arg::Text(risk.name()),
            Arg::OptionalText(now.actor().as_ref().map(id_text).as_deref()),
            Arg::Text(now.actor_type),
            Arg::Timestamp(Some(expires)),
            Arg::Text(&layout.text()),
            Arg::OptionalText(seen.as_deref().map(hex).as_deref()),
            Arg::OptionalText(projects.as_deref()),
        ],
        |row| row.uuid(1),
    )
    .pop()
    .flatten()
    .unwrap_or_default();
    let key = change.key.as_deref().unwrap_or("null");
    audit::record(&Act {
        org,
        operation: "propose",
        object: "tenancy.proposals",
        key: json!({ "id": id_text(&id) }),
        old: None,
        new: Some(json!({
            "state": "draft", "action": actions[0], "table": object(change.table.relid), "operation": given.operation,
            "key": serde_json::from_str::<Json>(key).unwrap_or_default(), "risk": risk.name(), "summary": summary,
            "initiator": now.actor().as_ref().map(id_text),
        })),
    });
    Ok(Uuid::from_bytes(id))
}

/// The projects that the row belongs to, and will; None where it belongs to none, or that is not to be said.
fn projects_of(change: &Change) -> Option<String> {
    change.table.placed.as_ref()?;
    let places = change.whereabouts();
    let ids: Option<Vec<String>> = places
        .iter()
        .map(|at| at.project.as_ref().map(id_text))
        .collect();
    let ids = ids.filter(|ids| !ids.is_empty())?;
    Some(format!("{{{}}}", ids.join(",")))
}

pub fn require(now: &Standing, action: &str, on: &str) -> pg::Result<()> {
    if now.may(access::action(&now.matrix, action)?) {
        Ok(())
    } else {
        Err(context::no_right(now, action, on))
    }
}

/// Hands a draft in, for approval (spec 8). For who made it, with ai:use. Errors: 42501 no right or another's proposal,
/// P0002 no such proposal, 55000 it is no draft, or has expired.
#[pg_extern(volatile, parallel_unsafe)]
fn submit_proposal(id: Option<Uuid>) -> pg::Result<()> {
    let id = pg::given(id, "id")?;
    let now = standing("submit a proposal")?;
    context::pin(&now)?;
    require(&now, "ai:use", "in the organization")?;
    let org = now.org_id().unwrap_or_default();
    let proposal = locked(&org, id.as_bytes())?;
    let now = standing("submit a proposal")?;
    require(&now, "ai:use", "in the organization")?;
    if proposal.created_by != now.actor() {
        return Err(others(&now));
    }
    proposal.require("draft", "submit a proposal")?;
    execute(
        "UPDATE tenancy.proposal_records SET state = 'pending', submitted_at = pg_catalog.clock_timestamp(),
             submitted_in = pg_catalog.pg_current_xact_id()
         WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(id.as_bytes())],
    );
    proposal.record(&org, "submit_proposal", "pending", json!({}));
    Ok(())
}

/// A proposal belongs to whom it was made for.
pub fn others(now: &Standing) -> pgrx::pg_sys::panic::ErrorReport {
    context::refused(
        &now.role,
        "go on with",
        "a proposal of another user",
        &now.org
            .as_ref()
            .map(|org| format!("\"{}\"", org.name))
            .unwrap_or_default(),
        &now.user
            .map_or("no user".into(), |u| format!("user {}", id_text(&u))),
    )
    .set_hint("Who made a proposal submits it, and the AI that acts for the same user executes it.")
}

/// Whether the context may see a proposal of its organization (spec 8): with ai:use, or where ai:approve is not denied, and where
/// the membership is not limited to resources; about rows that belong to projects, one's own and those whose projects' rows
/// one reads. `table_id`: the table it is about. `created_by`: for whom it was made. `projects`: those of its row, before and
/// after; NULL: it may be any. The policy of that table; anyone may call it.
#[pg_extern(stable, parallel_restricted)]
fn sees_proposal(
    table_id: Option<pg_sys::Oid>,
    created_by: Option<Uuid>,
    projects: Option<Vec<Option<Uuid>>>,
) -> bool {
    let user = created_by.map(|id| *id.as_bytes());
    // One that is NULL could be any, too.
    let projects: Option<Vec<Id>> = projects.and_then(|ids| {
        let ids = ids.iter().map(|id| id.map(|id| *id.as_bytes()));
        ids.collect()
    });
    table_id.is_some_and(|table| sees(table, user.as_ref(), projects.as_deref()))
}

pub fn sees(table: pg_sys::Oid, created_by: Option<&Id>, projects: Option<&[Id]>) -> bool {
    let now = context::standing();
    let level = |action: &str| {
        now.matrix
            .action(action)
            .map_or_else(Default::default, |action| now.level(action))
    };
    now.org.is_some()
        && now.scopes.is_none()
        && (level("ai:use") == access::matrix::Level::Allow
            || level("ai:approve") != access::matrix::Level::Deny)
        && (match projects {
            Some(ids) if !ids.is_empty() => isolation::reads_projects(table, ids),
            _ => isolation::reads_every_project(table),
        } || created_by.is_some() && created_by == now.user.as_ref())
}
