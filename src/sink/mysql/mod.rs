//! The MySQL and MariaDB sink.
//!
//! One transaction is one `INSERT` of all rows, one upsert of the streams and `COMMIT`. The server's count of affected
//! rows says whether all rows were new; only if some were not, the transaction is begun again, with a look at all keys
//! before (`keys.rs`), and inserts those that are new. The session has `autocommit=0`: a transaction begins with
//! its first statement, which saves a round trip, and nothing can be stored outside of one.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{ClientIdentity, Conn, DriverError, Error, IoError, Opts, OptsBuilder, Row, SslOpts};
use tokio_rustls::rustls::{self, AlertDescription};

use super::error::{PACKET_TOO_LARGE, quoted};
use super::mark::{may_be_settled, settled_through, without_settled};
use super::record::{self, StreamRow, by_key};
use super::{Claim, Class, Connection, Sink, SinkError, StoreError, Stored, Taken};
use crate::config::{self, MysqlUrl, TableName};
use crate::panics::contained;
use crate::report::{Batch, Id, JournalId, Position, Report};

mod claim;
mod clock;
mod keys;
mod link;
mod read;
mod session;
mod shape;
mod sql;
mod tables;

use claim::Claimed;
use clock::Skew;
use link::Link;

/// A MySQL or MariaDB server.
pub struct MysqlSink {
    opts: Opts,
    shared: Arc<Shared>,
}

/// What all sessions of a sink share.
struct Shared {
    settings: config::Sink,
    /// Whether tables and settings of the server have been found well since the process started.
    inspected: AtomicBool,
    /// Whether sessions write: then the tables are looked at.
    writes: bool,
    claim: OnceLock<Arc<Claim>>,
    skew: Skew,
    /// Whose batches are stored, where nobody claims a `node_id`.
    journal: OnceLock<JournalId>,
    /// Whether a commit had no answer: it may be under way still.
    unanswered: AtomicBool,
}

impl MysqlSink {
    pub(super) fn claim(&self, claim: Claim) {
        assert!(self.shared.claim.set(Arc::new(claim)).is_ok(), "a sink has one node");
    }

    pub(super) fn serve(&self, journal: JournalId) {
        let _ = self.shared.journal.set(journal);
    }

    /// Reads the URL; nothing is connected yet.
    ///
    /// # Errors
    /// Of the class [`Class::Operator`] when the URL is none or names no database. The text has no part of the URL.
    pub fn new(url: &str, settings: &config::Sink) -> Result<Self, SinkError> {
        Self::open(url, settings, true)
    }

    fn open(url: &str, settings: &config::Sink, writes: bool) -> Result<Self, SinkError> {
        let refuse = |why: &str| SinkError::new(Class::Operator, format!("sink.url: {why}"));
        let MysqlUrl { user, password, host, port, database, socket } = MysqlUrl::new(url).map_err(refuse)?;
        let opts = OptsBuilder::default()
            .user(Some(user))
            .pass(password)
            .ip_or_hostname(host)
            .tcp_port(port)
            .db_name(Some(database))
            .socket(socket)
            .prefer_socket(false) // Else the driver moves to the server's socket on its own, past any proxy.
            .client_found_rows(false) // Else a row that was there already counts as one that was inserted.
            .max_allowed_packet(None) // The server's own, so that what it would refuse is not sent.
            .stmt_cache_size(0)
            .tcp_nodelay(true)
            .into();
        let (settings, inspected, claim) = (settings.clone(), AtomicBool::new(false), OnceLock::new());
        let (skew, journal) = (Skew::default(), OnceLock::new());
        let unanswered = AtomicBool::new(false);
        let shared = Shared { settings, inspected, writes, claim, skew, journal, unanswered };
        Ok(Self { opts, shared: Arc::new(shared) })
    }
}

/// TLS where a CA is set: the server's certificate must be signed by it and name the host of the URL. The files are
/// read anew for each connection.
fn tls(settings: &config::Sink) -> Option<SslOpts> {
    let ca = settings.tls_ca.clone()?;
    let own = settings.tls_cert.clone().zip(settings.tls_key.clone());
    let identity = own.map(|(cert, key)| ClientIdentity::new(cert.into(), key.into()));
    let opts = SslOpts::default().with_root_certs(vec![ca.into()]).with_disable_built_in_roots(true);
    Some(opts.with_client_identity(identity))
}

impl Sink for MysqlSink {
    type Connection = MysqlConnection;

    fn clock_skew(&self) -> Option<f64> {
        self.shared.skew.seconds()
    }

    async fn connect(&self) -> Result<MysqlConnection, SinkError> {
        let settings = &self.shared.settings;
        let timeout = settings.timeout;
        // The driver reads the files of TLS once for all clones of its options.
        let opts = OptsBuilder::from_opts(self.opts.clone()).ssl_opts(tls(settings));
        let conn = within(timeout, "connecting", Conn::new(opts)).await.map_err(unreachable)?;
        let (table, shared) = (settings.table.clone(), Arc::clone(&self.shared));
        let conn = Link::new(conn);
        let (max_packet, sql, journal) = (usize::MAX, Vec::new(), self.shared.journal.get().copied());
        let mut connection =
            MysqlConnection { conn, shared, table, timeout, max_packet, sql, usable: false, claimed: None, journal };
        session::prepare(&mut connection).await?;
        connection.usable = true;
        Ok(connection)
    }
}

/// A server that refuses a connection for a reason that is not known cannot be reached; no row is at fault.
fn unreachable(error: SinkError) -> SinkError {
    let class = if error.class == Class::Operator { Class::Operator } else { Class::Outage };
    SinkError { class, ..error }
}

/// One session.
pub struct MysqlConnection {
    conn: Link,
    shared: Arc<Shared>,
    table: TableName,
    timeout: Duration,
    /// The server's `max_allowed_packet`, in bytes.
    max_packet: usize,
    /// The statement under way; used again, so that no row allocates.
    sql: Vec<u8>,
    usable: bool,
    claimed: Option<Claimed>,
    /// Whose batches it stores.
    journal: Option<JournalId>,
}

impl Drop for MysqlConnection {
    fn drop(&mut self) {
        if !self.usable && cfg!(not(forebay_plant = "session_lingers")) {
            self.conn.cut();
        }
    }
}

impl Connection for MysqlConnection {
    async fn store(&mut self, batches: &[Batch]) -> Result<Vec<Stored>, StoreError> {
        // Until the outcome is known, a dropped future leaves a connection in the midst of a transaction.
        self.usable = false;
        let mut outcome = self.transact(batches).await;
        // The rows of another node that writes as this one say nothing about the reports of this one.
        if let Err(StoreError::Taken(_)) = &outcome
            && let Err(error) = self.check_claim().await
        {
            outcome = Err(error.into());
        }
        match &outcome {
            Ok(_) => self.usable = true,
            Err(StoreError::Taken(_)) => self.roll_back().await,
            Err(StoreError::Failed(error) | StoreError::Unknown(error)) => self.roll_back_after(error).await,
        }
        outcome
    }

    async fn probe(&mut self) -> Result<(), SinkError> {
        self.usable = false;
        session::inspect(self).await.map_err(SinkError::in_set_up)?;
        for probe in sql::probes(&self.table) {
            self.run("asking whether the sink takes writes", &probe).await?;
        }
        self.run("ending a probe", "ROLLBACK").await?;
        self.usable = true;
        Ok(())
    }

    fn usable(&self) -> bool {
        self.usable
    }
}

impl MysqlConnection {
    async fn transact(&mut self, batches: &[Batch]) -> Result<Vec<Stored>, StoreError> {
        let marks = self.read_marks(batches).await?;
        let (rest, settled) = without_settled(batches, &marks);
        let mut order: Vec<usize> = (0..rest.len()).filter(|index| !rest[*index].records.is_empty()).collect();
        order.sort_by_key(|index| rest[*index].id);
        let left_out = |index: usize| batches[index].records.len() - rest[index].records.len();
        let inserted = self.insert_reports(&rest, &order).await.map_err(|error| match error {
            StoreError::Taken(taken) => StoreError::Taken(
                taken.into_iter().map(|taken| Taken { index: taken.index + left_out(taken.batch), ..taken }).collect(),
            ),
            failed => failed,
        })?;
        let stored = rest.iter().zip(&inserted).zip(settled).map(|((batch, &inserted), settled)| {
            let duplicates = record::reports(&batch.records) - inserted + settled;
            Stored { inserted, duplicates, total: None }
        });
        let mut stored: Vec<_> = stored.collect();
        let journal = self.marks_of();
        let rows = order.iter().filter_map(|i| StreamRow::of(&rest[*i], inserted[*i], journal)).collect::<Vec<_>>();
        if !rows.is_empty() {
            sql::upsert_streams(&mut self.sql, &self.table, &rows);
            self.execute_guarded("updating streams").await.map_err(SinkError::not_for_a_report)?;
        } else {
            self.check_claim().await?;
        }
        self.read_totals(batches, &mut stored).await.map_err(SinkError::not_for_a_report)?;
        let committed = self.run("committing", "COMMIT").await.map_err(SinkError::not_for_a_report);
        committed.map_err(|error| {
            self.shared.unanswered.store(true, Ordering::Relaxed);
            StoreError::Unknown(error)
        })?;
        Ok(stored)
    }

    /// The journal whose marks are written and looked at.
    fn marks_of(&self) -> Option<JournalId> {
        self.journal.filter(|_| self.shared.settings.settled_marks)
    }

    /// Up to where this journal has settled those ids whose records somebody may have tried to store before.
    async fn read_marks(&mut self, batches: &[Batch]) -> Result<HashMap<Id, Position>, SinkError> {
        let tried: Vec<_> = batches.iter().filter(|batch| may_be_settled(batch)).map(|batch| &batch.id).collect();
        let (Some(journal), Some(from), Some(to)) = (self.marks_of(), tried.iter().min(), tried.iter().max()) else {
            return Ok(HashMap::new());
        };
        // A transaction whose commit had no answer may be under way: what it writes is waited for. Of those of earlier
        // processes none is any more, since this one has the claim.
        let waits = self.shared.unanswered.load(Ordering::Relaxed);
        if !waits {
            // Ids are drained in their order: where all of them are new, one look between two keys says so, and no id
            // has to be looked up.
            sql::select_any_stream(&mut self.sql, &self.table, from, to);
            if self.rows("looking for streams").await.map_err(SinkError::not_for_a_report)?.is_empty() {
                return Ok(HashMap::new());
            }
        }
        sql::select_settled(&mut self.sql, &self.table, tried, waits);
        let rows = self.rows("reading what is settled").await.map_err(SinkError::not_for_a_report)?;
        let mark = |row: &Row| {
            let id = Id::new(&read::text(row, 0)?).ok()?;
            Some((id, settled_through(read::bytes(row, 1)?, journal)))
        };
        Ok(rows.iter().filter_map(mark).collect())
    }

    /// Inserts the reports, and says how many rows of each batch are new; `order` is the batches in the order of their
    /// ids, the same in every transaction, so that two transactions lock rows in one order.
    async fn insert_reports(&mut self, batches: &[Batch], order: &[usize]) -> Result<Vec<u64>, StoreError> {
        let given: Vec<u64> = batches.iter().map(|batch| record::reports(&batch.records)).collect();
        let total: u64 = given.iter().sum();
        if total == 0 {
            return Ok(given);
        }
        let mut rows = Vec::new();
        order.iter().for_each(|index| by_key(&batches[*index], &mut rows));
        if self.insert(rows).await? == total || cfg!(forebay_plant = "count_twice") {
            return Ok(given);
        }
        self.run("beginning again, to look at the keys", "ROLLBACK").await?;
        let sorted = self.sort(batches).await?;
        if !sorted.rows.is_empty() {
            let affected = self.insert(sorted.rows.iter().map(|(id, report)| (id, report))).await?;
            if affected != sorted.rows.len() as u64 {
                let error = "storing reports: another writer stored some of them meanwhile";
                return Err(SinkError::new(Class::Transient, error).into());
            }
        }
        record::say_renumbered(&sorted.renumbered);
        Ok(sorted.inserted)
    }

    async fn insert<'a>(&mut self, rows: impl IntoIterator<Item = (&'a Id, &'a Report)>) -> Result<u64, SinkError> {
        sql::insert_reports(&mut self.sql, &self.table, rows);
        self.execute("storing reports").await
    }

    /// The totals of the streams that have a marker, read in the transaction that wrote them.
    async fn read_totals(&mut self, batches: &[Batch], stored: &mut [Stored]) -> Result<(), SinkError> {
        let marked = || batches.iter().filter(|batch| record::has_marker(batch));
        if marked().next().is_none() {
            return Ok(());
        }
        sql::select_totals(&mut self.sql, &self.table, marked());
        let query = self.conn.query::<Row, _>(self.sql.as_slice());
        let rows = within(self.timeout, "reading streams", query).await?;
        let totals: HashMap<_, _> = rows.iter().map(|row| (read::text(row, 0), read::integer(row, 1))).collect();
        for (batch, stored) in batches.iter().zip(stored).filter(|(batch, _)| record::has_marker(batch)) {
            stored.total = *totals.get(&Some(batch.id.to_string())).unwrap_or(&None);
            if stored.total.is_none() {
                return Err(self.no_total(batch));
            }
        }
        Ok(())
    }

    /// An error of the one id: a person has put something else there.
    fn no_total(&self, batch: &Batch) -> SinkError {
        let (streams, id) = (self.table.streams(), batch.id);
        let text = format!(
            "reading streams: `{streams}`.`reports` of {id} is no number of rows; put it right with UPDATE `{streams}` \
             SET reports = (SELECT COUNT(*) FROM `{}` WHERE id = '{id}') WHERE id = '{id}'",
            self.table.reports(),
        );
        SinkError::new(Class::Transient, text)
    }

    /// Sends the statement in `self.sql`; gives back the rows that it affected.
    async fn execute(&mut self, doing: &'static str) -> Result<u64, SinkError> {
        // The command byte counts too, and a packet of exactly the limit is refused.
        if self.sql.len() + 1 >= self.max_packet {
            return Err(too_large(doing, self.max_packet));
        }
        let sent = within(self.timeout, doing, self.conn.query_drop(self.sql.as_slice())).await;
        sent.map(|()| self.conn.affected_rows())
    }

    /// Sends the query in `self.sql`; gives back its rows.
    async fn rows(&mut self, doing: &'static str) -> Result<Vec<Row>, SinkError> {
        within(self.timeout, doing, self.conn.query(self.sql.as_slice())).await
    }

    /// Runs a statement that this room wrote.
    async fn run(&mut self, doing: &'static str, statement: &str) -> Result<(), SinkError> {
        within(self.timeout, doing, self.conn.query_drop(statement)).await
    }

    /// Ends the transaction where the session goes on. A lock wait (1205) has undone its statement only.
    async fn roll_back_after(&mut self, error: &SinkError) {
        let lives = matches!(error.class, Class::Transient | Class::Poison) && error.code.is_some();
        if lives {
            self.roll_back().await;
        }
    }

    async fn roll_back(&mut self) {
        self.usable = self.run("rolling back", "ROLLBACK").await.is_ok();
    }
}

/// Waits for the server, at most `timeout`; the driver itself knows no limit. It also panics over some answers, which
/// ends here: whoever owns the connection leaves it unusable until it knows better.
async fn within<T>(
    timeout: Duration,
    doing: &'static str,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, SinkError> {
    let answer =
        async { if cfg!(forebay_plant = "trust_the_driver") { Ok(answer.await) } else { contained(answer).await } };
    match tokio::time::timeout(timeout, answer).await {
        Ok(Ok(answer)) => answer.map_err(|error| classify(doing, error)),
        Ok(Err(panicked)) => Err(SinkError::new(
            Class::Operator,
            format!("{doing}: the server gave an answer that no MySQL or MariaDB gives, and the driver {panicked}"),
        )),
        Err(_) => Err(SinkError::new(Class::Outage, format!("{doing}: the server gave no answer within {timeout:?}"))),
    }
}

fn too_large(doing: &str, limit: usize) -> SinkError {
    let text = format!("the statement exceeds the server's max_allowed_packet of {limit} bytes");
    SinkError::mysql(doing, PACKET_TOO_LARGE, &text)
}

/// Whether one end does not take the other's certificate, or a file of TLS is not what it should be: that stays so
/// until a person changes something.
fn is_mistrust(error: &IoError) -> bool {
    use AlertDescription as Alert;
    let IoError::Io(error) = error else { return true };
    let error = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(error) = error else { return false };
    matches!(
        error,
        rustls::Error::InvalidCertificate(_)
            | rustls::Error::NoCertificatesPresented
            | rustls::Error::AlertReceived(
                Alert::UnknownCA
                    | Alert::BadCertificate
                    | Alert::CertificateRequired
                    | Alert::CertificateUnknown
                    | Alert::CertificateExpired
                    | Alert::CertificateRevoked
                    | Alert::UnsupportedCertificate
            )
    )
}

/// What the driver's error means.
fn classify(doing: &str, error: Error) -> SinkError {
    let class = match &error {
        Error::Server(answer) => return SinkError::mysql(doing, answer.code, &answer.message),
        Error::Driver(DriverError::PacketTooLarge) => {
            return SinkError::mysql(doing, PACKET_TOO_LARGE, "the packet exceeds max_allowed_packet");
        }
        Error::Io(error) if is_mistrust(error) => Class::Operator,
        Error::Io(_) => Class::Outage,
        Error::Driver(
            DriverError::ConnectionClosed
            | DriverError::PacketOutOfOrder
            | DriverError::UnexpectedPacket { .. }
            | DriverError::PoolDisconnected,
        ) => Class::Outage,
        Error::Driver(
            DriverError::UnknownAuthPlugin { .. }
            | DriverError::MysqlOldPasswordDisabled
            | DriverError::CleartextPluginDisabled
            | DriverError::NoClientSslFlagFromServer
            | DriverError::NoKeyFound
            | DriverError::CantParseServerVersion { .. },
        )
        | Error::Url(_) => Class::Operator,
        Error::Driver(_) | Error::Other(_) => Class::Transient,
    };
    SinkError::new(class, format!("{doing}: {}", quoted(&error.to_string())))
}
