//! cidr[] as an argument of a SQL function, which pgrx does not know.

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::datum::FromDatum;
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use std::ffi::CStr;

/// The array as PostgreSQL writes it: `{10.0.0.0/8,::1/128}`.
pub struct Cidrs(pub String);

// SAFETY: the declared type is the one that `unbox_arg_unchecked` reads.
unsafe impl SqlTranslatable for Cidrs {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Cidrs);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("cidr[]"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("cidr[]")));
}

impl FromDatum for Cidrs {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Cidrs> {
        if is_null {
            return None;
        }
        // SAFETY: array_out() answers a NUL-terminated text for any array; it is copied at once.
        unsafe {
            let text = pg_sys::OidOutputFunctionCall(pg_sys::F_ARRAY_OUT.into(), datum);
            Some(Cidrs(CStr::from_ptr(text).to_string_lossy().into_owned()))
        }
    }
}

// SAFETY: the argument is an array, as the SQL declaration says; one that is NULL does not come here.
unsafe impl<'fcx> ArgAbi<'fcx> for Cidrs {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: as above.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or(Cidrs(String::new()))
    }
}
