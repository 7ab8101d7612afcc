//! What a session can do in one step, how likely it is, and how it is said in SQL.

use proptest::prelude::*;
use proptest::sample::select;

pub const ORGS: [&str; 3] = ["acme", "globex", "initech"];
pub const USERS: [&str; 5] = ["ann", "bob", "cat", "dan", "eve"];
/// The sessions, each with a login of its own; what a login may be is the model's to know.
pub const LOGINS: [&str; 7] = ["app", "session_app", "ann", "dan", "eve", "nobody", "dba"];
pub const DBA: usize = 6;
/// Ids of rows, few enough that sessions meet.
const IDS: i32 = 9;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    Servers,
    Sites,
}

impl Table {
    pub fn name(self) -> &'static str {
        match self {
            Table::Servers => "servers",
            Table::Sites => "sites",
        }
    }
}

/// What an organization or user is named by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Claim {
    Unset,
    Known { number: usize, by_key: bool },
    Unknown { uuid: bool },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    Org,
    User,
}

/// The ways of saying it.
#[derive(Clone, Copy, Debug)]
pub enum How {
    Set,
    SetSession,
    SetLocal,
    SetConfig,
    SetConfigLocal,
    InWhere,
    InDo,
    /// In a block whose exception is caught, after a read in it.
    InDoUndone,
}

#[derive(Clone, Copy, Debug)]
pub enum Unset {
    Reset,
    SetDefault,
    SetLocalDefault,
    SetConfigNull,
    SetConfigNullLocal,
    All,
    Leave,
}

#[derive(Clone, Copy, Debug)]
pub enum Look {
    Plain,
    Cte,
    Prepared,
    Cursor,
    Locking,
    /// A function that names an organization in its SET clause.
    Function(usize),
}

#[derive(Clone, Debug)]
pub enum Act {
    Begin,
    Commit,
    Rollback,
    Savepoint,
    Release(usize),
    RollbackTo(usize),
    Error,
    Say(How, What, Claim),
    Unsay(Unset, What),
    Enter {
        org: Option<usize>,
        user: Option<usize>,
    },
    /// Where the session may go, as somebody it may name there: which of them, the model says.
    EnterWell {
        which: usize,
        user: Option<usize>,
    },
    /// Set and read in one message.
    SayAndLook(Claim, Table),
    Look(Look, Table),
    Hold(Table),
    FetchHeld {
        by_function: bool,
    },
    Insert {
        table: Table,
        id: i32,
        org: Option<usize>,
        server: i32,
        on_conflict_nothing: bool,
    },
    Upsert {
        id: i32,
    },
    Rename {
        table: Table,
        id: Option<i32>,
    },
    MoveOrg {
        table: Table,
        id: i32,
        org: usize,
    },
    MoveSite {
        id: i32,
        server: i32,
    },
    Delete {
        table: Table,
        id: Option<i32>,
    },
    /// Start again, with an organization in the start-up options.
    Reconnect(Claim),
    Add {
        org: usize,
        user: usize,
        role: &'static str,
        by_dba: bool,
    },
    SetRole {
        org: usize,
        user: usize,
        role: &'static str,
        by_dba: bool,
    },
    Remove {
        org: usize,
        user: usize,
        by_dba: bool,
    },
    Transfer {
        org: usize,
        user: usize,
        by_dba: bool,
    },
    /// By the clock, for which the DBA stands in.
    Expire {
        org: usize,
        user: usize,
        expired: bool,
    },
    Bind {
        login: usize,
        user: usize,
    },
    Trust {
        login: usize,
        session_scope: bool,
    },
    Forget {
        login: usize,
    },
}

fn claim(known: usize) -> impl Strategy<Value = Claim> {
    prop_oneof![
        1 => Just(Claim::Unset),
        8 => (0..known, any::<bool>()).prop_map(|(number, by_key)| Claim::Known { number, by_key }),
        1 => any::<bool>().prop_map(|uuid| Claim::Unknown { uuid }),
    ]
}

fn what_and_claim() -> impl Strategy<Value = (What, Claim)> {
    prop_oneof![
        3 => claim(ORGS.len()).prop_map(|c| (What::Org, c)),
        2 => claim(USERS.len()).prop_map(|c| (What::User, c)),
    ]
}

fn say() -> impl Strategy<Value = Act> {
    let how = select(vec![
        How::Set,
        How::SetSession,
        How::SetLocal,
        How::SetLocal,
        How::SetConfig,
        How::SetConfigLocal,
        How::InWhere,
        How::InDo,
        How::InDoUndone,
    ]);
    let unset = select(vec![
        Unset::Reset,
        Unset::SetDefault,
        Unset::SetLocalDefault,
        Unset::SetConfigNull,
        Unset::SetConfigNullLocal,
        Unset::All,
        Unset::Leave,
    ]);
    prop_oneof![
        6 => (how, what_and_claim()).prop_map(|(how, (what, claim))| Act::Say(how, what, claim)),
        1 => (unset, select(vec![What::Org, What::User])).prop_map(|(how, what)| Act::Unsay(how, what)),
        3 => entry(),
        1 => (claim(ORGS.len()), table()).prop_map(|(claim, table)| Act::SayAndLook(claim, table)),
    ]
}

pub fn entry() -> impl Strategy<Value = Act> {
    let org = prop_oneof![9 => (0..ORGS.len()).prop_map(Some), 1 => Just(None)];
    let user = || prop_oneof![1 => Just(None), 2 => (0..USERS.len()).prop_map(Some)];
    prop_oneof![
        1 => (org, user()).prop_map(|(org, user)| Act::Enter { org, user }),
        7 => (0..6usize, user()).prop_map(|(which, user)| Act::EnterWell { which, user }),
    ]
}

fn table() -> impl Strategy<Value = Table> {
    select(vec![Table::Servers, Table::Sites])
}

fn look() -> impl Strategy<Value = Act> {
    let how = prop_oneof![
        4 => Just(Look::Plain),
        1 => Just(Look::Cte),
        1 => Just(Look::Prepared),
        1 => Just(Look::Cursor),
        1 => Just(Look::Locking),
        1 => (0..ORGS.len()).prop_map(Look::Function),
    ];
    prop_oneof![
        8 => (how, table()).prop_map(|(how, table)| Act::Look(how, table)),
        1 => table().prop_map(Act::Hold),
        1 => any::<bool>().prop_map(|by_function| Act::FetchHeld { by_function }),
    ]
}

fn write() -> impl Strategy<Value = Act> {
    let id = || 1..=IDS;
    let some = move || prop::option::weighted(0.9, id());
    prop_oneof![
        4 => (table(), id(), prop::option::weighted(0.3, 0..ORGS.len()), id(), prop::bool::weighted(0.2)).prop_map(
            |(table, id, org, server, on_conflict_nothing)| Act::Insert { table, id, org, server, on_conflict_nothing }
        ),
        2 => id().prop_map(|id| Act::Upsert { id }),
        3 => (table(), some()).prop_map(|(table, id)| Act::Rename { table, id }),
        1 => (table(), id(), 0..ORGS.len()).prop_map(|(table, id, org)| Act::MoveOrg { table, id, org }),
        1 => (id(), id()).prop_map(|(id, server)| Act::MoveSite { id, server }),
        2 => (table(), some()).prop_map(|(table, id)| Act::Delete { table, id }),
    ]
}

fn govern() -> impl Strategy<Value = Act> {
    let org = || 0..ORGS.len();
    let user = || 0..USERS.len();
    let role = || {
        select(vec![
            "admin", "member", "viewer", "admin", "member", "viewer", "owner",
        ])
    };
    let dba = || prop::bool::weighted(0.5);
    let login = || 0..DBA;
    prop_oneof![
        3 => (org(), user(), role(), dba()).prop_map(|(org, user, role, by_dba)| Act::Add { org, user, role, by_dba }),
        3 => (org(), user(), role(), dba()).prop_map(|(org, user, role, by_dba)| Act::SetRole { org, user, role, by_dba }),
        3 => (org(), user(), dba()).prop_map(|(org, user, by_dba)| Act::Remove { org, user, by_dba }),
        2 => (org(), user(), dba()).prop_map(|(org, user, by_dba)| Act::Transfer { org, user, by_dba }),
        2 => (org(), user(), any::<bool>()).prop_map(|(org, user, expired)| Act::Expire { org, user, expired }),
        1 => (login(), user()).prop_map(|(login, user)| Act::Bind { login, user }),
        1 => (login(), any::<bool>()).prop_map(|(login, session_scope)| Act::Trust { login, session_scope }),
        1 => login().prop_map(|login| Act::Forget { login }),
    ]
}

pub fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => Just(Act::Begin),
        2 => Just(Act::Commit),
        1 => Just(Act::Rollback),
        2 => Just(Act::Savepoint),
        1 => (0..3usize).prop_map(Act::Release),
        2 => (0..3usize).prop_map(Act::RollbackTo),
        1 => Just(Act::Error),
        10 => say(),
        12 => look(),
        10 => write(),
        3 => govern(),
        1 => claim(ORGS.len()).prop_map(Act::Reconnect),
    ]
}

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

    /// Who rules: the session itself, or the DBA beside it. None for what a session does with its own transaction.
    pub fn by_dba(&self) -> Option<bool> {
        match self {
            Act::Add { by_dba, .. }
            | Act::SetRole { by_dba, .. }
            | Act::Remove { by_dba, .. }
            | Act::Transfer { by_dba, .. } => Some(*by_dba),
            Act::Expire { .. } | Act::Bind { .. } | Act::Trust { .. } | Act::Forget { .. } => {
                Some(true)
            }
            _ => None,
        }
    }
}

fn only(id: Option<i32>) -> String {
    id.map_or(String::new(), |id| format!(" WHERE id = {id}"))
}
