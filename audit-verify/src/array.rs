//! Arrays as PostgreSQL stores them behind the length word: dimensions, offset of the data where there are NULLs, element
//! type, sizes and lower bounds, the NULL bits, and the elements, each at a multiple of its alignment.

use crate::json::Json;
use crate::value;

/// Whether `shown` is the array; None where this program cannot tell.
pub fn same(element: &str, bytes: &[u8], shown: &Json) -> Option<bool> {
    let word = |at: usize| -> Option<i32> {
        Some(i32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
    };
    let dimensions = usize::try_from(word(0)?).ok().filter(|n| *n <= 6)?;
    let sizes = (0..dimensions)
        .map(|i| word(12 + 4 * i).and_then(|n| usize::try_from(n).ok()))
        .collect::<Option<Vec<_>>>()?;
    if dimensions == 0 {
        return Some(*shown == Json::List(vec![]));
    }
    // Offsets count from the length word, which is not here.
    let bits_at = 12 + 8 * dimensions;
    let count = sizes
        .iter()
        .try_fold(1_usize, |all, n| all.checked_mul(*n))?;
    let (nulls, data) = match usize::try_from(word(4)?).ok()? {
        0 => (None, (bits_at + 4).next_multiple_of(8) - 4),
        offset => (
            Some(bytes.get(bits_at..bits_at + count.div_ceil(8))?),
            offset.checked_sub(4)?,
        ),
    };
    let mut leaves = vec![];
    flatten(shown, &sizes, &mut leaves)?;
    if leaves.len() != count {
        return Some(false);
    }
    let mut at = data;
    for (i, shown) in leaves.into_iter().enumerate() {
        if nulls.is_some_and(|bits| bits[i / 8] >> (i % 8) & 1 == 0) {
            if *shown != Json::Null {
                return Some(false);
            }
            continue;
        }
        let (size, align) = layout(element)?;
        at = (at + 4).next_multiple_of(align) - 4;
        let content = match size {
            Some(size) => {
                at += size;
                bytes.get(at - size..at)?
            }
            None => {
                let whole = usize::try_from(word(at)?.cast_unsigned() >> 2).ok()?;
                at += whole;
                bytes.get(at - whole + 4..at)?
            }
        };
        if !value::scalar(element, content, shown)? {
            return Some(false);
        }
    }
    Some(true)
}

/// The elements in their order; None where the nesting is another.
fn flatten<'a, 'b>(
    shown: &'b Json<'a>,
    sizes: &[usize],
    leaves: &mut Vec<&'b Json<'a>>,
) -> Option<()> {
    let Some((size, rest)) = sizes.split_first() else {
        leaves.push(shown);
        return Some(());
    };
    // Another shape than the sizes say is a difference, which the count shows.
    if let Json::List(list) = shown
        && list.len() == *size
    {
        for inner in list {
            flatten(inner, rest, leaves)?;
        }
    }
    Some(())
}

/// Size of an element, None for those with a length word; and its alignment.
fn layout(element: &str) -> Option<(Option<usize>, usize)> {
    Some(match element {
        "bool" | "char" => (Some(1), 1),
        "int2" => (Some(2), 2),
        "int4" | "float4" | "date" | "oid" | "xid" => (Some(4), 4),
        "int8" | "float8" | "time" | "timestamp" | "timestamptz" | "xid8" => (Some(8), 8),
        "uuid" => (Some(16), 1),
        "text" | "varchar" | "bpchar" | "numeric" | "jsonb" | "json" | "bytea" | "inet"
        | "cidr" => (None, 4),
        _ => return None,
    })
}
