-- What AI actors propose to write, and what became of it (spec 8). Rows are made and moved on by functions that check.

CREATE TABLE tenancy.proposal_records (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id       uuid NOT NULL REFERENCES tenancy.orgs (id) ON DELETE CASCADE,
    state        text NOT NULL CHECK (state IN ('draft', 'pending', 'approved', 'rejected', 'executing', 'completed', 'failed')),
    action       text NOT NULL,
    -- Whatever else the change needs, and the first one again.
    actions      text[] NOT NULL,
    -- By its number in the catalog: a table that takes the name over is another one.
    table_name   regclass NOT NULL,
    operation    text NOT NULL CHECK (operation IN ('insert', 'update', 'delete')),
    key          jsonb CHECK ((key IS NULL) = (operation = 'insert')),
    payload      jsonb CHECK ((payload IS NULL) = (operation = 'delete')),
    summary      text NOT NULL CHECK (length(summary) BETWEEN 1 AND 2000),
    risk         text NOT NULL CHECK (risk IN ('safe', 'caution', 'destructive')),
    created_by   uuid,
    actor_type   text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at   timestamptz NOT NULL,
    submitted_at timestamptz,
    approver     uuid,
    decided_at   timestamptz,
    reason       text,
    executed_at  timestamptz,
    error        text,
    -- What the row was: a salted hash of all its columns, and the table as it was then.
    seen         bytea CHECK ((seen IS NULL) = (operation = 'insert')),
    layout       jsonb NOT NULL,
    -- Those that the row belongs to and will; NULL where the table has none.
    projects     uuid[],
    submitted_in xid8,
    on_change    text NOT NULL DEFAULT 'refuse' CHECK (on_change IN ('refuse', 'accept')),
    -- The hash of what was approved.
    approved     bytea,
    CHECK (state <> 'approved' OR approver IS NOT NULL AND approved IS NOT NULL)
);
CREATE INDEX proposal_records_org_idx ON tenancy.proposal_records (org_id, state);
COMMENT ON TABLE tenancy.proposal_records IS
    'What AI actors propose to write, for whom, and who approved it; the view proposals shows it (spec 8)';
ALTER TABLE tenancy.proposal_records ENABLE ROW LEVEL SECURITY;
-- All but what was hashed of the row: values of columns that the reader may not see are not to be found by trying.
GRANT SELECT (id, org_id, state, action, actions, table_name, operation, key, payload, summary, risk, created_by, actor_type,
              created_at, expires_at, submitted_at, approver, decided_at, reason, executed_at, error, layout, projects,
              submitted_in, on_change, approved) ON tenancy.proposal_records TO PUBLIC;
CREATE POLICY current_org ON tenancy.proposal_records FOR SELECT
    USING (org_id = tenancy.current_org() AND tenancy.sees_proposal(table_name, created_by, projects));
SELECT pg_catalog.pg_extension_config_dump(
    'tenancy.proposal_records', 'WHERE EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = table_name)');

-- A proposal expires by itself, also where nobody looks.
CREATE VIEW tenancy.proposals WITH (security_invoker = true) AS
SELECT id, org_id,
       CASE WHEN state IN ('draft', 'pending', 'approved') AND expires_at <= clock_timestamp() THEN 'expired' ELSE state END AS state,
       action, table_name, operation, key, payload, summary, risk, created_by, actor_type, created_at, expires_at,
       submitted_at, approver, decided_at, reason, executed_at, error, on_change
FROM tenancy.proposal_records;
COMMENT ON VIEW tenancy.proposals IS
    'The proposals of the current organization, for who may use or approve the AI there (spec 8)';
GRANT SELECT ON tenancy.proposals TO PUBLIC;
CREATE FUNCTION tenancy.propose(
    table_name regclass, operation text, summary text, key text DEFAULT NULL, payload jsonb DEFAULT NULL,
    action text DEFAULT NULL, risk text DEFAULT NULL, expires_in interval DEFAULT '1 day')
RETURNS uuid VOLATILE PARALLEL UNSAFE
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_propose';
COMMENT ON FUNCTION tenancy.propose(regclass, text, text, text, jsonb, text, text, interval) IS
    'Stores a change of one row as a draft, for a person to approve; needs ai:use and what the change needs (spec 8)';
