//! Signed tokens (spec 4): who a connection speaks for, proved anew by the application for each transaction, so that
//! whoever else sends SQL through the connection is nobody.

mod crypto;
mod verify;
