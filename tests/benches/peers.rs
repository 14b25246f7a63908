//! Durable acknowledgements a second and their latency: Forebay, with and without a sink, beside what people would use
//! instead, in turn, with the same client; and the disk's own limit.

mod support;

use std::time::Duration;

use serde::Serialize;
use support::client::{Load, WebSocket};
use support::disk::{self, SyncTimes};
use support::mariadb::MariaDb;
use support::measure::{Figures, Measured, measure, shapes};
use support::message::MESSAGE_BYTES;
use support::nats::{self, Nats, Publish};
use support::node::{DEAD_SINK, Node};
use support::options::{Known, Options};
use support::redis::{self, Redis, Xadd};
use support::row_server::{RowServer, serve_if_asked};
use support::server::require;
use support::stats::{Table, median, spread};
use support::{database, progress};

const OPTIONS: [Known; 7] = [
    ("seconds", 6, "measured time of each run"),
    ("warm-up", 1, "seconds before it"),
    ("repeats", 5, "runs of each system and shape"),
    ("ids", 1000, "ids, spread over the connections"),
    ("connections", 0, "with --in-flight: this shape alone"),
    ("in-flight", 0, "reports of a connection that are not acknowledged yet"),
    ("only", 0, "one system alone, by its place in the table"),
];

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
    #[serde(flatten)]
    figures: Figures,
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
            order.retain(|system| [0, *system as u64 + 1].contains(&options.get("only")));
            for system in order {
                let (system, runs) = &mut shape.systems[system];
                progress(&format!("{connections} × {in_flight}, run {repeat}, {}", system.name()));
                // What the one before left to be written is not this one's.
                rustix::fs::sync();
                runs.push(run(*system, &db, &options, connections, in_flight).await);
            }
        }
        shape.systems.retain(|(_, runs)| !runs.is_empty());
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
        Self { figures: Figures::of(measured), meaning }
    }
}

fn print(options: &Options, results: &[Shape], syncs: &[SyncTimes]) {
    println!(
        "peers: {MESSAGE_BYTES}-byte reports over {} ids; medians of {} runs of {} s; CPU in µs",
        options.get("ids"),
        options.get("repeats"),
        options.get("seconds")
    );
    let titles = ["connections × in flight", "system"].into_iter().chain(Figures::TITLES);
    let mut table = Table::new(&titles.chain(["what is acknowledged is"]).collect::<Vec<_>>());
    for shape in results {
        for (system, runs) in &shape.systems {
            let row = [format!("{} × {}", shape.connections, shape.in_flight), system.name().to_owned()];
            let figures = Figures::cells(runs.iter().map(|run| run.figures));
            table.row(row.into_iter().chain(figures).chain(runs.first().map(|run| run.meaning.to_owned())));
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
        let is_ours = |(system, _): &&(System, _)| matches!(system, System::Forebay | System::ForebayDraining);
        for (our, our_runs) in shape.systems.iter().filter(is_ours) {
            for (other, other_runs) in shape.systems.iter().filter(|system| !is_ours(system)) {
                let of = |figure: fn(&Figures) -> f64| {
                    let pairs = our_runs.iter().zip(other_runs);
                    spread(&pairs.map(|(our, other)| figure(&our.figures) / figure(&other.figures)).collect::<Vec<_>>())
                };
                table.row([
                    format!("{} × {}", shape.connections, shape.in_flight),
                    format!("{} / {}", our.name(), other.name()),
                    of(|figures| figures.acks_per_s),
                    of(|figures| figures.p50_ms),
                    of(|figures| figures.server_us),
                ]);
            }
        }
    }
    table.print();
    println!();
}

/// The disk, and what stands above it with one client.
fn limit(results: &[Shape], syncs: &[SyncTimes]) {
    let bare = disk::print(syncs);
    for shape in results.iter().filter(|shape| shape.connections == 1 && shape.in_flight == 1) {
        for (system, runs) in &shape.systems {
            let p50 = median(runs.iter().map(|run| run.figures.p50_ms));
            println!("1 × 1: the p50 of {} is {:.2} times the bare overwrite's", system.name(), p50 / bare);
        }
    }
}
