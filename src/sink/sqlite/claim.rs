//! The claim of a `node_id` in an SQLite file, see [`crate::sink::claim`]. Who writes has the file's one lock for
//! writing, so a claim is looked at and taken within one transaction.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{classify, instant};
use crate::config::TableName;
use crate::report::Owner;
use crate::sink::SinkError;
use crate::sink::claim::{Claim, Row, Step};
use crate::sink::health::now;

/// Makes the row of the `node_id` this process's own, or sees that it is; whether it was written. To be called within a
/// transaction that has the lock for writing; [`Claim::taken`] once that is committed.
///
/// # Errors
/// Of the class operator where it is another's.
pub(super) fn take(connection: &Connection, table: &TableName, claim: &Claim) -> Result<bool, SinkError> {
    let claiming = |error| classify("claiming the node_id", error).not_for_a_report();
    let found = row(connection, table, claim.owner().node_id).map_err(claiming)?;
    // Nobody else of this process has claimed it since the look: they wait for the lock.
    match claim.step(table, found.as_ref(), true)? {
        Step::Hold(_) => Ok(false),
        Step::LookAgain => unreachable!("a row is outdated only where it was not held before the look"),
        Step::Take(owner) => write(connection, table, &owner).map(|()| true).map_err(claiming),
    }
}

fn row(connection: &Connection, table: &TableName, node_id: u16) -> rusqlite::Result<Option<Row>> {
    let nodes = table.nodes();
    let query = format!("SELECT journal, start, nonce, claimed_at FROM \"{nodes}\" WHERE node_id = ?1");
    // What is no number is nobody's: not this process's, in any case.
    let number = |row: &rusqlite::Row<'_>, column| -> rusqlite::Result<u64> {
        let value: Value = row.get(column)?;
        Ok(if let Value::Text(text) = value { text.parse().unwrap_or_default() } else { 0 })
    };
    let read = |row: &rusqlite::Row<'_>| {
        let claimed_at = row.get::<_, String>(3).unwrap_or_default();
        Ok(Row { journal: number(row, 0)?, start: number(row, 1)?, nonce: number(row, 2)?, claimed_at })
    };
    connection.query_row(&query, [node_id], read).optional()
}

fn write(connection: &Connection, table: &TableName, owner: &Owner) -> rusqlite::Result<()> {
    let nodes = table.nodes();
    let replace = format!(
        "INSERT OR REPLACE INTO \"{nodes}\" (node_id, journal, start, nonce, claimed_at) VALUES (?1, ?2, ?3, ?4, ?5)"
    );
    let Owner { node_id, journal, start, nonce } = owner;
    let row = params![node_id, journal.0.to_string(), start.to_string(), nonce.to_string(), instant(now())];
    connection.execute(&replace, row).map(drop)
}
