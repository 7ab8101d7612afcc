//! Known answers (the tree of Certificate Transparency's reference implementation), and every tree of up to some
//! hundred leaves against a transcription of RFC 6962's definitions.

use super::*;
use proptest::prelude::*;

fn hex(text: &str) -> Digest {
    let digits = text.as_bytes().chunks(2);
    let bytes: Vec<u8> = digits
        .map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap())
        .collect();
    bytes.try_into().unwrap()
}

fn leaf(data: &[u8]) -> Digest {
    Sha256::new()
        .chain_update([0])
        .chain_update(data)
        .finalize()
        .into()
}

fn leaves(n: u64) -> Vec<Digest> {
    (0..n).map(|i| leaf(&i.to_le_bytes())).collect()
}

/// MTH of RFC 6962, 2.1.
fn naive(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => empty(),
        [one] => *one,
        _ => {
            let k = leaves.len().next_power_of_two() / 2;
            node(&naive(&leaves[..k]), &naive(&leaves[k..]))
        }
    }
}

/// PATH of RFC 6962, 2.1.1.
fn path(m: usize, leaves: &[Digest]) -> Vec<Digest> {
    if leaves.len() == 1 {
        return vec![];
    }
    let k = leaves.len().next_power_of_two() / 2;
    let (inside, beside) = if m < k {
        (path(m, &leaves[..k]), naive(&leaves[k..]))
    } else {
        (path(m - k, &leaves[k..]), naive(&leaves[..k]))
    };
    [inside, vec![beside]].concat()
}

/// SUBPROOF of RFC 6962, 2.1.2.
fn subproof(m: usize, leaves: &[Digest], whole: bool) -> Vec<Digest> {
    if m == leaves.len() {
        return if whole { vec![] } else { vec![naive(leaves)] };
    }
    let k = leaves.len().next_power_of_two() / 2;
    let (inside, beside) = if m <= k {
        (subproof(m, &leaves[..k], whole), naive(&leaves[k..]))
    } else {
        (subproof(m - k, &leaves[k..], false), naive(&leaves[..k]))
    };
    [inside, vec![beside]].concat()
}

fn hashes(leaves: &[Digest], ranges: &[Range<u64>]) -> Vec<Digest> {
    let mut hashes = Ranges::of(ranges);
    leaves.iter().for_each(|leaf| hashes.push(leaf));
    hashes.finish().unwrap()
}

fn root(leaves: &[Digest]) -> Digest {
    let mut frontier = Frontier::default();
    leaves.iter().for_each(|leaf| frontier.push(leaf));
    frontier.root()
}

/// The eight leaves of the reference implementation's tests, and the roots of their first n.
const LEAVES: [&[u8]; 8] = [
    &[],
    &[0x00],
    &[0x10],
    &[0x20, 0x21],
    &[0x30, 0x31],
    &[0x40, 0x41, 0x42, 0x43],
    &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
    &[
        0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e,
        0x6f,
    ],
];
const ROOTS: [&str; 9] = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

#[test]
fn known_roots() {
    for (n, expected) in ROOTS.iter().enumerate() {
        let leaves: Vec<Digest> = LEAVES[..n].iter().map(|data| leaf(data)).collect();
        assert_eq!(root(&leaves), hex(expected), "{n} leaves");
    }
}

#[test]
fn known_inclusion_proofs() {
    let leaves: Vec<Digest> = LEAVES.iter().map(|data| leaf(data)).collect();
    let proof = |index, size| {
        hashes(
            &leaves[..size as usize],
            &inclusion(index, size).expect("inside"),
        )
    };
    assert_eq!(proof(0, 1), Vec::<Digest>::new());
    assert_eq!(
        proof(0, 8),
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ]
        .map(hex)
    );
    assert_eq!(
        proof(5, 8),
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]
        .map(hex)
    );
    assert_eq!(
        proof(2, 3),
        ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"].map(hex)
    );
}

#[test]
fn known_consistency_proofs() {
    let leaves: Vec<Digest> = LEAVES.iter().map(|data| leaf(data)).collect();
    let proof = |old, new| {
        hashes(
            &leaves[..new as usize],
            &consistency(old, new).expect("ordered"),
        )
    };
    assert_eq!(proof(1, 1), Vec::<Digest>::new());
    assert_eq!(
        proof(1, 8),
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ]
        .map(hex)
    );
    assert_eq!(
        proof(6, 8),
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ]
        .map(hex)
    );
}

#[test]
fn a_tree_of_one_is_its_leaf_and_no_node_passes_for_one() {
    let [a, b] = [leaf(b"a"), leaf(b"b")];
    assert_eq!(root(&[a]), a);
    assert_ne!(root(&[root(&[a, b])]), leaf(&[a, b].concat()));
}

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![0..10u64, 0..300u64]
}

proptest! {
    #[test]
    fn the_frontier_has_the_naive_root(n in size()) {
        let leaves = leaves(n);
        prop_assert_eq!(root(&leaves), naive(&leaves));
    }

    #[test]
    fn a_frontier_goes_on_from_its_peaks(n in size(), more in size()) {
        let leaves = leaves(n + more);
        let (first, rest) = leaves.split_at(n as usize);
        let mut frontier = Frontier::default();
        first.iter().for_each(|leaf| frontier.push(leaf));
        let mut again = Frontier::new(frontier.size(), frontier.peaks().to_vec()).unwrap();
        rest.iter().for_each(|leaf| again.push(leaf));
        prop_assert_eq!(again.root(), naive(&leaves));
    }

    #[test]
    fn inclusion_is_proved_and_nothing_else(n in 1..300u64, at in any::<prop::sample::Index>(), other in size(), bit in 0..256usize) {
        let leaves = leaves(n);
        let index = at.index(n as usize) as u64;
        let root = naive(&leaves);
        let proof = hashes(&leaves, &inclusion(index, n).unwrap());
        prop_assert_eq!(&proof, &path(index as usize, &leaves));
        let leaf = leaves[index as usize];
        prop_assert!(includes(&leaf, index, n, &proof, &root));
        if other != index {
            prop_assert!(!includes(&leaf, other, n, &proof, &root));
        }
        let mut wrong = leaf;
        wrong[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!includes(&wrong, index, n, &proof, &root));
        prop_assert!(!includes(&leaf, index, n, &[&proof[..], &[leaf]].concat(), &root));
        if let Some((_, short)) = proof.split_last() {
            prop_assert!(!includes(&leaf, index, n, short, &root));
            let mut altered = proof.clone();
            altered[other as usize % proof.len()][bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!includes(&leaf, index, n, &altered, &root));
        }
    }

    #[test]
    fn consistency_is_proved_and_nothing_else(a in size(), b in size(), bit in 0..256usize) {
        let (old, new) = (a.min(b), a.max(b));
        let leaves = leaves(new);
        let (before, after) = (naive(&leaves[..old as usize]), naive(&leaves));
        let proof = hashes(&leaves, &consistency(old, new).unwrap());
        if old > 0 {
            prop_assert_eq!(&proof, &subproof(old as usize, &leaves, true));
        }
        prop_assert!(extends(old, &before, new, &after, &proof));
        let mut wrong = before;
        wrong[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!extends(old, &wrong, new, &after, &proof));
        let mut wrong = after;
        wrong[bit / 8] ^= 1 << (bit % 8);
        // Anything extends nothing.
        prop_assert_eq!(extends(old, &before, new, &wrong, &proof), old == 0 && new > 0);
        prop_assert!(!extends(old, &before, new, &after, &[&proof[..], &[after]].concat()));
        if let Some((_, short)) = proof.split_last() {
            prop_assert!(!extends(old, &before, new, &after, short));
        }
        if old < new {
            prop_assert!(!extends(new, &after, old, &before, &proof));
            prop_assert_eq!(consistency(new, old), None);
        }
    }

    #[test]
    fn what_one_lacks_completes_what_one_holds(n in size(), held in prop::collection::vec(any::<bool>(), 300), bit in 0..256usize) {
        let leaves = leaves(n);
        let mut ranges: Vec<Range<u64>> = vec![];
        for i in (0..n).filter(|i| held[*i as usize]) {
            match ranges.last_mut() {
                Some(last) if last.end == i => last.end += 1,
                _ => ranges.push(i..i + 1),
            }
        }
        let told = hashes(&leaves, &lacking(n, &ranges).unwrap());
        let mine = || ranges.iter().cloned().flatten().map(|i| leaves[i as usize]);
        prop_assert_eq!(root_with(n, &ranges, mine(), &told), Some(naive(&leaves)));
        if let Some((_, short)) = told.split_last() {
            prop_assert_eq!(root_with(n, &ranges, mine(), short), None);
        }
        let mut more = told.clone();
        more.push(empty());
        prop_assert_eq!(root_with(n, &ranges, mine(), &more), None);
        let mut altered: Vec<Digest> = mine().collect();
        if let Some(first) = altered.first_mut() {
            first[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(root_with(n, &ranges, altered, &told), Some(naive(&leaves)));
        }
    }
}
