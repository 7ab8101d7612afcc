//! Who did it: what all lines that a context writes have in common.

use crate::context;
use crate::context::settings::Setting;
use crate::environment;
use crate::pg::identity;
use crate::pg::raw::Text;
use pg_tenancy_audit_format::Author;
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

/// An author, and the texts as they are stored.
pub struct Signature {
    pub author: Author,
    pub actor_type: Text,
    pub db_role: Text,
    pub result: Text,
    pub client_addr: Option<Text>,
    pub request_id: Option<Text>,
    /// How many bytes these have in all.
    pub size: usize,
}

impl Signature {
    fn of(author: Author) -> Signature {
        let optional = [&author.client_addr, &author.request_id].map(|t| t.as_deref());
        let given = [&author.actor_type, &author.db_role, &author.result].map(String::as_str);
        let [client_addr, request_id] = optional.map(|t| t.map(Text::new));
        let size = given.into_iter().chain(optional.into_iter().flatten());
        Signature {
            size: size.map(str::len).sum(),
            actor_type: Text::new(&author.actor_type),
            db_role: Text::new(&author.db_role),
            result: Text::new(&author.result),
            client_addr,
            request_id,
            author,
        }
    }
}

struct Kept {
    version: u64,
    runner: identity::Runner,
    address: Option<IpAddr>,
    signature: Rc<Signature>,
}

thread_local! {
    static KEPT: RefCell<Option<Kept>> = const { RefCell::new(None) };
}

/// The author as of now: the same one, also to the pointer, until something about it changes.
pub fn author(break_glass: bool) -> Rc<Signature> {
    let runner = identity::runner();
    let approver = environment::approver();
    let kept = KEPT.with_borrow(|kept| {
        kept.as_ref()
            .filter(|k| k.version == context::version() && k.runner == runner)
            .filter(|k| {
                let author = &k.signature.author;
                author.break_glass == break_glass && author.approver == approver
            })
            .map(|k| k.signature.clone())
    });
    if let Some(signature) = kept {
        return signature;
    }
    let now = context::standing();
    let version = context::version();
    let address = context::network::origin(&now.principal).address();
    let request_id = context::honoured(&now.principal, Setting::RequestId);
    // Transactions in a row are mostly of one author: this runs for each, and makes no text of what it compares.
    let same = |kept: &Kept| {
        let author = &kept.signature.author;
        author.actor == now.actor()
            && author.break_glass == break_glass
            && author.approver == approver
            && author.actor_type == now.actor_type
            && kept.address == address
            && author.request_id == request_id
            && context::is_login(&author.db_role)
    };
    let kept = KEPT.take().filter(same).map(|kept| kept.signature);
    let signature = kept.unwrap_or_else(|| {
        Rc::new(Signature::of(Author {
            actor: now.actor(),
            approver,
            break_glass,
            actor_type: now.actor_type.into(),
            db_role: context::login(),
            result: "completed".into(),
            client_addr: address.map(|address| address.to_string()),
            request_id,
        }))
    });
    KEPT.set(Some(Kept {
        version,
        runner,
        address,
        signature: signature.clone(),
    }));
    signature
}
