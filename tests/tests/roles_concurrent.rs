//! Roles that several sessions change at once (issue 7.1): acts on roles and on members wait for each other, and who lost
//! his right meanwhile is refused; whatever the order, nobody gets what nobody gave who held it.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pg_tenancy_tests::roles::{assign, call, role};
use pg_tenancy_tests::{Random, Session, World, fails, few_or_many, refused};

/// Until another session waits for a lock.
fn until_waiting(dba: &mut Session) {
    let since = Instant::now();
    while dba.count(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
    ) == 0
    {
        assert!(since.elapsed() < Duration::from_secs(20), "nobody waits");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const TEAM: [&str; 4] = ["team:read", "team:invite", "team:role", "server:read"];

/// What the captain does while the owner's transaction is open, and what the owner does in it.
#[test]
fn what_was_lost_while_one_waited_is_lost() {
    for (owner_does, captain_does) in [
        // The captain loses the action that he is about to give.
        (
            ("revoke_permission", "'captain', 'site:deploy'"),
            ("grant_permission", "'pawn', 'site:deploy'"),
        ),
        (
            ("revoke_permission", "'captain', 'site:deploy'"),
            ("create_role", "'copy', clone_of => 'shipper'"),
        ),
        (
            ("revoke_permission", "'captain', 'site:deploy'"),
            ("activate_role", "'asleep'"),
        ),
        // He assigns a role that is being given more than he holds.
        (
            ("grant_permission", "'shipper', 'server:delete'"),
            ("set_member_role", "'VIEWER', 'shipper'"),
        ),
        (
            ("grant_permission", "'shipper', 'server:delete'"),
            ("add_member", "'STRANGER', 'shipper'"),
        ),
        // He loses team:role, or his role altogether.
        (
            ("revoke_permission", "'captain', 'team:role'"),
            ("grant_permission", "'pawn', 'server:read'"),
        ),
        (("deactivate_role", "'captain'"), ("drop_role", "'pawn'")),
        (
            ("set_member_role", "'ADMIN', 'viewer'"),
            ("set_member_role", "'VIEWER', 'pawn'"),
        ),
    ] {
        for commits in [true, false] {
            let world = World::people();
            role(&world, "pawn", &[]);
            role(&world, "shipper", &["site:deploy"]);
            role(&world, "asleep", &["site:deploy"]);
            role(&world, "captain", &[&TEAM[..], &["site:deploy"]].concat());
            let mut dba = world.superuser();
            dba.run(&call(&world, "deactivate_role", "'asleep'"));
            dba.run(&assign(&world, "acme.admin", "captain"));
            let fill = |arguments: &str| {
                arguments
                    .replace("VIEWER", &world.user("acme.viewer").to_string())
                    .replace("STRANGER", &world.user("stranger").to_string())
                    .replace("ADMIN", &world.user("acme.admin").to_string())
            };
            let mut owner = world.session("acme.owner");
            let mut captain = world.session("acme.admin");
            // Warm: what he remembers is from before.
            assert!(captain.is_true("SELECT tenancy.has_permission('site:deploy')"));
            owner.run("BEGIN");
            // The same lock as any act on roles, also where the act is one on a member.
            owner.run(&call(&world, "grant_permission", "'pawn', 'alert:read'"));
            owner.run(&call(&world, owner_does.0, &fill(owner_does.1)));
            let sql = call(&world, captain_does.0, &fill(captain_does.1));
            let done = std::thread::scope(|s| {
                let captains = s.spawn(move || captain.attempt(&sql));
                until_waiting(&mut dba);
                owner.run(if commits { "COMMIT" } else { "ROLLBACK" });
                captains.join().unwrap()
            });
            let told = format!("{owner_does:?}, {captain_does:?}");
            if commits {
                refused(done, "42501");
            } else {
                done.unwrap_or_else(|e| panic!("{told}: {e:?}"));
            }
        }
    }
}

/// The captain first, then the owner: both happen, in that order.
#[test]
fn what_was_given_first_stays_given() {
    let world = World::people();
    role(&world, "pawn", &[]);
    role(&world, "captain", &[&TEAM[..], &["site:deploy"]].concat());
    let mut dba = world.superuser();
    dba.run(&assign(&world, "acme.admin", "captain"));
    let mut owner = world.session("acme.owner");
    let mut captain = world.session("acme.admin");
    captain.run("BEGIN");
    captain.run(&call(&world, "grant_permission", "'pawn', 'site:deploy'"));
    let sql = call(&world, "revoke_permission", "'captain', 'site:deploy'");
    std::thread::scope(|s| {
        let owners = s.spawn(|| owner.attempt(&sql));
        until_waiting(&mut dba);
        captain.run("COMMIT");
        owners.join().unwrap().unwrap();
    });
    let mut owner = world.session("acme.owner");
    assert!(owner.is_true("SELECT tenancy.has_permission('pawn', 'site:deploy')"));
    assert!(!owner.is_true("SELECT tenancy.has_permission('captain', 'site:deploy')"));
}

#[test]
fn a_role_is_not_dropped_under_a_member_who_is_getting_it() {
    let world = World::people();
    role(&world, "crew", &["server:read"]);
    let mut owner = world.session("acme.owner");
    let mut dba = world.superuser();
    let mut other = world.superuser();
    // Dropped first: the role is unknown to who waited. Given first: it is in use.
    for (first, second, code) in [
        (
            assign(&world, "acme.viewer", "crew"),
            call(&world, "drop_role", "'crew'"),
            "2BP01",
        ),
        (
            call(&world, "drop_role", "'crew'"),
            assign(&world, "acme.member", "crew"),
            "22023",
        ),
    ] {
        owner.run("BEGIN");
        owner.run(&first);
        std::thread::scope(|s| {
            let waits = s.spawn(|| other.attempt(&second));
            until_waiting(&mut dba);
            owner.run("COMMIT");
            fails(waits.join().unwrap(), code);
        });
        dba.run(&assign(&world, "acme.viewer", "viewer"));
    }
}

/// Sixteen captains try everything at once, while the owner edits, drops and makes roles. server:delete, org:delete and
/// billing:manage are the owner's alone, who gives them to nobody but `boss`, whom no captain can reach.
#[test]
fn sixteen_captains_get_nothing_that_nobody_gave() {
    const OWNERS: &str = "'server:delete', 'org:delete', 'billing:manage'";
    let world = World::new();
    let acme = world.acme.id;
    role(
        &world,
        "captain",
        &[&TEAM[..], &["team:remove", "site:read", "site:deploy"]].concat(),
    );
    role(
        &world,
        "boss",
        &["server:delete", "org:delete", "billing:manage"],
    );
    for n in 0..4 {
        role(&world, &format!("pawn{n}"), &["site:read"]);
    }
    let mut dba = world.superuser();
    let mut captains = vec![];
    for n in 0..16 {
        let login = world.db.role(&format!("captain{n}"));
        let user = dba.text(&format!(
            "SELECT tenancy.create_user('captain{n}@acme.test')"
        ));
        dba.run(&format!(
            "CREATE ROLE {login} LOGIN; SELECT tenancy.bind_login('{login}', '{user}');
             SELECT tenancy.add_member('{acme}', '{user}', 'captain')"
        ));
        captains.push((login, user));
    }
    let rounds = few_or_many("acts of each captain", 40, 400);
    let (gate, over) = (Barrier::new(captains.len() + 2), AtomicBool::new(false));
    let (done, denied) = (AtomicU64::new(0), AtomicU64::new(0));
    // What must not be, in anybody's eyes, at any time.
    let stolen = format!(
        "SELECT count(*) FROM tenancy.custom_role_permissions WHERE role <> 'boss' AND action IN ({OWNERS}) AND level <> 'deny'"
    );
    let risen = format!(
        "SELECT count(*) FROM tenancy.access_matrix('{acme}')
         WHERE action IN ({OWNERS}) AND level <> 'deny' AND role NOT IN ('owner', 'admin')"
    );
    std::thread::scope(|s| {
        let mut hands = vec![];
        for (n, (login, me)) in captains.iter().enumerate() {
            let mut session = world.db.login(login);
            session.run(&format!(
                "SET app.current_org = '{acme}'; SET lock_timeout = '20s'"
            ));
            let (gate, done, denied, captains) = (&gate, &done, &denied, &captains);
            hands.push(s.spawn(move || {
                let mut random = Random::new(n as u64 + 1);
                gate.wait();
                for turn in 0..rounds {
                    let pawn = format!("pawn{}", random.next(4));
                    let whom = &captains[random.next(16)].1;
                    let owners = ["server:delete", "org:delete", "billing:manage"][random.next(3)];
                    let sql = match random.next(12) {
                        0 => format!("grant_permission('{acme}', 'captain', '{owners}')"),
                        1 => format!("grant_permission('{acme}', '{pawn}', '{owners}', 'limited')"),
                        2 => format!("grant_permission('{acme}', '{pawn}', '{owners}', environment => 'staging')"),
                        3 => format!("create_role('{acme}', 'c{n}_{turn}', clone_of => 'boss')"),
                        4 => format!("create_role('{acme}', 'c{n}_{turn}', clone_of => 'admin', active => false)"),
                        5 => format!("set_member_role('{acme}', '{me}', 'boss')"),
                        6 => format!("set_member_role('{acme}', '{whom}', 'admin')"),
                        7 => format!("activate_role('{acme}', 'boss')"),
                        8 => format!("grant_permission('{acme}', '{pawn}', 'site:deploy')"),
                        9 => format!("revoke_permission('{acme}', '{pawn}', 'site:deploy')"),
                        10 => format!("deactivate_role('{acme}', '{pawn}')"),
                        _ => format!("activate_role('{acme}', '{pawn}')"),
                    };
                    match session.attempt(&format!("SELECT tenancy.{sql}")) {
                        Ok(_) => done.fetch_add(1, Ordering::Relaxed),
                        Err(e) => {
                            let code = e.as_db_error().expect("an answer").code().code().to_string();
                            assert!(["42501", "42704", "42710"].contains(&code.as_str()), "{sql}: {e:?}");
                            denied.fetch_add(1, Ordering::Relaxed)
                        }
                    };
                }
            }));
        }
        // The owner turns boss and captain over and over.
        let mut owner = world.session("acme.owner");
        let (over, gate, world) = (&over, &gate, &world);
        let edits = s.spawn(move || {
            gate.wait();
            while !over.load(Ordering::Relaxed) {
                for (function, arguments) in [
                    ("deactivate_role", "'boss'"),
                    ("revoke_permission", "'captain', 'site:deploy'"),
                    ("revoke_permission", "'boss', 'org:delete'"),
                    ("grant_permission", "'boss', 'org:delete'"),
                    ("grant_permission", "'captain', 'site:deploy'"),
                    ("activate_role", "'boss'"),
                ] {
                    owner.run(&call(world, function, arguments));
                }
            }
        });
        let mut watcher = world.superuser();
        let (stolen, risen) = (&stolen, &risen);
        let watch = s.spawn(move || {
            gate.wait();
            let mut looks = 0;
            while !over.load(Ordering::Relaxed) {
                assert_eq!(watcher.count(stolen), 0);
                assert_eq!(watcher.count(risen), 0);
                looks += 1;
            }
            looks
        });
        let results: Vec<_> = hands.into_iter().map(|hand| hand.join()).collect();
        over.store(true, Ordering::Relaxed);
        edits.join().unwrap();
        assert!(watch.join().unwrap() > 0);
        for result in results {
            result.unwrap();
        }
    });
    assert_eq!(dba.count(&stolen), 0);
    assert_eq!(dba.count(&risen), 0);
    assert!(done.load(Ordering::Relaxed) > 0 && denied.load(Ordering::Relaxed) > 0);
    // Every captain is what he was, and each change stands in the log: replayed, it gives the grants that there are.
    assert_eq!(
        dba.count("SELECT count(*) FROM tenancy.memberships WHERE role = 'captain'"),
        16
    );
    let mut owner = world.session("acme.owner");
    assert_eq!(
        owner.count(
            "WITH acts AS (
                 SELECT key ->> 'name' AS role, coalesce(new ->> 'action', old ->> 'action') AS action, new ->> 'level' AS level,
                        row_number() OVER (PARTITION BY key ->> 'name', coalesce(new ->> 'action', old ->> 'action') ORDER BY at DESC, n DESC) AS nth
                 FROM tenancy.audit_log WHERE operation IN ('grant_permission', 'revoke_permission')),
             replayed AS (SELECT role, action, level FROM acts WHERE nth = 1 AND level IS NOT NULL)
             SELECT count(*) FROM (
                 (TABLE replayed EXCEPT SELECT role, action, level FROM tenancy.custom_role_permissions)
                 UNION ALL (SELECT role, action, level FROM tenancy.custom_role_permissions EXCEPT TABLE replayed)) d"
        ),
        0
    );
}
