//! What a native trigger gets to see.

use super::fail;
use super::value::{Deformed, Value};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    Insert,
    Update,
    Delete,
    Truncate,
}

impl Event {
    pub fn name(self) -> &'static str {
        match self {
            Event::Insert => "INSERT",
            Event::Update => "UPDATE",
            Event::Delete => "DELETE",
            Event::Truncate => "TRUNCATE",
        }
    }
}

/// The call of a trigger function, checked to be one.
pub struct Call {
    data: *mut pg_sys::TriggerData,
    pub event: Event,
    pub for_row: bool,
    pub before: bool,
}

/// SAFETY: `fcinfo` is the one that PostgreSQL's function manager passed.
pub unsafe fn call(fcinfo: pg_sys::FunctionCallInfo) -> Option<Call> {
    // SAFETY: the node tag says what the context points to.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            return None;
        }
        let data = context.cast::<pg_sys::TriggerData>();
        let bits = (*data).tg_event;
        let event = match bits & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => Event::Insert,
            pg_sys::TRIGGER_EVENT_UPDATE => Event::Update,
            pg_sys::TRIGGER_EVENT_DELETE => Event::Delete,
            _ => Event::Truncate,
        };
        Some(Call {
            data,
            event,
            for_row: bits & pg_sys::TRIGGER_EVENT_ROW != 0,
            before: bits & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_BEFORE,
        })
    }
}

/// For whoever calls a trigger function as another one, or has a trigger of another kind call it.
pub fn not_a_trigger(name: &str) -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
        format!("tenancy.{name}() is a trigger function"),
    )
    .set_detail("No trigger called it, or one of another kind than the extension's own.")
    .set_hint("The extension and tenancy.protect() make the triggers that call it.")
}

/// The way into a trigger function of pgrx's, which panics where no trigger calls it.
macro_rules! entry {
    ($finfo:ident, $name:ident, $function:ident, $wrapper:ident) => {
        $crate::pg::finfo!($finfo);

        /// SAFETY: called by PostgreSQL's function manager.
        #[unsafe(no_mangle)]
        #[pg_guard]
        pub unsafe extern "C-unwind" fn $name(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
            // SAFETY: as the function's own.
            unsafe {
                if $crate::pg::trigger::call(fcinfo).is_none() {
                    $crate::pg::trigger::not_a_trigger(stringify!($function))
                        .report(PgLogLevel::ERROR);
                }
                $wrapper(fcinfo)
            }
        }
    };
}
pub(crate) use entry;

impl Call {
    pub fn relation(&self) -> pg_sys::Relation {
        // SAFETY: the trigger's relation is open while it runs.
        unsafe { (*self.data).tg_relation }
    }

    pub fn relid(&self) -> pg_sys::Oid {
        // SAFETY: as above.
        unsafe { (*self.relation()).rd_id }
    }

    pub fn relation_name(&self) -> String {
        // SAFETY: as above; rd_rel is never NULL.
        unsafe { name(&(*(*self.relation()).rd_rel).relname) }
    }

    /// An argument that CREATE TRIGGER gave; empty where there is none.
    pub fn argument(&self, n: usize) -> String {
        // SAFETY: the trigger's definition is valid while it runs; arguments are NUL-terminated.
        unsafe {
            let trigger = (*self.data).tg_trigger;
            if n >= (*trigger).tgnargs as usize {
                return String::new();
            }
            std::ffi::CStr::from_ptr(*(*trigger).tgargs.add(n))
                .to_string_lossy()
                .into_owned()
        }
    }

    /// The row before, for UPDATE and DELETE.
    pub fn old_row(&self) -> Option<RowImage> {
        match self.event {
            // SAFETY: an AFTER ROW trigger's tuple, valid while it runs.
            Event::Update | Event::Delete => unsafe { self.image((*self.data).tg_trigtuple) },
            _ => None,
        }
    }

    /// The row after, for INSERT and UPDATE.
    pub fn new_row(&self) -> Option<RowImage> {
        match self.event {
            // SAFETY: as above.
            Event::Insert => unsafe { self.image((*self.data).tg_trigtuple) },
            // SAFETY: as above.
            Event::Update => unsafe { self.image((*self.data).tg_newtuple) },
            _ => None,
        }
    }

    fn image(&self, tuple: pg_sys::HeapTuple) -> Option<RowImage> {
        // SAFETY: the relation is open.
        let desc = unsafe { (*self.relation()).rd_att };
        (!tuple.is_null()).then_some(RowImage { tuple, desc })
    }
}

/// How deep triggers are nested now, from 1.
pub fn depth() -> i32 {
    // SAFETY: pg_trigger_depth() takes no argument and reads a backend variable.
    unsafe { pgrx::direct_function_call(pg_sys::pg_trigger_depth, &[]) }.unwrap_or(0)
}

pub fn name(data: &pg_sys::NameData) -> String {
    // SAFETY: a Name is NUL-terminated within its 64 bytes.
    unsafe { std::ffi::CStr::from_ptr(data.data.as_ptr()) }
        .to_string_lossy()
        .into_owned()
}

/// One version of a row, valid while the trigger runs.
#[derive(Clone, Copy)]
pub struct RowImage {
    tuple: pg_sys::HeapTuple,
    desc: pg_sys::TupleDesc,
}

impl RowImage {
    /// SAFETY: the tuple is one of the descriptor's, and both outlive the image.
    pub(super) unsafe fn new(tuple: pg_sys::HeapTuple, desc: pg_sys::TupleDesc) -> RowImage {
        RowImage { tuple, desc }
    }

    /// Column `attnum`, from 1.
    pub fn value(&self, attnum: i16) -> Value {
        // SAFETY: attnum is one of the descriptor's columns, as the table's layout was read from the catalog and is
        // read anew after each change of it.
        unsafe {
            let attribute = attribute(self.desc, attnum);
            let mut null = false;
            let datum = pg_sys::heap_getattr(self.tuple, attnum as i32, self.desc, &mut null);
            Value {
                datum,
                null,
                length: (*attribute).attlen,
                by_value: (*attribute).attbyval,
            }
        }
    }

    /// The command of this transaction that deleted or replaced this version.
    pub fn ended_by(&self) -> u32 {
        // SAFETY: an old row of an AFTER trigger: this transaction ended it.
        unsafe { pg_sys::HeapTupleHeaderGetCmax((*self.tuple).t_data) }
    }

    /// The command of this transaction that made this version.
    pub fn made_by(&self) -> u32 {
        // SAFETY: a new row of an AFTER trigger: this transaction made it.
        unsafe { pg_sys::HeapTupleHeaderGetCmin((*self.tuple).t_data) }
    }

    /// The number of the column with this name; 0 where the row has none.
    pub fn number_of(&self, name: &str) -> i16 {
        // SAFETY: as `value`; a name is a NUL-terminated string of the column's own.
        unsafe {
            (1..=(*self.desc).natts as i16)
                .find(|attnum| {
                    let column = attribute(self.desc, *attnum);
                    let known = std::ffi::CStr::from_ptr((*column).attname.data.as_ptr());
                    !(*column).attisdropped && known.to_bytes() == name.as_bytes()
                })
                .unwrap_or(0)
        }
    }

    pub fn type_of(&self, attnum: i16) -> pg_sys::Oid {
        // SAFETY: as `value`.
        unsafe { (*attribute(self.desc, attnum)).atttypid }
    }

    /// Where this version is stored.
    pub fn place(&self) -> pg_sys::ItemPointerData {
        // SAFETY: the tuple is one that was fetched from the table.
        unsafe { (*self.tuple).t_self }
    }

    /// The page and the line where this version is stored.
    pub fn page_and_line(&self) -> (u32, u16) {
        let place = self.place();
        let page = (u32::from(place.ip_blkid.bi_hi) << 16) | u32::from(place.ip_blkid.bi_lo);
        (page, place.ip_posid)
    }

    /// The row as a BEFORE trigger answers it.
    pub fn datum(&self) -> pg_sys::Datum {
        pg_sys::Datum::from(self.tuple)
    }

    /// `datum()` with another value in one column.
    pub fn with(&self, attnum: i16, value: pg_sys::Datum) -> pg_sys::Datum {
        let (columns, values, nulls) = ([i32::from(attnum)], [value], [false]);
        // SAFETY: the number is one of the row's columns, the value of its type.
        unsafe {
            pg_sys::Datum::from(pg_sys::heap_modify_tuple_by_cols(
                self.tuple,
                self.desc,
                1,
                columns.as_ptr().cast_mut(),
                values.as_ptr().cast_mut(),
                nulls.as_ptr().cast_mut(),
            ))
        }
    }

    /// Whether this version was deleted by an UPDATE that stored the next one in another partition.
    pub fn has_moved(&self) -> bool {
        // SAFETY: as above. The two numbers are what ItemPointerIndicatesMovedPartitions() compares with.
        unsafe {
            let next = (*(*self.tuple).t_data).t_ctid;
            next.ip_posid == 0xfffd
                && next.ip_blkid.bi_hi == 0xffff
                && next.ip_blkid.bi_lo == 0xffff
        }
    }

    /// All columns at once, which are valid as long as the row is.
    pub fn take_apart(&self, into: &mut Deformed) {
        // SAFETY: the tuple is one of the descriptor's.
        unsafe { into.fill(self.tuple, self.desc) }
    }
}

/// SAFETY: `attnum` is one of the descriptor's columns.
pub(super) unsafe fn attribute(
    desc: pg_sys::TupleDesc,
    attnum: i16,
) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: as the function's own.
    #[cfg(not(feature = "pg18"))]
    unsafe {
        (*desc).attrs.as_ptr().add(attnum as usize - 1)
    }
    // SAFETY: as the function's own.
    #[cfg(feature = "pg18")]
    unsafe {
        pg_sys::TupleDescAttr(desc, attnum as i32 - 1)
    }
}
