//! JSON whose numbers keep every digit: a forger must not hide behind the precision of a float.

use std::borrow::Cow;
use std::fmt;

#[derive(Clone, Debug, PartialEq)]
pub enum Json<'a> {
    Null,
    Bool(bool),
    /// As it is written.
    Number(Cow<'a, str>),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// So deep may values be nested: more than a stack of 8 MB holds must not be asked for.
const DEEPEST: usize = 2_000;

pub fn parse(text: &str) -> Option<Json<'_>> {
    let mut parser = Parser { text, at: 0 };
    let value = parser.value(0)?;
    parser.space();
    (parser.at == text.len()).then_some(value)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, expected: &str) -> Option<()> {
        let rest = &self.text.as_bytes()[self.at..];
        rest.starts_with(expected.as_bytes())
            .then(|| self.at += expected.len())
    }

    fn value(&mut self, depth: usize) -> Option<Json<'a>> {
        if depth > DEEPEST {
            return None;
        }
        self.space();
        match self.peek()? {
            b'n' => self.take("null").map(|()| Json::Null),
            b't' => self.take("true").map(|()| Json::Bool(true)),
            b'f' => self.take("false").map(|()| Json::Bool(false)),
            b'"' => self.text().map(Json::Text),
            b'[' => self.list(depth),
            b'{' => self.object(depth),
            _ => self.number(),
        }
    }

    fn number(&mut self) -> Option<Json<'a>> {
        let start = self.at;
        while matches!(
            self.peek(),
            Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')
        ) {
            self.at += 1;
        }
        let text = &self.text[start..self.at];
        Decimal::of(text).map(|_| Json::Number(text.into()))
    }

    fn text(&mut self) -> Option<Cow<'a, str>> {
        self.take("\"")?;
        let start = self.at;
        let plain = self.text.as_bytes()[start..]
            .iter()
            .position(|b| *b == b'"' || *b == b'\\')?;
        self.at += plain;
        let mut text = Cow::Borrowed(&self.text[start..self.at]);
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(text);
                }
                b'\\' => {
                    self.at += 1;
                    let c = self.escape()?;
                    text.to_mut().push(c);
                }
                _ => {
                    let rest = &self.text[self.at..];
                    let end = rest.find(['"', '\\'])?;
                    text.to_mut().push_str(&rest[..end]);
                    self.at += end;
                }
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(match c {
            b'"' | b'\\' | b'/' => c as char,
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.unit()?;
                if (0xd800..0xdc00).contains(&unit) {
                    self.take("\\u")?;
                    let low = self.unit()?.checked_sub(0xdc00).filter(|l| *l < 0x400)?;
                    char::from_u32(0x10000 + ((unit - 0xd800) << 10) + low)?
                } else {
                    char::from_u32(unit)?
                }
            }
            _ => return None,
        })
    }

    fn unit(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        self.at += 4;
        digits
            .bytes()
            .all(|b| b.is_ascii_hexdigit())
            .then(|| u32::from_str_radix(digits, 16).ok())?
    }

    fn list(&mut self, depth: usize) -> Option<Json<'a>> {
        self.take("[")?;
        let mut list = vec![];
        self.space();
        if self.take("]").is_some() {
            return Some(Json::List(list));
        }
        loop {
            list.push(self.value(depth + 1)?);
            self.space();
            if self.take("]").is_some() {
                return Some(Json::List(list));
            }
            self.take(",")?;
        }
    }

    fn object(&mut self, depth: usize) -> Option<Json<'a>> {
        self.take("{")?;
        let mut object = vec![];
        self.space();
        if self.take("}").is_some() {
            return Some(Json::Object(object));
        }
        loop {
            self.space();
            let name = self.text()?;
            self.space();
            self.take(":")?;
            object.push((name, self.value(depth + 1)?));
            self.space();
            if self.take("}").is_some() {
                return Some(Json::Object(object));
            }
            self.take(",")?;
        }
    }
}

impl<'a> Json<'a> {
    /// The field of this name; null where there is none. Two of one name could be read in two ways.
    pub fn get(&self, name: &str) -> Result<&Json<'a>, String> {
        let Json::Object(fields) = self else {
            return Err("an object is expected".into());
        };
        let mut found = fields.iter().filter(|(n, _)| n == name);
        match (found.next(), found.next()) {
            (None, _) => Ok(&Json::Null),
            (Some((_, value)), None) => Ok(value),
            _ => Err(format!("\"{name}\" is there twice")),
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A copy that refers to nothing.
    pub fn owned(&self) -> Json<'static> {
        let text = |text: &Cow<str>| Cow::Owned(text.to_string());
        match self {
            Json::Null => Json::Null,
            Json::Bool(value) => Json::Bool(*value),
            Json::Number(number) => Json::Number(text(number)),
            Json::Text(value) => Json::Text(text(value)),
            Json::List(list) => Json::List(list.iter().map(Json::owned).collect()),
            Json::Object(fields) => Json::Object(
                fields
                    .iter()
                    .map(|(name, value)| (text(name), value.owned()))
                    .collect(),
            ),
        }
    }

    /// Of a number, or of a text that holds one: what a 64-bit id is written as.
    pub fn integer<T: std::str::FromStr>(&self) -> Option<T> {
        match self {
            Json::Text(text) | Json::Number(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// Whether both say the same: fields in any order, numbers by their value.
    pub fn same(&self, other: &Json) -> bool {
        match (self, other) {
            (Json::Number(a), Json::Number(b)) => {
                Decimal::of(a).is_some_and(|a| Some(a) == Decimal::of(b))
            }
            (Json::List(a), Json::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b))
            }
            (Json::Object(a), Json::Object(b)) => {
                let (a, b) = (sorted(a), sorted(b));
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0 == b.0 && a.1.same(&b.1))
            }
            (a, b) => a == b,
        }
    }
}

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Json::Null => f.write_str("null"),
            Json::Bool(value) => value.fmt(f),
            // As it was read from storage it may begin with zeros.
            Json::Number(number) => match Decimal::of(number) {
                Some(decimal) => f.write_str(&decimal.plain()),
                None => f.write_str(number),
            },
            Json::Text(text) => write_text(text, f),
            Json::List(list) => {
                for (i, value) in list.iter().enumerate() {
                    f.write_str(if i == 0 { "[" } else { "," })?;
                    value.fmt(f)?;
                }
                f.write_str(if list.is_empty() { "[]" } else { "]" })
            }
            Json::Object(fields) => {
                for (i, (name, value)) in fields.iter().enumerate() {
                    f.write_str(if i == 0 { "{" } else { "," })?;
                    write_text(name, f)?;
                    f.write_str(":")?;
                    value.fmt(f)?;
                }
                f.write_str(if fields.is_empty() { "{}" } else { "}" })
            }
        }
    }
}

fn write_text(text: &str, f: &mut fmt::Formatter) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            c if c < ' ' => write!(f, "\\u{:04x}", c as u32)?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

type Field<'a> = (Cow<'a, str>, Json<'a>);

fn sorted<'a, 'b>(fields: &'b [Field<'a>]) -> Vec<&'b Field<'a>> {
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

/// A decimal number in its one shortest form: sign, digits without zeros at either end, and the power of ten of the last.
#[derive(Debug, PartialEq)]
pub struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    /// Without a power of ten.
    pub fn plain(&self) -> String {
        let mut digits = String::from_utf8_lossy(&self.digits).into_owned();
        let behind = usize::try_from(-self.exponent).unwrap_or(0);
        let zeros = usize::try_from(self.exponent).unwrap_or(0);
        digits.extend(std::iter::repeat_n('0', zeros));
        if digits.len() <= behind {
            digits.insert_str(0, &"0".repeat(behind + 1 - digits.len()));
        }
        if behind > 0 {
            digits.insert(digits.len() - behind, '.');
        }
        if digits.is_empty() {
            digits.push('0');
        }
        if self.negative {
            digits.insert(0, '-');
        }
        digits
    }

    pub fn of(text: &str) -> Option<Decimal> {
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match rest.find(['e', 'E']) {
            Some(e) => (&rest[..e], rest[e + 1..].parse::<i64>().ok()?),
            None => (rest, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if whole.is_empty() || mantissa.ends_with('.') {
            return None;
        }
        let mut digits = Vec::with_capacity(mantissa.len());
        for c in whole.bytes().chain(fraction.bytes()) {
            if !c.is_ascii_digit() {
                return None;
            }
            digits.push(c);
        }
        let mut exponent = exponent.checked_sub(fraction.len() as i64)?;
        while digits.last() == Some(&b'0') {
            digits.pop();
            exponent = exponent.checked_add(1)?;
        }
        let zeros = digits.iter().take_while(|d| **d == b'0').count();
        digits.drain(..zeros);
        Some(if digits.is_empty() {
            Decimal {
                negative: false,
                digits,
                exponent: 0,
            }
        } else {
            Decimal {
                negative,
                digits,
                exponent,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let text = r#"{"a":[1,-2.5,true,null,"x\"\\ü\u0001"],"b":{},"c":[]}"#;
        let json = parse(text).unwrap();
        assert_eq!(json.to_string(), text);
        assert_eq!(json.owned(), json);
        for (number, plain) in [
            ("0", "0"),
            ("-1.50", "-1.5"),
            ("12e3", "12000"),
            ("5e-3", "0.005"),
            ("123e-2", "1.23"),
        ] {
            assert_eq!(Decimal::of(number).unwrap().plain(), plain);
        }
    }

    #[test]
    fn values() {
        let text = r#" {"a": [1, -2.50e1, true, null, "x\"\u00fc\ud83d\ude00\n"], "b": {}} "#;
        let json = parse(text).unwrap();
        let Json::List(list) = json.get("a").unwrap() else {
            panic!("a list")
        };
        assert_eq!(list[4].text(), Some("x\"ü😀\n"));
        assert!(list[1].same(&Json::Number("-25".into())));
        assert!(!list[1].same(&Json::Number("25".into())));
        assert!(json.same(&parse(r#"{"b":{},"a":[1.0,-25,true,null,"x\"ü😀\n"]}"#).unwrap()));
        for bad in [
            "",
            "{",
            "[1,]",
            "nul",
            "01a",
            "\"",
            "1.",
            ".5",
            "--1",
            "{\"a\" 1}",
            "[1] 2",
            "\"\\ud800x\"",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert!(parse(r#"{"a":1,"a":2}"#).unwrap().get("a").is_err());
        assert_eq!(parse(&"[".repeat(100_000)), None);
    }

    #[test]
    fn numbers_keep_every_digit() {
        let a = Json::Number("12345678901234567890.1230".into());
        assert!(a.same(&Json::Number("1234567890123456789012.3e-2".into())));
        assert!(!a.same(&Json::Number("12345678901234567890.1231".into())));
        assert!(Json::Number("0".into()).same(&Json::Number("-0.00".into())));
    }
}
