//! Acts on what an organization may have besides people: resource scopes, service accounts with their keys, projects,
//! protected production, quotas, and rows.

use std::sync::Mutex;
use std::sync::atomic::Ordering;

use pg_tenancy_tests::{Random, Session};

use crate::{Act, PEOPLE, Town};

/// Something that a client made, and the organization it is of.
pub type Made = Mutex<Vec<(String, String)>>;

const NOBODYS: &str = "00000000-0000-4000-8000-000000000001";

/// One of those that were made; nothing's id where there is none.
fn one_of(made: &Made, random: &mut Random, org: &str) -> (String, String) {
    let made = made.lock().unwrap();
    match made.len() {
        0 => (NOBODYS.into(), org.into()),
        n => made[random.next(n)].clone(),
    }
}

impl Town {
    pub fn later_act(&self, random: &mut Random, name: &str) -> Act {
        let orgs = self.orgs.lock().unwrap().clone();
        let place = random.next(orgs.len());
        let org = orgs[place].clone();
        let actor = random.next(PEOPLE);
        let user = &self.people[random.next(PEOPLE)];
        let server = (place + 1) * 1000 + 1 + random.next(3);
        let (org, operation, sql) = match random.next(100) {
            0..18 => {
                let access = random.one_of(&["full", "full", "read_only", "none"]);
                let about = format!("{user}', 'servers', '{server}");
                self.rules.lock().unwrap().push((about, org.clone()));
                let sql = format!(
                    "SELECT tenancy.set_scope('{org}', '{user}', 'servers', '{server}', '{access}')"
                );
                (org, "set_scope", sql)
            }
            18..25 => {
                let (about, org) = one_of(&self.rules, random, &org);
                let sql = format!("SELECT tenancy.remove_scope('{org}', '{about}')");
                (org, "remove_scope", sql)
            }
            25..32 => {
                let (about, org) = one_of(&self.rules, random, &org);
                let user = about.split('\'').next().unwrap_or_default();
                let sql = format!("SELECT tenancy.unscope_member('{org}', '{user}')");
                (org, "unscope_member", sql)
            }
            32..38 => {
                let role = random.one_of(&["admin", "member", "crew"]);
                let sql =
                    format!("SELECT tenancy.create_service_account('{org}', '{name}', '{role}')");
                (org, "create_service_account", sql)
            }
            38..46 => {
                let (account, org) = one_of(&self.accounts, random, &org);
                let sql = format!("SELECT tenancy.create_api_key('{account}')");
                (org, "create_api_key", sql)
            }
            46..50 => {
                let (key, org) = one_of(&self.keys, random, &org);
                let id = key.get(4..36).unwrap_or(NOBODYS);
                (
                    org,
                    "revoke_api_key",
                    format!("SELECT tenancy.revoke_api_key('{id}')"),
                )
            }
            50..54 => {
                let (account, org) = one_of(&self.accounts, random, &org);
                let role = random.one_of(&["member", "viewer", "crew"]);
                let sql = format!("SELECT tenancy.set_service_role('{account}', '{role}')");
                (org, "set_service_role", sql)
            }
            54..56 => {
                let (account, org) = one_of(&self.accounts, random, &org);
                let sql = format!("SELECT tenancy.drop_service_account('{account}')");
                (org, "drop_service_account", sql)
            }
            56..60 => {
                let access = random.one_of(&["open", "restricted"]);
                let sql = format!("SELECT tenancy.create_project('{org}', '{name}', '{access}')");
                (org, "create_project", sql)
            }
            60..64 => {
                let (project, org) = one_of(&self.projects, random, &org);
                (
                    org,
                    "delete_project",
                    format!("SELECT tenancy.delete_project('{project}')"),
                )
            }
            64..78 => {
                let (project, org) = one_of(&self.projects, random, &org);
                let role = random.one_of(&["project_admin", "project_operator", "project_viewer"]);
                let (operation, role) = match random.next(4) {
                    0 => ("set_project_role", format!(", '{role}'")),
                    1 => ("remove_project_member", String::new()),
                    _ => ("add_project_member", format!(", '{role}'")),
                };
                let sql = format!("SELECT tenancy.{operation}('{project}', '{user}'{role})");
                (org, operation, sql)
            }
            78..81 => {
                let (project, org) = one_of(&self.projects, random, &org);
                let access = random.one_of(&["open", "restricted"]);
                let sql = format!("SELECT tenancy.set_project_access('{project}', '{access}')");
                (org, "set_project_access", sql)
            }
            81..86 => {
                let on = random.percent(50);
                let sql = format!("SELECT tenancy.set_production_protection('{org}', {on})");
                (org, "set_production_protection", sql)
            }
            86..90 => {
                let most = random.one_of(&["NULL", "3", "4", "6"]);
                let sql = format!("SELECT tenancy.set_quota('{org}', 'servers', {most})");
                (org, "set_quota", sql)
            }
            90..96 => {
                let id = self.next.fetch_add(1, Ordering::SeqCst);
                let sql = format!("INSERT INTO servers (id, name) VALUES ({id}, '{name}')");
                (org, "INSERT", sql)
            }
            _ => {
                let (project, org) = one_of(&self.projects, random, &org);
                let id = self.next.fetch_add(1, Ordering::SeqCst);
                let sql = format!("INSERT INTO jobs (id, project_id) VALUES ({id}, '{project}')");
                (org, "INSERT", sql)
            }
        };
        (org, operation, sql, actor)
    }

    /// Makes an open transaction one that a key speaks for; the key's organization, unless the key was refused.
    pub fn speak_by_key(&self, session: &mut Session, random: &mut Random) -> Option<String> {
        let (key, org) = one_of(&self.keys, random, "");
        let spoke = session.attempt(&format!("SELECT tenancy.authenticate('{key}')"));
        spoke.is_ok().then_some(org)
    }

    /// What an act made that later ones name.
    pub fn keep(&self, operation: &str, answer: &str, org: &str) {
        let made = match operation {
            "create_service_account" => &self.accounts,
            "create_api_key" => &self.keys,
            "create_project" => &self.projects,
            _ => return,
        };
        made.lock().unwrap().push((answer.into(), org.into()));
    }
}
