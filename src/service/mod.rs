//! The service: the one front of journal, flushers and sink.
//!
//! Bytes go one way: append, commit, drain, store. Three things come back: the ack (through an [`Outlet`]), the wake-up
//! of a flusher, and the truncation. Stop order: no more appends, flushers, the last sync.
//!
//! [`Outlet`]: crate::journal::Outlet

mod damaged;
mod dead_letters;
mod listing;
mod set_aside;
mod streams;

use std::sync::{Arc, Mutex, PoisonError};

use crate::config::{Settings, SinkTarget};
use crate::drain::{Flushers, Limits, Policy};
use crate::journal::{Append, Journal, JournalError, JournalStatus, Opened, Surroundings};
use crate::metrics::{Audit, JournalReading, Metrics, Reading, SinkReading};
use crate::report::Owner;
use crate::sink;
use crate::sink::{AnySink, Claim, Claimant, Class, Health, HealthStatus, Sink as _, SinkError, SinkState, Writer};

pub use dead_letters::{DeadLetters, Retried, RetryError};
pub use listing::{Cursor, CursorError, Order, Place};
pub use set_aside::{MAX_WHY_BYTES, SetAsideError};
pub use streams::{Busy, Listing, Page, Paused, StreamState, StreamStatus, Streams};

/// A running service; a cheap handle.
#[derive(Clone)]
pub struct Service {
    journal: Journal,
    flushers: Flushers,
    sink: Arc<AnySink>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    dead_letters: DeadLetters,
    streams: Streams,
    drain: std::time::Duration,
    renewable: Renewable,
}

/// The journal, for the sink's claim to give it a new id; empty once the service closes, as the claim may outlive it.
type Renewable = Arc<Mutex<Option<Journal>>>;

/// What an operator sees first.
#[derive(Debug, Clone)]
pub struct Status {
    /// Why reports are not taken, where they are not.
    pub not_ready: Option<String>,
    /// The journal.
    pub journal: JournalStatus,
    /// The sink.
    pub sink: HealthStatus,
    /// By how many seconds the sink's clock is ahead, where it has one and that is known.
    pub clock_skew: Option<f64>,
    /// Where every report is.
    pub audit: Audit,
}

/// Why a service did not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What the settings say of the sink cannot be used.
    #[error(transparent)]
    Sink(#[from] SinkError),
}

impl Service {
    /// Opens the journal, recovers it, and starts to drain it. The sink need not be up.
    ///
    /// # Errors
    /// When the journal cannot be opened, or the sink's URL is none.
    pub async fn open(settings: &Settings) -> Result<Self, OpenError> {
        let sink = Arc::new(sink::open(&settings.sink)?);
        let flushers = Flushers::new(Policy { batch: settings.flush.batch as u64, tick: settings.flush.tick });
        let metrics = counted(settings);
        let journal = open_journal(settings, &flushers, &metrics).await?;
        let renewable = claim(&sink, &journal);
        let health = Arc::new(Health::new(Arc::clone(&metrics)));
        let writers = writers(settings, &sink, &health);
        let dead_letters = DeadLetters::new(&journal, writers[0].another(), &settings.sink);
        let streams = Streams::new(&journal, &flushers, &health, settings.sink.timeout);
        let drain = settings.shutdown.drain;
        let service = Self { journal, flushers, sink, health, metrics, dead_letters, streams, drain, renewable };
        service.start_draining(settings, writers);
        Ok(service)
    }

    fn start_draining(&self, settings: &Settings, writers: Vec<Writer<AnySink>>) {
        let limits = Limits {
            catch_up_batch: settings.flush.catch_up_batch.min(settings.sink.max_rows),
            max_rows: settings.sink.max_rows,
            max_bytes: settings.sink.max_bytes,
        };
        self.flushers.start(&self.journal, writers, limits);
    }

    /// The dead letters, for an operator.
    pub fn dead_letters(&self) -> &DeadLetters {
        &self.dead_letters
    }

    /// The ids with backlog, for an operator.
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Waits until `bytes` more may be queued (`max_queued_bytes`). [`Service::append`] takes them over.
    pub async fn reserve(&self, bytes: usize) {
        self.journal.reserve(bytes).await;
    }

    /// As [`Service::append`], but all of these are kept or none.
    pub fn append_together(&self, appends: Vec<Append>, reserved: usize) {
        self.journal.append_together(appends, reserved);
    }

    /// Hands appends to the commit thread, in order. Never blocks. Each with a `reply_to` is answered once, in order,
    /// unless the journal fails. `reserved` are the bytes that [`Service::reserve`] gave for them.
    pub fn append(&self, appends: Vec<Append>, reserved: usize) {
        #[cfg(forebay_plant = "refuse_in_an_outage")]
        if self.health.status().state != sink::SinkState::Up {
            self.stop_accepting();
        }
        self.journal.append(appends, reserved);
    }

    /// Refuses all further appends of clients with `shutting_down`.
    pub fn stop_accepting(&self) {
        self.journal.stop_accepting();
    }

    /// Where every report is, at one instant.
    pub fn audit(&self) -> Audit {
        self.metrics.audit.snapshot()
    }

    /// What an operator sees first.
    pub fn status(&self) -> Status {
        Status {
            not_ready: self.not_ready(),
            journal: self.journal.status(),
            sink: self.health.status(),
            clock_skew: self.sink.clock_skew(),
            audit: self.audit(),
        }
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What a scrape is told besides what is counted; what the service does not know is left at its default. May read
    /// the disk.
    pub fn reading(&self) -> Reading {
        let Status { not_ready, journal, sink, audit, .. } = self.status();
        let state = |state: SinkState| (state.name(), sink.state == state);
        let retries = |class: Class| (class.name(), self.health.retries(class));
        Reading {
            ready: not_ready.is_none(),
            audit,
            journal: JournalReading {
                bytes: journal.bytes,
                backlog_bytes: journal.backlog_bytes,
                disk_bytes: journal.bytes_on_disk,
                free_disk_bytes: journal.free_disk,
                streams: journal.streams,
                oldest_age: journal.oldest_age.unwrap_or_default(),
                damaged: journal.damaged,
            },
            sink: SinkReading {
                states: [SinkState::Up, SinkState::Down, SinkState::Blocked].map(state),
                retries: [Class::Transient, Class::Outage, Class::Operator].map(retries),
                outages: self.health.outages(),
            },
            ..Reading::default()
        }
    }

    /// Why reports are not taken; `None` when they are.
    pub fn not_ready(&self) -> Option<String> {
        match self.journal.failure() {
            Some(error) => Some(error.to_string()),
            None => self.journal.is_stopping().then(|| "the node is stopping".to_owned()),
        }
    }

    /// Resolves when the journal fails: nothing was or will be acknowledged after it, and the process must end with an
    /// error.
    pub async fn failed(&self) -> Arc<JournalError> {
        self.journal.failed().await
    }

    /// Resolves once the commit thread has synced after this call: it lives, and the disk answers.
    ///
    /// # Errors
    /// Why the journal failed.
    pub async fn commit(&self) -> Result<(), Arc<JournalError>> {
        self.journal.commit_queued().await;
        self.journal.failure().map_or(Ok(()), Err)
    }

    /// Drains for at most `shutdown.drain`, stops flushers and the commit thread, and syncs once more.
    ///
    /// # Errors
    /// Why the journal failed, now or before.
    pub async fn shut_down(&self) -> Result<(), Arc<JournalError>> {
        self.stop_accepting();
        // What connections left at their end is to be drained too.
        self.journal.commit_queued().await;
        self.flushers.drain_and_stop(self.drain).await;
        let backlog = self.audit().backlog;
        if backlog == 0 {
            tracing::info!("all backlog is in the sink");
        } else {
            tracing::info!(backlog, "the rest of the backlog stays in the journal until the next start");
        }
        let journal = self.journal.clone();
        tokio::task::spawn_blocking(move || journal.stop()).await.expect("stopping the journal does not panic")
    }

    /// Closes the journal's files after [`Service::shut_down`], if this is the last handle. Blocks.
    ///
    /// # Errors
    /// When the journal's storage cannot end as it wants to.
    pub fn close(self) -> Result<(), JournalError> {
        // Each of these has a handle to the journal; a field that is not named here would live as long as this call.
        let Self { journal, flushers, dead_letters, streams, renewable, .. } = self;
        drop((flushers, dead_letters, streams));
        *renewable.lock().unwrap_or_else(PoisonError::into_inner) = None;
        journal.close()
    }
}

/// A writer for each drainer, over connections that they share; at least one.
fn writers(settings: &Settings, sink: &Arc<AnySink>, health: &Arc<Health>) -> Vec<Writer<AnySink>> {
    let count = match settings.sink.target {
        // It has one writer at a time.
        SinkTarget::Sqlite(_) => 1,
        SinkTarget::Mysql(_) => settings.sink.connections,
    };
    Writer::several(sink, health, count)
}

/// Lets the sink write as the node that has this journal open.
fn claim(sink: &AnySink, journal: &Journal) -> Renewable {
    let renewable: Renewable = Arc::new(Mutex::new(Some(journal.clone())));
    let claimant = Claiming { claims: journal.claims(), journal: Arc::clone(&renewable) };
    sink.claim(Claim::new(journal.owner(), Box::new(claimant)));
    renewable
}

/// The journal of a node, until it is closed.
struct Claiming {
    claims: Option<[u64; 2]>,
    journal: Renewable,
}

impl Claiming {
    fn journal<T>(&self, ask: impl FnOnce(&Journal) -> Result<T, JournalError>) -> Result<T, String> {
        match &*self.journal.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(journal) => ask(journal).map_err(|error| error.to_string()),
            None => Err("the node is stopping".to_owned()),
        }
    }
}

impl Claimant for Claiming {
    fn claims(&self) -> Option<[u64; 2]> {
        self.claims
    }

    fn note(&self, found: u64) -> Result<[u64; 2], String> {
        self.journal(|journal| journal.note_claim(found))
    }

    fn renew(&self) -> Result<Owner, String> {
        self.journal(Journal::renew)
    }
}

/// Nothing yet, under the limits of the settings.
fn counted(settings: &Settings) -> Arc<Metrics> {
    let metrics = Metrics::default();
    metrics.limits.journal_bytes.set(settings.journal.max_bytes);
    metrics.limits.free_disk_bytes.set(settings.journal.min_free_disk);
    metrics.limits.connections.set(settings.ingest.max_connections as u64);
    Arc::new(metrics)
}

/// Opens the journal away from the tasks that must not wait for a disk.
async fn open_journal(
    settings: &Settings,
    flushers: &Flushers,
    metrics: &Arc<Metrics>,
) -> Result<Journal, JournalError> {
    let around = Surroundings {
        node_id: settings.node_id,
        max_queued_bytes: settings.ingest.max_queued_bytes,
        max_entry_records: settings.flush.catch_up_batch.min(settings.sink.max_rows),
    };
    let (journal, metrics) = (settings.journal.clone(), Arc::clone(metrics));
    let opened = tokio::task::spawn_blocking(move || Opened::open(&journal, around, metrics)).await;
    let opened = opened.expect("opening the journal does not panic")?;
    Ok(opened.start(Arc::new(flushers.clone())))
}
