-- Projects and clusters: the second and third boundary inside an organization (spec 9).

CREATE TABLE tenancy.projects (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id      uuid NOT NULL REFERENCES tenancy.orgs (id) ON DELETE CASCADE,
    name        text NOT NULL CHECK (length(name) BETWEEN 1 AND 255 AND name !~ '[[:cntrl:]]'),
    environment text CHECK (environment ~ '^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$'),
    access      text NOT NULL DEFAULT 'open' CHECK (access IN ('open', 'restricted')),
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (org_id, name),
    -- What the tables below refer to, so that a cluster or a member of a project is of the project's organization.
    UNIQUE (org_id, id)
);

CREATE TABLE tenancy.clusters (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id      uuid NOT NULL REFERENCES tenancy.orgs (id) ON DELETE CASCADE,
    project_id  uuid NOT NULL,
    name        text NOT NULL CHECK (length(name) BETWEEN 1 AND 255 AND name !~ '[[:cntrl:]]'),
    environment text CHECK (environment ~ '^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$'),
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (project_id, name),
    FOREIGN KEY (org_id, project_id) REFERENCES tenancy.projects (org_id, id)
);
CREATE INDEX clusters_org_id_idx ON tenancy.clusters (org_id, project_id);

CREATE TABLE tenancy.project_members (
    org_id     uuid NOT NULL,
    project_id uuid NOT NULL,
    user_id    uuid NOT NULL,
    role       text NOT NULL CHECK (role IN ('project_admin', 'project_operator', 'project_viewer')),
    granted_by uuid REFERENCES tenancy.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, user_id),
    FOREIGN KEY (org_id, project_id) REFERENCES tenancy.projects (org_id, id) ON DELETE CASCADE,
    FOREIGN KEY (org_id, user_id) REFERENCES tenancy.memberships (org_id, user_id) ON DELETE CASCADE
);
CREATE INDEX project_members_user_idx ON tenancy.project_members (org_id, user_id);
CREATE INDEX project_members_granted_by_idx ON tenancy.project_members (granted_by);

-- What each project role adds inside its project; what is not here it does not add.
CREATE TABLE tenancy.project_role_permissions (
    role      text NOT NULL CHECK (role IN ('project_admin', 'project_operator', 'project_viewer')),
    action    text NOT NULL REFERENCES tenancy.actions (name) ON DELETE CASCADE,
    is_system boolean NOT NULL DEFAULT false,
    PRIMARY KEY (role, action)
);

-- An organization without a row here has the defaults.
CREATE TABLE tenancy.project_settings (
    org_id        uuid PRIMARY KEY REFERENCES tenancy.orgs (id) ON DELETE CASCADE,
    strict_access boolean NOT NULL DEFAULT false
);

-- The administrator of a project has all that is done to infrastructure and data; the operator what keeps it running; the
-- viewer sees it. The organization's own matters (team, billing, costs, AI settings, audit) are no project's.
INSERT INTO tenancy.project_role_permissions (role, action, is_system)
SELECT r.role, a.name, true
FROM tenancy.actions AS a,
     (VALUES ('project_admin'), ('project_operator'), ('project_viewer')) AS r (role)
WHERE a.category IN ('server', 'site', 'app', 'backup', 'monitoring', 'alert', 'cloud_account', 'storage', 'notification', 'data')
  AND CASE r.role
          WHEN 'project_admin' THEN true
          WHEN 'project_viewer' THEN a.name LIKE '%:read'
          ELSE a.name LIKE '%:read' OR a.name LIKE '%:deploy'
               OR (a.name LIKE '%:manage' AND a.category <> 'cloud_account')
               OR a.name IN ('data:write', 'backup:create', 'backup:restore')
      END;

-- In policies, plans and defaults of tables with a project column. Leakproof: in_projects() raises for nothing that a row
-- holds and tells of no row but by its answer, so an index may answer it, and it comes before any condition of the querier's.
CREATE FUNCTION tenancy.in_projects_support(internal) RETURNS internal
    STRICT LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_in_projects_support';
COMMENT ON FUNCTION tenancy.in_projects_support(internal) IS
    'Tells the planner what share of the rows in_projects() lets through, and by which part of an index (spec 9, 14)';
REVOKE ALL ON FUNCTION tenancy.in_projects_support(internal) FROM PUBLIC;

CREATE FUNCTION tenancy.in_projects(project uuid, cluster uuid, action text) RETURNS boolean
    STABLE LEAKPROOF PARALLEL SAFE COST 1 SUPPORT tenancy.in_projects_support
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_in_projects';
COMMENT ON FUNCTION tenancy.in_projects(uuid, uuid, text) IS
    'Whether the context may do an action in a row''s project, to which the session may have narrowed itself: in the policies of tables with a project column (spec 9)';

CREATE FUNCTION tenancy.project_from(action text) RETURNS uuid
    STABLE STRICT PARALLEL SAFE COST 1
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_project_from';
COMMENT ON FUNCTION tenancy.project_from(text) IS
    'The first of the projects in which the context may do an action, in an index''s order; stands in plans (spec 9)';

CREATE FUNCTION tenancy.project_to(action text) RETURNS uuid
    STABLE STRICT PARALLEL SAFE COST 1
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_project_to';
COMMENT ON FUNCTION tenancy.project_to(text) IS
    'The last of the projects in which the context may do an action, in an index''s order; stands in plans (spec 9)';

CREATE FUNCTION tenancy.project_ids(action text) RETURNS uuid[]
    STABLE STRICT PARALLEL SAFE COST 1
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_project_ids';
COMMENT ON FUNCTION tenancy.project_ids(text) IS
    'The projects in which the context may do an action, NULL where there is none; stands in plans (spec 9)';

CREATE FUNCTION tenancy.current_project() RETURNS uuid
    STABLE PARALLEL SAFE COST 1
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_current_project';
COMMENT ON FUNCTION tenancy.current_project() IS
    'The project that the session narrows itself to, NULL where it does not: the default of project columns (spec 9)';

CREATE FUNCTION tenancy.current_cluster() RETURNS uuid
    STABLE PARALLEL SAFE COST 1
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_current_cluster';
COMMENT ON FUNCTION tenancy.current_cluster() IS
    'The cluster that the session narrows itself to, NULL where it does not: the default of cluster columns (spec 9)';

COMMENT ON TABLE tenancy.projects IS 'Projects: an optional second boundary inside an organization (spec 9)';
COMMENT ON TABLE tenancy.clusters IS 'Clusters: an optional third boundary, inside a project (spec 9)';
COMMENT ON TABLE tenancy.project_members IS 'Which member of the organization has which role in which project (spec 9)';
COMMENT ON TABLE tenancy.project_role_permissions IS 'The actions that each project role adds inside its project (spec 9)';
COMMENT ON TABLE tenancy.project_settings IS 'Whether an organization''s owner and admins have no implicit access to restricted projects (spec 9)';

SELECT pg_catalog.pg_extension_config_dump('tenancy.projects', '');
SELECT pg_catalog.pg_extension_config_dump('tenancy.clusters', '');
SELECT pg_catalog.pg_extension_config_dump('tenancy.project_members', '');
SELECT pg_catalog.pg_extension_config_dump('tenancy.project_role_permissions', 'WHERE NOT is_system');
SELECT pg_catalog.pg_extension_config_dump('tenancy.project_settings', '');

GRANT SELECT ON tenancy.projects, tenancy.clusters, tenancy.project_members,
                tenancy.project_role_permissions, tenancy.project_settings TO PUBLIC;
ALTER TABLE tenancy.projects ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.clusters ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.project_members ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.project_role_permissions ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenancy.project_settings ENABLE ROW LEVEL SECURITY;

CREATE POLICY published ON tenancy.project_role_permissions FOR SELECT USING (true);
CREATE POLICY current_org ON tenancy.project_settings FOR SELECT USING (org_id = tenancy.current_org());
-- Each one function of the row's columns, which can come before any condition of the querier's (hooks/planner.rs).
CREATE POLICY visible ON tenancy.projects FOR SELECT
    USING (org_id = tenancy.current_org() AND tenancy.sees_project(id));
CREATE POLICY visible ON tenancy.clusters FOR SELECT
    USING (org_id = tenancy.current_org() AND tenancy.sees_project(project_id));
CREATE POLICY visible ON tenancy.project_members FOR SELECT
    USING (org_id = tenancy.current_org() AND tenancy.sees_project_member(project_id, user_id));

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['projects', 'clusters'] LOOP
        EXECUTE format('CREATE TRIGGER check_place BEFORE UPDATE OR DELETE ON tenancy.%I
                        FOR EACH ROW EXECUTE FUNCTION tenancy.check_place()', t);
        EXECUTE format('ALTER TABLE tenancy.%I ENABLE ALWAYS TRIGGER check_place', t);
    END LOOP;
END
$$;
