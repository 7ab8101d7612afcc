//! The primary key of a table: by which index, and how each of its columns is compared.

use super::json::{self, Object};
use super::query::{Arg, Row, latest};
use pgrx::prelude::*;

pub struct PrimaryKey {
    pub index: pg_sys::Oid,
    /// In the key's order, without what the index merely carries along.
    pub columns: Vec<Column>,
}

pub struct Column {
    pub attnum: i16,
    pub name: String,
    /// The name as an identifier, and as a literal.
    pub quoted: String,
    pub literal: String,
    /// The operator that says equal in the index, and its name for OPERATOR().
    pub equals: pg_sys::Oid,
    operator: String,
    type_id: pg_sys::Oid,
    pub type_name: String,
    /// Whether equal texts are the same bytes.
    pub deterministic: bool,
}

impl Column {
    /// The condition by which the column of a row `t` is a value, an expression for its text.
    pub fn is(&self, value: &str) -> String {
        format!(
            "t.{} OPERATOR({}) ({value})::{}",
            self.quoted, self.operator, self.type_name
        )
    }
}

impl PrimaryKey {
    /// A key as a JSON object of its columns; where there is one column, its value alone may be given.
    pub fn in_full(&self, key: &str) -> String {
        match &self.columns[..] {
            [only] if !key.starts_with('{') => {
                format!("{{{}: {key}}}", serde_json::Value::from(only.name.as_str()))
            }
            _ => key.to_string(),
        }
    }

    /// The columns as an item of FROM, `r`, read from parameter `$1`, such an object: a cast of a value's text would not
    /// understand arrays and composites.
    pub fn given(&self) -> String {
        let each = self
            .columns
            .iter()
            .map(|c| format!("{} {}", c.quoted, c.type_name));
        format!(
            "pg_catalog.jsonb_to_record($1::pg_catalog.jsonb) AS r ({})",
            each.collect::<Vec<_>>().join(", ")
        )
    }

    /// The condition by which a row `t` has the key `r`.
    pub fn is_given(&self) -> String {
        let each = self.columns.iter().map(|c| {
            let (quoted, operator) = (&c.quoted, &c.operator);
            format!("t.{quoted} OPERATOR({operator}) r.{quoted}")
        });
        each.collect::<Vec<_>>().join(" AND ")
    }

    /// The values of the key `r`, in its order.
    pub fn values(&self) -> String {
        let each = self.columns.iter().map(|c| format!("r.{}", c.quoted));
        each.collect::<Vec<_>>().join(", ")
    }

    /// A row of `values()` as the text of a JSON object, by the settings in force.
    pub fn as_object(&self, row: &Row) -> String {
        let mut object = Object::new();
        for (n, column) in (1..).zip(&self.columns) {
            object.key(&column.name);
            match row.datum(n) {
                // SAFETY: the query declares the column with this type.
                Some(datum) => object.jsonb(&unsafe { json::to_jsonb(datum, column.type_id) }),
                None => object.null(),
            }
        }
        json::text(object.finish())
    }

    /// Whether a value has one form as jsonb, whatever the session's settings were when it was made.
    pub fn is_of_one_form(&self) -> bool {
        const OF_ONE_FORM: [pg_sys::Oid; 10] = [
            pg_sys::INT2OID,
            pg_sys::INT4OID,
            pg_sys::INT8OID,
            pg_sys::NUMERICOID,
            pg_sys::TEXTOID,
            pg_sys::VARCHAROID,
            pg_sys::BPCHAROID,
            pg_sys::UUIDOID,
            pg_sys::BOOLOID,
            pg_sys::DATEOID,
        ];
        self.columns
            .iter()
            .all(|c| OF_ONE_FORM.contains(&c.type_id))
    }
}

/// The condition by which a row `t` is the one with the key in parameter `$1`, a JSON object of the columns, as text.
pub fn condition(columns: &[Column]) -> String {
    let parts: Vec<String> = columns
        .iter()
        .map(|c| {
            c.is(&format!(
                "$1::pg_catalog.jsonb OPERATOR(pg_catalog.->>) {}",
                c.literal
            ))
        })
        .collect();
    parts.join(" AND ")
}

/// None where the table has none.
pub fn of(relid: pg_sys::Oid) -> Option<PrimaryKey> {
    let columns = latest(
        "SELECT i.indexrelid, k.attnum, a.attname::pg_catalog.text, pg_catalog.quote_ident(a.attname),
                pg_catalog.quote_literal(a.attname), m.amopopr,
                pg_catalog.quote_ident(ns.nspname) OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) o.oprname,
                pg_catalog.format_type(a.atttypid, a.atttypmod),
                COALESCE((SELECT l.collisdeterministic FROM pg_catalog.pg_collation AS l
                          WHERE l.oid OPERATOR(pg_catalog.=) a.attcollation), true), a.atttypid
         FROM pg_catalog.pg_index AS i,
              ROWS FROM (pg_catalog.unnest(i.indkey::pg_catalog.int2[]), pg_catalog.unnest(i.indclass::pg_catalog.oid[]))
                  WITH ORDINALITY AS k (attnum, class, n)
              JOIN pg_catalog.pg_opclass AS c ON c.oid OPERATOR(pg_catalog.=) k.class
              JOIN pg_catalog.pg_amop AS m ON m.amopfamily OPERATOR(pg_catalog.=) c.opcfamily
                   AND m.amopstrategy OPERATOR(pg_catalog.=) 3::pg_catalog.int2
                   AND m.amoplefttype OPERATOR(pg_catalog.=) c.opcintype AND m.amoprighttype OPERATOR(pg_catalog.=) c.opcintype
              JOIN pg_catalog.pg_operator AS o ON o.oid OPERATOR(pg_catalog.=) m.amopopr
              JOIN pg_catalog.pg_namespace AS ns ON ns.oid OPERATOR(pg_catalog.=) o.oprnamespace,
              pg_catalog.pg_attribute AS a
         WHERE i.indrelid OPERATOR(pg_catalog.=) $1 AND i.indisprimary
           AND k.n OPERATOR(pg_catalog.<=) i.indnkeyatts::pg_catalog.int8
           AND a.attrelid OPERATOR(pg_catalog.=) i.indrelid AND a.attnum OPERATOR(pg_catalog.=) k.attnum
         ORDER BY k.n",
        &[Arg::Oid(relid)],
        |row| {
            let text = |n| row.get::<String>(n).unwrap_or_default();
            let oid = |n| row.get::<pg_sys::Oid>(n).unwrap_or(pg_sys::InvalidOid);
            let column = Column {
                attnum: row.get(2).unwrap_or_default(),
                name: text(3),
                quoted: text(4),
                literal: text(5),
                equals: oid(6),
                operator: text(7),
                type_name: text(8),
                deterministic: row.get(9).unwrap_or(false),
                type_id: oid(10),
            };
            (oid(1), column)
        },
    );
    let index = columns.first()?.0;
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    Some(PrimaryKey { index, columns })
}

/// The columns of the primary key; none where there is no key.
pub fn columns(relid: pg_sys::Oid) -> Vec<Column> {
    of(relid).map_or_else(Vec::new, |key| key.columns)
}
