//! A random walk through everything that can move the context, checked after each step against what PostgreSQL itself says
//! of the claim: no row of an org that is not both claimed and the user's, and no two orgs in one transaction.

use pg_tenancy_tests::{Org, Session, World};

struct Random(u64);

impl Random {
    fn next(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn one_of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.next(all.len())]
    }
}

/// The org a claim's text names.
fn named<'a>(orgs: &'a [Org], claim: &str) -> Option<&'a Org> {
    orgs.iter()
        .find(|org| claim == org.id.to_string() || claim == org.key)
}

/// What is seen must be what may be seen, and in a transaction always the same org's. False where the transaction failed.
fn look(
    session: &mut Session,
    world: &World,
    may: &dyn Fn(&str, &str) -> bool,
    seen: &mut Option<Org>,
    trail: &[String],
) -> bool {
    let orgs = [world.acme, world.globex];
    let claims = session
        .rows("SELECT current_setting('app.current_org', true), current_setting('app.current_user_id', true)")
        .remove(0);
    let [claim, user] = [0, 1].map(|i| claims[i].clone().unwrap_or_default());
    let rows = match session.try_rows("SELECT DISTINCT org_id, tenancy.current_org() FROM servers")
    {
        Ok(rows) => rows,
        Err(error) => {
            let code = error.as_db_error().map(|e| e.code().code().to_string());
            assert_eq!(code.as_deref(), Some("25001"), "{error:?} after {trail:#?}");
            assert!(seen.is_some(), "a second org without a first: {trail:#?}");
            return false;
        }
    };
    assert!(rows.len() <= 1, "two orgs at once after {trail:#?}");
    if let Some(row) = rows.first() {
        let org = orgs
            .iter()
            .find(|org| Some(org.id.to_string()) == row[0])
            .expect("a known org");
        assert_eq!(row[0], row[1], "{trail:#?}");
        assert_eq!(
            named(&orgs, &claim),
            Some(org),
            "claimed {claim:?} after {trail:#?}"
        );
        assert!(
            may(org.slug, &user),
            "{user:?} saw {} after {trail:#?}",
            org.slug
        );
        if let Some(first) = seen {
            assert_eq!(first, org, "two orgs in one transaction after {trail:#?}");
        }
        *seen = Some(*org);
    }
    true
}

/// `scoped`: a context counts in its own transaction only.
fn walk(
    world: &World,
    mut session: Session,
    seed: u64,
    scoped: bool,
    may: &dyn Fn(&str, &str) -> bool,
) -> usize {
    let mut random = Random(seed.wrapping_mul(6364136223846793005) | 1);
    let users: Vec<String> = ["acme.member", "globex.viewer", "agency", "stranger"]
        .iter()
        .map(|who| world.user(who).to_string())
        .collect();
    let orgs: Vec<String> = [world.acme, world.globex]
        .iter()
        .flat_map(|org| [org.id.to_string(), org.key.to_string()])
        .chain([String::new(), "nonsense".into()])
        .collect();
    let mut trail: Vec<String> = Vec::new();
    // What had been seen when each open savepoint was made; None outside a transaction.
    let mut savepoints: Option<Vec<Option<Org>>> = None;
    let mut failed = false;
    let mut seen: Option<Org> = None;
    // Whether anything was said in this transaction, kept or not.
    let mut said = false;
    let mut shown = 0;
    for _ in 0..400 {
        let org = &orgs[random.next(orgs.len())];
        let user = &users[random.next(users.len())];
        let local = random.one_of(&["SET", "SET LOCAL", "SET SESSION"]);
        let flag = random.one_of(&["true", "false"]);
        let open = savepoints.is_some();
        let depth = savepoints.as_ref().map_or(0, Vec::len);
        let sql = match random.next(16) {
            0 | 1 if !open => "BEGIN".to_string(),
            0 => random.one_of(&["COMMIT", "ROLLBACK"]).to_string(),
            1..=3 if open && !failed => format!("SAVEPOINT s{depth}"),
            4 if depth > 0 && !failed => format!("RELEASE s{}", random.next(depth)),
            5 | 6 if depth > 0 => format!("ROLLBACK TO s{}", random.next(depth)),
            7 | 8 => format!("{local} app.current_org = '{org}'"),
            9 => format!("{local} app.current_user_id = '{user}'"),
            10 => format!("SELECT set_config('app.current_org', '{org}', {flag})"),
            11 => format!(
                "DO $$ BEGIN PERFORM set_config('app.current_org', '{org}', {flag}); RAISE division_by_zero;
                 EXCEPTION WHEN division_by_zero THEN NULL; END $$"
            ),
            12 => random
                .one_of(&["RESET app.current_org", "RESET ALL", "SELECT tenancy.leave()", "RESET app.current_user_id"])
                .to_string(),
            13 => format!(
                "SELECT tenancy.enter('{}')",
                if random.next(2) == 0 { world.acme.id } else { world.globex.id }
            ),
            14 => format!("{local} app.current_org = '{org}'; {local} app.current_user_id = '{user}'"),
            _ if open => "SELECT 1 / 0".to_string(),
            _ => continue,
        };
        trail.push(sql.clone());
        let result = session.attempt(&sql);
        let number = |prefix: &str| -> Option<usize> { sql.strip_prefix(prefix)?.parse().ok() };
        if sql == "BEGIN" {
            savepoints = Some(Vec::new());
            (failed, said, seen) = (false, false, None);
        } else if sql == "COMMIT" || sql == "ROLLBACK" {
            savepoints = None;
            (failed, said, seen) = (false, false, None);
        } else if let (Some(all), Some(_)) = (&mut savepoints, number("SAVEPOINT s")) {
            all.push(seen);
        } else if let (Some(all), Some(n)) = (&mut savepoints, number("RELEASE s")) {
            all.truncate(n);
        } else if let (Some(all), Some(n)) = (&mut savepoints, number("ROLLBACK TO s")) {
            seen = all[n];
            all.truncate(n + 1);
            failed = false;
        } else if savepoints.is_some() {
            failed |= result.is_err();
            said = true;
        }
        if failed || random.next(4) == 0 {
            continue;
        }
        failed = !look(&mut session, world, may, &mut seen, &trail) && savepoints.is_some();
        if scoped && (savepoints.is_none() || !said) {
            assert_eq!(
                seen, None,
                "nothing was said in this transaction: {trail:#?}"
            );
        }
        shown += usize::from(seen.is_some());
        if savepoints.is_none() {
            seen = None;
        }
    }
    session.attempt("ROLLBACK").ok();
    shown
}

#[test]
fn a_bound_login_sees_what_it_claims_and_may() {
    let world = World::new();
    let mut shown = 0;
    for seed in 1..=10 {
        let me = world.user("agency").to_string();
        // Naming somebody else is no way to be him.
        shown += walk(&world, world.bound("agency"), seed, false, &|_, user| {
            user.is_empty() || user == me
        });
        let other = world.user("globex.viewer").to_string();
        shown += walk(
            &world,
            world.bound("globex.viewer"),
            seed,
            false,
            &|org, user| org == "globex" && (user.is_empty() || user == other),
        );
    }
    assert!(shown > 200, "{shown}");
}

#[test]
fn an_application_sees_what_it_claims_and_its_user_may() {
    let world = World::new();
    let members: Vec<(String, &[&str])> = [
        ("acme.member", &["acme"][..]),
        ("globex.viewer", &["globex"]),
        ("agency", &["acme", "globex"]),
        ("stranger", &[]),
    ]
    .map(|(who, orgs)| (world.user(who).to_string(), orgs))
    .into();
    let may = |org: &str, user: &str| {
        // As a service, where it names nobody.
        user.is_empty()
            || members
                .iter()
                .any(|(id, orgs)| id == user && orgs.contains(&org))
    };
    let (mut scoped, mut own) = (0, 0);
    for seed in 1..=10 {
        scoped += walk(&world, world.app(), seed, true, &may);
        own += walk(&world, world.session_app(), seed + 100, false, &may);
    }
    assert!(scoped > 100 && own > 200, "{scoped} {own}");
}
