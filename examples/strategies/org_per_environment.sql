-- One organization for each environment.
--
-- * Dana, who develops, is an admin in development and a viewer in production; the two memberships know nothing of each other.
-- * Nothing moves between them: a row of staging cannot be made one of production, nor point at one.
-- * Each has an owner, a bill and an audit log of its own.
CREATE EXTENSION IF NOT EXISTS pg_tenancy;

CREATE TABLE servers (id int PRIMARY KEY, org_id uuid NOT NULL, name text NOT NULL);
CREATE TABLE sites (id int PRIMARY KEY, org_id uuid NOT NULL, server_id int REFERENCES servers, name text NOT NULL);
SELECT tenancy.protect('servers', permissions =>
    '{"select": "server:read", "insert": "server:create", "update": "server:update", "delete": "server:delete"}');
SELECT tenancy.protect('sites', permissions =>
    '{"select": "site:read", "insert": "site:deploy", "update": "site:manage", "delete": "site:delete"}');

CREATE ROLE panel_of_environments LOGIN;
GRANT ALL ON servers, sites TO panel_of_environments;
SELECT tenancy.trust_application('panel_of_environments');

SELECT tenancy.create_user('olga@example.com', 'Olga', external_key => 'olga');
SELECT tenancy.create_user('dana@example.com', 'Dana', external_key => 'dana');
SELECT tenancy.create_org('Shop ' || environment, environment, owner => u.id, external_key => environment)
FROM tenancy.users AS u, unnest(ARRAY['development', 'staging', 'production']) AS environment
WHERE u.external_key = 'olga';
SELECT tenancy.add_member(o.id, u.id, CASE o.slug WHEN 'production' THEN 'viewer' ELSE 'admin' END)
FROM tenancy.orgs AS o, tenancy.users AS u WHERE u.external_key = 'dana';

SET row_security = off;
INSERT INTO servers SELECT n, id, 'web-' || slug FROM (SELECT row_number() OVER (ORDER BY slug) AS n, * FROM tenancy.orgs) AS o;
RESET row_security;
