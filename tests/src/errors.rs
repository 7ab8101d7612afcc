//! What an error must look like.

use std::fmt::Debug;

use postgres::Error;
use postgres::error::DbError;

/// The statement failed with this SQLSTATE.
#[track_caller]
pub fn fails<T: Debug>(result: Result<T, Error>, code: &str) -> DbError {
    let error = match result {
        Ok(value) => panic!("expected SQLSTATE {code}, but it succeeded: {value:?}"),
        Err(error) => error,
    };
    let Some(db) = error.as_db_error() else {
        panic!("expected SQLSTATE {code}, but the connection failed: {error:?}")
    };
    assert_eq!(db.code().code(), code, "{db:?}");
    db.clone()
}

/// Our own refusal: SQLSTATE, and in words what, why and what to do.
#[track_caller]
pub fn refused<T: Debug>(result: Result<T, Error>, code: &str) -> DbError {
    let db = fails(result, code);
    assert!(!db.message().is_empty(), "no message: {db:?}");
    assert!(
        db.detail().is_some_and(|d| !d.is_empty()),
        "no detail: {db:?}"
    );
    assert!(db.hint().is_some_and(|h| !h.is_empty()), "no hint: {db:?}");
    db
}

/// Two errors that nobody can tell apart, but for the given words of the second, which stand for those of the first.
#[track_caller]
pub fn assert_same_error(first: &DbError, second: &DbError, words: &[(&str, &str)]) {
    let all = |e: &DbError| {
        format!(
            "severity {} code {} message {} detail {:?} hint {:?} position {:?} where {:?} schema {:?} table {:?} \
             column {:?} datatype {:?} constraint {:?} file {:?} line {:?} routine {:?}",
            e.severity(),
            e.code().code(),
            e.message(),
            e.detail(),
            e.hint(),
            e.position(),
            e.where_(),
            e.schema(),
            e.table(),
            e.column(),
            e.datatype(),
            e.constraint(),
            e.file(),
            e.line(),
            e.routine()
        )
    };
    let second = words
        .iter()
        .fold(all(second), |text, (from, to)| text.replace(from, to));
    assert_eq!(all(first), second);
}
