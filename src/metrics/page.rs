//! The page that a scrape gets: every metric with its name, unit and meaning.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::histogram::{Histogram, Measure};
use super::process::Process;
use super::{Audit, Certificates, Metrics};

/// What the node knows besides what it counts, at the time of the scrape.
#[derive(Debug, Default)]
pub struct Reading {
    /// The version of the program.
    pub version: &'static str,
    /// The node's number.
    pub node_id: u16,
    /// Whether reports are taken.
    pub ready: bool,
    /// Where every report is.
    pub audit: Audit,
    /// The journal.
    pub journal: JournalReading,
    /// The sink.
    pub sink: SinkReading,
    /// Open ingest connections.
    pub connections: u64,
}

/// The journal at one instant.
#[derive(Debug, Default)]
pub struct JournalReading {
    /// Bytes of entries and dead letters.
    pub bytes: u64,
    /// Bytes of entries.
    pub backlog_bytes: u64,
    /// Bytes of its files.
    pub disk_bytes: u64,
    /// Free bytes of its disk.
    pub free_disk_bytes: u64,
    /// Ids with backlog.
    pub streams: u64,
    /// Age of the oldest record that is not in the sink.
    pub oldest_age: Duration,
    /// Entries that were set aside since start.
    pub damaged: u64,
}

/// The sink at one instant.
#[derive(Debug, Default)]
pub struct SinkReading {
    /// Each state, and whether it holds.
    pub states: [(&'static str, bool); 3],
    /// Each class of errors after which a transaction is tried again, and how often one was.
    pub retries: [(&'static str, u64); 3],
    /// How often it ceased to be up.
    pub outages: u64,
}

/// How a page is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format, version 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The format for a client whose `Accept` header is this.
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The media type of such a page.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Metrics {
    /// The page of all metrics. Reads files of the system, so it may block.
    pub fn page(self: &Arc<Self>, reading: Reading, format: Format) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape { metrics: Arc::clone(self), reading, process: Process::now() }));
        let mut page = String::new();
        let written = match format {
            Format::Prometheus => prometheus_text::encode(&mut page, &registry),
            Format::OpenMetrics => text::encode(&mut page, &registry),
        };
        written.expect("a String takes every write");
        page
    }
}

/// One scrape.
#[derive(Debug)]
struct Scrape {
    metrics: Arc<Metrics>,
    reading: Reading,
    process: Process,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.node(&mut page)?;
        self.audit(&mut page)?;
        self.ingest(&mut page)?;
        self.access(&mut page)?;
        self.journal(&mut page)?;
        self.sink(&mut page)?;
        self.process(&mut page)
    }
}

impl Scrape {
    fn node(&self, page: &mut Page<'_>) -> fmt::Result {
        let Reading { version, node_id, ready, .. } = &self.reading;
        let build = [("version", *version), ("node_id", &node_id.to_string())];
        page.info("forebay_build", "The running program, and the node's number", &build)?;
        page.gauge("forebay_ready", None, "Whether reports are taken (1), as /readyz has it", u64::from(*ready))?;
        let Certificates { ingest, admin } = &self.metrics.certificates;
        let ends = [("ingest", ingest.get()), ("admin", admin.get())];
        let help = "When the listener's certificate expires, in seconds of the epoch; 0 without one";
        page.gauges("forebay_tls_certificate_expiry_timestamp", Some(Unit::Seconds), help, "listener", &ends)
    }

    fn audit(&self, page: &mut Page<'_>) -> fmt::Result {
        let Audit { recovered, accepted, stored, duplicates, dead, discarded, backlog } = self.reading.audit;
        let help = "Reports found in the journal at start, backlog and dead letters";
        page.counter("forebay_reports_recovered", None, help, recovered)?;
        page.counter("forebay_reports_accepted", None, "Reports made durable since start", accepted)?;
        page.counter("forebay_reports_stored", None, "Reports that became new rows of the sink", stored)?;
        let help = "Reports whose key the sink or the dead letters had already";
        page.counter("forebay_reports_duplicate", None, help, duplicates)?;
        page.counter("forebay_reports_discarded", None, "Dead letters that an operator discarded", discarded)?;
        let help = "Reports that the sink refused for what they are, or that are damaged, now";
        page.gauge("forebay_dead_letters", None, help, dead)?;
        page.gauge("forebay_backlog_reports", None, "Reports in the journal and not yet in the sink", backlog)
    }

    fn ingest(&self, page: &mut Page<'_>) -> fmt::Result {
        let Metrics { refused, acks, connections_accepted, connections_refused, limits, .. } = &*self.metrics;
        let help = "Messages that were refused, by the name of the error";
        page.counters("forebay_messages_refused", help, "reason", &refused.all())?;
        let help = "From a message's frame being read to its ack being handed to its connection";
        page.histogram("forebay_ack", Some(Unit::Seconds), help, acks)?;
        page.gauge("forebay_connections", None, "Open ingest connections", self.reading.connections)?;
        let help = "Open ingest connections past which further ones are refused (ingest.max_connections)";
        page.gauge("forebay_connections_limit", None, help, limits.connections.get())?;
        page.counter("forebay_connections_accepted", None, "Ingest connections taken", connections_accepted.get())?;
        let help = "Ingest connections refused at the limit";
        page.counter("forebay_connections_refused", None, help, connections_refused.get())
    }

    fn access(&self, page: &mut Page<'_>) -> fmt::Result {
        let Metrics { ingest_intruders, admin_intruders, admin_connections_refused, .. } = &*self.metrics;
        let help = "Requests refused for whom they come from, by listener and reason";
        let mut metric = page.0.encode_descriptor("forebay_requests_refused", help, None, MetricType::Counter)?;
        for (listener, intruders) in [("ingest", ingest_intruders), ("admin", admin_intruders)] {
            for (reason, count) in intruders.all() {
                let labels = [("listener", listener), ("reason", reason)];
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        let help = "Connections to the admin listener refused at its limit (admin.max_connections)";
        page.counter("forebay_admin_connections_refused", None, help, admin_connections_refused.get())
    }

    fn journal(&self, page: &mut Page<'_>) -> fmt::Result {
        const BYTES: Option<Unit> = Some(Unit::Bytes);
        let Metrics { commits, syncs, salvages, limits, .. } = &*self.metrics;
        let journal = &self.reading.journal;
        page.histogram("forebay_commit_reports", None, "Reports of a commit; its count is that of commits", commits)?;
        page.histogram("forebay_sync", Some(Unit::Seconds), "What a sync of the journal took", syncs)?;
        let help = "Entries and dead letters in the journal, held to forebay_journal_limit_bytes";
        page.gauge("forebay_journal", BYTES, help, journal.bytes)?;
        let help = "Entries and dead letters past which reports are refused (journal.max_bytes)";
        page.gauge("forebay_journal_limit", BYTES, help, limits.journal_bytes.get())?;
        page.gauge("forebay_journal_disk", BYTES, "The journal's files", journal.disk_bytes)?;
        let help = "Free space on the journal's disk; 0 where its file system does not answer";
        page.gauge("forebay_disk_free", BYTES, help, journal.free_disk_bytes)?;
        let help = "Free space below which reports are refused (journal.min_free_disk)";
        page.gauge("forebay_disk_reserve", BYTES, help, limits.free_disk_bytes.get())?;
        page.gauge("forebay_backlog", BYTES, "Entries in the journal and not yet in the sink", journal.backlog_bytes)?;
        page.gauge("forebay_backlog_streams", None, "Ids with backlog", journal.streams)?;
        let help = "Age of the oldest report or marker that is not in the sink; 0 without backlog";
        page.gauge("forebay_backlog_oldest_age", Some(Unit::Seconds), help, journal.oldest_age.as_secs_f64())?;
        let help = "Damaged entries that were set aside since start";
        page.counter("forebay_journal_damaged_entries", None, help, journal.damaged)?;
        let help = "Damaged journals that were searched for what is whole, at this start";
        page.counter("forebay_journal_salvages", None, help, salvages.get())
    }

    fn sink(&self, page: &mut Page<'_>) -> fmt::Result {
        let Metrics { transactions, transaction_rows, batches, .. } = &*self.metrics;
        let SinkReading { states, retries, outages } = &self.reading.sink;
        let states = states.map(|(state, holds)| (state, u64::from(holds)));
        page.gauges("forebay_sink_state", None, "Whether the sink is in this state (1)", "state", &states)?;
        page.counter("forebay_sink_outages", None, "How often the sink ceased to be up", *outages)?;
        let help = "Transactions that failed and were tried again, by class of the error";
        page.counters("forebay_sink_retries", help, "class", retries)?;
        let help = "What a committed transaction of the sink took";
        page.histogram("forebay_sink_transaction", Some(Unit::Seconds), help, transactions)?;
        let help = "Reports and markers in a committed transaction of the sink";
        page.histogram("forebay_sink_transaction_rows", None, help, transaction_rows)?;
        let help = "Batches in committed transactions, each of one id";
        page.counter("forebay_sink_batches", None, help, batches.get())
    }

    /// The names that every Prometheus client library gives these.
    fn process(&self, page: &mut Page<'_>) -> fmt::Result {
        let Process { cpu_seconds, resident_bytes, open_fds, max_fds } = self.process;
        let seconds = || Some(Unit::Seconds);
        page.counter("process_cpu", seconds(), "CPU time of the process, user and kernel", cpu_seconds)?;
        page.gauge("process_resident_memory", Some(Unit::Bytes), "Resident memory of the process", resident_bytes)?;
        page.gauge("process_open_fds", None, "Open file descriptors", open_fds)?;
        page.gauge("process_max_fds", None, "Most file descriptors that may be open", max_fds)?;
        let help = "When the process started, in seconds of the epoch";
        page.gauge("process_start_time", seconds(), help, self.metrics.started.0)
    }
}

/// Writes metrics, one family after the other.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counter(&mut self, name: &str, unit: Option<Unit>, help: &str, value: impl EncodeCounterValue) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn gauge(&mut self, name: &str, unit: Option<Unit>, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?.encode_gauge(&value)
    }

    fn counters(&mut self, name: &str, help: &str, label: &str, values: &[(&str, u64)]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (value, count) in values {
            metric.encode_family(&[(label, *value)])?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
        }
        Ok(())
    }

    fn gauges(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        label: &str,
        values: &[(&str, u64)],
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        values.iter().try_for_each(|(value, number)| metric.encode_family(&[(label, *value)])?.encode_gauge(number))
    }

    fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(&labels)
    }

    fn histogram<M: Measure>(&mut self, name: &str, unit: Option<Unit>, help: &str, of: &Histogram<M>) -> fmt::Result {
        let (sum, buckets) = of.read();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}
