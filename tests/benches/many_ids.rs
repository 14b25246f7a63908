//! What ids with backlog cost: one report each, the sink down. Memory, disk, and the time to start again, after SIGKILL
//! and after SIGTERM; memory beside the same reports over a hundred ids, so that the cost of an id stands alone.

mod support;

use std::time::{Duration, Instant};

use serde::Serialize;
use support::client::Load;
use support::disk;
use support::message::MESSAGE_BYTES;
use support::node::{DEAD_SINK, Node};
use support::options::{Known, Options};
use support::process::{Usage, memory, settled_memory};
use support::progress;
use support::stats::{Table, median, mib, thousands};

const OPTIONS: [Known; 3] = [
    ("repeats", 3, "runs"),
    ("ids", 100_000, "ids, one report each"),
    ("cache-mib", 64, "memory for pages of the journal"),
];

/// Ids of the run beside: few enough that they cost nothing.
const FEW: u32 = 100;

/// One run.
#[derive(Debug, Clone, Copy, Serialize)]
struct Run {
    /// Resident memory of a node that has just started, in bytes.
    empty: u64,
    /// With the backlog, settled.
    filled: u64,
    /// What the same reports over [`FEW`] ids add, in bytes.
    few_ids: u64,
    /// The most while it was filled.
    most: u64,
    /// Bytes of memory that an id takes: what it adds over the run beside.
    per_id: f64,
    /// Bytes that an id adds in all, less those of its message.
    per_id_beyond_message: f64,
    /// What the journal's folder takes on disk, in bytes.
    disk: u64,
    fill_per_s: f64,
    killed: Restart,
    terminated: Restart,
}

/// A start with the backlog.
#[derive(Debug, Clone, Copy, Serialize)]
struct Restart {
    /// From the start of the process until it is ready and knows all ids.
    seconds: f64,
    cpu_s: f64,
    /// Resident memory, settled.
    memory: u64,
    /// From SIGTERM to the end of the process before it; 0 for SIGKILL.
    stop_s: f64,
}

fn main() {
    let options = Options::read(&OPTIONS);
    support::run(bench(options));
}

async fn bench(options: Options) {
    let ids = u32::try_from(options.get("ids")).expect("below ten million").max(FEW);
    let mut runs = Vec::new();
    for repeat in 1..=options.get("repeats") {
        progress(&format!("{ids} ids, run {repeat}"));
        runs.push(run(ids, options.get("cache-mib")).await);
    }
    print(ids, &runs);
    if options.json {
        println!("{}", serde_json::json!({ "bench": "many_ids", "options": options.all(), "runs": runs }));
    }
}

async fn run(ids: u32, cache_mib: u64) -> Run {
    let beside = Filled::new(FEW, u64::from(ids / FEW), cache_mib).await;
    let few_ids = beside.filled.saturating_sub(beside.empty);
    drop(beside);
    let mut many = Filled::new(ids, 1, cache_mib).await;
    let added = many.filled.saturating_sub(many.empty);
    let per_id = (added as f64 - few_ids as f64) / f64::from(ids - FEW).max(1.0);
    let disk = disk::used(&many.node.journal());
    let most = memory(many.node.pid(), "VmHWM");
    many.node.kill();
    let killed = restart(&mut many.node, ids, Duration::ZERO).await;
    let stopping = Instant::now();
    many.node.stop().await;
    let terminated = restart(&mut many.node, ids, stopping.elapsed()).await;
    Run {
        empty: many.empty,
        filled: many.filled,
        few_ids,
        most,
        per_id,
        per_id_beyond_message: added as f64 / f64::from(ids) - MESSAGE_BYTES as f64,
        disk,
        fill_per_s: many.fill_per_s,
        killed,
        terminated,
    }
}

/// A node with a backlog.
struct Filled {
    node: Node,
    empty: u64,
    filled: u64,
    fill_per_s: f64,
}

impl Filled {
    async fn new(ids: u32, reports_per_id: u64, cache_mib: u64) -> Self {
        let mut node = Node::new(DEAD_SINK);
        // Only reports are looked at, so no markers.
        node.set("on_disconnect", "ignore");
        node.set("shutdown.drain", "0s");
        node.set("journal.cache_bytes", format!("{cache_mib}MiB"));
        node.start().await;
        let empty = settled_memory(node.pid()).await;
        let load = Load {
            address: node.ingest(),
            connections: 64,
            in_flight: 64,
            ids,
            rounds_before: 0,
            reports_per_id: Some(reports_per_id),
        };
        let start = Instant::now();
        let acks = load.complete().await.acks;
        let fill_per_s = acks as f64 / start.elapsed().as_secs_f64();
        let filled = settled_memory(node.pid()).await;
        let status = node.status();
        assert_eq!(
            (&status["audit"]["backlog"], &status["journal"]["streams"]),
            (&acks.into(), &ids.into()),
            "{status}"
        );
        Self { node, empty, filled, fill_per_s }
    }
}

async fn restart(node: &mut Node, ids: u32, stop: Duration) -> Restart {
    let started = node.start().await;
    let status = node.status();
    let seconds = started.at.elapsed().as_secs_f64();
    let cpu_s = Usage::of(node.pid()).cpu.as_secs_f64();
    assert_eq!((&status["audit"]["recovered"], &status["journal"]["streams"]), (&ids.into(), &ids.into()), "{status}");
    Restart { seconds, cpu_s, memory: settled_memory(node.pid()).await, stop_s: stop.as_secs_f64() }
}

fn print(ids: u32, runs: &[Run]) {
    let of = |figure: fn(&Run) -> f64| median(runs.iter().map(figure));
    let size =
        |figure: fn(&Run) -> u64| format!("{:.1} MiB", mib(median(runs.iter().map(|run| figure(run) as f64)) as u64));
    println!(
        "many_ids: {} ids with one report of {MESSAGE_BYTES} bytes each, sink down; medians of {} runs",
        thousands(f64::from(ids)),
        runs.len()
    );
    let mut table = Table::new(&["measure", "figure"]);
    let mut row = |name: &str, figure: String| table.row([name.to_owned(), figure]);
    row("memory, empty", size(|run| run.empty));
    row("memory, with the backlog", size(|run| run.filled));
    row("most memory on the way", size(|run| run.most));
    row("added by the same reports over 100 ids", size(|run| run.few_ids));
    row("an id beyond that", format!("{:.0} B", of(|run| run.per_id)));
    row("an id in all, less its message", format!("{:.0} B", of(|run| run.per_id_beyond_message)));
    row("journal on disk", size(|run| run.disk));
    row("filled at", format!("{} acks/s", thousands(of(|run| run.fill_per_s))));
    row("SIGKILL: start to ready, all ids known", format!("{:.2} s", of(|run| run.killed.seconds)));
    row("SIGKILL: CPU of that", format!("{:.2} s", of(|run| run.killed.cpu_s)));
    row("SIGKILL: memory after it", size(|run| run.killed.memory));
    row("SIGTERM: until it has stopped", format!("{:.2} s", of(|run| run.terminated.stop_s)));
    row("SIGTERM: start to ready, all ids known", format!("{:.2} s", of(|run| run.terminated.seconds)));
    row("SIGTERM: CPU of that", format!("{:.2} s", of(|run| run.terminated.cpu_s)));
    row("SIGTERM: memory after it", size(|run| run.terminated.memory));
    table.print();
}
