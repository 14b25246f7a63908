//! A node in little memory: what it holds of ids has a limit, it refuses in time, and starts again in the same memory.

use serde_json::Value;

use crate::limits::DEAD;
use crate::support::cgroup::Group;
use crate::support::client::{Client, report};
use crate::support::node::Node;

const MEMORY: u64 = 512 << 20;
/// Ids in one request: so few that it is never in want of memory, see `server/budget.rs`.
const AT_ONCE: u64 = 128;

/// Reports of new ids until one is refused; how many were acknowledged, and the refusal.
pub async fn ids_until_refused(node: &Node, most: u64) -> (u64, Value) {
    let mut acknowledged = 0;
    while acknowledged < most {
        let messages: Vec<String> =
            (acknowledged..acknowledged + AT_ONCE).map(|n| report(&format!("an-id-of-its-own-{n}"), n, "1")).collect();
        let replies = node.post(format!("[{}]", messages.join(","))).await;
        let refused = replies.iter().find(|reply| reply["op"] == "error").cloned();
        acknowledged += replies.iter().filter(|reply| reply["op"] == "ack").count() as u64;
        if let Some(refused) = refused {
            return (acknowledged, refused);
        }
    }
    panic!("{most} ids were taken");
}

/// With the sink away every id that is new costs memory. The node was killed at 1.3 million, and at each start since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_without_end_are_refused_in_time_and_the_node_starts_again_in_the_same_memory() {
    let group = Group::with_memory(MEMORY);
    let mut node = Node::new().set("sink.url", DEAD);
    match &group {
        Some(group) => node.under(&group.wrapper().iter().map(String::as_str).collect::<Vec<_>>()),
        None => {
            println!("NOT IN A CONTROL GROUP: only the limit is tested");
            node.change("journal.max_ids", (MEMORY / 4 / 1024) as i64);
        }
    }
    let mut node = node.start().await;
    let before = node.memory();
    let limit = MEMORY / 4 / 1024;
    let (ids, refused) = ids_until_refused(&node, 2 * limit).await;
    let an_id = (node.memory() - before) * 1024 / ids;
    println!("{ids} ids, {an_id} bytes each, {} MiB in all", node.memory() / 1024);
    assert_eq!(ids, limit);
    assert_eq!((&refused["code"], &refused["error"]), (&507.into(), &"journal_full".into()), "{refused}");
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("journal.max_ids")), "{refused}");
    assert!(refused["retry_after_ms"].is_u64(), "{refused}");
    // Ids that are there go on.
    Client::connect(node.ingest()).await.report("an-id-of-its-own-7", 1_000_000_000, "2").await;
    node.kill();
    node.restart().await;
    let status = node.admin_json("/api/v1/status").await;
    assert_eq!((&status["ready"], &status["journal"]["streams"]), (&true.into(), &limit.into()), "{status}");
    let reply = Client::connect(node.ingest()).await.ask(report("another", 1, "1")).await;
    assert_eq!(reply["error"], "journal_full", "what was found at the start is not counted: {reply}");
    assert_eq!(group.as_ref().map_or(0, Group::kills), 0, "the kernel killed the node");
    node.kill();
}
