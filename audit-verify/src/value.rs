//! A stored value as the JSON that an export shows for it, for the types whose form is simple enough to be read without
//! PostgreSQL. What is not here is counted and said, not passed over in silence.

use crate::json::{Decimal, Json, parse};
use crate::jsonb;
use pg_tenancy_audit_format::head::uuid;
use pg_tenancy_audit_format::read::Field;
use pg_tenancy_audit_format::{AS_JSONB, AS_TEXT, MASKED, iso_time};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Whether `shown` is what the value says; None where this program cannot tell.
pub fn same(encoding: &str, field: &Field, org: &[u8; 16], shown: &Json) -> Option<bool> {
    let bytes = match field {
        Field::Null => return Some(*shown == Json::Null),
        Field::Org => return Some(shown.text() == Some(&uuid(org))),
        Field::Integer(n) => return Some(number(&n.to_string(), shown)),
        Field::Bytes(bytes) => *bytes,
    };
    if let Some(element) = encoding.strip_suffix("[]") {
        return crate::array::same(element, bytes, shown);
    }
    scalar(encoding, bytes, shown)
}

/// A value as JSON; one of a type that this program does not read as the bytes that are stored.
pub fn shown(encoding: &str, field: &Field, org: &[u8; 16]) -> Json<'static> {
    let text = |text: String| Json::Text(text.into());
    let bytes = match field {
        Field::Null => return Json::Null,
        Field::Org => return text(uuid(org)),
        Field::Integer(n) => return Json::Number(n.to_string().into()),
        Field::Bytes(bytes) => *bytes,
    };
    read(encoding, bytes).unwrap_or_else(|| text(hex(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    let hex = bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    format!("\\x{hex}")
}

fn read(encoding: &str, bytes: &[u8]) -> Option<Json<'static>> {
    let text = |text: String| Some(Json::Text(text.into()));
    let number = |n: String| Some(Json::Number(n.into()));
    let float = |n: f64, shortest: String| match n.is_finite() {
        true => number(shortest),
        false if n.is_nan() => text("NaN".into()),
        false => text(if n > 0.0 { "Infinity" } else { "-Infinity" }.into()),
    };
    let time = |at: i64| (at != i64::MIN && at != i64::MAX).then(|| iso_time(at));
    match encoding {
        "bool" => Some(Json::Bool(bytes.first()? != &0)),
        "text" | "varchar" | "bpchar" | "name" | AS_TEXT => {
            text(String::from_utf8(bytes.to_vec()).ok()?)
        }
        MASKED => text("(masked)".into()),
        "uuid" => text(uuid(bytes.try_into().ok()?)),
        "float4" => {
            let n = f32::from_le_bytes(bytes.try_into().ok()?);
            float(n.into(), n.to_string())
        }
        "float8" => {
            let n = f64::from_le_bytes(bytes.try_into().ok()?);
            float(n, n.to_string())
        }
        "oid" | "xid" => text(u32::from_le_bytes(bytes.try_into().ok()?).to_string()),
        "xid8" => text(u64::from_le_bytes(bytes.try_into().ok()?).to_string()),
        "date" => {
            let days = i32::from_le_bytes(bytes.try_into().ok()?);
            let at = time(i64::from(days).checked_mul(DAY)?)?;
            text(at.split('T').next()?.to_string())
        }
        "timestamp" => {
            let at = time(i64::from_le_bytes(bytes.try_into().ok()?))?;
            text(at.trim_end_matches('Z').to_string())
        }
        "timestamptz" => text(time(i64::from_le_bytes(bytes.try_into().ok()?))?),
        "bytea" => text(hex(bytes)),
        "inet" | "cidr" => text(address(bytes, encoding == "cidr")?),
        "macaddr" | "macaddr8" => {
            let pairs: Vec<_> = bytes.iter().map(|b| format!("{b:02x}")).collect();
            text(pairs.join(":"))
        }
        "numeric" => match numeric(bytes)? {
            Ok(decimal) => number(Decimal::of(&decimal)?.plain()),
            Err(word) => text(word.into()),
        },
        "json" => Some(parse(std::str::from_utf8(bytes).ok()?)?.owned()),
        "jsonb" | AS_JSONB => Some(jsonb::read(bytes)?.owned()),
        _ => None,
    }
}

/// A value of fixed or variable length, without its length word.
pub fn scalar(encoding: &str, bytes: &[u8], shown: &Json) -> Option<bool> {
    let text = |expected: String| Some(shown.text() == Some(&expected));
    match encoding {
        "bool" => Some(*shown == Json::Bool(bytes.first()? != &0)),
        "int2" => Some(number(
            &i16::from_le_bytes(bytes.try_into().ok()?).to_string(),
            shown,
        )),
        "int4" => Some(number(
            &i32::from_le_bytes(bytes.try_into().ok()?).to_string(),
            shown,
        )),
        "int8" => Some(number(
            &i64::from_le_bytes(bytes.try_into().ok()?).to_string(),
            shown,
        )),
        "text" | "varchar" | "bpchar" | "name" | AS_TEXT => {
            Some(shown.text().map(str::as_bytes) == Some(bytes))
        }
        MASKED => Some(shown.text() == Some("(masked)")),
        "uuid" => text(uuid(bytes.try_into().ok()?)),
        "float4" => float(
            f64::from(f32::from_le_bytes(bytes.try_into().ok()?)),
            shown,
            |t| t.parse::<f32>().ok().map(f64::from),
        ),
        "float8" => float(f64::from_le_bytes(bytes.try_into().ok()?), shown, |t| {
            t.parse().ok()
        }),
        "oid" | "xid" => text(u32::from_le_bytes(bytes.try_into().ok()?).to_string()),
        "xid8" => text(u64::from_le_bytes(bytes.try_into().ok()?).to_string()),
        "date" => {
            let days = i32::from_le_bytes(bytes.try_into().ok()?);
            time_of(&format!("{}T00:00:00", shown.text()?)).map(|at| at == i64::from(days) * DAY)
        }
        "timestamp" => time_of(shown.text()?)
            .map(|at| Some(at) == bytes.try_into().ok().map(i64::from_le_bytes)),
        "timestamptz" => instant(shown.text()?)
            .map(|at| Some(at) == bytes.try_into().ok().map(i64::from_le_bytes)),
        "time" => {
            clock(shown.text()?).map(|at| Some(at) == bytes.try_into().ok().map(i64::from_le_bytes))
        }
        "bytea" => {
            let hex = bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
            text(format!("\\x{hex}"))
        }
        "inet" | "cidr" => text(address(bytes, encoding == "cidr")?),
        "macaddr" | "macaddr8" => text(
            bytes
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect::<Vec<_>>()
                .join(":"),
        ),
        "numeric" => Some(match numeric(bytes)? {
            Ok(decimal) => number(&decimal, shown),
            Err(word) => shown.text() == Some(word),
        }),
        "json" => {
            let own = parse(std::str::from_utf8(bytes).ok()?)?;
            // Of fields of one name jsonb keeps the last.
            Some(shown.same(&last_of_each(own)))
        }
        "jsonb" | AS_JSONB => Some(jsonb::read(bytes)?.same(shown)),
        _ => None,
    }
}

fn last_of_each(json: Json) -> Json {
    match json {
        Json::List(list) => Json::List(list.into_iter().map(last_of_each).collect()),
        Json::Object(fields) => {
            let mut kept: Vec<(_, Json)> = vec![];
            for (name, value) in fields {
                kept.retain(|(n, _)| *n != name);
                kept.push((name, last_of_each(value)));
            }
            Json::Object(kept)
        }
        other => other,
    }
}

fn number(own: &str, shown: &Json) -> bool {
    match shown {
        Json::Number(shown) => Decimal::of(shown) == Decimal::of(own),
        _ => false,
    }
}

fn float(own: f64, shown: &Json, read: impl Fn(&str) -> Option<f64>) -> Option<bool> {
    Some(match shown {
        Json::Number(text) => read(text) == Some(own),
        Json::Text(text) => match text.as_ref() {
            "NaN" => own.is_nan(),
            "Infinity" => own == f64::INFINITY,
            "-Infinity" => own == f64::NEG_INFINITY,
            _ => false,
        },
        _ => false,
    })
}

/// A numeric as decimal digits, or the word for one that is no number.
pub fn numeric(bytes: &[u8]) -> Option<Result<String, &'static str>> {
    let (words, []) = bytes.as_chunks::<2>() else {
        return None;
    };
    let words: Vec<u16> = words.iter().map(|w| u16::from_le_bytes(*w)).collect();
    let (head, rest) = words.split_first()?;
    let (negative, weight, digits) = match head >> 14 {
        0b11 => {
            return Some(Err(match head & 0xf000 {
                0xc000 => "NaN",
                0xd000 => "Infinity",
                _ => "-Infinity",
            }));
        }
        0b10 => {
            // Six bits of weight and its sign.
            let weight = i32::from(head & 0x3f) - if head & 0x40 != 0 { 0x40 } else { 0 };
            (head & 0x2000 != 0, weight, rest)
        }
        sign => {
            let (weight, rest) = rest.split_first()?;
            (sign == 0b01, i32::from(*weight as i16), rest)
        }
    };
    if digits.iter().any(|d| *d > 9999) {
        return None;
    }
    let digits: String = digits.iter().map(|d| format!("{d:04}")).collect();
    let exponent = 4 * (i64::from(weight) + 1) - digits.len() as i64;
    let sign = if negative { "-" } else { "" };
    Some(Ok(if digits.is_empty() {
        "0".into()
    } else {
        format!("{sign}{digits}e{exponent}")
    }))
}

fn address(bytes: &[u8], always: bool) -> Option<String> {
    let (family, bits, rest) = (*bytes.first()?, *bytes.get(1)?, &bytes[2..]);
    let (address, most) = match family {
        2 => (
            Ipv4Addr::from(<[u8; 4]>::try_from(rest).ok()?).to_string(),
            32,
        ),
        _ => (
            Ipv6Addr::from(<[u8; 16]>::try_from(rest).ok()?).to_string(),
            128,
        ),
    };
    Some(if bits == most && !always {
        address
    } else {
        format!("{address}/{bits}")
    })
}

const DAY: i64 = 86_400_000_000;

/// Microseconds of a time of day.
fn clock(text: &str) -> Option<i64> {
    let mut parts = text.splitn(3, ':');
    let hour: i64 = digits(parts.next()?)?;
    let minute: i64 = digits(parts.next()?)?;
    let seconds = parts.next()?;
    let (second, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    if fraction.len() > 6 {
        return None;
    }
    let micros = digits(fraction)? * 10_i64.pow(6 - fraction.len() as u32);
    Some(((hour * 60 + minute) * 60 + digits(second)?) * 1_000_000 + micros)
}

fn digits(text: &str) -> Option<i64> {
    let plain = !text.is_empty() && text.len() < 10 && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok())?
}

/// Microseconds since 2000 of a date and time; infinities and times before our era are not read.
fn time_of(text: &str) -> Option<i64> {
    let (date, time) = text.split_once('T')?;
    let mut date = date.splitn(3, '-');
    let (year, month, day) = (
        digits(date.next()?)?,
        digits(date.next()?)?,
        digits(date.next()?)?,
    );
    let from_march = (month + 9) % 12;
    let year = year - i64::from(month <= 2);
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * from_march + 2) / 5 + day
        - 1
        - 730_425;
    Some(days * DAY + clock(time)?)
}

/// The same with an offset from UTC.
pub fn instant(text: &str) -> Option<i64> {
    if let Some(utc) = text.strip_suffix('Z') {
        return time_of(utc);
    }
    let (_, time) = text.split_once('T')?;
    let sign = text.len() - time.len() + time.find(['+', '-'])?;
    let (local, offset) = text.split_at(sign);
    let (back, offset) = (offset.starts_with('+'), &offset[1..]);
    let offset = match offset.matches(':').count() {
        0 => clock(&format!("{offset}:00:00"))?,
        1 => clock(&format!("{offset}:00"))?,
        _ => clock(offset)?,
    };
    let local = time_of(local)?;
    Some(if back { local - offset } else { local + offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numerics() {
        let of = |words: &[u16]| {
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            numeric(&bytes)
        };
        let same = |words: &[u16], text: &str| {
            let own = of(words).unwrap().unwrap();
            assert_eq!(Decimal::of(&own), Decimal::of(text), "{own}");
        };
        // As PostgreSQL 15 stores 0, 1, -1.5, 12345678901234567890.123, 0.0001, 1e100.
        same(&[0x8000], "0");
        same(&[0x8000, 1], "1");
        same(&[0xa080, 1, 5000], "-1.5");
        same(
            &[0x8184, 1234, 5678, 9012, 3456, 7890, 1230],
            "12345678901234567890.123",
        );
        same(&[0x827f, 1], "0.0001");
        same(&[0x8019, 1], "1e100");
        assert_eq!(of(&[0xc000]), Some(Err("NaN")));
        assert_eq!(of(&[0x8000, 10_000]), None);
    }

    #[test]
    fn times() {
        assert_eq!(instant("2000-01-01T00:00:00Z"), Some(0));
        assert_eq!(instant("2000-01-01T01:30:00.5+01:30"), Some(500_000));
        assert_eq!(instant("1999-12-31T19:00:00-05"), Some(0));
        assert_eq!(time_of("2024-02-29T12:00:00"), Some(762_523_200_000_000));
    }
}
