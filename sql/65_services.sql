-- Service accounts and their API keys (spec 4). Who may see an organization's members sees its accounts; keys are shown by
-- list_api_keys(), which leaves out their hashes.
CREATE TABLE tenancy.service_accounts (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id      uuid NOT NULL REFERENCES tenancy.orgs (id) ON DELETE CASCADE,
    name        text NOT NULL CHECK (name = btrim(name) AND length(name) BETWEEN 1 AND 63 AND name !~ '[[:cntrl:]]'),
    role        text NOT NULL CHECK (role <> 'owner'),
    system_role text GENERATED ALWAYS AS (CASE WHEN role IN ('owner', 'admin', 'member', 'viewer') THEN role END) STORED
                REFERENCES tenancy.roles (name),
    custom_role text GENERATED ALWAYS AS (CASE WHEN role NOT IN ('owner', 'admin', 'member', 'viewer') THEN role END) STORED,
    description text,
    -- Who answers for it: the account is never above what this member holds, and nothing without one.
    sponsor_id  uuid REFERENCES tenancy.users (id) ON DELETE SET NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz,
    -- For the foreign key of api_keys.
    UNIQUE (id, org_id),
    FOREIGN KEY (org_id, custom_role) REFERENCES tenancy.custom_roles (org_id, name)
);
CREATE UNIQUE INDEX service_accounts_name_key ON tenancy.service_accounts (org_id, lower(name));
CREATE INDEX service_accounts_sponsor_id_idx ON tenancy.service_accounts (sponsor_id);
CREATE INDEX service_accounts_custom_role_idx ON tenancy.service_accounts (org_id, custom_role) WHERE custom_role IS NOT NULL;

-- A revoked key's hash is gone.
CREATE TABLE tenancy.api_keys (
    id                 uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    service_account_id uuid NOT NULL,
    org_id             uuid NOT NULL,
    hash               bytea CHECK (octet_length(hash) = 32),
    created_by         uuid REFERENCES tenancy.users (id) ON DELETE SET NULL,
    created_at         timestamptz NOT NULL DEFAULT now(),
    expires_at         timestamptz,
    allowed_networks   cidr[]
        CHECK (cardinality(allowed_networks) > 0 AND array_position(allowed_networks, NULL) IS NULL),
    revoked_at         timestamptz,
    CHECK ((hash IS NULL) = (revoked_at IS NOT NULL)),
    FOREIGN KEY (service_account_id, org_id) REFERENCES tenancy.service_accounts (id, org_id) ON DELETE CASCADE
);
CREATE INDEX api_keys_service_account_id_idx ON tenancy.api_keys (service_account_id, org_id);
CREATE INDEX api_keys_created_by_idx ON tenancy.api_keys (created_by);
-- No copy of a hash among the planner's statistics.
ALTER TABLE tenancy.api_keys ALTER COLUMN hash SET STATISTICS 0;

ALTER TABLE tenancy.service_accounts ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.api_keys ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON tenancy.service_accounts TO PUBLIC;
CREATE POLICY team ON tenancy.service_accounts FOR SELECT USING (org_id = tenancy.org_if('team:read'));

COMMENT ON TABLE tenancy.service_accounts IS
    'The organizations'' programs, each with a role and a member who answers for it; its own team:read reads them (spec 4)';
COMMENT ON TABLE tenancy.api_keys IS
    'What service accounts authenticate with, as hashes; readable by superusers only, see list_api_keys() (spec 4)';

SELECT pg_catalog.pg_extension_config_dump('tenancy.service_accounts', '');
SELECT pg_catalog.pg_extension_config_dump('tenancy.api_keys', '');

COMMENT ON FUNCTION tenancy.create_service_account(uuid, text, text, text) IS
    'Makes an account for a program, with a role of its own, for which the caller answers; needs team:role (spec 4)';
COMMENT ON FUNCTION tenancy.set_service_role(uuid, text) IS
    'Gives a service account another role; needs team:role and all that the role has (spec 4)';
COMMENT ON FUNCTION tenancy.adopt_service_account(uuid) IS
    'Makes the caller answer for a service account, which is never above him; needs team:role (spec 4)';
COMMENT ON FUNCTION tenancy.disable_service_account(uuid) IS
    'Stops a service account and every session of it; needs team:role (spec 4)';
COMMENT ON FUNCTION tenancy.enable_service_account(uuid) IS
    'Undoes disable_service_account(); needs team:role and all that the account''s role has (spec 4)';
COMMENT ON FUNCTION tenancy.drop_service_account(uuid) IS
    'Removes a service account and its keys; the rows it made and the audit stay; needs team:role (spec 4)';
COMMENT ON FUNCTION tenancy.list_service_accounts(uuid) IS
    'The service accounts of an organization and what they are up to; needs team:read (spec 4)';
COMMENT ON FUNCTION tenancy.create_api_key(uuid, timestamptz, cidr[]) IS
    'Makes a key for a service account and answers it, once; needs team:role and all that the account''s role has (spec 4)';
COMMENT ON FUNCTION tenancy.revoke_api_key(uuid) IS
    'Ends a key and every session that it speaks for; needs team:role (spec 4)';
COMMENT ON FUNCTION tenancy.list_api_keys(uuid) IS
    'The keys of an organization''s service accounts, without what they hold; needs team:role (spec 4)';
