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

impl Act {
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
