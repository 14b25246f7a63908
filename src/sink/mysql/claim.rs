//! The claim of a `node_id` in a MySQL sink: taken once a process, looked at by every session, and held by every
//! transaction that stores, see [`crate::sink::claim`].

use std::sync::Arc;

use mysql_async::Row;
use mysql_async::prelude::Queryable;

use super::{MysqlConnection, read, too_large, within};
use crate::config::TableName;
use crate::report::Owner;
use crate::sink::claim::{self, Claim, Step};
use crate::sink::{Class, SinkError};

/// How often a row is looked at anew that others change meanwhile.
const TRIES: usize = 4;

/// Whose session it is.
pub(super) struct Claimed {
    claim: Arc<Claim>,
    /// The statement that finds the row, and holds it until the transaction ends, if it is the owner's still.
    guard: String,
}

impl MysqlConnection {
    /// Makes the row of the `node_id` this process's own, or sees that it is.
    ///
    /// # Errors
    /// Of the class operator where it is another's.
    pub(super) async fn take_claim(&mut self, claim: &Arc<Claim>) -> Result<(), SinkError> {
        for _ in 0..TRIES {
            let (node_id, was_held) = (claim.owner().node_id, claim.is_held());
            let found = self.row_of_node(node_id).await?;
            let (asking, seen, table) = (Arc::clone(claim), found.clone(), self.table.clone());
            // It may give the journal a new id, which waits for the disk.
            let step = tokio::task::spawn_blocking(move || asking.step(&table, seen.as_ref(), was_held)).await;
            match step.map_err(|error| SinkError::new(Class::Transient, format!("claiming: {error}")))?? {
                Step::Hold(owner) => {
                    self.journal = Some(owner.journal);
                    self.claimed = Some(Claimed { claim: Arc::clone(claim), guard: guard(&self.table, &owner) });
                    return Ok(());
                }
                Step::LookAgain => {}
                Step::Take(owner) => self.write_row(&owner, found.as_ref()).await.map_err(waits_for_others)?,
            }
        }
        Err(SinkError::new(Class::Outage, "claiming the node_id: others change its row all the time"))
    }

    async fn row_of_node(&mut self, node_id: u16) -> Result<Option<claim::Row>, SinkError> {
        let nodes = self.table.nodes();
        let query =
            format!("SELECT journal, start, nonce, CAST(claimed_at AS CHAR) FROM `{nodes}` WHERE node_id = {node_id}");
        let row = self.conn.query_first::<Row, _>(query);
        let row = within(self.timeout, "looking for the claim of the node_id", row).await?;
        // What was read may be older than what is committed.
        self.run("looking for the claim of the node_id", "ROLLBACK").await?;
        let Some(row) = row else { return Ok(None) };
        let number = |column| read::integer(&row, column);
        let read = || {
            let (journal, start, nonce) = (number(0)?, number(1)?, number(2)?);
            Some(claim::Row { journal, start, nonce, claimed_at: read::text(&row, 3).unwrap_or_default() })
        };
        let unreadable = || {
            let text = format!("the row of node_id {node_id} in `{nodes}` cannot be read; remove it with DELETE");
            SinkError::new(Class::Operator, text)
        };
        read().map(Some).ok_or_else(unreadable)
    }

    /// Writes the row if it is still as it was found; whether it was is seen by the next look.
    async fn write_row(&mut self, owner: &Owner, found: Option<&claim::Row>) -> Result<(), SinkError> {
        let nodes = self.table.nodes();
        let Owner { node_id, journal, start, nonce } = owner;
        let write = match found {
            None => format!(
                "INSERT INTO `{nodes}` (node_id, journal, start, nonce, claimed_at) \
                 VALUES ({node_id}, {}, {start}, {nonce}, UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE node_id = node_id",
                journal.0
            ),
            Some(found) => format!(
                "UPDATE `{nodes}` SET journal = {}, start = {start}, nonce = {nonce}, claimed_at = UTC_TIMESTAMP(6) \
                 WHERE node_id = {node_id} AND journal = {} AND start = {} AND nonce = {}",
                journal.0, found.journal, found.start, found.nonce
            ),
        };
        self.run("claiming the node_id", &write).await?;
        self.run("claiming the node_id", "COMMIT").await
    }

    /// Sends the statement in `self.sql` behind the guard of the claim, in one packet; gives back the rows that it
    /// affected. From then on nobody else can take the `node_id` before this transaction ends.
    ///
    /// # Errors
    /// Besides the statement's own: of the class operator where the `node_id` is another's by now. The transaction is
    /// rolled back then.
    pub(super) async fn execute_guarded(&mut self, doing: &'static str) -> Result<u64, SinkError> {
        let Some(claimed) = &self.claimed else { return self.execute(doing).await };
        if self.sql.len() + 1 >= self.max_packet {
            return Err(too_large(doing, self.max_packet));
        }
        // Together they may be longer than a packet may be.
        if claimed.guard.len() + self.sql.len() + 3 >= self.max_packet {
            self.check_claim().await?;
            return self.execute(doing).await;
        }
        let guard = claimed.guard.bytes().chain(*b"; ");
        self.sql.splice(0..0, guard);
        let held = self.send_guard(doing).await?;
        let affected = self.conn.affected_rows();
        if held { Ok(affected) } else { Err(self.lost_claim().await) }
    }

    /// The guard alone, for a transaction that stores nothing else.
    ///
    /// # Errors
    /// As [`MysqlConnection::execute_guarded`].
    pub(super) async fn check_claim(&mut self) -> Result<(), SinkError> {
        let Some(claimed) = &self.claimed else { return Ok(()) };
        let statement = std::mem::replace(&mut self.sql, claimed.guard.clone().into_bytes());
        let held = self.send_guard("looking at the claim of the node_id").await;
        self.sql = statement;
        if held? { Ok(()) } else { Err(self.lost_claim().await) }
    }

    /// Sends what begins with the guard, and reads all answers; whether the row was there.
    async fn send_guard(&mut self, doing: &'static str) -> Result<bool, SinkError> {
        let (conn, sql) = (&mut self.conn, self.sql.as_slice());
        let sent = async {
            let mut answers = conn.query_iter(sql).await?;
            let held = answers.next().await?.is_some();
            answers.drop_result().await?;
            Ok(held)
        };
        let held = within(self.timeout, doing, sent).await?;
        Ok(held || cfg!(forebay_plant = "store_unclaimed"))
    }

    /// Whose the claim is by now, for a person; or, where nobody's, that it is this process's own again.
    async fn lost_claim(&mut self) -> SinkError {
        let Some(claimed) = self.claimed.take() else { unreachable!("only a session with a claim can lose it") };
        if let Err(error) = self.run("rolling back", "ROLLBACK").await {
            return error;
        }
        match self.take_claim(&claimed.claim).await {
            Ok(()) => SinkError::new(Class::Transient, "the row of the node_id was gone, and is there again"),
            Err(error) => error,
        }
    }
}

fn guard(table: &TableName, owner: &Owner) -> String {
    let Owner { node_id, journal, start, nonce } = owner;
    format!(
        "SELECT 1 FROM `{}` WHERE node_id = {node_id} AND journal = {} AND start = {start} AND nonce = {nonce} \
         LOCK IN SHARE MODE",
        table.nodes(),
        journal.0
    )
}

/// A transaction of the one that held it until now is under way: no row of a batch is to blame for that.
fn waits_for_others(error: SinkError) -> SinkError {
    match error.class {
        Class::Transient => SinkError { class: Class::Outage, ..error },
        _ => error,
    }
}
