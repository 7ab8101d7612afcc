//! Invitations (spec 3.5): a member with the right to sends one to an address; whoever is registered under that address
//! takes it up, once, with the token that the address received.
//!
//! Nothing here tells whether an address is a user's: inviting looks at nobody but the organization's own members, and
//! accepting answers alike for a token that never was, one that is used up, and one that is another's (attack A12).

use super::create::is_address;
use super::suspension::takes_nobody;
use super::{id_text, invalid, lock_org, members};
use crate::access;
use crate::audit::{self, Act};
use crate::context::authority::{self, Id};
use crate::context::{self, Principal};
use crate::pg::query::{Arg, execute, latest, run};
use crate::pg::{self, error, fail, identity};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pgrx::datum::{Interval, Uuid};
use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What is kept of a token. It is 256 random bits, so a hash without salt gives nothing away.
fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// Invites whoever has, or gets, an email address to an organization (spec 3.5).
///
/// `email`: without regard to case and surrounding blanks. `role`: any but owner, with no right that the inviter does not
/// hold. `expires_in`: how long the invitation can be accepted. `membership_expires_at`: when the membership will end by
/// itself; NULL is never. Returns the invitation's id and its token, which is shown this once: send it to the address.
/// An invitation of the same address that still waits is revoked in its place. Needs team:invite there (or the DBA).
/// Errors: 42501 no right, unknown organization, or a role above one's own; 22023 unknown role, no address, or a time in
/// the past; 23505 already a member (told to those who see the members); 23514 for the role owner.
#[pg_extern(volatile, parallel_unsafe)]
fn invite(
    org: Option<Uuid>,
    email: Option<&str>,
    role: Option<&str>,
    expires_in: default!(Option<Interval>, "'7 days'"),
    membership_expires_at: default!(Option<TimestampWithTimeZone>, "NULL"),
) -> pg::Result<TableIterator<'static, (name!(invitation, Uuid), name!(token, String))>> {
    let org = pg::given(org, "org")?;
    let email = pg::given(email, "email")?.trim();
    let role = pg::given(role, "role")?;
    let expires_in = pg::given(expires_in, "expires_in")?;
    let org = org.as_bytes();
    may_invite_as(org, role)?;
    if !is_address(email) {
        return Err(invalid(
            "this is not an email address",
            "An address has one @, something on both sides of it, no blanks, and 320 characters at most.",
            "Pass an address such as ada@example.com.",
        ));
    }
    let lasts = expires_in.as_micros() > 0;
    let membership_end = membership_expires_at.map(i64::from);
    if !lasts || membership_end.is_some_and(|at| at <= pg::transaction::now()) {
        return Err(invalid(
            "the invitation could never be accepted",
            "expires_in is not positive, or membership_expires_at lies in the past.",
            "Leave them out for an invitation of seven days and a membership without end.",
        ));
    }
    lock_org(org, false)?;
    let inviter = may_invite_as(org, role)?;
    refuse_known_member(org, email)?;
    let token = URL_SAFE_NO_PAD.encode(pg::random::<32>());
    let lasts = format!(
        "{} months {} days {} microseconds",
        expires_in.months(),
        expires_in.days(),
        expires_in.micros()
    );
    let (id, replaced) = store(org, email, role, &token, &lasts, membership_end, &inviter)?;
    audit::record(&Act {
        org: *org,
        operation: "invite",
        object: "tenancy.invitations",
        key: json!({ "id": id_text(&id) }),
        old: replaced.map(|old| json!({ "id": id_text(&old) })),
        new: Some(json!({ "email": email.to_lowercase(), "role": role })),
    });
    Ok(TableIterator::once((Uuid::from_bytes(id), token)))
}

/// On whose authority an invitation rests: a member's, or a DBA's, who is known by his database role.
enum Inviter {
    Member(Id),
    Administrator(String),
}

impl Inviter {
    fn user(&self) -> Option<&Id> {
        match self {
            Inviter::Member(user) => Some(user),
            Inviter::Administrator(_) => None,
        }
    }

    fn login(&self) -> Option<&str> {
        match self {
            Inviter::Member(_) => None,
            Inviter::Administrator(role) => Some(role),
        }
    }
}

fn may_invite_as(org: &Id, role: &str) -> pg::Result<Inviter> {
    access::require(org, "team:invite", "in the organization")?;
    members::assignable(org, role)?;
    let user = context::standing().user;
    let Some(user) = user.filter(|_| !context::is_administrator()) else {
        let role = identity::role_name(identity::outer_user());
        return Ok(Inviter::Administrator(role.unwrap_or_default()));
    };
    access::require_may_assign(org, role, &Default::default())?;
    Ok(Inviter::Member(user))
}

/// Who sees the organization's members learns at once that the address is one's.
fn refuse_known_member(org: &Id, email: &str) -> pg::Result<()> {
    let sees = access::may(org, "team:read")?;
    let member = sees
        && latest(
            "SELECT id FROM tenancy.users
             WHERE pg_catalog.lower(email) OPERATOR(pg_catalog.=) pg_catalog.lower($1)",
            &[Arg::Text(email)],
            |row| row.uuid(1),
        )
        .into_iter()
        .flatten()
        .any(|user| access::role_in(org, &user).is_some());
    if member {
        return Err(members::already_a_member());
    }
    Ok(())
}

/// Writes the invitation down, in place of one that waits for the same address.
fn store(
    org: &Id,
    email: &str,
    role: &str,
    token: &str,
    lasts: &str,
    membership_end: Option<i64>,
    inviter: &Inviter,
) -> pg::Result<(Id, Option<Id>)> {
    // Of two at once one finds the other's row only after waiting for it.
    for _ in 0..8 {
        let replaced = run(
            "UPDATE tenancy.invitations SET revoked_at = pg_catalog.clock_timestamp()
             WHERE org_id OPERATOR(pg_catalog.=) $1 AND email OPERATOR(pg_catalog.=) pg_catalog.lower($2)
               AND accepted_at IS NULL AND revoked_at IS NULL RETURNING id",
            &[Arg::Uuid(org), Arg::Text(email)],
            |row| row.uuid(1),
        );
        let stored = run(
            "INSERT INTO tenancy.invitations
                 (org_id, email, role, token_hash, invited_by, invited_login, expires_at, membership_expires_at)
             VALUES ($1, pg_catalog.lower($2), $3, $4, $5::pg_catalog.uuid, $6::pg_catalog.name,
                     pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) $7::pg_catalog.interval, $8)
             ON CONFLICT DO NOTHING RETURNING id",
            &[
                Arg::Uuid(org),
                Arg::Text(email),
                Arg::Text(role),
                Arg::Bytes(&hash(token)),
                Arg::OptionalText(inviter.user().map(id_text).as_deref()),
                Arg::OptionalText(inviter.login()),
                Arg::Text(lasts),
                Arg::Timestamp(membership_end),
            ],
            |row| row.uuid(1),
        );
        if let Some(id) = stored.into_iter().flatten().next() {
            return Ok((id, replaced.into_iter().flatten().next()));
        }
    }
    Err(fail(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "this address is being invited by others",
    )
    .set_detail("Each invitation of an address takes the place of the one before.")
    .set_hint("Try again."))
}

/// Accepts an invitation for the session's user, whose registered address must be the invited one (spec 3.5). Needs no
/// organization in effect. `token`: as invite() returned it. Returns the organization, which can be entered from the next
/// statement on. What the inviter may do is asked again now. It works once.
/// Errors: 42501 no user, an invitation that cannot be accepted (the same answer for each reason), or one whose inviter
/// may not invite any more; 23505 already a member.
#[pg_extern(volatile, parallel_unsafe)]
fn accept_invitation(token: Option<&str>) -> pg::Result<Uuid> {
    error::discreetly(|| {
        context::no_ai("accept invitations")?;
        let token = hash(pg::given(token, "token")?);
        let now = context::standing();
        let Some(user) = now.user else {
            let reason = now.reason.as_ref();
            return Err(fail(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                "permission denied: an invitation is accepted by a user",
            )
            .set_detail(reason.map_or("The session acts for no user.".into(), |r| r.detail()))
            .set_hint("Sign in: by a bound login, a token, or app.current_user_id from a trusted application."));
        };
        let org = pending(&token, &user).ok_or_else(|| refusal(&user))?;
        let elsewhere = matches!(&now.principal, Principal::Token { org: Some(named), .. }
            if authority::org(named).is_none_or(|named| named.id != org));
        if !elsewhere && authority::org_by_id(&org).is_some_and(|o| o.suspended) {
            return Err(takes_nobody());
        }
        if elsewhere || lock_org(&org, false).is_err() {
            return Err(refusal(&user));
        }
        let taken = take(&token, &user).ok_or_else(|| refusal(&user))?;
        if !taken.still_holds(&org) {
            return Err(lapsed(&taken.id));
        }
        if !members::add(&org, &user, &taken.role, taken.membership_end) {
            return Err(members::already_a_member());
        }
        audit::record(&Act {
            org,
            operation: "accept_invitation",
            object: "tenancy.invitations",
            key: json!({ "id": id_text(&taken.id) }),
            old: None,
            new: Some(json!({ "user_id": id_text(&user), "role": taken.role })),
        });
        Ok(Uuid::from_bytes(org))
    })
}

/// The organization of an invitation that this user can accept now.
fn pending(token: &[u8; 32], user: &Id) -> Option<Id> {
    latest(
        "SELECT i.org_id
         FROM tenancy.invitations AS i JOIN tenancy.users AS u ON pg_catalog.lower(u.email) OPERATOR(pg_catalog.=) i.email
         WHERE i.token_hash OPERATOR(pg_catalog.=) $1 AND u.id OPERATOR(pg_catalog.=) $2
           AND i.accepted_at IS NULL AND i.revoked_at IS NULL
           AND i.expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()
           AND (i.membership_expires_at IS NULL
                OR i.membership_expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp())",
        &[Arg::Bytes(token), Arg::Uuid(user)],
        |row| row.uuid(1),
    )
    .pop()
    .flatten()
}

/// An invitation that this transaction has used up.
struct Taken {
    id: Id,
    role: String,
    membership_end: Option<i64>,
    invited_by: Option<Id>,
    invited_login: Option<String>,
}

/// Uses the invitation up. Of many at once the first gets it; the others waited for its row and find it used.
fn take(token: &[u8; 32], user: &Id) -> Option<Taken> {
    run(
        "UPDATE tenancy.invitations AS i
         SET accepted_at = pg_catalog.clock_timestamp(), accepted_by = u.id
         FROM tenancy.users AS u
         WHERE i.token_hash OPERATOR(pg_catalog.=) $1 AND u.id OPERATOR(pg_catalog.=) $2
           AND pg_catalog.lower(u.email) OPERATOR(pg_catalog.=) i.email
           AND i.accepted_at IS NULL AND i.revoked_at IS NULL
           AND i.expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()
           AND (i.membership_expires_at IS NULL
                OR i.membership_expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp())
         RETURNING i.id, i.role, i.membership_expires_at, i.invited_by, i.invited_login::pg_catalog.text",
        &[Arg::Bytes(token), Arg::Uuid(user)],
        |row| Taken {
            id: row.uuid(1).unwrap_or_default(),
            role: row.get(2).unwrap_or_default(),
            membership_end: row.get::<TimestampWithTimeZone>(3).map(i64::from),
            invited_by: row.uuid(4),
            invited_login: row.get(5),
        },
    )
    .pop()
}

impl Taken {
    /// Whether the inviter may still invite, and with this role.
    fn still_holds(&self, org: &Id) -> bool {
        if members::assignable(org, &self.role).is_err() {
            return false;
        }
        let Some(inviter) = self.invited_by else {
            return self
                .invited_login
                .as_deref()
                .is_some_and(context::is_administrators);
        };
        // A change of the inviter's own role that is under way is waited for, and counts.
        run(
            "SELECT 1 FROM tenancy.memberships
             WHERE org_id OPERATOR(pg_catalog.=) $1 AND user_id OPERATOR(pg_catalog.=) $2 FOR SHARE",
            &[Arg::Uuid(org), Arg::Uuid(&inviter)],
            |_| (),
        );
        pg::transaction::accept_invalidations();
        let invites = authority::matrix()
            .action("team:invite")
            .is_some_and(|action| access::user_may(org, &inviter, action));
        invites && access::may_assign(org, &inviter, &self.role)
    }
}

/// The one answer to a token that this user cannot use.
fn refusal(user: &Id) -> ErrorReport {
    error::server_log(
        "permission denied: invitation not accepted",
        &format!("User {}.", id_text(user)),
    );
    fail(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "this invitation cannot be accepted",
    )
    .set_detail(
        "It is unknown, for another address, used, revoked or expired: all cases answer alike.",
    )
    .set_hint("Sign in with the address that was invited, or ask for a new invitation.")
}

fn lapsed(invitation: &Id) -> ErrorReport {
    error::server_log(
        "permission denied: invitation not accepted",
        &format!(
            "Whoever sent invitation {} may not send it any more.",
            id_text(invitation)
        ),
    );
    fail(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        "this invitation does not hold any more",
    )
    .set_detail("Whoever sent it may not invite with that role now.")
    .set_hint("Ask the organization for a new invitation.")
}

/// Takes an invitation back that nobody accepted yet (spec 3.5). `invitation`: its id. Needs team:invite in its
/// organization (or the DBA). Errors: 42501 no right; P0002 no such invitation that waits, also where it is of an
/// organization that one does not belong to.
#[pg_extern(volatile, parallel_unsafe)]
fn revoke_invitation(invitation: Option<Uuid>) -> pg::Result<()> {
    let invitation = pg::given(invitation, "invitation")?;
    let id = invitation.as_bytes();
    let org = latest(
        "SELECT org_id FROM tenancy.invitations WHERE id OPERATOR(pg_catalog.=) $1",
        &[Arg::Uuid(id)],
        |row| row.uuid(1),
    )
    .pop()
    .flatten()
    .filter(belongs)
    .ok_or_else(no_such)?;
    access::require(&org, "team:invite", "in the organization")?;
    lock_org(&org, false)?;
    access::require(&org, "team:invite", "in the organization")?;
    let revoked = execute(
        "UPDATE tenancy.invitations SET revoked_at = pg_catalog.clock_timestamp()
         WHERE id OPERATOR(pg_catalog.=) $1 AND accepted_at IS NULL AND revoked_at IS NULL",
        &[Arg::Uuid(id)],
    );
    if revoked == 0 {
        return Err(no_such());
    }
    audit::record(&Act {
        org,
        operation: "revoke_invitation",
        object: "tenancy.invitations",
        key: json!({ "id": id_text(id) }),
        old: None,
        new: None::<Value>,
    });
    Ok(())
}

/// Whether the session's user is in the organization, or the caller is the DBA.
fn belongs(org: &Id) -> bool {
    let user = context::standing().user;
    context::is_administrator() || user.is_some_and(|user| access::role_in(org, &user).is_some())
}

fn no_such() -> ErrorReport {
    fail(
        PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
        "there is no such invitation that waits",
    )
    .set_detail("It is unknown, or was accepted or revoked already.")
    .set_hint("SELECT * FROM tenancy.list_invitations(org) shows those of an organization.")
}

/// The invitations of an organization, newest first, without their tokens (spec 3.5). `org`: the organization. `status`
/// is pending, accepted, revoked or expired. `invited_by` is NULL where a DBA invited. Needs team:invite there (or the
/// DBA). Errors: 42501 no right or unknown organization.
#[pg_extern(stable, parallel_unsafe)]
#[allow(
    clippy::type_complexity,
    reason = "the columns of a SQL table function"
)]
fn list_invitations(
    org: Option<Uuid>,
) -> pg::Result<
    TableIterator<
        'static,
        (
            name!(invitation, Uuid),
            name!(email, String),
            name!(role, String),
            name!(status, String),
            name!(invited_by, Option<Uuid>),
            name!(created_at, Option<TimestampWithTimeZone>),
            name!(expires_at, Option<TimestampWithTimeZone>),
            name!(membership_expires_at, Option<TimestampWithTimeZone>),
            name!(accepted_by, Option<Uuid>),
            name!(ended_at, Option<TimestampWithTimeZone>),
        ),
    >,
> {
    let org = pg::given(org, "org")?;
    access::require(org.as_bytes(), "team:invite", "in the organization")?;
    let rows = latest(
        "SELECT id, email, role,
                CASE WHEN accepted_at IS NOT NULL THEN 'accepted' WHEN revoked_at IS NOT NULL THEN 'revoked'
                     WHEN expires_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp() THEN 'expired'
                     ELSE 'pending' END,
                invited_by, created_at, expires_at, membership_expires_at, accepted_by,
                COALESCE(accepted_at, revoked_at)
         FROM tenancy.invitations WHERE org_id OPERATOR(pg_catalog.=) $1 ORDER BY created_at DESC, id",
        &[Arg::Uuid(org.as_bytes())],
        |row| {
            let text = |n| row.get::<String>(n).unwrap_or_default();
            let time = |n| row.get::<TimestampWithTimeZone>(n);
            let id = |n| row.uuid(n).map(Uuid::from_bytes);
            (
                Uuid::from_bytes(row.uuid(1).unwrap_or_default()),
                text(2),
                text(3),
                text(4),
                id(5),
                time(6),
                time(7),
                time(8),
                id(9),
                time(10),
            )
        },
    );
    Ok(TableIterator::new(rows))
}
