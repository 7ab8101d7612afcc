//! What an event trigger gets to see.

use pgrx::prelude::*;
use std::ffi::CStr;

/// The extensions named by the DROP EXTENSION that fired the event trigger.
///
/// SAFETY: `fcinfo` is the one that PostgreSQL's function manager passed.
pub unsafe fn dropped_extensions(fcinfo: pg_sys::FunctionCallInfo) -> Vec<String> {
    // SAFETY: node tags say what the pointers point to; DropStmt.objects of extensions are String nodes.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_EventTriggerData {
            return vec![];
        }
        let tree = (*context.cast::<pg_sys::EventTriggerData>()).parsetree;
        if tree.is_null() || (*tree).type_ != pg_sys::NodeTag::T_DropStmt {
            return vec![];
        }
        let statement = tree.cast::<pg_sys::DropStmt>();
        if (*statement).removeType != pg_sys::ObjectType::OBJECT_EXTENSION {
            return vec![];
        }
        let list = (*statement).objects;
        (0..if list.is_null() { 0 } else { (*list).length })
            .map(|i| {
                let node = (*(*list).elements.add(i as usize))
                    .ptr_value
                    .cast::<pg_sys::String>();
                CStr::from_ptr((*node).sval).to_string_lossy().into_owned()
            })
            .collect()
    }
}
