//! The hall: what is remembered, and what makes it forget.

use super::{Test, acme, enter};
use crate::context::{authority, standing};
use pgrx::prelude::*;

pub const TESTS: &[Test] = &[
    (
        "steady_state_check_does_no_lookup",
        steady_state_check_does_no_lookup,
    ),
    (
        "a_change_of_authority_is_looked_up_again",
        a_change_of_authority_is_looked_up_again,
    ),
    (
        "a_change_of_claim_is_assessed_again",
        a_change_of_claim_is_assessed_again,
    ),
];

fn as_user(user: [u8; 16]) {
    let user = uuid::Uuid::from_bytes(user);
    Spi::run(&format!("SET LOCAL app.current_user_id = '{user}'")).expect("sets");
}

fn steady_state_check_does_no_lookup() {
    let (org, owner) = acme();
    as_user(owner);
    enter(org);
    assert_eq!(standing().role, "owner");
    let before = authority::lookups();
    for _ in 0..1000 {
        assert!(standing().org.is_some());
        Spi::run("SELECT tenancy.has_permission('server:read'), tenancy.current_org(), tenancy.org_if('server:read')")
            .expect("asks");
    }
    assert_eq!(authority::lookups(), before, "a check looked something up");
}

fn a_change_of_authority_is_looked_up_again() {
    let (org, owner) = acme();
    as_user(owner);
    enter(org);
    assert!(standing().org.is_some());
    let before = authority::lookups();
    Spi::run("UPDATE tenancy.users SET name = 'Ada'").expect("updates");
    assert!(standing().org.is_some());
    assert!(authority::lookups() > before, "the bell was not heard");
}

fn a_change_of_claim_is_assessed_again() {
    let ((one, _), (two, _)) = (acme(), acme());
    enter(one);
    assert_eq!(standing().org_id(), Some(one));
    enter(two);
    assert_eq!(standing().org_id(), Some(two));
    Spi::run("SET LOCAL app.current_org = ''").expect("sets");
    assert_eq!(standing().org_id(), None);
}
