//! The `app.*` settings: what the session says about itself. A claim, worth nothing until membership backs it.
//!
//! The check hook stamps each value with the number of the transaction that set it. PostgreSQL carries that stamp
//! along with the value through SET LOCAL, savepoints, ROLLBACK and function SET clauses, so a context left behind
//! by an earlier transaction (a pooler's previous client) is told from one that was set in this one.

use super::{cursors, standing, transaction};
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};

/// 255 bytes: a uuid, or an application's own key, and nothing that could hide in a log line.
const LONGEST: usize = 255;

pub static ONE_ORG_PER_TRANSACTION: GucSetting<bool> = GucSetting::<bool>::new(true);
/// Milliseconds.
pub static SEAL_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(10_000);
pub static DEDICATED_AUDIT_LIMIT: GucSetting<i32> = GucSetting::<i32>::new(1000);
pub static ON_DRIFT: GucSetting<OnDrift> = GucSetting::<OnDrift>::new(OnDrift::Refuse);
pub static TOKEN_LEEWAY: GucSetting<i32> = GucSetting::<i32>::new(10);
pub static MISSING_CONTEXT: GucSetting<MissingContext> =
    GucSetting::<MissingContext>::new(MissingContext::Empty);
pub static MAX_OWNED_ORGS: GucSetting<i32> = GucSetting::<i32>::new(0);

/// What follows a command that weakens a protected table.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum OnDrift {
    #[name = c"refuse"]
    Refuse,
    #[name = c"mend"]
    Mend,
    #[name = c"warn"]
    Warn,
}

/// What a read of a protected table answers where no organization is in effect. A write is always refused.
#[derive(Clone, Copy, PartialEq, PostgresGucEnum)]
pub enum MissingContext {
    #[name = c"empty"]
    Empty,
    #[name = c"error"]
    Error,
}

/// One string setting and the transaction that set its present value.
struct Claim {
    value: Cell<*mut c_char>,
    stamp: Cell<u64>,
}

struct Claims([Claim; 7]);
// SAFETY: a backend has one thread; PostgreSQL writes `value` from it alone.
unsafe impl Sync for Claims {}

impl Claim {
    const fn unset() -> Claim {
        Claim {
            value: Cell::new(std::ptr::null_mut()),
            stamp: Cell::new(0),
        }
    }
}

static CLAIMS: Claims = Claims([const { Claim::unset() }; 7]);

#[derive(Clone, Copy)]
pub enum Setting {
    Org,
    User,
    Project,
    Cluster,
    ActorType,
    RequestId,
    ClientAddr,
}

/// What a claim says: its text, and whether this transaction set it.
pub struct Claimed {
    pub text: String,
    pub in_this_transaction: bool,
}

/// The present value of a setting; '' and NULL both mean unset.
pub fn claimed(setting: Setting) -> Option<Claimed> {
    let claim = &CLAIMS.0[setting as usize];
    let value = claim.value.get();
    if value.is_null() {
        return None;
    }
    // SAFETY: PostgreSQL keeps the current value of a string setting as a NUL-terminated string.
    let text = unsafe { CStr::from_ptr(value) }.to_string_lossy();
    (!text.is_empty()).then(|| Claimed {
        text: text.into_owned(),
        // A worker is started only for a leader whose context held (hooks/statement.rs), and sets the copied values
        // in a transaction of its own.
        in_this_transaction: pgrx_in_worker() || claim.stamp.get() == transaction::serial(),
    })
}

fn pgrx_in_worker() -> bool {
    crate::pg::transaction::in_parallel_worker()
}

pub fn text(setting: Setting) -> Option<String> {
    claimed(setting).map(|c| c.text)
}

thread_local! {
    // While a setting is being defined, how many of the values that a session set before the library was loaded are
    // older than this transaction: 0 or 1, and then the first that PostgreSQL applies.
    static LOADING: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Refuses what can be neither uuid nor key, and stamps the value. No catalog access here: it runs at start-up too.
///
/// SAFETY: called by PostgreSQL with a valid pointer to the new value (or to NULL).
unsafe extern "C-unwind" fn check(
    newval: *mut *mut c_char,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: as above; `extra` receives memory that PostgreSQL frees the way its allocator here made it.
    unsafe {
        if !(*newval).is_null() {
            let bytes = CStr::from_ptr(*newval).to_bytes();
            if bytes.len() > LONGEST || bytes.iter().any(|b| b.is_ascii_control()) {
                return false;
            }
        }
        // Only a SET of the session can belong to a transaction; ALTER ROLE, ALTER DATABASE and PGOPTIONS cannot.
        let stamp = match source {
            pg_sys::GucSource::PGC_S_SESSION => match LOADING.get() {
                Some(older @ 1..) => {
                    LOADING.set(Some(older - 1));
                    0
                }
                _ => transaction::serial(),
            },
            _ => 0,
        };
        let memory = allocate(size_of::<u64>()).cast::<u64>();
        if memory.is_null() {
            return false;
        }
        *memory = stamp;
        *extra = memory.cast();
        true
    }
}

/// SAFETY: what is not handed to PostgreSQL as `extra` is never freed.
#[cfg(feature = "pg15")]
unsafe fn allocate(size: usize) -> *mut c_void {
    unsafe extern "C" {
        fn malloc(size: usize) -> *mut c_void;
    }
    // SAFETY: PostgreSQL 15 frees `extra` with free().
    unsafe { malloc(size) }
}

#[cfg(not(feature = "pg15"))]
unsafe fn allocate(size: usize) -> *mut c_void {
    unsafe extern "C-unwind" {
        fn guc_malloc(elevel: std::ffi::c_int, size: usize) -> *mut c_void;
    }
    // SAFETY: from 16 on PostgreSQL frees `extra` with guc_free().
    unsafe { guc_malloc(pg_sys::LOG as std::ffi::c_int, size) }
}

/// SAFETY: as an assign hook: what `check` made or NULL, before PostgreSQL puts it in place.
unsafe fn assign(setting: Setting, newval: *const c_char, extra: *mut c_void) {
    let claim = &CLAIMS.0[setting as usize];
    // SAFETY: as the function's own.
    unsafe {
        claim.stamp.set(if extra.is_null() {
            0
        } else {
            *extra.cast::<u64>()
        });
        if cursors::any() && matches!(setting, Setting::Org | Setting::User) {
            let (old, new) = (said(claim.value.get()), said(newval));
            if old != new {
                cursors::on_change(new.is_empty());
            }
        }
    }
    standing::invalidate();
}

/// SAFETY: a NUL-terminated string that outlives its use, or NULL.
unsafe fn said<'a>(value: *const c_char) -> &'a [u8] {
    if value.is_null() {
        return b"";
    }
    // SAFETY: as the function's own.
    unsafe { CStr::from_ptr(value) }.to_bytes()
}

macro_rules! assign_hooks {
    ($($name:ident => $setting:ident),*) => {$(
        /// SAFETY: called by PostgreSQL with what `check` made, or NULL for the boot value.
        unsafe extern "C-unwind" fn $name(newval: *const c_char, extra: *mut c_void) {
            // SAFETY: as above.
            unsafe { assign(Setting::$setting, newval, extra) }
        }
    )*};
}
assign_hooks!(assign_org => Org, assign_user => User, assign_project => Project, assign_cluster => Cluster,
              assign_actor_type => ActorType, assign_request_id => RequestId, assign_client_addr => ClientAddr);

type AssignHook = unsafe extern "C-unwind" fn(*const c_char, *mut c_void);

fn define(
    setting: Setting,
    name: &CStr,
    what: &CStr,
    check: pg_sys::GucStringCheckHook,
    assign: AssignHook,
) {
    LOADING.set(Some(older_values(name)));
    // SAFETY: name and text are static, the variable lives as long as the backend, the hooks do not panic.
    unsafe {
        pg_sys::DefineCustomStringVariable(
            name.as_ptr(),
            what.as_ptr(),
            c"A claim: worth nothing until the principal's membership backs it.".as_ptr(),
            CLAIMS.0[setting as usize].value.as_ptr(),
            c"".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            0,
            check,
            Some(assign),
            None,
        );
    }
    LOADING.set(None);
}

/// How many values of this placeholder were set in an earlier transaction: PostgreSQL applies them again, oldest first.
/// One at most: the session's value, at the bottom of the stack of what this transaction set over it.
fn older_values(name: &CStr) -> usize {
    // SAFETY: a custom setting that is a placeholder is a string setting.
    unsafe {
        let Some(placeholder) = find(name) else {
            return 0;
        };
        let mut entry = (*placeholder).gen_.stack;
        if entry.is_null() {
            return 1;
        }
        while !(*entry).prev.is_null() {
            entry = (*entry).prev;
        }
        usize::from((*entry).prior.val.stringval != (*placeholder).reset_val)
    }
}

/// SAFETY: the name is that of a string setting, if it is known at all.
#[cfg(feature = "pg15")]
unsafe fn find(name: &CStr) -> Option<*mut pg_sys::config_string> {
    // SAFETY: the array holds GetNumConfigOptions() pointers to settings, each with a name.
    unsafe {
        let all = pg_sys::get_guc_variables();
        (0..pg_sys::GetNumConfigOptions() as usize)
            .map(|i| *all.add(i))
            .find(|generic| CStr::from_ptr((**generic).name) == name)
            .map(|generic| generic.cast())
    }
}

/// SAFETY: as above.
#[cfg(not(feature = "pg15"))]
unsafe fn find(name: &CStr) -> Option<*mut pg_sys::config_string> {
    unsafe extern "C-unwind" {
        fn find_option(
            name: *const c_char,
            create_placeholders: bool,
            skip_errors: bool,
            elevel: std::ffi::c_int,
        ) -> *mut pg_sys::config_generic;
    }
    // SAFETY: answers NULL for an unknown name when it may neither create nor complain.
    unsafe {
        let generic = find_option(
            name.as_ptr(),
            false,
            true,
            pg_sys::DEBUG5 as std::ffi::c_int,
        );
        (!generic.is_null()).then_some(generic.cast())
    }
}

/// human, ai or service; anything else is refused when set.
///
/// SAFETY: as `check`.
unsafe extern "C-unwind" fn check_actor_type(
    newval: *mut *mut c_char,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: as `check`.
    unsafe {
        let known = (*newval).is_null()
            || matches!(
                CStr::from_ptr(*newval).to_bytes(),
                b"" | b"human" | b"ai" | b"service"
            );
        known && check(newval, extra, source)
    }
}

pub fn init() {
    type S = Setting;
    define(
        S::Org,
        c"app.current_org",
        c"The organization the session claims: its uuid or external key.",
        Some(check),
        assign_org,
    );
    define(
        S::User,
        c"app.current_user_id",
        c"The user that a trusted application acts for: uuid or external key.",
        Some(check),
        assign_user,
    );
    define(
        S::Project,
        c"app.current_project",
        c"The project the session narrows itself to.",
        Some(check),
        assign_project,
    );
    define(
        S::Cluster,
        c"app.current_cluster",
        c"The cluster the session narrows itself to.",
        Some(check),
        assign_cluster,
    );
    define(
        S::ActorType,
        c"app.actor_type",
        c"Who acts for a trusted application: human, ai or service.",
        Some(check_actor_type),
        assign_actor_type,
    );
    define(
        S::RequestId,
        c"app.request_id",
        c"The request this work belongs to, for the audit log.",
        Some(check),
        assign_request_id,
    );
    define(
        S::ClientAddr,
        c"app.client_addr",
        c"The end user's address, as a trusted application saw it.",
        Some(check),
        assign_client_addr,
    );

    GucRegistry::define_bool_guc(
        c"tenancy.one_org_per_transaction",
        c"Refuses a second organization or user in a transaction that touched protected rows.",
        c"Deferred triggers, open cursors and audit rows would otherwise see another organization than their statement did.",
        &ONE_ORG_PER_TRANSACTION,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"tenancy.on_drift",
        c"What follows a command that weakens a protected table: refuse, mend or warn.",
        c"What cannot be mended without asking is refused.",
        &ON_DRIFT,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"tenancy.dedicated_audit_limit",
        c"How many organizations get an audit table of their own.",
        c"Organizations created beyond it share one audit table a month.",
        &DEDICATED_AUDIT_LIMIT,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"tenancy.seal_interval",
        c"Time between two passes of the sealer, 0 for none.",
        c"It runs where shared_preload_libraries names pg_tenancy; elsewhere call tenancy.seal_audit().",
        &SEAL_INTERVAL,
        0,
        86_400_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_enum_guc(
        c"tenancy.missing_context",
        c"What a read of a protected table answers where no organization is in effect.",
        c"empty: no rows. error: the reason there is none. Writes are always refused.",
        &MISSING_CONTEXT,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"tenancy.token_leeway",
        c"How far the clock of a token's issuer may differ from the server's.",
        c"Seconds that a token counts as valid before nbf and after exp.",
        &TOKEN_LEEWAY,
        0,
        300,
        GucContext::Suset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"tenancy.max_owned_orgs",
        c"How many organizations one user may own; 0 is no limit.",
        c"Checked when an organization is created or transferred.",
        &MAX_OWNED_ORGS,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::default(),
    );
}
