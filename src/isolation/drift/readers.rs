//! What reads a protected table with somebody else's rights, or copies its rows to where no policy is: views, materialized
//! views, rules, CREATE TABLE AS, publications (attacks C2, C3, C11).

use super::{Drift, house, is_marked, judge, name_of};
use crate::pg::local::Backend;
use crate::pg::query::{self, Arg, run};
use crate::pg::{self, fail, identity, transaction};
use pgrx::prelude::*;
use std::cell::RefCell;

/// What the running CREATE TABLE AS has read so far. One may run inside another, and DDL inside both.
#[derive(Default)]
struct Noted {
    /// The nesting level of the transaction at which each began.
    begun: Vec<i32>,
    read: Vec<pg_sys::Oid>,
}

static NOTED: Backend<RefCell<Noted>> = Backend::new(RefCell::new(Noted {
    begun: vec![],
    read: vec![],
}));

pub fn start_noting() {
    let level = transaction::nest_level();
    NOTED.with_borrow_mut(|noted| noted.begun.push(level));
}

/// What the innermost one read, and those around it.
pub fn stop_noting() -> Vec<pg_sys::Oid> {
    NOTED.with_borrow_mut(|noted| {
        noted.begun.pop();
        if noted.begun.is_empty() {
            std::mem::take(&mut noted.read)
        } else {
            noted.read.clone()
        }
    })
}

/// A transaction ended at this level: commands that failed with it are over.
pub fn abandon(level: i32) {
    NOTED.with_borrow_mut(|noted| {
        noted.begun.retain(|begun| *begun < level);
        if noted.begun.is_empty() {
            noted.read.clear();
        }
    });
}

/// Whether what a statement reads is of interest.
#[inline]
pub fn is_noting() -> bool {
    NOTED.with_borrow(|noted| !noted.begun.is_empty())
}

/// A statement starts: its relations, those below views included, where anybody wants to know.
pub fn note_reading(relations: impl FnOnce() -> Vec<pg_sys::Oid>) {
    NOTED.with_borrow_mut(|noted| {
        if !noted.begun.is_empty() {
            noted.read.extend(relations());
        }
    });
}

/// A protected table that a relation reads: itself, or through views and rules.
fn protected_below(relid: pg_sys::Oid) -> Option<String> {
    run(
        "WITH RECURSIVE reads(relid) AS (
             SELECT $1
             UNION
             SELECT d.refobjid FROM reads AS r
                  JOIN pg_catalog.pg_rewrite AS w ON w.ev_class OPERATOR(pg_catalog.=) r.relid
                  JOIN pg_catalog.pg_depend AS d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass
                                                AND d.objid OPERATOR(pg_catalog.=) w.oid
                                                AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass)
         SELECT c.relname::pg_catalog.text FROM reads AS r
              JOIN pg_catalog.pg_trigger AS t ON t.tgrelid OPERATOR(pg_catalog.=) r.relid
              JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid
              JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) r.relid
         WHERE p.pronamespace OPERATOR(pg_catalog.=) $2 AND p.proname OPERATOR(pg_catalog.=) 'guard_statement' LIMIT 1",
        &[Arg::Oid(relid), Arg::Oid(house())],
        |row| row.get::<String>(1).unwrap_or_default(),
    )
    .pop()
}

/// A view or materialized view that was made or changed.
pub fn check_relation(relid: pg_sys::Oid) -> pg::Result<()> {
    let Some((kind, owner, temporary, invoker)) = run(
        "SELECT c.relkind::pg_catalog.text, c.relowner, c.relpersistence OPERATOR(pg_catalog.=) 't',
                COALESCE((SELECT o.option_value::pg_catalog.bool FROM pg_catalog.pg_options_to_table(c.reloptions) AS o
                          WHERE o.option_name OPERATOR(pg_catalog.=) 'security_invoker'), false)
         FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) $1
           AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['v', 'm']::pg_catalog.\"char\"[])",
        &[Arg::Oid(relid)],
        |row| {
            (
                row.get::<String>(1).unwrap_or_default(),
                row.get::<pg_sys::Oid>(2).unwrap_or(pg_sys::InvalidOid),
                row.get::<bool>(3).unwrap_or(false),
                row.get::<bool>(4).unwrap_or(false),
            )
        },
    )
    .pop() else {
        return Ok(());
    };
    // A temporary view is its session's own.
    if invoker || temporary {
        return Ok(());
    }
    let Some(table) = protected_below(relid) else {
        return Ok(());
    };
    let name = name_of(relid).unwrap_or_default();
    if kind == "m" {
        return judge(Drift {
            message: format!("materialized view {name} would hold rows of protected table \"{table}\""),
            detail: "It is filled with its owner's rights, and nothing keeps the organizations in it apart.".into(),
            hint: "Use a view WITH (security_invoker = true), or a table of its own that is protected and filled by each organization.".into(),
            mend: None,
        });
    }
    let statement = format!("ALTER VIEW {name} SET (security_invoker = true)");
    judge(Drift {
        message: format!("view {name} reads protected table \"{table}\" with its owner's rights"),
        detail: "Whoever may read the view would see what its owner sees. CREATE OR REPLACE VIEW forgets the option where it does not repeat it.".into(),
        hint: "CREATE VIEW ... WITH (security_invoker = true) AS ...".into(),
        mend: Some(Box::new(move || {
            identity::as_table_owner(owner, || query::execute_as_is(&statement));
            Ok(())
        })),
    })
}

/// A rule on a protected table, or one whose action reads or writes one: it runs with its owner's rights.
pub fn check_rule(rule: pg_sys::Oid) -> pg::Result<()> {
    let found = run(
        "SELECT r.rulename::pg_catalog.text, r.ev_class, d.refobjid FROM pg_catalog.pg_rewrite AS r
              JOIN pg_catalog.pg_depend AS d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass
                                            AND d.objid OPERATOR(pg_catalog.=) r.oid
                                            AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
         WHERE r.oid OPERATOR(pg_catalog.=) $1 AND r.rulename OPERATOR(pg_catalog.<>) '_RETURN'",
        &[Arg::Oid(rule)],
        |row| {
            (
                row.get::<String>(1).unwrap_or_default(),
                row.get::<pg_sys::Oid>(2).unwrap_or(pg_sys::InvalidOid),
                row.get::<pg_sys::Oid>(3).unwrap_or(pg_sys::InvalidOid),
            )
        },
    );
    for (name, on, other) in found {
        if let Some(table) = protected_below(other).or_else(|| protected_below(on)) {
            return judge(Drift {
                message: format!("rule \"{name}\" works on protected table \"{table}\""),
                detail: "A rule's action runs with its owner's rights, past the policies of whoever fired it.".into(),
                hint: "Use a trigger.".into(),
                mend: None,
            });
        }
    }
    Ok(())
}

/// The name of a protected table among those that a CREATE TABLE AS read.
pub fn protected_among(read: &[pg_sys::Oid]) -> Option<pg_sys::Oid> {
    read.iter().copied().find(|relid| is_marked(*relid))
}

/// A publication sends every organization's rows to whoever subscribes.
pub fn warn_of_publication(class: &str, object: pg_sys::Oid) {
    let publication = match class {
        "pg_publication" => "SELECT $1",
        "pg_publication_rel" => {
            "SELECT prpubid FROM pg_catalog.pg_publication_rel WHERE oid OPERATOR(pg_catalog.=) $1"
        }
        _ => {
            "SELECT pnpubid FROM pg_catalog.pg_publication_namespace WHERE oid OPERATOR(pg_catalog.=) $1"
        }
    };
    let tables = run(
        &format!(
            "SELECT DISTINCT b.pubname::pg_catalog.text, c.relname::pg_catalog.text FROM pg_catalog.pg_publication AS b
                  CROSS JOIN LATERAL pg_catalog.pg_get_publication_tables(b.pubname::pg_catalog.text) AS t
                  JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) t.relid
                  JOIN pg_catalog.pg_trigger AS g ON g.tgrelid OPERATOR(pg_catalog.=) c.oid
                  JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) g.tgfoid
             WHERE b.oid OPERATOR(pg_catalog.=) ({publication}) AND t.qual IS NULL
               AND p.pronamespace OPERATOR(pg_catalog.=) $2 AND p.proname OPERATOR(pg_catalog.=) 'guard_statement'"
        ),
        &[Arg::Oid(object), Arg::Oid(house())],
        |row| {
            let text = |n| row.get::<String>(n).unwrap_or_default();
            (text(1), text(2))
        },
    );
    if tables.is_empty() || identity::break_glass() {
        return;
    }
    let names: Vec<String> = tables.iter().map(|(_, t)| format!("\"{t}\"")).collect();
    fail(
        PgSqlErrorCode::ERRCODE_WARNING,
        format!(
            "publication \"{}\" sends all organizations' rows of {}",
            tables[0].0,
            names.join(", ")
        ),
    )
    .set_detail("Row security does not hold for replication.")
    .set_hint("Publish a table with a row filter: FOR TABLE ... WHERE (org_id = '...'); or let only replicas of your own subscribe.")
    .report(PgLogLevel::WARNING);
}
