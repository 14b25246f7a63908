//! Clients that cost something and give nothing: each is bounded, and the others are served meanwhile. What it cost is
//! printed, not asserted: the memory, and the slowest answer to a good client.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::client::{Client, report};
use crate::support::node::Node;

/// Connections that say nothing; `FOREBAY_TEST_IDLE` sets another number (mind `ulimit -n`, of node and test).
fn idle() -> usize {
    std::env::var("FOREBAY_TEST_IDLE").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000)
}

/// The slowest of some answers to a client that does as it should.
async fn worst_answer(address: SocketAddr, id: &str) -> Duration {
    let mut client = Client::connect(address).await;
    let mut worst = Duration::ZERO;
    for seq in 0..200 {
        let sent = Instant::now();
        client.report(id, seq, "1").await;
        worst = worst.max(sent.elapsed());
    }
    worst
}

#[tokio::test]
async fn idle_connections_cost_little_and_hold_up_nobody() {
    let count = idle();
    let places = i64::try_from(count + 10).expect("a number of connections");
    let node = Node::new().set("ingest.max_connections", places).set("ingest.max_connections_per_address", places);
    let node = node.start().await;
    worst_answer(node.ingest(), "before").await;
    let before = node.memory();
    let mut idle = Vec::with_capacity(count);
    for _ in 0..count {
        idle.push(Client::connect(node.ingest()).await);
    }
    let worst = worst_answer(node.ingest(), "good").await;
    let cost = node.memory().saturating_sub(before);
    println!("{count} idle connections: {cost} KiB more memory, worst answer {worst:?}");
    let last = idle.last_mut().expect("there is one");
    last.report("woken", 1, "1").await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_bounded_and_sent_away() {
    let node = Node::new().set("ingest.idle_timeout", "2s").start().await;
    worst_answer(node.ingest(), "before").await;
    let before = node.memory();
    let mut deaf = Client::connect(node.ingest()).await;
    let asking = tokio::spawn(async move {
        let some: Vec<String> = (0..500).map(|seq| report("deaf", seq, "1")).collect();
        let message = format!("[{}]", some.join(","));
        let mut sent = 0_u64;
        // The node reads on only while its answers are taken, so this waits before long, and then it is cut off.
        while deaf.try_send(message.clone()).await.is_ok() {
            sent += message.len() as u64;
        }
        sent
    });
    let mut worst = Duration::ZERO;
    let mut peak = before;
    while !asking.is_finished() {
        worst = worst.max(worst_answer(node.ingest(), "good").await);
        peak = peak.max(node.memory());
    }
    let sent = asking.await.expect("it does not panic");
    println!("it sent {sent} bytes and read none: {} KiB more memory, worst answer {worst:?}", peak - before);
}
