//! The embedded sink: one SQLite file, with the semantics of the MySQL sink to the letter.
//!
//! The file is in WAL mode with `synchronous=FULL`, so that a commit is on disk when it returns. SQLite blocks, so each
//! transaction runs on a thread for blocking work; a lock of the process lets one at a time write, which spares them
//! SQLite's own waiting by polling.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rusqlite::{OptionalExtension as _, Statement, TransactionBehavior, params};

use super::record::{self, StreamRow, by_key, write_instant};
use super::{Claim, Class, Connection, Sink, SinkError, Stored, schema};
use crate::config::{self, SinkTarget, TableName};
use crate::report::{Batch, Id, Report};

mod claim;
mod shape;

/// An SQLite file.
pub struct SqliteSink {
    path: PathBuf,
    settings: config::Sink,
    writing: Writing,
    claim: OnceLock<Arc<Claim>>,
}

/// Held by the one connection that writes. True once the tables were made or found: those that vanish later are not
/// made again, except in a file that is new.
type Writing = Arc<Mutex<bool>>;

impl SqliteSink {
    /// Nothing is opened yet.
    pub fn new(path: &Path, settings: &config::Sink) -> Self {
        Self { path: path.to_owned(), settings: settings.clone(), writing: Arc::default(), claim: OnceLock::new() }
    }

    pub(super) fn claim(&self, claim: Claim) {
        assert!(self.claim.set(Arc::new(claim)).is_ok(), "a sink has one node");
    }
}

impl Sink for SqliteSink {
    type Connection = SqliteConnection;

    async fn connect(&self) -> Result<SqliteConnection, SinkError> {
        let (path, settings) = (self.path.clone(), self.settings.clone());
        let (writing, claim) = (Arc::clone(&self.writing), self.claim.get().cloned());
        blocking(move || {
            let mut made = writing.lock().unwrap_or_else(PoisonError::into_inner);
            let make = settings.create_tables && (!*made || !path.exists());
            let file = File::open(&path, &settings, make, claim)?;
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
    async fn store(&mut self, batches: &[Batch]) -> Result<Vec<Stored>, SinkError> {
        let batches = batches.to_vec();
        self.with_file(move |file| file.store(&batches)).await
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
    claim: Option<Arc<Claim>>,
}

impl File {
    fn open(
        path: &Path,
        settings: &config::Sink,
        make_tables: bool,
        claim: Option<Arc<Claim>>,
    ) -> Result<Self, SinkError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|error| SinkError::new(Class::Outage, format!("making {}: {error}", folder.display())))?;
        }
        let connection = rusqlite::Connection::open(path).map_err(|error| classify("opening the file", error))?;
        let prepared = prepare(&connection, settings.timeout);
        prepared.map_err(|error| classify("setting up the file", error))?;
        let (table, identity) = (settings.table.clone(), identity(path)?);
        let mut file = Self { connection, table, path: path.to_owned(), identity, claim };
        if make_tables {
            for statement in schema::statements(&SinkTarget::Sqlite(path.to_owned()), &file.table) {
                file.connection.execute_batch(&statement).map_err(|error| classify("making the tables", error))?;
            }
        }
        if settings.create_tables {
            let brought = shape::bring_up(&file.connection, &file.table);
            brought.map_err(|error| classify("bringing the tables up to this version", error).not_for_a_report())?;
        }
        file.inspect()?;
        Ok(file)
    }

    /// Looks at the live tables, and takes the claim or sees that it is held.
    fn inspect(&mut self) -> Result<(), SinkError> {
        let claiming = |error| classify("claiming the node_id", error).not_for_a_report();
        let begun = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begun.map_err(claiming)?;
        shape::check(&transaction, &SinkTarget::Sqlite(self.path.clone()), &self.table)?;
        let Some(claim) = &self.claim else { return Ok(()) };
        claim::take(&transaction, &self.table, claim)?;
        transaction.commit().map_err(claiming)?;
        claim.taken();
        Ok(())
    }

    fn store(&mut self, batches: &[Batch]) -> Result<Vec<Stored>, SinkError> {
        if identity(&self.path)? != self.identity {
            return Err(SinkError::new(Class::Outage, format!("{} was replaced", self.path.display())));
        }
        self.transact(batches)
    }

    /// A transaction that is dropped before its commit rolls back.
    fn transact(&mut self, batches: &[Batch]) -> Result<Vec<Stored>, SinkError> {
        let begun = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begun.map_err(|error| classify("beginning a transaction", error))?;
        if let Some(claim) = self.claim.as_ref().filter(|_| cfg!(not(forebay_plant = "store_unclaimed"))) {
            claim::take(&transaction, &self.table, claim)?;
        }
        let prepared = Statements::prepare(&transaction, &self.table);
        let stored = prepared.map_err(|error| classify("preparing a transaction", error))?.store(batches)?;
        transaction.commit().map_err(|error| classify("committing", error).not_for_a_report())?;
        Ok(stored)
    }

    /// Takes the lock for writing and changes nothing.
    fn probe(&mut self) -> Result<(), SinkError> {
        self.inspect()?;
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
