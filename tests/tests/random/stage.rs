//! The database that the acts are played on, and the sessions that play them.

use pg_tenancy_tests::{Db, Error, Session};
use postgres::SimpleQueryMessage;

use crate::act::{Act, DBA, LOGINS, ORGS, USERS};
use crate::govern::Standing;
use crate::model::{Model, Names, Outcome};
use crate::say::Ids;

pub struct Stage {
    db: Db,
    pub ids: Ids,
    sessions: Vec<Session>,
    /// Sessions that were connected with start-up options.
    changed: Vec<bool>,
    pub admin: Session,
}

/// A hang would be one that the model does not know of.
const PATIENCE: &str = "-c lock_timeout=5s";

/// Everything is text: the first column of every row, and how many rows the last statement returned or changed.
fn answer(session: &mut Session, sql: &str) -> Result<(Vec<String>, u64), Error> {
    let mut values = vec![];
    let mut count = 0;
    for message in session.simple_query(sql)? {
        match message {
            SimpleQueryMessage::Row(row) => values.extend(row.get(0).map(String::from)),
            SimpleQueryMessage::CommandComplete(n) => count = n,
            _ => {}
        }
    }
    Ok((values, count))
}

impl Stage {
    pub fn new() -> Stage {
        let db = Db::fresh();
        let mut admin = db.break_glass();
        let logins: Vec<String> = LOGINS.iter().map(|name| db.role(name)).collect();
        admin.run(
            r#"CREATE TABLE servers (id int PRIMARY KEY, org_id uuid, name text NOT NULL);
               CREATE TABLE sites (id int PRIMARY KEY, org_id uuid, name text NOT NULL,
                   server_id int NOT NULL REFERENCES servers ON DELETE CASCADE);
               GRANT SELECT, INSERT, UPDATE, DELETE ON servers, sites TO PUBLIC;
               SELECT tenancy.protect('servers', permissions => '{"select": "server:read", "insert": "server:create",
                   "update": "server:update", "delete": "server:delete"}');
               SELECT tenancy.protect('sites', permissions => '{"select": "site:read", "insert": "site:deploy",
                   "update": "site:manage", "delete": "site:delete"}');
               CREATE FUNCTION fetch_held() RETURNS text LANGUAGE plpgsql AS
                   $$ DECLARE c refcursor := 'held'; n text; BEGIN FETCH c INTO n; RETURN n; END $$"#,
        );
        let mut id = |sql: String| admin.text(&sql);
        let users: Vec<String> = USERS
            .iter()
            .map(|u| {
                id(format!(
                    "SELECT tenancy.create_user('{u}@model.test', '{u}', external_key => 'key-{u}')"
                ))
            })
            .collect();
        let orgs: Vec<String> = ORGS
            .iter()
            .zip(&users)
            .map(|(o, owner)| {
                id(format!("SELECT tenancy.create_org('{o}', '{o}', owner => '{owner}', external_key => 'key-{o}')"))
            })
            .collect();
        let mut whose = String::from("none");
        for (slug, id) in ORGS.iter().zip(&orgs) {
            whose = format!(
                "' || CASE tenancy.current_org() WHEN '{id}' THEN '{slug}' ELSE '{whose}' END || '"
            );
            for table in ["servers", "sites"] {
                admin.run(&format!(
                    "CREATE FUNCTION look_at_{table}_in_{slug}() RETURNS SETOF text LANGUAGE plpgsql
                         SET app.current_org = 'key-{slug}' AS $$ BEGIN RETURN QUERY SELECT name FROM public.{table}; END $$"
                ));
            }
        }
        admin.run(&format!(
            "CREATE FUNCTION whose_name(fresh text) RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT '{whose}-' || fresh $$"
        ));
        for (n, login) in logins.iter().enumerate() {
            let strength = if n == DBA { "SUPERUSER" } else { "" };
            admin.run(&format!("CREATE ROLE {login} LOGIN {strength}"));
        }
        let mut stage = Stage {
            sessions: vec![],
            changed: vec![false; logins.len()],
            ids: Ids {
                orgs,
                users,
                logins,
            },
            admin,
            db,
        };
        stage.sessions = (0..LOGINS.len()).map(|n| stage.connect(n, "")).collect();
        stage
    }

    fn connect(&self, n: usize, options: &str) -> Session {
        let mut session = self
            .db
            .login_with(&self.ids.logins[n], &format!("{PATIENCE} {options}"));
        prepare(&mut session);
        session
    }

    /// The play goes on elsewhere.
    pub fn clear_away(self) {
        let Stage { db, .. } = self;
        let drop = format!("DROP DATABASE {} WITH (FORCE)", db.name);
        let mut admin = db.cluster.superuser("postgres");
        admin.batch_execute(&drop).expect("a database less");
    }

    /// Brings everything to where the model begins.
    pub fn reset(&mut self, model: &Model) {
        for n in 0..self.sessions.len() {
            if std::mem::take(&mut self.changed[n]) {
                self.sessions[n] = self.connect(n, "");
            } else {
                self.sessions[n].run("ROLLBACK");
                self.sessions[n].run("DISCARD ALL");
                prepare(&mut self.sessions[n]);
            }
        }
        let ids = &self.ids;
        let mut sql = String::from(
            "DELETE FROM sites; DELETE FROM servers; DELETE FROM tenancy.login_bindings;",
        );
        for (org, owner) in ids.orgs.iter().zip(&model.owners) {
            sql += &format!(
                "UPDATE tenancy.orgs SET owner_id = '{}' WHERE id = '{org}';",
                ids.users[*owner]
            );
        }
        sql += "DELETE FROM tenancy.memberships WHERE role <> 'owner';";
        for ((org, user), member) in &model.members {
            sql += &Act::Add {
                org: *org,
                user: *user,
                role: member.role,
                by_dba: true,
            }
            .sql(ids, 0, 0);
            sql += ";";
        }
        for (login, principal) in model.principals.iter().enumerate() {
            use crate::model::Principal::*;
            let act = match *principal {
                User(user) => Act::Bind { login, user },
                Application { session_scope } => Act::Trust {
                    login,
                    session_scope,
                },
                Nobody | Dba => continue,
            };
            sql += &act.sql(ids, 0, 0);
            sql += ";";
        }
        for ((table, id), row) in &model.rows {
            let (columns, server) = match row.server {
                Some(server) => (", server_id", format!(", {server}")),
                None => ("", String::new()),
            };
            sql += &format!(
                "INSERT INTO {} (id, org_id, name{columns}) VALUES ({id}, '{}', '{}'{server});",
                table.name(),
                ids.orgs[row.org],
                row.name
            );
        }
        self.admin.run(&sql);
    }

    /// Plays an act and tells what came of it, in the model's words.
    pub fn play(
        &mut self,
        n: usize,
        act: &Act,
        sql: &str,
        by_dba: bool,
    ) -> Result<Outcome, String> {
        if let Act::Reconnect(_) = act {
            self.sessions[n] = self.connect(n, sql);
            self.changed[n] = true;
            return Ok(Outcome::Done);
        }
        let session = if by_dba {
            &mut self.admin
        } else {
            &mut self.sessions[n]
        };
        let result = answer(session, sql);
        let (values, count) = match result {
            Ok(answer) => answer,
            Err(error) => {
                let Some(db) = error.as_db_error() else {
                    return Err(format!("the connection broke: {error:?}"));
                };
                let codes = [
                    "22012", "22023", "23503", "23505", "23514", "25001", "25P01", "25P02",
                    "34000", "42501", "55000", "P0002",
                ];
                let Some(code) = codes.into_iter().find(|c| *c == db.code().code()) else {
                    return Err(format!("no refusal that is known: {db:?}"));
                };
                return Ok(Outcome::Refused(code));
            }
        };
        Ok(match act {
            Act::SayAndLook(..) | Act::Look(..) | Act::FetchHeld { .. } => {
                Outcome::Rows(values.into_iter().collect::<Names>())
            }
            Act::Insert { .. }
            | Act::Upsert { .. }
            | Act::Rename { .. }
            | Act::MoveOrg { .. }
            | Act::MoveSite { .. }
            | Act::Delete { .. }
            | Act::Expire { .. } => Outcome::Count(count),
            _ => Outcome::Done,
        })
    }

    /// Who a session is by its own account.
    pub fn ask(&mut self, n: usize) -> Result<Standing, String> {
        let sql = "SELECT coalesce(tenancy.current_org()::text, '') UNION ALL SELECT coalesce(tenancy.current_user_id()::text, '')
                   UNION ALL SELECT coalesce(tenancy.current_role_name(), '')";
        let (values, _) = answer(&mut self.sessions[n], sql).map_err(|e| format!("{e:?}"))?;
        let number = |ids: &[String], id: &String| ids.iter().position(|one| one == id);
        let place = number(&self.ids.orgs, &values[0]);
        let role = ["owner", "admin", "member", "viewer", "dba"]
            .into_iter()
            .find(|r| *r == values[2]);
        if place.is_some() != role.is_some() || place.is_some() == values[0].is_empty() {
            return Err(format!("no such standing: {values:?}"));
        }
        Ok(Standing {
            user: number(&self.ids.users, &values[1]),
            place: place.zip(role),
        })
    }

    /// The whole database's contents, compared with the model's.
    pub fn compare(&mut self, model: &Model) -> Result<(), String> {
        for session in &mut self.sessions {
            session.run("ROLLBACK");
        }
        let ids = &self.ids;
        let mut expected: Vec<String> = vec![];
        for ((table, id), row) in &model.rows {
            let server = row.server.map_or(String::new(), |s| s.to_string());
            expected.push(format!(
                "{} {id} {} {} {server}",
                table.name(),
                ids.orgs[row.org],
                row.name
            ));
        }
        for ((org, user), member) in &model.members {
            expected.push(format!(
                "member {} {} {} {}",
                ids.orgs[*org], ids.users[*user], member.role, member.expired
            ));
        }
        for (org, owner) in model.owners.iter().enumerate() {
            expected.push(format!(
                "member {} {} owner false",
                ids.orgs[org], ids.users[*owner]
            ));
            expected.push(format!("org {} {}", ids.orgs[org], ids.users[*owner]));
        }
        let mut found = self.admin.column(
            "SELECT concat_ws(' ', 'servers', id, org_id, name, '') FROM servers
             UNION ALL SELECT concat_ws(' ', 'sites', id, org_id, name, server_id) FROM sites
             UNION ALL SELECT concat_ws(' ', 'member', org_id, user_id, role, (expires_at IS NOT NULL)::text) FROM tenancy.memberships
             UNION ALL SELECT concat_ws(' ', 'org', id, owner_id) FROM tenancy.orgs",
        );
        expected.sort();
        found.sort();
        if expected == found {
            return Ok(());
        }
        let without = |all: &[String], other: &[String]| -> Vec<String> {
            all.iter()
                .filter(|one| !other.contains(one))
                .cloned()
                .collect()
        };
        Err(format!(
            "the database holds {:#?} where the model has {:#?}",
            without(&found, &expected),
            without(&expected, &found)
        ))
    }
}

fn prepare(session: &mut Session) {
    session.run(
        "PREPARE look_servers AS SELECT name FROM servers; PREPARE look_sites AS SELECT name FROM sites; SELECT tenancy.current_org()",
    );
}
