//! Object ids of our own things, looked up once per backend and forgotten when they change.

use super::error::fail;
use super::key::{ByKind, KeyType};
use super::local::Backend;
use pgrx::prelude::*;
use std::cell::Cell;
use std::ffi::CStr;

/// Where the extension lives in this database.
#[derive(Clone, Copy)]
pub struct House {
    pub owner: pg_sys::Oid,
    /// The table whose invalidation rings when authority changes.
    pub bell: pg_sys::Oid,
    pub guard_row: pg_sys::Oid,
    pub guard_statement: pg_sys::Oid,
    pub schema: pg_sys::Oid,
    pub org_if: ByKind,
    pub check_row: ByKind,
    pub is_unscoped: pg_sys::Oid,
    pub in_projects: pg_sys::Oid,
    pub check_project_row: pg_sys::Oid,
    /// The table of the counters behind quotas.
    pub counters: pg_sys::Oid,
    pub project_from: pg_sys::Oid,
    pub project_to: pg_sys::Oid,
    pub project_ids: pg_sys::Oid,
    pub in_scope: pg_sys::Oid,
    pub in_full_scope: pg_sys::Oid,
    pub check_lock: pg_sys::Oid,
}

static HOUSE: Backend<Cell<Option<House>>> = Backend::new(Cell::new(None));

/// The house; raises where the extension is not installed in this database.
pub fn house() -> House {
    find_house().unwrap_or_else(|| {
        fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "extension pg_tenancy is not installed in this database",
        )
        .set_detail(
            "Its library is loaded, but the schema tenancy or one of its tables is missing.",
        )
        .set_hint("Run CREATE EXTENSION pg_tenancy as a superuser.")
        .report(PgLogLevel::ERROR);
        unreachable!()
    })
}

/// The house, if the extension is installed in this database.
pub fn find_house() -> Option<House> {
    if let Some(house) = HOUSE.get() {
        return Some(house);
    }
    let schema = namespace(c"tenancy")?;
    let bell = relation_in(schema, c"authority")?;
    let owner = relation_owner(bell)?;
    let house = House {
        owner,
        bell,
        guard_row: function_in(c"tenancy", c"guard_row").unwrap_or(pg_sys::InvalidOid),
        guard_statement: function_in(c"tenancy", c"guard_statement").unwrap_or(pg_sys::InvalidOid),
        in_projects: function_of(
            c"tenancy",
            c"in_projects",
            &[pg_sys::UUIDOID, pg_sys::UUIDOID, pg_sys::TEXTOID],
        )
        .unwrap_or(pg_sys::InvalidOid),
        check_project_row: function_of(
            c"tenancy",
            c"check_project_row",
            &[
                pg_sys::OIDOID,
                pg_sys::UUIDOID,
                pg_sys::UUIDOID,
                pg_sys::TEXTOID,
            ],
        )
        .unwrap_or(pg_sys::InvalidOid),
        project_from: function_of(c"tenancy", c"project_from", &[pg_sys::TEXTOID])
            .unwrap_or(pg_sys::InvalidOid),
        project_to: function_of(c"tenancy", c"project_to", &[pg_sys::TEXTOID])
            .unwrap_or(pg_sys::InvalidOid),
        project_ids: function_of(c"tenancy", c"project_ids", &[pg_sys::TEXTOID])
            .unwrap_or(pg_sys::InvalidOid),
        counters: relation_in(schema, c"quota_counters").unwrap_or(pg_sys::InvalidOid),
        is_unscoped: function_in(c"tenancy", c"is_unscoped").unwrap_or(pg_sys::InvalidOid),
        in_scope: scope_function(c"in_scope"),
        in_full_scope: scope_function(c"in_full_scope"),
        check_lock: function_of(
            c"tenancy",
            c"check_lock",
            &[pg_sys::OIDOID, pg_sys::RECORDOID],
        )
        .unwrap_or(pg_sys::InvalidOid),
        schema,
        org_if: ByKind::new(|kind| {
            let name = match kind {
                KeyType::Uuid => c"org_if",
                KeyType::Text => c"org_key_if",
                KeyType::Integer => c"org_key_integer_if",
                KeyType::Bigint => c"org_key_bigint_if",
            };
            function_of(c"tenancy", name, &[pg_sys::TEXTOID])
        }),
        check_row: ByKind::new(|kind| {
            let arguments = [pg_sys::OIDOID, kind.type_id(), pg_sys::TEXTOID];
            function_of(c"tenancy", c"check_row", &arguments)
        }),
    };
    let others = [
        house.is_unscoped,
        house.project_from,
        house.project_to,
        house.project_ids,
        house.in_projects,
        house.check_project_row,
        house.counters,
    ];
    if ![house.guard_row, house.guard_statement].contains(&pg_sys::InvalidOid)
        && !others.contains(&pg_sys::InvalidOid)
        && house.org_if.are_all_there()
    {
        HOUSE.set(Some(house));
    }
    Some(house)
}

/// Called from the invalidation callback only: whether `relid` is the bell (or all relations), forgetting the ids.
pub fn forget(relid: pg_sys::Oid) -> bool {
    match HOUSE.get() {
        Some(house) if relid == house.bell || relid == pg_sys::InvalidOid => {
            HOUSE.set(None);
            true
        }
        Some(_) => false,
        None => true,
    }
}

pub fn namespace(name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: a syscache look-up that answers InvalidOid where there is none.
    let oid = unsafe { pg_sys::get_namespace_oid(name.as_ptr(), true) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

pub fn relation_in(schema: pg_sys::Oid, name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: a syscache look-up that answers InvalidOid where there is none.
    let oid = unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

fn function_in(schema: &CStr, name: &CStr) -> Option<pg_sys::Oid> {
    function_of(schema, name, &[])
}

fn scope_function(name: &CStr) -> pg_sys::Oid {
    let arguments = [pg_sys::OIDOID, pg_sys::ANYOID, pg_sys::ANYOID];
    function_of(c"tenancy", name, &arguments).unwrap_or(pg_sys::InvalidOid)
}

/// The function of this name that takes these types.
pub fn function_of(schema: &CStr, name: &CStr, types: &[pg_sys::Oid]) -> Option<pg_sys::Oid> {
    // SAFETY: a qualified function name and its arguments' types; missing_ok = true answers InvalidOid.
    unsafe {
        let mut names = pg_sys::lappend(
            std::ptr::null_mut(),
            pg_sys::makeString(schema.as_ptr().cast_mut()).cast(),
        );
        names = pg_sys::lappend(names, pg_sys::makeString(name.as_ptr().cast_mut()).cast());
        let oid = pg_sys::LookupFuncName(names, types.len() as i32, types.as_ptr(), true);
        (oid != pg_sys::InvalidOid).then_some(oid)
    }
}

/// Takes ACCESS EXCLUSIVE on a table by its id, until the transaction ends: its name cannot change meanwhile.
pub fn lock_exclusively(relid: pg_sys::Oid) {
    // SAFETY: a lock by id; a relation that is gone is the caller's to notice.
    unsafe { pg_sys::LockRelationOid(relid, pg_sys::AccessExclusiveLock as i32) }
}

/// Keeps a table as it is until the transaction ends, as a statement that writes to it does.
pub fn lock_for_writing(relid: pg_sys::Oid) {
    // SAFETY: as above.
    unsafe { pg_sys::LockRelationOid(relid, pg_sys::RowExclusiveLock as i32) }
}

/// The name of a relation; empty where there is none.
pub fn relation_name(relid: pg_sys::Oid) -> String {
    // SAFETY: a syscache look-up that answers a palloc'd copy, or NULL.
    unsafe {
        let name = pg_sys::get_rel_name(relid);
        if name.is_null() {
            return String::new();
        }
        CStr::from_ptr(name).to_string_lossy().into_owned()
    }
}

/// How many rows a table had when it was last counted.
pub fn rows_of(relid: pg_sys::Oid) -> f64 {
    // SAFETY: the tuple is checked for NULL and released.
    unsafe {
        let tuple =
            pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as i32, relid.into());
        if tuple.is_null() {
            return 0.0;
        }
        let rows = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>()).reltuples;
        pg_sys::ReleaseSysCache(tuple);
        f64::from(rows.max(0.0))
    }
}

/// The type below a domain, or the type itself.
pub fn base_type(type_id: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a syscache look-up; the type is a column's or an expression's.
    unsafe { pg_sys::getBaseType(type_id) }
}

/// How many bytes a value of the type has (-1 where each says so itself), and whether it is passed by value.
pub fn length_of(type_id: pg_sys::Oid) -> (i16, bool) {
    let (mut length, mut by_value) = (0, false);
    // SAFETY: as above.
    unsafe { pg_sys::get_typlenbyval(type_id, &mut length, &mut by_value) };
    (length, by_value)
}

pub fn relation_owner(relid: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: the tuple is checked for NULL and released; relowner is never null.
    unsafe {
        let tuple =
            pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as i32, relid.into());
        if tuple.is_null() {
            return None;
        }
        let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>();
        let owner = (*form).relowner;
        pg_sys::ReleaseSysCache(tuple);
        Some(owner)
    }
}

/// Makes every backend that caches authority hear of a change, when this transaction commits (and this backend now).
pub fn ring_bell() {
    if let Some(house) = find_house() {
        // SAFETY: the relation exists, house() has just found it.
        unsafe { pg_sys::CacheInvalidateRelcacheByRelid(house.bell) }
    }
}

/// Makes every backend plan anew what it has planned for a table, when this transaction commits.
pub fn forget_plans_of(relid: pg_sys::Oid) {
    // SAFETY: the id is a table's; one that is gone meanwhile has no plans.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(relid) }
}
