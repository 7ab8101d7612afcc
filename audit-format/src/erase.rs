//! Erasing the values of some of a chunk's lines: author, time, object, operation and leaf stay, and with the values' hash
//! the leaf can still be checked.

use super::read::{Content, Line, Reader, Result};
use super::{Digest, ERASED, Moment, put_bytes, put_number};

/// The payload without the values of those lines that `erased` names; None where it names none that still has them.
/// `contexts` are of the chunk's layouts.
pub fn erase(
    payload: &[u8],
    first: Moment,
    lines: i32,
    contexts: &[Digest],
    mut erased: impl FnMut(&Line) -> bool,
) -> Result<Option<Vec<u8>>> {
    let mut reader = Reader::new(payload, first, lines)?;
    let mut out = vec![ERASED, reader.layouts.len() as u8];
    for id in &reader.layouts {
        out.extend_from_slice(id);
    }
    let mut any = false;
    while let Some(line) = reader.next(payload, contexts)? {
        put_number(&mut out, line.layout as u64);
        put_number(&mut out, (line.moment.at - first.at) as u64);
        put_number(&mut out, (line.moment.n - first.n) as u64);
        out.extend_from_slice(&line.leaf);
        match &line.content {
            Content::Body { .. } if erased(&line) => {
                any = true;
                put_erased(&mut out, line.operation, &line.values);
            }
            Content::Body { salt, body } => {
                out.push(1);
                out.extend_from_slice(salt);
                put_bytes(&mut out, &payload[body.clone()]);
            }
            Content::Erased => put_erased(&mut out, line.operation, &line.values),
        }
    }
    Ok(any.then_some(out))
}

fn put_erased(out: &mut Vec<u8>, operation: u8, values: &Digest) {
    out.push(0);
    out.push(operation);
    out.extend_from_slice(values);
}
