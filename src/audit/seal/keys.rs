//! The key that heads are signed with. It lies in a table that only a superuser reads, and a dump carries it, so that a
//! restored log goes on under the same key. Whoever reads it can sign any head: what that is worth is said where heads
//! are handed out, see docs/audit-proofs.md.

use crate::pg::query::{Arg, execute, latest};
use crate::pg::{self, catalog, fail, horizon};
use pg_tenancy_audit_format::head::{KeyId, SigningKey, VerifyingKey, key_id};
use pgrx::prelude::*;

fn found() -> Option<[u8; 32]> {
    latest(
        "SELECT secret FROM tenancy.audit_keys WHERE retired_at IS NULL ORDER BY created_at DESC, key_id LIMIT 1",
        &[],
        |row| row.get::<Vec<u8>>(1).and_then(|b| b.try_into().ok()),
    )
    .pop()
    .flatten()
}

/// The key in use, made when the first head is signed.
pub fn signing_key() -> pg::Result<(KeyId, SigningKey)> {
    let secret = match found() {
        Some(secret) => secret,
        None => {
            lock()?;
            match found() {
                Some(secret) => secret,
                None => make(),
            }
        }
    };
    let key = SigningKey::from_bytes(&secret);
    Ok((key_id(&key.verifying_key()), key))
}

fn lock() -> pg::Result<()> {
    let table = catalog::namespace(c"tenancy")
        .and_then(|schema| catalog::relation_in(schema, c"audit_keys"))
        .ok_or_else(|| {
            fail(
                PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
                "table tenancy.audit_keys is missing",
            )
            .set_detail("The heads of the audit logs are signed with a key in it.")
            .set_hint("ALTER EXTENSION pg_tenancy UPDATE.")
        })?;
    horizon::lock(table, 0, true);
    Ok(())
}

fn make() -> [u8; 32] {
    let secret: [u8; 32] = pg::random();
    let public = SigningKey::from_bytes(&secret).verifying_key();
    execute(
        "INSERT INTO tenancy.audit_keys (key_id, public, secret, created_at) VALUES ($1, $2, $3, pg_catalog.clock_timestamp())",
        &[
            Arg::Bytes(&key_id(&public)),
            Arg::Bytes(public.as_bytes()),
            Arg::Bytes(&secret),
        ],
    );
    secret
}

/// Makes a new key; the one before it verifies and signs no more.
pub fn rotate() -> pg::Result<KeyId> {
    lock()?;
    execute(
        "UPDATE tenancy.audit_keys SET retired_at = pg_catalog.clock_timestamp(), secret = NULL WHERE retired_at IS NULL",
        &[],
    );
    let key = SigningKey::from_bytes(&make()).verifying_key();
    Ok(key_id(&key))
}

/// The key of this id, whether it signs still or not.
pub fn verifying_key(id: &KeyId) -> Option<VerifyingKey> {
    latest(
        "SELECT public FROM tenancy.audit_keys WHERE key_id OPERATOR(pg_catalog.=) $1",
        &[Arg::Bytes(id)],
        |row| row.get::<Vec<u8>>(1).and_then(|b| b.try_into().ok()),
    )
    .pop()
    .flatten()
    .and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok())
}
