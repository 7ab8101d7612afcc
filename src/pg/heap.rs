//! Appending a row to a table of ours without a query: no privileges, triggers or plans are involved.

use pgrx::prelude::*;

/// Appends one row, with its index entries. `values` has one entry per column, None for NULL.
pub fn append(table: pg_sys::Oid, values: &[Option<pg_sys::Datum>]) {
    let nulls: Vec<bool> = values.iter().map(Option::is_none).collect();
    let datums: Vec<pg_sys::Datum> = values
        .iter()
        .map(|v| v.unwrap_or(pg_sys::Datum::from(0)))
        .collect();
    // SAFETY: the table is opened for writing and the number of values is checked against its columns.
    // CatalogTupleInsert() is heap insertion plus index entries, for any heap without expression indexes; the
    // audit tables have none.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::RowExclusiveLock as i32);
        let desc = (*relation).rd_att;
        if (*desc).natts as usize != datums.len() {
            super::fail(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "an audit table does not have the columns it was made with",
            )
            .set_detail("Somebody altered it.")
            .set_hint(
                "Undo the ALTER TABLE; nothing can be written for the organization until then.",
            )
            .report(PgLogLevel::ERROR);
        }
        let tuple =
            pg_sys::heap_form_tuple(desc, datums.as_ptr().cast_mut(), nulls.as_ptr().cast_mut());
        pg_sys::CatalogTupleInsert(relation, tuple);
        pg_sys::heap_freetuple(tuple);
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
    }
}
