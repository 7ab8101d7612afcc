//! PostgreSQL behaves as it does without us: the scripts of tests/regress run in a plain session, in one with the library
//! preloaded, and in a database with the extension whose tables nobody protects. What psql shows is the same to the byte:
//! rows, tags, notices, errors with all their fields, plans. Issue 5, deliver 6.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use pg_tenancy_tests::{Cluster, Db};

/// The scripts make roles, which the databases of a cluster share.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn shown(db: &Db, script: &Path) -> String {
    let file = db.cluster.file("script.sql");
    fs::copy(script, &file).expect("a script");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("\\set VERBOSITY verbose\n{text}")).unwrap();
    let out = db
        .cluster
        .program("psql")
        .args([
            "-X", "-a", "-p", "5432", "-U", "postgres", "-d", &db.name, "-h",
        ])
        .arg(db.cluster.dir())
        .arg("-f")
        .arg(&file)
        .output()
        .expect("psql");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "{}\n--- notices and errors\n{}",
        text(&out.stdout),
        text(&out.stderr)
    )
}

fn compare(script: &str) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("regress")
        .join(script);
    let preload = |db: &Db| {
        db.superuser().run(&format!(
            "ALTER DATABASE {} SET session_preload_libraries = 'pg_tenancy'",
            db.name
        ));
    };
    let plain = Db::empty(Cluster::shared());
    let expected = shown(&plain, &path);
    assert!(expected.lines().count() > 40, "{expected}");
    let preloaded = Db::empty(Cluster::shared());
    preload(&preloaded);
    let installed = Db::fresh();
    let both = Db::fresh();
    preload(&both);
    for (how, db) in [
        ("library preloaded", &preloaded),
        ("extension installed", &installed),
        ("extension installed, library preloaded", &both),
    ] {
        let found = shown(db, &path);
        let differs = expected
            .lines()
            .zip(found.lines())
            .position(|(a, b)| a != b);
        let at = differs.unwrap_or(expected.lines().count().min(found.lines().count()));
        let excerpt = |text: &str| {
            text.lines()
                .skip(at.saturating_sub(4))
                .take(9)
                .collect::<Vec<_>>()
                .join("\n")
        };
        assert!(
            expected == found,
            "{script}, {how}, line {at}:\n--- without\n{}\n--- with\n{}",
            excerpt(&expected),
            excerpt(&found)
        );
    }
}

#[test]
fn rows_and_commands() {
    compare("rows.sql");
}

#[test]
fn row_security_of_others() {
    compare("row_security.sql");
}

#[test]
fn foreign_keys() {
    compare("foreign_keys.sql");
}

#[test]
fn cursors_and_plans() {
    compare("cursors.sql");
}

#[test]
fn functions_triggers_and_transactions() {
    compare("plpgsql.sql");
}

#[test]
fn ddl_views_and_event_triggers() {
    compare("ddl.sql");
}

#[test]
fn copy_and_explain() {
    compare("copy.sql");
}
