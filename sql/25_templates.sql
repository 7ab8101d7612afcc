-- Roles that many teams want (spec section 2), to start a role of one's own from: create_role(..., template => '...').
-- A view of constants: nobody can change it, and a dump need not carry it. Every action in a list is allowed.

CREATE VIEW tenancy.role_templates WITH (security_invoker = true) AS
SELECT t.name, t.description, t.actions
FROM (VALUES
    -- Ships and takes back: a backup before, a restore when it went wrong. No provisioning, no deletion, no people.
    ('Deployment Manager', 'Deploys sites and apps, with backups to fall back on; creates and deletes no infrastructure',
     ARRAY['server:read', 'site:read', 'site:deploy', 'site:manage', 'app:read', 'app:deploy', 'app:manage',
           'backup:read', 'backup:create', 'backup:restore', 'monitoring:read', 'alert:read', 'notification:read',
           'storage:read', 'org:read', 'data:read', 'data:write']),
    -- Watches; the tables that name no action of their own are none of it.
    ('Monitoring Observer', 'Watches infrastructure, metrics and alerts; changes nothing',
     ARRAY['server:read', 'site:read', 'app:read', 'backup:read', 'monitoring:read', 'alert:read', 'notification:read',
           'org:read']),
    -- An agency's client, shown what runs for him and that it is backed up; not how it is built and alarmed.
    ('Client Viewer', 'Sees the sites and apps that run for a client, their metrics and backups; changes nothing',
     ARRAY['site:read', 'app:read', 'backup:read', 'monitoring:read', 'org:read', 'data:read']),
    -- Money only: spec 10 has it imply no rights on data.
    ('Billing Manager', 'Pays and plans costs; sees no infrastructure',
     ARRAY['billing:read', 'billing:manage', 'finops:read', 'finops:manage', 'org:read']),
    -- Every way of looking, the log and who may what among them, and no way of changing.
    ('Security Auditor', 'Reads configuration, people and the audit log, and exports it; changes nothing',
     ARRAY['server:read', 'site:read', 'app:read', 'backup:read', 'monitoring:read', 'alert:read', 'cloud_account:read',
           'storage:read', 'notification:read', 'team:read', 'org:read', 'org:audit', 'org:audit_export'])
) AS t (name, description, actions);
COMMENT ON VIEW tenancy.role_templates IS
    'What create_role() can start a role from: each template with the actions it allows (spec 2)';
GRANT SELECT ON tenancy.role_templates TO PUBLIC;
