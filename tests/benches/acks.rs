//! Durable acknowledgements a second and their latency: Forebay, with MariaDB as its sink, beside a server that inserts
//! each message as a row before it acknowledges it, in turn, with the same client; and the disk's own limit.

mod support;

use std::time::{Duration, Instant};

use serde::Serialize;
use support::client::{Load, WebSocket};
use support::disk::{self, SyncTimes};
use support::mariadb::MariaDb;
use support::measure::{Measured, measure};
use support::message::MESSAGE_BYTES;
use support::node::Node;
use support::options::{Known, Options};
use support::process::Usage;
use support::row_server::{RowServer, serve_if_asked};
use support::stats::{Table, median, percentile, spread, thousands};
use support::{database, progress};

const OPTIONS: [Known; 6] = [
    ("seconds", 8, "measured time of each run"),
    ("warm-up", 1, "seconds before it"),
    ("repeats", 5, "runs of each system and shape"),
    ("ids", 1000, "ids, spread over the connections"),
    ("connections", 0, "with --in-flight: this shape alone"),
    ("in-flight", 0, "reports of a connection that are not acknowledged yet"),
];

/// Connections, and reports in flight on each.
const SHAPES: [(u32, usize); 3] = [(64, 1), (64, 16), (1, 1)];

/// One system, measured once.
#[derive(Debug, Clone, Copy, Serialize)]
struct Run {
    acks_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// CPU of the server for an ack, while it was measured.
    server_us: f64,
    /// CPU of MariaDB for an ack, while it was measured.
    mariadb_us: f64,
    /// CPU of server and MariaDB for a report, from the first one until the last is a row.
    to_row_us: f64,
    /// Of the CPU that client, server and MariaDB took, while it was measured.
    client_share: f64,
    /// Bytes that the server wrote to disk for a byte of report, while it was measured.
    written_per_byte: f64,
    /// The same of MariaDB.
    mariadb_written_per_byte: f64,
    /// Reports that were acknowledged and not yet rows when the load ended.
    backlog: u64,
    /// Seconds until they were.
    drain_s: f64,
    /// Rows after that; as many as acks, or the benchmark fails.
    rows: u64,
}

/// Both systems in one shape.
#[derive(Debug, Serialize)]
struct Pairs {
    connections: u32,
    in_flight: usize,
    forebay: Vec<Run>,
    row_server: Vec<Run>,
}

fn main() {
    serve_if_asked();
    let options = Options::read(&OPTIONS);
    support::run(bench(options));
}

async fn bench(options: Options) {
    let db = database::start().await;
    let mut syncs = Vec::new();
    let mut results = Vec::new();
    for (connections, in_flight) in shapes(&options) {
        let mut pairs = Pairs { connections, in_flight, forebay: Vec::new(), row_server: Vec::new() };
        for repeat in 1..=options.get("repeats") {
            progress(&format!("{connections} × {in_flight}, run {repeat}"));
            syncs.push(disk::sync_times(support::folder("disk-").path(), Duration::from_secs(1)));
            // Which one is first alternates, so that a machine that warms up or tires favours neither.
            for forebay in [repeat % 2 == 1, repeat % 2 == 0] {
                if forebay {
                    pairs.forebay.push(forebay_run(&db, &options, connections, in_flight).await);
                } else {
                    pairs.row_server.push(row_server_run(&db, &options, connections, in_flight).await);
                }
            }
        }
        results.push(pairs);
    }
    print(&options, &results, &syncs);
    if options.json {
        let json = serde_json::json!({
            "bench": "acks", "message_bytes": MESSAGE_BYTES, "options": options.all(), "shapes": results, "sync": syncs,
        });
        println!("{json}");
    }
}

fn shapes(options: &Options) -> Vec<(u32, usize)> {
    match (options.get("connections"), options.get("in-flight")) {
        (0, _) | (_, 0) => SHAPES.to_vec(),
        (connections, in_flight) => vec![(connections as u32, in_flight as usize)],
    }
}

async fn forebay_run(db: &MariaDb, options: &Options, connections: u32, in_flight: usize) -> Run {
    database::renew(db).await;
    let mut node = Node::new(&db.url());
    node.start().await;
    let load = Load {
        address: node.ingest(),
        connections,
        in_flight,
        ids: options.get("ids") as u32,
        rounds_before: 0,
        reports_per_id: None,
    };
    let measured = measure::<WebSocket>(load, &[node.pid(), db.pid().expect("it runs")], options).await;
    let (ended, backlog) = (Instant::now(), node.audit()["backlog"].as_u64().expect("a count"));
    let audit = node.drained().await;
    let drain_s = ended.elapsed().as_secs_f64();
    let run = figures(db, node.pid(), &measured, backlog, drain_s).await;
    assert_eq!(audit["stored"], measured.outcome.acks, "{audit}");
    node.stop().await;
    run
}

async fn row_server_run(db: &MariaDb, options: &Options, connections: u32, in_flight: usize) -> Run {
    database::renew(db).await;
    let server = RowServer::start(&db.url());
    let load = Load {
        address: server.address(),
        connections,
        in_flight,
        ids: options.get("ids") as u32,
        rounds_before: 0,
        reports_per_id: None,
    };
    let measured = measure::<WebSocket>(load, &[server.pid(), db.pid().expect("it runs")], options).await;
    figures(db, server.pid(), &measured, 0, 0.0).await
}

/// The figures, once all is in the sink; fails where rows and acks differ.
async fn figures(db: &MariaDb, server: u32, measured: &Measured, backlog: u64, drain_s: f64) -> Run {
    let after = [Usage::of(server), Usage::of(db.pid().expect("it runs"))];
    let rows: u64 = db.row("SELECT COUNT(*) FROM reports").await;
    assert_eq!(rows, measured.outcome.acks, "every ack is a row, and every row was acknowledged");
    let latencies = &measured.outcome.latencies;
    let acks = latencies.len() as f64;
    let micros = |cpu: Duration, reports: f64| cpu.as_secs_f64() * 1e6 / reports;
    let (server, mariadb, client) = (measured.used[0], measured.used[1], measured.client);
    let whole = after[0].since(measured.before[0]).cpu + after[1].since(measured.before[1]).cpu;
    let all = server.cpu + mariadb.cpu + client.cpu;
    Run {
        acks_per_s: acks / measured.window.as_secs_f64(),
        p50_ms: f64::from(percentile(latencies, 50.0)) / 1000.0,
        p99_ms: f64::from(percentile(latencies, 99.0)) / 1000.0,
        server_us: micros(server.cpu, acks),
        mariadb_us: micros(mariadb.cpu, acks),
        to_row_us: micros(whole, measured.outcome.acks as f64),
        client_share: client.cpu.as_secs_f64() / all.as_secs_f64().max(0.01),
        written_per_byte: server.written as f64 / (acks * MESSAGE_BYTES as f64),
        mariadb_written_per_byte: mariadb.written as f64 / (acks * MESSAGE_BYTES as f64),
        backlog,
        drain_s,
        rows,
    }
}

fn print(options: &Options, results: &[Pairs], syncs: &[SyncTimes]) {
    println!(
        "acks: {MESSAGE_BYTES}-byte reports over {} ids; medians of {} runs of {} s; CPU in µs",
        options.get("ids"),
        options.get("repeats"),
        options.get("seconds")
    );
    let mut table = Table::new(&[
        "connections × in flight",
        "system",
        "acks/s",
        "p50 ms",
        "p99 ms",
        "server/ack",
        "MariaDB/ack",
        "both to the row",
        "client's share",
        "server's disk B/B",
        "MariaDB's",
        "backlog at end",
    ]);
    for pairs in results {
        for (system, runs) in [("forebay", &pairs.forebay), ("a row a message", &pairs.row_server)] {
            let of = |figure: fn(&Run) -> f64| median(runs.iter().map(figure));
            table.row([
                format!("{} × {}", pairs.connections, pairs.in_flight),
                system.to_owned(),
                thousands(of(|run| run.acks_per_s)),
                format!("{:.2}", of(|run| run.p50_ms)),
                format!("{:.2}", of(|run| run.p99_ms)),
                format!("{:.1}", of(|run| run.server_us)),
                format!("{:.1}", of(|run| run.mariadb_us)),
                format!("{:.1}", of(|run| run.to_row_us)),
                format!("{:.0} %", of(|run| run.client_share) * 100.0),
                format!("{:.2}", of(|run| run.written_per_byte)),
                format!("{:.2}", of(|run| run.mariadb_written_per_byte)),
                thousands(of(|run| run.backlog as f64)),
            ]);
        }
    }
    table.print();
    println!();
    for pairs in results {
        let both = || pairs.forebay.iter().zip(&pairs.row_server);
        let acks: Vec<f64> = both().map(|(forebay, rows)| forebay.acks_per_s / rows.acks_per_s).collect();
        let p50: Vec<f64> = both().map(|(forebay, rows)| forebay.p50_ms / rows.p50_ms).collect();
        let (connections, in_flight) = (pairs.connections, pairs.in_flight);
        let (acks, p50) = (spread(&acks), spread(&p50));
        println!("{connections} × {in_flight}: forebay / a row a message, pair by pair: acks/s {acks}, p50 {p50}");
    }
    let of = |figure: fn(&SyncTimes) -> f64| median(syncs.iter().map(figure));
    println!(
        "bare 4 KiB pwrite + fdatasync: over written blocks p50 {:.2} ms, p99 {:.2} ms; \
         file grows p50 {:.2} ms, p99 {:.2} ms",
        of(|times| times.overwrite_p50_ms),
        of(|times| times.overwrite_p99_ms),
        of(|times| times.append_p50_ms),
        of(|times| times.append_p99_ms)
    );
    for pairs in results.iter().filter(|pairs| pairs.connections == 1 && pairs.in_flight == 1) {
        let p50 = median(pairs.forebay.iter().map(|run| run.p50_ms));
        let bare = of(|times| times.overwrite_p50_ms);
        println!("1 × 1: forebay's p50 is {:.2} times the bare overwrite's", p50 / bare);
    }
}
