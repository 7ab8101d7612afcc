//! State of this backend, for the paths that run per row or per statement.

use std::cell::RefCell;
use std::ops::Deref;

/// A variable of this backend. PostgreSQL runs a backend on one thread, so an ordinary static serves; thread_local!
/// costs a call for each access in a shared library, and all of them a fifteenth of what a point read pays (measured).
pub struct Backend<T>(T);

// SAFETY: no second thread exists in a backend that could share it; pgrx refuses to run PostgreSQL's code on another.
unsafe impl<T> Sync for Backend<T> {}

impl<T> Backend<T> {
    pub const fn new(value: T) -> Backend<T> {
        Backend(value)
    }
}

impl<T> Deref for Backend<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Backend<RefCell<T>> {
    #[inline]
    pub fn with_borrow<R>(&self, use_it: impl FnOnce(&T) -> R) -> R {
        use_it(&self.0.borrow())
    }

    #[inline]
    pub fn with_borrow_mut<R>(&self, use_it: impl FnOnce(&mut T) -> R) -> R {
        use_it(&mut self.0.borrow_mut())
    }

    #[inline]
    pub fn set(&self, value: T) {
        *self.0.borrow_mut() = value;
    }
}
