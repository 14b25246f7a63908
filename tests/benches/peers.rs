//! Durable acknowledgements a second and their latency: Forebay, with and without a sink, beside what people would use
//! instead, in turn, with the same client; and the disk's own limit.

mod support;

use std::time::Duration;

use serde::Serialize;
use support::client::{Load, WebSocket};
use support::disk::{self, SyncTimes};
use support::mariadb::MariaDb;
use support::measure::{Measured, measure};
use support::message::MESSAGE_BYTES;
use support::nats::{self, Nats, Publish};
use support::node::{DEAD_SINK, Node};
use support::options::{Known, Options};
use support::redis::{self, Redis, Xadd};
use support::row_server::{RowServer, serve_if_asked};
use support::server::require;
use support::stats::{Table, median, percentile, spread, thousands};
use support::{database, progress};

const OPTIONS: [Known; 6] = [
    ("seconds", 6, "measured time of each run"),
    ("warm-up", 1, "seconds before it"),
    ("repeats", 5, "runs of each system and shape"),
    ("ids", 1000, "ids, spread over the connections"),
    ("connections", 0, "with --in-flight: this shape alone"),
    ("in-flight", 0, "reports of a connection that are not acknowledged yet"),
];

/// Connections, and reports in flight on each.
const SHAPES: [(u32, usize); 3] = [(64, 1), (64, 16), (1, 1)];

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum System {
    /// Nothing is drained: the sink is not there.
    Forebay,
    /// MariaDB takes the reports all the while.
    ForebayDraining,
    /// Nothing drains it either.
    Redis,
    /// Nor this one.
    Nats,
    /// A row in MariaDB before the ack.
    RowServer,
}

const SYSTEMS: [System; 5] = [System::Forebay, System::ForebayDraining, System::Redis, System::Nats, System::RowServer];

impl System {
    fn name(self) -> &'static str {
        match self {
            Self::Forebay => "Forebay, sink down",
            Self::ForebayDraining => "Forebay, draining",
            Self::Redis => "Redis stream, always",
            Self::Nats => "NATS JetStream, file",
            Self::RowServer => "a row a message",
        }
    }
}

/// One system, measured once.
#[derive(Debug, Clone, Copy, Serialize)]
struct Run {
    acks_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// CPU of the server for an ack.
    server_us: f64,
    /// CPU of MariaDB for an ack, where it takes part.
    mariadb_us: f64,
    /// Of the CPU that client, server and MariaDB took.
    client_share: f64,
    /// Bytes that the server wrote to disk for a byte of report.
    written_per_byte: f64,
    /// The same of MariaDB, where it takes part.
    mariadb_written_per_byte: f64,
    /// What an ack is worth, and whether what was acknowledged is anywhere but in the server.
    meaning: &'static str,
}

/// All systems in one shape: the runs of each, in the order of the repeats.
#[derive(Debug, Serialize)]
struct Shape {
    connections: u32,
    in_flight: usize,
    systems: Vec<(System, Vec<Run>)>,
}

fn main() {
    serve_if_asked();
    let options = Options::read(&OPTIONS);
    let programs = [("redis-server", "redis-server"), ("nats-server", "nats-server")];
    require(&programs[..if nats::given().is_some() { 1 } else { 2 }]);
    support::run(bench(options));
}

async fn bench(options: Options) {
    let db = database::start().await;
    let mut syncs = Vec::new();
    let mut results = Vec::new();
    for (connections, in_flight) in shapes(&options) {
        let mut shape = Shape { connections, in_flight, systems: SYSTEMS.map(|system| (system, Vec::new())).into() };
        for repeat in 1..=options.get("repeats") {
            syncs.push(disk::sync_times(support::folder("disk-").path(), Duration::from_secs(1)));
            // The order alternates, so that a machine that warms up or tires favours none.
            let mut order: Vec<usize> = (0..SYSTEMS.len()).collect();
            if repeat % 2 == 0 {
                order.reverse();
            }
            for system in order {
                let (system, runs) = &mut shape.systems[system];
                progress(&format!("{connections} × {in_flight}, run {repeat}, {}", system.name()));
                // What the one before left to be written is not this one's.
                rustix::fs::sync();
                runs.push(run(*system, &db, &options, connections, in_flight).await);
            }
        }
        results.push(shape);
    }
    print(&options, &results, &syncs);
    if options.json {
        let json = serde_json::json!({
            "bench": "peers", "message_bytes": MESSAGE_BYTES, "options": options.all(), "shapes": results, "sync": syncs,
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

async fn run(system: System, db: &MariaDb, options: &Options, connections: u32, in_flight: usize) -> Run {
    let load = |address| Load {
        address,
        connections,
        in_flight,
        ids: options.get("ids") as u32,
        rounds_before: 0,
        reports_per_id: None,
    };
    let uses_mariadb = matches!(system, System::ForebayDraining | System::RowServer);
    if uses_mariadb {
        database::renew(db).await;
    } else {
        // What it still has to tidy up after a run would be at this one's cost.
        db.pause();
    }
    let run = match system {
        System::Forebay => undrained(options, load).await,
        System::ForebayDraining => draining(db, options, load).await,
        System::Redis => redis_stream(options, load).await,
        System::Nats => jetstream(options, load).await,
        System::RowServer => row_server(db, options, load).await,
    };
    if !uses_mariadb {
        db.resume();
    }
    run
}

async fn undrained(options: &Options, load: impl FnOnce(std::net::SocketAddr) -> Load) -> Run {
    let mut node = Node::new(DEAD_SINK);
    node.set("shutdown.drain", "0s");
    node.start().await;
    let measured = measure::<WebSocket>(load(node.ingest()), &[node.pid()], options).await;
    assert_eq!(node.audit()["accepted"], measured.outcome.acks, "every ack is in the journal, and nothing else is");
    Run::new(&measured, "synced")
}

async fn draining(db: &MariaDb, options: &Options, load: impl FnOnce(std::net::SocketAddr) -> Load) -> Run {
    let mut node = Node::new(&db.url());
    node.start().await;
    let processes = [node.pid(), db.pid().expect("it runs")];
    let measured = measure::<WebSocket>(load(node.ingest()), &processes, options).await;
    assert_eq!(node.drained().await["stored"], measured.outcome.acks, "every ack is a row, and nothing else is");
    Run::new(&measured, "synced, and on its way to MariaDB")
}

async fn redis_stream(options: &Options, load: impl FnOnce(std::net::SocketAddr) -> Load) -> Run {
    let server = redis::start(false).await;
    let measured = measure::<Xadd>(load(server.address()), &[server.pid()], options).await;
    let (_, entries) = Redis::connect(server.address()).entries();
    assert_eq!(entries, measured.outcome.acks, "every ack is an entry, and nothing else is");
    Run::new(&measured, "synced; all of it in memory")
}

async fn jetstream(options: &Options, load: impl FnOnce(std::net::SocketAddr) -> Load) -> Run {
    let nats = Nats::start().await;
    let measured = measure::<Publish>(load(nats.server.address()), &[nats.server.pid()], options).await;
    assert_eq!(nats.length().await, measured.outcome.acks, "every ack is a message, and nothing else is");
    Run::new(&measured, nats.meaning)
}

async fn row_server(db: &MariaDb, options: &Options, load: impl FnOnce(std::net::SocketAddr) -> Load) -> Run {
    let server = RowServer::start(&db.url());
    let processes = [server.pid(), db.pid().expect("it runs")];
    let measured = measure::<WebSocket>(load(server.address()), &processes, options).await;
    let rows: u64 = db.row("SELECT COUNT(*) FROM reports").await;
    assert_eq!(rows, measured.outcome.acks, "every ack is a row, and every row was acknowledged");
    Run::new(&measured, "a row in MariaDB")
}

impl Run {
    fn new(measured: &Measured, meaning: &'static str) -> Self {
        let latencies = &measured.outcome.latencies;
        let acks = latencies.len() as f64;
        let (server, client) = (measured.used[0], measured.client);
        let mariadb = measured.used.get(1).copied().unwrap_or_default();
        let micros = |cpu: Duration| cpu.as_secs_f64() * 1e6 / acks;
        let all = server.cpu + mariadb.cpu + client.cpu;
        Self {
            acks_per_s: acks / measured.window.as_secs_f64(),
            p50_ms: f64::from(percentile(latencies, 50.0)) / 1000.0,
            p99_ms: f64::from(percentile(latencies, 99.0)) / 1000.0,
            server_us: micros(server.cpu),
            mariadb_us: micros(mariadb.cpu),
            client_share: client.cpu.as_secs_f64() / all.as_secs_f64().max(0.01),
            written_per_byte: server.written as f64 / (acks * MESSAGE_BYTES as f64),
            mariadb_written_per_byte: mariadb.written as f64 / (acks * MESSAGE_BYTES as f64),
            meaning,
        }
    }
}

fn print(options: &Options, results: &[Shape], syncs: &[SyncTimes]) {
    println!(
        "peers: {MESSAGE_BYTES}-byte reports over {} ids; medians of {} runs of {} s; CPU in µs",
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
        "client's share",
        "server's disk B/B",
        "MariaDB's",
        "what is acknowledged is",
    ]);
    for shape in results {
        for (system, runs) in &shape.systems {
            let of = |figure: fn(&Run) -> f64| median(runs.iter().map(figure));
            table.row([
                format!("{} × {}", shape.connections, shape.in_flight),
                system.name().to_owned(),
                thousands(of(|run| run.acks_per_s)),
                format!("{:.2}", of(|run| run.p50_ms)),
                format!("{:.2}", of(|run| run.p99_ms)),
                format!("{:.1}", of(|run| run.server_us)),
                format!("{:.1}", of(|run| run.mariadb_us)),
                format!("{:.0} %", of(|run| run.client_share) * 100.0),
                format!("{:.2}", of(|run| run.written_per_byte)),
                format!("{:.2}", of(|run| run.mariadb_written_per_byte)),
                runs.first().map_or("", |run| run.meaning).to_owned(),
            ]);
        }
    }
    table.print();
    println!();
    ratios(results);
    limit(results, syncs);
}

/// Each of Forebay's two to each of the others, pair by pair.
fn ratios(results: &[Shape]) {
    let mut table =
        Table::new(&["connections × in flight", "ratio, pair by pair", "acks/s", "p50", "server's CPU an ack"]);
    for shape in results {
        let (ours, others) = shape.systems.split_at(2);
        for (our, our_runs) in ours {
            for (other, other_runs) in others {
                let of = |figure: fn(&Run) -> f64| {
                    let pairs = our_runs.iter().zip(other_runs);
                    spread(&pairs.map(|(our, other)| figure(our) / figure(other)).collect::<Vec<_>>())
                };
                table.row([
                    format!("{} × {}", shape.connections, shape.in_flight),
                    format!("{} / {}", our.name(), other.name()),
                    of(|run| run.acks_per_s),
                    of(|run| run.p50_ms),
                    of(|run| run.server_us),
                ]);
            }
        }
    }
    table.print();
    println!();
}

/// The disk, and what stands above it with one client.
fn limit(results: &[Shape], syncs: &[SyncTimes]) {
    let of = |figure: fn(&SyncTimes) -> f64| median(syncs.iter().map(figure));
    let bare = of(|times| times.overwrite_p50_ms);
    println!(
        "bare 4 KiB pwrite + fdatasync: over written blocks p50 {bare:.2} ms, p99 {:.2} ms; \
         file grows p50 {:.2} ms, p99 {:.2} ms",
        of(|times| times.overwrite_p99_ms),
        of(|times| times.append_p50_ms),
        of(|times| times.append_p99_ms)
    );
    for shape in results.iter().filter(|shape| shape.connections == 1 && shape.in_flight == 1) {
        for (system, runs) in &shape.systems {
            let p50 = median(runs.iter().map(|run| run.p50_ms));
            println!("1 × 1: the p50 of {} is {:.2} times the bare overwrite's", system.name(), p50 / bare);
        }
    }
}
