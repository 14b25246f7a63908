//! The embedded sink: one SQLite file, with the semantics of the MySQL sink to the letter.
//!
//! The file is in WAL mode with `synchronous=FULL`, so that a commit is on disk when it returns. SQLite blocks, so each
//! transaction runs on a thread for blocking work; a lock of the process lets one at a time write, which spares them
//! SQLite's own waiting by polling.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rusqlite::{TransactionBehavior, params};

use super::record::write_instant;
use super::{Class, Connection, Sink, SinkError, StoreError, Stored, schema};
use crate::config::{self, SinkTarget, TableName};
use crate::report::{Batch, JournalId};
use statements::Statements;

mod statements;

/// An SQLite file.
pub struct SqliteSink {
    path: PathBuf,
    settings: config::Sink,
    writing: Writing,
    /// Whose batches are stored.
    journal: OnceLock<JournalId>,
}

/// Held by the one connection that writes. True once the tables were made or found: those that vanish later are not
/// made again, except in a file that is new.
type Writing = Arc<Mutex<bool>>;

impl SqliteSink {
    /// Nothing is opened yet.
    pub fn new(path: &Path, settings: &config::Sink) -> Self {
        Self { path: path.to_owned(), settings: settings.clone(), writing: Arc::default(), journal: OnceLock::new() }
    }

    pub(super) fn serve(&self, journal: JournalId) {
        let _ = self.journal.set(journal);
    }
}

impl Sink for SqliteSink {
    type Connection = SqliteConnection;

    async fn connect(&self) -> Result<SqliteConnection, SinkError> {
        let (path, settings) = (self.path.clone(), self.settings.clone());
        let (writing, journal) = (Arc::clone(&self.writing), self.journal.get().copied());
        blocking(move || {
            let mut made = writing.lock().unwrap_or_else(PoisonError::into_inner);
            let make = settings.create_tables && (!*made || !path.exists());
            let file = File { journal, ..File::open(&path, &settings, make)? };
            *made = true;
            drop(made);
            Ok(SqliteConnection { file: Some(file), writing })
        })
        .await
    }
}

/// One connection; its file is away while a transaction runs, and gone after one that was cancelled.
pub struct SqliteConnection {
    file: Option<File>,
    writing: Writing,
}

impl Connection for SqliteConnection {
    async fn store(&mut self, batches: &[Batch], again: bool) -> Result<Vec<Stored>, StoreError> {
        let batches = batches.to_vec();
        self.with_file(move |file| match file.store(&batches, again) {
            Err(StoreError::Failed(error)) => Err(error),
            Err(StoreError::Taken(taken)) => Ok(Err(StoreError::Taken(taken))),
            Ok(stored) => Ok(Ok(stored)),
        })
        .await?
    }

    async fn probe(&mut self) -> Result<(), SinkError> {
        self.with_file(File::probe).await
    }

    fn usable(&self) -> bool {
        self.file.is_some()
    }
}

impl SqliteConnection {
    async fn with_file<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut File) -> Result<T, SinkError> + Send + 'static,
    ) -> Result<T, SinkError> {
        let mut file = self.file.take().ok_or_else(|| SinkError::new(Class::Outage, "the file is closed"))?;
        let writing = Arc::clone(&self.writing);
        let (file, outcome) = blocking(move || {
            let turn = writing.lock().unwrap_or_else(PoisonError::into_inner);
            let outcome = work(&mut file);
            drop(turn);
            Ok((file, outcome))
        })
        .await?;
        // After an outage the file is opened anew: it may be another one by then.
        if outcome.as_ref().err().is_none_or(|error| matches!(error.class, Class::Transient | Class::Poison)) {
            self.file = Some(file);
        }
        outcome
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SinkError> + Send + 'static,
) -> Result<T, SinkError> {
    let ended = |error| SinkError::new(Class::Transient, format!("the thread of the sink ended: {error}"));
    tokio::task::spawn_blocking(work).await.map_err(ended)?
}

/// An open file; every call blocks.
struct File {
    connection: rusqlite::Connection,
    table: TableName,
    path: PathBuf,
    /// Device and inode: writes to a file that was deleted or replaced succeed, and are lost.
    identity: (u64, u64),
    /// Whose batches it stores.
    journal: Option<JournalId>,
}

impl File {
    fn open(path: &Path, settings: &config::Sink, make_tables: bool) -> Result<Self, SinkError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|error| SinkError::new(Class::Outage, format!("making {}: {error}", folder.display())))?;
        }
        let connection = rusqlite::Connection::open(path).map_err(|error| classify("opening the file", error))?;
        let prepared = prepare(&connection, settings.timeout);
        prepared.map_err(|error| classify("setting up the file", error))?;
        let file = Self {
            connection,
            table: settings.table.clone(),
            path: path.to_owned(),
            identity: identity(path)?,
            journal: None,
        };
        if make_tables && !file.tables_exist().map_err(|error| classify("looking for the tables", error))? {
            for statement in schema::statements(&SinkTarget::Sqlite(path.to_owned()), &file.table) {
                file.connection.execute_batch(&statement).map_err(|error| classify("making the tables", error))?;
            }
        }
        Ok(file)
    }

    fn tables_exist(&self) -> rusqlite::Result<bool> {
        let count = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name IN (?1, ?2)";
        let names = params![self.table.reports(), self.table.streams()];
        self.connection.query_row(count, names, |row| row.get::<_, i64>(0)).map(|count| count == 2)
    }

    fn store(&mut self, batches: &[Batch], again: bool) -> Result<Vec<Stored>, StoreError> {
        if identity(&self.path)? != self.identity {
            return Err(SinkError::new(Class::Outage, format!("{} was replaced", self.path.display())).into());
        }
        self.transact(batches, again)
    }

    /// A transaction that is dropped before its commit rolls back.
    fn transact(&mut self, batches: &[Batch], again: bool) -> Result<Vec<Stored>, StoreError> {
        let begun = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begun.map_err(|error| classify("beginning a transaction", error))?;
        let prepared = Statements::prepare(&transaction, &self.table, self.journal);
        let stored = prepared.map_err(|error| classify("preparing a transaction", error))?.store(batches, again)?;
        transaction.commit().map_err(|error| classify("committing", error).not_for_a_report())?;
        Ok(stored)
    }

    /// Takes the lock for writing and changes nothing.
    fn probe(&mut self) -> Result<(), SinkError> {
        let (reports, streams) = (self.table.reports(), self.table.streams());
        let probe = format!(
            "BEGIN IMMEDIATE; UPDATE \"{reports}\" SET code = code WHERE FALSE; \
             UPDATE \"{streams}\" SET state = state WHERE FALSE; ROLLBACK"
        );
        let outcome = self.connection.execute_batch(&probe);
        if outcome.is_err() && !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK").map_err(|error| classify("ending a probe", error))?;
        }
        outcome.map_err(|error| classify("asking whether the sink takes writes", error))
    }
}

fn prepare(connection: &rusqlite::Connection, timeout: Duration) -> rusqlite::Result<()> {
    connection.busy_timeout(timeout)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")
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

fn identity(path: &Path) -> Result<(u64, u64), SinkError> {
    let found = std::fs::metadata(path);
    let found = found.map_err(|error| SinkError::new(Class::Outage, format!("{}: {error}", path.display())))?;
    Ok((found.dev(), found.ino()))
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
