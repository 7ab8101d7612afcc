//! What an API key is made of: plain Rust, without a server. `pgt_`, the key's id in 32 hexadecimal digits, `_`, and 256
//! random bits in base64url. The id finds the row; of the rest the row has a hash, and since nobody can guess it, one
//! without salt or stretching is enough.

use crate::context::authority::Id;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

pub const PREFIX: &str = "pgt_";
const ID: usize = 32;

pub type Secret = [u8; 32];

/// The key as its owner gets it, once.
pub fn show(id: &Id, secret: &Secret) -> String {
    format!(
        "{PREFIX}{}_{}",
        uuid::Uuid::from_bytes(*id).simple(),
        URL_SAFE_NO_PAD.encode(secret)
    )
}

/// How a key begins, by which people tell it from others. It is no secret.
pub fn beginning(id: &Id) -> String {
    let id = uuid::Uuid::from_bytes(*id).simple().to_string();
    format!("{PREFIX}{}", &id[..8])
}

/// Id and secret of a text that has the form of a key, and no other form of the same.
pub fn parse(text: &str) -> Option<(Id, Secret)> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_at_checked(ID)?;
    let is_id = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    let id = Some(id).filter(|id| id.bytes().all(is_id))?;
    let id = uuid::Uuid::try_parse(id).ok()?;
    let secret = URL_SAFE_NO_PAD.decode(secret.strip_prefix('_')?).ok()?;
    Some((*id.as_bytes(), secret.try_into().ok()?))
}

pub fn hash(secret: &Secret) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// Whether the hash is the secret's, in the same time whatever they are.
pub fn is_of(hash: &[u8; 32], secret: &Secret) -> bool {
    let given = self::hash(secret);
    let differ = hash
        .iter()
        .zip(&given)
        .fold(0, |differ, (a, b)| std::hint::black_box(differ | (a ^ b)));
    differ == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Id = [0xAB; 16];
    const SECRET: Secret = [0xFF; 32];

    #[test]
    fn what_is_shown_is_read() {
        let key = show(&ID, &SECRET);
        assert_eq!(key.len(), 80);
        assert!(key.starts_with(&beginning(&ID)), "{key}");
        assert_eq!(parse(&key), Some((ID, SECRET)));
        assert!(is_of(&hash(&SECRET), &SECRET));
        let mut other = SECRET;
        other[31] ^= 1;
        assert!(!is_of(&hash(&SECRET), &other));
        assert!(!is_of(&[0; 32], &SECRET));
    }

    #[test]
    fn nothing_else_has_the_form_of_a_key() {
        let key = show(&ID, &SECRET);
        for cut in 0..key.len() {
            assert_eq!(parse(&key[..cut]), None, "{cut}");
        }
        for other in [
            format!("{key}A"),
            format!(" {key}"),
            key.to_uppercase(),
            key.replace("pgt_", "pgu_"),
            key.replacen("_", "-", 2),
            format!("{key}="),
            // The last digit has bits to spare, which must be 0.
            format!("{}9", &key[..key.len() - 1]),
            key.replace("ab", "xy"),
            "pgt_ü".repeat(20),
        ] {
            assert_eq!(parse(&other), None, "{other}");
        }
    }
}
