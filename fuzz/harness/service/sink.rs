//! The sink, as somebody beside the node sees it: a real file of SQLite.

use std::collections::HashMap;
use std::path::Path;

use forebay::config::{Settings, SinkTarget};
use rusqlite::{Connection, TransactionBehavior};

use super::model::POISON;

/// A connection of our own to the sink's file.
pub struct Sink(Connection);

/// What is stored, as of one instant.
pub struct Stored {
    pub rows: Vec<Row>,
    /// State and count of each stream.
    pub streams: HashMap<usize, (String, u64)>,
}

/// A row of the sink, or a dead letter.
#[derive(Debug)]
pub struct Row {
    pub id: usize,
    pub source: u16,
    pub seq: u64,
    pub code: i32,
    pub data: String,
}

const WHY: &str = "the file is there and has its tables";

impl Sink {
    /// Makes the file and its tables, as an operator would with `forebay schema`.
    pub fn make(file: &Path) -> Self {
        let sink = Self::open(file);
        let ddl = forebay::sink::ddl(&SinkTarget::Sqlite(file.to_owned()), &Settings::default().sink.table);
        sink.0.execute_batch(&format!("PRAGMA journal_mode = WAL; BEGIN; {ddl}; COMMIT")).expect("a new file");
        sink
    }

    /// Opens a file that is there.
    pub fn open(file: &Path) -> Self {
        let connection = Connection::open(file).expect(WHY);
        connection.busy_timeout(super::PATIENCE).expect(WHY);
        Self(connection)
    }

    /// Lets the sink refuse poison, or take it.
    pub fn refuse(&self, refuses: bool) {
        let trigger = format!(
            "CREATE TRIGGER IF NOT EXISTS poison BEFORE INSERT ON reports WHEN NEW.code = {POISON} \
             BEGIN SELECT RAISE(ABORT, 'poison'); END"
        );
        self.0.execute_batch(if refuses { &trigger } else { "DROP TRIGGER IF EXISTS poison" }).expect(WHY);
    }

    /// Copies the journal and what is committed here, as a kill leaves them: nothing is stored and nothing is claimed
    /// in between, which would be of neither the one instant nor the other.
    pub fn copy_with(&self, copy_journal: impl FnOnce(), file: &Path) {
        let lock = Self::open(Path::new(self.0.path().expect("a file")));
        lock.0.execute_batch("BEGIN IMMEDIATE").expect(WHY);
        copy_journal();
        self.0.execute("VACUUM INTO ?1", [file.to_str().expect("our own names are UTF-8")]).expect(WHY);
    }

    /// All rows and streams, at one instant.
    pub fn stored(&mut self) -> Stored {
        self.read().expect(WHY)
    }

    fn read(&mut self) -> rusqlite::Result<Stored> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Deferred)?;
        let id = |row: &rusqlite::Row<'_>| row.get::<_, String>(0).map(|id| id.parse().expect("ids are numbers"));
        let number = |row: &rusqlite::Row<'_>, at| row.get::<_, i64>(at).map(|number| number as u64);
        let mut select = transaction.prepare("SELECT id, source, seq, code, data FROM reports")?;
        let rows = select.query_map([], |row| {
            let (source, seq) = (row.get(1)?, number(row, 2)?);
            Ok(Row { id: id(row)?, source, seq, code: row.get(3)?, data: row.get(4)? })
        })?;
        let rows = rows.collect::<rusqlite::Result<_>>()?;
        let mut select = transaction.prepare("SELECT id, state, reports FROM report_streams")?;
        let streams = select.query_map([], |row| Ok((id(row)?, (row.get(1)?, number(row, 2)?))))?;
        let streams = streams.collect::<rusqlite::Result<_>>()?;
        Ok(Stored { rows, streams })
    }
}
