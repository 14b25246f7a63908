//! What is in the sink, read back: rows and streams of all ids with one prefix, in order, for those who hold the sink
//! against a ledger of their own.
//!
//! Reads only, over connections of its own, and makes no table and no file. Rows come a page at a time through a short
//! channel, so that memory is bounded however many there are.

use std::path::Path;

use rusqlite::{OpenFlags, Row};
use tokio::sync::mpsc;

use super::sqlite::{classify, time};
use super::{MysqlSink, SinkError};
use crate::config::{self, SinkTarget, TableName};
use crate::report::Id;
use crate::report::time::micros;

/// Rows of a page.
const PAGE_ROWS: usize = 500;

/// Pages that wait to be looked at.
const PAGES: usize = 2;

/// A row of the reports table, as far as it tells a report from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReport {
    /// The stream; as the sink has it, which need not be an [`Id`].
    pub id: String,
    /// 0: the client numbered it; else the node that did.
    pub source: u16,
    /// Its number.
    pub seq: u64,
    /// Its data, byte for byte as the sink shows it.
    pub data: Option<Vec<u8>>,
    /// The client's time, in microseconds of the epoch.
    pub time: Option<i64>,
    /// The client's code; none where the column has something else.
    pub code: Option<i64>,
    /// Where it came from.
    pub peer: Option<String>,
}

/// A row of the table of streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredStream {
    /// The stream.
    pub id: String,
    /// How many rows it has, as it was counted when they were stored.
    pub reports: u64,
    /// `open`, `done` or `disconnected`.
    pub state: String,
}

/// Rows one after the other. Dropping it ends the reading.
pub struct Cursor<T> {
    pages: mpsc::Receiver<Result<Vec<T>, SinkError>>,
    page: std::vec::IntoIter<T>,
}

impl<T> Cursor<T> {
    /// The next row; `None` after the last.
    ///
    /// # Errors
    /// Where the sink cannot be read; no row comes after that.
    pub async fn next(&mut self) -> Result<Option<T>, SinkError> {
        loop {
            if let Some(row) = self.page.next() {
                return Ok(Some(row));
            }
            match self.pages.recv().await {
                Some(page) => self.page = page?.into_iter(),
                None => return Ok(None),
            }
        }
    }
}

/// Where the rows of a cursor go: gathered into pages.
pub(super) struct Pages<T> {
    page: Vec<T>,
    out: mpsc::Sender<Result<Vec<T>, SinkError>>,
}

impl<T> Pages<T> {
    /// Takes one row; a full page for [`Pages::send`] to pass on.
    pub fn push(&mut self, row: T) -> Option<Vec<T>> {
        self.page.push(row);
        (self.page.len() == PAGE_ROWS).then(|| std::mem::take(&mut self.page))
    }

    /// Passes a page on, as soon as there is room; `false` where nobody reads any more.
    pub async fn send(&self, page: Vec<T>) -> bool {
        self.out.send(Ok(page)).await.is_ok()
    }

    /// Passes on what is left of the last page.
    pub async fn finish(self) {
        // Nobody may read any more.
        let _ = self.out.send(Ok(self.page)).await;
    }
}

/// A table's rows of some ids.
pub(super) trait Readable: Send + Sync + Sized + 'static {
    /// The statement for ids from `from` to before `to`.
    fn select(table: &TableName, dialect: Dialect, from: &str, to: &str) -> String;
    /// Reads a row of SQLite.
    fn from_sqlite(row: &Row<'_>) -> rusqlite::Result<Self>;
    /// Reads a row of MySQL; `None` where a column is not what it should be.
    fn from_mysql(row: mysql_async::Row) -> Option<Self>;
}

/// How a sink wants a statement.
#[derive(Debug, Clone, Copy)]
pub(super) enum Dialect {
    Mysql,
    /// Whether the reports have the column `time_us`, which earlier versions did not make.
    Sqlite(bool),
}

impl Dialect {
    fn quote(self) -> char {
        match self {
            Self::Mysql => '`',
            Self::Sqlite(_) => '"',
        }
    }
}

impl Readable for StoredReport {
    fn select(table: &TableName, dialect: Dialect, from: &str, to: &str) -> String {
        let (quote, reports) = (dialect.quote(), table.reports());
        let time_us = if matches!(dialect, Dialect::Sqlite(true)) { "time_us" } else { "NULL" };
        format!(
            "SELECT id, source, seq, data, time, code, peer, {time_us} FROM {quote}{reports}{quote} WHERE id >= '{from}' AND id < '{to}' \
             ORDER BY id, source, seq"
        )
    }

    fn from_sqlite(row: &Row<'_>) -> rusqlite::Result<Self> {
        let data: Option<String> = row.get(3)?;
        let seq: i64 = row.get(2)?;
        let data = data.map(String::into_bytes);
        let seq = seq.try_into().unwrap_or(u64::MAX);
        let rest = row.get_ref(7)?.as_i64().ok();
        let time = row.get_ref(4)?.as_f64().ok().map(|seconds| time::micros(seconds, rest));
        let (code, peer) = (row.get_ref(5)?.as_i64().ok(), row.get(6)?);
        Ok(Self { id: row.get(0)?, source: row.get(1)?, seq, data, time, code, peer })
    }

    fn from_mysql(row: mysql_async::Row) -> Option<Self> {
        type Columns = (String, u16, u64, Option<Vec<u8>>, Option<String>, Option<i64>, Option<String>, Option<String>);
        let (id, source, seq, data, time, code, peer, _): Columns = mysql_async::from_row_opt(row).ok()?;
        let time = time.as_deref().and_then(micros);
        Some(Self { id, source, seq, data, time, code, peer })
    }
}

impl Readable for StoredStream {
    fn select(table: &TableName, dialect: Dialect, from: &str, to: &str) -> String {
        let (quote, streams) = (dialect.quote(), table.streams());
        format!(
            "SELECT id, reports, state FROM {quote}{streams}{quote} WHERE id >= '{from}' AND id < '{to}' ORDER BY id"
        )
    }

    fn from_sqlite(row: &Row<'_>) -> rusqlite::Result<Self> {
        let reports: i64 = row.get(1)?;
        Ok(Self { id: row.get(0)?, reports: reports.try_into().unwrap_or(u64::MAX), state: row.get(2)? })
    }

    fn from_mysql(row: mysql_async::Row) -> Option<Self> {
        let (id, reports, state) = mysql_async::from_row_opt(row).ok()?;
        Some(Self { id, reports, state })
    }
}

/// The rows whose ids begin with `prefix`, by key.
pub fn reports(settings: &config::Sink, prefix: &Id) -> Cursor<StoredReport> {
    read(settings, prefix)
}

/// The streams whose ids begin with `prefix`, by id.
pub fn streams(settings: &config::Sink, prefix: &Id) -> Cursor<StoredStream> {
    read(settings, prefix)
}

/// How many reports the streams have whose ids begin with `prefix`, by their own count.
///
/// # Errors
/// Where the sink cannot be read, or has no tables yet.
pub async fn total(settings: &config::Sink, prefix: &Id) -> Result<u64, SinkError> {
    let (from, to) = bounds(prefix);
    let select = |quote: char, number: &str| {
        let streams = settings.table.streams();
        let sum = format!("CAST(COALESCE(SUM(reports), 0) AS {number})");
        format!("SELECT {sum} FROM {quote}{streams}{quote} WHERE id >= '{from}' AND id < '{to}'")
    };
    match &settings.target {
        SinkTarget::Mysql(url) => MysqlSink::for_reading(url, settings)?.read_one(&select('`', "UNSIGNED")).await,
        SinkTarget::Sqlite(path) => {
            let (path, timeout, select) = (path.clone(), settings.timeout, select('"', "INTEGER"));
            let sum = move || -> Result<i64, rusqlite::Error> {
                open(&path, timeout)?.query_row(&select, [], |row| row.get(0))
            };
            let named = settings.target.clone();
            let sum = move || sum().map_err(|error| of_file(&named, classify("reading streams", error)));
            let sum = super::sqlite::blocking(sum);
            Ok(sum.await?.try_into().unwrap_or_default())
        }
    }
}

/// Ids that begin with `prefix` are from the first to before the second. An id is ASCII and holds no quote.
fn bounds(prefix: &Id) -> (String, String) {
    let from = prefix.as_str().to_owned();
    let mut to = from.clone();
    let last = to.pop().map_or('\0', |last| char::from(last as u8 + 1));
    to.push(last);
    (from, to)
}

fn read<T: Readable>(settings: &config::Sink, prefix: &Id) -> Cursor<T> {
    let (out, pages) = mpsc::channel(PAGES);
    let (from, to) = bounds(prefix);
    let settings = settings.clone();
    tokio::spawn(async move {
        let rows = Pages { page: Vec::new(), out: out.clone() };
        let outcome = match &settings.target {
            SinkTarget::Mysql(url) => {
                let select = T::select(&settings.table, Dialect::Mysql, &from, &to);
                match MysqlSink::for_reading(url, &settings) {
                    Ok(sink) => sink.read(&select, rows).await,
                    Err(error) => Err(error),
                }
            }
            SinkTarget::Sqlite(path) => {
                let (path, settings) = (path.clone(), settings.clone());
                let read = move || {
                    let select = |dialect| T::select(&settings.table, dialect, &from, &to);
                    read_sqlite(&path, &settings, select, rows)
                };
                super::sqlite::blocking(read).await
            }
        };
        if let Err(error) = outcome {
            // Nobody may read any more.
            let _ = out.send(Err(of_file(&settings.target, error))).await;
        }
    });
    Cursor { pages, page: Vec::new().into_iter() }
}

/// The error with the path of the file that it is of.
fn of_file(target: &SinkTarget, error: SinkError) -> SinkError {
    match target {
        SinkTarget::Mysql(_) => error,
        SinkTarget::Sqlite(path) => SinkError { message: format!("{}: {}", path.display(), error.message), ..error },
    }
}

/// Opens the file to read. Not read-only: a reader of a file in WAL mode needs its shared memory.
fn open(path: &Path, timeout: std::time::Duration) -> rusqlite::Result<rusqlite::Connection> {
    let connection = rusqlite::Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(timeout)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn read_sqlite<T: Readable>(
    path: &Path,
    settings: &config::Sink,
    select: impl Fn(Dialect) -> String,
    mut rows: Pages<T>,
) -> Result<(), SinkError> {
    let reading = |error| classify("reading the sink", error);
    let connection = open(path, settings.timeout).map_err(reading)?;
    let exact = "SELECT COUNT(*) FROM pragma_table_info(?1) WHERE name = 'time_us'";
    let exact =
        connection.query_row(exact, [settings.table.reports()], |row| row.get::<_, bool>(0)).map_err(reading)?;
    let mut statement = connection.prepare(&select(Dialect::Sqlite(exact))).map_err(reading)?;
    let mut found = statement.query([]).map_err(reading)?;
    while let Some(row) = found.next().map_err(reading)? {
        if let Some(page) = rows.push(T::from_sqlite(row).map_err(reading)?)
            && rows.out.blocking_send(Ok(page)).is_err()
        {
            return Ok(());
        }
    }
    let _ = rows.out.blocking_send(Ok(rows.page));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_hold_ids_with_the_prefix_and_no_others() {
        let (from, to) = bounds(&Id::new("load-z").expect("an id"));
        assert_eq!((from.as_str(), to.as_str()), ("load-z", "load-{"));
        let holds = |id: &str| from.as_str() <= id && id < to.as_str();
        assert!(holds("load-z") && holds("load-z0") && holds("load-zz"));
        assert!(!holds("load-y~") && !holds("load-") && !holds("load-Z"));
    }
}
