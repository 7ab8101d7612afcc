-- Who there is: users, organizations, memberships, roles, and which database logins speak for whom.
-- Every table here obeys the extension's own rule: row security on, no write grants; it is changed only
-- through functions that check (spec sections 2 to 4).

-- Names and messages pass through Rust, whose text is UTF-8. And a schema tenancy that a weaker role made before us would let that role add functions beside ours, or drop it.
DO $$
DECLARE
    holder text;
BEGIN
    IF pg_catalog.getdatabaseencoding() <> 'UTF8' THEN
        RAISE EXCEPTION 'pg_tenancy needs a database with encoding UTF8'
            USING ERRCODE = 'feature_not_supported',
                  DETAIL = pg_catalog.format('This one has %s.', pg_catalog.getdatabaseencoding()),
                  HINT = 'CREATE DATABASE ... ENCODING ''UTF8'' TEMPLATE template0.';
    END IF;
    SELECT pg_catalog.quote_ident(r.rolname) INTO holder
    FROM pg_catalog.pg_namespace AS n JOIN pg_catalog.pg_roles AS r ON r.oid = n.nspowner
    WHERE n.nspname = 'tenancy' AND NOT r.rolsuper;
    IF FOUND THEN
        RAISE EXCEPTION 'schema tenancy exists and belongs to %', holder
            USING ERRCODE = 'duplicate_schema',
                  DETAIL = 'Its owner could change what the extension keeps there.',
                  HINT = 'Drop or rename that schema, then CREATE EXTENSION pg_tenancy makes its own.';
    END IF;
END
$$;

CREATE TABLE tenancy.users (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email        text NOT NULL CHECK (email ~ '^[^@[:cntrl:][:space:]]+@[^@[:cntrl:][:space:]]+$' AND length(email) <= 320),
    name         text,
    external_key text UNIQUE CHECK (external_key <> '' AND octet_length(external_key) <= 255),
    sso_subject  text UNIQUE,
    created_at   timestamptz NOT NULL DEFAULT now()
);
-- One address, one person: Ada@x.example and ada@x.example are the same.
CREATE UNIQUE INDEX users_email_key ON tenancy.users (lower(email));

CREATE TABLE tenancy.roles (
    name        text PRIMARY KEY,
    description text,
    is_system   boolean NOT NULL DEFAULT false
);

CREATE TABLE tenancy.actions (
    name        text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]*:[a-z][a-z0-9_]*$'),
    category    text NOT NULL,
    description text,
    is_system   boolean NOT NULL DEFAULT false
);

CREATE TABLE tenancy.role_permissions (
    role      text NOT NULL REFERENCES tenancy.roles (name),
    action    text NOT NULL REFERENCES tenancy.actions (name),
    level     text NOT NULL CHECK (level IN ('allow', 'limited', 'deny')),
    is_system boolean NOT NULL DEFAULT false,
    PRIMARY KEY (role, action),
    CHECK (role <> 'owner' OR level = 'allow')
);

-- owner_id NOT NULL is the one owner (spec 3.2): no order of commit or restore can make it two or none.
CREATE TABLE tenancy.orgs (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name         text NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
    slug         text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    external_key text UNIQUE CHECK (external_key <> '' AND octet_length(external_key) <= 255),
    owner_id     uuid NOT NULL REFERENCES tenancy.users (id),
    audit_store  text NOT NULL DEFAULT 'shared' CHECK (audit_store IN ('dedicated', 'shared')),
    created_at   timestamptz NOT NULL DEFAULT now(),
    production_protection boolean NOT NULL DEFAULT false,
    suspended_at     timestamptz,
    suspended_reason text,
    -- Since when it is nobody's to enter any more (70_life.sql).
    deleting_at      timestamptz,
    CHECK ((suspended_at IS NULL) = (suspended_reason IS NULL))
);
CREATE INDEX orgs_owner_id_idx ON tenancy.orgs (owner_id);

-- An organization's own roles. Their names are its own, too: two organizations may each have a deployer.
CREATE TABLE tenancy.custom_roles (
    org_id      uuid NOT NULL REFERENCES tenancy.orgs (id) ON DELETE CASCADE,
    name        text NOT NULL CHECK (name = btrim(name) AND length(name) BETWEEN 1 AND 63 AND name !~ '[[:cntrl:]]'
                                     AND lower(name) NOT IN ('owner', 'admin', 'member', 'viewer', 'dba')),
    description text,
    active      boolean NOT NULL DEFAULT true,
    based_on    text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, name)
);
-- Deployer and deployer would be mistaken for each other.
CREATE UNIQUE INDEX custom_roles_name_key ON tenancy.custom_roles (org_id, lower(name));

-- environment '' is every environment that no other grant of the role names for the action.
CREATE TABLE tenancy.custom_role_permissions (
    org_id      uuid NOT NULL,
    role        text NOT NULL,
    action      text NOT NULL REFERENCES tenancy.actions (name),
    environment text NOT NULL DEFAULT '' CHECK (environment = btrim(environment) AND length(environment) <= 63 AND environment !~ '[[:cntrl:]]'),
    level       text NOT NULL CHECK (level IN ('allow', 'limited', 'deny')),
    PRIMARY KEY (org_id, role, action, environment),
    FOREIGN KEY (org_id, role) REFERENCES tenancy.custom_roles (org_id, name) ON DELETE CASCADE
);
CREATE INDEX custom_role_permissions_action_idx ON tenancy.custom_role_permissions (action);

CREATE TABLE tenancy.memberships (
    org_id     uuid NOT NULL REFERENCES tenancy.orgs (id) ON DELETE CASCADE,
    user_id    uuid NOT NULL REFERENCES tenancy.users (id) ON DELETE CASCADE,
    role       text NOT NULL,
    -- The role is one of the system's or one of the organization's own; a foreign key holds it to either.
    system_role text GENERATED ALWAYS AS (CASE WHEN role IN ('owner', 'admin', 'member', 'viewer') THEN role END) STORED
                REFERENCES tenancy.roles (name),
    custom_role text GENERATED ALWAYS AS (CASE WHEN role NOT IN ('owner', 'admin', 'member', 'viewer') THEN role END) STORED,
    expires_at timestamptz,
    -- NULL: from anywhere. An empty list would shut a member out and look like the opposite.
    allowed_networks cidr[]
        CHECK (cardinality(allowed_networks) > 0 AND array_position(allowed_networks, NULL) IS NULL),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Limited to the resources that membership_scopes lists; without one to none.
    scoped     boolean NOT NULL DEFAULT false,
    PRIMARY KEY (org_id, user_id),
    FOREIGN KEY (org_id, custom_role) REFERENCES tenancy.custom_roles (org_id, name),
    CONSTRAINT the_owner_is_held_to_no_network CHECK (role <> 'owner' OR allowed_networks IS NULL)
);
CREATE INDEX memberships_user_id_idx ON tenancy.memberships (user_id);
CREATE INDEX memberships_custom_role_idx ON tenancy.memberships (org_id, custom_role) WHERE custom_role IS NOT NULL;

-- A member who was removed and comes back does not find his old rules.
CREATE TABLE tenancy.membership_scopes (
    org_id        uuid NOT NULL,
    user_id       uuid NOT NULL,
    resource_type text NOT NULL CHECK (resource_type ~ '^[a-z][a-z0-9_]{0,62}$'),
    resource_id   text NOT NULL,
    access        text NOT NULL CHECK (access IN ('full', 'read_only', 'none')),
    created_by    uuid,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, user_id, resource_type, resource_id),
    FOREIGN KEY (org_id, user_id) REFERENCES tenancy.memberships (org_id, user_id) ON DELETE CASCADE
);

-- Database logins are global to the cluster and named, not created, here.
CREATE TABLE tenancy.login_bindings (
    login        name PRIMARY KEY,
    kind         text NOT NULL CHECK (kind IN ('user', 'application', 'token')),
    user_id      uuid REFERENCES tenancy.users (id) ON DELETE CASCADE,
    scope        text NOT NULL CHECK (scope IN ('transaction', 'session')),
    service_role text REFERENCES tenancy.roles (name),
    created_at   timestamptz NOT NULL DEFAULT now(),
    CHECK ((kind = 'user') = (user_id IS NOT NULL)),
    CHECK ((kind = 'application') = (service_role IS NOT NULL)),
    CHECK (service_role <> 'owner')
);
CREATE INDEX login_bindings_user_id_idx ON tenancy.login_bindings (user_id);

-- What verifies tokens. A secret (HS256) stands here as it is, since it must sign anew to compare; of the other algorithms
-- only the public key. A retired key's bytes are gone; its id stays, so that nobody gives it to another key.
CREATE TABLE tenancy.signing_keys (
    kid        text PRIMARY KEY CHECK (kid <> '' AND octet_length(kid) <= 255 AND kid !~ '[[:cntrl:]]'),
    algorithm  text NOT NULL CHECK (algorithm IN ('HS256', 'EdDSA', 'ES256')),
    verifier   bytea,
    audience   text NOT NULL CHECK (audience <> ''),
    issuer     text CHECK (issuer <> ''),
    subject    text NOT NULL CHECK (subject IN ('user', 'sso_subject')),
    created_at timestamptz NOT NULL DEFAULT now(),
    retired_at timestamptz,
    CHECK ((verifier IS NULL) = (retired_at IS NOT NULL))
);
-- No copy of a secret among the planner's statistics.
ALTER TABLE tenancy.signing_keys ALTER COLUMN verifier SET STATISTICS 0;

CREATE TABLE tenancy.administrators (
    role       name PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Tables that protect_schema() leaves alone. By their number in the catalog, which follows a renamed table; a dump writes it
-- as the name.
CREATE TABLE tenancy.exemptions (
    table_name  regclass PRIMARY KEY,
    reason      text NOT NULL CHECK (reason <> ''),
    exempted_by name NOT NULL,
    exempted_at timestamptz NOT NULL DEFAULT now()
);

-- What a superuser vouched for: an operator as regoperator shows it, with an index family; or, with neither method nor
-- family, what may stand in an index's expression. Names, not ids, so that a dump carries them.
CREATE TABLE tenancy.leakproof_vouched (
    object        text NOT NULL,
    name          name NOT NULL,
    access_method name NOT NULL DEFAULT '',
    family        name NOT NULL DEFAULT '',
    vouched_by    name NOT NULL DEFAULT session_user,
    vouched_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (object, access_method, family)
);

-- Where a new table with an organization column is expected to be protected.
CREATE TABLE tenancy.watched_schemas (
    schema     name PRIMARY KEY,
    org_column name NOT NULL
);

-- Who passed the rules on purpose, for all organizations at once.
CREATE TABLE tenancy.bypass_ledger (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind        text NOT NULL,
    login       name NOT NULL,
    db_role     name NOT NULL,
    reason      text NOT NULL,
    client_addr inet
);

-- Holds no row. Its relation cache entry is the bell that every backend hears when authority changes:
-- the triggers in 40_triggers.sql invalidate it, so no cached plan of a real table is thrown away with it.
CREATE TABLE tenancy.authority (bell boolean CHECK (false));

COMMENT ON TABLE tenancy.users IS 'People: an identity shared by all organizations, without rights of its own (spec 1)';
COMMENT ON TABLE tenancy.orgs IS 'Organizations, the tenants; owner_id is the one owner (spec 3)';
COMMENT ON TABLE tenancy.memberships IS 'Which user has which role in which organization (spec 1, 3)';
COMMENT ON TABLE tenancy.membership_scopes IS 'The resources that a membership is limited to, and how far (spec 3.8)';
COMMENT ON TABLE tenancy.roles IS 'The system roles owner, admin, member and viewer (spec 2)';
COMMENT ON TABLE tenancy.actions IS 'Permission slugs, resource:verb, with their category (spec 2)';
COMMENT ON TABLE tenancy.role_permissions IS 'The grant level (allow, limited, deny) of every role on every action (spec 2)';
COMMENT ON TABLE tenancy.custom_roles IS 'The roles that an organization made for itself; its own team:read reads them (spec 2)';
COMMENT ON TABLE tenancy.custom_role_permissions IS
    'What the organizations'' own roles have; environment '''' is every one that no other grant of the role names for the action (spec 2)';
COMMENT ON TABLE tenancy.login_bindings IS 'Which database login is a person, which a trusted application, and which needs a token (spec 4)';
COMMENT ON TABLE tenancy.signing_keys IS 'What verifies signed tokens; readable by superusers only, see list_signing_keys() (spec 4)';
COMMENT ON TABLE tenancy.administrators IS 'Roles that run the DBA''s functions without being superuser (spec 4)';
COMMENT ON TABLE tenancy.exemptions IS 'Tables that protect_schema() leaves alone, and why (spec 5)';
COMMENT ON TABLE tenancy.leakproof_vouched IS 'What vouch_leakproof() was told; leakproof_vouchers shows it with the reasons (spec 14)';
COMMENT ON TABLE tenancy.watched_schemas IS 'Schemas in which a new table with the organization column must be protected (spec 5.7)';
COMMENT ON TABLE tenancy.bypass_ledger IS 'Migrations: who worked on the rows of all organizations, when and why; readable with org:audit (spec 5.7, 11.1)';
COMMENT ON TABLE tenancy.authority IS 'Empty; its invalidation tells every session that memberships, roles or bindings changed';

-- What pg_dump must carry: everything but the seed rows, which CREATE EXTENSION writes again.
SELECT pg_catalog.pg_extension_config_dump('tenancy.users', '');
SELECT pg_catalog.pg_extension_config_dump('tenancy.roles', 'WHERE NOT is_system');
SELECT pg_catalog.pg_extension_config_dump('tenancy.actions', 'WHERE NOT is_system');
SELECT pg_catalog.pg_extension_config_dump('tenancy.role_permissions', 'WHERE NOT is_system');
SELECT pg_catalog.pg_extension_config_dump('tenancy.orgs', '');
SELECT pg_catalog.pg_extension_config_dump('tenancy.custom_roles', '');
SELECT pg_catalog.pg_extension_config_dump('tenancy.custom_role_permissions', '');
SELECT pg_catalog.pg_extension_config_dump('tenancy.memberships', '');
SELECT pg_catalog.pg_extension_config_dump('tenancy.membership_scopes', '');
SELECT pg_catalog.pg_extension_config_dump('tenancy.login_bindings', '');
SELECT pg_catalog.pg_extension_config_dump('tenancy.signing_keys', '');
SELECT pg_catalog.pg_extension_config_dump('tenancy.administrators', '');
SELECT pg_catalog.pg_extension_config_dump(
    'tenancy.exemptions', 'WHERE EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = table_name)');
SELECT pg_catalog.pg_extension_config_dump('tenancy.leakproof_vouched', '');
SELECT pg_catalog.pg_extension_config_dump('tenancy.watched_schemas', '');
SELECT pg_catalog.pg_extension_config_dump('tenancy.bypass_ledger', '');
