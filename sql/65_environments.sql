-- Environments (spec 7): an organization's own tags beside development, staging and production, which are always there.

CREATE TABLE tenancy.org_environments (
    org_id     uuid NOT NULL REFERENCES tenancy.orgs (id) ON DELETE CASCADE,
    name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 63 AND name !~ '[[:cntrl:]]' AND name = btrim(name)
                                    AND name NOT IN ('development', 'staging', 'production')),
    kind       text NOT NULL CHECK (kind IN ('development', 'staging', 'production')),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, name)
);
COMMENT ON TABLE tenancy.org_environments IS
    'The environment tags that organizations have of their own, and which of the three each of them is like (spec 7)';
ALTER TABLE tenancy.org_environments ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON tenancy.org_environments TO PUBLIC;
CREATE POLICY current_org ON tenancy.org_environments FOR SELECT USING (org_id = tenancy.current_org());
SELECT pg_catalog.pg_extension_config_dump('tenancy.org_environments', '');

CREATE FUNCTION tenancy.check_lock(table_id oid, row_of_table record) RETURNS boolean
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_check_lock';
COMMENT ON FUNCTION tenancy.check_lock(oid, record) IS
    'True for a row that the context may lock, in its environment, else an error: stands in plans of SELECT ... FOR UPDATE (spec 5.4)';

CREATE VIEW tenancy.environments WITH (security_invoker = true) AS
SELECT o.id AS org_id, b.name, b.name AS kind, true AS built_in
FROM tenancy.orgs AS o
     CROSS JOIN (VALUES ('development'), ('staging'), ('production')) AS b (name)
WHERE o.id = tenancy.current_org()
UNION ALL
SELECT e.org_id, e.name, e.kind, false FROM tenancy.org_environments AS e WHERE e.org_id = tenancy.current_org();
COMMENT ON VIEW tenancy.environments IS
    'The environment tags of the current organization, each with the one of the three that it is like (spec 7)';
GRANT SELECT ON tenancy.environments TO PUBLIC;
