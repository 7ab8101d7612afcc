# shellcheck shell=bash
chapter "7. Projects: a second boundary inside an organization"

printf '\n'
load postgres projects.sql
keep=yes answers "(1 row)" "Ben makes a restricted project, and one that is open to Acme's members" ben acme <<'SQL'
SELECT tenancy.create_cluster(tenancy.create_project(:'acme', 'production', 'restricted'), 'eu') IS NOT NULL AS made;
SELECT tenancy.create_project(:'acme', 'staging') IS NOT NULL AS made;
SQL
keep=yes answers "(1 row)" "Vic, a viewer, becomes an operator of production" ben acme <<'SQL'
SELECT tenancy.add_project_member(id, :'vic', 'project_operator') FROM tenancy.projects WHERE name = 'production';
SQL
answers "(1 row)" "Mia, a member, does not even see that production is there" mia acme <<'SQL'
SELECT name, access FROM tenancy.projects;
SQL
keep=yes answers "INSERT 0 1" "Vic rolls out in production, which fills itself in" vic acme <<'SQL'
SET LOCAL app.current_project = 'production';
SET LOCAL app.current_cluster = 'eu';
INSERT INTO rollouts (id, version) VALUES (1, '2.0');
SQL
refused 42501 "in staging he stays what he is in Acme, a viewer" vic acme <<'SQL'
INSERT INTO rollouts (id, project_id, version) SELECT 2, id, '2.0' FROM tenancy.projects WHERE name = 'staging';
SQL
keep=yes answers "INSERT 0 1" "Mia rolls out in staging, by her role in Acme" mia acme <<'SQL'
SET LOCAL app.current_project = 'staging';
INSERT INTO rollouts (id, version) VALUES (3, '2.1');
SQL
refused 42501 "Vic reads that one and does not change it: an error, and not zero rows" vic acme <<'SQL'
SELECT version FROM rollouts WHERE id = 3;
UPDATE rollouts SET version = '2.2' WHERE id = 3;
SQL
answers "(0 rows)" "Mia sees no row of production" mia acme <<'SQL'
SELECT version FROM rollouts WHERE id = 1;
SQL
answers "UPDATE 0" "and meets none when she writes" mia acme <<'SQL'
UPDATE rollouts SET version = '6.6' WHERE id = 1;
SQL
production=$(scalar ben acme <<<"SELECT id FROM tenancy.projects WHERE name = 'production';")
refused 23503 "a row names no project that she does not see" mia acme <<SQL
UPDATE rollouts SET project_id = '$production' WHERE id = 3;
SQL
first=$raw
refused 23503 "and the error is the one for a project that does not exist" mia acme <<SQL
UPDATE rollouts SET project_id = '00000000-0000-4000-8000-000000000001' WHERE id = 3;
SQL
same "word for word" "${first//$production/ID}" "${raw//00000000-0000-4000-8000-000000000001/ID}"
refused 23503 "a project with rows in it is not deleted" ben acme <<SQL
SELECT tenancy.delete_project('$production');
SQL
answers "(3 rows)" "who may deploy in production, service accounts and roles in projects included" ben acme <<SQL
SELECT email, role, project_role FROM tenancy.who_can('app:deploy', project => '$production');
SQL
answers "(1 row)" "which boundary suits whom, with the reasons" ben acme <<'SQL'
SELECT * FROM tenancy.recommend_isolation(per_environment_access => true);
SQL
