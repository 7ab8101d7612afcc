//! Which partition holds the row of a key. PostgreSQL's own answer is a query, and planning one on somebody else's table
//! evaluates what its owner wrote; this asks the partition bounds directly.

use super::trigger;
use pgrx::prelude::*;
use std::ffi::CString;

/// PostgreSQL's PartitionKeyData, which its headers show and pgrx does not; the same in 15 to 18.
#[repr(C)]
struct Key {
    strategy: std::ffi::c_char,
    columns: i16,
    attributes: *mut i16,
    expressions: *mut pg_sys::List,
    families: *mut pg_sys::Oid,
    input_types: *mut pg_sys::Oid,
    functions: *mut pg_sys::FmgrInfo,
    collations: *mut pg_sys::Oid,
    types: *mut pg_sys::Oid,
}

unsafe extern "C-unwind" {
    #[link_name = "RelationGetPartitionKey"]
    fn partition_key(table: pg_sys::Relation) -> *const Key;
    fn index_get_partition(partition: pg_sys::Relation, index: pg_sys::Oid) -> pg_sys::Oid;
}

/// A column of the key that is looked for: its name, which is the same on every level, its value and that one's type.
pub struct Part<'a> {
    pub column: &'a str,
    pub value: pg_sys::Datum,
    pub type_id: pg_sys::Oid,
}

/// A partition that stores rows, and its part of the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    pub table: pg_sys::Oid,
    pub index: pg_sys::Oid,
}

/// The partitions in which the key may be: one where its columns decide, which those of a unique index do, unless they
/// are of another type than the partition key; then all.
pub fn leaves_for(table: pg_sys::Oid, index: pg_sys::Oid, key: &[Part]) -> Vec<Leaf> {
    let mut found = vec![];
    // SAFETY: inside a transaction; the tables are opened with the lock that PostgreSQL's own check takes.
    unsafe { descend(table, index, key, &mut found) };
    found
}

/// SAFETY: inside a transaction; `index` is one of the partitioned table.
unsafe fn descend(table: pg_sys::Oid, index: pg_sys::Oid, key: &[Part], found: &mut Vec<Leaf>) {
    // SAFETY: as the function's own; descriptor and key live as long as the relation is open. An error on the way closes
    // it with the transaction.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::RowShareLock as i32);
        let partitions = pg_sys::RelationGetPartitionDesc(relation, false);
        let all = (*partitions).oids;
        let chosen = match chosen(relation, (*partitions).boundinfo, key) {
            Choice::One(n) => n..n + 1,
            Choice::None => 0..0,
            Choice::All => 0..(*partitions).nparts as usize,
        };
        let chosen: Vec<pg_sys::Oid> = chosen.map(|n| *all.add(n)).collect();
        for partition in chosen {
            let part = pg_sys::table_open(partition, pg_sys::RowShareLock as i32);
            let own = pg_sys::ffi::pg_guard_ffi_boundary(|| index_get_partition(part, index));
            let kind = (*(*part).rd_rel).relkind;
            pg_sys::table_close(part, pg_sys::NoLock as i32);
            if own == pg_sys::InvalidOid {
                continue;
            }
            if kind == pg_sys::RELKIND_PARTITIONED_TABLE as std::ffi::c_char {
                descend(partition, own, key, found);
            } else {
                found.push(Leaf {
                    table: partition,
                    index: own,
                });
            }
        }
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
    }
}

enum Choice {
    One(usize),
    None,
    All,
}

/// What get_partition_for_tuple() answers for this key.
///
/// SAFETY: the relation is open; the bounds are its descriptor's, or NULL where it has no partition.
unsafe fn chosen(
    relation: pg_sys::Relation,
    bounds: pg_sys::PartitionBoundInfo,
    key: &[Part],
) -> Choice {
    if bounds.is_null() {
        return Choice::None;
    }
    // SAFETY: as the function's own; the arrays have an entry for each column of the partition key.
    unsafe {
        let by = pg_sys::ffi::pg_guard_ffi_boundary(|| partition_key(relation));
        let columns = (*by).columns as usize;
        let mut values = vec![];
        for i in 0..columns {
            let attribute = *(*by).attributes.add(i);
            let name = column_name(relation, attribute);
            match key.iter().find(|part| Some(part.column) == name.as_deref()) {
                Some(part) if part.type_id == *(*by).types.add(i) => values.push(part.value),
                _ => return Choice::All,
            }
        }
        let (functions, collations) = ((*by).functions, (*by).collations);
        let mut equal = false;
        let at = match (*by).strategy as u8 {
            b'h' => {
                let mut nulls = vec![false; columns];
                let hash = pg_sys::compute_partition_hash_value(
                    columns as i32,
                    functions,
                    collations,
                    values.as_mut_ptr(),
                    nulls.as_mut_ptr(),
                );
                Some((hash % (*bounds).nindexes as u64) as usize)
            }
            b'l' => {
                let at = pg_sys::partition_list_bsearch(
                    functions, collations, bounds, values[0], &mut equal,
                );
                (at >= 0 && equal).then_some(at as usize)
            }
            b'r' => {
                let at = pg_sys::partition_range_datum_bsearch(
                    functions,
                    collations,
                    bounds,
                    columns as i32,
                    values.as_mut_ptr(),
                    &mut equal,
                );
                Some((at + 1) as usize)
            }
            _ => return Choice::All,
        };
        let part = at.map_or(-1, |at| *(*bounds).indexes.add(at));
        match (part, (*bounds).default_index) {
            (0.., _) => Choice::One(part as usize),
            (_, default @ 0..) => Choice::One(default as usize),
            _ => Choice::None,
        }
    }
}

/// SAFETY: the relation is open; the number is one of its columns, or 0 for an expression.
unsafe fn column_name(relation: pg_sys::Relation, attnum: i16) -> Option<String> {
    // SAFETY: as the function's own.
    unsafe {
        (attnum > 0).then(|| {
            let attribute = trigger::attribute((*relation).rd_att, attnum);
            trigger::name(&(*attribute).attname)
        })
    }
}

/// The number of a column by its name; 0 where there is none.
pub fn column_number(table: pg_sys::Oid, column: &str) -> i16 {
    let Ok(name) = CString::new(column) else {
        return 0;
    };
    // SAFETY: a syscache look-up that answers InvalidAttrNumber, 0, where there is none.
    unsafe { pg_sys::get_attnum(table, name.as_ptr()) }
}

/// Whether rows are not stored in the table itself but in its partitions.
pub fn is_partitioned(table: pg_sys::Oid) -> bool {
    // SAFETY: a syscache look-up.
    let kind = unsafe { pg_sys::get_rel_relkind(table) };
    kind == pg_sys::RELKIND_PARTITIONED_TABLE as std::ffi::c_char
}
