//! Usage records: what the services that serve an organization counted of it. Appended to, never changed; a mistake is
//! taken back by a record of its own.

use super::invalid;
use super::place::{self, Place};
use crate::context::authority::Id;
use crate::context::{self, Principal};
use crate::org::id_text;
use crate::pg::query::{Arg, latest, run};
use crate::pg::{self, fail, trigger};
use pgrx::datum::Uuid;
use pgrx::heap_tuple::PgHeapTuple;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{AllocatedByPostgres, AnyNumeric};

trigger::entry!(
    pg_finfo_tenancy_guard_usage,
    tenancy_guard_usage,
    guard_usage,
    guard_usage_wrapper
);

/// One record, checked.
pub struct Record<'a> {
    pub org: Id,
    pub metric: &'a str,
    pub quantity: String,
    pub project: Option<Id>,
    pub cluster: Option<Id>,
    pub environment: Option<&'a str>,
    /// Microseconds since 2000; None: now.
    pub at: Option<i64>,
    pub key: Option<&'a str>,
}

/// Whose usage is recorded: the organization in effect, by a service or trusted application; any, by the DBA.
fn recorded_org(org: Option<Uuid>) -> pg::Result<Id> {
    context::no_ai("record usage")?;
    let now = context::standing();
    if now.actor_type == "ai" {
        let message = "permission denied: an AI actor may not record usage";
        let detail = "What an organization is billed for is not an AI's to say.";
        pg::error::server_log(message, detail);
        return Err(
            fail(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
                .set_detail(detail)
                .set_hint("The application records it in a session of actor type service."),
        );
    }
    let dba = context::is_administrator();
    if let Some(org) = org.map(|o| *o.as_bytes())
        && dba
    {
        context::known_org(&org)?;
        return Ok(org);
    }
    let Some(current) = now.org_id() else {
        return Err(context::without_context(&now, "record usage"));
    };
    if org.is_some_and(|org| *org.as_bytes() != current) {
        return Err(context::stranger(org.expect("given").as_bytes()));
    }
    // An organization's own service account is its members' making.
    let trusted = dba
        || now.user.is_none() && now.service.is_none()
        || matches!(now.principal, Principal::Application { .. });
    if !trusted {
        let message = "permission denied: only a service or a trusted application records usage";
        pg::error::server_log(message, &format!("Organization {}.", id_text(&current)));
        return Err(fail(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            message,
        )
        .set_detail("What an organization is billed for is not its members' to say.")
        .set_hint(
            "Record it through a login that tenancy.trust_application() named, or as the DBA.",
        ));
    }
    context::pin(&now)?;
    Ok(current)
}

pub fn check_metric(metric: &str) -> pg::Result<()> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.:-".contains(c);
    if (1..=63).contains(&metric.len())
        && metric.starts_with(|c: char| c.is_ascii_lowercase())
        && metric.chars().all(good)
    {
        return Ok(());
    }
    Err(invalid(
        "this is no name of a metric",
        "A metric is named by a small letter and up to 62 more of a-z, 0-9, _ . : and -.",
        "For example cpu_seconds, or traffic.bytes.",
    ))
}

/// The digits of a quantity, on either side of the point.
const WHOLE: usize = 40;
const FRACTION: usize = 20;

fn check_quantity(quantity: &AnyNumeric) -> pg::Result<String> {
    let text = quantity.to_string();
    if !text.bytes().any(|b| b.is_ascii_digit()) {
        return Err(invalid(
            "a quantity is a finite number",
            format!("{text} is none."),
            "Record a number of the metric's unit.",
        ));
    }
    // Records are never changed: one beyond what can be added up would leave its organization without a report for good.
    let digits = text.trim_start_matches('-');
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.len() > WHOLE || fraction.len() > FRACTION {
        return Err(invalid(
            "this quantity is beyond what usage is counted in",
            format!("It has up to {WHOLE} digits before the point and {FRACTION} after it."),
            "Record it in another unit, or round it.",
        ));
    }
    // Within a sealed transaction the statements may be somebody else's than the application's.
    if text.starts_with('-') && context::standing().user.is_some() && !context::is_administrator() {
        let message = "permission denied: usage is not taken back in a user's name";
        return Err(
            fail(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
                .set_detail("A quantity below zero corrects an earlier record.")
                .set_hint(
                    "Record it as the service itself, without app.current_user_id, or as the DBA.",
                ),
        );
    }
    Ok(text)
}

fn check_text(what: &str, text: Option<&str>, longest: usize) -> pg::Result<()> {
    match text {
        Some(text)
            if text.is_empty() || text.len() > longest || text.chars().any(char::is_control) =>
        {
            Err(invalid(
                format!("this is no {what}"),
                format!("It has from 1 to {longest} bytes and no control characters."),
                "Leave it out, or pass another.",
            ))
        }
        _ => Ok(()),
    }
}

/// Writes down that an organization used something (spec 10): appended, never changed. For services and trusted
/// applications in the organization in effect, and the DBA.
///
/// `metric`: what is counted, such as cpu_seconds. `quantity`: how much, in the metric's unit; below zero it corrects an
/// earlier record, which a service does in its own name or the DBA. `project`, `cluster`: what it was used for, by default
/// what the session narrows itself to; a cluster's project need not be given. `environment`: that of the cluster, or of the
/// project, where they have one; else as it is given. `at`: when, now by default. `idempotency_key`: up to 255 bytes by
/// which a repeated call is known: within the organization it is recorded once, and stays so when the project is gone.
/// `org`: another than the current one is for the DBA.
/// Answers whether it was recorded, false where this key was before, with the same content.
/// Errors: 42501 no right, an AI actor, no organization, or no such project or cluster there (in a user's name: that he
/// sees), 22023 no such metric or quantity, or an environment that is not the project's, 23505 the key was used for other
/// usage, 54000 a quota of the metric is used up.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::too_many_arguments, reason = "a SQL function's")]
fn record_usage(
    metric: Option<&str>,
    quantity: Option<AnyNumeric>,
    project: default!(Option<Uuid>, "NULL"),
    cluster: default!(Option<Uuid>, "NULL"),
    environment: default!(Option<&str>, "NULL"),
    at: default!(Option<TimestampWithTimeZone>, "NULL"),
    idempotency_key: default!(Option<&str>, "NULL"),
    org: default!(Option<Uuid>, "NULL"),
) -> pg::Result<bool> {
    let metric = pg::given(metric, "metric")?;
    let quantity = pg::given(quantity, "quantity")?;
    let org = recorded_org(org)?;
    check_metric(metric)?;
    let quantity = check_quantity(&quantity)?;
    check_text("environment", environment, 63)?;
    check_text("idempotency key", idempotency_key, 255)?;
    let at = at.map(i64::from);
    if at.is_some_and(|at| at == i64::MIN || at == i64::MAX) {
        return Err(invalid(
            "usage happens at a time",
            "at is infinite.",
            "Leave it out for now.",
        ));
    }
    let mut record = Record {
        org,
        metric,
        quantity,
        project: project.map(|p| *p.as_bytes()),
        cluster: cluster.map(|c| *c.as_bytes()),
        environment,
        at,
        key: idempotency_key,
    };
    let place = match Place::of(&org, record.project, record.cluster, environment) {
        Ok(place) => place,
        // Of a project that is gone meanwhile, perhaps.
        Err(_)
            if idempotency_key.is_some()
                && !place::is_hidden(&org, record.project, record.cluster)
                && same(&record) == Some(true) =>
        {
            return Ok(false);
        }
        Err(unknown) => return Err(unknown),
    };
    (record.project, record.cluster) = (place.project, place.cluster);
    let given = std::mem::replace(&mut record.environment, place.environment.as_deref());
    if store(&record)? {
        return Ok(true);
    }
    record.environment = given;
    match same(&record) {
        Some(true) => Ok(false),
        _ => Err(other_usage()),
    }
}

impl Record<'_> {
    fn args(&self) -> [Arg<'_>; 8] {
        [
            Arg::Uuid(&self.org),
            Arg::Text(self.metric),
            Arg::Text(&self.quantity),
            Arg::OptionalUuid(self.project.as_ref()),
            Arg::OptionalUuid(self.cluster.as_ref()),
            Arg::OptionalText(self.environment),
            Arg::Timestamp(self.at),
            Arg::OptionalText(self.key),
        ]
    }
}

/// Whether it was stored: its key was not used before.
fn store(record: &Record) -> pg::Result<bool> {
    let stored = run(
        "INSERT INTO tenancy.usage_records (org_id, metric, quantity, project_id, cluster_id, environment, at, idempotency_key)
         VALUES ($1, $2, $3::pg_catalog.numeric, $4, $5, $6, COALESCE($7, pg_catalog.now()),
                 COALESCE($8, pg_catalog.gen_random_uuid()::pg_catalog.text))
         ON CONFLICT (org_id, idempotency_key) DO NOTHING RETURNING true",
        &record.args(),
        |_| (),
    );
    if !stored.is_empty() {
        super::metric_quota::count(record)?;
    }
    Ok(!stored.is_empty())
}

/// Whether what the key was used for is this; None where it was not. What comes with a project or cluster is asked for
/// where it is given: an environment may be another by now.
fn same(record: &Record) -> Option<bool> {
    // Of what was committed meanwhile, too: the conflict may have been waited for.
    latest(
        "SELECT metric OPERATOR(pg_catalog.=) $2 AND quantity OPERATOR(pg_catalog.=) $3::pg_catalog.numeric
                AND (project_id IS NOT DISTINCT FROM $4 OR $4 IS NULL AND $5 IS NOT NULL)
                AND cluster_id IS NOT DISTINCT FROM $5
                AND (environment IS NOT DISTINCT FROM $6 OR $6 IS NULL AND ($4 IS NOT NULL OR $5 IS NOT NULL))
                AND ($7 IS NULL OR at OPERATOR(pg_catalog.=) $7)
         FROM tenancy.usage_records
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND idempotency_key OPERATOR(pg_catalog.=) $8",
        &record.args(),
        |row| row.get::<bool>(1).unwrap_or(false),
    )
    .pop()
}

fn other_usage() -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
        "this idempotency key was used for other usage",
    )
    .set_detail("A record of the organization has the key and differs from this one.")
    .set_hint("Use a new key for each thing that is counted.")
}

/// Usage records are appended to and changed by nobody; a restore and a subscriber only append, too.
#[pg_trigger(sql = r#"
CREATE FUNCTION tenancy.guard_usage() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_guard_usage';
"#)]
pub fn guard_usage<'a>(
    fired: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, AllocatedByPostgres>>, PgTriggerError> {
    fail(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "permission denied: usage records are appended to and changed by nobody",
    )
    .set_detail("What was billed must stay to be seen.")
    .set_hint(
        "A record with a quantity below zero corrects an earlier one: tenancy.record_usage().",
    )
    .report(PgLogLevel::ERROR);
    Ok(fired.new().or(fired.old()))
}
