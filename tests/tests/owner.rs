//! Exactly one owner per org, always: under concurrency and under direct SQL.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};

use pg_tenancy_tests::{Session, Uuid, World, fails, refused};

/// Orgs whose owner's membership row is not the one mirror of orgs.owner_id.
const BROKEN: &str = "
    SELECT o.slug FROM tenancy.orgs o
    WHERE ARRAY(SELECT m.user_id FROM tenancy.memberships m WHERE m.org_id = o.id AND m.role = 'owner')
          IS DISTINCT FROM ARRAY[o.owner_id]
    UNION ALL
    SELECT m.org_id::text FROM tenancy.memberships m
    WHERE m.role = 'owner' AND NOT EXISTS (SELECT FROM tenancy.orgs o WHERE o.id = m.org_id)
    UNION ALL
    SELECT 'expiring owner of ' || m.org_id FROM tenancy.memberships m
    WHERE m.role = 'owner' AND m.expires_at IS NOT NULL";

#[track_caller]
fn assert_whole(dba: &mut Session) {
    assert_eq!(dba.column(BROKEN), Vec::<String>::new());
}

#[test]
fn thirty_two_clients_never_leave_two_owners_or_none() {
    const CLIENTS: u32 = 32;
    const ROUNDS: u32 = 8;
    let world = Arc::new(World::people());
    let acme = world.acme.id;
    let mut dba = world.superuser();
    dba.run(&format!(
        "SELECT tenancy.add_member('{acme}', '{}', 'member')",
        world.user("stranger")
    ));
    let people: Vec<Uuid> = dba
        .column(&format!(
            "SELECT user_id FROM tenancy.memberships WHERE org_id = '{acme}'"
        ))
        .iter()
        .map(|id| id.parse().unwrap())
        .collect();
    let people = Arc::new(people);
    let barrier = Arc::new(Barrier::new(CLIENTS as usize + 1));
    let transfers = Arc::new(AtomicU32::new(0));

    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (world, people, barrier, transfers) =
                (world.clone(), people.clone(), barrier.clone(), transfers.clone());
            std::thread::spawn(move || {
                // A quarter are DBAs, the rest the application on behalf of whoever may just be the owner.
                let dba = client % 4 == 0;
                let mut session = if dba { world.superuser() } else { world.app() };
                let mut random = u64::from(client) * 2654435761 + 88172645463325252;
                let mut next = |n: usize| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    (random % n as u64) as usize
                };
                let mut trouble = Vec::new();
                for round in 0..ROUNDS {
                    barrier.wait();
                    for _ in 0..4 {
                        let (a, b) = (people[next(people.len())], people[next(people.len())]);
                        let act = match (client + round + next(3) as u32) % 5 {
                            0 | 1 => format!("SELECT tenancy.transfer_ownership('{acme}', '{b}')"),
                            2 => format!("SELECT tenancy.set_member_role('{acme}', '{b}', 'viewer')"),
                            3 => format!(
                                "SELECT tenancy.remove_member('{acme}', '{b}');
                                 SELECT tenancy.add_member('{acme}', '{b}', 'member')"
                            ),
                            _ => format!("SELECT tenancy.set_member_role('{acme}', '{b}', 'admin')"),
                        };
                        session.run("BEGIN");
                        if !dba {
                            session.run(&format!(
                                "SET LOCAL app.current_org = '{acme}'; SET LOCAL app.current_user_id = '{a}'"
                            ));
                        }
                        match session.attempt(&act) {
                            Ok(_) => {
                                session.run("COMMIT");
                                if act.contains("transfer") {
                                    transfers.fetch_add(1, Ordering::Relaxed);
                                }
                            }
                            Err(error) => {
                                session.run("ROLLBACK");
                                let code = error.as_db_error().map(|e| e.code().code().to_string());
                                // Refused, not a member just now, the owner stays, already a member.
                                if !["42501", "22023", "23514", "23505", "P0002"]
                                    .contains(&code.as_deref().unwrap_or("gone"))
                                {
                                    trouble.push(format!("{act}: {error:?}"));
                                }
                            }
                        }
                    }
                    barrier.wait();
                    // Meanwhile the checker looks.
                    barrier.wait();
                }
                trouble
            })
        })
        .collect();

    let mut found = Vec::new();
    for _ in 0..ROUNDS {
        barrier.wait();
        // Also in the midst of it.
        for _ in 0..5 {
            found.extend(dba.column(BROKEN));
        }
        barrier.wait();
        found.extend(dba.column(BROKEN));
        barrier.wait();
    }
    let trouble: Vec<String> = clients
        .into_iter()
        .flat_map(|client| client.join().expect("a client"))
        .collect();
    assert_eq!(found, Vec::<String>::new());
    assert_eq!(trouble, Vec::<String>::new());
    assert!(transfers.load(Ordering::Relaxed) >= 10, "{transfers:?}");
}

#[test]
fn a_transfer_that_waited_finds_itself_overtaken() {
    let world = World::people();
    let acme = world.acme.id;
    let mut first = world.session("acme.owner");
    first.run(&format!(
        "BEGIN; SELECT tenancy.transfer_ownership('{acme}', '{}')",
        world.user("acme.admin")
    ));
    for isolation in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let mut second = world.session("acme.owner");
        let act = format!(
            "SELECT tenancy.transfer_ownership('{acme}', '{}')",
            world.user("acme.member")
        );
        if isolation == "READ COMMITTED" {
            let waiting = std::thread::spawn(move || {
                second
                    .attempt(&act)
                    .map_err(|e| e.as_db_error().map(|e| e.code().code().to_string()))
            });
            std::thread::sleep(std::time::Duration::from_millis(300));
            first.run("COMMIT");
            assert_eq!(waiting.join().unwrap(), Err(Some("42501".into())));
        } else {
            second.run(&format!("BEGIN ISOLATION LEVEL {isolation}; SELECT 1"));
            second.attempt(&act).unwrap_err();
        }
        assert_whole(&mut world.superuser());
    }
    assert_eq!(
        world.superuser().text(&format!(
            "SELECT owner_id FROM tenancy.orgs WHERE id = '{acme}'"
        )),
        world.user("acme.admin").to_string()
    );
}

#[test]
fn an_old_snapshot_gives_no_old_authority() {
    let world = World::people();
    let acme = world.acme.id;
    let mut old = world.session("acme.owner");
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM tenancy.orgs");
    world.superuser().run(&format!(
        "SELECT tenancy.transfer_ownership('{acme}', '{}')",
        world.user("acme.admin")
    ));
    for act in [
        format!(
            "SELECT tenancy.transfer_ownership('{acme}', '{}')",
            world.user("acme.member")
        ),
        format!(
            "SELECT tenancy.add_member('{acme}', '{}', 'viewer')",
            world.user("stranger")
        ),
        format!(
            "SELECT tenancy.remove_member('{acme}', '{}')",
            world.user("acme.admin")
        ),
    ] {
        old.attempt_within(&act).unwrap_err();
    }
    old.run("COMMIT");
    assert_whole(&mut world.superuser());
}

#[test]
fn direct_sql_makes_no_second_owner() {
    let world = World::people();
    let (acme, owner) = (world.acme.id, world.user("acme.owner"));
    let (admin, stranger) = (world.user("acme.admin"), world.user("stranger"));
    let mut dba = world.superuser();
    let of_owner = format!("org_id = '{acme}' AND user_id = '{owner}'");
    for sql in [
        format!(
            "INSERT INTO tenancy.memberships (org_id, user_id, role) VALUES ('{acme}', '{stranger}', 'owner')"
        ),
        format!(
            "UPDATE tenancy.memberships SET role = 'owner' WHERE org_id = '{acme}' AND user_id = '{admin}'"
        ),
        format!("UPDATE tenancy.memberships SET role = 'owner' WHERE org_id = '{acme}'"),
        format!("UPDATE tenancy.memberships SET role = 'admin' WHERE {of_owner}"),
        format!("UPDATE tenancy.memberships SET user_id = '{stranger}' WHERE {of_owner}"),
        format!(
            "UPDATE tenancy.memberships SET org_id = '{}' WHERE {of_owner}",
            world.globex.id
        ),
        format!(
            "UPDATE tenancy.memberships SET expires_at = now() + interval '1 day' WHERE {of_owner}"
        ),
        format!("DELETE FROM tenancy.memberships WHERE {of_owner}"),
        format!("DELETE FROM tenancy.memberships WHERE org_id = '{acme}'"),
    ] {
        refused(dba.attempt(&sql), "23514");
        assert_whole(&mut dba);
    }
    dba.attempt("TRUNCATE tenancy.memberships").unwrap_err();
    assert_whole(&mut dba);
    assert_eq!(
        dba.count(&format!(
            "SELECT count(*) FROM tenancy.memberships WHERE org_id = '{acme}'"
        )),
        5
    );
}

#[test]
fn swapping_the_roles_by_hand_in_one_transaction_is_still_refused_or_whole() {
    let world = World::people();
    let acme = world.acme.id;
    let mut dba = world.superuser();
    let _ = dba.attempt(&format!(
        "UPDATE tenancy.memberships SET role = CASE user_id WHEN '{owner}' THEN 'admin' ELSE 'owner' END
         WHERE org_id = '{acme}' AND user_id IN ('{owner}', '{admin}')",
        owner = world.user("acme.owner"),
        admin = world.user("acme.admin")
    ));
    assert_whole(&mut dba);
}

#[test]
fn the_orgs_row_is_the_truth_and_the_membership_mirrors_it() {
    let world = World::people();
    let acme = world.acme.id;
    let mut dba = world.superuser();
    let set = |who: &str| {
        format!(
            "UPDATE tenancy.orgs SET owner_id = '{}' WHERE id = '{acme}'",
            world.user(who)
        )
    };
    dba.run(&set("acme.admin"));
    assert_whole(&mut dba);
    assert_eq!(
        dba.text(&format!(
            "SELECT role FROM tenancy.memberships WHERE org_id = '{acme}' AND user_id = '{}'",
            world.user("acme.owner")
        )),
        "admin"
    );
    // A stranger: refused, or made a member; never an owner without a membership.
    let _ = dba.attempt(&set("stranger"));
    assert_whole(&mut dba);
    fails(
        dba.attempt(&format!(
            "UPDATE tenancy.orgs SET owner_id = NULL WHERE id = '{acme}'"
        )),
        "23502",
    );
    fails(
        dba.attempt(&format!(
            "UPDATE tenancy.orgs SET owner_id = gen_random_uuid() WHERE id = '{acme}'"
        )),
        "23503",
    );
    assert_whole(&mut dba);
    // Straight into the table, an org comes with its owner's membership.
    dba.attempt(&format!(
        "INSERT INTO tenancy.orgs (name, slug, owner_id) VALUES ('Direct', 'direct', '{}')",
        world.user("stranger")
    ))
    .ok();
    assert_whole(&mut dba);
}

#[test]
fn an_expiring_member_who_becomes_owner_expires_no_more() {
    let world = World::people();
    let (acme, stranger) = (world.acme.id, world.user("stranger"));
    let mut dba = world.superuser();
    dba.run(&format!(
        "SELECT tenancy.add_member('{acme}', '{stranger}', 'admin', expires_at => now() + interval '1 hour')"
    ));
    // Refused or made permanent, by the function and by hand alike.
    let _ = dba.attempt(&format!(
        "SELECT tenancy.transfer_ownership('{acme}', '{stranger}')"
    ));
    assert_whole(&mut dba);
    let _ = dba.attempt(&format!(
        "UPDATE tenancy.orgs SET owner_id = '{stranger}' WHERE id = '{acme}'"
    ));
    assert_whole(&mut dba);
}

#[test]
fn the_owners_account_stays_while_he_owns() {
    let world = World::people();
    let mut dba = world.superuser();
    let delete = |who: &str| format!("DELETE FROM tenancy.users WHERE id = '{}'", world.user(who));
    fails(dba.attempt(&delete("acme.owner")), "23503");
    assert_whole(&mut dba);
    // Another's may go; his rights go with him at once.
    let mut member = world.session("acme.member");
    assert_eq!(
        member.text("SELECT tenancy.current_org()"),
        world.acme.id.to_string()
    );
    dba.run(&delete("acme.member"));
    assert_eq!(member.value("SELECT tenancy.current_org()"), None);
    assert_whole(&mut dba);
    // After the transfer the account of the old owner may go.
    dba.run(&format!(
        "SELECT tenancy.transfer_ownership('{}', '{}')",
        world.acme.id,
        world.user("acme.admin")
    ));
    dba.run(&delete("acme.owner"));
    assert_whole(&mut dba);
}

#[test]
fn a10_an_act_that_waited_for_a_transfer_asks_again_for_the_right() {
    let world = World::people();
    let acme = world.acme.id;
    for act in [
        format!(
            "SELECT tenancy.add_member('{acme}', '{}', 'admin')",
            world.user("stranger")
        ),
        format!(
            "SELECT tenancy.set_member_role('{acme}', '{}', 'admin')",
            world.user("acme.viewer")
        ),
        format!(
            "SELECT tenancy.remove_member('{acme}', '{}')",
            world.user("acme.viewer")
        ),
        format!(
            "SELECT tenancy.transfer_ownership('{acme}', '{}')",
            world.user("acme.viewer")
        ),
    ] {
        let mut first = world.session("acme.owner");
        first.run(&format!(
            "BEGIN; SELECT tenancy.transfer_ownership('{acme}', '{}')",
            world.user("acme.admin")
        ));
        let mut second = world.session("acme.owner");
        let waiting = std::thread::spawn(move || {
            second
                .attempt(&act)
                .map_err(|e| e.as_db_error().map(|e| e.code().code().to_string()))
                .map_err(|code| (act, code))
        });
        std::thread::sleep(std::time::Duration::from_millis(300));
        first.run("COMMIT");
        match waiting.join().unwrap() {
            Err((_, code)) => assert_eq!(code.as_deref(), Some("42501")),
            Ok(_) => panic!("an act passed whose right had gone while it waited"),
        }
        assert_whole(&mut world.superuser());
        world.superuser().run(&format!(
            "SELECT tenancy.transfer_ownership('{acme}', '{}')",
            world.user("acme.owner")
        ));
    }
}
