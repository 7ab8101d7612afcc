//! Exactly one owner per organization, also for whoever writes our tables directly (spec 3.2). orgs.owner_id is the
//! truth; the triggers here keep the membership rows its mirror.

use super::{external_key, id_text, owner_rule};
use crate::pg::query::{Arg, execute, run};
use crate::pg::{identity, trigger};
use pgrx::datum::Uuid;
use pgrx::heap_tuple::PgHeapTuple;
use pgrx::prelude::*;
use pgrx::{AllocatedByPostgres, WhoAllocated};

trigger::entry!(
    pg_finfo_tenancy_authority_changed,
    tenancy_authority_changed,
    authority_changed,
    authority_changed_wrapper
);
trigger::entry!(
    pg_finfo_tenancy_check_membership,
    tenancy_check_membership,
    check_membership,
    check_membership_wrapper
);
trigger::entry!(
    pg_finfo_tenancy_check_membership_scope,
    tenancy_check_membership_scope,
    check_membership_scope,
    check_membership_scope_wrapper
);
trigger::entry!(
    pg_finfo_tenancy_check_org,
    tenancy_check_org,
    check_org,
    check_org_wrapper
);
trigger::entry!(
    pg_finfo_tenancy_mirror_owner,
    tenancy_mirror_owner,
    mirror_owner,
    mirror_owner_wrapper
);

/// Tells every session that users, organizations, roles, memberships or bindings changed: what a revocation rides on.
#[pg_trigger(sql = r#"
CREATE FUNCTION tenancy.authority_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_authority_changed';
"#)]
fn authority_changed<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, AllocatedByPostgres>>, PgTriggerError> {
    crate::pg::catalog::ring_bell();
    Ok(trigger.new().or(trigger.old()))
}

fn column<A: WhoAllocated>(row: &PgHeapTuple<'_, A>, name: &str) -> [u8; 16] {
    row.get_by_name::<Uuid>(name)
        .ok()
        .flatten()
        .map(|u| *u.as_bytes())
        .unwrap_or_default()
}

fn text<A: WhoAllocated>(row: &PgHeapTuple<'_, A>, name: &str) -> String {
    row.get_by_name::<String>(name)
        .ok()
        .flatten()
        .unwrap_or_default()
}

/// The organization's owner now, its row held against a change of owner until the transaction ends.
fn owner_of(org: &[u8; 16]) -> Option<[u8; 16]> {
    run(
        "SELECT owner_id FROM tenancy.orgs WHERE id OPERATOR(pg_catalog.=) $1 FOR SHARE",
        &[Arg::Uuid(org)],
        |row| row.uuid(1),
    )
    .pop()
    .flatten()
}

/// Refuses a membership row that says owner for anyone but orgs.owner_id, or something else for him.
#[pg_trigger(sql = r#"
CREATE FUNCTION tenancy.check_membership() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_check_membership';
"#)]
fn check_membership<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, AllocatedByPostgres>>, PgTriggerError> {
    let old = trigger
        .old()
        .map(|row| (column(&row, "org_id"), column(&row, "user_id")));
    let new = trigger.new().map(|row| {
        let plain = row
            .get_by_name::<TimestampWithTimeZone>("expires_at")
            .ok()
            .flatten()
            .is_none();
        let scoped = row.get_by_name::<bool>("scoped").ok().flatten();
        let plain = plain && scoped != Some(true);
        (
            column(&row, "org_id"),
            column(&row, "user_id"),
            text(&row, "role"),
            plain,
        )
    });
    if let Some((org, user, role, plain)) = &new {
        let owner = owner_of(org);
        // A restore with several jobs may bring members before their organization; orgs.owner_id decides either way.
        if owner.is_none() && identity::break_glass() {
            return Ok(trigger.new().or(trigger.old()));
        }
        let is_owner = owner == Some(*user);
        if role == "owner" && !is_owner {
            raise(&format!(
                "organization {} would have a second owner",
                id_text(org)
            ));
        }
        if is_owner && role != "owner" {
            raise(&format!(
                "organization {} would lose its owner",
                id_text(org)
            ));
        }
        if is_owner && !plain {
            raise(&format!(
                "the owner of organization {} cannot expire or be limited to resources",
                id_text(org)
            ));
        }
    }
    if let Some((org, user)) = &old {
        let moved = new.as_ref().is_none_or(|(o, u, ..)| (o, u) != (org, user));
        // An organization that is going takes its memberships along: then there is no row to find here.
        if moved && owner_of(org) == Some(*user) {
            raise(&format!(
                "organization {} would lose its owner",
                id_text(org)
            ));
        }
    }
    Ok(trigger.new().or(trigger.old()))
}

/// Refuses a rule for the owner, and marks the membership of any other: whoever writes the first rule limits it, and taking
/// the last away leaves it limited (spec 3.8).
#[pg_trigger(sql = r#"
CREATE FUNCTION tenancy.check_membership_scope() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_check_membership_scope';
"#)]
fn check_membership_scope<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, AllocatedByPostgres>>, PgTriggerError> {
    // A subscriber gets the mark from the publisher.
    if let Some(new) = trigger.new()
        && !identity::is_logical_worker()
    {
        let (org, user) = (column(&new, "org_id"), column(&new, "user_id"));
        if owner_of(&org) == Some(user) {
            raise(&format!(
                "the owner of organization {} cannot be limited to resources",
                id_text(&org)
            ));
        }
        execute(
            "UPDATE tenancy.memberships SET scoped = true
             WHERE org_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $2 AND NOT scoped",
            &[Arg::Uuid(&org), Arg::Uuid(&user)],
        );
    }
    Ok(trigger.new().or(trigger.old()))
}

fn raise(message: &str) {
    owner_rule(
        message,
        "orgs.owner_id says who the one owner is; a membership row can only mirror it.",
    )
    .report(PgLogLevel::ERROR);
}

/// Keeps an organization's id and slug as they were made (spec 3.1), and its external key while rows go by it (spec 5).
#[pg_trigger(sql = r#"
CREATE FUNCTION tenancy.check_org() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_check_org';
"#)]
fn check_org<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, AllocatedByPostgres>>, PgTriggerError> {
    if let (Some(old), Some(new)) = (trigger.old(), trigger.new())
        && (column(&old, "id") != column(&new, "id") || text(&old, "slug") != text(&new, "slug"))
    {
        crate::pg::fail(
            PgSqlErrorCode::ERRCODE_CHECK_VIOLATION,
            "an organization's id and slug never change",
        )
        .set_detail("Rows, links and audit logs name the organization by them.")
        .set_hint("Change its name instead.")
        .report(PgLogLevel::ERROR);
    }
    if let (Some(old), Some(new)) = (trigger.old(), trigger.new()) {
        let [old, new] =
            [old, new].map(|row| row.get_by_name::<String>("external_key").ok().flatten());
        if let Some(refusal) = external_key::held(old.as_deref(), new.as_deref()) {
            refusal.report(PgLogLevel::ERROR);
        }
    }
    Ok(trigger.new())
}

/// Makes the membership rows follow orgs.owner_id: the new owner's says owner, the old owner's says admin.
#[pg_trigger(sql = r#"
CREATE FUNCTION tenancy.mirror_owner() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'tenancy_mirror_owner';
"#)]
fn mirror_owner<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, AllocatedByPostgres>>, PgTriggerError> {
    // A restore brings the memberships itself.
    if identity::break_glass() && trigger.old().is_none() {
        return Ok(trigger.new());
    }
    let Some(new) = trigger.new() else {
        return Ok(None);
    };
    let (org, owner) = (column(&new, "id"), column(&new, "owner_id"));
    let old_owner = trigger.old().map(|row| column(&row, "owner_id"));
    if let Some(old_owner) = old_owner.filter(|o| *o != owner) {
        execute(
            "UPDATE tenancy.memberships SET role = 'admin'
             WHERE org_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $2",
            &[Arg::Uuid(&org), Arg::Uuid(&old_owner)],
        );
    }
    execute(
        "INSERT INTO tenancy.memberships AS m (org_id, user_id, role) VALUES ($1, $2, 'owner')
         ON CONFLICT (org_id, user_id) DO UPDATE SET role = 'owner', expires_at = NULL, allowed_networks = NULL",
        &[Arg::Uuid(&org), Arg::Uuid(&owner)],
    );
    Ok(trigger.new())
}
