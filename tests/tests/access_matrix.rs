//! access_matrix(), its CSV, members, who_can(), what_can() (issue 7.6, section 2 of the specification): they say what
//! has_permission() says and what statements are allowed, and they say it to those only who may know.

use std::collections::{BTreeMap, BTreeSet};

use pg_tenancy_tests::{Random, Session, Uuid, World, assert_same_error, quote, refused};

const MEMBERS: [&str; 5] = [
    "acme.owner",
    "acme.admin",
    "acme.member",
    "acme.viewer",
    "agency",
];

fn actions(session: &mut Session) -> Vec<String> {
    session.column("SELECT name FROM tenancy.actions ORDER BY name")
}

/// A role of acme's with these grants: action, environment, level.
fn role(world: &World, name: &str, active: bool, grants: &[(String, Option<&str>, &str)]) {
    let mut dba = world.superuser();
    let acme = world.acme.id;
    dba.run(&format!(
        "SELECT tenancy.create_role('{acme}', {}, active => {active})",
        quote(name)
    ));
    for (action, environment, level) in grants {
        let environment = environment.map_or("NULL".to_string(), quote);
        dba.run(&format!(
            "SELECT tenancy.grant_permission('{acme}', {}, '{action}', '{level}', {environment})",
            quote(name)
        ));
    }
}

fn assign(world: &World, who: &str, role: &str) {
    world.superuser().run(&format!(
        "SELECT tenancy.set_member_role('{}', '{}', {})",
        world.acme.id,
        world.user(who),
        quote(role)
    ));
}

/// Level by user, action and environment.
fn told(
    session: &mut Session,
    world: &World,
) -> BTreeMap<(String, String, Option<String>), String> {
    let rows = session.rows(&format!(
        "SELECT user_id, action, environment, level FROM tenancy.access_matrix('{}')",
        world.acme.id
    ));
    let count = rows.len();
    let cells: BTreeMap<_, _> = rows
        .into_iter()
        .map(|mut row| {
            let mut take = |n: usize| row[n].take();
            let environment = take(2);
            (
                (take(0).unwrap(), take(1).unwrap(), environment),
                take(3).unwrap(),
            )
        })
        .collect();
    assert_eq!(cells.len(), count, "a cell stands there twice");
    cells
}

/// Grants as they come.
fn random_grants<'a>(
    random: &mut Random,
    actions: &[String],
) -> Vec<(String, Option<&'a str>, &'a str)> {
    let mut grants = vec![];
    for action in actions {
        for environment in [None, Some("staging"), Some("production")] {
            if random.next(4) == 0 {
                let level = ["allow", "allow", "limited", "deny"][random.next(4)];
                grants.push((action.clone(), environment, level));
            }
        }
    }
    grants
}

#[test]
fn the_matrix_says_what_is_asked_and_what_is_done() {
    let world = World::people();
    let mut dba = world.superuser();
    let acme = world.acme.id;
    dba.run("SELECT tenancy.define_action('invoice:send', admin => 'allow', member => 'limited')");
    let actions = actions(&mut dba);
    assert_eq!(actions.len(), 49);
    // A table for every action, whose rows are read and made by who has it.
    for (n, action) in actions.iter().enumerate() {
        dba.run(&format!(
            r#"CREATE TABLE t{n} (id int, org_id uuid); GRANT ALL ON t{n} TO PUBLIC;
               INSERT INTO t{n} VALUES (1, '{acme}');
               SELECT tenancy.protect('t{n}', audit => false, permissions => '{{"select": "{action}", "insert": "{action}"}}')"#
        ));
    }
    let mut random = Random::new(77);
    role(&world, "first", true, &random_grants(&mut random, &actions));
    role(
        &world,
        "second",
        true,
        &random_grants(&mut random, &actions),
    );
    role(
        &world,
        "asleep",
        false,
        &random_grants(&mut random, &actions),
    );
    let mut sessions: Vec<(&str, Session)> = MEMBERS
        .iter()
        .map(|who| (*who, world.session(who)))
        .collect();
    for round in [
        // As they are; then with roles of their own; then shut out.
        &[][..],
        &[("acme.admin", "first"), ("acme.viewer", "second")],
        &[
            ("acme.admin", "second"),
            ("acme.viewer", "asleep"),
            ("acme.member", "first"),
        ],
    ] {
        for (who, role) in round {
            assign(&world, who, role);
        }
        let cells = told(&mut dba, &world);
        let mut tried = 0;
        for (who, session) in &mut sessions {
            let user = world.user(who).to_string();
            for (n, action) in actions.iter().enumerate() {
                let cell = |environment: Option<&str>| {
                    let environment = environment.map(String::from);
                    cells.get(&(user.clone(), action.clone(), environment))
                };
                let level = cell(None).unwrap_or_else(|| panic!("{who} {action} is missing"));
                let allowed = level == "allow";
                assert_eq!(
                    dba.is_true(&format!(
                        "SELECT tenancy.has_permission('{user}'::uuid, '{acme}'::uuid, '{action}')"
                    )),
                    allowed,
                    "{who} {action}"
                );
                for (environment, named) in [
                    ("staging", "staging"),
                    ("production", "production"),
                    ("elsewhere", "*"),
                ] {
                    let level = cell(Some(named))
                        .or(cell(Some("*")))
                        .or(cell(None))
                        .unwrap();
                    assert_eq!(
                        session.is_true(&format!(
                            "SELECT tenancy.has_permission_in('{environment}', '{action}')"
                        )),
                        level == "allow",
                        "{who} {action} {environment}"
                    );
                }
                assert_eq!(
                    session.is_true(&format!("SELECT tenancy.has_permission('{action}')")),
                    allowed,
                    "{who} {action}"
                );
                assert_eq!(
                    session.count(&format!("SELECT count(*) FROM t{n} WHERE id = 1")),
                    i64::from(allowed),
                    "{who} {action}"
                );
                let inserted = session.attempt(&format!("INSERT INTO t{n} (id) VALUES (2)"));
                assert_eq!(inserted.is_ok(), allowed, "{who} {action}: {inserted:?}");
                tried += 1;
            }
        }
        assert_eq!(tried, MEMBERS.len() * 49);
        let mut allowed: Vec<&str> = cells.values().map(String::as_str).collect();
        allowed.sort();
        allowed.dedup();
        assert_eq!(allowed, ["allow", "deny", "limited"]);
        // The other questions answer from the same.
        for action in &actions {
            let mut can: Vec<(String, Option<String>)> = dba_in(&world)
                .rows(&format!(
                    "SELECT user_id, environment FROM tenancy.who_can('{action}')"
                ))
                .into_iter()
                .map(|row| (row[0].clone().unwrap(), row[1].clone()))
                .collect();
            can.sort();
            let everywhere: BTreeSet<&String> = cells
                .iter()
                .filter(|((_, a, e), level)| a == action && e.is_none() && *level == "allow")
                .map(|((user, ..), _)| user)
                .collect();
            let mut expected: Vec<(String, Option<String>)> = cells
                .iter()
                .filter(|((user, a, e), level)| {
                    a == action && *level == "allow" && (e.is_none() || !everywhere.contains(user))
                })
                .map(|((user, _, e), _)| (user.clone(), e.clone()))
                .collect();
            expected.sort();
            assert_eq!(can, expected, "{action}");
        }
        for (who, session) in &mut sessions {
            let user = world.user(who).to_string();
            let asks: Vec<(String, Option<String>, String)> = cells
                .iter()
                .filter(|((u, ..), _)| *u == user)
                .map(|((_, a, e), level)| (a.clone(), e.clone(), level.clone()))
                .collect();
            let answer = |rows: Vec<Vec<Option<String>>>| {
                let mut rows: Vec<_> = rows
                    .into_iter()
                    .map(|r| (r[0].clone().unwrap(), r[1].clone(), r[2].clone().unwrap()))
                    .collect();
                rows.sort();
                rows
            };
            let sql = "SELECT action, environment, level FROM tenancy.what_can";
            assert_eq!(
                answer(dba.rows(&format!("{sql}('{user}', '{acme}')"))),
                asks,
                "{who}"
            );
            if !round.contains(&(who, "asleep")) {
                assert_eq!(answer(session.rows(&format!("{sql}()"))), asks, "{who}");
            }
        }
    }
}

fn dba_in(world: &World) -> Session {
    let mut dba = world.superuser();
    dba.run(&format!("SET app.current_org = '{}'", world.acme.id));
    dba
}

#[test]
fn states_and_conditions_are_shown() {
    let world = World::people();
    let acme = world.acme.id;
    let mut dba = dba_in(&world);
    role(
        &world,
        "crew",
        true,
        &[("server:read".into(), None, "allow")],
    );
    assign(&world, "acme.viewer", "crew");
    dba.run(&format!("SELECT tenancy.deactivate_role('{acme}', 'crew')"));
    assign(&world, "agency", "member");
    dba.run(&format!(
        "UPDATE tenancy.memberships SET expires_at = now() - interval '1 s' WHERE user_id = '{}';
         UPDATE tenancy.memberships SET expires_at = '2090-01-02 03:04:05Z', allowed_networks = '{{10.0.0.0/8,2001:db8::/32}}' WHERE user_id = '{}' AND org_id = '{acme}'",
        world.user("acme.member"),
        world.user("agency")
    ));
    let rows = dba.column(&format!(
        "SELECT concat_ws(' | ', email, role, kind, status, coalesce(conditions, '-'), level)
         FROM tenancy.access_matrix('{acme}') WHERE action = 'server:read' ORDER BY email"
    ));
    let ended = dba.text(&format!(
        "SELECT to_char(expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') FROM tenancy.memberships WHERE user_id = '{}'",
        world.user("acme.member")
    ));
    assert_eq!(
        rows,
        [
            "admin@acme.test | admin | system | active | - | allow".to_string(),
            "example@agency.test | member | system | active | until 2090-01-02 03:04:05 UTC; from 10.0.0.0/8, 2001:db8::/32 | allow".into(),
            format!("member@acme.test | member | system | expired | until {ended} UTC | deny"),
            "owner@acme.test | owner | system | active | - | allow".into(),
            "viewer@acme.test | crew | custom | inactive role | - | deny".into(),
        ]
    );
    assert_eq!(
        dba.count(&format!(
            "SELECT count(*) FROM tenancy.access_matrix('{acme}') WHERE status IN ('expired', 'inactive role') AND level <> 'deny'"
        )),
        0
    );
    // members says the same, of the organization that one is in.
    let members =
        "SELECT concat_ws(' | ', email, role, custom, status) FROM tenancy.members ORDER BY 1";
    let expected = [
        "admin@acme.test | admin | f | active",
        "example@agency.test | member | f | active",
        "member@acme.test | member | f | expired",
        "owner@acme.test | owner | f | active",
        "viewer@acme.test | crew | t | inactive role",
    ];
    assert_eq!(dba.column(members), expected);
    assert_eq!(world.session("acme.admin").column(members), expected);
    dba.run(&format!("SELECT tenancy.activate_role('{acme}', 'crew')"));
    assert_eq!(
        world.session("acme.viewer").column(members),
        ["viewer@acme.test | crew | t | active"]
    );
    assert_eq!(world.session("globex.owner").column(members).len(), 5);
    assert_eq!(world.nobody().column(members), Vec::<String>::new());
    // Who can, of those who can now.
    assert_eq!(
        dba.column("SELECT email FROM tenancy.who_can('server:read') ORDER BY 1"),
        [
            "admin@acme.test",
            "example@agency.test",
            "owner@acme.test",
            "viewer@acme.test",
        ]
    );
}

/// Acme's projects `wide`, open, and `left` and `right`, restricted, with a role in one or two of them for each but the admin.
fn projects(world: &World) -> Vec<String> {
    let mut dba = world.superuser();
    let acme = world.acme.id;
    let projects: Vec<String> = [
        ("wide", "open"),
        ("left", "restricted"),
        ("right", "restricted"),
    ]
    .into_iter()
    .map(|(name, access)| {
        dba.text(&format!(
            "SELECT tenancy.create_project('{acme}', '{name}', '{access}')"
        ))
    })
    .collect();
    for (project, who, role) in [
        (0, "acme.viewer", "project_operator"),
        (1, "acme.member", "project_viewer"),
        (1, "acme.viewer", "project_admin"),
        (2, "acme.viewer", "project_viewer"),
        (2, "acme.owner", "project_viewer"),
        (2, "agency", "project_operator"),
    ] {
        dba.run(&format!(
            "SELECT tenancy.add_project_member('{}', '{}', '{role}')",
            projects[project],
            world.user(who)
        ));
    }
    projects
}

#[test]
fn the_matrix_says_of_projects_what_is_done_in_them() {
    let world = World::people();
    let mut dba = world.superuser();
    let acme = world.acme.id;
    let projects = projects(&world);
    let actions = actions(&mut dba);
    for (n, action) in actions.iter().enumerate() {
        dba.run(&format!(
            r#"CREATE TABLE t{n} (id int, org_id uuid, project_id uuid); GRANT ALL ON t{n} TO PUBLIC;
               INSERT INTO t{n} SELECT 1, '{acme}', id FROM tenancy.projects;
               SELECT tenancy.protect('t{n}', audit => false, project_column => 'project_id',
                   permissions => '{{"select": "{action}", "insert": "{action}"}}')"#
        ));
    }
    let mut random = Random::new(78);
    let grants: Vec<_> = actions
        .iter()
        .filter_map(|action| {
            let level = ["allow", "limited", "deny", "deny"][random.next(4)];
            (level != "deny").then(|| (action.clone(), None, level))
        })
        .collect();
    role(&world, "first", true, &grants);
    role(&world, "asleep", false, &grants);
    for round in 0..4 {
        match round {
            1 => assign(&world, "acme.member", "first"),
            2 => {
                dba.run(&format!(
                    "SELECT tenancy.set_strict_project_access('{acme}', true)"
                ));
            }
            3 => assign(&world, "acme.viewer", "asleep"),
            _ => {}
        }
        let mut cells = BTreeMap::new();
        for row in dba.rows(&format!(
            "SELECT user_id, action, environment, level, project_id FROM tenancy.access_matrix('{acme}')"
        )) {
            let [user, action, environment, level, project] =
                <[Option<String>; 5]>::try_from(row).unwrap();
            assert_eq!(environment, None);
            let key = (user.unwrap(), action.unwrap(), project);
            assert!(cells.insert(key, level.unwrap()).is_none(), "twice");
        }
        let strict = round >= 2;
        let (mut differ, mut tried) = (0, 0);
        let mut writers: Vec<Vec<String>> = vec![vec![]; projects.len()];
        for who in MEMBERS {
            let user = world.user(who).to_string();
            let mut session = world.session(who);
            let runs = !strict && cells[&(user.clone(), "org:update".to_string(), None)] == "allow";
            let has_role = |project: &String| {
                let of_project = Some(project.clone());
                cells.keys().any(|(u, _, p)| *u == user && *p == of_project)
            };
            let levels: Vec<Vec<String>> = projects
                .iter()
                .map(|project| {
                    dba.column(&format!(
                        "SELECT level FROM tenancy.what_can('{user}', '{acme}', '{project}') ORDER BY action"
                    ))
                })
                .collect();
            for (n, action) in actions.iter().enumerate() {
                let cell = |project: Option<&String>| {
                    cells.get(&(user.clone(), action.clone(), project.cloned()))
                };
                let in_org = cell(None).unwrap();
                let mut seen = vec![];
                for (p, project) in projects.iter().enumerate() {
                    let here = cell(Some(project));
                    differ += usize::from(here.is_some());
                    assert_ne!(here, Some(in_org), "{who} {action}: nothing new");
                    // Without a row of its own the role in the organization counts, or he does not get in.
                    let level = match here {
                        Some(here) => here,
                        None if p == 0 || runs || has_role(project) => in_org,
                        None => "deny",
                    };
                    let allowed = level == "allow";
                    let what = format!("{round} {who} {action} {p}");
                    assert_eq!(levels[p][n], *level, "{what}");
                    if allowed {
                        seen.push(project.clone());
                        if action == "data:write" {
                            writers[p].push(user.clone());
                        }
                    }
                    let inserted = session.attempt(&format!(
                        "INSERT INTO t{n} VALUES (2, DEFAULT, '{project}')"
                    ));
                    assert_eq!(inserted.is_ok(), allowed, "{what}: {inserted:?}");
                    assert_eq!(
                        session.is_true(&format!(
                            "SELECT tenancy.has_project_permission('{project}', '{action}')"
                        )),
                        allowed,
                        "{what}"
                    );
                    tried += 1;
                }
                seen.sort();
                assert_eq!(
                    session.column(&format!(
                        "SELECT project_id FROM t{n} WHERE id = 1 ORDER BY 1"
                    )),
                    seen,
                    "{round} {who} {action}"
                );
            }
        }
        assert_eq!(tried, MEMBERS.len() * 48 * 3);
        assert!(differ > 0);
        for (project, mut writers) in projects.iter().zip(writers) {
            writers.sort();
            assert_eq!(
                dba_in(&world).column(&format!(
                    "SELECT user_id FROM tenancy.who_can('data:write', project => '{project}') ORDER BY 1"
                )),
                writers,
                "{round}"
            );
        }
    }
    // Without a project: who may in the organization, and who in some project only.
    assign(&world, "acme.viewer", "viewer");
    assert_eq!(
        dba_in(&world).column(
            "SELECT concat_ws(' ', email, project_name, project_role) FROM tenancy.who_can('data:write')
             WHERE email ~ 'viewer|owner' ORDER BY 1"
        ),
        [
            "owner@acme.test",
            "viewer@acme.test left project_admin",
            "viewer@acme.test wide project_operator",
        ]
    );
    assert_eq!(
        dba_in(&world).column(
            "SELECT project_roles FROM tenancy.members WHERE project_roles IS NOT NULL ORDER BY email"
        ),
        [
            "right: project_operator",
            "left: project_viewer",
            "right: project_viewer",
            "left: project_admin; right: project_viewer; wide: project_operator",
        ]
    );
}

#[test]
fn a12_of_hidden_projects_nobody_is_told() {
    let world = World::people();
    let acme = world.acme.id;
    let projects = projects(&world);
    // A role with team:read that does not run projects.
    role(
        &world,
        "reader",
        true,
        &[("team:read".into(), None, "allow")],
    );
    assign(&world, "acme.member", "reader");
    let mut member = world.session("acme.member");
    let told = format!(
        "SELECT DISTINCT project_name FROM tenancy.access_matrix('{acme}') WHERE project_id IS NOT NULL ORDER BY 1"
    );
    assert_eq!(member.column(&told), ["left", "wide"]);
    assert_eq!(
        world.session("acme.admin").column(&told),
        ["left", "right", "wide"]
    );
    assert!(
        !member
            .text(&format!("SELECT tenancy.access_matrix_csv('{acme}')"))
            .contains("right")
    );
    let mut count = |sql: String| member.count(&format!("SELECT count(*) FROM {sql}"));
    let owner = world.user("acme.owner");
    assert_eq!(
        count("tenancy.members WHERE project_roles ~ 'right'".into()),
        0
    );
    assert_eq!(
        count(format!(
            "tenancy.what_can('{owner}') WHERE project_id IS NOT NULL"
        )),
        0
    );
    let theirs = world.superuser().text(&format!(
        "SELECT tenancy.create_project('{}', 'theirs')",
        world.globex.id
    ));
    let nothing = Uuid::new_v4().to_string();
    for question in [
        "SELECT * FROM tenancy.who_can('data:read', project => 'PROJECT')".to_string(),
        format!("SELECT * FROM tenancy.what_can('{owner}', project => 'PROJECT')"),
    ] {
        let mut ask = |project: &str| {
            refused(
                member.attempt(&question.replace("PROJECT", project)),
                "42501",
            )
        };
        let none = ask(&nothing);
        for project in [&projects[2], &theirs] {
            assert_same_error(&ask(project), &none, &[(&nothing, project)]);
        }
    }
}

#[test]
fn service_accounts_stand_in_the_matrix_with_what_they_may() {
    let world = World::people();
    let acme = world.acme.id;
    let mut dba = dba_in(&world);
    dba.run(&format!(
        "SELECT tenancy.create_role('{acme}', 'lead', clone_of => 'admin');
         SELECT tenancy.grant_permission('{acme}', 'lead', 'team:role');
         SELECT tenancy.set_member_role('{acme}', '{}', 'lead')",
        world.user("acme.admin")
    ));
    let account = |who: &str, name: &str, role: &str| {
        let mut session = world.session(who);
        let bot = session.text(&format!(
            "SELECT tenancy.create_service_account('{acme}', '{name}', '{role}')"
        ));
        let key = session.text(&format!("SELECT tenancy.create_api_key('{bot}')"));
        (bot, key)
    };
    let bots = [
        account("acme.owner", "builder", "member"),
        account("acme.admin", "of the lead", "admin"),
        account("acme.owner", "stopped", "admin"),
        account("acme.admin", "left behind", "member"),
    ];
    dba.run(&format!(
        "SELECT tenancy.disable_service_account('{}')",
        bots[2].0
    ));
    let actions = actions(&mut dba);
    for (demoted, expected) in [
        ("lead", ["active", "active", "disabled", "active"]),
        ("viewer", ["active", "active", "disabled", "active"]),
        ("", ["active", "stopped", "disabled", "stopped"]),
    ] {
        match demoted {
            "" => world.remove("acme.admin"),
            role => assign(&world, "acme.admin", role),
        }
        for ((bot, key), status) in bots.iter().zip(expected) {
            let lines = dba.rows(&format!(
                "SELECT action, level, status FROM tenancy.access_matrix('{acme}')
                 WHERE service_account_id = '{bot}' AND principal = 'service account' AND user_id IS NULL ORDER BY action"
            ));
            assert_eq!(lines.len(), 48);
            assert!(
                lines.iter().all(|l| l[2].as_deref() == Some(status)),
                "{lines:?}"
            );
            let allowed: Vec<bool> = lines
                .iter()
                .map(|l| l[1].as_deref() == Some("allow"))
                .collect();
            let mut app = world.app();
            app.run("BEGIN");
            let known = app.attempt_within(&format!("SELECT tenancy.authenticate('{key}')"));
            assert_eq!(known.is_ok(), status == "active", "{known:?}");
            for (action, allowed) in actions.iter().zip(&allowed) {
                assert_eq!(
                    app.is_true(&format!("SELECT tenancy.has_permission('{action}')"))
                        && known.is_ok(),
                    *allowed,
                    "{demoted} {status} {action}"
                );
            }
            let who = format!(
                "SELECT count(*) FROM tenancy.who_can('app:deploy') WHERE service_account_id = '{bot}'"
            );
            let deploys = actions.iter().position(|a| a == "app:deploy").unwrap();
            assert_eq!(dba.count(&who), i64::from(allowed[deploys]));
        }
    }
}

#[test]
fn the_csv_is_the_matrix_and_no_formula() {
    let world = World::people();
    let acme = world.acme.id;
    let mut dba = dba_in(&world);
    role(
        &world,
        "=HYPERLINK(\"http://evil\", \"x\"), then",
        true,
        &[
            ("app:deploy".into(), Some("@staging"), "allow"),
            ("app:read".into(), Some("a \"quoted\", one"), "allow"),
        ],
    );
    assign(
        &world,
        "acme.viewer",
        "=HYPERLINK(\"http://evil\", \"x\"), then",
    );
    dba.run(&format!(
        "UPDATE tenancy.users SET email = '+1-2@viewer.test' WHERE id = '{}'",
        world.user("acme.viewer")
    ));
    dba.run(&format!(
        "SELECT tenancy.create_service_account('{acme}', '@bot', 'member');
         SELECT tenancy.add_project_member(tenancy.create_project('{acme}', '=1+1', 'restricted'), '{}', 'project_operator')",
        world.user("acme.member")
    ));
    let csv = dba.text(&format!("SELECT tenancy.access_matrix_csv('{acme}')"));
    let mut lines = csv.split("\r\n");
    assert_eq!(
        lines.next(),
        Some(
            "user_id,email,role,kind,status,conditions,action,category,environment,level,principal,name,service_account_id,project_id,project_name,project_role"
        )
    );
    // PostgreSQL's own reader of CSV reads it back.
    dba.run("CREATE TEMP TABLE back (user_id uuid, email text, role text, kind text, status text, conditions text, action text, category text, environment text, level text, principal text, name text, service_account_id uuid, project_id uuid, project_name text, project_role text)");
    let mut copy = dba
        .copy_in("COPY back FROM STDIN (FORMAT csv, HEADER true)")
        .unwrap();
    std::io::Write::write_all(&mut copy, csv.as_bytes()).unwrap();
    copy.finish().unwrap();
    let safe = |column: &str| format!("regexp_replace({column}, '^([=+@-])', '''\\1')");
    assert_eq!(
        dba.count(&format!(
            "SELECT count(*) FROM
                 ((SELECT * FROM back EXCEPT ALL
                   SELECT user_id, {}, {}, kind, status, conditions, action, category, {}, level, principal, {}, service_account_id, project_id, {}, project_role FROM tenancy.access_matrix('{acme}'))
                  UNION ALL
                  (SELECT user_id, {}, {}, kind, status, conditions, action, category, {}, level, principal, {}, service_account_id, project_id, {}, project_role FROM tenancy.access_matrix('{acme}')
                   EXCEPT ALL SELECT * FROM back)) d",
            safe("email"), safe("role"), safe("environment"), safe("name"), safe("project_name"),
            safe("email"), safe("role"), safe("environment"), safe("name"), safe("project_name")
        )),
        0
    );
    assert!(dba.count("SELECT count(*) FROM back") > 6 * 48);
    for cell in [
        "name = '''@bot' AND principal = 'service account'",
        "project_name = '''=1+1' AND project_role = 'project_operator'",
    ] {
        assert!(
            dba.count(&format!("SELECT count(*) FROM back WHERE {cell}")) > 0,
            "{cell}"
        );
    }
    assert_eq!(
        dba.count(
            "SELECT count(*) FROM back b, jsonb_each_text(to_jsonb(b)) c WHERE c.value ~ '^[=+@-]'"
        ),
        0
    );
    assert_eq!(
        dba.count("SELECT count(*) FROM back WHERE email = '''+1-2@viewer.test' AND role LIKE '''=HYPERLINK%' AND environment = '''@staging'"),
        1
    );
}

#[test]
fn a12_who_may_not_ask_hears_what_he_hears_of_nothing() {
    let world = World::people();
    let unknown = Uuid::new_v4();
    let someone = world.user("acme.owner");
    for question in [
        "SELECT * FROM tenancy.access_matrix('ORG')".to_string(),
        "SELECT tenancy.access_matrix_csv('ORG')".into(),
        format!("SELECT * FROM tenancy.what_can('{someone}', 'ORG')"),
        "SELECT * FROM tenancy.what_can(NULL, 'ORG')".into(),
    ] {
        let ask = |org: Uuid| question.replace("ORG", &org.to_string());
        for (who, about_himself) in [
            ("acme.viewer", true),
            ("globex.owner", false),
            ("stranger", false),
        ] {
            let mut session = world.bound(who);
            if about_himself && question.contains("NULL") {
                assert_eq!(session.rows(&ask(world.acme.id)).len(), 48);
                continue;
            }
            let theirs = refused(session.attempt(&ask(world.acme.id)), "42501");
            let nothing = refused(session.attempt(&ask(unknown)), "42501");
            assert_same_error(
                &theirs,
                &nothing,
                &[(&unknown.to_string(), &world.acme.id.to_string())],
            );
        }
        let mut nobody = world.nobody();
        refused(nobody.attempt(&ask(world.acme.id)), "42501");
        refused(nobody.attempt(&ask(unknown)), "42501");
        // With team:read, and for the DBA.
        let mut member = world.session("acme.member");
        assert!(!member.rows(&ask(world.acme.id)).is_empty());
        if !question.contains("NULL") {
            assert!(!world.superuser().rows(&ask(world.acme.id)).is_empty());
        }
    }
    refused(
        world
            .session("acme.viewer")
            .attempt("SELECT * FROM tenancy.who_can('server:read')"),
        "42501",
    );
    refused(
        world
            .bound("acme.owner")
            .attempt("SELECT * FROM tenancy.who_can('server:read')"),
        "42501",
    );
    refused(
        world.nobody().attempt("SELECT * FROM tenancy.what_can()"),
        "42501",
    );
    let error = refused(
        world
            .session("acme.owner")
            .attempt("SELECT * FROM tenancy.who_can('server:raed')"),
        "22023",
    );
    assert!(error.hint().unwrap().contains("server:read"));
    // Who is no member of the organization may nothing there, which its team:read may know.
    assert_eq!(
        world
            .session("acme.owner")
            .rows(&format!(
                "SELECT * FROM tenancy.what_can('{}')",
                world.user("stranger")
            ))
            .len(),
        0
    );
    // A service asks for itself.
    let mut app = world.app();
    app.run(&format!(
        "BEGIN; SET LOCAL app.current_org = '{}'",
        world.acme.id
    ));
    assert_eq!(
        app.count("SELECT count(*) FROM tenancy.what_can() c WHERE c.level <> tenancy.permission_level('member', c.action)"),
        0
    );
    assert_eq!(app.count("SELECT count(*) FROM tenancy.what_can()"), 48);
    assert_eq!(
        app.count("SELECT count(*) FROM tenancy.who_can('team:role')"),
        1
    );
}

#[test]
fn a_large_team_is_told_of_row_by_row() {
    let world = World::people();
    let acme = world.acme.id;
    let mut dba = world.superuser();
    dba.run(&format!(
        "INSERT INTO tenancy.users (email) SELECT 'u' || i || '@x.test' FROM generate_series(1, 2000) i;
         INSERT INTO tenancy.memberships (org_id, user_id, role) SELECT '{acme}', id, 'member' FROM tenancy.users WHERE email LIKE 'u%@x.test'"
    ));
    assert_eq!(
        dba.count(&format!(
            "SELECT count(*) FROM tenancy.access_matrix('{acme}')"
        )),
        48 * 2005
    );
    assert_eq!(
        dba.count(&format!("SELECT count(*) FROM regexp_split_to_table(rtrim(tenancy.access_matrix_csv('{acme}'), E'\\r\\n'), E'\\r\\n')")),
        48 * 2005 + 1
    );
}

#[test]
fn who_can_on_one_resource_leaves_out_those_who_are_limited_to_others() {
    let world = World::people();
    let acme = world.acme.id;
    let mut dba = dba_in(&world);
    dba.run(&format!(
        r#"CREATE TABLE hosts (id int PRIMARY KEY, org_id uuid); CREATE TABLE notes (id int PRIMARY KEY, org_id uuid);
           INSERT INTO hosts SELECT i, '{acme}' FROM generate_series(1, 3) i;
           SELECT tenancy.protect('hosts', resource_type => 'host', permissions => '{{"select": "server:read", "update": "app:deploy"}}');
           SELECT tenancy.protect('notes')"#
    ));
    for (key, access) in [("1", "full"), ("2", "read_only")] {
        dba.run(&format!(
            "SELECT tenancy.set_scope('{acme}', '{}', 'hosts', '{key}', '{access}')",
            world.user("acme.member")
        ));
    }
    let ask = |dba: &mut Session, action: &str, key: &str| {
        dba.column(&format!(
            "SELECT role FROM tenancy.who_can('{action}', 'hosts', '{key}') ORDER BY 1"
        ))
    };
    for (action, key, expected) in [
        (
            "server:read",
            "1",
            &["admin", "admin", "member", "owner", "viewer"][..],
        ),
        (
            "server:read",
            "2",
            &["admin", "admin", "member", "owner", "viewer"],
        ),
        ("server:read", "3", &["admin", "admin", "owner", "viewer"]),
        ("app:deploy", "1", &["admin", "admin", "member", "owner"]),
        ("app:deploy", "2", &["admin", "admin", "owner"]),
        ("app:deploy", "3", &["admin", "admin", "owner"]),
    ] {
        assert_eq!(ask(&mut dba, action, key), expected, "{action} {key}");
    }
    // The matrix shows who is limited, and the level that counts on what is listed.
    assert_eq!(
        dba.column(&format!(
            "SELECT DISTINCT status FROM tenancy.access_matrix('{acme}') WHERE email = 'member@acme.test'"
        )),
        ["scoped"]
    );
    for wrong in [
        "'app:deploy', 'hosts'",
        "'app:deploy', NULL, '1'",
        "'app:deploy', 'notes', '1'",
    ] {
        assert!(
            dba.attempt(&format!("SELECT * FROM tenancy.who_can({wrong})"))
                .is_err(),
            "{wrong}"
        );
    }
}
