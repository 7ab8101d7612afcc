//! An organization as a table's column names it: by its uuid, or by its external key as text, integer or bigint.

use super::raw::Text;
use super::value::Value;
use pgrx::prelude::*;
use pgrx::varlena;

/// What kind of key an organization column holds.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KeyType {
    #[default]
    Uuid,
    /// text and varchar: both are compared as text.
    Text,
    Integer,
    Bigint,
}

impl KeyType {
    pub const ALL: [KeyType; 4] = [
        KeyType::Uuid,
        KeyType::Text,
        KeyType::Integer,
        KeyType::Bigint,
    ];

    /// The type of function arguments and results of this kind.
    pub fn type_id(self) -> pg_sys::Oid {
        match self {
            KeyType::Uuid => pg_sys::UUIDOID,
            KeyType::Text => pg_sys::TEXTOID,
            KeyType::Integer => pg_sys::INT4OID,
            KeyType::Bigint => pg_sys::INT8OID,
        }
    }

    pub fn of(type_id: pg_sys::Oid) -> Option<KeyType> {
        match type_id {
            pg_sys::UUIDOID => Some(KeyType::Uuid),
            pg_sys::TEXTOID | pg_sys::VARCHAROID => Some(KeyType::Text),
            pg_sys::INT4OID => Some(KeyType::Integer),
            pg_sys::INT8OID => Some(KeyType::Bigint),
            _ => None,
        }
    }

    /// A column's value, as it stands in a row that was taken apart.
    #[inline]
    pub fn value(self, datum: pg_sys::Datum, null: bool) -> Value {
        let value = match self {
            KeyType::Uuid => Value::uuid(datum),
            KeyType::Text => Value::varlena(datum),
            _ => Value::word(datum),
        };
        Value { null, ..value }
    }

    /// The operator by which two values of the kind are equal: built in, so its number never changes.
    pub fn equals(self) -> pg_sys::Oid {
        let number: u32 = match self {
            KeyType::Uuid => 2972,
            KeyType::Text => 98,
            KeyType::Integer => 96,
            KeyType::Bigint => 410,
        };
        number.into()
    }

    pub fn name(self) -> &'static str {
        match self {
            KeyType::Uuid => "uuid",
            KeyType::Text => "text",
            KeyType::Integer => "integer",
            KeyType::Bigint => "bigint",
        }
    }
}

/// A function of ours for each kind of key.
#[derive(Clone, Copy)]
pub struct ByKind([pg_sys::Oid; 4]);

impl ByKind {
    pub fn new(find: impl Fn(KeyType) -> Option<pg_sys::Oid>) -> ByKind {
        ByKind(KeyType::ALL.map(|kind| find(kind).unwrap_or(pg_sys::InvalidOid)))
    }

    #[inline]
    pub fn of(&self, kind: KeyType) -> pg_sys::Oid {
        self.0[kind as usize]
    }

    /// The kind that a function is for, if it is one of these.
    #[inline]
    pub fn kind_of(&self, function: pg_sys::Oid) -> Option<KeyType> {
        let found = self.0.iter().position(|known| *known == function)?;
        Some(KeyType::ALL[found])
    }

    pub fn are_all_there(&self) -> bool {
        !self.0.contains(&pg_sys::InvalidOid)
    }
}

/// The column that says whose each row of a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyColumn {
    pub attnum: i16,
    pub kind: KeyType,
}

/// An organization in every form that a column may have it. What it has no form for it has no rows in.
#[derive(Debug)]
pub struct Keys {
    id: Option<[u8; 16]>,
    text: Option<Text>,
    number: Option<i64>,
}

/// The number that a key is, where it is written as PostgreSQL writes it: '007', '+7' and '-0' are no numbers here. So each
/// number is one key, and no two organizations share it.
fn number(key: &str) -> Option<i64> {
    key.parse().ok().filter(|n: &i64| n.to_string() == key)
}

impl Keys {
    pub fn new(id: Option<[u8; 16]>, external_key: Option<&str>) -> Keys {
        Keys {
            id,
            text: external_key.map(Text::new),
            number: external_key.and_then(number),
        }
    }

    pub fn id(&self) -> Option<[u8; 16]> {
        self.id
    }

    /// The external key.
    pub fn text(&self) -> Option<&str> {
        self.text
            .as_ref()
            .map(|t| std::str::from_utf8(t.content()).expect("made from text"))
    }

    fn integer(&self) -> Option<i32> {
        self.number.and_then(|n| n.try_into().ok())
    }

    pub fn has(&self, kind: KeyType) -> bool {
        self.datum(kind).is_some()
    }

    /// The key as a value of such a column. It points into these keys: valid as long as they are.
    #[inline]
    pub fn datum(&self, kind: KeyType) -> Option<pg_sys::Datum> {
        match kind {
            KeyType::Uuid => self.id.as_ref().map(|id| pg_sys::Datum::from(id.as_ptr())),
            KeyType::Text => self.text.as_ref().map(Text::datum),
            KeyType::Integer => self.integer().map(pg_sys::Datum::from),
            KeyType::Bigint => self.number.map(pg_sys::Datum::from),
        }
    }

    /// Whether a column's value names this organization.
    #[inline]
    pub fn is(&self, kind: KeyType, value: &Value) -> bool {
        !value.null
            && match kind {
                // SAFETY: the column is of the kind.
                KeyType::Uuid => self
                    .id
                    .is_some_and(|id| unsafe { id == *value.datum.cast_mut_ptr::<[u8; 16]>() }),
                KeyType::Text => self
                    .text
                    .as_ref()
                    .is_some_and(|mine| value.with_bytes(|theirs| theirs == mine.content())),
                KeyType::Integer => self.integer() == Some(value.datum.value() as i32),
                KeyType::Bigint => self.number == Some(value.datum.value() as i64),
            }
    }

    /// `is`, in frames that own nothing: an error of PostgreSQL's jumps over them.
    ///
    /// SAFETY: a datum of a column of the kind, not NULL.
    #[inline]
    pub unsafe fn is_datum(&self, kind: KeyType, datum: pg_sys::Datum) -> bool {
        // SAFETY: as the function's own.
        unsafe {
            if kind != KeyType::Text {
                return self.is(kind, &Value::word(datum));
            }
            let Some(mine) = &self.text else {
                return false;
            };
            let stored = datum.cast_mut_ptr::<pg_sys::varlena>();
            let plain = pg_detoast_datum_packed(stored);
            let theirs = std::slice::from_raw_parts(
                varlena::vardata_any(plain).cast::<u8>(),
                varlena::varsize_any_exhdr(plain),
            );
            let same = theirs == mine.content();
            if plain != stored {
                pfree(plain.cast());
            }
            same
        }
    }
}

unsafe extern "C-unwind" {
    // Without pgrx's guard: for `is_datum`.
    fn pg_detoast_datum_packed(datum: *mut pg_sys::varlena) -> *mut pg_sys::varlena;
    fn pfree(pointer: *mut std::ffi::c_void);
}

/// A column's value as the external key that it is; a uuid is none.
pub fn external(kind: KeyType, value: &Value) -> Option<String> {
    if value.null {
        return None;
    }
    match kind {
        KeyType::Uuid => None,
        KeyType::Text => Some(value.with_bytes(|bytes| String::from_utf8_lossy(bytes).into())),
        KeyType::Integer => Some((value.datum.value() as i32).to_string()),
        KeyType::Bigint => Some((value.datum.value() as i64).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn a_number_is_what_postgresql_writes() {
        for (key, expected) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("-7", Some(-7)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
        ] {
            assert_eq!(number(key), expected, "{key}");
        }
        for none in [
            "",
            " ",
            "007",
            "+7",
            "-0",
            "00",
            "7 ",
            " 7",
            "7.0",
            "0x7",
            "1e3",
            "-",
            "acme",
            "٧",
            "9223372036854775808",
            "1_000",
        ] {
            assert_eq!(number(none), None, "{none}");
        }
    }
}
