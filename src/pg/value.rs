//! Datums: comparing, copying, and turning rows into jsonb the way PostgreSQL itself does.

use pgrx::prelude::*;
use pgrx::varlena;
use std::cell::RefCell;
use std::collections::HashMap;

/// The value of a varlena that is neither compressed nor out of line, as it is; another one detoasted.
///
/// SAFETY: a valid varlena datum.
#[inline]
pub unsafe fn plain_bytes<'a>(pointer: *mut pg_sys::varlena) -> &'a [u8] {
    // SAFETY: as the function's own; the header says how long it is. The detoasted copy lives in the current memory.
    unsafe {
        let plain = if varlena::varatt_is_4b_u(pointer)
            || varlena::varatt_is_1b(pointer) && !varlena::varatt_is_1b_e(pointer)
        {
            pointer
        } else {
            pg_sys::pg_detoast_datum_packed(pointer)
        };
        std::slice::from_raw_parts(
            varlena::vardata_any(plain).cast::<u8>(),
            varlena::varsize_any_exhdr(plain),
        )
    }
}

/// A column's value and what is needed to handle it.
#[derive(Clone, Copy)]
pub struct Value {
    pub datum: pg_sys::Datum,
    pub null: bool,
    pub length: i16,
    pub by_value: bool,
}

impl Value {
    /// The value's bytes as stored, a copy; empty for NULL. Equal bytes are equal values.
    pub fn bytes(&self) -> Vec<u8> {
        self.with_bytes(<[u8]>::to_vec)
    }

    /// The value's bytes as stored, in place.
    pub fn with_bytes<T>(&self, use_them: impl FnOnce(&[u8]) -> T) -> T {
        if self.null {
            return use_them(&[]);
        }
        if self.by_value {
            return use_them(&self.datum.value().to_ne_bytes());
        }
        // SAFETY: a non-null by-reference datum of the column's own length, as its tuple descriptor says.
        let bytes = unsafe {
            let pointer = self.datum.cast_mut_ptr::<u8>();
            match self.length {
                -1 => plain_bytes(pointer.cast()),
                -2 => std::ffi::CStr::from_ptr(pointer.cast()).to_bytes(),
                n => std::slice::from_raw_parts(pointer, n as usize),
            }
        };
        use_them(bytes)
    }

    /// Whether both are stored alike: what makes a column count as unchanged.
    pub fn same(&self, other: &Value) -> bool {
        if self.null || other.null {
            return self.null == other.null;
        }
        if self.by_value {
            return self.datum.value() == other.datum.value();
        }
        if self.length == 16 {
            // SAFETY: both point to 16 bytes; uuid is the common case.
            return unsafe {
                *self.datum.cast_mut_ptr::<[u8; 16]>() == *other.datum.cast_mut_ptr::<[u8; 16]>()
            };
        }
        self.with_bytes(|mine| other.with_bytes(|theirs| mine == theirs))
    }

    pub fn as_uuid(&self) -> Option<[u8; 16]> {
        // SAFETY: used for columns that protect() found to be of type uuid only.
        (!self.null).then(|| unsafe { *self.datum.cast_mut_ptr::<[u8; 16]>() })
    }

    /// The same value in memory that lasts until the transaction ends.
    pub fn kept_for_transaction(&self) -> Value {
        if self.null || self.by_value {
            return *self;
        }
        // SAFETY: copies the datum's own bytes (a varlena detoasted first, with its header).
        let datum = unsafe {
            let pointer = self.datum.cast_mut_ptr::<u8>();
            let (source, size) = match self.length {
                -1 => {
                    let plain = pg_sys::pg_detoast_datum(pointer.cast());
                    (plain.cast::<u8>(), varlena::varsize_any(plain))
                }
                -2 => (
                    pointer,
                    std::ffi::CStr::from_ptr(pointer.cast()).count_bytes() + 1,
                ),
                n => (pointer, n as usize),
            };
            let copy = pg_sys::MemoryContextAlloc(pg_sys::TopTransactionContext, size).cast::<u8>();
            std::ptr::copy_nonoverlapping(source, copy, size);
            pg_sys::Datum::from(copy)
        };
        Value { datum, ..*self }
    }
}

/// The text form of a value, by its type's output function.
pub fn output(value: &Value, type_id: pg_sys::Oid) -> String {
    if value.null {
        return "null".into();
    }
    // SAFETY: the type is the column's; its output function answers a palloc'd C string.
    unsafe {
        let (mut function, mut varlena) = (pg_sys::InvalidOid, false);
        pg_sys::getTypeOutputInfo(type_id, &mut function, &mut varlena);
        let text = pg_sys::OidOutputFunctionCall(function, value.datum);
        std::ffi::CStr::from_ptr(text)
            .to_string_lossy()
            .into_owned()
    }
}

thread_local! {
    // One prepared call of to_jsonb() per row type. They stay for the backend's life, one small node per protected table.
    static TO_JSONB: RefCell<HashMap<pg_sys::Oid, *mut pg_sys::FmgrInfo>> = RefCell::default();
}

/// Some columns of a row type, as a row type of their own.
#[derive(Clone, Copy, Debug)]
pub struct Projection {
    desc: pg_sys::TupleDesc,
}

/// The projection of `desc` to these columns, registered with PostgreSQL for the backend's life (equal ones are one).
///
/// SAFETY: the numbers are columns of the descriptor.
pub unsafe fn projection(desc: pg_sys::TupleDesc, attnums: &[i16]) -> Projection {
    // SAFETY: as the function's own; the descriptor is made in memory that lives as long as the backend.
    unsafe {
        let before = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let part = pg_sys::CreateTemplateTupleDesc(attnums.len() as i32);
        for (i, attnum) in attnums.iter().enumerate() {
            pg_sys::TupleDescCopyEntry(part, i as i16 + 1, desc, *attnum);
        }
        let part = pg_sys::BlessTupleDesc(part);
        pg_sys::MemoryContextSwitchTo(before);
        Projection { desc: part }
    }
}

impl Projection {
    /// Gives the descriptor's memory back; PostgreSQL keeps the registered copy.
    pub fn free(&self) {
        // SAFETY: made by projection(), in memory of the backend's life, and freed once, with its table.
        unsafe { pg_sys::FreeTupleDesc(self.desc) }
    }
}

/// A jsonb value in memory of the backend's life, to be given back with `free()`.
pub fn lasting_jsonb(value: serde_json::Value) -> pg_sys::Datum {
    // SAFETY: switched back at once.
    unsafe {
        let before = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let datum = pgrx::JsonB(value).into_datum().expect("a value");
        pg_sys::MemoryContextSwitchTo(before);
        datum
    }
}

pub fn free(datum: pg_sys::Datum) {
    // SAFETY: made by lasting_jsonb(), and given back once.
    unsafe { pg_sys::pfree(datum.cast_mut_ptr()) }
}

/// The object without these keys.
pub fn jsonb_without(object: pg_sys::Datum, keys: &[&str]) -> pg_sys::Datum {
    let keys: Vec<String> = keys.iter().map(|k| k.to_string()).collect();
    // SAFETY: jsonb - text[], neither NULL.
    unsafe {
        pgrx::direct_function_call_as_datum(
            pg_sys::jsonb_delete_array,
            &[Some(object), keys.into_datum()],
        )
    }
    .expect("jsonb - text[] is never NULL")
}

/// These values as jsonb, exactly as to_jsonb(row) makes it.
///
/// SAFETY: the values are those of the projection's columns, in their order.
pub unsafe fn to_jsonb(projection: Projection, values: &[Value]) -> pg_sys::Datum {
    let mut datums: Vec<pg_sys::Datum> = values.iter().map(|v| v.datum).collect();
    let mut nulls: Vec<bool> = values.iter().map(|v| v.null).collect();
    // SAFETY: as the function's own.
    unsafe {
        let tuple =
            pg_sys::heap_form_tuple(projection.desc, datums.as_mut_ptr(), nulls.as_mut_ptr());
        let composite = pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data);
        let call = prepared_to_jsonb((*projection.desc).tdtypeid);
        pg_sys::FunctionCall1Coll(call, pg_sys::InvalidOid, composite)
    }
}

/// to_jsonb(anyelement) learns its argument's type from the call expression; this is one with a parameter of the type.
///
/// SAFETY: the type is a row type.
unsafe fn prepared_to_jsonb(row_type: pg_sys::Oid) -> *mut pg_sys::FmgrInfo {
    if let Some(call) = TO_JSONB.with_borrow(|calls| calls.get(&row_type).copied()) {
        return call;
    }
    // SAFETY: everything is allocated, zeroed, in TopMemoryContext, which lives as long as the backend.
    unsafe {
        let top = pg_sys::TopMemoryContext;
        let before = pg_sys::MemoryContextSwitchTo(top);
        let param = pg_sys::palloc0(size_of::<pg_sys::Param>()).cast::<pg_sys::Param>();
        (*param).xpr.type_ = pg_sys::NodeTag::T_Param;
        (*param).paramtype = row_type;
        (*param).paramtypmod = -1;
        let expr = pg_sys::palloc0(size_of::<pg_sys::FuncExpr>()).cast::<pg_sys::FuncExpr>();
        (*expr).xpr.type_ = pg_sys::NodeTag::T_FuncExpr;
        (*expr).funcid = pg_sys::Oid::from(pg_sys::F_TO_JSONB);
        (*expr).args = pg_sys::lappend(std::ptr::null_mut(), param.cast());
        let call = pg_sys::palloc0(size_of::<pg_sys::FmgrInfo>()).cast::<pg_sys::FmgrInfo>();
        pg_sys::fmgr_info_cxt(pg_sys::Oid::from(pg_sys::F_TO_JSONB), call, top);
        (*call).fn_expr = expr.cast();
        pg_sys::MemoryContextSwitchTo(before);
        TO_JSONB.with_borrow_mut(|calls| calls.insert(row_type, call));
        call
    }
}

/// A uuid datum in the present memory.
pub fn uuid_datum(id: &[u8; 16]) -> pg_sys::Datum {
    pgrx::datum::Uuid::from_bytes(*id)
        .into_datum()
        .expect("a uuid is never NULL")
}

/// A `name` datum, truncated as PostgreSQL truncates names.
pub fn name_datum(text: &str) -> pg_sys::Datum {
    let text = std::ffi::CString::new(text).unwrap_or_default();
    // SAFETY: namein() takes a C string and answers a palloc'd name.
    unsafe {
        pgrx::direct_function_call_as_datum(
            pg_sys::namein,
            &[Some(pg_sys::Datum::from(text.as_ptr()))],
        )
    }
    .expect("a name is never NULL")
}

/// The types of a query's parameters.
///
/// SAFETY: `list` is the parameter list of a query descriptor.
pub unsafe fn parameter_types(list: pg_sys::ParamListInfo) -> Vec<pg_sys::Oid> {
    // SAFETY: as the function's own.
    unsafe {
        let parameters = (*list).params.as_slice((*list).numParams as usize);
        parameters.iter().map(|parameter| parameter.ptype).collect()
    }
}

/// The parameters of a running query.
///
/// SAFETY: `list` is the parameter list of a query descriptor, with its values in place.
pub unsafe fn parameters(list: pg_sys::ParamListInfo) -> Vec<Value> {
    // SAFETY: as the function's own; the type says how each value is stored.
    unsafe {
        (*list)
            .params
            .as_slice((*list).numParams as usize)
            .iter()
            .map(|parameter| {
                let (mut length, mut by_value) = (0, false);
                if parameter.ptype != pg_sys::InvalidOid {
                    pg_sys::get_typlenbyval(parameter.ptype, &mut length, &mut by_value);
                }
                Value {
                    datum: parameter.value,
                    null: parameter.isnull,
                    length,
                    by_value,
                }
            })
            .collect()
    }
}
