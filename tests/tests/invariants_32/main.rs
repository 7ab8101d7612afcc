//! Thirty-two sessions that do everything at once, and a checker after each round: exactly one owner per organization, no
//! right without a live grant, every change in the audit. Section 3 of the
//! specification, issue 7.8.

mod later;
mod model;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Barrier, Mutex};

use pg_tenancy_tests::{Random, Session, World, few_or_many};

use later::Made;

const CLIENTS: usize = 32;
const PEOPLE: usize = 10;
const ACTS: usize = 10;
const ROLES: [&str; 5] = ["admin", "member", "viewer", "crew", "crew"];
const ACTIONS: [&str; 6] = [
    "server:read",
    "server:create",
    "site:deploy",
    "team:invite",
    "org:audit",
    "org:delete",
];
/// What may be refused: no right; nothing to change; the owner rule; taken; not a member; the role or the project is in use;
/// above the quota.
const REFUSALS: [&str; 10] = [
    "42501", "22023", "23514", "23505", "P0002", "23503", "55006", "2BP01", "42710", "54000",
];

/// Organizations whose owner's membership row is not the one mirror of orgs.owner_id, or is held to anything.
const BROKEN: &str = "
    SELECT o.slug FROM tenancy.orgs o
    WHERE ARRAY(SELECT m.user_id FROM tenancy.memberships m WHERE m.org_id = o.id AND m.role = 'owner')
          IS DISTINCT FROM ARRAY[o.owner_id]
    UNION ALL
    SELECT 'limited owner of ' || m.org_id FROM tenancy.memberships m
    WHERE m.role = 'owner' AND (m.expires_at IS NOT NULL OR m.allowed_networks IS NOT NULL OR m.scoped)";

/// What succeeds without a change, and without a line in the log, where it says what is so already.
const IDLE: [&str; 2] = ["grant_permission", "set_quota"];

/// Acts that reported success: organization and operation to how often.
type Done = BTreeMap<(String, String), i64>;

/// An act: the organization it is about, its name in the log, the statement, and who does it.
type Act = (String, &'static str, String, usize);

struct Town {
    world: World,
    people: Vec<String>,
    /// Ids of organizations, deleted ones too; tokens of invitations with whom they are for; ids of invitations.
    orgs: Mutex<Vec<String>>,
    tokens: Mutex<Vec<(String, usize)>>,
    invitations: Mutex<Vec<String>>,
    /// Rules of scopes, service accounts, API keys and projects, with their organizations; the next row's id.
    rules: Made,
    accounts: Made,
    keys: Made,
    projects: Made,
    next: AtomicUsize,
    done: Mutex<Done>,
}

impl Town {
    fn new() -> Town {
        let world = World::unprotected();
        let mut dba = world.superuser();
        dba.run(model::TABLES);
        dba.run(model::MODEL);
        let people = (0..PEOPLE)
            .map(|i| {
                dba.text(&format!(
                    "SELECT tenancy.create_user('p{i}@x.test', external_key => 'p{i}')"
                ))
            })
            .collect();
        let town = Town {
            world,
            people,
            orgs: Mutex::default(),
            tokens: Mutex::default(),
            invitations: Mutex::default(),
            rules: Mutex::default(),
            accounts: Mutex::default(),
            keys: Mutex::default(),
            projects: Mutex::default(),
            next: AtomicUsize::new(1_000_000),
            done: Mutex::default(),
        };
        for i in 0..4 {
            town.new_org(&mut dba, &format!("first-{i}"), i);
        }
        town
    }

    /// An organization with a role of its own, a member of each role, a service account with a key, two projects, and rows
    /// of every kind: its servers have ids from a thousand times its number.
    fn new_org(&self, dba: &mut Session, slug: &str, owner: usize) {
        let org = dba.text(&format!(
            "SELECT tenancy.create_org('Org {slug}', '{slug}', owner => '{}')",
            self.people[owner]
        ));
        let mut make = |operation: &str, sql: &str| {
            let made = dba.text(sql);
            self.count(&org, operation);
            self.keep(operation, &made, &org);
            made
        };
        make(
            "create_role",
            &format!("SELECT tenancy.create_role('{org}', 'crew', clone_of => 'member')"),
        );
        let account = make(
            "create_service_account",
            &format!("SELECT tenancy.create_service_account('{org}', 'first', 'member')"),
        );
        make(
            "create_api_key",
            &format!("SELECT tenancy.create_api_key('{account}')"),
        );
        let [open, closed] = ["open", "restricted"].map(|access| {
            let sql = format!("SELECT tenancy.create_project('{org}', '{access}', '{access}')");
            make("create_project", &sql)
        });
        let first = (self.orgs.lock().unwrap().len() + 1) * 1000;
        dba.run(&format!(
            "BEGIN; SET LOCAL app.current_org = '{org}'; SET LOCAL app.current_user_id = '{}';
             INSERT INTO servers (id, name) SELECT {first} + i, 'first' FROM generate_series(1, 3) i;
             INSERT INTO machines (id) VALUES ({first});
             INSERT INTO jobs (id, project_id) VALUES ({first}, '{open}'), ({first} + 1, '{closed}'); COMMIT",
            self.people[owner]
        ));
        let about = format!("{}', 'servers', '{}", self.people[owner], first + 1);
        self.rules.lock().unwrap().push((about, org.clone()));
        self.count(&org, "create_org");
        (0..6).for_each(|_| self.count(&org, "INSERT"));
        for (i, role) in ROLES[..4].iter().enumerate() {
            let user = &self.people[(owner + 1 + i) % PEOPLE];
            dba.run(&format!(
                "SELECT tenancy.add_member('{org}', '{user}', '{role}')"
            ));
            self.count(&org, "add_member");
        }
        // An admin's account is left above him who answers for it.
        let admin = &self.people[(owner + 1) % PEOPLE];
        dba.run(&format!(
            "BEGIN; SET LOCAL app.current_org = '{org}'; SET LOCAL app.current_user_id = '{admin}'"
        ));
        let account = dba.text(&format!(
            "SELECT tenancy.create_service_account('{org}', 'second', 'admin')"
        ));
        let key = dba.text(&format!("SELECT tenancy.create_api_key('{account}')"));
        for (operation, made) in [("create_service_account", account), ("create_api_key", key)] {
            self.count(&org, operation);
            self.keep(operation, &made, &org);
        }
        dba.run(&format!(
            "COMMIT; SELECT tenancy.set_member_role('{org}', '{admin}', 'viewer'),
                            tenancy.add_member('{org}', '{}', 'admin'),
                            tenancy.set_production_protection('{org}', {})",
            self.people[(owner + 5) % PEOPLE],
            owner.is_multiple_of(2)
        ));
        for operation in ["set_member_role", "add_member", "set_production_protection"] {
            self.count(&org, operation);
        }
        self.orgs.lock().unwrap().push(org);
    }

    fn count(&self, org: &str, operation: &str) {
        *self
            .done
            .lock()
            .unwrap()
            .entry((org.into(), operation.into()))
            .or_default() += 1;
    }

    /// An act by chance.
    fn act(&self, random: &mut Random, name: &str) -> Act {
        if random.percent(50) {
            return self.later_act(random, name);
        }
        let orgs = self.orgs.lock().unwrap().clone();
        let org = orgs[random.next(orgs.len())].clone();
        let who = random.next(PEOPLE);
        let user = &self.people[who];
        let role = ROLES[random.next(ROLES.len())];
        let mut actor = random.next(PEOPLE);
        let (operation, sql) = match random.next(100) {
            0..10 => (
                "add_member",
                format!("SELECT tenancy.add_member('{org}', '{user}', '{role}')"),
            ),
            10..22 => (
                "set_member_role",
                format!("SELECT tenancy.set_member_role('{org}', '{user}', '{role}')"),
            ),
            22..32 => (
                "remove_member",
                format!("SELECT tenancy.remove_member('{org}', '{user}')"),
            ),
            32..44 => (
                "transfer_ownership",
                format!("SELECT tenancy.transfer_ownership('{org}', '{user}')"),
            ),
            44..54 => (
                "invite",
                format!(
                    "SELECT invitation, token FROM tenancy.invite('{org}', 'P{who}@x.test', '{role}')"
                ),
            ),
            54..62 => {
                let tokens = self.tokens.lock().unwrap();
                let token = match tokens.len() {
                    0 => "none".to_string(),
                    n => {
                        let (token, whose) = tokens[random.next(n)].clone();
                        // Mostly by whom it is for.
                        actor = if random.percent(80) { whose } else { actor };
                        token
                    }
                };
                (
                    "accept_invitation",
                    format!("SELECT tenancy.accept_invitation('{token}')"),
                )
            }
            62..66 => {
                let ids = self.invitations.lock().unwrap();
                let id = match ids.len() {
                    0 => org.clone(),
                    n => ids[random.next(n)].clone(),
                };
                (
                    "revoke_invitation",
                    format!("SELECT tenancy.revoke_invitation('{id}')"),
                )
            }
            66..73 => {
                let end = [
                    "NULL",
                    "now() + interval '1 day'",
                    "clock_timestamp() + interval '50 ms'",
                ][random.next(3)];
                (
                    "set_member_expiry",
                    format!("SELECT tenancy.set_member_expiry('{org}', '{user}', {end})"),
                )
            }
            73..78 => {
                let networks = ["NULL", "'{10.0.0.0/8}'"][random.next(2)];
                (
                    "set_member_networks",
                    format!("SELECT tenancy.set_member_networks('{org}', '{user}', {networks})"),
                )
            }
            78..84 => {
                let level = ["allow", "deny"][random.next(2)];
                let action = ACTIONS[random.next(5)];
                (
                    "grant_permission",
                    format!(
                        "SELECT tenancy.grant_permission('{org}', 'crew', '{action}', '{level}')"
                    ),
                )
            }
            84..88 => (
                "create_role",
                format!("SELECT tenancy.create_role('{org}', '{name}', clone_of => 'viewer')"),
            ),
            88..91 => (
                "create_service_account",
                format!("SELECT tenancy.create_service_account('{org}', '{name}', 'viewer')"),
            ),
            91..95 => (
                "suspend_org",
                format!("SELECT tenancy.suspend_org('{org}', 'round')"),
            ),
            95..98 => (
                "create_org",
                format!("SELECT tenancy.create_org('Org {name}', '{name}')"),
            ),
            _ => (
                "delete_org",
                format!(
                    "SELECT tenancy.delete_org('{org}', coalesce('Org ' || (SELECT slug FROM tenancy.orgs WHERE id = '{org}'), '?'))"
                ),
            ),
        };
        (org, operation, sql, actor)
    }

    /// One act in a transaction of its own; the SQLSTATE where it was refused.
    fn perform(
        &self,
        session: &mut Session,
        dba: bool,
        random: &mut Random,
        name: &str,
    ) -> Result<(), String> {
        let (mut org, operation, sql, actor) = self.act(random, name);
        let actor = &self.people[actor];
        session.run("BEGIN");
        if !dba && random.percent(15) {
            match self.speak_by_key(session, random) {
                // A row becomes the key's organization's.
                Some(its) if operation == "INSERT" => org = its,
                Some(_) => {}
                None => {
                    session.run("ROLLBACK");
                    return Ok(());
                }
            }
        } else if !dba {
            session.run(&format!(
                "SET LOCAL app.current_org = '{org}'; SET LOCAL app.current_user_id = '{actor}'"
            ));
        } else if operation == "INSERT" {
            session.run(&format!("SET LOCAL app.current_org = '{org}'"));
        } else if operation == "accept_invitation" {
            session.run(&format!("SET LOCAL app.current_user_id = '{}'", actor));
        }
        let rows = match session.try_rows(&sql) {
            Ok(rows) => rows,
            Err(error) => {
                session.run("ROLLBACK");
                let Some(db) = error.as_db_error() else {
                    return Err(format!("{sql}: {error:?}"));
                };
                let code = db.code().code();
                return if REFUSALS.contains(&code) {
                    Ok(())
                } else {
                    Err(format!("{code} {sql}: {db:?}"))
                };
            }
        };
        if let Err(error) = session.attempt("COMMIT") {
            return Err(format!("COMMIT of {sql}: {error:?}"));
        }
        let answer = rows
            .first()
            .and_then(|row| row.first().cloned())
            .flatten()
            .unwrap_or_default();
        match operation {
            "invite" => {
                let token = rows[0][1].clone().unwrap_or_default();
                let who = sql
                    .split("'P")
                    .nth(1)
                    .and_then(|s| s[..1].parse().ok())
                    .unwrap_or(0);
                self.tokens.lock().unwrap().push((token, who));
                self.invitations.lock().unwrap().push(answer);
                self.count(&org, operation);
            }
            // The answer says where.
            "accept_invitation" => self.count(&answer, operation),
            "create_org" => {
                self.count(&answer, operation);
                self.orgs.lock().unwrap().push(answer);
            }
            "revoke_invitation" => {
                let id = sql.split('\'').nth(1).unwrap_or_default();
                let of = self.world.superuser().text(&format!(
                    "SELECT org_id FROM tenancy.invitations WHERE id = '{id}'"
                ));
                self.count(&of, operation);
            }
            _ => {
                self.count(&org, operation);
                self.keep(operation, &answer, &org);
            }
        }
        Ok(())
    }

    /// What is wrong now, while nothing goes on.
    fn findings(&self) -> Vec<String> {
        let mut dba = self.world.superuser();
        let mut wrong = dba.column(BROKEN);
        // No right without a live grant, and none withheld.
        for row in dba.rows(model::RIGHTS) {
            if row[3] != row[4] {
                wrong.push(format!("has_permission: {row:?}"));
            }
        }
        self.statements(&mut wrong);
        // Every change in the log, and nothing that was refused.
        let mut logged = Done::new();
        for org in self.orgs.lock().unwrap().iter() {
            let lines = dba.rows(&format!(
                "SELECT operation, count(*) FROM tenancy.read_audit_dba(org => '{org}')
                 WHERE operation NOT IN ('read_audit_dba', 'resume_org') AND result = 'completed' GROUP BY operation"
            ));
            for line in lines {
                let (operation, n) = (line[0].clone().unwrap(), line[1].clone().unwrap());
                logged.insert((org.clone(), operation), n.parse().unwrap());
            }
        }
        let done = self.done.lock().unwrap();
        for key in done.keys().chain(logged.keys()) {
            let idle = IDLE.contains(&key.1.as_str()) && done.get(key) > logged.get(key);
            if done.get(key) != logged.get(key) && !idle {
                wrong.push(format!(
                    "log: {key:?}: done {:?}, logged {:?}",
                    done.get(key),
                    logged.get(key)
                ));
            }
        }
        wrong.dedup();
        wrong
    }

    /// What would end every round after it: suspensions are lifted, deletions carried out.
    fn tidy(&self) {
        let mut dba = self.world.superuser();
        dba.run("SELECT tenancy.resume_org(id) FROM tenancy.orgs WHERE suspended_at IS NOT NULL AND deleting_at IS NULL");
        let doomed = dba.column("SELECT org_id FROM tenancy.tombstones WHERE finished_at IS NULL");
        dba.run("CALL tenancy.finish_deletion()");
        for org in doomed {
            self.count(&org, "finish_deletion");
        }
        let stays = dba.count(
            "SELECT count(*) FROM tenancy.tombstones t WHERE finished_at IS NULL
                OR EXISTS (SELECT FROM tenancy.orgs o WHERE o.id = t.org_id)
                OR EXISTS (SELECT FROM tenancy.memberships m WHERE m.org_id = t.org_id)",
        );
        assert_eq!(stays, 0, "deletions that left something");
    }
}

#[test]
fn thirty_two_sessions_doing_everything_break_no_invariant() {
    let town = Arc::new(Town::new());
    let rounds = few_or_many("rounds of thirty-two sessions", 3, 30);
    assert_eq!(town.findings(), Vec::<String>::new());
    for round in 0..rounds {
        let barrier = Arc::new(Barrier::new(CLIENTS));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (town, barrier) = (town.clone(), barrier.clone());
                std::thread::spawn(move || {
                    let dba = client % 4 == 0;
                    let mut session = if dba {
                        town.world.superuser()
                    } else {
                        town.world.app()
                    };
                    let mut random = Random::new(1 + (round * CLIENTS + client) as u64);
                    barrier.wait();
                    (0..ACTS)
                        .filter_map(|n| {
                            let name = format!("r{round}-{client}-{n}");
                            town.perform(&mut session, dba, &mut random, &name).err()
                        })
                        .collect::<Vec<String>>()
                })
            })
            .collect();
        let trouble: Vec<String> = clients
            .into_iter()
            .flat_map(|c| c.join().expect("a client"))
            .collect();
        // No deadlock either: every act locks the organization first.
        assert_eq!(trouble, Vec::<String>::new(), "round {round}");
        // Memberships that were to end in a moment have.
        std::thread::sleep(std::time::Duration::from_millis(60));
        assert_eq!(town.findings(), Vec::<String>::new(), "round {round}");
        town.tidy();
        assert_eq!(
            town.findings(),
            Vec::<String>::new(),
            "round {round}, tidied"
        );
    }
    let done = town.done.lock().unwrap();
    let kinds: std::collections::BTreeSet<&str> = done
        .keys()
        .map(|(_, operation)| operation.as_str())
        .collect();
    for any in [
        &["add_member"][..],
        &["set_member_role"],
        &["remove_member"],
        &["transfer_ownership"],
        &["invite", "accept_invitation"],
        &["suspend_org", "delete_org"],
        &["grant_permission"],
        &["set_scope"],
        &["remove_scope", "unscope_member"],
        &["create_project"],
        &[
            "set_project_role",
            "remove_project_member",
            "set_project_access",
        ],
        &["set_production_protection"],
        &["set_quota"],
        &["revoke_api_key", "drop_service_account", "set_service_role"],
    ] {
        assert!(
            any.iter().any(|kind| kinds.contains(kind)),
            "no {any:?} succeeded: {kinds:?}"
        );
    }
    assert!(town.keys.lock().unwrap().len() > 4, "no key was made");
}
