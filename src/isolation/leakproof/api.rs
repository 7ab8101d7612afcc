//! The SQL functions.

use super::vetted::{self, EXPRESSION, REFUSED, VETTED, Vetted};
use crate::context;
use crate::pg::query::{Arg, execute, run, run_as_is};
use crate::pg::{self, catalog, error, fail, plan};
use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::{ErrorReport, ErrorReportable};
use pgrx::prelude::*;

/// What a vouch is for.
#[derive(Clone, Debug, PartialEq)]
struct Subject {
    /// As regoperator or regprocedure shows it when only pg_catalog is searched.
    object: String,
    name: String,
    method: String,
    family: String,
}

/// Operator or function, found by its name as the caller writes it.
enum Named {
    Operator(pg_sys::Oid),
    Function(pg_sys::Oid),
}

fn require_superuser() -> pg::Result<()> {
    context::require_superuser(
        "vouch for operators",
        "It decides which indexes may be read across organizations before rows are shown.",
    )
}

fn named(text: &str) -> pg::Result<Named> {
    let found = |sql: &str| {
        run_as_is(sql, &[Arg::Text(text)], |row| row.get::<pg_sys::Oid>(1))
            .pop()
            .flatten()
    };
    let name = text.split('(').next().unwrap_or_default().trim_end();
    let what = if name.ends_with(|c| "+-*/<>=~!@#%^&|`?".contains(c)) {
        found("SELECT pg_catalog.to_regoperator($1)::pg_catalog.oid").map(Named::Operator)
    } else {
        found("SELECT pg_catalog.to_regprocedure($1)::pg_catalog.oid").map(Named::Function)
    };
    what.ok_or_else(|| {
        fail(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("no operator or function is called {text}"),
        )
        .set_detail("It is written as regoperator and regprocedure have it.")
        .set_hint(
            "Such as '@@(tsvector,tsquery)', 'lower(text)', or ('jsonb_ops', 'gin') for a family.",
        )
    })
}

fn refused(what: &str, why: &str) -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("{what} cannot be vouched for"),
    )
    .set_detail(why)
    .set_hint(
        "SELECT * FROM tenancy.leakproof_vouchers WHERE vetted lists what can, with the reasons.",
    )
}

/// Bare name and full signature of an operator.
fn operator_names(operator: pg_sys::Oid) -> (String, String) {
    run(
        "SELECT oprname::pg_catalog.text, oid::pg_catalog.regoperator::pg_catalog.text
         FROM pg_catalog.pg_operator WHERE oid OPERATOR(pg_catalog.=) $1",
        &[Arg::Oid(operator)],
        |row| {
            (
                row.get(1).unwrap_or_default(),
                row.get(2).unwrap_or_default(),
            )
        },
    )
    .pop()
    .unwrap_or_default()
}

/// The vetted families that are installed.
fn families_of(vetted: &'static Vetted) -> Vec<(&'static str, &'static str)> {
    vetted
        .families
        .iter()
        .filter(|f| {
            f.extension.is_none_or(|extension| {
                !run(
                    "SELECT 1 FROM pg_catalog.pg_extension WHERE extname OPERATOR(pg_catalog.=) $1::pg_catalog.name",
                    &[Arg::Name(extension)],
                    |_| (),
                )
                .is_empty()
            })
        })
        .map(|f| (f.method, f.name))
        .collect()
}

fn subject(object: &str, name: &str, method: &str, family: &str) -> Subject {
    Subject {
        object: object.into(),
        name: name.into(),
        method: method.into(),
        family: family.into(),
    }
}

fn subjects_of_operator(operator: pg_sys::Oid) -> pg::Result<Vec<Subject>> {
    let (name, signature) = operator_names(operator);
    if let Some(vetted) = vetted::find(&signature) {
        return Ok(families_of(vetted)
            .into_iter()
            .map(|(method, family)| subject(&signature, &name, method, family))
            .collect());
    }
    if let Some(why) = vetted::refusal(&signature) {
        return Err(refused(&format!("operator {signature}"), why));
    }
    // One that no index answers can only stand in an index's expression.
    let (indexable, immutable) = run(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_amop WHERE amopopr OPERATOR(pg_catalog.=) o.oid),
                p.provolatile OPERATOR(pg_catalog.=) 'i'
         FROM pg_catalog.pg_operator AS o JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) o.oprcode
         WHERE o.oid OPERATOR(pg_catalog.=) $1",
        &[Arg::Oid(operator)],
        |row| (row.get(1).unwrap_or(true), row.get(2).unwrap_or(false)),
    )
    .pop()
    .unwrap_or((true, false));
    if indexable || !immutable {
        return Err(refused(
            &format!("operator {signature}"),
            "Nobody has read what an index does with it.",
        ));
    }
    Ok(vec![subject(&signature, &name, "", "")])
}

fn subjects_of_function(function: pg_sys::Oid) -> pg::Result<Vec<Subject>> {
    let (name, signature, immutable) = run(
        "SELECT proname::pg_catalog.text, oid::pg_catalog.regprocedure::pg_catalog.text,
                provolatile OPERATOR(pg_catalog.=) 'i' AND prokind OPERATOR(pg_catalog.=) 'f'
         FROM pg_catalog.pg_proc WHERE oid OPERATOR(pg_catalog.=) $1",
        &[Arg::Oid(function)],
        |row| {
            (
                row.get::<String>(1).unwrap_or_default(),
                row.get::<String>(2).unwrap_or_default(),
                row.get::<bool>(3).unwrap_or(false),
            )
        },
    )
    .pop()
    .unwrap_or_default();
    if !immutable {
        return Err(refused(
            &format!("function {signature}"),
            "It is not immutable, so it cannot stand in the expression of an index.",
        ));
    }
    Ok(vec![subject(&signature, &name, "", "")])
}

fn subjects_of_family(family: &str, method: &str) -> pg::Result<Vec<Subject>> {
    let operators = vetted::of_family(family, method);
    if operators.is_empty() {
        return Err(refused(
            &format!("family {family} of {method}"),
            "It is not on the vetted list.",
        ));
    }
    let mut subjects = vec![];
    for signature in operators {
        let vetted = vetted::find(signature).expect("it came from the list");
        if !families_of(vetted).contains(&(method, family)) {
            return Err(fail(
                PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                format!("there is no family {family} of {method}"),
            )
            .set_detail("The extension that brings it is not installed.")
            .set_hint("CREATE EXTENSION pg_trgm first."));
        }
        let name = signature.split('(').next().unwrap_or_default();
        subjects.push(subject(signature, name, method, family));
    }
    Ok(subjects)
}

fn subjects(what: Named) -> pg::Result<Vec<Subject>> {
    match what {
        Named::Operator(operator) => subjects_of_operator(operator),
        Named::Function(function) => subjects_of_function(function),
    }
}

/// Tells every session, and makes it plan anew what it has planned for protected tables.
pub fn changed() {
    catalog::ring_bell();
    let tables = run(
        "SELECT DISTINCT tgrelid FROM pg_catalog.pg_trigger AS t
              JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid
         WHERE p.pronamespace OPERATOR(pg_catalog.=) 'tenancy'::pg_catalog.regnamespace
           AND p.proname OPERATOR(pg_catalog.=) 'guard_statement'",
        &[],
        |row| row.get::<pg_sys::Oid>(1),
    );
    for table in tables.into_iter().flatten() {
        catalog::forget_plans_of(table);
    }
}

fn vouch(subjects: &[Subject]) -> i32 {
    let mut count = 0;
    for s in subjects {
        let new = execute(
            "INSERT INTO tenancy.leakproof_vouched (object, name, access_method, family)
             VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            &[
                Arg::Text(&s.object),
                Arg::Text(&s.name),
                Arg::Text(&s.method),
                Arg::Text(&s.family),
            ],
        );
        if new > 0 {
            error::server_log(
                "operator vouched for",
                &format!("{} {} {}", s.object, s.method, s.family),
            );
            count += 1;
        }
    }
    if count > 0 {
        changed();
    }
    count
}

fn withdraw(subjects: &[Subject]) -> pg::Result<i32> {
    let mut count = 0;
    for s in subjects {
        let gone = execute(
            "DELETE FROM tenancy.leakproof_vouched
             WHERE object OPERATOR(pg_catalog.=) $1 AND access_method OPERATOR(pg_catalog.=) $2::pg_catalog.name
               AND family OPERATOR(pg_catalog.=) $3::pg_catalog.name",
            &[
                Arg::Text(&s.object),
                Arg::Text(&s.method),
                Arg::Text(&s.family),
            ],
        );
        if gone > 0 {
            error::server_log(
                "operator no longer vouched for",
                &format!("{} {} {}", s.object, s.method, s.family),
            );
            count += 1;
        }
    }
    if count == 0 {
        let what = subjects.first().map_or("it", |s| s.object.as_str());
        return Err(fail(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("{what} is not vouched for"),
        )
        .set_detail("Nothing was changed.")
        .set_hint("SELECT * FROM tenancy.leakproof_vouchers WHERE vouched lists what is."));
    }
    changed();
    Ok(count)
}

/// Lets an operator use its index on protected tables, although PostgreSQL does not call it leakproof: `what` as
/// '@@(tsvector,tsquery)'; or lets a function such as 'lower(text)' stand in the expression of an index (spec 14).
/// Answers how many pairs of operator and index family are new. From the next statement on, in every session that has
/// the library loaded. For superusers. Errors: 42501 not superuser, 42704 unknown, 0A000 not on the vetted list (the
/// detail says why).
#[pg_extern(volatile, parallel_unsafe)]
fn vouch_leakproof(what: Option<&str>) -> pg::Result<i32> {
    require_superuser()?;
    Ok(vouch(&subjects(named(pg::given(what, "what")?)?)?))
}

/// The same for an operator given as regoperator (spec 14). Errors: as for a text.
#[pg_extern(sql = r#"
CREATE FUNCTION vouch_leakproof(operator regoperator)
RETURNS integer VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn vouch_leakproof_operator(operator: Option<pg_sys::Oid>) -> pg::Result<i32> {
    require_superuser()?;
    Ok(vouch(&subjects_of_operator(pg::given(
        operator, "operator",
    )?)?))
}

/// The same for every vetted operator of an index family, such as ('jsonb_ops', 'gin') (spec 14). Errors: as for a text.
#[pg_extern(volatile, parallel_unsafe, name = "vouch_leakproof")]
fn vouch_leakproof_family(family: Option<&str>, access_method: Option<&str>) -> pg::Result<i32> {
    require_superuser()?;
    Ok(vouch(&subjects_of_family(
        pg::given(family, "family")?,
        pg::given(access_method, "access_method")?,
    )?))
}

/// Takes back what vouch_leakproof() said of an operator or function; plans made with it are made anew (spec 14). For
/// superusers. Errors: 42501 not superuser, 42704 unknown or not vouched for.
#[pg_extern(volatile, parallel_unsafe)]
fn withdraw_vouch(what: Option<&str>) -> pg::Result<i32> {
    require_superuser()?;
    withdraw(&subjects(named(pg::given(what, "what")?)?)?)
}

/// The same for an operator given as regoperator (spec 14). Errors: as for a text.
#[pg_extern(sql = r#"
CREATE FUNCTION withdraw_vouch(operator regoperator)
RETURNS integer VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn withdraw_vouch_operator(operator: Option<pg_sys::Oid>) -> pg::Result<i32> {
    require_superuser()?;
    withdraw(&subjects_of_operator(pg::given(operator, "operator")?)?)
}

/// The same for every vetted operator of an index family (spec 14). Errors: as for a text.
#[pg_extern(volatile, parallel_unsafe, name = "withdraw_vouch")]
fn withdraw_vouch_family(family: Option<&str>, access_method: Option<&str>) -> pg::Result<i32> {
    require_superuser()?;
    withdraw(&subjects_of_family(
        pg::given(family, "family")?,
        pg::given(access_method, "access_method")?,
    )?)
}

/// The vetted list and the refusals, each with its reason (spec 14). Anyone may read it; the view leakproof_vouchers
/// shows it together with what is vouched for.
#[pg_extern(stable, parallel_unsafe)]
fn leakproof_list() -> TableIterator<
    'static,
    (
        name!(object, String),
        name!(access_method, String),
        name!(family, String),
        name!(vetted, bool),
        name!(reason, String),
    ),
> {
    let mut rows = vec![];
    for v in VETTED {
        for operator in v.operators {
            for f in v.families {
                rows.push((
                    operator.to_string(),
                    f.method.to_string(),
                    f.name.to_string(),
                    true,
                    v.reason.to_string(),
                ));
            }
        }
    }
    for (operator, why) in REFUSED {
        rows.push((
            operator.to_string(),
            String::new(),
            String::new(),
            false,
            why.to_string(),
        ));
    }
    TableIterator::new(rows)
}

/// The reason that is given for a function in an index's expression (spec 14). Anyone may read it.
#[pg_extern(immutable, parallel_safe)]
fn leakproof_expression_reason() -> &'static str {
    EXPRESSION
}

crate::pg::finfo!(pg_finfo_tenancy_with_room);

/// Room that a level of a full-text query takes at most (measured 200 to 300 bytes), and what an index scan takes
/// besides.
const PER_ITEM: usize = 512;
const BESIDES: usize = 32 << 10;

/// `tenancy.with_room(query tsquery) -> tsquery` (spec 14): answers its argument, a full-text query, after making sure that an
/// index scan has room for it on the stack. Stands in plans, at the start of a scan: the error then says nothing of any row.
/// Anyone may call it. Errors: 54001 no room.
///
/// SAFETY: called by PostgreSQL's function manager with one tsquery.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn tenancy_with_room(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: a strict function of one argument; a tsquery begins with its length and the number of its items.
    unsafe {
        let query = (*(*fcinfo).args.as_ptr()).value;
        let plain = pg_sys::pg_detoast_datum(query.cast_mut_ptr());
        let items = (*plain.cast::<[i32; 2]>())[1].max(0) as usize;
        if plan::stack_left() < BESIDES + items * PER_ITEM {
            Err::<(), _>(
                fail(
                    PgSqlErrorCode::ERRCODE_STATEMENT_TOO_COMPLEX,
                    "stack depth limit exceeded",
                )
                .set_detail(format!(
                    "A full-text query of {items} items needs more room than is left."
                ))
                .set_hint(
                    "Simplify the query, or call it from a place that is less deeply nested.",
                ),
            )
            .unwrap_or_report();
        }
        query
    }
}
