//! What a role may do: every cell of the published matrix, and who may ask about whom.

use pg_tenancy_tests::{Db, ROLES, Uuid, World, assert_same_error, matrix, refused};

#[test]
fn every_cell_of_the_matrix() {
    let cells = matrix();
    assert_eq!(cells.len(), 48 * 4);
    let mut dba = Db::fresh().superuser();
    for cell in &cells {
        let row = dba
            .query_one(
                "SELECT tenancy.permission_level($1::text, $2::text), tenancy.has_permission($1::text, $2::text)",
                &[&cell.role, &cell.action],
            )
            .unwrap();
        assert_eq!(row.get::<_, &str>(0), cell.level, "{cell:?}");
        assert_eq!(row.get::<_, bool>(1), cell.level == "allow", "{cell:?}");
    }
}

#[test]
fn the_tables_hold_the_matrix_and_nothing_else() {
    let mut dba = Db::fresh().superuser();
    let mut expected: Vec<String> = matrix()
        .iter()
        .map(|c| format!("{} {} {} {}", c.action, c.category, c.role, c.level))
        .collect();
    expected.sort();
    let mut found = dba.column(
        "SELECT concat_ws(' ', p.action, a.category, p.role, p.level)
         FROM tenancy.role_permissions p JOIN tenancy.actions a ON a.name = p.action",
    );
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(dba.count("SELECT count(*) FROM tenancy.actions"), 48);
    assert_eq!(
        dba.count("SELECT count(DISTINCT category) FROM tenancy.actions"),
        15
    );
    assert_eq!(
        dba.column("SELECT name FROM tenancy.roles WHERE is_system ORDER BY name"),
        ["admin", "member", "owner", "viewer"]
    );
}

#[test]
fn limited_is_neither_allowed_nor_forgotten() {
    let mut dba = Db::fresh().superuser();
    assert_eq!(
        dba.text("SELECT tenancy.permission_level('member', 'ai:approve')"),
        "limited"
    );
    assert!(!dba.is_true("SELECT tenancy.has_permission('member', 'ai:approve')"));
}

#[test]
fn an_unknown_role_or_action_names_the_nearest() {
    let mut dba = Db::fresh().superuser();
    for function in ["has_permission", "permission_level"] {
        for (role, action, meant) in [
            ("onwer", "server:read", "owner"),
            ("Admin", "server:read", "admin"),
            ("vewer", "server:read", "viewer"),
            ("admin", "server:raed", "server:read"),
            ("admin", "sever:delete", "server:delete"),
            ("admin", "ai:aprove", "ai:approve"),
            ("admin", "billing:mange", "billing:manage"),
        ] {
            let error = refused(
                dba.attempt(&format!("SELECT tenancy.{function}('{role}', '{action}')")),
                "22023",
            );
            let hint = error.hint().unwrap();
            assert!(
                hint.contains(&format!("\"{meant}\"")),
                "{role} {action}: {hint}"
            );
        }
        // Far from everything: still an error, never a silent false.
        refused(
            dba.attempt(&format!(
                "SELECT tenancy.{function}('zzzzzzzzzzzz', 'server:read')"
            )),
            "22023",
        );
        refused(
            dba.attempt(&format!("SELECT tenancy.{function}('owner', '')")),
            "22023",
        );
    }
}

#[test]
fn the_context_answers_by_the_matrix() {
    let world = World::new();
    for role in ROLES {
        let mut session = world.session(&format!("acme.{role}"));
        assert_eq!(session.text("SELECT tenancy.current_role_name()"), role);
        for cell in matrix().iter().filter(|c| c.role == role) {
            let row = session
                .query_one(
                    "SELECT tenancy.has_permission($1::text), tenancy.org_if($1::text)",
                    &[&cell.action],
                )
                .unwrap();
            let allowed = cell.level == "allow";
            assert_eq!(row.get::<_, bool>(0), allowed, "{cell:?}");
            let org = allowed.then_some(world.acme.id);
            assert_eq!(row.get::<_, Option<Uuid>>(1), org, "{cell:?}");
        }
        let error = refused(
            session.attempt("SELECT tenancy.has_permission('server:raed')"),
            "22023",
        );
        assert!(error.hint().unwrap().contains("\"server:read\""));
        let error = refused(
            session.attempt("SELECT tenancy.org_if('server:raed')"),
            "22023",
        );
        assert!(error.hint().unwrap().contains("\"server:read\""));
    }
}

#[test]
fn without_a_context_nothing_is_allowed() {
    let world = World::new();
    for mut session in [
        world.bound("acme.owner"),
        world.app(),
        world.nobody(),
        world.superuser(),
    ] {
        assert!(!session.is_true("SELECT tenancy.has_permission('server:read')"));
        assert_eq!(session.value("SELECT tenancy.org_if('server:read')"), None);
        assert_eq!(session.value("SELECT tenancy.current_org()"), None);
        assert_eq!(session.value("SELECT tenancy.current_role_name()"), None);
    }
}

#[test]
fn a_member_asks_about_himself_and_with_team_read_about_others() {
    let world = World::new();
    let ask = |user: Uuid, org: Uuid, action: &str| {
        format!("SELECT tenancy.has_permission('{user}'::uuid, '{org}'::uuid, '{action}')")
    };
    let acme = world.acme.id;

    // Oneself, whatever the role, also without a context and about several orgs.
    let mut viewer = world.bound("acme.viewer");
    assert!(viewer.is_true(&ask(world.user("acme.viewer"), acme, "server:read")));
    assert!(!viewer.is_true(&ask(world.user("acme.viewer"), acme, "server:create")));
    let mut agency = world.bound("agency");
    assert!(agency.is_true(&ask(world.user("agency"), acme, "server:create")));
    assert!(!agency.is_true(&ask(world.user("agency"), world.globex.id, "server:create")));

    // Others: member and above have team:read.
    let mut member = world.session("acme.member");
    assert!(member.is_true(&ask(world.user("acme.admin"), acme, "server:create")));
    assert!(!member.is_true(&ask(world.user("acme.viewer"), acme, "server:create")));

    // The DBA: everyone, and that a stranger has nothing is an answer for him.
    let mut dba = world.superuser();
    assert!(dba.is_true(&ask(
        world.user("globex.owner"),
        world.globex.id,
        "org:delete"
    )));
    assert!(!dba.is_true(&ask(
        world.user("globex.viewer"),
        world.globex.id,
        "org:delete"
    )));
}

#[test]
fn a12_asking_about_others_says_no_more_than_asking_about_nothing() {
    let world = World::new();
    let unknown = Uuid::new_v4();
    let cases = [
        // A viewer lacks team:read in his own org; the others do not belong to the org they ask about.
        ("acme.viewer", world.user("acme.owner"), world.acme.id),
        ("acme.owner", world.user("globex.owner"), world.globex.id),
        ("acme.owner", world.user("acme.owner"), world.globex.id),
        ("acme.owner", unknown, world.globex.id),
        ("stranger", world.user("acme.owner"), world.acme.id),
    ];
    for (who, user, org) in cases {
        let mut session = world.bound(who);
        let ask = |org: Uuid| {
            format!("SELECT tenancy.has_permission('{user}'::uuid, '{org}'::uuid, 'server:read')")
        };
        let existing = refused(session.attempt(&ask(org)), "42501");
        let nothing = refused(session.attempt(&ask(unknown)), "42501");
        assert_same_error(
            &existing,
            &nothing,
            &[(&unknown.to_string(), &org.to_string())],
        );
    }
    // A login without a principal gets the same refusal for both, too.
    let mut nobody = world.nobody();
    let user = world.user("acme.owner");
    for org in [world.acme.id, unknown] {
        refused(
            nobody.attempt(&format!(
                "SELECT tenancy.has_permission('{user}'::uuid, '{org}'::uuid, 'server:read')"
            )),
            "42501",
        );
    }
}

#[test]
fn a_stranger_to_the_org_is_told_so_about_himself_with_team_read() {
    // An owner who may read his team learns that somebody is not in it: no right, not an error about the org.
    let world = World::new();
    let mut owner = world.session("acme.owner");
    assert!(!owner.is_true(&format!(
        "SELECT tenancy.has_permission('{}'::uuid, '{}'::uuid, 'server:read')",
        world.user("stranger"),
        world.acme.id
    )));
}

#[test]
fn the_matrix_is_nobodys_to_edit() {
    let world = World::new();
    let mut owner = world.session("acme.owner");
    for sql in [
        "UPDATE tenancy.role_permissions SET level = 'allow'",
        "INSERT INTO tenancy.role_permissions VALUES ('viewer', 'server:delete', 'allow')",
        "DELETE FROM tenancy.role_permissions",
        "INSERT INTO tenancy.roles (name) VALUES ('king')",
        "UPDATE tenancy.actions SET name = 'x:y'",
        "TRUNCATE tenancy.role_permissions",
    ] {
        pg_tenancy_tests::fails(owner.attempt(sql), "42501");
    }
}

#[test]
fn a_role_changes_nothing_until_it_is_changed() {
    let world = World::new();
    let mut viewer = world.session("acme.viewer");
    assert!(!viewer.is_true("SELECT tenancy.has_permission('server:create')"));
    world.superuser().run(&format!(
        "SELECT tenancy.set_member_role('{}', '{}', 'admin')",
        world.acme.id,
        world.user("acme.viewer")
    ));
    assert!(viewer.is_true("SELECT tenancy.has_permission('server:create')"));
    assert_eq!(viewer.text("SELECT tenancy.current_role_name()"), "admin");
}

#[test]
fn an_expired_membership_allows_nothing() {
    let world = World::new();
    let stranger = world.user("stranger");
    let mut dba = world.superuser();
    dba.run(&format!(
        "SELECT tenancy.add_member('{}', '{stranger}', 'admin', expires_at => clock_timestamp() + interval '1500 ms')",
        world.acme.id
    ));
    let ask = format!(
        "SELECT tenancy.has_permission('{stranger}'::uuid, '{}'::uuid, 'server:read')",
        world.acme.id
    );
    assert!(dba.is_true(&ask));
    std::thread::sleep(std::time::Duration::from_millis(1600));
    assert!(!dba.is_true(&ask));
    assert!(!world.session("acme.owner").is_true(&ask));
}
