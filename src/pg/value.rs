//! Datums: comparing, copying, and turning rows into jsonb the way PostgreSQL itself does.

use pgrx::prelude::*;
use pgrx::varlena;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;

/// The value of a varlena that is neither compressed nor out of line, as it is; another one detoasted.
///
/// SAFETY: a valid varlena datum.
#[inline]
pub unsafe fn plain_bytes<'a>(pointer: *mut pg_sys::varlena) -> &'a [u8] {
    // SAFETY: as the function's own. The detoasted copy lives in the current memory.
    unsafe {
        bytes_if_plain(pointer).unwrap_or_else(|| content(pg_sys::pg_detoast_datum_packed(pointer)))
    }
}

/// `plain_bytes` where nothing needs to be detoasted.
///
/// SAFETY: a valid varlena datum.
#[inline]
pub unsafe fn bytes_if_plain<'a>(pointer: *mut pg_sys::varlena) -> Option<&'a [u8]> {
    // SAFETY: as the function's own.
    unsafe { is_plain(pointer).then(|| content(pointer)) }
}

/// An array of uuids, in the present memory context.
pub fn uuid_array(ids: &[[u8; 16]]) -> pg_sys::Datum {
    let mut pointers: Vec<_> = ids
        .iter()
        .map(|id| pg_sys::Datum::from(id.as_ptr()))
        .collect();
    let (uuid, align) = (pg_sys::UUIDOID, pg_sys::TYPALIGN_CHAR as std::ffi::c_char);
    // SAFETY: copies so many values of the type's fixed length.
    pg_sys::Datum::from(unsafe {
        pg_sys::construct_array(
            pointers.as_mut_ptr(),
            ids.len() as i32,
            uuid,
            16,
            false,
            align,
        )
    })
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
    /// A variable-length value that is not NULL.
    pub fn varlena(datum: pg_sys::Datum) -> Value {
        Value {
            datum,
            null: false,
            length: -1,
            by_value: false,
        }
    }

    /// A uuid that is not NULL.
    #[inline]
    pub fn uuid(datum: pg_sys::Datum) -> Value {
        Value {
            datum,
            null: false,
            length: 16,
            by_value: false,
        }
    }

    /// A number that is not NULL.
    #[inline]
    pub fn word(datum: pg_sys::Datum) -> Value {
        Value {
            datum,
            null: false,
            length: 8,
            by_value: true,
        }
    }

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
                -1 if is_plain(pointer.cast()) => content(pointer.cast()),
                -1 => {
                    let plain = pg_sys::pg_detoast_datum_packed(pointer.cast());
                    let result = use_them(content(plain));
                    if plain.cast() != pointer {
                        pg_sys::pfree(plain.cast());
                    }
                    return result;
                }
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
        if self.length == -1 {
            // SAFETY: two variable-length values that are not NULL; each says how long it is as it stands.
            unsafe {
                let (one, two) = (self.datum.cast_mut_ptr(), other.datum.cast_mut_ptr());
                // What an update left alone is the same to the byte, also where it is a reference to a toasted value.
                if as_it_stands(one) == as_it_stands(two) {
                    return true;
                }
                if is_plain(one) && is_plain(two) {
                    return content(one) == content(two);
                }
            }
        }
        self.with_bytes(|mine| other.with_bytes(|theirs| mine == theirs))
    }

    /// The content of a variable-length value that is not NULL.
    pub fn content(&self) -> Cow<'_, [u8]> {
        // SAFETY: a valid varlena datum; a detoasted copy lives in the current memory, which outlives the caller's row.
        Cow::Borrowed(unsafe { plain_bytes(self.datum.cast_mut_ptr()) })
    }

    pub fn as_uuid(&self) -> Option<[u8; 16]> {
        // SAFETY: a value of so many bytes. An organization column of another type, read as if it were one, is none.
        (!self.null && self.length == 16).then(|| unsafe { *self.datum.cast_mut_ptr::<[u8; 16]>() })
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

/// The value that a text stands for, by its type's input function, whose errors they are.
pub fn input(text: &str, type_id: pg_sys::Oid, modifier: i32) -> Value {
    let (length, by_value) = super::catalog::length_of(type_id);
    let text = std::ffi::CString::new(text.replace('\0', "")).unwrap_or_default();
    // SAFETY: the type is a column's; its input function takes a C string.
    let datum = unsafe {
        let (mut function, mut parameter) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        pg_sys::getTypeInputInfo(type_id, &mut function, &mut parameter);
        pg_sys::OidInputFunctionCall(function, text.as_ptr().cast_mut(), parameter, modifier)
    };
    Value {
        datum,
        null: false,
        length,
        by_value,
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
    // One prepared call of to_jsonb() per type. They stay for the backend's life.
    static TO_JSONB: RefCell<HashMap<pg_sys::Oid, *mut pg_sys::FmgrInfo>> = RefCell::default();
}

/// to_jsonb(anyelement) learns its argument's type from the call expression; this is one with a parameter of the type.
///
/// SAFETY: the type exists.
pub unsafe fn prepared_to_jsonb(type_id: pg_sys::Oid) -> *mut pg_sys::FmgrInfo {
    if let Some(call) = TO_JSONB.with_borrow(|calls| calls.get(&type_id).copied()) {
        return call;
    }
    // SAFETY: everything is allocated, zeroed, in TopMemoryContext, which lives as long as the backend.
    unsafe {
        let top = pg_sys::TopMemoryContext;
        let before = pg_sys::MemoryContextSwitchTo(top);
        let param = pg_sys::palloc0(size_of::<pg_sys::Param>()).cast::<pg_sys::Param>();
        (*param).xpr.type_ = pg_sys::NodeTag::T_Param;
        (*param).paramtype = type_id;
        (*param).paramtypmod = -1;
        let expr = pg_sys::palloc0(size_of::<pg_sys::FuncExpr>()).cast::<pg_sys::FuncExpr>();
        (*expr).xpr.type_ = pg_sys::NodeTag::T_FuncExpr;
        (*expr).funcid = pg_sys::Oid::from(pg_sys::F_TO_JSONB);
        (*expr).args = pg_sys::lappend(std::ptr::null_mut(), param.cast());
        let call = pg_sys::palloc0(size_of::<pg_sys::FmgrInfo>()).cast::<pg_sys::FmgrInfo>();
        pg_sys::fmgr_info_cxt(pg_sys::Oid::from(pg_sys::F_TO_JSONB), call, top);
        (*call).fn_expr = expr.cast();
        pg_sys::MemoryContextSwitchTo(before);
        TO_JSONB.with_borrow_mut(|calls| calls.insert(type_id, call));
        call
    }
}

/// SAFETY: a variable-length value, not NULL.
unsafe fn as_it_stands<'a>(pointer: *const pg_sys::varlena) -> &'a [u8] {
    // SAFETY: as the function's own.
    unsafe { std::slice::from_raw_parts(pointer.cast(), varlena::varsize_any(pointer)) }
}

/// Neither compressed nor stored elsewhere.
///
/// SAFETY: as above.
#[inline]
unsafe fn is_plain(pointer: *const pg_sys::varlena) -> bool {
    // SAFETY: as the function's own.
    unsafe {
        varlena::varatt_is_4b_u(pointer)
            || (varlena::varatt_is_1b(pointer) && !varlena::varatt_is_1b_e(pointer))
    }
}

/// SAFETY: as above, and plain.
#[inline]
unsafe fn content<'a>(pointer: *const pg_sys::varlena) -> &'a [u8] {
    // SAFETY: as the function's own.
    unsafe {
        std::slice::from_raw_parts(
            varlena::vardata_any(pointer).cast(),
            varlena::varsize_any_exhdr(pointer),
        )
    }
}

/// All columns of one row, taken apart at once.
#[derive(Default)]
pub struct Deformed {
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

unsafe extern "C-unwind" {
    // Declared here without pgrx's guard: it reads memory, never raises, and stands on the per-row path.
    fn heap_deform_tuple(
        tuple: pg_sys::HeapTuple,
        desc: pg_sys::TupleDesc,
        values: *mut pg_sys::Datum,
        nulls: *mut bool,
    );
}

impl Deformed {
    /// SAFETY: the tuple is one of the descriptor's; it outlives what is read here.
    pub(super) unsafe fn fill(&mut self, tuple: pg_sys::HeapTuple, desc: pg_sys::TupleDesc) {
        // SAFETY: as the function's own; there is room for every column.
        unsafe {
            let columns = (*desc).natts as usize;
            self.values.resize(columns, pg_sys::Datum::from(0));
            self.nulls.resize(columns, true);
            heap_deform_tuple(
                tuple,
                desc,
                self.values.as_mut_ptr(),
                self.nulls.as_mut_ptr(),
            );
        }
    }

    /// Column `attnum`, from 1, and whether it is NULL.
    #[inline]
    pub fn column(&self, attnum: i16) -> (pg_sys::Datum, bool) {
        let i = attnum as usize - 1;
        (self.values[i], self.nulls[i])
    }
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
