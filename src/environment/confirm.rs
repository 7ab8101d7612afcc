//! confirm_production_delete(): what the owner confirmed, for one row, in this transaction and nowhere else.

use super::production::table_with_environments;
use super::{RowKey, retag, row_key};
use crate::audit::{self, Act};
use crate::context;
use crate::context::authority::Id;
use crate::isolation::denied;
use crate::pg::local::Backend;
use crate::pg::{self, fail, transaction};
use pgrx::prelude::*;
use std::cell::RefCell;

struct Confirmed {
    org: Id,
    user: Option<Id>,
    root: pg_sys::Oid,
    key: RowKey,
    level: i32,
}

static CONFIRMED: Backend<RefCell<Vec<Confirmed>>> = Backend::new(RefCell::new(Vec::new()));

/// Confirms that one production row is to be deleted, or taken out of production, in this transaction (spec 7). The
/// confirmation holds for that row and once, until the transaction, or the savepoint that it was given in, is rolled back or
/// over. Rows that have their environment from that row are confirmed with it. Of tenancy.projects it confirms that the
/// project, and so every row that has its environment from it, is to be taken out of production.
///
/// `table_name`: a table protected with environment_column or environment_from, or tenancy.projects. `key`: the primary key as text, or where it
/// has several columns, as a JSON object. `typed`: what the person typed to confirm, which must be the key again. For the
/// organization's owner, as a person. Errors: 42501 no organization in effect, not the owner, not human, 22023 typed is not
/// the key, or no key of the table, 25P01 outside a transaction block, 55000 the table has no environments or no key,
/// P0002 no such row.
#[pg_extern(sql = r#"
CREATE FUNCTION confirm_production_delete(table_name regclass, key text, typed text)
RETURNS void VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn confirm_production_delete(
    table_name: Option<pg_sys::Oid>,
    key: Option<&str>,
    typed: Option<&str>,
) -> pg::Result<()> {
    let relid = pg::given(table_name, "table_name")?;
    let key = pg::given(key, "key")?;
    let typed = pg::given(typed, "typed")?;
    context::refresh();
    let now = context::standing();
    let Some(org) = now.org_id() else {
        return Err(context::without_context(&now, "confirm a deletion"));
    };
    let who = match (now.actor_type, now.role.as_str()) {
        ("human", "owner") => None,
        ("human", role) => Some(format!("role \"{role}\"")),
        (actor, _) => Some(format!("actor type {actor}")),
    };
    if let Some(who) = who {
        return Err(denied(
            format!("permission denied: {who} may not confirm the deletion of a production row"),
            "Production rows are deleted by the organization's owner, in person.",
            "SELECT owner_id FROM tenancy.orgs says who that is.",
        ));
    }
    if !transaction::in_block() {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_NO_ACTIVE_SQL_TRANSACTION,
            "tenancy.confirm_production_delete() needs a transaction block",
        )
        .set_detail("A confirmation holds for the transaction that it is given in.")
        .set_hint("BEGIN; SELECT tenancy.confirm_production_delete(...); DELETE ...; COMMIT."));
    }
    if typed != key {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "what was typed is not the row's key",
        )
        .set_detail("To confirm, the person types the key of the row that is to go.")
        .set_hint("Pass as typed what the person typed, and as key the key of the row."));
    }
    let (found, object) = match retag::named(relid, &now, key)? {
        Some(project) => (project, retag::PROJECTS.to_string()),
        None => {
            let table = table_with_environments(relid)?;
            (row_key::find(&table, key)?, table.object.clone())
        }
    };
    CONFIRMED.with_borrow_mut(|all| {
        all.push(Confirmed {
            org,
            user: now.user,
            root: found.root,
            key: found.key,
            level: transaction::nest_level(),
        });
    });
    audit::record(&Act {
        org,
        operation: "confirm_production_delete",
        object: &object,
        key: serde_json::from_str(&found.json).unwrap_or_default(),
        old: None,
        new: None,
    });
    context::pin(&now)
}

/// Whether this row was confirmed; it is not any more afterwards.
pub fn use_up(org: &Id, user: Option<Id>, root: pg_sys::Oid, key: &RowKey) -> bool {
    !key.is_empty()
        && CONFIRMED.with_borrow_mut(|all| {
            let found = all.iter().position(|one| {
                one.org == *org && one.user == user && one.root == root && one.key == *key
            });
            found.map(|at| all.swap_remove(at)).is_some()
        })
}

/// What was confirmed after a savepoint goes with it. What was used up stays used up.
pub fn at_subtransaction_abort(level: i32) {
    CONFIRMED.with_borrow_mut(|all| all.retain(|one| one.level < level));
}

pub fn at_subtransaction_commit(level: i32) {
    CONFIRMED.with_borrow_mut(|all| {
        for one in all.iter_mut().filter(|one| one.level >= level) {
            one.level = level - 1;
        }
    });
}

pub fn forget() {
    if !CONFIRMED.with_borrow(Vec::is_empty) {
        CONFIRMED.take();
    }
}
