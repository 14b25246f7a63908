//! A sink of either kind with what tests ask it, and the records that they store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay::config::{self, SinkTarget};
use forebay::report::{Batch, Body, Id, Marker, Number, Position, Record, Report};
use forebay::sink::{self, AnySink, Health, SinkState, Writer};

use crate::support::servers::{Kind, Server};
use crate::support::stored::Form;

/// A sink and its health.
pub struct Rig {
    pub settings: config::Sink,
    pub health: Arc<Health>,
    pub server: Option<Server>,
    _folder: Option<tempfile::TempDir>,
}

impl Rig {
    pub async fn start(kind: Kind) -> Self {
        Self::of(Server::start(kind).await)
    }

    pub fn of(server: impl Into<Server>) -> Self {
        let server = server.into();
        let settings = settings(SinkTarget::Mysql(server.url()));
        Self { settings, health: Arc::default(), server: Some(server), _folder: None }
    }

    pub async fn sqlite() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let settings = settings(SinkTarget::Sqlite(folder.path().join("made/at/start.db")));
        Self { settings, health: Arc::default(), server: None, _folder: Some(folder) }
    }

    pub fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("a rig of a server")
    }

    pub fn writer(&self) -> Writer<AnySink> {
        Writer::new(Arc::new(self.sink()), Arc::clone(&self.health))
    }

    pub fn sink(&self) -> AnySink {
        sink::open(&self.settings).expect("the URL is well formed")
    }

    /// What it keeps of data.
    pub fn form(&self) -> Form {
        match self.server.as_ref().map(Server::kind) {
            Some(Kind::MySql) => Form::Json,
            Some(Kind::MariaDb) | None => Form::Bytes,
        }
    }

    /// `(source, seq, data)` of an id, in the order of the key; no data is `{}`. Data in the form that the sink keeps.
    pub async fn rows(&self, id: &str) -> Vec<(u16, u64, String)> {
        let rows = self.shown(id).await.into_iter();
        rows.map(|(source, seq, data)| (source, seq, self.form().of(&data))).collect()
    }

    async fn shown(&self, id: &str) -> Vec<(u16, u64, String)> {
        let columns = "source, seq, COALESCE(data, '{}')";
        let query = format!("SELECT {columns} FROM reports WHERE id = '{id}' ORDER BY source, seq");
        match &self.server {
            Some(server) => server.rows(&query).await,
            None => {
                self.file_rows(&query, |row| (row.get(0), row.get::<_, i64>(1).map(|n| n as u64), row.get(2)).all())
            }
        }
    }

    /// `(state, reports, state_position)` of an id.
    pub async fn stream(&self, id: &str) -> Option<(String, u64, u64)> {
        let query =
            format!("SELECT CAST(state AS CHAR), reports, state_position FROM report_streams WHERE id = '{id}'");
        let number = |row: &rusqlite::Row<'_>, at| row.get::<_, i64>(at).map(|n| n as u64);
        let mut rows = match &self.server {
            Some(server) => server.rows(&query).await,
            None => {
                let query = query.replace("CAST(state AS CHAR)", "state");
                self.file_rows(&query, |row| (row.get(0), number(row, 1), number(row, 2)).all())
            }
        };
        rows.pop()
    }

    /// `(first_at, last_at)` of an id.
    pub async fn times(&self, id: &str) -> (String, String) {
        let query = format!("SELECT {{first}}, {{last}} FROM report_streams WHERE id = '{id}'");
        let mut rows = match &self.server {
            Some(server) => {
                let query =
                    query.replace("{first}", "CAST(first_at AS CHAR)").replace("{last}", "CAST(last_at AS CHAR)");
                server.rows(&query).await
            }
            None => {
                let query = query.replace("{first}", "first_at").replace("{last}", "last_at");
                self.file_rows(&query, |row| (row.get(0), row.get(1), Ok(())).all())
                    .into_iter()
                    .map(|r| (r.0, r.1))
                    .collect()
            }
        };
        rows.pop().expect("the stream is there")
    }

    /// The clients' times of an id, in seconds, in the order of the key.
    pub async fn client_times(&self, id: &str) -> Vec<f64> {
        let query = format!("SELECT time FROM reports WHERE id = '{id}' ORDER BY source, seq");
        match &self.server {
            Some(server) => server.rows(&query.replace("time", "CAST(time AS DOUBLE)")).await,
            None => self.file_rows(&query, |row| row.get(0)),
        }
    }

    /// Runs a statement beside the writers.
    pub async fn run(&self, statement: &str) {
        match &self.server {
            Some(server) => server.run(&[statement]).await,
            None => self.file().execute_batch(statement).expect("the statement runs"),
        }
    }

    pub async fn drop_tables(&self) {
        let statements = ["DROP TABLE reports", "DROP TABLE report_streams"];
        match &self.server {
            Some(server) => server.run(&statements).await,
            None => statements.iter().for_each(|statement| self.file().execute_batch(statement).expect("drops")),
        }
    }

    pub async fn make_tables(&self) {
        let ddl = sink::ddl(&self.settings.target, &self.settings.table);
        match &self.server {
            Some(server) => {
                let statements: Vec<_> = ddl.split(";\n").filter(|text| !text.trim().is_empty()).collect();
                server.run(&statements).await;
            }
            None => self.file().execute_batch(&ddl).expect("the DDL runs"),
        }
    }

    /// What the sink answers to text that is not JSON: a check that failed, or a type that it does not have.
    pub fn code_of_bad_json(&self) -> u32 {
        match self.server.as_ref().map(Server::kind) {
            Some(Kind::MariaDb) => 4025,
            Some(Kind::MySql) => 3140,
            None => 275,
        }
    }

    pub fn file(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path()).expect("the file opens")
    }

    pub fn path(&self) -> PathBuf {
        match &self.settings.target {
            SinkTarget::Sqlite(path) => path.clone(),
            SinkTarget::Mysql(_) => panic!("not a file"),
        }
    }

    /// A file beside that of the sink.
    pub fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.path().into_os_string();
        name.push(ending);
        name.into()
    }

    /// Carries the `-wal` into the file and empties it.
    pub fn checkpoint(&self) {
        let busy = self.file().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        assert_eq!(busy, Ok(0), "nobody reads");
    }

    /// A JSON text of so many bytes.
    pub fn json(&self, length: usize) -> String {
        format!("\"{}\"", "x".repeat(length - 2))
    }

    /// Waits until the sink is blocked; why.
    pub async fn blocked(&self) -> String {
        let blocked = self.health.until(|status| status.state == SinkState::Blocked);
        let status = tokio::time::timeout(Duration::from_secs(30), blocked).await.expect("it is blocked in time");
        status.last_error.expect("it says why")
    }

    fn file_rows<T>(&self, query: &str, read: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<T>) -> Vec<T> {
        let file = self.file();
        let mut statement = file.prepare(query).expect("the query is right");
        let rows = statement.query_map([], |row| read(row)).expect("the query runs");
        rows.collect::<Result<_, _>>().expect("the rows can be read")
    }
}

/// Three results as one.
trait All {
    type All;
    fn all(self) -> rusqlite::Result<Self::All>;
}

impl<A, B, C> All for (rusqlite::Result<A>, rusqlite::Result<B>, rusqlite::Result<C>) {
    type All = (A, B, C);
    fn all(self) -> rusqlite::Result<Self::All> {
        Ok((self.0?, self.1?, self.2?))
    }
}

pub fn settings(target: SinkTarget) -> config::Sink {
    config::Sink { target, ..config::Settings::default().sink }
}

pub fn batch(id: &str, records: Vec<Record>) -> Batch {
    Batch::new(Id::new(id).expect("an id"), records)
}

/// A client's report, accepted `position` microseconds after the epoch.
pub fn plain(position: u64, seq: u64) -> Report {
    Report { number: Number { source: 0, seq }, time: None, code: 0, peer: None, data: None, accepted_at: position }
}

pub fn body(position: u64, report: Report) -> Record {
    Record { position: Position(position), body: Body::Report(report) }
}

pub fn report(position: u64, seq: u64) -> Record {
    body(position, plain(position, seq))
}

pub fn with_data(position: u64, seq: u64, data: &str) -> Record {
    body(position, Report { data: Some(Bytes::copy_from_slice(data.as_bytes())), ..plain(position, seq) })
}

pub fn marker(position: u64, marker: Marker) -> Record {
    Record { position: Position(position), body: Body::Marker(marker, position) }
}
