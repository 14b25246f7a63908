//! MariaDB, set up alike for all that is compared: every commit is durable, memory and log are large enough that
//! neither is what is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forebay::config::{SinkTarget, TableName};
use mysql_async::prelude::Queryable as _;

use super::mariadb::MariaDb;
use super::message::{FIRST_SEQ, TIME, data, id};

const OPTIONS: [&str; 4] = [
    "--max-connections=200",
    "--innodb-flush-log-at-trx-commit=1",
    "--innodb-buffer-pool-size=1G",
    "--innodb-log-file-size=512M",
];

/// The table of [`insert_all`], identical to the one that Forebay makes.
pub const PLAIN: &str = "plain";

/// Rows a statement and connections of [`insert_all`]; which is best depends on the machine.
pub const PLAIN_WAYS: [(u64, u32); 4] = [(1000, 2), (1000, 4), (5000, 2), (5000, 4)];

/// A new server.
pub async fn start() -> MariaDb {
    MariaDb::start_with(&OPTIONS).await
}

/// Drops all tables and makes Forebay's, empty.
pub async fn renew(db: &MariaDb) {
    db.run(&["DROP DATABASE forebay", "CREATE DATABASE forebay"]).await;
    let target = SinkTarget::new(&db.url()).expect("the server's URL is one");
    let ddl = forebay::sink::ddl(&target, &TableName::new("reports").expect("a name"));
    let statements: Vec<&str> = ddl.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()).collect();
    db.run(&statements).await;
}

/// How many rows a table has, and a sum over all that clients chose of each, by which tables can be compared.
pub async fn contents(db: &MariaDb, table: &str) -> (u64, u64) {
    let sum = "CAST(COALESCE(SUM(CRC32(CONCAT_WS('|',id,source,seq,time,code,peer,data))),0) AS UNSIGNED)";
    db.row(&format!("SELECT COUNT(*),{sum} FROM {table}")).await
}

/// Rows to be inserted, those that a load of the same `ids` and `reports_per_id` leaves in the sink.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// Ids.
    pub ids: u32,
    /// Reports of each.
    pub per_id: u64,
}

impl Rows {
    /// All rows.
    pub fn count(self) -> u64 {
        u64::from(self.ids) * self.per_id
    }
}

/// Inserts all rows into [`PLAIN`] in the order of the primary key, `rows_each` a statement, each statement a
/// transaction, over as many connections; the time that it took. The table is made before and stays.
pub async fn insert_all(db: &MariaDb, rows: Rows, rows_each: u64, connections: u32) -> Duration {
    let (drop, make) = (format!("DROP TABLE IF EXISTS {PLAIN}"), format!("CREATE TABLE {PLAIN} LIKE reports"));
    db.run(&[&drop, &make]).await;
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(db.conn().await);
    }
    let next = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for mut conn in open {
        let next = Arc::clone(&next);
        tasks.spawn(async move {
            let mut statement = Statement::new();
            loop {
                let from = next.fetch_add(rows_each, Ordering::Relaxed);
                if from >= rows.count() {
                    break;
                }
                let text = statement.of(rows, from..(from + rows_each).min(rows.count()));
                conn.query_drop(text).await.expect("the server takes the rows");
            }
            conn
        });
    }
    let done = tasks.join_all().await;
    let took = start.elapsed();
    for conn in done {
        conn.disconnect().await.expect("a connection can be closed");
    }
    took
}

/// The text of one statement, in a buffer that is used again.
struct Statement {
    text: String,
    tail: String,
}

impl Statement {
    fn new() -> Self {
        let tail = format!(",{TIME}.000000,0,'127.0.0.1','{}',20260101000000.000000)", data());
        Self { text: String::new(), tail }
    }

    fn of(&mut self, rows: Rows, range: std::ops::Range<u64>) -> &str {
        use std::fmt::Write as _;
        self.text.clear();
        self.text.push_str("INSERT INTO plain (id,source,seq,time,code,peer,data,accepted_at) VALUES");
        for number in range.clone() {
            let comma = if number == range.start { "" } else { "," };
            let (id, seq) = (id((number / rows.per_id) as u32), FIRST_SEQ + number % rows.per_id);
            write!(self.text, "{comma}('{id}',0,{seq}{}", self.tail).expect("a String takes all text");
        }
        &self.text
    }
}
