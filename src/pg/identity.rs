//! Which database role is asking, and acting as the extension's owner for our own tables.

use super::catalog;
use pgrx::pg_sys;
use std::ffi::CStr;

unsafe extern "C-unwind" {
    // Declared here without pgrx's guard: they read a variable, never raise, and stand on the per-row path.
    fn GetSessionUserId() -> pg_sys::Oid;
    fn GetUserIdAndSecContext(user: *mut pg_sys::Oid, context: *mut i32);
    fn InNoForceRLSOperation() -> bool;
    fn IsLogicalWorker() -> bool;
}

/// Everything about who runs the present line of code that an answer may rest on: the login, the role in force, and
/// whether PostgreSQL has put restrictions on it. Compared on the per-row path.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Runner {
    login: pg_sys::Oid,
    user: pg_sys::Oid,
    context: i32,
}

#[inline]
pub fn runner() -> Runner {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: reads backend variables.
    unsafe { GetUserIdAndSecContext(&mut user, &mut context) };
    Runner {
        login: session_user(),
        user,
        context,
    }
}

/// Whether code runs that is not the caller's own to vouch for: PostgreSQL runs the functions in a table's indexes,
/// views and the like as the table's owner, restricted, whoever started ANALYZE (a superuser, autovacuum).
pub fn is_restricted() -> bool {
    // SAFETY: reads a backend variable.
    unsafe { pg_sys::InSecurityRestrictedOperation() }
}

/// The role in force right now: a SECURITY DEFINER function's owner inside of it.
fn current_user() -> pg_sys::Oid {
    // SAFETY: reads a backend variable.
    unsafe { pg_sys::GetUserId() }
}

/// Whether a SECURITY DEFINER function (or a demotion by PostgreSQL) is in effect.
pub fn is_lent() -> bool {
    current_user() != outer_user()
}

/// Whether both the caller and the role in force satisfy `test`, unrestricted: strength is neither lent by a definer
/// function to its caller, nor by a caller to the code he runs into.
pub fn both(test: impl Fn(pg_sys::Oid) -> bool) -> bool {
    !is_restricted() && test(outer_user()) && test(current_user())
}

/// The login: what the connection authenticated as, or SET SESSION AUTHORIZATION made of it.
#[inline]
pub fn session_user() -> pg_sys::Oid {
    // SAFETY: reads a backend variable.
    unsafe { GetSessionUserId() }
}

/// The role in force outside of any SECURITY DEFINER function: the login, or what SET ROLE made of it. A definer
/// function of a stronger role must not lend its strength to the caller's governance acts.
pub fn outer_user() -> pg_sys::Oid {
    // SAFETY: reads a backend variable.
    unsafe { pg_sys::GetOuterUserId() }
}

/// Login and role, those of SET SESSION AUTHORIZATION and SET ROLE; definer functions change neither.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    session: pg_sys::Oid,
    outer: pg_sys::Oid,
}

pub fn roles() -> Roles {
    Roles {
        session: session_user(),
        outer: outer_user(),
    }
}

/// Whether row security leaves the session's role alone.
pub fn outer_bypasses() -> bool {
    // SAFETY: a syscache look-up.
    unsafe { pg_sys::has_bypassrls_privilege(outer_user()) }
}

/// The setting row_security.
pub fn row_security() -> bool {
    // SAFETY: reads a GUC variable.
    unsafe { pg_sys::row_security }
}

pub fn role_name(role: pg_sys::Oid) -> Option<String> {
    // SAFETY: noerr = true, so a vanished role is NULL; the name is palloc'd and copied at once.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

/// Whether the role has this name now: `role_name` without a copy.
pub fn is_named(role: pg_sys::Oid, name: &str) -> bool {
    // SAFETY: the tuple is checked for NULL and released; the name in it is NUL-terminated.
    unsafe {
        let tuple =
            pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::AUTHOID as i32, role.into());
        if tuple.is_null() {
            return false;
        }
        let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_authid>();
        let same = CStr::from_ptr((*form).rolname.data.as_ptr()).to_bytes() == name.as_bytes();
        pg_sys::ReleaseSysCache(tuple);
        same
    }
}

/// The role of this name now.
pub fn role_id(name: &str) -> Option<pg_sys::Oid> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: missing_ok = true answers InvalidOid.
    let role = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
    (role != pg_sys::InvalidOid).then_some(role)
}

pub fn is_superuser(role: pg_sys::Oid) -> bool {
    // SAFETY: a syscache look-up.
    unsafe { pg_sys::superuser_arg(role) }
}

/// Whether `member` holds the privileges of `role` (owner checks).
pub fn has_privileges_of(member: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: a syscache look-up.
    unsafe { pg_sys::has_privs_of_role(member, role) }
}

/// Break-glass (spec 1): `SET row_security = off` by a role that may bypass row security. pg_dump and pg_restore
/// set it themselves. The caller and the role in force must both have the right: a definer function of a superuser is no
/// way in, nor is code of a weaker role that a superuser runs into.
pub fn break_glass() -> bool {
    if row_security() {
        return false;
    }
    // SAFETY: syscache look-ups.
    both(|role| unsafe { pg_sys::has_bypassrls_privilege(role) })
}

/// Whether the role in force, and the caller, may bypass row security: PostgreSQL's own look at a table then sees it whole.
pub fn may_bypass_row_security() -> bool {
    // SAFETY: syscache look-ups.
    both(|role| unsafe { pg_sys::has_bypassrls_privilege(role) })
}

/// Whether PostgreSQL's own referential-integrity query is running (it runs as the table's owner without row security).
#[inline]
pub fn in_referential_action() -> bool {
    // SAFETY: reads a backend variable.
    unsafe { InNoForceRLSOperation() }
}

/// A logical replication worker applies what the publisher already checked.
pub fn is_logical_worker() -> bool {
    // SAFETY: reads a backend variable.
    unsafe { IsLogicalWorker() }
}

/// Whether a script of CREATE or ALTER EXTENSION is running.
pub fn makes_extension() -> bool {
    // SAFETY: reads a backend variable.
    unsafe { pg_sys::creating_extension }
}

struct Acting {
    user: pg_sys::Oid,
    context: i32,
    nest: i32,
}

impl Drop for Acting {
    fn drop(&mut self) {
        // SAFETY: restores what `as_owner` saved. While an error unwinds, the (sub)transaction's abort rolls the
        // nested settings back itself.
        unsafe {
            if !std::thread::panicking() {
                pg_sys::AtEOXact_GUC(true, self.nest);
            }
            pg_sys::SetUserIdAndSecContext(self.user, self.context);
        }
    }
}

/// Runs `work` as a table's owner, restricted, the way PostgreSQL itself maintains tables: what the table brings along
/// (casts, constraint and index expressions that get evaluated) runs with no more rights than its owner has.
pub fn as_table_owner<R>(owner: pg_sys::Oid, work: impl FnOnce() -> R) -> R {
    acting_as(owner, pg_sys::SECURITY_RESTRICTED_OPERATION as i32, work)
}

/// `as_table_owner`, from whom forced row security hides nothing, as in PostgreSQL's own referential checks.
pub fn as_unhidden_table_owner<R>(owner: pg_sys::Oid, work: impl FnOnce() -> R) -> R {
    let restrictions =
        pg_sys::SECURITY_RESTRICTED_OPERATION as i32 | pg_sys::SECURITY_NOFORCE_RLS as i32;
    acting_as(owner, restrictions, work)
}

/// `as_table_owner` for changes that are nobody's business but the column's: no trigger or rule of the application fires
/// (those that are to fire always do), and no row is hidden from its own table's owner.
pub fn as_table_owner_silently<R>(owner: pg_sys::Oid, work: impl FnOnce() -> R) -> R {
    let restrictions =
        pg_sys::SECURITY_RESTRICTED_OPERATION as i32 | pg_sys::SECURITY_NOFORCE_RLS as i32;
    acting_as(owner, restrictions, || {
        // SAFETY: within the nesting level of settings that acting_as() ends.
        unsafe {
            pg_sys::set_config_option(
                c"session_replication_role".as_ptr(),
                c"replica".as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
        work()
    })
}

/// Runs `work` as the extension's owner with `search_path = pg_catalog, pg_temp`, as a SECURITY DEFINER function
/// would; the caller has been checked by then. Queries inside still qualify every name.
pub fn as_owner<R>(work: impl FnOnce() -> R) -> R {
    acting_as(catalog::house().owner, 0, work)
}

fn acting_as<R>(role: pg_sys::Oid, restrictions: i32, work: impl FnOnce() -> R) -> R {
    // SAFETY: the same sequence as fmgr_security_definer(); undone by `Acting` on every way out.
    let _acting = unsafe {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let nest = pg_sys::NewGUCNestLevel();
        pg_sys::SetUserIdAndSecContext(
            role,
            // What a referential action is lent (no row security) is not for what runs inside it.
            (context & !(pg_sys::SECURITY_NOFORCE_RLS as i32))
                | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32
                | restrictions,
        );
        let acting = Acting {
            user,
            context,
            nest,
        };
        pg_sys::set_config_option(
            c"search_path".as_ptr(),
            c"pg_catalog, pg_temp".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        acting
    };
    work()
}

/// The client's address without its port; None on a unix socket and in background processes.
pub fn client_address() -> Option<String> {
    // SAFETY: inet_client_addr() takes no argument and may answer NULL.
    unsafe {
        pgrx::direct_function_call::<pgrx::datum::Inet>(pg_sys::inet_client_addr, &[])
            .map(|inet| inet.0.split('/').next().unwrap_or_default().to_string())
    }
}
