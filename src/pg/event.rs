//! What an event trigger gets to see.

use super::fail;
use pgrx::prelude::*;
use std::ffi::CStr;

/// What the DROP that fired the event trigger names.
pub enum Dropped {
    Extensions(Vec<String>),
    Schemas(Vec<String>),
    /// Everything that these roles own.
    OwnedBy(Vec<String>),
    Other,
}

/// SAFETY: `fcinfo` is that of an event trigger.
pub unsafe fn dropped(fcinfo: pg_sys::FunctionCallInfo) -> Dropped {
    // SAFETY: node tags say what the pointers point to; extensions and schemas are named by String nodes, owners by
    // RoleSpec nodes.
    unsafe {
        let tree = (*(*fcinfo).context.cast::<pg_sys::EventTriggerData>()).parsetree;
        if tree.is_null() {
            return Dropped::Other;
        }
        match (*tree).type_ {
            pg_sys::NodeTag::T_DropStmt => {
                let statement = tree.cast::<pg_sys::DropStmt>();
                let names = strings((*statement).objects);
                match (*statement).removeType {
                    pg_sys::ObjectType::OBJECT_EXTENSION => Dropped::Extensions(names),
                    pg_sys::ObjectType::OBJECT_SCHEMA => Dropped::Schemas(names),
                    _ => Dropped::Other,
                }
            }
            pg_sys::NodeTag::T_DropOwnedStmt => {
                Dropped::OwnedBy(roles((*tree.cast::<pg_sys::DropOwnedStmt>()).roles))
            }
            _ => Dropped::Other,
        }
    }
}

/// SAFETY: a list of nodes, or NULL.
pub(super) unsafe fn nodes(list: *mut pg_sys::List) -> Vec<*mut pg_sys::Node> {
    if list.is_null() {
        return vec![];
    }
    // SAFETY: as the function's own.
    unsafe {
        (0..(*list).length as usize)
            .map(|i| (*(*list).elements.add(i)).ptr_value.cast())
            .collect()
    }
}

/// SAFETY: a list of nodes; only the String nodes in it are read.
unsafe fn strings(list: *mut pg_sys::List) -> Vec<String> {
    // SAFETY: as the function's own.
    unsafe {
        nodes(list)
            .into_iter()
            .filter(|node| (**node).type_ == pg_sys::NodeTag::T_String)
            .map(|node| text((*node.cast::<pg_sys::String>()).sval))
            .collect()
    }
}

/// SAFETY: a list of RoleSpec nodes.
unsafe fn roles(list: *mut pg_sys::List) -> Vec<String> {
    // SAFETY: as the function's own; get_rolespec_oid() resolves CURRENT_USER and the like.
    unsafe {
        nodes(list)
            .into_iter()
            .filter_map(|node| {
                let role = pg_sys::get_rolespec_oid(node.cast(), true);
                super::identity::role_name(role)
            })
            .collect()
    }
}

/// SAFETY: a NUL-terminated string.
unsafe fn text(pointer: *const std::ffi::c_char) -> String {
    // SAFETY: as the function's own.
    unsafe { CStr::from_ptr(pointer) }
        .to_string_lossy()
        .into_owned()
}

/// Raises unless an event trigger calls.
///
/// SAFETY: `fcinfo` is the one that PostgreSQL's function manager passed.
pub unsafe fn require(fcinfo: pg_sys::FunctionCallInfo, name: &str) {
    // SAFETY: the node tag says what the context points to.
    let called = unsafe {
        let context = (*fcinfo).context;
        !context.is_null() && (*context).type_ == pg_sys::NodeTag::T_EventTriggerData
    };
    if !called {
        fail(
            PgSqlErrorCode::ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED,
            format!("tenancy.{name}() is an event trigger's function"),
        )
        .set_detail("No event trigger called it.")
        .set_hint("The extension makes the event triggers that call it.")
        .report(PgLogLevel::ERROR);
    }
}

/// What ALTER TABLE ... DETACH PARTITION names, as the names resolve now.
pub struct Detached {
    pub table: pg_sys::Oid,
    pub partition: pg_sys::Oid,
    pub concurrently: bool,
}

/// The relation of this name now, without a lock; InvalidOid where there is none.
///
/// SAFETY: a RangeVar.
pub unsafe fn find(name: *mut pg_sys::RangeVar) -> pg_sys::Oid {
    // SAFETY: as the function's own.
    unsafe {
        pg_sys::RangeVarGetRelidExtended(
            name,
            pg_sys::NoLock as i32,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            std::ptr::null_mut(),
        )
    }
}

/// SAFETY: `fcinfo` is that of an event trigger.
pub unsafe fn detached(fcinfo: pg_sys::FunctionCallInfo) -> Option<Detached> {
    // SAFETY: node tags say what the pointers point to; a missing table answers InvalidOid, without a lock.
    unsafe {
        let tree = (*(*fcinfo).context.cast::<pg_sys::EventTriggerData>()).parsetree;
        if tree.is_null() || (*tree).type_ != pg_sys::NodeTag::T_AlterTableStmt {
            return None;
        }
        let statement = tree.cast::<pg_sys::AlterTableStmt>();
        let command = nodes((*statement).cmds).into_iter().find(|node| {
            (*node.cast::<pg_sys::AlterTableCmd>()).subtype
                == pg_sys::AlterTableType::AT_DetachPartition
        })?;
        let partition = (*command.cast::<pg_sys::AlterTableCmd>())
            .def
            .cast::<pg_sys::PartitionCmd>();
        Some(Detached {
            table: find((*statement).relation),
            partition: find((*partition).name),
            concurrently: (*partition).concurrent,
        })
    }
}

/// The tables whose indexes a DROP INDEX names.
///
/// SAFETY: the call of an event trigger.
pub unsafe fn losing_an_index(fcinfo: pg_sys::FunctionCallInfo) -> Vec<pg_sys::Oid> {
    // SAFETY: node tags say what the pointers point to; an index is named by a list of String nodes.
    unsafe {
        let tree = (*(*fcinfo).context.cast::<pg_sys::EventTriggerData>()).parsetree;
        if tree.is_null() || (*tree).type_ != pg_sys::NodeTag::T_DropStmt {
            return vec![];
        }
        let statement = tree.cast::<pg_sys::DropStmt>();
        if (*statement).removeType != pg_sys::ObjectType::OBJECT_INDEX {
            return vec![];
        }
        nodes((*statement).objects)
            .into_iter()
            .map(|name| find(pg_sys::makeRangeVarFromNameList(name.cast())))
            .map(|index| pg_sys::IndexGetRelation(index, true))
            .filter(|table| *table != pg_sys::InvalidOid)
            .collect()
    }
}

/// Whether the command is CREATE TABLE AS or SELECT INTO.
///
/// SAFETY: the call of an event trigger.
pub unsafe fn fills_a_table(fcinfo: pg_sys::FunctionCallInfo) -> bool {
    // SAFETY: as the function's own.
    unsafe {
        let tree = (*(*fcinfo).context.cast::<pg_sys::EventTriggerData>()).parsetree;
        !tree.is_null()
            && (*tree).type_ == pg_sys::NodeTag::T_CreateTableAsStmt
            && (*tree.cast::<pg_sys::CreateTableAsStmt>()).objtype
                == pg_sys::ObjectType::OBJECT_TABLE
    }
}

/// The relations that a CREATE TABLE names in LIKE.
///
/// SAFETY: the call of an event trigger.
pub unsafe fn like(fcinfo: pg_sys::FunctionCallInfo) -> Vec<pg_sys::Oid> {
    // SAFETY: node tags say what the pointers point to; a name that is gone answers InvalidOid.
    unsafe {
        let tree = (*(*fcinfo).context.cast::<pg_sys::EventTriggerData>()).parsetree;
        if tree.is_null() {
            return vec![];
        }
        let tables = match (*tree).type_ {
            pg_sys::NodeTag::T_CreateSchemaStmt => {
                nodes((*tree.cast::<pg_sys::CreateSchemaStmt>()).schemaElts)
            }
            _ => vec![tree],
        };
        tables
            .into_iter()
            .filter(|table| (**table).type_ == pg_sys::NodeTag::T_CreateStmt)
            .flat_map(|table| nodes((*table.cast::<pg_sys::CreateStmt>()).tableElts))
            .filter(|node| (**node).type_ == pg_sys::NodeTag::T_TableLikeClause)
            .map(|node| find((*node.cast::<pg_sys::TableLikeClause>()).relation))
            .collect()
    }
}
