//! Rows a second from a backlog into MariaDB, beside the best plain multi-row `INSERT` of the same rows: the backlog is
//! filled while there is no sink, Forebay is stopped, and what is measured is its next start with the sink there.

mod support;

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use support::client::Load;
use support::database::{self, PLAIN, PLAIN_WAYS, Rows};
use support::mariadb::MariaDb;
use support::node::{DEAD_SINK, Node};
use support::options::{Known, Options};
use support::process::{Usage, memory};
use support::progress;
use support::stats::{Table, median, mib, spread, thousands};

const OPTIONS: [Known; 4] = [
    ("repeats", 5, "runs of each variant"),
    ("reports", 1_000_000, "backlog of the first variant"),
    ("ids", 1000, "its ids"),
    ("single-ids", 100_000, "ids of the second variant, one report each"),
];

/// How often the backlog is asked for: the error of a measured time.
const POLL: Duration = Duration::from_millis(20);

/// One drain of Forebay.
#[derive(Debug, Clone, Copy, Serialize)]
struct Drain {
    rows_per_s: f64,
    /// From the start of the process to `/readyz`.
    ready_s: f64,
    /// From there to an empty backlog.
    drain_s: f64,
    forebay_us_per_row: f64,
    mariadb_us_per_row: f64,
    /// The most memory that Forebay had.
    memory_mib: f64,
    /// How fast the backlog was filled.
    fill_per_s: f64,
}

/// One plain insert of all rows.
#[derive(Debug, Clone, Copy, Serialize)]
struct Plain {
    rows_per_statement: u64,
    connections: u32,
    rows_per_s: f64,
    client_us_per_row: f64,
    mariadb_us_per_row: f64,
}

/// All runs of one variant.
#[derive(Debug, Serialize)]
struct Variant {
    ids: u32,
    reports_per_id: u64,
    forebay: Vec<Drain>,
    /// The runs of each way, in the order of the repeats.
    plain: Vec<Vec<Plain>>,
}

fn main() {
    let options = Options::read(&OPTIONS);
    support::run(bench(options));
}

async fn bench(options: Options) {
    let ids = options.get("ids");
    let mut variants = Vec::new();
    for (ids, per_id) in [(ids, options.get("reports") / ids.max(1)), (options.get("single-ids"), 1)] {
        let rows = Rows { ids: ids as u32, per_id };
        if rows.count() > 0 {
            variants.push(variant(rows, options.get("repeats")).await);
        }
    }
    print(&variants, options.get("repeats"));
    if options.json {
        println!("{}", serde_json::json!({ "bench": "drain", "options": options.all(), "variants": variants }));
    }
}

async fn variant(rows: Rows, repeats: u64) -> Variant {
    let mut variant = Variant { ids: rows.ids, reports_per_id: rows.per_id, forebay: Vec::new(), plain: Vec::new() };
    for repeat in 1..=repeats {
        progress(&format!("{} ids × {} reports, run {repeat}", rows.ids, rows.per_id));
        let (mut node, fill_per_s) = backlog(rows).await;
        // A server of its own for each run: none inherits what another left it to purge and to write back.
        let db = database::start().await;
        database::renew(&db).await;
        let plain_first = repeat % 2 == 0;
        if plain_first {
            variant.plain.push(plain(&db, rows).await);
        }
        variant.forebay.push(drain(&mut node, &db, rows, fill_per_s).await);
        if !plain_first {
            variant.plain.push(plain(&db, rows).await);
        }
        let (drained, inserted) = (database::contents(&db, "reports").await, database::contents(&db, PLAIN).await);
        assert_eq!(drained, inserted, "both ways end in the same rows");
        assert_eq!(drained.0, rows.count(), "every report is a row");
    }
    variant
}

/// A stopped node with all reports in its journal, and the rate at which they came.
async fn backlog(rows: Rows) -> (Node, f64) {
    let mut node = Node::new(DEAD_SINK);
    // Only reports are compared, so no markers; and all are due when the sink is there.
    node.set("on_disconnect", "ignore");
    node.set("flush.tick", "100ms");
    node.set("shutdown.drain", "0s");
    node.start().await;
    let load = Load {
        address: node.ingest(),
        connections: 64,
        in_flight: 64,
        ids: rows.ids,
        rounds_before: 0,
        reports_per_id: Some(rows.per_id),
    };
    let start = std::time::Instant::now();
    let acks = load.complete().await.acks;
    let fill_per_s = acks as f64 / start.elapsed().as_secs_f64();
    assert_eq!(acks, rows.count());
    node.stop().await;
    (node, fill_per_s)
}

async fn drain(node: &mut Node, db: &MariaDb, rows: Rows, fill_per_s: f64) -> Drain {
    node.set("sink.url", db.url());
    let mariadb = db.pid().expect("it runs");
    let before = Usage::of(mariadb);
    let started = node.start().await;
    let backlog = |audit: &Value| audit["backlog"].as_u64().expect("a count");
    let first = backlog(&node.audit());
    let ready = started.at + started.ready;
    // By itself, so that the end is seen within one poll.
    while backlog(&node.audit()) > 0 {
        tokio::time::sleep(POLL).await;
    }
    let took = ready.elapsed();
    let used = [Usage::of(node.pid()).cpu, Usage::of(mariadb).since(before).cpu];
    let audit = node.drained().await;
    assert_eq!((&audit["recovered"], &audit["stored"]), (&rows.count().into(), &rows.count().into()), "{audit}");
    let memory_mib = mib(memory(node.pid(), "VmHWM"));
    node.stop().await;
    let micros = |cpu: Duration| cpu.as_secs_f64() * 1e6 / rows.count() as f64;
    Drain {
        // What was drained before it said that it is ready is not in this time.
        rows_per_s: first as f64 / took.as_secs_f64(),
        ready_s: started.ready.as_secs_f64(),
        drain_s: took.as_secs_f64(),
        forebay_us_per_row: micros(used[0]),
        mariadb_us_per_row: micros(used[1]),
        memory_mib,
        fill_per_s,
    }
}

/// Inserts the rows in each way.
async fn plain(db: &MariaDb, rows: Rows) -> Vec<Plain> {
    let mut runs = Vec::new();
    for (rows_per_statement, connections) in PLAIN_WAYS {
        let usage = || [Usage::of("self").cpu, Usage::of(db.pid().expect("it runs")).cpu];
        let before = usage();
        let took = database::insert_all(db, rows, rows_per_statement, connections).await;
        let after = usage();
        let micros = |process: usize| (after[process] - before[process]).as_secs_f64() * 1e6 / rows.count() as f64;
        runs.push(Plain {
            rows_per_statement,
            connections,
            rows_per_s: rows.count() as f64 / took.as_secs_f64(),
            client_us_per_row: micros(0),
            mariadb_us_per_row: micros(1),
        });
    }
    runs
}

fn print(variants: &[Variant], repeats: u64) {
    println!("drain: 300-byte reports from a backlog into MariaDB; medians of {repeats} runs; CPU in µs");
    let mut table = Table::new(&[
        "ids × reports",
        "way",
        "rows/s",
        "writer/row",
        "MariaDB/row",
        "start to ready s",
        "most memory MiB",
        "filled at acks/s",
    ]);
    for variant in variants {
        let name = format!("{} × {}", thousands(f64::from(variant.ids)), thousands(variant.reports_per_id as f64));
        let of = |figure: fn(&Drain) -> f64| median(variant.forebay.iter().map(figure));
        table.row([
            name.clone(),
            "forebay".to_owned(),
            thousands(of(|run| run.rows_per_s)),
            format!("{:.1}", of(|run| run.forebay_us_per_row)),
            format!("{:.1}", of(|run| run.mariadb_us_per_row)),
            format!("{:.2}", of(|run| run.ready_s)),
            format!("{:.0}", of(|run| run.memory_mib)),
            thousands(of(|run| run.fill_per_s)),
        ]);
        for (way, (rows_each, connections)) in PLAIN_WAYS.iter().enumerate() {
            let of = |figure: fn(&Plain) -> f64| median(variant.plain.iter().map(|runs| figure(&runs[way])));
            table.row([
                name.clone(),
                format!("INSERT of {rows_each}, {connections} connections"),
                thousands(of(|run| run.rows_per_s)),
                format!("{:.1}", of(|run| run.client_us_per_row)),
                format!("{:.1}", of(|run| run.mariadb_us_per_row)),
            ]);
        }
    }
    table.print();
    println!();
    for variant in variants {
        let best = |runs: &Vec<Plain>| runs.iter().map(|run| run.rows_per_s).fold(0.0, f64::max);
        let pairs = variant.forebay.iter().zip(&variant.plain);
        let ratios: Vec<f64> = pairs.map(|(forebay, plain)| forebay.rows_per_s / best(plain)).collect();
        let (ids, reports) = (variant.ids, variant.reports_per_id);
        println!("{ids} × {reports}: forebay / the best INSERT, pair by pair: {}", spread(&ratios));
    }
}
