//! What a load came to: one object for programs, a few lines for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::arguments::{End, Numbering, Plan};
use super::ledger::Ledger;
use super::shared::Shared;
use super::verify::Verdict;

/// A load and its figures; the fields are documented in docs/load.md.
#[derive(Debug, Serialize)]
pub struct Summary {
    url: String,
    connections: u64,
    ids: u64,
    in_flight: usize,
    array: usize,
    size: usize,
    rate: Option<f64>,
    numbering: Numbering,
    id_prefix: String,
    threads: usize,
    seconds: f64,
    sent: u64,
    unsent: u64,
    acked: u64,
    refused: u64,
    unknown: u64,
    resent: u64,
    reconnects: u64,
    gave_up: u64,
    errors: BTreeMap<String, u64>,
    broke_off: Option<String>,
    acks_per_s: f64,
    bytes_sent: u64,
    bytes_received: u64,
    latency_ms: Latency,
    client_cpu: Cpu,
    /// Absent where nothing was verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verdict>,
}

/// Milliseconds from when a report was sent (or, with a rate, was due) to its ack.
#[derive(Debug, Serialize)]
struct Latency {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

/// What the client itself took.
#[derive(Debug, Serialize)]
struct Cpu {
    /// Of all cores of the machine, 0 to 1.
    share: f64,
    us_per_ack: f64,
}

impl Summary {
    /// Of a load that is over, which took the process so much CPU.
    pub fn new(plan: &Plan, shared: &Shared, ledger: &Ledger, cpu: Duration) -> Self {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (seconds, acked) = (shared.elapsed().as_secs_f64(), get(&shared.acked));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let latencies = shared.latencies();
        let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            url: plan.url(),
            connections: plan.connections,
            ids: plan.shape.ids,
            in_flight: plan.in_flight,
            array: plan.array,
            size: plan.shape.size,
            rate: plan.rate,
            numbering: plan.shape.numbering,
            id_prefix: plan.shape.id_prefix.clone(),
            threads: plan.threads,
            seconds,
            sent: get(&shared.sent),
            unsent: get(&shared.unsent),
            acked,
            refused: ledger.refused(),
            unknown: ledger.unknown(),
            resent: get(&shared.resent),
            reconnects: get(&shared.reconnects),
            gave_up: get(&shared.gave_up),
            errors: shared.errors(),
            broke_off: shared.broke_off(),
            acks_per_s: if acked == 0 { 0.0 } else { acked as f64 / seconds.max(1e-6) },
            bytes_sent: get(&shared.bytes_sent),
            bytes_received: get(&shared.bytes_received),
            latency_ms: Latency {
                mean: latencies.mean() / 1e3,
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p99_9: at(0.999),
                max: latencies.max() as f64 / 1e3,
            },
            client_cpu: Cpu {
                share: cpu.as_secs_f64() / (seconds.max(1e-6) * cores as f64),
                us_per_ack: cpu.as_secs_f64() * 1e6 / acked.max(1) as f64,
            },
            verify: None,
        }
    }

    /// Why the load, or what it was held against, is no success.
    pub fn failure(&self) -> Option<String> {
        if let Some(what) = &self.broke_off {
            return Some(what.clone());
        }
        if self.gave_up > 0 {
            return Some(format!("{} connections gave up: no ack came for as long as --patience", self.gave_up));
        }
        if self.acked == 0 {
            return Some("no report was acknowledged".to_owned());
        }
        self.verify.as_ref().and_then(differs)
    }

    /// The lines for people.
    pub fn for_people(&self, end: End) -> String {
        let mut text = String::new();
        let mut line = |name: &str, what: std::fmt::Arguments<'_>| {
            writeln!(text, "{name:<12} {what}").expect("a text can grow");
        };
        let Self { url, connections, ids, in_flight, array, size, id_prefix, .. } = self;
        let messages = if *array > 1 { format!(" in arrays of {array}") } else { String::new() };
        line("node", format_args!("{url}"));
        line(
            "load",
            format_args!("{connections} × {in_flight} in flight{messages}, {size} bytes, {ids} ids {id_prefix}…"),
        );
        match (self.rate, end) {
            (Some(rate), _) => {
                line("pace", format_args!("{rate} reports/s asked for; latency from when a report was due"))
            }
            (None, _) => line("pace", format_args!("as fast as acks allow")),
        }
        let Self { sent, unsent, acked, refused, unknown, seconds, .. } = self;
        line(
            "reports",
            format_args!(
                "{sent} sent, {unsent} due and not sent, {acked} acknowledged, {refused} refused, {unknown} unknown"
            ),
        );
        line("acks/s", format_args!("{:.0} over {seconds:.2} s", self.acks_per_s));
        let Latency { mean, p50, p90, p99, p99_9, max } = self.latency_ms;
        line(
            "latency ms",
            format_args!("p50 {p50:.2}  p90 {p90:.2}  p99 {p99:.2}  p99.9 {p99_9:.2}  max {max:.2}  mean {mean:.2}"),
        );
        line("bytes", format_args!("{} sent, {} received", self.bytes_sent, self.bytes_received));
        let errors: Vec<String> = self.errors.iter().map(|(name, count)| format!("{count} {name}")).collect();
        line("errors", format_args!("{}", if errors.is_empty() { "none".to_owned() } else { errors.join(", ") }));
        if self.reconnects + self.resent + self.gave_up > 0 {
            let Self { reconnects, resent, gave_up, .. } = self;
            line(
                "lost",
                format_args!("{reconnects} reconnects, {resent} reports resent, {gave_up} connections gave up"),
            );
        }
        let Cpu { share, us_per_ack } = self.client_cpu;
        line("client CPU", format_args!("{:.1} % of the machine, {us_per_ack:.1} µs an ack", share * 100.0));
        self.verify.iter().for_each(|verdict| text += &verdict_for_people(verdict));
        text
    }
}

/// How sink and ledger differ, where they do.
pub fn differs(verdict: &Verdict) -> Option<String> {
    (!verdict.clean).then(|| "the sink is not what the ledger says".to_owned())
}

/// A verdict in a few lines.
pub fn verdict_for_people(verdict: &Verdict) -> String {
    let Verdict { acknowledged, stored, stored_unacknowledged, lost, doubled, .. } = verdict;
    let Verdict { altered, unknown, refused_yet_stored, miscounted, .. } = verdict;
    let name = if verdict.clean { "sink: clean" } else { "sink: WRONG" };
    let mut text = format!(
        "{name:<12} {acknowledged} acknowledged, {stored} stored, {lost} lost, {doubled} doubled, {altered} altered, \
         {unknown} unknown\n"
    );
    if stored_unacknowledged + refused_yet_stored + miscounted > 0 {
        let more = format!(
            "{stored_unacknowledged} stored without an ack, {refused_yet_stored} stored though refused, \
             {miscounted} ids miscounted"
        );
        text += &format!("{:<12} {more}\n", "");
    }
    if verdict.from_elsewhere > 0 {
        let more = format!(
            "all {} rows are from addresses that the load did not have; peers are not compared",
            verdict.from_elsewhere
        );
        text += &format!("{:<12} {more}\n", "");
    }
    if verdict.cut {
        let more = "the ledger was cut: ids behind its last whole line are not compared";
        text += &format!("{:<12} {more}\n", "");
    }
    verdict.examples.iter().for_each(|example| text += &format!("{:<12} {example}\n", ""));
    text
}
