//! Who did it: what all lines that a context writes have in common.

use crate::context;
use crate::context::settings::Setting;
use crate::pg::identity;
use pg_tenancy_audit_format::Author;
use std::cell::RefCell;
use std::rc::Rc;

struct Kept {
    version: u64,
    runner: identity::Runner,
    author: Rc<Author>,
}

thread_local! {
    static KEPT: RefCell<Option<Kept>> = const { RefCell::new(None) };
}

/// The author as of now: the same one, also to the pointer, until something about it changes.
pub fn author(break_glass: bool) -> Rc<Author> {
    let runner = identity::runner();
    let kept = KEPT.with_borrow(|kept| {
        kept.as_ref()
            .filter(|k| k.version == context::version() && k.runner == runner)
            .filter(|k| k.author.break_glass == break_glass)
            .map(|k| k.author.clone())
    });
    if let Some(author) = kept {
        return author;
    }
    let now = context::standing();
    let version = context::version();
    let made = Author {
        actor: now.user,
        approver: None,
        break_glass,
        actor_type: now.actor_type.into(),
        db_role: context::login(),
        result: "completed".into(),
        client_addr: client_addr(&now.principal),
        request_id: context::honoured(&now.principal, Setting::RequestId),
    };
    let author = KEPT
        .take()
        .map(|kept| kept.author)
        .filter(|author| **author == made)
        .unwrap_or_else(|| Rc::new(made));
    KEPT.set(Some(Kept {
        version,
        runner,
        author: author.clone(),
    }));
    author
}

/// The connection's address, or the one that a trusted application names for its user. None on a unix socket.
fn client_addr(principal: &context::Principal) -> Option<String> {
    if matches!(
        principal,
        context::Principal::Application { .. } | context::Principal::Dba
    ) && let Some(named) = context::honoured(principal, Setting::ClientAddr)
    {
        return named
            .parse::<std::net::IpAddr>()
            .ok()
            .map(|a| a.to_string());
    }
    thread_local! {
        // A connection does not move.
        static ADDRESS: std::cell::OnceCell<Option<String>> = const { std::cell::OnceCell::new() };
    }
    ADDRESS.with(|address| address.get_or_init(identity::client_address).clone())
}
