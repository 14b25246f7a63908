//! Settings: validated once into types that cannot be wrong.
//!
//! Sources are read in the order file, environment, flags; a later one wins. All faults are found before any is
//! reported, and none repeats what may be a secret. Nothing here reads a file or the environment: the caller brings the
//! texts.

mod fault;
mod memory;
mod mysql_url;
mod network;
mod protect;
mod read;
mod reader;
mod redact;
mod show;
mod sources;
#[cfg(test)]
mod tests;
mod values;

pub use fault::{Fault, Faults, Origin};
pub use mysql_url::MysqlUrl;
pub use network::{Network, NetworkError, Proxy};
pub use redact::{HIDDEN, holds_secret, is_harmless, may_be_secret, shown_message, shown_path};
pub use sources::{Flags, Sources};

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// All settings of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// This node's number, 1 to 65535, unique among nodes that share a sink.
    pub node_id: u16,
    /// What to do for the ids of a connection that ends.
    pub on_disconnect: OnDisconnect,
    /// `[ingest]`
    pub ingest: Ingest,
    /// `[journal]`
    pub journal: Journal,
    /// `[flush]`
    pub flush: Flush,
    /// `[sink]`
    pub sink: Sink,
    /// `[admin]`
    pub admin: Admin,
    /// `[access]`
    pub access: Access,
    /// `[shutdown]`
    pub shutdown: Shutdown,
    /// `[log]`
    pub log: Log,
    /// `[trace]`
    pub trace: Trace,
}

/// What a connection's end means for its ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDisconnect {
    /// A durable `disconnected` marker for each id that is on no other connection and not done.
    Mark,
    /// Nothing.
    Ignore,
}

/// The ingest listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingest {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Largest message, all fragments added up, in bytes. At most 96 KiB.
    pub max_report_bytes: usize,
    /// Largest body of `POST /reports`, in bytes (each message in it is held to `max_report_bytes`).
    pub max_request_bytes: usize,
    /// Connections at a time.
    pub max_connections: usize,
    /// Connections at a time from one address (of IPv6: one network of 64 bits).
    pub max_connections_per_address: usize,
    /// Unacknowledged reports of a connection past which it is not read further.
    pub max_in_flight: usize,
    /// Bytes of messages, over all connections, that wait for their commit; past it nobody is read further.
    pub max_queued_bytes: usize,
    /// Bytes of replies, over all connections, that wait or are not taken yet; of each connection the first 16 KiB are
    /// not counted.
    pub max_reply_bytes: usize,
    /// Bytes of replies of one connection, past which it is not read further; an array whose replies would have more
    /// is refused.
    pub max_reply_bytes_per_connection: usize,
    /// `done` messages, over all connections, whose event has not come.
    pub max_waiting_dones: usize,
    /// Ids that connections report for, over all of them (each is remembered until its last connection ends).
    pub max_ids: usize,
    /// Ids that one connection may report for (each is remembered until the connection ends).
    pub max_ids_per_connection: usize,
    /// Whether `id` and `data.id` must agree where both are there.
    pub same_id: bool,
    /// From accept to the end of the request's headers.
    pub handshake_timeout: Duration,
    /// A connection that said nothing (not even a pong) for this long is closed.
    pub idle_timeout: Duration,
    /// A connection that is idle is pinged at least so often, so that proxies keep it.
    pub ping_interval: Duration,
    /// How long a plain connection may be idle between two requests.
    pub keep_alive: Duration,
    /// Browser origins that may connect, besides the same origin.
    pub allowed_origins: Vec<String>,
    /// Names that a request's `Host` may have besides this machine's.
    pub allowed_hosts: Vec<String>,
    /// How the proxies before the listener say whom a connection or a request is from.
    pub proxy: Proxy,
    /// Where those proxies connect from; nobody else is believed.
    pub trusted_proxies: Vec<Network>,
    /// The listener's certificate and those that it was signed by, in PEM; with it everything is TLS.
    pub tls_cert: Option<PathBuf>,
    /// Its key, in PEM.
    pub tls_key: Option<PathBuf>,
}

impl Ingest {
    /// Whether a connection from such an address is a proxy's that is believed.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(address))
    }
}

/// The journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    /// Its folder.
    pub dir: PathBuf,
    /// Trees, 1 to 1024.
    pub lanes: u16,
    /// Backlog and dead letters in bytes, past which reports are refused.
    pub max_bytes: u64,
    /// Backlog of one id in reports, past which its reports are refused.
    pub max_backlog_per_id: u64,
    /// Ids with backlog, and clients that wait for a `done`, past which those that are new are refused.
    pub max_ids: u64,
    /// Free disk in bytes, below which reports are refused.
    pub min_free_disk: u64,
    /// Memory for pages of the journal, in bytes.
    pub cache_bytes: u64,
    /// What was accepted lately, in bytes; what waits for longer is sorted by id.
    pub recent_bytes: u64,
}

/// When a flusher acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flush {
    /// Reports of an id at which its flusher acts at once.
    pub batch: usize,
    /// Time after the oldest report was accepted at which it acts with fewer.
    pub tick: Duration,
    /// Reports that it takes at a time while it is behind.
    pub catch_up_batch: usize,
}

/// The sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sink {
    /// Which sink.
    pub target: SinkTarget,
    /// The table of reports; the table of streams is named after it.
    pub table: TableName,
    /// Transactions at a time.
    pub connections: usize,
    /// Rows in one transaction.
    pub max_rows: usize,
    /// Bytes of data in one transaction.
    pub max_bytes: usize,
    /// For each wait on the server: connect, statement, commit.
    pub timeout: Duration,
    /// Whether to make the tables at start.
    pub create_tables: bool,
    /// Whether the sink remembers what is settled, so that a row that somebody removes never comes back.
    pub settled_marks: bool,
    /// Certificates in PEM of which one must have signed the server's; with it the connection is TLS. MySQL only.
    pub tls_ca: Option<PathBuf>,
    /// The client's own certificate, in PEM.
    pub tls_cert: Option<PathBuf>,
    /// Its key, in PEM.
    pub tls_key: Option<PathBuf>,
}

/// Where reports end.
#[derive(Clone, PartialEq, Eq)]
pub enum SinkTarget {
    /// The embedded default: a file.
    Sqlite(PathBuf),
    /// `mysql://user:password@host:3306/database`; `Display` and `Debug` show no password.
    Mysql(String),
}

/// A table's name: 1 to 48 characters of `A-Z a-z 0-9 _`, no digit first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName(pub(crate) String);

/// The admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Connections at a time.
    pub max_connections: usize,
    /// Names that a request's `Host` may have besides this machine's.
    pub allowed_hosts: Vec<String>,
    /// The listener's certificate and those that it was signed by, in PEM; with it everything is TLS.
    pub tls_cert: Option<PathBuf>,
    /// Its key, in PEM.
    pub tls_key: Option<PathBuf>,
}

/// Who may do what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The tokens file; `None`: everybody may do everything.
    pub tokens: Option<PathBuf>,
    /// Whether a listener may be reached from other machines without tokens and TLS.
    pub allow_insecure_listen: bool,
}

/// Shutdown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shutdown {
    /// How long flushers may drain after the last client is gone.
    pub drain: Duration,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is logged.
    pub level: tracing::level_filters::LevelFilter,
    /// Text for people, or JSON for programs.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Traces over OTLP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// `http://` or `https://`, host, perhaps port and path, no `/` at its end, no user or query; `None`: nothing is
    /// traced.
    pub otlp_endpoint: Option<String>,
    /// Certificates in PEM of which one must have signed the collector's; without it the public authorities'.
    pub otlp_ca: Option<PathBuf>,
    /// One of so many commits, and one of so many transactions, is traced.
    pub sample_one_in: u64,
    /// Spans that wait for their export; what does not fit is dropped.
    pub max_queued_spans: usize,
}

impl std::fmt::Debug for SinkTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for SinkTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Mysql(url) => f.write_str(&mysql_url::shown(url)),
        }
    }
}

impl SinkTarget {
    /// Reads `sqlite:PATH` or `mysql://user:password@host:3306/database`.
    ///
    /// # Errors
    /// What is allowed, for a person, without the password.
    pub fn new(url: &str) -> Result<Self, String> {
        values::sink_target(url)
    }
}

/// The text is not a table's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 48 characters of A-Z a-z 0-9 _, no digit first, and not start with sqlite_")]
pub struct TableNameError;

impl TableName {
    /// Reads a table's name.
    ///
    /// # Errors
    /// [`TableNameError`] when it is too long, empty, has other characters or is a name that SQLite keeps for itself.
    pub fn new(text: &str) -> Result<Self, TableNameError> {
        let bytes = text.as_bytes();
        let allowed = (1..=48).contains(&bytes.len())
            && !bytes[0].is_ascii_digit()
            && bytes.iter().all(|&b| b.is_ascii_alphanumeric() || b == b'_')
            && !text.to_ascii_lowercase().starts_with("sqlite_");
        if allowed { Ok(Self(text.to_owned())) } else { Err(TableNameError) }
    }

    /// The table of reports.
    pub fn reports(&self) -> &str {
        &self.0
    }

    /// The table of streams: the reports table's name without a final `s`, and `_streams`
    /// (`reports` has `report_streams`).
    pub fn streams(&self) -> String {
        format!("{}_streams", self.0.strip_suffix('s').unwrap_or(&self.0))
    }

    /// The table of nodes, named in the same way: `reports` has `report_nodes`.
    pub fn nodes(&self) -> String {
        format!("{}_nodes", self.0.strip_suffix('s').unwrap_or(&self.0))
    }
}
