//! Signed tokens as an issuer makes them, put together by hand: what the extension reads them with is not used here.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::Signer;
use hmac::{Hmac, KeyInit, Mac};
use p256::pkcs8::{EncodePublicKey, LineEnding};
use serde_json::{Value, json};
use sha2::Sha256;

/// Who signs, under which key id.
pub struct Issuer {
    pub kid: String,
    pub algorithm: &'static str,
    /// HS256: the secret. Else the private key.
    seed: [u8; 32],
}

pub const AUDIENCE: &str = "https://db.example";

impl Issuer {
    pub fn new(kid: &str, algorithm: &'static str) -> Issuer {
        let mut seed = [7; 32];
        for (at, byte) in kid.bytes().take(31).enumerate() {
            seed[at] = byte | 1;
        }
        Issuer {
            kid: kid.into(),
            algorithm,
            seed,
        }
    }

    fn ed(&self) -> ed25519_dalek::SigningKey {
        ed25519_dalek::SigningKey::from_bytes(&self.seed)
    }

    fn ec(&self) -> p256::ecdsa::SigningKey {
        p256::ecdsa::SigningKey::from_slice(&self.seed).expect("a scalar")
    }

    /// What the database is given: the secret, or the public key as PEM.
    pub fn key(&self) -> Vec<u8> {
        match self.algorithm {
            "HS256" => self.seed.to_vec(),
            "EdDSA" => {
                let public = self.ed().verifying_key();
                public
                    .to_public_key_pem(LineEnding::LF)
                    .expect("PEM")
                    .into()
            }
            _ => {
                let public = p256::PublicKey::from(self.ec().verifying_key());
                public
                    .to_public_key_pem(LineEnding::LF)
                    .expect("PEM")
                    .into()
            }
        }
    }

    /// The statement that gives the key to the database.
    pub fn add(&self) -> String {
        format!(
            "SELECT tenancy.add_signing_key('{}', '{}', '{}', '{AUDIENCE}')",
            self.kid,
            self.algorithm,
            hex(&self.key())
        )
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self.algorithm {
            "HS256" => hmac(&self.seed, message),
            "EdDSA" => self.ed().sign(message).to_bytes().to_vec(),
            _ => {
                let signature: p256::ecdsa::Signature = self.ec().sign(message);
                signature.to_bytes().to_vec()
            }
        }
    }

    /// A token of these claims; `exp` in an hour and `aud` unless given.
    pub fn token(&self, claims: Value) -> String {
        let mut all = json!({"aud": AUDIENCE, "exp": now() + 3600});
        for (name, value) in claims.as_object().expect("an object") {
            all[name] = value.clone();
        }
        let header = json!({"alg": self.algorithm, "kid": self.kid, "typ": "JWT"});
        assemble(&header, all.to_string().as_bytes(), |m| self.sign(m))
    }
}

/// Header, claims and whatever signs them.
pub fn assemble(header: &Value, claims: &[u8], sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let message = format!("{}.{}", part(header.to_string().as_bytes()), part(claims));
    format!("{message}.{}", part(&sign(message.as_bytes())))
}

pub fn hmac(secret: &[u8], message: &[u8]) -> Vec<u8> {
    let mac: Hmac<Sha256> = Hmac::new_from_slice(secret).expect("any length");
    mac.chain_update(message).finalize().into_bytes().to_vec()
}

/// A bytea literal's text.
pub fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("\\x{digits}")
}

/// Seconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    since.as_secs() as i64
}
