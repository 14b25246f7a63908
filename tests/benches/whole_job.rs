//! The whole job, from a WebSocket to a row of MariaDB, as it can go on for ever: rows a second, and the CPU of a
//! report over all processes that carry it. Forebay, beside the usual build (a Node gateway, a Redis stream, a consumer
//! that inserts by 500), in turn, with the same client; and the best plain multi-row `INSERT` of such rows.

mod support;

use std::time::Duration;

use serde::Serialize;
use support::admin::Admin;
use support::client::{Load, Running};
use support::database::{self, PLAIN_WAYS, Rows};
use support::governor::{Governor, Standing};
use support::mariadb::MariaDb;
use support::message::MESSAGE_BYTES;
use support::node::Node;
use support::options::{Known, Options};
use support::process::Usage;
use support::progress;
use support::redis::Redis;
use support::server::require;
use support::stats::{Table, median, percentile, spread, thousands};
use support::usual::{PROGRAMS, Usual};

const OPTIONS: [Known; 9] = [
    ("seconds", 10, "measured time of each run"),
    ("warm-up", 3, "seconds before it"),
    ("repeats", 5, "runs of each system"),
    ("ids", 1000, "ids, spread over the connections"),
    ("connections", 64, "connections that report"),
    ("in-flight", 16, "reports of a connection that are not acknowledged yet"),
    ("backlog", 20_000, "reports between ack and row, over which the client waits"),
    ("consumers", 2, "consumers of the usual build, in one process"),
    ("rows", 500_000, "rows of each plain insert"),
];

/// How long the last reports may take to be rows.
const PATIENCE: Duration = Duration::from_secs(120);

/// One system, measured once.
#[derive(Debug, Clone, Serialize)]
struct Run {
    /// Reports that were both acknowledged and made rows while it was measured: the lesser of the two counts, so that
    /// neither a backlog that grows nor one that shrinks makes it look better.
    rows_per_s: f64,
    /// CPU of a report in each process, in the order of the system's names for them; MariaDB is the last.
    us_per_row: Vec<f64>,
    /// The same of the client.
    client_us_per_row: f64,
    /// Bytes that all of them wrote to disk for a byte of report.
    written_per_byte: f64,
    /// What the backlog grew by while it was measured, as a share of the rows; below 0 where it shrank.
    growth: f64,
    backlog: u64,
    ack_p50_ms: f64,
    ack_p99_ms: f64,
}

/// One plain insert.
#[derive(Debug, Clone, Copy, Serialize)]
struct Plain {
    rows_per_statement: u64,
    connections: u32,
    rows_per_s: f64,
    us_per_row: f64,
    client_us_per_row: f64,
}

#[derive(Debug, Default, Serialize)]
struct Results {
    forebay: Vec<Run>,
    usual: Vec<Run>,
    /// The best way of each repeat.
    insert: Vec<Plain>,
}

const FOREBAY: [&str; 2] = ["Forebay", "MariaDB"];
const USUAL: [&str; 4] = ["gateway", "Redis", "consumer", "MariaDB"];

fn main() {
    let options = Options::read(&OPTIONS);
    require(&PROGRAMS);
    support::run(bench(options));
}

async fn bench(options: Options) {
    let mut results = Results::default();
    for repeat in 1..=options.get("repeats") {
        // Which one is first alternates, so that a machine that warms up or tires favours neither.
        for forebay in [repeat % 2 == 1, repeat % 2 == 0] {
            // A server of its own for each run: none inherits what another left it to purge and to write back.
            let db = database::start().await;
            database::renew(&db).await;
            rustix::fs::sync();
            progress(&format!("run {repeat}, {}", if forebay { "Forebay" } else { "the usual build" }));
            if forebay {
                results.forebay.push(forebay_run(&db, &options).await);
            } else {
                results.usual.push(usual_run(&db, &options).await);
            }
        }
        progress(&format!("run {repeat}, plain insert"));
        results.insert.push(best_insert(&options).await);
    }
    print(&options, &results);
    if options.json {
        let json = serde_json::json!({
            "bench": "whole_job", "message_bytes": MESSAGE_BYTES, "options": options.all(), "results": results,
        });
        println!("{json}");
    }
}

fn load(options: &Options, address: std::net::SocketAddr) -> Load {
    Load {
        address,
        connections: options.get("connections") as u32,
        in_flight: options.get("in-flight") as usize,
        ids: options.get("ids") as u32,
        rounds_before: 0,
        reports_per_id: None,
    }
}

async fn forebay_run(db: &MariaDb, options: &Options) -> Run {
    let mut node = Node::new(&db.url());
    node.start().await;
    let mut admin = Admin::connect(node.admin());
    let look = move || {
        let audit = admin.get("/api/v1/audit");
        let count = |name: &str| audit[name].as_u64().expect("a count");
        Standing { rows: count("stored"), backlog: count("backlog") }
    };
    let running = load(options, node.ingest()).start().await;
    let run = measure(db, options, running, &[node.pid(), db.pid().expect("it runs")], look).await;
    node.stop().await;
    run
}

async fn usual_run(db: &MariaDb, options: &Options) -> Run {
    let usual = Usual::start(&db.url(), options.get("consumers")).await;
    let mut redis = Redis::connect(usual.redis());
    let look = move || {
        // What is deleted was committed before.
        let (added, left) = redis.entries();
        Standing { rows: added - left, backlog: left }
    };
    let [gateway, stream, consumer] = usual.pids();
    let processes = [gateway, stream, consumer, db.pid().expect("it runs")];
    let running = load(options, usual.address()).start().await;
    measure(db, options, running, &processes, look).await
}

/// Measures a load that has begun, stops it, and waits until every report that was acknowledged is a row.
async fn measure(
    db: &MariaDb,
    options: &Options,
    running: Running,
    processes: &[u32],
    look: impl FnMut() -> Standing + Send + 'static,
) -> Run {
    let usage = || processes.iter().map(Usage::of).collect::<Vec<_>>();
    let governor = Governor::start(&running, options.get("backlog"), look);
    tokio::time::sleep(Duration::from_secs(options.get("warm-up"))).await;
    let (start, first) = governor.look().await;
    let (client, at_start) = (Usage::of("self"), usage());
    running.measure();
    tokio::time::sleep(Duration::from_secs(options.get("seconds"))).await;
    running.measured();
    let (end, last) = governor.look().await;
    let (client, at_end) = (Usage::of("self").since(client), usage());
    let outcome = running.stop().await;
    let stopped = std::time::Instant::now();
    while governor.look().await.1.backlog > 0 {
        assert!(stopped.elapsed() < PATIENCE, "the backlog does not drain");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rows: u64 = db.row("SELECT COUNT(*) FROM reports").await;
    assert_eq!(rows, outcome.acks, "every ack is a row, and every row was acknowledged");

    let stored = (last.rows - first.rows) as f64;
    let grown = last.backlog as f64 - first.backlog as f64;
    let rows = stored.min(stored + grown);
    let micros = |usage: Usage| usage.cpu.as_secs_f64() * 1e6 / rows;
    let used: Vec<Usage> = at_end.iter().zip(at_start).map(|(end, start)| end.since(start)).collect();
    let written: u64 = used.iter().map(|usage| usage.written).sum();
    Run {
        rows_per_s: rows / (end - start).as_secs_f64(),
        us_per_row: used.into_iter().map(micros).collect(),
        client_us_per_row: micros(client),
        written_per_byte: written as f64 / (rows * MESSAGE_BYTES as f64),
        growth: grown / rows,
        backlog: last.backlog,
        ack_p50_ms: f64::from(percentile(&outcome.latencies, 50.0)) / 1000.0,
        ack_p99_ms: f64::from(percentile(&outcome.latencies, 99.0)) / 1000.0,
    }
}

/// The best of all ways to insert such rows.
async fn best_insert(options: &Options) -> Plain {
    let db = database::start().await;
    database::renew(&db).await;
    let ids = options.get("ids");
    let rows = Rows { ids: ids as u32, per_id: options.get("rows").div_ceil(ids) };
    let mut best: Option<Plain> = None;
    for (rows_per_statement, connections) in PLAIN_WAYS {
        let usage = || [Usage::of("self").cpu, Usage::of(db.pid().expect("it runs")).cpu];
        let before = usage();
        let took = database::insert_all(&db, rows, rows_per_statement, connections).await;
        let after = usage();
        let micros = |process: usize| (after[process] - before[process]).as_secs_f64() * 1e6 / rows.count() as f64;
        let plain = Plain {
            rows_per_statement,
            connections,
            rows_per_s: rows.count() as f64 / took.as_secs_f64(),
            us_per_row: micros(1),
            client_us_per_row: micros(0),
        };
        if best.is_none_or(|best| plain.rows_per_s > best.rows_per_s) {
            best = Some(plain);
        }
    }
    best.expect("there is more than one way")
}

fn print(options: &Options, results: &Results) {
    println!(
        "whole_job: {MESSAGE_BYTES}-byte reports over {} ids, {} × {}, backlog held at {}; medians of {} runs of {} s; \
         CPU in µs a report",
        options.get("ids"),
        options.get("connections"),
        options.get("in-flight"),
        thousands(options.get("backlog") as f64),
        options.get("repeats"),
        options.get("seconds")
    );
    let mut table = Table::new(&[
        "system",
        "rows/s",
        "CPU, all",
        "of it",
        "client's",
        "disk B/B",
        "backlog grew by",
        "ack p50 ms",
        "ack p99 ms",
    ]);
    for (system, names, runs) in
        [("Forebay", &FOREBAY[..], &results.forebay), ("the usual build", &USUAL[..], &results.usual)]
    {
        let of = |figure: fn(&Run) -> f64| median(runs.iter().map(figure));
        let parts: Vec<String> = (names.iter().enumerate())
            .map(|(n, name)| format!("{name} {:.1}", median(runs.iter().map(|run| run.us_per_row[n]))))
            .collect();
        table.row([
            system.to_owned(),
            thousands(of(|run| run.rows_per_s)),
            format!("{:.1}", of(all_us)),
            parts.join(", "),
            format!("{:.1}", of(|run| run.client_us_per_row)),
            format!("{:.1}", of(|run| run.written_per_byte)),
            format!("{:.1} %", of(|run| run.growth) * 100.0),
            format!("{:.1}", of(|run| run.ack_p50_ms)),
            format!("{:.1}", of(|run| run.ack_p99_ms)),
        ]);
    }
    let of = |figure: fn(&Plain) -> f64| median(results.insert.iter().map(figure));
    table.row([
        "best plain INSERT".to_owned(),
        thousands(of(|run| run.rows_per_s)),
        format!("{:.1}", of(|run| run.us_per_row)),
        format!("MariaDB {:.1}", of(|run| run.us_per_row)),
        format!("{:.1}", of(|run| run.client_us_per_row)),
    ]);
    table.print();
    println!();
    let pairs = || results.forebay.iter().zip(&results.usual);
    let rows: Vec<f64> = pairs().map(|(ours, usual)| ours.rows_per_s / usual.rows_per_s).collect();
    let cpu: Vec<f64> = pairs().map(|(ours, usual)| all_us(ours) / all_us(usual)).collect();
    println!("Forebay / the usual build, pair by pair: rows/s {}, CPU a report {}", spread(&rows), spread(&cpu));
    let inserts = results.forebay.iter().zip(&results.insert);
    let ratios: Vec<f64> = inserts.map(|(ours, insert)| ours.rows_per_s / insert.rows_per_s).collect();
    println!("Forebay / the best plain INSERT, pair by pair: rows/s {}", spread(&ratios));
}

/// CPU of a report over all processes but the client.
fn all_us(run: &Run) -> f64 {
    run.us_per_row.iter().sum()
}
