//! Durable acknowledgements a second and their latency: Forebay, with MariaDB as its sink, beside a server that inserts
//! each message as a row before it acknowledges it, in turn, with the same client; and the disk's own limit.

mod support;

use std::time::{Duration, Instant};

use serde::Serialize;
use support::client::{Load, WebSocket};
use support::disk::{self, SyncTimes};
use support::mariadb::MariaDb;
use support::measure::{Figures, Measured, measure, shapes};
use support::message::MESSAGE_BYTES;
use support::node::Node;
use support::options::{Known, Options};
use support::process::Usage;
use support::row_server::{RowServer, serve_if_asked};
use support::stats::{Table, median, spread, thousands};
use support::{database, progress};

const OPTIONS: [Known; 6] = [
    ("seconds", 8, "measured time of each run"),
    ("warm-up", 1, "seconds before it"),
    ("repeats", 5, "runs of each system and shape"),
    ("ids", 1000, "ids, spread over the connections"),
    ("connections", 0, "with --in-flight: this shape alone"),
    ("in-flight", 0, "reports of a connection that are not acknowledged yet"),
];

/// One system, measured once.
#[derive(Debug, Clone, Copy, Serialize)]
struct Run {
    #[serde(flatten)]
    figures: Figures,
    /// CPU of server and MariaDB for a report, from the first one until the last is a row.
    to_row_us: f64,
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
    let whole = after[0].since(measured.before[0]).cpu + after[1].since(measured.before[1]).cpu;
    let to_row_us = whole.as_secs_f64() * 1e6 / measured.outcome.acks as f64;
    Run { figures: Figures::of(measured), to_row_us, backlog, drain_s, rows }
}

fn print(options: &Options, results: &[Pairs], syncs: &[SyncTimes]) {
    println!(
        "acks: {MESSAGE_BYTES}-byte reports over {} ids; medians of {} runs of {} s; CPU in µs",
        options.get("ids"),
        options.get("repeats"),
        options.get("seconds")
    );
    let titles = ["connections × in flight", "system"].into_iter().chain(Figures::TITLES);
    let mut table = Table::new(&titles.chain(["both to the row", "backlog at end"]).collect::<Vec<_>>());
    for pairs in results {
        for (system, runs) in [("forebay", &pairs.forebay), ("a row a message", &pairs.row_server)] {
            let row = [format!("{} × {}", pairs.connections, pairs.in_flight), system.to_owned()];
            let figures = Figures::cells(runs.iter().map(|run| run.figures));
            let of = |figure: fn(&Run) -> f64| median(runs.iter().map(figure));
            let rest = [format!("{:.1}", of(|run| run.to_row_us)), thousands(of(|run| run.backlog as f64))];
            table.row(row.into_iter().chain(figures).chain(rest));
        }
    }
    table.print();
    println!();
    for pairs in results {
        let both = || pairs.forebay.iter().zip(&pairs.row_server);
        let acks: Vec<f64> =
            both().map(|(forebay, rows)| forebay.figures.acks_per_s / rows.figures.acks_per_s).collect();
        let p50: Vec<f64> = both().map(|(forebay, rows)| forebay.figures.p50_ms / rows.figures.p50_ms).collect();
        let (connections, in_flight) = (pairs.connections, pairs.in_flight);
        let (acks, p50) = (spread(&acks), spread(&p50));
        println!("{connections} × {in_flight}: forebay / a row a message, pair by pair: acks/s {acks}, p50 {p50}");
    }
    let bare = disk::print(syncs);
    for pairs in results.iter().filter(|pairs| pairs.connections == 1 && pairs.in_flight == 1) {
        let p50 = median(pairs.forebay.iter().map(|run| run.figures.p50_ms));
        println!("1 × 1: forebay's p50 is {:.2} times the bare overwrite's", p50 / bare);
    }
}
