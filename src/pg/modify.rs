//! A statement that writes one table, as the executor has it: its triggers and its row checks.
//!
//! The executor works on a copy of the table's triggers of its own (InitResultRelInfo), so one that has nothing left to do
//! in this statement can be left out of it, and nobody else sees that.

use super::key::ByKind;
use super::plan::elements;
use super::trigger::Event;
use pgrx::prelude::*;

/// A trigger that is not to fire, in the words of pg_trigger.tgenabled.
const DISABLED: std::ffi::c_char = b'D' as std::ffi::c_char;

/// A plain INSERT, UPDATE or DELETE of one table.
pub struct Write {
    pub relid: pg_sys::Oid,
    pub event: Event,
    partitioned: bool,
    plan: *mut pg_sys::ModifyTable,
    triggers: *mut pg_sys::TriggerDesc,
}

impl Write {
    /// What a started query writes, if it is such a statement and the table has triggers. An upsert is two statements in
    /// one and none of these.
    ///
    /// SAFETY: a started query; it outlives the answer.
    #[inline]
    pub unsafe fn of(query: *mut pg_sys::QueryDesc) -> Option<Write> {
        // SAFETY: as the function's own; the executor has a place for each entry of the range table, counted from 1.
        unsafe {
            let statement = (*query).plannedstmt;
            let event = match (*statement).commandType {
                pg_sys::CmdType::CMD_INSERT => Event::Insert,
                pg_sys::CmdType::CMD_UPDATE => Event::Update,
                pg_sys::CmdType::CMD_DELETE => Event::Delete,
                _ => return None,
            };
            let (plan, targets) = ((*statement).planTree, (*statement).resultRelations);
            if plan.is_null()
                || (*plan).type_ != pg_sys::NodeTag::T_ModifyTable
                || targets.is_null()
                || (*targets).length != 1
                || (*(*query).estate).es_result_relations.is_null()
            {
                return None;
            }
            let plan = plan.cast::<pg_sys::ModifyTable>();
            if (*plan).onConflictAction == pg_sys::OnConflictAction::ONCONFLICT_UPDATE
                || (*plan).rootRelation != 0
            {
                return None;
            }
            let number = (*(*targets).elements).int_value as usize;
            let target = *(*(*query).estate).es_result_relations.add(number - 1);
            if target.is_null() || (*target).ri_TrigDesc.is_null() {
                return None;
            }
            Some(Write {
                relid: (*(*target).ri_RelationDesc).rd_id,
                event,
                partitioned: (*(*(*target).ri_RelationDesc).rd_rel).relkind as u8
                    == pg_sys::RELKIND_PARTITIONED_TABLE,
                plan,
                triggers: (*target).ri_TrigDesc,
            })
        }
    }

    /// Whether the executor's count of rows is that of the rows of this table. A rule's own statement adds nothing to it,
    /// and the rows of a partitioned table are its partitions', whose triggers fire.
    pub fn counts(&self) -> bool {
        // SAFETY: the plan outlives this.
        !self.partitioned && unsafe { (*self.plan).canSetTag }
    }

    /// The trigger that calls a function.
    fn trigger(&self, function: pg_sys::Oid) -> Option<*mut pg_sys::Trigger> {
        // SAFETY: the descriptor holds so many triggers.
        unsafe {
            (0..(*self.triggers).numtriggers as usize)
                .map(|i| (*self.triggers).triggers.add(i))
                .find(|trigger| (**trigger).tgfoid == function)
        }
    }

    /// Whether the trigger that calls this function would fire.
    pub fn fires(&self, function: pg_sys::Oid) -> bool {
        self.trigger(function)
            // SAFETY: one of the descriptor's.
            .is_some_and(|trigger| unsafe { (*trigger).tgenabled } != DISABLED)
    }

    /// Whether the trigger that calls this function is there and does not fire.
    pub fn left_out(&self, function: pg_sys::Oid) -> bool {
        self.trigger(function)
            // SAFETY: one of the descriptor's.
            .is_some_and(|trigger| unsafe { (*trigger).tgenabled } == DISABLED)
    }

    /// Leaves out the trigger that calls this function, for the rest of the statement.
    pub fn leave_out(&self, function: pg_sys::Oid) {
        let Some(trigger) = self.trigger(function) else {
            return;
        };
        // SAFETY: the executor's own copy of the table's triggers.
        unsafe {
            let kind = self.kind_of(trigger);
            (*trigger).tgenabled = DISABLED;
            let alike = (0..(*self.triggers).numtriggers as usize)
                .map(|i| (*self.triggers).triggers.add(i))
                .any(|other| other != trigger && self.kind_of(other) == kind);
            if alike {
                return;
            }
            // The only one of its kind: the executor need not look for others.
            let all = &mut *self.triggers;
            match (self.event, kind.0, kind.1) {
                (Event::Insert, true, false) => all.trig_insert_after_row = false,
                (Event::Insert, false, true) => all.trig_insert_before_statement = false,
                (Event::Update, false, true) => all.trig_update_before_statement = false,
                (Event::Delete, false, true) => all.trig_delete_before_statement = false,
                _ => {}
            }
        }
    }

    /// Whether a trigger is for rows, whether it is a BEFORE trigger, and whether it fires for this event.
    ///
    /// SAFETY: one of the descriptor's.
    unsafe fn kind_of(&self, trigger: *const pg_sys::Trigger) -> (bool, bool, bool) {
        // SAFETY: as the function's own.
        let kind = u32::from(unsafe { (*trigger).tgtype } as u16);
        let event = match self.event {
            Event::Insert => pg_sys::TRIGGER_TYPE_INSERT,
            Event::Update => pg_sys::TRIGGER_TYPE_UPDATE,
            Event::Delete => pg_sys::TRIGGER_TYPE_DELETE,
            Event::Truncate => pg_sys::TRIGGER_TYPE_TRUNCATE,
        };
        (
            kind & pg_sys::TRIGGER_TYPE_ROW != 0,
            kind & pg_sys::TRIGGER_TYPE_BEFORE != 0,
            kind & event != 0,
        )
    }

    /// Whether row security puts every new row to `check`, with a column of the row as its second argument.
    pub fn is_checked_by(&self, check: pg_sys::Oid, column: i16) -> bool {
        // SAFETY: a list with a list of row checks for each table; the nodes' tags say what they are.
        unsafe {
            elements::<pg_sys::List>((*self.plan).withCheckOptionLists)
                .iter()
                .flat_map(|list| elements::<pg_sys::WithCheckOption>(*list))
                .any(|option| {
                    (**option).kind == pg_sys::WCOKind::WCO_RLS_INSERT_CHECK
                        && has_column(qual((**option).qual), check, column)
                })
        }
    }
}

/// The condition of a row check: in a plan a list of what must all be true, with one element where it is one call.
///
/// SAFETY: an expression, a list of such, or NULL.
unsafe fn qual(node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: as the function's own.
    unsafe {
        if node.is_null() || (*node).type_ != pg_sys::NodeTag::T_List {
            return node;
        }
        match *elements::<pg_sys::Node>(node.cast()) {
            [only] => only,
            _ => std::ptr::null_mut(),
        }
    }
}

/// SAFETY: an expression, or NULL.
unsafe fn has_column(node: *mut pg_sys::Node, function: pg_sys::Oid, column: i16) -> bool {
    // SAFETY: as the function's own; the nodes' tags say what they are.
    unsafe {
        if node.is_null() || (*node).type_ != pg_sys::NodeTag::T_FuncExpr {
            return false;
        }
        let call = node.cast::<pg_sys::FuncExpr>();
        (*call).funcid == function
            && matches!(*elements::<pg_sys::Node>((*call).args), [_, org, _]
                if is_column(org, column))
    }
}

/// Whether an expression is a column as it is; a varchar one is relabelled as text.
///
/// SAFETY: an expression.
unsafe fn is_column(mut node: *mut pg_sys::Node, column: i16) -> bool {
    // SAFETY: as the function's own; the nodes' tags say what they are.
    unsafe {
        if (*node).type_ == pg_sys::NodeTag::T_RelabelType {
            node = (*node.cast::<pg_sys::RelabelType>()).arg.cast();
        }
        (*node).type_ == pg_sys::NodeTag::T_Var && (*node.cast::<pg_sys::Var>()).varattno == column
    }
}

/// Leaves the second of two equal calls of `check` out of a query's row checks: the twins of a policy (spec 5.1) ask the
/// same of every row.
///
/// SAFETY: a query that is about to be planned.
pub unsafe fn check_once(query: *mut pg_sys::Query, check: ByKind) {
    // SAFETY: as the function's own; the list holds row checks.
    unsafe {
        let options = elements::<pg_sys::WithCheckOption>((*query).withCheckOptions);
        let is_repeated = |i: usize| {
            let this = options[i];
            let node = (*this).qual;
            !node.is_null()
                && (*node).type_ == pg_sys::NodeTag::T_FuncExpr
                && check
                    .kind_of((*node.cast::<pg_sys::FuncExpr>()).funcid)
                    .is_some()
                && options[..i].iter().any(|that| {
                    (**that).kind == (*this).kind
                        && pg_sys::equal((**that).qual.cast(), node.cast())
                })
        };
        let kept: Vec<_> = (0..options.len())
            .filter(|i| !is_repeated(*i))
            .map(|i| options[i])
            .collect();
        if kept.len() < options.len() {
            (*query).withCheckOptions = super::plan::list_of(&kept);
        }
    }
}
