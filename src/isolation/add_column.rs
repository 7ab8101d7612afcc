//! add_org_column(): a table that says whose its rows are only through its parents gets a column that says so itself.
//!
//! The column comes without a rewrite, together with the trigger that keeps it (fill.rs); then the rows that are there are
//! filled, some thousand in each transaction. What is filled stays filled: after a crash the same call goes on. Parents are
//! looked up without a query and rows changed as the table's owner, restricted, since what a table brings along (index
//! expressions, checks, generated columns) is its owner's code (attack A-1).

use super::facts::{Facts, facts};
use super::fill::{self, Source};
use super::paths::Step;
use super::progress::Progress;
use super::table;
use super::way::{choose_path, described, source_of};
use super::{protect, tree};
use crate::pg::query::{self, Arg, execute, run};
use crate::pg::value::{self, Value};
use crate::pg::{self, error, fail, identity, partition, procedure, scan};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::spi;
use std::collections::HashMap;

/// Adds an organization column to a table that has none but refers, by foreign keys over any number of tables, to one that
/// has: adds the column, fills it in every row, and keeps it in rows written later (spec 5). Tables in between get the
/// column, too. protect() or protect_schema() then protects the table like any other.
///
/// `table_name`: the table. `org_column`: what the column is called, here and in tables that are not protected yet; a
/// protected parent's is the one it is protected by. `path`: the names of the foreign keys from the table to the parent,
/// where several lead to one. `batch_rows`: rows per transaction. Called outside of a transaction block it commits after
/// each batch, holds no lock long, and goes on where it was when it is called again after a crash; inside of one it does
/// everything in that transaction. Rows that refer to nothing keep NULL and are counted in a warning.
/// For the owner of the tables on the path and the DBA. Errors: 42501 not the owner, 42809 no such kind of table, 55000 it
/// is protected or exempt, 42704 no path, 42P08 several paths (the detail lists them), 42804 the column is there and of
/// another type than the parent's, 22023 batch_rows below 1.
#[pg_extern(sql = r#"
CREATE PROCEDURE add_org_column(
    table_name regclass, org_column text DEFAULT 'org_id', path text[] DEFAULT NULL, batch_rows integer DEFAULT 10000)
LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn add_org_column(
    table_name: Option<pg_sys::Oid>,
    org_column: Option<&str>,
    path: Option<Vec<Option<String>>>,
    batch_rows: Option<i32>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg::Result<()> {
    let relid = pg::given(table_name, "table_name")?;
    let org_column = pg::given(org_column, "org_column")?.to_string();
    let batch = pg::given(batch_rows, "batch_rows")?;
    if batch < 1 {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("batch_rows is {batch}"),
        )
        .set_detail("So many rows are changed in one transaction.")
        .set_hint("Some thousand are a good number."));
    }
    let named: Option<Vec<String>> = path.map(|names| names.into_iter().flatten().collect());
    let steps = choose_path(relid, &org_column, named.as_deref())?;
    // SAFETY: the call that is being answered.
    let mut commits = unsafe { procedure::begin(fcinfo) };
    let mut progress = Progress::new("add_org_column");
    // From the parent down: each table's parent is complete before it is filled itself.
    for step in steps.iter().rev() {
        let work = add(step, &org_column)?;
        commits.commit();
        backfill(&work, batch as usize, &mut commits, &mut progress)?;
    }
    commits.end();
    Ok(())
}

/// A table whose column is there and kept, to be filled.
struct Work {
    table: Facts,
    column: String,
    type_name: String,
    key: String,
    parent_column: String,
}

/// Adds the column and its trigger, where they are not there yet.
fn add(step: &Step, org_column: &str) -> pg::Result<Work> {
    let (child, parent) = (
        pg_sys::Oid::from(step.child),
        pg_sys::Oid::from(step.parent),
    );
    // Going on with what was begun locks nobody out.
    let tree = if partition::column_number(child, org_column) == 0 {
        tree::locked(child)?
    } else {
        tree::unlocked(child)?
    };
    tree::require_protectable(&tree)?;
    for member in &tree {
        if !member.is_partitioned() && !scan::is_heap(member.relid) {
            return Err(fail(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("table \"{}\" is not stored as a heap", member.name),
            )
            .set_detail("Its rows cannot be read page by page.")
            .set_hint("Add and fill the column by hand."));
        }
    }
    let parent_column = match table::org_column_of(parent) {
        Some(column) => column_name(parent, column.attnum),
        None => org_column.to_string(),
    };
    let type_name = type_of(parent, &parent_column);
    let name = tree[0].quoted();
    let column = spi::quote_identifier(org_column);
    if partition::column_number(child, org_column) == 0 {
        protect::with_own_ddl(|| {
            identity::as_table_owner(tree[0].owner, || {
                query::execute_as_is(&format!(
                    "ALTER TABLE {name} ADD COLUMN {column} {type_name}"
                ));
            });
        });
    } else if type_of(child, org_column) != type_name {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
            format!(
                "column \"{org_column}\" of table \"{}\" is of type {}, not {type_name}",
                tree[0].name,
                type_of(child, org_column)
            ),
        )
        .set_detail("It is to hold what the parent's organization column holds.")
        .set_hint("Choose another name with org_column => '...'."));
    }
    let source = Source {
        org_column: org_column.to_string(),
        foreign_key: step.name.clone(),
        parent_column: parent_column.clone(),
    };
    for member in &tree {
        // PostgreSQL gives partitions the row trigger of their partitioned table; children get none.
        if !member.partition && source_of(member.relid).is_none() {
            let argument = spi::quote_literal(serde_json::to_string(&source).expect("plain data"));
            execute(
                &format!(
                    "CREATE TRIGGER \"{}\" BEFORE INSERT OR UPDATE ON {} FOR EACH ROW EXECUTE FUNCTION tenancy.fill_org({argument})",
                    fill::TRIGGER,
                    member.quoted()
                ),
                &[],
            );
        }
    }
    error::server_log(
        "organization column added",
        &format!(
            "Table {name}, column {column}, from {}.",
            described(std::slice::from_ref(step))
        ),
    );
    Ok(Work {
        table: facts(child)?,
        column: org_column.to_string(),
        type_name,
        key: step.name.clone(),
        parent_column,
    })
}

fn column_name(relid: pg_sys::Oid, attnum: i16) -> String {
    table::columns_of(relid)
        .into_iter()
        .find(|(n, _)| *n == attnum)
        .map(|(_, name)| name)
        .unwrap_or_default()
}

fn type_of(relid: pg_sys::Oid, column: &str) -> String {
    run(
        "SELECT pg_catalog.format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute
         WHERE attrelid OPERATOR(pg_catalog.=) $1 AND attname OPERATOR(pg_catalog.=) $2::pg_catalog.name
           AND attnum OPERATOR(pg_catalog.>) 0 AND NOT attisdropped",
        &[Arg::Oid(relid), Arg::Name(column)],
        |row| row.get::<String>(1).unwrap_or_default(),
    )
    .pop()
    .unwrap_or_default()
}

fn backfill(
    work: &Work,
    batch: usize,
    commits: &mut procedure::Commits,
    progress: &mut Progress,
) -> pg::Result<()> {
    let (mut filled, mut homeless) = (0_u64, 0_u64);
    for member in tree::members(work.table.relid) {
        if partition::is_partitioned(member) {
            continue;
        }
        // Rows that come later are the trigger's.
        let end = scan::pages(member);
        let mut page = 0;
        while page < end {
            let done = one_batch(work, member, page, end, batch)?;
            filled += done.filled;
            page = done.next;
            commits.commit();
            if progress.is_time() {
                progress.say(&format!(
                    "{filled} rows of {} filled, page {page} of {end}",
                    work.table.quoted()
                ));
            }
        }
        let org = partition::column_number(member, &work.column);
        scan::for_each_row(member, |row| {
            if org > 0 && row.value(org).null {
                homeless += 1;
            }
        });
    }
    if homeless > 0 {
        ErrorReport::new(
            PgSqlErrorCode::ERRCODE_WARNING,
            format!(
                "table \"{}\" has {homeless} rows that lead to no organization",
                work.table.name
            ),
            "pg_tenancy",
        )
        .set_detail(format!(
            "Their column \"{}\" is NULL: the key \"{}\" is, or their parent's column.",
            work.column, work.key
        ))
        .set_hint("Fill or delete them before tenancy.protect().")
        .report(PgLogLevel::WARNING);
    }
    Ok(())
}

struct Done {
    filled: u64,
    next: u32,
}

/// Fills the first `batch` rows without organization between two pages.
fn one_batch(
    work: &Work,
    member: pg_sys::Oid,
    first: u32,
    end: u32,
    batch: usize,
) -> pg::Result<Done> {
    let table = facts(member)?;
    let org = partition::column_number(member, &work.column);
    let key = fill::key_of(member, &work.key).filter(|_| org > 0);
    let Some(key) = key else {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table \"{}\" changed meanwhile", table.name),
        )
        .set_detail(format!(
            "The column \"{}\" or the foreign key \"{}\" is gone.",
            work.column, work.key
        ))
        .set_hint("Call add_org_column() again."));
    };
    let (mut places, mut values) = (vec![], vec![]);
    let mut next = end;
    identity::as_table_owner(table.owner, || {
        // Children of one parent tend to lie together.
        let mut known: HashMap<Vec<Vec<u8>>, Option<Value>> = HashMap::new();
        scan::for_rows_between(member, first, end, |row| {
            if !row.value(org).null {
                return true;
            }
            let (page, line) = row.page_and_line();
            if places.len() >= batch {
                next = page;
                return false;
            }
            let reference = key.columns.iter().map(|(i, _)| row.value(*i).bytes());
            let found = *known
                .entry(reference.collect())
                .or_insert_with(|| fill::parents_value(&key, &work.parent_column, row));
            if let Some(value) = found {
                places.push(format!("\"({page},{line})\""));
                values.push(array_element(&value::output(&value, row.type_of(org))));
            }
            true
        });
    });
    if places.is_empty() {
        return Ok(Done { filled: 0, next });
    }
    let statement = format!(
        "UPDATE ONLY {table} AS t SET {column} = v.org
         FROM ROWS FROM (pg_catalog.unnest('{{{places}}}'::pg_catalog.tid[]), pg_catalog.unnest({values}::{of_type}[])) AS v (place, org)
         WHERE t.ctid OPERATOR(pg_catalog.=) v.place
           AND t.ctid OPERATOR(pg_catalog.>=) '({first},0)'::pg_catalog.tid
           AND t.ctid OPERATOR(pg_catalog.<=) '({next},65535)'::pg_catalog.tid AND t.{column} IS NULL",
        table = table.quoted(),
        column = spi::quote_identifier(&work.column),
        places = places.join(","),
        values = spi::quote_literal(format!("{{{}}}", values.join(","))),
        of_type = work.type_name,
    );
    let filled =
        identity::as_table_owner_silently(table.owner, || query::execute_as_is(&statement));
    Ok(Done { filled, next })
}

/// Text as an element of an array literal.
fn array_element(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
