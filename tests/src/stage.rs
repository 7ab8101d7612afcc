//! AI actors of the world's users, who propose, and people who decide.

use crate::{Session, World};

pub struct Stage {
    pub world: World,
}

impl Stage {
    #[track_caller]
    pub fn new() -> Stage {
        Stage {
            world: World::new(),
        }
    }

    /// The application in a transaction for a user of acme, as an actor of a type.
    #[track_caller]
    pub fn acting(&self, who: &str, actor: &str) -> Session {
        let mut app = self.world.app();
        self.begin(&mut app, who, actor);
        app
    }

    #[track_caller]
    pub fn begin(&self, app: &mut Session, who: &str, actor: &str) {
        let org = if who.starts_with("globex") {
            self.world.globex
        } else {
            self.world.acme
        };
        self.world.begin(app, org, who);
        app.run(&format!("SET LOCAL app.actor_type = '{actor}'"));
    }

    /// What the AI of a user does in a transaction of its own.
    #[track_caller]
    pub fn ai(&self, who: &str, sql: &str) -> Option<String> {
        let mut app = self.acting(who, "ai");
        let value = app.value(sql);
        app.run("COMMIT");
        value
    }

    /// A pending proposal of the AI of a user: `what` are the arguments of propose() after the table.
    #[track_caller]
    pub fn pending(&self, who: &str, what: &str) -> String {
        let id = self
            .ai(who, &format!("SELECT tenancy.propose({what})"))
            .unwrap();
        self.ai(who, &format!("SELECT tenancy.submit_proposal('{id}')"));
        id
    }

    #[track_caller]
    pub fn approved(&self, who: &str, what: &str) -> String {
        let id = self.pending(who, what);
        self.world.session("acme.owner").run(&approve(&id));
        id
    }

    /// `approved` whatever becomes of the row.
    #[track_caller]
    pub fn approved_whatever(&self, who: &str, what: &str) -> String {
        let id = self.pending(who, what);
        let sql = format!("SELECT tenancy.approve_proposal('{id}', on_change => 'accept')");
        self.world.session("acme.owner").run(&sql);
        id
    }

    #[track_caller]
    pub fn state(&self, id: &str) -> String {
        self.world.session("acme.owner").text(&format!(
            "SELECT state FROM tenancy.proposals WHERE id = '{id}'"
        ))
    }

    #[track_caller]
    pub fn why(&self, id: &str) -> String {
        self.world.session("acme.owner").text(&format!(
            "SELECT error FROM tenancy.proposals WHERE id = '{id}'"
        ))
    }

    #[track_caller]
    pub fn execute(&self, who: &str, id: &str) -> String {
        self.ai(who, &execute(id)).unwrap()
    }

    #[track_caller]
    pub fn rows(&self) -> [String; 2] {
        [
            self.world.hash("servers", self.world.acme),
            self.world.hash("sites", self.world.acme),
        ]
    }
}

pub fn approve(id: &str) -> String {
    format!("SELECT tenancy.approve_proposal('{id}')")
}

pub fn reject(id: &str) -> String {
    format!("SELECT tenancy.reject_proposal('{id}', reason => 'no')")
}

pub fn execute(id: &str) -> String {
    format!("SELECT tenancy.execute_proposal('{id}')")
}

pub const RENAME: &str =
    "'sites', 'update', 'rename it', key => '1', payload => '{\"name\": \"renamed\"}'";
pub const DELETE: &str = "'sites', 'delete', 'not needed', key => '2'";
pub const INSERT: &str = "'sites', 'insert', 'a new one', payload => '{\"id\": 50, \"name\": \"new\", \"server_id\": 1}'";

impl Default for Stage {
    fn default() -> Stage {
        Stage::new()
    }
}
