//! A row as a value.

use super::trigger::RowImage;
use pgrx::prelude::*;

/// What `see` makes of a row that is a value; None where it is no row of the table.
///
/// SAFETY: a value of a composite type, which is not NULL.
pub unsafe fn with_row<T>(
    value: pg_sys::Datum,
    table: pg_sys::Oid,
    see: impl FnOnce(&RowImage) -> T,
) -> Option<T> {
    // SAFETY: as the function's own: the header says of which type the row is. The descriptor is counted; an error gives it
    // back with the transaction.
    unsafe {
        let header =
            pg_sys::pg_detoast_datum(value.cast_mut_ptr()).cast::<pg_sys::HeapTupleHeaderData>();
        let fields = (*header).t_choice.t_datum;
        if pg_sys::typeidTypeRelid(fields.datum_typeid) != table {
            return None;
        }
        let desc = pg_sys::lookup_rowtype_tupdesc(fields.datum_typeid, fields.datum_typmod);
        let mut tuple = pg_sys::HeapTupleData {
            t_len: pgrx::varsize(header.cast()) as u32,
            t_data: header,
            ..Default::default()
        };
        let answer = see(&RowImage::new(&raw mut tuple, desc));
        if (*desc).tdrefcount >= 0 {
            pg_sys::DecrTupleDescRefCount(desc);
        }
        Some(answer)
    }
}
