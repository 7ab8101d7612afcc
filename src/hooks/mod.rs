//! What runs at the start of each statement. Hooks may deny, never allow; they return at once where the extension is
//! not installed in the session's database.

pub mod cascade;
mod discretion;
mod statement;
mod utility;

pub fn init() {
    cascade::init();
    discretion::init();
    statement::init();
    utility::init();
}
