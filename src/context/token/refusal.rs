//! Why a token was refused, for the developer who sent it. What an unverified token says is not repeated, and of a key
//! nothing is said but whether its id is known.

use super::verify::{Fault, LONGEST};
use crate::context::authority::Id;
use crate::pg::error::server_log;
use crate::pg::fail;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// 28000: the token proves nothing.
pub fn refused(detail: &str, hint: &str) -> ErrorReport {
    let message = "authentication failed: the token is refused";
    server_log(message, detail);
    fail(
        PgSqlErrorCode::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
        message,
    )
    .set_detail(detail)
    .set_hint(hint)
}

pub fn unknown_key() -> ErrorReport {
    refused(
        "No signing key has the key id (kid) that the token names.",
        "Sign with a key that a DBA added with tenancy.add_signing_key(), under the same kid.",
    )
}

pub fn retired_key() -> ErrorReport {
    refused(
        "The signing key that the token names has been retired.",
        "Sign with the key that took its place.",
    )
}

pub fn unknown_user() -> ErrorReport {
    refused(
        "The token's subject (sub) names no user.",
        "The key's subject setting says what sub must be: the id or external key of a user that tenancy.create_user() made, or the sso_subject.",
    )
}

/// Of a key that was sent the client hears one and the same, whatever is wrong with it. Its id is no secret.
pub fn api_key(id: Option<Id>, why: &str) -> ErrorReport {
    let message = "authentication failed: the API key is refused";
    let key = id.map_or("?".to_string(), |id| {
        uuid::Uuid::from_bytes(id).hyphenated().to_string()
    });
    server_log(message, &format!("API key {key}: {why}."));
    fail(
        PgSqlErrorCode::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
        message,
    )
    .set_detail("It is no key, has expired or was revoked, or its service account is disabled.")
    .set_hint("Somebody with team:role makes a new one: tenancy.create_api_key(). The server's log says what is wrong with this one.")
}

impl Fault {
    pub fn report(self) -> ErrorReport {
        let (detail, hint) = match self {
            Fault::TooLong => (
                format!("It is longer than {LONGEST} bytes."),
                "Leave out of it what the database does not need.",
            ),
            Fault::Malformed => (
                "It is not a signed JWT with the algorithm HS256, EdDSA or ES256.".into(),
                "Send the three parts as they were issued, header.claims.signature, without the word Bearer.",
            ),
            Fault::NoKid => (
                "Its header names no key id (kid).".into(),
                "Let the issuer set kid to the name the key was given in tenancy.add_signing_key().",
            ),
            Fault::Critical => (
                "Its header demands an extension (crit) that is not understood here.".into(),
                "Issue it without crit.",
            ),
            Fault::WrongAlgorithm => (
                "It is not signed with the algorithm of the key that it names.".into(),
                "tenancy.list_signing_keys() shows a DBA which algorithm the key has.",
            ),
            Fault::BadSignature => (
                "Its signature does not match.".into(),
                "It was changed on the way, or signed with another key than the one of its kid.",
            ),
            Fault::Claims => (
                "A claim is missing or not of its kind: sub and org are texts of 1 to 255 bytes, exp, nbf and iat are numbers of seconds, actor_type is human, ai or service.".into(),
                "exp and sub are required.",
            ),
            Fault::MissingClaim => (
                "A required claim is missing: exp, sub, aud, and iss where the key has an issuer.".into(),
                "Let the issuer add it.",
            ),
            Fault::WrongAudience => (
                "Its audience (aud) is not the key's.".into(),
                "It was issued for another service; tenancy.list_signing_keys() shows a DBA the audience.",
            ),
            Fault::WrongIssuer => (
                "Its issuer (iss) is not the key's.".into(),
                "tenancy.list_signing_keys() shows a DBA the issuer.",
            ),
            Fault::Expired => ("It has expired (exp).".into(), "Get a new one from the issuer."),
            Fault::NotYet => (
                "It is not valid yet (nbf or iat is in the future).".into(),
                "Compare the issuer's clock with the server's; tenancy.token_leeway allows for a difference.",
            ),
        };
        refused(&detail, hint)
    }
}
