//! Heads: what was sealed of an organization's log, signed. A head is a text that one can keep on paper: a checkpoint of
//! the transparency-log world (C2SP tlog-checkpoint) in a signed note (C2SP signed-note), which their tools verify too.
//!
//! ```text
//! pg_tenancy/audit/0b0e...            the organization
//! 1042                                lines sealed
//! iM7X...=                            root of their tree, base64
//! time 2026-11-21T15:04:05.123456Z
//! purged 0                            of the first so many lines the contents are gone, by retention
//! previous jL2b...=                   SHA-256 of 7 and the text of the head before this one; none for the first
//!
//! — pg_tenancy/audit sZ1C...=         the key's id (4 bytes) and the Ed25519 signature of all above the empty line
//! ```

use super::{Digest, kind};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer as _};
pub use ed25519_dalek::{SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

const ORIGIN: &str = "pg_tenancy/audit/";
/// The key's name, which the note format asks for: keys are told apart by their ids.
const NAME: &str = "pg_tenancy/audit";
/// Ed25519, as signed notes number it.
const ED25519: u8 = 1;

pub type KeyId = [u8; 4];

#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    pub org: [u8; 16],
    pub size: u64,
    pub root: Digest,
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub at: i64,
    pub purged: u64,
    pub previous: Option<Digest>,
}

/// A head with its signature; whether that is good is another question.
#[derive(Clone, Debug, PartialEq)]
pub struct Signed {
    pub head: Head,
    pub key: KeyId,
    pub signature: [u8; 64],
}

/// What is wrong with a text that should be a head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoHead(pub &'static str);

/// A key's id, as signed notes compute it.
pub fn key_id(key: &VerifyingKey) -> KeyId {
    let digest = Sha256::new()
        .chain_update(NAME)
        .chain_update([b'\n', ED25519])
        .chain_update(key.as_bytes())
        .finalize();
    digest[..4].try_into().expect("32 bytes")
}

/// A key as the tools of signed notes take it: name, id, and the key.
pub fn verifier(key: &VerifyingKey) -> String {
    let mut bytes = vec![ED25519];
    bytes.extend_from_slice(key.as_bytes());
    let id = u32::from_be_bytes(key_id(key));
    format!("{NAME}+{id:08x}+{}", STANDARD.encode(bytes))
}

/// The key in such a text.
pub fn parse_verifier(text: &str) -> Option<VerifyingKey> {
    let (_, rest) = text.trim().split_once('+')?;
    let (_, key) = rest.split_once('+')?;
    let bytes = STANDARD.decode(key).ok()?;
    let (kind, key) = bytes.split_first()?;
    let key = VerifyingKey::from_bytes(key.try_into().ok()?).ok()?;
    (*kind == ED25519 && !key.is_weak() && verifier(&key) == text.trim()).then_some(key)
}

impl Head {
    /// What is signed.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{ORIGIN}{}\n{}\n{}\ntime {}\npurged {}\n",
            uuid(&self.org),
            self.size,
            STANDARD.encode(self.root),
            time(self.at),
            self.purged
        );
        match &self.previous {
            Some(previous) => writeln!(text, "previous {}", STANDARD.encode(previous)),
            None => writeln!(text, "previous none"),
        }
        .expect("memory takes it");
        text
    }

    /// What the next head calls this one.
    pub fn digest(&self) -> Digest {
        Sha256::new()
            .chain_update([kind::HEAD])
            .chain_update(self.text())
            .finalize()
            .into()
    }

    pub fn sign(&self, key: &SigningKey) -> Signed {
        Signed {
            head: self.clone(),
            key: key_id(&key.verifying_key()),
            signature: key.sign(self.text().as_bytes()).to_bytes(),
        }
    }

    fn parse(text: &str) -> Result<Head, NoHead> {
        let mut lines = text.lines();
        let mut line = |what| lines.next().ok_or(NoHead(what));
        let org = line("it is empty")?
            .strip_prefix(ORIGIN)
            .and_then(parse_uuid)
            .ok_or(NoHead("it is of no organization's audit log"))?;
        let size = number(line("it has no size")?)?;
        let root = digest(line("it has no root")?)?;
        let mut field = |name: &str| {
            line("a line is missing")?
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix(' '))
                .ok_or(NoHead("a line is not what it should be"))
        };
        let at = parse_time(field("time")?).ok_or(NoHead("its time is none"))?;
        let purged = number(field("purged")?)?;
        let previous = match field("previous")? {
            "none" => None,
            text => Some(digest(text)?),
        };
        let head = Head {
            org,
            size,
            root,
            at,
            purged,
            previous,
        };
        // One text for one head: what was signed is what was understood.
        if head.text() != text {
            return Err(NoHead("it is not written as heads are"));
        }
        Ok(head)
    }
}

impl Signed {
    pub fn verify(&self, key: &VerifyingKey) -> bool {
        let signature = Signature::from_bytes(&self.signature);
        self.key == key_id(key)
            && key
                .verify_strict(self.head.text().as_bytes(), &signature)
                .is_ok()
    }

    /// The head with its signature, as it is handed out.
    pub fn note(&self) -> String {
        let bytes = [&self.key[..], &self.signature].concat();
        format!(
            "{}\n\u{2014} {NAME} {}\n",
            self.head.text(),
            STANDARD.encode(bytes)
        )
    }

    /// Reads a note; signatures of other names on it (witnesses') are left alone.
    pub fn parse(note: &str) -> Result<Signed, NoHead> {
        let note = note.replace("\r\n", "\n");
        let (text, signatures) = note
            .split_once("\n\n")
            .ok_or(NoHead("it has no signature"))?;
        let head = Head::parse(&format!("{text}\n"))?;
        let ours = signatures
            .lines()
            .find_map(|line| line.strip_prefix("\u{2014} ")?.strip_prefix(NAME))
            .and_then(|rest| rest.strip_prefix(' '))
            .and_then(|rest| STANDARD.decode(rest.trim()).ok())
            .ok_or(NoHead("it has no signature of a log's key"))?;
        let (key, signature) = ours
            .split_first_chunk::<4>()
            .ok_or(NoHead("its signature is cut off"))?;
        Ok(Signed {
            head,
            key: *key,
            signature: signature
                .try_into()
                .map_err(|_| NoHead("its signature is not of this kind"))?,
        })
    }

    /// The notes of a text that holds one or several, one after the other.
    pub fn parse_all(text: &str) -> Result<Vec<Signed>, NoHead> {
        let text = text.replace("\r\n", "\n");
        let mut notes: Vec<String> = vec![];
        for line in text.lines() {
            match notes.last_mut() {
                Some(note) if !line.starts_with(ORIGIN) => {
                    note.push_str(line);
                    note.push('\n');
                }
                None if line.trim().is_empty() => {}
                _ => notes.push(format!("{line}\n")),
            }
        }
        if notes.is_empty() {
            return Err(NoHead("it is empty"));
        }
        notes.iter().map(|note| Signed::parse(note)).collect()
    }
}

fn digest(text: &str) -> Result<Digest, NoHead> {
    STANDARD
        .decode(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(NoHead("a hash is not one"))
}

fn number(text: &str) -> Result<u64, NoHead> {
    text.parse::<u64>()
        .ok()
        .filter(|n| *n < 1 << 63)
        .ok_or(NoHead("a number is not one"))
}

/// A uuid in its usual form.
pub fn uuid(id: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (i, byte) in id.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        write!(text, "{byte:02x}").expect("memory takes it");
    }
    text
}

pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if !digits.is_ascii() || digits.len() != 32 {
        return None;
    }
    let mut id = [0; 16];
    for (i, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).ok()?;
    }
    (uuid(&id) == text.to_ascii_lowercase()).then_some(id)
}

const DAY: i64 = 86_400_000_000;
/// Days from 0000-03-01 to 2000-01-01.
const EPOCH: i64 = 730_425;

/// ISO 8601 with microseconds, in UTC, of a time between the years 1 and 9999; others as a number.
fn time(at: i64) -> String {
    let (days, rest) = (at.div_euclid(DAY), at.rem_euclid(DAY));
    // Years that begin in March: their days follow one rule, the leap day last.
    let day = days + EPOCH;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if !(1..=9999).contains(&year) {
        return at.to_string();
    }
    let (seconds, micros) = (rest / 1_000_000, rest % 1_000_000);
    format!(
        "{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}.{micros:06}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

fn parse_time(text: &str) -> Option<i64> {
    let Some((date, rest)) = text.split_once('T') else {
        return text.parse().ok().filter(|at| time(*at) == text);
    };
    let mut date = date.split('-').map(|n| n.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, micros) = rest.strip_suffix('Z')?.split_once('.')?;
    let mut clock = clock.split(':').map(|n| n.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if !(1..=9999).contains(&year) || !(1..=12).contains(&month) {
        return None;
    }
    let from_march = (month + 9) % 12;
    let year = year - i64::from(month <= 2);
    let days =
        365 * year + year / 4 - year / 100 + year / 400 + (153 * from_march + 2) / 5 + (day - 1)
            - EPOCH;
    let seconds = hour * 3600 + minute * 60 + second;
    let at = days * DAY + seconds * 1_000_000 + micros.parse::<i64>().ok()?;
    (time(at) == text).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head() -> Head {
        Head {
            org: [0x5b; 16],
            size: 1042,
            root: [7; 32],
            at: 0,
            purged: 3,
            previous: Some([9; 32]),
        }
    }

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[42; 32])
    }

    #[test]
    fn a_note_reads_back_and_only_as_it_was_signed() {
        let signed = head().sign(&key());
        let note = signed.note();
        assert_eq!(
            note.lines().take(6).collect::<Vec<_>>(),
            [
                "pg_tenancy/audit/5b5b5b5b-5b5b-5b5b-5b5b-5b5b5b5b5b5b",
                "1042",
                "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=",
                "time 2000-01-01T00:00:00.000000Z",
                "purged 3",
                "previous CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=",
            ]
        );
        let read = Signed::parse(&note).unwrap();
        assert_eq!(read, signed);
        assert!(read.verify(&key().verifying_key()));
        assert!(!read.verify(&SigningKey::from_bytes(&[43; 32]).verifying_key()));
        let other = Signed::parse(&note.replace("1042", "1043")).unwrap();
        assert!(!other.verify(&key().verifying_key()));
        for bad in ["+1042", "01042", "1042 ", "x"] {
            assert!(Signed::parse(&note.replacen("1042", bad, 1)).is_err());
        }
        assert_eq!(
            Signed::parse_all(&format!("\n{note}\n{note}\n")).unwrap(),
            [signed.clone(), signed]
        );
        assert!(Signed::parse_all("\n").is_err());
    }

    #[test]
    fn keys_are_named_as_in_signed_notes() {
        let key = key().verifying_key();
        let text = verifier(&key);
        assert!(text.starts_with("pg_tenancy/audit+"), "{text}");
        assert_eq!(parse_verifier(&text), Some(key));
        assert_eq!(parse_verifier(&text.replace("audit", "audio")), None);
        // RFC 8032, test 1: the key's bytes are the usual ones.
        let secret = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let bytes: Vec<u8> = (0..32)
            .map(|i| u8::from_str_radix(&secret[2 * i..2 * i + 2], 16).unwrap())
            .collect();
        let public = SigningKey::from_bytes(&bytes.try_into().unwrap()).verifying_key();
        assert_eq!(
            STANDARD.encode(public.as_bytes()),
            "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
        );
    }

    #[test]
    fn times() {
        for (at, text) in [
            (0, "2000-01-01T00:00:00.000000Z"),
            (-1, "1999-12-31T23:59:59.999999Z"),
            (5_097_600_000_000, "2000-02-29T00:00:00.000000Z"),
            (848_232_000_000_000, "2026-11-17T12:00:00.000000Z"),
            (i64::MIN, "-9223372036854775808"),
        ] {
            assert_eq!(time(at), text);
            assert_eq!(parse_time(text), Some(at), "{text}");
        }
        for none in [
            "2001-02-29T00:00:00.000000Z",
            "2000-01-01T24:00:00.000000Z",
            "2000-1-1T00:00:00.0Z",
            "-05",
            "",
        ] {
            assert_eq!(parse_time(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn any_head_reads_back(org in any::<[u8; 16]>(), size in 0..u64::MAX >> 1, root in any::<Digest>(), at in any::<i64>(),
                               purged in 0..u64::MAX >> 1, previous in any::<Option<Digest>>(), seed in any::<[u8; 32]>()) {
            let key = SigningKey::from_bytes(&seed);
            let signed = Head { org, size, root, at, purged, previous }.sign(&key);
            let read = Signed::parse(&signed.note()).unwrap();
            prop_assert!(read.verify(&key.verifying_key()));
            prop_assert_eq!(read, signed);
        }

        #[test]
        fn no_text_is_too_strange(text in ".{0,200}", note in any::<bool>()) {
            let text = if note { head().sign(&key()).note().replacen("purged", &text, 1) } else { text };
            Signed::parse_all(&text).ok();
            parse_verifier(&text);
            parse_uuid(&text);
        }
    }
}
