//! The keys that verify signed tokens (spec 4): added, listed, retired. Several are good at once, so that an issuer can
//! change over: add the new one, let it sign, retire the old one when its last token has expired.

use super::invalid;
use super::logins::require_administrator;
use crate::context::token::crypto::{BadKey, LONGEST_KEY, SHORTEST_SECRET, parse_key};
use crate::context::token::{Algorithm, is_name};
use crate::pg::query::{Arg, execute, latest};
use crate::pg::{self, error, fail};
use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// Adds a key that verifies tokens (spec 4). For the DBA: whoever can sign with it can be any user.
///
/// `kid`: what a token's header calls the key; never given twice, not after retirement either.
/// `algorithm`: HS256, EdDSA (Ed25519) or ES256; the key verifies tokens of this one only.
/// `key`: HS256: the secret, 32 to 4096 bytes; else the public key as PEM or DER (SubjectPublicKeyInfo).
/// `audience`: what `aud` must name. `issuer`: what `iss` must be; NULL asks for none.
/// `subject`: what `sub` is: user (the uuid or external key, as in app.current_user_id) or sso_subject.
/// The server's log may hold the text of a statement: pass a secret by `pg_read_binary_file()`, or use EdDSA or ES256,
/// of which the database needs the public key only.
/// Errors: 42501 not the DBA, 22023 an argument that is none of these, 23505 the kid is or was in use.
#[pg_extern(volatile, parallel_unsafe)]
fn add_signing_key(
    kid: Option<&str>,
    algorithm: Option<&str>,
    key: Option<&[u8]>,
    audience: Option<&str>,
    issuer: default!(Option<&str>, "NULL"),
    subject: default!(Option<&str>, "'user'"),
) -> pg::Result<()> {
    error::discreetly(|| {
        let kid = pg::given(kid, "kid")?;
        let algorithm = pg::given(algorithm, "algorithm")?;
        let key = pg::given(key, "key")?;
        let audience = pg::given(audience, "audience")?;
        let subject = pg::given(subject, "subject")?;
        require_administrator("add a signing key")?;
        let algorithm = Algorithm::named(algorithm).ok_or_else(|| {
            invalid(
                "unknown algorithm",
                "A signing key is for HS256, EdDSA or ES256.",
                "Prefer EdDSA or ES256: then nothing in the database can sign.",
            )
        })?;
        if ![Some(kid), Some(audience), issuer]
            .into_iter()
            .flatten()
            .all(is_name)
        {
            return Err(invalid(
                "kid, audience and issuer must be names",
                "They are 1 to 255 bytes long and have no control characters.",
                "They must equal what the issuer writes into kid, aud and iss.",
            ));
        }
        if !matches!(subject, "user" | "sso_subject") {
            return Err(invalid(
                "unknown kind of subject",
                "The subject of a token is a user (uuid or external key) or an sso_subject.",
                "Use subject => 'sso_subject' for the tokens of an identity provider.",
            ));
        }
        let bytes = parse_key(algorithm, key).map_err(|why| bad_key(algorithm, why))?;
        let added = execute(
            "INSERT INTO tenancy.signing_keys (kid, algorithm, verifier, audience, issuer, subject)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (kid) DO NOTHING",
            &[
                Arg::Text(kid),
                Arg::Text(algorithm.name()),
                Arg::Bytes(&bytes),
                Arg::Text(audience),
                Arg::OptionalText(issuer),
                Arg::Text(subject),
            ],
        );
        if added == 0 {
            return Err(fail(
                PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
                "a signing key of this id exists or existed",
            )
            .set_detail("Tokens name their key by its id, so an id never changes its key.")
            .set_hint(
                "Choose another kid; SELECT * FROM tenancy.list_signing_keys() shows those taken.",
            ));
        }
        Ok(())
    })
}

fn bad_key(algorithm: Algorithm, why: BadKey) -> ErrorReport {
    let wanted = match algorithm {
        Algorithm::Hs256 => {
            format!("HS256 takes a secret of {SHORTEST_SECRET} to {LONGEST_KEY} random bytes.")
        }
        Algorithm::EdDsa => "EdDSA takes an Ed25519 public key as PEM or DER.".into(),
        Algorithm::Es256 => "ES256 takes a P-256 public key as PEM or DER.".into(),
    };
    let (detail, hint) = match why {
        BadKey::TooShort => ("The secret is too short to be safe.", wanted),
        BadKey::TooLong => ("It is too long to be a key.", wanted),
        BadKey::Unreadable => ("It is not a public key of this algorithm.", wanted),
        BadKey::Private => (
            "It is a private key, which does not belong into the database.",
            format!("{wanted} If this one was sent here, make a new pair."),
        ),
        BadKey::PublicAsSecret => (
            "It is a public key: whoever knows it could sign.",
            "Name the algorithm it is for: EdDSA or ES256.".into(),
        ),
    };
    invalid("the signing key is not taken", detail, &hint)
}

/// Ends a signing key (spec 4): its tokens are refused, and sessions that one speaks for are nobody from their next
/// statement on. What it verified with is deleted. For the DBA. Errors: 42501 not the DBA, 42704 no such key in use.
#[pg_extern(volatile, parallel_unsafe)]
fn retire_signing_key(kid: Option<&str>) -> pg::Result<()> {
    let kid = pg::given(kid, "kid")?;
    require_administrator("retire a signing key")?;
    let retired = execute(
        "UPDATE tenancy.signing_keys SET verifier = NULL, retired_at = pg_catalog.now()
         WHERE kid OPERATOR(pg_catalog.=) $1 AND retired_at IS NULL",
        &[Arg::Text(kid)],
    );
    if retired == 0 {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            "no signing key of this id is in use",
        )
        .set_detail("It was never added, or is retired already.")
        .set_hint("SELECT * FROM tenancy.list_signing_keys()."));
    }
    Ok(())
}

/// The signing keys, retired ones included, without secrets; the public key of EdDSA and ES256 in its shortest form
/// (spec 4). For the DBA. Errors: 42501 not the DBA.
#[pg_extern(stable, parallel_unsafe)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
fn list_signing_keys() -> pg::Result<
    TableIterator<
        'static,
        (
            name!(kid, String),
            name!(algorithm, String),
            name!(audience, String),
            name!(issuer, Option<String>),
            name!(subject, String),
            name!(public_key, Option<Vec<u8>>),
            name!(created_at, Option<TimestampWithTimeZone>),
            name!(retired_at, Option<TimestampWithTimeZone>),
        ),
    >,
> {
    require_administrator("list the signing keys")?;
    let rows = latest(
        "SELECT kid, algorithm, audience, issuer, subject,
                CASE WHEN algorithm OPERATOR(pg_catalog.<>) 'HS256' THEN verifier END, created_at, retired_at
         FROM tenancy.signing_keys ORDER BY created_at, kid",
        &[],
        |row| {
            let text = |n| row.get::<String>(n).unwrap_or_default();
            (
                text(1),
                text(2),
                text(3),
                row.get::<String>(4),
                text(5),
                row.get::<Vec<u8>>(6),
                row.get::<TimestampWithTimeZone>(7),
                row.get::<TimestampWithTimeZone>(8),
            )
        },
    );
    Ok(TableIterator::new(rows))
}
