//! Projects: who makes them, who sees them, who is in them, and what a role in one adds (spec 9).

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};

use pg_tenancy_tests::{Org, Session, World, assert_same_error, fails, refused};

/// People with two projects in acme, `open` and `closed`, and one in globex.
struct Projects {
    world: World,
    open: String,
    closed: String,
    theirs: String,
}

fn create(dba: &mut Session, org: Org, name: &str, access: &str) -> String {
    dba.text(&format!(
        "SELECT tenancy.create_project('{}', '{name}', '{access}')",
        org.id
    ))
}

fn projects() -> Projects {
    let world = World::people();
    let mut dba = world.superuser();
    let open = create(&mut dba, world.acme, "open", "open");
    let closed = create(&mut dba, world.acme, "closed", "restricted");
    let theirs = create(&mut dba, world.globex, "open", "open");
    Projects {
        world,
        open,
        closed,
        theirs,
    }
}

impl Projects {
    fn add(&self, project: &str, who: &str, role: &str) {
        self.world.superuser().run(&self.adding(project, who, role));
    }

    fn adding(&self, project: &str, who: &str, role: &str) -> String {
        format!(
            "SELECT tenancy.add_project_member('{project}', '{}', '{role}')",
            self.world.user(who)
        )
    }

    /// The names of the projects that somebody sees in acme.
    fn seen(&self, who: &str) -> Vec<String> {
        self.world
            .session(who)
            .column("SELECT name FROM tenancy.projects ORDER BY name")
    }
}

const NOBODYS: &str = "00000000-0000-4000-8000-000000000001";

#[test]
fn who_runs_the_organization_makes_projects_and_nobody_else() {
    let world = World::people();
    let acme = world.acme.id;
    for (who, may) in [
        ("owner", true),
        ("admin", true),
        ("member", false),
        ("viewer", false),
    ] {
        let act = format!("SELECT tenancy.create_project('{acme}', 'by {who}')");
        let mut session = world.session(&format!("acme.{who}"));
        let done = session.attempt(&act);
        if may {
            done.unwrap();
            // The name is taken now.
            refused(session.attempt(&act), "23505");
        } else {
            refused(done, "42501");
        }
    }
    let act = format!("SELECT tenancy.create_project('{acme}', 'from outside')");
    let other = refused(world.session("globex.owner").attempt(&act), "42501");
    let none = act.replace(&acme.to_string(), NOBODYS);
    let nothing = refused(world.session("globex.owner").attempt(&none), "42501");
    assert_same_error(&other, &nothing, &[(NOBODYS, &acme.to_string())]);
    // The same name may stand in another organization.
    world.session("globex.owner").run(&format!(
        "SELECT tenancy.create_project('{}', 'by owner')",
        world.globex.id
    ));
}

#[test]
fn bad_names_accesses_and_environments_are_refused() {
    let world = World::people();
    let mut owner = world.session("acme.owner");
    for (name, rest) in [
        ("", ""),
        ("  ", ""),
        (NOBODYS, ""),
        ("a\tb", ""),
        (&"x".repeat(256), ""),
        ("p", ", 'secret'"),
        ("p", ", environment => 'Pro duction'"),
        ("p", ", environment => '-x'"),
    ] {
        refused(
            owner.attempt(&format!(
                "SELECT tenancy.create_project('{}', '{name}'{rest})",
                world.acme.id
            )),
            "22023",
        );
    }
    for act in ["NULL, 'x'", "gen_random_uuid(), NULL"] {
        refused(
            owner.attempt(&format!("SELECT tenancy.create_project({act})")),
            "22004",
        );
    }
    assert_eq!(owner.count("SELECT count(*) FROM tenancy.projects"), 0);
}

#[test]
fn a_restricted_project_is_invisible_outside_it() {
    let p = projects();
    for who in ["acme.owner", "acme.admin"] {
        assert_eq!(p.seen(who), ["closed", "open"], "{who}");
    }
    for who in ["acme.member", "acme.viewer"] {
        assert_eq!(p.seen(who), ["open"], "{who}");
    }
    let mut member = p.world.session("acme.member");
    // By id and by name, in every function, as one that does not exist.
    for act in [
        "rename_project('{}', 'mine')",
        "set_project_access('{}', 'open')",
        "set_project_environment('{}', 'production')",
        "delete_project('{}')",
        "create_cluster('{}', 'c')",
        "remove_project_member('{}', '{me}')",
        "add_project_member('{}', '{me}')",
        "set_project_role('{}', '{me}', 'project_admin')",
    ] {
        let act = format!("SELECT tenancy.{act}")
            .replace("{me}", &p.world.user("acme.member").to_string());
        let hidden = refused(member.attempt(&act.replace("{}", &p.closed)), "42501");
        let nothing = refused(member.attempt(&act.replace("{}", NOBODYS)), "42501");
        assert_same_error(&hidden, &nothing, &[(NOBODYS, &p.closed)]);
        let theirs = refused(member.attempt(&act.replace("{}", &p.theirs)), "42501");
        assert_same_error(&theirs, &nothing, &[(NOBODYS, &p.theirs)]);
    }
    for name in [&p.closed, "closed", &p.theirs, NOBODYS, "none"] {
        member.run(&format!("SET app.current_project = '{name}'"));
        let me = member.whoami();
        assert!(me["org_id"].is_null(), "{name}: {me}");
        assert_eq!(member.count("SELECT count(*) FROM tenancy.projects"), 0);
        let reason = me["reason"].as_str().unwrap();
        assert!(reason.contains("app.current_project"), "{reason}");
    }
    member.run(&format!("SET app.current_project = '{}'", p.open));
    let me = member.whoami();
    assert_eq!(me["project_id"], p.open.as_str());
    assert_eq!(me["project"], "open");
    member.run("SET app.current_project = 'open'");
    assert_eq!(member.whoami()["project_id"], p.open.as_str());
    assert!(!member.is_true(&format!(
        "SELECT tenancy.has_project_permission('{}', 'data:read')",
        p.closed
    )));
}

#[test]
fn a_member_of_the_project_sees_it_from_his_next_statement_until_he_is_removed() {
    let p = projects();
    let mut member = p.world.session("acme.member");
    member.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    let may = |session: &mut Session, action: &str| {
        session.is_true(&format!(
            "SELECT tenancy.has_project_permission('{}', '{action}')",
            p.closed
        ))
    };
    assert!(!may(&mut member, "data:read"));
    p.add(&p.closed, "acme.member", "project_viewer");
    assert!(may(&mut member, "data:read"));
    // His role in the organization stays outside.
    assert!(!may(&mut member, "data:write"));
    let user = p.world.user("acme.member");
    let mut owner = p.world.session("acme.owner");
    owner.run(&format!(
        "SELECT tenancy.set_project_role('{}', '{user}', 'project_operator')",
        p.closed
    ));
    assert!(may(&mut member, "data:write"));
    assert!(!may(&mut member, "server:create"));
    owner.run(&format!(
        "SELECT tenancy.set_project_role('{}', '{user}', 'project_admin')",
        p.closed
    ));
    assert!(may(&mut member, "server:create"));
    assert!(!may(&mut member, "team:invite") && !may(&mut member, "billing:read"));
    // Nothing of it outside.
    assert!(!member.is_true(&format!(
        "SELECT tenancy.has_project_permission('{}', 'server:create')",
        p.open
    )));
    assert!(!member.is_true("SELECT tenancy.has_permission('server:create')"));
    owner.run(&format!(
        "SELECT tenancy.remove_project_member('{}', '{user}')",
        p.closed
    ));
    assert!(!may(&mut member, "data:read"));
    member.run("COMMIT");
    assert_eq!(p.seen("acme.member"), ["open"]);
}

#[test]
fn who_leaves_the_organization_leaves_its_projects() {
    let p = projects();
    p.add(&p.closed, "acme.member", "project_admin");
    p.world.remove("acme.member");
    let mut dba = p.world.superuser();
    assert_eq!(dba.count("SELECT count(*) FROM tenancy.project_members"), 0);
    dba.run(&format!(
        "SELECT tenancy.add_member('{}', '{}', 'member')",
        p.world.acme.id,
        p.world.user("acme.member")
    ));
    assert_eq!(p.seen("acme.member"), ["open"]);
    // Nobody from outside comes in by a project.
    refused(
        dba.attempt(&p.adding(&p.open, "globex.member", "project_viewer")),
        "P0002",
    );
}

#[test]
fn nobody_gives_a_project_role_that_he_does_not_hold() {
    let p = projects();
    p.add(&p.open, "acme.member", "project_admin");
    let user = |who: &str| p.world.user(who);
    let mut admin = p.world.session("acme.member");
    // The project's administrator: those below his own, and not another administrator's.
    refused(
        admin.attempt(&p.adding(&p.open, "acme.viewer", "project_admin")),
        "42501",
    );
    admin.run(&p.adding(&p.open, "acme.viewer", "project_operator"));
    let up = format!(
        "SELECT tenancy.set_project_role('{}', '{}', 'project_admin')",
        p.open,
        user("acme.viewer")
    );
    refused(admin.attempt(&up), "42501");
    p.world.session("acme.owner").run(&up);
    for act in [
        format!(
            "set_project_role('{}', '{}', 'project_viewer')",
            p.open,
            user("acme.viewer")
        ),
        format!(
            "remove_project_member('{}', '{}')",
            p.open,
            user("acme.viewer")
        ),
    ] {
        refused(admin.attempt(&format!("SELECT tenancy.{act}")), "42501");
    }
    // Not in another project, and no operator does.
    refused(
        admin.attempt(&p.adding(&p.closed, "acme.viewer", "project_viewer")),
        "42501",
    );
    p.world
        .session("acme.owner")
        .run(&up.replace("project_admin", "project_operator"));
    let mut operator = p.world.session("acme.viewer");
    refused(
        operator.attempt(&p.adding(&p.open, "acme.admin", "project_viewer")),
        "42501",
    );
    refused(
        operator.attempt(&format!("SELECT tenancy.create_cluster('{}', 'c')", p.open)),
        "42501",
    );
    refused(
        operator.attempt(&format!("SELECT tenancy.delete_project('{}')", p.open)),
        "42501",
    );
    // An admin of the organization holds all that the roles add, so he gives them all.
    p.world
        .session("acme.admin")
        .run(&p.adding(&p.closed, "acme.viewer", "project_admin"));
    // Anybody may leave.
    operator.run(&format!(
        "SELECT tenancy.remove_project_member('{}', '{}')",
        p.open,
        user("acme.viewer")
    ));
    for (act, code) in [
        (p.adding(&p.open, "acme.member", "project_viewer"), "23505"),
        (p.adding(&p.open, "acme.owner", "project_owner"), "22023"),
        (
            format!(
                "SELECT tenancy.remove_project_member('{}', '{}')",
                p.open,
                user("acme.owner")
            ),
            "P0002",
        ),
    ] {
        refused(p.world.session("acme.owner").attempt(&act), code);
    }
}

#[test]
fn members_of_a_project_are_shown_to_whom_they_concern() {
    let p = projects();
    p.add(&p.closed, "acme.viewer", "project_viewer");
    p.add(&p.open, "acme.member", "project_operator");
    p.add(&p.open, "acme.viewer", "project_viewer");
    let seen = |who: &str| {
        p.world
            .session(who)
            .count("SELECT count(*) FROM tenancy.project_members")
    };
    assert_eq!(seen("acme.owner"), 3);
    // team:read shows those of the projects that he sees; without it oneself.
    assert_eq!(seen("acme.member"), 2);
    assert_eq!(seen("acme.viewer"), 2);
    assert_eq!(seen("globex.owner"), 0);
    assert_eq!(seen("stranger"), 0);
    // Which way a condition of his own is put does not matter (attack E1).
    let mut member = p.world.session("acme.member");
    member.run("CREATE TEMPORARY SEQUENCE peeks");
    member.rows("SELECT * FROM tenancy.projects WHERE nextval('peeks') > 0");
    assert_eq!(member.count("SELECT last_value FROM peeks"), 1);
}

#[test]
fn the_strict_rule_keeps_owner_and_admins_out_of_what_they_still_manage() {
    let p = projects();
    let acme = p.world.acme.id;
    let may = |who: &str, project: &str| {
        p.world.session(who).is_true(&format!(
            "SELECT tenancy.has_project_permission('{project}', 'data:read')"
        ))
    };
    assert!(may("acme.owner", &p.closed) && may("acme.admin", &p.closed));
    let strict = format!("SELECT tenancy.set_strict_project_access('{acme}', true)");
    refused(p.world.session("acme.admin").attempt(&strict), "42501");
    refused(p.world.session("globex.owner").attempt(&strict), "42501");
    p.world.session("acme.owner").run(&strict);
    for who in ["acme.owner", "acme.admin"] {
        assert!(!may(who, &p.closed) && may(who, &p.open), "{who}");
        assert_eq!(p.seen(who), ["closed", "open"]);
    }
    // He may let himself in, and the log tells.
    let mut owner = p.world.session("acme.owner");
    owner.run(&p.adding(&p.closed, "acme.owner", "project_viewer"));
    assert!(may("acme.owner", &p.closed));
    let line = owner.json(
        "SELECT actor_id, key, new FROM tenancy.audit_log WHERE operation = 'add_project_member'",
    );
    assert_eq!(line.len(), 1);
    assert_eq!(line[0]["actor_id"], p.world.user("acme.owner").to_string());
    assert_eq!(line[0]["new"]["role"], "project_viewer");
    assert_eq!(line[0]["key"]["project_id"], p.closed.as_str());
    // Another organization's rule is its own.
    let theirs = create(
        &mut p.world.superuser(),
        p.world.globex,
        "closed",
        "restricted",
    );
    assert!(p.world.session("globex.owner").is_true(&format!(
        "SELECT tenancy.has_project_permission('{theirs}', 'data:read')"
    )));
}

#[test]
fn what_the_roles_add_is_published_and_stays_in_the_project() {
    let p = projects();
    let mut nobody = p.world.nobody();
    let actions = |session: &mut Session, role: &str| {
        session.column(&format!(
            "SELECT action FROM tenancy.project_role_permissions WHERE role = '{role}' ORDER BY action"
        ))
    };
    let [admin, operator, viewer] =
        ["project_admin", "project_operator", "project_viewer"].map(|r| actions(&mut nobody, r));
    assert!(
        viewer
            .iter()
            .all(|a| a.ends_with(":read") && operator.contains(a))
    );
    assert!(operator.iter().all(|a| admin.contains(a)));
    assert!(viewer.len() < operator.len() && operator.len() < admin.len());
    for action in ["data:write", "site:deploy", "app:manage", "backup:restore"] {
        assert!(operator.iter().any(|a| a == action), "{action}");
    }
    for action in [
        "server:create",
        "server:delete",
        "server:firewall",
        "site:delete",
    ] {
        assert!(!operator.iter().any(|a| a == action), "{action}");
        assert!(admin.iter().any(|a| a == action), "{action}");
    }
    for action in &admin {
        let category = action.split(':').next().unwrap();
        assert!(
            !["team", "billing", "org", "ai", "finops"].contains(&category),
            "{action}"
        );
    }
    fails(
        nobody.attempt("INSERT INTO tenancy.project_role_permissions VALUES ('project_viewer', 'server:delete')"),
        "42501",
    );
    let mut owner = p.world.session("acme.owner");
    for table in [
        "projects",
        "clusters",
        "project_members",
        "project_settings",
    ] {
        for act in [
            "DELETE FROM tenancy.",
            "INSERT INTO tenancy.",
            "UPDATE tenancy.",
        ] {
            let rest = match act {
                "INSERT INTO tenancy." => " DEFAULT VALUES",
                "UPDATE tenancy." => " SET org_id = NULL",
                _ => "",
            };
            fails(owner.attempt(&format!("{act}{table}{rest}")), "42501");
        }
    }
}

#[test]
fn projects_stay_in_their_organization_whoever_writes() {
    let p = projects();
    let mut dba = p.world.superuser();
    let globex = p.world.globex.id;
    fails(
        dba.attempt(&format!(
            "UPDATE tenancy.projects SET org_id = '{globex}' WHERE id = '{}'",
            p.open
        )),
        "23514",
    );
    let cluster = dba.text(&format!("SELECT tenancy.create_cluster('{}', 'c')", p.open));
    for (column, value) in [
        ("org_id", globex.to_string()),
        ("project_id", p.closed.clone()),
    ] {
        fails(
            dba.attempt(&format!(
                "UPDATE tenancy.clusters SET {column} = '{value}' WHERE id = '{cluster}'"
            )),
            "23514",
        );
    }
    fails(
        dba.attempt(&format!(
            "INSERT INTO tenancy.clusters (org_id, project_id, name) VALUES ('{globex}', '{}', 'x')",
            p.open
        )),
        "23503",
    );
    fails(
        dba.attempt(&format!(
            "INSERT INTO tenancy.project_members (org_id, project_id, user_id, role)
             VALUES ('{}', '{}', '{}', 'project_viewer')",
            p.world.acme.id,
            p.open,
            p.world.user("globex.owner")
        )),
        "23503",
    );
}

#[test]
fn every_act_on_a_project_is_in_its_organizations_log() {
    let p = projects();
    let mut owner = p.world.session("acme.owner");
    let member = p.world.user("acme.member");
    let cluster = owner.text(&format!("SELECT tenancy.create_cluster('{}', 'c')", p.open));
    for act in [
        format!("set_project_access('{}', 'open')", p.closed),
        format!("set_project_environment('{}', 'production')", p.closed),
        format!("rename_project('{}', 'was closed')", p.closed),
        format!("rename_cluster('{cluster}', 'd')"),
        format!("delete_cluster('{cluster}')"),
        format!(
            "add_project_member('{}', '{member}', 'project_viewer')",
            p.open
        ),
        format!(
            "set_project_role('{}', '{member}', 'project_operator')",
            p.open
        ),
        format!("remove_project_member('{}', '{member}')", p.open),
        format!("set_strict_project_access('{}', true)", p.world.acme.id),
        format!("delete_project('{}')", p.closed),
    ] {
        owner.run(&format!("SELECT tenancy.{act}"));
        let name = act.split('(').next().unwrap();
        assert_eq!(
            owner.count(&format!(
                "SELECT count(*) FROM tenancy.audit_log
                 WHERE operation = '{name}' AND actor_id = '{}'",
                p.world.user("acme.owner")
            )),
            1,
            "{name}"
        );
    }
    assert_eq!(
        owner.count("SELECT count(*) FROM tenancy.audit_log WHERE operation = 'create_project'"),
        2
    );
    assert_eq!(p.seen("acme.owner"), ["open"]);
}

#[test]
fn enter_narrows_and_enters_nothing_that_is_not_seen() {
    let p = projects();
    let mut app = p.world.app();
    let (acme, globex) = (p.world.acme.id, p.world.globex.id);
    let (agency, member) = (p.world.user("agency"), p.world.user("acme.member"));
    app.run("BEGIN");
    app.run(&format!(
        "SELECT tenancy.enter('{acme}', '{agency}', project => '{}')",
        p.open
    ));
    assert_eq!(app.whoami()["project_id"], p.open.as_str());
    app.run("COMMIT");
    app.run("BEGIN");
    app.run(&format!("SET LOCAL app.current_project = '{}'", p.open));
    // Another organization is entered without what narrowed this one.
    app.run(&format!("SELECT tenancy.enter('{globex}', '{agency}')"));
    let me = app.whoami();
    assert_eq!(me["org_id"], globex.to_string());
    assert!(me["project_id"].is_null());
    app.run("ROLLBACK");
    let mut errors = vec![];
    for project in [&p.closed, &p.theirs, NOBODYS] {
        app.run("BEGIN");
        let act = format!("SELECT tenancy.enter('{acme}', '{member}', project => '{project}')");
        errors.push(refused(app.attempt(&act), "42501"));
        app.run("ROLLBACK");
    }
    for error in &errors {
        assert_same_error(&errors[0], error, &[]);
    }
    // What the pooler's previous client set says nothing.
    app.run(&format!("SET app.current_project = '{}'", p.closed));
    app.run("BEGIN");
    app.run(&format!(
        "SET LOCAL app.current_org = '{acme}'; SET LOCAL app.current_user_id = '{member}'"
    ));
    let me = app.whoami();
    assert_eq!(me["org_id"], acme.to_string());
    assert!(me["project_id"].is_null());
    app.run("COMMIT");
}

#[test]
fn thirty_two_clients_make_one_project_of_a_name_and_keep_no_member_who_left() {
    const CLIENTS: u32 = 32;
    let p = Arc::new(projects());
    let barrier = Arc::new(Barrier::new(CLIENTS as usize));
    let made = Arc::new(AtomicU32::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (p, barrier, made) = (p.clone(), barrier.clone(), made.clone());
            std::thread::spawn(move || {
                let mut session = p
                    .world
                    .session(["acme.owner", "acme.admin"][client as usize % 2]);
                let acme = p.world.acme.id;
                let user = p.world.user("acme.member");
                let mut dba = p.world.superuser();
                let mut trouble = vec![];
                for round in 0..6 {
                    barrier.wait();
                    match session.attempt(&format!(
                        "SELECT tenancy.create_project('{acme}', 'round {round}')"
                    )) {
                        Ok(_) => _ = made.fetch_add(1, Ordering::Relaxed),
                        Err(e) => {
                            let code = e.as_db_error().map(|e| e.code().code().to_string());
                            if code.as_deref() != Some("23505") {
                                trouble.push(format!("{e:?}"));
                            }
                        }
                    }
                    let act = match client % 4 {
                        0 => format!("SELECT tenancy.remove_member('{acme}', '{user}')"),
                        1 => format!("SELECT tenancy.add_member('{acme}', '{user}', 'member')"),
                        _ => p.adding(&p.closed, "acme.member", "project_viewer"),
                    };
                    // Refused for what somebody else did first, and for nothing else.
                    if let Err(e) = dba.attempt(&act) {
                        let code = e.as_db_error().map(|e| e.code().code().to_string());
                        if !["23505", "P0002", "23503"].contains(&code.as_deref().unwrap_or("gone"))
                        {
                            trouble.push(format!("{act}: {e:?}"));
                        }
                    }
                }
                trouble
            })
        })
        .collect();
    let trouble: Vec<String> = clients
        .into_iter()
        .flat_map(|client| client.join().expect("a client"))
        .collect();
    assert_eq!(trouble, Vec::<String>::new());
    assert_eq!(made.load(Ordering::Relaxed), 6);
    let orphans = "SELECT count(*) FROM tenancy.project_members pm WHERE NOT EXISTS (
        SELECT FROM tenancy.memberships m WHERE m.org_id = pm.org_id AND m.user_id = pm.user_id)";
    assert_eq!(p.world.superuser().count(orphans), 0);
}

/// team:role by a role of the organization's own is no way to a role in a project with rights that one does not hold.
#[test]
fn who_manages_people_gives_no_project_role_above_himself() {
    let world = World::people();
    let (org, member) = (world.acme.id, world.user("acme.member"));
    let mut owner = world.session("acme.owner");
    let project = owner.text(&format!(
        "SELECT tenancy.create_project('{org}', 'closed', 'restricted')"
    ));
    owner.run(&format!(
        "SELECT tenancy.create_role('{org}', 'people');
         SELECT tenancy.grant_permission('{org}', 'people', a) FROM unnest('{{team:role,team:read,org:read,org:update}}'::text[]) a;
         SELECT tenancy.set_member_role('{org}', '{member}', 'people')"
    ));
    let mut people = world.session("acme.member");
    for role in ["project_admin", "project_operator", "project_viewer"] {
        refused(
            people.attempt(&format!(
                "SELECT tenancy.add_project_member('{project}', '{member}', '{role}')"
            )),
            "42501",
        );
    }
    owner.run(&format!(
        "SELECT tenancy.add_project_member('{project}', '{member}', 'project_viewer')"
    ));
}
