//! Whether a token is genuine, for us, and of this time: plain Rust, without a server.
//!
//! jsonwebtoken reads the token, holds it to the key's one algorithm, and checks signature, audience and issuer. The
//! times are compared here, by PostgreSQL's clock and in its microseconds, since the same comparison is made again at
//! each statement of a session whose token is still in force.

use super::crypto;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};
use serde::Deserialize;

/// A token that carries a user, an organization and the usual claims has about 500 bytes.
pub const LONGEST: usize = 8192;
/// As for the settings that name organizations and users.
pub const LONGEST_NAME: usize = 255;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    Hs256,
    EdDsa,
    Es256,
}

impl Algorithm {
    pub const ALL: [Algorithm; 3] = [Algorithm::Hs256, Algorithm::EdDsa, Algorithm::Es256];

    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Hs256 => "HS256",
            Algorithm::EdDsa => "EdDSA",
            Algorithm::Es256 => "ES256",
        }
    }

    pub fn named(name: &str) -> Option<Algorithm> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }

    fn of_jsonwebtoken(self) -> jsonwebtoken::Algorithm {
        match self {
            Algorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
            Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
        }
    }
}

/// What a key's `sub` names. Guessing between the two would let whoever may choose his name at an identity provider
/// choose another's uuid or key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    /// The user's uuid or external key, as in app.current_user_id.
    User,
    /// The user's sso_subject.
    Sso,
}

impl Subject {
    /// What the table holds; nothing else passes its check.
    pub fn named(name: &str) -> Subject {
        match name {
            "sso_subject" => Subject::Sso,
            _ => Subject::User,
        }
    }
}

/// A key, and which tokens it is good for. No Debug: it may hold a secret.
#[derive(PartialEq, Eq)]
pub struct Key {
    pub algorithm: Algorithm,
    pub bytes: Vec<u8>,
    pub audience: String,
    pub issuer: Option<String>,
    pub subject: Subject,
}

/// What a genuine token says.
#[derive(Clone, PartialEq, Debug)]
pub struct Statement {
    pub subject: String,
    pub org: Option<String>,
    pub actor_type: &'static str,
    /// Microseconds since 2000, the leeway included.
    pub until: i64,
}

/// Why a token is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    TooLong,
    Malformed,
    NoKid,
    Critical,
    WrongAlgorithm,
    BadSignature,
    Claims,
    MissingClaim,
    WrongAudience,
    WrongIssuer,
    Expired,
    NotYet,
}

/// The key id that a token names, before anything of it is believed.
pub fn key_id(token: &str) -> Result<String, Fault> {
    if token.len() > LONGEST {
        return Err(Fault::TooLong);
    }
    let header = decode_header(token).map_err(|_| Fault::Malformed)?;
    // RFC 7515, 4.1.11: an extension that is not understood must be refused, and none is.
    if header.crit.is_some() {
        return Err(Fault::Critical);
    }
    header.kid.filter(|kid| is_name(kid)).ok_or(Fault::NoKid)
}

/// A text that can be a name: not empty, not long, and nothing that could hide in a log line.
pub fn is_name(text: &str) -> bool {
    (1..=LONGEST_NAME).contains(&text.len()) && !text.chars().any(char::is_control)
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    nbf: Option<f64>,
    iat: Option<f64>,
    org: Option<String>,
    actor_type: Option<String>,
}

/// Seconds since 1970 as PostgreSQL counts, saturating.
fn instant(seconds: f64) -> i64 {
    const UNIX_TO_POSTGRES: f64 = 946_684_800.0;
    ((seconds - UNIX_TO_POSTGRES) * 1e6) as i64
}

/// `now` and `leeway` in microseconds.
pub fn verify(token: &str, key: &Key, now: i64, leeway: i64) -> Result<Statement, Fault> {
    if token.len() > LONGEST {
        return Err(Fault::TooLong);
    }
    crypto::install();
    let mut rules = Validation::new(key.algorithm.of_jsonwebtoken());
    rules.validate_exp = false;
    rules.validate_nbf = false;
    rules.set_audience(&[&key.audience]);
    let mut required = vec!["exp", "aud", "sub"];
    if let Some(issuer) = &key.issuer {
        rules.set_issuer(&[issuer]);
        required.push("iss");
    }
    rules.set_required_spec_claims(&required);

    let verifying = crypto::decoding_key(key.algorithm, &key.bytes);
    let claims = decode::<Claims>(token, &verifying, &rules)
        .map_err(|e| fault(e.kind()))?
        .claims;

    let until = instant(claims.exp).saturating_add(leeway);
    if until <= now {
        return Err(Fault::Expired);
    }
    let starts = [claims.nbf, claims.iat];
    if starts
        .into_iter()
        .flatten()
        .any(|from| instant(from).saturating_sub(leeway) > now)
    {
        return Err(Fault::NotYet);
    }
    let names_are_names = is_name(&claims.sub) && claims.org.as_deref().is_none_or(is_name);
    let actor_type = match claims.actor_type.as_deref() {
        None | Some("human") => Some("human"),
        Some("ai") => Some("ai"),
        Some("service") => Some("service"),
        Some(_) => None,
    };
    match actor_type.filter(|_| names_are_names) {
        None => Err(Fault::Claims),
        Some(actor_type) => Ok(Statement {
            subject: claims.sub,
            org: claims.org,
            actor_type,
            until,
        }),
    }
}

fn fault(kind: &ErrorKind) -> Fault {
    match kind {
        ErrorKind::InvalidAlgorithm => Fault::WrongAlgorithm,
        ErrorKind::InvalidSignature => Fault::BadSignature,
        ErrorKind::InvalidAudience => Fault::WrongAudience,
        ErrorKind::InvalidIssuer => Fault::WrongIssuer,
        ErrorKind::MissingRequiredClaim(_) => Fault::MissingClaim,
        // The signature is verified before the claims are read, so this is the signer's own mistake.
        ErrorKind::Json(_) | ErrorKind::Utf8(_) | ErrorKind::InvalidClaimFormat(_) => Fault::Claims,
        _ => Fault::Malformed,
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
