//! Queries of ours. `latest` is the one that authority is read with: under the newest snapshot there is, never the
//! transaction's or the statement's, or a revocation would be missed (REPEATABLE READ; a statement that waited).

use super::identity::{as_owner, as_table_owner, as_unhidden_table_owner};
use super::key::{KeyType, Keys};
use super::trigger::RowImage;
use super::value::Value;
use pgrx::datum::Uuid;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;

/// An argument of a query.
pub enum Arg<'a> {
    Uuid(&'a [u8; 16]),
    Text(&'a str),
    OptionalText(Option<&'a str>),
    Bytes(&'a [u8]),
    Timestamp(Option<i64>),
    Oid(pg_sys::Oid),
    Flag(bool),
    Name(&'a str),
    Int(i32),
    Xid(u64),
    Big(i64),
    OptionalUuid(Option<&'a [u8; 16]>),
    /// An organization's key, as a column of the kind holds it.
    Key(&'a Keys, KeyType),
}

impl Arg<'_> {
    fn bind(&self) -> (Option<pg_sys::Datum>, pg_sys::Oid) {
        match self {
            Arg::Uuid(bytes) => (Uuid::from_bytes(**bytes).into_datum(), pg_sys::UUIDOID),
            Arg::Text(text) => (text.into_datum(), pg_sys::TEXTOID),
            Arg::OptionalText(text) => (text.and_then(|t| t.into_datum()), pg_sys::TEXTOID),
            Arg::Name(text) => (text.into_datum(), pg_sys::TEXTOID),
            Arg::Bytes(bytes) => (bytes.into_datum(), pg_sys::BYTEAOID),
            Arg::Timestamp(at) => (at.map(pg_sys::Datum::from), pg_sys::TIMESTAMPTZOID),
            Arg::Oid(oid) => (Some((*oid).into()), pg_sys::OIDOID),
            Arg::Int(n) => (Some((*n).into()), pg_sys::INT4OID),
            Arg::Xid(xid) => (Some((*xid).into()), pg_sys::XID8OID),
            Arg::Flag(flag) => (Some((*flag).into()), pg_sys::BOOLOID),
            Arg::Big(n) => (Some((*n).into()), pg_sys::INT8OID),
            Arg::OptionalUuid(id) => (
                id.and_then(|id| Uuid::from_bytes(*id).into_datum()),
                pg_sys::UUIDOID,
            ),
            Arg::Key(keys, kind) => (keys.datum(*kind), kind.type_id()),
        }
    }
}

/// A row of a result, valid while its callback runs.
pub struct Row {
    tuple: pg_sys::HeapTuple,
    desc: pg_sys::TupleDesc,
}

impl Row {
    /// Column `n`, from 1, in Rust's own memory.
    pub fn get<T: FromDatum>(&self, n: i32) -> Option<T> {
        // SAFETY: tuple and descriptor belong to the SPI table that is open; T copies out of the datum, and its
        // type was chosen for the column by the query beside it.
        unsafe {
            let mut null = false;
            let datum = pg_sys::SPI_getbinval(self.tuple, self.desc, n, &mut null);
            T::from_datum(datum, null)
        }
    }

    /// Column `n`, from 1, as it stands there.
    pub fn value(&self, n: i16) -> Value {
        // SAFETY: tuple and descriptor belong to the SPI table that is open.
        unsafe { RowImage::new(self.tuple, self.desc) }.value(n)
    }

    /// The datum of column `n`, from 1; None where it is NULL.
    pub(super) fn datum(&self, n: i32) -> Option<pg_sys::Datum> {
        let mut null = false;
        // SAFETY: as for `get`.
        let datum = unsafe { pg_sys::SPI_getbinval(self.tuple, self.desc, n, &mut null) };
        (!null).then_some(datum)
    }

    pub fn uuid(&self, n: i32) -> Option<[u8; 16]> {
        self.get::<Uuid>(n).map(|u| *u.as_bytes())
    }
}

thread_local! {
    // The text of a query to its kept plan. Plans survive invalidation: PostgreSQL makes them anew when it must.
    static PLANS: RefCell<HashMap<&'static str, pg_sys::SPIPlanPtr>> = RefCell::new(HashMap::new());
}

/// Runs a read-only query under the newest snapshot, as the extension's owner, and maps each row.
pub fn latest<T>(sql: &'static str, args: &[Arg], mut map: impl FnMut(&Row) -> T) -> Vec<T> {
    as_owner(|| {
        let mut bound = bind(args);
        // SAFETY: SPI's protocol: connect, prepare once and keep, execute under a registered snapshot, read the table
        // before SPI_finish frees it. An error unwinds past us and PostgreSQL's abort closes SPI.
        unsafe {
            let locks = Locks::of_our_own();
            pg_sys::SPI_connect();
            let plan = kept_plan(sql, &mut bound.2);
            let relation = super::catalog::house().bell;
            // GetLatestSnapshot() refuses to work in parallel mode; the catalog snapshot is as new and does not.
            // It is invalidated for a relation without a syscache, so this one is taken now.
            let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetCatalogSnapshot(relation));
            let rows = read(plan, snapshot, &mut bound, &mut map);
            pg_sys::UnregisterSnapshot(snapshot);
            pg_sys::SPI_finish();
            locks.give_back();
            rows
        }
    })
}

/// SAFETY: inside SPI_connect(), with a plan for these arguments and a registered snapshot.
unsafe fn read<T>(
    plan: pg_sys::SPIPlanPtr,
    snapshot: pg_sys::Snapshot,
    (values, nulls, _): &mut Bound,
    map: &mut impl FnMut(&Row) -> T,
) -> Vec<T> {
    // SAFETY: as the function's own.
    unsafe {
        pg_sys::SPI_execute_snapshot(
            plan,
            values.as_mut_ptr(),
            nulls.as_ptr(),
            snapshot,
            std::ptr::null_mut(),
            true,
            false,
            0,
        );
        collect(map)
    }
}

/// The locks of a look-up, which go with it: the caller's transaction has no business in our tables, and the list of what
/// it holds, which PostgreSQL walks at its end, would stay longer for the whole session (measured: a hundredth of each
/// single-row insert).
struct Locks {
    outer: pg_sys::ResourceOwner,
    own: pg_sys::ResourceOwner,
}

impl Locks {
    /// SAFETY: inside a transaction; `give_back` follows, or an error, whose abort cleans up with the outer owner.
    unsafe fn of_our_own() -> Locks {
        // SAFETY: as the function's own.
        unsafe {
            let outer = pg_sys::CurrentResourceOwner;
            let own = pg_sys::ResourceOwnerCreate(outer, c"pg_tenancy look-up".as_ptr());
            pg_sys::CurrentResourceOwner = own;
            Locks { outer, own }
        }
    }

    /// SAFETY: everything else that was opened meanwhile is closed.
    unsafe fn give_back(self) {
        use pg_sys::ResourceReleasePhase::*;
        // SAFETY: as the function's own. A release that is no commit drops the locks in place of handing them on.
        unsafe {
            for (phase, commit) in [
                (RESOURCE_RELEASE_BEFORE_LOCKS, true),
                (RESOURCE_RELEASE_LOCKS, false),
                (RESOURCE_RELEASE_AFTER_LOCKS, true),
            ] {
                pg_sys::ResourceOwnerRelease(self.own, phase, commit, false);
            }
            pg_sys::CurrentResourceOwner = self.outer;
            pg_sys::ResourceOwnerDelete(self.own);
        }
    }
}

type Bound = (Vec<pg_sys::Datum>, Vec<std::ffi::c_char>, Vec<pg_sys::Oid>);

fn bind(args: &[Arg]) -> Bound {
    let (mut values, mut nulls, mut types) = (vec![], vec![], vec![]);
    for arg in args {
        let (datum, oid) = arg.bind();
        nulls.push(if datum.is_some() { b' ' } else { b'n' } as std::ffi::c_char);
        values.push(datum.unwrap_or(pg_sys::Datum::from(0)));
        types.push(oid);
    }
    (values, nulls, types)
}

/// SAFETY: inside SPI_connect(); `types` are the arguments' types, the same at each call for one text.
unsafe fn kept_plan(sql: &'static str, types: &mut [pg_sys::Oid]) -> pg_sys::SPIPlanPtr {
    if let Some(plan) = PLANS.with_borrow(|plans| plans.get(sql).copied()) {
        return plan;
    }
    // SAFETY: as the function's own.
    unsafe {
        let plan = prepared(sql, types);
        pg_sys::SPI_keepplan(plan);
        PLANS.with_borrow_mut(|plans| plans.insert(sql, plan));
        plan
    }
}

/// SAFETY: inside SPI_connect(); `types` are the arguments' types.
unsafe fn prepared(sql: &str, types: &mut [pg_sys::Oid]) -> pg_sys::SPIPlanPtr {
    let text = CString::new(sql).expect("query text has no NUL");
    // SAFETY: as the function's own.
    unsafe { pg_sys::SPI_prepare(text.as_ptr(), types.len() as i32, types.as_mut_ptr()) }
}

/// SAFETY: right after an SPI_execute*() that returned rows.
unsafe fn collect<T>(map: &mut impl FnMut(&Row) -> T) -> Vec<T> {
    // SAFETY: SPI_tuptable is NULL or the result just made.
    unsafe {
        let table = pg_sys::SPI_tuptable;
        if table.is_null() {
            return vec![];
        }
        (0..(*table).numvals as usize)
            .map(|i| {
                map(&Row {
                    tuple: *(*table).vals.add(i),
                    desc: (*table).tupdesc,
                })
            })
            .collect()
    }
}

/// `latest` for a query that is made up for the occasion, whose plan is not kept.
pub fn latest_of<T>(sql: &str, args: &[Arg], mut map: impl FnMut(&Row) -> T) -> Vec<T> {
    // SAFETY: made and registered here, used before it is given back.
    as_owner(|| unsafe {
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        let rows = under(snapshot, sql, args, &mut map);
        pg_sys::UnregisterSnapshot(snapshot);
        rows
    })
}

/// `latest_of` what is committed alone: nothing of this transaction's own.
pub fn committed<T>(
    sql: &str,
    args: &[Arg],
    mut map: impl FnMut(&Row, &dyn Fn(u32) -> bool) -> T,
) -> Vec<T> {
    // SAFETY: as above. A snapshot at the first command of the transaction sees none of its commands; the copy that is
    // registered is nobody else's.
    as_owner(|| unsafe {
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        (*snapshot).curcid = 0;
        let runs = |xid: u32| pg_sys::XidInMVCCSnapshot(xid.into(), snapshot);
        let rows = under(snapshot, sql, args, &mut |row| map(row, &runs));
        pg_sys::UnregisterSnapshot(snapshot);
        rows
    })
}

/// SAFETY: a registered snapshot.
unsafe fn under<T>(
    snapshot: pg_sys::Snapshot,
    sql: &str,
    args: &[Arg],
    map: &mut impl FnMut(&Row) -> T,
) -> Vec<T> {
    let mut bound = bind(args);
    // SAFETY: as in `latest`; the plan goes with SPI's memory.
    unsafe {
        pg_sys::SPI_connect();
        let plan = prepared(sql, &mut bound.2);
        let rows = read(plan, snapshot, &mut bound, map);
        pg_sys::SPI_finish();
        rows
    }
}

/// Runs a statement that may write, as the extension's owner, in the statement's own snapshot; maps what it returns.
pub fn run<T>(sql: &str, args: &[Arg], mut map: impl FnMut(&Row) -> T) -> Vec<T> {
    // SAFETY: right after the statement.
    as_owner(|| perform(sql, args, || unsafe { collect(&mut map) }))
}

/// `run` for a statement whose rows nobody needs; answers how many it touched.
pub fn execute(sql: &str, args: &[Arg]) -> u64 {
    as_owner(|| perform(sql, args, touched))
}

/// `run` in whatever identity and search path is in force.
pub fn run_as_is<T>(sql: &str, args: &[Arg], mut map: impl FnMut(&Row) -> T) -> Vec<T> {
    // SAFETY: right after the statement.
    perform(sql, args, || unsafe { collect(&mut map) })
}

/// `execute_as_is` with arguments.
pub fn touch_as_is(sql: &str, args: &[Arg]) -> u64 {
    perform(sql, args, touched)
}

/// `execute` in whatever identity is in force.
pub fn execute_as_is(sql: &str) -> u64 {
    perform(sql, &[], touched)
}

fn touched() -> u64 {
    // SAFETY: a backend variable.
    unsafe { pg_sys::SPI_processed }
}

fn perform<T>(sql: &str, args: &[Arg], result: impl FnOnce() -> T) -> T {
    let (mut values, nulls, mut types) = bind(args);
    let text = CString::new(sql).expect("query text has no NUL");
    // SAFETY: as in `latest`; not read-only, so it sees what this transaction wrote before.
    unsafe {
        pg_sys::SPI_connect();
        pg_sys::SPI_execute_with_args(
            text.as_ptr(),
            types.len() as i32,
            types.as_mut_ptr(),
            values.as_mut_ptr(),
            nulls.as_ptr(),
            false,
            0,
        );
        let result = result();
        pg_sys::SPI_finish();
        result
    }
}

/// Runs a statement as a table's owner, restricted, with none of the table's rows hidden from it: row security is left out
/// where the statement is analysed, and in force again for whatever runs inside of it (triggers). Answers how many rows it
/// touched.
pub fn unhidden(owner: pg_sys::Oid, sql: &str) -> u64 {
    unhidden_with(owner, sql, touched)
}

/// `unhidden` for a statement that answers one array of numbers.
pub fn unhidden_counts(owner: pg_sys::Oid, sql: &str) -> Vec<i64> {
    // SAFETY: right after the statement.
    let rows = unhidden_with(owner, sql, || unsafe {
        collect(&mut |row| row.get::<Vec<i64>>(1).unwrap_or_default())
    });
    rows.into_iter().next().unwrap_or_default()
}

fn unhidden_with<T>(owner: pg_sys::Oid, sql: &str, result: impl FnOnce() -> T) -> T {
    // SAFETY: as in `latest`; the plan goes with SPI_finish(). Between analysis and execution it is made anew, with row
    // security, only if the table changed: then fewer rows are touched.
    unsafe {
        pg_sys::SPI_connect();
        let plan = as_unhidden_table_owner(owner, || prepared(sql, &mut []));
        as_table_owner(owner, || {
            pg_sys::SPI_execute_plan(plan, std::ptr::null_mut(), std::ptr::null(), false, 0);
        });
        let result = result();
        pg_sys::SPI_finish();
        result
    }
}
