//! What a client that lists very many ids costs those that report: acks a second and their latency, with and without
//! it, in turn. The sink is down, so that the ids stay.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use support::admin::Admin;
use support::client::Load;
use support::node::{DEAD_SINK, Node};
use support::options::{Known, Options};
use support::process::Usage;
use support::progress;
use support::stats::{Table, median, percentile, thousands};

const OPTIONS: [Known; 7] = [
    ("seconds", 8, "measured time of each run"),
    ("warm-up", 1, "seconds before it"),
    ("repeats", 5, "runs with and without the list"),
    ("ids", 100_000, "ids with backlog"),
    ("limit", 100, "ids on a page"),
    ("connections", 64, "connections that report"),
    ("in-flight", 1, "reports of a connection that are not acknowledged yet"),
];

/// One run.
#[derive(Debug, Clone, Copy, Serialize)]
struct Run {
    acks_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// CPU of the node for an ack.
    server_us: f64,
    /// Pages that the client that lists got.
    pages: u64,
    /// Time for one of them.
    page_ms: f64,
}

fn main() {
    let options = Options::read(&OPTIONS);
    support::run(bench(options));
}

async fn bench(options: Options) {
    let ids = options.get("ids") as u32;
    let mut node = Node::new(DEAD_SINK);
    node.set("on_disconnect", "ignore");
    node.set("shutdown.drain", "0s");
    node.start().await;
    let load =
        Load { address: node.ingest(), connections: 64, in_flight: 64, ids, rounds_before: 0, reports_per_id: Some(1) };
    load.complete().await;
    let (mut with, mut without, mut rounds) = (Vec::new(), Vec::new(), 1);
    for repeat in 1..=options.get("repeats") {
        progress(&format!("{ids} ids, run {repeat}"));
        // Which one is first alternates, so that a backlog that grows favours neither.
        for listing in [repeat % 2 == 1, repeat % 2 == 0] {
            let run = run(&node, &options, listing, &mut rounds).await;
            if listing { &mut with } else { &mut without }.push(run);
        }
    }
    print(&options, &without, &with);
    if options.json {
        println!(
            "{}",
            serde_json::json!({ "bench": "listing", "options": options.all(), "without": without, "with": with })
        );
    }
}

async fn run(node: &Node, options: &Options, listing: bool, rounds: &mut u64) -> Run {
    let ids = options.get("ids") as u32;
    let over = Arc::new(AtomicBool::new(false));
    let (address, limit, until) = (node.admin(), options.get("limit"), Arc::clone(&over));
    let lister = std::thread::spawn(move || if listing { list(address, limit, ids, &until) } else { (0, 0.0) });
    let load = Load {
        address: node.ingest(),
        connections: options.get("connections") as u32,
        in_flight: options.get("in-flight") as usize,
        ids,
        rounds_before: *rounds,
        reports_per_id: None,
    };
    let running = load.start().await;
    tokio::time::sleep(Duration::from_secs(options.get("warm-up"))).await;
    let (start, before) = (Instant::now(), Usage::of(node.pid()));
    running.measure();
    tokio::time::sleep(Duration::from_secs(options.get("seconds"))).await;
    running.measured();
    let (window, used) = (start.elapsed(), Usage::of(node.pid()).since(before));
    let outcome = running.stop().await;
    over.store(true, Ordering::Relaxed);
    let (pages, page_ms) = lister.join().expect("the client that lists does not panic");
    *rounds += outcome.acks / u64::from(ids) + 2;
    let measured = outcome.latencies.len() as f64;
    Run {
        acks_per_s: measured / window.as_secs_f64(),
        p50_ms: f64::from(percentile(&outcome.latencies, 50.0)) / 1e3,
        p99_ms: f64::from(percentile(&outcome.latencies, 99.0)) / 1e3,
        server_us: used.cpu.as_secs_f64() * 1e6 / measured,
        pages,
        page_ms,
    }
}

/// Page after page, from the first again after the last, until it is over: how many, and the milliseconds of each.
fn list(address: std::net::SocketAddr, limit: u64, ids: u32, over: &AtomicBool) -> (u64, f64) {
    let (mut admin, mut pages, mut after) = (Admin::connect(address), 0, String::new());
    let start = Instant::now();
    while !over.load(Ordering::Relaxed) {
        let page = admin.get(&format!("/api/v1/streams?limit={limit}&after={after}"));
        assert_eq!(page["total"], ids, "all ids have backlog");
        after = page["next"].as_str().unwrap_or_default().to_owned();
        pages += 1;
    }
    (pages, start.elapsed().as_secs_f64() * 1e3 / pages.max(1) as f64)
}

fn print(options: &Options, without: &[Run], with: &[Run]) {
    println!(
        "listing: {} ids with backlog, {} × {} in flight, {} runs of {} s each; medians",
        thousands(options.get("ids") as f64),
        options.get("connections"),
        options.get("in-flight"),
        with.len(),
        options.get("seconds"),
    );
    let mut table = Table::new(&["", "acks/s", "p50", "p99", "CPU an ack", "pages/s", "a page"]);
    for (name, runs) in [("nobody lists", without), ("one client lists all the time", with)] {
        let of = |figure: fn(&Run) -> f64| median(runs.iter().map(figure));
        table.row([
            name.to_owned(),
            thousands(of(|run| run.acks_per_s)),
            format!("{:.2} ms", of(|run| run.p50_ms)),
            format!("{:.2} ms", of(|run| run.p99_ms)),
            format!("{:.1} µs", of(|run| run.server_us)),
            format!("{:.1}", of(|run| if run.page_ms > 0.0 { 1e3 / run.page_ms } else { 0.0 })),
            format!("{:.1} ms", of(|run| run.page_ms)),
        ]);
    }
    table.print();
}
