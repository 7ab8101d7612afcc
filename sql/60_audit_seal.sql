-- Tamper evidence: the key that heads are signed with, and the views of what is sealed (spec 6.4). The heads themselves and
-- the sealed leaf hashes lie in schema tenancy_audit, beside the lines, and stay with them.

-- Nobody is granted anything on it, so only a superuser reads it. A dump carries it: a restored log goes on under its key.
CREATE TABLE tenancy.audit_keys (
    key_id     bytea PRIMARY KEY,
    public     bytea NOT NULL CHECK (length(public) = 32),
    secret     bytea CHECK (length(secret) = 32),
    created_at timestamptz NOT NULL,
    retired_at timestamptz,
    CHECK ((secret IS NULL) = (retired_at IS NOT NULL))
);
-- No copy of a secret among the planner's statistics.
ALTER TABLE tenancy.audit_keys ALTER COLUMN secret SET STATISTICS 0;
ALTER TABLE tenancy.audit_keys ENABLE ROW LEVEL SECURITY;
COMMENT ON TABLE tenancy.audit_keys IS 'What heads of the audit logs are signed with; readable by superusers only, see list_audit_keys() (spec 6.4)';
SELECT pg_catalog.pg_extension_config_dump('tenancy.audit_keys', '');

CREATE VIEW tenancy.audit_heads AS
SELECT org_id, number, size, root, at, purged, key_id, head FROM tenancy.list_audit_heads();
COMMENT ON VIEW tenancy.audit_heads IS
    'The signed heads of the current organization''s audit log; reading needs org:audit (spec 6.4)';
GRANT SELECT ON tenancy.audit_heads TO PUBLIC;

CREATE VIEW tenancy.audit_seal_status AS
SELECT org_id, sealed_lines, sealed_at, purged_lines, unsealed_lines, oldest_unsealed, waiting_for
FROM tenancy.list_seal_status();
COMMENT ON VIEW tenancy.audit_seal_status IS
    'How much of the audit log is sealed and what waits: the current organization''s, with org:audit; every one''s for the DBA (spec 6.4)';
GRANT SELECT ON tenancy.audit_seal_status TO PUBLIC;

CREATE FUNCTION tenancy.verify_audit(org uuid DEFAULT NULL, against text DEFAULT NULL)
RETURNS TABLE (finding text, number bigint, at timestamptz, xid xid8, n integer, detail text)
    VOLATILE PARALLEL UNSAFE ROWS 10
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_verify_audit';
COMMENT ON FUNCTION tenancy.verify_audit(uuid, text) IS
    'A row for everything that is wrong with an organization''s audit log, none where it is whole; needs org:audit (spec 6.4)';

CREATE FUNCTION tenancy.verify_completeness(table_name regclass, org uuid DEFAULT NULL)
RETURNS TABLE (finding text, key jsonb, detail text)
    VOLATILE PARALLEL UNSAFE ROWS 10
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_verify_completeness';
COMMENT ON FUNCTION tenancy.verify_completeness(regclass, uuid) IS
    'A row for everything in which a protected table''s rows and the audit log differ; needs org:audit (spec 6.4)';

COMMENT ON FUNCTION tenancy.seal_audit(uuid) IS
    'Numbers the new lines of audit logs and signs the heads of their trees; needs org:audit, all of them: for the DBA (spec 6.4)';
COMMENT ON FUNCTION tenancy.audit_head(uuid) IS
    'The newest signed head of an audit log, to be kept outside of the database; needs org:audit (spec 6.4)';
COMMENT ON FUNCTION tenancy.list_audit_heads(uuid) IS
    'The signed heads of an audit log; needs org:audit (spec 6.4)';
COMMENT ON FUNCTION tenancy.list_audit_keys() IS
    'The public keys that heads of audit logs are signed with (spec 6.4)';
COMMENT ON FUNCTION tenancy.rotate_audit_key() IS
    'Signs heads of audit logs with a new key from now on; for the DBA (spec 6.4)';
COMMENT ON FUNCTION tenancy.audit_inclusion_proof(uuid, bigint, bigint) IS
    'Proves that a line stands in an audit log, to whoever has a head of it; needs org:audit (spec 6.4)';
COMMENT ON FUNCTION tenancy.audit_consistency_proof(uuid, bigint, bigint) IS
    'Proves that an audit log goes on from an older head of it; needs org:audit (spec 6.4)';
COMMENT ON FUNCTION tenancy.list_seal_status(uuid) IS
    'How much of audit logs is sealed and what waits; needs org:audit, all of them: for the DBA (spec 6.4)';
