//! Merkle trees as RFC 6962 defines them, over leaf hashes: one for each organization's log, in which a line's leaf
//! stands at the line's place.
//!
//! A proof is first a list of ranges of leaves, each a subtree; their hashes are then taken in one pass over the leaves,
//! wherever those are. So nothing here holds a tree, however long the log is. Sizes are below 2^63.

use super::Digest;
use sha2::{Digest as _, Sha256};
use std::ops::Range;

/// The hash of a node: RFC 6962, 2.1.
pub fn node(left: &Digest, right: &Digest) -> Digest {
    let mut text = [1; 65];
    text[1..33].copy_from_slice(left);
    text[33..].copy_from_slice(right);
    Sha256::digest(text).into()
}

/// The tree of no leaves.
pub fn empty() -> Digest {
    Sha256::digest([]).into()
}

/// What a tree needs to grow and to tell its root: the roots of its perfect subtrees, the largest first, one for each
/// bit of its size.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Digest>,
}

impl Frontier {
    /// None where there are not as many peaks as the size has bits.
    pub fn new(size: u64, peaks: Vec<Digest>) -> Option<Frontier> {
        (peaks.len() == size.count_ones() as usize).then_some(Frontier { size, peaks })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn peaks(&self) -> &[Digest] {
        &self.peaks
    }

    pub fn push(&mut self, leaf: &Digest) {
        let mut hash = *leaf;
        for _ in 0..self.size.trailing_ones() {
            let left = self.peaks.pop().expect("a peak for each bit");
            hash = node(&left, &hash);
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    pub fn root(&self) -> Digest {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else {
            return empty();
        };
        peaks.fold(*last, |right, left| node(left, &right))
    }

    pub fn clear(&mut self) {
        self.size = 0;
        self.peaks.clear();
    }
}

/// Where a tree of so many leaves, more than one, is split: the largest power of two below.
fn split(size: u64) -> u64 {
    1 << (63 - (size - 1).leading_zeros())
}

fn halves(range: &Range<u64>) -> (Range<u64>, Range<u64>) {
    let middle = range.start + split(range.end - range.start);
    (range.start..middle, middle..range.end)
}

/// The subtrees whose hashes prove that a leaf stands at `index` in a tree, in RFC 6962's order.
pub fn inclusion(index: u64, size: u64) -> Option<Vec<Range<u64>>> {
    let mut proof = vec![];
    let mut rest = 0..size;
    if !rest.contains(&index) {
        return None;
    }
    while rest.end - rest.start > 1 {
        let (left, right) = halves(&rest);
        let (inside, beside) = if left.contains(&index) {
            (left, right)
        } else {
            (right, left)
        };
        proof.push(beside);
        rest = inside;
    }
    proof.reverse();
    Some(proof)
}

/// The subtrees whose hashes prove that a tree begins with the leaves of an older one, in RFC 6962's order.
pub fn consistency(old: u64, new: u64) -> Option<Vec<Range<u64>>> {
    if old > new {
        return None;
    }
    let mut proof = vec![];
    if old == 0 || old == new {
        return Some(proof);
    }
    let mut rest = 0..new;
    let mut whole = true;
    while rest.end != old {
        let (left, right) = halves(&rest);
        if old <= left.end {
            proof.push(right);
            rest = left;
        } else {
            proof.push(left);
            rest = right;
            whole = false;
        }
    }
    if !whole {
        proof.push(rest);
    }
    proof.reverse();
    Some(proof)
}

/// RFC 9162, 2.1.3.2.
pub fn includes(leaf: &Digest, index: u64, size: u64, proof: &[Digest], root: &Digest) -> bool {
    if index >= size {
        return false;
    }
    let (mut place, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for step in proof {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            hash = node(step, &hash);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, step);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// RFC 9162, 2.1.4.2; any tree extends the empty one.
pub fn extends(old: u64, old_root: &Digest, new: u64, new_root: &Digest, proof: &[Digest]) -> bool {
    if old > new {
        return false;
    }
    if old == 0 || old == new {
        let same = if old == 0 {
            *old_root == empty() && (new > 0 || *new_root == empty())
        } else {
            old_root == new_root
        };
        return proof.is_empty() && same;
    }
    let mut steps = proof.iter();
    let (mut place, mut last) = (old - 1, new - 1);
    while place & 1 == 1 {
        place >>= 1;
        last >>= 1;
    }
    // An old tree that is perfect is a node of the new one, which nobody needs to be told.
    let first = if place == 0 {
        Some(old_root)
    } else {
        steps.next()
    };
    let Some(first) = first else { return false };
    let (mut from_old, mut from_new) = (*first, *first);
    for step in steps {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            from_old = node(step, &from_old);
            from_new = node(step, &from_new);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            from_new = node(&from_new, step);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && from_old == *old_root && from_new == *new_root
}

/// The subtrees that somebody who holds the leaves of `held` (ascending, apart) lacks to compute the root, from left to
/// right. None where `held` reaches beyond the tree.
pub fn lacking(size: u64, held: &[Range<u64>]) -> Option<Vec<Range<u64>>> {
    if held.last().is_some_and(|last| last.end > size) {
        return None;
    }
    let mut lacking = vec![];
    if size > 0 {
        lack(0..size, held, &mut lacking);
    }
    Some(lacking)
}

fn lack(tree: Range<u64>, held: &[Range<u64>], lacking: &mut Vec<Range<u64>>) {
    let held = within(held, &tree);
    match held {
        [] => lacking.push(tree),
        [one] if one.start <= tree.start && one.end >= tree.end => {}
        _ => {
            let (left, right) = halves(&tree);
            lack(left, held, lacking);
            lack(right, held, lacking);
        }
    }
}

/// Those that overlap the tree.
fn within<'a>(held: &'a [Range<u64>], tree: &Range<u64>) -> &'a [Range<u64>] {
    let first = held.partition_point(|r| r.end <= tree.start);
    let end = held.partition_point(|r| r.start < tree.end);
    &held[first..end.max(first)]
}

/// The root of a tree of which one holds the leaves of `held`, given in their order, and is told the rest. None where
/// something is missing or left over.
pub fn root_with(
    size: u64,
    held: &[Range<u64>],
    leaves: impl IntoIterator<Item = Digest>,
    told: &[Digest],
) -> Option<Digest> {
    if held.last().is_some_and(|last| last.end > size) {
        return None;
    }
    let (mut leaves, mut told) = (leaves.into_iter(), told.iter());
    let root = if size == 0 {
        empty()
    } else {
        known(0..size, held, &mut leaves, &mut told)?
    };
    (leaves.next().is_none() && told.next().is_none()).then_some(root)
}

fn known<'a>(
    tree: Range<u64>,
    held: &[Range<u64>],
    leaves: &mut impl Iterator<Item = Digest>,
    told: &mut impl Iterator<Item = &'a Digest>,
) -> Option<Digest> {
    let held = within(held, &tree);
    match held {
        [] => told.next().copied(),
        [one] if one.start <= tree.start && one.end >= tree.end => {
            let mut frontier = Frontier::default();
            for _ in tree {
                frontier.push(&leaves.next()?);
            }
            Some(frontier.root())
        }
        _ => {
            let (left, right) = halves(&tree);
            let left = known(left, held, leaves, told)?;
            Some(node(&left, &known(right, held, leaves, told)?))
        }
    }
}

/// Takes the hashes of ranges of leaves, which may overlap, while all leaves pass by in their order.
pub struct Ranges {
    /// By where they begin; with their place in the answer.
    waiting: Vec<(Range<u64>, usize)>,
    open: Vec<(u64, usize, Frontier)>,
    done: Vec<Option<Digest>>,
    index: u64,
}

impl Ranges {
    pub fn of(ranges: &[Range<u64>]) -> Ranges {
        let mut waiting: Vec<_> = ranges.iter().cloned().zip(0..).collect();
        waiting.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
        Ranges {
            waiting,
            open: vec![],
            done: vec![None; ranges.len()],
            index: 0,
        }
    }

    pub fn push(&mut self, leaf: &Digest) {
        while let Some((range, place)) = self.waiting.pop_if(|(r, _)| r.start == self.index) {
            self.open.push((range.end, place, Frontier::default()));
        }
        self.index += 1;
        let (index, done) = (self.index, &mut self.done);
        self.open.retain_mut(|(end, place, frontier)| {
            frontier.push(leaf);
            if index < *end {
                return true;
            }
            done[*place] = Some(frontier.root());
            false
        });
    }

    /// The hashes, in the order in which the ranges were given; None before the last leaf of the last one has passed.
    pub fn finish(self) -> Option<Vec<Digest>> {
        self.done.into_iter().collect()
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
