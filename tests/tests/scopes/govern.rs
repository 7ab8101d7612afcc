//! Who limits whom.

use crate::stage::{Scoped, ids, world};
use pg_tenancy_tests::{Session, World, assert_same_error, fails, refused};

fn set(world: &World, session: &mut Session, who: &str, key: &str) -> Result<u64, postgres::Error> {
    session.attempt(&format!(
        "SELECT tenancy.set_scope('{}', '{}', 'servers', '{key}')",
        world.acme.id,
        world.user(who)
    ))
}

#[test]
fn the_owner_sets_scopes_and_the_log_has_it() {
    let world = world();
    let mut owner = world.session("acme.owner");
    set(&world, &mut owner, "acme.member", "1").unwrap();
    set(&world, &mut owner, "acme.member", "02").unwrap();
    let member = world.user("acme.member");
    owner.run(&format!(
        "SELECT tenancy.remove_scope('{org}', '{member}', 'servers', '1');
         SELECT tenancy.unscope_member('{org}', '{member}')",
        org = world.acme.id
    ));
    let lines = owner.json(
        "SELECT operation, key, old, new FROM tenancy.read_audit(object => 'tenancy.membership_scopes')",
    );
    let operations: Vec<_> = lines
        .iter()
        .map(|l| l["operation"].as_str().unwrap())
        .collect();
    assert_eq!(
        operations,
        ["set_scope", "set_scope", "remove_scope", "unscope_member"]
    );
    assert_eq!(
        lines[1]["key"]["resource_id"], "2",
        "as the column shows it"
    );
    assert_eq!(lines[1]["new"]["access"], "full");
    assert_eq!(lines[2]["old"]["access"], "full");
    assert_eq!(lines[3]["new"]["scoped"], false);
}

#[test]
fn who_lacks_team_role_sets_none() {
    let world = world();
    for who in ["acme.admin", "acme.member", "acme.viewer"] {
        let mut session = world.session(who);
        refused(set(&world, &mut session, "acme.viewer", "1"), "42501");
        for call in [
            format!(
                "tenancy.unscope_member('{}', '{}')",
                world.acme.id,
                world.user(who)
            ),
            format!(
                "tenancy.remove_scope('{}', '{}', 'servers', '1')",
                world.acme.id,
                world.user(who)
            ),
            format!(
                "tenancy.set_scopes('{}', '{}', 'servers', '{{1}}')",
                world.acme.id,
                world.user(who)
            ),
        ] {
            refused(session.attempt(&format!("SELECT {call}")), "42501");
        }
    }
    // A stranger hears what he would hear of no organization.
    let mut stranger = world.session("globex.owner");
    let theirs = refused(set(&world, &mut stranger, "acme.member", "1"), "42501");
    let none = refused(
        stranger.attempt(&format!(
            "SELECT tenancy.set_scope('00000000-0000-0000-0000-000000000001', '{}', 'servers', '1')",
            world.user("acme.member")
        )),
        "42501",
    );
    assert_same_error(
        &theirs,
        &none,
        &[(
            "00000000-0000-0000-0000-000000000001",
            &world.acme.id.to_string(),
        )],
    );
    assert_eq!(
        world
            .superuser()
            .count("SELECT count(*) FROM tenancy.membership_scopes"),
        0
    );
}

/// Who governs members but is limited himself governs nothing; and nobody gives more than he holds.
#[test]
fn nobody_gives_what_he_does_not_hold() {
    let world = world();
    let mut dba = world.superuser();
    // An administrator of the team alone, made by hand.
    dba.run(&format!(
        "SELECT tenancy.create_role('{org}', 'team_lead');
             SELECT tenancy.grant_permission('{org}', 'team_lead', 'team:role');
             SELECT tenancy.grant_permission('{org}', 'team_lead', 'team:read')",
        org = world.acme.id
    ));
    dba.run(&format!(
        "SELECT tenancy.set_member_role('{}', '{}', 'team_lead')",
        world.acme.id,
        world.user("acme.admin")
    ));
    let mut lead = world.session("acme.admin");
    // To limit takes away; to list one more, or to unscope, gives.
    set(&world, &mut lead, "acme.member", "1").unwrap();
    refused(set(&world, &mut lead, "acme.member", "2"), "42501");
    refused(
        lead.attempt(&format!(
            "SELECT tenancy.unscope_member('{}', '{}')",
            world.acme.id,
            world.user("acme.member")
        )),
        "42501",
    );
    assert_eq!(ids(&mut world.session("acme.member"), "servers"), [1]);
    world.scope("acme.admin", "servers", "1", "full");
    refused(set(&world, &mut lead, "acme.viewer", "1"), "42501");
    refused(
        lead.attempt(&format!(
            "SELECT tenancy.unscope_member('{}', '{}')",
            world.acme.id,
            world.user("acme.admin")
        )),
        "42501",
    );
}

#[test]
fn the_owner_is_never_limited_by_whatever_way() {
    let world = world();
    let mut dba = world.superuser();
    let (org, owner, member) = (
        world.acme.id,
        world.user("acme.owner"),
        world.user("acme.member"),
    );
    refused(
        set(&world, &mut world.session("acme.owner"), "acme.owner", "1"),
        "23514",
    );
    refused(set(&world, &mut dba, "acme.owner", "1"), "23514");
    refused(
        dba.attempt(&format!(
            "UPDATE tenancy.memberships SET scoped = true WHERE user_id = '{owner}'"
        )),
        "23514",
    );
    world.scope("acme.member", "servers", "1", "full");
    for sql in [
        format!(
            "INSERT INTO tenancy.membership_scopes VALUES ('{org}', '{owner}', 'server', '1', 'full')"
        ),
        format!("UPDATE tenancy.membership_scopes SET user_id = '{owner}'"),
    ] {
        // By the rule itself, before the mark on the membership would be.
        let error = refused(dba.attempt(&sql), "23514");
        let said = "cannot be limited to resources";
        assert!(error.message().ends_with(said), "{error:?}");
    }
    // A limited member becomes no owner.
    refused(
        world.session("acme.owner").attempt(&format!(
            "SELECT tenancy.transfer_ownership('{org}', '{member}')"
        )),
        "22023",
    );
    refused(
        dba.attempt(&format!(
            "UPDATE tenancy.orgs SET owner_id = '{member}' WHERE id = '{org}'"
        )),
        "23514",
    );
    world.remove_scope("acme.member", "servers", "1");
    refused(
        world.session("acme.owner").attempt(&format!(
            "SELECT tenancy.transfer_ownership('{org}', '{member}')"
        )),
        "22023",
    );
    world.unscope("acme.member");
    world.session("acme.owner").run(&format!(
        "SELECT tenancy.transfer_ownership('{org}', '{member}')"
    ));
    assert_eq!(ids(&mut world.session("acme.member"), "servers"), [1, 2, 3]);
}

/// Whoever writes a rule into the table himself limits the membership.
#[test]
fn a_rule_written_by_hand_limits_too() {
    let world = world();
    let mut dba = world.superuser();
    let (org, member) = (world.acme.id, world.user("acme.member"));
    let mut session = world.session("acme.member");
    assert_eq!(ids(&mut session, "servers"), [1, 2, 3]);
    dba.run(&format!(
        "INSERT INTO tenancy.membership_scopes VALUES ('{org}', '{member}', 'server', '3', 'full')"
    ));
    assert_eq!(ids(&mut session, "servers"), [3]);
    dba.run("SET session_replication_role = replica; UPDATE tenancy.membership_scopes SET resource_id = '2'");
    assert_eq!(ids(&mut session, "servers"), [2]);
    dba.run("SET session_replication_role = origin; TRUNCATE tenancy.membership_scopes");
    assert!(ids(&mut session, "servers").is_empty());
}

#[test]
fn scopes_are_listed_to_the_member_and_to_who_reads_the_team() {
    let world = world();
    world.scope("acme.member", "servers", "1", "full");
    world.scope("acme.viewer", "sites", "2", "read_only");
    let list = |session: &mut Session| {
        session.column("SELECT resource_type || ' ' || resource_id || ' ' || access FROM tenancy.list_scopes()")
    };
    let mut of_all = list(&mut world.session("acme.owner"));
    of_all.sort();
    assert_eq!(of_all, ["server 1 full", "site 2 read_only"]);
    assert_eq!(list(&mut world.session("acme.member")), ["server 1 full"]);
    assert_eq!(
        list(&mut world.session("acme.viewer")),
        ["site 2 read_only"]
    );
    assert!(list(&mut world.session("globex.owner")).is_empty());
    let mut session = world.session("acme.member");
    assert_eq!(
        session.count("SELECT count(*) FROM tenancy.membership_scopes"),
        1
    );
    refused(
        session.attempt(&format!(
            "SELECT * FROM tenancy.list_scopes(user_id => '{}')",
            world.user("acme.viewer")
        )),
        "42501",
    );
    refused(
        world.session("globex.owner").attempt(&format!(
            "SELECT * FROM tenancy.list_scopes('{}')",
            world.acme.id
        )),
        "42501",
    );
    refused(
        world
            .bound("stranger")
            .attempt("SELECT * FROM tenancy.list_scopes()"),
        "42501",
    );
    for write in [
        "INSERT INTO tenancy.membership_scopes SELECT * FROM tenancy.membership_scopes",
        "UPDATE tenancy.membership_scopes SET access = 'full'",
        "DELETE FROM tenancy.membership_scopes",
    ] {
        fails(session.attempt(write), "42501");
    }
}

#[test]
fn what_is_asked_wrongly_is_told() {
    let world = world();
    let mut owner = world.session("acme.owner");
    let (org, member) = (world.acme.id, world.user("acme.member"));
    let mut call =
        |arguments: &str| owner.attempt(&format!("SELECT tenancy.set_scope({arguments})"));
    refused(
        call(&format!("'{org}', '{member}', 'servers', '1', 'some'")),
        "22023",
    );
    refused(call(&format!("'{org}', '{member}', 'notes', '1'")), "22023");
    refused(
        call(&format!("'{org}', '{member}', 'regions', 'eu'")),
        "22023",
    );
    refused(call(&format!("'{org}', '{member}', 'logs', '1'")), "22023");
    fails(
        call(&format!("'{org}', '{member}', 'servers', 'one'")),
        "22P02",
    );
    refused(
        call(&format!(
            "'{org}', '{}', 'servers', '1'",
            world.user("stranger")
        )),
        "P0002",
    );
    refused(
        call(&format!("'{org}', '{member}', 'servers', NULL")),
        "22004",
    );
    let gone = owner.attempt(&format!(
        "SELECT tenancy.remove_scope('{org}', '{member}', 'servers', '1')"
    ));
    refused(gone, "P0002");
}

/// Of two at once one waits, and then asks anew whether it may.
#[test]
fn a_governor_who_waited_is_asked_again() {
    let world = world();
    let mut dba = world.superuser();
    dba.run("BEGIN");
    dba.run(&format!(
        "SELECT tenancy.transfer_ownership('{}', '{}')",
        world.acme.id,
        world.user("acme.admin")
    ));
    let mut owner = world.session("acme.owner");
    let call = format!(
        "SELECT tenancy.set_scope('{}', '{}', 'servers', '1')",
        world.acme.id,
        world.user("acme.member")
    );
    let waiting = std::thread::spawn(move || owner.attempt(&call));
    std::thread::sleep(std::time::Duration::from_millis(300));
    dba.run("COMMIT");
    refused(waiting.join().unwrap(), "42501");
}
