//! What is counted, and under which names. The only room that names the metrics library.
//!
//! Duty: counters that the other rooms add to, and the page that a scrape of `GET /metrics` gets (`page.rs`).
//!
//! Invariants:
//! 1. A page has the audit's counters from one snapshot, so that they add up in each scrape, too.
//! 2. What is added on the way of a report is an atomic addition at the most, and for acks one a commit.
//! 3. A page has as many series whatever clients send: no label has a value that a client chooses.
//! 4. Every metric is in `docs/metrics.md`, in its words, and the other way round (`tests/e2e/metrics.rs`).
//!
//! Does not know: where its figures come from. What is not counted here is given to it as a [`Reading`].

mod audit;
mod counts;
mod histogram;
mod page;
mod process;

pub use audit::{Audit, Counters, Revised};
pub use counts::{Count, Intruders, Reasons};
pub use histogram::{Histogram, Measure, Size, Tally, Time};
pub use page::{Format, JournalReading, Reading, SinkReading};

/// All that a node counts.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Where every report is.
    pub audit: Counters,
    /// Messages that were refused.
    pub refused: Reasons,
    /// From a message's frame being read to its ack being handed to its connection.
    pub acks: Histogram<Time>,
    /// Reports of a commit.
    pub commits: Histogram<Size>,
    /// What a sync of the journal took.
    pub syncs: Histogram<Time>,
    /// Damaged journals whose files were searched for what is whole.
    pub salvages: Count,
    /// What a committed transaction of the sink took.
    pub transactions: Histogram<Time>,
    /// Rows of a committed transaction.
    pub transaction_rows: Histogram<Size>,
    /// Batches of ids in committed transactions.
    pub batches: Count,
    /// Connections that were taken.
    pub connections_accepted: Count,
    /// Connections that were refused because `max_connections` were open, or `max_connections_per_address` (of a client that
    /// a proxy names: requests too), or because only proxies may connect.
    pub connections_refused: Count,
    /// Requests that the ingest listener refused for whom they come from.
    pub ingest_intruders: Intruders,
    /// The same of the admin listener.
    pub admin_intruders: Intruders,
    /// Connections to the admin listener that were refused because its `max_connections` were open.
    pub admin_connections_refused: Count,
    /// What the settings allow.
    pub limits: Limits,
    /// Until when the certificates of the listeners are valid.
    pub certificates: Certificates,
    started: Started,
}

/// When the process started, in seconds of the epoch.
#[derive(Debug)]
struct Started(f64);

impl Default for Started {
    fn default() -> Self {
        Self(process::started())
    }
}

/// What the settings allow; set when they are read.
#[derive(Debug, Default)]
pub struct Limits {
    /// `journal.max_bytes`
    pub journal_bytes: Count,
    /// `journal.min_free_disk`
    pub free_disk_bytes: Count,
    /// `ingest.max_connections`
    pub connections: Count,
}

/// Until when the certificate of each listener is valid, in seconds of the epoch; 0 where it has none, or that cannot
/// be seen. Set when it is read.
#[derive(Debug, Default)]
pub struct Certificates {
    /// Of `ingest.tls_cert`
    pub ingest: Count,
    /// Of `admin.tls_cert`
    pub admin: Count,
}
