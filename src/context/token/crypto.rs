//! The three signatures a token may carry, verified by RustCrypto behind jsonwebtoken's interface.
//!
//! A key is parsed for one algorithm and holds that algorithm's bytes only, so a public key can never be taken for a
//! secret (algorithm confusion), nor a key of one curve for another's.

use super::verify::Algorithm;
use ed25519_dalek::pkcs8::DecodePublicKey;
use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::{Algorithm as Named, AlgorithmFamily, DecodingKey};
use p256::ecdsa::signature::Verifier as _;
use sha2::Sha256;
use signature::Error;

/// RFC 7518, 3.2: a secret no shorter than the hash. A shorter one can be guessed offline from a single token.
pub const SHORTEST_SECRET: usize = 32;
pub const LONGEST_KEY: usize = 4096;

/// Why a key was not taken. Nothing of the key is in here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadKey {
    TooShort,
    TooLong,
    /// A private key where the public one belongs.
    Private,
    /// A public key where a secret belongs: whoever knows it, everybody, could sign.
    PublicAsSecret,
    /// Not a public key of this algorithm.
    Unreadable,
}

/// The bytes that verify: the secret itself for HS256; for the others the public key in its one canonical form.
pub fn parse_key(algorithm: Algorithm, given: &[u8]) -> std::result::Result<Vec<u8>, BadKey> {
    if given.len() > LONGEST_KEY {
        return Err(BadKey::TooLong);
    }
    let text = std::str::from_utf8(given).unwrap_or_default();
    let pem = text.contains("-----BEGIN ");
    if pem && text.contains("PRIVATE KEY") {
        return Err(BadKey::Private);
    }
    match algorithm {
        Algorithm::Hs256 if given.len() < SHORTEST_SECRET => Err(BadKey::TooShort),
        Algorithm::Hs256 if pem || ed25519(given).is_some() || p256(given).is_some() => {
            Err(BadKey::PublicAsSecret)
        }
        Algorithm::Hs256 => Ok(given.to_vec()),
        Algorithm::EdDsa => from_text(text, given, ed25519)
            .filter(|key| !key.is_weak())
            .map(|key| key.to_bytes().to_vec())
            .ok_or(BadKey::Unreadable),
        Algorithm::Es256 => from_text(text, given, p256)
            .map(|key| key.to_sec1_point(false).as_bytes().to_vec())
            .ok_or(BadKey::Unreadable),
    }
}

fn ed25519(der: &[u8]) -> Option<ed25519_dalek::VerifyingKey> {
    ed25519_dalek::VerifyingKey::from_public_key_der(der).ok()
}

fn p256(der: &[u8]) -> Option<p256::ecdsa::VerifyingKey> {
    p256::ecdsa::VerifyingKey::from_public_key_der(der).ok()
}

/// PEM or DER, as `openssl pkey -pubout` writes them.
fn from_text<K: DecodePublicKey>(
    text: &str,
    given: &[u8],
    der: fn(&[u8]) -> Option<K>,
) -> Option<K> {
    K::from_public_key_pem(text.trim())
        .ok()
        .or_else(|| der(given))
}

struct Hs256(Hmac<Sha256>);
struct EdDsa(ed25519_dalek::VerifyingKey);
struct Es256(p256::ecdsa::VerifyingKey);

impl signature::Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        // Compares in constant time.
        self.0
            .clone()
            .chain_update(message)
            .verify_slice(signature)
            .map_err(|_| Error::new())
    }
}

impl signature::Verifier<Vec<u8>> for EdDsa {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let signature =
            ed25519_dalek::Signature::from_slice(signature).map_err(|_| Error::new())?;
        self.0
            .verify_strict(message, &signature)
            .map_err(|_| Error::new())
    }
}

impl signature::Verifier<Vec<u8>> for Es256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let signature = p256::ecdsa::Signature::from_slice(signature).map_err(|_| Error::new())?;
        self.0.verify(message, &signature).map_err(|_| Error::new())
    }
}

macro_rules! named {
    ($($verifier:ident => $name:ident),*) => {$(
        impl JwtVerifier for $verifier {
            fn algorithm(&self) -> Named {
                Named::$name
            }
        }
    )*};
}
named!(Hs256 => HS256, EdDsa => EdDSA, Es256 => ES256);

/// The key made ready for jsonwebtoken; its family says for which algorithm alone.
pub fn decoding_key(algorithm: Algorithm, bytes: &[u8]) -> DecodingKey {
    match algorithm {
        Algorithm::Hs256 => DecodingKey::from_secret(bytes),
        Algorithm::EdDsa => DecodingKey::from_ed_der(bytes),
        Algorithm::Es256 => DecodingKey::from_ec_der(bytes),
    }
}

fn verifier(algorithm: &Named, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    let bytes = key.try_get_as_bytes()?;
    match (algorithm, key.family()) {
        (Named::HS256, AlgorithmFamily::Hmac) => Ok(Box::new(Hs256(
            Hmac::new_from_slice(bytes).map_err(|_| ErrorKind::InvalidKeyFormat)?,
        ))),
        (Named::EdDSA, AlgorithmFamily::Ed) => {
            let bytes = bytes.try_into().map_err(|_| ErrorKind::InvalidEddsaKey)?;
            let key = ed25519_dalek::VerifyingKey::from_bytes(bytes)
                .map_err(|_| ErrorKind::InvalidEddsaKey)?;
            Ok(Box::new(EdDsa(key)))
        }
        (Named::ES256, AlgorithmFamily::Ec) => {
            let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(bytes)
                .map_err(|_| ErrorKind::InvalidEcdsaKey)?;
            Ok(Box::new(Es256(key)))
        }
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    }
}

static PROVIDER: CryptoProvider = CryptoProvider {
    // Nothing is ever signed here.
    signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

/// Before the first token. Once per process; a second call changes nothing.
pub fn install() {
    PROVIDER.install_default().ok();
}
