//! What everybody may do by what the tables say, in plain SQL of this test's own, against what real statements do.

use pg_tenancy_tests::Session;

use crate::Town;

/// Tables of every kind: servers are resources, jobs are of projects, machines are all production.
pub const TABLES: &str = r#"
    CREATE TABLE jobs (id int PRIMARY KEY, org_id uuid, project_id uuid);
    CREATE TABLE machines (id int PRIMARY KEY, org_id uuid, name text DEFAULT 'm', environment text DEFAULT 'production');
    GRANT ALL ON jobs, machines TO PUBLIC;
    SELECT tenancy.protect('servers', resource_type => 'server', permissions => '{"select": "server:read",
        "insert": "server:create", "update": "server:update", "delete": "server:delete"}');
    SELECT tenancy.protect('jobs', project_column => 'project_id', permissions => '{"select": "server:read",
        "insert": "server:create", "update": "server:update", "delete": "server:delete"}');
    SELECT tenancy.protect('machines', environment_column => 'environment', permissions => '{"select": "server:read",
        "insert": "server:create", "update": "server:update", "delete": "server:delete"}');"#;

pub const MODEL: &str = "
    CREATE SCHEMA model;
    CREATE FUNCTION model.role(org uuid, u uuid) RETURNS text LANGUAGE sql AS $$
        SELECT CASE WHEN o.owner_id = u THEN 'owner' WHEN m.expires_at <= clock_timestamp() THEN NULL ELSE m.role END
        FROM tenancy.orgs o LEFT JOIN tenancy.memberships m ON m.org_id = o.id AND m.user_id = u
        WHERE o.id = org AND o.deleting_at IS NULL $$;
    CREATE FUNCTION model.holds(org uuid, role_name text, wanted text) RETURNS boolean LANGUAGE sql AS $$
        SELECT coalesce(role_name = 'owner' OR CASE
            WHEN EXISTS (SELECT FROM tenancy.custom_roles c WHERE c.org_id = org AND c.name = role_name)
            THEN EXISTS (SELECT FROM tenancy.custom_role_permissions p JOIN tenancy.custom_roles c
                                     ON c.org_id = p.org_id AND c.name = p.role AND c.active
                         WHERE p.org_id = org AND p.role = role_name AND p.action = wanted
                           AND p.environment = '' AND p.level = 'allow')
            ELSE EXISTS (SELECT FROM tenancy.role_permissions p
                         WHERE p.role = role_name AND p.action = wanted AND p.level = 'allow') END, false) $$;
    CREATE FUNCTION model.member_holds(org uuid, u uuid, wanted text) RETURNS boolean LANGUAGE sql AS $$
        SELECT model.holds(org, model.role(org, u), wanted) $$;
    CREATE FUNCTION model.limited(org uuid, u uuid) RETURNS boolean LANGUAGE sql AS $$
        SELECT EXISTS (SELECT FROM tenancy.memberships m
                       WHERE m.org_id = org AND m.user_id = u AND m.role <> 'owner' AND m.scoped) $$;
    CREATE FUNCTION model.servers(org uuid, u uuid, VARIADIC enough text[]) RETURNS SETOF int LANGUAGE sql AS $$
        SELECT s.id FROM servers s
        WHERE s.org_id = org
          AND (NOT model.limited(org, u)
               OR EXISTS (SELECT FROM tenancy.membership_scopes r
                          WHERE r.org_id = org AND r.user_id = u AND r.resource_type = 'server'
                            AND r.resource_id = s.id::text AND r.access = ANY (enough))) $$;
    CREATE FUNCTION model.jobs(org uuid, u uuid) RETURNS SETOF int LANGUAGE sql AS $$
        SELECT j.id FROM jobs j JOIN tenancy.projects p ON p.id = j.project_id
        WHERE j.org_id = org AND model.role(org, u) IS NOT NULL AND NOT model.limited(org, u)
          AND (model.member_holds(org, u, 'server:read') AND (p.access = 'open' OR model.member_holds(org, u, 'org:update'))
               OR EXISTS (SELECT FROM tenancy.project_members m
                               JOIN tenancy.project_role_permissions q ON q.role = m.role AND q.action = 'server:read'
                          WHERE m.project_id = p.id AND m.user_id = u)) $$;
    CREATE FUNCTION model.room(org uuid) RETURNS boolean LANGUAGE sql AS $$
        SELECT NOT EXISTS (SELECT FROM tenancy.quota_limits q
                           WHERE q.org_id = org AND q.maximum <= (SELECT count(*) FROM servers s WHERE s.org_id = org)) $$;";

/// Users, organizations and actions: what the model says of them, and what has_permission() does.
pub const RIGHTS: &str = "
    SELECT u.email, o.slug, a.name, tenancy.has_permission(u.id, o.id, a.name),
           model.member_holds(o.id, u.id, a.name) AND NOT model.limited(o.id, u.id)
    FROM tenancy.users u CROSS JOIN tenancy.orgs o
         CROSS JOIN unnest(ARRAY['server:read', 'server:create', 'site:deploy', 'team:invite', 'org:audit', 'org:delete']) a (name)
    WHERE o.deleting_at IS NULL";

/// Sixty of everybody in every organization; a list of networks admits nobody where the application names no address. An
/// AI actor changes no row by itself, and protected production goes for nobody without a confirmation.
const PEOPLE: &str = "
    WITH asked AS (
        SELECT u.id AS who, o.id AS org, o.suspended_at IS NOT NULL AS asleep, o.production_protection AS protected,
               coalesce(m.allowed_networks IS NULL OR o.owner_id = u.id, true) AS here,
               (SELECT min(id) FROM servers s WHERE s.org_id = o.id) AS first
        FROM tenancy.users u CROSS JOIN tenancy.orgs o LEFT JOIN tenancy.memberships m ON m.org_id = o.id AND m.user_id = u.id
        WHERE o.deleting_at IS NULL AND u.external_key LIKE 'p%' AND o.slug NOT IN ('acme', 'globex')
        ORDER BY model.role(o.id, u.id) IS NULL, md5(u.id::text || o.id::text) LIMIT 60),
    may AS (
        SELECT asked.*, here AND model.member_holds(org, who, 'server:read') AS sees,
               here AND NOT asleep AND model.member_holds(org, who, 'server:create') AND NOT model.limited(org, who) AS makes,
               here AND NOT asleep AND model.member_holds(org, who, 'server:read')
                    AND model.member_holds(org, who, 'server:update') AS changes,
               here AND NOT asleep AND model.member_holds(org, who, 'server:read')
                    AND model.member_holds(org, who, 'server:delete') AS removes
        FROM asked)
    SELECT who, org, model.role(org, who), model.limited(org, who),
           ARRAY(SELECT s FROM model.servers(org, who, 'full', 'read_only') s WHERE sees ORDER BY s),
           ARRAY(SELECT j FROM model.jobs(org, who) j WHERE here ORDER BY j),
           makes AND model.room(org),
           coalesce(changes AND first IN (SELECT model.servers(org, who, 'full')), false),
           false,
           removes AND NOT protected AND NOT model.limited(org, who) AND EXISTS (SELECT FROM machines m WHERE m.org_id = org),
           coalesce(first, 0)
    FROM may ORDER BY 1, 2";

/// A key, found by its id: whether it is good, what its account sees, and whether that makes a server.
const KEY: &str = "
    SELECT k.id IS NOT NULL,
           ARRAY(SELECT s FROM model.servers(k.org_id, k.sponsor, 'full', 'read_only') s
                 WHERE model.holds(k.org_id, k.role, 'server:read') AND model.member_holds(k.org_id, k.sponsor, 'server:read')
                 ORDER BY s),
           coalesce(model.holds(k.org_id, k.role, 'server:create') AND model.member_holds(k.org_id, k.sponsor, 'server:create')
                    AND NOT model.limited(k.org_id, k.sponsor) AND NOT k.asleep AND model.room(k.org_id), false)
    FROM (SELECT) one LEFT JOIN
         (SELECT k.id, k.org_id, a.role, a.sponsor_id AS sponsor, o.suspended_at IS NOT NULL AS asleep
          FROM tenancy.api_keys k JOIN tenancy.service_accounts a ON a.id = k.service_account_id AND a.disabled_at IS NULL
               JOIN tenancy.orgs o ON o.id = k.org_id
          WHERE k.hash IS NOT NULL AND model.role(k.org_id, a.sponsor_id) IS NOT NULL) k ON k.id = $1";

/// How many rows a statement touches that is then undone; None where it is refused.
fn tried(app: &mut Session, sql: &str) -> Option<u64> {
    app.run("SAVEPOINT tried");
    let done = app.attempt(sql).ok();
    app.run("ROLLBACK TO tried");
    done
}

fn shown(app: &mut Session, table: &str) -> String {
    let ids = app.column(&format!("SELECT id FROM {table} ORDER BY id"));
    format!("{{{}}}", ids.join(","))
}

const PROBE: &str = "INSERT INTO servers (id, name) VALUES (-1, 'probe')";

impl Town {
    /// Real statements of people and of keys, against what the model says they do.
    pub fn statements(&self, wrong: &mut Vec<String>) {
        let mut glass = self.world.break_glass();
        let mut app = self.world.app();
        let mut compare = |what: &str, row: &[Option<String>], real: &[(usize, String)]| {
            for (column, real) in real {
                if row[*column].as_deref() != Some(real) {
                    wrong.push(format!("{what}: column {column} is {real} of {row:?}"));
                }
            }
        };
        let flag = |done: bool| (if done { "t" } else { "f" }).to_string();
        for row in glass.rows(PEOPLE) {
            let text = |i: usize| row[i].clone().unwrap_or_default();
            app.run(&format!(
                "BEGIN; SET LOCAL app.current_org = '{}'; SET LOCAL app.current_user_id = '{}'",
                text(1),
                text(0)
            ));
            let mut real = vec![
                (4, shown(&mut app, "servers")),
                (5, shown(&mut app, "jobs")),
            ];
            real.push((6, flag(tried(&mut app, PROBE).is_some())));
            let change = format!("UPDATE servers SET cpus = cpus WHERE id = {}", text(10));
            real.push((7, flag(tried(&mut app, &change) == Some(1))));
            let removed = tried(&mut app, "DELETE FROM machines");
            real.push((9, flag(removed == Some(1))));
            app.run("SET LOCAL app.actor_type = 'ai'");
            let changed = tried(&mut app, "UPDATE machines SET name = 'by a machine'");
            real.push((8, flag(changed == Some(1))));
            app.run("ROLLBACK");
            compare("statement", &row, &real);
        }
        for (key, _) in self.keys.lock().unwrap().iter() {
            let row = &glass.rows(&KEY.replace("$1", &format!("'{}'", &key[4..36])))[0];
            app.run("BEGIN");
            let good = tried(&mut app, &format!("SELECT tenancy.authenticate('{key}')"));
            let mut real = vec![(0, flag(good.is_some()))];
            if good.is_some() {
                app.run(&format!("SELECT tenancy.authenticate('{key}')"));
                real.push((1, shown(&mut app, "servers")));
                real.push((2, flag(tried(&mut app, PROBE).is_some())));
            }
            app.run("ROLLBACK");
            compare("key", row, &real);
        }
        // What is counted is what is there.
        for row in glass.rows(
            "WITH q AS MATERIALIZED (SELECT q.org_id FROM tenancy.quota_limits q JOIN tenancy.orgs o ON o.id = q.org_id
                                     WHERE o.deleting_at IS NULL)
             SELECT q.org_id, c.used, (SELECT count(*) FROM servers s WHERE s.org_id = q.org_id)
             FROM q, LATERAL (SELECT used::bigint FROM tenancy.list_quotas(q.org_id)) c",
        ) {
            if row[1] != row[2] {
                wrong.push(format!("quota: {row:?}"));
            }
        }
    }
}
