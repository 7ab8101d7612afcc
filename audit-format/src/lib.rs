//! The bytes of the log: what a chunk holds, how a line is written, and what its leaf hash is taken over. Without a
//! server, so that a log can be checked where there is none.
//!
//! Words are little-endian, as PostgreSQL keeps them on every machine that we build for: values are copied as they are
//! stored, and a dump read on another machine means the same.
//!
//! A leaf is taken over who, when, where and what happened, and over a salted hash of the values. So the values can be
//! erased and the leaf still be checked, and without the salt nobody can try guessed values out against it.
//!
//! A line's salt is not kept. Every chunk has a random one, and the lines' are derived from it, so that showing one line
//! to somebody (its bytes and its salt) tells nothing of the other lines' salts. What erases a line must therefore
//! replace the chunk's salt by those of the lines that stay: the second form of a payload.

pub mod erase;
pub mod head;
pub mod read;
pub mod tree;
pub mod valid;

use sha2::{Digest as _, Sha256};

#[cfg(not(target_endian = "little"))]
compile_error!("the audit's values are kept as little-endian machines store them");

pub type Digest = [u8; 32];
/// The first half of a layout's digest: what chunks name it by.
pub type LayoutId = [u8; 16];
pub type Salt = [u8; 16];

/// The first byte of a chunk: as it was written, or after some of its lines were erased.
pub const VERSION: u8 = 1;
pub const ERASED: u8 = 2;

/// What begins each kind of hashed text, so that none can stand for another. 0 and 1 are RFC 6962's leaf and node.
mod kind {
    pub const LEAF: u8 = 0;
    pub const LAYOUT: u8 = 2;
    pub const CONTEXT: u8 = 3;
    pub const SALT: u8 = 4;
    pub const SECRET: u8 = 5;
    pub const VALUES: u8 = 6;
    pub const HEAD: u8 = 7;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Insert = 1,
    Update = 2,
    Delete = 3,
    Truncate = 4,
    /// A governance act, which says its name itself.
    Act = 5,
}

impl Operation {
    pub fn of(byte: u8) -> Option<Operation> {
        use Operation::*;
        [Insert, Update, Delete, Truncate, Act]
            .into_iter()
            .find(|o| *o as u8 == byte)
    }

    pub fn name(self) -> Option<&'static str> {
        match self {
            Operation::Insert => Some("INSERT"),
            Operation::Update => Some("UPDATE"),
            Operation::Delete => Some("DELETE"),
            Operation::Truncate => Some("TRUNCATE"),
            Operation::Act => None,
        }
    }
}

/// How the values of a column lie in a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Zigzag and LEB128: most integers are small.
    Integer,
    /// So many bytes.
    Fixed(usize),
    /// A LEB128 length, and the bytes.
    Bytes,
}

/// The types whose values are kept as PostgreSQL stores them: their form depends on nothing that could be renamed or
/// dropped. Arrays of them too ("int4[]").
const TYPES: &[(&str, Shape)] = &[
    ("bool", Shape::Fixed(1)),
    ("char", Shape::Fixed(1)),
    ("int2", Shape::Integer),
    ("int4", Shape::Integer),
    ("int8", Shape::Integer),
    ("float4", Shape::Fixed(4)),
    ("float8", Shape::Fixed(8)),
    ("oid", Shape::Fixed(4)),
    ("xid", Shape::Fixed(4)),
    ("xid8", Shape::Fixed(8)),
    ("pg_lsn", Shape::Fixed(8)),
    ("date", Shape::Fixed(4)),
    ("time", Shape::Fixed(8)),
    ("timetz", Shape::Fixed(12)),
    ("timestamp", Shape::Fixed(8)),
    ("timestamptz", Shape::Fixed(8)),
    ("interval", Shape::Fixed(16)),
    ("uuid", Shape::Fixed(16)),
    ("macaddr", Shape::Fixed(6)),
    ("macaddr8", Shape::Fixed(8)),
    ("point", Shape::Fixed(16)),
    ("line", Shape::Fixed(24)),
    ("lseg", Shape::Fixed(32)),
    ("box", Shape::Fixed(32)),
    ("circle", Shape::Fixed(24)),
    ("path", Shape::Bytes),
    ("polygon", Shape::Bytes),
    ("name", Shape::Bytes),
    ("text", Shape::Bytes),
    ("varchar", Shape::Bytes),
    ("bpchar", Shape::Bytes),
    ("bytea", Shape::Bytes),
    ("numeric", Shape::Bytes),
    ("json", Shape::Bytes),
    ("jsonb", Shape::Bytes),
    ("inet", Shape::Bytes),
    ("cidr", Shape::Bytes),
    ("bit", Shape::Bytes),
    ("varbit", Shape::Bytes),
    ("tsvector", Shape::Bytes),
];

/// What a value of any other type is kept as: its text (to_jsonb() makes a string of it), or its to_jsonb().
pub const AS_TEXT: &str = "as text";
pub const AS_JSONB: &str = "as jsonb";
/// A value that the log does not keep: only that there was one, or that it changed.
pub const MASKED: &str = "masked";

/// None for an encoding that this version does not know.
pub fn shape(encoding: &str) -> Option<Shape> {
    if encoding == AS_TEXT || encoding == AS_JSONB {
        return Some(Shape::Bytes);
    }
    if encoding == MASKED {
        return Some(Shape::Fixed(0));
    }
    if let Some(element) = encoding.strip_suffix("[]") {
        return listed(element).map(|_| Shape::Bytes);
    }
    listed(encoding)
}

fn listed(name: &str) -> Option<Shape> {
    TYPES.iter().find(|(n, _)| *n == name).map(|(_, s)| *s)
}

#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: String,
    pub encoding: String,
    pub shape: Shape,
    /// Holds the organization: not written, since the chunk names it.
    pub is_org: bool,
    /// Of the primary key.
    pub is_key: bool,
}

/// A table's columns at some time: what its lines are read by.
#[derive(Debug)]
pub struct Layout {
    /// schema.table, quoted where needed; empty for governance acts.
    pub object: String,
    pub columns: Vec<Column>,
    pub digest: Digest,
}

impl Layout {
    pub fn new(object: &str, columns: Vec<Column>) -> Layout {
        let mut text = vec![kind::LAYOUT];
        put_text(&mut text, object);
        put_number(&mut text, columns.len() as u64);
        for column in &columns {
            put_text(&mut text, &column.name);
            put_text(&mut text, &column.encoding);
            text.push(u8::from(column.is_org) | u8::from(column.is_key) << 1);
        }
        Layout {
            object: object.into(),
            columns,
            digest: Sha256::digest(&text).into(),
        }
    }

    /// The one of governance acts, which every reader knows: it is not recorded.
    pub fn of_acts() -> Layout {
        Layout::new("", vec![])
    }

    pub fn id(&self) -> LayoutId {
        let (id, _) = self.digest.split_first_chunk().expect("32 bytes");
        *id
    }

    /// How many bytes a bit for each column takes.
    pub fn bitmap(&self) -> usize {
        self.columns.len().div_ceil(8)
    }
}

pub fn put_number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

pub fn put_integer(out: &mut Vec<u8>, n: i64) {
    put_number(out, ((n << 1) ^ (n >> 63)) as u64);
}

pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub fn put_text(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

/// How many bytes `put_number` writes.
pub fn width(n: u64) -> usize {
    (64 - (n | 1).leading_zeros() as usize).div_ceil(7)
}

/// Who did it: what all lines of a chunk have in common, beside the organization.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Author {
    pub actor: Option<[u8; 16]>,
    pub approver: Option<[u8; 16]>,
    pub break_glass: bool,
    pub actor_type: String,
    pub db_role: String,
    pub result: String,
    pub client_addr: Option<String>,
    pub request_id: Option<String>,
}

impl Author {
    /// What is hashed in front of every line: the layout, the organization and the author.
    pub fn context(&self, layout: &Digest, org: &[u8; 16]) -> Digest {
        let mut text = Vec::with_capacity(256);
        text.push(kind::CONTEXT);
        text.extend_from_slice(layout);
        text.extend_from_slice(org);
        for id in [&self.actor, &self.approver] {
            text.push(u8::from(id.is_some()));
            text.extend(id.iter().flatten());
        }
        text.push(u8::from(self.break_glass));
        for given in [&self.actor_type, &self.db_role, &self.result] {
            put_text(&mut text, given);
        }
        for optional in [&self.client_addr, &self.request_id] {
            text.push(u8::from(optional.is_some()));
            if let Some(given) = optional {
                put_text(&mut text, given);
            }
        }
        Sha256::digest(&text).into()
    }
}

/// When, in which transaction, and as its how manieth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub at: i64,
    pub xid: u64,
    pub n: i32,
}

/// What stands for a line's values: who lacks the salt cannot try guesses out against it.
pub fn values(salt: &Salt, body: &[u8]) -> Digest {
    let mut head = [0; 1 + 16];
    head[0] = kind::VALUES;
    head[1..].copy_from_slice(salt);
    Sha256::new()
        .chain_update(head)
        .chain_update(body)
        .finalize()
        .into()
}

/// Microseconds since 2000-01-01 as ISO 8601 in UTC, such as 2026-11-20T12:00:00.000000Z; a year before the first is that
/// of astronomers (0 is 1 BC).
pub fn iso_time(at: i64) -> String {
    let (day, microseconds) = (at.div_euclid(86_400_000_000), at.rem_euclid(86_400_000_000));
    // Days since 0000-03-01, where a leap day ends the year and 400 years have 146,097 days.
    let day = day + 730_425;
    let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = year_of_era + era * 400 + next;
    let seconds = microseconds / 1_000_000;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let sign = if year < 0 { "-" } else { "" };
    format!(
        "{sign}{:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z",
        year.abs(),
        microseconds % 1_000_000
    )
}

/// The leaf of a line: RFC 6962's hash of context, moment, operation and values.
pub fn leaf(context: &Digest, moment: Moment, operation: u8, values: &Digest) -> Digest {
    let mut text = [0; 1 + 32 + 8 + 8 + 4 + 1 + 32];
    text[0] = kind::LEAF;
    text[1..33].copy_from_slice(context);
    text[33..41].copy_from_slice(&moment.at.to_le_bytes());
    text[41..49].copy_from_slice(&moment.xid.to_le_bytes());
    text[49..53].copy_from_slice(&moment.n.to_le_bytes());
    text[53] = operation;
    text[54..].copy_from_slice(values);
    Sha256::digest(text).into()
}

/// Two chunks' salts: from a secret of whoever writes them, which is kept nowhere, and a number never used twice with it.
pub fn chunk_salts(secret: &[u8; 32], number: u64) -> [Salt; 2] {
    let mut text = [0; 41];
    text[0] = kind::SECRET;
    text[1..33].copy_from_slice(secret);
    text[33..].copy_from_slice(&number.to_le_bytes());
    let mut salts = [[0; 16]; 2];
    salts
        .as_flattened_mut()
        .copy_from_slice(&Sha256::digest(text));
    salts
}

/// The salts of the lines of a chunk, one after the other; one hash makes two.
#[derive(Clone, Debug)]
pub struct Salts {
    chunk: Salt,
    made: u32,
    pair: Digest,
}

impl Salts {
    pub fn of(chunk: Salt) -> Salts {
        Salts {
            chunk,
            made: 0,
            pair: [0; 32],
        }
    }

    pub fn of_next_line(&mut self) -> Salt {
        let (pair, second) = (self.made / 2, self.made % 2 == 1);
        if !second {
            let mut text = [0; 21];
            text[0] = kind::SALT;
            text[1..17].copy_from_slice(&self.chunk);
            text[17..].copy_from_slice(&pair.to_le_bytes());
            self.pair = Sha256::digest(text).into();
        }
        self.made = self.made.wrapping_add(1);
        let mut salt = [0; 16];
        salt.copy_from_slice(&self.pair[if second { 16..32 } else { 0..16 }]);
        salt
    }
}

/// At most as many layouts has a chunk, so that their number is one byte.
pub const LAYOUTS: usize = 127;
/// The size of a chunk's head, without the layouts' ids.
pub const HEAD: usize = 1 + 16 + 1;

/// The head of a chunk: version, salt, and the layouts that its lines name by their place here, one at first.
pub fn put_head(out: &mut Vec<u8>, salt: &Salt, layout: &LayoutId) {
    out.push(VERSION);
    out.extend_from_slice(salt);
    out.push(1);
    out.extend_from_slice(layout);
}

/// Names one more layout in the head that begins at `start`.
pub fn add_layout(out: &mut Vec<u8>, start: usize, layout: &LayoutId) {
    let count = usize::from(out[start + HEAD - 1]);
    out[start + HEAD - 1] += 1;
    let end = start + HEAD + count * layout.len();
    out.splice(end..end, layout.iter().copied());
}

/// Appends a line; `since` and `after` are the microseconds and numbers since those of the chunk.
pub fn put_line(
    out: &mut Vec<u8>,
    layout: usize,
    since: u64,
    after: u64,
    leaf: &Digest,
    body: &[u8],
) {
    put_number(out, layout as u64);
    put_number(out, since);
    put_number(out, after);
    out.extend_from_slice(leaf);
    put_bytes(out, body);
}

/// At most how many bytes `put_line` appends to these.
pub fn line_size(body: usize) -> usize {
    5 + 10 + 5 + 32 + width(body as u64) + body
}

pub fn put_act(
    out: &mut Vec<u8>,
    operation: &str,
    object: &str,
    key: &str,
    old: Option<&str>,
    new: Option<&str>,
) {
    out.push(Operation::Act as u8);
    put_text(out, operation);
    put_text(out, object);
    put_text(out, key);
    out.push(u8::from(old.is_some()) | u8::from(new.is_some()) << 1);
    for given in [old, new].into_iter().flatten() {
        put_text(out, given);
    }
}
