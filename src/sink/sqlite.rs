//! The embedded sink: one SQLite file, with the semantics of the MySQL sink to the letter.
//!
//! The file is in WAL mode with `synchronous=FULL`, so that a commit is on disk when it returns. SQLite blocks, so each
//! transaction runs on a thread for blocking work; a lock of the process lets one at a time write, which spares them
//! SQLite's own waiting by polling.

mod claim;
mod file;
mod opening;
mod place;
mod shape;
mod statements;
pub(super) mod time;
mod wal;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::record::{self, write_instant};
use super::{Claim, Class, Connection, Sink, SinkError, StoreError, Stored};
use crate::config::{self, TableName};
use crate::report::{Batch, JournalId, Position};
use file::{File, Known, Last};
use statements::Statements;

/// The `-wal` is carried into the file and cut down once nothing was stored for so long; where a reader keeps it from
/// that, it is tried again after the second.
const IDLE: Duration = Duration::from_secs(2);
const READER: Duration = Duration::from_secs(20);

/// An SQLite file.
pub struct SqliteSink {
    shared: Arc<Shared>,
    /// Cuts down the `-wal` while nothing is stored; made with the first connection.
    keeper: Mutex<Option<AbortHandle>>,
}

/// What all connections of a sink have together.
struct Shared {
    path: PathBuf,
    settings: config::Sink,
    /// Held by the one connection that works.
    slot: Mutex<Slot>,
    /// Something was stored.
    stored: Notify,
    claim: OnceLock<Claim>,
    /// Whose batches are stored, where nobody claims a `node_id`.
    journal: OnceLock<JournalId>,
}

/// The one open file of a sink: a second would wait for the first.
#[derive(Default)]
struct Slot {
    file: Option<File>,
    known: Known,
    stored_at: Option<Instant>,
}

impl SqliteSink {
    /// Nothing is opened yet.
    pub fn new(path: &Path, settings: &config::Sink) -> Self {
        let (path, settings) = (path.to_owned(), settings.clone());
        let (slot, stored, claim, journal) = (Mutex::default(), Notify::new(), OnceLock::new(), OnceLock::new());
        let shared = Arc::new(Shared { path, settings, slot, stored, claim, journal });
        Self { shared, keeper: Mutex::new(None) }
    }

    pub(super) fn claim(&self, claim: Claim) {
        assert!(self.shared.claim.set(claim).is_ok(), "a sink has one node");
    }

    pub(super) fn serve(&self, journal: JournalId) {
        // The first is the one that serves.
        let _ = self.shared.journal.set(journal);
    }

    fn keep(&self) {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if keeper.is_none() {
            *keeper = Some(tokio::spawn(keep(Arc::clone(&self.shared))).abort_handle());
        }
    }
}

impl Drop for SqliteSink {
    fn drop(&mut self) {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        keeper.iter().for_each(AbortHandle::abort);
    }
}

impl Sink for SqliteSink {
    type Connection = SqliteConnection;

    async fn connect(&self) -> Result<SqliteConnection, SinkError> {
        self.keep();
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let mut slot = shared.lock();
            let Slot { file, known, .. } = &mut *slot;
            if file.is_none() {
                let opened = File::open(&shared.path, &shared.settings, known, shared.claim.get());
                *file = Some(opened.map_err(|error| shared.named(error))?);
            }
            drop(slot);
            Ok(SqliteConnection { shared, usable: true })
        })
        .await
    }
}

/// One connection. Those of one sink have one file, in turn.
pub struct SqliteConnection {
    shared: Arc<Shared>,
    usable: bool,
}

impl Connection for SqliteConnection {
    async fn store(&mut self, batches: &[Batch]) -> Result<Vec<Stored>, StoreError> {
        let batches = batches.to_vec();
        let shared = Arc::clone(&self.shared);
        let stored = self.with_file(move |file, known| file.store(known, &shared, &batches)).await;
        self.shared.stored.notify_one();
        stored
    }

    async fn probe(&mut self) -> Result<(), SinkError> {
        let shared = Arc::clone(&self.shared);
        let probe = move |file: &mut File, known: &mut Known| Ok(file.probe(known, shared.claim.get())?);
        self.with_file(probe).await.map_err(|error| match error {
            StoreError::Failed(error) | StoreError::Unknown(error) => error,
            StoreError::Taken(_) => unreachable!("a probe stores nothing"),
        })
    }

    fn usable(&self) -> bool {
        self.usable
    }
}

impl SqliteConnection {
    async fn with_file<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut File, &mut Known) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        // A future that is dropped leaves a connection that is not used again.
        self.usable = false;
        // Of a thread that ended nobody knows how far it came.
        let outcome = blocking(move || Ok(shared.with_file(work))).await.map_err(StoreError::Unknown)?;
        // After an outage the file is opened anew: it may be another one by then.
        self.usable = is_of_a_transaction(&outcome);
        outcome
    }
}

/// Whether the file can be used again.
fn is_of_a_transaction<T>(outcome: &Result<T, StoreError>) -> bool {
    let failure = outcome.as_ref().err().and_then(StoreError::failure);
    failure.is_none_or(|error| matches!(error.class, Class::Transient | Class::Poison))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_file<T>(&self, work: impl FnOnce(&mut File, &mut Known) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut slot = self.lock();
        let Slot { file, known, stored_at } = &mut *slot;
        let open = file.as_mut().ok_or_else(|| SinkError::new(Class::Outage, "the file is closed").into());
        let outcome = open.and_then(|file| work(file, known));
        let outcome = outcome.map_err(|error| error.map_failure(|error| self.named(error)));
        *stored_at = Some(Instant::now());
        if !is_of_a_transaction(&outcome) {
            file.take().into_iter().for_each(|file| file.close(known));
        }
        outcome
    }

    /// The error with the file's path, but where a report is to blame.
    fn named(&self, error: SinkError) -> SinkError {
        match error.class {
            Class::Poison => error,
            _ => SinkError { message: format!("{}: {}", self.path.display(), error.message), ..error },
        }
    }

    /// Cuts down the `-wal` if nothing was stored for a while; whether there is nothing left to cut.
    fn cut_when_idle(&self) -> bool {
        let mut slot = self.lock();
        let Slot { file, known, stored_at } = &mut *slot;
        match file {
            Some(file) if stored_at.is_none_or(|at| at.elapsed() >= IDLE) => file.cut_wal(known),
            Some(_) => false,
            None => true,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Nobody comes after it who would see that the file was moved.
        self.file.take().into_iter().for_each(|file| file.close(&mut self.known));
        self.known.say_loss();
    }
}

/// Cuts down the `-wal` of a sink whenever nothing was stored for a while, until it is dropped.
async fn keep(shared: Arc<Shared>) {
    loop {
        shared.stored.notified().await;
        let (mut wait, mut is_cut) = (IDLE, false);
        while !is_cut {
            tokio::time::sleep(wait).await;
            let sink = Arc::clone(&shared);
            is_cut = blocking(move || Ok(sink.cut_when_idle())).await.unwrap_or(true);
            wait = (wait * 2).min(READER);
        }
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SinkError> + Send + 'static,
) -> Result<T, SinkError> {
    let ended = |error| SinkError::new(Class::Transient, format!("the thread of the sink ended: {error}"));
    tokio::task::spawn_blocking(work).await.map_err(ended)?
}

impl File {
    fn store(&mut self, known: &mut Known, shared: &Shared, batches: &[Batch]) -> Result<Vec<Stored>, StoreError> {
        let work = |transaction: &rusqlite::Transaction<'_>, table: &TableName| {
            let claim = shared.claim.get();
            if let Some(claim) = claim.filter(|_| cfg!(not(forebay_plant = "store_unclaimed"))) {
                claim::take(transaction, table, claim)?;
            }
            let journal = claim.map(|claim| claim.owner().journal).or(shared.journal.get().copied());
            let journal = journal.filter(|_| shared.settings.settled_marks);
            let prepared = Statements::prepare(transaction, table, journal);
            prepared.map_err(|error| classify("preparing a transaction", error))?.store(batches)
        };
        let done = |stored: &Vec<Stored>| {
            let both = || batches.iter().zip(stored).rev();
            let stream = both().find_map(|(batch, stored)| {
                let (_, position) = record::says(batch, stored.inserted)?;
                (position > Position(0)).then_some((batch.id, position))
            });
            let report =
                both().filter(|(_, stored)| stored.inserted > 0).find_map(|(batch, _)| record::last_key(batch));
            (stored.iter().map(|stored| stored.inserted).sum(), Last { stream, report })
        };
        self.transact(known, work, done)
    }
}

/// SQLite's integers are signed; all of ours are below 2^53.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn instant(micros: u64) -> String {
    let mut text = Vec::with_capacity(26);
    write_instant(&mut text, micros);
    String::from_utf8(text).expect("an instant is written in digits")
}

pub(super) fn classify(doing: &str, error: rusqlite::Error) -> SinkError {
    match error {
        rusqlite::Error::SqliteFailure(failure, text) => {
            SinkError::sqlite(doing, failure.extended_code, &text.unwrap_or_else(|| failure.to_string()))
        }
        rusqlite::Error::SqlInputError { error, msg, .. } => SinkError::sqlite(doing, error.extended_code, &msg),
        // JSON is UTF-8; MySQL refuses such bytes too.
        error @ rusqlite::Error::Utf8Error(..) => SinkError::new(Class::Poison, format!("{doing}: {error}")),
        other => SinkError::new(Class::Transient, format!("{doing}: {other}")),
    }
}
