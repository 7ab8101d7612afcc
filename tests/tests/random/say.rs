//! How each act is said in SQL.

use crate::act::{Act, Claim, How, Look, ORGS, Table, USERS, Unset, What};

/// The ids that the database gave to organizations and users.
pub struct Ids {
    pub orgs: Vec<String>,
    pub users: Vec<String>,
    pub logins: Vec<String>,
}

impl Ids {
    pub fn claim(&self, what: What, claim: Claim) -> String {
        let (names, ids) = match what {
            What::Org => (&ORGS[..], &self.orgs),
            What::User => (&USERS[..], &self.users),
        };
        match claim {
            Claim::Unset => String::new(),
            Claim::Known { number, by_key } if by_key => format!("key-{}", names[number]),
            Claim::Known { number, .. } => ids[number].clone(),
            Claim::Unknown { uuid: true } => "12345678-1234-4234-8234-123456789abc".into(),
            Claim::Unknown { uuid: false } => "nobodys-key".into(),
        }
    }
}

impl What {
    fn setting(self) -> &'static str {
        match self {
            What::Org => "app.current_org",
            What::User => "app.current_user_id",
        }
    }
}

impl Act {
    /// `fresh`: a number that no row's name has yet. `depth`: how many savepoints there are.
    pub fn sql(&self, names: &Ids, fresh: usize, depth: usize) -> String {
        let uuid = |id: &str| format!("'{id}'");
        match self {
            Act::Begin => "BEGIN".into(),
            Act::Commit => "COMMIT".into(),
            Act::Rollback => "ROLLBACK".into(),
            Act::Savepoint => format!("SAVEPOINT s{depth}"),
            Act::Release(n) => format!("RELEASE s{n}"),
            Act::RollbackTo(n) => format!("ROLLBACK TO s{n}"),
            Act::Error => "SELECT 1 / 0".into(),
            Act::Say(how, what, claim) => {
                let (setting, value) = (what.setting(), names.claim(*what, *claim));
                match how {
                    How::Set => format!("SET {setting} = '{value}'"),
                    How::SetSession => format!("set session {setting} to '{value}'"),
                    How::SetLocal => format!("SET LOCAL {setting} = '{value}'"),
                    How::SetConfig => format!("SELECT set_config('{setting}', '{value}', false)"),
                    How::SetConfigLocal => format!("SELECT set_config('{setting}', '{value}', true)"),
                    How::InWhere => format!(
                        "SELECT 1 WHERE (WITH c AS MATERIALIZED (SELECT set_config('{setting}', '{value}', false) v) SELECT v IS NULL FROM c)"
                    ),
                    How::InDo => format!("DO $$ BEGIN EXECUTE 'SET {setting} = ' || quote_literal('{value}'); END $$"),
                    How::InDoUndone => format!(
                        "DO $$ BEGIN PERFORM set_config('{setting}', '{value}', false); PERFORM name FROM servers; RAISE division_by_zero;
                         EXCEPTION WHEN OTHERS THEN NULL; END $$"
                    ),
                }
            }
            Act::Unsay(how, what) => {
                let setting = what.setting();
                match how {
                    Unset::Reset => format!("RESET {setting}"),
                    Unset::SetDefault => format!("SET {setting} TO DEFAULT"),
                    Unset::SetLocalDefault => format!("SET LOCAL {setting} TO DEFAULT"),
                    Unset::SetConfigNull => format!("SELECT set_config('{setting}', NULL, false)"),
                    Unset::SetConfigNullLocal => {
                        format!("SELECT set_config('{setting}', NULL, true)")
                    }
                    Unset::All => "RESET ALL".into(),
                    Unset::Leave => "SELECT tenancy.leave()".into(),
                }
            }
            Act::Enter { org, user } => {
                let org = match org {
                    Some(org) => names.orgs[*org].clone(),
                    None => names.claim(What::Org, Claim::Unknown { uuid: true }),
                };
                let user = user.map_or("NULL".into(), |u| uuid(&names.users[u]));
                format!("SELECT tenancy.enter('{org}', {user})")
            }
            Act::EnterWell { .. } => unreachable!("the model said where"),
            Act::SayAndLook(claim, table) => format!(
                "SET app.current_org = '{}'; SELECT name FROM {}",
                names.claim(What::Org, *claim),
                table.name()
            ),
            Act::Look(how, table) => {
                let table = table.name();
                match how {
                    Look::Plain => format!("SELECT name FROM {table}"),
                    Look::Cte => format!(
                        "WITH t AS MATERIALIZED (SELECT * FROM {table}) SELECT name FROM t UNION SELECT name FROM {table} WHERE id IN (SELECT id FROM t)"
                    ),
                    Look::Prepared => format!("EXECUTE look_{table}"),
                    Look::Cursor => format!(
                        "DECLARE c CURSOR FOR SELECT name FROM {table}; FETCH 1 FROM c; FETCH ALL FROM c; CLOSE c"
                    ),
                    Look::Locking => format!("SELECT name FROM {table} FOR UPDATE"),
                    Look::Function(org) => format!("SELECT look_at_{table}_in_{}()", ORGS[*org]),
                }
            }
            Act::Hold(table) => format!(
                "CLOSE ALL; DECLARE held CURSOR WITH HOLD FOR SELECT name FROM {}",
                table.name()
            ),
            Act::FetchHeld { by_function: false } => "FETCH ALL FROM held".into(),
            Act::FetchHeld { by_function: true } => "SELECT fetch_held()".into(),
            Act::Insert {
                table,
                id,
                org,
                server,
                on_conflict_nothing,
            } => {
                let (mut columns, mut values) = (
                    "id, name".to_string(),
                    format!("{id}, whose_name('{fresh}')"),
                );
                if let Some(org) = org {
                    columns += ", org_id";
                    values = format!("{id}, '{}-{fresh}', '{}'", ORGS[*org], names.orgs[*org]);
                }
                if *table == Table::Sites {
                    columns += ", server_id";
                    values += &format!(", {server}");
                }
                let conflict = if *on_conflict_nothing {
                    " ON CONFLICT DO NOTHING"
                } else {
                    ""
                };
                format!(
                    "INSERT INTO {} ({columns}) VALUES ({values}){conflict}",
                    table.name()
                )
            }
            Act::Upsert { id } => format!(
                "INSERT INTO servers (id, name) VALUES ({id}, whose_name('{fresh}')) ON CONFLICT (id) DO UPDATE SET name = excluded.name"
            ),
            Act::Rename { table, id } => format!(
                "UPDATE {} SET name = split_part(name, '-', 1) || '-{fresh}.' || id{}",
                table.name(),
                only(*id)
            ),
            Act::MoveOrg { table, id, org } => format!(
                "UPDATE {} SET org_id = '{}' WHERE id = {id}",
                table.name(),
                names.orgs[*org]
            ),
            Act::MoveSite { id, server } => {
                format!("UPDATE sites SET server_id = {server} WHERE id = {id}")
            }
            Act::Delete { table, id } => format!("DELETE FROM {}{}", table.name(), only(*id)),
            // For the connection, not for the server.
            Act::Reconnect(claim) => {
                format!("-c app.current_org={}", names.claim(What::Org, *claim))
            }
            Act::Add {
                org, user, role, ..
            } => {
                format!(
                    "SELECT tenancy.add_member('{}', '{}', '{role}')",
                    names.orgs[*org], names.users[*user]
                )
            }
            Act::SetRole {
                org, user, role, ..
            } => {
                format!(
                    "SELECT tenancy.set_member_role('{}', '{}', '{role}')",
                    names.orgs[*org], names.users[*user]
                )
            }
            Act::Remove { org, user, .. } => {
                format!(
                    "SELECT tenancy.remove_member('{}', '{}')",
                    names.orgs[*org], names.users[*user]
                )
            }
            Act::Transfer { org, user, .. } => {
                format!(
                    "SELECT tenancy.transfer_ownership('{}', '{}')",
                    names.orgs[*org], names.users[*user]
                )
            }
            Act::Expire { org, user, expired } => format!(
                "UPDATE tenancy.memberships SET expires_at = {} WHERE org_id = '{}' AND user_id = '{}'",
                if *expired {
                    "now() - interval '1 second'"
                } else {
                    "NULL"
                },
                names.orgs[*org],
                names.users[*user]
            ),
            Act::Bind { login, user } => {
                format!(
                    "SELECT tenancy.bind_login('{}', '{}')",
                    names.logins[*login], names.users[*user]
                )
            }
            Act::Trust {
                login,
                session_scope,
            } => format!(
                "SELECT tenancy.trust_application('{}', scope => '{}')",
                names.logins[*login],
                if *session_scope {
                    "session"
                } else {
                    "transaction"
                }
            ),
            Act::Forget { login } => format!(
                "DELETE FROM tenancy.login_bindings WHERE login = '{}'",
                names.logins[*login]
            ),
        }
    }
}

fn only(id: Option<i32>) -> String {
    id.map_or(String::new(), |id| format!(" WHERE id = {id}"))
}
