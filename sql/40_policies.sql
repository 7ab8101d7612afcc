-- Who may read our own tables. Writing goes through functions; nobody is granted it.

GRANT USAGE ON SCHEMA tenancy TO PUBLIC;
GRANT SELECT ON tenancy.users, tenancy.orgs, tenancy.memberships, tenancy.membership_scopes,
                tenancy.roles, tenancy.custom_roles, tenancy.custom_role_permissions, tenancy.actions, tenancy.role_permissions, tenancy.leakproof_vouched,
                tenancy.watched_schemas, tenancy.exemptions, tenancy.bypass_ledger TO PUBLIC;

ALTER TABLE tenancy.users ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.orgs ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.memberships ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.membership_scopes ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.roles ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.custom_roles ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.custom_role_permissions ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.actions ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.role_permissions ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.login_bindings ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.signing_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.administrators ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.leakproof_vouched ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.watched_schemas ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.authority ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.exemptions ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.bypass_ledger ENABLE ROW LEVEL SECURITY;

-- The matrix is published; there is nothing of any organization in it.
CREATE POLICY published ON tenancy.roles FOR SELECT USING (true);
CREATE POLICY published ON tenancy.actions FOR SELECT USING (true);
CREATE POLICY published ON tenancy.role_permissions FOR SELECT USING (true);
-- Which tables are open is no secret: the catalog shows it.
CREATE POLICY published ON tenancy.exemptions FOR SELECT USING (true);
-- Nor of how their indexes may be used.
CREATE POLICY published ON tenancy.leakproof_vouched FOR SELECT USING (true);
CREATE POLICY published ON tenancy.watched_schemas FOR SELECT USING (true);

CREATE POLICY audited ON tenancy.bypass_ledger FOR SELECT USING (tenancy.sees_bypasses());

CREATE POLICY current_org ON tenancy.orgs FOR SELECT USING (id = tenancy.current_org());

-- team:read shows the whole team; without it one sees one's own row.
CREATE POLICY team ON tenancy.memberships FOR SELECT USING (org_id = tenancy.org_if('team:read'));
CREATE POLICY oneself ON tenancy.memberships FOR SELECT
    USING (org_id = tenancy.current_org() AND user_id = tenancy.current_user_id());
CREATE POLICY team ON tenancy.membership_scopes FOR SELECT USING (org_id = tenancy.org_if('team:read'));
CREATE POLICY oneself ON tenancy.membership_scopes FOR SELECT
    USING (org_id = tenancy.current_org() AND user_id = tenancy.current_user_id());

-- An organization's own roles: its team:read reads them, and who has one reads that.
CREATE POLICY team ON tenancy.custom_roles FOR SELECT USING (org_id = tenancy.org_if('team:read'));
CREATE POLICY own ON tenancy.custom_roles FOR SELECT
    USING (org_id = tenancy.current_org() AND name = tenancy.current_role_name());
CREATE POLICY team ON tenancy.custom_role_permissions FOR SELECT USING (org_id = tenancy.org_if('team:read'));
CREATE POLICY own ON tenancy.custom_role_permissions FOR SELECT
    USING (org_id = tenancy.current_org() AND role = tenancy.current_role_name());

-- One function, which can come before any condition of the querier's (hooks/planner.rs); a sub-select could not.
CREATE POLICY team ON tenancy.users FOR SELECT USING (tenancy.sees_user(id));
