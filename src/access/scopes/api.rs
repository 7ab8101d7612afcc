//! Who sets a membership's scope, and how (spec 3.8). A scope limits what a role gives; taking it away, or widening it, gives
//! the member rights, so nobody does that for a role that holds more than his own.

use super::Access;
use crate::access::{self, rights::Rights};
use crate::audit::{self, Act};
use crate::context;
use crate::context::authority::{self, Id};
use crate::isolation;
use crate::org::{id_text, invalid, lock_org, not_a_member, owner_rule};
use crate::pg::query::{Arg, execute, latest, run};
use crate::pg::{self, fail};
use pgrx::datum::Uuid;
use pgrx::prelude::*;
use serde_json::{Value, json};

const OBJECT: &str = "tenancy.membership_scopes";

/// Who governs whose membership: asked before the wait for the organization's lock, and again after it.
fn begin(org: &Id, user: &Id) -> pg::Result<()> {
    access::require(org, "team:role", "in the organization")?;
    let owner = lock_org(org, false)?;
    access::require(org, "team:role", "in the organization")?;
    if owner == *user {
        return Err(owner_rule(
            "the owner cannot be limited to resources",
            "The owner of an organization reaches all of it.",
        ));
    }
    Ok(())
}

/// The member's role, his row held.
fn role_of(org: &Id, user: &Id) -> pg::Result<(String, bool)> {
    run(
        "SELECT role, scoped FROM tenancy.memberships
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $2 FOR NO KEY UPDATE",
        &[Arg::Uuid(org), Arg::Uuid(user)],
        |row| {
            (
                row.get::<String>(1).unwrap_or_default(),
                row.get::<bool>(2).unwrap_or(true),
            )
        },
    )
    .pop()
    .ok_or_else(not_a_member)
}

/// Who widens a member's scope holds all that the member's role holds: it gives that on more resources.
fn require_all_of(org: &Id, role: &str) -> pg::Result<()> {
    access::require_may_assign(org, role, &Rights::default())
}

/// Limits a membership to listed resources, and lists one (spec 3.8): from then on its member sees these only. `table_name`: a
/// table that protect() was told a resource_type of; `key`: the resource's key there, as text; `access`: full (as far as
/// the member's role goes), read_only or none. It holds from the next statement of every open session. Needs team:role
/// there (or the DBA). Errors: 42501 no right, or unknown organization, or the member's role holds more than the caller's;
/// 22023 no table of resources or unknown access, 22P02 no such key, P0002 not a member, 23514 for the owner.
#[pg_extern(sql = r#"
CREATE FUNCTION set_scope(org uuid, user_id uuid, table_name regclass, key text, access text DEFAULT 'full')
RETURNS void VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn set_scope(
    org: Option<Uuid>,
    user_id: Option<Uuid>,
    table_name: Option<pg_sys::Oid>,
    key: Option<&str>,
    access: Option<&str>,
) -> pg::Result<()> {
    let key = pg::given(key, "key")?;
    set(org, user_id, table_name, &[key.to_string()], access)
}

/// `set_scope()` for many resources at once (spec 3.8). Needs team:role there (or the DBA). Errors: as set_scope().
#[pg_extern(sql = r#"
CREATE FUNCTION set_scopes(org uuid, user_id uuid, table_name regclass, keys text[], access text DEFAULT 'full')
RETURNS void VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn set_scopes(
    org: Option<Uuid>,
    user_id: Option<Uuid>,
    table_name: Option<pg_sys::Oid>,
    keys: Option<Vec<Option<String>>>,
    access: Option<&str>,
) -> pg::Result<()> {
    let keys: pg::Result<Vec<String>> = pg::given(keys, "keys")?
        .into_iter()
        .map(|key| pg::given(key, "keys"))
        .collect();
    set(org, user_id, table_name, &keys?, access)
}

fn set(
    org: Option<Uuid>,
    user_id: Option<Uuid>,
    table_name: Option<pg_sys::Oid>,
    keys: &[String],
    access: Option<&str>,
) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let user_id = pg::given(user_id, "user_id")?;
    let relid = pg::given(table_name, "table_name")?;
    let given = pg::given(access, "access")?;
    let (org, user) = (org.as_bytes(), user_id.as_bytes());
    access::require(org, "team:role", "in the organization")?;
    let Some(wanted) = Access::named(given) else {
        let shown: String = given.chars().take(80).collect();
        return Err(invalid(
            format!("unknown access \"{shown}\""),
            "A rule gives full, read_only or none.",
            "Such as access => 'read_only'.",
        ));
    };
    let kind = isolation::resource_type(relid)?;
    let keys: Vec<String> = keys
        .iter()
        .map(|key| isolation::resource_key(relid, key))
        .collect::<pg::Result<_>>()?;
    begin(org, user)?;
    let (role, scoped) = role_of(org, user)?;
    // The first rule takes the rest of the organization away, and no rule of it gives more than there was.
    if scoped && wanted > Access::None {
        require_all_of(org, &role)?;
    }
    let author = context::standing().user;
    for key in &keys {
        let old = rule(org, user, &kind, key);
        execute(
            "INSERT INTO tenancy.membership_scopes (org_id, user_id, resource_type, resource_id, access, created_by)
             VALUES ($1, $2, $3, $4, $5, $6::pg_catalog.uuid)
             ON CONFLICT (org_id, user_id, resource_type, resource_id)
             DO UPDATE SET access = EXCLUDED.access, created_by = EXCLUDED.created_by, created_at = EXCLUDED.created_at",
            &[
                Arg::Uuid(org),
                Arg::Uuid(user),
                Arg::Text(&kind),
                Arg::Text(key),
                Arg::Text(wanted.name()),
                Arg::OptionalText(author.map(|a| id_text(&a)).as_deref()),
            ],
        );
        record(
            "set_scope",
            org,
            user,
            Some((&kind, key)),
            old.map(|access| json!({ "access": access })),
            Some(json!({ "access": wanted.name() })),
        );
    }
    Ok(())
}

fn rule(org: &Id, user: &Id, kind: &str, key: &str) -> Option<String> {
    run(
        "SELECT access FROM tenancy.membership_scopes
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $2
           AND resource_type OPERATOR(pg_catalog.=) $3 AND resource_id OPERATOR(pg_catalog.=) $4",
        &[
            Arg::Uuid(org),
            Arg::Uuid(user),
            Arg::Text(kind),
            Arg::Text(key),
        ],
        |row| row.get::<String>(1),
    )
    .pop()
    .flatten()
}

fn record(
    operation: &'static str,
    org: &Id,
    user: &Id,
    resource: Option<(&str, &str)>,
    old: Option<Value>,
    new: Option<Value>,
) {
    let mut key = json!({ "org_id": id_text(org), "user_id": id_text(user) });
    if let Some((kind, id)) = resource {
        key["resource_type"] = kind.into();
        key["resource_id"] = id.into();
    }
    audit::record(&Act {
        org: *org,
        operation,
        object: OBJECT,
        key,
        old,
        new,
    });
}

/// Takes a rule away (spec 3.8). The membership stays limited to the rules that are left; without any it sees nothing until
/// unscope_member(). Needs team:role there (or the DBA). Errors: 42501 no right, or unknown organization, or the rule says
/// none and the member's role holds more than the caller's; 22023 no table of resources, 22P02 no such key, P0002 no such
/// rule, 23514 for the owner.
#[pg_extern(sql = r#"
CREATE FUNCTION remove_scope(org uuid, user_id uuid, table_name regclass, key text)
RETURNS void VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn remove_scope(
    org: Option<Uuid>,
    user_id: Option<Uuid>,
    table_name: Option<pg_sys::Oid>,
    key: Option<&str>,
) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let user_id = pg::given(user_id, "user_id")?;
    let relid = pg::given(table_name, "table_name")?;
    let key = pg::given(key, "key")?;
    let (org, user) = (org.as_bytes(), user_id.as_bytes());
    access::require(org, "team:role", "in the organization")?;
    let kind = isolation::resource_type(relid)?;
    let key = isolation::resource_key(relid, key)?;
    begin(org, user)?;
    let (role, _) = role_of(org, user)?;
    let old = rule(org, user, &kind, &key).ok_or_else(|| {
        fail(
            PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            "the membership has no rule for this resource",
        )
        .set_detail(format!("There is none for {kind} \"{key}\"."))
        .set_hint("SELECT * FROM tenancy.list_scopes(org, user_id) shows those that there are.")
    })?;
    // Below an exception the rule for the resource above holds again.
    if old != "full" {
        require_all_of(org, &role)?;
    }
    execute(
        "DELETE FROM tenancy.membership_scopes
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $2
           AND resource_type OPERATOR(pg_catalog.=) $3 AND resource_id OPERATOR(pg_catalog.=) $4",
        &[
            Arg::Uuid(org),
            Arg::Uuid(user),
            Arg::Text(&kind),
            Arg::Text(&key),
        ],
    );
    let old = Some(json!({ "access": old }));
    record("remove_scope", org, user, Some((&kind, &key)), old, None);
    Ok(())
}

/// Gives a membership the whole organization again, as far as its role goes, and drops its rules (spec 3.8). Needs team:role
/// there (or the DBA). Errors: 42501 no right, or unknown organization, or the member's role holds more than the caller's;
/// 22023 the membership is not limited, P0002 not a member, 23514 for the owner.
#[pg_extern(volatile, parallel_unsafe)]
fn unscope_member(org: Option<Uuid>, user_id: Option<Uuid>) -> pg::Result<()> {
    let org = pg::given(org, "org")?;
    let user_id = pg::given(user_id, "user_id")?;
    let (org, user) = (org.as_bytes(), user_id.as_bytes());
    begin(org, user)?;
    let (role, scoped) = role_of(org, user)?;
    if !scoped {
        return Err(invalid(
            "the membership is not limited to resources",
            "It reaches the whole organization already, as far as its role goes.",
            "tenancy.set_scope() limits a membership.",
        ));
    }
    require_all_of(org, &role)?;
    let of_member = [Arg::Uuid(org), Arg::Uuid(user)];
    let rules = execute(
        "DELETE FROM tenancy.membership_scopes
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $2",
        &of_member,
    );
    execute(
        "UPDATE tenancy.memberships SET scoped = false
         WHERE org_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $2",
        &of_member,
    );
    record(
        "unscope_member",
        org,
        user,
        None,
        Some(json!({ "scoped": true, "rules": rules })),
        Some(json!({ "scoped": false })),
    );
    Ok(())
}

/// The rules of memberships that are limited to resources (spec 3.8): of `user_id`, or of all. `org`: the current organization
/// where it is left out. Whoever has team:read there (or is the DBA) sees those of all, anyone else his own.
/// Errors: 42501 unknown organization, or not yours to ask.
#[pg_extern(sql = r#"
CREATE FUNCTION list_scopes(org uuid DEFAULT NULL, user_id uuid DEFAULT NULL)
RETURNS TABLE (user_id uuid, resource_type text, resource_id text, access text, created_by uuid, created_at timestamptz)
STABLE PARALLEL SAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
fn list_scopes(
    org: Option<Uuid>,
    user_id: Option<Uuid>,
) -> pg::Result<
    TableIterator<
        'static,
        (
            name!(user_id, Uuid),
            name!(resource_type, String),
            name!(resource_id, String),
            name!(access, String),
            name!(created_by, Option<Uuid>),
            name!(created_at, TimestampWithTimeZone),
        ),
    >,
> {
    let now = context::standing();
    let org = match (org, now.org_id()) {
        (Some(org), _) => *org.as_bytes(),
        (None, Some(org)) => org,
        (None, None) => return Err(context::without_context(&now, "list scopes")),
    };
    context::known_org(&org)?;
    let mut wanted = user_id.map(|user| *user.as_bytes());
    if !context::is_administrator() {
        let me = now.user.filter(|me| access::role_in(&org, me).is_some());
        let me = me.ok_or_else(|| context::stranger(&org))?;
        let team_read = access::action(&now.matrix, "team:read")?;
        if wanted != Some(me) && !access::user_may(&org, &me, team_read) {
            if wanted.is_some() {
                access::require(&org, "team:read", "in the organization")?;
            }
            wanted = Some(me);
        }
    }
    let wanted = wanted.map(|user| id_text(&user));
    let rows = latest(
        "SELECT user_id, resource_type, resource_id, access, created_by, created_at FROM tenancy.membership_scopes
         WHERE org_id OPERATOR(pg_catalog.=) $1
           AND ($2 IS NULL OR user_id OPERATOR(pg_catalog.=) $2::pg_catalog.uuid)
         ORDER BY user_id, resource_type, resource_id",
        &[Arg::Uuid(&org), Arg::OptionalText(wanted.as_deref())],
        |row| {
            let text = |n| row.get::<String>(n).unwrap_or_default();
            (
                Uuid::from_bytes(row.uuid(1).unwrap_or_default()),
                text(2),
                text(3),
                text(4),
                row.uuid(5).map(Uuid::from_bytes),
                row.get::<TimestampWithTimeZone>(6)
                    .unwrap_or_else(|| TimestampWithTimeZone::try_from(0i64).expect("2000")),
            )
        },
    );
    Ok(TableIterator::new(rows))
}

/// How far the context's membership reaches a resource (spec 3.8): full, read_only or none; full says nothing of the role's
/// rights. none also where there is no such row in the organization, or no organization is in effect. `table_name`: a table
/// of resources; `key`: the key there, as text. Anyone may ask. Errors: 22023 no table of resources, 22P02 no such key.
#[pg_extern(sql = r#"
CREATE FUNCTION scope_of(table_name regclass, key text)
RETURNS text STABLE PARALLEL SAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn scope_of(table_name: Option<pg_sys::Oid>, key: Option<&str>) -> pg::Result<&'static str> {
    let relid = pg::given(table_name, "table_name")?;
    let key = pg::given(key, "key")?;
    let now = context::standing();
    isolation::resource_type(relid)?;
    let Some(org) = now.org_id() else {
        return Ok(Access::None.name());
    };
    let scopes = now.scopes.clone();
    let access = isolation::reach_by_key(&org, scopes.as_deref(), relid, key)?;
    Ok(access.unwrap_or(Access::None).name())
}

/// How far a user's membership reaches a resource of an organization: None for a user who is no member, and where there is no
/// such row. Whoever asks for another answers for who may know.
pub fn level_on(org: &Id, user: &Id, table: pg_sys::Oid, key: &str) -> pg::Result<Option<Access>> {
    if access::role_in(org, user).is_none() {
        return Ok(None);
    }
    let Some(membership) = authority::membership(org, user) else {
        return Ok(None);
    };
    isolation::reach_by_key(org, membership.scopes.as_deref(), table, key)
}
