//! Two bytes that stand for a row's key, by which a reader passes over the chunks that do not tell of the row. Equal keys
//! have equal ones, however they are written; of 65,536 keys that differ one has the same, so a chunk too many is read now
//! and then.

use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

pub type Fingerprint = u16;

/// FNV-1a over what tells keys apart. It is kept on disk, so it must stay what it is.
struct Hash(u64);

impl Hash {
    fn of(object: &str) -> Hash {
        let mut hash = Hash(0xcbf2_9ce4_8422_2325);
        hash.part(b't', object.as_bytes());
        hash
    }

    fn part(&mut self, kind: u8, bytes: &[u8]) {
        let length = (bytes.len() as u64).to_le_bytes();
        for byte in [kind].iter().chain(&length).chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Integer(n) => self.part(b'n', n.to_string().as_bytes()),
            Value::Number(text) => self.part(b'n', plain(text).as_bytes()),
            Value::Text(text) => self.part(b's', text),
            Value::Other => self.part(b'o', b""),
        }
    }

    fn finish(&self) -> Fingerprint {
        let all = self.0;
        (all ^ all >> 16 ^ all >> 32 ^ all >> 48) as Fingerprint
    }
}

/// A value of a key. Of lists, objects and the like nothing is looked at: equal ones may be written in several ways.
pub enum Value<'a> {
    Integer(i64),
    Number(&'a str),
    Text(Cow<'a, [u8]>),
    Other,
}

/// Without the zeros that do not count: 1.50 and 1.5 are one number.
fn plain(number: &str) -> &str {
    match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    }
}

/// Of a key whose columns are given in the order of their names.
pub fn of_values<'a>(
    object: &str,
    key: impl IntoIterator<Item = (&'a str, Value<'a>)>,
) -> Fingerprint {
    let mut hash = Hash::of(object);
    for (name, value) in key {
        hash.part(b'c', name.as_bytes());
        hash.value(&value);
    }
    hash.finish()
}

/// Of a key as PostgreSQL writes a jsonb object; None for what is none, which is no row's key.
pub fn of_json(object: &str, key: &str) -> Option<Fingerprint> {
    let key: BTreeMap<String, &RawValue> = serde_json::from_str(key).ok()?;
    let mut hash = Hash::of(object);
    for (name, value) in &key {
        hash.part(b'c', name.as_bytes());
        let raw = value.get();
        match raw.as_bytes().first() {
            Some(b'"') => {
                let text: String = serde_json::from_str(raw).ok()?;
                hash.value(&Value::Text(text.as_bytes().into()));
            }
            Some(b'-' | b'0'..=b'9') => hash.value(&Value::Number(raw)),
            _ => hash.value(&Value::Other),
        }
    }
    Some(hash.finish())
}

/// Of a line that takes every row of a table.
pub fn of_all(object: &str) -> Fingerprint {
    let mut hash = Hash::of(object);
    hash.part(b'a', b"");
    hash.finish()
}

/// The chunks that a row of the index tells of, written one after the other.
#[derive(Default)]
pub struct Entries {
    pub bytes: Vec<u8>,
    last: i64,
}

/// One chunk: when its first line is of, and its lines' fingerprints; None where it is to be read for every key.
pub type Entry = (i64, Option<Vec<Fingerprint>>);

impl Entries {
    pub fn add(&mut self, at: i64, fingerprints: Option<&[Fingerprint]>) {
        let since = at.wrapping_sub(self.last);
        self.last = at;
        // The sign goes into the lowest bit, so that what is near to zero is short.
        self.number(((since << 1) ^ (since >> 63)).cast_unsigned());
        let count = fingerprints.map_or(0, |f| f.len() as u64 + 1);
        self.number(count);
        for one in fingerprints.unwrap_or_default() {
            self.bytes.extend_from_slice(&one.to_le_bytes());
        }
    }

    fn number(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.bytes.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.bytes.push(n as u8);
    }
}

/// What `Entries` wrote; None where somebody else wrote it.
pub fn read(bytes: &[u8]) -> Option<Vec<Entry>> {
    let mut rest = bytes;
    let mut last = 0i64;
    let mut entries = vec![];
    while !rest.is_empty() {
        let since = number(&mut rest)?;
        let since = (since >> 1).cast_signed() ^ -((since & 1).cast_signed());
        last = last.wrapping_add(since);
        let fingerprints = match number(&mut rest)? {
            0 => None,
            count => {
                let size = usize::try_from(count - 1).ok()?.checked_mul(2)?;
                let (these, others) = rest.split_at_checked(size)?;
                rest = others;
                let (pairs, _) = these.as_chunks::<2>();
                Some(
                    pairs
                        .iter()
                        .map(|p| Fingerprint::from_le_bytes(*p))
                        .collect(),
                )
            }
        };
        entries.push((last, fingerprints));
    }
    Some(entries)
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, others) = rest.split_first()?;
        *rest = others;
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_have_equal_fingerprints() {
        let of = |key| of_json("s.t", key).unwrap();
        assert_eq!(of(r#"{"a": 1, "b": "x"}"#), of(r#"{"b": "x", "a": 1.00}"#));
        let values = [
            ("a", Value::Integer(1)),
            ("b", Value::Text(b"x"[..].into())),
        ];
        assert_eq!(of(r#"{"a": 1, "b": "x"}"#), of_values("s.t", values));
        assert_eq!(
            of(r#"{"a": "\u00e9"}"#),
            of_values("s.t", [("a", Value::Text("é".as_bytes().into()))])
        );
        assert_eq!(of(r#"{"a": [1]}"#), of(r#"{"a": [1.0]}"#));
        assert_eq!(
            of(r#"{"a": 100}"#),
            of_values("s.t", [("a", Value::Number("100.0"))])
        );
    }

    #[test]
    fn others_mostly_have_others() {
        let of = |key| of_json("s.t", key).unwrap();
        let all = [
            of(r#"{"a": 1}"#),
            of(r#"{"a": "1"}"#),
            of(r#"{"b": 1}"#),
            of(r#"{"a": 10}"#),
            of(r#"{"a": null}"#),
            of_json("s.u", r#"{"a": 1}"#).unwrap(),
            of_all("s.t"),
        ];
        let different: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        let many: std::collections::HashSet<_> = (0..10_000)
            .map(|n| of_values("s.t", [("id", Value::Integer(n))]))
            .collect();
        assert!(many.len() > 9_000, "{}", many.len());
        assert_eq!(of_json("s.t", "5"), None);
    }

    #[test]
    fn entries_are_read_as_they_were_written() {
        let wanted: Vec<Entry> = vec![
            (700_000_000_000_000, Some(vec![1, 65_535])),
            (699_999_999_999_999, None),
            (i64::MAX, Some(vec![])),
            (i64::MIN, Some(vec![7; 300])),
        ];
        let mut entries = Entries::default();
        for (at, fingerprints) in &wanted {
            entries.add(*at, fingerprints.as_deref());
        }
        assert_eq!(read(&entries.bytes), Some(wanted));
        for cut in 1..entries.bytes.len() {
            // Cut off between two entries it is a shorter list, else nothing.
            let shorter = read(&entries.bytes[..cut]);
            assert!(shorter.is_none_or(|list| list.len() < 4), "{cut}");
        }
        assert_eq!(read(&[0xff; 12]), None);
    }
}
