-- What is rolled out, project by project: the rows belong to a project of their organization, and perhaps to one of its clusters.
CREATE TABLE rollouts (
  id         int PRIMARY KEY,
  org_id     uuid NOT NULL,
  project_id uuid NOT NULL,
  cluster_id uuid,
  version    text NOT NULL
);
SELECT tenancy.protect('rollouts', project_column => 'project_id', cluster_column => 'cluster_id', permissions => '{
  "select": "app:read",
  "insert": "app:deploy",
  "update": "app:manage",
  "delete": "app:delete"}');
GRANT SELECT, INSERT, UPDATE, DELETE ON rollouts TO panel_app;
