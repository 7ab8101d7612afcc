//! Which columns of a protected table its audit leaves out or hides. The record of protection names them, so a column that
//! it names may not change its name unnoticed: what was hidden would stand in the log.

use super::facts::{Facts, column_exists, current_options, facts, require_column, require_owner};
use super::plan::{self, Options, Quoted};
use super::protect::{as_it_stands, change, not_protected, require_root, with_own_ddl};
use super::{table, tree};
use crate::pg::{self, error, fail, primary_key};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::spi;
use std::collections::BTreeSet;

/// Says what of a protected table is audited (spec 6.1, 6.5); partitions and children come along.
///
/// `enabled`: whether writes are logged at all. `exclude`: columns that the log leaves out; an UPDATE of nothing else
/// leaves no line. `mask`: columns of which the log says that they were written or changed, and no value. It replaces what
/// was said before and holds for what is written from now on. To rename or drop such a column, call it again first. For the
/// table's owner and the DBA; the server's log keeps a line.
/// Errors: 42501 not the owner, 42704 the table is not protected, 42809 it is protected as a part of another, 42703 no such
/// column, 22023 a column of the key, the organization's, or one that is both excluded and masked.
#[pg_extern(sql = r#"
CREATE FUNCTION set_audit(
    table_name regclass, enabled boolean DEFAULT true, exclude text[] DEFAULT '{}', mask text[] DEFAULT '{}')
RETURNS void VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn set_audit(
    table_name: Option<pg_sys::Oid>,
    enabled: Option<bool>,
    exclude: Option<Vec<Option<String>>>,
    mask: Option<Vec<Option<String>>>,
) -> pg::Result<()> {
    let relid = pg::given(table_name, "table_name")?;
    let enabled = pg::given(enabled, "enabled")?;
    let names = |given: Option<Vec<Option<String>>>, name: &str| -> pg::Result<BTreeSet<String>> {
        let given = pg::given(given, name)?.into_iter();
        given.map(|column| pg::given(column, name)).collect()
    };
    let (exclude, mask) = (names(exclude, "exclude")?, names(mask, "mask")?);
    require_owner(&facts(relid)?)?;
    let tree = tree::locked(relid)?;
    if current_options(relid).is_none() {
        return Err(not_protected(&tree[0]));
    }
    require_root(&tree[0])?;
    if let Some(both) = exclude.intersection(&mask).next() {
        return Err(invalid(both, "is both excluded and masked"));
    }
    for table in &tree {
        check(table, exclude.iter().chain(&mask))?;
    }
    with_own_ddl(|| {
        for table in &tree {
            let Some(present) = current_options(table.relid) else {
                continue;
            };
            let options = Options {
                audit: enabled,
                audit_exclude: exclude.clone(),
                audit_mask: mask.clone(),
                ..as_it_stands(table, present)
            };
            let (name, column) = (table.quoted(), spi::quote_identifier(&options.org_column));
            let quoted = Quoted {
                table: &name,
                org_column: &column,
                kind: table::org_column_of(table.relid)
                    .map_or_else(Default::default, |org| org.kind),
                literal: &|text| spi::quote_literal(text),
                partitioned: table.is_partitioned(),
                scope: None,
                place: None,
            };
            for statement in plan::change_record(&options, &quoted) {
                change(table, &statement);
            }
        }
    });
    let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
    error::server_log(
        "audit of a table changed",
        &format!(
            "Table {}: audited: {enabled}; excluded: {}; masked: {}.",
            tree[0].quoted(),
            list(&exclude),
            list(&mask)
        ),
    );
    Ok(())
}

fn check<'a>(table: &Facts, columns: impl Iterator<Item = &'a String>) -> pg::Result<()> {
    let of_key = primary_key::columns(table.relid);
    let org = table::org_column_of(table.relid);
    for column in columns {
        require_column(table, column, "Nothing was changed.")?;
        if of_key.iter().any(|c| c.name == *column) {
            return Err(invalid(
                column,
                "is of the primary key, by which the log names rows",
            ));
        }
        if table::columns_of(table.relid)
            .iter()
            .any(|(n, name)| org.is_some_and(|org| org.attnum == *n) && name == column)
        {
            return Err(invalid(column, "holds the organization, whose log it is"));
        }
    }
    Ok(())
}

fn invalid(column: &str, why: &str) -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("column \"{column}\" {why}"),
    )
    .set_detail("Nothing was changed.")
    .set_hint("Such as SELECT tenancy.set_audit('people', exclude => '{last_seen}', mask => '{passport}').")
}

/// A table was altered: the columns that its audit leaves out or hides are still called so.
pub fn after(relid: pg_sys::Oid) -> pg::Result<()> {
    let Some(options) = current_options(relid) else {
        return Ok(());
    };
    if options.audit_columns().next().is_none() {
        return Ok(());
    }
    let table = facts(relid)?;
    match options.audit_columns().find(|column| !column_exists(&table, column)) {
        None => Ok(()),
        Some(gone) => Err(fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("the audit of table \"{}\" leaves column \"{gone}\" out or hides it", table.name),
        )
        .set_detail("Under another name its values would stand in the log.")
        .set_hint("SELECT tenancy.set_audit(...) without it, alter the table, and set_audit() with the new name, in one transaction.")),
    }
}
