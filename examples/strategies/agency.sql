-- An agency with an organization for each client.
--
-- * Ada, the agency's owner, owns both clients' organizations and goes from one to the other; rights never carry over.
-- * Carl, who works for one client only, sees nothing of the other, by whatever id or project he asks.
-- * A client who wants proof is its organization's own auditor; the agency's other clients are not in its log.
CREATE EXTENSION IF NOT EXISTS pg_tenancy;

CREATE TABLE campaigns (id int PRIMARY KEY, org_id uuid NOT NULL, project_id uuid NOT NULL, name text NOT NULL);
SELECT tenancy.protect('campaigns', project_column => 'project_id');

CREATE ROLE panel_of_agency LOGIN;
GRANT ALL ON campaigns TO panel_of_agency;
SELECT tenancy.trust_application('panel_of_agency');

SELECT tenancy.create_user('ada@agency.example', 'Ada', external_key => 'ada');
SELECT tenancy.create_user('carl@agency.example', 'Carl', external_key => 'carl');
SELECT tenancy.create_user('ines@bakery.example', 'Ines', external_key => 'ines');
SELECT tenancy.create_org(c.name, c.slug, owner => u.id, external_key => c.slug)
FROM tenancy.users AS u, (VALUES ('Bakery', 'bakery'), ('Cinema', 'cinema')) AS c (name, slug)
WHERE u.external_key = 'ada';
SELECT tenancy.add_member(o.id, u.id, CASE u.external_key WHEN 'ines' THEN 'admin' ELSE 'member' END)
FROM tenancy.orgs AS o, tenancy.users AS u WHERE o.slug = 'bakery' AND u.external_key IN ('carl', 'ines');
SELECT tenancy.create_project(id, 'summer') FROM tenancy.orgs;

SET row_security = off;
INSERT INTO campaigns
SELECT row_number() OVER (ORDER BY o.slug), o.id, p.id, 'posters for the ' || o.slug
FROM tenancy.orgs AS o JOIN tenancy.projects AS p ON p.org_id = o.id;
RESET row_security;
