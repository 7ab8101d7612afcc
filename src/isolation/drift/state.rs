//! Whether a protected table still is what protect() made of it.

use super::{Drift, changing, judge, name_of};
use crate::isolation::facts::current_options;
use crate::isolation::plan::{self, ROW_TRIGGER, TRIGGERS};
use crate::isolation::{place_columns, resource, table};
use crate::pg::query::{self, Arg, run};
use crate::pg::{self, fail, identity};
use pgrx::prelude::*;
use pgrx::spi;

struct Found {
    kind: String,
    owner: pg_sys::Oid,
    row_security: bool,
    force: bool,
    policies: Vec<String>,
    /// Name, and when it fires: A is always.
    triggers: Vec<(String, String)>,
}

/// None for what is not a table, or never was protected.
fn find(relid: pg_sys::Oid) -> Option<Found> {
    run(
        "SELECT c.relkind::pg_catalog.text, c.relowner, c.relrowsecurity, c.relforcerowsecurity,
                ARRAY(SELECT p.polname::pg_catalog.text FROM pg_catalog.pg_policy AS p
                      WHERE p.polrelid OPERATOR(pg_catalog.=) c.oid),
                ARRAY(SELECT t.tgname::pg_catalog.text FROM pg_catalog.pg_trigger AS t
                      WHERE t.tgrelid OPERATOR(pg_catalog.=) c.oid AND NOT t.tgisinternal ORDER BY t.oid),
                ARRAY(SELECT t.tgenabled::pg_catalog.text FROM pg_catalog.pg_trigger AS t
                      WHERE t.tgrelid OPERATOR(pg_catalog.=) c.oid AND NOT t.tgisinternal ORDER BY t.oid)
         FROM pg_catalog.pg_class AS c
         WHERE c.oid OPERATOR(pg_catalog.=) $1 AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p']::pg_catalog.\"char\"[])",
        &[Arg::Oid(relid)],
        |row| {
            let flag = |n| row.get::<bool>(n).unwrap_or_default();
            let names = |n| row.get::<Vec<String>>(n).unwrap_or_default();
            Found {
                kind: row.get(1).unwrap_or_default(),
                owner: row.get(2).unwrap_or(pg_sys::InvalidOid),
                row_security: flag(3),
                force: flag(4),
                policies: names(5),
                triggers: names(6).into_iter().zip(names(7)).collect(),
            }
        },
    )
    .pop()
}

/// The table after a command: all of the protection, or none.
pub fn check(relid: pg_sys::Oid) -> pg::Result<()> {
    let (Some(found), Some(name)) = (find(relid), name_of(relid)) else {
        return Ok(());
    };
    let ours: Vec<&str> = TRIGGERS
        .into_iter()
        .filter(|t| found.kind != "p" || *t != ROW_TRIGGER)
        .collect();
    let has = |trigger: &str| found.triggers.iter().any(|(t, _)| t == trigger);
    let mut policies: Vec<String> = plan::policy_names().collect();
    if current_options(relid).is_some_and(|options| options.resource.is_some()) {
        policies.push(resource::POLICY.into());
    }
    if current_options(relid).is_some_and(|options| options.project_column.is_some()) {
        policies.extend(place_columns::policy_names());
    }
    let marks = ours.iter().filter(|t| has(t)).count()
        + policies
            .iter()
            .filter(|p| found.policies.contains(p))
            .count();
    if marks == 0 {
        return Ok(());
    }
    let whole = |missing: String| Drift {
        message: format!("{missing} of protected table {name} is missing"),
        detail: "Without it rows of other organizations could be read or written.".into(),
        hint: format!(
            "SELECT tenancy.unprotect('{}') takes the whole protection away; break-glass (SET row_security = off) lets a superuser pass.",
            name.replace('\'', "''")
        ),
        mend: None,
    };
    for trigger in &ours {
        if !has(trigger) {
            judge(whole(format!("trigger \"{trigger}\"")))?;
        }
    }
    for policy in &policies {
        if !found.policies.contains(policy) {
            judge(whole(format!("policy \"{policy}\"")))?;
        }
    }
    let mendable = |what: &str, statement: String| {
        let owner = found.owner;
        Drift {
            message: format!("{what} protected table {name}"),
            detail: "Rows of other organizations could be read or written.".into(),
            hint: "Migrations that touch rows of several organizations belong in break-glass (SET row_security = off); the table itself may stay as it is.".into(),
            mend: Some(Box::new(move || {
                changing(relid, || {
                    identity::as_table_owner(owner, || query::execute_as_is(&statement));
                });
                Ok(())
            })),
        }
    };
    let alter = format!("ALTER TABLE ONLY {name}");
    if !found.row_security {
        judge(mendable(
            "row security is off on",
            format!("{alter} ENABLE ROW LEVEL SECURITY"),
        ))?;
    }
    if !found.force {
        judge(mendable(
            "row security is not forced on the owner of",
            format!("{alter} FORCE ROW LEVEL SECURITY"),
        ))?;
    }
    for (trigger, enabled) in &found.triggers {
        if ours.contains(&trigger.as_str()) && enabled != "A" {
            judge(mendable(
                &format!("trigger \"{trigger}\" is not always enabled on"),
                format!("{alter} ENABLE ALWAYS TRIGGER \"{trigger}\""),
            ))?;
        }
    }
    column(relid, &name, &mendable)
}

/// The organization column: NOT NULL, filled from the context.
fn column<'a>(
    relid: pg_sys::Oid,
    name: &str,
    mendable: &dyn Fn(&str, String) -> Drift<'a>,
) -> pg::Result<()> {
    let Some(org) = table::org_column_of(relid) else {
        return Ok(());
    };
    let Some((column, not_null, default)) = run(
        "SELECT attname::pg_catalog.text, attnotnull, atthasdef FROM pg_catalog.pg_attribute
         WHERE attrelid OPERATOR(pg_catalog.=) $1 AND attnum OPERATOR(pg_catalog.=) $2::pg_catalog.int8",
        &[
            Arg::Oid(relid),
            Arg::Oid(pg_sys::Oid::from(org.attnum.max(0) as u32)),
        ],
        |row| {
            (
                row.get::<String>(1).unwrap_or_default(),
                row.get::<bool>(2).unwrap_or(true),
                row.get::<bool>(3).unwrap_or(true),
            )
        },
    )
    .pop() else {
        return Ok(());
    };
    let column = spi::quote_identifier(column);
    let alter = format!("ALTER TABLE ONLY {name} ALTER COLUMN {column}");
    if !not_null {
        judge(mendable(
            "the organization column may be NULL in",
            format!("{alter} SET NOT NULL"),
        ))?;
    }
    if !default {
        judge(mendable(
            "the organization column is no longer filled from the context in",
            format!("{alter} SET DEFAULT {}", plan::current(org.kind)),
        ))?;
    }
    Ok(())
}

/// A table without an index on the organization is read whole by everybody.
pub fn warn_of_index(relid: pg_sys::Oid) {
    let (Some(column), Some(name)) = (table::org_column_of(relid), name_of(relid)) else {
        return;
    };
    let lacks = !run(
        "SELECT 1 FROM pg_catalog.pg_class AS c
         WHERE c.oid OPERATOR(pg_catalog.=) $1 AND c.relkind OPERATOR(pg_catalog.=) 'r'::pg_catalog.\"char\"
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_index AS i
                           WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid AND i.indisvalid AND i.indpred IS NULL
                             AND i.indkey[0] OPERATOR(pg_catalog.=) $2::pg_catalog.int8)",
        &[
            Arg::Oid(relid),
            Arg::Oid(pg_sys::Oid::from(column.attnum.max(0) as u32)),
        ],
        |_| (),
    )
    .is_empty();
    if lacks {
        fail(
            PgSqlErrorCode::ERRCODE_WARNING,
            format!("protected table {name} has no index on its organization column any more"),
        )
        .set_detail("Every query of an organization reads the rows of all.")
        .set_hint("CREATE INDEX ON the table, the organization column first.")
        .report(PgLogLevel::WARNING);
    }
}

/// ALTER POLICY on one of ours, whatever it changed.
pub fn policy_altered(relid: pg_sys::Oid, policy: &str) -> pg::Result<()> {
    let name = name_of(relid).unwrap_or_default();
    judge(Drift {
        message: format!("policy \"{policy}\" of protected table {name} is not to be altered"),
        detail: "It is what keeps the organizations apart.".into(),
        hint: "Other permissions: unprotect() and protect() the table again in one transaction. Narrower ones: add a RESTRICTIVE policy of your own.".into(),
        mend: None,
    })
}
