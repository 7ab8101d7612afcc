//! Plans of tables with a project column (spec 9, 14): few projects are asked for one by one, so that an index's later columns
//! narrow the scan, and a plan made for some is right for others.

use pg_tenancy_tests::{Session, World};

/// Notes of the projects `a`, `b` (open) and `c` (restricted) of acme, 3,000 each, and of globex's `d`. A note's id names its
/// project by the thousands; `at` is the same in all.
struct Notes {
    world: World,
    ids: [String; 4],
}

fn notes() -> Notes {
    let world = World::people();
    let mut dba = world.superuser();
    dba.run("CREATE TABLE notes (id int PRIMARY KEY, org_id uuid NOT NULL, project_id uuid NOT NULL, at int NOT NULL, note text)");
    let (acme, globex) = (world.acme, world.globex);
    let ids = [
        (acme, "a", "open"),
        (acme, "b", "open"),
        (acme, "c", "restricted"),
        (globex, "d", "open"),
    ]
    .map(|(org, name, access)| {
        dba.text(&format!(
            "SELECT tenancy.create_project('{}', '{name}', '{access}')",
            org.id
        ))
    });
    for (n, id) in ids.iter().enumerate() {
        dba.run(&format!(
            "INSERT INTO notes SELECT {n} * 10000 + i, org_id, id, i, repeat('x', 100)
             FROM tenancy.projects, generate_series(1, 3000) i WHERE id = '{id}'"
        ));
    }
    dba.run(
        "CREATE INDEX by_project ON notes (org_id, project_id, at);
         GRANT SELECT ON notes TO PUBLIC;
         SELECT tenancy.protect('notes', project_column => 'project_id', audit => false)",
    );
    dba.run("VACUUM ANALYZE notes");
    Notes { world, ids }
}

impl Notes {
    /// Which projects' notes a query answers, and how many of them: `a2 c2`.
    fn seen(session: &mut Session, query: &str) -> String {
        let ids = session.column(query);
        let of = |n: i32| {
            let range = n * 10_000..(n + 1) * 10_000;
            let count = ids
                .iter()
                .filter(|id| range.contains(&id.parse::<i32>().unwrap()))
                .count();
            (count > 0).then(|| format!("{}{count}", ["a", "b", "c", "d"][n as usize]))
        };
        (0..4).filter_map(of).collect::<Vec<_>>().join(" ")
    }

    /// A transaction of the shared session, as someone who narrows it to a project.
    fn within(&self, app: &mut Session, who: &str, project: Option<usize>, query: &str) -> String {
        let org = if who.starts_with("globex") {
            self.world.globex
        } else {
            self.world.acme
        };
        self.world.begin(app, org, who);
        if let Some(project) = project {
            app.run(&format!(
                "SET LOCAL app.current_project = '{}'",
                self.ids[project]
            ));
        }
        let seen = Notes::seen(app, query);
        app.run("COMMIT");
        seen
    }
}

#[test]
fn a_narrowed_read_uses_the_columns_behind_the_project() {
    let n = notes();
    let mut owner = n.world.session("acme.owner");
    let mut member = n.world.session("acme.member");
    let day = "SELECT id FROM notes WHERE at >= 100 AND at < 103";
    let condition = |session: &mut Session| {
        let plan = session.explain("COSTS off", day);
        plan.lines()
            .find(|line| line.contains("Index Cond"))
            .unwrap_or_else(|| panic!("{plan}"))
            .to_string()
    };
    let range = condition(&mut owner);
    assert!(
        range.contains("project_from") && range.contains("project_to"),
        "{range}"
    );
    owner.run(&format!("SET app.current_project = '{}'", n.ids[0]));
    for session in [&mut owner, &mut member] {
        let few = condition(session);
        assert!(
            few.contains("project_id = ANY") && few.contains("at >= 100") && !few.contains("_from"),
            "{few}"
        );
        // What is read is what is asked for: one page of the index for each project, and not all of the projects'.
        let read = session.explain("ANALYZE, COSTS off, TIMING off, SUMMARY off, BUFFERS", day);
        assert!(!read.contains("Rows Removed"), "{read}");
        let hits: u32 = read
            .split("hit=")
            .nth(1)
            .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next())
            .and_then(|hits| hits.parse().ok())
            .unwrap_or_else(|| panic!("{read}"));
        assert!(hits < 20, "{read}");
    }
    assert_eq!(Notes::seen(&mut owner, day), "a3");
    assert_eq!(Notes::seen(&mut member, day), "a3 b3");
}

#[test]
fn a_plan_made_for_one_project_is_right_for_another_for_all_and_for_others() {
    let n = notes();
    let cases = [
        ("acme.owner", Some(0), "a2"),
        ("acme.owner", Some(1), "b2"),
        ("acme.owner", None, "a2 b2 c2"),
        ("acme.member", None, "a2 b2"),
        ("acme.member", Some(2), ""),
        ("acme.member", Some(0), "a2"),
        ("globex.owner", None, "d2"),
        ("stranger", None, ""),
        ("acme.owner", Some(2), "c2"),
    ];
    // Whoever comes first has the plan made.
    for first in [0, 2, 3, 4, 8] {
        let mut app = n.world.app();
        app.run(
            "SET plan_cache_mode = force_generic_plan;
             PREPARE reading(int, int) AS SELECT id FROM notes WHERE at >= $1 AND at < $2;
             PREPARE ordered(int, int) AS SELECT id FROM notes WHERE at >= $1 AND at < $2 ORDER BY project_id, at LIMIT 100",
        );
        for turn in 0..2 * cases.len() {
            let (who, project, seen) = cases[(first + turn) % cases.len()];
            for statement in ["reading", "ordered"] {
                assert_eq!(
                    n.within(
                        &mut app,
                        who,
                        project,
                        &format!("EXECUTE {statement}(500, 502)")
                    ),
                    seen,
                    "{statement}, planned for {}: {who} in {project:?}",
                    cases[first].0
                );
            }
        }
    }
    // A project that comes or goes between two executions is asked for, or not, by the next.
    let mut member = n.world.session("acme.member");
    member.run("SET plan_cache_mode = force_generic_plan; PREPARE reading AS SELECT id FROM notes WHERE at = 7");
    assert_eq!(Notes::seen(&mut member, "EXECUTE reading"), "a1 b1");
    let mut dba = n.world.superuser();
    let user = n.world.user("acme.member");
    dba.run(&format!(
        "SELECT tenancy.add_project_member('{}', '{user}', 'project_viewer')",
        n.ids[2]
    ));
    assert_eq!(Notes::seen(&mut member, "EXECUTE reading"), "a1 b1 c1");
    dba.run(&format!(
        "SELECT tenancy.set_project_access('{}', 'restricted')",
        n.ids[0]
    ));
    assert_eq!(Notes::seen(&mut member, "EXECUTE reading"), "b1 c1");
}

#[test]
fn several_projects_asked_one_by_one_keep_the_order_of_the_index() {
    let n = notes();
    n.world
        .superuser()
        .run("CREATE INDEX by_time ON notes (at, project_id)");
    let mut member = n.world.session("acme.member");
    member
        .run("SET enable_sort = off; SET enable_incremental_sort = off; SET enable_seqscan = off");
    for (columns, keys) in [
        ("at::text", "notes.at"),
        ("(project_id, at)::text", "project_id, at"),
        ("(project_id, at)::text", "project_id DESC, at DESC"),
    ] {
        let sql =
            format!("SELECT {columns} FROM notes WHERE at >= 500 AND at < 520 ORDER BY {keys}");
        let rows = member.column(&sql);
        let mut sorted = rows.clone();
        sorted.sort();
        if keys.contains("DESC") {
            sorted.reverse();
        }
        assert_eq!(rows.len(), 40);
        assert_eq!(
            rows,
            sorted,
            "{keys}: {}",
            member.explain("COSTS off", &sql)
        );
    }
}

#[test]
fn cursors_and_workers_get_every_row_of_the_projects_and_no_other() {
    let n = notes();
    let mut owner = n.world.session("acme.owner");
    let narrow = |project: usize| format!("SET LOCAL app.current_project = '{}'", n.ids[project]);
    owner.run("BEGIN");
    owner.run(&narrow(1));
    owner.run("DECLARE c CURSOR FOR SELECT id FROM notes WHERE at < 300");
    for _ in 0..2 {
        assert_eq!(Notes::seen(&mut owner, "FETCH 100 FROM c"), "b100");
    }
    // A scan that starts over asks again, and gets the same list.
    owner.run(
        "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_material = off;
         SET LOCAL enable_memoize = off;
         DECLARE again CURSOR FOR SELECT id FROM generate_series(1, 300) AS g JOIN notes ON at = g",
    );
    for _ in 0..3 {
        assert_eq!(Notes::seen(&mut owner, "FETCH 100 FROM again"), "b100");
    }
    // It goes on with none of another's.
    owner.run(&narrow(0));
    assert_eq!(Notes::seen(&mut owner, "FETCH 50 FROM c"), "");
    owner.run("ROLLBACK");
    owner.run(
        "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
         SET min_parallel_index_scan_size = 0; SET max_parallel_workers_per_gather = 2; SET enable_seqscan = off",
    );
    let mut member = n.world.session("acme.member");
    member.run(
        "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
         SET min_parallel_index_scan_size = 0; SET max_parallel_workers_per_gather = 2; SET enable_seqscan = off",
    );
    for bitmap in ["on", "off"] {
        for session in [&mut owner, &mut member] {
            session.run(&format!("SET enable_bitmapscan = {bitmap}"));
            session.run("BEGIN");
        }
        owner.run(&narrow(1));
        let count = "SELECT id FROM notes WHERE at < 2500 AND note > ''";
        assert!(owner.explain("COSTS off", count).contains("Gather"));
        assert_eq!(Notes::seen(&mut owner, count), "b2499");
        assert_eq!(Notes::seen(&mut member, count), "a2499 b2499");
        for session in [&mut owner, &mut member] {
            session.run("ROLLBACK");
        }
    }
}
