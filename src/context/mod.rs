//! The hall. Every request comes here first and every other room asks here who the session acts as, for which
//! organization and with which rights; two answers to "which org is this?" is how leaks are made.
//!
//! The settings are only a claim. `standing()` is the claim checked against the principal's membership, computed once
//! and kept until something that it rests on changes: a setting, the login, a membership, a binding, the transaction.

pub mod api;
pub mod authority;
mod credentials;
pub mod cursors;
pub mod deletion;
mod denial;
mod entitle;
mod entry;
pub mod keys;
pub mod ledger;
pub mod migration;
pub mod network;
mod orgs;
mod people;
pub mod places;
mod principal;
pub mod projects;
mod remembered;
mod scope_entry;
mod seal;
pub mod settings;
mod standing;
pub mod token;
mod transaction;

pub use api::known_org;
pub use denial::{
    lasting_change, no_ai, no_right, no_right_in_project, no_service, outside_scope, owner_only,
    refused, require_superuser, sealed_statistics, stranger, suspended, without_context,
    without_key,
};
pub use entitle::{admits_from_here, honoured, is_login, login, names_a_user};
pub use entry::{form_for_number, number_of};
pub use ledger::note_break_glass;
pub use places::is_same_list;
pub use principal::{Principal, is_administrator, is_administrators, is_superuser};
pub use scope_entry::UNSCOPED;
pub use seal::{before_transaction_control, check as check_seal, is_on as may_be_sealed};
pub use standing::{Standing, pin, refresh, standing, stays_here, version, watch_the_clock};

/// Who the session acts as, whether or not an organization is in effect.
pub fn principal() -> Principal {
    standing().principal.clone()
}

/// Whether the transaction worked for an organization already.
pub fn is_pinned() -> bool {
    transaction::pinned().is_some()
}

/// Whether the session speaks for somebody whom its login alone is not: sealed, or held to tokens. Then nothing may be left
/// behind for the login's other sessions.
pub fn is_shared() -> bool {
    seal::is_on()
        || matches!(
            principal(),
            Principal::Token { .. } | Principal::Service { .. } | Principal::Tokenless { .. }
        )
}

pub fn init() {
    settings::init();
    authority::init();
    transaction::init();
}
