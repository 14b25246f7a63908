//! The sink: where reports end. The only room that names a database.
//!
//! Duty: store batches of records in transactions that may hold many ids, say by what the server says how many rows are
//! new, and tell a sink that cannot take anything from a report that the sink cannot take.
//!
//! Invariants:
//! 1. First write wins: a row whose key is there already is never changed, neither by a replay nor by a second report
//!    of the same transaction.
//! 2. `report_streams.reports` of an id grows by exactly the rows newly inserted, in the transaction that inserts them.
//! 3. A stream's state is that of its record of the highest position, whatever the order in which batches arrive.
//! 4. A transaction is stored whole or not at all. One whose outcome is unknown is sent again, which changes nothing.
//! 5. [`Writer::store`] ends only when each record is stored, refused for what it is, or put back. Only poison
//!    refuses a record, only one that stands alone in its transaction, and never a marker. A batch is put back whole,
//!    alone, and only where the sink is there and keeps failing over it (a code that nobody knows, a lock that is
//!    held for long): it holds up no other id, and nothing of it is dropped.
//! 6. Records of one id are committed in their order, in splits and retries too: a marker never overtakes its reports.
//! 7. While the sink is down or blocked, one writer at a time asks it; the others wait.
//! 8. No text of this room has the sink's password, and text of a server is escaped.
//!
//! On the wire: the driver's, in its text protocol. On disk: the database's own.
//!
//! It does not know the journal, connections of clients, flushers, or what is done with a refused report.

use std::future::Future;

use crate::config::{self, SinkTarget};
use crate::report::{Batch, Holder, JournalId};

pub mod backoff;
pub mod claim;
pub mod error;
pub mod health;
mod mark;
pub mod mysql;
mod pool;
pub mod readback;
mod record;
pub mod schema;
mod shape;
mod split;
pub mod sqlite;
pub mod writer;

pub use claim::{Claim, Claimant};
pub use error::{Class, SinkError};
pub use health::{Health, HealthStatus, SinkState, StickyError};
pub use mysql::MysqlSink;
pub use schema::ddl;
pub use sqlite::SqliteSink;
pub use writer::{Burial, Bury, Granularity, Outcome, Refused, Writer};

/// What became of one batch within a committed transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Rows that were not there before, from what the server said.
    pub inserted: u64,
    /// Reports whose key was there already, in the sink or earlier in the transaction.
    pub duplicates: u64,
    /// `report_streams.reports` of the id after the transaction: all its rows. Known where the batch has a marker.
    pub total: Option<u64>,
}

/// A report whose key the sink has with other content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Its batch, among those that were to be stored.
    pub batch: usize,
    /// Its record in the batch.
    pub index: usize,
    /// What the sink has.
    pub holder: Holder,
}

/// Why a transaction was not committed, or not for certain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The sink, or the way to it, failed; nothing was stored.
    #[error(transparent)]
    Failed(#[from] SinkError),
    /// They failed over the commit itself: all may be stored, or nothing.
    #[error("{0}; whether it was stored is not known")]
    Unknown(SinkError),
    /// These keys are taken; nothing was stored. In order of batch and record.
    #[error("{} reports have keys that the sink has with other content", .0.len())]
    Taken(Vec<Taken>),
}

impl StoreError {
    /// What failed; none where keys are taken.
    fn failure(&self) -> Option<&SinkError> {
        match self {
            Self::Failed(error) | Self::Unknown(error) => Some(error),
            Self::Taken(_) => None,
        }
    }

    /// The same with what failed put into other words.
    fn map_failure(self, map: impl FnOnce(SinkError) -> SinkError) -> Self {
        match self {
            Self::Failed(error) => Self::Failed(map(error)),
            Self::Unknown(error) => Self::Unknown(map(error)),
            taken @ Self::Taken(_) => taken,
        }
    }
}

/// A sink that connections can be opened to.
pub trait Sink: Send + Sync + 'static {
    /// One connection; used by one writer at a time.
    type Connection: Connection;

    /// Its kind, as traces name it (`db.system.name` of OpenTelemetry).
    fn system(&self) -> &'static str {
        "other_sql"
    }

    /// By how many seconds the clock of the sink is ahead of this machine's, as it was when the last connection was
    /// made; none where it has no clock of its own, or is not known yet.
    fn clock_skew(&self) -> Option<f64> {
        None
    }

    /// Opens a connection, within the configured timeout, and makes the tables if they are missing and it may.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, SinkError>> + Send;
}

/// One connection to a sink.
pub trait Connection: Send + 'static {
    /// Stores all batches in one transaction: all of it or, on an error, none; on [`StoreError::Unknown`] perhaps all.
    /// What is sent again after that says so ([`Batch::tried_through`]), and changes nothing where it was stored.
    ///
    /// Ids differ between batches. A future that is dropped leaves a connection that must be dropped too.
    fn store(&mut self, batches: &[Batch]) -> impl Future<Output = Result<Vec<Stored>, StoreError>> + Send;

    /// Asks whether the sink would take a write now (not only a read).
    fn probe(&mut self) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Whether the connection can be used again after an error: its transaction is rolled back and the server there.
    fn usable(&self) -> bool;
}

/// The sink of the settings; nothing is opened yet.
///
/// # Errors
/// When the sink's URL cannot be read.
pub fn open(settings: &config::Sink) -> Result<AnySink, SinkError> {
    Ok(match &settings.target {
        SinkTarget::Mysql(url) => AnySink::Mysql(MysqlSink::new(url, settings)?),
        SinkTarget::Sqlite(path) => AnySink::Sqlite(Box::new(SqliteSink::new(path, settings))),
    })
}

impl AnySink {
    /// Lets connections from now on write as the node of this claim alone. Before, they write as nobody in particular.
    pub fn claim(&self, claim: Claim) {
        match self {
            Self::Mysql(sink) => sink.claim(claim),
            Self::Sqlite(sink) => sink.claim(claim),
        }
    }

    /// Names the journal whose batches are stored from now on, so that the sink remembers what of it is settled.
    pub fn serve(&self, journal: JournalId) {
        match self {
            Self::Mysql(sink) => sink.serve(journal),
            Self::Sqlite(sink) => sink.serve(journal),
        }
    }
}

/// Any of the sinks, chosen when the node starts.
pub enum AnySink {
    /// MySQL or MariaDB.
    Mysql(MysqlSink),
    /// The embedded default.
    Sqlite(Box<SqliteSink>),
}

/// A connection of [`AnySink`].
pub enum AnyConnection {
    /// To MySQL or MariaDB.
    Mysql(Box<mysql::MysqlConnection>),
    /// To the embedded default.
    Sqlite(sqlite::SqliteConnection),
}

impl Sink for AnySink {
    type Connection = AnyConnection;

    fn system(&self) -> &'static str {
        match self {
            Self::Mysql(_) => "mysql",
            Self::Sqlite(_) => "sqlite",
        }
    }

    fn clock_skew(&self) -> Option<f64> {
        match self {
            Self::Mysql(sink) => sink.clock_skew(),
            Self::Sqlite(sink) => sink.clock_skew(),
        }
    }

    async fn connect(&self) -> Result<AnyConnection, SinkError> {
        Ok(match self {
            Self::Mysql(sink) => AnyConnection::Mysql(Box::new(sink.connect().await?)),
            Self::Sqlite(sink) => AnyConnection::Sqlite(sink.connect().await?),
        })
    }
}

impl Connection for AnyConnection {
    async fn store(&mut self, batches: &[Batch]) -> Result<Vec<Stored>, StoreError> {
        match self {
            Self::Mysql(connection) => connection.store(batches).await,
            Self::Sqlite(connection) => connection.store(batches).await,
        }
    }

    async fn probe(&mut self) -> Result<(), SinkError> {
        match self {
            Self::Mysql(connection) => connection.probe().await,
            Self::Sqlite(connection) => connection.probe().await,
        }
    }

    fn usable(&self) -> bool {
        match self {
            Self::Mysql(connection) => connection.usable(),
            Self::Sqlite(connection) => connection.usable(),
        }
    }
}
