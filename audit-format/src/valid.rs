//! Whether bytes are a value of their type, as PostgreSQL stores it: what its functions take for granted of a value, they
//! are only given after it was found to be so. Whoever may write to the server's files can also make a line's hash fit.

use super::{AS_JSONB, AS_TEXT, MASKED, listed};

/// Of the encodings that are kept as bytes; one that is not known has no values.
pub fn is_valid(encoding: &str, bytes: &[u8]) -> bool {
    if let Some(element) = encoding.strip_suffix("[]") {
        return is_array(element, bytes);
    }
    match encoding {
        "bool" => bytes.first().is_some_and(|b| *b <= 1),
        "date" => is_date(word(bytes, 0)),
        "time" => is_time(double(bytes, 0)),
        "timetz" => {
            is_time(double(bytes, 0)) && word(bytes, 8).is_some_and(|zone| zone.abs() < 16 * 3600)
        }
        "timestamp" | "timestamptz" => is_timestamp(double(bytes, 0)),
        "text" | "varchar" | "bpchar" | "json" | AS_TEXT => is_text(bytes),
        "name" => bytes.len() < 64 && is_text(bytes),
        "numeric" => is_numeric(bytes),
        "jsonb" | AS_JSONB => is_jsonb(bytes),
        "inet" | "cidr" => is_address(bytes),
        "bit" | "varbit" => is_bits(bytes),
        "tsvector" => is_tsvector(bytes),
        MASKED => bytes.is_empty(),
        "path" => points(bytes, 12),
        "polygon" => points(bytes, 4 + 32),
        _ => listed(encoding).is_some(),
    }
}

fn word(bytes: &[u8], at: usize) -> Option<i32> {
    let (word, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(i32::from_le_bytes(*word))
}

fn double(bytes: &[u8], at: usize) -> Option<i64> {
    let (word, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(i64::from_le_bytes(*word))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let (word, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u16::from_le_bytes(*word))
}

/// A number of things or bytes.
fn size(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(word(bytes, at)?).ok()
}

fn up_to(n: usize, boundary: usize) -> usize {
    n.next_multiple_of(boundary)
}

fn is_text(bytes: &[u8]) -> bool {
    !bytes.contains(&0) && std::str::from_utf8(bytes).is_ok()
}

/// Days from 4714 BC to 5874897, or an infinity.
fn is_date(days: Option<i32>) -> bool {
    days.is_some_and(|d| {
        [i32::MIN, i32::MAX].contains(&d) || (-2_451_545..2_145_031_949).contains(&d)
    })
}

fn is_time(microseconds: Option<i64>) -> bool {
    microseconds.is_some_and(|t| (0..=86_400_000_000).contains(&t))
}

/// From 4714 BC to 294276, or an infinity.
fn is_timestamp(at: Option<i64>) -> bool {
    const FIRST: i64 = -211_813_488_000_000_000;
    const END: i64 = 9_223_371_331_200_000_000;
    at.is_some_and(|t| [i64::MIN, i64::MAX].contains(&t) || (FIRST..END).contains(&t))
}

fn is_numeric(bytes: &[u8]) -> bool {
    let Some(header) = half(bytes, 0) else {
        return false;
    };
    let digits = match header & 0xc000 {
        // Of four bytes where a server before 9.1 wrote it.
        0xc000 => return bytes.len() <= 4 && [0xc000, 0xd000, 0xf000].contains(&header),
        0x8000 => &bytes[2..],
        _ if bytes.len() < 4 => return false,
        _ => &bytes[4..],
    };
    let (digits, rest) = digits.as_chunks();
    rest.is_empty() && digits.iter().all(|d| u16::from_le_bytes(*d) < 10_000)
}

fn is_address(bytes: &[u8]) -> bool {
    match bytes {
        [2, bits, address @ ..] => *bits <= 32 && address.len() == 4,
        [3, bits, address @ ..] => *bits <= 128 && address.len() == 16,
        _ => false,
    }
}

/// The bits past the last one are zero, as comparisons expect.
fn is_bits(bytes: &[u8]) -> bool {
    let Some(count) = size(bytes, 0) else {
        return false;
    };
    let bits = &bytes[4..];
    let rest = match bits.last() {
        Some(last) if count % 8 > 0 => last << (count % 8),
        _ => 0,
    };
    bits.len() == count.div_ceil(8) && rest == 0
}

/// A number of points of 16 bytes each, behind a head of so many bytes that begins with their number.
fn points(bytes: &[u8], head: usize) -> bool {
    let expected = size(bytes, 0).and_then(|n| n.checked_mul(16)?.checked_add(head));
    expected == Some(bytes.len())
}

fn is_tsvector(bytes: &[u8]) -> bool {
    let end = size(bytes, 0).and_then(|n| n.checked_mul(4)?.checked_add(4));
    let Some((entries, texts)) = end.and_then(|end| Some((bytes.get(4..end)?, bytes.get(end..)?)))
    else {
        return false;
    };
    let (entries, _) = entries.as_chunks();
    entries.iter().all(|entry| {
        let entry = u32::from_le_bytes(*entry);
        let (has_places, length, start) = (entry & 1, entry >> 1 & 0x7ff, entry >> 12);
        let end = (start + length) as usize;
        let Some(text) = texts.get(start as usize..end) else {
            return false;
        };
        let places = up_to(end, 2);
        let places_fit = || {
            half(texts, places)
                .is_some_and(|n| n > 0 && places + 2 + 2 * usize::from(n) <= texts.len())
        };
        is_text(text) && (has_places == 0 || places_fit())
    })
}

/// The containers of a jsonb, one within the other, without recursion: they may be as deep as PostgreSQL's stack once was.
fn is_jsonb(bytes: &[u8]) -> bool {
    const SCALAR: u32 = 0x1000_0000;
    const OBJECT: u32 = 0x2000_0000;
    const ARRAY: u32 = 0x4000_0000;
    let mut left = vec![(bytes, true)];
    while let Some((container, outermost)) = left.pop() {
        let Some(header) = word(container, 0).map(|h| h as u32) else {
            return false;
        };
        let count = (header & 0x0fff_ffff) as usize;
        let (keys, values) = match header & 0xf000_0000 {
            OBJECT => (count, count),
            ARRAY => (0, count),
            kind if kind == ARRAY | SCALAR && outermost && count == 1 => (0, 1),
            _ => return false,
        };
        let scalar = header & SCALAR != 0;
        let data = 4 + 4 * (keys + values);
        if container.len() < data {
            return false;
        }
        let (entries, data) = (&container[4..data], &container[data..]);
        let mut start = 0;
        for (i, entry) in entries.as_chunks().0.iter().enumerate() {
            let entry = u32::from_le_bytes(*entry);
            let number = (entry & 0x0fff_ffff) as usize;
            let end = match entry & 0x8000_0000 {
                0 => start + number,
                _ => number,
            };
            if end < start || end > data.len() {
                return false;
            }
            // What holds words is moved up to the next boundary.
            let aligned = up_to(start, 4);
            let valid = match entry & 0x7000_0000 {
                0 => std::str::from_utf8(&data[start..end]).is_ok(),
                _ if i < keys => false,
                0x1000_0000 => data.get(aligned..end).is_some_and(is_numeric_varlena),
                0x2000_0000 | 0x3000_0000 | 0x4000_0000 => start == end,
                0x5000_0000 if !scalar => match data.get(aligned..end) {
                    Some(inner) => {
                        left.push((inner, false));
                        true
                    }
                    None => false,
                },
                _ => false,
            };
            if !valid {
                return false;
            }
            start = end;
        }
    }
    true
}

fn is_numeric_varlena(bytes: &[u8]) -> bool {
    varlena(bytes, 0).is_some_and(|(value, size)| size == bytes.len() && is_numeric(value))
}

/// The variable-length value at `at`, uncompressed, and how many bytes it takes with its header.
fn varlena(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let first = *bytes.get(at)?;
    let (header, size) = if first & 1 == 1 {
        (1, usize::from(first >> 1))
    } else {
        (4, (word(bytes, at)? as u32 >> 2) as usize)
    };
    let plain = first & 3 == 0 || (first & 1 == 1 && size > 0);
    if !plain || size < header {
        return None;
    }
    Some((bytes.get(at + header..at + size)?, size))
}

/// A type's number, its length (-1 where it varies) and what its values are aligned to.
fn element_type(name: &str) -> Option<(i32, i16, usize)> {
    Some(match name {
        "bool" => (16, 1, 1),
        "bytea" => (17, -1, 4),
        "char" => (18, 1, 1),
        "name" => (19, 64, 1),
        "int8" => (20, 8, 8),
        "int2" => (21, 2, 2),
        "int4" => (23, 4, 4),
        "text" => (25, -1, 4),
        "oid" => (26, 4, 4),
        "xid" => (28, 4, 4),
        "json" => (114, -1, 4),
        "point" => (600, 16, 8),
        "lseg" => (601, 32, 8),
        "path" => (602, -1, 8),
        "box" => (603, 32, 8),
        "polygon" => (604, -1, 8),
        "line" => (628, 24, 8),
        "cidr" => (650, -1, 4),
        "float4" => (700, 4, 4),
        "float8" => (701, 8, 8),
        "circle" => (718, 24, 8),
        "macaddr8" => (774, 8, 4),
        "macaddr" => (829, 6, 4),
        "inet" => (869, -1, 4),
        "bpchar" => (1042, -1, 4),
        "varchar" => (1043, -1, 4),
        "date" => (1082, 4, 4),
        "time" => (1083, 8, 8),
        "timestamp" => (1114, 8, 8),
        "timestamptz" => (1184, 8, 8),
        "interval" => (1186, 16, 8),
        "timetz" => (1266, 12, 8),
        "bit" => (1560, -1, 4),
        "varbit" => (1562, -1, 4),
        "numeric" => (1700, -1, 4),
        "uuid" => (2950, 16, 1),
        "pg_lsn" => (3220, 8, 8),
        "tsvector" => (3614, -1, 4),
        "jsonb" => (3802, -1, 4),
        "xid8" => (5069, 8, 8),
        _ => return None,
    })
}

/// Places are counted from the length word, which is not among the bytes.
fn is_array(element: &str, bytes: &[u8]) -> bool {
    array(element, bytes).is_some()
}

fn array(element: &str, bytes: &[u8]) -> Option<()> {
    let (number, length, alignment) = element_type(element)?;
    let (dimensions, offset) = (size(bytes, 0)?, size(bytes, 4)?);
    if dimensions > 6 || word(bytes, 8)? != number {
        return None;
    }
    let mut items = usize::from(dimensions > 0);
    for i in 0..dimensions {
        let (extent, lower) = (
            size(bytes, 12 + 4 * i)?,
            word(bytes, 12 + 4 * (dimensions + i))?,
        );
        lower.checked_add(i32::try_from(extent).ok()?)?;
        items = items.checked_mul(extent)?;
    }
    // As many as PostgreSQL lets an array have.
    if items > (1 << 27) {
        return None;
    }
    let head = 12 + 8 * dimensions;
    let nulls = match offset {
        0 => None,
        _ => Some(bytes.get(head..head + items.div_ceil(8))?),
    };
    let bitmap = nulls.map_or(0, <[u8]>::len);
    let start = up_to(4 + head + bitmap, 8);
    if offset != 0 && offset != start {
        return None;
    }
    if items == 0 {
        return (bytes.len() == start - 4 || bytes.len() == head).then_some(());
    }
    let mut at = start;
    for i in 0..items {
        if nulls.is_some_and(|bits| bits[i / 8] >> (i % 8) & 1 == 0) {
            continue;
        }
        at = match length {
            -1 => {
                let from = up_to(at, alignment);
                let (value, size) = varlena(bytes, from - 4)?;
                if !is_valid(element, value) {
                    return None;
                }
                from + size
            }
            n => {
                let from = up_to(at, alignment);
                let value = bytes.get(from - 4..from - 4 + n as usize)?;
                let valid = match element {
                    "int2" | "int4" | "int8" => true,
                    "name" => name_in_array(value),
                    _ => is_valid(element, value),
                };
                if !valid {
                    return None;
                }
                from + n as usize
            }
        };
    }
    let last = at - 4;
    // The end is aligned too.
    (last <= bytes.len() && bytes.len() < last + 8).then_some(())
}

fn name_in_array(value: &[u8]) -> bool {
    value
        .iter()
        .position(|b| *b == 0)
        .is_some_and(|end| is_text(&value[..end]))
}
