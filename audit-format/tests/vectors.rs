//! The bytes of the page on the format, which were computed from its words alone, and those that this crate makes.

use pg_tenancy_audit_format::erase::erase;
use pg_tenancy_audit_format::read::{self, Body, Content, Field, Reader};
use pg_tenancy_audit_format::{self as format, Author, Column, Digest, Layout, Moment, Salts};

const PAGE: &str = include_str!("../../docs/audit-format.md");

fn of_page(name: &str) -> Vec<u8> {
    let start = format!("    {name} = ");
    let line = PAGE.lines().find_map(|line| line.strip_prefix(&start));
    let hex = line.unwrap_or_else(|| panic!("the page has no line {name}"));
    let digits = hex.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn layout() -> Layout {
    let column = |name: &str, encoding: &str, is_org, is_key| Column {
        name: name.into(),
        encoding: encoding.into(),
        shape: format::shape(encoding).unwrap(),
        is_org,
        is_key,
    };
    Layout::new(
        "public.sites",
        vec![
            column("id", "int4", false, true),
            column("org_id", "uuid", true, false),
            column("name", "text", false, false),
            column("at", "timestamptz", false, false),
        ],
    )
}

const ORG: [u8; 16] = [15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0];
const FIRST: Moment = Moment {
    at: 848_491_200_000_000,
    xid: 4711,
    n: 3,
};

fn author() -> Author {
    let actor = "11111111222233334444555555555555";
    Author {
        actor: Some(u128::from_str_radix(actor, 16).unwrap().to_be_bytes()),
        actor_type: "human".into(),
        db_role: "ada".into(),
        result: "completed".into(),
        request_id: Some("req-1".into()),
        ..Author::default()
    }
}

fn context() -> Digest {
    author().context(&layout().digest, &ORG)
}

#[test]
fn the_page_says_what_is_written() {
    assert_eq!(layout().digest.as_slice(), of_page("layout"));
    assert_eq!(context().as_slice(), of_page("line context"));
    let chunk_salt: [u8; 16] = std::array::from_fn(|i| i as u8);
    let mut salts = Salts::of(chunk_salt);
    let mut payload = vec![];
    format::put_head(&mut payload, &chunk_salt, &layout().id());
    for (i, (since, after)) in [(0, 0), (1500, 2)].into_iter().enumerate() {
        let salt = salts.of_next_line();
        assert_eq!(salt.as_slice(), of_page(&format!("salt {i}")));
        let body = of_page(&format!("body {i}"));
        let values = format::values(&salt, &body);
        assert_eq!(values.as_slice(), of_page(&format!("values {i}")));
        let moment = Moment {
            at: FIRST.at + since,
            n: FIRST.n + after,
            ..FIRST
        };
        let leaf = format::leaf(&context(), moment, body[0], &values);
        assert_eq!(leaf.as_slice(), of_page(&format!("leaf {i}")));
        format::put_line(&mut payload, 0, since as u64, after as u64, &leaf, &body);
    }
    assert_eq!(payload, of_page("payload"));
}

#[test]
fn what_the_page_shows_is_read() {
    let payload = of_page("payload");
    let mut reader = Reader::new(&payload, FIRST, 2).unwrap();
    assert_eq!(reader.layouts, [layout().id()]);
    let first = reader.next(&payload, &[context()]).unwrap().unwrap();
    assert_eq!((first.moment, first.operation), (FIRST, 1));
    let Content::Body { body, .. } = first.content else {
        panic!("it was not erased");
    };
    let layout = layout();
    let name = Field::Bytes("Käse".as_bytes());
    let whole = vec![
        (0, Field::Integer(60)),
        (1, Field::Org),
        (2, name),
        (3, Field::Null),
    ];
    let Body::Row { key, old, new, .. } = read::body(&layout, &payload[body]).unwrap() else {
        panic!("a row");
    };
    assert_eq!(key, [(0, Field::Integer(60))]);
    assert_eq!((old, new), (None, Some(whole)));
    let second = reader.next(&payload, &[context()]).unwrap().unwrap();
    assert_eq!((second.moment.at, second.moment.n), (FIRST.at + 1500, 5));
    let Content::Body { body, .. } = second.content else {
        panic!("it was not erased");
    };
    let Body::Row { key, old, new, .. } = read::body(&layout, &payload[body]).unwrap() else {
        panic!("a row");
    };
    assert_eq!(key, [(0, Field::Integer(60))]);
    assert_eq!(old, Some(vec![(2, name)]));
    assert_eq!(new, Some(vec![(2, Field::Null)]));
    assert_eq!(reader.next(&payload, &[context()]).unwrap(), None);
}

#[test]
fn what_is_erased_keeps_its_leaf_and_no_value() {
    let payload = of_page("payload");
    let contexts = [context()];
    let erased = erase(&payload, FIRST, 2, &contexts, |line| line.moment.n == 3)
        .unwrap()
        .unwrap();
    assert_eq!(erased, of_page("erased"));
    let mut reader = Reader::new(&erased, FIRST, 2).unwrap();
    let first = reader.next(&erased, &contexts).unwrap().unwrap();
    assert_eq!(first.content, Content::Erased);
    assert_eq!(first.leaf.as_slice(), of_page("leaf 0"));
    let second = reader.next(&erased, &contexts).unwrap().unwrap();
    assert!(matches!(second.content, Content::Body { .. }));
    assert_eq!(second.leaf.as_slice(), of_page("leaf 1"));
    // Erased once is erased; the rest can be erased too.
    assert_eq!(
        erase(&erased, FIRST, 2, &contexts, |l| l.moment.n == 3).unwrap(),
        None
    );
    let all = erase(&erased, FIRST, 2, &contexts, |_| true)
        .unwrap()
        .unwrap();
    assert!(!all.windows(4).any(|w| w == b"K\xc3\xa4s"));
    let mut reader = Reader::new(&all, FIRST, 2).unwrap();
    while let Some(line) = reader.next(&all, &contexts).unwrap() {
        assert_eq!(line.content, Content::Erased);
    }
}

#[test]
fn times_as_iso_8601() {
    for (at, text) in [
        (0, "2000-01-01T00:00:00.000000Z"),
        (-1, "1999-12-31T23:59:59.999999Z"),
        (FIRST.at, "2026-11-20T12:00:00.000000Z"),
        (5_184_000_000_000 - 1, "2000-02-29T23:59:59.999999Z"),
        (5_184_000_000_000, "2000-03-01T00:00:00.000000Z"),
        (-946_684_800_000_000, "1970-01-01T00:00:00.000000Z"),
        (-63_082_281_600_000_000, "0001-01-01T00:00:00.000000Z"),
        (252_455_615_999_999_999, "9999-12-31T23:59:59.999999Z"),
    ] {
        assert_eq!(format::iso_time(at), text);
    }
}
