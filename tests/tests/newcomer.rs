//! The mistakes that everybody makes first: the error says what is wrong, why, and what to do, in words that lead on.

use pg_tenancy_tests::{Session, World, fails, refused};

struct Mistake {
    what: &'static str,
    sql: &'static str,
    code: &'static str,
    /// Each stands in the message, the detail or the hint.
    says: &'static [&'static str],
}

const fn mistake(
    what: &'static str,
    sql: &'static str,
    code: &'static str,
    says: &'static [&'static str],
) -> Mistake {
    Mistake {
        what,
        sql,
        code,
        says,
    }
}

/// ORG, OTHER, USER: acme's id, globex's, and that of acme's owner.
#[track_caller]
fn make(world: &World, session: &mut Session, mistakes: &[Mistake]) {
    for mistake in mistakes {
        let sql = mistake
            .sql
            .replace("ORG", &world.acme.id.to_string())
            .replace("OTHER", &world.globex.id.to_string())
            .replace("USER", &world.user("acme.owner").to_string());
        println!("{}: {sql}", mistake.what);
        let error = refused(session.attempt(&sql), mistake.code);
        let said = format!(
            "{}\n{}\n{}",
            error.message(),
            error.detail().unwrap_or_default(),
            error.hint().unwrap_or_default()
        );
        for words in mistake.says {
            assert!(
                said.contains(words),
                "{}: no {words:?} in\n{said}",
                mistake.what
            );
        }
        // In words for people.
        for inner in ["panicked", ".rs"] {
            assert!(!said.contains(inner), "{}: {said}", mistake.what);
        }
        session.run("ROLLBACK");
    }
}

#[test]
fn of_a_person_with_a_login() {
    let world = World::new();
    let mut nobody = world.nobody();
    make(
        &world,
        &mut nobody,
        &[mistake(
            "a login that nobody bound",
            "INSERT INTO servers (id, name) VALUES (900, 'x')",
            "42501",
            &["neither bound", "bind_login()", "trust_application()"],
        )],
    );
    // Reading is no mistake: there is nothing to see, and whoami() says why.
    assert_eq!(nobody.count("SELECT count(*) FROM servers"), 0);
    let reason = nobody.text("SELECT reason FROM tenancy.whoami()");
    assert!(reason.contains("neither bound"), "{reason}");

    let mut owner = world.bound("acme.owner");
    assert_eq!(owner.count("SELECT count(*) FROM servers"), 0);
    make(
        &world,
        &mut owner,
        &[
            mistake(
                "no context",
                "INSERT INTO servers (id, name) VALUES (900, 'x')",
                "42501",
                &[
                    "no organization in effect",
                    "app.current_org",
                    "tenancy.enter(",
                ],
            ),
            mistake(
                "the slug in the place of the id",
                "BEGIN; SET LOCAL app.current_org = 'acme'; INSERT INTO servers (id, name) VALUES (900, 'x')",
                "42501",
                &["my_orgs()", "not by its slug"],
            ),
            mistake(
                "an organization that is not there",
                "SELECT tenancy.enter('00000000-0000-0000-0000-000000000000')",
                "42501",
                &["does not exist or you do not belong to it", "my_orgs()"],
            ),
            mistake(
                "somebody else's organization",
                "SELECT tenancy.enter('OTHER')",
                "42501",
                &["does not exist or you do not belong to it", "my_orgs()"],
            ),
            mistake(
                "a seal that nothing would keep",
                "SELECT tenancy.enter('ORG', seal => true)",
                "25P01",
                &["BEGIN"],
            ),
            mistake(
                "no argument",
                "SELECT tenancy.enter(NULL)",
                "22004",
                &["org must not be NULL"],
            ),
            mistake(
                "what the DBA does",
                "SELECT tenancy.trust_application('app')",
                "42501",
                &["only a DBA", "grant_administration()"],
            ),
        ],
    );

    let mut viewer = world.session("acme.viewer");
    make(
        &world,
        &mut viewer,
        &[
            mistake(
                "a role that may not write",
                "UPDATE servers SET cpus = 2",
                "42501",
                &[
                    "viewer",
                    "server:update",
                    "Acme Hosting",
                    "permission_level(",
                ],
            ),
            mistake(
                "a look at who is who",
                "SELECT tenancy.add_member('ORG', 'USER', 'member')",
                "42501",
                &["viewer", "team:invite"],
            ),
        ],
    );
    let mut owner = world.session("acme.owner");
    make(
        &world,
        &mut owner,
        &[
            mistake(
                "another organization's id in a row",
                "INSERT INTO servers (id, name, org_id) VALUES (900, 'x', 'OTHER')",
                "42501",
                &["not of the current organization", "Leave the column out"],
            ),
            mistake(
                "a row moved to another organization",
                "UPDATE servers SET org_id = 'OTHER' WHERE id = 1",
                "42501",
                &["current_org()"],
            ),
            mistake("TRUNCATE", "TRUNCATE sites", "42501", &["sites", "DELETE"]),
            mistake(
                "the slug typed in the place of the name",
                "SELECT tenancy.delete_org('ORG', 'acme')",
                "22023",
                &["not what was typed", "Nothing was changed"],
            ),
            mistake(
                "the owner as a member",
                "SELECT tenancy.add_member('ORG', 'USER', 'member')",
                "23505",
                &["already a member"],
            ),
            mistake(
                "a role that is none",
                "SELECT tenancy.add_member('ORG', 'USER', 'superadmin')",
                "22023",
                &["Did you mean \"admin\"?"],
            ),
            mistake(
                "a second owner",
                "SELECT tenancy.add_member('ORG', 'USER', 'owner')",
                "23514",
                &["exactly one owner", "transfer_ownership("],
            ),
            mistake(
                "the owner leaves",
                "SELECT tenancy.remove_member('ORG', 'USER')",
                "23514",
                &["transfer_ownership("],
            ),
            mistake(
                "an action that is none",
                "SELECT tenancy.has_permission('servers:read')",
                "22023",
                &["Did you mean \"server:read\"?"],
            ),
        ],
    );
}

#[test]
fn of_an_agency() {
    let world = World::new();
    let mut agency = world.session("agency");
    make(
        &world,
        &mut agency,
        &[
            mistake(
                "two organizations in one transaction",
                "BEGIN; SELECT count(*) FROM servers; SET LOCAL app.current_org = 'OTHER'; SELECT count(*) FROM servers",
                "25001",
                &["transaction", "COMMIT"],
            ),
            mistake(
                "the rights of one organization in the other",
                "BEGIN; SET LOCAL app.current_org = 'OTHER'; UPDATE servers SET cpus = 2",
                "42501",
                &["viewer", "server:update"],
            ),
        ],
    );
}

#[test]
fn of_an_application() {
    let world = World::new();
    let mut app = world.app();
    make(
        &world,
        &mut app,
        &[
            mistake(
                "SET where SET LOCAL is needed",
                "SET app.current_org = 'ORG'; SET app.current_user_id = 'USER'; COMMIT; INSERT INTO servers (id, name) VALUES (900, 'x')",
                "42501",
                &["not set in this transaction", "SET LOCAL", "BEGIN"],
            ),
            mistake(
                "enter() without BEGIN",
                "SELECT tenancy.enter('ORG', 'USER')",
                "25P01",
                &["transaction block", "BEGIN", "scope => 'session'"],
            ),
            mistake(
                "a user that is not there",
                "BEGIN; SET LOCAL app.current_org = 'ORG'; SET LOCAL app.current_user_id = 'ada'; INSERT INTO servers (id, name) VALUES (900, 'x')",
                "42501",
                &["create_user()"],
            ),
            mistake(
                "a token that is none",
                "BEGIN; SELECT tenancy.authenticate('abc')",
                "28000",
                &[],
            ),
        ],
    );
}

#[test]
fn of_who_protects_tables() {
    let world = World::new();
    let mut dba = world.superuser();
    dba.run(
        "CREATE TABLE notes (id int PRIMARY KEY, server_id int REFERENCES servers, text text);
         CREATE TABLE days (id int PRIMARY KEY, org_id date);
         CREATE TABLE old (id int PRIMARY KEY, org_id uuid); INSERT INTO old VALUES (1), (2);
         CREATE VIEW all_servers WITH (security_invoker = true) AS SELECT * FROM servers; GRANT ALL ON notes TO PUBLIC",
    );
    make(
        &world,
        &mut dba,
        &[
            mistake(
                "no organization column",
                "SELECT tenancy.protect('notes')",
                "42703",
                &["org_id", "org_column =>", "tenancy.add_org_column("],
            ),
            mistake(
                "a column of another type",
                "SELECT tenancy.protect('days')",
                "42804",
                &["date", "uuid", "external key"],
            ),
            mistake(
                "rows of nobody",
                "SELECT tenancy.protect('old')",
                "23502",
                &["2 rows without an organization", "Nothing was changed"],
            ),
            mistake(
                "a view with its owner's rights",
                "CREATE VIEW all_sites AS SELECT * FROM sites",
                "42501",
                &["WITH (security_invoker = true)"],
            ),
            mistake(
                "a view",
                "SELECT tenancy.protect('all_servers')",
                "42809",
                &["security_invoker"],
            ),
            mistake(
                "an action that is none",
                r#"SELECT tenancy.protect('old', permissions => '{"select": "servers:read"}')"#,
                "22023",
                &["Did you mean \"server:read\"?"],
            ),
            mistake(
                "a command that is none",
                r#"SELECT tenancy.protect('old', permissions => '{"read": "server:read"}')"#,
                "22023",
                &["read", "select"],
            ),
            mistake(
                "a table that is not protected",
                "SELECT tenancy.unprotect('old')",
                "42704",
                &["protected_tables"],
            ),
            mistake(
                "no login of that name",
                "SELECT tenancy.bind_login('nobody at all', 'USER')",
                "42704",
                &["CREATE ROLE"],
            ),
            mistake(
                "no owner",
                "SELECT tenancy.create_org('New', 'new')",
                "42501",
                &["owner =>"],
            ),
            mistake(
                "a slug that is taken",
                "SELECT tenancy.create_org('Acme', 'acme', owner => 'USER')",
                "23505",
                &["slug"],
            ),
            mistake(
                "a name as the slug",
                "SELECT tenancy.create_org('Acme', 'Acme Inc', owner => 'USER')",
                "22023",
                &["lower-case"],
            ),
            mistake(
                "leaving by the back door",
                "DROP EXTENSION pg_tenancy",
                "2BP01",
                &["tenancy.uninstall()"],
            ),
        ],
    );
    let mut owner = world.session("acme.owner");
    make(
        &world,
        &mut owner,
        &[mistake(
            "another's table",
            "SELECT tenancy.protect('notes')",
            "42501",
            &["must be owner of table notes"],
        )],
    );
    // Our tables are PostgreSQL's to refuse.
    let error = fails(
        owner.attempt("UPDATE tenancy.orgs SET name = 'Mine'"),
        "42501",
    );
    assert_eq!(error.message(), "permission denied for table orgs");
}
