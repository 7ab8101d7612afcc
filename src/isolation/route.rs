//! Looking up the parent of a foreign key, also where the parent is partitioned: then the key says which partition has
//! the row, and that one's part of the index is asked.

use super::table;
use crate::pg::key::{KeyColumn, Keys};
use crate::pg::partition::{self, Leaf, Part};
use crate::pg::probe::{self, Parent, Probe};
use crate::pg::value::Value;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The parts of a partitioned parent's index that keys led to.
#[derive(Debug)]
pub struct Leaves {
    /// The organization column's name, the same on every level.
    org_column: String,
    known: RefCell<BTreeMap<(u32, u32), Rc<Probe>>>,
}

impl Leaves {
    /// None where the parent stores its own rows. The probe's organization column is known by now.
    pub fn of(probe: &Probe) -> Option<Leaves> {
        partition::is_partitioned(probe.parent).then(|| Leaves {
            org_column: table::columns_of(probe.parent)
                .into_iter()
                .find(|(attnum, _)| probe.org.is_some_and(|org| org.attnum == *attnum))
                .map(|(_, name)| name)
                .unwrap_or_default(),
            known: RefCell::default(),
        })
    }

    /// The key in each partition that may hold its row.
    pub fn probes(&self, whole: &Probe, key: &[Value]) -> Vec<Rc<Probe>> {
        let parts: Vec<Part> = whole
            .keys
            .iter()
            .zip(key)
            .map(|(k, value)| {
                let (value, type_id) = probe::as_compared(k, value);
                Part {
                    column: &k.parent_column,
                    value,
                    type_id,
                }
            })
            .collect();
        partition::leaves_for(whole.parent, whole.index, &parts)
            .into_iter()
            .map(|leaf| self.probe(whole, leaf))
            .collect()
    }

    fn probe(&self, whole: &Probe, leaf: Leaf) -> Rc<Probe> {
        let name = (u32::from(leaf.table), u32::from(leaf.index));
        let known = self.known.borrow().get(&name).cloned();
        known.unwrap_or_else(|| {
            let attnum = partition::column_number(leaf.table, &self.org_column);
            let org = whole.org.filter(|_| attnum > 0);
            let org = org.map(|org| KeyColumn { attnum, ..org });
            let probe = Rc::new(whole.for_partition(leaf, org));
            self.known.borrow_mut().insert(name, probe.clone());
            probe
        })
    }
}

/// `probe::find()` wherever the parent's rows are.
pub fn find(probe: &Probe, leaves: Option<&Leaves>, key: &[Value], org: &Keys) -> Parent {
    // A key that cannot be looked up is told apart there.
    let Some(leaves) = leaves.filter(|_| probe.is_known()) else {
        return probe::find(probe, key, org);
    };
    leaves
        .probes(probe, key)
        .iter()
        .map(|leaf| probe::find(leaf, key, org))
        .find(|found| *found != Parent::Missing)
        .unwrap_or(Parent::Missing)
}

/// What stands at the other end of an existing reference, without a lock.
pub fn peek(probe: &Probe, leaves: Option<&Leaves>, key: &[Value], org: &Keys) -> Parent {
    let Some(leaves) = leaves.filter(|_| probe.is_known()) else {
        return probe::peek(probe, key, org);
    };
    leaves
        .probes(probe, key)
        .iter()
        .map(|leaf| probe::peek(leaf, key, org))
        .find(|found| *found != Parent::Missing)
        .unwrap_or(Parent::Missing)
}
