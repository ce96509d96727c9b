//! Fault injection for tests: makes the n-th durable operation of this thread fail, as a crash, as a fault of the
//! device, or as a full disk. Not compiled into the product.

use std::cell::RefCell;
use std::io::{self, Write};

/// How operations fail from the n-th on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// As if the process had died at that instant: the n-th operation and all later ones fail.
    Crash,
    /// The n-th operation alone fails, and its caller goes on.
    Once,
    /// The disk is full: of the operations from the n-th on those fail that need room, writes after half of their
    /// bytes. Names can still be changed and removed.
    Full,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Fault; 3] = [Fault::Crash, Fault::Once, Fault::Full];
}

/// Operations that a full disk refuses.
const NEED_ROOM: [&str; 6] = ["mkdir", "create", "write", "append", "copy", "link"];

#[derive(Default)]
struct Faults {
    at: Option<(Fault, usize)>,
    operations: Vec<&'static str>,
}

thread_local! {
    static FAULTS: RefCell<Faults> = RefCell::default();
}

/// From now on operations of this thread fail as said, the first one being number 0. Clears the record.
pub fn fail_at(fault: Fault, index: usize) {
    FAULTS.with_borrow_mut(|faults| *faults = Faults { at: Some((fault, index)), operations: Vec::new() });
}

/// From now on all operations succeed. Clears the record.
pub fn stop() {
    FAULTS.with_borrow_mut(|faults| *faults = Faults::default());
}

/// The durable operations that this thread tried since the last [`fail_at`] or [`stop`], in order.
#[must_use]
pub fn operations() -> Vec<&'static str> {
    FAULTS.with_borrow(|faults| faults.operations.clone())
}

/// Called before every durable operation.
pub(crate) fn step(operation: &'static str) -> io::Result<()> {
    FAULTS.with_borrow_mut(|faults| {
        let index = faults.operations.len();
        faults.operations.push(operation);
        match faults.at {
            Some((Fault::Crash, at)) if index >= at => Err(injected(operation)),
            Some((Fault::Once, at)) if index == at => Err(injected(operation)),
            Some((Fault::Full, at)) if index >= at && NEED_ROOM.contains(&operation) => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    })
}

/// Writes bytes as the durable operation `operation`.
pub(crate) fn write_all(file: &mut dyn Write, bytes: &[u8], operation: &'static str) -> io::Result<()> {
    match step(operation) {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            file.write_all(&bytes[..bytes.len() / 2])?;
            Err(error)
        }
        Err(error) => Err(error),
        Ok(()) => file.write_all(bytes),
    }
}

fn injected(operation: &str) -> io::Error {
    io::Error::other(format!("injected fault at {operation}"))
}
