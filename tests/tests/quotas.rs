//! Quotas (spec 10): exact at every commit, by whatever way rows come and go, and never in the way of room that nobody
//! holds.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::sync::{Arc, Barrier};

use pg_tenancy_tests::{Cluster, Db, Error, Random, Session, World, fails, few_or_many, refused};

const OVER: &str = "54000";

/// The world's tables, and one of acme's own rows only, with a quota for acme.
fn with_quota(maximum: i64) -> World {
    with_table("audit => false", maximum)
}

fn with_table(options: &str, maximum: i64) -> World {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE TABLE items (id int PRIMARY KEY, org_id uuid, n int DEFAULT 0);
         GRANT ALL ON items TO PUBLIC;
         ALTER TABLE items OWNER TO {};
         SELECT tenancy.protect('items', {options});
         SELECT tenancy.set_quota('{}', 'items', {maximum});",
        world.table_owner(),
        world.acme.id
    ));
    world
}

fn used(world: &World) -> i64 {
    let mut dba = world.superuser();
    dba.count(&format!(
        "SELECT used FROM tenancy.list_quotas('{}') WHERE metric IS NULL",
        world.acme.id
    ))
}

fn there(world: &World, table: &str) -> i64 {
    world.break_glass().count(&format!(
        "SELECT count(*) FROM {table} WHERE org_id::text IN ('{}', '{}', '7')",
        world.acme.id, world.acme.key
    ))
}

#[track_caller]
fn agrees(world: &World, expected: i64) {
    assert_eq!(there(world, "items"), expected, "rows");
    assert_eq!(used(world), expected, "counted");
}

fn over<T: std::fmt::Debug>(result: Result<T, Error>) -> (i64, i64, i64) {
    let error = refused(result, OVER);
    assert!(error.message().starts_with("quota exceeded"), "{error:?}");
    let numbers: Vec<i64> = error
        .detail()
        .unwrap()
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse().ok())
        .collect();
    match numbers[..] {
        [used, by] => (used, 0, by),
        [used, held, by] => (used, held, by),
        _ => panic!("{error:?}"),
    }
}

#[test]
fn rows_come_and_go_by_every_way() {
    for options in ["audit => false", "audit => true"] {
        let world = with_table(options, 10);
        let mut s = world.session("acme.owner");
        s.run("INSERT INTO items (id) SELECT generate_series(1, 9)");
        agrees(&world, 9);
        s.run("INSERT INTO items (id) VALUES (10)");
        let refusal = refused(s.attempt("INSERT INTO items (id) VALUES (11)"), OVER);
        assert_eq!(
            refusal.message(),
            "quota exceeded: the organization may have at most 10 rows in table \"items\""
        );
        assert_eq!(refusal.detail(), Some("It has 10, and this adds 1."));
        agrees(&world, 10);
        // An update adds nothing, a delete gives back.
        s.run("UPDATE items SET n = n + 1");
        s.run("DELETE FROM items WHERE id > 7");
        agrees(&world, 7);
        // More than fits: none of it.
        assert_eq!(
            over(s.attempt("INSERT INTO items (id) SELECT generate_series(101, 104)")),
            (7, 0, 4)
        );
        agrees(&world, 7);
        // What meets a conflict is not inserted.
        s.run("INSERT INTO items (id) SELECT generate_series(1, 10) ON CONFLICT DO NOTHING");
        agrees(&world, 10);
        s.run("DELETE FROM items WHERE id = 10");
        s.run("INSERT INTO items (id) SELECT generate_series(1, 10) ON CONFLICT (id) DO UPDATE SET n = items.n + 1");
        agrees(&world, 10);
        over(s.attempt(
            "INSERT INTO items (id) SELECT generate_series(1, 11) ON CONFLICT (id) DO UPDATE SET n = 0",
        ));
        // MERGE: three go, three come.
        s.run(
            "MERGE INTO items i USING generate_series(8, 13) g ON i.id = g
             WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id) VALUES (g)",
        );
        agrees(&world, 10);
        over(s.attempt(
            "MERGE INTO items i USING generate_series(13, 14) g ON i.id = g
             WHEN MATCHED THEN UPDATE SET n = 7 WHEN NOT MATCHED THEN INSERT (id) VALUES (g)",
        ));
        // In a WITH, in a function, by EXECUTE.
        s.run("DELETE FROM items");
        agrees(&world, 0);
        s.run("WITH a AS (INSERT INTO items (id) SELECT generate_series(1, 4) RETURNING id) INSERT INTO items (id) SELECT id + 4 FROM a");
        agrees(&world, 8);
        over(s.attempt("WITH a AS (INSERT INTO items (id) SELECT generate_series(21, 23) RETURNING id) SELECT count(*) FROM a"));
        s.run(
            "DO $$ BEGIN FOR i IN 31..32 LOOP INSERT INTO items (id) VALUES (i); END LOOP; END $$",
        );
        agrees(&world, 10);
        s.run("PREPARE p AS INSERT INTO items (id) VALUES ($1); DELETE FROM items WHERE id = 1; EXECUTE p (41)");
        over(s.attempt("EXECUTE p (42)"));
        agrees(&world, 10);
        // COPY, which row security leaves to who has none, and held to the organization all the same.
        let mut dba = world.superuser();
        dba.run(&format!(
            "SET app.current_org = '{}'; SELECT tenancy.current_org()",
            world.acme.id
        ));
        let mut copy = |from: i32, to: i32| -> Result<(), Error> {
            let mut writer = dba.copy_in("COPY items (id) FROM STDIN")?;
            for id in from..to {
                std::io::Write::write_all(&mut writer, format!("{id}\n").as_bytes()).unwrap();
            }
            writer.finish().map(|_| ())
        };
        over(copy(51, 52));
        world
            .session("acme.owner")
            .run("DELETE FROM items WHERE id < 6");
        copy(51, 53).unwrap();
        agrees(&world, there(&world, "items"));
        assert!(there(&world, "items") > 2);
        // Another organization has no quota here.
        world
            .session("globex.owner")
            .run("INSERT INTO items (id) SELECT generate_series(1001, 1100)");
    }
}

#[test]
fn what_is_rolled_back_is_given_back() {
    let world = with_quota(10);
    let mut s = world.session("acme.owner");
    s.run("BEGIN; INSERT INTO items (id) SELECT generate_series(1, 10); ROLLBACK");
    agrees(&world, 0);
    s.run("BEGIN; INSERT INTO items (id) SELECT generate_series(1, 4)");
    s.run("SAVEPOINT a; INSERT INTO items (id) SELECT generate_series(5, 8)");
    over(s.attempt_within("INSERT INTO items (id) SELECT generate_series(11, 13)"));
    s.run("ROLLBACK TO a");
    s.run("INSERT INTO items (id) SELECT generate_series(11, 16)");
    over(s.attempt_within("INSERT INTO items (id) VALUES (20)"));
    s.run("COMMIT");
    agrees(&world, 10);
    // Its own deletes make room at once, and only while they stand.
    s.run("BEGIN; DELETE FROM items WHERE id <= 4; INSERT INTO items (id) SELECT generate_series(21, 24)");
    s.run("SAVEPOINT b; DELETE FROM items WHERE id > 20; SAVEPOINT c; INSERT INTO items (id) VALUES (31); ROLLBACK TO b");
    over(s.attempt_within("INSERT INTO items (id) VALUES (32)"));
    s.run("COMMIT");
    agrees(&world, 10);
    // Blocks by the hundred, every second one rolled back.
    world.superuser().run(&format!(
        "SELECT tenancy.set_quota('{}', 'items', 511)",
        world.acme.id
    ));
    s.run(
        "DO $$ BEGIN
             FOR i IN 1..1000 LOOP
                 BEGIN
                     INSERT INTO items (id) VALUES (1000 + i);
                     IF i % 2 = 0 THEN RAISE EXCEPTION 'x'; END IF;
                 EXCEPTION WHEN raise_exception THEN NULL;
                 END;
             END LOOP;
         END $$",
    );
    agrees(&world, 510);
    over(s.attempt("INSERT INTO items (id) VALUES (1), (2)"));
    // Nested savepoints, released and rolled back from within.
    s.run("BEGIN; DELETE FROM items WHERE id > 1000");
    for level in 0..40 {
        s.run(&format!(
            "SAVEPOINT s{level}; INSERT INTO items (id) VALUES ({})",
            2000 + level
        ));
    }
    s.run("RELEASE s20; ROLLBACK TO s10; COMMIT");
    agrees(&world, 20);
}

#[test]
fn uncommitted_rows_hold_their_room_and_nobody_waits() {
    let world = with_quota(10);
    let (mut a, mut b) = (world.session("acme.owner"), world.session("acme.admin"));
    for s in [&mut a, &mut b] {
        s.run("SET lock_timeout = '2s'; SET statement_timeout = '5s'");
    }
    a.run("BEGIN; INSERT INTO items (id) SELECT generate_series(1, 8)");
    b.run("INSERT INTO items (id) VALUES (11), (12)");
    assert_eq!(
        over(b.attempt("INSERT INTO items (id) VALUES (13)")),
        (2, 8, 1)
    );
    assert_eq!(
        b.rows("SELECT used, held, remaining FROM tenancy.quotas"),
        [["2", "8", "0"].map(|n| Some(n.to_string()))]
    );
    a.run("ROLLBACK");
    b.run("INSERT INTO items (id) SELECT generate_series(13, 20)");
    agrees(&world, 10);
    // What somebody deletes frees nothing before it is committed.
    a.run("BEGIN; DELETE FROM items WHERE id > 15");
    over(b.attempt("INSERT INTO items (id) VALUES (21)"));
    a.run("COMMIT");
    b.run("INSERT INTO items (id) SELECT generate_series(21, 25)");
    agrees(&world, 10);
    // Rows that a savepoint of his may still bring back are held.
    a.run("BEGIN; DELETE FROM items; INSERT INTO items (id) SELECT generate_series(31, 40); SAVEPOINT s; DELETE FROM items");
    over(b.attempt("INSERT INTO items (id) VALUES (41)"));
    a.run("COMMIT");
    b.run("INSERT INTO items (id) SELECT generate_series(41, 50)");
    agrees(&world, 10);
    // Prepared transactions hold theirs.
    b.run("DELETE FROM items");
    a.run("BEGIN; INSERT INTO items (id) SELECT generate_series(51, 59)");
    a.run(&format!("PREPARE TRANSACTION '{}'", world.db.name));
    assert_eq!(
        over(b.attempt("INSERT INTO items (id) VALUES (61), (62)")),
        (0, 9, 2)
    );
    b.run("INSERT INTO items (id) VALUES (61)");
    world
        .superuser()
        .run(&format!("COMMIT PREPARED '{}'", world.db.name));
    agrees(&world, 10);
    over(b.attempt("INSERT INTO items (id) VALUES (62)"));
    // In an old snapshot, too, it is the newest count that holds.
    b.run("DELETE FROM items");
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        a.run(&format!(
            "BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM items"
        ));
        b.run("INSERT INTO items (id) SELECT generate_series(71, 80)");
        over(a.attempt("INSERT INTO items (id) VALUES (90)"));
        a.run("ROLLBACK");
        b.run("DELETE FROM items");
    }
}

#[test]
fn the_dba_sets_them_and_members_see_them() {
    let world = with_quota(5);
    let acme = world.acme.id;
    for who in ["acme.owner", "acme.admin", "globex.owner"] {
        let mut s = world.session(who);
        for sql in [
            format!("SELECT tenancy.set_quota('{acme}', 'items', 1000)"),
            "SELECT * FROM tenancy.recount_quota()".into(),
        ] {
            refused(s.attempt(&sql), "42501");
        }
        fails(
            s.attempt("UPDATE tenancy.quota_limits SET maximum = 1000"),
            "42501",
        );
        fails(s.attempt("SELECT * FROM tenancy.quota_counters"), "42501");
    }
    let quotas = "SELECT table_name || ' ' || maximum || ' ' || used FROM tenancy.quotas";
    assert_eq!(world.session("acme.viewer").column(quotas), ["items 5 0"]);
    assert!(world.session("globex.owner").column(quotas).is_empty());
    refused(
        world
            .session("globex.owner")
            .attempt(&format!("SELECT tenancy.list_quotas('{acme}')")),
        "42501",
    );
    assert_eq!(world.superuser().column(quotas), ["items 5 0"]);

    let mut dba = world.superuser();
    let mut s = world.session("acme.owner");
    s.run("INSERT INTO items (id) SELECT generate_series(1, 5)");
    // Lowered: nothing goes, more is refused until there is less.
    dba.run(&format!("SELECT tenancy.set_quota('{acme}', 'items', 2)"));
    agrees(&world, 5);
    over(s.attempt("INSERT INTO items (id) VALUES (6)"));
    s.run("UPDATE items SET n = 9; DELETE FROM items WHERE id > 2");
    over(s.attempt("INSERT INTO items (id) VALUES (6)"));
    s.run("DELETE FROM items WHERE id = 2; INSERT INTO items (id) VALUES (6)");
    // In an open transaction the new limit holds at the next statement.
    s.run("BEGIN; SELECT 1");
    dba.run(&format!("SELECT tenancy.set_quota('{acme}', 'items', 3)"));
    s.run("INSERT INTO items (id) VALUES (7)");
    dba.run(&format!("SELECT tenancy.set_quota('{acme}', 'items', 0)"));
    over(s.attempt("INSERT INTO items (id) VALUES (8)"));
    s.run("ROLLBACK");
    // None: as much as there is room; set again, what came meanwhile is counted.
    dba.run(&format!(
        "SELECT tenancy.set_quota('{acme}', 'items', NULL)"
    ));
    s.run("INSERT INTO items (id) SELECT generate_series(10, 30)");
    assert!(s.column(quotas).is_empty());
    dba.run(&format!("SELECT tenancy.set_quota('{acme}', 'items', 24)"));
    agrees(&world, 23);
    s.run("INSERT INTO items (id) VALUES (31)");
    over(s.attempt("INSERT INTO items (id) VALUES (32)"));
    // Set in a transaction that wrote, or that is rolled back.
    dba.run(&format!(
        "BEGIN; SELECT tenancy.set_quota('{acme}', 'items', NULL); COMMIT; BEGIN; SET LOCAL row_security = off;
         INSERT INTO items (id, org_id) VALUES (33, '{acme}'); SELECT tenancy.set_quota('{acme}', 'items', 25);
         INSERT INTO items (id, org_id) VALUES (34, '{acme}'); ROLLBACK"
    ));
    s.run("INSERT INTO items (id) VALUES (41), (42)");
    dba.run(&format!(
        "BEGIN; SET LOCAL row_security = off;
         INSERT INTO items (id, org_id) VALUES (33, '{acme}'); SELECT tenancy.set_quota('{acme}', 'items', 28);
         INSERT INTO items (id, org_id) VALUES (34, '{acme}'); COMMIT"
    ));
    agrees(&world, 28);
    over(s.attempt("INSERT INTO items (id) VALUES (43)"));
    // It is written down.
    let log = world.session("acme.owner").column(
        "SELECT coalesce(old ->> 'maximum', '-') || ' ' || coalesce(new ->> 'maximum', '-') FROM tenancy.audit_log
         WHERE operation = 'set_quota' ORDER BY at, n",
    );
    assert_eq!(
        log,
        ["- 5", "5 2", "2 3", "3 0", "0 -", "- 24", "24 -", "- 28"]
    );

    for sql in [
        format!("SELECT tenancy.set_quota('{acme}', 'items', -1)"),
        format!("SELECT tenancy.set_quota('{acme}', 'items', 1, 'calls')"),
        format!("SELECT tenancy.set_quota('{acme}', maximum => 1)"),
        format!("SELECT tenancy.set_quota('{acme}', metric => 'Calls', maximum => 1)"),
        format!(
            "SELECT tenancy.set_quota('{acme}', metric => 'calls', maximum => 1, period => 'decade')"
        ),
    ] {
        refused(dba.attempt(&sql), "22023");
    }
    dba.run("CREATE TABLE open (id int)");
    refused(
        dba.attempt(&format!("SELECT tenancy.set_quota('{acme}', 'open', 1)")),
        "55000",
    );
    refused(
        dba.attempt("SELECT tenancy.set_quota(gen_random_uuid(), 'items', 1)"),
        "42501",
    );
}

/// A quota set while others write: who wrote before it is counted, who writes later is held to it.
#[test]
fn setting_a_quota_under_writers_misses_nobody() {
    let world = with_quota(1);
    let mut dba = world.superuser();
    dba.run(&format!(
        "SELECT tenancy.set_quota('{}', 'items', NULL)",
        world.acme.id
    ));
    let next = AtomicI64::new(1);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let mut s = world.session("acme.owner");
            let (next, stop) = (&next, &stop);
            scope.spawn(move || {
                while !stop.load(SeqCst) {
                    let id = next.fetch_add(3, SeqCst);
                    s.run("BEGIN");
                    let done = s
                        .attempt(&format!(
                            "INSERT INTO items (id) VALUES ({id}), ({})",
                            id + 1
                        ))
                        .and_then(|_| {
                            s.attempt(&format!("INSERT INTO items (id) VALUES ({})", id + 2))
                        });
                    match done {
                        Ok(_) => s.run(if id % 4 == 0 { "ROLLBACK" } else { "COMMIT" }),
                        Err(e) => {
                            over(Err::<u64, _>(e));
                            s.run("ROLLBACK")
                        }
                    };
                }
            });
        }
        for round in 1..=few_or_many("quotas set under writers", 6, 40) {
            while there(&world, "items") < 60 {
                std::thread::yield_now();
            }
            dba.run(&format!(
                "SELECT tenancy.set_quota('{}', 'items', 50)",
                world.acme.id
            ));
            let now = there(&world, "items");
            assert_eq!(used(&world), now, "round {round}");
            let mut s = world.session("acme.owner");
            over(s.attempt(&format!("INSERT INTO items (id) VALUES (-{round})")));
            s.run("DELETE FROM items");
            dba.run(&format!(
                "SELECT tenancy.set_quota('{}', 'items', NULL)",
                world.acme.id
            ));
        }
        stop.store(true, SeqCst);
    });
}

/// Single rows from 32 clients: all the room is given away, and no row more.
#[test]
fn thirty_two_writers_fill_it_to_the_last_row() {
    for options in ["audit => false", "audit => true"] {
        let limit = 200;
        let world = with_table(options, limit);
        let start = Barrier::new(32);
        let next = AtomicI64::new(1);
        let stored: i64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..32)
                .map(|_| {
                    let mut s = world.session("acme.owner");
                    let (start, next) = (&start, &next);
                    scope.spawn(move || {
                        start.wait();
                        let (mut stored, mut refusals) = (0, 0);
                        while refusals < 3 {
                            let id = next.fetch_add(1, SeqCst);
                            match s.attempt(&format!("INSERT INTO items (id) VALUES ({id})")) {
                                Ok(n) => stored += n as i64,
                                Err(e) => {
                                    let (used, held, by) = over(Err::<u64, _>(e));
                                    assert!(used + held + by > limit, "{used} {held} {by}");
                                    assert!(used <= limit);
                                    // What is held may be rolled back; here it never is.
                                    refusals += 1;
                                }
                            }
                        }
                        stored
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().expect("a writer"))
                .sum()
        });
        assert_eq!(stored, limit);
        agrees(&world, limit);
    }
}

/// 32 clients insert, in bulk too, delete, roll back, whole and in part; an observer looks at what is committed.
#[test]
fn thirty_two_writers_never_pass_the_limit() {
    let limit = 60;
    let rounds = few_or_many("transactions of each writer", 25, 400);
    let world = with_quota(limit);
    let next = AtomicI64::new(1);
    let (stop, refusals, rolled) = (AtomicBool::new(false), AtomicI64::new(0), AtomicI64::new(0));
    let mut seen = 0;
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..32_u64)
            .map(|i| {
                let mut s = world.session("acme.owner");
                let (next, refusals, rolled) = (&next, &refusals, &rolled);
                scope.spawn(move || {
                    let mut random = Random::new(i + 1);
                    for _ in 0..rounds {
                        s.run("BEGIN");
                        let mut failed = false;
                        for step in 0..1 + random.next(4) {
                            let count = 1 + random.next(9) as i64;
                            let first = next.fetch_add(count, SeqCst);
                            let sql = match random.next(4) {
                                0 => format!("DELETE FROM items WHERE id IN (SELECT id FROM items LIMIT {count} FOR UPDATE SKIP LOCKED)"),
                                1 => format!("INSERT INTO items (id) VALUES ({first})"),
                                _ => format!("INSERT INTO items (id) SELECT generate_series({first}, {})", first + count - 1),
                            };
                            s.run(&format!("SAVEPOINT s{step}"));
                            match s.attempt(&sql) {
                                Ok(_) if random.next(4) == 0 => {
                                    s.run(&format!("ROLLBACK TO s{step}"));
                                    rolled.fetch_add(1, SeqCst);
                                }
                                Ok(_) if random.next(2) == 0 => {
                                    s.run(&format!("RELEASE s{step}"));
                                }
                                Ok(_) => {}
                                Err(e) => {
                                    let (used, held, by) = over(Err::<u64, _>(e));
                                    assert!(used + held + by > limit, "{used} {held} {by}");
                                    refusals.fetch_add(1, SeqCst);
                                    s.run(&format!("ROLLBACK TO s{step}"));
                                    failed = true;
                                }
                            }
                        }
                        s.run(match random.next(5) {
                            0 => "ROLLBACK",
                            _ if failed && random.next(2) == 0 => "ROLLBACK",
                            _ => "COMMIT",
                        });
                    }
                })
            })
            .collect();
        let observer = scope.spawn(|| {
            let mut dba = world.break_glass();
            let mut most = 0;
            while !stop.load(SeqCst) {
                most = most.max(dba.count("SELECT count(*) FROM items"));
            }
            most
        });
        let results: Vec<_> = writers.into_iter().map(|w| w.join()).collect();
        stop.store(true, SeqCst);
        seen = observer.join().expect("the observer");
        assert!(results.iter().all(Result::is_ok));
    });
    assert!(seen <= limit, "{seen} rows of {limit} were committed");
    assert!(seen > limit / 2 && refusals.load(SeqCst) > 0 && rolled.load(SeqCst) > 0);
    let now = there(&world, "items");
    agrees(&world, now);
    // All the room that is left is to be had, and not a row more.
    let mut s = world.session("acme.owner");
    let first = next.load(SeqCst);
    over(s.attempt(&format!(
        "INSERT INTO items (id) SELECT generate_series({first}, {first} + {limit} - {now})"
    )));
    if now < limit {
        s.run(&format!(
            "INSERT INTO items (id) SELECT generate_series({first}, {first} + {limit} - {now} - 1)"
        ));
    }
    agrees(&world, limit);
}

/// More writers at once than a counter has places: they wait for one another's end, and go on.
#[test]
fn more_transactions_than_places() {
    let world = with_quota(1_000);
    let mut open: Vec<Session> = (0..80).map(|_| world.session("acme.owner")).collect();
    for (i, s) in open.iter_mut().enumerate() {
        s.run(&format!("BEGIN; INSERT INTO items (id) VALUES ({i})"));
    }
    let mut late = world.session("acme.owner");
    let waiter = std::thread::spawn(move || late.run("INSERT INTO items (id) VALUES (1000)"));
    let mut watch = world.superuser();
    while watch.count("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'transactionid'")
        == 0
    {
        assert!(!waiter.is_finished(), "it found a place");
        std::thread::yield_now();
    }
    for (i, s) in open.iter_mut().enumerate() {
        s.run(if i % 2 == 0 { "COMMIT" } else { "ROLLBACK" });
    }
    waiter.join().expect("the late one");
    agrees(&world, 41);
}

#[test]
fn partitions_children_and_cascades_count_with_their_table() {
    let world = World::people();
    let acme = world.acme.id;
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE TABLE parents (id int PRIMARY KEY, org_id uuid);
         CREATE TABLE items (id int, org_id uuid, n int DEFAULT 0, parent int REFERENCES parents ON DELETE CASCADE) PARTITION BY RANGE (n);
         CREATE TABLE items_0 PARTITION OF items FOR VALUES FROM (0) TO (10);
         CREATE TABLE items_1 PARTITION OF items FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (n);
         CREATE TABLE items_10 PARTITION OF items_1 FOR VALUES FROM (10) TO (20);
         CREATE TABLE base (id int, org_id uuid); CREATE TABLE child () INHERITS (base);
         GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
         SELECT tenancy.protect(t, audit => false) FROM unnest('{{parents,items,base}}'::regclass[]) t;
         SELECT tenancy.set_quota('{acme}', t, 10) FROM unnest('{{items,base}}'::regclass[]) t;
         SELECT tenancy.set_quota('{acme}', 'items_0', 6);"
    ));
    let counted = |table: &str| {
        world.superuser().count(&format!(
            "SELECT used FROM tenancy.list_quotas('{acme}') WHERE table_name = '{table}'::regclass"
        ))
    };
    let mut s = world.session("acme.owner");
    s.run("INSERT INTO parents (id) VALUES (1), (2)");
    s.run("INSERT INTO items (id, n, parent) SELECT i, 1, 1 FROM generate_series(1, 5) i");
    s.run("INSERT INTO items_10 (id, n) VALUES (6, 12)");
    s.run("INSERT INTO items_1 (id, n) VALUES (7, 13)");
    assert_eq!((counted("items"), counted("items_0")), (7, 5));
    // To another partition: nothing for the whole, one for the part.
    s.run("UPDATE items SET n = 5 WHERE id = 6");
    assert_eq!((counted("items"), counted("items_0")), (7, 6));
    over(s.attempt("UPDATE items SET n = 5 WHERE id = 7"));
    over(s.attempt("INSERT INTO items_0 (id, n) VALUES (8, 1)"));
    s.run("INSERT INTO items (id, n) SELECT i, 15 FROM generate_series(8, 10) i");
    over(s.attempt("INSERT INTO items_10 (id, n) VALUES (11, 15)"));
    over(s.attempt("INSERT INTO items (id, n) VALUES (11, 15)"));
    assert_eq!((counted("items"), there(&world, "items")), (10, 10));
    // The parent's children go with it, and give back.
    s.run("DELETE FROM parents WHERE id = 1");
    assert_eq!((counted("items"), there(&world, "items")), (5, 5));
    assert_eq!(counted("items_0"), 1);
    s.run("INSERT INTO base (id) SELECT generate_series(1, 4)");
    s.run("INSERT INTO child (id) SELECT generate_series(1, 6)");
    over(s.attempt("INSERT INTO child (id) VALUES (7)"));
    over(s.attempt("INSERT INTO base (id) VALUES (7)"));
    s.run("DELETE FROM base WHERE id < 3");
    assert_eq!((counted("base"), there(&world, "base")), (6, 6));

    // A partition that comes with rows, and goes with them.
    dba.run(&format!(
        "CREATE TABLE items_2 (LIKE items); INSERT INTO items_2 (id, org_id, n) SELECT i, '{acme}', 25 FROM generate_series(1, 4) i;
         ALTER TABLE items ATTACH PARTITION items_2 FOR VALUES FROM (20) TO (30)"
    ));
    assert_eq!((counted("items"), there(&world, "items")), (9, 9));
    s.run("INSERT INTO items (id, n) VALUES (41, 25)");
    over(s.attempt("INSERT INTO items (id, n) VALUES (42, 25)"));
    world
        .break_glass()
        .run("ALTER TABLE items DETACH PARTITION items_2; DROP TABLE items_2");
    assert_eq!((counted("items"), there(&world, "items")), (5, 5));
    s.run("INSERT INTO items (id, n) SELECT i, 15 FROM generate_series(51, 55) i");
    over(s.attempt("INSERT INTO items (id, n) VALUES (56, 15)"));
    // A table that is gone takes its quota with it.
    dba.run("DROP TABLE base CASCADE");
    assert_eq!(dba.count("SELECT count(*) FROM tenancy.quota_limits"), 2);
}

#[test]
fn columns_of_every_type() {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run(&format!(
        "SELECT tenancy.set_external_key('{}', '7')",
        world.acme.id
    ));
    for (kind, options) in [
        ("text", "audit => false"),
        ("varchar(20)", "audit => true"),
        ("int", "audit => false"),
        ("bigint", "audit => true"),
    ] {
        dba.run(&format!(
            "CREATE TABLE items (id int, org_id {kind}, n int); GRANT ALL ON items TO PUBLIC;
             INSERT INTO items VALUES (1, '7', 1), (2, '8', 2);
             SELECT tenancy.protect('items', {options}); SELECT tenancy.set_quota('{}', 'items', 3)",
            world.acme.id
        ));
        agrees(&world, 1);
        let mut s = world.session("acme.owner");
        s.run("INSERT INTO items (id) VALUES (3), (4)");
        over(s.attempt("INSERT INTO items (id) VALUES (5)"));
        s.run("DELETE FROM items WHERE id = 4");
        agrees(&world, 2);
        dba.run("DROP TABLE items");
    }
}

#[test]
fn who_passes_the_rules_is_counted() {
    let world = with_quota(5);
    let acme = world.acme.id;
    let mut glass = world.break_glass();
    glass.run(&format!(
        "INSERT INTO items (id, org_id) SELECT i, '{acme}' FROM generate_series(1, 8) i"
    ));
    agrees(&world, 8);
    let mut s = world.session("acme.owner");
    over(s.attempt("INSERT INTO items (id) VALUES (9)"));
    glass.run(&format!(
        "UPDATE items SET org_id = '{}' WHERE id <= 4",
        world.globex.id
    ));
    agrees(&world, 4);
    s.run("INSERT INTO items (id) VALUES (9)");
    over(s.attempt("INSERT INTO items (id) VALUES (10)"));
    // TRUNCATE, rolled back and not.
    glass.run("BEGIN; TRUNCATE items; ROLLBACK");
    agrees(&world, 5);
    glass.run("TRUNCATE items");
    agrees(&world, 0);
    // As a replica's apply does, with the triggers of the table that fire always.
    let mut replica = world.superuser();
    replica.run(&format!(
        "SET session_replication_role = replica; SET row_security = off;
         INSERT INTO items (id, org_id) SELECT i, '{acme}' FROM generate_series(1, 6) i"
    ));
    agrees(&world, 6);
    over(s.attempt("INSERT INTO items (id) VALUES (10)"));
    // What passed the triggers themselves is counted when somebody asks for it.
    glass.run("ALTER TABLE items DISABLE TRIGGER USER");
    glass.run("DELETE FROM items WHERE id > 2");
    glass.run("ALTER TABLE items ENABLE ALWAYS TRIGGER \"0_tenancy_row\"; ALTER TABLE items ENABLE ALWAYS TRIGGER \"0_tenancy_statement\"; ALTER TABLE items ENABLE ALWAYS TRIGGER \"0_tenancy_truncate\"");
    assert_eq!(used(&world), 6);
    assert_eq!(
        world
            .superuser()
            .rows("SELECT table_name, was, used FROM tenancy.recount_quota()"),
        [["items", "6", "2"].map(|t| Some(t.to_string()))]
    );
    agrees(&world, 2);
    // A transaction that is open keeps its part when it is counted anew, since the count waits for it.
    s.run("BEGIN; INSERT INTO items (id) VALUES (21)");
    let mut dba = world.superuser();
    let counting =
        std::thread::spawn(move || dba.rows("SELECT was, used FROM tenancy.recount_quota()"));
    let mut watch = world.superuser();
    while watch.count("SELECT count(*) FROM pg_locks WHERE NOT granted") == 0 {
        assert!(!counting.is_finished(), "it does not wait");
        std::thread::yield_now();
    }
    s.run("COMMIT");
    assert_eq!(
        counting.join().expect("the count"),
        [["3", "3"].map(|t| Some(t.to_string()))]
    );
    // In the transaction of who counts, his own rows stay his own.
    glass.run(&format!(
        "BEGIN; INSERT INTO items (id, org_id) VALUES (31, '{acme}'); SELECT * FROM tenancy.recount_quota(); ROLLBACK"
    ));
    agrees(&world, 3);
    // Unprotected nothing is counted; protected again, everything is.
    glass.run(&format!(
        "SELECT tenancy.unprotect('items');
         INSERT INTO items (id, org_id) VALUES (32, '{acme}');
         SELECT tenancy.protect('items', audit => false)"
    ));
    agrees(&world, 4);
    s.run("INSERT INTO items (id) VALUES (33)");
    over(s.attempt("INSERT INTO items (id) VALUES (34)"));
}

/// Rules and views, which give the executor's count of rows another meaning.
#[test]
fn rules_and_views_are_counted_once() {
    let world = with_quota(10);
    let mut dba = world.superuser();
    dba.run(
        "SET tenancy.on_drift = 'warn'; CREATE TABLE log (id int); GRANT ALL ON log TO PUBLIC;
         CREATE VIEW shown WITH (security_invoker = true) AS SELECT * FROM items; GRANT ALL ON shown TO PUBLIC;
         CREATE RULE also AS ON INSERT TO log DO ALSO INSERT INTO items (id) VALUES (new.id);",
    );
    let mut s = world.session("acme.owner");
    s.run("INSERT INTO log VALUES (1), (2)");
    agrees(&world, 2);
    s.run("INSERT INTO shown (id) VALUES (3), (4), (5)");
    agrees(&world, 5);
    // Rows that a trigger of the application's leaves out or adds.
    dba.run(
        "CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN IF new.id % 2 = 1 THEN RETURN NULL; END IF; RETURN new; END $$;
         CREATE TRIGGER odd BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION odd();
         CREATE FUNCTION twice() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN IF new.id < 1000 THEN INSERT INTO items (id) VALUES (new.id + 1000); END IF; RETURN NULL; END $$;
         CREATE TRIGGER twice AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION twice();",
    );
    s.run("INSERT INTO items (id) SELECT generate_series(11, 14)");
    agrees(&world, 9);
    over(s.attempt("INSERT INTO items (id) VALUES (20)"));
    agrees(&world, 9);
    s.run("INSERT INTO items (id) VALUES (2000)");
    agrees(&world, 10);
}

#[test]
fn a_large_statement_notices_early() {
    let world = with_table("audit => true", 5_000);
    let mut s = world.session("acme.owner");
    s.run("INSERT INTO items (id) SELECT generate_series(1, 4000)");
    let (used, held, by) =
        over(s.attempt("INSERT INTO items (id) SELECT generate_series(10001, 100000)"));
    assert_eq!(held, 0);
    assert!(used + by <= 9_000, "it went on to {used} and {by}");
    agrees(&world, 4_000);
    s.run("DELETE FROM items");
    agrees(&world, 0);
    s.run("INSERT INTO items (id) SELECT generate_series(1, 5000)");
    agrees(&world, 5_000);
}

#[test]
fn a_metric_has_its_quota_by_period() {
    let world = World::people();
    let acme = world.acme.id;
    let mut dba = world.superuser();
    let mut app = world.session_app();
    app.run(&format!("SET app.current_org = '{acme}'"));
    app.run("SELECT tenancy.record_usage('calls', 10, at => '2026-11-05 00:00Z'), tenancy.record_usage('calls', 1, at => '2026-12-05 00:00Z')");
    dba.run(&format!(
        "SELECT tenancy.set_quota('{acme}', metric => 'calls', maximum => 12)"
    ));
    let record = |quantity: &str, at: &str| {
        format!("SELECT tenancy.record_usage('calls', {quantity}, at => '{at}')")
    };
    app.run(&record("1.5", "2026-11-30 23:59:59Z"));
    let refusal = refused(app.attempt(&record("0.500001", "2026-11-01 00:00Z")), OVER);
    assert_eq!(
        refusal.message(),
        "quota exceeded: the organization may use at most 12 of calls a month"
    );
    app.run(&record("0.5", "2026-11-01 00:00Z"));
    refused(app.attempt(&record("0.0000001", "2026-11-15 00:00Z")), OVER);
    // Corrected, there is room again; another month has its own.
    app.run(&record("-2", "2026-11-15 00:00Z"));
    app.run(&record("2", "2026-11-15 00:00Z"));
    app.run(&record("11", "2026-12-31 23:00Z"));
    refused(app.attempt(&record("1", "2026-12-31 23:00Z")), OVER);
    // A repeated call is not counted twice, and other metrics are free.
    let keyed = "SELECT tenancy.record_usage('calls', 3, at => '2027-01-01 00:00Z', idempotency_key => 'k')";
    for _ in 0..10 {
        app.run(keyed);
    }
    app.run("SELECT tenancy.record_usage('bytes', 1000000)");
    refused(app.attempt(&record("1e14", "2026-11-15 00:00Z")), "22023");
    // In all.
    dba.run(&format!(
        "SELECT tenancy.set_quota('{acme}', metric => 'bytes', maximum => 1000000, period => 'total')"
    ));
    refused(
        app.attempt("SELECT tenancy.record_usage('bytes', 1, at => '2020-01-01')"),
        OVER,
    );
    assert_eq!(
        world.session("acme.viewer").rows(
            "SELECT metric, period, maximum, used, remaining FROM tenancy.quotas WHERE metric = 'bytes'"
        ),
        [["bytes", "total", "1000000", "1000000", "0"].map(|t| Some(t.to_string()))]
    );
}

#[test]
fn a_metric_is_exact_under_32_writers() {
    let world = World::people();
    let acme = world.acme.id;
    world.superuser().run(&format!(
        "SELECT tenancy.set_quota('{acme}', metric => 'calls', maximum => 100, period => 'total')"
    ));
    let recorded: i64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..32)
            .map(|i| {
                let mut app = world.session_app();
                app.run(&format!("SET app.current_org = '{acme}'"));
                scope.spawn(move || {
                    let mut recorded = 0;
                    for round in 0..10 {
                        app.run("BEGIN");
                        match app.attempt("SELECT tenancy.record_usage('calls', 1)") {
                            Ok(_) if (i + round) % 5 == 0 => app.run("ROLLBACK"),
                            Ok(_) => {
                                recorded += 1;
                                app.run("COMMIT")
                            }
                            Err(e) => {
                                fails(Err::<u64, _>(e), OVER);
                                app.run("ROLLBACK")
                            }
                        };
                    }
                    recorded
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().expect("a service"))
            .sum()
    });
    let mut dba = world.break_glass();
    assert_eq!(
        dba.count("SELECT sum(quantity) FROM tenancy.usage_records"),
        recorded
    );
    let mut app = world.session_app();
    app.run(&format!("SET app.current_org = '{acme}'"));
    for _ in recorded..100 {
        app.run("SELECT tenancy.record_usage('calls', 1)");
    }
    fails(app.attempt("SELECT tenancy.record_usage('calls', 1)"), OVER);
}

/// A cluster of its own, to crash.
struct Apart {
    cluster: Arc<Cluster>,
    database: String,
}

impl Apart {
    fn new() -> Apart {
        let cluster = Arc::new(Cluster::start());
        let db = Db::empty(cluster.clone());
        db.superuser().run(
            "CREATE EXTENSION pg_tenancy;
             CREATE TABLE items (id int PRIMARY KEY, org_id uuid); SELECT tenancy.protect('items', audit => false);
             SELECT tenancy.create_org('Acme', 'acme', owner => tenancy.create_user('a@a.test'));
             SET row_security = off;
             SELECT tenancy.set_quota(id, 'items', 10) FROM tenancy.orgs",
        );
        Apart {
            cluster,
            database: db.name,
        }
    }

    /// A session in acme, as soon as the server takes one.
    fn session(&self) -> Session {
        for attempt in 0.. {
            let config = self.cluster.config("postgres", &self.database);
            match config.connect(postgres::NoTls) {
                Ok(client) => {
                    let mut session = Session::new(client);
                    session.run("SET row_security = off");
                    let acme = session.text("SELECT id FROM tenancy.orgs");
                    session.run(&format!(
                        "SET row_security = on; SET app.current_org = '{acme}'"
                    ));
                    return session;
                }
                Err(e) if attempt > 600 => panic!("{e:?}"),
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(50)),
            }
        }
        unreachable!()
    }

    fn restart(&self, how: &str) {
        let done = self
            .cluster
            .program("pg_ctl")
            .arg("-D")
            .arg(self.cluster.dir().join("data"))
            .arg("-l")
            .arg(self.cluster.dir().join("log"))
            .args(["-w", "-t", "60", "-m", how, "restart"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .expect("pg_ctl");
        assert!(done.success(), "restart {how}");
    }
}

/// kill -9 of a writer that holds room: the server restarts, and the room is there again.
#[test]
fn a_killed_writer_gives_back() {
    let apart = Apart::new();
    let mut s = apart.session();
    s.run("INSERT INTO items (id) VALUES (1), (2)");
    for round in 0..few_or_many("writers killed", 2, 10) {
        let mut victim = apart.session();
        let pid = victim.text("SELECT pg_backend_pid()");
        victim.run("BEGIN; DELETE FROM items WHERE id = 1; INSERT INTO items (id) SELECT generate_series(11, 19)");
        let mut s = apart.session();
        over(s.attempt("INSERT INTO items (id) VALUES (3)"));
        let killed = std::process::Command::new("kill")
            .args(["-9", &pid])
            .status()
            .unwrap();
        assert!(killed.success());
        while s.attempt("SELECT 1").is_ok() {}
        let mut s = apart.session();
        assert_eq!(
            s.count("SELECT used FROM tenancy.quotas"),
            2,
            "round {round}"
        );
        s.run("INSERT INTO items (id) SELECT generate_series(11, 18)");
        over(s.attempt("INSERT INTO items (id) VALUES (3)"));
        s.run("DELETE FROM items WHERE id > 10");
    }
    // A session that is ended from outside gives back at once, without a restart.
    let mut victim = apart.session();
    let pid = victim.text("SELECT pg_backend_pid()");
    victim.run("BEGIN; INSERT INTO items (id) SELECT generate_series(11, 18)");
    let mut s = apart.session();
    over(s.attempt("INSERT INTO items (id) VALUES (3)"));
    s.run(&format!("SELECT pg_terminate_backend({pid}, 10000)"));
    s.run("INSERT INTO items (id) SELECT generate_series(11, 18)");
    over(s.attempt("INSERT INTO items (id) VALUES (3)"));
}

/// A clean restart keeps the count; after a crash it is made anew, and a transaction that was prepared before is not
/// forgotten by it.
#[test]
fn restarts_keep_the_limit() {
    let apart = Apart::new();
    let mut s = apart.session();
    s.run("INSERT INTO items (id) SELECT generate_series(1, 6)");
    s.run("BEGIN; INSERT INTO items (id) VALUES (11), (12); PREPARE TRANSACTION 'two'");
    drop(s);
    apart.restart("fast");
    let mut s = apart.session();
    assert_eq!(
        s.rows("SELECT used, held FROM tenancy.quotas"),
        [["6", "2"].map(|n| Some(n.to_string()))]
    );
    over(s.attempt("INSERT INTO items (id) SELECT generate_series(21, 23)"));
    s.run("INSERT INTO items (id) VALUES (21)");
    drop(s);
    apart.restart("immediate");
    let mut s = apart.session();
    refused(s.attempt("INSERT INTO items (id) VALUES (31)"), "55000");
    refused(s.attempt("DELETE FROM items"), "55000");
    s.run("COMMIT PREPARED 'two'");
    over(s.attempt("INSERT INTO items (id) VALUES (31), (32)"));
    s.run("INSERT INTO items (id) VALUES (31)");
    assert_eq!(s.count("SELECT count(*) FROM items"), 10);
    over(s.attempt("INSERT INTO items (id) VALUES (32)"));
}

/// 32 writers right after a crash, when the count has to be made anew: by one of them, once.
#[test]
fn the_first_writers_after_a_crash_count_once() {
    let apart = Apart::new();
    apart
        .session()
        .run("INSERT INTO items (id) SELECT generate_series(1, 5)");
    for round in 0..few_or_many("crashes", 2, 8) {
        apart.restart("immediate");
        let start = Barrier::new(32);
        let stored: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..32)
                .map(|i| {
                    let mut s = apart.session();
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        s.attempt(&format!("INSERT INTO items (id) VALUES ({})", 100 + i))
                            .unwrap_or_else(|e| {
                                over(Err::<u64, _>(e));
                                0
                            })
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().expect("a writer"))
                .sum()
        });
        assert_eq!(stored, 5, "round {round}");
        let mut s = apart.session();
        assert_eq!(s.count("SELECT used FROM tenancy.quotas"), 10);
        s.run("DELETE FROM items WHERE id >= 100");
    }
}

#[test]
fn a_dump_carries_the_limit_and_the_count_is_made_anew() {
    let world = with_quota(10);
    world
        .session("acme.owner")
        .run("INSERT INTO items (id) SELECT generate_series(1, 8)");
    let cluster = &world.db.cluster;
    let file = cluster.file("quotas.dump");
    let path = file.to_str().unwrap();
    cluster.client_program(
        "pg_dump",
        &world.db.name,
        &["--format=custom", "--file", path],
    );
    let restored = world.moved_to(Db::empty(cluster.clone()));
    cluster.client_program("pg_restore", &restored.db.name, &["--exit-on-error", path]);
    agrees(&restored, 8);
    let mut s = restored.session("acme.owner");
    over(s.attempt("INSERT INTO items (id) VALUES (11), (12), (13)"));
    s.run("INSERT INTO items (id) VALUES (11), (12)");
    over(s.attempt("INSERT INTO items (id) VALUES (13)"));
    agrees(&restored, 10);
    // The one it was dumped from is as it was.
    agrees(&world, 8);
}
