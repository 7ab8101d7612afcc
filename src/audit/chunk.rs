//! Lines wait for their statement's end, an organization's together, and are stored as chunks: rows of one page, so that
//! a line pays for its bytes and its hash, and only a chunk for a row, an index entry and a record in the
//! write-ahead log. (A row of jsonb for each line: 3.7 times the unaudited bulk insert, measured; see bench/ for what
//! it is now.)
//!
//! A chunk belongs to the nesting level at which its lines were made: it is stored there, or goes with it. Stored inside
//! of a subtransaction that began later, in the middle of a statement, it would be lost if that rolled back.

use super::author::Signature;
use super::layouts::{self, Captured};
use super::store;
use crate::context::authority::Id;
use crate::pg::raw::Text;
use crate::pg::{self, heap, raw, transaction};
use pg_tenancy_audit_format::{self as format, Digest, Moment, Salt, Salts};
use pgrx::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// Columns of every audit table, in the order in which `store` fills them: fixed widths first, so that no byte is lost
/// between them.
pub const COLUMNS: &str = "at timestamptz NOT NULL, xid xid8 NOT NULL, n integer NOT NULL, lines integer NOT NULL, \
    org_id uuid NOT NULL, actor_id uuid, approver_id uuid, break_glass boolean NOT NULL, actor_type text NOT NULL, \
    db_role text NOT NULL, result text NOT NULL, client_addr text, request_id text, payload bytea NOT NULL";
pub const TYPES: [pg_sys::Oid; 14] = [
    pg_sys::TIMESTAMPTZOID,
    pg_sys::XID8OID,
    pg_sys::INT4OID,
    pg_sys::INT4OID,
    pg_sys::UUIDOID,
    pg_sys::UUIDOID,
    pg_sys::UUIDOID,
    pg_sys::BOOLOID,
    pg_sys::TEXTOID,
    pg_sys::TEXTOID,
    pg_sys::TEXTOID,
    pg_sys::TEXTOID,
    pg_sys::TEXTOID,
    pg_sys::BYTEAOID,
];

/// The column that holds the lines.
pub const PAYLOAD: i16 = 14;

/// A row of this size fills its page.
const ROW: usize = heap::LARGEST_ROW;
/// What a chunk's row holds beside payload and texts: header with null bits, fixed columns, lengths with alignment.
const FRAME: usize = 32 + (8 + 8 + 4 + 4) + 3 * 16 + 1 + 5 * 7 + 7;

/// Past this many bytes waiting for many organizations at once, all that may be stored is.
const WAITING: usize = 16 << 20;

struct Chunk {
    org: Id,
    level: i32,
    author: Rc<Signature>,
    table: pg_sys::Oid,
    first: Moment,
    lines: i32,
    salts: Salts,
    /// The layout of the first line, with its context, and those of later lines that have others.
    layout: (Rc<Captured>, Digest),
    layouts: Vec<(Rc<Captured>, Digest)>,
    /// The value to be stored, with its header.
    bytes: Vec<u8>,
    /// How many bytes that may become.
    room: usize,
}

#[derive(Default)]
struct Open {
    /// The one that the last line went to: the lines of one statement mostly go to one.
    last: Option<Chunk>,
    others: HashMap<(Id, i32), Chunk>,
    /// How many bytes the others hold.
    waiting: usize,
    /// Emptied, for the next chunk.
    spare: Vec<u8>,
}

thread_local! {
    static OPEN: RefCell<Open> = RefCell::default();
    // Numbers the lines of one transaction, across organizations.
    static NEXT: Cell<i32> = const { Cell::new(0) };
    // The last hashed context: transactions in a row are mostly of one author, organization and table.
    static CONTEXT: RefCell<Option<Context>> = const { RefCell::new(None) };
}

/// What is hashed in front of the lines of an author, an organization and a layout.
struct Context {
    author: Rc<Signature>,
    org: Id,
    layout: Rc<Captured>,
    digest: Digest,
}

pub fn append(org: &Id, layout: &Rc<Captured>, author: &Rc<Signature>, body: &[u8]) {
    // Both may make a table, and with it run somebody's event trigger: before anything is borrowed.
    let table = store::table_for(org);
    layouts::record(layout);
    let moment = Moment {
        at: transaction::now(),
        xid: transaction::full_id(),
        n: NEXT.replace(NEXT.get() + 1),
    };
    let level = transaction::nest_level();
    OPEN.with_borrow_mut(|open| {
        let mut chunk = open.chunk_of(org, level);
        if let Some(full) = chunk.take_if(|c| !c.fits(author, layout, moment, body)) {
            open.spare = full.store();
        }
        let mut chunk = chunk.unwrap_or_else(|| {
            let spare = std::mem::take(&mut open.spare);
            Chunk::new(org, table, level, author, layout, moment, spare)
        });
        chunk.add(layout, moment, body);
        open.last = Some(chunk);
        if open.waiting > WAITING {
            open.store(level);
        }
    });
}

/// Stores the lines of this nesting level that wait: at the end of each statement, before a read of the log, before
/// commit.
pub fn flush() {
    OPEN.with_borrow_mut(|open| {
        if open.last.is_some() || !open.others.is_empty() {
            open.store(transaction::nest_level());
        }
    });
}

/// Whether this transaction has made lines.
pub fn has_written() -> bool {
    NEXT.get() > 0
}

/// What a subtransaction wrote goes with it.
pub fn at_subtransaction_abort(level: i32) {
    OPEN.with_borrow_mut(|open| {
        open.last.take_if(|c| c.level >= level);
        open.others.retain(|_, c| c.level < level);
        open.waiting = open.others.values().map(|c| c.bytes.len()).sum();
    });
}

pub fn at_transaction_end() {
    NEXT.set(0);
    OPEN.with_borrow_mut(|open| {
        open.last = None;
        open.others.clear();
        open.waiting = 0;
    });
}

impl Open {
    /// An error on the way leaves the chunks of outer levels where they are: those of this one go with it.
    fn store(&mut self, level: i32) {
        if let Some(chunk) = self.last.take_if(|c| c.level >= level) {
            self.spare = chunk.store();
        }
        if self.others.is_empty() {
            return;
        }
        let mine = self.others.extract_if(|_, c| c.level >= level);
        let mut mine: Vec<Chunk> = mine.map(|(_, c)| c).collect();
        // In the order in which they were begun.
        mine.sort_by_key(|c| c.first);
        for chunk in mine {
            self.waiting -= chunk.bytes.len();
            self.spare = chunk.store();
        }
    }

    /// The open chunk of an organization, taken out.
    fn chunk_of(&mut self, org: &Id, level: i32) -> Option<Chunk> {
        if let Some(last) = self.last.take() {
            if last.org == *org && last.level == level {
                return Some(last);
            }
            self.waiting += last.bytes.len();
            self.others.insert((last.org, last.level), last);
        }
        if self.others.is_empty() {
            return None;
        }
        let found = self.others.remove(&(*org, level))?;
        self.waiting -= found.bytes.len();
        Some(found)
    }
}

impl Chunk {
    fn new(
        org: &Id,
        table: pg_sys::Oid,
        level: i32,
        author: &Rc<Signature>,
        layout: &Rc<Captured>,
        first: Moment,
        mut bytes: Vec<u8>,
    ) -> Chunk {
        let salt = salt();
        bytes.clear();
        bytes.resize(raw::HEADER, 0);
        format::put_head(&mut bytes, &salt, &layout.id);
        Chunk {
            org: *org,
            level,
            author: author.clone(),
            table,
            first,
            lines: 0,
            salts: Salts::of(salt),
            layout: (layout.clone(), context(author, org, layout)),
            layouts: Vec::new(),
            bytes,
            room: ROW.saturating_sub(FRAME + author.size),
        }
    }

    /// The place of a layout in the head.
    fn place(&self, layout: &Captured) -> Option<usize> {
        if self.layout.0.id == layout.id {
            return Some(0);
        }
        let found = self.layouts.iter().position(|(l, _)| l.id == layout.id);
        found.map(|place| place + 1)
    }

    fn fits(&self, author: &Rc<Signature>, layout: &Captured, moment: Moment, body: &[u8]) -> bool {
        let new = if self.place(layout).is_some() { 0 } else { 16 };
        Rc::ptr_eq(&self.author, author)
            && (0..=format::read::SPAN).contains(&(moment.at - self.first.at))
            && self.bytes.len() + new + format::line_size(body.len()) <= self.room
            && self.layouts.len() + 1 < format::LAYOUTS
    }

    fn add(&mut self, layout: &Rc<Captured>, moment: Moment, body: &[u8]) {
        let place = self.place(layout).unwrap_or_else(|| {
            let context = context(&self.author, &self.org, layout);
            self.layouts.push((layout.clone(), context));
            format::add_layout(&mut self.bytes, raw::HEADER, &layout.id);
            self.layouts.len()
        });
        let (_, context) = match place {
            0 => &self.layout,
            n => &self.layouts[n - 1],
        };
        let values = format::values(&self.salts.of_next_line(), body);
        let leaf = format::leaf(context, moment, body[0], &values);
        format::put_line(
            &mut self.bytes,
            place,
            (moment.at - self.first.at) as u64,
            (moment.n - self.first.n) as u64,
            &leaf,
            body,
        );
        self.lines += 1;
    }

    /// Writes the chunk to its table; answers the memory of its lines.
    fn store(mut self) -> Vec<u8> {
        let author = &*self.author;
        let uuid = |id: &Id| pg_sys::Datum::from(id.as_ptr());
        let row = [
            Some(self.first.at.into()),
            Some(self.first.xid.into()),
            Some(self.first.n.into()),
            Some(self.lines.into()),
            Some(uuid(&self.org)),
            author.author.actor.as_ref().map(uuid),
            author.author.approver.as_ref().map(uuid),
            Some(author.author.break_glass.into()),
            Some(author.actor_type.datum()),
            Some(author.db_role.datum()),
            Some(author.result.datum()),
            author.client_addr.as_ref().map(Text::datum),
            author.request_id.as_ref().map(Text::datum),
            Some(raw::with_header(&mut self.bytes)),
        ];
        heap::append(self.table, &TYPES, &row);
        self.bytes.shrink_to(ROW);
        self.bytes
    }
}

fn context(author: &Rc<Signature>, org: &Id, layout: &Rc<Captured>) -> Digest {
    let known = CONTEXT.with_borrow(|known| {
        let known = known.as_ref()?;
        let same = Rc::ptr_eq(&known.author, author)
            && known.org == *org
            && Rc::ptr_eq(&known.layout, layout);
        same.then_some(known.digest)
    });
    known.unwrap_or_else(|| {
        let digest = author.author.context(&layout.format.digest, org);
        CONTEXT.set(Some(Context {
            author: author.clone(),
            org: *org,
            layout: layout.clone(),
            digest,
        }));
        digest
    })
}

/// A chunk's salt: from a secret of this backend that is never written down, and a counter.
fn salt() -> Salt {
    thread_local! {
        static SALTS: RefCell<Option<Secret>> = const { RefCell::new(None) };
    }
    SALTS.with_borrow_mut(|s| s.get_or_insert_with(Secret::new).next())
}

struct Secret {
    key: [u8; 32],
    used: u64,
    /// The second salt of the last number.
    left: Option<Salt>,
}

impl Secret {
    fn new() -> Secret {
        Secret {
            key: pg::random(),
            used: 0,
            left: None,
        }
    }

    fn next(&mut self) -> Salt {
        self.left.take().unwrap_or_else(|| {
            self.used += 1;
            let [salt, other] = format::chunk_salts(&self.key, self.used);
            self.left = Some(other);
            salt
        })
    }
}
