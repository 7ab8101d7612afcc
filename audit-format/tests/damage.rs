//! Bytes that somebody changed, or made up: an error, never a panic, and never another line than was written.

use pg_tenancy_audit_format::erase::erase;
use pg_tenancy_audit_format::read::{self, Content, Corrupt, Line, Reader};
use pg_tenancy_audit_format::{self as format, Author, Column, Digest, Layout, Moment, Salts};
use proptest::prelude::*;

const FIRST: Moment = Moment {
    at: 1_000_000,
    xid: 77,
    n: 5,
};
const ENCODINGS: [&str; 12] = [
    "int4", "uuid", "text", "bool", "numeric", "jsonb", "text[]", "int2[]", "inet", "varbit",
    "tsvector", "as jsonb",
];

fn layout() -> Layout {
    let columns = ENCODINGS.iter().enumerate().map(|(i, encoding)| Column {
        name: format!("c{i}"),
        encoding: encoding.to_string(),
        shape: format::shape(encoding).unwrap(),
        is_org: i == 1,
        is_key: i == 0,
    });
    Layout::new("public.things", columns.collect())
}

fn context() -> Digest {
    Author::default().context(&layout().digest, &[7; 16])
}

/// A chunk of these bodies, true in every hash.
fn chunk(bodies: &[Vec<u8>]) -> Vec<u8> {
    let mut payload = vec![];
    let mut salts = Salts::of([9; 16]);
    format::put_head(&mut payload, &[9; 16], &layout().id());
    for (i, body) in bodies.iter().enumerate() {
        let values = format::values(&salts.of_next_line(), body);
        let moment = Moment {
            n: FIRST.n + i as i32,
            ..FIRST
        };
        let operation = body.first().copied().unwrap_or_default();
        let leaf = format::leaf(&context(), moment, operation, &values);
        format::put_line(&mut payload, 0, 0, i as u64, &leaf, body);
    }
    payload
}

fn lines(payload: &[u8], count: i32) -> Result<Vec<Line>, Corrupt> {
    let mut reader = Reader::new(payload, FIRST, count)?;
    let contexts = vec![context(); reader.layouts.len()];
    let mut lines = vec![];
    while let Some(line) = reader.next(payload, &contexts)? {
        if let Content::Body { body, .. } = &line.content {
            let _ = read::body(&layout(), &payload[body.clone()]);
            let _ = read::act_names(&payload[body.clone()]);
        }
        lines.push(line);
    }
    Ok(lines)
}

fn bodies() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let body = prop::collection::vec(any::<u8>(), 1..60);
    prop::collection::vec(body, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_chunk_says_what_was_written(bodies in bodies()) {
        let payload = chunk(&bodies);
        let read = lines(&payload, bodies.len() as i32).unwrap();
        let read: Vec<&[u8]> = read.iter().map(|line| match &line.content {
            Content::Body { body, .. } => &payload[body.clone()],
            Content::Erased => &[],
        }).collect();
        prop_assert_eq!(read, bodies);
    }

    #[test]
    fn a_changed_byte_is_found(bodies in bodies(), place in any::<prop::sample::Index>(), bits in 1..=255_u8) {
        let mut payload = chunk(&bodies);
        let place = place.index(payload.len());
        payload[place] ^= bits;
        // The ids of layouts are looked up, and not found, by whoever has them: they are no part of a line.
        let in_layouts = (18..34).contains(&place);
        prop_assert_eq!(lines(&payload, bodies.len() as i32).is_err(), !in_layouts);
    }

    #[test]
    fn what_is_cut_off_or_added_is_found(bodies in bodies(), cut in any::<prop::sample::Index>(), more in prop::collection::vec(any::<u8>(), 1..40)) {
        let payload = chunk(&bodies);
        let count = bodies.len() as i32;
        prop_assert!(lines(&payload[..cut.index(payload.len())], count).is_err());
        prop_assert!(lines(&[payload.clone(), more].concat(), count).is_err());
        prop_assert!(lines(&payload, count - 1).is_err());
        prop_assert!(lines(&payload, count + 1).is_err());
    }

    #[test]
    fn erasing_keeps_every_leaf(bodies in bodies(), which in any::<u8>()) {
        let payload = chunk(&bodies);
        let count = bodies.len() as i32;
        let before = lines(&payload, count).unwrap();
        let chosen = |line: &Line| which >> (line.moment.n - FIRST.n) & 1 == 1;
        let any = before.iter().any(&chosen);
        let erased = erase(&payload, FIRST, count, &[context()], &chosen).unwrap();
        prop_assert_eq!(erased.is_some(), any);
        if let Some(erased) = erased {
            let after = lines(&erased, count).unwrap();
            for (old, new) in before.iter().zip(&after) {
                prop_assert_eq!((old.moment, old.leaf, old.operation), (new.moment, new.leaf, new.operation));
                prop_assert_eq!(new.content == Content::Erased, chosen(new));
            }
        }
    }

    #[test]
    fn made_up_bytes_never_panic(payload in prop::collection::vec(any::<u8>(), 0..300), version in 0..4_u8, count in -1..5) {
        let _ = lines(&[vec![version], payload].concat(), count);
    }

    /// Whoever can write files can make the hashes fit: then the values themselves must be sound.
    #[test]
    fn made_up_bodies_never_panic(mut body in prop::collection::vec(any::<u8>(), 0..200), operation in 1..6_u8) {
        body.insert(0, operation);
        let _ = read::body(&layout(), &body);
        let _ = read::body(&Layout::of_acts(), &body);
    }

    #[test]
    fn made_up_values_never_panic(mut value in prop::collection::vec(any::<u8>(), 0..120), small in any::<[u8; 8]>()) {
        for encoding in ENCODINGS {
            let _ = format::valid::is_valid(encoding, &value);
        }
        // With plausible numbers in front they get further.
        for (byte, small) in value.iter_mut().zip(small) {
            *byte = if small < 200 { small % 3 } else { *byte };
        }
        for encoding in ENCODINGS {
            let _ = format::valid::is_valid(encoding, &value);
        }
    }
}
