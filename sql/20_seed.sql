-- The published matrix (spec section 2): every action with the level each system role has on it.
-- This is data, not code: has_permission() and the policies read it, and a test compares every cell.
INSERT INTO tenancy.roles (name, description, is_system) VALUES
    ('owner',  'Everything, and alone in it: members, billing, deletion and transfer of the organization', true),
    ('admin',  'Runs the infrastructure; no say over members, billing or the organization''s existence', true),
    ('member', 'Deploys and backs up; cannot provision, delete or reconfigure', true),
    ('viewer', 'Reads infrastructure', true);

CREATE TEMPORARY TABLE matrix (action text, category text, owner text, admin text, member text, viewer text);
INSERT INTO pg_temp.matrix VALUES
    ('server:read', 'server', 'allow', 'allow', 'allow', 'allow'),
    ('server:create', 'server', 'allow', 'allow', 'deny', 'deny'),
    ('server:update', 'server', 'allow', 'allow', 'deny', 'deny'),
    ('server:delete', 'server', 'allow', 'allow', 'deny', 'deny'),
    ('server:firewall', 'server', 'allow', 'allow', 'deny', 'deny'),
    ('site:read', 'site', 'allow', 'allow', 'allow', 'allow'),
    ('site:deploy', 'site', 'allow', 'allow', 'allow', 'deny'),
    ('site:manage', 'site', 'allow', 'allow', 'allow', 'deny'),
    ('site:delete', 'site', 'allow', 'allow', 'deny', 'deny'),
    ('app:read', 'app', 'allow', 'allow', 'allow', 'allow'),
    ('app:deploy', 'app', 'allow', 'allow', 'allow', 'deny'),
    ('app:manage', 'app', 'allow', 'allow', 'allow', 'deny'),
    ('app:delete', 'app', 'allow', 'allow', 'deny', 'deny'),
    ('backup:read', 'backup', 'allow', 'allow', 'allow', 'allow'),
    ('backup:create', 'backup', 'allow', 'allow', 'allow', 'deny'),
    ('backup:restore', 'backup', 'allow', 'allow', 'allow', 'deny'),
    ('backup:manage', 'backup', 'allow', 'allow', 'allow', 'deny'),
    ('monitoring:read', 'monitoring', 'allow', 'allow', 'allow', 'allow'),
    ('monitoring:manage', 'monitoring', 'allow', 'allow', 'deny', 'deny'),
    ('alert:read', 'alert', 'allow', 'allow', 'allow', 'allow'),
    ('alert:manage', 'alert', 'allow', 'allow', 'deny', 'deny'),
    ('cloud_account:read', 'cloud_account', 'allow', 'allow', 'deny', 'deny'),
    ('cloud_account:create', 'cloud_account', 'allow', 'allow', 'deny', 'deny'),
    ('cloud_account:delete', 'cloud_account', 'allow', 'allow', 'deny', 'deny'),
    ('storage:read', 'storage', 'allow', 'allow', 'allow', 'deny'),
    ('storage:manage', 'storage', 'allow', 'allow', 'deny', 'deny'),
    ('notification:read', 'notification', 'allow', 'allow', 'allow', 'deny'),
    ('notification:manage', 'notification', 'allow', 'allow', 'deny', 'deny'),
    ('ai:use', 'ai', 'allow', 'allow', 'allow', 'deny'),
    ('ai:approve', 'ai', 'allow', 'allow', 'limited', 'deny'),
    ('ai:controls', 'ai', 'allow', 'allow', 'deny', 'deny'),
    ('ai:provider', 'ai', 'allow', 'deny', 'deny', 'deny'),
    ('ai:memory', 'ai', 'allow', 'allow', 'allow', 'deny'),
    ('finops:read', 'finops', 'allow', 'allow', 'deny', 'deny'),
    ('finops:manage', 'finops', 'allow', 'deny', 'deny', 'deny'),
    ('billing:read', 'billing', 'allow', 'deny', 'deny', 'deny'),
    ('billing:manage', 'billing', 'allow', 'deny', 'deny', 'deny'),
    ('team:read', 'team', 'allow', 'allow', 'allow', 'deny'),
    ('team:invite', 'team', 'allow', 'deny', 'deny', 'deny'),
    ('team:role', 'team', 'allow', 'deny', 'deny', 'deny'),
    ('team:remove', 'team', 'allow', 'deny', 'deny', 'deny'),
    ('org:read', 'org', 'allow', 'allow', 'allow', 'allow'),
    ('org:update', 'org', 'allow', 'allow', 'deny', 'deny'),
    ('org:audit', 'org', 'allow', 'allow', 'deny', 'deny'),
    ('org:audit_export', 'org', 'allow', 'deny', 'deny', 'deny'),
    ('org:delete', 'org', 'allow', 'deny', 'deny', 'deny'),
    ('data:read', 'data', 'allow', 'allow', 'allow', 'allow'),
    ('data:write', 'data', 'allow', 'allow', 'allow', 'deny');

INSERT INTO tenancy.actions (name, category, description, is_system)
SELECT action, category,
       initcap(replace(split_part(action, ':', 2), '_', ' ')) || ' (' || replace(category, '_', ' ') || ')',
       true
FROM pg_temp.matrix;

INSERT INTO tenancy.role_permissions (role, action, level, is_system)
SELECT cell.role, m.action, cell.level, true
FROM pg_temp.matrix AS m,
     LATERAL (VALUES ('owner', m.owner), ('admin', m.admin), ('member', m.member), ('viewer', m.viewer))
         AS cell (role, level);

DROP TABLE pg_temp.matrix;
