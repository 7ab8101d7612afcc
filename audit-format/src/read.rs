//! Reading the bytes of the log back. Whoever may write to the server's files may have written anything there: what is
//! not well-formed is an error, never a panic.

use super::valid::is_valid;
use super::{Digest, ERASED, Layout, LayoutId, Moment, Operation, Salt, Salts, Shape, VERSION};
use std::ops::Range;

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

/// Where a payload is read: at one of its lines. It owns nothing of the payload, which is handed in again for each line.
#[derive(Debug)]
pub struct Reader {
    pub layouts: Vec<LayoutId>,
    first: Moment,
    /// None where each line has its own.
    salts: Option<Salts>,
    next: usize,
    /// How many lines follow.
    left: i32,
    /// The number of the line before.
    last: Option<i32>,
}

/// A line that was compared with its leaf.
#[derive(Debug, PartialEq)]
pub struct Line {
    pub moment: Moment,
    /// Its place among the chunk's layouts.
    pub layout: usize,
    pub operation: u8,
    pub leaf: Digest,
    pub values: Digest,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Where in the payload the body lies.
    Body {
        salt: Salt,
        body: Range<usize>,
    },
    Erased,
}

/// No line of a chunk is later than its first by more than so many microseconds: who looks for a time looks so far back.
pub const SPAN: i64 = 10_000_000;

impl Reader {
    /// `first` and `lines` are what the chunk's row says.
    pub fn new(payload: &[u8], first: Moment, lines: i32) -> Result<Reader> {
        let mut rest = Rest(payload);
        let salts = match rest.byte()? {
            VERSION => Some(Salts::of(*rest.array()?)),
            ERASED => None,
            _ => return Err(Corrupt("it is of a version that is not known")),
        };
        let mut layouts = vec![];
        for _ in 0..rest.byte()? {
            layouts.push(*rest.array()?);
        }
        if lines < 1 {
            return Err(Corrupt("it says that it has no lines"));
        }
        Ok(Reader {
            layouts,
            first,
            salts,
            next: payload.len() - rest.0.len(),
            left: lines,
            last: None,
        })
    }

    /// The next line; None after the last. `contexts` are of the layouts, in their order.
    pub fn next(&mut self, payload: &[u8], contexts: &[Digest]) -> Result<Option<Line>> {
        match self.compare(payload, contexts)? {
            Some((_, false)) => Err(Corrupt("a line does not match its hash")),
            line => Ok(line.map(|(line, _)| line)),
        }
    }

    /// `next`, which goes on past a line that does not match its hash: the answer says whether it does.
    pub fn compare(&mut self, payload: &[u8], contexts: &[Digest]) -> Result<Option<(Line, bool)>> {
        let mut rest = Rest(payload.get(self.next..).unwrap_or_default());
        if self.left == 0 {
            return rest.done().map(|()| None);
        }
        if rest.0.is_empty() {
            return Err(Corrupt("it has fewer lines than it says"));
        }
        let layout = rest.number()?;
        let moment = self.moment(rest.number()?, rest.number()?)?;
        let leaf = *rest.array()?;
        let (operation, values, content) = self.content(payload, &mut rest)?;
        let context = usize::try_from(layout).ok().and_then(|i| contexts.get(i));
        let context = context.ok_or(Corrupt("a line names a layout that its chunk does not"))?;
        let matches = super::leaf(context, moment, operation, &values) == leaf;
        self.last = Some(moment.n);
        self.left -= 1;
        self.next = payload.len() - rest.0.len();
        let line = Line {
            moment,
            layout: layout as usize,
            operation,
            leaf,
            values,
            content,
        };
        Ok(Some((line, matches)))
    }

    fn moment(&self, since: u64, after: u64) -> Result<Moment> {
        const FAR: Corrupt = Corrupt("a line's time or number is out of range");
        let since = i64::try_from(since).ok().filter(|since| *since <= SPAN);
        let after = i32::try_from(after).ok();
        let at = since.and_then(|since| self.first.at.checked_add(since));
        let n = after.and_then(|after| self.first.n.checked_add(after));
        let (Some(at), Some(n)) = (at, n) else {
            return Err(FAR);
        };
        let in_order = match self.last {
            Some(last) => n > last,
            None => n == self.first.n && at == self.first.at,
        };
        if !in_order {
            return Err(FAR);
        }
        Ok(Moment {
            at,
            n,
            xid: self.first.xid,
        })
    }

    fn content(&mut self, payload: &[u8], rest: &mut Rest) -> Result<(u8, Digest, Content)> {
        let salt = match &mut self.salts {
            Some(salts) => salts.of_next_line(),
            None => match rest.byte()? {
                0 => return Ok((rest.byte()?, *rest.array()?, Content::Erased)),
                1 => *rest.array()?,
                _ => return Err(Corrupt("a line is neither erased nor not")),
            },
        };
        let bytes = rest.bytes()?;
        let end = payload.len() - rest.0.len();
        let operation = *bytes.first().ok_or(Corrupt("a line is empty"))?;
        let body = end - bytes.len()..end;
        let values = super::values(&salt, bytes);
        Ok((operation, values, Content::Body { salt, body }))
    }
}

/// The leaf hashes of a chunk's lines as they stand there, compared with nothing.
pub fn leaves(payload: &[u8], lines: i32) -> Result<Vec<Digest>> {
    let mut rest = Rest(payload);
    let erased = rest.byte()? == ERASED;
    if !erased {
        rest.array::<16>()?;
    }
    for _ in 0..rest.byte()? {
        rest.array::<16>()?;
    }
    let mut leaves = Vec::with_capacity(usize::try_from(lines).unwrap_or(0).min(rest.0.len() / 36));
    for _ in 0..lines {
        for _ in 0..3 {
            rest.number()?;
        }
        leaves.push(*rest.array()?);
        match erased && rest.byte()? == 0 {
            true => {
                rest.take(1 + 32)?;
            }
            false => {
                if erased {
                    rest.array::<16>()?;
                }
                rest.bytes()?;
            }
        }
    }
    rest.done()?;
    Ok(leaves)
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

fn operation(body: &[u8]) -> Result<Operation> {
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
            let changed = bitmap(layout, &mut rest)?;
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
            if given > 3 {
                return Err(Corrupt("an act says more than it can"));
            }
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

/// A bit for each column, and none for what is no column.
fn bitmap<'a>(layout: &Layout, rest: &mut Rest<'a>) -> Result<&'a [u8]> {
    let bits = rest.take(layout.bitmap())?;
    match (bits.last(), layout.columns.len() % 8) {
        (Some(last), used) if used > 0 && last >> used != 0 => {
            Err(Corrupt("a column is said to be where none is"))
        }
        _ => Ok(bits),
    }
}

fn key_of<'a>(layout: &Layout, fields: &Fields<'a>) -> Fields<'a> {
    let of_key = |(i, _): &&(usize, Field<'a>)| layout.columns[*i].is_key;
    fields.iter().filter(of_key).copied().collect()
}

fn fits(encoding: &str, n: i64) -> bool {
    match encoding {
        "int2" => i16::try_from(n).is_ok(),
        "int4" => i32::try_from(n).is_ok(),
        _ => true,
    }
}

/// Which of the columns are not NULL, and their values. The organization is written where it is `new`: there it may be
/// another one.
fn fields<'a>(
    layout: &Layout,
    rest: &mut Rest<'a>,
    wanted: impl Fn(usize) -> bool,
    new: bool,
) -> Result<Fields<'a>> {
    let present = bitmap(layout, rest)?;
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
        let valid = match field {
            Field::Integer(n) => fits(&column.encoding, n),
            Field::Bytes(bytes) => is_valid(&column.encoding, bytes),
            Field::Null | Field::Org => true,
        };
        if !valid {
            return Err(Corrupt("a value is none of its type"));
        }
        fields.push((i, field));
    }
    Ok(fields)
}
