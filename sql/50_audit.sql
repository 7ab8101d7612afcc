-- Ways to the audit log beside audit_log and read_audit(): each checks its caller itself.

CREATE FUNCTION tenancy.read_audit_dba(
    since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, actor uuid DEFAULT NULL,
    object text DEFAULT NULL, operation text DEFAULT NULL, max_rows bigint DEFAULT NULL, org uuid DEFAULT NULL)
RETURNS SETOF tenancy.audit_entry
    VOLATILE PARALLEL UNSAFE ROWS 10000
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_read_audit_dba';
COMMENT ON FUNCTION tenancy.read_audit_dba(timestamptz, timestamptz, uuid, text, text, bigint, uuid) IS
    'The audit logs of all organizations, or of one, filtered, each with a line about being read; for the DBA (spec 6.3)';

CREATE VIEW tenancy.audit_dba AS
SELECT at, org_id, actor_id, actor_type, approver_id, db_role, operation, object, key, old, new,
       result, client_addr, request_id, xid, n, break_glass
FROM tenancy.read_audit_dba();
COMMENT ON VIEW tenancy.audit_dba IS
    'The audit logs of all organizations, each with a line about being read; for the DBA (spec 6.3)';
GRANT SELECT ON tenancy.audit_dba TO PUBLIC;

CREATE FUNCTION tenancy.history(table_name text, key jsonb DEFAULT NULL)
RETURNS SETOF tenancy.audit_entry
    VOLATILE PARALLEL UNSAFE ROWS 10
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_history';
COMMENT ON FUNCTION tenancy.history(text, jsonb) IS
    'The lines of the current organization''s log about a table''s row, oldest first; needs org:audit (spec 6.2)';

CREATE FUNCTION tenancy.as_of(table_name text, key jsonb, at timestamptz) RETURNS jsonb
    VOLATILE PARALLEL UNSAFE
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_as_of';
COMMENT ON FUNCTION tenancy.as_of(text, jsonb, timestamptz) IS
    'What a row of the current organization was at a time, NULL where there was none; needs org:audit (spec 6.2)';

CREATE FUNCTION tenancy.export_audit(
    format text DEFAULT 'ndjson', since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, evidence boolean DEFAULT false)
RETURNS SETOF text
    VOLATILE PARALLEL UNSAFE ROWS 1000
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_export_audit';
COMMENT ON FUNCTION tenancy.export_audit(text, timestamptz, timestamptz, boolean) IS
    'The current organization''s log as lines of NDJSON or CSV; needs org:audit_export, and is itself logged (spec 6.3)';

CREATE TABLE tenancy.audit_retention (
    org_id      uuid PRIMARY KEY REFERENCES tenancy.orgs (id) ON DELETE CASCADE,
    keep_days   integer CHECK (keep_days >= 1),
    legal_hold  boolean NOT NULL DEFAULT false,
    hold_reason text
);
COMMENT ON TABLE tenancy.audit_retention IS
    'For how many days each organization''s audit log is kept, and whether a legal hold keeps it (spec 6.5)';
ALTER TABLE tenancy.audit_retention ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON tenancy.audit_retention TO PUBLIC;
CREATE POLICY auditors ON tenancy.audit_retention FOR SELECT USING (org_id = tenancy.org_if('org:audit'));
SELECT pg_catalog.pg_extension_config_dump('tenancy.audit_retention', '');
