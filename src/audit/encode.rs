//! A written row as the body of a line: INSERT keeps the new row, DELETE the old one, UPDATE the changed columns of both
//! and the key that the row had.

use super::layouts::Captured;
use crate::pg::trigger::Event;
use crate::pg::value::Deformed;
use pg_tenancy_audit_format::Operation;

/// Writes the body; false where the update changed nothing.
pub fn row(
    layout: &Captured,
    event: Event,
    old: &Deformed,
    new: &Deformed,
    out: &mut Vec<u8>,
) -> bool {
    match event {
        Event::Insert => whole(layout, Operation::Insert, new, out),
        Event::Update => return update(layout, old, new, out),
        Event::Delete => whole(layout, Operation::Delete, old, out),
        Event::Truncate => out.push(Operation::Truncate as u8),
    }
    true
}

fn whole(layout: &Captured, operation: Operation, row: &Deformed, out: &mut Vec<u8>) {
    out.push(operation as u8);
    fields(layout, row, out, |_, _| true, false);
}

fn update(layout: &Captured, old: &Deformed, new: &Deformed, out: &mut Vec<u8>) -> bool {
    out.push(Operation::Update as u8);
    let start = out.len();
    out.resize(start + layout.format.bitmap(), 0);
    let mut any = false;
    for (i, source) in layout.sources.iter().enumerate() {
        if !source.value(old).same(&source.value(new)) {
            set(out, start, i);
            any = true;
        }
    }
    if any {
        let changed = |out: &[u8], i: usize| out[start + i / 8] >> (i % 8) & 1 == 1;
        let key = |i: usize| layout.sources[i].is_key;
        fields(layout, old, out, |out, i| changed(out, i) || key(i), false);
        fields(layout, new, out, changed, true);
    }
    any
}

fn set(out: &mut [u8], start: usize, i: usize) {
    out[start + i / 8] |= 1 << (i % 8);
}

/// A bit for each column that is wanted and not NULL, then their values. The organization is the chunk's, except in what
/// an update made of it.
#[inline]
fn fields(
    layout: &Captured,
    row: &Deformed,
    out: &mut Vec<u8>,
    wanted: impl Fn(&[u8], usize) -> bool,
    new: bool,
) {
    let start = out.len();
    out.resize(start + layout.format.bitmap(), 0);
    for (i, source) in layout.sources.iter().enumerate() {
        if !wanted(out, i) {
            continue;
        }
        let value = source.value(row);
        if !value.null {
            set(out, start, i);
            if new || !source.is_org {
                source.put(&value, out);
            }
        }
    }
}
