//! What these tests start from.

use pg_tenancy_tests::{Error, Session, World, refused};

pub const NOBODYS: &str = "00000000-0000-4000-8000-000000000001";

/// Apps are of the environment of their project, nodes of that of their cluster, else of their project, and parts of that of
/// their app. Each project has two of each: those of `prod` have the ids 1 and 2, of `staging` 3 and 4, of `plain`, which has
/// no tag, 5 and 6. Globex has a production project with 101.
pub struct Stage {
    pub world: World,
    pub prod: String,
    pub staging: String,
    pub plain: String,
    pub theirs: String,
}

const TABLES: &str = "
    CREATE TABLE apps (id int PRIMARY KEY, org_id uuid, project_id uuid, name text NOT NULL DEFAULT 'a');
    CREATE TABLE parts (id int PRIMARY KEY, org_id uuid, app_id int REFERENCES apps ON UPDATE CASCADE ON DELETE CASCADE);
    CREATE TABLE nodes (id int PRIMARY KEY, org_id uuid, project_id uuid, cluster_id uuid);
    GRANT ALL ON apps, parts, nodes TO PUBLIC;
    SELECT tenancy.protect('apps', project_column => 'project_id', environment_from => 'project_id');
    SELECT tenancy.protect('parts', environment_from => 'app_id');
    SELECT tenancy.protect('nodes', project_column => 'project_id', cluster_column => 'cluster_id', environment_from => 'cluster_id');";

impl Stage {
    pub fn new() -> Stage {
        let stage = Stage::open();
        stage.protect(true);
        stage
    }

    pub fn open() -> Stage {
        let world = World::people();
        let mut dba = world.superuser();
        dba.run(TABLES);
        let mut made = |org: pg_tenancy_tests::Org, name: &str, tag: &str, first: i32| {
            let project = dba.text(&format!(
                "SELECT tenancy.create_project('{}', '{name}', environment => {tag})",
                org.id
            ));
            world.break_glass().run(&format!(
                "INSERT INTO apps (id, org_id, project_id) SELECT i, '{id}', '{project}' FROM generate_series({first}, {first} + 1) i;
                 INSERT INTO parts (id, org_id, app_id) SELECT i, '{id}', i FROM generate_series({first}, {first} + 1) i;
                 INSERT INTO nodes (id, org_id, project_id) SELECT i, '{id}', '{project}' FROM generate_series({first}, {first} + 1) i",
                id = org.id
            ));
            project
        };
        let prod = made(world.acme, "prod", "'production'", 1);
        let staging = made(world.acme, "staging", "'staging'", 3);
        let plain = made(world.acme, "plain", "NULL", 5);
        let theirs = made(world.globex, "theirs", "'production'", 101);
        Stage {
            world,
            prod,
            staging,
            plain,
            theirs,
        }
    }

    pub fn protect(&self, enabled: bool) {
        self.owner().run(&format!(
            "SELECT tenancy.set_production_protection('{}', {enabled})",
            self.world.acme.id
        ));
    }

    pub fn owner(&self) -> Session {
        self.world.session("acme.owner")
    }

    pub fn admin(&self) -> Session {
        self.world.session("acme.admin")
    }

    /// The application in a transaction for a user, as an actor of a type.
    pub fn acting(&self, who: &str, actor: &str) -> Session {
        let mut app = self.world.app();
        self.world.begin(&mut app, self.world.acme, who);
        app.run(&format!("SET LOCAL app.actor_type = '{actor}'"));
        app
    }

    pub fn hashes(&self) -> [String; 3] {
        ["apps", "parts", "nodes"].map(|table| self.world.hash(table, self.world.acme))
    }

    pub fn tag(&self, project: &str) -> String {
        self.world
            .break_glass()
            .value(&format!(
                "SELECT environment FROM tenancy.projects WHERE id = '{project}'"
            ))
            .unwrap_or_default()
    }

    pub fn cluster(&self, project: &str, name: &str, tag: &str) -> String {
        self.admin().text(&format!(
            "SELECT tenancy.create_cluster('{project}', '{name}', {tag})"
        ))
    }
}

pub fn confirm(table: &str, key: &str) -> String {
    format!("SELECT tenancy.confirm_production_delete('{table}', '{key}', typed => '{key}')")
}

pub fn retag(project: &str, tag: &str) -> String {
    format!("SELECT tenancy.set_project_environment('{project}', {tag})")
}

#[track_caller]
pub fn about_production<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = refused(result, "42501");
    assert!(error.message().contains("production"), "{error:?}");
}
