//! The rules of production protection as one table (spec 7): every write as every role and every kind of actor, confirmed and
//! not, on rows that have their environment in a column, from the row that they refer to, and from their project. What is
//! expected is said once, below, in the words of the specification.

use pg_tenancy_tests::{Session, World, refused};

/// Rows 1 are production, rows 2 staging, rows 3 have no environment.
const TABLES: &str = "
    CREATE TABLE machines (id int PRIMARY KEY, org_id uuid, name text, environment text);
    CREATE TABLE disks (id int PRIMARY KEY, org_id uuid, name text, machine_id int REFERENCES machines);
    CREATE TABLE apps (id int PRIMARY KEY, org_id uuid, name text, project_id uuid);
    GRANT ALL ON machines, disks, apps TO PUBLIC;
    SELECT tenancy.protect('machines', environment_column => 'environment');
    SELECT tenancy.protect('disks', environment_from => 'machine_id');
    SELECT tenancy.protect('apps', project_column => 'project_id', environment_from => 'project_id');";

/// How the environment of a table's rows is said.
struct Kind {
    table: &'static str,
    column: &'static str,
    /// What stands in the column for production, staging and none.
    values: [String; 3],
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Write {
    /// A new row of an environment.
    Insert(usize),
    /// A row of one, without touching its environment.
    Touch(usize),
    Delete(usize),
    /// From one to the other.
    Retag(usize, usize),
}

const PRODUCTION: usize = 0;
const WRITES: [Write; 15] = [
    Write::Insert(0),
    Write::Insert(1),
    Write::Insert(2),
    Write::Touch(0),
    Write::Touch(1),
    Write::Touch(2),
    Write::Delete(0),
    Write::Delete(1),
    Write::Delete(2),
    Write::Retag(0, 1),
    Write::Retag(0, 2),
    Write::Retag(1, 0),
    Write::Retag(1, 2),
    Write::Retag(2, 0),
    Write::Retag(2, 1),
];

impl Write {
    fn sql(self, kind: &Kind) -> String {
        let (table, column) = (kind.table, kind.column);
        let value = |i: usize| &kind.values[i];
        match self {
            Write::Insert(tag) => format!(
                "INSERT INTO {table} (id, {column}) VALUES (90, {})",
                value(tag)
            ),
            Write::Touch(tag) => format!("UPDATE {table} SET name = 'x' WHERE id = {}", tag + 1),
            Write::Delete(tag) => format!("DELETE FROM {table} WHERE id = {}", tag + 1),
            Write::Retag(from, to) => format!(
                "UPDATE {table} SET {column} = {} WHERE id = {}",
                value(to),
                from + 1
            ),
        }
    }

    fn takes_out_of_production(self) -> bool {
        match self {
            Write::Insert(_) | Write::Touch(_) => false,
            Write::Delete(tag) => tag == PRODUCTION,
            Write::Retag(from, to) => from == PRODUCTION && to != PRODUCTION,
        }
    }
}

struct Asked {
    role: &'static str,
    actor: &'static str,
    protected: bool,
    confirmed: bool,
}

impl Asked {
    /// The specification: roles write by their right, an AI by itself nothing, and production leaves by the owner, in person,
    /// who confirmed it.
    fn may(&self, write: Write) -> bool {
        let right = self.role != "viewer" && self.actor != "ai";
        let in_person = self.role == "owner" && self.actor == "human" && self.confirmed;
        right && (!self.protected || !write.takes_out_of_production() || in_person)
    }
}

fn begin(world: &World, app: &mut Session, who: &str, actor: &str) {
    world.begin(app, world.acme, who);
    app.run(&format!("SET LOCAL app.actor_type = '{actor}'"));
}

#[test]
fn every_write_as_every_role_and_actor_on_every_kind_of_table() {
    let world = World::people();
    let mut dba = world.superuser();
    let org = world.acme.id;
    dba.run(TABLES);
    dba.run(&format!(
        "SELECT tenancy.create_role('{org}', 'crew');
         SELECT tenancy.grant_permission('{org}', 'crew', 'data:read'); SELECT tenancy.grant_permission('{org}', 'crew', 'data:write');
         SELECT tenancy.set_member_role('{org}', '{}', 'crew')",
        world.user("agency")
    ));
    let mut project = |tag: &str| {
        let id = dba.text(&format!(
            "SELECT tenancy.create_project('{org}', 'p' || gen_random_uuid(), environment => {tag})"
        ));
        format!("'{id}'")
    };
    let projects = [
        project("'production'"),
        project("'staging'"),
        project("NULL"),
    ];
    let kinds = [
        Kind {
            table: "machines",
            column: "environment",
            values: ["'production'", "'staging'", "NULL"].map(String::from),
        },
        Kind {
            table: "disks",
            column: "machine_id",
            values: ["1", "2", "3"].map(String::from),
        },
        Kind {
            table: "apps",
            column: "project_id",
            values: projects,
        },
    ];
    // Those that disks refer to stay.
    let spared =
        |write: Write, kind: &Kind| kind.table == "machines" && matches!(write, Write::Delete(_));
    let mut glass = world.break_glass();
    for kind in &kinds {
        for (i, value) in kind.values.iter().enumerate() {
            glass.run(&format!(
                "INSERT INTO {} (id, org_id, {}) VALUES ({}, '{org}', {value})",
                kind.table,
                kind.column,
                i + 1
            ));
        }
    }
    let hashes = || {
        kinds
            .each_ref()
            .map(|kind| world.hash(kind.table, world.acme))
    };
    let before = hashes();
    let mut owner = world.session("acme.owner");
    let mut app = world.app();
    let (mut allowed, mut denied) = (0, 0);
    for protected in [false, true] {
        owner.run(&format!(
            "SELECT tenancy.set_production_protection('{org}', {protected})"
        ));
        for (role, who) in [
            ("owner", "acme.owner"),
            ("admin", "acme.admin"),
            ("member", "acme.member"),
            ("viewer", "acme.viewer"),
            ("crew", "agency"),
        ] {
            for actor in ["human", "ai", "service"] {
                for confirmed in [false, true] {
                    let asked = Asked {
                        role,
                        actor,
                        protected,
                        confirmed,
                    };
                    for kind in &kinds {
                        begin(&world, &mut app, who, actor);
                        for write in WRITES {
                            app.run("SAVEPOINT before");
                            if confirmed {
                                let said = app.attempt_within(&format!(
                                    "SELECT tenancy.confirm_production_delete('{}', '1', typed => '1')",
                                    kind.table
                                ));
                                if role == "owner" && actor == "human" {
                                    said.unwrap();
                                } else {
                                    refused(said, "42501");
                                }
                            }
                            let sql = write.sql(kind);
                            let said = app.attempt_within(&sql);
                            let told = format!("{sql} as {role} {actor} {confirmed} {protected}");
                            if !asked.may(write) {
                                denied += 1;
                                let error = said.err().unwrap_or_else(|| panic!("allowed: {told}"));
                                let code = error.code().map(|c| c.code().to_string());
                                assert_eq!(code.as_deref(), Some("42501"), "{told}: {error:?}");
                            } else if spared(write, kind) {
                                let error = said.unwrap_err();
                                let code = error.code().map(|c| c.code().to_string());
                                assert_eq!(code.as_deref(), Some("23503"), "{told}: {error:?}");
                            } else {
                                allowed += 1;
                                assert_eq!(said.unwrap_or_else(|e| panic!("{told}: {e:?}")), 1);
                            }
                            app.run("ROLLBACK TO before");
                        }
                        app.run("ROLLBACK");
                    }
                }
            }
        }
    }
    assert_eq!(hashes(), before);
    assert!(
        allowed > 1000 && denied > 1000,
        "{allowed} allowed, {denied} denied"
    );
}
