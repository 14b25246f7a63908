//! What stays after the journal was turned over again and again: disk, memory and the time of a restart must level off.
//!
//! Ten thousand ids get ten reports each, over and over, and MariaDB takes them; the next round begins once the backlog
//! is below its limit, so that the load is what can go on for ever. Every tenth time the node is killed where it stands
//! and started again. At the end the rows are counted. Draws `target/soak.svg`.

mod support;

use std::time::{Duration, Instant};

use serde::Serialize;
use support::client::Load;
use support::database;
use support::disk;
use support::node::Node;
use support::options::{Known, Options};
use support::plot::{Panel, Spread, svg};
use support::process::memory;
use support::progress;
use support::stats::{mib, thousands};

const OPTIONS: [Known; 5] = [
    ("ids", 10_000, "ids"),
    ("turns", 110, "rounds of ten reports an id"),
    ("kill-every", 10, "rounds between two kills"),
    ("backlog", 50_000, "reports in the journal that a round waits for"),
    ("in-flight", 16, "reports of one of 64 connections that are not acknowledged yet"),
];

/// Reports of an id in one round: the default `flush.batch`.
const ROUND: u64 = 10;

/// Between two looks at the backlog.
const LOOK: Duration = Duration::from_millis(10);

/// How the node stood after a round.
#[derive(Debug, Clone, Copy, Serialize)]
struct Look {
    /// Reports acknowledged so far.
    acked: u64,
    acks_per_s: f64,
    backlog: u64,
    /// Bytes of entries in the journal, by its own count.
    journal_bytes: u64,
    /// Bytes that the journal's folder takes on disk.
    disk: u64,
    /// Resident memory, in bytes.
    memory: u64,
    /// From the start of the process to `/readyz`, where it was killed after this round.
    restart_s: Option<f64>,
    /// Reports that the restart found.
    recovered: Option<u64>,
}

fn main() {
    let options = Options::read(&OPTIONS);
    support::run(bench(options));
}

async fn bench(options: Options) {
    let mariadb = database::start().await;
    let mut node = Node::new(&mariadb.url());
    node.set("on_disconnect", "ignore");
    node.start().await;
    let ids = u32::try_from(options.get("ids")).expect("below four billion");
    let (mut acked, mut looks) = (0, Vec::new());
    for turn in 0..options.get("turns") {
        while figure(&node, "reports") > options.get("backlog") {
            tokio::time::sleep(LOOK).await;
        }
        let load = Load {
            address: node.ingest(),
            connections: 64,
            in_flight: options.get("in-flight") as usize,
            ids,
            rounds_before: turn * ROUND,
            reports_per_id: Some(ROUND),
        };
        let start = Instant::now();
        let acks = load.complete().await.acks;
        acked += acks;
        let mut look = Look {
            acked,
            acks_per_s: acks as f64 / start.elapsed().as_secs_f64(),
            backlog: figure(&node, "reports"),
            journal_bytes: figure(&node, "bytes"),
            disk: disk::used(&node.journal()),
            memory: memory(node.pid(), "VmRSS"),
            restart_s: None,
            recovered: None,
        };
        if (turn + 1) % options.get("kill-every") == 0 {
            node.kill();
            look.restart_s = Some(node.start().await.ready.as_secs_f64());
            look.recovered = node.audit()["recovered"].as_u64();
            progress(&format!("{look:?}"));
        }
        looks.push(look);
    }
    node.drained().await;
    let (rows, counted): (u64, u64) =
        mariadb.row("SELECT (SELECT COUNT(*) FROM reports), (SELECT SUM(reports) FROM report_streams)").await;
    print(ids, &looks, rows, counted);
    plot(&looks);
    if options.json {
        println!("{}", serde_json::json!({ "bench": "soak", "options": options.all(), "looks": looks, "rows": rows }));
    }
    assert_eq!((rows, counted), (acked, acked), "rows, and report_streams.reports, beside acks");
}

/// What the journal says of itself.
fn figure(node: &Node, name: &str) -> u64 {
    node.status()["journal"][name].as_u64().expect("a number")
}

fn print(ids: u32, looks: &[Look], rows: u64, counted: u64) {
    let kept: f64 = looks.iter().map(|look| look.backlog as f64).sum::<f64>() / looks.len() as f64;
    let last = looks.last().expect("at least one round");
    let kills = looks.iter().filter(|look| look.restart_s.is_some()).count();
    println!(
        "soak: {} reports over {} ids, {kills} SIGKILLs; {} reports in the journal on average: {:.0} turnovers",
        thousands(last.acked as f64),
        thousands(f64::from(ids)),
        thousands(kept),
        last.acked as f64 / kept.max(1.0),
    );
    println!("acknowledged {}, rows {rows}, counted in report_streams {counted}", last.acked);
    for (name, part) in [("first", &looks[..looks.len() / 4]), ("last", &looks[looks.len() * 3 / 4..])] {
        let most = |figure: fn(&Look) -> f64| part.iter().map(figure).fold(0.0, f64::max);
        println!(
            "{name} quarter, highest: {:.0} MiB of disk, {:.0} MiB of memory, restart {:.2} s",
            mib(most(|look| look.disk as f64) as u64),
            mib(most(|look| look.memory as f64) as u64),
            most(|look| look.restart_s.unwrap_or(0.0)),
        );
    }
}

fn plot(looks: &[Look]) {
    let points = |figure: fn(&Look) -> Option<f64>| {
        looks.iter().filter_map(|look| Some((look.acked as f64 / 1e6, figure(look)?))).collect()
    };
    let panels = [
        Panel { name: "journal on disk, MiB", points: points(|look| Some(mib(look.disk))) },
        Panel { name: "resident memory, MiB", points: points(|look| Some(mib(look.memory))) },
        Panel { name: "restart after SIGKILL, s", points: points(|look| look.restart_s) },
        Panel { name: "backlog, thousand reports", points: points(|look| Some(look.backlog as f64 / 1e3)) },
    ];
    let drawing =
        svg("10 reports each for 10,000 ids, over and over", "million reports acknowledged", Spread::Even, &panels);
    std::fs::write("target/soak.svg", drawing).expect("target/ takes files");
}
