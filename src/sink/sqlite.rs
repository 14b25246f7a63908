//! The embedded sink: one SQLite file, with the semantics of the MySQL sink to the letter.
//!
//! The file is in WAL mode with `synchronous=FULL`, so that a commit is on disk when it returns. SQLite blocks, so each
//! transaction runs on a thread for blocking work; a lock of the process lets one at a time write, which spares them
//! SQLite's own waiting by polling.

mod file;
mod opening;
mod place;
mod wal;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{OptionalExtension as _, Statement, params};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::record::{self, StreamRow, by_key, write_instant};
use super::{Class, Connection, Sink, SinkError, Stored};
use crate::config::{self, TableName};
use crate::report::{Batch, Id, Position, Report};
use file::{File, Known};

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
        let shared = Shared { path, settings, slot: Mutex::default(), stored: Notify::new() };
        Self { shared: Arc::new(shared), keeper: Mutex::new(None) }
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
                *file = Some(File::open(&shared.path, &shared.settings, known).map_err(|error| shared.named(error))?);
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
    async fn store(&mut self, batches: &[Batch]) -> Result<Vec<Stored>, SinkError> {
        let batches = batches.to_vec();
        let stored = self.with_file(move |file, known| file.store(known, &batches)).await;
        self.shared.stored.notify_one();
        stored
    }

    async fn probe(&mut self) -> Result<(), SinkError> {
        self.with_file(File::probe).await
    }

    fn usable(&self) -> bool {
        self.usable
    }
}

impl SqliteConnection {
    async fn with_file<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut File, &mut Known) -> Result<T, SinkError> + Send + 'static,
    ) -> Result<T, SinkError> {
        let shared = Arc::clone(&self.shared);
        // A future that is dropped leaves a connection that is not used again.
        self.usable = false;
        let outcome = blocking(move || Ok(shared.with_file(work))).await?;
        // After an outage the file is opened anew: it may be another one by then.
        self.usable = outcome.as_ref().err().is_none_or(is_of_a_transaction);
        outcome
    }
}

fn is_of_a_transaction(error: &SinkError) -> bool {
    matches!(error.class, Class::Transient | Class::Poison)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_file<T>(&self, work: impl FnOnce(&mut File, &mut Known) -> Result<T, SinkError>) -> Result<T, SinkError> {
        let mut slot = self.lock();
        let Slot { file, known, stored_at } = &mut *slot;
        let open = file.as_mut().ok_or_else(|| SinkError::new(Class::Outage, "the file is closed"));
        let outcome = open.and_then(|file| work(file, known)).map_err(|error| self.named(error));
        *stored_at = Some(Instant::now());
        if outcome.as_ref().err().is_some_and(|error| !is_of_a_transaction(error)) {
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
    fn store(&mut self, known: &mut Known, batches: &[Batch]) -> Result<Vec<Stored>, SinkError> {
        let last = batches.iter().rev().find_map(|batch| Some((batch.id, batch.records.last()?.position)));
        let last = last.filter(|(_, position)| *position > Position(0));
        let work = |transaction: &rusqlite::Transaction<'_>, table: &TableName| {
            let prepared = Statements::prepare(transaction, table);
            prepared.map_err(|error| classify("preparing a transaction", error))?.store(batches)
        };
        let inserted = |stored: &Vec<Stored>| stored.iter().map(|stored| stored.inserted).sum();
        self.transact(known, last, work, inserted)
    }
}

/// The statements of a transaction, prepared once for all its rows.
struct Statements<'a> {
    insert: Statement<'a>,
    upsert: Statement<'a>,
    total: Statement<'a>,
}

impl<'a> Statements<'a> {
    fn prepare(connection: &'a rusqlite::Connection, table: &TableName) -> rusqlite::Result<Self> {
        let (reports, streams) = (table.reports(), table.streams());
        let insert = format!(
            "INSERT INTO \"{reports}\" (id, source, seq, time, code, peer, data, accepted_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (id, source, seq) DO NOTHING"
        );
        // Every expression sees the row as it was, in whatever order they stand.
        let upsert = format!(
            "INSERT INTO \"{streams}\" AS s (id, state, reports, first_at, last_at, state_position) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO UPDATE SET reports = s.reports + excluded.reports, \
             first_at = min(s.first_at, excluded.first_at), last_at = max(s.last_at, excluded.last_at), \
             state = iif(excluded.state_position > s.state_position, excluded.state, s.state), \
             state_position = max(s.state_position, excluded.state_position)"
        );
        let total = format!("SELECT reports FROM \"{streams}\" WHERE id = ?1");
        Ok(Self {
            insert: connection.prepare(&insert)?,
            upsert: connection.prepare(&upsert)?,
            total: connection.prepare(&total)?,
        })
    }

    fn store(&mut self, batches: &[Batch]) -> Result<Vec<Stored>, SinkError> {
        let storing = |error| classify("storing reports", error);
        let updating = |error| classify("updating streams", error).not_for_a_report();
        let mut stored = Vec::with_capacity(batches.len());
        for batch in batches {
            let mut inserted = 0;
            let mut rows = Vec::new();
            by_key(batch, &mut rows);
            for (id, report) in rows {
                inserted += self.insert(id, report).map_err(storing)?;
            }
            if let Some(row) = StreamRow::of(batch, inserted) {
                self.upsert(&row).map_err(updating)?;
            }
            let total = match record::has_marker(batch) {
                true => self.total(&batch.id).map_err(updating)?,
                false => None,
            };
            stored.push(Stored { inserted, duplicates: record::reports(batch) - inserted, total });
        }
        Ok(stored)
    }

    fn insert(&mut self, id: &Id, report: &Report) -> rusqlite::Result<u64> {
        let data = report.data.as_deref().map(std::str::from_utf8).transpose();
        let changed = self.insert.execute(params![
            id.as_str(),
            report.number.source,
            integer(report.number.seq),
            report.time.map(|micros| micros as f64 / 1e6),
            report.code,
            report.peer.map(|peer| peer.to_string()),
            data.map_err(|error| rusqlite::Error::Utf8Error(6, error))?,
            instant(report.accepted_at),
        ])?;
        Ok(changed as u64)
    }

    fn upsert(&mut self, row: &StreamRow<'_>) -> rusqlite::Result<()> {
        let (first_at, last_at) = (instant(row.first_at), instant(row.last_at));
        let (inserted, position) = (integer(row.inserted), integer(row.position.0));
        self.upsert.execute(params![row.id.as_str(), row.state, inserted, first_at, last_at, position])?;
        Ok(())
    }

    fn total(&mut self, id: &Id) -> rusqlite::Result<Option<u64>> {
        let total = self.total.query_row([id.as_str()], |row| row.get::<_, i64>(0)).optional()?;
        Ok(total.and_then(|total| u64::try_from(total).ok()))
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
