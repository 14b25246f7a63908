//! From raw values to settings: types, bounds, and what must hold between keys.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::fault::{Fault, Faults};
use super::reader::Reader;
use super::sources::{Gathered, Sources};
use super::{
    Access, Admin, Flush, Ingest, Journal, Log, LogFormat, OnDisconnect, Proxy, Settings, Shutdown, Sink, SinkTarget,
    TableName, Trace, memory, values,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const NOT_ZERO: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 3_600);
const YEAR: Duration = Duration::from_secs(31_557_600);

/// Larger values go to files that the journal's store never syncs.
const MAX_REPORT_BYTES: u64 = 96 * KIB;
/// Beyond this many trees the journal's store writes their names to a file that it never syncs.
const MAX_LANES: u64 = 1024;
/// Rows of one statement; more gain nothing.
const MAX_ROWS: u64 = 100_000;

/// Memory that an id with backlog takes, at most: its stream, its place in the index, its flusher that waits, and the
/// place of one entry. Measured; see docs/performance.md.
pub const ID_BYTES: u64 = 1024;
/// More ids with backlog are not expected, and not measured.
const MAX_DEFAULT_IDS: u64 = 2_000_000;

/// How many ids fit into a quarter of the memory that the process may use.
fn ids_that_fit() -> u64 {
    let bytes = memory::usable_bytes().unwrap_or(u64::MAX);
    (bytes / 4 / ID_BYTES).min(MAX_DEFAULT_IDS)
}

impl Default for Settings {
    fn default() -> Self {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            node_id: 1,
            on_disconnect: OnDisconnect::Mark,
            ingest: Ingest {
                listen: local(7001),
                max_report_bytes: 64 << 10,
                max_request_bytes: 8 << 20,
                max_connections: 10_000,
                max_connections_per_address: 10_000,
                max_in_flight: 1024,
                max_queued_bytes: 64 << 20,
                max_reply_bytes: 64 << 20,
                max_reply_bytes_per_connection: 2 << 20,
                max_waiting_dones: 100_000,
                max_ids: 500_000,
                max_ids_per_connection: 1_000_000,
                same_id: false,
                handshake_timeout: Duration::from_secs(10),
                idle_timeout: Duration::from_secs(300),
                ping_interval: Duration::from_secs(25),
                keep_alive: Duration::from_secs(75),
                allowed_origins: Vec::new(),
                allowed_hosts: Vec::new(),
                proxy: Proxy::None,
                trusted_proxies: Vec::new(),
                tls_cert: None,
                tls_key: None,
            },
            journal: Journal {
                dir: PathBuf::from("forebay-data/journal"),
                lanes: 256,
                max_bytes: 8 * GIB,
                max_backlog_per_id: 1_000_000,
                max_ids: ids_that_fit(),
                min_free_disk: 256 * MIB,
                cache_bytes: 64 * MIB,
                recent_bytes: GIB,
            },
            flush: Flush { batch: 10, tick: Duration::from_secs(10), catch_up_batch: 1000 },
            sink: Sink {
                target: SinkTarget::Sqlite(PathBuf::from("forebay-data/reports.db")),
                table: TableName("reports".to_owned()),
                connections: 4,
                max_rows: 1000,
                max_bytes: 1 << 20,
                timeout: Duration::from_secs(30),
                create_tables: true,
                settled_marks: true,
                tls_ca: None,
                tls_cert: None,
                tls_key: None,
            },
            admin: Admin {
                listen: local(7002),
                max_connections: 256,
                allowed_hosts: Vec::new(),
                tls_cert: None,
                tls_key: None,
            },
            access: Access { tokens: None, allow_insecure_listen: false },
            shutdown: Shutdown { drain: Duration::from_secs(5) },
            log: Log { level: LevelFilter::INFO, format: LogFormat::Text },
            trace: Trace { otlp_endpoint: None, otlp_ca: None, sample_one_in: 1, max_queued_spans: 2048 },
        }
    }
}

impl Settings {
    /// Reads and checks all sources; what none of them sets has its default.
    ///
    /// # Errors
    /// [`Faults`]: all of them.
    pub fn load(sources: &Sources) -> Result<Self, Faults> {
        let mut reader = Reader::new(Gathered::from(sources));
        let settings = reader.settings(Self::default());
        reader.compare(&settings);
        reader.protect(&settings);
        if reader.faults.is_empty() { Ok(settings) } else { Err(Faults(reader.faults)) }
    }
}

impl Reader {
    fn settings(&mut self, d: Settings) -> Settings {
        let on_disconnect = [("mark", OnDisconnect::Mark), ("ignore", OnDisconnect::Ignore)];
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        let levels = [
            ("off", LevelFilter::OFF),
            ("error", LevelFilter::ERROR),
            ("warn", LevelFilter::WARN),
            ("info", LevelFilter::INFO),
            ("debug", LevelFilter::DEBUG),
            ("trace", LevelFilter::TRACE),
        ];
        Settings {
            node_id: self.integer("node_id", d.node_id, 1..=65_535),
            on_disconnect: self.choice("on_disconnect", d.on_disconnect, &on_disconnect),
            ingest: self.ingest(d.ingest),
            journal: Journal {
                dir: self.path("journal.dir", d.journal.dir),
                lanes: self.integer("journal.lanes", d.journal.lanes, 1..=MAX_LANES),
                max_bytes: self.size("journal.max_bytes", d.journal.max_bytes, 1..=1024 * TIB),
                max_backlog_per_id: self.integer(
                    "journal.max_backlog_per_id",
                    d.journal.max_backlog_per_id,
                    1..=1_000_000_000,
                ),
                max_ids: self.integer("journal.max_ids", d.journal.max_ids, 1..=1_000_000_000),
                min_free_disk: self.size("journal.min_free_disk", d.journal.min_free_disk, 0..=1024 * TIB),
                cache_bytes: self.size("journal.cache_bytes", d.journal.cache_bytes, MIB..=TIB),
                recent_bytes: self.size("journal.recent_bytes", d.journal.recent_bytes, 0..=GIB),
            },
            flush: Flush {
                batch: self.integer("flush.batch", d.flush.batch, 1..=1_000_000_000),
                tick: self.duration("flush.tick", d.flush.tick, NOT_ZERO..=YEAR),
                catch_up_batch: self.integer("flush.catch_up_batch", d.flush.catch_up_batch, 1..=100_000),
            },
            sink: self.sink(d.sink),
            admin: self.admin(d.admin),
            access: Access {
                tokens: self.file("access.tokens", d.access.tokens),
                allow_insecure_listen: self.choice(
                    "access.allow_insecure_listen",
                    d.access.allow_insecure_listen,
                    &BOOLEANS,
                ),
            },
            shutdown: Shutdown { drain: self.duration("shutdown.drain", d.shutdown.drain, Duration::ZERO..=DAY) },
            log: Log {
                level: self.choice("log.level", d.log.level, &levels),
                format: self.choice("log.format", d.log.format, &formats),
            },
            trace: Trace {
                otlp_endpoint: self.endpoint("trace.otlp_endpoint", d.trace.otlp_endpoint),
                otlp_ca: self.file("trace.otlp_ca", d.trace.otlp_ca),
                sample_one_in: self.integer("trace.sample_one_in", d.trace.sample_one_in, 1..=1_000_000),
                max_queued_spans: self.integer("trace.max_queued_spans", d.trace.max_queued_spans, 1..=1_000_000),
            },
        }
    }

    fn sink(&mut self, d: Sink) -> Sink {
        Sink {
            target: self.read("sink.url", d.target, |raw| {
                SinkTarget::new(raw.text().ok_or("must be sqlite:PATH or mysql://user:password@host:3306/database")?)
            }),
            table: self.read("sink.table", d.table, |raw| {
                TableName::new(raw.text().unwrap_or("")).map_err(|error| error.to_string())
            }),
            connections: self.integer("sink.connections", d.connections, 1..=64),
            max_rows: self.integer("sink.max_rows", d.max_rows, 1..=MAX_ROWS),
            max_bytes: self.size("sink.max_bytes", d.max_bytes, KIB..=GIB),
            timeout: self.duration("sink.timeout", d.timeout, NOT_ZERO..=DAY),
            create_tables: self.choice("sink.create_tables", d.create_tables, &BOOLEANS),
            settled_marks: self.choice("sink.settled_marks", d.settled_marks, &BOOLEANS),
            tls_ca: self.file("sink.tls_ca", d.tls_ca),
            tls_cert: self.file("sink.tls_cert", d.tls_cert),
            tls_key: self.file("sink.tls_key", d.tls_key),
        }
    }

    fn admin(&mut self, d: Admin) -> Admin {
        Admin {
            listen: self.address("admin.listen", d.listen),
            max_connections: self.integer("admin.max_connections", d.max_connections, 1..=1_000_000),
            allowed_hosts: self.hosts("admin.allowed_hosts", d.allowed_hosts),
            tls_cert: self.file("admin.tls_cert", d.tls_cert),
            tls_key: self.file("admin.tls_key", d.tls_key),
        }
    }

    fn ingest(&mut self, d: Ingest) -> Ingest {
        Ingest {
            listen: self.address("ingest.listen", d.listen),
            max_report_bytes: self.size("ingest.max_report_bytes", d.max_report_bytes, 1..=MAX_REPORT_BYTES),
            max_request_bytes: self.size("ingest.max_request_bytes", d.max_request_bytes, 1..=GIB),
            max_connections: self.integer("ingest.max_connections", d.max_connections, 1..=1_000_000),
            max_connections_per_address: self.integer(
                "ingest.max_connections_per_address",
                d.max_connections_per_address,
                1..=1_000_000,
            ),
            max_in_flight: self.integer("ingest.max_in_flight", d.max_in_flight, 1..=1_000_000),
            // Permits of a semaphore are taken as a u32, so this stays well under 4 GiB.
            max_queued_bytes: self.size("ingest.max_queued_bytes", d.max_queued_bytes, 1..=2 * GIB),
            max_reply_bytes: self.size("ingest.max_reply_bytes", d.max_reply_bytes, MIB..=2 * GIB),
            max_reply_bytes_per_connection: self.size(
                "ingest.max_reply_bytes_per_connection",
                d.max_reply_bytes_per_connection,
                16 * KIB..=GIB,
            ),
            max_waiting_dones: self.integer("ingest.max_waiting_dones", d.max_waiting_dones, 1..=100_000_000),
            max_ids: self.integer("ingest.max_ids", d.max_ids, 1..=100_000_000),
            max_ids_per_connection: self.integer(
                "ingest.max_ids_per_connection",
                d.max_ids_per_connection,
                1..=100_000_000,
            ),
            same_id: self.choice("ingest.same_id", d.same_id, &BOOLEANS),
            handshake_timeout: self.duration("ingest.handshake_timeout", d.handshake_timeout, NOT_ZERO..=DAY),
            idle_timeout: self.duration("ingest.idle_timeout", d.idle_timeout, NOT_ZERO..=DAY),
            ping_interval: self.duration("ingest.ping_interval", d.ping_interval, NOT_ZERO..=DAY),
            keep_alive: self.duration("ingest.keep_alive", d.keep_alive, Duration::from_secs(1)..=DAY),
            allowed_origins: self.origins("ingest.allowed_origins", d.allowed_origins),
            allowed_hosts: self.hosts("ingest.allowed_hosts", d.allowed_hosts),
            proxy: self.choice("ingest.proxy", d.proxy, &Proxy::NAMES),
            trusted_proxies: self.networks("ingest.trusted_proxies", d.trusted_proxies),
            tls_cert: self.file("ingest.tls_cert", d.tls_cert),
            tls_key: self.file("ingest.tls_key", d.tls_key),
        }
    }

    /// What must hold between keys; one that was at fault by itself is not compared.
    fn compare(&mut self, settings: &Settings) {
        let Settings { ingest, admin, .. } = settings;
        let (report, request) = (ingest.max_report_bytes as u64, ingest.max_request_bytes as u64);
        let clash = ingest.listen.port() == admin.listen.port()
            && admin.listen.port() != 0
            && (ingest.listen.ip() == admin.listen.ip()
                || ingest.listen.ip().is_unspecified()
                || admin.listen.ip().is_unspecified());
        let quoted = |bytes| format!("{:?}", values::show_size(bytes));
        for (wrong, key, value, other, other_value, must) in [
            (
                clash,
                "admin.listen",
                admin.listen.to_string(),
                "ingest.listen",
                ingest.listen.to_string(),
                "differ from",
            ),
            (
                request < report,
                "ingest.max_request_bytes",
                quoted(request),
                "ingest.max_report_bytes",
                quoted(report),
                "be at least",
            ),
            (
                ingest.max_queued_bytes < ingest.max_report_bytes,
                "ingest.max_queued_bytes",
                quoted(ingest.max_queued_bytes as u64),
                "ingest.max_report_bytes",
                quoted(report),
                "be at least",
            ),
            (
                ingest.max_reply_bytes < ingest.max_reply_bytes_per_connection,
                "ingest.max_reply_bytes",
                quoted(ingest.max_reply_bytes as u64),
                "ingest.max_reply_bytes_per_connection",
                quoted(ingest.max_reply_bytes_per_connection as u64),
                "be at least",
            ),
        ] {
            let at_fault = |key| self.faults.iter().any(|fault| fault.key.as_deref() == Some(key));
            if wrong && !at_fault(key) && !at_fault(other) {
                let problem = format!("must {must} {other}, which is {other_value} ({})", self.origin(other));
                let origin = self.origin(key);
                self.faults.push(Fault { key: Some(key.to_owned()), value: Some(value), problem, origin });
            }
        }
    }
}

const BOOLEANS: [(&str, bool); 2] = [("true", true), ("false", false)];
