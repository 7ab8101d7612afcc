//! Which boundary to choose, and what each gives (spec 9).

use pg_tenancy_tests::Db;

#[test]
fn a_boundary_is_recommended_with_its_reasons() {
    let db = Db::fresh();
    let mut dba = db.superuser();
    for (question, answer) in [
        ("true, true", "organization"),
        ("true, false", "organization"),
        ("false, true", "project"),
        ("false, false", "cluster"),
        ("per_environment_access => true", "project"),
        ("NULL, NULL", "cluster"),
    ] {
        let rows = dba.rows(&format!(
            "SELECT recommendation, cardinality(reasons) FROM tenancy.recommend_isolation({question})"
        ));
        assert_eq!(
            rows,
            [[Some(answer.to_string()), Some("3".to_string())]],
            "{question}"
        );
    }
}
