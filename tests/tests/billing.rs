//! Billing accounts (spec 10): who sees one, who changes one, and that nobody bills another.

use pg_tenancy_tests::{Session, Uuid, World, assert_same_error, fails, refused};

fn create(session: &mut Session, name: &str, reference: &str) -> Uuid {
    session
        .text(&format!(
            "SELECT tenancy.create_billing_account('{name}', {reference})"
        ))
        .parse()
        .expect("a uuid")
}

fn accounts(session: &mut Session) -> Vec<String> {
    session.column("SELECT name || ' ' || coalesce(payment_method, '-') FROM tenancy.billing_accounts ORDER BY name")
}

fn link(org: Uuid, account: Uuid) -> String {
    format!("SELECT tenancy.set_billing_account('{org}', '{account}')")
}

/// Makes the agency's user an owner of both worlds' billing: he owns an organization of his own and a second one.
fn own(world: &World, who: &str, slug: &str) -> Uuid {
    world
        .superuser()
        .text(&format!(
            "SELECT tenancy.create_org('{slug}', '{slug}', owner => '{}')",
            world.user(who)
        ))
        .parse()
        .expect("a uuid")
}

#[test]
fn an_account_is_its_payers_to_see_and_change() {
    let world = World::people();
    let mut owner = world.session("acme.owner");
    let account = create(&mut owner, "Acme pays", "'pm_acme_1'");
    assert_eq!(accounts(&mut owner), ["Acme pays pm_acme_1"]);
    assert_eq!(
        owner.column("SELECT account_id FROM tenancy.billed_orgs"),
        [account.to_string()]
    );

    // billing:read is the owner's alone in the published matrix.
    for who in [
        "acme.admin",
        "acme.member",
        "acme.viewer",
        "globex.owner",
        "stranger",
    ] {
        let mut session = world.session(who);
        assert!(accounts(&mut session).is_empty(), "{who}");
        assert_eq!(
            session.count("SELECT count(*) FROM tenancy.billed_orgs"),
            0,
            "{who}"
        );
        if who != "globex.owner" {
            refused(
                session.attempt("SELECT tenancy.create_billing_account('Mine', NULL)"),
                "42501",
            );
        }
    }
    let mut nobody = world.nobody();
    assert!(accounts(&mut nobody).is_empty());
    refused(
        nobody.attempt("SELECT tenancy.create_billing_account('Mine')"),
        "42501",
    );

    // Not changed past the functions.
    for who in ["acme.owner", "acme.admin"] {
        let mut session = world.session(who);
        fails(
            session.attempt("UPDATE tenancy.billing_accounts SET name = 'x'"),
            "42501",
        );
        fails(session.attempt("DELETE FROM tenancy.billed_orgs"), "42501");
    }

    owner.run(&format!(
        "SELECT tenancy.set_payment_method('{account}', 'pm_acme_2')"
    ));
    owner.run(&format!(
        "SELECT tenancy.rename_billing_account('{account}', 'Acme Ltd')"
    ));
    assert_eq!(accounts(&mut owner), ["Acme Ltd pm_acme_2"]);
    owner.run(&format!(
        "SELECT tenancy.set_payment_method('{account}', NULL)"
    ));
    assert_eq!(accounts(&mut owner), ["Acme Ltd -"]);
}

#[test]
fn billing_is_no_right_to_data() {
    let world = World::new();
    let own = own(&world, "stranger", "payer");
    let mut payer = world.bound("stranger");
    payer.run(&format!("SET app.current_org = '{own}'"));
    let account = create(&mut payer, "Payer", "NULL");
    world.superuser().run(&link(world.acme.id, account));
    // He pays for acme and is nobody there.
    let mut session = world.bound("stranger");
    session.run(&format!("SET app.current_org = '{}'", world.acme.id));
    assert_eq!(world.seen(&mut session, "servers"), (0, 0));
    refused(
        session.attempt(&format!(
            "SELECT tenancy.usage_report('{}', '2026-01-01', '2027-01-01')",
            world.acme.id
        )),
        "42501",
    );
    // Nor does he learn whom his account pays for, but for himself.
    assert_eq!(
        payer.column(&format!(
            "SELECT name FROM tenancy.list_billed_orgs('{account}')"
        )),
        ["payer"]
    );
    let mut acme = world.session("acme.owner");
    assert_eq!(accounts(&mut acme), ["Payer -"]);
    assert_eq!(
        acme.column("SELECT name FROM tenancy.list_billed_orgs()"),
        ["Acme Hosting"]
    );
    assert_eq!(
        world.superuser().column(&format!(
            "SELECT name FROM tenancy.list_billed_orgs('{account}') ORDER BY 1"
        )),
        ["Acme Hosting", "payer"]
    );
}

#[test]
fn nobody_bills_another() {
    let world = World::people();
    let mut acme = world.session("acme.owner");
    let mut globex = world.session("globex.owner");
    let theirs = create(&mut globex, "Globex pays", "'pm_globex'");
    let unknown = Uuid::from_u128(7);

    // His organization on their account: he manages no billing there. Unknown accounts answer alike.
    let known = refused(acme.attempt(&link(world.acme.id, theirs)), "42501");
    let none = refused(acme.attempt(&link(world.acme.id, unknown)), "42501");
    assert_same_error(
        &known,
        &none,
        &[(&unknown.to_string(), &theirs.to_string())],
    );
    for sql in [
        "SELECT tenancy.set_payment_method('{}', 'pm_x')",
        "SELECT tenancy.rename_billing_account('{}', 'x')",
        "SELECT * FROM tenancy.list_billed_orgs('{}')",
    ] {
        let known = refused(
            acme.attempt(&sql.replace("{}", &theirs.to_string())),
            "42501",
        );
        let none = refused(
            acme.attempt(&sql.replace("{}", &unknown.to_string())),
            "42501",
        );
        assert_same_error(
            &known,
            &none,
            &[(&unknown.to_string(), &theirs.to_string())],
        );
    }
    // Their organization on his account.
    let mine = create(&mut acme, "Acme pays", "NULL");
    refused(acme.attempt(&link(world.globex.id, mine)), "42501");
    // An admin holds no billing at all.
    refused(
        world
            .session("acme.admin")
            .attempt(&link(world.acme.id, mine)),
        "42501",
    );

    // Who manages billing in both may.
    let first = own(&world, "agency", "client-a");
    let second = own(&world, "agency", "client-b");
    let mut agency = world.bound("agency");
    agency.run(&format!("SET app.current_org = '{first}'"));
    let account = create(&mut agency, "Agency", "'pm_agency'");
    agency.run(&link(second, account));
    assert_eq!(
        agency.column("SELECT name FROM tenancy.list_billed_orgs() ORDER BY 1"),
        ["client-a", "client-b"]
    );
    // And when he leaves one of them he no longer sees it.
    world.superuser().run(&format!(
        "SELECT tenancy.add_member('{second}', '{}', 'admin');",
        world.user("stranger")
    ));
    agency.run(&format!(
        "SELECT tenancy.transfer_ownership('{second}', '{}')",
        world.user("stranger")
    ));
    assert_eq!(
        agency.column("SELECT name FROM tenancy.list_billed_orgs()"),
        ["client-a"]
    );
    refused(agency.attempt(&link(second, account)), "42501");
    // The new owner manages the account that pays for his organization, and may leave it.
    let mut stranger = world.bound("stranger");
    stranger.run(&format!(
        "SELECT tenancy.set_billing_account('{second}', NULL)"
    ));
    refused(stranger.attempt(&link(second, account)), "42501");
}

#[test]
fn a_payment_method_is_a_reference_of_one_account() {
    let world = World::people();
    let mut acme = world.session("acme.owner");
    let account = create(&mut acme, "Acme", "'pm_1'");
    for card in [
        "4242424242424242",
        "4242 4242 4242 4242",
        "card 378282246310005",
        "123456789012",
        "",
    ] {
        let error = refused(
            acme.attempt(&format!(
                "SELECT tenancy.set_payment_method('{account}', '{card}')"
            )),
            "22023",
        );
        assert!(
            card.is_empty() || !format!("{error:?}").contains(card),
            "{error:?}"
        );
        refused(
            acme.attempt(&format!(
                "SELECT tenancy.create_billing_account('x', '{card}')"
            )),
            "22023",
        );
    }
    let mut globex = world.session("globex.owner");
    refused(
        globex.attempt("SELECT tenancy.create_billing_account('x', 'pm_1')"),
        "23505",
    );
    let other = create(&mut globex, "Globex", "'pm_2'");
    refused(
        globex.attempt(&format!(
            "SELECT tenancy.set_payment_method('{other}', 'pm_1')"
        )),
        "23505",
    );
    // To what it was.
    globex.run(&format!(
        "SELECT tenancy.set_payment_method('{other}', 'pm_2')"
    ));
    for name in ["''", "repeat('x', 300)", "E'a\\nb'"] {
        refused(
            acme.attempt(&format!("SELECT tenancy.create_billing_account({name})")),
            "22023",
        );
    }
    // Not by a superuser either.
    fails(
        world
            .superuser()
            .attempt("UPDATE tenancy.billing_accounts SET payment_method = '4242 4242 4242 4242'"),
        "23514",
    );
}

#[test]
fn it_is_written_down_without_the_reference() {
    let world = World::people();
    let mut acme = world.session("acme.owner");
    let account = create(&mut acme, "Acme", "'pm_secret_1'");
    acme.run(&format!(
        "SELECT tenancy.set_payment_method('{account}', 'pm_secret_2')"
    ));
    acme.run(&format!(
        "SELECT tenancy.set_billing_account('{}', NULL)",
        world.acme.id
    ));
    let mut admin = world.session("acme.admin");
    let log = admin.column(
        "SELECT operation || ' ' || coalesce(old::text, '') || ' ' || coalesce(new::text, '') FROM tenancy.audit_log
         WHERE operation IN ('set_billing_account', 'set_payment_method') ORDER BY at, n",
    );
    assert_eq!(log.len(), 3, "{log:?}");
    assert!(log[0].contains(&account.to_string()), "{log:?}");
    assert!(log[1].contains("has_payment_method"), "{log:?}");
    assert!(!log.join(" ").contains("pm_secret"), "{log:?}");
}

#[test]
fn the_dba_makes_and_drops_accounts() {
    let world = World::people();
    let mut dba = world.superuser();
    let account = create(&mut dba, "Unused", "NULL");
    assert_eq!(dba.count("SELECT count(*) FROM tenancy.billed_orgs"), 0);
    dba.run(&link(world.acme.id, account));
    refused(
        dba.attempt(&format!("SELECT tenancy.drop_billing_account('{account}')")),
        "23503",
    );
    refused(
        world
            .session("acme.owner")
            .attempt(&format!("SELECT tenancy.drop_billing_account('{account}')")),
        "42501",
    );
    dba.run(&format!(
        "SELECT tenancy.set_billing_account('{}', NULL)",
        world.acme.id
    ));
    dba.run(&format!("SELECT tenancy.drop_billing_account('{account}')"));
    assert_eq!(
        dba.count("SELECT count(*) FROM tenancy.billing_accounts"),
        0
    );
}

/// Two who link their organizations with each other's accounts at once, and one whose ownership goes meanwhile.
#[test]
fn who_lost_the_right_while_waiting_is_refused() {
    let world = World::people();
    let mut owner = world.session("acme.owner");
    let account = create(&mut owner, "Acme", "NULL");
    let mut holder = world.superuser();
    holder.run("BEGIN");
    holder.run(&format!(
        "SELECT 1 FROM tenancy.billing_accounts WHERE id = '{account}' FOR NO KEY UPDATE"
    ));
    holder.run(&format!(
        "SELECT tenancy.transfer_ownership('{}', '{}')",
        world.acme.id,
        world.user("acme.admin")
    ));
    let waiter = std::thread::spawn(move || {
        owner.attempt(&format!(
            "SELECT tenancy.rename_billing_account('{account}', 'late')"
        ))
    });
    let mut watch = world.superuser();
    while watch.count("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == 0 {
        assert!(!waiter.is_finished(), "it does not wait");
        std::thread::yield_now();
    }
    holder.run("COMMIT");
    refused(waiter.join().expect("the waiter"), "42501");
    assert_eq!(
        watch.text("SELECT name FROM tenancy.billing_accounts"),
        "Acme"
    );
}

/// Who pays is decided by people, also where the AI speaks for the owner.
#[test]
fn an_ai_changes_no_billing() {
    let world = World::people();
    let account = create(&mut world.session("acme.owner"), "Acme", "'pm_acme'");
    let second = create(&mut world.superuser(), "Unused", "NULL");
    let calls = [
        "create_billing_account('AI pays', 'pm_ai')".to_string(),
        format!("set_billing_account('{}', '{account}')", world.acme.id),
        format!("set_billing_account('{}', NULL)", world.acme.id),
        format!("set_payment_method('{account}', 'pm_ai')"),
        format!("set_payment_method('{account}', NULL)"),
        format!("rename_billing_account('{account}', 'AI pays')"),
        format!("drop_billing_account('{second}')"),
    ];
    let mut app = world.app();
    for call in &calls {
        for (actor, refuses) in [("ai", true), ("human", false)] {
            world.begin(&mut app, world.acme, "acme.owner");
            app.run(&format!("SET LOCAL app.actor_type = '{actor}'"));
            let result = app.attempt_within(&format!("SELECT tenancy.{call}"));
            // The DBA's is refused to the owner too.
            if refuses || call.starts_with("drop") {
                refused(result, "42501");
            } else {
                result.expect(call);
            }
            app.run("ROLLBACK");
        }
    }
    assert_eq!(accounts(&mut world.session("acme.owner")), ["Acme pm_acme"]);
}

/// A suspended organization is read only but for how it pays, which may be why it is suspended.
#[test]
fn a_suspended_organization_still_pays() {
    let world = World::people();
    let mut owner = world.session("acme.owner");
    let account = create(&mut owner, "Acme", "'pm_old'");
    world.superuser().run(&format!(
        "SELECT tenancy.suspend_org('{}', 'unpaid')",
        world.acme.id
    ));
    owner.run(&format!(
        "SELECT tenancy.set_payment_method('{account}', 'pm_new')"
    ));
    owner.run(&format!(
        "SELECT tenancy.rename_billing_account('{account}', 'Acme Ltd')"
    ));
    assert_eq!(accounts(&mut owner), ["Acme Ltd pm_new"]);
    // But what it belongs to stays.
    refused(
        owner.attempt(&format!(
            "SELECT tenancy.set_billing_account('{}', NULL)",
            world.acme.id
        )),
        "42501",
    );
    refused(
        owner.attempt("SELECT tenancy.create_billing_account('Other')"),
        "42501",
    );
}

/// One reference from many at once goes to one of them, and stands in no error and no line of the server's log.
#[test]
fn a_reference_goes_to_one_account_and_into_no_log() {
    let world = World::people();
    let mut dba = world.superuser();
    let reference = format!("pm_secret_{}", world.db.name);
    let accounts: Vec<Uuid> = (0..16)
        .map(|i| create(&mut dba, &format!("Account {i}"), "NULL"))
        .collect();
    let start = std::sync::Barrier::new(accounts.len());
    let got: usize = std::thread::scope(|scope| {
        let all: Vec<_> = accounts
            .iter()
            .map(|account| {
                let mut session = world.superuser();
                let (start, reference) = (&start, &reference);
                scope.spawn(move || {
                    start.wait();
                    let set =
                        format!("SELECT tenancy.set_payment_method('{account}', '{reference}')");
                    match session.attempt(&set) {
                        Ok(_) => 1,
                        other => {
                            let told = refused(other, "23505");
                            assert!(!format!("{told:?}").contains(reference), "{told:?}");
                            0
                        }
                    }
                })
            })
            .collect();
        all.into_iter().map(|t| t.join().expect("a client")).sum()
    });
    assert_eq!(got, 1);
    let mut owner = world.session("acme.owner");
    for refused_text in [
        format!("4242 4242 4242 4242 {}", world.db.name),
        reference.clone(),
    ] {
        refused(
            owner.attempt(&format!(
                "SELECT tenancy.create_billing_account('x', '{refused_text}')"
            )),
            if refused_text == reference {
                "23505"
            } else {
                "22023"
            },
        );
        refused(
            dba.attempt(&format!(
                "SELECT tenancy.set_payment_method('{}', '{refused_text}')",
                Uuid::nil()
            )),
            "42501",
        );
        assert!(
            !world.db.cluster.log().contains(&refused_text),
            "{refused_text} is in the log"
        );
    }
}
