//! The tables of the sink, as DDL.
//!
//! The reports table has exactly one unique key, its primary key: with a second one an upsert would overwrite the row
//! of another key. Column types are chosen so that each value that a report can have either fits or is refused.

use crate::config::{SinkTarget, TableName};

/// The statements that make all tables unless they exist, each ended by `;`, to read and to run.
pub fn ddl(target: &SinkTarget, table: &TableName) -> String {
    statements(target, table).map(|statement| statement + ";\n").join("\n")
}

/// The same, one by one: the reports, the streams, the nodes.
pub(super) fn statements(target: &SinkTarget, table: &TableName) -> [String; 3] {
    let (reports, streams, nodes) = (table.reports(), table.streams(), table.nodes());
    match target {
        SinkTarget::Mysql(_) => [mysql_reports(reports), mysql_streams(&streams), mysql_nodes(&nodes)],
        SinkTarget::Sqlite(_) => [sqlite_reports(reports), sqlite_streams(&streams), sqlite_nodes(&nodes)],
    }
}

fn mysql_reports(table: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS `{table}` (
  id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  source SMALLINT UNSIGNED NOT NULL COMMENT '0: seq is the client''s, else the node that numbered it',
  seq BIGINT UNSIGNED NOT NULL,
  time DECIMAL(17,6) NULL COMMENT 'the client''s, seconds of the epoch',
  code INT NOT NULL DEFAULT 0,
  peer VARCHAR(45) CHARACTER SET ascii COLLATE ascii_bin NULL,
  data JSON NULL,
  accepted_at DATETIME(6) NOT NULL COMMENT 'UTC',
  digest BINARY(16) NULL COMMENT 'of data as it was sent, time and code',
  PRIMARY KEY (id, source, seq)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4"
    )
}

fn mysql_streams(table: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS `{table}` (
  id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  state ENUM('open','done','disconnected') NOT NULL DEFAULT 'open',
  reports BIGINT UNSIGNED NOT NULL DEFAULT 0,
  first_at DATETIME(6) NOT NULL COMMENT 'UTC',
  last_at DATETIME(6) NOT NULL COMMENT 'UTC',
  state_position BIGINT UNSIGNED NOT NULL DEFAULT 0,
  settled VARBINARY(240) NULL COMMENT 'up to which position each journal has it settled',
  PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4"
    )
}

fn mysql_nodes(table: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS `{table}` (
  node_id SMALLINT UNSIGNED NOT NULL,
  journal BIGINT UNSIGNED NOT NULL COMMENT 'of the node that writes as this node_id',
  start BIGINT UNSIGNED NOT NULL,
  nonce BIGINT UNSIGNED NOT NULL,
  claimed_at DATETIME(6) NOT NULL COMMENT 'UTC',
  PRIMARY KEY (node_id)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4"
    )
}

// SQLite checks no type and no range on its own. The checks refuse what MySQL refuses: text that is not JSON, and a
// time that DECIMAL(17,6) cannot hold.
fn sqlite_reports(table: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS \"{table}\" (
  id TEXT NOT NULL,
  source INTEGER NOT NULL, -- 0: seq is the client's, else the node that numbered it
  seq INTEGER NOT NULL,
  time REAL NULL CHECK (time IS NULL OR abs(time) < 1e11), -- the client's, seconds of the epoch
  code INTEGER NOT NULL DEFAULT 0,
  peer TEXT NULL,
  data TEXT NULL CHECK (data IS NULL OR json_valid(data)),
  accepted_at TEXT NOT NULL, -- UTC
  digest BLOB NULL, -- of data as it was sent, time and code
  time_us INTEGER NULL, -- the microseconds of `time` where a REAL does not hold them: beyond the year 2106
  PRIMARY KEY (id, source, seq)
) WITHOUT ROWID"
    )
}

fn sqlite_streams(table: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS \"{table}\" (
  id TEXT NOT NULL PRIMARY KEY,
  state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'disconnected')),
  reports INTEGER NOT NULL DEFAULT 0,
  first_at TEXT NOT NULL, -- UTC
  last_at TEXT NOT NULL, -- UTC
  state_position INTEGER NOT NULL DEFAULT 0,
  settled BLOB NULL -- up to which position each journal has it settled
) WITHOUT ROWID"
    )
}

// Integers are signed there: journal, start and nonce are kept as text.
fn sqlite_nodes(table: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS \"{table}\" (
  node_id INTEGER NOT NULL,
  journal TEXT NOT NULL, -- of the node that writes as this node_id
  start TEXT NOT NULL,
  nonce TEXT NOT NULL,
  claimed_at TEXT NOT NULL, -- UTC
  PRIMARY KEY (node_id)
) WITHOUT ROWID"
    )
}

/// Columns of the embedded sink's tables that earlier versions did not have: the table, the column, and its type.
pub(super) fn sqlite_added(table: &TableName) -> [(String, &'static str, &'static str); 3] {
    let (reports, streams) = (table.reports().to_owned(), table.streams());
    [(reports.clone(), "digest", "BLOB NULL"), (reports, "time_us", "INTEGER NULL"), (streams, "settled", "BLOB NULL")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ddl_names_all_tables_and_one_key_each() {
        let table = TableName("rows".to_owned());
        for target in [SinkTarget::Mysql(String::new()), SinkTarget::Sqlite("x.db".into())] {
            let ddl = ddl(&target, &table);
            assert!(ddl.contains("rows") && ddl.contains("row_streams") && ddl.contains("row_nodes"), "{ddl}");
            assert_eq!(ddl.matches("PRIMARY KEY").count(), 3, "{ddl}");
            assert_eq!(ddl.matches("UNIQUE").count(), 0, "{ddl}");
            assert_eq!(ddl.matches(";\n").count(), 3, "{ddl}");
        }
    }
}
