//! What runs when a statement is planned and when it starts. Hooks may deny, never allow; they return at once where the extension is
//! not installed in the session's database.

pub mod cascade;
mod discretion;
mod migration;
mod planner;
mod statement;
mod utility;
mod writes;

pub fn init() {
    cascade::init();
    planner::init();
    discretion::init();
    statement::init();
    utility::init();
}
