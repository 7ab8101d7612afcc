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
    fields(layout, row, out, |_, _| u8::MAX, false);
}

fn update(layout: &Captured, old: &Deformed, new: &Deformed, out: &mut Vec<u8>) -> bool {
    out.push(Operation::Update as u8);
    let start = out.len();
    out.resize(start + layout.format.bitmap(), 0);
    let mut any = 0;
    for (byte, sources) in layout.sources.chunks(8).enumerate() {
        let mut changed = 0;
        for (bit, source) in sources.iter().enumerate() {
            changed |= u8::from(!source.value(old).same(&source.value(new))) << bit;
        }
        out[start + byte] = changed;
        any |= changed;
    }
    if any != 0 {
        let changed = |out: &[u8], byte: usize| out[start + byte];
        let or_key = |out: &[u8], byte: usize| out[start + byte] | layout.keys[byte];
        fields(layout, old, out, or_key, false);
        fields(layout, new, out, changed, true);
    }
    any != 0
}

/// A bit for each column that is wanted and not NULL, then their values. The organization is the chunk's, except in what
/// an update made of it. `wanted` answers eight columns at once: most updates change few.
#[inline]
fn fields(
    layout: &Captured,
    row: &Deformed,
    out: &mut Vec<u8>,
    wanted: impl Fn(&[u8], usize) -> u8,
    new: bool,
) {
    let start = out.len();
    out.resize(start + layout.format.bitmap(), 0);
    for (byte, sources) in layout.sources.chunks(8).enumerate() {
        let mut left = wanted(out, byte);
        let mut there = 0;
        while let Some(source) = sources.get(left.trailing_zeros() as usize) {
            let bit = left & left.wrapping_neg();
            left &= !bit;
            let value = source.value(row);
            if !value.null {
                there |= bit;
                if new || !source.is_org {
                    source.put(&value, out);
                }
            }
        }
        out[start + byte] = there;
    }
}
