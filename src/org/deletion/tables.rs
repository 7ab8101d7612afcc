//! The protected tables and the foreign keys between them, as the catalog has them now.

use super::order::{self, Edge, OnDelete, Step};
use crate::isolation;
use crate::pg::key::{KeyType, Keys};
use crate::pg::query::{Arg, run, unhidden};
use crate::pg::{self, fail};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::spi::{quote_identifier, quote_literal, quote_qualified_identifier};
use std::collections::HashMap;

/// A table that stores rows.
pub struct Leaf {
    pub name: String,
    pub owner: pg_sys::Oid,
    /// The organization column.
    pub column: String,
    pub kind: KeyType,
}

impl Leaf {
    /// Which rows are the organization's; None where it has no key that the column could hold.
    pub fn of(&self, keys: &Keys) -> Option<String> {
        let value = match self.kind {
            KeyType::Uuid => keys
                .id()
                .map(|id| format!("'{}'::pg_catalog.uuid", super::super::id_text(&id))),
            KeyType::Text => keys
                .text()
                .map(|key| format!("{}::pg_catalog.text", quote_literal(key))),
            KeyType::Integer | KeyType::Bigint if !keys.has(self.kind) => None,
            KeyType::Integer => keys.text().map(|n| format!("'{n}'::pg_catalog.int4")),
            KeyType::Bigint => keys.text().map(|n| format!("'{n}'::pg_catalog.int8")),
        }?;
        Some(format!("{} OPERATOR(pg_catalog.=) {value}", self.column))
    }
}

/// A table with its partitions or children, which keys treat as one.
pub struct Node {
    /// What it is called in errors.
    pub object: String,
    /// Where it is a partitioned table or has children, the name that reaches all rows.
    pub whole: String,
    pub owner: pg_sys::Oid,
    pub leaves: Vec<Leaf>,
}

/// A foreign key between protected tables, beside what order() needs of it.
pub struct Key {
    /// The columns to set to NULL.
    pub forget: Vec<String>,
}

pub struct Plan {
    pub nodes: Vec<Node>,
    pub keys: Vec<Key>,
    pub edges: Vec<Edge>,
    pub steps: Vec<Step>,
}

struct Class {
    schema: String,
    name: String,
    owner: pg_sys::Oid,
    stores: bool,
}

fn class(relid: pg_sys::Oid) -> Option<Class> {
    run(
        "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, c.relowner, c.relkind OPERATOR(pg_catalog.=) 'r'
         FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE c.oid OPERATOR(pg_catalog.=) $1",
        &[Arg::Oid(relid)],
        |row| {
            Some(Class {
                schema: row.get(1)?,
                name: row.get(2)?,
                owner: row.get(3)?,
                stores: row.get(4)?,
            })
        },
    )
    .pop()
    .flatten()
}

/// What is to be emptied and in which order. Errors: 55000 tables of several owners that hold each other, or a table whose
/// protection is damaged.
pub fn plan() -> pg::Result<Plan> {
    let (nodes, place) = nodes()?;
    let (keys, edges) = keys(&place);
    let steps = order::order(nodes.len(), &edges);
    for step in &steps {
        let Step::EmptyTogether(circle) = step else {
            continue;
        };
        if circle
            .iter()
            .any(|i| nodes[*i].owner != nodes[circle[0]].owner)
        {
            return Err(of_several_owners(circle, &nodes, &edges));
        }
    }
    Ok(Plan {
        nodes,
        keys,
        edges,
        steps,
    })
}

/// One statement empties them, and one role runs it.
fn of_several_owners(circle: &[usize], nodes: &[Node], edges: &[Edge]) -> ErrorReport {
    let inside = |e: &&Edge| circle.contains(&e.child) && circle.contains(&e.parent);
    let names: Vec<String> = edges
        .iter()
        .filter(inside)
        .map(|e| format!("{} of {}", e.name, nodes[e.child].object))
        .collect();
    fail(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "foreign keys between tables of several owners hold each other, so no organization can be deleted",
    )
    .set_detail(format!("They lead in a circle: {}.", names.join(", ")))
    .set_hint("Give these tables one owner, or make a column of one key nullable.")
}

type Places = HashMap<pg_sys::Oid, usize>;

fn nodes() -> pg::Result<(Vec<Node>, Places)> {
    let (mut nodes, mut place) = (vec![], Places::new());
    for root in isolation::roots() {
        let Some(top) = class(root) else { continue };
        let mut node = Node {
            object: format!("{}.{}", top.schema, top.name),
            whole: quote_qualified_identifier(&top.schema, &top.name),
            owner: top.owner,
            leaves: vec![],
        };
        for member in isolation::members(root) {
            if place.contains_key(&member) {
                continue;
            }
            let (Some(class), Some(table)) = (class(member), isolation::protected(member)) else {
                continue;
            };
            place.insert(member, nodes.len());
            let column = table.columns.iter().find(|(n, _)| *n == table.org_attnum);
            let Some((_, column)) = column else {
                return Err(fail(
                    PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!("the protection of table \"{}\" is damaged", class.name),
                )
                .set_detail("Which rows of it are the organization's cannot be told.")
                .set_hint("Call tenancy.unprotect() and tenancy.protect() again."));
            };
            if class.stores {
                node.leaves.push(Leaf {
                    name: quote_qualified_identifier(&class.schema, &class.name),
                    owner: class.owner,
                    column: quote_identifier(column),
                    kind: table.org_kind,
                });
            }
        }
        nodes.push(node);
    }
    Ok((nodes, place))
}

fn keys(place: &Places) -> (Vec<Key>, Vec<Edge>) {
    let found = run(
        "SELECT c.conrelid, c.confrelid, c.conname::pg_catalog.text, c.confdeltype::pg_catalog.text,
                c.confmatchtype OPERATOR(pg_catalog.=) 'f',
                (SELECT pg_catalog.array_agg(a.attname::pg_catalog.text ORDER BY k.n)
                 FROM ROWS FROM (pg_catalog.unnest(c.conkey)) WITH ORDINALITY AS k (attnum, n)
                      JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) c.conrelid
                                                       AND a.attnum OPERATOR(pg_catalog.=) k.attnum
                 WHERE NOT a.attnotnull AND a.attgenerated OPERATOR(pg_catalog.=) ''),
                pg_catalog.cardinality(c.conkey)
         FROM pg_catalog.pg_constraint AS c
         WHERE c.contype OPERATOR(pg_catalog.=) 'f' AND c.conparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid
         ORDER BY c.oid",
        &[],
        |row| {
            let columns = row.get::<Vec<String>>(6).unwrap_or_default();
            let full = row.get::<bool>(5) == Some(true);
            let all = row.get::<i32>(7).unwrap_or_default() as usize;
            let forget = match (full, columns.len()) {
                (true, n) if n < all => vec![],
                // A reference with one NULL leads nowhere.
                (false, _) => columns.into_iter().take(1).collect(),
                _ => columns,
            };
            let on_delete = row.get::<String>(4).unwrap_or_default();
            let name = row.get::<String>(3).unwrap_or_default();
            Some((
                Key {
                    forget: forget.iter().map(quote_identifier).collect(),
                },
                Edge {
                    child: *place.get(&row.get::<pg_sys::Oid>(1)?)?,
                    parent: *place.get(&row.get::<pg_sys::Oid>(2)?)?,
                    name,
                    on_delete: if matches!(on_delete.as_str(), "a" | "r") {
                        OnDelete::Refused
                    } else {
                        OnDelete::Follows
                    },
                    nullable: !forget.is_empty(),
                },
            ))
        },
    );
    found.into_iter().flatten().unzip()
}

/// Our own tables that hold something of every organization, with the column that says whose it is, in the order in which
/// they let go of it.
pub fn own() -> Vec<(String, String)> {
    let tables: Vec<(pg_sys::Oid, String, String)> = run(
        "SELECT c.conrelid, pg_catalog.format('tenancy.%I', t.relname), pg_catalog.quote_ident(a.attname)
         FROM pg_catalog.pg_constraint AS c
              JOIN pg_catalog.pg_class AS t ON t.oid OPERATOR(pg_catalog.=) c.conrelid
              JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) c.conrelid
                                               AND a.attnum OPERATOR(pg_catalog.=) c.conkey[1]
         WHERE c.contype OPERATOR(pg_catalog.=) 'f' AND pg_catalog.cardinality(c.conkey) OPERATOR(pg_catalog.=) 1
           AND c.confrelid OPERATOR(pg_catalog.=) 'tenancy.orgs'::pg_catalog.regclass
           AND t.relnamespace OPERATOR(pg_catalog.=) 'tenancy'::pg_catalog.regnamespace
         ORDER BY c.oid",
        &[],
        |row| Some((row.get(1)?, row.get(2)?, row.get(3)?)),
    )
    .into_iter()
    .flatten()
    .collect();
    let place = tables.iter().enumerate();
    let place: Places = place.map(|(i, (relid, ..))| (*relid, i)).collect();
    let (_, edges) = keys(&place);
    let steps = order::order(tables.len(), &edges);
    let ordered = steps.into_iter().flat_map(|step| match step {
        Step::Forget(_) => vec![],
        Step::Empty(table) => vec![table],
        Step::EmptyTogether(tables) => tables,
    });
    ordered
        .map(|i| (tables[i].1.clone(), tables[i].2.clone()))
        .collect()
}

/// References from tables that are not protected, which would refuse that the organization's rows go: said before anything
/// is removed. What such a table holds its owner knows; where it is another's than the rows', PostgreSQL refuses later.
pub fn require_no_outsider(keys: &Keys) -> pg::Result<()> {
    let (_, place) = nodes()?;
    let outsiders = run(
        "SELECT c.conrelid, c.confrelid, c.conname::pg_catalog.text,
                pg_catalog.string_agg(pg_catalog.format('o.%I OPERATOR(%s.%s) p.%I', a.attname,
                    pg_catalog.quote_ident(s.nspname), op.oprname, b.attname), ' AND ' ORDER BY k.n)
         FROM pg_catalog.pg_constraint AS c
              CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(c.conkey), pg_catalog.unnest(c.confkey),
                                            pg_catalog.unnest(c.conpfeqop)) WITH ORDINALITY AS k (child, parent, operator, n)
              JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) c.conrelid
                                               AND a.attnum OPERATOR(pg_catalog.=) k.child
              JOIN pg_catalog.pg_attribute AS b ON b.attrelid OPERATOR(pg_catalog.=) c.confrelid
                                               AND b.attnum OPERATOR(pg_catalog.=) k.parent
              JOIN pg_catalog.pg_operator AS op ON op.oid OPERATOR(pg_catalog.=) k.operator
              JOIN pg_catalog.pg_namespace AS s ON s.oid OPERATOR(pg_catalog.=) op.oprnamespace
         WHERE c.contype OPERATOR(pg_catalog.=) 'f' AND c.conparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid
           AND c.confdeltype OPERATOR(pg_catalog.=) ANY (ARRAY['a', 'r']::pg_catalog.\"char\"[])
         GROUP BY c.oid, c.conrelid, c.confrelid, c.conname ORDER BY c.oid",
        &[],
        |row| Some((row.get::<pg_sys::Oid>(1)?, row.get::<pg_sys::Oid>(2)?, row.get::<String>(3)?, row.get::<String>(4)?)),
    );
    for (outsider, parent, constraint, matches) in outsiders.into_iter().flatten() {
        if place.contains_key(&outsider) || !place.contains_key(&parent) {
            continue;
        }
        let (Some(outsider), Some(above)) = (class(outsider), class(parent)) else {
            continue;
        };
        let column = isolation::protected(parent).and_then(|t| {
            let (_, column) = t.columns.iter().find(|(n, _)| *n == t.org_attnum)?;
            Some((quote_identifier(column), t.org_kind))
        });
        let Some((column, kind)) = column.filter(|_| outsider.owner == above.owner) else {
            continue;
        };
        let leaf = Leaf {
            name: String::new(),
            owner: above.owner,
            column: format!("p.{column}"),
            kind,
        };
        let Some(mine) = leaf.of(keys) else { continue };
        let sql = format!(
            "SELECT 1 FROM {} AS o JOIN {} AS p ON {matches} WHERE {mine} LIMIT 1",
            quote_qualified_identifier(&outsider.schema, &outsider.name),
            quote_qualified_identifier(&above.schema, &above.name),
        );
        if unhidden(above.owner, &sql) > 0 {
            return Err(fail(
                PgSqlErrorCode::ERRCODE_FOREIGN_KEY_VIOLATION,
                format!(
                    "the organization's rows in table \"{}\" are referred to from table \"{}\"",
                    above.name, outsider.name
                ),
            )
            .set_detail(format!(
                "Table \"{}\" is not protected, and its foreign key \"{constraint}\" lets no row go that it refers to.",
                outsider.name
            ))
            .set_hint("Remove those references first, or protect the table. Nothing was changed."));
        }
    }
    Ok(())
}
