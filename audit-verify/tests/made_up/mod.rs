//! A log that was never in a database: lines of every operation, their leaves, and the heads of their tree.

// Runs of lines are lists of ranges, often of one.
#![allow(clippy::single_range_in_vec_init)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pg_tenancy_audit_format::head::{self, Head, Signed, SigningKey, uuid};
use pg_tenancy_audit_format::tree::{self, Frontier, Ranges};
use pg_tenancy_audit_format::{
    self as format, Author, Column, Digest, Layout, Moment, Operation, put_bytes, put_integer,
    put_text, shape,
};
use std::fmt::Write as _;

pub const ORG: [u8; 16] = [0x5c; 16];

pub struct Log {
    layout: Layout,
    pub lines: Vec<String>,
    pub leaves: Vec<Digest>,
}

pub fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

pub fn verifier() -> String {
    head::verifier(&key().verifying_key())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        write!(text, "{b:02x}").unwrap();
        text
    })
}

/// A table of ten columns, as cloud panels have them.
fn layout() -> Layout {
    let columns = [
        ("id", "int8", false, true),
        ("org_id", "uuid", true, false),
        ("name", "text", false, false),
        ("cpus", "int4", false, false),
        ("price", "numeric", false, false),
        ("labels", "text[]", false, false),
        ("live", "bool", false, false),
        ("made", "timestamptz", false, false),
        ("load", "float8", false, false),
        ("about", "jsonb", false, false),
    ];
    let columns = columns
        .into_iter()
        .map(|(name, encoding, is_org, is_key)| Column {
            name: name.into(),
            encoding: encoding.into(),
            shape: shape(encoding).unwrap(),
            is_org,
            is_key,
        })
        .collect();
    Layout::new("public.servers", columns)
}

/// Each value with what is shown for it.
fn row(i: i64) -> Vec<(Vec<u8>, String)> {
    let bytes = |content: &[u8]| {
        let mut out = vec![];
        put_bytes(&mut out, content);
        out
    };
    let integer = |n: i64| {
        let mut out = vec![];
        put_integer(&mut out, n);
        (out, n.to_string())
    };
    let name = format!("server \"{i}\"");
    // 2.50: one digit in front, 5000 ten-thousandths, scale 2.
    let price: Vec<u8> = [0x8100_u16, 2, 5000]
        .iter()
        .flat_map(|w| w.to_le_bytes())
        .collect();
    // text[] of two: dimensions, no offset, type 25, size, lower bound; 4-byte lengths, aligned to four.
    let mut labels = vec![];
    for word in [1_i32, 0, 25, 2, 1] {
        labels.extend(word.to_le_bytes());
    }
    for text in ["a", "web"] {
        labels.extend((((text.len() + 4) as u32) << 2).to_le_bytes());
        labels.extend(text.as_bytes());
        while labels.len() % 4 != 0 {
            labels.push(0);
        }
    }
    // {"n": i, "ok": true}: an object of two.
    let number: Vec<u8> = {
        let words: Vec<u16> = match i % 10_000 {
            0 => vec![0x8000],
            n => vec![0x8000, n as u16],
        };
        let mut value = ((4 + 2 * words.len() as u32) << 2).to_le_bytes().to_vec();
        value.extend(words.iter().flat_map(|w| w.to_le_bytes()));
        value
    };
    let mut about = 0x2000_0002_u32.to_le_bytes().to_vec();
    let padding = 1; // the names take three bytes, numbers begin at a multiple of four
    for entry in [
        0x8000_0001,
        2,
        0x1000_0000 | (padding + number.len() as u32),
        0x3000_0000,
    ] {
        about.extend(u32::to_le_bytes(entry));
    }
    about.extend(b"nok\0");
    about.extend(&number);
    vec![
        integer(i),
        (vec![], format!("\"{}\"", uuid(&ORG))),
        (bytes(name.as_bytes()), format!("\"server \\\"{i}\\\"\"")),
        integer(i % 64),
        (bytes(&price), "2.50".into()),
        (bytes(&labels), "[\"a\",\"web\"]".into()),
        (vec![1], "true".into()),
        (
            (i * 1_000_000).to_le_bytes().to_vec(),
            format!("\"{}\"", time(i * 1_000_000)),
        ),
        (
            (i as f64 / 4.0).to_le_bytes().to_vec(),
            format!("{}", i as f64 / 4.0),
        ),
        (
            bytes(&about),
            format!("{{\"n\": {}, \"ok\": true}}", i % 10_000),
        ),
    ]
}

/// As timestamptz shows it in UTC.
fn time(at: i64) -> String {
    let text = Head {
        org: ORG,
        size: 0,
        root: [0; 32],
        at,
        purged: 0,
        previous: None,
    }
    .text();
    let time = text.lines().find_map(|l| l.strip_prefix("time ")).unwrap();
    time.replace('Z', "+00:00")
}

impl Log {
    pub fn new(lines: u64) -> Log {
        let mut log = Log {
            layout: layout(),
            lines: vec![],
            leaves: vec![],
        };
        for i in 0..lines {
            log.line(i as i64);
        }
        log
    }

    fn line(&mut self, i: i64) {
        let layout = &self.layout;
        let author = Author {
            actor: (i % 3 > 0).then_some([i as u8; 16]),
            approver: None,
            break_glass: i % 100 == 99,
            actor_type: "human".into(),
            db_role: "app".into(),
            result: "completed".into(),
            client_addr: (i % 2 == 0).then(|| "10.0.0.1".into()),
            request_id: Some(format!("req-{}", i / 50)),
        };
        let moment = Moment {
            at: 800_000_000_000_000 + i * 1000,
            xid: 700 + i as u64 / 10,
            n: (i % 10) as i32,
        };
        let values = row(i);
        let all = layout.columns.iter().map(|c| c.name.as_str()).zip(&values);
        let object = |names: &[&str]| {
            let fields: Vec<String> = all
                .clone()
                .filter(|(n, _)| names.is_empty() || names.contains(n))
                .map(|(n, (_, shown))| format!("\"{n}\": {shown}"))
                .collect();
            format!("{{{}}}", fields.join(", "))
        };
        let mut body = vec![];
        let (operation, key, old, new) = match i % 4 {
            0 | 1 => {
                body.push(Operation::Insert as u8);
                body.extend([0xff, 0x03]);
                values.iter().for_each(|(bytes, _)| body.extend(bytes));
                ("INSERT", object(&["id"]), "null".to_string(), object(&[]))
            }
            2 => {
                // cpus changed, from NULL.
                body.push(Operation::Update as u8);
                body.extend([0x08, 0]);
                body.extend([0x01, 0]);
                body.extend(&values[0].0);
                body.extend([0x08, 0]);
                body.extend(&values[3].0);
                (
                    "UPDATE",
                    object(&["id"]),
                    "{\"cpus\": null}".into(),
                    object(&["cpus"]),
                )
            }
            _ => {
                body.push(Operation::Act as u8);
                for text in ["invite", "tenancy.memberships", "{\"user\": \"ü\"}"] {
                    put_text(&mut body, text);
                }
                body.push(2);
                put_text(&mut body, "{\"role\": \"admin\"}");
                (
                    "invite",
                    "{\"user\": \"ü\"}".into(),
                    "null".into(),
                    "{\"role\": \"admin\"}".into(),
                )
            }
        };
        let acts = Layout::of_acts();
        let (layout, name) = match body[0] {
            5 => (&acts, "tenancy.memberships"),
            _ => (layout, "public.servers"),
        };
        let salt = [i as u8; 16];
        let leaf = format::leaf(
            &author.context(&layout.digest, &ORG),
            moment,
            body[0],
            &format::values(&salt, &body),
        );
        let optional = |t: Option<String>| t.map_or("null".into(), |t| format!("\"{t}\""));
        self.lines.push(format!(
            "{{\"at\":\"{}\",\"org_id\":\"{}\",\"actor_id\":{},\"actor_type\":\"human\",\"approver_id\":null,\"db_role\":\"app\",\
             \"operation\":\"{operation}\",\"object\":\"{name}\",\"key\":{key},\"old\":{old},\"new\":{new},\"result\":\"completed\",\
             \"client_addr\":{},\"request_id\":{},\"xid\":\"{}\",\"n\":{},\"break_glass\":{},\"number\":{},\"leaf\":\"{}\",\
             \"evidence\":{{\"layout\":\"{}\",\"salt\":\"{}\",\"body\":\"{}\"}}}}",
            time(moment.at),
            uuid(&ORG),
            optional(author.actor.as_ref().map(uuid)),
            optional(author.client_addr.clone()),
            optional(author.request_id.clone()),
            moment.xid,
            moment.n,
            author.break_glass,
            i + 1,
            hex(&leaf),
            uuid(&layout.id()),
            hex(&salt),
            STANDARD.encode(&body),
        ));
        self.leaves.push(leaf);
    }

    pub fn layouts(&self) -> Vec<String> {
        [&self.layout, &Layout::of_acts()]
            .map(|layout| {
                let of = |value: fn(&Column) -> &str| -> Vec<&str> {
                    layout.columns.iter().map(value).collect()
                };
                let key = layout.columns.iter().filter(|c| c.is_key);
                let org = layout.columns.iter().find(|c| c.is_org);
                format!(
                    "{{\"columns\":{:?},\"encodings\":{:?},\"key\":{:?},\"layout\":\"{}\",\"object\":\"{}\",\"org_column\":{}}}",
                    of(|c| &c.name),
                    of(|c| &c.encoding),
                    key.map(|c| c.name.as_str()).collect::<Vec<_>>(),
                    uuid(&layout.id()),
                    layout.object,
                    org.map_or("null".into(), |c| format!("{:?}", c.name)),
                )
            })
            .to_vec()
    }

    /// The head of the first lines.
    pub fn head(&self, size: usize) -> Signed {
        let mut frontier = Frontier::default();
        self.leaves[..size]
            .iter()
            .for_each(|leaf| frontier.push(leaf));
        Head {
            org: ORG,
            size: size as u64,
            root: frontier.root(),
            at: 900_000_000_000_000,
            purged: 0,
            previous: None,
        }
        .sign(&key())
    }

    pub fn hashes(&self, ranges: &[std::ops::Range<u64>]) -> Vec<String> {
        let mut hashes = Ranges::of(ranges);
        self.leaves.iter().for_each(|leaf| hashes.push(leaf));
        hashes.finish().unwrap().iter().map(|h| hex(h)).collect()
    }

    /// The last line of an export that holds the lines of these ranges.
    pub fn trailer(&self, held: &[std::ops::Range<u64>]) -> String {
        let size = self.leaves.len();
        let proof = self.hashes(&tree::lacking(size as u64, held).unwrap());
        format!(
            "{{\"head\":\"{}\",\"proof\":[{}]}}",
            self.head(size).note().replace('\n', "\\n"),
            proof
                .iter()
                .map(|h| format!("\"{h}\""))
                .collect::<Vec<_>>()
                .join(",")
        )
    }

    /// A whole export.
    pub fn export(&self) -> Vec<String> {
        let mut export = self.layouts();
        export.extend(self.lines.iter().cloned());
        export.push(self.trailer(&[0..self.leaves.len() as u64]));
        export
    }
}
