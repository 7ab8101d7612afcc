//! What runs at the start of each statement. Hooks may deny, never allow; they return at once where the extension is
//! not installed in the session's database.

pub mod cascade;
mod statement;
mod utility;

pub fn init() {
    cascade::init();
    statement::init();
    utility::init();
}
