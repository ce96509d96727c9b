//! Fault injection for tests: makes the n-th durable operation of this thread fail, and, like a crash, every
//! one after it. Not compiled into the product.

use std::cell::RefCell;
use std::io;

#[derive(Default)]
struct Faults {
    crash_at: Option<usize>,
    operations: Vec<&'static str>,
}

thread_local! {
    static FAULTS: RefCell<Faults> = RefCell::default();
}

/// From now on the operation with this index (from 0, counted from here) and all later ones of this thread
/// fail, as if the process had died at that instant. `None` lets all succeed. Clears the record.
pub fn crash_at(index: Option<usize>) {
    FAULTS.with_borrow_mut(|faults| *faults = Faults { crash_at: index, operations: Vec::new() });
}

/// The durable operations that this thread tried since the last [`crash_at`], in order.
#[must_use]
pub fn operations() -> Vec<&'static str> {
    FAULTS.with_borrow(|faults| faults.operations.clone())
}

/// Called before every durable operation.
pub(crate) fn step(operation: &'static str) -> io::Result<()> {
    FAULTS.with_borrow_mut(|faults| {
        let index = faults.operations.len();
        faults.operations.push(operation);
        match faults.crash_at {
            Some(at) if index >= at => Err(io::Error::other(format!("injected fault at {operation}"))),
            _ => Ok(()),
        }
    })
}
