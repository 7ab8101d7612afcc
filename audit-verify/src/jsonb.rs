//! jsonb as PostgreSQL stores it: a container's header (count and kind), an entry word for each element (of an object: the
//! names, then the values), and their bytes; numbers and containers begin at multiples of four.

use crate::json::Json;
use crate::value::numeric;

const COUNT: u32 = 0x0fff_ffff;
const SCALAR: u32 = 0x1000_0000;
const OBJECT: u32 = 0x2000_0000;
const HAS_OFFSET: u32 = 0x8000_0000;
const LENGTH: u32 = 0x0fff_ffff;
const KIND: u32 = 0x7000_0000;

/// None where it is not well-formed.
pub fn read(bytes: &[u8]) -> Option<Json<'_>> {
    match container(bytes, 0)? {
        (Json::List(mut list), true) => list.pop(),
        (json, _) => Some(json),
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// The container, and whether it only holds a scalar.
fn container(bytes: &[u8], depth: usize) -> Option<(Json<'_>, bool)> {
    if depth > 2_000 {
        return None;
    }
    let header = word(bytes, 0)?;
    let count = (header & COUNT) as usize;
    let object = header & OBJECT != 0;
    let entries = if object { 2 * count } else { count };
    let data = 4 + 4 * entries;
    bytes.get(..data)?;
    let mut values = Vec::with_capacity(entries);
    let mut start = 0;
    for i in 0..entries {
        let entry = word(bytes, 4 + 4 * i)?;
        let size = (entry & LENGTH) as usize;
        let end = if entry & HAS_OFFSET != 0 {
            size
        } else {
            start + size
        };
        let content = bytes.get(data + start..data + end)?;
        // Padding in front of numbers and containers counts to their length.
        let aligned = bytes.get((data + start).next_multiple_of(4).min(data + end)..data + end)?;
        values.push(match entry & KIND {
            0x0000_0000 => Json::Text(std::str::from_utf8(content).ok()?.into()),
            0x1000_0000 => number(aligned)?,
            0x2000_0000 => Json::Bool(false),
            0x3000_0000 => Json::Bool(true),
            0x4000_0000 => Json::Null,
            0x5000_0000 => container(aligned, depth + 1)?.0,
            _ => return None,
        });
        start = end;
    }
    if !object {
        return Some((Json::List(values), header & SCALAR != 0));
    }
    let of_names = values.split_off(count);
    let names = std::mem::replace(&mut values, of_names);
    let fields = names
        .into_iter()
        .zip(values)
        .map(|(name, value)| match name {
            Json::Text(name) => Some((name, value)),
            _ => None,
        })
        .collect::<Option<_>>()?;
    Some((Json::Object(fields), false))
}

/// A numeric with its length word, of one byte or four.
fn number(bytes: &[u8]) -> Option<Json<'static>> {
    let first = *bytes.first()?;
    let content = if first & 1 == 1 {
        bytes.get(1..usize::from(first >> 1))?
    } else {
        bytes.get(4..(word(bytes, 0)? >> 2) as usize)?
    };
    numeric(content)?.ok().map(|text| Json::Number(text.into()))
}
