//! The sink: where reports end. The only room that names a database.

use std::future::Future;

use crate::report::Batch;

pub mod error;

pub use error::{Class, SinkError};

/// What became of one batch within a committed transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Rows that were not there before, from what the server said.
    pub inserted: u64,
    /// Reports whose key was there already, in the sink or earlier in the transaction.
    pub duplicates: u64,
    /// `report_streams.reports` of the id after the transaction: all rows of the id. Known where the batch has a marker.
    pub total: Option<u64>,
}

/// A sink that connections can be opened to.
pub trait Sink: Send + Sync + 'static {
    /// One connection; used by one writer at a time.
    type Connection: Connection;

    /// Opens a connection, within the configured timeout.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, SinkError>> + Send;
}

/// One connection to a sink.
pub trait Connection: Send + 'static {
    /// Stores all batches in one transaction: all of it or, on an error, none (or, where the connection died during
    /// COMMIT, perhaps all: the same batches are then sent again, which changes nothing).
    ///
    /// Ids differ between batches. After an error other than poison the connection must not be used again.
    fn store(&mut self, batches: &[Batch]) -> impl Future<Output = Result<Vec<Stored>, SinkError>> + Send;

    /// Asks whether the sink would take a write now (not only a read).
    fn probe(&mut self) -> impl Future<Output = Result<(), SinkError>> + Send;
}
