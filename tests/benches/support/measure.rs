//! One load, and what the processes that carry it used while it was measured.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::client::{Load, Outcome, Protocol};
use super::message::MESSAGE_BYTES;
use super::options::Options;
use super::process::Usage;
use super::stats::{median, percentile, thousands};

/// Connections, and reports in flight on each.
const SHAPES: [(u32, usize); 3] = [(64, 1), (64, 16), (1, 1)];

/// The shapes that are measured: one, where the options name it.
pub fn shapes(options: &Options) -> Vec<(u32, usize)> {
    match (options.get("connections"), options.get("in-flight")) {
        (0, _) | (_, 0) => SHAPES.to_vec(),
        (connections, in_flight) => vec![(connections as u32, in_flight as usize)],
    }
}

/// What was seen of a load that has ended.
pub struct Measured {
    /// What the client has to say.
    pub outcome: Outcome,
    /// How long it was measured.
    pub window: Duration,
    /// The processes, in the order in which they were given, before the load.
    pub before: Vec<Usage>,
    /// What they used while it was measured.
    pub used: Vec<Usage>,
    /// The same of the client.
    pub client: Usage,
}

/// Runs a load for the options' `warm-up`, then measures it for their `seconds`, then stops it.
pub async fn measure<P: Protocol>(load: Load, processes: &[u32], options: &Options) -> Measured {
    let usage = || processes.iter().map(Usage::of).collect::<Vec<_>>();
    let before = usage();
    let running = load.start_over::<P>().await;
    tokio::time::sleep(Duration::from_secs(options.get("warm-up"))).await;
    let (start, client, at_start) = (Instant::now(), Usage::of("self"), usage());
    running.measure();
    tokio::time::sleep(Duration::from_secs(options.get("seconds"))).await;
    running.measured();
    let (window, client, at_end) = (start.elapsed(), Usage::of("self").since(client), usage());
    let outcome = running.stop().await;
    let used = at_end.iter().zip(at_start).map(|(end, start)| end.since(start)).collect();
    Measured { outcome, window, before, used, client }
}

/// What a load comes to. The first process is the server; a second one is MariaDB.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Figures {
    /// While it was measured, as all others.
    pub acks_per_s: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// CPU of the server for an ack.
    pub server_us: f64,
    /// CPU of MariaDB for an ack, where it takes part.
    pub mariadb_us: f64,
    /// Of the CPU that client, server and MariaDB took.
    pub client_share: f64,
    /// Bytes that the server wrote to disk for a byte of report.
    pub written_per_byte: f64,
    /// The same of MariaDB, where it takes part.
    pub mariadb_written_per_byte: f64,
}

impl Figures {
    /// What [`Self::cells`] are.
    pub const TITLES: [&str; 8] =
        ["acks/s", "p50 ms", "p99 ms", "server/ack", "MariaDB/ack", "client's share", "server's disk B/B", "MariaDB's"];

    /// Those of one load.
    pub fn of(measured: &Measured) -> Self {
        let latencies = &measured.outcome.latencies;
        let acks = latencies.len() as f64;
        let (server, client) = (measured.used[0], measured.client);
        let mariadb = measured.used.get(1).copied().unwrap_or_default();
        let micros = |cpu: Duration| cpu.as_secs_f64() * 1e6 / acks;
        let all = server.cpu + mariadb.cpu + client.cpu;
        let a_byte = |written: u64| written as f64 / (acks * MESSAGE_BYTES as f64);
        Self {
            acks_per_s: acks / measured.window.as_secs_f64(),
            p50_ms: f64::from(percentile(latencies, 50.0)) / 1000.0,
            p99_ms: f64::from(percentile(latencies, 99.0)) / 1000.0,
            server_us: micros(server.cpu),
            mariadb_us: micros(mariadb.cpu),
            client_share: client.cpu.as_secs_f64() / all.as_secs_f64().max(0.01),
            written_per_byte: a_byte(server.written),
            mariadb_written_per_byte: a_byte(mariadb.written),
        }
    }

    /// The medians of some loads, for a table.
    pub fn cells(loads: impl Iterator<Item = Self> + Clone) -> [String; 8] {
        let of = |figure: fn(&Self) -> f64| median(loads.clone().map(|load| figure(&load)));
        [
            thousands(of(|load| load.acks_per_s)),
            format!("{:.2}", of(|load| load.p50_ms)),
            format!("{:.2}", of(|load| load.p99_ms)),
            format!("{:.1}", of(|load| load.server_us)),
            format!("{:.1}", of(|load| load.mariadb_us)),
            format!("{:.0} %", of(|load| load.client_share) * 100.0),
            format!("{:.2}", of(|load| load.written_per_byte)),
            format!("{:.2}", of(|load| load.mariadb_written_per_byte)),
        ]
    }
}
