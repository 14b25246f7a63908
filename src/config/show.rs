//! Settings as the text of a `forebay.toml` that says the same, but for the sink's password.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Ingest, LogFormat, OnDisconnect, Settings, values};

fn text(text: impl fmt::Display) -> String {
    toml::Value::from(text.to_string()).to_string()
}

fn list(items: &[impl fmt::Display]) -> String {
    format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(", "))
}

/// "" where there is none.
fn file(path: Option<&PathBuf>) -> String {
    text(path.map_or(Path::new(""), PathBuf::as_path).display())
}

fn size(bytes: u64) -> String {
    let shown = values::show_size(bytes);
    if shown.ends_with('B') { text(shown) } else { shown }
}

fn duration(duration: Duration) -> String {
    text(values::show_duration(duration))
}

fn ingest_section(f: &mut fmt::Formatter<'_>, ingest: &Ingest) -> fmt::Result {
    writeln!(f, "\n[ingest]\nlisten = {}", text(ingest.listen))?;
    writeln!(f, "max_report_bytes = {}", size(ingest.max_report_bytes as u64))?;
    writeln!(f, "max_request_bytes = {}", size(ingest.max_request_bytes as u64))?;
    writeln!(f, "max_connections = {}", ingest.max_connections)?;
    writeln!(f, "max_connections_per_address = {}", ingest.max_connections_per_address)?;
    writeln!(f, "max_in_flight = {}", ingest.max_in_flight)?;
    writeln!(f, "max_queued_bytes = {}", size(ingest.max_queued_bytes as u64))?;
    writeln!(f, "max_reply_bytes = {}", size(ingest.max_reply_bytes as u64))?;
    writeln!(f, "max_reply_bytes_per_connection = {}", size(ingest.max_reply_bytes_per_connection as u64))?;
    writeln!(f, "max_waiting_dones = {}", ingest.max_waiting_dones)?;
    writeln!(f, "max_ids = {}", ingest.max_ids)?;
    writeln!(f, "max_ids_per_connection = {}", ingest.max_ids_per_connection)?;
    writeln!(f, "same_id = {}", ingest.same_id)?;
    writeln!(f, "handshake_timeout = {}", duration(ingest.handshake_timeout))?;
    writeln!(f, "idle_timeout = {}", duration(ingest.idle_timeout))?;
    writeln!(f, "ping_interval = {}", duration(ingest.ping_interval))?;
    writeln!(f, "keep_alive = {}", duration(ingest.keep_alive))?;
    writeln!(f, "allowed_origins = {}", list(&ingest.allowed_origins))?;
    writeln!(f, "allowed_hosts = {}", list(&ingest.allowed_hosts))?;
    writeln!(f, "proxy = {}", text(ingest.proxy.name()))?;
    writeln!(f, "trusted_proxies = {}", list(&ingest.trusted_proxies))?;
    writeln!(f, "tls_cert = {}", file(ingest.tls_cert.as_ref()))?;
    writeln!(f, "tls_key = {}", file(ingest.tls_key.as_ref()))
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node_id, on_disconnect, ingest, journal, flush, sink, admin, access, shutdown, log, trace } = self;
        let on_disconnect = match on_disconnect {
            OnDisconnect::Mark => "mark",
            OnDisconnect::Ignore => "ignore",
        };
        let format = match log.format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        writeln!(f, "node_id = {node_id}")?;
        writeln!(f, "on_disconnect = {}", text(on_disconnect))?;
        ingest_section(f, ingest)?;
        writeln!(f, "\n[journal]\ndir = {}", text(journal.dir.display()))?;
        writeln!(f, "lanes = {}", journal.lanes)?;
        writeln!(f, "max_bytes = {}", size(journal.max_bytes))?;
        writeln!(f, "max_backlog_per_id = {}", journal.max_backlog_per_id)?;
        writeln!(f, "max_ids = {}", journal.max_ids)?;
        writeln!(f, "min_free_disk = {}", size(journal.min_free_disk))?;
        writeln!(f, "cache_bytes = {}", size(journal.cache_bytes))?;
        writeln!(f, "recent_bytes = {}", size(journal.recent_bytes))?;
        writeln!(f, "\n[flush]\nbatch = {}", flush.batch)?;
        writeln!(f, "tick = {}", duration(flush.tick))?;
        writeln!(f, "catch_up_batch = {}", flush.catch_up_batch)?;
        writeln!(f, "\n[sink]\nurl = {}", text(&sink.target))?;
        writeln!(f, "table = {}", text(sink.table.reports()))?;
        writeln!(f, "connections = {}", sink.connections)?;
        writeln!(f, "max_rows = {}", sink.max_rows)?;
        writeln!(f, "max_bytes = {}", size(sink.max_bytes as u64))?;
        writeln!(f, "timeout = {}", duration(sink.timeout))?;
        writeln!(f, "create_tables = {}", sink.create_tables)?;
        writeln!(f, "settled_marks = {}", sink.settled_marks)?;
        writeln!(f, "tls_ca = {}", file(sink.tls_ca.as_ref()))?;
        writeln!(f, "tls_cert = {}", file(sink.tls_cert.as_ref()))?;
        writeln!(f, "tls_key = {}", file(sink.tls_key.as_ref()))?;
        writeln!(f, "\n[admin]\nlisten = {}", text(admin.listen))?;
        writeln!(f, "max_connections = {}", admin.max_connections)?;
        writeln!(f, "allowed_hosts = {}", list(&admin.allowed_hosts))?;
        writeln!(f, "tls_cert = {}", file(admin.tls_cert.as_ref()))?;
        writeln!(f, "tls_key = {}", file(admin.tls_key.as_ref()))?;
        writeln!(f, "\n[access]\ntokens = {}", file(access.tokens.as_ref()))?;
        writeln!(f, "allow_insecure_listen = {}", access.allow_insecure_listen)?;
        writeln!(f, "\n[shutdown]\ndrain = {}", duration(shutdown.drain))?;
        writeln!(f, "\n[log]\nlevel = {}", text(log.level))?;
        writeln!(f, "format = {}", text(format))?;
        writeln!(f, "\n[trace]\notlp_endpoint = {}", text(trace.otlp_endpoint.as_deref().unwrap_or("")))?;
        writeln!(f, "otlp_ca = {}", file(trace.otlp_ca.as_ref()))?;
        writeln!(f, "sample_one_in = {}", trace.sample_one_in)?;
        writeln!(f, "max_queued_spans = {}", trace.max_queued_spans)
    }
}
