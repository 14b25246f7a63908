//! Who keeps what a session takes: the service, or in a test of sessions alone something that stands in for it.

use crate::journal::Append;
use crate::service::Service;

/// Makes appends durable and answers each through its outlet.
pub trait Backend: Send + Sync + 'static {
    /// Waits until `bytes` more may be queued; [`Backend::append`] takes them over.
    fn reserve(&self, bytes: usize) -> impl Future<Output = ()> + Send;

    /// Takes appends, in order. Does not block.
    fn append(&self, appends: Vec<Append>, reserved: usize);
}

impl Backend for Service {
    fn reserve(&self, bytes: usize) -> impl Future<Output = ()> + Send {
        self.reserve(bytes)
    }

    fn append(&self, appends: Vec<Append>, reserved: usize) {
        self.append(appends, reserved);
    }
}
