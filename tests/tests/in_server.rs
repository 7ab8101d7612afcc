//! Runs the tests of pgrx-tests/ inside a throwaway server: the library built with the feature pg_test takes the place
//! of the installed one through dynamic_library_path, so that nothing installed is overwritten.

use std::path::PathBuf;

use pg_tenancy_tests::{Cluster, Db};

#[test]
fn every_test_inside_the_server_passes() {
    let Some(library) = std::env::var_os("PG_TENANCY_TEST_LIBRARY") else {
        panic!(
            "PG_TENANCY_TEST_LIBRARY names no library built with --features pg_test; run: make test"
        );
    };
    let cluster = Cluster::shared();
    let copy = cluster.file("pg_tenancy.so");
    std::fs::copy(PathBuf::from(&library), &copy).expect("the library is copied");
    let folder = copy.parent().expect("a folder").display().to_string();

    let db = Db::fresh();
    // A first session of its own: the template's library must not be loaded yet where the path is set.
    let connect = || {
        let mut session = db.superuser();
        session.run(&format!("SET dynamic_library_path = '{folder}:$libdir'"));
        session
    };
    let mut session = connect();
    session.run("CREATE SCHEMA in_server");
    session.run(
        "CREATE FUNCTION in_server.names() RETURNS text[] LANGUAGE c AS 'pg_tenancy', 'tenancy_in_server_tests_wrapper'",
    );
    session.run(
        "CREATE FUNCTION in_server.run(name text) RETURNS void STRICT LANGUAGE c
         AS 'pg_tenancy', 'tenancy_in_server_test_wrapper'",
    );
    let names = session.column("SELECT unnest(in_server.names())");
    assert!(names.len() >= 10, "only these tests: {names:?}");

    let mut failed = vec![];
    for name in &names {
        let mut session = connect();
        session.run("BEGIN");
        match session.attempt_within(&format!("SELECT in_server.run('{name}')")) {
            Ok(_) => println!("in server: {name} ... ok"),
            Err(problem) => failed.push(format!("{name}: {problem:?}")),
        }
        session.run("ROLLBACK");
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
