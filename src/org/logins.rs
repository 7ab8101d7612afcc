//! Which database login speaks for whom (spec 4). Roles are global to the cluster: they are named here, not made.

use super::{id_text, invalid};
use crate::access;
use crate::context::{self, authority};
use crate::pg::query::{Arg, execute, run};
use crate::pg::{self, fail};
use pgrx::datum::Uuid;
use pgrx::prelude::*;

pub fn require_administrator(doing: &str) -> pg::Result<()> {
    context::no_ai(doing)?;
    if context::is_administrator() {
        return Ok(());
    }
    Err(fail(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("permission denied: only a DBA may {doing}"),
    )
    .set_detail("It decides who a login is, for every organization.")
    .set_hint("A superuser, or a role that tenancy.grant_administration() named, may."))
}

/// Who a superuser's login speaks for is not an administrator's to say: he would make himself the DBA through it.
fn require_strength_of(login: &str) -> pg::Result<()> {
    let superuser = run(
        "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) $1::pg_catalog.name",
        &[Arg::Name(login)],
        |row| row.get::<bool>(1),
    )
    .pop()
    .flatten()
    .unwrap_or(false);
    if superuser {
        return require_superuser("bind or trust a superuser's login");
    }
    Ok(())
}

fn existing_role(role: &str) -> pg::Result<()> {
    let found = run(
        "SELECT 1 FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) $1::pg_catalog.name",
        &[Arg::Name(role)],
        |_| (),
    );
    if found.is_empty() {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("role \"{role}\" does not exist"),
        )
        .set_detail("Logins are database roles; the extension makes none.")
        .set_hint("CREATE ROLE ... LOGIN first."));
    }
    Ok(())
}

/// Binds a database login to one user: whoever logs in with it is that person, whatever the settings say (spec 4).
/// For the DBA. Errors: 42501 not the DBA, 42704 no such role, 22023 no such user.
#[pg_extern(volatile, parallel_unsafe)]
fn bind_login(login: Option<&str>, user_id: Option<Uuid>) -> pg::Result<()> {
    let login = pg::given(login, "login")?;
    let user_id = pg::given(user_id, "user_id")?;
    require_administrator("bind a login")?;
    existing_role(login)?;
    require_strength_of(login)?;
    let user = user_id.as_bytes();
    if authority::user(&id_text(user)) != Some(*user) {
        return Err(invalid(
            "this is no registered user",
            format!("There is no user {user_id}."),
            "tenancy.create_user() registers one.",
        ));
    }
    execute(
        "INSERT INTO tenancy.login_bindings (login, kind, user_id, scope) VALUES ($1::pg_catalog.name, 'user', $2, 'session')
         ON CONFLICT (login) DO UPDATE SET kind = 'user', user_id = excluded.user_id, scope = 'session', service_role = NULL",
        &[Arg::Name(login), Arg::Uuid(user)],
    );
    Ok(())
}

/// Undoes `bind_login()`: the login is nobody from its next statement on (spec 4). For the DBA.
/// Errors: 42501 not the DBA, 42704 the login is not bound.
#[pg_extern(volatile, parallel_unsafe)]
fn unbind_login(login: Option<&str>) -> pg::Result<()> {
    let login = pg::given(login, "login")?;
    forget(login, "user", "unbind a login")
}

/// Trusts an application's login to name the user it acts for in app.current_user_id (spec 4). For the DBA.
///
/// `scope`: transaction (the default: a context is void unless set in the same transaction, so that a pooler cannot
/// hand it on) or session (for applications with connections of their own). `service_role`: admin, member or viewer,
/// the role it acts with when it names no user.
/// Errors: 42501 not the DBA, 42704 no such role, 22023 unknown scope or service role.
#[pg_extern(volatile, parallel_unsafe)]
fn trust_application(
    login: Option<&str>,
    scope: default!(Option<&str>, "'transaction'"),
    service_role: default!(Option<&str>, "'member'"),
) -> pg::Result<()> {
    let login = pg::given(login, "login")?;
    let scope = pg::given(scope, "scope")?;
    let service_role = pg::given(service_role, "service_role")?;
    require_administrator("trust an application")?;
    existing_role(login)?;
    require_strength_of(login)?;
    check_scope(scope)?;
    let matrix = authority::matrix();
    if !matrix.has_role(service_role) {
        return Err(access::unknown_role(&matrix, service_role));
    }
    if service_role == "owner" {
        return Err(invalid(
            "a service cannot act as owner",
            "Members, billing and the organization's existence are decided by a person.",
            "Use service_role => 'admin'.",
        ));
    }
    execute(
        "INSERT INTO tenancy.login_bindings (login, kind, scope, service_role)
         VALUES ($1::pg_catalog.name, 'application', $2, $3)
         ON CONFLICT (login) DO UPDATE SET kind = 'application', user_id = NULL, scope = excluded.scope,
                                           service_role = excluded.service_role",
        &[Arg::Name(login), Arg::Text(scope), Arg::Text(service_role)],
    );
    Ok(())
}

/// Undoes `trust_application()`: the login is nobody from its next statement on (spec 4). For the DBA.
/// Errors: 42501 not the DBA, 42704 the login is not trusted.
#[pg_extern(volatile, parallel_unsafe)]
fn distrust_application(login: Option<&str>) -> pg::Result<()> {
    let login = pg::given(login, "login")?;
    forget(login, "application", "distrust an application")
}

/// Leaves a database login without any authority unless it brings a signed token (spec 4): for connections that an
/// application shares with less trusted code. Takes the place of a binding or trust that the login has. For the DBA.
///
/// `scope`: transaction (the default: a token holds for the transaction that brought it) or session (it may also be
/// brought for the whole session).
/// Errors: 42501 not the DBA, 42704 no such role, 22023 unknown scope.
#[pg_extern(volatile, parallel_unsafe)]
fn require_token(
    login: Option<&str>,
    scope: default!(Option<&str>, "'transaction'"),
) -> pg::Result<()> {
    let login = pg::given(login, "login")?;
    let scope = pg::given(scope, "scope")?;
    require_administrator("require a token of a login")?;
    existing_role(login)?;
    require_strength_of(login)?;
    check_scope(scope)?;
    execute(
        "INSERT INTO tenancy.login_bindings (login, kind, scope) VALUES ($1::pg_catalog.name, 'token', $2)
         ON CONFLICT (login) DO UPDATE SET kind = 'token', user_id = NULL, scope = excluded.scope, service_role = NULL",
        &[Arg::Name(login), Arg::Text(scope)],
    );
    Ok(())
}

/// Undoes `require_token()` (spec 4). The login is then like any other that is neither bound nor trusted. For the DBA.
/// Errors: 42501 not the DBA, 42704 no token is required of the login.
#[pg_extern(volatile, parallel_unsafe)]
fn waive_token(login: Option<&str>) -> pg::Result<()> {
    let login = pg::given(login, "login")?;
    forget(login, "token", "waive the token of a login")
}

fn check_scope(scope: &str) -> pg::Result<()> {
    if matches!(scope, "transaction" | "session") {
        return Ok(());
    }
    Err(invalid(
        "unknown scope",
        "The scope of a context is transaction or session.",
        "Use scope => 'transaction' behind a pooler.",
    ))
}

fn forget(login: &str, kind: &str, doing: &str) -> pg::Result<()> {
    require_administrator(doing)?;
    require_strength_of(login)?;
    let gone = execute(
        "DELETE FROM tenancy.login_bindings
         WHERE login OPERATOR(pg_catalog.=) $1::pg_catalog.name AND kind OPERATOR(pg_catalog.=) $2",
        &[Arg::Name(login), Arg::Text(kind)],
    );
    if gone == 0 {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("login \"{login}\" has no such binding"),
        )
        .set_detail(format!("No binding of kind {kind} names it."))
        .set_hint("SELECT * FROM tenancy.login_bindings, as the DBA."));
    }
    Ok(())
}

fn require_superuser(doing: &str) -> pg::Result<()> {
    context::require_superuser(doing, "It changes who may act as the DBA.")
}

/// Lets the members of a role run the DBA's functions without being superuser (spec 4). For superusers.
/// Errors: 42501 not a superuser, 42704 no such role.
#[pg_extern(volatile, parallel_unsafe)]
fn grant_administration(role: Option<&str>) -> pg::Result<()> {
    let role = pg::given(role, "role")?;
    require_superuser("grant administration")?;
    existing_role(role)?;
    execute(
        "INSERT INTO tenancy.administrators (role) VALUES ($1::pg_catalog.name) ON CONFLICT DO NOTHING",
        &[Arg::Name(role)],
    );
    Ok(())
}

/// Undoes `grant_administration()` (spec 4). For superusers. Errors: 42501 not a superuser, 42704 not granted.
#[pg_extern(volatile, parallel_unsafe)]
fn revoke_administration(role: Option<&str>) -> pg::Result<()> {
    let role = pg::given(role, "role")?;
    require_superuser("revoke administration")?;
    let gone = execute(
        "DELETE FROM tenancy.administrators WHERE role OPERATOR(pg_catalog.=) $1::pg_catalog.name",
        &[Arg::Name(role)],
    );
    if gone == 0 {
        return Err(fail(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("role \"{role}\" has no administration to revoke"),
        )
        .set_detail("tenancy.administrators does not name it.")
        .set_hint("SELECT * FROM tenancy.administrators, as the DBA."));
    }
    Ok(())
}
