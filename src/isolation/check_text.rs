//! The text of PostgreSQL's own query for a foreign key: which columns it compares.

use std::cell::RefCell;
use std::ffi::CStr;

/// The check of one key, known by its columns, and by its text once that was read.
#[derive(Debug)]
pub struct CheckText {
    columns: Vec<String>,
    /// Reading a text costs more than the look-up it saves; PostgreSQL asks with the same one each time.
    known: RefCell<Box<[u8]>>,
}

impl CheckText {
    pub fn new(columns: Vec<String>) -> CheckText {
        CheckText {
            columns,
            known: RefCell::default(),
        }
    }

    pub fn is(&self, text: &CStr) -> bool {
        let bytes = text.to_bytes();
        if **self.known.borrow() == *bytes {
            return true;
        }
        let it_is = asks_for(&text.to_string_lossy(), &self.columns);
        if it_is {
            *self.known.borrow_mut() = bytes.into();
        }
        it_is
    }
}

/// Whether PostgreSQL's query for a key, `SELECT 1 FROM ONLY t x WHERE "a" = $1 AND "b" = $2 ...` with qualified
/// operators, compares these columns in this order.
pub fn asks_for(text: &str, columns: &[String]) -> bool {
    let Some(condition) = condition_of(text) else {
        return false;
    };
    let mut rest = condition;
    for (i, column) in columns.iter().enumerate() {
        let quoted = format!("\"{}\"", column.replace('"', "\"\""));
        let wanted = if i == 0 {
            quoted
        } else {
            format!(" AND {quoted}")
        };
        let found = if i == 0 {
            rest.starts_with(&wanted).then_some(0)
        } else {
            rest.find(&wanted)
        };
        match found {
            Some(at) => rest = &rest[at + wanted.len()..],
            None => return false,
        }
    }
    !rest.contains(" AND \"")
}

/// What follows WHERE, the table's quoted name read as such whatever stands in it.
fn condition_of(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("SELECT 1 FROM ")?;
    let rest = rest.strip_prefix("ONLY ").unwrap_or(rest);
    let rest = after_identifier(rest)?.strip_prefix('.')?;
    after_identifier(rest)?.strip_prefix(" x WHERE ")
}

fn after_identifier(text: &str) -> Option<&str> {
    let mut rest = text.strip_prefix('"')?;
    loop {
        let end = rest.find('"')?;
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(doubled) => rest = doubled,
            None => return Some(rest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::asks_for;

    fn columns(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| n.to_string()).collect()
    }

    #[test]
    fn a_check_is_known_by_its_columns() {
        let one = r#"SELECT 1 FROM ONLY "public"."p" x WHERE "a" OPERATOR(pg_catalog.=) $1 FOR KEY SHARE OF x"#;
        assert!(asks_for(one, &columns(&["a"])));
        assert!(!asks_for(one, &columns(&["b"])));
        assert!(!asks_for(one, &columns(&["a", "b"])));
        let two = r#"SELECT 1 FROM ONLY "public"."p" x WHERE "a" OPERATOR(pg_catalog.=) $1 AND "b""x"::text OPERATOR(pg_catalog.=) $2 FOR KEY SHARE OF x"#;
        assert!(asks_for(two, &columns(&["a", "b\"x"])));
        assert!(!asks_for(two, &columns(&["b\"x", "a"])));
        assert!(!asks_for(two, &columns(&["a"])));
        assert!(!asks_for("SELECT 1", &columns(&["a"])));
        let odd = r#"SELECT 1 FROM ONLY "public"."p"" x WHERE ""b"" = " x WHERE "a" OPERATOR(pg_catalog.=) $1 FOR KEY SHARE OF x"#;
        assert!(asks_for(odd, &columns(&["a"])));
    }
}
