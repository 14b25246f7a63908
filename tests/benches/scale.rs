//! How a node stands as it carries more: ids, connections, backlog. Each step is a line of JSON at the end of
//! `target/scale.jsonl`; the last line of each step is drawn into `target/scale-ids.svg`, `scale-connections.svg` and
//! `scale-backlog.svg`, so that a curve may be measured in several runs.

mod support;

use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::client::{Load, Protocol as _, WebSocket};
use support::database;
use support::disk;
use support::measure::measure;
use support::message::MESSAGE_BYTES;
use support::node::{DEAD_SINK, Node};
use support::options::{Known, Options};
use support::plot::{Panel, Spread, svg};
use support::process::{memory, settled_memory};
use support::progress;
use support::stats::{mib, percentile};

const OPTIONS: [Known; 8] = [
    ("ids", 1_000_000, "the most ids, one report each; 0: no such curve"),
    ("connections", 10_000, "the most connections; 0: no such curve"),
    ("backlog-mib", 10_240, "the most backlog, as MiB of messages over 1,000 ids; 0: no such curve"),
    ("from", 0, "leaves out the steps below this, in each curve"),
    ("steps", 2, "steps from a power of ten to the next: 1, 2 (1, 3, 10) or 3 (1, 2, 5, 10)"),
    ("drain-seconds", 60, "a drain is measured no longer than this"),
    ("seconds", 8, "measured time of a step of connections"),
    ("warm-up", 2, "seconds before it"),
];

/// The first step of each curve.
const FIRST: [(&str, u64); 3] = [("ids", 1000), ("connections", 10), ("backlog-mib", 100)];

const RESULTS: &str = "target/scale.jsonl";

/// Ids of a backlog.
const FEW_IDS: u64 = 1000;

fn main() {
    let options = Options::read(&OPTIONS);
    support::run(bench(options));
}

async fn bench(options: Options) {
    raise_open_files();
    for (curve, first) in FIRST {
        for step in steps(options.get("from"), first, options.get(curve), options.get("steps")) {
            progress(&format!("{curve}: {step}"));
            let figures = match curve {
                "ids" => filled(step, 1, &options).await,
                "connections" => connected(step, &options).await,
                _ => filled(FEW_IDS, (step << 20).div_ceil(MESSAGE_BYTES as u64 * FEW_IDS), &options).await,
            };
            record(&json!({ "curve": curve, "step": step, "figures": figures }));
        }
    }
    draw();
}

/// From `from` to `most`, which is a step itself, by the preferred numbers of the powers of ten from `first`.
fn steps(from: u64, first: u64, most: u64, to_next: u64) -> Vec<u64> {
    let factors: &[u64] = match to_next {
        1 => &[1],
        2 => &[1, 3],
        _ => &[1, 2, 5],
    };
    let powers = std::iter::successors(Some(first), |power| power.checked_mul(10)).take_while(|power| *power < most);
    let mut steps: Vec<u64> = powers.flat_map(|power| factors.iter().map(move |factor| power * factor)).collect();
    steps.push(most);
    steps.retain(|step| (from..=most).contains(step) && *step > 0);
    steps.dedup();
    steps
}

/// A backlog over so many ids: memory, disk, a start after SIGKILL, and the drain.
async fn filled(ids: u64, reports_per_id: u64, options: &Options) -> Value {
    let mut node = Node::new(DEAD_SINK);
    // Only reports are looked at, so no markers; and all are due when the sink is there.
    node.set("on_disconnect", "ignore");
    node.set("flush.tick", "100ms");
    node.set("shutdown.drain", "0s");
    node.set("journal.max_bytes", "1TiB");
    node.start().await;
    let load = Load {
        address: node.ingest(),
        connections: 64,
        in_flight: 64,
        ids: u32::try_from(ids).expect("below ten million"),
        rounds_before: 0,
        reports_per_id: Some(reports_per_id),
    };
    let start = Instant::now();
    let acks = load.complete().await.acks;
    let acks_per_s = acks as f64 / start.elapsed().as_secs_f64();
    let (filled, most) = (settled_memory(node.pid()).await, memory(node.pid(), "VmHWM"));
    let disk = disk::used(&node.journal());
    node.kill();
    let started = node.start().await;
    let status = node.status();
    let restart_s = started.at.elapsed().as_secs_f64();
    assert_eq!((&status["audit"]["recovered"], &status["journal"]["streams"]), (&acks.into(), &ids.into()), "{status}");
    let restarted = settled_memory(node.pid()).await;
    node.stop().await;
    let drain = drain(&mut node, acks, options).await;
    json!({
        "reports": acks, "acks_per_s": acks_per_s, "memory_mib": mib(filled), "most_memory_mib": mib(most),
        "disk_mib": mib(disk), "restart_s": restart_s, "restarted_memory_mib": mib(restarted), "drain": drain,
    })
}

/// Drains a stopped node's backlog into a new MariaDB, or what of it goes in the time.
async fn drain(node: &mut Node, reports: u64, options: &Options) -> Value {
    let db = database::start().await;
    database::renew(&db).await;
    node.set("sink.url", db.url());
    let started = node.start().await;
    let count = |audit: &Value, name: &str| audit[name].as_u64().expect("a count");
    let before = count(&node.audit(), "stored");
    let ready = started.at + started.ready;
    let mut audit = node.audit();
    while count(&audit, "backlog") > 0 && ready.elapsed() < Duration::from_secs(options.get("drain-seconds")) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        audit = node.audit();
    }
    let rows_per_s = (count(&audit, "stored") - before) as f64 / ready.elapsed().as_secs_f64();
    let most = memory(node.pid(), "VmHWM");
    let drained = count(&audit, "backlog") == 0;
    if drained {
        assert_eq!(count(&audit, "stored"), reports, "{audit}");
    }
    // What remains of ids that are drained and quiet.
    let left = if drained { Some(mib(settled_memory(node.pid()).await)) } else { None };
    node.kill();
    json!({ "rows_per_s": rows_per_s, "whole": drained, "most_memory_mib": mib(most), "memory_after_mib": left })
}

/// So many connections: memory while they are idle, then with one report in flight on each.
async fn connected(connections: u64, options: &Options) -> Value {
    let mut node = Node::new(DEAD_SINK);
    node.set("on_disconnect", "ignore");
    node.set("shutdown.drain", "0s");
    node.start().await;
    let empty = settled_memory(node.pid()).await;
    let mut idle = Vec::new();
    for _ in 0..connections {
        idle.push(WebSocket::connect(node.ingest()).await);
    }
    let with = settled_memory(node.pid()).await;
    drop(idle);
    while node.status()["connections"] != 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let connections = u32::try_from(connections).expect("below four billion");
    let load = Load {
        address: node.ingest(),
        connections,
        in_flight: 1,
        ids: connections.max(FEW_IDS as u32),
        rounds_before: 0,
        reports_per_id: None,
    };
    let measured = measure::<WebSocket>(load, &[node.pid()], options).await;
    let acks = measured.outcome.latencies.len() as f64;
    let ms = |percent| f64::from(percentile(&measured.outcome.latencies, percent)) / 1000.0;
    let most = memory(node.pid(), "VmHWM");
    node.kill();
    json!({
        "empty_memory_mib": mib(empty), "idle_memory_mib": mib(with), "most_memory_mib": mib(most),
        "acks_per_s": acks / measured.window.as_secs_f64(), "p50_ms": ms(50.0), "p99_ms": ms(99.0),
        "server_us": measured.used[0].cpu.as_secs_f64() * 1e6 / acks,
    })
}

/// Both ends of every connection are files: as many as the system lets this process and its children have.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("a soft limit may be raised to the hard one");
}

fn record(line: &Value) {
    println!("{line}");
    let file = std::fs::OpenOptions::new().create(true).append(true).open(RESULTS);
    writeln!(file.expect("target/ takes files"), "{line}").expect("the disk takes it");
}

/// Draws what is in the file; of steps that were measured more than once, the last.
fn draw() {
    let text = std::fs::read_to_string(RESULTS).unwrap_or_default();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("this wrote it")).collect();
    let points = |curve: &str, path: &str| -> Vec<(f64, f64)> {
        let of = lines.iter().filter(|line| line["curve"] == curve);
        let points = of.filter_map(|line| Some((line["step"].as_u64()?, line["figures"].pointer(path)?.as_f64()?)));
        let last: std::collections::BTreeMap<u64, f64> = points.collect();
        last.into_iter().map(|(step, figure)| (step as f64, figure)).collect()
    };
    let panel = |curve: &str, name: &'static str, path: &str| Panel { name, points: points(curve, path) };
    let backlog = |curve: &str| {
        vec![
            panel(curve, "resident memory with the backlog, MiB", "/memory_mib"),
            panel(curve, "journal on disk, MiB", "/disk_mib"),
            panel(curve, "filled at, acks/s", "/acks_per_s"),
            panel(curve, "restart after SIGKILL, s", "/restart_s"),
            panel(curve, "drained at, rows/s", "/drain/rows_per_s"),
        ]
    };
    let connected = vec![
        panel("connections", "resident memory with idle connections, MiB", "/idle_memory_mib"),
        panel("connections", "one report in flight on each, acks/s", "/acks_per_s"),
        panel("connections", "the same, p99, ms", "/p99_ms"),
        panel("connections", "the same, CPU of the node for an ack, µs", "/server_us"),
    ];
    for (name, title, x_name, panels) in [
        ("ids", "Ids with one report each", "ids", backlog("ids")),
        ("connections", "Connections", "connections", connected),
        ("backlog", "Backlog over 1,000 ids", "MiB of messages", backlog("backlog-mib")),
    ] {
        if panels.iter().all(|panel| panel.points.is_empty()) {
            continue;
        }
        let drawing = svg(title, x_name, Spread::Powers, &panels);
        std::fs::write(format!("target/scale-{name}.svg"), drawing).expect("target/ takes files");
    }
}
