//! pg_tenancy: the organization as the isolation boundary of a PostgreSQL database.
//!
//! One hall and its rooms. `context` is the hall: it alone knows who the session acts as, for which
//! organization and with which rights. Every other room asks it.
//!
//! * `context`    settings, principal, token, seal, migration, validated state, pin, invalidation
//! * `access`     actions, levels, roles: the permission matrix and questions about it
//! * `org`        users, organizations, memberships, ownership, bindings of logins
//! * `isolation`  protect(): plan of a table, policies, write guard, foreign-key guard, drift, leakproof operators
//! * `environment` environments of rows, production protection; what AI actors may write
//! * `audit`      the log of each organization: store, capture, read, export, keep, seal, verify
//! * `projects`   projects and clusters: the second and third boundary inside an organization
//! * `hooks`      what runs around a statement: revocations, plans, cascades, cursors, migrations, the audit's flush
//! * `usage`      who pays, what is used, how much may be: billing accounts, usage records, quotas
//! * `pg`         the only glue to PostgreSQL's C API
#![allow(
    clippy::result_large_err,
    reason = "ErrorReport carries message, detail and hint; errors are the cold path"
)]

use pgrx::prelude::*;

mod access;
mod audit;
mod context;
mod environment;
mod hooks;
mod isolation;
mod org;
mod pg;
mod projects;
mod usage;

#[cfg(feature = "pg_test")]
#[path = "../pgrx-tests/mod.rs"]
mod in_server;

::pgrx::pg_module_magic!();

extension_sql_file!("../sql/10_tables.sql", name = "tables", bootstrap);
extension_sql_file!("../sql/20_seed.sql", name = "seed", requires = ["tables"]);
extension_sql_file!(
    "../sql/25_templates.sql",
    name = "templates",
    requires = ["seed"]
);
extension_sql_file!(
    "../sql/30_functions.sql",
    name = "functions",
    requires = ["seed"]
);
extension_sql_file!(
    "../sql/50_audit.sql",
    name = "audit",
    requires = ["functions"]
);
extension_sql_file!(
    "../sql/40_policies.sql",
    name = "policies",
    requires = [
        "functions",
        access::api::sees_user,
        context::api::current_role_name,
        context::api::current_user_id,
        context::ledger::sees_bypasses
    ]
);
extension_sql_file!(
    "../sql/46_members.sql",
    name = "members",
    requires = ["policies", "projects"]
);
extension_sql_file!(
    "../sql/80_triggers.sql",
    name = "triggers",
    requires = [
        access::published::keep_published,
        org::invariants::authority_changed,
        org::invariants::check_membership,
        org::invariants::check_membership_scope,
        org::invariants::check_org,
        org::invariants::mirror_owner,
        "policies",
        "environments",
        "services",
        "projects",
        "usage"
    ]
);
extension_sql_file!(
    "../sql/65_environments.sql",
    name = "environments",
    requires = ["policies"]
);
extension_sql_file!(
    "../sql/66_proposals.sql",
    name = "proposals",
    requires = [
        "environments",
        environment::proposals::propose::sees_proposal
    ]
);
extension_sql_file!(
    "../sql/60_audit_seal.sql",
    name = "audit_seal",
    requires = [
        "policies",
        audit::seal::api::list_audit_heads,
        audit::seal::status::list_seal_status
    ]
);
extension_sql_file!(
    "../sql/65_services.sql",
    name = "services",
    requires = [
        "policies",
        org::services::create_service_account,
        org::services::set_service_role,
        org::services::adopt_service_account,
        org::services::disable_service_account,
        org::services::enable_service_account,
        org::services::drop_service_account,
        org::services::list_service_accounts,
        org::api_keys::create_api_key,
        org::api_keys::revoke_api_key,
        org::api_keys::list_api_keys
    ]
);
extension_sql_file!(
    "../sql/75_projects.sql",
    name = "projects",
    requires = [
        projects::check::check_place,
        projects::see::sees_project,
        projects::see::sees_project_member,
        "policies"
    ]
);
extension_sql_file!(
    "../sql/70_usage.sql",
    name = "usage",
    requires = [
        "policies",
        usage::billing::sees_billing_account,
        usage::records::guard_usage,
        usage::quotas::list_quotas
    ]
);
extension_sql_file!(
    "../sql/70_life.sql",
    name = "life",
    requires = [
        "policies",
        org::invitations::invite,
        org::invitations::accept_invitation,
        org::invitations::revoke_invitation,
        org::invitations::list_invitations,
        org::suspension::suspend_org,
        org::suspension::resume_org,
        org::deletion::delete_org,
        org::deletion::continue_deletion,
        org::deletion::finish_deletion,
        org::deletion::list_tombstones,
        org::accounts::delete_user
    ]
);
extension_sql_file!("../sql/90_finish.sql", name = "finish", finalize);

/// Runs when the library is loaded: by the first call of one of its functions, or by a preload setting.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::error::without_backtraces();
    context::init();
    hooks::init();
    audit::worker::init();
}
