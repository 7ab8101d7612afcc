-- Who pays for organizations, and what they used (spec 10).

-- A payment method is the reference that a payment provider gave: a column that cannot hold a card's number alone.
CREATE TABLE tenancy.billing_accounts (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name           text NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
    payment_method text UNIQUE CHECK (payment_method <> '' AND octet_length(payment_method) <= 255
                                      AND payment_method !~ '[[:cntrl:]]' AND payment_method !~ '^[0-9 .-]{12,}$'),
    created_at     timestamptz NOT NULL DEFAULT now()
);
-- No copy of a reference among the planner's statistics.
ALTER TABLE tenancy.billing_accounts ALTER COLUMN payment_method SET STATISTICS 0;

-- One account pays for an organization; it may pay for several.
CREATE TABLE tenancy.billed_orgs (
    org_id     uuid PRIMARY KEY REFERENCES tenancy.orgs (id) ON DELETE CASCADE,
    account_id uuid NOT NULL REFERENCES tenancy.billing_accounts (id),
    since      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX billed_orgs_account_id_idx ON tenancy.billed_orgs (account_id);

-- The organization is not referred to: its last bill is written when it is gone. The key makes a repeated call one record.
CREATE TABLE tenancy.usage_records (
    org_id          uuid NOT NULL,
    idempotency_key text NOT NULL DEFAULT gen_random_uuid()::text
                    CHECK (idempotency_key <> '' AND octet_length(idempotency_key) <= 255),
    at              timestamptz NOT NULL DEFAULT now() CHECK (isfinite(at)),
    metric          text NOT NULL CHECK (metric ~ '^[a-z][a-z0-9_.:-]{0,62}$'),
    quantity        numeric NOT NULL CHECK (quantity > '-Infinity' AND quantity < 'Infinity'),
    project_id      uuid,
    cluster_id      uuid,
    environment     text CHECK (environment <> '' AND octet_length(environment) <= 63),
    PRIMARY KEY (org_id, idempotency_key)
);
-- A report reads one organization's time; records come in about the order of their time, so its entries lie together.
CREATE INDEX usage_records_org_id_at_idx ON tenancy.usage_records (org_id, at);

COMMENT ON TABLE tenancy.billing_accounts IS 'Who pays, and the payment provider''s reference for how; readable with billing:read (spec 10)';
COMMENT ON TABLE tenancy.billed_orgs IS 'Which billing account pays for an organization; readable with billing:read (spec 10)';
COMMENT ON TABLE tenancy.usage_records IS 'What organizations used, by metric, project, cluster and environment; appended to only; readable with billing:read (spec 10)';

SELECT pg_catalog.pg_extension_config_dump('tenancy.billing_accounts', '');
SELECT pg_catalog.pg_extension_config_dump('tenancy.billed_orgs', '');
SELECT pg_catalog.pg_extension_config_dump('tenancy.usage_records', '');

GRANT SELECT ON tenancy.billing_accounts, tenancy.billed_orgs, tenancy.usage_records TO PUBLIC;
ALTER TABLE tenancy.billing_accounts ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.billed_orgs ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.usage_records ENABLE ROW LEVEL SECURITY;
CREATE POLICY paying ON tenancy.billing_accounts FOR SELECT USING (tenancy.sees_billing_account(id));
CREATE POLICY billed ON tenancy.billed_orgs FOR SELECT USING (org_id = tenancy.org_if('billing:read'));
CREATE POLICY used ON tenancy.usage_records FOR SELECT USING (org_id = tenancy.org_if('billing:read'));

CREATE TRIGGER guard_usage BEFORE UPDATE OR DELETE OR TRUNCATE ON tenancy.usage_records
    FOR EACH STATEMENT EXECUTE FUNCTION tenancy.guard_usage();
ALTER TABLE tenancy.usage_records ENABLE ALWAYS TRIGGER guard_usage;

-- How much an organization may have. The id names the counter, and is a new one where counting begins anew.
CREATE TABLE tenancy.quota_limits (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id     uuid NOT NULL REFERENCES tenancy.orgs (id) ON DELETE CASCADE,
    table_name regclass,
    metric     text CHECK (metric ~ '^[a-z][a-z0-9_.:-]{0,62}$'),
    period     text CHECK (period IN ('hour', 'day', 'week', 'month', 'quarter', 'year', 'total')),
    maximum    bigint NOT NULL CHECK (maximum >= 0),
    set_by     name NOT NULL DEFAULT session_user,
    set_at     timestamptz NOT NULL DEFAULT now(),
    CHECK ((table_name IS NULL) <> (metric IS NULL)),
    CHECK ((metric IS NULL) = (period IS NULL)),
    UNIQUE (org_id, table_name),
    UNIQUE (org_id, metric)
);
COMMENT ON TABLE tenancy.quota_limits IS 'How much organizations may have in a table or of a metric; see tenancy.quotas (spec 10)';
SELECT pg_catalog.pg_extension_config_dump(
    'tenancy.quota_limits', 'WHERE table_name IS NULL OR EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = table_name)');
ALTER TABLE tenancy.quota_limits ENABLE ROW LEVEL SECURITY;

-- Rewritten in place by the extension, whatever transactions do. Not logged and not dumped: it is counted anew.
CREATE UNLOGGED TABLE tenancy.quota_counters (
    key      uuid PRIMARY KEY,
    quota_id uuid NOT NULL,
    counter  bytea NOT NULL
);
ALTER TABLE tenancy.quota_counters ALTER COLUMN counter SET STORAGE PLAIN;
ALTER TABLE tenancy.quota_counters ALTER COLUMN counter SET STATISTICS 0;
COMMENT ON TABLE tenancy.quota_counters IS 'The counts behind quotas, in the extension''s own form; see tenancy.quotas (spec 10)';
ALTER TABLE tenancy.quota_counters ENABLE ROW LEVEL SECURITY;

CREATE VIEW tenancy.quotas AS
SELECT org_id, table_name, metric, period, maximum, used, held, remaining FROM tenancy.list_quotas();
COMMENT ON VIEW tenancy.quotas IS
    'How much the current organization may have and has, with org:read; for the DBA without one, every one''s (spec 10)';
GRANT SELECT ON tenancy.quotas TO PUBLIC;

CREATE VIEW tenancy.measured_usage AS
SELECT org_id, table_name, rows, bytes FROM tenancy.measure_usage();
COMMENT ON VIEW tenancy.measured_usage IS
    'Rows and bytes in each protected table: the current organization''s, with billing:read; for the DBA without one, every one''s (spec 10)';
GRANT SELECT ON tenancy.measured_usage TO PUBLIC;

COMMENT ON FUNCTION tenancy.create_billing_account(text, text, uuid) IS
    'Makes a billing account and has it pay for an organization; needs billing:manage (spec 10)';
COMMENT ON FUNCTION tenancy.set_billing_account(uuid, uuid) IS
    'Has a billing account pay for an organization; needs billing:manage there and in one it pays for already (spec 10)';
COMMENT ON FUNCTION tenancy.set_payment_method(uuid, text) IS
    'Says how a billing account pays, by the payment provider''s reference; needs billing:manage (spec 10)';
COMMENT ON FUNCTION tenancy.rename_billing_account(uuid, text) IS
    'Gives a billing account another name; needs billing:manage (spec 10)';
COMMENT ON FUNCTION tenancy.drop_billing_account(uuid) IS
    'Removes a billing account that pays for no organization; for the DBA (spec 10)';
COMMENT ON FUNCTION tenancy.sees_billing_account(uuid) IS
    'Whether the context may see a billing account: it pays for the current organization (spec 10)';
COMMENT ON FUNCTION tenancy.list_billed_orgs(uuid) IS
    'The organizations that a billing account pays for, those in which one holds billing:read (spec 10)';
COMMENT ON FUNCTION tenancy.record_usage(text, numeric, uuid, uuid, text, timestamptz, text, uuid) IS
    'Writes down what an organization used; for services, trusted applications and the DBA (spec 10)';
COMMENT ON FUNCTION tenancy.usage_report(uuid, timestamptz, timestamptz, text, text[]) IS
    'Usage added up by metric and period, and by project, cluster and environment; needs billing:read (spec 10)';
COMMENT ON FUNCTION tenancy.measure_usage(uuid, boolean) IS
    'How many rows and bytes an organization has in each protected table; needs billing:read (spec 10)';
COMMENT ON FUNCTION tenancy.set_quota(uuid, regclass, bigint, text, text) IS
    'Says how much an organization may have in a table or of a metric; for the DBA (spec 10)';
COMMENT ON FUNCTION tenancy.list_quotas(uuid) IS
    'The quotas of an organization and how far they are used; needs org:read (spec 10)';
COMMENT ON FUNCTION tenancy.recount_quota(uuid, regclass) IS
    'Counts anew what quotas count; for the DBA (spec 10)';
COMMENT ON FUNCTION tenancy.guard_usage() IS
    'Trigger: usage records are never changed (spec 10)';
REVOKE ALL ON FUNCTION tenancy.guard_usage() FROM PUBLIC;
