//! Whole nodes that share a sink: one of them at a time writes as a `node_id`, and nothing of another is lost.

use serde_json::json;

use crate::support::http;
use crate::support::node::Node;
use crate::support::servers::{Kind, Server, on_each_server};
use crate::support::wait::eventually;

/// Sends so many reports without a number of their own, which the node numbers as itself; each is acknowledged.
async fn sends(node: &Node, id: &str, reports: u64) {
    let report = |n| json!({"op": "report", "id": id, "data": {"n": n}});
    let replies = node.post(json!((0..reports).map(report).collect::<Vec<_>>()).to_string()).await;
    assert!(replies.iter().all(|reply| reply["op"] == "ack"), "{replies:?}");
}

async fn is_blocked(node: &Node) -> String {
    let blocked = eventually("the node to be blocked", async || {
        let sink = node.admin_json("/api/v1/status").await["sink"].clone();
        if sink["state"] == "blocked" { Ok(sink["last_error"].to_string()) } else { Err(sink.to_string()) }
    });
    blocked.await
}

fn copy(from: &Node, to: &Node) {
    let [from, to] = [from.journal(), to.journal()];
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(copied.success());
}

/// 2,170 of 48,000 acknowledged reports vanished so as duplicates: 1 is the default of both.
async fn two_nodes_with_the_default_node_id_lose_nothing(kind: Kind) {
    let server = Server::start(kind).await;
    let first = Node::new().set("sink.url", server.url()).start().await;
    sends(&first, "a", 100).await;
    first.drained().await;
    let second = Node::new().set("sink.url", server.url()).start().await;
    sends(&second, "a", 100).await;
    let said = is_blocked(&second).await;
    for part in ["node_id 1 is held", "node_id of its own", "DELETE FROM report_nodes"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    sends(&first, "a", 100).await;
    first.drained().await;
    let mut second = second;
    assert!(second.terminate().await.success());
    second.change("node_id", 2);
    second.restart().await;
    second.drained().await;
    assert_eq!(second.stored().rows_of("a").await.expect("a sink").len(), 300);
    assert_eq!(second.audit().await["duplicates"], 0);
}
on_each_server!(two_nodes_with_the_default_node_id_lose_nothing);

async fn a_node_that_is_killed_and_started_again_is_not_blocked_by_its_own_claim(kind: Kind) {
    let server = Server::start(kind).await;
    let mut node = Node::new().set("sink.url", server.url()).start().await;
    for n in 1..=3 {
        sends(&node, "a", 10).await;
        node.kill();
        node.restart().await;
        node.drained().await;
        assert_eq!(node.stored().rows_of("a").await.expect("a sink").len(), n * 10);
    }
    assert!(!node.stderr().contains("blocked"), "{}", node.stderr());
}
on_each_server!(a_node_that_is_killed_and_started_again_is_not_blocked_by_its_own_claim);

/// The copy has the journal's name, and a later start of it, for all that a sink can know.
async fn a_copy_of_a_journal_that_is_started_beside_its_original_blocks_it_and_nothing_is_lost(kind: Kind) {
    let server = Server::start(kind).await;
    let mut original = Node::new().set("sink.url", server.url()).start().await;
    sends(&original, "a", 10).await;
    original.drained().await;
    original.kill();
    let copied = Node::new().set("sink.url", server.url());
    copy(&original, &copied);
    original.restart().await;
    sends(&original, "a", 10).await;
    original.drained().await;
    // Both have been started as often by now: the second is told by its random number.
    let copied = copied.start().await;
    sends(&copied, "b", 10).await;
    copied.drained().await;
    copied.said("by another process with a copy of this journal", 1).await;
    sends(&original, "c", 10).await;
    assert!(is_blocked(&original).await.contains("DELETE FROM report_nodes"));
    // The copy is taken out of the way; the original goes on where it stands.
    drop(copied);
    server.run(&["DELETE FROM report_nodes WHERE node_id = 1"]).await;
    original.drained().await;
    for (id, rows) in [("a", 20), ("b", 10), ("c", 10)] {
        assert_eq!(original.stored().rows_of(id).await.expect("a sink").len(), rows, "{id}");
    }
}
on_each_server!(a_copy_of_a_journal_that_is_started_beside_its_original_blocks_it_and_nothing_is_lost);

/// A server that no driver understands, one that breaks off and one that says nothing: the node goes on taking reports.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_sink_makes_the_driver_panic_goes_on_and_says_so() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    let serving = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        // A greeting; then a request for the whole password, encrypted by a scramble that has no byte.
        let greeting = b"\x4a\0\0\0\x0a8.4.0\0\x01\0\0\0abcdefgh\0\xff\xf7\x2d\x02\0\xff\x00\x15\0\0\0\0\0\0\0\0\0\0ijklmnopqrst\0mysql_native_password\0";
        let mut greeting = greeting.to_vec();
        greeting[0] = u8::try_from(greeting.len() - 4).expect("it is short");
        let switch = b"\x17\0\0\x02\xfecaching_sha2_password\0";
        while let Ok((mut client, _)) = listener.accept().await {
            let mut bytes = [0; 4096];
            for answer in [&greeting[..], switch, b"\x02\0\0\x04\x01\x04", b"\x07\0\0\x06\x01no key"] {
                if client.write_all(answer).await.is_err() || client.read(&mut bytes).await.unwrap_or(0) == 0 {
                    break;
                }
            }
        }
    });
    let mut node = Node::new().set("sink.url", format!("mysql://u:hunter2@127.0.0.1:{port}/d")).start().await;
    sends(&node, "a", 10).await;
    let said = is_blocked(&node).await;
    assert!(said.contains("the driver panicked"), "{said}");
    node.said("the sink is blocked", 1).await;
    sends(&node, "a", 10).await;
    assert_eq!(http::get(node.admin(), "/readyz").await.expect("an answer").status, 200);
    assert_eq!(node.audit().await["backlog"], 20);
    assert!(!node.stderr().contains("hunter2"));
    assert!(node.terminate().await.success());
    serving.abort();
}
