//! Building jsonb objects from values, as to_jsonb() of a row makes them.

use super::value;
use pg_sys::JsonbIteratorToken::{WJB_BEGIN_OBJECT, WJB_END_OBJECT, WJB_KEY, WJB_VALUE};
use pgrx::callconv::{Arg, ArgAbi};
use pgrx::datum::FromDatum;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, PgTryBuilder};
use std::panic::AssertUnwindSafe;

/// A string in an object keeps its length in 28 bits.
const LONGEST: usize = 1 << 28;

/// An object under construction. What it is made of must live until it is finished.
pub struct Object(*mut pg_sys::JsonbParseState);

impl Object {
    pub fn new() -> Object {
        let mut object = Object(std::ptr::null_mut());
        object.push(WJB_BEGIN_OBJECT, None);
        object
    }

    fn push(
        &mut self,
        token: pg_sys::JsonbIteratorToken::Type,
        value: Option<pg_sys::JsonbValue>,
    ) -> *mut pg_sys::JsonbValue {
        let mut value = value;
        let value = value.as_mut().map_or(std::ptr::null_mut(), |v| v as *mut _);
        // SAFETY: tokens come in the order of an object's: begin, keys each with a value, end.
        unsafe { pg_sys::pushJsonbValue(&mut self.0, token, value) }
    }

    pub fn key(&mut self, name: &str) {
        self.push(WJB_KEY, Some(string(name.as_bytes())));
    }

    pub fn null(&mut self) {
        self.push(WJB_VALUE, Some(of_type(pg_sys::jbvType::jbvNull)));
    }

    /// Must be shorter than 2^28 bytes.
    pub fn text(&mut self, text: &[u8]) {
        self.push(WJB_VALUE, Some(string(text)));
    }

    pub fn jsonb(&mut self, jsonb: &Jsonb) {
        // SAFETY: a jsonb begins with its container after the length.
        unsafe {
            let plain = pg_sys::pg_detoast_datum(jsonb.0.cast_mut_ptr());
            let root = plain.cast::<u8>().add(pg_sys::VARHDRSZ).cast();
            let mut value = of_type(pg_sys::jbvType::jbvBinary);
            if !pg_sys::JsonbExtractScalar(root, &mut value) {
                value.type_ = pg_sys::jbvType::jbvBinary;
                value.val.binary.data = root;
                value.val.binary.len = pgrx::varlena::varsize_any_exhdr(plain) as i32;
            }
            self.push(WJB_VALUE, Some(value));
        }
    }

    pub fn finish(mut self) -> pg_sys::Datum {
        let object = self.push(WJB_END_OBJECT, None);
        // SAFETY: the end of the outermost object answers the whole.
        unsafe { pg_sys::Datum::from(pg_sys::JsonbValueToJsonb(object)) }
    }
}

/// A jsonb argument as the text that PostgreSQL shows: jsonb holds numbers that no number of Rust's can be.
pub struct Document(pub String);

// SAFETY: the declared type is the one that `from_polymorphic_datum` reads.
unsafe impl SqlTranslatable for Document {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Document);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("jsonb"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("jsonb")));
}

impl FromDatum for Document {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Document> {
        (!is_null).then(|| Document(text(datum)))
    }
}

// SAFETY: the argument is a jsonb, as the SQL declaration says; one that is NULL does not come here.
unsafe impl<'fcx> ArgAbi<'fcx> for Document {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: as above.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or(Document(String::new()))
    }
}

/// A jsonb value.
#[derive(Clone, Copy)]
pub struct Jsonb(pub(super) pg_sys::Datum);

/// to_jsonb() of a value.
///
/// SAFETY: it is of the type.
pub unsafe fn to_jsonb(datum: pg_sys::Datum, type_id: pg_sys::Oid) -> Jsonb {
    if type_id == pg_sys::JSONBOID {
        return Jsonb(datum);
    }
    // SAFETY: as the function's own.
    unsafe {
        let call = value::prepared_to_jsonb(type_id);
        Jsonb(pg_sys::FunctionCall1Coll(call, pg_sys::InvalidOid, datum))
    }
}

/// Whether a text of so many bytes can stand in an object.
pub fn holds(size: usize) -> bool {
    size < LONGEST
}

fn of_type(kind: pg_sys::jbvType::Type) -> pg_sys::JsonbValue {
    // SAFETY: a struct of numbers and pointers, for which zero is a value.
    let mut value: pg_sys::JsonbValue = unsafe { std::mem::zeroed() };
    value.type_ = kind;
    value
}

fn string(bytes: &[u8]) -> pg_sys::JsonbValue {
    let mut value = of_type(pg_sys::jbvType::jbvString);
    value.val.string.len = bytes.len() as i32;
    value.val.string.val = bytes.as_ptr().cast_mut().cast();
    value
}

/// A jsonb as text, in the form that PostgreSQL shows.
pub fn text(jsonb: pg_sys::Datum) -> String {
    // SAFETY: a jsonb datum; jsonb_out() answers a palloc'd C string.
    unsafe {
        let text = pgrx::direct_function_call_as_datum(pg_sys::jsonb_out, &[Some(jsonb)]);
        let text = text.expect("never NULL").cast_mut_ptr();
        std::ffi::CStr::from_ptr(text)
            .to_string_lossy()
            .into_owned()
    }
}

/// Whether two JSON texts say the same.
pub fn same(one: &str, other: &str) -> bool {
    if one == other {
        return true;
    }
    let args = [one, other].map(|text| Some(parsed(text)));
    // SAFETY: two jsonb datums.
    unsafe { pgrx::direct_function_call::<bool>(pg_sys::jsonb_eq, &args) }.unwrap_or(false)
}

/// A JSON text as jsonb.
pub fn parsed(text: &str) -> pg_sys::Datum {
    let text = std::ffi::CString::new(text).unwrap_or_default();
    // SAFETY: jsonb_in() takes a C string, and raises where it is no JSON.
    unsafe {
        pgrx::direct_function_call_as_datum(
            pg_sys::jsonb_in,
            &[Some(pg_sys::Datum::from(text.as_ptr()))],
        )
    }
    .expect("never NULL")
}

/// Runs `work`, which builds a value and nothing else; None where the value cannot be: what it says of numbers, escapes
/// or sizes goes beyond what jsonb holds.
pub fn attempt<T>(work: impl FnOnce() -> T) -> Option<T> {
    // SAFETY: reads a backend variable, and puts back what was in force: an error leaves its own context.
    let memory = unsafe { pg_sys::CurrentMemoryContext };
    PgTryBuilder::new(AssertUnwindSafe(|| Some(work())))
        .catch_others(|error| {
            if !is_about_the_value(&error) {
                error.rethrow();
            }
            // SAFETY: as above.
            unsafe { pg_sys::MemoryContextSwitchTo(memory) };
            None
        })
        .execute()
}

fn is_about_the_value(error: &CaughtError) -> bool {
    use PgSqlErrorCode::*;
    let (CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)) = error else {
        return false;
    };
    matches!(
        report.sql_error_code(),
        ERRCODE_PROGRAM_LIMIT_EXCEEDED
            | ERRCODE_STATEMENT_TOO_COMPLEX
            | ERRCODE_UNTRANSLATABLE_CHARACTER
            | ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE
            | ERRCODE_INVALID_TEXT_REPRESENTATION
            // "invalid memory alloc request size": more than a gigabyte.
            | ERRCODE_INTERNAL_ERROR
    )
}
