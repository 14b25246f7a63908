//! A backlog of many times the memory that the node has: it is taken, found again after kill -9, and drained.

use crate::limits::DEAD;
use crate::support::cgroup::Group;
use crate::support::client::report;
use crate::support::node::Node;
use crate::support::proof::rounds;

/// The node's memory, its pages of the system's cache among it.
const MEMORY: u64 = 96 << 20;
const IDS: u64 = 40;
/// Reports of a request, and the length of each: below the longest request.
const AT_ONCE: u64 = 16;
const BYTES: usize = 60_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_beyond_memory_is_taken_found_again_and_drained_in_little_memory() {
    let group = Group::with_memory(MEMORY);
    let mut node =
        Node::new().set("sink.url", DEAD).set("journal.recent_bytes", "4MiB").set("journal.cache_bytes", "1MiB");
    match &group {
        Some(group) => node.under(&group.wrapper().iter().map(String::as_str).collect::<Vec<_>>()),
        None => println!("NOT IN A CONTROL GROUP: only that nothing is lost is tested"),
    }
    let mut node = node.start().await;
    let data = format!("\"{}\"", "x".repeat(BYTES - 2));
    let requests = rounds(160, 2_000);
    for request in 0..requests {
        // An id has its reports all over the time.
        let reports =
            (0..AT_ONCE).map(|n| report(&format!("id-{}", (request + n) % IDS), request * AT_ONCE + n, &data));
        let replies = node.post(format!("[{}]", reports.collect::<Vec<_>>().join(","))).await;
        assert!(replies.iter().all(|reply| reply["op"] == "ack"), "{replies:?}");
    }
    let sent = requests * AT_ONCE;
    let runs = std::fs::read_dir(node.journal().join("runs")).expect("a folder").count();
    assert!(runs > 1, "nothing was sorted");
    node.kill();
    node.change("sink.url", format!("sqlite:{}", node.folder().join("reports.db").display()));
    node.restart().await;
    let audit = node.drained().await;
    assert_eq!(
        (&audit["recovered"], &audit["stored"], &audit["dead"]),
        (&sent.into(), &sent.into(), &0.into()),
        "{audit}"
    );
    let backlog = (sent * BYTES as u64) >> 20;
    println!("{backlog} MiB of backlog, {} MiB of memory at the most", node.peak_memory() / 1024);
    assert_eq!(group.as_ref().map_or(0, Group::kills), 0, "the kernel killed the node");
}
