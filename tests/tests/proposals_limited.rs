//! `limited` of ai:approve (spec 2): one approves what one may do oneself on that very row, and nothing destructive.

use std::time::Duration;

use pg_tenancy_tests::stage::{Stage, approve};
use pg_tenancy_tests::{Session, fails, refused};

struct Projects {
    stage: Stage,
    open: String,
    closed: String,
}

impl Projects {
    /// Jobs in an open project (rows 1, 2) and in a restricted one (rows 3, 4).
    fn new() -> Projects {
        let stage = Stage::new();
        let org = stage.world.acme.id;
        let mut dba = stage.world.superuser();
        let [open, closed] = ["open", "restricted"].map(|access| {
            dba.text(&format!(
                "SELECT tenancy.create_project('{org}', 'p-{access}', '{access}')"
            ))
        });
        dba.run(
            "CREATE TABLE jobs (id int PRIMARY KEY, org_id uuid, project_id uuid, title text, tag text);
             GRANT ALL ON jobs TO PUBLIC; SELECT tenancy.protect('jobs', project_column => 'project_id')",
        );
        stage.world.session("acme.owner").run(&format!(
            "INSERT INTO jobs (id, project_id, title) VALUES (1, '{open}', 'a'), (2, '{open}', 'b'), (3, '{closed}', 'c'), (4, '{closed}', 'd')"
        ));
        Projects {
            stage,
            open,
            closed,
        }
    }

    fn role(&self, who: &str, role: Option<&str>) {
        let user = self.stage.world.user(who);
        let mut dba = self.stage.world.superuser();
        dba.attempt(&format!(
            "SELECT tenancy.remove_project_member('{}', '{user}')",
            self.closed
        ))
        .ok();
        if let Some(role) = role {
            dba.run(&format!(
                "SELECT tenancy.add_project_member('{}', '{user}', '{role}')",
                self.closed
            ));
        }
    }

    fn member(&self) -> Session {
        self.stage.world.session("acme.member")
    }

    fn retitle(&self, id: i32) -> String {
        self.stage.pending(
            "acme.admin",
            &format!(
                "'jobs', 'update', 's', key => '{id}', payload => '{{\"title\": \"new {id}\"}}'"
            ),
        )
    }

    fn titles(&self) -> Vec<String> {
        self.stage
            .world
            .session("acme.owner")
            .column("SELECT title FROM jobs ORDER BY id")
    }
}

#[test]
fn in_projects_one_approves_what_one_may_do_there() {
    let p = Projects::new();
    let stage = &p.stage;
    // Open to the organization's members.
    let id = p.retitle(1);
    p.member().run(&approve(&id));
    assert_eq!(
        stage.execute("acme.admin", &id),
        "completed",
        "{}",
        stage.why(&id)
    );
    // Restricted: not seen, seen, written.
    for (role, code) in [(None, "P0002"), (Some("project_viewer"), "42501")] {
        p.role("acme.member", role);
        let id = p.retitle(3);
        fails(p.member().attempt(&approve(&id)), code);
        assert_eq!(stage.state(&id), "pending");
    }
    p.role("acme.member", Some("project_operator"));
    let id = p.retitle(3);
    assert_eq!(
        p.member().count(&format!(
            "SELECT count(*) FROM tenancy.proposals WHERE id = '{id}'"
        )),
        1
    );
    p.member().run(&approve(&id));
    assert_eq!(
        stage.execute("acme.admin", &id),
        "completed",
        "{}",
        stage.why(&id)
    );
    assert_eq!(p.titles(), ["new 1", "b", "new 3", "d"]);
    // A new row there, and one that moves: both places count.
    let insert = |project: &str, id: i32| {
        stage.pending("acme.admin", &format!("'jobs', 'insert', 's', payload => '{{\"id\": {id}, \"project_id\": \"{project}\"}}'"))
    };
    let moved = |key: i32, project: &str| {
        stage.pending("acme.admin", &format!("'jobs', 'update', 's', key => '{key}', payload => '{{\"project_id\": \"{project}\"}}'"))
    };
    let may = [insert(&p.closed, 10), moved(2, &p.closed)];
    p.role("acme.member", Some("project_viewer"));
    for id in &may {
        refused(p.member().attempt(&approve(id)), "42501");
    }
    // Where one does not see the place that it goes to, nor the proposal.
    p.role("acme.member", None);
    for id in may.iter().chain(&[moved(4, &p.open)]) {
        refused(p.member().attempt(&approve(id)), "P0002");
    }
    p.role("acme.member", Some("project_operator"));
    for id in &may {
        p.member().run(&approve(id));
        assert_eq!(
            stage.execute("acme.admin", id),
            "completed",
            "{}",
            stage.why(id)
        );
    }
    // Never destructive, in whatever project.
    let delete = stage.pending("acme.admin", "'jobs', 'delete', 's', key => '1'");
    let error = refused(p.member().attempt(&approve(&delete)), "42501");
    assert!(error.detail().unwrap().contains("destructive"), "{error:?}");
}

#[test]
fn a_right_that_goes_after_the_decision_takes_the_approval_along() {
    let p = Projects::new();
    let stage = &p.stage;
    let before = p.titles();
    let decided = || {
        p.role("acme.member", Some("project_operator"));
        let id = p.retitle(3);
        p.member().run(&approve(&id));
        id
    };
    for role in [None, Some("project_viewer")] {
        let id = decided();
        p.role("acme.member", role);
        assert_eq!(stage.execute("acme.admin", &id), "failed");
        let why = stage.why(&id);
        assert!(
            why.starts_with("42501") && why.contains("approver"),
            "{why}"
        );
        assert_eq!(p.titles(), before);
    }
    // While the change waits for the row.
    let id = decided();
    let mut holder = stage.world.session("acme.owner");
    holder.run("BEGIN; SELECT 1 FROM jobs WHERE id = 3 FOR UPDATE");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| stage.execute("acme.admin", &id));
        std::thread::sleep(Duration::from_millis(400));
        p.role("acme.member", Some("project_viewer"));
        holder.run("COMMIT");
        assert_eq!(waiting.join().unwrap(), "failed");
    });
    assert!(stage.why(&id).contains("approver"), "{}", stage.why(&id));
    assert_eq!(p.titles(), before);
    // A project that is restricted meanwhile is none of his.
    let id = p.retitle(1);
    p.role("acme.member", None);
    p.member().run(&approve(&id));
    stage.world.superuser().run(&format!(
        "SELECT tenancy.set_project_access('{}', 'restricted')",
        p.open
    ));
    assert_eq!(stage.execute("acme.admin", &id), "failed");
    assert!(stage.why(&id).contains("approver"), "{}", stage.why(&id));
    // Who approves without limit is not asked for the project.
    let id = p.retitle(1);
    stage.world.session("acme.owner").run(&approve(&id));
    assert_eq!(
        stage.execute("acme.admin", &id),
        "completed",
        "{}",
        stage.why(&id)
    );
}

/// What the row becomes counts, and not what the payload says: a trigger of the table's moves it.
#[test]
fn a_trigger_does_not_carry_an_approval_into_another_project() {
    let p = Projects::new();
    let stage = &p.stage;
    let before = p.titles();
    let id = p.retitle(1);
    p.member().run(&approve(&id));
    stage.world.superuser().run(&format!(
        "CREATE FUNCTION carry() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.project_id := '{}'; RETURN NEW; END $$;
         CREATE TRIGGER carry BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION carry()",
        p.closed
    ));
    assert_eq!(stage.execute("acme.admin", &id), "failed");
    assert!(stage.why(&id).contains("approver"), "{}", stage.why(&id));
    assert_eq!(p.titles(), before);
}

#[test]
fn a_new_rows_project_is_said_in_the_proposal() {
    let p = Projects::new();
    let stage = &p.stage;
    let what = "SELECT tenancy.propose('jobs', 'insert', 's', payload => '{\"id\": 20, \"title\": \"t\"}')";
    refused(stage.acting("acme.admin", "ai").attempt(what), "23502");
    let mut ai = stage.acting("acme.admin", "ai");
    ai.run("SET LOCAL app.current_project = 'p-open'");
    let id = ai.text(what);
    ai.run(&format!("SELECT tenancy.submit_proposal('{id}'); COMMIT"));
    let mut member = p.member();
    assert_eq!(
        member.text(&format!(
            "SELECT payload->>'project_id' FROM tenancy.proposals WHERE id = '{id}'"
        )),
        p.open
    );
    member.run(&approve(&id));
    // Wherever the session that executes it is.
    assert_eq!(
        stage.execute("acme.admin", &id),
        "completed",
        "{}",
        stage.why(&id)
    );
    assert_eq!(
        stage
            .world
            .session("acme.owner")
            .text("SELECT project_id FROM jobs WHERE id = 20"),
        p.open
    );
}

#[test]
fn in_environments_one_approves_what_one_may_do_there() {
    let stage = Stage::new();
    let (org, user) = (stage.world.acme.id, stage.world.user("acme.member"));
    let mut dba = stage.world.superuser();
    dba.run(
        "CREATE TABLE boxes (id int PRIMARY KEY, org_id uuid, name text, env text); GRANT ALL ON boxes TO PUBLIC;
         SELECT tenancy.protect('boxes', environment_column => 'env')",
    );
    dba.run(&format!(
        "SELECT tenancy.create_role('{org}', 'deployer');
         SELECT tenancy.grant_permission('{org}', 'deployer', 'ai:use'); SELECT tenancy.grant_permission('{org}', 'deployer', 'ai:approve', 'limited');
         SELECT tenancy.grant_permission('{org}', 'deployer', 'data:read'); SELECT tenancy.grant_permission('{org}', 'deployer', 'data:write', 'allow', 'staging');
         SELECT tenancy.set_member_role('{org}', '{user}', 'deployer')"
    ));
    let mut owner = stage.world.session("acme.owner");
    owner.run("INSERT INTO boxes (id, env) VALUES (1, 'staging'), (2, 'development'), (3, NULL), (4, 'production'), (5, 'staging')");
    let update = |key: i32, payload: &str| {
        stage.pending(
            "acme.admin",
            &format!("'boxes', 'update', 's', key => '{key}', payload => '{payload}'"),
        )
    };
    let insert = |payload: &str| {
        stage.pending(
            "acme.admin",
            &format!("'boxes', 'insert', 's', payload => '{payload}'"),
        )
    };
    let member = || stage.world.session("acme.member");
    for id in [
        update(1, "{\"name\": \"x\"}"),
        insert("{\"id\": 10, \"env\": \"staging\"}"),
    ] {
        member().run(&approve(&id));
        assert_eq!(
            stage.execute("acme.admin", &id),
            "completed",
            "{}",
            stage.why(&id)
        );
    }
    for id in [
        update(2, "{\"name\": \"x\"}"),
        update(3, "{\"name\": \"x\"}"),
        update(4, "{\"name\": \"x\"}"),
        // There and back.
        update(1, "{\"env\": \"development\"}"),
        update(2, "{\"env\": \"staging\"}"),
        update(1, "{\"env\": \"production\"}"),
        insert("{\"id\": 11, \"env\": \"development\"}"),
        insert("{\"id\": 12}"),
    ] {
        refused(member().attempt(&approve(&id)), "42501");
    }
    // Production by now: destructive, though nobody said so when it was proposed.
    let id = update(5, "{\"name\": \"x\"}");
    owner.run("UPDATE boxes SET env = 'production' WHERE id = 5");
    let mut limited = member();
    let sql = format!("SELECT tenancy.approve_proposal('{id}', on_change => 'accept')");
    let error = refused(limited.attempt(&sql), "42501");
    assert!(error.detail().unwrap().contains("destructive"), "{error:?}");
    // In another environment by the time.
    owner.run("UPDATE boxes SET env = 'staging' WHERE id = 5");
    limited.run(&sql);
    owner.run("UPDATE boxes SET env = 'development' WHERE id = 5");
    assert_eq!(stage.execute("acme.admin", &id), "failed");
    assert!(stage.why(&id).contains("approver"), "{}", stage.why(&id));
}

/// Other rows go along with a key that they refer to: whoever approves nothing destructive does not approve that.
#[test]
fn a_change_of_what_others_refer_to_is_destructive() {
    let stage = Stage::new();
    stage.world.superuser().run(
        "CREATE TABLE groups (id int PRIMARY KEY, org_id uuid, code text UNIQUE, plain text UNIQUE, title text);
         CREATE TABLE items (id int PRIMARY KEY, org_id uuid, code text REFERENCES groups (code) ON UPDATE CASCADE,
                             plain text REFERENCES groups (plain));
         GRANT ALL ON groups, items TO PUBLIC; SELECT tenancy.protect('groups'); SELECT tenancy.protect('items')",
    );
    let mut owner = stage.world.session("acme.owner");
    owner.run("INSERT INTO groups (id, code, plain) VALUES (1, 'a', 'p'), (2, 'b', 'q'); INSERT INTO items (id, code) VALUES (1, 'a')");
    let update = |payload: &str| {
        stage.pending(
            "acme.admin",
            &format!("'groups', 'update', 's', key => '1', payload => '{payload}'"),
        )
    };
    for (payload, risk) in [
        ("{\"code\": \"c\"}", "destructive"),
        ("{\"plain\": \"r\"}", "caution"),
        ("{\"title\": \"t\"}", "caution"),
    ] {
        let id = update(payload);
        assert_eq!(
            owner.text(&format!(
                "SELECT risk FROM tenancy.proposals WHERE id = '{id}'"
            )),
            risk,
            "{payload}"
        );
        let said = stage.world.session("acme.member").attempt(&approve(&id));
        match risk {
            "destructive" => drop(refused(said, "42501")),
            _ => drop(said.unwrap()),
        }
    }
}
