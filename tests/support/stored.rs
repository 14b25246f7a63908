//! What is in the sink, read past the engine.

#![allow(dead_code, reason = "each test binary uses another part of it")]

use std::path::PathBuf;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use rusqlite::types::ValueRef;
use serde_json::Value;

/// The columns of a row, in the order of [`Row`]'s fields.
const COLUMNS: &str = "id, source, seq, time, code, peer, data, accepted_at";

/// A sink to look into. `Err` where it cannot be read now, or has no tables yet.
#[derive(Debug, Clone)]
pub enum Stored {
    /// A file.
    Sqlite(PathBuf),
    /// A server's URL.
    Mysql(String),
}

/// One row of `reports`; numbers and times as text, as the sink shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The stream.
    pub id: String,
    /// Who numbered it.
    pub source: u64,
    /// Its number.
    pub seq: u64,
    /// The client's time.
    pub time: Option<String>,
    /// The client's code.
    pub code: i64,
    /// Where it came from.
    pub peer: Option<String>,
    /// Its data, as the sink shows it.
    pub data: Option<String>,
    /// When it was accepted.
    pub accepted_at: String,
}

/// What a sink keeps of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The bytes that were sent.
    Bytes,
    /// The JSON value that they spell: MySQL writes it out in its own way.
    Json,
}

impl Form {
    /// Text that is the same for all data that such a sink cannot tell apart.
    pub fn of(self, data: &str) -> String {
        match (self, serde_json::from_str::<Value>(data)) {
            (Self::Json, Ok(mut value)) => {
                unsign_zeros(&mut value);
                value.to_string()
            }
            _ => data.to_owned(),
        }
    }
}

/// An integer has no negative zero in MySQL.
fn unsign_zeros(value: &mut Value) {
    match value {
        Value::Number(number) if number.as_f64() == Some(0.0) => *value = Value::from(0),
        Value::Array(items) => items.iter_mut().for_each(unsign_zeros),
        Value::Object(fields) => fields.values_mut().for_each(unsign_zeros),
        _ => {}
    }
}

/// One row of `report_streams`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// The stream.
    pub id: String,
    /// `open`, `done` or `disconnected`.
    pub state: String,
    /// Rows, as the engine counts them.
    pub reports: u64,
}

impl Stored {
    /// The sink that a `sink.url` names.
    pub fn at(url: &str) -> Self {
        match url.strip_prefix("sqlite:") {
            Some(file) => Self::Sqlite(file.into()),
            None => Self::Mysql(url.to_owned()),
        }
    }

    /// What it keeps of data.
    pub async fn form(&self) -> Result<Form, String> {
        let Self::Mysql(_) = self else { return Ok(Form::Bytes) };
        let version = self.query("SELECT VERSION()", 1).await?.remove(0).remove(0).unwrap_or_default();
        Ok(if version.contains("MariaDB") { Form::Bytes } else { Form::Json })
    }

    /// All rows, by key.
    pub async fn rows(&self) -> Result<Vec<Row>, String> {
        let query = format!("SELECT {COLUMNS} FROM reports ORDER BY id, source, seq");
        Ok(self.query(&query, 8).await?.into_iter().map(row).collect())
    }

    /// The rows of one id, by key.
    pub async fn rows_of(&self, id: &str) -> Result<Vec<Row>, String> {
        Ok(self.rows().await?.into_iter().filter(|row| row.id == id).collect())
    }

    /// The data of one id's rows, by key; what most tests look at.
    pub async fn data_of(&self, id: &str) -> Result<Vec<String>, String> {
        let rows = self.rows_of(id).await?;
        Ok(rows.into_iter().map(|row| row.data.unwrap_or_else(|| "NULL".to_owned())).collect())
    }

    /// All streams.
    pub async fn streams(&self) -> Result<Vec<Stream>, String> {
        let rows = self.query("SELECT id, state, reports FROM report_streams ORDER BY id", 3).await?;
        let stream = |mut cells: std::vec::IntoIter<Cell>| {
            let mut text = || cells.next().flatten().unwrap_or_default();
            Stream { id: text(), state: text(), reports: text().parse().expect("a count") }
        };
        Ok(rows.into_iter().map(|cells| stream(cells.into_iter())).collect())
    }

    /// One stream, where it is there.
    pub async fn stream(&self, id: &str) -> Result<Stream, String> {
        let streams = self.streams().await?;
        streams.into_iter().find(|stream| stream.id == id).ok_or_else(|| format!("{id} is not in report_streams"))
    }

    async fn query(&self, query: &str, columns: usize) -> Result<Vec<Vec<Cell>>, String> {
        match self {
            Self::Sqlite(file) => sqlite(file, query, columns).map_err(|e| e.to_string()),
            Self::Mysql(url) => mysql(url, query, columns).await.map_err(|e| e.to_string()),
        }
    }
}

/// A column as text; `None` is NULL.
type Cell = Option<String>;

fn row(cells: Vec<Cell>) -> Row {
    let mut cells = cells.into_iter();
    let mut next = || cells.next().flatten();
    Row {
        id: next().expect("id is not NULL"),
        source: next().and_then(|v| v.parse().ok()).expect("source is a number"),
        seq: next().and_then(|v| v.parse().ok()).expect("seq is a number"),
        time: next(),
        code: next().and_then(|v| v.parse().ok()).expect("code is a number"),
        peer: next(),
        data: next(),
        accepted_at: next().expect("accepted_at is not NULL"),
    }
}

fn sqlite(file: &PathBuf, query: &str, columns: usize) -> rusqlite::Result<Vec<Vec<Cell>>> {
    // Read-write without creating: a reader of a file in WAL mode needs its shared memory, and must not make the file.
    let connection = rusqlite::Connection::open_with_flags(file, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    let mut statement = connection.prepare(query)?;
    let cell = |value: ValueRef<'_>| match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
    };
    let rows = statement.query_map([], |row| (0..columns).map(|i| Ok(cell(row.get_ref(i)?))).collect())?;
    rows.collect()
}

async fn mysql(url: &str, query: &str, columns: usize) -> mysql_async::Result<Vec<Vec<Cell>>> {
    let mut connection = mysql_async::Conn::from_url(url).await?;
    // The text protocol: every value comes as the bytes that the server would show.
    let rows: Vec<mysql_async::Row> = connection.query(query).await?;
    connection.disconnect().await?;
    let cell = |row: &mysql_async::Row, i: usize| match row.as_ref(i) {
        Some(mysql_async::Value::Bytes(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Some(mysql_async::Value::NULL) | None => None,
        Some(other) => panic!("{other:?} in a text row"),
    };
    Ok(rows.iter().map(|row| (0..columns).map(|i| cell(row, i)).collect()).collect())
}
