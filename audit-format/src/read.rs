//! Reading the bytes of the log back. Whoever may write to the server's files may have written anything there: what is
//! not well-formed is an error, never a panic.

use super::{Digest, Layout, LayoutId, Operation, Salt, Shape, VERSION};

/// What is wrong with the bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Corrupt(pub &'static str);

pub type Result<T> = std::result::Result<T, Corrupt>;

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .0
            .split_at_checked(n)
            .ok_or(Corrupt("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N]> {
        let (taken, rest) = self
            .0
            .split_first_chunk()
            .ok_or(Corrupt("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn number(&mut self) -> Result<u64> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
                break;
            }
            n |= bits << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(Corrupt("a number is not in its shortest form"))
    }

    fn integer(&mut self) -> Result<i64> {
        let n = self.number()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    fn bytes(&mut self) -> Result<&'a [u8]> {
        let n = self.number()?;
        self.take(usize::try_from(n).unwrap_or(usize::MAX))
    }

    fn text(&mut self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Corrupt("a text is not UTF-8"))
    }

    fn done(&self) -> Result<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Corrupt("more follows than belongs there"))
        }
    }
}

/// What stands in front of a chunk's lines.
#[derive(Debug, PartialEq)]
pub struct Head {
    pub salt: Salt,
    pub layouts: Vec<LayoutId>,
    /// Where the first line begins.
    pub size: usize,
}

pub fn head(chunk: &[u8]) -> Result<Head> {
    let mut rest = Rest(chunk);
    if rest.byte()? != VERSION {
        return Err(Corrupt("it is of a version that is not known"));
    }
    let salt = *rest.array()?;
    let mut layouts = vec![];
    for _ in 0..rest.number()? {
        layouts.push(*rest.array()?);
    }
    Ok(Head {
        salt,
        layouts,
        size: chunk.len() - rest.0.len(),
    })
}

#[derive(Debug, PartialEq)]
pub struct Line<'a> {
    /// Its place in the head's list.
    pub layout: usize,
    /// Microseconds since the chunk's first line.
    pub since: i64,
    /// Lines of the transaction since then.
    pub after: i32,
    pub leaf: &'a Digest,
    pub body: &'a [u8],
}

/// The line at `place`, which moves on to the next one; None after the last.
pub fn line<'a>(chunk: &'a [u8], place: &mut usize) -> Result<Option<Line<'a>>> {
    const TOO_LARGE: Corrupt = Corrupt("a number is too large");
    let mut rest = Rest(chunk.get(*place..).unwrap_or_default());
    if rest.0.is_empty() {
        return Ok(None);
    }
    let line = Line {
        layout: usize::try_from(rest.number()?).map_err(|_| TOO_LARGE)?,
        since: i64::try_from(rest.number()?).map_err(|_| TOO_LARGE)?,
        after: i32::try_from(rest.number()?).map_err(|_| TOO_LARGE)?,
        leaf: rest.array()?,
        body: rest.bytes()?,
    };
    *place = chunk.len() - rest.0.len();
    Ok(Some(line))
}

/// A value of a column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Field<'a> {
    Null,
    /// The chunk's own organization.
    Org,
    Integer(i64),
    Bytes(&'a [u8]),
}

/// Columns by their place in the layout, with their values.
pub type Fields<'a> = Vec<(usize, Field<'a>)>;

#[derive(Debug, PartialEq)]
pub enum Body<'a> {
    Row {
        operation: Operation,
        key: Fields<'a>,
        old: Option<Fields<'a>>,
        new: Option<Fields<'a>>,
    },
    Truncate,
    /// JSON texts.
    Act {
        operation: &'a str,
        object: &'a str,
        key: &'a str,
        old: Option<&'a str>,
        new: Option<&'a str>,
    },
}

/// The operation alone, for a filter.
pub fn operation(body: &[u8]) -> Result<Operation> {
    body.first()
        .and_then(|byte| Operation::of(*byte))
        .ok_or(Corrupt("an operation is not known"))
}

/// Operation and object of a governance act, for a filter.
pub fn act_names(body: &[u8]) -> Result<(&str, &str)> {
    let mut rest = Rest(body.get(1..).unwrap_or_default());
    Ok((rest.text()?, rest.text()?))
}

pub fn body<'a>(layout: &Layout, body: &'a [u8]) -> Result<Body<'a>> {
    let operation = operation(body)?;
    let mut rest = Rest(&body[1..]);
    let parsed = match operation {
        Operation::Insert | Operation::Delete => {
            let whole = fields(layout, &mut rest, |_| true, false)?;
            let key = key_of(layout, &whole);
            let (old, new) = match operation {
                Operation::Insert => (None, Some(whole)),
                _ => (Some(whole), None),
            };
            Body::Row {
                operation,
                key,
                old,
                new,
            }
        }
        Operation::Update => {
            let changed = rest.take(layout.bitmap())?;
            let changed = |i: usize| changed[i / 8] >> (i % 8) & 1 == 1;
            let mut old = fields(
                layout,
                &mut rest,
                |i| changed(i) || layout.columns[i].is_key,
                false,
            )?;
            let new = fields(layout, &mut rest, changed, true)?;
            let key = key_of(layout, &old);
            old.retain(|(i, _)| changed(*i));
            Body::Row {
                operation,
                key,
                old: Some(old),
                new: Some(new),
            }
        }
        Operation::Truncate => Body::Truncate,
        Operation::Act => {
            let (operation, object, key) = (rest.text()?, rest.text()?, rest.text()?);
            let given = rest.byte()?;
            Body::Act {
                operation,
                object,
                key,
                old: (given & 1 != 0).then(|| rest.text()).transpose()?,
                new: (given & 2 != 0).then(|| rest.text()).transpose()?,
            }
        }
    };
    rest.done()?;
    Ok(parsed)
}

fn key_of<'a>(layout: &Layout, fields: &Fields<'a>) -> Fields<'a> {
    let of_key = |(i, _): &&(usize, Field<'a>)| layout.columns[*i].is_key;
    fields.iter().filter(of_key).copied().collect()
}

/// Which of the columns are not NULL, and their values. The organization is written where it is `new`: there it may be
/// another one.
fn fields<'a>(
    layout: &Layout,
    rest: &mut Rest<'a>,
    wanted: impl Fn(usize) -> bool,
    new: bool,
) -> Result<Fields<'a>> {
    let present = rest.take(layout.bitmap())?;
    let mut fields = Vec::with_capacity(layout.columns.len());
    for (i, column) in layout.columns.iter().enumerate() {
        let present = present[i / 8] >> (i % 8) & 1 == 1;
        if !wanted(i) {
            if present {
                return Err(Corrupt("a value is said to be where none is"));
            }
            continue;
        }
        let field = match column.shape {
            _ if !present => Field::Null,
            _ if column.is_org && !new => Field::Org,
            Shape::Integer => Field::Integer(rest.integer()?),
            Shape::Fixed(n) => Field::Bytes(rest.take(n)?),
            Shape::Bytes => Field::Bytes(rest.bytes()?),
        };
        fields.push((i, field));
    }
    Ok(fields)
}
