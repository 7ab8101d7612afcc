//! Values as bytes that do not depend on anything in the database, and back. audit-format says what they are.

use super::canonical;
use super::json::{self, Jsonb};
use super::value::{self, Deformed, Value};
use pg_tenancy_audit_format::{self as format, Shape};
use pgrx::prelude::*;
use pgrx::varlena;
use std::ffi::{CStr, CString};

/// Where a column's values come from, and how they become bytes.
#[derive(Debug)]
pub struct Source {
    attnum: i16,
    type_id: pg_sys::Oid,
    length: i16,
    by_value: bool,
    method: Method,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Method {
    Nothing,
    Integer,
    /// So many bytes of the datum, or of what it points to.
    Word(usize),
    Place(usize),
    Varlena,
    Name,
    Output,
    ToJsonb,
}

impl Source {
    /// `value` is any of the column's, for how they are stored. Answers the encoding's name too.
    pub fn new(attnum: i16, type_id: pg_sys::Oid, value: &Value, masked: bool) -> (String, Source) {
        let encoding = match masked {
            true => format::MASKED.to_string(),
            false => encoding(type_id),
        };
        let method = match (encoding.as_str(), format::shape(&encoding)) {
            (format::MASKED, _) => Method::Nothing,
            (format::AS_JSONB, _) => Method::ToJsonb,
            (format::AS_TEXT, _) => Method::Output,
            ("name", _) => Method::Name,
            (_, Some(Shape::Integer)) => Method::Integer,
            (_, Some(Shape::Fixed(n))) if value.by_value => Method::Word(n),
            (_, Some(Shape::Fixed(n))) => Method::Place(n),
            _ => Method::Varlena,
        };
        let source = Source {
            attnum,
            type_id,
            length: value.length,
            by_value: value.by_value,
            method,
        };
        (encoding, source)
    }

    #[inline]
    pub fn value(&self, row: &Deformed) -> Value {
        let (datum, null) = row.column(self.attnum);
        Value {
            datum,
            null,
            length: self.length,
            by_value: self.by_value,
        }
    }

    /// Appends a value that is not NULL.
    pub fn put(&self, value: &Value, out: &mut Vec<u8>) {
        let word = value.datum.value();
        match self.method {
            Method::Nothing => {}
            Method::Integer => format::put_integer(
                out,
                match self.length {
                    2 => i64::from(word as i16),
                    4 => i64::from(word as i32),
                    _ => word as i64,
                },
            ),
            Method::Word(n) => out.extend_from_slice(&word.to_le_bytes()[..n]),
            // SAFETY: a by-reference value of a type of this length.
            Method::Place(n) => unsafe {
                out.extend_from_slice(std::slice::from_raw_parts(value.datum.cast_mut_ptr(), n));
            },
            Method::Varlena => value.with_bytes(|bytes| format::put_bytes(out, bytes)),
            // SAFETY: a name is NUL-terminated.
            Method::Name => unsafe {
                let name = CStr::from_ptr(value.datum.cast_mut_ptr());
                format::put_bytes(out, name.to_bytes());
            },
            Method::Output => {
                let text = canonical::output(|| value::output(value, self.type_id));
                format::put_text(out, &text);
            }
            Method::ToJsonb => {
                // SAFETY: the value is of the type.
                let jsonb =
                    canonical::output(|| unsafe { json::to_jsonb(value.datum, self.type_id) });
                Value::varlena(jsonb.0).with_bytes(|bytes| format::put_bytes(out, bytes));
            }
        }
    }
}

/// What a type's values are kept as: themselves where their form is PostgreSQL's own and refers to nothing by an id,
/// else what to_jsonb() makes of them. A domain is what it is over.
fn encoding(type_id: pg_sys::Oid) -> String {
    // SAFETY: catalog look-ups by id; the type is a column's.
    unsafe {
        let base = pg_sys::getBaseType(type_id);
        let element = pg_sys::get_element_type(base);
        let (of, suffix) = match element {
            pg_sys::InvalidOid => (base, ""),
            _ => (element, "[]"),
        };
        if let Some(name) = built_in_name(of) {
            let name = name + suffix;
            if format::shape(&name).is_some() {
                return name;
            }
        }
        // As json_categorize_type() decides.
        let structured = element != pg_sys::InvalidOid || pg_sys::type_is_rowtype(base);
        let mut function = pg_sys::InvalidOid;
        let cast = !structured
            && u32::from(base) >= pg_sys::FirstNormalObjectId
            && pg_sys::find_coercion_pathway(
                pg_sys::JSONOID,
                base,
                pg_sys::CoercionContext::COERCION_EXPLICIT,
                &mut function,
            ) == pg_sys::CoercionPathType::COERCION_PATH_FUNC;
        if structured || cast {
            format::AS_JSONB.into()
        } else {
            format::AS_TEXT.into()
        }
    }
}

/// The name of a type that initdb made.
fn built_in_name(type_id: pg_sys::Oid) -> Option<String> {
    if u32::from(type_id) >= pg_sys::FirstGenbkiObjectId {
        return None;
    }
    // SAFETY: the tuple is checked for NULL and released.
    unsafe {
        let tuple =
            pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::TYPEOID as i32, type_id.into());
        if tuple.is_null() {
            return None;
        }
        let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_type>();
        let name = super::trigger::name(&(*form).typname);
        pg_sys::ReleaseSysCache(tuple);
        Some(name)
    }
}

/// How a column's bytes become a value again.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    type_id: pg_sys::Oid,
    length: i16,
    by_value: bool,
    pub is_masked: bool,
}

impl Target {
    /// None for an encoding that is not known.
    pub fn new(encoding: &str) -> Option<Target> {
        format::shape(encoding)?;
        let of = |type_id| {
            let (mut length, mut by_value) = (0, false);
            // SAFETY: the type exists.
            unsafe { pg_sys::get_typlenbyval(type_id, &mut length, &mut by_value) };
            Target {
                type_id,
                length,
                by_value,
                is_masked: encoding == format::MASKED,
            }
        };
        match encoding {
            // What to_jsonb() makes of a name it makes of the text.
            format::AS_TEXT | format::MASKED | "name" => Some(of(pg_sys::TEXTOID)),
            format::AS_JSONB => Some(of(pg_sys::JSONBOID)),
            _ => match encoding.strip_suffix("[]") {
                // SAFETY: a look-up by id, which answers InvalidOid where there is none.
                Some(element) => unsafe {
                    let array = pg_sys::get_array_type(built_in_type(element)?);
                    (array != pg_sys::InvalidOid).then(|| of(array))
                },
                None => Some(of(built_in_type(encoding)?)),
            },
        }
    }

    pub fn is_json(&self) -> bool {
        self.type_id == pg_sys::JSONOID
    }

    /// What is a JSON string of its bytes.
    pub fn is_text(&self) -> bool {
        [pg_sys::TEXTOID, pg_sys::VARCHAROID].contains(&self.type_id)
    }

    /// The bytes as a jsonb, in the memory in force. They are as many as the encoding's shape says.
    pub fn jsonb(&self, bytes: &[u8]) -> Jsonb {
        // SAFETY: the value is made of the type's own stored form.
        unsafe { json::to_jsonb(self.value(bytes), self.type_id) }
    }

    pub fn jsonb_of_integer(&self, n: i64) -> Jsonb {
        // SAFETY: an integer type; its value is the datum.
        unsafe { json::to_jsonb(pg_sys::Datum::from(n), self.type_id) }
    }

    fn value(&self, bytes: &[u8]) -> pg_sys::Datum {
        if self.by_value {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            return pg_sys::Datum::from(u64::from_le_bytes(word));
        }
        // SAFETY: so much is allocated; a varlena's header says its size.
        unsafe {
            if self.length == -1 {
                return varlena(bytes);
            }
            let copy = pg_sys::palloc(bytes.len()).cast::<u8>();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len());
            pg_sys::Datum::from(copy)
        }
    }
}

/// A variable-length value of these bytes, in the memory in force.
fn varlena(bytes: &[u8]) -> pg_sys::Datum {
    // SAFETY: header and content are allocated together; palloc() refuses what is too large.
    unsafe {
        let size = bytes.len() + HEADER;
        let all = pg_sys::palloc(size);
        varlena::set_varsize_4b(all.cast(), size as i32);
        let place = all.cast::<u8>().add(HEADER);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len());
        pg_sys::Datum::from(all)
    }
}

/// What stands in front of a variable-length value's bytes.
pub const HEADER: usize = pg_sys::VARHDRSZ;

/// Bytes that were written behind such a header, as a value; as long as they stay where they are. A value has less than
/// a gigabyte.
pub fn with_header(bytes: &mut Vec<u8>) -> pg_sys::Datum {
    if bytes.len() >= 1 << 30 {
        super::fail(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            "a change is too large for the audit log",
        )
        .set_detail(format!(
            "It takes {} bytes; a line may have a gigabyte.",
            bytes.len()
        ))
        .set_hint(
            "Change fewer or smaller values at once, or protect the table with audit => false.",
        )
        .report(PgLogLevel::ERROR);
    }
    // SAFETY: the header lies in the bytes, which every allocator we could have aligns to a word.
    unsafe { varlena::set_varsize_4b(bytes.as_mut_ptr().cast(), bytes.len() as i32) };
    pg_sys::Datum::from(bytes.as_ptr())
}

/// A text value that is at hand again and again.
#[derive(Debug)]
pub struct Text(Vec<u8>);

impl Text {
    pub fn new(text: &str) -> Text {
        let mut bytes = vec![0; HEADER];
        bytes.extend_from_slice(text.as_bytes());
        with_header(&mut bytes);
        Text(bytes)
    }

    #[inline]
    pub fn content(&self) -> &[u8] {
        &self.0[HEADER..]
    }

    /// Valid as long as the text is.
    pub fn datum(&self) -> pg_sys::Datum {
        pg_sys::Datum::from(self.0.as_ptr())
    }
}

fn built_in_type(name: &str) -> Option<pg_sys::Oid> {
    let name = CString::new(name).ok()?;
    // SAFETY: a syscache look-up by name and schema, which answers InvalidOid where there is none.
    let found = unsafe {
        pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::TYPENAMENSP as i32,
            pg_sys::Anum_pg_type_oid as i16,
            pg_sys::Datum::from(name.as_ptr()),
            pg_sys::Datum::from(pg_sys::PG_CATALOG_NAMESPACE),
            pg_sys::Datum::from(0),
            pg_sys::Datum::from(0),
        )
    };
    (found != pg_sys::InvalidOid).then_some(found)
}
