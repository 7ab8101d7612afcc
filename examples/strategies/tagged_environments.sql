-- One organization with tagged environments: a project for each, and the rows know theirs.
--
-- * Production is a restricted project: Dana, a member, works in staging and does not see that production is there.
-- * Omar, an operator of production, deploys there, and neither makes nor deletes its servers.
-- * Pim, a viewer of the organization, is an administrator of staging, and nowhere else more than a viewer.
-- * With production protection on, a production row is deleted by the owner alone, after a confirmation.
CREATE EXTENSION IF NOT EXISTS pg_tenancy;

CREATE TABLE servers (
    id int PRIMARY KEY, org_id uuid NOT NULL, project_id uuid NOT NULL, cluster_id uuid, environment text NOT NULL, name text NOT NULL);
CREATE TABLE sites (
    id int PRIMARY KEY, org_id uuid NOT NULL, project_id uuid NOT NULL, server_id int REFERENCES servers, name text NOT NULL);
SELECT tenancy.protect('servers', project_column => 'project_id', cluster_column => 'cluster_id', environment_column => 'environment',
    permissions => '{"select": "server:read", "insert": "server:create", "update": "server:update", "delete": "server:delete"}');
SELECT tenancy.protect('sites', project_column => 'project_id', permissions =>
    '{"select": "site:read", "insert": "site:deploy", "update": "site:manage", "delete": "site:delete"}');

CREATE ROLE panel_of_projects LOGIN;
GRANT ALL ON servers, sites TO panel_of_projects;
SELECT tenancy.trust_application('panel_of_projects');

SELECT tenancy.create_org('Shop', 'shop', external_key => 'shop',
    owner => tenancy.create_user('olga@example.com', 'Olga', external_key => 'olga'));
SELECT tenancy.add_member(o.id, tenancy.create_user(p.name || '@example.com', p.name, external_key => p.name), p.role)
FROM tenancy.orgs AS o, (VALUES ('dana', 'member'), ('omar', 'member'), ('pim', 'viewer')) AS p (name, role);

SELECT tenancy.create_project(o.id, 'staging', environment => 'staging'),
       tenancy.create_project(o.id, 'production', 'restricted', 'production')
FROM tenancy.orgs AS o;
SELECT tenancy.create_cluster(id, 'eu') FROM tenancy.projects;
SELECT tenancy.add_project_member(p.id, u.id, CASE p.name WHEN 'production' THEN 'project_operator' ELSE 'project_admin' END)
FROM tenancy.projects AS p, tenancy.users AS u
WHERE (p.name, u.external_key) IN (('production', 'omar'), ('staging', 'pim'));
SELECT tenancy.set_production_protection(id, true) FROM tenancy.orgs;

SET row_security = off;
INSERT INTO servers
SELECT row_number() OVER (ORDER BY p.name), p.org_id, p.id, c.id, p.environment, 'web-' || p.name
FROM tenancy.projects AS p JOIN tenancy.clusters AS c ON c.project_id = p.id;
RESET row_security;
