//! When a batch leaves for the sink, and in which order. Ticks of an hour prove that something else was the reason.

use crate::support::client::Client;
use crate::support::node::Node;
use crate::support::servers::{Kind, Server, on_each_server};
use crate::support::wait::{eventually, same};

async fn rows_become(node: &Node, id: &str, wanted: usize) {
    let rows = eventually("the rows", async || same(node.stored().rows_of(id).await?.len(), wanted));
    rows.await;
}

on_each_server!(a_batch_leaves_at_its_tenth_report_without_the_tick);
async fn a_batch_leaves_at_its_tenth_report_without_the_tick(kind: Kind) {
    let server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).set("flush.tick", "1h").start().await;
    let mut client = Client::connect(node.ingest()).await;
    for seq in 0..9 {
        client.report("nine", seq, "1").await;
        client.report("ten", seq, "1").await;
    }
    assert_eq!(node.audit().await["backlog"], 18, "nothing leaves before the tenth");
    client.report("ten", 9, "1").await;
    rows_become(&node, "ten", 10).await;
    assert_eq!(node.stored().rows_of("nine").await.expect("a sink").len(), 0, "ids don't wait for each other");
    // Rows are seen a moment before they are counted.
    let nine =
        eventually("the nine to be what is left", async || same(node.audit().await["backlog"].as_u64(), Some(9)));
    nine.await;
    for row in node.stored().rows_of("ten").await.expect("a sink") {
        println!("accepted at {} as {}", row.accepted_at, row.seq);
    }
}

#[tokio::test]
async fn a_lone_report_leaves_with_the_tick() {
    let node = Node::new().set("flush.tick", "1s").start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("lone", 1, "1").await;
    rows_become(&node, "lone", 1).await;
}

#[tokio::test]
async fn a_marker_takes_what_is_before_it_along_at_once() {
    let node = Node::new().set("flush.tick", "1h").start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("marked", 1, "1").await;
    client.ask(r#"{"op":"done","id":"marked"}"#).await;
    rows_become(&node, "marked", 1).await;
    assert_eq!(client.reply().await["op"], "done");
    client.report("left", 1, "1").await;
    client.close().await;
    rows_become(&node, "left", 1).await;
}

on_each_server!(what_a_restart_finds_in_the_journal_leaves_too);
async fn what_a_restart_finds_in_the_journal_leaves_too(kind: Kind) {
    let server = Server::start(kind).await;
    let mut node = Node::new().set("sink.url", server.url()).set("flush.tick", "1h").start().await;
    let mut client = Client::connect(node.ingest()).await;
    for seq in 0..9 {
        client.report("kept", seq, "1").await;
    }
    node.kill();
    node.change("flush.tick", "500ms");
    node.restart().await;
    assert_eq!(node.audit().await["recovered"], 9);
    rows_become(&node, "kept", 9).await;
}

on_each_server!(the_order_within_an_id_is_the_order_of_acceptance);
async fn the_order_within_an_id_is_the_order_of_acceptance(kind: Kind) {
    let server = Server::start(kind).await;
    let node = Node::new().set("sink.url", server.url()).start().await;
    let mut clients = Vec::new();
    for c in 0..4 {
        let mut client = Client::connect(node.ingest()).await;
        clients.push(tokio::spawn(async move {
            for n in 0..300 {
                client.send(crate::support::client::report(&format!("order-{c}"), None, &n.to_string())).await;
            }
            for _ in 0..300 {
                assert_eq!(client.reply().await["code"], 200);
            }
            client
        }));
    }
    for client in clients {
        client.await.expect("a client does not panic").close().await;
    }
    node.drained().await;
    for c in 0..4 {
        let data = node.stored().data_of(&format!("order-{c}")).await.expect("a sink");
        let wanted: Vec<String> = (0..300).map(|n| n.to_string()).collect();
        assert_eq!(data, wanted, "by seq, which the node gave");
    }
}

#[tokio::test]
async fn one_id_that_waits_for_its_tick_holds_up_no_other() {
    let node = Node::new().set("flush.tick", "1h").start().await;
    let mut client = Client::connect(node.ingest()).await;
    client.report("waits", 1, "1").await;
    for id in 0..50 {
        for seq in 0..10 {
            client.report(&format!("busy-{id}"), seq, "1").await;
        }
    }
    let rest = eventually("the busy ids to drain", async || same(node.audit().await["backlog"].as_u64(), Some(1)));
    rest.await;
    assert_eq!(node.stored().rows().await.expect("a sink").len(), 500);
}
