//! A procedure that commits on its way.

use pgrx::prelude::*;

/// Where the procedure may commit, SPI is open without a fixed transaction around it.
pub struct Commits {
    may: bool,
}

/// SAFETY: `fcinfo` is that of the procedure call which is being answered; `end()` follows.
pub unsafe fn begin(fcinfo: pg_sys::FunctionCallInfo) -> Commits {
    // SAFETY: as the function's own; the node tag says what the context points to.
    unsafe {
        let context = (*fcinfo).context;
        let may = !context.is_null()
            && (*context).type_ == pg_sys::NodeTag::T_CallContext
            && !(*context.cast::<pg_sys::CallContext>()).atomic;
        if may {
            pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as i32);
        }
        Commits { may }
    }
}

impl Commits {
    /// Commits, and begins the next transaction; inside of a transaction block, nothing: it is the caller's to end.
    pub fn commit(&mut self) {
        if self.may {
            // SAFETY: SPI was opened for it, and nothing of ours is open in between.
            unsafe { pg_sys::SPI_commit() }
        }
    }

    pub fn end(self) {
        if self.may {
            // SAFETY: opened by begin().
            unsafe {
                pg_sys::SPI_finish();
            }
        }
    }
}
