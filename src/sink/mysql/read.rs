//! Reading back, see [`crate::sink::readback`].

use mysql_async::prelude::Queryable;
use mysql_async::{Row, Value};

use super::{MysqlConnection, MysqlSink, within};
use crate::config;
use crate::sink::readback::{Pages, Readable};
use crate::sink::{Class, Sink as _, SinkError};

/// A column as text; none where it is NULL, or no text.
pub(super) fn text(row: &Row, column: usize) -> Option<String> {
    bytes(row, column).and_then(|bytes| String::from_utf8(bytes.to_vec()).ok())
}

/// A column as its bytes; none where it is NULL, or a kind of value that the text protocol does not send.
pub(super) fn bytes(row: &Row, column: usize) -> Option<&[u8]> {
    match row.as_ref(column) {
        Some(Value::Bytes(bytes)) => Some(bytes),
        _ => None,
    }
}

/// A column as an integer that is not negative; none where it is NULL, or none.
pub(super) fn integer(row: &Row, column: usize) -> Option<u64> {
    text(row, column)?.parse().ok()
}

impl MysqlSink {
    /// A sink that makes no table, claims nothing, and reads tables that it would not write to.
    pub(in crate::sink) fn for_reading(url: &str, settings: &config::Sink) -> Result<Self, SinkError> {
        Self::open(url, settings, false)
    }

    /// Streams what a statement selects.
    pub(in crate::sink) async fn read<T: Readable>(&self, select: &str, mut rows: Pages<T>) -> Result<(), SinkError> {
        let mut connection = self.connect().await?;
        // A reader that goes away leaves the rest of the answer behind: such a session is cut.
        connection.usable = false;
        let MysqlConnection { conn, timeout, .. } = &mut connection;
        let mut found = within(*timeout, "reading the sink", conn.query_iter(select)).await?;
        while let Some(row) = within(*timeout, "reading the sink", found.next()).await? {
            let row = T::from_mysql(row).ok_or_else(|| unreadable("a row has other columns than Forebay's"))?;
            if let Some(page) = rows.push(row)
                && !rows.send(page).await
            {
                return Ok(());
            }
        }
        drop(found);
        connection.usable = true;
        rows.finish().await;
        Ok(())
    }

    /// The one number that a statement selects.
    pub(in crate::sink) async fn read_one(&self, select: &str) -> Result<u64, SinkError> {
        let mut connection = self.connect().await?;
        // As above: a session whose answer does not come in time is cut.
        connection.usable = false;
        let answer = connection.conn.query_first::<Row, _>(select);
        let row = within(connection.timeout, "reading the sink", answer).await?;
        connection.usable = true;
        let number = row.and_then(|row| integer(&row, 0));
        number.ok_or_else(|| unreadable("a count is no number"))
    }
}

fn unreadable(why: &str) -> SinkError {
    SinkError::new(Class::Operator, format!("reading the sink: {why}"))
}
