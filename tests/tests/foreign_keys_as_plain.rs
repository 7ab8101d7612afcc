//! Within one organization a guarded foreign key does what a plain one does, step for step: the guard answers PostgreSQL's
//! own check where it holds the parent already, and must not do so a moment too long. Each scenario runs against guarded
//! tables and against the same tables without protection; every step must end alike, and leave the same rows.

use pg_tenancy_tests::{Error, Session, World};
use std::io::Write;

const TABLES: &str = "
    CREATE TABLE parents (id int PRIMARY KEY, org_id uuid NOT NULL, code text UNIQUE, name text);
    CREATE TABLE children (
        id int PRIMARY KEY, org_id uuid NOT NULL, parent_id int REFERENCES parents, code text REFERENCES parents (code));
    CREATE TABLE late (
        id int PRIMARY KEY, org_id uuid NOT NULL, parent_id int REFERENCES parents DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE cascaded (
        id int PRIMARY KEY, org_id uuid NOT NULL, parent_id int REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TABLE tree (id int PRIMARY KEY, org_id uuid NOT NULL, parent_id int REFERENCES tree);
    CREATE TABLE numbers (id int PRIMARY KEY, org_id uuid NOT NULL, f float8 UNIQUE, t timestamptz UNIQUE, c text COLLATE \"C\" UNIQUE);
    CREATE TABLE mixed (
        id int PRIMARY KEY, org_id uuid NOT NULL, i int REFERENCES numbers, b bigint REFERENCES numbers,
        s smallint REFERENCES numbers, n int8 REFERENCES numbers (f), f float8 REFERENCES numbers (f),
        w timestamp REFERENCES numbers (t), t timestamptz REFERENCES numbers (t),
        c text REFERENCES numbers (c), a name REFERENCES numbers (c));
    CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.id = 90 THEN DELETE FROM parents WHERE id = NEW.parent_id; END IF;
        IF NEW.id = 91 THEN UPDATE parents SET id = id + 1000 WHERE id = NEW.parent_id; END IF;
        IF NEW.id = 92 THEN EXECUTE 'ALTER TABLE parents ADD COLUMN extra int'; END IF;
        IF NEW.id = 95 THEN BEGIN EXECUTE 'CREATE INDEX ON parents (name)'; EXCEPTION WHEN division_by_zero THEN NULL; END; END IF;
        IF NEW.id = 93 THEN INSERT INTO cascaded (id, org_id, parent_id) VALUES (93, NEW.org_id, 2); END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER \"1_meddle\" AFTER INSERT ON children FOR EACH ROW EXECUTE FUNCTION meddle();
    CREATE TRIGGER meddle BEFORE INSERT ON late FOR EACH ROW EXECUTE FUNCTION meddle();
";

const TABLE_NAMES: [&str; 7] = [
    "parents", "children", "late", "cascaded", "tree", "numbers", "mixed",
];

/// PostgreSQL refuses COPY FROM to whoever row security holds.
const AS_DBA: &str = "as the DBA";

/// Steps of one session; `@` is the organization. A step that fails aborts the block, as it does anywhere.
const SCENARIOS: &[(&str, &[&str])] = &[
    (
        "a parent that was held, then deleted, holds nobody",
        &[
            "BEGIN",
            "INSERT INTO children VALUES (1, @, 1)",
            "DELETE FROM children WHERE id = 1",
            "DELETE FROM parents WHERE id = 1",
            "INSERT INTO children VALUES (2, @, 1)",
            "ROLLBACK",
        ],
    ),
    (
        "nor one whose key moved on",
        &[
            "BEGIN",
            "INSERT INTO cascaded VALUES (1, @, 1)",
            "UPDATE parents SET id = 100 WHERE id = 1",
            "INSERT INTO cascaded VALUES (2, @, 1)",
            "ROLLBACK",
            "BEGIN",
            "INSERT INTO cascaded VALUES (1, @, 1)",
            "UPDATE parents SET id = 100 WHERE id = 1",
            "INSERT INTO cascaded VALUES (2, @, 100)",
            "COMMIT",
        ],
    ),
    (
        "deleted by the very statement that refers to it",
        &[
            "WITH gone AS (DELETE FROM parents WHERE id = 1 RETURNING id) INSERT INTO children SELECT 1, @, id FROM gone",
            "WITH gone AS (DELETE FROM parents WHERE id = 1 RETURNING id) INSERT INTO cascaded SELECT 1, @, id FROM gone",
            "BEGIN",
            "INSERT INTO children VALUES (1, @, 3)",
            "WITH gone AS (DELETE FROM parents WHERE id = 3 RETURNING id) INSERT INTO children SELECT 2, @, id FROM gone",
            "COMMIT",
            "WITH new AS (INSERT INTO children VALUES (3, @, 2)) DELETE FROM parents WHERE id = 2",
            "WITH new AS (INSERT INTO cascaded VALUES (3, @, 2)) DELETE FROM parents WHERE id = 2",
        ],
    ),
    (
        "deleted by a trigger between guard and check",
        &[
            "INSERT INTO children VALUES (90, @, 1)",
            "INSERT INTO children VALUES (91, @, 1)",
            "BEGIN",
            "INSERT INTO children VALUES (1, @, 3)",
            "INSERT INTO children VALUES (90, @, 3)",
            "COMMIT",
        ],
    ),
    (
        "a trigger alters the parent, another writes elsewhere meanwhile",
        &[
            "INSERT INTO children VALUES (92, @, 1)",
            "INSERT INTO children VALUES (95, @, 1)",
            "INSERT INTO children VALUES (93, @, 1), (94, @, 77)",
            "INSERT INTO children VALUES (93, @, 1), (94, @, 2)",
        ],
    ),
    (
        "keys of other types to the same columns",
        &[
            "INSERT INTO numbers VALUES (5, @, 4617315517961601024, '2024-02-01 00:00+05', 'five')",
            "INSERT INTO mixed (id, org_id, i, b) VALUES (1, @, 5, 4294967301)",
            "INSERT INTO mixed (id, org_id, i, b, s) VALUES (2, @, 5, 5, 5)",
            "INSERT INTO mixed (id, org_id, b, i) VALUES (3, @, 5, 6)",
            "INSERT INTO mixed (id, org_id, n, f) VALUES (4, @, 4617315517961601024, 5.0)",
            "INSERT INTO mixed (id, org_id, n, f) VALUES (5, @, 4617315517961601024, 4617315517961601024)",
            "SET TimeZone = '<+05>-05'",
            "INSERT INTO mixed (id, org_id, w, t) VALUES (6, @, '2024-02-01 00:00', '2024-02-01 00:00+00')",
            "INSERT INTO mixed (id, org_id, w, t) VALUES (7, @, '2024-02-01 00:00', '2024-02-01 00:00+05')",
            "INSERT INTO mixed (id, org_id, c, a) VALUES (8, @, NULL, E'\\x01\\x01ABCDEFGH'::name)",
            "INSERT INTO mixed (id, org_id, c, a) VALUES (9, @, 'five', E'\\x01\\x01ABCDEFGH'::name)",
            "INSERT INTO mixed (id, org_id, c, a) VALUES (10, @, 'five', 'five'), (11, @, 'five', 'six')",
        ],
    ),
    (
        "a savepoint takes its parents back",
        &[
            "BEGIN",
            "SAVEPOINT s",
            "INSERT INTO parents VALUES (50, @, 'fifty')",
            "INSERT INTO children VALUES (1, @, 50, 'fifty')",
            "ROLLBACK TO s",
            "INSERT INTO children VALUES (1, @, 50)",
            "ROLLBACK",
            "BEGIN",
            "SAVEPOINT s",
            "INSERT INTO parents VALUES (50, @, 'fifty')",
            "RELEASE s",
            "INSERT INTO children VALUES (1, @, 50, 'fifty')",
            "COMMIT",
        ],
    ),
    (
        "held in a savepoint that is gone",
        &[
            "BEGIN",
            "SAVEPOINT s",
            "INSERT INTO children VALUES (1, @, 1)",
            "ROLLBACK TO s",
            "DELETE FROM parents WHERE id = 1",
            "INSERT INTO children VALUES (1, @, 1)",
            "ROLLBACK",
        ],
    ),
    (
        "a deferred key is judged at commit",
        &[
            "BEGIN",
            "INSERT INTO late VALUES (1, @, 1)",
            "DELETE FROM parents WHERE id = 1",
            "COMMIT",
            "BEGIN",
            "INSERT INTO late VALUES (1, @, 50)",
            "INSERT INTO parents VALUES (50, @, 'fifty')",
            "COMMIT",
            "BEGIN",
            "INSERT INTO late VALUES (2, @, 2)",
            "SET CONSTRAINTS ALL IMMEDIATE",
            "DELETE FROM parents WHERE id = 2",
            "COMMIT",
            "BEGIN",
            "INSERT INTO late VALUES (90, @, 3)",
            "COMMIT",
        ],
    ),
    (
        "several keys in a row, several rows in a statement",
        &[
            "INSERT INTO children SELECT n, @, 1 + n % 3, 'p' || 1 + n % 3 FROM generate_series(1, 30) AS n",
            "INSERT INTO children SELECT n, @, 1 + n % 3, 'p' || 1 + n % 4 FROM generate_series(31, 60) AS n",
            "INSERT INTO children VALUES (70, @, 1, 'p77')",
            "INSERT INTO children VALUES (70, @, 77, 'p1')",
            "INSERT INTO children VALUES (70, @, NULL, 'p1'), (71, @, 1, NULL)",
            "UPDATE children SET parent_id = 1 + (id + 1) % 3",
            "UPDATE children SET parent_id = parent_id + 1",
            "DELETE FROM parents WHERE id = 1",
        ],
    ),
    (
        "a table that refers to itself",
        &[
            "INSERT INTO tree VALUES (1, @, 1), (2, @, 1), (3, @, 2)",
            "INSERT INTO tree VALUES (4, @, 5)",
            "INSERT INTO tree VALUES (4, @, 5), (5, @, 4)",
            "DELETE FROM tree WHERE id = 1",
            "UPDATE tree SET id = 30 WHERE id = 3",
            "WITH gone AS (DELETE FROM tree WHERE id = 30 RETURNING id) INSERT INTO tree SELECT 31, @, id FROM gone",
            "DELETE FROM tree",
        ],
    ),
    (
        "a snapshot that lasts sees no parent committed since",
        &[
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
            "SELECT count(*) FROM parents",
            "!INSERT INTO parents VALUES (60, @, 'sixty')",
            "INSERT INTO children VALUES (1, @, 60)",
            "ROLLBACK",
            "BEGIN",
            "SELECT count(*) FROM parents",
            "!INSERT INTO parents VALUES (61, @, 'sixty-one')",
            "INSERT INTO children VALUES (1, @, 61)",
            "COMMIT",
            "BEGIN ISOLATION LEVEL SERIALIZABLE",
            "INSERT INTO children VALUES (2, @, 1)",
            "INSERT INTO children VALUES (3, @, 1)",
            "COMMIT",
        ],
    ),
    (
        "a table just written by COPY can be altered",
        &[
            AS_DBA,
            "BEGIN",
            "COPY 5\t@\t1\t\\N",
            "ALTER TABLE parents ADD COLUMN note text",
            "COPY 6\t@\t1\t\\N",
            "DROP TABLE children",
            "ROLLBACK",
            "COPY 7\t@\t77\t\\N",
            "COPY 8\t@\t1\tp1",
        ],
    ),
    (
        "whoever may not read the parent is told so",
        &[
            "REVOKE ALL ON parents FROM CURRENT_USER",
            "INSERT INTO children VALUES (1, @, 1)",
            "INSERT INTO children VALUES (2, @, 1)",
            "GRANT ALL ON parents TO CURRENT_USER",
            "INSERT INTO children VALUES (3, @, 1)",
        ],
    ),
];

#[test]
fn every_step_of_a_guarded_key_ends_as_that_of_a_plain_one() {
    let world = World::new();
    let owner = world.db.role("schema_owner");
    let mut dba = world.superuser();
    dba.run(&format!(
        "CREATE ROLE {owner} LOGIN; SELECT tenancy.bind_login('{owner}', '{}')",
        world.user("acme.owner")
    ));
    for schema in ["plain", "guarded"] {
        dba.run(&format!("CREATE SCHEMA {schema} AUTHORIZATION {owner}"));
        let mut session = session(&world, &owner, schema);
        session.run(TABLES);
    }
    for table in TABLE_NAMES {
        dba.run(&format!(
            "SELECT tenancy.protect('guarded.{table}');
             ALTER TABLE plain.{table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
             CREATE POLICY everything ON plain.{table} USING (true)"
        ));
    }
    for (name, steps) in SCENARIOS {
        let [plain, guarded] =
            ["plain", "guarded"].map(|schema| played(&world, &owner, schema, steps));
        assert_eq!(guarded, plain, "{name}");
    }
}

fn session(world: &World, login: &str, schema: &str) -> Session {
    let mut session = world.db.login(login);
    session.run(&format!(
        "SET search_path = {schema}; SET app.current_org = '{}'",
        world.acme.id
    ));
    session
}

/// What each step answered, and what is in the tables after all of them.
fn played(world: &World, owner: &str, schema: &str, steps: &[&str]) -> Vec<String> {
    world.break_glass().run(&format!(
        "TRUNCATE {schema}.parents, {schema}.children, {schema}.late, {schema}.cascaded, {schema}.tree, {schema}.numbers, {schema}.mixed;
         INSERT INTO {schema}.parents SELECT n, '{}', 'p' || n, 'parent ' || n FROM generate_series(1, 3) AS n",
        world.acme.id
    ));
    let (login, steps) = match steps {
        [AS_DBA, steps @ ..] => ("postgres", steps),
        steps => (owner, steps),
    };
    let mut mine = session(world, login, schema);
    let mut other = session(world, owner, schema);
    let mut story: Vec<String> = steps
        .iter()
        .map(|step| {
            let sql = step.replace('@', &format!("'{}'", world.acme.id));
            let answer = if let Some(sql) = sql.strip_prefix('!') {
                other.attempt(sql)
            } else if let Some(line) = sql.strip_prefix("COPY ") {
                copied(&mut mine, &line.replace('\'', ""))
            } else {
                mine.attempt(&sql)
            };
            match answer {
                Ok(rows) => format!("{step}: {rows}"),
                Err(error) => format!("{step}: {}", told(&error, schema)),
            }
        })
        .collect();
    drop(mine);
    let mut reader = world.break_glass();
    for table in TABLE_NAMES {
        story.push(reader.text(&format!(
            "SELECT coalesce(string_agg(to_jsonb(t)::text, ' ' ORDER BY id), 'no rows') FROM {schema}.{table} t"
        )));
    }
    world.superuser().run(&format!(
        "ALTER TABLE {schema}.parents DROP COLUMN IF EXISTS extra"
    ));
    story
}

fn copied(session: &mut Session, line: &str) -> Result<u64, Error> {
    let mut writer = session.copy_in("COPY children FROM STDIN")?;
    writer
        .write_all(format!("{line}\n").as_bytes())
        .expect("a write into the client's own buffer");
    writer.finish()
}

fn told(error: &Error, schema: &str) -> String {
    match error.as_db_error() {
        Some(e) => format!(
            "{} {} / {} / {:?}",
            e.code().code(),
            e.message(),
            e.detail().unwrap_or("-"),
            e.constraint()
        )
        .replace(schema, "SCHEMA"),
        None => error.to_string(),
    }
}
