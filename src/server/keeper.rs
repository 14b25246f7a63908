//! Who keeps what a session takes: the engine, or in a test of sessions alone something that stands in for it.

use crate::engine::Engine;
use crate::journal::Append;

/// Makes appends durable and answers each through its outlet.
pub trait Keeper: Send + Sync + 'static {
    /// Waits until `bytes` more may be queued; [`Keeper::append`] takes them over.
    fn reserve(&self, bytes: usize) -> impl Future<Output = ()> + Send;

    /// Takes appends, in order. Does not block.
    fn append(&self, appends: Vec<Append>, reserved: usize);
}

impl Keeper for Engine {
    fn reserve(&self, bytes: usize) -> impl Future<Output = ()> + Send {
        self.reserve(bytes)
    }

    fn append(&self, appends: Vec<Append>, reserved: usize) {
        self.append(appends, reserved);
    }
}
